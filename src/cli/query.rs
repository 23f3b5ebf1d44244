//! A sentence against an index: the encoder that both share, and the sentence against all of the index's videos.

use super::{Common, device};
use crate::data::index::Index;
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::text::{Encoded, TextEncoder};
use crate::error::{Error, Result};
use crate::models::zero_shot::ZeroShot;
use clap::Args;
use std::path::{Path, PathBuf};

/// Name of the sentence as a text.
pub const NAME: &str = "query";

/// The flags that name an index.
#[derive(Args, Clone)]
pub struct FromIndex {
    /// Folder that `moviola index` made.
    #[arg(long, value_name = "DIR")]
    pub index: Option<PathBuf>,
    /// Where the index's encoder lies now; where it lay when the index was made, if left out.
    #[arg(long, value_name = "DIR", requires = "index")]
    pub encoder: Option<PathBuf>,
}

impl FromIndex {
    /// # Errors
    /// [`Error::Config`] where no index is named.
    pub fn dir(&self) -> Result<&Path> {
        let none = || Error::config("--index", "is missing", "name a folder that `moviola index` made");
        self.index.as_deref().ok_or_else(none)
    }
}

/// A sentence that is encoded, and the index that it is asked of.
pub struct Query {
    pub index: Index,
    pub encoder: String,
    encoded: Encoded,
}

impl Query {
    /// # Errors
    /// When the index or its encoder cannot be opened, or the encoder is not the index's.
    pub fn open(common: &Common, from: &FromIndex, sentence: &str) -> Result<Query> {
        if sentence.trim().is_empty() {
            return Err(Error::config("sentence", "is empty", "say what is to be found"));
        }
        let dir = from.dir()?;
        let index = Index::open(dir)?;
        let place = from.encoder.as_ref().unwrap_or(&index.encoder);
        if from.encoder.is_none() && !place.exists() {
            let what = format!("the encoder of {} is no longer at {}", dir.display(), place.display());
            return Err(Error::config("--encoder", what, "say where it is"));
        }
        let checkpoint = Checkpoint::open(place)?.stretched(index.positions)?;
        let mut encoder = TextEncoder::of(&checkpoint, device::open(common)?)?;
        index.asked_by(encoder.identity())?;
        let encoded = encoder.encode_one(sentence)?;
        Ok(Query { index, encoder: encoder.identity().into(), encoded })
    }

    /// The sentence beside the videos of the index, on the device.
    ///
    /// # Errors
    /// As [`ZeroShot::new`].
    pub fn ask(&self, common: &Common) -> Result<ZeroShot<'_>> {
        let backend = device::open(&Common { quiet: true, ..common.clone() })?;
        ZeroShot::new(&self.encoded.sentence, &*self.index.videos, backend)
    }
}
