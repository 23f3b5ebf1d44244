//! Checkpoints: a folder a step, written beside its place and renamed, so that it is either whole or absent. A killed run
//! resumes from the newest whole one and ends in the same bits as one that was never interrupted.

use super::options::TrainOptions;
use crate::data::files::{read_capped, write_whole};
use crate::engine::parameters::Parameters;
use crate::error::{Error, Result};
use crate::models::Config;
use crate::models::folder::{as_written, load_tensors, save_tensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const FORMAT: &str = "moviola-training";
const VERSION: u32 = 2;
const STATE_LIMIT: u64 = 1 << 20;
/// Checkpoints that are kept: one more than needed, should the newest turn out damaged.
const KEPT: usize = 2;

/// `trainer_state.json`: everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub format: String,
    pub version: u32,
    /// Finished steps.
    pub step: usize,
    /// Finished steps when the last validation was made; an interrupted one is made when the run goes on.
    pub validated: usize,
    /// Mean R@1 of the best validation so far.
    pub best: Option<f64>,
    /// Whether the model's gate was open in the last step; false without a gate, and in states of version 1, which are
    /// refused by their version and not as damaged.
    #[serde(default)]
    pub open: bool,
    pub options: TrainOptions,
    pub config: Config,
    /// What steered the run: pairs, videos, texts and a checksum of their ids.
    pub data: String,
}

impl State {
    pub fn new(options: &TrainOptions, config: &Config, data: &str) -> State {
        State {
            format: FORMAT.into(),
            version: VERSION,
            step: 0,
            validated: 0,
            best: None,
            open: false,
            options: options.clone(),
            config: config.clone(),
            data: data.into(),
        }
    }

    /// # Errors
    /// Names the first setting in which a checkpoint differs from the run that wants to go on from it.
    fn continues(&self, path: &Path, wanted: &State) -> Result<()> {
        let differs = |what: &str, was: String, is: String| {
            let fix = "resume with the same settings and data, or train into another --out";
            Err(Error::format(path, format!("was trained with {what} {was} and now it is {is}"), fix))
        };
        if self.format != wanted.format || self.version != wanted.version {
            return differs("format", format!("{} {}", self.format, self.version), format!("{FORMAT} {VERSION}"));
        }
        let settings = |state: &State| {
            let of = |x: serde_json::Result<Value>| x.unwrap_or_default();
            [("", of(as_written(&state.config))), ("train.", of(as_written(&state.options)))]
        };
        for ((before, was), (_, is)) in settings(self).into_iter().zip(settings(wanted)) {
            if let Some((key, was, is)) = difference(&was, &is) {
                return differs(&format!("{before}{key}"), was, is);
            }
        }
        if self.data != wanted.data {
            return differs("the data", self.data.clone(), wanted.data.clone());
        }
        Ok(())
    }
}

/// The first key in which two settings differ, and both values.
pub(super) fn difference(was: &Value, is: &Value) -> Option<(String, String, String)> {
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            keys.into_iter().find_map(|key| {
                let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                let (below, was, is) = difference(&of(a), &of(b))?;
                Some((if below.is_empty() { key.clone() } else { format!("{key}.{below}") }, was, is))
            })
        }
        _ if was == is => None,
        _ => {
            let told = |x: &Value| if x.is_object() { "a table".to_string() } else { x.to_string() };
            Some((String::new(), told(was), told(is)))
        }
    }
}

/// The settings of the run that `out` holds, from its newest checkpoint that can be read; none where there is no run.
///
/// # Errors
/// When there are checkpoints and none of them can be read.
pub fn settings(out: &Path) -> Result<Option<(Config, TrainOptions)>> {
    let mut last = None;
    for path in found(out)?.into_iter().rev() {
        let file = path.join("trainer_state.json");
        let state = read_capped(&file, STATE_LIMIT).and_then(|text| {
            serde_json::from_slice::<State>(&text)
                .map_err(|e| Error::format(&file, format!("is damaged ({e})"), "give the run's settings again"))
        });
        match state {
            Ok(state) => return Ok(Some((state.config, state.options))),
            Err(e) => last = Some(e),
        }
    }
    last.map_or(Ok(None), Err)
}

/// A checkpoint in memory: the state and the three flat vectors.
pub struct Checkpoint {
    pub state: State,
    pub params: Vec<f32>,
    pub adam_m: Vec<f32>,
    pub adam_v: Vec<f32>,
}

fn folder(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

/// Writes a checkpoint; older ones go when it is in place.
pub fn save(out: &Path, parameters: &Parameters, checkpoint: &Checkpoint) -> Result<PathBuf> {
    let all = folder(out);
    let target = all.join(format!("step-{:010}", checkpoint.state.step));
    let partial = all.join(format!(".step-{:010}.partial", checkpoint.state.step));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
    let written = write(&partial, parameters, checkpoint).and_then(|()| {
        if target.exists() {
            fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        fs::rename(&partial, &target).map_err(Error::io("rename", &partial))
    });
    if written.is_err() {
        // The first error is the one worth reading.
        let _ = fs::remove_dir_all(&partial);
    }
    written?;
    sync_folder(&all)?;
    for old in found(out)?.into_iter().rev().skip(KEPT) {
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    }
    Ok(target)
}

fn write(dir: &Path, parameters: &Parameters, c: &Checkpoint) -> Result<()> {
    save_tensors(&dir.join("model.safetensors"), parameters, &[("", &c.params)])?;
    save_tensors(&dir.join("optimizer.safetensors"), parameters, &[("m.", &c.adam_m), ("v.", &c.adam_v)])?;
    let text = serde_json::to_string_pretty(&c.state)
        .map_err(|e| Error::config("trainer_state.json", e.to_string(), "report it"))?;
    write_whole(&dir.join("trainer_state.json"), text.as_bytes())
}

/// A rename is on disk when the folder that holds it is.
fn sync_folder(dir: &Path) -> Result<()> {
    let file = fs::File::open(dir).map_err(Error::io("open", dir))?;
    file.sync_all().map_err(Error::io("write", dir))
}

/// Whole checkpoints, the oldest first.
fn found(out: &Path) -> Result<Vec<PathBuf>> {
    let dir = folder(out);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("list", &dir)(e)),
    };
    let is_step = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("step-"));
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(is_step).collect();
    paths.sort();
    Ok(paths)
}

/// The newest checkpoint that is whole and continues `wanted`; a damaged one is passed over and reported to `warn`.
pub fn latest(
    out: &Path,
    parameters: &Parameters,
    wanted: &State,
    mut warn: impl FnMut(&Error),
) -> Result<Option<Checkpoint>> {
    let mut damaged = None;
    for path in found(out)?.into_iter().rev() {
        match read(&path, parameters, wanted) {
            Ok(c) => return Ok(Some(c)),
            Err(Mismatch::Other(e)) => return Err(e),
            Err(Mismatch::Damaged(e)) => {
                warn(&e);
                damaged = Some(e);
            }
        }
    }
    // Starting over without a word would overwrite what may still be worth saving.
    damaged.map_or(Ok(None), Err)
}

enum Mismatch {
    /// Another run's: an older checkpoint would be, too.
    Other(Error),
    /// Cut short or overwritten: an older one may be whole.
    Damaged(Error),
}

fn read(path: &Path, parameters: &Parameters, wanted: &State) -> std::result::Result<Checkpoint, Mismatch> {
    let file = path.join("trainer_state.json");
    let text = read_capped(&file, STATE_LIMIT).map_err(Mismatch::Damaged)?;
    let state: State = serde_json::from_slice(&text).map_err(|e| {
        Mismatch::Damaged(Error::format(
            &file,
            format!("is damaged ({e})"),
            "an older checkpoint is used if there is one",
        ))
    })?;
    state.continues(&file, wanted).map_err(Mismatch::Other)?;
    let load =
        |name: &str, prefixes: &[&str]| load_tensors(&path.join(name), parameters, prefixes).map_err(Mismatch::Damaged);
    let params = load("model.safetensors", &[""])?.remove(0);
    let mut moments = load("optimizer.safetensors", &["m.", "v."])?;
    let adam_v = moments.remove(1);
    Ok(Checkpoint { state, params, adam_m: moments.remove(0), adam_v })
}
