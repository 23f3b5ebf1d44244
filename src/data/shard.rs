//! The native format: a folder with `manifest.json` and `shard-00000.safetensors`, `shard-00001.safetensors`, …
//!
//! A shard is an ordinary safetensors file whose tensor names are ids; the manifest adds provenance, the times of rows,
//! where each item lies and a SHA-256 of each shard, so that opening touches no shard beyond its first bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::{Mapped, is_file_name, read_capped};
use super::folder::{sound, unique};
use super::problem::{Complaint, Problems};
use super::safetensors::{self, hex};
use super::shard_writer::Written;
use super::tokens::{About, Ids, Provenance, SourceFormat, TokenDtype, TokenSource, decode, times_at, wrong_room};
use crate::error::{Error, Result};

pub const MANIFEST: &str = "manifest.json";
pub const FORMAT: &str = "moviola-tokens";
pub const VERSION: u32 = 1;
const MANIFEST_LIMIT: u64 = 1 << 30;
const AGAIN: &str = "copy the folder again, or make it again with `moviola data convert`";

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    #[serde(flatten)]
    pub about: About,
    pub dim: usize,
    pub dtype: TokenDtype,
    pub items: Vec<Item>,
    pub shards: Vec<Shard>,
}

/// One video or text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    pub id: String,
    /// Position in the list of shards.
    pub shard: usize,
    /// Bytes from the start of the shard's file to the first value.
    pub offset: u64,
    pub rows: usize,
    /// Seconds, one a row, not decreasing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<Vec<f32>>,
    /// What it was made of, within the folder of the manifest's `origin`, or its `pictures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which state of that file, as whoever made it tells states apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

/// One file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shard {
    pub file: String,
    pub bytes: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// Read before the rest, so that a newer version is named as such and not as a missing field.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// An opened native folder; the shards stay mapped.
pub struct Native {
    ids: Ids,
    items: Vec<Item>,
    shards: Vec<(PathBuf, Shard, Mapped)>,
    dim: usize,
    dtype: TokenDtype,
    provenance: Provenance,
}

impl Native {
    /// Opens a native folder.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn open(path: &Path) -> Result<Native> {
        let mut problems = Problems::default();
        let found = scan(path, &mut problems);
        problems.refuse()?;
        found.ok_or_else(|| Error::format(path, "no features are here", AGAIN))
    }

    /// Which state of its file item `i` was made of, where that is known.
    pub fn stamp(&self, i: usize) -> Option<&str> {
        self.items.get(i)?.stamp.as_deref()
    }

    /// What lies here, as whoever wrote it was told.
    pub fn written(&self) -> Written {
        Written {
            items: self.items.len(),
            rows: self.items.iter().map(|item| item.rows as u64).sum(),
            shards: self.shards.len(),
            bytes: self.shards().map(|shard| shard.bytes).sum(),
        }
    }

    pub(super) fn item(&self, i: usize) -> &Item {
        &self.items[i]
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().map(|(_, shard, _)| shard)
    }
}

/// Reads the manifest and proves it against the files' sizes; sound items make the source, the rest becomes problems.
pub fn scan(path: &Path, problems: &mut Problems) -> Option<Native> {
    let file = path.join(MANIFEST);
    let manifest = read_manifest(&file).map_err(|error| problems.add(&file, "", error)).ok()?;
    let Manifest { about, dim, dtype, mut items, shards, .. } = manifest;
    let about = sound(about, &file).map_err(|error| problems.add(&file, "", error)).unwrap_or_default();
    if dim == 0 || !matches!(dtype, TokenDtype::F16 | TokenDtype::F32) {
        problems.error(&file, "", format!("dim {dim} of {}", dtype.name()), "expected dim ≥ 1 and dtype f16 or f32");
        return None;
    }
    let opened: Option<Vec<_>> =
        shards.into_iter().map(|shard| open_shard(path, shard).map_err(|e| problems.add(&file, "", e)).ok()).collect();
    let shards = opened?;
    items.retain(|item| match sound_item(item, &shards, dim, dtype) {
        Ok(()) => true,
        Err(Complaint { what, fix }) => {
            problems.error(&file, &item.id, what, fix);
            false
        }
    });
    overlaps(&items, dim, dtype, &file, problems);
    if items.is_empty() {
        problems.error(&file, "", "no items are here", AGAIN);
        return None;
    }
    let ids = unique(items.iter().map(|item| item.id.clone()).collect(), &file, problems)?;
    let provenance = Provenance { path: path.to_path_buf(), format: SourceFormat::Native, dtype: Some(dtype), about };
    Some(Native { ids, items, shards, dim, dtype, provenance })
}

fn read_manifest(file: &Path) -> Result<Manifest> {
    let all = read_capped(file, MANIFEST_LIMIT)?;
    let unreadable = |error: serde_json::Error| Error::format(file, format!("this cannot be read: {error}"), AGAIN);
    let head: Head = serde_json::from_slice(&all).map_err(unreadable)?;
    if head.format != FORMAT {
        let what = format!("the format is {:?}", head.format);
        return Err(Error::format(file, what, format!("expected {FORMAT:?}")));
    }
    if head.version != VERSION {
        let what = format!("version {} of the format is not known here", head.version);
        return Err(Error::format(file, what, format!("expected version {VERSION}: update moviola, or convert again")));
    }
    serde_json::from_slice(&all).map_err(unreadable)
}

fn open_shard(path: &Path, shard: Shard) -> Result<(PathBuf, Shard, Mapped)> {
    let stem = shard.file.strip_suffix(".safetensors").unwrap_or("");
    if !is_file_name(stem) {
        let what = format!("the shard {:?} is no plain name of a .safetensors file", shard.file);
        return Err(Error::format(path.join(MANIFEST), what, AGAIN));
    }
    let place = path.join(&shard.file);
    let map = Mapped::open(&place)?;
    if map.len() as u64 != shard.bytes {
        let what = format!("the file has {} bytes, the manifest says {}", map.len(), shard.bytes);
        return Err(Error::format(place, what, AGAIN));
    }
    Ok((place, shard, map))
}

/// The span of an item in its shard, in bytes, if it lies behind the header and within the file.
fn span(item: &Item, map: &Mapped, dim: usize, dtype: TokenDtype) -> Option<(u64, u64)> {
    let (header, _) = map.split_first_chunk::<8>()?;
    let start = u64::from_le_bytes(*header).checked_add(8)?;
    let end = item.offset.checked_add(dtype.bytes_of(item.rows as u64, dim as u64)?)?;
    (item.offset >= start && end <= map.len() as u64).then_some((item.offset, end))
}

fn sound_item(
    item: &Item,
    shards: &[(PathBuf, Shard, Mapped)],
    dim: usize,
    dtype: TokenDtype,
) -> Result<(), Complaint> {
    if item.id.is_empty() {
        return Err(Complaint::new("an id is empty", AGAIN));
    }
    if item.rows == 0 {
        let fix = "encode it again, or remove it together with its captions";
        return Err(Complaint::new("zero length: it has no rows", fix));
    }
    let Some((place, _, map)) = shards.get(item.shard) else {
        return Err(Complaint::new(format!("shard {} is not in the list of {}", item.shard, shards.len()), AGAIN));
    };
    if span(item, map, dim, dtype).is_none() {
        let what = format!("{} rows at byte {} lie outside {}", item.rows, item.offset, place.display());
        return Err(Complaint::new(what, AGAIN));
    }
    if let Some(times) = &item.timestamps {
        sound_times(times, item.rows)?;
    }
    Ok(())
}

/// Times of rows: one a row, finite, not decreasing.
pub(crate) fn sound_times(times: &[f32], rows: usize) -> Result<(), Complaint> {
    let fix = "give one time in seconds a row, none before the last, or leave them out";
    if times.len() != rows {
        return Err(Complaint::new(format!("{} timestamps for {rows} rows", times.len()), fix));
    }
    let first_bad = times
        .iter()
        .position(|time| !time.is_finite())
        .or_else(|| times.windows(2).position(|pair| matches!(pair, [a, b] if b < a)).map(|earlier| earlier + 1));
    match first_bad {
        Some(row) => Err(Complaint::new(format!("the timestamp of row {row} is not after those before"), fix)),
        None => Ok(()),
    }
}

fn overlaps(items: &[Item], dim: usize, dtype: TokenDtype, file: &Path, problems: &mut Problems) {
    let mut order: Vec<&Item> = items.iter().collect();
    order.sort_by_key(|item| (item.shard, item.offset));
    for pair in order.windows(2) {
        if let [a, b] = pair
            && a.shard == b.shard
            && dtype.bytes_of(a.rows as u64, dim as u64).is_some_and(|length| b.offset - a.offset < length)
        {
            problems.error(file, &b.id, format!("its bytes overlap those of {}", a.id), AGAIN);
        }
    }
}

impl TokenSource for Native {
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
            let (place, _, map) = self.shards.get(item.shard)?;
            let (begin, end) = span(item, map, self.dim, self.dtype)?;
            Some((item, place, map.get(begin as usize..end as usize)?))
        });
        let Some((item, place, bytes)) = found else { return Err(wrong_room(self, i, out.len())) };
        if item.rows.checked_mul(self.dim) != Some(out.len()) {
            return Err(wrong_room(self, i, out.len()));
        }
        decode(place, &item.id, self.dtype, bytes, self.dim, out)
    }
    fn timestamps(&self, i: usize) -> Option<Cow<'_, [f32]>> {
        match self.items.get(i).and_then(|item| item.timestamps.as_deref()) {
            Some(times) => Some(Cow::Borrowed(times)),
            None => self.provenance.about.fps.map(|fps| times_at(fps, self.rows(i))),
        }
    }
    fn file(&self, i: usize) -> Option<&str> {
        self.items.get(i)?.file.as_deref()
    }
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }
    fn find(&self, id: &str) -> Option<usize> {
        self.ids.find(id)
    }

    /// Compares every shard with its SHA-256, and its own header with the manifest.
    fn verify(&self, problems: &mut Problems) {
        let sums: Vec<_> = self.shards.par_iter().map(|(_, _, map)| hex(&Sha256::digest(&map[..]))).collect();
        for (s, ((place, shard, map), sum)) in self.shards.iter().zip(sums).enumerate() {
            if sum != shard.sha256 {
                let what = format!("the SHA-256 is {sum}, the manifest says {}", shard.sha256);
                problems.error(place, "", what, AGAIN);
                continue;
            }
            let content = safetensors::read(map);
            for (name, Complaint { what, fix }) in content.complaints {
                problems.error(place, &name, what, fix);
            }
            let entries: HashMap<_, _> =
                content.entries.iter().map(|e| (e.name.as_str(), (e.offset as u64, e.rows, e.dim))).collect();
            for item in self.items.iter().filter(|item| item.shard == s) {
                if entries.get(item.id.as_str()) != Some(&(item.offset, item.rows, self.dim)) {
                    problems.error(place, &item.id, "the shard's header disagrees with the manifest", AGAIN);
                }
            }
        }
    }
}
