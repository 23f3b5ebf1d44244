//! `doctor`: what this machine can do, what is missing and how to get it.

use super::{Common, output};
use crate::engine::backend::{self, DeviceInfo};
use crate::error::{Result, bytes};
use clap::Args;
use serde::Serialize;

/// Say which devices there are, what is missing and how to get it.
#[derive(Args)]
#[command(after_help = "Example:\n  moviola doctor --json")]
pub struct Doctor {}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    threads: usize,
    features: Vec<&'static str>,
    devices: Vec<DeviceInfo>,
}

impl Doctor {
    pub fn run(&self, common: &Common) -> Result<()> {
        let findings = Findings {
            version: env!("CARGO_PKG_VERSION"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: [("cli", cfg!(feature = "cli")), ("wgpu", cfg!(feature = "wgpu"))]
                .into_iter()
                .filter_map(|(name, on)| on.then_some(name))
                .collect(),
            devices: backend::devices(),
        };
        output::result(common, &findings, || told(&findings))
    }
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
