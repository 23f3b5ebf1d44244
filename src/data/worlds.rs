//! Generated worlds: data sets of which everything is known.
//!
//! [`SimpleWorld`] is for a first look. The others are benchmarks, each of which can show that one claim is wrong:
//! [`SpuriousBackground`] (S1: a background that predicts the event in training only), [`Factors`] (S2: one value word,
//! three factors it can speak of) and [`TemporalOrder`] (S3: which event came first). Each follows two laws
//! ([`Generator`]): the main one, on which models are tuned, and a held-out one, on which they are run once at the end.
//!
//! A world is a struct of parameters. `train()`, `val()` and `test(…)` make a split in memory with its ground truth
//! ([`Made`]), `write(dir)` puts all splits into a folder. Splits share atoms, not samples. The same parameters give the
//! same bits, with any number of threads.

pub mod common;
pub mod factors;
pub mod law;
pub mod simple;
pub mod spurious_background;
pub mod temporal_order;

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub use common::Made;
pub use factors::Factors;
pub use law::Generator;
pub use simple::SimpleWorld;
pub use spurious_background::SpuriousBackground;
pub use temporal_order::TemporalOrder;

/// Any world, by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "world", content = "parameters", rename_all = "kebab-case")]
pub enum World {
    Simple(SimpleWorld),
    SpuriousBackground(SpuriousBackground),
    Factors(Factors),
    TemporalOrder(TemporalOrder),
}

impl World {
    pub const NAMES: [&str; 4] = ["simple", spurious_background::NAME, factors::NAME, temporal_order::NAME];

    /// The world `name` with its default parameters, except those that are given.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is none of [`World::NAMES`], or a parameter that this world does not have.
    pub fn with(name: &str, parameters: Map<String, Value>) -> Result<Self> {
        fn fill<W: DeserializeOwned>(parameters: Map<String, Value>) -> Result<W> {
            serde_json::from_value(Value::Object(parameters))
                .map_err(|error| Error::config("world", error.to_string(), "change or leave out this parameter"))
        }
        match name {
            "simple" => fill(parameters).map(Self::Simple),
            spurious_background::NAME => fill(parameters).map(Self::SpuriousBackground),
            factors::NAME => fill(parameters).map(Self::Factors),
            temporal_order::NAME => fill(parameters).map(Self::TemporalOrder),
            _ => {
                let fix = format!("choose one of {}", Self::NAMES.join(", "));
                Err(Error::config("name", format!("there is no world {name:?}"), fix))
            }
        }
    }

    /// Writes all splits to the new folder `dir`.
    ///
    /// # Errors
    /// [`Error::Config`] for parameters that make no world, [`Error::Format`] if `dir` holds something already.
    pub fn write(&self, dir: &Path) -> Result<()> {
        match self {
            Self::Simple(world) => world.write(dir),
            Self::SpuriousBackground(world) => world.write(dir),
            Self::Factors(world) => world.write(dir),
            Self::TemporalOrder(world) => world.write(dir),
        }
    }
}
