//! What a model looks at beside the truth; and a linear probe: how much of something a vector gives away to who only
//! multiplies and adds.

use super::Measures;
use crate::eval::auroc;
use crate::models::evidence::Explanation;

/// Ridge as a share of the mean diagonal of the features' second moments.
const RIDGE: f64 = 1e-2;

/// How well a model tells the frames that matter from the rest.
#[derive(Default)]
pub struct Attention {
    areas: Vec<f64>,
    masks: Vec<f64>,
}

impl Attention {
    /// Adds a pair; `truth` says of each of its frames whether it matters.
    pub fn look(&mut self, seen: &Explanation, truth: &[bool]) {
        self.areas.extend(auroc(&seen.relevance, truth));
        let taken = seen.foreground.iter().filter(|f| **f).count();
        let right = seen.foreground.iter().zip(truth).filter(|(f, t)| **f && **t).count();
        self.masks.extend((taken > 0).then(|| right as f64 / taken as f64));
    }

    /// In percent: `AUROC`, the area under the curve of the relevance, and `mask`, the share of the true foreground among
    /// the frames that the model takes for it. Without what no pair had.
    pub fn measures(self) -> Measures {
        let mean = |x: &[f64]| 100.0 * x.iter().sum::<f64>() / x.len() as f64;
        let all = [("AUROC", self.areas), ("mask", self.masks)];
        all.into_iter().filter(|(_, x)| !x.is_empty()).map(|(name, x)| (name.to_string(), mean(&x))).collect()
    }
}

/// Accuracy in percent of a ridge regression from features to one-hot labels, fitted on the first half of the items and
/// tried on the second, the largest output taken. `None` without items or with features of different widths.
pub fn accuracy(features: &[Vec<f32>], labels: &[usize]) -> Option<f64> {
    let (count, dim) = (features.len().min(labels.len()), features.first()?.len());
    let half = count / 2;
    if half == 0 || dim == 0 || features.iter().any(|x| x.len() != dim) {
        return None;
    }
    let classes = labels.iter().max()? + 1;
    let mean: Vec<f64> =
        (0..dim).map(|d| features[..half].iter().map(|x| f64::from(x[d])).sum::<f64>() / half as f64).collect();
    let centred = |x: &[f32]| -> Vec<f64> { x.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m).collect() };
    // (XᵀX + λ) W = Xᵀ (Y − Ȳ)
    let (mut moments, mut targets) = (vec![0.0; dim * dim], vec![0.0; dim * classes]);
    let mut shares = vec![0.0; classes];
    labels[..half].iter().for_each(|label| shares[*label] += 1.0 / half as f64);
    for (x, label) in features[..half].iter().zip(labels) {
        let x = centred(x);
        for (i, a) in x.iter().enumerate() {
            moments[i * dim..][..dim].iter_mut().zip(&x).for_each(|(m, b)| *m += a * b);
            let row = &mut targets[i * classes..][..classes];
            row.iter_mut().zip(&shares).for_each(|(t, share)| *t -= a * share);
            row[*label] += a;
        }
    }
    let ridge = RIDGE * (0..dim).map(|i| moments[i * dim + i]).sum::<f64>() / dim as f64;
    (0..dim).for_each(|i| moments[i * dim + i] += ridge.max(f64::MIN_POSITIVE));
    solve(&mut moments, &mut targets, dim, classes);
    let right = features[half..count].iter().zip(&labels[half..]).filter(|(x, label)| {
        let mut scores = shares.clone();
        for (a, row) in centred(x).iter().zip(targets.chunks_exact(classes)) {
            scores.iter_mut().zip(row).for_each(|(s, w)| *s += a * w);
        }
        let best = (0..classes).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best == Some(**label)
    });
    Some(100.0 * right.count() as f64 / (count - half) as f64)
}

/// Solves `A X = B` in the place of B, `A [n, n]` symmetric and positive definite, `B [n, columns]`, by Cholesky.
fn solve(a: &mut [f64], b: &mut [f64], n: usize, columns: usize) {
    for i in 0..n {
        for j in 0..=i {
            let sum = a[i * n + j] - (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum::<f64>();
            a[i * n + j] = if i == j { sum.max(f64::MIN_POSITIVE).sqrt() } else { sum / a[j * n + j] };
        }
    }
    for c in 0..columns {
        for i in 0..n {
            let known = (0..i).map(|k| a[i * n + k] * b[k * columns + c]).sum::<f64>();
            b[i * columns + c] = (b[i * columns + c] - known) / a[i * n + i];
        }
        for i in (0..n).rev() {
            let known = (i + 1..n).map(|k| a[k * n + i] * b[k * columns + c]).sum::<f64>();
            b[i * columns + c] = (b[i * columns + c] - known) / a[i * n + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        let random = Random::new(5, 1);
        let labels: Vec<usize> = (0..400).map(|i| random.below(i, 4) as usize).collect();
        let noise = |i: usize, d: usize| random.normal((1 << 20) + (i * 8 + d) as u64);
        let told = |strength: f32| -> Vec<Vec<f32>> {
            let row = |(i, label): (usize, &usize)| {
                (0..8).map(|d| noise(i, d) + if d == *label { strength } else { 0.0 }).collect()
            };
            labels.iter().enumerate().map(row).collect()
        };
        assert!(accuracy(&told(8.0), &labels).unwrap() > 95.0);
        assert!(accuracy(&told(0.0), &labels).unwrap() < 40.0, "chance is 25");
        assert_eq!(accuracy(&[], &[]), None);
        assert_eq!(accuracy(&[vec![1.0], vec![1.0, 2.0]], &[0, 1]), None);
    }

    #[test]
    fn equations_are_solved() {
        let mut a = vec![4.0, 2.0, 2.0, 3.0];
        let mut b = vec![8.0, 1.0, 7.0, 2.0];
        solve(&mut a, &mut b, 2, 2);
        // 4x + 2y = 8, 2x + 3y = 7; 4x + 2y = 1, 2x + 3y = 2.
        let expected = [1.25, -0.125, 1.5, 0.75];
        assert!(b.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{b:?}");
    }
}
