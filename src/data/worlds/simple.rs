//! `world simple`: a generated data set of which everything is known.
//!
//! A video shows a few events one after another, each in a window of frames, before a background of its own; a caption
//! names its events in their order. Word vectors are independent of frame vectors, so that nothing but training can
//! bring the two together. All of it follows from one seed.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::common::{TRUTH, WORLD, json_line};
use crate::data::directions::{add, add_noise, direction, make_unit, push_sentence, stream_of};
use crate::data::files::{Beside, write_whole};
use crate::data::layout::{CAPTIONS, Split};
use crate::data::sink::{OutputFormat, Sink};
use crate::data::tokens::{About, Kind, TokenDtype};
use crate::error::{Error, Result};
use crate::random::Random;

/// The parameters; `default()` makes 704 videos in a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimpleWorld {
    pub seed: u64,
    /// Videos a split.
    pub train: usize,
    pub val: usize,
    pub test: usize,
    /// Captions a video.
    pub captions: usize,
    /// Values a row, of videos and texts.
    pub dim: usize,
    /// Kinds of events: `event0`, `event1`, …
    pub events: usize,
    /// Events a video, from and to (inclusive).
    pub events_per_video: (usize, usize),
    /// Frames a video, from and to (inclusive).
    pub frames: (usize, usize),
    /// Frames a second.
    pub fps: f32,
    /// Length of the noise on a frame, whose event has length 1.
    pub noise: f32,
    /// Length of a video's background.
    pub background: f32,
    /// Length of the noise on a word, whose vector has length 1.
    pub word_noise: f32,
    /// f16 or f32.
    pub dtype: TokenDtype,
}

impl Default for SimpleWorld {
    fn default() -> Self {
        Self {
            seed: 1,
            train: 512,
            val: 64,
            test: 128,
            captions: 2,
            dim: 128,
            events: 64,
            events_per_video: (2, 4),
            frames: (12, 32),
            fps: 1.0,
            noise: 0.5,
            background: 0.5,
            word_noise: 0.1,
            dtype: TokenDtype::F16,
        }
    }
}

/// The ground truth of one video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    pub video_id: String,
    pub split: Split,
    pub events: Vec<Happening>,
}

/// An event and when it happens; the end is not part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    pub event: String,
    pub frames: (usize, usize),
    pub seconds: (f32, f32),
}

/// How captions join events: before the first, between, before the last.
const PHRASES: [(&str, &str, &str); 4] = [
    ("", "then", "then"),
    ("first", "after that", "and finally"),
    ("we see", "followed by", "followed by"),
    ("a video of", "and later", "and at the end"),
];
/// Frames that an event takes at least.
const SHORTEST: usize = 2;

impl SimpleWorld {
    /// Writes the world to the new folder `dir` in the native layout, with [`WORLD`] and [`TRUTH`] beside: a [`Truth`] a line.
    ///
    /// # Errors
    /// [`Error::Config`] for parameters that make no world, [`Error::Format`] if `dir` holds something already.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.validate()?;
        let beside = Beside::new(dir)?;
        let place = beside.partial();
        fs::create_dir(place).map_err(Error::io("create", dir))?;
        // One encoder for both, as with CLIP: they are meant for each other.
        let encoder = Some(format!("moviola world simple, seed {}, dim {}", self.seed, self.dim));
        let about =
            |kind| About { kind: Some(kind), encoder: encoder.clone(), normalised: Some(true), ..About::default() };
        let videos = About { fps: Some(self.fps), ..about(Kind::Video) };
        let texts = About { sentence: Some(true), ..about(Kind::Text) };
        let mut videos = Sink::create(&place.join("videos"), OutputFormat::Native, videos, self.dim, self.dtype)?;
        let mut texts = Sink::create(&place.join("texts"), OutputFormat::Native, texts, self.dim, self.dtype)?;
        let (mut captions, mut truths) = (Vec::new(), Vec::new());
        for (v, split) in self.splits().enumerate() {
            let (truth, count) = self.happenings(v, split);
            let times: Vec<f32> = (0..count).map(|t| t as f32 / self.fps).collect();
            videos.push(&truth.video_id, &self.frames_of(&truth, count), Some(&times))?;
            for c in 0..self.captions {
                let text_id = format!("{}#{c}", truth.video_id);
                let caption = caption(&truth.events, c);
                texts.push(&text_id, &self.words_of(&text_id, &caption), None)?;
                let video_id = &truth.video_id;
                let line =
                    serde_json::json!({"text_id": text_id, "video_id": video_id, "caption": caption, "split": split});
                json_line(&mut captions, &line)?;
            }
            json_line(&mut truths, &truth)?;
        }
        videos.finish()?;
        texts.finish()?;
        write_whole(&place.join(CAPTIONS), &captions)?;
        write_whole(&place.join(TRUTH), &truths)?;
        let mut parameters = Vec::new();
        json_line(&mut parameters, self)?;
        write_whole(&place.join(WORLD), &parameters)?;
        beside.keep()
    }

    fn validate(&self) -> Result<()> {
        let at_least = |key: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Error::config(key, format!("{value} is too small"), format!("give at least {least}"))),
        };
        at_least("train + val + test", self.train.saturating_add(self.val).saturating_add(self.test), 1)?;
        at_least("captions", self.captions, 1)?;
        at_least("dim", self.dim, 2)?;
        at_least("events_per_video", self.events_per_video.0, 1)?;
        at_least("events_per_video (to)", self.events_per_video.1, self.events_per_video.0)?;
        at_least("events", self.events, self.events_per_video.1)?;
        at_least("frames", self.frames.0, self.events_per_video.1.saturating_mul(SHORTEST))?;
        at_least("frames (to)", self.frames.1, self.frames.0)?;
        let scales = [("noise", self.noise), ("background", self.background), ("word_noise", self.word_noise)];
        for (key, scale) in scales {
            if !(0.0..=100.0).contains(&scale) {
                return Err(Error::config(key, format!("{scale} is no length"), "give a number from 0 to 100"));
            }
        }
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return Err(Error::config("fps", format!("{} is no frame rate", self.fps), "give a positive number"));
        }
        Ok(())
    }

    /// The split of each video.
    fn splits(&self) -> impl Iterator<Item = Split> {
        let part = std::iter::repeat_n;
        part(Split::Train, self.train).chain(part(Split::Val, self.val)).chain(part(Split::Test, self.test))
    }

    /// What happens in video `v`, and its number of frames.
    fn happenings(&self, v: usize, split: Split) -> (Truth, usize) {
        let random = Random::new(self.seed, stream_of(&format!("video {v}")));
        let between = |index, (from, to): (usize, usize)| from + random.below(index, (to - from + 1) as u64) as usize;
        let frames = between(0, self.frames);
        let count = between(1, self.events_per_video);
        let kinds = Random::new(self.seed, stream_of(&format!("events of {v}"))).permutation(self.events);
        // Gap, event, gap, event, …, gap: frames beyond the shortest windows fall anywhere.
        let mut spans: Vec<usize> = (0..2 * count + 1).map(|bin| if bin % 2 == 1 { SHORTEST } else { 0 }).collect();
        for frame in 0..frames - count * SHORTEST {
            let bin = random.below(2 + frame as u64, spans.len() as u64) as usize;
            if let Some(span) = spans.get_mut(bin) {
                *span += 1;
            }
        }
        let mut at = 0;
        let mut events = Vec::new();
        for (pair, kind) in spans.chunks(2).zip(kinds.iter().take(count)) {
            if let [gap, length] = pair {
                let (begin, end) = (at + gap, at + gap + length);
                let seconds = (begin as f32 / self.fps, end as f32 / self.fps);
                events.push(Happening { event: format!("event{kind}"), frames: (begin, end), seconds });
                at = end;
            }
        }
        (Truth { video_id: format!("video{v}"), split, events }, frames)
    }

    /// Frame tokens `[count, dim]`.
    fn frames_of(&self, truth: &Truth, count: usize) -> Vec<f32> {
        let background = direction(self.seed, &format!("background of {}", truth.video_id), self.dim);
        let noise = Random::new(self.seed, stream_of(&format!("noise of {}", truth.video_id)));
        let atoms: Vec<_> =
            truth.events.iter().map(|e| (e, direction(self.seed, &format!("seen {}", e.event), self.dim))).collect();
        let mut rows = vec![0.0; count * self.dim];
        for (t, row) in rows.chunks_exact_mut(self.dim).enumerate() {
            add(row, self.background, &background);
            for (happening, atom) in &atoms {
                if (happening.frames.0..happening.frames.1).contains(&t) {
                    add(row, 1.0, atom);
                }
            }
            add_noise(row, self.noise, noise, t);
            make_unit(row);
        }
        rows
    }

    /// Word tokens and the sentence vector, `[words + 1, dim]`.
    fn words_of(&self, text_id: &str, caption: &str) -> Vec<f32> {
        let noise = Random::new(self.seed, stream_of(&format!("noise of text {text_id}")));
        let mut rows = Vec::new();
        for (w, word) in caption.split_whitespace().enumerate() {
            let mut row = direction(self.seed, &format!("word {word}"), self.dim);
            add_noise(&mut row, self.word_noise, noise, w);
            make_unit(&mut row);
            rows.extend(row);
        }
        push_sentence(&mut rows, self.dim);
        rows
    }
}

/// Caption `c` of a video: the same events, phrased in one of four ways.
fn caption(events: &[Happening], c: usize) -> String {
    let (before, between, last) = PHRASES.get(c % PHRASES.len()).copied().unwrap_or_default();
    let mut words = vec![before];
    for (e, happening) in events.iter().enumerate() {
        if e > 0 {
            words.push(if e + 1 == events.len() { last } else { between });
        }
        words.push(&happening.event);
    }
    words.join(" ").trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::Dataset;

    fn small(seed: u64) -> SimpleWorld {
        SimpleWorld { seed, train: 12, val: 3, test: 5, dim: 32, ..SimpleWorld::default() }
    }

    #[test]
    fn events_stay_in_order_apart_and_inside() {
        let world = small(7);
        for (v, split) in world.splits().enumerate() {
            let (truth, count) = world.happenings(v, split);
            let mut reached = 0;
            for happening in &truth.events {
                let (begin, end) = happening.frames;
                assert!(begin >= reached && end >= begin + SHORTEST && end <= count, "{truth:?}");
                reached = end;
            }
            assert!((2..=4).contains(&truth.events.len()));
        }
    }

    #[test]
    fn frames_show_their_events() {
        let world = SimpleWorld { noise: 0.1, ..small(3) };
        let (truth, count) = world.happenings(0, Split::Train);
        let frames = world.frames_of(&truth, count);
        let first = &truth.events[0];
        let atom = direction(world.seed, &format!("seen {}", first.event), world.dim);
        for (t, row) in frames.chunks(world.dim).enumerate() {
            let seen: f32 = row.iter().zip(&atom).map(|(a, b)| a * b).sum();
            let inside = (first.frames.0..first.frames.1).contains(&t);
            assert_eq!(seen > 0.7, inside, "frame {t}: {seen}");
        }
    }

    #[test]
    fn captions_name_all_events_in_order() {
        let happening = |e: &str| Happening { event: e.into(), frames: (0, 1), seconds: (0.0, 1.0) };
        let events = [happening("event12"), happening("event3"), happening("event5")];
        assert_eq!(caption(&events, 0), "event12 then event3 then event5");
        assert_eq!(caption(&events[..2], 1), "first event12 and finally event3");
        assert_eq!(caption(&events[..1], 2), "we see event12");
    }

    #[test]
    fn a_seed_gives_the_same_files_and_another_seed_others() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seed) in [("a", 1), ("b", 1), ("c", 2)] {
            small(seed).write(&dir.path().join(name)).unwrap();
        }
        let read = |name: &str, file: &str| fs::read(dir.path().join(name).join(file)).unwrap();
        for file in ["captions.jsonl", "truth.jsonl", "videos/manifest.json", "texts/shard-00000.safetensors"] {
            assert_eq!(read("a", file), read("b", file), "{file}");
            assert_ne!(read("a", file), read("c", file), "{file}");
        }
        let test = Dataset::open(&dir.path().join("a"), None, Split::Test).unwrap();
        assert_eq!((test.pairs.len(), test.gallery().len()), (10, 5));
        assert!(test.texts.provenance().has_sentence());
    }

    #[test]
    fn impossible_parameters_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        for (world, key) in [
            (SimpleWorld { events: 1, ..small(1) }, "events"),
            (SimpleWorld { frames: (3, 9), ..small(1) }, "frames"),
            (SimpleWorld { noise: f32::NAN, ..small(1) }, "noise"),
            (SimpleWorld { fps: 0.0, ..small(1) }, "fps"),
        ] {
            let error = world.write(&path).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(!path.exists());
    }
}
