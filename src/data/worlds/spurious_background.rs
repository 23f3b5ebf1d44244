//! S1 `spurious-background`: in training the background predicts the first event, in the tests it does not.
//!
//! Events come as twins that differ little. A model that looks at the background instead of the difference is right in
//! training and in the test `id`, and wrong in `adv`, where each video has the background of its twin.

use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::common::{self, Clip, Line, Made, Maker, Part, at_least, fits, made, seen, tokens_of, within, word};
use super::law::{Generator, Law};
use crate::data::dataset::{Keys, Split};
use crate::data::directions::{add, make_unit};
use crate::data::tokens::TokenDtype;
use crate::error::{Error, Result};

/// The name of the world.
pub const NAME: &str = "spurious-background";
/// Draws for one new caption before a world is said to be too small for its gallery.
const PATIENCE: usize = 1000;

/// The parameters; `default()` is the benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpuriousBackground {
    pub seed: u64,
    pub generator: Generator,
    /// Videos to train on, a caption each.
    pub train: usize,
    /// Videos of the validation gallery, half of them twins of the others.
    pub val: usize,
    /// Videos of a test's gallery, half of them twins of the others.
    pub gallery: usize,
    /// Values a row.
    pub dim: usize,
    /// Pairs of events that look alike; there are twice as many events, and as many backgrounds and words as events.
    pub twin_pairs: usize,
    /// How much twins differ: an event is √(1−δ²) of its pair's vector and δ of its own.
    pub delta: f32,
    /// Events a video, each of another pair.
    pub events: usize,
    /// Slots a video, of which each event takes one.
    pub slots: usize,
    /// Frames a slot.
    pub slot_frames: usize,
    /// Length α of an event.
    pub alpha: f32,
    /// Length β of the background.
    pub beta: f32,
    /// How often the background is that of the first event, in training, validation and the test `id`; else it is any.
    pub rho_train: f32,
    /// Share of event frames that show no background.
    pub clear_share: f32,
    /// Length of the noise on a frame.
    pub noise: f32,
    /// Length of the noise on a word, whose vector has length 1.
    pub word_noise: f32,
    /// Frames a second.
    pub fps: f32,
    /// f16 or f32, on disk.
    pub dtype: TokenDtype,
}

impl Default for SpuriousBackground {
    fn default() -> Self {
        Self {
            seed: 1,
            generator: Generator::Main,
            train: 20_000,
            val: 400,
            gallery: 1000,
            dim: 128,
            twin_pairs: 32,
            delta: 0.35,
            events: 3,
            slots: 6,
            slot_frames: 2,
            alpha: 1.0,
            beta: 2.0,
            rho_train: 0.98,
            clear_share: 0.0,
            noise: 0.7,
            word_noise: 0.1,
            fps: 1.0,
            dtype: TokenDtype::F16,
        }
    }
}

/// Which backgrounds a test's videos have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// As in training.
    Id,
    /// Any background.
    Decor,
    /// The background of the first event's twin.
    Adv,
}

impl Test {
    pub const ALL: [Self; 3] = [Self::Id, Self::Decor, Self::Adv];

    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Decor => "decor",
            Self::Adv => "adv",
        }
    }
}

/// What a video shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The first is the one that the background goes with, wherever it happens; twins are 2k and 2k + 1.
    pub events: Vec<usize>,
    /// The background, numbered as the event it goes with.
    pub background: usize,
    /// `[T]` the event of each frame, if there is one: the foreground.
    pub frames: Vec<Option<usize>>,
    /// `[T]` whether the background is left out.
    pub clear: Vec<bool>,
    /// Position of the video that differs in the first event alone; none in training.
    pub twin: Option<usize>,
}

impl Video {
    /// `[T]` 1 for frames that show an event, 0 for background alone.
    pub fn foreground(&self) -> Vec<f32> {
        self.frames.iter().map(|event| if event.is_some() { 1.0 } else { 0.0 }).collect()
    }
}

/// What a caption asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The events it names, in any order.
    pub events: Vec<usize>,
    /// Position of the video it describes.
    pub correct: usize,
    /// Position of that video's twin; none in training.
    pub twin: Option<usize>,
}

impl Query {
    /// Whether `video` shows all that the caption names.
    pub fn describes(&self, video: &Video) -> bool {
        self.events.iter().all(|event| video.events.contains(event))
    }
}

/// The vectors a world is made of, each of length 1, by the number of the event: what an oracle knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Atoms {
    /// What frames show of an event.
    pub events: Vec<Vec<f32>>,
    /// What frames show of its background.
    pub backgrounds: Vec<Vec<f32>>,
    /// What captions say.
    pub words: Vec<Vec<f32>>,
}

impl SpuriousBackground {
    /// # Errors
    /// [`Error::Config`] names the parameter that makes no world.
    pub fn check(&self) -> Result<()> {
        at_least("train", self.train, 1)?;
        for (key, items) in [("val", self.val), ("gallery", self.gallery)] {
            at_least(key, items, 2)?;
            if !items.is_multiple_of(2) {
                return Err(Error::config(
                    key,
                    format!("{items} is odd"),
                    "half of the videos are twins: make it even",
                ));
            }
        }
        at_least("dim", self.dim, 2)?;
        at_least("events", self.events, 1)?;
        at_least("twin_pairs", self.twin_pairs, self.events)?;
        at_least("slots", self.slots, self.events)?;
        at_least("slot_frames", self.slot_frames, 1)?;
        within("delta", self.delta, 0.0, 1.0)?;
        within("rho_train", self.rho_train, 0.0, 1.0)?;
        within("clear_share", self.clear_share, 0.0, 1.0)?;
        within("fps", self.fps, 1e-3, 1e3)?;
        let lengths = [("alpha", self.alpha), ("beta", self.beta), ("noise", self.noise)];
        for (key, length) in lengths.into_iter().chain([("word_noise", self.word_noise)]) {
            within(key, length, 0.0, 100.0)?;
        }
        let frames = self.slots.saturating_mul(self.slot_frames);
        fits("train", self.train, frames, self.dim)?;
        fits("val", self.val, frames, self.dim)?;
        fits("gallery", self.gallery, frames, self.dim)?;
        // Atoms, and the layers of the held-out law.
        fits("twin_pairs", self.twin_pairs, 6, self.dim)?;
        fits("dim", self.dim, 2, self.dim)
    }

    pub fn atoms(&self) -> Atoms {
        let part = self.part("");
        let make = |make: &(dyn Fn(usize) -> Vec<f32> + Sync)| (0..2 * self.twin_pairs).map(make).collect();
        let shared = (1.0 - self.delta * self.delta).sqrt();
        Atoms {
            events: make(&|event| {
                let mut atom = vec![0.0; self.dim];
                add(&mut atom, shared, &seen(part, &format!("pair {}", event / 2), self.dim));
                add(&mut atom, self.delta, &seen(part, &format!("event {event}"), self.dim));
                make_unit(&mut atom);
                atom
            }),
            backgrounds: make(&|event| seen(part, &format!("background {event}"), self.dim)),
            words: make(&|event| word(part, &format!("event{event}"), self.dim)),
        }
    }

    /// The training split.
    ///
    /// # Errors
    /// As [`SpuriousBackground::check`].
    pub fn train(&self) -> Result<Made<Video, Query>> {
        self.check()?;
        let part = self.part("train");
        let stories: Vec<_> = (0..self.train).map(|i| (self.story(part, i), None)).collect();
        self.split(part, Split::Train, Test::Id, stories)
    }

    /// A gallery of its own, with backgrounds as in training.
    ///
    /// # Errors
    /// As [`SpuriousBackground::test`].
    pub fn val(&self) -> Result<Made<Video, Query>> {
        self.check()?;
        let part = self.part("val");
        self.split(part, Split::Val, Test::Id, self.stories_with_twins(part, self.val)?)
    }

    /// A test gallery: videos and their twins, all of them queries, too. Each `draw` is another gallery; the three tests
    /// of a draw differ in their backgrounds alone.
    ///
    /// # Errors
    /// As [`SpuriousBackground::check`]; [`Error::Config`] if there are too few events for so many different captions.
    pub fn test(&self, test: Test, draw: u32) -> Result<Made<Video, Query>> {
        self.check()?;
        let name = format!("test {draw}");
        let part = self.part(&name);
        self.split(part, Split::Test, test, self.stories_with_twins(part, self.gallery)?)
    }

    /// Writes all splits to the new folder `dir`, the tests `decor` and `adv` to folders under `tests` in it.
    ///
    /// # Errors
    /// As [`SpuriousBackground::test`]; [`Error::Format`] if `dir` holds something already.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.check()?;
        let test = |test| -> Maker<_, _> { Box::new(move || self.test(test, 0)) };
        let splits: [Maker<_, _>; 3] = [Box::new(|| self.train()), Box::new(|| self.val()), test(Test::Id)];
        let others = [Test::Decor, Test::Adv].map(|t| (t.name(), test(t)));
        common::write_folder(dir, self, self.dtype, &splits, &others)
    }

    fn part<'a>(&self, name: &'a str) -> Part<'a> {
        Part { seed: self.seed, world: NAME, name }
    }

    /// The events of video `i`, each of another pair.
    fn story(&self, part: Part, i: usize) -> Vec<usize> {
        let side = part.random("sides", i);
        let pairs = part.random("pairs", i).permutation(self.twin_pairs);
        (0..).zip(pairs).take(self.events).map(|(e, pair)| 2 * pair + side.below(e, 2) as usize).collect()
    }

    /// Different stories and, after each, its twin; with the position of each one's twin.
    fn stories_with_twins(&self, part: Part, items: usize) -> Result<Vec<(Vec<usize>, Option<usize>)>> {
        let sorted = |story: &[usize]| {
            let mut story = story.to_vec();
            story.sort_unstable();
            story
        };
        let mut known = HashSet::new();
        let mut stories = Vec::new();
        let (mut tried, mut failed) = (0, 0);
        while stories.len() < items {
            let story = self.story(part, tried);
            tried += 1;
            let mut twin = story.clone();
            if let Some(first) = twin.first_mut() {
                *first ^= 1;
            }
            let sets = [sorted(&story), sorted(&twin)];
            if sets.iter().any(|set| known.contains(set)) {
                failed += 1;
                if failed > PATIENCE {
                    let what = format!("{} are too few for {items} different captions", self.twin_pairs);
                    return Err(Error::config("twin_pairs", what, "make more of them, or a smaller gallery"));
                }
                continue;
            }
            failed = 0;
            known.extend(sets);
            let at = stories.len();
            stories.extend([(story, Some(at + 1)), (twin, Some(at))]);
        }
        Ok(stories)
    }

    fn split(
        &self,
        part: Part,
        split: Split,
        test: Test,
        stories: Vec<(Vec<usize>, Option<usize>)>,
    ) -> Result<Made<Video, Query>> {
        let atoms = self.atoms();
        let [frames, texts] = ["frames", "texts"].map(|of| Law::new(self.generator, self.seed, of, self.dim));
        let keys = (split == Split::Train).then(|| keys(&stories));
        let (clips, lines) = stories
            .into_par_iter()
            .enumerate()
            .map(|(i, (story, twin))| {
                let truth = self.video(part, test, i, story, twin);
                // Twins are told in one order, and not in that of the list: no word's place shall tell the background.
                let order = part.random("order", twin.map_or(i, |twin| twin.min(i))).permutation(truth.events.len());
                let events: Vec<usize> = order.into_iter().filter_map(|e| truth.events.get(e).copied()).collect();
                let names: Vec<String> = events.iter().map(|event| format!("event{event}")).collect();
                let words: Vec<&[f32]> = events.iter().filter_map(|e| atoms.words.get(*e)).map(Vec::as_slice).collect();
                let words = tokens_of(&words, &texts, self.word_noise, part.random("words", i), self.dim);
                let query = Query { events, correct: i, twin };
                let clip = Clip {
                    frames: self.frames(part, i, &truth, &atoms, &frames),
                    times: common::times(truth.frames.len(), 1.0 / self.fps),
                    truth,
                };
                (clip, Line { video: i, caption: names.join(" "), words, truth: query })
            })
            .unzip();
        made(part, split, self.dim, clips, lines, keys)
    }

    /// What video `i` shows.
    fn video(&self, part: Part, test: Test, i: usize, events: Vec<usize>, twin: Option<usize>) -> Video {
        // Twins share their slots.
        let leader = twin.map_or(i, |twin| twin.min(i));
        // In any order: that the background goes with the event that happens first would be a cue of its own.
        let slots = part.random("slots", leader).permutation(self.slots).into_iter().take(self.events);
        let mut shown = vec![None; self.slots];
        for (slot, event) in slots.zip(&events) {
            if let Some(place) = shown.get_mut(slot) {
                *place = Some(*event);
            }
        }
        let frames: Vec<_> = shown.into_iter().flat_map(|event| std::iter::repeat_n(event, self.slot_frames)).collect();
        let first = events.first().copied().unwrap_or(0);
        let draw = part.random("background", i);
        let any = draw.below(1, 2 * self.twin_pairs as u64) as usize;
        let background = match test {
            Test::Id if draw.uniform(0) < self.rho_train => first,
            Test::Id | Test::Decor => any,
            Test::Adv => first ^ 1,
        };
        let draw = part.random("clear", i);
        let clear = (0..).zip(&frames).map(|(t, e)| e.is_some() && draw.uniform(t) < self.clear_share).collect();
        Video { events, background, frames, clear, twin }
    }

    /// Frame tokens `[T, dim]`.
    fn frames(&self, part: Part, i: usize, video: &Video, atoms: &Atoms, law: &Law) -> Vec<f32> {
        let amplitude = part.random("amplitudes", i);
        let mut rows = Vec::with_capacity(video.frames.len() * self.dim);
        // A frame's sum of atoms is that of the frame before, except where an event begins or ends.
        let mut last = None;
        let mut sum = vec![0.0; self.dim];
        for (event, clear) in video.frames.iter().zip(&video.clear) {
            if last != Some((event, clear)) {
                sum.fill(0.0);
                if let Some(background) = atoms.backgrounds.get(video.background)
                    && !clear
                {
                    add(&mut sum, self.beta * law.amplitude(amplitude, 0), background);
                }
                if let Some(event) = event
                    && let Some(atom) = atoms.events.get(*event)
                {
                    add(&mut sum, self.alpha * law.amplitude(amplitude, 1 + *event as u64), atom);
                }
                law.compose(&mut sum);
                last = Some((event, clear));
            }
            rows.extend_from_slice(&sum);
        }
        law.add_noise(&mut rows, self.noise, part.random("noise", i));
        rows
    }
}

/// Captions that name the same events, in any order, are no negatives of each other.
fn keys(stories: &[(Vec<usize>, Option<usize>)]) -> Keys {
    let mut known = std::collections::HashMap::new();
    let caption = stories
        .iter()
        .map(|(story, _)| {
            let mut set = story.clone();
            set.sort_unstable();
            let next = known.len() as u32;
            *known.entry(set).or_insert(next)
        })
        .collect();
    // Positions fit: more videos than 2³² values are refused.
    Keys { video: (0..stories.len() as u32).collect(), caption }
}

#[cfg(test)]
mod tests {
    use super::super::common::testing::{dot, hits, same_bits, tokens};
    use super::*;
    use crate::seed::seed;

    fn small(seed: u64) -> SpuriousBackground {
        SpuriousBackground { seed, train: 2000, val: 40, gallery: 200, ..SpuriousBackground::default() }
    }

    #[test]
    fn a_seed_gives_the_same_bits_with_one_thread_or_three() {
        let seed = seed();
        for generator in [Generator::Main, Generator::HeldOut] {
            let world = SpuriousBackground { generator, train: 90, ..small(seed) };
            let other = SpuriousBackground { seed: seed + 1, ..world.clone() };
            same_bits(&|| world.train().unwrap().data, &|| other.train().unwrap().data);
            same_bits(&|| world.test(Test::Adv, 0).unwrap().data, &|| world.test(Test::Adv, 1).unwrap().data);
        }
    }

    #[test]
    fn tokens_show_what_the_truth_says() {
        let seed = seed();
        let world = SpuriousBackground { noise: 0.1, word_noise: 0.0, clear_share: 0.3, train: 200, ..small(seed) };
        let (atoms, made) = (world.atoms(), world.train().unwrap());
        let mut clear = 0;
        for (v, truth) in made.videos.iter().enumerate() {
            let rows = tokens(&*made.data.videos, v);
            assert_eq!((rows.rows, rows.dim), (12, 128));
            assert_eq!(truth.foreground().iter().sum::<f32>(), 6.0);
            let mut shown: Vec<usize> = truth.frames.iter().step_by(2).flatten().copied().collect();
            shown.sort_unstable();
            let mut events = truth.events.clone();
            events.sort_unstable();
            assert_eq!(shown, events);
            shown.iter_mut().for_each(|e| *e /= 2);
            shown.sort_unstable();
            shown.dedup();
            assert_eq!(shown.len(), 3, "events of one pair: {truth:?}");
            for (t, event) in truth.frames.iter().enumerate() {
                let mut row = rows.row(t).to_vec();
                let along = dot(&row, &atoms.backgrounds[truth.background]);
                assert_eq!(along > 1.0, !truth.clear[t], "frame {t} of {truth:?}: {along}");
                clear += usize::from(truth.clear[t]);
                if !truth.clear[t] {
                    add(&mut row, -2.0, &atoms.backgrounds[truth.background]);
                }
                let length = dot(&row, &row).sqrt();
                match event {
                    None => assert!(length < 0.2),
                    Some(event) => {
                        let best = (0..64)
                            .max_by(|a, b| dot(&row, &atoms.events[*a]).total_cmp(&dot(&row, &atoms.events[*b])));
                        assert_eq!(best, Some(*event), "frame {t} of {truth:?}");
                    }
                }
            }
            let words = tokens(&*made.data.texts, v);
            for (w, event) in made.queries[v].events.iter().enumerate() {
                assert!(dot(words.row(w), &atoms.words[*event]) > 0.9999);
            }
            assert!(made.queries[v].describes(truth) && made.queries[v].correct == v);
        }
        assert!((0.2..0.4).contains(&(clear as f32 / 1200.0)), "{clear}");
    }

    #[test]
    fn twins_are_as_alike_as_delta_says() {
        let atoms = small(seed()).atoms();
        let mean = |k: &dyn Fn(usize) -> usize| {
            (0..32).map(|p| dot(&atoms.events[2 * p], &atoms.events[k(p)])).sum::<f32>() / 32.0
        };
        assert!((mean(&|p| 2 * p + 1) - 0.8775).abs() < 0.03);
        assert!(mean(&|p| (2 * p + 2) % 64).abs() < 0.1);
    }

    #[test]
    fn backgrounds_follow_the_first_event_as_often_as_rho_says() {
        let seed = seed();
        let share = |videos: &[Video], of: &dyn Fn(&Video) -> usize| {
            videos.iter().filter(|v| v.background == of(v)).count() as f32 / videos.len() as f32
        };
        let own = |v: &Video| v.events[0];
        for (rho, from, to) in [(0.98, 0.965, 0.995), (0.5, 0.45, 0.56), (0.0, 0.003, 0.04), (1.0, 1.0, 1.0)] {
            let world = SpuriousBackground { rho_train: rho, ..small(seed) };
            let found = share(&world.train().unwrap().videos, &own);
            assert!((from..=to).contains(&found), "{found} for {rho}");
        }
        let test = |test| small(seed).test(test, 3).unwrap().videos;
        assert!(share(&test(Test::Id), &own) > 0.92);
        assert!(share(&test(Test::Decor), &own) < 0.08);
        assert_eq!(share(&test(Test::Adv), &|v| v.events[0] ^ 1), 1.0);
    }

    #[test]
    fn galleries_hold_each_video_with_its_twin_and_no_other_like_it() {
        let world = small(seed());
        let tests = Test::ALL.map(|test| world.test(test, 0).unwrap());
        for made in &tests {
            assert_eq!((made.videos.len(), made.queries.len(), made.data.gallery().len()), (200, 200, 200));
            assert_eq!(made.data.gallery(), (0..200).collect::<Vec<_>>());
            for (v, (video, query)) in made.videos.iter().zip(&made.queries).enumerate() {
                let twin = &made.videos[video.twin.unwrap()];
                assert_eq!(twin.twin, Some(v));
                assert_eq!(twin.events[0], video.events[0] ^ 1);
                assert_eq!(twin.events[1..], video.events[1..]);
                assert_eq!((query.correct, query.twin), (v, video.twin));
                let right: Vec<usize> = (0..200).filter(|i| query.describes(&made.videos[*i])).collect();
                assert_eq!(right, [v]);
            }
        }
        // The tests differ in nothing but the background.
        for (id, adv) in tests[0].videos.iter().zip(&tests[2].videos) {
            assert_eq!((&id.events, &id.frames), (&adv.events, &adv.frames));
        }
        let error = SpuriousBackground { twin_pairs: 4, ..world }.test(Test::Id, 0).unwrap_err().to_string();
        assert!(error.starts_with("twin_pairs"), "{error}");
    }

    #[test]
    fn keys_join_captions_of_the_same_events() {
        let made = SpuriousBackground { twin_pairs: 4, ..small(seed()) }.train().unwrap();
        let keys = made.data.keys();
        for i in 0..300 {
            for j in 0..300 {
                assert_eq!(keys.caption[i] == keys.caption[j], made.queries[i].describes(&made.videos[j]));
            }
        }
    }

    /// Knows all atoms and masks: the events it recognises in a video's slots.
    fn recognised(made: &Made<Video, Query>, atoms: &Atoms, v: usize) -> Vec<usize> {
        let (rows, truth) = (tokens(&*made.data.videos, v), &made.videos[v]);
        let event = |slot: usize| {
            let mut sum = rows.row(2 * slot).to_vec();
            add(&mut sum, 1.0, rows.row(2 * slot + 1));
            add(&mut sum, -4.0, &atoms.backgrounds[truth.background]);
            let seen: Vec<f32> = atoms.events.iter().map(|atom| dot(&sum, atom)).collect();
            (0..64).max_by(|a, b| seen[*a].total_cmp(&seen[*b])).unwrap()
        };
        (0..6).filter(|s| truth.frames[2 * s].is_some()).map(event).collect()
    }

    #[test]
    fn an_oracle_finds_all_and_a_background_only_scorer_is_fooled() {
        let world = SpuriousBackground { gallery: 100, ..small(seed()) };
        let atoms = world.atoms();
        for (test, fooled) in [(Test::Id, 0.85..=1.0), (Test::Adv, 0.0..=0.0)] {
            let made = world.test(test, 1).unwrap();
            let shown: Vec<Vec<usize>> = (0..100).map(|v| recognised(&made, &atoms, v)).collect();
            let oracle =
                |q: usize, v: usize| made.queries[q].events.iter().filter(|e| shown[v].contains(e)).count() as f32;
            let right = hits(100, 100, &|q| vec![q], &oracle);
            assert!(right > 0.95, "{right} in {test:?}");
            // The twin or the video: which of them has the background of the event that tells them apart?
            let blind = |q: usize, v: usize| (made.videos[v].background == made.videos[q].events[0]) as u8;
            let chosen = (0..100).filter(|q| blind(*q, *q) > blind(*q, made.queries[*q].twin.unwrap())).count();
            assert!(fooled.contains(&(chosen as f32 / 100.0)), "{chosen} in {test:?}");
        }
    }

    #[test]
    fn impossible_parameters_are_named() {
        for (world, key) in [
            (SpuriousBackground { gallery: 7, ..small(1) }, "gallery"),
            (SpuriousBackground { slots: 2, ..small(1) }, "slots"),
            (SpuriousBackground { twin_pairs: 2, ..small(1) }, "twin_pairs"),
            (SpuriousBackground { rho_train: 1.5, ..small(1) }, "rho_train"),
            (SpuriousBackground { beta: f32::NAN, ..small(1) }, "beta"),
            (SpuriousBackground { train: usize::MAX, ..small(1) }, "train"),
            (SpuriousBackground { slot_frames: usize::MAX, ..small(1) }, "train"),
            (SpuriousBackground { dim: 1 << 33, ..small(1) }, "train"),
        ] {
            let error = world.train().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
