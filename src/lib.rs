//! Moviola: an engine for text-video alignment.
pub mod engine;
pub mod error;
pub mod random;
