//! LSMDC 2016: `<CLIP_ID>\t<START_ALIGNED>\t<END_ALIGNED>\t<START_EXTRACTED>\t<END_EXTRACTED>\t<SENTENCE>` a line, without
//! a header and without quoting (readme of the challenge's annotations; CLIP4Clip reads them so). The public test of
//! 1,000 clips is published under a misspelt name, which copies have corrected.

use std::path::{Path, PathBuf};

use super::captions::{Caption, numbered, text_lines};
use super::{Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::{Error, Result};

const TRAIN: &str = "LSMDC16_annos_training.csv";
const VAL: &str = "LSMDC16_annos_val.csv";
const TEST: &str = "LSMDC16_challenge_1000_publictect.csv";
const TEST_SPELT: &str = "LSMDC16_challenge_1000_publictest.csv";

/// One sentence a clip in test; in training some clips have several. Text ids: the clip's with `#0`, `#1` and so on.
pub(super) const LSMDC: Format = Format {
    name: "lsmdc",
    marks: &[TEST, TEST_SPELT, TRAIN, VAL],
    unless: &[],
    others: &["LSMDC16_annos_test.csv", "LSMDC16_annos_blindtest.csv"],
    has: |dir, split| file(dir, split).exists(),
    read,
    other_id: |_| None,
};

fn file(dir: &Path, split: Split) -> PathBuf {
    let spelt = dir.join(TEST_SPELT);
    match split {
        Split::Train => dir.join(TRAIN),
        Split::Val => dir.join(VAL),
        Split::Test if spelt.exists() => spelt,
        Split::Test => dir.join(TEST),
    }
}

fn read(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let place = file(dir, split);
    if !place.exists() {
        return Err(Error::format(place, format!("the captions of {split} are missing"), "put LSMDC's file here"));
    }
    let mut captions = Vec::new();
    text_lines(&place, problems, |line, content, problems| {
        let fields: Vec<&str> = content.split('\t').collect();
        match fields[..] {
            [id, _, _, _, _, sentence] => {
                captions.push(Caption { video_id: id.trim().into(), text: sentence.into(), line });
            }
            _ => {
                let what = format!("{} fields, expected 6", fields.len());
                let fix = "expected a clip id, four times and a sentence, with tabs between";
                problems.error(&place, &format!("line {line}"), what, fix);
            }
        }
    })?;
    Ok(Listing { entries: numbered(captions, split, |_| true), place })
}
