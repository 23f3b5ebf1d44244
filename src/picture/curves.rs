//! Curves over steps or epochs: losses, learning rates, metrics.

use super::axis::{Scale, Spacing, extent, label};
use super::svg::{COLOURS, Figure, LEGEND_LINE, clean, fitted, px, width_of};
use maud::{Markup, html};

/// More points than pixels say nothing; beyond this a series is thinned, keeping its extremes.
const MOST_POINTS: usize = 1600;
/// From here on a noisy series is drawn smoothed, its values faint behind it.
const DENSE: usize = 400;
/// How many values on either side the smoothing averages.
const REACH: usize = 20;
pub(super) const LEFT: f64 = 72.0;
pub(super) const RIGHT: f64 = 20.0;
pub(super) const BOTTOM: f64 = 52.0;

struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    dashed: bool,
    colour: usize,
}

impl Series {
    /// Too dense and too restless to follow by eye. A schedule is dense but smooth, and is drawn exactly.
    fn is_noisy(&self) -> bool {
        let turns = |w: &&[(f64, f64)]| match w {
            [a, b, c] => (b.1 - a.1) * (c.1 - b.1) < 0.0,
            _ => false,
        };
        let many = self.points.len();
        many > DENSE && self.points.windows(3).filter(turns).count() > many / 5
    }
}

/// A figure of one or more series over one horizontal axis.
pub struct Curves {
    title: String,
    x_label: String,
    y_label: String,
    spacing: Spacing,
    size: (f64, f64),
    series: Vec<Series>,
}

impl Curves {
    /// Labels name the quantity and its unit: `"step"`, `"loss (nats)"`, `"time (s)"`.
    pub fn new(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> Self {
        Curves {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            spacing: Spacing::Linear,
            size: (760.0, 380.0),
            series: Vec::new(),
        }
    }

    /// Put the vertical axis on a log scale; values of 0 and below leave gaps.
    pub fn log_scale(mut self) -> Self {
        self.spacing = Spacing::Log;
        self
    }

    /// Width and height in pixels, at least 320 × 220.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.size = (width.clamp(320.0, 10_000.0), height.clamp(220.0, 10_000.0));
        self
    }

    /// A solid line through `(x, y)`, in a colour of its own. What is not finite leaves a gap.
    pub fn series(self, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        let colour = self.series.iter().filter(|s| !s.dashed).count();
        self.push(name.into(), points, false, colour)
    }

    /// A dashed line in the colour of the solid one before it: validation beside training.
    pub fn dashed(self, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        let colour = self.series.last().map_or(0, |s| s.colour);
        self.push(name.into(), points, true, colour)
    }

    fn push(mut self, name: String, points: Vec<(f64, f64)>, dashed: bool, colour: usize) -> Self {
        self.series.push(Series { name, points, dashed, colour: colour % COLOURS });
        self
    }

    /// The figure as an SVG document.
    pub fn svg(&self) -> String {
        self.figure().svg()
    }

    pub fn figure(&self) -> Figure {
        let (width, height) = self.size;
        let legend = self.legend();
        let top = 44.0 + LEGEND_LINE * legend.len() as f64 + if legend.is_empty() { 0.0 } else { 6.0 };
        // A long legend takes room from the page, not from the curves.
        let height = height.max(top + BOTTOM + 140.0);
        let shown =
            |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (self.spacing == Spacing::Linear || y > 0.0);
        let points = || self.series.iter().flat_map(|s| s.points.iter().filter(|p| shown(p)));
        let none = (f64::NAN, f64::NAN);
        let x_range = extent(points().map(|p| p.0)).unwrap_or(none);
        let y_range = extent(points().map(|p| p.1)).unwrap_or(none);
        let x = Scale::new(Spacing::Linear, x_range, (LEFT, width - RIGHT));
        let y = Scale::new(self.spacing, y_range, (height - BOTTOM, top)).widened(6);
        let body = html! {
            (draw_legend(&legend))
            (grid(&x, &y, (&self.x_label, &self.y_label), (width, height, top)))
            // Validation is drawn last: it has few points and would drown.
            @for series in self.series.iter().filter(|s| !s.dashed) { (draw(series, &x, &y)) }
            @for series in self.series.iter().filter(|s| s.dashed) { (draw(series, &x, &y)) }
            @if self.series.iter().any(Series::is_noisy) {
                text class="soft" x=(px(width - RIGHT)) y=(px(height - 12.0)) text-anchor="end" font-size="10.5" {
                    "faint: every value; line: mean of up to " (2 * REACH + 1)
                }
            }
            @if points().next().is_none() {
                text class="soft" x=(px((LEFT + width - RIGHT) / 2.0)) y=(px((top + height - BOTTOM) / 2.0))
                    text-anchor="middle" font-size="13" { "no data" }
            }
        };
        Figure::new(width, height, &self.title, body)
    }

    /// Legend entries with their left edges, broken into lines. One series needs no legend.
    fn legend(&self) -> Vec<Vec<(f64, &Series)>> {
        let mut lines: Vec<Vec<(f64, &Series)>> = Vec::new();
        if self.series.len() < 2 {
            return lines;
        }
        let mut left = f64::INFINITY;
        for series in &self.series {
            let wide = 46.0 + width_of(&fitted(&series.name, 240.0, 12.0), 12.0);
            if left + wide > self.size.0 - RIGHT {
                lines.push(Vec::new());
                left = 16.0;
            }
            if let Some(line) = lines.last_mut() {
                line.push((left, series));
            }
            left += wide;
        }
        lines
    }
}

fn draw_legend(lines: &[Vec<(f64, &Series)>]) -> Markup {
    html! {
        @for (number, line) in lines.iter().enumerate() {
            @let y = 48.0 + LEGEND_LINE * number as f64;
            @for (x, series) in line {
                line class=(format!("line s{}", series.colour)) x1=(px(*x)) y1=(px(y - 4.0)) x2=(px(x + 22.0))
                    y2=(px(y - 4.0)) stroke-dasharray=[series.dashed.then_some("5 4")] {}
                text x=(px(x + 28.0)) y=(px(y)) font-size="12" { (fitted(&series.name, 240.0, 12.0)) }
            }
        }
    }
}

/// Grid lines, tick labels and axis labels of a plot that ends [`BOTTOM`] above the figure's lower edge.
pub(super) fn grid(x: &Scale, y: &Scale, labels: (&str, &str), size: (f64, f64, f64)) -> Markup {
    let ticks = x.ticks(((size.0 - LEFT) / 90.0) as usize);
    let ticks: Vec<(f64, f64)> = ticks.into_iter().filter_map(|v| Some((v, x.at(v)?))).collect();
    grid_at(&ticks, y, labels, size)
}

/// The same with ticks on the horizontal axis at given values and pixels.
pub(super) fn grid_at(
    ticks: &[(f64, f64)],
    y: &Scale,
    labels: (&str, &str),
    (width, height, top): (f64, f64, f64),
) -> Markup {
    let base = height - BOTTOM;
    let (x_label, y_label) = (clean(labels.0), clean(labels.1));
    let middle = (top + base) / 2.0;
    html! {
        @for (value, at) in y.ticks(6).into_iter().filter_map(|v| Some((v, y.at(v)?))) {
            line class="grid" x1=(px(LEFT)) y1=(px(at)) x2=(px(width - RIGHT)) y2=(px(at)) {}
            text class="soft" x=(px(LEFT - 8.0)) y=(px(at + 4.0)) text-anchor="end" font-size="11.5" { (label(value)) }
        }
        @for (value, at) in ticks {
            line class="axis" x1=(px(*at)) y1=(px(base)) x2=(px(*at)) y2=(px(base + 4.0)) {}
            text class="soft" x=(px(*at)) y=(px(base + 18.0)) text-anchor="middle" font-size="11.5" { (label(*value)) }
        }
        line class="axis" x1=(px(LEFT)) y1=(px(base)) x2=(px(width - RIGHT)) y2=(px(base)) {}
        text x=(px((LEFT + width - RIGHT) / 2.0)) y=(px(height - 12.0)) text-anchor="middle" font-size="12.5" {
            (fitted(&x_label, width - LEFT - RIGHT, 12.5))
        }
        text x="18" y=(px(middle)) text-anchor="middle" font-size="12.5" transform=(format!("rotate(-90 18 {})", px(middle))) {
            (fitted(&y_label, base - top, 12.5))
        }
    }
}

/// The line of a series: smoothed over its own faint trace where there are too many points to follow.
fn draw(series: &Series, x: &Scale, y: &Scale) -> Markup {
    let at = |&(a, b): &(f64, f64)| x.at(a).zip(y.at(b));
    let trace = runs(&thinned(&series.points), at);
    html! {
        @if series.is_noisy() {
            g opacity="0.28" { (lines(&trace, series, "trace")) }
            (lines(&runs(&thinned(&smoothed(&series.points)), at), series, "line"))
        } @else {
            (lines(&trace, series, "line"))
        }
    }
}

fn lines(runs: &[Vec<(f64, f64)>], series: &Series, class: &str) -> Markup {
    html! {
        @for run in runs {
            @match run.as_slice() {
                [(cx, cy)] => { circle class=(format!("f{}", series.colour)) cx=(px(*cx)) cy=(px(*cy)) r="3.2" {} }
                _ => {
                    polyline class=(format!("{class} s{}", series.colour)) points=(path(run))
                        stroke-dasharray=[series.dashed.then_some("5 4")] {}
                }
            }
        }
    }
}

/// Each value replaced by the mean of up to [`REACH`] values on either side; fewer, but as many on both, near the ends,
/// so that a falling curve is not bent there. Gaps stay and are not averaged over.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |i: usize| {
        let reach = REACH.min(i).min(points.len() - 1 - i);
        let near = points.iter().skip(i - reach).take(2 * reach + 1).map(|p| p.1).filter(|v| v.is_finite());
        let (sum, n) = near.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
        sum / n
    };
    points.iter().enumerate().map(|(i, &(x, y))| (x, if y.is_finite() { mean(i) } else { y })).collect()
}

/// Pixels joined by a line, cut wherever a point cannot be shown.
fn runs(points: &[(f64, f64)], at: impl Fn(&(f64, f64)) -> Option<(f64, f64)>) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for point in points {
        match (at(point), runs.last_mut()) {
            (Some(pixel), Some(run)) => run.push(pixel),
            (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// `x,y x,y …`
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points.iter().map(|&(x, y)| format!("{},{}", px(x), px(y))).collect();
    points.join(" ")
}

/// At most [`MOST_POINTS`] points: each bucket keeps its lowest, its highest and a point that cannot be shown, in order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let bucket = points.len().div_ceil(MOST_POINTS / 2);
    let mut out = Vec::with_capacity(MOST_POINTS);
    for part in points.chunks(bucket) {
        let finite = || part.iter().enumerate().filter(|(_, p)| p.0.is_finite() && p.1.is_finite());
        let low = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1)).map(|(i, _)| i);
        let high = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1)).map(|(i, _)| i);
        let gap = part.iter().position(|p| !(p.0.is_finite() && p.1.is_finite()));
        let mut kept: Vec<usize> = [low, high, gap].into_iter().flatten().collect();
        kept.sort_unstable();
        kept.dedup();
        out.extend(kept.into_iter().map(|i| part[i]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    fn loss() -> Vec<(f64, f64)> {
        (0..500).map(|i| (f64::from(i), 4.0 * (-f64::from(i) / 120.0).exp() + 0.3)).collect()
    }

    #[test]
    fn any_data_gives_a_sound_picture() {
        let odd: Vec<Vec<(f64, f64)>> = vec![
            vec![],
            vec![(1.0, 2.0)],
            vec![(0.0, 3.0), (1.0, 3.0), (2.0, 3.0)],
            vec![(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 0.0)],
            vec![(5.0, -1.0), (5.0, 1.0)],
            vec![(f64::MIN, f64::MIN), (f64::MAX, f64::MAX)],
            vec![(0.0, 1e-320), (1.0, 1e308)],
        ];
        for points in odd {
            for log in [false, true] {
                let curves = Curves::new("t", "step", "loss").series("a", points.clone()).dashed("b", points.clone());
                let svg = if log { curves.log_scale() } else { curves }.svg();
                well_formed(&svg);
                assert_eq!(
                    svg.contains("no data"),
                    !svg.contains("<polyline") && !svg.contains("<circle"),
                    "{points:?}"
                );
            }
        }
        well_formed(&Curves::new("", "", "").svg());
    }

    #[test]
    fn names_are_escaped_and_the_picture_repeats() {
        let make = || {
            Curves::new("<t>", "step & more", "a\"b")
                .series("<train>", loss())
                .dashed("valid & test", loss())
                .log_scale()
                .svg()
        };
        let text = well_formed(&make());
        assert!(text.contains("&lt;train&gt;") && text.contains("valid &amp; test"), "{text}");
        assert_eq!(make(), make());
    }

    #[test]
    fn a_long_run_is_thinned_but_keeps_its_spikes() {
        let mut points: Vec<(f64, f64)> = (0..200_000).map(|i| (f64::from(i), 1.0)).collect();
        points[123_456].1 = 99.0;
        points[77_777].1 = f64::NAN;
        let kept = thinned(&points);
        assert!(kept.len() <= MOST_POINTS * 3 / 2, "{}", kept.len());
        assert!(kept.contains(&(123_456.0, 99.0)) && kept.iter().any(|p| p.1.is_nan()));
        assert!(kept.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn a_dense_series_is_smoothed_over_its_trace() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let smooth = smoothed(&points);
        assert!(smooth.iter().skip(30).take(900).all(|p| (p.1 - 0.5).abs() < 0.02) && smooth[0].1 == 0.0, "{smooth:?}");
        let svg = Curves::new("t", "x", "y").series("a", points).svg();
        assert_eq!((svg.matches("\"trace ").count(), svg.matches("\"line ").count()), (1, 1));
        assert!(svg.contains("mean of up to 41"));
        let schedule = (0..1000).map(|i| (f64::from(i), f64::from(i).sqrt())).collect();
        assert!(!Curves::new("t", "x", "y").series("a", schedule).svg().contains("\"trace "));
        assert!(smoothed(&[(0.0, f64::NAN), (1.0, 2.0)])[0].1.is_nan());
    }

    #[test]
    fn a_gap_cuts_the_line() {
        let svg = Curves::new("t", "x", "y")
            .series("a", vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 2.0)])
            .svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
    }
}
