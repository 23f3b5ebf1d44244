//! The gate before the losses that need right masks: opened and shut by what a held-out batch says, at fixed steps.

use super::trainer::Pairs;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::Executor;
use crate::error::Result;
use crate::models::batch::{pack_texts, pack_videos};
use crate::models::{Model, plans};
use crate::random::Random;

/// Steps between two looks. A run that is resumed looks at the same steps and sees the same.
pub const EVERY: usize = 50;

/// Random stream of the pairs that are looked at.
const PAIRS: u64 = 0x6761_7465_0000;

/// Watches how far foregrounds lead.
#[derive(Debug)]
pub struct Gate {
    least: f32,
    pairs: Vec<usize>,
}

impl Gate {
    /// Of a model that has one; `batch` pairs, or all that there are. They shall not be trained on, if there are others.
    pub fn new(model: &dyn Model, pairs: &Pairs, batch: usize, seed: u64) -> Option<Gate> {
        let mut order = Random::new(seed, PAIRS).permutation(pairs.len());
        order.truncate(batch);
        model.gate().map(|least| Gate { least, pairs: order })
    }

    pub fn graph(&self, model: &dyn Model, pairs: &Pairs) -> Result<Graph> {
        plans::alone(model, pairs.capacity(self.pairs.len()))
    }

    /// What matched pairs score by their foreground alone, less what they score by their background alone, and whether
    /// that is enough.
    pub fn look(&self, executor: &mut Executor, plan: usize, pairs: &Pairs) -> Result<(f32, bool)> {
        let outputs = executor.run(plan, |slot| {
            let (texts, videos): (Vec<_>, Vec<_>) =
                self.pairs.iter().map(|p| (pairs.text(*p), pairs.video(*p))).unzip();
            pack_texts(slot, &pairs.texts, &texts)?;
            pack_videos(slot, &pairs.videos, &videos)
        })?;
        let mean = |name: &str| {
            let n = self.pairs.len();
            let matched = outputs.f32(name)?.iter().step_by(n + 1).take(n);
            Ok::<f32, crate::error::Error>(matched.sum::<f32>() / n.max(1) as f32)
        };
        let lead = mean(plans::FOREGROUND_SCORES)? - mean(plans::BACKGROUND_SCORES)?;
        Ok((lead, lead > self.least))
    }
}
