//! Tokens standardised by what the training split holds: each dimension less its mean, over its deviation.
//!
//! Features of encoders are anisotropic: a few dimensions carry most of their length, and what lives in the small ones
//! is learned late or never. The statistics are parameters that are not learned, so that a model folder is complete;
//! they are folded into the projection, whose input stays as it is:
//!
//! ```text
//! P ((x − μ) / σ) + b  =  W x + (b − W μ),   W = P diag(1/σ)
//! ```

use super::batch::Rows;
use crate::engine::graph::{Graph, Value};
use crate::engine::op::linear::LINEAR;
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::op::reduce::BroadcastRows;
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::tensor::{Dim, Meta};
use crate::error::Result;

/// Items that are looked at: for a mean within a hundredth of a deviation this is plenty.
const MOST_ITEMS: usize = 4096;
/// Share of the mean variance that is added to each: a dimension that never changes is not blown up.
const FLOOR: f64 = 1e-3;

/// Declares the statistics of the projection `name`, which takes `dim` numbers a row: nothing changes until [`fit`].
pub fn declare(p: &mut Parameters, name: &str, dim: usize) {
    p.fixed(&format!("{name}.mean"), &[dim], Init::Constant(0.0));
    p.fixed(&format!("{name}.inverse_deviation"), &[dim], Init::Constant(1.0));
}

/// Weight `[out, in]` and bias `[out]` of the projection `name`, with its statistics folded in where it has some.
pub fn folded(g: &mut Graph, w: &Weights, name: &str) -> Result<(Value, Value)> {
    let (weight, bias) = (w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?);
    let (Some(mean), Some(inverse)) = (w.find(&format!("{name}.mean")), w.find(&format!("{name}.inverse_deviation")))
    else {
        return Ok((weight, bias));
    };
    let [out, input] = [0, 1].map(|axis| g.meta(weight).dim(axis));
    let inverse = g.apply(BroadcastRows { rows: out }, &[inverse])?;
    let weight = g.apply(Binary { kind: BinaryKind::Mul }, &[weight, inverse])?;
    let mean = g.reshape(mean, Meta::f32(&[Dim::Fixed(1), input])?)?;
    let shift = g.apply(LINEAR.clone(), &[mean, weight, Value::ABSENT, Value::ABSENT])?;
    let shift = g.reshape(shift, Meta::f32(&[out])?)?;
    let bias = g.apply(Binary { kind: BinaryKind::Sub }, &[bias, shift])?;
    Ok((weight, bias))
}

/// Writes mean and inverse deviation of `items`, or of an even choice among them, into the flat parameters of the
/// projection `name`; leaves them alone where the model has none.
///
/// # Errors
/// Of reading tokens.
pub fn fit(parameters: &Parameters, flat: &mut [f32], name: &str, rows: &dyn Rows, items: &[usize]) -> Result<()> {
    let places = ["mean", "inverse_deviation"].map(|part| parameters.find(&format!("{name}.{part}")));
    let [Some(mean_at), Some(inverse_at)] = places else { return Ok(()) };
    let dim = rows.dim();
    let (mut sums, mut squares, mut count) = (vec![0.0f64; dim], vec![0.0f64; dim], 0usize);
    let mut tokens = vec![];
    for item in items.iter().step_by(items.len().div_ceil(MOST_ITEMS).max(1)) {
        tokens.resize(rows.rows(*item) * dim, 0.0);
        rows.write(*item, &mut tokens)?;
        for row in tokens.chunks_exact(dim) {
            count += 1;
            for ((x, sum), square) in row.iter().zip(&mut sums).zip(&mut squares) {
                *sum += f64::from(*x);
                *square += f64::from(*x) * f64::from(*x);
            }
        }
    }
    let n = count.max(1) as f64;
    let variances: Vec<f64> = sums.iter().zip(&squares).map(|(s, q)| (q / n - (s / n) * (s / n)).max(0.0)).collect();
    let typical = variances.iter().sum::<f64>() / dim.max(1) as f64;
    // Tokens that are all the same have nothing to be standardised by.
    let inverse = |v: &f64| if typical > 0.0 { 1.0 / (v + FLOOR * typical).sqrt() } else { 1.0 };
    let mut put = |offset: u64, values: &mut dyn Iterator<Item = f64>| {
        flat[offset as usize..][..dim].iter_mut().zip(values).for_each(|(to, x)| *to = x as f32);
    };
    put(mean_at.offset, &mut sums.iter().map(|s| s / n));
    put(inverse_at.offset, &mut variances.iter().map(inverse));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of two rows each.
    struct Two(Vec<[f32; 6]>);

    impl Rows for Two {
        fn rows(&self, _: usize) -> usize {
            2
        }
        fn write(&self, i: usize, out: &mut [f32]) -> Result<()> {
            out.copy_from_slice(&self.0[i]);
            Ok(())
        }
        fn dim(&self) -> usize {
            3
        }
        fn places(&self, _: usize, _: &mut [f32]) {}
    }

    #[test]
    fn each_dimension_has_a_mean_and_a_deviation_of_its_own() {
        let mut p = Parameters::default();
        p.linear("video", 2, 3);
        declare(&mut p, "video", 3);
        let mut flat = p.initial(1);
        let rows = Two(vec![[1.0, 10.0, 7.0, 3.0, 30.0, 7.0], [1.0, 10.0, 7.0, 3.0, 30.0, 7.0]]);
        fit(&p, &mut flat, "video", &rows, &[0, 1]).unwrap();
        let at = |name: &str| &flat[p.find(name).unwrap().offset as usize..][..3];
        assert_eq!(at("video.mean"), [2.0, 20.0, 7.0]);
        let inverse = at("video.inverse_deviation");
        // Variances 1, 100, 0, of which the floor is a thousandth of the mean.
        let expected = [1.0f64, 100.0, 0.0].map(|v| (1.0 / (v + 1e-3 * 101.0 / 3.0).sqrt()) as f32);
        assert_eq!(inverse, expected);
        let before = flat.clone();
        fit(&p, &mut flat, "text", &rows, &[0]).unwrap();
        assert_eq!(flat, before, "a projection without statistics");
        let same = Two(vec![[7.0; 6]]);
        fit(&p, &mut flat, "video", &same, &[0]).unwrap();
        let at = p.find("video.inverse_deviation").unwrap().offset as usize;
        assert_eq!(flat[at..][..3], [1.0; 3], "nothing changes in tokens that are all the same");
    }
}
