//! What a run takes: nothing more after warm-up, and nothing that grows with the product of texts and videos.

use moviola::data::tokens::SourceFormat;
use moviola::data::worlds::SimpleWorld;
use moviola::data::{About, Dataset, Provenance, Split, TokenDtype, TokenSource};
use moviola::engine::backend::cpu::Cpu;
use moviola::error::Result;
use moviola::eval::scoring::count_ranks;
use moviola::eval::{CaptionMode, Directions, Relevance};
use moviola::models::scorer::Scorer;
use moviola::models::{Config, build, folder};
use moviola::train::log::Line;
use moviola::train::{Event, Run, TrainOptions, Trainer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

/// Counts live bytes, their peak, and the largest single allocation.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// The counters are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn took(size: usize) {
    let live = LIVE.fetch_add(size as isize, Ordering::Relaxed) + size as isize;
    PEAK.fetch_max(live, Ordering::Relaxed);
    LARGEST.fetch_max(size, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are only read by tests.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait asks of callers.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the trait asks of callers.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    // SAFETY: as the trait asks of callers.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_hundred_steps_leave_the_heap_as_it_was() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let world = SimpleWorld { seed: 3, train: 1200, val: 2, test: 2, dim: 64, ..SimpleWorld::default() };
    world.write(&dir.path().join("world")).unwrap();
    let data = Dataset::open(&dir.path().join("world"), None, Split::Train).unwrap();
    let config = Config { text_dim: 64, video_dim: 64, dim: 64, ..Config::default() };
    let options = TrainOptions { epochs: 8, batch: 128, checkpoint_every: 1000, ..TrainOptions::default() };
    let backend = Box::new(Cpu::new(2).unwrap());
    let out = dir.path().join("run");
    let run =
        Run { out: &out, config: &config, options: &options, train: &data, val: None, resume: false, foreground: None };
    let mut trainer = Trainer::new(&run, backend, |_| {}).unwrap();
    assert!(trainer.steps() > 140);
    let mut live = vec![];
    let mut largest = 0;
    trainer
        .run(&AtomicBool::new(false), |event| {
            if let Event::Line(Line::Step { step, .. }) = event {
                match step {
                    20 => LARGEST.store(0, Ordering::Relaxed),
                    120 => largest = LARGEST.load(Ordering::Relaxed),
                    _ => {}
                }
                live.push(LIVE.load(Ordering::Relaxed));
            }
        })
        .unwrap();
    // The packer runs ahead by a batch or two, whose lists of items come and go: the least of a stretch is compared.
    let least = |range: std::ops::Range<usize>| *live[range].iter().min().unwrap();
    let grown = least(110..130) - least(20..40);
    assert!(grown.abs() < 4096, "the heap grew by {grown} bytes over 90 steps");
    // Frame tokens of a batch are 128 videos × at least 12 frames × 64 numbers. What is smaller may be the matrix
    // library's packing buffer, which is no tensor of the engine.
    assert!(largest < 128 * 12 * 64 * 4, "an allocation of {largest} bytes in steady state");
}

/// Tokens made when they are asked for: they take no memory and differ from each other.
struct Made {
    ids: Vec<String>,
    rows: usize,
    provenance: Provenance,
}

impl Made {
    fn new(count: usize, rows: usize) -> Made {
        let ids = (0..count).map(|i| format!("item{i}")).collect();
        let provenance = Provenance {
            path: "made".into(),
            format: SourceFormat::Memory,
            dtype: Some(TokenDtype::F32),
            about: About::default(),
        };
        Made { ids, rows, provenance }
    }
}

const DIM: usize = 16;

impl TokenSource for Made {
    fn ids(&self) -> &[String] {
        &self.ids
    }
    fn dim(&self) -> usize {
        DIM
    }
    fn rows(&self, _: usize) -> usize {
        self.rows
    }
    fn load_into(&self, i: usize, out: &mut [f32]) -> Result<()> {
        out.iter_mut().enumerate().for_each(|(k, x)| *x = ((i * 31 + k * 17) % 101) as f32 / 50.0 - 1.0);
        Ok(())
    }
    fn timestamps(&self, _: usize) -> Option<Cow<'_, [f32]>> {
        None
    }
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }
    fn find(&self, _: &str) -> Option<usize> {
        None
    }
}

/// Bytes at the peak of an evaluation of `n` texts and `n` videos, beyond what was live before it.
fn peak_of_eval(model: &Path, n: usize) -> isize {
    let (texts, videos) = (Made::new(n, 3), Made::new(n, 2));
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let backend = Box::new(Cpu::new(2).unwrap());
    let all: Vec<usize> = (0..n).collect();
    let mut scorer = Scorer::open(model, (&texts, all.clone()), (&videos, all), backend).unwrap();
    let (mut tiler, text_side, video_side) = scorer.tiler();
    let relevance = Relevance::one_to_one(n).unwrap();
    let stop = AtomicBool::new(false);
    let mode = CaptionMode::MinRank;
    let counts = count_ranks(&mut tiler, text_side, video_side, relevance, mode, Directions::Both, &stop).unwrap();
    assert_eq!(counts.texts, n);
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn evaluation_of_ten_times_the_data_takes_little_more_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let dir = tempfile::tempdir().unwrap();
    // The all-pairs op of token interaction would take minutes without optimisation; its plans take no more memory
    // with more data than those of mean-pool, as the capacity of a tile is the same.
    let config = Config { model: "mean-pool".into(), text_dim: DIM, video_dim: DIM, dim: DIM, ..Config::default() };
    let model = build(&config).unwrap();
    folder::save(dir.path(), model.as_ref(), &model.parameters().initial(1), "").unwrap();
    let (small, large) = (peak_of_eval(dir.path(), 1_000), peak_of_eval(dir.path(), 10_000));
    println!("peak of 1k x 1k: {small} bytes, of 10k x 10k: {large} bytes");
    assert!(large - small < 64 << 20, "grew by {} bytes", large - small);
}
