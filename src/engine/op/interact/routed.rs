//! The router of a sample: logits, the experts' outputs and their products.

use super::super::super::tensor::{DType, Dim, HostTensor};
use super::super::{Gradient, Sample, noise};
use super::samples::rows;

/// A router that a case has.
#[derive(Copy, Clone, Debug)]
pub struct Router {
    pub experts: usize,
    pub slots: usize,
    /// Slots name their experts.
    pub table: bool,
    pub kept: u32,
    pub quirk: Quirk,
}

/// What is special about it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Quirk {
    Plain,
    /// Every fourth frame's experts are so small that it has no direction.
    Faint,
    /// All logits are the same.
    Ties,
    /// The table names experts that do not exist: every third frame's last slot, and all slots of the seventh.
    Unknown,
}

impl Router {
    pub const fn new(experts: usize, slots: usize) -> Router {
        Router { experts, slots, table: experts != slots, kept: 0, quirk: Quirk::Plain }
    }

    /// Why the forward pass cannot be checked by finite differences, if it cannot.
    pub fn gradient(&self) -> Option<Gradient> {
        match self.quirk {
            Quirk::Faint => {
                Some(Gradient::None("a frame gains a direction at a step, on which finite differences stand"))
            }
            Quirk::Ties => {
                Some(Gradient::None("which gates survive changes at a tie, on which finite differences stand"))
            }
            Quirk::Plain | Quirk::Unknown => None,
        }
    }

    /// Outputs of the experts: around a common row of length one, so that no mixture of them vanishes by chance.
    pub fn experts(&self, sizes: &[usize], width: usize, length: f64) -> HostTensor {
        let common = rows(&[sizes[0], width], length, 2);
        let own = rows(&[sizes[0] * self.slots, width], 0.7 * length, 61);
        let row = self.slots * width;
        let value = |i: usize| {
            let (t, x) = (i / row.max(1), i % width.max(1));
            let scale = if self.quirk == Quirk::Faint && t % 4 == 1 { 1e-8 } else { 1.0 };
            f64::from(((common.x()[t * width + x] + own.x()[i]) * scale) as f32)
        };
        HostTensor::f64(sizes, (0..sizes[0] * row).map(value).collect())
    }

    fn products(&self, sizes: &[usize], experts: &HostTensor) -> HostTensor {
        let (k, width) = (self.slots, experts.dim(1) / self.slots);
        let row = |t: usize, s: usize| &experts.x()[(t * k + s) * width..][..width];
        let product = |i: usize| {
            let (t, s, other) = (i / (k * k), i % (k * k) / k, i % k);
            let sum: f64 = row(t, s).iter().zip(row(t, other)).map(|(a, b)| a * b).sum();
            f64::from(sum as f32)
        };
        HostTensor::f64(sizes, (0..sizes[0] * k * k).map(product).collect())
    }

    fn numbers(&self, sizes: &[usize]) -> HostTensor {
        let (k, experts) = (self.slots, self.experts as u32);
        let number = |i: usize| {
            let (t, s) = (i / k, i % k);
            let unknown = self.quirk == Quirk::Unknown && (t % 7 == 6 || t % 3 == 1 && s == k - 1);
            if unknown { experts + (i % 2) as u32 * 1_000_000 } else { ((t * t + 3 * t + s) % self.experts) as u32 }
        };
        HostTensor::u32(sizes, (0..sizes[0] * k).map(number).collect())
    }

    /// Adds operands 6 to 9 to a sample that has the frames.
    pub fn operands(&self, s: Sample, texts: Dim, frames: Dim) -> Sample {
        let scale = if self.quirk == Quirk::Ties { 0.0 } else { 1.5 };
        let logits = |sizes: &[usize], seed| {
            let x = noise(sizes, seed);
            HostTensor::f64(sizes, x.x().iter().map(|x| f64::from((x * scale) as f32)).collect())
        };
        let fixed = |n| Dim::Fixed(n);
        let experts = s.ins[3].clone();
        let s = s.with(DType::F32, &[texts, fixed(self.experts)], |sizes| logits(sizes, 62));
        let s = s.with(DType::F32, &[frames, fixed(self.slots)], |sizes| logits(sizes, 63));
        let s = if self.table {
            s.with(DType::U32, &[frames, fixed(self.slots)], |sizes| self.numbers(sizes))
        } else {
            s.absent()
        };
        s.with(DType::F32, &[frames, fixed(self.slots * self.slots)], |sizes| self.products(sizes, &experts))
    }
}
