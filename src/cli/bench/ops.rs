//! `bench ops`: every op alone, beside the roofline that was measured in the same run.

use super::super::{Common, device, output, progress};
use crate::engine::backend::Backend;
use crate::engine::bench::{Measured, Roofline, measure, roofline};
use crate::engine::op::{Class, OPS, Sample};
use crate::error::{Error, Result};
use clap::Args;
use serde::Serialize;

/// Time ops: milliseconds, bytes, FLOPs and the share of the measured roofline.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola bench ops                       all ops
  moviola bench ops --op linear --json    one op, for a script")]
pub struct Ops {
    /// Only ops whose name holds this.
    #[arg(long, value_name = "NAME", default_value = "")]
    op: String,
    /// Runs of which the median is taken.
    #[arg(long, default_value_t = 7)]
    runs: usize,
}

#[derive(Serialize)]
struct Table {
    device: String,
    roofline: Roofline,
    ops: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    op: String,
    sample: String,
    #[serde(flatten)]
    measured: Measured,
    /// Share of what the roofline allows, in percent.
    percent_of_roofline: f64,
}

impl Ops {
    pub fn run(&self, common: &Common) -> Result<()> {
        let mut backend = device::open(common)?;
        let chosen: Vec<(&str, Sample)> = (OPS.iter())
            .filter(|op| op.name().contains(&self.op))
            .filter_map(|op| largest(op.samples()).map(|s| (op.name(), s)))
            .collect();
        if chosen.is_empty() {
            let fix = "give a part of the name of one; without --op all are timed";
            return Err(Error::config("--op", format!("no op's name contains {:?}", self.op), fix));
        }
        if self.runs == 0 {
            return Err(Error::config("--runs", "is 0", "take one or more"));
        }
        let bar = progress::bar(common, "bench", chosen.len() as u64);
        let limit = roofline(backend.as_mut(), self.runs)?;
        let mut ops = vec![];
        for (name, sample) in &chosen {
            bar.set_message(name.to_string());
            ops.push(self.line(backend.as_mut(), name, sample, &limit)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let table = Table { device: backend.name(), roofline: limit, ops };
        output::result(common, &table, || told(&table))
    }

    fn line(&self, backend: &mut dyn Backend, op: &str, sample: &Sample, limit: &Roofline) -> Result<Line> {
        let measured = measure(backend, sample, self.runs)?;
        let percent = 100.0 * limit.seconds(&measured) / measured.seconds.max(1e-12);
        Ok(Line { op: op.into(), sample: sample.name.clone(), measured, percent_of_roofline: percent })
    }
}

/// The sample made for benchmarks, or else the one with the most work.
fn largest(samples: Vec<Sample>) -> Option<Sample> {
    samples.into_iter().max_by_key(|s| (s.class == Class::Bench, s.ins.iter().map(|t| t.elements()).sum::<usize>()))
}

fn told(t: &Table) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["op", "sample", "ms", "MB", "GFLOP", "GB/s", "GFLOP/s", "% of roofline"]);
    for l in &t.ops {
        let (ms, bytes, flops) = (l.measured.seconds * 1e3, l.measured.bytes as f64, l.measured.flops as f64);
        table.add_row([
            l.op.clone(),
            l.sample.clone(),
            format!("{ms:.3}"),
            format!("{:.2}", bytes / 1e6),
            format!("{:.3}", flops / 1e9),
            format!("{:.1}", bytes / 1e6 / ms),
            format!("{:.1}", flops / 1e6 / ms),
            format!("{:.0}", l.percent_of_roofline),
        ]);
    }
    format!(
        "{table}\n{}; measured roofline {:.1} GB/s, {:.1} GFLOP/s; medians",
        t.device, t.roofline.gigabytes_per_second, t.roofline.gigaflops
    )
}
