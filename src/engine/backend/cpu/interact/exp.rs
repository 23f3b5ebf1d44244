//! The exponential function on vectors.

use pulp::Simd;

/// ln 2 in two parts: the first has nine significant bits, so that its product with an exponent is exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³: adding it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Below this [`exp`] is 0, above [`HIGHEST`] it stays.
const LOWEST: f32 = -87.0;
const HIGHEST: f32 = 88.0;

/// `eˣ` for −87 ≤ x ≤ 88, with a relative error below 2.5e-7.
///
/// With `x = n ln 2 + r`, |r| ≤ ½ ln 2, the series of eʳ to the seventh power errs by less than 6e-9; the rest is
/// rounding. The exponent n is added to the bits of the result.
#[inline(always)]
pub fn exp_within<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let shifted = s.mul_add_e_f32s(x, s.splat_f32s(std::f32::consts::LOG2_E), s.splat_f32s(ROUND));
    let n = s.sub_f32s(shifted, s.splat_f32s(ROUND));
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-LN2_HIGH), x);
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-LN2_LOW), r);
    let mut sum = s.splat_f32s(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = s.mul_add_e_f32s(sum, r, s.splat_f32s(c));
    }
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(sum), exponent))
}

/// `eˣ` for any x that is a number: 0 below −87, e⁸⁸ above 88.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let clamped = s.min_f32s(s.max_f32s(x, s.splat_f32s(LOWEST)), s.splat_f32s(HIGHEST));
    let below = s.less_than_f32s(x, s.splat_f32s(LOWEST));
    s.select_f32s(below, s.splat_f32s(0.0), exp_within(s, clamped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, Scalar, WithSimd};

    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, s: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            vectors.iter_mut().for_each(|x| *x = exp(s, *x));
        }
    }

    #[test]
    fn errs_by_less_than_it_says() {
        let xs: Vec<f32> = (0..1 << 20).map(|i| -87.0 + 175.0 * (i as f32) / (1 << 20) as f32).collect();
        for scalar in [false, true] {
            let mut ys = xs.clone();
            if scalar {
                Exp(&mut ys).with_simd(Scalar)
            } else {
                Arch::new().dispatch(Exp(&mut ys))
            }
            for (x, y) in xs.iter().zip(&ys) {
                let right = f64::from(*x).exp();
                assert!((f64::from(*y) - right).abs() <= 2.5e-7 * right, "exp({x}) = {y}, not {right}");
            }
        }
    }

    #[test]
    fn what_is_excluded_weighs_nothing() {
        let mut xs = [-1e30f32, -87.5, -200.0, f32::MIN, 0.0, 1.0, 200.0, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        Arch::new().dispatch(Exp(&mut xs));
        assert_eq!(xs[..5], [0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!((xs[5] - 1f32.exp()).abs() < 1e-6 && xs[6].is_finite() && xs[7] == 1.0);
    }
}
