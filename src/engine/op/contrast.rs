//! Symmetric InfoNCE over a score matrix, and its gradient.

use super::super::backend::cpu::contrast as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_rank,
    groups, no_gradient, noise, ptx, read, read_u32, write,
};
use crate::error::{Error, Result};

/// `loss = ½ [mean_i (lse_j z_ij − z_ii) + mean_j (lse_i z_ij − z_jj)]` with `z = exp(log_scale)·scores + log_weight`
/// (van den Oord et al. 2018; in both directions as in CLIP, Radford et al. 2021).
///
/// Operands:
/// - `scores [N, N]`: row i is a text, column j a video, the diagonal holds the pairs. The two axes may be different
///   ragged axes with equal counts
/// - `log_scale [1]`
/// - `video_key`, `caption_key` u32 `[N]`, each optional: pairs i ≠ j that share a key are no negatives of each other
///   and are left out
/// - `log_weight [N, N]`, optional: weights of the negatives as logarithms, at least −1e30; 0 on the diagonal
///
/// Outputs `loss [1]` (0 for an empty batch) and, for the gradient, `row_lse [N]`, `col_lse [N]`.
#[derive(Clone, Debug)]
pub struct Contrast;

pub static CONTRAST: Contrast = Contrast;

static CONTRAST_ROWS_KERNEL: KernelDef = KernelDef {
    name: "contrast_rows",
    operands: &[
        read("scores"),
        read("log_scale"),
        read_u32("video_key"),
        read_u32("caption_key"),
        read("log_weight"),
        write("lse"),
        write("terms"),
    ],
    cpu: Some(cpu::contrast_rows),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/contrast_rows.wgsl"),
        include_str!("../../../wgsl/contrast_logits.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::CONTRAST),
};

static CONTRAST_COLUMNS_KERNEL: KernelDef = KernelDef {
    name: "contrast_columns",
    operands: &[
        read("scores"),
        read("log_scale"),
        read_u32("video_key"),
        read_u32("caption_key"),
        read("log_weight"),
        write("lse"),
        write("terms"),
    ],
    cpu: Some(cpu::contrast_columns),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/contrast_columns.wgsl"),
        include_str!("../../../wgsl/contrast_logits.wgsl")
    )),
    cuda: Some(&ptx::CONTRAST),
};

static CONTRAST_LOSS_KERNEL: KernelDef = KernelDef {
    name: "contrast_loss",
    operands: &[read("row_terms"), read("col_terms"), write("loss")],
    cpu: Some(cpu::contrast_loss),
    wgsl: Some(concat!(include_str!("../../../wgsl/contrast_loss.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::CONTRAST),
};

/// Checks what the loss and its gradient have in common; returns (rows, columns).
fn expect_problem(op: &str, ins: &[Meta]) -> Result<(Dim, Dim)> {
    expect_dtype(op, ins, 0, DType::F32)?;
    let (rows, cols) = (ins[0].dim(0), ins[0].dim(1));
    if rows.cap() != cols.cap() {
        return Err(Error::shape(op, format!("scores must be square and are {}", ins[0])));
    }
    if ins[1].dim(0) != Dim::Fixed(1) {
        return Err(Error::shape(op, format!("log_scale must be [1] and is {}", ins[1])));
    }
    for (i, name) in [(2, "video_key"), (3, "caption_key")] {
        if !ins[i].is_absent() && (ins[i].dtype() != DType::U32 || ![rows, cols].contains(&ins[i].dim(0))) {
            return Err(Error::shape(op, format!("{name} must be u32 [{rows}] and is {}", ins[i])));
        }
    }
    if !ins[4].is_absent() && ins[4] != ins[0] {
        return Err(Error::shape(op, format!("log_weight is {} and scores is {}", ins[4], ins[0])));
    }
    Ok((rows, cols))
}

/// Sizes, stride, and which optional operands are there.
fn params(ins: &[Meta]) -> Params {
    let present = [2, 3, 4].map(|i| !ins[i].is_absent() as usize);
    let params = Params::new().size(ins[0].dim(0)).size(ins[0].dim(1)).u32(ins[0].dim(1).cap());
    params.u32(present[0]).u32(present[1]).u32(present[2])
}

/// A vector of N numbers in the workspace, at place `i`.
pub(super) fn vector(i: u64, n: usize) -> Arg {
    let bytes = n as u64 * 4;
    if bytes == 0 { Arg::Absent } else { Arg::Work { offset: i * bytes.next_multiple_of(256), bytes } }
}

/// The loss in f64: logits with what is left out at `None`.
struct Logits {
    n: usize,
    z: Vec<Option<f64>>,
}

impl Logits {
    fn new(ins: &[HostTensor]) -> Logits {
        let n = ins[0].dim(0);
        let scale = ins[1].x()[0].exp();
        let same = |keys: &[u32], i: usize, j: usize| !keys.is_empty() && keys[i] == keys[j];
        let z = (0..n * n).map(|at| {
            let (i, j) = (at / n, at % n);
            let left_out = i != j && (same(ins[2].u(), i, j) || same(ins[3].u(), i, j));
            (!left_out).then(|| scale * ins[0].x()[at] + ins[4].x().get(at).unwrap_or(&0.0))
        });
        Logits { n, z: z.collect() }
    }
    fn lse(&self, line: impl Iterator<Item = usize> + Clone) -> f64 {
        let z = line.filter_map(|at| self.z[at]);
        let max = z.clone().fold(f64::NEG_INFINITY, f64::max);
        max + z.map(|z| (z - max).exp()).sum::<f64>().ln()
    }
    fn rows(&self) -> Vec<f64> {
        (0..self.n).map(|i| self.lse(i * self.n..(i + 1) * self.n)).collect()
    }
    fn cols(&self) -> Vec<f64> {
        (0..self.n).map(|j| self.lse((0..self.n).map(move |i| i * self.n + j))).collect()
    }
}

impl Op for Contrast {
    fn name(&self) -> &'static str {
        "contrast"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1, 1, 2])?;
        let (rows, cols) = expect_problem(self.name(), ins)?;
        Ok(vec![Meta::f32(&[Dim::Fixed(1)])?, Meta::f32(&[rows])?, Meta::f32(&[cols])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let logits = Logits::new(ins);
        let (n, rows, cols) = (logits.n, logits.rows(), logits.cols());
        let terms = (0..n).map(|i| rows[i] + cols[i] - 2.0 * logits.z[i * n + i].unwrap_or(0.0));
        let loss = terms.sum::<f64>() / (2 * n.max(1)) as f64;
        vec![HostTensor::scalar(loss), HostTensor::f64(&[n], rows), HostTensor::f64(&[n], cols)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() || dout[2].is_some() {
            return no_gradient(self.name(), "the log-sum-exps are kept for the gradient and have none of their own");
        }
        let Some(dloss) = dout[0] else { return Ok(vec![None; 5]) };
        let ins: Vec<Value> = n.ins.iter().copied().chain([n.outs[1], n.outs[2], dloss]).collect();
        let dins = g.apply_all(ContrastGrad, &ins)?;
        let dlog_weight = (!n.ins[4].is_absent()).then_some(dins[2]);
        Ok(vec![Some(dins[0]), Some(dins[1]), None, None, dlog_weight])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 10 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONTRAST_ROWS_KERNEL, &CONTRAST_COLUMNS_KERNEL, &CONTRAST_LOSS_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        4 * (ins[0].dim(0).cap() as u64 * 4).next_multiple_of(256)
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let n = o.ins[0].dim(0).cap();
        let ins: Vec<Arg> = (0..5).map(|i| o.input(i)).collect();
        let direction = |kernel, out: usize, groups| {
            let lse = if o.outs[out].is_absent() { vector(out as u64 - 1, n) } else { o.output(out) };
            let args = ins.iter().copied().chain([lse, vector(out as u64 + 1, n)]).collect();
            Launch { kernel, params: params(o.ins), groups, args }
        };
        vec![
            direction(&CONTRAST_ROWS_KERNEL, 1, groups(n as u64, 1)),
            direction(&CONTRAST_COLUMNS_KERNEL, 2, groups(n as u64, 16)),
            Launch {
                kernel: &CONTRAST_LOSS_KERNEL,
                params: Params::new().size(o.ins[0].dim(0)).size(o.ins[0].dim(1)),
                groups: [1, 1, 1],
                args: vec![vector(2, n), vector(3, n), o.output(0)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        cases().into_iter().map(|case| case.sample(Contrast)).collect()
    }
}

/// The gradient of [`Contrast`]. Operands are its five, then `row_lse [N]`, `col_lse [N]`, `dloss [1]`. Outputs
/// `dscores [N, N]`, `dlog_scale [1]`, `dlog_weight [N, N]`.
#[derive(Clone, Debug)]
pub struct ContrastGrad;

pub static CONTRAST_GRAD: ContrastGrad = ContrastGrad;

static CONTRAST_GRAD_KERNEL: KernelDef = KernelDef {
    name: "contrast_grad",
    operands: &[
        read("scores"),
        read("log_scale"),
        read_u32("video_key"),
        read_u32("caption_key"),
        read("log_weight"),
        read("row_lse"),
        read("col_lse"),
        read("dloss"),
        write("dscores"),
        write("dlog_weight"),
        write("terms"),
    ],
    cpu: Some(cpu::contrast_grad),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/contrast_grad.wgsl"),
        include_str!("../../../wgsl/contrast_logits.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::CONTRAST),
};

pub(super) static CONTRAST_SCALE_KERNEL: KernelDef = KernelDef {
    name: "contrast_scale",
    operands: &[read("terms"), write("dlog_scale")],
    cpu: Some(cpu::contrast_scale),
    wgsl: Some(concat!(include_str!("../../../wgsl/contrast_scale.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::CONTRAST),
};

impl Op for ContrastGrad {
    fn name(&self) -> &'static str {
        "contrast_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1, 1, 2, 1, 1, 1])?;
        let (rows, cols) = expect_problem(self.name(), ins)?;
        if ins[5].dim(0) != rows || ins[6].dim(0) != cols || ins[7].dim(0) != Dim::Fixed(1) {
            let got = format!("{}, {} and {}", ins[5], ins[6], ins[7]);
            return Err(Error::shape(
                self.name(),
                format!("takes row_lse [{rows}], col_lse [{cols}], dloss [1]: {got}"),
            ));
        }
        Ok(vec![ins[0].clone(), ins[1].clone(), ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let logits = Logits::new(ins);
        let n = logits.n;
        let scale = ins[1].x()[0].exp();
        let share = ins[7].x()[0] / (2 * n.max(1)) as f64;
        let dz: Vec<f64> = (0..n * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let pair = if i == j { 2.0 } else { 0.0 };
                logits.z[at].map_or(0.0, |z| share * ((z - ins[5].x()[i]).exp() + (z - ins[6].x()[j]).exp() - pair))
            })
            .collect();
        let dscores = dz.iter().map(|dz| scale * dz).collect();
        let dlog_scale = dz.iter().zip(ins[0].x()).map(|(dz, s)| dz * scale * s).sum();
        vec![HostTensor::f64(&[n, n], dscores), HostTensor::scalar(dlog_scale), HostTensor::f64(&[n, n], dz)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 12 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONTRAST_GRAD_KERNEL, &CONTRAST_SCALE_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        ins[0].dim(0).cap() as u64 * 4
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let n = o.ins[0].dim(0).cap();
        let terms = vector(0, n);
        let ins = (0..8).map(|i| o.input(i));
        let wanted = !o.outs[2].is_absent() as usize;
        let mut launches = vec![Launch {
            kernel: &CONTRAST_GRAD_KERNEL,
            params: params(o.ins).u32(wanted),
            groups: groups(n as u64, 1),
            args: ins.chain([o.output(0), o.output(2), terms]).collect(),
        }];
        if !o.outs[1].is_absent() {
            launches.push(Launch {
                kernel: &CONTRAST_SCALE_KERNEL,
                params: Params::new().size(o.ins[0].dim(0)).size(o.ins[0].dim(1)),
                groups: [1, 1, 1],
                args: vec![terms, o.output(1)],
            });
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(ContrastGrad).gradient(Gradient::None("is itself a gradient"));
                let forward = CONTRAST.reference(&sample.ins, &sample.counts);
                let [rows, cols] = case.dims;
                // All are differences of probabilities, P and T over N, times the scale, the logits (about 1) or one.
                let pairs = rows.len(&sample.counts).max(1) as f64;
                sample
                    .floor(0, 0.75 * LOG_SCALE.exp() / pairs)
                    .floor(1, 1.0)
                    .floor(2, 0.75 / pairs)
                    .with(DType::F32, &[rows], |_| forward[1].clone())
                    .with(DType::F32, &[cols], |_| forward[2].clone())
                    .with(DType::F32, &[Dim::Fixed(1)], |_| HostTensor::scalar(0.75))
            })
            .collect()
    }
}

/// The logarithm of the scale in all samples.
const LOG_SCALE: f64 = 2.5;

/// A sample's sizes, and which optional operands it has.
struct Case {
    name: &'static str,
    dims: [Dim; 2],
    videos: bool,
    captions: bool,
    weights: bool,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        let counts = Counts::default().with(Axis(0), 13).with(Axis(1), 13);
        let sample = Sample::new(self.name, op).class(self.class).counts(counts);
        let sample = sample.with(DType::F32, &self.dims, |sizes| scores(sizes, 3));
        let sample = sample.with(DType::F32, &[Dim::Fixed(1)], |_| HostTensor::scalar(LOG_SCALE));
        let keyed = |sample: Sample, dim: Dim, there: bool, distinct: usize| {
            if !there {
                return sample.absent();
            }
            sample.with(DType::U32, &[dim], |sizes| {
                let random = crate::random::Random::new(4, distinct as u64);
                let key = |i| random.below(i as u64, (sizes[0] * distinct / 4 + 1) as u64) as u32;
                HostTensor::u32(sizes, (0..sizes[0]).map(key).collect())
            })
        };
        let sample = keyed(sample, self.dims[1], self.videos, 4);
        let sample = keyed(sample, self.dims[0], self.captions, 9);
        if !self.weights {
            return sample.absent();
        }
        sample.with(DType::F32, &self.dims, |sizes| {
            let mut w = noise(sizes, 6);
            // The diagonal holds the pairs; every seventh negative is switched off.
            for at in 0..w.elements() {
                let (i, j) = (at / sizes[1], at % sizes[1]);
                if i == j {
                    w.x_mut()[at] = 0.0;
                } else if at % 7 == 0 {
                    w.x_mut()[at] = f64::from(-1e30f32);
                }
            }
            w
        })
    }
}

/// Noise in which the pairs score higher, as after some training.
fn scores(sizes: &[usize], seed: u64) -> HostTensor {
    let mut s = noise(sizes, seed);
    for at in 0..s.elements() {
        let pair = if at / sizes[1] == at % sizes[1] { 0.5 } else { 0.0 };
        s.x_mut()[at] = f64::from((s.x()[at] * 0.25 + pair) as f32);
    }
    s
}

fn cases() -> [Case; 11] {
    let fixed = |n| [Dim::Fixed(n); 2];
    let ragged = |cap| [Dim::Ragged(Axis(0), cap), Dim::Ragged(Axis(1), cap)];
    let case = |name, dims, [videos, captions, weights]: [bool; 3], class| Case {
        name,
        dims,
        videos,
        captions,
        weights,
        class,
    };
    [
        case("empty", fixed(0), [true, true, true], Class::Tiny),
        case("ragged to nothing", [Dim::Ragged(Axis(2), 4); 2], [false; 3], Class::Tiny),
        case("one", fixed(1), [true, true, false], Class::Tiny),
        case("plain", fixed(31), [false; 3], Class::Tiny),
        case("same video", fixed(31), [true, false, false], Class::Tiny),
        case("same caption", fixed(29), [false, true, false], Class::Tiny),
        case("weighted", fixed(23), [false, false, true], Class::Tiny),
        case("everything, ragged", ragged(19), [true, true, true], Class::Tiny),
        case("one ragged axis", [Dim::Ragged(Axis(0), 19); 2], [true, false, false], Class::Tiny),
        case("large", fixed(517), [true, true, true], Class::Full),
        case("2048 pairs", fixed(2048), [true, true, false], Class::Bench),
    ]
}
