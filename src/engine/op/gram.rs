//! Inner products between the slots of a row, and the loss that keeps them apart.

use super::super::backend::cpu::gram as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::reduce::MEAN_ALL_KERNEL;
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, expect_same, groups, no_gradient, noise, ptx, read, write,
};
use crate::error::{Error, Result};

/// `G[r, s, s'] = ⟨e[r, s], e[r, s']⟩`. Operand `e [R, k·D]`; output `[R, k·k]`, each row a matrix in row-major order.
/// R may be ragged.
#[derive(Clone, Debug)]
pub struct Gram {
    pub slots: usize,
}

pub static GRAM: Gram = Gram { slots: 4 };

static GRAM_KERNEL: KernelDef = KernelDef {
    name: "gram",
    operands: &[read("e"), write("y")],
    cpu: Some(cpu::gram),
    wgsl: Some(concat!(include_str!("../../../wgsl/gram.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::EXPERTS),
};

/// D of `[R, k·D]`.
fn columns(op: &str, e: &Meta, slots: usize) -> Result<usize> {
    let width = expect_fixed(op, "columns", e.dim(1))?;
    if slots > 0 && width.is_multiple_of(slots) {
        return Ok(width / slots);
    }
    Err(Error::shape(op, format!("{width} columns cannot be divided by {slots} slots")))
}

/// That `gram` holds a matrix of slots by slots in each row.
fn expect_gram(op: &str, gram: &Meta, slots: usize) -> Result<()> {
    let cols = expect_fixed(op, "columns of the Gram matrices", gram.dim(1))?;
    if slots > 0 && slots.checked_mul(slots) == Some(cols) {
        return Ok(());
    }
    Err(Error::shape(op, format!("Gram matrices of {slots} slots cannot be {gram}")))
}

impl Op for Gram {
    fn name(&self) -> &'static str {
        "gram"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        columns(self.name(), &ins[0], self.slots)?;
        let y = Meta::f32(&[ins[0].dim(0), Dim::Fixed(self.slots), Dim::Fixed(self.slots)])?;
        Ok(vec![Meta::f32(&[y.dim(0), Dim::Fixed(self.slots * self.slots)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (rows, k, cols) = (ins[0].dim(0), self.slots, ins[0].dim(1) / self.slots);
        let mut y = HostTensor::zeros(&[rows, k * k]);
        for r in 0..rows {
            let slot = |s: usize| &ins[0].x()[(r * k + s) * cols..][..cols];
            for (s, t) in (0..k * k).map(|i| (i / k, i % k)) {
                y.x_mut()[(r * k + s) * k + t] = slot(s).iter().zip(slot(t)).map(|(a, b)| a * b).sum();
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(GramGrad { slots: self.slots }, &[n.ins[0], dy])?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        // A pair and its mirror are one product.
        Cost { flops: ins[0].elements() * (self.slots as u64 + 1), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&GRAM_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let rows = o.ins[0].dim(0);
        let params = Params::new().size(rows).u32(o.ins[0].dim(1).cap() / self.slots).u32(self.slots);
        vec![Launch { kernel: &GRAM_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| case.sample(Gram { slots: case.slots }).normal(&case.dims(case.slots * case.cols), 3))
            .collect()
    }
}

/// `de[s] = Σ_s' (dG[s, s'] + dG[s', s])·e[s']`: the gradient of [`Gram`]. Operands `e [R, k·D]`, `dgram [R, k·k]`;
/// output `[R, k·D]`.
#[derive(Clone, Debug)]
pub struct GramGrad {
    pub slots: usize,
}

pub static GRAM_GRAD: GramGrad = GramGrad { slots: 4 };

static GRAM_GRAD_KERNEL: KernelDef = KernelDef {
    name: "gram_grad",
    operands: &[read("e"), read("dgram"), write("de")],
    cpu: Some(cpu::gram_grad),
    wgsl: Some(include_str!("../../../wgsl/gram_grad.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

impl Op for GramGrad {
    fn name(&self) -> &'static str {
        "gram_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2])?;
        (0..2).try_for_each(|i| expect_dtype(self.name(), ins, i, DType::F32))?;
        columns(self.name(), &ins[0], self.slots)?;
        expect_gram(self.name(), &ins[1], self.slots)?;
        expect_same(self.name(), "rows", ins[0].dim(0), ins[1].dim(0))?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (rows, k, cols) = (ins[0].dim(0), self.slots, ins[0].dim(1) / self.slots);
        let mut de = HostTensor::zeros(&ins[0].shape);
        for r in 0..rows {
            for (s, t) in (0..k * k).map(|i| (i / k, i % k)) {
                let by = ins[1].x()[(r * k + s) * k + t] + ins[1].x()[(r * k + t) * k + s];
                for c in 0..cols {
                    de.x_mut()[(r * k + s) * cols + c] += by * ins[0].x()[(r * k + t) * cols + c];
                }
            }
        }
        vec![de]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements() * self.slots as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&GRAM_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).u32(o.ins[0].dim(1).cap() / self.slots).u32(self.slots);
        let items = o.outs[0].elements();
        vec![Launch { kernel: &GRAM_GRAD_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(GramGrad { slots: case.slots });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                let sample = sample.normal(&case.dims(case.slots * case.cols), 3);
                sample.normal(&case.dims(case.slots * case.slots), 4)
            })
            .collect()
    }
}

/// Pairs of slots of which one is this short say nothing: the least product of two squared norms.
pub const SHORTEST: f32 = 1e-12;

/// The mean over rows and ordered pairs s ≠ s' of the squared cosine `G[s, s']² / (G[s, s]·G[s', s'])`. Operand `gram
/// [R, k·k]`; output `[1]`. A pair whose product of squared norms is at most 1e-12 counts 0; without pairs the loss is
/// 0. R may be ragged.
#[derive(Clone, Debug)]
pub struct Decorrelate {
    pub slots: usize,
}

pub static DECORRELATE: Decorrelate = Decorrelate { slots: 4 };

static DECORRELATE_PARTS_KERNEL: KernelDef = KernelDef {
    name: "decorrelate_parts",
    operands: &[read("gram"), write("sums")],
    cpu: Some(cpu::decorrelate_parts),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/decorrelate_parts.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::EXPERTS),
};

/// Rows that one workgroup adds up.
const PART_ROWS: usize = 256;

impl Decorrelate {
    fn parts(rows: Dim) -> usize {
        rows.cap().div_ceil(PART_ROWS).max(1)
    }
    /// Ordered pairs of a row.
    fn pairs(slots: usize) -> usize {
        slots * (slots - 1)
    }
}

impl Op for Decorrelate {
    fn name(&self) -> &'static str {
        "decorrelate"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_gram(self.name(), &ins[0], self.slots)?;
        Ok(vec![Meta::f32(&[Dim::Fixed(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (k, gram) = (self.slots, ins[0].x());
        let mut sum = 0.0;
        for g in gram.chunks(k * k) {
            for (s, t) in (0..k * k).map(|i| (i / k, i % k)).filter(|(s, t)| s != t) {
                let product = g[s * k + s] * g[t * k + t];
                if product > f64::from(SHORTEST) {
                    sum += g[s * k + t] * g[s * k + t] / product;
                }
            }
        }
        let pairs = ins[0].dim(0) * Decorrelate::pairs(k);
        vec![HostTensor::scalar(sum / pairs.max(1) as f64)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dloss) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(DecorrelateGrad { slots: self.slots }, &[n.ins[0], dloss])?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 4 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&DECORRELATE_PARTS_KERNEL, &MEAN_ALL_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        4 * Decorrelate::parts(ins[0].dim(0)) as u64
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let (rows, pairs) = (o.ins[0].dim(0), Decorrelate::pairs(self.slots));
        let sums = Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) };
        vec![
            Launch {
                kernel: &DECORRELATE_PARTS_KERNEL,
                params: Params::new().size(rows).u32(self.slots).u32(PART_ROWS),
                groups: groups(rows.cap() as u64, PART_ROWS as u64),
                args: vec![o.input(0), sums],
            },
            Launch {
                kernel: &MEAN_ALL_KERNEL,
                // One slot has no pair: nothing of nothing.
                params: Params::new().size_times(rows, pairs).u32((PART_ROWS * pairs).max(1)),
                groups: [1, 1, 1],
                args: vec![sums, o.output(0)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter()).map(|case| case.gram(case.sample(Decorrelate { slots: case.slots }))).collect()
    }
}

/// The gradient of [`Decorrelate`]. Operands `gram [R, k·k]`, `dloss [1]`; output `dgram [R, k·k]`.
#[derive(Clone, Debug)]
pub struct DecorrelateGrad {
    pub slots: usize,
}

pub static DECORRELATE_GRAD: DecorrelateGrad = DecorrelateGrad { slots: 4 };

static DECORRELATE_GRAD_KERNEL: KernelDef = KernelDef {
    name: "decorrelate_grad",
    operands: &[read("gram"), read("dloss"), write("dgram")],
    cpu: Some(cpu::decorrelate_grad),
    wgsl: Some(include_str!("../../../wgsl/decorrelate_grad.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

impl Op for DecorrelateGrad {
    fn name(&self) -> &'static str {
        "decorrelate_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        (0..2).try_for_each(|i| expect_dtype(self.name(), ins, i, DType::F32))?;
        expect_gram(self.name(), &ins[0], self.slots)?;
        expect_same(self.name(), "the loss and one number", ins[1].dim(0), Dim::Fixed(1))?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (rows, k) = (ins[0].dim(0), self.slots);
        let mut dgram = HostTensor::zeros(&ins[0].shape);
        let by = ins[1].x()[0] / (rows * Decorrelate::pairs(k)).max(1) as f64;
        for r in 0..rows {
            let g = &ins[0].x()[r * k * k..][..k * k];
            let d = &mut dgram.x_mut()[r * k * k..][..k * k];
            for (s, t) in (0..k * k).map(|i| (i / k, i % k)).filter(|(s, t)| s != t) {
                let (a, b, u) = (g[s * k + s], g[t * k + t], g[s * k + t]);
                if a * b > f64::from(SHORTEST) {
                    d[s * k + t] += by * 2.0 * u / (a * b);
                    d[s * k + s] -= by * u * u / (a * a * b);
                    d[t * k + t] -= by * u * u / (a * b * b);
                }
            }
        }
        vec![dgram]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 8 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&DECORRELATE_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).u32(self.slots);
        let items = o.outs[0].elements();
        vec![Launch { kernel: &DECORRELATE_GRAD_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(DecorrelateGrad { slots: case.slots });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                case.gram(sample).normal(&[Dim::Fixed(1)], 8)
            })
            .collect()
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    rows: Dim,
    slots: usize,
    cols: usize,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(Counts::default().with(Axis(0), 37))
    }
    fn dims(&self, cols: usize) -> [Dim; 2] {
        [self.rows, Dim::Fixed(cols)]
    }
    /// Gram matrices of noise; where there are many, one slot of the fourth row is nothing.
    fn gram(&self, sample: Sample) -> Sample {
        // Longer slots would only take longer to make.
        let (k, cols, counts) = (self.slots, self.cols.min(32), sample.counts);
        sample.with(DType::F32, &self.dims(k * k), |sizes| {
            let mut e = noise(&[sizes[0], k * cols], 3);
            e.x_mut().iter_mut().skip(3 * k * cols).take(cols).for_each(|x| *x = 0.0);
            let mut gram = Gram { slots: k }.reference(&[e], &counts).swap_remove(0);
            // What a device can hold.
            gram.x_mut().iter_mut().for_each(|x| *x = f64::from(*x as f32));
            gram
        })
    }
}

fn cases() -> [Case; 7] {
    let case = |name, rows, slots, cols, class| Case { name, rows, slots, cols, class };
    let fixed = Dim::Fixed;
    [
        case("nothing", fixed(0), 2, 3, Class::Tiny),
        case("one", fixed(1), 1, 1, Class::Tiny),
        case("prime", fixed(31), 3, 13, Class::Tiny),
        case("ragged", Dim::Ragged(Axis(0), 53), 4, 7, Class::Tiny),
        case("more rows than a part", fixed(301), 2, 37, Class::Tiny),
        case("large", fixed(1031), 16, 131, Class::Full),
        case("2048 rows, 4 x 512", fixed(2048), 4, 512, Class::Bench),
    ]
}
