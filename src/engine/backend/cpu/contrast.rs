//! Kernels of `contrast` and its gradient. The logits are never written: every pass computes them again, a strip at a
//! time on the stack, with an exponential that vectorises.

use super::lanes::{dot, exp, max, simd, sum};
use super::{Call, CpuArg};
use rayon::prelude::*;

/// Columns that are computed together.
const STRIP: usize = 128;
/// Rows one task works on, in the passes over rows.
const ROWS: usize = 8;
/// Rows whose terms are summed before they are added to a column's sum: bounds the rounding of long columns.
const BLOCK: usize = 32;
/// The logit of a pair that is left out.
const FLOOR: f32 = -1e30;

/// The operands that make logits.
struct Problem<'a> {
    n: usize,
    stride: usize,
    scale: f32,
    /// Empty when its matrix is overwritten by the gradient.
    scores: &'a [f32],
    video_key: &'a [u32],
    caption_key: &'a [u32],
    log_weight: &'a [f32],
}

impl<'a> Problem<'a> {
    fn new(call: &Call, [scores, log_scale, video, caption, weight]: [&'a CpuArg; 5]) -> Problem<'a> {
        let n = call.size(0).min(call.size(1));
        let keys = |arg: &'a CpuArg, i: usize| if call.u32(i) == 1 { &arg.u32()[..n] } else { &[] };
        Problem {
            n,
            stride: call.u32(2) as usize,
            scale: log_scale.f32()[0].exp(),
            scores: scores.f32(),
            video_key: keys(video, 3),
            caption_key: keys(caption, 4),
            log_weight: weight.f32(),
        }
    }

    /// Logits of row `i` from column `first` on, into `z`, from their scores.
    #[inline(always)]
    fn logits(&self, i: usize, first: usize, scores: &[f32], z: &mut [f32]) {
        for (z, s) in z.iter_mut().zip(scores) {
            *z = self.scale * s;
        }
        if let Some(weights) = self.log_weight.get(i * self.stride + first..) {
            z.iter_mut().zip(weights).for_each(|(z, w)| *z += w);
        }
        let own = i.wrapping_sub(first);
        let pair = z.get(own).copied();
        for keys in [self.video_key, self.caption_key] {
            let Some(key) = keys.get(i) else { continue };
            for (z, other) in z.iter_mut().zip(&keys[first..]) {
                *z = if other == key { FLOOR } else { *z };
            }
        }
        if let (Some(z), Some(pair)) = (z.get_mut(own), pair) {
            *z = pair;
        }
    }

    #[inline(always)]
    fn scores(&self, i: usize, first: usize, len: usize) -> &'a [f32] {
        &self.scores[i * self.stride + first..][..len]
    }
}

pub fn contrast_rows(call: &mut Call) {
    let [scores, log_scale, video, caption, weight, mut lse, mut terms] = call.args();
    let p = Problem::new(call, [&scores, &log_scale, &video, &caption, &weight]);
    let tasks = lse.f32_mut()[..p.n].par_chunks_mut(ROWS).zip(terms.f32_mut()[..p.n].par_chunks_mut(ROWS));
    tasks.enumerate().for_each(|(task, (lse, terms))| {
        for (r, (lse, term)) in lse.iter_mut().zip(terms).enumerate() {
            simd(
                #[inline(always)]
                || (*lse, *term) = row(&p, task * ROWS + r),
            );
        }
    });
}

/// The log-sum-exp of row `i`, and how far it lies above the pair's logit.
#[inline(always)]
fn row(p: &Problem, i: usize) -> (f32, f32) {
    let mut strip = [0.0f32; STRIP];
    let mut largest = FLOOR;
    let mut pair = 0.0;
    for first in (0..p.n).step_by(STRIP) {
        let z = &mut strip[..STRIP.min(p.n - first)];
        p.logits(i, first, p.scores(i, first, z.len()), z);
        largest = max(z, largest);
        pair = z.get(i.wrapping_sub(first)).copied().unwrap_or(pair);
    }
    let mut total = 0.0;
    for first in (0..p.n).step_by(STRIP) {
        let z = &mut strip[..STRIP.min(p.n - first)];
        p.logits(i, first, p.scores(i, first, z.len()), z);
        z.iter_mut().for_each(|z| *z = exp(*z - largest));
        total += sum(z);
    }
    let log = total.ln();
    // Not lse − pair: where a pair is sure of itself the two are equal in all but the last digits.
    (largest + log, (largest - pair) + log)
}

pub fn contrast_columns(call: &mut Call) {
    let [scores, log_scale, video, caption, weight, mut lse, mut terms] = call.args();
    let p = Problem::new(call, [&scores, &log_scale, &video, &caption, &weight]);
    let tasks = lse.f32_mut()[..p.n].par_chunks_mut(STRIP).zip(terms.f32_mut()[..p.n].par_chunks_mut(STRIP));
    tasks.enumerate().for_each(|(task, (lse, terms))| {
        simd(
            #[inline(always)]
            || columns(&p, task * STRIP, lse, terms),
        );
    });
}

/// What [`row`] computes, for the columns from `first` on.
#[inline(always)]
fn columns(p: &Problem, first: usize, lse: &mut [f32], terms: &mut [f32]) {
    let width = lse.len();
    let mut strip = [0.0f32; STRIP];
    let mut pair = [0.0f32; STRIP];
    let mut largest = [FLOOR; STRIP];
    for i in 0..p.n {
        let z = &mut strip[..width];
        p.logits(i, first, p.scores(i, first, width), z);
        for (m, z) in largest.iter_mut().zip(z.iter()) {
            *m = if *z > *m { *z } else { *m };
        }
        if let Some(z) = z.get(i.wrapping_sub(first)) {
            pair[i - first] = *z;
        }
    }
    let mut total = [0.0f32; STRIP];
    for block in (0..p.n).step_by(BLOCK) {
        let mut part = [0.0f32; STRIP];
        for i in block..p.n.min(block + BLOCK) {
            let z = &mut strip[..width];
            p.logits(i, first, p.scores(i, first, width), z);
            for (part, (z, m)) in part.iter_mut().zip(z.iter().zip(&largest)) {
                *part += exp(z - m);
            }
        }
        total.iter_mut().zip(&part).for_each(|(t, p)| *t += p);
    }
    for c in 0..width {
        let log = total[c].ln();
        (lse[c], terms[c]) = (largest[c] + log, (largest[c] - pair[c]) + log);
    }
}

pub fn contrast_loss(call: &mut Call) {
    let n = call.size(0).min(call.size(1));
    let [row_terms, col_terms, mut loss] = call.args();
    let total: f64 = [row_terms.f32(), col_terms.f32()].iter().flat_map(|t| &t[..n]).map(|t| f64::from(*t)).sum();
    loss.f32_mut()[0] = (total / (2 * n.max(1)) as f64) as f32;
}

pub fn contrast_grad(call: &mut Call) {
    let wanted = call.u32(6) == 1;
    let [scores, log_scale, video, caption, weight, row_lse, col_lse, dloss, mut dscores, mut dweight, mut terms] =
        call.args();
    let p = Problem::new(call, [&scores, &log_scale, &video, &caption, &weight]);
    if p.n == 0 {
        return;
    }
    let (row_lse, col_lse) = (row_lse.f32(), &col_lse.f32()[..p.n]);
    let share = dloss.f32()[0] / (2 * p.n) as f32;
    let rows = dscores.f32_mut().par_chunks_mut(p.stride).zip(&mut terms.f32_mut()[..p.n]).with_min_len(ROWS);
    let task = |i: usize, dscores: &mut [f32], dweight: &mut [f32], term: &mut f32| {
        simd(
            #[inline(always)]
            || *term = gradient_row(&p, i, row_lse[i], col_lse, share, dscores, dweight),
        );
    };
    if wanted {
        let dweights = dweight.f32_mut().par_chunks_mut(p.stride);
        rows.zip(dweights).enumerate().for_each(|(i, ((ds, term), dw))| task(i, ds, dw, term));
    } else {
        rows.enumerate().for_each(|(i, (ds, term))| task(i, ds, &mut [], term));
    }
}

/// The gradient of row `i`'s scores and weights; returns its part of the gradient of the scale's logarithm.
#[inline(always)]
fn gradient_row(
    p: &Problem,
    i: usize,
    row_lse: f32,
    col_lse: &[f32],
    share: f32,
    dscores: &mut [f32],
    dweight: &mut [f32],
) -> f32 {
    let mut strip = [0.0f32; STRIP];
    let mut total = 0.0;
    for first in (0..p.n).step_by(STRIP) {
        let width = STRIP.min(p.n - first);
        let ds = &mut dscores[first..first + width];
        if !p.scores.is_empty() {
            ds.copy_from_slice(p.scores(i, first, width));
        }
        let z = &mut strip[..width];
        p.logits(i, first, ds, z);
        for (z, col_lse) in z.iter_mut().zip(&col_lse[first..]) {
            *z = share * (exp(*z - row_lse) + exp(*z - col_lse));
        }
        if let Some(dz) = z.get_mut(i.wrapping_sub(first)) {
            *dz -= 2.0 * share;
        }
        total += dot(z, ds);
        ds.iter_mut().zip(z.iter()).for_each(|(ds, dz)| *ds = p.scale * dz);
        if let Some(dweight) = dweight.get_mut(first..first + width) {
            dweight.copy_from_slice(z);
        }
    }
    p.scale * total
}

pub fn contrast_scale(call: &mut Call) {
    let n = call.size(0).min(call.size(1));
    let [terms, mut dlog_scale] = call.args();
    dlog_scale.f32_mut()[0] = terms.f32()[..n].iter().map(|t| f64::from(*t)).sum::<f64>() as f32;
}
