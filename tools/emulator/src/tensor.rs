//! `mma.sync`: the layouts of its fragments, as the PTX ISA gives them ("Matrix Fragments for mma.m16n8k*"), and the
//! product.
//!
//! Products are exact. Floating-point sums are taken in f64 in the order of k and rounded to f32 once; tensor cores
//! sum in groups, in another order, with fewer bits. Integer sums wrap at 32 bits.

use crate::float::{bf16_to_f32, bits, f16_to_f32};
use crate::program::{LANES, Row};

/// The numbers that a fragment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

impl Element {
    /// Elements in a 32-bit register.
    fn packed(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 => 1,
            Element::S8 | Element::U8 => 4,
        }
    }

    fn read(self, word: u32, part: usize) -> f64 {
        match self {
            Element::F16 => f64::from(f16_to_f32(word >> (16 * part) & 0xffff)),
            Element::Bf16 => f64::from(bf16_to_f32(word >> (16 * part) & 0xffff)),
            // The low 13 bits do not take part.
            Element::Tf32 => f64::from(f32::from_bits(word & !0x1fff)),
            Element::S8 => f64::from((word >> (8 * part)) as i8),
            Element::U8 => f64::from((word >> (8 * part)) as u8),
        }
    }
}

/// A 16x8 product over `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    pub a: Element,
    pub b: Element,
    pub k: u8,
}

impl Mma {
    /// From a whole opcode; `None` where it is not supported.
    pub fn parse(opcode: &str) -> Option<Mma> {
        let shape = opcode.strip_prefix("mma.sync.aligned.m16n8k")?;
        let (k, types) = shape.split_once(".row.col.")?;
        let (a, b) = match types {
            "f32.f16.f16.f32" => (Element::F16, Element::F16),
            "f32.bf16.bf16.f32" => (Element::Bf16, Element::Bf16),
            "f32.tf32.tf32.f32" => (Element::Tf32, Element::Tf32),
            "s32.s8.s8.s32" => (Element::S8, Element::S8),
            "s32.u8.u8.s32" => (Element::U8, Element::U8),
            "s32.u8.s8.s32" => (Element::U8, Element::S8),
            "s32.s8.u8.s32" => (Element::S8, Element::U8),
            _ => return None,
        };
        let k = k.parse().ok()?;
        // Two or four registers of A.
        [4 * a.packed() as u8, 8 * a.packed() as u8].contains(&k).then_some(Mma { a, b, k })
    }

    /// Registers of A; half as many of B.
    pub fn registers(self) -> usize {
        usize::from(self.k) / (2 * self.a.packed())
    }

    pub fn integer(self) -> bool {
        matches!(self.a, Element::S8 | Element::U8)
    }
}

/// Row and column of element `part` of register `register` of A in a lane.
pub fn place_a(mma: Mma, lane: usize, register: usize, part: usize) -> (usize, usize) {
    let packed = mma.a.packed();
    (lane / 4 + 8 * (register % 2), lane % 4 * packed + part + 4 * packed * (register / 2))
}

/// The same for B: row (of k) and column.
pub fn place_b(mma: Mma, lane: usize, register: usize, part: usize) -> (usize, usize) {
    let packed = mma.a.packed();
    (lane % 4 * packed + part + 4 * packed * register, lane / 4)
}

/// The same for register `register` (0..4) of C and D.
pub fn place_c(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2), lane % 4 * 2 + register % 2)
}

/// D = A B + C over a warp; registers of the fragments in order.
#[inline(always)]
pub fn multiply(mma: Mma, a: &[Row], b: &[Row], c: &[Row; 4]) -> [Row; 4] {
    let mut left = [[0f64; 32]; 16];
    let mut right = [[0f64; 8]; 32];
    for lane in 0..LANES {
        for (r, row) in a.iter().enumerate() {
            for part in 0..mma.a.packed() {
                let (i, k) = place_a(mma, lane, r, part);
                left[i][k] = mma.a.read(row[lane], part);
            }
        }
        for (r, row) in b.iter().enumerate() {
            for part in 0..mma.b.packed() {
                let (k, j) = place_b(mma, lane, r, part);
                right[k][j] = mma.b.read(row[lane], part);
            }
        }
    }
    let mut out = [[0f64; 8]; 16];
    for lane in 0..LANES {
        for (r, row) in c.iter().enumerate() {
            let (i, j) = place_c(lane, r);
            out[i][j] = if mma.integer() { f64::from(row[lane] as i32) } else { f64::from(f32::from_bits(row[lane])) };
        }
    }
    for i in 0..16 {
        for (x, y) in left[i].iter().zip(&right).take(usize::from(mma.k)) {
            for (sum, z) in out[i].iter_mut().zip(y) {
                *sum += x * z;
            }
        }
    }
    let mut d = [[0; LANES]; 4];
    for lane in 0..LANES {
        for (r, row) in d.iter_mut().enumerate() {
            let (i, j) = place_c(lane, r);
            row[lane] = if mma.integer() { out[i][j] as i64 as u32 } else { bits(out[i][j] as f32) };
        }
    }
    d
}
