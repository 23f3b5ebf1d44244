//! What the samples of the three ops do not show.

use super::super::super::backend::Backend;
use super::super::super::backend::cpu::Cpu;
use super::super::super::check::laid_out;
use super::super::super::graph::{Graph, Value};
use super::super::super::scheduler::plan::{Region, StateLayout, plan};
use super::super::super::tensor::{Dim, HostTensor, Meta};
use super::super::{Class, Op, Sample};
use super::{FOREGROUND, INTERACT, INTERACT_GRAD, INTERACT_PAIRS, Interact};
use crate::random::Random;
use std::sync::Arc;

/// A seed that differs from run to run; tests print it when they fail.
fn metas() -> Vec<Meta> {
    let f = |dims: &[usize]| Meta::f32(&dims.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>()).unwrap();
    let table = |n| Meta::u32(&[Dim::Fixed(n), Dim::Fixed(2)]).unwrap();
    let none = Meta::absent;
    vec![f(&[9, 4]), table(2), f(&[9]), f(&[7, 4]), table(3), f(&[7]), none(), none(), none(), none(), none()]
}

fn refusal(op: &impl Op, metas: &[Meta]) -> String {
    op.infer(metas).expect_err("must be refused").to_string()
}

/// The operands of a problem with two slots a frame, of three experts.
fn routed_metas() -> Vec<Meta> {
    let f = |dims: &[usize]| Meta::f32(&dims.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>()).unwrap();
    let mut given = metas();
    given[3] = f(&[7, 8]);
    given[6] = f(&[2, 3]);
    given[7] = f(&[7, 2]);
    given[8] = Meta::u32(&[Dim::Fixed(7), Dim::Fixed(2)]).unwrap();
    given[9] = f(&[7, 4]);
    given
}

#[test]
fn a_router_that_does_not_fit_is_refused() {
    assert!(INTERACT.infer(&metas()).is_ok() && INTERACT.infer(&routed_metas()).is_ok());
    let f = |dims: &[usize]| Meta::f32(&dims.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>()).unwrap();
    let cases = [
        (6, Meta::absent(), "router_text (operand 6) is absent"),
        (7, Meta::absent(), "router_frame (operand 7) is absent"),
        (9, Meta::absent(), "gram (operand 9) is absent"),
        (6, f(&[3, 3]), "router_text"),
        (7, f(&[6, 2]), "router_frame"),
        (7, f(&[7, 0]), "1 to 16 slots"),
        (7, f(&[7, 17]), "1 to 16 slots"),
        (8, f(&[7, 2]), "slot_table (operand 8) must be u32"),
        (8, Meta::absent(), "without a slot_table"),
        (9, f(&[7, 2, 2]), "gram (operand 9)"),
        (9, f(&[7, 2]), "gram"),
        (3, f(&[7, 4]), "width of frames"),
    ];
    for (i, meta, what) in cases {
        let mut given = routed_metas();
        given[i] = meta;
        assert!(refusal(&INTERACT, &given).contains(what), "{}", refusal(&INTERACT, &given));
    }
    let table_alone = [&metas()[..8], &routed_metas()[8..9], &metas()[9..]].concat();
    assert!(refusal(&INTERACT, &table_alone).contains("router_text (operand 6) is absent"));
}

#[test]
fn a_foreground_is_of_pairs() {
    let fixed = Dim::Fixed;
    let mut given = metas()[..10].to_vec();
    assert!(refusal(&FOREGROUND, &given).contains("pairs"));
    given[4] = Meta::u32(&[fixed(2), fixed(2)]).unwrap();
    assert_eq!(FOREGROUND.infer(&given).unwrap(), [Meta::f32(&[fixed(1), fixed(7)]).unwrap()]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let with = |i: usize, m: Meta| {
        let mut given = metas();
        given[i] = m;
        given
    };
    let f = |dims: &[usize]| Meta::f32(&dims.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>()).unwrap();
    let cases = [
        (with(0, Meta::absent()), "words (operand 0) must be given"),
        (with(3, f(&[7, 5])), "widths"),
        (with(1, f(&[2, 2])), "u32"),
        (with(2, f(&[8])), "word_log_weights"),
        (with(5, f(&[9])), "frame_bias"),
        (with(10, f(&[1, 9])), "log_weights"),
        (metas()[..10].to_vec(), "11 operands"),
    ];
    for (given, what) in cases {
        assert!(refusal(&INTERACT, &given).contains(what), "{}", refusal(&INTERACT, &given));
    }
    let pairs = Meta::u32(&[Dim::Fixed(1), Dim::Fixed(2)]).unwrap();
    let viewed = [with(10, f(&[1, 7])), vec![pairs]].concat();
    assert!(refusal(&INTERACT_PAIRS, &viewed).contains("log_weights"));
    let wrong_seed = [metas(), vec![f(&[3, 2]), Meta::absent(), Meta::absent()]].concat();
    assert!(refusal(&INTERACT_GRAD, &wrong_seed).contains("dscores"));
}

#[test]
fn attributes_that_make_no_sense_are_refused() {
    for op in [
        Interact { temperature: 0.0, ..INTERACT },
        Interact { temperature: f32::NAN, ..INTERACT },
        Interact { relevance_temperature: -1.0, ..INTERACT },
        Interact { max_words: u32::MAX, ..INTERACT },
        Interact { max_frames: super::MAX_SEGMENT + 1, ..INTERACT },
    ] {
        assert!(op.infer(&metas()).is_err(), "{op:?}");
    }
}

/// The samples with views cannot be checked by the general gradient test, since masks have no gradient.
#[test]
fn the_gradient_under_views_agrees_with_finite_differences() {
    let mut checked = 0;
    for sample in INTERACT_GRAD.samples().iter().filter(|s| s.class == Class::Tiny && !s.ins[12].is_absent()) {
        let name = sample.name.as_str();
        let kept = if sample.ins[7].is_absent() { 0 } else { 2 };
        let attributes = Interact { max_words: 128, max_frames: 256, kept, ..INTERACT };
        let given = &sample.ins;
        let loss = |ins: &[HostTensor]| -> f64 {
            let outs = super::reference::scores(&attributes, &ins[..11]);
            let dot = |a: &HostTensor, b: &HostTensor| a.x().iter().zip(b.x()).map(|(a, b)| a * b).sum::<f64>();
            dot(&outs[0], &given[11]) + dot(&outs[1], &given[12]) + dot(&outs[2], &given[13])
        };
        let gradients = super::reference::gradients(&attributes, given);
        let given_ones = super::GRADIENTS.into_iter().enumerate().filter(|(_, i)| !given[*i].is_absent());
        for (gradient, operand) in given_ones {
            let gradient = gradients[gradient].x();
            let scale = gradient.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
            for e in (0..gradient.len()).step_by(gradient.len().div_ceil(40)) {
                let step = 1e-5;
                let mut moved = given.clone();
                moved[operand].x_mut()[e] += step;
                let up = loss(&moved);
                moved[operand].x_mut()[e] -= 2.0 * step;
                let slope = (up - loss(&moved)) / (2.0 * step);
                let error = (slope - gradient[e]).abs() / scale;
                assert!(
                    error <= 1e-5,
                    "{name}: operand {operand} element {e}: {} by rule, {slope} by steps",
                    gradient[e]
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 50);
}

/// Runs a sample on the CPU and returns its first output.
fn first_output(sample: &Sample, threads: usize) -> Vec<u32> {
    let mut g = Graph::new();
    let ins: Vec<Value> = (sample.metas.iter().enumerate())
        .map(|(i, m)| if m.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), m.clone()) })
        .collect();
    let outs = g.apply_arc(sample.op.clone(), &ins).unwrap();
    outs.iter().enumerate().for_each(|(i, out)| g.output(format!("out{i}"), *out));
    let mut device = Cpu::new(threads).unwrap();
    let plan = Arc::new(plan("test", &g, &StateLayout::default(), &device.ctx()).unwrap());
    device.load(std::slice::from_ref(&plan), plan.bytes, 1).unwrap();
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
        if let Some(slot) = plan.input(&format!("in{i}")) {
            let words = laid_out(meta, value, &sample.counts);
            device.write(Region::In, 0, slot.span.offset, bytemuck::cast_slice(&words)).unwrap();
        }
    }
    device.submit(0, 0, sample.counts).unwrap();
    let slot = plan.output("out0").unwrap();
    let mut words = vec![0u32; slot.meta.elements() as usize];
    device.read(Region::Out, 0, slot.span.offset, bytemuck::cast_slice_mut(&mut words)).unwrap();
    words
}

/// The packer makes sound tables; one that is not must not take the process down.
#[test]
fn tables_that_are_not_segments_do_no_harm_on_the_cpu() {
    let seed = crate::seed::seed();
    let random = Random::new(seed, 0);
    let ops = [&INTERACT as &dyn Op, &INTERACT_GRAD, &INTERACT_PAIRS, &FOREGROUND];
    for (round, op) in ops.into_iter().cycle().take(40).enumerate() {
        let samples = op.samples();
        let name = if round % 8 < 4 { "prime width" } else { "routed, prime width" };
        let sample = samples.iter().find(|s| s.name == name).unwrap();
        let mut broken = sample.clone();
        for (table, rows) in [(1, 0), (4, 3)] {
            let most = sample.ins[rows].dim(0) + if round % 16 < 8 { 1 } else { 1 << 20 };
            let n = sample.ins[table].elements();
            let draw = |i: usize| random.below((round * 1000 + table * 100 + i) as u64, most as u64) as u32;
            broken.ins[table] = HostTensor::u32(&sample.ins[table].shape, (0..n).map(draw).collect());
        }
        assert!(!first_output(&broken, 2).is_empty(), "seed {seed}");
    }
}

#[test]
fn a_segment_longer_than_the_op_was_made_for_scores_nothing() {
    let samples = INTERACT.samples();
    let sample = samples.iter().find(|s| s.name == "prime width").unwrap();
    // Rows of the texts: 8, 4, 12; frames: 5, 2, 13.
    let op = Interact { max_words: 8, max_frames: 12, ..INTERACT };
    let short = Sample { op: Arc::new(op), ..sample.clone() };
    let scores: Vec<f32> = first_output(&short, 1).into_iter().map(f32::from_bits).collect();
    let zero: Vec<bool> = scores.iter().map(|s| *s == 0.0).collect();
    assert_eq!(zero, [false, false, true, false, false, true, true, true, true], "{scores:?}");
    let reference = super::reference::scores(&op, &sample.ins);
    let error = reference[0].x().iter().zip(&scores).map(|(r, s)| (r - f64::from(*s)).abs()).fold(0.0, f64::max);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn a_nan_is_seen_and_keeps_to_its_text() {
    let samples = INTERACT.samples();
    let mut sample = samples.iter().find(|s| s.name == "prime width").unwrap().clone();
    let (width, sentence) = (sample.ins[0].dim(1), sample.ins[1].u()[3] as usize - 1);
    sample.ins[0].x_mut()[sentence * width] = f64::NAN;
    let scores: Vec<f32> = first_output(&sample, 1).into_iter().map(f32::from_bits).collect();
    let nan: Vec<bool> = scores.iter().map(|s| s.is_nan()).collect();
    assert_eq!(nan, [false, false, false, true, true, true, false, false, false], "{scores:?}");
}
