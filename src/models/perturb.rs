//! Temporal perturbations of a packed video: which frames its tokens are made of, and when they are shown.
//!
//! Light perturbations leave a video's meaning as it is: another speed, frames taken a little early or late, frames left
//! out. They are composed in one step, in this order: the clip plays at another speed and is sampled at its own rate,
//! the sampler is off by one, some samples get lost. Reversal breaks the meaning of what has an order.

use std::ops::RangeInclusive;

use crate::data::tokens::Tokens;
use crate::error::{Error, Result};
use crate::random::Random;

/// Frames that are kept at least, where there are as many.
const LEAST: usize = 4;
/// Where the numbers of each part begin in the stream.
const SPEED: u64 = 0;
const JITTER: u64 = 1 << 40;
const DROP: u64 = 2 << 40;

/// One token of a perturbed video: `(1 − weight) · frame first + weight · frame second`, shown at `time`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Sample {
    /// Frames of the video, from 0.
    pub first: u32,
    pub second: u32,
    /// Of the second, from 0 to 1.
    pub weight: f32,
    /// Seconds.
    pub time: f32,
}

/// A perturbation that keeps the meaning; each part can be switched off.
#[derive(Clone, Debug, PartialEq)]
pub struct Perturbation {
    /// Share of tokens that are left out (rounded to a whole number of them, 4 are kept); `None` or 0 leaves out none.
    pub drop: Option<f32>,
    /// Whether each token shows the frame before its own, its own, or the frame after, at its own time.
    pub jitter: bool,
    /// The speed s is drawn from here: the time axis is stretched to t′ = s·t and sampled again at the original spacing,
    /// which makes round(s · frames) tokens, at least 4 or as many as there were.
    pub speed: Option<RangeInclusive<f32>>,
}

impl Default for Perturbation {
    fn default() -> Self {
        Self { drop: Some(0.25), jitter: true, speed: Some(0.75..=1.33) }
    }
}

impl Perturbation {
    /// # Errors
    /// [`Error::Config`] for a share outside `[0, 1)` or speeds outside `[0.1, 10]`.
    pub fn check(&self) -> Result<()> {
        if let Some(drop) = self.drop
            && !(0.0..1.0).contains(&drop)
        {
            return Err(Error::config("drop", format!("is {drop}"), "give a share from 0 to below 1"));
        }
        if let Some(speed) = &self.speed
            && !(0.1 <= *speed.start() && speed.start() <= speed.end() && *speed.end() <= 10.0)
        {
            let what = format!("is {} to {}", speed.start(), speed.end());
            return Err(Error::config("speed", what, "give two numbers from 0.1 to 10, the smaller one first"));
        }
        Ok(())
    }

    /// The most tokens that a video of `frames` frames can become.
    pub fn most(&self, frames: usize) -> usize {
        self.speed.as_ref().map_or(frames, |speed| stretched(frames, *speed.end()).max(frames))
    }

    /// The tokens of a video whose frames are shown at `times` (seconds, ascending), `[n]`. A video without frames stays
    /// so. What is drawn depends on `random` alone: give each video and step a stream of its own.
    pub fn sample(&self, times: &[f32], random: Random) -> Vec<Sample> {
        let mut samples = match &self.speed {
            None => plain(times),
            Some(speed) => {
                let (slow, fast) = (*speed.start(), *speed.end());
                resampled(times, slow + (fast - slow) * random.uniform(SPEED))
            }
        };
        if self.jitter {
            shake(&mut samples, random);
        }
        if let Some(share) = self.drop {
            lose(&mut samples, share, random);
        }
        samples
    }
}

/// The frames in reverse, each shown when the one in its place was: a perturbation that breaks the meaning.
pub fn reversed(times: &[f32]) -> Vec<Sample> {
    let last = times.len().saturating_sub(1);
    (0..).zip(times).map(|(t, time)| whole(last - t, *time)).collect()
}

/// The video as it is.
pub fn plain(times: &[f32]) -> Vec<Sample> {
    (0..).zip(times).map(|(t, time)| whole(t, *time)).collect()
}

/// What the samples of a video `[T, D]` show, `[samples, D]`, and when, in seconds `[samples]`.
pub fn shown(samples: &[Sample], video: &Tokens) -> (Vec<f32>, Vec<f32>) {
    let row = |frame: u32| video.row(frame as usize);
    let mut rows = Vec::with_capacity(samples.len() * video.dim);
    for s in samples {
        // A whole frame goes through as it is, to the bit.
        match s.weight == 0.0 {
            true => rows.extend_from_slice(row(s.first)),
            false => rows.extend(row(s.first).iter().zip(row(s.second)).map(|(a, b)| a + s.weight * (b - a))),
        }
    }
    (rows, samples.iter().map(|s| s.time).collect())
}

fn whole(frame: usize, time: f32) -> Sample {
    // Frames are rows of a batch, which are counted in 32 bits.
    Sample { first: frame as u32, second: frame as u32, weight: 0.0, time }
}

/// How many tokens `frames` frames become at speed `s`.
fn stretched(frames: usize, s: f32) -> usize {
    let count = (frames as f64 * f64::from(s)).round() as usize;
    count.max(frames.min(LEAST))
}

/// The clip stretched to t′ = s·t and sampled at its original (mean) spacing from its first frame on; what lies behind
/// the last frame shows that. Where all frames have one time, their numbers take its place.
fn resampled(times: &[f32], s: f32) -> Vec<Sample> {
    let (Some(&begin), Some(&end)) = (times.first(), times.last()) else { return Vec::new() };
    let last = times.len() - 1;
    let s = f64::from(s);
    let spacing = (f64::from(end) - f64::from(begin)) / last.max(1) as f64;
    let mut at = 0;
    (0..stretched(times.len(), s as f32))
        .map(|j| {
            let time = (s * f64::from(begin) + j as f64 * spacing) as f32;
            // Frames passed since the first, whole and part.
            let position = j as f64 / s;
            if spacing <= 0.0 || !spacing.is_finite() {
                let first = (position as usize).min(last);
                let second = (first + 1).min(last);
                let weight = if second > first { (position - first as f64) as f32 } else { 0.0 };
                return Sample { first: first as u32, second: second as u32, weight, time };
            }
            let source = f64::from(begin) + position * spacing;
            let shown = |frame: usize| f64::from(times.get(frame).copied().unwrap_or(end));
            while at < last && shown(at + 1) <= source {
                at += 1;
            }
            let second = (at + 1).min(last);
            let length = shown(second) - shown(at);
            let weight = if length > 0.0 { ((source - shown(at)) / length).clamp(0.0, 1.0) as f32 } else { 0.0 };
            Sample { first: at as u32, second: second as u32, weight, time }
        })
        .collect()
}

/// Each token shows what one of its neighbours or itself should show.
fn shake(samples: &mut [Sample], random: Random) {
    let nominal = samples.to_vec();
    let last = nominal.len().saturating_sub(1);
    for (t, sample) in samples.iter_mut().enumerate() {
        let by = random.below(JITTER + t as u64, 3) as usize;
        // t − 1, t or t + 1.
        let from = (t + by).saturating_sub(1).min(last);
        if let Some(other) = nominal.get(from) {
            *sample = Sample { time: sample.time, ..*other };
        }
    }
}

/// Leaves out a share of the tokens; those that stay keep their order.
fn lose(samples: &mut Vec<Sample>, share: f32, random: Random) {
    let count = samples.len();
    let lost = ((count as f64 * f64::from(share)).round() as usize).min(count.saturating_sub(LEAST));
    // Tokens with the smallest numbers go; equal ones by place.
    let mut order: Vec<(u64, usize)> = (0..count).map(|t| (random.bits(DROP + t as u64), t)).collect();
    order.sort_unstable();
    let mut kept = vec![true; count];
    for (_, t) in order.into_iter().take(lost) {
        if let Some(kept) = kept.get_mut(t) {
            *kept = false;
        }
    }
    let mut kept = kept.into_iter();
    samples.retain(|_| kept.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::seed;

    fn times(n: usize, spacing: f32) -> Vec<f32> {
        (0..n).map(|t| t as f32 * spacing).collect()
    }

    /// What the tokens show of a video whose frame t shows the number `shown[t]`.
    fn seen(samples: &[Sample], shown: &[f32]) -> Vec<f32> {
        samples
            .iter()
            .map(|s| (1.0 - s.weight) * shown[s.first as usize] + s.weight * shown[s.second as usize])
            .collect()
    }

    fn only_speed(s: f32) -> Perturbation {
        Perturbation { drop: None, jitter: false, speed: Some(s..=s) }
    }

    #[test]
    fn nothing_switched_on_changes_nothing() {
        let off = Perturbation { drop: None, jitter: false, speed: None };
        let times = times(9, 0.5);
        assert_eq!(off.sample(&times, Random::new(seed(), 0)), plain(&times));
        assert_eq!(only_speed(1.0).sample(&times, Random::new(1, 0)).len(), 9);
        assert_eq!(seen(&only_speed(1.0).sample(&times, Random::new(1, 0)), &times), times);
    }

    #[test]
    fn every_token_is_inside_in_order_and_as_many_as_said() {
        let seed = seed();
        for round in 0..400 {
            let random = Random::new(seed, round);
            let n = random.below(9, 70) as usize;
            let (drop, jitter, speed) = (round % 2 == 0, round % 3 == 0, round % 5 < 3);
            let p = Perturbation { drop: drop.then_some(0.25), jitter, speed: speed.then_some(0.75..=1.33) };
            p.check().unwrap();
            // Uneven and sometimes equal times.
            let mut at = 3.0;
            let times: Vec<f32> = (0..n as u64)
                .map(|t| {
                    at += random.below(100 + t, 3) as f32 * 0.4;
                    at
                })
                .collect();
            let samples = p.sample(&times, Random::new(seed, 1000 + round));
            assert_eq!(samples, p.sample(&times, Random::new(seed, 1000 + round)));
            assert!(samples.len() <= p.most(n) && samples.len() >= n.min(4), "{n} → {}", samples.len());
            for s in &samples {
                assert!((s.first as usize) < n && (s.second as usize) < n && (0.0..=1.0).contains(&s.weight), "{s:?}");
                assert!(s.second == s.first || s.second == s.first + 1);
            }
            assert!(samples.windows(2).all(|two| two[0].time <= two[1].time));
            if !jitter {
                let shown: Vec<f32> = (0..n).map(|t| t as f32).collect();
                assert!(seen(&samples, &shown).windows(2).all(|two| two[0] <= two[1] + 1e-4));
            }
        }
    }

    #[test]
    fn drop_takes_its_share_of_frames_and_leaves_four() {
        let p = Perturbation { drop: Some(0.25), jitter: false, speed: None };
        let seed = seed();
        for (n, left) in [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4), (8, 6), (12, 9), (64, 48)] {
            let samples = p.sample(&times(n, 1.0), Random::new(seed, n as u64));
            assert_eq!(samples.len(), left, "of {n}");
            assert!(samples.windows(2).all(|two| two[0].first < two[1].first));
            assert!(samples.iter().all(|s| s.time == s.first as f32 && s.weight == 0.0));
        }
        // Every frame is dropped about as often as any other.
        let mut lost = [0; 12];
        for round in 0..4000 {
            let kept = p.sample(&times(12, 1.0), Random::new(seed, 50 + round));
            (0..12).filter(|t| kept.iter().all(|s| s.first != *t)).for_each(|t| lost[t as usize] += 1);
        }
        assert!(lost.iter().all(|l| (850..1150).contains(l)), "{lost:?}");
    }

    #[test]
    fn speed_stretches_the_time_axis_and_keeps_the_spacing() {
        // A frame shows its own time, so a token at t′ must show t′ / s.
        for s in [0.75, 0.9, 1.2, 1.33] {
            let times = times(32, 0.5);
            let samples = only_speed(s).sample(&times, Random::new(1, 1));
            assert_eq!(samples.len(), (32.0 * s).round() as usize);
            for (j, (sample, shown)) in samples.iter().zip(seen(&samples, &times)).enumerate() {
                assert!((sample.time - 0.5 * j as f32).abs() < 1e-4);
                assert!((shown - (sample.time / s).min(15.5)).abs() < 1e-4, "{sample:?} at speed {s}");
            }
        }
        for (n, s, count) in [(1, 0.75, 1), (2, 0.75, 2), (3, 1.33, 4), (4, 0.75, 4), (5, 0.75, 4), (0, 1.2, 0)] {
            assert_eq!(only_speed(s).sample(&times(n, 1.0), Random::new(1, 1)).len(), count, "{n} at {s}");
        }
    }

    #[test]
    fn uneven_times_are_interpolated_by_time_and_equal_ones_by_number() {
        let times = [10.0, 11.0, 14.0, 14.0, 18.0];
        let samples = only_speed(1.25).sample(&times, Random::new(1, 1));
        // The spacing is 2 s, from 12.5 s on; 1.6 s of the source pass between two tokens.
        assert_eq!(samples.len(), 6);
        assert!((samples[0].time - 12.5).abs() < 1e-5 && (samples[1].time - 14.5).abs() < 1e-5);
        for (j, shown) in seen(&samples, &times).into_iter().enumerate() {
            assert!((shown - (10.0 + 1.6 * j as f32)).abs() < 1e-4, "token {j} shows {shown}");
        }
        let still = only_speed(0.8).sample(&[2.0; 10], Random::new(1, 1));
        let numbers: Vec<f32> = (0..10).map(|t| t as f32).collect();
        for (j, shown) in seen(&still, &numbers).into_iter().enumerate() {
            assert!((shown - 1.25 * j as f32).abs() < 1e-4, "token {j} shows {shown}");
        }
    }

    #[test]
    fn jitter_is_off_by_one_at_most_and_unbiased() {
        let p = Perturbation { drop: None, jitter: true, speed: None };
        let seed = seed();
        let mut by = [0; 3];
        for round in 0..300 {
            for (t, s) in p.sample(&times(12, 1.0), Random::new(seed, round)).iter().enumerate() {
                assert_eq!(s.time, t as f32);
                let off = i64::from(s.first) - t as i64;
                assert!(off.abs() <= 1, "{s:?} in place {t}");
                if (1..11).contains(&t) {
                    by[(off + 1) as usize] += 1;
                }
            }
        }
        assert!(by.iter().all(|b| (850..1150).contains(b)), "{by:?}");
    }

    #[test]
    fn reversal_turns_frames_and_keeps_times() {
        let times = [0.5, 1.0, 4.0];
        let samples = reversed(&times);
        assert_eq!(samples.iter().map(|s| s.first).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(samples.iter().map(|s| s.time).collect::<Vec<_>>(), times);
        assert!(reversed(&[]).is_empty());
    }

    #[test]
    fn rows_are_shown_whole_or_mixed() {
        let video = Tokens { rows: 2, dim: 2, data: vec![1.0, -0.0, 3.0, 4.0] };
        let (rows, times) = shown(&plain(&[0.5, 1.5]), &video);
        assert!(rows.iter().zip(&video.data).all(|(a, b)| a.to_bits() == b.to_bits()) && times == [0.5, 1.5]);
        let mixed = [Sample { first: 0, second: 1, weight: 0.25, time: 2.0 }];
        assert_eq!(shown(&mixed, &video), (vec![1.5, 1.0], vec![2.0]));
    }

    #[test]
    fn impossible_perturbations_are_named() {
        let bad = |p: Perturbation| p.check().unwrap_err().to_string();
        assert!(bad(Perturbation { drop: Some(1.0), ..Perturbation::default() }).starts_with("drop"));
        assert!(bad(Perturbation { drop: Some(f32::NAN), ..Perturbation::default() }).starts_with("drop"));
        assert!(bad(Perturbation { speed: Some(1.0..=0.5), ..Perturbation::default() }).starts_with("speed"));
        assert!(bad(Perturbation { speed: Some(0.0..=1.0), ..Perturbation::default() }).starts_with("speed"));
    }
}
