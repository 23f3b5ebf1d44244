//! Recall at K, median and mean rank, under a stated rule for ties.

use super::ranks::Tally;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a query is and what it looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Texts look for videos.
    T2v,
    /// Videos look for texts.
    V2t,
}

/// How candidates with the same score as the relevant one are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TieRule {
    /// The expected value when ties are broken at random (McSherry & Najork 2008). Constant scores give K/N.
    Expected,
    /// The relevant one comes first. Constant scores give 100 %.
    Optimistic,
    /// The relevant one comes last.
    Pessimistic,
    /// As CLIP4Clip's code and its descendants compute it: a tied query enters once per tied position, so that the
    /// list of ranks is longer than the number of queries.
    Clip4clip,
    /// As Frozen in Time's code: optimistic from text to video; from video to text the mean tied position, which is a
    /// hit only when it lies below K.
    Frozen,
}

impl TieRule {
    pub const ALL: [TieRule; 5] =
        [TieRule::Expected, TieRule::Optimistic, TieRule::Pessimistic, TieRule::Clip4clip, TieRule::Frozen];

    pub fn name(self) -> &'static str {
        match self {
            TieRule::Expected => "expected",
            TieRule::Optimistic => "optimistic",
            TieRule::Pessimistic => "pessimistic",
            TieRule::Clip4clip => "clip4clip",
            TieRule::Frozen => "frozen",
        }
    }
}

impl std::str::FromStr for TieRule {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        TieRule::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(|| {
            let names = TieRule::ALL.map(TieRule::name).join(", ");
            Error::config("tie rule", format!("there is none called {name:?}"), format!("choose one of {names}"))
        })
    }
}

/// The numbers of one direction. Recalls in percent, ranks counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    #[serde(rename = "R@1")]
    pub recall_at_1: f64,
    #[serde(rename = "R@5")]
    pub recall_at_5: f64,
    #[serde(rename = "R@10")]
    pub recall_at_10: f64,
    #[serde(rename = "R@50", skip_serializing_if = "Option::is_none", default)]
    pub recall_at_50: Option<f64>,
    /// Median rank; the mean of the middle two when their number is even.
    #[serde(rename = "MdR")]
    pub median_rank: f64,
    #[serde(rename = "MnR")]
    pub mean_rank: f64,
    /// R@1 + R@5 + R@10.
    #[serde(rename = "Rsum")]
    pub recall_sum: f64,
}

/// Probability that at least one of `relevant` tied items is among the first `places` of all tied ones in random order:
/// 1 − C(equal, places) / C(equal + relevant, places).
fn expected_hit(tally: Tally, places: u32) -> f64 {
    let (equal, relevant) = (f64::from(tally.equal), f64::from(tally.relevant));
    if places == 0 || tally.relevant == 0 {
        0.0
    } else if places > tally.equal {
        1.0
    } else if tally.relevant == 1 {
        f64::from(places) / (equal + 1.0)
    } else {
        let miss: f64 = (0..places).map(f64::from).map(|drawn| (equal - drawn) / (equal + relevant - drawn)).product();
        1.0 - miss
    }
}

/// Rank (from 0) of a query that counts once.
fn rank(tally: Tally, rule: TieRule, direction: Direction) -> f64 {
    let Tally { greater, equal, relevant } = tally;
    let (greater, equal, relevant) = (f64::from(greater), f64::from(equal), f64::from(relevant));
    match (rule, direction) {
        // The best of r relevant items among e others stands, on average, behind e / (r + 1) of them.
        (TieRule::Expected, _) => greater + equal / (relevant + 1.0),
        (TieRule::Pessimistic, _) => greater + equal,
        (TieRule::Frozen, Direction::V2t) => greater + (equal + relevant - 1.0).max(0.0) / 2.0,
        _ => greater,
    }
}

/// How much of a hit at `k` a query is, 0 to 1.
fn hit(tally: Tally, k: u32, rule: TieRule, direction: Direction) -> f64 {
    if tally.relevant == 0 {
        return 0.0;
    }
    match (rule, direction) {
        (TieRule::Expected, _) => expected_hit(tally, k.saturating_sub(tally.greater)),
        // Frozen's code asks for rank == 0 at 1, for rank < K elsewhere; a mean position may be 0.5.
        (TieRule::Frozen, Direction::V2t) if k == 1 => f64::from(rank(tally, rule, direction) == 0.0),
        _ => f64::from(rank(tally, rule, direction) < f64::from(k)),
    }
}

impl Metrics {
    /// The metrics of one direction from one tally per query. `deep` adds R@50.
    ///
    /// # Errors
    /// [`Error::Data`] without any query.
    pub fn new(tallies: &[Tally], rule: TieRule, direction: Direction, deep: bool) -> Result<Metrics> {
        if tallies.is_empty() {
            return Err(Error::data("metrics", "queries", "there are none", "check that the split has captions"));
        }
        let (recall, median, mean) = match rule {
            TieRule::Clip4clip => Positions::new(tallies).summary(),
            _ => once_per_query(tallies, rule, direction),
        };
        let [recall_at_1, recall_at_5, recall_at_10, recall_at_50] = recall;
        Ok(Metrics {
            recall_at_1,
            recall_at_5,
            recall_at_10,
            recall_at_50: deep.then_some(recall_at_50),
            median_rank: median,
            mean_rank: mean,
            recall_sum: recall_at_1 + recall_at_5 + recall_at_10,
        })
    }
}

/// The depths of recall that are printed; 50 on request.
const DEPTHS: [u32; 4] = [1, 5, 10, 50];

/// Recalls at [`DEPTHS`], median and mean rank.
type Summary = ([f64; 4], f64, f64);

fn once_per_query(tallies: &[Tally], rule: TieRule, direction: Direction) -> Summary {
    let n = tallies.len() as f64;
    let recall = DEPTHS.map(|k| 100.0 * tallies.iter().map(|&t| hit(t, k, rule, direction)).sum::<f64>() / n);
    let mut ranks: Vec<f64> = tallies.iter().map(|&t| 1.0 + rank(t, rule, direction)).collect();
    let mean = ranks.iter().sum::<f64>() / n;
    ranks.sort_by(f64::total_cmp);
    let middle = ranks.len() / 2;
    let median = if ranks.len() % 2 == 1 { ranks[middle] } else { (ranks[middle - 1] + ranks[middle]) / 2.0 };
    (recall, median, mean)
}

/// How often each 0-based position occurs in the list that holds every tied position of every query.
///
/// That list has N² entries for constant scores, so only its histogram is kept.
struct Positions {
    histogram: Vec<u64>,
    entries: u64,
    /// Queries whose relevant item was not retrieved: a position, but never a hit.
    misses: Vec<u32>,
}

impl Positions {
    fn new(tallies: &[Tally]) -> Self {
        let misses: Vec<u32> = tallies.iter().filter(|t| t.relevant == 0).map(|t| t.greater).collect();
        let end = |t: &Tally| t.greater as usize + t.equal as usize + t.relevant.max(1) as usize;
        let length = tallies.iter().map(end).max().unwrap_or(0);
        // Begin and end of every query's run of positions; a running sum turns them into counts.
        let mut steps = vec![0i64; length + 1];
        for tally in tallies {
            steps[tally.greater as usize] += 1;
            steps[end(tally)] -= 1;
        }
        let mut open = 0i64;
        let histogram: Vec<u64> = steps[..length]
            .iter()
            .map(|step| {
                open += step;
                open.unsigned_abs()
            })
            .collect();
        let entries = histogram.iter().sum();
        Positions { histogram, entries, misses }
    }

    /// The `n`-th smallest position.
    fn nth(&self, n: u64) -> f64 {
        let mut seen = 0;
        let place = self.histogram.iter().position(|&count| {
            seen += count;
            seen > n
        });
        place.unwrap_or(0) as f64
    }

    fn summary(&self) -> Summary {
        let entries = self.entries as f64;
        let recall = DEPTHS.map(|k| {
            let below: u64 = self.histogram.iter().take(k as usize).sum();
            let missed = self.misses.iter().filter(|&&m| m < k).count() as u64;
            100.0 * (below - missed) as f64 / entries
        });
        let middle = self.entries / 2;
        let upper = self.nth(middle);
        let median = if self.entries % 2 == 1 { upper } else { (self.nth(middle.saturating_sub(1)) + upper) / 2.0 };
        let sum: f64 = self.histogram.iter().enumerate().map(|(place, &count)| place as f64 * count as f64).sum();
        (recall, median + 1.0, sum / entries + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(greater: u32, equal: u32) -> Tally {
        Tally { greater, equal, relevant: 1 }
    }

    fn metrics(tallies: &[Tally], rule: TieRule, direction: Direction) -> Metrics {
        Metrics::new(tallies, rule, direction, true).unwrap()
    }

    #[test]
    fn expected_recall_follows_the_clamped_formula() {
        for (g, e) in [(0, 0), (0, 3), (2, 7), (4, 0), (5, 5), (60, 2)] {
            let m = metrics(&[tally(g, e)], TieRule::Expected, Direction::T2v);
            for (k, got) in [(1.0, m.recall_at_1), (5.0, m.recall_at_5), (10.0, m.recall_at_10)] {
                let want = 100.0 * ((k - f64::from(g)) / (f64::from(e) + 1.0)).clamp(0.0, 1.0);
                assert!((got - want).abs() < 1e-9, "g {g} e {e} K {k}: {got} is not {want}");
            }
            assert_eq!(m.mean_rank, 1.0 + f64::from(g) + f64::from(e) / 2.0);
        }
    }

    /// Every order of r relevant and e other tied items, by hand: the best relevant one's place.
    #[test]
    fn several_tied_captions_are_averaged_over_all_orders() {
        fn orders(relevant: u32, others: u32, place: u32, out: &mut Vec<u32>) {
            // Choose what stands at `place`; weights are equal because all arrangements are enumerated as distinct.
            for _ in 0..relevant {
                let arrangements: u32 = (1..=relevant + others - 1).product();
                out.extend(std::iter::repeat_n(place, arrangements as usize));
            }
            for _ in 0..others {
                orders(relevant, others - 1, place + 1, out);
            }
        }
        for (relevant, others) in [(1, 4), (2, 3), (3, 2), (4, 1), (2, 0)] {
            let mut places = Vec::new();
            orders(relevant, others, 0, &mut places);
            let t = Tally { greater: 0, equal: others, relevant };
            let mean = places.iter().map(|&p| f64::from(p)).sum::<f64>() / places.len() as f64;
            assert!((rank(t, TieRule::Expected, Direction::V2t) - mean).abs() < 1e-9);
            for k in 0..7 {
                let hits = places.iter().filter(|&&p| p < k).count() as f64 / places.len() as f64;
                let got = hit(t, k, TieRule::Expected, Direction::V2t);
                assert!((got - hits).abs() < 1e-9, "{relevant} of {}: K {k}: {got} is not {hits}", others + relevant);
            }
        }
    }

    #[test]
    fn clip4clip_counts_every_tied_position() {
        // One clean hit and one query tied with two others from the top: positions 0 | 0 1 2.
        let m = metrics(&[tally(0, 0), tally(0, 2)], TieRule::Clip4clip, Direction::T2v);
        assert_eq!((m.recall_at_1, m.recall_at_5), (50.0, 100.0));
        assert_eq!((m.median_rank, m.mean_rank), (1.5, 1.75));
        // The honest expectation is (1 + 1/3) / 2.
        let ours = metrics(&[tally(0, 0), tally(0, 2)], TieRule::Expected, Direction::T2v);
        assert!((ours.recall_at_1 - 200.0 / 3.0).abs() < 1e-9);
        // Positions 6 | 0: even number of entries, far apart.
        let m = metrics(&[tally(6, 0), tally(0, 0)], TieRule::Clip4clip, Direction::V2t);
        assert_eq!((m.recall_at_5, m.recall_at_10, m.median_rank), (50.0, 100.0, 4.0));
    }

    #[test]
    fn frozen_is_optimistic_one_way_and_averaged_the_other() {
        let tied = [tally(0, 1)];
        assert_eq!(metrics(&tied, TieRule::Frozen, Direction::T2v).recall_at_1, 100.0);
        let back = metrics(&tied, TieRule::Frozen, Direction::V2t);
        // Mean position 0.5 is below 1, but the code compares with 0 at K = 1.
        assert_eq!((back.recall_at_1, back.recall_at_5, back.mean_rank), (0.0, 100.0, 1.5));
        let nine = metrics(&[tally(0, 9)], TieRule::Frozen, Direction::V2t);
        assert_eq!((nine.recall_at_5, nine.mean_rank), (100.0, 5.5));
        assert_eq!(metrics(&[tally(0, 10)], TieRule::Frozen, Direction::V2t).recall_at_5, 0.0);
    }

    #[test]
    fn rules_are_ordered_and_named() {
        let tallies = [tally(0, 3), tally(2, 9), tally(1, 0), tally(12, 1)];
        let recall = |rule| metrics(&tallies, rule, Direction::T2v).recall_sum;
        assert!(recall(TieRule::Pessimistic) < recall(TieRule::Expected));
        assert!(recall(TieRule::Expected) < recall(TieRule::Optimistic));
        for rule in TieRule::ALL {
            assert_eq!(rule.name().parse::<TieRule>().unwrap(), rule);
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.name());
        }
        assert!("lucky".parse::<TieRule>().unwrap_err().to_string().contains("clip4clip"));
    }

    #[test]
    fn what_was_never_retrieved_is_never_a_hit() {
        let missing = Tally { greater: 3, equal: 0, relevant: 0 };
        for rule in TieRule::ALL {
            for direction in [Direction::T2v, Direction::V2t] {
                let m = metrics(&[missing, tally(0, 0)], rule, direction);
                assert_eq!((m.recall_at_5, m.recall_at_50), (50.0, Some(50.0)), "{rule:?}");
                assert_eq!(m.mean_rank, 2.5, "{rule:?}");
            }
        }
    }

    #[test]
    fn no_queries_are_an_error() {
        assert!(Metrics::new(&[], TieRule::Expected, Direction::T2v, false).is_err());
    }
}
