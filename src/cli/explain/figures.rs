//! What is known about a pair as pictures, each with a caption that says how to read it. What a model does not know is
//! left out.

use super::{Shown, StableKind};
use crate::error::Result;
use crate::models::zero_shot;
use crate::picture::strip::Strip;
use crate::picture::{Figure, Heat, Report, Rows, Shares, Timeline};

/// How large figures are: by themselves, or two beside each other.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Size {
    Whole,
    Half,
}

impl Size {
    fn width(self) -> f64 {
        if self == Size::Whole { 760.0 } else { 450.0 }
    }
}

/// Names of frames that one knows something about, with the number of their colour.
pub type Truth<'a> = (&'a str, &'a [bool], usize);

impl Shown {
    /// All figures on one page.
    pub fn report(&self) -> Result<Report> {
        let mut about = format!("“{}”\n{} scores {:.4} on {}.", self.caption, self.model, self.score, self.device);
        if self.similarity.is_empty() {
            about +=
                "\nThis model pools a text and a video before they meet: there are no words and frames to look at.";
        }
        let mut report = Report::new(format!("{} and {}", self.text, self.video)).text(about);
        for (figure, caption) in self.figures()? {
            report = report.figure(figure.svg(), caption);
        }
        Ok(report)
    }

    /// All figures in one picture.
    pub fn svg(&self) -> Result<String> {
        let title = format!("{} · {} · {} · score {:.3}", self.text, self.video, self.model, self.score);
        let figures: Vec<Figure> = self.figures()?.into_iter().map(|(figure, _)| figure).collect();
        Ok(Figure::column(&title, &figures).svg())
    }

    fn figures(&self) -> Result<Vec<(Figure, String)>> {
        let all = [
            self.frames(),
            self.over_time("Relevance over time", Size::Whole, &[]).map(|figure| (figure, self.about_relevance())),
            self.words_and_frames()?,
            self.experts()?,
            self.shortcut(),
            self.steadiness(),
        ];
        Ok(all.into_iter().flatten().collect())
    }

    /// Frames of the video.
    fn frames(&self) -> Option<(Figure, String)> {
        if self.stills.is_empty() {
            return None;
        }
        let caption = "Frames of the video, in the order of time; those in a frame of colour lie in a moment that stands \
                       out for this sentence.";
        Some((Strip::new("Frames", self.stills.clone()).figure(), caption.into()))
    }

    /// Relevance over time, with the foreground that the model found and what is known to be there.
    pub fn over_time(&self, title: &str, size: Size, truth: &[Truth]) -> Option<Figure> {
        if self.relevance.is_empty() {
            return None;
        }
        let points = self.seconds.iter().zip(&self.relevance).map(|(t, r)| (f64::from(*t), f64::from(*r))).collect();
        let y_label = if size == Size::Whole { "relevance (sums to 1)" } else { "relevance" };
        let mut line = Timeline::new(title, y_label, points).threshold(1.0 / self.relevance.len() as f64);
        if size == Size::Half {
            line = line.size(size.width(), 230.0);
        }
        if !self.foreground.is_empty() {
            line = line.found_frames("foreground", &self.foreground);
        }
        for (name, frames, colour) in truth {
            line = line.true_frames(*name, frames, *colour);
        }
        Some(line.figure())
    }

    fn about_relevance(&self) -> String {
        let foreground = match self.foreground.is_empty() {
            true => "",
            false => {
                " Shaded, and barred above the plot: frames that the model takes for foreground, the half that the words \
                 meet best."
            }
        };
        format!(
            "How relevant each frame is to the text as a whole. All frames sum to 1; the dashed line is what each would \
             have if none stood out.{foreground}"
        )
    }

    /// The token × frame map.
    pub fn map(&self, title: &str, size: Size) -> Result<Option<Figure>> {
        if self.similarity.is_empty() {
            return Ok(None);
        }
        let cells = self.similarity.concat();
        let heat = Heat::new(title, "cosine", &self.words, &self.seconds, &cells)?;
        let heat = heat.word_weights(&self.word_weights)?.frame_relevance(&self.relevance)?;
        Ok(Some(if size == Size::Half { heat.columns(200.0) } else { heat }.figure()))
    }

    /// The map, or a line for a sentence as a whole: a long video would make a map of its one row as wide as it is long.
    fn words_and_frames(&self) -> Result<Option<(Figure, String)>> {
        let Some(row) = self.similarity.first().filter(|_| self.model == zero_shot::NAME) else {
            return Ok(self.map("Words and frames", Size::Whole)?.map(|figure| (figure, self.about_map())));
        };
        let points = self.seconds.iter().zip(row).map(|(t, c)| (f64::from(*t), f64::from(*c))).collect();
        let caption = format!("How close each frame is to “{}” (cosine).", self.caption);
        Ok(Some((Timeline::new("Closeness over time", "cosine", points).figure(), caption)))
    }

    fn about_map(&self) -> String {
        format!(
            "“{}” — a row a word, a column a frame: the brighter a cell, the closer the two (cosine). A box or dot marks \
             each word's best frame. Bars at the right: what a word weighs in its text; bars at the top: a frame's relevance.",
            self.caption
        )
    }

    fn experts(&self) -> Result<Option<(Figure, String)>> {
        if self.expert_gates.is_empty() {
            return Ok(None);
        }
        let names = (1..=self.expert_shares.len()).map(|i| format!("expert {i}")).collect();
        let whole = (self.expert_shares.as_slice(), "by relevance");
        let gates = self.expert_gates.concat();
        let shares = Shares::new("Experts over time", names, &self.seconds, &gates, whole)?;
        let caption = "How much of each expert is in the token of a frame, for this text: a bar a frame, which the shares \
                       fill. The bar at the right is the whole video, its frames weighed by their relevance; the legend \
                       has its numbers. Bars that differ mean that experts divide the frames among them.";
        Ok(Some((shares.figure(), caption.into())))
    }

    fn shortcut(&self) -> Option<(Figure, String)> {
        let alone = self.background_score?;
        let rows = Rows::new("Shortcut meter", "score (mean cosine)")
            .bar("the whole video", f64::from(self.score), 0)
            .bar("its background alone", f64::from(alone), 1);
        let caption = "The score of the video, and what all frames that the model does not take for foreground score alone. \
                       The closer the lower bar comes to the upper one, the more of the score could be had without seeing \
                       what the text asks for: by a shortcut through the background.";
        Some((rows.figure(), caption.into()))
    }

    fn steadiness(&self) -> Option<(Figure, String)> {
        let of = self.stability.as_ref()?;
        let mut rows = Rows::new("Stability", "score (mean cosine)").line("unperturbed", f64::from(of.unperturbed));
        for kind in &of.kinds {
            let values = kind.scores.iter().map(|s| f64::from(*s)).collect();
            rows = rows.dots(told(kind), values, (kind.mean, kind.sd), if kind.keeps_meaning { 0 } else { 1 });
        }
        let dropped = 100.0 * of.how.drop.unwrap_or(0.0);
        let speeds = of.how.speed.as_ref().map_or((1.0, 1.0), |s| (*s.start(), *s.end()));
        let caption = format!(
            "Scores of the video when it is shown a little otherwise, {} draws a row: with {dropped:.0} % of its frames \
             dropped, with frames a place early or late, at {} to {} times its speed, and with all three. Its meaning \
             stays, so the dots should stay near the dashed line (bar: mean; shade: a standard deviation on either side; \
             both at the right). Reversed, a video means something else if its text tells an order.",
            of.draws, speeds.0, speeds.1
        );
        Some((rows.figure(), caption))
    }
}

fn told(kind: &StableKind) -> &'static str {
    match kind.name {
        "drop" => "frames dropped",
        "all" => "all three",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_of_one_word_keeps_its_map() {
        let shown = |model: &str| Shown {
            text: "t".into(),
            video: "v".into(),
            caption: "waves".into(),
            model: model.into(),
            score: 0.5,
            device: "cpu".into(),
            seconds: vec![0.0, 1.0],
            words: vec!["waves".into()],
            word_weights: vec![1.0],
            relevance: vec![0.5, 0.5],
            similarity: vec![vec![0.25, 0.75]],
            expert_shares: vec![],
            expert_gates: vec![],
            foreground: vec![],
            background_score: None,
            stability: None,
            stills: vec![],
        };
        let svg = |model| shown(model).svg().unwrap();
        let titles = |svg: &str| [svg.contains("Words and frames"), svg.contains("Closeness over time")];
        assert_eq!(titles(&svg("token-interaction")), [true, false]);
        assert_eq!(titles(&svg(zero_shot::NAME)), [false, true]);
    }
}
