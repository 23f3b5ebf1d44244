//! What every GPU back end must do, whatever its interface: slots, states, transfers, refusals.

use moviola::engine::backend::Backend;
use moviola::engine::graph::Graph;
use moviola::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use moviola::engine::scheduler::plan::{Command, Plan, Region, RegionBytes, StateLayout, plan};
use moviola::engine::tensor::{Axis, Counts, Dim, Meta};
use moviola::random::Random;
use std::sync::Arc;

#[path = "../seed/mod.rs"]
mod seed;
pub use seed::seed;

fn values(seed: u64, stream: u64, n: usize) -> Vec<f32> {
    let random = Random::new(seed, stream);
    (0..n as u64).map(|i| random.normal(i)).collect()
}

fn read_f32(gpu: &mut dyn Backend, region: Region, slot: usize, offset: u64, n: usize) -> Vec<f32> {
    let mut data = vec![0f32; n];
    gpu.read(region, slot, offset, bytemuck::cast_slice_mut(&mut data)).unwrap();
    data
}

/// `y = relu(x) + x` for `x [rows, 3]`, rows ragged.
pub fn ragged_plan(gpu: &dyn Backend, cap: usize) -> Arc<Plan> {
    let mut g = Graph::new();
    let x = g.input("x", Meta::f32(&[Dim::Ragged(Axis(0), cap), Dim::Fixed(3)]).unwrap());
    let r = g.apply(Unary { kind: UnaryKind::Relu }, &[x]).unwrap();
    let y = g.apply(Binary { kind: BinaryKind::Add }, &[r, x]).unwrap();
    g.output("y", y);
    Arc::new(plan("ragged", &g, &StateLayout::default(), &gpu.ctx()).unwrap())
}

pub fn slots_in_flight_keep_their_inputs_counts_and_outputs(gpu: &mut dyn Backend) {
    let seed = seed();
    let plans = [ragged_plan(gpu, 50), ragged_plan(gpu, 20)];
    let bytes = plans[0].bytes.max(plans[1].bytes);
    gpu.load(&plans, bytes, 3).unwrap();
    for round in 0..3 {
        let runs: Vec<(usize, usize, Vec<f32>)> = (0..3)
            .map(|slot| {
                let which = (slot + round) % 2;
                let rows = Random::new(seed, 9).below((round * 3 + slot) as u64, [50, 20][which]) as usize + 1;
                (which, rows, values(seed, (round * 3 + slot) as u64, rows * 3))
            })
            .collect();
        for (slot, (which, rows, x)) in runs.iter().enumerate() {
            let poison = vec![f32::NAN; (bytes.output / 4) as usize];
            gpu.write(Region::Out, slot, 0, bytemuck::cast_slice(&poison)).unwrap();
            gpu.write(Region::In, slot, 0, bytemuck::cast_slice(x)).unwrap();
            gpu.submit(*which, slot, Counts::default().with(Axis(0), *rows)).unwrap();
        }
        gpu.wait().unwrap();
        for (slot, (_, rows, x)) in runs.iter().enumerate() {
            let y = read_f32(gpu, Region::Out, slot, 0, rows * 3 + 3);
            let wanted: Vec<f32> = x.iter().map(|x| x.max(0.0) + x).collect();
            assert_eq!(y[..rows * 3], wanted);
            assert!(y[rows * 3..].iter().all(|v| v.is_nan()), "rows beyond the count were written");
        }
    }
}

pub fn fills_copies_and_states_carry_over_from_step_to_step(gpu: &mut dyn Backend) {
    let mut g = Graph::new();
    let meta = Meta::f32(&[Dim::Fixed(100)]).unwrap();
    let (a, b) = (g.state("a", meta.clone()), g.state("b", meta.clone()));
    let x = g.input("x", meta);
    let half = g.fill(0.5, &[Dim::Fixed(100)]).unwrap();
    // The slot's input and a fill cannot be produced inside a pack: both are copied. Two gaps are filled.
    let pack = g.pack(&[(x, 64), (half, 256)], 448).unwrap();
    let sum = g.apply(Binary { kind: BinaryKind::Add }, &[a, x]).unwrap();
    let next = g.apply(Binary { kind: BinaryKind::Add }, &[b, sum]).unwrap();
    g.assign(a, sum).unwrap();
    g.assign(b, next).unwrap();
    g.output("pack", pack);
    let layout = StateLayout::of([&g]).unwrap();
    let plan = Arc::new(plan("steps", &g, &layout, &gpu.ctx()).unwrap());
    let copies = plan.commands.iter().filter(|c| matches!(c, Command::Copy { .. })).count();
    let fills = plan.commands.iter().filter(|c| matches!(c, Command::Fill { .. })).count();
    assert!(copies >= 2 && fills >= 3, "{}", plan.dump());
    gpu.load(std::slice::from_ref(&plan), plan.bytes, 1).unwrap();
    let x = values(seed(), 0, 100);
    gpu.write(Region::State, 0, 0, bytemuck::cast_slice(&vec![0f32; (layout.bytes / 4) as usize])).unwrap();
    gpu.write(Region::In, 0, plan.inputs[0].span.offset, bytemuck::cast_slice(&x)).unwrap();
    for _ in 0..3 {
        gpu.submit(0, 0, Counts::default()).unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| layout.find(name).unwrap().span.offset);
    let (a, b) = (read_f32(gpu, Region::State, 0, a, 100), read_f32(gpu, Region::State, 0, b, 100));
    for i in 0..100 {
        let (one, two) = (x[i], x[i] + x[i]);
        let three = two + x[i];
        assert_eq!((a[i], b[i]), (three, one + two + three));
    }
    let pack = read_f32(gpu, Region::Out, 0, plan.outputs[0].span.offset, 448);
    for (i, v) in pack.iter().enumerate() {
        let wanted = match i {
            64..164 => x[i - 64],
            256..356 => 0.5,
            _ => 0.0,
        };
        assert_eq!(*v, wanted, "element {i}");
    }
}

pub fn a_read_larger_than_the_staging_buffer_comes_in_pieces(gpu: &mut dyn Backend) {
    let bytes = RegionBytes { state: 40 << 20, ..RegionBytes::default() };
    gpu.load(&[], bytes, 1).unwrap();
    let words: Vec<u32> = (0..10 << 20).collect();
    gpu.write(Region::State, 0, 0, bytemuck::cast_slice(&words)).unwrap();
    let mut back = vec![0u32; words.len()];
    gpu.read(Region::State, 0, 0, bytemuck::cast_slice_mut(&mut back)).unwrap();
    assert!(words == back);
    let mut part = [0u32; 3];
    gpu.read(Region::State, 0, 4 * 1_000_003, bytemuck::cast_slice_mut(&mut part)).unwrap();
    assert_eq!(part, [1_000_003, 1_000_004, 1_000_005]);
}

pub fn transfers_and_submits_outside_of_what_is_loaded_are_errors(gpu: &mut dyn Backend) {
    let mut word = [0u8; 4];
    assert!(gpu.read(Region::State, 0, 0, &mut word).is_err(), "nothing is loaded");
    assert!(gpu.submit(0, 0, Counts::default()).is_err(), "nothing is loaded");
    let plan = ragged_plan(gpu, 50);
    assert!(gpu.load(std::slice::from_ref(&plan), plan.bytes, 0).is_err(), "no slots");
    assert!(gpu.load(std::slice::from_ref(&plan), RegionBytes::default(), 1).is_err(), "regions too small");
    gpu.load(std::slice::from_ref(&plan), plan.bytes, 2).unwrap();
    for (slot, offset, len) in [(2, 0, 4), (0, plan.bytes.input, 4), (0, u64::MAX - 3, 4), (0, 2, 4), (0, 0, 3)] {
        let mut data = vec![0u8; len];
        assert!(gpu.read(Region::In, slot, offset, &mut data).is_err(), "read {slot} {offset} {len}");
        assert!(gpu.write(Region::In, slot, offset, &data).is_err(), "write {slot} {offset} {len}");
    }
    assert!(gpu.submit(1, 0, Counts::default()).is_err(), "no such plan");
    assert!(gpu.submit(0, 2, Counts::default()).is_err(), "no such slot");
    assert!(gpu.submit(0, 0, Counts::default().with(Axis(0), 51)).is_err(), "more rows than the plan holds");
    gpu.submit(0, 1, Counts::default().with(Axis(0), 50)).unwrap();
    gpu.wait().unwrap();
}

/// Nobody waits between a plan and the next batch in its slot: the upload has to.
pub fn a_slot_is_not_overwritten_while_a_plan_reads_it(gpu: &mut dyn Backend) {
    let mut g = Graph::new();
    let meta = Meta::f32(&[Dim::Fixed(100)]).unwrap();
    let total = g.state("total", meta.clone());
    let x = g.input("x", meta);
    let sum = g.apply(Binary { kind: BinaryKind::Add }, &[total, x]).unwrap();
    g.assign(total, sum).unwrap();
    let layout = StateLayout::of([&g]).unwrap();
    let plan = Arc::new(plan("sum", &g, &layout, &gpu.ctx()).unwrap());
    gpu.load(std::slice::from_ref(&plan), plan.bytes, 2).unwrap();
    gpu.write(Region::State, 0, 0, bytemuck::cast_slice(&vec![0f32; (layout.bytes / 4) as usize])).unwrap();
    let seed = seed();
    let mut wanted = vec![0f32; 100];
    for batch in 0..6u64 {
        let x = values(seed, batch, 100);
        gpu.write(Region::In, batch as usize % 2, plan.inputs[0].span.offset, bytemuck::cast_slice(&x)).unwrap();
        gpu.submit(0, batch as usize % 2, Counts::default()).unwrap();
        wanted.iter_mut().zip(&x).for_each(|(w, x)| *w += x);
    }
    let total = layout.find("total").unwrap().span.offset;
    assert_eq!(read_f32(gpu, Region::State, 0, total, 100), wanted);
}
