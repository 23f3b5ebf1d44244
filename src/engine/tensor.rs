//! What a tensor is: its type, its shape with ragged dimensions, and its size by checked arithmetic only.

use crate::error::{Error, Result};
use std::fmt;

/// Element types. All are little-endian in memory, on files and on devices.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    U32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::U32 => 4,
        }
    }
}

/// A named ragged axis: an index into [`Counts`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Axis(pub u8);

/// How many ragged axes one batch may have.
pub const AXES: usize = 8;

/// The real length of every ragged axis of one batch; uploaded with each slot.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub [u32; AXES]);

impl Counts {
    pub fn with(mut self, axis: Axis, count: usize) -> Self {
        self.0[axis.0 as usize] = u32::try_from(count).unwrap_or(u32::MAX);
        self
    }
    pub fn get(&self, axis: Axis) -> usize {
        self.0[axis.0 as usize] as usize
    }
}

/// One dimension. Strides come from capacities; rows at or beyond a ragged count are undefined and never read.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Fixed(usize),
    Ragged(Axis, usize),
}

impl Dim {
    /// The length memory is laid out for.
    pub fn cap(self) -> usize {
        match self {
            Dim::Fixed(n) | Dim::Ragged(_, n) => n,
        }
    }
    /// The length in this batch.
    pub fn len(self, counts: &Counts) -> usize {
        match self {
            Dim::Fixed(n) => n,
            Dim::Ragged(axis, cap) => counts.get(axis).min(cap),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Ragged(axis, cap) => write!(f, "#{}<={cap}", axis.0),
        }
    }
}

/// Type and shape of a tensor, or of an operand that is absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Meta {
    dtype: DType,
    dims: Vec<Dim>,
    absent: bool,
}

/// The most elements a tensor may have: kernels index with 32 bits.
pub const MAX_ELEMENTS: u64 = 1 << 31;

impl Meta {
    /// # Errors
    /// When the number of elements is not below 2³¹.
    pub fn new(dtype: DType, dims: &[Dim]) -> Result<Meta> {
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(d.cap() as u64));
        match elements {
            Some(n) if n < MAX_ELEMENTS => Ok(Meta { dtype, dims: dims.to_vec(), absent: false }),
            _ => Err(Error::shape(
                "tensor",
                format!(
                    "shape {} has 2^31 elements or more; use smaller batches or tiles",
                    Meta { dtype, dims: dims.to_vec(), absent: false }
                ),
            )),
        }
    }
    pub fn f32(dims: &[Dim]) -> Result<Meta> {
        Meta::new(DType::F32, dims)
    }
    pub fn u32(dims: &[Dim]) -> Result<Meta> {
        Meta::new(DType::U32, dims)
    }
    /// The meta of an optional operand that was left out.
    pub fn absent() -> Meta {
        Meta { dtype: DType::F32, dims: vec![Dim::Fixed(0)], absent: true }
    }
    pub fn is_absent(&self) -> bool {
        self.absent
    }
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    pub fn dims(&self) -> &[Dim] {
        &self.dims
    }
    pub fn rank(&self) -> usize {
        self.dims.len()
    }
    pub fn dim(&self, i: usize) -> Dim {
        self.dims[i]
    }
    /// Elements of the whole capacity.
    pub fn elements(&self) -> u64 {
        self.dims.iter().map(|d| d.cap() as u64).product()
    }
    /// Bytes of the whole capacity.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bytes()
    }
    /// Whether both lie in memory alike: types and capacities agree, what is ragged need not.
    pub fn same_layout(&self, other: &Meta) -> bool {
        let caps = |m: &Meta| m.dims.iter().map(|d| d.cap()).collect::<Vec<_>>();
        self.dtype == other.dtype && self.absent == other.absent && caps(self) == caps(other)
    }
    /// The true sizes in a batch.
    pub fn sizes(&self, counts: &Counts) -> Vec<usize> {
        self.dims.iter().map(|d| d.len(counts)).collect()
    }
    pub fn is_ragged(&self) -> bool {
        self.dims.iter().any(|d| matches!(d, Dim::Ragged(..)))
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.absent {
            return write!(f, "absent");
        }
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", if self.dtype == DType::F32 { "f32" } else { "u32" }, dims.join(", "))
    }
}

/// Values on the host, for references and samples. Its shape holds true sizes, never capacities.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub data: HostData,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// References compute in double precision.
    F64(Vec<f64>),
    U32(Vec<u32>),
    Absent,
}

impl HostTensor {
    pub fn f64(shape: &[usize], data: Vec<f64>) -> HostTensor {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        HostTensor { shape: shape.to_vec(), data: HostData::F64(data) }
    }
    pub fn u32(shape: &[usize], data: Vec<u32>) -> HostTensor {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        HostTensor { shape: shape.to_vec(), data: HostData::U32(data) }
    }
    pub fn zeros(shape: &[usize]) -> HostTensor {
        HostTensor::f64(shape, vec![0.0; shape.iter().product()])
    }
    pub fn scalar(x: f64) -> HostTensor {
        HostTensor::f64(&[1], vec![x])
    }
    pub fn absent() -> HostTensor {
        HostTensor { shape: vec![0], data: HostData::Absent }
    }
    pub fn is_absent(&self) -> bool {
        self.data == HostData::Absent
    }
    /// The values as f64; empty for an absent operand or one of another type.
    pub fn x(&self) -> &[f64] {
        match &self.data {
            HostData::F64(v) => v,
            _ => &[],
        }
    }
    pub fn x_mut(&mut self) -> &mut [f64] {
        match &mut self.data {
            HostData::F64(v) => v,
            _ => &mut [],
        }
    }
    /// The values as u32; empty for an absent operand or one of another type.
    pub fn u(&self) -> &[u32] {
        match &self.data {
            HostData::U32(v) => v,
            _ => &[],
        }
    }
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_overflows_is_refused_before_it_is_used() {
        let huge = [Dim::Fixed(usize::MAX), Dim::Fixed(3)];
        assert!(Meta::f32(&huge).is_err());
        assert!(Meta::f32(&[Dim::Fixed(1 << 31)]).is_err());
        assert!(Meta::f32(&[Dim::Fixed((1 << 31) - 1)]).is_ok());
    }

    #[test]
    fn counts_never_reach_beyond_the_capacity() {
        let rows = Dim::Ragged(Axis(2), 10);
        assert_eq!(rows.len(&Counts::default().with(Axis(2), 99)), 10);
        assert_eq!(rows.len(&Counts::default().with(Axis(2), 7)), 7);
    }
}
