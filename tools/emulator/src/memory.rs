//! Device memory: allocations far apart, and the shadows in which races between threads show.
//!
//! Addresses are made up: nothing of the process lies there, an allocation is never put where another one was, and
//! between two of them is a gap, so that every stray access is noticed.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::program::POISON;

/// Where device memory begins, and the least distance between the ends of two allocations.
const DEVICE_BASE: u64 = 4 << 48;
const GAP: u64 = 1 << 36;
/// Alignment of allocations in the process: that of the driver's.
const ALIGN: usize = 256;

/// Bytes that may be touched by several threads: access is by raw pointers, checked before.
struct Bytes {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to this value; kernels access it through atomics.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Zeros, or `None` where there is no memory.
    fn zeroed(length: usize) -> Option<Bytes> {
        let layout = Layout::from_size_align(length.max(1), ALIGN).ok()?;
        // SAFETY: the layout has a size.
        let at = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Bytes { at, layout })
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { std::alloc::dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// For every grain of an allocation, who wrote it last and who read it last in the present launch.
pub struct Shadow {
    bytes: Bytes,
    grains: usize,
}

impl Shadow {
    fn new(length: u64, grain: u32) -> Option<Shadow> {
        let grains = usize::try_from(length.div_ceil(u64::from(grain))).ok()?;
        Some(Shadow { bytes: Bytes::zeroed(grains.checked_mul(16)?)?, grains })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: two words for each grain were allocated, zeroed and aligned.
        unsafe { std::slice::from_raw_parts(self.bytes.at.as_ptr().cast(), self.grains * 2) }
    }
}

struct Allocation {
    /// Of the device's own, or memory of the host at its own address.
    own: Option<Bytes>,
    at: *mut u8,
    length: u64,
    constant: bool,
    /// By grain: 1, 2, 4.
    shadows: [Option<Shadow>; 3],
}

// SAFETY: `at` points into `own`, or into pinned memory that stays until it is removed from here.
unsafe impl Send for Allocation {}

/// What a launch sees of an allocation.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    pub base: u64,
    pub length: u64,
    pub at: *mut u8,
    pub constant: bool,
    pub shadow: Option<&'a [AtomicU64]>,
}

// SAFETY: a region is read and written through atomics only, while the allocation is borrowed.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

pub struct Memory {
    allocations: BTreeMap<u64, Allocation>,
    /// Base and length of what was freed.
    freed: BTreeMap<u64, u64>,
    next: u64,
    pub limit: u64,
    pub used: u64,
    launches: u64,
}

/// Freed allocations that are remembered for messages.
const FREED_LIMIT: usize = 256;
/// Launches are told apart by this many bits of a tag.
const LAUNCH_BITS: u32 = 14;

impl Memory {
    pub fn new(limit: u64) -> Memory {
        Memory { allocations: BTreeMap::new(), freed: BTreeMap::new(), next: DEVICE_BASE, limit, used: 0, launches: 0 }
    }

    /// New memory of `length` bytes, full of poison; `None` where there is not enough.
    pub fn allocate(&mut self, length: u64) -> Option<u64> {
        let used = self.used.checked_add(length.next_multiple_of(512)).filter(|&u| u <= self.limit)?;
        let own = Bytes::zeroed(usize::try_from(length.next_multiple_of(4)).ok()?)?;
        let words = length.next_multiple_of(4) as usize / 4;
        // SAFETY: that many words were just allocated.
        unsafe { std::slice::from_raw_parts_mut(own.at.as_ptr().cast::<u32>(), words) }.fill(POISON);
        let base = self.next;
        self.next = base.checked_add(length)?.checked_add(GAP)?.next_multiple_of(GAP);
        self.used = used;
        let at = own.at.as_ptr();
        let shadows = [None, None, None];
        self.allocations.insert(base, Allocation { own: Some(own), at, length, constant: false, shadows });
        Some(base)
    }

    /// A variable of a module; it does not count against the limit.
    pub fn variable(&mut self, bytes: &[u8], constant: bool) -> Option<u64> {
        let (limit, used) = (self.limit, self.used);
        self.limit = u64::MAX;
        let base = self.allocate(bytes.len() as u64);
        (self.limit, self.used) = (limit, used);
        let base = base?;
        self.write(base, bytes).ok()?;
        if let Some(allocation) = self.allocations.get_mut(&base) {
            allocation.constant = constant;
        }
        Some(base)
    }

    pub fn free_variable(&mut self, base: u64) {
        self.allocations.remove(&base);
    }

    /// False where `base` is no allocation.
    pub fn free(&mut self, base: u64) -> bool {
        if !self.allocations.get(&base).is_some_and(|a| a.own.is_some() && !a.constant) {
            return false;
        }
        if let Some(allocation) = self.allocations.remove(&base) {
            self.used = self.used.saturating_sub(allocation.length.next_multiple_of(512));
            self.freed.insert(base, allocation.length);
            if self.freed.len() > FREED_LIMIT {
                self.freed.pop_first();
            }
        }
        true
    }

    /// Pinned memory of the host, which kernels may use at its own address.
    ///
    /// # Safety
    /// It must stay until `remove_host`.
    pub unsafe fn add_host(&mut self, at: *mut u8, length: u64) {
        let allocation = Allocation { own: None, at, length, constant: false, shadows: [None, None, None] };
        self.allocations.insert(at as u64, allocation);
    }

    pub fn remove_host(&mut self, at: u64) {
        self.allocations.remove(&at);
    }

    /// Whether all bytes lie in one piece of pinned memory.
    pub fn is_host(&self, at: u64, length: u64) -> bool {
        self.find(at, length).is_ok_and(|(a, _)| a.own.is_none())
    }

    fn find(&self, at: u64, length: u64) -> Result<(&Allocation, u64), String> {
        if let Some((base, allocation)) = self.allocations.range((Bound::Unbounded, Bound::Included(at))).next_back() {
            let offset = at - base;
            if offset.checked_add(length).is_some_and(|end| end <= allocation.length) {
                return Ok((allocation, offset));
            }
        }
        Err(self.book().describe(at, length))
    }

    /// What is known about all addresses.
    pub fn book(&self) -> Book {
        let live = self.allocations.iter().map(|(&base, a)| (base, a.length)).collect();
        Book { live, freed: self.freed.iter().map(|(&base, &length)| (base, length)).collect() }
    }

    /// Checks that a range is one allocation's.
    pub fn check(&self, at: u64, length: u64) -> Result<(), String> {
        self.find(at, length).map(|_| ())
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        let (a, offset) = self.find(at, bytes.len() as u64)?;
        // SAFETY: the range was checked, nothing else runs, and the source is no part of it (it is a slice).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), a.at.add(offset as usize), bytes.len()) };
        Ok(())
    }

    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), String> {
        let (a, offset) = self.find(at, bytes.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(a.at.add(offset as usize), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    pub fn copy(&mut self, to: u64, from: u64, length: u64) -> Result<(), String> {
        let (source, from) = self.find(from, length)?;
        let (target, to) = self.find(to, length)?;
        // SAFETY: both ranges were checked; they may overlap.
        unsafe { std::ptr::copy(source.at.add(from as usize), target.at.add(to as usize), length as usize) };
        Ok(())
    }

    /// Repeats `pattern` (1 to 4 bytes) over `count` places.
    pub fn fill(&mut self, at: u64, pattern: &[u8], count: u64) -> Result<(), String> {
        let length = count.checked_mul(pattern.len() as u64).ok_or("more bytes than there are")?;
        let (a, offset) = self.find(at, length)?;
        // SAFETY: the range was checked and nothing else runs.
        let bytes = unsafe { std::slice::from_raw_parts_mut(a.at.add(offset as usize), length as usize) };
        bytes.chunks_exact_mut(pattern.len()).for_each(|place| place.copy_from_slice(pattern));
        Ok(())
    }

    /// Everything as the next launch sees it, sorted by address, and that launch's number (from 1).
    pub fn regions(&mut self, grain: u32, races: bool) -> (Vec<Region<'_>>, u64) {
        self.launches += 1;
        let number = self.launches & ((1 << LAUNCH_BITS) - 1);
        if number == 0 {
            // Old tags would look like new ones.
            self.launches += 1;
            self.allocations.values_mut().for_each(|a| a.shadows = [None, None, None]);
        }
        let which = grain.trailing_zeros().min(2) as usize;
        for allocation in self.allocations.values_mut().filter(|a| races && !a.constant) {
            let shadow = &mut allocation.shadows[which];
            if shadow.is_none() {
                *shadow = Shadow::new(allocation.length, grain);
            }
        }
        let regions = self.allocations.iter().map(|(&base, a)| Region {
            base,
            length: a.length,
            at: a.at,
            constant: a.constant,
            shadow: a.shadows[which].as_ref().filter(|_| races && !a.constant).map(Shadow::words),
        });
        (regions.collect(), number.max(1))
    }
}

/// Base and length of the nearest allocation below (or at) an address, and of the one above.
type Neighbours = (Option<(u64, u64)>, Option<(u64, u64)>);

/// Bases and lengths of what is and of what was, sorted.
pub struct Book {
    live: Vec<(u64, u64)>,
    freed: Vec<(u64, u64)>,
}

impl Book {
    /// What there is to say about an address outside of all allocations.
    pub fn describe(&self, at: u64, length: u64) -> String {
        let below = |list: &[(u64, u64)]| {
            let n = list.partition_point(|&(base, _)| base <= at);
            (n.checked_sub(1).map(|n| list[n]), list.get(n).copied())
        };
        let (Some(freed), _) = below(&self.freed) else { return self.nearest(below(&self.live), at, length) };
        if at < freed.0 + freed.1 {
            return format!(
                "{length} bytes at offset {} of an allocation of {} bytes that was freed",
                at - freed.0,
                freed.1
            );
        }
        self.nearest(below(&self.live), at, length)
    }

    fn nearest(&self, around: Neighbours, at: u64, length: u64) -> String {
        match around {
            (Some((base, size)), _) if at - base < size + GAP / 2 => {
                format!("{length} bytes at offset {} of an allocation of {size} bytes", at - base)
            }
            (_, Some((base, size))) if base - at < GAP / 2 => {
                format!("{length} bytes at offset -{} of an allocation of {size} bytes", base - at)
            }
            _ => format!("{length} bytes at 0x{at:x}, where there is no allocation"),
        }
    }
}

/// Who touched a grain: launch, block, thread, barrier epoch, and whether by an atomic operation. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u64);

/// A block or a thread of which there were several.
const MANY: u64 = 1 << 63;
const EPOCH_LIMIT: u64 = (1 << 16) - 1;

impl Tag {
    /// Bits: many 1, atomic 1, launch 14, block 22, thread 10, epoch 16.
    pub fn new(launch: u64, block: u64, thread: u32, epoch: u32, atomic: bool) -> Tag {
        let epoch = u64::from(epoch).min(EPOCH_LIMIT);
        let block = block & ((1 << 22) - 1);
        let thread = u64::from(thread) & 1023;
        Tag(u64::from(atomic) << 62 | launch << 48 | block << 26 | thread << 16 | epoch)
    }

    fn launch(self) -> u64 {
        self.0 >> 48 & ((1 << LAUNCH_BITS) - 1)
    }

    fn block(self) -> u64 {
        self.0 >> 26 & ((1 << 22) - 1)
    }

    pub fn thread(self) -> u64 {
        self.0 >> 16 & 1023
    }

    fn epoch(self) -> u64 {
        self.0 & EPOCH_LIMIT
    }

    fn atomic(self) -> bool {
        self.0 >> 62 & 1 == 1
    }

    /// Whether nothing orders an access by `self` after the earlier one by `old`. Within a warp the order of a warp is
    /// taken for granted.
    fn races(self, old: Tag) -> bool {
        if old.launch() != self.launch() || (old.atomic() && self.atomic()) {
            return false;
        }
        if old.block() != self.block() || old.0 & MANY != 0 {
            return true;
        }
        old.thread() / 32 != self.thread() / 32 && old.epoch() == self.epoch() && self.epoch() != EPOCH_LIMIT
    }

    fn text(self, mine: Tag) -> String {
        if self.0 & MANY != 0 {
            "threads of several blocks".into()
        } else if self.block() != mine.block() {
            format!("thread {} of block {}", self.thread(), self.block())
        } else {
            format!("thread {} of this block", self.thread())
        }
    }
}

/// Notes a read of grains `from..to`; the race, if it is one. A `read_only` load must not see what this launch wrote.
#[inline]
pub fn note_read(shadow: &[AtomicU64], from: usize, to: usize, tag: Tag, read_only: bool) -> Result<(), String> {
    for pair in shadow[from * 2..to * 2].chunks_exact(2) {
        let writer = Tag(pair[0].load(Ordering::Relaxed));
        if read_only && writer.launch() == tag.launch() {
            return Err(format!("ld.global.nc of what {} wrote in the same launch", writer.text(tag)));
        }
        if tag.races(writer) {
            return Err(format!("a race: it was written by {} without a barrier between", writer.text(tag)));
        }
        let reader = Tag(pair[1].load(Ordering::Relaxed));
        let several = reader.launch() == tag.launch() && (reader.block() != tag.block() || reader.0 & MANY != 0);
        pair[1].store(tag.0 | if several { MANY } else { 0 }, Ordering::Relaxed);
    }
    Ok(())
}

/// Notes a write.
#[inline]
pub fn note_write(shadow: &[AtomicU64], from: usize, to: usize, tag: Tag) -> Result<(), String> {
    for pair in shadow[from * 2..to * 2].chunks_exact(2) {
        let writer = Tag(pair[0].load(Ordering::Relaxed));
        if tag.races(writer) {
            return Err(format!("a race: it was written by {} without a barrier between", writer.text(tag)));
        }
        let reader = Tag(pair[1].load(Ordering::Relaxed));
        if tag.races(reader) {
            return Err(format!("a race: it was read by {} without a barrier between", reader.text(tag)));
        }
        pair[0].store(tag.0, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_bounded_poisoned_and_freed_once() {
        let mut memory = Memory::new(4096);
        let a = memory.allocate(100).unwrap();
        let b = memory.allocate(1000).unwrap();
        assert!(b - a >= GAP && memory.allocate(4096).is_none());
        let mut word = [0; 4];
        memory.read(a, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), POISON);
        assert!(
            memory.check(a, 100).is_ok() && memory.check(a + 1, 100).is_err() && memory.check(a, u64::MAX).is_err()
        );
        assert!(memory.free(a) && !memory.free(a));
        assert!(memory.check(a, 1).unwrap_err().contains("freed"));
    }

    #[test]
    fn tags_tell_who_races() {
        let tag = |block, thread, epoch| Tag::new(3, block, thread, epoch, false);
        assert!(tag(0, 0, 0).races(tag(1, 0, 0)));
        assert!(tag(0, 0, 0).races(tag(0, 40, 0)));
        assert!(!tag(0, 0, 1).races(tag(0, 40, 0)));
        assert!(!tag(0, 0, 0).races(tag(0, 31, 0)));
        assert!(!tag(0, 0, 0).races(Tag::new(2, 1, 0, 0, false)));
        let atomic = |block| Tag::new(3, block, 0, 0, true);
        assert!(!atomic(0).races(atomic(1)) && atomic(0).races(tag(1, 0, 0)));
    }
}
