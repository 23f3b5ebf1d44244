//! Matrix products by groups: each slot of a row meets the matrix of its expert.

use super::super::backend::cpu::grouped as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::linear::{LINEAR, Linear};
use super::reduce::SUM_ROWS_KERNEL;
use super::route::{Dispatch, expect_experts};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_dtype,
    expect_fixed, expect_rank, expect_same, groups, no_gradient, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// `y[r, s] = W_e(r, s) · x[r]` (or `· x[r, s]`): slot s of row r meets the matrix of its expert.
///
/// Operands `x [R, I]` where `shared` (all slots of a row read it: the dispatch) or `[R, k·I]` (each slot its own),
/// `weight [K·O, I]` (K matrices `[O, I]`), `order` u32 `[R, k]` and `offsets` u32 `[K + 1]` as [`super::route::Route`]
/// makes them; without these two every row meets all K experts in their order, and k = K. Output `[R, k·O]`. R may be
/// ragged.
#[derive(Clone, Debug)]
pub struct GroupedLinear {
    pub experts: usize,
    pub slots: usize,
    pub shared: bool,
}

pub static GROUPED_LINEAR: GroupedLinear = GroupedLinear { experts: 4, slots: 2, shared: true };

static PRODUCT_KERNEL: KernelDef = KernelDef {
    name: "grouped_product",
    operands: &[read("x"), read("weight"), read_u32("order"), read_u32("offsets"), write("scratch"), write("y")],
    cpu: Some(cpu::product),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/grouped_runs.wgsl"),
        include_str!("../../../wgsl/grouped_product.wgsl")
    )),
    cuda: Some(&ptx::GROUPED),
};

/// The same with transposed matrices, for gradients.
static PRODUCT_BACK_KERNEL: KernelDef = KernelDef {
    name: "grouped_product_back",
    operands: PRODUCT_KERNEL.operands,
    cpu: PRODUCT_KERNEL.cpu,
    wgsl: PRODUCT_KERNEL.wgsl,
    cuda: Some(&ptx::GROUPED),
};

static COMBINE_KERNEL: KernelDef = KernelDef {
    name: "grouped_combine",
    operands: &[read("slots"), write("y")],
    cpu: None,
    wgsl: Some(include_str!("../../../wgsl/grouped_combine.wgsl")),
    cuda: Some(&ptx::GROUPED),
};

static DW_KERNEL: KernelDef = KernelDef {
    name: "grouped_dw",
    operands: &[read("x"), read("dy"), read_u32("order"), read_u32("offsets"), write("scratch"), write("dw")],
    cpu: Some(cpu::dw),
    wgsl: Some(concat!(include_str!("../../../wgsl/grouped_runs.wgsl"), include_str!("../../../wgsl/grouped_dw.wgsl"))),
    cuda: Some(&ptx::GROUPED),
};

/// Rows and columns of a result that one workgroup of the GPU kernels computes.
const TILE: usize = 64;
/// Parts that GPUs divide an expert's run into for the gradient of its matrix: an expert has few tiles and many rows.
const PARTS: usize = 8;

/// What the three ops have in common: R, I and O.
struct Sizes {
    rows: Dim,
    inner: usize,
    outer: usize,
}

impl GroupedLinear {
    fn is_dispatched(order: &Meta) -> bool {
        !order.is_absent()
    }

    /// I from the columns of `x`, O from those of `y`.
    fn columns(&self, op: &str, x: &Meta, y: Option<&Meta>) -> Result<(usize, usize)> {
        let per_slot = |what: &str, m: &Meta, parts: usize| {
            let cols = expect_fixed(op, what, m.dim(1))?;
            match cols.is_multiple_of(parts) {
                true => Ok(cols / parts),
                false => Err(Error::shape(op, format!("{cols} columns of {what} cannot be divided by {parts} slots"))),
            }
        };
        let inner = per_slot("x", x, if self.shared { 1 } else { self.slots })?;
        Ok((inner, y.map_or(Ok(0), |y| per_slot("dy", y, self.slots))?))
    }

    /// The matrices fit: O from the rows of `weight`.
    fn outer(&self, op: &str, weight: &Meta) -> Result<usize> {
        let rows = expect_fixed(op, "the rows of the weight", weight.dim(0))?;
        if rows.is_multiple_of(self.experts) {
            return Ok(rows / self.experts);
        }
        Err(Error::shape(op, format!("{rows} rows of the weight cannot be divided by {} experts", self.experts)))
    }

    /// `ins[2]` and `ins[3]` dispatch `rows`, or both are absent.
    fn check_dispatch(&self, op: &str, ins: &[Meta], rows: Dim) -> Result<()> {
        if ins[2].is_absent() && ins[3].is_absent() {
            if self.slots == self.experts {
                return Ok(());
            }
            let got = format!("{} slots of {} experts", self.slots, self.experts);
            return Err(Error::shape(op, format!("without order and offsets every row meets all experts, not {got}")));
        }
        expect_dtype(op, ins, 2, DType::U32)?;
        expect_dtype(op, ins, 3, DType::U32)?;
        expect_same(op, "rows and order", rows, ins[2].dim(0))?;
        expect_same(op, "slots and order", Dim::Fixed(self.slots), ins[2].dim(1))?;
        expect_same(op, "offsets and one more than the experts", Dim::Fixed(self.experts + 1), ins[3].dim(0))
    }

    /// Bytes of the CPU's scratch memory: the rows of a product, gathered, for each stretch of rows.
    fn scratch(&self, rows: Dim, columns: usize, order: &Meta) -> u64 {
        let stretches = cpu::stretches(rows.cap()).0 as u64;
        if GroupedLinear::is_dispatched(order) { stretches * 4 * (cpu::GATHERED * columns) as u64 } else { 0 }
    }

    /// `y[slot] = op(W_e) · x[slot]`: the forward product, and backwards that of each slot.
    fn product(&self, s: &Sizes, way: Way, args: [Arg; 4], scratch: Arg, y: Arg) -> Launch {
        let (depth, width) = if way == Way::Forward { (s.inner, s.outer) } else { (s.outer, s.inner) };
        let params = Params::new()
            .size(s.rows)
            .u32(self.slots)
            .u32(self.experts)
            .u32(depth)
            .u32(width)
            .u32((way == Way::Forward && self.shared) as usize)
            .u32((way == Way::Forward) as usize)
            .u32((way == Way::Combined) as usize)
            .u32((args[2] != Arg::Absent) as usize);
        let tiles = |n: usize| n.div_ceil(TILE).clamp(1, 65_535) as u32;
        let runs = tiles(s.rows.cap() * self.slots + TILE * self.experts);
        let [x, weight, order, offsets] = args;
        let args = vec![x, weight, order, offsets, scratch, y];
        let kernel = if way == Way::Forward { &PRODUCT_KERNEL } else { &PRODUCT_BACK_KERNEL };
        Launch { kernel, params, groups: [tiles(width), runs, 1], args }
    }
}

/// What a product is for.
#[derive(Copy, Clone, PartialEq)]
enum Way {
    Forward,
    /// The gradient of each slot's own x.
    Backward,
    /// The gradient of the x that a row's slots share, added up by the kernel itself.
    Combined,
}

/// The slots that meet each expert, in the order they are added in.
fn runs(by: &GroupedLinear, rows: usize, order: &HostTensor, offsets: &HostTensor) -> Vec<Vec<usize>> {
    (0..by.experts)
        .map(|e| match order.is_absent() {
            true => (0..rows).map(|r| r * by.slots + e).collect(),
            false => {
                let (begin, end) = (offsets.u()[e] as usize, offsets.u()[e + 1] as usize);
                order.u()[begin..end].iter().map(|slot| *slot as usize).collect()
            }
        })
        .collect()
}

impl Op for GroupedLinear {
    fn name(&self) -> &'static str {
        "grouped_linear"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2, 1])?;
        expect_experts(self.name(), self.experts, self.slots)?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        let (inner, _) = self.columns(self.name(), &ins[0], None)?;
        let outer = self.outer(self.name(), &ins[1])?;
        expect_same(self.name(), "the columns of a slot and of the weight", Dim::Fixed(inner), ins[1].dim(1))?;
        self.check_dispatch(self.name(), ins, ins[0].dim(0))?;
        Ok(vec![Meta::f32(&[ins[0].dim(0), Dim::Fixed(self.slots * outer)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (rows, inner, outer) = (ins[0].dim(0), ins[1].dim(1), ins[1].dim(0) / self.experts);
        let mut y = HostTensor::zeros(&[rows, self.slots * outer]);
        for (e, run) in runs(self, rows, &ins[2], &ins[3]).into_iter().enumerate() {
            for slot in run {
                let row = if self.shared { slot / self.slots } else { slot };
                for o in 0..outer {
                    let weight = &ins[1].x()[(e * outer + o) * inner..][..inner];
                    let x = &ins[0].x()[row * inner..][..inner];
                    y.x_mut()[slot * outer + o] = weight.iter().zip(x).map(|(w, x)| w * x).sum();
                }
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None; 4]) };
        let [x, weight, order, offsets] = [0, 1, 2, 3].map(|i| n.ins[i]);
        let dx = g.apply(GroupedLinearDx { forward: self.clone() }, &[dy, weight, order, offsets])?;
        let dw = g.apply(GroupedLinearDw { forward: self.clone() }, &[x, dy, order, offsets])?;
        Ok(vec![Some(dx), Some(dw), None, None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * outs[0].elements() * ins[1].dim(1).cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [&PRODUCT_KERNEL].into_iter().chain(LINEAR.kernels()).collect()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        let columns = ins[1].dim(1).cap() + ins[1].dim(0).cap() / self.experts;
        if ctx.target == Target::Cpu { self.scratch(ins[0].dim(0), columns, &ins[2]) } else { 0 }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        if self.shared && !GroupedLinear::is_dispatched(&o.ins[2]) {
            // All matrices under each other are one.
            return LINEAR.launch(o, ctx);
        }
        let (inner, outer) = (o.ins[1].dim(1).cap(), o.ins[1].dim(0).cap() / self.experts);
        let sizes = Sizes { rows: o.ins[0].dim(0), inner, outer };
        let args = [0, 1, 2, 3].map(|i| o.input(i));
        vec![self.product(&sizes, Way::Forward, args, work(self.workspace(o.ins, ctx)), o.output(0))]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(case.by.clone());
                let sample = sample.normal(&case.x(), 3).normal(&case.weight(), 4);
                case.dispatch(sample)
            })
            .collect()
    }
}

/// The whole workspace.
fn work(bytes: u64) -> Arg {
    if bytes == 0 { Arg::Absent } else { Arg::Work { offset: 0, bytes } }
}

/// `dx = Wᵀ·dy` by slots, added up over a row's slots where x is shared (the combine): the gradient of
/// [`GroupedLinear`] for x. Operands `dy [R, k·O]`, `weight [K·O, I]`, `order`, `offsets`; output `[R, I]` or
/// `[R, k·I]`.
#[derive(Clone, Debug)]
pub struct GroupedLinearDx {
    pub forward: GroupedLinear,
}

pub static GROUPED_LINEAR_DX: GroupedLinearDx =
    GroupedLinearDx { forward: GroupedLinear { experts: 4, slots: 2, shared: true } };

impl Op for GroupedLinearDx {
    fn name(&self) -> &'static str {
        "grouped_linear_dx"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        let by = &self.forward;
        expect_rank(self.name(), ins, &[2, 2, 2, 1])?;
        expect_experts(self.name(), by.experts, by.slots)?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        let outer = by.outer(self.name(), &ins[1])?;
        let inner = expect_fixed(self.name(), "the columns of the weight", ins[1].dim(1))?;
        expect_same(self.name(), "the columns of dy and the slots'", ins[0].dim(1), Dim::Fixed(by.slots * outer))?;
        by.check_dispatch(self.name(), ins, ins[0].dim(0))?;
        // GPUs hold the gradient of each slot before they are added up.
        let each = Meta::f32(&[ins[0].dim(0), Dim::Fixed(by.slots), Dim::Fixed(inner)])?;
        let cols = if by.shared { inner } else { each.dim(1).cap() * inner };
        Ok(vec![Meta::f32(&[ins[0].dim(0), Dim::Fixed(cols)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let by = &self.forward;
        let (rows, inner, outer) = (ins[0].dim(0), ins[1].dim(1), ins[1].dim(0) / by.experts);
        let mut dx = HostTensor::zeros(&[rows, if by.shared { inner } else { by.slots * inner }]);
        for (e, run) in runs(by, rows, &ins[2], &ins[3]).into_iter().enumerate() {
            for slot in run {
                let row = if by.shared { slot / by.slots } else { slot };
                for o in 0..outer {
                    let dy = ins[0].x()[slot * outer + o];
                    for i in 0..inner {
                        dx.x_mut()[row * inner + i] += dy * ins[1].x()[(e * outer + o) * inner + i];
                    }
                }
            }
        }
        vec![dx]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements() * ins[1].dim(1).cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [&PRODUCT_BACK_KERNEL, &COMBINE_KERNEL].into_iter().chain(LINEAR.kernels()).collect()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        let (rows, inner, outer) = (ins[0].dim(0), ins[1].dim(1).cap(), ins[1].dim(0).cap() / self.forward.experts);
        match ctx.target {
            Target::Cpu => self.forward.scratch(rows, inner + outer, &ins[2]),
            _ if self.forward.shared && GroupedLinear::is_dispatched(&ins[2]) => {
                (rows.cap() * self.forward.slots * inner) as u64 * 4
            }
            _ => 0,
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let by = &self.forward;
        let (shared, dispatched) = (by.shared, GroupedLinear::is_dispatched(&o.ins[2]));
        if shared && !dispatched {
            return Linear::new(false, false).launch(o, ctx);
        }
        let (inner, outer) = (o.ins[1].dim(1).cap(), o.ins[1].dim(0).cap() / by.experts);
        let sizes = Sizes { rows: o.ins[0].dim(0), inner, outer };
        let args = [0, 1, 2, 3].map(|i| o.input(i));
        let workspace = work(self.workspace(o.ins, ctx));
        match (ctx.target, shared) {
            (Target::Cpu, true) => vec![by.product(&sizes, Way::Combined, args, workspace, o.output(0))],
            (Target::Cpu, false) => vec![by.product(&sizes, Way::Backward, args, workspace, o.output(0))],
            (_, false) => vec![by.product(&sizes, Way::Backward, args, Arg::Absent, o.output(0))],
            (_, true) => vec![
                by.product(&sizes, Way::Backward, args, Arg::Absent, workspace),
                combine(by, &sizes, workspace, o.output(0)),
            ],
        }
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(GroupedLinearDx { forward: case.by.clone() });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                let sample = sample.normal(&case.y(), 5).normal(&case.weight(), 4);
                case.dispatch(sample)
            })
            .collect()
    }
}

/// Adds up the slots of each row, in their order.
fn combine(by: &GroupedLinear, s: &Sizes, slots: Arg, y: Arg) -> Launch {
    let params = Params::new().size(s.rows).u32(by.slots).u32(s.inner);
    let items = (s.rows.cap() * s.inner) as u64;
    Launch { kernel: &COMBINE_KERNEL, params, groups: groups(items, 256), args: vec![slots, y] }
}

/// `dW_e = Σ dy[slot]ᵀ·x[slot]` over the slots that meet expert e: the gradient of [`GroupedLinear`] for the weight.
/// Operands `x`, `dy [R, k·O]`, `order`, `offsets`; output `[K·O, I]`. An expert that nobody meets gets zeros.
#[derive(Clone, Debug)]
pub struct GroupedLinearDw {
    pub forward: GroupedLinear,
}

pub static GROUPED_LINEAR_DW: GroupedLinearDw =
    GroupedLinearDw { forward: GroupedLinear { experts: 4, slots: 2, shared: true } };

impl Op for GroupedLinearDw {
    fn name(&self) -> &'static str {
        "grouped_linear_dw"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        let by = &self.forward;
        expect_rank(self.name(), ins, &[2, 2, 2, 1])?;
        expect_experts(self.name(), by.experts, by.slots)?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_same(self.name(), "the rows of x and dy", ins[0].dim(0), ins[1].dim(0))?;
        let (inner, outer) = by.columns(self.name(), &ins[0], Some(&ins[1]))?;
        by.check_dispatch(self.name(), ins, ins[0].dim(0))?;
        // GPUs hold the parts of the sum in one tensor.
        Meta::f32(&[Dim::Fixed(PARTS), Dim::Fixed(by.experts * outer), Dim::Fixed(inner)])?;
        Ok(vec![Meta::f32(&[Dim::Fixed(by.experts * outer), Dim::Fixed(inner)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let by = &self.forward;
        let (rows, outer) = (ins[0].dim(0), ins[1].dim(1) / by.slots);
        let inner = if by.shared { ins[0].dim(1) } else { ins[0].dim(1) / by.slots };
        let mut dw = HostTensor::zeros(&[by.experts * outer, inner]);
        for (e, run) in runs(by, rows, &ins[2], &ins[3]).into_iter().enumerate() {
            for slot in run {
                let row = if by.shared { slot / by.slots } else { slot };
                for o in 0..outer {
                    let dy = ins[1].x()[slot * outer + o];
                    for i in 0..inner {
                        dw.x_mut()[(e * outer + o) * inner + i] += dy * ins[0].x()[row * inner + i];
                    }
                }
            }
        }
        vec![dw]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[1].elements() * outs[0].dim(1).cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [&DW_KERNEL, &SUM_ROWS_KERNEL].into_iter().chain(LINEAR.kernels()).collect()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        let by = &self.forward;
        let outer = ins[1].dim(1).cap() / by.slots;
        let inner = ins[0].dim(1).cap() / if by.shared { 1 } else { by.slots };
        let dispatched = GroupedLinear::is_dispatched(&ins[2]);
        match ctx.target {
            Target::Cpu if dispatched => (by.experts * cpu::GATHERED * (inner + outer)) as u64 * 4,
            Target::Cpu => 0,
            _ if by.shared && !dispatched => 0,
            _ => (PARTS * by.experts * outer * inner) as u64 * 4,
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let by = &self.forward;
        let dispatched = GroupedLinear::is_dispatched(&o.ins[2]);
        if by.shared && !dispatched {
            return transposed_product(o, ctx);
        }
        let (outer, inner) = (o.outs[0].dim(0).cap() / by.experts, o.outs[0].dim(1).cap());
        let is_cpu = ctx.target == Target::Cpu;
        let params = Params::new()
            .size(o.ins[0].dim(0))
            .u32(by.slots)
            .u32(by.experts)
            .u32(inner)
            .u32(outer)
            .u32(by.shared as usize)
            .u32(dispatched as usize)
            .u32(if is_cpu { 1 } else { PARTS });
        let tiles = |n: usize| n.div_ceil(TILE).clamp(1, 65_535) as u32;
        let groups = [tiles(inner), tiles(outer), (by.experts * PARTS) as u32];
        let workspace = work(self.workspace(o.ins, ctx));
        let (scratch, dw) = if is_cpu { (workspace, o.output(0)) } else { (Arg::Absent, workspace) };
        let args = (0..4).map(|i| o.input(i)).chain([scratch, dw]).collect();
        let mut launches = vec![Launch { kernel: &DW_KERNEL, params, groups, args }];
        if !is_cpu {
            launches.push(sum_parts(by.experts * outer * inner, workspace, o.output(0)));
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(GroupedLinearDw { forward: case.by.clone() });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                let sample = sample.normal(&case.x(), 3).normal(&case.y(), 5);
                case.dispatch(sample)
            })
            .collect()
    }
}

/// `dyᵀ·x` of all slots side by side: the gradient where every row meets all experts and all slots read one x.
fn transposed_product(o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let ins = [o.ins[1].clone(), o.ins[0].clone(), Meta::absent(), Meta::absent()];
    let mut launches = Linear::new(true, false).launch(&Operands { ins: &ins, outs: o.outs }, ctx);
    launches.iter_mut().for_each(|l| l.args.swap(0, 1));
    launches
}

/// `dw[i] = Σ_part parts[part, i]`.
fn sum_parts(elements: usize, parts: Arg, dw: Arg) -> Launch {
    let params = Params::new().u32(PARTS).u32(elements).u32(elements);
    Launch { kernel: &SUM_ROWS_KERNEL, params, groups: groups(elements as u64, 64), args: vec![parts, dw] }
}

/// A sample's sizes.
struct Case {
    name: String,
    by: GroupedLinear,
    rows: Dim,
    inner: usize,
    outer: usize,
    dispatched: bool,
    class: Class,
}

const COUNT: usize = 37;

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(&self.name, op).class(self.class).counts(Counts::default().with(Axis(0), COUNT))
    }
    fn x(&self) -> [Dim; 2] {
        [self.rows, Dim::Fixed(if self.by.shared { self.inner } else { self.by.slots * self.inner })]
    }
    fn y(&self) -> [Dim; 2] {
        [self.rows, Dim::Fixed(self.by.slots * self.outer)]
    }
    fn weight(&self) -> [Dim; 2] {
        [Dim::Fixed(self.by.experts * self.outer), Dim::Fixed(self.inner)]
    }
    fn dispatch(&self, sample: Sample) -> Sample {
        if !self.dispatched {
            return sample.absent().absent();
        }
        let rows = self.rows.len(&sample.counts);
        let routed = Dispatch::new(rows, self.by.experts, self.by.slots);
        sample.with(DType::U32, &[self.rows, Dim::Fixed(self.by.slots)], |_| routed.order).with(
            DType::U32,
            &[Dim::Fixed(self.by.experts + 1)],
            |_| routed.offsets,
        )
    }
}

fn cases() -> Vec<Case> {
    let fixed = Dim::Fixed;
    let sizes = [
        ("nothing", fixed(0), 3, 2, 5, 4, Class::Tiny),
        ("one", fixed(1), 1, 1, 1, 1, Class::Tiny),
        ("prime", fixed(31), 5, 2, 13, 7, Class::Tiny),
        ("ragged", Dim::Ragged(Axis(0), 41), 4, 3, 8, 16, Class::Tiny),
        ("several tiles", fixed(157), 2, 2, 67, 20, Class::Tiny),
        ("experts without rows", fixed(2), 16, 1, 4, 3, Class::Tiny),
        ("large, to a low rank", fixed(1031), 8, 3, 260, 16, Class::Full),
        ("large, from a low rank", fixed(1031), 8, 3, 16, 260, Class::Full),
    ];
    let ways = [(true, true), (false, true), (true, false), (false, false)];
    let all = sizes.into_iter().flat_map(|size| ways.map(|way| (size, way)));
    let benches = [
        (("2048 rows, 512 to 16, 2 of 8", fixed(2048), 8, 2, 512, 16, Class::Bench), (true, true)),
        (("2048 rows, 16 to 512, all of 4", fixed(2048), 4, 4, 16, 512, Class::Bench), (false, false)),
    ];
    all.chain(benches)
        .map(|((name, rows, experts, slots, inner, outer, class), (shared, dispatched))| Case {
            name: format!(
                "{name}, {}, {}",
                if shared { "shared x" } else { "own x" },
                if dispatched { "dispatched" } else { "all experts" }
            ),
            by: GroupedLinear { experts, slots: if dispatched { slots } else { experts }, shared },
            rows,
            inner,
            outer,
            dispatched,
            class,
        })
        .collect()
}
