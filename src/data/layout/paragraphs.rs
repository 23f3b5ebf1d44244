//! Paragraph-to-video retrieval: all sentences of a video, in the order of the file, are one text whose id is the video's.
//! Both data sets were made to find moments; the times of their sentences are not read.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::captions::{Caption, LISTS, Members, id_list, joined, json, list_of, paragraphs, tell_silent};
use super::{Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

const ACTIVITYNET_TRAIN: &str = "train.json";
const VAL_1: &str = "val_1.json";
const TRAIN_IDS: &str = "train_ids.json";
const VAL_IDS: &str = "val_ids.json";

/// ActivityNet Captions (Krishna et al. 2017): `{"v_…": {"duration", "timestamps", "sentences"}}`; the first annotation
/// of the validation videos (4,917 of them) is the test, as in CE, MMT and CLIP4Clip. Videos are often stored without
/// the `v_` of their ids.
pub(super) const ACTIVITYNET_VAL1: Format = Format {
    name: "activitynet-val1",
    marks: &[VAL_1],
    unless: &[],
    others: &[ACTIVITYNET_TRAIN, "val_2.json", TRAIN_IDS, VAL_IDS, "test_ids.json"],
    has: |dir, split| match split {
        Split::Train => dir.join(ACTIVITYNET_TRAIN).exists(),
        Split::Val => false,
        Split::Test => dir.join(VAL_1).exists(),
    },
    read: activitynet,
    other_id: |id| id.strip_prefix("v_"),
};

const DIDEMO_FILES: [&str; 3] = ["train_data.json", "val_data.json", "test_data.json"];

/// DiDeMo (Hendricks et al. 2017, LocalizingMoments): `[{"description", "video", "times", …}]`, a described moment each.
/// Videos are file names (`….mov`), often stored without the ending. Lists of ids, as CLIP4Clip has them, keep to the
/// videos in them.
pub(super) const DIDEMO: Format = Format {
    name: "didemo",
    marks: &DIDEMO_FILES,
    unless: &[],
    others: &LISTS,
    has: |dir, split| dir.join(DIDEMO_FILES[split as usize]).exists(),
    read: didemo,
    other_id: |id| id.rsplit_once('.').map(|(stem, _)| stem),
};

#[derive(Deserialize)]
struct Described {
    sentences: Vec<String>,
}

fn activitynet(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let (file, ids) = match split {
        Split::Train => (ACTIVITYNET_TRAIN, TRAIN_IDS),
        Split::Test => (VAL_1, VAL_IDS),
        Split::Val => {
            let fix = "choose train or test; val_1.json is the test, as in the literature";
            return Err(Error::format(dir, "activitynet-val1 has no validation split", fix));
        }
    };
    let place = dir.join(file);
    let Members(videos) = json::<Members<Described>>(
        &place,
        r#"expected {"v_...": {"duration": 1.5, "timestamps": [[0, 1.5]], "sentences": ["..."]}}"#,
    )?;
    let list = dir.join(ids);
    let wanted: Option<Vec<String>> = match list.exists() {
        true => Some(json(&list, r#"expected ["v_...", "v_..."]"#)?),
        false => None,
    };
    let captions = videos.into_iter().zip(1..).map(|((video_id, described), line)| Caption {
        text: joined(&described.sentences),
        video_id,
        line,
    });
    Ok(chosen(place, captions.collect(), split, &list, wanted, problems))
}

#[derive(Deserialize)]
struct Moment {
    video: String,
    description: String,
}

fn didemo(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let place = dir.join(DIDEMO_FILES[split as usize]);
    let moments: Vec<Moment> =
        json(&place, r#"expected [{"video": "...mov", "description": "...", "times": [[0, 1]]}]"#)?;
    let mut positions: HashMap<String, usize> = HashMap::new();
    let mut videos: Vec<(String, Vec<String>, u64)> = Vec::new();
    for (Moment { video, description }, line) in moments.into_iter().zip(1..) {
        let position = *positions.entry(video.clone()).or_insert(videos.len());
        match videos.get_mut(position) {
            Some((_, sentences, _)) => sentences.push(description),
            None => videos.push((video, vec![description], line)),
        }
    }
    let list = list_of(dir, split);
    let wanted = if list.exists() { Some(id_list(&list, problems)?) } else { None };
    let captions =
        videos.into_iter().map(|(video_id, sentences, line)| Caption { text: joined(&sentences), video_id, line });
    Ok(chosen(place, captions.collect(), split, &list, wanted, problems))
}

/// The paragraphs of the videos in a list, of all if there is none.
fn chosen(
    place: std::path::PathBuf,
    mut captions: Vec<Caption>,
    split: Split,
    list: &Path,
    wanted: Option<Vec<String>>,
    problems: &mut Problems,
) -> Listing {
    if let Some(ids) = &wanted {
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        captions.retain(|caption| ids.contains(caption.video_id.as_str()));
    }
    let listing = Listing { place, entries: paragraphs(captions, split) };
    if let Some(ids) = wanted {
        tell_silent(list, &ids, &listing, problems);
    }
    listing
}
