//! Moviola: an engine for text-video alignment.
pub mod error;
