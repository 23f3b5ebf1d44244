//! Encoders beside transformers: small checkpoints with random weights (tools/encoder-goldens made them and what is
//! expected of them), on every back end; and folders that are not what they should be.

#[cfg(feature = "cuda")]
mod emulation;

use moviola::data::picture::Picture;
use moviola::encoders::checkpoint::Checkpoint;
use moviola::encoders::image::{ImageEncoder, Wanted};
use moviola::encoders::pixels::Preprocess;
use moviola::encoders::text::{Encoded, TextEncoder};
use moviola::engine::backend::{Backend, DeviceChoice, open};
use moviola::engine::op::Precision;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const FAMILIES: [&str; 5] = ["bert", "minilm", "roberta", "clip", "open-clip"];
/// Largest difference over the largest value.
const TOLERANCE: f32 = 1e-5;

fn goldens(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders").join(family)
}

fn cpu() -> Box<dyn Backend> {
    open(&DeviceChoice::Cpu, 0, Precision::F32).unwrap().0
}

#[derive(serde::Deserialize)]
struct Expected {
    /// What the text tower's are stretched to.
    positions: Option<usize>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

fn values(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let values = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

/// `NAME.json` and `NAME.safetensors`.
fn told(dir: &Path, name: &str) -> (Expected, BTreeMap<String, Vec<f32>>) {
    let told = serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap();
    (told, values(&dir.join(format!("{name}.safetensors"))))
}

fn expected(dir: &Path) -> (Expected, BTreeMap<String, Vec<f32>>) {
    told(dir, "expected")
}

fn encode(encoder: &mut TextEncoder, texts: &[String]) -> Vec<Encoded> {
    let mut all = vec![];
    let each = |i: usize, encoded: Encoded| {
        assert_eq!(i, all.len());
        all.push(encoded);
        Ok(())
    };
    encoder.encode(texts, each, &AtomicBool::new(false)).unwrap();
    all
}

/// Largest difference over the largest expected value; not a number where one is none.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, d| if d <= m { m } else { d }) / largest
}

fn texts_agree_with_transformers(dir: &Path, name: &str, backend: Box<dyn Backend>, tolerance: f32) {
    let family = dir.display();
    let (told, values) = told(dir, name);
    let checkpoint = Checkpoint::open(dir).unwrap().stretched(told.positions).unwrap();
    let mut encoder = TextEncoder::of(&checkpoint, backend).unwrap();
    let mut worst = 0.0f32;
    let encoded = encode(&mut encoder, &told.texts);
    assert_eq!(encoded.len(), told.texts.len());
    let dim = encoder.dim();
    for (i, (text, encoded)) in told.texts.iter().zip(&encoded).enumerate() {
        let pieces = encoder.tokenizer().pieces(text).unwrap();
        assert_eq!(pieces.ids, told.ids[i], "{family}: pieces of {text:?}");
        let rows = values[&format!("tokens.{i}")].chunks(dim).zip(&pieces.special);
        let words: Vec<f32> = rows.filter(|(_, special)| !**special).flat_map(|(row, _)| row.to_vec()).collect();
        let apart = difference(&encoded.words.data, &words);
        assert!(apart <= tolerance, "{family}: tokens of {text:?} differ by {apart:e}");
        worst = worst.max(apart);
        let apart = difference(&encoded.sentence, &values[&format!("sentence.{i}")]);
        assert!(apart <= tolerance, "{family}: the sentence vector of {text:?} differs by {apart:e}");
        worst = worst.max(apart);
        assert_eq!((encoded.pieces.len(), encoded.words.rows), (encoded.words.data.len() / dim, encoded.pieces.len()));
    }
    println!("{family}, {name}: {worst:e} at most");
}

fn patches_agree_with_transformers(dir: &Path, backend: impl Fn() -> Box<dyn Backend>, tolerance: f32) {
    let (family, values) = (dir.display(), values(&dir.join("patches.safetensors")));
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut shapes = vec![];
    for (wanted, name) in [(Wanted::Patches, "patches"), (Wanted::Hidden, "hidden")] {
        let mut encoder = ImageEncoder::of(&checkpoint, wanted, backend()).unwrap();
        let shape = (encoder.rows(), encoder.dim());
        let (mut seen, mut worst) = (0, 0.0f32);
        let pictures = (0..5).map(|i| Picture::open(&dir.join(format!("pictures/{i}.png"))));
        let each = |i: usize, rows: &[f32]| {
            assert_eq!((i, rows.len()), (seen, shape.0 * shape.1));
            seen += 1;
            let apart = difference(rows, &values[&format!("{name}.{i}")]);
            assert!(apart <= tolerance, "{family}: {name} of picture {i} differ by {apart:e}");
            worst = worst.max(apart);
            Ok(())
        };
        encoder.encode(pictures, each, &AtomicBool::new(false)).unwrap();
        println!("{family}, {name}: {worst:e} at most");
        assert_eq!(seen, 5);
        shapes.push(shape);
    }
    assert_eq!(shapes[0].0 + 1, shapes[1].0);
}

fn pictures_agree_with_transformers(dir: &Path, backend: Box<dyn Backend>, tolerance: f32) {
    let family = dir.display();
    let (_, values) = expected(dir);
    let number = values.keys().filter(|name| name.starts_with("image.")).count();
    let mut encoder = ImageEncoder::open(dir, backend).unwrap();
    let pictures = (0..number).map(|i| Picture::open(&dir.join(format!("pictures/{i}.png"))));
    let mut seen = 0;
    let each = |i: usize, vector: &[f32]| {
        assert_eq!(i, seen);
        seen += 1;
        let apart = difference(vector, &values[&format!("image.{i}")]);
        assert!(apart <= tolerance, "{family}: the vector of picture {i} differs by {apart:e}");
        Ok(())
    };
    encoder.encode(pictures, each, &AtomicBool::new(false)).unwrap();
    assert!(seen == number && seen >= 5, "{seen}");
}

/// All that is expected of the families in a folder, on a device.
fn everything_agrees(of: &Path, backend: impl Fn() -> Box<dyn Backend>, tolerance: f32) {
    for family in FAMILIES {
        let dir = of.join(family);
        texts_agree_with_transformers(&dir, "expected", backend(), tolerance);
        if dir.join("pictures").exists() {
            pictures_agree_with_transformers(&dir, backend(), tolerance);
        }
    }
}

/// Longer texts and patches of pictures, of the families in a folder, on a device.
fn more_agrees(of: &Path, backend: impl Fn() -> Box<dyn Backend>, tolerance: f32) {
    for family in ["clip", "open-clip", "long-clip"] {
        texts_agree_with_transformers(&of.join(family), "stretched", backend(), tolerance);
    }
    for family in ["clip", "open-clip"] {
        patches_agree_with_transformers(&of.join(family), &backend, tolerance);
    }
}

/// `tools/test --with-encoders DIR` names what `tools/encoder-goldens/make.py --full` and `more.py` wrote; without it there is nothing
/// to look at, and the test says so.
#[test]
fn architectures_of_real_size_agree_with_transformers() {
    let Some(of) = std::env::var_os("MOVIOLA_ENCODERS").map(PathBuf::from) else {
        return println!("MOVIOLA_ENCODERS is not set: run tools/test --with-encoders DIR");
    };
    everything_agrees(&of, cpu, 1e-4);
    if of.join("long-clip").exists() {
        more_agrees(&of, cpu, 1e-4);
    }
}

/// Weights that have learned something, which nobody may commit: without them there is nothing to look at, and the test
/// says so. Ten captions are printed with the captions nearest to them.
#[test]
fn real_weights_make_the_vectors_of_their_own_package() {
    let Some(of) = std::env::var_os("MOVIOLA_WEIGHTS").map(PathBuf::from) else {
        return println!("MOVIOLA_WEIGHTS is not set: run tools/test --with-weights DIR");
    };
    let dir = of.join("minilm");
    let (told, values) = expected(&dir);
    let mut encoder = TextEncoder::open(&dir, cpu()).unwrap();
    for (text, ids) in told.texts.iter().zip(&told.ids) {
        assert_eq!(encoder.tokenizer().pieces(text).unwrap().ids, *ids, "{text:?}");
    }
    let vectors: Vec<Vec<f32>> = encode(&mut encoder, &told.texts).into_iter().map(|e| e.sentence).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let least = vectors.iter().enumerate().map(|(i, v)| cosine(v, &values[&format!("sentence.{i}")]));
    let least = least.fold(f64::INFINITY, f64::min);
    println!("{} texts, smallest cosine {least:.7}", vectors.len());
    assert!(vectors.len() >= 1000 && least >= 0.9999, "{least} of {}", vectors.len());
    for i in (0..vectors.len()).step_by(vectors.len().div_ceil(10)) {
        let others = (0..vectors.len()).filter(|j| told.texts[*j] != told.texts[i]);
        let near = others.map(|j| (cosine(&vectors[i], &vectors[j]), j)).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("| {} | {} | {:.2} |", told.texts[i], told.texts[near.1], near.0);
    }
}

#[test]
fn what_is_too_long_is_cut_and_said() {
    for family in FAMILIES {
        let (told, _) = expected(&goldens(family));
        let mut encoder = TextEncoder::open(&goldens(family), cpu()).unwrap();
        let cut: Vec<bool> = encode(&mut encoder, &told.texts).into_iter().map(|e| e.cut).collect();
        assert!(!cut[0] && cut[8], "{family}: {cut:?}");
    }
}

#[test]
fn every_family_agrees_with_transformers_on_the_cpu() {
    everything_agrees(&goldens(""), cpu, TOLERANCE);
}

#[test]
fn longer_texts_and_patches_agree_with_transformers_on_the_cpu() {
    more_agrees(&goldens(""), cpu, TOLERANCE);
}

#[test]
fn stretching_changes_what_is_long_and_who_it_is_by() {
    let dir = goldens("long-clip");
    let (told, _) = told(&dir, "stretched");
    let of = |positions: Option<usize>| {
        let checkpoint = Checkpoint::open(&dir).unwrap().stretched(positions).unwrap();
        let mut encoder = TextEncoder::of(&checkpoint, cpu()).unwrap();
        (encoder.identity().to_string(), encode(&mut encoder, &told.texts))
    };
    let ((own, plain), (name, stretched)) = (of(None), of(told.positions));
    assert_eq!(name, format!("{own}, 248 positions"));
    // Of 11, 20, 200, 248 and more than 248 pieces.
    for i in 0..2 {
        assert!(difference(&stretched[i].sentence, &plain[i].sentence) < 1e-6, "{i}");
    }
    let cut = |of: &[Encoded]| of.iter().map(|e| e.cut).collect::<Vec<_>>();
    assert_eq!(cut(&plain), [false, false, true, true, true]);
    assert_eq!(cut(&stretched), [false, false, false, false, true]);
    // What 77 positions see of both is the same, and 248 see more.
    assert!(difference(&plain[3].sentence, &plain[2].sentence) < 1e-6);
    assert!(difference(&stretched[3].sentence, &stretched[2].sentence) > 1e-2);
    let other = of(Some(100)).0;
    assert_eq!(other, format!("{own}, 100 positions"));
    let refused = |family: &str, n: usize| {
        Checkpoint::open(&goldens(family)).unwrap().stretched(Some(n)).unwrap_err().to_string()
    };
    assert!(refused("long-clip", 77).contains("use 78 to 512"), "{}", refused("long-clip", 77));
    assert!(refused("roberta", 248).contains("only CLIP"), "{}", refused("roberta", 248));
}

#[test]
fn pixels_are_those_of_the_reference() {
    let dir = goldens("clip");
    let (_, values) = expected(&dir);
    let preprocess = Preprocess::of(&Checkpoint::open(&dir).unwrap(), 16).unwrap();
    for i in 0..5 {
        let picture = Picture::open(&dir.join(format!("pictures/{i}.png"))).unwrap();
        let square = preprocess.square(&picture).unwrap();
        // One patch as large as the square: channel by channel, as the reference has it.
        let mut pixels = vec![0.0; 3 * 16 * 16];
        preprocess.patches(&square, 16, &mut pixels);
        let apart = difference(&pixels, &values[&format!("pixels.{i}")]);
        assert!(apart < 1e-6, "picture {i}: {apart:e}");
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn every_family_agrees_with_transformers_by_wgsl() {
    let adapter = || -> Box<dyn Backend> { Box::new(moviola::engine::backend::wgpu::Gpu::open(0).unwrap()) };
    everything_agrees(&goldens(""), adapter, TOLERANCE);
}

#[cfg(feature = "wgpu")]
#[test]
fn longer_texts_and_patches_agree_with_transformers_by_wgsl() {
    let adapter = || -> Box<dyn Backend> { Box::new(moviola::engine::backend::wgpu::Gpu::open(0).unwrap()) };
    more_agrees(&goldens(""), adapter, TOLERANCE);
}

#[cfg(feature = "cuda")]
#[test]
fn longer_texts_and_patches_agree_with_transformers_by_ptx() {
    emulation::in_emulation("longer_texts_and_patches_agree_with_transformers_by_ptx", || {
        let emulated =
            || -> Box<dyn Backend> { Box::new(moviola::engine::backend::cuda::Cuda::open(0, Precision::F32).unwrap()) };
        more_agrees(&goldens(""), emulated, TOLERANCE);
    });
}

#[cfg(feature = "cuda")]
#[test]
fn every_family_agrees_with_transformers_by_ptx() {
    emulation::in_emulation("every_family_agrees_with_transformers_by_ptx", || {
        let emulated =
            || -> Box<dyn Backend> { Box::new(moviola::engine::backend::cuda::Cuda::open(0, Precision::F32).unwrap()) };
        everything_agrees(&goldens(""), emulated, TOLERANCE);
    });
}

/// A copy of a golden folder that may be broken.
fn copy(family: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(goldens(family).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn refused(dir: &Path, words: &[&str]) {
    let error = TextEncoder::open(dir, cpu()).err().expect("opens").to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{error} has not all of {words:?}");
}

/// Rewrites the weights tensor by tensor, with a type and values of one's own, into so many files.
fn rewrite(dir: &Path, files: usize, dtype: safetensors::Dtype, change: impl Fn(&str, f32) -> f32) {
    let path = dir.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&whole).unwrap().tensors();
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().as_chunks::<4>().0.iter().map(|b| change(&name, f32::from_le_bytes(*b)));
            let bytes = match dtype {
                safetensors::Dtype::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
                safetensors::Dtype::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
                _ => values.flat_map(f32::to_le_bytes).collect(),
            };
            (name, view.shape().to_vec(), bytes)
        })
        .collect();
    std::fs::remove_file(&path).unwrap();
    let file = |i: usize| format!("model-{i:05}.safetensors");
    let mut map = BTreeMap::new();
    for i in 0..files {
        let part = data.iter().enumerate().filter(|(n, _)| n % files == i).map(|(_, (name, shape, bytes))| {
            map.insert(name.clone(), file(i));
            (name.clone(), safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(part.collect::<Vec<_>>(), None).unwrap();
        std::fs::write(if files == 1 { path.clone() } else { dir.join(file(i)) }, bytes).unwrap();
    }
    if files > 1 {
        let index = serde_json::json!({ "weight_map": map });
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

fn sentences(dir: &Path) -> Vec<f32> {
    let texts = expected(&goldens("roberta")).0.texts;
    let mut encoder = TextEncoder::open(dir, cpu()).unwrap();
    encode(&mut encoder, &texts).into_iter().flat_map(|e| e.sentence).collect()
}

#[test]
fn shards_half_precision_and_caches_are_read() {
    let whole = copy("roberta");
    let wanted = sentences(whole.path());
    let shards = copy("roberta");
    rewrite(shards.path(), 3, safetensors::Dtype::F32, |_, x| x);
    assert_eq!(sentences(shards.path()), wanted);
    for (dtype, tolerance) in [(safetensors::Dtype::F16, 1e-2), (safetensors::Dtype::BF16, 1e-1)] {
        let dir = copy("roberta");
        rewrite(dir.path(), 1, dtype, |_, x| x);
        let apart = difference(&sentences(dir.path()), &wanted);
        assert!(apart > 0.0 && apart < tolerance, "{dtype:?}: {apart:e}");
    }
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--FacebookAI--roberta-tiny");
    let snapshot = model.join("snapshots/0123abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "0123abc\n").unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(whole.path().join(file), snapshot.join(file)).unwrap();
    }
    assert_eq!(sentences(&model), wanted);
    let identity = |dir: &Path| TextEncoder::open(dir, cpu()).unwrap().identity().to_string();
    assert!(identity(&model).starts_with("FacebookAI/roberta-tiny@"), "{}", identity(&model));
    let hash = |dir: &Path| identity(dir).rsplit('@').next().unwrap().to_string();
    assert_eq!(hash(&model), hash(whole.path()));
    assert_ne!(hash(shards.path()), hash(whole.path()));
    std::fs::write(model.join("refs/main"), "../../../elsewhere").unwrap();
    refused(&model, &["no config.json"]);
}

#[test]
fn broken_folders_are_refused_with_what_is_wrong() {
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["no config.json", "huggingface-cli"]);

    let dir = copy("bert");
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
    refused(dir.path(), &["pytorch_model.bin", "safetensors"]);

    let dir = copy("bert");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    refused(dir.path(), &["no tokenizer.json", "save_pretrained"]);
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    refused(dir.path(), &["is no tokenizer"]);

    let dir = copy("bert");
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), &bytes[..bytes.len() - 8]).unwrap();
    refused(dir.path(), &["damaged"]);

    let dir = copy("bert");
    rewrite(
        dir.path(),
        1,
        safetensors::Dtype::F32,
        |name, x| if name.contains("layer.1.output") { f32::NAN } else { x },
    );
    refused(dir.path(), &["layer.1.output", "no numbers"]);

    let dir = copy("bert");
    rewrite(dir.path(), 2, safetensors::Dtype::F32, |_, x| x);
    std::fs::remove_file(dir.path().join("model-00001.safetensors")).unwrap();
    refused(dir.path(), &["1 of 2 files", "model-00001"]);
    let index = r#"{"weight_map": {"x": "../../etc/passwd"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    refused(dir.path(), &["no file's name"]);

    // Sizes that config.json claims: never allocated, named.
    let dir = copy("bert");
    let path = dir.path().join("config.json");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value, words) in [
        ("hidden_size", serde_json::json!(1u64 << 40), &["hidden_size"][..]),
        ("vocab_size", serde_json::json!(4_000_000), &["word_embeddings", "should be"]),
        ("num_hidden_layers", serde_json::json!(3), &["encoder.layer.2"]),
        ("num_attention_heads", serde_json::json!(5), &["num_attention_heads"]),
        ("hidden_act", serde_json::json!("swish"), &["swish", "gelu"]),
        ("model_type", serde_json::json!("llama"), &["llama", "CLIP"]),
        ("max_position_embeddings", serde_json::json!(-1), &["config.json"]),
    ] {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        refused(dir.path(), words);
    }

    // A tokenizer with more pieces than the encoder has rows for.
    let dir = copy("bert");
    std::fs::copy(goldens("clip").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut encoder = TextEncoder::open(dir.path(), cpu()).unwrap();
    let error = encoder.encode(&["a guitar"], |_, _| Ok(()), &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("another checkpoint"), "{error}");
}

#[test]
fn more_texts_than_a_batch_holds_come_in_their_order() {
    let texts: Vec<String> =
        (0..700).map(|i| ["a guitar", "the dog runs", "🎸 emoji"][i % 3].repeat(1 + i % 7)).collect();
    let mut encoder = TextEncoder::open(&goldens("minilm"), cpu()).unwrap();
    let together = encode(&mut encoder, &texts);
    for i in [0, 1, 127, 128, 300, 699] {
        let alone = encode(&mut encoder, &texts[i..i + 1]).remove(0);
        assert_eq!((&alone.pieces, alone.words.rows), (&together[i].pieces, together[i].words.rows));
        assert!(difference(&alone.sentence, &together[i].sentence) < 1e-5);
    }
    let stopped = encoder.encode(&texts, |_, _| Ok(()), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(moviola::error::Error::Stopped)));
}
