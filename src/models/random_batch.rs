//! A batch of random tokens that is the same on every machine: what benchmarks are run on.

use super::Config;
use super::batch::{Capacity, Rows, pack_texts, pack_videos};
use super::views::{Views, pack_views};
use crate::engine::scheduler::executor::SlotWriter;
use crate::error::Result;
use crate::random::Random;

/// Seed of everything a benchmark makes up.
pub const SEED: u64 = 20_261_120;
/// Streams of random numbers.
const WORDS: u64 = 1;
const FRAMES: u64 = 2;
const LENGTHS: u64 = 3;

/// Pairs whose text (video) has the number of the one before it in every so many, so that masks have work.
const SAME_VIDEO: u32 = 16;
const SAME_CAPTION: u32 = 24;

/// Token rows of one side: normal, of length near one.
pub struct Tokens {
    dim: usize,
    /// Rows `begins[i]..begins[i + 1]` belong to item i.
    begins: Vec<usize>,
    values: Vec<f32>,
}

impl Tokens {
    fn new(lengths: impl Iterator<Item = usize>, dim: usize, stream: u64) -> Tokens {
        let mut begins = vec![0];
        lengths.for_each(|n| begins.push(begins[begins.len() - 1] + n));
        let random = Random::new(SEED, stream);
        let scale = 1.0 / (dim as f32).sqrt();
        let count = begins[begins.len() - 1] * dim;
        Tokens { dim, begins, values: (0..count as u64).map(|i| scale * random.normal(i)).collect() }
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// (begin, end) of every item, side by side.
    pub fn segments(&self) -> Vec<u32> {
        self.begins.windows(2).flatten().map(|n| *n as u32).collect()
    }
}

impl Rows for Tokens {
    fn rows(&self, i: usize) -> usize {
        self.begins[i + 1] - self.begins[i]
    }
    fn write(&self, i: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values[self.begins[i] * self.dim..self.begins[i + 1] * self.dim]);
        Ok(())
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn places(&self, _: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(r, place)| *place = r as f32);
    }
}

/// Texts and videos of a batch.
pub struct Batch {
    pub texts: Tokens,
    pub videos: Tokens,
    pub video_key: Vec<u32>,
    pub caption_key: Vec<u32>,
}

/// The sizes of a batch; `ragged` draws every length from 1 to the given one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub texts: usize,
    pub videos: usize,
    /// Words of a text, its sentence row not counted.
    pub words: usize,
    pub frames: usize,
    pub dim: usize,
    pub ragged: bool,
}

impl Sizes {
    pub fn batch(&self) -> Batch {
        let lengths = |stream: u64, n: usize, most: usize| {
            let random = Random::new(SEED, LENGTHS + stream);
            let ragged = self.ragged;
            (0..n).map(move |i| if ragged { 1 + random.below(i as u64, most as u64) as usize } else { most })
        };
        let like_before = |i: u32, every: u32| if i % every == every - 1 { i - 1 } else { i };
        let pairs = 0..self.texts as u32;
        Batch {
            texts: Tokens::new(lengths(0, self.texts, self.words).map(|n| n + 1), self.dim, WORDS),
            videos: Tokens::new(lengths(1, self.videos, self.frames), self.dim, FRAMES),
            video_key: pairs.clone().map(|i| like_before(i, SAME_VIDEO)).collect(),
            caption_key: pairs.map(|i| like_before(i, SAME_CAPTION)).collect(),
        }
    }
}

impl Batch {
    pub fn capacity(&self) -> Capacity {
        Capacity {
            texts: self.texts.begins.len() - 1,
            words: self.texts.rows(),
            videos: self.videos.begins.len() - 1,
            frames: self.videos.rows(),
        }
    }

    /// Packs the whole batch, and of the views that the model's losses take those of a run's first step.
    pub fn pack(&self, slot: &mut SlotWriter, config: &Config) -> Result<()> {
        let items: Vec<usize> = (0..self.video_key.len()).collect();
        pack_texts(slot, &self.texts, &items)?;
        pack_videos(slot, &self.videos, &items)?;
        slot.u32("video_key")?.copy_from_slice(&self.video_key);
        slot.u32("caption_key")?.copy_from_slice(&self.caption_key);
        // Where a model asks: every other frame is foreground, every other caption tells an order.
        let captions = items.iter().map(|i| if i % 2 == 0 { "first this, then that" } else { "this" }).collect();
        let foreground = |_: usize, frame: usize| frame.is_multiple_of(2);
        let foreground = Some(&foreground as &(dyn Fn(usize, usize) -> bool + Sync));
        let part = 0..items.len();
        let views = Views { rows: &self.videos, videos: &items, part, captions, foreground, seed: SEED, step: 0 };
        pack_views(slot, config, &views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { texts: 50, videos: 50, words: 7, frames: 5, dim: 16, ragged: true };

    #[test]
    fn a_ragged_batch_has_every_length_and_rows_near_one() {
        let batch = SIZES.batch();
        let mut lengths: Vec<usize> = (0..50).map(|i| Rows::rows(&batch.texts, i)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!(lengths, (2..=8).collect::<Vec<_>>(), "words and the sentence row");
        let square = batch.texts.values().iter().map(|x| x * x).sum::<f32>() / batch.texts.rows() as f32;
        assert!((0.8..1.2).contains(&square), "{square}");
        assert_eq!(batch.texts.segments().last().copied(), Some(batch.texts.rows() as u32));
        assert!((1..50).any(|i| batch.video_key[i] == batch.video_key[i - 1]), "masks have work");
    }
}
