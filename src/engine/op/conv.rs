//! Depthwise temporal convolution over packed segments, and its gradients.
//!
//! Every column is filtered by itself, along the rows of its segment. What the filter would read before the first row
//! of a segment is that row again, and the last one behind it: clips do not fade in from black.

use super::super::backend::cpu::conv as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::reduce::SUM_ROWS_KERNEL;
use super::segment::{expect_segments, members};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, expect_same, groups, no_gradient, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// The longest filter.
pub const LONGEST: usize = 31;
/// Rows that one part of the two-stage sums of [`ConvDw`] covers.
const PART_ROWS: usize = 64;

/// `y_t = bias + Σ_w weight_w ⊙ x_s`, s = t + w − ⌊W/2⌋ clamped to the segment of t.
///
/// Operands x `[R, D]`, weight `[W, D]` (W odd, at most [`LONGEST`]), bias `[D]` or absent, segments u32 `[N, 2]`;
/// output y `[R, D]`, 0 in rows that lie in no segment.
#[derive(Clone, Debug)]
pub struct Conv;

pub static CONV: Conv = Conv;

static CONV_KERNEL: KernelDef = KernelDef {
    name: "conv",
    operands: &[read("x"), read("weight"), read("bias"), read_u32("segments"), write("y")],
    cpu: Some(cpu::conv),
    wgsl: Some(concat!(include_str!("../../../wgsl/conv.wgsl"), include_str!("../../../wgsl/conv_segments.wgsl"))),
    cuda: Some(&ptx::CONV),
};

fn expect_filter(op: &str, width: Dim) -> Result<()> {
    match expect_fixed(op, "the filter's length", width)? {
        w if w % 2 == 1 && w <= LONGEST => Ok(()),
        w => {
            let what =
                format!("a filter over {w} rows; choose an odd number of at most {LONGEST}, so that it has a middle");
            Err(Error::shape(op, what))
        }
    }
}

/// The row that tap `w` of the filter reads for row `t` of a segment.
fn tap(t: usize, w: usize, width: usize, rows: &std::ops::Range<usize>) -> usize {
    (t + w).saturating_sub(width / 2).clamp(rows.start, rows.end - 1)
}

/// Every (row, tap, row that the tap reads).
fn taps(segments: &HostTensor, width: usize, rows: usize) -> Vec<[usize; 3]> {
    let mut all = vec![];
    for n in 0..segments.dim(0) {
        let (rows, _) = members(segments.u(), n, 0, rows);
        for (t, w) in rows.clone().flat_map(|t| (0..width).map(move |w| (t, w))) {
            all.push([t, w, tap(t, w, width, &rows)]);
        }
    }
    all
}

/// Rows, segments, columns, taps.
fn params(rows: Dim, segments: Dim, cols: Dim, width: usize) -> Params {
    Params::new().size(rows).size(segments).u32(cols.cap()).u32(width)
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1, 2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "columns of rows and of the filter", ins[0].dim(1), ins[1].dim(1))?;
        expect_filter(self.name(), ins[1].dim(0))?;
        if !ins[2].is_absent() {
            expect_same(self.name(), "columns and bias", ins[0].dim(1), ins[2].dim(0))?;
        }
        expect_segments(self.name(), ins, 3)?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols, width] = [ins[0].dim(0), ins[0].dim(1), ins[1].dim(0)];
        let mut y = HostTensor::zeros(&[rows, cols]);
        for [t, w, s] in taps(&ins[3], width, rows) {
            for c in 0..cols {
                let bias = if w == 0 { ins[2].x().get(c).copied().unwrap_or(0.0) } else { 0.0 };
                y.x_mut()[t * cols + c] += bias + ins[1].x()[w * cols + c] * ins[0].x()[s * cols + c];
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None; 4]) };
        let dx = g.apply(ConvDx, &[dy, n.ins[1], n.ins[3]])?;
        let width = g.meta(n.ins[1]).dim(0).cap();
        let dw = g.apply_all(ConvDw { width }, &[n.ins[0], dy, n.ins[3]])?;
        Ok(vec![Some(dx), Some(dw[0]), (!n.ins[2].is_absent()).then_some(dw[1]), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements() * ins[1].dim(0).cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONV_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = params(rows, o.ins[3].dim(0), cols, o.ins[1].dim(0).cap()).u32(!o.ins[2].is_absent() as usize);
        vec![Launch { kernel: &CONV_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let cols = Dim::Fixed(case.cols);
                let sample = case.sample(Conv).normal(&[case.rows, cols], 3).normal(&[Dim::Fixed(case.width), cols], 4);
                case.segments(if case.bias { sample.normal(&[cols], 5) } else { sample.absent() })
            })
            .collect()
    }
}

/// The gradient of [`Conv`] with respect to x. Operands dy `[R, D]`, weight `[W, D]`, segments; output dx `[R, D]`. The
/// first and last row of a segment gather what was read in their place.
#[derive(Clone, Debug)]
pub struct ConvDx;

pub static CONV_DX: ConvDx = ConvDx;

static CONV_DX_KERNEL: KernelDef = KernelDef {
    name: "conv_dx",
    operands: &[read("dy"), read("weight"), read_u32("segments"), write("dx")],
    cpu: Some(cpu::conv_dx),
    wgsl: Some(concat!(include_str!("../../../wgsl/conv_dx.wgsl"), include_str!("../../../wgsl/conv_segments.wgsl"))),
    cuda: Some(&ptx::CONV),
};

impl Op for ConvDx {
    fn name(&self) -> &'static str {
        "conv_dx"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "columns of rows and of the filter", ins[0].dim(1), ins[1].dim(1))?;
        expect_filter(self.name(), ins[1].dim(0))?;
        expect_segments(self.name(), ins, 2)?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols, width] = [ins[0].dim(0), ins[0].dim(1), ins[1].dim(0)];
        let mut dx = HostTensor::zeros(&[rows, cols]);
        for [t, w, s] in taps(&ins[2], width, rows) {
            for c in 0..cols {
                dx.x_mut()[s * cols + c] += ins[1].x()[w * cols + c] * ins[0].x()[t * cols + c];
            }
        }
        vec![dx]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements() * ins[1].dim(0).cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONV_DX_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = params(rows, o.ins[2].dim(0), cols, o.ins[1].dim(0).cap());
        vec![Launch { kernel: &CONV_DX_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let cols = Dim::Fixed(case.cols);
                let sample = case.sample(ConvDx).gradient(Gradient::None("is itself a gradient"));
                case.segments(sample.normal(&[case.rows, cols], 3).normal(&[Dim::Fixed(case.width), cols], 4))
            })
            .collect()
    }
}

/// The gradient of [`Conv`] with respect to weight and bias. Operands x `[R, D]`, dy `[R, D]`, segments; outputs
/// dweight `[W, D]` and dbias `[D]`. Sums run in two stages in a fixed order; rows in no segment are left out.
#[derive(Clone, Debug)]
pub struct ConvDw {
    /// W, the filter's length.
    pub width: usize,
}

pub static CONV_DW: ConvDw = ConvDw { width: 3 };

/// Sums of the parts: `[parts, W, D]` for the filter and `[parts, D]` for the bias.
static CONV_DW_KERNEL: KernelDef = KernelDef {
    name: "conv_dw",
    operands: &[read("x"), read("dy"), read_u32("segments"), write("filters"), write("biases")],
    cpu: Some(cpu::conv_dw),
    wgsl: Some(concat!(include_str!("../../../wgsl/conv_dw.wgsl"), include_str!("../../../wgsl/conv_segments.wgsl"))),
    cuda: Some(&ptx::CONV),
};

impl ConvDw {
    fn parts(x: &Meta) -> usize {
        x.dim(0).cap().div_ceil(PART_ROWS).max(1)
    }
    /// Bytes of the sums for the filter and for the bias.
    fn sums(&self, x: &Meta) -> [u64; 2] {
        let bytes = |rows: usize| (ConvDw::parts(x) * rows * x.dim(1).cap()) as u64 * 4;
        [bytes(self.width).next_multiple_of(256), bytes(1)]
    }
}

impl Op for ConvDw {
    fn name(&self) -> &'static str {
        "conv_dw"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2])?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_filter(self.name(), Dim::Fixed(self.width))?;
        if ins[0] != ins[1] {
            return Err(Error::shape(self.name(), format!("x is {} and dy is {}", ins[0], ins[1])));
        }
        expect_segments(self.name(), ins, 2)?;
        let cols = ins[0].dim(1);
        Ok(vec![Meta::f32(&[Dim::Fixed(self.width), cols])?, Meta::f32(&[cols])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut outs = [&[self.width, cols][..], &[cols]].map(HostTensor::zeros);
        for [t, w, s] in taps(&ins[2], self.width, rows) {
            for c in 0..cols {
                let dy = ins[1].x()[t * cols + c];
                outs[0].x_mut()[w * cols + c] += dy * ins[0].x()[s * cols + c];
                outs[1].x_mut()[c] += if w == 0 { dy } else { 0.0 };
            }
        }
        outs.to_vec()
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements() * self.width as u64, ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[0, 1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONV_DW_KERNEL, &SUM_ROWS_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        self.sums(&ins[0]).iter().sum()
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let (parts, sums) = (ConvDw::parts(&o.ins[0]), self.sums(&o.ins[0]));
        let work = |offset, bytes| if bytes == 0 { Arg::Absent } else { Arg::Work { offset, bytes } };
        let sums = [work(0, sums[0]), work(sums[0], sums[1])];
        let strips = groups(cols.cap() as u64, 64)[0];
        let mut launches = vec![Launch {
            kernel: &CONV_DW_KERNEL,
            params: params(rows, o.ins[2].dim(0), cols, self.width).u32(PART_ROWS).u32(parts),
            groups: [strips, parts.min(65_535) as u32, 1],
            args: vec![o.input(0), o.input(1), o.input(2), sums[0], sums[1]],
        }];
        for (i, columns) in [(0, self.width * cols.cap()), (1, cols.cap())] {
            if !o.outs[i].is_absent() {
                launches.push(Launch {
                    kernel: &SUM_ROWS_KERNEL,
                    params: Params::new().u32(parts).u32(columns).u32(columns),
                    groups: groups(columns as u64, 64),
                    args: vec![sums[i], o.output(i)],
                });
            }
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let dims = [case.rows, Dim::Fixed(case.cols)];
                let sample = case.sample(ConvDw { width: case.width });
                case.segments(sample.gradient(Gradient::None("is itself a gradient")).normal(&dims, 3).normal(&dims, 4))
            })
            .collect()
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    rows: Dim,
    n: Dim,
    cols: usize,
    width: usize,
    bias: bool,
    class: Class,
    counts: Counts,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(self.counts)
    }
    /// Segments shorter and longer than the filter; every fourth is empty, every third leaves a row before it.
    fn segments(&self, sample: Sample) -> Sample {
        let rows = self.rows.len(&self.counts);
        sample.with(DType::U32, &[self.n, Dim::Fixed(2)], |sizes| {
            let n = sizes[0];
            let mut table = vec![];
            for i in 0..n {
                let (begin, end) = (i * rows / n, (i + 1) * rows / n);
                let begin = if i % 3 == 1 { (begin + 1).min(end) } else { begin };
                table.extend([begin as u32, if i % 4 == 3 { begin } else { end } as u32]);
            }
            HostTensor::u32(sizes, table)
        })
    }
}

fn cases() -> [Case; 9] {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(0), 31).with(Axis(1), 6);
    let case = |name, rows, n, cols, width, bias, class| Case { name, rows, n, cols, width, bias, class, counts };
    let (tiny, full, bench) = (Class::Tiny, Class::Full, Class::Bench);
    [
        case("nothing", fixed(0), fixed(0), 3, 3, true, tiny),
        case("no segments", fixed(5), fixed(0), 3, 3, true, tiny),
        case("one", fixed(1), fixed(1), 1, 1, false, tiny),
        case("one row, long filter", fixed(1), fixed(1), 2, 7, true, tiny),
        case("prime", fixed(37), fixed(11), 13, 5, true, tiny),
        case("ragged", Dim::Ragged(Axis(0), 40), Dim::Ragged(Axis(1), 9), 8, 3, false, tiny),
        case("several parts", fixed(2 * PART_ROWS + 7), fixed(3), 68, 31, true, tiny),
        case("large", fixed(1031), fixed(41), 132, 7, true, full),
        case("128 videos, 24 frames, D 512", fixed(3072), fixed(128), 512, 5, true, bench),
    ]
}
