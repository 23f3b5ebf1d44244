//! Rows by index, and the sum of rows into the places an index names.

use super::super::backend::cpu::gather as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed, expect_rank,
    expect_same, groups, ptx, read, read_u32, write,
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
        let rows = self.rows.len(&self.counts);
        sample.with(DType::U32, &[self.m], |sizes| {
            let random = crate::random::Random::new(9, rows as u64);
            let draw = |i: usize| match i % 7 {
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
