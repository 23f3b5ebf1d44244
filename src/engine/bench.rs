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

/// The median time of a sample and its work.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub bytes: u64,
    pub flops: u64,
}

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

/// Loads a sample on a device with output 0 wanted, ready to be submitted as plan 0 in slot 0 with its counts. Returns
/// the work of one run.
pub fn load(backend: &mut dyn Backend, sample: &Sample) -> Result<Cost> {
    let mut g = Graph::new();
    let ins: Vec<Value> = (sample.metas.iter().enumerate())
        .map(|(i, m)| if m.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), m.clone()) })
        .collect();
    let outs = g.apply_arc(sample.op.clone(), &ins)?;
    g.output("out", outs[0]);
    let plan = Arc::new(plan(&sample.name, &g, &StateLayout::default(), &backend.ctx())?);
    backend.load(std::slice::from_ref(&plan), plan.bytes, 1)?;
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
        if let Some(slot) = plan.input(&format!("in{i}")) {
            let words = laid_out(meta, value, &sample.counts);
            backend.write(Region::In, 0, slot.span.offset, bytemuck::cast_slice(&words))?;
        }
    }
    Ok(plan.cost())
}

/// Runs a sample on random data, once to warm up and then `runs` times.
pub fn measure(backend: &mut dyn Backend, sample: &Sample, runs: usize) -> Result<Measured> {
    let Cost { flops, bytes_in, bytes_out } = load(backend, sample)?;
    let mut times = vec![];
    for _ in 0..runs.max(1) + 1 {
        let begun = Instant::now();
        backend.submit(0, 0, sample.counts)?;
        backend.wait()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(Measured { seconds: times[times.len() / 2], bytes: bytes_in + bytes_out, flops })
}
