//! Training: the same bits whatever the threads and interruptions, the same losses on every back end, and refusals
//! before anything is lost.

mod seed;

use moviola::data::worlds::SimpleWorld;
use moviola::data::{Dataset, Split};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::op::Ctx;
use moviola::engine::scheduler::plan::{Plan, Region, RegionBytes};
use moviola::engine::tensor::Counts;
use moviola::error::{Error, Result};
use moviola::models::{Config, folder};
use moviola::train::log::{Line, Log};
use moviola::train::{Event, Run, TrainOptions, Trainer};
use seed::seed;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The two splits that a run sees.
struct Splits {
    train: Dataset,
    val: Dataset,
}

fn world(dir: &Path, seed: u64) -> Splits {
    println!("world seed {seed}");
    let world = SimpleWorld { seed, train: 60, val: 12, test: 4, dim: 32, ..SimpleWorld::default() };
    world.write(&dir.join("world")).unwrap();
    let open = |split| Dataset::open(&dir.join("world"), None, split).unwrap();
    Splits { train: open(Split::Train), val: open(Split::Val) }
}

fn config(model: &str) -> Config {
    Config { model: model.into(), text_dim: 32, video_dim: 32, dim: 32, ..Config::default() }
}

fn options(epochs: usize) -> TrainOptions {
    TrainOptions { epochs, batch: 16, checkpoint_every: 3, learning_rate: 5e-3, ..TrainOptions::default() }
}

fn cpu(threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(threads).unwrap())
}

fn run<'a>(out: &'a Path, config: &'a Config, options: &'a TrainOptions, data: &'a Splits) -> Run<'a> {
    Run { out, config, options, train: &data.train, val: Some(&data.val), resume: false, foreground: None }
}

/// Trains until the end, or until step `stop_at` was reported; returns whether it finished.
fn train(out: &Path, data: &Splits, model: &str, backend: Box<dyn Backend>, resume: bool, stop_at: usize) -> bool {
    let stop = AtomicBool::new(false);
    let (c, o) = (config(model), options(3));
    let mut trainer = Trainer::new(&Run { resume, ..run(out, &c, &o, data) }, backend, |_| {}).unwrap();
    let summary = trainer
        .run(&stop, |event| {
            if let Event::Line(Line::Step { step, .. }) = event
                && *step >= stop_at
            {
                stop.store(true, Ordering::Relaxed);
            }
        })
        .unwrap();
    !summary.stopped_early
}

/// Everything a run leaves that must not depend on how it came about.
fn remains(out: &Path) -> (Vec<u8>, Vec<Line>) {
    (std::fs::read(out.join("model.safetensors")).unwrap(), Log::read(&out.join("log.jsonl")).unwrap())
}

#[test]
fn one_thread_and_two_train_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    for model in ["mean-pool", "token-interaction"] {
        let (one, two) = (dir.path().join(format!("{model}-1")), dir.path().join(format!("{model}-2")));
        assert!(train(&one, &data, model, cpu(1), false, usize::MAX));
        assert!(train(&two, &data, model, cpu(2), false, usize::MAX));
        assert!(remains(&one) == remains(&two), "{model} depends on the number of threads");
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    assert!(train(&whole, &data, "token-interaction", cpu(2), false, usize::MAX));
    assert!(!train(&broken, &data, "token-interaction", cpu(2), false, 4));
    // Step 8 ends an epoch: the stop falls into its validation.
    assert!(!train(&broken, &data, "token-interaction", cpu(2), true, 8));
    assert!(!train(&broken, &data, "token-interaction", cpu(1), true, 11));
    assert!(!train(&broken, &data, "token-interaction", cpu(2), true, 24), "the last validation is still to be made");
    assert!(train(&broken, &data, "token-interaction", cpu(2), true, usize::MAX));
    assert!(remains(&whole) == remains(&broken));
}

#[test]
fn the_loss_falls_and_the_best_model_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let out = dir.path().join("run");
    assert!(train(&out, &data, "token-interaction", cpu(2), false, usize::MAX));
    let lines = Log::read(&out.join("log.jsonl")).unwrap();
    let losses: Vec<f32> =
        lines.iter().filter_map(|l| if let Line::Step { loss, .. } = l { Some(*loss) } else { None }).collect();
    assert_eq!(losses.len(), 24, "120 captions in batches of 16, three times");
    assert!(losses[16..].iter().sum::<f32>() < 0.9 * losses[..8].iter().sum::<f32>(), "{losses:?}");
    let (model, flat) = folder::load(&out).unwrap();
    assert_eq!(model.config().model, "token-interaction");
    assert_eq!(flat.len() as u64, model.parameters().elements);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    assert!(train(&whole, &data, "mean-pool", cpu(2), false, usize::MAX));
    assert!(!train(&broken, &data, "mean-pool", cpu(2), false, 9));
    let mut steps: Vec<_> = std::fs::read_dir(broken.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
    steps.sort();
    assert_eq!(steps.len(), 2);
    let newest = steps.pop().unwrap().join("optimizer.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let mut warnings = vec![];
    let (c, o) = (config("mean-pool"), options(3));
    let mut trainer = Trainer::new(&Run { resume: true, ..run(&broken, &c, &o, &data) }, cpu(2), |e| {
        if let Event::Warning(e) = e {
            warnings.push(e.to_string());
        }
    })
    .unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("optimizer.safetensors"), "{warnings:?}");
    trainer.run(&AtomicBool::new(false), |_| {}).unwrap();
    assert!(remains(&whole) == remains(&broken));
}

#[test]
fn another_runs_checkpoint_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let out = dir.path().join("run");
    assert!(!train(&out, &data, "mean-pool", cpu(2), false, 5));
    let before = std::fs::read(out.join("log.jsonl")).unwrap();
    let again = |config: &Config, options: &TrainOptions, resume| {
        let made = Trainer::new(&Run { resume, ..run(&out, config, options, &data) }, cpu(1), |_| {});
        made.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let same = config("mean-pool");
    assert!(again(&same, &options(3), false).contains("--resume"), "an existing run is not overwritten");
    let wider = Config { dim: 48, ..same.clone() };
    assert!(again(&wider, &options(3), true).contains("with dim 32 and now it is 48"));
    let longer = TrainOptions { epochs: 9, ..options(3) };
    assert!(again(&same, &longer, true).contains("with train.epochs 3 and now it is 9"));
    assert_eq!(std::fs::read(out.join("log.jsonl")).unwrap(), before);
}

/// A device with little memory, on which nothing may be allocated.
struct Tiny(Cpu);

impl Backend for Tiny {
    fn name(&self) -> String {
        "tiny".into()
    }
    fn ctx(&self) -> Ctx {
        self.0.ctx()
    }
    fn memory(&self) -> u64 {
        1 << 20
    }
    fn load(&mut self, _: &[Arc<Plan>], _: RegionBytes, _: usize) -> Result<()> {
        panic!("a plan that does not fit was loaded");
    }
    fn write(&mut self, _: Region, _: usize, _: u64, _: &[u8]) -> Result<()> {
        panic!("nothing was loaded");
    }
    fn read(&mut self, _: Region, _: usize, _: u64, _: &mut [u8]) -> Result<()> {
        panic!("nothing was loaded");
    }
    fn submit(&mut self, _: usize, _: usize, _: Counts) -> Result<()> {
        panic!("nothing was loaded");
    }
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_plan_larger_than_the_device_is_refused_before_allocation_with_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let backend = Box::new(Tiny(Cpu::new(1).unwrap()));
    let c = Config { dim: 256, ..config("token-interaction") };
    let (out, o) = (dir.path().join("run"), options(1));
    let made = Trainer::new(&run(&out, &c, &o, &data), backend, |_| {});
    match made.err() {
        Some(Error::Memory { needed, available, .. }) => assert!(needed > available && available == 1 << 20),
        other => panic!("expected a memory error, got {other:?}"),
    }
    assert!(!out.exists(), "nothing is written for a run that cannot start");
}

#[cfg(feature = "wgpu")]
#[test]
fn a_gpu_trains_with_the_losses_of_the_cpu() {
    use moviola::engine::backend::{self, DeviceChoice};
    use moviola::engine::op::Precision;
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let o = TrainOptions { epochs: 7, batch: 16, ..TrainOptions::default() };
    for model in ["mean-pool", "token-interaction"] {
        let losses = |name: &str, backend| {
            let out = dir.path().join(format!("{model}-{name}"));
            let c = config(model);
            let mut trainer = Trainer::new(&run(&out, &c, &o, &data), backend, |_| {}).unwrap();
            trainer.run(&AtomicBool::new(false), |_| {}).unwrap();
            let lines = Log::read(&out.join("log.jsonl")).unwrap();
            let loss = |l: &Line| if let Line::Step { loss, .. } = l { Some(*loss) } else { None };
            lines.iter().filter_map(loss).collect::<Vec<f32>>()
        };
        let (gpu, _) = backend::open(&DeviceChoice::Wgpu(None), 0, Precision::F32)
            .expect("a Vulkan driver is needed: apt-get install mesa-vulkan-drivers libvulkan1");
        let (want, have) = (losses("cpu", cpu(2)), losses("gpu", gpu));
        assert!(want.len() >= 50 && want.len() == have.len());
        for (step, (w, h)) in want.iter().zip(&have).enumerate().take(50) {
            assert!((w - h).abs() <= 1e-4 * w.abs(), "{model} step {step}: {h} on the GPU, {w} on the CPU");
        }
    }
}
