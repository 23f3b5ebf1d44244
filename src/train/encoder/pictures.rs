//! Pairs whose frames are files, read when a batch needs them.

use super::Pairs;
use crate::data::picture::Picture;
use crate::data::pictures::PictureSet;
use crate::encoders::pixels::Preprocess;
use crate::error::Result;

pub struct Pictures(pub PictureSet);

impl Pairs for Pictures {
    fn len(&self) -> usize {
        self.0.pairs.len()
    }
    fn caption(&self, pair: usize) -> &str {
        &self.0.pairs[pair].0
    }
    fn video(&self, pair: usize) -> u32 {
        self.0.pairs[pair].1 as u32
    }
    fn frames(&self, pair: usize) -> usize {
        self.0.videos[self.0.pairs[pair].1].len()
    }
    fn squares(&self, pair: usize, frames: &[usize], tower: &Preprocess) -> Result<Vec<Vec<u8>>> {
        let files = &self.0.videos[self.0.pairs[pair].1];
        frames.iter().map(|f| tower.square(&Picture::open(&files[*f])?)).collect()
    }
}
