//! Post-processing of a whole score matrix: off by default, named in the protocol when on.
//!
//! Every method looks at a `[queries, gallery]` matrix; video → text is the same on the transposed one. Exponentials
//! are taken in f64 and in the log domain where only the order within a query matters, so that large logits neither
//! overflow nor make ties by underflow.

use super::matrix::{Matrix, ScoreMatrix, count};
use super::ranks::{CaptionMode, Counts, Directions};
use super::relevance::Relevance;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What post-processing may hold in memory, in bytes, unless the caller states another limit.
pub const MEMORY_LIMIT: u64 = 8 << 30;
/// A matrix and its transpose.
const BYTES_PER_SCORE: u64 = 8;
const BLOCK: usize = 64;

/// A correction of scores that needs more than one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PostProcess {
    /// DSL: `S ∘ softmax over queries(S / temperature) · queries` (CAMoE, eq. 8; temperature 1 at test).
    /// Transductive: it needs all test queries at once and profits from one query per item.
    DualSoftmax { temperature: f64 },
    /// Inverted softmax over the test queries (Smith et al. 2017, eq. 8). Transductive.
    InvertedSoftmax { beta: f64 },
    /// QB-Norm, dynamic inverted softmax (Bogolin et al. 2022, eq. 8): normalised over a bank of *training* queries,
    /// only for queries whose best item is among the `top` best of some bank query. β = 20, top = 1 in the paper.
    QueryBank { beta: f64, top: usize },
    /// A gallery bias from Sinkhorn–Knopp iterations (UCoFiA, section 3.4; 4 of them). With a bank the bias comes from
    /// the training queries, as in the released code; without one from the test queries (transductive).
    Sinkhorn { iterations: usize },
}

/// Scores of training queries with the test gallery.
#[derive(Clone, Debug, Default)]
pub struct Bank {
    /// `[training texts, test videos]`
    pub t2v: Option<Matrix>,
    /// `[training videos, test texts]`
    pub v2t: Option<Matrix>,
}

/// What the protocol says about post-processing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostNote {
    pub name: String,
    /// Whether scores of one test query depend on the other test queries.
    pub transductive: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, f64>,
}

impl PostProcess {
    /// The line for the protocol; `banked` says whether a bank is given.
    pub fn note(&self, banked: bool) -> PostNote {
        let (name, transductive, parameters) = match *self {
            PostProcess::DualSoftmax { temperature } => ("dsl", true, vec![("temperature", temperature)]),
            PostProcess::InvertedSoftmax { beta } => ("inverted-softmax", true, vec![("beta", beta)]),
            PostProcess::QueryBank { beta, top } => ("qb-norm", false, vec![("beta", beta), ("top", top as f64)]),
            PostProcess::Sinkhorn { iterations } => ("sinkhorn", !banked, vec![("iterations", iterations as f64)]),
        };
        let parameters = parameters.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        PostNote { name: name.into(), transductive, parameters }
    }

    fn check(&self) -> Result<()> {
        let positive = |key: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(Error::config(key, format!("{value} is not a positive number"), "give one, e.g. 1 or 20"))
            }
        };
        match *self {
            PostProcess::DualSoftmax { temperature } => positive("temperature", temperature),
            PostProcess::InvertedSoftmax { beta } => positive("beta", beta),
            PostProcess::QueryBank { beta, top } => positive("beta", beta).and(positive("top", top as f64)),
            PostProcess::Sinkhorn { iterations } => positive("iterations", iterations as f64),
        }
    }

    /// Replace the scores of a `[queries, gallery]` matrix.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible parameter or a missing bank, [`Error::Shape`] when the bank has another
    /// gallery, [`Error::NotFinite`] for a score that is NaN or infinite.
    pub fn apply(&self, scores: &mut Matrix, bank: Option<&Matrix>) -> Result<()> {
        self.check()?;
        all_finite(scores, "query")?;
        if let Some(bank) = bank {
            all_finite(bank, "bank query")?;
            if bank.cols() != scores.cols() || bank.rows() == 0 {
                let (rows, cols) = (bank.rows(), bank.cols());
                return Err(Error::shape(
                    "query bank",
                    format!("[{rows}, {cols}] where [at least 1, {}] is needed (the same gallery)", scores.cols()),
                ));
            }
        }
        match *self {
            PostProcess::DualSoftmax { temperature } => dual_softmax(scores, temperature),
            PostProcess::InvertedSoftmax { beta } => {
                let norm = column_log_sums(scores, beta, None);
                update(scores, |_, j, s| beta * s - norm[j]);
            }
            PostProcess::QueryBank { beta, top } => {
                let bank = bank.ok_or_else(|| {
                    Error::config(
                        "qb-norm",
                        "there is no query bank",
                        "give scores of training queries with the gallery",
                    )
                })?;
                query_bank(scores, bank, beta, top);
            }
            PostProcess::Sinkhorn { iterations } => {
                let bias = sinkhorn_bias(bank.unwrap_or(scores), iterations);
                update(scores, |_, j, s| s + bias[j]);
            }
        }
        Ok(())
    }
}

/// [`count`], after post-processing each direction from its own queries.
///
/// # Errors
/// [`Error::Memory`] when the matrix and its transpose exceed `limit` bytes; else as [`count`] and
/// [`PostProcess::apply`].
pub fn evaluate_with(
    post: &PostProcess,
    bank: &Bank,
    limit: u64,
    matrix: &dyn ScoreMatrix,
    relevance: Relevance,
    (mode, directions): (CaptionMode, Directions),
) -> Result<Counts> {
    let gather = || Matrix::gather(matrix, BYTES_PER_SCORE, limit, "post-processing");
    let t2v = directions.t2v().then(|| {
        let mut scores = gather()?;
        post.apply(&mut scores, bank.t2v.as_ref())?;
        count(&scores, relevance.clone(), mode, Directions::TextToVideo)
    });
    let v2t = directions.v2t().then(|| {
        let mut scores = gather()?.transposed();
        post.apply(&mut scores, bank.v2t.as_ref())?;
        count(&scores.transposed(), relevance.clone(), mode, Directions::VideoToText)
    });
    match (t2v.transpose()?, v2t.transpose()?) {
        (Some(t2v), Some(v2t)) => Ok(Counts { v2t: v2t.v2t, ..t2v }),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Error::config("directions", "none is asked for", "ask for t2v, v2t or both")),
    }
}

fn all_finite(scores: &Matrix, side: &str) -> Result<()> {
    match scores.data().iter().position(|s| !s.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NotFinite {
            place: format!("{side} {} and gallery item {}", at / scores.cols(), at % scores.cols()),
            what: format!("the score is {}, which post-processing would spread to others", scores.data()[at]),
            fix: "mend the scores, or evaluate without post-processing".into(),
        }),
    }
}

/// `S[i, j] ← f(i, j, S[i, j])`
fn update(scores: &mut Matrix, f: impl Fn(usize, usize, f64) -> f64 + Sync) {
    let cols = scores.cols().max(1);
    scores.data_mut().par_chunks_mut(cols).enumerate().for_each(|(i, row)| {
        for (j, score) in row.iter_mut().enumerate() {
            *score = f(i, j, f64::from(*score)) as f32;
        }
    });
}

/// `log Σ_i exp(scale · S[i, j] + offset[i])` for every column, in two passes over the rows in order.
fn column_log_sums(scores: &Matrix, scale: f64, offset: Option<&[f64]>) -> Vec<f64> {
    let cols = scores.cols();
    let value = |i: usize, s: f32| scale * f64::from(s) + offset.map_or(0.0, |o| o[i]);
    let mut out = vec![f64::NEG_INFINITY; cols];
    out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
        let span = block * BLOCK..block * BLOCK + out.len();
        let rows = || scores.data().chunks_exact(cols).map(|row| &row[span.clone()]).enumerate();
        let mut most = vec![f64::NEG_INFINITY; out.len()];
        for (i, row) in rows() {
            most.iter_mut().zip(row).for_each(|(m, &s)| *m = m.max(value(i, s)));
        }
        let mut sum = vec![0.0; out.len()];
        for (i, row) in rows() {
            sum.iter_mut().zip(&most).zip(row).for_each(|((sum, &m), &s)| *sum += (value(i, s) - m).exp());
        }
        out.iter_mut().zip(most).zip(sum).for_each(|((o, m), s)| *o = m + s.ln());
    });
    out
}

/// `log Σ_j exp(S[i, j] + offset[j])` for every row.
fn row_log_sums(scores: &Matrix, offset: &[f64]) -> Vec<f64> {
    scores
        .data()
        .par_chunks_exact(scores.cols().max(1))
        .map(|row| {
            let values = || row.iter().zip(offset).map(|(&s, o)| f64::from(s) + o);
            let most = values().fold(f64::NEG_INFINITY, f64::max);
            most + values().map(|v| (v - most).exp()).sum::<f64>().ln()
        })
        .collect()
}

fn dual_softmax(scores: &mut Matrix, temperature: f64) {
    let norm = column_log_sums(scores, 1.0 / temperature, None);
    let queries = scores.rows() as f64;
    update(scores, |_, j, s| s * (s / temperature - norm[j]).exp() * queries);
}

fn query_bank(scores: &mut Matrix, bank: &Matrix, beta: f64, top: usize) {
    let norm = column_log_sums(bank, beta, None);
    let mut activated = vec![false; bank.cols()];
    for row in bank.data().chunks_exact(bank.cols().max(1)) {
        for item in best_items(row, top) {
            activated[item] = true;
        }
    }
    let cols = scores.cols().max(1);
    scores.data_mut().par_chunks_mut(cols).for_each(|row| {
        // The order within a query is all that counts here, so a query is either normalised (in logs) or left alone.
        if best_items(row, 1).first().is_some_and(|&item| activated[item]) {
            row.iter_mut().zip(&norm).for_each(|(s, n)| *s = (beta * f64::from(*s) - n) as f32);
        }
    });
}

/// The `top` best columns of a row, best first; the lower number wins a tie.
fn best_items(row: &[f32], top: usize) -> Vec<usize> {
    let mut items: Vec<usize> = (0..row.len()).collect();
    let order = |&a: &usize, &b: &usize| row[b].total_cmp(&row[a]).then(a.cmp(&b));
    if top == 1 {
        return items.into_iter().min_by(order).into_iter().collect();
    }
    items.sort_by(order);
    items.truncate(top);
    items
}

/// The log of the gallery's scaling after `iterations` of Sinkhorn–Knopp on exp(S), columns first.
fn sinkhorn_bias(scores: &Matrix, iterations: usize) -> Vec<f64> {
    let negated = |logs: Vec<f64>| logs.into_iter().map(|v| -v).collect::<Vec<f64>>();
    let mut bias = negated(column_log_sums(scores, 1.0, None));
    for _ in 0..iterations {
        let rows = negated(row_log_sums(scores, &bias));
        bias = negated(column_log_sums(scores, 1.0, Some(&rows)));
    }
    bias
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, data: &[f32]) -> Matrix {
        Matrix::new(rows, cols, data.to_vec()).unwrap()
    }

    /// A hub: video 0 attracts both texts; text 1 belongs to video 1.
    fn hub() -> Matrix {
        matrix(2, 2, &[5.0, 1.0, 4.0, 3.5])
    }

    fn hits(m: &Matrix) -> u32 {
        let counts = count(m, Relevance::one_to_one(2).unwrap(), CaptionMode::Single, Directions::TextToVideo).unwrap();
        counts.t2v.unwrap().iter().map(|t| u32::from(t.greater == 0)).sum()
    }

    #[test]
    fn every_method_mends_a_hub_and_says_what_it_is() {
        assert_eq!(hits(&hub()), 1);
        // The training queries prefer the hub as well.
        let bank = matrix(2, 2, &[5.0, 2.5, 4.8, 3.0]);
        for (post, bank, transductive) in [
            (PostProcess::DualSoftmax { temperature: 1.0 }, None, true),
            (PostProcess::InvertedSoftmax { beta: 20.0 }, None, true),
            (PostProcess::QueryBank { beta: 20.0, top: 1 }, Some(&bank), false),
            (PostProcess::Sinkhorn { iterations: 4 }, None, true),
            (PostProcess::Sinkhorn { iterations: 4 }, Some(&bank), false),
        ] {
            let mut scores = hub();
            post.apply(&mut scores, bank).unwrap();
            assert_eq!(hits(&scores), 2, "{post:?}: {scores:?}");
            assert_eq!(post.note(bank.is_some()).transductive, transductive, "{post:?}");
        }
    }

    #[test]
    fn dual_softmax_is_the_formula() {
        let mut scores = hub();
        PostProcess::DualSoftmax { temperature: 1.0 }.apply(&mut scores, None).unwrap();
        let e = |v: f64| v.exp();
        let want = 2.0 * 4.0 * e(4.0) / (e(5.0) + e(4.0));
        assert!((f64::from(scores.data()[2]) - want).abs() < 1e-5, "{scores:?}");
    }

    #[test]
    fn only_queries_near_the_bank_are_normalised() {
        // The bank activates video 0 only. Text 0 prefers it, text 1 prefers video 1 and keeps its scores.
        let mut scores = matrix(2, 3, &[0.9, 0.8, 0.1, 0.1, 0.7, 0.6]);
        let bank = matrix(1, 3, &[0.9, 0.1, 0.2]);
        PostProcess::QueryBank { beta: 20.0, top: 1 }.apply(&mut scores, Some(&bank)).unwrap();
        assert_eq!(scores.data()[3..], [0.1, 0.7, 0.6]);
        // With one bank query the norm of an item is β times its bank score: 20·(S − B).
        for (got, want) in scores.data()[..3].iter().zip([0.0, 14.0, -2.0]) {
            assert!((got - want).abs() < 1e-4, "{scores:?}");
        }
    }

    #[test]
    fn sinkhorn_balances_the_gallery() {
        let mut scores = matrix(3, 3, &[9.0, 1.0, 0.0, 8.0, 2.0, 1.0, 7.0, 0.0, 2.0]);
        let plain = scores.clone();
        PostProcess::Sinkhorn { iterations: 200 }.apply(&mut scores, None).unwrap();
        // After convergence the softmax of each query over the gallery sums to 1 over queries for every item.
        let share = |m: &Matrix, j: usize| -> f64 {
            m.data().chunks(3).map(|r| f64::from(r[j]).exp() / r.iter().map(|&s| f64::from(s).exp()).sum::<f64>()).sum()
        };
        assert!(share(&plain, 0) > 2.9);
        for j in 0..3 {
            assert!((share(&scores, j) - 1.0).abs() < 1e-4, "{j}: {}", share(&scores, j));
        }
    }

    #[test]
    fn large_logits_stay_finite() {
        for post in [PostProcess::DualSoftmax { temperature: 0.01 }, PostProcess::InvertedSoftmax { beta: 20.0 }] {
            let mut scores = matrix(2, 2, &[3000.0, -3000.0, 2000.0, 1000.0]);
            post.apply(&mut scores, None).unwrap();
            assert!(scores.data().iter().all(|s| s.is_finite()), "{post:?} {scores:?}");
        }
    }

    #[test]
    fn both_directions_use_their_own_queries() {
        let relevance = Relevance::one_to_one(2).unwrap();
        let post = PostProcess::DualSoftmax { temperature: 1.0 };
        let both = (CaptionMode::Single, Directions::Both);
        let counts = evaluate_with(&post, &Bank::default(), MEMORY_LIMIT, &hub(), relevance.clone(), both).unwrap();
        let mut other = hub().transposed();
        post.apply(&mut other, None).unwrap();
        let swapped = count(&other, relevance.clone(), CaptionMode::Single, Directions::TextToVideo).unwrap();
        assert_eq!(counts.v2t, swapped.t2v);
        let error = evaluate_with(&post, &Bank::default(), 31, &hub(), relevance, both).unwrap_err();
        assert!(matches!(error, Error::Memory { needed: 32, available: 31, .. }), "{error}");
    }

    #[test]
    fn bad_parameters_banks_and_scores_are_refused() {
        let apply = |post: PostProcess, bank: Option<&Matrix>| post.apply(&mut hub(), bank).unwrap_err().to_string();
        assert!(apply(PostProcess::DualSoftmax { temperature: 0.0 }, None).contains("temperature"));
        assert!(apply(PostProcess::InvertedSoftmax { beta: f64::NAN }, None).contains("beta"));
        assert!(apply(PostProcess::QueryBank { beta: 20.0, top: 1 }, None).contains("bank"));
        let narrow = matrix(1, 1, &[0.0]);
        assert!(apply(PostProcess::QueryBank { beta: 20.0, top: 1 }, Some(&narrow)).contains("[1, 1]"));
        let mut infinite = matrix(1, 2, &[0.0, f32::INFINITY]);
        let error = PostProcess::Sinkhorn { iterations: 4 }.apply(&mut infinite, None).unwrap_err().to_string();
        assert!(error.contains("query 0 and gallery item 1"), "{error}");
    }
}
