//! S3 `temporal-order`: two events in a video, and captions half of which say which came first.
//!
//! Every video of a gallery has its order twin beside it: the same events, each in the other's window. A caption
//! "event3 and event9" is true of both, "event3 then event9" of one.

use std::collections::HashMap;
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
pub const NAME: &str = "temporal-order";
/// Between the two windows lies this many frames at least.
const GAP: usize = 1;

/// The parameters; `default()` is the benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemporalOrder {
    pub seed: u64,
    pub generator: Generator,
    /// Videos to train on, a caption each.
    pub train: usize,
    /// Videos of the validation gallery, half of them order twins of the others.
    pub val: usize,
    /// Videos of a test's gallery, half of them order twins of the others.
    pub gallery: usize,
    /// Values a row.
    pub dim: usize,
    /// Kinds of events: few enough that a batch holds the same two in both orders now and then.
    pub events: usize,
    /// Frames a video.
    pub frames: usize,
    /// Frames an event takes, from and to (inclusive).
    pub window: (usize, usize),
    /// Seconds between frames are 1 / fps times a speed drawn from here for each video.
    pub speed: (f32, f32),
    /// Share of the captions that say the order.
    pub ordered_share: f32,
    /// Length of an event.
    pub event: f32,
    /// Length of a video's own background, in all of its frames.
    pub background: f32,
    /// Length of the noise on a frame.
    pub noise: f32,
    /// Length of what a word shows of its role (first, second) in a caption that says the order: text encoders give
    /// words in their context, and without it "event3 then event9" and its opposite were the same set of words.
    pub role: f32,
    /// Length of the noise on a word, whose vector has length 1.
    pub word_noise: f32,
    /// Frames a second at speed 1.
    pub fps: f32,
    /// f16 or f32, on disk.
    pub dtype: TokenDtype,
}

impl Default for TemporalOrder {
    fn default() -> Self {
        Self {
            seed: 1,
            generator: Generator::Main,
            train: 20_000,
            val: 400,
            gallery: 1000,
            dim: 128,
            events: 40,
            frames: 32,
            window: (4, 8),
            speed: (0.75, 1.33),
            ordered_share: 0.5,
            event: 1.0,
            background: 0.5,
            noise: 0.7,
            role: 0.5,
            word_noise: 0.1,
            fps: 1.0,
            dtype: TokenDtype::F16,
        }
    }
}

/// What a video shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The two events in the order in which they happen.
    pub events: [usize; 2],
    /// Their frames; the end is not part of it.
    pub windows: [(usize, usize); 2],
    /// The same in seconds: from the first frame's time to one frame behind the last's.
    pub seconds: [(f32, f32); 2],
    /// What distances in time are multiplied with.
    pub speed: f32,
    /// Position of the video with the same events in the other order; none in training.
    pub twin: Option<usize>,
}

/// What a caption asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The two events in the order in which it names them.
    pub events: [usize; 2],
    /// Whether it says which came first.
    pub ordered: bool,
    /// Position of the video it was made for.
    pub video: usize,
    /// Position of that video's order twin; none in training.
    pub twin: Option<usize>,
    /// Positions of all videos of the gallery it describes: one if ordered, else two. Those beside the best-ranked are no
    /// distractors. In training, of which [`Query::describes`] tells more, only `video`.
    pub correct: Vec<usize>,
}

impl Query {
    /// Whether the caption is true of `video`.
    pub fn describes(&self, video: &Video) -> bool {
        let [first, second] = self.events;
        video.events == [first, second] || (!self.ordered && video.events == [second, first])
    }
}

/// The vectors a world is made of, each of length 1: what an oracle knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Atoms {
    /// What frames show of each event.
    pub events: Vec<Vec<f32>>,
    /// What captions say of each.
    pub words: Vec<Vec<f32>>,
    /// What a word shows of being first and second.
    pub roles: [Vec<f32>; 2],
    /// The words `and` and `then`.
    pub joints: [Vec<f32>; 2],
}

/// The plot of a video.
struct Story {
    events: [usize; 2],
    twin: Option<usize>,
}

impl TemporalOrder {
    /// # Errors
    /// [`Error::Config`] names the parameter that makes no world.
    pub fn check(&self) -> Result<()> {
        at_least("train", self.train, 1)?;
        at_least("events", self.events, 2)?;
        let pairs = self.events.saturating_mul(self.events - 1) / 2;
        for (key, items) in [("val", self.val), ("gallery", self.gallery)] {
            at_least(key, items, 2)?;
            if !items.is_multiple_of(2) {
                return Err(Error::config(
                    key,
                    format!("{items} is odd"),
                    "half of the videos are twins: make it even",
                ));
            }
            if items / 2 > pairs {
                let what = format!("{} events make {pairs} pairs, too few for {items} videos", self.events);
                return Err(Error::config(key, what, format!("give at most {}, or more events", 2 * pairs)));
            }
        }
        at_least("dim", self.dim, 2)?;
        at_least("window", self.window.0, 1)?;
        at_least("window (to)", self.window.1, self.window.0)?;
        at_least("frames", self.frames, self.window.1.saturating_mul(2).saturating_add(GAP))?;
        within("speed", self.speed.0, 0.01, 100.0)?;
        within("speed (to)", self.speed.1, self.speed.0, 100.0)?;
        within("ordered_share", self.ordered_share, 0.0, 1.0)?;
        within("fps", self.fps, 1e-3, 1e3)?;
        let lengths = [("event", self.event), ("background", self.background), ("noise", self.noise)];
        for (key, length) in lengths.into_iter().chain([("role", self.role), ("word_noise", self.word_noise)]) {
            within(key, length, 0.0, 100.0)?;
        }
        for (key, videos) in [("train", self.train), ("val", self.val), ("gallery", self.gallery)] {
            fits(key, videos, self.frames, self.dim)?;
        }
        // The list of pairs, atoms, and the layers of the held-out law.
        fits("events", self.events, self.events, 64)?;
        fits("events", self.events, 2, self.dim)?;
        fits("dim", self.dim, 2, self.dim)
    }

    pub fn atoms(&self) -> Atoms {
        let part = self.part("");
        Atoms {
            events: (0..self.events).map(|e| seen(part, &format!("event {e}"), self.dim)).collect(),
            words: (0..self.events).map(|e| word(part, &format!("event{e}"), self.dim)).collect(),
            roles: ["role of the first", "role of the second"].map(|role| word(part, role, self.dim)),
            joints: ["and", "then"].map(|joint| word(part, joint, self.dim)),
        }
    }

    /// The training split. Its keys mask every pair of a batch that is no negative (see [`Query::describes`]) and, beside
    /// those, videos in the wrong order of texts that say it, where the video's own text does not.
    ///
    /// # Errors
    /// As [`TemporalOrder::check`].
    pub fn train(&self) -> Result<Made<Video, Query>> {
        self.check()?;
        let part = self.part("train");
        let stories = (0..self.train).map(|i| {
            let draw = part.random("events", i);
            let first = draw.below(0, self.events as u64) as usize;
            let other = draw.below(1, self.events as u64 - 1) as usize;
            Story { events: [first, other + usize::from(other >= first)], twin: None }
        });
        self.split(part, Split::Train, stories.collect())
    }

    /// A gallery of its own.
    ///
    /// # Errors
    /// As [`TemporalOrder::check`].
    pub fn val(&self) -> Result<Made<Video, Query>> {
        self.check()?;
        let part = self.part("val");
        self.split(part, Split::Val, self.stories_with_twins(part, self.val))
    }

    /// A test gallery: no two videos show the same two events except order twins, which are side by side; each has one
    /// caption. Each `draw` is another gallery.
    ///
    /// # Errors
    /// As [`TemporalOrder::check`].
    pub fn test(&self, draw: u32) -> Result<Made<Video, Query>> {
        self.check()?;
        let name = format!("test {draw}");
        let part = self.part(&name);
        self.split(part, Split::Test, self.stories_with_twins(part, self.gallery))
    }

    /// Writes all splits to the new folder `dir`. Keys are not kept: captions that are the same word for word are masked,
    /// as with any data set.
    ///
    /// # Errors
    /// As [`TemporalOrder::check`]; [`Error::Format`] if `dir` holds something already.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.check()?;
        let splits: [Maker<_, _>; 3] = [Box::new(|| self.train()), Box::new(|| self.val()), Box::new(|| self.test(0))];
        common::write_folder(dir, self, self.dtype, &splits, &[])
    }

    fn part<'a>(&self, name: &'a str) -> Part<'a> {
        Part { seed: self.seed, world: NAME, name }
    }

    fn stories_with_twins(&self, part: Part, items: usize) -> Vec<Story> {
        let pairs: Vec<[usize; 2]> = (1..self.events).flat_map(|b| (0..b).map(move |a| [a, b])).collect();
        let order = part.random("pairs", 0).permutation(pairs.len());
        let turn = part.random("orders", 0);
        let mut stories = Vec::new();
        for (i, pair) in order.into_iter().take(items / 2).enumerate() {
            let Some(&[a, b]) = pairs.get(pair) else { continue };
            let (events, twins) = if turn.below(i as u64, 2) == 0 { ([a, b], [b, a]) } else { ([b, a], [a, b]) };
            stories.push(Story { events, twin: Some(2 * i + 1) });
            stories.push(Story { events: twins, twin: Some(2 * i) });
        }
        stories
    }

    fn split(&self, part: Part, split: Split, stories: Vec<Story>) -> Result<Made<Video, Query>> {
        let atoms = self.atoms();
        let [frames, texts] = ["frames", "texts"].map(|of| Law::new(self.generator, self.seed, of, self.dim));
        let (clips, lines): (Vec<Clip<Video>>, Vec<Line<Query>>) = stories
            .into_par_iter()
            .enumerate()
            .map(|(i, story)| {
                let truth = self.video(part, i, story);
                let line = self.line(part, i, &truth, &atoms, &texts);
                let clip = Clip {
                    frames: self.rows(part, i, &truth, &atoms, &frames),
                    times: common::times(self.frames, truth.speed / self.fps),
                    truth,
                };
                (clip, line)
            })
            .unzip();
        let keys = (split == Split::Train).then(|| keys(lines.iter().map(|line| &line.truth)));
        made(part, split, self.dim, clips, lines, keys)
    }

    /// What happens in video `i`, and when.
    fn video(&self, part: Part, i: usize, story: Story) -> Video {
        let Story { events, twin } = story;
        // Twins share their windows, not their speed.
        let draw = part.random("windows", twin.map_or(i, |twin| twin.min(i)));
        let length = |index| {
            let (from, to) = self.window;
            from + draw.below(index, (to - from + 1) as u64) as usize
        };
        let (first, second) = (length(0), length(1));
        // What is left falls anywhere: before, between, behind.
        let spare = self.frames - first - second - GAP;
        let cut = |index| draw.below(index, spare as u64 + 1) as usize;
        let (before, until) = (cut(2).min(cut(3)), cut(2).max(cut(3)));
        let begin = until + first + GAP;
        let windows = [(before, before + first), (begin, begin + second)];
        let (slow, fast) = self.speed;
        let speed = slow + (fast - slow) * part.random("speed", i).uniform(0);
        let second = |frame: usize| frame as f32 * speed / self.fps;
        Video { events, windows, seconds: windows.map(|(a, b)| (second(a), second(b))), speed, twin }
    }

    /// A caption of video `i`.
    fn line(&self, part: Part, i: usize, video: &Video, atoms: &Atoms, law: &Law) -> Line<Query> {
        let draw = part.random("question", i);
        let ordered = draw.uniform(0) < self.ordered_share;
        let [first, second] = video.events;
        let turned = !ordered && draw.below(1, 2) == 1;
        let events = if turned { [second, first] } else { [first, second] };
        let joint = if ordered { "then" } else { "and" };
        let mut named = [0, 1].map(|k: usize| {
            let mut row = events.get(k).and_then(|e| atoms.words.get(*e)).cloned().unwrap_or_default();
            if let Some(role) = atoms.roles.get(k)
                && ordered
            {
                add(&mut row, self.role, role);
            }
            row
        });
        named.iter_mut().for_each(|row| make_unit(row));
        let [one, other] = &named;
        let [and, then] = &atoms.joints;
        let words = [one, if ordered { then } else { and }, other].map(Vec::as_slice);
        let mut correct = vec![i];
        correct.extend(video.twin.filter(|_| !ordered));
        correct.sort_unstable();
        Line {
            video: i,
            caption: format!("event{} {joint} event{}", events[0], events[1]),
            words: tokens_of(&words, law, self.word_noise, part.random("words", i), self.dim),
            truth: Query { events, ordered, video: i, twin: video.twin, correct },
        }
    }

    /// Frame tokens `[frames, dim]`.
    fn rows(&self, part: Part, i: usize, video: &Video, atoms: &Atoms, law: &Law) -> Vec<f32> {
        let amplitude = part.random("amplitudes", i);
        let background = seen(part, &format!("{}, background {i}", part.name), self.dim);
        // Three kinds of frames: no event, the first, the second.
        let kinds: Vec<Vec<f32>> = [None, Some(0), Some(1)]
            .into_iter()
            .map(|which: Option<usize>| {
                let mut sum = vec![0.0; self.dim];
                add(&mut sum, self.background * law.amplitude(amplitude, 0), &background);
                if let Some(k) = which
                    && let Some(atom) = video.events.get(k).and_then(|event| atoms.events.get(*event))
                {
                    add(&mut sum, self.event * law.amplitude(amplitude, 1 + k as u64), atom);
                }
                law.compose(&mut sum);
                sum
            })
            .collect();
        let mut rows = Vec::with_capacity(self.frames * self.dim);
        for t in 0..self.frames {
            let kind = video.windows.iter().position(|(begin, end)| (*begin..*end).contains(&t)).map_or(0, |k| k + 1);
            rows.extend_from_slice(kinds.get(kind).map_or(&[], Vec::as_slice));
        }
        law.add_noise(&mut rows, self.noise, part.random("noise", i));
        rows
    }
}

/// Keys under which pairs of the same two events are no negatives of each other, except two captions that say opposite
/// orders: those are what order is learnt from.
///
/// With U the key of the two events and O one of their order, a caption without order is (U, U), one in ascending order
/// (U, O), one in descending order (O′, U): only the last two have no key in common.
fn keys<'a>(queries: impl Iterator<Item = &'a Query>) -> Keys {
    let mut known: HashMap<([usize; 2], bool), u32> = HashMap::new();
    let (mut video, mut caption) = (Vec::new(), Vec::new());
    for query in queries {
        let [a, b] = query.events;
        let pair = [a.min(b), a.max(b)];
        // Fits: there are no more keys than two a pair of the data.
        let mut key = |pair, own| {
            let next = known.len() as u32;
            *known.entry((pair, own)).or_insert(next)
        };
        let (both, own) = (key(pair, false), key([a, b], true));
        video.push(if query.ordered && a > b { own } else { both });
        caption.push(if query.ordered && a < b { own } else { both });
    }
    Keys { video, caption }
}

#[cfg(test)]
mod tests {
    use super::super::common::testing::{dot, hits, same_bits, tokens};
    use super::*;
    use crate::seed::seed;

    fn small(seed: u64) -> TemporalOrder {
        TemporalOrder { seed, train: 400, val: 20, gallery: 100, ..TemporalOrder::default() }
    }

    #[test]
    fn a_seed_gives_the_same_bits_with_one_thread_or_three() {
        let seed = seed();
        for generator in [Generator::Main, Generator::HeldOut] {
            let world = TemporalOrder { generator, train: 90, ..small(seed) };
            let other = TemporalOrder { seed: seed + 1, ..world.clone() };
            same_bits(&|| world.train().unwrap().data, &|| other.train().unwrap().data);
            same_bits(&|| world.test(0).unwrap().data, &|| world.test(1).unwrap().data);
        }
    }

    #[test]
    fn windows_lie_apart_and_inside_and_reach_everywhere() {
        let made = TemporalOrder { train: 3000, dim: 2, ..small(seed()) }.train().unwrap();
        let (mut lengths, mut begins, mut gaps) = ([0; 9], [0; 33], 0);
        for video in &made.videos {
            let [(a, b), (c, d)] = video.windows;
            assert!(a < b && b < c && c < d && d <= 32, "{video:?}");
            lengths[b - a] += 1;
            lengths[d - c] += 1;
            begins[a] += 1;
            gaps = gaps.max(c - b);
            assert!((0.75..=1.33).contains(&video.speed));
            assert!((video.seconds[1].0 - c as f32 * video.speed).abs() < 1e-4);
        }
        assert!(lengths[..4].iter().all(|l| *l == 0) && lengths[4..].iter().all(|l| *l > 1000), "{lengths:?}");
        assert!(begins[0] > 0 && begins[15] > 0 && gaps > 18, "{begins:?} {gaps}");
    }

    #[test]
    fn tokens_show_what_the_truth_says() {
        let world = TemporalOrder { noise: 0.1, word_noise: 0.0, train: 150, ..small(seed()) };
        let (atoms, made) = (world.atoms(), world.train().unwrap());
        for (v, (truth, query)) in made.videos.iter().zip(&made.queries).enumerate() {
            let rows = tokens(&*made.data.videos, v);
            let times = made.data.videos.timestamps(v).unwrap();
            assert!(times.iter().enumerate().all(|(t, s)| (s - t as f32 * truth.speed).abs() < 1e-4));
            for (k, (begin, end)) in truth.windows.into_iter().enumerate() {
                for t in 0..32 {
                    let seen = dot(rows.row(t), &atoms.events[truth.events[k]]);
                    assert_eq!(seen > 0.6, (begin..end).contains(&t), "event {k} in frame {t}: {seen} {truth:?}");
                }
            }
            let words = tokens(&*made.data.texts, v);
            assert_eq!(words.rows, 4);
            for (w, k) in [(0, 0), (2, 1)] {
                let mut wanted = atoms.words[query.events[k]].clone();
                add(&mut wanted, if query.ordered { 0.5 } else { 0.0 }, &atoms.roles[k]);
                make_unit(&mut wanted);
                assert!(dot(words.row(w), &wanted) > 0.9999, "word {w} of {query:?}");
            }
            assert!(dot(words.row(1), &atoms.joints[usize::from(query.ordered)]) > 0.999);
        }
    }

    #[test]
    fn galleries_hold_each_video_with_its_order_twin_and_no_other_like_it() {
        let made = TemporalOrder { gallery: 400, dim: 4, ..small(seed()) }.test(0).unwrap();
        assert_eq!(made.data.gallery(), (0..400).collect::<Vec<_>>());
        let mut ordered = 0;
        for (q, query) in made.queries.iter().enumerate() {
            let (video, twin) = (&made.videos[q], &made.videos[query.twin.unwrap()]);
            assert_eq!((video.events, video.windows), ([twin.events[1], twin.events[0]], twin.windows));
            assert_eq!((twin.twin, video.twin), (Some(q), query.twin));
            let right: Vec<usize> = (0..400).filter(|v| query.describes(&made.videos[*v])).collect();
            assert_eq!(right, query.correct);
            assert_eq!(right.len(), if query.ordered { 1 } else { 2 });
            assert!(right.contains(&q));
            ordered += usize::from(query.ordered);
        }
        assert!((140..260).contains(&ordered), "{ordered}");
    }

    #[test]
    fn keys_hide_no_true_pair_as_a_negative_and_keep_opposite_orders() {
        let made = TemporalOrder { events: 5, gallery: 20, dim: 4, ..small(seed()) }.train().unwrap();
        let keys = made.data.keys();
        let (mut masked, mut opposite) = (0, 0);
        for (i, query) in made.queries.iter().enumerate() {
            for (j, video) in made.videos.iter().enumerate() {
                let shared = keys.video[i] == keys.video[j] || keys.caption[i] == keys.caption[j];
                let other = &made.queries[j];
                if query.describes(video) {
                    assert!(shared, "{query:?} is true of {video:?}");
                    masked += 1;
                } else if query.ordered && other.ordered {
                    assert!(!shared, "{query:?} and {other:?}");
                    opposite += usize::from(query.events == [other.events[1], other.events[0]]);
                } else if shared {
                    assert_eq!(
                        [query.events[0].min(query.events[1]), query.events[0].max(query.events[1])],
                        [video.events[0].min(video.events[1]), video.events[0].max(video.events[1])]
                    );
                }
            }
        }
        assert!(masked > 1000 && opposite > 1000, "{masked} {opposite}");
    }

    /// Knows all atoms: finds each event's best four frames in a row, and asks which came first.
    #[test]
    fn an_oracle_finds_all_and_one_without_time_guesses_the_order() {
        let world = small(seed());
        let (atoms, made) = (world.atoms(), world.test(0).unwrap());
        // `found[v][e]`: how well event e is seen in video v, and where.
        let found: Vec<Vec<(f32, usize)>> = (0..100)
            .map(|v| {
                let rows = tokens(&*made.data.videos, v);
                let best = |atom: &Vec<f32>| {
                    let seen: Vec<f32> = (0..32).map(|t| dot(rows.row(t), atom)).collect();
                    let windows = seen.windows(4).map(|w| w.iter().sum::<f32>()).enumerate();
                    windows.fold((f32::MIN, 0), |best, (t, sum)| if sum > best.0 { (sum, t) } else { best })
                };
                atoms.events.iter().map(best).collect()
            })
            .collect();
        let unordered = |q: usize, v: usize| made.queries[q].events.iter().map(|e| found[v][*e].0).sum::<f32>();
        let oracle = |q: usize, v: usize| {
            let Query { events: [a, b], ordered, .. } = made.queries[q];
            unordered(q, v) - if ordered && found[v][a].1 > found[v][b].1 { 10.0 } else { 0.0 }
        };
        let right = hits(100, 100, &|q| made.queries[q].correct.clone(), &oracle);
        assert!(right > 0.95, "{right}");
        let order: Vec<usize> = (0..100).filter(|q| made.queries[*q].ordered).collect();
        let won = |score: &dyn Fn(usize, usize) -> f32| {
            let wins = order.iter().filter(|&&q| score(q, q) > score(q, made.queries[q].twin.unwrap())).count();
            wins as f32 / order.len() as f32
        };
        assert!(won(&oracle) > 0.95 && (0.2..0.8).contains(&won(&unordered)), "{} {}", won(&oracle), won(&unordered));
    }

    #[test]
    fn impossible_parameters_are_named() {
        for (world, key) in [
            (TemporalOrder { gallery: 2000, ..small(1) }, "gallery"),
            (TemporalOrder { frames: 16, ..small(1) }, "frames"),
            (TemporalOrder { window: (5, 4), ..small(1) }, "window"),
            (TemporalOrder { speed: (1.0, 0.5), ..small(1) }, "speed"),
            (TemporalOrder { role: f32::NAN, ..small(1) }, "role"),
            (TemporalOrder { frames: usize::MAX, ..small(1) }, "train"),
        ] {
            let error = world.test(0).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
