//! Kernels of `unary`, `unary_grad`, `binary`, `scale_rows` and `row_dot`.
//!
//! Every function is compiled into a loop of its own: called by a pointer, not even a ReLU would vectorise.

use super::Call;
use super::lanes::{PART, dot, exp, simd};
use rayon::prelude::*;

/// `f` over the parts of `y`, with the parts of inputs that lie elsewhere; an overwritten input is read from `y`.
fn parts<const N: usize>(n: usize, y: &mut [f32], ins: [&[f32]; N], f: impl Fn(&mut [f32], [&[f32]; N]) + Sync) {
    y[..n].par_chunks_mut(PART).enumerate().for_each(|(i, y)| {
        let begin = i * PART;
        let ins = ins.map(|x| if x.is_empty() { x } else { &x[begin..begin + y.len()] });
        simd(
            #[inline(always)]
            || f(y, ins),
        );
    });
}

/// `y = f(x)`, where an empty `x` lies in `y`.
#[inline(always)]
fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    if x.is_empty() {
        y.iter_mut().for_each(|y| *y = f(*y));
    } else {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x));
    }
}

/// `y = f(a, b)`, where an empty `a` or `b` lies in `y`.
#[inline(always)]
fn map_both(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    match (a.is_empty(), b.is_empty()) {
        (false, false) => y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = f(*a, *b)),
        (true, false) => y.iter_mut().zip(b).for_each(|(y, b)| *y = f(*y, *b)),
        (false, true) => y.iter_mut().zip(a).for_each(|(y, a)| *y = f(*a, *y)),
        (true, true) => y.iter_mut().for_each(|y| *y = f(*y, *y)),
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// √(2/π)
const GELU: f32 = 0.797_884_6;

/// tanh(√(2/π)·(x + 0.044715 x³)), by `tanh u = 2·sigmoid(2u) − 1`: an absolute error of 1e-7 is enough behind the 1
/// that it is added to.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * GELU * (x + 0.044_715 * x * x * x)) - 1.0
}

#[inline(always)]
fn gelu_tanh_derivative(x: f32) -> f32 {
    let t = gelu_tanh(x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU * (1.0 + 3.0 * 0.044_715 * x * x)
}

#[inline(always)]
fn quick_gelu_derivative(x: f32) -> f32 {
    let s = sigmoid(1.702 * x);
    s + x * 1.702 * s * (1.0 - s)
}

/// Φ(x), the distribution function of a normal number: with z = |x|/√2 it is 1 − erfc(z)/2 or erfc(z)/2, of which the
/// rational Chebyshev fit of Numerical Recipes (section 6.2) has a relative error of 1.2e-7 everywhere.
#[inline(always)]
fn normal_below(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (0.5f32).mul_add(z, 1.0);
    let mut fit = 0.170_872_77f32;
    for c in ERFC {
        fit = t.mul_add(fit, c);
    }
    let beyond = 0.5 * t * exp((-z).mul_add(z, fit));
    if x < 0.0 { beyond } else { 1.0 - beyond }
}

/// From t⁸ to t⁰.
const ERFC: [f32; 9] = [
    -0.822_152_23,
    1.488_515_9,
    -1.135_204,
    0.278_868_07,
    -0.186_288_06,
    0.096_784_18,
    0.374_091_96,
    1.000_023_7,
    -1.265_512_2,
];

/// 1/√(2π)
const DENSITY: f32 = 0.398_942_3;

#[inline(always)]
fn gelu_derivative(x: f32) -> f32 {
    (x * DENSITY).mul_add(exp(-0.5 * x * x), normal_below(x))
}

/// max(x, 0) + ln(1 + u) with u = e^−|x|. The logarithm is 2·artanh(z) of z = u / (2 + u) ≤ 1/3, by its series to the
/// 15th power: also where u is tiny, its digits are right.
#[inline(always)]
fn softplus(x: f32) -> f32 {
    let u = exp(-x.abs());
    let z = u / (2.0 + u);
    let square = z * z;
    let mut series = 1.0 / 15.0;
    for c in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        series = square.mul_add(series, c);
    }
    (2.0 * z).mul_add(series, if x < 0.0 { 0.0 } else { x })
}

/// `y = f(x)` with the function's number.
#[inline(always)]
fn function(kind: u32, y: &mut [f32], x: &[f32], a: f32, b: f32) {
    match kind {
        0 => map(y, x, |x| a * x + b),
        1 => map(y, x, |x| x.max(0.0)),
        2 => map(y, x, |x| 0.5 * x * (1.0 + gelu_tanh(x))),
        3 => map(y, x, |x| x * sigmoid(1.702 * x)),
        4 => map(y, x, |x| x * normal_below(x)),
        5 => map(y, x, sigmoid),
        6 => map(y, x, f32::tanh),
        7 => map(y, x, f32::exp),
        _ => map(y, x, softplus),
    }
}

/// `dx = f'(x)·dy` with the function's number.
#[inline(always)]
fn derivative(kind: u32, dx: &mut [f32], x: &[f32], dy: &[f32], a: f32) {
    match kind {
        0 => map_both(dx, x, dy, |_, dy| a * dy),
        1 => map_both(dx, x, dy, |x, dy| if x > 0.0 { dy } else { 0.0 * dy }),
        2 => map_both(dx, x, dy, |x, dy| gelu_tanh_derivative(x) * dy),
        3 => map_both(dx, x, dy, |x, dy| quick_gelu_derivative(x) * dy),
        4 => map_both(dx, x, dy, |x, dy| gelu_derivative(x) * dy),
        5 => map_both(dx, x, dy, |x, dy| sigmoid(x) * (1.0 - sigmoid(x)) * dy),
        6 => map_both(dx, x, dy, |x, dy| (1.0 - x.tanh() * x.tanh()) * dy),
        7 => map_both(dx, x, dy, |x, dy| x.exp() * dy),
        _ => map_both(dx, x, dy, |x, dy| sigmoid(x) * dy),
    }
}

/// `y = f(y)` with the function's number, for epilogues.
pub fn apply(kind: u32, y: &mut [f32]) {
    simd(
        #[inline(always)]
        || function(kind, y, &[], 0.0, 0.0),
    );
}

pub fn unary(call: &mut Call) {
    let (n, kind, a, b) = (call.size(0), call.u32(1), call.f32(2), call.f32(3));
    let [x, mut y] = call.args();
    parts(
        n,
        y.f32_mut(),
        [x.f32()],
        #[inline(always)]
        |y, [x]| function(kind, y, x, a, b),
    );
}

pub fn unary_grad(call: &mut Call) {
    let (n, kind, a) = (call.size(0), call.u32(1), call.f32(2));
    let [x, dy, mut dx] = call.args();
    parts(
        n,
        dx.f32_mut(),
        [x.f32(), dy.f32()],
        #[inline(always)]
        |dx, [x, dy]| derivative(kind, dx, x, dy, a),
    );
}

pub fn binary(call: &mut Call) {
    let ([rows, cols], stride, kind) = ([0, 1].map(|i| call.size(i)), call.u32(2) as usize, call.u32(3));
    let [a, b, mut y] = call.args();
    for begin in (0..rows).map(|r| r * stride) {
        // An overwritten input is empty and stays so.
        let row = |x: &'_ [f32]| if x.is_empty() { 0..0 } else { begin..begin + cols };
        let (a, b) = (a.f32(), b.f32());
        parts(
            cols,
            &mut y.f32_mut()[begin..],
            [&a[row(a)], &b[row(b)]],
            #[inline(always)]
            |y, [a, b]| match kind {
                0 => map_both(y, a, b, |a, b| a + b),
                1 => map_both(y, a, b, |a, b| a - b),
                _ => map_both(y, a, b, |a, b| a * b),
            },
        );
    }
}

/// Rows one task of the kernels by rows works on.
const ROWS: usize = 32;

pub fn scale_rows(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [x, w, mut y] = call.args();
    let (x, w) = (x.f32(), &w.f32()[..rows]);
    if cols == 0 {
        return;
    }
    let tasks = y.f32_mut()[..rows * cols].par_chunks_mut(ROWS * cols).zip(w.par_chunks(ROWS)).enumerate();
    tasks.for_each(|(task, (y, w))| {
        simd(
            #[inline(always)]
            || {
                for (r, (y, w)) in y.chunks_exact_mut(cols).zip(w).enumerate() {
                    let begin = (task * ROWS + r) * cols;
                    map(y, if x.is_empty() { x } else { &x[begin..begin + cols] }, |x| x * w);
                }
            },
        );
    });
}

pub fn row_dot(call: &mut Call) {
    let [rows, cols] = [0, 1].map(|i| call.size(i));
    let [a, b, mut y] = call.args();
    let (a, b) = (&a.f32()[..rows * cols], &b.f32()[..rows * cols]);
    y.f32_mut()[..rows].par_chunks_mut(ROWS).enumerate().for_each(|(task, y)| {
        simd(
            #[inline(always)]
            || {
                for (r, y) in y.iter_mut().enumerate() {
                    let begin = (task * ROWS + r) * cols;
                    *y = dot(&a[begin..begin + cols], &b[begin..begin + cols]);
                }
            },
        );
    });
}
