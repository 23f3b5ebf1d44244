//! The gradient of all pairs, in chunks of tiles.
//!
//! # Notebook
//! Floor: three matrix products of 2·ΣL·ΣT·D FLOPs each: the dot products again, and their gradient G with the words
//! and with the frames. A chunk holds G of some text tiles × video tiles in at most 64 MiB:
//!
//! ```text
//! 1. every tile, in parallel:        C = E·Wᵀ in scratch memory, pooled into G; also d ln ω of its words
//! 2. every video tile, in parallel:  dE += G·W over the text tiles of the chunk, in order; dβ from the sentences'
//!                                    columns, where G is dβ / τ_ρ
//!    every text tile, in parallel:   dW += Gᵀ·E over the video tiles of the chunk, in order; d ln ω likewise
//! ```
//!
//! Chunks follow one another, sums have a fixed order: the number of threads changes no bit.

use super::pool::{self, Dots, Scales};
use super::tiles::{Desks, GradientBuffers, PoolBuffers, Problem, Scratch, Shape, Tile};
use super::{Call, FRAMES, WORDS};
use crate::engine::backend::cpu::{Matrix, MatrixMut, matmul};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Gradients of what is scored; empty where there is none.
#[derive(Copy, Clone)]
struct Seeds<'a> {
    scores: &'a [f32],
    view_scores: &'a [f32],
    relevance: &'a [f32],
}

/// Gradients of the operands; empty where nobody wants them.
struct Gradients<'a> {
    words: &'a mut [f32],
    log_omega: &'a mut [f32],
    frames: &'a mut [f32],
    bias: &'a mut [f32],
}

/// Tiles of one chunk.
struct Chunk<'a> {
    problem: &'a Problem<'a>,
    sizes: Scratch,
    texts: Range<usize>,
    videos: Range<usize>,
    /// `[texts, videos]` tiles.
    tiles: &'a [f32],
}

pub fn interact_grad(call: &mut Call) {
    let shape = Shape::of(call);
    let [words, texts, log_omega, frames, videos, bias, router @ ..] = call.args::<23>();
    let [g, h, table, gram, log_weights, ds, dviews, drho, outs @ ..] = router;
    let [mut dwords, mut dlog_omega, mut dframes, mut dbias, mut dg, mut dh, mut dgram, mut tiles, mut scratch] = outs;
    let operands = [words.f32(), log_omega.f32(), frames.f32(), bias.f32()];
    let mut problem = Problem::new(shape, operands, [texts.u32(), videos.u32()]);
    problem.log_weights = log_weights.f32();
    let seeds = Seeds { scores: ds.f32(), view_scores: dviews.f32(), relevance: drho.f32() };
    let mut out = Gradients {
        words: dwords.f32_mut(),
        log_omega: dlog_omega.f32_mut(),
        frames: dframes.f32_mut(),
        bias: dbias.f32_mut(),
    };
    for x in [&mut out.words, &mut out.log_omega, &mut out.frames, &mut out.bias] {
        x.fill(0.0);
    }
    let sizes = Scratch { max_words: shape.max_words, max_frames: shape.max_frames };
    let desks = Desks::new(scratch.f32_mut(), sizes.gradient_floats());
    let (text_tiles, video_tiles) = (problem.texts.tiles(WORDS), problem.videos.tiles(FRAMES));
    // Chunks are cut by capacity: what a batch holds does not change them.
    let (per_text, per_video) =
        sizes.chunk(words.f32().len() / shape.width.max(1), frames.f32().len() / shape.width.max(1));
    for videos in (0..video_tiles).step_by(per_video).map(|b| b..(b + per_video).min(video_tiles)) {
        for texts in (0..text_tiles).step_by(per_text).map(|b| b..(b + per_text).min(text_tiles)) {
            let floats = texts.len() * videos.len() * sizes.tile_floats();
            let tiles = &mut tiles.f32_mut()[..floats];
            tiles.par_chunks_mut(sizes.tile_floats()).enumerate().with_max_len(1).for_each(|(i, tile)| {
                let (text, video) = (texts.start + i / videos.len(), videos.start + i % videos.len());
                fill_tile(&problem, sizes, seeds, (text, video), tile, &mut desks.mine());
            });
            let chunk = Chunk { problem: &problem, sizes, texts: texts.clone(), videos: videos.clone(), tiles };
            chunk.accumulate(&mut out);
        }
    }
}

/// Writes G and d ln ω of one tile.
fn fill_tile(
    problem: &Problem,
    sizes: Scratch,
    seeds: Seeds,
    (text, video): (usize, usize),
    tile: &mut [f32],
    desk: &mut [f32],
) {
    let (texts, videos) = (problem.texts.tile(text, WORDS), problem.videos.tile(video, FRAMES));
    let (block, pool, rest) = sizes.cut(desk);
    let d = sizes.cut_gradient(rest);
    problem.dots(&texts, &videos, block, sizes.stride());
    tile.fill(0.0);
    let (g, dlog_omega) = tile.split_at_mut(tile.len() - sizes.stride());
    Arch::new().dispatch(GradientTile {
        problem,
        seeds,
        texts,
        videos,
        block,
        stride: sizes.stride(),
        pool,
        d,
        g,
        dlog_omega,
    });
}

/// Turns a tile's dot products into their gradient.
struct GradientTile<'a> {
    problem: &'a Problem<'a>,
    seeds: Seeds<'a>,
    texts: Tile,
    videos: Tile,
    block: &'a [f32],
    stride: usize,
    pool: PoolBuffers<'a>,
    d: GradientBuffers<'a>,
    g: &'a mut [f32],
    dlog_omega: &'a mut [f32],
}

impl WithSimd for GradientTile<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        for i in self.texts.items.clone() {
            let words = self.texts.local(&self.problem.texts, i);
            if words.len() < 2 {
                continue;
            }
            let count = words.len() - 1;
            let first = self.texts.first + words.start;
            let log_weights = self.problem.log_omega.get(first..first + count).unwrap_or(&[]);
            let Some(tame) = pool::prepare_text(s, count, log_weights, &mut self.pool) else { continue };
            self.d.domega[..pool::whole::<S>(count)].fill(0.0);
            for j in self.videos.items.clone() {
                self.pair(s, (i, words.clone(), tame), j);
            }
            self.dlog_omega[words.start..words.start + count].copy_from_slice(&self.d.domega[..count]);
        }
    }
}

impl GradientTile<'_> {
    /// G of one text with one video, summed over the views.
    #[inline(always)]
    fn pair<S: Simd>(&mut self, s: S, (text, words, tame): (usize, Range<usize>, bool), video: usize) {
        let shape = self.problem.shape;
        let frames = self.videos.local(&self.problem.videos, video);
        if frames.is_empty() {
            return;
        }
        let scales = Scales::new(shape.tau, shape.relevance_tau);
        let rows = self.videos.first + frames.start..self.videos.first + frames.end;
        let dots = Dots::new(self.block, self.stride, frames.clone(), words.clone());
        let (count, width) = (words.len() - 1, pool::whole::<S>(words.len() - 1));
        self.d.g[..frames.len() * width].fill(0.0);
        self.d.dsentence[..frames.len()].fill(0.0);
        for view in 0..=shape.views {
            let Some(seed) = self.seeds.of(&shape, (text, video), rows.clone(), view) else { continue };
            if pool::relevance(s, dots, self.problem.prior(view, rows.clone()), scales, &mut self.pool) {
                pool::add_gradient(s, dots, scales, tame, seed, &mut self.pool, &mut self.d);
            }
        }
        for (t, row) in frames.enumerate() {
            let target = &mut self.g[row * self.stride + words.start..][..count + 1];
            target[..count].copy_from_slice(&self.d.g[t * width..][..count]);
            target[count] = self.d.dsentence[t];
        }
    }
}

impl<'a> Seeds<'a> {
    /// The gradients of a pair's score and relevance under a view; `None` where there are none.
    fn of(
        &self,
        shape: &Shape,
        (text, video): (usize, usize),
        rows: Range<usize>,
        view: usize,
    ) -> Option<(f32, &'a [f32])> {
        let at = text * shape.video_cap + video;
        if view > 0 {
            return Some((*self.view_scores.get((view - 1) * shape.text_cap * shape.video_cap + at)?, &[]));
        }
        let row = text * shape.frame_cap;
        let relevance = self.relevance.get(row + rows.start..row + rows.end).unwrap_or(&[]);
        let score = self.scores.get(at).copied();
        if score.is_none() && relevance.is_empty() { None } else { Some((score.unwrap_or(0.0), relevance)) }
    }
}

impl Chunk<'_> {
    /// Adds what this chunk's tiles contribute. Each task owns the rows of one tile of words or of frames.
    fn accumulate(&self, out: &mut Gradients) {
        let (word_segments, frame_segments) = (&self.problem.texts, &self.problem.videos);
        let d = self.problem.shape.width;
        rayon::scope(|scope| {
            let (mut words, mut log_omega) = (Rows::new(out.words, d), Rows::new(out.log_omega, 1));
            for text in self.texts.clone() {
                let tile = word_segments.tile(text, WORDS);
                let (dwords, dlog_omega) = (words.take(&tile), log_omega.take(&tile));
                scope.spawn(move |_| self.add_words(text, &tile, dwords, dlog_omega));
            }
            let (mut frames, mut bias) = (Rows::new(out.frames, d), Rows::new(out.bias, 1));
            for video in self.videos.clone() {
                let tile = frame_segments.tile(video, FRAMES);
                let (dframes, dbias) = (frames.take(&tile), bias.take(&tile));
                scope.spawn(move |_| self.add_frames(video, &tile, dframes, dbias));
            }
        });
    }

    /// The gradient tile of a text tile with a video tile: G, then d ln ω.
    fn tile(&self, text: usize, video: usize) -> (&[f32], &[f32]) {
        let index = (text - self.texts.start) * self.videos.len() + video - self.videos.start;
        let tile = &self.tiles[index * self.sizes.tile_floats()..][..self.sizes.tile_floats()];
        tile.split_at(tile.len() - self.sizes.stride())
    }

    fn add_words(&self, text: usize, tile: &Tile, dwords: &mut [f32], dlog_omega: &mut [f32]) {
        let (d, stride) = (self.problem.shape.width, self.sizes.stride());
        for video in self.videos.clone() {
            let (g, domega) = self.tile(text, video);
            let videos = self.problem.videos.tile(video, FRAMES);
            if !dwords.is_empty() && videos.rows > 0 {
                let g = Matrix { data: g, row: 1, col: stride };
                let frames = Matrix { data: &self.problem.frames[videos.first * d..], row: d, col: 1 };
                matmul(tile.rows, d, videos.rows, MatrixMut { data: dwords, row: d }, 1.0, g, frames);
            }
            dlog_omega.iter_mut().zip(domega).for_each(|(sum, x)| *sum += x);
        }
    }

    fn add_frames(&self, video: usize, tile: &Tile, dframes: &mut [f32], dbias: &mut [f32]) {
        let (d, stride) = (self.problem.shape.width, self.sizes.stride());
        for text in self.texts.clone() {
            let (g, _) = self.tile(text, video);
            let texts = self.problem.texts.tile(text, WORDS);
            if !dframes.is_empty() && texts.rows > 0 {
                let words = Matrix { data: &self.problem.words[texts.first * d..], row: d, col: 1 };
                let g = Matrix { data: g, row: stride, col: 1 };
                matmul(tile.rows, d, texts.rows, MatrixMut { data: dframes, row: d }, 1.0, g, words);
            }
            for i in texts.items.clone() {
                let words = texts.local(&self.problem.texts, i);
                if words.len() < 2 {
                    continue;
                }
                for (sum, row) in dbias.iter_mut().zip(g.chunks_exact(stride)) {
                    *sum += self.problem.shape.relevance_tau * row[words.end - 1];
                }
            }
        }
    }
}

/// Hands out disjoint rows of a matrix, from the first to the last.
struct Rows<'a> {
    rest: &'a mut [f32],
    at: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    fn new(all: &'a mut [f32], width: usize) -> Rows<'a> {
        Rows { rest: all, at: 0, width }
    }
    /// The rows of a tile; none of a matrix that nobody wants, and none that were handed out before.
    fn take(&mut self, tile: &Tile) -> &'a mut [f32] {
        let end = (tile.first + tile.rows) * self.width;
        if self.rest.is_empty() || tile.first * self.width < self.at || end > self.at + self.rest.len() {
            return &mut [];
        }
        let (_, behind) = std::mem::take(&mut self.rest).split_at_mut(tile.first * self.width - self.at);
        let (mine, rest) = behind.split_at_mut(tile.rows * self.width);
        self.rest = rest;
        self.at = end;
        mine
    }
}
