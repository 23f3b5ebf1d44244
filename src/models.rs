//! Models: configurations that become graphs. A model says what is computed once per text, once per video, and per
//! pair; training, indexing and scoring are made from these three.

pub mod batch;
pub mod folder;
pub mod mean_pool;
pub mod parameters;
pub mod perturb;
pub mod plans;
pub mod rows;
pub mod scorer;
pub mod tiles;
pub mod token_interaction;

use crate::engine::graph::{Graph, Value};
use crate::error::{Error, Result};
use batch::{TextInputs, VideoInputs};
use parameters::{Parameters, Weights};
use serde::{Deserialize, Serialize};

/// What a model is: everything in `config.json` that changes its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `mean-pool` or `token-interaction`.
    pub model: String,
    /// Width of the word tokens that come in.
    pub text_dim: usize,
    /// Width of the frame tokens that come in.
    pub video_dim: usize,
    /// Joint width.
    pub dim: usize,
    /// Most word tokens of a text; the rest is cut off. The sentence vector is not counted.
    pub max_words: usize,
    /// Most frame tokens of a video; longer videos are sampled evenly.
    pub max_frames: usize,
    /// Temperature τ_a of the soft attention between words and frames.
    pub temperature: f32,
    /// Temperature τ_ρ of the relevance of frames to the sentence.
    pub relevance_temperature: f32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            model: "token-interaction".into(),
            text_dim: 512,
            video_dim: 512,
            dim: 512,
            max_words: 32,
            max_frames: 64,
            temperature: 0.05,
            relevance_temperature: 0.1,
        }
    }
}

/// Widest token and joint space that is accepted: a limit against nonsense in a file, not of the kernels.
const MAX_DIM: usize = 16_384;
const MAX_ROWS: usize = 4_096;

impl Config {
    /// # Errors
    /// Names the key whose value is impossible.
    pub fn check(&self) -> Result<()> {
        for (key, value, max) in [
            ("text_dim", self.text_dim, MAX_DIM),
            ("video_dim", self.video_dim, MAX_DIM),
            ("dim", self.dim, MAX_DIM),
            ("max_words", self.max_words, MAX_ROWS),
            ("max_frames", self.max_frames, MAX_ROWS),
        ] {
            if value == 0 || value > max {
                return Err(Error::config(key, format!("is {value}"), format!("use a number from 1 to {max}")));
            }
        }
        for (key, value) in [("temperature", self.temperature), ("relevance_temperature", self.relevance_temperature)] {
            if !(0.005..=10.0).contains(&value) {
                return Err(Error::config(key, format!("is {value}"), "use a number from 0.005 to 10"));
            }
        }
        Ok(())
    }
}

/// A model as graphs. All methods extend a graph and return values in it.
pub trait Model: Send + Sync {
    fn config(&self) -> &Config;

    /// Every learned tensor, with its place, its first value and how it is updated.
    fn parameters(&self) -> &Parameters;

    /// What a query computes once: tensors per text or per word.
    fn text(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<Vec<Value>>;

    /// What the gallery keeps of a video: tensors per video or per frame.
    fn video(&self, g: &mut Graph, w: &Weights, video: &VideoInputs) -> Result<Vec<Value>>;

    /// Scores `[N, M]` of all pairs from both sides.
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value>;

    /// Similarity of every word token to every frame token `[ΣL, ΣT]`, and the relevance of frames to texts `[N, ΣT]`,
    /// where the model has them: what `explain` shows.
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Option<Evidence>>;
}

/// A text batch: how its tokens lie, and what [`Model::text`] made of them.
pub struct TextSide<'a> {
    pub inputs: &'a TextInputs,
    pub tensors: &'a [Value],
}

/// A video batch: how its tokens lie, and what [`Model::video`] made of them.
pub struct VideoSide<'a> {
    pub inputs: &'a VideoInputs,
    pub tensors: &'a [Value],
}

/// Values that show why a pair scores as it does.
pub struct Evidence {
    /// `[ΣL, ΣT]` cosine of word and frame tokens.
    pub similarity: Value,
    /// `[ΣL]` logarithm of each word's weight in its text.
    pub word_log_weights: Value,
    /// `[N, ΣT]` relevance of each frame to each text; sums to 1 over a video.
    pub relevance: Value,
}

/// The names that `--model` takes.
pub const MODELS: &[&str] = &["mean-pool", "token-interaction"];

/// Makes a model from its configuration.
pub fn build(config: &Config) -> Result<Box<dyn Model>> {
    config.check()?;
    match config.model.as_str() {
        "mean-pool" => Ok(Box::new(mean_pool::MeanPool::new(config.clone()))),
        "token-interaction" => Ok(Box::new(token_interaction::TokenInteraction::new(config.clone()))),
        other => {
            let fix = format!("use one of {}", MODELS.join(", "));
            Err(Error::config("model", format!("there is no model {other:?}"), fix))
        }
    }
}
