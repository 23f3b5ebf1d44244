//! Token interaction between texts and videos: the score that the systems rank by, and its gradient.
//!
//! Notation: word token `w_l` (L per text), sentence vector `q`, frame token `e_t` (T per video), all rows of length
//! one; `c_lt = ⟨w_l, e_t⟩`, `c_qt = ⟨q, e_t⟩`; word weights `ω_l`, frame biases `β_t`. With soft-max over frames for
//! the relevance of frames to the sentence,
//!
//! ```text
//! ln ρ_t = log_softmax_t(c_qt / τ_ρ + β_t)
//! t2v    = Σ_l ω_l Σ_t softmax_t(c_lt / τ_a + ln ρ_t) c_lt
//! v2t    = Σ_t ρ_t Σ_l softmax_l(c_lt / τ_a + ln ω_l) c_lt
//! S      = ½ (t2v + v2t)
//! ```
//!
//! With τ_a → 0 each direction becomes the weighted maximum of Wang et al., "Disentangled Representation Learning for
//! Text-Video Retrieval" (2022), section 3.2; attention over similarities is that of Ma et al., "X-CLIP" (2022).
//!
//! With a *router* a frame brings k experts' outputs `E_ts` instead of one row, and every text mixes them anew, by its
//! own logits `g_i` and the frame's `h_t`:
//!
//! ```text
//! π_its = softmax_s(g_i,expert(t,s) + h_ts)        r_it = Σ_s π_its E_ts
//! c_lt  = ⟨w_l, r_it⟩ / |r_it| = Σ_s π_its ⟨w_l, E_ts⟩ / √(π_itᵀ G_t π_it),      G_t,ss' = ⟨E_ts, E_ts'⟩
//! ```
//!
//! and the same for the sentence vector: r is never stored. A frame with |r|² ≤ [`LEAST_NORM`] has cosine 0 and hands
//! back no gradient. A slot whose logit is [`EXCLUDED`] or less takes no part; so does one whose expert does not exist.
//!
//! A *view* adds a log-weight to every frame before the relevance is taken, on the same dot products: a frame whose
//! log-weight (bias included) is [`EXCLUDED`] or less does not take part, nor does a word with such a weight. A text
//! without words, or a video without frames, scores 0 and hands back no gradient; so does a segment that is longer
//! than the op was made for.

mod chunks;
mod foreground;
mod gradient;
mod pairs;
mod reference;
mod routed;
mod samples;
#[cfg(test)]
mod tests;

pub use foreground::{FOREGROUND, Foreground};
pub use gradient::{INTERACT_GRAD, InteractGrad};
pub use pairs::{INTERACT_PAIRS, InteractPairs};

use super::super::backend::cpu::interact as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use super::{
    Access, Arg, Cost, Ctx, Formal, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_fixed,
    expect_same, read, read_u32, write,
};
use crate::error::{Error, Result};

/// A log-weight at or below this takes its frame or word out, a router's logit its slot.
pub const EXCLUDED: f32 = -1e29;

/// The squared length of a routed token at or below which it has no direction.
pub const LEAST_NORM: f32 = 1e-12;

/// The most slots of a frame: a GPU's lane keeps what it knows of one frame's.
pub const MAX_SLOTS: usize = 16;

/// Scores of all pairs of N texts and M videos.
///
/// Operands (rows of a text's segment are its word tokens, then its sentence vector):
///
/// | # | name | shape | |
/// |---|---|---|---|
/// | 0 | words | `[ΣL, D]` | rows of length one |
/// | 1 | word_segments | u32 `[N, 2]` | begin and end, ascending |
/// | 2 | word_log_weights | `[ΣL]` | ln ω, normalised within a text; absent: uniform; ignored on sentence rows |
/// | 3 | frames | `[ΣT, D]` | rows of length one; with a router `[ΣT, k·D]`, the outputs of k experts side by side |
/// | 4 | frame_segments | u32 `[M, 2]` | begin and end, ascending |
/// | 5 | frame_bias | `[ΣT]` | β; absent: 0 |
/// | 6 | router_text | `[N, K]` | g, a text's logits of K experts; 6, 7 and 9 are given together or not at all |
/// | 7 | router_frame | `[ΣT, k]` | h, a frame's logits of its k slots' experts |
/// | 8 | slot_table | u32 `[ΣT, k]` | the expert of each slot; absent: slot s holds expert s, and k is K |
/// | 9 | gram | `[ΣT, k·k]` | G, symmetric |
/// | 10 | log_weights | `[P, ΣT]` | added to the bias, one row a view |
///
/// Outputs: scores `[N, M]`; view_scores `[P, N, M]`; relevance ρ `[N, ΣT]` (0 for a text without words).
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Interact {
    /// τ_a of both directions.
    pub temperature: f32,
    /// τ_ρ of the relevance of frames.
    pub relevance_temperature: f32,
    /// Rows of the longest text, sentence vector included.
    pub max_words: u32,
    /// Frames of the longest video.
    pub max_frames: u32,
    /// How many of a frame's gates survive for each text, the largest, renormalised (ties to the lower slot); 0, or as
    /// many as there are slots: all. A selection: the gradient is that of the gates that survive.
    pub kept: u32,
}

pub static INTERACT: Interact =
    Interact { temperature: 0.05, relevance_temperature: 0.1, max_words: 33, max_frames: 12, kept: 0 };

/// Operands that all three ops begin with.
const OPERANDS: usize = 11;
/// The operand whose gradient each output of [`InteractGrad`] is.
const GRADIENTS: [usize; 7] = [0, 2, 3, 5, 6, 7, 9];
const NAMES: [&str; OPERANDS] = [
    "words",
    "word_segments",
    "word_log_weights",
    "frames",
    "frame_segments",
    "frame_bias",
    "router_text",
    "router_frame",
    "slot_table",
    "gram",
    "log_weights",
];

static INTERACT_KERNEL: KernelDef = KernelDef {
    name: "interact",
    operands: &[
        read("words"),
        read_u32("word_segments"),
        read("word_log_weights"),
        read("frames"),
        read_u32("frame_segments"),
        read("frame_bias"),
        read("router_text"),
        read("router_frame"),
        read_u32("slot_table"),
        read("gram"),
        read("log_weights"),
        write("scores"),
        write("view_scores"),
        write("relevance"),
        SCRATCH,
    ],
    cpu: Some(cpu::interact),
    wgsl: None,
    cuda: None,
};

/// Workspace that launches or threads share.
const SCRATCH: Formal = Formal { name: "scratch", dtype: DType::F32, access: Access::Write };

/// The sizes of a problem, from operands that [`Interact::check`] has accepted.
struct Problem {
    texts: Dim,
    videos: Dim,
    words: Dim,
    frames: Dim,
    width: usize,
    views: usize,
    /// k, and K, which is 0 without a router.
    slots: usize,
    experts: usize,
}

impl Problem {
    fn of(ins: &[Meta]) -> Problem {
        Problem {
            texts: ins[1].dim(0),
            videos: ins[4].dim(0),
            words: ins[0].dim(0),
            frames: ins[3].dim(0),
            width: ins[0].dim(1).cap(),
            views: if ins[10].is_absent() { 0 } else { ins[10].dim(0).cap() },
            slots: if ins[7].is_absent() { 1 } else { ins[7].dim(1).cap() },
            experts: if ins[6].is_absent() { 0 } else { ins[6].dim(1).cap() },
        }
    }
    fn is_routed(&self) -> bool {
        self.experts > 0
    }
    fn view_scores(&self) -> Result<Meta> {
        Meta::f32(&[Dim::Fixed(self.views), self.texts, self.videos])
    }
}

impl Interact {
    /// Refuses attributes and operands that no kernel here can take.
    fn check(&self, op: &str, ins: &[Meta]) -> Result<Problem> {
        self.check_attributes(op)?;
        let ranks = [2, 2, 1, 2, 2, 1, 2, 2, 2, 2, 2];
        for (i, (m, rank)) in ins.iter().zip(ranks).enumerate() {
            let name = NAMES[i];
            let needed = matches!(i, 0 | 1 | 3 | 4);
            if m.is_absent() && needed {
                return Err(Error::shape(op, format!("{name} (operand {i}) must be given")));
            }
            if m.is_absent() {
                continue;
            }
            let dtype = if matches!(i, 1 | 4 | 8) { DType::U32 } else { DType::F32 };
            if m.rank() != rank || m.dtype() != dtype {
                let kind = if dtype == DType::U32 { "u32" } else { "f32" };
                let what = format!("{name} (operand {i}) must be {kind} with {rank} dimensions and is {m}");
                return Err(Error::shape(op, what));
            }
        }
        self.check_dimensions(op, ins)?;
        Self::check_router(op, ins)?;
        Ok(Problem::of(ins))
    }

    fn check_attributes(&self, op: &str) -> Result<()> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        if !positive(self.temperature) || !positive(self.relevance_temperature) {
            let what = format!(
                "temperatures must be above 0; they are {} and {}",
                self.temperature, self.relevance_temperature
            );
            return Err(Error::shape(op, what));
        }
        // Tiles are sized from these, so they bound what a launch may ask for.
        if self.max_words > MAX_SEGMENT || self.max_frames > MAX_SEGMENT {
            let what = format!(
                "a segment has at most {MAX_SEGMENT} rows; max_words is {} and max_frames {}",
                self.max_words, self.max_frames
            );
            return Err(Error::shape(op, what));
        }
        Ok(())
    }

    fn check_dimensions(&self, op: &str, ins: &[Meta]) -> Result<()> {
        let (words, frames) = (ins[0].dim(0), ins[3].dim(0));
        for (i, m) in [(1, &ins[1]), (4, &ins[4])] {
            expect_same(op, &format!("the columns of {} and two", NAMES[i]), m.dim(1), Dim::Fixed(2))?;
        }
        if !ins[2].is_absent() {
            expect_same(op, "the rows of words and word_log_weights", words, ins[2].dim(0))?;
        }
        if !ins[5].is_absent() {
            expect_same(op, "the rows of frames and frame_bias", frames, ins[5].dim(0))?;
        }
        if !ins[10].is_absent() {
            expect_same(op, "the rows of frames and the columns of log_weights", frames, ins[10].dim(1))?;
            if !matches!(ins[10].dim(0), Dim::Fixed(_)) {
                return Err(Error::shape(op, format!("the number of views must be fixed and is {}", ins[10].dim(0))));
            }
        }
        Ok(())
    }

    /// A router is whole, and fits the frames.
    fn check_router(op: &str, ins: &[Meta]) -> Result<()> {
        if ins[6].is_absent() && ins[7].is_absent() && ins[8].is_absent() && ins[9].is_absent() {
            return expect_same(op, "the widths of words and frames", ins[0].dim(1), ins[3].dim(1));
        }
        if let Some(i) = [6, 7, 9].into_iter().find(|i| ins[*i].is_absent()) {
            let what = "a router is router_text, router_frame and gram (operands 6, 7 and 9), all of them or none";
            return Err(Error::shape(op, format!("{what}; {} (operand {i}) is absent", NAMES[i])));
        }
        let (texts, frames) = (ins[1].dim(0), ins[3].dim(0));
        let width = expect_fixed(op, "the widths of words", ins[0].dim(1))?;
        let slots = expect_fixed(op, "the slots of a frame (columns of router_frame)", ins[7].dim(1))?;
        let experts = expect_fixed(op, "the experts (columns of router_text)", ins[6].dim(1))?;
        if slots == 0 || slots > MAX_SLOTS || experts == 0 {
            let what = format!("a frame has 1 to {MAX_SLOTS} slots, of at least one expert");
            return Err(Error::shape(op, format!("{what}; router_frame is {} and router_text {}", ins[7], ins[6])));
        }
        expect_same(op, "the texts and the rows of router_text", texts, ins[6].dim(0))?;
        for i in 7..=9 {
            if !ins[i].is_absent() {
                expect_same(op, &format!("the rows of frames and {}", NAMES[i]), frames, ins[i].dim(0))?;
            }
        }
        if ins[8].is_absent() {
            let what = "without a slot_table the columns of router_text (experts) and router_frame (slots)";
            expect_same(op, what, ins[6].dim(1), ins[7].dim(1))?;
        } else {
            expect_same(op, "the columns of slot_table and router_frame", ins[8].dim(1), ins[7].dim(1))?;
        }
        expect_same(op, "the columns of gram and the square of the slots", ins[9].dim(1), Dim::Fixed(slots * slots))?;
        let side_by_side = width.checked_mul(slots).map(Dim::Fixed);
        let side_by_side = side_by_side.ok_or_else(|| Error::shape(op, "frames are too wide for any machine"))?;
        expect_same(op, "the width of frames and that of words times the slots", ins[3].dim(1), side_by_side)
    }

    /// Parameters that all CPU kernels begin with; `cpu::Shape` reads them.
    fn params(&self, p: &Problem) -> Params {
        Params::new()
            .size(p.texts)
            .size(p.videos)
            .size(p.words)
            .size(p.frames)
            .u32(p.width)
            .u32(p.texts.cap())
            .u32(p.videos.cap())
            .u32(p.frames.cap())
            .u32(p.views)
            .u32(self.max_words as usize)
            .u32(self.max_frames as usize)
            .f32(self.temperature)
            .f32(self.relevance_temperature)
            .u32(p.experts)
            .u32(p.slots)
            .u32(self.kept.min(MAX_SLOTS as u32) as usize)
    }

    /// The operands that all three ops begin with.
    fn args(o: &Operands) -> Vec<Arg> {
        (0..OPERANDS).map(|i| o.input(i)).collect()
    }

    fn scratch(&self, p: &Problem) -> cpu::Scratch {
        cpu::Scratch {
            max_words: self.max_words as usize,
            max_frames: self.max_frames as usize,
            slots: p.slots,
            experts: p.experts,
        }
    }

    /// FLOPs of all dot products at capacity.
    fn dots(p: &Problem) -> u64 {
        2 * (p.words.cap() as u64) * (p.frames.cap() as u64) * (p.slots as u64) * p.width as u64
    }
}

/// The longest segment an op may be made for: a GPU's workgroup keeps what it knows of one in 16 KiB.
pub const MAX_SEGMENT: u32 = 512;

/// An output that holds nothing is as good as one that nobody wants.
fn unless_empty(o: &Operands, i: usize) -> Arg {
    if o.outs[i].elements() == 0 { Arg::Absent } else { o.output(i) }
}

impl Op for Interact {
    fn name(&self) -> &'static str {
        "interact"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_operands(self.name(), ins, OPERANDS)?;
        let p = self.check(self.name(), ins)?;
        Ok(vec![Meta::f32(&[p.texts, p.videos])?, p.view_scores()?, Meta::f32(&[p.texts, p.frames])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        reference::scores(self, ins)
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let views = !n.ins[10].is_absent();
        let given = |i: usize| dout[i].unwrap_or(Value::ABSENT);
        let mut ins = n.ins.clone();
        ins.extend([given(0), if views { given(1) } else { Value::ABSENT }, given(2)]);
        if ins[OPERANDS..].iter().all(|v| v.is_absent()) {
            return Ok(vec![None; OPERANDS]);
        }
        let d = g.apply_all(InteractGrad(*self), &ins)?;
        let mut dins = vec![None; OPERANDS];
        for (out, i) in GRADIENTS.into_iter().enumerate() {
            dins[i] = (!n.ins[i].is_absent()).then_some(d[out]);
        }
        Ok(dins)
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: Self::dots(&Problem::of(ins)), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[1, 2]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [[&INTERACT_KERNEL].as_slice(), &chunks::FORWARD].concat()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        match ctx.target {
            Target::Cpu => self.scratch(&Problem::of(ins)).bytes(ctx.threads),
            Target::Wgsl | Target::Cuda => chunks::forward_bytes(self, ins, ctx),
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        if ctx.target != Target::Cpu {
            return chunks::forward(self, o, ctx);
        }
        let mut args = Self::args(o);
        args.extend([o.output(0), unless_empty(o, 1), o.output(2)]);
        args.push(Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) });
        vec![Launch { kernel: &INTERACT_KERNEL, params: self.params(&Problem::of(o.ins)), groups: [1; 3], args }]
    }
    fn samples(&self) -> Vec<Sample> {
        samples::forward()
    }
}

fn expect_operands(op: &str, ins: &[Meta], n: usize) -> Result<()> {
    if ins.len() == n { Ok(()) } else { Err(Error::shape(op, format!("takes {n} operands and got {}", ins.len()))) }
}
