//! Frames of videos for pages: taken anew from the files, small, within the page.

use super::Common;
use super::output;
use crate::data::ffmpeg::Ffmpeg;
use crate::data::index::Index;
use crate::data::picture::Picture;
use crate::error::{Error, Result};
use crate::picture::strip::Still;
use base64::prelude::{BASE64_STANDARD, Engine};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

/// The widest that a still is.
const WIDTH: u32 = 240;
const QUALITY: u8 = 82;

/// The frames at these seconds of video `i` of an index, as far as its file is still there; a note says what is missing.
pub fn stills(common: &Common, index: &Index, i: usize, seconds: &[f32]) -> Vec<Still> {
    match take(index, i, seconds) {
        Ok(stills) => stills,
        Err(e) => {
            output::note(common, format!("no frames of {}: {e}", index.videos.ids()[i]));
            vec![]
        }
    }
}

fn take(index: &Index, i: usize, seconds: &[f32]) -> Result<Vec<Still>> {
    let Some(file) = index.file(i) else {
        return Err(Error::config("index", "does not say which file that is", "make it with `moviola index`"));
    };
    let ffmpeg = Ffmpeg::find()?;
    seconds
        .iter()
        .map(|second| {
            let Picture { width, height, rgb } = ffmpeg.still(&file, *second, WIDTH)?;
            let mut jpeg = vec![];
            JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
                .encode(&rgb, width, height, ExtendedColorType::Rgb8)
                .map_err(|e| Error::format(&file, format!("a frame cannot be made a JPEG ({e})"), "report it"))?;
            let data = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(&jpeg));
            Ok(Still { second: f64::from(*second), width, height, data })
        })
        .collect()
}
