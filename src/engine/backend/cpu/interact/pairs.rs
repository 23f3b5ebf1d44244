//! Scores of listed pairs: frames of successive pairs with one text are gathered, so that they share a product.

use super::pool::{self, Dots, Scales};
use super::tiles::{Desks, PoolBuffers, Problem, Scratch, Shape};
use super::{Call, FRAMES};
use crate::engine::backend::cpu::{Matrix, MatrixMut, matmul};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Pairs one task scores.
const PAIRS: usize = 32;

pub fn interact_pairs(call: &mut Call) {
    let shape = Shape::of(call);
    let count = call.size(Shape::WORDS);
    let [words, texts, log_omega, frames, videos, bias, router @ ..] = call.args::<13>();
    let [g, h, table, gram, pairs, mut scores, mut scratch] = router;
    let operands = [words.f32(), log_omega.f32(), frames.f32(), bias.f32()];
    let problem = Problem::new(shape, operands, [texts.u32(), videos.u32()]);
    let sizes = Scratch { max_words: shape.max_words, max_frames: shape.max_frames };
    let desks = Desks::new(scratch.f32_mut(), sizes.pair_floats(shape.width));
    let (pairs, _) = pairs.u32().as_chunks::<2>();
    let scores = scores.f32_mut().par_chunks_mut(PAIRS).zip(pairs.par_chunks(PAIRS));
    scores.take(count.div_ceil(PAIRS)).enumerate().for_each(|(i, (scores, pairs))| {
        let here = (count - i * PAIRS).min(scores.len()).min(pairs.len());
        let mut desk = desks.mine();
        let mut list = PairList { problem: &problem, sizes, pairs: &pairs[..here], scores: &mut scores[..here] };
        let (block, pool, gathered) = sizes.cut(&mut desk);
        list.run(block, pool, gathered);
    });
}

/// Some pairs, and where their scores go.
struct PairList<'a> {
    problem: &'a Problem<'a>,
    sizes: Scratch,
    pairs: &'a [[u32; 2]],
    scores: &'a mut [f32],
}

impl PairList<'_> {
    fn frames(&self, pair: usize) -> Range<usize> {
        self.problem.videos.get(self.pairs[pair][1] as usize)
    }

    fn run(&mut self, block: &mut [f32], mut pool: PoolBuffers, gathered: &mut [f32]) {
        self.scores.fill(0.0);
        let mut begin = 0;
        while begin < self.pairs.len() {
            let (end, rows) = self.gather(begin, gathered);
            let words = self.problem.texts.get(self.pairs[begin][0] as usize);
            if words.len() >= 2 && rows > 0 {
                self.dots(&words, rows, gathered, block);
                let run = Run { list: self, pairs: begin..end, words, block, pool: &mut pool };
                Arch::new().dispatch(run);
            }
            begin = end;
        }
    }

    /// Copies the frames of pairs from `begin` on that have one text; the end of that run, and its frames.
    fn gather(&self, begin: usize, gathered: &mut [f32]) -> (usize, usize) {
        let d = self.problem.shape.width;
        let (mut end, mut rows) = (begin, 0);
        while end < self.pairs.len() && self.pairs[end][0] == self.pairs[begin][0] && rows < FRAMES {
            let frames = self.frames(end);
            let from = &self.problem.frames[frames.start * d..frames.end * d];
            gathered[rows * d..rows * d + from.len()].copy_from_slice(from);
            rows += frames.len();
            end += 1;
        }
        (end, rows)
    }

    fn dots(&self, words: &Range<usize>, rows: usize, gathered: &[f32], block: &mut [f32]) {
        let (d, stride, n) = (self.problem.shape.width, self.sizes.stride(), words.len());
        if d == 0 {
            block[..rows * stride].fill(0.0);
        } else {
            let frames = Matrix { data: gathered, row: d, col: 1 };
            let words = Matrix { data: &self.problem.words[words.start * d..], row: 1, col: d };
            matmul(rows, n, d, MatrixMut { data: block, row: stride }, 0.0, frames, words);
        }
    }
}

/// Pairs of one text whose dot products are there.
struct Run<'a, 'b, 'c> {
    list: &'a mut PairList<'b>,
    pairs: Range<usize>,
    words: Range<usize>,
    block: &'a [f32],
    pool: &'a mut PoolBuffers<'c>,
}

impl WithSimd for Run<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let problem = self.list.problem;
        let words = self.words.len();
        let log_weights = problem.log_omega.get(self.words.start..self.words.end - 1).unwrap_or(&[]);
        let Some(tame) = pool::prepare_text(s, words - 1, log_weights, self.pool) else { return };
        let scales = Scales::new(problem.shape.tau, problem.shape.relevance_tau);
        let mut row = 0;
        for pair in self.pairs {
            let frames = self.list.frames(pair);
            let here = row..row + frames.len();
            row = here.end;
            if frames.is_empty() {
                continue;
            }
            let dots = Dots::new(self.block, self.list.sizes.stride(), here, 0..words);
            if pool::relevance(s, dots, problem.prior(0, frames), scales, self.pool) {
                self.list.scores[pair] = pool::score(s, dots, scales, tame, self.pool);
            }
        }
    }
}
