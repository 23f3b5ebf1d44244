//! One text with one video: from a block of dot products to the score and the gradient.
//!
//! The block has frames as rows and words as columns; the sentence vector is the column behind the text's words.
//! A vector that reaches past a text's words holds zeros there, which have weight 0.

use super::exp::{exp, exp_within};
use super::tiles::{GradientBuffers, PoolBuffers};
use super::{FLOOR, LANES};
use crate::engine::op::interact::EXCLUDED;
use pulp::Simd;
use std::ops::Range;

/// The dot products of one pair.
#[derive(Copy, Clone)]
pub struct Dots<'a> {
    /// From the first frame and the first word on.
    pub block: &'a [f32],
    pub stride: usize,
    pub words: usize,
    pub frames: usize,
    /// The column of the sentence vector.
    sentence: usize,
    /// Whether rows go on with zeros to a whole number of vectors.
    padded: bool,
}

impl<'a> Dots<'a> {
    pub fn new(block: &'a [f32], stride: usize, frames: Range<usize>, words: Range<usize>) -> Dots<'a> {
        let block = &block[frames.start * stride + words.start..];
        let words = words.len() - 1;
        Dots { block, stride, words, frames: frames.len(), sentence: words, padded: false }
    }
    /// Rows as [`super::route::Router::mix`] leaves them.
    pub fn padded(block: &'a [f32], stride: usize, words: usize, frames: usize) -> Dots<'a> {
        Dots { block, stride, words, frames, sentence: stride - LANES, padded: true }
    }
    #[inline(always)]
    fn sentence(&self, t: usize) -> f32 {
        self.block[t * self.stride + self.sentence]
    }
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, t: usize, k: usize) -> S::f32s {
        let begin = k * S::F32_LANES;
        if self.padded {
            return vectors::<S>(&self.block[t * self.stride + begin..][..S::F32_LANES])[0];
        }
        let row = &self.block[t * self.stride..][..self.words];
        match row.get(begin..begin + S::F32_LANES) {
            Some(whole) => vectors::<S>(whole)[0],
            // Not the neighbour's columns: a NaN there would get through a weight of 0.
            None => s.partial_load_f32s(row.get(begin..).unwrap_or(&[])),
        }
    }
}

/// `n` up to a whole number of vectors: the row length of the buffers of a pair.
#[inline(always)]
pub fn whole<S: Simd>(n: usize) -> usize {
    n.next_multiple_of(S::F32_LANES)
}

#[inline(always)]
fn vectors<S: Simd>(x: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(x).0
}
#[inline(always)]
fn vectors_mut<S: Simd>(x: &mut [f32]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(x).0
}

/// Both temperatures, inverted.
#[derive(Copy, Clone)]
pub struct Scales {
    pub tau: f32,
    pub relevance_tau: f32,
}

impl Scales {
    pub fn new(tau: f32, relevance_tau: f32) -> Scales {
        Scales { tau: 1.0 / tau, relevance_tau: 1.0 / relevance_tau }
    }
    /// Whether `exp((c − 1) / τ)` stays a normal number for every cosine.
    fn are_tame(&self) -> bool {
        2.0 * self.tau <= 80.0
    }
}

/// How far a cosine may leave [−1, 1] by rounding.
const SLACK: f32 = 1e-3;
/// ln of the smallest largest weight for which sums of `exp((c − 1)/τ)` times weights stay normal numbers.
const TAME_WEIGHT: f32 = 7.0;

/// Word weights of one text, padded. `log_weights` are the text's, or empty for uniform ones. Says whether there is
/// any word, and whether the weights allow the fast path.
#[inline(always)]
pub fn prepare_text<S: Simd>(s: S, words: usize, log_weights: &[f32], p: &mut PoolBuffers) -> Option<bool> {
    let log_omega = &mut p.log_omega[..whole::<S>(words)];
    if log_weights.is_empty() {
        log_omega.fill(-(words as f32).ln());
    } else {
        for (to, from) in log_omega.iter_mut().zip(log_weights) {
            *to = if *from <= EXCLUDED { FLOOR } else { *from };
        }
    }
    log_omega[words..].fill(FLOOR);
    let any = log_omega.iter().any(|w| *w > EXCLUDED || w.is_nan());
    let most = log_omega.iter().copied().fold(FLOOR, f32::max);
    for (omega, log_omega) in
        vectors_mut::<S>(&mut p.omega[..whole::<S>(words)]).iter_mut().zip(vectors::<S>(log_omega))
    {
        *omega = exp(s, *log_omega);
    }
    any.then_some(most.abs() <= TAME_WEIGHT)
}

/// ρ and ln ρ of a pair, padded; says whether any frame takes part.
#[inline(always)]
pub fn relevance<S: Simd>(s: S, dots: Dots, prior: [&[f32]; 2], scales: Scales, p: &mut PoolBuffers) -> bool {
    let frames = dots.frames;
    let (rho, log_rho) = (&mut p.rho[..whole::<S>(frames)], &mut p.log_rho[..whole::<S>(frames)]);
    log_rho[frames..].fill(FLOOR);
    let [bias, weights] = prior;
    let (mut max, mut any) = (FLOOR, false);
    for (t, z) in log_rho[..frames].iter_mut().enumerate() {
        let prior = bias.get(t).unwrap_or(&0.0) + weights.get(t).unwrap_or(&0.0);
        let out = prior <= EXCLUDED;
        *z = if out { FLOOR } else { dots.sentence(t) * scales.relevance_tau + prior };
        max = if *z > max { *z } else { max };
        any |= !out;
    }
    // Not by the maximum: a NaN must stay visible rather than pass for an empty video.
    if !any {
        return false;
    }
    let mut sum = s.splat_f32s(0.0);
    for (rho, z) in vectors_mut::<S>(rho).iter_mut().zip(vectors_mut::<S>(log_rho)) {
        *z = s.sub_f32s(*z, s.splat_f32s(max));
        *rho = exp(s, *z);
        sum = s.add_f32s(sum, *rho);
    }
    let sum = s.reduce_sum_f32s(sum);
    let (inverse, ln) = (s.splat_f32s(1.0 / sum), s.splat_f32s(sum.ln()));
    for (rho, z) in vectors_mut::<S>(rho).iter_mut().zip(vectors_mut::<S>(log_rho)) {
        *rho = s.mul_f32s(*rho, inverse);
        *z = s.sub_f32s(*z, ln);
    }
    true
}

/// The score of a pair whose text and relevance are prepared.
#[inline(always)]
pub fn score<S: Simd>(s: S, dots: Dots, scales: Scales, tame: bool, p: &mut PoolBuffers) -> f32 {
    let fast = if tame && scales.are_tame() { fast_score(s, dots, scales, p) } else { None };
    fast.unwrap_or_else(
        #[inline(always)]
        || general_score(s, dots, scales, p),
    )
}

/// One exponential per word and frame serves both directions: with `x = exp((c − 1)/τ)` the weights over frames are
/// `x ρ_t` and those over words `x ω_l`, both up to their sums. `None` if a value is no cosine.
#[inline(always)]
fn fast_score<S: Simd>(s: S, dots: Dots, scales: Scales, p: &mut PoolBuffers) -> Option<f32> {
    let frames = dots.frames;
    let rho = &p.rho[..frames];
    let omega = vectors::<S>(&p.omega[..whole::<S>(dots.words)]);
    let per_frame = &mut vectors_mut::<S>(p.sums)[..2 * frames];
    per_frame.fill(s.splat_f32s(0.0));
    let (scale, zero) = (s.splat_f32s(scales.tau), s.splat_f32s(0.0));
    let shift = s.splat_f32s(-scales.tau);
    let (mut t2v, mut bound) = (zero, zero);
    for (k, omega) in omega.iter().enumerate() {
        let (mut weights, mut values) = (zero, zero);
        for ((t, rho), per_frame) in rho.iter().enumerate().zip(per_frame.chunks_exact_mut(2)) {
            let c = dots.vector(s, t, k);
            bound = s.max_f32s(bound, s.abs_f32s(c));
            let x = exp_within(s, s.mul_add_e_f32s(c, scale, shift));
            let a = s.mul_f32s(x, s.splat_f32s(*rho));
            weights = s.add_f32s(weights, a);
            values = s.mul_add_e_f32s(a, c, values);
            let b = s.mul_f32s(x, *omega);
            per_frame[0] = s.add_f32s(per_frame[0], b);
            per_frame[1] = s.mul_add_e_f32s(b, c, per_frame[1]);
        }
        t2v = s.mul_add_e_f32s(*omega, s.div_f32s(values, weights), t2v);
    }
    if s.reduce_max_f32s(bound) > 1.0 + SLACK {
        return None;
    }
    let mut v2t = 0.0;
    for (rho, per_frame) in rho.iter().zip(per_frame.chunks_exact(2)) {
        v2t += rho * (s.reduce_sum_f32s(per_frame[1]) / s.reduce_sum_f32s(per_frame[0]));
    }
    Some(0.5 * (s.reduce_sum_f32s(t2v) + v2t))
}

/// Any temperature and any weights: exponentials of what lies below each row's maximum.
#[inline(always)]
fn general_score<S: Simd>(s: S, dots: Dots, scales: Scales, p: &mut PoolBuffers) -> f32 {
    let frames = dots.frames;
    let (rho, log_rho) = (&p.rho[..frames], &p.log_rho[..frames]);
    let omega = vectors::<S>(&p.omega[..whole::<S>(dots.words)]);
    let log_omega = vectors::<S>(&p.log_omega[..whole::<S>(dots.words)]);
    let mut t2v = s.splat_f32s(0.0);
    for (k, omega) in omega.iter().enumerate() {
        let max = most_over_frames(s, dots, k, scales, log_rho);
        let (mut weights, mut values) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
        for (t, log_rho) in log_rho.iter().enumerate() {
            let c = dots.vector(s, t, k);
            let a = exp(s, s.sub_f32s(logit(s, c, scales, s.splat_f32s(*log_rho)), max));
            weights = s.add_f32s(weights, a);
            values = s.mul_add_e_f32s(a, c, values);
        }
        t2v = s.mul_add_e_f32s(*omega, s.div_f32s(values, weights), t2v);
    }
    let mut v2t = 0.0;
    for (t, rho) in rho.iter().enumerate() {
        let max = most_over_words(s, dots, t, scales, log_omega);
        let (mut weights, mut values) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
        for (k, log_omega) in log_omega.iter().enumerate() {
            let c = dots.vector(s, t, k);
            let b = exp(s, s.sub_f32s(logit(s, c, scales, *log_omega), max));
            weights = s.add_f32s(weights, b);
            values = s.mul_add_e_f32s(b, c, values);
        }
        v2t += rho * (s.reduce_sum_f32s(values) / s.reduce_sum_f32s(weights));
    }
    0.5 * (s.reduce_sum_f32s(t2v) + v2t)
}

#[inline(always)]
fn logit<S: Simd>(s: S, c: S::f32s, scales: Scales, log_weight: S::f32s) -> S::f32s {
    s.mul_add_e_f32s(c, s.splat_f32s(scales.tau), log_weight)
}

#[inline(always)]
fn most_over_frames<S: Simd>(s: S, dots: Dots, k: usize, scales: Scales, log_rho: &[f32]) -> S::f32s {
    let mut max = s.splat_f32s(FLOOR);
    for (t, log_rho) in log_rho.iter().enumerate() {
        max = s.max_f32s(max, logit(s, dots.vector(s, t, k), scales, s.splat_f32s(*log_rho)));
    }
    max
}

#[inline(always)]
fn most_over_words<S: Simd>(s: S, dots: Dots, t: usize, scales: Scales, log_omega: &[S::f32s]) -> S::f32s {
    let mut max = s.splat_f32s(FLOOR);
    for (k, log_omega) in log_omega.iter().enumerate() {
        max = s.max_f32s(max, logit(s, dots.vector(s, t, k), scales, *log_omega));
    }
    s.splat_f32s(s.reduce_max_f32s(max))
}

/// Adds the gradient of one view of a prepared pair to `g`, `dsentence` and `domega`; `ds` is the gradient of the
/// score, `drho` that of the relevance (or empty).
///
/// With α and γ the two soft-maxes, `u_l = Σ_t α_lt c_lt`, `v_t = Σ_l γ_lt c_lt`, P = ω_l α_lt, Q = ρ_t γ_lt:
///
/// ```text
/// ∂S/∂c_lt   = ½ (P (1 + (c_lt − u_l)/τ) + Q (1 + (c_lt − v_t)/τ))
/// ∂S/∂ln ω_l = ½ (ω_l u_l + Σ_t Q (c_lt − v_t))
/// r_t = ∂S/∂ln ρ_t = ½ (Σ_l P (c_lt − u_l) + ρ_t v_t)
/// ∂S/∂β_t    = r_t − ρ_t Σ_s r_s,   ∂S/∂c_qt = ∂S/∂β_t / τ_ρ
/// ```
#[inline(always)]
pub fn add_gradient<S: Simd>(
    s: S,
    dots: Dots,
    scales: Scales,
    tame: bool,
    (ds, drho): (f32, &[f32]),
    p: &mut PoolBuffers,
    d: &mut GradientBuffers,
) {
    if !(tame && scales.are_tame() && fast_weights(s, dots, scales, p, d)) {
        general_weights(s, dots, scales, p, d);
    }
    take_sums(s, dots, p, d);
    let (frames, width) = (dots.frames, whole::<S>(dots.words));
    let per_row = width / S::F32_LANES;
    let half = s.splat_f32s(0.5 * ds);
    let scale = s.splat_f32s(scales.tau);
    let (u, a_scale) = (vectors::<S>(&d.u[..width]), vectors::<S>(&d.a_scale[..width]));
    let domega = vectors_mut::<S>(&mut d.domega[..width]);
    let mut total = 0.0;
    for t in 0..frames {
        let rows = t * width..(t + 1) * width;
        let (a, b) = (vectors::<S>(&d.a[rows.clone()]), vectors::<S>(&d.b[rows.clone()]));
        let g = vectors_mut::<S>(&mut d.g[rows]);
        let (v, b_scale) = (s.splat_f32s(d.v[t]), s.splat_f32s(d.b_scale[t]));
        let mut drho_here = s.splat_f32s(0.0);
        for k in 0..per_row {
            let c = dots.vector(s, t, k);
            let (from_u, from_v) = (s.sub_f32s(c, u[k]), s.sub_f32s(c, v));
            let (p, q) = (s.mul_f32s(a[k], a_scale[k]), s.mul_f32s(b[k], b_scale));
            let (p_away, q_away) = (s.mul_f32s(p, from_u), s.mul_f32s(q, from_v));
            let sum = s.mul_add_e_f32s(s.add_f32s(p_away, q_away), scale, s.add_f32s(p, q));
            g[k] = s.mul_add_e_f32s(half, sum, g[k]);
            drho_here = s.add_f32s(drho_here, p_away);
            domega[k] = s.mul_add_e_f32s(half, q_away, domega[k]);
        }
        let r = 0.5 * ds * (s.reduce_sum_f32s(drho_here) + p.rho[t] * d.v[t]);
        d.dlog_rho[t] = r + p.rho[t] * drho.get(t).unwrap_or(&0.0);
        total += d.dlog_rho[t];
    }
    let omega = vectors::<S>(&p.omega[..width]);
    for k in 0..per_row {
        domega[k] = s.mul_add_e_f32s(half, s.mul_f32s(omega[k], u[k]), domega[k]);
    }
    for t in 0..frames {
        d.dsentence[t] += (d.dlog_rho[t] - p.rho[t] * total) * scales.relevance_tau;
    }
}

/// Unnormalised weights `a` over frames and `b` over words, as in [`fast_score`]; says whether they hold.
#[inline(always)]
fn fast_weights<S: Simd>(s: S, dots: Dots, scales: Scales, p: &PoolBuffers, d: &mut GradientBuffers) -> bool {
    let width = whole::<S>(dots.words);
    let omega = vectors::<S>(&p.omega[..width]);
    let (scale, shift) = (s.splat_f32s(scales.tau), s.splat_f32s(-scales.tau));
    let mut bound = s.splat_f32s(0.0);
    for t in 0..dots.frames {
        let rows = t * width..(t + 1) * width;
        let (a, b) = (vectors_mut::<S>(&mut d.a[rows.clone()]), vectors_mut::<S>(&mut d.b[rows]));
        let rho = s.splat_f32s(p.rho[t]);
        for k in 0..omega.len() {
            let c = dots.vector(s, t, k);
            bound = s.max_f32s(bound, s.abs_f32s(c));
            let x = exp_within(s, s.mul_add_e_f32s(c, scale, shift));
            a[k] = s.mul_f32s(x, rho);
            b[k] = s.mul_f32s(x, omega[k]);
        }
    }
    s.reduce_max_f32s(bound) <= 1.0 + SLACK
}

/// The same weights for any temperature, each below its row's maximum.
#[inline(always)]
fn general_weights<S: Simd>(s: S, dots: Dots, scales: Scales, p: &PoolBuffers, d: &mut GradientBuffers) {
    let width = whole::<S>(dots.words);
    let log_omega = vectors::<S>(&p.log_omega[..width]);
    let log_rho = &p.log_rho[..dots.frames];
    for k in 0..log_omega.len() {
        let max = most_over_frames(s, dots, k, scales, log_rho);
        for (t, log_rho) in log_rho.iter().enumerate() {
            let logit = logit(s, dots.vector(s, t, k), scales, s.splat_f32s(*log_rho));
            vectors_mut::<S>(&mut d.a[t * width..(t + 1) * width])[k] = exp(s, s.sub_f32s(logit, max));
        }
    }
    for t in 0..dots.frames {
        let max = most_over_words(s, dots, t, scales, log_omega);
        let b = vectors_mut::<S>(&mut d.b[t * width..(t + 1) * width]);
        for k in 0..log_omega.len() {
            b[k] = exp(s, s.sub_f32s(logit(s, dots.vector(s, t, k), scales, log_omega[k]), max));
        }
    }
}

/// `u`, `v`, and what turns `a` into ω α and `b` into ρ γ.
#[inline(always)]
fn take_sums<S: Simd>(s: S, dots: Dots, p: &PoolBuffers, d: &mut GradientBuffers) {
    let width = whole::<S>(dots.words);
    let omega = vectors::<S>(&p.omega[..width]);
    let (u, a_scale) = (vectors_mut::<S>(&mut d.u[..width]), vectors_mut::<S>(&mut d.a_scale[..width]));
    u.fill(s.splat_f32s(0.0));
    a_scale.fill(s.splat_f32s(0.0));
    for t in 0..dots.frames {
        let rows = t * width..(t + 1) * width;
        let (a, b) = (vectors::<S>(&d.a[rows.clone()]), vectors::<S>(&d.b[rows]));
        let (mut weights, mut values) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
        for k in 0..omega.len() {
            let c = dots.vector(s, t, k);
            a_scale[k] = s.add_f32s(a_scale[k], a[k]);
            u[k] = s.mul_add_e_f32s(a[k], c, u[k]);
            weights = s.add_f32s(weights, b[k]);
            values = s.mul_add_e_f32s(b[k], c, values);
        }
        let weights = s.reduce_sum_f32s(weights);
        d.v[t] = s.reduce_sum_f32s(values) / weights;
        d.b_scale[t] = p.rho[t] / weights;
    }
    for k in 0..omega.len() {
        u[k] = s.div_f32s(u[k], a_scale[k]);
        a_scale[k] = s.div_f32s(omega[k], a_scale[k]);
    }
}

const _: () = assert!(LANES == 16, "a vector has at most 16 lanes");
