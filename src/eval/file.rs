//! Writing a small file so that a reader sees the old one or the new one, never half of one.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Write `content` beside `path` and rename it into place.
///
/// # Errors
/// [`Error::Io`] when the folder is absent or not writable; nothing is left behind then.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| Error::config("path", "it names no file", "give a file name"))?);
    // The process id keeps two programs that write the same file from sharing one half-written neighbour.
    name.push(format!(".{}.partial", std::process::id()));
    let beside = path.with_file_name(name);
    let written =
        write_all(&beside, content).and_then(|()| fs::rename(&beside, path).map_err(Error::io("write", path)));
    if written.is_err() {
        // The first error is the one worth reading; the neighbour may not even exist.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_all(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        replace(&path, b"a long first version").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("absent/table.json"), b"").unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
