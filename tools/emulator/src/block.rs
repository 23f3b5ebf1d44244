//! A block: its warps take turns between barriers.

use std::cell::Cell;

use crate::alu::{Level, put};
use crate::fault::{Fault, Kind, Report};
use crate::memory::Region;
use crate::program::{Kernel, LANES, Module, Reduce};
use crate::shared::Shared;
use crate::warp::{Stop, Warp};

/// What the threads of a block see of the launch.
pub struct Env<'a> {
    pub kernel: &'a Kernel,
    pub module: &'a Module,
    pub params: &'a [u8],
    /// Addresses of the module's variables.
    pub variables: &'a [u64],
    pub regions: &'a [Region<'a>],
    /// What there is to say about an address outside of all regions.
    pub describe: &'a (dyn Fn(u64, u64) -> String + Sync),
    pub last_region: Cell<usize>,
    pub level: Level,
    pub most_instructions: u64,
    pub launch: u64,
    pub threads: [u32; 3],
    pub blocks: [u32; 3],
    pub block: [u32; 3],
    pub block_number: u64,
}

/// The memory that a block needs; it is used again by the next one.
pub struct Block {
    warps: Vec<Warp>,
    shared: Shared,
}

impl Block {
    pub fn new(races: bool) -> Block {
        Block { warps: Vec::new(), shared: Shared::new(races) }
    }

    /// Runs one block to its end; instructions times lanes.
    pub fn run(&mut self, env: &Env) -> Result<u64, Box<Report>> {
        let threads: u32 = env.threads.iter().product();
        let count = threads.div_ceil(LANES as u32);
        self.warps.truncate(count as usize);
        while self.warps.len() < count as usize {
            self.warps.push(Warp::new(self.warps.len() as u32));
        }
        self.shared.reset(env.kernel.shared_bytes, env.kernel.shared_grain);
        for warp in &mut self.warps {
            warp.reset(env, threads);
            warp.executed = 0;
        }
        let mut barrier = 0u32;
        while self.phase(env, barrier)? {
            barrier += 1;
        }
        Ok(self.warps.iter().map(|w| w.executed).sum())
    }

    /// All warps to the next barrier; false where all have ended.
    fn phase(&mut self, env: &Env, barrier: u32) -> Result<bool, Box<Report>> {
        let mut waiting: Option<(u32, u32, u32)> = None;
        let mut arrived = Vec::with_capacity(self.warps.len());
        for w in 0..self.warps.len() {
            let warp = &mut self.warps[w];
            let stop = warp.run(env, &mut self.shared, barrier).map_err(|f| report(env, warp, warp.pc(), *f))?;
            let Stop::Barrier { number, pc } = stop else { continue };
            arrived.push(w);
            match waiting {
                None => waiting = Some((number, pc, warp.index)),
                Some((_, other, index)) if other != pc => {
                    let line = env.kernel.code.get(other as usize).map_or(0, |i| i.line);
                    let what =
                        format!("a divergent barrier: warp {index} of the block waits at the one in line {line}");
                    let error = Fault { kind: Kind::LaunchFailed, lane: 0, what };
                    return Err(report(env, warp, pc, error));
                }
                Some(_) => {}
            }
        }
        self.reduce(&arrived);
        Ok(waiting.is_some())
    }

    /// The results of a `bar.red`.
    fn reduce(&mut self, arrived: &[usize]) {
        let parts: Vec<_> = arrived.iter().filter_map(|&w| self.warps[w].contribution.take().map(|c| (w, c))).collect();
        let count: u32 = parts.iter().map(|(_, c)| c.count).sum();
        let all = parts.iter().all(|(_, c)| c.count == c.mask.count_ones());
        for (w, c) in parts {
            let warp = &mut self.warps[w];
            let truth = |set: bool| if set { u32::MAX } else { 0 };
            match c.reduce {
                Reduce::Popc => put(&mut warp.regs, c.to, &[count; LANES], c.mask),
                Reduce::And => warp.set_pred(c.to, truth(all), c.mask),
                Reduce::Or => warp.set_pred(c.to, truth(count > 0), c.mask),
            }
        }
    }
}

/// Adds the place to a fault.
fn report(env: &Env, warp: &Warp, pc: u32, error: Fault) -> Box<Report> {
    let line = env.kernel.code.get(pc as usize).map_or(0, |i| i.line);
    Box::new(Report {
        kind: error.kind,
        kernel: env.kernel.name.clone(),
        block: env.block,
        thread: warp.thread(error.lane & 31),
        line,
        instruction: env.module.line(line).to_string(),
        what: error.what,
    })
}
