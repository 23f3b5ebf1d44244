//! Token interaction on the CPU beside the matrix products it is made of, in one run:
//! `cargo bench --bench interact [-- FILTER]`.
//!
//! The first lines are the measure the kernel is held to: the time of the op as a multiple of the time of its matrix
//! products alone, by the same library on the same threads, runs taking turns, median of the ratios.

use criterion::{Criterion, criterion_group};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::{Cpu, Matrix, MatrixMut, matmul};
use moviola::engine::check::laid_out;
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::interact::{INTERACT, INTERACT_GRAD, INTERACT_PAIRS};
use moviola::engine::op::{Class, Op, Sample};
use moviola::engine::scheduler::plan::{Region, StateLayout, plan};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sample loaded on a device, ready to be run again and again.
struct Loaded {
    name: String,
    device: Cpu,
    sample: Sample,
}

impl Loaded {
    fn new(op: &dyn Op, sample: Sample) -> Loaded {
        let mut g = Graph::new();
        let mut ins = vec![];
        for (i, meta) in sample.metas.iter().enumerate() {
            ins.push(if meta.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), meta.clone()) });
        }
        let outs = g.apply_arc(sample.op.clone(), &ins).expect("samples fit their ops");
        // What training and ranking ask for: scores, or the gradients of what is there.
        let routed = !sample.metas[6].is_absent();
        let wanted: &[usize] = match outs.len() {
            7 if routed => &[0, 2, 4, 5, 6],
            7 => &[0, 2],
            _ => &[0],
        };
        wanted.iter().for_each(|o| g.output(format!("out{o}"), outs[*o]));
        let mut device = Cpu::new(0).expect("threads");
        let plan = Arc::new(plan(&sample.name, &g, &StateLayout::default(), &device.ctx()).expect("a plan"));
        device.load(std::slice::from_ref(&plan), plan.bytes, 1).expect("memory");
        for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
            if let Some(slot) = plan.input(&format!("in{i}")) {
                let words = laid_out(meta, value, &sample.counts);
                let bytes = bytemuck::cast_slice(&words);
                device.write(Region::In, 0, slot.span.offset, bytes).expect("the slot holds its input");
            }
        }
        Loaded { name: format!("{} {}", op.name(), sample.name), device, sample }
    }
    fn run(&mut self) {
        self.device.submit(0, 0, self.sample.counts).expect("a loaded plan runs");
    }
}

fn benches() -> Vec<Loaded> {
    let ops: [&dyn Op; 3] = [&INTERACT, &INTERACT_GRAD, &INTERACT_PAIRS];
    let samples = ops.into_iter().flat_map(|op| op.samples().into_iter().map(move |s| (op, s)));
    samples.filter(|(_, s)| s.class == Class::Bench).map(|(op, s)| Loaded::new(op, s)).collect()
}

/// The matrix products of an op, as `[m, k] · [k, n]`.
struct Products {
    shapes: Vec<(usize, usize, usize)>,
    a: Vec<f32>,
    b: Vec<f32>,
    /// A block's product, for each thread.
    c: Vec<f32>,
}

/// Rows and columns of one block of the yardstick: of 128, 256, 384 and 512 the quickest at our sizes.
const BLOCK: usize = 384;

impl Products {
    /// Those of `loaded`: E·Wᵀ; for a gradient also G·W and Gᵀ·E; for listed pairs one with each text.
    fn of(loaded: &Loaded) -> Products {
        let sample = &loaded.sample;
        let (l, d) = (sample.ins[0].dim(0), sample.ins[0].dim(1));
        // A row a slot.
        let t = sample.ins[3].elements() / d;
        let texts = sample.ins[1].dim(0);
        let shapes = match sample.metas.len() {
            11 => vec![(t, l, d)],
            12 => vec![(t / texts, l / texts, d); texts],
            _ => vec![(t, l, d), (t, d, l), (l, d, t)],
        };
        let floats = |n: usize| (0..n).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5).collect::<Vec<f32>>();
        let most = |f: fn(&(usize, usize, usize)) -> usize| shapes.iter().map(f).max().unwrap_or(0);
        let (a, b) = (floats(most(|s| s.0 * s.2)), floats(most(|s| s.1 * s.2)));
        Products { shapes, a, b, c: vec![0.0; BLOCK * BLOCK * rayon::current_num_threads()] }
    }
    /// Blocks in parallel; a block's product stays in the cache.
    fn run(&mut self) {
        let c: Vec<_> = self.c.chunks_mut(BLOCK * BLOCK).map(std::sync::Mutex::new).collect();
        for &(m, n, k) in &self.shapes {
            let (rows, columns) = (m.div_ceil(BLOCK), n.div_ceil(BLOCK));
            (0..rows * columns).into_par_iter().with_max_len(1).for_each(|i| {
                let (row, col) = (i / columns * BLOCK, i % columns * BLOCK);
                let (rows, cols) = (BLOCK.min(m - row), BLOCK.min(n - col));
                let mut c = c[rayon::current_thread_index().unwrap_or(0)].lock().expect("no block panics");
                let a = Matrix { data: &self.a[row * k..], row: k, col: 1 };
                let b = Matrix { data: &self.b[col * k..], row: 1, col: k };
                matmul(rows, cols, k, MatrixMut { data: &mut c, row: BLOCK }, 0.0, a, b);
            });
        }
    }
}

fn time(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Prints each op's time as a multiple of that of its products.
fn ratios(rounds: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for mut loaded in benches() {
        let mut products = Products::of(&loaded);
        loaded.run();
        products.run();
        let (mut ops, mut alone, mut ratio) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let (op, product) = (time(|| loaded.run()).as_secs_f64(), time(|| products.run()).as_secs_f64());
            ops.push(op);
            alone.push(product);
            ratio.push(op / product);
        }
        let best = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{}: {:.2} x its products ({threads} threads, {rounds} rounds; best {:.1} ms and {:.1} ms)",
            loaded.name,
            median(ratio),
            1e3 * best(&ops),
            1e3 * best(&alone)
        );
    }
}

fn timings(c: &mut Criterion) {
    let mut group = c.benchmark_group("interact");
    group.sample_size(10);
    for mut loaded in benches() {
        let name = loaded.name.clone();
        group.bench_function(name, |b| b.iter(|| loaded.run()));
    }
    group.finish();
}

criterion_group!(criterion, timings);

fn main() {
    // Under `cargo test` criterion runs everything once: the ratios would say nothing there.
    if std::env::args().any(|a| a == "--bench") {
        ratios(7);
    }
    criterion();
    Criterion::default().configure_from_args().final_summary();
}
