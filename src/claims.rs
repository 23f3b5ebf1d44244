//! Claims of the papers as experiments that could refute them: worlds with known truth, the model, what it is compared
//! with, and the bars it has to clear.
//!
//! A claim lists its variants (baselines, the model, the model without a module, oracles, random controls), says what
//! is measured of one variant on one seed, and which differences must hold. [`run()`] does the rest: jobs over variants
//! and seeds, cached one by one, so that a run that was stopped goes on where it was.

pub mod bars;
pub mod factors;
pub mod figures;
pub mod frames;
pub mod pareto;
pub mod pixels;
pub mod probe;
pub mod rendered_background;
pub mod rendered_order;
pub mod run;
pub mod spurious_background;
pub mod temporal_order;
pub mod trained;

pub use bars::{Bar, Judged, Rule, Table};
pub use figures::Figure;
pub use run::{Outcome, Request, run};

use crate::data::worlds::Generator;
use crate::engine::backend::Backend;
use crate::error::Result;
use crate::models::Config;
use crate::models::cba::CbaConfig;
use crate::train::TrainOptions;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Measured values of one variant on one seed, by name; recalls in percent.
pub type Measures = BTreeMap<String, f64>;

/// One arm of an experiment.
#[derive(Clone, Debug)]
pub struct Variant {
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    pub config: Config,
    pub options: TrainOptions,
    /// Where its mask of the foreground comes from, if not from itself.
    pub mask: Mask,
    /// What is special about the world it lives in, by the names of the world's parameters.
    pub world: Map<String, Value>,
    /// Whether the frames of its training videos are in no order.
    pub shuffled: bool,
}

impl Variant {
    pub fn new(name: &str, about: &str, config: Config, options: TrainOptions) -> Variant {
        let (name, about) = (name.into(), about.into());
        Variant { name, about, config, options, mask: Mask::Own, world: Map::new(), shuffled: false }
    }

    /// The same under another name.
    pub fn named(&self, name: &str, about: &str) -> Variant {
        Variant { name: name.into(), about: about.into(), ..self.clone() }
    }

    /// The same model under another name, with something changed about CBA.
    pub fn with(&self, name: &str, about: &str, change: impl FnOnce(&mut CbaConfig)) -> Variant {
        let mut other = self.named(name, about);
        change(other.config.cba.get_or_insert_default());
        other
    }

    /// The same model under another name, in a world of which one parameter is another.
    pub fn in_world(&self, name: &str, about: &str, parameter: &str, value: impl Into<Value>) -> Variant {
        let mut other = self.named(name, about);
        other.world.insert(parameter.into(), value.into());
        other
    }
}

/// One setting of one variant through several values, all else as it is.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The variant.
    pub of: String,
    /// The setting, as a configuration or a world calls it.
    pub over: &'static str,
    pub points: Vec<(f64, Variant)>,
}

impl Sweep {
    fn new(of: &Variant, over: &'static str, values: &[f64], change: impl Fn(&mut Variant, f64)) -> Sweep {
        let point = |value: &f64| {
            let mut variant = of.named(&format!("{}-{over}-{value}", of.name), &format!("{over} {value}"));
            change(&mut variant, *value);
            (*value, variant)
        };
        Sweep { of: of.name.clone(), over, points: values.iter().map(point).collect() }
    }

    /// Over a setting of CBA.
    pub fn setting(of: &Variant, over: &'static str, values: &[f64], change: impl Fn(&mut CbaConfig, f64)) -> Sweep {
        Sweep::new(of, over, values, |v, value| change(v.config.cba.get_or_insert_default(), value))
    }

    /// Over a parameter of the world.
    pub fn world(of: &Variant, over: &'static str, values: &[f64]) -> Sweep {
        Sweep::new(of, over, values, |v, value| drop(v.world.insert(over.into(), value.into())))
    }
}

/// The variant of a name, if it is in the list.
fn find<'a>(variants: &'a [Variant], name: &str) -> Option<&'a Variant> {
    variants.iter().find(|v| v.name == name)
}

/// A mask that an experiment gives to the counterfactual branch.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    #[default]
    Own,
    /// The truth.
    Oracle,
    /// As many frames, drawn anew for each video.
    Random,
}

/// How much is spent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Few steps on little data: shows that it runs; its numbers prove nothing and bars are not judged.
    Quick,
    Full,
}

/// One variant on one seed.
#[derive(Copy, Clone)]
pub struct Job<'a> {
    pub variant: &'a Variant,
    pub seed: u64,
    pub generator: Generator,
    pub effort: Effort,
    /// A folder of its own for what training leaves behind; removed afterwards.
    pub scratch: &'a Path,
    /// A folder for what all jobs on this seed share; kept.
    pub shared: &'a Path,
    pub stop: &'a AtomicBool,
    /// Opens a device to compute on.
    pub open: &'a (dyn Fn() -> Result<Box<dyn Backend>> + Sync),
}

/// A claim and the experiment that could refute it.
pub trait Claim: Sync {
    /// As it is called on the command line.
    fn name(&self) -> &'static str;
    /// What is claimed, in a sentence.
    fn says(&self) -> &'static str;
    fn variants(&self, effort: Effort) -> Vec<Variant>;
    /// What is looked at beside the bars: settings of some of the variants through a range.
    fn sweeps(&self, variants: &[Variant]) -> Vec<Sweep>;
    /// Makes what jobs on a seed share, unless it is there: called before any is measured, one after the other and with
    /// the whole device.
    fn prepare(&self, _: &Job) -> Result<()> {
        Ok(())
    }
    fn measure(&self, job: &Job) -> Result<Measures>;
    /// What the table shows, in this order.
    fn columns(&self) -> &'static [&'static str];
    /// What has to hold; empty for a claim that only measures.
    fn bars(&self) -> Vec<Bar>;
    /// The table as pictures; as many of them whatever is missing from the table.
    fn figures(&self, _: &Table) -> Vec<Figure> {
        vec![]
    }
    /// Whether it times what it trains, for which nothing else may run beside.
    fn takes_times(&self) -> bool {
        false
    }
    /// Columns in percent: those that a sweep's figure shows.
    fn percents(&self) -> &'static [&'static str] {
        &["R@1"]
    }
}

/// Every claim there is.
pub static CLAIMS: &[&dyn Claim] = &[
    &spurious_background::SpuriousBackgroundClaim,
    &factors::FactorsClaim,
    &temporal_order::TemporalOrderClaim,
    &pareto::ParetoClaim,
    &frames::FramesClaim,
    &rendered_background::RenderedBackgroundClaim,
    &rendered_order::RenderedOrderClaim,
];
