//! Resizing by convolution with a low pass, bit for bit as Pillow to version 12 does it, whose pixels CLIP was trained
//! on (13 goes down first where that is less work): weights of
//! 22 bits, across first and rounded to bytes between both passes. Libraries of 16-bit weights are off by one here and
//! there. Only what a crop keeps is computed.

use std::ops::Range;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    Bilinear,
    /// Keys' cubic with a = −½.
    Bicubic,
    Lanczos,
}

impl Filter {
    /// Half the width of the filter where nothing is made smaller.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

const BITS: u32 = 22;

/// The pixels that make one output pixel, and what each counts.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Taps of the outputs in `wanted` when `from` pixels become `to`.
fn taps(filter: Filter, from: usize, to: usize, wanted: Range<usize>) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    wanted
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weight = |x: usize| filter.at((x as f64 - centre + 0.5) / stretch);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / sum * f64::from(1u32 << BITS)).round() as i32;
            Taps { first, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// Sizes of a picture, `[width, height]`.
pub type Sides = [usize; 2];

/// The square of `side` pixels from `[left, top]` on, of a picture `rgb` `[height, width, 3]` that is resized to `to`.
pub fn square(filter: Filter, rgb: &[u8], from: Sides, to: Sides, [left, top]: Sides, side: usize) -> Vec<u8> {
    let (across, down) =
        (taps(filter, from[0], to[0], left..left + side), taps(filter, from[1], to[1], top..top + side));
    let begin = down.iter().map(|t| t.first).min().unwrap_or(0);
    let end = down.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
    let mut middle = vec![0u8; (end - begin) * 3 * side];
    for (row, out) in rgb.chunks_exact(3 * from[0]).skip(begin).zip(middle.chunks_exact_mut(3 * side)) {
        for (taps, out) in across.iter().zip(out.chunks_exact_mut(3)) {
            let pixels = row[3 * taps.first..].chunks_exact(3);
            let mut sums = [0i32; 3];
            for (pixel, w) in pixels.zip(&taps.weights) {
                sums.iter_mut().zip(pixel).for_each(|(sum, p)| *sum += i32::from(*p) * w);
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = rounded(sum));
        }
    }
    let mut square = Vec::with_capacity(3 * side * side);
    let mut sums = vec![0i32; 3 * side];
    for taps in &down {
        sums.fill(0);
        for (row, w) in middle.chunks_exact(3 * side).skip(taps.first - begin).zip(&taps.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, p)| *sum += i32::from(*p) * w);
        }
        square.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_where_nothing_is_resized_and_flat_stays_flat() {
        let rgb: Vec<u8> = (0..6 * 6 * 3).map(|i| (i * 37 % 256) as u8).collect();
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(square(filter, &rgb, [6, 6], [6, 6], [0, 0], 6), rgb, "{filter:?}");
            let flat = square(filter, &[200; 7 * 50 * 3], [50, 7], [20, 9], [8, 1], 8);
            assert!(flat.iter().all(|p| *p == 200) && flat.len() == 8 * 8 * 3, "{filter:?}");
        }
    }
}
