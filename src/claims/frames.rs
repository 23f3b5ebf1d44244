//! How many frames a video needs: recall and order accuracy on S3 with long videos that are sampled down.
//!
//! Nothing here can fail. Videos have twice the frames of S3 at twice the rate, so that they last as long, and events
//! take twice as many; a model is trained and tested on the frames that `max_frames` leaves of them.

use super::bars::{Bar, Table};
use super::figures::{Axis, Figure, Point, Series, Spread};
use super::temporal_order::{order_accuracy, recall_at_1, recipe};
use super::trained::{scores, train, world};
use super::{Claim, Effort, Job, Measures, Sweep, Variant};
use crate::data::worlds::{Made, TemporalOrder};
use crate::error::Result;
use serde_json::{Value, json};

pub struct FramesClaim;

/// Frames of a video, all of which the variants without a number in their names take.
const ALL: usize = 64;
const FRAMES: [usize; 5] = [4, 8, 16, 32, ALL];
const MODELS: [(&str, &str); 2] =
    [("token-interaction", "one expert, no trunk"), ("cba", "the trunk and temporal regularisation")];

impl Claim for FramesClaim {
    fn name(&self) -> &'static str {
        "frames"
    }

    fn says(&self) -> &'static str {
        "how many frames a video needs"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        let recipe = recipe(effort);
        let mut variants = vec![];
        for (model, about) in MODELS {
            for frames in FRAMES {
                let mut config =
                    if model == "cba" { recipe.cba(&["routing", "counterfactual"]) } else { recipe.plain(model) };
                config.max_frames = frames;
                let about = format!("{about}; {frames} of {ALL} frames");
                let mut variant = Variant::new(&name(model, frames), &about, config, recipe.options());
                let of_the_world: [(&str, Value); 3] =
                    [("frames", json!(ALL)), ("window", json!([8, 16])), ("fps", json!(2.0))];
                variant.world.extend(of_the_world.map(|(key, value)| (key.to_string(), value)));
                variants.push(variant);
            }
        }
        variants
    }

    fn sweeps(&self, _: &[Variant]) -> Vec<Sweep> {
        vec![]
    }

    fn columns(&self) -> &'static [&'static str] {
        &["R@1", "order accuracy"]
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world: TemporalOrder = world(job, &[("train", 2_000), ("gallery", 200)])?;
        let model = train(job, &world.train()?.data, None, None)?;
        let Made { data, queries, .. } = world.test(0)?;
        let scores = scores(job, &model, &data)?;
        Ok(Measures::from([
            ("R@1".into(), recall_at_1(&scores, &queries)),
            ("order accuracy".into(), order_accuracy(&scores, &queries)),
        ]))
    }

    fn bars(&self) -> Vec<Bar> {
        vec![]
    }

    fn figures(&self, table: &Table) -> Vec<Figure> {
        let series = |measure: &str| {
            let curve = |(model, _): (&str, &str)| {
                let point = |frames: usize| {
                    let y = Spread::of(table, &name(model, frames), measure)?;
                    Some(Point { label: String::new(), x: Spread::exact(frames as f64), y })
                };
                Series { name: model.into(), points: FRAMES.into_iter().filter_map(point).collect() }
            };
            MODELS.map(curve).into_iter().filter(|s| !s.points.is_empty()).collect()
        };
        let figure = |title: &str, y_label: &str, measure, caption: &str| Figure {
            title: title.into(),
            caption: caption.into(),
            x_label: format!("frames that a model takes of {ALL}"),
            y_label: y_label.into(),
            axis: Axis::Log,
            joined: true,
            series: series(measure),
            frontier: vec![],
        };
        vec![
            figure(
                "Recall and frames",
                "R@1 text to video (%)",
                "R@1",
                "Videos of S3 with 64 frames, sampled evenly down to the number below in training and in the test.",
            ),
            figure(
                "Order and frames",
                "order accuracy (%)",
                "order accuracy",
                "Of the captions that tell an order, how many score their video above the one in the other order; 50 is \
                 chance.",
            ),
        ]
    }
}

/// A variant's name; the one that takes all frames is called as its model.
fn name(model: &str, frames: usize) -> String {
    if frames == ALL { model.into() } else { format!("{model}-{frames}") }
}
