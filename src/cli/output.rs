//! Where results go: JSON or text on standard output, notes on standard error.

use super::Common;
use crate::error::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a result was printed.
static TOLD: AtomicBool = AtomicBool::new(false);

pub fn is_told() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// Prints a result: as JSON when asked for, else as the text for people.
pub fn result(common: &Common, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    TOLD.store(true, Ordering::Relaxed);
    let text = if common.json {
        serde_json::to_string_pretty(value)
            .map_err(|e| Error::config("--json", e.to_string(), "leave --json out and report it"))?
    } else {
        text()
    };
    line(&text)
}

/// A line on standard output. A reader that has seen enough (`| head`) is no error.
pub fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", "standard output")(e)),
        _ => Ok(()),
    }
}

/// A line for people about what is going on.
pub fn note(common: &Common, text: impl AsRef<str>) {
    if !common.quiet {
        eprintln!("{}", text.as_ref());
    }
}
