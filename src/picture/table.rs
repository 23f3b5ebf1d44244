//! The table of the field, for a page and for a terminal.

use super::svg::clean;
use crate::eval::{Metrics, Retrieval};
use comfy_table::{Cell, CellAlignment, Table};
use maud::{Markup, html};

const HEAD: [&str; 2] = ["direction", "ties"];

/// One line of the table; `ours` are the numbers under the rule in force.
struct Line {
    direction: &'static str,
    rule: &'static str,
    ours: bool,
    metrics: Metrics,
}

/// Ours first, CLIP4Clip's way of counting beside it, for each direction.
fn lines(result: &Retrieval) -> Vec<Line> {
    let ours = result.protocol.tie_rule.name();
    let clip = result.clip4clip();
    let sides = [("t2v", result.t2v, clip.and_then(|c| c.t2v)), ("v2t", result.v2t, clip.and_then(|c| c.v2t))];
    sides
        .into_iter()
        .flat_map(|(direction, own, other)| {
            let line = |rule, ours| move |metrics| Line { direction, rule, ours, metrics };
            [own.map(line(ours, true)), other.map(line("clip4clip", false))]
        })
        .flatten()
        .collect()
}

/// Names and values of a block, recalls in percent.
fn columns(metrics: &Metrics) -> Vec<(&'static str, f64)> {
    let deep = metrics.recall_at_50.map(|value| ("R@50", value));
    let recalls = [("R@1", metrics.recall_at_1), ("R@5", metrics.recall_at_5), ("R@10", metrics.recall_at_10)];
    let ranks = [("MdR", metrics.median_rank), ("MnR", metrics.mean_rank), ("Rsum", metrics.recall_sum)];
    recalls.into_iter().chain(deep).chain(ranks).collect()
}

fn names(lines: &[Line]) -> Vec<&'static str> {
    let columns = lines.first().map(|line| columns(&line.metrics)).unwrap_or_default();
    HEAD.into_iter().chain(columns.into_iter().map(|(name, _)| name)).collect()
}

/// The table as HTML; put [`crate::eval::Protocol`]'s line under it.
pub fn html(result: &Retrieval) -> Markup {
    let lines = lines(result);
    html! {
        table {
            thead { tr { @for name in names(&lines) { th { (name) } } } }
            tbody {
                @for line in &lines {
                    tr class=[(!line.ours).then_some("other")] {
                        td { (line.direction) }
                        td { (line.rule) }
                        @for (_, value) in columns(&line.metrics) { td { (format!("{value:.1}")) } }
                    }
                }
            }
        }
    }
}

/// The table for a terminal, the protocol printed under it.
pub fn terminal(result: &Retrieval) -> String {
    let lines = lines(result);
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(names(&lines));
    for line in &lines {
        let numbers = columns(&line.metrics).into_iter().map(|(_, value)| Cell::new(format!("{value:.1}")));
        table.add_row([Cell::new(line.direction), Cell::new(line.rule)].into_iter().chain(numbers));
    }
    for column in table.column_iter_mut().skip(HEAD.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n{}", result.protocol)
}

/// Any table as HTML: names, of several lines perhaps, then rows of cells.
pub fn plain(head: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        table {
            thead { tr { @for name in head {
                th { @for (i, line) in name.lines().enumerate() { @if i > 0 { br; } (clean(line)) } }
            } } }
            tbody { @for row in rows { tr { @for cell in row { td { (clean(cell)) } } } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{CaptionMode, Directions, Matrix, Relevance, Setting, TieRule, count};
    use crate::picture::svg::check::well_formed;

    fn result(setting: Setting) -> Retrieval {
        let matrix = Matrix::new(3, 3, vec![0.5; 9]).unwrap();
        let counts = count(&matrix, Relevance::one_to_one(3).unwrap(), CaptionMode::Single, Directions::Both).unwrap();
        Retrieval::new(&counts, &setting).unwrap()
    }

    #[test]
    fn ours_stands_beside_clip4clip_with_the_protocol_below() {
        let text = terminal(&result(Setting { deep: true, seed: Some(5), ..Setting::new("cpu") }));
        for part in
            ["t2v", "v2t", "expected", "clip4clip", "R@1 ", "R@50", "Rsum", "33.3", "seed 5", "no post-processing"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.trim_end().ends_with("device: cpu"), "{text}");
    }

    #[test]
    fn the_page_has_a_cell_for_every_number() {
        let markup = html(&result(Setting::new("cpu"))).into_string();
        well_formed(&markup);
        assert_eq!((markup.matches("<tr").count(), markup.matches("<td").count()), (5, 4 * 8));
        let only = html(&result(Setting { tie_rule: TieRule::Clip4clip, ..Setting::new("cpu") })).into_string();
        assert_eq!(only.matches("<tr").count(), 3);
        let any = plain(&["model", "a\n<R>"], &[vec!["a & b".into(), "1".into()]]).into_string();
        let text = well_formed(&any);
        assert!(text.contains("&lt;R&gt;") && text.contains("a &amp; b"), "{text}");
    }
}
