//! Rank counting against an oracle that sorts, and the properties every metric must have.

use moviola::error::Error;
use moviola::eval::{
    CaptionMode, Counts, Direction, Directions, Matrix, Metrics, RankCounter, Relevance, Tally, TieRule, Truth, count,
};
use proptest::prelude::*;

/// SplitMix64: enough to fill matrices from a seed that a failing test prints.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A random test set: some videos with several captions, some without any; few distinct scores, so that many tie.
struct World {
    texts: usize,
    videos: usize,
    owner: Vec<u32>,
    scores: Vec<f32>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut draw = Draw(seed);
        let (texts, videos) = (1 + draw.below(40), 1 + draw.below(30));
        let levels = [2, 5, 50, 100_000][draw.below(4)];
        let owner = (0..texts).map(|_| draw.below(videos) as u32).collect();
        let scores = (0..texts * videos).map(|_| draw.below(levels) as f32 / 7.0 - 3.0).collect();
        World { texts, videos, owner, scores }
    }

    fn relevance(&self) -> Relevance {
        Relevance::new(self.owner.clone(), self.videos).unwrap()
    }

    fn matrix(&self) -> Matrix {
        Matrix::new(self.texts, self.videos, self.scores.clone()).unwrap()
    }

    fn score(&self, text: usize, video: usize) -> f32 {
        self.scores[text * self.videos + video]
    }

    fn counts(&self, mode: CaptionMode) -> Counts {
        count(&self.matrix(), self.relevance(), mode, Directions::Both).unwrap()
    }
}

/// One query of the oracle: candidates as (score, relevant).
type Ranking = Vec<(f32, bool)>;

/// The oracle's queries, as the definitions read.
fn rankings(w: &World, mode: CaptionMode) -> (Vec<Ranking>, Vec<Ranking>) {
    let own = |text: usize| w.owner[text] as usize;
    let captions = |video: usize| (0..w.texts).filter(move |&t| own(t) == video);
    let t2v = (0..w.texts).map(|t| (0..w.videos).map(|v| (w.score(t, v), v == own(t))).collect()).collect();
    let queries: Vec<usize> = (0..w.videos).filter(|&v| captions(v).count() > 0).collect();
    let v2t = match mode {
        CaptionMode::MinRank => {
            queries.iter().map(|&v| (0..w.texts).map(|t| (w.score(t, v), own(t) == v)).collect()).collect()
        }
        CaptionMode::MaxCaption => queries
            .iter()
            .map(|&v| {
                let best = |c: usize| captions(c).map(|t| w.score(t, v)).fold(f32::NEG_INFINITY, f32::max);
                queries.iter().map(|&c| (best(c), c == v)).collect()
            })
            .collect(),
        CaptionMode::Single => (0..w.texts)
            .map(|target| {
                let v = own(target);
                let kept = (0..w.texts).filter(|&t| t == target || own(t) != v);
                kept.map(|t| (w.score(t, v), t == target)).collect()
            })
            .collect(),
    };
    (t2v, v2t)
}

/// Sort, then look at the block of candidates that ties with the first relevant one.
fn oracle(mut ranking: Ranking) -> Tally {
    ranking.sort_by(|a, b| b.0.total_cmp(&a.0));
    let first = ranking.iter().position(|c| c.1).unwrap();
    let best = ranking[first].0;
    let block = ranking.iter().filter(|c| c.0 == best);
    let relevant = block.clone().filter(|c| c.1).count() as u32;
    let greater = ranking.iter().position(|c| c.0 == best).unwrap() as u32;
    Tally { greater, equal: block.count() as u32 - relevant, relevant }
}

const MODES: [CaptionMode; 3] = [CaptionMode::MinRank, CaptionMode::MaxCaption, CaptionMode::Single];

/// Cut `[texts, videos]` into random rectangles in random order: (first text, first video, rows, cols).
fn tiling(w: &World, draw: &mut Draw) -> Vec<(usize, usize, usize, usize)> {
    let mut open = vec![(0, 0, w.texts, w.videos)];
    let mut tiles = Vec::new();
    while let Some((t, v, rows, cols)) = open.pop() {
        match draw.below(4) {
            0 if rows > 1 => {
                let cut = 1 + draw.below(rows - 1);
                open.extend([(t, v, cut, cols), (t + cut, v, rows - cut, cols)]);
            }
            1 if cols > 1 => {
                let cut = 1 + draw.below(cols - 1);
                open.extend([(t, v, rows, cut), (t, v + cut, rows, cols - cut)]);
            }
            2 if rows * cols > 200 => open.push((t, v, rows, cols)),
            _ => tiles.push((t, v, rows, cols)),
        }
    }
    draw.shuffle(&mut tiles);
    tiles
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn counting_agrees_with_sorting(seed: u64) {
        let w = World::new(seed);
        for mode in MODES {
            let counts = w.counts(mode);
            let (t2v, v2t) = rankings(&w, mode);
            prop_assert_eq!(counts.t2v.unwrap(), t2v.into_iter().map(oracle).collect::<Vec<_>>());
            prop_assert_eq!(counts.v2t.unwrap(), v2t.into_iter().map(oracle).collect::<Vec<_>>(), "{:?}", mode);
        }
    }

    #[test]
    fn tiles_of_any_shape_and_order_give_the_same_counts(seed: u64) {
        let w = World::new(seed);
        let mut draw = Draw(seed ^ 1);
        for mode in MODES {
            let mut truth = Truth::new(w.relevance());
            for (t, v, rows, cols) in tiling(&w, &mut draw) {
                truth.tile(t, v, &w.scores[t * w.videos + v..], rows, cols, w.videos).unwrap();
            }
            let mut counter = RankCounter::new(truth, mode, Directions::Both).unwrap();
            for (t, v, rows, cols) in tiling(&w, &mut draw) {
                counter.tile(t, v, &w.scores[t * w.videos + v..], rows, cols, w.videos).unwrap();
            }
            prop_assert_eq!(counter.finish().unwrap(), w.counts(mode), "{:?}", mode);
        }
    }

    #[test]
    fn renumbering_texts_and_videos_changes_no_metric(seed: u64) {
        let w = World::new(seed);
        let mut draw = Draw(seed ^ 2);
        let mut texts: Vec<usize> = (0..w.texts).collect();
        let mut videos: Vec<usize> = (0..w.videos).collect();
        draw.shuffle(&mut texts);
        draw.shuffle(&mut videos);
        let new_number = |v: u32| videos.iter().position(|&old| old == v as usize).unwrap() as u32;
        let other = World {
            owner: texts.iter().map(|&t| new_number(w.owner[t])).collect(),
            scores: texts.iter().flat_map(|&t| videos.iter().map(move |&v| (t, v))).map(|(t, v)| w.score(t, v)).collect(),
            ..w
        };
        for mode in MODES {
            let sorted = |mut tallies: Vec<Tally>| {
                tallies.sort_by_key(|t| (t.greater, t.equal, t.relevant));
                tallies
            };
            let (a, b) = (w.counts(mode), other.counts(mode));
            prop_assert_eq!(sorted(a.t2v.unwrap()), sorted(b.t2v.unwrap()));
            prop_assert_eq!(sorted(a.v2t.unwrap()), sorted(b.v2t.unwrap()));
        }
    }

    /// The expected rule, recomputed as the mean over the positions of a tied block.
    #[test]
    fn expected_metrics_are_means_over_tied_positions(seed: u64) {
        let w = World::new(seed);
        let tallies = w.counts(CaptionMode::Single).t2v.unwrap();
        let got = Metrics::new(&tallies, TieRule::Expected, Direction::T2v, false).unwrap();
        let positions = |t: &Tally| t.greater..=t.greater + t.equal;
        let mean = |f: &dyn Fn(u32) -> f64| -> f64 {
            let one = |t: &Tally| positions(t).map(f).sum::<f64>() / f64::from(t.equal + 1);
            tallies.iter().map(one).sum::<f64>() / tallies.len() as f64
        };
        for (k, recall) in [(1, got.recall_at_1), (5, got.recall_at_5), (10, got.recall_at_10)] {
            let want = 100.0 * mean(&|p| f64::from(u8::from(p < k)));
            prop_assert!((recall - want).abs() < 1e-9, "R@{}: {} is not {}", k, recall, want);
        }
        prop_assert!((got.mean_rank - mean(&|p| f64::from(p) + 1.0)).abs() < 1e-9);
    }

    /// CLIP4Clip's list, written out: every position whose sorted score equals the relevant one's.
    #[test]
    fn clip4clip_agrees_with_the_list_written_out(seed: u64) {
        let w = World::new(seed);
        let tallies = w.counts(CaptionMode::MaxCaption).t2v.unwrap();
        let got = Metrics::new(&tallies, TieRule::Clip4clip, Direction::T2v, true).unwrap();
        let mut list = Vec::new();
        for text in 0..w.texts {
            let mut row: Vec<f32> = (0..w.videos).map(|v| w.score(text, v)).collect();
            row.sort_by(|a, b| b.total_cmp(a));
            let truth = w.score(text, w.owner[text] as usize);
            list.extend(row.iter().enumerate().filter(|(_, s)| **s == truth).map(|(p, _)| p as f64));
        }
        list.sort_by(f64::total_cmp);
        let n = list.len() as f64;
        let recall = |k: f64| 100.0 * list.iter().filter(|p| **p < k).count() as f64 / n;
        let median = (list[(list.len() - 1) / 2] + list[list.len() / 2]) / 2.0 + 1.0;
        prop_assert!((got.recall_at_1 - recall(1.0)).abs() < 1e-9);
        prop_assert!((got.recall_at_10 - recall(10.0)).abs() < 1e-9);
        prop_assert!((got.recall_at_50.unwrap() - recall(50.0)).abs() < 1e-9);
        prop_assert_eq!(got.median_rank, median);
        prop_assert!((got.mean_rank - list.iter().sum::<f64>() / n - 1.0).abs() < 1e-9);
    }
}

#[test]
fn constant_scores_give_k_of_n() {
    for n in [1usize, 7, 40, 200] {
        let matrix = Matrix::new(n, n, vec![0.25; n * n]).unwrap();
        for mode in MODES {
            let counts = count(&matrix, Relevance::one_to_one(n).unwrap(), mode, Directions::Both).unwrap();
            let t2v = Metrics::new(&counts.t2v.unwrap(), TieRule::Expected, Direction::T2v, true).unwrap();
            let v2t = Metrics::new(&counts.v2t.unwrap(), TieRule::Expected, Direction::V2t, true).unwrap();
            for m in [t2v, v2t] {
                let chance = |k: f64| 100.0 * (k / n as f64).min(1.0);
                for (k, got) in [(1.0, m.recall_at_1), (5.0, m.recall_at_5), (10.0, m.recall_at_10)] {
                    assert!((got - chance(k)).abs() < 1e-9, "{mode:?}, {n}: R@{k} {got}");
                }
                assert!((m.recall_at_50.unwrap() - chance(50.0)).abs() < 1e-9);
                assert_eq!((m.median_rank, m.mean_rank), ((n as f64 + 1.0) / 2.0, (n as f64 + 1.0) / 2.0));
                assert!((m.recall_sum - m.recall_at_1 - m.recall_at_5 - m.recall_at_10).abs() < 1e-9);
            }
        }
    }
}

/// Two videos; video 0 has captions 0 and 1, video 1 has captions 2 and 3. Columns are videos.
fn two_by_four() -> World {
    World {
        texts: 4,
        videos: 2,
        owner: vec![0, 0, 1, 1],
        //             v0   v1
        scores: vec![
            0.9, 0.8, /* text 0 */ 0.1, 0.7, /* text 1 */ 0.5, 0.6, /* text 2 */ 0.2,
            0.1, /* text 3 */
        ],
    }
}

fn greater(tallies: &[Tally]) -> Vec<u32> {
    tallies.iter().map(|t| t.greater).collect()
}

#[test]
fn caption_modes_differ_as_their_definitions_say() {
    let w = two_by_four();
    // Video 0: its best caption scores 0.9, nothing is above. Video 1: its best scores 0.6; 0.8 and 0.7 are above.
    assert_eq!(greater(&w.counts(CaptionMode::MinRank).v2t.unwrap()), [0, 2]);
    // As videos, texts 0 and 1 are one candidate.
    assert_eq!(greater(&w.counts(CaptionMode::MaxCaption).v2t.unwrap()), [0, 1]);
    // Caption 1 of video 0 (0.1) has two foreign captions above it, its sibling at 0.9 does not count.
    assert_eq!(greater(&w.counts(CaptionMode::Single).v2t.unwrap()), [0, 2, 2, 2]);
    // Text → video is the same in every mode.
    for mode in MODES {
        assert_eq!(greater(&w.counts(mode).t2v.unwrap()), [0, 1, 0, 1], "{mode:?}");
    }
}

#[test]
fn own_captions_that_tie_share_the_best_rank() {
    let w = World { texts: 3, videos: 2, owner: vec![0, 0, 1], scores: vec![0.5, 0.0, 0.5, 0.0, 0.5, 0.9] };
    let tally = w.counts(CaptionMode::MinRank).v2t.unwrap()[0];
    assert_eq!(tally, Tally { greater: 0, equal: 1, relevant: 2 });
    // Two of three tied items are relevant: the first place is theirs with probability 2/3.
    let m = Metrics::new(&[tally], TieRule::Expected, Direction::V2t, false).unwrap();
    assert!((m.recall_at_1 - 200.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_video_without_captions_is_a_distractor_but_no_query() {
    let w = World { texts: 1, videos: 3, owner: vec![1], scores: vec![0.9, 0.5, 0.5] };
    let counts = w.counts(CaptionMode::MinRank);
    assert_eq!(counts.t2v.unwrap(), [Tally { greater: 1, equal: 1, relevant: 1 }]);
    assert_eq!(counts.v2t.unwrap(), [Tally { greater: 0, equal: 0, relevant: 1 }]);
}

#[test]
fn a_nan_names_its_text_and_video() {
    for at in [0usize, 3, 5] {
        let mut w = two_by_four();
        w.scores[at] = f32::NAN;
        let error = count(&w.matrix(), w.relevance(), CaptionMode::MinRank, Directions::Both).unwrap_err();
        let place = format!("text {} and video {}", at / 2, at % 2);
        assert!(matches!(error, Error::NotFinite { .. }) && error.to_string().contains(&place), "{error}");
    }
}

#[test]
fn infinite_scores_are_ranked() {
    let w = World {
        texts: 1,
        videos: 3,
        owner: vec![0],
        scores: vec![f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY],
    };
    assert_eq!(w.counts(CaptionMode::Single).t2v.unwrap(), [Tally { greater: 1, equal: 1, relevant: 1 }]);
}

fn truth(w: &World) -> Truth {
    let mut truth = Truth::new(w.relevance());
    for (text, &video) in w.owner.iter().enumerate() {
        truth.set_truth(text, video as usize, w.score(text, video as usize)).unwrap();
    }
    truth
}

#[test]
fn missing_and_repeated_pairs_are_noticed() {
    let w = two_by_four();
    assert!(RankCounter::new(Truth::new(w.relevance()), CaptionMode::Single, Directions::Both).is_err());
    let counter = || RankCounter::new(truth(&w), CaptionMode::Single, Directions::Both).unwrap();
    let mut short = counter();
    short.tile(0, 0, &w.scores, 3, 2, 2).unwrap();
    assert!(short.finish().unwrap_err().to_string().contains("text 3"));
    let mut twice = counter();
    twice.tile(0, 0, &w.scores, 4, 2, 2).unwrap();
    assert!(twice.tile(1, 1, &w.scores, 1, 1, 2).is_err());
}

#[test]
fn tiles_that_do_not_fit_are_refused() {
    let w = two_by_four();
    let mut counter = RankCounter::new(truth(&w), CaptionMode::Single, Directions::Both).unwrap();
    for (t, v, rows, cols, stride) in [
        (0, 0, 5, 2, 2),
        (0, 1, 4, 2, 2),
        (usize::MAX, 0, 2, 2, 2),
        (0, 0, 4, 2, 1),
        (0, 0, 4, 2, 3),
        (0, 0, 4, 2, usize::MAX),
    ] {
        let error = counter.tile(t, v, &w.scores, rows, cols, stride).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    counter.tile(4, 2, &[], 0, 0, 0).unwrap();
    counter.tile(0, 0, &w.scores, 4, 2, 2).unwrap();
    counter.finish().unwrap();
}

#[test]
fn truth_accepts_only_relevant_numbers() {
    let w = two_by_four();
    let mut truth = Truth::new(w.relevance());
    assert!(truth.set_truth(0, 1, 0.5).is_err());
    assert!(truth.set_truth(9, 0, 0.5).is_err());
    assert!(truth.set_truth(0, 0, f32::NAN).unwrap_err().to_string().contains("text 0 and video 0"));
}

#[test]
fn a_scorer_that_contradicts_itself_is_reported() {
    let w = two_by_four();
    let mut drifted = truth(&w);
    drifted.set_truth(2, 1, 0.625).unwrap();
    let mut counter = RankCounter::new(drifted, CaptionMode::MinRank, Directions::Both).unwrap();
    counter.tile(0, 0, &w.scores, 4, 2, 2).unwrap();
    let counts = counter.finish().unwrap();
    assert_eq!(counts.drift, 0.625 - 0.6);
    // Its own pair is never a distractor, whatever it scored the second time.
    assert_eq!(greater(&counts.t2v.unwrap())[2], 0);
}

#[test]
fn captions_in_a_wild_order_are_merged_across_tiles() {
    // Captions of both videos alternate and arrive one by one, in both column halves.
    let w = World { owner: vec![0, 1, 0, 1], ..two_by_four() };
    let whole = w.counts(CaptionMode::MaxCaption);
    let mut counter = RankCounter::new(truth(&w), CaptionMode::MaxCaption, Directions::Both).unwrap();
    for (text, video) in [(3, 1), (0, 0), (2, 0), (1, 1), (1, 0), (2, 1), (0, 1), (3, 0)] {
        counter.tile(text, video, &[w.score(text, video)], 1, 1, 1).unwrap();
    }
    assert_eq!(counter.finish().unwrap(), whole);
}
