//! The optimiser: clipping by the norm of all gradients, and AdamW over one flat vector of parameters.

use super::super::backend::cpu::optim as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, groups, no_gradient, noise, ptx, read, read_u32, reduce, write,
};
use crate::engine::backend::cpu::lanes::PART;
use crate::error::{Error, Result};

/// `scale = min(1, max_norm / (‖grads‖ + 1e-6))`, the factor that keeps the norm of all gradients below `max_norm`
/// (Pascanu et al. 2013). Operand `grads [P]`; outputs `scale [1]`, `norm [1]`. A NaN among the gradients makes both
/// NaN.
#[derive(Clone, Debug)]
pub struct ClipNorm {
    pub max_norm: f32,
}

pub static CLIP_NORM: ClipNorm = ClipNorm { max_norm: 1.0 };

static NORM_PARTS_KERNEL: KernelDef = KernelDef {
    name: "norm_parts",
    operands: &[read("grads"), write("norms")],
    cpu: Some(cpu::norm_parts),
    wgsl: Some(concat!(include_str!("../../../wgsl/norm_parts.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::OPTIM),
};

static CLIP_NORM_KERNEL: KernelDef = KernelDef {
    name: "clip_norm",
    operands: &[read("norms"), write("scale"), write("norm")],
    cpu: Some(cpu::clip_norm),
    wgsl: Some(concat!(include_str!("../../../wgsl/clip_norm.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::OPTIM),
};

impl Op for ClipNorm {
    fn name(&self) -> &'static str {
        "clip_norm"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[1])?;
        let one = Meta::f32(&[Dim::Fixed(1)])?;
        Ok(vec![one.clone(), one])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let norm = ins[0].x().iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = (f64::from(self.max_norm) / (norm + 1e-6)).min(1.0);
        vec![HostTensor::scalar(scale), HostTensor::scalar(norm)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "it is a part of the update, not of a loss")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&NORM_PARTS_KERNEL, &CLIP_NORM_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        4 * reduce::parts(ins[0].elements())
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let norms = Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) };
        let params = Params::new().elements(&o.ins[0]).u32(PART);
        vec![
            Launch {
                kernel: &NORM_PARTS_KERNEL,
                params: params.clone(),
                groups: groups(o.ins[0].elements(), PART as u64),
                args: vec![o.input(0), norms],
            },
            Launch {
                kernel: &CLIP_NORM_KERNEL,
                params: params.f32(self.max_norm),
                groups: [1, 1, 1],
                args: vec![norms, o.output(0), o.output(1)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        let cases = [
            ("empty", 0, 1.0, Class::Tiny),
            ("one", 1, 0.1, Class::Tiny),
            ("prime", 1031, 1.0, Class::Tiny),
            ("below the limit", 1031, 1e6, Class::Tiny),
            ("several parts", 3 * PART + 17, 1.0, Class::Tiny),
            ("large", 1 << 20, 1.0, Class::Full),
            ("10 million", 10_000_000, 1.0, Class::Bench),
        ];
        (cases.into_iter())
            .map(|(name, n, max_norm, class)| {
                let sample = Sample::new(name, ClipNorm { max_norm }).class(class).tolerance(1e-6);
                sample.gradient(Gradient::None("part of the update")).normal(&[Dim::Fixed(n)], 3)
            })
            .collect()
    }
}

/// AdamW (Loshchilov and Hutter 2019) over one flat vector, with settings by ranges of elements.
///
/// Operands:
/// - `params`, `m`, `v`, `grads` `[P]`
/// - `clip [1]`: every gradient is multiplied by it
/// - `scalars [4]`: learning rate, 1/(1 − β₁ᵗ), 1/(1 − β₂ᵗ), unused
/// - `ranges` u32 `[G, 2]`: (begin, end) of elements, ascending and disjoint
/// - `factors [G, 4]`: factor of the learning rate, weight decay, smallest and largest parameter
///
/// Outputs `params'`, `m'`, `v'`, each in place. An element in no range stays as it is. A gradient that is NaN makes
/// its parameter NaN.
#[derive(Clone, Debug)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
}

pub static ADAM_W: AdamW = AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 };

static ADAM_W_KERNEL: KernelDef = KernelDef {
    name: "adam_w",
    operands: &[
        read("params"),
        read("m"),
        read("v"),
        read("grads"),
        read("clip"),
        read("scalars"),
        read_u32("ranges"),
        read("factors"),
        write("new_params"),
        write("new_m"),
        write("new_v"),
    ],
    cpu: Some(cpu::adam_w),
    wgsl: Some(include_str!("../../../wgsl/adam_w.wgsl")),
    cuda: Some(&ptx::OPTIM),
};

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adam_w"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[1, 1, 1, 1, 1, 1, 2, 2])?;
        expect_dtype(self.name(), ins, 6, DType::U32)?;
        expect_fixed(self.name(), "parameters", ins[0].dim(0))?;
        if let Some(i) = (1..4).find(|i| ins[*i] != ins[0]) {
            return Err(Error::shape(self.name(), format!("operand {i} is {} and params is {}", ins[i], ins[0])));
        }
        let table = [ins[4].dim(0), ins[5].dim(0), ins[6].dim(1), ins[7].dim(1)] == [1, 4, 2, 4].map(Dim::Fixed);
        if !table || ins[6].dim(0) != ins[7].dim(0) {
            let got = format!("{}, {}, {}, {}", ins[4], ins[5], ins[6], ins[7]);
            let what = "clip [1], scalars [4], ranges [G, 2] and factors [G, 4]";
            return Err(Error::shape(self.name(), format!("takes {what} and got {got}")));
        }
        Ok(vec![ins[0].clone(); 3])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [beta1, beta2, eps] = [self.beta1, self.beta2, self.eps].map(f64::from);
        let (clip, scalars) = (ins[4].x()[0], ins[5].x());
        let mut outs = [ins[0].clone(), ins[1].clone(), ins[2].clone()];
        for (range, factors) in ins[6].u().chunks(2).zip(ins[7].x().chunks(4)) {
            let rate = scalars[0] * factors[0];
            for i in range[0] as usize..(range[1] as usize).min(ins[0].elements()) {
                let g = ins[3].x()[i] * clip;
                let p = ins[0].x()[i];
                let m = beta1 * ins[1].x()[i] + (1.0 - beta1) * g;
                let v = beta2 * ins[2].x()[i] + (1.0 - beta2) * g * g;
                let step = m * scalars[1] / ((v * scalars[2]).sqrt() + eps);
                outs[0].x_mut()[i] = (p - rate * (step + factors[1] * p)).clamp(factors[2], factors[3]);
                outs[1].x_mut()[i] = m;
                outs[2].x_mut()[i] = v;
            }
        }
        outs.to_vec()
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "it is the update, not a part of a loss")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 16 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1), (2, 2)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&ADAM_W_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        // 1 − β in f64: in f32 it would lose the digits that distinguish 0.999 from its neighbours.
        let [beta1, beta2] = [self.beta1, self.beta2].map(|b| (b, (1.0 - f64::from(b)) as f32));
        let params = Params::new().size(o.ins[0].dim(0)).size(o.ins[6].dim(0));
        let params = params.f32(beta1.0).f32(beta1.1).f32(beta2.0).f32(beta2.1).f32(self.eps);
        vec![Launch { kernel: &ADAM_W_KERNEL, params, groups: groups(o.ins[0].elements(), 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let cases: [(&str, usize, &[[u32; 2]], Class); 8] = [
            ("empty", 0, &[[0, 0]], Class::Tiny),
            ("no range", 5, &[], Class::Tiny),
            ("one", 1, &[[0, 1]], Class::Tiny),
            ("gaps", 61, &[[3, 17], [17, 18], [40, 57]], Class::Tiny),
            ("a range beyond the end", 61, &[[30, 4000]], Class::Tiny),
            ("across parts", 2 * PART + 100, &[[5, 16_390], [20_000, 32_868]], Class::Tiny),
            ("large", 300_007, &[[0, 100_000], [100_000, 300_007]], Class::Full),
            ("10 million", 10_000_000, &[[0, 9_000_000], [9_000_000, 10_000_000]], Class::Bench),
        ];
        (cases.into_iter())
            .map(|(name, n, ranges, class)| {
                let flat = [Dim::Fixed(n)];
                let g = Dim::Fixed(ranges.len());
                let fixed = |data: Vec<f64>| move |sizes: &[usize]| HostTensor::f64(sizes, data);
                let factors = [[1.0, 0.0, -1e30, 1e30], [0.5, 0.1, -0.5, 0.75], [0.0, 0.2, -2.0, 2.0]];
                Sample::new(name, ADAM_W.clone())
                    .class(class)
                    .tolerance(1e-6)
                    .gradient(Gradient::None("the update"))
                    .normal(&flat, 1)
                    .normal(&flat, 2)
                    .with(DType::F32, &flat, |sizes| {
                        let mut v = noise(sizes, 3);
                        v.x_mut().iter_mut().for_each(|v| *v = f64::from((*v * *v) as f32));
                        v
                    })
                    .normal(&flat, 4)
                    .with(DType::F32, &[Dim::Fixed(1)], fixed(vec![0.5]))
                    .with(DType::F32, &[Dim::Fixed(4)], fixed(vec![0.125, 2.0, 8.0, 0.0]))
                    .with(DType::U32, &[g, Dim::Fixed(2)], |sizes| HostTensor::u32(sizes, ranges.concat()))
                    .with(DType::F32, &[g, Dim::Fixed(4)], |sizes| {
                        let rows = (0..sizes[0]).flat_map(|i| factors[i % 3]);
                        HostTensor::f64(sizes, rows.map(|f| f64::from(f as f32)).collect())
                    })
            })
            .collect()
    }
}
