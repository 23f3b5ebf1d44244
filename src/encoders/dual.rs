//! Both towers of CLIP and what they are trained by (Radford et al. 2021, section 2.3), with videos in the place of
//! images: a video's vector is the mean of those of its frames, each of length one, as in CLIP4Clip (Luo et al. 2021,
//! section 3.3, "parameter-free type").
//!
//! ```text
//! loss = InfoNCE(exp(logit_scale) · cos(text_i, mean_t norm(frame_jt)))    in both directions
//! ```

use super::architecture::{PIECES, TEXTS, TextArchitecture, TextInputs};
use super::checkpoint::Checkpoint;
use super::clip::ClipText;
use super::layers::Outline;
use super::vision::{ClipImage, IMAGES, ImageInputs, PATCHES};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::contrast::Contrast;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::norm::Unit;
use crate::engine::op::segment::{SegmentKind, SegmentReduce};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::scheduler::executor::SlotWriter;
use crate::engine::tensor::{Axis, Dim, Meta};
use crate::error::{Error, Result};

/// Videos; they have an axis of their own beside that of texts and are as many.
pub const VIDEOS: Axis = Axis(2);
const _: () = assert!(VIDEOS.0 != PIECES.0 && VIDEOS.0 != TEXTS.0 && VIDEOS.0 != PATCHES.0 && VIDEOS.0 != IMAGES.0);

/// The logarithm of what scores are multiplied by in the loss, by its name in checkpoints.
pub const SCALE: &str = "logit_scale";

/// Most rows of a training batch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub pairs: usize,
    pub pieces: usize,
    pub frames: usize,
}

/// A batch of pairs in a graph: text i belongs to video i.
pub struct Inputs {
    pub text: TextInputs,
    /// Frames of all videos.
    pub images: ImageInputs,
    /// u32 `[M, 2]`: the frames of each video.
    pub frames: Value,
    /// u32 `[N]`: pairs with the same key are no negatives of each other.
    pub video_key: Value,
    pub caption_key: Value,
}

pub struct Dual {
    pub text: ClipText,
    pub image: ClipImage,
    parameters: Parameters,
}

impl Dual {
    /// # Errors
    /// When config.json does not describe both towers of CLIP.
    pub fn new(checkpoint: &Checkpoint) -> Result<Dual> {
        let kind = checkpoint.config.get("model_type").and_then(|k| k.as_str()).unwrap_or_default();
        if kind != "clip" {
            let what =
                format!("model_type is {kind:?}; texts and pictures are trained together in both towers of CLIP");
            return Err(Error::format(checkpoint.dir().join("config.json"), what, "use a checkpoint of CLIP"));
        }
        let (text, image) = (ClipText::new(checkpoint)?, ClipImage::new(checkpoint)?);
        let mut parameters = Parameters::default();
        text.parameters().list.iter().chain(&image.parameters().list).for_each(|p| parameters.adopt(p));
        let first = Init::Constant((1.0f32 / 0.07).ln());
        parameters.declare(SCALE, &[], first, false, (f32::MIN, 100f32.ln()));
        Ok(Dual { text, image, parameters })
    }

    /// Those of both towers, and the scale of scores.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn outlines(&self) -> [Outline; 2] {
        [self.text.outline(), self.image.outline()]
    }

    pub fn inputs(&self, g: &mut Graph, capacity: Capacity) -> Result<Inputs> {
        let texts = Dim::Ragged(TEXTS, capacity.pairs);
        let videos = Dim::Ragged(VIDEOS, capacity.pairs);
        Ok(Inputs {
            text: TextInputs::declare(g, capacity.pairs, capacity.pieces)?,
            images: self.image.inputs(g, capacity.frames)?,
            frames: g.input("frame_segments", Meta::u32(&[videos, Dim::Fixed(2)])?),
            video_key: g.input("video_key", Meta::u32(&[texts])?),
            caption_key: g.input("caption_key", Meta::u32(&[texts])?),
        })
    }

    /// The loss of a batch, `[1]`.
    pub fn loss(&self, g: &mut Graph, w: &Weights, inputs: &Inputs) -> Result<Value> {
        let (_, texts) = self.text.forward(g, w, &inputs.text)?;
        let texts = g.apply(Unit, &[texts])?;
        let frames = self.image.forward(g, w, &inputs.images)?;
        let frames = g.apply(Unit, &[frames])?;
        let mean = SegmentReduce { kind: SegmentKind::Mean, tail: 0 };
        let videos = g.apply(mean, &[frames, inputs.frames])?;
        let videos = g.apply(Unit, &[videos])?;
        let scores = g.apply(LINEAR.clone(), &[texts, videos, Value::ABSENT, Value::ABSENT])?;
        g.apply(Contrast, &[scores, w.get(SCALE)?, inputs.video_key, inputs.caption_key, Value::ABSENT])
    }
}

/// Says how many frames each video of a batch has, and the keys of its pairs.
pub fn pack_pairs(slot: &mut SlotWriter, frames: &[usize], video_keys: &[u32], caption_keys: &[u32]) -> Result<()> {
    slot.count(VIDEOS, frames.len());
    let mut begin = 0;
    for (entry, n) in slot.u32("frame_segments")?.chunks_exact_mut(2).zip(frames) {
        entry.copy_from_slice(&[begin, begin + *n as u32]);
        begin += *n as u32;
    }
    for (name, keys) in [("video_key", video_keys), ("caption_key", caption_keys)] {
        slot.u32(name)?.iter_mut().zip(keys).for_each(|(place, key)| *place = *key);
    }
    Ok(())
}
