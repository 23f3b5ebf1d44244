//! Experts of low rank with a trunk in common: what a routed slot makes of its row.

use super::super::backend::cpu::experts as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::route::{Dispatch, expect_experts, expect_table};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_dtype,
    expect_fixed, expect_rank, expect_same, groups, no_gradient, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// `experts[r, s] = v[r] + δ[r, s]` with `δ[r, s] = shared[r] + low[r, s] + diagonal_e ⊙ v[r] + bias_e`, e the expert of
/// slot s.
///
/// Operands `low [R, k·D]`, `shared [R, D]`, `v [R, D]`, `diagonal [K, D]`, `bias [K, D]`, `table` u32 `[R, k]`
/// optional: without it slot s is expert s, and k = K. R may be ragged. Outputs `experts [R, k·D]` and `delta
/// [R, k·D]`. The diagonal and the bias of an expert beyond those there are count as 0.
#[derive(Clone, Debug)]
pub struct Expert;

pub static EXPERT: Expert = Expert;

static EXPERT_KERNEL: KernelDef = KernelDef {
    name: "expert",
    operands: &[
        read("low"),
        read("shared_part"),
        read("v"),
        read("diagonal"),
        read("bias"),
        read_u32("table"),
        write("y"),
        write("delta"),
    ],
    cpu: Some(cpu::expert),
    wgsl: Some(include_str!("../../../wgsl/expert.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

/// D, k and K of the operands.
#[derive(Copy, Clone)]
struct Sizes {
    rows: Dim,
    cols: usize,
    slots: usize,
    experts: usize,
}

impl Sizes {
    fn of(op: &str, wide: &Meta, v: &Meta, diagonal: &Meta, table: &Meta) -> Result<Sizes> {
        let cols = expect_fixed(op, "columns", v.dim(1))?;
        let width = expect_fixed(op, "the columns of all slots", wide.dim(1))?;
        let experts = expect_fixed(op, "experts", diagonal.dim(0))?;
        if cols == 0 || !width.is_multiple_of(cols) {
            return Err(Error::shape(op, format!("{width} columns of all slots are no multiple of the {cols} of v")));
        }
        let slots = width / cols;
        expect_experts(op, experts, slots)?;
        expect_same(op, "rows", wide.dim(0), v.dim(0))?;
        expect_same(op, "the columns of v and the diagonal", v.dim(1), diagonal.dim(1))?;
        if table.is_absent() && slots != experts {
            let got = format!("{slots} slots of {experts} experts");
            return Err(Error::shape(op, format!("without a table slot s is expert s, and there are {got}")));
        } else if !table.is_absent() {
            expect_table(op, table, v.dim(0), slots)?;
        }
        Ok(Sizes { rows: v.dim(0), cols, slots, experts })
    }
    /// What infer has accepted.
    fn known(wide: &Meta, v: &Meta, diagonal: &Meta) -> Sizes {
        let cols = v.dim(1).cap();
        Sizes { rows: v.dim(0), cols, slots: wide.dim(1).cap() / cols, experts: diagonal.dim(0).cap() }
    }
    fn params(&self, table: &Meta) -> Params {
        let sizes = Params::new().size(self.rows).u32(self.cols).u32(self.slots).u32(self.experts);
        sizes.u32(!table.is_absent() as usize)
    }
}

/// The expert of slot s of row r.
fn expert_of(table: &HostTensor, r: usize, s: usize, slots: usize) -> usize {
    table.u().get(r * slots + s).map_or(s, |e| *e as usize)
}

impl Op for Expert {
    fn name(&self) -> &'static str {
        "expert"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2; 6])?;
        (0..5).try_for_each(|i| expect_dtype(self.name(), ins, i, DType::F32))?;
        Sizes::of(self.name(), &ins[0], &ins[2], &ins[3], &ins[5])?;
        if ins[1] != ins[2] || ins[4] != ins[3] {
            let got = format!("{} and {}, {} and {}", ins[1], ins[2], ins[3], ins[4]);
            return Err(Error::shape(self.name(), format!("shared and v, diagonal and bias must agree and are {got}")));
        }
        Ok(vec![ins[0].clone(), ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [low, shared, v, diagonal, bias] = [0, 1, 2, 3, 4].map(|i| ins[i].x());
        let (rows, cols, experts) = (ins[2].dim(0), ins[2].dim(1), ins[3].dim(0));
        let slots = ins[0].dim(1) / cols;
        let mut outs = vec![HostTensor::zeros(&ins[0].shape); 2];
        for r in 0..rows {
            for s in 0..slots {
                let e = expert_of(&ins[5], r, s, slots);
                for c in 0..cols {
                    let at = (r * slots + s) * cols + c;
                    let own =
                        if e < experts { diagonal[e * cols + c] * v[r * cols + c] + bias[e * cols + c] } else { 0.0 };
                    outs[1].x_mut()[at] = shared[r * cols + c] + low[at] + own;
                    outs[0].x_mut()[at] = v[r * cols + c] + outs[1].x()[at];
                }
            }
        }
        outs
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let [v, diagonal, table] = [2, 3, 5].map(|i| n.ins[i]);
        let given = [dout[0], dout[1]].map(|d| d.unwrap_or(Value::ABSENT));
        let outs = g.apply_all(ExpertGrad, &[given[0], given[1], v, diagonal, table])?;
        let dlow = match (dout[0], dout[1]) {
            (Some(d), None) | (None, Some(d)) => d,
            _ => outs[0],
        };
        Ok([dlow, outs[1], outs[2], outs[3], outs[4]].into_iter().map(Some).chain([None]).collect())
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 5 * outs[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&EXPERT_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let sizes = Sizes::known(&o.ins[0], &o.ins[2], &o.ins[3]);
        let params = sizes.params(&o.ins[5]).u32(!o.outs[1].is_absent() as usize);
        let items = o.outs[0].elements();
        vec![Launch { kernel: &EXPERT_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(Expert).normal(&case.wide(), 3).normal(&case.narrow(), 4);
                let sample = sample.normal(&case.narrow(), 5).normal(&case.own(), 6).normal(&case.own(), 7);
                case.table(sample)
            })
            .collect()
    }
}

/// The gradient of [`Expert`]. Operands `dexperts [R, k·D]`, `ddelta [R, k·D]`, either of which may be absent, `v
/// [R, D]`, `diagonal [K, D]`, `table` u32 `[R, k]` optional. With d = dexperts + ddelta, outputs `dlow [R, k·D]` = d,
/// `dshared [R, D]` = Σ_s d, `dv [R, D]` = Σ_s (dexperts + diagonal_e ⊙ d), and over all slots that meet expert e
/// `ddiagonal [K, D]` = Σ v ⊙ d and `dbias [K, D]` = Σ d.
#[derive(Clone, Debug)]
pub struct ExpertGrad;

pub static EXPERT_GRAD: ExpertGrad = ExpertGrad;

static PARTS_KERNEL: KernelDef = KernelDef {
    name: "expert_parts",
    operands: &[read("dexperts"), read("ddelta"), read("v"), read_u32("table"), write("sums")],
    cpu: None,
    wgsl: Some(include_str!("../../../wgsl/expert_parts.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

static SUM_KERNEL: KernelDef = KernelDef {
    name: "expert_sum",
    operands: &[read("sums"), write("ddiagonal"), write("dbias")],
    cpu: Some(cpu::expert_sum),
    wgsl: Some(include_str!("../../../wgsl/expert_sum.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

static GRAD_KERNEL: KernelDef = KernelDef {
    name: "expert_grad",
    operands: &[
        read("dexperts"),
        read("ddelta"),
        read("v"),
        read("diagonal"),
        read_u32("table"),
        write("dlow"),
        write("dshared"),
        write("dv"),
        write("sums"),
    ],
    cpu: Some(cpu::expert_grad),
    wgsl: Some(include_str!("../../../wgsl/expert_grad.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

/// Rows that the first stage of the sums over rows adds up.
const PART_ROWS: usize = 128;

impl ExpertGrad {
    fn wide(ins: &[Meta]) -> &Meta {
        if ins[0].is_absent() { &ins[1] } else { &ins[0] }
    }
}

impl Op for ExpertGrad {
    fn name(&self) -> &'static str {
        "expert_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2; 5])?;
        (2..4).try_for_each(|i| expect_dtype(self.name(), ins, i, DType::F32))?;
        let wide = ExpertGrad::wide(ins);
        if wide.is_absent() || wide.dtype() != DType::F32 || ![wide, &Meta::absent()].contains(&&ins[1]) {
            let got = format!("{} and {}", ins[0], ins[1]);
            return Err(Error::shape(self.name(), format!("takes one gradient or two of one shape and got {got}")));
        }
        let s = Sizes::of(self.name(), wide, &ins[2], &ins[3], &ins[4])?;
        let parts = s.rows.cap().div_ceil(PART_ROWS);
        // The sums of the first stage are one tensor.
        Meta::f32(&[parts, s.experts, 2, s.cols].map(Dim::Fixed))?;
        Ok(vec![wide.clone(), ins[2].clone(), ins[2].clone(), ins[3].clone(), ins[3].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (rows, cols, experts) = (ins[2].dim(0), ins[2].dim(1), ins[3].dim(0));
        let wide = if ins[0].is_absent() { &ins[1].shape } else { &ins[0].shape };
        let slots = wide[1] / cols;
        let mut outs = [wide, &ins[2].shape, &ins[2].shape, &ins[3].shape, &ins[3].shape].map(|s| HostTensor::zeros(s));
        for r in 0..rows {
            for s in 0..slots {
                let e = expert_of(&ins[4], r, s, slots);
                for c in 0..cols {
                    let at = (r * slots + s) * cols + c;
                    let [dexperts, ddelta] = [0, 1].map(|i| ins[i].x().get(at).copied().unwrap_or(0.0));
                    let d = dexperts + ddelta;
                    outs[0].x_mut()[at] = d;
                    outs[1].x_mut()[r * cols + c] += d;
                    outs[2].x_mut()[r * cols + c] += dexperts;
                    if e < experts {
                        outs[2].x_mut()[r * cols + c] += ins[3].x()[e * cols + c] * d;
                        outs[3].x_mut()[e * cols + c] += ins[2].x()[r * cols + c] * d;
                        outs[4].x_mut()[e * cols + c] += d;
                    }
                }
            }
        }
        outs.to_vec()
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 8 * outs[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[0, 1, 2, 3, 4]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&PARTS_KERNEL, &SUM_KERNEL, &GRAD_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        let s = Sizes::known(ExpertGrad::wide(ins), &ins[2], &ins[3]);
        (s.rows.cap().div_ceil(PART_ROWS) * s.experts * 2 * s.cols) as u64 * 4
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let s = Sizes::known(ExpertGrad::wide(o.ins), &o.ins[2], &o.ins[3]);
        let parts = s.rows.cap().div_ceil(PART_ROWS).max(1);
        let wanted: Vec<bool> = o.outs.iter().map(|m| !m.is_absent()).collect();
        let sums = match self.workspace(o.ins, ctx) {
            bytes if bytes > 0 && (wanted[3] || wanted[4]) => Arg::Work { offset: 0, bytes },
            _ => Arg::Absent,
        };
        let [dexperts, ddelta, v, diagonal, table] = [0, 1, 2, 3, 4].map(|i| o.input(i));
        let given = [dexperts, ddelta].map(|d| (d != Arg::Absent) as usize);
        let size = s.params(&o.ins[4]).u32(given[0]).u32(given[1]).u32(PART_ROWS);
        let mut launches = vec![];
        let fused = ctx.target == Target::Cpu;
        // The sums come first where they have a kernel of their own: `dlow` may take a gradient's place.
        if !fused && sums != Arg::Absent {
            let strips = groups(s.cols as u64, 64)[0];
            launches.push(Launch {
                kernel: &PARTS_KERNEL,
                params: size.clone(),
                groups: [strips, parts.min(65_535) as u32, s.experts as u32],
                args: vec![dexperts, ddelta, v, table, sums],
            });
        }
        if wanted[..3].contains(&true) || fused {
            launches.push(Launch {
                kernel: &GRAD_KERNEL,
                params: wanted[..3].iter().fold(size.clone(), |p, w| p.u32(*w as usize)),
                groups: groups((s.rows.cap() * s.cols) as u64, 256),
                args: [dexperts, ddelta, v, diagonal, table]
                    .into_iter()
                    .chain([0, 1, 2].map(|i| o.output(i)))
                    .chain([if fused { sums } else { Arg::Absent }])
                    .collect(),
            });
        }
        if wanted[3] || wanted[4] {
            launches.push(Launch {
                kernel: &SUM_KERNEL,
                params: size.u32(wanted[3] as usize).u32(wanted[4] as usize),
                groups: groups((s.experts * s.cols) as u64, 256),
                args: vec![sums, o.output(3), o.output(4)],
            });
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        let given = [("both", true, true), ("experts only", true, false), ("delta only", false, true)];
        let all = cases().into_iter().flat_map(|case| given.map(|g| (case.clone(), g)));
        all.filter(|(case, g)| g.1 && g.2 || case.class == Class::Tiny)
            .map(|(case, (which, dexperts, ddelta))| {
                let sample = Sample { name: format!("{}, {which}", case.name), ..case.sample(ExpertGrad) };
                let mut sample = sample.gradient(Gradient::None("is itself a gradient"));
                for (present, seed) in [(dexperts, 3), (ddelta, 4)] {
                    sample = if present { sample.normal(&case.wide(), seed) } else { sample.absent() };
                }
                case.table(sample.normal(&case.narrow(), 5).normal(&case.own(), 6))
            })
            .collect()
    }
}

/// A sample's sizes.
#[derive(Clone)]
struct Case {
    name: &'static str,
    rows: Dim,
    cols: usize,
    experts: usize,
    slots: usize,
    routed: bool,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(Counts::default().with(Axis(0), 37))
    }
    fn wide(&self) -> [Dim; 2] {
        [self.rows, Dim::Fixed(self.slots * self.cols)]
    }
    fn narrow(&self) -> [Dim; 2] {
        [self.rows, Dim::Fixed(self.cols)]
    }
    fn own(&self) -> [Dim; 2] {
        [Dim::Fixed(self.experts), Dim::Fixed(self.cols)]
    }
    fn table(&self, sample: Sample) -> Sample {
        if !self.routed {
            return sample.absent();
        }
        let routed = Dispatch::new(self.rows.len(&sample.counts), self.experts, self.slots);
        sample.with(DType::U32, &[self.rows, Dim::Fixed(self.slots)], |_| routed.table)
    }
}

fn cases() -> [Case; 8] {
    let fixed = Dim::Fixed;
    let case =
        |name, rows, cols, experts, slots, routed, class| Case { name, rows, cols, experts, slots, routed, class };
    [
        case("nothing", fixed(0), 3, 4, 2, true, Class::Tiny),
        case("one", fixed(1), 1, 1, 1, false, Class::Tiny),
        case("prime", fixed(31), 13, 5, 2, true, Class::Tiny),
        case("ragged", Dim::Ragged(Axis(0), 41), 7, 3, 2, true, Class::Tiny),
        case("all experts", fixed(17), 20, 4, 4, false, Class::Tiny),
        case("several parts", fixed(263), 70, 2, 2, false, Class::Tiny),
        case("large", fixed(1031), 131, 16, 4, true, Class::Full),
        case("2048 rows, 512, 2 of 8", fixed(2048), 512, 8, 2, true, Class::Bench),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::autodiff::backprop;
    use super::super::super::reference::evaluate;
    use super::super::noise;
    use super::*;
    use std::collections::HashMap;

    /// The checks of all ops seed no optional output: they are kept for gradients elsewhere. Here `delta` has one.
    #[test]
    fn the_gradient_through_delta_agrees_with_finite_differences() {
        let seed = crate::seed::seed();
        let samples = Expert.samples();
        let tiny = samples.iter().filter(|s| s.class == Class::Tiny);
        for (sample, through) in tiny.flat_map(|s| [(s, &[0, 1][..]), (s, &[1])]) {
            let mut g = Graph::new();
            let mut given = HashMap::new();
            let mut ins = vec![Value::ABSENT; sample.metas.len()];
            for (i, meta) in sample.metas.iter().enumerate().filter(|(_, m)| !m.is_absent()) {
                ins[i] = g.input(format!("in{i}"), meta.clone());
                given.insert(format!("in{i}"), sample.ins[i].clone());
            }
            let outs = g.apply_all(Expert, &ins).unwrap();
            let weights = [0, 1].map(|o| noise(&sample.ins[0].shape, seed + o));
            let seeds: Vec<(Value, Value)> = (through.iter())
                .map(|o| {
                    given.insert(format!("weight{o}"), weights[*o].clone());
                    let meta = g.meta(outs[*o]);
                    (outs[*o], g.input(format!("weight{o}"), meta))
                })
                .collect();
            let grads = backprop(&mut g, &seeds, &ins[..5]).unwrap();
            let values = evaluate(&g, &given, &sample.counts);
            let loss = |ins: &[HostTensor]| -> f64 {
                let outs = Expert.reference(ins, &sample.counts);
                let terms = through.iter().flat_map(|o| outs[*o].x().iter().zip(weights[*o].x()));
                terms.map(|(y, w)| y * w).sum()
            };
            for (i, grad) in grads.into_iter().enumerate() {
                let grad = &values[&grad.unwrap()];
                for e in (0..grad.elements()).step_by(grad.elements().div_ceil(16).max(1)) {
                    let moved = |by: f64| {
                        let mut ins = sample.ins.clone();
                        ins[i].x_mut()[e] += by;
                        loss(&ins)
                    };
                    let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                    let error = (slope - grad.x()[e]).abs();
                    assert!(error < 1e-6 * slope.abs().max(1.0), "seed {seed}, {}, {through:?}: {i}, {e}", sample.name);
                }
            }
        }
    }
}
