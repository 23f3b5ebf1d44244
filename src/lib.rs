//! Moviola: an engine for text-video alignment.
pub mod error;
pub mod eval;
#[cfg(feature = "cli")]
pub mod picture;
