//! What a training step makes of its videos besides looking at them: perturbed, reversed and swapped views, as tables
//! that the device gathers by, and the numbers it cannot draw itself.

use super::Config;
use super::batch::{FRAME_PERIODS, PERTURBED, Rows, WAVES, waves};
use super::chunks::pack_begin;
use super::perturb::{Perturbation, Sample, reversed};
use crate::engine::scheduler::executor::SlotWriter;
use crate::error::{Error, Result};
use crate::random::Random;
use std::ops::Range;

/// Random streams of a step, by purpose.
const NOISE: u64 = 0x766e_0000_0000_0000;
const QUERY_NOISE: u64 = 0x7671_0000_0000_0000;
const PERTURBED_NOISE: u64 = 0x7670_0000_0000_0000;
const DONORS: u64 = 0x7664_0000_0000_0000;
const PERTURBATION: u64 = 0x7674_0000_0000_0000;
/// Streams that the videos of a step may take: more than a batch can hold.
const PER_STEP: u64 = 1 << 17;

/// The videos of a batch and what is known of them.
pub struct Views<'a> {
    pub rows: &'a dyn Rows,
    /// Items of the whole batch.
    pub videos: &'a [usize],
    /// Which of them were packed: all, or a chunk. What is drawn for a video does not depend on that, except for whose
    /// background it gets.
    pub part: Range<usize>,
    /// Captions of all of them.
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
    let lengths_of = |videos: &[usize]| videos.iter().map(|i| views.rows.rows(*i)).collect::<Vec<usize>>();
    let lengths = lengths_of(views.packed());
    let frames_before: usize = lengths_of(views.before()).iter().sum();
    noise(slot, "router_noise", Random::new(views.seed, NOISE + views.step), frames_before * cba.routing.experts)?;
    noise(
        slot,
        "query_noise",
        Random::new(views.seed, QUERY_NOISE + views.step),
        views.part.start * cba.routing.experts,
    )?;
    if slot.has("perturbed_segments") {
        let how = cba.temporal.perturbation();
        let rows_before = views.before().iter().enumerate().map(|(v, i)| views.perturbed(v, *i, &how).len()).sum();
        let random = Random::new(views.seed, PERTURBED_NOISE + views.step);
        noise(slot, "perturbed_noise", random, rows_before * cba.routing.experts)?;
        pack_begin(slot, PERTURBED, rows_before)?;
        perturbed(slot, views, &lengths, &how)?;
    }
    if slot.has("reversed") {
        let mut out = slot.u32("reversed")?.iter_mut();
        let (mut begin, times) = (0, vec![0.0; lengths.iter().copied().max().unwrap_or(0)]);
        for n in &lengths {
            reversed(&times[..*n]).iter().zip(&mut out).for_each(|(sample, out)| *out = begin + sample.first);
            begin += *n as u32;
        }
    }
    if slot.has("tells_order") {
        let flags = slot.f32("tells_order")?;
        let captions = views.captions.iter().skip(views.part.start);
        flags.iter_mut().zip(captions).for_each(|(f, caption)| *f = f32::from(u8::from(tells_order(caption))));
    }
    if slot.has("donor") {
        donors(slot, views, &lengths, frames_before)?;
    }
    if slot.has("donor_video") {
        let random = Random::new(views.seed, DONORS + views.step);
        let videos = views.packed();
        for (v, donor) in slot.u32("donor_video")?.iter_mut().take(videos.len()).enumerate() {
            let stream = (views.part.start + v) as u64 * 16;
            let tries = (0..16).map(|i| random.below(stream + i, videos.len() as u64) as usize);
            *donor = tries.into_iter().find(|d| videos[*d] != videos[v]).unwrap_or(v) as u32;
        }
    }
    if slot.has("background") {
        background(slot, views, &lengths)?;
    }
    Ok(())
}

impl Views<'_> {
    fn packed(&self) -> &[usize] {
        self.videos.get(self.part.clone()).unwrap_or(&[])
    }

    fn before(&self) -> &[usize] {
        self.videos.get(..self.part.start).unwrap_or(&[])
    }

    /// The frames of `item`, video `v` of the batch, perturbed as this step does it.
    fn perturbed(&self, v: usize, item: usize, how: &Perturbation) -> Vec<Sample> {
        let mut times = vec![0.0; self.rows.rows(item)];
        self.rows.places(item, &mut times);
        how.sample(&times, Random::new(self.seed, PERTURBATION + self.step * PER_STEP + v as u64))
    }
}

/// Standard normal numbers from number `first` of a step on.
fn noise(slot: &mut SlotWriter, name: &str, random: Random, first: usize) -> Result<()> {
    if !slot.has(name) {
        return Ok(());
    }
    let out = slot.f32(name)?;
    // Numbers come in blocks of four, and a chunk may begin within one.
    let (block, skipped) = (first as u64 / 4, first % 4);
    let mut four = [0.0; 4];
    random.fill_normal(block, &mut four);
    let (head, rest) = out.split_at_mut(((4 - skipped) % 4).min(out.len()));
    head.iter_mut().zip(&four[skipped..]).for_each(|(out, x)| *out = *x);
    random.fill_normal(block + u64::from(skipped > 0), rest);
    Ok(())
}

/// Tables of the perturbed videos, one behind the other, as far as the plan asks for them.
fn perturbed(slot: &mut SlotWriter, views: &Views, lengths: &[usize], how: &Perturbation) -> Result<()> {
    let does_not_fit = || Error::shape("input perturbed_first", "the perturbed videos do not fit their plan");
    let (mut begin, mut end) = (0, 0);
    for (v, (item, n)) in views.packed().iter().zip(lengths).enumerate() {
        let tokens = views.perturbed(views.part.start + v, *item, how);
        let place = end..end + tokens.len();
        for (name, of_second) in [("perturbed_first", false), ("perturbed_second", true)] {
            if !slot.has(name) {
                continue;
            }
            let out = slot.u32(name)?.get_mut(place.clone()).ok_or_else(does_not_fit)?;
            for (out, token) in out.iter_mut().zip(&tokens) {
                *out = begin as u32 + if of_second { token.second } else { token.first };
            }
        }
        if slot.has("perturbed_weight") {
            let out = slot.f32("perturbed_weight")?.get_mut(place.clone()).ok_or_else(does_not_fit)?;
            out.iter_mut().zip(&tokens).for_each(|(out, token)| *out = token.weight);
        }
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

/// For each frame itself, and a frame of another video that was packed.
fn donors(slot: &mut SlotWriter, views: &Views, lengths: &[usize], frames_before: usize) -> Result<()> {
    let (random, videos) = (Random::new(views.seed, DONORS + views.step), views.packed());
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
            owner.is_none_or(|o| videos[o] == videos[v])
        };
        for (t, donor) in donor.iter_mut().enumerate().skip(begin).take(*n) {
            let stream = (frames_before + t) as u64 * 16;
            let tries = (0..16).map(|i| random.below(stream + i, total as u64) as usize);
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
    for (item, n) in views.packed().iter().zip(lengths) {
        // The truth knows the frames of the source, of which a long video shows some.
        let shown = |row: usize| foreground(*item, views.rows.source_row(*item, row));
        (0..*n).zip(&mut out).for_each(|(row, out)| *out = if shown(row) { -1e30 } else { 0.0 });
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
