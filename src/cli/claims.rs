//! `claims`: experiments that could refute what the papers claim.

mod told;

use super::{Common, STOP, output, progress, settings};
use crate::claims::run::Open;
use crate::claims::{CLAIMS, Claim, Effort, Request, Table, Variant, run};
use crate::data::files::write_whole;
use crate::data::worlds::Generator;
use crate::engine::backend::{self, DeviceChoice};
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;
use told::Told;

/// Run the experiment behind a claim: variants on fresh seeds, a table, and the bars it has to clear.
#[derive(Args)]
#[command(after_help = "\
Claims:
  spurious-background  the counterfactual branch suppresses shortcuts through the background
  rendered-background  the same from pixels: clips, and an encoder of their frames that is trained first
  factors              routing emphasises the cue that a query asks for
  temporal-order       temporal regularisation stabilises what a model knows of order
  rendered-order       the same from pixels
  pareto               what routing costs in time and memory and what it brings; without bars
  frames               recall by the number of frames a video is given; without bars

Examples:
  moviola claims spurious-background                    five seeds, all variants, bars
  moviola claims spurious-background --quick            that it runs, in a minute; proves nothing
  moviola claims spurious-background --seed-base 77 --generator held-out --json
  moviola claims spurious-background --only cba,token-interaction --seeds 2
  moviola claims spurious-background --sweep --seeds 1     a table for each setting
  moviola claims pareto --report pareto.html               the table and its pictures on one page
  moviola claims frames --seeds 3 --figure frames.svg      the pictures alone
  moviola claims factors --sweep --report sweep.html       a curve for each setting
  moviola claims factors --only cba --set routing.rank=32 --set train.epochs=8 --set world.noise=1

Results are kept by variant and seed in --out: a run that was stopped goes on where it was. The exit status is not 0 \
when a bar fails. Times are those of the machine that the run was made on.")]
pub struct Claims {
    /// One of the claims below.
    claim: String,
    /// Seeds a variant.
    #[arg(long, default_value_t = 5)]
    seeds: usize,
    /// What the seeds are drawn from.
    #[arg(long, default_value_t = 1)]
    seed_base: u64,
    /// main, or held-out: a world of another law, on which nothing was tuned.
    #[arg(long, default_value = "main")]
    generator: String,
    /// Few steps on little data, without judgement.
    #[arg(long)]
    quick: bool,
    /// Some variants alone, without judgement.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// The claim's sweeps over settings and worlds instead of its variants, without judgement.
    #[arg(long, conflicts_with = "only")]
    sweep: bool,
    /// A setting that is changed about every variant, e.g. routing.experts=8 or world.beta=1; without judgement.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Folder in which results are kept.
    #[arg(long, default_value = "moviola-claims", value_name = "DIR")]
    out: PathBuf,
    /// Write a page with the table, the bars and the figures.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write the figures alone.
    #[arg(long, value_name = "FILE.svg")]
    figure: Option<PathBuf>,
}

impl Claims {
    pub fn run(&self, common: &Common) -> Result<()> {
        let claim = find(&self.claim)?;
        let generator = match self.generator.as_str() {
            "main" => Generator::Main,
            "held-out" => Generator::HeldOut,
            other => {
                let what = format!("there is no generator {other:?}");
                return Err(Error::config("--generator", what, "use main or held-out"));
            }
        };
        if self.seeds == 0 || self.seeds > 100 {
            return Err(Error::config("--seeds", format!("is {}", self.seeds), "use 1 to 100"));
        }
        if self.figure.is_some() && !self.sweep && claim.figures(&Table::default()).is_empty() {
            let what = format!("{} has no figure of its variants", claim.name());
            return Err(Error::config("--figure", what, "use --sweep for its curves, or --report for a page"));
        }
        let choice: DeviceChoice = common.device.parse()?;
        let (probe, why) = backend::open(&choice, common.threads, common.precision.into())?;
        output::note(common, why);
        // On the CPU a job a core beats a job on all cores; a GPU takes one at a time.
        let on_cpu = probe.ctx().target == crate::engine::op::Target::Cpu;
        let (jobs, threads) = if on_cpu { (probe.ctx().threads, 1) } else { (1, common.threads) };
        let device = probe.name();
        // On the CPU numbers do not depend on the threads, of which the name tells.
        let of_device = if on_cpu { "cpu" } else { device.as_str() };
        let arithmetic = format!("{of_device} {:?}", common.precision);
        drop(probe);
        let choice = if on_cpu { DeviceChoice::Cpu } else { choice };
        let alone = || Ok(backend::open(&choice, common.threads, common.precision.into())?.0);
        let beside = || Ok(backend::open(&choice, threads, common.precision.into())?.0);
        std::fs::create_dir_all(&self.out).map_err(Error::io("create", &self.out))?;
        let change = |variant: &mut Variant| settings::change(&self.settings, variant);
        let request = Request {
            seeds: self.seeds,
            seed_base: self.seed_base,
            generator,
            effort: if self.quick { Effort::Quick } else { Effort::Full },
            only: &self.only,
            sweep: self.sweep,
            change: if self.settings.is_empty() { None } else { Some(&change) },
            settings: &self.settings,
            cache: &self.out,
            device: &device,
            arithmetic: &arithmetic,
            jobs,
        };
        let bar = progress::bar(common, claim.name(), 1);
        let told = |done: usize, all: usize, name: &str| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_string());
        };
        let outcome = run(claim, &request, Open { alone: &alone, beside: &beside }, &told, &STOP)?;
        bar.finish_and_clear();
        let told = Told { claim, outcome: &outcome };
        if let Some(path) = &self.report {
            told.report().write(path)?;
        }
        if let Some(path) = &self.figure {
            write_whole(path, told.svg().as_bytes())?;
        }
        output::result(common, &outcome, || told.text())?;
        if outcome.holds() {
            return Ok(());
        }
        let failed = outcome.bars.iter().filter(|b| b.holds == Some(false)).count();
        let what = format!("{failed} of its bars failed");
        Err(Error::config(claim.name(), what, "the table says which; docs/claims.md what was tried"))
    }
}

fn find(name: &str) -> Result<&'static dyn Claim> {
    CLAIMS.iter().copied().find(|c| c.name() == name).ok_or_else(|| {
        let names: Vec<&str> = CLAIMS.iter().map(|c| c.name()).collect();
        Error::config("claims", format!("there is no claim {name:?}"), format!("use one of {}", names.join(", ")))
    })
}
