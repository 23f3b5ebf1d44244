//! Kernels of the sums and means, and of what spreads them again.

use super::Call;
use super::lanes::{PART, simd, sum_f64};
use rayon::prelude::*;

/// Columns one task sums.
const COLS: usize = 64;

pub fn sum_rows(call: &mut Call) {
    let (rows, cols, stride) = (call.size(0), call.size(1), call.u32(2) as usize);
    let [x, mut y] = call.args();
    let x = x.f32();
    y.f32_mut()[..cols].par_chunks_mut(COLS).enumerate().for_each(|(i, y)| {
        y.fill(0.0);
        simd(
            #[inline(always)]
            || {
                for r in 0..rows {
                    let x = &x[r * stride + i * COLS..][..y.len()];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                }
            },
        );
    });
}

pub fn broadcast_rows(call: &mut Call) {
    let (rows, cols, stride) = (call.size(0), call.size(1), call.u32(2) as usize);
    let [x, mut y] = call.args();
    let x = &x.f32()[..cols];
    y.f32_mut().par_chunks_mut(stride.max(1)).take(rows).for_each(|y| y[..cols].copy_from_slice(x));
}

/// The sum of each part of `x` in f64: rounded to f32 only once for every [`PART`] elements.
pub fn mean_parts(call: &mut Call) {
    let n = call.size(0);
    let [x, mut sums] = call.args();
    x.f32()[..n].par_chunks(PART).zip(sums.f32_mut()).for_each(|(x, sum)| {
        *sum = simd(
            #[inline(always)]
            || sum_f64(x, |x| x),
        ) as f32;
    });
}

pub fn mean_all(call: &mut Call) {
    let (n, part) = (call.size(0), call.u32(1) as usize);
    let [sums, mut y] = call.args();
    let total: f64 = sums.f32()[..n.div_ceil(part.max(1))].iter().map(|s| f64::from(*s)).sum();
    y.f32_mut()[0] = (total / n.max(1) as f64) as f32;
}

pub fn broadcast_mean(call: &mut Call) {
    let n = call.size(0);
    let [y, mut x] = call.args();
    let value = y.f32()[0] / n.max(1) as f32;
    x.f32_mut()[..n].par_chunks_mut(PART).for_each(|x| x.fill(value));
}
