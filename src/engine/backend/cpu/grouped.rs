//! Kernels of `grouped_linear` and its gradients.
//!
//! # Notebook
//! Where every row meets all experts, the products are strided and nothing is copied; where the slots also read one x,
//! they are one product by `linear`, and no kernel of this file runs.
//!
//! Dispatched rows are gathered for `gemm`, multiplied and put where they belong. A task owns a stretch of rows of the
//! result and takes of each expert's run what falls into it: runs are in the order of the slots, so that is a range,
//! found by bisection. Results are then written by nobody else, and gathered rows stay in the second-level cache. One
//! gather of the whole run would write and read all of it in memory, twice.

use super::{Call, Matrix, MatrixMut, matmul, matmul_by_all};
use rayon::prelude::*;

/// Rows of the result that are worked on at a time: what is gathered for several experts stays in cache.
const BLOCK: usize = 256;
/// Slots that are gathered at a time.
pub const GATHERED: usize = 128;
/// The most tasks: each needs scratch memory.
const STRETCHES: usize = 32;

/// The most stretches that up to `rows` rows are divided into, and how long they are for exactly so many.
pub fn stretches(rows: usize) -> (usize, usize) {
    let blocks = rows.div_ceil(BLOCK);
    (blocks.min(STRETCHES), blocks.div_ceil(STRETCHES).max(1) * BLOCK)
}

/// The run of expert `e`.
fn run<'a>(order: &'a [u32], offsets: &[u32], e: usize) -> &'a [u32] {
    let bounds = offsets.get(e).zip(offsets.get(e + 1));
    bounds.and_then(|(begin, end)| order.get(*begin as usize..*end as usize)).unwrap_or(&[])
}

/// The slots of a run from `begin` to `end`.
fn within(run: &[u32], begin: usize, end: usize) -> &[u32] {
    let at = |bound: usize| run.partition_point(|slot| (*slot as usize) < bound);
    run.get(at(begin)..at(end)).unwrap_or(&[])
}

/// Copies rows of `n` that are named by `rows`.
fn gather(to: &mut [f32], from: &[f32], n: usize, rows: impl Iterator<Item = usize>) {
    for (to, row) in to.chunks_exact_mut(n.max(1)).zip(rows) {
        if let Some(from) = from.get(row * n..(row + 1) * n) {
            to.copy_from_slice(from);
        }
    }
}

/// What a product of slots is.
struct Product<'a> {
    slots: usize,
    experts: usize,
    depth: usize,
    width: usize,
    x_shared: bool,
    forward: bool,
    combined: bool,
    x: &'a [f32],
    weight: &'a [f32],
    order: &'a [u32],
    offsets: &'a [u32],
}

impl Product<'_> {
    /// The matrix of expert `e` as the right factor, `[depth, width]`.
    fn factor(&self, e: usize) -> Matrix<'_> {
        let (row, col) = if self.forward { (1, self.depth) } else { (self.width, 1) };
        Matrix { data: &self.weight[e * self.depth * self.width..][..self.depth * self.width], row, col }
    }

    /// The products of the rows from `first` on, which `y` holds, with all experts.
    fn strided(&self, first: usize, y: &mut [f32]) {
        let stride = self.slots * self.width;
        let rows = y.len() / stride;
        for e in 0..self.experts {
            let data = &self.x[(first * self.slots + e) * self.depth..];
            let x = Matrix { data, row: self.slots * self.depth, col: 1 };
            let c = MatrixMut { data: &mut y[e * self.width..], row: stride };
            matmul(rows, self.width, self.depth, c, 0.0, x, self.factor(e));
        }
    }

    /// The products of the slots from `first` on, which `y` holds, each with its expert.
    fn dispatched(&self, first: usize, y: &mut [f32], scratch: &mut [f32]) {
        let per_row = if self.combined { self.slots } else { 1 };
        let end = first + y.len() / self.width * per_row;
        let (xs, ys) = scratch.split_at_mut(GATHERED * self.depth);
        if self.combined {
            y.fill(0.0);
        }
        for e in 0..self.experts {
            for slots in within(run(self.order, self.offsets, e), first, end).chunks(GATHERED) {
                let by = if self.x_shared { self.slots } else { 1 };
                gather(&mut xs[..slots.len() * self.depth], self.x, self.depth, slots.iter().map(|s| *s as usize / by));
                let c = MatrixMut { data: &mut ys[..slots.len() * self.width], row: self.width };
                let x = Matrix { data: xs, row: self.depth, col: 1 };
                matmul(slots.len(), self.width, self.depth, c, 0.0, x, self.factor(e));
                self.put(first, slots, ys, y);
            }
        }
    }

    /// Puts products where they belong, or adds them there.
    fn put(&self, first: usize, slots: &[u32], products: &[f32], y: &mut [f32]) {
        for (slot, product) in slots.iter().zip(products.chunks_exact(self.width)) {
            let place = *slot as usize - first;
            if self.combined {
                let y = &mut y[place / self.slots * self.width..][..self.width];
                y.iter_mut().zip(product).for_each(|(y, p)| *y += p);
            } else {
                y[place * self.width..][..self.width].copy_from_slice(product);
            }
        }
    }
}

pub fn product(call: &mut Call) {
    let rows = call.size(0);
    let [slots, experts, depth, width] = [1, 2, 3, 4].map(|i| call.u32(i) as usize);
    let [x_shared, forward, combined, dispatched] = [5, 6, 7, 8].map(|i| call.u32(i) == 1);
    let [x, weight, order, offsets, mut scratch, mut y] = call.args();
    let (x, weight, order, offsets) = (x.f32(), weight.f32(), order.u32(), offsets.u32());
    let cols = if combined { width } else { slots * width };
    if rows == 0 || width == 0 {
        return;
    }
    let y = &mut y.f32_mut()[..rows * cols];
    if depth == 0 {
        y.fill(0.0);
        return;
    }
    let order = order.get(..rows * slots).unwrap_or(&[]);
    let p = Product { slots, experts, depth, width, x_shared, forward, combined, x, weight, order, offsets };
    if !dispatched {
        y.par_chunks_mut(BLOCK * cols).enumerate().for_each(|(i, y)| p.strided(i * BLOCK, y));
        return;
    }
    let stretch = stretches(rows).1;
    let scratch = scratch.f32_mut().par_chunks_mut(GATHERED * (depth + width));
    y.par_chunks_mut(stretch * cols).zip(scratch).enumerate().for_each(|(i, (y, scratch))| {
        for (block, y) in y.chunks_mut(BLOCK * cols).enumerate() {
            p.dispatched((i * stretch + block * BLOCK) * slots, y, scratch);
        }
    });
}

pub fn dw(call: &mut Call) {
    let rows = call.size(0);
    let [slots, experts, inner, outer] = [1, 2, 3, 4].map(|i| call.u32(i) as usize);
    let (shared, dispatched) = (call.u32(5) == 1, call.u32(6) == 1);
    let [x, dy, order, offsets, mut scratch, mut dw] = call.args();
    let (x, dy, offsets) = (x.f32(), dy.f32(), offsets.u32());
    let order = order.u32().get(..rows * slots).unwrap_or(&[]);
    if inner == 0 || outer == 0 {
        return;
    }
    let dw = &mut dw.f32_mut()[..experts * outer * inner];
    if rows == 0 {
        dw.fill(0.0);
    } else if !dispatched {
        for (e, dw) in dw.chunks_exact_mut(outer * inner).enumerate() {
            let left = Matrix { data: &dy[e * outer..], row: 1, col: slots * outer };
            let right = Matrix { data: &x[e * inner..], row: slots * inner, col: 1 };
            matmul_by_all(outer, inner, rows, MatrixMut { data: dw, row: inner }, 0.0, left, right);
        }
    } else {
        let scratch = scratch.f32_mut().par_chunks_mut(GATHERED * (inner + outer));
        dw.par_chunks_mut(outer * inner).zip(scratch).enumerate().for_each(|(e, (dw, scratch))| {
            dw.fill(0.0);
            let (xs, dys) = scratch.split_at_mut(GATHERED * inner);
            for chunk in run(order, offsets, e).chunks(GATHERED) {
                let by = if shared { slots } else { 1 };
                gather(&mut xs[..chunk.len() * inner], x, inner, chunk.iter().map(|s| *s as usize / by));
                gather(&mut dys[..chunk.len() * outer], dy, outer, chunk.iter().map(|s| *s as usize));
                let left = Matrix { data: dys, row: 1, col: outer };
                let right = Matrix { data: xs, row: inner, col: 1 };
                matmul(outer, inner, chunk.len(), MatrixMut { data: dw, row: inner }, 1.0, left, right);
            }
        });
    }
}
