//! What routing costs and what it brings: recall on S2 beside the time and the memory of scoring at real sizes.
//!
//! Nothing here can fail. Models are trained and judged in the small world; time and memory are those of the same
//! configuration with random parameters at the sizes of a real gallery, in turns with token interaction, so that a busy
//! machine slows both.

use super::bars::{Bar, Table};
use super::factors::{self, private_flops};
use super::figures::{Axis, Figure, Point, Series, Spread};
use super::trained::{Recipe, recall, revised, train, world};
use super::{Claim, Effort, Job, Measures, Sweep, Variant};
use crate::data::worlds::Factors;
use crate::engine::bench::median;
use crate::error::Result;
use crate::models::batch::Capacity;
use crate::models::cba::config::{Quantisation, RoutingMode};
use crate::models::random_batch::Sizes;
use crate::models::timing::{gallery_bytes, scoring_in_turns};
use crate::models::{Config, build};

pub struct ParetoClaim;

/// Where training begins to round projections as int8 does.
const ROUNDED_FROM: f32 = 0.8;
/// Sizes at which time and memory are measured.
const REAL: Sizes = Sizes { texts: 256, videos: 256, words: 32, frames: 12, dim: 512, ragged: false };
const QUICK: Sizes = Sizes { texts: 16, videos: 16, ..REAL };

impl Claim for ParetoClaim {
    fn name(&self) -> &'static str {
        "pareto"
    }

    fn says(&self) -> &'static str {
        "what routing costs in time and memory, and what it brings"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        // Half of the steps there: what is compared are forms of routing, and eight experts need no more.
        let recipe = Recipe { epochs: 10, ..factors::recipe(effort) };
        let (options, plain) = (recipe.options(), recipe.plain("token-interaction"));
        let cba = Variant::new("cba", "", factors::model(&recipe), options.clone());
        let routed = |name: &str, about: &str, mode, experts, slots| {
            cba.with(name, about, |c| (c.routing.mode, c.routing.experts, c.routing.slots) = (mode, experts, slots))
        };
        let int8 = |v: &Variant, name: &str| {
            let about = format!("{}, projections rounded as int8 rounds them", v.about);
            v.with(name, &about, |c| c.quantisation = Quantisation { int8: true, from: ROUNDED_FROM })
        };
        let soft = |experts| {
            let (name, about) = (format!("soft-{experts}"), format!("mixtures of {experts} experts"));
            routed(&name, &about, RoutingMode::Soft, experts, 1)
        };
        let query = |experts, slots| {
            let about = format!("each query's best {slots} of {experts} experts");
            routed(&format!("query-{experts}-{slots}"), &about, RoutingMode::TopkQuery, experts, slots)
        };
        let token = |experts, slots| {
            let about = format!("each token's best {slots} of {experts} experts");
            routed(&format!("token-{experts}-{slots}"), &about, RoutingMode::TopkToken, experts, slots)
        };
        vec![
            Variant::new("token-interaction", "one expert, no trunk", plain, options.clone()),
            routed("off", "the trunk alone", RoutingMode::Off, 4, 1),
            routed("dense", "a hidden layer with as many parameters as 4 experts", RoutingMode::Dense, 4, 1),
            soft(2),
            soft(4),
            soft(8),
            soft(16),
            query(4, 1),
            query(8, 2),
            token(4, 1),
            token(8, 2),
            token(8, 3),
            token(16, 2),
            int8(&soft(8), "soft-8-int8"),
            int8(&token(8, 2), "token-8-2-int8"),
        ]
    }

    fn sweeps(&self, _: &[Variant]) -> Vec<Sweep> {
        vec![]
    }

    fn columns(&self) -> &'static [&'static str] {
        &["R@1", "ms / 1000 pairs", "time ratio", "gallery kB / video", "private MFLOP / video"]
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world: Factors = world(job, &[("train", 2_000)])?;
        // A model is trained in f32 until the stage that rounds, and used rounded.
        let mut variant = job.variant.clone();
        let rounds = variant.config.cba.as_mut().is_some_and(|c| std::mem::take(&mut c.quantisation.int8));
        let mut model = train(&Job { variant: &variant, ..*job }, &world.train()?.data, None, None)?;
        if rounds {
            model = revised(job, &model, "rounded", |cba| cba.quantisation.int8 = true)?;
        }
        let mut measures = Measures::new();
        measures.insert("R@1".into(), recall(job, &model, &world.test(0)?.data)?[0]);

        let (sizes, turns) = if job.effort == Effort::Quick { (QUICK, 1) } else { (REAL, 5) };
        let (config, frames) = (at_size(&job.variant.config, sizes), sizes.videos * sizes.frames);
        let capacity = Capacity { texts: 1, words: 1, videos: sizes.videos, frames };
        let (ours, plain) =
            (build(&config)?, build(&at_size(&factors::recipe(job.effort).plain("token-interaction"), sizes))?);
        let a_video = 1.0 / sizes.videos as f64;
        measures.insert("gallery kB / video".into(), gallery_bytes(ours.as_ref(), capacity)? as f64 * a_video / 1e3);
        measures.insert("private MFLOP / video".into(), private_flops(&config, capacity)? * a_video / 1e6);
        // There are no kernels for int8 yet: a time would be that of f32 and more.
        if !rounds {
            let times = scoring_in_turns(&[ours.as_ref(), plain.as_ref()], sizes, turns, job.open)?;
            let thousands = (sizes.texts * sizes.videos) as f64 / 1e3;
            let own = median(times.iter().map(|t| t[0]).collect());
            measures.insert("ms / 1000 pairs".into(), 1e3 * own / thousands);
            measures.insert("time ratio".into(), median(times.iter().map(|t| t[0] / t[1]).collect()));
        }
        Ok(measures)
    }

    fn takes_times(&self) -> bool {
        true
    }

    fn bars(&self) -> Vec<Bar> {
        vec![]
    }

    fn figures(&self, table: &Table) -> Vec<Figure> {
        let variants = self.variants(Effort::Full);
        let over = |measure: &str| {
            let mut series: Vec<Series> = vec![];
            for variant in &variants {
                let x = Spread::of(table, &variant.name, measure);
                let Some((x, y)) = x.zip(Spread::of(table, &variant.name, "R@1")) else { continue };
                let (name, label) = called(variant);
                let point = Point { label, x, y };
                match series.iter_mut().find(|s| s.name == name) {
                    Some(known) => known.points.push(point),
                    None => series.push(Series { name: name.into(), points: vec![point] }),
                }
            }
            series
        };
        let figure = |title: &str, x_label: &str, series, caption: &str| Figure {
            title: title.into(),
            caption: caption.into(),
            x_label: x_label.into(),
            y_label: "R@1 text to video (%)".into(),
            axis: Axis::Log,
            joined: false,
            series,
            frontier: vec![],
        };
        vec![
            figure(
                "Recall and time",
                "time to score, token interaction = 1",
                over("time ratio"),
                "Up and to the left is better; the dashed line is the frontier, and what lies below and to the right of \
                 it is beaten. R@1 on S2; times of the same configuration on 256 × 256 pairs of 32 words and 12 frames at \
                 width 512 (with --quick 16 × 16 pairs), in turns with token interaction, on this machine. K experts, of \
                 which k are kept. Models rounded as int8 are missing: there are no kernels for them yet, and their time \
                 is that of f32.",
            )
            .with_frontier(),
            figure(
                "Recall and memory",
                "gallery (kB a video)",
                over("gallery kB / video"),
                "What a gallery keeps of a video of 12 frames at width 512, in f32 also where projections are rounded as \
                 int8 rounds them.",
            )
            .with_frontier(),
        ]
    }
}

/// The same configuration for tokens and lengths of a real gallery.
fn at_size(config: &Config, sizes: Sizes) -> Config {
    Config {
        text_dim: sizes.dim,
        video_dim: sizes.dim,
        dim: sizes.dim,
        max_words: sizes.words,
        max_frames: sizes.frames,
        ..config.clone()
    }
}

/// The series of a variant in a figure, and what its point is called.
fn called(variant: &Variant) -> (&'static str, String) {
    let Some(cba) = &variant.config.cba else { return ("no experts", variant.name.clone()) };
    let (routing, int8) = (&cba.routing, if cba.quantisation.int8 { ", int8" } else { "" });
    let (experts, slots) = (routing.experts, routing.slots);
    match routing.mode {
        RoutingMode::Off | RoutingMode::Dense => ("no experts", format!("{}{int8}", variant.name)),
        RoutingMode::Soft => ("soft", format!("K {experts}{int8}")),
        RoutingMode::TopkQuery => ("the query's top k", format!("K {experts}, k {slots}{int8}")),
        RoutingMode::TopkToken => ("a token's top k", format!("K {experts}, k {slots}{int8}")),
    }
}
