//! Tokens made from caption strings, so that MSR-VTT's real lists can be used without any encoder.
//!
//! A word has one vector, which follows from its letters; a frame shows the words of its video's captions, through
//! vectors that agree with those of the texts in part. Scores on such data say nothing about real video.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::directions::{add, add_noise, direction, make_unit, push_sentence, stream_of};
use super::files::Beside;
use super::layout::{self, Entry, Layout, MSRVTT_TEST, MSRVTT_TRAIN, MSRVTT_TRAIN_CAPTIONS, Split};
use super::problem::Problems;
use super::sink::{OutputFormat, Sink};
use super::tokens::{About, Kind, TokenDtype};
use super::worlds::common::json_line;
use crate::error::{Error, Result};
use crate::random::Random;

/// Words of a caption beyond these are left out, as text encoders do.
const WORDS_LIMIT: usize = 64;
/// Items that are made at once.
const CHUNK: usize = 512;
/// Words that no frame shows.
const SILENT: [&str; 24] = [
    "a", "an", "the", "is", "are", "of", "in", "on", "to", "and", "with", "for", "at", "by", "from", "while", "being",
    "his", "her", "their", "its", "some", "there", "it",
];

/// How many frames a video has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lengths {
    /// From 6 to 24, by the video.
    Ragged,
    /// 12. Texts are as long as their captions in both cases.
    Fixed,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MsrvttOptions {
    pub dtype: TokenDtype,
    pub lengths: Lengths,
    pub format: OutputFormat,
    pub dim: usize,
    pub seed: u64,
    /// Captions a training video.
    pub captions_per_video: usize,
    /// Cosine between a word as it is read and as it is seen, 0 to 1.
    pub agreement: f32,
    /// Length of the noise on a frame, whose words have length 1 together.
    pub noise: f32,
    /// Only the first so many training and test videos, for quick tests.
    pub limit: Option<usize>,
}

impl Default for MsrvttOptions {
    fn default() -> Self {
        Self {
            dtype: TokenDtype::F16,
            lengths: Lengths::Ragged,
            format: OutputFormat::Native,
            dim: 512,
            seed: 1,
            captions_per_video: 5,
            agreement: 0.25,
            noise: 1.0,
            limit: None,
        }
    }
}

/// Vectors of words, made once each.
struct Lexicon {
    read: HashMap<String, Vec<f32>>,
    seen: HashMap<String, Vec<f32>>,
}

/// Makes a data set of layout `msrvtt-1ka` in the new folder `out` from [`MSRVTT_TEST`] and [`MSRVTT_TRAIN`] in
/// `csv_dir`: the lists, captions for the training videos from a small grammar over the words of the test captions, and
/// tokens for all.
///
/// # Errors
/// Whatever is wrong with the lists; [`Error::Config`] for impossible options.
pub fn make_msrvtt(csv_dir: &Path, out: &Path, options: &MsrvttOptions) -> Result<()> {
    validate(options)?;
    let mut problems = Problems::default();
    let mut test = layout::read(csv_dir, Layout::Msrvtt1kA, Split::Test, &mut problems).entries;
    let mut train_ids = layout::train_ids(&csv_dir.join(MSRVTT_TRAIN), &mut problems)?;
    problems.refuse()?;
    let limit = options.limit.unwrap_or(usize::MAX);
    test.truncate(limit);
    train_ids.truncate(limit);
    let grammar = Grammar::learn(&test);
    let train = grammar.captions(&train_ids, options);
    let lexicon = Lexicon::new(train.iter().chain(&test), options);

    let beside = Beside::new(out)?;
    let place = beside.partial();
    fs::create_dir(place).map_err(Error::io("create", out))?;
    write_lists(place, &test, &train_ids, &train)?;
    write_texts(&place.join("texts"), &test, &train, &lexicon, options)?;
    write_videos(&place.join("videos"), &test, &train, &lexicon, options)?;
    beside.keep()
}

fn validate(options: &MsrvttOptions) -> Result<()> {
    let refuse = |key: &str, what: String, fix: &str| Err(Error::config(key, what, fix));
    if options.dim < 2 {
        return refuse("dim", format!("{} is too small", options.dim), "give at least 2");
    }
    if options.captions_per_video == 0 || options.limit == Some(0) {
        return refuse("captions_per_video, limit", "0 makes nothing".into(), "give at least 1");
    }
    if !(0.0..=1.0).contains(&options.agreement) {
        return refuse("agreement", format!("{} is no cosine", options.agreement), "give a number from 0 to 1");
    }
    if !(0.0..=100.0).contains(&options.noise) {
        return refuse("noise", format!("{} is no length", options.noise), "give a number from 0 to 100");
    }
    Ok(())
}

/// The words of a caption, in lower case, without punctuation.
fn words(caption: &str) -> impl Iterator<Item = String> {
    caption
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .filter(|word| !word.is_empty())
        .take(WORDS_LIMIT)
}

impl Lexicon {
    fn new<'a>(entries: impl Iterator<Item = &'a Entry>, options: &MsrvttOptions) -> Self {
        let all: BTreeSet<String> = entries.flat_map(|entry| words(&entry.caption)).collect();
        let both: Vec<_> = all
            .into_par_iter()
            .map(|word| {
                let read = direction(options.seed, &format!("word {word}"), options.dim);
                let mut seen = vec![0.0; options.dim];
                let own = direction(options.seed, &format!("seen {word}"), options.dim);
                add(&mut seen, options.agreement, &read);
                add(&mut seen, (1.0 - options.agreement.powi(2)).sqrt(), &own);
                make_unit(&mut seen);
                (word, read, seen)
            })
            .collect();
        let (mut read, mut seen) = (HashMap::new(), HashMap::new());
        for (word, r, s) in both {
            read.insert(word.clone(), r);
            seen.insert(word, s);
        }
        Self { read, seen }
    }

    /// Word tokens and the sentence vector, `[words + 1, dim]`; a caption without words has one row for itself.
    fn text(&self, caption: &str, options: &MsrvttOptions) -> Vec<f32> {
        let mut rows: Vec<f32> =
            words(caption).filter_map(|word| self.read.get(&word)).flat_map(|vector| vector.iter().copied()).collect();
        if rows.is_empty() {
            rows = direction(options.seed, &format!("caption {caption}"), options.dim);
        }
        push_sentence(&mut rows, options.dim);
        rows
    }

    /// Frame tokens `[T, dim]`: each frame shows one word of the video's captions more than the others, in order.
    fn video(&self, id: &str, captions: &[&str], options: &MsrvttOptions) -> Vec<f32> {
        let mut shown: Vec<&Vec<f32>> = Vec::new();
        let mut told = BTreeSet::new();
        for word in captions.iter().flat_map(|caption| words(caption)) {
            if !SILENT.contains(&word.as_str())
                && told.insert(word.clone())
                && let Some(vector) = self.seen.get(&word)
            {
                shown.push(vector);
            }
        }
        let random = Random::new(options.seed, stream_of(&format!("frames of {id}")));
        let count = match options.lengths {
            Lengths::Fixed => 12,
            Lengths::Ragged => 6 + random.below(u64::MAX, 19) as usize,
        };
        let mut mean = vec![0.0; options.dim];
        shown.iter().for_each(|vector| add(&mut mean, 1.0, vector));
        make_unit(&mut mean);
        let mut rows = vec![0.0; count * options.dim];
        for (t, row) in rows.chunks_exact_mut(options.dim).enumerate() {
            add(row, 0.5, &mean);
            if let Some(vector) = shown.get(t * shown.len() / count) {
                add(row, 1.0, vector);
            }
            make_unit(row);
            add_noise(row, options.noise, random, t);
            make_unit(row);
        }
        rows
    }
}

/// The words from which training captions are made, as the test captions use them.
struct Grammar {
    nouns: Vec<String>,
    verbs: Vec<String>,
}

impl Grammar {
    /// Verbs end in `ing`; nouns follow an article and are no verbs. Repetitions are kept: common words stay common.
    fn learn(entries: &[Entry]) -> Self {
        let (mut nouns, mut verbs) = (Vec::new(), Vec::new());
        for entry in entries {
            let list: Vec<String> = words(&entry.caption).collect();
            for word in list.iter().filter(|word| word.len() > 5 && word.ends_with("ing")) {
                verbs.push(word.clone());
            }
            for pair in list.windows(2) {
                if let [article, noun] = pair
                    && ["a", "an", "the"].contains(&article.as_str())
                    && !noun.ends_with("ing")
                    && !SILENT.contains(&noun.as_str())
                {
                    nouns.push(noun.clone());
                }
            }
        }
        let or = |list: Vec<String>, word: &str| if list.is_empty() { vec![word.to_string()] } else { list };
        Self { nouns: or(nouns, "person"), verbs: or(verbs, "moving") }
    }

    /// Captions for each id: one scene a video, phrased differently.
    fn captions(&self, ids: &[String], options: &MsrvttOptions) -> Vec<Entry> {
        let mut entries = Vec::new();
        for id in ids {
            let random = Random::new(options.seed, stream_of(&format!("captions of {id}")));
            let pick = |index: u64, list: &[String]| {
                list.get(random.below(index, list.len() as u64) as usize).cloned().unwrap_or_default()
            };
            let [who, what, place, thing] = [0, 1, 2, 3].map(|index| pick(index, &self.nouns));
            let [doing, also] = [4, 5].map(|index| pick(index, &self.verbs));
            let phrase = random.below(6, 6) as usize;
            for c in 0..options.captions_per_video {
                let caption = match (phrase + c) % 6 {
                    0 => format!("a {who} is {doing} a {what}"),
                    1 => format!("a {who} is {doing} a {what} in the {place}"),
                    2 => format!("the {who} with the {thing} is {doing} and {also}"),
                    3 => format!("{doing} a {what} with a {thing}"),
                    4 => format!("in the {place} a {who} is {also}"),
                    _ => format!("there is a {who} {doing} a {what} while {also}"),
                };
                let (text_id, line) = (format!("{id}#{c}"), entries.len() as u64 + 1);
                entries.push(Entry { text_id, video_id: id.clone(), caption, split: Split::Train, line });
            }
        }
        entries
    }
}

fn write_lists(place: &Path, test: &[Entry], train_ids: &[String], train: &[Entry]) -> Result<()> {
    let table = |name: &str, header: &[&str], rows: &mut dyn Iterator<Item = Vec<&str>>| {
        let path = place.join(name);
        let broken = |error: csv::Error| Error::io("write", &path)(std::io::Error::other(error));
        let mut writer = csv::Writer::from_path(&path).map_err(broken)?;
        writer.write_record(header).map_err(broken)?;
        for row in rows {
            writer.write_record(row).map_err(broken)?;
        }
        writer.flush().map_err(Error::io("write", &path))
    };
    let test_rows = &mut test.iter().map(|e| {
        let number = e.video_id.trim_start_matches("video");
        (e, format!("msr{number}"))
    });
    let test_rows: Vec<_> = test_rows.collect();
    let columns = ["key", "vid_key", "video_id", "sentence"];
    table(
        MSRVTT_TEST,
        &columns,
        &mut test_rows
            .iter()
            .map(|(e, key)| vec![e.text_id.as_str(), key.as_str(), e.video_id.as_str(), e.caption.as_str()]),
    )?;
    table(MSRVTT_TRAIN, &["video_id"], &mut train_ids.iter().map(|id| vec![id.as_str()]))?;
    let mut captions = Vec::new();
    for Entry { video_id, caption, .. } in train {
        json_line(&mut captions, &serde_json::json!({"video_id": video_id, "caption": caption}))?;
    }
    let path = place.join(MSRVTT_TRAIN_CAPTIONS);
    fs::write(&path, captions).map_err(Error::io("write", &path))
}

fn about(kind: Kind, options: &MsrvttOptions) -> About {
    About {
        kind: Some(kind),
        encoder: Some(format!("moviola generated words, seed {}, dim {}", options.seed, options.dim)),
        normalised: Some(true),
        sentence: (kind == Kind::Text).then_some(true),
        fps: (kind == Kind::Video).then_some(1.0),
        ..About::default()
    }
}

fn write_texts(
    place: &Path,
    test: &[Entry],
    train: &[Entry],
    lexicon: &Lexicon,
    options: &MsrvttOptions,
) -> Result<()> {
    let mut sink = Sink::create(place, options.format, about(Kind::Text, options), options.dim, options.dtype)?;
    let all: Vec<&Entry> = test.iter().chain(train).collect();
    for chunk in all.chunks(CHUNK) {
        let made: Vec<_> = chunk.par_iter().map(|entry| lexicon.text(&entry.caption, options)).collect();
        for (entry, tokens) in chunk.iter().zip(made) {
            sink.push(&entry.text_id, &tokens, None)?;
        }
    }
    sink.finish()
}

fn write_videos(
    place: &Path,
    test: &[Entry],
    train: &[Entry],
    lexicon: &Lexicon,
    options: &MsrvttOptions,
) -> Result<()> {
    let mut sink = Sink::create(place, options.format, about(Kind::Video, options), options.dim, options.dtype)?;
    let mut order: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in test.iter().chain(train) {
        let at = *places.entry(&entry.video_id).or_insert_with(|| {
            order.push((&entry.video_id, Vec::new()));
            order.len() - 1
        });
        if let Some((_, captions)) = order.get_mut(at) {
            captions.push(&entry.caption);
        }
    }
    for chunk in order.chunks(CHUNK) {
        let made: Vec<_> = chunk.par_iter().map(|(id, captions)| lexicon.video(id, captions, options)).collect();
        for ((id, _), tokens) in chunk.iter().zip(made) {
            sink.push(id, &tokens, None)?;
        }
    }
    sink.finish()
}
