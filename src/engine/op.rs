//! The op contract. One file in `op/` declares an op once: shape rule, f64 reference, gradient, cost, kernels, samples.
//! Tests, gradient checks, benchmarks and the support table all iterate [`OPS`].

use super::backend::cpu::CpuKernel;
use super::graph::{Graph, Value};
pub use super::ptx::{self, Ptx};
use super::tensor::{Counts, DType, Dim, HostTensor, Meta};
use crate::error::{Error, Result};
use std::fmt::Debug;
use std::sync::Arc;

/// An operation on tensors. Its `Debug` text is its attributes: it is printed in plans and keys caches.
pub trait Op: Debug + Send + Sync {
    /// The op's name, unique in [`OPS`].
    fn name(&self) -> &'static str;

    /// Types and shapes of the outputs.
    /// # Errors
    /// When the inputs do not fit together; the message names the op, the shapes and the rule.
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>>;

    /// The op in f64, by the most obvious code there is. Operands have true sizes; the counts are only for outputs
    /// whose ragged dimension no operand has.
    fn reference(&self, ins: &[HostTensor], counts: &Counts) -> Vec<HostTensor>;

    /// Extends the graph by the gradients of the inputs of node `n`, given those of its outputs.
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>>;

    /// FLOPs and bytes at full capacity.
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: outs.iter().map(Meta::elements).sum(), ..Cost::traffic(ins, outs) }
    }

    /// (input, output) pairs that may share their place.
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// Outputs a kernel can do without.
    fn optional(&self) -> &'static [usize] {
        &[]
    }

    /// Every kernel of this op, for the support table and for validators.
    fn kernels(&self) -> Vec<&'static KernelDef>;

    /// Bytes of scratch memory that the launches share.
    fn workspace(&self, _ins: &[Meta], _ctx: &Ctx) -> u64 {
        0
    }

    /// The kernels to run, in order. May use another op's kernel.
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch>;

    /// Instances with inputs: what tests, gradient checks and benchmarks run.
    fn samples(&self) -> Vec<Sample>;

    /// What this op is to `fuse`; the default takes part in no rewrite.
    fn form(&self) -> Form {
        Form::Other
    }
}

/// The ops that rewrites know, with their attributes.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Linear(linear::Linear),
    Unary(pointwise::UnaryKind),
    Binary(pointwise::BinaryKind),
    Other,
}

/// A node as its op's gradient sees it.
#[derive(Clone, Debug)]
pub struct Site {
    pub ins: Vec<Value>,
    pub outs: Vec<Value>,
}

/// Work at full capacity.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub flops: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Cost {
    /// Every present operand read or written once.
    pub fn traffic(ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost {
            flops: 0,
            bytes_in: ins.iter().filter(|m| !m.is_absent()).map(Meta::bytes).sum(),
            bytes_out: outs.iter().filter(|m| !m.is_absent()).map(Meta::bytes).sum(),
        }
    }
}

/// What kind of code a back end runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Cpu,
    Wgsl,
    Cuda,
}

impl Target {
    pub const ALL: [Target; 3] = [Target::Cpu, Target::Wgsl, Target::Cuda];
}

/// How matrix products are computed. Everything else is f32.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    #[default]
    F32,
    /// Factors are rounded to bf16 and products summed in f32 on tensor cores.
    Bf16,
    /// Weights and what they are multiplied with are rounded to int8, row by row, and products summed in i32
    /// ([`inference`](super::inference)); products of other factors are f32.
    Int8,
}

impl Precision {
    /// The error that rounding the factors may add, relative to the largest result.
    pub fn tolerance(self) -> f64 {
        match self {
            // Ops compute in f32; it is graphs that are rewritten.
            Precision::F32 | Precision::Int8 => 0.0,
            Precision::Bf16 => 1e-2,
        }
    }

    /// # Errors
    /// [`Error::Config`] where products have no gradients.
    pub fn trains(self) -> Result<()> {
        match self {
            Precision::F32 | Precision::Bf16 => Ok(()),
            Precision::Int8 => {
                let fix =
                    "train without it, and use int8 with what was trained; cba's `quantisation` rounds in training";
                Err(Error::config("--precision", "int8 has no gradients: codes are integers", fix))
            }
        }
    }

    /// What a device's name says of it.
    pub fn told(self) -> &'static str {
        match self {
            Precision::F32 => "",
            Precision::Bf16 => ", bf16 products",
            Precision::Int8 => ", int8 products",
        }
    }
}

/// What an op may know about the device when it plans its launches.
#[derive(Clone, Debug)]
pub struct Ctx {
    pub target: Target,
    pub precision: Precision,
    /// Most bytes that one binding may cover.
    pub max_binding_bytes: u64,
    /// Threads that share the work on the CPU; the values never depend on it.
    pub threads: usize,
}

/// How a kernel uses an operand.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    /// Every element below the counts is written before it is read.
    Write,
    /// Reads what an earlier launch of the same op wrote.
    Update,
}

/// One formal operand of a kernel.
#[derive(Copy, Clone, Debug)]
pub struct Formal {
    pub name: &'static str,
    pub dtype: DType,
    pub access: Access,
}

/// Declares a read operand of f32.
pub const fn read(name: &'static str) -> Formal {
    Formal { name, dtype: DType::F32, access: Access::Read }
}
/// Declares a read operand of u32.
pub const fn read_u32(name: &'static str) -> Formal {
    Formal { name, dtype: DType::U32, access: Access::Read }
}
/// Declares a written operand of f32.
pub const fn write(name: &'static str) -> Formal {
    Formal { name, dtype: DType::F32, access: Access::Write }
}
/// Declares a written operand of u32.
pub const fn write_u32(name: &'static str) -> Formal {
    Formal { name, dtype: DType::U32, access: Access::Write }
}
/// Declares an operand of f32 that is read and written.
pub const fn update(name: &'static str) -> Formal {
    Formal { name, dtype: DType::F32, access: Access::Update }
}

/// A kernel is pure data: its name, its operands, and its code for each target that has one.
#[derive(Debug)]
pub struct KernelDef {
    /// Unique among all kernels.
    pub name: &'static str,
    pub operands: &'static [Formal],
    pub cpu: Option<CpuKernel>,
    /// `struct P` and the body; the back end writes bindings and accessors before it.
    pub wgsl: Option<&'static str>,
    /// The family whose PTX holds a function of this name.
    pub cuda: Option<&'static Ptx>,
}

impl KernelDef {
    pub fn supports(&self, target: Target) -> bool {
        match target {
            Target::Cpu => self.cpu.is_some(),
            Target::Wgsl => self.wgsl.is_some(),
            Target::Cuda => self.cuda.is_some(),
        }
    }
}

/// The op parameters of one launch: at most 32 words of u32 or f32.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Params(Vec<u32>);

pub const PARAM_WORDS: usize = 32;

impl Params {
    pub fn new() -> Params {
        Params::default()
    }
    pub fn u32(mut self, x: usize) -> Params {
        debug_assert!(x < 1 << 31, "sizes are below 2^31 by Meta::new");
        self.0.push(x as u32);
        self
    }
    pub fn f32(mut self, x: f32) -> Params {
        self.0.push(x.to_bits());
        self
    }
    /// The true length of a dimension, resolved on the device from the slot's counts.
    pub fn size(self, d: Dim) -> Params {
        self.size_times(d, 1)
    }
    /// `factor` times the true length of a dimension.
    ///
    /// Encoding: bit 31 says ragged, bits 28–30 the axis, the rest the factor; without bit 31 the word is the size.
    pub fn size_times(mut self, d: Dim, factor: usize) -> Params {
        self.0.push(match d {
            Dim::Fixed(n) => (n * factor) as u32,
            Dim::Ragged(axis, _) => 1 << 31 | (axis.0 as u32) << 28 | factor as u32,
        });
        self
    }
    /// The number of true elements; only the first dimension of `m` may be ragged.
    pub fn elements(self, m: &Meta) -> Params {
        debug_assert!(m.dims().iter().skip(1).all(|d| matches!(d, Dim::Fixed(_))));
        match m.dims().first() {
            Some(first) => self.size_times(*first, m.dims()[1..].iter().map(|d| d.cap()).product()),
            None => self.u32(1),
        }
    }
    pub fn words(&self) -> &[u32] {
        &self.0
    }
}

/// Resolves a word written by [`Params::size_times`].
pub fn resolve_size(word: u32, counts: &Counts) -> usize {
    if word >> 31 == 0 {
        word as usize
    } else {
        counts.0[(word >> 28 & 7) as usize] as usize * (word & 0x0fff_ffff) as usize
    }
}

/// Where an argument of a launch lives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    In(usize),
    Out(usize),
    /// Bytes of the op's workspace; the offset is a multiple of 256.
    Work {
        offset: u64,
        bytes: u64,
    },
    Absent,
}

/// One run of one kernel; `args` follow the kernel's operands.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: &'static KernelDef,
    pub params: Params,
    /// Workgroups; kernels stride over the grid, so fewer than asked is never wrong.
    pub groups: [u32; 3],
    pub args: Vec<Arg>,
}

/// The operands of a node when it is planned; outputs nobody wants are absent if the op says they are optional.
#[derive(Clone, Debug)]
pub struct Operands<'a> {
    pub ins: &'a [Meta],
    pub outs: &'a [Meta],
}

impl Operands<'_> {
    pub fn input(&self, i: usize) -> Arg {
        if self.ins[i].is_absent() { Arg::Absent } else { Arg::In(i) }
    }
    pub fn output(&self, i: usize) -> Arg {
        if self.outs[i].is_absent() { Arg::Absent } else { Arg::Out(i) }
    }
    /// All inputs, then all outputs: what a kernel takes whose operands are the op's.
    pub fn all(&self) -> Vec<Arg> {
        (0..self.ins.len()).map(|i| self.input(i)).chain((0..self.outs.len()).map(|i| self.output(i))).collect()
    }
}

/// As many groups as `items` need at `per_group` each, within what every device can dispatch.
pub fn groups(items: u64, per_group: u64) -> [u32; 3] {
    [items.div_ceil(per_group).clamp(1, 65_535) as u32, 1, 1]
}

/// How a sample's gradient is checked.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Gradient {
    /// Against finite differences of the f64 reference.
    Finite,
    /// Deliberately another function's (straight-through, rounding, selection).
    Surrogate,
    None(&'static str),
}

/// How large a sample is: tests run `Tiny` and `Full`, those that repeat them many times `Tiny` alone, benchmarks `Bench`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Tiny,
    Full,
    Bench,
}

/// One instance of an op with real inputs.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What is special about it: "empty", "one row", "prime", "ragged", …
    pub name: String,
    pub class: Class,
    pub op: Arc<dyn Op>,
    pub metas: Vec<Meta>,
    /// Values in true sizes.
    pub ins: Vec<HostTensor>,
    pub counts: Counts,
    /// Largest allowed ‖Δ‖∞ / max(‖reference‖∞, floor) per output.
    pub tolerance: f64,
    /// (output, floor): the size of the terms whose difference an output is, where they cancel; 1e-6 for all others.
    pub floors: Vec<(usize, f64)>,
    pub gradient: Gradient,
}

impl Sample {
    pub fn new(name: impl Into<String>, op: impl Op + 'static) -> Sample {
        Sample {
            name: name.into(),
            class: Class::Tiny,
            op: Arc::new(op),
            metas: vec![],
            ins: vec![],
            counts: Counts::default(),
            tolerance: 2e-5,
            floors: vec![],
            gradient: Gradient::Finite,
        }
    }
    pub fn class(mut self, class: Class) -> Sample {
        self.class = class;
        self
    }
    pub fn tolerance(mut self, t: f64) -> Sample {
        self.tolerance = t;
        self
    }
    pub fn floor(mut self, output: usize, size: f64) -> Sample {
        self.floors.push((output, size));
        self
    }
    pub fn floor_of(&self, output: usize) -> f64 {
        self.floors.iter().find(|f| f.0 == output).map_or(1e-6, |f| f.1)
    }
    pub fn gradient(mut self, g: Gradient) -> Sample {
        self.gradient = g;
        self
    }
    pub fn counts(mut self, counts: Counts) -> Sample {
        self.counts = counts;
        self
    }
    /// Adds an operand; `counts` must be set before ragged ones.
    pub fn with(mut self, dtype: DType, dims: &[Dim], value: impl FnOnce(&[usize]) -> HostTensor) -> Sample {
        let meta = Meta::new(dtype, dims).unwrap_or_else(|e| panic!("sample {}: {e}", self.name));
        let value = value(&meta.sizes(&self.counts));
        self.metas.push(meta);
        self.ins.push(value);
        self
    }
    /// Adds an f32 operand of standard normal values drawn from `seed`.
    pub fn normal(self, dims: &[Dim], seed: u64) -> Sample {
        self.with(DType::F32, dims, |sizes| noise(sizes, seed))
    }
    pub fn absent(mut self) -> Sample {
        self.metas.push(Meta::absent());
        self.ins.push(HostTensor::absent());
        self
    }
}

/// Standard normal values, rounded to f32 so that every back end starts from the same bits.
pub fn noise(sizes: &[usize], seed: u64) -> HostTensor {
    let random = crate::random::Random::new(seed, 77);
    let n: usize = sizes.iter().product();
    HostTensor::f64(sizes, (0..n as u64).map(|i| f64::from(random.normal(i))).collect())
}

/// `operands[i]` present and of this rank, or an error that says which is not.
pub fn expect_rank(op: &str, ins: &[Meta], ranks: &[usize]) -> Result<()> {
    if ins.len() != ranks.len() {
        return Err(Error::shape(op, format!("takes {} operands and got {}", ranks.len(), ins.len())));
    }
    for (i, (m, rank)) in ins.iter().zip(ranks).enumerate() {
        if !m.is_absent() && m.rank() != *rank {
            return Err(Error::shape(op, format!("operand {i} must have {rank} dimensions and is {m}")));
        }
    }
    Ok(())
}

/// Two dimensions that must be the same, including the ragged axis.
pub fn expect_same(op: &str, what: &str, a: Dim, b: Dim) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::shape(op, format!("{what} must agree and are {a} and {b}"))) }
}

/// The size of a dimension that may not be ragged.
pub fn expect_fixed(op: &str, what: &str, d: Dim) -> Result<usize> {
    match d {
        Dim::Fixed(n) => Ok(n),
        Dim::Ragged(..) => Err(Error::shape(op, format!("{what} must be of one length in all batches and are {d}"))),
    }
}

/// Operand `i` present and of this type.
pub fn expect_dtype(op: &str, ins: &[Meta], i: usize, dtype: DType) -> Result<()> {
    match ins.get(i) {
        Some(m) if !m.is_absent() && m.dtype() == dtype => Ok(()),
        Some(m) => Err(Error::shape(op, format!("operand {i} must be {dtype:?} and is {m}"))),
        None => Err(Error::shape(op, format!("operand {i} is missing"))),
    }
}

/// The answer of an op whose outputs nobody differentiates.
pub fn no_gradient<T>(op: &str, why: &str) -> Result<T> {
    Err(Error::shape(op, format!("has no gradient: {why}")))
}

pub mod attention;
pub mod balance;
pub mod consistency;
pub mod contrast;
pub mod conv;
pub mod experts;
pub mod gather;
pub mod gram;
pub mod grouped;
pub mod hard_negatives;
pub mod int8;
pub mod interact;
pub mod linear;
pub mod margin;
pub mod norm;
pub mod optim;
pub mod pointwise;
pub mod quant;
pub mod reduce;
pub mod route;
pub mod rows;
pub mod segment;
pub mod topk;
pub mod uniformity;

/// Every op there is. Tests, gradient checks, benchmarks and the support table iterate this list.
pub static OPS: &[&dyn Op] = &[
    &linear::LINEAR,
    &pointwise::UNARY,
    &pointwise::UNARY_GRAD,
    &pointwise::BINARY,
    &pointwise::SCALE_ROWS,
    &pointwise::ROW_DOT,
    &reduce::SUM_ROWS,
    &reduce::BROADCAST_ROWS,
    &interact::INTERACT,
    &interact::INTERACT_GRAD,
    &interact::INTERACT_PAIRS,
    &interact::FOREGROUND,
    &reduce::MEAN_ALL,
    &reduce::BROADCAST_MEAN,
    &norm::UNIT,
    &norm::UNIT_GRAD,
    &norm::LAYER_NORM,
    &norm::LAYER_NORM_GRAD,
    &segment::SEGMENT_REDUCE,
    &segment::SEGMENT_SPREAD,
    &segment::SEGMENT_LOG_SOFTMAX,
    &segment::SEGMENT_LOG_SOFTMAX_GRAD,
    &gather::GATHER,
    &gather::SCATTER_ADD,
    &gather::GATHER_LERP,
    &gather::SCATTER_LERP,
    &rows::PUT_ROWS,
    &rows::TAKE_ROWS,
    &attention::ATTENTION,
    &attention::ATTENTION_GRAD,
    &conv::CONV,
    &conv::CONV_DX,
    &conv::CONV_DW,
    &quant::FAKE_QUANT,
    &int8::QUANTIZE_ROWS,
    &int8::LINEAR_INT8,
    &topk::TOP_K,
    &contrast::CONTRAST,
    &contrast::CONTRAST_GRAD,
    &uniformity::UNIFORMITY,
    &uniformity::UNIFORMITY_GRAD,
    &consistency::CONSISTENCY,
    &consistency::CONSISTENCY_GRAD,
    &margin::MARGIN,
    &margin::MARGIN_GRAD,
    &hard_negatives::HARD_NEGATIVES,
    &balance::BALANCE,
    &balance::BALANCE_GRAD,
    &optim::CLIP_NORM,
    &optim::ADAM_W,
    &route::ROUTE,
    &route::ROUTE_GRAD,
    &grouped::GROUPED_LINEAR,
    &grouped::GROUPED_LINEAR_DX,
    &grouped::GROUPED_LINEAR_DW,
    &experts::EXPERT,
    &experts::EXPERT_GRAD,
    &gram::GRAM,
    &gram::GRAM_GRAD,
    &gram::DECORRELATE,
    &gram::DECORRELATE_GRAD,
];
