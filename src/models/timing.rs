//! What a model's scoring takes on a device: time beside another model's, and what a gallery keeps.

use super::Model;
use super::batch::{Capacity, FRAMES, VIDEOS, pack_texts, pack_videos};
use super::plans;
use super::random_batch::{SEED, Sizes};
use super::tiles;
use crate::engine::backend::Backend;
use crate::engine::bench::in_turns;
use crate::engine::graph::Kind;
use crate::engine::inference;
use crate::error::Result;

/// Seconds that models take to score all pairs of a random batch against a gallery that is filled, in turns:
/// `[turn][model]`. The texts are encoded within that time, as they are when a gallery is searched.
///
/// # Errors
/// When a model does not take tokens of these sizes; whatever the device raises.
pub fn scoring_in_turns(
    models: &[&dyn Model],
    sizes: Sizes,
    turns: usize,
    open: &dyn Fn() -> Result<Box<dyn Backend>>,
) -> Result<Vec<Vec<f64>>> {
    let batch = sizes.batch();
    let capacity = batch.capacity();
    let (texts, videos): (Vec<usize>, Vec<usize>) = ((0..sizes.texts).collect(), (0..sizes.videos).collect());
    let ready = |model: &&dyn Model| {
        let params = model.parameters().initial(SEED);
        let mut executor = inference::load(&tiles::graphs(*model, capacity)?, &params, open()?)?;
        executor.run(0, |slot| pack_videos(slot, &batch.videos, &videos))?;
        let counts = executor.upload(1, |slot| {
            slot.count(VIDEOS, videos.len());
            slot.count(FRAMES, capacity.frames);
            pack_texts(slot, &batch.texts, &texts)
        })?;
        Ok((executor, counts))
    };
    let mut ready = models.iter().map(ready).collect::<Result<Vec<_>>>()?;
    in_turns(turns, models.len(), |which| {
        let (executor, counts) = &mut ready[which];
        executor.compute(1, *counts)
    })
}

/// Bytes that a full gallery of this capacity keeps, tables included.
pub fn gallery_bytes(model: &dyn Model, capacity: Capacity) -> Result<u64> {
    let graph = plans::fill_gallery(model, capacity)?;
    let states = graph.nodes.iter().filter_map(|node| match &node.kind {
        Kind::State(name) if name.starts_with("gallery.") => Some(node.outs.iter().map(|m| m.bytes()).sum::<u64>()),
        _ => None,
    });
    Ok(states.sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::backend::{self, DeviceChoice};
    use crate::models::{Config, build};

    #[test]
    fn every_model_takes_its_turns_and_says_what_it_keeps() {
        let sizes = Sizes { texts: 5, videos: 3, words: 4, frames: 6, dim: 32, ragged: false };
        let wide = Config { text_dim: 32, video_dim: 32, dim: 32, max_words: 4, max_frames: 6, ..Config::default() };
        let models = ["token-interaction", "cba"].map(|model| build(&Config { model: model.into(), ..wide.clone() }));
        let models = models.map(Result::unwrap);
        let open = || Ok(backend::open(&DeviceChoice::Cpu, 1, Default::default())?.0);
        let times = scoring_in_turns(&[models[0].as_ref(), models[1].as_ref()], sizes, 3, &open).unwrap();
        assert_eq!((times.len(), times[0].len()), (3, 2));
        assert!(times.iter().flatten().all(|t| *t > 0.0));
        let capacity = Capacity { texts: 5, words: 25, videos: 3, frames: 18 };
        let kept = |i: usize| gallery_bytes(models[i].as_ref(), capacity).unwrap();
        // Frames, a bias each, and the table.
        assert!(kept(0) >= 18 * 33 * 4 + 3 * 8, "{}", kept(0));
        assert!(kept(1) >= 4 * 18 * 32 * 4, "four experts: {}", kept(1));
    }
}
