//! How something is made up over time: a stacked bar a frame, and one for the whole.

use super::axis::{Scale, Spacing, cells, extent, label};
use super::curves::{BOTTOM, LEFT, grid};
use super::svg::{Figure, Legend, clean, fill, fitted, px, shade};
use crate::error::{Error, Result};
use maud::{Markup, html};

/// Room at the right for the bar of the whole.
const WHOLE: f64 = 128.0;
const WIDE: f64 = 34.0;

/// Shares that sum to 1 in every frame, and over the whole.
pub struct Shares<'a> {
    title: String,
    names: Vec<String>,
    seconds: &'a [f32],
    shares: &'a [f32],
    whole: &'a [f32],
    whole_name: String,
    size: (f64, f64),
}

impl<'a> Shares<'a> {
    /// `shares[frame · parts + part]` is the share of a part in a frame, `seconds[frame]` the frame's time, `whole[part]`
    /// the share over all frames, whose bar is called `whole_name`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes disagree.
    pub fn new(
        title: impl Into<String>,
        names: Vec<String>,
        seconds: &'a [f32],
        shares: &'a [f32],
        whole: (&'a [f32], &str),
    ) -> Result<Self> {
        if whole.0.len() != names.len() || names.len().checked_mul(seconds.len()) != Some(shares.len()) {
            let what = format!(
                "{} shares and {} totals for {} parts of {} frames",
                shares.len(),
                whole.0.len(),
                names.len(),
                seconds.len()
            );
            return Err(Error::shape("shares over time", what));
        }
        let (whole, whole_name) = (whole.0, whole.1.to_string());
        Ok(Shares { title: title.into(), names, seconds, shares, whole, whole_name, size: (760.0, 300.0) })
    }

    /// Width and height in pixels without the legend, at least 320 × 180.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.size = (width.clamp(320.0, 10_000.0), height.clamp(180.0, 10_000.0));
        self
    }

    pub fn figure(&self) -> Figure {
        let names = self.names.iter().zip(self.whole).map(|(name, share)| format!("{name}: {}", percent(*share)));
        let legend = Legend::new(names.zip(0..), self.size.0);
        let (width, top) = (self.size.0, 44.0 + legend.height());
        let height = self.size.1 + legend.height();
        let right = width - WHOLE;
        let times: Vec<f64> = self.seconds.iter().map(|s| f64::from(*s)).collect();
        let cells = cells(&times);
        let reach = extent(cells.iter().flat_map(|(begin, end)| [*begin, *end])).unwrap_or((f64::NAN, f64::NAN));
        let x = Scale::new(Spacing::Linear, reach, (LEFT, right));
        let y = Scale::new(Spacing::Linear, (0.0, 100.0), (height - BOTTOM, top));
        let frames = cells.iter().zip(self.shares.chunks_exact(self.names.len().max(1)));
        let body = html! {
            (legend.draw())
            (grid(&x, &y, ("time (s)", "share (%)"), (right + 20.0, height, top)))
            @for (&(begin, end), shares) in frames {
                @if let Some((left, edge)) = x.at(begin).zip(x.at(end)) {
                    @let gap = if edge - left > 6.0 { 1.0 } else { 0.0 };
                    (self.bar(shares, &y, (left + gap / 2.0, (edge - left - gap).max(1.0)), false))
                }
            }
            (self.bar(self.whole, &y, (right + 36.0, WIDE), true))
            text class="soft" x=(px(right + 36.0 + WIDE / 2.0)) y=(px(height - BOTTOM + 18.0)) text-anchor="middle"
                font-size="11.5" { (fitted(&self.whole_name, WHOLE - 20.0, 11.5)) }
            @if self.shares.is_empty() {
                text class="soft" x=(px((LEFT + right) / 2.0)) y=(px((top + height - BOTTOM) / 2.0))
                    text-anchor="middle" font-size="13" { "no data" }
            }
        };
        Figure::new(width, height, &self.title, body)
    }

    /// Parts on top of each other; the first stands below. `told` writes each share beside its part.
    fn bar(&self, shares: &[f32], y: &Scale, (left, wide): (f64, f64), told: bool) -> Markup {
        let mut below = 0.0;
        let parts = shares.iter().enumerate().filter_map(|(part, share)| {
            let from = below;
            below += if share.is_finite() { 100.0 * f64::from(share.max(0.0)) } else { 0.0 };
            let (base, top) = y.at(from).zip(y.at(below))?;
            (base - top > 0.05).then_some((part, *share, base, top))
        });
        let parts: Vec<_> = parts.collect();
        html! {
            @for (part, share, base, top) in parts {
                rect class=(fill(part)) fill-opacity=(shade(part)) x=(px(left)) y=(px(top)) width=(px(wide))
                    height=(px((base - top - 0.6).max(0.4))) {
                    title { @if let Some(name) = self.names.get(part) { (clean(name)) ": " (percent(share)) } }
                }
                @if told && base - top > 11.0 {
                    text x=(px(left + wide + 5.0)) y=(px((base + top) / 2.0 + 4.0)) font-size="11" { (percent(share)) }
                }
            }
        }
    }
}

fn percent(share: f32) -> String {
    format!("{} %", label((f64::from(share) * 100.0).round()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("<expert {i}>")).collect()
    }

    #[test]
    fn any_data_gives_a_sound_picture() {
        for (frames, parts) in [(0, 0), (0, 3), (1, 1), (5, 4), (200, 16)] {
            for value in [0.0, 0.25, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
                let (seconds, shares): (Vec<f32>, _) =
                    ((0..frames).map(|f| f as f32).collect(), vec![value; frames * parts]);
                let whole = vec![value; parts];
                let picture = Shares::new("t & u", names(parts), &seconds, &shares, (&whole, "all")).unwrap();
                well_formed(&picture.size(400.0, 200.0).figure().svg());
            }
        }
        let odd = Shares::new("t", names(1), &[f32::NAN, 1.0], &[1.0, 1.0], (&[1.0], "all")).unwrap();
        well_formed(&odd.figure().svg());
    }

    #[test]
    fn a_frame_is_filled_by_its_shares() {
        let picture = Shares::new("t", names(2), &[0.0, 1.0], &[0.25, 0.75, 1.0, 0.0], (&[0.5, 0.5], "all")).unwrap();
        let svg = picture.figure().svg();
        let text = well_formed(&svg);
        assert!(text.contains("&lt;expert 0&gt;: 50 %") && text.contains("75 %"), "{text}");
        // Two parts in the first frame, one in the second, two in the whole, two in the legend.
        assert_eq!(svg.matches("class=\"f0\"").count() + svg.matches("class=\"f1\"").count(), 3 + 2 + 2);
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        assert!(Shares::new("t", names(2), &[0.0], &[1.0], (&[1.0, 0.0], "")).is_err());
        assert!(Shares::new("t", names(2), &[0.0], &[1.0, 0.0], (&[1.0], "")).is_err());
    }
}
