//! Rewrites of a whole graph, used after autodiff: a fixed list, applied in order until none applies. Outputs,
//! assigned states and their values stay; what nobody needs any more goes.

use super::graph::{Graph, Kind, Node, Value};
use super::op::linear::{Activation, Linear};
use super::op::pointwise::{BinaryKind, Unary, UnaryKind};
use super::op::{Form, Op};
use std::sync::Arc;

/// One rewrite: what node `i` becomes, if it applies there.
struct Rewrite {
    name: &'static str,
    apply: fn(&Graph, &[usize], usize) -> Option<Change>,
}

enum Change {
    /// The node keeps its number and outputs, and is computed in another way.
    Into(Arc<dyn Op>, Vec<Value>),
    /// Whoever reads the node's first output reads this value.
    Forward(Value),
}

const REWRITES: &[Rewrite] = &[
    Rewrite { name: "affine of affine", apply: affine_of_affine },
    Rewrite { name: "identity", apply: identity },
    Rewrite { name: "activation into linear", apply: activation_into_linear },
    Rewrite { name: "residual into linear", apply: residual_into_linear },
];

/// The names of all rewrites, in their order.
pub fn rewrites() -> impl Iterator<Item = &'static str> {
    REWRITES.iter().map(|r| r.name)
}

/// The same function with fewer and larger nodes.
pub fn fuse(graph: &Graph) -> Graph {
    let mut g = without_dead(graph);
    let mut changed = true;
    while changed {
        changed = false;
        for rewrite in REWRITES {
            let mut count = readers(&g);
            for i in 0..g.nodes.len() {
                if let Some(change) = (rewrite.apply)(&g, &count, i) {
                    make(&mut g, i, change);
                    count = readers(&g);
                    changed = true;
                }
            }
            g = without_dead(&g);
        }
    }
    g
}

fn make(g: &mut Graph, i: usize, change: Change) {
    match change {
        Change::Into(op, ins) => {
            g.nodes[i].kind = Kind::Apply(op);
            g.nodes[i].ins = ins;
        }
        Change::Forward(to) => {
            let from = Value { node: i as u32, out: 0 };
            let reads = g.nodes.iter_mut().flat_map(|n| &mut n.ins);
            let kept = g.outputs.iter_mut().map(|o| &mut o.1).chain(g.assigns.iter_mut().map(|a| &mut a.1));
            reads.chain(kept).filter(|v| **v == from).for_each(|v| *v = to);
        }
    }
}

/// How often each node is read, by live nodes, outputs and assignments. Only nodes of one output are rewritten, so
/// one number a node is enough.
fn readers(g: &Graph) -> Vec<usize> {
    let mut count = vec![0; g.nodes.len()];
    let live = g.live();
    let reads = g.nodes.iter().zip(&live).filter(|(_, live)| **live).flat_map(|(n, _)| &n.ins);
    let kept = g.outputs.iter().map(|o| &o.1).chain(g.assigns.iter().map(|a| &a.1));
    for v in reads.chain(kept).filter(|v| !v.is_absent()) {
        count[v.node as usize] += 1;
    }
    count
}

fn form(node: &Node) -> Form {
    match &node.kind {
        Kind::Apply(op) => op.form(),
        _ => Form::Other,
    }
}

/// The node behind a value that nobody else reads.
fn only<'a>(g: &'a Graph, readers: &[usize], v: Value) -> Option<&'a Node> {
    (!v.is_absent() && readers[v.node as usize] == 1).then(|| &g.nodes[v.node as usize])
}

/// c·(a·x + b) + d → (c·a)·x + (c·b + d)
fn affine_of_affine(g: &Graph, readers: &[usize], i: usize) -> Option<Change> {
    let node = &g.nodes[i];
    let Form::Unary(UnaryKind::Affine { a: c, b: d }) = form(node) else { return None };
    let inner = only(g, readers, node.ins[0])?;
    let Form::Unary(UnaryKind::Affine { a, b }) = form(inner) else { return None };
    let (a, b) = (c * a, c * b + d);
    let op = Unary { kind: UnaryKind::Affine { a, b } };
    (a.is_finite() && b.is_finite()).then(|| Change::Into(Arc::new(op), inner.ins.clone()))
}

/// 1·x + 0 → x, unless a state would then be assigned to a state.
fn identity(g: &Graph, readers: &[usize], i: usize) -> Option<Change> {
    let node = &g.nodes[i];
    if form(node) != Form::Unary(UnaryKind::Affine { a: 1.0, b: 0.0 }) || readers[i] == 0 {
        return None;
    }
    let here = Value { node: i as u32, out: 0 };
    let of_state = matches!(g.nodes[root(g, node.ins[0]).node as usize].kind, Kind::State(_));
    let assigned = g.assigns.iter().any(|a| root(g, a.1) == here);
    (!(of_state && assigned)).then_some(Change::Forward(node.ins[0]))
}

/// act(A·B + bias) → linear with that epilogue. Not over a residual, which is added after the activation.
fn activation_into_linear(g: &Graph, readers: &[usize], i: usize) -> Option<Change> {
    let node = &g.nodes[i];
    let Form::Unary(kind) = form(node) else { return None };
    let activation = Activation::of(kind)?;
    let inner = only(g, readers, node.ins[0])?;
    let Form::Linear(linear) = form(inner) else { return None };
    let plain = linear.activation == Activation::None && inner.ins[3].is_absent();
    plain.then(|| Change::Into(Arc::new(Linear { activation, ..linear }), inner.ins.clone()))
}

/// linear + x → linear with x as its residual; either side of the sum.
fn residual_into_linear(g: &Graph, readers: &[usize], i: usize) -> Option<Change> {
    let node = &g.nodes[i];
    if form(node) != Form::Binary(BinaryKind::Add) {
        return None;
    }
    [(0, 1), (1, 0)].into_iter().find_map(|(product, other)| {
        let inner = only(g, readers, node.ins[product])?;
        let Form::Linear(linear) = form(inner) else { return None };
        let mut ins = inner.ins.clone();
        let free = ins[3].is_absent();
        ins[3] = node.ins[other];
        free.then(|| Change::Into(Arc::new(linear), ins))
    })
}

/// What a chain of views looks at.
fn root(g: &Graph, mut v: Value) -> Value {
    while matches!(g.nodes[v.node as usize].kind, Kind::View(_)) {
        v = g.nodes[v.node as usize].ins[0];
    }
    v
}

/// The graph without nodes that nothing kept depends on.
pub(super) fn without_dead(g: &Graph) -> Graph {
    let live = g.live();
    let mut numbers = vec![u32::MAX; g.nodes.len()];
    let mut kept = Graph::new();
    let moved = |numbers: &[u32], v: Value| match v.is_absent() {
        true => v,
        false => Value { node: numbers[v.node as usize], ..v },
    };
    for (i, node) in g.nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
        numbers[i] = kept.nodes.len() as u32;
        let ins = node.ins.iter().map(|v| moved(&numbers, *v)).collect();
        kept.nodes.push(Node { ins, ..node.clone() });
    }
    kept.outputs = g.outputs.iter().map(|(name, v)| (name.clone(), moved(&numbers, *v))).collect();
    kept.assigns = g.assigns.iter().map(|(s, v)| (moved(&numbers, *s), moved(&numbers, *v))).collect();
    kept
}
