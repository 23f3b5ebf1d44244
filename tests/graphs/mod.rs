//! What the tests of plans and rewrites share: random graphs, and running a plan on the CPU beside the reference.
#![allow(dead_code)]

use moviola::engine::autodiff::backprop;
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::check::{laid_out, positions};
use moviola::engine::graph::{Graph, Kind, Value};
use moviola::engine::op::linear::{Activation, Linear};
use moviola::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use moviola::engine::op::reduce::{BroadcastRows, SumRows};
use moviola::engine::op::{Ctx, Precision, Target, noise};
use moviola::engine::reference::evaluate;
use moviola::engine::scheduler::plan::{Plan, Region, Slot, StateLayout, plan};
use moviola::engine::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use moviola::error::Result;
use moviola::random::Random;
use std::collections::HashMap;
use std::sync::Arc;

#[path = "../seed/mod.rs"]
mod seed;
pub use seed::seed;

pub fn ctx() -> Ctx {
    Ctx { target: Target::Cpu, precision: Precision::F32, max_binding_bytes: u64::MAX, threads: 2 }
}

pub fn affine(a: f32, b: f32) -> Unary {
    Unary { kind: UnaryKind::Affine { a, b } }
}

pub fn unary(kind: UnaryKind) -> Unary {
    Unary { kind }
}

pub fn add() -> Binary {
    Binary { kind: BinaryKind::Add }
}

pub fn mul() -> Binary {
    Binary { kind: BinaryKind::Mul }
}

pub fn sub() -> Binary {
    Binary { kind: BinaryKind::Sub }
}

pub fn fixed(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|n| Dim::Fixed(*n)).collect()
}

pub fn f32s(sizes: &[usize]) -> Meta {
    Meta::f32(&fixed(sizes)).unwrap()
}

/// Draws numbers in a row.
pub struct Dice {
    random: Random,
    next: u64,
}

impl Dice {
    pub fn new(seed: u64, stream: u64) -> Dice {
        Dice { random: Random::new(seed, stream), next: 0 }
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.random.below(self.next, n as u64) as usize
    }
    pub fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const ROWS: usize = 7;
const CAP: usize = 11;
/// Packs of packs and products of wide matrices grow without bound: values above this many elements are read by nobody.
const WIDEST: u64 = 2048;

/// What every batch of a random graph has as its true length.
pub fn counts() -> Counts {
    Counts::default().with(Axis(0), ROWS)
}

/// A random graph of about `size` nodes over every kind of node: values are read often, rarely and never, viewed,
/// packed (also twice), put out and assigned; some graphs hold their own gradients.
pub fn random_graph(dice: &mut Dice, size: usize) -> Graph {
    let mut g = Graph::new();
    let rows = [Dim::Fixed(8), Dim::Fixed(16), Dim::Ragged(Axis(0), CAP)];
    let cols = [Dim::Fixed(8), Dim::Fixed(16), Dim::Fixed(5)];
    let mut pool = vec![];
    for i in 0..3 + dice.below(3) {
        let meta = Meta::f32(&[dice.one_of(&rows), dice.one_of(&cols)]).unwrap();
        pool.push(g.input(format!("x{i}"), meta));
    }
    let mut states = vec![];
    for i in 0..1 + dice.below(4) {
        let meta = Meta::f32(&[Dim::Fixed(dice.one_of(&[8, 16])), dice.one_of(&cols)]).unwrap();
        states.push(g.state(format!("s{i}"), meta));
    }
    pool.extend(&states);
    while g.nodes.len() < size {
        let new = random_node(&mut g, dice, &pool);
        pool.extend(new.into_iter().filter(|v| g.meta(*v).elements() <= WIDEST));
    }
    if dice.chance(60) {
        pool.extend(random_gradients(&mut g, dice, &pool, &states));
    }
    assign_some(&mut g, dice, &pool, &states);
    for i in 0..1 + dice.below(4) {
        let recent = pool.len() - 1 - dice.below(pool.len().min(8));
        let value = if dice.chance(70) { pool[recent] } else { dice.one_of(&pool) };
        g.output(format!("y{i}"), value);
    }
    g
}

fn random_node(g: &mut Graph, dice: &mut Dice, pool: &[Value]) -> Vec<Value> {
    // Recent values are read more often, so that chains grow and in-place has its chance.
    let recent = pool.len() - 1 - dice.below(pool.len().min(5));
    let x = if dice.chance(60) { pool[recent] } else { dice.one_of(pool) };
    let meta = g.meta(x);
    let alike: Vec<Value> = pool.iter().copied().filter(|v| g.meta(*v) == meta).collect();
    let flat: Vec<Value> = pool.iter().copied().filter(|v| !g.meta(*v).is_ragged()).collect();
    match dice.below(12) {
        0..=2 => {
            let kinds = [
                UnaryKind::Affine { a: -0.7, b: 0.3 },
                UnaryKind::Relu,
                UnaryKind::GeluTanh,
                UnaryKind::Sigmoid,
                UnaryKind::Tanh,
                UnaryKind::Affine { a: 1.0, b: 0.0 },
            ];
            vec![g.apply(unary(dice.one_of(&kinds)), &[x]).unwrap()]
        }
        3 | 4 => {
            let kind = dice.one_of(&[BinaryKind::Add, BinaryKind::Sub]);
            vec![g.apply(Binary { kind }, &[x, dice.one_of(&alike)]).unwrap()]
        }
        5 => {
            // Products of bounded factors stay bounded.
            let bounded = g.apply(unary(UnaryKind::Sigmoid), &[dice.one_of(&alike)]).unwrap();
            vec![bounded, g.apply(mul(), &[x, bounded]).unwrap()]
        }
        6 | 7 => random_linear(g, dice, pool, x),
        8 if meta.rank() == 2 => vec![g.apply(SumRows, &[x]).unwrap()],
        8 => vec![g.apply(BroadcastRows { rows: Dim::Ragged(Axis(0), CAP) }, &[x]).unwrap()],
        9 => {
            let sources: Vec<Value> = flat.iter().copied().filter(|v| g.meta(*v).elements() > 64).collect();
            if sources.is_empty() {
                return vec![];
            }
            let source = dice.one_of(&sources);
            let whole = g.meta(source).elements();
            let offset = 64 * dice.below((whole / 64) as usize) as u64;
            let n = (whole - offset) as usize;
            let sizes = if n >= 64 && dice.chance(70) { vec![8, 8] } else { vec![1 + dice.below(n)] };
            vec![g.view(source, offset, f32s(&sizes)).unwrap()]
        }
        10 => {
            let mut end = 0;
            let mut parts = vec![];
            for _ in 0..1 + dice.below(4) {
                let part = if dice.chance(60) { *flat.last().unwrap() } else { dice.one_of(&flat) };
                let offset = (end as u64 + 64 * dice.below(2) as u64).next_multiple_of(64);
                end = (offset + g.meta(part).elements()) as usize;
                parts.push((part, offset));
            }
            vec![g.pack(&parts, (end + 64 * dice.below(2)) as u64).unwrap()]
        }
        _ => vec![g.fill(dice.one_of(&[0.0, 0.5, -1.0]), meta.dims()).unwrap()],
    }
}

fn random_linear(g: &mut Graph, dice: &mut Dice, pool: &[Value], a: Value) -> Vec<Value> {
    let meta = g.meta(a);
    if meta.rank() != 2 {
        return vec![];
    }
    let (a_t, b_t) = (dice.chance(20), dice.chance(50));
    let k = meta.dim(if a_t { 0 } else { 1 });
    let m = meta.dim(if a_t { 1 } else { 0 });
    let fits = |v: &&Value| {
        let b = g.meta(**v);
        // Elementwise ops read whole rows: a ragged dimension must stay the first.
        let columns = |b: &Meta| b.dim(if b_t { 0 } else { 1 });
        b.rank() == 2 && b.dim(if b_t { 1 } else { 0 }) == k && matches!(columns(&b), Dim::Fixed(_))
    };
    let rights: Vec<Value> = pool.iter().filter(fits).copied().collect();
    if rights.is_empty() {
        return vec![];
    }
    // A factor below one, so that a chain of products does not overflow.
    let b = g.apply(affine(0.2, 0.0), &[dice.one_of(&rights)]).unwrap();
    let n = g.meta(b).dim(if b_t { 0 } else { 1 });
    let with = |g: &Graph, dice: &mut Dice, meta: Meta| {
        let fitting: Vec<Value> = pool.iter().copied().filter(|v| g.meta(*v) == meta).collect();
        if fitting.is_empty() || dice.chance(40) { Value::ABSENT } else { dice.one_of(&fitting) }
    };
    let bias = with(g, dice, Meta::f32(&[n]).unwrap());
    let residual = with(g, dice, Meta::f32(&[m, n]).unwrap());
    let activation = dice.one_of(&[Activation::None, Activation::Relu, Activation::GeluTanh]);
    vec![g.apply(Linear { a_t, b_t, activation }, &[a, b, bias, residual]).unwrap()]
}

fn random_gradients(g: &mut Graph, dice: &mut Dice, pool: &[Value], states: &[Value]) -> Vec<Value> {
    // The gradients of gradients do not exist, so only what stands before them is a seed.
    let target = pool[pool.len() - 1 - dice.below(pool.len().min(4))];
    let seed = g.input("seed", g.meta(target));
    let grads = backprop(g, &[(target, seed)], states).unwrap();
    let mut new = vec![];
    for (state, grad) in states.iter().zip(grads) {
        let Some(grad) = grad else { continue };
        new.push(grad);
        if dice.chance(70) && !g.assigns.iter().any(|a| a.0 == *state) {
            let step = g.apply(affine(-0.01, 0.0), &[grad]).unwrap();
            let value = g.apply(add(), &[*state, step]).unwrap();
            g.assign(*state, value).unwrap();
            new.push(value);
        }
    }
    new
}

/// Assigns what fits; a third of the values are computed from the state itself, which is where in-place matters.
fn assign_some(g: &mut Graph, dice: &mut Dice, pool: &[Value], states: &[Value]) {
    for state in states {
        if dice.chance(30) || g.assigns.iter().any(|a| a.0 == *state) {
            continue;
        }
        let meta = g.meta(*state);
        let value = if dice.chance(35) {
            let half = g.apply(affine(0.5, 0.1), &[*state]).unwrap();
            if dice.chance(50) { g.apply(mul(), &[half, *state]).unwrap() } else { half }
        } else {
            let fitting: Vec<Value> = pool.iter().copied().filter(|v| g.meta(*v) == meta).collect();
            dice.one_of(&fitting)
        };
        // A state cannot be assigned to a state; the graph says so.
        let _ = g.assign(*state, value);
    }
}

/// Normal numbers for every input and state.
pub fn given(g: &Graph, counts: &Counts, seed: u64) -> HashMap<String, HostTensor> {
    let mut given = HashMap::new();
    for (i, node) in g.nodes.iter().enumerate() {
        if let Kind::Input(name) | Kind::State(name) = &node.kind {
            given.insert(name.clone(), noise(&node.outs[0].sizes(counts), seed + i as u64));
        }
    }
    given
}

/// Outputs and new states of one step by the f64 references.
pub fn step(g: &Graph, given: &HashMap<String, HostTensor>, counts: &Counts) -> HashMap<String, HostTensor> {
    let values = evaluate(g, given, counts);
    let mut results = given.clone();
    results.extend(g.outputs.iter().map(|(name, v)| (name.clone(), values[v].clone())));
    for (state, value) in &g.assigns {
        let Kind::State(name) = &g.nodes[state.node as usize].kind else { unreachable!("assign checks its target") };
        results.insert(name.clone(), values[value].clone());
    }
    results
}

/// A plan on the CPU, with NaN in whatever nobody wrote.
pub struct Runner {
    cpu: Cpu,
}

const NAN: u32 = 0x7fc0_dead;

impl Runner {
    pub fn new() -> Runner {
        Runner { cpu: Cpu::new(2).unwrap() }
    }

    /// Loads a plan and uploads states and inputs.
    pub fn load(&mut self, plan: &Plan, given: &HashMap<String, HostTensor>, counts: &Counts) -> Result<()> {
        self.cpu.load(&[Arc::new(plan.clone())], plan.bytes, 1)?;
        let regions = [
            (Region::In, plan.bytes.input),
            (Region::State, plan.bytes.state),
            (Region::Arena, plan.bytes.arena),
            (Region::Out, plan.bytes.output),
        ];
        for (region, bytes) in regions {
            self.cpu.write(region, 0, 0, bytemuck::cast_slice(&vec![NAN; (bytes / 4) as usize]))?;
        }
        for (slots, region) in [(&plan.inputs, Region::In), (&plan.states, Region::State)] {
            for slot in slots.iter().filter(|s| given.contains_key(&s.name)) {
                let words = laid_out(&slot.meta, &given[&slot.name], counts);
                self.cpu.write(region, 0, slot.span.offset, bytemuck::cast_slice(&words))?;
            }
        }
        Ok(())
    }

    /// Poisons arena and outputs, runs, and says the first thing that differs from `expected`.
    pub fn step(
        &mut self,
        plan: &Plan,
        expected: &HashMap<String, HostTensor>,
        counts: &Counts,
    ) -> Result<Option<String>> {
        for (region, bytes) in [(Region::Arena, plan.bytes.arena), (Region::Out, plan.bytes.output)] {
            self.cpu.write(region, 0, 0, bytemuck::cast_slice(&vec![NAN; (bytes / 4) as usize]))?;
        }
        self.cpu.submit(0, 0, *counts)?;
        self.cpu.wait()?;
        for (slots, region) in [(&plan.outputs, Region::Out), (&plan.states, Region::State)] {
            for slot in slots {
                if let Some(what) = self.differs(slot, region, &expected[&slot.name], counts)? {
                    return Ok(Some(what));
                }
            }
        }
        Ok(None)
    }

    fn differs(&mut self, slot: &Slot, region: Region, want: &HostTensor, counts: &Counts) -> Result<Option<String>> {
        assert_eq!(slot.meta.dtype(), DType::F32, "random graphs compute in f32");
        let mut words = vec![0u32; slot.meta.elements() as usize];
        self.cpu.read(region, 0, slot.span.offset, bytemuck::cast_slice_mut(&mut words))?;
        let scale = want.x().iter().fold(1.0f64, |m, x| m.max(x.abs()));
        for (at, want) in positions(&slot.meta, counts).into_iter().zip(want.x()) {
            let have = f64::from(f32::from_bits(words[at]));
            let close = (have - want).abs() <= 1e-3 * scale;
            if !close {
                return Ok(Some(format!("{} word {at} is {have} and should be {want}", slot.name)));
            }
        }
        Ok(None)
    }
}

/// Plans and runs two steps; what differs from the reference, if anything.
pub fn run(g: &Graph, seed: u64) -> Result<Option<String>> {
    let plan = plan("random", g, &StateLayout::of([g])?, &ctx())?;
    run_plan(&mut Runner::new(), g, &plan, seed)
}

pub fn run_plan(runner: &mut Runner, g: &Graph, plan: &Plan, seed: u64) -> Result<Option<String>> {
    let counts = counts();
    let before = given(g, &counts, seed);
    let first = step(g, &before, &counts);
    let second = step(g, &first, &counts);
    runner.load(plan, &before, &counts)?;
    Ok(match runner.step(plan, &first, &counts)? {
        Some(what) => Some(format!("step 1: {what}")),
        None => runner.step(plan, &second, &counts)?.map(|what| format!("step 2: {what}")),
    })
}

/// Two layers with a residual and GELU over ragged rows: forward, backward and a step with momentum. Parameters,
/// gradient and moments are flat and shared by views, as in every model.
pub fn small_model() -> Graph {
    let mut g = Graph::new();
    let rows = Dim::Ragged(Axis(0), CAP);
    let (width, hidden) = (16, 24);
    let x = g.input("x", Meta::f32(&[rows, Dim::Fixed(width)]).unwrap());
    let goal = g.input("goal", Meta::f32(&[rows, Dim::Fixed(width)]).unwrap());
    // w1 [24, 16] at 0, b1 [24] at 384, w2 [16, 24] at 448, b2 [16] at 832.
    let params = g.state("params", f32s(&[896]));
    let moments = g.state("moments", f32s(&[896]));
    let w1 = g.view(params, 0, f32s(&[hidden, width])).unwrap();
    let b1 = g.view(params, 384, f32s(&[hidden])).unwrap();
    let w2 = g.view(params, 448, f32s(&[width, hidden])).unwrap();
    let b2 = g.view(params, 832, f32s(&[width])).unwrap();
    let none = Value::ABSENT;
    let up = Linear { a_t: false, b_t: true, activation: Activation::GeluTanh };
    let h = g.apply(up, &[x, w1, b1, none]).unwrap();
    let y = g.apply(Linear::new(false, true), &[h, w2, b2, none]).unwrap();
    let y = g.apply(add(), &[y, x]).unwrap();
    let error = g.apply(sub(), &[y, goal]).unwrap();
    let squares = g.apply(mul(), &[error, error]).unwrap();
    let loss = g.apply(SumRows, &[squares]).unwrap();
    let one = g.fill(1.0, &fixed(&[width])).unwrap();
    let grad = backprop(&mut g, &[(loss, one)], &[params]).unwrap()[0].unwrap();
    let slower = g.apply(affine(0.9, 0.0), &[moments]).unwrap();
    let faster = g.apply(affine(0.1, 0.0), &[grad]).unwrap();
    let moment = g.apply(add(), &[slower, faster]).unwrap();
    let down = g.apply(affine(-0.01, 0.0), &[moment]).unwrap();
    let new = g.apply(add(), &[params, down]).unwrap();
    g.assign(moments, moment).unwrap();
    g.assign(params, new).unwrap();
    g.output("loss", loss);
    g.output("scores", y);
    g
}
