//! One query by which two models are compared: what each sees in the right video and in its twin.

use super::{CAUSAL, PLAIN, Trained};
use crate::claims::trained::with_videos;
use crate::cli::demo::{model, open};
use crate::cli::explain::{Shown, explain};
use crate::cli::{Common, STOP};
use crate::data::worlds::Made;
use crate::data::worlds::spurious_background::{Query, Video};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::models::tiles::Tile;
use serde::Serialize;
use std::path::Path;

/// A query of the adversarial test and both models' reasons.
#[derive(Serialize)]
pub struct Example {
    pub query: usize,
    pub text: String,
    pub caption: String,
    pub right: usize,
    pub twin: usize,
    /// The event that only the right video shows, and the one in its place.
    pub event: usize,
    pub instead: usize,
    pub models: Vec<Reasons>,
}

/// What a model makes of the pair.
#[derive(Serialize)]
pub struct Reasons {
    pub model: &'static str,
    pub right: Side,
    pub twin: Side,
}

#[derive(Serialize)]
pub struct Side {
    pub explanation: Shown,
    /// The score of those frames alone that truly show no event.
    pub true_background_score: f32,
}

/// Adversarial queries that the plain model answers with the twin and CBA with the right video.
pub fn find<V>(models: &[Trained], truth: &Made<V, Query>) -> Vec<usize> {
    let first = |name: &str| model(models, name).into_iter().flat_map(Trained::first);
    let answers = truth.queries.iter().zip(first(PLAIN)).zip(first(CAUSAL)).enumerate();
    answers
        .filter(|(_, ((query, plain), causal))| query.twin == Some(*plain) && query.correct == *causal)
        .map(|(i, _)| i)
        .collect()
}

impl Example {
    pub fn new(
        common: &Common,
        models: &Path,
        test: &Path,
        truth: &Made<Video, Query>,
        query: usize,
    ) -> Result<Example> {
        let data = Dataset::open(test, None, Split::Test)?;
        let gone = || Error::config("demo", format!("query {query} is not in the test"), "report it");
        let (asked, pair) = (truth.queries.get(query).ok_or_else(gone)?, *data.pairs.get(query).ok_or_else(gone)?);
        let (right, twin) = (asked.correct, asked.twin.ok_or_else(gone)?);
        let [own, other] = [right, twin].map(|v| truth.videos.get(v).map(|v| v.events.as_slice()).unwrap_or_default());
        let only = |of: &[usize], not: &[usize]| of.iter().copied().find(|e| !not.contains(e)).unwrap_or_default();
        let (event, instead) = (only(own, other), only(other, own));
        let alone = background_alone(Dataset::open(test, None, Split::Test)?, truth)?;
        let gallery = data.gallery();
        let mut reasons = vec![];
        for model in [PLAIN, CAUSAL] {
            let place = models.join(model);
            let scores = scores_of(common, &place, &alone, query)?;
            let mut scorer = open(common, &place, &data)?;
            let mut side = |video: usize| -> Result<Side> {
                let item = *gallery.get(video).ok_or_else(gone)?;
                let names = (data.texts.ids()[pair.text].as_str(), data.videos.ids()[item].as_str());
                let explanation = explain(&mut scorer, (query, video), names, data.caption(&pair))?;
                Ok(Side { explanation, true_background_score: scores.get(video).copied().unwrap_or(f32::NAN) })
            };
            reasons.push(Reasons { model, right: side(right)?, twin: side(twin)? });
        }
        let (text, caption) = (data.texts.ids()[pair.text].clone(), data.caption(&pair).to_string());
        Ok(Example { query, text, caption, right, twin, event, instead, models: reasons })
    }
}

impl std::fmt::Display for Example {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} “{}”", self.text, self.caption)
    }
}

/// The same videos without the frames that show an event.
fn background_alone(data: Dataset, truth: &Made<Video, Query>) -> Result<Dataset> {
    with_videos(data, |v, tokens, seconds| {
        let events = truth.videos.get(v).map(|v| v.frames.as_slice()).unwrap_or_default();
        let left = (0..tokens.rows).filter(|t| !events.get(*t).is_some_and(Option::is_some));
        let left: Vec<usize> = left.collect();
        let rows = left.iter().flat_map(|t| tokens.row(*t).iter().copied()).collect();
        (rows, left.iter().filter_map(|t| seconds.get(*t).copied()).collect())
    })
}

/// Scores of one query with the whole gallery.
fn scores_of(common: &Common, model: &Path, data: &Dataset, query: usize) -> Result<Vec<f32>> {
    let mut scorer = open(common, model, data)?;
    let mut scores = vec![f32::NAN; data.gallery().len()];
    let keep = |tile: Tile| {
        if tile.texts.contains(&query) {
            let row = &tile.scores[(query - tile.texts.start) * tile.stride..][..tile.videos.len()];
            scores[tile.videos.clone()].copy_from_slice(row);
        }
        Ok(())
    };
    scorer.score_all(keep, &STOP)?;
    Ok(scores)
}
