//! Frames of a video beside each other, each with its second, as on a strip of film.

use super::svg::{Figure, px};
use maud::html;

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
}

impl Strip {
    pub fn new(title: impl Into<String>, stills: Vec<(Still, bool)>) -> Strip {
        Strip { title: title.into(), stills }
    }

    pub fn figure(&self) -> Figure {
        let top = if self.title.is_empty() { 12.0 } else { 44.0 };
        let (mut x, mut y, mut right) = (MARGIN, top, 240.0f64);
        let mut places = vec![];
        for (still, _) in &self.stills {
            let wide = (HEIGHT * f64::from(still.width) / f64::from(still.height.max(1))).clamp(20.0, MOST);
            if x > MARGIN && x + wide > MOST {
                (x, y) = (MARGIN, y + HEIGHT + 30.0);
            }
            places.push((x, y, wide));
            x += wide + GAP;
            right = right.max(x - GAP + MARGIN);
        }
        let body = html! {
            @for ((still, marked), (x, y, wide)) in self.stills.iter().zip(&places) {
                image x=(px(*x)) y=(px(*y)) width=(px(*wide)) height=(px(HEIGHT)) href=(still.data)
                    preserveAspectRatio="xMidYMid meet" {}
                @if *marked {
                    rect class="s1" fill="none" stroke-width="3" x=(px(*x)) y=(px(*y)) width=(px(*wide))
                        height=(px(HEIGHT)) rx="2" {}
                }
                text class="soft" x=(px(x + wide / 2.0)) y=(px(y + HEIGHT + 15.0)) text-anchor="middle" font-size="11" {
                    (format!("{:.1} s", still.second))
                }
            }
        };
        Figure::new(right, y + HEIGHT + 24.0, &self.title, body)
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
}
