//! Kernels of `expert` and its gradient: one pass over the slots of all experts each way.
//!
//! # Notebook
//! Floor: 8 bytes an element of `experts` forward, with `delta` 12, backward 8 to 12; bound by bandwidth. Backward all
//! five gradients come from one pass: a task owns a part of the rows and adds up its share of the sums over rows, which
//! a second kernel adds in the order of the parts.

use super::Call;
use super::lanes::simd;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 16;
/// Columns that are worked on at a time: sums over a row's slots stay in the nearest cache.
const STRIP: usize = 128;

/// The words that the kernels' parameters begin with.
struct Sizes {
    rows: usize,
    cols: usize,
    slots: usize,
    experts: usize,
}

impl Sizes {
    fn of(call: &Call) -> Sizes {
        let [cols, slots, experts] = [1, 2, 3].map(|i| call.u32(i) as usize);
        Sizes { rows: call.size(0), cols, slots, experts }
    }
    /// The row of a matrix of experts that slot s of row r meets; none for an expert beyond those there are.
    fn own<'a>(&self, table: &[u32], all: &'a [f32], r: usize, s: usize) -> Option<&'a [f32]> {
        let e = self.expert(table, r, s);
        if e < self.experts { all.get(e * self.cols..(e + 1) * self.cols) } else { None }
    }
    fn expert(&self, table: &[u32], r: usize, s: usize) -> usize {
        table.get(r * self.slots + s).map_or(s, |e| *e as usize)
    }
}

/// `tasks` pieces of `length` of the first `used` elements of an output, or empty ones when nobody wants it.
fn pieces(x: &mut [f32], used: usize, length: usize, tasks: usize) -> impl IndexedParallelIterator<Item = &mut [f32]> {
    let (x, none) = if x.is_empty() { (x, tasks) } else { (&mut x[..used], 0) };
    x.par_chunks_mut(length).chain(rayon::iter::repeat_n((), none).map(|()| <&mut [f32]>::default()))
}

pub fn expert(call: &mut Call) {
    let size = Sizes::of(call);
    let (cols, wide) = (size.cols, size.slots * size.cols);
    let [low, shared, v, diagonal, bias, table, mut y, mut delta] = call.args();
    let overwritten = low.is_overwritten();
    let (low, shared, v, diagonal, bias) = (low.f32(), shared.f32(), v.f32(), diagonal.f32(), bias.f32());
    let table = table.u32();
    let used = size.rows * wide;
    let deltas = pieces(delta.f32_mut(), used, ROWS * wide, size.rows.div_ceil(ROWS));
    y.f32_mut()[..used].par_chunks_mut(ROWS * wide).zip(deltas).enumerate().for_each(|(i, (y, delta))| {
        simd(
            #[inline(always)]
            || {
                for (slot, y) in y.chunks_exact_mut(cols).enumerate() {
                    let (r, s) = (i * ROWS + slot / size.slots, slot % size.slots);
                    if !overwritten {
                        y.copy_from_slice(&low[(r * size.slots + s) * cols..][..cols]);
                    }
                    let (shared, v) = (&shared[r * cols..][..cols], &v[r * cols..][..cols]);
                    if let Some((diagonal, bias)) = size.own(table, diagonal, r, s).zip(size.own(table, bias, r, s)) {
                        let own = diagonal.iter().zip(bias).zip(shared.iter().zip(v));
                        for (y, ((diagonal, bias), (shared, v))) in y.iter_mut().zip(own) {
                            *y = v.mul_add(*diagonal, *y + shared + bias);
                        }
                    } else {
                        y.iter_mut().zip(shared).for_each(|(y, shared)| *y += shared);
                    }
                    if let Some(delta) = delta.get_mut(slot * cols..(slot + 1) * cols) {
                        delta.copy_from_slice(y);
                    }
                    y.iter_mut().zip(v).for_each(|(y, v)| *y += v);
                }
            },
        );
    });
}

/// A gradient that is given, absent, or stands where the result is written.
enum Given<'a> {
    Here,
    Absent,
    At(&'a [f32]),
}

impl Given<'_> {
    /// The elements from `at` on; `here` holds them if the result has taken their place.
    #[inline(always)]
    fn strip(&self, at: usize, n: usize, here: &[f32]) -> [f32; STRIP] {
        let mut strip = [0.0; STRIP];
        match self {
            Given::Here => strip[..n].copy_from_slice(&here[..n]),
            Given::At(x) => strip[..n].copy_from_slice(&x[at..at + n]),
            Given::Absent => {}
        }
        strip
    }
}

/// What a task of [`expert_grad`] writes: its part of each result, empty where nobody wants it.
struct Part<'a> {
    dlow: &'a mut [f32],
    dshared: &'a mut [f32],
    dv: &'a mut [f32],
    sums: &'a mut [f32],
}

/// What all tasks of [`expert_grad`] read.
struct Gradients<'a> {
    size: Sizes,
    given: [Given<'a>; 2],
    v: &'a [f32],
    diagonal: &'a [f32],
    table: &'a [u32],
}

impl Gradients<'_> {
    /// Columns `c` to `c + n` of row `r`, which is row `local` of the part.
    #[inline(always)]
    fn strip(&self, part: &mut Part, r: usize, local: usize, c: usize, n: usize) {
        let Sizes { cols, slots, .. } = self.size;
        let (mut dshared, mut dv) = ([0.0f32; STRIP], [0.0f32; STRIP]);
        let mut v = [0.0f32; STRIP];
        v[..n].copy_from_slice(&self.v[r * cols + c..][..n]);
        for s in 0..slots {
            let (at, here) = ((r * slots + s) * cols + c, (local * slots + s) * cols + c);
            let stands = part.dlow.get(here..here + n).unwrap_or(&[]);
            let mut d = self.given[0].strip(at, n, stands);
            let ddelta = self.given[1].strip(at, n, stands);
            for i in 0..STRIP {
                dv[i] += d[i];
                d[i] += ddelta[i];
                dshared[i] += d[i];
            }
            if let Some(dlow) = part.dlow.get_mut(here..here + n) {
                dlow.copy_from_slice(&d[..n]);
            }
            if let Some(diagonal) = self.size.own(self.table, self.diagonal, r, s) {
                for ((dv, d), diagonal) in dv.iter_mut().zip(&d).zip(&diagonal[c..c + n]) {
                    *dv = diagonal.mul_add(*d, *dv);
                }
                let sums = self.size.expert(self.table, r, s) * 2 * cols;
                if let Some(sums) = part.sums.get_mut(sums..sums + 2 * cols) {
                    let (ddiagonal, dbias) = sums.split_at_mut(cols);
                    let sums = ddiagonal[c..c + n].iter_mut().zip(&mut dbias[c..c + n]);
                    for ((ddiagonal, dbias), (v, d)) in sums.zip(v.iter().zip(&d)) {
                        *ddiagonal = v.mul_add(*d, *ddiagonal);
                        *dbias += d;
                    }
                }
            }
        }
        for (out, sum) in [(&mut *part.dshared, dshared), (&mut *part.dv, dv)] {
            if let Some(out) = out.get_mut(local * cols + c..local * cols + c + n) {
                out.copy_from_slice(&sum[..n]);
            }
        }
    }
}

pub fn expert_grad(call: &mut Call) {
    let size = Sizes::of(call);
    let part_rows = (call.u32(7) as usize).max(1);
    let Sizes { rows, cols, slots, experts } = size;
    let [dexperts, ddelta, v, diagonal, table, mut dlow, mut dshared, mut dv, mut sums] = call.args();
    let given = [&dexperts, &ddelta].map(|d| match d {
        d if d.is_overwritten() => Given::Here,
        d if d.is_absent() => Given::Absent,
        d => Given::At(d.f32()),
    });
    let all = Gradients { size, given, v: v.f32(), diagonal: diagonal.f32(), table: table.u32() };
    let tasks = rows.div_ceil(part_rows);
    let per_part = experts * 2 * cols;
    let dlow = pieces(dlow.f32_mut(), rows * slots * cols, part_rows * slots * cols, tasks);
    let dshared = pieces(dshared.f32_mut(), rows * cols, part_rows * cols, tasks);
    let dv = pieces(dv.f32_mut(), rows * cols, part_rows * cols, tasks);
    let sums = pieces(sums.f32_mut(), tasks * per_part, per_part, tasks);
    dlow.zip(dshared).zip(dv.zip(sums)).enumerate().for_each(|(i, ((dlow, dshared), (dv, sums)))| {
        sums.fill(0.0);
        let mut part = Part { dlow, dshared, dv, sums };
        simd(
            #[inline(always)]
            || {
                for local in 0..part_rows.min(rows - i * part_rows) {
                    for c in (0..cols).step_by(STRIP) {
                        all.strip(&mut part, i * part_rows + local, local, c, STRIP.min(cols - c));
                    }
                }
            },
        );
    });
}

/// Adds up the parts of [`expert_grad`], in their order.
pub fn expert_sum(call: &mut Call) {
    let Sizes { rows, cols, experts, .. } = Sizes::of(call);
    let parts = rows.div_ceil((call.u32(7) as usize).max(1));
    let [sums, mut ddiagonal, mut dbias] = call.args();
    let sums = sums.f32();
    for (which, out) in
        [ddiagonal.f32_mut(), dbias.f32_mut()].into_iter().enumerate().filter(|(_, out)| !out.is_empty())
    {
        out[..experts * cols].par_chunks_mut(cols).enumerate().for_each(|(e, out)| {
            out.fill(0.0);
            for part in 0..parts {
                let sums = &sums[((part * experts + e) * 2 + which) * cols..][..cols];
                out.iter_mut().zip(sums).for_each(|(out, s)| *out += s);
            }
        });
    }
}
