//! A batch, the parameters and what came of them, on disk, so that another framework can repeat a step.

use super::batch::Batch;
use crate::data::TokenDtype;
use crate::data::files::write_whole;
use crate::data::npy;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::models::folder::save_tensors;
use std::path::Path;

/// Writes `words.npy [ΣL, D]` (a text's last row is its sentence vector), `frames.npy [ΣT, D]`, u32 `word_segments.npy`
/// and `frame_segments.npy` `[N, 2]`, `video_key.npy` and `caption_key.npy` `[N, 1]`, and `params.safetensors`.
pub fn inputs(dir: &Path, model: &dyn Model, batch: &Batch, params: &[f32]) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    for (name, tokens) in [("words.npy", &batch.texts), ("frames.npy", &batch.videos)] {
        let dim = tokens.values().len() / tokens.rows().max(1);
        npy::write(&dir.join(name), TokenDtype::F32, dim, tokens.values())?;
    }
    write_u32(&dir.join("word_segments.npy"), 2, &batch.texts.segments())?;
    write_u32(&dir.join("frame_segments.npy"), 2, &batch.videos.segments())?;
    write_u32(&dir.join("video_key.npy"), 1, &batch.video_key)?;
    write_u32(&dir.join("caption_key.npy"), 1, &batch.caption_key)?;
    save_tensors(&dir.join("params.safetensors"), model.parameters(), &[("", params)])
}

/// Writes `gradient.safetensors`, by the parameters' names.
pub fn gradient(dir: &Path, model: &dyn Model, flat: &[f32]) -> Result<()> {
    save_tensors(&dir.join("gradient.safetensors"), model.parameters(), &[("", flat)])
}

/// Writes `meta.json`.
pub fn meta(dir: &Path, meta: &serde_json::Value) -> Result<()> {
    write_whole(&dir.join("meta.json"), format!("{meta:#}\n").as_bytes())
}

/// A `.npy` file, version 1, of u32 `[rows, columns]`.
fn write_u32(path: &Path, columns: usize, values: &[u32]) -> Result<()> {
    let shape = (values.len() / columns, columns);
    let text = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': {shape:?}, }}");
    // The numbers begin at a multiple of 64 bytes, behind ten bytes of preamble and a line feed.
    let text = format!("{text:<0$}\n", (text.len() + 11).next_multiple_of(64) - 11);
    let mut all = b"\x93NUMPY\x01\x00".to_vec();
    all.extend((text.len() as u16).to_le_bytes());
    all.extend(text.as_bytes());
    values.iter().for_each(|v| all.extend(v.to_le_bytes()));
    write_whole(path, &all)
}
