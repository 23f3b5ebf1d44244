//! Kernels of `attention` and `attention_grad`.
//!
//! Work is divided by segments: a task owns the rows of a few, and what lies between them. A head of a segment is
//! worked through in blocks of queries whose logits stay in the first-level cache; its keys are turned, so that a
//! vector holds a column of 16 keys, and all five products run in registers of 4 rows x 32 columns.

use super::Call;
use super::interact::exp::exp;
use super::lanes::{dot, sum};
use super::segment::Table;
use crate::engine::op::attention::{EXCLUDED, MOST_COLUMNS, MOST_KEYS};
use crate::engine::op::segment::FLOOR;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Segments of one task.
const SEGMENTS: usize = 4;
/// Numbers in a vector.
const LANES: usize = 16;
/// Queries of a block, and the logits it has room for.
const QUERIES: usize = 32;
const LOGITS: usize = 4096;
/// Keys that are turned at a time.
const KEYS: usize = 64;

/// What a task works with.
struct Scratch {
    /// Columns of up to [`KEYS`] keys.
    turned: [f32; MOST_COLUMNS * KEYS],
    /// Logits, then probabilities.
    logits: [f32; LOGITS],
    /// Gradients of the probabilities, then of the logits.
    slopes: [f32; LOGITS],
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { turned: [0.0; MOST_COLUMNS * KEYS], logits: [0.0; LOGITS], slopes: [0.0; LOGITS] }
    }
}

/// Sizes and operands, which all tasks read.
struct Problem<'a> {
    heads: usize,
    /// Columns of a head, and of a row.
    d: usize,
    cols: usize,
    max_keys: usize,
    scale: f32,
    causal: bool,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    queries: Table<'a>,
    keys: Table<'a>,
    /// Empty where all keys weigh the same.
    weights: &'a [f32],
}

impl<'a> Problem<'a> {
    fn new(call: &Call, [q, k, v]: [&'a [f32]; 3], segments: [&'a [u32]; 2], weights: &'a [f32]) -> Problem<'a> {
        let [rq, rk, n] = [0, 1, 2].map(|i| call.size(i));
        let [heads, d, max_keys] = [3, 4, 5].map(|i| call.u32(i) as usize);
        Problem {
            heads,
            d,
            cols: heads * d,
            max_keys: max_keys.min(MOST_KEYS),
            scale: call.f32(6),
            causal: call.u32(7) == 1,
            q,
            k,
            v,
            queries: Table::new(segments[0], n, rq, 0),
            keys: Table::new(segments[1], n, rk, 0),
            weights: &weights[..if weights.is_empty() { 0 } else { rk }],
        }
    }

    /// The keys of segment `i` that take part.
    fn keys_of(&self, i: usize, here: &Range<usize>) -> Range<usize> {
        let keys = within(self.keys.whole(i), here);
        keys.start..keys.end.min(keys.start + self.max_keys)
    }

    /// Of the keys of a segment those that one of its first `queries` queries sees.
    fn seen(&self, keys: &Range<usize>, queries: usize) -> Range<usize> {
        if self.causal { keys.start..keys.end.min(keys.start + queries) } else { keys.clone() }
    }

    /// Queries of a block that has so many keys, and the length of a row of its logits.
    fn block(&self, keys: usize) -> (usize, usize) {
        let stride = keys.next_multiple_of(LANES).max(LANES);
        (QUERIES.min(LOGITS / stride), stride)
    }

    /// `to[i][j] = ⟨a_i, b_j⟩` over the columns of a head, for `rows` of `a` and `keys` of `b`; rows of `to` are
    /// padded with zeros.
    #[inline(always)]
    fn dots<S: Simd>(
        &self,
        s: S,
        [a, b]: [&[f32]; 2],
        rows: &Range<usize>,
        keys: &Range<usize>,
        h: usize,
        scratch: [&mut [f32]; 2],
    ) {
        let [turned, to] = scratch;
        let (_, stride) = self.block(keys.len());
        for first in keys.clone().step_by(KEYS) {
            let number = (keys.end - first).min(KEYS);
            let width = number.next_multiple_of(LANES);
            for c in 0..self.d {
                turned[c * KEYS + number..c * KEYS + width].fill(0.0);
            }
            for j in 0..number {
                let row = &b[(first + j) * self.cols + h * self.d..][..self.d];
                for (to, x) in turned[j..].iter_mut().step_by(KEYS).zip(row) {
                    *to = *x;
                }
            }
            let a = Left { at: &a[rows.start * self.cols + h * self.d..], row: self.cols, col: 1 };
            let to = Target { at: &mut to[first - keys.start..], row: stride };
            product::<false, S>(s, [rows.len(), width, self.d], a, (turned, KEYS), to);
        }
    }

    /// The logits of the query at a place of its segment: scaled, weighted, and floored where a key takes no part and
    /// behind the keys.
    #[inline(always)]
    fn weigh(&self, row: &mut [f32], keys: &Range<usize>, place: usize) {
        if self.weights.is_empty() {
            row.iter_mut().for_each(|x| *x *= self.scale);
        } else {
            for (x, w) in row.iter_mut().zip(&self.weights[keys.clone()]) {
                *x = if *w <= EXCLUDED { FLOOR } else { x.mul_add(self.scale, *w) };
            }
        }
        row[self.seen(keys, place + 1).len()..].fill(FLOOR);
    }
}

fn within(rows: Range<usize>, bounds: &Range<usize>) -> Range<usize> {
    let start = rows.start.clamp(bounds.start, bounds.end);
    start..rows.end.clamp(start, bounds.end)
}

/// The left factor of a product: element (r, c) is `at[r * row + c * col]`.
#[derive(Copy, Clone)]
struct Left<'a> {
    at: &'a [f32],
    row: usize,
    col: usize,
}

struct Target<'a> {
    at: &'a mut [f32],
    row: usize,
}

/// `to[m, n] = a[m, k] · b[k, n]`, or `+=` with ADD; `b` comes with the length of its rows.
#[inline(always)]
fn product<const ADD: bool, S: Simd>(s: S, [m, n, k]: [usize; 3], a: Left, b: (&[f32], usize), mut to: Target) {
    let lanes = S::F32_LANES;
    let mut c = 0;
    while c + 2 * lanes <= n {
        strip::<ADD, 2, S>(s, [m, k, c], a, b, &mut to);
        c += 2 * lanes;
    }
    while c + lanes <= n {
        strip::<ADD, 1, S>(s, [m, k, c], a, b, &mut to);
        c += lanes;
    }
    if c < n {
        rest::<ADD, S>(s, [m, n, k], c, a, b, &mut to);
    }
}

/// V vectors of columns from `c` on.
#[inline(always)]
fn strip<const ADD: bool, const V: usize, S: Simd>(
    s: S,
    [m, k, c]: [usize; 3],
    a: Left,
    b: (&[f32], usize),
    to: &mut Target,
) {
    let mut r = 0;
    while r + 4 <= m {
        tile::<ADD, 4, V, S>(s, [r, k, c], a, b, to);
        r += 4;
    }
    while r < m {
        tile::<ADD, 1, V, S>(s, [r, k, c], a, b, to);
        r += 1;
    }
}

#[inline(always)]
fn tile<const ADD: bool, const R: usize, const V: usize, S: Simd>(
    s: S,
    [r, k, c]: [usize; 3],
    a: Left,
    (b, b_row): (&[f32], usize),
    to: &mut Target,
) {
    let mut sums = [[s.splat_f32s(0.0); V]; R];
    for p in 0..k {
        let (vectors, _) = S::as_simd_f32s(&b[p * b_row + c..][..V * S::F32_LANES]);
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = s.splat_f32s(a.at[(r + i) * a.row + p * a.col]);
            for v in 0..V {
                sums[v] = s.mul_add_e_f32s(x, vectors[v], sums[v]);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        let (vectors, _) = S::as_mut_simd_f32s(&mut to.at[(r + i) * to.row + c..][..V * S::F32_LANES]);
        for (to, sum) in vectors.iter_mut().zip(sums) {
            *to = if ADD { s.add_f32s(*to, sum) } else { sum };
        }
    }
}

/// The columns from `c` to n, fewer than a vector.
#[inline(always)]
fn rest<const ADD: bool, S: Simd>(
    s: S,
    [m, n, k]: [usize; 3],
    c: usize,
    a: Left,
    (b, b_row): (&[f32], usize),
    to: &mut Target,
) {
    for r in 0..m {
        let mut sum = s.splat_f32s(0.0);
        for p in 0..k {
            let x = s.splat_f32s(a.at[r * a.row + p * a.col]);
            sum = s.mul_add_e_f32s(x, s.partial_load_f32s(&b[p * b_row + c..][..n - c]), sum);
        }
        let to = &mut to.at[r * to.row + c..][..n - c];
        let sum = if ADD { s.add_f32s(s.partial_load_f32s(to), sum) } else { sum };
        s.partial_store_f32s(to, sum);
    }
}

/// `x = e^(x − shift)`; x is a whole number of vectors.
#[inline(always)]
fn exp_of<S: Simd>(s: S, x: &mut [f32], shift: f32) {
    let shift = s.splat_f32s(shift);
    for x in S::as_mut_simd_f32s(x).0 {
        let shifted = s.sub_f32s(*x, shift);
        // What is added is 0, or NaN: a NaN must not vanish in the bounds that `exp` keeps.
        *x = s.mul_add_e_f32s(shifted, s.splat_f32s(0.0), exp(s, shifted));
    }
}

/// The largest number of a whole number of vectors, at least [`FLOOR`].
#[inline(always)]
fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut largest = s.splat_f32s(FLOOR);
    for x in S::as_simd_f32s(x).0 {
        largest = s.max_f32s(largest, *x);
    }
    s.reduce_max_f32s(largest)
}

/// The part of an output's rows before row `at` of `rows`, and the part from it on; an unwanted output has no rows.
fn cut<'a>(x: &'a mut [f32], rows: &Range<usize>, at: usize) -> (&'a mut [f32], &'a mut [f32]) {
    let (number, before) = (rows.len().max(1), at - rows.start);
    let middle = x.len() / number * before;
    x.split_at_mut(middle)
}

pub fn attention(call: &mut Call) {
    let args: [super::CpuArg; 8] = call.args();
    let [q, k, v, q_segments, k_segments, weights, mut y, mut lse] = args;
    let p = Problem::new(call, [q.f32(), k.f32(), v.f32()], [q_segments.u32(), k_segments.u32()], weights.f32());
    let rows = call.size(0);
    let (y, lse) = (&mut y.f32_mut()[..rows * p.cols], lse.f32_mut());
    let wanted = if lse.is_empty() { 0 } else { rows * p.heads };
    forward(&p, 0..call.size(2), 0..rows, y, &mut lse[..wanted]);
}

/// The queries in `rows`, which hold those of `segments`.
fn forward(p: &Problem, segments: Range<usize>, rows: Range<usize>, y: &mut [f32], lse: &mut [f32]) {
    if segments.len() > SEGMENTS {
        let middle = segments.start + segments.len() / 2;
        let at = p.queries.whole(middle).start.clamp(rows.start, rows.end);
        let ((y0, y1), (lse0, lse1)) = (cut(y, &rows, at), cut(lse, &rows, at));
        rayon::join(
            || forward(p, segments.start..middle, rows.start..at, y0, lse0),
            || forward(p, middle..segments.end, at..rows.end, y1, lse1),
        );
        return;
    }
    y.fill(0.0);
    lse.fill(FLOOR);
    Arch::new().dispatch(Forward { p, segments, rows, y, lse, scratch: Scratch::new() });
}

/// The segments of a task.
struct Forward<'a> {
    p: &'a Problem<'a>,
    segments: Range<usize>,
    /// The rows that `y` and `lse` hold.
    rows: Range<usize>,
    y: &'a mut [f32],
    lse: &'a mut [f32],
    scratch: Scratch,
}

impl WithSimd for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        for i in self.segments.clone() {
            let queries = within(self.p.queries.whole(i), &self.rows);
            let keys = self.p.keys_of(i, &(0..usize::MAX));
            let (block, _) = self.p.block(keys.len());
            for first in queries.clone().step_by(block) {
                let here = first..queries.end.min(first + block);
                let keys = self.p.seen(&keys, here.end - queries.start);
                for h in 0..self.p.heads {
                    self.attend(s, queries.start, here.clone(), &keys, h);
                }
            }
        }
    }
}

impl Forward<'_> {
    /// One head of a block of queries of the segment whose first is `begin`.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, s: S, begin: usize, here: Range<usize>, keys: &Range<usize>, h: usize) {
        let Forward { p, rows, y, lse, scratch, .. } = self;
        let Scratch { turned, logits, .. } = scratch;
        let (_, stride) = p.block(keys.len());
        p.dots(s, [p.q, p.k], &here, keys, h, [turned, logits]);
        for (i, row) in here.clone().zip(logits.chunks_exact_mut(stride)) {
            p.weigh(row, keys, i - begin);
            let largest = max(s, row);
            // Where nothing takes part, every weight becomes 0.
            exp_of(s, row, if largest <= EXCLUDED { 0.0 } else { largest });
            let total = sum(row);
            if total != 0.0 {
                let share = 1.0 / total;
                row.iter_mut().for_each(|x| *x *= share);
                if let Some(lse) = lse.get_mut((i - rows.start) * p.heads + h) {
                    *lse = largest + total.ln();
                }
            }
        }
        let left = Left { at: logits, row: stride, col: 1 };
        let to = Target { at: &mut y[(here.start - rows.start) * p.cols + h * p.d..], row: p.cols };
        let values = (p.v.get(keys.start * p.cols + h * p.d..).unwrap_or_default(), p.cols);
        product::<false, S>(s, [here.len(), p.d, keys.len()], left, values, to);
    }
}

/// The outputs of the gradient, or parts of them; those that nobody wants are empty.
struct Gradients<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    dweights: &'a mut [f32],
}

pub fn attention_grad(call: &mut Call) {
    let args: [super::CpuArg; 13] = call.args();
    let [q, k, v, q_segments, k_segments, weights, _, lse, dy, mut dq, mut dk, mut dv, mut dweights] = args;
    let p = Problem::new(call, [q.f32(), k.f32(), v.f32()], [q_segments.u32(), k_segments.u32()], weights.f32());
    let [rq, rk, n] = [0, 1, 2].map(|i| call.size(i));
    let all = Gradients {
        dq: wanted(dq.f32_mut(), rq * p.cols),
        dk: wanted(dk.f32_mut(), rk * p.cols),
        dv: wanted(dv.f32_mut(), rk * p.cols),
        dweights: wanted(dweights.f32_mut(), rk),
    };
    backward(&p, [lse.f32(), dy.f32()], 0..n, [0..rq, 0..rk], all);
}

fn wanted(x: &mut [f32], length: usize) -> &mut [f32] {
    let length = if x.is_empty() { 0 } else { length };
    &mut x[..length]
}

/// Queries and keys in `rows`, which hold those of `segments`.
fn backward(p: &Problem, [lse, dy]: [&[f32]; 2], segments: Range<usize>, rows: [Range<usize>; 2], out: Gradients) {
    let [queries, keys] = rows;
    if segments.len() > SEGMENTS {
        let middle = segments.start + segments.len() / 2;
        let q = p.queries.whole(middle).start.clamp(queries.start, queries.end);
        let k = p.keys.whole(middle).start.clamp(keys.start, keys.end);
        let (dq, dk) = (cut(out.dq, &queries, q), cut(out.dk, &keys, k));
        let (dv, dweights) = (cut(out.dv, &keys, k), cut(out.dweights, &keys, k));
        let left = Gradients { dq: dq.0, dk: dk.0, dv: dv.0, dweights: dweights.0 };
        let right = Gradients { dq: dq.1, dk: dk.1, dv: dv.1, dweights: dweights.1 };
        rayon::join(
            || backward(p, [lse, dy], segments.start..middle, [queries.start..q, keys.start..k], left),
            || backward(p, [lse, dy], middle..segments.end, [q..queries.end, k..keys.end], right),
        );
        return;
    }
    let Gradients { dq, dk, dv, dweights } = out;
    for x in [&mut *dq, &mut *dk, &mut *dv, &mut *dweights] {
        x.fill(0.0);
    }
    let out = Gradients { dq, dk, dv, dweights };
    Arch::new().dispatch(Backward { p, lse, dy, segments, queries, keys, out, scratch: Scratch::new() });
}

/// The segments of a task.
struct Backward<'a> {
    p: &'a Problem<'a>,
    lse: &'a [f32],
    dy: &'a [f32],
    segments: Range<usize>,
    /// The rows that the outputs hold.
    queries: Range<usize>,
    keys: Range<usize>,
    out: Gradients<'a>,
    scratch: Scratch,
}

impl WithSimd for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        for i in self.segments.clone() {
            let queries = within(self.p.queries.whole(i), &self.queries);
            let keys = self.p.keys_of(i, &self.keys);
            let (block, _) = self.p.block(keys.len());
            if keys.is_empty() {
                continue;
            }
            for first in queries.clone().step_by(block) {
                let here = first..queries.end.min(first + block);
                let keys = self.p.seen(&keys, here.end - queries.start);
                for h in 0..self.p.heads {
                    self.attend(s, queries.start, here.clone(), &keys, h);
                }
            }
        }
    }
}

impl Backward<'_> {
    /// One head of a block of queries of the segment whose first is `begin`: all its gradients.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, s: S, begin: usize, here: Range<usize>, taking_part: &Range<usize>, h: usize) {
        let Backward { p, lse, dy, queries, keys, out, scratch, .. } = self;
        let Scratch { turned, logits, slopes } = scratch;
        let (_, stride) = p.block(taking_part.len());
        p.dots(s, [p.q, p.k], &here, taking_part, h, [turned, logits]);
        p.dots(s, [dy, p.v], &here, taking_part, h, [turned, slopes]);
        let own = taking_part.start - keys.start;
        let rows = logits.chunks_exact_mut(stride).zip(slopes.chunks_exact_mut(stride));
        for (i, (row, slopes)) in here.clone().zip(rows) {
            let lse = lse[i * p.heads + h];
            p.weigh(row, taking_part, i - begin);
            exp_of(s, row, if lse <= EXCLUDED { 0.0 } else { lse });
            let delta = dot(row, slopes);
            slopes.iter_mut().zip(&*row).for_each(|(s, p)| *s = p * (*s - delta));
            if !out.dweights.is_empty() {
                let dweights = &mut out.dweights[own..][..taking_part.len()];
                dweights.iter_mut().zip(&*slopes).for_each(|(d, s)| *d += s);
            }
            slopes.iter_mut().for_each(|s| *s *= p.scale);
        }
        let (m, n, left) = (here.len(), taking_part.len(), h * p.d);
        if !out.dq.is_empty() {
            let to = Target { at: &mut out.dq[(here.start - queries.start) * p.cols + left..], row: p.cols };
            let slopes = Left { at: slopes, row: stride, col: 1 };
            product::<false, S>(s, [m, p.d, n], slopes, (&p.k[taking_part.start * p.cols + left..], p.cols), to);
        }
        let sides = [(&mut *out.dk, &*slopes, p.q), (&mut *out.dv, &*logits, *dy)];
        for (to, by, of) in sides.into_iter().filter(|side| !side.0.is_empty()) {
            let to = Target { at: &mut to[own * p.cols + left..], row: p.cols };
            let by = Left { at: by, row: 1, col: stride };
            product::<true, S>(s, [n, p.d, m], by, (&of[here.start * p.cols + left..], p.cols), to);
        }
    }
}
