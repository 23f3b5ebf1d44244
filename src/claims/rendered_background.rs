//! S1 in pixels: objects are filmed before a wall, between views of a place that, in training, goes with their colour.
//!
//! Frames are what a tower of CLIP sees of them (see [`super::pixels`]); it has learned shapes, colours and places. A model
//! that matches captions with places is right in training, and wrong in `adv`, where each clip has the place of its twin:
//! an object of a colour that differs little, doing the same.

use super::bars::{Bar, Rule, Table, difference, mean_of};
use super::pixels::{self, School};
use super::probe::{Attention, accuracy};
use super::spurious_background::random_mask;
use super::trained::{Recipe, Scores, recall, scores, train, world_of};
use super::{Claim, Effort, Job, Mask, Measures, Sweep, Variant};
use crate::data::Dataset;
use crate::data::worlds::Generator;
use crate::data::worlds::rendered::{Clip, Rendered, Set};
use crate::encoders::fresh::Tower;
use crate::error::{Error, Result};
use crate::models::cba::config::{CbaConfig, Foreground, Trunk};
use crate::models::scorer::Scorer;
use crate::random::Random;

pub struct RenderedBackgroundClaim;

/// Frames of a clip that the tower sees.
pub const FRAMES: usize = 12;
/// Random stream of random masks.
const MASKS: u64 = 0x6d61_736b;
/// Who sees [`FRAMES`] of the world.
pub const SCHOOL: School = School {
    image: Tower { dim: 64, layers: 3, heads: 4, hidden: 256 },
    side: 48,
    patch: 6,
    told: pixels::object_or_place,
    clips: 16000,
    epochs: 20,
    batch: 128,
    learning_rate: 2e-3,
};
const TESTS: [(Set, &str); 3] = [(Set::Val, "id"), (Set::Test, "any"), (Set::Adv, "adv")];

impl Claim for RenderedBackgroundClaim {
    fn name(&self) -> &'static str {
        "rendered-background"
    }

    fn says(&self) -> &'static str {
        "the counterfactual branch suppresses background-driven shortcuts, from pixels"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        let trunk = Trunk { layers: 0, motion: 0, positions: false, ..Trunk::default() };
        let recipe = Recipe {
            effort,
            tokens: 64,
            words: 16,
            frames: FRAMES,
            epochs: 10,
            batch: 64,
            learning_rate: 4e-3,
            temperature: 0.05,
            trunk,
        };
        let (options, plain) = (recipe.options(), |model| recipe.plain(model));
        let cba = Variant::new("cba", "the model, all modules", recipe.cba(&[]), options.clone());
        let simple = |name: &str, about: &str, config| Variant::new(name, about, config, options.clone());
        let interaction =
            simple("token-interaction", "soft attention, one expert, no trunk", plain("token-interaction"));
        let given = |c: &mut CbaConfig| c.counterfactual.foreground = Foreground::Given;
        let without = |name: &str, about: &str, modules: &[&str]| {
            cba.with(name, about, |c| modules.iter().for_each(|module| drop(c.ablate(module))))
        };
        let free = |v: &Variant, name: &str, about: &str| v.in_world(name, about, "rho", 0.0);
        vec![
            simple("mean-pool", "cosine of pooled vectors", plain("mean-pool")),
            interaction.clone(),
            cba.clone(),
            without("cba-no-counterfactual", "without the counterfactual branch", &["counterfactual"]),
            without("cba-branch-alone", "the counterfactual branch and no other module", &["routing", "temporal"]),
            Variant { mask: Mask::Oracle, ..cba.with("cba-oracle-mask", "told the foreground while training", given) },
            Variant { mask: Mask::Random, ..cba.with("cba-random-mask", "with a random mask as large", given) },
            free(&interaction, "token-interaction-rho-0", "token interaction where nothing is spurious"),
            free(&cba, "cba-rho-0", "the model where nothing is spurious"),
        ]
    }

    fn sweeps(&self, _: &[Variant]) -> Vec<Sweep> {
        vec![]
    }

    fn columns(&self) -> &'static [&'static str] {
        &[
            "id t2v",
            "id v2t",
            "any t2v",
            "any v2t",
            "adv t2v",
            "adv v2t",
            "id colour",
            "any colour",
            "adv colour",
            "AUROC",
            "mask",
        ]
    }

    fn prepare(&self, job: &Job) -> Result<()> {
        let world = rendered(job)?;
        pixels::prepare(job, &world, &SCHOOL, FRAMES, &Set::ALL)
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world = rendered(job)?;
        let (data, clips) = pixels::seen(job, &world, &SCHOOL, Set::Train)?;
        let random = Random::new(job.seed, MASKS);
        let is_foreground = |video: usize, frame: usize| match job.variant.mask {
            Mask::Random => random_mask(random, video, FRAMES, frame),
            _ => pixels::shows(&clips[video], FRAMES, frame),
        };
        let given: Option<&(dyn Fn(usize, usize) -> bool + Sync)> =
            if job.variant.mask == Mask::Own { None } else { Some(&is_foreground) };
        let model = train(job, &data, None, given)?;
        drop(data);
        let mut measures = Measures::new();
        for (set, name) in TESTS {
            let (data, clips) = pixels::seen(job, &world, &SCHOOL, set)?;
            let [t2v, v2t] = recall(job, &model, &data)?;
            measures.insert(format!("{name} t2v"), t2v);
            measures.insert(format!("{name} v2t"), v2t);
            let scores = scores(job, &model, &data)?;
            measures.insert(format!("{name} twin"), before_twin(&scores, &data, &clips));
            measures.insert(format!("{name} colour"), right_colour(&scores, &data, &clips));
            if set == Set::Test {
                let texts: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
                let videos = (&*data.videos, data.gallery());
                let mut scorer = Scorer::open(&model, (&*data.texts, texts), videos, (job.open)()?)?;
                measures.extend(attention_to_truth(&mut scorer, &data, &clips)?);
                measures.extend(probes(&data, &clips)?);
            }
        }
        Ok(measures)
    }

    fn percents(&self) -> &'static [&'static str] {
        &["id t2v", "id v2t", "any t2v", "any v2t", "adv t2v", "adv v2t"]
    }

    fn bars(&self) -> Vec<Bar> {
        let both = |of: &'static str, over: &'static str, test: &'static str| {
            move |t: &Table| {
                mean_of(&t.gain(of, over, &format!("{test} t2v")), &t.gain(of, over, &format!("{test} v2t")))
            }
        };
        let adversarial = |direction: &'static str| {
            Bar::new(
                format!("adversarial R@1 {direction}, model over token interaction"),
                Rule::AtLeast(5.0),
                move |t| t.gain("cba", "token-interaction", &format!("adv {direction}")),
            )
        };
        let sees = |what: &'static str| {
            Bar::new(
                format!("{what} as a linear probe reads it from the tower's frames (chance 12.5)"),
                Rule::Reported,
                move |t| t.values("cba", &format!("sees {what}")),
            )
        };
        vec![
            adversarial("t2v"),
            adversarial("v2t"),
            Bar::new(
                "adversarial queries whose first video has the right colour, model over token interaction",
                Rule::AtLeast(15.0),
                |t| t.gain("cba", "token-interaction", "adv colour"),
            ),
            Bar::new(
                "lost in distribution to token interaction, mean of both directions",
                Rule::AtMost(4.0),
                move |t| both("token-interaction", "cba", "id")(t),
            ),
            Bar::new(
                "gain over token interaction where nothing is spurious, mean of both directions",
                Rule::SurelyAbove(-2.0),
                move |t| both("cba-rho-0", "token-interaction-rho-0", "any")(t),
            ),
            Bar::new(
                "adversarial gain of the counterfactual branch, mean of both directions",
                Rule::AtLeast(3.0),
                move |t| both("cba", "cba-no-counterfactual", "adv")(t),
            ),
            Bar::new("adversarial gain that a random mask gives, in % of the learned one's", Rule::AtMost(80.0), |t| {
                let gain = |of| -> f64 {
                    let both = ["adv t2v", "adv v2t"].map(|test| t.gain(of, "cba-no-counterfactual", test));
                    both.iter().flatten().sum()
                };
                let (random, own) = (gain("cba-random-mask"), gain("cba"));
                if own > 0.0 { vec![100.0 * random / own] } else { vec![] }
            }),
            Bar::new("gap between in distribution and adversarial, t2v", Rule::Reported, |t| {
                difference(&t.values("cba", "id t2v"), &t.values("cba", "adv t2v"))
            }),
            sees("shape"),
            sees("colour"),
            sees("place"),
        ]
    }
}

/// The world of a job.
///
/// # Errors
/// When the generator is another than the main one, or the variant names a parameter that the world does not have.
pub fn rendered(job: &Job) -> Result<Rendered> {
    if job.generator == Generator::HeldOut {
        return Err(Error::config("--generator", "is held-out, and pixels have one law only", "use main"));
    }
    let [train, test] = if job.effort == Effort::Full { [4000, 200] } else { [400, 40] };
    let base = serde_json::json!({
        "width": 96, "height": 96, "train": train, "val": test, "test": test, "tied": "colour", "rho": 0.98, "delta": 0.35,
        "objects": 1.3, "absent": 0.5, "apart": 1.0, "order_share": 0.0, "cut_share": 0.0,
    });
    world_of(job, base.as_object().cloned().unwrap_or_default())
}

/// How often a text's own video is before that video's twin, in percent; ties half.
fn before_twin(scores: &Scores, data: &Dataset, clips: &[Clip]) -> f64 {
    let (mut right, mut all) = (0.0, 0.0);
    for (text, pair) in data.pairs.iter().enumerate() {
        let twin = clips[pair.video].truth.twin.as_ref().and_then(|t| clips.iter().position(|c| c.id == t.video_id));
        let Some(twin) = twin else { continue };
        let (own, other) = (scores.at(text, pair.video), scores.at(text, twin));
        right += if own > other {
            1.0
        } else if own == other {
            0.5
        } else {
            0.0
        };
        all += 1.0;
    }
    100.0 * right / f64::max(all, 1.0)
}

/// How often the first video for a text has the colour that it asks for, in percent; of equal scores the first counts.
fn right_colour(scores: &Scores, data: &Dataset, clips: &[Clip]) -> f64 {
    let first =
        |text: usize| (0..scores.videos).rev().max_by(|a, b| scores.at(text, *a).total_cmp(&scores.at(text, *b)));
    let class = |video: usize| clips[video].truth.class;
    let right = data.pairs.iter().enumerate().filter(|(t, p)| first(*t).is_some_and(|v| class(v) == class(p.video)));
    100.0 * right.count() as f64 / data.pairs.len() as f64
}

/// How well a model tells the frames that show the object: area under the curve of its relevance, and the share of them
/// among those of its mask, in percent.
fn attention_to_truth(scorer: &mut Scorer, data: &Dataset, clips: &[Clip]) -> Result<Measures> {
    let mut attention = Attention::default();
    for (text, pair) in data.pairs.iter().enumerate() {
        let e = scorer.explain(text, pair.video)?;
        let shows = |row: usize| pixels::shows(&clips[pair.video], FRAMES, scorer.frame(pair.video, row));
        attention.look(&e, &(0..e.frames).map(shows).collect::<Vec<_>>());
    }
    Ok(attention.measures())
}

/// What a linear probe reads from the tower's frames: shape and colour of the object where it is, else the place.
pub fn probes(data: &Dataset, clips: &[Clip]) -> Result<Measures> {
    let (mut objects, mut places) = ((vec![], vec![], vec![]), (vec![], vec![]));
    for (v, clip) in clips.iter().enumerate() {
        let tokens = data.videos.load(v)?;
        for t in 0..tokens.rows {
            let row = tokens.row(t).to_vec();
            if pixels::shows(clip, FRAMES, t) {
                objects.0.push(row);
                objects.1.push(clip.truth.shape as usize);
                objects.2.push(clip.truth.colour as usize);
            } else {
                places.0.push(row);
                places.1.push(clip.truth.background as usize);
            }
        }
    }
    let all = [
        ("sees shape", accuracy(&objects.0, &objects.1)),
        ("sees colour", accuracy(&objects.0, &objects.2)),
        ("sees place", accuracy(&places.0, &places.1)),
    ];
    Ok(all.into_iter().filter_map(|(name, x)| Some((name.to_string(), x?))).collect())
}
