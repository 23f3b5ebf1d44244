//! What a file or folder of features, or a data set, is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::convert::{UNIT_TOLERANCE, length};
use super::dataset::{Layout, Split, places};
use super::layout;
use super::problem::Problems;
use super::source;
use super::tokens::{Provenance, TokenSource};
use crate::error::{Error, Result};

/// Items whose values are read for norms, evenly spread.
const SAMPLED: usize = 256;

/// What lies at a path.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub path: PathBuf,
    /// `None` for features without captions.
    pub layout: Option<Layout>,
    /// Pairs a split, of a data set.
    pub splits: Vec<SplitCount>,
    pub sources: Vec<SourceInspection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SplitCount {
    pub split: Split,
    pub pairs: usize,
}

/// What a source of tokens is.
#[derive(Debug, Clone, Serialize)]
pub struct SourceInspection {
    pub provenance: Provenance,
    pub count: usize,
    pub dim: usize,
    pub rows: Spread,
    /// Mean length of the rows of at most 256 items.
    pub norm_mean: f32,
    /// Whether all those rows have length 1 (± 0.01).
    pub unit_rows: bool,
    pub first_ids: Vec<String>,
}

/// How row counts are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub min: usize,
    pub median: usize,
    pub max: usize,
}

/// Looks at `path`: a data set, a folder of features or a file.
///
/// # Errors
/// If nothing readable is there, or a value that is read is not finite.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let Some(layout) = dataset_layout(path)? else {
        let sources = vec![source_inspection(&*source::open(path)?)?];
        return Ok(Inspection { path: path.to_path_buf(), layout: None, splits: Vec::new(), sources });
    };
    let count = |split: Split| {
        let pairs = layout::read(path, layout, split, &mut Problems::default()).entries.len();
        SplitCount { split, pairs }
    };
    let splits = layout.splits(path).into_iter().map(count).collect();
    let sources = ["videos", "texts"]
        .into_iter()
        .flat_map(|part| places(path, part))
        .filter(|(_, place)| place.exists())
        .map(|(_, place)| source_inspection(&*source::open(&place)?))
        .collect::<Result<_>>()?;
    Ok(Inspection { path: path.to_path_buf(), layout: Some(layout), splits, sources })
}

/// The layout of a data set; `None` for a place that holds features only.
pub(crate) fn dataset_layout(path: &Path) -> Result<Option<Layout>> {
    if !path.exists() {
        return Err(Error::format(path, "this does not exist", "name a data set, a folder of features or a file"));
    }
    match Layout::any(path) {
        true => Layout::detect(path).map(Some),
        false => Ok(None),
    }
}

fn source_inspection(source: &dyn TokenSource) -> Result<SourceInspection> {
    let count = source.len();
    let mut rows: Vec<usize> = (0..count).map(|i| source.rows(i)).collect();
    rows.sort_unstable();
    let at = |i: usize| rows.get(i).copied().unwrap_or(0);
    let spread = Spread { min: at(0), median: at(count / 2), max: at(count.saturating_sub(1)) };
    let (mut sum, mut measured, mut unit_rows) = (0.0_f64, 0_usize, true);
    for s in 0..count.min(SAMPLED) {
        let tokens = source.load(s * count / count.min(SAMPLED))?;
        for row in tokens.data.chunks_exact(source.dim().max(1)) {
            let length = length(row);
            sum += f64::from(length);
            measured += 1;
            unit_rows &= (length - 1.0).abs() <= UNIT_TOLERANCE;
        }
    }
    Ok(SourceInspection {
        provenance: source.provenance().clone(),
        count,
        dim: source.dim(),
        rows: spread,
        norm_mean: (sum / measured.max(1) as f64) as f32,
        unit_rows,
        first_ids: source.ids().iter().take(5).cloned().collect(),
    })
}
