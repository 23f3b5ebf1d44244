//! `demo`: a world is made, both models are trained on it and evaluated, and a page shows what came out.

use super::explain::explain;
use super::train::{loss_curve, train_model, validation_curve};
use super::{Common, STOP, device, output};
use crate::data::worlds::SimpleWorld;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::eval::scoring::{count_ranks, relevance};
use crate::eval::{CaptionMode, Captions, Directions, Retrieval, Setting};
use crate::models::Config;
use crate::models::scorer::Scorer;
use crate::picture::{Report, table};
use crate::train::log::Log;
use crate::train::{Run, TrainOptions};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The models that are trained while one waits; others take minutes.
const BASELINES: [&str; 2] = ["mean-pool", "token-interaction"];

/// Everything in one go, on data it makes: a table here and a page to look at.
#[derive(Args)]
#[command(after_help = "Example:\n  moviola demo --out demo && xdg-open demo/report.html")]
pub struct Demo {
    /// Folder for the world, the models and the page; must not exist yet.
    #[arg(long, default_value = "moviola-demo", value_name = "DIR")]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Serialize)]
struct Outcome {
    report: PathBuf,
    seconds: f64,
    models: Vec<Evaluated>,
}

#[derive(Serialize)]
struct Evaluated {
    model: String,
    retrieval: Retrieval,
}

impl Demo {
    pub fn run(&self, common: &Common) -> Result<()> {
        let begun = Instant::now();
        if self.out.exists() {
            let fix = "remove it or choose another with --out";
            return Err(Error::config("--out", format!("{} exists", self.out.display()), fix));
        }
        let world = self.out.join("world");
        SimpleWorld { seed: self.seed, ..SimpleWorld::default() }.write(&world)?;
        let [train, val, test] = [Split::Train, Split::Val, Split::Test].map(|s| Dataset::open(&world, None, s));
        let (train, val, test) = (train?, val?, test?);
        let options =
            TrainOptions { epochs: 12, batch: 64, learning_rate: 2e-3, seed: self.seed, ..TrainOptions::default() };
        let intro = format!(
            "A generated world: {} videos with two to four events each, {} captions to train on and {} videos to find. \
             Both models were trained on it just now.",
            train.gallery().len(),
            train.pairs.len(),
            test.gallery().len()
        );
        let mut report = Report::new("Moviola demo").text(intro);
        let mut models = vec![];
        for name in BASELINES {
            let out = self.out.join(name);
            let config = Config {
                model: name.into(),
                text_dim: train.texts.dim(),
                video_dim: train.videos.dim(),
                dim: 128,
                ..Config::default()
            };
            let run = Run {
                out: &out,
                config: &config,
                options: &options,
                train: &train,
                val: Some(&val),
                resume: false,
                foreground: None,
            };
            let summary = train_model(common, &run)?;
            if summary.stopped_early {
                return Err(Error::Stopped);
            }
            let (retrieval, map) = evaluate(common, &out, &test)?;
            output::note(common, format!("\n{name}\n{}", table::terminal(&retrieval)));
            let lines = Log::read(&out.join("log.jsonl"))?;
            report = report
                .section(name)
                .table(table::html(&retrieval), retrieval.protocol.to_string())
                .figure(loss_curve(&lines), "Loss of each training step.");
            if let Some(svg) = validation_curve(&lines) {
                report = report.figure(svg, "R@1 on the validation split; the best model is kept.");
            }
            if let Some((svg, note)) = map {
                report = report.figure(svg, note);
            }
            models.push(Evaluated { model: name.into(), retrieval });
        }
        let path = self.out.join("report.html");
        report.write(&path)?;
        let outcome = Outcome { report: path, seconds: begun.elapsed().as_secs_f64(), models };
        output::result(common, &outcome, || {
            format!("\ndone in {:.0} s; look at {}", outcome.seconds, outcome.report.display())
        })
    }
}

/// The table of the test split, and the map of its first pair where the model has one.
fn evaluate(common: &Common, model: &Path, test: &Dataset) -> Result<(Retrieval, Option<(String, String)>)> {
    let texts: Vec<usize> = test.pairs.iter().map(|p| p.text).collect();
    let backend = device::open(&Common { quiet: true, ..common.clone() })?;
    let mut scorer = Scorer::open(model, (&*test.texts, texts), (&*test.videos, test.gallery()), backend)?;
    let (mut tiler, text_side, video_side) = scorer.tiler();
    let relevant = relevance(test)?;
    let mut setting = Setting::new("");
    let captions: Vec<&str> = test.pairs.iter().map(|p| test.caption(p)).collect();
    setting.captions = Some(Captions::new(&captions, &relevant)?);
    let mode = CaptionMode::MinRank;
    let counts = count_ranks(&mut tiler, text_side, video_side, relevant, mode, Directions::Both, &STOP)?;
    setting.device = scorer.device();
    let retrieval = Retrieval::new(&counts, &setting)?;
    let first = &test.pairs[0];
    let shown = explain(&mut scorer, test, (0, first.text), (0, first.video), test.caption(first))?;
    let map = shown.svg().ok().map(|svg| (svg, shown.note()));
    Ok((retrieval, map))
}
