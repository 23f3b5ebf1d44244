//! A launch: all blocks of a grid, several at a time.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::alu::Level;
use crate::block::{Block, Env};
use crate::fault::Report;
use crate::memory::Memory;
use crate::program::{Kernel, Module, Op, Space};

/// What runs where.
pub struct Launch<'a> {
    pub module: &'a Module,
    pub kernel: &'a Kernel,
    /// Addresses of the module's variables.
    pub variables: &'a [u64],
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    /// `Kernel::param_bytes` bytes.
    pub params: &'a [u8],
}

/// A minute and more of a warp.
pub const MOST_INSTRUCTIONS: u64 = 20_000_000_000;

/// What the emulator looks for.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    pub shared_races: bool,
    pub global_races: bool,
    /// Copies happen as early as nothing forbids, instead of as late.
    pub hasty_copies: bool,
    /// Most thread-instructions of one warp; what runs longer is taken for an endless loop.
    pub most_instructions: u64,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { shared_races: true, global_races: true, hasty_copies: false, most_instructions: MOST_INSTRUCTIONS }
    }
}

/// Memory of blocks that have run, for those that come.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Block>>);

impl Pool {
    fn take(&self, checks: Checks) -> Block {
        let mut free = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        free.pop().unwrap_or_else(|| Block::new(checks.shared_races))
    }

    fn give(&self, block: Block) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(block);
    }
}

/// A kernel whose blocks see each other through atomics gives the same result only where they run one by one.
fn parallel(kernel: &Kernel) -> bool {
    !kernel.code.iter().any(|i| matches!(i.op, Op::Atom { access, .. } if access.space != Space::Shared))
}

/// Runs all blocks; instructions times lanes, or the first error.
pub fn run(memory: &mut Memory, pool: &Pool, checks: Checks, launch: &Launch) -> Result<u64, Box<Report>> {
    // A copy of what is known about addresses: the regions borrow the memory.
    let book = memory.book();
    let describe = |at: u64, length: u64| book.describe(at, length);
    let (regions, number) = memory.regions(launch.kernel.global_grain, checks.global_races);
    let [x, y, z] = launch.blocks.map(u64::from);
    let total = x * y * z;
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let first: Mutex<Option<Box<Report>>> = Mutex::new(None);
    let executed = AtomicU64::new(0);
    let level = Level::detect();
    let worker = || {
        let mut block = pool.take(checks);
        let mut env = Env {
            kernel: launch.kernel,
            module: launch.module,
            params: launch.params,
            variables: launch.variables,
            regions: &regions,
            describe: &describe,
            last_region: Cell::new(0),
            level,
            most_instructions: checks.most_instructions,
            launch: number,
            threads: launch.threads,
            blocks: launch.blocks,
            block: [0; 3],
            block_number: 0,
        };
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                break;
            }
            env.block_number = n;
            env.block = [n % x, n / x % y, n / x / y].map(|i| i as u32);
            match block.run(&env) {
                Ok(count) => {
                    executed.fetch_add(count, Ordering::Relaxed);
                }
                Err(report) => {
                    failed.store(true, Ordering::Relaxed);
                    first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(report);
                }
            }
        }
        pool.give(block);
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let workers = if parallel(launch.kernel) { cores.min(total) } else { 1 };
    if workers <= 1 {
        worker();
    } else {
        std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    }
    match first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(report) => Err(report),
        None => Ok(executed.into_inner()),
    }
}
