//! A run of rows, written into a larger table or read from it, at a place that the batch says.

use super::super::backend::cpu::rows as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed, expect_rank,
    expect_same, groups, ptx, read, read_u32, write,
};
use crate::error::Result;

/// `y[r] = part[r − begin]` for begin ≤ r < begin + n, else `x[r]`. Operands `x [R, D]`, `part [n, D]`, `begin` u32
/// `[1]`; output `[R, D]`. R and n may be ragged. What would lie beyond R is left out.
///
/// Where the output takes the place of `x`, which is how chunks fill a state, only the run is written.
#[derive(Clone, Debug)]
pub struct PutRows;

pub static PUT_ROWS: PutRows = PutRows;

static PUT_ROWS_KERNEL: KernelDef = KernelDef {
    name: "put_rows",
    operands: &[read("x"), read("part"), read_u32("begin"), write("y")],
    cpu: Some(cpu::put_rows),
    wgsl: Some(include_str!("../../../wgsl/put_rows.wgsl")),
    cuda: Some(&ptx::ROWS),
};

impl Op for PutRows {
    fn name(&self) -> &'static str {
        "put_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1])?;
        expect_operands(self.name(), ins)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_same(self.name(), "the columns of x and part", ins[0].dim(1), ins[1].dim(1))?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (cols, begin) = (ins[0].dim(1), ins[2].u()[0] as usize);
        let mut y = ins[0].clone();
        for m in 0..ins[1].dim(0) {
            for c in (0..cols).filter(|_| begin + m < ins[0].dim(0)) {
                y.x_mut()[(begin + m) * cols + c] = ins[1].x()[m * cols + c];
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None; 3]) };
        let part = g.meta(n.ins[1]);
        let dpart = g.apply(TakeRows { rows: part.dim(0) }, &[dy, n.ins[2]])?;
        let nothing = g.fill(0.0, part.dims())?;
        Ok(vec![Some(g.apply(PutRows, &[dy, nothing, n.ins[2]])?), Some(dpart), None])
    }
    fn cost(&self, ins: &[Meta], _: &[Meta]) -> Cost {
        // In the place of x, as in all plans that we know.
        Cost { flops: 0, bytes_in: ins[1].bytes(), bytes_out: ins[1].bytes() }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&PUT_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).size(o.ins[1].dim(0)).u32(o.ins[0].dim(1).cap());
        vec![Launch { kernel: &PUT_ROWS_KERNEL, params, groups: groups(o.ins[0].elements(), 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let run = |case: Case| {
            let sample = Sample::new(case.name, PutRows).class(case.class).counts(case.counts);
            let [x, part] = [case.rows, case.n].map(|rows| [rows, Dim::Fixed(case.cols)]);
            case.begin(sample.normal(&x, 3).normal(&part, 4))
        };
        cases().into_iter().map(run).collect()
    }
}

/// `y[m] = x[begin + m]`, a row of 0 beyond the rows there are: what [`PutRows`] has put there. Operands `x [R, D]`,
/// `begin` u32 `[1]`; output `[rows, D]`. R and the rows may be ragged.
#[derive(Clone, Debug)]
pub struct TakeRows {
    pub rows: Dim,
}

pub static TAKE_ROWS: TakeRows = TakeRows { rows: Dim::Fixed(1) };

static TAKE_ROWS_KERNEL: KernelDef = KernelDef {
    name: "take_rows",
    operands: &[read("x"), read_u32("begin"), write("y")],
    cpu: Some(cpu::take_rows),
    wgsl: Some(include_str!("../../../wgsl/take_rows.wgsl")),
    cuda: Some(&ptx::ROWS),
};

impl Op for TakeRows {
    fn name(&self) -> &'static str {
        "take_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        expect_operands(self.name(), ins)?;
        Ok(vec![Meta::f32(&[self.rows, ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let (cols, begin, n) = (ins[0].dim(1), ins[1].u()[0] as usize, self.rows.len(counts));
        let mut y = HostTensor::zeros(&[n, cols]);
        for m in (0..n).filter(|m| begin + m < ins[0].dim(0)) {
            y.x_mut()[m * cols..][..cols].copy_from_slice(&ins[0].x()[(begin + m) * cols..][..cols]);
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None; 2]) };
        let x = g.meta(n.ins[0]);
        let nothing = g.fill(0.0, x.dims())?;
        Ok(vec![Some(g.apply(PutRows, &[nothing, dy, n.ins[1]])?), None])
    }
    fn cost(&self, _: &[Meta], outs: &[Meta]) -> Cost {
        // Only the run is read.
        Cost { flops: 0, bytes_in: outs[0].bytes(), bytes_out: outs[0].bytes() }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&TAKE_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).size(self.rows).u32(o.ins[0].dim(1).cap());
        vec![Launch { kernel: &TAKE_ROWS_KERNEL, params, groups: groups(o.outs[0].elements(), 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let run = |case: Case| {
            let sample = Sample::new(case.name, TakeRows { rows: case.n }).class(case.class).counts(case.counts);
            case.begin(sample.normal(&[case.rows, Dim::Fixed(case.cols)], 3))
        };
        cases().into_iter().map(run).collect()
    }
}

/// The table is f32 with columns of one number, and the place, which comes last, is one u32.
fn expect_operands(op: &str, ins: &[Meta]) -> Result<()> {
    expect_dtype(op, ins, 0, DType::F32)?;
    expect_fixed(op, "columns", ins[0].dim(1))?;
    let begin = ins.len() - 1;
    expect_dtype(op, ins, begin, DType::U32)?;
    expect_same(op, "begin is one number: its length and one", ins[begin].dim(0), Dim::Fixed(1))
}

/// A sample's sizes and where its run begins.
struct Case {
    name: &'static str,
    rows: Dim,
    n: Dim,
    cols: usize,
    begin: u32,
    counts: Counts,
    class: Class,
}

impl Case {
    fn begin(&self, sample: Sample) -> Sample {
        let begin = self.begin;
        sample.with(DType::U32, &[Dim::Fixed(1)], |sizes| HostTensor::u32(sizes, vec![begin]))
    }
}

fn cases() -> Vec<Case> {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(0), 9).with(Axis(1), 5);
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, rows, n, cols, begin, class| Case { name, rows, n, cols, begin, counts, class };
    vec![
        case("an empty run", fixed(3), fixed(0), 2, 1, Class::Tiny),
        case("an empty table", fixed(0), fixed(3), 2, 0, Class::Tiny),
        case("one", fixed(1), fixed(1), 1, 0, Class::Tiny),
        case("first", fixed(13), fixed(5), 11, 0, Class::Tiny),
        case("middle, columns of four", fixed(37), fixed(7), 12, 17, Class::Tiny),
        case("last", fixed(13), fixed(5), 3, 8, Class::Tiny),
        case("over the end", fixed(13), fixed(5), 4, 11, Class::Tiny),
        case("behind the end", fixed(13), fixed(5), 4, 13, Class::Tiny),
        case("nowhere", fixed(13), fixed(5), 4, u32::MAX, Class::Tiny),
        case("ragged", ragged(0, 17), ragged(1, 8), 5, 4, Class::Tiny),
        case("a ragged run in a fixed table", fixed(23), ragged(1, 8), 6, 16, Class::Tiny),
        case("large", fixed(2503), fixed(1031), 130, 700, Class::Full),
        case("512 of 4096 rows", fixed(4096), fixed(512), 512, 1024, Class::Bench),
    ]
}
