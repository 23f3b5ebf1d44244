//! Pictures, and shapes drawn into them by signed distances.

use std::f32::consts::{FRAC_PI_6, SQRT_2};

use super::words::Shape;

/// An RGB picture of 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`
    pub rgb: Vec<u8>,
}

impl Canvas {
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// The colour of a pixel; black outside.
    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let place = 3 * (y * self.width + x);
        match (x < self.width).then(|| self.rgb.get(place..place + 3)).flatten() {
            Some(&[r, g, b]) => [r, g, b],
            _ => [0; 3],
        }
    }

    /// Lays `other` over this picture, its corner at (x, y); what sticks out is cut.
    pub fn paste(&mut self, other: &Canvas, x: usize, y: usize) {
        let width = other.width.min(self.width.saturating_sub(x));
        for row in 0..other.height.min(self.height.saturating_sub(y)) {
            let to = 3 * ((y + row) * self.width + x);
            let from = 3 * row * other.width;
            if let (Some(to), Some(from)) =
                (self.rgb.get_mut(to..to + 3 * width), other.rgb.get(from..from + 3 * width))
            {
                to.copy_from_slice(from);
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, colour: [f32; 3], alpha: f32) {
        let place = 3 * (y * self.width + x);
        if let Some(pixel) = self.rgb.get_mut(place..place + 3) {
            for (old, new) in pixel.iter_mut().zip(colour) {
                *old = byte(f32::from(*old) / 255.0 * (1.0 - alpha) + new * alpha);
            }
        }
    }
}

/// From 0..1 to 0..255.
pub(super) fn byte(value: f32) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// 0 below `from`, 1 above `to`, without a kink between.
pub(super) fn smooth(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A shape in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    pub shape: Shape,
    /// The middle, in pixels.
    pub x: f32,
    pub y: f32,
    /// In pixels.
    pub radius: f32,
    /// Clockwise, in radians.
    pub angle: f32,
    /// From 0 (not there) to 1.
    pub alpha: f32,
}

impl Drawn {
    /// Signed distance from the outline in radii, and height over the middle in radii.
    fn look(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = ((x - self.x) / self.radius, (y - self.y) / self.radius);
        let (sin, cos) = self.angle.sin_cos();
        // Pictures count rows downward, shapes stand upright.
        (distance(self.shape, dx * cos + dy * sin, dx * sin - dy * cos), -dy)
    }

    /// How much of a pixel the shape covers.
    fn cover(&self, x: f32, y: f32) -> f32 {
        (0.5 - self.look(x, y).0 * self.radius).clamp(0.0, 1.0)
    }

    /// Pixels that the shape can reach with `margin` radii more: columns and rows.
    fn reach(&self, picture: (usize, usize), margin: f32) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let far = self.radius * (1.15 + margin) + 1.0;
        let range = |middle: f32, end: usize| {
            // Casts saturate: what lies outside becomes an empty or a cut range.
            ((middle - far).floor() as usize).min(end)..((middle + far).ceil() as usize).min(end)
        };
        (range(self.x, picture.0), range(self.y, picture.1))
    }

    /// Draws the shape with a soft shadow and a darker rim.
    pub fn draw(&self, into: &mut Canvas, colour: [u8; 3]) {
        if self.alpha <= 0.0 || self.radius <= 0.0 {
            return;
        }
        let colour = colour.map(|c| f32::from(c) / 255.0);
        let shadow = Drawn { x: self.x + 0.12 * self.radius, y: self.y + 0.2 * self.radius, ..*self };
        let (columns, rows) = self.reach((into.width, into.height), 0.6);
        for y in rows {
            for x in columns.clone() {
                let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
                let dark = 1.0 - smooth(-0.25, 0.3, shadow.look(px, py).0);
                if dark > 0.0 {
                    into.blend(x, y, [0.06, 0.07, 0.12], 0.42 * dark * self.alpha);
                }
                let (distance, height) = self.look(px, py);
                let cover = (0.5 - distance * self.radius).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let rim = 1.0 - 0.28 * smooth(-0.16, -0.06, distance);
                    let light = (0.96 + 0.06 * height) * rim;
                    into.blend(x, y, colour.map(|c| c * light), cover * self.alpha);
                }
            }
        }
    }

    /// The smallest box `[left, top, right, bottom]` around the pixels that the shape covers by half or more, in a
    /// picture of this width and height; the last two are not part of it. None where it is not, or hardly, to be seen.
    pub fn bounds(&self, picture: (usize, usize)) -> Option<[usize; 4]> {
        if self.alpha < 0.5 || self.radius <= 0.0 {
            return None;
        }
        let (columns, rows) = self.reach(picture, 0.0);
        let mut found: Option<[usize; 4]> = None;
        for y in rows {
            for x in columns.clone() {
                if self.cover(x as f32 + 0.5, y as f32 + 0.5) >= 0.5 {
                    let [l, t, r, b] = found.unwrap_or([x, y, x + 1, y + 1]);
                    found = Some([l.min(x), t.min(y), r.max(x + 1), b.max(y + 1)]);
                }
            }
        }
        found
    }
}

/// Signed distance (a bound of it for some) from the outline of a shape about the origin of radius about 1, y upward.
/// Star, heart and moon are Inigo Quilez' (iquilezles.org/articles/distfunctions2d).
fn distance(shape: Shape, x: f32, y: f32) -> f32 {
    match shape {
        Shape::Circle => x.hypot(y) - 0.95,
        Shape::Ring => (x.hypot(y) - 0.72).abs() - 0.27,
        Shape::Square => rectangle(x, y, 0.82, 0.82),
        Shape::Triangle => {
            let (sin, cos) = FRAC_PI_6.sin_cos();
            (-y).max(x.abs() * cos + y * sin) - 0.54
        }
        Shape::Star => star(x, y),
        Shape::Cross => rectangle(x, y, 0.95, 0.33).min(rectangle(x, y, 0.33, 0.95)),
        Shape::Heart => heart(x / 1.65, y / 1.65 + 0.57) * 1.65,
        Shape::Moon => moon(x, y),
    }
}

fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0)
}

fn star(x: f32, y: f32) -> f32 {
    const RADIUS: f32 = 1.08;
    const INNER: f32 = 0.5;
    let (kx, ky) = (0.809_017, -0.587_785_24);
    let mut p = (x.abs(), y);
    for side in [kx, -kx] {
        let over = 2.0 * (side * p.0 + ky * p.1).max(0.0);
        p = (p.0 - over * side, p.1 - over * ky);
    }
    let p = (p.0.abs(), p.1 - RADIUS);
    let edge = (INNER * -ky, INNER * kx - 1.0);
    let along = ((p.0 * edge.0 + p.1 * edge.1) / (edge.0 * edge.0 + edge.1 * edge.1)).clamp(0.0, RADIUS);
    (p.0 - edge.0 * along).hypot(p.1 - edge.1 * along) * (p.1 * edge.0 - p.0 * edge.1).signum()
}

fn heart(x: f32, y: f32) -> f32 {
    let x = x.abs();
    if x + y > 1.0 {
        return (x - 0.25).hypot(y - 0.75) - SQRT_2 / 4.0;
    }
    let half = 0.5 * (x + y).max(0.0);
    x.hypot(y - 1.0).min((x - half).hypot(y - half)) * (x - y).signum()
}

fn moon(x: f32, y: f32) -> f32 {
    const APART: f32 = 0.45;
    const OUTER: f32 = 1.0;
    const INNER: f32 = 0.8;
    let (x, y) = (x - 0.15, y.abs());
    let a = (OUTER * OUTER - INNER * INNER + APART * APART) / (2.0 * APART);
    let b = (OUTER * OUTER - a * a).max(0.0).sqrt();
    if APART * (x * b - y * a) > APART * APART * (b - y).max(0.0) {
        return (x - a).hypot(y - b);
    }
    (x.hypot(y) - OUTER).max(INNER - (x - APART).hypot(y))
}
