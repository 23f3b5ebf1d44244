//! Where results go: JSON or text on standard output, notes on standard error.

use super::Common;
use crate::error::{Error, Result};
use serde::Serialize;

/// Prints a result: as JSON when asked for, else as the text for people.
pub fn result(common: &Common, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    if common.json {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::config("--json", e.to_string(), "leave --json out and report it"))?;
        println!("{text}");
    } else {
        println!("{}", text());
    }
    Ok(())
}

/// A line for people about what is going on.
pub fn note(common: &Common, text: impl AsRef<str>) {
    if !common.quiet {
        eprintln!("{}", text.as_ref());
    }
}
