//! The gradient of [`Interact`]: nothing is saved but the operands, dot products are taken again.

use super::super::super::backend::cpu::interact as cpu;
use super::super::super::graph::{Graph, Value};
use super::super::super::tensor::{Counts, Dim, HostTensor, Meta};
use super::super::{Arg, Cost, Ctx, KernelDef, Launch, Op, Operands, Sample, Site, Target, read, read_u32, write};
use super::{
    INTERACT, Interact, OPERANDS, Problem, SCRATCH, chunks, expect_operands, reference, samples, unless_empty,
};
use crate::error::{Error, Result};

/// Operands 0–10 are those of [`Interact`]; then dscores `[N, M]`, dview_scores `[P, N, M]` and drelevance
/// `[N, ΣT]`, each of which may be absent.
///
/// Outputs: dwords `[ΣL, D]`, dword_log_weights `[ΣL]` (0 on sentence rows), dframes `[ΣT, D]` (`[ΣT, k·D]` with a
/// router), dframe_bias `[ΣT]`, drouter_text `[N, K]`, drouter_frame `[ΣT, k]`, dgram `[ΣT, k·k]` (the last three
/// without columns where there is no router).
/// The log-weights of views are masks and have no gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct InteractGrad(pub Interact);

pub static INTERACT_GRAD: InteractGrad = InteractGrad(INTERACT);

static INTERACT_GRAD_KERNEL: KernelDef = KernelDef {
    name: "interact_grad",
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
        read("dscores"),
        read("dview_scores"),
        read("drelevance"),
        write("dwords"),
        write("dword_log_weights"),
        write("dframes"),
        write("dframe_bias"),
        write("drouter_text"),
        write("drouter_frame"),
        write("dgram"),
        super::Formal { name: "tiles", ..SCRATCH },
        SCRATCH,
    ],
    cpu: Some(cpu::interact_grad),
    wgsl: None,
    cuda: None,
};

impl Op for InteractGrad {
    fn name(&self) -> &'static str {
        "interact_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_operands(self.name(), ins, OPERANDS + 3)?;
        let p = self.0.check(self.name(), &ins[..OPERANDS])?;
        let wanted = [
            ("dscores", Meta::f32(&[p.texts, p.videos])?),
            ("dview_scores", p.view_scores()?),
            ("drelevance", Meta::f32(&[p.texts, p.frames])?),
        ];
        for ((name, meta), given) in wanted.iter().zip(&ins[OPERANDS..]) {
            if !given.is_absent() && given != meta {
                return Err(Error::shape(self.name(), format!("{name} must be {meta} and is {given}")));
            }
        }
        let mut outs = vec![ins[0].clone(), Meta::f32(&[p.words])?, ins[3].clone(), Meta::f32(&[p.frames])?];
        let slots = if p.is_routed() { p.slots } else { 0 };
        outs.push(Meta::f32(&[p.texts, Dim::Fixed(p.experts)])?);
        outs.push(Meta::f32(&[p.frames, Dim::Fixed(slots)])?);
        outs.push(Meta::f32(&[p.frames, Dim::Fixed(slots * slots)])?);
        Ok(outs)
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        reference::gradients(&self.0, ins)
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Err(Error::shape(self.name(), "has no gradient of its own: no model differentiates twice"))
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 3 * Interact::dots(&Problem::of(ins)), ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[0, 1, 2, 3, 4, 5, 6]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [[&INTERACT_GRAD_KERNEL].as_slice(), &chunks::BACKWARD].concat()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        if ctx.target != Target::Cpu {
            return chunks::backward_bytes(&self.0, ins, ctx);
        }
        let (tiles, scratch) = self.buffers(ins, ctx);
        tiles + scratch
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        if ctx.target != Target::Cpu {
            return chunks::backward(&self.0, o, ctx);
        }
        let p = Problem::of(o.ins);
        let (tiles, scratch) = self.buffers(o.ins, ctx);
        let mut args = Interact::args(o);
        args.push(o.input(11));
        args.push(if p.views == 0 { Arg::Absent } else { o.input(12) });
        args.push(o.input(13));
        args.extend((0..7).map(|i| unless_empty(o, i)));
        args.push(Arg::Work { offset: 0, bytes: tiles });
        args.push(Arg::Work { offset: tiles, bytes: scratch });
        vec![Launch { kernel: &INTERACT_GRAD_KERNEL, params: self.0.params(&p), groups: [1; 3], args }]
    }
    fn samples(&self) -> Vec<Sample> {
        samples::backward()
    }
}

impl InteractGrad {
    /// Bytes of the gradient tiles of a chunk and of the threads' scratch.
    fn buffers(&self, ins: &[Meta], ctx: &Ctx) -> (u64, u64) {
        let p = Problem::of(ins);
        let scratch = self.0.scratch(&p);
        (scratch.tile_bytes(p.words.cap(), p.frames.cap()), scratch.gradient_bytes(ctx.threads))
    }
}
