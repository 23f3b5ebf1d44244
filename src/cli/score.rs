//! `score`: the whole score matrix of a data set as a file, for other programs.

use super::split::{DataArgs, split};
use super::{Common, STOP, device, output, progress};
use crate::data::files::Beside;
use crate::data::{TokenDtype, npy};
use crate::error::{Error, Result};
use crate::models::scorer::Scorer;
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Write the scores of all texts with all videos.
#[derive(Args)]
#[command(after_help = "\
Example:
  moviola score --model run --data world --out sim.npy
  python3 -c 'import numpy; print(numpy.load(\"sim.npy\").shape)'")]
pub struct Score {
    /// Model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// train, val or test.
    #[arg(long, default_value = "test")]
    split: String,
    /// The file: `.npy`, f32, [texts, videos].
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    out: &'a Path,
    texts: usize,
    videos: usize,
    device: String,
}

impl Score {
    pub fn run(&self, common: &Common) -> Result<()> {
        let data = self.data.open(split(&self.split)?)?;
        let (texts, videos) = (data.pairs.len(), data.gallery().len());
        let text_items = data.pairs.iter().map(|p| p.text).collect();
        let backend = device::open(common)?;
        let mut scorer =
            Scorer::open(&self.model, (&*data.texts, text_items), (&*data.videos, data.gallery()), backend)?;
        let mut matrix = MatrixFile::create(&self.out, texts, videos)?;
        let bar = progress::bar(common, "score", (texts * videos) as u64);
        scorer.score_all(
            |tile| {
                let columns = tile.videos.len();
                for (r, row) in tile.scores.chunks(tile.stride).take(tile.texts.len()).enumerate() {
                    matrix.write(tile.texts.start + r, tile.videos.start, &row[..columns])?;
                }
                bar.inc((tile.texts.len() * columns) as u64);
                Ok(())
            },
            &STOP,
        )?;
        matrix.finish()?;
        bar.finish_and_clear();
        let written = Written { out: &self.out, texts, videos, device: scorer.device() };
        output::result(common, &written, || {
            format!("{}: [{texts} texts, {videos} videos], f32, {}", self.out.display(), written.device)
        })
    }
}

/// A `.npy` matrix that is written piece by piece beside its place.
struct MatrixFile {
    path: PathBuf,
    beside: Beside,
    file: File,
    header: u64,
    columns: usize,
}

impl MatrixFile {
    fn create(path: &Path, rows: usize, columns: usize) -> Result<MatrixFile> {
        let beside = Beside::new(path)?;
        let mut file = File::create(beside.partial()).map_err(Error::io("create", path))?;
        let header = npy::header_bytes(TokenDtype::F32, rows, columns)?;
        file.write_all(&header).map_err(Error::io("write", path))?;
        let bytes = header.len() as u64 + (rows * columns * 4) as u64;
        file.set_len(bytes).map_err(Error::io("write", path))?;
        Ok(MatrixFile { path: path.into(), beside, file, header: header.len() as u64, columns })
    }

    fn write(&mut self, row: usize, column: usize, values: &[f32]) -> Result<()> {
        let at = self.header + ((row * self.columns + column) * 4) as u64;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(&bytes));
        written.map_err(Error::io("write", &self.path))
    }

    fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        self.beside.keep()
    }
}
