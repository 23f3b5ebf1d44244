//! From a picture to what an image tower takes: resized, cropped, normalised, cut into patches.

use super::checkpoint::Checkpoint;
use super::resample::{self, Filter};
use crate::data::picture::{MOST_PIXELS, Picture};
use crate::error::{Error, Result, bytes};
use serde::Deserialize;

/// Mean and deviation of the pictures CLIP was trained on, which are also the defaults of its processor.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A number, or one for each side.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    One(u32),
    Sides { height: u32, width: u32 },
    Shortest { shortest_edge: u32 },
}

impl Size {
    fn square(&self) -> Option<u32> {
        match *self {
            Size::One(n) => Some(n),
            Size::Shortest { shortest_edge } => Some(shortest_edge),
            Size::Sides { height, width } => (height == width).then_some(height),
        }
    }
}

/// preprocessor_config.json of CLIP; what is left out is as its processor has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    size: Option<Size>,
    crop_size: Option<Size>,
    resample: Option<u32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    rescale_factor: Option<f64>,
}

/// How pictures are made what a tower takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Length of the shorter side after resizing.
    shortest: u32,
    /// Sides of the square that is cut from the middle.
    pub side: u32,
    filter: Filter,
    /// A value of a pixel is `scale[c] · x + shift[c]`.
    scale: [f32; 3],
    shift: [f32; 3],
}

impl Preprocess {
    /// As the checkpoint asks for, for a tower that takes squares of this side.
    ///
    /// # Errors
    /// When preprocessor_config.json asks for what is not known or does not fit the tower.
    pub fn of(checkpoint: &Checkpoint, side: u32) -> Result<Preprocess> {
        let name = "preprocessor_config.json";
        let file: File = checkpoint.optional(name)?.unwrap_or_default();
        let bad = |what: String| {
            Err(Error::format(checkpoint.dir().join(name), what, "use the file that the checkpoint came with"))
        };
        let square = |size: &Option<Size>| size.as_ref().map_or(Some(side), Size::square);
        let (Some(shortest), Some(crop)) = (square(&file.size), square(&file.crop_size)) else {
            return bad("asks for pictures that are not square".into());
        };
        if crop != side || shortest < crop || shortest > 1 << 14 {
            return bad(format!("cuts {crop} from {shortest} pixels, and the tower takes {side}"));
        }
        let filter = match file.resample.unwrap_or(3) {
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            other => return bad(format!("resample is {other}; 1, 2 and 3 are known")),
        };
        let (mean, deviation) = (file.image_mean.unwrap_or(MEAN), file.image_std.unwrap_or(DEVIATION));
        let rescale = file.rescale_factor.unwrap_or(1.0 / 255.0);
        if !deviation.iter().all(|d| d.is_normal()) || !mean.iter().all(|m| m.is_finite()) || !rescale.is_normal() {
            return bad("has a deviation or a factor that is 0 or no number".into());
        }
        let scale = deviation.map(|d| (rescale / f64::from(d)) as f32);
        let shift = std::array::from_fn(|c| -mean[c] / deviation[c]);
        Ok(Preprocess { shortest, side, filter, scale, shift })
    }

    /// The square `[side, side, 3]` of a picture that the tower sees.
    ///
    /// # Errors
    /// When the resized picture would be larger than is made.
    pub fn square(&self, picture: &Picture) -> Result<Vec<u8>> {
        let (w, h) = (picture.width, picture.height);
        // As the reference: the longer side is rounded down.
        let scaled = |long: u32, short: u32| u64::from(self.shortest) * u64::from(long) / u64::from(short);
        let shortest = u64::from(self.shortest);
        let (wide, high) = if w <= h { (shortest, scaled(h, w)) } else { (scaled(w, h), shortest) };
        if wide * high > MOST_PIXELS {
            let what = format!("{w} x {h} pixels become {wide} x {high}, {}", bytes(3 * wide * high));
            return Err(Error::shape("picture", what));
        }
        let (from, to) = ([w as usize, h as usize], [wide as usize, high as usize]);
        let side = self.side as usize;
        let corner = to.map(|n| (n - side) / 2);
        Ok(resample::square(self.filter, &picture.rgb, from, to, corner, side))
    }

    /// Writes a square's patches, `[(side / patch)², 3 · patch²]`, each channel by channel as the weights have it.
    pub fn patches(&self, square: &[u8], patch: usize, out: &mut [f32]) {
        let side = self.side as usize;
        let across = side / patch;
        for (number, out) in out.chunks_exact_mut(3 * patch * patch).take(across * across).enumerate() {
            let (top, left) = (number / across * patch, number % across * patch);
            for (c, plane) in out.chunks_exact_mut(patch * patch).enumerate() {
                for (y, row) in plane.chunks_exact_mut(patch).enumerate() {
                    let pixels = square[3 * ((top + y) * side + left)..].chunks_exact(3);
                    row.iter_mut().zip(pixels).for_each(|(to, p)| {
                        *to = self.scale[c].mul_add(f32::from(p[c]), self.shift[c]);
                    });
                }
            }
        }
    }
}
