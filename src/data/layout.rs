//! How data sets lie on disk: which text describes which video, in which split.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::files::{each_line, open_regular};
use super::problem::Problems;
use crate::error::{Error, Result};

pub const CAPTIONS: &str = "captions.jsonl";
pub const MSRVTT_TEST: &str = "MSRVTT_JSFUSION_test.csv";
pub const MSRVTT_TRAIN: &str = "MSRVTT_train.9k.csv";
pub const MSRVTT_VAL: &str = "MSRVTT_val.csv";
pub const MSRVTT_JSON: &str = "MSRVTT_data.json";
pub const MSRVTT_TRAIN_CAPTIONS: &str = "MSRVTT_train_captions.jsonl";

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    #[serde(alias = "validate")]
    Val,
    Test,
}

impl Split {
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|split| split.name() == text);
        found.ok_or_else(|| Error::config("split", format!("{text:?} is unknown"), "choose train, val or test"))
    }
}

/// Which files list the captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `captions.jsonl`: `{"text_id", "video_id", "caption", "split"}` a line.
    Native,
    /// MSR-VTT, 9,000 videos for training, 1,000 pairs for test (JSFusion's, "1k-A"). Text ids: `ret0` for test,
    /// `video12#3` (the fourth caption) for training.
    #[serde(rename = "msrvtt-1ka")]
    Msrvtt1kA,
    /// MSR-VTT's own split: 6,513 / 497 / 2,990 videos with all their captions. Text ids: `video12#3`.
    MsrvttFull,
}

impl Layout {
    pub const ALL: [Self; 3] = [Self::Native, Self::Msrvtt1kA, Self::MsrvttFull];

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Msrvtt1kA => "msrvtt-1ka",
            Self::MsrvttFull => "msrvtt-full",
        }
    }

    /// The file that shows the layout.
    fn mark(self) -> &'static str {
        match self {
            Self::Native => CAPTIONS,
            Self::Msrvtt1kA => MSRVTT_TEST,
            Self::MsrvttFull => MSRVTT_JSON,
        }
    }

    /// The layout of `dir`. Where [`MSRVTT_TEST`] lies beside [`MSRVTT_JSON`], it is 1k-A.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, or if there are a native one and another.
    pub fn detect(dir: &Path) -> Result<Self> {
        let has = |layout: Self| dir.join(layout.mark()).exists();
        match (has(Self::Native), has(Self::Msrvtt1kA), has(Self::MsrvttFull)) {
            (true, false, false) => Ok(Self::Native),
            (false, true, _) => Ok(Self::Msrvtt1kA),
            (false, false, true) => Ok(Self::MsrvttFull),
            (true, ..) => {
                let what = format!("{CAPTIONS} and MSR-VTT's files both lie here");
                Err(Error::format(dir, what, "choose a layout: native, msrvtt-1ka or msrvtt-full"))
            }
            (false, false, false) => {
                let fix = format!("expected one of {CAPTIONS}, {MSRVTT_TEST}, {MSRVTT_JSON}");
                Err(Error::format(dir, "this is no data set", fix))
            }
        }
    }

    /// The splits whose files are there.
    pub fn splits(self, dir: &Path) -> Vec<Split> {
        let has = |name: &str| dir.join(name).exists();
        let present = |split: &Split| match (self, split) {
            (Self::Native | Self::MsrvttFull, _) => true,
            (Self::Msrvtt1kA, Split::Test) => has(MSRVTT_TEST),
            (Self::Msrvtt1kA, Split::Train) => has(MSRVTT_TRAIN) && (has(MSRVTT_JSON) || has(MSRVTT_TRAIN_CAPTIONS)),
            (Self::Msrvtt1kA, Split::Val) => has(MSRVTT_VAL),
        };
        Split::ALL.into_iter().filter(present).collect()
    }
}

impl FromStr for Layout {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|layout| layout.name() == text);
        found.ok_or_else(|| {
            Error::config("layout", format!("{text:?} is unknown"), "choose native, msrvtt-1ka or msrvtt-full")
        })
    }
}

/// One caption of one video, and where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub text_id: String,
    pub video_id: String,
    pub caption: String,
    pub split: Split,
    /// From 1; the position in the list for JSON files.
    pub line: u64,
}

/// The captions of some splits, in the order of the file.
#[derive(Debug)]
pub struct Listing {
    pub place: PathBuf,
    pub entries: Vec<Entry>,
}

/// Reads the captions of `split`; lines that cannot be used become problems.
pub fn read(dir: &Path, layout: Layout, split: Split, problems: &mut Problems) -> Listing {
    let listing = match (layout, split) {
        (Layout::Native, _) => native(&dir.join(CAPTIONS), split, problems),
        (Layout::Msrvtt1kA, Split::Test) => msrvtt_test(&dir.join(MSRVTT_TEST), problems),
        (Layout::Msrvtt1kA, _) => msrvtt_train(dir, split, problems),
        (Layout::MsrvttFull, _) => msrvtt_full(&dir.join(MSRVTT_JSON), split),
    };
    let mut listing = listing.unwrap_or_else(|error| {
        problems.add(dir, "", error);
        Listing { place: dir.join(layout.mark()), entries: Vec::new() }
    });
    let Listing { place, entries } = &mut listing;
    entries.retain(|entry| {
        let sound = !entry.caption.is_empty() && !entry.text_id.is_empty() && !entry.video_id.is_empty();
        if !sound {
            let id = if entry.text_id.is_empty() { format!("line {}", entry.line) } else { entry.text_id.clone() };
            let what = format!("line {}: the caption or an id is empty", entry.line);
            problems.error(place, &id, what, "fill it in, or remove the line");
        }
        sound
    });
    listing
}

#[derive(Deserialize)]
struct CaptionLine {
    text_id: String,
    video_id: String,
    caption: String,
    split: Split,
}

/// Calls `each` for each line of a JSON-lines file that can be read as `T`.
fn json_lines<T: for<'de> Deserialize<'de>>(
    place: &Path,
    expected: &str,
    problems: &mut Problems,
    mut each: impl FnMut(u64, T),
) -> Result<()> {
    each_line(place, |line, content| match serde_json::from_slice(content) {
        Ok(value) => each(line, value),
        Err(error) => {
            problems.error(place, &format!("line {line}"), format!("this cannot be read: {error}"), expected);
        }
    })
}

fn native(place: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let mut entries = Vec::new();
    let expected = r#"expected {"text_id": "...", "video_id": "...", "caption": "...", "split": "train"}"#;
    json_lines(place, expected, problems, |line, found: CaptionLine| {
        let CaptionLine { text_id, video_id, caption, split } = found;
        entries.push(Entry { text_id, video_id, caption: caption.trim().to_string(), split, line });
    })?;
    entries.retain(|entry| entry.split == split);
    Ok(Listing { place: place.to_path_buf(), entries })
}

/// Rows of a CSV file as the wanted columns; rows that cannot be read become problems with their line.
fn csv_rows<const N: usize>(
    place: &Path,
    columns: [&str; N],
    problems: &mut Problems,
) -> Result<Vec<(u64, [String; N])>> {
    let unreadable = |error: csv::Error| Error::format(place, format!("this cannot be read: {error}"), "repair it");
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open_regular(place)?);
    let header = reader.byte_headers().map_err(unreadable)?.clone();
    let clean =
        |name: &[u8]| String::from_utf8_lossy(name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name)).trim().to_string();
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

/// The ids in MSR-VTT's list of training videos.
pub(crate) fn train_ids(place: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    Ok(csv_rows(place, ["video_id"], problems)?.into_iter().map(|(_, [id])| id).collect())
}

fn msrvtt_test(place: &Path, problems: &mut Problems) -> Result<Listing> {
    let rows = csv_rows(place, ["key", "video_id", "sentence"], problems)?;
    let entries = rows.into_iter().map(|(line, [text_id, video_id, caption])| Entry {
        text_id,
        video_id,
        caption,
        split: Split::Test,
        line,
    });
    Ok(Listing { place: place.to_path_buf(), entries: entries.collect() })
}

/// Captions by video, in the order of the file: (video, caption, line).
type Captions = Vec<(String, String, u64)>;

fn msrvtt_train(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let held_out = dir.join(MSRVTT_VAL);
    let val = match held_out.exists() {
        true => csv_rows(&held_out, ["video_id"], problems)?,
        false => Vec::new(),
    };
    if split == Split::Val && val.is_empty() {
        let fix =
            format!("list held-out training videos in {MSRVTT_VAL} (one column, video_id), or choose train or test");
        return Err(Error::format(dir, "msrvtt-1ka has no validation split of its own", fix));
    }
    let val: HashSet<String> = val.into_iter().map(|(_, [id])| id).collect();
    let list = dir.join(MSRVTT_TRAIN);
    let train = csv_rows(&list, ["video_id"], problems)?;
    let (place, captions) = msrvtt_captions(dir, problems)?;
    let mut wanted: HashMap<String, usize> = HashMap::new();
    for (line, [id]) in train {
        if val.contains(&id) == (split == Split::Val) && wanted.insert(id.clone(), 0).is_some() {
            problems.error(&list, &id, format!("line {line}: this id occurs twice"), "remove the line");
        }
    }
    let entries = numbered(captions, split, |id| wanted.contains_key(id));
    for entry in &entries {
        if let Some(count) = wanted.get_mut(&entry.video_id) {
            *count += 1;
        }
    }
    let mut silent: Vec<_> = wanted.into_iter().filter(|(_, count)| *count == 0).map(|(id, _)| id).collect();
    silent.sort();
    for id in silent {
        let what = format!("no caption for this video of {MSRVTT_TRAIN}");
        problems.error(&place, &id, what, "add its captions, or remove it from the list");
    }
    Ok(Listing { place, entries })
}

/// Captions of the wanted videos, with ids `video12#3` by the order in which a video's captions come.
fn numbered(captions: Captions, split: Split, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::new();
    for (video_id, caption, line) in captions {
        if wanted(&video_id) {
            let count = counts.entry(video_id.clone()).or_default();
            let text_id = format!("{video_id}#{count}");
            *count += 1;
            entries.push(Entry { text_id, video_id, caption: caption.trim().to_string(), split, line });
        }
    }
    entries
}

#[derive(Deserialize)]
struct MsrvttVideo {
    video_id: String,
    split: Split,
}

#[derive(Deserialize)]
struct MsrvttSentence {
    video_id: String,
    caption: String,
}

#[derive(Deserialize)]
struct MsrvttJson {
    videos: Vec<MsrvttVideo>,
    sentences: Vec<MsrvttSentence>,
}

fn msrvtt_json(place: &Path) -> Result<MsrvttJson> {
    serde_json::from_reader(std::io::BufReader::new(open_regular(place)?)).map_err(|error| {
        let fix = r#"expected {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}"#;
        Error::format(place, format!("this cannot be read: {error}"), fix)
    })
}

fn listed(sentences: Vec<MsrvttSentence>) -> Captions {
    sentences.into_iter().zip(1..).map(|(s, line)| (s.video_id, s.caption, line)).collect()
}

/// The captions for training: from our own list if there is one, otherwise from MSR-VTT's JSON.
fn msrvtt_captions(dir: &Path, problems: &mut Problems) -> Result<(PathBuf, Captions)> {
    let own = dir.join(MSRVTT_TRAIN_CAPTIONS);
    if own.exists() {
        let mut captions = Vec::new();
        let expected = r#"expected {"video_id": "video0", "caption": "..."}"#;
        json_lines(&own, expected, problems, |line, found: MsrvttSentence| {
            captions.push((found.video_id, found.caption, line));
        })?;
        return Ok((own, captions));
    }
    let json = dir.join(MSRVTT_JSON);
    if !json.exists() {
        let fix = format!("put {MSRVTT_JSON} here, or {MSRVTT_TRAIN_CAPTIONS} with a video_id and a caption a line");
        return Err(Error::format(dir, "the captions for training are missing", fix));
    }
    let captions = listed(msrvtt_json(&json)?.sentences);
    Ok((json, captions))
}

fn msrvtt_full(place: &Path, split: Split) -> Result<Listing> {
    let MsrvttJson { videos, sentences } = msrvtt_json(place)?;
    let wanted: HashSet<String> =
        videos.into_iter().filter(|video| video.split == split).map(|video| video.video_id).collect();
    let entries = numbered(listed(sentences), split, |id| wanted.contains(id));
    Ok(Listing { place: place.to_path_buf(), entries })
}
