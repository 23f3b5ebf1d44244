//! A small CLIP that has not learned anything yet, in Hugging Face layout: its vocabulary is that of given captions, its
//! weights are drawn as in the code of its authors (Radford et al. 2021, `initialize_parameters`). Same seed, same bits.

use super::architecture::TextArchitecture;
use super::checkpoint::Checkpoint;
use super::dual::Dual;
use super::layers::Outline;
use crate::data::files::{Beside, write_whole};
use crate::engine::parameters::{Init, Parameters};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::{Normalizer as _, PreTokenizer as _};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString};

const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// In the place of every word that is not in the vocabulary. CLIP has its end piece there, at which sentences are read.
const UNKNOWN: &str = "<|unknown|>";

/// Sizes of a tower.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Tower {
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width between the two matrices of a layer's second half.
    pub hidden: usize,
}

/// Sizes of a CLIP.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Width of the space in which texts and images meet.
    pub projection: usize,
    pub text: Tower,
    /// Most pieces of a text, its begin and its end included.
    pub longest: usize,
    /// Most words of the vocabulary; the most frequent ones are taken.
    pub words: usize,
    pub image: Tower,
    /// Pixels of a side of a picture, and of a patch.
    pub side: usize,
    pub patch: usize,
}

impl Default for Sizes {
    /// Learns simple pictures in seconds on a CPU.
    fn default() -> Sizes {
        let tower = Tower { dim: 64, layers: 2, heads: 4, hidden: 256 };
        Sizes { projection: 64, text: tower, longest: 32, words: 4096, image: tower, side: 32, patch: 8 }
    }
}

/// Writes the checkpoint as a new folder.
///
/// # Errors
/// When sizes do not go together, the captions have no words, or the folder exists and is not empty.
pub fn write<'a>(dir: &Path, sizes: &Sizes, captions: impl Iterator<Item = &'a str>, seed: u64) -> Result<()> {
    let bad = |e: tokenizers::Error| Error::format(dir, format!("captions have no vocabulary ({e})"), "report it");
    let words = vocabulary(captions, sizes.words).map_err(bad)?;
    if words.is_empty() {
        return Err(Error::format(dir, "is to get the words of captions that have none", "give captions with words"));
    }
    let config = config(sizes, words.len() + 3);
    let dual = Dual::new(&Checkpoint::described(dir, config.clone()))?;
    let mut parameters = dual.parameters().clone();
    let mut draw = |name: &str, deviation: f32| {
        parameters.list.iter_mut().filter(|p| p.name == name).for_each(|p| p.init = Init::Normal(deviation));
    };
    draw("text_model.embeddings.position_embedding.weight", 0.01);
    let narrow = (sizes.image.dim as f32).sqrt().recip();
    draw("vision_model.embeddings.class_embedding", narrow);
    draw("vision_model.embeddings.position_embedding.weight", narrow);
    // PyTorch's own for a convolution.
    draw("vision_model.embeddings.patch_embedding.weight", (3.0 * dual.image.patch_values() as f32).sqrt().recip());
    layers(&dual.text.outline(), sizes.text, &mut draw);
    layers(&dual.image.outline(), sizes.image, &mut draw);
    let beside = Beside::new(dir)?;
    let at = |name: &str| beside.partial().join(name);
    std::fs::create_dir_all(beside.partial()).map_err(Error::io("create", dir))?;
    for (name, content) in [
        ("config.json", config),
        ("preprocessor_config.json", preprocessor(sizes.side)),
        ("tokenizer.json", tokenizer(&words)),
    ] {
        write_whole(&at(name), format!("{content:#}\n").as_bytes())?;
    }
    write_whole(&at("model.safetensors"), &weights(dir, &parameters, seed)?)?;
    beside.keep()
}

/// Deviations of a tower's layers: what is added to the stream of rows is the smaller the more there is of it.
fn layers(outline: &Outline, tower: Tower, draw: &mut impl FnMut(&str, f32)) {
    let dim = tower.dim as f32;
    let (attention, added) = (dim.sqrt().recip(), (dim * 2.0 * tower.layers as f32).sqrt().recip());
    for n in &outline.layers {
        for (part, deviation) in [
            (&n.query, attention),
            (&n.key, attention),
            (&n.value, attention),
            (&n.out, added),
            (&n.up, (2.0 * dim).sqrt().recip()),
            (&n.down, added),
        ] {
            draw(&format!("{part}.weight"), deviation);
        }
    }
}

fn weights(dir: &Path, parameters: &Parameters, seed: u64) -> Result<Vec<u8>> {
    let bad = |e: safetensors::SafeTensorError| Error::format(dir, e.to_string(), "report it");
    let flat = parameters.initial(seed);
    let mut views = vec![];
    for p in &parameters.list {
        let values = &flat[p.offset as usize..][..p.elements()];
        let view = TensorView::new(Dtype::F32, p.shape.clone(), bytemuck::cast_slice(values)).map_err(bad)?;
        views.push((p.name.as_str(), view));
    }
    safetensors::serialize(views, None).map_err(bad)
}

/// The words of captions, the most frequent first and equally frequent ones by the alphabet.
fn vocabulary<'a>(captions: impl Iterator<Item = &'a str>, most: usize) -> tokenizers::Result<Vec<String>> {
    let inner = tokenizers::Tokenizer::from_bytes(tokenizer(&[]).to_string())?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for caption in captions {
        let mut text = tokenizers::NormalizedString::from(caption);
        if let Some(normalizer) = inner.get_normalizer() {
            normalizer.normalize(&mut text)?;
        }
        let mut words = PreTokenizedString::from(text);
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            *counts.entry(word.to_string()).or_default() += 1;
        }
    }
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
    words.truncate(most);
    Ok(words.into_iter().map(|(word, _)| word).collect())
}

/// tokenizer.json: lower-cased words and marks. As in CLIP's own the end has the largest number.
fn tokenizer(words: &[String]) -> Value {
    let unknown = words.len();
    let special = [(UNKNOWN, unknown), (BEGIN, unknown + 1), (END, unknown + 2)];
    let added: Vec<Value> = (special.iter())
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let all = words.iter().enumerate().map(|(id, word)| (word.clone(), id));
    let vocab: serde_json::Map<String, Value> =
        all.chain(special.iter().map(|(word, id)| (word.to_string(), *id))).map(|(w, id)| (w, json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "RobertaProcessing", "sep": [END, unknown + 2], "cls": [BEGIN, unknown + 1],
                           "trim_offsets": false, "add_prefix_space": false},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN},
    })
}

fn config(sizes: &Sizes, vocabulary: usize) -> Value {
    let tower = |t: &Tower, kind: &str| {
        json!({
            "model_type": kind,
            "hidden_size": t.dim,
            "num_hidden_layers": t.layers,
            "num_attention_heads": t.heads,
            "intermediate_size": t.hidden,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
            "projection_dim": sizes.projection,
        })
    };
    let with = |mut of: Value, keys: &[(&str, usize)]| {
        keys.iter().for_each(|(key, n)| of[*key] = json!(n));
        of
    };
    let text = [
        ("vocab_size", vocabulary),
        ("max_position_embeddings", sizes.longest),
        ("bos_token_id", vocabulary - 2),
        ("eos_token_id", vocabulary - 1),
        ("pad_token_id", vocabulary - 1),
    ];
    let image = [("image_size", sizes.side), ("patch_size", sizes.patch), ("num_channels", 3)];
    json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "logit_scale_init_value": 2.6592,
        "projection_dim": sizes.projection,
        "text_config": with(tower(&sizes.text, "clip_text_model"), &text),
        "vision_config": with(tower(&sizes.image, "clip_vision_model"), &image),
    })
}

/// preprocessor_config.json: as CLIP's own, for another size.
fn preprocessor(side: usize) -> Value {
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": true,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": true,
        "crop_size": {"height": side, "width": side},
        "do_convert_rgb": true,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
    })
}
