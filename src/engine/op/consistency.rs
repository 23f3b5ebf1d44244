//! How far two matrices of scores disagree about who belongs to whom, and its gradient.

use super::super::backend::cpu::divergence as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use super::contrast::CONTRAST_SCALE_KERNEL;
use super::uniformity::{Case, DIVERGENCE_LOSS_KERNEL, cases, expect_scores, lines, longest, lse, params, scores};
use super::{
    Arg, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_rank, groups, no_gradient,
    noise, ptx, read, write,
};
use crate::error::{Error, Result};

/// `loss = ½ [mean_i JS(p_i, q_i) + mean_j JS(p'_j, q'_j)]`: the Jensen–Shannon divergence (Lin 1991) of the soft-maxes
/// over rows, and over columns, of `exp(log_scale)·target` (p) and `exp(log_scale)·perturbed` (q), in nats.
///
/// With x = ½ ln(p/q) and m = ½(p + q), `JS = Σ m·(x·tanh x − ln cosh x)`: no term is negative, so that even for
/// nearly equal distributions no digits cancel.
///
/// Operands `target [N, M]`, `perturbed [N, M]` (each axis may be ragged), `log_scale [1]`. The target is given: it has
/// no gradient, and that of the scale comes from the perturbed side alone. Outputs `loss [1]` (0 without scores) and,
/// for the gradient, `row_stats [N, 3]`, `col_stats [M, 3]`: for each line the log-sum-exp of the perturbed logits, how
/// far it lies above the target's, and KL(q ‖ m).
#[derive(Clone, Debug)]
pub struct Consistency;

pub static CONSISTENCY: Consistency = Consistency;

/// Numbers that are kept for each line.
const STATS: usize = 3;

static CONSISTENCY_ROWS_KERNEL: KernelDef = KernelDef {
    name: "consistency_rows",
    operands: &[read("goal"), read("perturbed"), read("log_scale"), write("stats"), write("terms")],
    cpu: Some(cpu::consistency_rows),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/consistency_rows.wgsl"),
        include_str!("../../../wgsl/divergence.wgsl"),
        include_str!("../../../wgsl/max256.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::DIVERGENCE),
};

static CONSISTENCY_COLUMNS_KERNEL: KernelDef = KernelDef {
    name: "consistency_columns",
    operands: &[read("goal"), read("perturbed"), read("log_scale"), write("stats"), write("terms")],
    cpu: Some(cpu::consistency_columns),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/consistency_columns.wgsl"),
        include_str!("../../../wgsl/divergence.wgsl"),
        include_str!("../../../wgsl/strips16.wgsl")
    )),
    cuda: Some(&ptx::DIVERGENCE),
};

impl Op for Consistency {
    fn name(&self) -> &'static str {
        "consistency"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1])?;
        let [rows, cols] = expect_scores(self.name(), ins, 2)?;
        let stats = |lines| Meta::f32(&[lines, Dim::Fixed(STATS)]);
        Ok(vec![Meta::f32(&[Dim::Fixed(1)])?, stats(rows)?, stats(cols)?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let scale = ins[2].x()[0];
        divergence(&ins[0], scale, &ins[1], scale)
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        if dout[1].is_some() || dout[2].is_some() {
            return no_gradient(self.name(), "the statistics are kept for the gradient and have none of their own");
        }
        let Some(dloss) = dout[0] else { return Ok(vec![None; 3]) };
        let ins = [n.ins[0], n.ins[1], n.ins[2], n.outs[1], n.outs[2], dloss];
        let dins = g.apply_all(ConsistencyGrad, &ins)?;
        Ok(vec![None, Some(dins[0]), Some(dins[1])])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 120 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONSISTENCY_ROWS_KERNEL, &CONSISTENCY_COLUMNS_KERNEL, &DIVERGENCE_LOSS_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        [0, 1, 2, 3].iter().map(|place| work(&ins[0], *place).1).sum()
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let scratch = |place| work(&o.ins[0], place).0;
        let direction = |kernel, out: usize, groups| {
            let stats = if o.outs[out].is_absent() { scratch(out + 1) } else { o.output(out) };
            let args = vec![o.input(0), o.input(1), o.input(2), stats, scratch(out - 1)];
            Launch { kernel, params: params(&o.ins[0]), groups, args }
        };
        vec![
            direction(&CONSISTENCY_ROWS_KERNEL, 1, groups(rows.cap() as u64, 1)),
            direction(&CONSISTENCY_COLUMNS_KERNEL, 2, groups(cols.cap() as u64, 16)),
            Launch {
                kernel: &DIVERGENCE_LOSS_KERNEL,
                params: params(&o.ins[0]),
                groups: [1, 1, 1],
                args: vec![scratch(0), scratch(1), o.output(0)],
            },
        ]
    }
    fn samples(&self) -> Vec<Sample> {
        // The gradient takes the target for a constant: the test in this file checks what it is to be.
        problems().map(|(case, noise)| problem(&case, noise, Consistency).gradient(Gradient::Surrogate)).collect()
    }
}

/// Place 0 to 3 of the workspace: terms of the rows and of the columns, statistics of the rows and of the columns;
/// and the bytes it takes.
fn work(scores: &Meta, place: usize) -> (Arg, u64) {
    let vector = longest(scores) as u64 * 4;
    let stride = vector.next_multiple_of(256);
    let (at, bytes) = match place {
        0 | 1 => (place as u64 * stride, vector),
        _ => (2 * stride + (place as u64 - 2) * STATS as u64 * stride, STATS as u64 * vector),
    };
    let taken = if place < 2 { stride } else { STATS as u64 * stride };
    (if bytes == 0 { Arg::Absent } else { Arg::Work { offset: at, bytes } }, taken)
}

/// The loss and the statistics in f64, where each side may have a scale of its own.
fn divergence(target: &HostTensor, target_scale: f64, perturbed: &HostTensor, scale: f64) -> Vec<HostTensor> {
    let t: Vec<f64> = target.x().iter().map(|s| target_scale.exp() * s).collect();
    let z: Vec<f64> = perturbed.x().iter().map(|s| scale.exp() * s).collect();
    let directions = lines(target.dim(0), target.dim(1));
    let mut loss = 0.0;
    let mut stats = vec![];
    for lines in &directions {
        let mut all = vec![];
        let mut total = 0.0;
        for line in lines {
            let (of_target, own) = (lse(&t, line), lse(&z, line));
            let (mut js, mut kl) = (0.0, 0.0);
            for at in line {
                let (p, q) = ((t[*at] - of_target).exp(), (z[*at] - own).exp());
                let m = 0.5 * (p + q);
                // x ln x is 0 at 0.
                let share = |x: f64| if x > 0.0 { x * (x / m).ln() } else { 0.0 };
                js += 0.5 * (share(p) + share(q));
                kl += share(q);
            }
            total += js;
            all.extend([own, own - of_target, kl]);
        }
        loss += 0.5 * total / lines.len().max(1) as f64;
        stats.push(HostTensor::f64(&[lines.len(), STATS], all));
    }
    [HostTensor::scalar(loss)].into_iter().chain(stats).collect()
}

/// The gradient of [`Consistency`]. Operands are its three, then `row_stats [N, 3]`, `col_stats [M, 3]`, `dloss [1]`.
/// Outputs `dperturbed [N, M]`, `dlog_scale [1]` (optional). A line's part of the gradient of the logits is
/// `½ q·(ln(q/m) − KL(q ‖ m))`.
#[derive(Clone, Debug)]
pub struct ConsistencyGrad;

pub static CONSISTENCY_GRAD: ConsistencyGrad = ConsistencyGrad;

static CONSISTENCY_GRAD_KERNEL: KernelDef = KernelDef {
    name: "consistency_grad",
    operands: &[
        read("goal"),
        read("perturbed"),
        read("log_scale"),
        read("row_stats"),
        read("col_stats"),
        read("dloss"),
        write("dperturbed"),
        write("terms"),
    ],
    cpu: Some(cpu::consistency_grad),
    wgsl: Some(concat!(
        include_str!("../../../wgsl/consistency_grad.wgsl"),
        include_str!("../../../wgsl/divergence.wgsl"),
        include_str!("../../../wgsl/sum256.wgsl")
    )),
    cuda: Some(&ptx::DIVERGENCE),
};

impl Op for ConsistencyGrad {
    fn name(&self) -> &'static str {
        "consistency_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2, 1, 2, 2, 1])?;
        let [rows, cols] = expect_scores(self.name(), ins, 2)?;
        let stats = |lines| Meta::f32(&[lines, Dim::Fixed(STATS)]);
        if ins[3] != stats(rows)? || ins[4] != stats(cols)? || ins[5].dim(0) != Dim::Fixed(1) {
            let got = format!("{}, {} and {}", ins[3], ins[4], ins[5]);
            let rule = format!("takes row_stats [{rows}, 3], col_stats [{cols}, 3], dloss [1]: {got}");
            return Err(Error::shape(self.name(), rule));
        }
        Ok(vec![ins[1].clone(), ins[2].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let (scale, dloss) = (ins[2].x()[0].exp(), ins[5].x()[0]);
        let mut dperturbed = HostTensor::zeros(&[rows, cols]);
        let mut dlog_scale = 0.0;
        for i in 0..rows {
            for j in 0..cols {
                let at = i * cols + j;
                let (t, z) = (scale * ins[0].x()[at], scale * ins[1].x()[at]);
                let side = |stats: &[f64]| {
                    let [own, above, kl] = [stats[0], stats[1], stats[2]];
                    let (p, q) = ((t - (own - above)).exp(), (z - own).exp());
                    if q > 0.0 { 0.5 * q * ((q / (0.5 * (p + q))).ln() - kl) } else { 0.0 }
                };
                let row = side(&ins[3].x()[STATS * i..]) / rows as f64;
                let col = side(&ins[4].x()[STATS * j..]) / cols as f64;
                let dz = 0.5 * dloss * (row + col);
                dperturbed.x_mut()[at] = scale * dz;
                dlog_scale += dz * z;
            }
        }
        vec![dperturbed, HostTensor::scalar(dlog_scale)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 100 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&CONSISTENCY_GRAD_KERNEL, &CONTRAST_SCALE_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        work(&ins[0], 0).1
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let rows = o.ins[0].dim(0);
        let terms = work(&o.ins[0], 0).0;
        let ins = (0..6).map(|i| o.input(i));
        let mut launches = vec![Launch {
            kernel: &CONSISTENCY_GRAD_KERNEL,
            params: params(&o.ins[0]),
            groups: groups(rows.cap() as u64, 1),
            args: ins.chain([o.output(0), terms]).collect(),
        }];
        if !o.outs[1].is_absent() {
            launches.push(Launch {
                kernel: &CONTRAST_SCALE_KERNEL,
                params: Params::new().size(rows).size(rows),
                groups: [1, 1, 1],
                args: vec![terms, o.output(1)],
            });
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        problems()
            .map(|(case, amount)| {
                let sample = problem(&case, amount, ConsistencyGrad);
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                let forward = CONSISTENCY.reference(&sample.ins, &sample.counts);
                let [rows, cols] = case.dims;
                // The sum over a line is 0; the scale's gradient adds what is left after the logits weigh it.
                let dloss = HostTensor::scalar(0.75);
                let sample = sample
                    .with(DType::F32, &[rows, Dim::Fixed(STATS)], |_| forward[1].clone())
                    .with(DType::F32, &[cols, Dim::Fixed(STATS)], |_| forward[2].clone())
                    .with(DType::F32, &[Dim::Fixed(1)], |_| dloss);
                let grad = CONSISTENCY_GRAD.reference(&sample.ins, &sample.counts);
                let terms = grad[0].x().iter().zip(sample.ins[1].x()).map(|(d, s)| (d * s).abs()).sum::<f64>();
                // Alone in its line, a score has no gradient: what is left is rounding of its logit.
                let alone = rows.len(&sample.counts) == 1 && cols.len(&sample.counts) == 1;
                let scale = case.log_scale.exp();
                let sample = if alone { sample.floor(0, scale).floor(1, scale) } else { sample };
                sample.floor(1, terms.max(1e-6))
            })
            .collect()
    }
}

/// The sizes of `uniformity`, with disturbances of the scores from hardly any to another matrix altogether.
fn problems() -> impl Iterator<Item = (Case, f64)> {
    cases().into_iter().zip([0.1, 0.1, 0.1, 0.1, 1e-3, 1e-3, 0.1, 0.03, 0.1, 0.3, 0.01])
}

fn problem(case: &Case, amount: f64, op: impl Op + 'static) -> Sample {
    let goal = |sizes: &[usize]| scores(sizes, 3);
    let perturbed = |sizes: &[usize]| {
        let mut s = goal(sizes);
        let other = noise(sizes, 4);
        // A shift that all share changes nothing, and must not cost digits either.
        s.x_mut().iter_mut().zip(other.x()).for_each(|(s, o)| *s = f64::from((*s + amount * (o + 0.5)) as f32));
        s
    };
    let sample = case.begin(op).with(DType::F32, &case.dims, goal).with(DType::F32, &case.dims, perturbed);
    // WGSL allows exp an error of 3 + 2|x| units in the last place, and |x| reaches 100 with a scale of 100.
    let sample = if case.log_scale > 4.0 { sample.tolerance(1e-4) } else { sample };
    sample.with(DType::F32, &[Dim::Fixed(1)], |_| HostTensor::scalar(case.log_scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::autodiff::backprop;
    use crate::engine::reference::evaluate;
    use std::collections::HashMap;

    #[test]
    fn the_gradient_agrees_with_finite_differences_of_the_perturbed_side() {
        let seed = crate::seed::seed();
        for (log_scale, amount) in [(0.0, 0.1), (2.5, 0.02), (f64::from(100f32.ln()), 0.05)] {
            let mut g = Graph::new();
            let matrix = Meta::f32(&[Dim::Fixed(6), Dim::Fixed(5)]).unwrap();
            let one = Meta::f32(&[Dim::Fixed(1)]).unwrap();
            let target = g.input("target", matrix.clone());
            let perturbed = g.input("perturbed", matrix);
            let scale = g.input("scale", one.clone());
            let dloss = g.input("dloss", one);
            let outs = g.apply_all(Consistency, &[target, perturbed, scale]).unwrap();
            let grads = backprop(&mut g, &[(outs[0], dloss)], &[target, perturbed, scale]).unwrap();
            assert!(grads[0].is_none(), "the target is given");
            let goal = scores(&[6, 5], seed);
            let mut moved = goal.clone();
            let other = noise(&[6, 5], seed + 1);
            moved.x_mut().iter_mut().zip(other.x()).for_each(|(s, o)| *s += amount * o);
            let given = HashMap::from([
                ("target".to_string(), goal.clone()),
                ("perturbed".to_string(), moved.clone()),
                ("scale".to_string(), HostTensor::scalar(log_scale)),
                ("dloss".to_string(), HostTensor::scalar(1.5)),
            ]);
            let values = evaluate(&g, &given, &Counts::default());
            let loss = |s: &HostTensor, scale: f64| 1.5 * divergence(&goal, log_scale, s, scale)[0].x()[0];
            let rule = &values[&grads[1].unwrap()];
            let largest = rule.x().iter().fold(0.0f64, |m, x| m.max(x.abs()));
            for at in 0..30 {
                let at_step = |step: f64| {
                    let mut s = moved.clone();
                    s.x_mut()[at] += step;
                    loss(&s, log_scale)
                };
                let slope = (at_step(1e-6) - at_step(-1e-6)) / 2e-6;
                assert!((slope - rule.x()[at]).abs() < 1e-5 * largest, "{at}: {slope} and {}", rule.x()[at]);
            }
            let slope = (loss(&moved, log_scale + 1e-6) - loss(&moved, log_scale - 1e-6)) / 2e-6;
            let rule = values[&grads[2].unwrap()].x()[0];
            assert!((slope - rule).abs() < 1e-5 * slope.abs().max(0.1 * largest), "scale: {slope} and {rule}");
        }
    }

    #[test]
    fn samples_reach_from_nearly_equal_distributions_to_very_different_ones() {
        let losses: Vec<f64> = (CONSISTENCY.samples().iter())
            .filter(|s| s.class < super::super::Class::Bench)
            .map(|s| s.op.reference(&s.ins, &s.counts)[0].x()[0])
            .filter(|loss| *loss > 0.0)
            .collect();
        assert!(losses.iter().any(|l| *l < 1e-6) && losses.iter().any(|l| *l > 0.1), "{losses:?}");
    }
}
