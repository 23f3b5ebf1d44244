//! All pairs of many texts and videos, as tiles of scores that never exist at once: the gallery is filled with one
//! tile of videos after another, and the texts stream past it.

use super::Model;
use super::batch::{Capacity, FRAMES, Rows, VIDEOS, pack_texts, pack_videos};
use super::plans;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::Executor;
use crate::engine::scheduler::stream::stream;
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// Most texts and videos of a tile, and most rows of either: what a tile takes does not grow with the data.
const TEXTS: usize = 256;
const VIDEOS_PER_TILE: usize = 512;
const ROWS: usize = 12_288;

/// The largest tile that holds any text and video of these lengths.
pub fn capacity(texts: &dyn Rows, text_items: &[usize], videos: &dyn Rows, video_items: &[usize]) -> Capacity {
    let (texts, words) = side(texts, text_items, TEXTS);
    let (videos, frames) = side(videos, video_items, VIDEOS_PER_TILE);
    Capacity { texts, words, videos, frames }
}

fn side(rows: &dyn Rows, items: &[usize], most: usize) -> (usize, usize) {
    let longest = items.iter().map(|i| rows.rows(*i)).max().unwrap_or(1).max(1);
    let total: usize = items.iter().map(|i| rows.rows(*i)).sum();
    let count = items.len().clamp(1, most);
    (count, (count * longest).min(total).min(ROWS).max(longest))
}

/// How many plans tiles are made with.
pub const PLANS: usize = 2;

/// The two graphs that tiles are made with, in the order in which [`Tiler`] expects their plans.
pub fn graphs(model: &dyn Model, capacity: Capacity) -> Result<[(&'static str, Graph); PLANS]> {
    Ok([
        ("fill gallery", plans::fill_gallery(model, capacity)?),
        ("score gallery", plans::score_gallery(model, capacity)?),
    ])
}

/// Scores of some texts with some videos. `scores[r * stride + c]` belongs to text `texts.start + r` and video
/// `videos.start + c`; both count positions in the items that were given.
pub struct Tile<'a> {
    pub texts: Range<usize>,
    pub videos: Range<usize>,
    pub scores: &'a [f32],
    pub stride: usize,
}

/// Makes tiles with an executor that holds the two plans of [`graphs`], beginning with plan `first`.
pub struct Tiler<'a> {
    pub executor: &'a mut Executor,
    pub first: usize,
    pub capacity: Capacity,
}

/// One side of all pairs: the token rows, and which items of them take part.
#[derive(Copy, Clone)]
pub struct Side<'a> {
    pub rows: &'a (dyn Rows + Sync),
    pub items: &'a [usize],
}

impl Tiler<'_> {
    /// Visits the tiles that are wanted. The same tile has the same bits whenever it is made.
    ///
    /// # Errors
    /// [`Error::Stopped`] when `stop` becomes true; whatever packing, the device or `visit` raise.
    pub fn run(
        &mut self,
        texts: Side,
        videos: Side,
        wanted: impl Fn(&Range<usize>, &Range<usize>) -> bool + Sync,
        mut visit: impl FnMut(Tile) -> Result<()>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let text_parts = parts(texts, self.capacity.texts, self.capacity.words);
        let stride = self.capacity.videos;
        for columns in parts(videos, self.capacity.videos, self.capacity.frames) {
            let chosen: Vec<&Range<usize>> = text_parts.iter().filter(|rows| wanted(rows, &columns)).collect();
            if chosen.is_empty() {
                continue;
            }
            let shown = &videos.items[columns.clone()];
            self.executor.run(self.first, |slot| pack_videos(slot, videos.rows, shown))?;
            let frames = shown.iter().map(|i| videos.rows.rows(*i)).sum();
            stream(
                self.executor,
                self.first + 1,
                chosen.into_iter(),
                |rows, slot| {
                    slot.count(VIDEOS, columns.len());
                    slot.count(FRAMES, frames);
                    pack_texts(slot, texts.rows, &texts.items[(*rows).clone()])
                },
                |rows, outputs| {
                    let scores = outputs.f32("scores")?;
                    visit(Tile { texts: rows.clone(), videos: columns.clone(), scores, stride })
                },
                stop,
            )?;
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }
}

/// Runs of items that fit a tile, by their number and by their rows.
fn parts(side: Side, most: usize, most_rows: usize) -> Vec<Range<usize>> {
    let (mut parts, mut begin, mut rows) = (vec![], 0, 0);
    for (k, i) in side.items.iter().enumerate() {
        let more = side.rows.rows(*i);
        if k > begin && (k - begin == most || rows + more > most_rows) {
            parts.push(begin..k);
            (begin, rows) = (k, 0);
        }
        rows += more;
    }
    if begin < side.items.len() {
        parts.push(begin..side.items.len());
    }
    parts
}
