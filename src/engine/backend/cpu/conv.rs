//! Kernels of the temporal convolution. Tables are clamped to the rows there are.

use super::Call;
use super::lanes::simd;
use super::segment::Table;
use rayon::prelude::*;
use std::ops::Range;

/// Rows one task of the kernels by rows works on.
const ROWS: usize = 32;

/// `f(row, row's place in y, rows of its segment)` for every row that lies in a segment; the others are 0.
fn each_row(table: Table, cols: usize, y: &mut [f32], f: impl Fn(usize, &mut [f32], &Range<usize>) + Sync) {
    if cols == 0 {
        return;
    }
    y.par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, y)| {
        let first = task * ROWS;
        let end = first + y.len() / cols;
        y.fill(0.0);
        simd(
            #[inline(always)]
            || {
                for i in table.from(first) {
                    let rows = table.whole(i);
                    if rows.start >= end {
                        break;
                    }
                    for t in rows.start.max(first)..rows.end.min(end) {
                        f(t, &mut y[(t - first) * cols..][..cols], &rows);
                    }
                }
            },
        );
    });
}

/// `y += a ⊙ b`
#[inline(always)]
fn add_product(y: &mut [f32], a: &[f32], b: &[f32]) {
    y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = a.mul_add(*b, *y));
}

/// The row that tap `w` reads for row `t` of a segment that has rows.
#[inline(always)]
fn tap(t: usize, w: usize, width: usize, rows: &Range<usize>) -> usize {
    (t + w).saturating_sub(width / 2).clamp(rows.start, rows.end - 1)
}

pub fn conv(call: &mut Call) {
    let ([rows, n], [cols, width]) = ([0, 1].map(|i| call.size(i)), [2, 3].map(|i| call.u32(i) as usize));
    let [x, weight, bias, segments, mut y] = call.args();
    let (x, weight, bias) = (x.f32(), weight.f32(), bias.f32());
    let table = Table::new(segments.u32(), n, rows, 0);
    each_row(
        table,
        cols,
        &mut y.f32_mut()[..rows * cols],
        #[inline(always)]
        |t, y, rows| {
            if let Some(bias) = bias.get(..cols) {
                y.copy_from_slice(bias);
            }
            for (w, weight) in weight.chunks_exact(cols).take(width).enumerate() {
                add_product(y, weight, &x[tap(t, w, width, rows) * cols..][..cols]);
            }
        },
    );
}

pub fn conv_dx(call: &mut Call) {
    let ([rows, n], [cols, width]) = ([0, 1].map(|i| call.size(i)), [2, 3].map(|i| call.u32(i) as usize));
    let [dy, weight, segments, mut dx] = call.args();
    let (dy, weight) = (dy.f32(), weight.f32());
    let table = Table::new(segments.u32(), n, rows, 0);
    each_row(
        table,
        cols,
        &mut dx.f32_mut()[..rows * cols],
        #[inline(always)]
        |s, dx, rows| {
            for (w, weight) in weight.chunks_exact(cols).take(width).enumerate() {
                for t in readers(s, w, width, rows) {
                    add_product(dx, weight, &dy[t * cols..][..cols]);
                }
            }
        },
    );
}

/// The rows whose tap `w` reads row `s`: one, or for the first and last row of a segment also those beyond whom the
/// filter reaches.
#[inline(always)]
fn readers(s: usize, w: usize, width: usize, rows: &Range<usize>) -> Range<usize> {
    // Row t reads t + w - half.
    let same = (s + width / 2).saturating_sub(w);
    let outside = s + width / 2 < w;
    let from = if s == rows.start { rows.start } else { same.max(rows.start) };
    let to = if s + 1 == rows.end { rows.end } else { (same + 1).min(rows.end) };
    // Nothing reads this row by this tap where row t would have a negative number.
    if outside && s + 1 != rows.end { 0..0 } else { from..to.max(from) }
}

/// Sums of one part of the rows: a task a part.
pub fn conv_dw(call: &mut Call) {
    let ([rows, n], [cols, width]) = ([0, 1].map(|i| call.size(i)), [2, 3].map(|i| call.u32(i) as usize));
    let [part_rows, parts] = [4, 5].map(|i| call.u32(i) as usize);
    let [x, dy, segments, mut filters, mut biases] = call.args();
    let (x, dy, table) = (x.f32(), dy.f32(), Table::new(segments.u32(), n, rows, 0));
    if cols == 0 {
        return;
    }
    let filters = filters.f32_mut().par_chunks_mut(width * cols);
    let tasks = filters.zip(biases.f32_mut().par_chunks_mut(cols)).take(parts).enumerate();
    tasks.for_each(|(part, (filter, bias))| {
        let (first, end) = (part * part_rows, ((part + 1) * part_rows).min(rows));
        filter.fill(0.0);
        bias.fill(0.0);
        simd(
            #[inline(always)]
            || {
                for i in table.from(first) {
                    let rows = table.whole(i);
                    if rows.start >= end {
                        break;
                    }
                    for t in rows.start.max(first)..rows.end.min(end) {
                        let dy = &dy[t * cols..][..cols];
                        bias.iter_mut().zip(dy).for_each(|(b, dy)| *b += dy);
                        for (w, filter) in filter.chunks_exact_mut(cols).enumerate() {
                            add_product(filter, dy, &x[tap(t, w, width, &rows) * cols..][..cols]);
                        }
                    }
                }
            },
        );
    });
}
