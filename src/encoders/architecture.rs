//! What a text encoder is to those who run it, and which one a checkpoint's configuration describes.

use super::bert::Bert;
use super::checkpoint::Checkpoint;
use super::clip::ClipText;
use super::layers::Outline;
use crate::engine::graph::{Graph, Value};
use crate::engine::parameters::{Parameters, Weights};
use crate::engine::tensor::{Axis, Dim, Meta};
use crate::error::{Error, Result};

/// Rows of pieces, special ones included. These axes and inputs go into one graph with those of an image tower or of a
/// model.
pub const PIECES: Axis = Axis(5);
pub const TEXTS: Axis = Axis(3);

/// Largest sizes that a configuration may claim: ten times those of the largest text encoders.
const MOST: usize = 1 << 22;
const MOST_LAYERS: usize = 256;

/// An architecture with its sizes.
pub trait TextArchitecture: Send + Sync {
    fn parameters(&self) -> &Parameters;
    fn outline(&self) -> Outline;
    /// What a larger model puts before this one's names.
    fn prefixes(&self) -> &'static [&'static str];
    /// Width of tokens and sentence vectors.
    fn dim(&self) -> usize;
    /// Pieces that it knows.
    fn vocabulary(&self) -> usize;
    /// Most pieces of a text, special ones included.
    fn longest(&self) -> usize;
    /// The row of the table of positions for the piece at this place of its text.
    fn place(&self, at: usize) -> u32;
    /// Which piece's output is the sentence vector, where it is one piece's.
    fn pooled(&self, ids: &[u32]) -> usize;
    /// Tokens `[ΣL, dim]` and sentence vectors `[N, dim]`.
    fn forward(&self, g: &mut Graph, w: &Weights, inputs: &TextInputs) -> Result<(Value, Value)>;
}

/// A batch of texts in a graph.
pub struct TextInputs {
    /// u32 `[ΣL]`: numbers of pieces.
    pub ids: Value,
    /// u32 `[ΣL]`: rows of the table of positions.
    pub places: Value,
    /// u32 `[N, 2]`
    pub segments: Value,
    /// u32 `[N]`: the row whose output is a text's sentence vector.
    pub pooled: Value,
}

impl TextInputs {
    pub fn declare(g: &mut Graph, texts: usize, pieces: usize) -> Result<TextInputs> {
        let (rows, texts) = (Dim::Ragged(PIECES, pieces), Dim::Ragged(TEXTS, texts));
        Ok(TextInputs {
            ids: g.input("ids", Meta::u32(&[rows])?),
            places: g.input("piece_places", Meta::u32(&[rows])?),
            segments: g.input("piece_segments", Meta::u32(&[texts, Dim::Fixed(2)])?),
            pooled: g.input("pooled", Meta::u32(&[texts])?),
        })
    }
}

/// The text encoder that a checkpoint's config.json describes.
///
/// # Errors
/// When it is of a kind that is not known, or its sizes are impossible.
pub fn text(checkpoint: &Checkpoint) -> Result<Box<dyn TextArchitecture>> {
    let kind = checkpoint.config.get("model_type").and_then(|k| k.as_str()).unwrap_or_default();
    match kind {
        "bert" | "roberta" | "xlm-roberta" => Ok(Box::new(Bert::new(checkpoint)?)),
        "clip" | "clip_text_model" => Ok(Box::new(ClipText::new(checkpoint)?)),
        other => {
            let what = format!("model_type is {other:?}, which is no text encoder that is known");
            let fix = "use a checkpoint of BERT, MiniLM, RoBERTa or CLIP";
            Err(Error::format(checkpoint.dir().join("config.json"), what, fix))
        }
    }
}

/// A checkpoint's configuration, or a part of it, read as `T`.
pub fn parsed<T: serde::de::DeserializeOwned>(checkpoint: &Checkpoint, config: &serde_json::Value) -> Result<T> {
    serde_json::from_value(config.clone()).map_err(|e| {
        let fix = "copy it again from where the checkpoint is from";
        Error::format(checkpoint.dir().join("config.json"), e.to_string(), fix)
    })
}

/// Refuses sizes that are 0 or beyond what any checkpoint has, and heads that do not divide the width.
pub fn sound(checkpoint: &Checkpoint, sizes: &[(&str, usize)], layers: usize, dim: usize, heads: usize) -> Result<()> {
    let bad = sizes.iter().copied().find(|(_, n)| !(1..=MOST).contains(n));
    let bad = bad.or((layers > MOST_LAYERS).then_some(("num_hidden_layers", layers)));
    let bad = bad.or((heads == 0 || !dim.is_multiple_of(heads)).then_some(("num_attention_heads", heads)));
    match bad {
        None => Ok(()),
        Some((key, n)) => {
            let what = format!("{key} is {n}, which cannot be");
            Err(Error::format(checkpoint.dir().join("config.json"), what, "copy it again"))
        }
    }
}
