//! Labels beside points, placed so that they cover neither each other nor what is drawn.

use super::svg::width_of;

/// A rectangle in pixels: left, top, right, bottom.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Rect(pub f64, pub f64, pub f64, pub f64);

impl Rect {
    pub fn around((x, y): (f64, f64), reach: f64) -> Rect {
        Rect(x - reach, y - reach, x + reach, y + reach)
    }

    /// The area that both cover.
    fn shared(&self, o: &Rect) -> f64 {
        let (wide, high) = (self.2.min(o.2) - self.0.max(o.0), self.3.min(o.3) - self.1.max(o.1));
        if wide > 0.0 && high > 0.0 { wide * high } else { 0.0 }
    }

    fn outside(&self, o: &Rect) -> bool {
        self.0 < o.0 || self.1 < o.1 || self.2 > o.2 || self.3 > o.3
    }

    /// The nearest place in it.
    pub fn nearest(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.0, self.2.max(self.0)), y.clamp(self.1, self.3.max(self.1)))
    }
}

/// Pixels between a point and its label, the nearest first.
const GAPS: [f64; 6] = [7.0, 14.0, 24.0, 36.0, 50.0, 66.0];
/// Directions of a label, the best to read first.
const SIDES: [(f64, f64); 8] =
    [(1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, -1.0), (-1.0, 1.0)];

/// Where each label goes, one after the other: the nearest free place around its point; where none is free, the one that
/// covers least.
pub fn placed(points: &[((f64, f64), &str)], size: f64, drawn: &[Rect], bounds: Rect) -> Vec<Rect> {
    let mut taken = drawn.to_vec();
    let mut out = Vec::with_capacity(points.len());
    for &((x, y), label) in points {
        let (wide, high) = (width_of(label, size), size * 1.2);
        let candidates = GAPS.into_iter().flat_map(|gap| SIDES.into_iter().map(move |side| (gap, side)));
        let mut best: Option<(f64, Rect)> = None;
        for (gap, (across, down)) in candidates {
            // Diagonals would stand further off than the others.
            let gap = if across != 0.0 && down != 0.0 { gap * 0.7 } else { gap };
            let (middle, centre) = (x + across * (gap + wide / 2.0), y + down * (gap + high / 2.0));
            let place = Rect(middle - wide / 2.0, centre - high / 2.0, middle + wide / 2.0, centre + high / 2.0);
            let covered: f64 = taken.iter().map(|t| t.shared(&place)).sum();
            let cost = covered + if place.outside(&bounds) { 1e6 } else { 0.0 };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, place));
            }
            if cost == 0.0 {
                break;
            }
        }
        let place = best.map_or(Rect::around((x, y), 0.0), |b| b.1);
        taken.push(place);
        out.push(place);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_crowd_cover_neither_each_other_nor_the_points() {
        let bounds = Rect(0.0, 0.0, 700.0, 350.0);
        let random = crate::random::Random::new(3, 0);
        for case in 0..50 {
            let at = |i: u64, most: u64| 60.0 + random.below(case * 100 + i, most) as f64;
            let points: Vec<(f64, f64)> = (0..14).map(|i| (at(2 * i, 560), at(2 * i + 1, 230))).collect();
            let labelled: Vec<((f64, f64), &str)> = points.iter().map(|p| (*p, "K 16, k 2")).collect();
            let drawn: Vec<Rect> = points.iter().map(|p| Rect::around(*p, 4.0)).collect();
            let places = placed(&labelled, 11.0, &drawn, bounds);
            for (i, a) in places.iter().enumerate() {
                assert!(!a.outside(&bounds));
                assert!(drawn.iter().chain(&places[..i]).all(|b| a.shared(b) == 0.0), "{points:?} {places:?}");
            }
        }
    }
}
