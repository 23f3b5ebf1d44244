//! `demo`: a world with a shortcut in it is made, three models are trained on it, and a page shows how far each of them
//! takes the shortcut and how that is seen. The world is one of features, or with `--pixels` one of clips, which an
//! encoder that is trained here looks at.

mod features;
mod parts;
mod pixels;

use super::eval::whole_matrix;
use super::train::train_model;
use super::{Common, device, output};
use crate::claims::Variant;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::eval::scoring::relevance;
use crate::eval::{CaptionMode, Captions, Directions, Matrix, Retrieval, ScoreMatrix, Setting, count};
use crate::models::scorer::Scorer;
use crate::train::log::{Line, Log};
use crate::train::{Run, TrainOptions};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Variants of the experiment, as they are called there.
const MODELS: [&str; 3] = ["mean-pool", PLAIN, CAUSAL];
/// The two that are compared on one query.
const PLAIN: &str = "token-interaction";
const CAUSAL: &str = "cba";
/// How many of the best videos of a query are kept.
const HITS: usize = 3;

/// Everything in one go, on data it makes: three models, a shortcut they take more or less, and a page to look at.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola demo --out demo && xdg-open demo/report.html
  moviola demo --pixels --out demo && xdg-open demo/report.html    on clips to look at; minutes
  moviola demo --quick --json                            that it runs, in seconds; its numbers mean nothing")]
pub struct Demo {
    /// Folder for the world, the models and the page; must not exist yet.
    #[arg(long, default_value = "moviola-demo", value_name = "DIR")]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clips that are drawn, and an encoder of their frames that is trained first: hits to look at.
    #[arg(long)]
    pixels: bool,
    /// A world too small to learn from, and few steps.
    #[arg(long)]
    quick: bool,
}

/// The best videos of a query, by their places in the gallery, with their scores.
type Ranked = Vec<(usize, f32)>;

/// A model and what it came to.
#[derive(Serialize)]
struct Trained {
    model: &'static str,
    /// As in training, in any place, in the twin's place.
    tests: Vec<Tested>,
    /// Share of the adversarial queries, in percent, that find the twin first.
    twin_first: f64,
    training_seconds: f64,
    #[serde(skip)]
    options: TrainOptions,
    #[serde(skip)]
    log: Vec<Line>,
    /// Of each adversarial query.
    #[serde(skip)]
    best: Vec<Ranked>,
}

#[derive(Serialize)]
struct Tested {
    test: &'static str,
    /// For people.
    #[serde(skip)]
    called: &'static str,
    #[serde(flatten)]
    retrieval: Retrieval,
    /// Queries whose first video has the colour that they ask for, in percent; of pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    right_colour_first: Option<f64>,
}

impl Demo {
    pub fn run(&self, common: &Common) -> Result<()> {
        if self.out.exists() {
            let fix = "remove it or choose another with --out";
            return Err(Error::config("--out", format!("{} exists", self.out.display()), fix));
        }
        if self.pixels { pixels::run(self, common) } else { features::run(self, common) }
    }

    fn train(&self, common: &Common, variant: &Variant, train: &Dataset, val: Option<&Dataset>) -> Result<Trained> {
        let model = MODELS.into_iter().find(|name| *name == variant.name).unwrap_or_default();
        let (out, begun) = (self.out.join(model), Instant::now());
        let options = TrainOptions { seed: self.seed, ..variant.options.clone() };
        let config = &variant.config;
        let run = Run { out: &out, config, options: &options, train, val, resume: false, foreground: None };
        output::note(common, format!("\n{model}: {}", variant.about));
        if train_model(common, &run, None)?.stopped_early {
            return Err(Error::Stopped);
        }
        let log = Log::read(&out.join("log.jsonl"))?;
        let training_seconds = begun.elapsed().as_secs_f64();
        Ok(Trained { model, tests: vec![], twin_first: 0.0, training_seconds, options, log, best: vec![] })
    }
}

impl Trained {
    /// Adds the numbers of a test, and gives the best videos of each of its texts.
    fn test(
        &mut self,
        common: &Common,
        model: &Path,
        (test, called): (&'static str, &'static str),
        data: &Dataset,
    ) -> Result<Vec<Ranked>> {
        let mut scorer = open(common, model, data)?;
        let matrix = whole_matrix(&mut scorer, data.pairs.len(), data.gallery().len())?;
        let relevant = relevance(data)?;
        let mut setting = Setting::new(scorer.device());
        let captions: Vec<&str> = data.pairs.iter().map(|p| data.caption(p)).collect();
        setting.captions = Some(Captions::new(&captions, &relevant)?);
        setting.seed = Some(self.options.seed);
        let counts = count(&matrix, relevant, CaptionMode::MinRank, Directions::Both)?;
        let retrieval = Retrieval::new(&counts, &setting)?;
        self.tests.push(Tested { test, called, retrieval, right_colour_first: None });
        best(&matrix)
    }

    /// The first video of each adversarial query.
    fn first(&self) -> impl Iterator<Item = usize> {
        self.best.iter().map(|best| best.first().map_or(0, |hit| hit.0))
    }

    /// Keeps the best videos of adversarial queries, of which `twins` are the twins.
    fn keep(&mut self, best: Vec<Ranked>, twins: impl Iterator<Item = Option<usize>>) {
        self.best = best;
        let found = self.first().zip(twins).filter(|(first, twin)| *twin == Some(*first)).count();
        self.twin_first = 100.0 * found as f64 / self.best.len().max(1) as f64;
    }
}

/// The variants of an experiment that are shown.
fn shown(variants: &[Variant]) -> Result<Vec<&Variant>> {
    let named = |name: &str| variants.iter().find(|v| v.name == name);
    let gone = |name| Error::config("demo", format!("the experiment has no variant {name:?}"), "report it");
    MODELS.iter().map(|name| named(name).ok_or_else(|| gone(name))).collect()
}

fn model<'a>(models: &'a [Trained], name: &str) -> Option<&'a Trained> {
    models.iter().find(|m| m.model == name)
}

/// The best videos of each text; of equal ones the first.
fn best(matrix: &Matrix) -> Result<Vec<Ranked>> {
    let mut row = vec![0.0; matrix.videos()];
    (0..matrix.texts())
        .map(|text| {
            matrix.row(text, &mut row)?;
            let mut all: Ranked = row.iter().copied().enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            all.truncate(HITS);
            Ok(all)
        })
        .collect()
}

/// A model with all texts and videos of a test.
fn open<'a>(common: &Common, model: &Path, data: &'a Dataset) -> Result<Scorer<'a>> {
    let backend = device::open(&quiet(common))?;
    let texts = data.pairs.iter().map(|p| p.text).collect();
    Scorer::open(model, (&*data.texts, texts), (&*data.videos, data.gallery()), backend)
}

fn quiet(common: &Common) -> Common {
    Common { quiet: true, ..common.clone() }
}
