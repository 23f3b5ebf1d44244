//! What a run of an encoder goes on from: its settings, and after every stretch of steps what moved and the optimiser's
//! moments, in one file that is whole or absent.

use super::EncoderOptions;
use crate::data::files::{read_capped, write_whole};
use crate::engine::parameters::Parameters;
use crate::error::{Error, Result};
use crate::models::folder::{as_written, load_tensors, save_tensors};
use crate::train::checkpoint::difference;
use crate::train::options::TrainOptions;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const FORMAT: &str = "moviola-encoder-training";
const VERSION: u32 = 1;
const LIMIT: u64 = 1 << 20;
/// States that are kept: one more than needed, should the newest turn out damaged.
const KEPT: usize = 2;

/// `checkpoints/settings.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    format: String,
    version: u32,
    train: TrainOptions,
    encoder: EncoderOptions,
    /// What is trained on, and which checkpoint.
    data: String,
    checkpoint: String,
}

impl Settings {
    pub fn new(train: &TrainOptions, encoder: &EncoderOptions, data: &str, checkpoint: &str) -> Settings {
        Settings {
            format: FORMAT.into(),
            version: VERSION,
            train: train.clone(),
            encoder: encoder.clone(),
            data: data.into(),
            checkpoint: checkpoint.into(),
        }
    }

    fn read(out: &Path) -> Result<Settings> {
        let path = place(out);
        let bad = |e: serde_json::Error| Error::format(&path, format!("is damaged ({e})"), "train into another --out");
        serde_json::from_slice(&read_capped(&path, LIMIT)?).map_err(bad)
    }
}

fn folder(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

fn place(out: &Path) -> PathBuf {
    folder(out).join("settings.json")
}

/// The settings of the run that `out` holds; none where there is no run.
pub fn settings(out: &Path) -> Result<Option<(TrainOptions, EncoderOptions)>> {
    if !place(out).exists() {
        return Ok(None);
    }
    Settings::read(out).map(|s| Some((s.train, s.encoder)))
}

/// What moves, in the layout of its parameters.
pub struct State {
    /// Finished steps.
    pub step: usize,
    pub params: Vec<f32>,
    pub adam_m: Vec<f32>,
    pub adam_v: Vec<f32>,
}

impl State {
    /// The newest state in `out` that can be read, for a run with these settings.
    ///
    /// # Errors
    /// When `out` holds something and the run does not resume; when what it holds is of another run or damaged.
    pub fn find(out: &Path, moved: &Parameters, settings: &Settings, resume: bool) -> Result<Option<State>> {
        let files = found(out)?;
        if !resume && !files.is_empty() {
            let what = format!("{} holds a training run", out.display());
            return Err(Error::config("--out", what, "add --resume to go on with it, or choose another folder"));
        }
        // A run that was broken off in its first save has settings and no state: it begins anew.
        if files.is_empty() && !(resume && place(out).exists()) && out.join("model.safetensors").exists() {
            // Perhaps the very one that is to be trained.
            let what = format!("{} holds a checkpoint and no run to go on with", out.display());
            return Err(Error::config("--out", what, "choose another folder"));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let values = |s: &Settings| as_written(s).map_err(|e| Error::config("settings", e.to_string(), "report it"));
        if let Some((key, was, is)) = difference(&values(&Settings::read(out)?)?, &values(settings)?) {
            let fix = "resume with the same settings and data, or train into another --out";
            return Err(Error::format(place(out), format!("was trained with {key} {was} and now it is {is}"), fix));
        }
        let mut last = None;
        for (step, path) in files.into_iter().rev() {
            match load_tensors(&path, moved, &["", "m.", "v."]) {
                Ok(mut vectors) => {
                    let (adam_v, adam_m, params) = (vectors.remove(2), vectors.remove(1), vectors.remove(0));
                    return Ok(Some(State { step, params, adam_m, adam_v }));
                }
                Err(e) => last = Some(e),
            }
        }
        // Starting over without a word would overwrite what may still be worth saving.
        last.map_or(Ok(None), Err)
    }

    /// Says what run this is; before anything else of it is written.
    pub fn begin(out: &Path, settings: &Settings) -> Result<()> {
        let dir = folder(out);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let text = as_written(settings).map_err(|e| Error::config("settings", e.to_string(), "report it"))?;
        write_whole(&place(out), format!("{text:#}\n").as_bytes())
    }

    /// Writes the state; older ones go when it is in place.
    pub fn save(&self, out: &Path, moved: &Parameters) -> Result<PathBuf> {
        let path = folder(out).join(format!("step-{:010}.safetensors", self.step));
        save_tensors(&path, moved, &[("", &self.params), ("m.", &self.adam_m), ("v.", &self.adam_v)])?;
        for (_, old) in found(out)?.into_iter().rev().skip(KEPT) {
            fs::remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        Ok(path)
    }
}

/// States by their steps, the oldest first.
fn found(out: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let dir = folder(out);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("list", &dir)(e)),
    };
    let step = |p: PathBuf| {
        let name = p.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
        Some((name, p))
    };
    let mut states: Vec<_> = entries.filter_map(|e| step(e.ok()?.path())).collect();
    states.sort();
    Ok(states)
}
