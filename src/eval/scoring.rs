//! Ranks of a model's scores, counted while tiles stream by: the score matrix never exists.

use super::ranks::{CaptionMode, Counts, Directions, RankCounter, Truth};
use super::relevance::Relevance;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::models::tiles::{Side, Tile, Tiler};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// Which videos of a split's gallery are relevant to which of its texts, both by position.
pub fn relevance(data: &Dataset) -> Result<Relevance> {
    let gallery = data.gallery();
    let place: HashMap<usize, u32> = gallery.iter().copied().zip(0..).collect();
    let owners = data.pairs.iter().map(|p| place.get(&p.video).copied().unwrap_or(u32::MAX)).collect();
    Relevance::new(owners, gallery.len())
}

/// Two passes over tiles: the scores of the relevant pairs first, then everything is counted against them. The same
/// tiles give the same bits, so ties are exact.
pub fn count_ranks(
    tiler: &mut Tiler,
    texts: Side,
    videos: Side,
    relevance: Relevance,
    mode: CaptionMode,
    directions: Directions,
    stop: &AtomicBool,
) -> Result<Counts> {
    let owners: Vec<u32> = relevance.owners().to_vec();
    if owners.len() != texts.items.len() || relevance.videos() != videos.items.len() {
        let what = format!("{} texts and {} videos", texts.items.len(), videos.items.len());
        return Err(Error::shape("evaluation", format!("{what} do not fit the relevance of {}", owners.len())));
    }
    let mut truth = Truth::new(relevance);
    let has_truth = |t: &Range<usize>, v: &Range<usize>| owners[t.clone()].iter().any(|o| v.contains(&(*o as usize)));
    let place = |t: &Tile| (t.texts.start, t.videos.start, t.texts.len(), t.videos.len(), t.stride);
    tiler.run(
        texts,
        videos,
        has_truth,
        |tile| {
            let (text, video, rows, cols, stride) = place(&tile);
            truth.tile(text, video, tile.scores, rows, cols, stride)
        },
        stop,
    )?;
    let mut counter = RankCounter::new(truth, mode, directions)?;
    tiler.run(
        texts,
        videos,
        |_, _| true,
        |tile| {
            let (text, video, rows, cols, stride) = place(&tile);
            counter.tile(text, video, tile.scores, rows, cols, stride)
        },
        stop,
    )?;
    counter.finish()
}
