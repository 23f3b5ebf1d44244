//! The k largest scores of each row, also merged over chunks of columns.

use super::super::backend::cpu::topk as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_rank,
    expect_same, groups, no_gradient, noise, ptx, read, read_u32, write, write_u32,
};
use crate::error::{Error, Result};

/// The largest k: a row's result is sorted in the memory of one workgroup.
pub const MOST: usize = 1024;
/// The score of a place for which there was no candidate; its index is `u32::MAX`.
pub const EMPTY: f32 = -1e30;

/// The `k` largest of each row, in descending order; of equal ones the lower index stands first.
///
/// Operands `scores [R, M]` (both may be ragged); optional `base` u32 `[1]`, added to the indices; optional
/// `carry_values [R, k]` and `carry_index` u32 `[R, k]`, the result over earlier chunks of columns, which takes part.
/// Outputs `values [R, k]`, `index` u32 `[R, k]`. Whole f32 are compared; a NaN stands behind every number.
#[derive(Clone, Debug)]
pub struct TopK {
    pub k: usize,
}

pub static TOP_K: TopK = TopK { k: 10 };

static TOP_K_KERNEL: KernelDef = KernelDef {
    name: "top_k",
    operands: &[
        read("scores"),
        read_u32("base"),
        read("carry_values"),
        read_u32("carry_index"),
        write("values"),
        write_u32("index"),
    ],
    cpu: Some(cpu::top_k),
    wgsl: Some(include_str!("../../../wgsl/top_k.wgsl")),
    cuda: Some(&ptx::TOPK),
};

impl Op for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1, 2, 2])?;
        if self.k == 0 || self.k > MOST {
            return Err(Error::shape(self.name(), format!("k must be 1 to {MOST} and is {}", self.k)));
        }
        let dims = [ins[0].dim(0), Dim::Fixed(self.k)];
        let (values, index) = (Meta::f32(&dims)?, Meta::u32(&dims)?);
        if !ins[1].is_absent() {
            expect_dtype(self.name(), ins, 1, DType::U32)?;
            expect_same(self.name(), "base and one number", ins[1].dim(0), Dim::Fixed(1))?;
        }
        let carried = [ins[2].is_absent(), ins[3].is_absent()];
        if carried != [true, true] && (ins[2] != values || ins[3] != index) {
            let got = format!("{} and {}", ins[2], ins[3]);
            return Err(Error::shape(self.name(), format!("the carry must be {values} and {index} and is {got}")));
        }
        Ok(vec![values, index])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let base = ins[1].u().first().copied().unwrap_or(0);
        let (mut values, mut index) = (vec![], vec![]);
        for r in 0..rows {
            let scores = ins[0].x()[r * cols..][..cols].iter().enumerate().map(|(i, s)| (*s, base + i as u32));
            let carried = ins[2].x().iter().zip(ins[3].u()).skip(r * self.k).take(self.k).map(|(s, i)| (*s, *i));
            let mut all: Vec<(f64, u32)> = carried.filter(|c| c.1 != u32::MAX).chain(scores).collect();
            // Adding 0 makes −0 equal to 0.
            let descending = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan()).then((b + 0.0).total_cmp(&(a + 0.0)));
            all.sort_by(|a, b| descending(a.0, b.0).then(a.1.cmp(&b.1)));
            all.resize(self.k, (f64::from(EMPTY), u32::MAX));
            values.extend(all.iter().map(|c| c.0));
            index.extend(all.iter().map(|c| c.1));
        }
        vec![HostTensor::f64(&[rows, self.k], values), HostTensor::u32(&[rows, self.k], index)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "it selects candidates; train on the scores themselves")
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&TOP_K_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let carried = !o.ins[2].is_absent() as usize;
        let params = Params::new().size(rows).size(cols).u32(cols.cap()).u32(self.k).u32(carried);
        vec![Launch { kernel: &TOP_K_KERNEL, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        let fixed = Dim::Fixed;
        let counts = Counts::default().with(Axis(0), 5).with(Axis(1), 23);
        let ragged = |axis, cap| Dim::Ragged(Axis(axis), cap);
        let cases = [
            ("no row", fixed(0), fixed(7), 3, false, Class::Tiny),
            ("no column", fixed(3), fixed(0), 2, false, Class::Tiny),
            ("one", fixed(1), fixed(1), 1, false, Class::Tiny),
            ("fewer than k", fixed(3), fixed(5), 10, false, Class::Tiny),
            ("prime", fixed(7), fixed(97), 10, false, Class::Tiny),
            ("merged", fixed(7), fixed(97), 10, true, Class::Tiny),
            ("merged, fewer than k", fixed(3), fixed(2), 10, true, Class::Tiny),
            ("ragged", ragged(0, 9), ragged(1, 31), 4, true, Class::Tiny),
            ("all of them", fixed(2), fixed(300), 300, false, Class::Tiny),
            ("large k", fixed(3), fixed(5003), 1024, true, Class::Full),
            ("64 queries, 20000 videos", fixed(64), fixed(20_000), 100, false, Class::Bench),
        ];
        let mut samples = vec![];
        for (name, rows, cols, k, merge, class) in cases {
            for ties in [false, true] {
                let name = format!("{name}{}", if ties { ", many ties" } else { "" });
                let sample = Sample::new(name, TopK { k }).class(class).counts(counts).tolerance(0.0);
                let sample = sample.gradient(Gradient::None("selects"));
                let sample = sample.with(DType::F32, &[rows, cols], |sizes| scores(sizes, 5, ties));
                samples.push(if merge { carry(sample, rows, k, ties) } else { sample.absent().absent().absent() });
            }
        }
        samples
    }
}

/// Noise, or noise rounded to halves so that most scores are equal to others.
fn scores(sizes: &[usize], seed: u64, ties: bool) -> HostTensor {
    let mut x = noise(sizes, seed);
    if ties {
        x.x_mut().iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
    }
    x
}

/// Adds a base and the result over an earlier chunk that was too small to fill every place.
fn carry(sample: Sample, rows: Dim, k: usize, ties: bool) -> Sample {
    let base = k.div_ceil(2) as u32 + 3;
    let earlier = [rows.len(&sample.counts), base as usize - 3];
    let none = [HostTensor::absent(), HostTensor::absent(), HostTensor::absent()];
    let ins: Vec<HostTensor> = std::iter::once(scores(&earlier, 6, ties)).chain(none).collect();
    let mut best = TopK { k }.reference(&ins, &sample.counts);
    let (index, values) = (best.swap_remove(1), best.swap_remove(0));
    sample
        .with(DType::U32, &[Dim::Fixed(1)], |sizes| HostTensor::u32(sizes, vec![base]))
        .with(DType::F32, &[rows, Dim::Fixed(k)], |_| values)
        .with(DType::U32, &[rows, Dim::Fixed(k)], |_| index)
}
