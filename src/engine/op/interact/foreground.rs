//! Which frames a text is about, as log-weights that take them out: the mask behind counterfactual scores.

use super::super::super::backend::cpu::interact as cpu;
use super::super::super::graph::{Graph, Value};
use super::super::super::tensor::{Counts, Dim, HostTensor, Meta};
use super::super::{
    Arg, Cost, Ctx, KernelDef, Launch, Op, Operands, Sample, Site, Target, expect_same, groups, ptx, read, read_u32,
    write,
};
use super::{INTERACT, Interact, Problem, SCRATCH, expect_operands, reference, samples};
use crate::error::Result;

/// Operands 0–9 are those of [`Interact`]; text i belongs to video i. A frame's peak is its highest cosine with a word
/// of its text (not the sentence vector, nor a word whose log-weight is [`EXCLUDED`](super::EXCLUDED) or less); the
/// foreground of a video of T frames is the ⌈T/2⌉ with the highest peaks, of equal ones the earlier.
///
/// Output: log_weights `[1, ΣT]`, a view for [`Interact`]: −1e30 for the foreground, 0 for all other frames. All 0
/// where the text or the video is empty, has no partner, or is longer than the op was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreground {
    /// Its temperatures do not matter.
    pub interact: Interact,
    /// Takes the foreground out; otherwise everything else.
    pub keep_background: bool,
}

pub static FOREGROUND: Foreground = Foreground { interact: INTERACT, keep_background: true };

const OPERANDS: usize = 10;

static FOREGROUND_KERNEL: KernelDef = KernelDef {
    name: "foreground",
    operands: &[
        read("words"),
        read_u32("word_segments"),
        read("word_log_weights"),
        read("frames"),
        read_u32("frame_segments"),
        read("router_text"),
        read("router_frame"),
        read_u32("slot_table"),
        read("gram"),
        write("log_weights"),
        SCRATCH,
    ],
    cpu: Some(cpu::foreground),
    wgsl: Some(concat!(
        include_str!("../../../../wgsl/interact_gates.wgsl"),
        include_str!("../../../../wgsl/foreground.wgsl")
    )),
    cuda: Some(&ptx::GATES),
};

impl Foreground {
    /// Of operands that have no views.
    fn problem(ins: &[Meta]) -> Problem {
        Problem::of(&[ins, &[Meta::absent()]].concat())
    }
}

impl Op for Foreground {
    fn name(&self) -> &'static str {
        "foreground"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_operands(self.name(), ins, OPERANDS)?;
        let p = self.interact.check(self.name(), &[ins, &[Meta::absent()]].concat())?;
        if let (Dim::Fixed(_), Dim::Fixed(_)) = (p.texts, p.videos) {
            expect_same(self.name(), "texts and videos, which are pairs,", p.texts, p.videos)?;
        }
        Ok(vec![Meta::f32(&[Dim::Fixed(1), p.frames])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        reference::foreground(&self.interact, self.keep_background, ins)
    }
    /// Nothing flows through a mask: what it was made from is a constant to whoever uses it.
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None; OPERANDS])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let flops = 2 * u64::from(self.interact.max_words) * ins[3].elements();
        Cost { flops, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&FOREGROUND_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        match ctx.target {
            Target::Cpu => self.interact.scratch(&Self::problem(ins)).bytes(ctx.threads),
            Target::Wgsl | Target::Cuda => 0,
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let p = Self::problem(o.ins);
        let mut args: Vec<_> = (0..OPERANDS).filter(|i| *i != 5).map(|i| o.input(i)).collect();
        args.push(o.output(0));
        let bytes = self.workspace(o.ins, ctx);
        args.push(if bytes > 0 { Arg::Work { offset: 0, bytes } } else { Arg::Absent });
        let params = self.interact.params(&p).u32(self.keep_background as usize);
        let params = params.u32(!o.ins[8].is_absent() as usize);
        vec![Launch { kernel: &FOREGROUND_KERNEL, params, groups: groups(p.videos.cap() as u64, 1), args }]
    }
    fn samples(&self) -> Vec<Sample> {
        samples::foreground()
    }
}
