//! What CBA learns from: the factual scores, their counterfactuals, and what time may and may not change.
//!
//! ```text
//! L = NCE(S) + λ NCE(pooled) + λ L_uni(S⁻) + λ JS(S, S^π) + λ L_lb + λ L_z + λ L_dec  (+ what is off by default)
//! ```
//! S⁻ scores the background alone: the frames outside the foreground, as log-weights on the same dot products. S^π
//! scores videos whose frames were dropped, moved and stretched: what they mean is the same.

use super::super::batch::{VideoInputs, waves_input};
use super::super::parameters::Weights;
use super::super::{Batch, Stage, Term};
use super::config::{Foreground as Source, RoutingMode, Swap};
use super::experts::noisy;
use super::{Cba, Seen, TextTensors, VideoTensors, project};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::balance::Balance;
use crate::engine::op::consistency::Consistency;
use crate::engine::op::gather::{Gather, GatherLerp};
use crate::engine::op::gram::{Decorrelate, Gram};
use crate::engine::op::hard_negatives::{HardNegatives, Top};
use crate::engine::op::interact::Foreground;
use crate::engine::op::linear::Linear;
use crate::engine::op::margin::Margin;
use crate::engine::op::norm::Unit;
use crate::engine::op::pointwise::{Binary, BinaryKind, ScaleRows, Unary, UnaryKind};
use crate::engine::op::segment::{SegmentKind, SegmentReduce, SegmentSpread};
use crate::engine::op::uniformity::Uniformity;
use crate::engine::tensor::{Dim, Meta};
use crate::error::Result;

/// By how much a video's score shall exceed that of its background, and of itself reversed.
const BACKGROUND_MARGIN: f32 = 0.2;
const ORDER_MARGIN: f32 = 0.1;

pub fn losses(model: &Cba, g: &mut Graph, w: &Weights, batch: &Batch) -> Result<Vec<Term>> {
    let joint = project(g, w, "video", batch.video.frames, model.rounds(batch.stage))?;
    let text = model.encode_text(g, w, &batch.text, batch.stage)?;
    let log_scale = w.get("log_scale")?;
    let mut step = Step { model, w, batch, joint, text, log_scale, terms: vec![] };
    let video = step.factual(g)?;
    step.global(g, &video)?;
    step.routing(g, &video)?;
    let background = step.background(g, &video)?;
    let scores = step.scores(g, &video, background)?;
    step.contrast(g, &scores, background)?;
    step.counterfactual(g, &scores, background)?;
    step.temporal(g, scores[0])?;
    Ok(step.terms)
}

/// A training step in the making.
struct Step<'a> {
    model: &'a Cba,
    w: &'a Weights,
    batch: &'a Batch,
    /// `[ΣT, D]` projected frames, which every view of a video is made from.
    joint: Value,
    text: TextTensors,
    log_scale: Value,
    terms: Vec<Term>,
}

impl Step<'_> {
    fn term(&mut self, name: &'static str, weight: f32, value: Value) {
        self.terms.push(Term { name, value, weight });
    }

    fn stage(&self) -> Stage {
        self.batch.stage
    }

    fn video(&self) -> &VideoInputs {
        &self.batch.video
    }

    /// Standard normal numbers for the router, where training asks for them.
    fn noise(&self, g: &mut Graph, name: &str, rows: Dim) -> Result<Value> {
        let routing = &self.model.cba.routing;
        if !noisy(routing) {
            return Ok(Value::ABSENT);
        }
        Ok(g.input(name, Meta::f32(&[rows, Dim::Fixed(routing.experts)])?))
    }

    /// Frames `joint` of the batch's own length as a video.
    fn encode(&self, g: &mut Graph, joint: Value, noise: Value) -> Result<VideoTensors> {
        let video = self.video();
        let longest = self.model.config.max_frames;
        let seen = Seen { joint, times: video.times, segments: video.segments, longest };
        self.model.encode_frames(g, self.w, seen, noise, self.stage())
    }

    fn factual(&self, g: &mut Graph) -> Result<VideoTensors> {
        let noise = self.noise(g, "router_noise", self.video().capacity.frames_dim())?;
        self.encode(g, self.joint, noise)
    }

    /// Scores `[N, M]`, and those of a view of the frames if there is one.
    fn scores(&self, g: &mut Graph, video: &VideoTensors, view: Value) -> Result<Vec<Value>> {
        let segments = [self.batch.text.segments, self.video().segments];
        let op = self.model.op(self.model.config.max_frames);
        let mut outs = g.apply_all(op, &Cba::operands(&self.text, video, segments, view))?;
        if view.is_absent() {
            return Ok(vec![outs[0]]);
        }
        let meta = g.meta(outs[0]);
        outs[1] = g.reshape(outs[1], meta)?;
        Ok(vec![outs[0], outs[1]])
    }

    /// The first stage of a search ranks by pooled vectors: they are trained beside the rest.
    fn global(&mut self, g: &mut Graph, video: &VideoTensors) -> Result<()> {
        let weight = self.model.cba.trunk.pooled;
        if weight == 0.0 {
            return Ok(());
        }
        let none = Value::ABSENT;
        let scores = g.apply(Linear::new(false, true), &[self.text.sentence, video.pooled, none, none])?;
        let loss = self.batch.contrast(g, scores, self.w.get("pooled_log_scale")?)?;
        self.term("pooled", weight, loss);
        Ok(())
    }

    /// Shares, sizes and likeness of the experts.
    fn routing(&mut self, g: &mut Graph, video: &VideoTensors) -> Result<()> {
        let routing = &self.model.cba.routing;
        if !self.model.routes() {
            return Ok(());
        }
        let gates = g.apply_all(Balance, &[self.text.router, video.logits, self.video().segments])?;
        self.term("balance", routing.balance, gates[0]);
        self.term("router_z", routing.z, gates[1]);
        if routing.decorrelation > 0.0 {
            let slots = if routing.mode == RoutingMode::TopkToken { routing.slots } else { routing.experts };
            let gram = g.apply(Gram { slots }, &[video.delta])?;
            let loss = g.apply(Decorrelate { slots }, &[gram])?;
            self.term("decorrelation", routing.decorrelation, loss);
        }
        Ok(())
    }

    /// Log-weights `[1, ΣT]` that leave the background of each video, where a loss asks for it.
    fn background(&self, g: &mut Graph, video: &VideoTensors) -> Result<Value> {
        let c = &self.model.cba.counterfactual;
        if c.uniform == 0.0 && c.swap == 0.0 && c.margin == 0.0 && c.hard_negatives == 1.0 {
            return Ok(Value::ABSENT);
        }
        if c.foreground == Source::Given {
            let rows = self.video().capacity.frames_dim();
            return Ok(g.input("background", Meta::f32(&[Dim::Fixed(1), rows])?));
        }
        let segments = [self.batch.text.segments, self.video().segments];
        let op = Foreground { interact: self.model.op(self.model.config.max_frames), keep_background: true };
        let operands = Cba::operands(&self.text, video, segments, Value::ABSENT);
        g.apply(op, &operands[..10])
    }

    /// 1 for a frame of the background, 0 for one of the foreground: `[ΣT]`.
    fn is_background(&self, g: &mut Graph, background: Value) -> Result<Value> {
        let rows = self.video().capacity.frames_dim();
        let flat = g.reshape(background, Meta::f32(&[rows])?)?;
        g.apply(Unary { kind: UnaryKind::Exp }, &[flat])
    }

    fn contrast(&mut self, g: &mut Graph, scores: &[Value], background: Value) -> Result<()> {
        let weight = self.model.cba.counterfactual.hard_negatives;
        let mut negatives = Value::ABSENT;
        if weight > 1.0 {
            // A hard counterfactual shares the background and differs in what happens.
            let share = self.is_background(g, background)?;
            let rows = g.apply(ScaleRows, &[self.joint, share])?;
            let sum = SegmentReduce { kind: SegmentKind::Sum, tail: 0 };
            let sum = g.apply(sum, &[rows, self.video().segments])?;
            let unit = g.apply(Unit, &[sum])?;
            let none = Value::ABSENT;
            let likeness = g.apply(Linear::new(false, true), &[unit, unit, none, none])?;
            let (video_key, caption_key) = (self.batch.video_key, self.batch.caption_key);
            let hard = HardNegatives { top: Top::Items(1), weight };
            negatives = g.apply(hard, &[likeness, video_key, caption_key])?;
        }
        let loss = self.batch.weighted_contrast(g, scores[0], self.log_scale, negatives)?;
        self.term("contrast", 1.0, loss);
        Ok(())
    }

    fn counterfactual(&mut self, g: &mut Graph, scores: &[Value], background: Value) -> Result<()> {
        let c = self.model.cba.counterfactual.clone();
        let Some(alone) = scores.get(1).copied() else { return Ok(()) };
        if c.uniform > 0.0 {
            let loss = g.apply(Uniformity, &[alone, self.log_scale])?;
            self.term("uniform", c.uniform, loss);
        }
        let margin = g.apply(Margin { margin: BACKGROUND_MARGIN }, &[alone, scores[0], Value::ABSENT])?;
        self.term("background_margin", c.margin, margin);
        if c.swap > 0.0 {
            let joint = self.swapped(g, background, c.exchange)?;
            let video = self.encode(g, joint, Value::ABSENT)?;
            let swapped = self.scores(g, &video, Value::ABSENT)?[0];
            let loss = self.batch.contrast(g, swapped, self.log_scale)?;
            self.term("swap", c.swap, loss);
            let same = g.apply(Consistency, &[scores[0], swapped, self.log_scale])?;
            self.term("swap_consistency", c.swap, same);
        }
        Ok(())
    }

    /// Projected frames `[ΣT, D]` of videos with another's background.
    fn swapped(&self, g: &mut Graph, background: Value, exchange: Swap) -> Result<Value> {
        let (share, video) = (self.is_background(g, background)?, self.video());
        let rows = video.capacity.frames_dim();
        if exchange == Swap::Frames {
            let own = g.input("own", Meta::u32(&[rows])?);
            let donor = g.input("donor", Meta::u32(&[rows])?);
            return g.apply(GatherLerp, &[self.joint, own, donor, share]);
        }
        let donor = g.input("donor_video", Meta::u32(&[video.capacity.videos_dim()])?);
        let masked = g.apply(ScaleRows, &[self.joint, share])?;
        let half = g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[masked, video.segments])?;
        // Half of the frames are background (of an odd number a little less): the mean over all is half theirs.
        let mean = g.apply(Unary { kind: UnaryKind::Affine { a: 2.0, b: 0.0 } }, &[half])?;
        let other = g.apply(Gather, &[mean, donor])?;
        let change = g.apply(Binary { kind: BinaryKind::Sub }, &[other, mean])?;
        let spread = SegmentSpread { kind: SegmentKind::Sum, tail: 0, rows };
        let change = g.apply(spread, &[change, video.segments])?;
        g.apply(Binary { kind: BinaryKind::Add }, &[self.joint, change])
    }

    fn temporal(&mut self, g: &mut Graph, scores: Value) -> Result<()> {
        let t = self.model.cba.temporal.clone();
        if t.consistency > 0.0 || t.augment > 0.0 {
            let perturbed = self.perturbed_scores(g)?;
            if t.consistency > 0.0 {
                let loss = g.apply(Consistency, &[scores, perturbed, self.log_scale])?;
                self.term("consistency", t.consistency, loss);
            }
            if t.augment > 0.0 {
                let loss = self.batch.contrast(g, perturbed, self.log_scale)?;
                self.term("augment", t.augment, loss);
            }
        }
        if t.order > 0.0 {
            let reversed = g.input("reversed", Meta::u32(&[self.video().capacity.frames_dim()])?);
            let tells_order = g.input("tells_order", Meta::f32(&[self.batch.text.capacity.texts_dim()])?);
            let joint = g.apply(Gather, &[self.joint, reversed])?;
            let video = self.encode(g, joint, Value::ABSENT)?;
            let backwards = self.scores(g, &video, Value::ABSENT)?[0];
            let loss = g.apply(Margin { margin: ORDER_MARGIN }, &[backwards, scores, tells_order])?;
            self.term("order", t.order, loss);
        }
        Ok(())
    }

    /// Scores of the texts with the batch's videos, each perturbed in time.
    fn perturbed_scores(&self, g: &mut Graph) -> Result<Value> {
        let (model, video) = (self.model, self.video());
        let rows = video.capacity.perturbed_dim(model.cba.temporal.fastest);
        let table = |g: &mut Graph, name: &str| Ok::<Value, crate::error::Error>(g.input(name, Meta::u32(&[rows])?));
        let (first, second) = (table(g, "perturbed_first")?, table(g, "perturbed_second")?);
        let weight = g.input("perturbed_weight", Meta::f32(&[rows])?);
        let segments = g.input("perturbed_segments", Meta::u32(&[video.capacity.videos_dim(), Dim::Fixed(2)])?);
        let positions = model.cba.trunk.positions;
        let times = if positions { waves_input(g, "perturbed_times", rows)? } else { Value::ABSENT };
        let noise = self.noise(g, "perturbed_noise", rows)?;
        let joint = g.apply(GatherLerp, &[self.joint, first, second, weight])?;
        let longest = model.max_stretched();
        let seen = Seen { joint, times, segments, longest };
        let perturbed = model.encode_frames(g, self.w, seen, noise, self.stage())?;
        let segments = [self.batch.text.segments, segments];
        g.apply(model.op(longest), &Cba::operands(&self.text, &perturbed, segments, Value::ABSENT))
    }
}
