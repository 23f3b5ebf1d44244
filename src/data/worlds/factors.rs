//! S2 `factors`: a frame shows three factors at once, and a caption asks for one of them by name.
//!
//! All factors have the same values, and one word for each: `motion value17` and `context value17` differ in one word
//! alone. A scorer that does not know which factor is asked for finds three equally good videos.

use std::f32::consts::TAU;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::common::{self, Clip, Line, Made, Maker, Part, at_least, fits, made, seen, tokens_of, within, word};
use super::law::{Generator, Law};
use crate::data::dataset::Split;
use crate::data::directions::{add, make_unit, stream_of};
use crate::data::tokens::TokenDtype;
use crate::error::Result;
use crate::random::Random;

/// The name of the world.
pub const NAME: &str = "factors";
/// The factors' words, by number.
pub const FACTORS: [&str; 3] = ["appearance", "motion", "context"];
const MOTION: usize = 1;
const CONTEXT: usize = 2;
/// Harmonics of a motion's curve: with one alone, neighbouring values would be told apart by precision only.
const HARMONICS: usize = 3;

/// The parameters; `default()` is the benchmark, whose rows have 96 values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Factors {
    pub seed: u64,
    pub generator: Generator,
    /// Videos to train on, a caption each.
    pub train: usize,
    /// Values of each factor; also the videos of a gallery.
    pub values: usize,
    /// Frames a video.
    pub frames: usize,
    /// Values a row that each factor takes: a third of the row.
    pub factor_dim: usize,
    /// Length of appearance, motion and context.
    pub gains: [f32; 3],
    /// Length of the vector on which a motion's curve, of length 1, is drawn: it hides the curve in a single frame.
    pub offset: f32,
    /// How far a context turns to either side between the first frame and the last, in radians.
    pub drift: f32,
    /// Length of the noise on each factor of a frame.
    pub noise: f32,
    /// Length of the noise on a word, whose vector has length 1.
    pub word_noise: f32,
    /// Frames a second.
    pub fps: f32,
    /// f16 or f32, on disk.
    pub dtype: TokenDtype,
}

impl Default for Factors {
    fn default() -> Self {
        Self {
            seed: 1,
            generator: Generator::Main,
            train: 20_000,
            values: 256,
            frames: 8,
            factor_dim: 32,
            gains: [1.5, 1.0, 0.7],
            offset: 2.0,
            drift: 0.4,
            noise: 0.5,
            word_noise: 0.1,
            fps: 1.0,
            dtype: TokenDtype::F16,
        }
    }
}

/// What a video shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The value of each factor, in the order of [`FACTORS`].
    pub values: [usize; 3],
}

/// What a caption asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Position in [`FACTORS`].
    pub factor: usize,
    pub value: usize,
    /// Position of the video it describes.
    pub correct: usize,
    /// Positions of the videos that show the value in another factor; not listed in training.
    pub distractors: Vec<usize>,
}

impl Query {
    /// Whether `video` shows what the caption asks for. Of the pairs of a training batch that this holds for, only those
    /// with the same caption share a key; about one video in 256 is a false negative of another caption.
    pub fn describes(&self, video: &Video) -> bool {
        video.values.get(self.factor) == Some(&self.value)
    }
}

/// Vectors that all splits share.
struct Atoms {
    /// `[values][factor_dim]` each.
    appearance: Vec<Vec<f32>>,
    context: Vec<Vec<f32>>,
    offset: Vec<f32>,
    /// Three matrices `[factor_dim, factor_dim]` of orthonormal rows.
    rotations: [Vec<f32>; 3],
    factor_words: Vec<Vec<f32>>,
    value_words: Vec<Vec<f32>>,
}

impl Factors {
    /// Values a row.
    pub fn dim(&self) -> usize {
        self.factor_dim.saturating_mul(FACTORS.len())
    }

    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) names the parameter that makes no world.
    pub fn check(&self) -> Result<()> {
        at_least("train", self.train, 1)?;
        at_least("values", self.values, 3)?;
        at_least("frames", self.frames, 2)?;
        at_least("factor_dim", self.factor_dim, 2 * HARMONICS + 1)?;
        within("offset", self.offset, 0.0, 100.0)?;
        within("drift", self.drift, 0.0, 1.5)?;
        within("noise", self.noise, 0.0, 100.0)?;
        within("word_noise", self.word_noise, 0.0, 100.0)?;
        within("fps", self.fps, 1e-3, 1e3)?;
        self.gains.into_iter().try_for_each(|gain| within("gains", gain, 0.0, 100.0))?;
        fits("train", self.train, self.frames, self.dim())?;
        fits("values", self.values, self.frames, self.dim())?;
        fits("factor_dim", self.dim(), 2, self.dim())
    }

    /// What a video shows of `value` in a factor without noise or drift, `[frames, factor_dim]`: what an oracle knows.
    ///
    /// # Errors
    /// As [`Factors::check`].
    pub fn template(&self, factor: usize, value: usize) -> Result<Vec<f32>> {
        self.check()?;
        let still = vec![0.0; self.factor_dim];
        let rows = self.content(&self.atoms(), factor, value, 1.0, &still, 0.0);
        Ok(rows.concat())
    }

    /// The training split.
    ///
    /// # Errors
    /// As [`Factors::check`].
    pub fn train(&self) -> Result<Made<Video, Query>> {
        self.check()?;
        let part = self.part("train");
        let videos: Vec<Video> = (0..self.train)
            .map(|i| {
                let draw = part.random("values", i);
                Video { values: [0, 1, 2].map(|f| draw.below(f, self.values as u64) as usize) }
            })
            .collect();
        let queries = (0..).zip(&videos).map(|(i, video)| {
            let factor = part.random("question", i).below(0, FACTORS.len() as u64) as usize;
            Query { factor, value: value_of(video, factor), correct: i, distractors: Vec::new() }
        });
        let queries = queries.collect();
        self.split(part, Split::Train, videos, queries)
    }

    /// A permutation gallery of its own.
    ///
    /// # Errors
    /// As [`Factors::check`].
    pub fn val(&self) -> Result<Made<Video, Query>> {
        self.permutations(self.part("val"), Split::Val)
    }

    /// A permutation gallery: each factor shows every value once, and every factor and value is asked for. No video shows
    /// a value twice, so that each caption has one answer and two videos that show the value in another factor. Each
    /// `draw` is another gallery.
    ///
    /// # Errors
    /// As [`Factors::check`].
    pub fn test(&self, draw: u32) -> Result<Made<Video, Query>> {
        self.permutations(self.part(&format!("test {draw}")), Split::Test)
    }

    /// Writes all splits to the new folder `dir`.
    ///
    /// # Errors
    /// As [`Factors::check`]; [`Error::Format`](crate::error::Error::Format) if `dir` holds something already.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.check()?;
        let splits: [Maker<_, _>; 3] = [Box::new(|| self.train()), Box::new(|| self.val()), Box::new(|| self.test(0))];
        common::write_folder(dir, self, self.dtype, &splits, &[])
    }

    fn part<'a>(&self, name: &'a str) -> Part<'a> {
        Part { seed: self.seed, world: NAME, name }
    }

    fn permutations(&self, part: Part, split: Split) -> Result<Made<Video, Query>> {
        self.check()?;
        let count = self.values;
        let values = part.random("order of values", 0).permutation(count);
        let order = part.random("order of videos", 0).permutation(count);
        // Three rounds through the values, each shifted against the others: they meet nowhere.
        let shifts = part.random("shifts", 0).permutation(count);
        let mut videos = vec![Video { values: [0; 3] }; count];
        for (place, video) in order.into_iter().enumerate() {
            let value = |f: usize| {
                let shift = shifts.get(f).copied().unwrap_or(f);
                values.get((place + shift) % count).copied().unwrap_or(0)
            };
            if let Some(slot) = videos.get_mut(video) {
                slot.values = [0, 1, 2].map(value);
            }
        }
        // `holders[f][v]`: the video that shows value v in factor f.
        let mut holders = vec![vec![0; count]; FACTORS.len()];
        for (v, video) in videos.iter().enumerate() {
            for (holders, value) in holders.iter_mut().zip(video.values) {
                if let Some(holder) = holders.get_mut(value) {
                    *holder = v;
                }
            }
        }
        let mut queries = Vec::new();
        for value in 0..count {
            let shown: Vec<usize> = holders.iter().filter_map(|h| h.get(value).copied()).collect();
            for (factor, &correct) in shown.iter().enumerate() {
                let distractors = shown.iter().copied().filter(|video| *video != correct).collect();
                queries.push(Query { factor, value, correct, distractors });
            }
        }
        // A gallery lists its videos in the order in which pairs first name them: that of their numbers.
        queries.sort_by_key(|query| (query.correct, query.factor));
        self.split(part, split, videos, queries)
    }

    fn atoms(&self) -> Atoms {
        let part = self.part("");
        let list = |what: &str, dim: usize| -> Vec<Vec<f32>> {
            (0..self.values).map(|v| seen(part, &format!("{what} {v}"), dim)).collect()
        };
        let dim = self.factor_dim;
        // The curve lies in the first coordinates, the offset in the others.
        let mut offset = seen(part, "offset", dim);
        offset.iter_mut().take(2 * HARMONICS).for_each(|o| *o = 0.0);
        make_unit(&mut offset);
        Atoms {
            appearance: list(FACTORS[0], dim),
            context: list(FACTORS[CONTEXT], dim),
            offset,
            rotations: FACTORS.map(|f| rotation(self.seed, f, dim)),
            factor_words: FACTORS.iter().map(|f| word(part, f, self.dim())).collect(),
            value_words: (0..self.values).map(|v| word(part, &format!("value{v}"), self.dim())).collect(),
        }
    }

    fn split(&self, part: Part, split: Split, videos: Vec<Video>, queries: Vec<Query>) -> Result<Made<Video, Query>> {
        let atoms = self.atoms();
        let [frames, texts] = ["frames", "texts"].map(|of| Law::new(self.generator, self.seed, of, self.dim()));
        let clips = videos
            .into_par_iter()
            .enumerate()
            .map(|(i, truth)| Clip {
                frames: self.rows(part, i, &truth, &atoms, &frames),
                times: common::times(self.frames, 1.0 / self.fps),
                truth,
            })
            .collect();
        let lines = queries
            .into_par_iter()
            .enumerate()
            .map(|(q, truth)| {
                let words = [atoms.factor_words.get(truth.factor), atoms.value_words.get(truth.value)];
                let words: Vec<&[f32]> = words.into_iter().flatten().map(Vec::as_slice).collect();
                let name = FACTORS.get(truth.factor).copied().unwrap_or_default();
                Line {
                    video: truth.correct,
                    caption: format!("{name} value{}", truth.value),
                    words: tokens_of(&words, &texts, self.word_noise, part.random("words", q), self.dim()),
                    truth,
                }
            })
            .collect();
        made(part, split, self.dim(), clips, lines, None)
    }

    /// Frame tokens `[frames, dim]`: the factors side by side.
    fn rows(&self, part: Part, i: usize, video: &Video, atoms: &Atoms, law: &Law) -> Vec<f32> {
        let dim = self.dim();
        let mut rows = vec![0.0; self.frames * dim];
        let amplitude = part.random("amplitudes", i);
        // Where the context drifts to.
        let mut towards = vec![0.0; self.factor_dim];
        part.random("drift", i).fill_normal(0, &mut towards);
        make_unit(&mut towards);
        for (f, value) in video.values.into_iter().enumerate() {
            let gain = law.amplitude(amplitude, f as u64);
            let content = self.content(atoms, f, value, gain, &towards, self.drift);
            for (row, content) in rows.chunks_exact_mut(dim.max(1)).zip(content) {
                row.iter_mut().skip(f * self.factor_dim).zip(content).for_each(|(r, c)| *r = c);
            }
        }
        rows.chunks_exact_mut(dim.max(1)).for_each(|row| law.compose(row));
        // Length `noise` on each third makes √3 times that on the whole.
        let noise = self.noise * (FACTORS.len() as f32).sqrt();
        law.add_noise(&mut rows, noise, part.random("noise", i));
        rows
    }

    /// The rows of one factor, `[frames][factor_dim]`, in its rotation and with its gain times `gain`.
    fn content(
        &self,
        atoms: &Atoms,
        factor: usize,
        value: usize,
        gain: f32,
        towards: &[f32],
        drift: f32,
    ) -> Vec<Vec<f32>> {
        let empty: &[f32] = &[];
        let atom = |list: &'_ [Vec<f32>]| list.get(value).map_or(empty.to_vec(), Vec::clone);
        let gain = gain * self.gains.get(factor).copied().unwrap_or(0.0);
        (0..self.frames)
            .map(|t| {
                let mut row = vec![0.0; self.factor_dim];
                match factor {
                    MOTION => {
                        add(&mut row, self.offset, &atoms.offset);
                        self.curve(value, t, &mut row);
                    }
                    CONTEXT => {
                        // From −drift at the first frame to +drift at the last.
                        let way = 2.0 * t as f32 / (self.frames - 1).max(1) as f32 - 1.0;
                        let (sin, cos) = (drift * way).sin_cos();
                        add(&mut row, cos, &atom(&atoms.context));
                        add(&mut row, sin, towards);
                    }
                    _ => add(&mut row, 1.0, &atom(&atoms.appearance)),
                }
                let mut turned = vec![0.0; self.factor_dim];
                if let Some(rotation) = atoms.rotations.get(factor) {
                    let rows = rotation.chunks_exact(self.factor_dim.max(1));
                    row.iter().zip(rows).for_each(|(r, direction)| add(&mut turned, gain * r, direction));
                }
                turned
            })
            .collect()
    }

    /// A motion's curve at frame `t`, of length 1 in the first coordinates of `row`: a circle and its harmonics, whose
    /// frequency and phase are the value. Phases are as many as frequencies.
    fn curve(&self, value: usize, t: usize, row: &mut [f32]) {
        let classes = (1..).find(|c: &usize| c.saturating_mul(*c) >= self.values).unwrap_or(1);
        let (frequency, phase) = ((value / classes) as f32 + 0.5, (value % classes) as f32);
        let angle = TAU * (frequency * t as f32 + phase) / classes as f32;
        let length = 1.0 / (HARMONICS as f32).sqrt();
        for (h, two) in (1..=HARMONICS).zip(row.chunks_exact_mut(2)) {
            let (sin, cos) = (h as f32 * angle).sin_cos();
            two.iter_mut().zip([cos, sin]).for_each(|(place, part)| *place += length * part);
        }
    }
}

fn value_of(video: &Video, factor: usize) -> usize {
    video.values.get(factor).copied().unwrap_or(0)
}

/// A random rotation `[dim, dim]`, its rows orthonormal (Gram–Schmidt, in f64).
fn rotation(seed: u64, name: &str, dim: usize) -> Vec<f32> {
    let random = Random::new(seed, stream_of(&format!("{NAME}, rotation of {name}")));
    let mut rows: Vec<Vec<f64>> = Vec::new();
    // A draw that is no new direction would have to be exactly one of those before; it is drawn again.
    for attempt in 0.. {
        if rows.len() == dim {
            break;
        }
        let mut row: Vec<f64> = (0..dim as u64).map(|c| f64::from(random.normal(attempt << 32 | c))).collect();
        // Twice: once leaves what the first pass rounded away.
        for _ in 0..2 {
            for earlier in &rows {
                let along: f64 = row.iter().zip(earlier).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(earlier).for_each(|(r, e)| *r -= along * e);
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        if length > 1e-6 {
            rows.push(row.into_iter().map(|v| v / length).collect());
        }
    }
    rows.concat().into_iter().map(|v| v as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::common::testing::{dot, hits, same_bits, tokens};
    use super::*;
    use crate::seed::seed;

    fn small(seed: u64) -> Factors {
        Factors { seed, train: 300, values: 64, ..Factors::default() }
    }

    #[test]
    fn a_seed_gives_the_same_bits_with_one_thread_or_three() {
        let seed = seed();
        for generator in [Generator::Main, Generator::HeldOut] {
            let world = Factors { generator, ..small(seed) };
            let other = Factors { seed: seed + 1, ..world.clone() };
            same_bits(&|| world.train().unwrap().data, &|| other.train().unwrap().data);
            same_bits(&|| world.test(0).unwrap().data, &|| world.test(1).unwrap().data);
        }
    }

    #[test]
    fn a_permutation_gallery_shows_every_value_once_a_factor_and_asks_for_all() {
        let made = small(seed()).test(2).unwrap();
        assert_eq!((made.videos.len(), made.queries.len()), (64, 192));
        assert_eq!(made.data.gallery(), (0..64).collect::<Vec<_>>());
        for f in 0..3 {
            let mut values: Vec<usize> = made.videos.iter().map(|v| v.values[f]).collect();
            assert_ne!(values, (0..64).collect::<Vec<_>>());
            values.sort_unstable();
            assert_eq!(values, (0..64).collect::<Vec<_>>());
        }
        let mut asked = std::collections::HashSet::new();
        for (query, pair) in made.queries.iter().zip(&made.data.pairs) {
            assert!(asked.insert((query.factor, query.value)));
            assert_eq!(pair.video, query.correct);
            let right: Vec<usize> = (0..64).filter(|v| query.describes(&made.videos[*v])).collect();
            assert_eq!(right, [query.correct]);
            assert_eq!(query.distractors.len(), 2);
            for v in &query.distractors {
                assert!(*v != query.correct && made.videos[*v].values.contains(&query.value));
            }
            let name = format!("{} value{}", FACTORS[query.factor], query.value);
            assert_eq!(made.data.caption(pair), name);
        }
    }

    #[test]
    fn training_asks_for_what_the_video_shows() {
        let made = small(seed()).train().unwrap();
        let mut factors = [0; 3];
        for (query, pair) in made.queries.iter().zip(&made.data.pairs) {
            assert!(query.describes(&made.videos[pair.video]));
            factors[query.factor] += 1;
        }
        assert!(factors.iter().all(|f| (60..140).contains(f)), "{factors:?}");
    }

    /// Squared distance of factor `f` of video `v` to the template of `value`, over the squared gain.
    fn distance(made: &Made<Video, Query>, templates: &[Vec<Vec<f32>>], f: usize, value: usize, v: usize) -> f32 {
        let rows = tokens(&*made.data.videos, v);
        let template = templates[f][value].chunks(32);
        (0..8)
            .zip(template)
            .map(|(t, e)| {
                let shown = &rows.row(t)[32 * f..][..32];
                shown.iter().zip(e).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
            })
            .sum()
    }

    fn templates(world: &Factors) -> Vec<Vec<Vec<f32>>> {
        (0..3).map(|f| (0..world.values).map(|v| world.template(f, v).unwrap()).collect()).collect()
    }

    #[test]
    fn without_noise_and_drift_tokens_are_templates() {
        let world = Factors { noise: 0.0, drift: 0.0, values: 16, ..small(seed()) };
        let (templates, made) = (templates(&world), world.test(0).unwrap());
        for (v, video) in made.videos.iter().enumerate() {
            for f in 0..3 {
                assert!(distance(&made, &templates, f, video.values[f], v) < 1e-6);
                let other = (video.values[f] + 1) % 16;
                assert!(distance(&made, &templates, f, other, v) > 0.5);
            }
        }
        // Lengths are the gains; the motion's is that of offset and curve together.
        let length = |f: usize| dot(&templates[f][3][..32], &templates[f][3][..32]).sqrt();
        let wanted = [1.5, 5.0_f32.sqrt(), 0.7];
        assert!((0..3).all(|f| (length(f) - wanted[f]).abs() < 1e-3), "{} {} {}", length(0), length(1), length(2));
    }

    #[test]
    fn a_single_frame_hides_the_motion_and_all_frames_show_it() {
        let world = Factors { values: 256, ..small(seed()) };
        let templates: Vec<Vec<f32>> = (0..256).map(|v| world.template(MOTION, v).unwrap()).collect();
        let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        for v in 1..256 {
            assert!(cosine(&templates[0][..32], &templates[v][..32]) > 0.6);
            let apart: f32 = templates[0].iter().zip(&templates[v]).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!(apart > 1.0, "values 0 and {v} are {apart} apart");
        }
    }

    /// The likelihood of a value leaves out drift, which is the same for all of them.
    #[test]
    fn an_oracle_finds_all_and_a_factor_blind_scorer_a_third() {
        for generator in [Generator::Main, Generator::HeldOut] {
            let world = Factors { generator, ..small(seed()) };
            let (templates, made) = (templates(&world), world.test(0).unwrap());
            let oracle = |q: usize, v: usize| {
                let Query { factor, value, .. } = made.queries[q];
                -distance(&made, &templates, factor, value, v)
            };
            let blind = |q: usize, v: usize| {
                let value = made.queries[q].value;
                (0..3).map(|f| -distance(&made, &templates, f, value, v)).fold(f32::MIN, f32::max)
            };
            let correct = |q: usize| vec![made.queries[q].correct];
            let blind = hits(192, 64, &correct, &blind);
            if generator == Generator::Main {
                assert!((0.27..0.40).contains(&blind), "{blind}");
                let oracle = hits(192, 64, &correct, &oracle);
                assert!(oracle > 0.97, "{oracle}");
            } else {
                assert!(blind < 0.4, "{blind}");
            }
        }
    }

    #[test]
    fn rotations_are_rotations() {
        let seed = seed();
        let rows = rotation(seed, "x", 16);
        for (i, a) in rows.chunks(16).enumerate() {
            for (j, b) in rows.chunks(16).enumerate() {
                assert!((dot(a, b) - f32::from(i == j)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn impossible_parameters_are_named() {
        for (world, key) in [
            (Factors { values: 2, ..small(1) }, "values"),
            (Factors { factor_dim: 6, ..small(1) }, "factor_dim"),
            (Factors { gains: [1.0, -1.0, 1.0], ..small(1) }, "gains"),
            (Factors { drift: f32::INFINITY, ..small(1) }, "drift"),
            (Factors { frames: usize::MAX, ..small(1) }, "train"),
            (Factors { factor_dim: usize::MAX, ..small(1) }, "train"),
        ] {
            let error = world.test(0).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
