//! `explain`: why a text and a video score as they do: which words meet which frames, what of it is the background's,
//! and how far the score moves when the video is shown a little otherwise.

pub mod figures;

use super::query::{self, FromIndex, Query};
use super::split::{DataArgs, split};
use super::stills::{marked, stills};
use super::{Common, STOP, device, output};
use crate::error::{Error, Result};
use crate::eval::{file, mean_sd};
use crate::models::moments::moments;
use crate::models::perturb::Perturbation;
use crate::models::scorer::{Explanation, Scorer};
use crate::models::stability::{Kind, Stability, stability};
use crate::models::zero_shot::{self, SoftMaximum};
use crate::picture::strip::Still;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show why a text and a video score as they do.
#[derive(Args)]
#[command(override_usage = "\
moviola explain SENTENCE --index DIR --video ID [OPTIONS]
       moviola explain --model DIR --data DIR --text ID [--video ID] [OPTIONS]")]
#[command(after_help = "\
Examples:
  moviola explain --model run --data world --text video576#0 --out why.html
  moviola explain --model run --data world --text video576#0 --video video577 --out why.svg
  moviola explain --model run --data world --text video576#0 --draws 64 --json
  moviola explain 'a dog jumps into a lake' --index library --video clip7 --out why.html

Of a video of an index the picture has its frames and how close each is to the sentence. Else it has what the model knows: relevance over time, the token × frame map, shares of experts, the score of the
background alone, and the scores of the video with frames dropped, jittered, at another speed, and in reverse.")]
pub struct Explain {
    /// A sentence, for a video of an index.
    #[arg(value_name = "SENTENCE", requires = "index", conflicts_with_all = ["model", "data", "text", "split", "draws", "seed"])]
    sentence: Option<String>,
    #[command(flatten)]
    index: FromIndex,
    /// Model folder.
    #[arg(long, value_name = "DIR", requires = "data", required_unless_present = "index", conflicts_with = "index")]
    model: Option<PathBuf>,
    #[command(flatten)]
    data: Option<DataArgs>,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// Id of the text.
    #[arg(long, value_name = "ID", required_unless_present = "index")]
    text: Option<String>,
    /// Id of the video; the text's own when left out, which only a data set knows.
    #[arg(long, value_name = "ID")]
    video: Option<String>,
    /// Where the picture goes: .svg, or .html for a page.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Perturbed versions of the video that are scored, of each kind; 0 for none.
    #[arg(long, default_value_t = 16, value_name = "N")]
    draws: usize,
    /// What perturbations are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// More frames than this are counted and not listed on a terminal.
const MOST_TOLD: usize = 24;
/// Frames of a video that are shown.
const STILLS: usize = 12;

/// An explanation with names and times.
#[derive(Serialize)]
pub struct Shown {
    text: String,
    video: String,
    caption: String,
    model: String,
    pub score: f32,
    device: String,
    /// Seconds of each frame.
    pub seconds: Vec<f32>,
    words: Vec<String>,
    word_weights: Vec<f32>,
    relevance: Vec<f32>,
    /// A row a word, a column a frame.
    similarity: Vec<Vec<f32>>,
    /// Share of each expert over the video, weighted by relevance; empty where the model does not route.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expert_shares: Vec<f32>,
    /// A row a frame, a column an expert.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expert_gates: Vec<Vec<f32>>,
    /// Frames that the model takes for foreground, and what all others score alone: how much of the score is a shortcut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreground: Vec<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stability: Option<Stable>,
    /// Frames to look at, and whether each stands out.
    #[serde(skip)]
    stills: Vec<(Still, bool)>,
}

/// Scores of the video under perturbations.
#[derive(Serialize)]
struct Stable {
    unperturbed: f32,
    draws: usize,
    seed: u64,
    /// All kinds together.
    #[serde(skip)]
    how: Perturbation,
    kinds: Vec<StableKind>,
}

#[derive(Serialize)]
struct StableKind {
    name: &'static str,
    /// Whether the video still shows what its text says; a reversed one may not.
    keeps_meaning: bool,
    /// One a draw.
    scores: Vec<f32>,
    mean: f64,
    /// Divided by n − 1; absent for a single score.
    #[serde(skip_serializing_if = "Option::is_none")]
    sd: Option<f64>,
}

impl Stable {
    fn new(of: Stability, how: Perturbation, (draws, seed): (usize, u64)) -> Stable {
        let kind = |(kind, scores): (Kind, Vec<f32>)| {
            let values: Vec<f64> = scores.iter().map(|s| f64::from(*s)).collect();
            let told = mean_sd(&values)?;
            Some(StableKind {
                name: kind.name,
                keeps_meaning: kind.how.is_some(),
                scores,
                mean: told.mean,
                sd: told.sd,
            })
        };
        let kinds = of.kinds.into_iter().filter_map(kind).collect();
        Stable { unperturbed: of.unperturbed, draws, seed, how, kinds }
    }
}

impl Explain {
    pub fn run(&self, common: &Common) -> Result<()> {
        let kind = self.out.as_ref().map(|out| out.extension().and_then(|e| e.to_str()).unwrap_or_default());
        if kind.is_some_and(|kind| !["svg", "html"].contains(&kind)) {
            let what = format!("{} is neither .svg nor .html", self.out.as_deref().unwrap_or(Path::new("")).display());
            return Err(Error::config("--out", what, "name a picture FILE.svg or a page FILE.html"));
        }
        let shown = match &self.sentence {
            Some(sentence) => self.of_index(common, sentence, &self.index)?,
            None => self.of_data(common)?,
        };
        if let Some(out) = &self.out {
            if kind == Some("html") {
                shown.report()?.write(out)?;
            } else {
                file::replace(out, shown.svg()?.as_bytes())?;
            }
            output::note(common, format!("picture: {}", out.display()));
        }
        output::result(common, &shown, || shown.told())
    }

    /// A sentence and a video of an index, with frames of the video if there is to be a picture.
    fn of_index(&self, common: &Common, sentence: &str, from: &FromIndex) -> Result<Shown> {
        let dir = from.dir()?.display();
        let Some(id) = &self.video else {
            let fix = format!("name one that `moviola search {sentence:?} --index {}` finds", dir);
            return Err(Error::config("--video", "is missing", fix));
        };
        let query = Query::open(common, from, sentence)?;
        let index = &query.index;
        let Some(video) = index.videos.find(id) else {
            let what = format!("there is no video {id:?} in {}", dir);
            return Err(Error::config("--video", what, "look at the ids with `moviola search`"));
        };
        let mut asked = query.ask(common)?;
        let cosines = asked.cosines(video, &STOP)?;
        let (score, relevance) = SoftMaximum::of(&cosines);
        let mut shown = Shown {
            text: query::NAME.into(),
            video: id.clone(),
            caption: sentence.into(),
            model: zero_shot::NAME.into(),
            score,
            device: asked.device(),
            seconds: asked.seconds(video),
            words: vec!["sentence".into()],
            word_weights: vec![1.0],
            relevance,
            similarity: vec![cosines],
            expert_shares: vec![],
            expert_gates: vec![],
            foreground: vec![],
            background_score: None,
            stability: None,
            stills: vec![],
        };
        if self.out.is_some() {
            let found = moments(&shown.seconds, &shown.similarity.concat(), index.lasts());
            let n = shown.seconds.len();
            let taken: Vec<f32> =
                (0..n.min(STILLS)).map(|i| shown.seconds[(2 * i + 1) * n / (2 * n.min(STILLS))]).collect();
            let stills = stills(common, index, video, &taken)?;
            shown.stills = marked(stills, &found);
        }
        Ok(shown)
    }

    fn of_data(&self, common: &Common) -> Result<Shown> {
        let (Some(model), Some(from), Some(text)) = (&self.model, &self.data, &self.text) else {
            let what = "nothing to explain is given";
            return Err(Error::config("explain", what, "give a sentence and --index, or --model, --data and --text"));
        };
        let data = from.open(split(&self.split)?)?;
        let backend = device::open(common)?;
        let pair = data.pairs.iter().find(|p| data.texts.ids()[p.text] == *text).ok_or_else(|| {
            let fix = format!("look at the ids with `moviola data inspect {}`", from.data.display());
            Error::config("--text", format!("no text {text:?} in the {} split", self.split), fix)
        })?;
        let video = match &self.video {
            None => pair.video,
            Some(id) => data.videos.find(id).ok_or_else(|| {
                Error::config(
                    "--video",
                    format!("there is no video {id:?}"),
                    "check the id with `moviola data inspect`",
                )
            })?,
        };
        let caption = data.caption(pair).to_string();
        let mut scorer = Scorer::open(model, (&*data.texts, vec![pair.text]), (&*data.videos, vec![video]), backend)?;
        let names = (data.texts.ids()[pair.text].as_str(), data.videos.ids()[video].as_str());
        let mut shown = explain(&mut scorer, (0, 0), names, &caption)?;
        if self.draws > 0 {
            let (tokens, times) = scorer.video(0)?;
            drop(scorer);
            let backend = device::open(&Common { quiet: true, ..common.clone() })?;
            let how = Perturbation::default();
            let (text, kinds) = ((&*data.texts, pair.text), Kind::of(&how));
            let drawn = (self.draws, self.seed);
            let of = stability(model, text, (&tokens, &times), &kinds, drawn, backend, &STOP)?;
            shown.stability = Some(Stable::new(of, how, drawn));
        }
        Ok(shown)
    }
}

/// Explains the pair at these positions (text, video) of the scorer, with the names of both.
pub fn explain(
    scorer: &mut Scorer,
    (text, video): (usize, usize),
    names: (&str, &str),
    caption: &str,
) -> Result<Shown> {
    let e: Explanation = scorer.explain(text, video)?;
    let (_, seconds) = scorer.video(video)?;
    Ok(Shown {
        text: names.0.into(),
        video: names.1.into(),
        caption: caption.into(),
        model: scorer.config().model.clone(),
        score: e.score,
        device: scorer.device(),
        seconds,
        words: labels(caption, e.words),
        similarity: rows(&e.similarity, e.words, e.frames),
        expert_gates: rows(&e.gates, e.frames, e.gates.len() / e.frames.max(1)),
        expert_shares: e.shares(),
        foreground: e.foreground,
        background_score: e.background_score,
        word_weights: e.word_weights,
        relevance: e.relevance,
        stability: None,
        stills: vec![],
    })
}

/// The first `n` rows of a table; none where it is empty.
fn rows(table: &[f32], n: usize, width: usize) -> Vec<Vec<f32>> {
    table.chunks_exact(width.max(1)).take(n).map(<[f32]>::to_vec).collect()
}

/// The caption's words where there is one per token, else numbers: encoders cut words into pieces of their own.
fn labels(caption: &str, tokens: usize) -> Vec<String> {
    let words: Vec<&str> = caption.split_whitespace().collect();
    match words.len() == tokens {
        true => words.into_iter().map(String::from).collect(),
        false => (1..=tokens).map(|i| format!("token {i}")).collect(),
    }
}

impl Shown {
    fn told(&self) -> String {
        let mut lines = vec![format!("{} · {} · score {:.4} · {}", self.text, self.video, self.score, self.device)];
        lines.push(self.caption.clone());
        let frames = self.seconds.len();
        for (w, (word, row)) in self.words.iter().zip(&self.similarity).enumerate() {
            let Some((at, best)) = row.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
            let weight = self.word_weights.get(w).copied().unwrap_or(0.0);
            lines.push(format!(
                "  {word:<16} weight {weight:.3}  best frame {at} ({:.1} s), cosine {best:.3}",
                self.seconds[at]
            ));
        }
        if !self.expert_shares.is_empty() {
            let shares: Vec<String> = self.expert_shares.iter().map(|s| format!("{:.0} %", 100.0 * s)).collect();
            lines.push(format!("experts: {}", shares.join("  ")));
        }
        if let Some(alone) = self.background_score {
            let seconds = self.seconds.iter().zip(&self.foreground).filter(|(_, f)| **f);
            let seconds: Vec<String> = seconds.map(|(s, _)| format!("{s:.1}")).collect();
            let told = match seconds.len() {
                n if n > MOST_TOLD => format!("{n} of {frames} frames are foreground"),
                _ => format!("foreground at {} s", seconds.join(", ")),
            };
            lines.push(format!("{told}; all other frames alone score {alone:.4}"));
        }
        if let Some(of) = &self.stability {
            lines.push(format!(
                "stability ({} draws a kind, seed {}): unperturbed {:.4}",
                of.draws, of.seed, of.unperturbed
            ));
            for kind in &of.kinds {
                let sd = kind.sd.map_or(String::new(), |sd| format!(" ± {sd:.4}"));
                lines.push(format!("  {:<16} {:.4}{sd}", kind.name, kind.mean));
            }
        }
        lines.join("\n")
    }
}
