//! Rounding, and the narrow formats.

/// The NaN that arithmetic on f32 returns.
pub const NAN32: u32 = 0x7fff_ffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest,
    /// Nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// A denormal becomes a zero of its sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

/// Bits of a result; every NaN is the same.
#[inline(always)]
pub fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// To 0..=1, a NaN to 0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// `sum + error` rounded to f32, where |error| is at most half a unit in the last place of `sum`.
pub fn round_sum(sum: f64, error: f64, round: Round) -> f32 {
    let near = sum as f32;
    if !sum.is_finite() {
        return near;
    }
    let rest = sum - f64::from(near);
    let side = if rest == 0.0 { error } else { rest };
    let up = match round {
        Round::Up => side > 0.0,
        Round::Zero => side > 0.0 && sum < 0.0,
        _ => false,
    };
    let down = match round {
        Round::Down => side < 0.0,
        Round::Zero => side < 0.0 && sum > 0.0,
        _ => false,
    };
    match (up, down) {
        (true, _) => near.next_up(),
        (_, true) => near.next_down(),
        _ => near,
    }
}

/// `a * b + c` rounded once. The product of two f32 is exact in f64.
pub fn fma_directed(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = p + c;
    let virtual_c = sum - p;
    let error = (p - (sum - virtual_c)) + (c - virtual_c);
    if sum == 0.0 && error == 0.0 && round == Round::Down && p.is_sign_negative() != c.is_sign_negative() {
        return -0.0;
    }
    round_sum(sum, error, round)
}

pub fn add_directed(a: f32, b: f32, round: Round) -> f32 {
    fma_directed(a, 1.0, b, round)
}

/// A product needs no addend, which would lose the sign of a zero.
pub fn mul_directed(a: f32, b: f32, round: Round) -> f32 {
    round_sum(f64::from(a) * f64::from(b), 0.0, round)
}

/// IEEE maximum: a NaN loses, +0 is above -0.
#[inline(always)]
pub fn max32(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let larger = if x > y {
        a
    } else if x < y {
        b
    } else {
        a & b
    };
    one_nan(a, b, larger)
}

#[inline(always)]
pub fn min32(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let smaller = if x < y {
        a
    } else if x > y {
        b
    } else {
        a | b
    };
    one_nan(a, b, smaller)
}

#[inline(always)]
fn one_nan(a: u32, b: u32, neither: u32) -> u32 {
    match (f32::from_bits(a).is_nan(), f32::from_bits(b).is_nan()) {
        (false, false) => neither,
        (true, false) => b,
        (false, true) => a,
        (true, true) => NAN32,
    }
}

pub fn bf16_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// To nearest even or towards zero.
pub fn f32_to_bf16(x: f32, round: Round) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return 0x7fff;
    }
    match round {
        Round::Nearest => (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
        _ => bits >> 16,
    }
}

pub fn f16_to_f32(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let (exponent, mantissa) = (bits >> 10 & 31, bits & 0x3ff);
    let size = match exponent {
        0 => mantissa as f32 * (-24f32).exp2(),
        31 if mantissa != 0 => return f32::from_bits(sign | 0x7fc0_0000 | mantissa << 13),
        31 => f32::INFINITY,
        _ => f32::from_bits((exponent + 112) << 23 | mantissa << 13),
    };
    f32::from_bits(size.to_bits() | sign)
}

/// To nearest even or towards zero, from f64 so that results of f16 arithmetic round once.
pub fn f64_to_f16(x: f64, round: Round) -> u32 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let size = x.abs();
    // A unit in the last place: of the binade, or of the denormals.
    let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(-14);
    let unit = f64::from_bits(((exponent - 10 + 1023) as u64) << 52);
    let steps = size / unit;
    let steps = if round == Round::Nearest { steps.round_ties_even() } else { steps.floor() };
    let value = steps * unit;
    if value >= 65536.0 {
        let infinite = round == Round::Nearest || size == f64::INFINITY;
        return sign | if infinite { 0x7c00 } else { 0x7bff };
    }
    // Whole steps are the bits: a carry moves into the exponent as it should.
    let binade = (exponent + 14) as u32;
    sign | if exponent == -14 { steps as u32 } else { (binade << 10) + steps as u32 }
}

/// f32 to tf32, ties away from zero: 10 bits of mantissa stay.
pub fn f32_to_tf32(x: f32) -> u32 {
    if x.is_nan() {
        return NAN32;
    }
    if x.is_infinite() {
        return x.to_bits();
    }
    (x.to_bits() + 0x1000) & !0x1fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_rounding_brackets_the_exact_value() {
        let (a, b) = (1.0f32, 2f32.powi(-30));
        assert_eq!(add_directed(a, b, Round::Up), 1.0f32.next_up());
        assert_eq!(add_directed(a, b, Round::Down), 1.0);
        assert_eq!(add_directed(a, -b, Round::Zero), 1.0f32.next_down());
        assert_eq!(add_directed(-a, b, Round::Zero), -(1.0f32.next_down()));
        // The error of the f64 sum decides: 1 + 2^-120.
        assert_eq!(add_directed(a, 2f32.powi(-120), Round::Up), 1.0f32.next_up());
        assert_eq!(fma_directed(f32::MAX, 2.0, 0.0, Round::Zero), f32::MAX);
        assert_eq!(fma_directed(f32::MAX, 2.0, 0.0, Round::Up), f32::INFINITY);
    }

    #[test]
    fn half_formats() {
        assert_eq!(f32_to_bf16(1.0, Round::Nearest), 0x3f80);
        // 1 + 2^-8 lies between two bf16: the even one.
        assert_eq!(f32_to_bf16(1.0 + 2f32.powi(-8), Round::Nearest), 0x3f80);
        assert_eq!(f32_to_bf16(1.0 + 3.0 * 2f32.powi(-8), Round::Nearest), 0x3f82);
        for bits in 0..0x7c00u32 {
            assert_eq!(f64_to_f16(f64::from(f16_to_f32(bits)), Round::Nearest), bits);
            assert_eq!(f64_to_f16(-f64::from(f16_to_f32(bits)), Round::Zero), bits | 0x8000);
        }
        assert_eq!(f64_to_f16(65519.0, Round::Nearest), 0x7bff);
        assert_eq!(f64_to_f16(65520.0, Round::Nearest), 0x7c00);
        assert_eq!(f64_to_f16(1e9, Round::Zero), 0x7bff);
        assert_eq!(f64_to_f16(2f64.powi(-25), Round::Nearest), 0);
        assert_eq!(f64_to_f16(2f64.powi(-25) * 1.01, Round::Nearest), 1);
    }

    #[test]
    fn largest_and_smallest_with_nan_and_zeros() {
        let (nan, zero, minus) = (f32::NAN.to_bits(), 0, 1 << 31);
        assert_eq!(max32(nan, 5), 5);
        assert_eq!(min32(7, nan), 7);
        assert_eq!(max32(nan, nan), NAN32);
        assert_eq!((max32(zero, minus), max32(minus, zero)), (0, 0));
        assert_eq!((min32(zero, minus), min32(minus, zero)), (minus, minus));
    }
}
