//! How a batch of texts and videos lies in a slot: tokens packed without padding, with a table of segments each.

use super::Config;
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
/// Rows of frame tokens of perturbed videos.
pub const PERTURBED: Axis = Axis(4);

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
    /// Frame rows after a perturbation that makes videos at most `fastest` times as long; rounding may add one to each.
    pub fn perturbed_dim(&self, fastest: f32) -> Dim {
        Dim::Ragged(PERTURBED, (self.frames as f64 * f64::from(fastest)).ceil() as usize + self.videos)
    }
}

/// The text side of a batch in a graph.
#[derive(Copy, Clone, Debug)]
pub struct TextInputs {
    /// `[ΣL, text_dim]`; a text's last row is its sentence vector.
    pub words: Value,
    /// u32 `[N, 2]`
    pub segments: Value,
    /// `[ΣL, 2·WAVES]`: where in its text a word stands, as [`waves`]; absent where the model does not ask.
    pub places: Value,
    /// u32 `[N]`: another text of the batch for each; absent where the model does not ask.
    pub neighbours: Value,
    pub capacity: Capacity,
}

impl TextInputs {
    pub fn declare(g: &mut Graph, capacity: Capacity, config: &Config) -> Result<TextInputs> {
        let rows = capacity.words_dim();
        Ok(TextInputs {
            words: g.input("words", Meta::f32(&[rows, Dim::Fixed(config.text_dim)])?),
            segments: g.input("word_segments", Meta::u32(&[capacity.texts_dim(), Dim::Fixed(2)])?),
            places: if config.positions() { waves_input(g, "word_places", rows)? } else { Value::ABSENT },
            neighbours: if config.neighbours() {
                g.input("neighbours", Meta::u32(&[capacity.texts_dim()])?)
            } else {
                Value::ABSENT
            },
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
    /// `[ΣT, 2·WAVES]`: when a frame is seen, as [`waves`]; absent where the model does not ask.
    pub times: Value,
    pub capacity: Capacity,
}

impl VideoInputs {
    pub fn declare(g: &mut Graph, capacity: Capacity, config: &Config) -> Result<VideoInputs> {
        let rows = capacity.frames_dim();
        Ok(VideoInputs {
            frames: g.input("frames", Meta::f32(&[rows, Dim::Fixed(config.video_dim)])?),
            segments: g.input("frame_segments", Meta::u32(&[capacity.videos_dim(), Dim::Fixed(2)])?),
            times: if config.positions() { waves_input(g, "frame_times", rows)? } else { Value::ABSENT },
            capacity,
        })
    }
}

/// Frequencies of an encoded place.
pub const WAVES: usize = 10;

pub fn waves_input(g: &mut Graph, name: &str, rows: Dim) -> Result<Value> {
    Ok(g.input(name, Meta::f32(&[rows, Dim::Fixed(2 * WAVES)])?))
}

/// Shortest and longest period in seconds for frames, in words for words.
pub const FRAME_PERIODS: (f64, f64) = (0.5, 600.0);
const WORD_PERIODS: (f64, f64) = (2.0, 1000.0);

/// Sines, then cosines, of a place on [`WAVES`] periods in geometric steps (Vaswani et al. 2017, section 3.5, here over
/// seconds). In f64 on the host: at 600 s an f32 sine on a GPU has lost its shortest period.
pub fn waves(place: f32, (shortest, longest): (f64, f64), out: &mut [f32]) {
    let (sines, cosines) = out.split_at_mut(out.len() / 2);
    let step = (longest / shortest).powf(1.0 / (WAVES - 1) as f64);
    let mut period = shortest;
    for (sine, cosine) in sines.iter_mut().zip(cosines) {
        let (s, c) = (std::f64::consts::TAU * f64::from(place) / period).sin_cos();
        (*sine, *cosine) = (s as f32, c as f32);
        period *= step;
    }
}

/// One side's tokens as a packer sees them.
pub trait Rows {
    /// Rows of item `i` as the model takes them, after cutting or sampling.
    fn rows(&self, i: usize) -> usize;
    /// Writes them, `[rows, dim]`.
    fn write(&self, i: usize, out: &mut [f32]) -> Result<()>;
    fn dim(&self) -> usize;
    /// The row of the source that row `r` of item `i` shows.
    fn source_row(&self, _: usize, r: usize) -> usize {
        r
    }
    /// Where each row stands: a frame's seconds, a word's number.
    fn places(&self, i: usize, out: &mut [f32]);
    /// Packs what rows are made of where a plan makes them itself.
    fn pack_source(&self, _: &mut SlotWriter, _: &[usize]) -> Result<()> {
        Ok(())
    }
}

/// Packs texts into a slot.
pub fn pack_texts(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize]) -> Result<()> {
    let total = pack(slot, rows, items, "words", "word_segments")?;
    pack_places(slot, rows, items, "word_places", (WORD_PERIODS, 1))?;
    if slot.has("neighbours") {
        let n = items.len();
        slot.u32("neighbours")?.iter_mut().take(n).enumerate().for_each(|(i, x)| *x = ((i + 1) % n) as u32);
    }
    slot.count(TEXTS, items.len());
    slot.count(WORDS, total);
    rows.pack_source(slot, items)
}

/// Packs videos into a slot.
pub fn pack_videos(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize]) -> Result<()> {
    let total = pack(slot, rows, items, "frames", "frame_segments")?;
    pack_places(slot, rows, items, "frame_times", (FRAME_PERIODS, 0))?;
    slot.count(VIDEOS, items.len());
    slot.count(FRAMES, total);
    Ok(())
}

/// The waves of every row, where the plan asks for them; the last `tail` rows of an item stand nowhere and get zeros.
fn pack_places(
    slot: &mut SlotWriter,
    rows: &dyn Rows,
    items: &[usize],
    input: &str,
    (periods, tail): ((f64, f64), usize),
) -> Result<()> {
    if !slot.has(input) {
        return Ok(());
    }
    let mut out = slot.f32(input)?.chunks_exact_mut(2 * WAVES);
    let mut places = vec![];
    for &i in items {
        let n = rows.rows(i);
        places.resize(n, 0.0);
        rows.places(i, &mut places);
        for (r, (place, out)) in places.iter().zip(&mut out).enumerate() {
            if r + tail < n { waves(*place, periods, out) } else { out.fill(0.0) }
        }
    }
    Ok(())
}

/// Rows side by side, where the plan takes them, and where each item's begin and end. Returns how many there are.
fn pack(slot: &mut SlotWriter, rows: &dyn Rows, items: &[usize], tokens: &str, segments: &str) -> Result<usize> {
    let dim = rows.dim();
    if slot.has(tokens) {
        let (out, mut end) = (slot.f32(tokens)?, 0);
        for &i in items {
            let n = rows.rows(i);
            let place = out.get_mut(end * dim..(end + n) * dim).ok_or_else(|| {
                let what = format!("a batch of {} items does not fit its plan", items.len());
                Error::shape(format!("input {tokens}"), what)
            })?;
            rows.write(i, place)?;
            end += n;
        }
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
    Ok(items.iter().map(|i| rows.rows(*i)).sum())
}
