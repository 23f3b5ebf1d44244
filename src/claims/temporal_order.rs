//! S3: consistency under light temporal perturbations keeps a model's judgement of what came first.
//!
//! Videos show two events; half of the captions say their order, and every video's order twin is in the gallery. What a
//! model knows of order must survive another speed, a jittering sampler and lost frames, none of which changes it.

use super::bars::{Bar, Rule, Table, difference};
use super::trained::{Recipe, Scores, scores, train, with_videos, world};
use super::{Claim, Effort, Job, Measures, Sweep, Variant, find};
use crate::data::Dataset;
use crate::data::worlds::TemporalOrder;
use crate::data::worlds::temporal_order::Query;
use crate::error::Result;
use crate::models::cba::config::{Temporal, Trunk};
use crate::models::perturb::{Perturbation, shown};
use crate::random::Random;
use std::path::Path;

pub struct TemporalOrderClaim;

/// Random streams of perturbed tests, and of shuffled training videos.
const PERTURBED: u64 = 0x7065_7274_0000_0000;
const SHUFFLES: u64 = 0x7368_7566_0000_0000;
/// Perturbations of the test: the spread of a score is taken over them.
const DRAWS: u64 = 4;

impl Claim for TemporalOrderClaim {
    fn name(&self) -> &'static str {
        "temporal-order"
    }

    fn says(&self) -> &'static str {
        "temporal causal regularisation stabilises alignment under light temporal perturbations"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        variants(&recipe(effort))
    }

    fn sweeps(&self, variants: &[Variant]) -> Vec<Sweep> {
        let Some(cba) = find(variants, "cba") else { return vec![] };
        let weights = [0.0, 0.2, 1.0, 3.0, 10.0];
        vec![Sweep::setting(cba, "consistency", &weights, |c, x| c.temporal.consistency = x as f32)]
    }

    fn columns(&self) -> &'static [&'static str] {
        &["order", "order perturbed", "R@1", "R@1 perturbed", "spread/gap"]
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world: TemporalOrder = world(job, &[("train", 2_000), ("gallery", 200)])?;
        let model = train(job, &trained_on(job, world.train()?.data)?, None, None)?;
        under_perturbation(job, &model, &world.test(0)?.queries, &|| Ok(world.test(0)?.data))
    }

    fn percents(&self) -> &'static [&'static str] {
        &["order", "order perturbed", "R@1", "R@1 perturbed"]
    }

    fn bars(&self) -> Vec<Bar> {
        bars()
    }
}

/// The model with and without the module, what is there instead of it, and controls.
pub(super) fn variants(recipe: &Recipe) -> Vec<Variant> {
    let (options, plain) = (recipe.options(), |model| recipe.plain(model));
    let config = recipe.cba(&["routing", "counterfactual"]);
    let cba = Variant::new("cba", "temporal regularisation", config, options.clone());
    let temporal = |name: &str, about: &str, consistency, augment| {
        cba.with(name, about, |c| {
            let consistency = if consistency { c.temporal.consistency } else { 0.0 };
            c.temporal = Temporal { consistency, augment, ..c.temporal.clone() };
        })
    };
    let off = temporal("cba-no-temporal", "without temporal regularisation", false, 0.0);
    let without_time = off.with("cba-no-positions", "control: nothing tells time", |c| {
        (c.trunk.positions, c.trunk.motion) = (false, 0);
    });
    vec![
        Variant::new("token-interaction", "one expert, no trunk", plain("token-interaction"), options.clone()),
        cba.clone(),
        off.clone(),
        temporal("cba-augmented", "augmentation instead: perturbed videos are learned from", false, 1.0),
        temporal("cba-augmented-temporal", "augmentation and regularisation", true, 1.0),
        without_time,
        Variant { shuffled: true, ..off.named("cba-shuffled", "control: trained on frames in no order") },
    ]
}

/// What has to hold.
pub(super) fn bars() -> Vec<Bar> {
    let lost = |t: &Table, of: &str| difference(&t.values(of, "order"), &t.values(of, "order perturbed"));
    let share = |a: Vec<f64>, b: Vec<f64>| {
        let (a_sum, b_sum): (f64, f64) = (a.iter().sum(), b.iter().sum());
        // A share of the mean: one seed's loss may be nothing.
        if a.is_empty() || b.is_empty() || b_sum <= 0.0 { vec![] } else { vec![100.0 * a_sum / b_sum] }
    };
    let within = |name: &'static str| {
        [
            Bar::new(format!("order accuracy of the control {name}"), Rule::AtMost(60.0), move |t| {
                t.values(name, "order")
            }),
            Bar::new(format!("50 − order accuracy of the control {name}"), Rule::AtMost(10.0), move |t| {
                t.values(name, "order").iter().map(|x| 50.0 - x).collect()
            }),
        ]
    };
    let mut bars = vec![
        Bar::new(
            "order accuracy lost under perturbation, in % of what is lost without the module",
            Rule::AtMost(50.0),
            move |t| share(lost(t, "cba"), lost(t, "cba-no-temporal")),
        ),
        Bar::new("order accuracy lost with augmentation alone, less the module's loss", Rule::AtLeast(0.0), move |t| {
            difference(&lost(t, "cba-augmented"), &lost(t, "cba"))
        }),
        Bar::new("R@1 under perturbation over that without the module", Rule::AtLeast(1.0), |t| {
            t.gain("cba", "cba-no-temporal", "R@1 perturbed")
        }),
        Bar::new("R@1 under perturbation over augmentation alone", Rule::AtLeast(-1.0), |t| {
            t.gain("cba", "cba-augmented", "R@1 perturbed")
        }),
        Bar::new("spread of scores over the gap, in % of that without the module", Rule::AtMost(80.0), move |t| {
            share(t.values("cba", "spread/gap"), t.values("cba-no-temporal", "spread/gap"))
        }),
        Bar::new("order accuracy over that without the module", Rule::AtLeast(-1.0), |t| {
            t.gain("cba", "cba-no-temporal", "order")
        }),
    ];
    bars.extend(within("cba-no-positions"));
    bars.extend(within("cba-shuffled"));
    bars.push(Bar::new("R@1 under perturbation with both, over augmentation alone", Rule::Reported, |t| {
        t.gain("cba-augmented-temporal", "cba-augmented", "R@1 perturbed")
    }));
    bars
}

/// What a job's variant is trained on: for some in no order.
///
/// # Errors
/// As [`with_videos`].
pub(super) fn trained_on(job: &Job, data: Dataset) -> Result<Dataset> {
    if !job.variant.shuffled {
        return Ok(data);
    }
    with_videos(data, |v, tokens, seconds| {
        let order = Random::new(job.seed, SHUFFLES + v as u64).permutation(tokens.rows);
        let rows = order.into_iter().flat_map(|t| tokens.data[t * tokens.dim..][..tokens.dim].to_vec());
        (rows.collect(), seconds.to_vec())
    })
}

/// What a model makes of a test as it is, and of the same perturbed; `test` gives it anew.
///
/// # Errors
/// Those of the device and of the data.
pub(super) fn under_perturbation(
    job: &Job,
    model: &Path,
    queries: &[Query],
    test: &dyn Fn() -> Result<Dataset>,
) -> Result<Measures> {
    let clean = scores(job, model, &test()?)?;
    let mut measures = Measures::new();
    measures.insert("order".into(), order_accuracy(&clean, queries));
    measures.insert("R@1".into(), recall_at_1(&clean, queries));
    let perturbation = Perturbation::default();
    let perturbed = (0..DRAWS).map(|draw| {
        let data = perturb(test()?, &perturbation, Random::new(job.seed, PERTURBED + draw))?;
        scores(job, model, &data)
    });
    let perturbed: Vec<Scores> = perturbed.collect::<Result<_>>()?;
    let mean = |f: &dyn Fn(&Scores) -> f64| perturbed.iter().map(f).sum::<f64>() / DRAWS as f64;
    measures.insert("order perturbed".into(), mean(&|s| order_accuracy(s, queries)));
    measures.insert("R@1 perturbed".into(), mean(&|s| recall_at_1(s, queries)));
    measures.insert("spread/gap".into(), spread(&perturbed, queries) / gap(&clean, queries));
    Ok(measures)
}

/// What is learned in this world, and for how long.
pub(super) fn recipe(effort: Effort) -> Recipe {
    let trunk = Trunk { layers: 1, heads: 4, expansion: 2, ..Trunk::default() };
    Recipe {
        effort,
        tokens: 128,
        words: 3,
        frames: 32,
        epochs: 4,
        batch: 128,
        learning_rate: 4e-3,
        temperature: 0.05,
        trunk,
    }
}

/// Every video perturbed on its own.
fn perturb(data: Dataset, how: &Perturbation, random: Random) -> Result<Dataset> {
    with_videos(data, |v, tokens, seconds| {
        shown(&how.sample(seconds, Random::new(random.bits(v as u64), PERTURBED)), tokens)
    })
}

/// Of the queries that tell an order, how many score their video above its twin; ties count half. In percent.
pub(super) fn order_accuracy(scores: &Scores, queries: &[Query]) -> f64 {
    let (mut asked, mut right) = (0, 0.0);
    for (i, query) in queries.iter().enumerate().filter(|(_, q)| q.ordered) {
        let Some(twin) = query.twin else { continue };
        let (own, other) = (scores.at(i, query.video), scores.at(i, twin));
        asked += 1;
        right += if own > other {
            1.0
        } else if own == other {
            0.5
        } else {
            0.0
        };
    }
    100.0 * right / f64::from(asked.max(1))
}

/// R@1 text to video in percent: the best of the correct videos against all that are not; ties expected.
pub(super) fn recall_at_1(scores: &Scores, queries: &[Query]) -> f64 {
    let hits = queries.iter().enumerate().map(|(i, query)| {
        let best = query.correct.iter().map(|v| scores.at(i, *v)).fold(f32::NEG_INFINITY, f32::max);
        let others = (0..scores.videos).filter(|v| !query.correct.contains(v)).map(|v| scores.at(i, v));
        let (mut greater, mut equal) = (0, 0);
        others.for_each(|s| {
            greater += u32::from(s > best);
            equal += u32::from(s == best);
        });
        if greater > 0 { 0.0 } else { 1.0 / f64::from(equal + 1) }
    });
    100.0 * hits.sum::<f64>() / queries.len().max(1) as f64
}

/// Mean standard deviation of the score of a query's video over perturbations.
fn spread(perturbed: &[Scores], queries: &[Query]) -> f64 {
    let each = queries.iter().enumerate().map(|(i, query)| {
        let values: Vec<f64> = perturbed.iter().map(|s| f64::from(s.at(i, query.video))).collect();
        super::bars::Summary::of(&values).sd
    });
    each.sum::<f64>() / queries.len().max(1) as f64
}

/// Mean score of a query's video over the mean of all videos that are wrong.
fn gap(scores: &Scores, queries: &[Query]) -> f64 {
    let each = queries.iter().enumerate().map(|(i, query)| {
        let wrong: Vec<f64> =
            (0..scores.videos).filter(|v| !query.correct.contains(v)).map(|v| f64::from(scores.at(i, v))).collect();
        f64::from(scores.at(i, query.video)) - wrong.iter().sum::<f64>() / wrong.len().max(1) as f64
    });
    each.sum::<f64>() / queries.len().max(1) as f64
}
