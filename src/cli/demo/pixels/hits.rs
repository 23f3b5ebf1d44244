//! What two models find for a few adversarial queries, and what of each hit is right.

use super::super::{CAUSAL, PLAIN, Ranked, Trained, model, open};
use super::Seen;
use crate::claims::pixels;
use crate::claims::rendered_background::FRAMES;
use crate::cli::Common;
use crate::cli::stills::still;
use crate::data::worlds::rendered::Clip;
use crate::error::Result;
use crate::picture::strip::Still;
use serde::Serialize;
use std::path::Path;

/// Queries that are shown of those that CBA answers better, and of those that it answers worse.
const BETTER: usize = 3;
const WORSE: usize = 1;
/// Of how many of its frames a clip's strip is made.
const STILLS: usize = 6;

/// How often the two models' first hits differ in whether they have the right colour.
#[derive(Copy, Clone, Serialize)]
pub struct Found {
    /// Of the adversarial test.
    pub queries: usize,
    /// CBA has the right colour first and token interaction another.
    pub better: usize,
    /// The other way round.
    pub worse: usize,
}

/// A query and the hits of both models.
#[derive(Serialize)]
pub struct Asked {
    pub text: String,
    pub caption: String,
    pub colour: &'static str,
    /// Where things of this colour were in training.
    pub place: &'static str,
    pub answers: Vec<Answer>,
}

#[derive(Serialize)]
pub struct Answer {
    pub model: &'static str,
    pub hits: Vec<Hit>,
}

#[derive(Serialize)]
pub struct Hit {
    pub video: String,
    pub colour: &'static str,
    pub shape: &'static str,
    pub place: &'static str,
    pub is: Is,
    pub score: f32,
    /// Frames that the model takes for foreground, of all that it sees; empty where it does not ask.
    pub foreground: Vec<bool>,
    #[serde(skip)]
    pub stills: Vec<(Still, bool)>,
}

/// What of a hit is right.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Is {
    RightClip,
    RightColour,
    /// Another colour, where the right one was in training.
    OnlyPlace,
    Neither,
}

impl Is {
    fn of(hit: &Clip, asked: &Clip) -> Is {
        match (hit.id == asked.id, hit.truth.class == asked.truth.class) {
            (true, _) => Is::RightClip,
            (false, true) => Is::RightColour,
            _ if hit.truth.background == asked.truth.favourite => Is::OnlyPlace,
            _ => Is::Neither,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Is::RightClip => "✓ the right clip",
            Is::RightColour => "✓ right colour, another clip",
            Is::OnlyPlace => "✗ the place, not the colour",
            Is::Neither => "✗ neither colour nor place",
        }
    }

    /// Number of a series' colour.
    pub fn colour(self) -> usize {
        match self {
            Is::RightClip => 2,
            // The same, fainter.
            Is::RightColour => 2 + crate::picture::COLOURS,
            Is::OnlyPlace | Is::Neither => 3,
        }
    }
}

/// How often the first hit has the colour that its query asks for, in percent.
pub fn right_colour(test: &Seen, best: &[Ranked]) -> f64 {
    let right = (0..best.len()).filter(|query| has_colour(test, best, *query)).count();
    100.0 * right as f64 / best.len().max(1) as f64
}

fn has_colour(test: &Seen, best: &[Ranked], query: usize) -> bool {
    let first = best.get(query).and_then(|best| best.first());
    first.is_some_and(|(place, _)| test.clip(*place).truth.class == test.asked(query).truth.class)
}

/// Queries whose first hit has the right colour, of the plain model and of CBA.
fn right(models: &[Trained], test: &Seen) -> Vec<[bool; 2]> {
    let of = |name: &str, query: usize| model(models, name).is_some_and(|m| has_colour(test, &m.best, query));
    (0..test.data.pairs.len()).map(|query| [of(PLAIN, query), of(CAUSAL, query)]).collect()
}

impl Found {
    pub fn new(models: &[Trained], test: &Seen) -> Found {
        let right = right(models, test);
        let count = |wanted: [bool; 2]| right.iter().filter(|r| **r == wanted).count();
        Found { queries: right.len(), better: count([false, true]), worse: count([true, false]) }
    }
}

/// Queries to show: some that CBA answers better, each asking for another colour, and one that it answers worse. Where
/// there is neither, the first of all.
fn chosen(models: &[Trained], test: &Seen) -> Vec<usize> {
    let right = right(models, test);
    let all = |wanted: [bool; 2]| (0..right.len()).filter(|q| right[*q] == wanted).collect::<Vec<_>>();
    let (mut better, worse) = (all([false, true]), all([true, false]));
    // Those whose own clip comes first say more.
    let finds = |query: &usize| {
        let first = model(models, CAUSAL).and_then(|m| m.best.get(*query)?.first());
        first.is_none_or(|(place, _)| test.clip(*place).id != test.asked(*query).id)
    };
    better.sort_by_key(finds);
    let mut shown: Vec<usize> = vec![];
    for query in better {
        let class = |query: usize| test.asked(query).truth.class;
        if shown.len() < BETTER && !shown.iter().any(|q| class(*q) == class(query)) {
            shown.push(query);
        }
    }
    shown.extend(worse.into_iter().take(WORSE));
    if shown.is_empty() { vec![0] } else { shown }
}

/// The hits of both models for the queries to show.
pub fn asked(common: &Common, out: &Path, models: &[Trained], test: &Seen) -> Result<Vec<Asked>> {
    let chosen = chosen(models, test);
    let mut asked: Vec<Asked> = chosen.iter().map(|query| Asked::new(test, *query)).collect();
    for m in models.iter().filter(|m| [PLAIN, CAUSAL].contains(&m.model)) {
        let mut scorer = open(common, &out.join(m.model), &test.data)?;
        for (query, asked) in chosen.iter().zip(&mut asked) {
            let mut hits = vec![];
            for (place, score) in m.best.get(*query).into_iter().flatten() {
                let (clip, owner) = (test.clip(*place), test.asked(*query));
                let foreground = scorer.explain(*query, *place)?.foreground;
                hits.push(Hit {
                    video: clip.id.clone(),
                    colour: clip.truth.colour.name(),
                    shape: clip.truth.shape.name(),
                    place: clip.truth.background.name(),
                    is: Is::of(clip, owner),
                    score: *score,
                    stills: strip(clip, &foreground, out)?,
                    foreground,
                });
            }
            asked.answers.push(Answer { model: m.model, hits });
        }
    }
    Ok(asked)
}

impl Asked {
    fn new(test: &Seen, query: usize) -> Asked {
        let (pair, truth) = (&test.data.pairs[query], &test.asked(query).truth);
        Asked {
            text: test.data.texts.ids()[pair.text].clone(),
            caption: test.data.caption(pair).to_string(),
            colour: truth.colour.name(),
            place: truth.favourite.name(),
            answers: vec![],
        }
    }
}

/// Some of the frames that models see of a clip, and whether each is marked.
pub fn strip(clip: &Clip, marked: &[bool], from: &Path) -> Result<Vec<(Still, bool)>> {
    let (all, rows) = (pixels::moments(clip, FRAMES), (0..STILLS).map(|i| (2 * i + 1) * FRAMES / (2 * STILLS)));
    rows.map(|row| Ok((frame(clip, all[row], from)?, marked.get(row).is_some_and(|marked| *marked)))).collect()
}

/// A clip's picture at this time.
pub fn frame(clip: &Clip, second: f32, from: &Path) -> Result<Still> {
    still(&pixels::picture(clip.frame(second))?, second, from)
}
