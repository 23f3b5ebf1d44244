//! Runs unmodified compute_80 PTX on the CPU, strictly, behind a stand-in for the CUDA driver library.
//!
//! `parse` and `decode` turn the text into rows and numbers (`program`), `warp` runs 32 lanes at a time (`alu`, `cvt`,
//! `access`, `shuffle`, `tensor`), `block` and `grid` run the launch, `memory` and `shared` check every access, and
//! `driver` is what a program links to. See README.md.

pub mod access;
pub mod alu;
pub mod block;
pub mod copies;
pub mod cvt;
pub mod decode;
pub mod decode_memory;
pub mod driver;
pub mod fault;
pub mod float;
pub mod grid;
pub mod lexer;
pub mod machine;
pub mod memory;
pub mod parse;
pub mod program;
pub mod shared;
pub mod shuffle;
pub mod status;
pub mod table;
pub mod tensor;
pub mod warp;
