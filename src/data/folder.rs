//! A folder with one `.npy` or `.npz` an item (name = id), or a single such file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::files::{Mapped, read_capped};
use super::npy::{self, Header};
use super::npz::{self, Packed};
use super::problem::{Complaint, Problems};
use super::tokens::{About, Ids, Provenance, SourceFormat, TokenSource, decode, times_at, wrong_room};
use crate::error::{Error, Result};

/// A description of the features in a folder, beside them; the fields are those of [`About`].
pub const PROVENANCE: &str = "provenance.json";
const PROVENANCE_LIMIT: u64 = 1 << 20;

enum Form {
    Npy(Header),
    Npz(Packed),
}

impl Form {
    fn header(&self) -> &Header {
        match self {
            Self::Npy(header) => header,
            Self::Npz(packed) => &packed.header,
        }
    }
}

struct Item {
    path: PathBuf,
    form: Form,
}

/// Files are mapped when they are loaded: a process may hold only some 65,000 maps.
pub struct Folder {
    ids: Ids,
    items: Vec<Item>,
    dim: usize,
    provenance: Provenance,
}

/// Reads the headers of all files; sound items make the source, the others become problems.
pub fn scan(path: &Path, problems: &mut Problems) -> Option<Folder> {
    let files = if path.is_dir() { list(path, problems) } else { single(path, problems) };
    let read: Vec<_> = files.into_par_iter().map(|(id, path)| (read(&path), id, path)).collect();
    let mut found = Vec::new();
    for (form, id, path) in read {
        match form {
            Ok(form) => found.push((id, Item { path, form })),
            Err(error) => problems.add(&path, &id, error),
        }
    }
    let dim = common_dim(found.iter().map(|(_, item)| item.form.header().dim))?;
    found.retain(|(id, item)| {
        let own = item.form.header().dim;
        if own != dim {
            let what = format!("rows have {own} values, those of most files here {dim}");
            problems.error(&item.path, id, what, "encode it with the same encoder as the others");
        }
        own == dim
    });
    let about = beside(path, problems);
    let (names, items): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let ids = unique(names, path, problems)?;
    let dtype = items.first().map(|item| item.form.header().dtype);
    let dtype = dtype.filter(|first| items.iter().all(|item| item.form.header().dtype == *first));
    let provenance = Provenance { path: path.to_path_buf(), format: SourceFormat::NpyFolder, dtype, about };
    Some(Folder { ids, items, dim, provenance })
}

/// The dim that most items have; the smaller of two that are equally common.
pub(crate) fn common_dim(dims: impl Iterator<Item = usize>) -> Option<usize> {
    let mut counts = BTreeMap::new();
    for dim in dims {
        *counts.entry(dim).or_insert(0_usize) += 1;
    }
    counts.into_iter().max_by_key(|&(dim, count)| (count, std::cmp::Reverse(dim))).map(|(dim, _)| dim)
}

/// Ids that occur once each; twins are a problem, and the source is given up.
pub(crate) fn unique(names: Vec<String>, place: &Path, problems: &mut Problems) -> Option<Ids> {
    match Ids::new(names.clone()) {
        Ok(ids) => Some(ids),
        Err((_, later)) => {
            let id = names.get(later).map(String::as_str).unwrap_or_default();
            problems.error(place, id, "this id occurs twice", "keep one of them, or give each item an id of its own");
            None
        }
    }
}

/// `provenance.json` in a folder, or nothing.
pub(crate) fn beside(path: &Path, problems: &mut Problems) -> About {
    let file = path.join(PROVENANCE);
    if !file.is_file() {
        return About::default();
    }
    let about = read_capped(&file, PROVENANCE_LIMIT).and_then(|all| {
        serde_json::from_slice(&all).map_err(|error| {
            let fix = r#"write {"encoder": "...", "normalised": true, "fps": 1.0}"#;
            Error::format(&file, format!("this cannot be read: {error}"), fix)
        })
    });
    about.and_then(|about| sound(about, &file)).unwrap_or_else(|error| {
        problems.add(&file, "", error);
        About::default()
    })
}

/// Refuses a frame rate that is none.
pub(crate) fn sound(about: About, place: &Path) -> Result<About> {
    match about.fps {
        Some(fps) if !(fps.is_finite() && fps > 0.0) => {
            Err(Error::format(place, format!("fps is {fps}"), "give a positive number of frames a second, or none"))
        }
        _ => Ok(about),
    }
}

fn single(path: &Path, problems: &mut Problems) -> Vec<(String, PathBuf)> {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) => vec![(stem.to_string(), path.to_path_buf())],
        None => {
            problems.error(path, "", "the file's name is not UTF-8", "rename it");
            Vec::new()
        }
    }
}

/// The feature files of a folder, sorted; whatever else lies there is a warning.
fn list(path: &Path, problems: &mut Problems) -> Vec<(String, PathBuf)> {
    let names = match names(path) {
        Ok(names) => names,
        Err(error) => {
            problems.add(path, "", error);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for name in names {
        let file = path.join(&name);
        match name.rsplit_once('.') {
            Some((id, "npy" | "npz")) if !id.is_empty() => files.push((id.to_string(), file)),
            _ if is_noise(&name) => {}
            _ => problems.warning(&file, "", "this is no .npy or .npz, it is not read", "remove or convert it"),
        }
    }
    files
}

/// Files that may lie beside features without a word.
pub(crate) fn is_noise(name: &str) -> bool {
    name == PROVENANCE || name.starts_with('.') || name.to_ascii_lowercase().starts_with("readme")
}

/// The names in a folder, sorted: folders have no order of their own.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let name = entry.map_err(Error::io("list", path))?.file_name();
        let name = name.into_string().map_err(|name| {
            Error::format(path.join(&name), "the file's name is not UTF-8", "rename it, the name is the id")
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> Result<Form> {
    let id = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let map = Mapped::open(path)?;
    let form = match path.extension() {
        Some(extension) if extension == "npz" => npz::find(&map).map(Form::Npz),
        _ => npy::header(&map, map.len() as u64).map(Form::Npy),
    };
    form.map_err(|complaint| complaint.at(path, &id))
}

impl TokenSource for Folder {
    fn ids(&self) -> &[String] {
        self.ids.names()
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn rows(&self, i: usize) -> usize {
        self.items.get(i).map_or(0, |item| item.form.header().rows)
    }
    fn load_into(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let (Some(item), Some(id)) = (self.items.get(i), self.ids().get(i)) else {
            return Err(wrong_room(self, i, out.len()));
        };
        let head = item.form.header();
        if head.rows.checked_mul(head.dim) != Some(out.len()) {
            return Err(wrong_room(self, i, out.len()));
        }
        let map = Mapped::open(&item.path)?;
        match &item.form {
            Form::Npz(packed) => npz::load_into(&item.path, id, &map, packed, out),
            Form::Npy(_) => {
                let all = map.get(head.offset..).and_then(|rest| rest.get(..head.length)).ok_or_else(|| {
                    Complaint::new("the file changed since it was opened", "start again").at(&item.path, id)
                })?;
                decode(&item.path, id, head.dtype, all, head.dim, out)
            }
        }
    }
    fn timestamps(&self, i: usize) -> Option<Cow<'_, [f32]>> {
        self.provenance.about.fps.map(|fps| times_at(fps, self.rows(i)))
    }
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }
    fn find(&self, id: &str) -> Option<usize> {
        self.ids.find(id)
    }
}
