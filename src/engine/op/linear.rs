//! Matrix product with an epilogue: `y = act(A·B + bias) + residual`.

use super::super::backend::cpu::linear as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, Dim, HostTensor, Meta};
use super::pointwise::{UnaryGrad, UnaryKind};
use super::reduce::SumRows;
use super::{
    Class, Cost, Ctx, Form, KernelDef, Launch, Op, Operands, Params, Precision, Sample, Site, expect_rank, expect_same,
    ptx, read, write,
};
use crate::error::{Error, Result};

/// What is applied to `A·B + bias` before it is stored, numbered as [`UnaryKind`] is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
    GeluTanh,
    QuickGelu,
    Gelu,
}

impl Activation {
    pub(super) fn unary(self) -> Option<UnaryKind> {
        match self {
            Activation::None => None,
            Activation::Relu => Some(UnaryKind::Relu),
            Activation::GeluTanh => Some(UnaryKind::GeluTanh),
            Activation::QuickGelu => Some(UnaryKind::QuickGelu),
            Activation::Gelu => Some(UnaryKind::Gelu),
        }
    }
    /// The activation that a pointwise function can be fused into, if there is one.
    pub fn of(kind: UnaryKind) -> Option<Activation> {
        [Activation::Relu, Activation::GeluTanh, Activation::QuickGelu, Activation::Gelu]
            .into_iter()
            .find(|a| a.unary() == Some(kind))
    }
}

/// Operands: `a [m, k]` (or `[k, m]` with `a_t`), `b [k, n]` (or `[n, k]` with `b_t`), optional `bias [n]`, optional
/// `residual [m, n]`. Output `y [m, n]`. Any of m, n, k may be ragged; beyond a count nothing is read, also not as
/// the contracted dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    pub a_t: bool,
    pub b_t: bool,
    pub activation: Activation,
}

/// `x [rows, in] · W [out, in]ᵀ`: the layout of weights in checkpoints.
pub static LINEAR: Linear = Linear { a_t: false, b_t: true, activation: Activation::None };

static LINEAR_KERNEL: KernelDef = KernelDef {
    name: "linear",
    operands: &[read("a"), read("b"), read("bias"), read("residual"), write("y")],
    cpu: Some(cpu::linear),
    wgsl: Some(include_str!("../../../wgsl/linear.wgsl")),
    cuda: Some(&ptx::LINEAR),
};

static LINEAR_BF16_KERNEL: KernelDef = KernelDef {
    name: "linear_bf16",
    operands: LINEAR_KERNEL.operands,
    cpu: None,
    wgsl: None,
    cuda: Some(&ptx::LINEAR),
};

/// Rows and columns of `y` that one workgroup of the GPU kernels computes.
const TILE: u32 = 64;

impl Linear {
    pub fn new(a_t: bool, b_t: bool) -> Linear {
        Linear { a_t, b_t, activation: Activation::None }
    }

    /// (m, n, k) as the operands have them, k from `a`.
    fn problem(&self, ins: &[Meta]) -> (Dim, Dim, Dim, Dim) {
        let (m, ka) = if self.a_t { (ins[0].dim(1), ins[0].dim(0)) } else { (ins[0].dim(0), ins[0].dim(1)) };
        let (kb, n) = if self.b_t { (ins[1].dim(1), ins[1].dim(0)) } else { (ins[1].dim(0), ins[1].dim(1)) };
        (m, n, ka, kb)
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1, 2])?;
        let (m, n, ka, kb) = self.problem(ins);
        expect_same(self.name(), "the contracted dimensions", ka, kb)?;
        if !ins[2].is_absent() {
            expect_same(self.name(), "columns and bias", n, ins[2].dim(0))?;
        }
        let y = Meta::f32(&[m, n])?;
        if !ins[3].is_absent() && ins[3] != y {
            return Err(Error::shape(self.name(), format!("the residual is {} and the product {y}", ins[3])));
        }
        Ok(vec![y])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let (a, b) = (&ins[0], &ins[1]);
        let (m, k) = if self.a_t { (a.dim(1), a.dim(0)) } else { (a.dim(0), a.dim(1)) };
        let n = if self.b_t { b.dim(0) } else { b.dim(1) };
        let mut y = HostTensor::zeros(&[m, n]);
        for r in 0..m {
            for c in 0..n {
                let mut sum = ins[2].x().get(c).copied().unwrap_or(0.0);
                for i in 0..k {
                    let left = if self.a_t { a.x()[i * m + r] } else { a.x()[r * k + i] };
                    let right = if self.b_t { b.x()[c * k + i] } else { b.x()[i * n + c] };
                    sum += left * right;
                }
                let sum = self.activation.unary().map_or(sum, |f| f.value(sum).0);
                y.x_mut()[r * n + c] = sum + ins[3].x().get(r * n + c).copied().unwrap_or(0.0);
            }
        }
        vec![y]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dout) = dout[0] else { return Ok(vec![None; 4]) };
        let (a, b, bias) = (n.ins[0], n.ins[1], n.ins[2]);
        let none = Value::ABSENT;
        let dy = match self.activation.unary() {
            None => dout,
            Some(kind) => {
                let plain = Linear { activation: Activation::None, ..self.clone() };
                let before = g.apply(plain, &[a, b, bias, none])?;
                g.apply(UnaryGrad { kind }, &[before, dout])?
            }
        };
        // With op(A)·op(B) = Y: d op(A) = dY·op(B)ᵀ and d op(B) = op(A)ᵀ·dY, transposed back where they were.
        let da = if self.a_t {
            g.apply(Linear::new(self.b_t, true), &[b, dy, none, none])?
        } else {
            g.apply(Linear::new(false, !self.b_t), &[dy, b, none, none])?
        };
        let db = if self.b_t {
            g.apply(Linear::new(true, self.a_t), &[dy, a, none, none])?
        } else {
            g.apply(Linear::new(!self.a_t, false), &[a, dy, none, none])?
        };
        let dbias = if bias.is_absent() { None } else { Some(g.apply(SumRows, &[dy])?) };
        Ok(vec![Some(da), Some(db), dbias, (!n.ins[3].is_absent()).then_some(dout)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let (m, n, k, _) = self.problem(ins);
        Cost { flops: 2 * (m.cap() * n.cap()) as u64 * k.cap() as u64, ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(3, 0)]
    }
    fn form(&self) -> Form {
        Form::Linear(self.clone())
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&LINEAR_KERNEL, &LINEAR_BF16_KERNEL]
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let (m, n, k, _) = self.problem(o.ins);
        let params = Params::new()
            .size(m)
            .size(n)
            .size(k)
            .u32(o.ins[0].dim(1).cap())
            .u32(o.ins[1].dim(1).cap())
            .u32(n.cap())
            .u32(self.a_t as usize)
            .u32(self.b_t as usize)
            .u32(self.activation as usize)
            .u32(!o.ins[2].is_absent() as usize)
            .u32(!o.ins[3].is_absent() as usize);
        let tiles = |d: Dim| (d.cap() as u32).div_ceil(TILE).clamp(1, 65_535);
        let kernel: &'static KernelDef = match ctx.precision {
            Precision::F32 | Precision::Int8 => &LINEAR_KERNEL,
            Precision::Bf16 => &LINEAR_BF16_KERNEL,
        };
        vec![Launch { kernel, params, groups: [tiles(n), tiles(m), 1], args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = Dim::Fixed;
        let ragged = |cap| Dim::Ragged(Axis(0), cap);
        let counts = Counts::default().with(Axis(0), 37);
        let mut samples = vec![];
        for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
            let sizes = [
                ("one", fixed(1), fixed(1), fixed(1), Class::Tiny),
                ("empty rows", fixed(0), fixed(3), fixed(2), Class::Tiny),
                ("empty contraction", fixed(2), fixed(3), fixed(0), Class::Tiny),
                ("prime", fixed(37), fixed(29), fixed(23), Class::Tiny),
                ("four tiles", fixed(67), fixed(70), fixed(9), Class::Tiny),
                ("ragged rows", ragged(41), fixed(19), fixed(12), Class::Tiny),
                ("ragged columns", fixed(5), ragged(41), fixed(12), Class::Tiny),
                ("ragged contraction", fixed(17), fixed(19), ragged(41), Class::Tiny),
                ("large", fixed(301), fixed(257), fixed(515), Class::Full),
            ];
            for (name, m, n, k, class) in sizes {
                let sample = Sample::new(format!("{a_t} {b_t} {name}"), Linear::new(a_t, b_t)).class(class);
                let a = if a_t { [k, m] } else { [m, k] };
                let b = if b_t { [n, k] } else { [k, n] };
                samples.push(sample.counts(counts).normal(&a, 1).normal(&b, 2).absent().absent());
            }
        }
        let all = [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::QuickGelu, Activation::Gelu];
        for activation in all {
            let op = Linear { activation, ..LINEAR.clone() };
            let sample = Sample::new(format!("epilogue {activation:?}"), op).counts(counts);
            let sample = sample.normal(&[ragged(41), fixed(13)], 1).normal(&[fixed(11), fixed(13)], 2);
            samples.push(sample.normal(&[fixed(11)], 3).normal(&[ragged(41), fixed(11)], 4));
        }
        let bench = Sample::new("1536x512x512", LINEAR.clone()).class(Class::Bench);
        let bench = bench.normal(&[fixed(1536), fixed(512)], 1).normal(&[fixed(512), fixed(512)], 2);
        samples.push(bench.normal(&[fixed(512)], 3).absent());
        samples
    }
}
