//! The kernel of `fake_quant`.

use super::Call;
use super::lanes::simd;
use crate::engine::op::quant::SMALLEST;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 16;
/// Lanes of a maximum.
const LANES: usize = 16;

/// The largest magnitude; a NaN is passed over: it stays visible in its element.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            lanes[i] = if x[i].abs() > lanes[i] { x[i].abs() } else { lanes[i] };
        }
    }
    rest.iter().chain(&lanes).fold(0.0, |m, x| if x.abs() > m { x.abs() } else { m })
}

/// The code of `x`, as the op defines it: a quotient says which it is up to a step, products which it is.
#[inline(always)]
pub(super) fn code(x: f32, m: f32, inverse: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let at = x.abs() * 127.0;
    let near = (at * inverse + ROUND) - ROUND;
    let odd = near != ((near * 0.5 + ROUND) - ROUND) * 2.0;
    let (above, below) = ((near + 0.5) * m, (near - 0.5) * m);
    // A tie belongs to the even code of the two. Without branches, of which four times as long is spent.
    let up = (above < at) | ((above == at) & odd);
    let down = (below > at) | ((below == at) & odd);
    (near + if up { 1.0 } else { 0.0 } - if down { 1.0 } else { 0.0 }).copysign(x)
}

pub fn fake_quant(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [x, mut y] = call.args();
    let x = x.f32();
    if cols == 0 {
        return;
    }
    y.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).enumerate().for_each(|(task, y)| {
        simd(
            #[inline(always)]
            || {
                for (r, y) in y.chunks_exact_mut(cols).enumerate() {
                    // An overwritten input stands in the output.
                    if let Some(x) = x.get((task * ROWS + r) * cols..).and_then(|x| x.get(..cols)) {
                        y.copy_from_slice(x);
                    }
                    let m = largest(y);
                    if m > SMALLEST {
                        let (inverse, scale) = (1.0 / m, m * (1.0 / 127.0));
                        y.iter_mut().for_each(|y| *y = code(*y, m, inverse) * scale);
                    } else {
                        y.iter_mut().for_each(|y| *y *= 0.0);
                    }
                }
            },
        );
    });
}
