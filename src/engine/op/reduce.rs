//! Sums over rows and over everything.

use super::super::backend::cpu::reduce as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, Dim, HostTensor, Meta};
use super::{Class, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_rank, groups, read, write};
use crate::error::Result;

/// `y[c] = Σ_r x[r, c]` for `x [R, C]`: the gradient of whatever was added to every row.
#[derive(Clone, Debug)]
pub struct SumRows;

pub static SUM_ROWS: SumRows = SumRows;

static SUM_ROWS_KERNEL: KernelDef = KernelDef {
    name: "sum_rows",
    operands: &[read("x"), write("y")],
    cpu: Some(cpu::sum_rows),
    wgsl: Some(include_str!("../../../wgsl/sum_rows.wgsl")),
};

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        Ok(vec![Meta::f32(&[ins[0].dim(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let cols = ins[0].dim(1);
        let mut y = HostTensor::zeros(&[cols]);
        for (i, x) in ins[0].x().iter().enumerate() {
            y.x_mut()[i % cols] += x;
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(BroadcastRows { rows: g.meta(n.ins[0]).dim(0) }, &[dy])?)])
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SUM_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).size(cols).u32(cols.cap());
        vec![Launch { kernel: &SUM_ROWS_KERNEL, params, groups: groups(cols.cap() as u64, 64), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let counts = Counts::default().with(Axis(0), 7).with(Axis(1), 4);
        let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
        let cases = [
            ("empty", [Dim::Fixed(0), Dim::Fixed(3)], Class::Tiny),
            ("one", [Dim::Fixed(1), Dim::Fixed(1)], Class::Tiny),
            ("ragged rows", [ragged(0, 11), Dim::Fixed(67)], Class::Tiny),
            ("ragged columns", [Dim::Fixed(5), ragged(1, 9)], Class::Tiny),
            ("large", [Dim::Fixed(1031), Dim::Fixed(515)], Class::Full),
        ];
        (cases.into_iter())
            .map(|(name, dims, class)| Sample::new(name, SumRows).class(class).counts(counts).normal(&dims, 5))
            .collect()
    }
}

/// `y[r, c] = x[c]` for every row: the gradient of [`SumRows`].
#[derive(Clone, Debug)]
pub struct BroadcastRows {
    pub rows: Dim,
}

pub static BROADCAST_ROWS: BroadcastRows = BroadcastRows { rows: Dim::Fixed(1) };

static BROADCAST_ROWS_KERNEL: KernelDef = KernelDef {
    name: "broadcast_rows",
    operands: &[read("x"), write("y")],
    cpu: Some(cpu::broadcast_rows),
    wgsl: Some(include_str!("../../../wgsl/broadcast_rows.wgsl")),
};

impl Op for BroadcastRows {
    fn name(&self) -> &'static str {
        "broadcast_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[1])?;
        Ok(vec![Meta::f32(&[self.rows, ins[0].dim(0)])?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let rows = self.rows.len(counts);
        vec![HostTensor::f64(&[rows, ins[0].dim(0)], ins[0].x().repeat(rows))]
    }
    fn grad(&self, g: &mut Graph, _: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(SumRows, &[dy])?)])
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&BROADCAST_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let cols = o.ins[0].dim(0);
        let params = Params::new().size(self.rows).size(cols).u32(cols.cap());
        let items = o.outs[0].elements();
        vec![Launch { kernel: &BROADCAST_ROWS_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let counts = Counts::default().with(Axis(0), 7);
        let rows = [("empty", Dim::Fixed(0)), ("one", Dim::Fixed(1)), ("ragged", Dim::Ragged(Axis(0), 11))];
        (rows.into_iter())
            .map(|(name, rows)| Sample::new(name, BroadcastRows { rows }).counts(counts).normal(&[Dim::Fixed(17)], 3))
            .collect()
    }
}
