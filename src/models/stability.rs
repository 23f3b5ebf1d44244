//! How far a score moves when a video is shown a little otherwise: faster, jittered, with frames lost, or in reverse.

use super::perturb::{Perturbation, plain, reversed, shown};
use super::scorer::Scorer;
use crate::data::TokenSource;
use crate::data::tokens::{About, InMemory, Tokens};
use crate::engine::backend::Backend;
use crate::error::{Error, Result};
use crate::random::Random;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Random streams of the draws; those of a kind lie 2³² apart.
const DRAWS: u64 = 0x7374_6162_0000_0000;
/// Most draws of a kind: what more of them would tell is lost in the picture.
pub const MOST_DRAWS: usize = 1000;

/// A way to show a video otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub name: &'static str,
    /// `None` for the reversal, which breaks the meaning of what has an order and is not drawn.
    pub how: Option<Perturbation>,
}

impl Kind {
    /// The parts of a perturbation one by one, all of them together, and the reversal.
    pub fn of(all: &Perturbation) -> [Kind; 5] {
        let none = Perturbation { drop: None, jitter: false, speed: None };
        let kind = |name, how| Kind { name, how };
        [
            kind("drop", Some(Perturbation { drop: all.drop, ..none.clone() })),
            kind("jitter", Some(Perturbation { jitter: all.jitter, ..none.clone() })),
            kind("speed", Some(Perturbation { speed: all.speed.clone(), ..none })),
            kind("all", Some(all.clone())),
            kind("reversed", None),
        ]
    }
}

/// Scores of one text with one video and with what perturbations make of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stability {
    /// Of the video as it is: what [`Scorer::explain`] says, to the bit.
    pub unperturbed: f32,
    /// Kinds with one score a draw.
    pub kinds: Vec<(Kind, Vec<f32>)>,
}

/// Scores a text of a source with a video as a model takes it ([`Scorer::video`]: rows and times) and with `draws`
/// perturbed versions of each kind. A version that became longer than the model takes is sampled evenly, as any video.
///
/// # Errors
/// [`Error::Config`] for impossible perturbations or more than [`MOST_DRAWS`]; as [`Scorer::open`];
/// [`Error::Stopped`].
pub fn stability(
    model: &Path,
    text: (&dyn TokenSource, usize),
    (video, times): (&Tokens, &[f32]),
    kinds: &[Kind],
    (draws, seed): (usize, u64),
    backend: Box<dyn Backend>,
    stop: &AtomicBool,
) -> Result<Stability> {
    if draws > MOST_DRAWS {
        return Err(Error::config("draws", format!("is {draws}"), format!("use at most {MOST_DRAWS}")));
    }
    let mut versions = vec![plain(times)];
    let mut counts = vec![];
    for (number, kind) in (0u64..).zip(kinds) {
        let before = versions.len();
        match &kind.how {
            None => versions.push(reversed(times)),
            Some(how) => {
                how.check()?;
                let stream = DRAWS + (number << 32);
                versions.extend((0..draws as u64).map(|d| how.sample(times, Random::new(seed, stream + d))));
            }
        }
        counts.push(versions.len() - before);
    }
    let (mut items, mut seconds) = (vec![], vec![]);
    for (i, samples) in versions.iter().enumerate() {
        let (data, times) = shown(samples, video);
        items.push((format!("version {i}"), Tokens { rows: samples.len(), dim: video.dim, data }));
        seconds.push(times);
    }
    let (source, count) = (InMemory::new(About::default(), items)?.timed(seconds)?, versions.len());
    let mut scorer = Scorer::open(model, (text.0, vec![text.1]), (&source, (0..count).collect()), backend)?;
    // One by one, on the way of an explanation: what a version scores must not depend on those beside it, to the bit.
    let score = |i: usize| match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped),
        false => Ok(scorer.explain(0, i)?.score),
    };
    let mut scores = (0..count).map(score).collect::<Result<Vec<f32>>>()?;
    let mut rest = scores.drain(..);
    let unperturbed = rest.next().unwrap_or(f32::NAN);
    let kinds = kinds.iter().zip(counts).map(|(kind, n)| (kind.clone(), rest.by_ref().take(n).collect())).collect();
    Ok(Stability { unperturbed, kinds })
}
