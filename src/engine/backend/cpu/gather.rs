//! Kernels of `gather` and `scatter_add`, and of the same between two rows.

use super::Call;
use super::lanes::simd;
use rayon::prelude::*;

/// Rows one task writes.
const ROWS: usize = 64;

pub fn gather(call: &mut Call) {
    let ([rows, m], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [x, index, mut y] = call.args();
    let (x, index) = (&x.f32()[..rows * cols], &index.u32()[..m]);
    if cols == 0 {
        return;
    }
    let tasks = y.f32_mut()[..m * cols].par_chunks_mut(ROWS * cols).zip(index.par_chunks(ROWS));
    tasks.for_each(|(y, index)| {
        for (y, r) in y.chunks_exact_mut(cols).zip(index) {
            match x.chunks_exact(cols).nth(*r as usize) {
                Some(x) => y.copy_from_slice(x),
                None => y.fill(0.0),
            }
        }
    });
}

/// A task owns rows of the output and goes through the whole index: every row adds in the index's order.
pub fn scatter_add(call: &mut Call) {
    let ([rows, m], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [dy, index, mut x] = call.args();
    let (dy, index) = (&dy.f32()[..m * cols], &index.u32()[..m]);
    if cols == 0 {
        return;
    }
    x.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, x)| {
        x.fill(0.0);
        for (dy, r) in dy.chunks_exact(cols).zip(index) {
            let here = (*r as usize).checked_sub(task * ROWS).and_then(|r| x.chunks_exact_mut(cols).nth(r));
            if let Some(x) = here {
                x.iter_mut().zip(dy).for_each(|(x, dy)| *x += dy);
            }
        }
    });
}

pub fn gather_lerp(call: &mut Call) {
    let ([rows, m], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [x, first, second, weight, mut y] = call.args();
    let (x, first, second, weight) =
        (&x.f32()[..rows * cols], &first.u32()[..m], &second.u32()[..m], &weight.f32()[..m]);
    if cols == 0 {
        return;
    }
    let row = |r: u32| x.chunks_exact(cols).nth(r as usize);
    y.f32_mut()[..m * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, y)| {
        simd(
            #[inline(always)]
            || {
                for (y, m) in y.chunks_exact_mut(cols).zip(task * ROWS..) {
                    let w = weight[m];
                    match (row(first[m]), row(second[m])) {
                        (Some(a), Some(b)) => {
                            y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = (1.0 - w) * a + w * b);
                        }
                        (Some(a), None) => y.iter_mut().zip(a).for_each(|(y, a)| *y = (1.0 - w) * a),
                        (None, Some(b)) => y.iter_mut().zip(b).for_each(|(y, b)| *y = w * b),
                        (None, None) => y.fill(0.0),
                    }
                }
            },
        );
    });
}

/// As `scatter_add`: a task owns rows and goes through both indices.
pub fn scatter_lerp(call: &mut Call) {
    let ([rows, m], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [dy, first, second, weight, mut x] = call.args();
    let (dy, first, second) = (&dy.f32()[..m * cols], &first.u32()[..m], &second.u32()[..m]);
    let weight = &weight.f32()[..m];
    if cols == 0 {
        return;
    }
    x.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, x)| {
        x.fill(0.0);
        simd(
            #[inline(always)]
            || {
                for (m, dy) in dy.chunks_exact(cols).enumerate() {
                    for (r, w) in [(first[m], 1.0 - weight[m]), (second[m], weight[m])] {
                        let here = (r as usize).checked_sub(task * ROWS).and_then(|r| x.chunks_exact_mut(cols).nth(r));
                        if let Some(x) = here {
                            x.iter_mut().zip(dy).for_each(|(x, dy)| *x = w.mul_add(*dy, *x));
                        }
                    }
                }
            },
        );
    });
}
