//! One horizontal axis and a row a thing: bars, or the dots of repeated measurements with their mean and spread.

use super::axis::{Scale, Spacing, extent, label};
use super::svg::{Figure, clean, fill, fitted, px, shade, width_of};
use maud::{Markup, html};

const TOP: f64 = 48.0;
const BOTTOM: f64 = 50.0;
const RIGHT: f64 = 118.0;
const ROW: f64 = 34.0;

enum Content {
    Bar(f64),
    Dots { values: Vec<f64>, mean: f64, sd: Option<f64> },
}

struct Row {
    name: String,
    content: Content,
    colour: usize,
}

/// Rows over one axis, each with its value at the right.
pub struct Rows {
    title: String,
    x_label: String,
    rows: Vec<Row>,
    line: Option<(String, f64)>,
    width: f64,
}

impl Rows {
    /// The label names the quantity and its unit.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>) -> Self {
        Rows { title: title.into(), x_label: x_label.into(), rows: Vec::new(), line: None, width: 760.0 }
    }

    /// Width in pixels, at least 320.
    pub fn width(mut self, width: f64) -> Self {
        self.width = width.clamp(320.0, 10_000.0);
        self
    }

    /// A bar from zero.
    pub fn bar(mut self, name: impl Into<String>, value: f64, colour: usize) -> Self {
        self.rows.push(Row { name: name.into(), content: Content::Bar(value), colour });
        self
    }

    /// A dot a value, a tick at the mean and a line of a standard deviation on either side.
    pub fn dots(mut self, name: impl Into<String>, values: Vec<f64>, of: (f64, Option<f64>), colour: usize) -> Self {
        self.rows.push(Row { name: name.into(), content: Content::Dots { values, mean: of.0, sd: of.1 }, colour });
        self
    }

    /// A dashed line through all rows.
    pub fn line(mut self, name: impl Into<String>, value: f64) -> Self {
        self.line = Some((name.into(), value));
        self
    }

    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        let wanted = self.rows.iter().map(|r| width_of(&r.name, 12.0)).fold(0.0, f64::max);
        let left = 30.0 + wanted.clamp(40.0, 0.36 * self.width);
        let base = TOP + ROW * self.rows.len() as f64;
        let values = self.rows.iter().flat_map(|row| match &row.content {
            Content::Bar(value) => vec![0.0, *value],
            Content::Dots { values, mean, sd } => {
                let sd = sd.unwrap_or(0.0);
                values.iter().copied().chain([*mean - sd, *mean + sd]).collect()
            }
        });
        let reach = extent(values.chain(self.line.as_ref().map(|l| l.1))).unwrap_or((f64::NAN, f64::NAN));
        let ticks = ((self.width - left - RIGHT) / 55.0) as usize;
        let x = Scale::new(Spacing::Linear, reach, (left, self.width - RIGHT)).widened(ticks.max(2));
        let body = html! {
            @for (value, at) in x.ticks(ticks.max(2)).into_iter().filter_map(|v| Some((v, x.at(v)?))) {
                line class="grid" x1=(px(at)) y1=(px(TOP)) x2=(px(at)) y2=(px(base)) {}
                text class="soft" x=(px(at)) y=(px(base + 17.0)) text-anchor="middle" font-size="11.5" { (label(value)) }
            }
            line class="axis" x1=(px(left)) y1=(px(base)) x2=(px(self.width - RIGHT)) y2=(px(base)) {}
            text x=(px((left + self.width - RIGHT) / 2.0)) y=(px(base + 38.0)) text-anchor="middle" font-size="12.5" {
                (fitted(&self.x_label, self.width - left - RIGHT, 12.5))
            }
            @if let Some(zero) = x.at(0.0).filter(|at| (left..=self.width - RIGHT).contains(at)) {
                line class="axis" x1=(px(zero)) y1=(px(TOP)) x2=(px(zero)) y2=(px(base)) {}
            }
            @for (number, row) in self.rows.iter().enumerate() {
                @let middle = TOP + ROW * (number as f64 + 0.5);
                text x=(px(left - 12.0)) y=(px(middle + 4.0)) text-anchor="end" font-size="12" {
                    (fitted(&row.name, left - 20.0, 12.0))
                }
                (draw(row, &x, middle))
                text x=(px(self.width - RIGHT + 12.0)) y=(px(middle + 4.0)) font-size="12" { (told(row)) }
            }
            @if let Some((name, at)) = self.line.as_ref().and_then(|(name, v)| Some((name, x.at(*v)?))) {
                line class="line s6" x1=(px(at)) y1=(px(TOP)) x2=(px(at)) y2=(px(base)) stroke-dasharray="4 4" {}
                text class="soft" x=(px(at)) y=(px(TOP - 5.0)) text-anchor="middle" font-size="11" {
                    (fitted(name, self.width - left, 11.0))
                }
            }
        };
        Figure::new(self.width, base + BOTTOM, &self.title, body)
    }
}

fn told(row: &Row) -> String {
    let number = |v: f64| if v.is_finite() { format!("{v:.3}").replace('-', "−") } else { "–".into() };
    match &row.content {
        Content::Bar(value) => number(*value),
        Content::Dots { mean, sd: Some(sd), .. } => format!("{} ± {}", number(*mean), number(*sd)),
        Content::Dots { mean, .. } => number(*mean),
    }
}

fn draw(row: &Row, x: &Scale, middle: f64) -> Markup {
    let (class, opacity) = (fill(row.colour), shade(row.colour));
    match &row.content {
        Content::Bar(value) => html! {
            @if let Some((zero, end)) = x.at(0.0).zip(x.at(*value)).filter(|_| value.is_finite()) {
                rect class=(class) fill-opacity=(opacity) x=(px(zero.min(end))) y=(px(middle - 9.0)) height="18" rx="2"
                    width=(px((end - zero).abs().max(1.0))) { title { (clean(&row.name)) ": " (told(row)) } }
            }
        },
        Content::Dots { values, mean, sd } => html! {
            @if let Some(at) = x.at(*mean) {
                @let sd = sd.unwrap_or(0.0);
                @if let Some((from, to)) = x.at(mean - sd).zip(x.at(mean + sd)) {
                    rect class=(class) fill-opacity="0.22" x=(px(from)) y=(px(middle - 11.0)) height="22" rx="2"
                        width=(px((to - from).max(0.0))) {}
                }
                rect class=(class) x=(px(at - 1.0)) y=(px(middle - 12.0)) width="2" height="24" {}
            }
            @for (i, at) in values.iter().enumerate().filter_map(|(i, v)| Some((i, x.at(*v).filter(|_| v.is_finite())?))) {
                // Spread by the golden ratio, so that equal values are told apart.
                circle class=(class) fill-opacity="0.65" cx=(px(at)) r="3"
                    cy=(px(middle + if values.len() > 1 { 14.0 * ((i as f64 * 0.618_034).fract() - 0.5) } else { 0.0 })) {}
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    #[test]
    fn any_data_gives_a_sound_picture() {
        for value in [0.0, 0.5, -3.0, f64::NAN, f64::INFINITY, f64::MAX] {
            let rows = Rows::new("<t>", "score")
                .bar("a & b", value, 0)
                .dots("<dots>", vec![value, 1.0, value], (value, Some(value)), 9)
                .dots("one", vec![value], (value, None), 1)
                .dots("none", vec![], (f64::NAN, None), 1)
                .line("plain", value)
                .width(f64::MAX);
            well_formed(&rows.svg());
        }
        well_formed(&Rows::new("", "").svg());
    }

    #[test]
    fn a_dot_a_value_and_its_mean_at_the_right() {
        let svg =
            Rows::new("t", "score").dots("drop", vec![0.25, 0.75], (0.5, Some(0.125)), 2).line("plain", 0.6).svg();
        let text = well_formed(&svg);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(text.contains("0.500 ± 0.125") && text.contains("plain"), "{text}");
    }
}
