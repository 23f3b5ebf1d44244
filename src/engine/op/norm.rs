//! Rows of unit length and layer norm.

use super::super::backend::cpu::norm as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_fixed, expect_rank,
    expect_same, groups, no_gradient, noise, ptx, read, write,
};
use crate::engine::tensor::DType;
use crate::error::{Error, Result};

/// Rows that are shorter than this count as zero: their unit row is 0 and so is their gradient.
pub const SHORTEST: f32 = 1e-6;

/// Rows that one part of the two-stage column sums covers.
const PART_ROWS: usize = 128;

/// `y = x / ‖x‖` row by row. Operand `x [R, D]`, R may be ragged. Outputs `y [R, D]` and, for the gradient,
/// `inv_norm [R]` = 1 / ‖x‖. A row shorter than [`SHORTEST`] gives a row of 0 and `inv_norm` 0.
#[derive(Clone, Debug)]
pub struct Unit;

pub static UNIT: Unit = Unit;

static UNIT_KERNEL: KernelDef = KernelDef {
    name: "unit",
    operands: &[read("x"), write("y"), write("inv_norm")],
    cpu: Some(cpu::unit),
    wgsl: Some(concat!(include_str!("../../../wgsl/unit.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::NORM),
};

/// Two passes over rows that stay in cache.
fn rowwise(flops_per_element: u64, ins: &[Meta], outs: &[Meta]) -> Cost {
    Cost { flops: flops_per_element * ins[0].elements(), ..Cost::traffic(ins, outs) }
}

impl Op for Unit {
    fn name(&self) -> &'static str {
        "unit"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        Ok(vec![Meta::f32(ins[0].dims())?, Meta::f32(&[ins[0].dim(0)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let (mut y, mut inv_norm) = (HostTensor::zeros(&[rows, cols]), HostTensor::zeros(&[rows]));
        for r in 0..rows {
            let x = &ins[0].x()[r * cols..][..cols];
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm >= f64::from(SHORTEST) {
                inv_norm.x_mut()[r] = 1.0 / norm;
                y.x_mut()[r * cols..][..cols].iter_mut().zip(x).for_each(|(y, x)| *y = x / norm);
            }
        }
        vec![y, inv_norm]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() {
            return no_gradient(self.name(), "inv_norm is kept for the gradient of y and has none of its own");
        }
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(UnitGrad, &[n.outs[0], n.outs[1], dy])?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        rowwise(3, ins, outs)
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNIT_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).size(cols).u32(!o.outs[1].is_absent() as usize);
        vec![Launch { kernel: &UNIT_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = (shapes().into_iter())
            .map(|(name, dims, class)| Sample::new(name, Unit).class(class).counts(counts()).normal(&dims, 5))
            .collect();
        // Finite differences would step across the edge at SHORTEST.
        let zero = Sample::new("zero row", Unit).gradient(Gradient::None("jumps where rows become zero rows"));
        samples.push(zero.with(DType::F32, &[Dim::Fixed(3), Dim::Fixed(5)], zero_row));
        samples
    }
}

/// Rows 0 and 2 of noise, row 1 of zeros.
fn zero_row(sizes: &[usize]) -> HostTensor {
    let mut x = noise(sizes, 5);
    let cols = sizes[1];
    x.x_mut()[cols..2 * cols].fill(0.0);
    x
}

fn counts() -> Counts {
    Counts::default().with(Axis(0), 7)
}

/// The shapes that break row-wise kernels.
fn shapes() -> [(&'static str, [Dim; 2], Class); 8] {
    let fixed = Dim::Fixed;
    [
        ("empty", [fixed(0), fixed(3)], Class::Tiny),
        ("one", [fixed(1), fixed(1)], Class::Tiny),
        ("prime", [fixed(13), fixed(37)], Class::Tiny),
        ("ragged", [Dim::Ragged(Axis(0), 11), fixed(19)], Class::Tiny),
        ("ragged to nothing", [Dim::Ragged(Axis(1), 5), fixed(4)], Class::Tiny),
        ("several parts", [fixed(2 * PART_ROWS + 3), fixed(5)], Class::Tiny),
        ("large", [fixed(1031), fixed(515)], Class::Full),
        ("24576x512", [fixed(24_576), fixed(512)], Class::Bench),
    ]
}

/// `dx = inv_norm · (dy − y ⟨y, dy⟩)`: the gradient of [`Unit`]. Operands `y [R, D]`, `inv_norm [R]`, `dy [R, D]`.
#[derive(Clone, Debug)]
pub struct UnitGrad;

pub static UNIT_GRAD: UnitGrad = UnitGrad;

static UNIT_GRAD_KERNEL: KernelDef = KernelDef {
    name: "unit_grad",
    operands: &[read("y"), read("inv_norm"), read("dy"), write("dx")],
    cpu: Some(cpu::unit_grad),
    wgsl: Some(concat!(include_str!("../../../wgsl/unit_grad.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::NORM),
};

impl Op for UnitGrad {
    fn name(&self) -> &'static str {
        "unit_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "rows and norms", ins[0].dim(0), ins[1].dim(0))?;
        if ins[0] != ins[2] {
            return Err(Error::shape(self.name(), format!("y is {} and dy is {}", ins[0], ins[2])));
        }
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut dx = HostTensor::zeros(&[rows, cols]);
        for r in 0..rows {
            let (y, dy) = (&ins[0].x()[r * cols..][..cols], &ins[2].x()[r * cols..][..cols]);
            let along: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
            for c in 0..cols {
                dx.x_mut()[r * cols + c] = ins[1].x()[r] * (dy[c] - y[c] * along);
            }
        }
        vec![dx]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        rowwise(5, ins, outs)
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(2, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNIT_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).size(cols);
        vec![Launch { kernel: &UNIT_GRAD_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (shapes().into_iter())
            .map(|(name, dims, class)| {
                let [y, inv_norm] = [0, 1].map(|out| {
                    let sizes = [dims[0].len(&counts()), dims[1].len(&counts())];
                    UNIT.reference(&[noise(&sizes, 5)], &counts()).swap_remove(out)
                });
                Sample::new(name, UnitGrad)
                    .class(class)
                    .counts(counts())
                    .gradient(Gradient::None("is itself a gradient"))
                    .with(DType::F32, &dims, |_| y)
                    .with(DType::F32, &dims[..1], |_| inv_norm)
                    .normal(&dims, 6)
            })
            .collect()
    }
}

/// `y = gain · (x − mean) · rstd + bias` with each row's own mean and `rstd = 1 / √(variance + eps)` (Ba et al. 2016).
///
/// Operands `x [R, D]`, `gain [D]`, `bias [D]`, R may be ragged. Outputs `y [R, D]` and, for the gradient,
/// `mean [R]`, `rstd [R]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    pub eps: f32,
}

pub static LAYER_NORM: LayerNorm = LayerNorm { eps: 1e-5 };

static LAYER_NORM_KERNEL: KernelDef = KernelDef {
    name: "layer_norm",
    operands: &[read("x"), read("gain"), read("bias"), write("y"), write("mean"), write("rstd")],
    cpu: Some(cpu::layer_norm),
    wgsl: Some(concat!(include_str!("../../../wgsl/layer_norm.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::NORM),
};

/// `(mean, rstd)` of a row.
fn moments(x: &[f64], eps: f32) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (variance + f64::from(eps)).sqrt())
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "columns and gain", ins[0].dim(1), ins[1].dim(0))?;
        expect_same(self.name(), "columns and bias", ins[0].dim(1), ins[2].dim(0))?;
        let row = Meta::f32(&[ins[0].dim(0)])?;
        Ok(vec![Meta::f32(ins[0].dims())?, row.clone(), row])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut outs = [&[rows, cols][..], &[rows], &[rows]].map(HostTensor::zeros);
        for r in 0..rows {
            let x = &ins[0].x()[r * cols..][..cols];
            let (mean, rstd) = moments(x, self.eps);
            for (c, x) in x.iter().enumerate() {
                outs[0].x_mut()[r * cols + c] = (x - mean) * rstd * ins[1].x()[c] + ins[2].x()[c];
            }
            outs[1].x_mut()[r] = mean;
            outs[2].x_mut()[r] = rstd;
        }
        outs.to_vec()
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() || dout[2].is_some() {
            return no_gradient(self.name(), "mean and rstd are kept for the gradient of y and have none of their own");
        }
        let Some(dy) = dout[0] else { return Ok(vec![None; 3]) };
        let dins = g.apply_all(LayerNormGrad, &[n.ins[0], n.ins[1], n.outs[1], n.outs[2], dy])?;
        Ok(dins.into_iter().map(Some).collect())
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        rowwise(8, ins, outs)
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&LAYER_NORM_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let wanted = [1, 2].map(|i| !o.outs[i].is_absent() as usize);
        let params = Params::new().size(rows).size(cols).f32(self.eps).u32(wanted[0]).u32(wanted[1]);
        vec![Launch { kernel: &LAYER_NORM_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = (shapes().into_iter())
            .map(|(name, dims, class)| {
                let sample = Sample::new(name, LAYER_NORM.clone()).class(class).counts(counts());
                sample.normal(&dims, 5).normal(&dims[1..], 6).normal(&dims[1..], 7)
            })
            .collect();
        // A variance of E[x²] − E[x]² in f32 has no correct digit here.
        let far = Sample::new("far from zero", LAYER_NORM.clone()).tolerance(2e-4);
        let dims = [Dim::Fixed(5), Dim::Fixed(29)];
        let far = far.with(DType::F32, &dims, |sizes| {
            let mut x = noise(sizes, 5);
            x.x_mut().iter_mut().for_each(|x| *x = f64::from((*x + 1000.0) as f32));
            x
        });
        samples.push(far.normal(&dims[1..], 6).normal(&dims[1..], 7));
        samples
    }
}

/// The gradient of [`LayerNorm`]. Operands `x [R, D]`, `gain [D]`, `mean [R]`, `rstd [R]`, `dy [R, D]`; outputs
/// `dx [R, D]`, `dgain [D]`, `dbias [D]`. The column sums run in two stages in a fixed order.
#[derive(Clone, Debug)]
pub struct LayerNormGrad;

pub static LAYER_NORM_GRAD: LayerNormGrad = LayerNormGrad;

static LAYER_NORM_DX_KERNEL: KernelDef = KernelDef {
    name: "layer_norm_dx",
    operands: &[read("x"), read("gain"), read("mean"), read("rstd"), read("dy"), write("dx")],
    cpu: Some(cpu::layer_norm_dx),
    wgsl: Some(concat!(include_str!("../../../wgsl/layer_norm_dx.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::NORM),
};

static LAYER_NORM_PARTS_KERNEL: KernelDef = KernelDef {
    name: "layer_norm_parts",
    operands: &[read("x"), read("mean"), read("rstd"), read("dy"), write("sums")],
    cpu: Some(cpu::layer_norm_parts),
    wgsl: Some(include_str!("../../../wgsl/layer_norm_parts.wgsl")),
    cuda: Some(&ptx::NORM),
};

static LAYER_NORM_SUM_KERNEL: KernelDef = KernelDef {
    name: "layer_norm_sum",
    operands: &[read("sums"), write("dgain"), write("dbias")],
    cpu: Some(cpu::layer_norm_sum),
    wgsl: Some(include_str!("../../../wgsl/layer_norm_sum.wgsl")),
    cuda: Some(&ptx::NORM),
};

impl LayerNormGrad {
    fn parts(x: &Meta) -> usize {
        x.dim(0).cap().div_ceil(PART_ROWS).max(1)
    }
}

impl Op for LayerNormGrad {
    fn name(&self) -> &'static str {
        "layer_norm_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1, 1, 2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "columns and gain", ins[0].dim(1), ins[1].dim(0))?;
        expect_same(self.name(), "rows and means", ins[0].dim(0), ins[2].dim(0))?;
        expect_same(self.name(), "rows and rstd", ins[0].dim(0), ins[3].dim(0))?;
        if ins[0] != ins[4] {
            return Err(Error::shape(self.name(), format!("x is {} and dy is {}", ins[0], ins[4])));
        }
        Ok(vec![ins[0].clone(), ins[1].clone(), ins[1].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut outs = [&[rows, cols][..], &[cols], &[cols]].map(HostTensor::zeros);
        for r in 0..rows {
            let (mean, rstd) = (ins[2].x()[r], ins[3].x()[r]);
            let centred: Vec<f64> = ins[0].x()[r * cols..][..cols].iter().map(|x| (x - mean) * rstd).collect();
            let dy = &ins[4].x()[r * cols..][..cols];
            let scaled: Vec<f64> = dy.iter().zip(ins[1].x()).map(|(dy, gain)| dy * gain).collect();
            let average = scaled.iter().sum::<f64>() / cols as f64;
            let along = scaled.iter().zip(&centred).map(|(s, c)| s * c).sum::<f64>() / cols as f64;
            for c in 0..cols {
                outs[0].x_mut()[r * cols + c] = rstd * (scaled[c] - average - centred[c] * along);
                outs[1].x_mut()[c] += dy[c] * centred[c];
                outs[2].x_mut()[c] += dy[c];
            }
        }
        outs.to_vec()
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        rowwise(14, ins, outs)
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(4, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&LAYER_NORM_PARTS_KERNEL, &LAYER_NORM_SUM_KERNEL, &LAYER_NORM_DX_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        (LayerNormGrad::parts(&ins[0]) * 2 * ins[0].dim(1).cap()) as u64 * 4
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let [x, gain, mean, rstd, dy] = [0, 1, 2, 3, 4].map(|i| o.input(i));
        let size = Params::new().size(rows).size(cols);
        let mut launches = vec![];
        // The sums come first: `dx` may take the place of `dy`.
        if !o.outs[1].is_absent() || !o.outs[2].is_absent() {
            let sums = Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) };
            let strips = groups(cols.cap() as u64, 64);
            launches.push(Launch {
                kernel: &LAYER_NORM_PARTS_KERNEL,
                params: size.clone().u32(PART_ROWS),
                groups: [strips[0], LayerNormGrad::parts(&o.ins[0]).min(65_535) as u32, 1],
                args: vec![x, mean, rstd, dy, sums],
            });
            let wanted = [1, 2].map(|i| !o.outs[i].is_absent() as usize);
            launches.push(Launch {
                kernel: &LAYER_NORM_SUM_KERNEL,
                params: size.clone().u32(PART_ROWS).u32(wanted[0]).u32(wanted[1]),
                groups: strips,
                args: vec![sums, o.output(1), o.output(2)],
            });
        }
        launches.push(Launch {
            kernel: &LAYER_NORM_DX_KERNEL,
            params: size,
            groups: groups(rows.cap() as u64, 1),
            args: vec![x, gain, mean, rstd, dy, o.output(0)],
        });
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        (shapes().into_iter())
            .map(|(name, dims, class)| {
                let sizes = [dims[0].len(&counts()), dims[1].len(&counts())];
                let x = noise(&sizes, 5);
                let rows = x.x().chunks(sizes[1]).map(|x| moments(x, 1e-5));
                let (mean, rstd): (Vec<f64>, Vec<f64>) = rows.unzip();
                Sample::new(name, LayerNormGrad)
                    .class(class)
                    .counts(counts())
                    .gradient(Gradient::None("is itself a gradient"))
                    .with(DType::F32, &dims, |_| x)
                    .normal(&dims[1..], 6)
                    .with(DType::F32, &dims[..1], |sizes| HostTensor::f64(sizes, mean))
                    .with(DType::F32, &dims[..1], |sizes| HostTensor::f64(sizes, rstd))
                    .normal(&dims, 8)
            })
            .collect()
    }
}
