//! Instances of the interaction ops: packed texts and videos with rows of length one, or with a router's experts.

use super::super::super::tensor::{Axis, Counts, DType, Dim, HostTensor};
use super::super::{Class, Gradient, Sample, noise};
use super::routed::{Quirk, Router};
use super::{EXCLUDED, Foreground, Interact, InteractGrad, InteractPairs};

/// Axes of ragged samples.
const TEXTS: Axis = Axis(0);
const VIDEOS: Axis = Axis(1);
const WORDS: Axis = Axis(2);
const FRAMES: Axis = Axis(3);

/// One problem; the three ops add their own operands.
struct Case {
    name: &'static str,
    class: Class,
    /// Word tokens of each text, without the sentence vector; `None` is a text without any row.
    words: Vec<Option<usize>>,
    frames: Vec<usize>,
    width: usize,
    temperature: f32,
    relevance_temperature: f32,
    /// Whether word weights, frame biases are given, and how many views.
    weights: bool,
    bias: bool,
    views: usize,
    router: Option<Router>,
    /// Length of all rows; the fast path of the CPU is for cosines alone.
    length: f64,
    /// Capacities beyond the true sizes.
    ragged: bool,
    tolerance: f64,
}

fn case(name: &'static str, words: &[usize], frames: &[usize], width: usize) -> Case {
    Case {
        name,
        class: Class::Tiny,
        words: words.iter().copied().map(Some).collect(),
        frames: frames.to_vec(),
        width,
        temperature: 0.05,
        relevance_temperature: 0.1,
        weights: true,
        bias: true,
        views: 0,
        router: None,
        length: 1.0,
        ragged: false,
        // WGSL allows exp an error of 3 + 2|x| units in the last place, and |x| reaches 2/τ = 40: 1e-5 each, more where
        // the gradient of a soft-max cancels.
        tolerance: 1e-4,
    }
}

fn plain_cases() -> Vec<Case> {
    let long_words: Vec<usize> = (0..9).map(|i| [248, 1, 77, 32, 5, 129, 16, 200, 31][i]).collect();
    let long_frames: Vec<usize> = (0..9).map(|i| [257, 12, 1, 64, 100, 3, 16, 200, 33][i]).collect();
    let many = |n: usize, most: usize| (0..n).map(|i| 1 + (i * 7 + i * i) % most).collect::<Vec<usize>>();
    let holes = Case {
        words: vec![None, Some(3), Some(0), Some(1), None, Some(17)],
        ragged: true,
        ..case("ragged with empty texts and videos", &[], &[0, 4, 1, 0, 7, 0], 13)
    };
    vec![
        case("one pair", &[5], &[4], 8),
        case("one word and one frame", &[1], &[1], 3),
        Case { weights: false, bias: false, ..case("uniform", &[2, 6, 1], &[3, 5], 8) },
        holes,
        case("nothing", &[], &[], 4),
        case("no video", &[3, 2], &[], 4),
        case("prime width", &[7, 3, 11], &[5, 2, 13], 37),
        Case { temperature: 0.01, relevance_temperature: 0.02, tolerance: 1e-4, ..case("sharp", &[6, 2], &[5, 9], 4) },
        Case { length: 2.5, tolerance: 5e-4, ..case("no cosines", &[6, 2, 19], &[5, 9], 7) },
        Case { views: 2, ..case("views", &[4, 1, 6], &[6, 3, 1], 11) },
        // More than a warp can keep of a pair: the CUDA kernels give it to a block.
        Case { views: 1, ..case("one long text and video", &[70, 3], &[150, 2], 5) },
        Case { class: Class::Full, tolerance: 1e-4, ..case("long", &long_words, &long_frames, 67) },
        Case { class: Class::Full, ragged: true, ..case("many tiles", &many(61, 40), &many(83, 20), 32) },
        Case {
            class: Class::Full,
            temperature: 0.01,
            views: 1,
            tolerance: 2e-4,
            ..case("sharp and long", &many(23, 61), &many(19, 130), 24)
        },
    ]
}

/// Cases with a router.
fn routed_cases() -> Vec<Case> {
    let many = |n: usize, most: usize| (0..n).map(|i| 1 + (i * 5 + i * i) % most).collect::<Vec<usize>>();
    let with = |name, words: &[usize], frames: &[usize], width, router| Case {
        router: Some(router),
        ..case(name, words, frames, width)
    };
    let soft = Router::new(4, 4);
    let picked = Router::new(8, 2);
    let holes = Case {
        words: vec![None, Some(3), Some(0), Some(1), None, Some(17)],
        ragged: true,
        ..with("routed, ragged with empty texts and videos", &[], &[0, 4, 1, 0, 7, 0], 13, picked)
    };
    let sharp = Case { temperature: 0.01, ..with("routed, sharp", &[6, 2], &[5, 9], 6, soft) };
    let bare = Case { weights: false, bias: false, ..with("routed, uniform", &[2, 6], &[3, 5], 8, soft) };
    let long = Case { views: 1, ..with("routed, one long text and video", &[70, 3], &[150, 2], 5, Router::new(3, 3)) };
    vec![
        with("one slot", &[5, 2], &[4, 3], 8, Router::new(1, 1)),
        with("one slot of three experts", &[5, 2], &[4, 3], 8, Router::new(3, 1)),
        with("four experts, soft", &[4, 7], &[5, 6], 8, soft),
        with("two of eight experts", &[4, 7], &[5, 6], 8, picked),
        with("two kept of four", &[4, 7], &[5, 6], 8, Router { kept: 2, ..soft }),
        with("kept of equals", &[4, 7], &[5, 6], 8, Router { kept: 2, quirk: Quirk::Ties, ..soft }),
        with("unknown experts", &[4, 7], &[8, 6], 8, Router { quirk: Quirk::Unknown, ..picked }),
        with("frames without a direction", &[4, 7], &[5, 6], 8, Router { quirk: Quirk::Faint, ..soft }),
        with("routed, nothing", &[], &[], 4, soft),
        with("routed, no video", &[3, 2], &[], 4, soft),
        with("routed, prime width", &[7, 3, 11], &[5, 2, 13], 37, Router::new(5, 3)),
        Case { views: 2, ..with("routed, views", &[4, 1, 6], &[6, 3, 1], 11, Router { kept: 2, ..Router::new(3, 3) }) },
        holes,
        sharp,
        bare,
        long,
        Case { class: Class::Full, ragged: true, ..with("routed, many tiles", &many(35, 40), &many(37, 20), 32, soft) },
        Case {
            class: Class::Full,
            ..with("sixteen experts, soft", &many(13, 30), &many(11, 70), 24, Router::new(16, 16))
        },
    ]
}

fn cases() -> Vec<Case> {
    plain_cases().into_iter().chain(routed_cases()).collect()
}

fn bench(name: &'static str, texts: usize, videos: usize, width: usize) -> Case {
    Case { class: Class::Bench, weights: false, bias: false, ..case(name, &vec![32; texts], &vec![12; videos], width) }
}

/// The shape of the field's 1k splits: 1000 captions of 32 words and 1000 videos of 12 frames.
fn all_pairs() -> Case {
    bench("1000x1000x32x12x512", 1000, 1000, 512)
}

/// The same with a router: four experts for every frame.
fn routed_bench(name: &'static str, texts: usize, videos: usize, width: usize) -> Case {
    Case { router: Some(Router::new(4, 4)), ..bench(name, texts, videos, width) }
}

/// Rows of one length. Large tensors repeat a table of noise with an odd period, which is quick and never aligned.
pub fn rows(sizes: &[usize], length: f64, seed: u64) -> HostTensor {
    let (count, width) = (sizes[0], sizes[1]);
    let table = noise(&[(count * width).clamp(1, 100_003)], seed);
    let table = table.x();
    let mut data: Vec<f64> = (0..count * width).map(|i| table[i % table.len()]).collect();
    for row in data.chunks_mut(width.max(1)) {
        let scale = length / row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x = f64::from((*x * scale) as f32));
    }
    HostTensor::f64(sizes, data)
}

/// Segments of these lengths, one behind the other.
fn segments(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut end = 0;
    lengths
        .flat_map(|n| {
            let begin = end;
            end += n;
            [begin as u32, end as u32]
        })
        .collect()
}

impl Case {
    fn op(&self) -> Interact {
        Interact {
            temperature: self.temperature,
            relevance_temperature: self.relevance_temperature,
            max_words: self.rows().max().unwrap_or(1) as u32,
            max_frames: self.frames.iter().copied().max().unwrap_or(1) as u32,
            kept: self.router.map_or(0, |r| r.kept),
        }
    }
    /// Rows of each text.
    fn rows(&self) -> impl Iterator<Item = usize> {
        self.words.iter().map(|l| l.map_or(0, |l| l + 1))
    }
    fn dim(&self, axis: Axis, n: usize) -> Dim {
        if self.ragged { Dim::Ragged(axis, n + 3 + n / 4) } else { Dim::Fixed(n) }
    }
    fn dims(&self) -> [Dim; 4] {
        let rows = [self.words.len(), self.frames.len(), self.rows().sum(), self.frames.iter().sum()];
        let axes = [TEXTS, VIDEOS, WORDS, FRAMES];
        std::array::from_fn(|i| self.dim(axes[i], rows[i]))
    }
    /// ln ω of a random distribution over each text's words; its sentence row holds what nobody may read.
    fn log_omega(&self) -> HostTensor {
        let total = self.rows().sum();
        let raw = noise(&[total], 31);
        let mut data = vec![];
        for rows in self.rows().filter(|r| *r > 0) {
            let words = &raw.x()[data.len()..data.len() + rows - 1];
            let sum: f64 = words.iter().map(|x| x.exp()).sum();
            data.extend(words.iter().map(|x| f64::from((x - sum.ln()) as f32)));
            data.push(5.0);
        }
        HostTensor::f64(&[total], data)
    }
    /// Each view takes out every third frame, so that some videos lose all of theirs.
    fn log_weights(sizes: &[usize]) -> HostTensor {
        let soft = noise(sizes, 41);
        let masked = |(i, x): (usize, &f64)| if i % 3 == 0 { f64::from(EXCLUDED) * 10.0 } else { *x };
        HostTensor::f64(sizes, soft.x().iter().enumerate().map(masked).collect())
    }
    /// A sample with the eleven operands of all three ops.
    fn sample(&self, op: impl super::Op + 'static) -> Sample {
        let [texts, videos, words, frames] = self.dims();
        let counts = Counts::default()
            .with(TEXTS, self.words.len())
            .with(VIDEOS, self.frames.len())
            .with(WORDS, self.rows().sum())
            .with(FRAMES, self.frames.iter().sum());
        let mut s = Sample::new(self.name, op).class(self.class).tolerance(self.tolerance).counts(counts);
        let width = Dim::Fixed(self.width);
        s = s.with(DType::F32, &[words, width], |sizes| rows(sizes, self.length, 1));
        s = s.with(DType::U32, &[texts, Dim::Fixed(2)], |sizes| HostTensor::u32(sizes, segments(self.rows())));
        s = if self.weights { s.with(DType::F32, &[words], |_| self.log_omega()) } else { s.absent() };
        let slots = self.router.map_or(1, |r| r.slots);
        s = s.with(DType::F32, &[frames, Dim::Fixed(slots * self.width)], |sizes| match self.router {
            Some(router) => router.experts(sizes, self.width, self.length),
            None => rows(sizes, self.length, 2),
        });
        let lengths = self.frames.iter().copied();
        s = s.with(DType::U32, &[videos, Dim::Fixed(2)], |sizes| HostTensor::u32(sizes, segments(lengths)));
        s = if self.bias { s.normal(&[frames], 3) } else { s.absent() };
        s = match self.router {
            Some(router) => router.operands(s, texts, frames),
            None => s.absent().absent().absent().absent(),
        };
        if self.views == 0 {
            return s.absent();
        }
        s.with(DType::F32, &[Dim::Fixed(self.views), frames], Case::log_weights)
    }
}

pub fn forward() -> Vec<Sample> {
    let routed = routed_bench("1000x1000x32x12x512, four experts", 1000, 1000, 512);
    let samples = cases().into_iter().chain([all_pairs(), routed]).map(|c| {
        let masks = Gradient::None("the log-weights of views are masks; a test of its own checks the rest");
        let step = c.router.and_then(|r| r.gradient());
        let gradient = if c.views > 0 { masks } else { step.unwrap_or(Gradient::Finite) };
        c.sample(c.op()).gradient(gradient)
    });
    samples.collect()
}

pub fn backward() -> Vec<Sample> {
    let training = [
        bench("training 128x128x32x12x512", 128, 128, 512),
        bench("training 128x128x32x12x128", 128, 128, 128),
        routed_bench("training 128x128x32x12x512, four experts", 128, 128, 512),
    ];
    let samples = cases().into_iter().chain(training).map(|c| {
        let [texts, videos, _, frames] = c.dims();
        let s = c.sample(InteractGrad(c.op())).gradient(Gradient::None("is itself a gradient"));
        // The gate of a single slot gains nothing: terms of about 1 cancel.
        let s = if c.router.is_some_and(|r| r.slots == 1) { s.floor(4, 1.0).floor(5, 1.0) } else { s };
        let s = s.normal(&[texts, videos], 51);
        let s = if c.views > 0 { s.normal(&[Dim::Fixed(c.views), texts, videos], 52) } else { s.absent() };
        if c.class == Class::Bench { s.absent() } else { s.normal(&[texts, frames], 53) }
    });
    samples.collect()
}

pub fn pairs() -> Vec<Sample> {
    let cases = cases().into_iter().filter(|c| c.views == 0);
    let rerank = bench("re-rank 10 texts x 100 videos", 10, 1000, 512);
    let routed = routed_bench("re-rank 10 texts x 100 videos, four experts", 10, 1000, 512);
    let samples = cases.chain([rerank, routed]).map(|c| {
        let (texts, videos) = (c.words.len(), c.frames.len());
        // Runs of one text, as re-ranking makes them, and strangers among them; the last names nobody.
        let count = if c.class == Class::Bench { 1000 } else { 3 * texts + 5 };
        let mut list: Vec<u32> =
            (0..count).flat_map(|i| [(i * texts / count) as u32, ((i * i + 5 * i) % videos.max(1)) as u32]).collect();
        if c.class != Class::Bench {
            list.extend([texts as u32, 0, 0, videos as u32, 0, 0]);
        }
        let s = c.sample(InteractPairs(c.op()));
        let none = "listed pairs are for re-ranking; models train with interact";
        let rows = Dim::Fixed(list.len() / 2);
        s.gradient(Gradient::None(none))
            .with(DType::U32, &[rows, Dim::Fixed(2)], |sizes| HostTensor::u32(sizes, list.clone()))
    });
    samples.collect()
}

/// Text i belongs to video i: of each case as many of both as it has pairs.
pub fn foreground() -> Vec<Sample> {
    let cases = cases().into_iter().filter(|c| c.views == 0 && c.class != Class::Bench);
    let paired = cases.map(|mut c| {
        let pairs = c.words.len().min(c.frames.len());
        // A ragged batch may hold videos that no text belongs to.
        c.words.truncate(pairs);
        if !c.ragged {
            c.frames.truncate(pairs);
        }
        c
    });
    let training = routed_bench("training 128x32x12x512, four experts", 128, 128, 512);
    let twins = Case { length: 0.0, ..case("frames that are all the same", &[4, 3], &[5, 8], 6) };
    let samples = paired.chain([twins, training]).map(|c| {
        let op = Foreground { interact: c.op(), keep_background: c.name.len() % 2 == 0 };
        let mut s = c.sample(op).gradient(Gradient::None("a mask"));
        s.metas.truncate(10);
        s.ins.truncate(10);
        s
    });
    samples.collect()
}
