//! Products in int8, forward only: rows rounded to codes of 8 bits, and `linear` on codes.

use super::super::backend::cpu::int8 as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::linear::Activation;
use super::quant::{self, SMALLEST};
use super::{
    Arg, Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, expect_dtype,
    expect_fixed, expect_rank, expect_same, groups, no_gradient, ptx, read, read_u32, write, write_u32,
};
use crate::error::{Error, Result};

const FORWARD_ONLY: &str = "codes are integers; `fake_quant` is what training rounds with";

/// Codes of a word.
pub const CODES: usize = 4;
/// Most codes of a row: a sum of so many products is below 2³¹.
pub const MOST_CODES: usize = 131_072;

/// Rows as codes of int8 with a scale each: those of [`FakeQuant`](quant::FakeQuant), of which this is the form that is
/// stored. Operand x `[R, D]`, R may be ragged; outputs codes u32 `[R, ⌈D/4⌉]`, four codes a word, the first in the
/// lowest byte, zeros behind the last; scales `[R]`, so that x ≈ scale · code. Rows whose largest magnitude is at or below
/// [`SMALLEST`] have codes and scale 0; the scale of a row with a NaN or an infinity is not finite. Codes are the same
/// bits on all devices.
#[derive(Clone, Debug)]
pub struct QuantizeRows;

pub static QUANTIZE_ROWS: QuantizeRows = QuantizeRows;

static QUANTIZE_ROWS_KERNEL: KernelDef = KernelDef {
    name: "quantize_rows",
    operands: &[read("x"), write_u32("codes"), write("scales")],
    cpu: Some(cpu::quantize_rows),
    wgsl: Some(include_str!("../../../wgsl/quantize_rows.wgsl")),
    cuda: Some(&ptx::QUANT),
};

impl QuantizeRows {
    /// Words of a row of so many codes.
    pub fn words(codes: usize) -> usize {
        codes.div_ceil(CODES)
    }
}

impl Op for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        let words = QuantizeRows::words(expect_fixed(self.name(), "columns", ins[0].dim(1))?);
        Ok(vec![Meta::u32(&[ins[0].dim(0), Dim::Fixed(words)])?, Meta::f32(&[ins[0].dim(0)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let words = QuantizeRows::words(cols);
        let (mut codes, mut scales) = (vec![0u32; rows * words], vec![0.0; rows]);
        for r in 0..rows {
            let x = &ins[0].x()[r * cols..][..cols];
            let m = x.iter().fold(0.0f32, |m, x| m.max((*x as f32).abs()));
            if m > SMALLEST {
                scales[r] = f64::from(m) / 127.0;
                for (c, x) in x.iter().enumerate() {
                    let code = (quant::code(*x as f32, m) as f64).copysign(*x) as i8;
                    codes[r * words + c / CODES] |= u32::from(code as u8) << (8 * (c % CODES));
                }
            }
        }
        vec![HostTensor::u32(&[rows, words], codes), HostTensor::f64(&[rows], scales)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), FORWARD_ONLY)
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 10 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&QUANTIZE_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).size(cols);
        vec![Launch { kernel: &QUANTIZE_ROWS_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = Dim::Fixed;
        let shapes = [
            ("empty", [fixed(0), fixed(3)], Class::Tiny),
            ("empty rows", [fixed(3), fixed(0)], Class::Tiny),
            ("one", [fixed(1), fixed(1)], Class::Tiny),
            ("prime", [fixed(13), fixed(37)], Class::Tiny),
            ("whole words", [fixed(19), fixed(40)], Class::Tiny),
            ("ragged", [Dim::Ragged(Axis(0), 11), fixed(22)], Class::Tiny),
            ("large", [fixed(1031), fixed(515)], Class::Full),
            ("1536x512", [fixed(1536), fixed(512)], Class::Bench),
        ];
        let counts = Counts::default().with(Axis(0), 7);
        let sample = |name, class| {
            let gradient = Gradient::None(FORWARD_ONLY);
            Sample::new(name, QuantizeRows).class(class).counts(counts).gradient(gradient)
        };
        let noisy = shapes.map(|(name, dims, class)| sample(name, class).normal(&dims, 5));
        let ties = sample("ties", Class::Tiny).with(DType::F32, &[fixed(6), fixed(257)], quant::ties);
        let odd = [fixed(5), fixed(9)];
        let odd = sample("zero, tiny and huge rows", Class::Tiny).with(DType::F32, &odd, quant::odd_rows);
        noisy.into_iter().chain([ties, odd]).collect()
    }
}

/// `y = act((s_a s_b) · (codes of a · codes of b) + bias) + residual` for each row of a and of b: `linear` with
/// `b_t` on what [`QuantizeRows`] makes of both.
///
/// Operands: codes_a u32 `[m, w]`, scales_a `[m]`, codes_b u32 `[n, w]`, scales_b `[n]`, optional bias `[n]`, optional
/// residual `[m, n]`; m and n may be ragged, w is at most 32,768. Codes are −127 to 127. Output y `[m, n]`. Sums of
/// products are exact, in i32, so that devices differ by the rounding of the epilogue alone.
#[derive(Clone, Debug)]
pub struct LinearInt8 {
    pub activation: Activation,
}

pub static LINEAR_INT8: LinearInt8 = LinearInt8 { activation: Activation::None };

static LINEAR_INT8_KERNEL: KernelDef = KernelDef {
    name: "linear_int8",
    operands: &[
        read_u32("a"),
        read("scales_a"),
        read_u32("b"),
        read("scales_b"),
        read("bias"),
        read("residual"),
        write("y"),
        // Of the CPU: b in the order in which it is read.
        write_u32("panels"),
    ],
    cpu: Some(cpu::linear_int8),
    wgsl: Some(include_str!("../../../wgsl/linear_int8.wgsl")),
    cuda: Some(&ptx::LINEAR),
};

/// Rows and columns of `y` that one workgroup of the GPU kernels computes.
const TILE: u32 = 64;

impl Op for LinearInt8 {
    fn name(&self) -> &'static str {
        "linear_int8"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 2, 1, 1, 2])?;
        for (i, dtype) in [DType::U32, DType::F32, DType::U32, DType::F32].into_iter().enumerate() {
            expect_dtype(self.name(), ins, i, dtype)?;
        }
        let (m, n) = (ins[0].dim(0), ins[2].dim(0));
        let words = [ins[0].dim(1), ins[2].dim(1)];
        expect_same(self.name(), "the contracted dimensions", words[0], words[1])?;
        if expect_fixed(self.name(), "the contracted dimension", words[0])? > MOST_CODES / CODES {
            let what = format!("rows have {} codes, more than sums of 32 bits hold", words[0].cap() * CODES);
            return Err(Error::shape(self.name(), what));
        }
        expect_same(self.name(), "rows and scales of a", m, ins[1].dim(0))?;
        expect_same(self.name(), "rows and scales of b", n, ins[3].dim(0))?;
        if !ins[4].is_absent() {
            expect_same(self.name(), "columns and bias", n, ins[4].dim(0))?;
        }
        let y = Meta::f32(&[m, n])?;
        if !ins[5].is_absent() && ins[5] != y {
            return Err(Error::shape(self.name(), format!("the residual is {} and the product {y}", ins[5])));
        }
        Ok(vec![y])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [m, n, words] = [ins[0].dim(0), ins[2].dim(0), ins[0].dim(1)];
        let code = |codes: &HostTensor, row: usize, i: usize| {
            let word = codes.u()[row * words + i / CODES];
            f64::from((word >> (8 * (i % CODES))) as u8 as i8)
        };
        let mut y = HostTensor::zeros(&[m, n]);
        for r in 0..m {
            for c in 0..n {
                let dot: f64 = (0..words * CODES).map(|i| code(&ins[0], r, i) * code(&ins[2], c, i)).sum();
                let sum = dot * ins[1].x()[r] * ins[3].x()[c] + ins[4].x().get(c).copied().unwrap_or(0.0);
                let sum = self.activation.unary().map_or(sum, |f| f.value(sum).0);
                y.x_mut()[r * n + c] = sum + ins[5].x().get(r * n + c).copied().unwrap_or(0.0);
            }
        }
        vec![y]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), FORWARD_ONLY)
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        let [m, n, words] = [ins[0].dim(0), ins[2].dim(0), ins[0].dim(1)].map(|d| d.cap() as u64);
        Cost { flops: 2 * m * n * words * CODES as u64, ..Cost::traffic(ins, outs) }
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(5, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&LINEAR_INT8_KERNEL]
    }
    fn workspace(&self, ins: &[Meta], ctx: &Ctx) -> u64 {
        match ctx.target {
            Target::Cpu => cpu::panel_words(ins[2].dim(0).cap(), ins[2].dim(1).cap()) as u64 * 4,
            _ => 0,
        }
    }
    fn launch(&self, o: &Operands, ctx: &Ctx) -> Vec<Launch> {
        let (m, n) = (o.ins[0].dim(0), o.ins[2].dim(0));
        let params = Params::new()
            .size(m)
            .size(n)
            .u32(o.ins[0].dim(1).cap())
            .u32(n.cap())
            .u32(self.activation as usize)
            .u32(!o.ins[4].is_absent() as usize)
            .u32(!o.ins[5].is_absent() as usize);
        let tiles = |d: Dim| (d.cap() as u32).div_ceil(TILE).clamp(1, 65_535);
        let panels = match self.workspace(o.ins, ctx) {
            0 => Arg::Absent,
            bytes => Arg::Work { offset: 0, bytes },
        };
        let args = o.all().into_iter().chain([panels]).collect();
        vec![Launch { kernel: &LINEAR_INT8_KERNEL, params, groups: [tiles(n), tiles(m), 1], args }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = Dim::Fixed;
        let ragged = |cap| Dim::Ragged(Axis(0), cap);
        let counts = Counts::default().with(Axis(0), 37);
        let sample = |name: String, activation, m: Dim, n: Dim, words: usize| {
            let gradient = Gradient::None(FORWARD_ONLY);
            let sample = Sample::new(name, LinearInt8 { activation }).counts(counts).gradient(gradient);
            let sample =
                sample.with(DType::U32, &[m, fixed(words)], |sizes| codes(sizes, 1)).with(DType::F32, &[m], scales);
            sample.with(DType::U32, &[n, fixed(words)], |sizes| codes(sizes, 2)).with(DType::F32, &[n], scales)
        };
        let shapes = [
            ("one", fixed(1), fixed(1), 1, Class::Tiny),
            ("empty rows", fixed(0), fixed(3), 2, Class::Tiny),
            ("empty columns", fixed(3), fixed(0), 2, Class::Tiny),
            ("empty contraction", fixed(2), fixed(3), 0, Class::Tiny),
            ("prime", fixed(37), fixed(29), 23, Class::Tiny),
            ("four tiles", fixed(67), fixed(70), 9, Class::Tiny),
            ("ragged rows", ragged(41), fixed(19), 12, Class::Tiny),
            ("ragged columns", fixed(5), ragged(41), 12, Class::Tiny),
            ("large", fixed(301), fixed(257), 129, Class::Full),
        ];
        let plain = |(name, m, n, words, class): (&str, Dim, Dim, usize, Class)| {
            sample(name.into(), Activation::None, m, n, words).class(class).absent().absent()
        };
        let mut samples: Vec<Sample> = shapes.map(plain).into();
        let all = [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::QuickGelu, Activation::Gelu];
        for activation in all {
            let sample = sample(format!("epilogue {activation:?}"), activation, ragged(41), fixed(71), 13);
            samples.push(sample.normal(&[fixed(71)], 3).normal(&[ragged(41), fixed(71)], 4));
        }
        // The largest sums there are, of both signs: they exceed what 16 bits hold, in pairs, and what f32 counts exactly.
        let extremes = |sizes: &[usize]| {
            let words = [0x7f7f_7f7f, 0x8181_8181, 0x817f_817f];
            HostTensor::u32(sizes, (0..sizes[0] * sizes[1]).map(|i| words[i / sizes[1] % 3]).collect())
        };
        let (dims, gradient) = ([fixed(7), fixed(2048)], Gradient::None(FORWARD_ONLY));
        let sample = |name| Sample::new(name, LINEAR_INT8.clone()).gradient(gradient);
        let largest = sample("largest codes").with(DType::U32, &dims, extremes).with(DType::F32, &[fixed(7)], scales);
        let largest = largest.with(DType::U32, &dims, extremes).with(DType::F32, &[fixed(7)], scales);
        samples.push(largest.absent().absent());
        let bench = sample("1536x512x512").class(Class::Bench);
        let bench = bench.with(DType::U32, &[fixed(1536), fixed(128)], |sizes| codes(sizes, 1));
        let bench = bench.with(DType::F32, &[fixed(1536)], scales);
        let bench = bench.with(DType::U32, &[fixed(512), fixed(128)], |sizes| codes(sizes, 2));
        samples.push(bench.with(DType::F32, &[fixed(512)], scales).normal(&[fixed(512)], 3).absent());
        samples
    }
}

/// Words of codes from −127 to 127.
fn codes(sizes: &[usize], seed: u64) -> HostTensor {
    let random = crate::random::Random::new(seed, 78);
    let code = |i: u64| (random.uniform(i) * 255.0).floor().min(254.0) as i32 - 127;
    let word = |w: u64| u32::from_le_bytes(std::array::from_fn(|b| code(w * CODES as u64 + b as u64) as i8 as u8));
    HostTensor::u32(sizes, (0..sizes.iter().product::<usize>() as u64).map(word).collect())
}

/// Scales that differ from row to row.
fn scales(sizes: &[usize]) -> HostTensor {
    HostTensor::f64(sizes, (0..sizes[0]).map(|i| f64::from((1 + i % 13) as f32 / 1024.0)).collect())
}
