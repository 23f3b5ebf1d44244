//! Relevance over time, with the intervals found and the true ones.

use super::axis::{Scale, Spacing, cells, extent, label};
use super::curves::{BOTTOM, LEFT, RIGHT, grid, path};
use super::svg::{Figure, clean, fitted, px, width_of};
use maud::{Markup, html};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LANE: f64 = 18.0;

/// Begin and end in seconds, and what is written on it.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    begin: f64,
    end: f64,
    text: String,
}

impl Span {
    fn new((begin, end): (f64, f64)) -> Span {
        Span { begin, end, text: format!("{begin:.1}–{end:.1} s") }
    }
}

struct Lane {
    name: String,
    spans: Vec<Span>,
    colour: usize,
    /// Also shade the curve.
    shaded: bool,
}

/// How relevant each moment of a video is.
pub struct Timeline {
    title: String,
    y_label: String,
    /// Seconds and relevance.
    points: Vec<(f64, f64)>,
    duration: Option<f64>,
    threshold: Option<f64>,
    lanes: Vec<Lane>,
    size: (f64, f64),
}

impl Timeline {
    /// `points` are (time in seconds, relevance), in order of time.
    pub fn new(title: impl Into<String>, y_label: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Timeline {
            title: title.into(),
            y_label: y_label.into(),
            points,
            duration: None,
            threshold: None,
            lanes: Vec::new(),
            size: (WIDTH, HEIGHT),
        }
    }

    /// Width and height in pixels, without the lanes; at least 320 × 180.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.size = (width.clamp(320.0, 10_000.0), height.clamp(180.0, 10_000.0));
        self
    }

    /// The video's length in seconds, where frames do not reach its end.
    pub fn duration(mut self, seconds: f64) -> Self {
        self.duration = Some(seconds);
        self
    }

    /// A dashed line at the relevance above which a moment counts.
    pub fn threshold(mut self, relevance: f64) -> Self {
        self.threshold = Some(relevance);
        self
    }

    /// Intervals the model gives, (begin, end) in seconds: a lane of bars, and shading behind the curve.
    pub fn found(self, name: impl Into<String>, spans: Vec<(f64, f64)>) -> Self {
        self.lane(name.into(), spans.into_iter().map(Span::new).collect(), 0, true)
    }

    /// Intervals to compare with: a lane of bars.
    pub fn truth(self, name: impl Into<String>, spans: Vec<(f64, f64)>) -> Self {
        self.lane(name.into(), spans.into_iter().map(Span::new).collect(), 1, false)
    }

    /// Frames that the model marks, one a point: as [`Timeline::found`], from half the way to the frame before to half
    /// the way to the one after.
    pub fn found_frames(self, name: impl Into<String>, marked: &[bool]) -> Self {
        let spans = self.spans(marked);
        self.lane(name.into(), spans, 0, true)
    }

    /// Frames to compare with, one a point: a lane in a colour of its own (1 to 6).
    pub fn true_frames(self, name: impl Into<String>, marked: &[bool], colour: usize) -> Self {
        let spans = self.spans(marked);
        self.lane(name.into(), spans, colour.clamp(1, 6), false)
    }

    /// Runs of marked points, named by the times of the first and the last.
    fn spans(&self, marked: &[bool]) -> Vec<Span> {
        let times: Vec<f64> = self.points.iter().map(|p| p.0).collect();
        let mut spans: Vec<Span> = vec![];
        let (mut first, mut before) = (0.0, false);
        for ((at, (begin, end)), marked) in times.iter().zip(cells(&times)).zip(marked) {
            match spans.last_mut() {
                Some(last) if *marked && before => {
                    (last.end, last.text) = (end, format!("{}–{} s", label(first), label(*at)));
                }
                _ if *marked => {
                    spans.push(Span { begin, end, text: format!("{} s", label(*at)) });
                    first = *at;
                }
                _ => {}
            }
            before = *marked;
        }
        spans
    }

    fn lane(mut self, name: String, spans: Vec<Span>, colour: usize, shaded: bool) -> Self {
        let spans =
            spans.into_iter().filter(|s| s.begin.is_finite() && s.end.is_finite() && s.begin <= s.end).collect();
        self.lanes.push(Lane { name, spans, colour, shaded });
        self
    }

    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        let width = self.size.0;
        let top = 44.0 + LANE * self.lanes.len() as f64 + if self.lanes.is_empty() { 0.0 } else { 8.0 };
        let height = self.size.1 + LANE * self.lanes.len() as f64;
        let points: Vec<(f64, f64)> =
            self.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
        let ends = self.lanes.iter().flat_map(|l| &l.spans).flat_map(|s| [s.begin, s.end]);
        let times = points.iter().map(|p| p.0).chain(ends).chain(self.duration).chain([0.0]);
        let none = (f64::NAN, f64::NAN);
        let x = Scale::new(Spacing::Linear, extent(times).unwrap_or(none), (LEFT, width - RIGHT));
        // What is filled begins at 0.
        let values = points.iter().map(|p| p.1).chain(self.threshold).chain([0.0]);
        let y = Scale::new(Spacing::Linear, extent(values).unwrap_or(none), (height - BOTTOM, top)).widened(8);
        let body = html! {
            @for lane in self.lanes.iter().filter(|l| l.shaded) { (shade(lane, &x, top, height - BOTTOM)) }
            (grid(&x, &y, ("time (s)", &self.y_label), (width, height, top)))
            @for (number, lane) in self.lanes.iter().enumerate() { (bars(lane, &x, 42.0 + LANE * number as f64, width)) }
            (curve(&points, &x, &y, width))
            @if let Some(at) = self.threshold.and_then(|t| y.at(t)) {
                line class="line s6" x1=(px(LEFT)) y1=(px(at)) x2=(px(width - RIGHT)) y2=(px(at)) stroke-dasharray="4 4" {}
            }
        };
        Figure::new(width, height, &self.title, body)
    }
}

fn curve(points: &[(f64, f64)], x: &Scale, y: &Scale, width: f64) -> Markup {
    let pixels: Vec<(f64, f64)> = points.iter().filter_map(|&(t, v)| x.at(t).zip(y.at(v))).collect();
    let (low, high) = y.range();
    // The area stands on zero, or on the axis where zero is not shown.
    let base = y.at(0f64.clamp(low, high)).unwrap_or(0.0);
    html! {
        @match pixels.as_slice() {
            [] => { text class="soft" x=(px((LEFT + width - RIGHT) / 2.0)) y=(px(base - 60.0)) text-anchor="middle" font-size="13" { "no data" } }
            [(cx, cy)] => { circle class="f0" cx=(px(*cx)) cy=(px(*cy)) r="3.2" {} }
            [first, .., last] => {
                polygon class="f0" fill-opacity="0.12"
                    points=(format!("{},{} {} {},{}", px(first.0), px(base), path(&pixels), px(last.0), px(base))) {}
                polyline class="line s0" points=(path(&pixels)) {}
                @if pixels.len() <= 80 {
                    @for (cx, cy) in &pixels { circle class="f0" cx=(px(*cx)) cy=(px(*cy)) r="2.2" {} }
                }
            }
        }
    }
}

/// Left and right pixel of a span, at least a hair wide so that an instant is seen.
fn pixels(span: &Span, x: &Scale) -> Option<(f64, f64)> {
    let (left, right) = (x.at(span.begin)?, x.at(span.end)?);
    Some((left, right.max(left + 1.5)))
}

fn shade(lane: &Lane, x: &Scale, top: f64, base: f64) -> Markup {
    html! {
        @for (left, right) in lane.spans.iter().filter_map(|s| pixels(s, x)) {
            rect class=(format!("f{}", lane.colour)) fill-opacity="0.10" x=(px(left)) y=(px(top))
                width=(px(right - left)) height=(px(base - top)) {}
        }
    }
}

fn bars(lane: &Lane, x: &Scale, top: f64, width: f64) -> Markup {
    let name = fitted(&lane.name, LEFT - 10.0, 10.5);
    html! {
        text class="soft" x=(px(LEFT - 8.0)) y=(px(top + 10.0)) text-anchor="end" font-size="10.5" { (name) }
        line class="grid" x1=(px(LEFT)) y1=(px(top + 6.0)) x2=(px(width - RIGHT)) y2=(px(top + 6.0)) {}
        @for (span, (left, right)) in lane.spans.iter().filter_map(|s| Some((s, pixels(s, x)?))) {
            rect class=(format!("f{}", lane.colour)) fill-opacity="0.85" x=(px(left)) y=(px(top)) rx="2"
                width=(px(right - left)) height="12" {
                title { (clean(&lane.name)) ": " (span.text) }
            }
            @if right - left > width_of(&span.text, 10.0) + 6.0 {
                text x=(px((left + right) / 2.0)) y=(px(top + 9.6)) text-anchor="middle" font-size="10"
                    class="on" { (span.text) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    #[test]
    fn any_data_gives_a_sound_picture() {
        for points in [
            vec![],
            vec![(1.0, 0.5)],
            vec![(0.0, 0.2), (1.0, 0.2)],
            vec![(f64::NAN, 1.0), (1.0, f64::NAN), (2.0, 1.0)],
            vec![(0.0, f64::MAX), (1e300, f64::MIN)],
        ] {
            let svg = Timeline::new("t", "relevance", points)
                .duration(10.0)
                .threshold(0.3)
                .found("found", vec![(1.0, 1.0), (3.0, 2.0), (f64::NAN, 1.0), (-5.0, 1e9)])
                .truth("<true> & real", vec![])
                .svg();
            well_formed(&svg);
        }
        well_formed(&Timeline::new("", "", vec![]).duration(f64::NAN).threshold(f64::INFINITY).svg());
    }

    #[test]
    fn impossible_intervals_are_left_out_and_labels_escaped() {
        let svg =
            Timeline::new("t", "r", vec![(0.0, 0.0), (10.0, 1.0)]).found("a<b", vec![(1.0, 4.0), (9.0, 2.0)]).svg();
        let text = well_formed(&svg);
        assert!(text.contains("a&lt;b: 1.0–4.0 s".split(':').next().unwrap_or_default()));
        assert!(text.contains("1.0–4.0 s") && !text.contains("9.0–2.0"), "{text}");
    }

    #[test]
    fn marked_frames_become_runs_between_their_neighbours() {
        let points = vec![(0.0, 0.1), (1.0, 0.2), (2.0, 0.3), (4.0, 0.2), (5.0, 0.1)];
        let line = Timeline::new("t", "r", points);
        let span = |begin, end, text: &str| Span { begin, end, text: text.into() };
        let found = line.spans(&[true, true, false, false, true]);
        assert_eq!(found, [span(-0.5, 1.5, "0–1 s"), span(4.5, 5.5, "5 s")]);
        assert_eq!(line.spans(&[]), []);
        let svg = line.found_frames("found", &[false; 5]).true_frames("true", &[true; 5], 2).size(400.0, 200.0).svg();
        assert!(well_formed(&svg).contains("0–5 s"), "{svg}");
        let odd =
            Timeline::new("t", "r", vec![(2.0, 0.1), (2.0, 0.2), (f64::NAN, 0.1)]).true_frames("x", &[true; 3], 9);
        well_formed(&odd.svg());
    }
}
