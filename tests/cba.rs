//! CBA as a whole: its gradient is that of its loss, every form of it trains, and what it shows is what it scored.

mod seed;

use moviola::claims::trained::with_videos;
use moviola::data::worlds::SimpleWorld;
use moviola::data::{Dataset, Split};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::op::noise;
use moviola::engine::reference::evaluate;
use moviola::engine::tensor::{Counts, HostTensor};
use moviola::models::batch::{Capacity, FRAMES, TEXTS, VIDEOS, WAVES, WORDS};
use moviola::models::cba::CbaConfig;
use moviola::models::cba::config::{Foreground, Router, RoutingMode, Sharing, Swap, Trunk};
use moviola::models::perturb::Perturbation;
use moviola::models::scorer::Scorer;
use moviola::models::stability::{Kind, stability};
use moviola::models::{Config, build, plans};
use moviola::random::Random;
use moviola::train::log::{Line, Log};
use moviola::train::{Run, TrainOptions, Trainer};
use seed::seed;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(1).unwrap())
}

fn config(dim: usize, change: impl FnOnce(&mut CbaConfig)) -> Config {
    let mut cba = CbaConfig::default();
    cba.trunk = Trunk { layers: 1, heads: 2, expansion: 2, ..cba.trunk };
    cba.routing.rank = 4;
    change(&mut cba);
    let base = Config { model: "cba".into(), text_dim: dim, video_dim: dim, dim, ..Config::default() };
    Config { cba: Some(cba), max_words: 8, max_frames: 32, ..base }
}

/// A batch of three pairs with lengths of their own, in f64.
fn batch(config: &Config, seed: u64) -> (Capacity, Counts, HashMap<String, HostTensor>) {
    let (words, frames) = ([3, 1, 4], [5, 2, 3]);
    let rows = |lengths: &[usize]| lengths.iter().sum::<usize>();
    let segments = |lengths: &[usize]| {
        let mut end = 0;
        let table = lengths.iter().flat_map(|n| {
            end += *n as u32;
            [end - *n as u32, end]
        });
        HostTensor::u32(&[lengths.len(), 2], table.collect())
    };
    let (l, t) = (rows(&words), rows(&frames));
    let capacity = Capacity { texts: 3, words: l, videos: 3, frames: t };
    let counts = Counts::default().with(TEXTS, 3).with(VIDEOS, 3).with(WORDS, l).with(FRAMES, t);
    let keys = || HostTensor::u32(&[3], vec![0, 1, 2]);
    let given = HashMap::from([
        ("words".to_string(), noise(&[l, config.text_dim], seed)),
        ("frames".to_string(), noise(&[t, config.video_dim], seed + 1)),
        ("word_places".to_string(), noise(&[l, 2 * WAVES], seed + 2)),
        ("frame_times".to_string(), noise(&[t, 2 * WAVES], seed + 3)),
        ("word_segments".to_string(), segments(&words)),
        ("frame_segments".to_string(), segments(&frames)),
        ("video_key".to_string(), keys()),
        ("caption_key".to_string(), keys()),
    ]);
    (capacity, counts, given)
}

/// Only what has no stopped gradient in it: the branches that have are checked op by op.
#[test]
fn the_gradient_of_the_model_is_that_of_its_loss() {
    let seed = seed();
    type Change = fn(&mut CbaConfig);
    let forms: [(&str, Change); 7] = [
        ("soft", |_| ()),
        ("query", |c| c.routing.mode = RoutingMode::TopkQuery),
        ("token", |c| (c.routing.mode, c.routing.noise) = (RoutingMode::TopkToken, false)),
        ("token, frames not told apart", |c| {
            (c.routing.mode, c.routing.noise) = (RoutingMode::TopkToken, false);
            (c.routing.centre, c.routing.timed) = (false, false);
        }),
        ("full", |c| c.routing.sharing = Sharing::Full),
        ("dense", |c| c.routing.mode = RoutingMode::Dense),
        ("off, mixing", |c| (c.routing.mode, c.trunk.mixing) = (RoutingMode::Off, true)),
    ];
    for (name, change) in forms {
        let config = config(8, |c| {
            ["counterfactual", "temporal"].iter().for_each(|m| c.ablate(m).unwrap());
            change(c);
        });
        let model = build(&config).unwrap();
        let (capacity, counts, mut given) = batch(&config, seed);
        let g = plans::gradients(model.as_ref(), capacity).unwrap();
        let output = |name: &str| g.outputs.iter().find(|o| o.0 == name).unwrap().1;
        // Zeros of the initial values would hide what multiplies them.
        let spread = Random::new(seed, 9);
        let start: Vec<f64> = (0u64..)
            .zip(model.parameters().initial(seed))
            .map(|(i, p)| f64::from(p) + 0.05 * f64::from(spread.normal(i)))
            .collect();
        let direction: Vec<f64> = (0..start.len()).map(|i| f64::from(Random::new(seed, 10).normal(i as u64))).collect();
        let mut loss_at = |step: f64| {
            let moved = start.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
            given.insert("params".into(), HostTensor::f64(&[start.len()], moved));
            let values = evaluate(&g, &given, &counts);
            (values[&output("loss")].x()[0], values[&output("gradient")].x().to_vec())
        };
        let (_, gradient) = loss_at(0.0);
        // Elements between parameters belong to nobody.
        let along: f64 = model
            .parameters()
            .list
            .iter()
            .flat_map(|p| p.offset as usize..p.offset as usize + p.elements())
            .map(|i| gradient[i] * direction[i])
            .sum();
        // The score bends sharply: attention has a temperature of 0.05. Where there is a kink between the two sides
        // (a ReLU, a choice of experts) they have to come closer.
        let mut measured = |h: f64| (loss_at(h).0 - loss_at(-h).0) / (2.0 * h);
        let error = |measured: f64| (along - measured).abs() / measured.abs().max(1e-3);
        let mut found = measured(1e-6);
        if error(found) >= 1e-5 {
            found = measured(1e-7);
        }
        assert!(error(found) < 1e-5, "{name}, seed {seed}: {along} and by differences {found}");
    }
}

fn world(dir: &Path, seed: u64) -> [Dataset; 2] {
    println!("world seed {seed}");
    let world = SimpleWorld { seed, train: 40, val: 4, test: 6, dim: 16, frames: (8, 14), ..SimpleWorld::default() };
    world.write(&dir.join("world")).unwrap();
    [Split::Train, Split::Test].map(|split| Dataset::open(&dir.join("world"), None, split).unwrap())
}

fn train(out: &Path, data: &Dataset, config: &Config, epochs: usize) -> Vec<Line> {
    let options = TrainOptions { epochs, batch: 16, learning_rate: 2e-3, ..TrainOptions::default() };
    let half = |_: usize, frame: usize| frame.is_multiple_of(2);
    let foreground: Option<&(dyn Fn(usize, usize) -> bool + Sync)> = Some(&half);
    let run = Run { out, config, options: &options, train: data, val: None, resume: false, foreground };
    let mut trainer = Trainer::new(&run, cpu(), |_| {}).unwrap();
    trainer.run(&AtomicBool::new(false), |_| {}).unwrap();
    Log::read(&out.join("log.jsonl")).unwrap()
}

fn losses(lines: &[Line]) -> Vec<f32> {
    lines.iter().filter_map(|l| if let Line::Step { loss, .. } = l { Some(*loss) } else { None }).collect()
}

#[test]
fn every_form_trains_and_logs_its_terms() {
    let dir = tempfile::tempdir().unwrap();
    let [data, _] = world(dir.path(), seed());
    type Change = fn(&mut CbaConfig);
    let forms: [(&str, &[&str], Change); 7] = [
        ("default", &["contrast", "pooled", "uniform", "consistency", "balance", "router_z", "decorrelation"], |_| ()),
        ("token", &["balance"], |c| (c.routing.mode, c.routing.experts) = (RoutingMode::TopkToken, 8)),
        ("query", &["balance"], |c| (c.routing.mode, c.routing.query_noise) = (RoutingMode::TopkQuery, 0.5)),
        ("frames swapped", &["swap", "swap_consistency"], |c| {
            let n = &mut c.counterfactual;
            (n.swap, n.exchange, n.gate) = (0.5, Swap::Frames, -2.0);
        }),
        ("all on", &["swap", "background_margin", "augment", "order"], |c| {
            let n = &mut c.counterfactual;
            (n.swap, n.exchange, n.gate, n.margin, n.hard_negatives) = (0.5, Swap::Mean, -2.0, 0.1, 2.0);
            (c.temporal.augment, c.temporal.order) = (0.5, 0.1);
        }),
        ("told the foreground", &["uniform"], |c| c.counterfactual.foreground = Foreground::Given),
        ("rounded in the end", &["contrast"], |c| {
            (c.quantisation.from, c.routing.router) = (0.5, Router::Random);
        }),
    ];
    for (name, terms, change) in forms {
        let lines = train(&dir.path().join(name), &data, &config(16, change), 2);
        let all = losses(&lines);
        assert_eq!(all.len(), 10, "{name}");
        let logged = |line: &Line| match line {
            Line::Step { terms: logged, .. } => terms.iter().all(|t| logged.get(*t).is_some_and(|x| x.is_finite())),
            Line::Gate { .. } | Line::Validation { .. } => true,
        };
        assert!(lines.iter().all(logged), "{name}: {lines:?}");
    }
}

#[test]
fn training_lowers_the_loss_and_every_run_of_a_seed_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let [data, _] = world(dir.path(), seed());
    let config = config(16, |_| ());
    let runs = ["a", "b"].map(|name| losses(&train(&dir.path().join(name), &data, &config, 8)));
    assert_eq!(runs[0], runs[1]);
    let mean = |x: &[f32]| x.iter().sum::<f32>() / x.len() as f32;
    let (first, last) = (mean(&runs[0][..5]), mean(&runs[0][35..]));
    assert!(last < 0.7 * first, "{first} to {last}");
}

/// The score from what an explanation shows, by the formulas of `interact`.
fn score_of(e: &moviola::models::scorer::Explanation, tau: f32) -> f32 {
    let c = |l: usize, t: usize| e.similarity[l * e.frames + t];
    let soft = |logits: Vec<f32>, values: Vec<f32>| {
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = logits.iter().map(|z| (z - most).exp()).collect();
        weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f32>() / weights.iter().sum::<f32>()
    };
    let over_frames = |l: usize| {
        let logits = (0..e.frames).map(|t| c(l, t) / tau + e.relevance[t].ln()).collect();
        soft(logits, (0..e.frames).map(|t| c(l, t)).collect())
    };
    let over_words = |t: usize| {
        let logits = (0..e.words).map(|l| c(l, t) / tau + e.word_weights[l].ln()).collect();
        soft(logits, (0..e.words).map(|l| c(l, t)).collect())
    };
    let t2v: f32 = (0..e.words).map(|l| e.word_weights[l] * over_frames(l)).sum();
    let v2t: f32 = (0..e.frames).map(|t| e.relevance[t] * over_words(t)).sum();
    0.5 * (t2v + v2t)
}

#[test]
fn what_is_shown_is_what_was_scored() {
    let dir = tempfile::tempdir().unwrap();
    let [data, test] = world(dir.path(), seed());
    let modes = [RoutingMode::Soft, RoutingMode::TopkQuery, RoutingMode::TopkToken, RoutingMode::Off];
    for (i, mode) in modes.into_iter().enumerate() {
        let config = config(16, |c| (c.routing.mode, c.routing.experts) = (mode, 5));
        let out = dir.path().join(format!("model{i}"));
        train(&out, &data, &config, 1);
        let texts: Vec<usize> = test.pairs.iter().map(|p| p.text).collect();
        let videos = test.gallery();
        let mut all = vec![vec![0.0; videos.len()]; texts.len()];
        let mut scorer = Scorer::open(&out, (&*test.texts, texts), (&*test.videos, videos), cpu()).unwrap();
        let keep = |tile: moviola::models::tiles::Tile| {
            for (r, text) in tile.texts.clone().enumerate() {
                for (c, video) in tile.videos.clone().enumerate() {
                    all[text][video] = tile.scores[r * tile.stride + c];
                }
            }
            Ok(())
        };
        scorer.score_all(keep, &AtomicBool::new(false)).unwrap();
        for (text, video) in [(0, 0), (1, 3), (5, 2), (7, 5)] {
            let e = scorer.explain(text, video).unwrap();
            let scored = all[text][video];
            assert!((e.score - scored).abs() < 2e-5, "{mode:?}: {} and in the matrix {scored}", e.score);
            let again = score_of(&e, config.temperature);
            assert!((again - scored).abs() < 2e-4, "{mode:?}: {again} of the parts and {scored} of the whole");
            assert!((e.relevance.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            assert_eq!(e.foreground.iter().filter(|f| **f).count(), e.frames.div_ceil(2), "{mode:?}");
            let background = e.background_score.unwrap();
            assert!(background.abs() <= 1.0 && background != e.score, "{mode:?}: {background}");
            if mode == RoutingMode::Off {
                assert_eq!((e.experts, e.gates.len()), (0, 0));
                continue;
            }
            assert!((e.shares().iter().sum::<f32>() - 1.0).abs() < 1e-4);
            let live = e.gates.chunks(5).map(|g| g.iter().filter(|x| **x > 0.0).count());
            let kept: Vec<Vec<bool>> = e.gates.chunks(5).map(|g| g.iter().map(|x| *x > 0.0).collect()).collect();
            if mode == RoutingMode::TopkToken {
                assert!(kept.iter().any(|k| *k != kept[0]), "all frames keep the same experts: {:?}", kept[0]);
            }
            let most = if mode == RoutingMode::Soft { 5 } else { 2 };
            assert!(live.clone().max() <= Some(most), "{mode:?}: {:?}", live.collect::<Vec<_>>());
        }
    }
}

/// A video that is scored beside others, and in another order of frames' seconds, is not the same to a model that
/// knows time.
#[test]
fn time_reaches_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let [data, test] = world(dir.path(), seed());
    let config = config(16, |_| ());
    let out = dir.path().join("model");
    train(&out, &data, &config, 1);
    let score = |data: &Dataset| {
        let texts: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
        let mut scorer = Scorer::open(&out, (&*data.texts, texts), (&*data.videos, data.gallery()), cpu()).unwrap();
        scorer.explain(0, 0).unwrap().score
    };
    let before = score(&test);
    let slower =
        with_videos(test, |_, tokens, seconds| (tokens.data.clone(), seconds.iter().map(|s| 3.0 * s).collect()));
    assert_ne!(before, score(&slower.unwrap()));
}

#[test]
fn a_perturbation_that_changes_nothing_changes_no_bit_of_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed();
    let [data, test] = world(dir.path(), seed);
    let none = Perturbation { drop: None, jitter: false, speed: None };
    let kinds: Vec<Kind> =
        [Kind { name: "none", how: Some(none) }].into_iter().chain(Kind::of(&Perturbation::default())).collect();
    for name in ["cba", "token-interaction", "mean-pool"] {
        let mut config = config(16, |_| ());
        if name != "cba" {
            config = Config { model: name.into(), cba: None, ..config };
        }
        let out = dir.path().join(name);
        train(&out, &data, &config, 1);
        let pair = test.pairs[2];
        let videos = (&*test.videos, vec![pair.video]);
        let mut scorer = Scorer::open(&out, (&*test.texts, vec![pair.text]), videos, cpu()).unwrap();
        let plain = scorer.explain(0, 0).unwrap().score;
        let stop = AtomicBool::new(false);
        let (video, times) = scorer.video(0).unwrap();
        let score = |draws| {
            let text = (&*test.texts, pair.text);
            stability(&out, text, (&video, &times), &kinds, (draws, seed), cpu(), &stop)
        };
        let of = score(3).unwrap();
        assert_eq!(of.unperturbed.to_bits(), plain.to_bits(), "{name}: {} and {plain}", of.unperturbed);
        let counts: Vec<usize> = of.kinds.iter().map(|k| k.1.len()).collect();
        assert_eq!(counts, [3, 3, 3, 3, 3, 1]);
        assert!(of.kinds[0].1.iter().all(|s| s.to_bits() == plain.to_bits()), "{name}: {:?} and {plain}", of.kinds[0]);
        // More draws begin with the fewer ones, and light perturbations do change something.
        let more = score(5).unwrap();
        for ((kind, few), (_, many)) in of.kinds.iter().zip(&more.kinds) {
            assert_eq!(*few, many[..few.len()], "{name}, {}", kind.name);
            assert!(
                few.iter().all(|s| s.is_finite())
                    && (["none", "reversed"].contains(&kind.name) || few.iter().any(|s| *s != plain))
            );
        }
        assert!(score(1001).unwrap_err().to_string().contains("draws"));
    }
}
