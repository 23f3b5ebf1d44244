//! Pictures: pixels in memory, read from JPEG and PNG files.

use super::files::read_capped;
use crate::error::{Error, Result};
use std::path::Path;

/// The most pixels of a picture: eight times those of an 8K frame.
pub const MOST_PIXELS: u64 = 1 << 28;
/// The most bytes of a picture's file.
const FILE_LIMIT: u64 = 256 << 20;

/// Pixels of one picture: rows from the top, red, green and blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    /// `[height, width, 3]`
    pub rgb: Vec<u8>,
}

impl Picture {
    /// # Errors
    /// When a side is 0 or the bytes are not those of so many pixels.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Picture> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 || pixels > MOST_PIXELS || rgb.len() as u64 != 3 * pixels {
            let what = format!("{width} x {height} pixels do not go with {} bytes of red, green and blue", rgb.len());
            return Err(Error::shape("picture", what));
        }
        Ok(Picture { width, height, rgb })
    }

    /// Reads a JPEG or PNG file.
    ///
    /// # Errors
    /// [`Error::Format`] when it is none, damaged, or larger than is decoded.
    pub fn open(path: &Path) -> Result<Picture> {
        let content = read_capped(path, FILE_LIMIT)?;
        let bad = |what: String| Error::format(path, what, "save it again as JPEG or PNG, or leave it out");
        let mut reader = image::ImageReader::new(std::io::Cursor::new(content));
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(8 * MOST_PIXELS);
        reader.limits(limits);
        let reader = reader.with_guessed_format().map_err(|e| bad(e.to_string()))?;
        let decoded = reader.decode().map_err(|e| bad(format!("cannot be decoded ({e})")))?.into_rgb8();
        let (width, height) = decoded.dimensions();
        Picture::new(width, height, decoded.into_raw()).map_err(|e| bad(e.to_string()))
    }
}
