//! What the interaction kernels share: the operands, tiles of whole texts and whole videos, and scratch memory.

use super::super::{Call, Matrix, MatrixMut, matmul};
use super::route::{GateBuffers, GateGradients, Router};
use super::{FRAMES, LANES, WORDS};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The numbers that `op::interact` passes.
#[derive(Copy, Clone, Debug)]
pub struct Shape {
    pub texts: usize,
    pub videos: usize,
    pub words: usize,
    pub frames: usize,
    pub width: usize,
    pub text_cap: usize,
    pub video_cap: usize,
    pub frame_cap: usize,
    pub views: usize,
    pub max_words: usize,
    pub max_frames: usize,
    pub tau: f32,
    pub relevance_tau: f32,
    /// 0 without a router, which then has one slot.
    pub experts: usize,
    pub slots: usize,
    pub kept: usize,
}

impl Shape {
    /// How many parameters [`Shape::of`] reads.
    pub const WORDS: usize = 16;

    pub fn of(call: &Call) -> Shape {
        let u = |i| call.u32(i) as usize;
        Shape {
            texts: call.size(0),
            videos: call.size(1),
            words: call.size(2),
            frames: call.size(3),
            width: u(4),
            text_cap: u(5),
            video_cap: u(6),
            frame_cap: u(7),
            views: u(8),
            max_words: u(9),
            max_frames: u(10),
            tau: call.f32(11),
            relevance_tau: call.f32(12),
            experts: u(13),
            slots: u(14),
            kept: u(15),
        }
    }
}

/// The operands of a problem.
#[derive(Copy, Clone)]
pub struct Problem<'a> {
    pub shape: Shape,
    pub words: &'a [f32],
    pub frames: &'a [f32],
    pub texts: Segments<'a>,
    pub videos: Segments<'a>,
    /// ln ω, or empty for uniform weights.
    pub log_omega: &'a [f32],
    /// β, or empty for zeros.
    pub bias: &'a [f32],
    pub log_weights: &'a [f32],
    pub router: Router<'a>,
}

impl<'a> Problem<'a> {
    pub fn new(
        shape: Shape,
        [words, log_omega, frames, bias]: [&'a [f32]; 4],
        tables: [&'a [u32]; 2],
        router: Router<'a>,
    ) -> Problem<'a> {
        let texts = Segments { table: tables[0], count: shape.texts, rows: shape.words, longest: shape.max_words };
        let videos = Segments { table: tables[1], count: shape.videos, rows: shape.frames, longest: shape.max_frames };
        Problem { shape, words, frames, texts, videos, log_omega, bias, log_weights: &[], router }
    }
    /// The biases and the log-weights of view `view` (0 is the factual one) of some frames; empty where there are none.
    pub fn prior(&self, view: usize, rows: Range<usize>) -> [&'a [f32]; 2] {
        let base = view.saturating_sub(1) * self.shape.frame_cap;
        let weights = if view == 0 { None } else { self.log_weights.get(base + rows.start..base + rows.end) };
        [self.bias.get(rows).unwrap_or(&[]), weights.unwrap_or(&[])]
    }
    /// Dot products of all frames of a tile (rows, one a slot) with all words of another (columns).
    pub fn dots(&self, texts: &Tile, videos: &Tile, block: &mut [f32], stride: usize) {
        let (d, k) = (self.shape.width, self.shape.slots);
        let (m, n) = (videos.rows * k, texts.rows);
        if m == 0 || n == 0 {
            return;
        }
        let frames = Matrix { data: &self.frames[videos.first * k * d..], row: d, col: 1 };
        let words = Matrix { data: &self.words[texts.first * d..], row: 1, col: d };
        if d == 0 {
            block[..m * stride].fill(0.0);
        } else {
            matmul(m, n, d, MatrixMut { data: block, row: stride }, 0.0, frames, words);
        }
    }
}

/// A table of segments, monotone as the packer makes it.
#[derive(Copy, Clone)]
pub struct Segments<'a> {
    table: &'a [u32],
    count: usize,
    rows: usize,
    longest: usize,
}

impl Segments<'_> {
    fn starts_below(&self, row: usize) -> usize {
        let (segments, _) = self.table.as_chunks::<2>();
        segments.get(..self.count).unwrap_or(segments).partition_point(|s| (s[0] as usize) < row)
    }
    /// The rows of segment `i`; empty where the segment is longer than the op was made for or leaves its operand.
    pub fn get(&self, i: usize) -> Range<usize> {
        let (segments, _) = self.table.as_chunks::<2>();
        match segments.get(..self.count).unwrap_or(segments).get(i) {
            Some(&[begin, end]) => {
                let (begin, end) = (begin as usize, end as usize);
                if begin <= end && end <= self.rows && end - begin <= self.longest { begin..end } else { 0..0 }
            }
            None => 0..0,
        }
    }
    /// How many tiles there are when one begins every `rows` rows.
    pub fn tiles(&self, rows: usize) -> usize {
        self.rows.div_ceil(rows)
    }
    /// The segments that begin within the `index`-th `rows` rows.
    pub fn tile(&self, index: usize, rows: usize) -> Tile {
        let items = self.starts_below(index * rows)..self.starts_below((index + 1) * rows);
        let spans = items.clone().map(|i| self.get(i)).filter(|s| !s.is_empty());
        let first = spans.clone().map(|s| s.start).min().unwrap_or(0);
        let end = spans.map(|s| s.end).max().unwrap_or(first);
        Tile { items, first, rows: (end - first).min(rows + self.longest) }
    }
}

/// Whole segments side by side.
#[derive(Clone, Debug)]
pub struct Tile {
    pub items: Range<usize>,
    /// The first row in the operand.
    pub first: usize,
    pub rows: usize,
}

impl Tile {
    /// The rows of segment `i` within the tile; empty for one that is empty or does not lie in it.
    pub fn local(&self, segments: &Segments, i: usize) -> Range<usize> {
        let s = segments.get(i);
        let inside = s.start >= self.first && s.end <= self.first + self.rows;
        if inside { s.start - self.first..s.end - self.first } else { 0..0 }
    }
}

pub const fn pad(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Sizes of scratch memory, in floats.
#[derive(Copy, Clone, Debug)]
pub struct Scratch {
    pub max_words: usize,
    pub max_frames: usize,
    pub slots: usize,
    /// 0 without a router.
    pub experts: usize,
}

/// Most bytes that the gradient tiles of a chunk may take.
const CHUNK_BYTES: u64 = 64 << 20;

impl Scratch {
    /// Of an op's launch.
    pub fn of(shape: &Shape) -> Scratch {
        let Shape { max_words, max_frames, slots, experts, .. } = *shape;
        Scratch { max_words, max_frames, slots, experts }
    }
    /// Rows of frames within which the videos of a tile begin.
    pub fn tile_frames(&self) -> usize {
        (FRAMES / self.slots).max(1)
    }
    /// The most frames of a tile.
    fn frames(&self) -> usize {
        self.tile_frames() + self.max_frames
    }
    /// From one row of a block of dot products to the next.
    pub fn stride(&self) -> usize {
        pad(WORDS + self.max_words)
    }
    fn block(&self) -> usize {
        self.stride() * self.frames() * self.slots
    }
    /// Sizes of [`PoolBuffers`], in its order.
    fn pool(&self) -> [usize; 6] {
        let (words, frames) = (pad(self.max_words), pad(self.max_frames));
        [words, words, frames, frames, pad(self.frames()), 2 * LANES * self.max_frames]
    }
    /// Columns of [`GateBuffers`]; none without a router.
    fn columns(&self) -> usize {
        if self.experts == 0 { 0 } else { pad(self.frames()) }
    }
    /// Sizes of [`GateBuffers`], in its order, y left out.
    fn gates(&self) -> [usize; 8] {
        let (one, slots) = (self.columns(), self.columns() * self.slots);
        [slots, slots, slots * self.slots, slots, slots, one, one, one]
    }
    /// Sizes of [`GradientBuffers`], in its order, and of y.
    fn gradient(&self) -> [usize; 12] {
        let (words, frames) = (pad(self.max_words), pad(self.max_frames));
        let pair = self.max_frames * words;
        let mixed = if self.experts == 0 { 0 } else { self.max_frames * self.mixed_stride() };
        [pair, pair, pair, words, words, words, frames, frames, frames, frames, mixed, self.columns() * self.slots]
    }
    pub fn forward_floats(&self) -> usize {
        self.block() + self.pool().iter().sum::<usize>() + self.gates().iter().sum::<usize>()
    }
    pub fn gradient_floats(&self) -> usize {
        self.forward_floats() + self.gradient().iter().sum::<usize>()
    }
    pub fn pair_floats(&self, width: usize) -> usize {
        self.forward_floats() + pad(self.frames() * self.slots * width)
    }
    /// Parts of one gradient tile: that of its dot products, of its words' log-weights, then [`GateGradients`].
    fn tile_parts(&self) -> [usize; 6] {
        let (one, slots) = (self.columns(), self.columns() * self.slots);
        [self.block(), self.stride(), one, slots, slots * self.slots, self.stride() * self.experts]
    }
    pub fn tile_floats(&self) -> usize {
        self.tile_parts().iter().sum()
    }
    /// Word tiles and frame tiles of one chunk of the backward pass.
    pub fn chunk(&self, words: usize, frames: usize) -> (usize, usize) {
        let most = (CHUNK_BYTES as usize / 4 / self.tile_floats()).max(1);
        let frame_tiles = frames.div_ceil(self.tile_frames()).clamp(1, most);
        (words.div_ceil(WORDS).clamp(1, (most / frame_tiles).max(1)), frame_tiles)
    }

    pub fn bytes(&self, threads: usize) -> u64 {
        4 * (threads.max(1) * self.forward_floats()) as u64
    }
    pub fn gradient_bytes(&self, threads: usize) -> u64 {
        4 * (threads.max(1) * self.gradient_floats()) as u64
    }
    pub fn pair_bytes(&self, threads: usize, width: usize) -> u64 {
        4 * (threads.max(1) * self.pair_floats(width)) as u64
    }
    /// Bytes of the gradient tiles of one chunk, a multiple of 256.
    pub fn tile_bytes(&self, words: usize, frames: usize) -> u64 {
        let (w, f) = self.chunk(words, frames);
        (4 * (w * f * self.tile_floats()) as u64).next_multiple_of(256)
    }

    /// From one frame's mixed dot products to the next: words, then the sentence in the last vector.
    pub fn mixed_stride(&self) -> usize {
        pad(self.max_words) + LANES
    }

    /// Cuts a thread's floats into the block of dot products, the buffers of pooling and of gates, and the rest.
    pub fn cut<'a>(&self, floats: &'a mut [f32]) -> Desk<'a> {
        let (block, mut rest) = floats.split_at_mut(self.block());
        let [omega, log_omega, rho, log_rho, relevance, sums] = carve(self.pool(), &mut rest);
        let pool = PoolBuffers { omega, log_omega, rho, log_rho, relevance, sums };
        let [logits, experts, gram, pi, weights, scale, a, b] = carve(self.gates(), &mut rest);
        // Expert numbers are moved as bits, never as floats.
        let experts = bytemuck::cast_slice_mut(experts);
        let columns = self.columns();
        let y = &mut [];
        let gates = GateBuffers { columns, logits, experts, gram, pi, weights, scale, spare: [a, b], y };
        Desk { block, pool, gates, rest }
    }
    /// Cuts the rest further, for a gradient.
    pub fn cut_gradient<'a>(&self, desk: &mut Desk<'a>) -> GradientBuffers<'a> {
        let [a, b, g, u, a_scale, domega, v, b_scale, dsentence, dlog_rho, mixed, y] =
            carve(self.gradient(), &mut desk.rest);
        desk.gates.y = y;
        GradientBuffers { a, b, g, u, a_scale, domega, v, b_scale, dsentence, dlog_rho, mixed }
    }
    /// Cuts a gradient tile.
    pub fn cut_tile<'a>(&self, mut tile: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32], GateGradients<'a>) {
        let [g, dlog_omega, bias, logits, gram, texts] = carve(self.tile_parts(), &mut tile);
        (g, dlog_omega, GateGradients { bias, logits, gram, texts })
    }
    /// Where the parts of a gradient tile that [`Scratch::cut_tile`] gives begin and end.
    pub fn tile_part<'a>(&self, tile: &'a [f32], part: usize) -> &'a [f32] {
        let sizes = self.tile_parts();
        let begin: usize = sizes[..part].iter().sum();
        &tile[begin..begin + sizes[part]]
    }
    /// Frames from one row of a slot to the next in the parts of a tile that belong to gates.
    pub fn gate_columns(&self) -> usize {
        self.columns()
    }
}

/// A thread's scratch memory, cut up.
pub struct Desk<'a> {
    pub block: &'a mut [f32],
    pub pool: PoolBuffers<'a>,
    pub gates: GateBuffers<'a>,
    pub rest: &'a mut [f32],
}

fn carve<'a, const N: usize>(sizes: [usize; N], rest: &mut &'a mut [f32]) -> [&'a mut [f32]; N] {
    sizes.map(|n| {
        let (part, behind) = std::mem::take(rest).split_at_mut(n);
        *rest = behind;
        part
    })
}

/// A thread's buffers for pooling one pair.
pub struct PoolBuffers<'a> {
    /// Of the text in hand, padded by words of weight 0.
    pub omega: &'a mut [f32],
    pub log_omega: &'a mut [f32],
    /// Of the pair in hand, padded by frames of weight 0.
    pub rho: &'a mut [f32],
    pub log_rho: &'a mut [f32],
    /// ρ of every frame of the tile, for the text in hand.
    pub relevance: &'a mut [f32],
    /// Two vectors per frame.
    pub sums: &'a mut [f32],
}

/// A thread's buffers for the gradient of one pair: `[frames, padded words]`, then per word, then per frame; then the
/// mixed dot products, sentence included.
pub struct GradientBuffers<'a> {
    pub a: &'a mut [f32],
    pub b: &'a mut [f32],
    pub g: &'a mut [f32],
    pub u: &'a mut [f32],
    pub a_scale: &'a mut [f32],
    pub domega: &'a mut [f32],
    pub v: &'a mut [f32],
    pub b_scale: &'a mut [f32],
    pub dsentence: &'a mut [f32],
    pub dlog_rho: &'a mut [f32],
    pub mixed: &'a mut [f32],
}

/// Scratch memory of every thread of the pool.
pub struct Desks<'a>(Vec<Mutex<&'a mut [f32]>>);

impl<'a> Desks<'a> {
    pub fn new(floats: &'a mut [f32], each: usize) -> Desks<'a> {
        Desks(floats.chunks_exact_mut(each.max(1)).map(Mutex::new).collect())
    }
    /// This thread's part. Nobody waits: kernels hold it without calling into the pool.
    pub fn mine(&self) -> MutexGuard<'_, &'a mut [f32]> {
        lock(&self.0[rayon::current_thread_index().unwrap_or(0) % self.0.len()])
    }
}

/// A panic elsewhere leaves numbers, not broken invariants.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
