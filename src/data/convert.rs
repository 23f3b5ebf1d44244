//! Any readable source → native shards.

use std::path::Path;

use super::problem::Complaint;
use super::shard_writer::{SHARD_BYTES, ShardOptions, ShardWriter, Written};
use super::source;
use super::tokens::{About, Kind, TokenDtype, TokenSource, times_at};
use crate::error::{Error, Result};

/// How far the length of a normalised row may be from 1: f16 rows of 1024 values stay well within.
pub(crate) const UNIT_TOLERANCE: f32 = 0.01;

/// What a person knows of the features; what is `None` is taken from the source.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertOptions {
    /// f16 or f32.
    pub dtype: TokenDtype,
    pub kind: Option<Kind>,
    pub encoder: Option<String>,
    pub layer: Option<String>,
    /// `Some(true)` is checked on every row; without a word here or in the source, it is measured.
    pub normalised: Option<bool>,
    pub fps: Option<f32>,
    /// Whether the last row of each text is its sentence vector.
    pub sentence: Option<bool>,
    /// Bytes of values a shard.
    pub shard_bytes: u64,
    /// Converts only so many items.
    pub limit: Option<usize>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            dtype: TokenDtype::F16,
            kind: None,
            encoder: None,
            layer: None,
            normalised: None,
            fps: None,
            sentence: None,
            shard_bytes: SHARD_BYTES,
            limit: None,
        }
    }
}

/// Converts `from` to a new native folder `to`. `progress(done, all)` is called after each item; `false` stops.
///
/// # Errors
/// Whatever is wrong with an item, naming it; [`Error::Config`] if the options contradict the source;
/// [`Error::Stopped`]. Nothing is left behind then.
pub fn convert(
    from: &Path,
    to: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Written> {
    let source = source::open(from)?;
    let about = agreed(&source.provenance().about, options)?;
    let claimed = about.normalised;
    let fps = about.fps;
    let shards = ShardOptions { dtype: options.dtype, shard_bytes: options.shard_bytes, manifest: true };
    let mut writer = ShardWriter::create(to, about, source.dim(), shards)?;
    let count = source.len().min(options.limit.unwrap_or(usize::MAX));
    let mut buffer = Vec::new();
    let mut all_unit = true;
    for (i, id) in source.ids().iter().take(count).enumerate() {
        buffer.resize(source.rows(i).saturating_mul(source.dim()), 0.0);
        source.load_into(i, &mut buffer)?;
        if let Some((row, length)) = not_unit(&buffer, source.dim()) {
            all_unit = false;
            if claimed == Some(true) {
                let what = format!("row {row} has length {length}, the features are said to be normalised");
                return Err(Complaint::new(what, "normalise them, or say they are not").at(from, id));
            }
        }
        writer.push_file(
            (id, source.file(i).map(|file| (file, None))),
            &buffer,
            own_times(&*source, i, fps).as_deref(),
        )?;
        if !progress(i + 1, count) {
            return Err(Error::Stopped);
        }
    }
    writer.set_normalised(claimed.unwrap_or(all_unit));
    writer.finish()
}

/// Times that do not follow from the frame rate.
fn own_times(source: &dyn TokenSource, i: usize, fps: Option<f32>) -> Option<Vec<f32>> {
    let times = source.timestamps(i)?;
    let regular = fps.is_some_and(|fps| times_at(fps, times.len()) == times);
    (!regular).then(|| times.into_owned())
}

/// The first row whose length is not 1, and its length.
pub(crate) fn not_unit(values: &[f32], dim: usize) -> Option<(usize, f32)> {
    let lengths = values.chunks_exact(dim.max(1)).map(length);
    lengths.enumerate().find(|(_, length)| (length - 1.0).abs() > UNIT_TOLERANCE)
}

/// The Euclidean length of a row.
pub(crate) fn length(row: &[f32]) -> f32 {
    row.iter().map(|v| v * v).sum::<f32>().sqrt()
}

fn agreed(said: &About, options: &ConvertOptions) -> Result<About> {
    fn one<T: Clone + PartialEq + std::fmt::Debug>(key: &str, file: &Option<T>, flag: &Option<T>) -> Result<Option<T>> {
        match (file, flag) {
            (Some(file), Some(flag)) if file != flag => {
                let what = format!("the source says {file:?}, you say {flag:?}");
                Err(Error::config(key, what, "leave it out, or correct the source"))
            }
            _ => Ok(flag.clone().or_else(|| file.clone())),
        }
    }
    Ok(About {
        kind: one("kind", &said.kind, &options.kind)?,
        encoder: one("encoder", &said.encoder, &options.encoder)?,
        layer: one("layer", &said.layer, &options.layer)?,
        normalised: one("normalised", &said.normalised, &options.normalised)?,
        fps: one("fps", &said.fps, &options.fps)?,
        sentence: one("sentence", &said.sentence, &options.sentence)?,
        origin: said.origin.clone(),
        pictures: said.pictures.clone(),
    })
}
