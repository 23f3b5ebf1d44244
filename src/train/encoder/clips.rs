//! Pairs whose frames are decoded from videos, once, into a file of squares that stays mapped: an epoch reads them at
//! random, and what training takes does not grow with the videos.

use super::Pairs;
use crate::data::ffmpeg::Ffmpeg;
use crate::data::files::{Beside, Mapped};
use crate::data::media::{Media, MediaKind, Sampling, find};
use crate::data::pictures::{CLIPS, Captioned};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::pixels::Preprocess;
use crate::encoders::vision::ClipImage;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Clips {
    /// Caption and position in `videos`.
    pairs: Vec<(String, usize)>,
    /// Frames of each in the file of squares.
    videos: Vec<Range<usize>>,
    squares: Mapped,
    /// Bytes of a square.
    bytes: usize,
}

impl Clips {
    /// Decodes `frames` of each captioned video in `dir/clips`, spread evenly, as the tower of `encoder` sees them, into
    /// the new file `place`. `each` hears of every video that is done, of how many.
    ///
    /// # Errors
    /// A video that is missing or broken, that there is no ffmpeg, and [`Error::Stopped`].
    pub fn decode(
        (dir, captions): (&Path, Captioned),
        encoder: &Path,
        frames: usize,
        place: &Path,
        mut each: impl FnMut(usize, usize),
        stop: &AtomicBool,
    ) -> Result<Clips> {
        let checkpoint = Checkpoint::open(encoder)?;
        let preprocess = Preprocess::of(&checkpoint, ClipImage::new(&checkpoint)?.image as u32)?;
        let (ffmpeg, folder) = (Ffmpeg::find()?, dir.join(CLIPS));
        let files: HashMap<String, Media> =
            find(&folder, MediaKind::Video)?.into_iter().map(|m| (m.id.clone(), m)).collect();
        let beside = Beside::new(place)?;
        let file = File::create(beside.partial()).map_err(Error::io("create", place))?;
        let (mut file, mut videos, mut end) = (BufWriter::new(file), vec![], 0);
        for (i, id) in captions.videos.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let media = files.get(id).ok_or_else(|| {
                let fix = "put the video there, or remove its captions";
                Error::data(folder.display().to_string(), id, "has no video of this name", fix)
            })?;
            let begin = end;
            for frame in ffmpeg.frames(&folder.join(&media.file), Sampling::Frames(frames))? {
                let square = preprocess.square(&frame?.picture)?;
                file.write_all(&square).map_err(Error::io("write", place))?;
                end += 1;
            }
            videos.push(begin..end);
            each(i + 1, captions.videos.len());
        }
        file.flush().map_err(Error::io("write", place))?;
        drop(file);
        beside.keep()?;
        let bytes = 3 * (preprocess.side as usize).pow(2);
        Ok(Clips { pairs: captions.pairs, videos, squares: Mapped::open(place)?, bytes })
    }
}

impl Pairs for Clips {
    fn len(&self) -> usize {
        self.pairs.len()
    }
    fn caption(&self, pair: usize) -> &str {
        &self.pairs[pair].0
    }
    fn video(&self, pair: usize) -> u32 {
        self.pairs[pair].1 as u32
    }
    fn frames(&self, pair: usize) -> usize {
        self.videos[self.pairs[pair].1].len()
    }
    fn squares(&self, pair: usize, frames: &[usize], _: &Preprocess) -> Result<Vec<Vec<u8>>> {
        let begin = self.videos[self.pairs[pair].1].start;
        let square = |frame: &usize| {
            let at = (begin + frame) * self.bytes;
            let gone = || Error::shape("squares", "the file of squares was changed while it was in use");
            self.squares.get(at..at + self.bytes).map(<[u8]>::to_vec).ok_or_else(gone)
        };
        frames.iter().map(square).collect()
    }
}
