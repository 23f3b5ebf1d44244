//! Moviola's own: `captions.jsonl`, `{"text_id", "video_id", "caption", "split"}` a line.

use std::path::Path;

use serde::Deserialize;

use super::captions::json_lines;
use super::{Entry, Format, Listing, Split};
use crate::data::problem::Problems;
use crate::error::Result;

pub const CAPTIONS: &str = "captions.jsonl";

pub(super) const NATIVE: Format =
    Format { name: "native", marks: &[CAPTIONS], unless: &[], others: &[], has: |_, _| true, read, other_id: |_| None };

#[derive(Deserialize)]
struct CaptionLine {
    text_id: String,
    video_id: String,
    caption: String,
    split: Split,
}

fn read(dir: &Path, split: Split, problems: &mut Problems) -> Result<Listing> {
    let place = dir.join(CAPTIONS);
    let mut entries = Vec::new();
    let expected = r#"expected {"text_id": "...", "video_id": "...", "caption": "...", "split": "train"}"#;
    json_lines(&place, expected, problems, |line, found: CaptionLine| {
        let CaptionLine { text_id, video_id, caption, split } = found;
        entries.push(Entry { text_id, video_id, caption: caption.trim().to_string(), split, line });
    })?;
    entries.retain(|entry| entry.split == split);
    Ok(Listing { place, entries })
}
