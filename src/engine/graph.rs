//! A graph is a list of nodes in single-assignment form; a node's inputs always stand before it.
//!
//! Besides ops there are inputs, states, `fill`, and the zero-copy `view` and `pack`. `assign` says that a state
//! takes a new value when the step ends. Everything here is plain data: nothing is computed.

use super::op::Op;
use super::tensor::{DType, Dim, Meta};
use crate::error::{Error, Result};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// One output of one node.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    pub node: u32,
    pub out: u32,
}

impl Value {
    /// Stands for an optional operand that is left out.
    pub const ABSENT: Value = Value { node: u32::MAX, out: 0 };
    pub fn is_absent(self) -> bool {
        self == Value::ABSENT
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Uploaded with every batch.
    Input(String),
    /// Lives between steps: parameters, moments, counters.
    State(String),
    /// A constant in every element.
    Fill(f32),
    /// `elements` from a flat offset (in elements) of its only input; zero-copy.
    View(u64),
    /// Its inputs side by side at these flat offsets (in elements); gaps hold zeros.
    Pack(Vec<u64>),
    Apply(Arc<dyn Op>),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub ins: Vec<Value>,
    pub outs: Vec<Meta>,
}

/// Offsets of views and packs are multiples of this many elements (256 bytes).
pub const ALIGN_ELEMENTS: u64 = 64;

#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// What a batch hands back, by name.
    pub outputs: Vec<(String, Value)>,
    /// (state, its value after the step).
    pub assigns: Vec<(Value, Value)>,
    /// Nodes, such as those of a layer, that a way back may make again instead of keeping what they made
    /// ([`backprop_again`](super::autodiff::backprop_again)); they do not overlap.
    pub stretches: Vec<Range<usize>>,
}

impl Graph {
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Says that the nodes from `begin` on may be made again together.
    pub fn stretch(&mut self, begin: usize) {
        self.stretches.push(begin..self.nodes.len());
    }

    pub fn meta(&self, v: Value) -> Meta {
        if v.is_absent() { Meta::absent() } else { self.nodes[v.node as usize].outs[v.out as usize].clone() }
    }

    fn push(&mut self, kind: Kind, ins: Vec<Value>, outs: Vec<Meta>) -> u32 {
        self.nodes.push(Node { kind, ins, outs });
        self.nodes.len() as u32 - 1
    }

    fn leaf(&mut self, kind: Kind, meta: Meta) -> Value {
        Value { node: self.push(kind, vec![], vec![meta]), out: 0 }
    }

    pub fn input(&mut self, name: impl Into<String>, meta: Meta) -> Value {
        self.leaf(Kind::Input(name.into()), meta)
    }

    pub fn state(&mut self, name: impl Into<String>, meta: Meta) -> Value {
        self.leaf(Kind::State(name.into()), meta)
    }

    /// A constant tensor of `dims` in f32.
    pub fn fill(&mut self, value: f32, dims: &[Dim]) -> Result<Value> {
        let meta = Meta::f32(dims)?;
        Ok(self.leaf(Kind::Fill(value), meta))
    }

    /// `meta`'s elements of `source` from a flat `offset` in elements.
    pub fn view(&mut self, source: Value, offset: u64, meta: Meta) -> Result<Value> {
        let whole = self.meta(source);
        if meta.is_ragged()
            || !offset.is_multiple_of(ALIGN_ELEMENTS)
            || offset + meta.elements() > whole.elements()
            || meta.dtype() != whole.dtype()
        {
            return Err(Error::shape("view", format!("{meta} at offset {offset} does not lie aligned within {whole}")));
        }
        Ok(Value { node: self.push(Kind::View(offset), vec![source], vec![meta]), out: 0 })
    }

    /// The same elements under another shape; zero-copy. A ragged first dimension stays what it is.
    pub fn reshape(&mut self, source: Value, meta: Meta) -> Result<Value> {
        let from = self.meta(source);
        if !same_memory(&from, &meta) {
            return Err(Error::shape("reshape", format!("{from} cannot be seen as {meta}")));
        }
        Ok(Value { node: self.push(Kind::View(0), vec![source], vec![meta]), out: 0 })
    }

    /// A flat tensor of `elements` that holds every part at its offset in elements.
    pub fn pack(&mut self, parts: &[(Value, u64)], elements: u64) -> Result<Value> {
        let mut end = 0;
        for (part, offset) in parts {
            let meta = self.meta(*part);
            if *offset < end || !offset.is_multiple_of(ALIGN_ELEMENTS) || meta.is_ragged() || meta.dtype() != DType::F32
            {
                return Err(Error::shape("pack", format!("part {meta} at {offset} overlaps, is unaligned or ragged")));
            }
            end = offset + meta.elements();
        }
        if end > elements {
            return Err(Error::shape("pack", format!("parts end at {end} of {elements} elements")));
        }
        let meta = Meta::f32(&[Dim::Fixed(elements as usize)])?;
        let offsets = parts.iter().map(|p| p.1).collect();
        Ok(Value { node: self.push(Kind::Pack(offsets), parts.iter().map(|p| p.0).collect(), vec![meta]), out: 0 })
    }

    /// Applies an op and returns all of its outputs.
    pub fn apply_all(&mut self, op: impl Op + 'static, ins: &[Value]) -> Result<Vec<Value>> {
        self.apply_arc(Arc::new(op), ins)
    }

    /// Applies an op and returns its first output.
    pub fn apply(&mut self, op: impl Op + 'static, ins: &[Value]) -> Result<Value> {
        Ok(self.apply_arc(Arc::new(op), ins)?[0])
    }

    pub fn apply_arc(&mut self, op: Arc<dyn Op>, ins: &[Value]) -> Result<Vec<Value>> {
        let metas: Vec<Meta> = ins.iter().map(|v| self.meta(*v)).collect();
        let outs = op.infer(&metas)?;
        let count = outs.len() as u32;
        let node = self.push(Kind::Apply(op), ins.to_vec(), outs);
        Ok((0..count).map(|out| Value { node, out }).collect())
    }

    /// The state takes this value when the step ends, after everything else has read it.
    pub fn assign(&mut self, state: Value, value: Value) -> Result<()> {
        let target = &self.nodes[state.node as usize];
        if !matches!(target.kind, Kind::State(_)) {
            return Err(Error::shape("assign", "the target is not a state"));
        }
        let mut root = value;
        while matches!(self.nodes[root.node as usize].kind, Kind::View(_)) {
            root = self.nodes[root.node as usize].ins[0];
        }
        if matches!(self.nodes[root.node as usize].kind, Kind::State(_)) {
            return Err(Error::shape("assign", "a state cannot be assigned to a state"));
        }
        if self.meta(state) != self.meta(value) {
            return Err(Error::shape("assign", format!("{} is not {}", self.meta(value), self.meta(state))));
        }
        if self.assigns.iter().any(|(s, _)| *s == state) {
            return Err(Error::shape("assign", "the state is assigned twice"));
        }
        self.assigns.push((state, value));
        Ok(())
    }

    pub fn output(&mut self, name: impl Into<String>, value: Value) {
        self.outputs.push((name.into(), value));
    }

    /// For every node, whether anything that is kept depends on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for v in self.outputs.iter().map(|o| o.1).chain(self.assigns.iter().flat_map(|a| [a.0, a.1])) {
            live[v.node as usize] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for v in self.nodes[i].ins.iter().filter(|v| !v.is_absent()) {
                    live[v.node as usize] = true;
                }
            }
        }
        live
    }

    /// One line a node: what a person reads when a model is not what it should be.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let ins: Vec<String> = node.ins.iter().map(|v| name(*v)).collect();
            let outs: Vec<String> = node.outs.iter().map(Meta::to_string).collect();
            let what = match &node.kind {
                Kind::Input(n) => format!("input {n}"),
                Kind::State(n) => format!("state {n}"),
                Kind::Fill(x) => format!("fill {x}"),
                Kind::View(offset) => format!("view +{offset}"),
                Kind::Pack(_) => "pack".into(),
                Kind::Apply(op) => format!("{op:?}"),
            };
            let _ = writeln!(text, "%{i} = {what}({}) -> {}", ins.join(", "), outs.join(", "));
        }
        for (n, v) in &self.outputs {
            let _ = writeln!(text, "output {n} = {}", name(*v));
        }
        for (s, v) in &self.assigns {
            let _ = writeln!(text, "assign {} = {}", name(*s), name(*v));
        }
        text
    }
}

/// Whether two shapes describe the same elements at the same places: they differ in leading ones only, or only the
/// first dimension is ragged and the same in both.
pub(super) fn same_memory(a: &Meta, b: &Meta) -> bool {
    if a.is_absent() || b.is_absent() || a.dtype() != b.dtype() {
        return false;
    }
    let ones = |m: &Meta| m.dims().iter().take_while(|d| **d == Dim::Fixed(1)).count();
    let ragged = |m: &Meta| m.dims().first().copied().filter(|d| matches!(d, Dim::Ragged(..)));
    let rest_fixed = |m: &Meta| m.dims().iter().skip(1).all(|d| matches!(d, Dim::Fixed(_)));
    let fixed = a.elements() == b.elements() && ragged(a) == ragged(b) && rest_fixed(a) && rest_fixed(b);
    fixed || a.dims()[ones(a)..] == b.dims()[ones(b)..]
}

fn name(v: Value) -> String {
    match v {
        Value::ABSENT => "-".into(),
        Value { node, out: 0 } => format!("%{node}"),
        Value { node, out } => format!("%{node}.{out}"),
    }
}
