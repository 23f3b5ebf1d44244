//! Training: the loop, its schedule, checkpoints that resume exactly, and the log.

pub mod checkpoint;
pub mod encoder;
mod gate;
pub mod log;
pub mod options;
mod steps;
pub mod trainer;

pub use options::TrainOptions;
pub use trainer::{Event, Run, Summary, Trainer};
