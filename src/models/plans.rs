//! The graphs that a model becomes: one training step, filling the gallery, scoring against it, evidence for a pair.

use super::batch::{Capacity, TextInputs, VideoInputs};
use super::parameters::Weights;
use super::{Model, TextSide, VideoSide};
use crate::engine::autodiff::backprop;
use crate::engine::graph::{Graph, Value};
use crate::engine::op::contrast::Contrast;
use crate::engine::op::optim::{AdamW, ClipNorm};
use crate::engine::tensor::{Dim, Meta};
use crate::error::{Error, Result};

/// What the optimiser's graph is made of; what changes from step to step comes in the slot.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Optimiser {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Largest norm of the whole gradient.
    pub max_norm: f32,
}

impl Default for Optimiser {
    fn default() -> Optimiser {
        Optimiser { beta1: 0.9, beta2: 0.98, eps: 1e-6, max_norm: 1.0 }
    }
}

/// One training step: symmetric InfoNCE over the scores of a batch, backward, clipped, AdamW.
///
/// Inputs: both sides' tokens and segments, `video_key` and `caption_key` u32 `[N]` (pairs that share one are not
/// negatives), `scalars [4]` = (learning rate, 1/(1−β₁ᵗ), 1/(1−β₂ᵗ), 0).
/// Outputs: `loss [1]`, `gradient_norm [1]`.
pub fn training(model: &dyn Model, capacity: Capacity, optimiser: Optimiser) -> Result<Graph> {
    let mut g = Graph::new();
    let (loss, flat, weights) = loss_and_gradient(&mut g, model, capacity)?;
    let parameters = model.parameters();
    let clip = g.apply_all(ClipNorm { max_norm: optimiser.max_norm }, &[flat])?;
    let dims = [Dim::Fixed(parameters.elements as usize)];
    let groups = Dim::Fixed(parameters.list.len());
    let m = g.state("adam_m", Meta::f32(&dims)?);
    let v = g.state("adam_v", Meta::f32(&dims)?);
    let ranges = g.state("group_ranges", Meta::u32(&[groups, Dim::Fixed(2)])?);
    let factors = g.state("group_factors", Meta::f32(&[groups, Dim::Fixed(4)])?);
    let scalars = g.input("scalars", Meta::f32(&[Dim::Fixed(4)])?);
    let adam = AdamW { beta1: optimiser.beta1, beta2: optimiser.beta2, eps: optimiser.eps };
    let new = g.apply_all(adam, &[weights.flat, m, v, flat, clip[0], scalars, ranges, factors])?;
    g.assign(weights.flat, new[0])?;
    g.assign(m, new[1])?;
    g.assign(v, new[2])?;
    g.output("loss", loss);
    g.output("gradient_norm", clip[1]);
    Ok(g)
}

/// The loss of a batch whose text i belongs to video i.
fn batch_loss(g: &mut Graph, model: &dyn Model, capacity: Capacity) -> Result<(Value, Weights)> {
    let config = model.config();
    let weights = model.parameters().weights(g)?;
    let text = TextInputs::declare(g, capacity, config.text_dim)?;
    let video = VideoInputs::declare(g, capacity, config.video_dim)?;
    let text_tensors = model.text(g, &weights, &text)?;
    let video_tensors = model.video(g, &weights, &video)?;
    let text_side = TextSide { inputs: &text, tensors: &text_tensors };
    let video_side = VideoSide { inputs: &video, tensors: &video_tensors };
    let scores = model.scores(g, &text_side, &video_side)?;
    let video_key = g.input("video_key", Meta::u32(&[capacity.texts_dim()])?);
    let caption_key = g.input("caption_key", Meta::u32(&[capacity.texts_dim()])?);
    let log_scale = weights.get("log_scale")?;
    let loss = g.apply(Contrast, &[scores, log_scale, video_key, caption_key, Value::ABSENT])?;
    Ok((loss, weights))
}

/// The loss, its gradient in the layout of the parameters, and the parameters.
fn loss_and_gradient(g: &mut Graph, model: &dyn Model, capacity: Capacity) -> Result<(Value, Value, Weights)> {
    let (loss, weights) = batch_loss(g, model, capacity)?;
    let one = g.fill(1.0, &[Dim::Fixed(1)])?;
    // Parameters are views of one flat state, so their gradients come as one pack in the same layout.
    let grads = backprop(g, &[(loss, one)], &[weights.flat])?;
    let flat = grads[0].ok_or_else(|| Error::shape("training", "the loss depends on no parameter"))?;
    Ok((loss, flat, weights))
}

/// The loss and its gradient without an update, for comparisons of back ends and frameworks. Outputs: `loss [1]` and the flat `gradient`.
pub fn gradients(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let (loss, flat, _) = loss_and_gradient(&mut g, model, capacity)?;
    g.output("loss", loss);
    g.output("gradient", flat);
    Ok(g)
}

/// Encodes videos into the resident gallery: states `gallery.0`, `gallery.1`, … and `gallery.segments`.
pub fn fill_gallery(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let weights = model.parameters().weights(&mut g)?;
    let video = VideoInputs::declare(&mut g, capacity, model.config().video_dim)?;
    let tensors = model.video(&mut g, &weights, &video)?;
    for (i, tensor) in tensors.iter().enumerate() {
        let meta = g.meta(*tensor);
        let state = g.state(format!("gallery.{i}"), meta);
        g.assign(state, *tensor)?;
    }
    let meta = g.meta(video.segments);
    let segments = g.state("gallery.segments", meta);
    g.assign(segments, video.segments)?;
    Ok(g)
}

/// Scores texts against the resident gallery. Output: `scores [N, M]`.
///
/// The counts of the gallery's axes must be those with which it was filled.
pub fn score_gallery(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let weights = model.parameters().weights(&mut g)?;
    let text = TextInputs::declare(&mut g, capacity, model.config().text_dim)?;
    let text_tensors = model.text(&mut g, &weights, &text)?;
    let (tensors, inputs) = gallery(&mut g, model, capacity)?;
    let text_side = TextSide { inputs: &text, tensors: &text_tensors };
    let scores = model.scores(&mut g, &text_side, &VideoSide { inputs: &inputs, tensors: &tensors })?;
    g.output("scores", scores);
    Ok(g)
}

/// The gallery's states as the video side of a graph.
fn gallery(g: &mut Graph, model: &dyn Model, capacity: Capacity) -> Result<(Vec<Value>, VideoInputs)> {
    // A graph nobody runs tells which tensors the model keeps of a video.
    let mut draft = Graph::new();
    let weights = model.parameters().weights(&mut draft)?;
    let video = VideoInputs::declare(&mut draft, capacity, model.config().video_dim)?;
    let kept = model.video(&mut draft, &weights, &video)?;
    let tensors = kept.iter().enumerate().map(|(i, v)| g.state(format!("gallery.{i}"), draft.meta(*v))).collect();
    let segments = g.state("gallery.segments", draft.meta(video.segments));
    // Scores are made from what is kept; the raw frames are gone.
    Ok((tensors, VideoInputs { frames: Value::ABSENT, segments, capacity }))
}

/// One text and one video: `scores [1, 1]` and, where the model has them, `similarity`, `word_log_weights` and
/// `relevance`.
pub fn evidence(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let config = model.config();
    let weights = model.parameters().weights(&mut g)?;
    let text = TextInputs::declare(&mut g, capacity, config.text_dim)?;
    let video = VideoInputs::declare(&mut g, capacity, config.video_dim)?;
    let text_tensors = model.text(&mut g, &weights, &text)?;
    let video_tensors = model.video(&mut g, &weights, &video)?;
    let text_side = TextSide { inputs: &text, tensors: &text_tensors };
    let video_side = VideoSide { inputs: &video, tensors: &video_tensors };
    let scores = model.scores(&mut g, &text_side, &video_side)?;
    g.output("scores", scores);
    if let Some(e) = model.evidence(&mut g, &text_side, &video_side)? {
        g.output("similarity", e.similarity);
        g.output("word_log_weights", e.word_log_weights);
        g.output("relevance", e.relevance);
    }
    Ok(g)
}
