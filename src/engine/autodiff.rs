//! Graph in, larger graph out: gradients are ordinary nodes.

use super::graph::{Graph, Kind, Node, Value, same_memory};
use super::op::pointwise::{Binary, BinaryKind};
use super::op::{Op, Site};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// Adds the gradients of `wrt` to the graph, given those of `seeds` (value, its gradient).
///
/// Seeds are given from outside rather than made here, so that a loss may be split over chunks: a chunk is
/// differentiated from the gradient of its outputs. A value that nothing depends on has no gradient.
pub fn backprop(g: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>> {
    walk(g, seeds, wrt, vec![])
}

/// [`backprop`] that makes the graph's stretches again, each before its way back, from what goes into it (Chen et al.
/// 2016, "Training Deep Nets with Sublinear Memory Cost", with one segment a layer). Of the way there only what goes
/// from stretch to stretch is kept, and the gradients are the same; what nobody needs a second time is not made.
pub fn backprop_again(g: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>> {
    let stretches = g.stretches.clone();
    walk(g, seeds, wrt, stretches)
}

fn walk(
    g: &mut Graph,
    seeds: &[(Value, Value)],
    wrt: &[Value],
    mut stretches: Vec<Range<usize>>,
) -> Result<Vec<Option<Value>>> {
    let mut again: HashMap<u32, u32> = HashMap::new();
    let end = seeds.iter().map(|s| s.0.node + 1).max().unwrap_or(0) as usize;
    let needed = needed(g, wrt, end);
    let mut adjoints: HashMap<Value, Value> = HashMap::new();
    let mut pieces: HashMap<Value, Vec<(Value, u64)>> = HashMap::new();
    for (value, gradient) in seeds {
        if g.meta(*value) != g.meta(*gradient) {
            let what = format!("a seed {} for a value {}", g.meta(*gradient), g.meta(*value));
            return Err(Error::shape("backprop", what));
        }
        accumulate(g, &mut adjoints, *value, *gradient)?;
    }
    for i in (0..end).rev().filter(|i| needed[*i]) {
        if let Some(at) = stretches.iter().position(|s| s.contains(&i)) {
            repeat(g, stretches.swap_remove(at), &mut again);
        }
        let node = g.nodes[i].clone();
        let outs: Vec<Value> = (0..node.outs.len() as u32).map(|out| Value { node: i as u32, out }).collect();
        for out in &outs {
            for whole in assemble(g, *out, pieces.remove(out).unwrap_or_default())? {
                accumulate(g, &mut adjoints, *out, whole)?;
            }
        }
        let douts: Vec<Option<Value>> = outs.iter().map(|v| adjoints.get(v).copied()).collect();
        let Some(dout) = douts.iter().flatten().next().copied() else { continue };
        let dins: Vec<Option<Value>> = match &node.kind {
            Kind::Input(_) | Kind::State(_) | Kind::Fill(_) => continue,
            Kind::View(_) if same_memory(&g.meta(node.ins[0]), &node.outs[0]) => {
                let whole = g.meta(node.ins[0]);
                vec![Some(g.reshape(dout, whole)?)]
            }
            Kind::View(offset) => {
                pieces.entry(node.ins[0]).or_default().push((dout, *offset));
                continue;
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
                let site = Site { ins: renamed(&node.ins, &again), outs: renamed(&outs, &again) };
                let dins = op.grad(g, site, &douts)?;
                check(op.as_ref(), g, &node.ins, &dins)?;
                dins
            }
        };
        for (input, din) in node.ins.iter().zip(dins) {
            if let (false, Some(din)) = (input.is_absent(), din)
                && needed[input.node as usize]
            {
                accumulate(g, &mut adjoints, *input, din)?;
            }
        }
    }
    Ok(wrt.iter().map(|v| adjoints.get(v).copied()).collect())
}

/// Makes the nodes of a stretch a second time at the graph's end; `again` gets the new numbers. Whatever reads the
/// stretch's values before it is reached on the way back reads those of the first time.
fn repeat(g: &mut Graph, stretch: Range<usize>, again: &mut HashMap<u32, u32>) {
    for i in stretch {
        let node = g.nodes[i].clone();
        if matches!(node.kind, Kind::Input(_) | Kind::State(_)) {
            continue;
        }
        let ins = renamed(&node.ins, again);
        again.insert(i as u32, g.nodes.len() as u32);
        g.nodes.push(Node { ins, ..node });
    }
}

/// Values of the second time, where there is one.
fn renamed(values: &[Value], again: &HashMap<u32, u32>) -> Vec<Value> {
    values.iter().map(|v| Value { node: again.get(&v.node).copied().unwrap_or(v.node), ..*v }).collect()
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

/// The gradients of views as gradients of what they look at. Those that do not overlap go side by side into one
/// pack: a flat parameter vector gets its gradient without a copy, however many views it has.
fn assemble(g: &mut Graph, source: Value, mut pieces: Vec<(Value, u64)>) -> Result<Vec<Value>> {
    let meta = g.meta(source);
    pieces.sort_by_key(|(piece, offset)| (*offset, *piece));
    let mut wholes = vec![];
    while !pieces.is_empty() {
        let (mut together, mut later, mut end) = (vec![], vec![], 0);
        for (piece, offset) in pieces {
            if offset >= end {
                end = offset + g.meta(piece).elements();
                together.push((piece, offset));
            } else {
                later.push((piece, offset));
            }
        }
        let flat = g.pack(&together, meta.elements())?;
        wholes.push(if g.meta(flat) == meta { flat } else { g.view(flat, 0, meta.clone())? });
        pieces = later;
    }
    Ok(wholes)
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
        if let Some(d) = d
            && g.meta(*v) != g.meta(*d)
        {
            let what = format!("gradient {i} is {} for an operand {}", g.meta(*d), g.meta(*v));
            return Err(Error::shape(op.name(), what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::op::noise;
    use crate::engine::op::pointwise::{Unary, UnaryKind};
    use crate::engine::reference::evaluate;
    use crate::engine::tensor::{Counts, Dim, HostTensor, Meta};

    fn meta(sizes: &[usize]) -> Meta {
        Meta::f32(&sizes.iter().map(|n| Dim::Fixed(*n)).collect::<Vec<_>>()).unwrap()
    }

    fn tanh() -> Unary {
        Unary { kind: UnaryKind::Tanh }
    }

    /// The gradient of Σ seed·y with respect to input `x`, by rule and by finite differences.
    fn compare(g: &mut Graph, x: Value, y: Value) {
        let seed = g.input("seed", g.meta(y));
        let dx = backprop(g, &[(y, seed)], &[x]).unwrap()[0].unwrap();
        assert_eq!(g.meta(dx), g.meta(x));
        let sizes = |v: Value| g.meta(v).sizes(&Counts::default());
        let mut given: HashMap<String, HostTensor> = HashMap::new();
        given.insert("x".into(), noise(&sizes(x), 1));
        given.insert("seed".into(), noise(&sizes(y), 2));
        let loss = |given: &HashMap<String, HostTensor>| -> f64 {
            let values = evaluate(g, given, &Counts::default());
            values[&y].x().iter().zip(values[&seed].x()).map(|(a, b)| a * b).sum()
        };
        let rule = evaluate(g, &given, &Counts::default())[&dx].clone();
        for e in 0..rule.elements() {
            let mut moved = given.clone();
            moved.get_mut("x").unwrap().x_mut()[e] += 1e-5;
            let up = loss(&moved);
            moved.get_mut("x").unwrap().x_mut()[e] -= 2e-5;
            let slope = (up - loss(&moved)) / 2e-5;
            assert!((slope - rule.x()[e]).abs() < 1e-6, "element {e}: {} by rule, {slope} by steps", rule.x()[e]);
        }
    }

    fn packs(g: &Graph) -> usize {
        g.nodes.iter().filter(|n| matches!(n.kind, Kind::Pack(_))).count()
    }

    #[test]
    fn views_side_by_side_share_one_pack_as_their_gradient() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[300]));
        let a = g.view(x, 128, meta(&[10, 10])).unwrap();
        let b = g.view(x, 0, meta(&[100])).unwrap();
        let b = g.view(b, 0, meta(&[10, 10])).unwrap();
        let a = g.apply(tanh(), &[a]).unwrap();
        let y = g.apply(Binary { kind: BinaryKind::Mul }, &[a, b]).unwrap();
        compare(&mut g, x, y);
        assert_eq!(packs(&g), 1, "the view of a view of the same elements needs none of its own\n{}", g.dump());
    }

    #[test]
    fn overlapping_views_add_up() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[200]));
        let a = g.view(x, 0, meta(&[100])).unwrap();
        let b = g.view(x, 64, meta(&[100])).unwrap();
        let a = g.apply(tanh(), &[a]).unwrap();
        let y = g.apply(Binary { kind: BinaryKind::Mul }, &[a, b]).unwrap();
        compare(&mut g, x, y);
    }

    #[test]
    fn the_gradient_of_a_view_of_a_matrix_is_a_matrix() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[4, 64]));
        let row = g.view(x, 64, meta(&[64])).unwrap();
        let whole = g.apply(tanh(), &[x]).unwrap();
        let first = g.view(whole, 0, meta(&[64])).unwrap();
        let y = g.apply(Binary { kind: BinaryKind::Mul }, &[row, first]).unwrap();
        compare(&mut g, x, y);
    }

    #[test]
    fn a_part_packed_twice_gets_both_gradients() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[5]));
        let a = g.apply(tanh(), &[x]).unwrap();
        let y = g.pack(&[(a, 0), (x, 64), (a, 128)], 140).unwrap();
        compare(&mut g, x, y);
    }

    #[test]
    fn a_view_itself_may_be_what_is_asked_for() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[128]));
        let view = g.view(x, 64, meta(&[64])).unwrap();
        let y = g.apply(tanh(), &[view]).unwrap();
        let seed = g.input("seed", meta(&[64]));
        let unrelated = g.input("unrelated", meta(&[3]));
        let grads = backprop(&mut g, &[(y, seed)], &[view, unrelated, x]).unwrap();
        assert!(grads[0].is_some() && grads[1].is_none() && grads[2].is_some());
        assert_eq!(g.meta(grads[0].unwrap()), meta(&[64]));
    }

    #[test]
    fn a_seed_of_another_shape_is_refused() {
        let mut g = Graph::new();
        let x = g.input("x", meta(&[4]));
        let y = g.apply(tanh(), &[x]).unwrap();
        let seed = g.input("seed", meta(&[5]));
        let e = backprop(&mut g, &[(y, seed)], &[x]).unwrap_err().to_string();
        assert!(e.contains("f32[5]") && e.contains("f32[4]"), "{e}");
    }
}
