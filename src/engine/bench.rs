//! Times samples on a device, beside the roofline measured on the same device in the same run.

use super::backend::Backend;
use super::check::laid_out;
use super::graph::{Graph, Value};
use super::op::linear::LINEAR;
use super::op::pointwise::{BINARY, Binary};
use super::op::{Cost, Sample};
use super::scheduler::plan::{Region, StateLayout, plan};
use super::tensor::Dim;
use crate::error::Result;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// The middle of some times; 0 of none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Seconds of contestants that run one after the other, turn by turn: what else a machine does then meets all of them,
/// and ratios within a turn can be trusted where times cannot. `[turn][contestant]`; a first turn warms up and is not
/// counted.
///
/// # Errors
/// Those of `run`, which gets a contestant's number.
pub fn in_turns(turns: usize, contestants: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Vec<Vec<f64>>> {
    let mut time = |which| {
        let begun = Instant::now();
        run(which)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let mut turn = || (0..contestants).map(&mut time).collect::<Result<Vec<f64>>>();
    turn()?;
    (0..turns).map(|_| turn()).collect()
}

/// The median time of a sample and its work.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub bytes: u64,
    pub flops: u64,
    /// Bytes of inputs and outputs that runs rotate through. Where that fits a cache, the sample is timed in cache.
    pub rotated_bytes: u64,
}

/// Copies of a sample are rotated through until they take this much, more than any cache holds,
const ROTATED: u64 = 256 << 20;
/// or until there are so many.
const MOST_COPIES: u64 = 32;

/// What the device reached on a large elementwise op and on a large matrix product.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Roofline {
    pub gigabytes_per_second: f64,
    pub gigaflops: f64,
}

impl Roofline {
    /// The least time this work can take.
    pub fn seconds(&self, m: &Measured) -> f64 {
        (m.bytes as f64 / (self.gigabytes_per_second * 1e9)).max(m.flops as f64 / (self.gigaflops * 1e9))
    }
}

/// Measures both roofs with this engine's own kernels: what is reachable here, not what a data sheet says.
pub fn roofline(backend: &mut dyn Backend, runs: usize) -> Result<Roofline> {
    let large = [Dim::Fixed(1 << 12), Dim::Fixed(1 << 11)];
    let stream = Sample::new("stream", Binary { kind: BINARY.kind }).normal(&large, 1).normal(&large, 2);
    let square = [Dim::Fixed(1024), Dim::Fixed(1024)];
    let gemm = Sample::new("gemm", LINEAR.clone()).normal(&square, 1).normal(&square, 2).absent().absent();
    let stream = measure(backend, &stream, runs)?;
    let gemm = measure(backend, &gemm, runs)?;
    Ok(Roofline {
        gigabytes_per_second: stream.bytes as f64 / stream.seconds / 1e9,
        gigaflops: gemm.flops as f64 / gemm.seconds / 1e9,
    })
}

/// A sample on a device, with output 0 wanted: plan 0 in so many slots, each with its own copy of the inputs.
#[derive(Copy, Clone, Debug)]
pub struct Loaded {
    /// The work of one run.
    pub cost: Cost,
    pub slots: usize,
    /// Bytes of inputs and outputs in all slots.
    pub bytes: u64,
}

/// Loads a sample as often as it takes to leave every cache, within what the device can hold.
pub fn load(backend: &mut dyn Backend, sample: &Sample) -> Result<Loaded> {
    let mut g = Graph::new();
    let ins: Vec<Value> = (sample.metas.iter().enumerate())
        .map(|(i, m)| if m.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), m.clone()) })
        .collect();
    let outs = g.apply_arc(sample.op.clone(), &ins)?;
    g.output("out", outs[0]);
    let plan = Arc::new(plan(&sample.name, &g, &StateLayout::default(), &backend.ctx())?);
    let each = (plan.bytes.input + plan.bytes.output).max(1);
    let room = (backend.memory() / 4).saturating_sub(plan.bytes.arena) / each;
    let slots = ROTATED.div_ceil(each).min(MOST_COPIES).min(room).max(1);
    backend.load(std::slice::from_ref(&plan), plan.bytes, slots as usize)?;
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
        if let Some(slot) = plan.input(&format!("in{i}")) {
            let words = laid_out(meta, value, &sample.counts);
            for copy in 0..slots as usize {
                backend.write(Region::In, copy, slot.span.offset, bytemuck::cast_slice(&words))?;
            }
        }
    }
    Ok(Loaded { cost: plan.cost(), slots: slots as usize, bytes: slots * each })
}

/// Seconds that one round through the copies may take: on a slow device there is no cache to leave.
const ROUND: f64 = 0.5;

/// Runs a sample in its slots, one after the other without waiting in between, once to warm up and then `runs` times;
/// the seconds are those of one run.
pub fn measure(backend: &mut dyn Backend, sample: &Sample, runs: usize) -> Result<Measured> {
    let Loaded { cost, slots, bytes } = load(backend, sample)?;
    let round = |backend: &mut dyn Backend, slots: usize| -> Result<f64> {
        let begun = Instant::now();
        for slot in 0..slots {
            backend.submit(0, slot, sample.counts)?;
        }
        backend.wait()?;
        Ok(begun.elapsed().as_secs_f64() / slots as f64)
    };
    // The first run compiles, the second tells how many copies there is time for.
    round(backend, 1)?;
    let used = ((ROUND / round(backend, 1)?.max(1e-9)) as usize).clamp(1, slots);
    round(backend, used)?;
    let mut times = (0..runs.max(1)).map(|_| round(backend, used)).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(Measured {
        seconds: times[times.len() / 2],
        bytes: cost.bytes_in + cost.bytes_out,
        flops: cost.flops,
        rotated_bytes: bytes / slots as u64 * used as u64,
    })
}
