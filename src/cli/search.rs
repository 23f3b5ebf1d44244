//! `search`: the videos for a text, or the texts for a video.

mod sentence;

use super::query::FromIndex;
use super::split::{DataArgs, split};
use super::{Common, STOP, device, output};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::models::scorer::Scorer;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Find the videos for a sentence or a text, or the texts for a video.
#[derive(Args)]
#[command(override_usage = "\
moviola search SENTENCE --index DIR [OPTIONS]
       moviola search --model DIR --data DIR (--text ID | --caption WORDS | --video ID) [OPTIONS]")]
#[command(after_help = "\
Examples:
  moviola search --model run --data msrvtt --text ret7          by a text's id
  moviola search --model run --data msrvtt --caption 'a man is' by the first caption with these words in a row
  moviola search --model run --data msrvtt --video video7020    the texts for a video
  moviola search 'a dog jumps into a lake' --index library      videos, and when in them, by words of your own
  moviola search 'a goal' --index library --out hits.html       the same, with frames to look at")]
pub struct Search {
    /// What to look for in an index.
    #[arg(value_name = "SENTENCE", requires = "index", conflicts_with_all = ["model", "data", "text", "caption", "video", "split"])]
    sentence: Option<String>,
    #[command(flatten)]
    index: FromIndex,
    /// A page with the hits' frames, FILE.html.
    #[arg(long, value_name = "FILE", requires = "index")]
    out: Option<PathBuf>,
    /// Model folder.
    #[arg(long, value_name = "DIR", requires = "data", required_unless_present = "index", conflicts_with = "index")]
    model: Option<PathBuf>,
    #[command(flatten)]
    data: Option<DataArgs>,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    #[command(flatten)]
    query: Query,
    /// How many to show.
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

#[derive(Args)]
#[group(multiple = false)]
struct Query {
    /// Id of the text to search with.
    #[arg(long, value_name = "ID")]
    text: Option<String>,
    /// Words that stand in a row in a caption of the data set, which is then the query.
    #[arg(long, value_name = "WORDS")]
    caption: Option<String>,
    /// Id of the video to find texts for.
    #[arg(long, value_name = "ID")]
    video: Option<String>,
}

#[derive(Serialize)]
struct Hit {
    rank: usize,
    id: String,
    score: f32,
    caption: String,
    relevant: bool,
}

#[derive(Serialize)]
struct Answer {
    query: String,
    caption: Option<String>,
    direction: &'static str,
    device: String,
    hits: Vec<Hit>,
}

impl Search {
    pub fn run(&self, common: &Common) -> Result<()> {
        if self.top == 0 {
            return Err(Error::config("--top", "is 0", "ask for one or more"));
        }
        if let Some(sentence) = &self.sentence {
            return sentence::search(common, &self.index, sentence, self.top, self.out.as_deref());
        }
        let (Some(model), Some(from)) = (&self.model, &self.data) else {
            let what = "nothing to look in is given";
            return Err(Error::config("search", what, "give a sentence and --index, or --model, --data and a query"));
        };
        let data = from.open(split(&self.split)?)?;
        let backend = device::open(common)?;
        let gallery = data.gallery();
        let text_items: Vec<usize> = data.pairs.iter().map(|p| p.text).collect();
        let pair = self.pair(&data, from)?;
        let to_video = self.query.video.is_none();
        let (texts, videos) = match to_video {
            true => (vec![text_items[pair]], gallery),
            false => (text_items, vec![data.pairs[pair].video]),
        };
        let mut scorer = Scorer::open(model, (&*data.texts, texts), (&*data.videos, videos.clone()), backend)?;
        let mut scores: Vec<(usize, f32)> = vec![];
        scorer.score_all(
            |tile| {
                for (r, row) in tile.scores.chunks(tile.stride).take(tile.texts.len()).enumerate() {
                    for (c, score) in row[..tile.videos.len()].iter().enumerate() {
                        let item = if to_video { tile.videos.start + c } else { tile.texts.start + r };
                        scores.push((item, *score));
                    }
                }
                Ok(())
            },
            &STOP,
        )?;
        // Equal scores stay in the order of the data set.
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let hits = (scores.iter().take(self.top).enumerate()).map(|(i, (item, score))| match to_video {
            true => video_hit(&data, pair, videos[*item], i + 1, *score),
            false => text_hit(&data, pair, *item, i + 1, *score),
        });
        let query = match to_video {
            true => data.texts.ids()[data.pairs[pair].text].clone(),
            false => data.videos.ids()[data.pairs[pair].video].clone(),
        };
        let answer = Answer {
            query,
            caption: to_video.then(|| data.caption(&data.pairs[pair]).to_string()),
            direction: if to_video { "t2v" } else { "v2t" },
            hits: hits.collect(),
            device: scorer.device(),
        };
        output::result(common, &answer, || told(&answer))
    }

    /// The pair that the query names: its text is the query, or its video.
    fn pair(&self, data: &Dataset, from: &DataArgs) -> Result<usize> {
        let unknown = |key: &str, value: &str| {
            let fix = format!("look at the ids with `moviola data inspect {}`", from.data.display());
            Error::config(key, format!("nothing in the {} split matches {value:?}", self.split), fix)
        };
        let found = |key: &str, value: &str, at: Option<usize>| at.ok_or_else(|| unknown(key, value));
        match (&self.query.text, &self.query.caption, &self.query.video) {
            (Some(id), _, _) => found("--text", id, data.pairs.iter().position(|p| data.texts.ids()[p.text] == *id)),
            (_, Some(words), _) => {
                let wanted = words_of(words);
                let holds = |caption: &str| {
                    let caption = words_of(caption);
                    !wanted.is_empty() && caption.windows(wanted.len()).any(|part| part == wanted)
                };
                found("--caption", words, data.pairs.iter().position(|p| holds(data.caption(p))))
            }
            (_, _, Some(id)) => found("--video", id, data.pairs.iter().position(|p| data.videos.ids()[p.video] == *id)),
            _ => Err(Error::config("query", "none is given", "use --text, --caption or --video")),
        }
    }
}

/// The words of a text, without case and punctuation.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn video_hit(data: &Dataset, pair: usize, video: usize, rank: usize, score: f32) -> Hit {
    let own = data.pairs.iter().find(|p| p.video == video);
    Hit {
        rank,
        id: data.videos.ids()[video].clone(),
        score,
        caption: own.map_or(String::new(), |p| data.caption(p).to_string()),
        relevant: data.pairs[pair].video == video,
    }
}

fn text_hit(data: &Dataset, pair: usize, item: usize, rank: usize, score: f32) -> Hit {
    let p = &data.pairs[item];
    Hit {
        rank,
        id: data.texts.ids()[p.text].clone(),
        score,
        caption: data.caption(p).to_string(),
        relevant: p.video == data.pairs[pair].video,
    }
}

fn told(a: &Answer) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["rank", "id", "score", "", "caption"]);
    for h in &a.hits {
        let mark = if h.relevant { "✓" } else { "" };
        table.add_row([&h.rank.to_string(), &h.id, &format!("{:.4}", h.score), mark, &h.caption]);
    }
    let caption = a.caption.as_ref().map_or(String::new(), |c| format!(": {c}"));
    format!("{}{caption}\n{table}\n✓ the data set's own answer; {}, {}", a.query, a.direction, a.device)
}
