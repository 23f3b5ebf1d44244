//! What all figures share: the frame, colours for light and dark, safe numbers and labels.

use maud::{Markup, PreEscaped, html};

/// Colours of series (after Okabe and Ito, which colour-blind readers can tell apart), light and dark.
const SERIES: [(&str, &str); 7] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#009e73", "#2fd3a3"),
    ("#cc79a7", "#e6a3c8"),
    ("#8a6d00", "#f0d24c"),
    ("#5b4ea3", "#a99cf0"),
    ("#555555", "#bbbbbb"),
];

/// Number of distinct series colours; further series start again.
pub const COLOURS: usize = SERIES.len();

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";

/// Width of a character as a share of the font size: a little more than most fonts take.
const ADVANCE: f64 = 0.58;

/// A coordinate with at most two decimals; what is not finite becomes 0, so that a viewer still shows the rest.
pub fn px(value: f64) -> String {
    if !value.is_finite() {
        return "0".into();
    }
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// A label without characters that XML forbids; maud escapes the others.
pub fn clean(label: &str) -> String {
    let bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    label.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect()
}

/// [`clean`], cut to about `width` pixels at font size `size`.
pub fn fitted(label: &str, width: f64, size: f64) -> String {
    let label = clean(label);
    let room = (width / (size * ADVANCE)).max(1.0) as usize;
    if label.chars().count() <= room {
        return label;
    }
    let mut cut: String = label.chars().take(room.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// About how many pixels a label takes.
pub fn width_of(label: &str, size: f64) -> f64 {
    label.chars().count() as f64 * size * ADVANCE
}

/// The rules of every figure, prefixed so that they can live in a page of other styles.
pub fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    for (i, (day, night)) in SERIES.iter().enumerate() {
        for (out, colour) in [(&mut light, day), (&mut dark, night)] {
            out.push_str(&format!(".mv .s{i}{{stroke:{colour}}}.mv .f{i}{{fill:{colour}}}"));
        }
    }
    format!(
        ".mv text{{font-family:{FONT};fill:#1f2328}}.mv .soft{{fill:#59636e}}.mv .bg{{fill:#ffffff}}\
         .mv .grid{{stroke:#e4e7eb;stroke-width:1}}.mv .axis{{stroke:#8c959f;stroke-width:1}}\
         .mv .whisker{{stroke:#1f2328;stroke-width:1.2}}.mv .none{{fill:#d0d7de}}.mv .mark{{fill:none;stroke:#ffffff;stroke-width:1.6}}\
         .mv .halo{{fill:none;stroke:#1f2328;stroke-width:2.8}}.mv .line{{fill:none;stroke-width:1.8;\
         stroke-linejoin:round;stroke-linecap:round}}.mv .trace{{fill:none;stroke-width:1}}.mv .on{{fill:#ffffff}}{light}\
         @media (prefers-color-scheme:dark){{.mv text{{fill:#e6e9ed}}.mv .soft{{fill:#9aa4af}}.mv .bg{{fill:#16191d}}\
         .mv .grid{{stroke:#2b3138}}.mv .axis{{stroke:#69737d}}.mv .whisker{{stroke:#e6e9ed}}.mv .none{{fill:#3a4149}}\
         .mv .on{{fill:#0e1013}}{dark}}}"
    )
}

/// A picture with a title: a document by itself, or a part of one.
pub struct Figure {
    width: f64,
    height: f64,
    title: String,
    body: Markup,
}

impl Figure {
    /// `body` is drawn on `width` × `height` pixels, of which the title takes the upper 36.
    pub(super) fn new(width: f64, height: f64, title: &str, body: Markup) -> Figure {
        Figure { width, height, title: clean(title), body }
    }

    /// A document with its own background and its own style.
    pub fn svg(&self) -> String {
        html! {
            svg xmlns="http://www.w3.org/2000/svg" class="mv" role="img" aria-label=(self.title)
                viewBox=(format!("0 0 {} {}", px(self.width), px(self.height))) width=(px(self.width))
                height=(px(self.height)) {
                // The style holds no `<` or `&`, and its quotes must stay as they are.
                style { (PreEscaped(style())) }
                (self.inner())
            }
        }
        .into_string()
    }

    fn inner(&self) -> Markup {
        html! {
            rect class="bg" x="0" y="0" width=(px(self.width)) height=(px(self.height)) {}
            @if !self.title.is_empty() {
                text x="16" y="26" font-size="15" font-weight="600" { (fitted(&self.title, self.width - 32.0, 15.0)) }
            }
            (self.body)
        }
    }

    /// Figures below each other; an empty title takes no room.
    pub fn column(title: &str, figures: &[Figure]) -> Figure {
        let mut at = if title.is_empty() { 0.0 } else { TITLE };
        let mut places = vec![];
        for figure in figures {
            places.push((0.0, at));
            at += figure.height + GAP;
        }
        Self::placed(title, figures, &places, (240.0, TITLE))
    }

    /// Figures beside each other, their upper edges in line.
    pub fn row(title: &str, figures: &[Figure]) -> Figure {
        let top = if title.is_empty() { 0.0 } else { TITLE };
        let mut at = 0.0;
        let mut places = vec![];
        for figure in figures {
            places.push((at, top));
            at += figure.width + GAP;
        }
        Self::placed(title, figures, &places, (240.0, TITLE))
    }

    fn placed(title: &str, figures: &[Figure], places: &[(f64, f64)], least: (f64, f64)) -> Figure {
        let ends = figures.iter().zip(places).map(|(f, (x, y))| (x + f.width, y + f.height));
        let (width, height) = ends.fold(least, |most, end| (most.0.max(end.0), most.1.max(end.1)));
        let body = html! {
            @for (figure, (x, y)) in figures.iter().zip(places) {
                svg x=(px(*x)) y=(px(*y)) width=(px(figure.width)) height=(px(figure.height)) { (figure.inner()) }
            }
        };
        Figure::new(width, height, title, body)
    }
}

/// Height of a title, and pixels between figures.
const TITLE: f64 = 40.0;
const GAP: f64 = 10.0;

/// How entries of a legend are laid out: names with the class that fills their squares, broken into lines.
pub(super) struct Legend {
    lines: Vec<Vec<(f64, String, usize)>>,
}

/// Height of a line of a legend.
pub(super) const LEGEND_LINE: f64 = 20.0;

impl Legend {
    /// Names and the numbers of their colours, as wide as the figure.
    pub fn new(entries: impl IntoIterator<Item = (String, usize)>, width: f64) -> Legend {
        let mut lines: Vec<Vec<(f64, String, usize)>> = Vec::new();
        let mut left = f64::INFINITY;
        for (name, colour) in entries {
            let name = fitted(&name, 240.0, 12.0);
            let wide = 36.0 + width_of(&name, 12.0);
            if left + wide > width - 20.0 {
                lines.push(Vec::new());
                left = 16.0;
            }
            if let Some(line) = lines.last_mut() {
                line.push((left, name, colour));
            }
            left += wide;
        }
        Legend { lines }
    }

    pub fn height(&self) -> f64 {
        if self.lines.is_empty() { 0.0 } else { LEGEND_LINE * self.lines.len() as f64 + 6.0 }
    }

    /// Drawn below the title.
    pub fn draw(&self) -> Markup {
        html! {
            @for (number, line) in self.lines.iter().enumerate() {
                @let y = 48.0 + LEGEND_LINE * number as f64;
                @for (x, name, colour) in line {
                    rect class=(fill(*colour)) fill-opacity=(shade(*colour)) x=(px(*x)) y=(px(y - 10.0)) width="12"
                        height="12" rx="2" {}
                    text x=(px(x + 18.0)) y=(px(y)) font-size="12" { (name) }
                }
            }
        }
    }
}

/// The class that fills with a series' colour.
pub(super) fn fill(colour: usize) -> String {
    format!("f{}", colour % COLOURS)
}

/// Opacity of a series' colour: colours that come again come fainter.
pub(super) fn shade(colour: usize) -> &'static str {
    ["1", "0.6", "0.35"].get(colour / COLOURS).copied().unwrap_or("0.25")
}

#[cfg(test)]
pub mod check {
    //! What a test can say about any figure.

    /// Panics unless `text` is balanced XML whose attributes hold no NaN or infinity; returns all text content.
    pub fn well_formed(text: &str) -> String {
        let mut open: Vec<String> = Vec::new();
        let mut content = String::new();
        let mut rest = text;
        while let Some(begin) = rest.find('<') {
            escaped(&rest[..begin]);
            content.push_str(&rest[..begin]);
            content.push('\n');
            let end = rest.find('>').expect("a tag that never ends");
            let tag = &rest[begin + 1..end];
            assert!(!tag.contains('<'), "a tag within a tag: {tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "closed out of order");
            } else if !tag.starts_with('!') {
                let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
                assert_eq!(tag.matches('"').count() % 2, 0, "unbalanced quotes: {tag}");
                attributes(tag);
                if !tag.ends_with('/') && !["meta", "br", "hr", "img"].contains(&name) {
                    open.push(name.to_string());
                }
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        content
    }

    fn escaped(text: &str) {
        for (at, _) in text.match_indices('&') {
            let entity: String = text[at..].chars().take(8).collect();
            assert!(entity.contains(';'), "a bare ampersand: {entity}");
        }
        assert!(!text.contains('>') && !text.chars().any(|c| c.is_control() && c != '\n'), "unescaped: {text}");
    }

    /// Numbers only: words such as "information" may hold "inf".
    fn attributes(tag: &str) {
        let quoted = tag.split('"').skip(1).step_by(2);
        let names = tag.split('"').step_by(2);
        for (name, value) in names.zip(quoted) {
            escaped(value);
            let name = name.trim().trim_end_matches('=').rsplit(' ').next().unwrap_or_default();
            if ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "points", "width", "height", "transform"]
                .contains(&name)
            {
                let lower = value.to_lowercase();
                assert!(!lower.contains("nan") && !lower.contains("inf"), "{name}={value:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_always_numbers() {
        for (value, text) in
            [(1.0, "1"), (0.125, "0.12"), (-0.001, "0"), (f64::NAN, "0"), (f64::INFINITY, "0"), (100.0, "100")]
        {
            assert_eq!(px(value), text);
        }
    }

    #[test]
    fn titles_are_escaped_and_cleaned() {
        let svg = Figure::new(200.0, 100.0, "a<b & \"c\"\u{0}\u{1b}", html! {}).svg();
        let text = check::well_formed(&svg);
        assert!(text.contains("a&lt;b &amp; "), "{text}");
        assert_eq!(fitted("abcdefghij", 5.5 * 10.0 * ADVANCE, 10.0), "abcd…");
    }

    #[test]
    fn figures_stand_below_and_beside_each_other() {
        let part = |w, h, t: &str| Figure::new(w, h, t, html! { circle cx="5" cy="50" r="2" {} });
        let both = [part(300.0, 100.0, "<a>"), part(200.0, 150.0, "b")];
        let (column, row) = (Figure::column("all", &both), Figure::row("", &both));
        assert_eq!((column.width, column.height), (300.0, 40.0 + 100.0 + GAP + 150.0));
        assert_eq!((row.width, row.height), (300.0 + GAP + 200.0, 150.0));
        for figure in [column, row, Figure::column("", &[]), Figure::row("none", &[])] {
            let svg = figure.svg();
            check::well_formed(&svg);
            assert_eq!(svg.matches("<style").count(), 1);
        }
    }
}
