//! Rewrites graphs of inference so that products with weights are in int8: `linear(x, W)` becomes `linear_int8` of what
//! `quantize_rows` makes of x, with codes and scales of W that are states.
//!
//! Codes are the same bits on all devices. So those of weights are made once, on the host, and a device never sees the
//! weights themselves: the state of parameters shrinks to what other ops read (tables, norms, biases). What is computed of
//! parameters alone on the way into a product, such as a folded projection, is made on the host as well.

use super::backend::Backend;
use super::backend::cpu::Cpu;
use super::fuse::without_dead;
use super::graph::{ALIGN_ELEMENTS, Graph, Kind, Node, Value};
use super::op::int8::{LinearInt8, MOST_CODES, QuantizeRows};
use super::op::linear::Linear;
use super::op::{Form, Precision};
use super::parameters::STATE;
use super::scheduler::executor::Executor;
use super::scheduler::plan::{StateLayout, plan};
use super::tensor::{DType, Dim, Meta};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Rewritten graphs, and what fills their states.
pub struct Quantised {
    pub graphs: Vec<Graph>,
    /// From all parameters to codes, scales and biases, each an output with the name of its state.
    once: Graph,
    /// What is left of the parameters: (from, to, elements) in their flat vectors.
    kept: Vec<(u64, u64, u64)>,
    /// Elements of what is left.
    elements: u64,
}

/// Rewrites graphs that share one state of parameters.
///
/// # Errors
/// [`Error::Config`] when a graph changes its parameters, or when none has a product with weights.
pub fn quantise(graphs: &[Graph]) -> Result<Quantised> {
    let mut host = Host::default();
    let rewritten = graphs.iter().map(|g| rewrite(g, &mut host)).collect::<Result<Vec<_>>>()?;
    if host.graph.outputs.is_empty() {
        let fix = "leave --precision out: no product here has weights for a factor";
        return Err(Error::config("--precision", "int8 changes nothing", fix));
    }
    let mut graphs: Vec<Graph> = rewritten.iter().map(without_dead).collect();
    let kept = compact(&mut graphs)?;
    let elements = kept.last().map_or(0, |(_, to, n)| to + n);
    Ok(Quantised { graphs, once: host.graph, kept, elements })
}

impl Quantised {
    /// Sets the states of parameters, codes and scales from all parameters, flat.
    ///
    /// # Errors
    /// When the host has too little memory; whatever the device raises.
    pub fn write(&self, executor: &mut Executor, params: &[f32]) -> Result<()> {
        let states = StateLayout::of([&self.once])?;
        let cpu = Box::new(Cpu::new(0)?);
        let made = plan("weights to int8", &self.once, &states, &cpu.ctx())?;
        let mut host = Executor::new(cpu, vec![made], states)?;
        host.write_state(STATE, params)?;
        let outputs = host.run(0, |_| Ok(()))?;
        for (name, value) in &self.once.outputs {
            match self.once.meta(*value).dtype() {
                DType::U32 => executor.write_state_words(name, outputs.u32(name)?)?,
                DType::F32 => executor.write_state(name, outputs.f32(name)?)?,
            }
        }
        if !self.kept.is_empty() {
            let mut left = vec![0.0; self.elements as usize];
            for &(from, to, n) in &self.kept {
                left[to as usize..(to + n) as usize].copy_from_slice(&params[from as usize..(from + n) as usize]);
            }
            executor.write_state(STATE, &left)?;
        }
        Ok(())
    }
}

/// The graph of what is made once. Graphs that make the same find it by how they make it.
#[derive(Default)]
struct Host {
    graph: Graph,
    /// Nodes by what they are and what they are made of.
    nodes: HashMap<String, u32>,
    /// Names of the outputs of a value.
    outputs: HashMap<(Value, bool), String>,
}

impl Host {
    /// A value that depends on parameters alone, as one of this graph.
    fn copy(&mut self, g: &Graph, v: Value) -> Value {
        if v.is_absent() {
            return v;
        }
        let node = &g.nodes[v.node as usize];
        let ins: Vec<Value> = node.ins.iter().map(|v| self.copy(g, *v)).collect();
        let key = format!("{:?} {ins:?} {:?}", node.kind, node.outs);
        let next = self.graph.nodes.len() as u32;
        let at = *self.nodes.entry(key).or_insert(next);
        if at == next {
            self.graph.nodes.push(Node { ins, ..node.clone() });
        }
        Value { node: at, ..v }
    }

    /// States with the codes and scales of a matrix.
    fn weight(&mut self, g: &Graph, to: &mut Graph, v: Value) -> Result<[Value; 2]> {
        let matrix = self.copy(g, v);
        let name = match self.outputs.get(&(matrix, true)) {
            Some(name) => name.clone(),
            None => {
                let name = format!("int8.{}", self.outputs.len());
                let made = self.graph.apply_all(QuantizeRows, &[matrix])?;
                self.graph.output(format!("{name}.codes"), made[0]);
                self.graph.output(format!("{name}.scales"), made[1]);
                self.outputs.insert((matrix, true), name.clone());
                name
            }
        };
        let (rows, cols) = (g.meta(v).dim(0), g.meta(v).dim(1).cap());
        let codes = Meta::u32(&[rows, Dim::Fixed(QuantizeRows::words(cols))])?;
        Ok([state(to, format!("{name}.codes"), codes), state(to, format!("{name}.scales"), Meta::f32(&[rows])?)])
    }

    /// A state with a value as it is.
    fn value(&mut self, g: &Graph, to: &mut Graph, v: Value) -> Value {
        let here = self.copy(g, v);
        let name = match self.outputs.get(&(here, false)) {
            Some(name) => name.clone(),
            None => {
                let name = format!("int8.{}.value", self.outputs.len());
                self.graph.output(name.clone(), here);
                self.outputs.insert((here, false), name.clone());
                name
            }
        };
        state(to, name, g.meta(v))
    }
}

/// The state of this name, declared when it is first asked for.
fn state(g: &mut Graph, name: String, meta: Meta) -> Value {
    let found = g.nodes.iter().position(|n| matches!(&n.kind, Kind::State(have) if *have == name));
    found.map_or_else(|| g.state(name, meta), |node| Value { node: node as u32, out: 0 })
}

/// For every node, whether its values are the same in all batches: made of parameters and constants, of one length.
fn constants(g: &Graph) -> Vec<bool> {
    let mut constant: Vec<bool> = vec![];
    for node in &g.nodes {
        let fixed = match &node.kind {
            Kind::State(name) => name == STATE,
            Kind::Input(_) => false,
            _ => node.ins.iter().all(|v| v.is_absent() || constant[v.node as usize]),
        };
        constant.push(fixed && !node.outs.iter().any(Meta::is_ragged));
    }
    constant
}

fn rewrite(g: &Graph, host: &mut Host) -> Result<Graph> {
    if g.assigns.iter().any(|(to, _)| matches!(&g.nodes[to.node as usize].kind, Kind::State(name) if name == STATE)) {
        Precision::Int8.trains()?;
    }
    let constant = constants(g);
    let is_constant = |v: Value| !v.is_absent() && constant[v.node as usize];
    let mut to = Graph::new();
    let mut moved: Vec<u32> = vec![];
    // Several products may share a factor.
    let mut quantised: HashMap<Value, Vec<Value>> = HashMap::new();
    for (i, node) in g.nodes.iter().enumerate() {
        let ins: Vec<Value> = (node.ins.iter())
            .map(|v| if v.is_absent() { *v } else { Value { node: moved[v.node as usize], ..*v } })
            .collect();
        let activation = match form(node) {
            Form::Linear(Linear { a_t: false, b_t: true, activation })
                if is_constant(node.ins[1]) && !constant[i] && fits(&g.meta(node.ins[1])) =>
            {
                activation
            }
            _ => {
                moved.push(to.nodes.len() as u32);
                to.nodes.push(Node { ins, ..node.clone() });
                continue;
            }
        };
        let x = match quantised.get(&ins[0]) {
            Some(x) => x.clone(),
            None => quantised.entry(ins[0]).or_insert(to.apply_all(QuantizeRows, &ins[..1])?).clone(),
        };
        let [codes, scales] = host.weight(g, &mut to, node.ins[1])?;
        let bias = if is_constant(node.ins[2]) && is_computed(g, node.ins[2]) {
            host.value(g, &mut to, node.ins[2])
        } else {
            ins[2]
        };
        let y = to.apply(LinearInt8 { activation }, &[x[0], x[1], codes, scales, bias, ins[3]])?;
        moved.push(y.node);
    }
    let there = |v: Value| Value { node: moved[v.node as usize], ..v };
    to.outputs = g.outputs.iter().map(|(name, v)| (name.clone(), there(*v))).collect();
    to.assigns = g.assigns.iter().map(|(state, v)| (there(*state), there(*v))).collect();
    Ok(to)
}

fn form(node: &Node) -> Form {
    match &node.kind {
        Kind::Apply(op) => op.form(),
        _ => Form::Other,
    }
}

fn fits(weight: &Meta) -> bool {
    weight.dim(1).cap() <= MOST_CODES
}

/// Whether a value is more than a part of a state.
fn is_computed(g: &Graph, v: Value) -> bool {
    match &g.nodes[v.node as usize].kind {
        Kind::View(_) => is_computed(g, g.nodes[v.node as usize].ins[0]),
        Kind::State(_) => false,
        _ => true,
    }
}

/// Moves what is still read of the parameters together, in all graphs alike. Returns (from, to, elements).
fn compact(graphs: &mut [Graph]) -> Result<Vec<(u64, u64, u64)>> {
    let is_state = |node: &Node| matches!(&node.kind, Kind::State(name) if name == STATE);
    let reads = |g: &Graph, node: &Node| node.ins.iter().any(|v| !v.is_absent() && is_state(&g.nodes[v.node as usize]));
    let mut spans: Vec<(u64, u64)> = vec![];
    for g in graphs.iter() {
        for node in g.nodes.iter().filter(|node| reads(g, node)) {
            spans.push(match node.kind {
                Kind::View(offset) => (offset, offset + node.outs[0].elements()),
                // Read as a whole it stays whole.
                _ => (0, node.ins.iter().map(|v| g.meta(*v).elements()).max().unwrap_or(0)),
            });
        }
    }
    spans.sort_unstable();
    let mut kept: Vec<(u64, u64, u64)> = vec![];
    for (begin, end) in spans {
        match kept.last_mut().filter(|(from, _, n)| begin < from + n) {
            Some((from, _, n)) => *n = (*n).max(end - *from),
            None => {
                let to = kept.last().map_or(0, |(_, to, n)| (to + n).next_multiple_of(ALIGN_ELEMENTS));
                kept.push((begin, to, end - begin));
            }
        }
    }
    let meta = Meta::f32(&[Dim::Fixed(kept.last().map_or(0, |(_, to, n)| to + n) as usize)])?;
    let place =
        |offset: u64| kept.iter().find(|(from, _, n)| (*from..from + n).contains(&offset)).map(|k| k.1 + offset - k.0);
    for g in graphs.iter_mut() {
        let views: Vec<usize> = (0..g.nodes.len()).filter(|i| reads(g, &g.nodes[*i])).collect();
        for i in views {
            if let Kind::View(offset) = &mut g.nodes[i].kind {
                *offset = place(*offset).unwrap_or(*offset);
            }
        }
        g.nodes.iter_mut().filter(|node| is_state(node)).for_each(|node| node.outs = vec![meta.clone()]);
    }
    Ok(kept)
}
