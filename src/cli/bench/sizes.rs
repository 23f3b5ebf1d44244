//! Sizes of a benchmark's batch, as a person gives them.

use crate::error::{Error, Result};
use crate::models::random_batch::Sizes;

/// Most numbers of one side: a limit against slips of the finger.
const MOST: usize = 1 << 31;

/// # Errors
/// When a size is 0 or the tokens would not fit any machine.
pub fn check(sizes: &Sizes) -> Result<()> {
    let named = [("--texts or --batch", sizes.texts), ("--videos or --batch", sizes.videos), ("--words", sizes.words)];
    for (flag, n) in named.into_iter().chain([("--frames", sizes.frames), ("--dim", sizes.dim)]) {
        if n == 0 {
            return Err(Error::config(flag, "is 0", "use 1 or more"));
        }
    }
    let words = sizes.words.checked_add(1);
    for (rows, items) in [(words, sizes.texts), (Some(sizes.frames), sizes.videos)] {
        let numbers = rows.and_then(|n| n.checked_mul(items)).and_then(|n| n.checked_mul(sizes.dim));
        if numbers.is_none_or(|n| n > MOST) {
            let what = format!("{items} items of that size have more than {MOST} numbers");
            return Err(Error::config("the batch", what, "make it smaller"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_nothing_and_of_everything_are_refused() {
        let sizes = Sizes { texts: 50, videos: 50, words: 7, frames: 5, dim: 16, ragged: true };
        assert!(check(&sizes).is_ok());
        assert!(check(&Sizes { dim: 0, ..sizes }).is_err());
        assert!(check(&Sizes { words: usize::MAX, ..sizes }).is_err());
        assert!(check(&Sizes { frames: 1 << 30, ..sizes }).is_err());
    }
}
