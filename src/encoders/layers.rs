//! Layers of a transformer (Vaswani et al. 2017, section 3) over packed sequences, under whatever names a checkpoint
//! has for their tensors. Rows are `[ΣL, D]`, segments u32 `[N, 2]`: where each sequence begins and ends.

use crate::engine::graph::{Graph, Value};
use crate::engine::op::attention::Attention;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::norm::LayerNorm;
use crate::engine::op::pointwise::{Unary, UnaryKind};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::error::{Error, Result};

/// What all layers of an encoder have in common.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Width {
    pub dim: usize,
    pub heads: usize,
    /// Width between the two matrices of a layer's second half.
    pub hidden: usize,
    pub activation: UnaryKind,
    /// What is added to a variance before its root is taken.
    pub eps: f32,
    /// Whether a token sees those before it alone.
    pub causal: bool,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

/// The names of a layer's parts; each has a `.weight` and a `.bias`.
pub struct Names {
    pub query: String,
    pub key: String,
    pub value: String,
    pub out: String,
    /// The norm that belongs to attention.
    pub attention_norm: String,
    pub up: String,
    pub down: String,
    /// The norm that belongs to the second half.
    pub hidden_norm: String,
}

impl Names {
    /// All parts, in the order in which they are declared.
    pub fn all(&self) -> [&str; 8] {
        [&self.query, &self.key, &self.value, &self.out, &self.up, &self.down, &self.attention_norm, &self.hidden_norm]
    }
}

/// Where the layers of an encoder are, the first one first, and what comes behind the last.
pub struct Outline {
    pub layers: Vec<Names>,
    /// Parts with a `.weight`, and perhaps a `.bias`.
    pub head: Vec<&'static str>,
}

pub fn declare(p: &mut Parameters, n: &Names, w: &Width) {
    for part in [&n.query, &n.key, &n.value, &n.out] {
        p.linear(part, w.dim, w.dim);
    }
    p.linear(&n.up, w.hidden, w.dim);
    p.linear(&n.down, w.dim, w.hidden);
    declare_norm(p, &n.attention_norm, w.dim);
    declare_norm(p, &n.hidden_norm, w.dim);
}

pub fn declare_norm(p: &mut Parameters, name: &str, dim: usize) {
    p.free(&format!("{name}.weight"), &[dim], Init::Constant(1.0), false);
    p.free(&format!("{name}.bias"), &[dim], Init::Constant(0.0), false);
}

/// `norm(x + attention(x))`, then `norm(x + mlp(x))`: the order of the paper, and of BERT.
pub fn norm_behind(g: &mut Graph, w: &Weights, n: &Names, width: &Width, x: Value, segments: Value) -> Result<Value> {
    let begin = g.nodes.len();
    let x = attend(g, w, n, width, [x, x], segments)?;
    let x = norm(g, w, &n.attention_norm, width.eps, x)?;
    let x = mlp(g, w, n, width, [x, x])?;
    let x = norm(g, w, &n.hidden_norm, width.eps, x)?;
    g.stretch(begin);
    Ok(x)
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`: the order of GPT-2 and CLIP.
pub fn norm_before(g: &mut Graph, w: &Weights, n: &Names, width: &Width, x: Value, segments: Value) -> Result<Value> {
    let begin = g.nodes.len();
    let y = norm(g, w, &n.attention_norm, width.eps, x)?;
    let x = attend(g, w, n, width, [y, x], segments)?;
    let y = norm(g, w, &n.hidden_norm, width.eps, x)?;
    let x = mlp(g, w, n, width, [y, x])?;
    g.stretch(begin);
    Ok(x)
}

/// `onto + W_o attention(W_q x, W_k x, W_v x)`
fn attend(
    g: &mut Graph,
    w: &Weights,
    n: &Names,
    width: &Width,
    [x, onto]: [Value; 2],
    segments: Value,
) -> Result<Value> {
    let query = linear(g, w, &n.query, x, Value::ABSENT)?;
    let key = linear(g, w, &n.key, x, Value::ABSENT)?;
    let value = linear(g, w, &n.value, x, Value::ABSENT)?;
    let Width { heads, longest, causal, .. } = *width;
    let op = Attention { heads, max_queries: longest, max_keys: longest, causal };
    let attended = g.apply(op, &[query, key, value, segments, segments, Value::ABSENT])?;
    linear(g, w, &n.out, attended, onto)
}

/// `onto + W_2 f(W_1 x)`
fn mlp(g: &mut Graph, w: &Weights, n: &Names, width: &Width, [x, onto]: [Value; 2]) -> Result<Value> {
    let hidden = linear(g, w, &n.up, x, Value::ABSENT)?;
    let hidden = g.apply(Unary { kind: width.activation }, &[hidden])?;
    linear(g, w, &n.down, hidden, onto)
}

/// `x Wᵀ + b`, and what it is added to.
pub fn linear(g: &mut Graph, w: &Weights, name: &str, x: Value, onto: Value) -> Result<Value> {
    let (weight, bias) = (w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?);
    g.apply(LINEAR.clone(), &[x, weight, bias, onto])
}

pub fn norm(g: &mut Graph, w: &Weights, name: &str, eps: f32, x: Value) -> Result<Value> {
    let (gain, bias) = (w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?);
    g.apply(LayerNorm { eps }, &[x, gain, bias])
}

/// An activation by the name that configurations have for it.
pub fn activation(name: &str) -> Result<UnaryKind> {
    match name {
        "gelu" => Ok(UnaryKind::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(UnaryKind::GeluTanh),
        "quick_gelu" => Ok(UnaryKind::QuickGelu),
        "relu" => Ok(UnaryKind::Relu),
        other => {
            let fix = "use a checkpoint with gelu, gelu_new, gelu_pytorch_tanh, quick_gelu or relu";
            Err(Error::config("hidden_act", format!("{other:?} is not known"), fix))
        }
    }
}
