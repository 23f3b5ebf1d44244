//! From a text to the numbers of its pieces, by the checkpoint's own tokenizer.json.

use crate::data::files::read_capped;
use crate::error::{Error, Result, bytes};
use std::path::{Path, PathBuf};
use tokenizers::TruncationParams;

/// Tables of 250,000 pieces take 17 MB.
const FILE_LIMIT: u64 = 256 << 20;
/// A text is a caption or a page; more than this is a file.
const TEXT_LIMIT: usize = 1 << 20;

/// The pieces of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    pub ids: Vec<u32>,
    /// As they are written in the vocabulary.
    pub names: Vec<String>,
    /// Whether a piece stands for no part of the text: its beginning, its end.
    pub special: Vec<bool>,
    /// Whether the text was longer than what fits.
    pub cut: bool,
}

pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    longest: usize,
    /// Rows that the encoder has for pieces.
    vocabulary: usize,
}

impl Tokenizer {
    /// Opens `tokenizer.json` of a folder; texts are cut to `longest` pieces, special ones included. The
    /// encoder knows pieces up to `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Format`] when it is missing or damaged.
    pub fn open(dir: &Path, longest: usize, vocabulary: usize) -> Result<Tokenizer> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let fix = "download tokenizer.json of the checkpoint; with vocab.txt or merges.txt alone, \
                       AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers writes it";
            return Err(Error::format(dir, "has no tokenizer.json", fix));
        }
        let content = read_capped(&path, FILE_LIMIT)?;
        let bad = |e: tokenizers::Error| Error::format(&path, format!("is no tokenizer ({e})"), "download it again");
        let mut inner = tokenizers::Tokenizer::from_bytes(content).map_err(bad)?;
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams { max_length: longest, ..TruncationParams::default() }))
            .map_err(bad)?;
        Ok(Tokenizer { path, inner, longest, vocabulary })
    }

    /// # Errors
    /// When the text is longer than a MiB, or holds what the vocabulary cannot say.
    pub fn pieces(&self, text: &str) -> Result<Pieces> {
        if text.len() > TEXT_LIMIT {
            let what = format!("a text has {}, more than {}", bytes(text.len() as u64), bytes(TEXT_LIMIT as u64));
            return Err(Error::format(&self.path, what, "cut it: what is encoded is its beginning"));
        }
        let encoding = self.inner.encode(text, true).map_err(|e| {
            Error::format(&self.path, format!("cannot take {text:?} apart ({e})"), "use another checkpoint")
        })?;
        let ids = encoding.get_ids().to_vec();
        if ids.len() > self.longest {
            let what = format!("makes {} pieces where {} fit", ids.len(), self.longest);
            return Err(Error::format(&self.path, what, "it belongs to another checkpoint: download its own"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let what = format!("makes piece {id} and the encoder has {} of them", self.vocabulary);
            return Err(Error::format(&self.path, what, "it belongs to another checkpoint: download its own"));
        }
        Ok(Pieces {
            ids,
            names: encoding.get_tokens().to_vec(),
            special: encoding.get_special_tokens_mask().iter().map(|m| *m != 0).collect(),
            cut: !encoding.get_overflowing().is_empty(),
        })
    }
}
