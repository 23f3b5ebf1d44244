//! Loops that vectorise. Sums run in a fixed number of lanes that are folded in a fixed order, so that a value does
//! not depend on how wide the machine's vectors are, nor on the number of threads.

/// Lanes of a sum: the widest vector of f32 there is (AVX-512).
const LANES: usize = 16;

/// Elements that one task of a flat kernel works on; also the part of a two-stage sum.
pub const PART: usize = 1 << 14;

/// Runs `f` compiled for the widest vectors of this machine. Write `simd(#[inline(always)] || ..)`, and inline what
/// it calls too: code that is not inlined is compiled without those vectors, and `mul_add` then is a slow call.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// `Σ x`
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold(lanes, |a, b| a + b)
}

/// `Σ x·y` over the shorter of the two.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = x.mul_add(*y, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element, at least `floor`. A NaN is passed over: it stays visible in the sum that follows.
#[inline(always)]
pub fn max(x: &[f32], floor: f32) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [floor; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], x[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    fold(lanes, larger)
}

/// `Σ f(x)` in f64: for sums over millions of elements.
#[inline(always)]
pub fn sum_f64(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            lanes[i] += f(f64::from(x[i]));
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(*x));
    }
    lanes.iter().sum()
}

/// eˣ with a relative error below 2e-7; 0 below −87, e⁸⁸ above 88, NaN for NaN. Unlike the library's it vectorises.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2: eʳ by its series to the 7th power, 2ⁿ by the exponent's bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let vanishes = x < -87.0;
    let x = if vanishes { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut series = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = r.mul_add(series, c);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if vanishes { 0.0 } else { series * power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn exp_is_that_of_the_library_over_its_whole_range() {
        let seed = crate::seed::seed();
        let random = Random::new(seed, 1);
        for i in 0..20_000 {
            let x = random.uniform(i) * 174.0 - 86.5;
            let error = (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
            assert!(error < 2e-7, "seed {seed}: exp({x}) is {} with error {error:e}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan(), "a NaN must stay visible");
    }

    #[test]
    fn sums_take_every_element_once() {
        for n in 0..70usize {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let squares: usize = (0..n).map(|i| i * i).sum();
            assert_eq!(sum(&x), (n * n.saturating_sub(1) / 2) as f32);
            assert_eq!(dot(&x, &x), squares as f32);
            assert_eq!(sum_f64(&x, |x| x * x), squares as f64);
            assert_eq!(max(&x, -1.0), n as f32 - 1.0);
        }
    }
}
