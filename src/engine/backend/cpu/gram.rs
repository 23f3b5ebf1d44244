//! Kernels of `gram`, `decorrelate` and their gradients. A row's slots stay in the nearest cache for all their pairs.

use super::Call;
use super::lanes::{dot, simd};
use crate::engine::op::gram::SHORTEST;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 16;
/// Columns whose sums stay in registers.
const STRIP: usize = 64;

pub fn gram(call: &mut Call) {
    let (rows, cols, k) = (call.size(0), call.u32(1) as usize, call.u32(2) as usize);
    let [e, mut y] = call.args();
    let e = e.f32();
    y.f32_mut()[..rows * k * k].par_chunks_mut(ROWS * k * k).enumerate().for_each(|(i, y)| {
        simd(
            #[inline(always)]
            || {
                for (r, y) in y.chunks_exact_mut(k * k).enumerate() {
                    let e = &e[(i * ROWS + r) * k * cols..][..k * cols];
                    for s in 0..k {
                        for t in s..k {
                            let product = dot(&e[s * cols..][..cols], &e[t * cols..][..cols]);
                            y[s * k + t] = product;
                            y[t * k + s] = product;
                        }
                    }
                }
            },
        );
    });
}

pub fn gram_grad(call: &mut Call) {
    let (rows, cols, k) = (call.size(0), call.u32(1) as usize, call.u32(2) as usize);
    let [e, dgram, mut de] = call.args();
    let (e, dgram) = (e.f32(), dgram.f32());
    if cols == 0 {
        return;
    }
    de.f32_mut()[..rows * k * cols].par_chunks_mut(ROWS * k * cols).enumerate().for_each(|(i, de)| {
        simd(
            #[inline(always)]
            || {
                for (r, de) in de.chunks_exact_mut(k * cols).enumerate() {
                    let row = i * ROWS + r;
                    let (e, d) = (&e[row * k * cols..][..k * cols], &dgram[row * k * k..][..k * k]);
                    for (s, de) in de.chunks_exact_mut(cols).enumerate() {
                        for (strip, de) in de.chunks_mut(STRIP).enumerate() {
                            let mut sum = [0.0f32; STRIP];
                            for (t, e) in e.chunks_exact(cols).enumerate() {
                                let by = d[s * k + t] + d[t * k + s];
                                let e = &e[strip * STRIP..][..de.len()];
                                match <&[f32; STRIP]>::try_from(e) {
                                    // Of a length the compiler knows, the sums stay in registers.
                                    Ok(e) => (0..STRIP).for_each(|i| sum[i] = by.mul_add(e[i], sum[i])),
                                    Err(_) => sum.iter_mut().zip(e).for_each(|(sum, e)| *sum = by.mul_add(*e, *sum)),
                                }
                            }
                            de.copy_from_slice(&sum[..de.len()]);
                        }
                    }
                }
            },
        );
    });
}

/// The sum of a part's squared cosines, rounded to f32 once.
pub fn decorrelate_parts(call: &mut Call) {
    let (rows, k, part) = (call.size(0), call.u32(1) as usize, (call.u32(2) as usize).max(1));
    let [gram, mut sums] = call.args();
    gram.f32()[..rows * k * k].par_chunks(part * k * k).zip(sums.f32_mut()).for_each(|(gram, sum)| {
        let mut total = 0.0f64;
        for g in gram.chunks_exact(k * k) {
            for s in 0..k {
                for t in (0..k).filter(|t| *t != s) {
                    let product = g[s * k + s] * g[t * k + t];
                    // A NaN must reach the loss.
                    if product > SHORTEST || product.is_nan() {
                        total += f64::from(g[s * k + t] * g[s * k + t] / product);
                    }
                }
            }
        }
        *sum = total as f32;
    });
}

pub fn decorrelate_grad(call: &mut Call) {
    let (rows, k) = (call.size(0), call.u32(1) as usize);
    let [gram, dloss, mut dgram] = call.args();
    let gram = gram.f32()[..rows * k * k].par_chunks(ROWS * k * k);
    let by = dloss.f32()[0] / (rows * k * (k - 1)).max(1) as f32;
    dgram.f32_mut()[..rows * k * k].par_chunks_mut(ROWS * k * k).zip(gram).for_each(|(d, g)| {
        for (d, g) in d.chunks_exact_mut(k * k).zip(g.chunks_exact(k * k)) {
            d.fill(0.0);
            for s in 0..k {
                for t in (0..k).filter(|t| *t != s) {
                    let (a, b, u) = (g[s * k + s], g[t * k + t], g[s * k + t]);
                    if a * b > SHORTEST || (a * b).is_nan() {
                        let slope = by * u / (a * b);
                        d[s * k + t] += 2.0 * slope;
                        d[s * k + s] -= slope * u / a;
                        d[t * k + t] -= slope * u / b;
                    }
                }
            }
        }
    });
}
