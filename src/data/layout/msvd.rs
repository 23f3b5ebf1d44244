//! MSVD (Chen and Dolan 2011): lists of 1,200, 100 and 670 videos, and captions in one of the forms in which they are
//! handed out: the authors' `AllVideoDescriptions.txt` (id and sentence a line, `#` before comments), Microsoft's CSV of
//! all languages, or CLIP4Clip's `raw-captions.pkl` (id → lists of words) turned into JSON.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::captions::{Caption, LISTS, Members, csv_rows, id_list, json, list_of, numbered, tell_silent, text_lines};
use super::{Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

const JSON: &str = "raw-captions.json";
const TEXT: &str = "AllVideoDescriptions.txt";
const CSV: [&str; 2] = ["MSR Video Description Corpus.csv", "video_corpus.csv"];
const PICKLE: &str = "raw-captions.pkl";

/// Some 40 captions a video, up to 81 in test, all of which are queries. Text ids: the video's with `#0`, `#1` and so on.
pub(super) const MSVD: Format = Format {
    name: "msvd",
    marks: &[JSON, TEXT, CSV[0], CSV[1], PICKLE],
    unless: &[],
    others: &LISTS,
    has: |dir, split| list_of(dir, split).exists(),
    read,
    other_id: |_| None,
};

fn read(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let list = list_of(dir, split);
    if !list.exists() {
        return Err(Error::format(
            list,
            format!("the list of {split} is missing"),
            "put MSVD's list here, an id a line",
        ));
    }
    let ids = id_list(&list, problems)?;
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let (place, captions) = captions(dir, problems)?;
    let listing = Listing { place, entries: numbered(captions, split, |id| wanted.contains(id)) };
    tell_silent(&list, &ids, &listing, problems);
    Ok(listing)
}

fn captions(dir: &Path, problems: &mut Problems) -> Result<(PathBuf, Vec<Caption>)> {
    let [as_json, as_text] = [JSON, TEXT].map(|name| dir.join(name));
    if as_json.exists() {
        let captions = from_json(&as_json)?;
        return Ok((as_json, captions));
    }
    if as_text.exists() {
        let captions = from_text(&as_text, problems)?;
        return Ok((as_text, captions));
    }
    if let Some(place) = CSV.map(|name| dir.join(name)).into_iter().find(|place| place.exists()) {
        let captions = from_csv(&place, problems)?;
        return Ok((place, captions));
    }
    let pickle = dir.join(PICKLE);
    if pickle.exists() {
        let fix = format!("turn it into JSON: python tools/convert.py {PICKLE} {JSON}");
        return Err(Error::format(pickle, "pickles can run code and are not read", fix));
    }
    let fix = format!("put {TEXT}, {:?} or {JSON} here", CSV[0]);
    Err(Error::format(dir, "MSVD's captions are missing", fix))
}

/// A sentence, or its words.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a sentence or a list of words")]
enum Words {
    Sentence(String),
    List(Vec<String>),
}

fn from_json(place: &Path) -> Result<Vec<Caption>> {
    let Members(videos) =
        json::<Members<Vec<Words>>>(place, r#"expected {"id": ["a sentence", ["or", "its", "words"]]}"#)?;
    let mut captions = Vec::new();
    for ((video_id, sentences), line) in videos.into_iter().zip(1..) {
        for sentence in sentences {
            let text = match sentence {
                Words::Sentence(text) => text,
                Words::List(words) => words.join(" "),
            };
            captions.push(Caption { video_id: video_id.clone(), text, line });
        }
    }
    Ok(captions)
}

fn from_text(place: &Path, problems: &mut Problems) -> Result<Vec<Caption>> {
    let mut captions = Vec::new();
    text_lines(place, problems, |line, content, problems| match content.split_once(char::is_whitespace) {
        _ if content.starts_with('#') => {}
        Some((id, text)) => captions.push(Caption { video_id: id.into(), text: text.into(), line }),
        None => {
            let what = "this is one word, without a sentence";
            problems.error(place, &format!("line {line}"), what, "expected an id, a space and a sentence");
        }
    })?;
    Ok(captions)
}

fn from_csv(place: &Path, problems: &mut Problems) -> Result<Vec<Caption>> {
    let rows = csv_rows(place, ["VideoID", "Start", "End", "Language", "Description"], problems)?;
    // Some workers left their sentence out.
    let english = rows.into_iter().filter(|(_, [.., language, text])| language == "English" && !text.is_empty());
    Ok(english
        .map(|(line, [id, start, end, _, text])| Caption { video_id: format!("{id}_{start}_{end}"), text, line })
        .collect())
}
