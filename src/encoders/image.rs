//! An image encoder on a device: pictures in, a vector each out, or rows of their patches.

use super::checkpoint::Checkpoint;
use super::pixels::Preprocess;
use super::vision::{ClipImage, IMAGES, PATCHES};
use crate::data::picture::Picture;
use crate::engine::backend::Backend;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::{Executor, Outputs, SlotWriter};
use crate::engine::scheduler::stream::stream;
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Most images of a batch, and most rows of patches: what encoding takes does not grow with what there is to encode.
const MOST_IMAGES: usize = 32;
const MOST_ROWS: usize = 2048;

/// What is handed out of a picture. P is the number of its patches, which come row by row from the top left.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Its vector, `[1, projection]`.
    #[default]
    Image,
    /// Its patches in the space that texts and images share, `[P, projection]`: the norm and the projection of the class
    /// token applied to each, as FILIP has patches (Yao et al. 2022, figure 1). CLIP's own loss saw class tokens alone.
    Patches,
    /// What the last layer makes of the class token and of the patches, before any norm: `[1 + P, width]`. It is what
    /// transformers calls `last_hidden_state`.
    Hidden,
}

pub struct ImageEncoder {
    wanted: Wanted,
    tower: ClipImage,
    preprocess: Preprocess,
    executor: Executor,
    images: usize,
    identity: String,
}

/// Pictures of a batch, resized and cut to the square that the tower sees.
struct Batch {
    first: usize,
    squares: Vec<Vec<u8>>,
}

impl ImageEncoder {
    /// Opens a checkpoint in Hugging Face layout on a device.
    ///
    /// # Errors
    /// When a file is missing or damaged, the architecture is not known, or the device has too little memory.
    pub fn open(dir: &Path, backend: Box<dyn Backend>) -> Result<ImageEncoder> {
        ImageEncoder::of(&Checkpoint::open(dir)?, Wanted::Image, backend)
    }

    /// The same for an opened checkpoint, with more to be had of a picture than its vector.
    ///
    /// # Errors
    /// As [`ImageEncoder::open`].
    pub fn of(checkpoint: &Checkpoint, wanted: Wanted, backend: Box<dyn Backend>) -> Result<ImageEncoder> {
        let tower = ClipImage::new(checkpoint)?;
        let preprocess = Preprocess::of(checkpoint, tower.image as u32)?;
        let images = (MOST_ROWS / tower.rows()).clamp(1, MOST_IMAGES);
        let mut g = Graph::new();
        let inputs = tower.inputs(&mut g, images)?;
        let weights = tower.parameters().weights(&mut g)?;
        let rows = match wanted {
            Wanted::Image => tower.forward(&mut g, &weights, &inputs)?,
            Wanted::Patches | Wanted::Hidden => {
                let hidden = tower.hidden(&mut g, &weights, &inputs)?;
                if wanted == Wanted::Hidden { hidden } else { tower.project(&mut g, &weights, hidden)? }
            }
        };
        g.output("rows", rows);
        let executor = checkpoint.load("encode images", &g, (tower.parameters(), &[""]), backend)?;
        let also = match wanted {
            Wanted::Image => "",
            Wanted::Patches => ", patches",
            Wanted::Hidden => ", hidden states",
        };
        let identity = checkpoint.identity() + also;
        Ok(ImageEncoder { wanted, tower, preprocess, executor, images, identity })
    }

    /// Rows of a picture.
    pub fn rows(&self) -> usize {
        match self.wanted {
            Wanted::Image => 1,
            Wanted::Patches => self.tower.rows() - 1,
            Wanted::Hidden => self.tower.rows(),
        }
    }

    /// Width of a row.
    pub fn dim(&self) -> usize {
        if self.wanted == Wanted::Hidden { self.tower.width() } else { self.tower.dim() }
    }

    /// What features of this encoder are known by.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    /// How pictures become the squares that the tower sees.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Encodes pictures in their order and hands what is wanted of each, `[rows, dim]`, to `each` with its number.
    /// Pictures are made, resized and cut on a thread of their own while the device computes.
    ///
    /// # Errors
    /// The first error among the pictures, those of the device, of `each`, and [`Error::Stopped`].
    pub fn encode(
        &mut self,
        pictures: impl Iterator<Item = Result<Picture>> + Send,
        each: impl FnMut(usize, &[f32]) -> Result<()>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let preprocess = self.preprocess.clone();
        self.encode_squares(pictures.map(|picture| preprocess.square(&picture?)), each, stop)
    }

    /// The same for pictures that [`Preprocess::square`] has made ready.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`].
    pub fn encode_squares(
        &mut self,
        squares: impl Iterator<Item = Result<Vec<u8>>> + Send,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let kept = self.rows() * self.dim();
        // The class token's row stands before those of patches.
        let made = if self.wanted == Wanted::Patches { kept + self.dim() } else { kept };
        let ImageEncoder { tower, preprocess, executor, images, .. } = self;
        let (tower, preprocess) = (&*tower, &*preprocess);
        let batches = Batches { squares, next: 0, most: *images, over: false };
        let pack = |batch: &Result<Batch>, slot: &mut SlotWriter| match batch {
            Ok(batch) => pack(tower, preprocess, &batch.squares, slot),
            // The error itself reaches `take`, which hands it on.
            Err(_) => pack(tower, preprocess, &[], slot),
        };
        let take = |batch: Result<Batch>, outputs: &Outputs| {
            let batch = batch?;
            let rows = outputs.f32("rows")?.chunks_exact(made).take(batch.squares.len());
            rows.enumerate().try_for_each(|(i, rows)| each(batch.first + i, &rows[made - kept..]))
        };
        stream(executor, 0, batches, pack, take, stop)?;
        if stop.load(std::sync::atomic::Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }
}

struct Batches<S> {
    squares: S,
    next: usize,
    most: usize,
    over: bool,
}

impl<S: Iterator<Item = Result<Vec<u8>>>> Iterator for Batches<S> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let mut batch = Batch { first: self.next, squares: vec![] };
        while !self.over && batch.squares.len() < self.most {
            match self.squares.next() {
                Some(Ok(square)) => batch.squares.push(square),
                Some(Err(e)) => {
                    self.over = true;
                    return Some(Err(e));
                }
                None => self.over = true,
            }
        }
        self.next += batch.squares.len();
        (!batch.squares.is_empty()).then_some(Ok(batch))
    }
}

/// Packs squares into a slot of [`ImageInputs`](super::vision::ImageInputs).
pub fn pack(tower: &ClipImage, preprocess: &Preprocess, squares: &[Vec<u8>], slot: &mut SlotWriter) -> Result<()> {
    let (rows, values) = (tower.rows(), tower.patch_values());
    slot.count(PATCHES, squares.len() * rows);
    slot.count(IMAGES, squares.len());
    for (n, square) in squares.iter().enumerate() {
        let begin = n * rows;
        let patches = &mut slot.f32("patches")?[begin * values..][..rows * values];
        patches[..values].fill(0.0);
        preprocess.patches(square, tower.patch, &mut patches[values..]);
        let places = &mut slot.u32("places")?[begin..][..rows];
        places.iter_mut().enumerate().for_each(|(i, place)| *place = i as u32);
        let is_patch = &mut slot.u32("is_patch")?[begin..][..rows];
        is_patch.fill(1);
        is_patch[0] = 0;
        slot.u32("segments")?[2 * n..][..2].copy_from_slice(&[begin as u32, (begin + rows) as u32]);
        // Where class tokens are means nothing to a plan that hands out all rows.
        if slot.has("first") {
            slot.u32("first")?[n] = begin as u32;
        }
    }
    Ok(())
}
