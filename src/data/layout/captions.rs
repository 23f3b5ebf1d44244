//! What layouts have in common: captions by video, lists of ids, JSON and CSV of strangers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Entry, Listing, Split};
use crate::data::files::{each_line, open_regular, read_capped};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

/// Largest JSON file: the largest that is handed out (VATEX's, with captions in two languages) has some 60 MB.
const JSON_LIMIT: u64 = 512 << 20;
/// Characters of what JSON's parser says: it quotes strings of any length.
const QUOTED: usize = 300;
/// What some editors put before UTF-8 text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A caption of a video, not yet of a split.
pub struct Caption {
    pub video_id: String,
    pub text: String,
    /// As [`Entry::line`].
    pub line: u64,
}

/// The whole of a JSON file as `T`.
///
/// # Errors
/// With the line and column at which it is not what is `expected`.
pub fn json<T: DeserializeOwned>(place: &Path, expected: &str) -> Result<T> {
    let content = read_capped(place, JSON_LIMIT)?;
    let content = content.strip_prefix(BOM).unwrap_or(&content);
    serde_json::from_slice(content)
        .map_err(|error| Error::format(place, format!("this cannot be read: {}", said(&error)), expected))
}

/// What is wrong with JSON and where; a strange value is quoted, but not in full length.
fn said(error: &serde_json::Error) -> String {
    let whole = error.to_string();
    match whole.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}… at line {} column {}", &whole[..end], error.line(), error.column()),
        None => whole,
    }
}

/// A JSON object's members in the order of the file.
pub struct Members<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Each<T> {
            type Value = Members<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one member a video")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members<T>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each(PhantomData))
    }
}

/// Calls `each(line, text)` for every line of a text file that is not blank, without a byte order mark; a line that is
/// not UTF-8 becomes a problem.
pub fn text_lines(place: &Path, problems: &mut Problems, mut each: impl FnMut(u64, &str, &mut Problems)) -> Result<()> {
    each_line(place, |line, content| {
        let content = if line == 1 { content.strip_prefix(BOM).unwrap_or(content) } else { content };
        match std::str::from_utf8(content) {
            Ok("") => {}
            Ok(text) => each(line, text, problems),
            Err(_) => {
                problems.error(place, &format!("line {line}"), "the text is not UTF-8", "save the file as UTF-8");
            }
        }
    })
}

/// The ids of a list, one a line.
pub fn id_list(place: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    text_lines(place, problems, |_, id, _| ids.push(id.to_string()))?;
    Ok(ids)
}

/// The list of a split, of layouts whose splits are lists.
pub fn list_of(dir: &Path, split: Split) -> PathBuf {
    dir.join(LISTS[split as usize])
}

/// The lists by split, as retrieval code hands them out for MSVD, VATEX and DiDeMo.
pub const LISTS: [&str; 3] = ["train_list.txt", "val_list.txt", "test_list.txt"];

/// Says which videos of `list` have no entry: they are not in the gallery, which others may have counted.
pub fn tell_silent(list: &Path, ids: &[String], listing: &Listing, problems: &mut Problems) {
    let found: HashSet<&str> = listing.entries.iter().map(|entry| entry.video_id.as_str()).collect();
    let silent: Vec<&String> = ids.iter().filter(|id| !found.contains(id.as_str())).collect();
    if let Some(first) = silent.first() {
        let what = format!(
            "{} of {} videos, of which this is the first, have no caption in {}",
            silent.len(),
            ids.len(),
            listing.place.display()
        );
        let fix = "they are left out; add their captions if results are to be compared with others'";
        problems.warning(list, first, what, fix);
    }
}

/// One entry a video, whose text id is the video's: paragraphs.
pub fn paragraphs(captions: Vec<Caption>, split: Split) -> Vec<Entry> {
    let entry = |Caption { video_id, text, line }: Caption| Entry {
        text_id: video_id.clone(),
        video_id,
        caption: text,
        split,
        line,
    };
    captions.into_iter().map(entry).collect()
}

/// Sentences as one paragraph: trimmed, without the empty ones, a space between two.
pub fn joined<'a>(sentences: impl IntoIterator<Item = &'a String>) -> String {
    let sentences: Vec<&str> = sentences.into_iter().map(|s| s.trim()).filter(|s| !s.is_empty()).collect();
    sentences.join(" ")
}

/// Calls `each` for each line of a JSON-lines file that can be read as `T`.
pub fn json_lines<T: for<'de> Deserialize<'de>>(
    place: &Path,
    expected: &str,
    problems: &mut Problems,
    mut each: impl FnMut(u64, T),
) -> Result<()> {
    each_line(place, |line, content| {
        let content = if line == 1 { content.strip_prefix(BOM).unwrap_or(content) } else { content };
        match serde_json::from_slice(content) {
            Ok(value) => each(line, value),
            Err(error) => {
                let what = format!("this cannot be read: {}", said(&error));
                problems.error(place, &format!("line {line}"), what, expected);
            }
        }
    })
}

/// Rows of a CSV file as the wanted columns; rows that cannot be read become problems with their line.
pub fn csv_rows<const N: usize>(
    place: &Path,
    columns: [&str; N],
    problems: &mut Problems,
) -> Result<Vec<(u64, [String; N])>> {
    let unreadable = |error: csv::Error| Error::format(place, format!("this cannot be read: {error}"), "repair it");
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open_regular(place)?);
    let header = reader.byte_headers().map_err(unreadable)?.clone();
    let clean = |name: &[u8]| String::from_utf8_lossy(name.strip_prefix(BOM).unwrap_or(name)).trim().to_string();
    let names: Vec<String> = header.iter().map(clean).collect();
    let mut positions = [0; N];
    for (position, column) in positions.iter_mut().zip(columns) {
        *position = names.iter().position(|name| name == column).ok_or_else(|| {
            let what = format!("line 1 has no column {column:?}, only {names:?}");
            Error::format(place, what, format!("expected the columns {columns:?}"))
        })?;
    }
    let mut rows = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let mut complain = |what: String, fix: &str| problems.error(place, &format!("line {line}"), what, fix);
        if record.len() != names.len() {
            let what = format!("{} fields, expected {}", record.len(), names.len());
            complain(what, "put quotes around a sentence that has commas");
            continue;
        }
        let field = |position: usize| std::str::from_utf8(record.get(position).unwrap_or(&[]));
        let mut row = [const { String::new() }; N];
        let mut broken = false;
        for (value, position) in row.iter_mut().zip(positions) {
            match field(position) {
                Ok(text) => *value = text.trim().to_string(),
                Err(_) => broken = true,
            }
        }
        match broken {
            true => complain("the text is not UTF-8".into(), "save the file as UTF-8"),
            false => rows.push((line, row)),
        }
    }
    Ok(rows)
}

/// Captions of the wanted videos, with ids `video12#3` by the order in which a video's captions come.
pub fn numbered(captions: Vec<Caption>, split: Split, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::new();
    for Caption { video_id, text, line } in captions {
        if wanted(&video_id) {
            let count = counts.entry(video_id.clone()).or_default();
            let text_id = format!("{video_id}#{count}");
            *count += 1;
            entries.push(Entry { text_id, video_id, caption: text.trim().to_string(), split, line });
        }
    }
    entries
}
