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

use super::executor::{Executor, Outputs, SLOTS, SlotWriter, host_buffer};
use super::plan::Region;
use crate::engine::tensor::Counts;
use crate::error::Result;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// A batch that is packed and waits for the device.
struct Packed<J> {
    job: J,
    counts: Counts,
    words: Vec<u32>,
}

/// Batches in the hands of the device at once; the third slot is the one that is being uploaded to.
const IN_FLIGHT: usize = SLOTS - 1;

/// Runs `plan` on every job, in order. `pack` fills a slot on a thread of its own; `done` receives the results.
///
/// Stops early, without an error, when `stop` becomes true: jobs that were submitted are still handed to `done`.
///
/// # Errors
/// The first error of packing, running or `done`.
pub fn stream<J: Send>(
    executor: &mut Executor,
    plan: usize,
    jobs: impl Iterator<Item = J> + Send,
    pack: impl Fn(&J, &mut SlotWriter) -> Result<()> + Send + Sync,
    mut done: impl FnMut(J, &Outputs) -> Result<()>,
    stop: &AtomicBool,
) -> Result<()> {
    let p = executor.plan(plan).clone();
    let packer_plan = p.clone();
    let (free, free_buffers) = sync_channel::<Vec<u32>>(SLOTS);
    let (packed, packed_batches) = sync_channel::<Result<Packed<J>>>(1);
    for _ in 0..SLOTS {
        // Cannot fail: the channel holds as many and its receiver is alive.
        let _ = free.send(host_buffer(p.bytes.input));
    }
    let mut results = host_buffer(p.bytes.output);
    std::thread::scope(|scope| {
        // Dropped with this closure, before the packer is joined: a packer that waits for a buffer then ends.
        let free = free;
        scope.spawn(move || {
            for job in jobs {
                // Either channel closes when the owner has stopped; then there is nobody to pack for.
                let Ok(mut words) = free_buffers.recv() else { return };
                let mut writer = SlotWriter::new(&packer_plan, &mut words);
                let filled = pack(&job, &mut writer);
                let counts = writer.counts;
                let filled = filled.and_then(|()| packer_plan.check_counts(&counts));
                let failed = filled.is_err();
                if packed.send(filled.map(|()| Packed { job, counts, words })).is_err() || failed {
                    return;
                }
            }
        });
        let mut flying: VecDeque<(J, Counts, usize)> = VecDeque::new();
        let mut next = 0;
        let mut land = |executor: &mut Executor, flying: &mut VecDeque<(J, Counts, usize)>| -> Result<()> {
            let Some((job, counts, slot)) = flying.pop_front() else { return Ok(()) };
            executor.backend().read(Region::Out, slot, 0, bytemuck::cast_slice_mut(&mut results))?;
            done(job, &Outputs { plan: &p, words: &results, counts })
        };
        for batch in packed_batches {
            let Packed { job, counts, words } = batch?;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if flying.len() == IN_FLIGHT {
                land(executor, &mut flying)?;
            }
            let slot = next % SLOTS;
            next += 1;
            executor.backend().write(Region::In, slot, 0, bytemuck::cast_slice(&words))?;
            executor.backend().submit(plan, slot, counts)?;
            flying.push_back((job, counts, slot));
            // Fails only when the packer has packed its last job.
            let _ = free.send(words);
        }
        while !flying.is_empty() {
            land(executor, &mut flying)?;
        }
        Ok(())
    })
}
