//! BERT (Devlin et al. 2019), its small relatives (MiniLM) and RoBERTa (Liu et al. 2019): the encoder, without heads.
//!
//! ```text
//! x = norm(word + place + type),   then for each layer x = norm(x + attention(x)), x = norm(x + mlp(x))
//! ```
//! The sentence vector is what the checkpoint's pooling asks for (`1_Pooling/config.json` of sentence-transformers): the
//! mean of all outputs, or that of the first piece, which is also what a checkpoint without that file gets.

use super::architecture::{TextArchitecture, TextInputs, parsed, sound};
use super::checkpoint::Checkpoint;
use super::layers::{self, Names, Outline, Width};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::gather::Gather;
use crate::engine::op::norm::Unit;
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::op::reduce::BroadcastRows;
use crate::engine::op::segment::{SegmentKind, SegmentReduce};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::tensor::{Dim, Meta};
use crate::error::{Error, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    #[serde(default)]
    pad_token_id: usize,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

/// `1_Pooling/config.json` of sentence-transformers.
#[derive(Deserialize)]
struct PoolingFile {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

/// One of the steps in `modules.json` of sentence-transformers.
#[derive(Deserialize)]
struct Module {
    r#type: String,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Pooling {
    First,
    Mean,
}

pub struct Bert {
    width: Width,
    layers: usize,
    pooling: Pooling,
    /// Whether sentence vectors get length one.
    normalised: bool,
    /// The row of the table of positions that a text's first piece has.
    first_place: usize,
    vocabulary: usize,
    parameters: Parameters,
}

impl Bert {
    pub fn new(checkpoint: &Checkpoint) -> Result<Bert> {
        let c: Config = parsed(checkpoint, &checkpoint.config)?;
        let bad = |what: String| {
            let fix = "use another checkpoint: this form of BERT is not known";
            Err(Error::format(checkpoint.dir().join("config.json"), what, fix))
        };
        let sizes = [
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("intermediate_size", c.intermediate_size),
            ("max_position_embeddings", c.max_position_embeddings),
            ("type_vocab_size", c.type_vocab_size),
        ];
        sound(checkpoint, &sizes, c.num_hidden_layers, c.hidden_size, c.num_attention_heads)?;
        if let Some(kind) = c.position_embedding_type.filter(|kind| kind != "absolute") {
            return bad(format!("position_embedding_type is {kind:?}"));
        }
        // RoBERTa numbers places from behind its padding.
        let first_place = if c.model_type == "bert" { 0 } else { c.pad_token_id.saturating_add(1) };
        let Some(longest) = c.max_position_embeddings.checked_sub(first_place).filter(|n| *n > 2) else {
            return bad(format!("{} positions leave no room for a text", c.max_position_embeddings));
        };
        let (dim, heads, hidden) = (c.hidden_size, c.num_attention_heads, c.intermediate_size);
        let activation = layers::activation(&c.hidden_act)?;
        let width = Width { dim, heads, hidden, activation, eps: c.layer_norm_eps, causal: false, longest };
        let mut p = Parameters::default();
        for (table, rows) in
            [("word", c.vocab_size), ("position", c.max_position_embeddings), ("token_type", c.type_vocab_size)]
        {
            p.free(&format!("embeddings.{table}_embeddings.weight"), &[rows, dim], Init::Normal(0.02), true);
        }
        layers::declare_norm(&mut p, "embeddings.LayerNorm", dim);
        (0..c.num_hidden_layers).for_each(|i| layers::declare(&mut p, &names(i), &width));
        let pooling = match checkpoint.optional::<PoolingFile>("1_Pooling/config.json")? {
            Some(PoolingFile { pooling_mode_mean_tokens: true, .. }) => Pooling::Mean,
            Some(PoolingFile { pooling_mode_cls_token: true, .. }) | None => Pooling::First,
            Some(_) => return bad("its 1_Pooling/config.json asks for neither the mean nor the first token".into()),
        };
        let modules = checkpoint.optional::<Vec<Module>>("modules.json")?.unwrap_or_default();
        let normalised = modules.iter().any(|m| m.r#type.ends_with(".Normalize"));
        let (layers, vocabulary) = (c.num_hidden_layers, c.vocab_size);
        Ok(Bert { width, layers, pooling, normalised, first_place, vocabulary, parameters: p })
    }
}

fn names(i: usize) -> Names {
    let part = |name: &str| format!("encoder.layer.{i}.{name}");
    Names {
        query: part("attention.self.query"),
        key: part("attention.self.key"),
        value: part("attention.self.value"),
        out: part("attention.output.dense"),
        attention_norm: part("attention.output.LayerNorm"),
        up: part("intermediate.dense"),
        down: part("output.dense"),
        hidden_norm: part("output.LayerNorm"),
    }
}

impl TextArchitecture for Bert {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn outline(&self) -> Outline {
        Outline { layers: (0..self.layers).map(names).collect(), head: vec![] }
    }
    fn prefixes(&self) -> &'static [&'static str] {
        &["", "bert.", "roberta."]
    }
    fn dim(&self) -> usize {
        self.width.dim
    }
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
    fn longest(&self) -> usize {
        self.width.longest
    }
    fn place(&self, at: usize) -> u32 {
        (self.first_place + at) as u32
    }
    fn pooled(&self, _: &[u32]) -> usize {
        0
    }
    fn forward(&self, g: &mut Graph, w: &Weights, inputs: &TextInputs) -> Result<(Value, Value)> {
        let table = |name: &str| w.get(&format!("embeddings.{name}_embeddings.weight"));
        let words = g.apply(Gather, &[table("word")?, inputs.ids])?;
        let places = g.apply(Gather, &[table("position")?, inputs.places])?;
        let x = g.apply(Binary { kind: BinaryKind::Add }, &[words, places])?;
        // All pieces are of the first type: the second is for pairs of texts.
        let first = g.view(table("token_type")?, 0, Meta::f32(&[Dim::Fixed(self.width.dim)])?)?;
        let types = g.apply(BroadcastRows { rows: g.meta(x).dim(0) }, &[first])?;
        let x = g.apply(Binary { kind: BinaryKind::Add }, &[x, types])?;
        let mut x = layers::norm(g, w, "embeddings.LayerNorm", self.width.eps, x)?;
        for i in 0..self.layers {
            x = layers::norm_behind(g, w, &names(i), &self.width, x, inputs.segments)?;
        }
        let sentence = match self.pooling {
            Pooling::First => g.apply(Gather, &[x, inputs.pooled])?,
            Pooling::Mean => g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[x, inputs.segments])?,
        };
        let sentence = if self.normalised { g.apply(Unit, &[sentence])? } else { sentence };
        Ok((x, sentence))
    }
}
