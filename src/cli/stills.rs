//! Frames of videos for pages: taken anew from the files, small, within the page.

use super::output;
use super::{Common, STOP};
use crate::data::ffmpeg::Ffmpeg;
use crate::data::index::Index;
use crate::data::picture::Picture;
use crate::error::{Error, Result};
use crate::models::moments::Moment;
use crate::picture::strip::Still;
use base64::prelude::{BASE64_STANDARD, Engine};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The widest that a still is.
const WIDTH: u32 = 240;
const QUALITY: u8 = 82;

/// The frames at these seconds of video `i` of an index, those that can be had; a note says why one is missing.
///
/// # Errors
/// [`Error::Stopped`] alone.
pub fn stills(common: &Common, index: &Index, i: usize, seconds: &[f32]) -> Result<Vec<Still>> {
    let none = || Error::config("index", "does not say which file that is", "make it with `moviola index`");
    let source = index.file(i).ok_or_else(none).and_then(|file| Ok((file, Ffmpeg::find()?)));
    let taken: Vec<Result<Still>> = match source {
        Ok((file, ffmpeg)) => {
            let wanted = seconds.iter().take_while(|_| !STOP.load(Ordering::Relaxed));
            wanted.map(|second| take(&ffmpeg, &file, *second)).collect()
        }
        Err(e) => vec![Err(e)],
    };
    if STOP.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    if let Some(Err(e)) = taken.iter().find(|still| still.is_err()) {
        output::note(common, format!("not all frames of {} can be shown: {e}", index.videos.ids()[i]));
    }
    Ok(taken.into_iter().flatten().collect())
}

/// Stills, and whether each lies in one of the moments.
pub fn marked(stills: Vec<Still>, moments: &[Moment]) -> Vec<(Still, bool)> {
    let mark = |still: Still| {
        let lies = moments.iter().any(|m| m.holds(still.second));
        (still, lies)
    };
    stills.into_iter().map(mark).collect()
}

fn take(ffmpeg: &Ffmpeg, file: &Path, second: f32) -> Result<Still> {
    still(&ffmpeg.still(file, second, WIDTH)?, second, file)
}

/// A picture as it goes into a page; `from` is named should it not be possible.
pub fn still(picture: &Picture, second: f32, from: &Path) -> Result<Still> {
    let Picture { width, height, rgb } = picture;
    let mut jpeg = vec![];
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(rgb, *width, *height, ExtendedColorType::Rgb8)
        .map_err(|e| Error::format(from, format!("a frame cannot be made a JPEG ({e})"), "report it"))?;
    let data = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(&jpeg));
    Ok(Still { second: f64::from(second), width: *width, height: *height, data })
}
