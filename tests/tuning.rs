//! Encoders in training: their gradients, what moves and what does not, layers that are computed again, and a small CLIP
//! from nothing that learns pictures.

#[cfg(feature = "cuda")]
mod emulation;

use moviola::data::picture::Picture;
use moviola::data::worlds::SimpleWorld;
use moviola::data::{Dataset, Split};
use moviola::encoders::architecture::{PIECES, TEXTS, TextArchitecture, TextInputs};
use moviola::encoders::bert::Bert;
use moviola::encoders::checkpoint::Checkpoint;
use moviola::encoders::clip::ClipText;
use moviola::encoders::dual::{Capacity, Dual, SCALE};
use moviola::encoders::fresh::{self, Sizes, Tower};
use moviola::encoders::image::ImageEncoder;
use moviola::encoders::layers::Outline;
use moviola::encoders::pixels::Preprocess;
use moviola::encoders::positions::TABLE;
use moviola::encoders::text::TextEncoder;
use moviola::encoders::tuning::{Tuned, Tuning};
use moviola::encoders::vision::{ClipImage, IMAGES, PATCHES};
use moviola::engine::autodiff::{backprop, backprop_again};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::fuse::fuse;
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::noise;
use moviola::engine::parameters::{Parameters, Weights};
use moviola::engine::reference::evaluate;
use moviola::engine::scheduler::plan::{Command, Plan, StateLayout, plan};
use moviola::engine::tensor::{Counts, HostTensor};
use moviola::error::Result;
use moviola::models::encoded::Encoding;
use moviola::models::plans::Optimiser;
use moviola::models::{Config, folder};
use moviola::train::encoder::{EncoderOptions, EncoderRun, EncoderTrainer, Pairs, step};
use moviola::train::log::{Line, Log};
use moviola::train::{Event, Run, Summary, TrainOptions, Trainer};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(2).unwrap())
}

fn described(config: serde_json::Value) -> Checkpoint {
    Checkpoint::described(Path::new("described"), config)
}

/// Outputs of an encoder in a graph.
type Forward<'a> = &'a dyn Fn(&mut Graph, &Weights) -> Result<Vec<Value>>;

/// The gradient of Σ seed·output by rule and by finite differences, in f64, of some elements of every parameter that moves.
fn gradients_agree(
    what: &str,
    (whole, outline): (&Parameters, Outline),
    tuning: Tuning,
    (inputs, counts): (&HashMap<String, HostTensor>, Counts),
    forward: Forward,
) {
    let tuned = Tuned::new(whole, &[outline], tuning, 4.0, &[]).unwrap();
    let build = |g: &mut Graph| {
        let moved = tuned.moved.weights(g).unwrap();
        let all = tuned.weights(g, &moved, "").unwrap();
        (moved.flat, forward(g, &all).unwrap())
    };
    let flat = |p: &Parameters, seed: u64| noise(&[p.elements as usize], seed);
    let mut given = inputs.clone();
    // Large enough that no part of the encoder is close to linear.
    let scaled = |mut x: HostTensor| {
        x.x_mut().iter_mut().for_each(|x| *x *= 0.5);
        x
    };
    given.insert("params".into(), scaled(flat(&tuned.moved, 1)));
    given.insert("still".into(), scaled(flat(&tuned.still, 2)));
    let mut forward_only = Graph::new();
    let (_, outs) = build(&mut forward_only);
    let mut g = Graph::new();
    let (params, same) = build(&mut g);
    assert_eq!(outs, same);
    let mut seeds = vec![];
    for (i, out) in outs.iter().enumerate() {
        let name = format!("seed{i}");
        let seed = g.input(&name, g.meta(*out));
        given.insert(name, noise(&g.meta(*out).sizes(&counts), 10 + i as u64));
        seeds.push((*out, seed));
    }
    let mut again = g.clone();
    let back = backprop(&mut g, &seeds, &[params]).unwrap()[0].unwrap();
    let rule = evaluate(&g, &given, &counts)[&back].clone();
    let back = backprop_again(&mut again, &seeds, &[params]).unwrap()[0].unwrap();
    assert_eq!(evaluate(&again, &given, &counts)[&back].x(), rule.x(), "{what}: computed again");
    let loss = |given: &HashMap<String, HostTensor>| -> f64 {
        let values = evaluate(&forward_only, given, &counts);
        let dot =
            |i: usize, out: &Value| values[out].x().iter().zip(given[&format!("seed{i}")].x()).map(|(a, b)| a * b);
        outs.iter().enumerate().flat_map(|(i, out)| dot(i, out)).sum()
    };
    written_as_computed(what, whole, &tuned, (&given, counts), (&forward_only, &outs), forward);
    for p in &tuned.moved.list {
        let own = &rule.x()[p.offset as usize..][..p.elements()];
        let largest = own.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        // The largest, which is never one that nothing reads, and two others.
        let top = (0..own.len()).max_by(|a, b| own[*a].abs().total_cmp(&own[*b].abs())).unwrap();
        // A bias of keys changes nothing: attention does not see what all its logits have in common.
        let silent = p.name.contains("k_proj.bias") || p.name.contains("key.bias");
        assert!(silent || own[top].abs() > 1e-6, "{what}: nothing comes back to {}", p.name);
        for e in [top, own.len() / 2, own.len() - 1] {
            let mut moved = given.clone();
            let at = p.offset as usize + e;
            moved.get_mut("params").unwrap().x_mut()[at] += 1e-5;
            let up = loss(&moved);
            moved.get_mut("params").unwrap().x_mut()[at] -= 2e-5;
            let slope = (up - loss(&moved)) / 2e-5;
            let error = (slope - own[e]).abs() / largest;
            assert!(error < 1e-5, "{what}: {} element {e}: {} by rule, {slope} by steps", p.name, own[e]);
        }
    }
}

/// An encoder with what a checkpoint has to change makes what the one in training makes.
fn written_as_computed(
    what: &str,
    whole: &Parameters,
    tuned: &Tuned,
    (given, counts): (&HashMap<String, HostTensor>, Counts),
    (graph, outs): (&Graph, &[Value]),
    forward: Forward,
) {
    let f32s = |name: &str| given[name].x().iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let changed = tuned.changed(&f32s("params"), &f32s("still"));
    let mut flat = HostTensor::zeros(&[whole.elements as usize]);
    for p in &whole.list {
        let still = tuned.still.find(&p.name).map(|q| &given["still"].x()[q.offset as usize..][..q.elements()]);
        let values = changed.get(&p.name).map(|v| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let values = values.unwrap_or_else(|| still.unwrap().to_vec());
        flat.x_mut()[p.offset as usize..][..p.elements()].copy_from_slice(&values);
    }
    let mut plain = Graph::new();
    let weights = whole.weights(&mut plain).unwrap();
    let written = forward(&mut plain, &weights).unwrap();
    let mut whole_given = given.clone();
    whole_given.insert("params".into(), flat);
    let (is, was) = (evaluate(&plain, &whole_given, &counts), evaluate(graph, given, &counts));
    for (a, b) in written.iter().zip(outs) {
        let apart = is[a].x().iter().zip(was[b].x()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-4, "{what}: {apart:e}");
    }
}

/// Two texts, of 4 and 3 pieces.
fn two_texts(place: impl Fn(usize) -> u32) -> (HashMap<String, HostTensor>, Counts) {
    let u32s = |shape: &[usize], data: &[u32]| HostTensor::u32(shape, data.to_vec());
    let places: Vec<u32> = (0..4).chain(0..3).map(place).collect();
    let inputs = [
        ("ids", u32s(&[7], &[8, 1, 2, 9, 8, 3, 9])),
        ("piece_places", u32s(&[7], &places)),
        ("piece_segments", u32s(&[2, 2], &[0, 4, 4, 7])),
        ("pooled", u32s(&[2], &[3, 6])),
    ];
    let inputs = inputs.map(|(name, tensor)| (name.to_string(), tensor)).into();
    (inputs, Counts::default().with(PIECES, 7).with(TEXTS, 2))
}

fn text_gradients(what: &str, tower: &dyn TextArchitecture, tuning: Tuning) {
    let (inputs, counts) = two_texts(|at| tower.place(at));
    let forward = |g: &mut Graph, w: &Weights| {
        let inputs = TextInputs::declare(g, 2, 7)?;
        tower.forward(g, w, &inputs).map(|(tokens, sentence)| vec![tokens, sentence])
    };
    gradients_agree(what, (tower.parameters(), tower.outline()), tuning, (&inputs, counts), &forward);
}

#[test]
fn gradients_of_text_towers_agree_with_finite_differences() {
    let bert = described(json!({
        "model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "hidden_act": "gelu", "max_position_embeddings": 4, "type_vocab_size": 2,
        "layer_norm_eps": 1e-5,
    }));
    let clip = described(json!({
        "model_type": "clip_text_model", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 4, "projection_dim": 6,
        "eos_token_id": 9,
    }));
    let (bert, clip) = (Bert::new(&bert).unwrap(), ClipText::new(&clip).unwrap());
    for tuning in [Tuning::All, Tuning::Lora(2), Tuning::Last(1)] {
        text_gradients(&format!("bert, {tuning}"), &bert, tuning);
        text_gradients(&format!("clip, {tuning}"), &clip, tuning);
    }
}

#[test]
fn gradients_of_the_image_tower_agree_with_finite_differences() {
    let tower = ClipImage::new(&described(json!({
        "model_type": "clip_vision_model", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "image_size": 4, "patch_size": 2, "projection_dim": 6,
    })))
    .unwrap();
    let u32s = |shape: &[usize], data: &[u32]| HostTensor::u32(shape, data.to_vec());
    let mut patches = noise(&[10, 12], 5);
    patches.x_mut()[..12].fill(0.0);
    patches.x_mut()[60..72].fill(0.0);
    let inputs = [
        ("patches", patches),
        ("places", u32s(&[10], &[0, 1, 2, 3, 4, 0, 1, 2, 3, 4])),
        ("is_patch", u32s(&[10], &[0, 1, 1, 1, 1, 0, 1, 1, 1, 1])),
        ("segments", u32s(&[2, 2], &[0, 5, 5, 10])),
        ("first", u32s(&[2], &[0, 5])),
    ];
    let inputs = inputs.map(|(name, tensor)| (name.to_string(), tensor)).into();
    let counts = Counts::default().with(PATCHES, 10).with(IMAGES, 2);
    let forward = |g: &mut Graph, w: &Weights| {
        let inputs = tower.inputs(g, 2)?;
        Ok(vec![tower.forward(g, w, &inputs)?])
    };
    for tuning in [Tuning::All, Tuning::Lora(2), Tuning::Last(1)] {
        let what = format!("image, {tuning}");
        gradients_agree(&what, (tower.parameters(), tower.outline()), tuning, (&inputs, counts), &forward);
    }
}

/// A training step of CLIP ViT-B/32 as it is planned.
fn real_step(tuning: Tuning, recompute: bool) -> (Plan, Tuned) {
    let dual = Dual::new(&described(json!({ "model_type": "clip" }))).unwrap();
    let tuned = Tuned::new(dual.parameters(), &dual.outlines(), tuning, 16.0, &[SCALE]).unwrap();
    let capacity = Capacity { pairs: 64, pieces: 64 * 77, frames: 128 };
    let graph = fuse(&step(&dual, &tuned, capacity, recompute, Optimiser::default()).unwrap());
    let states = StateLayout::of([&graph]).unwrap();
    (plan("step", &graph, &states, &cpu().ctx()).unwrap(), tuned)
}

fn launches(plan: &Plan, kernel: &str) -> usize {
    let of = |c: &&Command| matches!(c, Command::Launch(l) if l.kernel.name == kernel);
    plan.commands.iter().filter(of).count()
}

#[test]
fn layers_that_are_computed_again_take_a_fraction_of_the_memory() {
    let ((kept, _), (again, _)) = (real_step(Tuning::All, false), real_step(Tuning::All, true));
    let (memory, work) =
        (again.bytes.arena as f64 / kept.bytes.arena as f64, again.cost().flops as f64 / kept.cost().flops as f64);
    println!("arena {} of {} bytes: {memory:.3}; FLOPs {work:.3}", again.bytes.arena, kept.bytes.arena);
    assert!(memory < 0.35, "{memory}");
    assert!(work > 1.0 && work < 4.0 / 3.0, "{work}");
    assert_eq!(launches(&again, "attention"), 2 * launches(&kept, "attention"));
}

#[test]
fn nothing_goes_back_beyond_what_moves() {
    let backward = |tuning| {
        let (plan, tuned) = real_step(tuning, false);
        println!("{tuning}: {} parameters move, arena {} bytes", tuned.moved.count(), plan.bytes.arena);
        (launches(&plan, "attention_grad"), launches(&plan, "scatter_add"), plan.states.clone(), tuned)
    };
    let (layers, _, _, tuned) = backward(Tuning::Last(2));
    // Two layers a tower; what is pooled is scattered back into rows, and nothing into tables of words and places.
    assert_eq!(layers, 4);
    let names: Vec<&str> = tuned.moved.list.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names.len(), 2 * (2 * 16 + 2 + 1) + 1, "{names:?}");
    assert!(names.contains(&"text_projection.weight") && names.contains(&SCALE));
    let (all, scattered, states, _) = backward(Tuning::All);
    assert_eq!(all, 24);
    assert!(!states.iter().any(|s| s.name == "still"));
    let (adapted, pooled, states, tuned) = backward(Tuning::Lora(8));
    assert_eq!(
        (adapted, scattered - pooled),
        (24, 4),
        "two tables of each tower, and a class token in the place of words"
    );
    let moments = states.iter().find(|s| s.name == "adam_m").unwrap().meta.elements();
    assert_eq!((moments, tuned.moved.list.len()), (tuned.moved.elements, 2 * 12 * 4 + 1));
    assert!(moments < 1_000_000, "{moments}");
}

/// Eight kinds of pictures.
const KINDS: [&str; 8] = [
    "a red square",
    "a green square",
    "a blue square",
    "A white square!",
    "a red cross",
    "a green cross",
    "a blue cross",
    "A white cross!",
];

/// A kind's picture in another place, size and light for each seed, under noise.
fn picture(kind: usize, seed: u64) -> Picture {
    let random = moviola::random::Random::new(seed, kind as u64);
    let colour = [[200, 40, 40], [40, 200, 40], [40, 40, 200], [210, 210, 210]][kind % 4];
    let (x, y) = (6 + random.below(0, 5) as i32, 6 + random.below(1, 5) as i32);
    let half = 4 + random.below(2, 2) as i32;
    let mut rgb = vec![];
    for i in 0..16 * 16 {
        let (dx, dy) = ((i % 16 - x).abs(), (i / 16 - y).abs());
        let inside = dx <= half && dy <= half && (kind < 4 || dx <= 1 || dy <= 1);
        for (c, of) in colour.iter().enumerate() {
            let base = if inside { *of } else { 30 };
            let noise = 25.0 * random.normal(10 + (3 * i as u64) + c as u64);
            rgb.push((base as f32 + noise).clamp(0.0, 255.0) as u8);
        }
    }
    Picture::new(16, 16, rgb).unwrap()
}

/// Videos of one to three frames.
struct Drawn {
    videos: usize,
    seed: u64,
}

impl Pairs for Drawn {
    fn len(&self) -> usize {
        self.videos
    }
    fn caption(&self, pair: usize) -> &str {
        KINDS[pair % 8]
    }
    fn video(&self, pair: usize) -> u32 {
        pair as u32
    }
    fn frames(&self, pair: usize) -> usize {
        1 + pair / 8 % 3
    }
    fn squares(&self, pair: usize, frames: &[usize], _: &Preprocess) -> Result<Vec<Vec<u8>>> {
        Ok(frames.iter().map(|f| picture(pair % 8, self.seed + (3 * pair + f) as u64).rgb).collect())
    }
}

fn small() -> Sizes {
    let tower = Tower { dim: 32, layers: 2, heads: 2, hidden: 64 };
    Sizes { projection: 32, text: tower, longest: 8, words: 100, image: tower, side: 16, patch: 4 }
}

fn fresh_one(dir: &Path, seed: u64) {
    fresh::write(dir, &small(), KINDS.into_iter(), seed).unwrap();
}

fn options(epochs: usize) -> TrainOptions {
    TrainOptions { epochs, batch: 32, learning_rate: 3e-3, ..TrainOptions::default() }
}

fn tuning(tune: Tuning) -> EncoderOptions {
    EncoderOptions { tune, frames: 2, ..EncoderOptions::default() }
}

/// Trains until the end, or until step `stop_at` was reported.
fn train(encoder: &Path, out: &Path, epochs: usize, tuning: &EncoderOptions, resume: bool, stop_at: usize) -> Summary {
    let (options, pairs, stop) = (options(epochs), Drawn { videos: 96, seed: 1000 }, AtomicBool::new(false));
    let run = EncoderRun { encoder, out, options: &options, tuning, pairs: &pairs, resume };
    let mut trainer = EncoderTrainer::new(&run, cpu()).unwrap();
    let observe = |event: Event| {
        if let Event::Line(Line::Step { step, .. }) = event
            && *step >= stop_at
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    trainer.run(&stop, observe).unwrap()
}

fn losses(out: &Path) -> Vec<f32> {
    let lines = Log::read(&out.join("log.jsonl")).unwrap();
    lines.iter().filter_map(|l| if let Line::Step { loss, .. } = l { Some(*loss) } else { None }).collect()
}

/// Share of pictures that nobody has seen whose nearest caption is their own.
fn recall(dir: &Path) -> f64 {
    let unit = |v: &[f32]| {
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter().map(|x| x / norm).collect::<Vec<f32>>()
    };
    let (mut texts, mut right, go) = (vec![], 0, AtomicBool::new(false));
    let each = |_, e: moviola::encoders::text::Encoded| {
        texts.push(unit(&e.sentence));
        Ok(())
    };
    TextEncoder::open(dir, cpu()).unwrap().encode(&KINDS, each, &go).unwrap();
    let pictures = (0..80).map(|i| Ok(picture(i % 8, 900_000 + i as u64)));
    let each = |i: usize, v: &[f32]| {
        let v = unit(v);
        let score = |t: &Vec<f32>| t.iter().zip(&v).map(|(a, b)| a * b).sum::<f32>();
        let best = (0..8).max_by(|a, b| score(&texts[*a]).total_cmp(&score(&texts[*b]))).unwrap();
        right += usize::from(best == i % 8);
        Ok(())
    };
    ImageEncoder::open(dir, cpu()).unwrap().encode(pictures, each, &go).unwrap();
    right as f64 / 80.0
}

#[test]
fn a_fresh_clip_learns_to_match_pictures_and_captions() {
    let dir = tempfile::tempdir().unwrap();
    let (encoder, out) = (dir.path().join("fresh"), dir.path().join("out"));
    fresh_one(&encoder, 7);
    let before = recall(&encoder);
    let summary = train(&encoder, &out, 20, &tuning(Tuning::All), false, usize::MAX);
    assert_eq!((summary.steps, summary.stopped_early), (60, false));
    let (losses, after) = (losses(&out), recall(&out));
    println!("R@1 {before:.3} → {after:.3}, losses {losses:?}");
    // Chance: a pair among the 28 or so of other kinds.
    assert!(losses[0] > 2.5, "{losses:?}");
    assert!(losses[55..].iter().all(|l| *l < 0.5), "{losses:?}");
    assert!(before < 0.5 && after > 0.9, "{before}, {after}");
}

#[test]
fn same_seed_same_bits_and_words_that_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fresh_one(&at("one"), 3);
    fresh_one(&at("two"), 3);
    fresh_one(&at("three"), 4);
    let file = |name: &str, file: &str| std::fs::read(at(name).join(file)).unwrap();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        assert!(file("one", name) == file("two", name), "{name}");
    }
    assert!(file("one", "model.safetensors") != file("three", "model.safetensors"));
    assert!(fresh::write(&at("one"), &small(), KINDS.into_iter(), 3).unwrap_err().to_string().contains("not empty"));
    assert!(fresh::write(&at("four"), &small(), [" "].into_iter(), 3).unwrap_err().to_string().contains("words"));
    assert!(!at("four").exists());
    let mut encoder = TextEncoder::open(&at("one"), cpu()).unwrap();
    let pieces = encoder.tokenizer().pieces("A Red ZEPPELIN!").unwrap();
    let names = ["<|startoftext|>", "a", "red", "<|unknown|>", "!", "<|endoftext|>"];
    assert_eq!(pieces.names, names);
    assert_eq!(pieces.special, [true, false, false, false, false, true]);
    // Sentences are read at their end, not at the first word that is not known.
    let mut sentences = vec![];
    let texts = ["zeppelin red", "zeppelin blue", "a b c d e f g h i j k"];
    let each = |_, e: moviola::encoders::text::Encoded| {
        sentences.push((e.sentence, e.cut));
        Ok(())
    };
    encoder.encode(&texts, each, &AtomicBool::new(false)).unwrap();
    assert_ne!(sentences[0].0, sentences[1].0);
    assert!(!sentences[1].1 && sentences[2].1);
}

#[test]
fn weights_have_the_deviations_of_the_authors() {
    let dir = tempfile::tempdir().unwrap();
    fresh_one(&dir.path().join("x"), 5);
    let tensors = tensors(&dir.path().join("x/model.safetensors"));
    let deviation = |name: &str| {
        let values = &tensors[name];
        (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt()
    };
    for (name, expected) in [
        ("text_model.embeddings.token_embedding.weight", 0.02),
        ("text_model.encoder.layers.1.self_attn.q_proj.weight", 0.1768),
        ("vision_model.encoder.layers.0.self_attn.out_proj.weight", 0.0884),
        ("vision_model.encoder.layers.1.mlp.fc1.weight", 0.125),
        ("text_model.encoder.layers.0.mlp.fc2.weight", 0.0884),
        ("visual_projection.weight", 0.1768),
    ] {
        let is = deviation(name);
        assert!((is / expected - 1.0).abs() < 0.15, "{name}: {is} and not {expected}");
    }
    assert_eq!(tensors[SCALE], [(1.0f32 / 0.07).ln()]);
}

fn weights(dir: &Path) -> BTreeMap<String, Vec<f32>> {
    tensors(&dir.join("model.safetensors"))
}

fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = std::fs::read(file).unwrap();
    let values = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    tensors.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

/// The gradient of a step is what the optimiser's first moment is made of. Activations that are fused into products
/// where nobody else reads them are rounded in another way, so the bits may differ.
#[test]
fn layers_that_are_computed_again_have_the_same_gradients() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = dir.path().join("fresh");
    fresh_one(&encoder, 1);
    let (options, pairs) = (options(1), Drawn { videos: 32, seed: 5 });
    for tune in [Tuning::All, Tuning::Lora(2), Tuning::Last(1)] {
        let of = |recompute: bool| {
            let out = dir.path().join(format!("{tune}-{recompute}").replace(':', "-"));
            let tuning = EncoderOptions { recompute, ..tuning(tune) };
            let run = EncoderRun {
                encoder: &encoder,
                out: &out,
                options: &options,
                tuning: &tuning,
                pairs: &pairs,
                resume: false,
            };
            EncoderTrainer::new(&run, cpu()).unwrap().run(&AtomicBool::new(false), |_| ()).unwrap();
            tensors(&out.join("checkpoints/step-0000000001.safetensors"))
        };
        let (kept, again) = (of(false), of(true));
        let moments = kept.iter().filter(|(name, _)| name.starts_with("m."));
        let largest = moments.clone().flat_map(|(_, m)| m).fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 1e-5, "{largest:e}");
        for (name, moment) in moments {
            let apart = moment.iter().zip(&again[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart <= 1e-5 * largest, "{tune}: {name} differs by {apart:e} of {largest:e}");
        }
    }
}

#[test]
fn what_does_not_move_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = dir.path().join("fresh");
    fresh_one(&encoder, 1);
    let before = weights(&encoder);
    for tune in [Tuning::Lora(2), Tuning::Last(1)] {
        let out = dir.path().join(tune.to_string().replace(':', "-"));
        train(&encoder, &out, 4, &tuning(tune), false, usize::MAX);
        let (after, losses) = (weights(&out), losses(&out));
        assert!(losses[9..].iter().sum::<f32>() < losses[..3].iter().sum::<f32>(), "{tune}: {losses:?}");
        assert!(before.keys().eq(after.keys()), "{tune}");
        for (name, values) in &before {
            let moves = match tune {
                Tuning::Lora(_) => name.ends_with("q_proj.weight") || name.ends_with("v_proj.weight"),
                _ => ["layers.1.", "final_layer_norm", "post_layernorm", "projection"].iter().any(|x| name.contains(x)),
            };
            assert_eq!(moves || name == SCALE, *values != after[name], "{tune}: {name}");
        }
        assert!(recall(&out) > recall(&encoder), "{tune}");
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (encoder, whole, broken) = (dir.path().join("fresh"), dir.path().join("whole"), dir.path().join("broken"));
    fresh_one(&encoder, 2);
    let tuning = tuning(Tuning::Lora(4));
    assert!(!train(&encoder, &whole, 3, &tuning, false, usize::MAX).stopped_early);
    let first = train(&encoder, &broken, 3, &tuning, false, 2);
    assert!(first.stopped_early && first.steps < 9);
    // What was finished is an encoder.
    TextEncoder::open(&broken, cpu()).unwrap();
    let (options, pairs) = (options(3), Drawn { videos: 96, seed: 1000 });
    let run =
        EncoderRun { encoder: &encoder, out: &broken, options: &options, tuning: &tuning, pairs: &pairs, resume: true };
    let refused = |run: EncoderRun| EncoderTrainer::new(&run, cpu()).err().expect("is refused").to_string();
    assert!(refused(EncoderRun { resume: false, ..run }).contains("--resume"));
    let other = TrainOptions { seed: 9, ..options.clone() };
    assert!(refused(EncoderRun { options: &other, ..run }).contains("train.seed"));
    let fewer = Drawn { videos: 88, seed: 1000 };
    assert!(refused(EncoderRun { pairs: &fewer, ..run }).contains("pairs"));
    assert!(!train(&encoder, &broken, 3, &tuning, true, usize::MAX).stopped_early);
    assert!(weights(&whole) == weights(&broken));
    assert_eq!(losses(&whole), losses(&broken));
}

#[test]
fn a_stretched_encoder_is_written_with_all_its_positions() {
    let dir = tempfile::tempdir().unwrap();
    let (at, encoder) = (|name: &str| dir.path().join(name), dir.path().join("fresh"));
    fresh::write(&encoder, &Sizes { longest: 24, ..small() }, KINDS.into_iter(), 1).unwrap();
    std::fs::write(encoder.join("tokenizer_config.json"), r#"{"model_max_length": 24, "do_lower_case": true}"#)
        .unwrap();
    // Older checkpoints number their positions in a tensor.
    let file = std::fs::read(encoder.join("model.safetensors")).unwrap();
    let (tensors, numbers) = (SafeTensors::deserialize(&file).unwrap(), [0u8; 8 * 24]);
    let mut views = tensors.tensors();
    let ids = TensorView::new(Dtype::I64, vec![1, 24], &numbers).unwrap();
    views.push(("text_model.embeddings.position_ids".into(), ids));
    std::fs::write(encoder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = || Checkpoint::open(&encoder).unwrap().stretched(Some(48)).unwrap();
    let dual = Dual::new(&checkpoint()).unwrap();
    let (all, place) = (checkpoint().read(dual.parameters(), &[""]).unwrap(), dual.parameters().find(TABLE).unwrap());
    let table = &all[place.offset as usize..][..place.elements()];
    assert_eq!(place.shape, [48, 32]);
    let stretched = |tune: Tuning| EncoderOptions { positions: 48, ..tuning(tune) };
    let written = |out: &Path| {
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap()
        };
        assert_eq!(read("config.json")["text_config"]["max_position_embeddings"], 48);
        assert_eq!(read("tokenizer_config.json"), json!({"model_max_length": 48, "do_lower_case": true}));
        let weights = weights(out);
        assert_eq!(weights[TABLE].len(), 48 * 32);
        assert!(!weights.keys().any(|name| name.ends_with("position_ids")));
        // It is a checkpoint like any other.
        let mut plain = TextEncoder::open(out, cpu()).unwrap();
        assert!(!plain.identity().contains("positions"));
        assert!(!plain.encode_one(&"red cross ".repeat(23)).unwrap().cut);
        assert!(plain.encode_one(&"red cross ".repeat(24)).unwrap().cut);
        weights[TABLE].clone()
    };
    train(&encoder, &at("lora"), 1, &stretched(Tuning::Lora(2)), false, usize::MAX);
    assert_eq!(written(&at("lora")), table);
    train(&encoder, &at("all"), 1, &stretched(Tuning::All), false, usize::MAX);
    assert_ne!(written(&at("all")), table);
    let (options, pairs, other) = (options(1), Drawn { videos: 96, seed: 1000 }, tuning(Tuning::All));
    let (out, options, pairs, tuning) = (&at("all"), &options, &pairs, &other);
    let run = EncoderRun { encoder: &encoder, out, options, tuning, pairs, resume: true };
    let refused = EncoderTrainer::new(&run, cpu()).err().expect("is refused").to_string();
    assert!(refused.contains(", 48 positions"), "{refused}");
    // In front of a model.
    let encoding = Encoding::of(checkpoint(), Tuning::None, 16.0).unwrap();
    assert!(encoding.identity().contains(", 48 positions, none"), "{}", encoding.identity());
    encoding.save(&at("joint"), &Parameters::default(), &[]).unwrap();
    assert_eq!(written(&at("joint")), table);
}

/// A run of a model with a text encoder in front of it.
fn joint(
    dir: &Path,
    world: &Path,
    encoder: &Path,
    tune: Tuning,
    model: &str,
    (chunk, recompute): (usize, bool),
) -> Vec<f32> {
    let open = |split| Dataset::open_captions(world, None, split).unwrap();
    let (train, val) = (open(Split::Train), open(Split::Val));
    let encoding = Arc::new(Encoding::open(encoder, tune, 16.0).unwrap().recomputing(recompute));
    let (text_dim, video_dim) = (encoding.dim(), train.videos.dim());
    let config = Config { model: model.into(), text_dim, video_dim, dim: 32, ..Config::default() };
    let options = TrainOptions { epochs: 4, batch: 16, chunk, learning_rate: 5e-3, ..TrainOptions::default() };
    let (train, val) = (&train, Some(&val));
    let run = Run { out: dir, config: &config, options: &options, train, val, resume: false, foreground: None };
    let mut trainer = Trainer::with_encoder(&run, Some(encoding), cpu(), |_| ()).unwrap();
    assert!(!trainer.run(&AtomicBool::new(false), |_| ()).unwrap().stopped_early);
    losses(dir)
}

#[test]
fn a_text_encoder_is_trained_along_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (at, world) = (|name: &str| dir.path().join(name), dir.path().join("world"));
    SimpleWorld { seed: 11, train: 60, val: 12, test: 4, dim: 32, ..SimpleWorld::default() }.write(&world).unwrap();
    std::fs::remove_dir_all(world.join("texts")).unwrap();
    let captions: Vec<String> = Dataset::captions_of(&world, None).unwrap().into_iter().map(|(_, text)| text).collect();
    let encoder = at("fresh");
    fresh::write(&encoder, &small(), captions.iter().map(String::as_str), 1).unwrap();
    let before = weights(&encoder);
    let mut last = vec![];
    for (tune, model) in [
        (Tuning::None, "token-interaction"),
        (Tuning::All, "token-interaction"),
        (Tuning::Lora(2), "cba"),
        (Tuning::Last(1), "mean-pool"),
    ] {
        let out = at(&format!("{tune}-{model}").replace(':', "-"));
        let losses = joint(&out, &world, &encoder, tune, model, (0, false));
        let ends = [&losses[..4], &losses[losses.len() - 4..]].map(|l| l.iter().sum::<f32>());
        assert!(ends[1] < ends[0], "{tune}, {model}: {losses:?}");
        last.push(ends[1]);
        let after = weights(&out.join("encoder"));
        let changed = before.iter().filter(|(name, values)| after[*name] != **values).count();
        // Of a text tower of two layers; pictures' stays as it was.
        let expected = match tune {
            Tuning::None => 0,
            Tuning::All => before.keys().filter(|name| name.starts_with("text_")).count(),
            Tuning::Lora(_) => 4,
            Tuning::Last(_) => 16 + 3,
        };
        // A bias of keys changes nothing, so rounding alone moves it.
        assert!(changed <= expected && changed + 2 >= expected, "{tune}, {model}: {changed} of {expected}");
        let (model, params) = folder::load(&out).unwrap();
        assert_eq!(params.len() as u64, model.parameters().elements);
    }
    println!("sums of the last losses: {last:?}");
    assert!(last[1] < last[0], "an encoder that learns helps: {last:?}");
}

#[test]
fn a_batch_with_an_encoder_may_be_cut_into_chunks_and_its_layers_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().join("world");
    SimpleWorld { seed: 12, train: 40, val: 6, test: 4, dim: 32, ..SimpleWorld::default() }.write(&world).unwrap();
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders/roberta");
    let of = |chunk: usize, recompute: bool| {
        let out = dir.path().join(format!("{chunk}-{recompute}"));
        joint(&out, &world, &encoder, Tuning::All, "token-interaction", (chunk, recompute))
    };
    let whole = of(0, false);
    for other in [of(5, false), of(0, true), of(5, true)] {
        for (a, b) in whole.iter().zip(&other).take(4) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{whole:?} {other:?}");
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
/// Losses of two steps, with layers that are computed again.
fn on(backend: Box<dyn Backend>) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let (encoder, out) = (dir.path().join("fresh"), dir.path().join("out"));
    fresh_one(&encoder, 1);
    let (pairs, tuning) =
        (Drawn { videos: 12, seed: 3 }, EncoderOptions { recompute: true, ..tuning(Tuning::Lora(2)) });
    let options = TrainOptions { batch: 6, ..options(1) };
    let run =
        EncoderRun { encoder: &encoder, out: &out, options: &options, tuning: &tuning, pairs: &pairs, resume: false };
    EncoderTrainer::new(&run, backend).unwrap().run(&AtomicBool::new(false), |_| ()).unwrap();
    losses(&out)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn like_the_cpu(found: &[f32]) {
    let expected = on(cpu());
    assert_eq!((expected.len(), found.len()), (2, 2));
    for (a, b) in expected.iter().zip(found) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{expected:?} {found:?}");
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn steps_are_the_same_by_wgsl() {
    like_the_cpu(&on(Box::new(moviola::engine::backend::wgpu::Gpu::open(0).unwrap())));
}

#[cfg(feature = "cuda")]
#[test]
fn steps_are_the_same_by_ptx() {
    emulation::in_emulation("steps_are_the_same_by_ptx", || {
        let f32s = moviola::engine::op::Precision::F32;
        like_the_cpu(&on(Box::new(moviola::engine::backend::cuda::Cuda::open(0, f32s).unwrap())));
    });
}

/// Pairs of which one has a frame of another size, or none.
struct Broken(usize);

impl Pairs for Broken {
    fn len(&self) -> usize {
        8
    }
    fn caption(&self, pair: usize) -> &str {
        KINDS[pair]
    }
    fn video(&self, pair: usize) -> u32 {
        pair as u32
    }
    fn frames(&self, pair: usize) -> usize {
        if pair == 5 { self.0 } else { 1 }
    }
    fn squares(&self, pair: usize, frames: &[usize], _: &Preprocess) -> Result<Vec<Vec<u8>>> {
        let bytes = if pair == 5 { 3 } else { 3 * 16 * 16 };
        Ok(vec![vec![0; bytes]; frames.len()])
    }
}

#[test]
fn frames_that_do_not_fit_the_tower_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = dir.path().join("fresh");
    fresh_one(&encoder, 2);
    for frames in [0, 1] {
        let (out, options, pairs) = (dir.path().join(frames.to_string()), options(1), Broken(frames));
        let tuning = tuning(Tuning::All);
        let run = EncoderRun {
            encoder: &encoder,
            out: &out,
            options: &options,
            tuning: &tuning,
            pairs: &pairs,
            resume: false,
        };
        let error = EncoderTrainer::new(&run, cpu()).unwrap().run(&AtomicBool::new(false), |_| ()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(KINDS[5]) && error.contains("768 bytes"), "{error}");
        assert!(!out.join("model.safetensors").exists());
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (encoder, out) = (dir.path().join("fresh"), dir.path().join("out"));
    fresh_one(&encoder, 2);
    let (plain, pairs) = (options(1), Drawn { videos: 96, seed: 1 });
    let tried = |options: &TrainOptions, tuning: &EncoderOptions, encoder: &Path| {
        let run = EncoderRun { encoder, out: &out, options, tuning, pairs: &pairs, resume: false };
        EncoderTrainer::new(&run, cpu()).err().expect("is refused").to_string()
    };
    assert!(tried(&plain, &tuning(Tuning::None), &encoder).contains("nothing to train"));
    assert!(tried(&plain, &tuning(Tuning::Lora(33)), &encoder).contains("at most 32"));
    assert!(tried(&TrainOptions { chunk: 8, ..plain.clone() }, &tuning(Tuning::All), &encoder).contains("train.chunk"));
    let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders/bert");
    assert!(tried(&plain, &tuning(Tuning::All), &bert).contains("CLIP"));
    assert!(tried(&plain, &tuning(Tuning::All), &out).contains("no config.json"));
    assert!(!out.exists());
}
