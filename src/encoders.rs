//! Encoders: from words to tokens, by architectures as checkpoints in Hugging Face layout describe them, on the engine.
//!
//! ```text
//! folder ─ checkpoint (config.json, model.safetensors mapped) ─ architecture (parameters under the checkpoint's names)
//! texts ─ tokenizer (tokenizer.json) ─ slots of packed pieces ─ plan ─ word tokens [L, D] and a sentence vector [D]
//! ```

pub mod architecture;
pub mod bert;
pub mod checkpoint;
pub mod clip;
pub mod layers;
pub mod text;
pub mod tokenizer;
