//! Moviola: an engine for text-video alignment.
pub mod data;
pub mod error;
pub mod random;
