//! How evenly a batch uses its experts, how large the routers' logits grow, and the gradient of both.

use super::super::backend::cpu::balance as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::segment::{SEGMENT_REDUCE_KERNEL, SegmentKind, params as segment_params};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, groups, no_gradient, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// The most experts: kernels keep a frame's numbers at hand.
pub const MOST: usize = 64;
/// Frames whose sums are taken together.
pub const PART: usize = 256;

/// The load-balance loss (Fedus, Zoph and Shazeer, "Switch Transformers", 2022) and the router z-loss (Zoph et al.,
/// "ST-MoE", 2022) of gates `π_t = softmax_k ℓ_tk` with `ℓ_tk = text_ik + frame_tk`, t a frame of video i.
///
/// Operands `text_logits [N, K]`, `frame_logits [R, K]`, `frame_segments` u32 `[N, 2]` (begin, end), text i beside
/// video i; a row outside of all segments does not take part. Outputs:
/// - `balance [1] = K·Σ_k f_k·P_k`, f_k the share of frames whose largest logit is expert k's (of equal ones the
///   lower), a constant to the gradient, and P_k the mean of π_tk; 1 where experts share the work evenly
/// - `z [1]`, the mean of `(ln Σ_k exp ℓ_tk)²`
/// - `share [K]` = f, for logs and for the gradient
/// - `frames [1]`, how many frames there are, for the gradient
///
/// All are 0 without frames.
#[derive(Clone, Debug)]
pub struct Balance;

pub static BALANCE: Balance = Balance;

static BALANCE_PARTS_KERNEL: KernelDef = KernelDef {
    name: "balance_parts",
    operands: &[read("text_logits"), read("frame_logits"), read_u32("segments"), write("parts")],
    cpu: Some(cpu::balance_parts),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/balance_parts.wgsl"),
        include_str!("../../../wgsl/balance.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::BALANCE),
};

static BALANCE_KERNEL: KernelDef = KernelDef {
    name: "balance",
    operands: &[read("parts"), write("balance"), write("z"), write("share"), write("frames")],
    cpu: Some(cpu::balance),
    wgsl: Some(include_str!("../../../wgsl/balance_sum.wgsl")),
    cuda: Some(&ptx::BALANCE),
};

/// Checks what the losses and their gradient have in common; returns (frames, experts).
fn expect_problem(op: &str, ins: &[Meta]) -> Result<(Dim, usize)> {
    expect_dtype(op, ins, 0, DType::F32)?;
    expect_dtype(op, ins, 1, DType::F32)?;
    expect_dtype(op, ins, 2, DType::U32)?;
    let experts = expect_fixed(op, "experts", ins[0].dim(1))?;
    if !(1..=MOST).contains(&experts) || ins[1].dim(1) != ins[0].dim(1) {
        let got = format!("{} and {}", ins[0], ins[1]);
        return Err(Error::shape(op, format!("both logits must have the same 1 to {MOST} columns: {got}")));
    }
    // Texts and videos may be counted on axes of their own, with equal counts.
    if ins[2].dim(0).cap() != ins[0].dim(0).cap() || ins[2].dim(1) != Dim::Fixed(2) {
        let texts = ins[0].dim(0);
        return Err(Error::shape(op, format!("frame_segments must be u32 [{texts}, 2] and are {}", ins[2])));
    }
    Ok((ins[1].dim(0), experts))
}

fn params(ins: &[Meta]) -> Params {
    Params::new().size(ins[1].dim(0)).size(ins[0].dim(0)).u32(ins[0].dim(1).cap())
}

/// Numbers in a part: K sums of gates, K counts of largest logits, the sum of squared log-sum-exps, the frames.
fn part(experts: usize) -> usize {
    2 * experts + 2
}

fn parts(ins: &[Meta]) -> usize {
    ins[1].dim(0).cap().div_ceil(PART)
}

/// A frame in f64.
struct Frame {
    text: usize,
    row: usize,
    gates: Vec<f64>,
    lse: f64,
    largest: usize,
}

fn frames(ins: &[HostTensor]) -> Vec<Frame> {
    let k = ins[0].dim(1);
    let mut frames = vec![];
    for text in 0..ins[0].dim(0) {
        let [begin, end] = [0, 1].map(|i| (ins[2].u()[2 * text + i] as usize).min(ins[1].dim(0)));
        for row in begin..end {
            let logits: Vec<f64> = (0..k).map(|e| ins[0].x()[text * k + e] + ins[1].x()[row * k + e]).collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            let gates = logits.iter().map(|l| (l - lse).exp()).collect();
            let largest = logits.iter().position(|l| *l == max).unwrap_or(0);
            frames.push(Frame { text, row, gates, lse, largest });
        }
    }
    frames
}

impl Op for Balance {
    fn name(&self) -> &'static str {
        "balance"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2])?;
        let (_, experts) = expect_problem(self.name(), ins)?;
        let one = Meta::f32(&[Dim::Fixed(1)])?;
        Ok(vec![one.clone(), one.clone(), Meta::f32(&[Dim::Fixed(experts)])?, one])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let k = ins[0].dim(1);
        let all = frames(ins);
        let n = all.len().max(1) as f64;
        let share: Vec<f64> = (0..k).map(|e| all.iter().filter(|f| f.largest == e).count() as f64 / n).collect();
        let mean = |e: usize| all.iter().map(|f| f.gates[e]).sum::<f64>() / n;
        let balance = k as f64 * (0..k).map(|e| share[e] * mean(e)).sum::<f64>();
        let z = all.iter().map(|f| f.lse * f.lse).sum::<f64>() / n;
        vec![
            HostTensor::scalar(balance),
            HostTensor::scalar(z),
            HostTensor::f64(&[k], share),
            HostTensor::scalar(all.len() as f64),
        ]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        // A share jumps or stays: where it has a gradient, that is 0.
        if dout[0].is_none() && dout[1].is_none() {
            return Ok(vec![None; 3]);
        }
        let [dbalance, dz] = [0, 1].map(|i| dout[i].unwrap_or(Value::ABSENT));
        let ins = [n.ins[0], n.ins[1], n.ins[2], n.outs[2], n.outs[3], dbalance, dz];
        let dins = g.apply_all(BalanceGrad, &ins)?;
        Ok(vec![Some(dins[0]), Some(dins[1]), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 20 * ins[1].elements(), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[2, 3]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&BALANCE_PARTS_KERNEL, &BALANCE_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        (parts(ins) * part(ins[0].dim(1).cap())) as u64 * 4
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let bytes = self.workspace(o.ins, ctx);
        let work = if bytes == 0 { Arg::Absent } else { Arg::Work { offset: 0, bytes } };
        let wants = |i: usize| !o.outs[i].is_absent() as usize;
        vec![
            Launch {
                kernel: &BALANCE_PARTS_KERNEL,
                params: params(o.ins),
                groups: groups(parts(o.ins) as u64, 1),
                args: vec![o.input(0), o.input(1), o.input(2), work],
            },
            Launch {
                kernel: &BALANCE_KERNEL,
                params: params(o.ins).u32(wants(2)).u32(wants(3)),
                groups: [1, 1, 1],
                args: vec![work, o.output(0), o.output(1), o.output(2), o.output(3)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        cases().into_iter().map(|case| case.sample(Balance)).collect()
    }
}

/// The gradient of [`Balance`]. Operands are its three, then `share [K]`, `frames [1]`, `dbalance [1]`, `dz [1]` (either
/// of these two may be absent). Outputs `dtext_logits [N, K]`, `dframe_logits [R, K]`:
/// `π_tk·(dbalance·K·(f_k − Σ_e f_e π_te) + dz·2·lse_t) / frames`, and its sum over the frames of a text's video.
#[derive(Clone, Debug)]
pub struct BalanceGrad;

pub static BALANCE_GRAD: BalanceGrad = BalanceGrad;

static BALANCE_GRAD_KERNEL: KernelDef = KernelDef {
    name: "balance_grad",
    operands: &[
        read("text_logits"),
        read("frame_logits"),
        read_u32("segments"),
        read("share"),
        read("frames"),
        read("dbalance"),
        read("dz"),
        write("dframe_logits"),
    ],
    cpu: Some(cpu::balance_grad),
    wgsl: Some(concat!(include_str!("../../../wgsl/balance_grad.wgsl"), include_str!("../../../wgsl/balance.wgsl"))),
    cuda: Some(&ptx::BALANCE),
};

impl Op for BalanceGrad {
    fn name(&self) -> &'static str {
        "balance_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 2, 1, 1, 1, 1])?;
        let (_, experts) = expect_problem(self.name(), ins)?;
        let one = Dim::Fixed(1);
        let wanted = [(3, Dim::Fixed(experts), false), (4, one, false), (5, one, true), (6, one, true)];
        for (i, dim, optional) in wanted {
            if !(optional && ins[i].is_absent()) && (ins[i].is_absent() || ins[i].dim(0) != dim) {
                return Err(Error::shape(self.name(), format!("operand {i} must be [{dim}] and is {}", ins[i])));
            }
        }
        Ok(vec![ins[0].clone(), ins[1].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let k = ins[0].dim(1);
        let n = ins[4].x()[0].max(1.0);
        let [dbalance, dz] = [5, 6].map(|i| ins[i].x().first().copied().unwrap_or(0.0));
        let share = ins[3].x();
        let mut dtext = HostTensor::zeros(&ins[0].shape);
        let mut dframe = HostTensor::zeros(&ins[1].shape);
        for f in frames(ins) {
            let mean: f64 = f.gates.iter().zip(share).map(|(p, s)| p * s).sum();
            for (e, (gate, share)) in f.gates.iter().zip(share).enumerate() {
                let d = gate * (dbalance * k as f64 * (share - mean) + dz * 2.0 * f.lse) / n;
                dframe.x_mut()[f.row * k + e] = d;
                dtext.x_mut()[f.text * k + e] += d;
            }
        }
        vec![dtext, dframe]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 20 * ins[1].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&BALANCE_GRAD_KERNEL, &SEGMENT_REDUCE_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let there = |i: usize| !o.ins[i].is_absent() as usize;
        let ins = (0..7).map(|i| o.input(i));
        let [texts, rows, experts] = [o.ins[0].dim(0), o.ins[1].dim(0), o.ins[0].dim(1)];
        vec![
            Launch {
                kernel: &BALANCE_GRAD_KERNEL,
                params: params(o.ins).u32(there(5)).u32(there(6)),
                groups: groups(rows.cap() as u64, PART as u64),
                args: ins.chain([o.output(1)]).collect(),
            },
            Launch {
                kernel: &SEGMENT_REDUCE_KERNEL,
                params: segment_params(rows, texts, experts.cap(), SegmentKind::Sum, 0),
                groups: groups(o.outs[0].elements(), 64),
                args: vec![o.output(1), o.input(2), o.output(0)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![];
        for case in cases() {
            // Each half alone, and both.
            for (what, [balance, z]) in
                [("", [true, true]), (", balance alone", [true, false]), (", z alone", [false, true])]
            {
                if case.class > Class::Tiny && !(balance && z) {
                    continue;
                }
                let mut sample = case.sample(BalanceGrad);
                sample.name += what;
                let forward = BALANCE.reference(&sample.ins, &sample.counts);
                let one = [Dim::Fixed(1)];
                sample = sample
                    .gradient(Gradient::None("is itself a gradient"))
                    .with(DType::F32, &[Dim::Fixed(case.experts)], |_| forward[2].clone())
                    .with(DType::F32, &one, |_| forward[3].clone());
                for (there, d) in [(balance, 0.75), (z, -0.5)] {
                    sample =
                        if there { sample.with(DType::F32, &one, |_| HostTensor::scalar(d)) } else { sample.absent() };
                }
                // With one expert, or one frame of a text, terms of this size cancel.
                let size = 1.0 / forward[3].x()[0].max(1.0);
                samples.push(sample.floor(0, size).floor(1, size));
            }
        }
        samples
    }
}

struct Case {
    name: &'static str,
    texts: Dim,
    rows: Dim,
    experts: usize,
    /// Logits in quarters, so that many are equal.
    ties: bool,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        let counts = Counts::default().with(Axis(0), 5).with(Axis(1), 43);
        let sample = Sample::new(self.name, op).class(self.class).counts(counts);
        let k = Dim::Fixed(self.experts);
        let logits = |sizes: &[usize], seed: u64| {
            let mut x = super::noise(sizes, seed);
            if self.ties {
                x.x_mut().iter_mut().for_each(|x| *x = (*x * 2.0).round() / 4.0);
            }
            x
        };
        let rows = self.rows.len(&counts);
        let sample = sample.with(DType::F32, &[self.texts, k], |sizes| logits(sizes, 3));
        let sample = sample.with(DType::F32, &[self.rows, k], |sizes| logits(sizes, 4));
        sample.with(DType::U32, &[self.texts, Dim::Fixed(2)], |sizes| {
            // Uneven videos, every fourth without a frame; the last rows are nobody's.
            let random = crate::random::Random::new(5, 2);
            let mut cuts: Vec<u32> = (0..sizes[0]).map(|i| random.below(i as u64, rows as u64 + 1) as u32).collect();
            cuts.sort_unstable();
            let begin = |i: usize| if i == 0 { 0 } else { cuts[i - 1] };
            let end = |i: usize| if i % 4 == 3 { begin(i) } else { cuts[i] };
            HostTensor::u32(sizes, (0..sizes[0]).flat_map(|i| [begin(i), end(i)]).collect())
        })
    }
}

fn cases() -> [Case; 10] {
    let fixed = Dim::Fixed;
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, texts, rows, experts, ties, class| Case { name, texts, rows, experts, ties, class };
    [
        case("no text", fixed(0), fixed(0), 4, false, Class::Tiny),
        case("no frame", fixed(3), fixed(0), 4, false, Class::Tiny),
        case("ragged to nothing", ragged(2, 4), ragged(3, 9), 4, false, Class::Tiny),
        case("one expert", fixed(3), fixed(7), 1, false, Class::Tiny),
        case("prime", fixed(7), fixed(61), 5, false, Class::Tiny),
        case("ties", fixed(7), fixed(61), 4, true, Class::Full),
        case("ragged", ragged(0, 7), ragged(1, 50), 4, false, Class::Tiny),
        case("more than one part", fixed(11), fixed(523), 3, false, Class::Tiny),
        case("64 experts", fixed(5), fixed(97), 64, false, Class::Tiny),
        case("128 videos of 64 frames", fixed(128), fixed(8192), 16, false, Class::Bench),
    ]
}
