//! Score matrices `[texts, videos]`: in memory, or anything that can hand out a row.

use super::ranks::{CaptionMode, Counts, Directions, RankCounter, Truth};
use super::relevance::Relevance;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Bytes of scores held at once while a matrix is counted.
const PANEL: usize = 16 << 20;

/// A source of scores that can be read row by row, in any order, from several threads.
pub trait ScoreMatrix: Sync {
    fn texts(&self) -> usize;
    fn videos(&self) -> usize;
    /// Write the scores of text `i` with all videos into `out`, of length [`ScoreMatrix::videos`].
    fn row(&self, i: usize, out: &mut [f32]) -> Result<()>;
}

/// A dense matrix in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// # Errors
    /// [`Error::Shape`] when `data` does not hold `rows · cols` numbers.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self> {
        if rows.checked_mul(cols) != Some(data.len()) {
            return Err(Error::shape("score matrix", format!("{} scores are no [{rows}, {cols}]", data.len())));
        }
        Ok(Matrix { rows, cols, data })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// `[rows, cols]` → `[cols, rows]`, in a second matrix.
    pub fn transposed(&self) -> Matrix {
        let mut data = vec![0.0; self.data.len()];
        data.par_chunks_mut(self.rows.max(1)).enumerate().for_each(|(column, out)| {
            for (out, row) in out.iter_mut().zip(self.data.chunks_exact(self.cols.max(1))) {
                *out = row[column];
            }
        });
        Matrix { rows: self.cols, cols: self.rows, data }
    }

    /// Read a whole matrix into memory. `bytes_per_score` is what the caller will hold for each score in all.
    ///
    /// # Errors
    /// [`Error::Memory`] before anything is allocated when that exceeds `limit` bytes.
    pub fn gather(source: &dyn ScoreMatrix, bytes_per_score: u64, limit: u64, what: &str) -> Result<Matrix> {
        let (rows, cols) = (source.texts(), source.videos());
        let needed = (rows as u64).saturating_mul(cols as u64).saturating_mul(bytes_per_score);
        if needed > limit {
            return Err(Error::Memory {
                what: format!("{what} of {rows} texts and {cols} videos"),
                needed,
                available: limit,
                fix: "turn post-processing off; plain evaluation streams and needs no matrix in memory".into(),
            });
        }
        let mut data = vec![0.0; rows * cols];
        if cols > 0 {
            data.par_chunks_mut(cols).enumerate().try_for_each(|(i, out)| source.row(i, out))?;
        }
        Matrix::new(rows, cols, data)
    }
}

impl ScoreMatrix for Matrix {
    fn texts(&self) -> usize {
        self.rows
    }
    fn videos(&self) -> usize {
        self.cols
    }
    fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        let row = i.checked_mul(self.cols).and_then(|b| self.data.get(b..)?.get(..self.cols));
        match row {
            Some(row) if row.len() == out.len() => {
                out.copy_from_slice(row);
                Ok(())
            }
            _ => Err(Error::shape(
                "score matrix",
                format!("row {i} into {} places of [{}, {}]", out.len(), self.rows, self.cols),
            )),
        }
    }
}

/// Count all ranks of a matrix: two passes over its rows, a few megabytes of memory.
///
/// # Errors
/// [`Error::Shape`] when the matrix is not `[texts, videos]` of `relevance`; whatever reading a row raises;
/// [`Error::NotFinite`] for a NaN.
pub fn count(
    matrix: &dyn ScoreMatrix,
    relevance: Relevance,
    mode: CaptionMode,
    directions: Directions,
) -> Result<Counts> {
    let (texts, videos) = (relevance.texts(), relevance.videos());
    if (matrix.texts(), matrix.videos()) != (texts, videos) {
        return Err(Error::shape(
            "score matrix",
            format!(
                "[{}, {}] where the data has {texts} texts and {videos} videos (rows are texts)",
                matrix.texts(),
                matrix.videos()
            ),
        ));
    }
    let mut truth = Truth::new(relevance);
    panels(matrix, |first, scores, rows| truth.tile(first, 0, scores, rows, videos, videos))?;
    let mut counter = RankCounter::new(truth, mode, directions)?;
    panels(matrix, |first, scores, rows| counter.tile(first, 0, scores, rows, videos, videos))?;
    counter.finish()
}

/// Hand over the matrix in panels of whole rows: `(first row, scores, rows)`.
fn panels(matrix: &dyn ScoreMatrix, mut take: impl FnMut(usize, &[f32], usize) -> Result<()>) -> Result<()> {
    let (texts, videos) = (matrix.texts(), matrix.videos());
    let height = (PANEL / size_of::<f32>() / videos.max(1)).clamp(1, texts.max(1));
    let size = height.checked_mul(videos).ok_or_else(|| Error::shape("score matrix", "it is too large to address"))?;
    let mut panel = vec![0.0f32; size];
    for first in (0..texts).step_by(height) {
        let rows = height.min(texts - first);
        let scores = &mut panel[..rows * videos];
        scores.par_chunks_mut(videos.max(1)).enumerate().try_for_each(|(r, out)| matrix.row(first + r, out))?;
        take(first, scores, rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_changes_nothing() {
        let matrix = Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(matrix.transposed().data(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(matrix.transposed().transposed(), matrix);
    }

    #[test]
    fn wrong_shapes_are_refused_with_both_shapes() {
        assert!(Matrix::new(2, 2, vec![0.0; 3]).is_err());
        assert!(Matrix::new(usize::MAX, 2, vec![]).is_err());
        let matrix = Matrix::new(2, 3, vec![0.0; 6]).unwrap();
        assert!(matrix.row(2, &mut [0.0; 3]).is_err() && matrix.row(0, &mut [0.0; 2]).is_err());
        let relevance = Relevance::one_to_one(3).unwrap();
        let error = count(&matrix, relevance, CaptionMode::Single, Directions::Both).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("3 texts"), "{error}");
    }

    #[test]
    fn a_matrix_too_large_to_gather_is_refused_before_it_is_read() {
        struct Huge;
        impl ScoreMatrix for Huge {
            fn texts(&self) -> usize {
                usize::MAX
            }
            fn videos(&self) -> usize {
                usize::MAX
            }
            fn row(&self, _: usize, _: &mut [f32]) -> Result<()> {
                panic!("read although refused")
            }
        }
        let error = Matrix::gather(&Huge, 4, 1 << 32, "post-processing").unwrap_err();
        assert!(matches!(error, Error::Memory { .. }), "{error}");
    }
}
