//! `rendered`: short videos of coloured shapes that do things before patterned backgrounds, with captions and truth.
//!
//! Two traps are options of the world. In training each shape has a favourite background ([`Rendered::rho`], as in S1
//! `spurious-background`); in the test there is no such link, and in the test `adv` each clip has the favourite of
//! another shape. And some clips hold two events, whose twin holds the same in the other order
//! ([`Rendered::order_share`], as in S3 `temporal-order`).
//!
//! Clips are pictures in memory ([`Clip::frames`]); [`Rendered::write`] makes mp4 files of them by `ffmpeg`. The same
//! parameters give the same pixels.

pub mod draw;
pub mod folder;
pub mod mp4;
pub mod scene;
pub mod textures;
pub mod words;
pub mod world;

pub use draw::Canvas;
pub use folder::{PREVIEW, Written};
pub use mp4::Mp4Writer;
pub use world::{Clip, Rendered, Set, Truth, Twin, TwinKind};

/// The name of the world.
pub const NAME: &str = "rendered";
