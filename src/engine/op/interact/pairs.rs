//! Scores of listed pairs: what a re-ranker asks for.

use super::super::super::backend::cpu::interact as cpu;
use super::super::super::graph::{Graph, Value};
use super::super::super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use super::super::{
    Arg, Cost, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_same, read, read_u32, write,
};
use super::{INTERACT, Interact, OPERANDS, Problem, SCRATCH, chunks, expect_operands, reference, samples};
use crate::error::{Error, Result};

/// Operands 0–10 are those of [`Interact`], without views; operand 11 is pairs u32 `[Q, 2]` of (text, video).
///
/// Output: scores `[Q]`. A pair that names no text or no video scores 0. Runs of pairs with one text are cheapest.
#[derive(Clone, Debug, PartialEq)]
pub struct InteractPairs(pub Interact);

pub static INTERACT_PAIRS: InteractPairs = InteractPairs(INTERACT);

static INTERACT_PAIRS_KERNEL: KernelDef = KernelDef {
    name: "interact_pairs",
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
        read_u32("pairs"),
        write("scores"),
        SCRATCH,
    ],
    cpu: Some(cpu::interact_pairs),
    wgsl: None,
    cuda: None,
};

impl InteractPairs {
    fn pairs(ins: &[Meta]) -> Dim {
        ins[OPERANDS].dim(0)
    }
    fn params(&self, p: &Problem, pairs: Dim) -> Params {
        self.0.params(p).size(pairs)
    }
}

impl Op for InteractPairs {
    fn name(&self) -> &'static str {
        "interact_pairs"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_operands(self.name(), ins, OPERANDS + 1)?;
        let p = self.0.check(self.name(), &ins[..OPERANDS])?;
        if p.views > 0 {
            let what = "log_weights (operand 10) are not supported for listed pairs; use interact";
            return Err(Error::shape(self.name(), what));
        }
        let pairs = &ins[OPERANDS];
        if pairs.is_absent() || pairs.dtype() != DType::U32 || pairs.rank() != 2 {
            return Err(Error::shape(self.name(), format!("pairs (operand 11) must be u32 [Q, 2] and is {pairs}")));
        }
        expect_same(self.name(), "the columns of pairs and two", pairs.dim(1), Dim::Fixed(2))?;
        Ok(vec![Meta::f32(&[pairs.dim(0)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        reference::pair_scores(&self.0, ins)
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Err(Error::shape(self.name(), "has no gradient: it is for re-ranking; train with interact"))
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let rows = self.0.max_words as u64 * self.0.max_frames as u64 * ins[0].dim(1).cap() as u64;
        Cost { flops: 2 * Self::pairs(ins).cap() as u64 * rows, ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        [[&INTERACT_PAIRS_KERNEL].as_slice(), &chunks::PAIRS].concat()
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        match ctx.target {
            Target::Cpu => self.0.scratch(&Problem::of(ins)).pair_bytes(ctx.threads, ins[0].dim(1).cap()),
            Target::Wgsl | Target::Cuda => chunks::pairs_bytes(&self.0, ins, ctx),
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        if ctx.target != Target::Cpu {
            return chunks::pairs(&self.0, o, ctx);
        }
        let params = self.params(&Problem::of(o.ins), Self::pairs(o.ins));
        let mut args: Vec<Arg> = (0..12).filter(|i| *i != 10).map(|i| o.input(i)).collect();
        args.push(o.output(0));
        args.push(Arg::Work { offset: 0, bytes: self.workspace(o.ins, ctx) });
        vec![Launch { kernel: &INTERACT_PAIRS_KERNEL, params, groups: [1; 3], args }]
    }
    fn samples(&self) -> Vec<Sample> {
        samples::pairs()
    }
}
