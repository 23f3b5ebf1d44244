//! From graphs of inference and their parameters to an executor that is ready, in the precision of its device.

use super::backend::Backend;
use super::fuse::fuse;
use super::graph::Graph;
use super::int8::quantise;
use super::op::Precision;
use super::parameters::STATE;
use super::scheduler::executor::Executor;
use super::scheduler::plan::{StateLayout, plan};
use crate::error::Result;

/// Plans graphs by name, in their order, and takes the memory for them; `params` are the values of all their parameters,
/// flat. Other states are the caller's to fill.
///
/// # Errors
/// When a graph cannot be planned, when it is no inference and the precision has no gradients, or when the device has too
/// little memory.
pub fn load(graphs: &[(&str, Graph)], params: &[f32], backend: Box<dyn Backend>) -> Result<Executor> {
    let ctx = backend.ctx();
    let mut fused: Vec<Graph> = graphs.iter().map(|(_, g)| fuse(g)).collect();
    let mut quantised = match ctx.precision {
        // A model that has learned nothing has no weights.
        Precision::Int8 if !params.is_empty() => Some(quantise(&fused)?),
        Precision::Int8 | Precision::F32 | Precision::Bf16 => None,
    };
    if let Some(quantised) = &mut quantised {
        fused = std::mem::take(&mut quantised.graphs);
    }
    let states = StateLayout::of(&fused)?;
    let plans = graphs.iter().zip(&fused).map(|((name, _), g)| plan(name, g, &states, &ctx));
    let mut executor = Executor::new(backend, plans.collect::<Result<_>>()?, states)?;
    match quantised {
        Some(quantised) => quantised.write(&mut executor, params)?,
        None if params.is_empty() => {}
        None => executor.write_state(STATE, params)?,
    }
    Ok(executor)
}
