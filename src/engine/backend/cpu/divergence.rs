//! Kernels of `uniformity` and `consistency`. Logits and probabilities are never written: every pass computes them
//! again, a strip at a time on the stack. Differences of scores are scaled, not scaled scores subtracted: what all
//! scores of a line have in common costs no digits.

use super::Call;
use super::lanes::{dot, exp, max, simd, sum};
use rayon::prelude::*;

/// Columns that are computed together.
const STRIP: usize = 64;
/// Rows one task works on, in the passes over rows.
const ROWS: usize = 8;
/// Rows whose terms are summed before they are added to a column's sum: bounds the rounding of long columns.
const BLOCK: usize = 32;
/// Below every score.
const FLOOR: f32 = -1e30;
/// Numbers that `consistency` keeps for each line.
const STATS: usize = 3;

/// Rows, columns, stride: of a matrix without elements none of either.
#[derive(Copy, Clone)]
struct Shape {
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Shape {
    fn new(call: &Call) -> Shape {
        Shape { rows: call.size(0), cols: call.size(1), stride: call.u32(2) as usize }
    }
    fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }
    /// Columns `first..first + width` of row `i`.
    #[inline(always)]
    fn strip<'a>(&self, x: &'a [f32], i: usize, first: usize, width: usize) -> &'a [f32] {
        &x[i * self.stride + first..][..width]
    }
}

pub fn uniformity_rows(call: &mut Call) {
    let shape = Shape::new(call);
    let [scores, log_scale, mut lse, mut terms] = call.args();
    let (lse, terms) = (&mut lse.f32_mut()[..shape.rows], &mut terms.f32_mut()[..shape.rows]);
    if shape.is_empty() {
        return [lse, terms].into_iter().for_each(|x| x.fill(0.0));
    }
    let (scores, scale) = (scores.f32(), log_scale.f32()[0].exp());
    let tasks = lse.par_chunks_mut(ROWS).zip(terms.par_chunks_mut(ROWS));
    tasks.enumerate().for_each(|(task, (lse, terms))| {
        for (r, (lse, term)) in lse.iter_mut().zip(terms).enumerate() {
            let row = shape.strip(scores, task * ROWS + r, 0, shape.cols);
            simd(
                #[inline(always)]
                || (*lse, *term) = uniformity_row(row, scale),
            );
        }
    });
}

/// The log-sum-exp of a row's logits, and how far it lies above that of equal ones.
#[inline(always)]
fn uniformity_row(row: &[f32], scale: f32) -> (f32, f32) {
    let mut strip = [0.0f32; STRIP];
    let largest = max(row, FLOOR);
    let (mut below, mut total) = (0.0, 0.0);
    for part in row.chunks(STRIP) {
        let d = &mut strip[..part.len()];
        d.iter_mut().zip(part).for_each(|(d, s)| *d = scale * (s - largest));
        below += sum(d);
        d.iter_mut().for_each(|d| *d = exp(*d));
        total += sum(d);
    }
    let n = row.len() as f32;
    (scale * largest + total.ln(), (total / n).ln() - below / n)
}

pub fn uniformity_columns(call: &mut Call) {
    let shape = Shape::new(call);
    let [scores, log_scale, mut lse, mut terms] = call.args();
    let (lse, terms) = (&mut lse.f32_mut()[..shape.cols], &mut terms.f32_mut()[..shape.cols]);
    if shape.is_empty() {
        return [lse, terms].into_iter().for_each(|x| x.fill(0.0));
    }
    let (scores, scale) = (scores.f32(), log_scale.f32()[0].exp());
    let tasks = lse.par_chunks_mut(STRIP).zip(terms.par_chunks_mut(STRIP));
    tasks.enumerate().for_each(|(task, (lse, terms))| {
        simd(
            #[inline(always)]
            || uniformity_strip(shape, scores, scale, task * STRIP, lse, terms),
        );
    });
}

/// The largest of each column from `first` on.
#[inline(always)]
fn largest_of(shape: Shape, x: &[f32], first: usize, width: usize) -> [f32; STRIP] {
    let mut largest = [FLOOR; STRIP];
    for i in 0..shape.rows {
        for (m, x) in largest.iter_mut().zip(shape.strip(x, i, first, width)) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    largest
}

/// Sums over the rows of a strip of columns, in blocks: `add(i, part)` adds row i.
#[inline(always)]
fn over_rows(rows: usize, mut add: impl FnMut(usize, &mut [f32; STRIP], &mut [f32; STRIP])) -> [[f32; STRIP]; 2] {
    let mut totals = [[0.0f32; STRIP]; 2];
    for block in (0..rows).step_by(BLOCK) {
        let [mut a, mut b] = [[0.0f32; STRIP]; 2];
        for i in block..rows.min(block + BLOCK) {
            add(i, &mut a, &mut b);
        }
        for (total, part) in totals.iter_mut().zip([&a, &b]) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
    }
    totals
}

/// What [`uniformity_row`] computes, for the columns from `first` on.
#[inline(always)]
fn uniformity_strip(shape: Shape, scores: &[f32], scale: f32, first: usize, lse: &mut [f32], terms: &mut [f32]) {
    let width = lse.len();
    let largest = largest_of(shape, scores, first, width);
    let [total, below] = over_rows(
        shape.rows,
        #[inline(always)]
        |i, total, below| {
            let row = shape.strip(scores, i, first, width);
            for c in 0..width {
                let d = scale * (row[c] - largest[c]);
                below[c] += d;
                total[c] += exp(d);
            }
        },
    );
    let n = shape.rows as f32;
    for c in 0..width {
        (lse[c], terms[c]) = (scale * largest[c] + total[c].ln(), (total[c] / n).ln() - below[c] / n);
    }
}

pub fn divergence_loss(call: &mut Call) {
    let shape = Shape::new(call);
    let [row_terms, col_terms, mut loss] = call.args();
    let mean = |terms: &[f32], n: usize| {
        let total: f64 = terms.iter().take(n).map(|t| f64::from(*t)).sum();
        total / n.max(1) as f64
    };
    let rows = mean(row_terms.f32(), shape.rows);
    loss.f32_mut()[0] = (0.5 * (rows + mean(col_terms.f32(), shape.cols))) as f32;
}

pub fn uniformity_grad(call: &mut Call) {
    let shape = Shape::new(call);
    let [scores, log_scale, row_lse, col_lse, dloss, mut dscores] = call.args();
    if shape.is_empty() {
        return;
    }
    let scale = log_scale.f32()[0].exp();
    let (scores, row_lse, col_lse) = (scores.f32(), row_lse.f32(), &col_lse.f32()[..shape.cols]);
    let factor = 0.5 * scale * dloss.f32()[0];
    let (of_row, of_col) = (factor / shape.rows as f32, factor / shape.cols as f32);
    let both = 2.0 * of_row / shape.cols as f32;
    let tasks = dscores.f32_mut().par_chunks_mut(shape.stride).take(shape.rows).with_min_len(ROWS);
    tasks.enumerate().for_each(|(i, dscores)| {
        let own = row_lse[i];
        let row = shape.strip(scores, i, 0, shape.cols).iter().zip(col_lse);
        simd(
            #[inline(always)]
            || {
                for (d, (s, other)) in dscores.iter_mut().zip(row) {
                    let z = scale * s;
                    *d = of_row.mul_add(exp(z - own), of_col.mul_add(exp(z - other), -both));
                }
            },
        );
    });
}

/// What x = ½ ln(p/q) says of a pair of probabilities with mean m.
struct Ratio {
    /// 2 (x tanh x − ln cosh x) = (p ln(p/m) + q ln(q/m)) / m, without cancellation where p and q are nearly equal.
    spread: f32,
    /// ln(q/m)
    log: f32,
    /// The smaller of p and q as a part of the larger.
    part: f32,
}

/// `atanh(s)` for |s| ≤ 1/5 by its series.
#[inline(always)]
fn atanh(s: f32) -> f32 {
    let square = s * s;
    let series = [1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0].iter().fold(1.0 / 11.0, |y, c| square.mul_add(y, *c));
    s * square.mul_add(series, 1.0)
}

#[inline(always)]
fn ratio(x: f32) -> Ratio {
    const LN2: f32 = std::f32::consts::LN_2;
    let h = x.abs();
    let part = exp(-2.0 * h);
    // Near 0: tanh by its continued fraction, ln cosh x = −½ ln(1 − tanh²) = atanh(t²/(2 − t²)).
    let square = x * x;
    let above = square.mul_add(square + 105.0, 945.0);
    let below = square.mul_add(square.mul_add(15.0, 420.0), 945.0);
    let tanh = x * (above / below);
    let near = atanh(tanh * tanh / (2.0 - tanh * tanh));
    // Far from it: ln cosh x = |x| − ln 2 + ln(1 + e), e = exp(−2|x|); what |x| cancels is left out of both.
    let more = 2.0 * atanh(part / (2.0 + part));
    let lacking = 2.0 * h * (part / (1.0 + part));
    let is_near = h < 0.5;
    let far_log = if x > 0.0 { LN2 - 2.0 * x - more } else { LN2 - more };
    Ratio {
        spread: 2.0 * if is_near { x.mul_add(tanh, -near) } else { LN2 - lacking - more },
        log: if is_near { -x - near } else { far_log },
        part,
    }
}

/// One line's soft-maxes: what the scores of both sides are measured from.
#[derive(Copy, Clone, Default)]
struct Line {
    goal_top: f32,
    top: f32,
    goal_log: f32,
    log: f32,
    /// How far the log-sum-exp of the perturbed logits lies above the target's.
    above: f32,
}

impl Line {
    #[inline(always)]
    fn new(scale: f32, tops: [f32; 2], totals: [f32; 2]) -> Line {
        let above = scale * (tops[1] - tops[0]) + (totals[1] / totals[0]).ln();
        Line { goal_top: tops[0], top: tops[1], goal_log: totals[0].ln(), log: totals[1].ln(), above }
    }

    /// The parts of JS and of KL(q ‖ m) that a pair of scores adds.
    #[inline(always)]
    fn terms(&self, scale: f32, goal: f32, score: f32) -> (f32, f32) {
        let x = 0.5 * scale.mul_add(goal - score, self.above);
        let (p, q) = (scale * (goal - self.goal_top) - self.goal_log, scale * (score - self.top) - self.log);
        let larger = exp(if p > q { p } else { q });
        let r = ratio(x);
        let q = larger * if x > 0.0 { r.part } else { 1.0 };
        (0.25 * (larger * (1.0 + r.part)) * r.spread, q * r.log)
    }

    fn stats(&self, scale: f32, kl: f32) -> [f32; STATS] {
        [scale * self.top + self.log, self.above, kl]
    }
}

pub fn consistency_rows(call: &mut Call) {
    let shape = Shape::new(call);
    let [goal, perturbed, log_scale, mut stats, mut terms] = call.args();
    let (stats, terms) = (&mut stats.f32_mut()[..STATS * shape.rows], &mut terms.f32_mut()[..shape.rows]);
    if shape.is_empty() {
        return [stats, terms].into_iter().for_each(|x| x.fill(0.0));
    }
    let (goal, perturbed, scale) = (goal.f32(), perturbed.f32(), log_scale.f32()[0].exp());
    let tasks = stats.par_chunks_mut(STATS * ROWS).zip(terms.par_chunks_mut(ROWS));
    tasks.enumerate().for_each(|(task, (stats, terms))| {
        for (r, (stats, term)) in stats.chunks_exact_mut(STATS).zip(terms).enumerate() {
            let [goal, perturbed] = [goal, perturbed].map(|x| shape.strip(x, task * ROWS + r, 0, shape.cols));
            simd(
                #[inline(always)]
                || *term = consistency_row(goal, perturbed, scale, stats),
            );
        }
    });
}

/// The divergence of a row, and its statistics.
#[inline(always)]
fn consistency_row(goal: &[f32], perturbed: &[f32], scale: f32, stats: &mut [f32]) -> f32 {
    let mut strip = [0.0f32; STRIP];
    let mut other = [0.0f32; STRIP];
    let tops = [max(goal, FLOOR), max(perturbed, FLOOR)];
    let mut totals = [0.0f32; 2];
    for ((x, top), total) in [goal, perturbed].into_iter().zip(tops).zip(&mut totals) {
        for part in x.chunks(STRIP) {
            let e = &mut strip[..part.len()];
            e.iter_mut().zip(part).for_each(|(e, s)| *e = exp(scale * (s - top)));
            *total += sum(e);
        }
    }
    let line = Line::new(scale, tops, totals);
    let (mut js, mut kl) = (0.0, 0.0);
    for (goal, perturbed) in goal.chunks(STRIP).zip(perturbed.chunks(STRIP)) {
        let (a, b) = (&mut strip[..goal.len()], &mut other[..goal.len()]);
        for (k, (goal, score)) in goal.iter().zip(perturbed).enumerate() {
            (a[k], b[k]) = line.terms(scale, *goal, *score);
        }
        js += sum(a);
        kl += sum(b);
    }
    stats.copy_from_slice(&line.stats(scale, kl));
    js
}

pub fn consistency_columns(call: &mut Call) {
    let shape = Shape::new(call);
    let [goal, perturbed, log_scale, mut stats, mut terms] = call.args();
    let (stats, terms) = (&mut stats.f32_mut()[..STATS * shape.cols], &mut terms.f32_mut()[..shape.cols]);
    if shape.is_empty() {
        return [stats, terms].into_iter().for_each(|x| x.fill(0.0));
    }
    let (goal, perturbed, scale) = (goal.f32(), perturbed.f32(), log_scale.f32()[0].exp());
    let tasks = stats.par_chunks_mut(STATS * STRIP).zip(terms.par_chunks_mut(STRIP));
    tasks.enumerate().for_each(|(task, (stats, terms))| {
        simd(
            #[inline(always)]
            || consistency_strip(shape, [goal, perturbed], scale, task * STRIP, stats, terms),
        );
    });
}

/// What [`consistency_row`] computes, for the columns from `first` on.
#[inline(always)]
fn consistency_strip(
    shape: Shape,
    [goal, perturbed]: [&[f32]; 2],
    scale: f32,
    first: usize,
    stats: &mut [f32],
    terms: &mut [f32],
) {
    let width = terms.len();
    let tops = [largest_of(shape, goal, first, width), largest_of(shape, perturbed, first, width)];
    let rows = |i: usize| [goal, perturbed].map(|x| shape.strip(x, i, first, width));
    let totals = over_rows(
        shape.rows,
        #[inline(always)]
        |i, goals, scores| {
            let [goal, perturbed] = rows(i);
            for c in 0..width {
                goals[c] += exp(scale * (goal[c] - tops[0][c]));
                scores[c] += exp(scale * (perturbed[c] - tops[1][c]));
            }
        },
    );
    let mut lines = [Line::default(); STRIP];
    for (c, line) in lines[..width].iter_mut().enumerate() {
        *line = Line::new(scale, [tops[0][c], tops[1][c]], [totals[0][c], totals[1][c]]);
    }
    let [js, kl] = over_rows(
        shape.rows,
        #[inline(always)]
        |i, js, kl| {
            let [goal, perturbed] = rows(i);
            for c in 0..width {
                let (a, b) = lines[c].terms(scale, goal[c], perturbed[c]);
                js[c] += a;
                kl[c] += b;
            }
        },
    );
    for (c, stats) in stats.chunks_exact_mut(STATS).enumerate() {
        terms[c] = js[c];
        stats.copy_from_slice(&lines[c].stats(scale, kl[c]));
    }
}

pub fn consistency_grad(call: &mut Call) {
    let shape = Shape::new(call);
    let [goal, perturbed, log_scale, row_stats, col_stats, dloss, mut dperturbed, mut terms] = call.args();
    if shape.is_empty() {
        return terms.f32_mut().iter_mut().take(shape.rows).for_each(|t| *t = 0.0);
    }
    let scale = log_scale.f32()[0].exp();
    let (goal, perturbed) = (goal.f32(), perturbed.f32());
    let (row_stats, col_stats) = (row_stats.f32().as_chunks::<STATS>().0, col_stats.f32().as_chunks::<STATS>().0);
    let factor = 0.25 * dloss.f32()[0];
    let shares = [factor / shape.rows as f32, factor / shape.cols as f32];
    let tasks = dperturbed.f32_mut().par_chunks_mut(shape.stride).zip(&mut terms.f32_mut()[..shape.rows]);
    tasks.with_min_len(ROWS).enumerate().for_each(|(i, (dz, term))| {
        let [goal, perturbed] = [goal, perturbed].map(|x| shape.strip(x, i, 0, shape.cols));
        let dz = &mut dz[..shape.cols];
        simd(
            #[inline(always)]
            || {
                for (j, dz) in dz.iter_mut().enumerate() {
                    // No closure: it would be compiled as a call, without vectors.
                    let row = slope(scale, goal[j], perturbed[j], &row_stats[i]);
                    let col = slope(scale, goal[j], perturbed[j], &col_stats[j]);
                    *dz = shares[0].mul_add(row, shares[1] * col);
                }
                *term = scale * dot(dz, perturbed);
                dz.iter_mut().for_each(|dz| *dz *= scale);
            },
        );
    });
}

/// `q (ln(q/m) − KL(q ‖ m))` of a pair of scores in a line.
#[inline(always)]
fn slope(scale: f32, goal: f32, score: f32, [lse, above, kl]: &[f32; STATS]) -> f32 {
    let r = ratio(0.5 * scale.mul_add(goal - score, *above));
    exp(scale * score - lse) * (r.log - kl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_ratio_keeps_its_digits_from_1e_12_to_300() {
        let seed = crate::seed::seed();
        let random = Random::new(seed, 1);
        for i in 0..20_000u64 {
            let x = (random.uniform(2 * i) * 33.0 - 27.6).exp() * if i % 2 == 0 { 1.0 } else { -1.0 };
            let r = ratio(x);
            let x = f64::from(x);
            let h = x.abs();
            let log_cosh = if h < 0.05 {
                h * h / 2.0 - h.powi(4) / 12.0 + h.powi(6) / 45.0
            } else {
                h - 2f64.ln() + (-2.0 * h).exp().ln_1p()
            };
            // x tanh x − ln cosh x as a series where its terms cancel in f64, too.
            let spread = if h < 0.02 { h * h - h.powi(4) / 2.0 } else { 2.0 * (x * x.tanh() - log_cosh) };
            for (what, value, truth) in [("spread", r.spread, spread), ("log", r.log, -x - log_cosh)] {
                let error = (f64::from(value) - truth).abs() / truth.abs().max(1e-30);
                assert!(error < 2e-6, "seed {seed}: {what} of {x} is {value} and should be {truth}");
            }
        }
        assert!(ratio(f32::NAN).spread.is_nan() && ratio(f32::NAN).log.is_nan(), "a NaN must stay visible");
    }
}
