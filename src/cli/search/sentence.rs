//! `search "a sentence" --index DIR`: videos, and when in them, straight from words.

use crate::cli::query::{FromIndex, Query};
use crate::cli::stills::{marked, stills};
use crate::cli::{Common, STOP, output};
use crate::error::{Error, Result};
use crate::models::moments::{Moment, moments};
use crate::models::zero_shot;
use crate::picture::{Report, Timeline, strip::Strip};
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// Frames of a hit on a page.
const STILLS: usize = 6;

#[derive(Serialize)]
struct Answer {
    query: String,
    encoder: String,
    index: PathBuf,
    /// Videos that were searched.
    videos: usize,
    device: String,
    /// How scores come about.
    model: String,
    hits: Vec<Hit>,
}

#[derive(Serialize)]
struct Hit {
    rank: usize,
    video_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    score: f32,
    /// Begin and end in seconds and score, the best first.
    #[serde(serialize_with = "as_rows")]
    intervals: Vec<Moment>,
    /// Of each frame, and its second.
    frame_scores: Vec<f32>,
    seconds: Vec<f32>,
    #[serde(skip)]
    item: usize,
}

fn as_rows<S: Serializer>(moments: &[Moment], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(moments.iter().map(|m| [m.begin, m.end, m.score]))
}

/// Looks for a sentence, shows the best `top` videos, and writes a page to `out`.
pub fn search(common: &Common, from: &FromIndex, sentence: &str, top: usize, out: Option<&Path>) -> Result<()> {
    if out.is_some_and(|out| out.extension().is_none_or(|e| e != "html")) {
        return Err(Error::config("--out", "is no page", "name a file that ends in .html"));
    }
    let query = Query::open(common, from, sentence)?;
    let videos = &*query.index.videos;
    let mut asked = query.ask(common)?;
    let scores = asked.scores(&STOP)?;
    let mut order: Vec<usize> = (0..videos.len()).collect();
    // Equal scores stay in the order of the index.
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut hits = vec![];
    for (i, item) in order.into_iter().take(top).enumerate() {
        let (frame_scores, seconds) = (asked.cosines(item, &STOP)?, asked.seconds(item));
        hits.push(Hit {
            rank: i + 1,
            video_id: videos.ids()[item].clone(),
            file: query.index.file(item),
            score: scores[item],
            intervals: moments(&seconds, &frame_scores, query.index.lasts()),
            frame_scores,
            seconds,
            item,
        });
    }
    let answer = Answer {
        query: sentence.into(),
        encoder: query.encoder.clone(),
        index: from.dir()?.into(),
        videos: videos.len(),
        device: asked.device(),
        model: zero_shot::NAME.into(),
        hits,
    };
    if let Some(out) = out {
        page(common, &query, &answer)?.write(out)?;
        output::note(common, format!("page: {}", out.display()));
    }
    output::result(common, &answer, || told(&answer))
}

fn told(a: &Answer) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["rank", "video", "score", "when"]);
    for h in &a.hits {
        table.add_row([&h.rank.to_string(), &h.video_id, &format!("{:.4}", h.score), &when(&h.intervals)]);
    }
    format!("“{}” in {} videos\n{table}\nby {}, {}, on {}", a.query, a.videos, a.encoder, a.model, a.device)
}

/// Moments as people read them, the best first.
fn when(moments: &[Moment]) -> String {
    let told: Vec<String> = moments.iter().map(|m| format!("{}–{}", clock(m.begin), clock(m.end))).collect();
    told.join(", ")
}

/// Seconds as a player shows them.
fn clock(seconds: f32) -> String {
    let tenths = (f64::from(seconds) * 10.0).round() as u64;
    let (minutes, tenths) = (tenths / 600, tenths % 600);
    match minutes {
        0 => format!("{}.{} s", tenths / 10, tenths % 10),
        1..60 => format!("{minutes}:{:02}", tenths / 10),
        _ => format!("{}:{:02}:{:02}", minutes / 60, minutes % 60, tenths / 10),
    }
}

fn page(common: &Common, query: &Query, answer: &Answer) -> Result<Report> {
    let mut report = Report::new(format!("“{}”", answer.query)).text(format!(
        "The best {} of {} videos, by {} on {}. A video's score is the soft maximum of its frames' cosines with the \
         sentence; nothing was trained for this collection.",
        answer.hits.len(),
        answer.videos,
        answer.encoder,
        answer.device
    ));
    for hit in &answer.hits {
        let heading = format!("{}. {} · {:.3}", hit.rank, hit.video_id, hit.score);
        report = report.section(heading).text(when(&hit.intervals));
        let shown = chosen(hit);
        let seconds: Vec<f32> = shown.iter().map(|t| hit.seconds[*t]).collect();
        let stills = stills(common, &query.index, hit.item, &seconds)?;
        if !stills.is_empty() {
            report = report.figure(
                Strip::new("", marked(stills, &hit.intervals)).figure().svg(),
                "Frames of this video; those in a frame of colour lie in a moment that stands out.",
            );
        }
        let points = hit.seconds.iter().zip(&hit.frame_scores).map(|(t, s)| (f64::from(*t), f64::from(*s))).collect();
        let spans = hit.intervals.iter().map(|m| (f64::from(m.begin), f64::from(m.end))).collect();
        let line = Timeline::new("", "cosine", points).size(760.0, 200.0).found("moments", spans);
        report = report.figure(line.svg(), "How close each frame is to the sentence.");
    }
    Ok(report)
}

/// The frames that a page shows of a hit, in the order of time: the best of each moment, and others spread evenly.
fn chosen(hit: &Hit) -> Vec<usize> {
    let n = hit.seconds.len();
    let mut chosen: Vec<usize> = hit.intervals.iter().map(|m| m.best).collect();
    let spread = (0..STILLS).map(|i| (2 * i + 1) * n / (2 * STILLS));
    for t in spread.filter(|t| *t < n) {
        if chosen.len() < STILLS && !chosen.contains(&t) {
            chosen.push(t);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_as_players_do() {
        let told = [0.0, 3.25, 59.96, 61.0, 3725.0].map(clock);
        assert_eq!(told, ["0.0 s", "3.3 s", "1:00", "1:01", "1:02:05"]);
    }

    #[test]
    fn a_page_shows_the_best_frames_once() {
        let moment = Moment { begin: 0.0, end: 1.0, score: 1.0, best: 1, second: 1.0 };
        let hit = |n: usize| Hit {
            rank: 1,
            video_id: String::new(),
            file: None,
            score: 0.0,
            intervals: vec![moment],
            frame_scores: vec![0.0; n],
            seconds: vec![0.0; n],
            item: 0,
        };
        assert_eq!(chosen(&hit(2)), [0, 1]);
        assert_eq!(chosen(&hit(60)), [1, 5, 15, 25, 35, 45]);
    }
}
