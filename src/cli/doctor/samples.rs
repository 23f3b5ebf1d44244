//! An op's samples with what its f64 reference makes of them, on disk, for a second opinion from elsewhere.

use crate::data::files::write_whole;
use crate::engine::op::{Class, OPS, Sample};
use crate::engine::tensor::{HostData, HostTensor};
use crate::error::{Error, Result};
use serde_json::json;
use std::path::Path;

/// Writes every small sample of an op into `DIR/000`, `DIR/001`, …: `meta.json`, `in0.npy`, … (absent operands have no
/// file) and `out0.npy`, …, in f64 and u32 at true sizes. Returns how many there are.
/// # Errors
/// An op that does not exist, a folder that cannot be written.
pub fn dump(op: &str, dir: &Path) -> Result<usize> {
    let found = OPS.iter().find(|o| o.name() == op).ok_or_else(|| {
        let names: Vec<&str> = OPS.iter().map(|o| o.name()).collect();
        Error::config("--dump-samples", format!("there is no op {op:?}"), format!("choose one of {}", names.join(", ")))
    })?;
    let samples: Vec<Sample> = found.samples().into_iter().filter(|s| s.class == Class::Tiny).collect();
    for (i, sample) in samples.iter().enumerate() {
        let dir = dir.join(format!("{i:03}"));
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let outs = sample.op.reference(&sample.ins, &sample.counts);
        let meta = json!({ "op": op, "sample": sample.name, "attributes": format!("{:?}", sample.op),
            "operands": sample.ins.len(), "outputs": outs.len() });
        write_whole(&dir.join("meta.json"), format!("{meta:#}\n").as_bytes())?;
        for (prefix, tensors) in [("in", &sample.ins), ("out", &outs)] {
            for (k, tensor) in tensors.iter().enumerate().filter(|(_, t)| !t.is_absent()) {
                write_whole(&dir.join(format!("{prefix}{k}.npy")), &npy(tensor))?;
            }
        }
    }
    Ok(samples.len())
}

/// A tensor as a `.npy` file, version 1.
fn npy(tensor: &HostTensor) -> Vec<u8> {
    let kind = if matches!(tensor.data, HostData::U32(_)) { "<u4" } else { "<f8" };
    let sizes: String = tensor.shape.iter().map(|n| format!("{n}, ")).collect();
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // The numbers begin at a multiple of 64 bytes, behind ten bytes of preamble and a line feed.
    let text = format!("{text:<0$}\n", (text.len() + 11).next_multiple_of(64) - 11);
    let mut all = b"\x93NUMPY\x01\x00".to_vec();
    all.extend((text.len() as u16).to_le_bytes());
    all.extend(text.as_bytes());
    match &tensor.data {
        HostData::F64(values) => values.iter().for_each(|v| all.extend(v.to_le_bytes())),
        HostData::U32(values) => values.iter().for_each(|v| all.extend(v.to_le_bytes())),
        HostData::Absent => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::op::Op;

    #[test]
    fn samples_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let count = dump("contrast", dir.path()).unwrap();
        assert!(count > 3);
        let samples: Vec<Sample> = crate::engine::op::contrast::CONTRAST.samples();
        for (i, sample) in samples.iter().filter(|s| s.class == Class::Tiny).enumerate() {
            let bytes = std::fs::read(dir.path().join(format!("{i:03}/in0.npy"))).unwrap();
            let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!(begin % 64, 0);
            let values: Vec<f64> = bytes[begin..].as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            assert_eq!(values, sample.ins[0].x(), "{}", sample.name);
        }
        let error = dump("contrastive", dir.path()).unwrap_err().to_string();
        assert!(error.contains("contrastive"), "{error}");
    }
}
