//! S1: the counterfactual branch makes a model look at what happens instead of at the background that goes with it.
//!
//! In training a background predicts the first event in 98 of 100 videos, and events come as twins that differ little:
//! whoever learns the background is right in training and in `id`, and wrong in `adv`, where each video has the
//! background of its twin.

use super::bars::{Bar, Rule, Table, difference, mean_of};
use super::probe::{Attention, accuracy};
use super::trained::{Recipe, recall, train, with_videos, world};
use super::{Claim, Effort, Job, Mask, Measures, Sweep, Variant, find};
use crate::data::Dataset;
use crate::data::worlds::spurious_background::{Query, Test, Video};
use crate::data::worlds::{Made, SpuriousBackground};
use crate::error::Result;
use crate::models::cba::config::{CbaConfig, Foreground, RoutingMode, Trunk};
use crate::models::scorer::Scorer;
use crate::models::{Config, build};
use crate::random::Random;

pub struct SpuriousBackgroundClaim;

/// Random stream of random masks.
const MASKS: u64 = 0x6d61_736b;
/// Videos whose relevance is compared with the truth.
const LOOKED_AT: usize = 200;

impl Claim for SpuriousBackgroundClaim {
    fn name(&self) -> &'static str {
        "spurious-background"
    }

    fn says(&self) -> &'static str {
        "the counterfactual branch suppresses background-driven shortcuts"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        // Nothing here moves and no order is told.
        let trunk = Trunk { layers: 0, motion: 0, positions: false, ..Trunk::default() };
        let recipe = Recipe {
            effort,
            tokens: 128,
            words: 3,
            frames: 12,
            epochs: 4,
            batch: 64,
            learning_rate: 8e-3,
            temperature: 0.05,
            trunk,
        };
        let (options, plain) = (recipe.options(), |model| recipe.plain(model));
        let cba = Variant::new("cba", "the model, all modules", recipe.cba(&[]), options.clone());
        let simple = |name: &str, about: &str, config| Variant::new(name, about, config, options.clone());
        let interaction =
            simple("token-interaction", "soft attention, one expert, no trunk", plain("token-interaction"));
        let hard = Config { temperature: 0.005, ..plain("token-interaction") };
        // The names come from the list that `ablate` knows.
        let without = |name: &str, about: &str, modules: &[&str]| {
            cba.with(name, about, |c| modules.iter().for_each(|module| drop(c.ablate(module))))
        };
        let given = |c: &mut CbaConfig| c.counterfactual.foreground = Foreground::Given;
        let spurious_free = |v: &Variant, name: &str, about: &str| v.in_world(name, about, "rho_train", 0.0);
        vec![
            simple("mean-pool", "cosine of pooled vectors", plain("mean-pool")),
            interaction.clone(),
            simple("token-interaction-max", "the same with a nearly hard maximum (WTI)", hard),
            without(
                "cba-bare",
                "without any module: token interaction of standardised tokens, pooled vectors trained beside",
                &["routing", "counterfactual", "temporal"],
            ),
            cba.clone(),
            without("cba-no-routing", "without experts", &["routing"]),
            without("cba-no-counterfactual", "without the counterfactual branch", &["counterfactual"]),
            without("cba-no-temporal", "without temporal regularisation", &["temporal"]),
            without("cba-branch-alone", "the counterfactual branch and no other module", &["routing", "temporal"]),
            Variant { mask: Mask::Oracle, ..cba.with("cba-oracle-mask", "told the foreground while training", given) },
            Variant { mask: Mask::Random, ..cba.with("cba-random-mask", "with a random mask as large", given) },
            cba.with("cba-swap", "and with losses of swapped backgrounds", |c| c.counterfactual.swap = 0.5),
            cba.with("cba-dense", "a dense layer with as many parameters as the experts", |c| {
                c.routing.mode = RoutingMode::Dense;
            }),
            spurious_free(&interaction, "token-interaction-rho-0", "token interaction where nothing is spurious"),
            spurious_free(&cba, "cba-rho-0", "the model where nothing is spurious"),
        ]
    }

    fn sweeps(&self, variants: &[Variant]) -> Vec<Sweep> {
        let mut sweeps = vec![];
        if let Some(cba) = find(variants, "cba") {
            let uniform = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0];
            sweeps.push(Sweep::setting(cba, "uniform", &uniform, |c, x| c.counterfactual.uniform = x as f32));
        }
        for variant in ["token-interaction", "cba"].into_iter().filter_map(|name| find(variants, name)) {
            sweeps.push(Sweep::world(variant, "rho_train", &[0.0, 0.5, 0.9, 0.98, 1.0]));
            sweeps.push(Sweep::world(variant, "beta", &[0.0, 1.0, 2.0, 4.0]));
            sweeps.push(Sweep::world(variant, "clear_share", &[0.0, 0.25, 0.5]));
        }
        sweeps
    }

    fn columns(&self) -> &'static [&'static str] {
        &[
            "id t2v",
            "id v2t",
            "decor t2v",
            "decor v2t",
            "adv t2v",
            "adv v2t",
            "AUROC",
            "mask",
            "background t2v",
            "probe",
        ]
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world: SpuriousBackground = world(job, &[("train", 2_000), ("gallery", 200)])?;
        let made = world.train()?;
        let random = Random::new(job.seed, MASKS);
        let is_foreground = |video: usize, frame: usize| match job.variant.mask {
            Mask::Random => random_mask(random, video, made.videos[video].frames.len(), frame),
            _ => made.videos[video].frames.get(frame).is_some_and(Option::is_some),
        };
        let given: Option<&(dyn Fn(usize, usize) -> bool + Sync)> =
            if job.variant.mask == Mask::Own { None } else { Some(&is_foreground) };
        // A gate asks pairs that are not trained on.
        let val = build(&job.variant.config)?.gate().map(|_| world.val()).transpose()?;
        let model = train(job, &made.data, val.as_ref().map(|v| &v.data), given)?;
        drop((made, val));
        let mut measures = Measures::new();
        for test in [Test::Adv, Test::Decor, Test::Id] {
            let made = world.test(test, 0)?;
            let [t2v, v2t] = recall(job, &model, &made.data)?;
            measures.insert(format!("{} t2v", test.name()), t2v);
            measures.insert(format!("{} v2t", test.name()), v2t);
            if test == Test::Decor {
                let texts: Vec<usize> = made.data.pairs.iter().map(|p| p.text).collect();
                let videos = (&*made.data.videos, made.data.gallery());
                let mut scorer = Scorer::open(&model, (&*made.data.texts, texts), videos, (job.open)()?)?;
                measures.extend(attention_to_truth(&mut scorer, &made.videos)?);
            }
            if test == Test::Id {
                let alone = background_alone(made)?;
                let [t2v, v2t] = recall(job, &model, &alone)?;
                measures.insert("background t2v".into(), t2v);
                measures.insert("background v2t".into(), v2t);
            }
        }
        Ok(measures)
    }

    fn percents(&self) -> &'static [&'static str] {
        &["id t2v", "id v2t", "decor t2v", "decor v2t", "adv t2v", "adv v2t"]
    }

    fn bars(&self) -> Vec<Bar> {
        let both = |of: &'static str, over: &'static str, test: &'static str| {
            move |t: &Table| {
                mean_of(&t.gain(of, over, &format!("{test} t2v")), &t.gain(of, over, &format!("{test} v2t")))
            }
        };
        let closed = |direction: &'static str| {
            move |t: &Table| {
                let measure = format!("adv {direction}");
                let (gain, room) = (
                    t.gain("cba", "cba-no-counterfactual", &measure),
                    t.gain("cba-oracle-mask", "cba-no-counterfactual", &measure),
                );
                let (total, most): (f64, f64) = (gain.iter().sum(), room.iter().sum());
                // A share of the mean distance: seeds without any would divide by nothing.
                if gain.is_empty() || most <= 0.0 { vec![] } else { vec![100.0 * total / most] }
            }
        };
        let adversarial = |direction: &'static str| {
            Bar::new(
                format!("adversarial R@1 {direction}, model over token interaction"),
                Rule::AtLeast(15.0),
                move |t| t.gain("cba", "token-interaction", &format!("adv {direction}")),
            )
        };
        vec![
            adversarial("t2v"),
            adversarial("v2t"),
            Bar::new(
                "lost in distribution to token interaction, mean of both directions",
                Rule::AtMost(4.0),
                move |t| both("token-interaction", "cba", "id")(t),
            ),
            Bar::new(
                "share of the distance to the oracle's mask that is closed, t2v (%)",
                Rule::AtLeast(40.0),
                closed("t2v"),
            ),
            Bar::new(
                "share of the distance to the oracle's mask that is closed, v2t (%)",
                Rule::AtLeast(40.0),
                closed("v2t"),
            ),
            Bar::new(
                "gain over token interaction where nothing is spurious, mean of both directions",
                Rule::SurelyAbove(-2.0),
                move |t| both("cba-rho-0", "token-interaction-rho-0", "decor")(t),
            ),
            Bar::new(
                "adversarial gain of the counterfactual branch, mean of both directions",
                Rule::AtLeast(3.0),
                move |t| both("cba", "cba-no-counterfactual", "adv")(t),
            ),
            Bar::new("adversarial gain that a random mask gives, in % of the learned one's", Rule::AtMost(80.0), |t| {
                let all = |of| {
                    let gain = mean_of(
                        &t.gain(of, "cba-no-counterfactual", "adv t2v"),
                        &t.gain(of, "cba-no-counterfactual", "adv v2t"),
                    );
                    gain.iter().sum::<f64>()
                };
                let (random, own) = (all("cba-random-mask"), all("cba"));
                if own > 0.0 { vec![100.0 * random / own] } else { vec![] }
            }),
            Bar::new(
                "adversarial R@1 over the model without any module, mean of both directions",
                Rule::Reported,
                move |t| both("cba", "cba-bare", "adv")(t),
            ),
            Bar::new(
                "adversarial gain of the branch where it is the only module, mean of both directions",
                Rule::Reported,
                move |t| both("cba-branch-alone", "cba-bare", "adv")(t),
            ),
            Bar::new("gap between in distribution and adversarial, t2v", Rule::Reported, |t| {
                difference(&t.values("cba", "id t2v"), &t.values("cba", "adv t2v"))
            }),
        ]
    }
}

/// Half of the frames, drawn for each video.
pub fn random_mask(random: Random, video: usize, frames: usize, frame: usize) -> bool {
    let first = video as u64 * 4096;
    let rank = |t: usize| random.bits(first + t as u64);
    (0..frames).filter(|t| rank(*t) < rank(frame)).count() < frames.div_ceil(2)
}

/// How well a model tells the true foreground of videos from their matched texts, in percent: `AUROC` of the relevance,
/// and `mask`, the share of the foreground among the frames that its mask takes for that; and `probe`, how often a
/// linear probe reads the background from the pooled vector.
fn attention_to_truth(scorer: &mut Scorer, videos: &[Video]) -> Result<Measures> {
    let (mut attention, mut pooled) = (Attention::default(), vec![]);
    for (i, video) in videos.iter().enumerate() {
        let e = scorer.explain(i, i)?;
        if i < LOOKED_AT {
            let happens = |row: usize| video.frames.get(scorer.frame(i, row)).is_some_and(Option::is_some);
            attention.look(&e, &(0..e.frames).map(happens).collect::<Vec<_>>());
        }
        pooled.push(e.pooled);
    }
    let mut measures = attention.measures();
    let backgrounds: Vec<usize> = videos.iter().map(|v| v.background).collect();
    measures.extend(accuracy(&pooled, &backgrounds).map(|x| ("probe".to_string(), x)));
    Ok(measures)
}

/// Videos of which only the frames without an event are left.
fn background_alone(made: Made<Video, Query>) -> Result<Dataset> {
    let Made { data, videos, .. } = made;
    with_videos(data, |v, tokens, seconds| {
        let rows = tokens.data.chunks_exact(tokens.dim.max(1)).zip(seconds).zip(&videos[v].frames);
        let left: Vec<_> = rows.filter(|(_, event)| event.is_none()).map(|(row, _)| row).collect();
        (left.iter().flat_map(|(row, _)| row.iter().copied()).collect(), left.iter().map(|(_, s)| **s).collect())
    })
}
