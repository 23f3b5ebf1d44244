//! A pure function from a graph to commands over four regions. The plan is plain data: it can be printed, compared
//! and checked by a back end that runs nothing; what it will take is known before anything is allocated.

use super::place::{Lifetime, lower_bound, place};
use crate::engine::graph::{Graph, Kind, Node, Value};
use crate::engine::op::{Arg, Cost, Ctx, KernelDef, Launch, Op, Operands, Params};
use crate::engine::tensor::{Axis, Counts, Dim, Meta};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Memory of a kind. `In` and `Out` exist once per slot.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    State,
    Arena,
    In,
    Out,
}

/// Bytes of every region.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionBytes {
    pub state: u64,
    pub arena: u64,
    pub input: u64,
    pub output: u64,
}

impl RegionBytes {
    pub fn of(&self, region: Region) -> u64 {
        match region {
            Region::State => self.state,
            Region::Arena => self.arena,
            Region::In => self.input,
            Region::Out => self.output,
        }
    }
    /// What holds each of two plans.
    pub fn max(self, o: RegionBytes) -> RegionBytes {
        RegionBytes {
            state: self.state.max(o.state),
            arena: self.arena.max(o.arena),
            input: self.input.max(o.input),
            output: self.output.max(o.output),
        }
    }
    pub fn total(self, slots: usize) -> u64 {
        self.state + self.arena + (self.input + self.output) * slots as u64
    }
}

/// Offsets and sizes in bytes are multiples of this.
pub const ALIGN: u64 = 256;

pub fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// Bytes of a region.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub region: Region,
    pub offset: u64,
    pub bytes: u64,
}

impl Span {
    pub fn overlaps(&self, o: &Span) -> bool {
        self.region == o.region && self.offset < o.offset + o.bytes && o.offset < self.offset + self.bytes
    }
}

/// One thing a back end does.
#[derive(Clone, Debug)]
pub enum Command {
    Launch(LaunchCommand),
    Copy { from: Span, to: Span },
    Fill { to: Span, value: f32 },
}

/// A kernel with its arguments in place; `args` follow the kernel's operands.
#[derive(Clone, Debug)]
pub struct LaunchCommand {
    /// The node it comes from, for messages and timing.
    pub node: u32,
    pub kernel: &'static KernelDef,
    pub params: Params,
    pub groups: [u32; 3],
    pub args: Vec<Option<Span>>,
    /// The tensor that each argument is; none for what is absent and for scratch memory. Running needs it not:
    /// it is what the null back end proves the spans with.
    pub values: Vec<Option<Value>>,
}

/// A named tensor at its place.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    pub meta: Meta,
    pub span: Span,
}

/// Where every state of a model lies: shared by all of its plans, so that a checkpoint does not depend on them.
#[derive(Clone, Debug, Default)]
pub struct StateLayout {
    pub slots: Vec<Slot>,
    pub bytes: u64,
}

impl StateLayout {
    /// The union of the states of some graphs, in the order in which they first appear. What is a table of fixed length
    /// to one graph may be ragged to another, which then knows how much of it is filled.
    pub fn of<'a>(graphs: impl IntoIterator<Item = &'a Graph>) -> Result<StateLayout> {
        let mut layout = StateLayout::default();
        for node in graphs.into_iter().flat_map(|g| &g.nodes) {
            let Kind::State(name) = &node.kind else { continue };
            let meta = &node.outs[0];
            match layout.find(name) {
                Some(slot) if slot.meta.same_layout(meta) => {}
                Some(slot) => {
                    let what = format!("is {} in one graph and {meta} in another", slot.meta);
                    return Err(Error::shape(format!("state {name}"), what));
                }
                None => {
                    let span = Span { region: Region::State, offset: layout.bytes, bytes: meta.bytes() };
                    layout.bytes += align(meta.bytes());
                    layout.slots.push(Slot { name: name.clone(), meta: meta.clone(), span });
                }
            }
        }
        Ok(layout)
    }
    pub fn find(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|s| s.name == name)
    }
}

/// A graph made ready for one target.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub commands: Vec<Command>,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    pub bytes: RegionBytes,
    /// The largest sum of arena bytes in use at one time.
    pub lower_bound: u64,
    /// The capacity of every ragged axis that occurs.
    pub axes: Vec<(Axis, usize)>,
    /// For every node that runs: its op's attributes, cost and outputs.
    pub ops: HashMap<u32, OpInfo>,
    /// Every state of the layout, also those this plan does not touch.
    pub states: Vec<Slot>,
}

/// What a person or a bench wants to know of a planned node.
#[derive(Clone, Debug)]
pub struct OpInfo {
    pub op: &'static str,
    pub attributes: String,
    pub cost: Cost,
}

impl Plan {
    pub fn input(&self, name: &str) -> Option<&Slot> {
        self.inputs.iter().find(|s| s.name == name)
    }
    pub fn output(&self, name: &str) -> Option<&Slot> {
        self.outputs.iter().find(|s| s.name == name)
    }
    /// FLOPs and bytes at full capacity.
    pub fn cost(&self) -> Cost {
        self.ops.values().fold(Cost::default(), |sum, info| Cost {
            flops: sum.flops + info.cost.flops,
            bytes_in: sum.bytes_in + info.cost.bytes_in,
            bytes_out: sum.bytes_out + info.cost.bytes_out,
        })
    }
    /// One plan a command, in order and over the same memory: run one after the other they are this plan, and each can
    /// be timed.
    pub fn apart(&self) -> Vec<Plan> {
        self.commands.iter().map(|c| Plan { commands: vec![c.clone()], ..self.clone() }).collect()
    }
    /// # Errors
    /// When a batch is larger than the plan was made for.
    pub fn check_counts(&self, counts: &Counts) -> Result<()> {
        for (axis, cap) in &self.axes {
            if counts.get(*axis) > *cap {
                let what = format!("axis {} holds at most {cap} and got {}", axis.0, counts.get(*axis));
                return Err(Error::shape(format!("plan {}", self.name), what));
            }
        }
        Ok(())
    }
    /// One line a command: what a person reads and what snapshot tests compare.
    pub fn dump(&self) -> String {
        let at = |s: &Span| format!("{:?}[{}..{}]", s.region, s.offset, s.offset + s.bytes).to_lowercase();
        let mut text = format!(
            "plan {}: arena {} (lower bound {}), state {}, in {}, out {}\n",
            self.name, self.bytes.arena, self.lower_bound, self.bytes.state, self.bytes.input, self.bytes.output
        );
        for (what, slots) in [("in", &self.inputs), ("out", &self.outputs)] {
            for slot in slots {
                let _ = writeln!(text, "{what} {} {} {}", slot.name, slot.meta, at(&slot.span));
            }
        }
        for command in &self.commands {
            let _ = match command {
                Command::Launch(l) => {
                    let args: Vec<String> = (l.kernel.operands.iter().zip(&l.args))
                        .map(|(f, a)| format!("{}={}", f.name, a.as_ref().map_or("-".into(), at)))
                        .collect();
                    let attributes = self.ops.get(&l.node).map_or("", |o| &o.attributes);
                    writeln!(text, "%{} {} {:?} {} # {attributes}", l.node, l.kernel.name, l.groups, args.join(" "))
                }
                Command::Copy { from, to } => writeln!(text, "copy {} -> {}", at(from), at(to)),
                Command::Fill { to, value } => writeln!(text, "fill {} {value}", at(to)),
            };
        }
        text
    }
}

/// Plans a graph.
///
/// # Errors
/// When an op has no kernel for the target, when a state is missing from the layout, when a launch does not fit its
/// kernel, or when two inputs, states or outputs have one name.
pub fn plan(name: &str, graph: &Graph, states: &StateLayout, ctx: &Ctx) -> Result<Plan> {
    plan_guarded(name, graph, states, ctx, 0)
}

/// Plans with `guard` bytes before and behind every tensor but the states, for tests that look for writes outside.
pub fn plan_guarded(name: &str, graph: &Graph, states: &StateLayout, ctx: &Ctx, guard: u64) -> Result<Plan> {
    let mut planner = Planner::new(graph, states, ctx, guard);
    check_names(graph, &planner.live)?;
    planner.reserve_outputs_and_states();
    planner.reserve_packs();
    for i in 0..graph.nodes.len() {
        if planner.live[i] {
            planner.node(i)?;
        }
    }
    planner.finish();
    planner.into_plan(name)
}

/// A buffer that is not placed yet is an index into the arena's lifetimes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Home {
    Fixed(Region, u64),
    Arena(usize),
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Loc {
    home: Home,
    offset: u64,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Draft {
    Launch { node: u32, launch: Launch, args: Vec<Option<Loc>>, values: Vec<Option<Value>> },
    Copy { from: Loc, to: Loc },
    Fill { to: Loc, value: f32 },
}

struct Planner<'a> {
    graph: &'a Graph,
    ctx: &'a Ctx,
    live: Vec<bool>,
    /// The last node that reads a value, its views included.
    last_use: HashMap<Value, u32>,
    locs: HashMap<Value, Loc>,
    /// Places decided before their producers are met.
    reserved: HashMap<Value, Loc>,
    arena: Vec<Lifetime>,
    drafts: Vec<Draft>,
    /// Gaps to fill when the node that first writes into a pack is met.
    gaps: HashMap<u32, Vec<Loc>>,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    input_bytes: u64,
    output_bytes: u64,
    states: &'a StateLayout,
    ops: HashMap<u32, OpInfo>,
    guard: u64,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph, states: &'a StateLayout, ctx: &'a Ctx, guard: u64) -> Planner<'a> {
        let live = graph.live();
        Planner {
            graph,
            ctx,
            last_use: last_uses(graph, &live),
            live,
            locs: HashMap::new(),
            reserved: HashMap::new(),
            arena: vec![],
            drafts: vec![],
            gaps: HashMap::new(),
            inputs: vec![],
            outputs: vec![],
            input_bytes: 0,
            output_bytes: 0,
            states,
            ops: HashMap::new(),
            guard: align(guard),
        }
    }

    fn meta(&self, v: Value) -> &Meta {
        &self.graph.nodes[v.node as usize].outs[v.out as usize]
    }

    fn is_applied(&self, v: Value) -> bool {
        matches!(self.graph.nodes[v.node as usize].kind, Kind::Apply(_))
    }

    fn buffer(&mut self, bytes: u64, first: u32, last: u32) -> Loc {
        self.arena.push(Lifetime { bytes: align(bytes) + 2 * self.guard, first, last });
        Loc { home: Home::Arena(self.arena.len() - 1), offset: self.guard, bytes }
    }

    /// Outputs and new states are produced where they are wanted, if nothing forbids it.
    fn reserve_outputs_and_states(&mut self) {
        for (name, value) in &self.graph.outputs {
            let meta = self.meta(*value).clone();
            let span = Span { region: Region::Out, offset: self.output_bytes + self.guard, bytes: meta.bytes() };
            self.output_bytes += align(meta.bytes()) + 2 * self.guard;
            self.outputs.push(Slot { name: name.clone(), meta, span });
            if self.is_applied(*value) && !self.reserved.contains_key(value) {
                self.reserved.insert(*value, fixed(span));
            }
        }
        for (state, value) in &self.graph.assigns {
            let Kind::State(name) = &self.graph.nodes[state.node as usize].kind else { continue };
            let Some(slot) = self.states.find(name) else { continue };
            if self.is_applied(*value) && !self.reserved.contains_key(value) && self.may_overwrite(*state, *value) {
                self.reserved.insert(*value, fixed(slot.span));
            }
        }
    }

    /// A producer may write into the state if nobody reads the old value after it, and if it reads it itself only
    /// through a pair that its op declares.
    fn may_overwrite(&self, state: Value, value: Value) -> bool {
        let producer = &self.graph.nodes[value.node as usize];
        let Kind::Apply(op) = &producer.kind else { return false };
        if self.last_use.get(&state).is_some_and(|last| *last > value.node) {
            return false;
        }
        let reads: Vec<usize> = (0..producer.ins.len()).filter(|i| self.root(producer.ins[*i]) == state).collect();
        match reads[..] {
            [] => true,
            [i] => {
                let out = value.out as usize;
                let declared = producer.ins[i] == state && op.inplace().contains(&(i, out));
                declared && !read_after_written(&self.launches(value.node, op.as_ref()).1, i, out)
            }
            _ => false,
        }
    }

    /// The outputs of a node, those left out that nobody wants, and its launches.
    fn launches(&self, i: u32, op: &dyn Op) -> (Vec<Meta>, Vec<Launch>) {
        let node = &self.graph.nodes[i as usize];
        let ins: Vec<Meta> = node.ins.iter().map(|v| self.graph.meta(*v)).collect();
        let outs: Vec<Meta> = (0..node.outs.len())
            .map(|o| {
                let unwanted = !self.is_wanted(Value { node: i, out: o as u32 });
                if unwanted && op.optional().contains(&o) { Meta::absent() } else { node.outs[o].clone() }
            })
            .collect();
        let launches = op.launch(&Operands { ins: &ins, outs: &outs }, self.ctx);
        (outs, launches)
    }

    /// The value that a chain of views looks at.
    fn root(&self, mut v: Value) -> Value {
        while !v.is_absent() && matches!(self.graph.nodes[v.node as usize].kind, Kind::View(_)) {
            v = self.graph.nodes[v.node as usize].ins[0];
        }
        v
    }

    /// A pack's parts are produced inside it; what cannot be is copied when the pack is met.
    fn reserve_packs(&mut self) {
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let (true, Kind::Pack(offsets)) = (self.live[i], &node.kind) else { continue };
            let whole = Value { node: i as u32, out: 0 };
            let parts: Vec<(Value, u64)> = (node.ins.iter().copied().zip(offsets.iter().map(|o| o * 4)))
                .filter(|(v, _)| self.is_applied(*v) && !self.reserved.contains_key(v))
                .collect();
            let first = parts.iter().map(|p| p.0.node).min().unwrap_or(i as u32);
            let meta = node.outs[0].clone();
            let mut last = self.last(whole).max(i as u32);
            for (v, _) in &parts {
                last = last.max(self.last(*v));
            }
            let loc = self.buffer(meta.bytes(), first, last);
            for (v, offset) in parts {
                let bytes = self.meta(v).bytes();
                // The same value packed twice: the first place is produced into, the second copied.
                self.reserved.entry(v).or_insert(Loc { home: loc.home, offset: loc.offset + offset, bytes });
            }
            let filled = node.ins.iter().zip(offsets).map(|(v, o)| (o * 4, o * 4 + self.meta(*v).bytes()));
            let mut end = 0;
            let mut gaps = vec![];
            for (begin, stop) in filled.chain([(meta.bytes(), meta.bytes())]) {
                if begin > end {
                    // From an aligned offset: the end of the part before, which is written later, is filled along.
                    let from = end / ALIGN * ALIGN;
                    gaps.push(Loc { home: loc.home, offset: loc.offset + from, bytes: begin - from });
                }
                end = stop;
            }
            self.gaps.entry(first).or_default().extend(gaps);
            self.locs.insert(whole, loc);
        }
    }

    fn last(&self, v: Value) -> u32 {
        self.last_use.get(&v).copied().unwrap_or(v.node)
    }

    fn node(&mut self, i: usize) -> Result<()> {
        let node = &self.graph.nodes[i];
        let value = Value { node: i as u32, out: 0 };
        for gap in self.gaps.remove(&(i as u32)).unwrap_or_default() {
            self.drafts.push(Draft::Fill { to: gap, value: 0.0 });
        }
        match &node.kind {
            Kind::Input(name) => {
                let meta = node.outs[0].clone();
                let span = Span { region: Region::In, offset: self.input_bytes + self.guard, bytes: meta.bytes() };
                self.input_bytes += align(meta.bytes()) + 2 * self.guard;
                self.inputs.push(Slot { name: name.clone(), meta, span });
                self.locs.insert(value, fixed(span));
            }
            Kind::State(name) => {
                let slot = self.states.find(name).filter(|s| s.meta.same_layout(&node.outs[0]));
                let slot = slot.ok_or_else(|| Error::shape(format!("state {name}"), "is not in the model's layout"))?;
                self.locs.insert(value, fixed(slot.span));
            }
            Kind::Fill(x) => {
                let loc = self.buffer(node.outs[0].bytes(), i as u32, self.last(value));
                self.drafts.push(Draft::Fill { to: loc, value: *x });
                self.locs.insert(value, loc);
            }
            Kind::View(offset) => {
                let whole = self.locs[&node.ins[0]];
                let loc = Loc { offset: whole.offset + offset * 4, bytes: node.outs[0].bytes(), ..whole };
                self.locs.insert(value, loc);
            }
            Kind::Pack(offsets) => {
                let whole = self.locs[&value];
                for (part, offset) in node.ins.iter().zip(offsets) {
                    let from = self.locs[part];
                    let to = Loc { offset: whole.offset + offset * 4, bytes: from.bytes, ..whole };
                    if from != to {
                        self.drafts.push(Draft::Copy { from, to });
                    }
                }
            }
            Kind::Apply(op) => self.apply(i as u32, node, op.as_ref())?,
        }
        Ok(())
    }

    fn apply(&mut self, i: u32, node: &Node, op: &dyn Op) -> Result<()> {
        let ins: Vec<Meta> = node.ins.iter().map(|v| self.graph.meta(*v)).collect();
        let (outs, launches) = self.launches(i, op);
        let workspace = op.workspace(&ins, self.ctx);
        check_launches(op, &launches, &ins, &outs, workspace, self.ctx)?;
        let mut taken: Vec<Home> = vec![];
        for (o, meta) in outs.iter().enumerate().filter(|(_, m)| !m.is_absent()) {
            let value = Value { node: i, out: o as u32 };
            let last = self.last(value);
            let loc = match self.reserved.get(&value) {
                Some(loc) => *loc,
                None => match self.in_place(i, node, op, o, meta, &launches, &taken) {
                    Some(loc) => {
                        if let Home::Arena(b) = loc.home {
                            self.arena[b].last = self.arena[b].last.max(last);
                        }
                        loc
                    }
                    None => self.buffer(meta.bytes(), i, last),
                },
            };
            taken.push(loc.home);
            self.locs.insert(value, loc);
        }
        let work = (workspace > 0).then(|| self.buffer(workspace, i, i));
        for launch in launches {
            let args = launch.args.iter().map(|a| self.locate(a, i, node, work)).collect();
            let values = launch.args.iter().map(|a| value_of(a, i, node)).collect();
            self.drafts.push(Draft::Launch { node: i, launch, args, values });
        }
        let info = OpInfo { op: op.name(), attributes: format!("{op:?}"), cost: op.cost(&ins, &outs) };
        self.ops.insert(i, info);
        Ok(())
    }

    fn is_wanted(&self, v: Value) -> bool {
        self.last_use.contains_key(&v)
    }

    fn locate(&self, arg: &Arg, i: u32, node: &Node, work: Option<Loc>) -> Option<Loc> {
        match *arg {
            Arg::Work { offset, bytes } => work.map(|w| Loc { offset: w.offset + offset, bytes, ..w }),
            _ => self.locs.get(&value_of(arg, i, node)?).copied(),
        }
    }

    /// The place of an input that dies here, if the op and its launches allow its output to take it.
    #[allow(clippy::too_many_arguments)]
    fn in_place(
        &self,
        i: u32,
        node: &Node,
        op: &dyn Op,
        out: usize,
        meta: &Meta,
        launches: &[Launch],
        taken: &[Home],
    ) -> Option<Loc> {
        op.inplace().iter().filter(|pair| pair.1 == out).find_map(|&(k, _)| {
            let v = *node.ins.get(k).filter(|v| !v.is_absent())?;
            let loc = self.locs[&v];
            let Home::Arena(b) = loc.home else { return None };
            let whole = loc.offset == self.guard
                && align(loc.bytes) + 2 * self.guard == self.arena[b].bytes
                && loc.bytes == meta.bytes();
            let alone = node.ins.iter().filter(|o| !o.is_absent() && self.locs[o].home == loc.home).count() == 1;
            let free = self.arena[b].last == i && !taken.contains(&loc.home);
            (whole && alone && free && !read_after_written(launches, k, out)).then_some(loc)
        })
    }

    /// What could not be produced in its place is copied there when everything else is done. A state's new value is
    /// copied after the outputs, which may be that state's old one.
    fn finish(&mut self) {
        for (slot, (_, value)) in self.outputs.iter().zip(&self.graph.outputs) {
            let (from, to) = (self.locs[value], fixed(slot.span));
            if from != to {
                self.drafts.push(Draft::Copy { from, to });
            }
        }
        for (state, value) in &self.graph.assigns {
            let (from, to) = (self.locs[value], self.locs[state]);
            if from != to {
                self.drafts.push(Draft::Copy { from, to });
            }
        }
    }

    fn into_plan(self, name: &str) -> Result<Plan> {
        let placement = place(&self.arena);
        let span = |loc: &Loc| match loc.home {
            Home::Fixed(region, base) => Span { region, offset: base + loc.offset, bytes: loc.bytes },
            Home::Arena(b) => {
                Span { region: Region::Arena, offset: placement.offsets[b] + loc.offset, bytes: loc.bytes }
            }
        };
        let commands = self
            .drafts
            .iter()
            .map(|draft| match draft {
                Draft::Launch { node, launch, args, values } => Command::Launch(LaunchCommand {
                    node: *node,
                    kernel: launch.kernel,
                    params: launch.params.clone(),
                    groups: launch.groups,
                    args: args.iter().map(|a| a.as_ref().map(span)).collect(),
                    values: values.clone(),
                }),
                Draft::Copy { from, to } => Command::Copy { from: span(from), to: span(to) },
                Draft::Fill { to, value } => Command::Fill { to: span(to), value: *value },
            })
            .collect();
        let bytes = RegionBytes {
            state: self.states.bytes,
            arena: placement.peak,
            input: self.input_bytes,
            output: self.output_bytes,
        };
        Ok(Plan {
            name: name.into(),
            commands,
            inputs: self.inputs,
            outputs: self.outputs,
            bytes,
            lower_bound: lower_bound(&self.arena),
            axes: axes(self.graph, &self.live)?,
            ops: self.ops,
            states: self.states.slots.clone(),
        })
    }
}

fn fixed(span: Span) -> Loc {
    Loc { home: Home::Fixed(span.region, span.offset), offset: 0, bytes: span.bytes }
}

/// The last node at which a value must still be there. Views hand their reads on to what they look at; outputs and
/// new states are read at the very end.
fn last_uses(g: &Graph, live: &[bool]) -> HashMap<Value, u32> {
    let end = g.nodes.len() as u32;
    let mut last: HashMap<Value, u32> = HashMap::new();
    for v in g.outputs.iter().map(|o| o.1).chain(g.assigns.iter().map(|a| a.1)) {
        last.insert(v, end);
    }
    for i in (0..g.nodes.len()).rev().filter(|i| live[*i]) {
        let node = &g.nodes[i];
        let mut at = i as u32;
        if matches!(node.kind, Kind::View(_)) {
            at = at.max(last.get(&Value { node: i as u32, out: 0 }).copied().unwrap_or(0));
        }
        for v in node.ins.iter().filter(|v| !v.is_absent()) {
            let entry = last.entry(*v).or_insert(at);
            *entry = (*entry).max(at);
        }
    }
    last
}

/// Whether a launch reads input `k` after an earlier launch has written output `out`.
fn read_after_written(launches: &[Launch], k: usize, out: usize) -> bool {
    match launches.iter().position(|l| l.args.contains(&Arg::Out(out))) {
        Some(first) => launches[first + 1..].iter().any(|l| l.args.contains(&Arg::In(k))),
        None => false,
    }
}

/// The tensor that an argument of a launch of node `i` is.
fn value_of(arg: &Arg, i: u32, node: &Node) -> Option<Value> {
    match *arg {
        Arg::In(k) => Some(node.ins[k]),
        Arg::Out(k) => Some(Value { node: i, out: k as u32 }),
        Arg::Work { .. } | Arg::Absent => None,
    }
}

fn check_launches(
    op: &dyn Op,
    launches: &[Launch],
    ins: &[Meta],
    outs: &[Meta],
    workspace: u64,
    ctx: &Ctx,
) -> Result<()> {
    if launches.is_empty() || launches.iter().any(|l| !l.kernel.supports(ctx.target)) {
        return Err(Error::Unsupported { op: op.name().into(), backend: format!("{:?}", ctx.target).to_lowercase() });
    }
    let present = |metas: &[Meta], k: usize| metas.get(k).is_some_and(|m| !m.is_absent());
    let exists = |arg: &Arg| match *arg {
        Arg::In(k) => present(ins, k),
        Arg::Out(k) => present(outs, k),
        Arg::Work { offset, bytes } => {
            offset.is_multiple_of(ALIGN) && offset.checked_add(bytes).is_some_and(|end| end <= workspace)
        }
        Arg::Absent => true,
    };
    for l in launches {
        let fits = l.args.len() == l.kernel.operands.len()
            && l.params.words().len() <= crate::engine::op::PARAM_WORDS
            && l.groups.iter().all(|n| (1..=65_535).contains(n))
            && l.args.iter().all(exists);
        if !fits {
            return Err(Error::shape(op.name(), format!("a launch does not fit kernel {}", l.kernel.name)));
        }
    }
    Ok(())
}

/// Two states of one name would be two tensors in one place, two inputs or outputs of one name could not be told
/// apart by who fills or reads them.
fn check_names(g: &Graph, live: &[bool]) -> Result<()> {
    let mut seen = HashSet::new();
    let nodes = g.nodes.iter().zip(live).filter(|(_, live)| **live).filter_map(|(node, _)| match &node.kind {
        Kind::Input(name) => Some(("input", name)),
        Kind::State(name) => Some(("state", name)),
        _ => None,
    });
    for (what, name) in nodes.chain(g.outputs.iter().map(|o| ("output", &o.0))) {
        if !seen.insert((what, name)) {
            let fix = "occurs twice in one graph; declare it once and use its value again";
            return Err(Error::shape(format!("{what} {name}"), fix));
        }
    }
    Ok(())
}

fn axes(g: &Graph, live: &[bool]) -> Result<Vec<(Axis, usize)>> {
    let mut axes: Vec<(Axis, usize)> = vec![];
    let dims = (0..g.nodes.len()).filter(|i| live[*i]).flat_map(|i| &g.nodes[i].outs).flat_map(Meta::dims);
    for dim in dims {
        let Dim::Ragged(axis, cap) = *dim else { continue };
        match axes.iter().find(|a| a.0 == axis) {
            Some((_, c)) if *c != cap => {
                let what = format!("has capacity {c} in one place and {cap} in another");
                return Err(Error::shape(format!("axis {}", axis.0), what));
            }
            Some(_) => {}
            None => axes.push((axis, cap)),
        }
    }
    axes.sort_unstable();
    Ok(axes)
}
