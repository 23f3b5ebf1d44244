//! What is wrong with data: collected by readers, refused by `open`, shown by `check`.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// The data can be used, though probably not as meant.
    Warning,
    /// The data cannot be used.
    Error,
}

/// One thing that is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// The file or folder.
    pub place: String,
    /// The item in it: a video, a text, a tensor, `line 12`; may be empty.
    pub id: String,
    pub what: String,
    pub fix: String,
}

impl Problem {
    /// The same as an error of the crate.
    pub fn into_error(self) -> Error {
        if self.id.is_empty() {
            Error::format(self.place, self.what, self.fix)
        } else {
            Error::data(self.place, self.id, self.what, self.fix)
        }
    }
}

/// What a parser says of bytes before anyone knows from which file they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub what: String,
    pub fix: String,
}

impl Complaint {
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }

    /// The complaint about item `id` in `place`.
    pub fn at(self, place: &Path, id: &str) -> Error {
        Error::data(place.display().to_string(), id, self.what, self.fix)
    }
}

/// Problems in the order in which they were met.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub fn error(&mut self, place: &Path, id: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, place, id, what.into(), fix.into());
    }

    pub fn warning(&mut self, place: &Path, id: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, place, id, what.into(), fix.into());
    }

    pub fn info(&mut self, place: &Path, id: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Info, place, id, what.into(), fix.into());
    }

    /// Keeps an error of the crate as a problem.
    pub fn add(&mut self, place: &Path, id: &str, error: Error) {
        match error {
            Error::Format { path, what, fix } => self.error(&path, id, what, fix),
            Error::Data { place, id, what, fix } => {
                self.list.push(Problem { severity: Severity::Error, place, id, what, fix });
            }
            other => self.error(place, id, other.to_string(), "repair or remove it"),
        }
    }

    /// Takes over what `other` has and this has not: a file that is read once a split complains each time.
    pub fn add_new(&mut self, other: Problems) {
        let known: HashSet<Problem> = self.list.iter().cloned().collect();
        self.list.extend(other.list.into_iter().filter(|problem| !known.contains(problem)));
    }

    /// How many of them make the data unusable.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|p| p.severity == Severity::Error).count()
    }

    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    pub fn into_list(self) -> Vec<Problem> {
        self.list
    }

    /// The first error, if there is one; warnings pass.
    ///
    /// # Errors
    /// The first problem of severity `Error`, with the number of further ones.
    pub fn refuse(self) -> Result<()> {
        let more = self.errors().saturating_sub(1);
        let Some(mut first) = self.list.into_iter().find(|p| p.severity == Severity::Error) else { return Ok(()) };
        if more > 0 {
            first.fix = format!("{} (and {more} more: `moviola data check` lists them all)", first.fix);
        }
        Err(first.into_error())
    }

    fn push(&mut self, severity: Severity, place: &Path, id: &str, what: String, fix: String) {
        self.list.push(Problem { severity, place: place.display().to_string(), id: id.to_string(), what, fix });
    }
}
