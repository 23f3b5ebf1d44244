//! The log of a run: one JSON object a line. A resumed run first cuts what lies beyond its checkpoint, so that the file
//! reads as if nothing had happened.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// One line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    Step {
        step: usize,
        epoch: usize,
        loss: f32,
        gradient_norm: f32,
        learning_rate: f32,
        /// Terms of the loss before they are weighted, where there are several.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        terms: BTreeMap<String, f32>,
    },
    /// Before the step that follows `step` finished ones.
    Gate {
        step: usize,
        /// What held-out pairs score by their foreground alone, less what they score by their background alone.
        lead: f32,
        open: bool,
    },
    Validation {
        step: usize,
        epoch: usize,
        /// Mean of R@1 in both directions, in percent, ties expected.
        recall_at_1: f64,
        t2v: f64,
        v2t: f64,
        best: bool,
    },
}

/// Appends lines; a line is on disk when a checkpoint that follows it is.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log, keeping only what happened up to and including `steps` finished steps, and validations up to
    /// `validated`.
    pub fn open(path: &Path, steps: usize, validated: usize) -> Result<Log> {
        let happened = |line: &Line| match line {
            Line::Step { step, .. } => *step <= steps,
            Line::Gate { step, .. } => *step < steps,
            Line::Validation { step, .. } => *step <= validated,
        };
        let kept: String = match File::open(path) {
            // A line that was cut short by a crash lies beyond the last checkpoint.
            Ok(file) => (BufReader::new(file).lines())
                .map_while(|l| l.ok())
                .filter(|l| serde_json::from_str::<Line>(l).is_ok_and(|line| happened(&line)))
                .map(|l| l + "\n")
                .collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        crate::data::files::write_whole(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Log { path: path.into(), file })
    }

    pub fn write(&mut self, line: &Line) -> Result<()> {
        let mut text =
            serde_json::to_string(line).map_err(|e| Error::format(&self.path, e.to_string(), "report it"))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }

    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }

    /// All lines so far.
    pub fn read(path: &Path) -> Result<Vec<Line>> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }
}
