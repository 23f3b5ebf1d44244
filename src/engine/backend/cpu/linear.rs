//! Kernel of `linear`: one product by all threads, then the epilogue.
//!
//! # Notebook
//! Core time of a whole training step on two cores of an EPYC of family 26, 128 pairs, width 512 (mean-pool and token
//! interaction), medians of three runs on a busy machine:
//!
//! | | mean-pool | token interaction |
//! |---|---|---|
//! | a task multiplies 128 to 352 rows | 19.6 ms | 323 ms |
//! | 192 to 512 rows | 16.5 ms | 291 ms |
//! | half of the rows | 14.3 ms | 310 ms |
//! | one product that `gemm` divides (now) | 13.9 ms | 317 ms |
//!
//! Tasks pack `b` anew, each across its rows for `x·Wᵀ`; one product packs it once.

use super::{Call, Matrix, MatrixMut, matmul, matmul_by_all};
use rayon::prelude::*;

/// Rows of `y` that one task of the epilogue passes over.
const ROWS: usize = 128;

/// What is done to `A·B` before it is stored, for rows of `n` that are `stride` apart.
struct Epilogue<'a> {
    n: usize,
    stride: usize,
    /// Empty where there is none.
    bias: &'a [f32],
    activation: u32,
}

impl Epilogue<'_> {
    /// Applies it to some rows, and adds `residual` where it is not empty.
    fn apply(&self, y: &mut [f32], residual: &[f32]) {
        for (r, y) in y.chunks_mut(self.stride).enumerate() {
            let y = &mut y[..self.n];
            y.iter_mut().zip(self.bias).for_each(|(y, b)| *y += b);
            if self.activation != 0 {
                super::pointwise::apply(self.activation, y);
            }
            let residual = residual.get(r * self.stride..r * self.stride + self.n);
            y.iter_mut().zip(residual.unwrap_or(&[])).for_each(|(y, s)| *y += s);
        }
    }
}

pub fn linear(call: &mut Call) {
    let [m, n, k] = [0, 1, 2].map(|i| call.size(i));
    let [lda, ldb, ldy] = [3, 4, 5].map(|i| call.u32(i) as usize);
    let (a_t, b_t, activation) = (call.u32(6) == 1, call.u32(7) == 1, call.u32(8));
    let (has_bias, has_residual) = (call.u32(9) == 1, call.u32(10) == 1);
    let [a, b, bias, residual, mut y] = call.args();
    let (a, b, bias, residual) = (a.f32(), b.f32(), bias.f32(), residual.f32());
    if m == 0 || n == 0 {
        return;
    }
    let y = &mut y.f32_mut()[..(m - 1) * ldy + n];
    let (row, col) = if a_t { (1, lda) } else { (lda, 1) };
    let a = Matrix { data: a, row, col };
    let (row, col) = if b_t { (1, ldb) } else { (ldb, 1) };
    let b = Matrix { data: b, row, col };
    let epilogue = Epilogue { n, stride: ldy, bias: if has_bias { bias } else { &[] }, activation };
    // A residual that is overwritten by `y` is there already; with an activation it must be added afterwards.
    let here = has_residual && residual.is_empty();
    if here && activation != 0 {
        y.par_chunks_mut(ROWS * ldy).enumerate().for_each(|(i, y)| {
            let (first, rows) = (i * ROWS, ROWS.min(m - i * ROWS));
            let kept = y.to_vec();
            let a = Matrix { data: a.data.get(first * a.row..).unwrap_or(&[]), ..a };
            if k > 0 {
                matmul(rows, n, k, MatrixMut { data: y, row: ldy }, 0.0, a, b);
            } else {
                y.fill(0.0);
            }
            epilogue.apply(y, &kept);
        });
        return;
    }
    if k > 0 {
        matmul_by_all(m, n, k, MatrixMut { data: y, row: ldy }, if here { 1.0 } else { 0.0 }, a, b);
    } else if !here {
        y.chunks_mut(ldy).for_each(|y| y[..n].fill(0.0));
    }
    if !epilogue.bias.is_empty() || activation != 0 || !residual.is_empty() {
        y.par_chunks_mut(ROWS * ldy).enumerate().for_each(|(i, y)| {
            epilogue.apply(y, residual.get(i * ROWS * ldy..).unwrap_or(&[]));
        });
    }
}
