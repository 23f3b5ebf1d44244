//! Shared memory of a block: its bytes, which of them were written, and who touched what since the last barrier.

use crate::program::LANES;

/// When an access happened: by which thread, after how many barriers of the block and how many synchronisations of
/// the warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub thread: u32,
    pub barrier: u32,
    pub sync: u32,
}

impl Moment {
    fn warp(self) -> u32 {
        self.thread / LANES as u32
    }

    /// Whether nothing orders this access and an earlier one by another thread.
    fn races(self, old: Moment) -> bool {
        old.thread != self.thread && old.barrier == self.barrier && (old.warp() != self.warp() || old.sync == self.sync)
    }
}

/// Several threads since the last barrier: of one warp, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    None,
    SameWarp,
    AnyWarp,
}

/// The last accesses of one kind to a grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    moment: Moment,
    others: Others,
}

impl Last {
    const NEVER: Last = Last { moment: Moment { thread: 0, barrier: u32::MAX, sync: 0 }, others: Others::None };

    fn races(self, now: Moment) -> bool {
        match self.others {
            Others::None => now.races(self.moment),
            _ if self.moment.barrier != now.barrier => false,
            Others::SameWarp => self.moment.warp() != now.warp() || self.moment.sync == now.sync,
            Others::AnyWarp => true,
        }
    }

    /// Adds an access.
    fn add(&mut self, now: Moment) {
        let old = *self;
        let others = if old.moment.barrier != now.barrier {
            Others::None
        } else if old.others == Others::AnyWarp || old.moment.warp() != now.warp() {
            Others::AnyWarp
        } else if old.moment.sync != now.sync {
            // Earlier ones of this warp are ordered before all that its lanes still do.
            Others::None
        } else if old.others == Others::SameWarp || old.moment.thread != now.thread {
            Others::SameWarp
        } else {
            Others::None
        };
        *self = Last { moment: now, others };
    }
}

/// What is known about a grain: 1, 2 or 4 bytes.
#[derive(Clone, Copy, Debug)]
struct Grain {
    written: Last,
    read: Last,
    /// The last write was an atomic operation.
    atomic: bool,
    valid: bool,
    /// A `cp.async` to it is on its way.
    pending: bool,
}

const FRESH: Grain = Grain { written: Last::NEVER, read: Last::NEVER, atomic: false, valid: false, pending: false };

pub struct Shared {
    bytes: Vec<u8>,
    grains: Vec<Grain>,
    /// log2 of the grain's bytes.
    shift: u32,
    races: bool,
}

impl Shared {
    pub fn new(races: bool) -> Shared {
        Shared { bytes: Vec::new(), grains: Vec::new(), shift: 2, races }
    }

    /// As a block finds it.
    pub fn reset(&mut self, length: u32, grain: u32) {
        self.shift = grain.trailing_zeros();
        self.bytes.clear();
        self.bytes.resize(length as usize, 0xa5);
        self.grains.clear();
        self.grains.resize((length as usize).div_ceil(grain as usize), FRESH);
    }

    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    fn grains(&mut self, at: usize, size: usize) -> &mut [Grain] {
        &mut self.grains[at >> self.shift..=(at + size - 1) >> self.shift]
    }

    /// Notes a read of `size` bytes that lie within.
    #[inline]
    pub fn note_read(&mut self, at: usize, size: usize, now: Moment) -> Result<(), String> {
        let races = self.races;
        for grain in self.grains(at, size) {
            if grain.pending {
                return Err("a cp.async to it has not been waited for".into());
            }
            if !grain.valid {
                return Err("nothing was written there yet".into());
            }
            if races && grain.written.races(now) {
                return Err(race("written", grain.written, now));
            }
            grain.read.add(now);
        }
        Ok(())
    }

    /// Notes a write.
    #[inline]
    pub fn note_write(&mut self, at: usize, size: usize, now: Moment, atomic: bool) -> Result<(), String> {
        let races = self.races;
        for grain in self.grains(at, size) {
            if grain.pending {
                return Err("a cp.async to it has not been waited for".into());
            }
            if atomic && !grain.valid {
                return Err("nothing was written there yet".into());
            }
            if races && !(atomic && grain.atomic) && grain.written.races(now) {
                return Err(race("written", grain.written, now));
            }
            if races && grain.read.races(now) {
                return Err(race("read", grain.read, now));
            }
            if atomic && grain.atomic {
                grain.written.add(now);
            } else {
                grain.written = Last { moment: now, others: Others::None };
            }
            grain.atomic = atomic;
            grain.valid = true;
        }
        Ok(())
    }

    /// A copy begins: from now on nobody may touch the place.
    pub fn begin_copy(&mut self, at: usize, size: usize, now: Moment) -> Result<(), String> {
        let valid: Vec<bool> = self.grains(at, size).iter().map(|g| g.valid).collect();
        self.note_write(at, size, now, false)?;
        for (grain, valid) in self.grains(at, size).iter_mut().zip(valid) {
            grain.pending = true;
            grain.valid = valid;
        }
        Ok(())
    }

    /// A copy lands, as a write by the thread that waited.
    pub fn end_copy(&mut self, at: usize, bytes: &[u8], now: Moment) {
        for grain in self.grains(at, bytes.len()) {
            *grain = Grain { written: Last { moment: now, others: Others::None }, valid: true, ..FRESH };
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes, of a range that was checked.
    #[inline]
    pub fn load<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        out
    }

    #[inline]
    pub fn store(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cold]
fn race(how: &str, last: Last, now: Moment) -> String {
    let who = match last.others {
        Others::None => format!("thread {}", last.moment.thread),
        _ => format!("thread {} and others", last.moment.thread),
    };
    let missing = if last.moment.warp() == now.warp() { "a warp's synchronisation" } else { "a barrier" };
    format!("a race: it was {how} by {who} without {missing} between")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(thread: u32, barrier: u32, sync: u32) -> Moment {
        Moment { thread, barrier, sync }
    }

    fn memory() -> Shared {
        let mut shared = Shared::new(true);
        shared.reset(64, 4);
        shared
    }

    #[test]
    fn what_was_not_written_cannot_be_read() {
        let mut shared = memory();
        assert!(shared.note_read(4, 4, at(0, 0, 0)).is_err());
        shared.note_write(4, 4, at(0, 0, 0), false).unwrap();
        assert!(shared.note_read(4, 4, at(0, 0, 0)).is_ok());
        assert!(shared.note_read(4, 8, at(0, 0, 0)).is_err());
    }

    #[test]
    fn a_barrier_or_a_sync_of_the_warp_orders() {
        let mut shared = memory();
        shared.note_write(0, 4, at(0, 0, 0), false).unwrap();
        assert!(shared.note_read(0, 4, at(1, 0, 0)).is_err());
        assert!(shared.note_read(0, 4, at(33, 0, 5)).is_err());
        assert!(shared.note_read(0, 4, at(1, 0, 1)).is_ok());
        assert!(shared.note_read(0, 4, at(33, 1, 0)).is_ok());
    }

    #[test]
    fn a_write_after_reads_by_others_is_a_race() {
        let mut shared = memory();
        shared.note_write(0, 4, at(0, 0, 0), false).unwrap();
        shared.note_read(0, 4, at(40, 1, 0)).unwrap();
        shared.note_read(0, 4, at(0, 1, 0)).unwrap();
        // Thread 0 read it last, but thread 40 did too.
        assert!(shared.note_write(0, 4, at(0, 1, 0), false).is_err());
        assert!(shared.note_write(0, 4, at(0, 2, 0), false).is_ok());
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let mut shared = memory();
        shared.note_write(0, 4, at(0, 0, 0), false).unwrap();
        shared.note_write(0, 4, at(1, 1, 0), true).unwrap();
        shared.note_write(0, 4, at(70, 1, 0), true).unwrap();
        assert!(shared.note_read(0, 4, at(70, 1, 0)).is_err());
        assert!(shared.note_read(0, 4, at(70, 2, 0)).is_ok());
    }

    #[test]
    fn a_copy_under_way_is_out_of_bounds() {
        let mut shared = memory();
        shared.begin_copy(0, 16, at(0, 0, 0)).unwrap();
        assert!(shared.note_read(0, 4, at(0, 0, 0)).is_err());
        shared.end_copy(0, &[1; 16], at(0, 0, 0));
        assert!(shared.note_read(0, 4, at(0, 0, 0)).is_ok());
        assert!(shared.note_read(0, 4, at(50, 0, 0)).is_err());
        assert!(shared.begin_copy(0, 16, at(60, 0, 0)).is_err(), "thread 0 still reads it");
    }

    #[test]
    fn small_grains_keep_neighbours_apart() {
        let mut shared = Shared::new(true);
        shared.reset(8, 2);
        shared.note_write(0, 2, at(0, 0, 0), false).unwrap();
        shared.note_write(2, 2, at(1, 0, 0), false).unwrap();
        assert!(shared.note_read(0, 4, at(40, 1, 0)).is_ok());
    }
}
