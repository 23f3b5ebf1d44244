//! A checkpoint in Hugging Face layout: a folder with config.json and model.safetensors, in one file or in shards.
//!
//! Files are mapped, and a tensor is read when a parameter asks for it: of a checkpoint with two towers one is read.

use super::positions::{NUMBERS, Stretch, TABLE};
use crate::data::files::{Beside, Mapped, is_file_name, read_capped, write_whole};
use crate::engine::backend::Backend;
use crate::engine::graph::Graph;
use crate::engine::inference;
use crate::engine::parameters::{Parameter, Parameters};
use crate::engine::scheduler::executor::Executor;
use crate::error::{Error, Result};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration is a page of text; more is not one.
const JSON_LIMIT: u64 = 1 << 20;
/// The table of a sharded checkpoint names every tensor.
const INDEX_LIMIT: u64 = 64 << 20;
const MOST_SHARDS: usize = 1000;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a checkpoint has beside its weights, as far as encoders read it or others expect it.
const BESIDE: [&str; 12] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
/// Tables of 250,000 pieces take 17 MB.
const COPY_LIMIT: u64 = 256 << 20;

/// New values of parameters by name.
pub type Changed = BTreeMap<String, Vec<f32>>;

/// An opened folder.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// config.json
    pub config: serde_json::Value,
    stretch: Option<Stretch>,
    files: Vec<(PathBuf, Mapped)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a checkpoint's folder, or one that a Hugging Face cache keeps (`models--OWNER--NAME`).
    ///
    /// # Errors
    /// [`Error::Format`] names the files that are missing and says where one gets them.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let dir = snapshot(dir)?;
        let config: serde_json::Value = json(&dir.join("config.json"), JSON_LIMIT)?;
        let mut files = vec![];
        for name in weight_files(&dir)? {
            let path = dir.join(name);
            files.push((path.clone(), Mapped::open(&path)?));
        }
        Ok(Checkpoint { dir, config, stretch: None, files })
    }

    /// A checkpoint that has a configuration and no weights yet.
    pub fn described(dir: &Path, config: serde_json::Value) -> Checkpoint {
        Checkpoint { dir: dir.into(), config, stretch: None, files: vec![] }
    }

    /// The same with so many positions for texts, if any number is asked for; see [`positions`](super::positions).
    ///
    /// # Errors
    /// When it has no text tower of CLIP, or the number is out of range.
    pub fn stretched(mut self, positions: Option<usize>) -> Result<Checkpoint> {
        if let Some(to) = positions {
            self.stretch = Some(Stretch::new(&self.dir, &mut self.config, to)?);
        }
        Ok(self)
    }

    pub fn is_stretched(&self) -> bool {
        self.stretch.is_some()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An executor of one graph, with this checkpoint's values for its parameters.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read`] and of the plan, and when the device has too little memory.
    pub fn load(
        &self,
        what: &str,
        graph: &Graph,
        (parameters, prefixes): (&Parameters, &[&str]),
        backend: Box<dyn Backend>,
    ) -> Result<Executor> {
        let params = self.read(parameters, prefixes)?;
        inference::load(&[(what, graph.clone())], &params, backend)
    }

    /// What features of this encoder are known by: its name, a hash of its weights, which tells versions apart that have
    /// one name, and behind a comma what was made of it otherwise than it lies there.
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        self.files.iter().for_each(|(_, file)| hash.update(&**file));
        let hash = hash.finalize();
        let short: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
        let positions = self.stretch.map_or(String::new(), |s| format!(", {} positions", s.to));
        format!("{}@{short}{positions}", name(&self.dir))
    }

    /// A JSON file that not every checkpoint has.
    pub fn optional<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.dir.join(name);
        if path.exists() { json(&path, JSON_LIMIT).map(Some) } else { Ok(None) }
    }

    fn tensors(&self) -> Result<Vec<(&PathBuf, SafeTensors<'_>)>> {
        let mut opened = vec![];
        for (path, file) in &self.files {
            let fix = "copy the file again";
            let tensors = SafeTensors::deserialize(file)
                .map_err(|e| Error::format(path, format!("is damaged or no safetensors file ({e})"), fix))?;
            opened.push((path, tensors));
        }
        Ok(opened)
    }

    /// Writes this checkpoint into `out` with other values for some parameters: f32 under their own names, all other
    /// tensors and files as they are here. Each file is written beside its place and renamed, the weights last.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn rewrite(&self, out: &Path, parameters: &Parameters, prefixes: &[&str], changed: &Changed) -> Result<()> {
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        for name in BESIDE {
            let path = self.dir.join(name);
            if path.exists() {
                let to = out.join(name);
                to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(Error::io("create", &to))?;
                write_whole(&to, &self.said(name, &path)?)?;
            }
        }
        let mut stretched = Changed::new();
        if let Some(table) = parameters.find(TABLE).filter(|_| self.is_stretched() && !changed.contains_key(TABLE)) {
            let mut alone = Parameters::default();
            alone.adopt(table);
            let mut values = self.read(&alone, prefixes)?;
            // Behind it lies a gap.
            values.truncate(table.elements());
            stretched.insert(TABLE.into(), values);
        }
        let path = out.join(WHOLE);
        let bad = |e: safetensors::SafeTensorError| Error::format(&path, e.to_string(), "report it");
        let opened = self.tensors()?;
        let prefix = prefix(&opened, parameters, prefixes);
        let mut views = vec![];
        for (name, view) in opened.iter().flat_map(|(_, t)| t.iter()) {
            let own = name.strip_prefix(prefix).unwrap_or(name);
            if self.is_stretched() && own == NUMBERS {
                continue;
            }
            let shape = || parameters.find(own).map_or(view.shape().to_vec(), |p| p.shape.clone());
            views.push(match changed.get(own).or_else(|| stretched.get(own)) {
                Some(values) => (name, TensorView::new(Dtype::F32, shape(), bytemuck::cast_slice(values))),
                None => (name, Ok(view)),
            });
        }
        let views = views.into_iter().map(|(name, view)| Ok((name, view.map_err(bad)?)));
        let views = views.collect::<Result<Vec<_>>>()?;
        let beside = Beside::new(&path)?;
        safetensors::serialize_to_file(views, None, beside.partial()).map_err(bad)?;
        beside.keep()
    }

    /// What a file beside the weights says once positions are stretched.
    fn said(&self, name: &str, path: &Path) -> Result<Vec<u8>> {
        let key = match name {
            "tokenizer_config.json" => "model_max_length",
            "sentence_bert_config.json" => "max_seq_length",
            _ => "",
        };
        let value = match self.stretch {
            Some(_) if name == "config.json" => self.config.clone(),
            Some(stretch) if !key.is_empty() => {
                let mut value: serde_json::Value = json(path, JSON_LIMIT)?;
                value.get_mut(key).into_iter().for_each(|longest| *longest = stretch.to.into());
                value
            }
            _ => return read_capped(path, COPY_LIMIT),
        };
        Ok(format!("{value:#}\n").into_bytes())
    }

    /// How the table of positions is stretched, if it is this parameter.
    fn stretch_of(&self, p: &Parameter) -> Option<Stretch> {
        self.stretch.filter(|_| p.name == TABLE)
    }

    /// The values of all parameters, flat. A checkpoint of a larger model has its names behind one of `prefixes`.
    ///
    /// # Errors
    /// [`Error::Format`] names the file and the tensor that is missing, of another shape or not a number. Nothing is
    /// allocated before every tensor is known to be there.
    pub fn read(&self, parameters: &Parameters, prefixes: &[&str]) -> Result<Vec<f32>> {
        let opened = self.tensors()?;
        let find = |name: &str| opened.iter().find_map(|(path, t)| Some((*path, t.tensor(name).ok()?)));
        let prefix = prefix(&opened, parameters, prefixes);
        let mut found = vec![];
        for p in &parameters.list {
            let name = format!("{prefix}{}", p.name);
            let (path, view) = find(&name).ok_or_else(|| {
                let fix = "it is of another architecture than its config.json says, or was not copied whole";
                Error::format(&self.dir, format!("has no tensor {name}"), fix)
            })?;
            let mut shape = p.shape.clone();
            if let Some(stretch) = self.stretch_of(p) {
                shape[0] = stretch.from;
            }
            checked(path, &name, &shape, &view)?;
            found.push((path, name, view));
        }
        let mut flat = vec![0.0; parameters.elements as usize];
        for (p, (path, name, view)) in parameters.list.iter().zip(found) {
            let values = &mut flat[p.offset as usize..][..p.elements()];
            match self.stretch_of(p) {
                None => widen(&view, values),
                Some(stretch) => {
                    let mut own = vec![0.0; view.shape().iter().product()];
                    widen(&view, &mut own);
                    stretch.rows(&own, values);
                }
            }
            if !values.iter().all(|x| x.is_finite()) {
                return Err(Error::format(path, format!("{name} holds values that are no numbers"), "copy it again"));
            }
        }
        Ok(flat)
    }
}

/// What a larger model puts before the names of these parameters.
fn prefix<'a>(opened: &[(&PathBuf, SafeTensors)], parameters: &Parameters, prefixes: &[&'a str]) -> &'a str {
    let has = |name: &str| opened.iter().any(|(_, t)| t.tensor(name).is_ok());
    let whole = |prefix: &&&str| parameters.list.iter().any(|p| has(&format!("{prefix}{}", p.name)));
    prefixes.iter().find(whole).copied().unwrap_or("")
}

/// The folder's name; in a Hugging Face cache OWNER/NAME.
fn name(dir: &Path) -> String {
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    let cached = dir.ancestors().nth(2).and_then(name);
    let cached = cached.and_then(|n| Some(n.strip_prefix("models--")?.replacen("--", "/", 1)));
    let whole = std::fs::canonicalize(dir).ok();
    cached.or_else(|| name(dir)).or_else(|| name(&whole?)).unwrap_or_else(|| "encoder".into())
}

/// Shape and type, before anything is read.
fn checked(path: &Path, name: &str, shape: &[usize], view: &TensorView) -> Result<()> {
    let fix = "it is of another architecture than its config.json says";
    if view.shape() != shape {
        let what = format!("{name} is {:?} and should be {shape:?}", view.shape());
        return Err(Error::format(path, what, fix));
    }
    if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&view.dtype()) {
        let what = format!("{name} is {:?}; f32, f16 and bf16 can be read", view.dtype());
        return Err(Error::format(path, what, "convert the checkpoint to one of them"));
    }
    Ok(())
}

fn widen(view: &TensorView, values: &mut [f32]) {
    let data = view.data();
    match view.dtype() {
        Dtype::F16 => each(data, values, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(data, values, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
        _ => each(data, values, f32::from_le_bytes),
    }
}

fn each<const N: usize>(data: &[u8], values: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = data.as_chunks::<N>();
    values.iter_mut().zip(numbers).for_each(|(value, number)| *value = read(*number));
}

fn json<T: serde::de::DeserializeOwned>(path: &Path, limit: u64) -> Result<T> {
    let text = read_capped(path, limit)?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::format(path, format!("is not what it should be ({e})"), "copy it again"))
}

/// The folder itself, or the snapshot that a cache's folder points to.
fn snapshot(dir: &Path) -> Result<PathBuf> {
    if dir.join("config.json").exists() {
        return Ok(dir.to_path_buf());
    }
    let snapshots = dir.join("snapshots");
    if snapshots.is_dir() {
        let main = dir.join("refs").join("main");
        let named = if main.exists() { read_capped(&main, 4096)? } else { vec![] };
        let named = String::from_utf8_lossy(&named).trim().to_string();
        let at = snapshots.join(&named);
        if is_file_name(&named) && at.join("config.json").exists() {
            return Ok(at);
        }
    }
    let fix =
        "give a folder with config.json, model.safetensors and tokenizer.json, as `huggingface-cli download` makes it";
    Err(Error::format(dir, "is no checkpoint: it has no config.json", fix))
}

fn weight_files(dir: &Path) -> Result<Vec<String>> {
    if dir.join(WHOLE).exists() {
        return Ok(vec![WHOLE.into()]);
    }
    let index = dir.join(INDEX);
    if !index.exists() {
        let other = ["pytorch_model.bin", "tf_model.h5"].into_iter().find(|name| dir.join(name).exists());
        let what = match other {
            Some(other) => format!("has {other} and no {WHOLE}, which alone is read"),
            None => format!("has neither {WHOLE} nor {INDEX}"),
        };
        let fix = "download the safetensors files of the checkpoint, or convert it with safetensors' convert.py";
        return Err(Error::format(dir, what, fix));
    }
    let table: Index = json(&index, INDEX_LIMIT)?;
    let mut files: Vec<String> = table.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    if let Some(bad) = files.iter().find(|name| !is_file_name(name)) {
        return Err(Error::format(&index, format!("names {bad:?}, which is no file's name"), "download it again"));
    }
    if files.len() > MOST_SHARDS {
        let what = format!("names {} files, more than {MOST_SHARDS}", files.len());
        return Err(Error::format(&index, what, "download it again"));
    }
    let missing: Vec<&String> = files.iter().filter(|name| !dir.join(name).exists()).collect();
    if let Some(first) = missing.first() {
        let what = format!("lacks {} of {} files of weights, {first} the first", missing.len(), files.len());
        return Err(Error::format(dir, what, "download the rest"));
    }
    Ok(files)
}
