//! Where the time of a plan goes: every command alone, summed by op.

use super::cpu_seconds;
use crate::engine::bench::median;
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
    /// Median time of all cores together; 0 where the system does not tell.
    pub cpu_milliseconds: f64,
    pub flops: u64,
}

/// Times the commands of `plan`, which `executor` has loaded by [`Plan::apart`], in their order, `runs` times.
pub fn profile(executor: &mut Executor, plan: &Plan, counts: Counts, runs: usize) -> Result<Vec<Line>> {
    let mut times = vec![(vec![], vec![]); plan.commands.len()];
    for _ in 0..runs.max(1) {
        for (i, times) in times.iter_mut().enumerate() {
            let (begun, worked) = (Instant::now(), cpu_seconds());
            executor.compute(i, counts)?;
            times.0.push(1e3 * begun.elapsed().as_secs_f64());
            times.1.push(cpu_seconds().zip(worked).map_or(0.0, |(end, begin)| 1e3 * (end - begin)));
        }
    }
    let mut lines: Vec<(Option<u32>, Line)> = vec![];
    for (command, (times, cpu_times)) in plan.commands.iter().zip(times) {
        let (milliseconds, cpu_milliseconds) = (median(times), median(cpu_times));
        let (node, line) = line(plan, command);
        let line = Line { milliseconds, cpu_milliseconds, ..line };
        match lines.last_mut() {
            Some((last, before)) if node.is_some() && *last == node => {
                before.milliseconds += milliseconds;
                before.cpu_milliseconds += cpu_milliseconds;
            }
            _ => lines.push((node, line)),
        }
    }
    Ok(lines.into_iter().map(|l| l.1).collect())
}

/// The node that a command belongs to, and its line without times.
fn line(plan: &Plan, command: &Command) -> (Option<u32>, Line) {
    let line = |op: &str| Line {
        op: op.into(),
        attributes: String::new(),
        milliseconds: 0.0,
        cpu_milliseconds: 0.0,
        flops: 0,
    };
    match command {
        Command::Copy { .. } => (None, line("copy")),
        Command::Fill { .. } => (None, line("fill")),
        Command::Launch(l) => match plan.ops.get(&l.node) {
            None => (None, line(l.kernel.name)),
            Some(info) => {
                (Some(l.node), Line { attributes: info.attributes.clone(), flops: info.cost.flops, ..line(info.op) })
            }
        },
    }
}

/// A table of the sums by op and one of the nodes that take at least a hundredth.
pub fn told(lines: &[Line]) -> String {
    let total: f64 = lines.iter().map(|l| l.milliseconds).sum();
    let mut sums: BTreeMap<&str, (usize, Line)> = BTreeMap::new();
    for l in lines {
        let sum = sums
            .entry(&l.op)
            .or_insert_with(|| (0, Line { milliseconds: 0.0, cpu_milliseconds: 0.0, flops: 0, ..l.clone() }));
        sum.0 += 1;
        sum.1.milliseconds += l.milliseconds;
        sum.1.cpu_milliseconds += l.cpu_milliseconds;
        sum.1.flops += l.flops;
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    sums.sort_by(|a, b| b.1.milliseconds.total_cmp(&a.1.milliseconds));
    let mut by_op = table(["op", "nodes", "ms", "% of all", "core ms", "GFLOP/s"]);
    for (nodes, sum) in &sums {
        by_op.add_row(row(sum, nodes.to_string(), total));
    }
    let mut by_node = table(["op", "attributes", "ms", "% of all", "core ms", "GFLOP/s"]);
    for l in lines.iter().filter(|l| l.milliseconds >= total / 100.0) {
        by_node.add_row(row(l, l.attributes.clone(), total));
    }
    format!("{by_op}\n{by_node}\n{total:.2} ms in all; medians of commands alone")
}

fn table(header: [&str; 6]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

fn row(l: &Line, what: String, total: f64) -> [String; 6] {
    let ms = l.milliseconds;
    let share = format!("{:.1}", 100.0 * ms / total.max(1e-9));
    let gigaflops = format!("{:.1}", l.flops as f64 / 1e6 / ms.max(1e-9));
    [l.op.clone(), what, format!("{ms:.3}"), share, format!("{:.3}", l.cpu_milliseconds), gigaflops]
}
