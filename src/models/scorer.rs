//! A trained model on a device: scores all pairs and shows evidence. What an embedding program uses.

use super::batch::{Capacity, Rows, pack_texts, pack_videos};
use super::rows::{TextRows, VideoRows};
use super::tiles::{self, Side, Tile, Tiler};
use super::{Config, Model, folder, plans};
use crate::data::TokenSource;
use crate::data::tokens::Tokens;
use crate::engine::backend::Backend;
use crate::engine::inference;
use crate::engine::scheduler::executor::Executor;
use crate::error::Result;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A model, the data it is to score, and a device with the plans for both.
pub struct Scorer<'a> {
    model: Box<dyn Model>,
    texts: TextRows<'a>,
    videos: VideoRows<'a>,
    text_items: Vec<usize>,
    video_items: Vec<usize>,
    executor: Executor,
    capacity: Capacity,
}

pub use super::evidence::Explanation;

impl<'a> Scorer<'a> {
    /// Loads a model folder for these texts and videos (positions in their sources).
    ///
    /// # Errors
    /// When the folder is no model, when the features do not fit it, or when the device has too little memory.
    pub fn open(
        dir: &Path,
        texts: (&'a dyn TokenSource, Vec<usize>),
        videos: (&'a dyn TokenSource, Vec<usize>),
        backend: Box<dyn Backend>,
    ) -> Result<Scorer<'a>> {
        let (model, params) = folder::load(dir)?;
        Scorer::new(model, &params, texts, videos, backend)
    }

    /// The same for a model that is no folder, with its parameters.
    ///
    /// # Errors
    /// When the features do not fit the model, or when the device has too little memory.
    pub fn new(
        model: Box<dyn Model>,
        params: &[f32],
        texts: (&'a dyn TokenSource, Vec<usize>),
        videos: (&'a dyn TokenSource, Vec<usize>),
        backend: Box<dyn Backend>,
    ) -> Result<Scorer<'a>> {
        let config = model.config();
        let (text_rows, text_items) = (TextRows::new(texts.0, config)?, texts.1);
        let (video_rows, video_items) = (VideoRows::new(videos.0, config)?, videos.1);
        let capacity = tiles::capacity(&text_rows, &text_items, &video_rows, &video_items);
        let one = |rows: &dyn Rows, items: &[usize]| items.iter().map(|i| rows.rows(*i)).max().unwrap_or(1).max(1);
        let single = Capacity {
            texts: 1,
            words: one(&text_rows, &text_items),
            videos: 1,
            frames: one(&video_rows, &video_items),
        };
        let mut graphs: Vec<_> = tiles::graphs(model.as_ref(), capacity)?.into_iter().collect();
        graphs.push(("evidence", plans::evidence(model.as_ref(), single)?));
        let executor = inference::load(&graphs, params, backend)?;
        Ok(Scorer { model, texts: text_rows, videos: video_rows, text_items, video_items, executor, capacity })
    }

    pub fn config(&self) -> &Config {
        self.model.config()
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    /// The frame of the file that column `r` of an explanation shows.
    pub fn frame(&self, video: usize, r: usize) -> usize {
        self.videos.frame(self.video_items[video], r)
    }

    /// The rows of video `video` as the model takes them, `[T, D]`, and the times that it sees, `[T]`: seconds, or numbers
    /// of frames where the source knows none.
    pub fn video(&self, video: usize) -> Result<(Tokens, Vec<f32>)> {
        let item = self.video_items[video];
        let (rows, dim) = (self.videos.rows(item), self.videos.dim());
        let (mut data, mut times) = (vec![0.0; rows * dim], vec![0.0; rows]);
        self.videos.write(item, &mut data)?;
        self.videos.places(item, &mut times);
        Ok((Tokens { rows, dim, data }, times))
    }

    /// Visits the scores of all pairs, tile by tile.
    pub fn score_all(&mut self, visit: impl FnMut(Tile) -> Result<()>, stop: &AtomicBool) -> Result<()> {
        let (mut tiler, texts, videos) = self.tiler();
        tiler.run(texts, videos, |_, _| true, visit, stop)
    }

    /// What all pairs are made with, for those who want other tiles than all of them once.
    pub fn tiler(&mut self) -> (Tiler<'_>, Side<'_>, Side<'_>) {
        let texts = Side { rows: &self.texts, items: &self.text_items };
        let videos = Side { rows: &self.videos, items: &self.video_items };
        (Tiler { executor: &mut self.executor, first: 0, capacity: self.capacity }, texts, videos)
    }

    /// Why text `text` and video `video` (positions in what was opened) score as they do.
    pub fn explain(&mut self, text: usize, video: usize) -> Result<Explanation> {
        let (texts, videos) = (&self.texts, &self.videos);
        let (text, video) = (self.text_items[text], self.video_items[video]);
        let kept = self.model.kept();
        let outputs = self.executor.run(2, |slot| {
            pack_texts(slot, texts, &[text])?;
            pack_videos(slot, videos, &[video])
        })?;
        Explanation::read(&outputs, kept)
    }
}
