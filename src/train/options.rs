//! What a person may set about a training run.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The `[train]` table of a configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// Passes over all captions.
    pub epochs: usize,
    /// Pairs a step; every other pair of a batch is a negative.
    pub batch: usize,
    /// Pairs whose activations are held at once: a step then goes over its batch twice, in chunks, with the same loss
    /// and gradient in less memory. 0 for a batch in one piece.
    pub chunk: usize,
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f32,
    /// Share of all steps over which the learning rate rises from 0.
    pub warmup: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// Largest norm of the gradient; larger ones are scaled down to it.
    pub clip: f32,
    pub seed: u64,
    /// Steps between checkpoints; 0 means at the end of every epoch.
    pub checkpoint_every: usize,
    /// Epochs between validations.
    pub validate_every: usize,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            epochs: 5,
            batch: 128,
            chunk: 0,
            learning_rate: 1e-3,
            warmup: 0.1,
            weight_decay: 0.01,
            clip: 1.0,
            seed: 1,
            checkpoint_every: 0,
            validate_every: 1,
        }
    }
}

impl TrainOptions {
    /// # Errors
    /// Names the key whose value is impossible.
    pub fn check(&self) -> Result<()> {
        let number = |key: &str, value: f32, low: f32, high: f32| {
            let fix = format!("use a number from {low} to {high}");
            if (low..=high).contains(&value) { Ok(()) } else { Err(Error::config(key, format!("is {value}"), fix)) }
        };
        number("train.learning_rate", self.learning_rate, 0.0, 1.0)?;
        number("train.warmup", self.warmup, 0.0, 1.0)?;
        number("train.weight_decay", self.weight_decay, 0.0, 1.0)?;
        number("train.clip", self.clip, 1e-6, 1e9)?;
        number("train.epochs", self.epochs as f32, 1.0, 1e6)?;
        number("train.batch", self.batch as f32, 2.0, 65_536.0)?;
        number("train.validate_every", self.validate_every as f32, 1.0, 1e6)?;
        if self.chunk >= self.batch {
            let what = format!("is {} and train.batch is {}", self.chunk, self.batch);
            return Err(Error::config("train.chunk", what, "use a number below train.batch, or 0 for no chunks"));
        }
        Ok(())
    }

    /// The learning rate of step `step` (from 0) of `steps`: linear warm-up, then a cosine to 0.
    pub fn learning_rate(&self, step: usize, steps: usize) -> f32 {
        let warm = (self.warmup * steps as f32).round().max(1.0);
        let at = step as f32;
        if at < warm {
            return self.learning_rate * (at + 1.0) / warm;
        }
        let share = (at - warm) / (steps as f32 - warm).max(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f32::consts::PI * share.min(1.0)).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let o = TrainOptions { learning_rate: 1.0, warmup: 0.1, ..TrainOptions::default() };
        let rates: Vec<f32> = (0..100).map(|s| o.learning_rate(s, 100)).collect();
        assert_eq!(rates[9], 1.0);
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b));
        assert!(rates[0] > 0.0 && rates[99] < 0.01);
    }
}
