//! What samples cannot show of norms, segments, top-k and the optimiser: steps on states in place, numbers that are
//! not numbers, and tables that no packer would make.

mod seed;

use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::check::laid_out;
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::optim::{AdamW, ClipNorm};
use moviola::engine::op::segment::{
    SegmentKind, SegmentLogSoftmax, SegmentLogSoftmaxGrad, SegmentReduce, SegmentSpread,
};
use moviola::engine::op::topk::{EMPTY, TopK};
use moviola::engine::op::{Op, noise};
use moviola::engine::scheduler::plan::{Command, Plan, Region, StateLayout, plan};
use moviola::engine::tensor::{Counts, DType, Dim, HostData, HostTensor, Meta};
use seed::seed;
use std::sync::Arc;

fn meta_of(value: &HostTensor) -> Meta {
    let dims: Vec<Dim> = value.shape.iter().map(|n| Dim::Fixed(*n)).collect();
    match value.data {
        HostData::F64(_) => Meta::f32(&dims).unwrap(),
        HostData::U32(_) => Meta::u32(&dims).unwrap(),
        HostData::Absent => Meta::absent(),
    }
}

/// Loads a plan on one CPU.
fn loaded(g: &Graph, states: &StateLayout) -> (Cpu, Arc<Plan>) {
    let mut cpu = Cpu::new(2).unwrap();
    let plan = Arc::new(plan("test", g, states, &cpu.ctx()).unwrap());
    cpu.load(std::slice::from_ref(&plan), plan.bytes, 1).unwrap();
    (cpu, plan)
}

fn set(cpu: &mut Cpu, plan: &Plan, name: &str, value: &HostTensor) {
    if let Some(slot) = plan.input(name) {
        let words = laid_out(&slot.meta, value, &Counts::default());
        cpu.write(Region::In, 0, slot.span.offset, bytemuck::cast_slice(&words)).unwrap();
    }
}

fn words(cpu: &mut Cpu, region: Region, offset: u64, n: usize) -> Vec<u32> {
    let mut words = vec![0u32; n];
    cpu.read(region, 0, offset, bytemuck::cast_slice_mut(&mut words)).unwrap();
    words
}

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|w| f32::from_bits(*w)).collect()
}

/// The words of every output of one op.
fn run(op: impl Op + 'static, ins: &[HostTensor]) -> Vec<Vec<u32>> {
    let mut g = Graph::new();
    let values: Vec<Value> = (ins.iter().enumerate())
        .map(|(i, v)| if v.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), meta_of(v)) })
        .collect();
    for (o, v) in g.apply_all(op, &values).unwrap().into_iter().enumerate() {
        g.output(format!("out{o}"), v);
    }
    let (mut cpu, plan) = loaded(&g, &StateLayout::default());
    for (i, v) in ins.iter().enumerate() {
        set(&mut cpu, &plan, &format!("in{i}"), v);
    }
    cpu.submit(0, 0, Counts::default()).unwrap();
    cpu.wait().unwrap();
    (plan.outputs.iter())
        .map(|slot| words(&mut cpu, Region::Out, slot.span.offset, slot.meta.elements() as usize))
        .collect()
}

#[test]
fn adam_w_steps_on_states_in_place_as_its_reference_does() {
    let (seed, n) = (seed(), 1000);
    let op = AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 };
    let flat = Meta::f32(&[Dim::Fixed(n)]).unwrap();
    let mut g = Graph::new();
    let states = ["params", "m", "v"].map(|name| g.state(name, flat.clone()));
    let grads = g.input("grads", flat);
    let scalars = g.input("scalars", Meta::f32(&[Dim::Fixed(4)]).unwrap());
    let ranges = g.input("ranges", Meta::u32(&[Dim::Fixed(2), Dim::Fixed(2)]).unwrap());
    let factors = g.input("factors", Meta::f32(&[Dim::Fixed(2), Dim::Fixed(4)]).unwrap());
    let clip = g.apply(ClipNorm { max_norm: 1.0 }, &[grads]).unwrap();
    let news = g.apply_all(op.clone(), &[&states[..], &[grads, clip, scalars, ranges, factors]].concat()).unwrap();
    for (state, new) in states.into_iter().zip(news) {
        g.assign(state, new).unwrap();
    }
    let layout = StateLayout::of([&g]).unwrap();
    let (mut cpu, plan) = loaded(&g, &layout);
    assert!(!plan.commands.iter().any(|c| matches!(c, Command::Copy { .. })), "all three are updated in place");

    // One range is frozen by a rate of 0, the elements behind 900 are in no range; limits hold in the first.
    let ranges = HostTensor::u32(&[2, 2], vec![0, 400, 400, 900]);
    let factors = HostTensor::f64(&[2, 4], vec![1.0, 0.125, -0.5, 0.5, 0.0, 0.0, -1e30, 1e30].into_iter().collect());
    let mut now = [noise(&[n], seed), HostTensor::zeros(&[n]), HostTensor::zeros(&[n])];
    for (name, value) in ["params", "m", "v"].iter().zip(&now) {
        let slot = layout.find(name).unwrap();
        let words = laid_out(&slot.meta, value, &Counts::default());
        cpu.write(Region::State, 0, slot.span.offset, bytemuck::cast_slice(&words)).unwrap();
    }
    let begin = now[0].clone();
    for t in 1..=3 {
        let grads = noise(&[n], seed + t);
        let correction = |beta: f64| f64::from((1.0 / (1.0 - beta.powi(t as i32))) as f32);
        let scalars = HostTensor::f64(&[4], vec![0.0625, correction(0.9), correction(0.98), 0.0]);
        for (name, value) in [("grads", &grads), ("scalars", &scalars), ("ranges", &ranges), ("factors", &factors)] {
            set(&mut cpu, &plan, name, value);
        }
        cpu.submit(0, 0, Counts::default()).unwrap();
        let clip =
            ClipNorm { max_norm: 1.0 }.reference(std::slice::from_ref(&grads), &Counts::default()).swap_remove(0);
        let rest = [grads, clip, scalars, ranges.clone(), factors.clone()];
        let ins: Vec<HostTensor> = now.iter().cloned().chain(rest).collect();
        now = op.reference(&ins, &Counts::default()).try_into().unwrap();
    }
    cpu.wait().unwrap();
    for (name, wanted) in ["params", "m", "v"].iter().zip(&now) {
        let slot = layout.find(name).unwrap();
        let got = floats(&words(&mut cpu, Region::State, slot.span.offset, n));
        let scale = wanted.x().iter().fold(1e-9f64, |m, x| m.max(x.abs()));
        for (i, (got, wanted)) in got.iter().zip(wanted.x()).enumerate() {
            let error = (f64::from(*got) - wanted).abs() / scale;
            assert!(error < 2e-6, "{name}[{i}] is {got} and should be {wanted}");
        }
    }
    assert!(now[0].x()[..400].iter().all(|p| p.abs() <= 0.5) && now[0].x()[..400] != begin.x()[..400]);
    assert_eq!(now[0].x()[400..], begin.x()[400..], "frozen or in no range");
}

#[test]
fn a_gradient_that_is_not_a_number_stays_visible() {
    let mut grads = noise(&[100], seed());
    grads.x_mut()[37] = f64::NAN;
    let clip = run(ClipNorm { max_norm: 1.0 }, std::slice::from_ref(&grads));
    assert!(f32::from_bits(clip[0][0]).is_nan() && f32::from_bits(clip[1][0]).is_nan());

    let op = AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 };
    let zero = HostTensor::zeros(&[100]);
    let scalars = HostTensor::f64(&[4], vec![0.1, 10.0, 50.0, 0.0]);
    let factors = HostTensor::f64(&[1, 4], vec![1.0, 0.0, -1.0, 1.0]);
    let ranges = HostTensor::u32(&[1, 2], vec![0, 100]);
    let ins = [zero.clone(), zero.clone(), zero, grads, HostTensor::scalar(1.0), scalars, ranges, factors];
    let params = floats(&run(op, &ins)[0]);
    let lost: Vec<usize> = (0..100).filter(|i| params[*i].is_nan()).collect();
    assert_eq!(lost, [37], "limits must not turn a NaN into a parameter");
}

#[test]
fn top_k_puts_what_is_not_a_number_last() {
    let scores = HostTensor::f64(&[1, 5], vec![f64::NAN, 1.0, f64::NEG_INFINITY, f64::NAN, f64::INFINITY]);
    let none = HostTensor::absent();
    let outs = run(TopK { k: 7 }, &[scores, none.clone(), none.clone(), none]);
    assert_eq!(outs[1], [4, 1, 2, 0, 3, u32::MAX, u32::MAX]);
    let values = floats(&outs[0]);
    assert_eq!(values[..3], [f32::INFINITY, 1.0, f32::NEG_INFINITY]);
    assert!(values[3].is_nan() && values[4].is_nan());
    assert_eq!(values[5..], [EMPTY, EMPTY]);
}

#[test]
fn tables_that_no_packer_would_make_do_no_harm() {
    let (seed, rows) = (seed(), 50);
    let random = moviola::random::Random::new(seed, 5);
    for round in 0..200u64 {
        // Any order, beyond the rows, reversed.
        let n = random.below(round * 100, 9) as usize;
        let draw = |i: usize| match random.below(round * 100 + 1 + i as u64, 70) {
            69 => u32::MAX,
            x => x as u32,
        };
        let table = HostTensor::u32(&[n, 2], (0..2 * n).map(draw).collect());
        let x = noise(&[rows, 3], seed);
        let logits = noise(&[rows], seed);
        for kind in [SegmentKind::Sum, SegmentKind::Mean, SegmentKind::Last] {
            let y = run(SegmentReduce { kind, tail: 1 }, &[x.clone(), table.clone()]).swap_remove(0);
            assert!(floats(&y).iter().all(|y| y.is_finite()), "seed {seed}");
            let spread = SegmentSpread { kind, tail: 1, rows: Dim::Fixed(rows) };
            let x = run(spread, &[noise(&[n, 3], seed), table.clone()]).swap_remove(0);
            assert!(floats(&x).iter().all(|x| x.is_finite()), "seed {seed}");
        }
        let y = run(SegmentLogSoftmax { tail: 0 }, &[logits.clone(), table.clone()]).swap_remove(0);
        assert!(floats(&y).iter().all(|y| y.is_finite()), "seed {seed}");
        run(SegmentLogSoftmaxGrad { tail: 0, column: false }, &[logits.clone(), logits, table]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_the_op_and_the_rule() {
    let f = |dims: &[usize]| Meta::f32(&dims.iter().map(|n| Dim::Fixed(*n)).collect::<Vec<_>>()).unwrap();
    let u = |dims: &[usize]| Meta::new(DType::U32, &dims.iter().map(|n| Dim::Fixed(*n)).collect::<Vec<_>>()).unwrap();
    let none = Meta::absent();
    let refusals: [(&dyn Op, Vec<Meta>, &str); 7] = [
        (&TopK { k: 1025 }, vec![f(&[2, 9]), none.clone(), none.clone(), none.clone()], "1024"),
        (&TopK { k: 3 }, vec![f(&[2, 9]), none.clone(), f(&[2, 3]), none.clone()], "carry"),
        (&SegmentReduce { kind: SegmentKind::Sum, tail: 0 }, vec![f(&[4, 2]), f(&[1, 2])], "U32"),
        (&SegmentReduce { kind: SegmentKind::Sum, tail: 0 }, vec![f(&[4, 2]), u(&[1, 3])], "(begin, end)"),
        (&SegmentLogSoftmax { tail: 0 }, vec![f(&[4, 2]), u(&[1, 2])], "[R, 1]"),
        (
            &moviola::engine::op::contrast::CONTRAST,
            vec![f(&[4, 5]), f(&[1]), none.clone(), none.clone(), none.clone()],
            "square",
        ),
        (&moviola::engine::op::gather::GATHER, vec![f(&[4, 5]), f(&[3])], "U32"),
    ];
    for (op, ins, rule) in refusals {
        let message = op.infer(&ins).expect_err(op.name()).to_string();
        assert!(message.contains(op.name()) && message.contains(rule), "{message}");
    }
}
