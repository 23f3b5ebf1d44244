//! The trunk: frame tokens learn of motion, of time and of each other before they are routed.
//!
//! ```text
//! u = v⁰ + W_m [taps ∗ v⁰ ; difference ∗ v⁰]       motion channel, both convolutions depthwise and learned
//! v = u + Enc(u + W_p waves(seconds))              pre-norm transformer within each video
//! ```
//! The residual around the encoder is that of CLIP4Clip's `seqTransf` (Luo et al. 2021, section 3.3); the second
//! convolution begins as the difference to the frame before: frozen features of single frames carry no motion.

use super::super::batch::WAVES;
use super::config::Trunk;
use super::{Seen, declare_linear, linear_onto, project};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::attention::Attention;
use crate::engine::op::conv::Conv;
use crate::engine::op::norm::LAYER_NORM;
use crate::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use crate::engine::op::segment::{SegmentKind, SegmentReduce, SegmentSpread};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::error::Result;

pub fn declare(p: &mut Parameters, trunk: &Trunk, dim: usize) {
    let root = (dim as f32).sqrt();
    if trunk.positions {
        // Half as long as the tokens they are added to, which are of unit variance where they are standardised.
        let deviation = if trunk.standardise { 0.8 } else { 0.1 } / (2.0 * WAVES as f32).sqrt();
        declare_linear(p, "word_place", dim, 2 * WAVES, deviation);
        declare_linear(p, "frame_time", dim, 2 * WAVES, deviation);
    }
    if trunk.mixing {
        p.linear("mixing.word", dim, dim);
        p.linear("mixing.sentence", dim, dim);
        declare_linear(p, "mixing.out", dim, dim, 0.3 / root);
    }
    if trunk.motion > 0 {
        p.free("motion.taps", &[trunk.motion, dim], Init::Normal(1.0 / (trunk.motion as f32).sqrt()), false);
        p.free("motion.difference", &[trunk.motion, dim], Init::Difference, false);
        declare_linear(p, "motion.from_taps", dim, dim, 0.3 / root);
        declare_linear(p, "motion.from_difference", dim, dim, 0.3 / root);
    }
    let hidden = trunk.expansion * dim;
    // Every layer adds twice to the rows; their variance shall not grow with the depth.
    let shrink = 1.0 / (2.0 * trunk.layers.max(1) as f32).sqrt();
    for layer in 0..trunk.layers {
        let name = |part: &str| format!("trunk.{layer}.{part}");
        for norm in ["attention.norm", "hidden.norm"] {
            p.free(&format!("{}.gain", name(norm)), &[dim], Init::Constant(1.0), false);
            p.free(&format!("{}.bias", name(norm)), &[dim], Init::Constant(0.0), false);
        }
        for part in ["attention.query", "attention.key", "attention.value"] {
            p.linear(&name(part), dim, dim);
        }
        declare_linear(p, &name("attention.out"), dim, dim, shrink / root);
        p.linear(&name("hidden.in"), hidden, dim);
        declare_linear(p, &name("hidden.out"), dim, hidden, shrink / (hidden as f32).sqrt());
    }
}

/// `w + W_o gelu(W_w w + W_q q)`: words `[ΣL, D]` that know their sentence, which is the last row of each text.
pub fn mixed(g: &mut Graph, w: &Weights, words: Value, segments: Value) -> Result<Value> {
    let rows = g.meta(words).dim(0);
    let sentence = g.apply(SegmentReduce { kind: SegmentKind::Last, tail: 0 }, &[words, segments])?;
    let sentence = project(g, w, "mixing.sentence", sentence, false)?;
    let everywhere = g.apply(SegmentSpread { kind: SegmentKind::Sum, tail: 0, rows }, &[sentence, segments])?;
    let hidden = linear_onto(g, w, "mixing.word", words, everywhere)?;
    let hidden = g.apply(Unary { kind: UnaryKind::GeluTanh }, &[hidden])?;
    linear_onto(g, w, "mixing.out", hidden, words)
}

/// Frame tokens `[ΣT, D]` from projected frames.
pub fn frames(g: &mut Graph, w: &Weights, trunk: &Trunk, seen: Seen) -> Result<Value> {
    let mut u = seen.joint;
    if trunk.motion > 0 {
        for part in ["taps", "difference"] {
            let taps = w.get(&format!("motion.{part}"))?;
            let convolved = g.apply(Conv, &[seen.joint, taps, Value::ABSENT, seen.segments])?;
            u = linear_onto(g, w, &format!("motion.from_{part}"), convolved, u)?;
        }
    }
    let mut x = if seen.times.is_absent() { u } else { linear_onto(g, w, "frame_time", seen.times, u)? };
    if trunk.layers == 0 {
        return Ok(x);
    }
    for layer in 0..trunk.layers {
        x = attend(g, w, trunk, &format!("trunk.{layer}"), x, seen)?;
        let y = norm(g, w, &format!("trunk.{layer}.hidden.norm"), x)?;
        let hidden = project(g, w, &format!("trunk.{layer}.hidden.in"), y, false)?;
        let hidden = g.apply(Unary { kind: UnaryKind::GeluTanh }, &[hidden])?;
        x = linear_onto(g, w, &format!("trunk.{layer}.hidden.out"), hidden, x)?;
    }
    g.apply(Binary { kind: BinaryKind::Add }, &[u, x])
}

/// `x + W_o attention(norm(x))` within each video.
fn attend(g: &mut Graph, w: &Weights, trunk: &Trunk, name: &str, x: Value, seen: Seen) -> Result<Value> {
    let y = norm(g, w, &format!("{name}.attention.norm"), x)?;
    let mut parts = [Value::ABSENT; 3];
    for (value, part) in parts.iter_mut().zip(["query", "key", "value"]) {
        *value = project(g, w, &format!("{name}.attention.{part}"), y, false)?;
    }
    let op = Attention { heads: trunk.heads, max_queries: seen.longest, max_keys: seen.longest, causal: false };
    let [query, key, value] = parts;
    let seen_by_all = g.apply(op, &[query, key, value, seen.segments, seen.segments, Value::ABSENT])?;
    linear_onto(g, w, &format!("{name}.attention.out"), seen_by_all, x)
}

fn norm(g: &mut Graph, w: &Weights, name: &str, x: Value) -> Result<Value> {
    let (gain, bias) = (w.get(&format!("{name}.gain"))?, w.get(&format!("{name}.bias"))?);
    g.apply(LAYER_NORM.clone(), &[x, gain, bias])
}
