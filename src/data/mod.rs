//! Feature files, dataset layouts and generated worlds: everything between a folder on disk and rows of f32.
//!
//! Files are hostile until proven: sizes are checked before anything is allocated, and every complaint names the file,
//! the id, what was expected and what to do. Reading collects [`problem::Problems`]; opening refuses the first of them,
//! `check` shows all.

//Xpub mod convert;
pub mod problem;
//Xpub mod check;
//Xpub mod dataset;
pub mod files;
pub mod folder;
//Xpub mod generated;
//Xpub mod inspect;
//Xpub mod layout;
pub mod npy;
pub mod npz;
pub mod safetensors;
pub mod shard;
pub mod shard_writer;
//Xpub mod sink;
pub mod source;
pub mod tensor_files;
pub mod tokens;
//Xpub mod world;

//Xpub use check::{Report, check};
//Xpub use convert::{ConvertOptions, convert};
//Xpub use dataset::{Dataset, Pair, Split};
//Xpub use inspect::{Inspection, inspect};
//Xpub use layout::Layout;
pub use problem::{Problem, Problems, Severity};
pub use source::open as open_tokens;
pub use tokens::{About, InMemory, Kind, Provenance, TokenDtype, TokenSource, Tokens};
