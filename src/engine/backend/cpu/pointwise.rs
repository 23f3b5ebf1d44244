//! Kernels of `unary`, `unary_grad` and `binary`.

use super::Call;
use rayon::prelude::*;

/// Elements one task works on.
const PART: usize = 1 << 14;

/// `f` over the parts of `y`, with the parts of inputs that lie elsewhere; an overwritten input is read from `y`.
fn parts<const N: usize>(n: usize, y: &mut [f32], ins: [&[f32]; N], f: impl Fn(&mut [f32], [&[f32]; N]) + Sync) {
    y[..n].par_chunks_mut(PART).enumerate().for_each(|(i, y)| {
        let begin = i * PART;
        f(y, ins.map(|x| if x.is_empty() { x } else { &x[begin..begin + y.len()] }));
    });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// √(2/π)
const GELU: f32 = 0.797_884_6;

fn function(kind: u32) -> fn(f32, f32, f32) -> f32 {
    match kind {
        0 => |x, a, b| a * x + b,
        1 => |x, _, _| x.max(0.0),
        2 => |x, _, _| 0.5 * x * (1.0 + (GELU * (x + 0.044_715 * x * x * x)).tanh()),
        3 => |x, _, _| x * sigmoid(1.702 * x),
        4 => |x, _, _| sigmoid(x),
        5 => |x, _, _| x.tanh(),
        _ => |x, _, _| x.exp(),
    }
}

fn derivative(kind: u32) -> fn(f32, f32) -> f32 {
    match kind {
        0 => |_, a| a,
        1 => |x, _| if x > 0.0 { 1.0 } else { 0.0 },
        2 => |x, _| {
            let t = (GELU * (x + 0.044_715 * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU * (1.0 + 3.0 * 0.044_715 * x * x)
        },
        3 => |x, _| {
            let s = sigmoid(1.702 * x);
            s + x * 1.702 * s * (1.0 - s)
        },
        4 => |x, _| sigmoid(x) * (1.0 - sigmoid(x)),
        5 => |x, _| 1.0 - x.tanh() * x.tanh(),
        _ => |x, _| x.exp(),
    }
}

/// `y = f(y)` with the function's number, for epilogues.
pub fn apply(kind: u32, y: &mut [f32]) {
    let f = function(kind);
    y.iter_mut().for_each(|y| *y = f(*y, 0.0, 0.0));
}

pub fn unary(call: &mut Call) {
    let (n, kind, a, b) = (call.size(0), call.u32(1), call.f32(2), call.f32(3));
    let [x, mut y] = call.args();
    let f = function(kind);
    parts(n, y.f32_mut(), [x.f32()], |y, [x]| {
        if x.is_empty() {
            y.iter_mut().for_each(|y| *y = f(*y, a, b));
        } else {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x, a, b));
        }
    });
}

pub fn unary_grad(call: &mut Call) {
    let (n, kind, a) = (call.size(0), call.u32(1), call.f32(2));
    let [x, dy, mut dx] = call.args();
    let f = derivative(kind);
    parts(n, dx.f32_mut(), [x.f32(), dy.f32()], |dx, [x, dy]| {
        for (i, dx) in dx.iter_mut().enumerate() {
            let x = x.get(i).copied().unwrap_or(*dx);
            let dy = dy.get(i).copied().unwrap_or(*dx);
            *dx = f(x, a) * dy;
        }
    });
}

pub fn binary(call: &mut Call) {
    let (n, kind) = (call.size(0), call.u32(1));
    let [a, b, mut y] = call.args();
    let f: fn(f32, f32) -> f32 = match kind {
        0 => |a, b| a + b,
        1 => |a, b| a - b,
        _ => |a, b| a * b,
    };
    parts(n, y.f32_mut(), [a.f32(), b.f32()], |y, [a, b]| {
        for (i, y) in y.iter_mut().enumerate() {
            let a = a.get(i).copied().unwrap_or(*y);
            let b = b.get(i).copied().unwrap_or(*y);
            *y = f(a, b);
        }
    });
}
