//! Retrieval evaluation: ranks counted while scores stream past, metrics under a stated tie rule, and the protocol
//! that belongs to every number.
//!
//! The way through: [`Relevance`] says which video each text belongs to; [`Truth`] gathers the score of every such
//! pair; [`RankCounter`] sees every score once, in tiles of any shape and order, and keeps O(texts + videos) counters;
//! [`Retrieval`] turns the counts into the table of the field. [`count`] does all of it for a [`ScoreMatrix`].

mod area;
pub mod file;
mod interval;
mod matrix;
mod metrics;
mod npy;
mod postprocess;
mod protocol;
mod ranks;
mod relevance;
pub mod scoring;
mod trec;

pub use area::auroc;
pub use interval::{MeanSd, mean_sd, wilson};
pub use matrix::{Matrix, ScoreMatrix, count};
pub use metrics::{Direction, Metrics, TieRule};
pub use npy::NpyMatrix;
pub use postprocess::{Bank, MEMORY_LIMIT, PostNote, PostProcess, evaluate_with};
pub use protocol::{Block, Captions, Protocol, Retrieval, Setting};
pub use ranks::{CaptionMode, Counts, Directions, RankCounter, Tally, Truth};
pub use relevance::Relevance;
pub use trec::{Qrels, Run};
