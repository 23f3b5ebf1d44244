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
//! A *view* adds a log-weight to every frame before the relevance is taken, on the same dot products: a frame whose
//! log-weight (bias included) is [`EXCLUDED`] or less does not take part, nor does a word with such a weight. A text
//! without words, or a video without frames, scores 0 and hands back no gradient; so does a segment that is longer
//! than the op was made for.

mod chunks;
mod gradient;
mod pairs;
mod reference;
mod samples;
#[cfg(test)]
mod tests;

pub use gradient::{INTERACT_GRAD, InteractGrad};
pub use pairs::{INTERACT_PAIRS, InteractPairs};

use super::super::backend::cpu::interact as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use super::{
    Access, Arg, Cost, Ctx, Formal, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_same, read,
    read_u32, write,
};
use crate::error::{Error, Result};

/// A log-weight at or below this takes its frame or word out.
pub const EXCLUDED: f32 = -1e29;

/// Scores of all pairs of N texts and M videos.
///
/// Operands (rows of a text's segment are its word tokens, then its sentence vector):
///
/// | # | name | shape | |
/// |---|---|---|---|
/// | 0 | words | `[ΣL, D]` | rows of length one |
/// | 1 | word_segments | u32 `[N, 2]` | begin and end, ascending |
/// | 2 | word_log_weights | `[ΣL]` | ln ω, normalised within a text; absent: uniform; ignored on sentence rows |
/// | 3 | frames | `[ΣT, D]` | rows of length one |
/// | 4 | frame_segments | u32 `[M, 2]` | begin and end, ascending |
/// | 5 | frame_bias | `[ΣT]` | β; absent: 0 |
/// | 6–9 | router_text `[N, K]`, router_frame `[ΣT, k]`, slot_table u32 `[ΣT, k]`, gram `[ΣT, k, k]` | | absent: one expert |
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
}

pub static INTERACT: Interact =
    Interact { temperature: 0.05, relevance_temperature: 0.1, max_words: 33, max_frames: 12 };

/// Operands that all three ops begin with.
const OPERANDS: usize = 11;
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
        }
    }
    fn view_scores(&self) -> Result<Meta> {
        Meta::f32(&[Dim::Fixed(self.views), self.texts, self.videos])
    }
}

impl Interact {
    /// Refuses attributes and operands that no kernel here can take.
    fn check(&self, op: &str, ins: &[Meta]) -> Result<Problem> {
        self.check_attributes(op)?;
        let ranks = [2, 2, 1, 2, 2, 1, 2, 2, 2, 3, 2];
        for (i, (m, rank)) in ins.iter().zip(ranks).enumerate() {
            let name = NAMES[i];
            let needed = matches!(i, 0 | 1 | 3 | 4);
            if m.is_absent() && needed {
                return Err(Error::shape(op, format!("{name} (operand {i}) must be given")));
            }
            if m.is_absent() {
                continue;
            }
            if (6..=9).contains(&i) {
                let what = format!("{name} (operand {i}) is not supported yet: score one expert and leave it out");
                return Err(Error::shape(op, what));
            }
            let dtype = if matches!(i, 1 | 4) { DType::U32 } else { DType::F32 };
            if m.rank() != rank || m.dtype() != dtype {
                let kind = if dtype == DType::U32 { "u32" } else { "f32" };
                let what = format!("{name} (operand {i}) must be {kind} with {rank} dimensions and is {m}");
                return Err(Error::shape(op, what));
            }
        }
        self.check_dimensions(op, ins)?;
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
        expect_same(op, "the widths of words and frames", ins[0].dim(1), ins[3].dim(1))?;
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
    }

    /// The operands that kernels take: the refused ones left out.
    fn args(o: &Operands) -> Vec<Arg> {
        [0, 1, 2, 3, 4, 5, 10].into_iter().map(|i| o.input(i)).collect()
    }

    /// FLOPs of all dot products at capacity.
    fn dots(p: &Problem) -> u64 {
        2 * (p.words.cap() as u64) * (p.frames.cap() as u64) * p.width as u64
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
        for (i, out) in [(0, 0), (2, 1), (3, 2), (5, 3)] {
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
            Target::Cpu => cpu::Scratch::new(self.max_words, self.max_frames).bytes(ctx.threads),
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
