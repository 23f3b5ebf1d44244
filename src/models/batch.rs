//! How a batch of texts and videos lies in a slot: tokens packed without padding, with a table of segments each.

use crate::engine::graph::{Graph, Value};
use crate::engine::scheduler::executor::SlotWriter;
use crate::engine::tensor::{Axis, Dim, Meta};
use crate::error::{Error, Result};

/// Rows of frame tokens.
pub const FRAMES: Axis = Axis(0);
/// Rows of word tokens, sentence vectors included.
pub const WORDS: Axis = Axis(1);
pub const VIDEOS: Axis = Axis(2);
pub const TEXTS: Axis = Axis(3);

/// Capacities of a plan's batches.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub texts: usize,
    /// Word rows of a whole batch, one sentence row per text included.
    pub words: usize,
    pub videos: usize,
    /// Frame rows of a whole batch.
    pub frames: usize,
}

impl Capacity {
    pub fn texts_dim(&self) -> Dim {
        Dim::Ragged(TEXTS, self.texts)
    }
    pub fn words_dim(&self) -> Dim {
        Dim::Ragged(WORDS, self.words)
    }
    pub fn videos_dim(&self) -> Dim {
        Dim::Ragged(VIDEOS, self.videos)
    }
    pub fn frames_dim(&self) -> Dim {
        Dim::Ragged(FRAMES, self.frames)
    }
}

/// The text side of a batch in a graph.
#[derive(Copy, Clone, Debug)]
pub struct TextInputs {
    /// `[ΣL, text_dim]`; a text's last row is its sentence vector.
    pub words: Value,
    /// u32 `[N, 2]`
    pub segments: Value,
    pub capacity: Capacity,
}

impl TextInputs {
    pub fn declare(g: &mut Graph, capacity: Capacity, dim: usize) -> Result<TextInputs> {
        Ok(TextInputs {
            words: g.input("words", Meta::f32(&[capacity.words_dim(), Dim::Fixed(dim)])?),
            segments: g.input("word_segments", Meta::u32(&[capacity.texts_dim(), Dim::Fixed(2)])?),
            capacity,
        })
    }
}

/// The video side of a batch in a graph.
#[derive(Copy, Clone, Debug)]
pub struct VideoInputs {
    /// `[ΣT, video_dim]`
    pub frames: Value,
    /// u32 `[M, 2]`
    pub segments: Value,
    pub capacity: Capacity,
}

impl VideoInputs {
    pub fn declare(g: &mut Graph, capacity: Capacity, dim: usize) -> Result<VideoInputs> {
        Ok(VideoInputs {
            frames: g.input("frames", Meta::f32(&[capacity.frames_dim(), Dim::Fixed(dim)])?),
            segments: g.input("frame_segments", Meta::u32(&[capacity.videos_dim(), Dim::Fixed(2)])?),
            capacity,
        })
    }
}

/// One side's tokens as a packer sees them.
pub trait Rows {
    /// Rows of item `i` as the model takes them, after cutting or sampling.
    fn rows(&self, i: usize) -> usize;
    /// Writes them, `[rows, dim]`.
    fn write(&self, i: usize, out: &mut [f32]) -> Result<()>;
    fn dim(&self) -> usize;
}

/// Packs texts into a slot.
pub fn pack_texts(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize]) -> Result<()> {
    let total = pack(slot, rows, items, "words", "word_segments")?;
    slot.count(TEXTS, items.len());
    slot.count(WORDS, total);
    Ok(())
}

/// Packs videos into a slot.
pub fn pack_videos(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize]) -> Result<()> {
    let total = pack(slot, rows, items, "frames", "frame_segments")?;
    slot.count(VIDEOS, items.len());
    slot.count(FRAMES, total);
    Ok(())
}

/// Rows side by side, and where each item's begin and end.
fn pack(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize], tokens: &str, segments: &str) -> Result<usize> {
    let dim = rows.dim();
    let out = slot.f32(tokens)?;
    let mut end = 0;
    for &i in items {
        let n = rows.rows(i);
        let place = out.get_mut(end * dim..(end + n) * dim).ok_or_else(|| {
            Error::shape(format!("input {tokens}"), format!("a batch of {} items does not fit its plan", items.len()))
        })?;
        rows.write(i, place)?;
        end += n;
    }
    if slot.has(segments) {
        let table = slot.u32(segments)?;
        let mut begin = 0;
        for (k, &i) in items.iter().enumerate() {
            let stop = begin + rows.rows(i) as u32;
            let entry = table.get_mut(2 * k..2 * k + 2).ok_or_else(|| {
                Error::shape(format!("input {segments}"), format!("{} items do not fit the plan", items.len()))
            })?;
            entry.copy_from_slice(&[begin, stop]);
            begin = stop;
        }
    }
    Ok(end)
}
