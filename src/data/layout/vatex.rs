//! VATEX (Wang et al. 2019): `[{"videoID": "<YouTube id>_<start>_<end>", "enCap": [10], "chCap": [10]}]` a split, of which
//! the English captions are read; or HGR's `ref_captions.json` (id → captions) with lists. HGR's split, "1k5", takes
//! 1,500 of the validation videos for val and 1,500 for test.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::captions::{Caption, LISTS, Members, id_list, json, list_of, numbered, tell_silent};
use super::{Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

const FILES: [&str; 3] =
    ["vatex_training_v1.0.json", "vatex_validation_v1.0.json", "vatex_public_test_english_v1.1.json"];
const REFERENCE: &str = "ref_captions.json";

/// Ten captions a video, all of which are queries. A list makes its split; without one, a split is its file less the
/// videos that other lists name. Text ids: the video's with `#0`, `#1` and so on.
pub(super) const VATEX: Format = Format {
    name: "vatex",
    marks: &[FILES[0], FILES[1], FILES[2], REFERENCE],
    unless: &[],
    others: &[LISTS[0], LISTS[1], LISTS[2], "vatex_private_test_without_annotations.json"],
    has: |dir, split| list_of(dir, split).exists() || dir.join(FILES[split as usize]).exists(),
    read,
    other_id: |_| None,
};

#[derive(Deserialize)]
struct Video {
    #[serde(rename = "videoID")]
    id: String,
    #[serde(rename = "enCap")]
    english: Vec<String>,
}

fn read(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let own = dir.join(FILES[split as usize]);
    let list = list_of(dir, split);
    if list.exists() {
        return by_list(dir, split, &list, problems);
    }
    if !own.exists() {
        let what = format!("neither {} nor {} is here", LISTS[split as usize], FILES[split as usize]);
        return Err(Error::format(dir, what, "put one of them here, or choose another split"));
    }
    let mut elsewhere = HashSet::new();
    for other in Split::ALL.map(|other| list_of(dir, other)).into_iter().filter(|list| list.exists()) {
        elsewhere.extend(id_list(&other, problems)?);
    }
    let captions = flat(file(&own)?);
    Ok(Listing { entries: numbered(captions, split, |id| !elsewhere.contains(id)), place: own })
}

/// The captions of the videos in a list, whichever file has them.
fn by_list(dir: &Path, split: Split, list: &Path, problems: &mut Problems) -> Result<Listing> {
    let ids = id_list(list, problems)?;
    let mut missing: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let own = FILES[split as usize];
    let reference = dir.join(REFERENCE);
    let mut listing = Listing { place: dir.to_path_buf(), entries: Vec::new() };
    // Its own file first, so that the others are read only for what it lacks.
    let files = [own].into_iter().chain(FILES.into_iter().filter(|file| *file != own)).map(|name| dir.join(name));
    for place in [reference.clone()].into_iter().chain(files).filter(|place| place.exists()) {
        if missing.is_empty() {
            break;
        }
        let videos = if place == reference { references(&place)? } else { file(&place)? };
        let entries = numbered(flat(videos), split, |id| missing.contains(id));
        for entry in &entries {
            missing.remove(entry.video_id.as_str());
        }
        if listing.entries.is_empty() {
            listing.place = place;
        }
        listing.entries.extend(entries);
    }
    tell_silent(list, &ids, &listing, problems);
    Ok(listing)
}

/// Videos with their captions.
type Videos = Vec<(String, Vec<String>)>;

fn file(place: &Path) -> Result<Videos> {
    let videos: Vec<Video> = json(place, r#"expected [{"videoID": "...", "enCap": ["..."]}]"#)?;
    Ok(videos.into_iter().map(|video| (video.id, video.english)).collect())
}

fn references(place: &Path) -> Result<Videos> {
    Ok(json::<Members<Vec<String>>>(place, r#"expected {"id": ["...", "..."]}"#)?.0)
}

fn flat(videos: Videos) -> Vec<Caption> {
    let of = |((video_id, texts), line): ((String, Vec<String>), u64)| {
        texts.into_iter().map(move |text| Caption { video_id: video_id.clone(), text, line })
    };
    videos.into_iter().zip(1..).flat_map(of).collect()
}
