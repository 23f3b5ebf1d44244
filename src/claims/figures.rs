//! What a claim shows as a picture, as plain data: points with their spread over seeds, joined or not. Who draws them is
//! another matter.

use super::bars::{Summary, Table};
use super::run::Swept;

/// A mean and its standard deviation over seeds.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub sd: f64,
}

impl Spread {
    pub fn exact(value: f64) -> Spread {
        Spread { mean: value, sd: 0.0 }
    }

    /// Over a variant's seeds; `None` where it was not measured, or is not finite.
    pub fn of(table: &Table, variant: &str, measure: &str) -> Option<Spread> {
        let values = table.values(variant, measure);
        let s = Summary::of(&values);
        (!values.is_empty() && s.mean.is_finite()).then_some(Spread { mean: s.mean, sd: s.sd })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Empty for none.
    pub label: String,
    pub x: Spread,
    pub y: Spread,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
}

/// How the horizontal axis is spread.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    Linear,
    Log,
    /// Every value as far from the next: for values in no regular steps.
    Even,
}

impl Axis {
    /// What shows these values best.
    fn of(values: &[f64]) -> Axis {
        let positive = values.iter().copied().filter(|v| *v > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0), |(low, high), v| (v.min(low), v.max(high)));
        let wide = high >= 8.0 * low;
        match (wide, values.iter().all(|v| *v > 0.0)) {
            (true, true) => Axis::Log,
            (true, false) => Axis::Even,
            (false, _) => Axis::Linear,
        }
    }
}

/// A figure; labels name the quantity and its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub title: String,
    /// What one should see in it.
    pub caption: String,
    pub x_label: String,
    pub y_label: String,
    pub axis: Axis,
    /// Whether lines go through the points of a series.
    pub joined: bool,
    pub series: Vec<Series>,
    /// Positions (series, point) of the points that no other beats, from the left; empty where that is no question.
    pub frontier: Vec<(usize, usize)>,
}

impl Figure {
    /// Marks the points that no other beats by being further left and higher.
    pub fn with_frontier(mut self) -> Figure {
        let places =
            self.series.iter().enumerate().flat_map(|(s, series)| (0..series.points.len()).map(move |p| (s, p)));
        let places: Vec<(usize, usize)> = places.collect();
        let points: Vec<(f64, f64)> = places
            .iter()
            .filter_map(|&(s, p)| self.series.get(s)?.points.get(p))
            .map(|point| (point.x.mean, point.y.mean))
            .collect();
        self.frontier = frontier(&points).into_iter().filter_map(|i| places.get(i).copied()).collect();
        self
    }
}

/// The Pareto frontier of points (cost, worth): positions of those that no other beats, being as cheap and worth more,
/// or cheaper and worth as much. From the cheapest; of equals the first.
pub fn frontier(points: &[(f64, f64)]) -> Vec<usize> {
    let finite = |i: &usize| points[*i].0.is_finite() && points[*i].1.is_finite();
    let mut order: Vec<usize> = (0..points.len()).filter(finite).collect();
    order.sort_by(|a, b| points[*a].0.total_cmp(&points[*b].0).then(points[*b].1.total_cmp(&points[*a].1)));
    let mut best = f64::NEG_INFINITY;
    order.retain(|i| {
        let better = points[*i].1 > best;
        best = best.max(points[*i].1);
        better
    });
    order
}

/// A sweep as curves of these measures, in percent, over its setting.
pub fn swept(sweep: &Swept, measures: &[&str], table: &Table) -> Figure {
    let curve = |measure: &&str| {
        let point = |(value, variant): &(f64, String)| {
            let y = Spread::of(table, variant, measure)?;
            Some(Point { label: String::new(), x: Spread::exact(*value), y })
        };
        Series { name: measure.to_string(), points: sweep.points.iter().filter_map(point).collect() }
    };
    let values: Vec<f64> = sweep.points.iter().map(|p| p.0).collect();
    Figure {
        title: format!("{}: {}", sweep.of, sweep.over),
        caption: String::new(),
        x_label: sweep.over.clone(),
        y_label: "%".into(),
        axis: Axis::of(&values),
        joined: true,
        series: measures.iter().map(curve).filter(|s| !s.points.is_empty()).collect(),
        frontier: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Measures;
    use std::collections::BTreeMap;

    #[test]
    fn a_frontier_holds_what_nothing_beats() {
        let points = [(1.0, 10.0), (2.0, 30.0), (2.0, 20.0), (3.0, 30.0), (4.0, 25.0), (8.0, 31.0)];
        assert_eq!(frontier(&points), [0, 1, 5]);
        assert_eq!(frontier(&[(1.0, 5.0), (1.0, 5.0)]), [0], "of equals the first");
        assert_eq!(frontier(&[(5.0, 1.0), (4.0, 2.0), (3.0, 3.0)]), [2], "one may beat all");
        assert_eq!(frontier(&[(f64::NAN, 9.0), (1.0, f64::INFINITY), (2.0, 1.0)]), [2]);
        assert!(frontier(&[]).is_empty());
    }

    #[test]
    fn every_point_off_a_frontier_is_beaten_by_one_on_it() {
        let random = crate::random::Random::new(7, 0);
        for case in 0..200 {
            let draw = |i: u64| random.below(case * 100 + i, 6) as f64;
            let points: Vec<(f64, f64)> = (0..12).map(|i| (draw(2 * i), draw(2 * i + 1))).collect();
            let on = frontier(&points);
            let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 >= b.1;
            for (i, point) in points.iter().enumerate() {
                assert_eq!(on.iter().any(|&f| f != i && beats(points[f], *point)), !on.contains(&i), "{points:?} {i}");
            }
        }
    }

    #[test]
    fn a_sweep_becomes_curves_of_what_was_measured() {
        let seeds = |a: f64, b: f64| [a, b].into_iter().map(|x| Measures::from([("R@1".into(), x)])).collect();
        let variants = BTreeMap::from([("a-1".to_string(), seeds(10.0, 20.0)), ("a-8".to_string(), seeds(30.0, 30.0))]);
        let points = vec![(1.0, "a-1".into()), (8.0, "a-8".into()), (16.0, "a-16".into())];
        let sweep = Swept { of: "a".into(), over: "experts".into(), points };
        let figure = swept(&sweep, &["R@1", "NMI"], &Table { variants });
        assert_eq!((figure.series.len(), figure.series[0].points.len(), figure.axis), (1, 2, Axis::Log));
        assert_eq!(figure.series[0].points[0].y, Spread { mean: 15.0, sd: 50f64.sqrt() });
        assert_eq!([Axis::of(&[0.0, 0.1, 3.0]), Axis::of(&[0.0, 0.5, 1.0])], [Axis::Even, Axis::Linear]);
    }
}
