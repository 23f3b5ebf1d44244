//! The two laws of a world: how atoms become a frame, and what noise there is.
//!
//! A world plants the structure that its model assumes, so that success on it could be luck of the generator. The
//! held-out law breaks three assumptions at once: noise is neither Gaussian nor equal in all directions, atoms do not
//! simply add, and amplitudes vary.

use serde::{Deserialize, Serialize};

use crate::data::directions::stream_of;
use crate::random::Random;

/// Rank of the part of the held-out noise that channels share.
const RANK: usize = 8;
/// Degrees of freedom of the held-out noise; its variance is ν/(ν−2) = 3 times that of the normals it is made of.
const NU: usize = 3;
/// Weight of the sum itself beside what the held-out map makes of it.
const RESIDUAL: f32 = 0.5;
/// Slope of the held-out map for negative values.
const LEAK: f32 = 0.1;
/// Held-out amplitudes are those of the main law times 0.7 to 1.3.
const SPREAD: f32 = 0.3;

/// Which law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// Atoms add, amplitudes are constant, noise is Gaussian and equal in all directions.
    #[default]
    Main,
    /// The sum of atoms x becomes 0.5 x + √0.75 · f(x) with a random f of two layers and leaky rectifiers that keeps
    /// lengths on average; each amplitude is drawn within ±30 %; noise is Student-t with 3 degrees of freedom, half of
    /// its covariance of rank 8 and half diagonal, with the same total variance.
    HeldOut,
}

/// A law for rows of `dim` values. Everything random in it is fixed by seed and name.
#[derive(Debug)]
pub struct Law {
    dim: usize,
    held_out: Option<HeldOut>,
}

#[derive(Debug)]
struct HeldOut {
    /// `[RANK, dim]`; the squares of all values add up to ½.
    shared: Vec<f32>,
    /// `[dim]` standard deviations; their squares add up to ½.
    own: Vec<f32>,
    /// `[dim, dim]` each, by input.
    layers: [Vec<f32>; 2],
}

impl Law {
    pub fn new(generator: Generator, seed: u64, name: &str, dim: usize) -> Self {
        let held_out = match generator {
            Generator::Main => None,
            Generator::HeldOut => Some(HeldOut::new(seed, name, dim)),
        };
        Self { dim, held_out }
    }

    /// What an amplitude is multiplied with: 1, or uniform in `[0.7, 1.3)` from the number at `index`.
    pub fn amplitude(&self, random: Random, index: u64) -> f32 {
        match self.held_out {
            None => 1.0,
            Some(_) => 1.0 - SPREAD + 2.0 * SPREAD * random.uniform(index),
        }
    }

    /// Turns the sum of atoms, `[dim]`, into what a frame shows of them.
    pub fn compose(&self, row: &mut [f32]) {
        let Some(HeldOut { layers: [first, second], .. }) = &self.held_out else { return };
        let mut hidden = product(row, first, self.dim);
        hidden.iter_mut().for_each(|h| *h = if *h < 0.0 { LEAK * *h } else { *h });
        let mapped = product(&hidden, second, self.dim);
        let weight = (1.0 - RESIDUAL * RESIDUAL).sqrt();
        row.iter_mut().zip(mapped).for_each(|(r, m)| *r = RESIDUAL * *r + weight * m);
    }

    /// Adds noise to `rows`, `[R, dim]`: the expected square of its length on each row is `scale²` under either law.
    pub fn add_noise(&self, rows: &mut [f32], scale: f32, random: Random) {
        let dim = self.dim.max(1);
        let mut noise = vec![0.0; rows.len()];
        random.fill_normal(0, &mut noise);
        let Some(HeldOut { shared, own, .. }) = &self.held_out else {
            let each = scale / (dim as f32).sqrt();
            rows.iter_mut().zip(noise).for_each(|(r, n)| *r += each * n);
            return;
        };
        // Blocks far behind those of the values themselves.
        let mut further = vec![0.0; rows.len() / dim * (RANK + NU)];
        random.fill_normal(1 << 40, &mut further);
        let rows = rows.chunks_exact_mut(dim).zip(noise.chunks_exact(dim)).zip(further.chunks_exact(RANK + NU));
        for ((row, noise), further) in rows {
            let (common, chi) = further.split_at(RANK);
            // Student-t: a normal over √(χ²/ν), whose variance is ν/(ν−2) = ν; the whole is divided by √ν. The floor
            // keeps the rarest row finite.
            let chi: f32 = chi.iter().map(|c| c * c).sum();
            let each = scale / chi.max(1e-9).sqrt();
            for ((r, n), o) in row.iter_mut().zip(noise).zip(own) {
                *r += each * o * n;
            }
            for (c, direction) in common.iter().zip(shared.chunks_exact(dim)) {
                row.iter_mut().zip(direction).for_each(|(r, d)| *r += each * c * d);
            }
        }
    }
}

impl HeldOut {
    fn new(seed: u64, name: &str, dim: usize) -> Self {
        let random = |part: &str| Random::new(seed, stream_of(&format!("held-out {part} of {name}")));
        let normals = |part: &str, count: usize, scale: f32| {
            let mut values = vec![0.0; count];
            random(part).fill_normal(0, &mut values);
            values.iter_mut().for_each(|v| *v *= scale);
            values
        };
        let mut shared = normals("shared noise", RANK * dim, 1.0);
        half(&mut shared);
        let uneven = random("own noise");
        let mut own: Vec<f32> = (0..dim as u64).map(|i| (0.5 + uneven.uniform(i)).sqrt()).collect();
        half(&mut own);
        // With these scales each layer keeps the expected square of a length: a leaky rectifier halves (1 + leak²).
        let scale = 1.0 / (dim.max(1) as f32).sqrt();
        let behind = (2.0 / (1.0 + LEAK * LEAK)).sqrt();
        let layers = [normals("first layer", dim * dim, scale), normals("second layer", dim * dim, scale * behind)];
        Self { shared, own, layers }
    }
}

/// Scales values so that their squares add up to ½.
fn half(values: &mut [f32]) {
    let total: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let scale = if total > 0.0 { (0.5 / total).sqrt() } else { 0.0 };
    values.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
}

/// `x [dim] · weight [dim, dim]`.
fn product(x: &[f32], weight: &[f32], dim: usize) -> Vec<f32> {
    let mut out = vec![0.0; dim];
    for (x, row) in x.iter().zip(weight.chunks_exact(dim.max(1))) {
        out.iter_mut().zip(row).for_each(|(o, w)| *o += x * w);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 32;
    const ROWS: usize = 40_000;

    fn noise(generator: Generator, seed: u64) -> Vec<f32> {
        let mut rows = vec![0.0; ROWS * DIM];
        Law::new(generator, seed, "test", DIM).add_noise(&mut rows, 0.7, Random::new(seed, 1));
        rows
    }

    fn squares(rows: &[f32]) -> Vec<f64> {
        let mut lengths: Vec<f64> =
            rows.chunks(DIM).map(|r| r.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()).collect();
        lengths.sort_by(f64::total_cmp);
        lengths
    }

    /// The seed is fixed: a mean of Student-t squares with three degrees of freedom has no variance of its own.
    #[test]
    fn both_laws_have_the_same_total_variance_and_one_has_the_heavier_tail() {
        let (main, held_out) = (squares(&noise(Generator::Main, 3)), squares(&noise(Generator::HeldOut, 3)));
        let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
        assert!((mean(&main) / 0.49 - 1.0).abs() < 0.02, "{}", mean(&main));
        assert!((mean(&held_out) / 0.49 - 1.0).abs() < 0.1, "{}", mean(&held_out));
        let tail = |s: &[f64]| s[s.len() * 999 / 1000] / s[s.len() / 2];
        assert!(tail(&main) < 3.0 && tail(&held_out) > 10.0, "{} and {}", tail(&main), tail(&held_out));
    }

    #[test]
    fn held_out_noise_lies_in_few_directions_more_than_in_others() {
        let law = Law::new(Generator::HeldOut, 9, "test", DIM);
        let HeldOut { shared, own, .. } = law.held_out.as_ref().unwrap();
        let sum = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>();
        assert!((sum(shared) + sum(own) - 1.0).abs() < 1e-5);
        // Variance along a unit vector, relative to the mean over directions: the robust median of squares.
        let rows = noise(Generator::HeldOut, 9);
        let along = |unit: &[f32]| {
            let mut squares: Vec<f32> =
                rows.chunks(DIM).map(|r| r.iter().zip(unit).map(|(a, b)| a * b).sum::<f32>().powi(2)).collect();
            squares.sort_by(f32::total_cmp);
            squares[ROWS / 2]
        };
        let mut loud = shared[..DIM].to_vec();
        crate::data::directions::make_unit(&mut loud);
        let usual: f32 = (0..DIM).map(|c| along(&[&vec![0.0; c][..], &[1.0], &vec![0.0; DIM - c - 1]].concat())).sum();
        assert!(along(&loud) > 1.5 * usual / DIM as f32);
    }

    #[test]
    fn the_held_out_map_keeps_lengths_on_average_and_is_not_additive() {
        let seed = crate::seed::seed();
        let law = Law::new(Generator::HeldOut, seed, "test", DIM);
        let row = |i: u64| {
            let mut row = vec![0.0; DIM];
            Random::new(seed, 100 + i).fill_normal(0, &mut row);
            row
        };
        let composed = |mut x: Vec<f32>| {
            law.compose(&mut x);
            x
        };
        let length = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        let (mut before, mut after, mut apart) = (0.0, 0.0, 0.0);
        for i in 0..200 {
            let (a, b) = (row(2 * i), row(2 * i + 1));
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let parts: Vec<f32> = composed(a.clone()).iter().zip(composed(b)).map(|(a, b)| a + b).collect();
            let whole = composed(sum);
            before += length(&a);
            after += length(&composed(a));
            apart += length(&whole.iter().zip(parts).map(|(w, p)| w - p).collect::<Vec<_>>()) / length(&whole);
        }
        assert!((0.5..2.0).contains(&(after / before)), "{after} of {before}");
        assert!(apart / 200.0 > 0.1, "{apart}");
        let main = Law::new(Generator::Main, seed, "test", DIM);
        let mut same = row(1);
        main.compose(&mut same);
        assert_eq!(same, row(1));
        assert_eq!(main.amplitude(Random::new(seed, 0), 5), 1.0);
        let drawn: Vec<f32> = (0..500).map(|i| law.amplitude(Random::new(seed, 0), i)).collect();
        assert!(drawn.iter().all(|a| (0.7..1.3).contains(a)));
        assert!(drawn.iter().any(|a| *a < 0.75) && drawn.iter().any(|a| *a > 1.25));
    }
}
