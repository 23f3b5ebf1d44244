//! Steps in chunks: the loss and the gradient of a batch in one piece, the same bits whatever the threads and
//! interruptions, and less memory.

mod seed;

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod emulation;

use moviola::data::worlds::SimpleWorld;
use moviola::data::{Dataset, Split};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::backend::null::prove;
use moviola::engine::fuse::fuse;
use moviola::engine::graph::Graph;
use moviola::engine::scheduler::executor::{Executor, SLOTS, SlotWriter};
use moviola::engine::scheduler::plan::{RegionBytes, StateLayout, plan};
use moviola::models::batch::{Capacity, Rows, pack_texts, pack_videos};
use moviola::models::cba::CbaConfig;
use moviola::models::cba::config::{Foreground, RoutingMode, Swap, Trunk};
use moviola::models::chunks::{self, pack_begins};
use moviola::models::plans::{self, Optimiser};
use moviola::models::rows::{TextRows, VideoRows};
use moviola::models::views::{Views, pack_views};
use moviola::models::{Config, Model, Stage, build};
use moviola::random::Random;
use moviola::train::log::{Line, Log};
use moviola::train::{Event, Run, TrainOptions, Trainer};
use seed::seed;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const DIM: usize = 16;

fn cpu(threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(threads).unwrap())
}

fn world(dir: &Path, seed: u64) -> [Dataset; 2] {
    let world = SimpleWorld { seed, train: 20, val: 6, test: 4, dim: DIM, frames: (8, 19), ..SimpleWorld::default() };
    world.write(&dir.join("world")).unwrap();
    [Split::Train, Split::Val].map(|split| Dataset::open(&dir.join("world"), None, split).unwrap())
}

fn config(model: &str) -> Config {
    Config { model: model.into(), text_dim: DIM, video_dim: DIM, dim: DIM, max_frames: 16, ..Config::default() }
}

fn cba(change: impl FnOnce(&mut CbaConfig)) -> Config {
    let mut cba = CbaConfig::default();
    cba.trunk = Trunk { layers: 1, heads: 2, expansion: 2, ..cba.trunk };
    cba.routing.rank = 4;
    change(&mut cba);
    Config { cba: Some(cba), ..config("cba") }
}

/// Every form of every model, by name.
fn forms() -> Vec<(&'static str, Config)> {
    vec![
        ("mean-pool", config("mean-pool")),
        ("token-interaction", config("token-interaction")),
        ("cba", cba(|_| ())),
        ("cba, token", cba(|c| (c.routing.mode, c.routing.experts) = (RoutingMode::TopkToken, 5))),
        ("cba, query", cba(|c| c.routing.mode = RoutingMode::TopkQuery)),
        ("cba, off, mixing", cba(|c| (c.routing.mode, c.trunk.mixing) = (RoutingMode::Off, true))),
        ("cba, frames swapped", cba(|c| c.counterfactual.exchange = Swap::Frames)),
        (
            "cba, all on",
            cba(|c| {
                (c.counterfactual.margin, c.counterfactual.hard_negatives) = (0.1, 2.0);
                (c.temporal.augment, c.temporal.order) = (0.5, 0.1);
                c.routing.query_noise = 1.0;
            }),
        ),
        ("cba, told the foreground", cba(|c| c.counterfactual.foreground = Foreground::Given)),
    ]
}

/// A batch of a data set, and the chunks that donors are drawn from.
struct Fixture<'a> {
    model: Box<dyn Model>,
    data: &'a Dataset,
    texts: TextRows<'a>,
    videos: VideoRows<'a>,
    pairs: Vec<usize>,
    text_items: Vec<usize>,
    video_items: Vec<usize>,
    chunk: usize,
}

impl<'a> Fixture<'a> {
    fn new(config: &Config, data: &'a Dataset, pairs: &[usize], chunk: usize) -> Fixture<'a> {
        let model = build(config).unwrap();
        Fixture {
            texts: TextRows::new(&*data.texts, model.config()).unwrap(),
            videos: VideoRows::new(&*data.videos, model.config()).unwrap(),
            text_items: pairs.iter().map(|p| data.pairs[*p].text).collect(),
            video_items: pairs.iter().map(|p| data.pairs[*p].video).collect(),
            pairs: pairs.to_vec(),
            model,
            data,
            chunk,
        }
    }

    fn pairs(&self) -> usize {
        self.pairs.len()
    }

    fn whole(&self) -> Vec<Range<usize>> {
        std::iter::once(0..self.pairs()).collect()
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        let n = self.pairs();
        (0..n).step_by(self.chunk).map(|begin| begin..(begin + self.chunk).min(n)).collect()
    }

    fn capacity(&self, parts: &[Range<usize>]) -> Capacity {
        let rows = |rows: &dyn Rows, items: &[usize], part: &Range<usize>| {
            items[part.clone()].iter().map(|i| rows.rows(*i)).sum::<usize>()
        };
        let most = |f: &dyn Fn(&Range<usize>) -> usize| parts.iter().map(f).max().unwrap();
        Capacity {
            texts: most(&|p| p.len()),
            words: most(&|p| rows(&self.texts, &self.text_items, p)),
            videos: most(&|p| p.len()),
            frames: most(&|p| rows(&self.videos, &self.video_items, p)),
        }
    }

    /// As training packs, but with donors that are the same in one piece and in chunks.
    fn pack(&self, slot: &mut SlotWriter, part: Range<usize>) -> moviola::error::Result<()> {
        pack_texts(slot, &self.texts, &self.text_items[part.clone()])?;
        pack_videos(slot, &self.videos, &self.video_items[part.clone()])?;
        let (texts, videos) = (&self.text_items[..part.start], &self.video_items[..part.start]);
        pack_begins(slot, (&self.texts, texts), (&self.videos, videos))?;
        let keys = self.data.keys();
        for (name, keys) in [("video_key", keys.video), ("caption_key", keys.caption)] {
            if slot.has(name) {
                let pairs = &self.pairs[part.clone()];
                slot.u32(name)?.iter_mut().zip(pairs).for_each(|(key, pair)| *key = keys[*pair]);
            }
        }
        let half = |_: usize, frame: usize| frame.is_multiple_of(2);
        let captions = (0..self.pairs()).map(|i| if i % 3 == 0 { "first a, then b" } else { "a" }).collect();
        let views = Views {
            rows: &self.videos,
            videos: &self.video_items,
            part: part.clone(),
            captions,
            foreground: Some(&half),
            seed: 3,
            step: 5,
        };
        pack_views(slot, self.model.config(), &views)?;
        let inside = self.ranges().into_iter().filter(|c| c.start >= part.start && c.end <= part.end);
        let (mut video, mut frame) = (0, 0);
        for chunk in inside {
            let frames: usize = self.video_items[chunk.clone()].iter().map(|i| self.videos.rows(*i)).sum();
            if slot.has("donor_video") {
                let out = &mut slot.u32("donor_video")?[video..video + chunk.len()];
                out.iter_mut().enumerate().for_each(|(i, d)| *d = (video + (i + 1) % chunk.len()) as u32);
            }
            if slot.has("donor") {
                let out = &mut slot.u32("donor")?[frame..frame + frames];
                out.iter_mut().enumerate().for_each(|(i, d)| *d = (frame + (i + 7) % frames) as u32);
            }
            (video, frame) = (video + chunk.len(), frame + frames);
        }
        Ok(())
    }

    fn executor(&self, graphs: &[Graph], backend: Box<dyn Backend>) -> Executor {
        let graphs: Vec<Graph> = graphs.iter().map(fuse).collect();
        let states = StateLayout::of(&graphs).unwrap();
        let ctx = backend.ctx();
        let plans: Vec<_> = graphs.iter().map(|g| plan("step", g, &states, &ctx).unwrap()).collect();
        for (g, p) in graphs.iter().zip(&plans) {
            prove(g, p, &ctx).unwrap();
        }
        let mut executor = Executor::new(backend, plans, states).unwrap();
        // Zeros of the initial values would hide what multiplies them.
        let spread = Random::new(4, 9);
        let params: Vec<f32> =
            (0u64..).zip(self.model.parameters().initial(4)).map(|(i, p)| p + 0.05 * spread.normal(i)).collect();
        executor.write_state("params", &params).unwrap();
        executor
    }

    fn in_one_piece(&self) -> (f32, Vec<f32>) {
        let graph = plans::gradients(self.model.as_ref(), self.capacity(&self.whole())).unwrap();
        let mut executor = self.executor(&[graph], cpu(1));
        let outputs = executor.run(0, |slot| self.pack(slot, 0..self.pairs())).unwrap();
        (outputs.scalar("loss").unwrap(), outputs.f32("gradient").unwrap().to_vec())
    }

    fn in_chunks(&self, backend: Box<dyn Backend>) -> (f32, Vec<f32>) {
        let (whole, chunk) = (self.capacity(&self.whole()), self.capacity(&self.ranges()));
        let stage = Stage::default();
        let graphs = chunks::training(self.model.as_ref(), whole, chunk, stage, Optimiser::default()).unwrap();
        let mut executor = self.executor(&graphs.map(|(_, g)| g), backend);
        for chunk in self.ranges() {
            executor.run(chunks::ENCODE, |slot| self.pack(slot, chunk)).unwrap();
        }
        let compared = executor.run(chunks::COMPARE, |slot| self.pack(slot, 0..self.pairs())).unwrap();
        let loss = compared.scalar("loss").unwrap();
        for chunk in self.ranges() {
            executor.run(chunks::PULL, |slot| self.pack(slot, chunk)).unwrap();
        }
        (loss, executor.read_state("gradient").unwrap())
    }
}

/// ‖a − b‖∞ / ‖b‖∞
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let most = |x: &mut dyn Iterator<Item = f32>| x.map(f32::abs).fold(0.0, f32::max);
    assert!(a.len() == b.len() && a.iter().chain(b).all(|x| x.is_finite()));
    most(&mut a.iter().zip(b).map(|(a, b)| a - b)) / most(&mut b.iter().copied())
}

#[test]
fn chunks_have_the_loss_and_the_gradient_of_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed();
    let [data, _] = world(dir.path(), seed);
    let order = Random::new(seed, 1).permutation(data.pairs.len());
    for (name, config) in forms() {
        for chunk in [4, 5, 12] {
            let fixture = Fixture::new(&config, &data, &order[..12], chunk);
            let (loss, gradient) = fixture.in_one_piece();
            let (other_loss, other) = fixture.in_chunks(cpu(1));
            let (of_loss, of_gradient) = (difference(&[other_loss], &[loss]), difference(&other, &gradient));
            println!("{name}, 12 in chunks of {chunk}: loss {of_loss:.1e}, gradient {of_gradient:.1e}");
            assert!(of_loss <= 1e-5 && of_gradient <= 1e-5, "{name}, chunks of {chunk}: {of_loss}, {of_gradient}");
        }
    }
}

fn run<'a>(out: &'a Path, config: &'a Config, options: &'a TrainOptions, data: &'a [Dataset; 2]) -> Run<'a> {
    Run { out, config, options, train: &data[0], val: Some(&data[1]), resume: false, foreground: None }
}

/// 40 captions in batches of 16: a step's last chunk is shorter, and an epoch's last batch.
fn options(chunk: usize) -> TrainOptions {
    TrainOptions { epochs: 3, batch: 16, chunk, checkpoint_every: 2, learning_rate: 5e-3, ..TrainOptions::default() }
}

/// Trains until the end, or until step `stop_at` was reported; returns whether it finished.
fn train(run: &Run, backend: Box<dyn Backend>, stop_at: usize) -> bool {
    let stop = AtomicBool::new(false);
    let mut trainer = Trainer::new(run, backend, |_| {}).unwrap();
    let observe = |event: Event| {
        if let Event::Line(Line::Step { step, .. }) = event
            && *step >= stop_at
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    !trainer.run(&stop, observe).unwrap().stopped_early
}

fn remains(out: &Path) -> (Vec<u8>, Vec<Line>) {
    (std::fs::read(out.join("model.safetensors")).unwrap(), Log::read(&out.join("log.jsonl")).unwrap())
}

fn losses(out: &Path) -> Vec<f32> {
    let lines = Log::read(&out.join("log.jsonl")).unwrap();
    lines.iter().filter_map(|l| if let Line::Step { loss, .. } = l { Some(*loss) } else { None }).collect()
}

#[test]
fn a_run_in_chunks_is_the_same_with_more_threads_and_after_interruptions() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    let (o, whole) = (options(6), dir.path().join("whole"));
    // The second stage has plans of its own.
    let c = cba(|c| c.quantisation.from = 0.5);
    assert!(train(&run(&whole, &c, &o, &data), cpu(2), usize::MAX));
    assert_eq!(losses(&whole).len(), 9);
    let broken = dir.path().join("broken");
    for (resume, stop_at) in [(false, 1), (true, 4), (true, 6), (true, usize::MAX)] {
        let finished = train(&Run { resume, ..run(&broken, &c, &o, &data) }, cpu(1), stop_at);
        assert_eq!(finished, stop_at == usize::MAX);
    }
    assert!(remains(&whole) == remains(&broken));
}

#[test]
fn a_run_in_chunks_has_the_losses_of_one_without() {
    let dir = tempfile::tempdir().unwrap();
    let data = world(dir.path(), seed());
    // Donors are the one thing that chunks draw in another way.
    let plain = cba(|c| c.counterfactual.swap = 0.0);
    for (name, c) in [("token-interaction", config("token-interaction")), ("cba", plain)] {
        let [one, two] = [0, 7].map(|chunk| {
            let out = dir.path().join(format!("{name}-{chunk}"));
            assert!(train(&run(&out, &c, &options(chunk), &data), cpu(2), usize::MAX));
            losses(&out)
        });
        for (step, (a, b)) in one.iter().zip(&two).enumerate() {
            assert!((a - b).abs() <= 1e-4 * a.abs(), "{name}, step {step}: {a} in one piece, {b} in chunks");
        }
    }
}

#[test]
fn memory_follows_the_chunk() {
    let model = build(&Config { model: "cba".into(), ..Config::default() }).unwrap();
    let capacity = |n: usize| Capacity { texts: n, words: 33 * n, videos: n, frames: 64 * n };
    let ctx = cpu(1).ctx();
    let peak = |graphs: &[Graph]| {
        let graphs: Vec<Graph> = graphs.iter().map(fuse).collect();
        let states = StateLayout::of(&graphs).unwrap();
        let plans = graphs.iter().map(|g| plan("step", g, &states, &ctx).unwrap().bytes);
        plans.fold(RegionBytes::default(), RegionBytes::max).total(SLOTS)
    };
    let (stage, optimiser) = (Stage::default(), Optimiser::default());
    let whole = peak(&[plans::training(model.as_ref(), capacity(1024), stage, optimiser).unwrap()]);
    let parts = chunks::training(model.as_ref(), capacity(1024), capacity(128), stage, optimiser).unwrap();
    let chunked = peak(&parts.map(|(_, g)| g));
    println!("{} MiB in chunks of an eighth, {} MiB in one piece", chunked >> 20, whole >> 20);
    assert!(4 * chunked < whole, "{chunked} and {whole}");
}

#[test]
fn a_chunk_as_large_as_the_batch_is_refused() {
    let o = TrainOptions { batch: 16, chunk: 16, ..TrainOptions::default() };
    let e = o.check().unwrap_err().to_string();
    assert!(e.contains("train.chunk") && e.contains("below train.batch"), "{e}");
    TrainOptions { chunk: 15, ..o }.check().unwrap();
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
#[test]
fn cuda_has_the_gradient_of_the_cpu_in_chunks() {
    use moviola::engine::backend::cuda::Cuda;
    use moviola::engine::op::Precision;
    emulation::in_emulation("cuda_has_the_gradient_of_the_cpu_in_chunks", || {
        let dir = tempfile::tempdir().unwrap();
        let [data, _] = world(dir.path(), 11);
        let fixture = Fixture::new(&config("token-interaction"), &data, &[3, 0, 4, 1, 2], 2);
        let gpu = Box::new(Cuda::open(0, Precision::F32).unwrap());
        let (want, have) = (fixture.in_chunks(cpu(1)), fixture.in_chunks(gpu));
        let (of_loss, of_gradient) = (difference(&[have.0], &[want.0]), difference(&have.1, &want.1));
        assert!(of_loss <= 1e-4 && of_gradient <= 1e-3, "{of_loss}, {of_gradient}");
    });
}

#[cfg(feature = "wgpu")]
#[test]
fn a_gpu_has_the_gradient_of_the_cpu_in_chunks() {
    use moviola::engine::backend::{self, DeviceChoice};
    use moviola::engine::op::Precision;
    let dir = tempfile::tempdir().unwrap();
    let seed = seed();
    let [data, _] = world(dir.path(), seed);
    for (name, config) in forms().into_iter().take(3) {
        let fixture = Fixture::new(&config, &data, &(0..8).collect::<Vec<_>>(), 3);
        let (gpu, _) = backend::open(&DeviceChoice::Wgpu(None), 0, Precision::F32)
            .expect("a Vulkan driver is needed: apt-get install mesa-vulkan-drivers libvulkan1");
        let (want, have) = (fixture.in_chunks(cpu(1)), fixture.in_chunks(gpu));
        let (of_loss, of_gradient) = (difference(&[have.0], &[want.0]), difference(&have.1, &want.1));
        println!("{name}: loss {of_loss:.1e}, gradient {of_gradient:.1e}");
        assert!(of_loss <= 1e-4 && of_gradient <= 1e-3, "{name}: {of_loss}, {of_gradient}");
    }
}
