//! MSR-VTT: `MSRVTT_data.json` as Microsoft published it, and the lists of JSFusion and of the 9,000 training videos that
//! CLIP4Clip and others hand out with it (`key,vid_key,video_id,sentence` and `video_id`).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::captions::{Caption, csv_rows, json, json_lines, numbered};
use super::{Entry, Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

pub const MSRVTT_TEST: &str = "MSRVTT_JSFUSION_test.csv";
pub const MSRVTT_TRAIN: &str = "MSRVTT_train.9k.csv";
pub const MSRVTT_VAL: &str = "MSRVTT_val.csv";
pub const MSRVTT_JSON: &str = "MSRVTT_data.json";
pub const MSRVTT_TRAIN_CAPTIONS: &str = "MSRVTT_train_captions.jsonl";

/// 9,000 videos for training, 1,000 pairs for test. Text ids: `ret0` for test, `video12#3` (the fourth caption) for
/// training.
pub(super) const MSRVTT_1KA: Format = Format {
    name: "msrvtt-1ka",
    marks: &[MSRVTT_TEST],
    unless: &[],
    others: &[MSRVTT_TRAIN, MSRVTT_VAL, MSRVTT_JSON, MSRVTT_TRAIN_CAPTIONS],
    has: |dir, split| {
        let has = |name: &str| dir.join(name).exists();
        match split {
            Split::Test => has(MSRVTT_TEST),
            Split::Train => has(MSRVTT_TRAIN) && (has(MSRVTT_JSON) || has(MSRVTT_TRAIN_CAPTIONS)),
            Split::Val => has(MSRVTT_VAL),
        }
    },
    read: |dir, split, problems| match split {
        Split::Test => test(&dir.join(MSRVTT_TEST), problems),
        _ => train(dir, split, problems),
    },
    other_id: |_| None,
};

/// The official split: 6,513, 497 and 2,990 videos with all their captions. Text ids: `video12#3`.
pub(super) const MSRVTT_FULL: Format = Format {
    name: "msrvtt-full",
    marks: &[MSRVTT_JSON],
    // 1k-A takes its training captions from the same file.
    unless: &[MSRVTT_TEST],
    others: &[MSRVTT_TEST, MSRVTT_TRAIN, MSRVTT_VAL, MSRVTT_TRAIN_CAPTIONS],
    has: |_, _| true,
    read: full,
    other_id: |_| None,
};

/// The ids in MSR-VTT's list of training videos.
pub(crate) fn train_ids(place: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    Ok(csv_rows(place, ["video_id"], problems)?.into_iter().map(|(_, [id])| id).collect())
}

fn test(place: &Path, problems: &mut Problems) -> Result<Listing> {
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

fn train(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
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
    json(place, r#"expected {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}"#)
}

fn listed(sentences: Vec<MsrvttSentence>) -> Vec<Caption> {
    sentences.into_iter().zip(1..).map(|(s, line)| Caption { video_id: s.video_id, text: s.caption, line }).collect()
}

/// The captions for training: from our own list if there is one, otherwise from MSR-VTT's JSON.
fn msrvtt_captions(dir: &Path, problems: &mut Problems) -> Result<(PathBuf, Vec<Caption>)> {
    let own = dir.join(MSRVTT_TRAIN_CAPTIONS);
    if own.exists() {
        let mut captions = Vec::new();
        let expected = r#"expected {"video_id": "video0", "caption": "..."}"#;
        json_lines(&own, expected, problems, |line, found: MsrvttSentence| {
            captions.push(Caption { video_id: found.video_id, text: found.caption, line });
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

fn full(dir: &Path, split: Split, _: &mut Problems) -> Result<Listing> {
    let place = dir.join(MSRVTT_JSON);
    let MsrvttJson { videos, sentences } = msrvtt_json(&place)?;
    let wanted: HashSet<String> =
        videos.into_iter().filter(|video| video.split == split).map(|video| video.video_id).collect();
    let entries = numbered(listed(sentences), split, |id| wanted.contains(id));
    Ok(Listing { place, entries })
}
