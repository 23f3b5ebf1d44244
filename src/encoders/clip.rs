//! The text tower of CLIP (Radford et al. 2021, section 2.4): GPT-2 over byte pairs, of which each sees those before it.
//!
//! ```text
//! x = word + place,   then for each layer x = x + attention(norm(x)), x = x + mlp(norm(x));   tokens = P norm(x)
//! ```
//! The sentence vector is the token of the end of the text. All tokens are projected, so that words lie in the space in
//! which sentences and images meet.

use super::architecture::{TextArchitecture, TextInputs, parsed, sound};
use super::checkpoint::Checkpoint;
use super::layers::{self, Names, Outline, Width};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::gather::Gather;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::error::Result;
use serde::Deserialize;

/// What config.json leaves out is as in the first CLIP, ViT-B/32.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    projection_dim: usize,
    layer_norm_eps: f32,
    eos_token_id: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            vocab_size: 49_408,
            hidden_size: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            intermediate_size: 2048,
            hidden_act: "quick_gelu".into(),
            max_position_embeddings: 77,
            projection_dim: 512,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

/// The number that configurations of the first CLIP have by mistake; there the end of a text has the largest number.
const MISTAKEN_END: u32 = 2;

pub struct ClipText {
    width: Width,
    layers: usize,
    projection: usize,
    end: u32,
    vocabulary: usize,
    parameters: Parameters,
}

impl ClipText {
    pub fn new(checkpoint: &Checkpoint) -> Result<ClipText> {
        let whole = &checkpoint.config;
        let mut c: Config = parsed(checkpoint, whole.get("text_config").unwrap_or(whole))?;
        if let Some(n) = whole.get("projection_dim").and_then(serde_json::Value::as_u64) {
            c.projection_dim = n as usize;
        }
        let sizes = [
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("intermediate_size", c.intermediate_size),
            ("max_position_embeddings", c.max_position_embeddings),
            ("projection_dim", c.projection_dim),
        ];
        sound(checkpoint, &sizes, c.num_hidden_layers, c.hidden_size, c.num_attention_heads)?;
        let (dim, heads, hidden, longest) =
            (c.hidden_size, c.num_attention_heads, c.intermediate_size, c.max_position_embeddings);
        let activation = layers::activation(&c.hidden_act)?;
        let width = Width { dim, heads, hidden, activation, eps: c.layer_norm_eps, causal: true, longest };
        let mut p = Parameters::default();
        for (table, rows) in [("token", c.vocab_size), ("position", longest)] {
            p.free(&format!("text_model.embeddings.{table}_embedding.weight"), &[rows, dim], Init::Normal(0.02), true);
        }
        (0..c.num_hidden_layers).for_each(|i| layers::declare(&mut p, &names("text_model", i), &width));
        layers::declare_norm(&mut p, "text_model.final_layer_norm", dim);
        p.free("text_projection.weight", &[c.projection_dim, dim], Init::Normal((dim as f32).sqrt().recip()), true);
        let (layers, projection, end, vocabulary) =
            (c.num_hidden_layers, c.projection_dim, c.eos_token_id, c.vocab_size);
        Ok(ClipText { width, layers, projection, end, vocabulary, parameters: p })
    }
}

/// The parts of a layer of one of the towers.
pub(super) fn names(tower: &str, i: usize) -> Names {
    let part = |name: &str| format!("{tower}.encoder.layers.{i}.{name}");
    Names {
        query: part("self_attn.q_proj"),
        key: part("self_attn.k_proj"),
        value: part("self_attn.v_proj"),
        out: part("self_attn.out_proj"),
        attention_norm: part("layer_norm1"),
        up: part("mlp.fc1"),
        down: part("mlp.fc2"),
        hidden_norm: part("layer_norm2"),
    }
}

impl TextArchitecture for ClipText {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn outline(&self) -> Outline {
        let layers = (0..self.layers).map(|i| names("text_model", i)).collect();
        Outline { layers, head: vec!["text_model.final_layer_norm", "text_projection"] }
    }
    fn prefixes(&self) -> &'static [&'static str] {
        &[""]
    }
    fn dim(&self) -> usize {
        self.projection
    }
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
    fn longest(&self) -> usize {
        self.width.longest
    }
    fn place(&self, at: usize) -> u32 {
        at as u32
    }
    fn pooled(&self, ids: &[u32]) -> usize {
        let end = if self.end == MISTAKEN_END { ids.iter().copied().max().unwrap_or(0) } else { self.end };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }
    fn forward(&self, g: &mut Graph, w: &Weights, inputs: &TextInputs) -> Result<(Value, Value)> {
        let words = g.apply(Gather, &[w.get("text_model.embeddings.token_embedding.weight")?, inputs.ids])?;
        let places = g.apply(Gather, &[w.get("text_model.embeddings.position_embedding.weight")?, inputs.places])?;
        let mut x = g.apply(Binary { kind: BinaryKind::Add }, &[words, places])?;
        for i in 0..self.layers {
            x = layers::norm_before(g, w, &names("text_model", i), &self.width, x, inputs.segments)?;
        }
        let x = layers::norm(g, w, "text_model.final_layer_norm", self.width.eps, x)?;
        let projection = w.get("text_projection.weight")?;
        let tokens = g.apply(LINEAR.clone(), &[x, projection, Value::ABSENT, Value::ABSENT])?;
        Ok((tokens, g.apply(Gather, &[tokens, inputs.pooled])?))
    }
}
