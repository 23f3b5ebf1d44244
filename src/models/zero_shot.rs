//! Search before anything is trained: tokens of an encoder that puts texts and pictures into one space, as CLIP does.
//!
//! ```text
//! S = ½ (Σ_t α_t c_t + Σ_t ρ_t c_t)        ρ = softmax(c / τ)        α = softmax(2c / τ)
//! ```
//! over the cosines `c` of a sentence and all frames of a video: a soft maximum, so that a short moment counts. It is the
//! interaction of tokens with one word, the sentence itself, which attends with the frames' relevance as its prior
//! ([`interact`](crate::engine::op::interact)); here videos may be as long as they are.

use super::batch::FRAMES;
use super::rows::check_width;
use crate::data::TokenSource;
use crate::engine::backend::Backend;
use crate::engine::graph::{Graph, Value};
use crate::engine::inference;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::norm::Unit;
use crate::engine::scheduler::executor::{Executor, SlotWriter};
use crate::engine::scheduler::stream::stream;
use crate::engine::tensor::{Dim, Meta};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What scores are told to come from.
pub const NAME: &str = "zero-shot";
/// τ: 1 / 100, the scale at which CLIP's cosines were trained (Radford et al. 2021).
const TEMPERATURE: f64 = 0.01;
/// Most rows of a batch: what a search takes does not grow with what there is to search, but for the longest video.
const ROWS: usize = 4096;

/// A sentence against the frames of videos, on a device.
pub struct ZeroShot<'a> {
    videos: &'a dyn TokenSource,
    sentence: Vec<f32>,
    executor: Executor,
    /// The item that is loaded whole, where a batch takes a part of it.
    whole: Mutex<(usize, Vec<f32>)>,
}

/// Rows of one video.
type Part = (usize, Range<usize>);

impl<'a> ZeroShot<'a> {
    /// For a sentence vector `[dim]` and videos of the same encoder.
    ///
    /// # Errors
    /// When the videos are not as wide as the sentence, or the device has too little memory.
    pub fn new(sentence: &[f32], videos: &'a dyn TokenSource, backend: Box<dyn Backend>) -> Result<ZeroShot<'a>> {
        check_width(videos, sentence.len(), "text_dim")?;
        let dim = Dim::Fixed(sentence.len());
        let longest = (0..videos.len()).map(|i| videos.rows(i)).sum::<usize>().clamp(1, ROWS);
        let mut g = Graph::new();
        let words = g.input("sentence", Meta::f32(&[Dim::Fixed(1), dim])?);
        let frames = g.input("frames", Meta::f32(&[Dim::Ragged(FRAMES, longest), dim])?);
        let (words, frames) = (g.apply(Unit, &[words])?, g.apply(Unit, &[frames])?);
        let cosines = g.apply(LINEAR.clone(), &[frames, words, Value::ABSENT, Value::ABSENT])?;
        g.output("cosines", cosines);
        let executor = inference::load(&[("cosines", g)], &[], backend)?;
        Ok(ZeroShot { videos, sentence: sentence.to_vec(), executor, whole: Mutex::new((usize::MAX, vec![])) })
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    /// Scores of all videos, in their order.
    ///
    /// # Errors
    /// Those of the videos' files and of the device, and [`Error::Stopped`].
    pub fn scores(&mut self, stop: &AtomicBool) -> Result<Vec<f32>> {
        let mut scores = vec![SoftMaximum::default(); self.videos.len()];
        let parts = (0..self.videos.len()).map(|i| (i, 0..self.videos.rows(i)));
        self.run(parts, |item, cosines| cosines.iter().for_each(|c| scores[item].add(f64::from(*c))), stop)?;
        Ok(scores.iter().map(|score| score.value() as f32).collect())
    }

    /// The cosine of each row of video `item` with the sentence.
    ///
    /// # Errors
    /// As [`ZeroShot::scores`].
    pub fn cosines(&mut self, item: usize, stop: &AtomicBool) -> Result<Vec<f32>> {
        let mut all = vec![];
        let part = (item, 0..self.videos.rows(item));
        self.run([part].into_iter(), |_, cosines| all.extend_from_slice(cosines), stop)?;
        Ok(all)
    }

    /// Seconds of each row of video `item`; where they are not known, a row counts as one.
    pub fn seconds(&self, item: usize) -> Vec<f32> {
        let rows = self.videos.rows(item);
        self.videos.timestamps(item).map_or_else(|| (0..rows).map(|r| r as f32).collect(), |times| times.into_owned())
    }

    /// Hands the cosines of parts of videos to `each`, in their order.
    fn run(
        &mut self,
        parts: impl Iterator<Item = Part> + Send,
        mut each: impl FnMut(usize, &[f32]),
        stop: &AtomicBool,
    ) -> Result<()> {
        let ZeroShot { videos, sentence, executor, whole } = self;
        // Shared with the thread that packs.
        let whole = &*whole;
        let most = executor.plan(0).input("frames").map_or(0, |slot| slot.meta.dim(0).cap());
        let pack = |batch: &Vec<Part>, slot: &mut SlotWriter| {
            slot.count(FRAMES, batch.iter().map(|(_, rows)| rows.len()).sum());
            slot.f32("sentence")?.copy_from_slice(sentence);
            let mut begin = 0;
            for (item, rows) in batch {
                let room = &mut slot.f32("frames")?[begin..][..rows.len() * videos.dim()];
                begin += room.len();
                if rows.len() == videos.rows(*item) {
                    videos.load_into(*item, room)?;
                    continue;
                }
                // A poisoned lock means that a packer panicked; the item is loaded anew.
                let mut whole = whole.lock().unwrap_or_else(|e| e.into_inner());
                if whole.0 != *item {
                    *whole = (usize::MAX, vec![0.0; videos.rows(*item) * videos.dim()]);
                    videos.load_into(*item, &mut whole.1)?;
                    whole.0 = *item;
                }
                room.copy_from_slice(&whole.1[rows.start * videos.dim()..][..room.len()]);
            }
            Ok(())
        };
        let done = |batch: Vec<Part>, outputs: &crate::engine::scheduler::executor::Outputs| {
            let (cosines, mut begin) = (outputs.f32("cosines")?, 0);
            for (item, rows) in batch {
                each(item, &cosines[begin..][..rows.len()]);
                begin += rows.len();
            }
            Ok(())
        };
        stream(executor, 0, Batches { parts, left: None, most }, pack, done, stop)?;
        if stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// Parts side by side, cut where a batch is full.
struct Batches<P> {
    parts: P,
    /// What is left of the part that was cut.
    left: Option<Part>,
    most: usize,
}

impl<P: Iterator<Item = Part>> Iterator for Batches<P> {
    type Item = Vec<Part>;

    fn next(&mut self) -> Option<Vec<Part>> {
        let (mut batch, mut room) = (vec![], self.most);
        while room > 0
            && let Some((item, rows)) = self.left.take().or_else(|| self.parts.next())
        {
            let cut = rows.start + rows.len().min(room);
            self.left = (cut < rows.end).then_some((item, cut..rows.end));
            room -= cut - rows.start;
            batch.push((item, rows.start..cut));
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// The score of a video from the cosines of its frames, in any number and one after the other, without all of them.
#[derive(Copy, Clone, Debug, Default)]
pub struct SoftMaximum {
    any: bool,
    /// The largest cosine; sums are relative to it.
    most: f64,
    /// Of both temperatures, τ and τ / 2: `Σ e^((c - most) / τ)`, and the same times `c`.
    sums: [[f64; 2]; 2],
}

impl SoftMaximum {
    pub fn add(&mut self, cosine: f64) {
        let weights = |from: f64| [1.0, 2.0].map(|sharp| (sharp * from / TEMPERATURE).exp());
        if !self.any || cosine > self.most {
            let factors = if self.any { weights(self.most - cosine) } else { [0.0; 2] };
            self.sums.iter_mut().zip(factors).for_each(|(sums, factor)| *sums = sums.map(|sum| sum * factor));
            (self.any, self.most) = (true, cosine);
        }
        for (sums, weight) in self.sums.iter_mut().zip(weights(cosine - self.most)) {
            sums[0] += weight;
            sums[1] += weight * cosine;
        }
    }

    /// S; 0 where there is no frame.
    pub fn value(&self) -> f64 {
        if self.any { 0.5 * self.sums.iter().map(|[whole, weighted]| weighted / whole).sum::<f64>() } else { 0.0 }
    }

    /// The score of a whole video, and ρ of its frames.
    pub fn of(cosines: &[f32]) -> (f32, Vec<f32>) {
        let mut all = SoftMaximum::default();
        cosines.iter().for_each(|c| all.add(f64::from(*c)));
        let relevance = |c: &f32| ((f64::from(*c) - all.most) / TEMPERATURE).exp() / all.sums[0][0];
        (all.value() as f32, cosines.iter().map(|c| relevance(c) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_batches_and_lose_no_row() {
        let parts = [(0, 0..3), (1, 0..9), (2, 0..1), (3, 0..4)];
        let batches: Vec<_> = Batches { parts: parts.clone().into_iter(), left: None, most: 4 }.collect();
        assert!(batches[..batches.len() - 1].iter().all(|b| b.iter().map(|p| p.1.len()).sum::<usize>() == 4));
        let rows = |parts: &[Part]| parts.iter().flat_map(|(i, r)| r.clone().map(|r| (*i, r))).collect::<Vec<_>>();
        assert_eq!(rows(&batches.concat()), rows(&parts));
    }

    #[test]
    fn a_running_soft_maximum_is_that_of_all_at_once() {
        // Rising, falling and far apart: at τ / 2 the smallest count e^-400 of the largest.
        for cosines in [vec![-1.0, 0.3, 0.31, 1.0], vec![0.9, 0.89, -1.0], vec![0.2; 3000], vec![-0.5]] {
            let mean = |sharp: f64| {
                let most = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> =
                    cosines.iter().map(|c: &f64| (sharp * (c - most) / TEMPERATURE).exp()).collect();
                weights.iter().zip(&cosines).map(|(w, c)| w * c).sum::<f64>() / weights.iter().sum::<f64>()
            };
            let mut score = SoftMaximum::default();
            cosines.iter().for_each(|c| score.add(*c));
            let expected = 0.5 * (mean(1.0) + mean(2.0));
            assert!((score.value() - expected).abs() < 1e-12, "{} {expected}", score.value());
        }
        assert_eq!(SoftMaximum::of(&[]), (0.0, vec![]));
        assert_eq!(SoftMaximum::of(&[0.5, 0.5]), (0.5, vec![0.5, 0.5]));
    }
}
