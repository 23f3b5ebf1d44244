//! Scaled dot-product attention within packed segments (Vaswani et al. 2017, section 3.2), and its gradient.
//!
//! Segment n of the queries attends to segment n of the keys, head by head: head h has columns h·d to (h + 1)·d of
//! every row, d = D / heads. Problems are many and small: some dozen frames or words, 16 to 64 columns a head.

use super::super::backend::cpu::attention as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::reduce::SUM_ROWS_KERNEL;
use super::segment::{FLOOR, expect_segments, members};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_dtype,
    expect_fixed, expect_rank, expect_same, groups, no_gradient, noise, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};
use std::ops::Range;

/// Keys with a log-weight at or below this take no part; see the rules in ARCHITECTURE.md.
pub const EXCLUDED: f32 = -1e29;
/// The most keys that a segment may bring.
pub const MOST_KEYS: usize = 512;
/// The most columns of a head: a lane of a warp holds up to four of them.
pub const MOST_COLUMNS: usize = 128;

/// `y_i = Σ_j softmax_j(⟨q_i, k_j⟩ / √d + log_weight_j) v_j` over the keys j of the query's segment, head by head.
///
/// Operands q `[Rq, D]`, k `[Rk, D]`, v `[Rk, D]`, q_segments u32 `[N, 2]`, k_segments u32 `[N, 2]` (for
/// self-attention the same values twice), log_weights `[Rk]` or absent: what is added to the logits of a key; at or
/// below [`EXCLUDED`] the key takes no part. Outputs y `[Rq, D]` and, for the gradient, lse `[Rq, heads]`: the
/// log-sum-exp of a query's logits. A query without keys, or in no segment, gets 0 and an lse of [`FLOOR`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub heads: usize,
    /// Queries that the longest segment has: what grids are made for. Longer ones are right, too, and slower.
    pub max_queries: usize,
    /// Keys of a segment that take part, at most [`MOST_KEYS`]; those behind them do not.
    pub max_keys: usize,
    /// Whether the query at place i of its segment sees the keys at places 0 to i alone.
    pub causal: bool,
}

pub static ATTENTION: Attention = Attention { heads: 1, max_queries: 64, max_keys: 64, causal: false };

static ATTENTION_KERNEL: KernelDef = KernelDef {
    name: "attention",
    operands: &[
        read("q"),
        read("k"),
        read("v"),
        read_u32("q_segments"),
        read_u32("k_segments"),
        read("log_weights"),
        write("y"),
        write("lse"),
    ],
    cpu: Some(cpu::attention),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/attention.wgsl"),
        include_str!("../../../wgsl/attention_segments.wgsl")
    )),
    cuda: Some(&ptx::ATTENTION),
};

/// Queries (or keys) that a block of the GPU kernels' grids is made for.
const TILE: usize = 16;

impl Attention {
    /// What the operands must agree in; returns the rows of queries and keys.
    fn expect(&self, op: &str, ins: &[Meta]) -> Result<[Dim; 2]> {
        let columns = expect_fixed(op, "columns", ins[0].dim(1))?;
        expect_same(op, "columns of queries and keys", ins[0].dim(1), ins[1].dim(1))?;
        expect_same(op, "columns of keys and values", ins[1].dim(1), ins[2].dim(1))?;
        expect_same(op, "keys and values", ins[1].dim(0), ins[2].dim(0))?;
        for i in 0..3 {
            expect_dtype(op, ins, i, DType::F32)?;
        }
        let segments = [expect_segments(op, ins, 3)?, expect_segments(op, ins, 4)?];
        expect_same(op, "segments of queries and of keys", segments[0], segments[1])?;
        if !ins[5].is_absent() {
            expect_same(op, "keys and log-weights", ins[1].dim(0), ins[5].dim(0))?;
        }
        let heads = self.heads;
        if heads == 0 || columns % heads != 0 || columns / heads > MOST_COLUMNS {
            let rule = format!("a divisor with at most {MOST_COLUMNS} columns a head");
            return Err(Error::shape(op, format!("{heads} heads do not fit {columns} columns: choose {rule}")));
        }
        if !(1..=MOST_KEYS).contains(&self.max_keys) || self.max_queries == 0 {
            let (q, k) = (self.max_queries, self.max_keys);
            let rule = format!("at least 1 of each, and at most {MOST_KEYS} keys; cut or pool longer sequences");
            return Err(Error::shape(op, format!("segments of up to {q} queries and {k} keys: choose {rule}")));
        }
        Ok([ins[0].dim(0), ins[1].dim(0)])
    }

    fn columns(&self, ins: &[Meta]) -> usize {
        ins[0].dim(1).cap() / self.heads.max(1)
    }

    /// Rows of queries, rows of keys, segments, heads, columns of a head, most keys, 1 / √d, causal.
    fn params(&self, ins: &[Meta]) -> Params {
        let d = self.columns(ins);
        Params::new()
            .size(ins[0].dim(0))
            .size(ins[1].dim(0))
            .size(ins[3].dim(0))
            .u32(self.heads)
            .u32(d)
            .u32(self.max_keys)
            .f32(1.0 / (d.max(1) as f32).sqrt())
            .u32(self.causal as usize)
    }

    /// A block for each head of each segment and for each tile of its rows; one more for what lies behind the last.
    fn grid(&self, ins: &[Meta], rows: usize) -> [u32; 3] {
        let problems = (ins[3].dim(0).cap() as u64 + 1) * self.heads as u64;
        [groups(problems, 1)[0], rows.div_ceil(TILE).clamp(1, 65_535) as u32, 1]
    }

    /// FLOPs of `products` products of queries with keys.
    fn products(&self, ins: &[Meta], products: u64) -> u64 {
        2 * products * ins[0].elements() * self.max_keys.min(ins[1].dim(0).cap()) as u64
    }

    /// For every head of every query: the keys that take part with their probabilities, and the log-sum-exp.
    fn probabilities(&self, ins: &[HostTensor]) -> Vec<Attended> {
        let [rq, rk, cols] = [ins[0].dim(0), ins[1].dim(0), ins[0].dim(1)];
        let d = cols / self.heads;
        let mut all = vec![];
        for n in 0..ins[3].dim(0) {
            let (queries, _) = members(ins[3].u(), n, 0, rq);
            let (keys, _) = members(ins[4].u(), n, 0, rk);
            let weight = |j: usize| ins[5].x().get(j).copied().unwrap_or(0.0);
            let (first_query, first_key) = (queries.start, keys.start);
            let there: Vec<usize> = keys.take(self.max_keys).filter(|j| weight(*j) > f64::from(EXCLUDED)).collect();
            for (i, h) in queries.flat_map(|i| (0..self.heads).map(move |h| (i, h))) {
                let q = &ins[0].x()[i * cols + h * d..][..d];
                let logit = |j: usize| -> f64 {
                    let k = &ins[1].x()[j * cols + h * d..][..d];
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt() + weight(j)
                };
                let seen = |j: &usize| !self.causal || j - first_key <= i - first_query;
                let keys: Vec<usize> = there.iter().copied().filter(seen).collect();
                let logits: Vec<f64> = keys.iter().map(|j| logit(*j)).collect();
                let max = logits.iter().copied().fold(f64::from(FLOOR), f64::max);
                let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                let lse = if keys.is_empty() { f64::from(FLOOR) } else { max + sum.ln() };
                let keys = keys.iter().zip(logits).map(|(j, l)| (*j, (l - lse).exp())).collect();
                all.push(Attended { query: i, columns: h * d..(h + 1) * d, head: h, keys, lse });
            }
        }
        all
    }
}

/// One head of one query in the reference.
struct Attended {
    query: usize,
    head: usize,
    columns: Range<usize>,
    /// Key and probability.
    keys: Vec<(usize, f64)>,
    lse: f64,
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2, 2, 2, 1])?;
        let [rq, _] = self.expect(self.name(), ins)?;
        Ok(vec![ins[0].clone(), Meta::f32(&[rq, Dim::Fixed(self.heads)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rq, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut y = HostTensor::zeros(&[rq, cols]);
        let mut lse = HostTensor::f64(&[rq, self.heads], vec![f64::from(FLOOR); rq * self.heads]);
        for a in self.probabilities(ins) {
            lse.x_mut()[a.query * self.heads + a.head] = a.lse;
            for ((j, p), c) in a.keys.iter().flat_map(|k| a.columns.clone().map(move |c| (k, c))) {
                y.x_mut()[a.query * cols + c] += p * ins[2].x()[j * cols + c];
            }
        }
        vec![y, lse]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() {
            return no_gradient(self.name(), "lse is kept for the gradient of y and has none of its own");
        }
        let Some(dy) = dout[0] else { return Ok(vec![None; 6]) };
        let mut operands = n.ins.clone();
        operands.extend([n.outs[0], n.outs[1], dy]);
        let d = g.apply_all(AttentionGrad { forward: self.clone() }, &operands)?;
        let dlog_weights = (!n.ins[5].is_absent()).then_some(d[3]);
        Ok(vec![Some(d[0]), Some(d[1]), Some(d[2]), None, None, dlog_weights])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: self.products(ins, 2), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&ATTENTION_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = self.params(o.ins).u32(!o.ins[5].is_absent() as usize).u32(!o.outs[1].is_absent() as usize);
        let groups = self.grid(o.ins, self.max_queries);
        vec![Launch { kernel: &ATTENTION_KERNEL, params, groups, args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        cases().iter().map(|case| case.operands(case.sample(case.op()))).collect()
    }
}

/// The gradient of [`Attention`]. Operands are its own, then y `[Rq, D]`, lse `[Rq, heads]` and dy `[Rq, D]`; outputs
/// dq `[Rq, D]`, dk `[Rk, D]`, dv `[Rk, D]`, dlog_weights `[Rk]`, summed over the heads; 0 where nothing takes part.
///
/// With δ_i = ⟨dy_i, y_i⟩ and dl_ij = p_ij (⟨dy_i, v_j⟩ − δ_i): dq_i = Σ_j dl_ij k_j / √d, dk_j = Σ_i dl_ij q_i / √d,
/// dv_j = Σ_i p_ij dy_i, dlog_weight_j = Σ_i dl_ij.
#[derive(Clone, Debug)]
pub struct AttentionGrad {
    pub forward: Attention,
}

pub static ATTENTION_GRAD: AttentionGrad = AttentionGrad { forward: ATTENTION_DEFAULT };
const ATTENTION_DEFAULT: Attention = Attention { heads: 1, max_queries: 64, max_keys: 64, causal: false };

/// All of it in one pass over the segments: what the CPU does.
static ATTENTION_GRAD_KERNEL: KernelDef = KernelDef {
    name: "attention_grad",
    operands: &[
        read("q"),
        read("k"),
        read("v"),
        read_u32("q_segments"),
        read_u32("k_segments"),
        read("log_weights"),
        read("y"),
        read("lse"),
        read("dy"),
        write("dq"),
        write("dk"),
        write("dv"),
        write("dlog_weights"),
    ],
    cpu: Some(cpu::attention_grad),
    wgsl: None,
    cuda: None,
};

/// δ: `[heads, Rq]`.
static ATTENTION_DELTA_KERNEL: KernelDef = KernelDef {
    name: "attention_delta",
    operands: &[read("y"), read("dy"), write("delta")],
    cpu: None,
    wgsl: Some(include_str!("../../../wgsl/attention_delta.wgsl")),
    cuda: Some(&ptx::ATTENTION),
};

static ATTENTION_DQ_KERNEL: KernelDef = KernelDef {
    name: "attention_dq",
    operands: &[
        read("q"),
        read("k"),
        read("v"),
        read_u32("q_segments"),
        read_u32("k_segments"),
        read("log_weights"),
        read("lse"),
        read("delta"),
        read("dy"),
        write("dq"),
    ],
    cpu: None,
    wgsl: Some(concat!(
        include_str!("../../../wgsl/attention_dq.wgsl"),
        include_str!("../../../wgsl/attention_segments.wgsl")
    )),
    cuda: Some(&ptx::ATTENTION),
};

/// dk, dv, and the heads' shares of the gradient of log-weights, `[heads, Rk]`.
static ATTENTION_DKV_KERNEL: KernelDef = KernelDef {
    name: "attention_dkv",
    operands: &[
        read("q"),
        read("k"),
        read("v"),
        read_u32("q_segments"),
        read_u32("k_segments"),
        read("log_weights"),
        read("lse"),
        read("delta"),
        read("dy"),
        write("dk"),
        write("dv"),
        write("shares"),
    ],
    cpu: None,
    wgsl: Some(concat!(
        include_str!("../../../wgsl/attention_dkv.wgsl"),
        include_str!("../../../wgsl/attention_segments.wgsl")
    )),
    cuda: Some(&ptx::ATTENTION),
};

impl AttentionGrad {
    /// Bytes of the workspace of GPUs: δ, then the shares.
    fn parts(&self, ins: &[Meta]) -> [u64; 2] {
        let bytes = |rows: Dim| (self.forward.heads as u64 * rows.cap() as u64 * 4).next_multiple_of(256);
        [bytes(ins[0].dim(0)), bytes(ins[1].dim(0))]
    }
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2, 2, 2, 1, 2, 2, 2])?;
        let [rq, rk] = self.forward.expect(self.name(), ins)?;
        if ins[6] != ins[0] || ins[8] != ins[0] {
            return Err(Error::shape(self.name(), format!("q is {}, y {} and dy {}", ins[0], ins[6], ins[8])));
        }
        if ins[7] != Meta::f32(&[rq, Dim::Fixed(self.forward.heads)])? {
            return Err(Error::shape(self.name(), format!("lse must be [Rq, heads] and is {}", ins[7])));
        }
        Ok(vec![ins[0].clone(), ins[1].clone(), ins[2].clone(), Meta::f32(&[rk])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rq, rk, cols] = [ins[0].dim(0), ins[1].dim(0), ins[0].dim(1)];
        let [q, k, v, dy] = [0, 1, 2, 8].map(|i| ins[i].x());
        let mut outs = [&[rq, cols][..], &[rk, cols], &[rk, cols], &[rk]].map(HostTensor::zeros);
        for a in self.forward.probabilities(ins) {
            let scale = 1.0 / (a.columns.len() as f64).sqrt();
            let (i, at) = (a.query * cols, a.columns.clone());
            let slope = |j: usize| -> f64 { at.clone().map(|c| dy[i + c] * v[j * cols + c]).sum() };
            let delta: f64 = a.keys.iter().map(|(j, p)| p * slope(*j)).sum();
            for (j, p) in &a.keys {
                let dl = p * (slope(*j) - delta);
                outs[3].x_mut()[*j] += dl;
                for c in a.columns.clone() {
                    outs[0].x_mut()[i + c] += dl * k[j * cols + c] * scale;
                    outs[1].x_mut()[j * cols + c] += dl * q[i + c] * scale;
                    outs[2].x_mut()[j * cols + c] += p * dy[i + c];
                }
            }
        }
        outs.to_vec()
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: self.forward.products(ins, 5), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[0, 1, 2, 3]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![
            &ATTENTION_GRAD_KERNEL,
            &ATTENTION_DELTA_KERNEL,
            &ATTENTION_DQ_KERNEL,
            &ATTENTION_DKV_KERNEL,
            &SUM_ROWS_KERNEL,
        ]
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        if ctx.target == Target::Cpu { 0 } else { self.parts(ins).iter().sum() }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let op = &self.forward;
        let params = op.params(o.ins).u32(!o.ins[5].is_absent() as usize);
        if ctx.target == Target::Cpu {
            let args = o.all();
            return vec![Launch { kernel: &ATTENTION_GRAD_KERNEL, params, groups: [1; 3], args }];
        }
        let work = |offset, bytes| if bytes == 0 { Arg::Absent } else { Arg::Work { offset, bytes } };
        let [delta, shares] = self.parts(o.ins);
        let (delta, shares) = (work(0, delta), work(delta, shares));
        let items = o.ins[0].dim(0).cap() as u64 * op.heads as u64;
        let mut launches = vec![Launch {
            kernel: &ATTENTION_DELTA_KERNEL,
            params: Params::new().size(o.ins[0].dim(0)).u32(op.heads).u32(op.columns(o.ins)).u32(o.ins[0].dim(0).cap()),
            groups: groups(items, 64),
            args: vec![o.input(6), o.input(8), delta],
        }];
        let params = params.u32(o.ins[0].dim(0).cap()).u32(o.ins[1].dim(0).cap());
        let operands: Vec<Arg> =
            [0, 1, 2, 3, 4, 5, 7].map(|i| o.input(i)).into_iter().chain([delta, o.input(8)]).collect();
        if !o.outs[0].is_absent() {
            launches.push(Launch {
                kernel: &ATTENTION_DQ_KERNEL,
                params: params.clone(),
                groups: op.grid(o.ins, op.max_queries),
                args: operands.iter().copied().chain([o.output(0)]).collect(),
            });
        }
        let wanted = [1, 2, 3].map(|i| !o.outs[i].is_absent());
        if wanted.contains(&true) {
            let params = wanted.iter().fold(params, |p, w| p.u32(*w as usize));
            let shares = if wanted[2] { shares } else { Arg::Absent };
            launches.push(Launch {
                kernel: &ATTENTION_DKV_KERNEL,
                params,
                groups: op.grid(o.ins, op.max_keys),
                args: operands.into_iter().chain([o.output(1), o.output(2), shares]).collect(),
            });
            if wanted[2] {
                let rows = o.ins[1].dim(0);
                launches.push(Launch {
                    kernel: &SUM_ROWS_KERNEL,
                    params: Params::new().u32(op.heads).size(rows).u32(rows.cap()),
                    groups: groups(rows.cap() as u64, 64),
                    args: vec![shares, o.output(3)],
                });
            }
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().iter())
            .map(|case| {
                let forward = case.operands(case.sample(case.op()));
                let [y, lse] = <[HostTensor; 2]>::try_from(forward.op.reference(&forward.ins, &case.counts))
                    .unwrap_or_else(|_| [HostTensor::absent(), HostTensor::absent()]);
                let sample = case.operands(case.sample(AttentionGrad { forward: case.op() }));
                sample
                    .gradient(Gradient::None("is itself a gradient"))
                    .with(DType::F32, &[case.queries, Dim::Fixed(case.cols)], |_| y)
                    .with(DType::F32, &[case.queries, Dim::Fixed(case.heads)], |_| lse)
                    .normal(&[case.queries, Dim::Fixed(case.cols)], 8)
            })
            .collect()
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    queries: Dim,
    keys: Dim,
    segments: Dim,
    cols: usize,
    heads: usize,
    max_keys: usize,
    weights: bool,
    causal: bool,
    class: Class,
    counts: Counts,
}

impl Case {
    fn op(&self) -> Attention {
        Attention { heads: self.heads, max_queries: 20, max_keys: self.max_keys, causal: self.causal }
    }
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(self.counts)
    }
    /// Segments that divide the rows unevenly: every fifth is empty, and before every third a row lies outside.
    fn table(&self, rows: Dim, seed: u64) -> impl FnOnce(&[usize]) -> HostTensor {
        let rows = rows.len(&self.counts);
        move |sizes| {
            let n = sizes[0];
            let random = crate::random::Random::new(seed, rows as u64);
            let mut table = vec![];
            let mut row = 0;
            for i in 0..n {
                let share = (rows - row) / (n - i);
                let gap = usize::from(i % 3 == 1 && row < rows && share > 1);
                let whole = if i + 1 == n { rows - row } else { random.below(i as u64, 2 * share as u64 + 1) as usize };
                let length = if i % 5 == 4 { 0 } else { whole.min(rows - row).saturating_sub(gap) };
                row += gap;
                table.extend([row as u32, (row + length) as u32]);
                row += length;
            }
            HostTensor::u32(sizes, table)
        }
    }
    fn operands(&self, sample: Sample) -> Sample {
        let cols = Dim::Fixed(self.cols);
        let pairs = [self.segments, Dim::Fixed(2)];
        let sample = (sample.normal(&[self.queries, cols], 3).normal(&[self.keys, cols], 4))
            .normal(&[self.keys, cols], 5)
            .with(DType::U32, &pairs, self.table(self.queries, 6))
            .with(DType::U32, &pairs, self.table(self.keys, 7));
        if !self.weights {
            return sample.absent();
        }
        // Every fourth key takes no part; in runs of six, so that whole segments do not.
        sample.with(DType::F32, &[self.keys], |sizes| {
            let mut weights = noise(sizes, 9);
            for (i, w) in weights.x_mut().iter_mut().enumerate().filter(|(i, _)| i / 6 % 4 == 1) {
                *w = if i % 2 == 0 { f64::from(FLOOR) } else { f64::from(EXCLUDED) };
            }
            weights
        })
    }
}

fn cases() -> [Case; 17] {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(0), 29).with(Axis(1), 33).with(Axis(2), 6);
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, [queries, keys, segments]: [Dim; 3], cols, heads, max_keys, weights, class| Case {
        name,
        queries,
        keys,
        segments,
        cols,
        heads,
        max_keys,
        weights,
        causal: name.starts_with("causal"),
        class,
        counts,
    };
    let (tiny, full, bench) = (Class::Tiny, Class::Full, Class::Bench);
    [
        case("nothing", [fixed(0), fixed(0), fixed(0)], 4, 2, 8, false, tiny),
        case("no queries", [fixed(0), fixed(5), fixed(1)], 4, 2, 8, true, tiny),
        case("no keys", [fixed(3), fixed(0), fixed(1)], 4, 2, 8, true, tiny),
        case("no segments", [fixed(3), fixed(4), fixed(0)], 4, 1, 8, false, tiny),
        case("one", [fixed(1), fixed(1), fixed(1)], 1, 1, 1, false, tiny),
        case("prime", [fixed(37), fixed(41), fixed(7)], 21, 3, 64, true, tiny),
        case("ragged", [ragged(0, 40), ragged(1, 37), ragged(2, 9)], 16, 2, 64, true, tiny),
        case("more keys than take part", [fixed(19), fixed(53), fixed(2)], 12, 2, 17, true, tiny),
        case("several tiles", [fixed(83), fixed(150), fixed(1)], 40, 1, 512, true, tiny),
        case("wide heads", [fixed(11), fixed(70), fixed(2)], 200, 2, 128, false, tiny),
        case("large", [fixed(523), fixed(997), fixed(5)], 128, 2, 512, true, full),
        case("many small", [fixed(1031), fixed(1511), fixed(61)], 96, 4, 512, false, full),
        case("causal", [fixed(37), fixed(41), fixed(7)], 21, 3, 64, true, tiny),
        case("causal, fewer keys than queries", [ragged(0, 40), fixed(17), fixed(3)], 16, 2, 5, false, tiny),
        case("causal, several tiles", [fixed(150), fixed(150), fixed(1)], 40, 1, 512, true, tiny),
        case("causal, large", [fixed(1031), fixed(1031), fixed(13)], 256, 2, 256, false, full),
        case("128 videos, 24 frames, 4 heads, D 128", [fixed(3072), fixed(3072), fixed(128)], 128, 4, 64, false, bench),
    ]
}
