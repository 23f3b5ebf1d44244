//! Rounding to 8-bit codes and back, for training that will be stored and scored in them.

use super::super::backend::cpu::quant as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, groups, noise, ptx, read, write,
};
use crate::error::Result;

/// Rows whose largest magnitude is at or below this have codes of 0: below it, some GPUs flush to zero.
pub const SMALLEST: f32 = 1e-30;

/// `y = s · c`, row by row: c the nearest integer to x / s (ties to even), s = m / 127 with the row's largest magnitude
/// m. Operand x `[R, D]`, R may be ragged; output y `[R, D]`. Rows with m ≤ [`SMALLEST`] become 0. For weights
/// `[out, in]` this is a scale per output channel, for tokens per token. The gradient passes straight through (Bengio et
/// al. 2013).
///
/// A quotient that is rounded differently on another device would be another code. So no quotient decides: in f32,
/// |c| is the number of k in 0..127 with (k + ½)·m < 127·|x|, or = where k is odd. Products of f32 are the same bits
/// everywhere, and so are the codes; y is c · (m · (1/127)). Magnitudes must be below 1e36.
#[derive(Clone, Debug)]
pub struct FakeQuant;

pub static FAKE_QUANT: FakeQuant = FakeQuant;

static FAKE_QUANT_KERNEL: KernelDef = KernelDef {
    name: "fake_quant",
    operands: &[read("x"), write("y")],
    cpu: Some(cpu::fake_quant),
    wgsl: Some(include_str!("../../../wgsl/fake_quant.wgsl")),
    cuda: Some(&ptx::QUANT),
};

/// |c| for one element, by the definition.
pub(super) fn code(x: f32, m: f32) -> f32 {
    let at = x.abs() * 127.0;
    (0..127u32)
        .filter(|k| {
            let threshold = (*k as f32 + 0.5) * m;
            threshold < at || (threshold == at && k % 2 == 1)
        })
        .count() as f32
}

impl Op for FakeQuant {
    fn name(&self) -> &'static str {
        "fake_quant"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let mut y = HostTensor::zeros(&[rows, cols]);
        for r in 0..rows {
            let x = &ins[0].x()[r * cols..][..cols];
            let m = x.iter().fold(0.0f32, |m, x| m.max((*x as f32).abs()));
            if m > SMALLEST {
                for (c, x) in x.iter().enumerate() {
                    let magnitude = f64::from(code(*x as f32, m)) * f64::from(m) / 127.0;
                    y.x_mut()[r * cols + c] = magnitude.copysign(*x);
                }
            }
        }
        vec![y]
    }
    fn grad(&self, _: &mut Graph, _: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dout[0]])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 10 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&FAKE_QUANT_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).size(cols);
        vec![Launch { kernel: &FAKE_QUANT_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = Dim::Fixed;
        let shapes = [
            ("empty", [fixed(0), fixed(3)], Class::Tiny),
            ("one", [fixed(1), fixed(1)], Class::Tiny),
            ("prime", [fixed(13), fixed(37)], Class::Tiny),
            ("ragged", [Dim::Ragged(Axis(0), 11), fixed(20)], Class::Tiny),
            ("large", [fixed(1031), fixed(515)], Class::Full),
            ("24576x512", [fixed(24_576), fixed(512)], Class::Bench),
        ];
        let counts = Counts::default().with(Axis(0), 7);
        let sample =
            |name, class| Sample::new(name, FakeQuant).class(class).counts(counts).gradient(Gradient::Surrogate);
        let noisy = shapes.map(|(name, dims, class)| sample(name, class).normal(&dims, 5));
        let ties = sample("ties", Class::Tiny).with(DType::F32, &[fixed(6), fixed(257)], ties);
        let odd = sample("zero, tiny and huge rows", Class::Tiny).with(DType::F32, &[fixed(5), fixed(9)], odd_rows);
        noisy.into_iter().chain([ties, odd]).collect()
    }
}

/// Rows with a largest magnitude of 127 units, in which every place half-way between two codes stands, of both signs;
/// the unit is a power of two in half of the rows, so that they are exact ties.
pub(super) fn ties(sizes: &[usize]) -> HostTensor {
    let units = [1.0, 0.25, 1024.0, 0.3, 1.0 / 127.0, 7e-5f32];
    let value = |c: usize| if c < 254 { c as f32 - 126.5 } else { [127.0, -127.0, 0.0][c - 254] };
    let row = |unit: f32| (0..sizes[1]).map(move |c| f64::from(value(c) * unit));
    HostTensor::f64(sizes, units.iter().take(sizes[0]).flat_map(|unit| row(*unit)).collect())
}

/// Noise, of which a row is 0, one as small as what becomes 0, one just larger, and one large.
pub(super) fn odd_rows(sizes: &[usize]) -> HostTensor {
    let mut x = noise(sizes, 5);
    let scales = [0.0, 1e-35, 1e-28, 1e30, 1.0f32];
    for (row, scale) in x.x_mut().chunks_mut(sizes[1].max(1)).zip(scales) {
        row.iter_mut().for_each(|x| *x = f64::from(*x as f32 * scale));
    }
    x
}
