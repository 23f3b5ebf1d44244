//! Scores of listed pairs: frames of successive pairs with one text are gathered, so that they share a product.

use super::Call;
use super::pool::{self, Scales};
use super::route::{GateBuffers, Router, mixed_dots};
use super::tiles::{Desk, Desks, PoolBuffers, Problem, Scratch, Shape};
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
    let router = Router::new(&shape, [g.f32(), h.f32(), gram.f32()], table.u32());
    let problem = Problem::new(shape, operands, [texts.u32(), videos.u32()], router);
    let sizes = Scratch::of(&shape);
    let desks = Desks::new(scratch.f32_mut(), sizes.pair_floats(shape.width));
    let (pairs, _) = pairs.u32().as_chunks::<2>();
    let scores = scores.f32_mut().par_chunks_mut(PAIRS).zip(pairs.par_chunks(PAIRS));
    scores.take(count.div_ceil(PAIRS)).enumerate().for_each(|(i, (scores, pairs))| {
        let here = (count - i * PAIRS).min(scores.len()).min(pairs.len());
        let mut desk = desks.mine();
        let mut list = PairList { problem: &problem, sizes, pairs: &pairs[..here], scores: &mut scores[..here] };
        list.run(sizes.cut(&mut desk));
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

    fn run(&mut self, desk: Desk) {
        let Desk { block, mut pool, mut gates, rest: gathered } = desk;
        self.scores.fill(0.0);
        let mut begin = 0;
        while begin < self.pairs.len() {
            let (end, rows) = self.gather(begin, gathered, &mut gates);
            let words = self.problem.texts.get(self.pairs[begin][0] as usize);
            if words.len() >= 2 && rows > 0 {
                self.dots(&words, rows, gathered, block);
                let buffers = (&mut pool, &mut gates);
                let run = Run { list: self, pairs: begin..end, words, rows, block, buffers };
                Arch::new().dispatch(run);
            }
            begin = end;
        }
    }

    /// Copies the frames of pairs from `begin` on that have one text; the end of that run, and its frames.
    fn gather(&self, begin: usize, gathered: &mut [f32], gates: &mut GateBuffers) -> (usize, usize) {
        let router = &self.problem.router;
        let d = self.problem.shape.width * router.slots;
        let (mut end, mut rows) = (begin, 0);
        while end < self.pairs.len() && self.pairs[end][0] == self.pairs[begin][0] && rows < self.sizes.tile_frames() {
            let frames = self.frames(end);
            let from = &self.problem.frames[frames.start * d..frames.end * d];
            gathered[rows * d..rows * d + from.len()].copy_from_slice(from);
            if router.is_there() {
                router.load(frames.clone(), rows, gates);
            }
            rows += frames.len();
            end += 1;
        }
        (end, rows)
    }

    fn dots(&self, words: &Range<usize>, rows: usize, gathered: &[f32], block: &mut [f32]) {
        let (d, stride, n) = (self.problem.shape.width, self.sizes.stride(), words.len());
        let rows = rows * self.problem.router.slots;
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
    rows: usize,
    block: &'a mut [f32],
    buffers: (&'a mut PoolBuffers<'c>, &'a mut GateBuffers<'c>),
}

impl WithSimd for Run<'_, '_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let problem = self.list.problem;
        let words = self.words.len();
        let log_weights = problem.log_omega.get(self.words.start..self.words.end - 1).unwrap_or(&[]);
        let (pool, gates) = self.buffers;
        let Some(tame) = pool::prepare_text(s, words - 1, log_weights, pool) else { return };
        let (router, stride) = (&problem.router, self.list.sizes.stride());
        if router.is_there() {
            router.gates(self.list.pairs[self.pairs.start][0] as usize, self.rows, gates);
            router.mix_in_place(s, (self.block, stride), 0..words, self.rows, gates);
        }
        let scales = Scales::new(problem.shape.tau, problem.shape.relevance_tau);
        let mut row = 0;
        for pair in self.pairs {
            let frames = self.list.frames(pair);
            let here = row..row + frames.len();
            row = here.end;
            if frames.is_empty() {
                continue;
            }
            let dots = mixed_dots(router, (self.block, stride), here, 0..words);
            if pool::relevance(s, dots, problem.prior(0, frames), scales, pool) {
                self.list.scores[pair] = pool::score(s, dots, scales, tame, pool);
            }
        }
    }
}
