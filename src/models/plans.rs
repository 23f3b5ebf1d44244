//! The graphs that a model becomes: one training step, filling the gallery, scoring against it, evidence for a pair.

use super::batch::{Capacity, TextInputs, VideoInputs};
use super::{Batch, Model, Stage, Term, TextSide, VideoSide};
use crate::engine::autodiff::{backprop, backprop_again};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::optim::{AdamW, ClipNorm};
use crate::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use crate::engine::parameters::{Parameters, Weights};
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

impl Optimiser {
    /// What changes from step to step, for step `step` (from 0) with this learning rate.
    pub fn scalars(&self, step: usize, rate: f32) -> [f32; 4] {
        let t = step as i32 + 1;
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(t))) as f32;
        [rate, correction(self.beta1), correction(self.beta2), 0.0]
    }
}

/// One training step: the model's losses over a batch, backward, clipped, AdamW.
///
/// Inputs: both sides' tokens and segments, `video_key` and `caption_key` u32 `[N]` (pairs that share one are not
/// negatives), `scalars [4]` = (learning rate, 1/(1−β₁ᵗ), 1/(1−β₂ᵗ), 0), and what the model's losses declare.
/// Outputs: `loss [1]`, `gradient_norm [1]`, and each term of the loss under its name if there are several.
pub fn training(model: &dyn Model, capacity: Capacity, stage: Stage, optimiser: Optimiser) -> Result<Graph> {
    let mut g = Graph::new();
    let (terms, flat, weights) = loss_and_gradient(&mut g, model, capacity, stage)?;
    for (name, value) in terms {
        g.output(name, value);
    }
    update(&mut g, model.parameters(), &weights, flat, optimiser)?;
    Ok(g)
}

/// Clips the gradient `flat` and takes a step of AdamW. Declares `scalars` and hands back `gradient_norm`.
pub(crate) fn update(
    g: &mut Graph,
    parameters: &Parameters,
    weights: &Weights,
    flat: Value,
    optimiser: Optimiser,
) -> Result<()> {
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
    g.output("gradient_norm", clip[1]);
    Ok(())
}

/// The losses of a batch: their sum as `loss`, then each term where there are several.
pub(super) type Losses = Vec<(&'static str, Value)>;

/// The sum of terms, and each where there are several.
pub(super) fn total(g: &mut Graph, terms: &[Term]) -> Result<Losses> {
    let mut total = None;
    for term in terms.iter().filter(|t| t.weight != 0.0) {
        let scaled = match term.weight {
            1.0 => term.value,
            a => g.apply(Unary { kind: UnaryKind::Affine { a, b: 0.0 } }, &[term.value])?,
        };
        total = Some(match total {
            None => scaled,
            Some(sum) => g.apply(Binary { kind: BinaryKind::Add }, &[sum, scaled])?,
        });
    }
    let total = total.ok_or_else(|| Error::shape("training", "the model has no loss"))?;
    let mut losses = vec![("loss", total)];
    if terms.len() > 1 {
        losses.extend(terms.iter().map(|t| (t.name, t.value)));
    }
    Ok(losses)
}

/// The losses, the gradient of their sum in the layout of the parameters, and the parameters.
fn loss_and_gradient(
    g: &mut Graph,
    model: &dyn Model,
    capacity: Capacity,
    stage: Stage,
) -> Result<(Losses, Value, Weights)> {
    let weights = model.parameters().weights(g)?;
    let batch = Batch::declare(g, capacity, model.config(), stage)?;
    let made = model.represent(g, &weights, &batch)?;
    let terms = model.compare(g, &weights, &batch, &made)?;
    let losses = total(g, &terms)?;
    let one = g.fill(1.0, &[Dim::Fixed(1)])?;
    // Parameters are views of one flat state, so their gradients come as one pack in the same layout.
    let back = if model.recomputes() { backprop_again } else { backprop };
    let grads = back(g, &[(losses[0].1, one)], &[weights.flat])?;
    let flat = grads[0].ok_or_else(|| Error::shape("training", "the loss depends on no parameter"))?;
    Ok((losses, flat, weights))
}

/// The loss and its gradient without an update, for comparisons of back ends and frameworks. Outputs: `loss [1]`, its
/// terms if there are several, and the flat `gradient`.
pub fn gradients(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let (losses, flat, _) = loss_and_gradient(&mut g, model, capacity, Stage::default())?;
    for (name, value) in losses {
        g.output(name, value);
    }
    g.output("gradient", flat);
    Ok(g)
}

/// The outputs of [`alone`].
pub const FOREGROUND_SCORES: &str = "foreground_scores";
pub const BACKGROUND_SCORES: &str = "background_scores";

/// What matched pairs score by their foreground alone and by their background alone ([`Model::alone`]), `[1, N, M]` each.
pub fn alone(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let config = model.config();
    let weights = model.parameters().weights(&mut g)?;
    let text = TextInputs::declare(&mut g, capacity, config)?;
    let video = VideoInputs::declare(&mut g, capacity, config)?;
    let (texts, videos) = (model.text(&mut g, &weights, &text)?, model.video(&mut g, &weights, &video)?);
    let text_side = TextSide { inputs: &text, tensors: &texts };
    let video_side = VideoSide { inputs: &video, tensors: &videos };
    let [foreground, background] = model.alone(&mut g, &text_side, &video_side)?;
    g.output(FOREGROUND_SCORES, foreground);
    g.output(BACKGROUND_SCORES, background);
    Ok(g)
}

/// Encodes videos into the resident gallery: states `gallery.0`, `gallery.1`, … and `gallery.segments`.
pub fn fill_gallery(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let weights = model.parameters().weights(&mut g)?;
    let video = VideoInputs::declare(&mut g, capacity, model.config())?;
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
    let text = TextInputs::declare(&mut g, capacity, model.config())?;
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
    let video = VideoInputs::declare(&mut draft, capacity, model.config())?;
    let kept = model.video(&mut draft, &weights, &video)?;
    let tensors = kept.iter().enumerate().map(|(i, v)| g.state(format!("gallery.{i}"), draft.meta(*v))).collect();
    let segments = g.state("gallery.segments", draft.meta(video.segments));
    // Scores are made from what is kept; the raw frames are gone.
    Ok((tensors, VideoInputs { frames: Value::ABSENT, times: Value::ABSENT, segments, capacity }))
}

/// One text and one video: `scores [1, 1]` and what [`Model::evidence`] names.
pub fn evidence(model: &dyn Model, capacity: Capacity) -> Result<Graph> {
    let mut g = Graph::new();
    let config = model.config();
    let weights = model.parameters().weights(&mut g)?;
    let text = TextInputs::declare(&mut g, capacity, config)?;
    let video = VideoInputs::declare(&mut g, capacity, config)?;
    let text_tensors = model.text(&mut g, &weights, &text)?;
    let video_tensors = model.video(&mut g, &weights, &video)?;
    let text_side = TextSide { inputs: &text, tensors: &text_tensors };
    let video_side = VideoSide { inputs: &video, tensors: &video_tensors };
    let scores = model.scores(&mut g, &text_side, &video_side)?;
    g.output("scores", scores);
    for (name, value) in model.evidence(&mut g, &text_side, &video_side)? {
        g.output(name, value);
    }
    Ok(g)
}
