//! `doctor`: what this machine can do, what is missing and how to get it.

use super::{Common, device, output, progress};
use crate::engine::backend::{self, DeviceInfo};
use crate::engine::check::{self, Finding};
use crate::engine::op::{Class, OPS};
use crate::error::{Error, Result, bytes};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

mod samples;

/// Say which devices there are, what is missing and how to get it; on request, whether one computes right.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola doctor --json
  moviola doctor --check --device wgpu       every op on this device against its f64 reference
  moviola doctor --dump-samples contrast DIR an op's samples and what its f64 reference makes of them, as .npy")]
pub struct Doctor {
    /// Run every op's samples on the device and compare with f64 references.
    #[arg(long)]
    check: bool,
    /// Only small samples: seconds instead of minutes on slow devices.
    #[arg(long, requires = "check")]
    tiny: bool,
    /// Write an op's small samples and what its f64 reference makes of them, for a second opinion from elsewhere.
    #[arg(long, num_args = 2, value_names = ["OP", "DIR"], conflicts_with = "check")]
    dump_samples: Option<Vec<PathBuf>>,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    threads: usize,
    features: Vec<&'static str>,
    devices: Vec<DeviceInfo>,
}

impl Doctor {
    pub fn run(&self, common: &Common) -> Result<()> {
        if self.check {
            return self.check(common);
        }
        if let Some([op, dir]) = self.dump_samples.as_deref() {
            return dump(common, &op.to_string_lossy(), dir);
        }
        let findings = Findings {
            version: env!("CARGO_PKG_VERSION"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: [
                ("cli", cfg!(feature = "cli")),
                ("cuda", cfg!(feature = "cuda")),
                ("wgpu", cfg!(feature = "wgpu")),
            ]
            .into_iter()
            .filter_map(|(name, on)| on.then_some(name))
            .collect(),
            devices: backend::devices(),
        };
        output::result(common, &findings, || told(&findings))
    }

    fn check(&self, common: &Common) -> Result<()> {
        let mut backend = device::open(common)?;
        let largest = if self.tiny { Class::Tiny } else { Class::Full };
        let bar = progress::bar(common, "check", OPS.len() as u64);
        let mut report = Report { device: backend.name(), checked: 0, ops: vec![], failures: vec![] };
        for op in OPS {
            bar.set_message(op.name());
            let mut line = OpReport { op: op.name(), checked: 0, failed: 0, worst_share_of_tolerance: 0.0 };
            check::all(backend.as_mut(), &[*op], largest, |f| line.take(f, &mut report.failures));
            report.checked += line.checked;
            report.ops.push(line);
            bar.inc(1);
        }
        bar.finish_and_clear();
        output::result(common, &report, || checked(&report))?;
        if report.failures.is_empty() {
            return Ok(());
        }
        let what = format!("{} of {} samples disagree with their references", report.failures.len(), report.checked);
        Err(Error::device(report.device, what, "do not trust what it computes; update its driver, or use --device cpu"))
    }
}

fn dump(common: &Common, op: &str, dir: &Path) -> Result<()> {
    let samples = samples::dump(op, dir)?;
    let dir = dir.display();
    output::result(common, &serde_json::json!({ "op": op, "samples": samples, "dir": dir.to_string() }), || {
        format!("{samples} samples of {op} are in {dir}")
    })
}

/// How the samples of all ops did.
#[derive(Serialize)]
struct Report {
    device: String,
    checked: usize,
    ops: Vec<OpReport>,
    failures: Vec<Finding>,
}

#[derive(Serialize)]
struct OpReport {
    op: &'static str,
    checked: usize,
    failed: usize,
    /// The largest error over the error allowed, among samples that ran.
    worst_share_of_tolerance: f64,
}

impl OpReport {
    fn take(&mut self, f: Finding, failures: &mut Vec<Finding>) {
        self.checked += 1;
        let share = f.error.map_or(0.0, |e| e / f.tolerance);
        self.worst_share_of_tolerance = self.worst_share_of_tolerance.max(share);
        if !f.passed {
            self.failed += 1;
            failures.push(f);
        }
    }
}

fn checked(r: &Report) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["op", "runs", "failed", "largest error, % of what is allowed"]);
    for o in &r.ops {
        let share = format!("{:.1}", 100.0 * o.worst_share_of_tolerance);
        table.add_row([o.op.to_string(), o.checked.to_string(), o.failed.to_string(), share]);
    }
    let mut lines = vec![table.to_string()];
    lines.extend(r.failures.iter().map(|f| format!("✗ {f}")));
    let agree = r.checked - r.failures.len();
    lines.push(format!("{}: {agree} of {} runs agree with the f64 references", r.device, r.checked));
    lines.join("\n")
}

fn told(f: &Findings) -> String {
    let mut lines =
        vec![format!("moviola {} · {} threads · features: {}", f.version, f.threads, f.features.join(", "))];
    for d in &f.devices {
        let mark = if d.available { "✓" } else { "✗" };
        let memory = d.memory.map_or(String::new(), |m| format!(", {}", bytes(m)));
        lines.push(format!("{mark} {:<8} {}{memory}", d.id, d.description));
        if let Some(advice) = &d.advice {
            lines.push(format!("           → {advice}"));
        }
    }
    lines.join("\n")
}
