//! A router's gates: every text mixes the experts of every frame anew.
//!
//! # Notebook
//! The products give `x_lts = ⟨w_l, E_ts⟩`, k rows a frame. What is pooled is `c_lt = Σ_s p_s x_lts` with
//! `p_s = π_s / √(πᵀ G π)`, one pass over the block; gates are k exponentials a text and frame, beside the L of pooling
//! the least of it. They are taken for all frames of a tile at once, frames running along vectors:
//!
//! ```text
//!              frames of a tile ->
//!   h  slot 0  . . . . . . . .     G  (0,0)  . . . . . . . .      loaded once a tile, transposed
//!      slot 1  . . . . . . . .        (0,1)  . . . . . . . .
//!   π  slot 0  . . . . . . . .        ...                         taken for each text
//! ```
//!
//! Floor: the tile's own: k rows for one of a frame without a router, so that the products are k times as many and
//! pooling is not.
//!
//! `moviola bench scoring --texts 400 --videos 400`, 32 words, 12 frames, D 512, two cores of an EPYC with AVX-512 that
//! five others shared, November 2026: 1.08 times its products with four experts, 1.08 times without a router.
//!
//! Learnt: a text of four words fills a quarter of a vector, and what is done once for each of its rows is what it costs.
//! `lanes::dot`, which folds its lanes in memory, and loops over five numbers were a quarter of a step of 128 pairs, 12
//! frames, D 128, four experts; with whole vectors for rows of any length the step takes 128 ms of one core for 176.
//! Half of that is matrix products at the speed of large ones.
//!
//! The gradient of a logit is `π_s (dπ_s − Σ π dπ)`, and the sum is 0: a cosine does not change when all gates grow
//! alike.

use super::super::lanes::{exp, sum};
use super::pool::Dots;
use super::{FLOOR, LANES, Shape};
use crate::engine::op::interact::{EXCLUDED, LEAST_NORM};
use pulp::Simd;
use std::ops::Range;

/// The operands of a router; without one, one slot and no expert.
#[derive(Copy, Clone)]
pub struct Router<'a> {
    texts: &'a [f32],
    frames: &'a [f32],
    /// Expert numbers of the slots; empty where slot s holds expert s.
    table: &'a [u32],
    gram: &'a [f32],
    pub experts: usize,
    pub slots: usize,
    kept: usize,
}

/// A thread's buffers for the frames of a tile: `[slots, columns]`, `[slots², columns]` or `[columns]`.
pub struct GateBuffers<'a> {
    pub columns: usize,
    /// h of the frames.
    pub logits: &'a mut [f32],
    /// The slots' experts.
    pub experts: &'a mut [u32],
    pub gram: &'a mut [f32],
    /// Of the text in hand: π, π / |r|, and 1 / |r|, which is 0 where r has no direction.
    pub pi: &'a mut [f32],
    pub weights: &'a mut [f32],
    pub scale: &'a mut [f32],
    pub spare: [&'a mut [f32]; 2],
    /// `Σ_l dc_lt x_lts`; empty where no gradient is taken.
    pub y: &'a mut [f32],
}

/// What a tile adds to the gradient of its frames' gates, laid out as in [`GateBuffers`].
pub struct GateGradients<'a> {
    pub bias: &'a mut [f32],
    pub logits: &'a mut [f32],
    pub gram: &'a mut [f32],
    /// `[rows of words, experts]`: a text's gradient stands at its first row.
    pub texts: &'a mut [f32],
}

impl GateGradients<'_> {
    pub fn clear(&mut self) {
        let GateGradients { bias, logits, gram, texts } = self;
        [bias, logits, gram, texts].into_iter().for_each(|x| x.fill(0.0));
    }
}

impl<'a> Router<'a> {
    pub fn new(shape: &Shape, [texts, frames, gram]: [&'a [f32]; 3], table: &'a [u32]) -> Router<'a> {
        let kept = if shape.kept == 0 { shape.slots } else { shape.kept };
        Router { texts, frames, table, gram, experts: shape.experts, slots: shape.slots, kept }
    }
    pub fn is_there(&self) -> bool {
        self.experts > 0
    }

    /// Takes what is known of these rows of frames into the columns from `at` on.
    pub fn load(&self, rows: Range<usize>, at: usize, b: &mut GateBuffers) {
        let (k, columns) = (self.slots, b.columns);
        for (column, row) in (at..columns).zip(rows) {
            let slots = row * k..(row + 1) * k;
            for (s, h) in self.frames.get(slots.clone()).unwrap_or(&[]).iter().enumerate() {
                b.logits[s * columns + column] = *h;
            }
            for (s, expert) in self.table.get(slots).unwrap_or(&[]).iter().enumerate() {
                b.experts[s * columns + column] = *expert;
            }
            for (i, product) in self.gram.get(row * k * k..(row + 1) * k * k).unwrap_or(&[]).iter().enumerate() {
                b.gram[i * columns + column] = *product;
            }
        }
    }

    /// How a text mixes the first `count` frames of the tile.
    #[inline(always)]
    pub fn gates(&self, text: usize, count: usize, b: &mut GateBuffers) {
        self.take_logits(text, count, b);
        if self.kept < self.slots {
            self.keep_largest(count, b);
        }
        let columns = b.columns;
        let [most, total] = b.spare.each_mut().map(|x| &mut x[..count]);
        most.fill(FLOOR);
        total.fill(0.0);
        for logits in b.pi.chunks_exact(columns).take(self.slots) {
            for (most, logit) in most.iter_mut().zip(logits) {
                *most = if *logit > *most { *logit } else { *most };
            }
        }
        for pi in b.pi.chunks_exact_mut(columns).take(self.slots) {
            for ((pi, most), total) in pi.iter_mut().zip(&*most).zip(&mut *total) {
                let gate = exp(*pi - *most);
                *pi = if *pi <= EXCLUDED { 0.0 } else { gate };
                *total += *pi;
            }
        }
        // Where no slot takes part all gates stay 0.
        total.iter_mut().for_each(|x| *x = if *x == 0.0 { 0.0 } else { 1.0 / *x });
        for pi in b.pi.chunks_exact_mut(columns).take(self.slots) {
            pi.iter_mut().zip(&*total).for_each(|(pi, inverse)| *pi *= inverse);
        }
        self.take_scale(count, b);
    }

    #[inline(always)]
    fn take_logits(&self, text: usize, count: usize, b: &mut GateBuffers) {
        let columns = b.columns;
        let of_text = self.texts.get(text * self.experts..(text + 1) * self.experts).unwrap_or(&[]);
        for s in 0..self.slots {
            let logits = &mut b.pi[s * columns..][..count];
            let of_frames = &b.logits[s * columns..][..count];
            if self.table.is_empty() {
                let g = of_text.get(s).copied().unwrap_or(FLOOR);
                logits.iter_mut().zip(of_frames).for_each(|(z, h)| *z = g + h);
            } else {
                for ((z, h), expert) in logits.iter_mut().zip(of_frames).zip(&b.experts[s * columns..]) {
                    *z = of_text.get(*expert as usize).map_or(FLOOR, |g| g + h);
                }
            }
            logits.iter_mut().for_each(|z| *z = if *z <= EXCLUDED { FLOOR } else { *z });
        }
    }

    /// Leaves each frame its `kept` largest logits, of equal ones those of the lower slots. A NaN stays.
    #[inline(always)]
    fn keep_largest(&self, count: usize, b: &mut GateBuffers) {
        let columns = b.columns;
        let [rank, _] = &mut b.spare;
        let rank = &mut rank[..count];
        for s in 0..self.slots {
            rank.fill(0.0);
            let mine = &b.pi[s * columns..][..count];
            for other in 0..self.slots {
                let others = &b.pi[other * columns..][..count];
                for ((rank, mine), other_one) in rank.iter_mut().zip(mine).zip(others) {
                    let ahead = *other_one > *mine || (other < s && *other_one == *mine);
                    *rank += if ahead { 1.0 } else { 0.0 };
                }
            }
            let survivors = &mut b.weights[s * columns..][..count];
            for ((survivor, mine), rank) in survivors.iter_mut().zip(mine).zip(&*rank) {
                *survivor = if *rank >= self.kept as f32 { FLOOR } else { *mine };
            }
        }
        for s in 0..self.slots {
            b.pi[s * columns..][..count].copy_from_slice(&b.weights[s * columns..][..count]);
        }
    }

    /// `(G π)_s` of all frames.
    #[inline(always)]
    fn toward(&self, s: usize, gram: &[f32], pi: &[f32], columns: usize, out: &mut [f32]) {
        out.fill(0.0);
        for other in 0..self.slots {
            let (gram, pi) = (&gram[(s * self.slots + other) * columns..], &pi[other * columns..]);
            for ((out, g), pi) in out.iter_mut().zip(gram).zip(pi) {
                *out = g.mul_add(*pi, *out);
            }
        }
    }

    #[inline(always)]
    fn take_scale(&self, count: usize, b: &mut GateBuffers) {
        let columns = b.columns;
        let scale = &mut b.scale[..count];
        let [toward, _] = &mut b.spare;
        let toward = &mut toward[..count];
        scale.fill(0.0);
        for s in 0..self.slots {
            self.toward(s, b.gram, b.pi, columns, toward);
            for ((n, pi), toward) in scale.iter_mut().zip(&b.pi[s * columns..]).zip(&*toward) {
                *n = pi.mul_add(*toward, *n);
            }
        }
        // A NaN is not below anything: it stays visible.
        scale.iter_mut().for_each(|n| *n = if *n <= LEAST_NORM { 0.0 } else { 1.0 / n.sqrt() });
        for s in 0..self.slots {
            let (weights, pi) = (&mut b.weights[s * columns..][..count], &b.pi[s * columns..]);
            weights.iter_mut().zip(pi).zip(&*scale).for_each(|((p, pi), scale)| *p = pi * scale);
        }
    }

    /// Mixes some columns (words) of the first `count` frames' rows into their first slots' rows.
    #[inline(always)]
    pub fn mix_in_place<S: Simd>(
        &self,
        s: S,
        (block, stride): (&mut [f32], usize),
        words: Range<usize>,
        count: usize,
        gates: &GateBuffers,
    ) {
        for (t, rows) in block.chunks_exact_mut(self.slots * stride).take(count).enumerate() {
            for part in parts::<S>(words.clone()) {
                let mixed = self.mixed(s, (&*rows, stride), part.clone(), t, gates);
                store(s, &mut rows[part], mixed);
            }
        }
    }

    /// The same of some frames into rows of their own, `to_stride` apart: the words, zeros up to a whole number of
    /// vectors, and the sentence in the row's last vector.
    #[inline(always)]
    pub fn mix<S: Simd>(
        &self,
        s: S,
        (block, stride): (&[f32], usize),
        (mixed, to_stride): (&mut [f32], usize),
        (frames, words): (Range<usize>, Range<usize>),
        gates: &GateBuffers,
    ) {
        let count = words.len() - 1;
        let lanes: [u32; LANES] = std::array::from_fn(|i| i as u32);
        let lanes = S::as_simd_u32s(&lanes[..S::F32_LANES]).0[0];
        for (t, to) in frames.zip(mixed.chunks_exact_mut(to_stride)) {
            let rows = &block[t * self.slots * stride..][..self.slots * stride];
            for part in parts::<S>(words.start..words.start + count) {
                // Whole vectors are read, of which only this text's words are kept.
                let at = part.start..part.start + S::F32_LANES;
                let sum = self.mixed(s, (rows, stride), at, t, gates);
                let here = s.less_than_u32s(lanes, s.splat_u32s(part.len() as u32));
                let to = &mut to[part.start - words.start..][..S::F32_LANES];
                store(s, to, s.select_f32s(here, sum, s.splat_f32s(0.0)));
            }
            let of_sentence = |slot: usize| rows[slot * stride + words.start + count];
            let mut sum = of_sentence(0) * gates.weights[t];
            for slot in 1..self.slots {
                sum = gates.weights[slot * gates.columns + t].mul_add(of_sentence(slot), sum);
            }
            to[to_stride - LANES] = sum;
        }
    }

    /// One vector of a frame's mixed dot products; 0 beyond the rows.
    #[inline(always)]
    fn mixed<S: Simd>(
        &self,
        s: S,
        (rows, stride): (&[f32], usize),
        part: Range<usize>,
        t: usize,
        gates: &GateBuffers,
    ) -> S::f32s {
        let x = |slot: usize| {
            let at = slot * stride + part.start;
            let end = (slot * stride + part.end).min(rows.len());
            load(s, &rows[at..end])
        };
        let mut sum = s.mul_f32s(x(0), s.splat_f32s(gates.weights[t]));
        for slot in 1..self.slots {
            let weight = gates.weights[slot * gates.columns + t];
            sum = s.mul_add_e_f32s(s.splat_f32s(weight), x(slot), sum);
        }
        sum
    }

    /// From the gradient of a frame's cosines with a text's words and with its sentence: the gradient of the slots' dot
    /// products into `g`, and y.
    #[inline(always)]
    pub fn unmix<S: Simd>(
        &self,
        s: S,
        (block, g, stride): (&[f32], &mut [f32], usize),
        (dwords, dsentence): (&[f32], f32),
        (t, first_word): (usize, usize),
        gates: &mut GateBuffers,
    ) {
        let n = dwords.len();
        for slot in 0..self.slots {
            let at = (t * self.slots + slot) * stride + first_word;
            let (x, to) = (&block[at..][..n + 1], &mut g[at..][..n + 1]);
            let weight = gates.weights[slot * gates.columns + t];
            let (splat, mut y) = (s.splat_f32s(weight), s.splat_f32s(0.0));
            for part in parts::<S>(0..n) {
                let d = load(s, &dwords[part.clone()]);
                y = s.mul_add_e_f32s(d, load(s, &x[part.clone()]), y);
                store(s, &mut to[part], s.mul_f32s(splat, d));
            }
            to[n] = weight * dsentence;
            gates.y[slot * gates.columns + t] = dsentence.mul_add(x[n], s.reduce_sum_f32s(y));
        }
    }

    /// Adds the gradient of a text's gates of the first `count` frames; `first_word` is the text's first row.
    #[inline(always)]
    pub fn add_gradient(&self, count: usize, first_word: usize, b: &mut GateBuffers, d: &mut GateGradients) {
        let (k, columns) = (self.slots, b.columns);
        let [twice_dn, toward] = b.spare.each_mut().map(|x| &mut x[..count]);
        twice_dn.fill(0.0);
        for s in 0..k {
            let (pi, y) = (&b.pi[s * columns..], &b.y[s * columns..]);
            twice_dn.iter_mut().zip(pi).zip(y).for_each(|((m, pi), y)| *m = pi.mul_add(*y, *m));
        }
        twice_dn.iter_mut().zip(&*b.scale).for_each(|(m, scale)| *m *= -scale * scale * scale);
        for s in 0..k {
            self.toward(s, b.gram, b.pi, columns, toward);
            let (pi, y) = (&b.pi[s * columns..][..count], &b.y[s * columns..][..count]);
            // From here on the buffer holds the gradient of the logits.
            let known = y.iter().zip(&*b.scale).zip(&*twice_dn).zip(pi);
            for (toward, (((y, scale), twice_dn), pi)) in toward.iter_mut().zip(known) {
                *toward = pi * twice_dn.mul_add(*toward, y * scale);
            }
            let dlogits = &*toward;
            d.logits[s * columns..].iter_mut().zip(dlogits).for_each(|(sum, x)| *sum += x);
            let of_text = &mut d.texts[first_word * self.experts..][..self.experts];
            if self.table.is_empty() {
                of_text[s] += sum(dlogits);
            } else {
                for (expert, x) in b.experts[s * columns..].iter().zip(dlogits) {
                    if let Some(sum) = of_text.get_mut(*expert as usize) {
                        *sum += x;
                    }
                }
            }
            for other in 0..k {
                let (gram, others) = (&mut d.gram[(s * k + other) * columns..], &b.pi[other * columns..]);
                let factors = twice_dn.iter().zip(pi).zip(others);
                for (sum, ((twice_dn, pi), other)) in gram.iter_mut().zip(factors) {
                    *sum = (0.5 * twice_dn * pi).mul_add(*other, *sum);
                }
            }
        }
    }
}

/// A range cut into vectors; the last may be shorter.
#[inline(always)]
fn parts<S: Simd>(all: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(S::F32_LANES).map(move |begin| begin..(begin + S::F32_LANES).min(end))
}

/// At most a vector's numbers; those that are not there are 0. What stands behind them is not read: a NaN there would
/// get through a weight of 0.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::f32s {
    if x.len() == S::F32_LANES { S::as_simd_f32s(x).0[0] } else { s.partial_load_f32s(x) }
}

#[inline(always)]
fn store<S: Simd>(s: S, to: &mut [f32], x: S::f32s) {
    if to.len() == S::F32_LANES { S::as_mut_simd_f32s(to).0[0] = x } else { s.partial_store_f32s(to, x) }
}

/// Dot products that were mixed in place.
pub fn mixed_dots<'a>(
    router: &Router,
    (block, stride): (&'a [f32], usize),
    frames: Range<usize>,
    words: Range<usize>,
) -> Dots<'a> {
    Dots::new(block, router.slots * stride, frames, words)
}
