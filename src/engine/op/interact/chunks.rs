//! Launches on GPUs: chunks of texts × videos whose dot products fit the workspace.

use super::super::super::tensor::Meta;
use super::super::{Arg, Ctx, Formal, KernelDef, Launch, Operands, Params, groups, ptx, read, read_u32, update, write};
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
    wgsl: chunk_kernel!(
        "../../../../wgsl/interact_pair.wgsl",
        "../../../../wgsl/interact_relevance.wgsl",
        "../../../../wgsl/interact_pool.wgsl"
    ),
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
    wgsl: chunk_kernel!(
        "../../../../wgsl/interact_pair.wgsl",
        "../../../../wgsl/interact_relevance.wgsl",
        "../../../../wgsl/interact_pool_grad.wgsl"
    ),
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

/// Operands that both kernels of gates begin with.
const GATED: [Formal; 7] = [
    read_u32("word_segments"),
    read_u32("frame_segments"),
    read("router_text"),
    read("router_frame"),
    read_u32("slot_table"),
    read("gram"),
    read_u32("pairs"),
];

static ROUTE: KernelDef = KernelDef {
    name: "interact_route",
    operands: &{
        let [a, b, c, d, e, f, g] = GATED;
        [a, b, c, d, e, f, g, read("products"), write("dots")]
    },
    cpu: None,
    wgsl: chunk_kernel!(
        "../../../../wgsl/interact_pair.wgsl",
        "../../../../wgsl/interact_gates.wgsl",
        "../../../../wgsl/interact_route.wgsl"
    ),
    cuda: Some(&ptx::GATES),
};

static ROUTE_GRAD: KernelDef = KernelDef {
    name: "interact_route_grad",
    operands: &{
        let [a, b, c, d, e, f, g] = GATED;
        [a, b, c, d, e, f, g, read("g"), update("products"), write("gates")]
    },
    cpu: None,
    wgsl: chunk_kernel!(
        "../../../../wgsl/interact_pair.wgsl",
        "../../../../wgsl/interact_gates.wgsl",
        "../../../../wgsl/interact_route_grad.wgsl"
    ),
    cuda: Some(&ptx::GATES),
};

static ROUTE_FRAMES: KernelDef = KernelDef {
    name: "interact_route_frames",
    operands: &[
        read_u32("word_segments"),
        read_u32("frame_segments"),
        read("gates"),
        write("drouter_frame"),
        write("dgram"),
    ],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_route_frames.wgsl"),
    cuda: Some(&ptx::GATES),
};

static ROUTE_TEXTS: KernelDef = KernelDef {
    name: "interact_route_texts",
    operands: &[
        read_u32("word_segments"),
        read_u32("frame_segments"),
        read_u32("slot_table"),
        read("gates"),
        write("drouter_text"),
    ],
    cpu: None,
    wgsl: chunk_kernel!("../../../../wgsl/interact_route_texts.wgsl"),
    cuda: Some(&ptx::GATES),
};

/// Kernels of the forward pass, of the backward pass, and of listed pairs.
pub static FORWARD: [&KernelDef; 3] = [&DOTS, &ROUTE, &POOL];
pub static BACKWARD: [&KernelDef; 8] =
    [&DOTS, &ROUTE, &POOL_GRAD, &ROUTE_GRAD, &ACCUMULATE, &REDUCE, &ROUTE_FRAMES, &ROUTE_TEXTS];
pub static PAIRS: [&KernelDef; 3] = [&PAIR_DOTS, &ROUTE, &POOL];

/// Rows and columns of `y` that one workgroup of a product computes.
const TILE: u64 = 64;
/// Frames of a pair that a team of a gate's kernel takes.
const GATE_FRAMES: u64 = 16;
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
    /// Rows of products a frame, and whether they are mixed by a router.
    slots: usize,
    routed: bool,
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
        let (columns, rows) = (per_text * words, per_video * frames);
        Chunks { texts, videos, per_text, per_video, columns, rows, slots: p.slots, routed: p.is_routed() }
    }
    /// Of the products with each slot's expert; nothing without a router, whose products are the dot products.
    fn products_bytes(&self) -> u64 {
        if self.routed { aligned(self.columns as u64 * self.rows as u64 * self.slots as u64) } else { 0 }
    }
    /// Of what the gates of every text and frame gain.
    fn gates_bytes(&self) -> u64 {
        let planes = 2 * self.slots as u64 + 1;
        if self.routed { aligned(planes * self.rows as u64 * self.per_text as u64) } else { 0 }
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

fn all_floats(ctx: &Ctx) -> u64 {
    WORKSPACE.min(ctx.max_binding_bytes) / 4
}

/// Dot products that the forward pass may keep, with those of each slot where there is a router.
fn forward_budget(p: &Problem, ctx: &Ctx) -> u64 {
    all_floats(ctx) / if p.is_routed() { p.slots as u64 + 1 } else { 1 }
}

/// The backward pass keeps two sets and the parts of d ln ω; with a router also the products, and 2k + 1 numbers a
/// text and frame.
fn backward_budget(op: &Interact, p: &Problem, ctx: &Ctx) -> u64 {
    if !p.is_routed() {
        return all_floats(ctx) * 2 / 5;
    }
    let slots = p.slots as u64;
    all_floats(ctx) / (slots + 3 + (2 * slots + 1).div_ceil(op.max_words.max(1).into()))
}

/// Places of the workspace, one behind the other.
fn places<const N: usize>(bytes: [u64; N]) -> [Arg; N] {
    let mut offset = 0;
    bytes.map(|bytes| {
        let place = if bytes == 0 { Arg::Absent } else { Arg::Work { offset, bytes } };
        offset += bytes;
        place
    })
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
            .u32(!self.o.ins[8].is_absent() as usize)
            .u32(0)
    }
    fn launch(&self, kernel: &'static KernelDef, groups: [u32; 3], args: Vec<Arg>) -> Launch {
        Launch { kernel, params: self.params(false, false), groups, args }
    }
    fn inputs(&self, operands: &[usize]) -> Vec<Arg> {
        operands.iter().map(|i| self.o.input(*i)).collect()
    }
    /// The dot products into `dots`; with a router by way of the products.
    fn dots(&self, products: Arg, dots: Arg) -> Vec<Launch> {
        let c = self.chunks;
        let into = if c.routed { products } else { dots };
        let args = [self.inputs(&[0, 1, 3, 4]), vec![into]].concat();
        let mut launches = vec![self.launch(&DOTS, Chunks::tiles(c.columns, c.rows * c.slots), args)];
        if c.routed {
            let args = [self.gated(), vec![products, dots]].concat();
            launches.push(self.launch(&ROUTE, self.gate_groups(), args));
        }
        launches
    }
    /// Arguments that both kernels of gates begin with.
    fn gated(&self) -> Vec<Arg> {
        [self.inputs(&[1, 4, 6, 7, 8, 9]), vec![Arg::Absent]].concat()
    }
    fn gate_groups(&self) -> [u32; 3] {
        groups(self.chunks.pairs() * u64::from(self.op.max_frames).div_ceil(GATE_FRAMES).max(1), 1)
    }
    /// From the gradient of the dot products to that of the products, in their place, and of the router's operands.
    fn unroute(&self, g: Arg, products: Arg, gates: Arg) -> Vec<Launch> {
        let (o, c) = (self.o, self.chunks);
        let args = [self.gated(), vec![g, products, gates]].concat();
        let mut launches = vec![self.launch(&ROUTE_GRAD, self.gate_groups(), args)];
        let mut reduce = |kernel, items: usize, add: bool, args| {
            let launch = self.launch(kernel, groups(items as u64, 64), args);
            launches.push(Launch { params: self.params(false, add), ..launch });
        };
        if !o.outs[5].is_absent() || !o.outs[6].is_absent() {
            let args = [self.inputs(&[1, 4]), vec![gates, o.output(5), o.output(6)]].concat();
            reduce(&ROUTE_FRAMES, c.rows * c.slots * (c.slots + 1), self.texts > 0, args);
        }
        if !o.outs[4].is_absent() {
            let args = [self.inputs(&[1, 4, 8]), vec![gates, o.output(4)]].concat();
            reduce(&ROUTE_TEXTS, c.per_text * self.p.experts, self.videos > 0, args);
        }
        launches
    }
    /// Arguments that both pooling kernels begin with.
    fn pooled(&self, dots: Arg) -> Vec<Arg> {
        [self.inputs(&[1, 2, 4, 5, 10]), vec![Arg::Absent, dots]].concat()
    }
    /// The product of G with words into `dframes`, or of its transpose with frames into `dwords`.
    fn product(&self, of_words: bool, g: Arg, out: Arg) -> Launch {
        let c = self.chunks;
        let (x, rows, first) =
            if of_words { (3, c.columns, self.videos == 0) } else { (0, c.rows * c.slots, self.texts == 0) };
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
    let p = Problem::of(ins);
    let chunks = Chunks::new(op, &p, forward_budget(&p, ctx));
    chunks.dots_bytes() + chunks.products_bytes()
}

pub fn forward(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let chunks = Chunks::new(op, &p, forward_budget(&p, ctx));
    let [dots, products] = places([chunks.dots_bytes(), chunks.products_bytes()]);
    let launches = chunks.all().flat_map(|(texts, videos)| {
        let chunk = Chunk { op, o, p: &p, chunks, texts, videos };
        let mut args = chunk.pooled(dots);
        args.extend([o.output(0), unless_empty(o, 1), o.output(2)]);
        let mut launches = chunk.dots(products, dots);
        launches.push(chunk.launch(&POOL, groups(chunks.pairs(), 1), args));
        launches
    });
    launches.collect()
}

pub fn backward_bytes(op: &Interact, ins: &[Meta], ctx: &Ctx) -> u64 {
    let p = Problem::of(ins);
    let chunks = Chunks::new(op, &p, backward_budget(op, &p, ctx));
    2 * chunks.dots_bytes() + chunks.parts_bytes() + chunks.products_bytes() + chunks.gates_bytes()
}

pub fn backward(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let chunks = Chunks::new(op, &p, backward_budget(op, &p, ctx));
    let bytes = chunks.dots_bytes();
    let [dots, g, parts, products, gates] =
        places([bytes, bytes, chunks.parts_bytes(), chunks.products_bytes(), chunks.gates_bytes()]);
    let launches = chunks.all().flat_map(|(texts, videos)| {
        let chunk = Chunk { op, o, p: &p, chunks, texts, videos };
        let mut args = chunk.pooled(dots);
        args.extend([11, 12, 13].map(|i| if o.ins[i].elements() == 0 { Arg::Absent } else { o.input(i) }));
        args.extend([g, parts]);
        let mut launches = chunk.dots(products, dots);
        launches.push(chunk.launch(&POOL_GRAD, groups(chunks.pairs(), 1), args));
        if chunks.routed {
            launches.extend(chunk.unroute(g, products, gates));
        }
        let of_rows = if chunks.routed { products } else { g };
        let wanted = |i: usize| !o.outs[i].is_absent();
        launches.extend(wanted(0).then(|| chunk.product(true, of_rows, o.output(0))));
        launches.extend(wanted(1).then(|| chunk.reduce(true, parts, o.output(1))));
        launches.extend(wanted(2).then(|| chunk.product(false, of_rows, o.output(2))));
        launches.extend(wanted(3).then(|| chunk.reduce(false, g, o.output(3))));
        launches
    });
    launches.collect()
}

/// Listed pairs that fit the workspace at once, and the bytes of their dot products and products.
fn listed(op: &Interact, p: &Problem, pairs: usize, ctx: &Ctx) -> (usize, [u64; 2]) {
    let each = u64::from(op.max_words.max(1)) * u64::from(op.max_frames.max(1));
    let count = (forward_budget(p, ctx) / each).clamp(1, pairs.max(1) as u64);
    let products = if p.is_routed() { aligned(count * each * p.slots as u64) } else { 0 };
    (count as usize, [aligned(count * each), products])
}

pub fn pairs_bytes(op: &Interact, ins: &[Meta], ctx: &Ctx) -> u64 {
    listed(op, &Problem::of(ins), ins[super::OPERANDS].dim(0).cap(), ctx).1.iter().sum()
}

pub fn pairs(op: &Interact, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
    let p = Problem::of(o.ins);
    let list = o.ins[super::OPERANDS].dim(0);
    let (per_launch, bytes) = listed(op, &p, list.cap(), ctx);
    let [dots, products] = places(bytes);
    let inputs = |operands: &[usize]| operands.iter().map(|i| o.input(*i)).collect::<Vec<Arg>>();
    let launches = (0..list.cap().max(1)).step_by(per_launch).flat_map(|first| {
        let params = op.params(&p).u32(first).u32(per_launch).u32(0).u32(0);
        let params = params.u32(!o.ins[2].is_absent() as usize).size(list).u32(0).u32(0);
        let params = params.u32(!o.ins[8].is_absent() as usize).u32(op.max_frames as usize * p.slots);
        let launch = |kernel, teams: u64, args| {
            let groups = groups(per_launch as u64 * teams, 1);
            Launch { kernel, params: params.clone(), groups, args }
        };
        let into = if p.is_routed() { products } else { dots };
        let mut launches = vec![launch(&PAIR_DOTS, 1, [inputs(&[0, 1, 3, 4, 11]), vec![into]].concat())];
        if p.is_routed() {
            let args = [inputs(&[1, 4, 6, 7, 8, 9, 11]), vec![products, dots]].concat();
            launches.push(launch(&ROUTE, u64::from(op.max_frames).div_ceil(GATE_FRAMES).max(1), args));
        }
        let pool = [inputs(&[1, 2, 4, 5, 10, 11]), vec![dots, o.output(0), Arg::Absent, Arg::Absent]].concat();
        launches.push(launch(&POOL, 1, pool));
        launches
    });
    launches.collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::super::tensor::Dim;
    use super::super::super::Target;
    use super::super::INTERACT;
    use super::*;

    #[test]
    fn chunks_hold_every_pair_once_and_fit_their_budget() {
        let seed = crate::seed::seed();
        let random = crate::random::Random::new(seed, 5);
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
            assert!(chunks.columns as u64 * chunks.rows as u64 <= budget, "seed {seed}: {chunks:?}");
            let inside = |begin: usize, per: usize, end: usize| (begin + per).min(end) - begin;
            let pairs: usize = chunks
                .all()
                .map(|(i, j)| inside(i, chunks.per_text, texts) * inside(j, chunks.per_video, videos))
                .sum();
            assert_eq!(pairs, texts * videos, "seed {seed}: {chunks:?}");
        }
    }

    #[test]
    fn the_workspace_of_a_router_stays_below_its_bound() {
        let seed = crate::seed::seed();
        let random = crate::random::Random::new(seed, 6);
        for round in 0..200u64 {
            let draw = |i, n| 1 + random.below(round * 8 + i, n) as usize;
            let op = Interact { max_words: draw(0, 512) as u32, max_frames: draw(1, 512) as u32, ..INTERACT };
            let p = Problem {
                texts: Dim::Fixed(draw(2, 3000)),
                videos: Dim::Fixed(draw(3, 3000)),
                words: Dim::Fixed(1),
                frames: Dim::Fixed(1),
                width: 1,
                views: 0,
                slots: draw(4, 16),
                experts: 16,
            };
            let ctx =
                Ctx { target: Target::Cuda, precision: Default::default(), max_binding_bytes: 1 << 30, threads: 1 };
            let c = Chunks::new(&op, &p, backward_budget(&op, &p, &ctx));
            let backward = 2 * c.dots_bytes() + c.parts_bytes() + c.products_bytes() + c.gates_bytes();
            let c = Chunks::new(&op, &p, forward_budget(&p, &ctx));
            let forward = c.dots_bytes() + c.products_bytes();
            // Each place is rounded up to 256 bytes.
            let most = WORKSPACE + 5 * 256;
            assert!(backward <= most && forward <= most, "seed {seed}: {forward} and {backward} bytes of {op:?}");
        }
    }
}
