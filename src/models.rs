//! Models: configurations that become graphs. A model says what is computed once per text, once per video, and per
//! pair; training, indexing and scoring are made from these three.

pub mod batch;
pub mod cba;
pub mod chunks;
pub mod encoded;
pub mod evidence;
pub mod folder;
pub mod mean_pool;
pub mod moments;
pub mod perturb;
pub mod plans;
pub mod random_batch;
pub mod rows;
pub mod scorer;
pub mod stability;
pub mod standardise;
pub mod tiles;
pub mod timing;
pub mod token_interaction;
pub mod views;
pub mod zero_shot;

use crate::engine::graph::{Graph, Value};
use crate::engine::op::contrast::Contrast;
use crate::engine::parameters::{Parameters, Weights};
use crate::engine::tensor::{Dim, Meta};
use crate::error::{Error, Result};
use batch::{Capacity, TextInputs, VideoInputs};
use cba::CbaConfig;
use cba::config::Router;
use serde::{Deserialize, Serialize};

/// What a model is: everything in `config.json` that changes its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One of [`MODELS`].
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
    /// What only CBA has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cba: Option<CbaConfig>,
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
            cba: None,
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
        self.cba.as_ref().map_or(Ok(()), |cba| cba.check(self.dim))
    }

    /// Whether a batch names another text for each.
    pub fn neighbours(&self) -> bool {
        self.cba.as_ref().is_some_and(|cba| cba.routing.router == Router::Neighbour)
    }

    /// Whether training compares videos with themselves perturbed in time.
    pub fn perturbs(&self) -> bool {
        self.cba.as_ref().is_some_and(|cba| cba.temporal.consistency > 0.0 || cba.temporal.augment > 0.0)
    }

    /// Whether a batch says when frames are seen and where words stand.
    pub fn positions(&self) -> bool {
        self.cba.as_ref().is_some_and(|cba| cba.trunk.positions)
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

    /// What shows why a text and a video score as they do, by name. One text and one video go in.
    /// [`evidence::Explanation`] reads: `pooled` `[M, D]`; where the model has token scores `words` `[ΣL, D]`, `frames`
    /// `[ΣT, k·D]`, `word_log_weights` `[ΣL]`, `relevance` `[N, ΣT]`; of a router `router_text`, `router_frame`,
    /// `slot_table`; of a counterfactual branch `background` `[1, ΣT]` and `background_scores` `[1, N, M]`.
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>>;

    /// Experts that a pair keeps of a frame's slots; 0 for all.
    fn kept(&self) -> usize {
        0
    }

    /// Whether layers that say so are made again on the way back instead of being kept.
    fn recomputes(&self) -> bool {
        false
    }

    /// What a training batch's items become, every pair for itself: what is costly and grows with the items. Text i
    /// belongs to video i.
    ///
    /// A batch that is too large for one pass is represented in chunks ([`chunks`]): a value then has one row for each
    /// text, word, video or frame, in their order. Donors of swapped views are the exception to "for itself": they are
    /// drawn from whatever is represented together.
    fn represent(&self, g: &mut Graph, w: &Weights, batch: &Batch) -> Result<Represented> {
        Ok(Represented { texts: self.text(g, w, &batch.text)?, videos: self.video(g, w, &batch.video)? })
    }

    /// What a training batch is judged by: whatever needs more than one pair at once, means over the batch included.
    /// Of the batch's inputs the tokens are gone; u32 values of `made` may be absent where they can be made again.
    fn compare(&self, g: &mut Graph, w: &Weights, batch: &Batch, made: &Represented) -> Result<Vec<Term>> {
        let text = TextSide { inputs: &batch.text, tensors: &made.texts };
        let video = VideoSide { inputs: &batch.video, tensors: &made.videos };
        let scores = self.scores(g, &text, &video)?;
        Ok(vec![Term { name: "contrast", value: batch.contrast(g, scores, w.get("log_scale")?)?, weight: 1.0 }])
    }

    /// The forms that a step can take in the course of a run, and from which share of the steps each holds; the first
    /// from 0.
    fn stages(&self) -> Vec<(f32, Stage)> {
        vec![(0.0, Stage::default())]
    }

    /// How far the foregrounds of matched pairs have to lead before the losses that need right masks are learned from;
    /// where it is given there are [`Model::alone`] and a form of each stage that is [`Stage::shut`].
    fn gate(&self) -> Option<f32> {
        None
    }

    /// Scores `[1, N, M]` of the foreground alone, and of the background alone. Text i belongs to video i, whose mask it
    /// makes.
    fn alone(&self, _: &mut Graph, _: &TextSide, _: &VideoSide) -> Result<[Value; 2]> {
        Err(Error::shape(&self.config().model, "has no foreground"))
    }
}

/// What changes the graph of a training step within a run.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Projections are rounded as int8 rounds them.
    pub quantised: bool,
    /// The model's gate is shut: what stands behind it is left out.
    pub shut: bool,
}

/// What [`Model::represent`] makes of a batch; an absent value holds its place.
#[derive(Clone, Debug, Default)]
pub struct Represented {
    pub texts: Vec<Value>,
    pub videos: Vec<Value>,
}

impl Represented {
    /// All values, those of texts first.
    pub fn values(&self) -> impl Iterator<Item = Value> {
        self.texts.iter().chain(&self.videos).copied()
    }
}

/// A training batch in a graph.
pub struct Batch {
    pub text: TextInputs,
    pub video: VideoInputs,
    /// u32 `[N]`: pairs with the same key are no negatives of each other.
    pub video_key: Value,
    pub caption_key: Value,
    /// u32 `[M, 2]`: where the frames of perturbed videos lie; absent where no loss asks.
    pub perturbed: Value,
    pub stage: Stage,
}

impl Batch {
    pub fn declare(g: &mut Graph, capacity: Capacity, config: &Config, stage: Stage) -> Result<Batch> {
        let text = TextInputs::declare(g, capacity, config)?;
        let video = VideoInputs::declare(g, capacity, config)?;
        let video_key = g.input("video_key", Meta::u32(&[capacity.texts_dim()])?);
        let caption_key = g.input("caption_key", Meta::u32(&[capacity.texts_dim()])?);
        let perturbed = if config.perturbs() {
            g.input("perturbed_segments", Meta::u32(&[capacity.videos_dim(), Dim::Fixed(2)])?)
        } else {
            Value::ABSENT
        };
        Ok(Batch { text, video, video_key, caption_key, perturbed, stage })
    }

    /// Symmetric InfoNCE of `scores [N, M]`.
    pub fn contrast(&self, g: &mut Graph, scores: Value, log_scale: Value) -> Result<Value> {
        self.weighted_contrast(g, scores, log_scale, Value::ABSENT)
    }

    /// The same with logarithms of the negatives' weights `[N, M]`.
    pub fn weighted_contrast(&self, g: &mut Graph, scores: Value, log_scale: Value, weights: Value) -> Result<Value> {
        g.apply(Contrast, &[scores, log_scale, self.video_key, self.caption_key, weights])
    }
}

/// One term of a loss.
#[derive(Copy, Clone, Debug)]
pub struct Term {
    pub name: &'static str,
    /// `[1]`
    pub value: Value,
    /// Its factor; 0 for what is only logged.
    pub weight: f32,
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

/// The names that `--model` takes.
pub const MODELS: &[&str] = &["mean-pool", "token-interaction", "cba"];

/// Makes a model from its configuration.
pub fn build(config: &Config) -> Result<Box<dyn Model>> {
    let mut config = config.clone();
    if config.model == "cba" {
        config.cba.get_or_insert_default();
    } else if config.cba.is_some() {
        let fix = "take out routing, counterfactual, temporal, trunk and quantisation, or use --model cba";
        return Err(Error::config("model", format!("{} has none of cba's modules", config.model), fix));
    }
    config.check()?;
    match config.model.as_str() {
        "mean-pool" => Ok(Box::new(mean_pool::MeanPool::new(config))),
        "token-interaction" => Ok(Box::new(token_interaction::TokenInteraction::new(config))),
        "cba" => Ok(Box::new(cba::Cba::new(config))),
        other => {
            let fix = format!("use one of {}", MODELS.join(", "));
            Err(Error::config("model", format!("there is no model {other:?}"), fix))
        }
    }
}
