//! Kernels of `sum_rows` and `broadcast_rows`.

use super::Call;
use rayon::prelude::*;

/// Columns one task sums.
const COLS: usize = 64;

pub fn sum_rows(call: &mut Call) {
    let (rows, cols, stride) = (call.size(0), call.size(1), call.u32(2) as usize);
    let [x, mut y] = call.args();
    let x = x.f32();
    y.f32_mut()[..cols].par_chunks_mut(COLS).enumerate().for_each(|(i, y)| {
        y.fill(0.0);
        for r in 0..rows {
            let x = &x[r * stride + i * COLS..][..y.len()];
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
    });
}

pub fn broadcast_rows(call: &mut Call) {
    let (rows, cols, stride) = (call.size(0), call.size(1), call.u32(2) as usize);
    let [x, mut y] = call.args();
    let x = &x.f32()[..cols];
    y.f32_mut().par_chunks_mut(stride.max(1)).take(rows).for_each(|y| y[..cols].copy_from_slice(x));
}
