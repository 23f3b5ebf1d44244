//! Rows of long work that can be broken off: each item that is done is on the disk before the next is begun, and whoever
//! runs the same again goes on from there.
//!
//! Beside the target lies `.NAME.unfinished` with `rows.f32` (the rows of all items, one after the other) and
//! `journal.jsonl` (the settings, then a line an item). An item counts once its line is whole; rows beyond it are cut.

use super::files::{each_line, sync};
use super::tokens::VALUES_LIMIT;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const ROWS: &str = "rows.f32";
const JOURNAL: &str = "journal.jsonl";

/// One finished item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub id: String,
    pub rows: usize,
    /// Seconds of each row, `[rows]`; none for what has no time.
    pub timestamps: Vec<f32>,
    /// Length and time of the file that it was made of: one that changed is made again.
    pub stamp: String,
    /// Where its rows begin, in values.
    begin: u64,
}

/// Finished items on the disk.
pub struct Journal {
    dir: PathBuf,
    dim: usize,
    lines: Vec<Line>,
    by_id: HashMap<String, usize>,
    rows: File,
    journal: File,
    /// Values in `rows`.
    end: u64,
}

impl Journal {
    /// Opens the unfinished work that lies beside `target`, or begins it. `settings` is all that rows depend on, in one
    /// line.
    ///
    /// # Errors
    /// [`Error::Format`] when unfinished work of other settings lies there, what lies there is damaged, or another program
    /// is at it.
    pub fn open(target: &Path, dim: usize, settings: &str) -> Result<Journal> {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".unfinished");
        let dir = target.with_file_name(name);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let (place, rows_place) = (dir.join(JOURNAL), dir.join(ROWS));
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).open(path).map_err(Error::io("open", path))
        };
        let (rows, mut journal) = (open(&rows_place)?, open(&place)?);
        // Two that append would each take the other's rows for its own.
        if matches!(journal.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
            return Err(Error::format(dir, "another program works here", "wait for its end, or choose another --out"));
        }
        for folder in [Some(dir.as_path()), dir.parent().filter(|p| !p.as_os_str().is_empty())].into_iter().flatten() {
            sync(folder)?;
        }
        let (mut lines, mut found, mut sound) = (vec![], None, 0);
        let there = rows.metadata().map_err(Error::io("read the size of", &rows_place))?.len() / 4;
        let mut end = 0;
        each_line(&place, |number, content| {
            if found.is_none() && number == 1 {
                found = serde_json::from_slice::<String>(content).ok();
                sound = content.len() as u64 + 1;
                return;
            }
            let line = serde_json::from_slice::<Line>(content).ok().filter(|line| {
                let values = (line.rows as u64).checked_mul(dim as u64).filter(|v| *v <= VALUES_LIMIT);
                let fits = values.and_then(|v| line.begin.checked_add(v)).is_some_and(|e| e <= there);
                fits && line.begin == end && (line.timestamps.is_empty() || line.timestamps.len() == line.rows)
            });
            // A line that was cut short, and whatever follows it, has not happened.
            if let Some(line) = line.filter(|_| number == lines.len() as u64 + 2) {
                end += (line.rows * dim) as u64;
                sound += content.len() as u64 + 1;
                lines.push(line);
            }
        })?;
        match found {
            Some(found) if found == settings => {}
            Some(found) => {
                let what = format!("holds unfinished work with other settings ({found})");
                return Err(Error::format(dir, what, "run it with these to finish it, or remove the folder"));
            }
            None => {
                let first = serde_json::to_string(settings).map_err(|e| Error::io("write", &place)(e.into()))? + "\n";
                (lines, end, sound) = (vec![], 0, first.len() as u64);
                journal
                    .set_len(0)
                    .and_then(|()| journal.write_all(first.as_bytes()))
                    .map_err(Error::io("write", &place))?;
            }
        }
        let written = journal.metadata().map_err(Error::io("read the size of", &place))?.len();
        let cut = match written < sound {
            // The last line is whole and lacks its end.
            true => journal.write_all(b"\n"),
            false => journal.set_len(sound),
        };
        cut.map_err(Error::io("write", &place))?;
        rows.set_len(4 * end).map_err(Error::io("write", &rows_place))?;
        let by_id = lines.iter().enumerate().map(|(i, line)| (line.id.clone(), i)).collect();
        Ok(Journal { dir, dim, lines, by_id, rows, journal, end })
    }

    /// Whether nothing is finished.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The finished item of this id, if it was made of the file as it is now.
    pub fn has(&self, id: &str, stamp: &str) -> bool {
        self.by_id.get(id).is_some_and(|i| self.lines[*i].stamp == stamp)
    }

    /// Keeps an item, `[rows, dim]`. When this returns it survives the end of the program, and a power cut.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, id: &str, stamp: &str, values: &[f32], timestamps: Vec<f32>) -> Result<()> {
        let rows = values.len() / self.dim;
        let line = Line { id: id.into(), rows, timestamps, stamp: stamp.into(), begin: self.end };
        let place = self.dir.join(ROWS);
        self.rows.write_all(bytemuck::cast_slice(values)).map_err(Error::io("write", &place))?;
        self.rows.sync_data().map_err(Error::io("write", &place))?;
        let place = self.dir.join(JOURNAL);
        let text = serde_json::to_string(&line).map_err(|e| Error::io("write", &place)(e.into()))? + "\n";
        self.journal.write_all(text.as_bytes()).map_err(Error::io("write", &place))?;
        self.journal.sync_data().map_err(Error::io("write", &place))?;
        self.end += values.len() as u64;
        self.by_id.insert(line.id.clone(), self.lines.len());
        self.lines.push(line);
        Ok(())
    }

    /// Hands the rows of items, given by id and stamp, to `each`, in that order; those that are not finished, or were made
    /// of a file that has changed, are left out.
    ///
    /// # Errors
    /// [`Error::Io`], and those of `each`.
    pub fn read<'a>(
        &mut self,
        items: impl Iterator<Item = (&'a str, &'a str)>,
        mut each: impl FnMut(&Line, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let place = self.dir.join(ROWS);
        let mut values: Vec<f32> = vec![];
        let found = items.filter_map(|(id, stamp)| self.by_id.get(id).map(|i| (&self.lines[*i], stamp)));
        for (line, _) in found.filter(|(line, stamp)| line.stamp == *stamp) {
            values.resize(line.rows * self.dim, 0.0);
            self.rows.seek(SeekFrom::Start(4 * line.begin)).map_err(Error::io("read", &place))?;
            self.rows.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(Error::io("read", &place))?;
            each(line, &values)?;
        }
        Ok(())
    }

    /// Removes it: what it held lies in its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        let Journal { dir, rows, journal, .. } = self;
        drop((rows, journal));
        fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(journal: &mut Journal, wanted: &[&str]) -> Vec<(String, Vec<f32>)> {
        let mut read = vec![];
        let each = |line: &Line, values: &[f32]| {
            read.push((line.id.clone(), values.to_vec()));
            Ok(())
        };
        journal.read(wanted.iter().map(|id| (*id, "1")), each).unwrap();
        read
    }

    #[test]
    fn what_was_pushed_is_there_after_a_kill_at_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let mut journal = Journal::open(&target, 2, "s").unwrap();
        journal.push("a", "1", &[1.0, 2.0], vec![0.0]).unwrap();
        journal.push("b", "1", &[3.0, 4.0, 5.0, 6.0], vec![0.0, 1.0]).unwrap();
        drop(journal);
        let unfinished = dir.path().join(".out.unfinished");
        let (log, rows) = (fs::read(unfinished.join(JOURNAL)).unwrap(), fs::read(unfinished.join(ROWS)).unwrap());
        for cut in 0..=log.len() {
            fs::write(unfinished.join(JOURNAL), &log[..cut]).unwrap();
            fs::write(unfinished.join(ROWS), &rows).unwrap();
            let mut journal = Journal::open(&target, 2, "s").unwrap();
            let kept = journal.by_id.len();
            journal.push("c", "1", &[7.0, 8.0], vec![]).unwrap();
            drop(journal);
            let mut journal = Journal::open(&target, 2, "s").unwrap();
            let read = ids(&mut journal, &["b", "a", "c"]);
            assert_eq!(read.len(), kept + 1, "cut at {cut}");
            assert_eq!(read.last().unwrap(), &("c".to_string(), vec![7.0, 8.0]), "cut at {cut}");
            if kept == 2 {
                assert_eq!(read[0], ("b".to_string(), vec![3.0, 4.0, 5.0, 6.0]));
            }
        }
        // The last line counts only where its rows are there, too.
        fs::write(unfinished.join(JOURNAL), &log).unwrap();
        fs::write(unfinished.join(ROWS), &rows[..20]).unwrap();
        assert_eq!(Journal::open(&target, 2, "s").unwrap().by_id.len(), 1);
    }

    #[test]
    fn other_settings_and_changed_files_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let mut journal = Journal::open(&target, 1, "fps 1").unwrap();
        journal.push("a", "0", &[1.0], vec![0.0]).unwrap();
        assert!(journal.has("a", "0") && !journal.has("a", "1"));
        // It changed, and what it became is not there yet, or never will be.
        assert_eq!(ids(&mut journal, &["a"]), []);
        journal.push("a", "1", &[2.0], vec![0.0]).unwrap();
        assert_eq!(ids(&mut journal, &["a"]), [("a".to_string(), vec![2.0])]);
        let error = Journal::open(&target, 1, "fps 1").err().unwrap().to_string();
        assert!(error.contains("another program"), "{error}");
        drop(journal);
        let error = Journal::open(&target, 1, "fps 2").err().unwrap().to_string();
        assert!(error.contains("fps 1") && error.contains("unfinished"), "{error}");
        Journal::open(&target, 1, "fps 1").unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
