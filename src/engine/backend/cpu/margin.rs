//! Kernels of `margin`, its gradient, and `hard_negatives`.

use super::lanes::simd;
use super::{Call, CpuArg};
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 8;

/// The pairs on two diagonals.
struct Pairs<'a> {
    n: usize,
    stride: usize,
    margin: f32,
    low: &'a [f32],
    high: &'a [f32],
    /// Empty where every pair weighs 1.
    weight: &'a [f32],
}

impl<'a> Pairs<'a> {
    fn new(call: &Call, [low, high, weight]: [&'a CpuArg; 3]) -> Pairs<'a> {
        let n = call.size(0).min(call.size(1));
        let weight = if call.u32(3) == 1 { &weight.f32()[..n] } else { &[] };
        Pairs { n, stride: call.u32(2) as usize, margin: call.f32(4), low: low.f32(), high: high.f32(), weight }
    }
    fn lacking(&self, i: usize) -> f32 {
        let at = i * self.stride + i;
        self.margin + (self.low[at] - self.high[at])
    }
    fn weight(&self, i: usize) -> f32 {
        self.weight.get(i).copied().unwrap_or(1.0)
    }
}

/// The larger of 0 and x; NaN for NaN.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

pub fn margin(call: &mut Call) {
    let [low, high, weight, mut loss, mut total] = call.args();
    let p = Pairs::new(call, [&low, &high, &weight]);
    let (mut sum, mut weights) = (0.0f64, 0.0f64);
    for i in 0..p.n {
        sum += f64::from(p.weight(i) * relu(p.lacking(i)));
        weights += f64::from(p.weight(i));
    }
    loss.f32_mut()[0] = if weights == 0.0 { 0.0 } else { (sum / weights) as f32 };
    if let Some(total) = total.f32_mut().first_mut() {
        *total = weights as f32;
    }
}

pub fn margin_grad(call: &mut Call) {
    let [low, high, weight, loss, total, dloss, mut dlow, mut dhigh, mut dweight] = call.args();
    let p = Pairs::new(call, [&low, &high, &weight]);
    let (loss, total) = (loss.f32()[0], total.f32()[0]);
    let share = if total == 0.0 { 0.0 } else { dloss.f32()[0] / total };
    for (i, d) in dweight.f32_mut().iter_mut().take(p.n).enumerate() {
        *d = share * (relu(p.lacking(i)) - loss);
    }
    if p.n == 0 {
        return;
    }
    let rows = dlow.f32_mut().par_chunks_mut(p.stride).zip(dhigh.f32_mut().par_chunks_mut(p.stride));
    rows.take(p.n).with_min_len(ROWS).enumerate().for_each(|(i, (dlow, dhigh))| {
        let slope = if p.lacking(i) > 0.0 { share * p.weight(i) } else { 0.0 };
        for (row, d) in [(dlow, slope), (dhigh, -slope)] {
            row[..p.n].fill(0.0);
            row[i] = d;
        }
    });
}

/// A number in the order of the scores: above 1, 1 for a NaN; 0 is left for what is no negative.
#[inline(always)]
fn ordered(score: f32) -> u32 {
    // Adding 0 makes −0 equal to 0.
    let bits = (score + 0.0).to_bits();
    let key = bits ^ (((bits as i32 >> 31) as u32) | 1 << 31);
    if score.is_nan() { 1 } else { key }
}

pub fn hard_negatives(call: &mut Call) {
    let n = call.size(0).min(call.size(1));
    let stride = call.u32(2) as usize;
    let (items, share, log) = (call.u32(5) as usize, call.f32(6), call.f32(7));
    let [similarity, video, caption, mut log_weight] = call.args();
    if n == 0 {
        return;
    }
    let similarity = similarity.f32();
    let keys = [(&video, 3), (&caption, 4)].map(|(arg, i)| if call.u32(i) == 1 { &arg.u32()[..n] } else { &[] });
    let rows = log_weight.f32_mut().par_chunks_mut(stride).take(n).with_min_len(ROWS);
    rows.enumerate().for_each(|(i, row)| {
        // The row holds the keys until it is known which of them are weighted.
        let row: &mut [u32] = bytemuck::cast_slice_mut(&mut row[..n]);
        let scores = &similarity[i * stride..][..n];
        simd(
            #[inline(always)]
            || {
                row.iter_mut().zip(scores).for_each(|(key, s)| *key = ordered(*s));
                for keys in keys {
                    let Some(own) = keys.get(i) else { continue };
                    row.iter_mut().zip(keys).for_each(|(key, other)| *key = if other == own { 0 } else { *key });
                }
                row[i] = 0;
                let negatives = at_least(row, 1);
                let part = (share * negatives as f32).ceil() as usize;
                let wanted = if share > 0.0 { part } else { items }.min(negatives);
                weigh(row, wanted, log.to_bits());
            },
        );
    });
}

#[inline(always)]
fn at_least(keys: &[u32], bound: u32) -> usize {
    keys.iter().map(|key| u32::from(*key >= bound)).sum::<u32>() as usize
}

/// Puts `mark` in the place of the `wanted` largest keys, of equal ones the first, and 0 everywhere else.
#[inline(always)]
fn weigh(keys: &mut [u32], wanted: usize, mark: u32) {
    if wanted == 0 {
        return keys.fill(0);
    }
    // The wanted-th largest key, bit by bit from the top: each bit that leaves enough keys above is its own.
    let mut bound = 0u32;
    for bit in (0..32).rev() {
        let higher = bound | 1 << bit;
        bound = if at_least(keys, higher) >= wanted { higher } else { bound };
    }
    let mut equal = wanted - at_least(keys, bound.saturating_add(1)).min(wanted);
    for key in keys {
        let is_equal = *key == bound;
        let taken = *key > bound || (is_equal && equal > 0);
        equal -= usize::from(is_equal && equal > 0);
        *key = if taken { mark } else { 0 };
    }
}
