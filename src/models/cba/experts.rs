//! Query-adaptive semantic routing: what the experts make of a frame token, and what the router needs to mix them.
//!
//! ```text
//! E_k(v) = v + (W_s + A_k B_k + diag s_k) v + b_k
//! ℓ_ijtk = g_k(√D q̂_i) + h_k(√D v̂_jt),   π = softmax_k ℓ,   r_ijt = Σ_k π_ijtk E_k(v_jt)
//! ```
//! Where a token keeps k experts of its own choice, they are those of the largest
//! `h_k(√D v̂_t) + (W waves(seconds_t))_k`, less its mean over the video; of h alone all frames of a video choose alike.
//!
//! Logits are sums, so that h, the experts and their Gram matrices are a video's own and g is a query's own; the
//! mixture itself is formed within `interact` and never stored. Sharing W_s with products of low rank is that of
//! adapters (Hu et al. 2021). No nonlinearity: an expert has to be able to take a factor away. B starts at zero.

use super::super::batch::WAVES;
use super::config::{Routing, RoutingMode, Sharing};
use super::{declare_linear, linear_onto, project, rounded, router_logits};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::experts::Expert;
use crate::engine::op::gram::Gram;
use crate::engine::op::grouped::GroupedLinear;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::norm::Unit;
use crate::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use crate::engine::op::route::Route;
use crate::engine::op::segment::{SegmentKind, SegmentReduce, SegmentSpread};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::tensor::Dim;
use crate::error::Result;

/// What routing adds to a video's frame tokens; absent where there is none.
pub struct Routed {
    pub experts: Value,
    pub router: Value,
    pub gram: Value,
    pub table: Value,
    pub delta: Value,
    pub logits: Value,
}

pub fn declare(p: &mut Parameters, routing: &Routing, positions: bool, dim: usize) {
    let (experts, rank, root) = (routing.experts, routing.rank, (dim as f32).sqrt());
    match routing.mode {
        RoutingMode::Off => return,
        RoutingMode::Dense => {
            let hidden = dense_width(routing, dim);
            p.linear("dense.in", hidden, dim);
            return declare_linear(p, "dense.out", dim, hidden, 0.3 / (hidden as f32).sqrt());
        }
        _ => {}
    }
    match routing.sharing {
        Sharing::LowRank => {
            p.free("experts.shared", &[dim, dim], Init::Normal(0.3 / root), true);
            p.free("experts.down", &[experts * rank, dim], Init::Constant(0.0), true);
            p.free("experts.up", &[experts * dim, rank], Init::Normal(1.0 / (rank as f32).sqrt()), true);
        }
        Sharing::Full => p.free("experts.whole", &[experts * dim, dim], Init::Normal(0.3 / root), true),
    }
    p.free("experts.diagonal", &[experts, dim], Init::Normal(0.5), false);
    // A diagonal takes a dimension away at −1, which AdamW's steps would take hundreds of to reach; experts that start
    // alike stay alike for as long.
    p.hasten("experts.diagonal", 5.0);
    p.free("experts.bias", &[experts, dim], Init::Constant(0.0), false);
    p.linear("router.text", experts, dim);
    p.linear("router.frame", experts, dim);
    p.hasten("router.", routing.pace);
    if timed(routing, positions) {
        // As much at first as a frame's own logits, which hardly change within a video.
        let deviation = 1.0 / (WAVES as f32).sqrt();
        p.free("router.time", &[experts, 2 * WAVES], Init::Normal(deviation), false);
    }
    if noisy(routing) {
        // softplus(−4) is about 0.02: hardly any noise before it is learned.
        p.free("router.noise.weight", &[experts, dim], Init::Constant(0.0), true);
        p.free("router.noise.bias", &[experts], Init::Constant(-4.0), false);
    }
}

/// Whether a frame's choice of experts depends on when it is seen.
fn timed(routing: &Routing, positions: bool) -> bool {
    routing.timed && positions && routing.mode == RoutingMode::TopkToken
}

/// Whether training adds noise to a frame's choice of experts (Shazeer et al. 2017, section 2.1).
pub fn noisy(routing: &Routing) -> bool {
    routing.noise && routing.mode == RoutingMode::TopkToken
}

/// Numbers that experts and router have.
fn parameters(routing: &Routing, dim: usize) -> usize {
    let each = 2 * dim * routing.rank + 2 * dim;
    dim * dim + routing.experts * each + 2 * routing.experts * (dim + 1)
}

/// Hidden width with which two matrices and their biases have as many numbers.
fn dense_width(routing: &Routing, dim: usize) -> usize {
    (parameters(routing, dim).saturating_sub(dim) / (2 * dim + 1)).max(1)
}

/// What the trunk made of frames.
pub struct Tokens {
    /// `[ΣT, D]`
    pub v: Value,
    /// Its rows with length one.
    pub unit: Value,
    /// `[ΣT, 2·WAVES]`, or absent.
    pub times: Value,
    /// u32 `[M, 2]`
    pub segments: Value,
    /// `[ΣT, K]` for the router's logits, or absent.
    pub noise: Value,
}

/// From the trunk's tokens to experts `[ΣT, k·D]` and what goes with them.
pub fn frames(g: &mut Graph, w: &Weights, routing: &Routing, tokens: &Tokens, rounds: bool) -> Result<Routed> {
    let Tokens { v, unit, times, segments, noise } = *tokens;
    let none = Value::ABSENT;
    let plain = |experts| Routed { experts, router: none, gram: none, table: none, delta: none, logits: none };
    match routing.mode {
        RoutingMode::Off => return Ok(plain(unit)),
        RoutingMode::Dense => {
            let hidden = project(g, w, "dense.in", v, rounds)?;
            let hidden = g.apply(Unary { kind: UnaryKind::GeluTanh }, &[hidden])?;
            let out = linear_onto(g, w, "dense.out", hidden, v)?;
            return Ok(plain(g.apply(Unit, &[out])?));
        }
        _ => {}
    }
    let dim = g.meta(v).dim(1).cap();
    let mut logits = router_logits(g, w, "router.frame", unit, dim)?;
    let token = routing.mode == RoutingMode::TopkToken;
    if timed(routing, !times.is_absent()) {
        let weight = w.get("router.time")?;
        logits = g.apply(LINEAR.clone(), &[times, weight, none, logits])?;
    }
    if token && routing.centre {
        logits = centred(g, logits, segments)?;
    }
    if !noise.is_absent() {
        let size = project(g, w, "router.noise", unit, false)?;
        let size = g.apply(Unary { kind: UnaryKind::Softplus }, &[size])?;
        let noise = g.apply(Binary { kind: BinaryKind::Mul }, &[size, noise])?;
        logits = g.apply(Binary { kind: BinaryKind::Add }, &[logits, noise])?;
    }
    let (slots, router, dispatch) = if token {
        let outs = g.apply_all(Route { slots: routing.slots }, &[logits])?;
        (routing.slots, outs[0], [outs[1], outs[2], outs[3]])
    } else {
        (routing.experts, logits, [none; 3])
    };
    let [table, order, offsets] = dispatch;
    let input = rounded(g, v, rounds)?;
    let group = |shared| GroupedLinear { experts: routing.experts, slots, shared };
    let (low, shared) = match routing.sharing {
        Sharing::LowRank => {
            let weights = ["experts.down", "experts.up", "experts.shared"].map(|name| w.get(name));
            let [down, up, shared] = weights;
            let (down, up, shared) =
                (rounded(g, down?, rounds)?, rounded(g, up?, rounds)?, rounded(g, shared?, rounds)?);
            let low = g.apply(group(true), &[input, down, order, offsets])?;
            let low = rounded(g, low, rounds)?;
            let low = g.apply(group(false), &[low, up, order, offsets])?;
            (low, g.apply(LINEAR.clone(), &[input, shared, none, none])?)
        }
        Sharing::Full => {
            let whole = w.get("experts.whole")?;
            let whole = rounded(g, whole, rounds)?;
            let rows = g.meta(v).dim(0);
            let low = g.apply(group(true), &[input, whole, order, offsets])?;
            (low, g.fill(0.0, &[rows, Dim::Fixed(dim)])?)
        }
    };
    let (diagonal, bias) = (w.get("experts.diagonal")?, w.get("experts.bias")?);
    let outs = g.apply_all(Expert, &[low, shared, v, diagonal, bias, table])?;
    let gram = g.apply(Gram { slots }, &[outs[0]])?;
    Ok(Routed { experts: outs[0], router, gram, table, delta: outs[1], logits })
}

/// Rows less the mean of their segment.
///
/// Of logits: what a video prefers as a whole is gone, and with it what made all frames choose alike. If all frames
/// kept the same experts, those would sum to more than any others in every frame, and over the frames to 0 like them:
/// only ties do that. So the frames share the experts among them, and what a query asks for is found in some of them.
fn centred(g: &mut Graph, x: Value, segments: Value) -> Result<Value> {
    let mean = g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[x, segments])?;
    let spread = SegmentSpread { kind: SegmentKind::Sum, tail: 0, rows: g.meta(x).dim(0) };
    let mean = g.apply(spread, &[mean, segments])?;
    g.apply(Binary { kind: BinaryKind::Sub }, &[x, mean])
}
