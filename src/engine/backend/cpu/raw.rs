//! The only unsafe code of the CPU back end: arguments as slices of the regions, and the call into `gemm`.

use super::CpuArg;
use crate::engine::op::Access;
use crate::engine::scheduler::plan::{ALIGN, Command, LaunchCommand, Plan, Region, RegionBytes, Span};
use crate::engine::tensor::DType;
use crate::error::{Error, Result, bytes as readable};
use bytemuck::{Pod, Zeroable};

/// The unit of allocation: as aligned as every offset of a plan.
#[derive(Copy, Clone, Pod, Zeroable)]
#[repr(C, align(256))]
struct Block([u64; 32]);

/// The regions of one device.
#[derive(Default)]
pub struct Memory {
    state: Vec<Block>,
    arena: Vec<Block>,
    input: Vec<Vec<Block>>,
    output: Vec<Vec<Block>>,
}

fn allocate(bytes: u64) -> Result<Vec<Block>> {
    let blocks = bytes.div_ceil(256) as usize;
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks).map_err(|_| Error::Memory {
        what: "a region".into(),
        needed: bytes,
        available: 0,
        fix: format!("the system refused {}; use smaller batches", readable(bytes)),
    })?;
    memory.resize(blocks, Block::zeroed());
    Ok(memory)
}

impl Memory {
    pub fn new(bytes: RegionBytes, slots: usize) -> Result<Memory> {
        Ok(Memory {
            state: allocate(bytes.state)?,
            arena: allocate(bytes.arena)?,
            input: (0..slots).map(|_| allocate(bytes.input)).collect::<Result<_>>()?,
            output: (0..slots).map(|_| allocate(bytes.output)).collect::<Result<_>>()?,
        })
    }

    fn region(&mut self, region: Region, slot: usize) -> &mut [u8] {
        bytemuck::cast_slice_mut(match region {
            Region::State => &mut self.state,
            Region::Arena => &mut self.arena,
            Region::In => &mut self.input[slot],
            Region::Out => &mut self.output[slot],
        })
    }

    pub fn bytes_mut(&mut self, region: Region, slot: usize, offset: u64, len: usize) -> Result<&mut [u8]> {
        let whole = self.region(region, slot);
        let have = whole.len();
        let end = (offset as usize).checked_add(len);
        end.and_then(|end| whole.get_mut(offset as usize..end)).ok_or_else(|| {
            Error::shape("cpu", format!("{len} bytes at {offset} lie outside of {region:?} with its {have} bytes"))
        })
    }

    fn span(&mut self, s: Span, slot: usize) -> &mut [u8] {
        &mut self.region(s.region, slot)[s.offset as usize..(s.offset + s.bytes) as usize]
    }

    pub fn fill(&mut self, to: Span, slot: usize, value: f32) {
        bytemuck::cast_slice_mut::<u8, f32>(self.span(to, slot)).fill(value);
    }

    pub fn copy(&mut self, from: Span, to: Span, slot: usize) {
        if from.region == to.region {
            let (begin, end) = (from.offset as usize, (from.offset + from.bytes) as usize);
            self.region(from.region, slot).copy_within(begin..end, to.offset as usize);
        } else {
            let source: *const u8 = self.span(from, slot).as_ptr();
            // SAFETY: the regions are different allocations, so source and target cannot overlap; both spans were
            // bounds-checked as slices of equal length.
            let source = unsafe { std::slice::from_raw_parts(source, from.bytes as usize) };
            self.span(to, slot).copy_from_slice(source);
        }
    }

    /// The arguments of a launch. [`check`] has proved at load time that what is written is disjoint from everything
    /// else in the launch, or identical with a read operand, which then arrives as `Overwritten`.
    pub fn args(&mut self, l: &LaunchCommand, slot: usize) -> Vec<CpuArg<'_>> {
        let mut args = Vec::with_capacity(l.args.len());
        for (i, (formal, span)) in l.kernel.operands.iter().zip(&l.args).enumerate() {
            let Some(span) = span else {
                args.push(CpuArg::Absent);
                continue;
            };
            if overwritten(l, i) {
                args.push(CpuArg::Overwritten);
                continue;
            }
            let len = (span.bytes / 4) as usize;
            let at: *mut u8 = self.span(*span, slot).as_mut_ptr();
            // SAFETY: `span` is in bounds (sliced above), its offset is a multiple of 256 in memory aligned to 256,
            // every bit pattern is a valid f32 or u32, and by `check` no other argument overlaps a written one. The
            // borrow of `self` keeps the regions alive and untouched while the slices exist.
            args.push(unsafe {
                match (formal.dtype, formal.access) {
                    (DType::F32, Access::Read) => CpuArg::F32(std::slice::from_raw_parts(at.cast(), len)),
                    (DType::F32, _) => CpuArg::F32Mut(std::slice::from_raw_parts_mut(at.cast(), len)),
                    (DType::U32, Access::Read) => CpuArg::U32(std::slice::from_raw_parts(at.cast(), len)),
                    (DType::U32, _) => CpuArg::U32Mut(std::slice::from_raw_parts_mut(at.cast(), len)),
                }
            });
        }
        args
    }
}

/// Whether read operand `i` lies exactly where the launch writes.
fn overwritten(l: &LaunchCommand, i: usize) -> bool {
    l.kernel.operands[i].access == Access::Read
        && (l.kernel.operands.iter().zip(&l.args)).any(|(f, a)| f.access != Access::Read && *a == l.args[i])
}

/// Proves what [`Memory::args`] relies on.
pub fn check(plan: &Plan, bytes: RegionBytes) -> Result<()> {
    let bad = |what: String| Err(Error::shape(format!("plan {}", plan.name), what));
    for command in &plan.commands {
        let spans: Vec<Span> = match command {
            Command::Launch(l) => l.args.iter().flatten().copied().collect(),
            Command::Copy { from, to } if from.bytes != to.bytes => return bad(format!("copy {from:?} to {to:?}")),
            Command::Copy { from, to } => vec![*from, *to],
            Command::Fill { to, .. } => vec![*to],
        };
        // A gap of a pack begins where a part ends, at any element; everything else is a tensor.
        let unit = if matches!(command, Command::Fill { .. }) { 4 } else { ALIGN };
        if let Some(s) = spans.iter().find(|s| s.offset % unit != 0 || s.offset + s.bytes > bytes.of(s.region)) {
            return bad(format!("{s:?} is unaligned or outside of its region"));
        }
        let Command::Launch(l) = command else { continue };
        for (i, (f, a)) in l.kernel.operands.iter().zip(&l.args).enumerate() {
            let (Some(a), true) = (a, f.access != Access::Read) else { continue };
            for (k, (other, b)) in l.kernel.operands.iter().zip(&l.args).enumerate() {
                let Some(b) = b.as_ref().filter(|b| k != i && a.bytes > 0 && b.bytes > 0) else { continue };
                if a.overlaps(b) && !(a == b && other.access == Access::Read) {
                    return bad(format!("{} and {} of {} overlap", f.name, other.name, l.kernel.name));
                }
            }
        }
    }
    Ok(())
}

/// A matrix in memory: element (r, c) is `data[r * row + c * col]`.
#[derive(Copy, Clone)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

/// A row-major matrix to write.
pub struct MatrixMut<'a> {
    pub data: &'a mut [f32],
    pub row: usize,
}

fn reaches(rows: usize, cols: usize, row: usize, col: usize, len: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row + (cols - 1) * col < len
}

/// `c[m, n] = beta · c + a[m, k] · b[k, n]`, with f32 accumulation in an order that depends on the sizes alone. For
/// tasks: uses the calling thread only.
///
/// # Panics
/// When a matrix reaches beyond its data.
pub fn matmul(m: usize, n: usize, k: usize, c: MatrixMut, beta: f32, a: Matrix, b: Matrix) {
    product([m, n, k], c, beta, a, b, gemm::Parallelism::None);
}

/// [`matmul`] by all threads of the pool: tiles of `c` are divided among them, `k` is not, so that their number changes
/// no bit.
///
/// # Panics
/// When a matrix reaches beyond its data.
pub fn matmul_by_all(m: usize, n: usize, k: usize, c: MatrixMut, beta: f32, a: Matrix, b: Matrix) {
    product([m, n, k], c, beta, a, b, gemm::Parallelism::Rayon(0));
}

fn product([m, n, k]: [usize; 3], c: MatrixMut, beta: f32, a: Matrix, b: Matrix, threads: gemm::Parallelism) {
    assert!(
        reaches(m, n, c.row, 1, c.data.len())
            && reaches(m, k, a.row, a.col, a.data.len())
            && reaches(k, n, b.row, b.col, b.data.len()),
        "matrix outside of its data"
    );
    // SAFETY: every element that the sizes and strides reach was just checked to lie within the slices; `c` is
    // borrowed mutably and so does not alias `a` or `b`. With beta 0 gemm does not read `c`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            1,
            c.row as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            beta,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_product() {
        let seed = crate::seed::seed();
        let random = Random::new(seed, 1);
        for (round, [m, n, k]) in
            [[301, 257, 515], [1536, 512, 512], [128, 96, 4100], [1031, 1, 300]].into_iter().enumerate()
        {
            let values = |stream: usize, count: usize| -> Vec<f32> {
                (0..count).map(|i| random.normal((round * 4 + stream) as u64 * (1 << 32) + i as u64)).collect()
            };
            let (a, b) = (values(0, m * k), values(1, k * n));
            for (a_t, b_t) in [(false, false), (false, true), (true, false)] {
                let a = if a_t { Matrix { data: &a, row: 1, col: m } } else { Matrix { data: &a, row: k, col: 1 } };
                let b = if b_t { Matrix { data: &b, row: 1, col: k } } else { Matrix { data: &b, row: n, col: 1 } };
                let by = |threads: usize| {
                    let mut c = vec![f32::NAN; m * n];
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| matmul_by_all(m, n, k, MatrixMut { data: &mut c, row: n }, 0.0, a, b));
                    c.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
                };
                let one = by(1);
                for threads in [2, 3, 7] {
                    assert!(by(threads) == one, "seed {seed}: {m} x {n} x {k}, {a_t} {b_t}, {threads} threads");
                }
            }
        }
    }
}
