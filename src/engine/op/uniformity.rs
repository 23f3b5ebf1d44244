//! How far the soft-maxes over scores that should say nothing are from uniform, and its gradient.

use super::super::backend::cpu::divergence as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::contrast::vector;
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_rank,
    groups, no_gradient, noise, ptx, read, write,
};
use crate::error::{Error, Result};

/// `loss = ½ [mean_i KL(U ‖ softmax_j z_ij) + mean_j KL(U ‖ softmax_i z_ij)]` with `z = exp(log_scale)·scores` and U the
/// uniform distribution: `KL(U ‖ softmax z) = lse(z) − mean(z) − ln n`. 0 where every score equals every other.
///
/// Operands `scores [N, M]` (each axis may be ragged), `log_scale [1]`, a constant to this loss: it would otherwise be
/// driven to 0. Outputs `loss [1]` (0 without scores) and, for the gradient, `row_lse [N]`, `col_lse [M]` of z.
#[derive(Clone, Debug)]
pub struct Uniformity;

pub static UNIFORMITY: Uniformity = Uniformity;

static UNIFORMITY_ROWS_KERNEL: KernelDef = KernelDef {
    name: "uniformity_rows",
    operands: &[read("scores"), read("log_scale"), write("lse"), write("terms")],
    cpu: Some(cpu::uniformity_rows),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/uniformity_rows.wgsl"),
        include_str!("../../../wgsl/max256.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::DIVERGENCE),
};

static UNIFORMITY_COLUMNS_KERNEL: KernelDef = KernelDef {
    name: "uniformity_columns",
    operands: &[read("scores"), read("log_scale"), write("lse"), write("terms")],
    cpu: Some(cpu::uniformity_columns),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/uniformity_columns.wgsl"),
        include_str!("../../../wgsl/strips16.wgsl")
    )),
    cuda: Some(&ptx::DIVERGENCE),
};

/// Half the mean of the rows' terms plus half the mean of the columns'; shared with `consistency`.
pub(super) static DIVERGENCE_LOSS_KERNEL: KernelDef = KernelDef {
    name: "divergence_loss",
    operands: &[read("row_terms"), read("col_terms"), write("loss")],
    cpu: Some(cpu::divergence_loss),
    wgsl: Some(concat!(include_str!("../../../wgsl/divergence_loss.wgsl"), include_str!("../../../wgsl/sum256.wgsl"))),
    cuda: Some(&ptx::DIVERGENCE),
};

/// Sizes and stride of a matrix.
pub(super) fn params(scores: &Meta) -> Params {
    Params::new().size(scores.dim(0)).size(scores.dim(1)).u32(scores.dim(1).cap())
}

/// Checks a matrix of scores and its scale; returns (rows, columns).
pub(super) fn expect_scores(op: &str, ins: &[Meta], scale: usize) -> Result<[Dim; 2]> {
    for (i, m) in ins.iter().enumerate() {
        expect_dtype(op, ins, i, DType::F32)?;
        if m.rank() == 2 && i < scale && *m != ins[0] {
            return Err(Error::shape(op, format!("operand {i} must be of one shape with operand 0 and is {m}")));
        }
    }
    if ins[scale].dim(0) != Dim::Fixed(1) {
        return Err(Error::shape(op, format!("log_scale must be [1] and is {}", ins[scale])));
    }
    Ok([ins[0].dim(0), ins[0].dim(1)])
}

/// Rows, then columns of a matrix as lines of indices.
pub(super) fn lines(rows: usize, cols: usize) -> [Vec<Vec<usize>>; 2] {
    let line = |n: usize, at: &dyn Fn(usize) -> usize| (0..n).map(at).collect();
    [
        (0..rows).map(|i| line(cols, &|j| i * cols + j)).collect(),
        (0..cols).map(|j| line(rows, &|i| i * cols + j)).collect(),
    ]
}

/// `ln Σ exp z` over the elements of a line; 0 for an empty one.
pub(super) fn lse(z: &[f64], line: &[usize]) -> f64 {
    let max = line.iter().fold(f64::NEG_INFINITY, |max, at| z[*at].max(max));
    if line.is_empty() { 0.0 } else { max + line.iter().map(|at| (z[*at] - max).exp()).sum::<f64>().ln() }
}

pub(super) fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len().max(1) as f64;
    x.sum::<f64>() / n
}

impl Op for Uniformity {
    fn name(&self) -> &'static str {
        "uniformity"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        let [rows, cols] = expect_scores(self.name(), ins, 1)?;
        Ok(vec![Meta::f32(&[Dim::Fixed(1)])?, Meta::f32(&[rows])?, Meta::f32(&[cols])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let z: Vec<f64> = ins[0].x().iter().map(|s| ins[1].x()[0].exp() * s).collect();
        let directions = lines(ins[0].dim(0), ins[0].dim(1));
        let divergence = |line: &Vec<usize>| {
            if line.is_empty() {
                return 0.0;
            }
            lse(&z, line) - mean(line.iter().map(|at| z[*at])) - (line.len() as f64).ln()
        };
        let loss = directions.iter().map(|lines| 0.5 * mean(lines.iter().map(divergence))).sum();
        let all = directions.map(|lines| lines.iter().map(|line| lse(&z, line)).collect::<Vec<f64>>());
        let [rows, cols] = all.map(|x| HostTensor::f64(&[x.len()], x));
        vec![HostTensor::scalar(loss), rows, cols]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() || dout[2].is_some() {
            return no_gradient(self.name(), "the log-sum-exps are kept for the gradient and have none of their own");
        }
        let Some(dloss) = dout[0] else { return Ok(vec![None; 2]) };
        let ins = [n.ins[0], n.ins[1], n.outs[1], n.outs[2], dloss];
        Ok(vec![Some(g.apply(UniformityGrad, &ins)?), None])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 10 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNIFORMITY_ROWS_KERNEL, &UNIFORMITY_COLUMNS_KERNEL, &DIVERGENCE_LOSS_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        4 * (longest(&ins[0]) as u64 * 4).next_multiple_of(256)
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let n = longest(&o.ins[0]);
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let direction = |kernel, out: usize, groups| {
            let lse = if o.outs[out].is_absent() { vector(out as u64 - 1, n) } else { o.output(out) };
            let args = vec![o.input(0), o.input(1), lse, vector(out as u64 + 1, n)];
            Launch { kernel, params: params(&o.ins[0]), groups, args }
        };
        vec![
            direction(&UNIFORMITY_ROWS_KERNEL, 1, groups(rows.cap() as u64, 1)),
            direction(&UNIFORMITY_COLUMNS_KERNEL, 2, groups(cols.cap() as u64, 16)),
            Launch {
                kernel: &DIVERGENCE_LOSS_KERNEL,
                params: params(&o.ins[0]),
                groups: [1, 1, 1],
                args: vec![vector(2, n), vector(3, n), o.output(0)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                // Its gradient takes the scale for a constant: the test in this file checks that of the scores.
                case.sample(Uniformity).gradient(Gradient::Surrogate)
            })
            .collect()
    }
}

/// The longer side of a matrix at capacity.
pub(super) fn longest(scores: &Meta) -> usize {
    scores.dim(0).cap().max(scores.dim(1).cap())
}

/// The gradient of [`Uniformity`]. Operands are its two, then `row_lse [N]`, `col_lse [M]`, `dloss [1]`. Output
/// `dscores [N, M] = exp(log_scale)·dloss/2·[(p_ij − 1/M)/N + (p'_ij − 1/N)/M]`, p and p' the soft-maxes over row and
/// column.
#[derive(Clone, Debug)]
pub struct UniformityGrad;

pub static UNIFORMITY_GRAD: UniformityGrad = UniformityGrad;

static UNIFORMITY_GRAD_KERNEL: KernelDef = KernelDef {
    name: "uniformity_grad",
    operands: &[read("scores"), read("log_scale"), read("row_lse"), read("col_lse"), read("dloss"), write("dscores")],
    cpu: Some(cpu::uniformity_grad),
    wgsl: Some(include_str!("../../../wgsl/uniformity_grad.wgsl")),
    cuda: Some(&ptx::DIVERGENCE),
};

impl Op for UniformityGrad {
    fn name(&self) -> &'static str {
        "uniformity_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 1, 1, 1])?;
        let [rows, cols] = expect_scores(self.name(), ins, 1)?;
        if ins[2].dim(0) != rows || ins[3].dim(0) != cols || ins[4].dim(0) != Dim::Fixed(1) {
            let got = format!("{}, {} and {}", ins[2], ins[3], ins[4]);
            let rule = format!("takes row_lse [{rows}], col_lse [{cols}], dloss [1]: {got}");
            return Err(Error::shape(self.name(), rule));
        }
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let (scale, dloss) = (ins[1].x()[0].exp(), ins[4].x()[0]);
        let mut dscores = HostTensor::zeros(&[rows, cols]);
        for i in 0..rows {
            for j in 0..cols {
                let z = scale * ins[0].x()[i * cols + j];
                let row = ((z - ins[2].x()[i]).exp() - 1.0 / cols as f64) / rows as f64;
                let col = ((z - ins[3].x()[j]).exp() - 1.0 / rows as f64) / cols as f64;
                dscores.x_mut()[i * cols + j] = scale * dloss * 0.5 * (row + col);
            }
        }
        vec![dscores]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 12 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNIFORMITY_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let groups = groups(o.ins[0].dim(0).cap() as u64, 1);
        vec![Launch { kernel: &UNIFORMITY_GRAD_KERNEL, params: params(&o.ins[0]), groups, args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(UniformityGrad).gradient(Gradient::None("is itself a gradient"));
                let forward = UNIFORMITY.reference(&sample.ins, &sample.counts);
                let [rows, cols] = case.dims;
                // A difference of shares, each the N-th or M-th part of a probability, times the scale.
                let pairs = rows.len(&sample.counts).min(cols.len(&sample.counts)).max(1) as f64;
                sample
                    .floor(0, 0.375 * case.log_scale.exp() / (pairs * pairs))
                    .with(DType::F32, &[rows], |_| forward[1].clone())
                    .with(DType::F32, &[cols], |_| forward[2].clone())
                    .with(DType::F32, &[Dim::Fixed(1)], |_| HostTensor::scalar(0.75))
            })
            .collect()
    }
}

/// The sizes of a sample and its scale; shared with `consistency`.
pub(super) struct Case {
    pub name: &'static str,
    pub dims: [Dim; 2],
    pub log_scale: f64,
    pub class: Class,
}

impl Case {
    /// An op, and the counts of the ragged axes.
    pub fn begin(&self, op: impl Op + 'static) -> Sample {
        let counts = Counts::default().with(Axis(0), 13).with(Axis(1), 11);
        Sample::new(self.name, op).class(self.class).counts(counts)
    }
    fn sample(&self, op: impl Op + 'static) -> Sample {
        let sample = self.begin(op).with(DType::F32, &self.dims, |sizes| scores(sizes, 3));
        sample.with(DType::F32, &[Dim::Fixed(1)], |_| HostTensor::scalar(self.log_scale))
    }
}

/// Cosines as a trained model has them.
pub(super) fn scores(sizes: &[usize], seed: u64) -> HostTensor {
    let mut s = noise(sizes, seed);
    s.x_mut().iter_mut().for_each(|x| *x = f64::from((*x * 0.2) as f32));
    s
}

pub(super) fn cases() -> [Case; 11] {
    let fixed = |n, m| [Dim::Fixed(n), Dim::Fixed(m)];
    let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
    let case = |name, dims, log_scale, class| Case { name, dims, log_scale, class };
    let hundred = f64::from(100f32.ln());
    [
        case("nothing", fixed(0, 0), 1.0, Class::Tiny),
        case("rows of nothing", fixed(3, 0), 1.0, Class::Tiny),
        case("columns of nothing", [ragged(2, 4), Dim::Fixed(3)], 1.0, Class::Tiny),
        case("one", fixed(1, 1), 2.5, Class::Tiny),
        case("scale 1", fixed(31, 31), 0.0, Class::Tiny),
        case("scale 100", fixed(31, 29), hundred, Class::Tiny),
        case("wide", fixed(3, 307), 2.5, Class::Tiny),
        case("tall", fixed(307, 3), 2.5, Class::Tiny),
        case("two ragged axes", [ragged(0, 19), ragged(1, 17)], 2.5, Class::Tiny),
        case("large", fixed(517, 389), hundred, Class::Full),
        case("2048 pairs", fixed(2048, 2048), 2.5, Class::Bench),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::autodiff::backprop;
    use crate::engine::reference::evaluate;
    use crate::random::Random;
    use std::collections::HashMap;

    #[test]
    fn the_gradient_of_the_scores_agrees_with_finite_differences_and_the_scale_has_none() {
        let seed = crate::seed::seed();
        for log_scale in [0.0, 2.5, f64::from(100f32.ln())] {
            let mut g = Graph::new();
            let dims = [Dim::Fixed(7), Dim::Fixed(5)];
            let s = g.input("scores", Meta::f32(&dims).unwrap());
            let scale = g.input("scale", Meta::f32(&[Dim::Fixed(1)]).unwrap());
            let dloss = g.input("dloss", Meta::f32(&[Dim::Fixed(1)]).unwrap());
            let outs = g.apply_all(Uniformity, &[s, scale]).unwrap();
            let grads = backprop(&mut g, &[(outs[0], dloss)], &[s, scale]).unwrap();
            assert!(grads[1].is_none(), "the scale is a constant");
            let ins = [scores(&[7, 5], seed), HostTensor::scalar(log_scale)];
            let given = HashMap::from([
                ("scores".to_string(), ins[0].clone()),
                ("scale".to_string(), ins[1].clone()),
                ("dloss".to_string(), HostTensor::scalar(1.5)),
            ]);
            let rule = evaluate(&g, &given, &Counts::default())[&grads[0].unwrap()].clone();
            let largest = rule.x().iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for at in 0..35 {
                let loss = |step: f64| {
                    let mut moved = ins.clone();
                    moved[0].x_mut()[at] += step;
                    UNIFORMITY.reference(&moved, &Counts::default())[0].x()[0]
                };
                let slope = 1.5 * (loss(1e-6) - loss(-1e-6)) / 2e-6;
                assert!((slope - rule.x()[at]).abs() < 1e-5 * largest, "{at}: {slope} and {}", rule.x()[at]);
            }
        }
    }

    #[test]
    fn equal_scores_cost_nothing_and_one_that_stands_out_does() {
        let random = Random::new(crate::seed::seed(), 2);
        let level = f64::from(random.normal(0));
        let mut ins = [HostTensor::f64(&[4, 6], vec![level; 24]), HostTensor::scalar(2.0)];
        assert!(UNIFORMITY.reference(&ins, &Counts::default())[0].x()[0].abs() < 1e-12);
        ins[0].x_mut()[9] += 1.0;
        assert!(UNIFORMITY.reference(&ins, &Counts::default())[0].x()[0] > 0.1);
    }
}
