//! The world as a folder of mp4 files.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::draw::Canvas;
use super::mp4::Mp4Writer;
use super::world::{Clip, Rendered, Set};
use crate::data::files::{Beside, write_whole};
use crate::data::layout::{CAPTIONS, Split};
use crate::data::pictures::CLIPS;
use crate::data::worlds::World;
use crate::data::worlds::common::{TESTS, TRUTH, WORLD, json_line};
use crate::error::{Error, Result};

/// A few clips, a row each.
pub const PREVIEW: &str = "preview.png";
/// Rows and columns of the preview, and pixels between them.
const ROWS: usize = 12;
const COLUMNS: usize = 6;
const GAP: usize = 4;

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Written {
    pub out: PathBuf,
    pub world: Rendered,
    /// Clips by set.
    pub train: usize,
    pub val: usize,
    pub test: usize,
    pub adv: usize,
    pub frames: usize,
    /// Of video.
    pub seconds: f64,
    /// Of mp4 files.
    pub bytes: u64,
    pub encoder: &'static str,
    pub preview: PathBuf,
    /// What the rows of the preview show: id and caption.
    pub shown: Vec<(String, String)>,
}

#[derive(Serialize)]
struct TruthLine<'a> {
    video_id: &'a str,
    split: Split,
    #[serde(flatten)]
    truth: &'a super::world::Truth,
}

impl Rendered {
    /// Writes all sets to the new folder `dir`: `clips/ID.mp4`, captions in the native layout, the truth, a preview and
    /// the parameters; the test `adv` the same way in `tests/adv`. `progress` is told how many clips of all are done.
    ///
    /// # Errors
    /// [`Error::Config`] for parameters that make no world or without a working `ffmpeg`, [`Error::Format`] if `dir`
    /// holds something already, [`Error::Stopped`] after `stop`. Nothing is left of what was not finished.
    pub fn write(
        &self,
        dir: &Path,
        ffmpeg: &Mp4Writer,
        progress: &(dyn Fn(usize, usize) + Sync),
        stop: &AtomicBool,
    ) -> Result<Written> {
        let beside = Beside::new(dir)?;
        let place = beside.partial();
        let sets = Set::ALL.into_iter().map(|set| self.clips(set)).collect::<Result<Vec<_>>>()?;
        let all: usize = sets.iter().map(Vec::len).sum();
        let done = AtomicUsize::new(0);
        let mut bytes = 0;
        let adversarial = place.join(TESTS).join(Set::Adv.name());
        let [plain, adv] = [[Set::Train, Set::Val, Set::Test].as_slice(), &[Set::Adv]].map(|wanted| -> Vec<&Clip> {
            let sets = Set::ALL.into_iter().zip(&sets).filter(|(set, _)| wanted.contains(set));
            sets.flat_map(|(_, clips)| clips).collect()
        });
        for (place, clips) in [(place, &plain), (adversarial.as_path(), &adv)] {
            let videos = place.join(CLIPS);
            fs::create_dir_all(&videos).map_err(Error::io("create", &videos))?;
            let written = clips.par_iter().map(|clip| {
                let file = videos.join(format!("{}.mp4", clip.id));
                let size = (self.width, self.height);
                ffmpeg.write(&file, size, self.fps, clip.frames(), stop)?;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                Ok(fs::metadata(&file).map_err(Error::io("read the size of", &file))?.len())
            });
            bytes += written.try_reduce(|| 0, |a, b| Ok(a + b))?;
            self.write_lists(place, clips)?;
        }
        let picture = preview(&plain);
        write_whole(&place.join(PREVIEW), &png(&picture)?)?;
        let frames: usize = sets.iter().flatten().map(|clip| clip.truth.frames).sum();
        let count = |set: Set| sets.get(set as usize).map_or(0, Vec::len);
        let written = Written {
            out: dir.to_path_buf(),
            world: self.clone(),
            train: count(Set::Train),
            val: count(Set::Val),
            test: count(Set::Test),
            adv: count(Set::Adv),
            frames,
            seconds: frames as f64 / f64::from(self.fps),
            bytes,
            encoder: ffmpeg.encoder,
            preview: dir.join(PREVIEW),
            shown: shown(&plain)
                .map(|clip| (clip.id.clone(), clip.captions.first().cloned().unwrap_or_default()))
                .collect(),
        };
        beside.keep()?;
        Ok(written)
    }

    /// Writes what is known of clips into the folder `place`: captions in the native layout, the truth, the parameters.
    pub fn write_lists(&self, place: &Path, clips: &[&Clip]) -> Result<()> {
        let (mut captions, mut truths, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        json_line(&mut parameters, &World::Rendered(self.clone()))?;
        for clip in clips {
            let Clip { id, split, truth, .. } = clip;
            json_line(&mut truths, &TruthLine { video_id: id, split: *split, truth })?;
            for (c, caption) in clip.captions.iter().enumerate() {
                let line =
                    serde_json::json!({"text_id": clip.text_id(c), "video_id": id, "caption": caption, "split": split});
                json_line(&mut captions, &line)?;
            }
        }
        for (name, content) in [(CAPTIONS, captions), (TRUTH, truths), (WORLD, parameters)] {
            write_whole(&place.join(name), &content)?;
        }
        Ok(())
    }
}

/// Clips for a preview.
fn shown<'a>(clips: &'a [&'a Clip]) -> impl Iterator<Item = &'a Clip> {
    clips.iter().copied().take(ROWS)
}

/// Twelve clips, a row each, six moments from the first to the last frame.
pub fn preview(clips: &[&Clip]) -> Canvas {
    let rows = clips.len().min(ROWS);
    let (width, height) = clips.first().map_or((0, 0), |clip| (clip.truth.width, clip.truth.height));
    let side = |count: usize, each: usize| count * (each + GAP) + GAP;
    let mut sheet = Canvas::new(side(COLUMNS, width), side(rows, height), [246, 246, 244]);
    for (row, clip) in shown(clips).enumerate() {
        let last = clip.truth.frames.saturating_sub(1);
        for column in 0..COLUMNS {
            let frame = last * column / (COLUMNS - 1);
            let picture = clip.frame(frame as f32 / clip.truth.fps);
            sheet.paste(&picture, side(column, width), side(row, height));
        }
    }
    sheet
}

/// # Errors
/// [`Error::Io`] should the encoder refuse.
pub fn png(picture: &Canvas) -> Result<Vec<u8>> {
    let mut content = Cursor::new(Vec::new());
    // Sides fit: they are checked.
    let (width, height) = (picture.width as u32, picture.height as u32);
    image::write_buffer_with_format(
        &mut content,
        &picture.rgb,
        width,
        height,
        image::ExtendedColorType::Rgb8,
        image::ImageFormat::Png,
    )
    .map_err(|error| Error::io("write", PREVIEW)(std::io::Error::other(error)))?;
    Ok(content.into_inner())
}
