//! One `.safetensors` file, or a folder of several, whose tensor names are ids.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::files::Mapped;
use super::folder::{beside, common_dim, is_noise, names, sound, unique};
use super::problem::{Complaint, Problems};
use super::safetensors::{self, Entry};
use super::tokens::{About, Ids, Provenance, SourceFormat, TokenDtype, TokenSource, decode, times_at, wrong_room};
use crate::error::Result;

struct Item {
    file: usize,
    dtype: TokenDtype,
    rows: usize,
    offset: usize,
    length: usize,
}

/// The files stay mapped.
pub struct TensorFiles {
    ids: Ids,
    files: Vec<(PathBuf, Mapped)>,
    items: Vec<Item>,
    dim: usize,
    provenance: Provenance,
}

/// Reads and proves all headers; sound tensors make the source, the others become problems.
pub fn scan(path: &Path, problems: &mut Problems) -> Option<TensorFiles> {
    let mut files = Vec::new();
    let mut found: Vec<(usize, Entry)> = Vec::new();
    let mut about: Option<About> = None;
    for file in list(path, problems) {
        let map = match Mapped::open(&file) {
            Ok(map) => map,
            Err(error) => {
                problems.add(&file, "", error);
                continue;
            }
        };
        let content = safetensors::read(&map);
        for (name, Complaint { what, fix }) in content.complaints {
            problems.error(&file, &name, what, fix);
        }
        match safetensors::about(&content.metadata) {
            Err(Complaint { what, fix }) => problems.error(&file, "", what, fix),
            Ok(own) => same_about(&mut about, own, &file, problems),
        }
        found.extend(content.entries.into_iter().map(|entry| (files.len(), entry)));
        files.push((file, map));
    }
    let dim = common_dim(found.iter().map(|(_, entry)| entry.dim))?;
    found.retain(|(file, entry)| {
        if entry.dim != dim {
            let what = format!("rows have {} values, those of most items here {dim}", entry.dim);
            let place = files.get(*file).map_or(path, |(place, _)| place.as_path());
            problems.error(place, &entry.name, what, "encode it with the same encoder as the others");
        }
        entry.dim == dim
    });
    let dtype = found.first().map(|(_, entry)| entry.dtype);
    let dtype = dtype.filter(|first| found.iter().all(|(_, entry)| entry.dtype == *first));
    let (names, items): (Vec<_>, Vec<_>) = found
        .into_iter()
        .map(|(file, Entry { name, dtype, rows, offset, length, .. })| {
            (name, Item { file, dtype, rows, offset, length })
        })
        .unzip();
    let ids = unique(names, path, problems)?;
    let about = match path.is_dir() {
        true => merged(beside(path, problems), about.unwrap_or_default()),
        false => about.unwrap_or_default(),
    };
    let about = sound(about, path).map_err(|error| problems.add(path, "", error)).unwrap_or_default();
    let provenance = Provenance { path: path.to_path_buf(), format: SourceFormat::Safetensors, dtype, about };
    Some(TensorFiles { ids, files, items, dim, provenance })
}

fn list(path: &Path, problems: &mut Problems) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let mut files = Vec::new();
    match names(path) {
        Err(error) => problems.add(path, "", error),
        Ok(names) => {
            for name in names {
                if name.ends_with(".safetensors") {
                    files.push(path.join(name));
                } else if !is_noise(&name) {
                    let what = "this is no .safetensors, it is not read";
                    problems.warning(&path.join(name), "", what, "remove or convert it");
                }
            }
        }
    }
    files
}

/// All files of a folder must come from one encoder.
fn same_about(about: &mut Option<About>, own: About, file: &Path, problems: &mut Problems) {
    match about {
        None => *about = Some(own),
        Some(first) if *first != own => {
            let what = format!("its metadata {:?} differ from {:?} of the files before", own, first);
            problems.error(file, "", what, "keep features of different encoders in different folders");
        }
        Some(_) => {}
    }
}

/// What `provenance.json` says, and the files' metadata where it is silent.
fn merged(said: About, own: About) -> About {
    About {
        kind: said.kind.or(own.kind),
        encoder: said.encoder.or(own.encoder),
        layer: said.layer.or(own.layer),
        normalised: said.normalised.or(own.normalised),
        fps: said.fps.or(own.fps),
        sentence: said.sentence.or(own.sentence),
        origin: said.origin.or(own.origin),
        pictures: said.pictures.or(own.pictures),
    }
}

impl TokenSource for TensorFiles {
    fn ids(&self) -> &[String] {
        self.ids.names()
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn rows(&self, i: usize) -> usize {
        self.items.get(i).map_or(0, |item| item.rows)
    }
    fn load_into(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let found = self.items.get(i).and_then(|item| {
            let (place, map) = self.files.get(item.file)?;
            Some((item, place, map.get(item.offset..)?.get(..item.length)?, self.ids().get(i)?))
        });
        let Some((item, place, bytes, id)) = found else { return Err(wrong_room(self, i, out.len())) };
        if item.rows.checked_mul(self.dim) != Some(out.len()) {
            return Err(wrong_room(self, i, out.len()));
        }
        decode(place, id, item.dtype, bytes, self.dim, out)
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
