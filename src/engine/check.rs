//! Judges a back end: runs samples on it and compares with the f64 references, with poisoned memory, guards around
//! every tensor, and through the arena so that in-place and missing outputs are met.

use super::autodiff::backprop;
use super::backend::Backend;
use super::graph::{Graph, Value};
use super::op::pointwise::{Unary, UnaryKind};
use super::op::{Class, Op, Sample, noise};
use super::reference;
use super::scheduler::plan::{Command, Plan, Region, RegionBytes, Span, StateLayout, plan_guarded};
use super::tensor::{Counts, DType, HostData, HostTensor, Meta};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// How a sample is run.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Inputs straight from the slot, all outputs wanted.
    Direct,
    /// Every f32 input is copied to the arena first and only output 0 is wanted: in-place and optional outputs.
    Arena,
}

/// The largest error of a sample, relative to its tolerance's base, and where it is.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub error: f64,
    pub what: String,
}

/// Bytes of the pattern that must survive outside of everything a plan writes.
const GUARD: u64 = 1024;
const POISON: u32 = 0x7fc0_dead;

/// What one sample did in one way.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub op: &'static str,
    pub sample: String,
    pub way: Way,
    pub passed: bool,
    /// The largest error relative to the reference; none where the run itself failed.
    pub error: Option<f64>,
    pub tolerance: f64,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Finding { op, sample, way, what, tolerance, .. } = self;
        match self.error {
            Some(error) => write!(f, "{op} [{sample}] {way:?}: {error:.2e} of {tolerance:.0e} allowed, {what}"),
            None => write!(f, "{op} [{sample}] {way:?}: {what}"),
        }
    }
}

/// Runs every sample of `ops` up to a class, in both ways, against its f64 reference; `seen` gets each finding.
pub fn all(backend: &mut dyn Backend, ops: &[&'static dyn Op], largest: Class, mut seen: impl FnMut(Finding)) {
    for op in ops {
        for sample in op.samples().iter().filter(|s| s.class <= largest) {
            for way in [Way::Direct, Way::Arena] {
                let verdict = run(backend, sample, way);
                let tolerance = sample.tolerance.max(backend.ctx().precision.tolerance());
                // A NaN is never small enough.
                let passed = verdict.as_ref().is_ok_and(|v| v.error <= tolerance);
                let (error, what) = match verdict {
                    Ok(v) => (Some(v.error), v.what),
                    Err(e) => (None, e.to_string()),
                };
                seen(Finding { op: op.name(), sample: sample.name.clone(), way, passed, error, tolerance, what });
            }
        }
    }
}

/// Runs a sample and compares. Errors are ‖Δ‖∞ / ‖reference‖∞; integers must be equal.
pub fn run(backend: &mut dyn Backend, sample: &Sample, way: Way) -> Result<Verdict> {
    run_edited(backend, sample, way, |_| ())
}

/// [`run`] with another plan than the planner's: for tests that break something and want to see it noticed.
pub fn run_edited(
    backend: &mut dyn Backend,
    sample: &Sample,
    way: Way,
    edit: impl FnOnce(&mut Plan),
) -> Result<Verdict> {
    let (graph, wanted) = graph_of(sample, way)?;
    let states = StateLayout::default();
    let mut plan = plan_guarded(&sample.name, &graph, &states, &backend.ctx(), GUARD)?;
    edit(&mut plan);
    let plan = Arc::new(plan);
    backend.load(std::slice::from_ref(&plan), plan.bytes, 1)?;
    poison(backend, plan.bytes)?;
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate().filter(|(_, (m, _))| !m.is_absent()) {
        if let Some(slot) = plan.input(&format!("in{i}")) {
            let words = laid_out(meta, value, &sample.counts);
            backend.write(Region::In, 0, slot.span.offset, bytemuck::cast_slice(&words))?;
        }
    }
    backend.submit(0, 0, sample.counts)?;
    backend.wait()?;
    let reference = sample.op.reference(&sample.ins, &sample.counts);
    let mut worst = Verdict { error: 0.0, what: String::new() };
    for o in wanted {
        let Some(slot) = plan.output(&format!("out{o}")) else { continue };
        let mut words = vec![0u32; slot.meta.elements() as usize];
        backend.read(Region::Out, 0, slot.span.offset, bytemuck::cast_slice_mut(&mut words))?;
        let verdict = compare(&slot.meta, &words, &reference[o], &sample.counts, sample.floor_of(o));
        if verdict.error.is_nan() || verdict.error > worst.error {
            worst = Verdict { what: format!("output {o}: {}", verdict.what), ..verdict };
        }
    }
    check_guards(backend, &plan)?;
    Ok(worst)
}

fn graph_of(sample: &Sample, way: Way) -> Result<(Graph, Vec<usize>)> {
    let mut g = Graph::new();
    let identity = Unary { kind: UnaryKind::Affine { a: 1.0, b: 0.0 } };
    let mut ins = vec![];
    for (i, meta) in sample.metas.iter().enumerate() {
        if meta.is_absent() {
            ins.push(Value::ABSENT);
            continue;
        }
        let value = g.input(format!("in{i}"), meta.clone());
        // Elementwise ops take ragged rows only; what is ragged elsewhere stays in the slot.
        let simple = meta.dims().iter().skip(1).all(|d| matches!(d, super::tensor::Dim::Fixed(_)));
        let copy = way == Way::Arena && meta.dtype() == DType::F32 && simple;
        ins.push(if copy { g.apply(identity.clone(), &[value])? } else { value });
    }
    let outs = g.apply_arc(sample.op.clone(), &ins)?;
    let wanted: Vec<usize> = if way == Way::Arena { vec![0] } else { (0..outs.len()).collect() };
    for o in &wanted {
        g.output(format!("out{o}"), outs[*o]);
    }
    Ok((g, wanted))
}

fn poison(backend: &mut dyn Backend, bytes: RegionBytes) -> Result<()> {
    let regions = [(Region::Arena, bytes.arena), (Region::In, bytes.input), (Region::Out, bytes.output)];
    for (region, n) in regions.into_iter().filter(|r| r.1 > 0) {
        backend.write(region, 0, 0, bytemuck::cast_slice(&vec![POISON; (n / 4) as usize]))?;
    }
    Ok(())
}

/// Every byte that no command may write still holds the poison.
fn check_guards(backend: &mut dyn Backend, plan: &Plan) -> Result<()> {
    for (region, n) in [(Region::Arena, plan.bytes.arena), (Region::Out, plan.bytes.output)] {
        if n == 0 {
            continue;
        }
        let mut words = vec![0u32; (n / 4) as usize];
        backend.read(region, 0, 0, bytemuck::cast_slice_mut(&mut words))?;
        let mut mine = vec![false; words.len()];
        for span in written(plan).into_iter().filter(|s| s.region == region) {
            mine[(span.offset / 4) as usize..((span.offset + span.bytes) / 4) as usize].fill(true);
        }
        if let Some(at) = (0..words.len()).find(|i| !mine[*i] && words[*i] != POISON) {
            return Err(Error::shape(&plan.name, format!("wrote outside of its tensors, at word {at} of {region:?}")));
        }
    }
    Ok(())
}

fn written(plan: &Plan) -> Vec<Span> {
    let mut spans = vec![];
    for command in &plan.commands {
        match command {
            Command::Launch(l) => spans.extend(l.args.iter().flatten().copied()),
            Command::Copy { to, .. } | Command::Fill { to, .. } => spans.push(*to),
        }
    }
    spans
}

/// Words of a tensor at full capacity: true elements at their strides, poison elsewhere.
pub fn laid_out(meta: &Meta, value: &HostTensor, counts: &Counts) -> Vec<u32> {
    let mut words = vec![POISON; meta.elements() as usize];
    for (i, at) in positions(meta, counts).into_iter().enumerate() {
        words[at] = match &value.data {
            HostData::F64(v) => (v[i] as f32).to_bits(),
            HostData::U32(v) => v[i],
            HostData::Absent => POISON,
        };
    }
    words
}

/// The position of every true element in memory, in row-major order.
pub fn positions(meta: &Meta, counts: &Counts) -> Vec<usize> {
    let mut at = vec![0usize];
    for d in meta.dims() {
        let len = d.len(counts);
        at = at.iter().flat_map(|base| (0..len).map(move |i| base * d.cap() + i)).collect();
    }
    at
}

/// Whether a value stands for minus infinity, see the rules in ARCHITECTURE.md.
fn is_floor(x: f64) -> bool {
    x <= -1e29
}

/// Compares words at full capacity with a reference of true size; errors are relative to at least `floor`.
fn compare(meta: &Meta, words: &[u32], reference: &HostTensor, counts: &Counts, floor: f64) -> Verdict {
    let at = positions(meta, counts);
    if meta.sizes(counts) != reference.shape {
        let what = format!("shape {:?} where the reference has {:?}", meta.sizes(counts), reference.shape);
        return Verdict { error: f64::NAN, what };
    }
    match &reference.data {
        HostData::F64(v) => {
            let scale = v.iter().filter(|x| !is_floor(**x)).fold(floor, |m, x| m.max(x.abs()));
            let mut worst = Verdict { error: 0.0, what: String::new() };
            for (i, (at, r)) in at.iter().zip(v).enumerate() {
                let x = f64::from(f32::from_bits(words[*at]));
                // A floor would hide every other error behind its size: it is compared with itself.
                let error = (x - r).abs() / if is_floor(*r) { r.abs() } else { scale };
                // A NaN is never less than anything: it must fail, not slip through.
                if error.is_nan() || error > worst.error {
                    worst = Verdict { error, what: format!("element {i} is {x} and should be {r}") };
                    if error.is_nan() {
                        return worst;
                    }
                }
            }
            worst
        }
        HostData::U32(v) => match at.iter().zip(v).position(|(at, r)| words[*at] != *r) {
            Some(i) => {
                let what = format!("element {i} is {} and should be {}", words[at[i]], v[i]);
                Verdict { error: f64::INFINITY, what }
            }
            None => Verdict { error: 0.0, what: String::new() },
        },
        HostData::Absent => Verdict { error: f64::NAN, what: "the reference gave nothing".into() },
    }
}

/// The largest difference between the gradient op, by its reference, and central finite differences of the f64
/// reference, relative to the largest gradient. At most 48 elements of each operand are tried.
pub fn gradient(sample: &Sample) -> Result<Verdict> {
    let mut g = Graph::new();
    let mut given: HashMap<String, HostTensor> = HashMap::new();
    let mut ins = vec![];
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
        if meta.is_absent() {
            ins.push(Value::ABSENT);
        } else {
            given.insert(format!("in{i}"), value.clone());
            ins.push(g.input(format!("in{i}"), meta.clone()));
        }
    }
    let outs = g.apply_arc(sample.op.clone(), &ins)?;
    let forward = sample.op.reference(&sample.ins, &sample.counts);
    let mut seeds = vec![];
    // What is optional is kept for the gradient (a norm, a log-sum-exp): nobody differentiates through it.
    let kept = |o: &usize| *o > 0 && sample.op.optional().contains(o);
    let real = outs.iter().enumerate().filter(|(o, _)| !kept(o) && matches!(forward[*o].data, HostData::F64(_)));
    for (o, out) in real {
        let weights = noise(&forward[o].shape, 1000 + o as u64);
        let seed = g.input(format!("weight{o}"), g.meta(*out));
        given.insert(format!("weight{o}"), weights);
        seeds.push((*out, seed));
    }
    let wrt: Vec<(usize, Value)> = (ins.iter().copied().enumerate())
        .filter(|(i, v)| !v.is_absent() && sample.metas[*i].dtype() == DType::F32)
        .collect();
    let grads = backprop(&mut g, &seeds, &wrt.iter().map(|w| w.1).collect::<Vec<_>>())?;
    let values = reference::evaluate(&g, &given, &sample.counts);
    let loss = |ins: &[HostTensor]| -> f64 {
        let outs = sample.op.reference(ins, &sample.counts);
        // A floor is constant; in the sum it would swallow everything else.
        let dot = |a: &HostTensor, b: &HostTensor| -> f64 {
            a.x().iter().zip(b.x()).filter(|(a, _)| !is_floor(**a)).map(|(a, b)| a * b).sum()
        };
        seeds.iter().map(|(v, _)| dot(&outs[v.out as usize], &given[&format!("weight{}", v.out)])).sum()
    };
    let mut worst = Verdict { error: 0.0, what: String::new() };
    for ((i, _), grad) in wrt.iter().zip(grads) {
        let n = sample.ins[*i].elements();
        let zero = HostTensor::zeros(&sample.ins[*i].shape);
        let grad = grad.map_or(zero, |v| values[&v].clone());
        let scale = grad.x().iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        for e in (0..n).step_by(n.div_ceil(48).max(1)) {
            let step = 1e-5;
            let mut moved = sample.ins.clone();
            moved[*i].x_mut()[e] += step;
            let up = loss(&moved);
            moved[*i].x_mut()[e] -= 2.0 * step;
            let slope = (up - loss(&moved)) / (2.0 * step);
            let error = (slope - grad.x()[e]).abs() / scale;
            if error.is_nan() || error > worst.error {
                worst = Verdict {
                    error,
                    what: format!("operand {i} element {e}: {} by rule, {slope} by steps", grad.x()[e]),
                };
                if error.is_nan() {
                    return Ok(worst);
                }
            }
        }
    }
    Ok(worst)
}

/// The support table's row of an op: whether every sample plans for a target.
pub fn supports(op: &dyn Op, ctx: &super::op::Ctx) -> bool {
    op.samples().iter().all(|s| {
        graph_of(s, Way::Direct).and_then(|(g, _)| plan_guarded("", &g, &StateLayout::default(), ctx, 0)).is_ok()
    })
}
