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
//!
//! [`Rendered`] is apart: it makes pixels, videos to encode or to train encoders on.

pub mod common;
pub mod factors;
pub mod law;
pub mod rendered;
pub mod simple;
pub mod spurious_background;
pub mod temporal_order;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub use common::Made;
pub use factors::Factors;
pub use law::Generator;
pub use rendered::Rendered;
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
    Rendered(Rendered),
}

impl World {
    pub const NAMES: [&str; 5] =
        ["simple", spurious_background::NAME, factors::NAME, temporal_order::NAME, rendered::NAME];

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
            rendered::NAME => fill(parameters).map(Self::Rendered),
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
            Self::Rendered(world) => {
                let ffmpeg = rendered::Mp4Writer::find()?;
                world.write(dir, &ffmpeg, &|_, _| {}, &AtomicBool::new(false)).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::common::{QUERIES, TESTS, TRUTH, WORLD};
    use super::*;
    use crate::data::{Dataset, Split, check};
    use serde_json::json;

    /// A small world of each kind that makes features.
    fn small(seed: u64) -> Vec<World> {
        let gallery = json!({"seed": seed, "train": 30, "val": 6, "gallery": 10, "dim": 16, "generator": "held-out"});
        let factors = json!({"seed": seed, "train": 30, "values": 9, "factor_dim": 8, "dtype": "f32"});
        let simple = json!({"seed": seed, "train": 30, "val": 6, "test": 10, "dim": 16});
        let parameters = [simple, gallery.clone(), factors, gallery];
        World::NAMES
            .iter()
            .zip(parameters)
            .map(|(name, p)| World::with(name, p.as_object().cloned().unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn every_world_is_written_as_a_sound_data_set_with_its_truth() {
        let dir = tempfile::tempdir().unwrap();
        for (world, name) in small(5).into_iter().zip(World::NAMES) {
            let place = dir.path().join(name);
            world.write(&place).unwrap();
            let report = check(&place);
            assert!(report.is_usable() && report.summary.warnings == 0, "{name}: {:?}", report.problems);
            let lines = |file: &str| std::fs::read_to_string(place.join(file)).unwrap().lines().count();
            let splits = Split::ALL.map(|split| Dataset::open(&place, None, split).unwrap());
            let videos: usize = splits.iter().map(|data| data.gallery().len()).sum();
            assert_eq!(lines(TRUTH), videos, "{name}");
            assert_eq!(lines(WORLD), 1);
            if name != "simple" {
                assert_eq!(lines(QUERIES), splits.iter().map(|data| data.pairs.len()).sum::<usize>(), "{name}");
            }
            let error = world.write(&place).unwrap_err().to_string();
            assert!(error.contains("not empty"), "{error}");
        }
    }

    #[test]
    fn a_folder_holds_what_memory_holds() {
        let dir = tempfile::tempdir().unwrap();
        let world = SpuriousBackground {
            train: 8,
            val: 4,
            gallery: 6,
            dtype: crate::data::TokenDtype::F32,
            ..SpuriousBackground::default()
        };
        let place = dir.path().join("s1");
        world.write(&place).unwrap();
        for test in spurious_background::Test::ALL {
            let folder = match test {
                spurious_background::Test::Id => place.clone(),
                other => place.join(TESTS).join(other.name()),
            };
            assert!(check(&folder).is_usable());
            let (read, made) = (Dataset::open(&folder, None, Split::Test).unwrap(), world.test(test, 0).unwrap());
            assert_eq!(read.pairs.len(), made.data.pairs.len());
            for (mine, theirs) in read.pairs.iter().zip(&made.data.pairs) {
                assert_eq!(read.caption(mine), made.data.caption(theirs));
                assert_eq!(read.videos.load(mine.video).unwrap(), made.data.videos.load(theirs.video).unwrap());
                assert_eq!(read.videos.timestamps(mine.video), made.data.videos.timestamps(theirs.video));
                assert_eq!(read.texts.load(mine.text).unwrap(), made.data.texts.load(theirs.text).unwrap());
            }
            let truth = std::fs::read_to_string(folder.join(TRUTH)).unwrap();
            let last: Value = serde_json::from_str(truth.lines().last().unwrap()).unwrap();
            let video: spurious_background::Video = serde_json::from_value(json!({
                "events": last["events"], "background": last["background"], "frames": last["frames"],
                "clear": last["clear"], "twin": last["twin"],
            }))
            .unwrap();
            assert_eq!(Some(&video), made.videos.last());
        }
    }

    #[test]
    fn parameters_of_another_world_are_refused() {
        let one = |key: &str| Map::from_iter([(key.to_string(), json!(3))]);
        for (name, key) in [("simple", "beta"), ("factors", "gallery"), ("temporal-order", "twin_pairs")] {
            let error = World::with(name, one(key)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(World::with("simpel", Map::new()).unwrap_err().to_string().contains("factors"));
        assert!(World::with("spurious-background", one("beta")).is_ok());
    }
}
