//! Weighted token interaction: every word meets every frame, in both directions, with learned weights of words and
//! frames (DRL, Wang et al. 2022, section 3; here with soft attention instead of the maximum).

use super::batch::{TextInputs, VideoInputs};
use super::mean_pool::project;
use super::{Config, Model, TextSide, VideoSide};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::interact::Interact;
use crate::engine::op::norm::Unit;
use crate::engine::op::pointwise::{Unary, UnaryKind};
use crate::engine::op::segment::{SegmentKind, SegmentLogSoftmax, SegmentReduce};
use crate::engine::parameters::{Parameters, Weights};
use crate::engine::tensor::Meta;
use crate::error::Result;

/// `S = ½(Σ_l ω_l Σ_t α_lt c_lt + Σ_t ρ_t Σ_l γ_lt c_lt)` over cosines `c` of word and frame tokens; see
/// [`Interact`] for α, γ and ρ.
pub struct TokenInteraction {
    config: Config,
    parameters: Parameters,
}

impl TokenInteraction {
    pub fn new(config: Config) -> TokenInteraction {
        let mut parameters = Parameters::default();
        let dim = config.dim;
        parameters.linear("text", dim, config.text_dim);
        parameters.linear("video", dim, config.video_dim);
        declare_row_weight(&mut parameters, "word_weight", dim);
        declare_row_weight(&mut parameters, "frame_weight", dim);
        parameters.log_scale("log_scale");
        TokenInteraction { config, parameters }
    }

    fn operands(text: &TextSide, video: &VideoSide) -> [Value; 11] {
        let none = Value::ABSENT;
        let (words, weights) = (text.tensors[0], text.tensors[1]);
        let (frames, bias) = (video.tensors[0], video.tensors[1]);
        let (ws, fs) = (text.inputs.segments, video.inputs.segments);
        [words, ws, weights, frames, fs, bias, none, none, none, none, none]
    }
}

/// The interaction of all words and frames, as a configuration has it.
fn interaction(config: &Config) -> Interact {
    Interact {
        temperature: config.temperature,
        relevance_temperature: config.relevance_temperature,
        max_words: config.max_words as u32 + 1,
        max_frames: config.max_frames as u32,
        kept: 0,
    }
}

/// What [`row_weight`] learns.
pub(super) fn declare_row_weight(parameters: &mut Parameters, name: &str, dim: usize) {
    parameters.linear(&format!("{name}.hidden"), dim, dim);
    parameters.linear(&format!("{name}.out"), 1, dim);
}

/// A weight per row: linear, ReLU, linear, as `[R, 1]`.
pub(super) fn row_weight(g: &mut Graph, w: &Weights, name: &str, x: Value) -> Result<Value> {
    let hidden = project(g, w, &format!("{name}.hidden"), x)?;
    let hidden = g.apply(Unary { kind: UnaryKind::Relu }, &[hidden])?;
    project(g, w, &format!("{name}.out"), hidden)
}

impl Model for TokenInteraction {
    fn config(&self) -> &Config {
        &self.config
    }
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn text(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<Vec<Value>> {
        let joint = project(g, w, "text", text.words)?;
        let unit = g.apply(Unit, &[joint])?;
        let logits = row_weight(g, w, "word_weight", unit)?;
        // The sentence row is no word: it takes no part in the weights.
        let weights = g.apply(SegmentLogSoftmax { tail: 1 }, &[logits, text.segments])?;
        Ok(vec![unit, weights])
    }
    fn video(&self, g: &mut Graph, w: &Weights, video: &VideoInputs) -> Result<Vec<Value>> {
        let joint = project(g, w, "video", video.frames)?;
        let unit = g.apply(Unit, &[joint])?;
        let bias = row_weight(g, w, "frame_weight", unit)?;
        let bias = g.reshape(bias, Meta::f32(&[video.capacity.frames_dim()])?)?;
        Ok(vec![unit, bias])
    }
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value> {
        g.apply(interaction(&self.config), &Self::operands(text, video))
    }
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>> {
        let outs = g.apply_all(interaction(&self.config), &Self::operands(text, video))?;
        let ([words, weights], frames) = ([text.tensors[0], text.tensors[1]], video.tensors[0]);
        let mean = SegmentReduce { kind: SegmentKind::Mean, tail: 0 };
        let pooled = g.apply(mean, &[frames, video.inputs.segments])?;
        Ok(vec![
            ("words", words),
            ("frames", frames),
            ("word_log_weights", weights),
            ("relevance", outs[2]),
            ("pooled", pooled),
        ])
    }
}
