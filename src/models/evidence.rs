//! Why a pair scores as it does: what a device hands back of one text and one video, made into what a person looks at.

use super::batch::{FRAMES, WORDS};
use crate::engine::op::interact::EXCLUDED;
use crate::engine::scheduler::executor::Outputs;
use crate::error::Result;

/// Why a pair scores as it does. Rows are words in the order of the text, the sentence vector last; columns are frames.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    pub score: f32,
    pub words: usize,
    pub frames: usize,
    /// `[words + 1, frames]` cosine; empty where the model has no token scores.
    pub similarity: Vec<f32>,
    /// `[words]`, sums to 1.
    pub word_weights: Vec<f32>,
    /// `[frames]`, sums to 1.
    pub relevance: Vec<f32>,
    /// Experts of the model; 0 where it does not route.
    pub experts: usize,
    /// `[frames, experts]`: how much of each expert is in a frame for this text; rows sum to 1.
    pub gates: Vec<f32>,
    /// `[frames]` whether the model takes a frame for foreground, and the score of all others alone.
    pub foreground: Vec<bool>,
    pub background_score: Option<f32>,
    /// `[D]`: the video as one vector, made of its tokens' directions.
    pub pooled: Vec<f32>,
}

impl Explanation {
    /// Share of each expert over the video, weighted by the frames' relevance: `[experts]`.
    pub fn shares(&self) -> Vec<f32> {
        let mut shares = vec![0.0; self.experts];
        for (gates, rho) in self.gates.chunks_exact(self.experts.max(1)).zip(&self.relevance) {
            shares.iter_mut().zip(gates).for_each(|(s, g)| *s += rho * g);
        }
        shares
    }

    /// From the outputs of the plan `evidence` for one text and one video; `kept` as in
    /// [`Interact`](crate::engine::op::interact::Interact).
    pub fn read(outputs: &Outputs, kept: usize) -> Result<Explanation> {
        let (rows, frames) = (outputs.counts.get(WORDS), outputs.counts.get(FRAMES));
        let mut e = Explanation {
            score: outputs.scalar("scores")?,
            words: rows.saturating_sub(1),
            frames,
            ..Explanation::default()
        };
        if outputs.has("pooled") {
            e.pooled = outputs.f32("pooled")?[..outputs.capacity("pooled", 1)?].to_vec();
        }
        if !outputs.has("relevance") {
            return Ok(e);
        }
        e.word_weights = match outputs.has("word_log_weights") {
            true => outputs.f32("word_log_weights")?[..e.words].iter().map(|w| w.exp()).collect(),
            false => vec![1.0 / e.words.max(1) as f32; e.words],
        };
        e.relevance = outputs.f32("relevance")?[..frames].to_vec();
        let mix = Mix::read(outputs, frames, kept)?;
        let width = outputs.capacity("words", 1)?;
        let words = &outputs.f32("words")?[..rows * width];
        let tokens = &outputs.f32("frames")?[..frames * mix.slots * width];
        let routed = mix.tokens(tokens, width);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        e.similarity = words
            .chunks_exact(width.max(1))
            .flat_map(|word| routed.chunks_exact(width.max(1)).map(move |token| dot(word, token)))
            .collect();
        e.experts = mix.experts;
        e.gates = mix.gates;
        if outputs.has("background") {
            e.foreground = outputs.f32("background")?[..frames].iter().map(|w| *w <= EXCLUDED).collect();
            e.background_score = Some(outputs.scalar("background_scores")?);
        }
        Ok(e)
    }
}

/// How the experts of each frame are mixed for one text.
struct Mix {
    slots: usize,
    experts: usize,
    /// `[frames, slots]`
    weights: Vec<f32>,
    /// `[frames, experts]`
    gates: Vec<f32>,
}

impl Mix {
    fn read(outputs: &Outputs, frames: usize, kept: usize) -> Result<Mix> {
        if !outputs.has("router_text") {
            return Ok(Mix { slots: 1, experts: 0, weights: vec![1.0; frames], gates: vec![] });
        }
        let (experts, slots) = (outputs.capacity("router_text", 1)?, outputs.capacity("router_frame", 1)?);
        let query = &outputs.f32("router_text")?[..experts];
        let frame = &outputs.f32("router_frame")?[..frames * slots];
        let table: Vec<usize> = if outputs.has("slot_table") {
            outputs.u32("slot_table")?[..frames * slots].iter().map(|e| *e as usize).collect()
        } else {
            (0..frames * slots).map(|i| i % slots.max(1)).collect()
        };
        let (mut weights, mut gates) = (vec![], vec![0.0; frames * experts]);
        for (t, (logits, table)) in frame.chunks_exact(slots).zip(table.chunks_exact(slots)).enumerate() {
            let logits: Vec<f32> =
                logits.iter().zip(table).map(|(h, e)| h + query.get(*e).copied().unwrap_or(EXCLUDED)).collect();
            let mut order: Vec<usize> = (0..slots).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let most = order.first().map_or(0.0, |s| logits[*s]);
            let kept = if kept == 0 { slots } else { kept.min(slots) };
            let mut mix = vec![0.0; slots];
            order[..kept].iter().for_each(|s| mix[*s] = (logits[*s] - most).exp());
            let sum: f32 = mix.iter().sum();
            for (pi, e) in mix.iter_mut().zip(table) {
                *pi /= sum;
                if let Some(gate) = gates.get_mut(t * experts + e) {
                    *gate += *pi;
                }
            }
            weights.extend(mix);
        }
        Ok(Mix { slots, experts, weights, gates })
    }

    /// Mixed tokens of length one, `[frames, width]`.
    fn tokens(&self, experts: &[f32], width: usize) -> Vec<f32> {
        let mut all = vec![];
        for (tokens, weights) in experts.chunks_exact((self.slots * width).max(1)).zip(self.weights.chunks(self.slots))
        {
            let mut mixed = vec![0.0f32; width];
            for (token, weight) in tokens.chunks_exact(width.max(1)).zip(weights) {
                mixed.iter_mut().zip(token).for_each(|(m, x)| *m += weight * x);
            }
            let length = mixed.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 1e-6 {
                mixed.iter_mut().for_each(|x| *x /= length);
            }
            all.extend(mixed);
        }
        all
    }
}
