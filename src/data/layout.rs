//! How data sets lie on disk: which text describes which video, in which split.
//!
//! A layout is a variant of [`Layout`] and a `Format` in a file of its family, which says all that is known of it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::problem::Problems;
use super::tokens::TokenSource;
use crate::error::{Error, Result};

mod captions;
mod lsmdc;
mod msrvtt;
mod msvd;
mod native;
mod paragraphs;
mod vatex;

pub(crate) use msrvtt::train_ids;
pub use msrvtt::{MSRVTT_JSON, MSRVTT_TEST, MSRVTT_TRAIN, MSRVTT_TRAIN_CAPTIONS, MSRVTT_VAL};
pub use native::CAPTIONS;

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

/// Which files list the captions; docs/layouts.md describes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Native,
    Msrvtt1kA,
    MsrvttFull,
    Msvd,
    Vatex,
    ActivityNetVal1,
    DiDeMo,
    Lsmdc,
}

/// All that is known of a layout.
struct Format {
    name: &'static str,
    /// Any of these files shows the layout,
    marks: &'static [&'static str],
    /// none of these being there.
    unless: &'static [&'static str],
    /// Further files that belong to it, whether they are read or not.
    others: &'static [&'static str],
    /// Whether the files of a split are there.
    has: fn(&Path, Split) -> bool,
    read: fn(&Path, Split, &mut Problems) -> Result<Listing>,
    /// Another id under which files of this video are common.
    other_id: fn(&str) -> Option<&str>,
}

impl Layout {
    pub const ALL: [Self; 8] = [
        Self::Native,
        Self::Msrvtt1kA,
        Self::MsrvttFull,
        Self::Msvd,
        Self::Vatex,
        Self::ActivityNetVal1,
        Self::DiDeMo,
        Self::Lsmdc,
    ];

    fn format(self) -> &'static Format {
        match self {
            Self::Native => &native::NATIVE,
            Self::Msrvtt1kA => &msrvtt::MSRVTT_1KA,
            Self::MsrvttFull => &msrvtt::MSRVTT_FULL,
            Self::Msvd => &msvd::MSVD,
            Self::Vatex => &vatex::VATEX,
            Self::ActivityNetVal1 => &paragraphs::ACTIVITYNET_VAL1,
            Self::DiDeMo => &paragraphs::DIDEMO,
            Self::Lsmdc => &lsmdc::LSMDC,
        }
    }

    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// All names, for people: `native, msrvtt-1ka, …`.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Whether `name` is a file of this layout in a data set's folder.
    pub(crate) fn knows(self, name: &str) -> bool {
        let Format { marks, others, .. } = self.format();
        marks.iter().chain(others.iter()).any(|known| *known == name)
    }

    /// The layouts whose files lie in `dir`.
    fn candidates(dir: &Path) -> Vec<Self> {
        let any = |names: &[&str]| names.iter().any(|name| dir.join(name).exists());
        let shows = |layout: &Self| any(layout.format().marks) && !any(layout.format().unless);
        Self::ALL.into_iter().filter(shows).collect()
    }

    /// Whether `dir` has files of any layout.
    pub(crate) fn any(dir: &Path) -> bool {
        dir.is_dir() && !Self::candidates(dir).is_empty()
    }

    /// The layout of `dir`. Where [`MSRVTT_TEST`] lies beside [`MSRVTT_JSON`], it is 1k-A.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none, or files of several.
    pub fn detect(dir: &Path) -> Result<Self> {
        match Self::candidates(dir)[..] {
            [layout] => Ok(layout),
            [] => {
                let each = |layout: Self| format!("{} ({})", layout.marks().join(" or "), layout.name());
                let fix = format!("expected one of {}", Self::ALL.map(each).join(", "));
                Err(Error::format(dir, "this is no data set", fix))
            }
            ref several => {
                let names: Vec<_> = several.iter().map(|layout| layout.name()).collect();
                let what = format!("files of {} lie here together", names.join(" and "));
                Err(Error::format(dir, what, "choose one with --layout, or keep each in a folder of its own"))
            }
        }
    }

    fn marks(self) -> &'static [&'static str] {
        self.format().marks
    }

    /// The splits whose files are there; all of them if none are, so that reading says what is missing.
    pub fn splits(self, dir: &Path) -> Vec<Split> {
        let present: Vec<Split> = Split::ALL.into_iter().filter(|split| (self.format().has)(dir, *split)).collect();
        if present.is_empty() { Split::ALL.to_vec() } else { present }
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
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

impl Listing {
    /// Calls videos or texts by the ids that `source` has, where a layout's are also common in another form (`v_abc` as
    /// `abc`).
    pub(crate) fn fit(&mut self, layout: Layout, source: &dyn TokenSource, id_of: impl Fn(&mut Entry) -> &mut String) {
        let other_id = layout.format().other_id;
        for id in self.entries.iter_mut().map(id_of) {
            if source.find(id).is_none()
                && let Some(other) = other_id(id)
                && source.find(other).is_some()
            {
                *id = other.to_string();
            }
        }
    }
}

/// Reads the captions of `split`; lines that cannot be used become problems.
pub fn read(dir: &Path, layout: Layout, split: Split, problems: &mut Problems) -> Listing {
    let Format { read, marks, .. } = layout.format();
    let mut listing = read(dir, split, problems).unwrap_or_else(|error| {
        problems.add(dir, "", error);
        Listing { place: dir.join(marks.first().unwrap_or(&"")), entries: Vec::new() }
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
