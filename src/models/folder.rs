//! A model on disk: a folder as Hugging Face lays it out, `config.json` and `model.safetensors`.

use super::{Config, Model, build};
use crate::data::files::{read_capped, write_whole};
use crate::engine::parameters::{Parameter, Parameters};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: &str = "moviola-model";
const VERSION: u32 = 1;
/// A configuration is a page of text; more is not one.
const CONFIG_LIMIT: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct ConfigFile {
    format: String,
    version: u32,
    #[serde(flatten)]
    config: serde_json::Value,
}

/// Writes `config.json`, `README.md` (the model card) and `model.safetensors`, each beside its place and renamed; the
/// weights last, so that a folder with weights is whole.
pub fn save(dir: &Path, model: &dyn Model, flat: &[f32], card: &str) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let config = as_written(model.config()).map_err(|e| Error::config("config", e.to_string(), "report it"))?;
    let file = ConfigFile { format: FORMAT.into(), version: VERSION, config };
    let text = serde_json::to_string_pretty(&file).map_err(|e| Error::config("config", e.to_string(), "report it"))?;
    write_whole(&dir.join("config.json"), text.as_bytes())?;
    write_whole(&dir.join("README.md"), card.as_bytes())?;
    save_tensors(&dir.join("model.safetensors"), model.parameters(), &[("", flat)])
}

/// As JSON with f32 numbers as people write them: 0.01, and not the f64 that is nearest to it.
pub fn as_written(x: &impl Serialize) -> serde_json::Result<serde_json::Value> {
    serde_json::from_str(&serde_json::to_string(x)?)
}

/// Reads a model folder: the model of its configuration, and its parameters flat.
///
/// # Errors
/// [`Error::Format`] names the file and the tensor that is missing, of another shape or not a number.
pub fn load(dir: &Path) -> Result<(Box<dyn Model>, Vec<f32>)> {
    let model = build(&load_config(dir)?)?;
    let flat = load_tensors(&dir.join("model.safetensors"), model.parameters(), &[""])?.remove(0);
    Ok((model, flat))
}

pub fn load_config(dir: &Path) -> Result<Config> {
    let path = dir.join("config.json");
    if !path.exists() {
        let fix = "give the folder that `moviola train --out` made";
        return Err(Error::format(dir, "is no model: it has no config.json", fix));
    }
    let text = read_capped(&path, CONFIG_LIMIT)?;
    let file: ConfigFile = serde_json::from_slice(&text).map_err(|e| {
        Error::format(&path, format!("is not the configuration of a Moviola model ({e})"), "train again")
    })?;
    if file.format != FORMAT || file.version != VERSION {
        let what =
            format!("is {} version {}, this program reads {FORMAT} version {VERSION}", file.format, file.version);
        return Err(Error::format(&path, what, "use the version of Moviola that wrote it"));
    }
    serde_json::from_value(file.config).map_err(|e| Error::format(&path, e.to_string(), "mend the file or train again"))
}

/// Writes flat vectors as named tensors: `PREFIX` + parameter name for each (prefix, flat) of `vectors`.
pub fn save_tensors(path: &Path, parameters: &Parameters, vectors: &[(&str, &[f32])]) -> Result<()> {
    let bad = |e: safetensors::SafeTensorError| Error::format(path, e.to_string(), "report it");
    let mut views = vec![];
    for (prefix, flat) in vectors {
        for p in &parameters.list {
            let values = &flat[p.offset as usize..][..p.elements()];
            let view = TensorView::new(Dtype::F32, p.shape.clone(), bytemuck::cast_slice(values)).map_err(bad)?;
            views.push((format!("{prefix}{}", p.name), view));
        }
    }
    let bytes = safetensors::serialize(views, None).map_err(bad)?;
    write_whole(path, &bytes)
}

/// Reads what [`save_tensors`] wrote: one flat vector for each prefix.
pub fn load_tensors(path: &Path, parameters: &Parameters, prefixes: &[&str]) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let fix = "copy the folder again, or train again";
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::format(path, format!("is damaged or no safetensors file ({e})"), fix))?;
    if tensors.len() != parameters.list.len() * prefixes.len() {
        let what = format!("holds {} tensors and the model has {}", tensors.len(), parameters.list.len());
        return Err(Error::format(path, what, "it belongs to another model: use the folder's own config.json"));
    }
    // Before memory is taken for what a configuration only says is there.
    let needed = (parameters.count() as u64).saturating_mul(4 * prefixes.len() as u64);
    if (bytes.len() as u64) < needed {
        let what = format!("is {} bytes long and the model's tensors take {needed}", bytes.len());
        return Err(Error::format(path, what, "it belongs to another model: use the folder's own config.json"));
    }
    prefixes.iter().map(|prefix| read_flat(path, &tensors, parameters, prefix)).collect()
}

fn read_flat(path: &Path, tensors: &SafeTensors, parameters: &Parameters, prefix: &str) -> Result<Vec<f32>> {
    let mut flat = vec![0.0; parameters.elements as usize];
    for p in &parameters.list {
        let values = &mut flat[p.offset as usize..][..p.elements()];
        read_one(path, tensors, p, &format!("{prefix}{}", p.name), values)?;
    }
    Ok(flat)
}

fn read_one(path: &Path, tensors: &SafeTensors, p: &Parameter, name: &str, values: &mut [f32]) -> Result<()> {
    let fix = "it belongs to another model: use the folder's own config.json";
    let view = tensors.tensor(name).map_err(|_| Error::format(path, format!("has no tensor {name}"), fix))?;
    if view.dtype() != Dtype::F32 || view.shape() != p.shape {
        let what = format!("{name} is {:?} {:?} and should be F32 {:?}", view.dtype(), view.shape(), p.shape);
        return Err(Error::format(path, what, fix));
    }
    for (value, bytes) in values.iter_mut().zip(view.data().chunks_exact(4)) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if !value.is_finite() {
            return Err(Error::format(path, format!("{name} holds {value}"), "train again with a lower learning rate"));
        }
    }
    Ok(())
}
