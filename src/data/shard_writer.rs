//! Writes the native format, or plain safetensors files, beside the target and renames when all is there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;

use super::files::Beside;
use super::problem::Complaint;
use super::safetensors::{self, Writer};
use super::shard::{FORMAT, Item, MANIFEST, Manifest, Shard, VERSION, sound_times};
use super::tokens::{About, TokenDtype, encode};
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

/// Dropped before [`ShardWriter::finish`], it leaves nothing behind.
pub struct ShardWriter {
    beside: Beside,
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
        Ok(Self {
            beside,
            options,
            about,
            dim,
            buffer: Vec::new(),
            pending: Vec::new(),
            seen: HashSet::new(),
            items: Vec::new(),
            shards: Vec::new(),
        })
    }

    /// Adds one item that was made of no file; see [`ShardWriter::push_file`].
    ///
    /// # Errors
    /// The same.
    pub fn push(&mut self, id: &str, tokens: &[f32], timestamps: Option<&[f32]>) -> Result<()> {
        self.push_file((id, None), tokens, timestamps)
    }

    /// Adds one item, with the file it was made of if there is one: `tokens` is `[rows, dim]`, `timestamps` are seconds
    /// `[rows]`.
    ///
    /// # Errors
    /// [`Error::Data`] naming `id` for a duplicate, no rows, values that are not finite or do not fit f16, bad times;
    /// [`Error::Io`] when a full shard cannot be written.
    pub fn push_file(
        &mut self,
        (id, file): (&str, Option<&str>),
        tokens: &[f32],
        timestamps: Option<&[f32]>,
    ) -> Result<()> {
        let target = self.beside.target().to_path_buf();
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
        let file = file.map(str::to_string);
        self.pending.push(Item { id: id.to_string(), shard: self.shards.len(), offset, rows, timestamps, file });
        Ok(())
    }

    /// Where files can be put that are to appear together with the shards.
    pub fn partial(&self) -> &Path {
        self.beside.partial()
    }

    /// Records whether all rows have length 1, when that is known only at the end.
    pub fn set_normalised(&mut self, normalised: bool) {
        self.about.normalised = Some(normalised);
    }

    /// Writes what is left and the manifest, then puts the folder in its place.
    pub fn finish(mut self) -> Result<Written> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        let Self { beside, options, about, dim, items, shards, .. } = self;
        if items.is_empty() {
            return Err(Error::format(beside.target(), "there is nothing to write", "give at least one item"));
        }
        let written = Written {
            items: items.len(),
            rows: items.iter().map(|item| item.rows as u64).sum(),
            shards: shards.len(),
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
        };
        if options.manifest {
            let place = beside.target().join(MANIFEST);
            let manifest =
                Manifest { format: FORMAT.into(), version: VERSION, about, dim, dtype: options.dtype, items, shards };
            let mut file = File::create(beside.partial().join(MANIFEST)).map_err(Error::io("create", &place))?;
            let text = serde_json::to_vec(&manifest).map_err(|e| Error::io("write", &place)(e.into()))?;
            std::io::Write::write_all(&mut file, &text).map_err(Error::io("write", &place))?;
            file.sync_all().map_err(Error::io("write", &place))?;
        }
        beside.keep()?;
        Ok(written)
    }

    /// Writes the shard that is being filled.
    fn flush(&mut self) -> Result<()> {
        let name = format!("shard-{:05}.safetensors", self.shards.len());
        let place = self.beside.target().join(&name);
        let file = File::create(self.beside.partial().join(&name)).map_err(Error::io("create", &place))?;
        let metadata = safetensors::metadata(&self.about);
        let sizes: Vec<_> = self.pending.iter().map(|item| (item.id.clone(), item.rows)).collect();
        let mut writer =
            Writer::new(file, &metadata, self.options.dtype, self.dim, &sizes).map_err(Error::io("write", &place))?;
        let start = writer.written();
        writer.write(&self.buffer).map_err(Error::io("write", &place))?;
        let (file, bytes, sha256) = writer.finish();
        file.sync_all().map_err(Error::io("write", &place))?;
        self.shards.push(Shard { file: name, bytes, sha256 });
        self.items.extend(self.pending.drain(..).map(|item| Item { offset: item.offset + start, ..item }));
        self.buffer.clear();
        Ok(())
    }
}
