//! `bench`: how fast ops, scoring and training steps are on a device, beside what the device could do.

mod dump;
mod ops;
mod profile;
mod scoring;
mod sizes;
mod step;

use super::Common;
use crate::error::Result;
use clap::{Args, Subcommand};

/// Time ops, all-pairs scoring or a whole training step.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  moviola bench                                        all ops
  moviola bench ops --op linear --json                 one op, for a script
  moviola bench scoring --texts 1000 --videos 1000     all pairs, beside their matrix product alone
  moviola bench step --model token-interaction         a training step
  moviola bench step --profile                         where its time goes"
)]
pub struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    ops: ops::Ops,
}

#[derive(Subcommand)]
enum What {
    Ops(ops::Ops),
    Scoring(scoring::Scoring),
    Step(step::Step),
}

impl Bench {
    pub fn run(&self, common: &Common) -> Result<()> {
        match &self.what {
            None => self.ops.run(common),
            Some(What::Ops(c)) => c.run(common),
            Some(What::Scoring(c)) => c.run(common),
            Some(What::Step(c)) => c.run(common),
        }
    }
}

/// Seconds that this process has kept cores busy, where the system tells (Linux).
fn cpu_seconds() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = tasks.map(|task| {
        let told = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<f64>().ok()
    });
    Some(nanoseconds.sum::<Option<f64>>()? / 1e9)
}
