//! Kernels of the ops over segments of packed rows. Tables are clamped to the rows there are, so that no table can
//! make a kernel read outside.

use super::Call;
use super::lanes::{exp, max, simd, sum};
use crate::engine::op::segment::FLOOR;
use rayon::prelude::*;
use std::ops::Range;

/// Segments one task works on.
const SEGMENTS: usize = 16;
/// Rows one task of a kernel over matrices works on, and of one over vectors.
const ROWS: usize = 32;
const VECTOR: usize = 4096;

/// The table of segments, clamped to the rows.
#[derive(Copy, Clone)]
pub(super) struct Table<'a> {
    pairs: &'a [[u32; 2]],
    rows: usize,
    tail: usize,
}

impl<'a> Table<'a> {
    pub(super) fn new(words: &'a [u32], n: usize, rows: usize, tail: u32) -> Table<'a> {
        let pairs = words.as_chunks::<2>().0;
        Table { pairs: &pairs[..n.min(pairs.len())], rows, tail: tail as usize }
    }
    /// All rows of segment `i`.
    pub(super) fn whole(&self, i: usize) -> Range<usize> {
        let [begin, end] = self.pairs[i].map(|x| (x as usize).min(self.rows));
        begin..end.max(begin)
    }
    /// The rows of segment `i` that take part.
    pub(super) fn members(&self, i: usize) -> Range<usize> {
        let whole = self.whole(i);
        whole.start..whole.end.saturating_sub(self.tail).max(whole.start)
    }
    /// The segments that have rows at or behind `row`.
    pub(super) fn from(&self, row: usize) -> Range<usize> {
        self.pairs.partition_point(|p| (p[1] as usize) <= row)..self.pairs.len()
    }
}

pub fn segment_reduce(call: &mut Call) {
    let ([rows, n], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let kind = call.u32(3);
    let tail = call.u32(4);
    let [x, segments, mut y] = call.args();
    let (x, table) = (x.f32(), Table::new(segments.u32(), n, rows, tail));
    if cols == 0 {
        return;
    }
    y.f32_mut()[..n * cols].par_chunks_mut(SEGMENTS * cols).enumerate().for_each(|(task, y)| {
        simd(
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(cols).enumerate() {
                    let i = task * SEGMENTS + i;
                    y.fill(0.0);
                    let taking_part = if kind == 2 { last(table.whole(i)) } else { table.members(i) };
                    for x in x[taking_part.start * cols..taking_part.end * cols].chunks_exact(cols) {
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                    }
                    if kind == 1 {
                        let share = 1.0 / taking_part.len().max(1) as f32;
                        y.iter_mut().for_each(|y| *y *= share);
                    }
                }
            },
        );
    });
}

/// The last row of a segment, or none.
fn last(whole: Range<usize>) -> Range<usize> {
    if whole.is_empty() { whole } else { whole.end - 1..whole.end }
}

pub fn segment_spread(call: &mut Call) {
    let ([rows, n], cols) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize);
    let (kind, tail) = (call.u32(3), call.u32(4));
    let [y, segments, mut x] = call.args();
    let (y, table) = (y.f32(), Table::new(segments.u32(), n, rows, tail));
    if cols == 0 {
        return;
    }
    x.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, x)| {
        let first = task * ROWS;
        let here = first..first + x.len() / cols;
        x.fill(0.0);
        for i in table.from(first) {
            if table.whole(i).start >= here.end {
                break;
            }
            let targets = if kind == 2 { last(table.whole(i)) } else { table.members(i) };
            let share = if kind == 1 { 1.0 / targets.len().max(1) as f32 } else { 1.0 };
            let y = &y[i * cols..][..cols];
            for r in targets.start.max(here.start)..targets.end.min(here.end) {
                x[(r - first) * cols..][..cols].iter_mut().zip(y).for_each(|(x, y)| *x = y * share);
            }
        }
    });
}

/// `f` of the rows of each segment that take part.
#[inline(always)]
fn each_segment(call: &mut Call, f: impl Fn(&[f32]) -> f32 + Sync) {
    let ([rows, n], tail) = ([0, 1].map(|i| call.size(i)), call.u32(2));
    let [x, segments, mut out] = call.args();
    let (x, table) = (x.f32(), Table::new(segments.u32(), n, rows, tail));
    out.f32_mut()[..n].par_chunks_mut(SEGMENTS).enumerate().for_each(|(task, out)| {
        simd(
            #[inline(always)]
            || {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f(&x[table.members(task * SEGMENTS + i)]);
                }
            },
        );
    });
}

pub fn segment_lse(call: &mut Call) {
    each_segment(
        call,
        #[inline(always)]
        |x| {
            let max = max(x, FLOOR);
            let mut total = 0.0;
            let mut strip = [0.0f32; 64];
            for x in x.chunks(64) {
                for (s, x) in strip.iter_mut().zip(x) {
                    *s = exp(x - max);
                }
                total += sum(&strip[..x.len()]);
            }
            if x.is_empty() { FLOOR } else { max + total.ln() }
        },
    );
}

pub fn segment_total(call: &mut Call) {
    each_segment(call, sum);
}

/// `f(rows here, segment)` for every segment's members within each task's rows of `y`, which `f` gets as a slice.
fn each_member(table: Table, y: &mut [f32], outside: f32, f: impl Fn(&mut [f32], Range<usize>, usize) + Sync) {
    y.par_chunks_mut(VECTOR).enumerate().for_each(|(task, y)| {
        let first = task * VECTOR;
        let end = first + y.len();
        // Every row is either covered by a segment's members or told so, from left to right.
        let mut done = first;
        for i in table.from(first) {
            let members = table.members(i);
            if members.start >= end {
                break;
            }
            let (from, to) = (members.start.max(done), members.end.min(end));
            if from < to {
                y[done - first..from - first].fill(outside);
                f(&mut y[from - first..to - first], from..to, i);
                done = to;
            }
        }
        y[done - first..].fill(outside);
    });
}

pub fn segment_log_softmax(call: &mut Call) {
    let ([rows, n], tail) = ([0, 1].map(|i| call.size(i)), call.u32(2));
    let [x, segments, lse, mut y] = call.args();
    let (x, lse, table) = (x.f32(), lse.f32(), Table::new(segments.u32(), n, rows, tail));
    each_member(table, &mut y.f32_mut()[..rows], FLOOR, |y, here, i| {
        if let Some(x) = x.get(here) {
            y.copy_from_slice(x);
        }
        y.iter_mut().for_each(|y| *y -= lse[i]);
    });
}

pub fn segment_log_softmax_grad(call: &mut Call) {
    let ([rows, n], tail) = ([0, 1].map(|i| call.size(i)), call.u32(2));
    let [y, dy, segments, total, mut dx] = call.args();
    let (y, dy, total) = (y.f32(), dy.f32(), total.f32());
    let table = Table::new(segments.u32(), n, rows, tail);
    each_member(table, &mut dx.f32_mut()[..rows], 0.0, |dx, here, i| {
        if let Some(dy) = dy.get(here.clone()) {
            dx.copy_from_slice(dy);
        }
        simd(
            #[inline(always)]
            || {
                for (dx, y) in dx.iter_mut().zip(&y[here]) {
                    *dx = exp(*y).mul_add(-total[i], *dx);
                }
            },
        );
    });
}
