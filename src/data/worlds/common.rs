//! What worlds share: streams of random numbers by name, words, splits in memory, and folders.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::data::dataset::{Dataset, Entry, Keys, Split};
use crate::data::directions::{direction, make_unit, push_sentence, stream_of};
use crate::data::files::{Beside, write_whole};
use crate::data::layout::CAPTIONS;
use crate::data::sink::{OutputFormat, Sink};
use crate::data::tokens::{About, InMemory, Kind, TokenDtype, Tokens};
use crate::error::{Error, Result};
use crate::random::Random;

use super::law::Law;

/// The parameters of a world, beside it.
pub const WORLD: &str = "world.json";
/// What happens in each video, a JSON object a line.
pub const TRUTH: &str = "truth.jsonl";
/// What each caption asks for, a JSON object a line.
pub const QUERIES: &str = "queries.jsonl";
/// Folder of further tests, each a data set with a test split.
pub const TESTS: &str = "tests";
/// Values that the videos of one split may hold: 16 GiB of f32.
const SPLIT_LIMIT: usize = 1 << 32;

/// A split in memory with what is known about it.
#[derive(Debug)]
pub struct Made<V, Q> {
    pub data: Dataset,
    /// One per video, in the order of `data.videos`; in a test this is also the order of the gallery.
    pub videos: Vec<V>,
    /// One per pair, in the order of `data.pairs` and of `data.texts`.
    pub queries: Vec<Q>,
}

/// A video as a world makes it.
pub(super) struct Clip<V> {
    /// `[T, dim]`
    pub frames: Vec<f32>,
    /// Seconds `[T]`.
    pub times: Vec<f32>,
    pub truth: V,
}

/// A caption as a world makes it.
pub(super) struct Line<Q> {
    /// Position of the video it describes.
    pub video: usize,
    pub caption: String,
    /// `[words + 1, dim]`: word tokens, then the sentence vector.
    pub words: Vec<f32>,
    pub truth: Q,
}

/// Which world and part of it random numbers are for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub seed: u64,
    pub world: &'a str,
    /// For example `train` or `test 2`.
    pub name: &'a str,
}

impl Part<'_> {
    /// The numbers for one purpose of one item.
    pub fn random(&self, purpose: &str, item: usize) -> Random {
        let Self { seed, world, name } = self;
        Random::new(*seed, stream_of(&format!("{world}, {name}: {purpose} {item}")))
    }
}

/// A split from its parts. Ids are `train-video7` and `train-text7`, with the name of the split before them.
pub(super) fn made<V, Q>(
    part: Part,
    split: Split,
    dim: usize,
    clips: Vec<Clip<V>>,
    lines: Vec<Line<Q>>,
    keys: Option<Keys>,
) -> Result<Made<V, Q>> {
    let prefix = part.name.replace(' ', "");
    let video_id = |v: usize| format!("{prefix}-video{v}");
    let text_id = |q: usize| format!("{prefix}-text{q}");
    let rows = |data: Vec<f32>| Tokens { rows: data.len() / dim.max(1), dim, data };
    let [video_about, text_about] = [Kind::Video, Kind::Text].map(|kind| about(part, kind, dim));
    let (mut items, mut times, mut videos) = (Vec::new(), Vec::new(), Vec::new());
    for (v, clip) in clips.into_iter().enumerate() {
        items.push((video_id(v), rows(clip.frames)));
        times.push(clip.times);
        videos.push(clip.truth);
    }
    let video_source = InMemory::new(video_about, items)?.timed(times)?;
    let (mut items, mut entries, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    for (q, line) in lines.into_iter().enumerate() {
        items.push((text_id(q), rows(line.words)));
        let (text_id, video_id, number) = (text_id(q), video_id(line.video), q as u64 + 1);
        entries.push(Entry { text_id, video_id, caption: line.caption, split, line: number });
        queries.push(line.truth);
    }
    let text_source = InMemory::new(text_about, items)?;
    let data = Dataset::new(part.world, split, Box::new(video_source), Box::new(text_source), entries)?;
    let data = match keys {
        Some(keys) => data.with_keys(keys)?,
        None => data,
    };
    Ok(Made { data, videos, queries })
}

fn about(part: Part, kind: Kind, dim: usize) -> About {
    About {
        kind: Some(kind),
        encoder: Some(format!("moviola world {}, seed {}, dim {dim}", part.world, part.seed)),
        normalised: Some(kind == Kind::Text),
        sentence: (kind == Kind::Text).then_some(true),
        ..About::default()
    }
}

/// A word's vector: of length 1 and independent of everything a frame shows.
pub(super) fn word(part: Part, word: &str, dim: usize) -> Vec<f32> {
    direction(part.seed, &format!("{}, word {word}", part.world), dim)
}

/// A direction of frames that all splits of a world share.
pub(super) fn seen(part: Part, name: &str, dim: usize) -> Vec<f32> {
    direction(part.seed, &format!("{}, seen {name}", part.world), dim)
}

/// Word tokens and the sentence vector, `[words + 1, dim]`: vectors with noise of length `scale`, scaled to length 1.
pub(super) fn tokens_of(words: &[&[f32]], law: &Law, scale: f32, random: Random, dim: usize) -> Vec<f32> {
    let mut rows = words.concat();
    law.add_noise(&mut rows, scale, random);
    rows.chunks_exact_mut(dim.max(1)).for_each(make_unit);
    push_sentence(&mut rows, dim);
    rows
}

/// Row times at a constant distance in seconds.
pub(super) fn times(frames: usize, distance: f32) -> Vec<f32> {
    (0..frames).map(|t| t as f32 * distance).collect()
}

/// Refuses `value < least`.
pub(super) fn at_least(key: &str, value: usize, least: usize) -> Result<()> {
    match value >= least {
        true => Ok(()),
        false => Err(Error::config(key, format!("{value} is too small"), format!("give at least {least}"))),
    }
}

/// Refuses what is outside `from..=to`, and NaN.
pub(super) fn within(key: &str, value: f32, from: f32, to: f32) -> Result<()> {
    match (from..=to).contains(&value) {
        true => Ok(()),
        false => {
            let what = format!("{value} is outside its range");
            Err(Error::config(key, what, format!("give a number from {from} to {to}")))
        }
    }
}

/// Refuses splits beyond memory, before anything is made.
pub(super) fn fits(key: &str, videos: usize, frames: usize, dim: usize) -> Result<()> {
    let values = videos.checked_mul(frames).and_then(|rows| rows.checked_mul(dim));
    match values.is_some_and(|values| values <= SPLIT_LIMIT) {
        true => Ok(()),
        false => {
            let what =
                format!("{videos} videos of {frames} frames and {dim} values are more than {SPLIT_LIMIT} values");
            Err(Error::config(key, what, "make fewer"))
        }
    }
}

/// Appends a value and a line end.
pub(crate) fn json_line(to: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *to, value).map_err(|error| Error::io("write", "JSON")(error.into()))?;
    to.write_all(b"\n").map_err(Error::io("write", "JSON"))
}

#[derive(Serialize)]
struct VideoLine<'a, V> {
    video_id: &'a str,
    split: Split,
    #[serde(flatten)]
    truth: &'a V,
}

#[derive(Serialize)]
struct QueryLine<'a, Q> {
    text_id: &'a str,
    split: Split,
    #[serde(flatten)]
    truth: &'a Q,
}

/// Makes one split; a folder holds one split in memory at a time.
pub(super) type Maker<'a, V, Q> = Box<dyn Fn() -> Result<Made<V, Q>> + 'a>;

/// Writes splits to the new folder `dir` in the native layout, with [`WORLD`], [`TRUTH`] and [`QUERIES`] beside, and
/// `tests`, each a folder under [`TESTS`].
///
/// # Errors
/// [`Error::Format`] if `dir` holds something already; whatever the makers refuse.
pub(super) fn write_folder<V: Serialize, Q: Serialize>(
    dir: &Path,
    world: &impl Serialize,
    dtype: TokenDtype,
    splits: &[Maker<V, Q>],
    tests: &[(&str, Maker<V, Q>)],
) -> Result<()> {
    let beside = Beside::new(dir)?;
    let place = beside.partial();
    write_splits(place, world, dtype, splits)?;
    for (name, test) in tests {
        let inner = place.join(TESTS).join(name);
        write_splits(&inner, world, dtype, std::slice::from_ref(test))?;
    }
    beside.keep()
}

fn write_splits<V: Serialize, Q: Serialize>(
    place: &Path,
    world: &impl Serialize,
    dtype: TokenDtype,
    splits: &[Maker<V, Q>],
) -> Result<()> {
    fs::create_dir_all(place).map_err(Error::io("create", place))?;
    let (mut captions, mut truths, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    let mut sinks: Option<[Sink; 2]> = None;
    for make in splits {
        let made = make()?;
        let data = &made.data;
        if sinks.is_none() {
            let sink = |name: &str, source: &dyn crate::data::TokenSource| {
                let about = source.provenance().about.clone();
                Sink::create(&place.join(name), OutputFormat::Native, about, source.dim(), dtype)
            };
            sinks = Some([sink("videos", &*data.videos)?, sink("texts", &*data.texts)?]);
        }
        let Some([videos, texts]) = &mut sinks else { continue };
        for (sink, source) in [(videos, &data.videos), (texts, &data.texts)] {
            for (i, id) in source.ids().iter().enumerate() {
                sink.push(id, &source.load(i)?.data, source.timestamps(i).as_deref())?;
            }
        }
        let split = data.split;
        for (video_id, truth) in data.videos.ids().iter().zip(&made.videos) {
            json_line(&mut truths, &VideoLine { video_id, split, truth })?;
        }
        for ((text_id, pair), truth) in data.texts.ids().iter().zip(&data.pairs).zip(&made.queries) {
            json_line(&mut queries, &QueryLine { text_id, split, truth })?;
            let video_id = data.videos.ids().get(pair.video);
            let caption = data.caption(pair);
            let line =
                serde_json::json!({"text_id": text_id, "video_id": video_id, "caption": caption, "split": split});
            json_line(&mut captions, &line)?;
        }
    }
    for sink in sinks.into_iter().flatten() {
        sink.finish()?;
    }
    let mut parameters = Vec::new();
    json_line(&mut parameters, world)?;
    for (name, content) in [(CAPTIONS, captions), (TRUTH, truths), (QUERIES, queries), (WORLD, parameters)] {
        write_whole(&place.join(name), &content)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::data::TokenSource;

    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    pub fn tokens(source: &dyn TokenSource, i: usize) -> Tokens {
        source.load(i).unwrap()
    }

    /// Share of the queries whose best video is a correct one.
    pub fn hits(
        queries: usize,
        videos: usize,
        correct: &dyn Fn(usize) -> Vec<usize>,
        score: &dyn Fn(usize, usize) -> f32,
    ) -> f32 {
        let best = |q: usize| (0..videos).max_by(|a, b| score(q, *a).total_cmp(&score(q, *b)));
        let right = (0..queries).filter(|q| best(*q).is_some_and(|best| correct(*q).contains(&best)));
        right.count() as f32 / queries as f32
    }

    /// `make` gives the same bits with one thread and with three; `other` gives others.
    pub fn same_bits(make: &(dyn Fn() -> Dataset + Sync), other: &(dyn Fn() -> Dataset + Sync)) {
        let with = |threads: usize, make: &(dyn Fn() -> Dataset + Sync)| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let data = pool.install(make);
            let all = |source: &dyn TokenSource| -> Vec<Vec<u32>> {
                let bits = |i| tokens(source, i).data.iter().map(|v| v.to_bits()).collect();
                (0..source.len()).map(bits).collect()
            };
            (all(&*data.videos), all(&*data.texts), data.captions.clone(), data.keys())
        };
        let one = with(1, make);
        assert!(one == with(3, make));
        let other = with(1, other);
        assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2);
        assert!(one.0.iter().zip(&other.0).all(|(a, b)| a != b));
    }
}
