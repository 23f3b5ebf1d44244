//! What a training step makes of its videos besides looking at them: perturbed, reversed and swapped views, as tables
//! that the device gathers by, and the numbers it cannot draw itself.

use super::Config;
use super::batch::{FRAME_PERIODS, PERTURBED, Rows, WAVES, waves};
use super::perturb::{Perturbation, reversed};
use crate::engine::scheduler::executor::SlotWriter;
use crate::error::{Error, Result};
use crate::random::Random;

/// Random streams of a step, by purpose.
const NOISE: u64 = 0x766e_0000_0000_0000;
const PERTURBED_NOISE: u64 = 0x7670_0000_0000_0000;
const DONORS: u64 = 0x7664_0000_0000_0000;
const PERTURBATION: u64 = 0x7674_0000_0000_0000;
/// Streams that the videos of a step may take: more than a batch can hold.
const PER_STEP: u64 = 1 << 17;

/// The videos of a batch and what is known of them.
pub struct Views<'a> {
    pub rows: &'a dyn Rows,
    /// Items of the batch, as they were packed.
    pub videos: &'a [usize],
    pub captions: Vec<&'a str>,
    /// Whether a frame of an item is foreground, where that is given.
    pub foreground: Option<&'a (dyn Fn(usize, usize) -> bool + Sync)>,
    pub seed: u64,
    pub step: u64,
}

/// Fills the inputs that the plan declares beyond tokens, from the random numbers of one step.
///
/// # Errors
/// When the plan asks for a foreground and none is given, or when a batch does not fit its plan.
pub fn pack_views(slot: &mut SlotWriter, config: &Config, views: &Views) -> Result<()> {
    let Some(cba) = &config.cba else { return Ok(()) };
    let lengths: Vec<usize> = views.videos.iter().map(|i| views.rows.rows(*i)).collect();
    for (name, purpose) in [("router_noise", NOISE), ("perturbed_noise", PERTURBED_NOISE)] {
        if slot.has(name) {
            Random::new(views.seed, purpose + views.step).fill_normal(0, slot.f32(name)?);
        }
    }
    if slot.has("perturbed_first") {
        perturbed(slot, views, &lengths, &cba.temporal.perturbation())?;
    }
    if slot.has("reversed") {
        let mut out = slot.u32("reversed")?.iter_mut();
        let (mut begin, times) = (0, vec![0.0; lengths.iter().copied().max().unwrap_or(0)]);
        for n in &lengths {
            reversed(&times[..*n]).iter().zip(&mut out).for_each(|(sample, out)| *out = begin + sample.first);
            begin += *n as u32;
        }
        let flags = slot.f32("tells_order")?;
        flags.iter_mut().zip(&views.captions).for_each(|(f, caption)| *f = f32::from(u8::from(tells_order(caption))));
    }
    if slot.has("donor") {
        donors(slot, views, &lengths)?;
    }
    if slot.has("donor_video") {
        let random = Random::new(views.seed, DONORS + views.step);
        let n = views.videos.len() as u64;
        for (v, donor) in slot.u32("donor_video")?.iter_mut().take(views.videos.len()).enumerate() {
            let tries = (0..16).map(|i| random.below(v as u64 * 16 + i, n) as usize);
            *donor = tries.into_iter().find(|d| views.videos[*d] != views.videos[v]).unwrap_or(v) as u32;
        }
    }
    if slot.has("background") {
        background(slot, views, &lengths)?;
    }
    Ok(())
}

/// Tables of the perturbed videos, one behind the other.
fn perturbed(slot: &mut SlotWriter, views: &Views, lengths: &[usize], how: &Perturbation) -> Result<()> {
    let does_not_fit = || Error::shape("input perturbed_first", "the perturbed videos do not fit their plan");
    let (mut begin, mut end) = (0, 0);
    let mut times = vec![];
    for (v, (item, n)) in views.videos.iter().zip(lengths).enumerate() {
        times.resize(*n, 0.0);
        views.rows.places(*item, &mut times);
        let stream = PERTURBATION + views.step * PER_STEP + v as u64;
        let tokens = how.sample(&times, Random::new(views.seed, stream));
        let place = end..end + tokens.len();
        for (name, of_second) in [("perturbed_first", false), ("perturbed_second", true)] {
            let out = slot.u32(name)?.get_mut(place.clone()).ok_or_else(does_not_fit)?;
            for (out, token) in out.iter_mut().zip(&tokens) {
                *out = begin as u32 + if of_second { token.second } else { token.first };
            }
        }
        let out = &mut slot.f32("perturbed_weight")?[place.clone()];
        out.iter_mut().zip(&tokens).for_each(|(out, token)| *out = token.weight);
        if slot.has("perturbed_times") {
            let out = slot.f32("perturbed_times")?[place.start * 2 * WAVES..].chunks_exact_mut(2 * WAVES);
            out.zip(&tokens).for_each(|(out, token)| waves(token.time, FRAME_PERIODS, out));
        }
        let segment = slot.u32("perturbed_segments")?.get_mut(2 * v..2 * v + 2).ok_or_else(does_not_fit)?;
        segment.copy_from_slice(&[place.start as u32, place.end as u32]);
        (begin, end) = (begin + n, place.end);
    }
    slot.count(PERTURBED, end);
    Ok(())
}

/// For each frame itself, and a frame of another video of the batch.
fn donors(slot: &mut SlotWriter, views: &Views, lengths: &[usize]) -> Result<()> {
    let random = Random::new(views.seed, DONORS + views.step);
    let total: usize = lengths.iter().sum();
    let own = slot.u32("own")?;
    own.iter_mut().take(total).enumerate().for_each(|(t, own)| *own = t as u32);
    let donor = slot.u32("donor")?;
    let mut begin = 0;
    for (v, n) in lengths.iter().enumerate() {
        // A frame of the same item at another place of the batch is no stranger's.
        let is_own = |row: usize| {
            let mut end = 0;
            let owner = lengths.iter().position(|n| {
                end += n;
                row < end
            });
            owner.is_none_or(|o| views.videos[o] == views.videos[v])
        };
        for (t, donor) in donor.iter_mut().enumerate().skip(begin).take(*n) {
            let tries = (0..16).map(|i| random.below(t as u64 * 16 + i, total as u64) as usize);
            *donor = tries.into_iter().find(|row| !is_own(*row)).unwrap_or(t) as u32;
        }
        begin += n;
    }
    Ok(())
}

fn background(slot: &mut SlotWriter, views: &Views, lengths: &[usize]) -> Result<()> {
    let Some(foreground) = views.foreground else {
        let fix = "use counterfactual.foreground = \"learned\": only experiments know the truth";
        return Err(Error::config("counterfactual.foreground", "is \"given\" and the data give none", fix));
    };
    let mut out = slot.f32("background")?.iter_mut();
    for (item, n) in views.videos.iter().zip(lengths) {
        (0..*n).zip(&mut out).for_each(|(t, out)| *out = if foreground(*item, t) { -1e30 } else { 0.0 });
    }
    Ok(())
}

/// Words by which a caption tells an order.
const CONNECTIVES: [&str; 9] = ["then", "after", "afterwards", "before", "while", "until", "first", "finally", "later"];

/// Whether a caption says what comes first.
pub fn tells_order(caption: &str) -> bool {
    let words = caption.split(|c: char| !c.is_alphanumeric());
    words.map(str::to_lowercase).any(|word| CONNECTIVES.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_that_tell_an_order_are_known() {
        for caption in ["a man runs, then jumps", "Before dinner", "first a then b"] {
            assert!(tells_order(caption), "{caption}");
        }
        for caption in ["a man and a dog", "authentic beforehand", ""] {
            assert!(!tells_order(caption), "{caption}");
        }
    }
}
