//! Kernels of `clip_norm` and `adam_w`; both bound by memory.

use super::Call;
use super::lanes::{PART, simd, sum_f64};
use rayon::prelude::*;

/// The norm, not the sum of squares, of each part: it cannot overflow where the gradients do not.
pub fn norm_parts(call: &mut Call) {
    let n = call.size(0);
    let [grads, mut norms] = call.args();
    grads.f32()[..n].par_chunks(PART).zip(norms.f32_mut()).for_each(|(grads, norm)| {
        let squares = simd(
            #[inline(always)]
            || sum_f64(grads, |g| g * g),
        );
        *norm = squares.sqrt() as f32;
    });
}

pub fn clip_norm(call: &mut Call) {
    let (n, max_norm) = (call.size(0), call.f32(2));
    let [norms, mut scale, mut norm] = call.args();
    let squares: f64 = norms.f32()[..n.div_ceil(PART)].iter().map(|n| f64::from(*n).powi(2)).sum();
    let total = squares.sqrt();
    let factor = f64::from(max_norm) / (total + 1e-6);
    // Not `min`: it would turn a NaN into 1.
    scale.f32_mut()[0] = if factor > 1.0 { 1.0 } else { factor as f32 };
    norm.f32_mut()[0] = total as f32;
}

/// What AdamW needs to know of a range of elements.
struct Step {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    clip: f32,
    correction1: f32,
    correction2: f32,
    rate: f32,
    decay: f32,
    smallest: f32,
    largest: f32,
}

impl Step {
    #[inline(always)]
    fn apply(&self, params: &mut [f32], m: &mut [f32], v: &mut [f32], grads: &[f32]) {
        for ((p, g), (m, v)) in params.iter_mut().zip(grads).zip(m.iter_mut().zip(v)) {
            let g = g * self.clip;
            *m = self.beta1.mul_add(*m, self.rest1 * g);
            *v = self.beta2.mul_add(*v, self.rest2 * g * g);
            let step = *m * self.correction1 / ((*v * self.correction2).sqrt() + self.eps);
            let moved = self.decay.mul_add(*p, step).mul_add(-self.rate, *p);
            // Comparisons rather than min and max, which would hide a NaN.
            let moved = if moved < self.smallest { self.smallest } else { moved };
            *p = if moved > self.largest { self.largest } else { moved };
        }
    }
}

pub fn adam_w(call: &mut Call) {
    let [n, groups] = [0, 1].map(|i| call.size(i));
    let [beta1, rest1, beta2, rest2, eps] = [2, 3, 4, 5, 6].map(|i| call.f32(i));
    let [params, m, v, grads, clip, scalars, ranges, factors, mut new_params, mut new_m, mut new_v] = call.args();
    let old = [params.f32(), m.f32(), v.f32()];
    let (grads, clip, scalars) = (&grads.f32()[..n], clip.f32()[0], scalars.f32());
    let ranges = &ranges.u32().as_chunks::<2>().0[..groups];
    let factors = &factors.f32().as_chunks::<4>().0[..groups];
    let parts = (new_params.f32_mut()[..n].par_chunks_mut(PART))
        .zip(new_m.f32_mut()[..n].par_chunks_mut(PART))
        .zip(new_v.f32_mut()[..n].par_chunks_mut(PART))
        .zip(grads.par_chunks(PART));
    parts.enumerate().for_each(|(part, (((params, m), v), grads))| {
        let first = part * PART;
        for (new, old) in [&mut *params, m, v].into_iter().zip(old) {
            // What is overwritten is in place already.
            if let Some(old) = old.get(first..first + new.len()) {
                new.copy_from_slice(old);
            }
        }
        for (range, factors) in ranges.iter().zip(factors) {
            let [begin, end] = range.map(|x| (x as usize).clamp(first, first + grads.len()) - first);
            if begin >= end {
                continue;
            }
            let step = Step {
                beta1,
                rest1,
                beta2,
                rest2,
                eps,
                clip,
                correction1: scalars[1],
                correction2: scalars[2],
                rate: scalars[0] * factors[0],
                decay: factors[1],
                smallest: factors[2],
                largest: factors[3],
            };
            let here = begin..end;
            simd(
                #[inline(always)]
                || step.apply(&mut params[here.clone()], &mut m[here.clone()], &mut v[here.clone()], &grads[here]),
            );
        }
    });
}
