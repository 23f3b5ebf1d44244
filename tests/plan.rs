//! Plans, judged by the back end that runs nothing and by what the CPU computes.

mod common;

use common::*;
use moviola::engine::backend::null::prove;
use moviola::engine::scheduler::plan::{StateLayout, plan};

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
