//! Kernels of `put_rows` and `take_rows`.

use super::Call;
use rayon::prelude::*;

/// Elements one task copies.
const PART: usize = 1 << 16;

pub fn put_rows(call: &mut Call) {
    let ([rows, n], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [x, part, begin, mut y] = call.args();
    let begin = (begin.u32()[0] as usize).min(rows);
    let here = n.min(rows - begin) * cols;
    let (before, rest) = y.f32_mut()[..rows * cols].split_at_mut(begin * cols);
    let (run, after) = rest.split_at_mut(here);
    copy(&part.f32()[..here], run);
    if !x.is_overwritten() {
        let x = &x.f32()[..rows * cols];
        copy(&x[..before.len()], before);
        copy(&x[x.len() - after.len()..], after);
    }
}

pub fn take_rows(call: &mut Call) {
    let ([rows, n], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let [x, begin, mut y] = call.args();
    let begin = (begin.u32()[0] as usize).min(rows);
    let here = n.min(rows - begin) * cols;
    let (run, beyond) = y.f32_mut()[..n * cols].split_at_mut(here);
    copy(&x.f32()[begin * cols..][..here], run);
    beyond.fill(0.0);
}

fn copy(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
}
