//! Kernels of `balance` and its gradient. Frames go through in parts of a fixed size, each with sums of its own; tables
//! of segments are clamped to the rows there are.

use super::lanes::{dot, exp, max, simd, sum};
use super::{Call, CpuArg};
use crate::engine::op::balance::{MOST, PART};
use rayon::prelude::*;
use std::ops::Range;

/// Below every logit.
const FLOOR: f32 = -1e30;

struct Problem<'a> {
    rows: usize,
    experts: usize,
    text: &'a [f32],
    frame: &'a [f32],
    segments: &'a [[u32; 2]],
}

/// The gates of a frame; places beyond the experts are 0.
struct Gates {
    gates: [f32; MOST],
    lse: f32,
    largest: usize,
}

impl<'a> Problem<'a> {
    fn new(call: &Call, [text, frame, segments]: [&'a CpuArg; 3]) -> Problem<'a> {
        let (rows, texts, experts) = (call.size(0), call.size(1), (call.u32(2) as usize).min(MOST));
        let segments = segments.u32().as_chunks::<2>().0;
        Problem {
            rows,
            experts,
            text: text.f32(),
            frame: frame.f32(),
            segments: &segments[..texts.min(segments.len())],
        }
    }

    /// Part `i` of the rows.
    fn part(&self, i: usize) -> Range<usize> {
        i * PART..((i + 1) * PART).min(self.rows)
    }

    /// The texts with frames among these rows, and those frames.
    fn texts(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.segments.partition_point(|s| (s[1] as usize) <= rows.start);
        let behind = self.segments[first..].iter().enumerate();
        behind.take_while(move |(_, s)| (s[0] as usize) < rows.end).map(move |(i, s)| {
            let [begin, end] = s.map(|x| x as usize);
            (first + i, begin.max(rows.start)..end.min(rows.end))
        })
    }

    #[inline(always)]
    fn gates(&self, text: usize, row: usize) -> Gates {
        let k = self.experts;
        let mut gates = [0.0f32; MOST];
        let own = &mut gates[..k];
        let both = self.text[text * k..][..k].iter().zip(&self.frame[row * k..][..k]);
        own.iter_mut().zip(both).for_each(|(l, (g, h))| *l = g + h);
        let top = max(own, FLOOR);
        let largest = own.iter().position(|l| *l == top).unwrap_or(0);
        own.iter_mut().for_each(|l| *l = exp(*l - top));
        let total = sum(own);
        own.iter_mut().for_each(|l| *l /= total);
        Gates { gates, lse: top + total.ln(), largest }
    }
}

pub fn balance_parts(call: &mut Call) {
    let [text, frame, segments, mut parts] = call.args();
    let p = Problem::new(call, [&text, &frame, &segments]);
    let k = p.experts;
    let parts = &mut parts.f32_mut()[..p.rows.div_ceil(PART) * (2 * k + 2)];
    parts.par_chunks_exact_mut(2 * k + 2).enumerate().for_each(|(i, part)| {
        part.fill(0.0);
        for (text, rows) in p.texts(p.part(i)) {
            for row in rows {
                simd(
                    #[inline(always)]
                    || {
                        let g = p.gates(text, row);
                        part[..k].iter_mut().zip(&g.gates).for_each(|(sum, gate)| *sum += gate);
                        part[k + g.largest] += 1.0;
                        part[2 * k] += g.lse * g.lse;
                        part[2 * k + 1] += 1.0;
                    },
                );
            }
        }
    });
}

pub fn balance(call: &mut Call) {
    let (rows, k) = (call.size(0), (call.u32(2) as usize).min(MOST));
    let [parts, mut balance, mut z, mut share, mut frames] = call.args();
    let parts = &parts.f32()[..rows.div_ceil(PART) * (2 * k + 2)];
    let total = |c: usize| parts.chunks_exact(2 * k + 2).map(|part| f64::from(part[c])).sum::<f64>();
    let count = total(2 * k + 1);
    let n = count.max(1.0);
    let shares: [f64; MOST] = std::array::from_fn(|e| if e < k { total(k + e) / n } else { 0.0 });
    let even: f64 = (0..k).map(|e| shares[e] * total(e) / n).sum();
    balance.f32_mut()[0] = (k as f64 * even) as f32;
    z.f32_mut()[0] = (total(2 * k) / n) as f32;
    share.f32_mut().iter_mut().zip(shares).for_each(|(y, x)| *y = x as f32);
    if let Some(frames) = frames.f32_mut().first_mut() {
        *frames = count as f32;
    }
}

pub fn balance_grad(call: &mut Call) {
    let [text, frame, segments, share, frames, dbalance, dz, mut dframe] = call.args();
    let p = Problem::new(call, [&text, &frame, &segments]);
    let k = p.experts;
    let share = &share.f32()[..k];
    let n = frames.f32()[0].max(1.0);
    let given = |arg: &CpuArg, i: usize| if call.u32(i) == 1 { arg.f32()[0] } else { 0.0 };
    let (even, growth) = (given(&dbalance, 3) * k as f32 / n, given(&dz, 4) * 2.0 / n);
    dframe.f32_mut()[..p.rows * k].par_chunks_mut(PART * k).enumerate().for_each(|(i, dframe)| {
        dframe.fill(0.0);
        for (text, rows) in p.texts(p.part(i)) {
            for row in rows {
                let d = &mut dframe[(row - i * PART) * k..][..k];
                simd(
                    #[inline(always)]
                    || {
                        let g = p.gates(text, row);
                        let mean = dot(&g.gates[..k], share);
                        for (d, (gate, share)) in d.iter_mut().zip(g.gates.iter().zip(share)) {
                            *d = gate * even.mul_add(share - mean, growth * g.lse);
                        }
                    },
                );
            }
        }
    });
}
