//! `train`: from a data set to a model folder.

use super::split::DataArgs;
use super::{Common, STOP, device, output, progress};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::eval::file;
use crate::models::cba::CbaConfig;
use crate::models::cba::config::{Counterfactual, Quantisation, Routing, Temporal, Trunk};
use crate::models::{Config, build, rows::TextRows};
use crate::picture::Curves;
use crate::train::log::{Line, Log};
use crate::train::{Event, Run, Summary, TrainOptions, Trainer};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Train a model on token files.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola train --data world --model token-interaction --out run
  moviola train --data msrvtt --config wti.toml --set train.epochs=10 --out run
  moviola train --data world --model cba --set routing.mode=topk-token --set routing.experts=8 --out run
  moviola train --data world --model cba --ablate counterfactual,temporal --out run
  moviola train --data world --out run --resume

A configuration file has tables; every key can be left out:
  [model]                      [train]
  model = \"cba\"                epochs = 5
  dim = 512                    batch = 128
  max_words = 32               learning_rate = 0.001
  max_frames = 64              seed = 1
and, for cba:
  [trunk]           layers heads expansion positions motion pooled
  [routing]         mode = \"off|dense|soft|topk-query|topk-token\"  experts slots rank sharing router
                    balance z decorrelation noise
  [counterfactual]  uniform swap margin hard_negatives foreground
  [temporal]        consistency augment order drop jitter slowest fastest
  [quantisation]    int8 from")]
pub struct Train {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for the model, its log and its checkpoints.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// mean-pool, token-interaction or cba.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Modules of cba to leave out: routing, counterfactual, temporal.
    #[arg(long, value_name = "MODULES", value_delimiter = ',')]
    ablate: Vec<String>,
    /// TOML file with the tables below.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, e.g. --set train.epochs=10; goes before the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Go on from the newest checkpoint in --out.
    #[arg(long)]
    resume: bool,
}

/// The tables of a configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    pub model: toml::Table,
    pub train: TrainOptions,
    trunk: Option<Trunk>,
    routing: Option<Routing>,
    counterfactual: Option<Counterfactual>,
    temporal: Option<Temporal>,
    quantisation: Option<Quantisation>,
}

/// A configuration is a page of text; more is not one.
const CONFIG_LIMIT: u64 = 1 << 20;

impl RunConfig {
    /// The file, then the settings, in that order.
    pub fn read(file: Option<&Path>, settings: &[String]) -> Result<RunConfig> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let bytes = crate::data::files::read_capped(path, CONFIG_LIMIT)?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| Error::format(path, "is not UTF-8", "save it as UTF-8 text"))?;
                text.parse().map_err(|e: toml::de::Error| {
                    Error::format(path, e.to_string().trim().to_string(), "see `moviola train --help` for an example")
                })?
            }
        };
        for setting in settings {
            set(&mut table, setting)?;
        }
        table.try_into().map_err(|e: toml::de::Error| {
            let key = file.map_or("--set".into(), |p| p.display().to_string());
            Error::config(key, e.to_string().trim().to_string(), "see `moviola train --help` for the keys")
        })
    }

    /// The model's configuration, completed by what the data say.
    pub fn model(&self, data: &Dataset, ablate: &[String]) -> Result<Config> {
        let config = self.sized(&[("text_dim", data.texts.dim()), ("video_dim", data.videos.dim())], ablate)?;
        TextRows::new(&*data.texts, &config)?;
        Ok(config)
    }

    /// The model's configuration; of what is not set, `sizes` say the given numbers.
    pub fn sized(&self, sizes: &[(&str, usize)], ablate: &[String]) -> Result<Config> {
        let mut table = self.model.clone();
        for (key, value) in sizes {
            table.entry(*key).or_insert(toml::Value::Integer(*value as i64));
        }
        let mut whole = toml::Table::try_from(Config::default())
            .map_err(|e| Error::config("[model]", e.to_string(), "report it"))?;
        whole.extend(table);
        let mut config: Config = whole.try_into().map_err(|e: toml::de::Error| {
            Error::config("[model]", e.to_string().trim().to_string(), "see `moviola train --help` for the keys")
        })?;
        config.cba = self.cba(&config, ablate)?;
        build(&config)?;
        Ok(config)
    }

    /// The tables of CBA, where it is the model or they are given.
    fn cba(&self, config: &Config, ablate: &[String]) -> Result<Option<CbaConfig>> {
        let given = CbaConfig {
            trunk: self.trunk.clone().unwrap_or_default(),
            routing: self.routing.clone().unwrap_or_default(),
            counterfactual: self.counterfactual.clone().unwrap_or_default(),
            temporal: self.temporal.clone().unwrap_or_default(),
            quantisation: self.quantisation.clone().unwrap_or_default(),
        };
        let tables = [
            self.trunk.is_some(),
            self.routing.is_some(),
            self.counterfactual.is_some(),
            self.temporal.is_some(),
            self.quantisation.is_some(),
        ];
        if config.model != "cba" && !tables.contains(&true) && ablate.is_empty() {
            return Ok(None);
        }
        let mut cba = given;
        for module in ablate {
            cba.ablate(module)?;
        }
        Ok(Some(cba))
    }
}

/// `a.b=value` into the table; a value that is no TOML is a string.
fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let usage = || Error::config("--set", format!("{setting:?} is not KEY=VALUE"), "write e.g. --set train.epochs=10");
    let (key, value) = setting.split_once('=').ok_or_else(usage)?;
    let (first, second) = key.trim().split_once('.').ok_or_else(usage)?;
    let value = format!("x = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.trim().into()));
    let inner = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    inner.as_table_mut().ok_or_else(usage)?.insert(second.into(), value);
    Ok(())
}

impl Train {
    pub fn run(&self, common: &Common) -> Result<()> {
        let mut config = RunConfig::read(self.config.as_deref(), &self.settings)?;
        if let Some(name) = &self.model {
            config.model.insert("model".into(), toml::Value::String(name.clone()));
        }
        let train = self.data.open(Split::Train)?;
        let val = self.data.open_if_there(Split::Val)?;
        let model = config.model(&train, &self.ablate)?;
        let run = Run {
            out: &self.out,
            config: &model,
            options: &config.train,
            train: &train,
            val: val.as_ref(),
            resume: self.resume,
            foreground: None,
        };
        let summary = train_model(common, &run)?;
        output::result(common, &summary, || told(&summary))
    }
}

fn told(s: &Summary) -> String {
    let loss = s.final_loss.map_or(String::new(), |l| format!(", loss {l:.4}"));
    let best = s.best_recall_at_1.map_or(String::new(), |r| format!(", best validation R@1 {r:.1} (mean of t2v, v2t)"));
    let how = if s.stopped_early { "stopped after" } else { "finished" };
    let next = if s.stopped_early { "go on with --resume" } else { "moviola eval retrieval --model … --data …" };
    format!("{how} {} steps{loss}{best}\nmodel: {}\nnext:  {next}", s.steps, s.model.display())
}

/// Trains with a progress bar and draws the curves; also what `demo` does.
pub fn train_model(common: &Common, run: &Run) -> Result<Summary> {
    let backend = device::open(common)?;
    let mut trainer = Trainer::new(run, backend, |event| {
        if let Event::Warning(e) = event {
            output::note(common, format!("passing over a damaged checkpoint: {e}"));
        }
    })?;
    let bar = progress::bar(common, &run.config.model, trainer.steps() as u64);
    let summary = trainer.run(&STOP, |event| match event {
        Event::Start { step, .. } => bar.set_position(step as u64),
        Event::Line(Line::Step { step, loss, .. }) => {
            bar.set_position(*step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        }
        Event::Line(Line::Validation { epoch, recall_at_1, best, .. }) => {
            let mark = if *best { ", best so far" } else { "" };
            bar.suspend(|| output::note(common, format!("epoch {epoch}: validation R@1 {recall_at_1:.1}{mark}")));
        }
        Event::Checkpoint(_) | Event::Warning(_) => {}
    })?;
    bar.finish_and_clear();
    let lines = Log::read(&run.out.join("log.jsonl"))?;
    file::replace(&run.out.join("curves.svg"), loss_curve(&lines).as_bytes())?;
    if let Some(svg) = validation_curve(&lines) {
        file::replace(&run.out.join("validation.svg"), svg.as_bytes())?;
    }
    Ok(summary)
}

/// Loss over steps.
pub fn loss_curve(lines: &[Line]) -> String {
    let losses = lines.iter().filter_map(|l| match l {
        Line::Step { step, loss, .. } => Some((*step as f64, f64::from(*loss))),
        Line::Validation { .. } => None,
    });
    Curves::new("Training", "step", "loss (nats)").series("training loss", losses.collect()).svg()
}

/// R@1 of both directions over steps; none where nothing was validated.
pub fn validation_curve(lines: &[Line]) -> Option<String> {
    let (mut t2v_points, mut v2t_points) = (vec![], vec![]);
    for line in lines {
        if let Line::Validation { step, t2v, v2t, .. } = line {
            t2v_points.push((*step as f64, *t2v));
            v2t_points.push((*step as f64, *v2t));
        }
    }
    let curves = Curves::new("Validation", "step", "R@1 (%)");
    (!t2v_points.is_empty())
        .then(|| curves.series("text to video", t2v_points).series("video to text", v2t_points).svg())
}
