// Stands before every kernel. `counts` holds the true length of each ragged axis; see Params::size_times.
fn size(word: u32) -> u32 {
    if (word >> 31u) == 0u { return word; }
    let axis = (word >> 28u) & 7u;
    return counts[axis / 4u][axis % 4u] * (word & 0x0fffffffu);
}

// On bits: a compiler may assume that x != x is never true.
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }

// tanh overflows to NaN on some drivers for large arguments.
fn safe_tanh(x: f32) -> f32 { return tanh(clamp(x, -15.0, 15.0)); }

// max(x, 0) + ln(1 + u) with u = exp(-|x|). The logarithm is 2 artanh(z) of z = u / (2 + u) <= 1/3, by its series to the
// 15th power: also where u is tiny, its digits are right.
fn softplus(x: f32) -> f32 {
    let u = exp(-abs(x));
    let z = u / (2.0 + u);
    let s = z * z;
    let tail = 1.0 / 9.0 + s * (1.0 / 11.0 + s * (1.0 / 13.0 + s / 15.0));
    return max(x, 0.0) + 2.0 * z * (1.0 + s * (1.0 / 3.0 + s * (1.0 / 5.0 + s * (1.0 / 7.0 + s * tail))));
}

const GELU = 0.7978845608;

// The distribution function of a normal number: with z = |x| / sqrt(2) it is 1 - erfc(z) / 2 or erfc(z) / 2, of which the
// rational Chebyshev fit of Numerical Recipes (section 6.2) has a relative error of 1.2e-7 everywhere.
fn normal_below(x: f32) -> f32 {
    let z = abs(x) * 0.7071067812;
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 +
        t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let beyond = 0.5 * t * exp(fit - z * z);
    return select(1.0 - beyond, beyond, x < 0.0);
}

fn unary(kind: u32, x: f32, a: f32, b: f32) -> f32 {
    switch kind {
        case 0u: { return a * x + b; }
        case 1u: { return max(x, 0.0); }
        case 2u: { return 0.5 * x * (1.0 + safe_tanh(GELU * (x + 0.044715 * x * x * x))); }
        case 3u: { return x * sigmoid(1.702 * x); }
        case 4u: { return x * normal_below(x); }
        case 5u: { return sigmoid(x); }
        case 6u: { return safe_tanh(x); }
        case 7u: { return exp(x); }
        default: { return softplus(x); }
    }
}

fn unary_derivative(kind: u32, x: f32, a: f32) -> f32 {
    switch kind {
        case 0u: { return a; }
        case 1u: { return select(0.0, 1.0, x > 0.0); }
        case 2u: {
            let t = safe_tanh(GELU * (x + 0.044715 * x * x * x));
            return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU * (1.0 + 3.0 * 0.044715 * x * x);
        }
        case 3u: { let s = sigmoid(1.702 * x); return s + x * 1.702 * s * (1.0 - s); }
        case 4u: { return normal_below(x) + x * 0.3989422804 * exp(-0.5 * x * x); }
        case 5u: { let s = sigmoid(x); return s * (1.0 - s); }
        case 6u: { let t = safe_tanh(x); return 1.0 - t * t; }
        case 7u: { return exp(x); }
        default: { return sigmoid(x); }
    }
}
