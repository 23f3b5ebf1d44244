//! The token × frame map: how similar each word is to each frame, with what each word weighs and each frame gives.

use super::axis::{Scale, Spacing, extent, label};
use super::svg::{Figure, clean, fitted, px, width_of};
use crate::error::{Error, Result};
use maud::{Markup, PreEscaped, html};
use std::fmt::Write as _;

/// Colour levels; each is one path, so that a large map stays a small file.
const LEVELS: usize = 64;
/// Anchors of the viridis colour map (Smith and van der Walt, CC0), dark to light.
const MAP: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];
/// Beyond this a picture no longer opens.
const MOST_CELLS: usize = 1 << 20;
/// Up to here every cell tells its values under the pointer.
const MOST_HINTS: usize = 1200;

const TOP: f64 = 44.0;
const STRIP: f64 = 46.0;
const WEIGHTS: f64 = 84.0;
const BAR: f64 = 78.0;

/// A map of words (rows) by frames (columns).
pub struct Heat<'a> {
    title: String,
    quantity: String,
    words: &'a [String],
    seconds: &'a [f32],
    scores: &'a [f32],
    word_weights: Option<&'a [f32]>,
    frame_relevance: Option<&'a [f32]>,
    widest: f64,
}

/// Where things lie, in pixels.
struct Layout {
    left: f64,
    top: f64,
    cell: (f64, f64),
    /// Right and lower edge of the cells.
    right: f64,
    base: f64,
    /// Left edge of the colour bar's column.
    bar: f64,
    width: f64,
    height: f64,
}

impl<'a> Heat<'a> {
    /// `scores[word · frames + frame]` is the similarity of a word and a frame, `seconds[frame]` the frame's time.
    /// `quantity` names what the colours show. Scores that are not finite are drawn grey.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes disagree or there are more than 2²⁰ cells.
    pub fn new(
        title: impl Into<String>,
        quantity: impl Into<String>,
        words: &'a [String],
        seconds: &'a [f32],
        scores: &'a [f32],
    ) -> Result<Self> {
        let cells = words.len().checked_mul(seconds.len());
        if cells != Some(scores.len()) || scores.len() > MOST_CELLS {
            return Err(Error::shape(
                "token × frame map",
                format!(
                    "{} scores for {} words and {} frames (at most {MOST_CELLS} cells)",
                    scores.len(),
                    words.len(),
                    seconds.len()
                ),
            ));
        }
        let (title, quantity) = (title.into(), quantity.into());
        Ok(Heat { title, quantity, words, seconds, scores, word_weights: None, frame_relevance: None, widest: 640.0 })
    }

    /// One weight a word, drawn as bars at the right.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many as words.
    pub fn word_weights(mut self, weights: &'a [f32]) -> Result<Self> {
        self.word_weights = Some(sized("word weights", weights, self.words.len())?);
        Ok(self)
    }

    /// One relevance a frame, drawn as bars at the top.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many as frames.
    pub fn frame_relevance(mut self, relevance: &'a [f32]) -> Result<Self> {
        self.frame_relevance = Some(sized("frame relevance", relevance, self.seconds.len())?);
        Ok(self)
    }

    /// Pixels that all frames take together, where there are few of them; 640 when left out.
    pub fn columns(mut self, widest: f64) -> Self {
        self.widest = widest.clamp(100.0, 10_000.0);
        self
    }

    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        let at = self.layout();
        let values = extent(self.scores.iter().map(|&s| f64::from(s)));
        let scale = Scale::new(Spacing::Linear, values.unwrap_or((f64::NAN, f64::NAN)), (0.0, 1.0));
        let body = html! {
            @if self.scores.is_empty() {
                text class="soft" x="16" y=(px(at.top + 20.0)) font-size="13" { "no words or no frames" }
            } @else {
                (self.cells(&at, &scale))
                (self.best_frames(&at))
                (self.word_labels(&at))
                (self.time_axis(&at))
                @if let Some(relevance) = self.frame_relevance { (frame_bars(relevance, &at)) }
                @if let Some(weights) = self.word_weights { (word_bars(weights, &at)) }
                (colour_bar(&at, &scale, &self.quantity))
                (self.hints(&at))
            }
        };
        Figure::new(at.width, at.height, &self.title, body)
    }

    fn layout(&self) -> Layout {
        let (words, frames) = (self.words.len().max(1) as f64, self.seconds.len().max(1) as f64);
        let cell = ((self.widest / frames).clamp(2.4, 34.0), (500.0 / words).clamp(5.0, 24.0));
        let longest = self.words.iter().map(|w| width_of(w, font(cell.1))).fold(0.0, f64::max);
        let left = longest.clamp(36.0, 150.0) + 24.0;
        let top = TOP + if self.frame_relevance.is_some() { STRIP + 8.0 } else { 0.0 };
        let (right, base) = (left + cell.0 * frames, top + cell.1 * words);
        let bar = right + if self.word_weights.is_some() { WEIGHTS } else { 0.0 };
        // The colour bar and its name need some height even beside a single word.
        let height = (base + 48.0).max(top + 130.0);
        Layout { left, top, cell, right, base, bar, width: (bar + BAR).max(360.0), height }
    }

    fn row(&self, word: usize) -> &[f32] {
        let frames = self.seconds.len();
        self.scores.get(word * frames..(word + 1) * frames).unwrap_or(&[])
    }

    /// One path a colour: runs of equal colour along a row become one rectangle.
    fn cells(&self, at: &Layout, scale: &Scale) -> Markup {
        // The last path is for scores that are not finite.
        let mut paths = vec![String::new(); LEVELS + 1];
        for word in 0..self.words.len() {
            let levels: Vec<usize> = self.row(word).iter().map(|&s| level(f64::from(s), scale)).collect();
            let mut frame = 0;
            for run in levels.chunk_by(|a, b| a == b) {
                let (x, y) = (at.left + at.cell.0 * frame as f64, at.top + at.cell.1 * word as f64);
                let (wide, high) = (at.cell.0 * run.len() as f64, at.cell.1);
                if let Some(path) = run.first().and_then(|&l| paths.get_mut(l)) {
                    let _ = write!(path, "M{} {}h{}v{}h-{}z", px(x), px(y), px(wide), px(high), px(wide));
                }
                frame += run.len();
            }
        }
        html! {
            g shape-rendering="crispEdges" {
                @for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
                    @if level == LEVELS { path class="none" d=(PreEscaped(path)) {} }
                    @else { path fill=(colour(level as f64 / (LEVELS - 1) as f64)) d=(PreEscaped(path)) {} }
                }
            }
        }
    }

    /// The best frame of each word: a box around the cell, or a dot where cells are too small for one.
    fn best_frames(&self, at: &Layout) -> Markup {
        let boxed = at.cell.0 >= 7.0 && at.cell.1 >= 7.0;
        html! {
            @for word in 0..self.words.len() {
                @if let Some(frame) = best(self.row(word)) {
                    @let (x, y) = (at.left + at.cell.0 * frame as f64, at.top + at.cell.1 * word as f64);
                    @if boxed {
                        @for class in ["halo", "mark"] {
                            rect class=(class) x=(px(x + 1.0)) y=(px(y + 1.0)) rx="1.5"
                                width=(px(at.cell.0 - 2.0)) height=(px(at.cell.1 - 2.0)) {}
                        }
                    } @else {
                        circle cx=(px(x + at.cell.0 / 2.0)) cy=(px(y + at.cell.1 / 2.0)) r="1.9" fill="#ffffff"
                            stroke="#1f2328" stroke-width="0.8" {}
                    }
                }
            }
        }
    }

    fn word_labels(&self, at: &Layout) -> Markup {
        let size = font(at.cell.1);
        // Thinned evenly, so that what is left out can be counted.
        let every = ((size + 1.5) / at.cell.1).ceil().max(1.0) as usize;
        html! {
            @for (word, text) in self.words.iter().enumerate().step_by(every) {
                @let y = at.top + at.cell.1 * (word as f64 + 0.5) + size * 0.35;
                text x=(px(at.left - 7.0)) y=(px(y)) text-anchor="end" font-size=(px(size)) {
                    (fitted(text, at.left - 20.0, size))
                }
            }
        }
    }

    fn time_axis(&self, at: &Layout) -> Markup {
        let whole = self.seconds.iter().all(|s| s.fract() == 0.0);
        let text = |s: f32| {
            if !s.is_finite() {
                "?".into()
            } else if whole {
                format!("{s:.0}")
            } else {
                format!("{s:.1}")
            }
        };
        let widest = self.seconds.iter().map(|&s| width_of(&text(s), 11.0)).fold(0.0, f64::max);
        let every = round_stride(((widest + 14.0) / at.cell.0).ceil());
        html! {
            @for (frame, &second) in self.seconds.iter().enumerate().step_by(every) {
                @let x = at.left + at.cell.0 * (frame as f64 + 0.5);
                line class="axis" x1=(px(x)) y1=(px(at.base)) x2=(px(x)) y2=(px(at.base + 4.0)) {}
                text class="soft" x=(px(x)) y=(px(at.base + 16.0)) text-anchor="middle" font-size="11" { (text(second)) }
            }
            text x=(px((at.left + at.right) / 2.0)) y=(px(at.base + 36.0)) text-anchor="middle" font-size="12" {
                "time (s)"
            }
        }
    }

    fn hints(&self, at: &Layout) -> Markup {
        html! {
            @if self.scores.len() <= MOST_HINTS {
                @for (word, text) in self.words.iter().enumerate() {
                    @for (frame, (&score, &second)) in self.row(word).iter().zip(self.seconds).enumerate() {
                        rect fill="#000000" fill-opacity="0" x=(px(at.left + at.cell.0 * frame as f64))
                            y=(px(at.top + at.cell.1 * word as f64)) width=(px(at.cell.0)) height=(px(at.cell.1)) {
                            title { (clean(text)) " at " (label(f64::from(second))) " s: " (label(f64::from(score))) }
                        }
                    }
                }
            }
        }
    }
}

fn sized<'a>(what: &str, values: &'a [f32], wanted: usize) -> Result<&'a [f32]> {
    if values.len() == wanted {
        return Ok(values);
    }
    Err(Error::shape("token × frame map", format!("{} {what} where {wanted} are needed", values.len())))
}

/// The next of 1, 2, 4, 5, 10, 20, 40, 50, 100, …: strides that keep times round at usual frame rates.
fn round_stride(least: f64) -> usize {
    let strides = (0..6u32).flat_map(|power| [1, 2, 4, 5].map(|digit| digit * 10usize.pow(power)));
    strides.into_iter().find(|&stride| stride as f64 >= least).unwrap_or(1_000_000)
}

fn font(cell_height: f64) -> f64 {
    (cell_height * 0.72).clamp(8.0, 12.5)
}

fn level(score: f64, scale: &Scale) -> usize {
    match scale.at(score).filter(|_| score.is_finite()) {
        Some(share) => (share.clamp(0.0, 1.0) * (LEVELS - 1) as f64).round() as usize,
        None => LEVELS,
    }
}

/// The first frame with the highest finite score.
fn best(row: &[f32]) -> Option<usize> {
    let finite = row.iter().enumerate().filter(|(_, s)| s.is_finite());
    finite.fold(None, |best: Option<(usize, f32)>, (i, &s)| best.filter(|b| b.1 >= s).or(Some((i, s)))).map(|b| b.0)
}

/// The colour at `share` (0 to 1) of the map.
fn colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (MAP.len() - 1) as f64;
    let below = (place.floor() as usize).min(MAP.len() - 2);
    let part = place - below as f64;
    let mix = |c: usize| (f64::from(MAP[below][c]) * (1.0 - part) + f64::from(MAP[below + 1][c]) * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// Bars begin at 0, or at the lowest value where some are negative.
fn bar_scale(values: &[f32], length: f64) -> Scale {
    let (low, high) = extent(values.iter().map(|&v| f64::from(v))).unwrap_or((0.0, 1.0));
    Scale::new(Spacing::Linear, (low.min(0.0), high.max(0.0)), (0.0, length))
}

fn frame_bars(relevance: &[f32], at: &Layout) -> Markup {
    let scale = bar_scale(relevance, STRIP - 6.0);
    let base = at.top - 6.0;
    let gap = if at.cell.0 > 5.0 { 1.5 } else { 0.0 };
    html! {
        line class="axis" x1=(px(at.left)) y1=(px(base)) x2=(px(at.right)) y2=(px(base)) {}
        @for (frame, high) in relevance.iter().enumerate().filter_map(|(f, &v)| Some((f, scale.at(f64::from(v))?))) {
            rect class="f0" x=(px(at.left + at.cell.0 * frame as f64 + gap / 2.0)) y=(px(base - high))
                width=(px(at.cell.0 - gap)) height=(px(high)) {}
        }
        text class="soft" x=(px(at.left - 7.0)) y=(px(base - 2.0)) text-anchor="end" font-size="10.5" {
            @if at.left > 80.0 { "relevance" } @else { "rel." }
        }
    }
}

fn word_bars(weights: &[f32], at: &Layout) -> Markup {
    let length = WEIGHTS - 28.0;
    let scale = bar_scale(weights, length);
    let left = at.right + 10.0;
    let gap = if at.cell.1 > 7.0 { 3.0 } else { 0.6 };
    html! {
        line class="axis" x1=(px(left)) y1=(px(at.top)) x2=(px(left)) y2=(px(at.base)) {}
        @for (word, wide) in weights.iter().enumerate().filter_map(|(w, &v)| Some((w, scale.at(f64::from(v))?))) {
            rect class="f1" x=(px(left)) y=(px(at.top + at.cell.1 * word as f64 + gap / 2.0))
                width=(px(wide)) height=(px(at.cell.1 - gap)) {}
        }
        text class="soft" x=(px(left)) y=(px(at.top - 6.0)) font-size="10.5" { "word weight" }
    }
}

fn colour_bar(at: &Layout, scale: &Scale, quantity: &str) -> Markup {
    let high = (at.base - at.top).clamp(90.0, 260.0);
    let left = at.bar + 26.0;
    let base = at.top + high;
    let (low, top_value) = scale.range();
    let values = Scale::new(Spacing::Linear, (low, top_value), (base, at.top));
    let step = high / LEVELS as f64;
    html! {
        g shape-rendering="crispEdges" {
            @for level in 0..LEVELS {
                rect fill=(colour(level as f64 / (LEVELS - 1) as f64)) x=(px(left)) width="12"
                    y=(px(base - step * (level + 1) as f64)) height=(px(step + 0.5)) {}
            }
        }
        @for (value, y) in values.ticks(((high / 40.0) as usize).max(4)).into_iter().filter_map(|v| Some((v, values.at(v)?))) {
            text class="soft" x=(px(left + 16.0)) y=(px(y + 3.5)) font-size="10.5" { (label(value)) }
        }
        text class="soft" x=(px(left - 6.0)) y=(px((at.top + base) / 2.0)) text-anchor="middle" font-size="10.5"
            transform=(format!("rotate(-90 {} {})", px(left - 6.0), px((at.top + base) / 2.0))) {
            (fitted(quantity, high.max(90.0), 10.5))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    fn words(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("word{i}")).collect()
    }

    fn draw(words: &[String], frames: usize, score: impl Fn(usize) -> f32) -> String {
        let seconds: Vec<f32> = (0..frames).map(|f| f as f32 * 0.5).collect();
        let scores: Vec<f32> = (0..words.len() * frames).map(&score).collect();
        let weights: Vec<f32> = (0..words.len()).map(&score).collect();
        let relevance: Vec<f32> = (0..frames).map(&score).collect();
        let heat = Heat::new("map", "similarity", words, &seconds, &scores).unwrap();
        heat.word_weights(&weights).unwrap().frame_relevance(&relevance).unwrap().svg()
    }

    #[test]
    fn any_size_and_any_value_gives_a_sound_picture() {
        for (w, f) in [(0, 0), (0, 5), (5, 0), (1, 1), (1, 300), (40, 1), (7, 12)] {
            for value in [0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
                well_formed(&draw(&words(w), f, |_| value));
            }
            well_formed(&draw(&words(w), f, |i| if i % 5 == 0 { f32::NAN } else { (i as f32).sin() * 1e30 }));
        }
    }

    #[test]
    fn the_largest_map_stays_small_enough_to_open() {
        let svg = draw(&words(248), 257, |i| (i as f32 * 0.37).sin());
        well_formed(&svg);
        assert!(svg.len() < 3 << 20, "{} bytes", svg.len());
        // Every other word is labelled.
        assert!(svg.contains(">word0<") && svg.contains(">word246<") && !svg.contains(">word1<"));
    }

    #[test]
    fn labels_are_escaped_and_the_best_frame_is_marked() {
        let words = vec!["<b>".to_string(), "a & b".to_string(), "tab\tand\u{0}".to_string()];
        let svg = draw(&words, 4, |i| if i == 2 || i == 5 { 1.0 } else { 0.0 });
        let text = well_formed(&svg);
        assert!(text.contains("&lt;b&gt;") && text.contains("a &amp; b"), "{text}");
        // The third word is constant; its first frame counts as best.
        assert_eq!(svg.matches("class=\"mark\"").count(), 3);
        assert_eq!((best(&[0.0, f32::NAN, 2.0, 2.0]), best(&[f32::NAN]), best(&[])), (Some(2), None, None));
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let words = words(2);
        assert!(Heat::new("t", "s", &words, &[0.0], &[1.0]).is_err());
        let heat = || Heat::new("t", "s", &words, &[0.0], &[1.0, 2.0]).unwrap();
        assert!(heat().word_weights(&[1.0]).is_err() && heat().frame_relevance(&[1.0, 2.0]).is_err());
        let many = vec![String::new(); 1025];
        let error = Heat::new("t", "s", &many, &[0.0; 1024], &[0.0; 1025 * 1024]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("at most")));
    }

    #[test]
    fn the_colour_map_keeps_its_ends() {
        assert_eq!(
            (colour(0.0), colour(1.0), colour(f64::MAX)),
            ("#440154".into(), "#fde725".into(), "#fde725".into())
        );
    }
}
