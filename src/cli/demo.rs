//! `demo`: a world with a shortcut in it is made, three models are trained on it, and a page shows how far each of them
//! takes the shortcut and how that is seen.

mod example;
mod page;

use super::eval::whole_matrix;
use super::train::train_model;
use super::{Common, device, output};
use crate::claims::spurious_background::SpuriousBackgroundClaim;
use crate::claims::{Claim, Effort, Variant};
use crate::data::worlds::common::TESTS;
use crate::data::worlds::spurious_background::Test;
use crate::data::worlds::{Made, SpuriousBackground};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::eval::scoring::relevance;
use crate::eval::{CaptionMode, Captions, Directions, Matrix, Retrieval, ScoreMatrix, Setting, count};
use crate::models::scorer::Scorer;
use crate::train::log::{Line, Log};
use crate::train::{Run, TrainOptions};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use example::Example;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Variants of the experiment, as they are called there.
const MODELS: [&str; 3] = ["mean-pool", PLAIN, CAUSAL];
/// The two that are compared on one query.
const PLAIN: &str = "token-interaction";
const CAUSAL: &str = "cba";

/// Everything in one go, on data it makes: three models, a shortcut they take more or less, and a page to look at.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola demo --out demo && xdg-open demo/report.html
  moviola demo --quick --json                            that it runs, in seconds; its numbers mean nothing")]
pub struct Demo {
    /// Folder for the world, the models and the page; must not exist yet.
    #[arg(long, default_value = "moviola-demo", value_name = "DIR")]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A world too small to learn from, and few steps.
    #[arg(long)]
    quick: bool,
}

#[derive(Serialize)]
struct Outcome {
    report: PathBuf,
    seconds: f64,
    world: SpuriousBackground,
    models: Vec<Trained>,
    /// Queries of the adversarial test for which the plain model finds the twin and CBA the right video.
    examples: usize,
    /// The first of them.
    example: Option<Example>,
}

/// A model and what it came to.
#[derive(Serialize)]
struct Trained {
    model: &'static str,
    /// One in the order of [`Test::ALL`].
    tests: Vec<Tested>,
    /// Share of the adversarial queries, in percent, that find the twin first.
    twin_first: f64,
    training_seconds: f64,
    #[serde(skip)]
    options: TrainOptions,
    #[serde(skip)]
    log: Vec<Line>,
    /// First video of each adversarial query.
    #[serde(skip)]
    first: Vec<usize>,
}

#[derive(Serialize)]
struct Tested {
    test: Test,
    #[serde(flatten)]
    retrieval: Retrieval,
}

impl Demo {
    /// Large enough that who takes the shortcut is seen, small enough to wait for.
    fn world(&self) -> SpuriousBackground {
        let (train, val, gallery) = if self.quick { (256, 8, 24) } else { (8_000, 200, 400) };
        SpuriousBackground { seed: self.seed, train, val, gallery, ..SpuriousBackground::default() }
    }

    pub fn run(&self, common: &Common) -> Result<()> {
        let begun = Instant::now();
        if self.out.exists() {
            let fix = "remove it or choose another with --out";
            return Err(Error::config("--out", format!("{} exists", self.out.display()), fix));
        }
        let (world, place) = (self.world(), self.out.join("world"));
        world.write(&place)?;
        let truth = world.test(Test::Adv, 0)?;
        let [train, val] = [Split::Train, Split::Val].map(|split| Dataset::open(&place, None, split));
        let (train, val) = (train?, val?);
        let effort = if self.quick { Effort::Quick } else { Effort::Full };
        let variants = SpuriousBackgroundClaim.variants(effort);
        let mut models = vec![];
        for name in MODELS {
            let variant = variants
                .iter()
                .find(|v| v.name == name)
                .ok_or_else(|| Error::config("demo", format!("the experiment has no variant {name:?}"), "report it"))?;
            let mut trained = self.train(common, (name, variant), &train, &val)?;
            for test in Test::ALL {
                trained.test(common, &self.out.join(name), (test, &folder(&place, test)), &truth)?;
            }
            models.push(trained);
        }
        let found = example::find(&models, &truth);
        let example = match found.first() {
            Some(query) => Some(Example::new(common, &self.out, &folder(&place, Test::Adv), &truth, *query)?),
            None => None,
        };
        let report = self.out.join("report.html");
        let mut outcome = Outcome { report, seconds: 0.0, world, models, examples: found.len(), example };
        outcome.seconds = begun.elapsed().as_secs_f64();
        page::page(&outcome, &self.out, &truth)?.write(&outcome.report)?;
        output::result(common, &outcome, || told(&outcome))
    }

    fn train(
        &self,
        common: &Common,
        (name, variant): (&'static str, &Variant),
        train: &Dataset,
        val: &Dataset,
    ) -> Result<Trained> {
        let (out, begun) = (self.out.join(name), Instant::now());
        let options = TrainOptions { seed: self.seed, ..variant.options.clone() };
        let run = Run {
            out: &out,
            config: &variant.config,
            options: &options,
            train,
            val: Some(val),
            resume: false,
            foreground: None,
        };
        output::note(common, format!("\n{name}: {}", variant.about));
        if train_model(common, &run, None)?.stopped_early {
            return Err(Error::Stopped);
        }
        let log = Log::read(&out.join("log.jsonl"))?;
        let training_seconds = begun.elapsed().as_secs_f64();
        Ok(Trained { model: name, tests: vec![], twin_first: 0.0, training_seconds, options, log, first: vec![] })
    }
}

impl Trained {
    /// Adds the numbers of a test.
    fn test<V>(
        &mut self,
        common: &Common,
        model: &Path,
        (test, folder): (Test, &Path),
        truth: &Made<V, crate::data::worlds::spurious_background::Query>,
    ) -> Result<()> {
        let data = Dataset::open(folder, None, Split::Test)?;
        let mut scorer = open(common, model, &data)?;
        let matrix = whole_matrix(&mut scorer, data.pairs.len(), data.gallery().len())?;
        let relevant = relevance(&data)?;
        let mut setting = Setting::new(scorer.device());
        let captions: Vec<&str> = data.pairs.iter().map(|p| data.caption(p)).collect();
        setting.captions = Some(Captions::new(&captions, &relevant)?);
        setting.seed = Some(self.options.seed);
        let counts = count(&matrix, relevant, CaptionMode::MinRank, Directions::Both)?;
        self.tests.push(Tested { test, retrieval: Retrieval::new(&counts, &setting)? });
        if test == Test::Adv {
            self.first = best(&matrix)?;
            let twins = self.first.iter().zip(&truth.queries).filter(|(first, q)| q.twin == Some(**first));
            self.twin_first = 100.0 * twins.count() as f64 / self.first.len().max(1) as f64;
        }
        Ok(())
    }
}

/// The best video of each text; the first of equal ones.
fn best(matrix: &Matrix) -> Result<Vec<usize>> {
    let mut row = vec![0.0; matrix.videos()];
    (0..matrix.texts())
        .map(|text| {
            matrix.row(text, &mut row)?;
            let best =
                row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, s)| if *s > b.1 { (i, *s) } else { b });
            Ok(best.0)
        })
        .collect()
}

/// A model with all texts and videos of a test.
fn open<'a>(common: &Common, model: &Path, data: &'a Dataset) -> Result<Scorer<'a>> {
    let backend = device::open(&Common { quiet: true, ..common.clone() })?;
    let texts = data.pairs.iter().map(|p| p.text).collect();
    Scorer::open(model, (&*data.texts, texts), (&*data.videos, data.gallery()), backend)
}

/// Where a world keeps a test.
fn folder(world: &Path, test: Test) -> PathBuf {
    match test {
        Test::Id => world.into(),
        other => world.join(TESTS).join(other.name()),
    }
}

/// A test's name for people.
fn called(test: Test) -> &'static str {
    match test {
        Test::Id => "in distribution",
        Test::Decor => "any background",
        Test::Adv => "twin's background",
    }
}

const HEAD: [&str; 8] = [
    "model",
    "in distribution\nt2v",
    "\nv2t",
    "any background\nt2v",
    "\nv2t",
    "twin's background\nt2v",
    "\nv2t",
    "twin\nfirst",
];

/// The table's rows: R@1 of each test in both directions, and how often the twin comes first.
fn rows(models: &[Trained]) -> Vec<Vec<String>> {
    let row = |m: &Trained| {
        let recall = |t: &Tested| [t.retrieval.t2v, t.retrieval.v2t].map(|m| m.map_or(f64::NAN, |m| m.recall_at_1));
        let numbers = m.tests.iter().flat_map(recall).chain([m.twin_first]).map(|x| format!("{x:.1}"));
        [m.model.to_string()].into_iter().chain(numbers).collect()
    };
    models.iter().map(row).collect()
}

fn told(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(HEAD).add_rows(rows(&outcome.models));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let protocol = outcome.models.iter().flat_map(|m| &m.tests).next().map(|t| t.retrieval.protocol.to_string());
    let example = match &outcome.example {
        Some(e) => format!(
            "{} queries that {PLAIN} answers with the twin and {CAUSAL} with the right video; one: {e}",
            outcome.examples
        ),
        None => format!("no query that {PLAIN} answers with the twin and {CAUSAL} with the right video"),
    };
    format!(
        "\n{table}\nR@1 and twin first in %; {}\n{example}\n\ndone in {:.0} s; look at {}",
        protocol.unwrap_or_default(),
        outcome.seconds,
        outcome.report.display()
    )
}
