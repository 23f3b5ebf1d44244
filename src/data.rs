//! Feature files, dataset layouts and generated worlds: everything between a folder on disk and rows of f32.
//!
//! Files are hostile until proven: sizes are checked before anything is allocated, and every complaint names the file,
//! the id, what was expected and what to do. Reading collects [`problem::Problems`]; opening refuses the first of them,
//! `check` shows all.

pub mod check;
pub mod convert;
pub mod dataset;
pub mod directions;
pub mod ffmpeg;
pub mod files;
pub mod folder;
pub mod generated;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod layout;
pub mod media;
pub mod npy;
pub mod npz;
pub mod picture;
pub mod pictures;
pub mod problem;
pub mod safetensors;
pub mod shard;
pub mod shard_writer;
pub mod sink;
pub mod source;
pub mod tensor_files;
pub mod tokens;
pub mod worlds;

pub use check::{Report, check};
pub use convert::{ConvertOptions, convert};
pub use dataset::{Dataset, Pair, Split};
pub use inspect::{Inspection, inspect};
pub use layout::Layout;
pub use problem::{Problem, Problems, Severity};
pub use source::open as open_tokens;
pub use tokens::{About, InMemory, Kind, Provenance, TokenDtype, TokenSource, Tokens};
