//! S3 in pixels: two things happen to an object, captions say which came first, and every clip's order twin is in the
//! gallery.
//!
//! Frames are what a tower of CLIP sees of them (see [`super::pixels`]); from single pictures it has learned what is
//! there, how large, and where. What happens, and in which order, is for the model to find.

use super::pixels::{self, School};
use super::temporal_order::{bars, trained_on, under_perturbation, variants};
use super::trained::{Recipe, train, world_of};
use super::{Bar, Claim, Effort, Job, Measures, Sweep, Variant};
use crate::data::worlds::Generator;
use crate::data::worlds::rendered::{Rendered, Set, TwinKind};
use crate::data::worlds::temporal_order::Query;
use crate::encoders::fresh::Tower;
use crate::error::{Error, Result};
use crate::models::cba::config::Trunk;

pub struct RenderedOrderClaim;

/// Frames of a clip that the tower sees.
const FRAMES: usize = 16;
const SCHOOL: School = School {
    image: Tower { dim: 64, layers: 3, heads: 4, hidden: 256 },
    side: 48,
    patch: 6,
    told: pixels::object_and_where,
    clips: 12000,
    epochs: 10,
    batch: 128,
    learning_rate: 2e-3,
};

impl Claim for RenderedOrderClaim {
    fn name(&self) -> &'static str {
        "rendered-order"
    }

    fn says(&self) -> &'static str {
        "temporal causal regularisation stabilises alignment under light temporal perturbations, from pixels"
    }

    fn variants(&self, effort: Effort) -> Vec<Variant> {
        variants(&Recipe {
            effort,
            tokens: 64,
            words: 20,
            frames: FRAMES,
            epochs: 10,
            batch: 128,
            learning_rate: 4e-3,
            temperature: 0.05,
            trunk: Trunk { layers: 1, heads: 4, expansion: 2, ..Trunk::default() },
        })
    }

    fn sweeps(&self, _: &[Variant]) -> Vec<Sweep> {
        vec![]
    }

    fn columns(&self) -> &'static [&'static str] {
        &["order", "order perturbed", "R@1", "R@1 perturbed", "spread/gap"]
    }

    fn prepare(&self, job: &Job) -> Result<()> {
        let world = rendered(job)?;
        pixels::prepare(job, &world, &SCHOOL, FRAMES, &[Set::Train, Set::Test])
    }

    fn measure(&self, job: &Job) -> Result<Measures> {
        let world = rendered(job)?;
        let model = train(job, &trained_on(job, pixels::seen(job, &world, &SCHOOL, Set::Train)?.0)?, None, None)?;
        let (data, clips) = pixels::seen(job, &world, &SCHOOL, Set::Test)?;
        let twin = |video: usize| {
            let of = clips.get(video)?.truth.twin.as_ref().filter(|twin| twin.kind == TwinKind::Order)?;
            clips.iter().position(|clip| clip.id == of.video_id)
        };
        let query = |video| {
            let twin = twin(video);
            Query { events: [0, 1], ordered: twin.is_some(), video, twin, correct: vec![video] }
        };
        let queries: Vec<Query> = data.pairs.iter().map(|pair| query(pair.video)).collect();
        under_perturbation(job, &model, &queries, &|| Ok(pixels::seen(job, &world, &SCHOOL, Set::Test)?.0))
    }

    fn percents(&self) -> &'static [&'static str] {
        &["order", "order perturbed", "R@1", "R@1 perturbed"]
    }

    fn bars(&self) -> Vec<Bar> {
        bars()
    }
}

/// The world of a job.
fn rendered(job: &Job) -> Result<Rendered> {
    if job.generator == Generator::HeldOut {
        return Err(Error::config("--generator", "is held-out, and pixels have one law only", "use main"));
    }
    let [train, test] = if job.effort == Effort::Full { [6000, 200] } else { [400, 40] };
    let base = serde_json::json!({
        "width": 96, "height": 96, "train": train, "val": 2, "test": test, "rho": 0.0, "apart": 1.0, "order_share": 1.0,
        "cut_share": 0.0,
    });
    world_of(job, base.as_object().cloned().unwrap_or_default())
}
