//! Videos as files of pictures: `frames/VIDEO/` with a picture a frame, in the order of their names, or one picture
//! `frames/VIDEO.png` (or jpg, jpeg). Captions are those of any layout.

use super::files::is_file_name;
use super::layout::{self, Layout, Split};
use super::media::PICTURES;
use super::problem::Problems;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

pub const FRAMES: &str = "frames";
/// Folder of a data set's videos, as files.
pub const CLIPS: &str = "clips";

/// The captions of a split, and which videos they tell of.
#[derive(Debug)]
pub struct Captioned {
    /// Caption and position in `videos`.
    pub pairs: Vec<(String, usize)>,
    /// Ids, in the order in which captions name them.
    pub videos: Vec<String>,
}

impl Captioned {
    /// # Errors
    /// The first line of captions that cannot be read, or that there are no captions.
    pub fn open(dir: &Path, layout: Option<Layout>, split: Split) -> Result<Captioned> {
        let layout = layout.map_or_else(|| Layout::detect(dir), Ok)?;
        let mut problems = Problems::default();
        let listing = layout::read(dir, layout, split, &mut problems);
        problems.refuse()?;
        let mut set = Captioned { pairs: vec![], videos: vec![] };
        let mut known: HashMap<String, usize> = HashMap::new();
        for entry in listing.entries {
            let video = *known.entry(entry.video_id).or_insert_with_key(|id| {
                set.videos.push(id.clone());
                set.videos.len() - 1
            });
            set.pairs.push((entry.caption, video));
        }
        if set.pairs.is_empty() {
            let what = format!("has no captions of the split {split}");
            return Err(Error::format(listing.place, what, "see `moviola data check --help` for the layout"));
        }
        Ok(set)
    }
}

/// The captions of a split, and the files of their videos.
#[derive(Debug)]
pub struct PictureSet {
    /// Caption and position in `videos`.
    pub pairs: Vec<(String, usize)>,
    /// Frames in their order, one or more each.
    pub videos: Vec<Vec<PathBuf>>,
}

impl PictureSet {
    /// Whether the folder has pictures of videos.
    pub fn is_there(dir: &Path) -> bool {
        dir.join(FRAMES).is_dir()
    }

    /// # Errors
    /// The first line of captions that cannot be read, the first video without pictures, or that there are no captions.
    pub fn open(dir: &Path, layout: Option<Layout>, split: Split) -> Result<PictureSet> {
        let Captioned { pairs, videos } = Captioned::open(dir, layout, split)?;
        let videos = videos.iter().map(|id| frames(&dir.join(FRAMES), id)).collect::<Result<_>>()?;
        Ok(PictureSet { pairs, videos })
    }
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|e| PICTURES.contains(&e.as_str()))
}

fn frames(dir: &Path, id: &str) -> Result<Vec<PathBuf>> {
    let bad = |what: &str, fix: &str| Err(Error::data(dir.display().to_string(), id, what, fix));
    if !is_file_name(id) {
        return bad("is no name that a file can have", "rename the video");
    }
    let of = dir.join(id);
    if !of.is_dir() {
        return match PICTURES.iter().map(|e| dir.join(format!("{id}.{e}"))).find(|path| path.exists()) {
            Some(picture) => Ok(vec![picture]),
            None => {
                bad("has no pictures", "put them into a folder of this name here, or one beside it as .png or .jpg")
            }
        };
    }
    let mut found = vec![];
    for entry in fs::read_dir(&of).map_err(Error::io("list", &of))? {
        found.push(entry.map_err(Error::io("list", &of))?.path());
    }
    found.retain(|path| is_picture(path));
    found.sort();
    if found.is_empty() { bad("is a folder without pictures", "put .png or .jpg files into it") } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_the_order_of_their_names_and_what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("frames/a")).unwrap();
        for name in ["frames/a/2.png", "frames/a/1.JPG", "frames/a/notes.txt", "frames/b.jpeg"] {
            fs::write(at(name), "").unwrap();
        }
        let line = |text: &str, video: &str, split: &str| {
            format!(
                "{{\"text_id\": \"{text}\", \"video_id\": \"{video}\", \"caption\": \"c {text}\", \"split\": \"{split}\"}}\n"
            )
        };
        let lines = [("t0", "a", "train"), ("t1", "b", "train"), ("t2", "a", "train"), ("t3", "gone", "val")];
        let text: String = lines.iter().map(|(t, v, s)| line(t, v, s)).collect();
        fs::write(at("captions.jsonl"), text + &line("t4", "../b", "test")).unwrap();
        let set = PictureSet::open(dir.path(), None, Split::Train).unwrap();
        assert_eq!(set.videos, [vec![at("frames/a/1.JPG"), at("frames/a/2.png")], vec![at("frames/b.jpeg")]]);
        let pairs: Vec<(&str, usize)> = set.pairs.iter().map(|(c, v)| (c.as_str(), *v)).collect();
        assert_eq!(pairs, [("c t0", 0), ("c t1", 1), ("c t2", 0)]);
        let refused = |split| PictureSet::open(dir.path(), None, split).unwrap_err().to_string();
        assert!(refused(Split::Val).contains("gone") && refused(Split::Test).contains("../b"));
    }
}
