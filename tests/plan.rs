//! Plans, judged by the back end that runs nothing and by what the CPU computes.

mod common;

use common::*;
use moviola::engine::backend::null::prove;
use moviola::engine::graph::Graph;
use moviola::engine::scheduler::plan::{Command, Plan, Region, Span, StateLayout, plan};
use std::collections::BTreeMap;

#[test]
fn random_graphs_have_valid_plans_that_compute_the_reference() {
    let seed = seed();
    let mut runner = Runner::new();
    for round in 0..300 {
        let mut dice = Dice::new(seed, round);
        let size = 6 + dice.below(40);
        let g = random_graph(&mut dice, size);
        let states = StateLayout::of([&g]).unwrap();
        let plan = plan("random", &g, &states, &ctx()).unwrap();
        let fail = |what: String| panic!("seed {seed} round {round}: {what}\n{}\n{}", g.dump(), plan.dump());
        if let Err(e) = prove(&g, &plan, &ctx()) {
            fail(format!("the null back end refuses: {e}"));
        }
        match run_plan(&mut runner, &g, &plan, seed) {
            Ok(None) => {}
            Ok(Some(what)) => fail(what),
            Err(e) => fail(e.to_string()),
        }
    }
}

/// A plan that says something else in one place.
fn mutate(plan: &Plan, dice: &mut Dice) -> Option<(&'static str, Plan)> {
    let mut p = plan.clone();
    let n = p.commands.len();
    if n == 0 {
        return None;
    }
    let i = dice.below(n);
    let what = match dice.below(7) {
        0 if i + 1 < n => {
            p.commands.swap(i, i + 1);
            "neighbours swapped"
        }
        1 => {
            let k = dice.below(n);
            if k == i {
                return None;
            }
            p.commands.swap(i, k);
            "two commands swapped"
        }
        2 => {
            p.commands.remove(i);
            "a command removed"
        }
        3 => {
            let mut spans = spans_of(&mut p.commands[i]);
            let k = dice.below(spans.len());
            move_by(spans[k], dice.one_of(&[-2, -1, 1, 2]))?;
            "an offset shifted"
        }
        4 => {
            // The buffers above some offset come down: what a too small arena would be.
            let mut all: Vec<&mut Span> = p.commands.iter_mut().flat_map(spans_of).collect();
            let from = dice.below((plan.bytes.arena / 256) as usize + 1) as u64 * 256;
            let mut moved = 0;
            for span in all.iter_mut().filter(|s| s.region == Region::Arena && s.offset >= from.max(256)) {
                span.offset -= 256;
                moved += 1;
            }
            if moved == 0 {
                return None;
            }
            "the arena shrunk"
        }
        5 => {
            let Command::Launch(l) = &mut p.commands[i] else { return None };
            let k = dice.below(l.args.len());
            let j = dice.below(l.args.len());
            if l.args[k] == l.args[j] || l.args[k].is_none() || l.args[j].is_none() {
                return None;
            }
            l.args.swap(k, j);
            "two arguments swapped"
        }
        _ => {
            let slots = [&mut p.inputs, &mut p.outputs].into_iter().flatten().map(|s| &mut s.span).collect::<Vec<_>>();
            let k = dice.below(slots.len());
            move_by(slots.into_iter().nth(k)?, dice.one_of(&[-1, 1]))?;
            "an input's or output's place shifted"
        }
    };
    Some((what, p))
}

fn spans_of(command: &mut Command) -> Vec<&mut Span> {
    match command {
        Command::Launch(l) => l.args.iter_mut().flatten().collect(),
        Command::Copy { from, to } => vec![from, to],
        Command::Fill { to, .. } => vec![to],
    }
}

fn move_by(span: &mut Span, steps: i64) -> Option<()> {
    span.offset = span.offset.checked_add_signed(256 * steps)?;
    Some(())
}

/// Whether the CPU computes anything else than the reference, or refuses, or a kernel notices.
fn is_harmful(g: &Graph, plan: &Plan, seed: u64) -> bool {
    let run = || run_plan(&mut Runner::new(), g, plan, seed);
    !matches!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)), Ok(Ok(None)))
}

#[test]
fn the_null_back_end_refuses_every_plan_that_computes_something_else() {
    let seed = seed();
    let mut graphs = vec![small_model(), small_model(), small_model()];
    for round in 0..60 {
        let mut dice = Dice::new(seed, round);
        graphs.push(random_graph(&mut dice, 25));
    }
    // A kernel that panics on a mutated plan says nothing new.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut missed = vec![];
    for (i, g) in graphs.iter().enumerate() {
        let right = plan("mutated", g, &StateLayout::of([g]).unwrap(), &ctx()).unwrap();
        let mut dice = Dice::new(seed, 1000 + i as u64);
        for _ in 0..25 {
            let Some((what, mutant)) = mutate(&right, &mut dice) else { continue };
            let (harmful, refused) = (is_harmful(g, &mutant, seed), prove(g, &mutant, &ctx()).is_err());
            let tally = found.entry(what).or_default();
            tally[0] += usize::from(harmful && refused);
            tally[1] += usize::from(harmful && !refused);
            tally[2] += usize::from(!harmful && refused);
            if harmful && !refused {
                missed.push(format!("graph {i}, {what}:\n{}\n{}\n{}", g.dump(), right.dump(), mutant.dump()));
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("[harmful and refused, harmful and accepted, harmless and refused]: {found:#?}");
    let refused: usize = found.values().map(|t| t[0]).sum();
    assert!(missed.is_empty(), "seed {seed}: {} of {}:\n{}", missed.len(), refused + missed.len(), missed[0]);
    assert!(refused > 200, "seed {seed}: only {refused} mutations did harm");
}
