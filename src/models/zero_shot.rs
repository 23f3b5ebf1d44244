//! Search before anything is trained: tokens of an encoder that puts texts and pictures into one space, as CLIP does.

use super::batch::{TextInputs, VideoInputs};
use super::token_interaction::interaction;
use super::{Config, Model, TextSide, VideoSide};
use crate::data::tokens::{About, InMemory, Tokens};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::norm::Unit;
use crate::engine::op::segment::{SegmentKind, SegmentReduce};
use crate::engine::parameters::{Parameters, Weights};
use crate::error::Result;

/// Both temperatures of the soft attention: 1 / 100, the scale at which CLIP's cosines were trained (Radford et al. 2021).
const TEMPERATURE: f32 = 0.01;
/// The longest that [`Interact`](crate::engine::op::interact::Interact) takes: four minutes at two frames a second; longer videos are sampled evenly.
const MOST_FRAMES: usize = 512;

/// `S = ½ (Σ_t α_t c_t + Σ_t ρ_t c_t)` over the cosines `c` of a sentence and the frames, `ρ = softmax(c / τ)` and
/// `α = softmax(2c / τ)`: a soft maximum, so that a short moment counts. It has no parameters; that of token interaction with one word,
/// the sentence itself.
pub struct ZeroShot {
    config: Config,
    parameters: Parameters,
}

impl ZeroShot {
    /// For tokens of width `dim` on both sides.
    pub fn new(dim: usize) -> ZeroShot {
        let config = Config {
            model: "zero-shot".into(),
            text_dim: dim,
            video_dim: dim,
            dim,
            max_words: 1,
            max_frames: MOST_FRAMES,
            temperature: TEMPERATURE,
            relevance_temperature: TEMPERATURE,
            cba: None,
        };
        ZeroShot { config, parameters: Parameters::default() }
    }

    /// A sentence vector `[dim]` as the text that this model takes.
    ///
    /// # Errors
    /// When it holds what is no number.
    pub fn text(sentence: &[f32]) -> Result<InMemory> {
        let tokens = Tokens { rows: 2, dim: sentence.len(), data: [sentence, sentence].concat() };
        let about = About { sentence: Some(true), ..About::default() };
        InMemory::new(about, vec![("query".into(), tokens)])
    }

    fn operands(text: &TextSide, video: &VideoSide) -> [Value; 11] {
        let none = Value::ABSENT;
        let (words, frames) = ((text.tensors[0], text.inputs.segments), (video.tensors[0], video.inputs.segments));
        [words.0, words.1, none, frames.0, frames.1, none, none, none, none, none, none]
    }
}

impl Model for ZeroShot {
    fn config(&self) -> &Config {
        &self.config
    }
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn text(&self, g: &mut Graph, _: &Weights, text: &TextInputs) -> Result<Vec<Value>> {
        Ok(vec![g.apply(Unit, &[text.words])?])
    }
    fn video(&self, g: &mut Graph, _: &Weights, video: &VideoInputs) -> Result<Vec<Value>> {
        Ok(vec![g.apply(Unit, &[video.frames])?])
    }
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value> {
        g.apply(interaction(&self.config), &Self::operands(text, video))
    }
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>> {
        let outs = g.apply_all(interaction(&self.config), &Self::operands(text, video))?;
        let frames = video.tensors[0];
        let pooled = g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[frames, video.inputs.segments])?;
        Ok(vec![("words", text.tensors[0]), ("frames", frames), ("relevance", outs[2]), ("pooled", pooled)])
    }
}
