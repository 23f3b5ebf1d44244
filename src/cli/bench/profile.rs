//! Where the time of a plan goes: every command alone, summed by op.

use super::median;
use crate::engine::scheduler::executor::Executor;
use crate::engine::scheduler::plan::{Command, Plan};
use crate::engine::tensor::Counts;
use crate::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// One node of a plan with all of its launches.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub op: String,
    /// Attributes of the op, or nothing for copies and fills.
    pub attributes: String,
    /// Median time of all launches of this node.
    pub milliseconds: f64,
    pub flops: u64,
}

/// Times the commands of `plan`, which `executor` has loaded by [`Plan::apart`], in their order, `runs` times.
pub fn profile(executor: &mut Executor, plan: &Plan, counts: Counts, runs: usize) -> Result<Vec<Line>> {
    let mut times = vec![vec![]; plan.commands.len()];
    for _ in 0..runs.max(1) {
        for (i, times) in times.iter_mut().enumerate() {
            let begun = Instant::now();
            executor.compute(i, counts)?;
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let mut lines: Vec<(Option<u32>, Line)> = vec![];
    for (command, times) in plan.commands.iter().zip(times) {
        let milliseconds = 1e3 * median(times);
        let (node, line) = line(plan, command, milliseconds);
        match lines.last_mut() {
            Some((last, before)) if node.is_some() && *last == node => before.milliseconds += milliseconds,
            _ => lines.push((node, line)),
        }
    }
    Ok(lines.into_iter().map(|l| l.1).collect())
}

fn line(plan: &Plan, command: &Command, milliseconds: f64) -> (Option<u32>, Line) {
    let other = |op: &str| (None, Line { op: op.into(), attributes: String::new(), milliseconds, flops: 0 });
    match command {
        Command::Copy { .. } => other("copy"),
        Command::Fill { .. } => other("fill"),
        Command::Launch(l) => match plan.ops.get(&l.node) {
            None => other(l.kernel.name),
            Some(info) => {
                let (attributes, flops) = (info.attributes.clone(), info.cost.flops);
                (Some(l.node), Line { op: info.op.into(), attributes, milliseconds, flops })
            }
        },
    }
}

/// A table of the sums by op and one of the nodes that take at least a hundredth.
pub fn told(lines: &[Line]) -> String {
    let total: f64 = lines.iter().map(|l| l.milliseconds).sum();
    let mut sums: BTreeMap<&str, (usize, f64, u64)> = BTreeMap::new();
    for l in lines {
        let sum = sums.entry(&l.op).or_default();
        *sum = (sum.0 + 1, sum.1 + l.milliseconds, sum.2 + l.flops);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut by_op = table(["op", "nodes", "ms", "% of all", "GFLOP/s"]);
    for (op, (nodes, ms, flops)) in sums {
        by_op.add_row(row(op.into(), nodes.to_string(), ms, total, flops));
    }
    let mut by_node = table(["op", "attributes", "ms", "% of all", "GFLOP/s"]);
    for l in lines.iter().filter(|l| l.milliseconds >= total / 100.0) {
        by_node.add_row(row(l.op.clone(), l.attributes.clone(), l.milliseconds, total, l.flops));
    }
    format!("{by_op}\n{by_node}\n{total:.2} ms in all; medians of commands alone")
}

fn table(header: [&str; 5]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

fn row(op: String, what: String, ms: f64, total: f64, flops: u64) -> [String; 5] {
    let share = format!("{:.1}", 100.0 * ms / total.max(1e-9));
    [op, what, format!("{ms:.3}"), share, format!("{:.1}", flops as f64 / 1e6 / ms.max(1e-9))]
}
