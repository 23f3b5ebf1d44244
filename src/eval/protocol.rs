//! The table of the field and the protocol it was made under.

use super::interval::wilson;
use super::metrics::{Direction, Metrics, TieRule};
use super::postprocess::PostNote;
use super::ranks::{CaptionMode, Counts, Tally};
use super::relevance::Relevance;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// What is known about the captions' texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Captions {
    pub distinct: usize,
    /// The highest expected R@1 (in percent) that any scorer can reach, given that identical captions get identical
    /// scores: each group of identical captions can put one video first.
    pub t2v_ceiling: f64,
    /// The same from video to text; only known when no video has several captions.
    pub v2t_ceiling: Option<f64>,
}

impl Captions {
    /// Captions are identical when their bytes are; normalise them as the encoder does before asking.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many captions as texts.
    pub fn new<S: AsRef<str>>(captions: &[S], relevance: &Relevance) -> Result<Captions> {
        if captions.len() != relevance.texts() {
            let what = format!("{} captions for {} texts", captions.len(), relevance.texts());
            return Err(Error::shape("captions", what));
        }
        let mut groups: HashMap<&str, HashMap<u32, usize>> = HashMap::new();
        for (caption, &video) in captions.iter().zip(relevance.owners()) {
            *groups.entry(caption.as_ref()).or_default().entry(video).or_default() += 1;
        }
        // A group shares one ranking of the videos: at best its most frequent video comes first.
        let hits: usize = groups.values().filter_map(|videos| videos.values().max()).sum();
        let percent = |hits: usize| 100.0 * hits as f64 / captions.len() as f64;
        Ok(Captions {
            distinct: groups.len(),
            t2v_ceiling: percent(hits),
            // k videos that share a caption each see k tied candidates: 1/k each, one hit in all.
            v2t_ceiling: (relevance.most_captions() == 1).then(|| percent(groups.len())),
        })
    }
}

/// What the caller states about an evaluation.
#[derive(Clone, Debug)]
pub struct Setting {
    pub tie_rule: TieRule,
    /// Add R@50.
    pub deep: bool,
    pub captions: Option<Captions>,
    pub post_processing: Option<PostNote>,
    pub seed: Option<u64>,
    /// The device that computed the scores, or where they came from.
    pub device: String,
}

impl Setting {
    /// The house protocol: expected ties, no post-processing.
    pub fn new(device: impl Into<String>) -> Self {
        Setting {
            tie_rule: TieRule::Expected,
            deep: false,
            captions: None,
            post_processing: None,
            seed: None,
            device: device.into(),
        }
    }
}

/// One value for each direction that was evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block<T> {
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub t2v: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub v2t: Option<T>,
}

/// `Option::default` without asking `T: Default`.
fn none<T>() -> Option<T> {
    None
}

impl<T> Block<T> {
    fn is_empty(&self) -> bool {
        self.t2v.is_none() && self.v2t.is_none()
    }
}

/// Everything one must know to compare the numbers with others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    pub tie_rule: TieRule,
    pub directions: Vec<Direction>,
    /// How a video with several captions is a query.
    pub captions: CaptionMode,
    /// `null`: none.
    pub post_processing: Option<PostNote>,
    pub seed: Option<u64>,
    pub device: String,
    pub texts: usize,
    pub videos: usize,
    /// Number of distinct captions; `null`: their texts were not given.
    pub distinct_captions: Option<usize>,
    /// Highest expected R@1 in percent that identical captions leave possible.
    #[serde(rename = "R@1_ceiling", skip_serializing_if = "Block::is_empty", default = "empty")]
    pub recall_ceiling: Block<f64>,
    /// 95 % Wilson interval of R@1, in percent.
    #[serde(rename = "R@1_interval_95", skip_serializing_if = "Block::is_empty", default = "empty")]
    pub recall_interval: Block<(f64, f64)>,
    /// Largest difference between two computations of the same score; absent when there was none.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub score_drift: f32,
    /// Queries whose relevant item a truncated run does not hold; absent when there are none.
    #[serde(skip_serializing_if = "is_none_left", default)]
    pub unranked_queries: usize,
    /// The same counts under the other rules, so that numbers of other code can be placed.
    pub other_tie_rules: BTreeMap<TieRule, Block<Metrics>>,
}

fn empty<T>() -> Block<T> {
    Block { t2v: None, v2t: None }
}

fn is_zero(drift: &f32) -> bool {
    *drift == 0.0
}

fn is_none_left(queries: &usize) -> bool {
    *queries == 0
}

/// Metrics of both directions under their protocol: `{"protocol": {…}, "t2v": {"R@1": …}, "v2t": {…}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub t2v: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub v2t: Option<Metrics>,
}

impl Retrieval {
    /// # Errors
    /// [`Error::Data`] when a direction has no queries.
    pub fn new(counts: &Counts, setting: &Setting) -> Result<Retrieval> {
        let block = |rule| metrics(counts, rule, setting.deep);
        let Block { t2v, v2t } = block(setting.tie_rule)?;
        let mut other_tie_rules = BTreeMap::new();
        for rule in TieRule::ALL.into_iter().filter(|&rule| rule != setting.tie_rule) {
            other_tie_rules.insert(rule, block(rule)?);
        }
        let interval = |metrics: Option<Metrics>, tallies: &Option<Vec<Tally>>| {
            metrics.zip(tallies.as_ref()).map(|(m, t)| wilson(m.recall_at_1, t.len()))
        };
        let protocol = Protocol {
            tie_rule: setting.tie_rule,
            directions: [t2v.map(|_| Direction::T2v), v2t.map(|_| Direction::V2t)].into_iter().flatten().collect(),
            captions: counts.captions,
            post_processing: setting.post_processing.clone(),
            seed: setting.seed,
            device: setting.device.clone(),
            texts: counts.texts,
            videos: counts.videos,
            distinct_captions: setting.captions.map(|c| c.distinct),
            recall_ceiling: Block {
                t2v: setting.captions.filter(|_| t2v.is_some()).map(|c| c.t2v_ceiling),
                v2t: setting.captions.filter(|_| v2t.is_some()).and_then(|c| c.v2t_ceiling),
            },
            recall_interval: Block { t2v: interval(t2v, &counts.t2v), v2t: interval(v2t, &counts.v2t) },
            score_drift: counts.drift,
            unranked_queries: counts.unranked,
            other_tie_rules,
        };
        Ok(Retrieval { protocol, t2v, v2t })
    }

    /// The result as CLIP4Clip's code would print it, shown beside ours; `None` when that is the rule in force.
    pub fn clip4clip(&self) -> Option<&Block<Metrics>> {
        self.protocol.other_tie_rules.get(&TieRule::Clip4clip)
    }
}

fn metrics(counts: &Counts, rule: TieRule, deep: bool) -> Result<Block<Metrics>> {
    let of = |tallies: &Option<Vec<Tally>>, direction| {
        tallies.as_ref().map(|tallies| Metrics::new(tallies, rule, direction, deep)).transpose()
    };
    Ok(Block { t2v: of(&counts.t2v, Direction::T2v)?, v2t: of(&counts.v2t, Direction::V2t)? })
}

impl std::fmt::Display for Protocol {
    /// The line printed under every table.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ties: {}; {} texts", self.tie_rule.name(), self.texts)?;
        if let Some(distinct) = self.distinct_captions {
            write!(f, " ({distinct} distinct")?;
            if let Some(ceiling) = self.recall_ceiling.t2v.or(self.recall_ceiling.v2t).filter(|&c| c < 100.0) {
                write!(f, ", expected R@1 at most {ceiling:.1}")?;
            }
            write!(f, ")")?;
        }
        write!(f, ", {} videos", self.videos)?;
        if self.directions.contains(&Direction::V2t) {
            let mode = match self.captions {
                CaptionMode::MinRank => "best rank of the video's captions",
                CaptionMode::MaxCaption => "videos by their best caption",
                CaptionMode::Single => "each caption by itself",
            };
            write!(f, "; v2t: {mode}")?;
        }
        match &self.post_processing {
            None => write!(f, "; no post-processing")?,
            Some(post) => {
                write!(f, "; post-processing: {}", post.name)?;
                let listed: Vec<String> = post.parameters.iter().map(|(key, value)| format!("{key} {value}")).collect();
                if !listed.is_empty() {
                    write!(f, " ({})", listed.join(", "))?;
                }
                if post.transductive {
                    write!(f, ", transductive: uses all test queries")?;
                }
            }
        }
        match self.seed {
            Some(seed) => write!(f, "; seed {seed}")?,
            None => write!(f, "; no seed")?,
        }
        write!(f, "; device: {}", self.device)?;
        if self.unranked_queries > 0 {
            write!(
                f,
                "; {} queries without a relevant item in the run (MdR, MnR are lower bounds)",
                self.unranked_queries
            )?;
        }
        if self.score_drift > 0.0 {
            write!(f, "; scores of one pair differ by up to {:e}", self.score_drift)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_lower_the_ceiling() {
        // MSR-VTT 1k-A in small: 1000 texts of which 995 distinct, duplicates belong to different videos.
        let captions: Vec<String> = (0..1000).map(|i| format!("caption {}", if i < 10 { i / 2 } else { i })).collect();
        let found = Captions::new(&captions, &Relevance::one_to_one(1000).unwrap()).unwrap();
        assert_eq!((found.distinct, found.t2v_ceiling, found.v2t_ceiling), (995, 99.5, Some(99.5)));
        // Two copies for the same video cost nothing, a third for another video costs one.
        let relevance = Relevance::new(vec![0, 0, 1, 1], 2).unwrap();
        let found = Captions::new(&["a", "a", "a", "b"], &relevance).unwrap();
        assert_eq!((found.distinct, found.t2v_ceiling, found.v2t_ceiling), (2, 75.0, None));
        assert!(Captions::new(&["a"], &relevance).is_err());
    }

    fn counts() -> Counts {
        let tally = |greater, equal| Tally { greater, equal, relevant: 1 };
        Counts {
            texts: 2,
            videos: 2,
            captions: CaptionMode::MinRank,
            t2v: Some(vec![tally(0, 1), tally(0, 0)]),
            v2t: Some(vec![tally(1, 0), tally(0, 0)]),
            drift: 0.0,
            unranked: 0,
        }
    }

    #[test]
    fn the_json_is_the_one_of_the_field_and_reads_back() {
        let setting = Setting { seed: Some(7), ..Setting::new("cpu") };
        let result = Retrieval::new(&counts(), &setting).unwrap();
        let json = serde_json::to_value(&result).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["protocol", "t2v", "v2t"]);
        let block: Vec<&String> = json["t2v"].as_object().unwrap().keys().collect();
        let mut expected = vec!["R@1", "R@5", "R@10", "MdR", "MnR", "Rsum"];
        expected.sort();
        let mut block: Vec<&str> = block.into_iter().map(String::as_str).collect();
        block.sort();
        assert_eq!(block, expected);
        assert_eq!(json["t2v"]["R@1"], 75.0);
        assert_eq!(json["protocol"]["tie_rule"], "expected");
        assert_eq!(json["protocol"]["captions"], "min-rank");
        assert_eq!(json["protocol"]["other_tie_rules"]["optimistic"]["t2v"]["R@1"], 100.0);
        // Positions 0, 1 and 0: two of three.
        let clip = json["protocol"]["other_tie_rules"]["clip4clip"]["t2v"]["R@1"].as_f64().unwrap();
        assert!((clip - 200.0 / 3.0).abs() < 1e-9);
        let read: Retrieval = serde_json::from_str(&serde_json::to_string(&result).unwrap()).unwrap();
        assert_eq!((read.t2v, read.v2t), (result.t2v, result.v2t));
        assert_eq!(read.protocol.directions, result.protocol.directions);
        assert!(read.protocol.other_tie_rules.keys().eq(result.protocol.other_tie_rules.keys()));
    }

    #[test]
    fn one_direction_leaves_the_other_out() {
        let only = Counts { v2t: None, ..counts() };
        let json = serde_json::to_value(Retrieval::new(&only, &Setting::new("cpu")).unwrap()).unwrap();
        assert!(json.get("v2t").is_none());
        assert_eq!(json["protocol"]["directions"], serde_json::json!(["t2v"]));
    }

    #[test]
    fn the_line_names_what_was_done() {
        let post = crate::eval::PostProcess::DualSoftmax { temperature: 1.0 }.note(false);
        let captions = Captions { distinct: 1, t2v_ceiling: 50.0, v2t_ceiling: None };
        let setting =
            Setting { post_processing: Some(post), captions: Some(captions), seed: Some(3), ..Setting::new("cpu") };
        let line = Retrieval::new(&counts(), &setting).unwrap().protocol.to_string();
        for part in ["ties: expected", "1 distinct", "at most 50.0", "dsl", "transductive", "seed 3", "device: cpu"] {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}
