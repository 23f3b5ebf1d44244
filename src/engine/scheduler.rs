//! From graphs to commands over a few regions, and the running of them.

pub mod executor;
pub mod place;
pub mod plan;
pub mod stream;
