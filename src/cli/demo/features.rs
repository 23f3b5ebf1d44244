//! The demo on S1, a world of features: a background that goes with events.

mod example;
mod page;

use super::{CAUSAL, Demo, PLAIN, Trained, parts, shown};
use crate::claims::spurious_background::SpuriousBackgroundClaim;
use crate::claims::{Claim, Effort};
use crate::cli::{Common, output};
use crate::data::worlds::SpuriousBackground;
use crate::data::worlds::common::TESTS;
use crate::data::worlds::spurious_background::Test;
use crate::data::{Dataset, Split};
use crate::error::Result;
use example::Example;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Serialize)]
struct Outcome {
    report: PathBuf,
    seconds: f64,
    world: SpuriousBackground,
    models: Vec<Trained>,
    /// Queries of the adversarial test for which the plain model finds the twin and CBA the right video.
    examples: usize,
    /// The first of them.
    example: Option<Example>,
}

/// Large enough that who takes the shortcut is seen, small enough to wait for.
fn world(demo: &Demo) -> SpuriousBackground {
    let (train, val, gallery) = if demo.quick { (256, 8, 24) } else { (8_000, 200, 400) };
    SpuriousBackground { seed: demo.seed, train, val, gallery, ..SpuriousBackground::default() }
}

pub fn run(demo: &Demo, common: &Common) -> Result<()> {
    let begun = Instant::now();
    let (world, place) = (world(demo), demo.out.join("world"));
    world.write(&place)?;
    let truth = world.test(Test::Adv, 0)?;
    let [train, val] = [Split::Train, Split::Val].map(|split| Dataset::open(&place, None, split));
    let (train, val) = (train?, val?);
    let effort = if demo.quick { Effort::Quick } else { Effort::Full };
    let mut models = vec![];
    for variant in shown(&SpuriousBackgroundClaim.variants(effort))? {
        let mut trained = demo.train(common, variant, &train, Some(&val))?;
        for test in Test::ALL {
            let data = Dataset::open(&folder(&place, test), None, Split::Test)?;
            let best = trained.test(common, &demo.out.join(trained.model), (test.name(), called(test)), &data)?;
            if test == Test::Adv {
                trained.keep(best, truth.queries.iter().map(|q| q.twin));
            }
        }
        models.push(trained);
    }
    let found = example::find(&models, &truth);
    let example = match found.first() {
        Some(query) => Some(Example::new(common, &demo.out, &folder(&place, Test::Adv), &truth, *query)?),
        None => None,
    };
    let report = demo.out.join("report.html");
    let mut outcome = Outcome { report, seconds: 0.0, world, models, examples: found.len(), example };
    outcome.seconds = begun.elapsed().as_secs_f64();
    page::page(&outcome, &demo.out, &truth)?.write(&outcome.report)?;
    output::result(common, &outcome, || told(&outcome))
}

/// Where a world keeps a test.
fn folder(world: &Path, test: Test) -> PathBuf {
    match test {
        Test::Id => world.into(),
        other => world.join(TESTS).join(other.name()),
    }
}

/// A test's name for people.
fn called(test: Test) -> &'static str {
    match test {
        Test::Id => "in distribution",
        Test::Decor => "any background",
        Test::Adv => "twin's background",
    }
}

const HEAD: [&str; 8] = [
    "model",
    "in distribution\nt2v",
    "\nv2t",
    "any background\nt2v",
    "\nv2t",
    "twin's background\nt2v",
    "\nv2t",
    "twin\nfirst",
];

/// The table's rows: R@1 of each test in both directions, and how often the twin comes first.
fn rows(models: &[Trained]) -> Vec<Vec<String>> {
    let row = |m: &Trained| {
        let numbers = m.tests.iter().flat_map(|t| parts::recalls(&t.retrieval)).chain([m.twin_first]);
        [m.model.to_string()].into_iter().chain(numbers.map(|x| format!("{x:.1}"))).collect()
    };
    models.iter().map(row).collect()
}

fn told(outcome: &Outcome) -> String {
    let example = match &outcome.example {
        Some(e) => format!(
            "{} queries that {PLAIN} answers with the twin and {CAUSAL} with the right video; one: {e}",
            outcome.examples
        ),
        None => format!("no query that {PLAIN} answers with the twin and {CAUSAL} with the right video"),
    };
    format!(
        "\n{}\nR@1 and twin first in %; {}\n{example}\n\ndone in {:.0} s; look at {}",
        parts::table(&HEAD, rows(&outcome.models)),
        parts::protocol(&outcome.models),
        outcome.seconds,
        outcome.report.display()
    )
}
