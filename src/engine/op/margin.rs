//! A ranking loss between the pairs of two score matrices, and its gradient.

use super::super::backend::cpu::margin as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_rank,
    groups, no_gradient, ptx, read, write,
};
use crate::error::{Error, Result};

/// `loss = Σ_i w_i·relu(margin + low_ii − high_ii) / Σ_i w_i`: every pair of `high` should score higher than that of
/// `low` by the margin.
///
/// Operands `low [N, N]`, `high [N, N]` (the two axes may be different ragged axes with equal counts), `weight [N]`,
/// not negative, optional: absent, every pair weighs 1. Outputs `loss [1]` (0 where nothing weighs anything) and, for
/// the gradient, `total [1]`, the sum of the weights.
#[derive(Clone, Debug)]
pub struct Margin {
    pub margin: f32,
}

pub static MARGIN: Margin = Margin { margin: 0.1 };

static MARGIN_KERNEL: KernelDef = KernelDef {
    name: "margin",
    operands: &[read("low"), read("high"), read("weight"), write("loss"), write("total")],
    cpu: Some(cpu::margin),
    wgsl: Some(concat!(include_str!("../../../wgsl/margin.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::MARGIN),
};

/// Checks what the loss and its gradient have in common.
fn expect_problem(op: &str, ins: &[Meta]) -> Result<()> {
    expect_dtype(op, ins, 0, DType::F32)?;
    let (rows, cols) = (ins[0].dim(0), ins[0].dim(1));
    if rows.cap() != cols.cap() || ins[1] != ins[0] {
        let got = format!("{} and {}", ins[0], ins[1]);
        return Err(Error::shape(op, format!("low and high must be square and of one shape and are {got}")));
    }
    if !ins[2].is_absent() && (ins[2].dtype() != DType::F32 || ![rows, cols].contains(&ins[2].dim(0))) {
        return Err(Error::shape(op, format!("weight must be [{rows}] and is {}", ins[2])));
    }
    Ok(())
}

fn params(ins: &[Meta], margin: f32) -> Params {
    let weighted = !ins[2].is_absent() as usize;
    let params = Params::new().size(ins[0].dim(0)).size(ins[0].dim(1)).u32(ins[0].dim(1).cap());
    params.u32(weighted).f32(margin)
}

/// How far pair `i` is from keeping the margin, before the relu.
fn lacking(ins: &[HostTensor], margin: f32, i: usize) -> f64 {
    let at = i * ins[0].dim(1) + i;
    f64::from(margin) + ins[0].x()[at] - ins[1].x()[at]
}

fn weight(ins: &[HostTensor], i: usize) -> f64 {
    ins[2].x().get(i).copied().unwrap_or(1.0)
}

impl Op for Margin {
    fn name(&self) -> &'static str {
        "margin"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1])?;
        expect_problem(self.name(), ins)?;
        if !self.margin.is_finite() {
            return Err(Error::shape(self.name(), format!("the margin must be a number and is {}", self.margin)));
        }
        Ok(vec![Meta::f32(&[Dim::Fixed(1)])?, Meta::f32(&[Dim::Fixed(1)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let n = ins[0].dim(0);
        let total: f64 = (0..n).map(|i| weight(ins, i)).sum();
        let sum: f64 = (0..n).map(|i| weight(ins, i) * lacking(ins, self.margin, i).max(0.0)).sum();
        vec![HostTensor::scalar(if total == 0.0 { 0.0 } else { sum / total }), HostTensor::scalar(total)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() {
            return no_gradient(self.name(), "the total is kept for the gradient and has none of its own");
        }
        let Some(dloss) = dout[0] else { return Ok(vec![None; 3]) };
        let ins = [n.ins[0], n.ins[1], n.ins[2], n.outs[0], n.outs[1], dloss];
        let dins = g.apply_all(MarginGrad { margin: self.margin }, &ins)?;
        let dweight = (!n.ins[2].is_absent()).then_some(dins[2]);
        Ok(vec![Some(dins[0]), Some(dins[1]), dweight])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let n = ins[0].dim(0).cap() as u64;
        // Only the diagonals are read.
        Cost { flops: 6 * n, bytes_in: 12 * n, ..Cost::traffic(&[], outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&MARGIN_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = params(o.ins, self.margin).u32(!o.outs[1].is_absent() as usize);
        vec![Launch { kernel: &MARGIN_KERNEL, params, groups: [1, 1, 1], args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(Margin { margin: case.margin });
                // There the weights stand at a jump: any of them above 0 makes a loss.
                let jumps = case.weights == Weights::Nothing;
                if jumps { sample.gradient(Gradient::None("jumps where weights leave 0")) } else { sample }
            })
            .collect()
    }
}

/// The gradient of [`Margin`]. Operands are its three, then `loss [1]`, `total [1]`, `dloss [1]`. Outputs
/// `dlow [N, N]`, `dhigh [N, N]`, 0 off the diagonal, and `dweight [N]` (optional).
#[derive(Clone, Debug)]
pub struct MarginGrad {
    pub margin: f32,
}

pub static MARGIN_GRAD: MarginGrad = MarginGrad { margin: 0.1 };

static MARGIN_GRAD_KERNEL: KernelDef = KernelDef {
    name: "margin_grad",
    operands: &[
        read("low"),
        read("high"),
        read("weight"),
        read("loss"),
        read("total"),
        read("dloss"),
        write("dlow"),
        write("dhigh"),
        write("dweight"),
    ],
    cpu: Some(cpu::margin_grad),
    wgsl: Some(include_str!("../../../wgsl/margin_grad.wgsl")),
    cuda: Some(&ptx::MARGIN),
};

impl Op for MarginGrad {
    fn name(&self) -> &'static str {
        "margin_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1, 1, 1, 1])?;
        expect_problem(self.name(), ins)?;
        for (i, m) in ins.iter().enumerate().skip(3) {
            if m.is_absent() || m.dim(0) != Dim::Fixed(1) {
                return Err(Error::shape(self.name(), format!("operand {i} must be [1] and is {m}")));
            }
        }
        let weight = if ins[2].is_absent() { Meta::f32(&[ins[0].dim(0)])? } else { ins[2].clone() };
        Ok(vec![ins[0].clone(), ins[0].clone(), weight])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let n = ins[0].dim(0);
        let [loss, total, dloss] = [3, 4, 5].map(|i| ins[i].x()[0]);
        let share = if total == 0.0 { 0.0 } else { dloss / total };
        let mut dlow = HostTensor::zeros(&[n, n]);
        let mut dhigh = HostTensor::zeros(&[n, n]);
        let mut dweight = HostTensor::zeros(&[n]);
        for i in 0..n {
            let lacking = lacking(ins, self.margin, i);
            let slope = if lacking > 0.0 { share * weight(ins, i) } else { 0.0 };
            dlow.x_mut()[i * n + i] = slope;
            dhigh.x_mut()[i * n + i] = -slope;
            dweight.x_mut()[i] = share * (lacking.max(0.0) - loss);
        }
        vec![dlow, dhigh, dweight]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let n = ins[0].dim(0).cap() as u64;
        Cost { flops: 6 * n, bytes_in: 12 * n, ..Cost::traffic(&[], outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&MARGIN_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = params(o.ins, self.margin).u32(!o.outs[2].is_absent() as usize);
        let args: Vec<Arg> = o.all();
        let groups = groups(o.ins[0].dim(0).cap() as u64, 1);
        vec![Launch { kernel: &MARGIN_GRAD_KERNEL, params, groups, args }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(MarginGrad { margin: case.margin });
                let forward = Margin { margin: case.margin }.reference(&sample.ins, &sample.counts);
                let one = [Dim::Fixed(1)];
                // What a weight is worth is a difference from the loss.
                let loss = forward[0].x()[0];
                sample
                    .gradient(Gradient::None("is itself a gradient"))
                    .floor(2, 0.75 * loss / forward[1].x()[0].max(1.0) + 1e-6)
                    .with(DType::F32, &one, |_| forward[0].clone())
                    .with(DType::F32, &one, |_| forward[1].clone())
                    .with(DType::F32, &one, |_| HostTensor::scalar(0.75))
            })
            .collect()
    }
}

/// How the pairs of a sample weigh.
#[derive(Copy, Clone, PartialEq)]
enum Weights {
    Absent,
    Some,
    Nothing,
}

struct Case {
    name: &'static str,
    dims: [Dim; 2],
    weights: Weights,
    margin: f32,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        let counts = Counts::default().with(Axis(0), 13).with(Axis(1), 13);
        let sample = Sample::new(self.name, op).class(self.class).counts(counts);
        let sample = sample.normal(&self.dims, 3).normal(&self.dims, 4);
        if self.weights == Weights::Absent {
            return sample.absent();
        }
        sample.with(DType::F32, &[self.dims[0]], |sizes| {
            let random = crate::random::Random::new(5, 1);
            // Every fifth pair does not count.
            let weight = |i: usize| if i % 5 == 4 { 0.0 } else { f64::from(random.uniform(i as u64)) };
            let none = self.weights == Weights::Nothing;
            HostTensor::f64(sizes, (0..sizes[0]).map(|i| if none { 0.0 } else { weight(i) }).collect())
        })
    }
}

fn cases() -> [Case; 9] {
    let fixed = |n| [Dim::Fixed(n); 2];
    let ragged = |a, b| [Dim::Ragged(Axis(a), 19), Dim::Ragged(Axis(b), 19)];
    let case = |name, dims, weights, margin, class| Case { name, dims, weights, margin, class };
    [
        case("nothing", fixed(0), Weights::Some, 0.2, Class::Tiny),
        case("ragged to nothing", [Dim::Ragged(Axis(2), 4); 2], Weights::Absent, 0.2, Class::Tiny),
        case("one", fixed(1), Weights::Absent, 3.0, Class::Tiny),
        case("plain", fixed(31), Weights::Absent, 0.2, Class::Tiny),
        case("weighted", fixed(31), Weights::Some, 0.0, Class::Tiny),
        case("nothing weighs anything", fixed(7), Weights::Nothing, 0.2, Class::Tiny),
        case("two ragged axes", ragged(0, 1), Weights::Some, 0.2, Class::Tiny),
        case("large", fixed(601), Weights::Some, 0.2, Class::Full),
        case("2048 pairs", fixed(2048), Weights::Some, 0.2, Class::Bench),
    ]
}
