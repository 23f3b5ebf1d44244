//! The CPU back end: the same plans, run by Rust functions around `gemm` and rayon.
//!
//! A kernel divides its work into parts of a fixed size, never by the number of threads: the same seed gives the same
//! bits with one thread and with many.

pub mod attention;
pub mod balance;
pub mod contrast;
pub mod conv;
pub mod divergence;
pub mod experts;
pub mod gather;
pub mod gram;
pub mod grouped;
pub mod int8;
pub mod interact;
pub mod lanes;
pub mod linear;
pub mod margin;
pub mod norm;
pub mod optim;
pub mod pointwise;
pub mod quant;
mod raw;
pub mod reduce;
pub mod route;
pub mod rows;
pub mod segment;
pub mod topk;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) use raw::check as check_plan;
pub use raw::{Matrix, MatrixMut, matmul, matmul_by_all};

use super::{Backend, DeviceInfo, DeviceKind};
use crate::engine::op::{Ctx, Params, Precision, Target, resolve_size};
use crate::engine::scheduler::plan::{Command, Plan, Region, RegionBytes};
use crate::engine::tensor::Counts;
use crate::error::{Error, Result};
use raw::Memory;
use std::sync::Arc;

/// A kernel: reads and writes the call's arguments.
pub type CpuKernel = fn(&mut Call);

/// An argument of a kernel, at full capacity.
#[derive(Debug, Default)]
pub enum CpuArg<'a> {
    F32(&'a [f32]),
    F32Mut(&'a mut [f32]),
    U32(&'a [u32]),
    U32Mut(&'a mut [u32]),
    /// An input that an output has taken the place of: the kernel finds its values in the output.
    Overwritten,
    #[default]
    Absent,
}

impl<'a> CpuArg<'a> {
    /// The values; empty when the operand is absent or overwritten.
    pub fn f32(&self) -> &[f32] {
        match self {
            CpuArg::F32(x) => x,
            CpuArg::F32Mut(x) => x,
            _ => &[],
        }
    }
    pub fn into_f32(self) -> &'a [f32] {
        match self {
            CpuArg::F32(x) => x,
            CpuArg::F32Mut(x) => x,
            _ => &[],
        }
    }
    pub fn u32(&self) -> &[u32] {
        match self {
            CpuArg::U32(x) => x,
            CpuArg::U32Mut(x) => x,
            _ => &[],
        }
    }
    /// The values to write; empty when nobody wants them.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        match self {
            CpuArg::F32Mut(x) => x,
            _ => &mut [],
        }
    }
    pub fn u32_mut(&mut self) -> &mut [u32] {
        match self {
            CpuArg::U32Mut(x) => x,
            _ => &mut [],
        }
    }
    pub fn is_overwritten(&self) -> bool {
        matches!(self, CpuArg::Overwritten)
    }
    pub fn is_absent(&self) -> bool {
        matches!(self, CpuArg::Absent)
    }
}

/// One run of one kernel.
pub struct Call<'a> {
    params: &'a Params,
    counts: &'a Counts,
    args: Vec<CpuArg<'a>>,
}

impl<'a> Call<'a> {
    /// Takes the arguments out, in the order of the kernel's operands.
    pub fn args<const N: usize>(&mut self) -> [CpuArg<'a>; N] {
        debug_assert_eq!(self.args.len(), N);
        let mut args = std::mem::take(&mut self.args).into_iter();
        std::array::from_fn(|_| args.next().unwrap_or_default())
    }
    /// Parameter `i` as a length, resolved from the batch's counts.
    pub fn size(&self, i: usize) -> usize {
        resolve_size(self.params.words()[i], self.counts)
    }
    pub fn u32(&self, i: usize) -> u32 {
        self.params.words()[i]
    }
    pub fn f32(&self, i: usize) -> f32 {
        f32::from_bits(self.params.words()[i])
    }
}

/// The CPU as a device.
pub struct Cpu {
    pool: rayon::ThreadPool,
    threads: usize,
    precision: Precision,
    plans: Vec<Arc<Plan>>,
    memory: Memory,
}

impl Cpu {
    /// `threads` 0 means all cores.
    pub fn new(threads: usize) -> Result<Cpu> {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("moviola-cpu-{i}"))
            .build()
            .map_err(|e| Error::device("cpu", e.to_string(), "allow this process more threads"))?;
        Ok(Cpu { pool, threads, precision: Precision::F32, plans: vec![], memory: Memory::default() })
    }

    /// The same device with products in f32 or int8.
    pub fn with(self, precision: Precision) -> Cpu {
        Cpu { precision, ..self }
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("cpu ({} threads{})", self.threads, self.precision.told())
    }

    fn ctx(&self) -> Ctx {
        Ctx { target: Target::Cpu, precision: self.precision, max_binding_bytes: u64::MAX, threads: self.threads }
    }

    fn memory(&self) -> u64 {
        available_memory()
    }

    fn load(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<()> {
        for plan in plans {
            raw::check(plan, bytes)?;
        }
        self.memory = Memory::new(bytes, slots)?;
        self.plans = plans.to_vec();
        Ok(())
    }

    fn write(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<()> {
        self.memory.bytes_mut(region, slot, offset, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn read(&mut self, region: Region, slot: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        data.copy_from_slice(self.memory.bytes_mut(region, slot, offset, data.len())?);
        Ok(())
    }

    fn submit(&mut self, plan: usize, slot: usize, counts: Counts) -> Result<()> {
        let plan = self.plans[plan].clone();
        plan.check_counts(&counts)?;
        let memory = &mut self.memory;
        self.pool.install(|| {
            for command in &plan.commands {
                match command {
                    Command::Launch(l) => {
                        let Some(kernel) = l.kernel.cpu else { continue };
                        let args = memory.args(l, slot);
                        kernel(&mut Call { params: &l.params, counts: &counts, args });
                    }
                    Command::Copy { from, to } => memory.copy(*from, *to, slot),
                    Command::Fill { to, value } => memory.fill(*to, slot, *value),
                }
            }
        });
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The CPU as `doctor` lists it.
pub fn describe() -> DeviceInfo {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        id: "cpu".into(),
        kind: DeviceKind::Cpu,
        available: true,
        description: format!("{cores} threads, {}", std::env::consts::ARCH),
        memory: Some(available_memory()).filter(|bytes| *bytes < u64::MAX),
        max_buffer_bytes: None,
        max_binding_bytes: None,
        advice: None,
    }
}

/// Bytes this process may still take: what the system has available, within the control group's limit.
pub(super) fn available_memory() -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|s| s.trim().parse::<u64>().ok());
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|s| {
        let line = s.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    });
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, now)| max.saturating_sub(now));
    // Where the system does not say, nothing is refused up front.
    system.unwrap_or(u64::MAX).min(group.unwrap_or(u64::MAX))
}
