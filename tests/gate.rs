//! The gate before the losses of swapped backgrounds: what it lets through, when it looks, and that a resumed run sees
//! the same.

use moviola::data::worlds::SimpleWorld;
use moviola::data::{Dataset, Split};
use moviola::engine::backend::cpu::Cpu;
use moviola::models::Config;
use moviola::models::cba::CbaConfig;
use moviola::models::cba::config::Trunk;
use moviola::train::log::{Line, Log};
use moviola::train::{Event, Run, TrainOptions, Trainer};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps of a run: three looks, at 0, 50 and 100.
const EPOCHS: usize = 20;

struct World {
    train: Dataset,
    val: Dataset,
}

fn world(dir: &Path) -> World {
    let world =
        SimpleWorld { seed: 5, train: 48, val: 20, test: 4, dim: 16, frames: (8, 14), ..SimpleWorld::default() };
    world.write(&dir.join("world")).unwrap();
    let open = |split| Dataset::open(&dir.join("world"), None, split).unwrap();
    World { train: open(Split::Train), val: open(Split::Val) }
}

fn config(swap: f32, gate: f32) -> Config {
    let mut cba = CbaConfig::default();
    cba.trunk = Trunk { layers: 0, ..cba.trunk };
    (cba.routing.rank, cba.temporal.consistency) = (4, 0.0);
    (cba.counterfactual.swap, cba.counterfactual.gate) = (swap, gate);
    let base = Config { model: "cba".into(), text_dim: 16, video_dim: 16, dim: 16, ..Config::default() };
    Config { cba: Some(cba), max_words: 8, max_frames: 14, ..base }
}

/// Trains up to `stop_at` steps, and hands back the log.
fn train(out: &Path, world: &World, config: &Config, (chunk, resume): (usize, bool), stop_at: usize) -> Vec<Line> {
    let options = TrainOptions {
        epochs: EPOCHS,
        batch: 16,
        chunk,
        learning_rate: 4e-3,
        checkpoint_every: 7,
        validate_every: EPOCHS,
        ..TrainOptions::default()
    };
    let (train, val) = (&world.train, Some(&world.val));
    let run = Run { out, config, options: &options, train, val, resume, foreground: None };
    let mut trainer = Trainer::new(&run, Box::new(Cpu::new(1).unwrap()), |_| {}).unwrap();
    let stop = AtomicBool::new(false);
    let observe = |event: Event| {
        if let Event::Line(Line::Step { step, .. }) = event {
            stop.store(*step >= stop_at, Ordering::Relaxed);
        }
    };
    trainer.run(&stop, observe).unwrap();
    Log::read(&out.join("log.jsonl")).unwrap()
}

fn losses(lines: &[Line]) -> Vec<f32> {
    lines.iter().filter_map(|l| if let Line::Step { loss, .. } = l { Some(*loss) } else { None }).collect()
}

/// Step, lead and whether the gate was open.
fn looks(lines: &[Line]) -> Vec<(usize, f32, bool)> {
    let look = |l: &Line| if let Line::Gate { step, lead, open } = l { Some((*step, *lead, *open)) } else { None };
    lines.iter().filter_map(look).collect()
}

/// Whether each step learned from swapped backgrounds.
fn swapped(lines: &[Line]) -> Vec<bool> {
    let terms = |l: &Line| if let Line::Step { terms, .. } = l { Some(terms.contains_key("swap")) } else { None };
    lines.iter().filter_map(terms).collect()
}

#[test]
fn a_gate_that_stays_shut_leaves_a_model_without_swaps_and_one_that_is_always_open_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let run =
        |name: &str, swap, gate| train(&dir.path().join(name), &world, &config(swap, gate), (0, false), usize::MAX);
    let (without, shut, open) = (run("without", 0.0, 0.2), run("shut", 0.5, 2.0), run("open", 0.5, -2.0));
    assert_eq!(losses(&without), losses(&shut));
    assert!(looks(&without).is_empty() && looks(&open).is_empty());
    assert!(swapped(&open).iter().all(|s| *s) && swapped(&shut).iter().all(|s| !*s));
    let looked = looks(&shut);
    assert_eq!(looked.iter().map(|l| (l.0, l.2)).collect::<Vec<_>>(), [(0, false), (50, false), (100, false)]);
    assert!(looked.iter().all(|l| l.1.abs() <= 2.0 && l.1 != 0.0), "{looked:?}");
}

#[test]
fn it_is_open_while_foregrounds_lead_by_enough_and_a_broken_run_sees_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    // What the second look sees of a run that was shut, or open, since the first: a least lead in between is crossed.
    let looked = |name: &str, gate| {
        let lines = train(&dir.path().join(name), &world, &config(0.5, gate), (0, false), 50);
        train(&dir.path().join(name), &world, &config(0.5, gate), (0, true), 51);
        assert_eq!(looks(&lines).len(), 1);
        looks(&Log::read(&dir.path().join(name).join("log.jsonl")).unwrap()).iter().map(|l| l.1).collect::<Vec<_>>()
    };
    let (shut, open) = (looked("shut", 2.0), looked("open", -1.99));
    assert_eq!(shut[0], open[0]);
    let second = if shut[1] > shut[0] { shut[1] } else { open[1] };
    assert!(shut[1] > shut[0] || open[1] < open[0], "no least lead is crossed: {shut:?}, {open:?}");
    let between = (shut[0] + second) / 2.0;
    let config = config(0.5, between);
    for chunk in [0, 8] {
        let (whole, broken) = (dir.path().join(format!("whole {chunk}")), dir.path().join(format!("broken {chunk}")));
        let lines = train(&whole, &world, &config, (chunk, false), usize::MAX);
        let looked = looks(&lines);
        assert_eq!(looked[0].1, shut[0]);
        assert!(looked[0].2 != looked[1].2, "{looked:?}");
        assert!(looked.iter().all(|l| l.2 == (l.1 > between)), "{looked:?}");
        for (step, swapped) in swapped(&lines).into_iter().enumerate() {
            assert_eq!(swapped, looked[step / 50].2, "step {step}, {looked:?}");
        }
        // Stops between looks, at one, and just behind one.
        for (resume, stop_at) in [(false, 20), (true, 50), (true, 51), (true, 77), (true, usize::MAX)] {
            train(&broken, &world, &config, (chunk, resume), stop_at);
        }
        assert_eq!(Log::read(&broken.join("log.jsonl")).unwrap(), lines);
        let [a, b] = [&whole, &broken].map(|run| std::fs::read(run.join("model.safetensors")).unwrap());
        assert!(a == b);
    }
}
