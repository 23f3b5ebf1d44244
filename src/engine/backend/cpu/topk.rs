//! Kernel of `top_k`: a row's candidates pass a threshold into a buffer of fixed size, which is cut to the best k
//! whenever it is full.

use super::Call;
use super::lanes::simd;
use crate::engine::op::topk::{EMPTY, MOST};
use rayon::prelude::*;

/// The candidates of one row. A key orders by score, then by the lower index; larger is better.
struct Best {
    keys: [u64; 2 * MOST],
    len: usize,
    k: usize,
    /// Nothing at or below this score and this key can be among the best any more.
    least: Option<(f32, u64)>,
}

/// Maps a score to a number in the same order. −0 equals 0; a NaN stands below everything.
fn ordered(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The score of a key: [`ordered`] backwards.
fn score(key: u64) -> f32 {
    let bits = (key >> 32) as u32;
    match bits {
        0 => f32::NAN,
        _ if bits >> 31 == 1 => f32::from_bits(bits & !(1 << 31)),
        _ => f32::from_bits(!bits),
    }
}

fn key(score: f32, index: u32) -> u64 {
    u64::from(ordered(score)) << 32 | u64::from(!index)
}

impl Best {
    fn push(&mut self, candidate: u64) {
        if self.least.is_some_and(|(_, least)| candidate <= least) {
            return;
        }
        if self.len == 2 * self.k {
            self.cut();
        }
        self.keys[self.len] = candidate;
        self.len += 1;
    }

    /// Keeps the best k.
    fn cut(&mut self) {
        if self.len > self.k {
            let least = *self.keys[..self.len].select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a)).1;
            self.len = self.k;
            self.least = Some((score(least), least));
        }
    }
}

/// Candidates that are looked at together: most strips of a long row hold none, which vectors see at once.
const STRIP: usize = 64;

#[inline(always)]
fn row(best: &mut Best, scores: &[f32], base: u32) {
    for (i, strip) in scores.chunks(STRIP).enumerate() {
        if let Some((least, _)) = best.least {
            // Below a threshold of NaN stands nothing but more of them.
            let open = least.is_nan();
            let candidates: u32 = strip.iter().map(|s| u32::from(open | (*s >= least))).sum();
            if candidates == 0 {
                continue;
            }
        }
        for (j, s) in strip.iter().enumerate() {
            best.push(key(*s, base.wrapping_add((i * STRIP + j) as u32)));
        }
    }
}

pub fn top_k(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let (stride, k, carried) = (call.u32(2) as usize, (call.u32(3) as usize).clamp(1, MOST), call.u32(4) == 1);
    let [scores, base, carry_values, carry_index, mut values, mut index] = call.args();
    let (scores, base) = (scores.f32(), base.u32().first().copied().unwrap_or(0));
    let (carry_values, carry_index) = (carry_values.f32(), carry_index.u32());
    let tasks = values.f32_mut()[..rows * k].par_chunks_mut(k).zip(index.u32_mut()[..rows * k].par_chunks_mut(k));
    tasks.enumerate().for_each(|(r, (values, index))| {
        let mut best = Best { keys: [0; 2 * MOST], len: 0, k, least: None };
        if carried {
            let candidates = carry_values[r * k..][..k].iter().zip(&carry_index[r * k..][..k]);
            candidates.filter(|(_, i)| **i != u32::MAX).for_each(|(s, i)| best.push(key(*s, *i)));
        }
        simd(
            #[inline(always)]
            || row(&mut best, &scores[r * stride..][..cols], base),
        );
        best.cut();
        let keys = &mut best.keys[..best.len];
        keys.sort_unstable_by(|a, b| b.cmp(a));
        values.fill(EMPTY);
        index.fill(u32::MAX);
        for ((value, index), key) in values.iter_mut().zip(index).zip(keys) {
            (*value, *index) = (score(*key), !(*key as u32));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn keys_order_as_scores_do_and_give_them_back() {
        let seed = crate::seed::seed();
        let random = Random::new(seed, 3);
        // Any bits: subnormal numbers and infinities among them.
        let draw = |i| f32::from_bits(random.at(i)[0]);
        for i in 0..20_000 {
            let (a, b) = (draw(2 * i), draw(2 * i + 1));
            if a.is_nan() || b.is_nan() {
                continue;
            }
            assert_eq!(ordered(a) < ordered(b), a < b, "seed {seed}: {a} and {b}");
            assert_eq!(score(key(a, i as u32)), a, "seed {seed}");
        }
        assert_eq!(ordered(-0.0), ordered(0.0), "equal scores go by their index");
        assert!(ordered(f32::NAN) < ordered(f32::NEG_INFINITY) && ordered(-f32::NAN) < ordered(f32::NEG_INFINITY));
        assert!(score(key(f32::NAN, 4)).is_nan());
        assert!(key(1.0, 3) > key(1.0, 4), "the lower index stands first");
    }
}
