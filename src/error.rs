//! The one error type. Every variant names the thing that is wrong, the limit it broke and what to do next.

use std::path::{Path, PathBuf};

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read, write, create, rename, … `path`.
    #[error("could not {action} {}: {source}{}", path.display(), io_hint(source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// A file's content is not what its format promises.
    #[error("{}: {what}; {fix}", path.display())]
    Format { path: PathBuf, what: String, fix: String },

    /// One item (video, text, row) of a data set is unusable.
    #[error("{place}: {id}: {what}; {fix}")]
    Data { place: String, id: String, what: String, fix: String },

    /// Operands of an op do not fit together.
    #[error("{op}: {what}")]
    Shape { op: String, what: String },

    /// A back end has no kernel for an op that a plan needs.
    #[error("{op} has no kernel for the {backend} back end; choose another with --device, or see docs/adding-an-op.md")]
    Unsupported { op: String, backend: String },

    /// A plan or a request needs more memory than there is. Raised before anything is allocated.
    #[error("{what} needs {} and {} are available; {fix}", bytes(*needed), bytes(*available))]
    Memory { what: String, needed: u64, available: u64, fix: String },

    /// A device is absent, was lost or refused work.
    #[error("device {device}: {what}; {fix}")]
    Device { device: String, what: String, fix: String },

    /// A setting, flag or configuration key has an impossible value.
    #[error("{key}: {what}; {fix}")]
    Config { key: String, what: String, fix: String },

    /// A value stopped being a number where it must be one.
    #[error("{place}: {what}; {fix}")]
    NotFinite { place: String, what: String, fix: String },

    /// The work was asked to stop (Ctrl-C, a dropped receiver). What was done is kept.
    #[error("stopped on request; what was finished is kept")]
    Stopped,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>, fix: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), what: what.into(), fix: fix.into() }
    }
    pub fn data(
        place: impl Into<String>,
        id: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Error {
        Error::Data { place: place.into(), id: id.into(), what: what.into(), fix: fix.into() }
    }
    pub fn shape(op: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Shape { op: op.into(), what: what.into() }
    }
    pub fn device(device: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Error {
        Error::Device { device: device.into(), what: what.into(), fix: fix.into() }
    }
    pub fn config(key: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Error {
        Error::Config { key: key.into(), what: what.into(), fix: fix.into() }
    }
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "; free some space and run the same command again",
        std::io::ErrorKind::PermissionDenied => "; check who may read and write there",
        std::io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

/// `1536` → `1.5 KiB`: sizes as people read them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_can_cross_threads() {
        fn assert<T: Send + Sync + 'static>() {}
        assert::<Error>();
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
