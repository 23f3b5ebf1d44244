//! Kernel of `linear`: `gemm` over row blocks of fixed size, with the epilogue while a block is in cache.

use super::{Call, Matrix, MatrixMut, matmul};
use rayon::prelude::*;

/// Rows of `y` that one task computes.
const ROWS: usize = 128;

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
    y.f32_mut()[..(m - 1) * ldy + n].par_chunks_mut(ROWS * ldy).enumerate().for_each(|(i, y)| {
        let first = i * ROWS;
        let rows = ROWS.min(m - first);
        let (row, col) = if a_t { (1, lda) } else { (lda, 1) };
        let a = Matrix { data: a.get(first * row..).unwrap_or(&[]), row, col };
        let (row, col) = if b_t { (1, ldb) } else { (ldb, 1) };
        // A residual that is overwritten by `y` is there already; with an activation it must be added afterwards.
        let here = has_residual && residual.is_empty();
        let kept: Vec<f32> = if here && activation != 0 { y.to_vec() } else { vec![] };
        let accumulate = here && activation == 0;
        let beta = if accumulate { 1.0 } else { 0.0 };
        if k > 0 {
            matmul(rows, n, k, MatrixMut { data: y, row: ldy }, beta, a, Matrix { data: b, row, col });
        } else if !accumulate {
            (0..rows).for_each(|r| y[r * ldy..][..n].fill(0.0));
        }
        let source = if kept.is_empty() { residual.get(first * ldy..).unwrap_or(&[]) } else { &kept[..] };
        for r in 0..rows {
            let y = &mut y[r * ldy..][..n];
            if has_bias {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
            if activation != 0 {
                super::pointwise::apply(activation, y);
            }
            if let Some(source) = source.get(r * ldy..r * ldy + n) {
                y.iter_mut().zip(source).for_each(|(y, s)| *y += s);
            }
        }
    });
}
