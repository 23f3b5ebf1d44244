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
//! With a router a frame has k rows of dot products x: step 1 mixes them into C as in the forward pass, and turns the
//! gradient of C into that of x, where G then is; what the gates of the tile's frames and texts gain stands behind it.
//!
//! Chunks follow one another, sums have a fixed order: the number of threads changes no bit.

use super::pool::{self, Dots, Scales};
use super::route::{GateBuffers, GateGradients, Router};
use super::tiles::{Desk, Desks, GradientBuffers, PoolBuffers, Problem, Scratch, Shape, Tile};
use super::{Call, WORDS};
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
    router_text: &'a mut [f32],
    router_frame: &'a mut [f32],
    gram: &'a mut [f32],
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
    let router = Router::new(&shape, [g.f32(), h.f32(), gram.f32()], table.u32());
    let mut problem = Problem::new(shape, operands, [texts.u32(), videos.u32()], router);
    problem.log_weights = log_weights.f32();
    let seeds = Seeds { scores: ds.f32(), view_scores: dviews.f32(), relevance: drho.f32() };
    let mut out = Gradients {
        words: dwords.f32_mut(),
        log_omega: dlog_omega.f32_mut(),
        frames: dframes.f32_mut(),
        bias: dbias.f32_mut(),
        router_text: dg.f32_mut(),
        router_frame: dh.f32_mut(),
        gram: dgram.f32_mut(),
    };
    out.each().into_iter().for_each(|x| x.fill(0.0));
    let sizes = Scratch::of(&shape);
    let desks = Desks::new(scratch.f32_mut(), sizes.gradient_floats());
    let (text_tiles, video_tiles) = (problem.texts.tiles(WORDS), problem.videos.tiles(sizes.tile_frames()));
    // Chunks are cut by capacity: what a batch holds does not change them.
    let (per_text, per_video) =
        sizes.chunk(words.f32().len() / shape.width.max(1), frames.f32().len() / (shape.slots * shape.width).max(1));
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
    let (texts, videos) = (problem.texts.tile(text, WORDS), problem.videos.tile(video, sizes.tile_frames()));
    let mut desk = sizes.cut(desk);
    let d = sizes.cut_gradient(&mut desk);
    problem.dots(&texts, &videos, desk.block, sizes.stride());
    if problem.router.is_there() {
        problem.router.load(videos.first..videos.first + videos.rows, 0, &mut desk.gates);
    }
    let (g, dlog_omega, mut dgates) = sizes.cut_tile(tile);
    // Of G only what is multiplied is cleared: a tile may hold far less than it could.
    let rows = g.chunks_exact_mut(sizes.stride()).take(videos.rows * sizes.slots);
    rows.for_each(|row| row[..texts.rows].fill(0.0));
    dlog_omega.fill(0.0);
    dgates.clear();
    let Desk { block, pool, gates, .. } = desk;
    Arch::new().dispatch(GradientTile {
        problem,
        sizes,
        seeds,
        texts,
        videos,
        block,
        pool,
        gates,
        d,
        g,
        dlog_omega,
        dgates,
    });
}

/// Turns a tile's dot products into their gradient.
struct GradientTile<'a> {
    problem: &'a Problem<'a>,
    sizes: Scratch,
    seeds: Seeds<'a>,
    texts: Tile,
    videos: Tile,
    block: &'a [f32],
    pool: PoolBuffers<'a>,
    gates: GateBuffers<'a>,
    d: GradientBuffers<'a>,
    g: &'a mut [f32],
    dlog_omega: &'a mut [f32],
    dgates: GateGradients<'a>,
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
            let router = &self.problem.router;
            if router.is_there() {
                router.gates(i, self.videos.rows, &mut self.gates);
                self.gates.y.fill(0.0);
            }
            for j in self.videos.items.clone() {
                self.pair(s, (i, words.clone(), tame), j);
            }
            self.dlog_omega[words.start..words.start + count].copy_from_slice(&self.d.domega[..count]);
            if router.is_there() {
                router.add_gradient(self.videos.rows, words.start, &mut self.gates, &mut self.dgates);
            }
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
        let (count, width) = (words.len() - 1, pool::whole::<S>(words.len() - 1));
        let stride = self.sizes.stride();
        let router = &self.problem.router;
        // The mixed dot products lie apart from the buffers that are written.
        let mixed = std::mem::take(&mut self.d.mixed);
        let dots = if router.is_there() {
            let to = (&mut *mixed, self.sizes.mixed_stride());
            router.mix(s, (self.block, stride), to, (frames.clone(), words.clone()), &self.gates);
            Dots::padded(mixed, self.sizes.mixed_stride(), count, frames.len())
        } else {
            Dots::new(self.block, stride, frames.clone(), words.clone())
        };
        self.d.g[..frames.len() * width].fill(0.0);
        self.d.dsentence[..frames.len()].fill(0.0);
        for view in 0..=shape.views {
            let Some(seed) = self.seeds.of(&shape, (text, video), rows.clone(), view) else { continue };
            if pool::relevance(s, dots, self.problem.prior(view, rows.clone()), scales, &mut self.pool) {
                pool::add_gradient(s, dots, scales, tame, seed, &mut self.pool, &mut self.d);
            }
        }
        self.d.mixed = mixed;
        for (t, row) in frames.enumerate() {
            let (dwords, dsentence) = (&self.d.g[t * width..][..count], self.d.dsentence[t]);
            if router.is_there() {
                let at = (row, words.start);
                router.unmix(s, (self.block, self.g, stride), (dwords, dsentence), at, &mut self.gates);
                self.dgates.bias[row] += shape.relevance_tau * dsentence;
            } else {
                let target = &mut self.g[row * stride + words.start..][..count + 1];
                target[..count].copy_from_slice(dwords);
                target[count] = dsentence;
            }
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

impl<'a> Gradients<'a> {
    fn each(&mut self) -> [&mut &'a mut [f32]; 7] {
        let Gradients { words, log_omega, frames, bias, router_text, router_frame, gram } = self;
        [words, log_omega, frames, bias, router_text, router_frame, gram]
    }
}

/// The gradients of one tile of frames; empty where nobody wants them.
struct FrameGradients<'a> {
    frames: &'a mut [f32],
    bias: &'a mut [f32],
    router: &'a mut [f32],
    gram: &'a mut [f32],
}

/// The gradients of one tile of words.
struct WordGradients<'a> {
    words: &'a mut [f32],
    log_omega: &'a mut [f32],
    router: &'a mut [f32],
}

/// Parts of a gradient tile.
const G: usize = 0;
const LOG_OMEGA: usize = 1;
const BIAS: usize = 2;
const ROUTER_FRAME: usize = 3;
const GRAM: usize = 4;
const ROUTER_TEXT: usize = 5;

impl Chunk<'_> {
    /// Adds what this chunk's tiles contribute. Each task owns the rows of one tile of words or of frames.
    fn accumulate(&self, out: &mut Gradients) {
        let (word_segments, frame_segments) = (&self.problem.texts, &self.problem.videos);
        let (d, k, experts) = (self.problem.shape.width, self.sizes.slots, self.sizes.experts);
        rayon::scope(|scope| {
            let (mut words, mut log_omega) = (Rows::new(out.words, d), Rows::new(out.log_omega, 1));
            let mut router = Rows::new(out.router_text, experts);
            for text in self.texts.clone() {
                let tile = word_segments.tile(text, WORDS);
                let span = tile.first..tile.first + tile.rows;
                let mine = WordGradients {
                    words: words.take(&span),
                    log_omega: log_omega.take(&span),
                    router: router.take(&tile.items),
                };
                scope.spawn(move |_| self.add_words(text, &tile, mine));
            }
            let (mut frames, mut bias) = (Rows::new(out.frames, k * d), Rows::new(out.bias, 1));
            let (mut router, mut gram) = (Rows::new(out.router_frame, k), Rows::new(out.gram, k * k));
            for video in self.videos.clone() {
                let tile = frame_segments.tile(video, self.sizes.tile_frames());
                let span = tile.first..tile.first + tile.rows;
                let mine = FrameGradients {
                    frames: frames.take(&span),
                    bias: bias.take(&span),
                    router: router.take(&span),
                    gram: gram.take(&span),
                };
                scope.spawn(move |_| self.add_frames(video, &tile, mine));
            }
        });
    }

    /// A part of the gradient tile of a text tile with a video tile.
    fn part(&self, text: usize, video: usize, part: usize) -> &[f32] {
        let index = (text - self.texts.start) * self.videos.len() + video - self.videos.start;
        let tile = &self.tiles[index * self.sizes.tile_floats()..][..self.sizes.tile_floats()];
        self.sizes.tile_part(tile, part)
    }

    fn add_words(&self, text: usize, tile: &Tile, out: WordGradients) {
        let (d, k, stride) = (self.problem.shape.width, self.sizes.slots, self.sizes.stride());
        for video in self.videos.clone() {
            let videos = self.problem.videos.tile(video, self.sizes.tile_frames());
            if !out.words.is_empty() && videos.rows > 0 {
                let g = Matrix { data: self.part(text, video, G), row: 1, col: stride };
                let frames = Matrix { data: &self.problem.frames[videos.first * k * d..], row: d, col: 1 };
                matmul(tile.rows, d, videos.rows * k, MatrixMut { data: out.words, row: d }, 1.0, g, frames);
            }
            let dlog_omega = self.part(text, video, LOG_OMEGA);
            out.log_omega.iter_mut().zip(dlog_omega).for_each(|(sum, x)| *sum += x);
            if !out.router.is_empty() {
                self.add_router_text(tile, self.part(text, video, ROUTER_TEXT), out.router);
            }
        }
    }

    /// Each text's part stands at its first row.
    fn add_router_text(&self, tile: &Tile, parts: &[f32], out: &mut [f32]) {
        let experts = self.sizes.experts;
        for (i, sums) in tile.items.clone().zip(out.chunks_exact_mut(experts)) {
            let words = tile.local(&self.problem.texts, i);
            if words.len() >= 2 {
                sums.iter_mut().zip(&parts[words.start * experts..]).for_each(|(sum, x)| *sum += x);
            }
        }
    }

    fn add_frames(&self, video: usize, tile: &Tile, out: FrameGradients) {
        let (d, k, stride) = (self.problem.shape.width, self.sizes.slots, self.sizes.stride());
        for text in self.texts.clone() {
            let texts = self.problem.texts.tile(text, WORDS);
            let g = self.part(text, video, G);
            if !out.frames.is_empty() && texts.rows > 0 {
                let words = Matrix { data: &self.problem.words[texts.first * d..], row: d, col: 1 };
                let g = Matrix { data: g, row: stride, col: 1 };
                matmul(tile.rows * k, d, texts.rows, MatrixMut { data: out.frames, row: d }, 1.0, g, words);
            }
            if self.problem.router.is_there() {
                let columns = self.sizes.gate_columns();
                out.bias.iter_mut().zip(self.part(text, video, BIAS)).for_each(|(sum, x)| *sum += x);
                add_transposed(out.router, self.part(text, video, ROUTER_FRAME), k, columns);
                add_transposed(out.gram, self.part(text, video, GRAM), k * k, columns);
                continue;
            }
            for i in texts.items.clone() {
                let words = texts.local(&self.problem.texts, i);
                if words.len() < 2 {
                    continue;
                }
                for (sum, row) in out.bias.iter_mut().zip(g.chunks_exact(stride)) {
                    *sum += self.problem.shape.relevance_tau * row[words.end - 1];
                }
            }
        }
    }
}

/// Adds `parts [width, columns]` to `out [rows, width]`.
fn add_transposed(out: &mut [f32], parts: &[f32], width: usize, columns: usize) {
    for (t, row) in out.chunks_exact_mut(width).enumerate() {
        row.iter_mut().enumerate().for_each(|(s, sum)| *sum += parts[s * columns + t]);
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
    /// These rows; none of a matrix that nobody wants, and none that were handed out before.
    fn take(&mut self, rows: &Range<usize>) -> &'a mut [f32] {
        let (begin, end) = (rows.start * self.width, rows.end * self.width);
        if self.rest.is_empty() || begin < self.at || end < begin || end > self.at + self.rest.len() {
            return &mut [];
        }
        let (_, behind) = std::mem::take(&mut self.rest).split_at_mut(begin - self.at);
        let (mine, rest) = behind.split_at_mut(end - begin);
        self.rest = rest;
        self.at = end;
        mine
    }
}
