//! Kernels of `gather` and `scatter_add`.

use super::Call;
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
