//! CBA: query-adaptive semantic routing, counterfactual bi-directional alignment and temporal causal regularisation
//! ("From Correlation to Causation: Counterfactual Bi-Directional Alignment for Robust Text–Video Retrieval", 2026).
//! The paper states what the modules do; the formulas are this project's and stand where they are built.
//!
//! ```text
//!   words ── P_t ── + place ─────────────────────────────── ŵ, ω, q̂, g(q̂) ──┐
//!                                                                            ├─ interact ── S, S(background), ρ
//!   frames ─ P_v ── + motion, + time, transformer ── v ── experts ── E, β, h(v̂), ⟨E, E⟩ ──┘
//!                     (trunk.rs)                      (experts.rs)          (losses.rs)
//! ```

pub mod config;
mod experts;
mod losses;
mod trunk;

pub use config::CbaConfig;

use super::batch::{TextInputs, VideoInputs};
use super::standardise;
use super::token_interaction::{declare_row_weight, row_weight};
use super::{Batch, Config, Model, Represented, Stage, Term, TextSide, VideoSide};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::gather::Gather;
use crate::engine::op::interact::{Foreground, Interact};
use crate::engine::op::linear::LINEAR;
use crate::engine::op::norm::Unit;
use crate::engine::op::pointwise::{Unary, UnaryKind};
use crate::engine::op::quant::FakeQuant;
use crate::engine::op::segment::{SegmentKind, SegmentLogSoftmax, SegmentReduce};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::tensor::{Dim, Meta};
use crate::error::Result;
use config::{Router, RoutingMode};

/// The model; see the module.
pub struct Cba {
    config: Config,
    cba: CbaConfig,
    parameters: Parameters,
}

/// Tensors of a text, in the order of [`Model::text`].
mod text {
    pub const WORDS: usize = 0;
    pub const WEIGHTS: usize = 1;
    pub const SENTENCE: usize = 2;
    pub const ROUTER: usize = 3;
}

/// Tensors of a video, in the order of [`Model::video`].
mod video {
    pub const EXPERTS: usize = 0;
    pub const BIAS: usize = 1;
    pub const POOLED: usize = 2;
    pub const ROUTER: usize = 3;
    pub const GRAM: usize = 4;
    pub const TABLE: usize = 5;
}

impl Cba {
    pub fn new(mut config: Config) -> Cba {
        let cba = config.cba.get_or_insert_default().clone();
        let (dim, mut parameters) = (config.dim, Parameters::default());
        let p = &mut parameters;
        p.linear("text", dim, config.text_dim);
        p.linear("video", dim, config.video_dim);
        if cba.trunk.standardise {
            standardise::declare(p, "text", config.text_dim);
            standardise::declare(p, "video", config.video_dim);
        }
        trunk::declare(p, &cba.trunk, dim);
        experts::declare(p, &cba.routing, cba.trunk.positions, dim);
        declare_row_weight(p, "word_weight", dim);
        declare_row_weight(p, "frame_weight", dim);
        p.log_scale("log_scale");
        p.log_scale("pooled_log_scale");
        if cba.routing.router == Router::Random {
            p.freeze("router");
        }
        Cba { config, cba, parameters }
    }

    /// Whether a pair's frames are mixed from several experts.
    fn routes(&self) -> bool {
        !matches!(self.cba.routing.mode, RoutingMode::Off | RoutingMode::Dense)
    }

    /// Whether projections are rounded as int8 rounds them.
    fn rounds(&self, stage: Stage) -> bool {
        stage.quantised || self.cba.quantisation.int8
    }

    /// Scores of texts with videos of at most `max_frames` frames.
    fn op(&self, max_frames: usize) -> Interact {
        let routing = &self.cba.routing;
        Interact {
            temperature: self.config.temperature,
            relevance_temperature: self.config.relevance_temperature,
            max_words: self.config.max_words as u32 + 1,
            max_frames: max_frames as u32,
            kept: if routing.mode == RoutingMode::TopkQuery { routing.slots as u32 } else { 0 },
        }
    }

    /// Frames of the longest video after a perturbation.
    fn max_stretched(&self) -> usize {
        self.cba.temporal.perturbation().most(self.config.max_frames)
    }

    /// Operands of the ops of `interact`; views are extra log-weights of the frames.
    fn operands(text: &TextTensors, video: &VideoTensors, segments: [Value; 2], views: Value) -> [Value; 11] {
        let [word_segments, frame_segments] = segments;
        [
            text.words,
            word_segments,
            text.weights,
            video.experts,
            frame_segments,
            video.bias,
            text.router,
            video.router,
            video.table,
            video.gram,
            views,
        ]
    }

    fn encode_text(&self, g: &mut Graph, w: &Weights, text: &TextInputs, stage: Stage) -> Result<TextTensors> {
        let rounds = self.rounds(stage);
        let mut joint = project(g, w, "text", text.words, rounds)?;
        if !text.places.is_absent() {
            // Word order has to reach the score, also where word tokens do not know their neighbours.
            joint = linear_onto(g, w, "word_place", text.places, joint)?;
        }
        if self.cba.trunk.mixing {
            joint = trunk::mixed(g, w, joint, text.segments)?;
        }
        let words = g.apply(Unit, &[joint])?;
        let logits = row_weight(g, w, "word_weight", words)?;
        // The sentence row is no word: it takes no part in the weights.
        let weights = g.apply(SegmentLogSoftmax { tail: 1 }, &[logits, text.segments])?;
        let last = SegmentReduce { kind: SegmentKind::Last, tail: 0 };
        let sentence = g.apply(last, &[words, text.segments])?;
        let router = if !self.routes() {
            Value::ABSENT
        } else if self.cba.routing.router == Router::Frame {
            g.fill(0.0, &[text.capacity.texts_dim(), Dim::Fixed(self.cba.routing.experts)])?
        } else {
            let own = router_logits(g, w, "router.text", sentence, self.config.dim)?;
            let neighbour = text.neighbours;
            if neighbour.is_absent() { own } else { g.apply(Gather, &[own, neighbour])? }
        };
        Ok(TextTensors { words, weights, sentence, router })
    }

    fn encode_video(&self, g: &mut Graph, w: &Weights, video: &VideoInputs, stage: Stage) -> Result<VideoTensors> {
        let joint = project(g, w, "video", video.frames, self.rounds(stage))?;
        let seen = Seen { joint, times: video.times, segments: video.segments, longest: self.config.max_frames };
        self.encode_frames(g, w, seen, Value::ABSENT, stage)
    }

    /// From projected frames to what a video is scored by. `noise` `[ΣT, K]` is added to the router's logits.
    fn encode_frames(
        &self,
        g: &mut Graph,
        w: &Weights,
        seen: Seen,
        noise: Value,
        stage: Stage,
    ) -> Result<VideoTensors> {
        let v = trunk::frames(g, w, &self.cba.trunk, seen)?;
        let unit = g.apply(Unit, &[v])?;
        let rows = g.meta(v).dim(0);
        let bias = row_weight(g, w, "frame_weight", unit)?;
        let bias = g.reshape(bias, Meta::f32(&[rows])?)?;
        let mean = g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[unit, seen.segments])?;
        let pooled = g.apply(Unit, &[mean])?;
        let tokens = experts::Tokens { v, unit, times: seen.times, segments: seen.segments, noise };
        let routed = experts::frames(g, w, &self.cba.routing, &tokens, self.rounds(stage))?;
        Ok(VideoTensors {
            experts: routed.experts,
            bias,
            pooled,
            router: routed.router,
            gram: routed.gram,
            table: routed.table,
            delta: routed.delta,
            logits: routed.logits,
        })
    }
}

/// What a text is scored by.
#[derive(Copy, Clone)]
struct TextTensors {
    /// `[ΣL, D]`, rows of length one.
    words: Value,
    /// `[ΣL]` ln ω
    weights: Value,
    /// `[N, D]`, rows of length one.
    sentence: Value,
    /// `[N, K]`; absent without routing.
    router: Value,
}

/// What a video is scored by, and what its losses need.
#[derive(Copy, Clone)]
struct VideoTensors {
    /// `[ΣT, k·D]`
    experts: Value,
    /// `[ΣT]` β
    bias: Value,
    /// `[M, D]`, rows of length one.
    pooled: Value,
    /// `[ΣT, k]`; absent without routing, as are the next two.
    router: Value,
    /// `[ΣT, k·k]`
    gram: Value,
    /// u32 `[ΣT, k]`; absent where every token keeps all experts.
    table: Value,
    /// `[ΣT, k·D]`: what the experts add to the trunk's tokens.
    delta: Value,
    /// `[ΣT, K]`: the frames' logits of all experts.
    logits: Value,
}

/// Projected frames and when they are seen.
#[derive(Copy, Clone)]
struct Seen {
    /// `[ΣT, D]`
    joint: Value,
    /// `[ΣT, 2·WAVES]`, or absent.
    times: Value,
    /// u32 `[M, 2]`
    segments: Value,
    /// Frames of the longest video.
    longest: usize,
}

impl TextTensors {
    fn list(&self) -> Vec<Value> {
        let all = [self.words, self.weights, self.sentence, self.router];
        all.into_iter().filter(|v| !v.is_absent()).collect()
    }
    fn of(tensors: &[Value]) -> TextTensors {
        let at = |i: usize| tensors.get(i).copied().unwrap_or(Value::ABSENT);
        TextTensors {
            words: at(text::WORDS),
            weights: at(text::WEIGHTS),
            sentence: at(text::SENTENCE),
            router: at(text::ROUTER),
        }
    }
}

impl VideoTensors {
    const NONE: VideoTensors = VideoTensors {
        experts: Value::ABSENT,
        bias: Value::ABSENT,
        pooled: Value::ABSENT,
        router: Value::ABSENT,
        gram: Value::ABSENT,
        table: Value::ABSENT,
        delta: Value::ABSENT,
        logits: Value::ABSENT,
    };
    fn list(&self) -> Vec<Value> {
        let all = [self.experts, self.bias, self.pooled, self.router, self.gram, self.table];
        all.into_iter().filter(|v| !v.is_absent()).collect()
    }
    fn of(tensors: &[Value]) -> VideoTensors {
        let at = |i: usize| tensors.get(i).copied().unwrap_or(Value::ABSENT);
        VideoTensors {
            experts: at(video::EXPERTS),
            bias: at(video::BIAS),
            pooled: at(video::POOLED),
            router: at(video::ROUTER),
            gram: at(video::GRAM),
            table: at(video::TABLE),
            delta: Value::ABSENT,
            logits: Value::ABSENT,
        }
    }
}

impl Model for Cba {
    fn config(&self) -> &Config {
        &self.config
    }
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn text(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<Vec<Value>> {
        Ok(self.encode_text(g, w, text, Stage::default())?.list())
    }
    fn video(&self, g: &mut Graph, w: &Weights, video: &VideoInputs) -> Result<Vec<Value>> {
        Ok(self.encode_video(g, w, video, Stage::default())?.list())
    }
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value> {
        let (t, v) = (TextTensors::of(text.tensors), VideoTensors::of(video.tensors));
        let segments = [text.inputs.segments, video.inputs.segments];
        g.apply(self.op(self.config.max_frames), &Self::operands(&t, &v, segments, Value::ABSENT))
    }
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>> {
        let (t, v) = (TextTensors::of(text.tensors), VideoTensors::of(video.tensors));
        let segments = [text.inputs.segments, video.inputs.segments];
        let op = self.op(self.config.max_frames);
        let mask = Foreground { interact: op, keep_background: true };
        let background = g.apply(mask, &Self::operands(&t, &v, segments, Value::ABSENT)[..10])?;
        let outs = g.apply_all(op, &Self::operands(&t, &v, segments, background))?;
        let all = [
            ("words", t.words),
            ("frames", v.experts),
            ("word_log_weights", t.weights),
            ("relevance", outs[2]),
            ("pooled", v.pooled),
            ("background", background),
            ("background_scores", outs[1]),
            ("router_text", t.router),
            ("router_frame", v.router),
            ("slot_table", v.table),
        ];
        Ok(all.into_iter().filter(|(_, value)| !value.is_absent()).collect())
    }
    fn kept(&self) -> usize {
        self.op(0).kept as usize
    }
    fn represent(&self, g: &mut Graph, w: &Weights, batch: &Batch) -> Result<Represented> {
        losses::represent(self, g, w, batch)
    }
    fn compare(&self, g: &mut Graph, w: &Weights, batch: &Batch, made: &Represented) -> Result<Vec<Term>> {
        losses::compare(self, g, w, batch, made)
    }
    fn stages(&self) -> Vec<(f32, Stage)> {
        let mut stages = vec![(0.0, Stage::default())];
        if self.cba.quantisation.from < 1.0 {
            stages.push((self.cba.quantisation.from, Stage { quantised: true, shut: false }));
        }
        stages
    }
    fn gate(&self) -> Option<f32> {
        let c = &self.cba.counterfactual;
        // A mask that is given is right or wrong whatever the model scores.
        let learned = c.foreground == config::Foreground::Learned;
        (c.swap > 0.0 && c.gate > -2.0 && learned).then_some(c.gate)
    }
    fn alone(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<[Value; 2]> {
        let (t, v) = (TextTensors::of(text.tensors), VideoTensors::of(video.tensors));
        let segments = [text.inputs.segments, video.inputs.segments];
        let op = self.op(self.config.max_frames);
        let mut scores = [Value::ABSENT; 2];
        for (scores, keep_background) in scores.iter_mut().zip([false, true]) {
            let mask = Foreground { interact: op, keep_background };
            let mask = g.apply(mask, &Self::operands(&t, &v, segments, Value::ABSENT)[..10])?;
            *scores = g.apply_all(op, &Self::operands(&t, &v, segments, mask))?[1];
        }
        Ok(scores)
    }
}

/// `x Wᵀ + b`, of standardised x where the projection has statistics; with `rounds` both factors are rounded as int8
/// rounds them.
fn project(g: &mut Graph, w: &Weights, name: &str, x: Value, rounds: bool) -> Result<Value> {
    let (weight, bias) = standardise::folded(g, w, name)?;
    let (x, weight) = (rounded(g, x, rounds)?, rounded(g, weight, rounds)?);
    g.apply(LINEAR.clone(), &[x, weight, bias, Value::ABSENT])
}

/// `x Wᵀ + b + onto`
fn linear_onto(g: &mut Graph, w: &Weights, name: &str, x: Value, onto: Value) -> Result<Value> {
    let (weight, bias) = (w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?);
    g.apply(LINEAR.clone(), &[x, weight, bias, onto])
}

/// Each row on 255 levels of its own, or as it is.
fn rounded(g: &mut Graph, x: Value, rounds: bool) -> Result<Value> {
    if rounds { g.apply(FakeQuant, &[x]) } else { Ok(x) }
}

/// `W (√D · x) + b` for unit rows x: without the factor experts specialise late.
fn router_logits(g: &mut Graph, w: &Weights, name: &str, unit: Value, dim: usize) -> Result<Value> {
    let scaled = g.apply(Unary { kind: UnaryKind::Affine { a: (dim as f32).sqrt(), b: 0.0 } }, &[unit])?;
    project(g, w, name, scaled, false)
}

/// `name.weight [out, in]` with a deviation of its own, and `name.bias [out]` of zeros.
fn declare_linear(p: &mut Parameters, name: &str, out: usize, input: usize, deviation: f32) {
    p.free(&format!("{name}.weight"), &[out, input], Init::Normal(deviation), true);
    p.free(&format!("{name}.bias"), &[out], Init::Constant(0.0), false);
}
