//! When in a video a text is met: intervals of frames that stand out.

use serde::Serialize;

/// Runs of frames that are told of one video.
const MOST: usize = 3;

/// A part of a video.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds.
    pub begin: f32,
    pub end: f32,
    /// The mean of its frames.
    pub score: f32,
    /// Its best frame, and when that is seen.
    pub best: usize,
    pub second: f32,
}

impl Moment {
    pub fn holds(&self, second: f64) -> bool {
        f64::from(self.begin) <= second && second < f64::from(self.end)
    }
}

/// The moments of a video whose frames, seen at `seconds`, score `scores`; the one with the best frame first.
///
/// A frame stands out that scores at least half the way from the median to the best; frames in a row are one moment. A
/// frame lasts until the next one, the last as long as the one before it, or `lasts` seconds if there is only one; if that is 0, it is the middle of its video. What
/// is no number, and a video without frames, has no moments.
pub fn moments(seconds: &[f32], scores: &[f32], lasts: f32) -> Vec<Moment> {
    let n = seconds.len().min(scores.len());
    let (seconds, scores) = (&seconds[..n], &scores[..n]);
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let Some(top) = sorted.last().copied().filter(|_| scores.iter().all(|s| s.is_finite())) else { return vec![] };
    let threshold = 0.5 * (top + sorted[(n - 1) / 2]);
    let end = |t: usize| match (seconds.get(t + 1), t.checked_sub(1).and_then(|b| seconds.get(b))) {
        (Some(next), _) => *next,
        (None, Some(before)) => 2.0 * seconds[t] - before,
        (None, None) if lasts > 0.0 => seconds[t] + lasts,
        (None, None) => 2.0 * seconds[t],
    };
    let middle = n == 1 && lasts <= 0.0;
    let (mut found, mut begin) = (vec![], None);
    for t in 0..=n {
        let stands_out = t < n && scores[t] >= threshold;
        match begin {
            None if stands_out => begin = Some(t),
            Some(b) if !stands_out => {
                let run = &scores[b..t];
                let best = (b..t).fold(b, |best, t| if scores[t] > scores[best] { t } else { best });
                let score = run.iter().sum::<f32>() / run.len() as f32;
                let first = if middle { 0.0 } else { seconds[b] };
                found.push(Moment { begin: first, end: end(t - 1), score, best, second: seconds[best] });
                begin = None;
            }
            _ => {}
        }
    }
    // Equal ones stay in the order of time.
    found.sort_by(|a, b| scores[b.best].total_cmp(&scores[a.best]));
    found.truncate(MOST);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_out_is_found_with_its_times() {
        let seconds = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0];
        let found = moments(&seconds, &[0.1, 0.1, 0.9, 0.8, 0.1, 0.7], 1.0);
        let told: Vec<_> = found.iter().map(|m| (m.begin, m.end, m.best)).collect();
        assert_eq!(told, [(2.0, 4.0, 2), (6.0, 8.0, 5)]);
        assert_eq!(found[0].score, 0.85);
    }

    #[test]
    fn odd_videos_have_sound_moments() {
        assert_eq!(moments(&[], &[], 1.0), []);
        assert_eq!(moments(&[0.0, 1.0], &[0.5, f32::NAN], 1.0), []);
        let one = moments(&[2.0], &[0.3], 0.5);
        assert_eq!((one[0].begin, one[0].end), (2.0, 2.5));
        let middle = moments(&[2.0], &[0.3], 0.0);
        assert_eq!((middle[0].begin, middle[0].end), (0.0, 4.0));
        // Where nothing stands out, all of it does.
        let flat = moments(&[0.0, 1.0, 2.0], &[0.3; 3], 1.0);
        assert_eq!((flat.len(), flat[0].begin, flat[0].end), (1, 0.0, 3.0));
    }
}
