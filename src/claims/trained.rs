//! What the experiments share: training a variant, and looking at what it learned.

use super::{Effort, Job};
use crate::data::Dataset;
use crate::data::tokens::{InMemory, Tokens};
use crate::error::{Error, Result};
use crate::eval::scoring::{count_ranks, relevance};
use crate::eval::{CaptionMode, Directions, Retrieval, Setting};
use crate::models::cba::config::{CbaConfig, Trunk};
use crate::models::scorer::Scorer;
use crate::models::tiles::Tile;
use crate::models::{Config, build, folder};
use crate::train::{Run, TrainOptions, Trainer};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What the variants of a world have in common.
pub struct Recipe {
    pub effort: Effort,
    /// Width of the world's tokens.
    pub tokens: usize,
    pub words: usize,
    pub frames: usize,
    pub epochs: usize,
    pub batch: usize,
    pub learning_rate: f32,
    /// Temperature of the attention between words and frames.
    pub temperature: f32,
    /// Of CBA; a world whose frames need nothing before they are compared does without layers.
    pub trunk: Trunk,
}

impl Recipe {
    pub fn options(&self) -> TrainOptions {
        let epochs = if self.effort == Effort::Quick { 1 } else { self.epochs };
        TrainOptions { epochs, batch: self.batch, learning_rate: self.learning_rate, ..TrainOptions::default() }
    }

    pub fn plain(&self, model: &str) -> Config {
        Config {
            model: model.into(),
            text_dim: self.tokens,
            video_dim: self.tokens,
            dim: 128,
            max_words: self.words,
            max_frames: self.frames,
            temperature: self.temperature,
            ..Config::default()
        }
    }

    /// CBA without some of its modules.
    pub fn cba(&self, without: &[&str]) -> Config {
        let mut cba = CbaConfig { trunk: self.trunk.clone(), ..CbaConfig::default() };
        // Their names are those that `ablate` knows.
        without.iter().for_each(|module| drop(cba.ablate(module)));
        Config { cba: Some(cba), ..self.plain("cba") }
    }
}

/// The world that a job's variant lives in; for a quick look with the parameters `quick`.
///
/// # Errors
/// When the variant names a parameter that the world does not have.
pub fn world<W: DeserializeOwned>(job: &Job, quick: &[(&str, usize)]) -> Result<W> {
    let generator = serde_json::to_value(job.generator);
    let generator = generator.map_err(|e| Error::config("generator", e.to_string(), "report it"))?;
    let quick = quick.iter().filter(|_| job.effort == Effort::Quick);
    let parameters = quick.map(|(key, value)| (key.to_string(), Value::from(*value)));
    world_of(job, parameters.chain([("generator".to_string(), generator)]).collect())
}

/// A world with these parameters, the job's seed, and what is special about its variant.
///
/// # Errors
/// When the variant names a parameter that the world does not have.
pub fn world_of<W: DeserializeOwned>(job: &Job, mut parameters: Map<String, Value>) -> Result<W> {
    parameters.extend(job.variant.world.clone());
    parameters.insert("seed".to_string(), Value::from(job.seed));
    serde_json::from_value(Value::Object(parameters))
        .map_err(|e| Error::config("world", e.to_string(), "`moviola data world` writes a world.json with all of them"))
}

/// Trains the job's variant and gives its model folder: that of the last step. Held-out pairs are for a model that asks
/// them on its way, and for nothing else.
///
/// # Errors
/// [`Error::Stopped`] when the job is stopped; whatever training raises.
pub fn train(
    job: &Job,
    data: &Dataset,
    held_out: Option<&Dataset>,
    foreground: Option<&(dyn Fn(usize, usize) -> bool + Sync)>,
) -> Result<PathBuf> {
    let out = job.scratch.join("model");
    // One validation, after the last step: what is kept is not chosen.
    let epochs = job.variant.options.epochs;
    let options = TrainOptions { seed: job.seed, validate_every: epochs, ..job.variant.options.clone() };
    let run = Run {
        out: &out,
        config: &job.variant.config,
        options: &options,
        train: data,
        val: held_out,
        resume: false,
        foreground,
    };
    let mut trainer = Trainer::new(&run, (job.open)()?, |_| {})?;
    let summary = trainer.run(job.stop, |_| {})?;
    if summary.stopped_early { Err(Error::Stopped) } else { Ok(out) }
}

/// A trained model with another setting of CBA that its parameters do not depend on, in a folder of its own.
///
/// # Errors
/// When the model is not CBA, or takes other parameters then.
pub fn revised(job: &Job, model: &Path, folder_name: &str, change: impl FnOnce(&mut CbaConfig)) -> Result<PathBuf> {
    let to = job.scratch.join(folder_name);
    let (built, params) = folder::load(model)?;
    let mut config = built.config().clone();
    let cba = config.cba.as_mut().ok_or_else(|| Error::shape(folder_name, "the model is not cba"))?;
    change(cba);
    folder::save(&to, build(&config)?.as_ref(), &params, "a control of an experiment")?;
    Ok(to)
}

/// R@1 in percent, text to video and video to text, of all texts of a data set against its gallery; ties expected.
pub fn recall(job: &Job, model: &Path, data: &Dataset) -> Result<[f64; 2]> {
    let texts: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
    let mut scorer = Scorer::open(model, (&*data.texts, texts), (&*data.videos, data.gallery()), (job.open)()?)?;
    let (mut tiler, texts, videos) = scorer.tiler();
    let truth = relevance(data)?;
    let counts = count_ranks(&mut tiler, texts, videos, truth, CaptionMode::MinRank, Directions::Both, job.stop)?;
    let r = Retrieval::new(&counts, &Setting::new(scorer.device()))?;
    Ok([r.t2v, r.v2t].map(|m| m.map_or(0.0, |m| m.recall_at_1)))
}

/// The same data set with other videos: `change` gets an item's number, its rows `[T, D]` and their seconds, and gives
/// both anew. An item keeps at least one row.
///
/// # Errors
/// When a changed video has no rows or other widths than the others.
pub fn with_videos(
    mut data: Dataset,
    mut change: impl FnMut(usize, &Tokens, &[f32]) -> (Vec<f32>, Vec<f32>),
) -> Result<Dataset> {
    let (mut items, mut times) = (vec![], vec![]);
    for (v, id) in data.videos.ids().iter().enumerate() {
        let tokens = data.videos.load(v)?;
        let seconds =
            data.videos.timestamps(v).map_or_else(|| (0..tokens.rows).map(|t| t as f32).collect(), |t| t.to_vec());
        let (rows, seconds) = change(v, &tokens, &seconds);
        items.push((id.clone(), Tokens { rows: rows.len() / tokens.dim.max(1), dim: tokens.dim, data: rows }));
        times.push(seconds);
    }
    let about = data.videos.provenance().about.clone();
    data.videos = Box::new(InMemory::new(about, items)?.timed(times)?);
    Ok(data)
}

/// Scores of all texts of a data set with its gallery.
pub struct Scores {
    pub videos: usize,
    /// `[texts, videos]`
    values: Vec<f32>,
}

impl Scores {
    pub fn at(&self, text: usize, video: usize) -> f32 {
        self.values[text * self.videos + video]
    }
}

/// Scores every text of `data` with every video of its gallery.
pub fn scores(job: &Job, model: &Path, data: &Dataset) -> Result<Scores> {
    let texts: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
    let (rows, gallery) = (texts.len(), data.gallery());
    let videos = gallery.len();
    let mut values = vec![0.0; rows * videos];
    let mut scorer = Scorer::open(model, (&*data.texts, texts), (&*data.videos, gallery), (job.open)()?)?;
    let keep = |tile: Tile| {
        for (r, text) in tile.texts.clone().enumerate() {
            let from = &tile.scores[r * tile.stride..][..tile.videos.len()];
            values[text * videos + tile.videos.start..][..from.len()].copy_from_slice(from);
        }
        Ok(())
    };
    scorer.score_all(keep, job.stop)?;
    Ok(Scores { videos, values })
}
