//! Streams batches through slots: a host thread packs the next batch while the device computes this one.
//!
//! Host buffers go round in a circle of bounded channels: who packs waits for a free buffer, who computes waits for a
//! packed one. Nothing is allocated after the start, and results come in the order of the jobs.
//!
//! ```text
//!   jobs ─► pack (thread) ─► packed ─► upload · submit (this thread) ─► results ─► done
//!              ▲                            │
//!              └──────── free buffers ◄─────┘
//! ```

use super::executor::{Executor, Outputs, SLOTS, SlotWriter};
use super::plan::{Plan, Region};
use crate::engine::tensor::Counts;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// A batch that is packed and waits for the device.
struct Packed<J> {
    job: J,
    plan: usize,
    counts: Counts,
    words: Vec<u32>,
}

/// A batch in the hands of the device.
struct Flying<J> {
    job: J,
    plan: usize,
    counts: Counts,
    slot: usize,
}

/// Batches in the hands of the device at once; the third slot is the one that is being uploaded to.
const IN_FLIGHT: usize = SLOTS - 1;

/// Runs `plan` on every job, in order, as [`alternate`] does.
///
/// # Errors
/// The first error of packing, running or `done`.
pub fn stream<J: Send>(
    executor: &mut Executor,
    plan: usize,
    jobs: impl Iterator<Item = J> + Send,
    pack: impl Fn(&J, &mut SlotWriter) -> Result<()> + Send + Sync,
    done: impl FnMut(J, &Outputs) -> Result<()>,
    stop: &AtomicBool,
) -> Result<()> {
    alternate(executor, |_| plan, jobs, pack, done, stop)
}

/// Runs every job, in order, on the plan that `plan` names for it. `pack` fills a slot on a thread of its own; `done`
/// receives the results. Plans follow each other on the device: what one leaves in states the next one finds.
///
/// Stops early, without an error, when `stop` becomes true: jobs that were submitted are still handed to `done`.
///
/// # Errors
/// The first error of packing, running or `done`.
pub fn alternate<J: Send>(
    executor: &mut Executor,
    plan: impl Fn(&J) -> usize + Send,
    jobs: impl Iterator<Item = J> + Send,
    pack: impl Fn(&J, &mut SlotWriter) -> Result<()> + Send + Sync,
    mut done: impl FnMut(J, &Outputs) -> Result<()>,
    stop: &AtomicBool,
) -> Result<()> {
    let plans: Vec<Arc<Plan>> = executor.plans().to_vec();
    let packer_plans = plans.clone();
    let (free, free_buffers) = sync_channel::<Vec<u32>>(SLOTS);
    let (packed, packed_batches) = sync_channel::<Result<Packed<J>>>(1);
    for buffer in executor.lend_staging() {
        // Cannot fail: the channel holds as many and its receiver is alive.
        let _ = free.send(buffer);
    }
    let largest = plans.iter().map(|p| p.bytes.output).max().unwrap_or(0);
    let mut results = executor.lend_results(largest);
    let staging = std::thread::scope(|scope| {
        // Dropped with this closure, before the packer is joined: a packer that waits for a buffer then ends.
        let free = free;
        let packer = scope.spawn(move || {
            for job in jobs {
                // Either channel closes when the owner has stopped; then there is nobody to pack for.
                let Ok(mut words) = free_buffers.recv() else { break };
                let plan = plan(&job);
                let mut writer = SlotWriter::new(&packer_plans[plan], &mut words);
                let filled = pack(&job, &mut writer);
                let counts = writer.counts;
                let filled = filled.and_then(|()| packer_plans[plan].check_counts(&counts));
                let failed = filled.is_err();
                if packed.send(filled.map(|()| Packed { job, plan, counts, words })).is_err() || failed {
                    break;
                }
            }
            free_buffers
        });
        let mut flying: VecDeque<Flying<J>> = VecDeque::new();
        let mut land = |executor: &mut Executor, flying: &mut VecDeque<Flying<J>>| -> Result<()> {
            let Some(Flying { job, plan, counts, slot }) = flying.pop_front() else { return Ok(()) };
            let p = &plans[plan];
            let read = &mut results[..(p.bytes.output / 4) as usize];
            executor.backend().read(Region::Out, slot, 0, bytemuck::cast_slice_mut(read))?;
            done(job, &Outputs { plan: p, words: &results, counts })
        };
        for (number, batch) in packed_batches.into_iter().enumerate() {
            let Packed { job, plan, counts, words } = batch?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if flying.len() == IN_FLIGHT {
                land(executor, &mut flying)?;
            }
            let slot = number % SLOTS;
            let staged = &words[..(plans[plan].bytes.input / 4) as usize];
            executor.backend().write(Region::In, slot, 0, bytemuck::cast_slice(staged))?;
            executor.backend().submit(plan, slot, counts)?;
            flying.push_back(Flying { job, plan, counts, slot });
            // Never fails while the packer may still want one: it keeps its end until it is joined.
            let _ = free.send(words);
        }
        while !flying.is_empty() {
            land(executor, &mut flying)?;
        }
        drop(free);
        // A packer that panicked has left jobs undone: that must not look like an end.
        let channel = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let buffers = channel.try_iter().collect::<Vec<_>>();
        Ok::<_, Error>(buffers)
    })?;
    executor.return_staging(staging);
    executor.return_results(results);
    Ok(())
}
