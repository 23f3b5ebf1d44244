//! Grouped bars: a few quantities of a few things beside each other, with their intervals.

use super::axis::{Scale, Spacing, extent, label};
use super::curves::{BOTTOM, LEFT, RIGHT};
use super::svg::{Figure, Legend, clean, fill, fitted, px, shade};
use maud::{Markup, html};

/// A bar and the interval it is known to lie in.
pub type Value = (f64, Option<(f64, f64)>);

/// Groups along the horizontal axis, in each a bar of every series.
pub struct Bars {
    title: String,
    y_label: String,
    groups: Vec<String>,
    series: Vec<(String, Vec<Value>)>,
    range: (f64, f64),
    size: (f64, f64),
}

impl Bars {
    /// A group's name may have two lines. The label names the quantity and its unit.
    pub fn new(title: impl Into<String>, y_label: impl Into<String>, groups: Vec<String>) -> Self {
        let range = (f64::NAN, f64::NAN);
        Bars { title: title.into(), y_label: y_label.into(), groups, series: Vec::new(), range, size: (760.0, 360.0) }
    }

    /// One value a group; those that are not finite are left out.
    pub fn series(mut self, name: impl Into<String>, values: Vec<Value>) -> Self {
        self.series.push((name.into(), values));
        self
    }

    /// What the vertical axis shows at least.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = (low, high);
        self
    }

    /// Width and height in pixels without the legend, at least 320 × 220.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.size = (width.clamp(320.0, 10_000.0), height.clamp(220.0, 10_000.0));
        self
    }

    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        let legend = Legend::new(self.series.iter().map(|s| s.0.clone()).zip(0..), self.size.0);
        let (width, height, top) = (self.size.0, self.size.1 + legend.height(), 58.0 + legend.height());
        let base = height - BOTTOM;
        let ends = |(value, interval): &Value| [Some(*value), interval.map(|i| i.0), interval.map(|i| i.1)];
        let values = self.series.iter().flat_map(|s| s.1.iter().flat_map(ends)).flatten();
        let reach = extent(values.chain([0.0, self.range.0, self.range.1])).unwrap_or((f64::NAN, f64::NAN));
        let y = Scale::new(Spacing::Linear, reach, (base, top)).widened(6);
        let wide = (width - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        let bar = wide * 0.8 / self.series.len().max(1) as f64;
        let middle = (top + base) / 2.0;
        let body = html! {
            (legend.draw())
            @for (value, at) in y.ticks(6).into_iter().filter_map(|v| Some((v, y.at(v)?))) {
                line class="grid" x1=(px(LEFT)) y1=(px(at)) x2=(px(width - RIGHT)) y2=(px(at)) {}
                text class="soft" x=(px(LEFT - 8.0)) y=(px(at + 4.0)) text-anchor="end" font-size="11.5" { (label(value)) }
            }
            text x="18" y=(px(middle)) text-anchor="middle" font-size="12.5"
                transform=(format!("rotate(-90 18 {})", px(middle))) { (fitted(&self.y_label, base - top, 12.5)) }
            @for (group, name) in self.groups.iter().enumerate() {
                @let left = LEFT + wide * group as f64;
                @for (line, part) in name.lines().take(2).enumerate() {
                    text class=[(line > 0).then_some("soft")] x=(px(left + wide / 2.0)) font-size="12"
                        y=(px(base + 19.0 + 16.0 * line as f64)) text-anchor="middle" { (fitted(part, wide - 4.0, 12.0)) }
                }
                @for (number, (series, values)) in self.series.iter().enumerate() {
                    @if let Some(value) = values.get(group).filter(|v| v.0.is_finite()) {
                        (draw(value, &y, (left + wide * 0.1 + bar * number as f64, bar), (number, series)))
                    }
                }
            }
            @if let Some(zero) = y.at(0.0) {
                line class="axis" x1=(px(LEFT)) y1=(px(zero)) x2=(px(width - RIGHT)) y2=(px(zero)) {}
            }
        };
        Figure::new(width, height, &self.title, body)
    }
}

/// A bar from zero, its interval as a line, its value above both.
fn draw(value: &Value, y: &Scale, (left, wide): (f64, f64), (colour, name): (usize, &str)) -> Markup {
    let (value, interval) = (value.0, value.1.filter(|i| i.0.is_finite() && i.1.is_finite()));
    let Some((zero, end)) = y.at(0.0).zip(y.at(value)) else { return html! {} };
    let gap = if wide > 8.0 { 2.0 } else { 0.0 };
    let middle = left + wide / 2.0;
    let ends = interval.and_then(|(low, high)| y.at(low).zip(y.at(high)));
    let above = ends.map_or(end, |(_, high)| high).min(end).min(zero);
    html! {
        rect class=(fill(colour)) fill-opacity=(shade(colour)) x=(px(left + gap / 2.0)) y=(px(zero.min(end)))
            width=(px((wide - gap).max(0.5))) height=(px((zero - end).abs())) {
            title { (clean(name)) ": " (label(value)) }
        }
        @if let Some((low, high)) = ends {
            line class="whisker" x1=(px(middle)) y1=(px(low)) x2=(px(middle)) y2=(px(high)) {}
            @for at in [low, high] {
                line class="whisker" x1=(px(middle - 3.0)) y1=(px(at)) x2=(px(middle + 3.0)) y2=(px(at)) {}
            }
        }
        @if wide > 20.0 {
            text x=(px(middle)) y=(px(above - 5.0)) text-anchor="middle" font-size="11" { (format!("{value:.1}").replace('-', "−")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    #[test]
    fn any_data_gives_a_sound_picture() {
        for value in [0.0, 12.34, -5.0, f64::NAN, f64::INFINITY, f64::MAX] {
            for interval in [None, Some((value - 1.0, value + 1.0)), Some((f64::NAN, 1.0))] {
                let bars = Bars::new("<t>", "R@1 (%)", vec!["a & b\nc".into(), "d".into()])
                    .series("one", vec![(value, interval); 2])
                    .series("<two>", vec![(1.0, None)])
                    .range(0.0, 100.0);
                well_formed(&bars.svg());
            }
        }
        well_formed(&Bars::new("", "", vec![]).size(0.0, f64::NAN).svg());
    }

    #[test]
    fn every_value_is_written_above_its_bar() {
        let bars = Bars::new("t", "y", vec!["a".into(), "b".into()])
            .series("one", vec![(12.34, Some((10.0, 15.0))), (f64::NAN, None)])
            .series("two", vec![(56.0, None), (7.0, None)]);
        let svg = bars.svg();
        let text = well_formed(&svg);
        assert!(text.contains("12.3") && text.contains("56.0"), "{text}");
        // Two squares in the legend, one bar of the first series and two of the second.
        assert_eq!((svg.matches("class=\"f0\"").count(), svg.matches("class=\"f1\"").count()), (2, 3));
    }
}
