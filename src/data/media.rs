//! Folders of videos and pictures: which files are there, under which ids, and which frames are taken of them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const VIDEOS: [&str; 13] = ["mp4", "m4v", "mkv", "webm", "mov", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "ogv", "gif"];
pub(super) const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];
/// Folders within folders; deeper ones are refused rather than followed for ever.
const DEEPEST: usize = 16;

/// Which frames of a video are taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// What is on the screen at 0, 1/fps, 2/fps, … seconds.
    Fps(f32),
    /// What is on the screen in the middle of each of so many equal parts.
    Frames(usize),
}

impl Sampling {
    /// # Errors
    /// [`Error::Config`] for a rate or number out of range.
    pub fn check(self) -> Result<Sampling> {
        match self {
            Sampling::Fps(fps) if !(0.001..=240.0).contains(&fps) => {
                Err(Error::config("--fps", format!("is {fps}"), "use a number from 0.001 to 240"))
            }
            Sampling::Frames(n) if n == 0 || n >= 1 << 20 => {
                Err(Error::config("--frames", format!("is {n}"), "use a number from 1 to a million"))
            }
            sound => Ok(sound),
        }
    }
}

impl std::fmt::Display for Sampling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sampling::Fps(fps) => write!(f, "{fps} frames a second"),
            Sampling::Frames(n) => write!(f, "{n} frames spread evenly"),
        }
    }
}

/// Where features of videos come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The folder of the files, absolute.
    pub folder: PathBuf,
    pub sampling: Sampling,
    /// What decoded them, for example `ffmpeg 5.1.9`.
    pub decoder: String,
}

/// What a folder is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    Video,
    Picture,
}

impl MediaKind {
    fn endings(self) -> &'static [&'static str] {
        match self {
            MediaKind::Video => &VIDEOS,
            MediaKind::Picture => &PICTURES,
        }
    }
    fn plural(self) -> &'static str {
        match self {
            MediaKind::Video => "videos",
            MediaKind::Picture => "pictures",
        }
    }
}

/// A video or picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// The path within the folder without its ending, with `/` on every system.
    pub id: String,
    /// Within the folder.
    pub file: PathBuf,
}

/// All videos or pictures in a folder and the folders within, by their ids' order, also links that lead nowhere. What
/// begins with a dot is left out.
///
/// # Errors
/// [`Error::Format`] when there are none, when two would have one id, and for names that are no UTF-8.
pub fn find(folder: &Path, kind: MediaKind) -> Result<Vec<Media>> {
    let mut found = vec![];
    walk(folder, Path::new(""), kind, 0, &mut found)?;
    found.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| a.file.cmp(&b.file)));
    for pair in found.windows(2) {
        if let [a, b] = pair
            && a.id == b.id
        {
            let what = format!("{} and {} would both be {:?}", a.file.display(), b.file.display(), a.id);
            return Err(Error::format(folder, what, "rename one of them"));
        }
    }
    if found.is_empty() {
        let what = format!("there are no {} here", kind.plural());
        return Err(Error::format(folder, what, format!("files that end in {} are taken", kind.endings().join(", "))));
    }
    Ok(found)
}

fn walk(root: &Path, within: &Path, kind: MediaKind, depth: usize, found: &mut Vec<Media>) -> Result<()> {
    let here = root.join(within);
    if depth > DEEPEST {
        return Err(Error::format(here, format!("lies {depth} folders deep"), "name a folder closer to the files"));
    }
    for entry in fs::read_dir(&here).map_err(Error::io("list", &here))? {
        let entry = entry.map_err(Error::io("list", &here))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(Error::format(entry.path(), "its name is no UTF-8", "rename it"));
        };
        if name.starts_with('.') {
            continue;
        }
        let file = within.join(name);
        // Links to folders are not followed, or a ring of them would have no end; those to files are.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(root, &file, kind, depth + 1, found)?;
        // A link that leads nowhere is of those that cannot be opened: without it, its file would be taken for gone.
        } else if fs::metadata(entry.path()).map_or(true, |of| of.is_file()) {
            let ending = file.extension().and_then(|e| e.to_str()).map(str::to_lowercase).unwrap_or_default();
            let stem = file.with_extension("");
            let parts: Vec<&str> = stem.iter().filter_map(|part| part.to_str()).collect();
            if kind.endings().contains(&ending.as_str()) {
                found.push(Media { id: parts.join("/"), file });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn files_are_found_in_the_order_of_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["b.MP4", "a/2.mkv", "a/1.webm", ".hidden.mp4", "note.txt", "c.jpg"]);
        let ids = |kind| find(dir.path(), kind).unwrap().into_iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!(ids(MediaKind::Video), ["a/1", "a/2", "b"]);
        assert_eq!(ids(MediaKind::Picture), ["c"]);
    }

    #[test]
    fn two_files_of_one_id_are_named() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["x.mp4", "x.mkv"]);
        let error = find(dir.path(), MediaKind::Video).unwrap_err().to_string();
        assert!(error.contains("x.mkv") && error.contains("x.mp4"), "{error}");
    }

    #[test]
    fn a_folder_without_videos_says_what_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path(), MediaKind::Video).unwrap_err().to_string();
        assert!(error.contains("no videos") && error.contains("mp4"), "{error}");
    }
}
