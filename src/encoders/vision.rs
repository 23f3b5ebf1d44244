//! The image tower of CLIP (Radford et al. 2021, section 2.4): a vision transformer (Dosovitskiy et al. 2021).
//!
//! ```text
//! x = norm([class; patches · W] + place),   then for each layer x = x + attention(norm(x)), x = x + mlp(norm(x))
//! image = P norm(x_class),   patch = P norm(x_patch)
//! ```
//! The class token is a row of the patches that holds zeros, so that an image is a segment of one matrix.

use super::architecture::{parsed, sound};
use super::checkpoint::Checkpoint;
use super::clip::names;
use super::layers::{self, Outline, Width};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::gather::Gather;
use crate::engine::op::linear::LINEAR;
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::tensor::{Axis, Dim, Meta};
use crate::error::{Error, Result};
use serde::Deserialize;

/// Rows of patches, a class token's row for each image included.
pub const PATCHES: Axis = Axis(0);
pub const IMAGES: Axis = Axis(1);

/// What config.json leaves out is as in the first CLIP, ViT-B/32.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    image_size: usize,
    patch_size: usize,
    projection_dim: usize,
    layer_norm_eps: f32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "quick_gelu".into(),
            image_size: 224,
            patch_size: 32,
            projection_dim: 512,
            layer_norm_eps: 1e-5,
        }
    }
}

/// A batch of images in a graph.
pub struct ImageInputs {
    /// `[ΣP, 3 · patch²]`; an image's first row holds zeros.
    pub patches: Value,
    /// u32 `[ΣP]`: rows of the table of positions.
    pub places: Value,
    /// u32 `[ΣP]`: 0 in an image's first row, 1 in the others.
    pub is_patch: Value,
    /// u32 `[N, 2]`
    pub segments: Value,
    /// u32 `[N]`: the first row of each image.
    pub first: Value,
}

pub struct ClipImage {
    width: Width,
    layers: usize,
    pub image: usize,
    pub patch: usize,
    projection: usize,
    parameters: Parameters,
}

impl ClipImage {
    /// # Errors
    /// When config.json describes no image tower of CLIP.
    pub fn new(checkpoint: &Checkpoint) -> Result<ClipImage> {
        let whole = &checkpoint.config;
        let path = checkpoint.dir().join("config.json");
        let kind = whole.get("model_type").and_then(|k| k.as_str()).unwrap_or_default();
        if !["clip", "clip_vision_model"].contains(&kind) {
            let what = format!("model_type is {kind:?}, which is no image encoder that is known");
            return Err(Error::format(path, what, "use a checkpoint of CLIP"));
        }
        let mut c: Config = parsed(checkpoint, whole.get("vision_config").unwrap_or(whole))?;
        if let Some(n) = whole.get("projection_dim").and_then(serde_json::Value::as_u64) {
            c.projection_dim = n as usize;
        }
        let sizes = [
            ("hidden_size", c.hidden_size),
            ("intermediate_size", c.intermediate_size),
            ("image_size", c.image_size),
            ("patch_size", c.patch_size),
            ("projection_dim", c.projection_dim),
        ];
        sound(checkpoint, &sizes, c.num_hidden_layers, c.hidden_size, c.num_attention_heads)?;
        let across = c.image_size / c.patch_size;
        if c.image_size > 4096 || across == 0 || !c.image_size.is_multiple_of(c.patch_size) {
            let what = format!("images of {} pixels cannot be cut into patches of {}", c.image_size, c.patch_size);
            return Err(Error::format(path, what, "copy it again"));
        }
        let (dim, heads, hidden, longest) =
            (c.hidden_size, c.num_attention_heads, c.intermediate_size, across * across + 1);
        let activation = layers::activation(&c.hidden_act)?;
        let width = Width { dim, heads, hidden, activation, eps: c.layer_norm_eps, causal: false, longest };
        let mut p = Parameters::default();
        let at = |name: &str| format!("vision_model.embeddings.{name}");
        p.free(&at("class_embedding"), &[dim], Init::Normal(0.02), false);
        p.free(&at("patch_embedding.weight"), &[dim, 3, c.patch_size, c.patch_size], Init::Normal(0.02), true);
        p.free(&at("position_embedding.weight"), &[longest, dim], Init::Normal(0.02), true);
        // The name is the checkpoint's.
        layers::declare_norm(&mut p, "vision_model.pre_layrnorm", dim);
        (0..c.num_hidden_layers).for_each(|i| layers::declare(&mut p, &names("vision_model", i), &width));
        layers::declare_norm(&mut p, "vision_model.post_layernorm", dim);
        p.free("visual_projection.weight", &[c.projection_dim, dim], Init::Normal((dim as f32).sqrt().recip()), true);
        let (layers, image, patch, projection) = (c.num_hidden_layers, c.image_size, c.patch_size, c.projection_dim);
        Ok(ClipImage { width, layers, image, patch, projection, parameters: p })
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn outline(&self) -> Outline {
        let layers = (0..self.layers).map(|i| names("vision_model", i)).collect();
        Outline { layers, head: vec!["vision_model.post_layernorm", "visual_projection"] }
    }

    /// Width of what the layers hand on.
    pub fn width(&self) -> usize {
        self.width.dim
    }

    /// Width of an image's vector.
    pub fn dim(&self) -> usize {
        self.projection
    }

    /// Rows of an image: its patches and its class token.
    pub fn rows(&self) -> usize {
        self.width.longest
    }

    /// Numbers of a patch.
    pub fn patch_values(&self) -> usize {
        3 * self.patch * self.patch
    }

    pub fn inputs(&self, g: &mut Graph, images: usize) -> Result<ImageInputs> {
        let rows = Dim::Ragged(PATCHES, images * self.rows());
        let images = Dim::Ragged(IMAGES, images);
        Ok(ImageInputs {
            patches: g.input("patches", Meta::f32(&[rows, Dim::Fixed(self.patch_values())])?),
            places: g.input("places", Meta::u32(&[rows])?),
            is_patch: g.input("is_patch", Meta::u32(&[rows])?),
            segments: g.input("segments", Meta::u32(&[images, Dim::Fixed(2)])?),
            first: g.input("first", Meta::u32(&[images])?),
        })
    }

    /// Vectors of images, `[N, dim]`.
    pub fn forward(&self, g: &mut Graph, w: &Weights, inputs: &ImageInputs) -> Result<Value> {
        let hidden = self.hidden(g, w, inputs)?;
        let class = g.apply(Gather, &[hidden, inputs.first])?;
        self.project(g, w, class)
    }

    /// Rows of [`ClipImage::hidden`] in the space that texts and images share, `[.., dim]`: normalised and projected, as
    /// the class token's always are.
    pub fn project(&self, g: &mut Graph, w: &Weights, rows: Value) -> Result<Value> {
        let rows = layers::norm(g, w, "vision_model.post_layernorm", self.width.eps, rows)?;
        g.apply(LINEAR.clone(), &[rows, w.get("visual_projection.weight")?, Value::ABSENT, Value::ABSENT])
    }

    /// What the last layer makes of class tokens and patches, before any norm: `[ΣP, width]`.
    pub fn hidden(&self, g: &mut Graph, w: &Weights, inputs: &ImageInputs) -> Result<Value> {
        let at = |name: &str| w.get(&format!("vision_model.embeddings.{name}"));
        let dim = Dim::Fixed(self.width.dim);
        let patch = g.view(at("patch_embedding.weight")?, 0, Meta::f32(&[dim, Dim::Fixed(self.patch_values())])?)?;
        let places = g.apply(Gather, &[at("position_embedding.weight")?, inputs.places])?;
        let x = g.apply(LINEAR.clone(), &[inputs.patches, patch, Value::ABSENT, places])?;
        // A table of one row: to all other rows nothing is added.
        let class = g.view(at("class_embedding")?, 0, Meta::f32(&[Dim::Fixed(1), dim])?)?;
        let class = g.apply(Gather, &[class, inputs.is_patch])?;
        let x = g.apply(Binary { kind: BinaryKind::Add }, &[x, class])?;
        let mut x = layers::norm(g, w, "vision_model.pre_layrnorm", self.width.eps, x)?;
        for i in 0..self.layers {
            x = layers::norm_before(g, w, &names("vision_model", i), &self.width, x, inputs.segments)?;
        }
        Ok(x)
    }
}
