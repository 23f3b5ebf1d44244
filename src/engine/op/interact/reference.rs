//! Token interaction in f64, one pair at a time, as the formulas read.

use super::super::super::tensor::HostTensor;
use super::{EXCLUDED, Interact};

/// What a reference needs from the operands, at true sizes.
struct Inputs<'a> {
    op: &'a Interact,
    ins: &'a [HostTensor],
}

/// One text with one video under one view.
struct Pair {
    /// `c[l][t]`
    dots: Vec<Vec<f64>>,
    /// ln ω; an excluded word has −∞.
    log_omega: Vec<f64>,
    /// ln ρ; an excluded frame has −∞.
    log_rho: Vec<f64>,
    tau: f64,
    relevance_tau: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

fn unless_excluded(log_weight: f64) -> f64 {
    if log_weight <= f64::from(EXCLUDED) { f64::NEG_INFINITY } else { log_weight }
}

impl Inputs<'_> {
    fn width(&self) -> usize {
        self.ins[0].dim(1)
    }
    fn word(&self, row: usize) -> &[f64] {
        &self.ins[0].x()[row * self.width()..][..self.width()]
    }
    fn frame(&self, row: usize) -> &[f64] {
        &self.ins[3].x()[row * self.width()..][..self.width()]
    }
    fn segment(&self, operand: usize, i: usize) -> (usize, usize) {
        let s = self.ins[operand].u();
        (s[2 * i] as usize, s[2 * i + 1] as usize)
    }
    fn views(&self) -> usize {
        if self.ins[10].is_absent() { 0 } else { self.ins[10].dim(0) }
    }
    /// β plus the log-weight of view `view` (0 is the factual one, which has none).
    fn prior(&self, view: usize, row: usize) -> f64 {
        let bias = self.ins[5].x().get(row).copied().unwrap_or(0.0);
        let weight = if view == 0 { 0.0 } else { self.ins[10].x()[(view - 1) * self.ins[3].dim(0) + row] };
        unless_excluded(bias + weight)
    }
    /// The pair of a text and a video, unless one of them is empty.
    fn pair(&self, view: usize, text: usize, video: usize) -> Option<Pair> {
        let (begin, end) = self.segment(1, text);
        let (first, last) = self.segment(4, video);
        let too_long = end - begin > self.op.max_words as usize || last - first > self.op.max_frames as usize;
        if end - begin < 2 || first == last || too_long {
            return None;
        }
        let (words, sentence) = (begin..end - 1, end - 1);
        let uniform = -((end - 1 - begin) as f64).ln();
        let log_omega: Vec<f64> =
            words.clone().map(|l| unless_excluded(self.ins[2].x().get(l).copied().unwrap_or(uniform))).collect();
        let tau = f64::from(self.op.relevance_temperature);
        let logits: Vec<f64> =
            (first..last).map(|t| dot(self.word(sentence), self.frame(t)) / tau + self.prior(view, t)).collect();
        let is_empty = |x: &[f64]| x.iter().all(|x| *x == f64::NEG_INFINITY);
        if is_empty(&log_omega) || is_empty(&logits) {
            return None;
        }
        Some(Pair {
            dots: words.map(|l| (first..last).map(|t| dot(self.word(l), self.frame(t))).collect()).collect(),
            log_omega,
            log_rho: softmax(&logits).into_iter().map(f64::ln).collect(),
            tau: f64::from(self.op.temperature),
            relevance_tau: tau,
        })
    }
}

/// The gradient of one pair's score.
struct PairGradient {
    /// With respect to `c[l][t]`.
    dots: Vec<Vec<f64>>,
    /// With respect to `c_qt`.
    sentence: Vec<f64>,
    log_omega: Vec<f64>,
    bias: Vec<f64>,
}

impl Pair {
    fn rho(&self) -> Vec<f64> {
        self.log_rho.iter().map(|x| x.exp()).collect()
    }
    /// `softmax_t(c_lt / τ + ln ρ_t)` of word l.
    fn over_frames(&self, l: usize) -> Vec<f64> {
        softmax(&self.dots[l].iter().zip(&self.log_rho).map(|(c, r)| c / self.tau + r).collect::<Vec<_>>())
    }
    /// `softmax_l(c_lt / τ + ln ω_l)` of frame t.
    fn over_words(&self, t: usize) -> Vec<f64> {
        softmax(&self.dots.iter().zip(&self.log_omega).map(|(c, w)| c[t] / self.tau + w).collect::<Vec<_>>())
    }
    fn column(&self, t: usize) -> Vec<f64> {
        self.dots.iter().map(|c| c[t]).collect()
    }
    fn score(&self) -> f64 {
        let t2v: f64 =
            (0..self.dots.len()).map(|l| self.log_omega[l].exp() * dot(&self.over_frames(l), &self.dots[l])).sum();
        let rho = self.rho();
        let v2t: f64 = (0..rho.len()).map(|t| rho[t] * dot(&self.over_words(t), &self.column(t))).sum();
        0.5 * (t2v + v2t)
    }
    /// `ds` is the gradient of the score, `drho` that of the relevance.
    ///
    /// With `u_l = Σ_t α_lt c_lt` and `v_t = Σ_l γ_lt c_lt` a soft-max under its own values gives
    /// `∂u_l/∂c_lt = α_lt (1 + (c_lt − u_l)/τ)` and `∂u_l/∂ln ρ_t = α_lt (c_lt − u_l)`; γ likewise.
    fn gradient(&self, ds: f64, drho: &[f64]) -> PairGradient {
        let (words, frames) = (self.dots.len(), self.log_rho.len());
        let half = 0.5 * ds;
        let rho = self.rho();
        let mut d = PairGradient {
            dots: vec![vec![0.0; frames]; words],
            sentence: vec![0.0; frames],
            log_omega: vec![0.0; words],
            bias: vec![0.0; frames],
        };
        let mut dlog_rho: Vec<f64> = (0..frames).map(|t| rho[t] * drho.get(t).unwrap_or(&0.0)).collect();
        for l in 0..words {
            let (omega, alpha) = (self.log_omega[l].exp(), self.over_frames(l));
            let u = dot(&alpha, &self.dots[l]);
            d.log_omega[l] += half * omega * u;
            for t in 0..frames {
                let away = self.dots[l][t] - u;
                d.dots[l][t] += half * omega * alpha[t] * (1.0 + away / self.tau);
                dlog_rho[t] += half * omega * alpha[t] * away;
            }
        }
        for t in 0..frames {
            let gamma = self.over_words(t);
            let v = dot(&gamma, &self.column(t));
            dlog_rho[t] += half * rho[t] * v;
            for (l, gamma) in gamma.iter().enumerate() {
                let away = self.dots[l][t] - v;
                d.dots[l][t] += half * rho[t] * gamma * (1.0 + away / self.tau);
                d.log_omega[l] += half * rho[t] * gamma * away;
            }
        }
        let total: f64 = dlog_rho.iter().sum();
        for t in 0..frames {
            d.bias[t] = dlog_rho[t] - rho[t] * total;
            d.sentence[t] = d.bias[t] / self.relevance_tau;
        }
        d
    }
}

/// Scores, view scores and relevance of all pairs.
pub fn scores(op: &Interact, ins: &[HostTensor]) -> Vec<HostTensor> {
    let inputs = Inputs { op, ins };
    let (texts, videos, views, rows) = (ins[1].dim(0), ins[4].dim(0), inputs.views(), ins[3].dim(0));
    let mut scores = HostTensor::zeros(&[texts, videos]);
    let mut view_scores = HostTensor::zeros(&[views, texts, videos]);
    let mut relevance = HostTensor::zeros(&[texts, rows]);
    for i in 0..texts {
        for j in 0..videos {
            if let Some(pair) = inputs.pair(0, i, j) {
                scores.x_mut()[i * videos + j] = pair.score();
                let (first, last) = inputs.segment(4, j);
                relevance.x_mut()[i * rows + first..i * rows + last].copy_from_slice(&pair.rho());
            }
            for p in 0..views {
                if let Some(pair) = inputs.pair(p + 1, i, j) {
                    view_scores.x_mut()[(p * texts + i) * videos + j] = pair.score();
                }
            }
        }
    }
    vec![scores, view_scores, relevance]
}

/// Scores of listed pairs; a pair that names no text or no video scores 0.
pub fn pair_scores(op: &Interact, ins: &[HostTensor]) -> Vec<HostTensor> {
    let inputs = Inputs { op, ins };
    let pairs = ins[11].u();
    let scores = pairs.chunks_exact(2).map(|p| {
        let (i, j) = (p[0] as usize, p[1] as usize);
        let known = i < ins[1].dim(0) && j < ins[4].dim(0);
        if known { inputs.pair(0, i, j).map_or(0.0, |p| p.score()) } else { 0.0 }
    });
    vec![HostTensor::f64(&[pairs.len() / 2], scores.collect())]
}

/// Gradients of words, word log-weights, frames and frame biases.
pub fn gradients(op: &Interact, ins: &[HostTensor]) -> Vec<HostTensor> {
    let inputs = Inputs { op, ins };
    let (texts, videos, width, rows) = (ins[1].dim(0), ins[4].dim(0), inputs.width(), ins[3].dim(0));
    let mut dwords = HostTensor::zeros(&[ins[0].dim(0), width]);
    let mut dlog_omega = HostTensor::zeros(&[ins[0].dim(0)]);
    let mut dframes = HostTensor::zeros(&[rows, width]);
    let mut dbias = HostTensor::zeros(&[rows]);
    for i in 0..texts {
        for j in 0..videos {
            for view in 0..=inputs.views() {
                let Some(pair) = inputs.pair(view, i, j) else { continue };
                let (begin, end) = inputs.segment(1, i);
                let (first, last) = inputs.segment(4, j);
                let ds = match view {
                    0 => ins[11].x().get(i * videos + j),
                    p => ins[12].x().get(((p - 1) * texts + i) * videos + j),
                };
                let drho = if view == 0 { ins[13].x().get(i * rows + first..i * rows + last) } else { None };
                let d = pair.gradient(ds.copied().unwrap_or(0.0), drho.unwrap_or(&[]));
                for t in 0..last - first {
                    dbias.x_mut()[first + t] += d.bias[t];
                    for l in 0..end - begin {
                        let g = if l == end - begin - 1 { d.sentence[t] } else { d.dots[l][t] };
                        for x in 0..width {
                            dwords.x_mut()[(begin + l) * width + x] += g * inputs.frame(first + t)[x];
                            dframes.x_mut()[(first + t) * width + x] += g * inputs.word(begin + l)[x];
                        }
                    }
                }
                for (l, g) in d.log_omega.iter().enumerate() {
                    dlog_omega.x_mut()[begin + l] += g;
                }
            }
        }
    }
    vec![dwords, dlog_omega, dframes, dbias]
}
