//! Token interaction in f64, one pair at a time, as the formulas read.

use super::super::super::tensor::HostTensor;
use super::{EXCLUDED, Interact, LEAST_NORM};

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

/// A text's gates of one frame's slots, and the products of the slots' experts.
struct Gates {
    pi: Vec<f64>,
    gram: Vec<f64>,
}

/// The gradient of a frame's gates.
struct GateGradient {
    logits: Vec<f64>,
    gram: Vec<f64>,
}

impl Gates {
    /// `(G π)_s`
    fn toward(&self, s: usize) -> f64 {
        dot(&self.gram[s * self.pi.len()..][..self.pi.len()], &self.pi)
    }
    /// `|Σ_s π_s E_s|²`
    fn squared(&self) -> f64 {
        (0..self.pi.len()).map(|s| self.pi[s] * self.toward(s)).sum()
    }
    fn has_direction(&self) -> bool {
        self.squared() > f64::from(LEAST_NORM)
    }
    /// What each expert's dot products count in the cosine.
    fn weights(&self) -> Vec<f64> {
        let n = self.squared();
        self.pi.iter().map(|pi| if self.has_direction() { pi / n.sqrt() } else { 0.0 }).collect()
    }
    /// From `y_s = Σ_l dc_l ⟨w_l, E_s⟩`.
    fn gradient(&self, y: &[f64]) -> GateGradient {
        let (k, n) = (self.pi.len(), self.squared());
        if !self.has_direction() {
            return GateGradient { logits: vec![0.0; k], gram: vec![0.0; k * k] };
        }
        let dn = -0.5 * n.powf(-1.5) * dot(&self.pi, y);
        let dpi: Vec<f64> = (0..k).map(|s| y[s] / n.sqrt() + 2.0 * dn * self.toward(s)).collect();
        let mean = dot(&self.pi, &dpi);
        GateGradient {
            logits: (0..k).map(|s| self.pi[s] * (dpi[s] - mean)).collect(),
            gram: (0..k * k).map(|i| dn * self.pi[i / k] * self.pi[i % k]).collect(),
        }
    }
}

impl Inputs<'_> {
    fn width(&self) -> usize {
        self.ins[0].dim(1)
    }
    fn word(&self, row: usize) -> &[f64] {
        &self.ins[0].x()[row * self.width()..][..self.width()]
    }
    fn slots(&self) -> usize {
        if self.ins[7].is_absent() { 1 } else { self.ins[7].dim(1) }
    }
    fn expert(&self, row: usize, slot: usize) -> &[f64] {
        &self.ins[3].x()[(row * self.slots() + slot) * self.width()..][..self.width()]
    }
    /// How a text mixes a frame's experts; without a router there is one, of length one.
    fn gates(&self, text: usize, row: usize) -> Gates {
        let k = self.slots();
        if self.ins[6].is_absent() {
            return Gates { pi: vec![1.0], gram: vec![1.0] };
        }
        let experts = self.ins[6].dim(1);
        let logits = (0..k).map(|s| {
            let expert = if self.ins[8].is_absent() { s } else { self.ins[8].u()[row * k + s] as usize };
            let of_text = self.ins[6].x()[text * experts..][..experts].get(expert);
            // With 0 added no zero is negative, and equal ones are ties.
            of_text.map_or(f64::NEG_INFINITY, |g| unless_excluded(g + self.ins[7].x()[row * k + s] + 0.0))
        });
        let mut logits: Vec<f64> = logits.collect();
        let kept = if self.op.kept == 0 { k } else { self.op.kept as usize };
        let mut by_size: Vec<usize> = (0..k).collect();
        // Stable: ties stay in the order of their slots.
        by_size.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        by_size.into_iter().skip(kept).for_each(|s| logits[s] = f64::NEG_INFINITY);
        let none = logits.iter().all(|x| *x == f64::NEG_INFINITY);
        let pi = if none { vec![0.0; k] } else { softmax(&logits) };
        Gates { pi, gram: self.ins[9].x()[row * k * k..][..k * k].to_vec() }
    }
    /// The cosine of a row of words with a text's token of a frame.
    fn cosine(&self, gates: &Gates, word: usize, row: usize) -> f64 {
        let p = gates.weights();
        (0..p.len()).map(|s| p[s] * dot(self.word(word), self.expert(row, s))).sum()
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
        let gates: Vec<Gates> = (first..last).map(|t| self.gates(text, t)).collect();
        let cosine = |l: usize, t: usize| self.cosine(&gates[t - first], l, t);
        let logits: Vec<f64> = (first..last).map(|t| cosine(sentence, t) / tau + self.prior(view, t)).collect();
        let is_empty = |x: &[f64]| x.iter().all(|x| *x == f64::NEG_INFINITY);
        if is_empty(&log_omega) || is_empty(&logits) {
            return None;
        }
        Some(Pair {
            dots: words.map(|l| (first..last).map(|t| cosine(l, t)).collect()).collect(),
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

/// Gradients of words, word log-weights, frames, frame biases, the router's logits of texts and of frames, and the gram.
pub fn gradients(op: &Interact, ins: &[HostTensor]) -> Vec<HostTensor> {
    let inputs = Inputs { op, ins };
    let (texts, videos, width, rows) = (ins[1].dim(0), ins[4].dim(0), inputs.width(), ins[3].dim(0));
    let mut dwords = HostTensor::zeros(&[ins[0].dim(0), width]);
    let mut dlog_omega = HostTensor::zeros(&[ins[0].dim(0)]);
    let mut dframes = HostTensor::zeros(&[rows, ins[3].dim(1)]);
    let mut dbias = HostTensor::zeros(&[rows]);
    let k = inputs.slots();
    let (experts, slots) = if ins[6].is_absent() { (0, 0) } else { (ins[6].dim(1), k) };
    let mut drouter_text = HostTensor::zeros(&[texts, experts]);
    let mut drouter_frame = HostTensor::zeros(&[rows, slots]);
    let mut dgram = HostTensor::zeros(&[rows, slots * slots]);
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
                    let row = first + t;
                    let gates = inputs.gates(i, row);
                    let p = gates.weights();
                    let mut y = vec![0.0; k];
                    dbias.x_mut()[row] += d.bias[t];
                    for l in 0..end - begin {
                        let g = if l == end - begin - 1 { d.sentence[t] } else { d.dots[l][t] };
                        for s in 0..k {
                            y[s] += g * dot(inputs.word(begin + l), inputs.expert(row, s));
                            for x in 0..width {
                                dwords.x_mut()[(begin + l) * width + x] += g * p[s] * inputs.expert(row, s)[x];
                                dframes.x_mut()[(row * k + s) * width + x] += g * p[s] * inputs.word(begin + l)[x];
                            }
                        }
                    }
                    if slots == 0 {
                        continue;
                    }
                    let of_gates = gates.gradient(&y);
                    for s in 0..k {
                        let expert = if ins[8].is_absent() { s } else { ins[8].u()[row * k + s] as usize };
                        drouter_frame.x_mut()[row * k + s] += of_gates.logits[s];
                        if expert < experts {
                            drouter_text.x_mut()[i * experts + expert] += of_gates.logits[s];
                        }
                    }
                    of_gates.gram.iter().enumerate().for_each(|(s, g)| dgram.x_mut()[row * k * k + s] += g);
                }
                for (l, g) in d.log_omega.iter().enumerate() {
                    dlog_omega.x_mut()[begin + l] += g;
                }
            }
        }
    }
    vec![dwords, dlog_omega, dframes, dbias, drouter_text, drouter_frame, dgram]
}

/// The log-weights that take out the foreground of every video for its text, or all but it.
pub fn foreground(op: &Interact, keep_background: bool, ins: &[HostTensor]) -> Vec<HostTensor> {
    let ins = &mut [ins, &[HostTensor::absent()]].concat();
    // A frame's bias says what it counts, not what it shows.
    ins[5] = HostTensor::absent();
    let inputs = Inputs { op, ins };
    let mut out = HostTensor::zeros(&[1, ins[3].dim(0)]);
    for i in 0..ins[1].dim(0).min(ins[4].dim(0)) {
        let Some(pair) = inputs.pair(0, i, i) else { continue };
        let peak = |t: usize| {
            let words = pair.dots.iter().zip(&pair.log_omega).filter(|(_, w)| **w > f64::NEG_INFINITY);
            words.map(|(c, _)| c[t] + 0.0).fold(f64::NEG_INFINITY, f64::max)
        };
        let (first, last) = inputs.segment(4, i);
        let peaks: Vec<f64> = (0..last - first).map(peak).collect();
        let mut by_size: Vec<usize> = (0..peaks.len()).collect();
        by_size.sort_by(|a, b| peaks[*b].total_cmp(&peaks[*a]));
        let (foreground, rest) = by_size.split_at(peaks.len().div_ceil(2));
        let taken_out = if keep_background { foreground } else { rest };
        taken_out.iter().for_each(|t| out.x_mut()[first + t] = 10.0 * f64::from(EXCLUDED));
    }
    vec![out]
}
