//! How a claim came out, for people: lines on a terminal, a page, figures.

use crate::claims::bars::Summary;
use crate::claims::figures::{self, Axis, Spread};
use crate::claims::run::Swept;
use crate::claims::{Claim, Effort, Outcome, figures::Figure};
use crate::data::worlds::Generator;
use crate::picture::points::{Across, Mark};
use crate::picture::{self, Points, Report};
use comfy_table::CellAlignment;

pub struct Told<'a> {
    pub claim: &'static dyn Claim,
    pub outcome: &'a Outcome,
}

/// A table as cells.
struct Cells {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Told<'_> {
    /// The tables and the bars as people read them on a terminal.
    pub fn text(&self) -> String {
        let tables: Vec<String> = self.tables().iter().map(Cells::text).collect();
        let mut lines = vec![self.outcome.says.clone(), self.circumstances(), tables.join("\n\n")];
        for [mark, value, says, needs] in self.bars() {
            lines.push(format!("{mark:<5}  {value:>20}  {says}  ({needs})"));
        }
        lines.extend(self.unjudged().map(str::to_string));
        lines.join("\n")
    }

    /// The same on a page, with figures.
    pub fn report(&self) -> Report {
        let about = format!("{}\n{}", self.outcome.says, self.circumstances());
        let mut report = Report::new(format!("Claim: {}", self.outcome.claim)).text(about);
        for table in self.tables() {
            let head: Vec<&str> = table.head.iter().map(String::as_str).collect();
            report = report.table(picture::table::plain(&head, &table.rows), "");
        }
        let bars: Vec<Vec<String>> =
            self.bars().into_iter().map(|[mark, value, says, needs]| vec![says, value, needs, mark]).collect();
        if !bars.is_empty() {
            let table = picture::table::plain(&["what has to hold", "value", "needed", ""], &bars);
            report = report.section("Bars").table(table, "");
        }
        report = self.unjudged().into_iter().fold(report, Report::text);
        let figures = self.figures();
        if !figures.is_empty() {
            report = report.section("Figures");
        }
        figures.iter().fold(report, |report, figure| {
            let mut caption = figure.caption.clone();
            if self.outcome.seeds.len() > 1 {
                caption = format!("{caption} Lines through points: ± sd over {} seeds.", self.outcome.seeds.len());
            }
            report.figure(drawn(figure).svg(), caption.trim())
        })
    }

    /// The figures below each other.
    pub fn svg(&self) -> String {
        let figures: Vec<picture::Figure> = self.figures().iter().map(drawn).collect();
        picture::Figure::column("", &figures).svg()
    }

    fn figures(&self) -> Vec<Figure> {
        let (claim, outcome) = (self.claim, self.outcome);
        if outcome.sweeps.is_empty() {
            return claim.figures(&outcome.table);
        }
        outcome.sweeps.iter().map(|sweep| figures::swept(sweep, claim.percents(), &outcome.table)).collect()
    }

    fn circumstances(&self) -> String {
        let generator = match self.outcome.generator {
            Generator::Main => "main",
            Generator::HeldOut => "held-out",
        };
        let (base, device) = (self.outcome.seed_base, &self.outcome.device);
        let mut effort = if self.outcome.quick { "; quick: its numbers prove nothing".into() } else { String::new() };
        if !self.outcome.settings.is_empty() {
            effort = format!("; with {}{effort}", self.outcome.settings.join(", "));
        }
        match self.outcome.seeds.len() {
            1 => format!("1 seed from base {base}, {generator} generator, {device}{effort}"),
            n => format!("{n} seeds from base {base}, {generator} generator, {device}; mean ± sd{effort}"),
        }
    }

    /// Mark, value, what it says, what it needs.
    fn bars(&self) -> Vec<[String; 4]> {
        let one = |bar: &crate::claims::Judged| {
            let mark = bar.holds.map_or("", |holds| if holds { "holds" } else { "FAILS" });
            // Recalls need one decimal, shares between 0 and 1 more.
            let digits = if bar.mean.is_some_and(|m| m.abs() < 2.0) { 2 } else { 1 };
            let value = bar.mean.map_or("–".into(), |m| match (bar.sd, bar.half_interval) {
                (Some(sd), _) => format!("{m:.digits$} ± {sd:.digits$}"),
                (None, Some(half)) => format!("{m:.digits$} (95 %: ± {half:.digits$})"),
                (None, None) => format!("{m:.digits$}"),
            });
            [mark.into(), value, bar.says.clone(), bar.needs.clone()]
        };
        self.outcome.bars.iter().map(one).collect()
    }

    /// Why there are no bars, where there are none.
    fn unjudged(&self) -> Option<&'static str> {
        let outcome = self.outcome;
        if !outcome.bars.is_empty() {
            None
        } else if self.claim.bars().is_empty() {
            Some("nothing here is judged: this claim measures and has no bars")
        } else if !outcome.settings.is_empty() {
            Some("not judged: bars are for the claim's own settings")
        } else if outcome.seeds.len() < 2 {
            Some("not judged: one seed says nothing about the next")
        } else {
            Some("not judged: bars are for all variants with full effort")
        }
    }

    fn tables(&self) -> Vec<Cells> {
        let (claim, outcome) = (self.claim, self.outcome);
        if outcome.sweeps.is_empty() {
            let variants = claim.variants(Effort::Full);
            let known = variants.iter().filter(|v| outcome.table.variants.contains_key(&v.name));
            let rows: Vec<_> = known.map(|v| (v.name.clone(), v.name.as_str())).collect();
            return vec![self.cells("variant", &rows)];
        }
        let one = |sweep: &Swept| {
            let rows: Vec<_> = sweep.points.iter().map(|(value, name)| (value.to_string(), name.as_str())).collect();
            self.cells(&format!("{}, {}", sweep.of, sweep.over), &rows)
        };
        outcome.sweeps.iter().map(one).collect()
    }

    /// Rows (what they are called, the variant they show) with the claim's columns.
    fn cells(&self, head: &str, rows: &[(String, &str)]) -> Cells {
        let columns = self.claim.columns();
        let mut out: Vec<Vec<String>> = rows.iter().map(|(called, _)| vec![called.clone()]).collect();
        for column in columns {
            let values: Vec<Vec<f64>> =
                rows.iter().map(|(_, variant)| self.outcome.table.values(variant, column)).collect();
            let largest = values.iter().flatten().filter(|v| v.is_finite()).fold(0.0, |most: f64, v| most.max(v.abs()));
            let digits = if self.claim.percents().contains(column) { 1 } else { digits(largest) };
            for (row, values) in out.iter_mut().zip(&values) {
                let s = Summary::of(values);
                row.push(match values.len() {
                    0 => "–".into(),
                    // What no seed changes has no deviation.
                    _ if s.sd == 0.0 => format!("{:.digits$}", s.mean),
                    _ => format!("{:.digits$} ± {:.digits$}", s.mean, s.sd),
                });
            }
        }
        Cells { head: [head].into_iter().chain(columns.iter().copied()).map(str::to_string).collect(), rows: out }
    }
}

/// Digits behind the point of a column whose largest value is this.
fn digits(largest: f64) -> usize {
    match largest {
        x if x < 1.5 => 3,
        x if x < 10.0 => 2,
        x if x < 10_000.0 => 1,
        _ => 0,
    }
}

impl Cells {
    fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(&self.head);
        table.add_rows(&self.rows);
        table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
        table.to_string()
    }
}

fn drawn(figure: &Figure) -> picture::Figure {
    let across = match figure.axis {
        Axis::Linear => Across::Linear,
        Axis::Log => Across::Log,
        Axis::Even => Across::Even,
    };
    let mut points = Points::new(&figure.title, &figure.x_label, &figure.y_label).across(across);
    if figure.joined {
        points = points.joined();
    }
    for series in &figure.series {
        let mark = |Spread { mean: x, sd: x_sd }: Spread, Spread { mean: y, sd: y_sd }: Spread, label: &str| Mark {
            at: (x, y),
            sd: (x_sd, y_sd),
            label: label.into(),
        };
        points = points.series(&series.name, series.points.iter().map(|p| mark(p.x, p.y, &p.label)).collect());
    }
    let place = |&(series, point): &(usize, usize)| {
        let point = figure.series.get(series)?.points.get(point)?;
        Some((point.x.mean, point.y.mean))
    };
    points.frontier(figure.frontier.iter().filter_map(place).collect()).figure()
}
