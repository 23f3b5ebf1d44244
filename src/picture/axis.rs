//! From data to pixels: scales, round tick values and their labels.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    Linear,
    Log,
}

/// A map from values to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    spacing: Spacing,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps `[low, high]` to `[from, to]`. A range that is empty, not finite or (on a log axis) not positive is
    /// replaced by one that can be drawn.
    pub fn new(spacing: Spacing, (low, high): (f64, f64), (from, to): (f64, f64)) -> Scale {
        let (low, high) = drawable(spacing, low, high);
        Scale { spacing, low, high, from, to }
    }

    /// The pixel of a value; `None` for one that the axis cannot show.
    pub fn at(&self, value: f64) -> Option<f64> {
        let share = match self.spacing {
            Spacing::Linear => (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0),
            Spacing::Log if value > 0.0 => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            Spacing::Log => return None,
        };
        // Far outside, viewers disagree about what a coordinate may be.
        share.is_finite().then(|| self.from + (self.to - self.from) * share.clamp(-1.0, 2.0))
    }

    pub fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round values within the range, about `wanted` of them.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        let inside = |v: &f64| {
            let slack = (self.high / 2.0 - self.low / 2.0).abs() * 2e-9;
            v.is_finite() && *v >= self.low - slack && *v <= self.high + slack
        };
        let ticks: Vec<f64> = match self.spacing {
            Spacing::Linear => linear_ticks(self.low, self.high, wanted).into_iter().filter(inside).collect(),
            Spacing::Log => log_ticks(self.low, self.high, wanted).into_iter().filter(inside).collect(),
        };
        // A short log range may hold no 1, 2 or 5 of any decade.
        if ticks.len() < 2 {
            linear_ticks(self.low, self.high, wanted).into_iter().filter(inside).collect()
        } else {
            ticks
        }
    }

    /// The range, widened to the next round values.
    pub fn widened(self, wanted: usize) -> Scale {
        if self.spacing == Spacing::Log {
            return self;
        }
        let step = step(self.low, self.high, wanted);
        let (low, high) = ((self.low / step).floor() * step, (self.high / step).ceil() * step);
        if low.is_finite() && high.is_finite() { Scale { low, high, ..self } } else { self }
    }
}

fn drawable(spacing: Spacing, low: f64, high: f64) -> (f64, f64) {
    if !low.is_finite() || !high.is_finite() || low > high || (spacing == Spacing::Log && low <= 0.0) {
        return if spacing == Spacing::Log { (0.1, 1.0) } else { (0.0, 1.0) };
    }
    // A constant series stands in the middle. Differences below rounding count as constant.
    if high / 2.0 - low / 2.0 <= 1e-12 * low.abs().max(high.abs()) {
        return match spacing {
            Spacing::Log => (low / 2.0, high * 2.0),
            Spacing::Linear if low == 0.0 => (-1.0, 1.0),
            Spacing::Linear => (low - 0.1 * low.abs(), high + 0.1 * high.abs()),
        };
    }
    (low, high)
}

/// 1, 2 or 5 times a power of ten, such that about `wanted` of them fit.
fn step(low: f64, high: f64, wanted: usize) -> f64 {
    let raw = (high / wanted.max(1) as f64 - low / wanted.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| raw <= f * power * (1.0 + 1e-9)).unwrap_or(10.0);
    factor * power
}

fn linear_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let step = step(low, high, wanted);
    let first = (low / step).ceil();
    // Counted, not accumulated: adding a step that rounding swallows would never end.
    (0..=wanted.saturating_mul(2) + 2)
        .map(|i| (first + i as f64) * step)
        .map(|v| if v == 0.0 { 0.0 } else { v })
        .collect()
}

fn log_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = (last - first).max(1) as usize;
    let within: &[f64] = if decades * 3 <= wanted.max(3) + 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = decades.div_ceil(wanted.max(1)).max(1);
    (first..=last).step_by(every).flat_map(|p| within.iter().map(move |m| m * 10f64.powi(p))).collect()
}

/// A number as people write it on an axis: `0.25`, `1500`, `3e-5`.
pub fn label(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        let text = format!("{value:.2e}");
        // 3.00e-5 → 3e-5, 2.50e6 → 2.5e6
        return match text.split_once('e') {
            Some((digits, power)) if digits.contains('.') => {
                format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')).replace('-', "−")
            }
            _ => text,
        };
    }
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.replace('-', "−") }
}

/// The smallest and largest finite value; `None` without any.
pub fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// What of the time axis belongs to each frame: from half the way to the one before to half the way to the one after;
/// outermost frames reach as far out as in. A single frame gets a second.
pub fn cells(times: &[f64]) -> Vec<(f64, f64)> {
    let gap = |i: usize| match (times.get(i), times.get(i + 1)) {
        (Some(a), Some(b)) => (b - a) / 2.0,
        _ => f64::NAN,
    };
    let or = |gap: f64, other: f64| {
        if !gap.is_nan() {
            gap
        } else if !other.is_nan() {
            other
        } else {
            0.5
        }
    };
    let cell = |(i, at): (usize, &f64)| {
        let (before, after) = (i.checked_sub(1).map_or(f64::NAN, gap), gap(i));
        (at - or(before, after), at + or(after, before))
    };
    times.iter().enumerate().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::new(Spacing::Linear, (0.0, 1.0), (0.0, 100.0));
        let labels: Vec<String> = scale.ticks(5).into_iter().map(label).collect();
        assert_eq!(labels, ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let log = Scale::new(Spacing::Log, (1e-4, 10.0), (0.0, 1.0));
        let labels: Vec<String> = log.ticks(6).into_iter().map(label).collect();
        assert_eq!(labels, ["1e−4", "0.001", "0.01", "0.1", "1", "10"]);
    }

    #[test]
    fn any_range_can_be_drawn() {
        let odd =
            [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 5e-324, 3.0 + 1e-15];
        for spacing in [Spacing::Linear, Spacing::Log] {
            for low in odd {
                for high in odd {
                    let scale = Scale::new(spacing, (low, high), (0.0, 100.0));
                    for scale in [scale, scale.widened(5)] {
                        let ticks = scale.ticks(5);
                        assert!(ticks.len() <= 40, "{spacing:?} {low} {high}: {} ticks", ticks.len());
                        for value in odd.into_iter().chain(ticks) {
                            assert!(scale.at(value).is_none_or(f64::is_finite), "{spacing:?} {low} {high} {value}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn labels_are_short() {
        for (value, text) in
            [(0.0, "0"), (-0.0, "0"), (0.25, "0.25"), (1500.0, "1500"), (3e-5, "3e−5"), (2.5e7, "2.5e7"), (-2.0, "−2")]
        {
            assert_eq!(label(value), text);
        }
        assert_eq!(label(f64::NAN), "–");
    }

    #[test]
    fn cells_meet_half_way() {
        assert_eq!(cells(&[0.0, 1.0, 4.0]), [(-0.5, 0.5), (0.5, 2.5), (2.5, 5.5)]);
        assert_eq!((cells(&[3.0]), cells(&[])), (vec![(2.5, 3.5)], vec![]));
        assert_eq!(cells(&[2.0, 2.0]), [(2.0, 2.0), (2.0, 2.0)]);
    }
}
