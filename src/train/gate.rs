//! The gate before the losses that need right masks: opened and shut at fixed steps, by what pairs say that are held out
//! (of the validation split; of the training split where there is no other).

use super::options::TrainOptions;
use super::trainer::Pairs;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::Executor;
use crate::error::{Error, Result};
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
    /// Pairs of a pass: as many as a step holds at once.
    at_once: usize,
}

impl Gate {
    /// Of a model that has one. It looks at as many pairs as a step, or at all that there are.
    pub fn new(model: &dyn Model, pairs: &Pairs, options: &TrainOptions) -> Option<Gate> {
        let mut order = Random::new(options.seed, PAIRS).permutation(pairs.len());
        order.truncate(options.batch);
        let at_once = if options.chunk == 0 { order.len() } else { options.chunk.min(order.len()) };
        model.gate().map(|least| Gate { least, pairs: order, at_once })
    }

    pub fn graph(&self, model: &dyn Model, pairs: &Pairs) -> Result<Graph> {
        plans::alone(model, pairs.capacity(self.at_once))
    }

    /// What matched pairs score by their foreground alone, less what they score by their background alone, and whether
    /// that is enough.
    pub fn look(&self, executor: &mut Executor, plan: usize, pairs: &Pairs) -> Result<(f32, bool)> {
        let mut lead = 0.0;
        for pass in self.pairs.chunks(self.at_once.max(1)) {
            let outputs = executor.run(plan, |slot| pairs.pack(slot, pass, 0..pass.len()))?;
            // Matched pairs stand on the diagonal of a matrix whose rows are as long as a full pass.
            let matched = |name: &str| {
                let scores = outputs.f32(name)?.iter().step_by(self.at_once + 1).take(pass.len());
                Ok::<f32, Error>(scores.sum())
            };
            lead += matched(plans::FOREGROUND_SCORES)? - matched(plans::BACKGROUND_SCORES)?;
        }
        lead /= self.pairs.len().max(1) as f32;
        Ok((lead, lead > self.least))
    }
}
