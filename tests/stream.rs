//! Streaming: results in order, a packer that waits, and errors that end it without hanging.

use moviola::engine::backend::cpu::Cpu;
use moviola::engine::graph::Graph;
use moviola::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use moviola::engine::scheduler::executor::{Executor, Outputs, SLOTS, SlotWriter};
use moviola::engine::scheduler::plan::{StateLayout, plan};
use moviola::engine::scheduler::stream::{alternate, stream};
use moviola::engine::tensor::{Axis, Dim, Meta};
use moviola::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CAP: usize = 100;

/// Doubles a ragged vector.
fn doubling() -> Executor {
    let mut g = Graph::new();
    let x = g.input("x", Meta::f32(&[Dim::Ragged(Axis(0), CAP)]).unwrap());
    let y = g.apply(Unary { kind: UnaryKind::Affine { a: 2.0, b: 0.0 } }, &[x]).unwrap();
    g.output("y", y);
    let cpu = Box::new(Cpu::new(2).unwrap());
    let states = StateLayout::default();
    let p = plan("double", &g, &states, &moviola::engine::backend::Backend::ctx(cpu.as_ref())).unwrap();
    Executor::new(cpu, vec![p], states).unwrap()
}

fn length(job: usize) -> usize {
    1 + job * 37 % CAP
}

fn pack(job: &usize, slot: &mut SlotWriter) -> Result<()> {
    slot.count(Axis(0), length(*job));
    slot.f32("x")?[..length(*job)].fill(*job as f32);
    Ok(())
}

#[test]
fn results_come_in_the_order_of_the_jobs_with_their_own_lengths() {
    let mut executor = doubling();
    for jobs in [0, 1, 2, 3, 50] {
        let mut seen = vec![];
        let stop = AtomicBool::new(false);
        stream(
            &mut executor,
            0,
            0..jobs,
            pack,
            |job, outputs| {
                let n = outputs.counts.get(Axis(0));
                assert_eq!(n, length(job));
                assert!(outputs.f32("y")?[..n].iter().all(|y| *y == 2.0 * job as f32));
                seen.push(job);
                Ok(())
            },
            &stop,
        )
        .unwrap();
        assert_eq!(seen, (0..jobs).collect::<Vec<_>>());
    }
}

#[test]
fn plans_that_take_turns_find_what_the_one_before_has_left() {
    // One plan adds to a state and hands back nothing, the other hands back the state.
    let meta = Meta::f32(&[Dim::Fixed(CAP)]).unwrap();
    let (mut add, mut show) = (Graph::new(), Graph::new());
    let (sum, x) = (add.state("sum", meta.clone()), add.input("x", meta.clone()));
    let more = add.apply(Binary { kind: BinaryKind::Add }, &[sum, x]).unwrap();
    add.assign(sum, more).unwrap();
    let sum = show.state("sum", meta);
    show.output("sum", sum);
    let cpu = Box::new(Cpu::new(1).unwrap());
    let ctx = moviola::engine::backend::Backend::ctx(cpu.as_ref());
    let states = StateLayout::of([&add, &show]).unwrap();
    let plans = [("add", &add), ("show", &show)].map(|(name, g)| plan(name, g, &states, &ctx).unwrap());
    let mut executor = Executor::new(cpu, plans.into(), states).unwrap();
    executor.write_state("sum", &[0.0; CAP]).unwrap();
    let mut shown = vec![];
    alternate(
        &mut executor,
        |job| usize::from(job % 3 == 2),
        0..30usize,
        |job, slot| {
            assert_eq!(slot.has("x"), job % 3 != 2);
            if slot.has("x") {
                slot.f32("x")?.fill(*job as f32);
            }
            Ok(())
        },
        |job, outputs| {
            if outputs.has("sum") {
                shown.push((job, outputs.f32("sum")?[CAP - 1]));
            }
            Ok(())
        },
        &AtomicBool::new(false),
    )
    .unwrap();
    let sum_to = |job: usize| (0..job).filter(|j| j % 3 != 2).sum::<usize>() as f32;
    assert_eq!(shown, (0..30).filter(|j| j % 3 == 2).map(|j| (j, sum_to(j))).collect::<Vec<_>>());
}

#[test]
fn the_packer_waits_for_a_free_slot() {
    let mut executor = doubling();
    let (packed, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ahead = AtomicUsize::new(0);
    stream(
        &mut executor,
        0,
        0..40,
        |job, slot| {
            let lead = packed.fetch_add(1, Ordering::SeqCst) + 1 - done.load(Ordering::SeqCst);
            ahead.fetch_max(lead, Ordering::SeqCst);
            pack(job, slot)
        },
        |_, _| {
            std::thread::sleep(Duration::from_millis(2));
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        },
        &AtomicBool::new(false),
    )
    .unwrap();
    // What is packed and not done lies in a host buffer or in a slot of the device.
    assert!(ahead.load(Ordering::SeqCst) <= 2 * SLOTS, "{ahead:?} batches were packed ahead");
    assert_eq!(done.load(Ordering::SeqCst), 40);
}

#[test]
fn an_error_anywhere_ends_the_stream_and_the_executor_lives_on() {
    let mut executor = doubling();
    let bad = || Error::config("job", "is bad", "give another");
    let go = AtomicBool::new(false);
    let mut done = 0;
    let packing = |job: &usize, slot: &mut SlotWriter| if *job == 7 { Err(bad()) } else { pack(job, slot) };
    let failed = stream(&mut executor, 0, 0..1000, packing, |_, _| Ok(()), &go);
    assert!(failed.unwrap_err().to_string().contains("is bad"));
    let taking = |job: usize| if job == 7 { Err(bad()) } else { Ok(()) };
    let failed = stream(
        &mut executor,
        0,
        0..1000,
        pack,
        |job, _| {
            done += 1;
            taking(job)
        },
        &go,
    );
    assert!(failed.is_err() && done == 8);
    let too_long = |_: &usize, slot: &mut SlotWriter| {
        slot.count(Axis(0), CAP + 1);
        Ok(())
    };
    let failed = stream(&mut executor, 0, 0..3, too_long, |_, _| Ok(()), &go);
    assert!(failed.unwrap_err().to_string().contains("holds at most 100"));
    let unknown = |_: &usize, slot: &mut SlotWriter| slot.f32("z").map(|_| ());
    assert!(stream(&mut executor, 0, 0..3, unknown, |_, _| Ok(()), &go).unwrap_err().to_string().contains("z"));
    let mut after = 0;
    let mut count = |_: usize, _: &Outputs| {
        after += 1;
        Ok(())
    };
    stream(&mut executor, 0, 0..5, pack, &mut count, &go).unwrap();
    assert_eq!(after, 5);
}

#[test]
fn a_stop_hands_over_what_was_submitted_and_nothing_else() {
    let mut executor = doubling();
    let stop = AtomicBool::new(false);
    let mut seen = vec![];
    stream(
        &mut executor,
        0,
        0..1000,
        pack,
        |job, _| {
            seen.push(job);
            stop.store(job == 10, Ordering::Relaxed);
            Ok(())
        },
        &stop,
    )
    .unwrap();
    assert!(seen.len() >= 11 && seen.len() <= 11 + SLOTS, "{} results", seen.len());
    assert_eq!(seen, (0..seen.len()).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "a packer's mistake")]
fn a_packer_that_panics_is_no_end_of_the_jobs() {
    let packing = |job: &usize, slot: &mut SlotWriter| {
        assert!(*job != 3, "a packer's mistake");
        pack(job, slot)
    };
    let _ = stream(&mut doubling(), 0, 0..10, packing, |_, _| Ok(()), &AtomicBool::new(false));
}
