//! What CBA learns from: the factual scores, their counterfactuals, and what time may and may not change.
//!
//! ```text
//! L = NCE(S) + λ NCE(pooled) + λ L_uni(S⁻) + λ JS(S, S^π) + λ L_lb + λ L_z + λ L_dec  (+ what is off by default)
//! ```
//! S⁻ scores the background alone: the frames outside the foreground, as log-weights on the same dot products. S^π
//! scores videos whose frames were dropped, moved and stretched: what they mean is the same.

use super::super::batch::{VideoInputs, waves_input};
use super::super::{Batch, Represented, Stage, Term};
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
use crate::engine::op::route::Route;
use crate::engine::op::segment::{SegmentKind, SegmentLogSoftmax, SegmentReduce, SegmentSpread};
use crate::engine::op::uniformity::Uniformity;
use crate::engine::parameters::Weights;
use crate::engine::tensor::{Dim, Meta};
use crate::error::Result;

/// By how much a video's score shall exceed that of its background, and of itself reversed.
const BACKGROUND_MARGIN: f32 = 0.2;
const ORDER_MARGIN: f32 = 0.1;

/// Values of a video, or of a view of it, in what is represented.
const VALUES: usize = 7;
/// Likewise the videos as they are, with swapped backgrounds, perturbed and reversed.
const VIEWS: usize = 4;

/// Texts: the tensors of [`Model::text`]. Videos: the values of each view, absent where no loss asks for it; then the
/// Gram matrices of what experts add `[ΣT, k·k]`, log-weights `[ΣT]` that leave the background, and the background's
/// direction `[M, D]`.
///
/// [`Model::text`]: super::super::Model::text
pub fn represent(model: &Cba, g: &mut Graph, w: &Weights, batch: &Batch) -> Result<Represented> {
    let joint = project(g, w, "video", batch.video.frames, model.rounds(batch.stage))?;
    let mut text = model.encode_text(g, w, &batch.text, batch.stage)?;
    text.router = shaken(model, g, batch, text.router)?;
    let made = Made { model, w, batch, joint, text };
    let video = made.factual(g)?;
    let delta = made.delta(g, &video)?;
    let background = made.background(g, &video)?;
    let scenery = made.scenery(g, background)?;
    let views = [video, made.swapped(g, background)?, made.perturbed(g)?, made.reversed(g)?];
    let mut videos: Vec<Value> = views.iter().flat_map(VideoTensors::compared).collect();
    videos.extend([delta, background, scenery]);
    Ok(Represented { texts: [text.words, text.weights, text.sentence, text.router].into(), videos })
}

pub fn compare(model: &Cba, g: &mut Graph, w: &Weights, batch: &Batch, made: &Represented) -> Result<Vec<Term>> {
    let (views, rest) = made.videos.split_at((VALUES * VIEWS).min(made.videos.len()));
    let mut views = views.chunks_exact(VALUES).map(VideoTensors::of_compared);
    let mut view = |g: &mut Graph| model.with_table(g, views.next().unwrap_or(VideoTensors::NONE));
    let (video, swapped, perturbed, reversed) = (view(g)?, view(g)?, view(g)?, view(g)?);
    let at = |i: usize| rest.get(i).copied().unwrap_or(Value::ABSENT);
    let (delta, background, scenery) = (at(0), at(1), at(2));
    let log_scale = w.get("log_scale")?;
    let mut step = Step { model, w, batch, text: TextTensors::of(&made.texts), log_scale, terms: vec![] };
    step.global(g, &video)?;
    step.routing(g, &video, delta)?;
    let scores = step.scores(g, &video, background)?;
    step.contrast(g, &scores, scenery)?;
    step.counterfactual(g, &scores, &swapped)?;
    step.temporal(g, scores[0], &perturbed, &reversed)?;
    Ok(step.terms)
}

/// A query's logits `[N, K]` with noise, where training asks for it.
fn shaken(model: &Cba, g: &mut Graph, batch: &Batch, router: Value) -> Result<Value> {
    let a = model.cba.routing.query_noise;
    if router.is_absent() || a == 0.0 {
        return Ok(router);
    }
    let dims = [batch.text.capacity.texts_dim(), Dim::Fixed(model.cba.routing.experts)];
    let noise = g.input("query_noise", Meta::f32(&dims)?);
    let noise = g.apply(Unary { kind: UnaryKind::Affine { a, b: 0.0 } }, &[noise])?;
    g.apply(Binary { kind: BinaryKind::Add }, &[router, noise])
}

impl Cba {
    /// The experts of a view's slots again where they were not kept: the same logits make the same table.
    fn with_table(&self, g: &mut Graph, video: VideoTensors) -> Result<VideoTensors> {
        let routing = &self.cba.routing;
        if routing.mode != RoutingMode::TopkToken || video.logits.is_absent() || !video.table.is_absent() {
            return Ok(video);
        }
        let table = g.apply_all(Route { slots: routing.slots }, &[video.logits])?[1];
        Ok(VideoTensors { table, ..video })
    }

    /// Slots of a frame.
    fn slots(&self) -> usize {
        let routing = &self.cba.routing;
        if routing.mode == RoutingMode::TopkToken { routing.slots } else { routing.experts }
    }
}

impl VideoTensors {
    /// What losses compare of a video.
    fn compared(&self) -> [Value; VALUES] {
        [self.experts, self.bias, self.pooled, self.router, self.gram, self.table, self.logits]
    }

    /// The same back, `VALUES` of them.
    fn of_compared(values: &[Value]) -> VideoTensors {
        let at = |i: usize| values.get(i).copied().unwrap_or(Value::ABSENT);
        let [experts, bias, pooled, router, gram, table, logits] = std::array::from_fn(at);
        VideoTensors { experts, bias, pooled, router, gram, table, logits, delta: Value::ABSENT }
    }
}

/// A batch that is being represented.
struct Made<'a> {
    model: &'a Cba,
    w: &'a Weights,
    batch: &'a Batch,
    /// `[ΣT, D]` projected frames, which every view of a video is made from.
    joint: Value,
    text: TextTensors,
}

impl Made<'_> {
    fn stage(&self) -> Stage {
        self.batch.stage
    }

    fn video(&self) -> &VideoInputs {
        &self.batch.video
    }

    fn segments(&self) -> [Value; 2] {
        [self.batch.text.segments, self.video().segments]
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

    /// Gram matrices of what the experts add, where a loss asks for them.
    fn delta(&self, g: &mut Graph, video: &VideoTensors) -> Result<Value> {
        if !self.model.routes() || self.model.cba.routing.decorrelation == 0.0 {
            return Ok(Value::ABSENT);
        }
        g.apply(Gram { slots: self.model.slots() }, &[video.delta])
    }

    /// Log-weights `[ΣT]` that leave the background of each video, where a loss asks for it.
    fn background(&self, g: &mut Graph, video: &VideoTensors) -> Result<Value> {
        let c = &self.model.cba.counterfactual;
        if c.uniform == 0.0 && (c.swap == 0.0 || self.stage().shut) && c.margin == 0.0 && c.hard_negatives == 1.0 {
            return Ok(Value::ABSENT);
        }
        let rows = self.video().capacity.frames_dim();
        if c.foreground == Source::Given {
            return Ok(g.input("background", Meta::f32(&[rows])?));
        }
        let op = Foreground { interact: self.model.op(self.model.config.max_frames), keep_background: true };
        let operands = Cba::operands(&self.text, video, self.segments(), Value::ABSENT);
        let background = g.apply(op, &operands[..10])?;
        g.reshape(background, Meta::f32(&[rows])?)
    }

    /// 1 for a frame of the background, 0 for one of the foreground: `[ΣT]`.
    fn is_background(&self, g: &mut Graph, background: Value) -> Result<Value> {
        g.apply(Unary { kind: UnaryKind::Exp }, &[background])
    }

    /// The direction of what a video's background adds up to, `[M, D]`, where hard negatives are chosen by it.
    fn scenery(&self, g: &mut Graph, background: Value) -> Result<Value> {
        if self.model.cba.counterfactual.hard_negatives == 1.0 {
            return Ok(Value::ABSENT);
        }
        let share = self.is_background(g, background)?;
        let rows = g.apply(ScaleRows, &[self.joint, share])?;
        let sum = SegmentReduce { kind: SegmentKind::Sum, tail: 0 };
        let sum = g.apply(sum, &[rows, self.video().segments])?;
        g.apply(Unit, &[sum])
    }

    /// Videos with another's background, where a loss asks for them.
    fn swapped(&self, g: &mut Graph, background: Value) -> Result<VideoTensors> {
        let c = &self.model.cba.counterfactual;
        if c.swap == 0.0 || self.stage().shut {
            return Ok(VideoTensors::NONE);
        }
        let joint = self.exchanged(g, background, c.exchange)?;
        self.view(g, joint)
    }

    /// A view of a video: its pooled vector is not compared.
    fn view(&self, g: &mut Graph, joint: Value) -> Result<VideoTensors> {
        Ok(VideoTensors { pooled: Value::ABSENT, ..self.encode(g, joint, Value::ABSENT)? })
    }

    /// Projected frames `[ΣT, D]` of videos with another's background.
    fn exchanged(&self, g: &mut Graph, background: Value, exchange: Swap) -> Result<Value> {
        let (share, video) = (self.is_background(g, background)?, self.video());
        let rows = video.capacity.frames_dim();
        if exchange == Swap::Frames {
            let own = g.input("own", Meta::u32(&[rows])?);
            let donor = g.input("donor", Meta::u32(&[rows])?);
            return g.apply(GatherLerp, &[self.joint, own, donor, share]);
        }
        let donor = g.input("donor_video", Meta::u32(&[video.capacity.videos_dim()])?);
        // One over the number of background frames, and 0 for the others: with none at all the soft-max is even.
        let weight = g.apply(SegmentLogSoftmax { tail: 0 }, &[background, video.segments])?;
        let weight = g.apply(Unary { kind: UnaryKind::Exp }, &[weight])?;
        let weight = g.apply(Binary { kind: BinaryKind::Mul }, &[weight, share])?;
        let sum = SegmentReduce { kind: SegmentKind::Sum, tail: 0 };
        let weighted = g.apply(ScaleRows, &[self.joint, weight])?;
        let mean = g.apply(sum.clone(), &[weighted, video.segments])?;
        // 1 where there is a background. Where it is missing on either side nothing changes.
        let column = g.reshape(weight, Meta::f32(&[rows, Dim::Fixed(1)])?)?;
        let has = g.apply(sum, &[column, video.segments])?;
        let donor_has = g.apply(Gather, &[has, donor])?;
        let other = g.apply(Gather, &[mean, donor])?;
        let flat = Meta::f32(&[video.capacity.videos_dim()])?;
        let (has, donor_has) = (g.reshape(has, flat.clone())?, g.reshape(donor_has, flat)?);
        let (gained, lost) = (g.apply(ScaleRows, &[other, has])?, g.apply(ScaleRows, &[mean, donor_has])?);
        let change = g.apply(Binary { kind: BinaryKind::Sub }, &[gained, lost])?;
        let spread = SegmentSpread { kind: SegmentKind::Sum, tail: 0, rows };
        let change = g.apply(spread, &[change, video.segments])?;
        g.apply(Binary { kind: BinaryKind::Add }, &[self.joint, change])
    }

    /// Videos in reverse, where a loss asks for them.
    fn reversed(&self, g: &mut Graph) -> Result<VideoTensors> {
        if self.model.cba.temporal.order == 0.0 {
            return Ok(VideoTensors::NONE);
        }
        let reversed = g.input("reversed", Meta::u32(&[self.video().capacity.frames_dim()])?);
        let joint = g.apply(Gather, &[self.joint, reversed])?;
        self.view(g, joint)
    }

    /// Videos perturbed in time, where a loss asks for them.
    fn perturbed(&self, g: &mut Graph) -> Result<VideoTensors> {
        let (model, video) = (self.model, self.video());
        if !model.config.perturbs() {
            return Ok(VideoTensors::NONE);
        }
        let rows = video.capacity.perturbed_dim(model.cba.temporal.fastest);
        let table = |g: &mut Graph, name: &str| Ok::<Value, crate::error::Error>(g.input(name, Meta::u32(&[rows])?));
        let (first, second) = (table(g, "perturbed_first")?, table(g, "perturbed_second")?);
        let weight = g.input("perturbed_weight", Meta::f32(&[rows])?);
        let segments = self.batch.perturbed;
        let positions = model.cba.trunk.positions;
        let times = if positions { waves_input(g, "perturbed_times", rows)? } else { Value::ABSENT };
        let noise = self.noise(g, "perturbed_noise", rows)?;
        let joint = g.apply(GatherLerp, &[self.joint, first, second, weight])?;
        let longest = model.max_stretched();
        let seen = Seen { joint, times, segments, longest };
        let perturbed = model.encode_frames(g, self.w, seen, noise, self.stage())?;
        Ok(VideoTensors { pooled: Value::ABSENT, ..perturbed })
    }
}

/// A batch that is being compared.
struct Step<'a> {
    model: &'a Cba,
    w: &'a Weights,
    batch: &'a Batch,
    text: TextTensors,
    log_scale: Value,
    terms: Vec<Term>,
}

impl Step<'_> {
    fn term(&mut self, name: &'static str, weight: f32, value: Value) {
        self.terms.push(Term { name, value, weight });
    }

    /// Scores `[N, M]`, and those of the background if it is given.
    fn scores(&self, g: &mut Graph, video: &VideoTensors, background: Value) -> Result<Vec<Value>> {
        let segments = [self.batch.text.segments, self.batch.video.segments];
        let op = self.model.op(self.model.config.max_frames);
        if background.is_absent() {
            return Ok(vec![g.apply(op, &Cba::operands(&self.text, video, segments, background))?]);
        }
        let one = Meta::f32(&[Dim::Fixed(1), self.batch.video.capacity.frames_dim()])?;
        let view = g.reshape(background, one)?;
        let mut outs = g.apply_all(op, &Cba::operands(&self.text, video, segments, view))?;
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
    fn routing(&mut self, g: &mut Graph, video: &VideoTensors, delta: Value) -> Result<()> {
        let routing = &self.model.cba.routing;
        if !self.model.routes() {
            return Ok(());
        }
        let text = match routing.mode {
            // Tokens choose before there is a query: it is their own choices that are to be spread.
            RoutingMode::TopkToken => {
                g.fill(0.0, &[self.batch.text.capacity.texts_dim(), Dim::Fixed(routing.experts)])?
            }
            _ => self.text.router,
        };
        let gates = g.apply_all(Balance, &[text, video.logits, self.batch.video.segments])?;
        self.term("balance", routing.balance, gates[0]);
        self.term("router_z", routing.z, gates[1]);
        if !delta.is_absent() {
            let loss = g.apply(Decorrelate { slots: self.model.slots() }, &[delta])?;
            self.term("decorrelation", routing.decorrelation, loss);
        }
        Ok(())
    }

    fn contrast(&mut self, g: &mut Graph, scores: &[Value], scenery: Value) -> Result<()> {
        let mut negatives = Value::ABSENT;
        if !scenery.is_absent() {
            // A hard counterfactual shares the background and differs in what happens.
            let none = Value::ABSENT;
            let likeness = g.apply(Linear::new(false, true), &[scenery, scenery, none, none])?;
            let (video_key, caption_key) = (self.batch.video_key, self.batch.caption_key);
            let weight = self.model.cba.counterfactual.hard_negatives;
            let hard = HardNegatives { top: Top::Items(1), weight };
            negatives = g.apply(hard, &[likeness, video_key, caption_key])?;
        }
        let loss = self.batch.weighted_contrast(g, scores[0], self.log_scale, negatives)?;
        self.term("contrast", 1.0, loss);
        Ok(())
    }

    fn counterfactual(&mut self, g: &mut Graph, scores: &[Value], swapped: &VideoTensors) -> Result<()> {
        let c = self.model.cba.counterfactual.clone();
        let Some(alone) = scores.get(1).copied() else { return Ok(()) };
        if c.uniform > 0.0 {
            let loss = g.apply(Uniformity, &[alone, self.log_scale])?;
            self.term("uniform", c.uniform, loss);
        }
        let margin = g.apply(Margin { margin: BACKGROUND_MARGIN }, &[alone, scores[0], Value::ABSENT])?;
        self.term("background_margin", c.margin, margin);
        if c.swap > 0.0 && !self.batch.stage.shut {
            let swapped = self.scores(g, swapped, Value::ABSENT)?[0];
            let loss = self.batch.contrast(g, swapped, self.log_scale)?;
            self.term("swap", c.swap, loss);
            let same = g.apply(Consistency, &[scores[0], swapped, self.log_scale])?;
            self.term("swap_consistency", c.swap, same);
        }
        Ok(())
    }

    fn temporal(
        &mut self,
        g: &mut Graph,
        scores: Value,
        perturbed: &VideoTensors,
        reversed: &VideoTensors,
    ) -> Result<()> {
        let t = self.model.cba.temporal.clone();
        if self.model.config.perturbs() {
            let perturbed = self.perturbed_scores(g, perturbed)?;
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
            let tells_order = g.input("tells_order", Meta::f32(&[self.batch.text.capacity.texts_dim()])?);
            let backwards = self.scores(g, reversed, Value::ABSENT)?[0];
            let loss = g.apply(Margin { margin: ORDER_MARGIN }, &[backwards, scores, tells_order])?;
            self.term("order", t.order, loss);
        }
        Ok(())
    }

    /// Scores of the texts with the batch's videos, each perturbed in time.
    fn perturbed_scores(&self, g: &mut Graph, perturbed: &VideoTensors) -> Result<Value> {
        let segments = [self.batch.text.segments, self.batch.perturbed];
        let op = self.model.op(self.model.max_stretched());
        g.apply(op, &Cba::operands(&self.text, perturbed, segments, Value::ABSENT))
    }
}
