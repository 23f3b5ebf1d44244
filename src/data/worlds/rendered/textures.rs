//! Patterned backgrounds in muted colours, each of a palette of its own.

use std::f32::consts::{SQRT_2, TAU};

use serde::{Deserialize, Serialize};

use super::draw::{Canvas, byte, smooth};
use crate::random::Random;

/// A kind of background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Texture {
    Stripes,
    Checks,
    Dots,
    Gradient,
    Noise,
    Bricks,
    Waves,
    Zigzag,
    /// A wall: nothing goes with it.
    Plain,
}

impl Texture {
    /// Places: as many as shapes and colours, each the favourite of one.
    pub const ALL: &[Self] = &[
        Self::Stripes,
        Self::Checks,
        Self::Dots,
        Self::Gradient,
        Self::Noise,
        Self::Bricks,
        Self::Waves,
        Self::Zigzag,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stripes => "stripes",
            Self::Checks => "checks",
            Self::Dots => "dots",
            Self::Gradient => "gradient",
            Self::Noise => "noise",
            Self::Bricks => "bricks",
            Self::Waves => "waves",
            Self::Zigzag => "zigzag",
            Self::Plain => "plain",
        }
    }

    /// Two muted colours, far from the objects' bright ones.
    fn palette(self) -> [[f32; 3]; 2] {
        let [a, b] = match self {
            Self::Stripes => [[92, 108, 128], [112, 130, 150]],
            Self::Checks => [[140, 134, 122], [116, 110, 100]],
            Self::Dots => [[86, 112, 104], [122, 146, 136]],
            Self::Gradient => [[58, 66, 92], [166, 150, 158]],
            Self::Noise => [[88, 92, 80], [132, 134, 112]],
            Self::Bricks => [[134, 98, 86], [168, 148, 136]],
            Self::Waves => [[70, 104, 122], [110, 142, 154]],
            Self::Zigzag => [[108, 92, 116], [136, 122, 142]],
            Self::Plain => [[112, 112, 112], [128, 128, 128]],
        };
        [a, b].map(|colour: [u8; 3]| colour.map(|c| f32::from(c) / 255.0))
    }

    /// A background of this kind; `random` varies its scale, its place and a little its colours.
    pub fn draw(self, width: usize, height: usize, random: Random) -> Canvas {
        let shades = self.palette();
        let light = 1.0 + 0.16 * (random.uniform(0) - 0.5);
        // A period in pixels, in proportion to the picture.
        let scale = width.min(height) as f32 * (0.16 + 0.06 * random.uniform(1));
        let (left, top) = (random.uniform(2) * scale, random.uniform(3) * scale);
        let slant = if random.uniform(4) < 0.5 { 1.0 } else { -1.0 };
        let mut rgb = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
                let share = match self {
                    Self::Gradient => smooth(0.0, 1.0, (py + slant * 0.2 * (px - width as f32 / 2.0)) / height as f32),
                    _ => self.share((px + left) / scale, (py + top) / scale, scale, slant, random),
                };
                // A little darker towards the corners, as through a lens.
                let (dx, dy) = (px / width as f32 - 0.5, py / height as f32 - 0.5);
                let lens = light * (1.06 - 0.35 * (dx * dx + dy * dy));
                let [a, b] = shades;
                rgb.extend(a.iter().zip(b).map(|(a, b)| byte((a + (b - a) * share) * lens)));
            }
        }
        Canvas { width, height, rgb }
    }

    /// Share of the second colour at a place in periods; `scale` is a period in pixels.
    fn share(self, u: f32, v: f32, scale: f32, slant: f32, random: Random) -> f32 {
        // Edges are a pixel wide: from signed distances in periods.
        let edge = |distance: f32| (0.5 - distance * scale).clamp(0.0, 1.0);
        // A wave of period 1 that falls to 0 in its middle: distance from the nearest whole number, less a half.
        let near = |x: f32| (x - x.round()).abs();
        match self {
            Self::Stripes => edge(near((u + slant * v) / SQRT_2 * 0.8) - 0.25),
            Self::Checks => {
                let (a, b) = (near(u / 2.0) * 2.0 - 0.5, near(v / 2.0) * 2.0 - 0.5);
                let (a, b) = (edge(a), edge(b));
                a + b - 2.0 * a * b
            }
            Self::Dots => {
                // Every second row is shifted by half a period.
                let row = (v * 1.1).floor();
                let shift = if row.rem_euclid(2.0) < 0.5 { 0.0 } else { 0.5 };
                let (dx, dy) = (near(u + shift), (v * 1.1 - row - 0.5) / 1.1);
                edge(dx.hypot(dy) - 0.27)
            }
            Self::Gradient | Self::Plain => 0.0,
            Self::Noise => {
                let octave = |by: f32, index: u64| lattice(u * by, v * by, index, random);
                smooth(0.25, 0.75, 0.55 * octave(0.8, 1) + 0.3 * octave(1.7, 2) + 0.15 * octave(3.4, 3))
            }
            Self::Bricks => {
                let row = (v * 1.4).floor();
                let shift = if row.rem_euclid(2.0) < 0.5 { 0.0 } else { 0.5 };
                let across = near(u * 0.7 + shift) / 0.7;
                let down = near(v * 1.4) / 1.4;
                edge(across.min(down) - 0.06)
            }
            Self::Waves => edge(near(v + 0.16 * (TAU * u * 0.6).sin()) - 0.25),
            Self::Zigzag => edge(near(v + 0.6 * near(u * 0.7)) - 0.25),
        }
    }
}

/// Smooth noise of 0 to 1: random values on whole numbers, blended between.
fn lattice(x: f32, y: f32, octave: u64, random: Random) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (tx, ty) = (smooth(0.0, 1.0, x - left), smooth(0.0, 1.0, y - top));
    let value = |dx: f32, dy: f32| {
        // Places are small and positive: 20 bits each are enough.
        random.uniform(octave << 40 | ((left + dx) as u64) << 20 | (top + dy) as u64)
    };
    let row = |dy: f32| value(0.0, dy) * (1.0 - tx) + value(1.0, dy) * tx;
    row(0.0) * (1.0 - ty) + row(1.0) * ty
}
