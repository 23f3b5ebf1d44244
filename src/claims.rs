//! Claims of the papers as experiments that could refute them: worlds with known truth, the model, what it is compared
//! with, and the bars it has to clear.
//!
//! A claim lists its variants (baselines, the model, the model without a module, oracles, random controls), says what
//! is measured of one variant on one seed, and which differences must hold. [`run()`] does the rest: jobs over variants
//! and seeds, cached one by one, so that a run that was stopped goes on where it was.

pub mod bars;
pub mod factors;
pub mod run;
pub mod spurious_background;
pub mod temporal_order;
pub mod trained;

pub use bars::{Bar, Judged, Rule, Table};
pub use run::{Outcome, Request, run};

use crate::data::worlds::Generator;
use crate::engine::backend::Backend;
use crate::error::Result;
use crate::models::Config;
use crate::models::cba::CbaConfig;
use crate::train::TrainOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Measured values of one variant on one seed, by name; recalls in percent.
pub type Measures = BTreeMap<String, f64>;

/// One arm of an experiment.
#[derive(Clone, Debug)]
pub struct Variant {
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    pub config: Config,
    pub options: TrainOptions,
    /// Where its mask of the foreground comes from, if not from itself.
    pub mask: Mask,
    /// What is special about the world it lives in; empty for nothing.
    pub world: &'static str,
}

impl Variant {
    pub fn new(name: &'static str, about: &'static str, config: Config, options: TrainOptions) -> Variant {
        Variant { name, about, config, options, mask: Mask::Own, world: "" }
    }

    /// The same model under another name, with something changed about CBA.
    pub fn with(&self, name: &'static str, about: &'static str, change: impl FnOnce(&mut CbaConfig)) -> Variant {
        let mut other = Variant { name, about, ..self.clone() };
        change(other.config.cba.get_or_insert_default());
        other
    }
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
pub struct Job<'a> {
    pub variant: &'a Variant,
    pub seed: u64,
    pub generator: Generator,
    pub effort: Effort,
    /// A folder of its own for what training leaves behind; removed afterwards.
    pub scratch: &'a Path,
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
    fn measure(&self, job: &Job) -> Result<Measures>;
    /// What the table shows, in this order.
    fn columns(&self) -> &'static [&'static str];
    fn bars(&self) -> Vec<Bar>;
}

/// Every claim there is.
pub static CLAIMS: &[&dyn Claim] =
    &[&spurious_background::SpuriousBackgroundClaim, &factors::FactorsClaim, &temporal_order::TemporalOrderClaim];
