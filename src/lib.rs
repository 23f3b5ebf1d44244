//! Moviola: an engine for text-video alignment.

pub mod data;
pub mod engine;
pub mod error;
pub mod models;
pub mod random;
