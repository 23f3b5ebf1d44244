//! Packed rows: sums, means and last rows of segments, and the soft-max within each.
//!
//! Segments are u32 `[N, 2]` (begin, end), monotone: none begins before the one before it has ended. The last `tail`
//! rows of a segment do not take part: with `tail` 1 a sentence's row behind its words is left out.

use super::super::backend::cpu::segment as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, expect_same, groups, no_gradient, noise, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// Log-weight of a row that does not take part; see the rules in ARCHITECTURE.md.
pub const FLOOR: f32 = -1e30;

/// What becomes of a segment's rows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    Sum,
    /// The sum divided by the number of rows that take part.
    Mean,
    /// The segment's very last row, whatever `tail` is.
    Last,
}

pub(super) fn expect_segments(op: &str, ins: &[Meta], i: usize) -> Result<Dim> {
    expect_dtype(op, ins, i, DType::U32)?;
    if ins[i].dim(1) != Dim::Fixed(2) {
        return Err(Error::shape(op, format!("segments must be u32 [N, 2] (begin, end) and are {}", ins[i])));
    }
    Ok(ins[i].dim(0))
}

/// Rows of segment `n` that take part: (begin, end), and the segment's last row if it has one.
pub(super) fn members(segments: &[u32], n: usize, tail: u32, rows: usize) -> (std::ops::Range<usize>, Option<usize>) {
    let (begin, end) = (segments[2 * n] as usize, (segments[2 * n + 1] as usize).min(rows));
    let last = (end > begin).then(|| end - 1);
    (begin..end.saturating_sub(tail as usize).max(begin), last)
}

/// `[R, D]` → `[N, D]`: the sum, mean or last row of each segment; 0 for an empty one. Operands `x`, `segments`.
#[derive(Clone, Debug)]
pub struct SegmentReduce {
    pub kind: SegmentKind,
    pub tail: u32,
}

pub static SEGMENT_REDUCE: SegmentReduce = SegmentReduce { kind: SegmentKind::Sum, tail: 0 };

pub(super) static SEGMENT_REDUCE_KERNEL: KernelDef = KernelDef {
    name: "segment_reduce",
    operands: &[read("x"), read_u32("segments"), write("y")],
    cpu: Some(cpu::segment_reduce),
    wgsl: Some(concat!(include_str!("../../../wgsl/segment_reduce.wgsl"), include_str!("../../../wgsl/segments.wgsl"))),
    cuda: Some(&ptx::SEGMENT),
};

impl Op for SegmentReduce {
    fn name(&self) -> &'static str {
        "segment_reduce"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        let n = expect_segments(self.name(), ins, 1)?;
        Ok(vec![Meta::f32(&[n, ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols, n] = [ins[0].dim(0), ins[0].dim(1), ins[1].dim(0)];
        let mut y = HostTensor::zeros(&[n, cols]);
        for i in 0..n {
            let (taking_part, last) = members(ins[1].u(), i, self.tail, rows);
            for c in 0..cols {
                let sum: f64 = taking_part.clone().map(|r| ins[0].x()[r * cols + c]).sum();
                y.x_mut()[i * cols + c] = match self.kind {
                    SegmentKind::Sum => sum,
                    SegmentKind::Mean => sum / taking_part.len().max(1) as f64,
                    SegmentKind::Last => last.map_or(0.0, |r| ins[0].x()[r * cols + c]),
                };
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        let spread = SegmentSpread { kind: self.kind, tail: self.tail, rows: g.meta(n.ins[0]).dim(0) };
        Ok(vec![Some(g.apply(spread, &[dy, n.ins[1]])?), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SEGMENT_REDUCE_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = params(o.ins[0].dim(0), o.ins[1].dim(0), o.ins[0].dim(1).cap(), self.kind, self.tail);
        let items = o.outs[0].elements();
        vec![Launch { kernel: &SEGMENT_REDUCE_KERNEL, params, groups: groups(items, 64), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![];
        for (kind, tail) in KINDS {
            for case in cases() {
                let sample = case.sample(format!("{kind:?} {tail} {}", case.name), SegmentReduce { kind, tail });
                samples.push(case.segments(sample.normal(&[case.rows, Dim::Fixed(case.cols)], 3)));
            }
        }
        samples
    }
}

const KINDS: [(SegmentKind, u32); 5] = [
    (SegmentKind::Sum, 0),
    (SegmentKind::Sum, 1),
    (SegmentKind::Mean, 0),
    (SegmentKind::Mean, 1),
    (SegmentKind::Last, 0),
];

pub(super) fn params(rows: Dim, n: Dim, cols: usize, kind: SegmentKind, tail: u32) -> Params {
    Params::new().size(rows).size(n).u32(cols).u32(kind as usize).u32(tail as usize)
}

/// `[N, D]` → `[R, D]`: the gradient of [`SegmentReduce`]. A row that takes part holds its segment's value (divided by
/// the number of rows for a mean), every other row 0. Operands `y`, `segments`.
#[derive(Clone, Debug)]
pub struct SegmentSpread {
    pub kind: SegmentKind,
    pub tail: u32,
    pub rows: Dim,
}

pub static SEGMENT_SPREAD: SegmentSpread = SegmentSpread { kind: SegmentKind::Sum, tail: 0, rows: Dim::Fixed(1) };

static SEGMENT_SPREAD_KERNEL: KernelDef = KernelDef {
    name: "segment_spread",
    operands: &[read("y"), read_u32("segments"), write("x")],
    cpu: Some(cpu::segment_spread),
    wgsl: Some(concat!(include_str!("../../../wgsl/segment_spread.wgsl"), include_str!("../../../wgsl/segments.wgsl"))),
    cuda: Some(&ptx::SEGMENT),
};

impl Op for SegmentSpread {
    fn name(&self) -> &'static str {
        "segment_spread"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        let n = expect_segments(self.name(), ins, 1)?;
        expect_same(self.name(), "values and segments", ins[0].dim(0), n)?;
        Ok(vec![Meta::f32(&[self.rows, ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let [rows, cols, n] = [self.rows.len(counts), ins[0].dim(1), ins[1].dim(0)];
        let mut x = HostTensor::zeros(&[rows, cols]);
        for i in 0..n {
            let (taking_part, last) = members(ins[1].u(), i, self.tail, rows);
            let (targets, share) = match self.kind {
                SegmentKind::Sum => (taking_part, 1.0),
                SegmentKind::Mean => (taking_part.clone(), taking_part.len().max(1) as f64),
                SegmentKind::Last => (last.map_or(0..0, |r| r..r + 1), 1.0),
            };
            for (r, c) in targets.flat_map(|r| (0..cols).map(move |c| (r, c))) {
                x.x_mut()[r * cols + c] = ins[0].x()[i * cols + c] / share;
            }
        }
        vec![x]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dx) = dout[0] else { return Ok(vec![None, None]) };
        let reduce = SegmentReduce { kind: self.kind, tail: self.tail };
        Ok(vec![Some(g.apply(reduce, &[dx, n.ins[1]])?), None])
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SEGMENT_SPREAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = params(self.rows, o.ins[1].dim(0), o.ins[0].dim(1).cap(), self.kind, self.tail);
        let rows = self.rows.cap() as u64;
        vec![Launch { kernel: &SEGMENT_SPREAD_KERNEL, params, groups: groups(rows, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![];
        for (kind, tail) in KINDS {
            for case in cases() {
                let op = SegmentSpread { kind, tail, rows: case.rows };
                let sample = case.sample(format!("{kind:?} {tail} {}", case.name), op);
                samples.push(case.segments(sample.normal(&[case.n, Dim::Fixed(case.cols)], 3)));
            }
        }
        samples
    }
}

/// Log-weights of a soft-max within each segment. Operands `x [R]` or `[R, 1]` (logits), `segments`; output `y [R]`.
/// Rows that take no part, or lie in no segment, get [`FLOOR`].
#[derive(Clone, Debug)]
pub struct SegmentLogSoftmax {
    pub tail: u32,
}

pub static SEGMENT_LOG_SOFTMAX: SegmentLogSoftmax = SegmentLogSoftmax { tail: 0 };

static SEGMENT_LSE_KERNEL: KernelDef = KernelDef {
    name: "segment_lse",
    operands: &[read("x"), read_u32("segments"), write("lse")],
    cpu: Some(cpu::segment_lse),
    wgsl: Some(concat!(include_str!("../../../wgsl/segment_lse.wgsl"), include_str!("../../../wgsl/segments.wgsl"))),
    cuda: Some(&ptx::SEGMENT),
};

static SEGMENT_LOG_SOFTMAX_KERNEL: KernelDef = KernelDef {
    name: "segment_log_softmax",
    operands: &[read("x"), read_u32("segments"), read("lse"), write("y")],
    cpu: Some(cpu::segment_log_softmax),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/segment_log_softmax.wgsl"),
        include_str!("../../../wgsl/segments.wgsl")
    )),
    cuda: Some(&ptx::SEGMENT),
};

/// A vector, which may also come as a single column.
fn expect_column(op: &str, ins: &[Meta]) -> Result<Dim> {
    expect_dtype(op, ins, 0, DType::F32)?;
    match ins[0].dims() {
        [rows] | [rows, Dim::Fixed(1)] => Ok(*rows),
        _ => Err(Error::shape(op, format!("logits must be [R] or [R, 1] and are {}", ins[0]))),
    }
}

impl Op for SegmentLogSoftmax {
    fn name(&self) -> &'static str {
        "segment_log_softmax"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[ins.first().map_or(1, Meta::rank), 2])?;
        let rows = expect_column(self.name(), ins)?;
        expect_segments(self.name(), ins, 1)?;
        Ok(vec![Meta::f32(&[rows])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let rows = ins[0].dim(0);
        let mut y = HostTensor::f64(&[rows], vec![f64::from(FLOOR); rows]);
        for i in 0..ins[1].dim(0) {
            let (taking_part, _) = members(ins[1].u(), i, self.tail, rows);
            let x = &ins[0].x()[taking_part.clone()];
            let max = x.iter().fold(f64::from(FLOOR), |m, x| m.max(*x));
            let lse = max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            for r in taking_part {
                y.x_mut()[r] = ins[0].x()[r] - lse;
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        let column = g.meta(n.ins[0]).rank() == 2;
        let dx = g.apply(SegmentLogSoftmaxGrad { tail: self.tail, column }, &[n.outs[0], dy, n.ins[1]])?;
        Ok(vec![Some(dx), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 4 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SEGMENT_LSE_KERNEL, &SEGMENT_LOG_SOFTMAX_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        ins[1].dim(0).cap() as u64 * 4
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let lse = per_segment(self.workspace(o.ins, ctx));
        two_stages(
            [&SEGMENT_LSE_KERNEL, &SEGMENT_LOG_SOFTMAX_KERNEL],
            [vec![o.input(0), o.input(1), lse], vec![o.input(0), o.input(1), lse, o.output(0)]],
            [o.ins[0].dim(0), o.ins[1].dim(0)],
            self.tail,
        )
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![];
        for (tail, column) in [(0, false), (1, true), (1, false)] {
            for case in cases() {
                let shape = if column { "column" } else { "flat" };
                let sample = case.sample(format!("tail {tail} {shape} {}", case.name), SegmentLogSoftmax { tail });
                let dims = [case.rows, Dim::Fixed(1)];
                samples.push(case.segments(sample.normal(if column { &dims } else { &dims[..1] }, 3)));
            }
        }
        samples
    }
}

fn per_segment(bytes: u64) -> Arg {
    if bytes == 0 { Arg::Absent } else { Arg::Work { offset: 0, bytes } }
}

/// A launch over segments, then one over rows.
fn two_stages(kernels: [&'static KernelDef; 2], args: [Vec<Arg>; 2], [rows, n]: [Dim; 2], tail: u32) -> Vec<Launch> {
    let params = Params::new().size(rows).size(n).u32(tail as usize);
    let items = [groups(n.cap() as u64, 64), groups(rows.cap() as u64, 256)];
    (kernels.into_iter().zip(args).zip(items))
        .map(|((kernel, args), groups)| Launch { kernel, params: params.clone(), groups, args })
        .collect()
}

/// `dx = dy − exp(y) Σ dy` within each segment: the gradient of [`SegmentLogSoftmax`]. Operands `y [R]`, `dy [R]`,
/// `segments`; output `dx` of the logits' shape, 0 in rows that take no part.
#[derive(Clone, Debug)]
pub struct SegmentLogSoftmaxGrad {
    pub tail: u32,
    /// Whether the logits were `[R, 1]`.
    pub column: bool,
}

pub static SEGMENT_LOG_SOFTMAX_GRAD: SegmentLogSoftmaxGrad = SegmentLogSoftmaxGrad { tail: 0, column: false };

static SEGMENT_TOTAL_KERNEL: KernelDef = KernelDef {
    name: "segment_total",
    operands: &[read("dy"), read_u32("segments"), write("total")],
    cpu: Some(cpu::segment_total),
    wgsl: Some(concat!(include_str!("../../../wgsl/segment_total.wgsl"), include_str!("../../../wgsl/segments.wgsl"))),
    cuda: Some(&ptx::SEGMENT),
};

static SEGMENT_LOG_SOFTMAX_GRAD_KERNEL: KernelDef = KernelDef {
    name: "segment_log_softmax_grad",
    operands: &[read("y"), read("dy"), read_u32("segments"), read("total"), write("dx")],
    cpu: Some(cpu::segment_log_softmax_grad),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/segment_log_softmax_grad.wgsl"),
        include_str!("../../../wgsl/segments.wgsl")
    )),
    cuda: Some(&ptx::SEGMENT),
};

impl Op for SegmentLogSoftmaxGrad {
    fn name(&self) -> &'static str {
        "segment_log_softmax_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[1, 1, 2])?;
        expect_same(self.name(), "log-weights and gradients", ins[0].dim(0), ins[1].dim(0))?;
        expect_segments(self.name(), ins, 2)?;
        let dims = [ins[0].dim(0), Dim::Fixed(1)];
        Ok(vec![Meta::f32(if self.column { &dims } else { &dims[..1] })?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let rows = ins[0].dim(0);
        let shape = [rows, 1];
        let mut dx = HostTensor::zeros(if self.column { &shape } else { &shape[..1] });
        for i in 0..ins[2].dim(0) {
            let (taking_part, _) = members(ins[2].u(), i, self.tail, rows);
            let total: f64 = ins[1].x()[taking_part.clone()].iter().sum();
            for r in taking_part {
                dx.x_mut()[r] = ins[1].x()[r] - ins[0].x()[r].exp() * total;
            }
        }
        vec![dx]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 4 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(1, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SEGMENT_TOTAL_KERNEL, &SEGMENT_LOG_SOFTMAX_GRAD_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        ins[2].dim(0).cap() as u64 * 4
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let total = per_segment(self.workspace(o.ins, ctx));
        let [y, dy, segments] = [0, 1, 2].map(|i| o.input(i));
        two_stages(
            [&SEGMENT_TOTAL_KERNEL, &SEGMENT_LOG_SOFTMAX_GRAD_KERNEL],
            [vec![dy, segments, total], vec![y, dy, segments, total, o.output(0)]],
            [o.ins[0].dim(0), o.ins[2].dim(0)],
            self.tail,
        )
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![];
        for (tail, column) in [(0, false), (1, true)] {
            for case in cases() {
                let [rows, n] = [case.rows.len(&case.counts), case.n.len(&case.counts)];
                let ins = [noise(&[rows], 3), table(n, rows)];
                let y = SegmentLogSoftmax { tail }.reference(&ins, &case.counts).swap_remove(0);
                let shape = if column { "column" } else { "flat" };
                let op = SegmentLogSoftmaxGrad { tail, column };
                let sample = case.sample(format!("tail {tail} {shape} {}", case.name), op);
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                samples.push(case.segments(sample.with(DType::F32, &[case.rows], |_| y).normal(&[case.rows], 4)));
            }
        }
        samples
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    rows: Dim,
    n: Dim,
    cols: usize,
    counts: Counts,
    class: Class,
}

impl Case {
    fn sample(&self, name: String, op: impl Op + 'static) -> Sample {
        Sample::new(name, op).class(self.class).counts(self.counts)
    }
    fn segments(&self, sample: Sample) -> Sample {
        let rows = self.rows.len(&self.counts);
        sample.with(DType::U32, &[self.n, Dim::Fixed(2)], |sizes| table(sizes[0], rows))
    }
}

fn cases() -> [Case; 8] {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(0), 37).with(Axis(1), 6);
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, rows, n, cols, class| Case { name, rows, n, cols, counts, class };
    [
        case("no segment", fixed(0), fixed(0), 3, Class::Tiny),
        case("rows in no segment", fixed(5), fixed(0), 3, Class::Tiny),
        case("one", fixed(1), fixed(1), 1, Class::Tiny),
        case("only empty ones", fixed(0), fixed(4), 3, Class::Tiny),
        case("prime", fixed(97), fixed(11), 13, Class::Tiny),
        case("ragged", ragged(0, 53), ragged(1, 9), 7, Class::Tiny),
        case("large", fixed(3001), fixed(251), 130, Class::Full),
        case("1536 frames of 128 videos", fixed(1536), fixed(128), 512, Class::Bench),
    ]
}

/// `n` segments over `rows` rows, of uneven length, some empty, some a single row. The last row lies in none when
/// there are several segments, as behind a batch that the packer could not fill.
fn table(n: usize, rows: usize) -> HostTensor {
    let random = crate::random::Random::new(n as u64, rows as u64);
    let covered = if n > 2 { rows.saturating_sub(1) } else { rows };
    let mut ends: Vec<u32> = (1..n as u64).map(|i| random.below(i, covered as u64 + 1) as u32).collect();
    ends.sort_unstable();
    if n > 0 {
        ends.push(covered as u32);
    }
    let begins = std::iter::once(0).chain(ends.iter().copied());
    HostTensor::u32(&[n, 2], begins.zip(&ends).flat_map(|(begin, end)| [begin, *end]).collect())
}
