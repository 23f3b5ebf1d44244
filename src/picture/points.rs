//! Points with their deviations in both directions: labelled, joined to curves, or with the frontier of the best.

use super::axis::{Scale, Spacing, extent};
use super::curves::{BOTTOM, LEFT, RIGHT, grid_at, path};
use super::labels::{Rect, placed};
use super::svg::{COLOURS, Figure, Legend, clean, fill, fitted, px, shade};
use maud::{Markup, html};

/// A point, how far it may be off either way, and what is written beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    pub at: (f64, f64),
    /// Standard deviations across and up; 0 where nothing is known.
    pub sd: (f64, f64),
    /// Empty for none.
    pub label: String,
}

/// How values are spread along the horizontal axis.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Across {
    Linear,
    Log,
    /// Every value as far from the next.
    Even,
}

/// Radius of a point, and of the ring around one on the frontier.
const RADIUS: f64 = 4.5;
const RING: f64 = 7.5;
const LABEL: f64 = 11.0;
/// Room between the outermost values and the ends of the axis.
const MARGIN: f64 = 24.0;
/// At most so many values of curves are all named on the axis.
const NAMED: usize = 12;

/// A figure of one or more series of points.
pub struct Points {
    title: String,
    labels: (String, String),
    across: Across,
    joined: bool,
    series: Vec<(String, Vec<Mark>)>,
    frontier: Vec<(f64, f64)>,
    size: (f64, f64),
}

impl Points {
    /// Labels name the quantity and its unit.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> Self {
        Points {
            title: title.into(),
            labels: (x_label.into(), y_label.into()),
            across: Across::Linear,
            joined: false,
            series: vec![],
            frontier: vec![],
            size: (760.0, 400.0),
        }
    }

    pub fn across(mut self, across: Across) -> Self {
        self.across = across;
        self
    }

    /// Lines through the points of each series.
    pub fn joined(mut self) -> Self {
        self.joined = true;
        self
    }

    /// Points in a colour of their own; those that are not finite are left out.
    pub fn series(mut self, name: impl Into<String>, marks: Vec<Mark>) -> Self {
        self.series.push((name.into(), marks));
        self
    }

    /// Points that no other beats, from the left: ringed, and joined by the edge of what they beat to the right and
    /// below.
    pub fn frontier(mut self, points: Vec<(f64, f64)>) -> Self {
        self.frontier = points;
        self
    }

    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        // One series needs no legend.
        let names = self.series.iter().map(|s| s.0.clone()).zip(0..);
        let legend = Legend::new(names.filter(|_| self.series.len() > 1), self.size.0);
        let (width, height, top) = (self.size.0, self.size.1 + legend.height(), 48.0 + legend.height());
        let base = height - BOTTOM;
        let shown = || self.series.iter().flat_map(|s| &s.1).filter(|m| m.at.0.is_finite() && m.at.1.is_finite());
        let none = (f64::NAN, f64::NAN);
        let ends = |value: f64, sd: f64| [value, value - sd, value + sd];
        let y_range = extent(shown().flat_map(|m| ends(m.at.1, m.sd.1))).unwrap_or(none);
        let y = Scale::new(Spacing::Linear, y_range, (base, top)).widened(6);
        let x = Axis::new(self.across, shown(), (LEFT + MARGIN, width - RIGHT - MARGIN));
        let spots: Vec<Vec<Spot>> = self.series.iter().map(|(_, marks)| spots(marks, &x, &y)).collect();
        let edge = self.edge(&x, &y, width - RIGHT);
        let bounds = Rect(LEFT + 2.0, top - 6.0, width - RIGHT, base - 2.0);
        let body = html! {
            (legend.draw())
            (grid_at(&x.ticks(self.joined), &y, (&self.labels.0, &self.labels.1), (width, height, top)))
            @if edge.len() > 1 {
                polyline class="axis" fill="none" stroke-dasharray="5 4" points=(path(&edge)) {}
                text class="soft" x=(px(width - RIGHT)) y=(px(height - 12.0)) text-anchor="end" font-size="10.5" {
                    "dashed, ringed: frontier"
                }
            }
            @for (number, spots) in spots.iter().enumerate() { (self.draw(number, spots)) }
            @for (x, y) in self.frontier.iter().filter_map(|(a, b)| x.at(*a).zip(y.at(*b))) {
                circle class="whisker" fill="none" cx=(px(x)) cy=(px(y)) r=(px(RING)) {}
            }
            (draw_labels(&spots, &edge, bounds))
            @if shown().next().is_none() {
                text class="soft" x=(px((LEFT + width - RIGHT) / 2.0)) y=(px((top + base) / 2.0))
                    text-anchor="middle" font-size="13" { "no data" }
            }
        };
        Figure::new(width, height, &self.title, body)
    }

    /// The staircase of the frontier, on to the right end of the axis.
    fn edge(&self, x: &Axis, y: &Scale, right: f64) -> Vec<(f64, f64)> {
        let mut edge: Vec<(f64, f64)> = vec![];
        for (across, up) in self.frontier.iter().filter_map(|(a, b)| x.at(*a).zip(y.at(*b))) {
            edge.extend(edge.last().map(|last| (across, last.1)));
            edge.push((across, up));
        }
        edge.extend(edge.last().map(|last| (right, last.1)));
        edge
    }

    fn draw(&self, number: usize, spots: &[Spot]) -> Markup {
        let line: Vec<(f64, f64)> = spots.iter().map(|s| s.at).collect();
        let stroke = format!("s{}", number % COLOURS);
        html! {
            @if self.joined && line.len() > 1 {
                polyline class=(format!("line {stroke}")) stroke-opacity=(shade(number)) points=(path(&line)) {}
            }
            @for spot in spots {
                @for (from, to) in &spot.whiskers {
                    line class=(stroke) stroke-width="1.4" x1=(px(from.0)) y1=(px(from.1)) x2=(px(to.0)) y2=(px(to.1)) {}
                }
                circle class=(fill(number)) fill-opacity=(shade(number)) cx=(px(spot.at.0)) cy=(px(spot.at.1))
                    r=(px(RADIUS)) {
                    title { (clean(&self.series[number].0)) @if !spot.label.is_empty() { ": " (spot.label) } }
                }
            }
        }
    }
}

/// The horizontal axis.
struct Axis {
    scale: Scale,
    /// Where they are spread evenly, all values in order.
    values: Vec<f64>,
    across: Across,
}

impl Axis {
    fn new<'a>(across: Across, marks: impl Iterator<Item = &'a Mark>, pixels: (f64, f64)) -> Axis {
        let (mut values, mut ends) = (vec![], vec![]);
        for mark in marks.filter(|m| across != Across::Log || m.at.0 > 0.0) {
            values.push(mark.at.0);
            ends.extend([mark.at.0 - mark.sd.0, mark.at.0 + mark.sd.0]);
        }
        values.sort_by(f64::total_cmp);
        values.dedup();
        ends.retain(|e| across != Across::Log || *e > 0.0);
        let range = extent(values.iter().copied().chain(ends)).unwrap_or((f64::NAN, f64::NAN));
        let scale = match across {
            Across::Linear => Scale::new(Spacing::Linear, range, pixels),
            Across::Log => Scale::new(Spacing::Log, range, pixels),
            Across::Even => Scale::new(Spacing::Linear, (0.0, values.len().saturating_sub(1) as f64), pixels),
        };
        Axis { scale, values, across }
    }

    fn at(&self, value: f64) -> Option<f64> {
        match self.across {
            Across::Even => self.scale.at(self.values.iter().position(|v| *v == value)? as f64),
            _ => self.scale.at(value),
        }
    }

    /// Values that are named, and their pixels. Curves over few values name all of these where there is room.
    fn ticks(&self, joined: bool) -> Vec<(f64, f64)> {
        let all = || self.values.iter().filter_map(|v| Some((*v, self.at(*v)?))).collect::<Vec<_>>();
        let apart = |t: &[(f64, f64)]| t.windows(2).all(|w| w[1].1 - w[0].1 > 30.0);
        let (own, even) = (all(), self.across == Across::Even);
        if even || (joined && self.values.len() <= NAMED && apart(&own)) {
            return own;
        }
        self.scale.ticks(7).into_iter().filter_map(|v| Some((v, self.scale.at(v)?))).collect()
    }
}

/// A mark in pixels.
struct Spot {
    at: (f64, f64),
    whiskers: Vec<((f64, f64), (f64, f64))>,
    label: String,
}

fn spots(marks: &[Mark], x: &Axis, y: &Scale) -> Vec<Spot> {
    let spot = |mark: &Mark| {
        let (across, up) = x.at(mark.at.0).zip(y.at(mark.at.1))?;
        let known = |sd: f64| sd.is_finite() && sd > 0.0;
        let mut whiskers = vec![];
        if known(mark.sd.0) && x.across != Across::Even {
            let end = |value| x.at(value).unwrap_or(across);
            whiskers.push(((end(mark.at.0 - mark.sd.0), up), (end(mark.at.0 + mark.sd.0), up)));
        }
        if known(mark.sd.1) {
            let end = |value| y.at(value).unwrap_or(up);
            whiskers.push(((across, end(mark.at.1 - mark.sd.1)), (across, end(mark.at.1 + mark.sd.1))));
        }
        Some(Spot { at: (across, up), whiskers, label: fitted(&mark.label, 160.0, LABEL) })
    };
    marks.iter().filter_map(spot).collect()
}

/// Labels where nothing else is, with a line to their point where they had to go far.
fn draw_labels(spots: &[Vec<Spot>], edge: &[(f64, f64)], bounds: Rect) -> Markup {
    let all = || spots.iter().flatten();
    let thin = |(a, b): &((f64, f64), (f64, f64))| {
        Rect(a.0.min(b.0) - 1.0, a.1.min(b.1) - 1.0, a.0.max(b.0) + 1.0, a.1.max(b.1) + 1.0)
    };
    let steps = edge.windows(2).map(|w| (w[0], w[1]));
    let lines = all().flat_map(|s| s.whiskers.iter().copied()).chain(steps).map(|line| thin(&line));
    let drawn: Vec<Rect> = all().map(|s| Rect::around(s.at, RING)).chain(lines).collect();
    let labelled: Vec<((f64, f64), &str)> =
        all().filter(|s| !s.label.is_empty()).map(|s| (s.at, s.label.as_str())).collect();
    let places = placed(&labelled, LABEL, &drawn, bounds);
    html! {
        @for (((x, y), label), place) in labelled.iter().zip(&places) {
            @let near = place.nearest((*x, *y));
            @let far = (near.0 - x).hypot(near.1 - y);
            @if far > 12.0 {
                @let (across, down) = ((near.0 - x) * RING / far, (near.1 - y) * RING / far);
                line class="axis" stroke-opacity="0.7" x1=(px(x + across)) y1=(px(y + down)) x2=(px(near.0))
                    y2=(px(near.1)) {}
            }
            text x=(px((place.0 + place.2) / 2.0)) y=(px(place.3 - LABEL * 0.3)) text-anchor="middle" font-size=(px(LABEL)) {
                (label)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    fn mark(x: f64, y: f64, label: &str) -> Mark {
        Mark { at: (x, y), sd: (0.0, 0.0), label: label.into() }
    }

    #[test]
    fn any_data_gives_a_sound_picture() {
        let odd = [0.0, -1.0, 1.0, 1e-300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY];
        for across in [Across::Linear, Across::Log, Across::Even] {
            for a in odd {
                for b in odd {
                    let marks = vec![Mark { at: (a, b), sd: (b, a), label: "<a>".into() }, mark(b, 1.0, "")];
                    let points = Points::new("<t>", "x & y", "R@1 (%)").across(across).joined();
                    let points = points.series("<one>", marks.clone()).series("two", marks);
                    well_formed(&points.frontier(vec![(a, b), (b, a)]).svg());
                }
            }
            let svg = Points::new("", "", "").across(across).svg();
            assert!(well_formed(&svg).contains("no data"));
        }
    }

    #[test]
    fn points_are_labelled_and_the_frontier_is_ringed() {
        let points = || {
            let soft = vec![mark(1.0, 10.0, "K 2"), mark(4.0, 30.0, "K 8")];
            let token = vec![Mark { sd: (0.1, 2.0), ..mark(2.0, 5.0, "K 8, k 2") }];
            Points::new("t", "time ratio", "R@1 (%)").across(Across::Log).series("soft", soft).series("token", token)
        };
        let svg = points().frontier(vec![(1.0, 10.0), (4.0, 30.0)]).svg();
        let text = well_formed(&svg);
        assert!(text.contains("K 8, k 2") && text.contains("frontier"), "{text}");
        assert_eq!((svg.matches("r=\"7.5\"").count(), svg.matches("stroke-width=\"1.4\"").count()), (2, 2));
        assert!(!points().svg().contains("frontier"));
        assert_eq!(points().svg(), points().svg());
    }

    #[test]
    fn curves_name_the_values_they_go_through() {
        let marks = [4.0, 8.0, 16.0, 32.0, 64.0].map(|x| mark(x, x, ""));
        let curve = Points::new("t", "frames", "%").joined().series("a", marks.to_vec());
        let text = well_formed(&curve.across(Across::Log).svg());
        assert!([4, 8, 16, 32, 64].iter().all(|v| text.lines().any(|line| line == v.to_string())), "{text}");
        let even = [0.0, 0.03, 3.0].map(|x| mark(x, x, ""));
        let svg = Points::new("t", "x", "%").joined().series("a", even.to_vec()).across(Across::Even).svg();
        assert!(well_formed(&svg).contains("0.03"));
    }
}
