//! Ranks by counting. A query's rank follows from how many candidates score higher and how many score the same as its
//! relevant one, so scores can stream past in tiles: O(texts + videos) counters, never a `[texts, videos]` matrix.
//!
//! Policy: scores are compared exactly, in f32; a NaN is an error; counts are integers, so the result depends neither
//! on the order and shape of the tiles nor on the number of threads.

use super::relevance::Relevance;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Columns one thread counts at a time: three counters each stay in the first-level cache.
const BLOCK: usize = 256;
/// What unfinished videos of [`CaptionMode::MaxCaption`] may hold, in bytes.
const PENDING_LIMIT: u64 = 1 << 30;

/// How a video with several captions is a query (video → text).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionMode {
    /// The best rank among the video's own captions; its other captions are no distractors (VSE, CE, Frozen).
    MinRank,
    /// Candidates are videos, each scored by its best caption (CLIP4Clip on MSVD).
    MaxCaption,
    /// Every caption is the target once, the video's other captions are no distractors; averaged over captions.
    Single,
}

/// Which directions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    Both,
    TextToVideo,
    VideoToText,
}

impl Directions {
    pub fn t2v(self) -> bool {
        self != Directions::VideoToText
    }
    pub fn v2t(self) -> bool {
        self != Directions::TextToVideo
    }
}

/// Where one query's relevant item stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Candidates that are not relevant and score strictly higher than the best relevant one.
    pub greater: u32,
    /// Candidates that are not relevant and score the same.
    pub equal: u32,
    /// Relevant candidates with that best score: 1 or more; 0 when no relevant one was retrieved at all.
    pub relevant: u32,
}

/// The counts of a whole test set, from which every metric follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    pub texts: usize,
    pub videos: usize,
    pub captions: CaptionMode,
    /// One tally per text.
    pub t2v: Option<Vec<Tally>>,
    /// One tally per video that has captions; per caption in [`CaptionMode::Single`].
    pub v2t: Option<Vec<Tally>>,
    /// Largest difference between a relevant pair's score when gathered and when counted: 0 unless the scorer computes
    /// the same pair differently in different tiles. Ranks of tied queries mean little when it is not 0.
    pub drift: f32,
    /// Queries without any relevant item among what was retrieved (only a truncated run has such): misses at every
    /// depth, and their rank is a lower bound.
    pub unranked: usize,
}

/// Where a tile lies and what it holds, once proven to fit.
struct Tile<'a> {
    first_text: usize,
    first_video: usize,
    scores: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Tile<'a> {
    fn new(
        relevance: &Relevance,
        (first_text, first_video): (usize, usize),
        scores: &'a [f32],
        (rows, cols, row_stride): (usize, usize, usize),
    ) -> Result<Self> {
        let (texts, videos) = (relevance.texts(), relevance.videos());
        let fits = |first: usize, many: usize, limit: usize| first.checked_add(many).is_some_and(|end| end <= limit);
        if !fits(first_text, rows, texts) || !fits(first_video, cols, videos) {
            return Err(Error::shape(
                "rank count",
                format!("a tile of {rows}×{cols} at text {first_text}, video {first_video} leaves [{texts}, {videos}]"),
            ));
        }
        let needed = match rows.checked_sub(1) {
            None => Some(0),
            Some(last) => last.checked_mul(row_stride).and_then(|n| n.checked_add(cols)),
        };
        if (rows > 1 && row_stride < cols) || needed.is_none_or(|n| n > scores.len()) {
            return Err(Error::shape(
                "rank count",
                format!("{} scores are no tile of {rows}×{cols} with row stride {row_stride}", scores.len()),
            ));
        }
        Ok(Tile { first_text, first_video, scores, rows, cols, row_stride })
    }

    fn row(&self, row: usize) -> &'a [f32] {
        let begin = row * self.row_stride;
        &self.scores[begin..begin + self.cols]
    }

    /// The column of `video`, if the tile holds it.
    fn column_of(&self, video: u32) -> Option<usize> {
        (video as usize).checked_sub(self.first_video).filter(|&c| c < self.cols)
    }
}

fn not_a_number(text: usize, video: usize) -> Error {
    Error::NotFinite {
        place: format!("score of text {text} and video {video} (counted from 0)"),
        what: "it is not a number".into(),
        fix: "look for NaN in the features of either, or for a division by a zero norm in the scorer".into(),
    }
}

/// First phase: the score of every text with its own video.
#[derive(Clone, Debug)]
pub struct Truth {
    relevance: Relevance,
    /// `[texts]`; NaN where not yet known, which no accepted score is.
    scores: Vec<f32>,
}

impl Truth {
    pub fn new(relevance: Relevance) -> Self {
        let scores = vec![f32::NAN; relevance.texts()];
        Truth { relevance, scores }
    }

    pub fn relevance(&self) -> &Relevance {
        &self.relevance
    }

    /// Record the score of `text` with `video`, which must be its own.
    ///
    /// # Errors
    /// [`Error::Data`] for a pair that is not relevant, [`Error::NotFinite`] for a NaN.
    pub fn set_truth(&mut self, text: usize, video: usize, score: f32) -> Result<()> {
        if self.relevance.owners().get(text).is_none_or(|&own| own as usize != video) {
            return Err(Error::data(
                "truth",
                format!("text {text}"),
                format!("video {video} is not its video"),
                "give each text's score with its own video",
            ));
        }
        if score.is_nan() {
            return Err(not_a_number(text, video));
        }
        self.scores[text] = score;
        Ok(())
    }

    /// Pick the relevant pairs out of a tile, laid out as for [`RankCounter::tile`].
    pub fn tile(
        &mut self,
        first_text: usize,
        first_video: usize,
        scores: &[f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<()> {
        let tile = Tile::new(&self.relevance, (first_text, first_video), scores, (rows, cols, row_stride))?;
        for row in 0..tile.rows {
            let text = tile.first_text + row;
            let video = self.relevance.owners()[text];
            if let Some(column) = tile.column_of(video) {
                let score = tile.row(row)[column];
                if score.is_nan() {
                    return Err(not_a_number(text, video as usize));
                }
                self.scores[text] = score;
            }
        }
        Ok(())
    }

    fn complete(&self) -> Result<()> {
        match self.scores.iter().position(|s| s.is_nan()) {
            None => Ok(()),
            Some(text) => Err(Error::data(
                "truth",
                format!("text {text}"),
                "the score with its own video was never given",
                "gather the score of every relevant pair before counting",
            )),
        }
    }
}

/// Counters of the video → text direction.
enum Columns {
    /// Not wanted.
    Off,
    /// One target per video: the best own caption. `[videos]` each.
    Best { target: Vec<f32>, greater: Vec<u32>, equal: Vec<u32> },
    /// As `Best`, but candidates are whole videos, which a tile may cut.
    Max { target: Vec<f32>, greater: Vec<u32>, equal: Vec<u32>, pending: HashMap<u32, Pending> },
    /// Every caption is a target.
    Every(Vec<Targets>),
}

/// The best caption so far of a video whose captions are spread over tiles; both `[videos]`.
struct Pending {
    best: Vec<f32>,
    seen: Vec<u32>,
    /// Columns for which all captions were seen.
    done: usize,
}

/// The distinct scores of one video's captions, ascending, and a histogram of the distractors between them.
struct Targets {
    score: Vec<f32>,
    /// `above[i]`: distractors strictly above `score[i]` and not above `score[i + 1]`.
    above: Vec<u32>,
    equal: Vec<u32>,
}

#[derive(Clone, Default)]
struct TextCount {
    greater: u32,
    equal: u32,
    seen: u32,
}

/// Second phase: counts, for each query, the candidates above and beside its relevant one.
///
/// Every pair must be given exactly once, in tiles of any shape and order.
pub struct RankCounter {
    truth: Truth,
    mode: CaptionMode,
    directions: Directions,
    texts: Vec<TextCount>,
    /// `[videos]`: how many texts were seen with this video.
    videos_seen: Vec<u32>,
    columns: Columns,
    drift: f32,
}

impl RankCounter {
    /// # Errors
    /// [`Error::Data`] when a relevant pair's score is missing.
    pub fn new(truth: Truth, mode: CaptionMode, directions: Directions) -> Result<Self> {
        truth.complete()?;
        let columns = if directions.v2t() { Columns::new(&truth, mode) } else { Columns::Off };
        Ok(RankCounter {
            texts: vec![TextCount::default(); truth.relevance.texts()],
            videos_seen: vec![0; truth.relevance.videos()],
            truth,
            mode,
            directions,
            columns,
            drift: 0.0,
        })
    }

    /// Count a tile: `scores[r · row_stride + c]` is the score of text `first_text + r` with video `first_video + c`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tile does not fit or a pair comes twice, [`Error::NotFinite`] for a NaN (the first in
    /// reading order), [`Error::Memory`] when [`CaptionMode::MaxCaption`] sees captions in too wild an order. After an
    /// error the counter is of no further use.
    pub fn tile(
        &mut self,
        first_text: usize,
        first_video: usize,
        scores: &[f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<()> {
        let tile = Tile::new(&self.truth.relevance, (first_text, first_video), scores, (rows, cols, row_stride))?;
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        self.mark_seen(&tile)?;
        self.count_rows(&tile)?;
        self.columns.count(&tile, &self.truth)
    }

    fn mark_seen(&mut self, tile: &Tile<'_>) -> Result<()> {
        let (texts, videos) = (self.texts.len(), self.videos_seen.len());
        let twice = || {
            Error::shape(
                "rank count",
                format!(
                    "some pair of the tile at text {}, video {} was given twice",
                    tile.first_text, tile.first_video
                ),
            )
        };
        for text in &mut self.texts[tile.first_text..tile.first_text + tile.rows] {
            // Both are below 2^32 by `Relevance::new`, so only the sum can overflow.
            text.seen = text.seen.checked_add(tile.cols as u32).filter(|&n| n as usize <= videos).ok_or_else(twice)?;
        }
        for seen in &mut self.videos_seen[tile.first_video..tile.first_video + tile.cols] {
            *seen = seen.checked_add(tile.rows as u32).filter(|&n| n as usize <= texts).ok_or_else(twice)?;
        }
        Ok(())
    }

    /// Text → video, the search for NaN, and the check of the relevant scores.
    fn count_rows(&mut self, tile: &Tile<'_>) -> Result<()> {
        let owners = &self.truth.relevance.owners()[tile.first_text..];
        let truths = &self.truth.scores[tile.first_text..];
        let (bad_row, drift) = self.texts[tile.first_text..tile.first_text + tile.rows]
            .par_iter_mut()
            .enumerate()
            .with_min_len(8)
            .map(|(row, count)| {
                let (scores, truth) = (tile.row(row), truths[row]);
                let (mut greater, mut equal, mut bad) = above_beside_nan(scores, truth);
                let mut drift = 0.0;
                if let Some(&own) = tile.column_of(owners[row]).and_then(|c| scores.get(c)) {
                    greater -= u32::from(own > truth);
                    equal -= u32::from(own == truth);
                    bad |= own.is_nan();
                    drift = if own == truth { 0.0 } else { (own - truth).abs() };
                }
                count.greater += greater;
                count.equal += equal;
                (if bad { row } else { usize::MAX }, drift)
            })
            .reduce(|| (usize::MAX, 0.0), |a, b| (a.0.min(b.0), f32::max(a.1, b.1)));
        if bad_row != usize::MAX {
            let column = tile.row(bad_row).iter().position(|s| s.is_nan()).unwrap_or(0);
            return Err(not_a_number(tile.first_text + bad_row, tile.first_video + column));
        }
        self.drift = self.drift.max(drift);
        Ok(())
    }

    /// The counts, once every pair was given.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first text or video with missing pairs.
    pub fn finish(self) -> Result<Counts> {
        let relevance = &self.truth.relevance;
        let (texts, videos) = (relevance.texts(), relevance.videos());
        let missing = |id: String, seen: u32, all: usize, what: &str| {
            let fix = "give every pair exactly once before finishing";
            Error::data("rank count", id, format!("scored with {seen} of {all} {what}"), fix)
        };
        if let Some(text) = self.texts.iter().position(|t| t.seen as usize != videos) {
            return Err(missing(format!("text {text}"), self.texts[text].seen, videos, "videos"));
        }
        if let Some(video) = self.videos_seen.iter().position(|&n| n as usize != texts) {
            return Err(missing(format!("video {video}"), self.videos_seen[video], texts, "texts"));
        }
        let t2v = self
            .directions
            .t2v()
            .then(|| self.texts.iter().map(|t| Tally { greater: t.greater, equal: t.equal, relevant: 1 }).collect());
        let v2t = self.columns.tallies(&self.truth, self.mode);
        Ok(Counts { texts, videos, captions: self.mode, t2v, v2t, drift: self.drift, unranked: 0 })
    }
}

/// How many of `scores` are above `truth`, how many equal it, and whether one is NaN. Branch-free, so that it
/// vectorises.
fn above_beside_nan(scores: &[f32], truth: f32) -> (u32, u32, bool) {
    let (mut greater, mut equal, mut bad) = (0u32, 0u32, 0u32);
    for &s in scores {
        greater += u32::from(s > truth);
        equal += u32::from(s == truth);
        bad |= u32::from(s.is_nan());
    }
    (greater, equal, bad != 0)
}

impl Columns {
    fn new(truth: &Truth, mode: CaptionMode) -> Self {
        let relevance = &truth.relevance;
        let videos = relevance.videos();
        if mode == CaptionMode::Single && relevance.most_captions() > 1 {
            return Columns::Every((0..videos).map(|v| Targets::new(truth, v)).collect());
        }
        let target = (0..videos).map(|v| best_own(truth, v)).collect();
        let (greater, equal) = (vec![0; videos], vec![0; videos]);
        // With one caption a video all modes are the same, and this one is the fastest.
        if mode == CaptionMode::MaxCaption && relevance.most_captions() > 1 {
            Columns::Max { target, greater, equal, pending: HashMap::new() }
        } else {
            Columns::Best { target, greater, equal }
        }
    }

    fn count(&mut self, tile: &Tile<'_>, truth: &Truth) -> Result<()> {
        match self {
            Columns::Off => Ok(()),
            Columns::Best { target, greater, equal } => {
                count_best(tile, truth, target, greater, equal);
                Ok(())
            }
            Columns::Max { target, greater, equal, pending } => {
                count_max(tile, truth, MaxColumns { target, greater, equal }, pending)
            }
            Columns::Every(targets) => {
                count_every(tile, truth, targets);
                Ok(())
            }
        }
    }

    fn tallies(self, truth: &Truth, mode: CaptionMode) -> Option<Vec<Tally>> {
        let relevance = &truth.relevance;
        match self {
            Columns::Off => None,
            // One caption a video: its column's counts, in the order of the texts.
            Columns::Best { greater, equal, .. } if mode == CaptionMode::Single => {
                let tally = |&v: &u32| Tally { greater: greater[v as usize], equal: equal[v as usize], relevant: 1 };
                Some(relevance.owners().iter().map(tally).collect())
            }
            Columns::Best { target, greater, equal } | Columns::Max { target, greater, equal, .. } => Some(
                (0..relevance.videos())
                    .filter(|&v| !relevance.captions_of(v).is_empty())
                    .map(|v| {
                        let tied = relevance.captions_of(v).iter().filter(|&&t| truth.scores[t as usize] == target[v]);
                        let relevant = if mode == CaptionMode::MinRank { tied.count() as u32 } else { 1 };
                        Tally { greater: greater[v], equal: equal[v], relevant }
                    })
                    .collect(),
            ),
            Columns::Every(targets) => Some(
                truth
                    .scores
                    .iter()
                    .zip(relevance.owners())
                    .map(|(&score, &video)| targets[video as usize].tally(score))
                    .collect(),
            ),
        }
    }
}

/// The score of the video's best caption; irrelevant for a video without any, which is never a query.
fn best_own(truth: &Truth, video: usize) -> f32 {
    truth.relevance.captions_of(video).iter().map(|&t| truth.scores[t as usize]).fold(f32::NEG_INFINITY, f32::max)
}

fn count_best(tile: &Tile<'_>, truth: &Truth, target: &[f32], greater: &mut [u32], equal: &mut [u32]) {
    let span = tile.first_video..tile.first_video + tile.cols;
    greater[span.clone()]
        .par_chunks_mut(BLOCK)
        .zip(equal[span.clone()].par_chunks_mut(BLOCK))
        .zip(target[span].par_chunks(BLOCK))
        .enumerate()
        .for_each(|(block, ((greater, equal), target))| {
            let begin = block * BLOCK;
            for row in 0..tile.rows {
                let scores = &tile.row(row)[begin..begin + target.len()];
                for (((g, e), &t), &s) in greater.iter_mut().zip(equal.iter_mut()).zip(target).zip(scores) {
                    *g += u32::from(s > t);
                    *e += u32::from(s == t);
                }
                // Own captions are no distractors; taking them back keeps the loop above free of branches.
                let own = tile.column_of(truth.relevance.owners()[tile.first_text + row]);
                if let Some(c) = own.and_then(|c| c.checked_sub(begin)).filter(|&c| c < target.len()) {
                    greater[c] -= u32::from(scores[c] > target[c]);
                    equal[c] -= u32::from(scores[c] == target[c]);
                }
            }
        });
}

/// The `[videos]` counters of [`Columns::Max`].
struct MaxColumns<'a> {
    target: &'a [f32],
    greater: &'a mut [u32],
    equal: &'a mut [u32],
}

fn count_max(
    tile: &Tile<'_>,
    truth: &Truth,
    columns: MaxColumns<'_>,
    pending: &mut HashMap<u32, Pending>,
) -> Result<()> {
    let MaxColumns { target, greater, equal } = columns;
    let (whole, cut) = candidates(tile, &truth.relevance);
    let span = tile.first_video..tile.first_video + tile.cols;
    greater[span.clone()]
        .par_chunks_mut(BLOCK)
        .zip(equal[span.clone()].par_chunks_mut(BLOCK))
        .zip(target[span].par_chunks(BLOCK))
        .enumerate()
        .for_each_init(Vec::new, |best: &mut Vec<f32>, (block, ((greater, equal), target))| {
            let begin = block * BLOCK;
            for (video, rows) in &whole {
                best.clear();
                best.resize(target.len(), f32::NEG_INFINITY);
                for &row in rows {
                    let scores = &tile.row(row)[begin..begin + target.len()];
                    best.iter_mut().zip(scores).for_each(|(b, &s)| *b = b.max(s));
                }
                let own = tile.column_of(*video).and_then(|c| c.checked_sub(begin));
                for (c, &b) in best.iter().enumerate().filter(|&(c, _)| Some(c) != own) {
                    greater[c] += u32::from(b > target[c]);
                    equal[c] += u32::from(b == target[c]);
                }
            }
        });
    for (video, rows) in cut {
        count_cut(tile, truth, MaxColumns { target, greater, equal }, (video, &rows), pending)?;
    }
    Ok(())
}

/// One candidate video and the tile's rows that are its captions.
type Candidate = (u32, Vec<usize>);

/// The candidate videos of a tile: those whose captions are all in it, and those it cuts.
fn candidates(tile: &Tile<'_>, relevance: &Relevance) -> (Vec<Candidate>, Vec<Candidate>) {
    let owners = &relevance.owners()[tile.first_text..tile.first_text + tile.rows];
    let mut rows: Vec<usize> = (0..tile.rows).collect();
    rows.sort_by_key(|&row| owners[row]);
    rows.chunk_by(|&a, &b| owners[a] == owners[b])
        .map(|group| (owners[group[0]], group.to_vec()))
        .partition(|(video, group)| group.len() == relevance.captions_of(*video as usize).len())
}

/// Merge some captions of one candidate video into what earlier tiles brought; count it where it is complete.
fn count_cut(
    tile: &Tile<'_>,
    truth: &Truth,
    columns: MaxColumns<'_>,
    (video, rows): (u32, &[usize]),
    pending: &mut HashMap<u32, Pending>,
) -> Result<()> {
    let videos = truth.relevance.videos();
    let captions = truth.relevance.captions_of(video as usize).len() as u32;
    let needed = (pending.len() as u64 + 1).saturating_mul(videos as u64).saturating_mul(8);
    if !pending.contains_key(&video) && needed > PENDING_LIMIT {
        return Err(Error::Memory {
            what: format!("counting by best caption with {} videos unfinished at once", pending.len() + 1),
            needed,
            available: PENDING_LIMIT,
            fix: "put the captions of one video next to one another".into(),
        });
    }
    let open = pending.entry(video).or_insert_with(|| Pending {
        best: vec![f32::NEG_INFINITY; videos],
        seen: vec![0; videos],
        done: 0,
    });
    for column in 0..tile.cols {
        let query = tile.first_video + column;
        let best = rows.iter().fold(open.best[query], |b, &row| b.max(tile.row(row)[column]));
        open.best[query] = best;
        open.seen[query] += rows.len() as u32;
        if open.seen[query] == captions {
            open.done += 1;
            if query != video as usize {
                columns.greater[query] += u32::from(best > columns.target[query]);
                columns.equal[query] += u32::from(best == columns.target[query]);
            }
        }
    }
    if open.done == videos {
        pending.remove(&video);
    }
    Ok(())
}

fn count_every(tile: &Tile<'_>, truth: &Truth, targets: &mut [Targets]) {
    let owners = truth.relevance.owners();
    targets[tile.first_video..tile.first_video + tile.cols].par_chunks_mut(64).enumerate().for_each(
        |(block, targets)| {
            let begin = block * 64;
            for row in 0..tile.rows {
                let own = owners[tile.first_text + row] as usize;
                for (c, target) in targets.iter_mut().enumerate() {
                    if tile.first_video + begin + c != own {
                        target.count(tile.row(row)[begin + c]);
                    }
                }
            }
        },
    );
}

impl Targets {
    fn new(truth: &Truth, video: usize) -> Self {
        let mut score: Vec<f32> =
            truth.relevance.captions_of(video).iter().map(|&t| truth.scores[t as usize]).collect();
        score.sort_by(f32::total_cmp);
        // By value, so that −0 and 0 are one target, as they are one score.
        score.dedup_by(|a, b| a == b);
        let (above, equal) = (vec![0; score.len()], vec![0; score.len()]);
        Targets { score, above, equal }
    }

    fn count(&mut self, score: f32) {
        let below = self.score.partition_point(|&t| t < score);
        if let Some(i) = below.checked_sub(1) {
            self.above[i] += 1;
        }
        if self.score.get(below).is_some_and(|&t| t == score) {
            self.equal[below] += 1;
        }
    }

    fn tally(&self, score: f32) -> Tally {
        let i = self.score.partition_point(|&t| t < score);
        Tally { greater: self.above[i..].iter().sum(), equal: self.equal[i], relevant: 1 }
    }
}
