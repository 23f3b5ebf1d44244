//! Writes the native format, or plain safetensors files, beside the target and renames when all is there. A native folder
//! that is there can be renewed: new shards are written among the old ones, which count until the manifest is replaced.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::files::{Beside, sync, write_whole};
use super::index;
use super::problem::Complaint;
use super::safetensors::{self, Writer};
use super::shard::{FORMAT, Item, MANIFEST, Manifest, Native, Shard, VERSION, sound_times};
use super::tokens::{About, TokenDtype, TokenSource, encode};
use crate::error::{Error, Result};

/// Bytes of values after which a new shard begins, unless told otherwise.
pub const SHARD_BYTES: u64 = 256 << 20;

/// How shards are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardOptions {
    /// f16 or f32.
    pub dtype: TokenDtype,
    /// Bytes of values a shard; the shard that is being filled lives in memory.
    pub shard_bytes: u64,
    /// With the manifest it is the native format; without, a folder of safetensors files.
    pub manifest: bool,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self { dtype: TokenDtype::F16, shard_bytes: SHARD_BYTES, manifest: true }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    pub items: usize,
    pub rows: u64,
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// Where the shards go.
enum Place {
    New(Beside),
    /// A folder whose manifest will be replaced.
    Renewed(PathBuf),
}

impl Place {
    /// Where it will be.
    fn target(&self) -> &Path {
        match self {
            Place::New(beside) => beside.target(),
            Place::Renewed(target) => target,
        }
    }
    /// Where to write.
    fn partial(&self) -> &Path {
        match self {
            Place::New(beside) => beside.partial(),
            Place::Renewed(target) => target,
        }
    }
}

/// What an item was made of: the file, and which state of it, as whoever made it tells states apart.
pub type MadeOf<'a> = Option<(&'a str, Option<&'a str>)>;

/// Dropped before [`ShardWriter::finish`], it leaves nothing behind; in a folder that is renewed, shards that nobody knows.
pub struct ShardWriter {
    place: Place,
    options: ShardOptions,
    about: About,
    dim: usize,
    /// Values of the shard that is being filled.
    buffer: Vec<u8>,
    /// Its items; offsets count from the first value.
    pending: Vec<Item>,
    seen: HashSet<String>,
    items: Vec<Item>,
    shards: Vec<Shard>,
    /// Number in the name of the next shard.
    number: usize,
}

impl ShardWriter {
    /// # Errors
    /// [`Error::Format`] if `target` is a folder that holds something, [`Error::Config`] for other dtypes.
    pub fn create(target: &Path, about: About, dim: usize, options: ShardOptions) -> Result<Self> {
        if !matches!(options.dtype, TokenDtype::F16 | TokenDtype::F32) {
            let what = format!("shards do not hold {}", options.dtype.name());
            return Err(Error::config("dtype", what, "choose f16 or f32"));
        }
        if dim == 0 {
            return Err(Error::config("dim", "rows without values", "give a dim of at least 1"));
        }
        let about = super::folder::sound(about, target)?;
        let beside = Beside::new(target)?;
        fs::create_dir(beside.partial()).map_err(Error::io("create", target))?;
        Ok(Self::at(Place::New(beside), about, dim, options))
    }

    fn at(place: Place, about: About, dim: usize, options: ShardOptions) -> Self {
        let (buffer, pending, seen) = (vec![], vec![], HashSet::new());
        Self { place, options, about, dim, buffer, pending, seen, items: vec![], shards: vec![], number: 0 }
    }

    /// Renews the native folder `old`: what `keep` says of an item, by its position, is kept bit for bit, all else goes,
    /// and more can be pushed. Shards that are kept whole stay as they are unless they are small; of others the kept
    /// items are written again. [`ShardWriter::finish`] orders all items by id.
    ///
    /// # Errors
    /// What of the kept items cannot be read or written.
    pub fn renew(old: Native, about: About, keep: impl Fn(usize) -> bool, shard_bytes: u64) -> Result<Self> {
        let provenance = old.provenance();
        let (target, dtype) = (provenance.path.clone(), provenance.dtype.unwrap_or(TokenDtype::F16));
        let options = ShardOptions { dtype, shard_bytes, manifest: true };
        let about = super::folder::sound(about, &target)?;
        let mut writer = Self::at(Place::Renewed(target), about, old.dim(), options);
        // Small ones are joined, or a folder that grows by a file a day would have a shard a day.
        let mut stays: Vec<bool> = old.shards().map(|shard| shard.bytes >= shard_bytes / 2).collect();
        for i in (0..old.len()).filter(|i| !keep(*i)) {
            stays[old.item(i).shard] = false;
        }
        let names = old.shards().map(|shard| &shard.file);
        let number = |name: &String| name.strip_prefix("shard-")?.split('.').next()?.parse::<usize>().ok();
        writer.number = names.filter_map(number).max().map_or(Ok(0), |n| after(n, &provenance.path))?;
        let mut placed = vec![None; stays.len()];
        for (s, shard) in old.shards().enumerate().filter(|(s, _)| stays[*s]) {
            placed[s] = Some(writer.shards.len());
            writer.shards.push(shard.clone());
        }
        for i in (0..old.len()).filter(|i| keep(*i)) {
            let item = old.item(i);
            if let Some(shard) = placed[item.shard] {
                writer.seen.insert(item.id.clone());
                writer.items.push(Item { shard, ..item.clone() });
            } else {
                let made_of = item.file.as_deref().map(|file| (file, item.stamp.as_deref()));
                writer.push_file((&item.id, made_of), &old.load(i)?.data, item.timestamps.as_deref())?;
            }
        }
        Ok(writer)
    }

    /// Adds one item that was made of no file; see [`ShardWriter::push_file`].
    ///
    /// # Errors
    /// The same.
    pub fn push(&mut self, id: &str, tokens: &[f32], timestamps: Option<&[f32]>) -> Result<()> {
        self.push_file((id, None), tokens, timestamps)
    }

    /// Adds one item, with what it was made of if that was a file: `tokens` is `[rows, dim]`, `timestamps` are seconds
    /// `[rows]`.
    ///
    /// # Errors
    /// [`Error::Data`] naming `id` for a duplicate, no rows, values that are not finite or do not fit f16, bad times;
    /// [`Error::Io`] when a full shard cannot be written.
    pub fn push_file(
        &mut self,
        (id, made_of): (&str, MadeOf),
        tokens: &[f32],
        timestamps: Option<&[f32]>,
    ) -> Result<()> {
        let target = self.place.target().to_path_buf();
        if id.is_empty() || id == "__metadata__" || self.seen.contains(id) {
            return Err(
                Complaint::new("this id is empty, reserved or already there", "give each item its own").at(&target, id)
            );
        }
        let rows = tokens.len() / self.dim;
        if rows == 0 || !tokens.len().is_multiple_of(self.dim) {
            let what = format!("zero length or torn: {} values are no rows of {}", tokens.len(), self.dim);
            return Err(Complaint::new(what, "encode it again").at(&target, id));
        }
        if let Some(times) = timestamps {
            sound_times(times, rows).map_err(|complaint| complaint.at(&target, id))?;
        }
        let length = (tokens.len() * self.options.dtype.size()) as u64;
        if !self.pending.is_empty() && self.buffer.len() as u64 + length > self.options.shard_bytes {
            self.flush()?;
        }
        let offset = self.buffer.len();
        if let Err(error) = encode(&target, id, self.options.dtype, self.dim, tokens, &mut self.buffer) {
            self.buffer.truncate(offset);
            return Err(error);
        }
        self.seen.insert(id.to_string());
        let (offset, timestamps) = (offset as u64, timestamps.map(<[f32]>::to_vec));
        let file = made_of.map(|(file, _)| file.to_string());
        let stamp = made_of.and_then(|(_, stamp)| stamp).map(str::to_string);
        self.pending.push(Item { id: id.to_string(), shard: 0, offset, rows, timestamps, file, stamp });
        Ok(())
    }

    /// Where files can be put that are to appear together with the shards.
    pub fn partial(&self) -> &Path {
        self.place.partial()
    }

    /// Records whether all rows have length 1, when that is known only at the end.
    pub fn set_normalised(&mut self, normalised: bool) {
        self.about.normalised = Some(normalised);
    }

    /// Writes what is left and the manifest, then puts the folder in its place; a renewed one changes with its manifest,
    /// at once and for good, and shards that it does not name are removed.
    pub fn finish(mut self) -> Result<Written> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        let Self { place, options, about, dim, mut items, shards, .. } = self;
        if items.is_empty() {
            return Err(Error::format(place.target(), "there is nothing to write", "give at least one item"));
        }
        let written = Written {
            items: items.len(),
            rows: items.iter().map(|item| item.rows as u64).sum(),
            shards: shards.len(),
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
        };
        if matches!(place, Place::Renewed(_)) {
            items.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let known: HashSet<String> = shards.iter().map(|shard| shard.file.clone()).collect();
        if options.manifest {
            let manifest =
                Manifest { format: FORMAT.into(), version: VERSION, about, dim, dtype: options.dtype, items, shards };
            let to = place.target().join(MANIFEST);
            let text = serde_json::to_vec(&manifest).map_err(|e| Error::io("write", &to)(e.into()))?;
            sync(place.partial())?;
            write_whole(&place.partial().join(MANIFEST), &text)?;
        }
        match place {
            Place::New(beside) => beside.keep()?,
            Place::Renewed(target) => remove_unknown(&target, &known),
        }
        Ok(written)
    }

    /// Writes the shard that is being filled.
    fn flush(&mut self) -> Result<()> {
        let (name, file, place) = loop {
            let name = format!("shard-{:05}.safetensors", self.number);
            let place = self.place.target().join(&name);
            self.number = after(self.number, self.place.target())?;
            // What a run that was broken off has left is passed over, and removed at the end.
            match File::create_new(self.place.partial().join(&name)) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => break (name, made.map_err(Error::io("create", &place))?, place),
            }
        };
        let metadata = safetensors::metadata(&self.about);
        let sizes: Vec<_> = self.pending.iter().map(|item| (item.id.clone(), item.rows)).collect();
        let mut writer =
            Writer::new(file, &metadata, self.options.dtype, self.dim, &sizes).map_err(Error::io("write", &place))?;
        let start = writer.written();
        writer.write(&self.buffer).map_err(Error::io("write", &place))?;
        let (file, bytes, sha256) = writer.finish();
        file.sync_all().map_err(Error::io("write", &place))?;
        let shard = self.shards.len();
        self.shards.push(Shard { file: name, bytes, sha256 });
        self.items.extend(self.pending.drain(..).map(|item| Item { shard, offset: item.offset + start, ..item }));
        self.buffer.clear();
        Ok(())
    }
}

/// The number of the shard after number `n`.
fn after(n: usize, target: &Path) -> Result<usize> {
    let what = format!("has a shard of number {n}, and none can follow");
    n.checked_add(1).ok_or_else(|| Error::format(target, what, "convert it to another folder"))
}

/// Removes what a run that was broken off has left in a native folder.
pub fn clear(native: &Native) {
    let known = native.shards().map(|shard| shard.file.clone()).collect();
    remove_unknown(&native.provenance().path, &known);
}

/// Removes shards that the manifest does not name, old ones and those of a run that was broken off, and manifests and
/// index.json that never took their place.
fn remove_unknown(dir: &Path, known: &HashSet<String>) {
    let ours = |name: &str| {
        let number = name.strip_prefix("shard-").and_then(|rest| rest.strip_suffix(".safetensors"));
        number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
            || [MANIFEST, index::FILE].iter().any(|file| name.starts_with(&format!(".{file}.partial-")))
    };
    // What cannot be removed costs its bytes and nothing else: it is tried again the next time.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| ours(name) && !known.contains(name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::problem::Problems;

    /// The values of all items.
    fn values(dir: &Path) -> Vec<(String, Vec<f32>)> {
        let source = Native::open(dir).unwrap();
        source.ids().iter().enumerate().map(|(i, id)| (id.clone(), source.load(i).unwrap().data)).collect()
    }

    #[test]
    fn a_folder_that_is_renewed_is_the_old_one_until_it_is_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        // Two items fill a shard.
        let options = ShardOptions { dtype: TokenDtype::F32, shard_bytes: 400, manifest: true };
        let rows = |seed: usize| (0..40).map(|i| (seed * 100 + i) as f32 / 3.0).collect::<Vec<f32>>();
        let mut writer = ShardWriter::create(&target, About::default(), 4, options).unwrap();
        for (i, id) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            writer.push_file((id, Some(("file", Some("state")))), &rows(i), None).unwrap();
        }
        writer.finish().unwrap();
        let old = values(&target);
        let shard = |n: usize| fs::read(target.join(format!("shard-{n:05}.safetensors"))).ok();
        let kept = [shard(0), shard(1), shard(2)];
        let renew = || {
            let native = Native::open(&target).unwrap();
            // So that the shard of one item is a small one.
            let full = 2 * kept[0].as_ref().unwrap().len() as u64;
            let mut writer = ShardWriter::renew(native, About::default(), |i| i != 2, full).unwrap();
            writer.push("ab", &rows(7), None).unwrap();
            writer
        };
        // A shard whose number no other follows.
        let manifest = fs::read_to_string(target.join("manifest.json")).unwrap();
        let last = format!("shard-{}.safetensors", usize::MAX);
        fs::copy(target.join("shard-00002.safetensors"), target.join(&last)).unwrap();
        fs::write(target.join("manifest.json"), manifest.replace("shard-00002.safetensors", &last)).unwrap();
        let none = ShardWriter::renew(Native::open(&target).unwrap(), About::default(), |_| true, 400).err().unwrap();
        assert!(none.to_string().contains("none can follow"), "{none}");
        fs::write(target.join("manifest.json"), manifest).unwrap();
        // Killed before its end: what it wrote is there, and nobody knows it.
        std::mem::forget(renew());
        fs::write(target.join(".manifest.json.partial-1-0"), "half").unwrap();
        fs::write(target.join(".index.json.partial-1-0"), "half").unwrap();
        assert_eq!(values(&target), old);
        renew().finish().unwrap();
        let mut expected = old.clone();
        expected.remove(2);
        expected.insert(1, ("ab".into(), rows(7)));
        assert_eq!(values(&target), expected);
        let native = Native::open(&target).unwrap();
        assert_eq!((native.stamp(0), native.stamp(1), native.stamp(4)), (Some("state"), None, Some("state")));
        // The shard of which all was kept is the same; of the one with "c" and the small one, items were written again.
        assert_eq!((shard(0), shard(1), shard(2)), (kept[0].clone(), None, None));
        let mut problems = Problems::default();
        native.verify(&mut problems);
        problems.refuse().unwrap();
        let names: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }
}
