//! Anyone's score matrix: a `.npy` file `[texts, videos]`, mapped, read row by row.

use super::matrix::ScoreMatrix;
use crate::data::TokenDtype;
use crate::data::files::Mapped;
use crate::data::npy;
use crate::data::tokens::decode;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A score matrix on disk in f16, f32 or f64.
pub struct NpyMatrix {
    path: PathBuf,
    file: Mapped,
    dtype: TokenDtype,
    texts: usize,
    videos: usize,
    offset: usize,
}

impl NpyMatrix {
    /// # Errors
    /// [`Error::Format`] when the file is no two-dimensional `.npy` or is cut short.
    pub fn open(path: &Path) -> Result<NpyMatrix> {
        let file = Mapped::open(path)?;
        let h = npy::header(&file, file.len() as u64).map_err(|c| c.at(path, ""))?;
        Ok(NpyMatrix { path: path.into(), dtype: h.dtype, texts: h.rows, videos: h.dim, offset: h.offset, file })
    }
}

impl ScoreMatrix for NpyMatrix {
    fn texts(&self) -> usize {
        self.texts
    }
    fn videos(&self) -> usize {
        self.videos
    }
    fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let bytes = self.videos * self.dtype.size();
        let row = i.checked_mul(bytes).and_then(|at| self.file.get(self.offset.checked_add(at)?..)?.get(..bytes));
        let row = row.ok_or_else(|| Error::shape("score matrix", format!("there is no row {i} of {}", self.texts)))?;
        decode(&self.path, &format!("text {i}"), self.dtype, row, self.videos, out)
    }
}
