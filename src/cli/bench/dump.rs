//! A batch, the parameters and what came of them, on disk, so that another framework can repeat a step.

use crate::data::TokenDtype;
use crate::data::files::write_whole;
use crate::data::npy;
use crate::engine::scheduler::executor::SlotWriter;
use crate::engine::tensor::DType;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::models::folder::save_tensors;
use std::path::Path;

/// Writes `params.safetensors` and `meta.json`.
pub fn model(dir: &Path, model: &dyn Model, params: &[f32], meta: &serde_json::Value) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    save_tensors(&dir.join("params.safetensors"), model.parameters(), &[("", params)])?;
    write_whole(&dir.join("meta.json"), format!("{meta:#}\n").as_bytes())
}

/// Writes each input of the plan as `NAME.npy`, rows that are counted only: `words [ΣL, D]` (a text's last row is its
/// sentence vector), `frames [ΣT, D]`, u32 `word_segments` and `frame_segments` `[N, 2]`, and what else the model's
/// losses take. A vector is a column.
pub fn inputs(dir: &Path, slot: &SlotWriter) -> Result<()> {
    for (input, words) in slot.inputs() {
        let path = dir.join(format!("{}.npy", input.name));
        let dims = input.meta.dims();
        let rows = dims.first().map_or(1, |d| d.len(&slot.counts));
        let (stride, columns) = dims.get(1).map_or((1, 1), |d| (d.cap(), d.len(&slot.counts)));
        let counted = words.chunks_exact(stride.max(1)).take(rows).flat_map(|row| &row[..columns]).copied();
        match input.meta.dtype() {
            DType::U32 => write_u32(&path, columns, &counted.collect::<Vec<u32>>())?,
            DType::F32 => {
                let values: Vec<f32> = counted.map(f32::from_bits).collect();
                npy::write(&path, TokenDtype::F32, columns, &values)?;
            }
        }
    }
    Ok(())
}

/// Writes `gradient.safetensors`, by the parameters' names.
pub fn gradient(dir: &Path, model: &dyn Model, flat: &[f32]) -> Result<()> {
    save_tensors(&dir.join("gradient.safetensors"), model.parameters(), &[("", flat)])
}

/// A `.npy` file, version 1, of u32 `[rows, columns]`.
fn write_u32(path: &Path, columns: usize, values: &[u32]) -> Result<()> {
    let shape = (values.len() / columns.max(1), columns);
    let text = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': {shape:?}, }}");
    // The numbers begin at a multiple of 64 bytes, behind ten bytes of preamble and a line feed.
    let text = format!("{text:<0$}\n", (text.len() + 11).next_multiple_of(64) - 11);
    let mut all = b"\x93NUMPY\x01\x00".to_vec();
    all.extend((text.len() as u16).to_le_bytes());
    all.extend(text.as_bytes());
    values.iter().for_each(|v| all.extend(v.to_le_bytes()));
    write_whole(path, &all)
}
