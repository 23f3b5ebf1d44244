//! Encoders: from words and pixels to tokens, by architectures as checkpoints in Hugging Face layout describe them, on the engine.
//!
//! ```text
//! folder ─ checkpoint (config.json, model.safetensors mapped) ─ architecture (parameters under the checkpoint's names)
//! texts ─ tokenizer (tokenizer.json) ─ slots of packed pieces ─ plan ─ word tokens [L, D] and a sentence vector [D]
//! pictures ─ pixels (resize, crop, normalise, patches) ─ slots ─ plan ─ a vector [D] each
//! ```
//! Checkpoints are trained by `train::encoder`: [`dual`] is the loss of both towers of CLIP, [`tuning`] says what of them
//! moves, and [`fresh`] makes one that has not learned anything yet.

pub mod architecture;
pub mod bert;
pub mod checkpoint;
pub mod clip;
pub mod clips;
pub mod dual;
pub mod fresh;
pub mod image;
pub mod layers;
pub mod pixels;
pub mod positions;
pub mod resample;
pub mod text;
pub mod tokenizer;
pub mod tuning;
pub mod vision;
