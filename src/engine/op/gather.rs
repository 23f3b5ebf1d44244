//! Rows by index, or between two rows, and the sum of rows into the places an index names.

use super::super::backend::cpu::gather as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostData, HostTensor, Meta};
use super::pointwise::{Binary, BinaryKind, RowDot};
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, expect_same, groups, no_gradient, ptx, read, read_u32, write,
};
use crate::error::Result;

/// `y[m] = x[index[m]]`. Operands `x [R, D]`, `index` u32 `[M]`; output `[M, D]`. R and M may be ragged. An index at or
/// beyond the rows there are gives a row of 0.
#[derive(Clone, Debug)]
pub struct Gather;

pub static GATHER: Gather = Gather;

static GATHER_KERNEL: KernelDef = KernelDef {
    name: "gather",
    operands: &[read("x"), read_u32("index"), write("y")],
    cpu: Some(cpu::gather),
    wgsl: Some(include_str!("../../../wgsl/gather.wgsl")),
    cuda: Some(&ptx::GATHER),
};

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_dtype(self.name(), ins, 1, DType::U32)?;
        Ok(vec![Meta::f32(&[ins[1].dim(0), ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (cols, m) = (ins[0].dim(1), ins[1].dim(0));
        let mut y = HostTensor::zeros(&[m, cols]);
        for (i, r) in ins[1].u().iter().enumerate().filter(|(_, r)| (**r as usize) < ins[0].dim(0)) {
            let row = &ins[0].x()[*r as usize * cols..][..cols];
            y.x_mut()[i * cols..][..cols].copy_from_slice(row);
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        let rows = g.meta(n.ins[0]).dim(0);
        Ok(vec![Some(g.apply(ScatterAdd { rows }, &[dy, n.ins[1]])?), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        // Only the rows that are named are read.
        Cost { flops: 0, bytes_in: outs[0].bytes() + ins[1].bytes(), bytes_out: outs[0].bytes() }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&GATHER_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).size(o.ins[1].dim(0)).u32(o.ins[0].dim(1).cap());
        let items = o.outs[0].elements();
        vec![Launch { kernel: &GATHER_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| case.index(case.sample(Gather).normal(&[case.rows, Dim::Fixed(case.cols)], 3)))
            .collect()
    }
}

/// `x[r] = Σ dy[m] over index[m] = r`, in the order of m: the gradient of [`Gather`]. Operands `dy [M, D]`, `index` u32
/// `[M]`; output `[rows, D]`. An index at or beyond the rows there are is passed over.
#[derive(Clone, Debug)]
pub struct ScatterAdd {
    pub rows: Dim,
}

pub static SCATTER_ADD: ScatterAdd = ScatterAdd { rows: Dim::Fixed(1) };

static SCATTER_ADD_KERNEL: KernelDef = KernelDef {
    name: "scatter_add",
    operands: &[read("dy"), read_u32("index"), write("x")],
    cpu: Some(cpu::scatter_add),
    wgsl: Some(include_str!("../../../wgsl/scatter_add.wgsl")),
    cuda: Some(&ptx::GATHER),
};

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_dtype(self.name(), ins, 1, DType::U32)?;
        expect_same(self.name(), "rows and index", ins[0].dim(0), ins[1].dim(0))?;
        Ok(vec![Meta::f32(&[self.rows, ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let (cols, rows) = (ins[0].dim(1), self.rows.len(counts));
        let mut x = HostTensor::zeros(&[rows, cols]);
        for (i, r) in ins[1].u().iter().enumerate().filter(|(_, r)| (**r as usize) < rows) {
            for c in 0..cols {
                x.x_mut()[*r as usize * cols + c] += ins[0].x()[i * cols + c];
            }
        }
        vec![x]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dx) = dout[0] else { return Ok(vec![None, None]) };
        Ok(vec![Some(g.apply(Gather, &[dx, n.ins[1]])?), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SCATTER_ADD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let cols = o.ins[0].dim(1).cap();
        let params = Params::new().size(self.rows).size(o.ins[1].dim(0)).u32(cols);
        let [strips, blocks] = [groups(cols as u64, 64)[0], groups(self.rows.cap() as u64, 32)[0]];
        vec![Launch { kernel: &SCATTER_ADD_KERNEL, params, groups: [strips, blocks, 1], args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(ScatterAdd { rows: case.rows });
                case.index(sample.normal(&[case.m, Dim::Fixed(case.cols)], 3))
            })
            .collect()
    }
}

/// `y[m] = (1 − w[m]) x[first[m]] + w[m] x[second[m]]`: rows between two others, as at a time between two frames.
///
/// Operands x `[R, D]`, first u32 `[M]`, second u32 `[M]`, weight `[M]`; output `[M, D]`. R and M may be ragged. An
/// index at or beyond the rows there are stands for a row of 0.
#[derive(Clone, Debug)]
pub struct GatherLerp;

pub static GATHER_LERP: GatherLerp = GatherLerp;

static GATHER_LERP_KERNEL: KernelDef = KernelDef {
    name: "gather_lerp",
    operands: &[read("x"), read_u32("first"), read_u32("second"), read("weight"), write("y")],
    cpu: Some(cpu::gather_lerp),
    wgsl: Some(include_str!("../../../wgsl/gather_lerp.wgsl")),
    cuda: Some(&ptx::GATHER),
};

/// The two rows of m with their weights.
fn ends(ins: &[HostTensor], m: usize) -> [(usize, f64); 2] {
    let w = ins[3].x()[m];
    [(ins[1].u()[m] as usize, 1.0 - w), (ins[2].u()[m] as usize, w)]
}

impl Op for GatherLerp {
    fn name(&self) -> &'static str {
        "gather_lerp"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_lerp(self.name(), ins)?;
        Ok(vec![Meta::f32(&[ins[1].dim(0), ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols, length] = [ins[0].dim(0), ins[0].dim(1), ins[1].dim(0)];
        let mut y = HostTensor::zeros(&[length, cols]);
        for m in 0..length {
            for (row, w) in ends(ins, m).into_iter().filter(|(row, _)| *row < rows) {
                for c in 0..cols {
                    y.x_mut()[m * cols + c] += w * ins[0].x()[row * cols + c];
                }
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None; 4]) };
        let [x, first, second, weight] = [0, 1, 2, 3].map(|i| n.ins[i]);
        let rows = g.meta(x).dim(0);
        let dx = g.apply(ScatterLerp { rows }, &[dy, first, second, weight])?;
        let [from, to] = [g.apply(Gather, &[x, first])?, g.apply(Gather, &[x, second])?];
        let way = g.apply(Binary { kind: BinaryKind::Sub }, &[to, from])?;
        Ok(vec![Some(dx), None, None, Some(g.apply(RowDot, &[dy, way])?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        // Only the rows that are named are read.
        let named = 2 * outs[0].bytes() + 3 * ins[1].bytes();
        Cost { flops: 3 * outs[0].elements(), bytes_in: named, bytes_out: outs[0].bytes() }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&GATHER_LERP_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).size(o.ins[1].dim(0)).u32(o.ins[0].dim(1).cap());
        let items = o.outs[0].elements();
        vec![Launch { kernel: &GATHER_LERP_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let between = |case: &Case| case.lerp(case.sample(GatherLerp).normal(&[case.rows, Dim::Fixed(case.cols)], 3));
        cases().iter().map(between).collect()
    }
}

/// `x[r] = Σ (1 − w[m]) dy[m] over first[m] = r + Σ w[m] dy[m] over second[m] = r`, in the order of m, first before
/// second: the gradient of [`GatherLerp`]. Operands dy `[M, D]`, first u32 `[M]`, second u32 `[M]`, weight `[M]`; output
/// `[rows, D]`. An index at or beyond the rows there are is passed over.
#[derive(Clone, Debug)]
pub struct ScatterLerp {
    pub rows: Dim,
}

pub static SCATTER_LERP: ScatterLerp = ScatterLerp { rows: Dim::Fixed(1) };

static SCATTER_LERP_KERNEL: KernelDef = KernelDef {
    name: "scatter_lerp",
    operands: &[read("dy"), read_u32("first"), read_u32("second"), read("weight"), write("x")],
    cpu: Some(cpu::scatter_lerp),
    wgsl: Some(include_str!("../../../wgsl/scatter_lerp.wgsl")),
    cuda: Some(&ptx::GATHER),
};

fn expect_lerp(op: &str, ins: &[Meta]) -> Result<()> {
    expect_rank(op, ins, &[2, 1, 1, 1])?;
    expect_fixed(op, "columns", ins[0].dim(1))?;
    expect_dtype(op, ins, 0, DType::F32)?;
    expect_dtype(op, ins, 1, DType::U32)?;
    expect_dtype(op, ins, 2, DType::U32)?;
    expect_dtype(op, ins, 3, DType::F32)?;
    expect_same(op, "first and second", ins[1].dim(0), ins[2].dim(0))?;
    expect_same(op, "index and weight", ins[1].dim(0), ins[3].dim(0))
}

impl Op for ScatterLerp {
    fn name(&self) -> &'static str {
        "scatter_lerp"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_lerp(self.name(), ins)?;
        expect_same(self.name(), "rows and index", ins[0].dim(0), ins[1].dim(0))?;
        Ok(vec![Meta::f32(&[self.rows, ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let (cols, rows) = (ins[0].dim(1), self.rows.len(counts));
        let mut x = HostTensor::zeros(&[rows, cols]);
        for m in 0..ins[1].dim(0) {
            for (row, w) in ends(ins, m).into_iter().filter(|(row, _)| *row < rows) {
                for c in 0..cols {
                    x.x_mut()[row * cols + c] += w * ins[0].x()[m * cols + c];
                }
            }
        }
        vec![x]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 4 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SCATTER_LERP_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let cols = o.ins[0].dim(1).cap();
        let params = Params::new().size(self.rows).size(o.ins[1].dim(0)).u32(cols);
        let [strips, blocks] = [groups(cols as u64, 64)[0], groups(self.rows.cap() as u64, 32)[0]];
        vec![Launch { kernel: &SCATTER_LERP_KERNEL, params, groups: [strips, blocks, 1], args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().iter())
            .map(|case| {
                let sample = case.sample(ScatterLerp { rows: case.rows });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                case.lerp(sample.normal(&[case.m, Dim::Fixed(case.cols)], 3))
            })
            .collect()
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    rows: Dim,
    m: Dim,
    cols: usize,
    counts: Counts,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(self.counts)
    }
    /// Every row several times, none, and some that do not exist.
    fn index(&self, sample: Sample) -> Sample {
        self.index_of(sample, 9, 7)
    }
    /// Two indices, of which every eleventh pair is one row, and weights within and beyond 0 to 1.
    fn lerp(&self, sample: Sample) -> Sample {
        let mut sample = self.index_of(self.index_of(sample, 9, 7), 10, 8).normal(&[self.m], 11);
        let first = sample.ins[1].u().to_vec();
        if let HostData::U32(second) = &mut sample.ins[2].data {
            second.iter_mut().zip(first).step_by(11).for_each(|(s, f)| *s = f);
        }
        sample
    }
    /// Of every `period` indices, numbers 5 and 6 do not exist.
    fn index_of(&self, sample: Sample, seed: u64, period: usize) -> Sample {
        let rows = self.rows.len(&self.counts);
        sample.with(DType::U32, &[self.m], |sizes| {
            let random = crate::random::Random::new(seed, rows as u64);
            let draw = |i: usize| match i % period {
                6 => u32::MAX,
                5 => rows as u32,
                _ => random.below(i as u64, rows.max(1) as u64) as u32,
            };
            HostTensor::u32(sizes, (0..sizes[0]).map(draw).collect())
        })
    }
}

fn cases() -> [Case; 8] {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(0), 9).with(Axis(1), 23);
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, rows, m, cols, class| Case { name, rows, m, cols, counts, class };
    [
        case("nothing asked", fixed(3), fixed(0), 2, Class::Tiny),
        case("nothing there", fixed(0), fixed(3), 2, Class::Tiny),
        case("one", fixed(1), fixed(1), 1, Class::Tiny),
        case("prime", fixed(13), fixed(37), 11, Class::Tiny),
        case("ragged", ragged(0, 17), ragged(1, 41), 5, Class::Tiny),
        case("more rows than a block", fixed(67), fixed(131), 70, Class::Tiny),
        case("large", fixed(1031), fixed(2503), 130, Class::Full),
        case("1536 of 2048 rows", fixed(2048), fixed(1536), 512, Class::Bench),
    ]
}
