//! Frames of a video beside each other, each with its second, as on a strip of film.

use super::svg::{Figure, clean, fill, fitted, px, shade, width_of};
use maud::{Markup, html};

const HEIGHT: f64 = 120.0;
const GAP: f64 = 8.0;
const MARGIN: f64 = 16.0;
const MOST: f64 = 1100.0;

/// A frame, as it goes into a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Still {
    pub second: f64,
    pub width: u32,
    pub height: u32,
    /// A `data:` address of a JPEG picture: a page names no other place.
    pub data: String,
}

/// Frames in the order of time, broken into rows; `marked` ones have a frame of colour.
pub struct Strip {
    title: String,
    stills: Vec<(Still, bool)>,
    labels: Vec<String>,
    height: f64,
    verdict: Option<Verdict>,
}

struct Verdict {
    /// Number of a series' colour.
    colour: usize,
    left: String,
    right: String,
}

impl Strip {
    pub fn new(title: impl Into<String>, stills: Vec<(Still, bool)>) -> Strip {
        Strip { title: title.into(), stills, labels: vec![], height: HEIGHT, verdict: None }
    }

    /// What stands below each frame in the place of its second.
    pub fn labels(mut self, labels: Vec<String>) -> Strip {
        self.labels = labels;
        self
    }

    /// Pixels of a frame's height, at least 20.
    pub fn height(mut self, height: f64) -> Strip {
        self.height = height.clamp(20.0, MOST);
        self
    }

    /// In the place of a title: a line of colour beside the frames, and what is said above their left and right ends.
    pub fn verdict(mut self, colour: usize, left: impl Into<String>, right: impl Into<String>) -> Strip {
        self.verdict = Some(Verdict { colour, left: left.into(), right: right.into() });
        self
    }

    pub fn figure(&self) -> Figure {
        let top = match (&self.verdict, self.title.is_empty()) {
            (Some(_), _) => 28.0,
            (None, true) => 12.0,
            (None, false) => 44.0,
        };
        let (mut x, mut y, mut right) = (MARGIN, top, 240.0f64);
        let mut places = vec![];
        for (still, _) in &self.stills {
            let wide = (self.height * f64::from(still.width) / f64::from(still.height.max(1))).clamp(20.0, MOST);
            if x > MARGIN && x + wide > MOST {
                (x, y) = (MARGIN, y + self.height + 30.0);
            }
            places.push((x, y, wide));
            x += wide + GAP;
            right = right.max(x - GAP + MARGIN);
        }
        let label = |i: usize, still: &Still| match self.labels.get(i) {
            Some(label) => clean(label),
            None => format!("{:.1} s", still.second),
        };
        let body = html! {
            @if let Some(verdict) = &self.verdict { (verdict.draw(right, y + self.height)) }
            @for (i, ((still, marked), (x, y, wide))) in self.stills.iter().zip(&places).enumerate() {
                image x=(px(*x)) y=(px(*y)) width=(px(*wide)) height=(px(self.height)) href=(still.data)
                    preserveAspectRatio="xMidYMid meet" {}
                @if *marked {
                    rect class="s1" fill="none" stroke-width="3" x=(px(*x)) y=(px(*y)) width=(px(*wide))
                        height=(px(self.height)) rx="2" {}
                }
                text class="soft" x=(px(x + wide / 2.0)) y=(px(y + self.height + 15.0)) text-anchor="middle"
                    font-size="11" { (label(i, still)) }
            }
        };
        let title = if self.verdict.is_some() { "" } else { &self.title };
        Figure::new(right, y + self.height + 24.0, title, body)
    }
}

impl Verdict {
    fn draw(&self, right: f64, bottom: f64) -> Markup {
        let room = right - 2.0 * MARGIN - width_of(&self.right, 12.0) - GAP;
        html! {
            rect class=(fill(self.colour)) fill-opacity=(shade(self.colour)) x="4" y="8" width="4" height=(px(bottom - 8.0))
                rx="2" {}
            text x=(px(MARGIN)) y="20" font-size="13" font-weight="600" { (fitted(&self.left, room, 13.0)) }
            text x=(px(right - MARGIN)) y="20" font-size="12" text-anchor="end" { (clean(&self.right)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;

    #[test]
    fn any_stills_give_a_sound_picture() {
        let still =
            |second, width, height| (Still { second, width, height, data: "data:image/jpeg;base64,AA==".into() }, true);
        well_formed(&Strip::new("none", vec![]).figure().svg());
        let many = (0..20).map(|i| still(f64::from(i), 240, 100 + i * 7)).collect();
        well_formed(&Strip::new("a < b", many).figure().svg());
        well_formed(&Strip::new("", vec![still(f64::NAN, 1, 9000), still(0.0, 9000, 1)]).figure().svg());
    }

    #[test]
    fn a_verdict_takes_the_place_of_the_title_and_labels_that_of_seconds() {
        let still = (Still { second: 1.25, width: 96, height: 96, data: "data:image/jpeg;base64,AA==".into() }, false);
        let strip = || Strip::new("the title", vec![still.clone(); 2]).height(80.0);
        let text = well_formed(&strip().figure().svg());
        assert!(text.contains("the title") && text.contains("1.2 s"), "{text}");
        let svg = strip().labels(vec!["a & b".into()]).verdict(2, "1  <red>", "wrong").figure().svg();
        let text = well_formed(&svg);
        for (part, there) in
            [("1  &lt;red&gt;", true), ("wrong", true), ("a &amp; b", true), ("1.2 s", true), ("the title", false)]
        {
            assert_eq!(text.contains(part), there, "{part}: {text}");
        }
        assert!(svg.contains("class=\"f2\"") && svg.contains("height=\"80\""));
    }
}
