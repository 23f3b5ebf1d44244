//! Progress bars with rate and time left; nothing where standard error is no terminal.

use super::Common;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar for `total` things.
pub fn bar(common: &Common, what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if common.quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is ours and constant; should it ever be wrong, the default style is as good.
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len} {per_sec} {eta} left {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_string());
    bar
}
