//! An index: native shards of videos, and beside them `index.json`, which says by which encoder one asks it.

use super::files::{read_capped, write_whole};
use super::source;
use super::tokens::TokenSource;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub const FILE: &str = "index.json";
const FORMAT: &str = "moviola-index";
const VERSION: u32 = 1;
const LIMIT: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    version: u32,
    /// Where the encoder's folder was when the index was made, absolute.
    encoder: PathBuf,
    /// Positions that its text tower is stretched to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    positions: Option<usize>,
}

fn text(encoder: &Path, positions: Option<usize>) -> Result<String> {
    let place = encoder.canonicalize().map_err(Error::io("open", encoder))?;
    let file = File { format: FORMAT.into(), version: VERSION, encoder: place, positions };
    serde_json::to_string_pretty(&file).map_err(|e| Error::io("write", FILE)(e.into()))
}

/// Whether the file in `dir` is this; one that cannot be read is not.
fn says(dir: &Path, text: &str) -> bool {
    read_capped(&dir.join(FILE), LIMIT).is_ok_and(|there| there == text.as_bytes())
}

/// An opened index.
pub struct Index {
    pub videos: Box<dyn TokenSource>,
    /// Where the encoder's folder was.
    pub encoder: PathBuf,
    /// Positions that queries stretch its text tower to; none for those that it has.
    pub positions: Option<usize>,
    dir: PathBuf,
}

impl Index {
    /// Makes an index of a folder of native shards, also of one that is still being written. An index that says the same
    /// is left as it is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(dir: &Path, encoder: &Path, positions: Option<usize>) -> Result<()> {
        let text = text(encoder, positions)?;
        if says(dir, &text) { Ok(()) } else { write_whole(&dir.join(FILE), text.as_bytes()) }
    }

    /// Whether [`Index::create`] would leave what is there as it is.
    ///
    /// # Errors
    /// As [`Index::create`].
    pub fn is_current(dir: &Path, encoder: &Path, positions: Option<usize>) -> Result<bool> {
        Ok(says(dir, &text(encoder, positions)?))
    }

    /// # Errors
    /// [`Error::Format`] for what is no index, or one of another version; those of the shards.
    pub fn open(dir: &Path) -> Result<Index> {
        let place = dir.join(FILE);
        if !place.exists() {
            return Err(Error::format(dir, format!("is no index: it has no {FILE}"), "make one with `moviola index`"));
        }
        let again = "make it again with `moviola index`";
        let file: File = serde_json::from_slice(&read_capped(&place, LIMIT)?)
            .map_err(|e| Error::format(&place, format!("cannot be read ({e})"), again))?;
        if file.format != FORMAT || file.version != VERSION {
            let what = format!("is {} version {}, this program reads {FORMAT} {VERSION}", file.format, file.version);
            return Err(Error::format(place, what, again));
        }
        let File { encoder, positions, .. } = file;
        Ok(Index { videos: source::open(dir)?, encoder, positions, dir: dir.into() })
    }

    /// Refuses a query by another encoder than that of the videos.
    ///
    /// # Errors
    /// [`Error::Config`] that names both.
    pub fn asked_by(&self, identity: &str) -> Result<()> {
        match &self.videos.provenance().about.encoder {
            Some(own) if own == identity => Ok(()),
            own => {
                let own = own.as_deref().unwrap_or("an encoder that is not named");
                let what = format!("{} was made by {own}, and the query by {identity}", self.dir.display());
                Err(Error::config(
                    "--encoder",
                    what,
                    "ask with the index's own encoder, or make an index with this one",
                ))
            }
        }
    }

    /// The file that video `i` was made of, as far as is known. A name that leads out of the folder is not followed.
    pub fn file(&self, i: usize) -> Option<PathBuf> {
        let origin = self.videos.provenance().about.origin.as_ref()?;
        let file = Path::new(self.videos.file(i)?);
        let plain = file.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        plain.then(|| origin.folder.join(file))
    }

    /// Seconds for which a frame stands where no other follows.
    pub fn lasts(&self) -> f32 {
        match self.videos.provenance().about.origin.as_ref().map(|o| o.sampling) {
            Some(super::media::Sampling::Fps(fps)) if fps > 0.0 => 1.0 / fps,
            _ => 0.0,
        }
    }
}
