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

const GELU = 0.7978845608;

fn unary(kind: u32, x: f32, a: f32, b: f32) -> f32 {
    switch kind {
        case 0u: { return a * x + b; }
        case 1u: { return max(x, 0.0); }
        case 2u: { return 0.5 * x * (1.0 + safe_tanh(GELU * (x + 0.044715 * x * x * x))); }
        case 3u: { return x * sigmoid(1.702 * x); }
        case 4u: { return sigmoid(x); }
        case 5u: { return safe_tanh(x); }
        default: { return exp(x); }
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
        case 4u: { let s = sigmoid(x); return s * (1.0 - s); }
        case 5u: { let t = safe_tanh(x); return 1.0 - t * t; }
        default: { return exp(x); }
    }
}
