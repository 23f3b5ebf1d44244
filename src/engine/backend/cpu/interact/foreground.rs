//! Which frames of its own video a text is about.
//!
//! # Notebook
//! Floor: 2·L·T·k·D FLOPs a pair, once a batch, beside all pairs of it the least. A task takes a pair: one product,
//! mixed as in the forward pass; then every frame counts those that are ahead of it.

use super::route::{GateBuffers, Router};
use super::tiles::{Desk, Desks, Problem, Scratch, Shape, Tile, lock};
use super::{Call, FLOOR};
use crate::engine::op::interact::{EXCLUDED, MAX_SEGMENT};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

pub fn foreground(call: &mut Call) {
    let shape = Shape::of(call);
    let keep_background = call.u32(Shape::WORDS) > 0;
    let [words, texts, log_omega, frames, videos, router @ ..] = call.args::<11>();
    let [g, h, table, gram, mut log_weights, mut scratch] = router;
    let router = Router::new(&shape, [g.f32(), h.f32(), gram.f32()], table.u32());
    let operands = [words.f32(), log_omega.f32(), frames.f32(), &[]];
    let problem = Problem::new(shape, operands, [texts.u32(), videos.u32()], router);
    let sizes = Scratch::of(&shape);
    let desks = Desks::new(scratch.f32_mut(), sizes.forward_floats());
    let out = log_weights.f32_mut();
    out.fill(0.0);
    let out = Mutex::new(out);
    (0..shape.texts.min(shape.videos)).into_par_iter().with_max_len(1).for_each(|i| {
        let (words, frames) = (problem.texts.get(i), problem.videos.get(i));
        if words.len() < 2 || frames.is_empty() {
            return;
        }
        let mut peaks = [FLOOR; MAX_SEGMENT as usize];
        let peaks = &mut peaks[..frames.len()];
        let mut desk = desks.mine();
        let desk = sizes.cut(&mut desk);
        if take_peaks(&problem, sizes, i, (&words, &frames), desk, peaks) {
            let foreground = |t: usize| rank(peaks, t) < peaks.len().div_ceil(2);
            let mut out = lock(&out);
            for (t, log_weight) in out[frames].iter_mut().enumerate() {
                *log_weight = if foreground(t) == keep_background { FLOOR } else { 0.0 };
            }
        }
    });
}

/// Each frame's highest cosine with a word that takes part; says whether any does.
fn take_peaks(
    problem: &Problem,
    sizes: Scratch,
    pair: usize,
    (words, frames): (&Range<usize>, &Range<usize>),
    desk: Desk,
    peaks: &mut [f32],
) -> bool {
    let alone = |rows: &Range<usize>| Tile { items: pair..pair + 1, first: rows.start, rows: rows.len() };
    let Desk { block, mut gates, .. } = desk;
    let stride = sizes.stride();
    problem.dots(&alone(words), &alone(frames), block, stride);
    let router = &problem.router;
    if router.is_there() {
        router.load(frames.clone(), 0, &mut gates);
        let (words, frames, gates) = (words.len(), frames.len(), &mut gates);
        Arch::new().dispatch(Mix { router, text: pair, block, stride, words, frames, gates });
    }
    let log_omega = problem.log_omega.get(words.start..words.end - 1);
    let takes_part = |l: usize| log_omega.is_none_or(|w| w[l] > EXCLUDED || w[l].is_nan());
    for (row, peak) in block.chunks_exact(stride * router.slots).zip(peaks) {
        for (l, c) in row[..words.len() - 1].iter().enumerate() {
            *peak = if takes_part(l) && *c > *peak { *c } else { *peak };
        }
    }
    (0..words.len() - 1).any(takes_part)
}

/// Mixes the dot products of a text with all frames of its video.
struct Mix<'a, 'b> {
    router: &'a Router<'a>,
    text: usize,
    block: &'a mut [f32],
    stride: usize,
    words: usize,
    frames: usize,
    gates: &'a mut GateBuffers<'b>,
}

impl WithSimd for Mix<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        self.router.gates(self.text, self.frames, self.gates);
        self.router.mix_in_place(s, (self.block, self.stride), 0..self.words, self.frames, self.gates);
    }
}

/// How many frames are ahead of frame t: those with a higher peak, and those before it with the same.
fn rank(peaks: &[f32], t: usize) -> usize {
    let ahead = |(other, peak): (usize, &f32)| *peak > peaks[t] || (*peak == peaks[t] && other < t);
    peaks.iter().enumerate().filter(|x| ahead(*x)).count()
}
