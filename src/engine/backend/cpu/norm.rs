//! Kernels of `unit`, `layer_norm` and their gradients. A row stays in the nearest cache between its passes.

use super::Call;
use super::lanes::{dot, simd, sum};
use crate::engine::op::norm::SHORTEST;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 16;
/// Columns one task of a column sum works on.
const COLS: usize = 64;

/// Part `i` of an operand in parts of `n`; empty for an operand that is absent or overwritten.
fn part(x: &[f32], i: usize, n: usize) -> &[f32] {
    x.get(i * n..).map_or(&[], |x| &x[..n.min(x.len())])
}

pub fn unit(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [x, mut y, mut inv_norm] = call.args();
    let (x, y, inv_norm) = (x.f32(), &mut y.f32_mut()[..rows * cols], inv_norm.f32_mut());
    if cols == 0 {
        return;
    }
    // Without `inv_norm` the zip below would end at once: the norms then go to a few numbers on the stack.
    let wanted = !inv_norm.is_empty();
    let task = |i: usize, y: &mut [f32], kept: &mut [f32]| {
        simd(
            #[inline(always)]
            || {
                let x = part(x, i, ROWS * cols);
                for (r, y) in y.chunks_exact_mut(cols).enumerate() {
                    if let Some(x) = x.get(r * cols..(r + 1) * cols) {
                        y.copy_from_slice(x);
                    }
                    let norm = dot(y, y).sqrt();
                    // Not `norm >= SHORTEST`: a NaN must reach the row.
                    let inverse = if norm < SHORTEST { 0.0 } else { 1.0 / norm };
                    y.iter_mut().for_each(|y| *y *= inverse);
                    kept[r] = inverse;
                }
            },
        )
    };
    let parts = y.par_chunks_mut(ROWS * cols).enumerate();
    if wanted {
        let kept = inv_norm[..rows].par_chunks_mut(ROWS);
        parts.zip(kept).for_each(|((i, y), kept)| task(i, y, kept));
    } else {
        parts.for_each(|(i, y)| task(i, y, &mut [0.0; ROWS]));
    }
}

pub fn unit_grad(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [y, inv_norm, dy, mut dx] = call.args();
    let (y, inv_norm, dy) = (y.f32(), inv_norm.f32(), dy.f32());
    if cols == 0 {
        return;
    }
    dx.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(i, dx)| {
        simd(
            #[inline(always)]
            || {
                if let Some(dy) = dy.get(i * ROWS * cols..i * ROWS * cols + dx.len()) {
                    dx.copy_from_slice(dy);
                }
                for (r, dx) in dx.chunks_exact_mut(cols).enumerate() {
                    let row = i * ROWS + r;
                    let y = &y[row * cols..][..cols];
                    let along = dot(y, dx);
                    let inverse = inv_norm[row];
                    for (dx, y) in dx.iter_mut().zip(y) {
                        *dx = inverse * y.mul_add(-along, *dx);
                    }
                }
            },
        );
    });
}

pub fn layer_norm(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let eps = call.f32(2);
    let [x, gain, bias, mut y, mut mean, mut rstd] = call.args();
    let (x, gain, bias) = (x.f32(), gain.f32(), bias.f32());
    let (y, mean, rstd) = (&mut y.f32_mut()[..rows * cols], mean.f32_mut(), rstd.f32_mut());
    if cols == 0 {
        return;
    }
    // Either may be unwanted: as many pieces as there are tasks, empty ones then.
    let tasks = rows.div_ceil(ROWS);
    let means = pieces(mean, rows, tasks);
    let rstds = pieces(rstd, rows, tasks);
    y.par_chunks_mut(ROWS * cols).enumerate().zip(means).zip(rstds).for_each(|(((i, y), means), rstds)| {
        simd(
            #[inline(always)]
            || {
                let x = part(x, i, ROWS * cols);
                for (r, y) in y.chunks_exact_mut(cols).enumerate() {
                    if let Some(x) = x.get(r * cols..(r + 1) * cols) {
                        y.copy_from_slice(x);
                    }
                    let mean = sum(y) / cols as f32;
                    y.iter_mut().for_each(|y| *y -= mean);
                    let rstd = 1.0 / (dot(y, y) / cols as f32 + eps).sqrt();
                    for (y, (gain, bias)) in y.iter_mut().zip(gain.iter().zip(bias)) {
                        *y = (*y * rstd).mul_add(*gain, *bias);
                    }
                    if let Some(kept) = means.get_mut(r) {
                        *kept = mean;
                    }
                    if let Some(kept) = rstds.get_mut(r) {
                        *kept = rstd;
                    }
                }
            },
        );
    });
}

/// `tasks` pieces of `ROWS` of an output, or empty ones when nobody wants it.
fn pieces(x: &mut [f32], rows: usize, tasks: usize) -> impl IndexedParallelIterator<Item = &mut [f32]> {
    let wanted = !x.is_empty();
    let (x, none) = if wanted { (&mut x[..rows], 0) } else { (x, tasks) };
    x.par_chunks_mut(ROWS).chain(rayon::iter::repeat_n((), none).map(|()| <&mut [f32]>::default()))
}

pub fn layer_norm_dx(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [x, gain, mean, rstd, dy, mut dx] = call.args();
    let (x, gain, mean, rstd, dy) = (x.f32(), gain.f32(), mean.f32(), rstd.f32(), dy.f32());
    if cols == 0 {
        return;
    }
    dx.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(i, dx)| {
        simd(
            #[inline(always)]
            || {
                if let Some(dy) = dy.get(i * ROWS * cols..i * ROWS * cols + dx.len()) {
                    dx.copy_from_slice(dy);
                }
                for (r, dx) in dx.chunks_exact_mut(cols).enumerate() {
                    let row = i * ROWS + r;
                    let x = &x[row * cols..][..cols];
                    let (mean, rstd) = (mean[row], rstd[row]);
                    for (dx, gain) in dx.iter_mut().zip(gain) {
                        *dx *= gain;
                    }
                    let average = sum(dx) / cols as f32;
                    let along = rstd * centred_dot(x, mean, dx) / cols as f32;
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = rstd * ((x - mean) * rstd).mul_add(-along, *dx - average);
                    }
                }
            },
        );
    });
}

/// `Σ (x − mean)·y`: centred first, since `Σ x·y − mean·Σ y` loses its digits far from zero.
#[inline(always)]
fn centred_dot(x: &[f32], mean: f32, y: &[f32]) -> f32 {
    const STRIP: usize = 64;
    let mut total = 0.0;
    let mut strip = [0.0f32; STRIP];
    for (x, y) in x.chunks(STRIP).zip(y.chunks(STRIP)) {
        for (s, x) in strip.iter_mut().zip(x) {
            *s = x - mean;
        }
        total += dot(&strip[..x.len()], y);
    }
    total
}

pub fn layer_norm_parts(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let part_rows = call.u32(2) as usize;
    let [x, mean, rstd, dy, mut sums] = call.args();
    let (x, mean, rstd, dy) = (x.f32(), mean.f32(), rstd.f32(), dy.f32());
    if cols == 0 {
        return;
    }
    let parts = rows.div_ceil(part_rows);
    sums.f32_mut()[..parts * 2 * cols].par_chunks_mut(2 * cols).enumerate().for_each(|(i, sums)| {
        simd(
            #[inline(always)]
            || {
                sums.fill(0.0);
                let (dgain, dbias) = sums.split_at_mut(cols);
                for row in i * part_rows..rows.min((i + 1) * part_rows) {
                    let (x, dy) = (&x[row * cols..][..cols], &dy[row * cols..][..cols]);
                    let (mean, rstd) = (mean[row], rstd[row]);
                    for ((dgain, dbias), (x, dy)) in dgain.iter_mut().zip(dbias.iter_mut()).zip(x.iter().zip(dy)) {
                        *dgain = dy.mul_add((x - mean) * rstd, *dgain);
                        *dbias += dy;
                    }
                }
            },
        );
    });
}

pub fn layer_norm_sum(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let parts = rows.div_ceil(call.u32(2) as usize);
    let [sums, mut dgain, mut dbias] = call.args();
    let sums = sums.f32();
    for (which, out) in [dgain.f32_mut(), dbias.f32_mut()].into_iter().enumerate().filter(|(_, out)| !out.is_empty()) {
        out[..cols].par_chunks_mut(COLS).enumerate().for_each(|(i, out)| {
            out.fill(0.0);
            for part in 0..parts {
                let sums = &sums[(2 * part + which) * cols + i * COLS..][..out.len()];
                out.iter_mut().zip(sums).for_each(|(out, s)| *out += s);
            }
        });
    }
}
