//! From token files to the rows a model takes: texts are cut and get a sentence vector, long videos are sampled evenly.

use super::Config;
use super::batch::Rows;
use crate::data::TokenSource;
use crate::error::{Error, Result};
use std::sync::Mutex;

/// Texts as a model takes them: at most `max_words` word tokens, then the sentence vector.
pub struct TextRows<'a> {
    source: &'a dyn TokenSource,
    max_words: usize,
    has_sentence: bool,
    /// Holds an item that is longer than what is kept of it.
    scratch: Mutex<Vec<f32>>,
}

/// Videos as a model takes them: at most `max_frames` frame tokens.
pub struct VideoRows<'a> {
    source: &'a dyn TokenSource,
    max_frames: usize,
    scratch: Mutex<Vec<f32>>,
}

impl<'a> TextRows<'a> {
    /// # Errors
    /// When the tokens are not as wide as the model's.
    pub fn new(source: &'a dyn TokenSource, config: &Config) -> Result<TextRows<'a>> {
        check_width(source, config.text_dim, "text_dim")?;
        let has_sentence = source.provenance().has_sentence();
        Ok(TextRows { source, max_words: config.max_words, has_sentence, scratch: Mutex::default() })
    }

    fn words(&self, i: usize) -> usize {
        self.source.rows(i).saturating_sub(self.has_sentence as usize)
    }
}

impl<'a> VideoRows<'a> {
    /// # Errors
    /// When the tokens are not as wide as the model's.
    pub fn new(source: &'a dyn TokenSource, config: &Config) -> Result<VideoRows<'a>> {
        check_width(source, config.video_dim, "video_dim")?;
        Ok(VideoRows { source, max_frames: config.max_frames, scratch: Mutex::default() })
    }

    /// The frame of the file that row `r` of item `i` shows.
    pub fn frame(&self, i: usize, r: usize) -> usize {
        let (have, keep) = (self.source.rows(i), self.rows(i));
        if keep == 0 { 0 } else { (2 * r + 1) * have / (2 * keep) }
    }
}

pub(super) fn check_width(source: &dyn TokenSource, dim: usize, key: &str) -> Result<()> {
    if source.dim() == dim {
        return Ok(());
    }
    let place = source.provenance().path.display().to_string();
    let what = format!("tokens are {} wide and the model's {key} is {dim}", source.dim());
    Err(Error::data(place, "all items", what, "use the features the model was trained on, or train a model on these"))
}

/// Runs `f` with item `i` whole in the scratch buffer.
fn with_whole<T>(
    source: &dyn TokenSource,
    scratch: &Mutex<Vec<f32>>,
    i: usize,
    f: impl FnOnce(&[f32]) -> T,
) -> Result<T> {
    // A poisoned lock means that a packer panicked; the buffer is overwritten anyway.
    let mut whole = scratch.lock().unwrap_or_else(|e| e.into_inner());
    whole.resize(source.rows(i) * source.dim(), 0.0);
    source.load_into(i, &mut whole)?;
    Ok(f(&whole))
}

impl Rows for TextRows<'_> {
    fn rows(&self, i: usize) -> usize {
        self.words(i).min(self.max_words) + 1
    }
    fn dim(&self) -> usize {
        self.source.dim()
    }
    fn write(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let dim = self.dim();
        let words = self.words(i);
        let kept = words.min(self.max_words);
        if kept == words && self.has_sentence {
            return self.source.load_into(i, out);
        }
        if kept == words {
            self.source.load_into(i, &mut out[..words * dim])?;
        } else {
            with_whole(self.source, &self.scratch, i, |whole| {
                out[..kept * dim].copy_from_slice(&whole[..kept * dim]);
                if self.has_sentence {
                    out[kept * dim..].copy_from_slice(&whole[words * dim..]);
                }
            })?;
        }
        if !self.has_sentence {
            mean_row(out, kept, dim);
        }
        Ok(())
    }
    fn places(&self, _: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(r, place)| *place = r as f32);
    }
}

/// Writes the mean of the first `rows` rows behind them.
fn mean_row(out: &mut [f32], rows: usize, dim: usize) {
    let (words, mean) = out.split_at_mut(rows * dim);
    mean.fill(0.0);
    for word in words.chunks_exact(dim.max(1)) {
        mean.iter_mut().zip(word).for_each(|(m, w)| *m += w / rows as f32);
    }
}

impl Rows for VideoRows<'_> {
    fn source_row(&self, i: usize, r: usize) -> usize {
        self.frame(i, r)
    }
    fn rows(&self, i: usize) -> usize {
        self.source.rows(i).min(self.max_frames)
    }
    fn dim(&self) -> usize {
        self.source.dim()
    }
    fn write(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let dim = self.dim();
        let kept = self.rows(i);
        if kept == self.source.rows(i) {
            return self.source.load_into(i, out);
        }
        with_whole(self.source, &self.scratch, i, |whole| {
            for r in 0..kept {
                out[r * dim..][..dim].copy_from_slice(&whole[self.frame(i, r) * dim..][..dim]);
            }
        })
    }
    /// Seconds; without timestamps and frame rate a token counts as one second.
    fn places(&self, i: usize, out: &mut [f32]) {
        let times = self.source.timestamps(i);
        for (r, place) in out.iter_mut().enumerate() {
            let frame = self.frame(i, r);
            *place = times.as_ref().and_then(|t| t.get(frame).copied()).unwrap_or(frame as f32);
        }
    }
}
