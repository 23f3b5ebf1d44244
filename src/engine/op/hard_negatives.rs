//! Weights of the negatives that look most like the pair.

use super::super::backend::cpu::margin as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_rank,
    groups, noise, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// How many of a row's negatives are hard.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Top {
    Items(usize),
    /// A part of the row's negatives above 0 and up to 1, rounded up; the product is taken in f32.
    Share(f32),
}

impl Top {
    fn of(self, negatives: usize) -> usize {
        match self {
            Top::Items(n) => n.min(negatives),
            Top::Share(share) => ((share * negatives as f32).ceil() as usize).min(negatives),
        }
    }
}

/// `ln weight` for the negatives of each row that are most similar to it, 0 for everything else: the log-weights that
/// [`Contrast`](super::contrast::Contrast) takes.
///
/// Operands: `similarity [N, N]` (the two axes may be different ragged axes with equal counts); `video_key`,
/// `caption_key` u32 `[N]`, each optional: pairs that share a key are no negatives, nor is the diagonal. Output
/// `log_weight [N, N]`. Of equal negatives the lower column comes first; a NaN comes behind every number.
#[derive(Clone, Debug)]
pub struct HardNegatives {
    pub top: Top,
    /// Above 0: how often a hard negative counts.
    pub weight: f32,
}

pub static HARD_NEGATIVES: HardNegatives = HardNegatives { top: Top::Share(0.1), weight: 2.0 };

static HARD_NEGATIVES_KERNEL: KernelDef = KernelDef {
    name: "hard_negatives",
    operands: &[read("similarity"), read_u32("video_key"), read_u32("caption_key"), write("log_weight")],
    cpu: Some(cpu::hard_negatives),
    wgsl: Some(concat!(include_str!("../../../wgsl/hard_negatives.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::MARGIN),
};

impl Op for HardNegatives {
    fn name(&self) -> &'static str {
        "hard_negatives"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        let (rows, cols) = (ins[0].dim(0), ins[0].dim(1));
        let refuse = |what: String| Err(Error::shape(self.name(), what));
        if rows.cap() != cols.cap() {
            return refuse(format!("similarity must be square and is {}", ins[0]));
        }
        for (m, name) in ins[1..].iter().zip(["video_key", "caption_key"]) {
            // Keys may be counted on an axis of their own, with equal counts.
            if !m.is_absent() && (m.dtype() != DType::U32 || m.dim(0).cap() != rows.cap()) {
                return refuse(format!("{name} must be u32 [{rows}] and is {m}"));
            }
        }
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return refuse(format!("the weight must be a number above 0 and is {}", self.weight));
        }
        match self.top {
            Top::Share(share) if !(share > 0.0 && share <= 1.0) => {
                refuse(format!("the share must be above 0 and at most 1 and is {share}"))
            }
            Top::Items(n) if n >= 1 << 31 => refuse(format!("{n} negatives are more than a row can hold")),
            // Rows are counted as the keys are: those of `contrast` are on the axis of texts.
            _ => {
                let key = ins[1..].iter().find(|m| !m.is_absent()).map_or(rows, |m| m.dim(0));
                Ok(vec![Meta::f32(&[key, cols])?])
            }
        }
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let n = ins[0].dim(0);
        let same = |keys: &[u32], i: usize, j: usize| !keys.is_empty() && keys[i] == keys[j];
        let mut log_weight = HostTensor::zeros(&[n, n]);
        for i in 0..n {
            let row = &ins[0].x()[i * n..][..n];
            let negative = |j: &usize| *j != i && !same(ins[1].u(), i, *j) && !same(ins[2].u(), i, *j);
            let mut negatives: Vec<usize> = (0..n).filter(negative).collect();
            // Adding 0 makes −0 equal to 0.
            let descending = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan()).then((b + 0.0).total_cmp(&(a + 0.0)));
            negatives.sort_by(|a, b| descending(row[*a], row[*b]).then(a.cmp(b)));
            for j in &negatives[..self.top.of(negatives.len())] {
                log_weight.x_mut()[i * n + j] = f64::from(self.weight.ln());
            }
        }
        vec![log_weight]
    }
    /// Nothing flows through a selection: the weights are constants to the loss that takes them.
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None; 3])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 40 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&HARD_NEGATIVES_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let there = |i: usize| !o.ins[i].is_absent() as usize;
        let (items, share) = match self.top {
            Top::Items(n) => (n, 0.0),
            Top::Share(share) => (0, share),
        };
        let params = Params::new().size(rows).size(cols).u32(cols.cap()).u32(there(1)).u32(there(2));
        let params = params.u32(items).f32(share).f32(self.weight.ln());
        let groups = groups(rows.cap() as u64, 1);
        vec![Launch { kernel: &HARD_NEGATIVES_KERNEL, params, groups, args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = |n| [Dim::Fixed(n); 2];
        let ragged = |a, b| [Dim::Ragged(Axis(a), 19), Dim::Ragged(Axis(b), 19)];
        let (all, none) = ([true, true], [false, false]);
        let cases = [
            ("nothing", fixed(0), Top::Items(1), all, Class::Tiny),
            ("ragged to nothing", [Dim::Ragged(Axis(2), 4); 2], Top::Items(1), none, Class::Tiny),
            ("one", fixed(1), Top::Items(1), none, Class::Tiny),
            ("no item", fixed(5), Top::Items(0), none, Class::Tiny),
            ("more than there are", fixed(5), Top::Items(9), none, Class::Tiny),
            ("three of a prime", fixed(31), Top::Items(3), [true, false], Class::Tiny),
            ("a share", fixed(31), Top::Share(0.1), none, Class::Tiny),
            ("a share of few", fixed(17), Top::Share(0.3), all, Class::Tiny),
            ("two ragged axes", ragged(0, 1), Top::Share(0.25), [false, true], Class::Tiny),
            ("more than a workgroup", fixed(307), Top::Share(0.05), [true, false], Class::Full),
            ("2048 pairs", fixed(2048), Top::Share(0.05), [true, false], Class::Bench),
        ];
        let counts = Counts::default().with(Axis(0), 13).with(Axis(1), 13);
        let mut samples = vec![];
        for (name, dims, top, keys, class) in cases {
            for ties in [false, true] {
                let op = HardNegatives { top, weight: if ties { 0.5 } else { 3.0 } };
                let name = format!("{name}{}", if ties { ", many ties" } else { "" });
                let sample = Sample::new(name, op).class(class).counts(counts).tolerance(1e-6);
                let mut sample = sample.gradient(Gradient::None("selects"));
                sample = sample.with(DType::F32, &dims, |sizes| similarity(sizes, ties));
                for (there, stream) in keys.into_iter().zip([8, 9]) {
                    sample = if there {
                        sample.with(DType::U32, &dims[..1], |s| some_keys(s, stream))
                    } else {
                        sample.absent()
                    };
                }
                samples.push(sample);
            }
        }
        samples
    }
}

/// Noise; with ties, rounded to halves so that most are equal to others, 0 and −0 among them.
fn similarity(sizes: &[usize], ties: bool) -> HostTensor {
    let mut x = noise(sizes, 6);
    if ties {
        x.x_mut().iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
    }
    x
}

/// Keys that about three items share.
fn some_keys(sizes: &[usize], stream: u64) -> HostTensor {
    let random = crate::random::Random::new(7, stream);
    let key = |i| random.below(i as u64, (sizes[0] / 3 + 1) as u64) as u32;
    HostTensor::u32(sizes, (0..sizes[0]).map(key).collect())
}
