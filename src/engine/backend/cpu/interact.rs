//! Kernels of token interaction.
//!
//! # Notebook
//! Computes, for every text and video, the dot products of L words (and the sentence vector) with T frames, and pools
//! them by soft-maxes in both directions (`op::interact` has the formulas).
//!
//! Floor: 2·ΣL·ΣT·D FLOPs of a matrix product; pooling adds about 25 per dot product, 5 % of them at D = 512. Bound by
//! arithmetic.
//!
//! ```text
//!            words of some 16 texts -> ~512 + one segment
//!   frames  +--------+--------+----+   rows: frames, columns: words, the sentence vector behind its words, so that
//!   of some |  pair  |  pair  |    |   vectors run along the longer, more ragged side.
//!   40      +--------+--------+----+   A tile holds whole texts and whole videos: those that begin within its rows.
//!   videos  |  pair  |  pair  |    |
//!           +--------+--------+----+
//! ```
//!
//! Measured by `benches/interact.rs` against its products alone (same library, blocks of 128 to 512 square), two busy
//! cores of an EPYC with AVX-512, medians of 7 rounds, November 2026, with tiles of 256 x 256 and before vectors
//! stopped at a text's words:
//!
//! | what | times its products |
//! |---|---|
//! | all pairs 1000 × 1000, 32 words, 12 frames, D 512 | 1.01 to 1.22 |
//! | gradient 128 × 128, D 512 | 1.06 to 1.14 |
//! | gradient 128 × 128, D 128 | 1.19 to 1.37 |
//! | re-rank, 10 texts × 100 videos, D 512 | 1.11 to 1.48 |
//!
//! Pooling is 3 % of the time; what is lost is lost in the product, which packs both its operands anew for every tile.
//! So the tile is larger than the second-level cache (1 MiB here). `moviola bench scoring`, all pairs 1000 × 1000 at
//! D 512 against a product in blocks of the best size, medians of 5 rounds, each line measured twice; and a training
//! step of 128 pairs, ms, three times in turns:
//!
//! | words x frames of a tile | times its product | step |
//! |---|---|---|
//! | 256 x 256 | 1.34 to 1.40 | 141, 133, 124 |
//! | 384 x 256 | 1.42, 1.43 | |
//! | 512 x 256 | 1.30, 1.32 | |
//! | 1024 x 256 | 1.37, 1.33 | |
//! | 256 x 512 | 1.17, 1.21 | |
//! | **512 x 512** | 1.14, 1.17 | 132, 117, 123 |
//! | 512 x 768 | 1.09, 1.10 | 127, 115, 130 |
//! | 512 x 1024 | 1.12, 1.08 | |
//! | 768 x 768 | 1.16, 1.14 | |
//!
//! Wider ones leave too few tiles to divide among many threads: 128 pairs make 27 of 512 x 512.
//!
//! Tried: whole vectors over a text's last words, reading into its neighbour's columns with weight 0. It saves the
//! partial load, but a NaN in one text then reaches the score of the text before it.
//!
//! A tile's task takes its thread's scratch memory, and copies results out behind a lock, some hundred numbers for
//! every millionth of a second it works. Tiles have fixed sizes and nothing is summed across them in the forward
//! pass: the number of threads changes no bit.

pub(super) mod exp;
mod foreground;
mod gradient;
mod pairs;
mod pool;
mod route;
mod tiles;

pub use foreground::foreground;
pub use gradient::interact_grad;
pub use pairs::interact_pairs;
pub use tiles::Scratch;

use super::Call;
use pool::Scales;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use route::{GateBuffers, Router, mixed_dots};
use std::sync::Mutex;
use tiles::{Desk, Desks, PoolBuffers, Problem, Shape, Tile, lock};

/// Rows of words and of frames within which the segments of a tile begin.
const WORDS: usize = 512;
const FRAMES: usize = 512;

/// Buffers are padded to this many floats, a multiple of every vector length.
const LANES: usize = 16;

/// The log-weight of what does not take part.
const FLOOR: f32 = -1e30;

/// Scores of one text that are copied out at a time.
const BATCH: usize = 64;

/// Where results go; empty where nobody wants them.
struct Outputs<'a> {
    scores: &'a mut [f32],
    view_scores: &'a mut [f32],
    relevance: &'a mut [f32],
}

pub fn interact(call: &mut Call) {
    let shape = Shape::of(call);
    let [words, texts, log_omega, frames, videos, bias, router @ ..] = call.args::<15>();
    let [g, h, table, gram, log_weights, mut scores, mut views, mut relevance, mut scratch] = router;
    let operands = [words.f32(), log_omega.f32(), frames.f32(), bias.f32()];
    let router = Router::new(&shape, [g.f32(), h.f32(), gram.f32()], table.u32());
    let mut problem = Problem::new(shape, operands, [texts.u32(), videos.u32()], router);
    problem.log_weights = log_weights.f32();
    let outputs = Outputs { scores: scores.f32_mut(), view_scores: views.f32_mut(), relevance: relevance.f32_mut() };
    outputs.scores.fill(0.0);
    outputs.view_scores.fill(0.0);
    outputs.relevance.fill(0.0);
    let with_relevance = !outputs.relevance.is_empty();
    let views = if outputs.view_scores.is_empty() { 0 } else { shape.views };
    let outputs = Mutex::new(outputs);
    let sizes = Scratch::of(&shape);
    let desks = Desks::new(scratch.f32_mut(), sizes.forward_floats());
    let (rows, columns) = (problem.texts.tiles(WORDS), problem.videos.tiles(sizes.tile_frames()));
    (0..rows * columns).into_par_iter().with_max_len(1).for_each(|i| {
        let texts = problem.texts.tile(i / columns, WORDS);
        let videos = problem.videos.tile(i % columns, sizes.tile_frames());
        let mut desk = desks.mine();
        let Desk { block, pool, mut gates, .. } = sizes.cut(&mut desk);
        problem.dots(&texts, &videos, block, sizes.stride());
        if problem.router.is_there() {
            problem.router.load(videos.first..videos.first + videos.rows, 0, &mut gates);
        }
        let tile = PoolTile {
            problem: &problem,
            texts,
            videos,
            block,
            stride: sizes.stride(),
            pool,
            gates,
            views,
            with_relevance,
            outputs: &outputs,
        };
        Arch::new().dispatch(tile);
    });
}

/// Pools all pairs of a tile whose dot products are there.
struct PoolTile<'a, 'b> {
    problem: &'a Problem<'a>,
    texts: Tile,
    videos: Tile,
    block: &'a mut [f32],
    stride: usize,
    pool: PoolBuffers<'a>,
    gates: GateBuffers<'a>,
    views: usize,
    with_relevance: bool,
    outputs: &'a Mutex<Outputs<'b>>,
}

impl WithSimd for PoolTile<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        for i in self.texts.items.clone() {
            let words = self.texts.local(&self.problem.texts, i);
            if words.len() < 2 {
                continue;
            }
            let first = self.texts.first + words.start;
            let log_weights = self.problem.log_omega.get(first..first + words.len() - 1).unwrap_or(&[]);
            let prepared = pool::prepare_text(s, words.len() - 1, log_weights, &mut self.pool);
            let Some(tame) = prepared else { continue };
            let router = &self.problem.router;
            if router.is_there() {
                router.gates(i, self.videos.rows, &mut self.gates);
                router.mix_in_place(s, (self.block, self.stride), words.clone(), self.videos.rows, &self.gates);
            }
            for view in 0..=self.views {
                let mut j = self.videos.items.start;
                while j < self.videos.items.end {
                    let end = (j + BATCH).min(self.videos.items.end);
                    self.batch(s, (i, words.clone(), tame), j..end, view);
                    j = end;
                }
            }
        }
    }
}

impl PoolTile<'_, '_> {
    /// Scores a text with some videos under one view, and copies the results out.
    #[inline(always)]
    fn batch<S: Simd>(
        &mut self,
        s: S,
        (text, words, tame): (usize, std::ops::Range<usize>, bool),
        videos: std::ops::Range<usize>,
        view: usize,
    ) {
        let shape = self.problem.shape;
        let scales = Scales::new(shape.tau, shape.relevance_tau);
        let mut scores = [0.0; BATCH];
        for (score, j) in scores.iter_mut().zip(videos.clone()) {
            let frames = self.videos.local(&self.problem.videos, j);
            if frames.is_empty() {
                continue;
            }
            let rows = self.videos.first + frames.start..self.videos.first + frames.end;
            let dots = mixed_dots(&self.problem.router, (self.block, self.stride), frames.clone(), words.clone());
            let taken = pool::relevance(s, dots, self.problem.prior(view, rows), scales, &mut self.pool);
            if taken {
                *score = pool::score(s, dots, scales, tame, &mut self.pool);
            }
            if view == 0 && self.with_relevance {
                let relevance = &mut self.pool.relevance[frames.clone()];
                if taken { relevance.copy_from_slice(&self.pool.rho[..frames.len()]) } else { relevance.fill(0.0) }
            }
        }
        self.copy_out(text, videos, view, &scores);
    }

    fn copy_out(&self, text: usize, videos: std::ops::Range<usize>, view: usize, scores: &[f32]) {
        let shape = self.problem.shape;
        let mut outputs = lock(self.outputs);
        let row = text * shape.video_cap;
        let target = if view == 0 {
            &mut outputs.scores[row..]
        } else {
            &mut outputs.view_scores[(view - 1) * shape.text_cap * shape.video_cap + row..]
        };
        target[videos.clone()].copy_from_slice(&scores[..videos.len()]);
        if view == 0 && self.with_relevance {
            for j in videos {
                let frames = self.videos.local(&self.problem.videos, j);
                let begin = text * shape.frame_cap + self.videos.first + frames.start;
                outputs.relevance[begin..begin + frames.len()].copy_from_slice(&self.pool.relevance[frames]);
            }
        }
    }
}
