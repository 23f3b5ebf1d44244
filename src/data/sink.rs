//! Where generated tokens go: any of the formats that can be read.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::files::{Beside, is_file_name, write_whole};
use super::folder::PROVENANCE;
use super::npy;
use super::problem::Complaint;
use super::shard_writer::{SHARD_BYTES, ShardOptions, ShardWriter};
use super::tokens::{About, TokenDtype};
use crate::error::{Error, Result};

/// A format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// One `.npy` an item.
    Npy,
    /// A folder of `.safetensors`, names = ids.
    Safetensors,
    /// Shards and a manifest.
    Native,
}

/// A folder of tokens that is being written; it appears when finished.
pub enum Sink {
    Npy { beside: Beside, about: Box<About>, dim: usize, dtype: TokenDtype },
    Shards(Box<ShardWriter>),
}

impl Sink {
    /// # Errors
    /// [`Error::Format`] if `target` is a folder that holds something, [`Error::Config`] for a dtype the format lacks.
    pub fn create(target: &Path, format: OutputFormat, about: About, dim: usize, dtype: TokenDtype) -> Result<Self> {
        if format == OutputFormat::Npy {
            let beside = Beside::new(target)?;
            fs::create_dir(beside.partial()).map_err(Error::io("create", target))?;
            return Ok(Self::Npy { beside, about: Box::new(about), dim, dtype });
        }
        let options = ShardOptions { dtype, shard_bytes: SHARD_BYTES, manifest: format == OutputFormat::Native };
        Ok(Self::Shards(Box::new(ShardWriter::create(target, about, dim, options)?)))
    }

    /// Adds one item, `[rows, dim]`; only the native format keeps `timestamps`.
    pub fn push(&mut self, id: &str, tokens: &[f32], timestamps: Option<&[f32]>) -> Result<()> {
        match self {
            Self::Shards(writer) => writer.push(id, tokens, timestamps),
            Self::Npy { beside, dim, dtype, .. } => {
                if !is_file_name(id) {
                    let complaint = Complaint::new("this id cannot be the name of a file", "choose another format");
                    return Err(complaint.at(beside.target(), id));
                }
                let name = format!("{id}.npy");
                let (place, path) = (beside.target().join(&name), beside.partial().join(&name));
                let all = npy::file_bytes(&place, *dtype, *dim, tokens)?;
                // A flush to disk for each of 10,000 files would take minutes; the folder's appearance is atomic.
                let mut file = File::create_new(path).map_err(Error::io("create", &place))?;
                file.write_all(&all).map_err(Error::io("write", &place))
            }
        }
    }

    /// Puts the folder in its place.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Shards(writer) => writer.finish().map(|_| ()),
            Self::Npy { beside, about, .. } => {
                let place = beside.target().join(PROVENANCE);
                let text = serde_json::to_vec_pretty(&about).map_err(|e| Error::io("write", &place)(e.into()))?;
                write_whole(&beside.partial().join(PROVENANCE), &text)?;
                beside.keep()
            }
        }
    }
}
