//! Arithmetic on rows: one match, one small closure for each operation.
//!
//! Every lane is computed and only the active ones are stored; that lets the compiler use vector instructions. The
//! whole match is compiled twice, the second time for AVX2 and FMA.

use crate::float::{
    Round, add_directed, bf16_to_f32, bits, f16_to_f32, f32_to_bf16, f64_to_f16, flush, fma_directed, max32, min32,
    mul_directed, saturate,
};
use crate::program::{ALL, Instr, LANES, Row};
use crate::table::Alu;
use crate::tensor::{self, Mma};

/// Which copy of the code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
        Level::Plain
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn alu_avx2(op: Alu, regs: &mut [Row], i: &Instr, mask: u32) {
    alu_any(op, regs, i, mask);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn mma_avx2(mma: Mma, a: &[Row], b: &[Row], c: &[Row; 4]) -> [Row; 4] {
    tensor::multiply(mma, a, b, c)
}

/// Runs one operation for the lanes of `mask`.
pub fn alu(level: Level, op: Alu, regs: &mut [Row], i: &Instr, mask: u32) {
    match level {
        Level::Plain => alu_any(op, regs, i, mask),
        // SAFETY: this level is chosen only where the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { alu_avx2(op, regs, i, mask) },
    }
}

pub fn mma(level: Level, mma: Mma, a: &[Row], b: &[Row], c: &[Row; 4]) -> [Row; 4] {
    match level {
        Level::Plain => tensor::multiply(mma, a, b, c),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { mma_avx2(mma, a, b, c) },
    }
}

/// Stores the active lanes.
#[inline(always)]
pub fn put(regs: &mut [Row], at: u32, value: &Row, mask: u32) {
    let row = &mut regs[at as usize];
    if mask == ALL {
        *row = *value;
        return;
    }
    for l in 0..LANES {
        row[l] = if mask >> l & 1 == 1 { value[l] } else { row[l] };
    }
}

/// Both halves of a 64-bit register.
#[inline(always)]
pub fn get64(regs: &[Row], at: u32) -> [u64; LANES] {
    let (low, high) = (&regs[at as usize], &regs[at as usize + 1]);
    std::array::from_fn(|l| u64::from(low[l]) | u64::from(high[l]) << 32)
}

#[inline(always)]
pub fn put64(regs: &mut [Row], at: u32, value: &[u64; LANES], mask: u32) {
    put(regs, at, &std::array::from_fn(|l| value[l] as u32), mask);
    put(regs, at + 1, &std::array::from_fn(|l| (value[l] >> 32) as u32), mask);
}

struct Rows<'a> {
    regs: &'a mut [Row],
    i: &'a Instr,
    mask: u32,
}

impl Rows<'_> {
    #[inline(always)]
    fn row(&self, n: usize) -> Row {
        self.regs[self.i.rows[n] as usize]
    }
    #[inline(always)]
    fn long(&self, n: usize) -> [u64; LANES] {
        get64(self.regs, self.i.rows[n])
    }
    #[inline(always)]
    fn set(&mut self, f: impl Fn(usize) -> u32) {
        let mut value = [0; LANES];
        for (l, v) in value.iter_mut().enumerate() {
            *v = f(l);
        }
        put(self.regs, self.i.rows[0], &value, self.mask);
    }
    #[inline(always)]
    fn set64(&mut self, f: impl Fn(usize) -> u64) {
        let mut value = [0; LANES];
        for (l, v) in value.iter_mut().enumerate() {
            *v = f(l);
        }
        put64(self.regs, self.i.rows[0], &value, self.mask);
    }
    #[inline(always)]
    fn u(&mut self, f: impl Fn(u32) -> u32) {
        let a = self.row(1);
        self.set(|l| f(a[l]));
    }
    #[inline(always)]
    fn uu(&mut self, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.row(1), self.row(2));
        self.set(|l| f(a[l], b[l]));
    }
    #[inline(always)]
    fn uuu(&mut self, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.row(1), self.row(2), self.row(3));
        self.set(|l| f(a[l], b[l], c[l]));
    }
    #[inline(always)]
    fn ii(&mut self, f: impl Fn(i32, i32) -> i32) {
        self.uu(|a, b| f(a as i32, b as i32) as u32);
    }
    /// 16-bit registers hold their value in the low half and zeros above.
    #[inline(always)]
    fn hh(&mut self, f: impl Fn(u16, u16) -> u16) {
        self.uu(|a, b| u32::from(f(a as u16, b as u16)));
    }
    #[inline(always)]
    fn shh(&mut self, f: impl Fn(i16, i16) -> i16) {
        self.uu(|a, b| u32::from(f(a as i16, b as i16) as u16));
    }
    #[inline(always)]
    fn d(&mut self, f: impl Fn(u64) -> u64) {
        let a = self.long(1);
        self.set64(|l| f(a[l]));
    }
    #[inline(always)]
    fn dd(&mut self, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.long(1), self.long(2));
        self.set64(|l| f(a[l], b[l]));
    }
    #[inline(always)]
    fn dw(&mut self, f: impl Fn(u64, u32) -> u64) {
        let (a, b) = (self.long(1), self.row(2));
        self.set64(|l| f(a[l], b[l]));
    }
    #[inline(always)]
    fn f(&mut self, f: impl Fn(f32) -> f32) {
        self.u(|a| bits(f(f32::from_bits(a))));
    }
    #[inline(always)]
    fn ff(&mut self, f: impl Fn(f32, f32) -> f32) {
        self.uu(|a, b| bits(f(f32::from_bits(a), f32::from_bits(b))));
    }
    #[inline(always)]
    fn fff(&mut self, f: impl Fn(f32, f32, f32) -> f32) {
        self.uuu(|a, b, c| bits(f(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c))));
    }
    /// Operands and result flushed.
    #[inline(always)]
    fn f_ftz(&mut self, f: impl Fn(f32) -> f32) {
        self.f(|a| flush(f(flush(a))));
    }
    #[inline(always)]
    fn ff_ftz(&mut self, f: impl Fn(f32, f32) -> f32) {
        self.ff(|a, b| flush(f(flush(a), flush(b))));
    }
    /// Through f64, rounded once.
    #[inline(always)]
    fn wide(&mut self, f: impl Fn(f64) -> f64) {
        self.f(|a| f(f64::from(a)) as f32);
    }
    #[inline(always)]
    fn wide_ftz(&mut self, f: impl Fn(f64) -> f64) {
        self.f_ftz(|a| f(f64::from(a)) as f32);
    }
    #[inline(always)]
    fn g(&mut self, f: impl Fn(f64) -> f64) {
        self.d(|a| f(f64::from_bits(a)).to_bits());
    }
    #[inline(always)]
    fn gg(&mut self, f: impl Fn(f64, f64) -> f64) {
        self.dd(|a, b| f(f64::from_bits(a), f64::from_bits(b)).to_bits());
    }
    /// Arithmetic on f16, through f64: products and sums of three are exact there up to one rounding.
    #[inline(always)]
    fn f16(&mut self, halves: u32, f: impl Fn(f64, f64, f64) -> f64) {
        let half = |a, b, c| {
            let wide = |x: u32| f64::from(f16_to_f32(x & 0xffff));
            f64_to_f16(f(wide(a), wide(b), wide(c)), Round::Nearest)
        };
        self.halves(halves, half);
    }
    /// Arithmetic on bf16, through f64 and an f32 that is rounded to odd, so that only the last rounding counts.
    #[inline(always)]
    fn bf16(&mut self, halves: u32, f: impl Fn(f64, f64, f64) -> f64) {
        let half = |a, b, c| {
            let wide = |x: u32| f64::from(bf16_to_f32(x & 0xffff));
            f32_to_bf16(odd(f(wide(a), wide(b), wide(c))), Round::Nearest)
        };
        self.halves(halves, half);
    }
    #[inline(always)]
    fn halves(&mut self, halves: u32, half: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.row(1), self.row(2), self.row(3));
        self.set(|l| {
            let low = half(a[l], b[l], c[l]);
            if halves == 1 { low } else { low | half(a[l] >> 16, b[l] >> 16, c[l] >> 16) << 16 }
        });
    }
}

/// To f32, rounded to odd: a second rounding to fewer bits is then the only one.
fn odd(x: f64) -> f32 {
    let zero = crate::float::round_sum(x, 0.0, Round::Zero);
    if f64::from(zero) == x || x.is_nan() || zero.is_infinite() { zero } else { f32::from_bits(zero.to_bits() | 1) }
}

#[inline(always)]
fn shl(a: u64, n: u32, width: u32) -> u64 {
    if n >= width { 0 } else { a << n }
}

fn field_unsigned(a: u64, at: u32, length: u32, width: u32) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    if at >= width || length == 0 {
        return 0;
    }
    let shifted = a >> at;
    if length >= 64 { shifted } else { shifted & ((1 << length) - 1) }
}

fn field_signed(a: u64, at: u32, length: u32, width: u32) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let last = (at + length - 1).min(width - 1);
    let sign = a >> last & 1;
    let bits = field_unsigned(a, at, length, width);
    // Bits of the field that lie within the register.
    let inside = width.saturating_sub(at).min(length);
    let fill = if inside >= 64 { 0 } else { u64::MAX << inside };
    if sign == 1 { bits | fill } else { bits }
}

fn insert(a: u64, b: u64, at: u32, length: u32, width: u32) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    if at >= width || length == 0 {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = ones << at;
    (a << at & mask) | (b & !mask)
}

fn permute(a: u32, b: u32, select: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |out, i| {
        let nibble = select >> (4 * i) & 15;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        out | u32::from(byte) << (8 * i)
    })
}

#[inline(always)]
fn lookup(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for i in 0..8u32 {
        let chosen = 0u32.wrapping_sub(table >> i & 1);
        let x = if i & 4 == 0 { !a } else { a };
        let y = if i & 2 == 0 { !b } else { b };
        let z = if i & 1 == 0 { !c } else { c };
        out |= x & y & z & chosen;
    }
    out
}

/// Position of the highest bit that is set, all ones where there is none.
fn highest(a: u64) -> u32 {
    if a == 0 { u32::MAX } else { 63 - a.leading_zeros() }
}

fn dot(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
    let byte = |x: u32, i: u32, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    let sum: i32 = (0..4).map(|i| byte(a, i, signed_a) * byte(b, i, signed_b)).sum();
    c.wrapping_add(sum as u32)
}

fn nan_first(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    if f32::from_bits(a).is_nan() || f32::from_bits(b).is_nan() { crate::float::NAN32 } else { f(a, b) }
}

/// Extremes of bf16: those of the f32 with the same upper half.
fn bf16_pair(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a << 16, b << 16) >> 16 | f(a & 0xffff_0000, b & 0xffff_0000) & 0xffff_0000
}

#[inline(always)]
fn alu_any(op: Alu, regs: &mut [Row], i: &Instr, mask: u32) {
    let mut r = Rows { regs, i, mask };
    match op {
        Alu::Add16 => r.hh(u16::wrapping_add),
        Alu::Add32 => r.uu(u32::wrapping_add),
        Alu::Add64 => r.dd(u64::wrapping_add),
        Alu::Sub16 => r.hh(u16::wrapping_sub),
        Alu::Sub32 => r.uu(u32::wrapping_sub),
        Alu::Sub64 => r.dd(u64::wrapping_sub),
        Alu::Mul16 => r.hh(u16::wrapping_mul),
        Alu::Mul32 => r.uu(u32::wrapping_mul),
        Alu::Mul64 => r.dd(u64::wrapping_mul),
        Alu::MulHiU16 => r.uu(|a, b| (a * b) >> 16),
        Alu::MulHiS16 => r.uu(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 >> 16),
        Alu::MulHiU32 => r.uu(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Alu::MulHiS32 => r.ii(|a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        Alu::MulHiU64 => r.dd(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Alu::MulHiS64 => r.dd(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        Alu::MulWideU16 => r.uu(|a, b| a.wrapping_mul(b)),
        Alu::MulWideS16 => r.uu(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32),
        Alu::MulWideU32 => {
            let (a, b) = (r.row(1), r.row(2));
            r.set64(|l| u64::from(a[l]) * u64::from(b[l]));
        }
        Alu::MulWideS32 => {
            let (a, b) = (r.row(1), r.row(2));
            r.set64(|l| (i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64);
        }
        Alu::Mad16 => r.uuu(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        Alu::Mad32 => r.uuu(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu::Mad64 => {
            let (a, b, c) = (r.long(1), r.long(2), r.long(3));
            r.set64(|l| a[l].wrapping_mul(b[l]).wrapping_add(c[l]));
        }
        Alu::MadHiU32 => r.uuu(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        Alu::MadHiS32 => {
            r.uuu(|a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) >> 32).wrapping_add(i64::from(c)) as u32);
        }
        Alu::MadWideU16 => r.uuu(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu::MadWideS16 => {
            r.uuu(|a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c));
        }
        Alu::MadWideU32 => {
            let (a, b, c) = (r.row(1), r.row(2), r.long(3));
            r.set64(|l| (u64::from(a[l]) * u64::from(b[l])).wrapping_add(c[l]));
        }
        Alu::MadWideS32 => {
            let (a, b, c) = (r.row(1), r.row(2), r.long(3));
            r.set64(|l| ((i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64).wrapping_add(c[l]));
        }
        // A quotient by zero is all ones, a remainder the dividend.
        Alu::DivU16 => r.hh(|a, b| a.checked_div(b).unwrap_or(u16::MAX)),
        Alu::DivS16 => r.shh(|a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        Alu::DivU32 => r.uu(|a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Alu::DivS32 => r.ii(|a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        Alu::DivU64 => r.dd(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Alu::DivS64 => r.dd(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        Alu::RemU16 => r.hh(|a, b| a.checked_rem(b).unwrap_or(a)),
        Alu::RemS16 => r.shh(|a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        Alu::RemU32 => r.uu(|a, b| a.checked_rem(b).unwrap_or(a)),
        Alu::RemS32 => r.ii(|a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        Alu::RemU64 => r.dd(|a, b| a.checked_rem(b).unwrap_or(a)),
        Alu::RemS64 => r.dd(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        Alu::AbsS16 => r.u(|a| u32::from((a as i16).wrapping_abs() as u16)),
        Alu::AbsS32 => r.u(|a| (a as i32).wrapping_abs() as u32),
        Alu::AbsS64 => r.d(|a| (a as i64).wrapping_abs() as u64),
        Alu::Neg16 => r.u(|a| a.wrapping_neg() & 0xffff),
        Alu::Neg32 => r.u(u32::wrapping_neg),
        Alu::Neg64 => r.d(u64::wrapping_neg),
        Alu::MinU16 => r.hh(u16::min),
        Alu::MinS16 => r.shh(i16::min),
        Alu::MinU32 => r.uu(u32::min),
        Alu::MinS32 => r.ii(i32::min),
        Alu::MinU64 => r.dd(u64::min),
        Alu::MinS64 => r.dd(|a, b| (a as i64).min(b as i64) as u64),
        Alu::MaxU16 => r.hh(u16::max),
        Alu::MaxS16 => r.shh(i16::max),
        Alu::MaxU32 => r.uu(u32::max),
        Alu::MaxS32 => r.ii(i32::max),
        Alu::MaxU64 => r.dd(u64::max),
        Alu::MaxS64 => r.dd(|a, b| (a as i64).max(b as i64) as u64),
        Alu::And16 | Alu::And32 => r.uu(|a, b| a & b),
        Alu::And64 => r.dd(|a, b| a & b),
        Alu::Or16 | Alu::Or32 => r.uu(|a, b| a | b),
        Alu::Or64 => r.dd(|a, b| a | b),
        Alu::Xor16 | Alu::Xor32 => r.uu(|a, b| a ^ b),
        Alu::Xor64 => r.dd(|a, b| a ^ b),
        Alu::Not16 => r.u(|a| !a & 0xffff),
        Alu::Not32 => r.u(|a| !a),
        Alu::Not64 => r.d(|a| !a),
        Alu::Shl16 => r.uu(|a, n| shl(u64::from(a), n, 16) as u32 & 0xffff),
        Alu::Shl32 => r.uu(|a, n| if n >= 32 { 0 } else { a << n }),
        Alu::Shl64 => r.dw(|a, n| shl(a, n, 64)),
        Alu::ShrU16 | Alu::ShrU32 => r.uu(|a, n| if n >= 32 { 0 } else { a >> n }),
        Alu::ShrS16 => r.uu(|a, n| u32::from((a as i16 >> n.min(15)) as u16)),
        Alu::ShrS32 => r.uu(|a, n| (a as i32 >> n.min(31)) as u32),
        Alu::ShrU64 => r.dw(|a, n| if n >= 64 { 0 } else { a >> n }),
        Alu::ShrS64 => r.dw(|a, n| (a as i64 >> n.min(63)) as u64),
        Alu::Popc32 => r.u(u32::count_ones),
        Alu::Popc64 => {
            let a = r.long(1);
            r.set(|l| a[l].count_ones());
        }
        Alu::Clz32 => r.u(u32::leading_zeros),
        Alu::Clz64 => {
            let a = r.long(1);
            r.set(|l| a[l].leading_zeros());
        }
        Alu::Brev32 => r.u(u32::reverse_bits),
        Alu::Brev64 => r.d(u64::reverse_bits),
        Alu::BfindU32 => r.u(|a| highest(u64::from(a))),
        Alu::BfindS32 => r.u(|a| highest(u64::from(if a as i32 >= 0 { a } else { !a }))),
        Alu::BfindU64 => {
            let a = r.long(1);
            r.set(|l| highest(a[l]));
        }
        Alu::BfindShiftU32 => r.u(|a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        Alu::BfindShiftU64 => {
            let a = r.long(1);
            r.set(|l| if a[l] == 0 { u32::MAX } else { a[l].leading_zeros() });
        }
        Alu::BfeU32 => r.uuu(|a, at, n| field_unsigned(u64::from(a), at, n, 32) as u32),
        Alu::BfeS32 => r.uuu(|a, at, n| field_signed(u64::from(a), at, n, 32) as u32),
        Alu::BfeU64 => {
            let (a, at, n) = (r.long(1), r.row(2), r.row(3));
            r.set64(|l| field_unsigned(a[l], at[l], n[l], 64));
        }
        Alu::BfeS64 => {
            let (a, at, n) = (r.long(1), r.row(2), r.row(3));
            r.set64(|l| field_signed(a[l], at[l], n[l], 64));
        }
        Alu::Bfi32 => {
            let (a, b, at, n) = (r.row(1), r.row(2), r.row(3), r.row(4));
            r.set(|l| insert(u64::from(a[l]), u64::from(b[l]), at[l], n[l], 32) as u32);
        }
        Alu::Bfi64 => {
            let (a, b, at, n) = (r.long(1), r.long(2), r.row(3), r.row(4));
            r.set64(|l| insert(a[l], b[l], at[l], n[l], 64));
        }
        Alu::Prmt => r.uuu(permute),
        Alu::Lop3 => {
            let (a, b, c, table) = (r.row(1), r.row(2), r.row(3), r.row(4)[0]);
            r.set(|l| lookup(a[l], b[l], c[l], table));
        }
        Alu::ShfLWrap => r.uuu(|a, b, n| ((u64::from(b) << 32 | u64::from(a)) << (n & 31) >> 32) as u32),
        Alu::ShfLClamp => r.uuu(|a, b, n| ((u128::from(b) << 32 | u128::from(a)) << n.min(32) >> 32) as u32),
        Alu::ShfRWrap => r.uuu(|a, b, n| ((u64::from(b) << 32 | u64::from(a)) >> (n & 31)) as u32),
        Alu::ShfRClamp => r.uuu(|a, b, n| ((u64::from(b) << 32 | u64::from(a)) >> n.min(32)) as u32),
        Alu::Dp4aUU => r.uuu(|a, b, c| dot(a, b, c, false, false)),
        Alu::Dp4aSS => r.uuu(|a, b, c| dot(a, b, c, true, true)),
        Alu::Dp4aUS => r.uuu(|a, b, c| dot(a, b, c, false, true)),
        Alu::Dp4aSU => r.uuu(|a, b, c| dot(a, b, c, true, false)),
        Alu::AddF32 => r.ff(|a, b| a + b),
        Alu::AddF32Ftz => r.ff_ftz(|a, b| a + b),
        Alu::AddF32Sat => r.ff(|a, b| saturate(a + b)),
        Alu::AddF32Rz => r.ff(|a, b| add_directed(a, b, Round::Zero)),
        Alu::AddF32Rm => r.ff(|a, b| add_directed(a, b, Round::Down)),
        Alu::AddF32Rp => r.ff(|a, b| add_directed(a, b, Round::Up)),
        Alu::SubF32 => r.ff(|a, b| a - b),
        Alu::SubF32Ftz => r.ff_ftz(|a, b| a - b),
        Alu::SubF32Rz => r.ff(|a, b| add_directed(a, -b, Round::Zero)),
        Alu::SubF32Rm => r.ff(|a, b| add_directed(a, -b, Round::Down)),
        Alu::SubF32Rp => r.ff(|a, b| add_directed(a, -b, Round::Up)),
        Alu::MulF32 => r.ff(|a, b| a * b),
        Alu::MulF32Ftz => r.ff_ftz(|a, b| a * b),
        Alu::MulF32Sat => r.ff(|a, b| saturate(a * b)),
        Alu::MulF32Rz => r.ff(|a, b| mul_directed(a, b, Round::Zero)),
        Alu::MulF32Rm => r.ff(|a, b| mul_directed(a, b, Round::Down)),
        Alu::MulF32Rp => r.ff(|a, b| mul_directed(a, b, Round::Up)),
        Alu::FmaF32 => r.fff(f32::mul_add),
        Alu::FmaF32Ftz => r.fff(|a, b, c| flush(flush(a).mul_add(flush(b), flush(c)))),
        Alu::FmaF32Sat => r.fff(|a, b, c| saturate(a.mul_add(b, c))),
        Alu::FmaF32Rz => r.fff(|a, b, c| fma_directed(a, b, c, Round::Zero)),
        Alu::FmaF32Rm => r.fff(|a, b, c| fma_directed(a, b, c, Round::Down)),
        Alu::FmaF32Rp => r.fff(|a, b, c| fma_directed(a, b, c, Round::Up)),
        // The approximations are not worse than the exact result.
        Alu::DivF32 => r.ff(|a, b| a / b),
        Alu::DivF32Ftz => r.ff_ftz(|a, b| a / b),
        Alu::RcpF32 => r.f(|a| 1.0 / a),
        Alu::RcpF32Ftz => r.f_ftz(|a| 1.0 / a),
        Alu::SqrtF32 => r.f(f32::sqrt),
        Alu::SqrtF32Ftz => r.f_ftz(f32::sqrt),
        Alu::RsqrtF32 => r.wide(|a| 1.0 / a.sqrt()),
        Alu::RsqrtF32Ftz => r.wide_ftz(|a| 1.0 / a.sqrt()),
        Alu::SinF32 => r.wide(f64::sin),
        Alu::SinF32Ftz => r.wide_ftz(f64::sin),
        Alu::CosF32 => r.wide(f64::cos),
        Alu::CosF32Ftz => r.wide_ftz(f64::cos),
        Alu::Lg2F32 => r.wide(f64::log2),
        Alu::Lg2F32Ftz => r.wide_ftz(f64::log2),
        Alu::Ex2F32 => r.wide(f64::exp2),
        Alu::Ex2F32Ftz => r.wide_ftz(f64::exp2),
        Alu::TanhF32 => r.wide(f64::tanh),
        Alu::AbsF32 => r.u(|a| a & !(1 << 31)),
        Alu::AbsF32Ftz => r.f_ftz(f32::abs),
        Alu::NegF32 => r.u(|a| a ^ 1 << 31),
        Alu::NegF32Ftz => r.f_ftz(|a| -a),
        Alu::MinF32 => r.uu(min32),
        Alu::MinF32Ftz => r.ff_ftz(|a, b| f32::from_bits(min32(a.to_bits(), b.to_bits()))),
        Alu::MinNanF32 => r.uu(|a, b| nan_first(a, b, min32)),
        Alu::MaxF32 => r.uu(max32),
        Alu::MaxF32Ftz => r.ff_ftz(|a, b| f32::from_bits(max32(a.to_bits(), b.to_bits()))),
        Alu::MaxNanF32 => r.uu(|a, b| nan_first(a, b, max32)),
        // The sign is that of the first operand.
        Alu::CopysignF32 => r.uu(|a, b| (a & 1 << 31) | (b & !(1 << 31))),
        Alu::AddF64 => r.gg(|a, b| a + b),
        Alu::SubF64 => r.gg(|a, b| a - b),
        Alu::MulF64 => r.gg(|a, b| a * b),
        Alu::FmaF64 => {
            let (a, b, c) = (r.long(1), r.long(2), r.long(3));
            let f = f64::from_bits;
            r.set64(|l| f(a[l]).mul_add(f(b[l]), f(c[l])).to_bits());
        }
        Alu::DivF64 => r.gg(|a, b| a / b),
        Alu::RcpF64 => r.g(|a| 1.0 / a),
        Alu::SqrtF64 => r.g(f64::sqrt),
        Alu::AbsF64 => r.g(f64::abs),
        Alu::NegF64 => r.g(|a| -a),
        Alu::MinF64 => r.gg(f64::min),
        Alu::MaxF64 => r.gg(f64::max),
        Alu::FmaF16 => r.f16(1, |a, b, c| a * b + c),
        Alu::FmaF16x2 => r.f16(2, |a, b, c| a * b + c),
        Alu::FmaBf16 => r.bf16(1, |a, b, c| a * b + c),
        Alu::FmaBf16x2 => r.bf16(2, |a, b, c| a * b + c),
        Alu::AddF16 => r.f16(1, |a, b, _| a + b),
        Alu::AddF16x2 => r.f16(2, |a, b, _| a + b),
        Alu::SubF16 => r.f16(1, |a, b, _| a - b),
        Alu::SubF16x2 => r.f16(2, |a, b, _| a - b),
        Alu::MulF16 => r.f16(1, |a, b, _| a * b),
        Alu::MulF16x2 => r.f16(2, |a, b, _| a * b),
        Alu::MaxBf16x2 => r.uu(|a, b| bf16_pair(a, b, max32)),
        Alu::MinBf16x2 => r.uu(|a, b| bf16_pair(a, b, min32)),
        Alu::NegBf16 => r.u(|a| a ^ 0x8000),
        Alu::NegBf16x2 => r.u(|a| a ^ 0x8000_8000),
        Alu::AbsBf16x2 => r.u(|a| a & 0x7fff_7fff),
    }
}
