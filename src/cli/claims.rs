//! `claims`: experiments that could refute what the papers claim.

use super::{Common, STOP, output, progress, settings};
use crate::claims::bars::Summary;
use crate::claims::run::Swept;
use crate::claims::{CLAIMS, Claim, Effort, Outcome, Request, Variant, run};
use crate::data::worlds::Generator;
use crate::engine::backend::{self, DeviceChoice};
use crate::error::{Error, Result};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use std::path::PathBuf;

/// Run the experiment behind a claim: variants on fresh seeds, a table, and the bars it has to clear.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola claims spurious-background                    five seeds, all variants, bars
  moviola claims spurious-background --quick            that it runs, in a minute; proves nothing
  moviola claims spurious-background --seed-base 77 --generator held-out --json
  moviola claims spurious-background --only cba,token-interaction --seeds 2
  moviola claims spurious-background --sweep --seeds 1     a table for each setting
  moviola claims factors --only cba --set routing.rank=32 --set train.epochs=8 --set world.noise=1

Results are kept by variant and seed in --out: a run that was stopped goes on where it was. The exit status is not 0
when a bar fails.")]
pub struct Claims {
    /// spurious-background, factors or temporal-order.
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
        let choice: DeviceChoice = common.device.parse()?;
        let (probe, why) = backend::open(&choice, common.threads, common.precision.into())?;
        output::note(common, why);
        // On the CPU a job a core beats a job on all cores; a GPU takes one at a time.
        let on_cpu = probe.ctx().target == crate::engine::op::Target::Cpu;
        let (jobs, threads) = if on_cpu { (probe.ctx().threads, 1) } else { (1, common.threads) };
        let device = probe.name();
        drop(probe);
        let choice = if on_cpu { DeviceChoice::Cpu } else { choice };
        let open = || Ok(backend::open(&choice, threads, common.precision.into())?.0);
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
            cache: &self.out,
            device: &device,
            jobs,
        };
        let bar = progress::bar(common, claim.name(), 1);
        let told = |done: usize, all: usize, name: &str| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_string());
        };
        let outcome = run(claim, &request, &open, &told, &STOP)?;
        bar.finish_and_clear();
        output::result(common, &outcome, || text(claim, &outcome))?;
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

/// The table and the bars as people read them.
fn text(claim: &dyn Claim, outcome: &Outcome) -> String {
    let tables = if outcome.sweeps.is_empty() {
        let mut rows: Vec<(String, &str)> = vec![];
        for variant in claim.variants(Effort::Full) {
            if let Some((name, _)) = outcome.table.variants.get_key_value(&variant.name) {
                rows.push((name.clone(), name));
            }
        }
        vec![table("variant", &rows, claim, outcome)]
    } else {
        let one = |sweep: &Swept| {
            let rows: Vec<_> = sweep.points.iter().map(|(value, name)| (value.to_string(), name.as_str())).collect();
            table(&format!("{}, {}", sweep.of, sweep.over), &rows, claim, outcome)
        };
        outcome.sweeps.iter().map(one).collect()
    };
    let generator = match outcome.generator {
        Generator::Main => "main",
        Generator::HeldOut => "held-out",
    };
    let (seeds, base) = (outcome.seeds.len(), outcome.seed_base);
    let mut lines = vec![
        outcome.says.clone(),
        format!("{seeds} seeds from base {base}, {generator} generator, {}; mean ± sd", outcome.device),
        tables.join("\n\n"),
    ];
    for bar in &outcome.bars {
        let mark = match bar.holds {
            Some(true) => "holds",
            Some(false) => "FAILS",
            None => "     ",
        };
        let value =
            bar.mean.map_or("–".into(), |mean| plus_minus(Summary { mean, sd: bar.sd, ..Summary::default() }));
        lines.push(format!("{mark}  {value:>12}  {}  ({})", bar.says, bar.needs));
    }
    if outcome.bars.is_empty() {
        lines.push("not judged: bars are for all variants with full effort".into());
    }
    lines.join("\n")
}

/// Rows (what they are called, the variant they show) with a claim's columns.
fn table(head: &str, rows: &[(String, &str)], claim: &dyn Claim, outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([head].into_iter().chain(claim.columns().iter().copied()));
    for (called, variant) in rows {
        let mut row = vec![called.clone()];
        for column in claim.columns() {
            let values = outcome.table.values(variant, column);
            let s = Summary::of(&values);
            row.push(if values.is_empty() { "–".into() } else { plus_minus(s) });
        }
        table.add_row(row);
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}

/// Mean and standard deviation; recalls need one decimal, shares and ratios more.
fn plus_minus(s: Summary) -> String {
    let decimals = match s.mean.abs() {
        x if x >= 1000.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{:.decimals$} ± {:.decimals$}", s.mean, s.sd)
}
