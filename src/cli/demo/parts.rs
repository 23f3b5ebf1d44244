//! What the pages and the terminal show of both worlds.

use super::Trained;
use crate::eval::{Direction, Metrics, Retrieval};
use crate::picture::bars::Value;
use crate::picture::{Bars, Curves};
use crate::train::log::Line;
use comfy_table::{CellAlignment, Table};

const DIRECTIONS: [Direction; 2] = [Direction::T2v, Direction::V2t];

/// A table for a terminal, numbers to the right.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(head).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// R@1 in both directions.
pub fn recalls(retrieval: &Retrieval) -> [f64; 2] {
    let first = |m: Option<Metrics>| m.map_or(f64::NAN, |m| m.recall_at_1);
    [first(retrieval.t2v), first(retrieval.v2t)]
}

/// The protocol of all numbers.
pub fn protocol(models: &[Trained]) -> String {
    let first = models.iter().flat_map(|m| &m.tests).next();
    first.map(|t| t.retrieval.protocol.to_string()).unwrap_or_default()
}

/// How the models were trained.
pub fn training(models: &[Trained], videos: usize) -> String {
    models.first().map_or(String::new(), |m| {
        let o = &m.options;
        format!("{videos} training videos, {} epochs of batches of {}, seed {}", o.epochs, o.batch, o.seed)
    })
}

/// How long training took.
pub fn times(models: &[Trained]) -> String {
    let times: Vec<String> = models.iter().map(|m| format!("{} {:.0} s", m.model, m.training_seconds)).collect();
    format!("Training took: {}.", times.join(", "))
}

/// R@1 of each test in both directions, a group each.
pub fn bars(models: &[Trained]) -> Bars {
    let tests = models.first().map_or(&[][..], |m| &m.tests);
    let groups = DIRECTIONS.iter().flat_map(|d| {
        let way = if *d == Direction::T2v { "text to video" } else { "video to text" };
        tests.iter().map(move |test| format!("{}\n{way}", test.called))
    });
    let mut bars = Bars::new("Who puts the right one first", "R@1 (%)", groups.collect());
    bars = bars.range(0.0, 100.0).size(880.0, 360.0);
    for m in models {
        let values = DIRECTIONS.iter().flat_map(|d| m.tests.iter().map(move |t| recall(&t.retrieval, *d)));
        bars = bars.series(m.model, values.collect());
    }
    bars
}

fn recall(retrieval: &Retrieval, direction: Direction) -> Value {
    let interval = &retrieval.protocol.recall_interval;
    let (metrics, interval) = match direction {
        Direction::T2v => (retrieval.t2v, interval.t2v),
        Direction::V2t => (retrieval.v2t, interval.v2t),
    };
    (metrics.map_or(f64::NAN, |m| m.recall_at_1), interval)
}

/// R@1 on validation videos as training goes on.
pub fn validation(models: &[Trained]) -> Curves {
    let point = |line: &Line| match line {
        Line::Validation { step, recall_at_1, .. } => Some((*step as f64, *recall_at_1)),
        Line::Step { .. } | Line::Gate { .. } => None,
    };
    let curves = Curves::new("Validation", "step", "mean R@1 (%)").size(760.0, 300.0);
    models.iter().fold(curves, |curves, m| curves.series(m.model, m.log.iter().filter_map(point).collect()))
}

/// The losses of all models.
pub fn losses(models: &[Trained]) -> Curves {
    let curves = Curves::new("Training", "step", "loss (nats)").size(760.0, 300.0);
    models.iter().fold(curves, |curves, m| curves.series(m.model, loss(&m.log)))
}

/// The loss of a run at each of its steps.
pub fn loss(log: &[Line]) -> Vec<(f64, f64)> {
    let point = |line: &Line| match line {
        Line::Step { step, loss, .. } => Some((*step as f64, f64::from(*loss))),
        Line::Gate { .. } | Line::Validation { .. } => None,
    };
    log.iter().filter_map(point).collect()
}
