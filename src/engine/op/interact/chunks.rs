//! Launches on GPUs: chunks of texts × videos whose dot products fit the workspace.

use super::super::super::tensor::Meta;
use super::super::{Arg, Ctx, Formal, KernelDef, Launch, Operands, Params, groups, ptx, read, read_u32, write};
use super::{Interact, Problem, unless_empty};

macro_rules! chunk_kernel {
    ($($file:literal),+) => {
        Some(concat!(include_str!("../../../../wgsl/interact_chunk.wgsl"), $(include_str!($file)),+))
    };
}

static DOTS: KernelDef = KernelDef {
    name: "interact_dots",
    operands: &[read("words"), read_u32("word_segments"), read("frames"), read_u32("frame_segments"), write("dots")],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_dots.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

static PAIR_DOTS: KernelDef = KernelDef {
    name: "interact_pair_dots",
    operands: &[
        read("words"),
        read_u32("word_segments"),
        read("frames"),
        read_u32("frame_segments"),
        read_u32("pairs"),
        write("dots"),
    ],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_pair_dots.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

/// Operands that both pooling kernels begin with.
const POOLED: [Formal; 7] = [
    read_u32("word_segments"),
    read("word_log_weights"),
    read_u32("frame_segments"),
    read("frame_bias"),
    read("log_weights"),
    read_u32("pairs"),
    read("dots"),
];

static POOL: KernelDef = KernelDef {
    name: "interact_pool",
    operands: &{
        let [a, b, c, d, e, f, g] = POOLED;
        [a, b, c, d, e, f, g, write("scores"), write("view_scores"), write("relevance")]
    },
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_pair.wgsl", "../../../../wgsl/interact_pool.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

static POOL_GRAD: KernelDef = KernelDef {
    name: "interact_pool_grad",
    operands: &{
        let [a, b, c, d, e, f, g] = POOLED;
        let seeds = [read("dscores"), read("dview_scores"), read("drelevance")];
        [a, b, c, d, e, f, g, seeds[0], seeds[1], seeds[2], write("g"), write("dlog_omega")]
    },
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_pair.wgsl", "../../../../wgsl/interact_pool_grad.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

static ACCUMULATE: KernelDef = KernelDef {
    name: "interact_accumulate",
    operands: &[read_u32("word_segments"), read_u32("frame_segments"), read("g"), read("x"), write("y")],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_accumulate.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

static REDUCE: KernelDef = KernelDef {
    name: "interact_reduce",
    operands: &[read_u32("word_segments"), read_u32("frame_segments"), read("parts"), write("y")],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_reduce.wgsl"),
    cuda: Some(&ptx::INTERACT),
};

/// Kernels of the forward pass, of the backward pass, and of listed pairs.
pub static FORWARD: [&KernelDef; 2] = [&DOTS, &POOL];
pub static BACKWARD: [&KernelDef; 4] = [&DOTS, &POOL_GRAD, &ACCUMULATE, &REDUCE];
pub static PAIRS: [&KernelDef; 2] = [&PAIR_DOTS, &POOL];

/// Rows and columns of `y` that one workgroup of a product computes.
const TILE: u64 = 64;
/// Most bytes of workspace.
const WORKSPACE: u64 = 64 << 20;

/// How many texts and videos a chunk holds, and what that takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Chunks {
    texts: usize,
    videos: usize,
    per_text: usize,
    per_video: usize,
    /// Columns and rows of the dot products, at capacity.
    columns: usize,
    rows: usize,
}

impl Chunks {
    /// Chunks of at most `budget` dot products, as square as that goes; never less than one pair.
    fn new(op: &Interact, p: &Problem, budget: u64) -> Chunks {
        let (words, frames) = (op.max_words.max(1) as usize, op.max_frames.max(1) as usize);
        let (texts, videos) = (p.texts.cap().max(1), p.videos.cap().max(1));
        let side = budget.isqrt() as usize;
        let first = (side / frames).clamp(1, videos);
        let per_text = (budget as usize / (first * frames) / words).clamp(1, texts);
        let per_video = (budget as usize / (per_text * words) / frames).clamp(1, videos);
        Chunks { texts, videos, per_text, per_video, columns: per_text * words, rows: per_video * frames }
    }
    fn dots_bytes(&self) -> u64 {
        aligned(self.columns as u64 * self.rows as u64)
    }
    /// One row of word gradients for each video.
    fn parts_bytes(&self) -> u64 {
        aligned(self.columns as u64 * self.per_video as u64)
    }
    /// (first text, first video) of each chunk: videos outside, so that the sums have one order.
    fn all(self) -> impl Iterator<Item = (usize, usize)> {
        let videos = (0..self.videos).step_by(self.per_video);
        videos.flat_map(move |j| (0..self.texts).step_by(self.per_text).map(move |i| (i, j)))
    }
    fn pairs(&self) -> u64 {
        self.per_text as u64 * self.per_video as u64
    }
    /// Workgroups of a product with `rows` × `columns` elements.
    fn tiles(columns: usize, rows: usize) -> [u32; 3] {
        [groups(columns as u64, TILE)[0], groups(rows as u64, TILE)[0], 1]
    }
}

fn aligned(floats: u64) -> u64 {
    (4 * floats).next_multiple_of(256)
}

/// Dot products that the forward pass may keep; the backward pass keeps two sets and the parts of d ln ω.
fn forward_budget(ctx: &Ctx) -> u64 {
    WORKSPACE.min(ctx.max_binding_bytes) / 4
}
fn backward_budget(ctx: &Ctx) -> u64 {
    forward_budget(ctx) * 2 / 5
}

/// What a chunk launches, by the parameters `wgsl/interact_chunk.wgsl` lists.
struct Chunk<'a> {
    op: &'a Interact,
    o: &'a Operands<'a>,
    p: &'a Problem,
    chunks: Chunks,
    texts: usize,
    videos: usize,
}

impl Chunk<'_> {
    fn params(&self, transposed: bool, add: bool) -> Params {
        self.op
            .params(self.p)
            .u32(self.texts)
            .u32(self.chunks.per_text)
            .u32(self.videos)
            .u32(self.chunks.per_video)
            .u32(!self.o.ins[2].is_absent() as usize)
            .u32(0)
            .u32(transposed as usize)
            .u32(add as usize)
    }
    fn launch(&self, kernel: &'static KernelDef, groups: [u32; 3], args: Vec<Arg>) -> Launch {
        Launch { kernel, params: self.params(false, false), groups, args }
    }
    fn inputs(&self, operands: &[usize]) -> Vec<Arg> {
        operands.iter().map(|i| self.o.input(*i)).collect()
    }
    fn dots(&self, work: Arg) -> Launch {
        let args = [self.inputs(&[0, 1, 3, 4]), vec![work]].concat();
        self.launch(&DOTS, Chunks::tiles(self.chunks.columns, self.chunks.rows), args)
    }
    /// Arguments that both pooling kernels begin with.
    fn pooled(&self, dots: Arg) -> Vec<Arg> {
        [self.inputs(&[1, 2, 4, 5, 10]), vec![Arg::Absent, dots]].concat()
    }
    /// The product of G with words into `dframes`, or of its transpose with frames into `dwords`.
    fn product(&self, of_words: bool, g: Arg, out: Arg) -> Launch {
        let (x, rows, first) =
            if of_words { (3, self.chunks.columns, self.videos == 0) } else { (0, self.chunks.rows, self.texts == 0) };
        let args = [self.inputs(&[1, 4]), vec![g, self.o.input(x), out]].concat();
        let launch = self.launch(&ACCUMULATE, Chunks::tiles(self.p.width, rows), args);
        Launch { params: self.params(of_words, !first), ..launch }
    }
    fn reduce(&self, of_words: bool, parts: Arg, out: Arg) -> Launch {
        let (rows, first) =
            if of_words { (self.chunks.columns, self.videos == 0) } else { (self.chunks.rows, self.texts == 0) };
        let args = [self.inputs(&[1, 4]), vec![parts, out]].concat();
        let launch = self.launch(&REDUCE, groups(rows as u64, 64), args);
        Launch { params: self.params(of_words, !first), ..launch }
    }
}

pub fn forward_bytes(op: &Interact, ins: &[Meta], ctx: &Ctx) -> u64 {
    Chunks::new(op, &Problem::of(ins), forward_budget(ctx)).dots_bytes()
}

pub fn forward(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let chunks = Chunks::new(op, &p, forward_budget(ctx));
    let work = Arg::Work { offset: 0, bytes: chunks.dots_bytes() };
    let launches = chunks.all().flat_map(|(texts, videos)| {
        let chunk = Chunk { op, o, p: &p, chunks, texts, videos };
        let mut args = chunk.pooled(work);
        args.extend([o.output(0), unless_empty(o, 1), o.output(2)]);
        [chunk.dots(work), chunk.launch(&POOL, groups(chunks.pairs(), 1), args)]
    });
    launches.collect()
}

pub fn backward_bytes(op: &Interact, ins: &[Meta], ctx: &Ctx) -> u64 {
    let chunks = Chunks::new(op, &Problem::of(ins), backward_budget(ctx));
    2 * chunks.dots_bytes() + chunks.parts_bytes()
}

pub fn backward(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let chunks = Chunks::new(op, &p, backward_budget(ctx));
    let bytes = chunks.dots_bytes();
    let dots = Arg::Work { offset: 0, bytes };
    let g = Arg::Work { offset: bytes, bytes };
    let parts = Arg::Work { offset: 2 * bytes, bytes: chunks.parts_bytes() };
    let launches = chunks.all().flat_map(|(texts, videos)| {
        let chunk = Chunk { op, o, p: &p, chunks, texts, videos };
        let mut args = chunk.pooled(dots);
        args.extend([11, 12, 13].map(|i| if o.ins[i].elements() == 0 { Arg::Absent } else { o.input(i) }));
        args.extend([g, parts]);
        let mut launches = vec![chunk.dots(dots), chunk.launch(&POOL_GRAD, groups(chunks.pairs(), 1), args)];
        let wanted = |i: usize| !o.outs[i].is_absent();
        launches.extend(wanted(0).then(|| chunk.product(true, g, o.output(0))));
        launches.extend(wanted(1).then(|| chunk.reduce(true, parts, o.output(1))));
        launches.extend(wanted(2).then(|| chunk.product(false, g, o.output(2))));
        launches.extend(wanted(3).then(|| chunk.reduce(false, g, o.output(3))));
        launches
    });
    launches.collect()
}

/// Listed pairs that fit the workspace at once.
fn listed(op: &Interact, pairs: usize, ctx: &Ctx) -> (usize, u64) {
    let each = u64::from(op.max_words.max(1)) * u64::from(op.max_frames.max(1));
    let count = (forward_budget(ctx) / each).clamp(1, pairs.max(1) as u64);
    (count as usize, aligned(count * each))
}

pub fn pairs_bytes(op: &Interact, ins: &[Meta], ctx: &Ctx) -> u64 {
    listed(op, ins[super::OPERANDS].dim(0).cap(), ctx).1
}

pub fn pairs(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let list = o.ins[super::OPERANDS].dim(0);
    let (per_launch, bytes) = listed(op, list.cap(), ctx);
    let work = Arg::Work { offset: 0, bytes };
    let inputs = |operands: &[usize]| operands.iter().map(|i| o.input(*i)).collect::<Vec<Arg>>();
    let launches = (0..list.cap().max(1)).step_by(per_launch).flat_map(|first| {
        let params = op.params(&p).u32(first).u32(per_launch).u32(0).u32(0);
        let params = params.u32(!o.ins[2].is_absent() as usize).size(list).u32(0).u32(0);
        let groups = groups(per_launch as u64, 1);
        let dots = [inputs(&[0, 1, 3, 4, 11]), vec![work]].concat();
        let pool = [inputs(&[1, 2, 4, 5, 10, 11]), vec![work, o.output(0), Arg::Absent, Arg::Absent]].concat();
        [
            Launch { kernel: &PAIR_DOTS, params: params.clone(), groups, args: dots },
            Launch { kernel: &POOL, params, groups, args: pool },
        ]
    });
    launches.collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::super::tensor::Dim;
    use super::super::INTERACT;
    use super::*;

    #[test]
    fn chunks_hold_every_pair_once_and_fit_their_budget() {
        let random = crate::random::Random::new(std::process::id().into(), 5);
        for round in 0..200u64 {
            let draw = |i, n| 1 + random.below(round * 8 + i, n) as usize;
            let op = Interact { max_words: draw(0, 512) as u32, max_frames: draw(1, 512) as u32, ..INTERACT };
            let (texts, videos) = (draw(2, 300), draw(3, 300));
            let fixed = Dim::Fixed;
            let p = Problem {
                texts: fixed(texts),
                videos: fixed(videos),
                words: fixed(1),
                frames: fixed(1),
                width: 1,
                views: 0,
                slots: 1,
                experts: 0,
            };
            let budget = (1 << 18) * draw(4, 64) as u64;
            let chunks = Chunks::new(&op, &p, budget);
            let seed = std::process::id();
            assert!(chunks.columns as u64 * chunks.rows as u64 <= budget, "seed {seed}: {chunks:?}");
            let inside = |begin: usize, per: usize, end: usize| (begin + per).min(end) - begin;
            let pairs: usize = chunks
                .all()
                .map(|(i, j)| inside(i, chunks.per_text, texts) * inside(j, chunks.per_video, videos))
                .sum();
            assert_eq!(pairs, texts * videos, "seed {seed}: {chunks:?}");
        }
    }
}
