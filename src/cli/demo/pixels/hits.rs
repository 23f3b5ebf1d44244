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

/// What comes first for the queries of the adversarial test.
#[derive(Copy, Clone, Serialize)]
pub struct Found {
    pub queries: usize,
    /// Queries for which token interaction and CBA put a clip first that has the place alone.
    pub only_place: [usize; 2],
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

    fn has_colour(self) -> bool {
        matches!(self, Is::RightClip | Is::RightColour)
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
    let right = (0..best.len()).filter(|query| first(test, best, *query).has_colour()).count();
    100.0 * right as f64 / best.len().max(1) as f64
}

/// What of the first hit is right.
fn first(test: &Seen, best: &[Ranked], query: usize) -> Is {
    let hit = best.get(query).and_then(|best| best.first());
    hit.map_or(Is::Neither, |(place, _)| Is::of(test.clip(*place), test.asked(query)))
}

/// The same of token interaction and of CBA, for each query.
fn firsts(models: &[Trained], test: &Seen) -> Vec<[Is; 2]> {
    let of = |name: &str, query: usize| model(models, name).map_or(Is::Neither, |m| first(test, &m.best, query));
    (0..test.data.pairs.len()).map(|query| [PLAIN, CAUSAL].map(|name| of(name, query))).collect()
}

impl Found {
    pub fn new(models: &[Trained], test: &Seen) -> Found {
        let firsts = firsts(models, test);
        let colours = |wanted: [bool; 2]| firsts.iter().filter(|f| f.map(Is::has_colour) == wanted).count();
        let only_place = [0, 1].map(|m: usize| firsts.iter().filter(|f| f[m] == Is::OnlyPlace).count());
        let (better, worse) = (colours([false, true]), colours([true, false]));
        Found { queries: firsts.len(), only_place, better, worse }
    }
}

/// Queries to show: some that CBA answers better, each asking for another colour, and one that it answers worse. Where
/// there is neither, the first of all.
fn chosen(models: &[Trained], test: &Seen) -> Vec<usize> {
    let firsts = firsts(models, test);
    let all = |wanted: [bool; 2]| {
        let found = firsts.iter().enumerate().filter(move |(_, firsts)| firsts.map(Is::has_colour) == wanted);
        found.map(|(query, _)| query)
    };
    let mut better: Vec<usize> = all([false, true]).collect();
    // Those where the place alone comes first before those where something else does, the right clip before another.
    better.sort_by_key(|q| (firsts[*q][0] != Is::OnlyPlace, firsts[*q][1] != Is::RightClip));
    let class = |query: usize| test.asked(query).truth.class;
    let mut shown: Vec<usize> = vec![];
    for query in better {
        if shown.len() < BETTER && !shown.iter().any(|q| class(*q) == class(query)) {
            shown.push(query);
        }
    }
    shown.extend(all([true, false]).take(WORSE));
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
