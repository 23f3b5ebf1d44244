//! The engine knows tensors; it knows no video, no text and no file format.

pub mod autodiff;
pub mod backend;
pub mod bench;
pub mod check;
pub mod fuse;
pub mod graph;
pub mod inference;
pub mod int8;
pub mod op;
pub mod parameters;
pub mod ptx;
pub mod reference;
pub mod scheduler;
pub mod tensor;
