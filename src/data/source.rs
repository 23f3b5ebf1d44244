//! Finds out how tokens are stored and opens them.

use std::path::Path;

use super::folder::{self, names};
use super::problem::Problems;
use super::shard::{self, MANIFEST};
use super::tensor_files;
use super::tokens::{SourceFormat, TokenSource};
use crate::error::Result;

/// Opens a native folder, a folder of `.npy`/`.npz` or of `.safetensors`, or one such file.
///
/// # Errors
/// The first thing that is wrong, naming file and id; `check` gives all.
pub fn open(path: &Path) -> Result<Box<dyn TokenSource>> {
    let mut problems = Problems::default();
    let source = scan(path, &mut problems);
    if source.is_none() && problems.errors() == 0 {
        problems.error(path, "", "no features are here", "put one file a video or text here");
    }
    problems.refuse()?;
    // `None` without an error cannot get here; an empty source says so by the same words.
    source.ok_or_else(|| crate::error::Error::format(path, "no features are here", "put one file a video or text here"))
}

/// As [`open`], but gives what is sound and collects what is not.
pub fn scan(path: &Path, problems: &mut Problems) -> Option<Box<dyn TokenSource>> {
    match form(path, problems)? {
        SourceFormat::Native => shard::scan(path, problems).map(|source| Box::new(source) as _),
        SourceFormat::Safetensors => tensor_files::scan(path, problems).map(|source| Box::new(source) as _),
        SourceFormat::NpyFolder | SourceFormat::Memory => {
            folder::scan(path, problems).map(|source| Box::new(source) as _)
        }
    }
}

/// How the tokens in `path` are stored.
fn form(path: &Path, problems: &mut Problems) -> Option<SourceFormat> {
    let expected = "expected a folder with manifest.json, .npy, .npz or .safetensors files, or one such file";
    if !path.exists() {
        problems.error(path, "", "this does not exist", expected);
        return None;
    }
    if !path.is_dir() {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        return match extension {
            "npy" | "npz" => Some(SourceFormat::NpyFolder),
            "safetensors" => Some(SourceFormat::Safetensors),
            "pt" | "pth" | "h5" | "hdf5" | "pkl" => {
                let what = format!(".{extension} is not read directly");
                problems.error(path, "", what, "convert it: python tools/convert.py");
                None
            }
            _ => {
                problems.error(path, "", "this is no feature file", expected);
                None
            }
        };
    }
    if path.join(MANIFEST).exists() {
        return Some(SourceFormat::Native);
    }
    let names = names(path).map_err(|error| problems.add(path, "", error)).ok()?;
    let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
    match (ends(".safetensors"), ends(".npy") || ends(".npz")) {
        (true, false) => Some(SourceFormat::Safetensors),
        (false, true) => Some(SourceFormat::NpyFolder),
        (true, true) => {
            problems.error(path, "", "both .safetensors and .npy files are here", "keep one kind in a folder");
            None
        }
        (false, false) => {
            problems.error(path, "", "no feature files are here", expected);
            None
        }
    }
}
