//! How far a number can be trusted: the interval of a proportion, mean and spread over seeds.

use serde::{Deserialize, Serialize};

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % Wilson score interval of a proportion, in percent (Wilson 1927, eq. 1).
///
/// `percent` is the observed rate (0 to 100), `queries` the number of trials. Unlike the normal approximation it stays
/// within 0 and 100 and does not collapse at either end. No trials say nothing: (0, 100).
pub fn wilson(percent: f64, queries: usize) -> (f64, f64) {
    if queries == 0 {
        return (0.0, 100.0);
    }
    let n = queries as f64;
    let p = (percent / 100.0).clamp(0.0, 1.0);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    // Rounding may push an end a hair past the observed rate, which the interval always holds.
    let (low, high) = ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0));
    (100.0 * low, 100.0 * high)
}

/// Mean and sample standard deviation of one metric over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanSd {
    pub mean: f64,
    /// Divided by n − 1; absent for a single run, which has no spread to show.
    pub sd: Option<f64>,
    pub runs: usize,
}

/// Mean ± sd of `values`, one per seed. `None` without any.
pub fn mean_sd(values: &[f64]) -> Option<MeanSd> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
    Some(MeanSd { mean, sd, runs: values.len() })
}

impl std::fmt::Display for MeanSd {
    /// `44.3 ± 0.4 (5 seeds)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sd {
            Some(sd) => write!(f, "{:.1} ± {sd:.1} ({} seeds)", self.mean, self.runs),
            None => write!(f, "{:.1} (1 seed)", self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // 8 of 10: 0.4902 to 0.9433 (Newcombe 1998, table of method 3, recomputed by hand).
        let (low, high) = wilson(80.0, 10);
        assert!((low - 49.02).abs() < 0.01 && (high - 94.33).abs() < 0.01, "{low} {high}");
    }

    #[test]
    fn wilson_holds_the_rate_at_both_ends() {
        for n in [1, 7, 1000] {
            let (low, high) = wilson(0.0, n);
            assert!(low == 0.0 && high > 0.0 && high < 100.0);
            let (low, high) = wilson(100.0, n);
            assert!(high == 100.0 && low > 0.0 && low < 100.0);
        }
        assert_eq!(wilson(50.0, 0), (0.0, 100.0));
    }

    #[test]
    fn spread_needs_two_runs() {
        assert_eq!(mean_sd(&[]), None);
        assert_eq!(mean_sd(&[3.0]).unwrap().to_string(), "3.0 (1 seed)");
        let two = mean_sd(&[1.0, 3.0]).unwrap();
        assert_eq!(two.mean, 2.0);
        assert!((two.sd.unwrap() - 2f64.sqrt()).abs() < 1e-12);
    }
}
