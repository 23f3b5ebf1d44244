//! Sums over rows and over everything.

use super::super::backend::cpu::reduce as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_fixed, expect_rank, groups, ptx,
    read, write,
};
use crate::engine::backend::cpu::lanes::PART;
use crate::error::{Error, Result};

/// `y[c] = Σ_r x[r, c]` for `x [R, C]`: the gradient of whatever was added to every row.
#[derive(Clone, Debug)]
pub struct SumRows;

pub static SUM_ROWS: SumRows = SumRows;

pub(super) static SUM_ROWS_KERNEL: KernelDef = KernelDef {
    name: "sum_rows",
    operands: &[read("x"), write("y")],
    cpu: Some(cpu::sum_rows),
    wgsl: Some(include_str!("../../../wgsl/sum_rows.wgsl")),
    cuda: Some(&ptx::REDUCE),
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
    cuda: Some(&ptx::REDUCE),
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

/// `y = Σ x / n` over all n true elements, in a fixed order; 0 when there are none. Operand `x [R]` or `[R, C]`, R may
/// be ragged; output `[1]`.
#[derive(Clone, Debug)]
pub struct MeanAll;

pub static MEAN_ALL: MeanAll = MeanAll;

static MEAN_PARTS_KERNEL: KernelDef = KernelDef {
    name: "mean_parts",
    operands: &[read("x"), write("sums")],
    cpu: Some(cpu::mean_parts),
    wgsl: Some(concat!(include_str!("../../../wgsl/mean_parts.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::REDUCE),
};

pub(super) static MEAN_ALL_KERNEL: KernelDef = KernelDef {
    name: "mean_all",
    operands: &[read("sums"), write("y")],
    cpu: Some(cpu::mean_all),
    wgsl: Some(concat!(include_str!("../../../wgsl/mean_all.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::REDUCE),
};

/// Numbers that a two-stage sum over `elements` leaves after its first stage.
pub(super) fn parts(elements: u64) -> u64 {
    elements.div_ceil(PART as u64).max(1)
}

impl Op for MeanAll {
    fn name(&self) -> &'static str {
        "mean_all"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        match ins {
            [x] if matches!(x.dims(), [_] | [_, Dim::Fixed(_)]) && !x.is_absent() => {
                Ok(vec![Meta::f32(&[Dim::Fixed(1)])?])
            }
            _ => Err(Error::shape(self.name(), format!("takes one [R] or [R, C] with fixed C and got {ins:?}"))),
        }
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        vec![HostTensor::scalar(ins[0].x().iter().sum::<f64>() / ins[0].elements().max(1) as f64)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        let x = g.meta(n.ins[0]);
        let cols = x.dims().get(1).map(|d| d.cap());
        Ok(vec![Some(g.apply(BroadcastMean { rows: x.dim(0), cols }, &[dy])?)])
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&MEAN_PARTS_KERNEL, &MEAN_ALL_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        4 * parts(ins[0].elements())
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let sums = Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) };
        let params = Params::new().elements(&o.ins[0]).u32(PART);
        vec![
            Launch {
                kernel: &MEAN_PARTS_KERNEL,
                params: params.clone(),
                groups: groups(o.ins[0].elements(), PART as u64),
                args: vec![o.input(0), sums],
            },
            Launch { kernel: &MEAN_ALL_KERNEL, params, groups: [1, 1, 1], args: vec![sums, o.output(0)] },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        let counts = Counts::default().with(Axis(0), 7);
        let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
        let cases: [(&str, Vec<Dim>, Class); 7] = [
            ("empty", vec![Dim::Fixed(0)], Class::Tiny),
            ("ragged to nothing", vec![ragged(1, 4), Dim::Fixed(3)], Class::Tiny),
            ("one", vec![Dim::Fixed(1)], Class::Tiny),
            ("ragged", vec![ragged(0, 11)], Class::Tiny),
            ("ragged matrix", vec![ragged(0, 11), Dim::Fixed(29)], Class::Tiny),
            ("several parts", vec![Dim::Fixed(3 * PART + 17)], Class::Full),
            ("4096x4096", vec![Dim::Fixed(4096), Dim::Fixed(4096)], Class::Bench),
        ];
        (cases.into_iter())
            .map(|(name, dims, class)| Sample::new(name, MeanAll).class(class).counts(counts).normal(&dims, 5))
            .collect()
    }
}

/// `x = y / n` in each of n elements: the gradient of [`MeanAll`]. Operand `y [1]`; output `[rows]` or `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct BroadcastMean {
    pub rows: Dim,
    pub cols: Option<usize>,
}

pub static BROADCAST_MEAN: BroadcastMean = BroadcastMean { rows: Dim::Fixed(1), cols: None };

static BROADCAST_MEAN_KERNEL: KernelDef = KernelDef {
    name: "broadcast_mean",
    operands: &[read("y"), write("x")],
    cpu: Some(cpu::broadcast_mean),
    wgsl: Some(include_str!("../../../wgsl/broadcast_mean.wgsl")),
    cuda: Some(&ptx::REDUCE),
};

impl BroadcastMean {
    fn dims(&self) -> Vec<Dim> {
        std::iter::once(self.rows).chain(self.cols.map(Dim::Fixed)).collect()
    }
}

impl Op for BroadcastMean {
    fn name(&self) -> &'static str {
        "broadcast_mean"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[1])?;
        if expect_fixed(self.name(), "values", ins[0].dim(0))? != 1 {
            return Err(Error::shape(self.name(), format!("takes one value and got {}", ins[0])));
        }
        Ok(vec![Meta::f32(&self.dims())?])
    }
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor> {
        let sizes: Vec<usize> = self.dims().iter().map(|d| d.len(counts)).collect();
        let n: usize = sizes.iter().product();
        vec![HostTensor::f64(&sizes, vec![ins[0].x()[0] / n.max(1) as f64; n])]
    }
    fn grad(&self, g: &mut Graph, _: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dx) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(MeanAll, &[dx])?)])
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&BROADCAST_MEAN_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().elements(&o.outs[0]);
        let items = o.outs[0].elements();
        vec![Launch { kernel: &BROADCAST_MEAN_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let counts = Counts::default().with(Axis(0), 7);
        let cases = [
            ("empty", Dim::Fixed(0), Some(3)),
            ("one", Dim::Fixed(1), None),
            ("ragged", Dim::Ragged(Axis(0), 11), None),
            ("ragged matrix", Dim::Ragged(Axis(0), 11), Some(29)),
        ];
        (cases.into_iter())
            .map(|(name, rows, cols)| {
                Sample::new(name, BroadcastMean { rows, cols }).counts(counts).normal(&[Dim::Fixed(1)], 5)
            })
            .collect()
    }
}
