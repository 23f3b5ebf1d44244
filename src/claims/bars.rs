//! What has to hold for a claim to stand, and how sure a handful of seeds makes one.

use super::Measures;
use serde::Serialize;
use std::collections::BTreeMap;

/// Measures by variant, then by seed in the order of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    pub variants: BTreeMap<String, Vec<Measures>>,
}

impl Table {
    /// A measure of a variant on every seed; empty where one is missing.
    pub fn values(&self, variant: &str, measure: &str) -> Vec<f64> {
        let Some(seeds) = self.variants.get(variant) else { return vec![] };
        let found: Vec<f64> = seeds.iter().filter_map(|m| m.get(measure).copied()).collect();
        if found.len() == seeds.len() { found } else { vec![] }
    }

    /// The most seeds that a variant has.
    pub fn seeds(&self) -> usize {
        self.variants.values().map(Vec::len).max().unwrap_or(0)
    }

    /// The table without one seed.
    fn without(&self, seed: usize) -> Table {
        let rest = |seeds: &[Measures]| {
            seeds.iter().enumerate().filter(|(i, _)| *i != seed).map(|(_, measures)| measures.clone()).collect()
        };
        Table { variants: self.variants.iter().map(|(name, seeds)| (name.clone(), rest(seeds))).collect() }
    }

    /// The difference of a measure between two variants, seed by seed.
    pub fn gain(&self, of: &str, over: &str, measure: &str) -> Vec<f64> {
        difference(&self.values(of, measure), &self.values(over, measure))
    }
}

/// Element by element; empty where the two are not of the same seeds.
pub fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    if a.len() == b.len() { a.iter().zip(b).map(|(a, b)| a - b).collect() } else { vec![] }
}

/// Element by element.
pub fn mean_of(a: &[f64], b: &[f64]) -> Vec<f64> {
    if a.len() == b.len() { a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect() } else { vec![] }
}

/// What a value has to be.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Rule {
    /// The mean reaches this. Where it is a gain of three points or more, it is also twice its standard error and has
    /// one sign on all seeds.
    AtLeast(f64),
    /// The mean stays below this.
    AtMost(f64),
    /// The 95 % interval of the mean lies above this.
    SurelyAbove(f64),
    /// No bar, but a number that belongs beside the others.
    Reported,
}

type Value = dyn Fn(&Table) -> Vec<f64> + Send + Sync;

/// One thing that has to hold.
pub struct Bar {
    pub says: String,
    pub rule: Rule,
    /// The value of each seed, or one of all of them together: a share of means.
    pub value: Box<Value>,
}

impl Bar {
    pub fn new(says: impl Into<String>, rule: Rule, value: impl Fn(&Table) -> Vec<f64> + Send + Sync + 'static) -> Bar {
        Bar { says: says.into(), rule, value: Box::new(value) }
    }
}

/// A bar and how it came out.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub says: String,
    pub needs: String,
    /// Absent where a variant or a measure is missing.
    pub mean: Option<f64>,
    /// Over seeds; absent where there is one value of all of them.
    pub sd: Option<f64>,
    /// Half the 95 % interval: of the mean by Student's t, of one value of all seeds by the jackknife; absent for one
    /// seed.
    pub half_interval: Option<f64>,
    pub seeds: Vec<f64>,
    /// Absent where there is no bar.
    pub holds: Option<bool>,
}

/// Gains from here on have to be credible: the same sign on all seeds, and twice the standard error.
const CREDIBLE: f64 = 3.0;

pub fn judge(bar: &Bar, table: &Table) -> Judged {
    let seeds = (bar.value)(table);
    let together = seeds.len() == 1 && table.seeds() > 1;
    let s = if together { jackknife(bar, table, seeds[0]) } else { Summary::of(&seeds) };
    let known = !seeds.is_empty() && seeds.iter().all(|x| x.is_finite());
    let holds = match bar.rule {
        Rule::Reported => None,
        _ if !known => Some(false),
        Rule::AtLeast(x) if x < CREDIBLE => Some(s.mean >= x),
        Rule::AtLeast(x) => {
            let credible = seeds.iter().all(|g| *g > 0.0) && s.mean >= 2.0 * s.standard_error;
            Some(s.mean >= x && credible)
        }
        Rule::AtMost(x) => Some(s.mean <= x),
        Rule::SurelyAbove(x) => Some(table.seeds() > 1 && s.mean - s.half_interval > x),
    };
    let needs = match bar.rule {
        Rule::AtLeast(x) => format!("≥ {x}"),
        Rule::AtMost(x) => format!("≤ {x}"),
        Rule::SurelyAbove(x) => format!("95 % interval above {x}"),
        Rule::Reported => "reported".into(),
    };
    Judged {
        says: bar.says.clone(),
        needs,
        mean: known.then_some(s.mean),
        sd: (seeds.len() > 1).then_some(s.sd),
        half_interval: (known && table.seeds() > 1).then_some(s.half_interval),
        seeds,
        holds,
    }
}

/// How far one value of all seeds may be off, from what it is without each of them (Efron and Stein 1981).
fn jackknife(bar: &Bar, table: &Table, value: f64) -> Summary {
    let n = table.seeds();
    let without: Vec<f64> = (0..n).flat_map(|seed| (bar.value)(&table.without(seed))).collect();
    let mean = without.iter().sum::<f64>() / without.len().max(1) as f64;
    let spread: f64 = without.iter().map(|x| (x - mean).powi(2)).sum();
    // A value that one seed alone carries is as unsure as can be.
    let known = without.len() == n;
    let standard_error = if known { (spread * (n - 1) as f64 / n as f64).sqrt() } else { f64::INFINITY };
    Summary { mean: value, sd: 0.0, standard_error, half_interval: student(n) * standard_error }
}

/// The 97.5 % quantile of Student's t for the mean of `n` numbers.
fn student(n: usize) -> f64 {
    // Beyond the table its first correction to the normal quantile, within 0.1 %.
    let freedom = n.saturating_sub(1);
    T.get(freedom.saturating_sub(1))
        .copied()
        .unwrap_or(1.96 + 2.372 / freedom as f64 + 2.82 / (freedom * freedom) as f64)
}

/// Mean, standard deviation and how far the mean may be off.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub mean: f64,
    pub sd: f64,
    pub standard_error: f64,
    /// Half the 95 % interval of the mean (Student's t).
    pub half_interval: f64,
}

/// 97.5 % quantiles of Student's t with 1, 2, … degrees of freedom.
const T: [f64; 15] =
    [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131];

impl Summary {
    pub fn of(x: &[f64]) -> Summary {
        let n = x.len() as f64;
        if x.is_empty() {
            return Summary::default();
        }
        let mean = x.iter().sum::<f64>() / n;
        if x.len() == 1 {
            return Summary { mean, ..Summary::default() };
        }
        let sd = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let standard_error = sd / n.sqrt();
        Summary { mean, sd, standard_error, half_interval: student(x.len()) * standard_error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(a: &[f64], b: &[f64]) -> Table {
        let seeds = |x: &[f64]| x.iter().map(|x| Measures::from([("R@1".to_string(), *x)])).collect();
        Table { variants: BTreeMap::from([("a".to_string(), seeds(a)), ("b".to_string(), seeds(b))]) }
    }

    fn gain(rule: Rule) -> Bar {
        Bar::new("a over b", rule, |t| t.gain("a", "b", "R@1"))
    }

    #[test]
    fn a_large_gain_has_to_be_credible() {
        let sure = table(&[60.0, 61.0, 59.0], &[40.0, 42.0, 41.0]);
        assert_eq!(judge(&gain(Rule::AtLeast(15.0)), &sure).holds, Some(true));
        let lucky = table(&[120.0, 41.0, 40.0], &[40.0, 42.0, 41.0]);
        assert_eq!(judge(&gain(Rule::AtLeast(15.0)), &lucky).holds, Some(false));
        let small = table(&[41.0, 43.0, 40.5], &[40.0, 42.0, 41.0]);
        assert_eq!(judge(&gain(Rule::AtLeast(0.0)), &small).holds, Some(true));
    }

    #[test]
    fn an_interval_is_that_of_student() {
        let s = Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((s.half_interval - 2.776 * (2.5f64).sqrt() / 5f64.sqrt()).abs() < 1e-9);
        for (n, t) in [(17, 2.120), (31, 2.042), (101, 1.984)] {
            assert!((student(n) - t).abs() < 2e-3, "{n}: {}", student(n));
        }
        let close = table(&[40.1, 41.9, 41.0], &[40.0, 42.0, 41.0]);
        assert_eq!(judge(&gain(Rule::SurelyAbove(-2.0)), &close).holds, Some(true));
        assert_eq!(judge(&gain(Rule::SurelyAbove(0.0)), &close).holds, Some(false));
    }

    #[test]
    fn a_share_of_means_has_an_interval_too() {
        let share = || {
            Bar::new("a of b", Rule::AtLeast(40.0), |t| {
                let sum = |of| t.values(of, "R@1").iter().sum::<f64>();
                vec![100.0 * sum("a") / sum("b")]
            })
        };
        let judged = judge(&share(), &table(&[10.0, 12.0, 11.0], &[20.0, 20.0, 20.0]));
        assert_eq!((judged.mean, judged.sd, judged.holds), (Some(55.0), None, Some(true)));
        // Of a mean the jackknife is the standard error: 1 / √3, as a share of 20 five times that.
        let expected = 4.303 * 5.0 / 3f64.sqrt();
        assert!((judged.half_interval.unwrap() - expected).abs() < 1e-9, "{judged:?}");
        let unsure = judge(&share(), &table(&[1.0, 60.0, 1.0], &[20.0, 20.0, 20.0]));
        assert_eq!((unsure.mean.map(f64::round), unsure.holds), (Some(103.0), Some(false)), "one seed makes it");
    }

    #[test]
    fn what_is_missing_fails() {
        let t = table(&[60.0], &[40.0]);
        assert_eq!(judge(&Bar::new("c", Rule::AtLeast(0.0), |t| t.values("c", "R@1")), &t).holds, Some(false));
        assert_eq!(judge(&gain(Rule::SurelyAbove(0.0)), &t).holds, Some(false), "one seed has no interval");
        assert_eq!(judge(&Bar::new("n", Rule::Reported, |t| t.values("a", "R@1")), &t).holds, None);
        let nan = table(&[f64::NAN], &[40.0]);
        assert_eq!(judge(&gain(Rule::AtMost(100.0)), &nan).holds, Some(false));
    }
}
