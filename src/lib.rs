//! Moviola: an engine for text-video alignment.

pub mod claims;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod encoders;
pub mod engine;
pub mod error;
pub mod eval;
pub mod models;
#[cfg(feature = "cli")]
pub mod picture;
pub mod random;
#[cfg(test)]
#[path = "../tests/seed/mod.rs"]
mod seed;
pub mod train;
