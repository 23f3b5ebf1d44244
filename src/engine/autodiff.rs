//! Graph in, larger graph out: gradients are ordinary nodes.

use super::graph::{Graph, Kind, Value, same_memory};
use super::op::pointwise::{Binary, BinaryKind};
use super::op::{Op, Site};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Adds the gradients of `wrt` to the graph, given those of `seeds` (value, its gradient).
///
/// Seeds are given from outside rather than made here, so that a loss may be split over chunks: a chunk is
/// differentiated from the gradient of its outputs. A value that nothing depends on has no gradient.
pub fn backprop(g: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>> {
    let end = seeds.iter().map(|s| s.0.node + 1).max().unwrap_or(0) as usize;
    let needed = needed(g, wrt, end);
    let mut adjoints: HashMap<Value, Value> = HashMap::new();
    for (value, gradient) in seeds {
        accumulate(g, &mut adjoints, *value, *gradient)?;
    }
    for i in (0..end).rev().filter(|i| needed[*i]) {
        let node = g.nodes[i].clone();
        let outs: Vec<Value> = (0..node.outs.len() as u32).map(|out| Value { node: i as u32, out }).collect();
        let douts: Vec<Option<Value>> = outs.iter().map(|v| adjoints.get(v).copied()).collect();
        let Some(dout) = douts.iter().flatten().next().copied() else { continue };
        let dins: Vec<Option<Value>> = match &node.kind {
            Kind::Input(_) | Kind::State(_) | Kind::Fill(_) => continue,
            Kind::View(offset) => {
                if !needed[node.ins[0].node as usize] {
                    continue;
                }
                let whole = g.meta(node.ins[0]);
                if same_memory(&whole, &node.outs[0]) {
                    vec![Some(g.reshape(dout, whole)?)]
                } else {
                    let flat = g.pack(&[(dout, *offset)], whole.elements())?;
                    vec![Some(g.reshape(flat, whole)?)]
                }
            }
            Kind::Pack(offsets) => {
                let mut dins = vec![];
                for (part, offset) in node.ins.iter().zip(offsets) {
                    let meta = g.meta(*part);
                    dins.push(Some(g.view(dout, *offset, meta)?));
                }
                dins
            }
            Kind::Apply(op) => {
                let dins = op.grad(g, Site { ins: node.ins.clone(), outs }, &douts)?;
                check(op.as_ref(), g, &node.ins, &dins)?;
                dins
            }
        };
        for (input, din) in node.ins.iter().zip(dins) {
            if let (false, Some(din)) = (input.is_absent(), din) {
                if needed[input.node as usize] {
                    accumulate(g, &mut adjoints, *input, din)?;
                }
            }
        }
    }
    Ok(wrt.iter().map(|v| adjoints.get(v).copied()).collect())
}

/// For every node before `end`, whether it depends on a value of `wrt` (or is one).
fn needed(g: &Graph, wrt: &[Value], end: usize) -> Vec<bool> {
    let mut needed = vec![false; g.nodes.len()];
    for v in wrt {
        needed[v.node as usize] = true;
    }
    for i in 0..end {
        needed[i] |= g.nodes[i].ins.iter().any(|v| !v.is_absent() && needed[v.node as usize]);
    }
    needed
}

fn accumulate(g: &mut Graph, adjoints: &mut HashMap<Value, Value>, v: Value, d: Value) -> Result<()> {
    let sum = match adjoints.get(&v) {
        Some(before) => g.apply(Binary { kind: BinaryKind::Add }, &[*before, d])?,
        None => d,
    };
    adjoints.insert(v, sum);
    Ok(())
}

/// A gradient has its input's shape; an op that breaks this is found here rather than in a wrong number.
fn check(op: &dyn Op, g: &Graph, ins: &[Value], dins: &[Option<Value>]) -> Result<()> {
    if ins.len() != dins.len() {
        return Err(Error::shape(op.name(), "its gradient rule returns another number of operands"));
    }
    for (i, (v, d)) in ins.iter().zip(dins).enumerate() {
        if let Some(d) = d {
            if g.meta(*v) != g.meta(*d) {
                let what = format!("gradient {i} is {} for an operand {}", g.meta(*d), g.meta(*v));
                return Err(Error::shape(op.name(), what));
            }
        }
    }
    Ok(())
}
