//! One HTML file that needs no network: figures, tables and text with their captions.

use super::svg::clean;
use crate::error::Result;
use crate::eval::file;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::path::Path;

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1f2328;--soft:#59636e;--rule:#d8dee4;--code:#f0f2f5}\
@media (prefers-color-scheme:dark){:root{--page:#0e1013;--card:#16191d;--ink:#e6e9ed;--soft:#9aa4af;--rule:#2b3138;\
--code:#1d2126}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,\
'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',sans-serif}main{max-width:74rem;margin:0 auto;padding:2rem 1.25rem 4rem}\
h1{font-size:1.7rem;line-height:1.25;margin:0 0 1rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}\
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;list-style:none;padding:0;margin:0 0 1rem}a{color:inherit}\
figure{margin:1rem 0;padding:.75rem;background:var(--card);border:1px solid var(--rule);border-radius:8px;overflow-x:auto}\
figure svg{display:block;max-width:100%;height:auto;margin:0 auto}figcaption{color:var(--soft);font-size:.88rem;\
margin:.6rem .25rem 0}p{max-width:46rem;white-space:pre-line}\
pre{background:var(--code);border-radius:8px;padding:.8rem 1rem;overflow-x:auto;font:.85rem/1.45 ui-monospace,\
'DejaVu Sans Mono',monospace}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}\
th,td{padding:.32rem .6rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}thead th{color:var(--soft);font-weight:600}\
tr.other td{color:var(--soft)}@media print{body{background:#fff}figure{break-inside:avoid}}";

enum Part {
    Section(String),
    Figure { svg: String, caption: String },
    Table { table: Markup, caption: String },
    Text(String),
    Code(String),
}

/// A report, put together part by part and written at the end.
pub struct Report {
    title: String,
    parts: Vec<Part>,
}

impl Report {
    pub fn new(title: impl Into<String>) -> Self {
        Report { title: title.into(), parts: Vec::new() }
    }

    /// A heading; it also appears in the list at the top.
    pub fn section(self, heading: impl Into<String>) -> Self {
        self.push(Part::Section(heading.into()))
    }

    /// An SVG document made by this module (it goes in as it is) and what one should see in it.
    pub fn figure(self, svg: impl Into<String>, caption: impl Into<String>) -> Self {
        self.push(Part::Figure { svg: svg.into(), caption: caption.into() })
    }

    /// A table made by [`super::table`] or with `maud`, and the protocol or another line under it.
    pub fn table(self, table: Markup, caption: impl Into<String>) -> Self {
        self.push(Part::Table { table, caption: caption.into() })
    }

    /// A paragraph; line breaks are kept.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.push(Part::Text(text.into()))
    }

    /// A command, a configuration, a plan: in fixed width, as it is.
    pub fn code(self, code: impl Into<String>) -> Self {
        self.push(Part::Code(code.into()))
    }

    fn push(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The whole page.
    pub fn html(&self) -> String {
        let title = clean(&self.title);
        let headings: Vec<(usize, &String)> = self
            .parts
            .iter()
            .enumerate()
            .filter_map(|(i, p)| if let Part::Section(h) = p { Some((i, h)) } else { None })
            .collect();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Whatever the figures hold, the page may load nothing and run nothing.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (title) }
                        @if headings.len() > 2 {
                            nav { ul {
                                @for (number, heading) in &headings {
                                    li { a href=(format!("#part-{number}")) { (clean(heading)) } }
                                }
                            } }
                        }
                        @for (number, part) in self.parts.iter().enumerate() { (part.html(number)) }
                    }
                }
            }
        }
        .into_string()
    }

    /// Write the page beside `path` and rename it.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        file::replace(path, self.html().as_bytes())
    }
}

impl Part {
    fn html(&self, number: usize) -> Markup {
        html! {
            @match self {
                Part::Section(heading) => { h2 id=(format!("part-{number}")) { (clean(heading)) } }
                Part::Figure { svg, caption } => { (framed(&PreEscaped(svg.clone()), caption)) }
                Part::Table { table, caption } => { (framed(table, caption)) }
                Part::Text(text) => { p { (kept_lines(text)) } }
                Part::Code(code) => { pre { (kept_lines(code)) } }
            }
        }
    }
}

fn framed(body: &Markup, caption: &str) -> Markup {
    html! {
        figure {
            (body)
            @if !caption.is_empty() { figcaption { (clean(caption)) } }
        }
    }
}

/// [`clean`], but lines stay lines.
fn kept_lines(text: &str) -> String {
    text.lines().map(|line| clean(&line.replace('\t', "    "))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::svg::check::well_formed;
    use crate::picture::{Curves, Timeline};

    fn report() -> Report {
        Report::new("A <report> & more")
            .section("Loss")
            .figure(Curves::new("loss", "step", "nats").series("a", vec![(0.0, 1.0), (1.0, 0.5)]).svg(), "It <falls>.")
            .section("Time & place")
            .figure(Timeline::new("relevance", "p", vec![(0.0, 0.1), (1.0, 0.9)]).svg(), "")
            .section("Words")
            .text("two\nlines <script>alert(1)</script>")
            .code("moviola train\t--model cba && echo \u{1b}[1m")
    }

    #[test]
    fn the_page_is_sound_and_escapes_what_it_is_told() {
        let html = report().html();
        let text = well_formed(html.strip_prefix("<!DOCTYPE html>").unwrap());
        assert!(text.contains("A &lt;report&gt; &amp; more") && text.contains("It &lt;falls&gt;."), "{text}");
        assert!(!html.contains("<script") && !html.contains('\u{1b}'));
        assert!(html.contains("href=\"#part-2\"") && html.contains("id=\"part-2\""));
    }

    #[test]
    fn the_page_names_no_other_place() {
        let html = report().html().replace("http://www.w3.org/2000/svg", "");
        for wanted in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn the_same_report_is_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        report().write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), report().html());
    }
}
