//! Settings that people give: a TOML file, `--set KEY=VALUE`, and how both become configurations.

use crate::claims::Variant;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::models::cba::CbaConfig;
use crate::models::cba::config::{Counterfactual, Quantisation, Routing, Temporal, Trunk};
use crate::models::{Config, build, rows::TextRows};
use crate::train::TrainOptions;
use crate::train::encoder::EncoderOptions;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The tables of a configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    pub model: toml::Table,
    pub train: TrainOptions,
    pub encoder: EncoderOptions,
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

    /// # Errors
    /// When something is set about an encoder, where there is none.
    pub fn without_encoder(&self) -> Result<&RunConfig> {
        match self.encoder == EncoderOptions::default() {
            true => Ok(self),
            false => Err(Error::config("encoder", "is set and no encoder is trained", "name one with --encoder")),
        }
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

/// The configuration of a model for a command that takes its sizes as flags.
///
/// # Errors
/// When a setting is not KEY=VALUE, does not exist, is one of training or one of those sizes.
pub fn at_sizes(model: &str, settings: &[String], words: usize, frames: usize, dim: usize) -> Result<Config> {
    let mut config = RunConfig::read(None, settings)?;
    config.without_encoder()?;
    config.model.insert("model".into(), model.into());
    if config.train != TrainOptions::default() {
        let fix = "use --batch for its size; the other settings of [train] do not change a step's work";
        return Err(Error::config("--set train", "is not asked for by a single step", fix));
    }
    let sizes = [("max_words", words), ("max_frames", frames), ("text_dim", dim), ("video_dim", dim), ("dim", dim)];
    if let Some((key, _)) = sizes.iter().find(|(key, _)| config.model.contains_key(*key)) {
        let fix = "use --words, --frames and --dim";
        return Err(Error::config(format!("model.{key}"), "is a size of the batch here", fix));
    }
    config.sized(&sizes, &[])
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

/// Settings onto an arm of an experiment: keys as for training, and `world.KEY` for a parameter of its world. What is
/// CBA's own leaves other models as they are.
///
/// # Errors
/// When a setting is not KEY=VALUE, its key does not exist, or the configuration it makes is impossible.
pub fn change(settings: &[String], variant: &mut Variant) -> Result<()> {
    let report = |e: toml::ser::Error| Error::config("--set", e.to_string(), "report it");
    let mut plain = variant.config.clone();
    let cba = plain.cba.take();
    let mut table = toml::Table::try_from(cba.clone().unwrap_or_default()).map_err(report)?;
    table.insert("model".into(), toml::Value::try_from(&plain).map_err(report)?);
    table.insert("train".into(), toml::Value::try_from(&variant.options).map_err(report)?);
    settings.iter().try_for_each(|setting| set(&mut table, setting))?;
    let given = |of: &str, key: &str| table.get(of).and_then(|t| t.get(key)).cloned();
    let own_seed = toml::Value::try_from(variant.options.seed).map_err(report)?;
    if given("world", "seed").is_some()
        || given("world", "generator").is_some()
        || given("train", "seed") != Some(own_seed)
    {
        let fix = "seeds come from --seeds and --seed-base, the world's law from --generator";
        return Err(Error::config("--set", "a run draws its own seeds", fix));
    }
    if let Some(toml::Value::Table(world)) = table.remove("world") {
        for (key, value) in world {
            let value = serde_json::to_value(value).map_err(|e| Error::config("--set", e.to_string(), "report it"))?;
            variant.world.insert(key, value);
        }
    }
    variant.options = taken(&mut table, "train")?;
    let plain: Config = taken(&mut table, "model")?;
    let changed: CbaConfig = parsed(toml::Value::Table(table))?;
    variant.config = Config { cba: cba.map(|_| changed), ..plain };
    variant.options.check()?;
    build(&variant.config).map(drop)
}

fn taken<T: DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<T> {
    parsed(table.remove(key).unwrap_or_else(|| toml::Value::Table(toml::Table::new())))
}

fn parsed<T: DeserializeOwned>(value: toml::Value) -> Result<T> {
    value.try_into().map_err(|e: toml::de::Error| {
        Error::config("--set", e.to_string().trim().to_string(), "see `moviola train --help` for the keys")
    })
}
