//! More positions than a checkpoint has, for longer texts: the table of CLIP's text tower is stretched ("knowledge-preserved
//! stretching", Zhang et al. 2024, "Long-CLIP: Unlocking the Long-Text Capability of CLIP").
//!
//! ```text
//! new_i = old_i                                       for i < 20: most captions are no longer, so these are well trained
//! new_i = old at 20 + (i − 20) · (M − 20) / (N − 20)    between two rows in proportion, behind the last one on their line
//! ```
//! From M = 77 to N = 248 a row becomes four and the last three lie behind the last old one, as in the authors' code.

use crate::engine::op::attention::MOST_KEYS;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// The table, by its name in checkpoints.
pub const TABLE: &str = "text_model.embeddings.position_embedding.weight";
/// What older checkpoints number its rows with; nobody reads it.
pub const NUMBERS: &str = "text_model.embeddings.position_ids";

/// Rows that stay as they are.
const KEPT: usize = 20;
/// Rows where config.json does not say it, as in the first CLIP.
const USUAL: u64 = 77;
const KEY: &str = "max_position_embeddings";

/// How a table is stretched.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Rows that the checkpoint has.
    pub from: usize,
    pub to: usize,
}

impl Stretch {
    /// Stretches to `to` positions, which the configuration says from now on.
    ///
    /// # Errors
    /// When it does not describe a text tower of CLIP, or `to` is out of range.
    pub fn new(dir: &Path, config: &mut Value, to: usize) -> Result<Stretch> {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if !["clip", "clip_text_model"].contains(&kind) {
            let what = format!("model_type of {} is {kind:?}; only CLIP's texts can be made longer", dir.display());
            let fix = format!("leave it out: BERT and RoBERTa have {MOST_KEYS}, as many as attention takes here");
            return Err(Error::config("positions", what, fix));
        }
        let within = config.get("text_config").is_some();
        let tower = if within { &mut config["text_config"] } else { &mut *config };
        let unknown = || {
            let what = format!("{KEY} of the text tower is no number");
            Error::format(dir.join("config.json"), what, "copy it again from where the checkpoint is from")
        };
        let from = match tower.get(KEY) {
            None => Some(USUAL),
            Some(n) => n.as_u64(),
        };
        let from = from.and_then(|n| usize::try_from(n).ok()).ok_or_else(unknown)?;
        if from <= KEPT || to <= from || to > MOST_KEYS {
            let what = format!("is {to}, and {} has {from}, of which {KEPT} stay as they are", dir.display());
            let fix = match from {
                _ if from <= KEPT || from >= MOST_KEYS => "leave it out".into(),
                _ => format!("use {} to {MOST_KEYS}, or leave it out", from + 1),
            };
            return Err(Error::config("positions", what, fix));
        }
        tower.as_object_mut().ok_or_else(unknown)?.insert(KEY.into(), to.into());
        // Where there is one, transformers takes it for the truth, and what it leaves out for usual.
        if let Some(twin) = config.get_mut("text_config_dict").and_then(Value::as_object_mut) {
            twin.insert(KEY.into(), to.into());
        }
        Ok(Stretch { from, to })
    }

    /// `[from, D]` becomes `[to, D]`.
    pub fn rows(self, old: &[f32], new: &mut [f32]) {
        let dim = (old.len() / self.from).max(1);
        for (i, new) in new.chunks_exact_mut(dim).enumerate() {
            let (row, part) = self.place(i);
            // Behind the last row there is none to go to: it is the line through the last two that goes on.
            let near = row.min(self.from - 2);
            let part = part + (row - near) as f64;
            let (near, far) = old[near * dim..][..2 * dim].split_at(dim);
            for ((new, a), b) in new.iter_mut().zip(near).zip(far) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                *new = (a + part * (b - a)) as f32;
            }
        }
    }

    /// The old row that new row `i` lies at or behind, and how far behind it in rows.
    fn place(self, i: usize) -> (usize, f64) {
        let Some(behind) = i.checked_sub(KEPT) else { return (i, 0.0) };
        let (at, of) = (behind * (self.from - KEPT), self.to - KEPT);
        (KEPT + at / of, (at % of) as f64 / of as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_becomes_four_and_the_end_goes_on() {
        let old: Vec<f32> = (0..77).flat_map(|i| [(i * i) as f32, 100.0 - i as f32]).collect();
        let mut new = vec![0.0; 2 * 248];
        Stretch { from: 77, to: 248 }.rows(&old, &mut new);
        assert_eq!(new[..40], old[..40]);
        for i in 20..76 {
            for k in 0..4 {
                for c in 0..2 {
                    let (a, b) = (old[2 * i + c], old[2 * i + 2 + c]);
                    assert_eq!(new[2 * (20 + 4 * (i - 20) + k) + c], ((4 - k) as f32 * a + k as f32 * b) / 4.0);
                }
            }
        }
        let last: Vec<f32> = (0..4).map(|k| 76.0 * 76.0 + k as f32 * (76.0 * 76.0 - 75.0 * 75.0) / 4.0).collect();
        assert_eq!(new[2 * 244..].iter().step_by(2).copied().collect::<Vec<f32>>(), last);
    }

    #[test]
    fn a_line_stays_a_line_whatever_the_lengths() {
        for (from, to) in [(21, 22), (21, 512), (30, 31), (30, 100), (77, 78), (77, 512), (511, 512)] {
            let old: Vec<f32> = (0..from).map(|i| i as f32).collect();
            let mut new = vec![-1.0; to];
            Stretch { from, to }.rows(&old, &mut new);
            let slope = (from - 20) as f32 / (to - 20) as f32;
            for (i, x) in new.iter().enumerate() {
                let expected = if i < 20 { i as f32 } else { 20.0 + (i - 20) as f32 * slope };
                assert!((x - expected).abs() < 1e-3, "{from} to {to}: {x} and not {expected} at {i}");
            }
        }
    }

    #[test]
    fn configurations_say_how_many_there_are_now() {
        let dir = Path::new("somewhere");
        let tower = |n: u64| json!({"model_type": "clip_text_model", KEY: n});
        let mut whole = json!({"model_type": "clip", "text_config": tower(77), "text_config_dict": {"hidden_size": 8}});
        assert_eq!(Stretch::new(dir, &mut whole, 248).unwrap(), Stretch { from: 77, to: 248 });
        assert_eq!((&whole["text_config"][KEY], &whole["text_config_dict"][KEY]), (&json!(248), &json!(248)));
        let mut bare = json!({"model_type": "clip_text_model"});
        assert_eq!(Stretch::new(dir, &mut bare, 100).unwrap(), Stretch { from: 77, to: 100 });
        assert_eq!(bare[KEY], 100);
        for (mut config, to, word) in [
            (tower(77), 77, "use 78 to 512"),
            (tower(77), 513, "use 78 to 512"),
            (tower(512), 512, "leave it out"),
            (tower(20), 40, "leave it out"),
            (tower(u64::MAX), 248, "leave it out"),
            (json!({"model_type": "clip_text_model", KEY: "many"}), 248, "no number"),
            (json!({"model_type": "clip", "text_config": 7}), 248, "no number"),
            (json!({"model_type": "bert", KEY: 128}), 248, "only CLIP"),
            (json!([]), 248, "only CLIP"),
        ] {
            let error = Stretch::new(dir, &mut config, to).unwrap_err().to_string();
            assert!(error.contains(word), "{config} to {to}: {error}");
        }
    }
}
