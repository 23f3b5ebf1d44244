//! The back end that runs nothing and proves plans: every word of every region knows which element of which tensor
//! it holds. What a command reads must be exactly the elements that the graph says it reads; what it writes becomes
//! the elements it computes.
//!
//! The expectation comes from the graph alone, the places from the plan alone. What the back end cannot see is the
//! inside of a kernel, and of an op's own scratch memory; the ops' samples judge those.

use super::Backend;
use crate::engine::graph::{Graph, Kind, Value};
use crate::engine::op::{Access, Ctx};
use crate::engine::scheduler::plan::{ALIGN, Command, LaunchCommand, Plan, Region, RegionBytes, Slot, Span};
use crate::engine::tensor::Counts;
use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// What one word of memory holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing that may be read.
    Unknown,
    /// Came from the host, to this place.
    Uploaded,
    /// A state's value of the last step; the number is its place in the region, which no plan changes.
    State(u32),
    /// An element of what a node computes, or of an input.
    Of(Value, u32),
    /// A constant, by its bits.
    Constant(u32),
    /// Scratch memory that a launch of this node has written.
    Work(u32),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Word::Unknown => write!(f, "nothing defined"),
            Word::Uploaded => write!(f, "an upload that is no input"),
            Word::State(at) => write!(f, "word {at} of the states"),
            Word::Of(v, at) => write!(f, "element {at} of %{}.{}", v.node, v.out),
            Word::Constant(bits) => write!(f, "the constant {}", f32::from_bits(*bits)),
            Word::Work(node) => write!(f, "scratch memory of %{node}"),
        }
    }
}

/// Proves a plan of a graph: two steps in a row, all inputs and states uploaded before the first.
///
/// # Errors
/// The first command that reads what it should not, or that touches memory it may not; an output or a state that does
/// not hold its value at the end.
pub fn prove(graph: &Graph, plan: &Plan, ctx: &Ctx) -> Result<()> {
    let mut null = Null::new(vec![Arc::new(graph.clone())], ctx.clone());
    let plan = Arc::new(plan.clone());
    null.load(std::slice::from_ref(&plan), plan.bytes, 1)?;
    null.upload_everything()?;
    // The second step meets what the first has left behind.
    null.submit(0, 0, Counts::default())?;
    null.submit(0, 0, Counts::default())
}

/// A device without memory or arithmetic.
pub struct Null {
    graphs: Vec<Arc<Graph>>,
    ctx: Ctx,
    plans: Vec<Arc<Plan>>,
    state: Vec<Word>,
    arena: Vec<Word>,
    input: Vec<Vec<Word>>,
    output: Vec<Vec<Word>>,
    bytes: RegionBytes,
}

impl Null {
    /// `graphs[i]` is what plan `i` of `load` was made from.
    pub fn new(graphs: Vec<Arc<Graph>>, ctx: Ctx) -> Null {
        Null {
            graphs,
            ctx,
            plans: vec![],
            state: vec![],
            arena: vec![],
            input: vec![],
            output: vec![],
            bytes: RegionBytes::default(),
        }
    }

    /// As if the host had written every input of every slot, and every state.
    pub fn upload_everything(&mut self) -> Result<()> {
        let bytes = self.bytes;
        self.write(Region::State, 0, 0, &vec![0; bytes.state as usize])?;
        for slot in 0..self.input.len() {
            self.write(Region::In, slot, 0, &vec![0; bytes.input as usize])?;
        }
        Ok(())
    }

    fn region(&mut self, region: Region, slot: usize) -> &mut [Word] {
        match region {
            Region::State => &mut self.state,
            Region::Arena => &mut self.arena,
            Region::In => self.input.get_mut(slot).map_or(&mut [], |s| &mut s[..]),
            Region::Out => self.output.get_mut(slot).map_or(&mut [], |s| &mut s[..]),
        }
    }

    /// The words of a span, if it lies aligned within its region.
    fn words(&mut self, span: Span, slot: usize) -> Result<&mut [Word]> {
        let end = span.offset.checked_add(span.bytes);
        let aligned = span.offset.is_multiple_of(ALIGN) && span.bytes.is_multiple_of(4);
        let words = self.region(span.region, slot);
        let range = end.filter(|_| aligned).map(|end| (span.offset / 4) as usize..(end / 4) as usize);
        range.and_then(|r| words.get_mut(r)).ok_or_else(|| broken(format!("{span:?} is unaligned or out of bounds")))
    }

    fn expect(&mut self, span: Span, slot: usize, expected: &[Word], what: &str) -> Result<()> {
        let words = self.words(span, slot)?;
        if words.len() != expected.len() {
            return Err(broken(format!("{what} has {} words of memory for {}", words.len(), expected.len())));
        }
        match words.iter().zip(expected).position(|(have, want)| have != want) {
            Some(i) => {
                Err(broken(format!("{what}: word {i} of {span:?} holds {} and should be {}", words[i], expected[i])))
            }
            None => Ok(()),
        }
    }

    fn run(&mut self, graph: &Graph, states: &[Slot], command: &Command, slot: usize) -> Result<()> {
        match command {
            Command::Fill { to, value } => {
                let value = Word::Constant(value.to_bits());
                self.writable(*to, slot)?.fill(value);
            }
            Command::Copy { from, to } => {
                if from.bytes != to.bytes || (from.overlaps(to) && from != to) {
                    return Err(broken(format!("copies {from:?} to {to:?}")));
                }
                let words = self.words(*from, slot)?.to_vec();
                self.writable(*to, slot)?.copy_from_slice(&words);
            }
            Command::Launch(l) => self.launch(graph, states, l, slot)?,
        }
        Ok(())
    }

    fn writable(&mut self, to: Span, slot: usize) -> Result<&mut [Word]> {
        if to.region == Region::In {
            return Err(broken(format!("writes to {to:?}, which belongs to the host")));
        }
        self.words(to, slot)
    }

    fn launch(&mut self, graph: &Graph, states: &[Slot], l: &LaunchCommand, slot: usize) -> Result<()> {
        let operands = l.kernel.operands;
        if l.args.len() != operands.len() || l.values.len() != operands.len() {
            return Err(broken(format!("{} takes {} arguments", l.kernel.name, operands.len())));
        }
        check_aliases(graph, l)?;
        let args = || operands.iter().zip(&l.args).zip(&l.values).filter_map(|((f, a), v)| Some((f, (*a)?, *v)));
        // All reads before all writes: within a launch no order is promised.
        for (formal, span, value) in args().filter(|a| a.0.access != Access::Write) {
            let what = format!("{} of {}", formal.name, l.kernel.name);
            let expected = match value {
                Some(v) => elements(graph, states, v)?,
                None => vec![Word::Work(l.node); (span.bytes / 4) as usize],
            };
            self.expect(span, slot, &expected, &what)?;
        }
        for (formal, span, value) in args().filter(|a| a.0.access != Access::Read) {
            let claimed = match value {
                Some(v) if v.node == l.node => elements(graph, states, v)?,
                Some(v) => return Err(broken(format!("{} writes %{}, another node's tensor", formal.name, v.node))),
                None => vec![Word::Work(l.node); (span.bytes / 4) as usize],
            };
            let words = self.writable(span, slot)?;
            if words.len() != claimed.len() {
                return Err(broken(format!("{} writes {} words of {}", formal.name, words.len(), claimed.len())));
            }
            words.copy_from_slice(&claimed);
        }
        Ok(())
    }
}

impl Backend for Null {
    fn name(&self) -> String {
        format!("nothing ({:?})", self.ctx.target)
    }

    fn ctx(&self) -> Ctx {
        self.ctx.clone()
    }

    fn memory(&self) -> u64 {
        u64::MAX
    }

    fn load(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<()> {
        if plans.len() != self.graphs.len() {
            return Err(broken(format!("{} plans for {} graphs", plans.len(), self.graphs.len())));
        }
        if let Some(plan) = plans.iter().find(|p| p.bytes.max(bytes) != bytes) {
            return Err(broken(format!("plan {} needs {:?} and gets {bytes:?}", plan.name, plan.bytes)));
        }
        let nothing = |bytes: u64| vec![Word::Unknown; (bytes / 4) as usize];
        self.state = nothing(bytes.state);
        self.arena = nothing(bytes.arena);
        self.input = vec![nothing(bytes.input); slots];
        self.output = vec![nothing(bytes.output); slots];
        self.plans = plans.to_vec();
        self.bytes = bytes;
        Ok(())
    }

    fn write(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<()> {
        let first = (offset / 4) as usize;
        let end = first.checked_add(data.len() / 4);
        let words = end.and_then(|end| self.region(region, slot).get_mut(first..end));
        let words = words.ok_or_else(|| broken(format!("{} bytes to {offset} of {region:?}", data.len())))?;
        for (i, word) in words.iter_mut().enumerate() {
            *word = match region {
                Region::In => Word::Uploaded,
                Region::State => Word::State((first + i) as u32),
                Region::Arena | Region::Out => Word::Unknown,
            };
        }
        Ok(())
    }

    fn read(&mut self, _: Region, _: usize, _: u64, data: &mut [u8]) -> Result<()> {
        data.fill(0);
        Ok(())
    }

    fn submit(&mut self, plan: usize, slot: usize, _: Counts) -> Result<()> {
        let missing = || broken(format!("there is no plan {plan}"));
        let graph = self.graphs.get(plan).cloned().ok_or_else(missing)?;
        let plan = self.plans.get(plan).cloned().ok_or_else(missing)?;
        let uploaded = self.region(Region::In, slot).to_vec();
        self.arena.fill(Word::Unknown);
        self.region(Region::Out, slot).fill(Word::Unknown);
        self.name_inputs(&graph, &plan, slot)?;
        for (i, command) in plan.commands.iter().enumerate() {
            self.run(&graph, &plan.states, command, slot).map_err(|e| at(&plan, i, e))?;
        }
        self.check_results(&graph, &plan, slot)?;
        // The next step finds the same upload, and new values in the same states.
        self.region(Region::In, slot).copy_from_slice(&uploaded);
        for (i, word) in self.state.iter_mut().enumerate().filter(|(_, w)| **w != Word::Unknown) {
            *word = Word::State(i as u32);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Null {
    /// What was uploaded becomes the inputs of this plan.
    fn name_inputs(&mut self, graph: &Graph, plan: &Plan, slot: usize) -> Result<()> {
        for input in &plan.inputs {
            let node = graph.nodes.iter().position(|n| matches!(&n.kind, Kind::Input(name) if *name == input.name));
            let node = node.ok_or_else(|| broken(format!("the graph has no input {}", input.name)))?;
            let value = Value { node: node as u32, out: 0 };
            for (i, word) in self.words(input.span, slot)?.iter_mut().enumerate() {
                if *word == Word::Uploaded {
                    *word = Word::Of(value, i as u32);
                }
            }
        }
        Ok(())
    }

    /// Outputs hold their values, assigned states their new ones, all other states what they held.
    fn check_results(&mut self, graph: &Graph, plan: &Plan, slot: usize) -> Result<()> {
        if plan.outputs.len() != graph.outputs.len() {
            return Err(broken(format!("{} outputs of {}", plan.outputs.len(), graph.outputs.len())));
        }
        for (output, (name, value)) in plan.outputs.iter().zip(&graph.outputs) {
            let expected = elements(graph, &plan.states, *value)?;
            self.expect(output.span, slot, &expected, &format!("output {name}"))?;
        }
        for state in &plan.states {
            let node = graph.nodes.iter().position(|n| matches!(&n.kind, Kind::State(name) if *name == state.name));
            let value = node.map(|node| Value { node: node as u32, out: 0 });
            let expected = match graph.assigns.iter().find(|(target, _)| Some(*target) == value) {
                Some((_, new)) => elements(graph, &plan.states, *new)?,
                None => state_words(state),
            };
            self.expect(state.span, slot, &expected, &format!("state {}", state.name))?;
        }
        Ok(())
    }
}

/// What the words of a tensor are: views and packs are resolved to what they look at and consist of.
fn elements(graph: &Graph, states: &[Slot], v: Value) -> Result<Vec<Word>> {
    let meta = (graph.nodes.get(v.node as usize)).and_then(|n| n.outs.get(v.out as usize));
    let meta = meta.ok_or_else(|| broken(format!("the graph has no value %{}.{}", v.node, v.out)))?;
    let mut words = Vec::with_capacity(meta.elements() as usize);
    resolve(graph, states, v, 0, meta.elements(), &mut words)?;
    Ok(words)
}

fn resolve(graph: &Graph, states: &[Slot], v: Value, from: u64, count: u64, words: &mut Vec<Word>) -> Result<()> {
    let node = &graph.nodes[v.node as usize];
    match &node.kind {
        Kind::Input(_) | Kind::Apply(_) => words.extend((from..from + count).map(|i| Word::Of(v, i as u32))),
        Kind::Fill(x) => words.extend((0..count).map(|_| Word::Constant(x.to_bits()))),
        Kind::State(name) => {
            let slot = states.iter().find(|s| s.name == *name);
            let slot = slot.ok_or_else(|| broken(format!("the plan has no state {name}")))?;
            words.extend(state_words(slot).into_iter().skip(from as usize).take(count as usize));
        }
        Kind::View(offset) => resolve(graph, states, node.ins[0], from + offset, count, words)?,
        Kind::Pack(offsets) => {
            let gap = Word::Constant(0f32.to_bits());
            let (mut at, end) = (from, from + count);
            for (part, begin) in node.ins.iter().zip(offsets) {
                let stop = (begin + graph.meta(*part).elements()).min(end);
                if stop <= at || *begin >= end {
                    continue;
                }
                words.extend((at..*begin).map(|_| gap));
                at = at.max(*begin);
                resolve(graph, states, *part, at - begin, stop - at, words)?;
                at = stop;
            }
            words.extend((at..end).map(|_| gap));
        }
    }
    Ok(())
}

fn state_words(slot: &Slot) -> Vec<Word> {
    let first = slot.span.offset / 4;
    (first..first + slot.span.bytes / 4).map(|i| Word::State(i as u32)).collect()
}

/// Two arguments are disjoint, or both are read, or they are one place and the op declares that this output may take
/// this input's. A value that is two operands at once may not be overwritten at all.
fn check_aliases(graph: &Graph, l: &LaunchCommand) -> Result<()> {
    let node = graph.nodes.get(l.node as usize);
    let Some((node, Kind::Apply(op))) = node.map(|n| (n, &n.kind)) else {
        return Err(broken(format!("%{} is not an op", l.node)));
    };
    let operands = l.kernel.operands;
    for (i, formal) in operands.iter().enumerate().filter(|(_, f)| f.access != Access::Read) {
        let Some(written) = l.args[i] else { continue };
        let mut shared = 0;
        for (k, other) in operands.iter().enumerate().filter(|(k, _)| *k != i) {
            let Some(span) = l.args[k].filter(|s| s.overlaps(&written) && s.bytes > 0 && written.bytes > 0) else {
                continue;
            };
            let pair = l.values[k].zip(l.values[i]).is_some_and(|(input, output)| {
                let declared = |(a, o): &(usize, usize)| node.ins.get(*a) == Some(&input) && *o == output.out as usize;
                output.node == l.node && op.inplace().iter().any(declared)
            });
            shared += 1;
            if span != written || other.access != Access::Read || !pair || shared > 1 {
                let what = format!("{} and {} of {} overlap", formal.name, other.name, l.kernel.name);
                return Err(broken(what));
            }
        }
    }
    Ok(())
}

fn broken(what: String) -> Error {
    Error::shape("proof", what)
}

fn at(plan: &Plan, command: usize, e: Error) -> Error {
    let what = match &plan.commands[command] {
        Command::Launch(l) => format!("{} of %{}", l.kernel.name, l.node),
        Command::Copy { .. } => "copy".into(),
        Command::Fill { .. } => "fill".into(),
    };
    Error::shape(format!("plan {}, command {command} ({what})", plan.name), e.to_string())
}
