//! Files at the edge: mapping, capped reading, names that are safe, writing that leaves nothing half done.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result, bytes};

/// Longest line of a JSON-lines file.
const LINE_LIMIT: u64 = 16 << 20;

/// The bytes of a file, mapped read-only. Empty files are empty slices.
#[derive(Debug)]
pub struct Mapped(Option<memmap2::Mmap>);

impl Mapped {
    /// Maps a regular file; the file must not be changed while it is in use.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses, [`Error::Format`] for anything but a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path)?;
        let length = file.metadata().map_err(|e| Error::io("read the size of", path)(e))?.len();
        if length == 0 {
            return Ok(Self(None));
        }
        if usize::try_from(length).is_err() {
            let what = format!("the file has {}, more than this machine can map", bytes(length));
            return Err(Error::format(path, what, "split it into smaller files"));
        }
        // SAFETY: the map is read-only and private to this process, and is only ever seen as `&[u8]`. Another process
        // that shortens the file meanwhile could make reads fail (SIGBUS); the docstring forbids that, as for every
        // reader that maps.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path)(e))?;
        Ok(Self(Some(map)))
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Opens a file for reading; refuses folders, pipes and devices, on which reading could block for ever.
pub fn open_regular(path: &Path) -> Result<File> {
    // `Error::io` copies the path: only once there is an error, since this runs for each item that is loaded.
    let metadata = fs::metadata(path).map_err(|e| Error::io("open", path)(e))?;
    if !metadata.is_file() {
        return Err(Error::format(path, "this is not a regular file", "name a file"));
    }
    File::open(path).map_err(|e| Error::io("open", path)(e))
}

/// The whole of a file of at most `limit` bytes.
pub fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
    if length > limit {
        let what = format!("the file has {}, the limit is {}", bytes(length), bytes(limit));
        return Err(Error::format(path, what, "split the data set"));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(Error::io("read", path))?;
    Ok(content)
}

/// Calls `each(line number from 1, bytes of the line)` for every line that is not blank.
pub fn each_line(path: &Path, mut each: impl FnMut(u64, &[u8])) -> Result<()> {
    let mut reader = BufReader::new(open_regular(path)?);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let read = reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == LINE_LIMIT && !line.ends_with(b"\n") {
            let what = format!("line {number} is longer than {}", bytes(LINE_LIMIT));
            return Err(Error::format(path, what, "write one JSON object a line"));
        }
        let content = line.trim_ascii();
        if !content.is_empty() {
            each(number, content);
        }
    }
}

/// Whether `id` can be the stem of a file on every system and stays inside its folder.
pub fn is_file_name(id: &str) -> bool {
    const FORBIDDEN: &[char] = &['/', '\\', ':', '*', '?', '"', '<', '>', '|'];
    !id.is_empty()
        && id.len() <= 200
        && !id.starts_with('.')
        && !id.contains(FORBIDDEN)
        && !id.chars().any(char::is_control)
}

/// A new file or folder that is written beside its place and appears there, whole, on [`Beside::keep`]. Dropped before,
/// it vanishes.
#[derive(Debug)]
pub struct Beside {
    target: PathBuf,
    partial: PathBuf,
    kept: bool,
}

impl Beside {
    /// A place beside a file that may exist (it is replaced) or a folder that must be absent or empty.
    ///
    /// # Errors
    /// [`Error::Format`] if `target` is a folder with something in it.
    pub fn new(target: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(Error::format(target, "this cannot be the name of a new file or folder", "name another"));
        };
        if target.is_dir() && fs::read_dir(target).map_err(Error::io("list", target))?.next().is_some() {
            return Err(Error::format(target, "this folder exists and is not empty", "name another, or remove it"));
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let partial = target.with_file_name(hidden);
        if let Some(parent) = parent_of(target) {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        Ok(Self { target: target.to_path_buf(), partial, kept: false })
    }

    /// Where to write.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts what was written in its place, durably. The files in a folder must have been synced by their writers.
    pub fn keep(mut self) -> Result<()> {
        sync(&self.partial)?;
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(Error::io("replace", &self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(Error::io("create", &self.target))?;
        self.kept = true;
        match parent_of(&self.target) {
            Some(parent) => sync(parent),
            None => sync(Path::new(".")),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.kept {
            // A failure here has no one to hear it: the error that led here is on its way up.
            let _ =
                if self.partial.is_dir() { fs::remove_dir_all(&self.partial) } else { fs::remove_file(&self.partial) };
        }
    }
}

/// Writes a small file durably, or not at all.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let beside = Beside::new(path)?;
    let mut file = File::create(beside.partial()).map_err(Error::io("create", path))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("write", path))?;
    beside.keep()
}

fn parent_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

/// Makes a file's content, or a folder's list of names, survive a power cut.
#[cfg(unix)]
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("write", path))
}

/// Other systems cannot open folders and refuse to sync files opened for reading; the writers have synced theirs.
#[cfg(not(unix))]
pub(super) fn sync(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let beside = Beside::new(&dir.path().join("out")).unwrap();
        fs::create_dir(beside.partial()).unwrap();
        fs::write(beside.partial().join("half"), "x").unwrap();
        drop(beside);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_holds_something_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        let error = Beside::new(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not empty") && error.contains(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn ids_that_leave_their_folder_are_no_file_names() {
        for bad in ["", "..", "../x", "a/b", "a\\b", "c:d", ".hidden", "a\nb"] {
            assert!(!is_file_name(bad), "{bad:?}");
        }
        assert!(is_file_name("video12#3") && is_file_name("ret0"));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_instead_of_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.npy");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(Mapped::open(&pipe).unwrap_err().to_string().contains("pipe.npy"));
        }
    }
}
