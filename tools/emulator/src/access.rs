//! Loads, stores, atomic operations and copies of a warp, each checked before it happens.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::alu::{get64, put};
use crate::block::Env;
use crate::cvt::{Type, widen};
use crate::fault::{Fault, Kind, fault};
use crate::memory::{Region, Tag, note_read, note_write};
use crate::program::{Access, AtomOp, Instr, LANES, LOCAL_BASE, Op, Row, SHARED_BASE, Space};
use crate::shared::{Moment, Shared};
use crate::warp::Warp;

type Done = Result<(), Box<Fault>>;
type Bytes = [u8; 16];

/// Where the bytes of one lane are.
enum Target {
    Global { at: *mut u8, shadow: Option<(usize, usize)>, region: usize },
    Shared(usize),
    Local(usize),
    Param(usize),
}

fn active(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |l| mask >> l & 1 == 1)
}

/// Reads up to 16 bytes that other threads may write.
///
/// # Safety
/// `at..at + size` is memory of an allocation, aligned to `size` (1, 2, or a multiple of 4).
unsafe fn read_global(at: *mut u8, size: usize) -> Bytes {
    let mut out = [0; 16];
    // SAFETY: by the caller.
    unsafe {
        match size {
            1 => out[0] = AtomicU8::from_ptr(at).load(Ordering::Relaxed),
            2 => out[..2].copy_from_slice(&AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed).to_le_bytes()),
            _ => {
                for (n, word) in out.chunks_exact_mut(4).take(size / 4).enumerate() {
                    let value = AtomicU32::from_ptr(at.add(4 * n).cast()).load(Ordering::Relaxed);
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
    out
}

/// Writes them.
///
/// # Safety
/// As for `read_global`.
unsafe fn write_global(at: *mut u8, size: usize, bytes: &Bytes) {
    // SAFETY: by the caller.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(at).store(bytes[0], Ordering::Relaxed),
            2 => AtomicU16::from_ptr(at.cast()).store(u16::from_le_bytes([bytes[0], bytes[1]]), Ordering::Relaxed),
            _ => {
                for (n, word) in bytes.chunks_exact(4).take(size / 4).enumerate() {
                    let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    AtomicU32::from_ptr(at.add(4 * n).cast()).store(value, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Warp {
    pub fn moment(&self, lane: u32, barrier: u32) -> Moment {
        Moment { thread: self.thread(lane), barrier, sync: self.sync }
    }

    fn tag(&self, env: &Env, lane: u32, barrier: u32, atomic: bool) -> Tag {
        Tag::new(env.launch, env.block_number, self.thread(lane), barrier, atomic)
    }

    fn addresses(&self, row: u32, base: bool, wide: bool, offset: i64) -> [u64; LANES] {
        if !base {
            [offset as u64; LANES]
        } else if wide {
            get64(&self.regs, row).map(|a| a.wrapping_add_signed(offset))
        } else {
            self.row(row).map(|a| u64::from(a.wrapping_add(offset as u32)))
        }
    }

    /// Checks an access of one lane and finds its bytes.
    #[inline]
    fn target(
        &self,
        env: &Env,
        shared: &Shared,
        space: Space,
        address: u64,
        size: usize,
        lane: usize,
    ) -> Result<Target, Box<Fault>> {
        let l = lane as u32;
        if address & (size as u64 - 1) != 0 {
            return fault(Kind::MisalignedAddress, l, format!("0x{address:x} is not a multiple of {size}"));
        }
        let (space, address) = match space {
            Space::Generic if (SHARED_BASE..LOCAL_BASE).contains(&address) => (Space::Shared, address - SHARED_BASE),
            Space::Generic if (LOCAL_BASE..LOCAL_BASE << 1).contains(&address) => (Space::Local, address - LOCAL_BASE),
            space => (space, address),
        };
        let inside = |length: usize| address <= length as u64 && size as u64 <= length as u64 - address;
        match space {
            Space::Shared if inside(shared.length()) => Ok(Target::Shared(address as usize)),
            Space::Local if inside(env.kernel.local_bytes as usize) => {
                Ok(Target::Local(lane * env.kernel.local_bytes as usize + address as usize))
            }
            Space::Param if inside(env.params.len()) => Ok(Target::Param(address as usize)),
            Space::Shared => outside(l, size, address, "shared", shared.length()),
            Space::Local => outside(l, size, address, "local", env.kernel.local_bytes as usize),
            Space::Param => outside(l, size, address, "parameter", env.params.len()),
            _ => global(env, address, size, l),
        }
    }

    pub fn load(&mut self, env: &Env, shared: &mut Shared, barrier: u32, i: &Instr, access: Access, mask: u32) -> Done {
        let addresses = self.addresses(i.rows[4], access.base, access.wide, i.imm);
        let (each, count) = (usize::from(access.size), usize::from(access.count));
        if access.space == Space::Param && !access.base {
            return self.load_param(env, shared, i, access, addresses[0], mask);
        }
        for lane in active(mask) {
            let size = each * count;
            let bytes = match self.target(env, shared, access.space, addresses[lane], size, lane)? {
                Target::Global { at, shadow, region } => {
                    if let (Some((from, to)), Some(words)) = (shadow, env.regions[region].shadow) {
                        let tag = self.tag(env, lane as u32, barrier, false);
                        note_read(words, from, to, tag, access.read_only)
                            .or_else(|what| fault(Kind::LaunchFailed, lane as u32, what))?;
                    }
                    // SAFETY: `target` checked the range and the alignment.
                    unsafe { read_global(at, size) }
                }
                Target::Shared(at) => {
                    shared
                        .note_read(at, size, self.moment(lane as u32, barrier))
                        .or_else(|what| fault(Kind::LaunchFailed, lane as u32, what))?;
                    let mut bytes = [0; 16];
                    match size {
                        4 => bytes[..4].copy_from_slice(&shared.load::<4>(at)),
                        16 => bytes = shared.load::<16>(at),
                        8 => bytes[..8].copy_from_slice(&shared.load::<8>(at)),
                        2 => bytes[..2].copy_from_slice(&shared.load::<2>(at)),
                        _ => bytes[..1].copy_from_slice(&shared.load::<1>(at)),
                    }
                    bytes
                }
                Target::Local(at) => piece(&self.local, at, size),
                Target::Param(at) => piece(env.params, at, size),
            };
            if each == 4 && !access.register64 {
                for (word, row) in bytes.chunks_exact(4).zip(i.rows).take(count) {
                    self.regs[row as usize][lane] = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                }
                continue;
            }
            for n in 0..count {
                let value = extend(&bytes[n * each..], access);
                let row = i.rows[n] as usize;
                self.regs[row][lane] = value as u32;
                if access.register64 {
                    self.regs[row + 1][lane] = (value >> 32) as u32;
                }
            }
        }
        Ok(())
    }

    /// A parameter is the same for all lanes.
    fn load_param(&mut self, env: &Env, shared: &Shared, i: &Instr, access: Access, address: u64, mask: u32) -> Done {
        let (each, count) = (usize::from(access.size), usize::from(access.count));
        let lane = mask.trailing_zeros() as usize & 31;
        let Target::Param(at) = self.target(env, shared, Space::Param, address, each * count, lane)? else {
            return Ok(());
        };
        let bytes = piece(env.params, at, each * count);
        for n in 0..count {
            let value = extend(&bytes[n * each..], access);
            put(&mut self.regs, i.rows[n], &[value as u32; LANES], mask);
            if access.register64 {
                put(&mut self.regs, i.rows[n] + 1, &[(value >> 32) as u32; LANES], mask);
            }
        }
        Ok(())
    }

    pub fn store(
        &mut self,
        env: &Env,
        shared: &mut Shared,
        barrier: u32,
        i: &Instr,
        access: Access,
        mask: u32,
    ) -> Done {
        let addresses = self.addresses(i.rows[4], access.base, access.wide, i.imm);
        let (each, count) = (usize::from(access.size), usize::from(access.count));
        for lane in active(mask) {
            let mut bytes = [0; 16];
            for n in 0..count {
                let row = i.rows[n] as usize;
                let high = if access.size == 8 { self.regs[row + 1][lane] } else { 0 };
                let value = (u64::from(self.regs[row][lane]) | u64::from(high) << 32).to_le_bytes();
                bytes[n * each..(n + 1) * each].copy_from_slice(&value[..each]);
            }
            let size = each * count;
            match self.target(env, shared, access.space, addresses[lane], size, lane)? {
                Target::Global { at, shadow, region } => {
                    let region = &env.regions[region];
                    writable(region, lane)?;
                    if let (Some((from, to)), Some(words)) = (shadow, region.shadow) {
                        let tag = self.tag(env, lane as u32, barrier, false);
                        note_write(words, from, to, tag).or_else(|w| fault(Kind::LaunchFailed, lane as u32, w))?;
                    }
                    // SAFETY: `target` checked the range and the alignment.
                    unsafe { write_global(at, size, &bytes) }
                }
                Target::Shared(at) => {
                    shared
                        .note_write(at, size, self.moment(lane as u32, barrier), false)
                        .or_else(|what| fault(Kind::LaunchFailed, lane as u32, what))?;
                    shared.store(at, &bytes[..size]);
                }
                Target::Local(at) => self.local[at..at + size].copy_from_slice(&bytes[..size]),
                Target::Param(_) => return fault(Kind::IllegalAddress, lane as u32, "parameters cannot be written"),
            }
        }
        Ok(())
    }

    pub fn atomic(
        &mut self,
        env: &Env,
        shared: &mut Shared,
        barrier: u32,
        i: &Instr,
        (op, access, result): (AtomOp, Access, bool),
        mask: u32,
    ) -> Done {
        let addresses = self.addresses(i.rows[4], access.base, access.wide, i.imm);
        let size = usize::from(access.size);
        let value = |rows: &[Row], at: u32, lane: usize| {
            let high = if size == 8 { rows[at as usize + 1][lane] } else { 0 };
            u64::from(rows[at as usize][lane]) | u64::from(high) << 32
        };
        for lane in active(mask) {
            let a = value(&self.regs, i.rows[2], lane);
            let b = if op == AtomOp::Cas { value(&self.regs, i.rows[6], lane) } else { 0 };
            let old = match self.target(env, shared, access.space, addresses[lane], size, lane)? {
                Target::Global { at, shadow, region } => {
                    let region = &env.regions[region];
                    writable(region, lane)?;
                    if let (Some((from, to)), Some(words)) = (shadow, region.shadow) {
                        let tag = self.tag(env, lane as u32, barrier, true);
                        note_write(words, from, to, tag).or_else(|w| fault(Kind::LaunchFailed, lane as u32, w))?;
                    }
                    let update = |old: u64| Some(combine(op, access, old, a, b));
                    // SAFETY: `target` checked the range and the alignment.
                    let old = unsafe {
                        if size == 8 {
                            AtomicU64::from_ptr(at.cast()).fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
                        } else {
                            let update = |old: u32| update(u64::from(old)).map(|v| v as u32);
                            AtomicU32::from_ptr(at.cast())
                                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
                                .map(u64::from)
                                .map_err(u64::from)
                        }
                    };
                    old.unwrap_or_else(|same| same)
                }
                Target::Shared(at) => {
                    shared
                        .note_write(at, size, self.moment(lane as u32, barrier), true)
                        .or_else(|what| fault(Kind::LaunchFailed, lane as u32, what))?;
                    let old = if size == 8 {
                        u64::from_le_bytes(shared.load::<8>(at))
                    } else {
                        u64::from(u32::from_le_bytes(shared.load::<4>(at)))
                    };
                    shared.store(at, &combine(op, access, old, a, b).to_le_bytes()[..size]);
                    old
                }
                _ => {
                    return fault(
                        Kind::IllegalAddress,
                        lane as u32,
                        "an atomic operation outside of global and shared",
                    );
                }
            };
            if result {
                self.regs[i.rows[0] as usize][lane] = old as u32;
                if size == 8 {
                    self.regs[i.rows[0] as usize + 1][lane] = (old >> 32) as u32;
                }
            }
        }
        Ok(())
    }

    pub fn copy_async(&mut self, env: &Env, shared: &mut Shared, barrier: u32, i: &Instr, mask: u32) -> Done {
        let Op::CopyAsync { size, ragged, wide, base } = i.op else { return Ok(()) };
        let to = self.addresses(i.rows[4], base, wide, i.imm);
        let from = self.addresses(i.rows[0], true, true, i64::from(i.imm2));
        let length = usize::from(size);
        for lane in active(mask) {
            let l = lane as u32;
            let Target::Shared(at) = self.target(env, shared, Space::Shared, to[lane], length, lane)? else {
                return Ok(());
            };
            let wanted = if ragged { self.row(i.rows[2])[lane] as usize } else { length };
            if wanted > length {
                return fault(Kind::LaunchFailed, l, format!("{wanted} of {length} bytes"));
            }
            if from[lane] & (length as u64 - 1) != 0 {
                return fault(Kind::MisalignedAddress, l, format!("0x{:x} is not a multiple of {length}", from[lane]));
            }
            // What is not read is zero.
            let mut bytes = [0; 16];
            for n in (0..wanted).step_by(4) {
                let part = (wanted - n).min(4);
                let whole = if part == 4 { 4 } else { 1 };
                for k in (0..part).step_by(whole) {
                    let target = self.target(env, shared, Space::Global, from[lane] + (n + k) as u64, whole, lane)?;
                    if let Target::Global { at, shadow, region } = target {
                        if let (Some((from, to)), Some(words)) = (shadow, env.regions[region].shadow) {
                            let tag = self.tag(env, l, barrier, false);
                            note_read(words, from, to, tag, false).or_else(|w| fault(Kind::LaunchFailed, l, w))?;
                        }
                        // SAFETY: `target` checked the range and the alignment.
                        let word = unsafe { read_global(at, whole) };
                        bytes[n + k..n + k + whole].copy_from_slice(&word[..whole]);
                    }
                }
            }
            shared
                .begin_copy(at, length, self.moment(l, barrier))
                .or_else(|what| fault(Kind::LaunchFailed, l, what))?;
            self.copies.begin(l, at as u32, size, bytes);
        }
        Ok(())
    }

    pub fn copies_land(&mut self, shared: &mut Shared, barrier: u32, mask: u32, leave: Option<u32>) {
        for copy in self.copies.land(mask, leave) {
            let now = self.moment(copy.lane, barrier);
            shared.end_copy(copy.at as usize, &copy.bytes[..usize::from(copy.size)], now);
        }
    }

    /// Lanes 8n to 8n + 7 give the rows of matrix n; lane l receives elements 2 (l % 4) and the next of row l / 4, or
    /// of column l / 4 where transposed.
    pub fn ldmatrix(&mut self, shared: &mut Shared, barrier: u32, i: &Instr) -> Done {
        let Op::LdMatrix { count, transposed, wide, base } = i.op else { return Ok(()) };
        let addresses = self.addresses(i.rows[4], base, wide, i.imm);
        for matrix in 0..usize::from(count) {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = matrix * 8 + r;
                let address = addresses[lane];
                if address & 15 != 0 {
                    return fault(
                        Kind::MisalignedAddress,
                        lane as u32,
                        format!("0x{address:x} is not a multiple of 16"),
                    );
                }
                if address + 16 > shared.length() as u64 {
                    return outside(lane as u32, 16, address, "shared", shared.length());
                }
                shared
                    .note_read(address as usize, 16, self.moment(lane as u32, barrier))
                    .or_else(|what| fault(Kind::LaunchFailed, lane as u32, what))?;
                let bytes = shared.load::<16>(address as usize);
                *row = std::array::from_fn(|k| u16::from_le_bytes([bytes[2 * k], bytes[2 * k + 1]]));
            }
            self.regs[i.rows[matrix] as usize] = std::array::from_fn(|lane| {
                let (r, c) = (lane / 4, lane % 4 * 2);
                let pair = if transposed { [rows[c][r], rows[c + 1][r]] } else { [rows[r][c], rows[r][c + 1]] };
                u32::from(pair[0]) | u32::from(pair[1]) << 16
            });
        }
        Ok(())
    }
}

/// The bytes of a checked global access.
#[inline]
fn global(env: &Env, address: u64, size: usize, lane: u32) -> Result<Target, Box<Fault>> {
    // The region of the access before is mostly the right one.
    let inside =
        |r: &Region| address >= r.base && size as u64 <= r.length && address - r.base <= r.length - size as u64;
    let mut region = env.last_region.get();
    if !env.regions.get(region).is_some_and(inside) {
        region = env.regions.partition_point(|r| r.base <= address).wrapping_sub(1);
        if !env.regions.get(region).is_some_and(inside) {
            return fault(
                Kind::IllegalAddress,
                lane,
                format!("out of bounds: {}", (env.describe)(address, size as u64)),
            );
        }
        env.last_region.set(region);
    }
    let r = &env.regions[region];
    let offset = (address - r.base) as usize;
    let shift = env.kernel.global_grain.trailing_zeros();
    let shadow = r.shadow.map(|_| (offset >> shift, ((offset + size - 1) >> shift) + 1));
    // SAFETY: the offset lies within the region.
    Ok(Target::Global { at: unsafe { r.at.add(offset) }, shadow, region })
}

fn writable(region: &Region, lane: usize) -> Done {
    if region.constant {
        return fault(Kind::IllegalAddress, lane as u32, "a constant cannot be written");
    }
    Ok(())
}

#[cold]
fn outside<T>(lane: u32, size: usize, address: u64, space: &str, length: usize) -> Result<T, Box<Fault>> {
    let at = address as i64;
    let what = format!("out of bounds: {size} bytes at offset {at} of {length} bytes of {space} memory");
    fault(Kind::IllegalAddress, lane, what)
}

fn piece(from: &[u8], at: usize, size: usize) -> Bytes {
    let mut out = [0; 16];
    out[..size].copy_from_slice(&from[at..at + size]);
    out
}

/// The value of an element as a register holds it.
fn extend(bytes: &[u8], access: Access) -> u64 {
    let mut value = [0; 8];
    let size = usize::from(access.size);
    value[..size].copy_from_slice(&bytes[..size]);
    let value = u64::from_le_bytes(value);
    match (access.size, access.signed) {
        (1, true) => widen(Type::S8, value),
        (2, true) => widen(Type::S16, value),
        (4, true) => widen(Type::S32, value),
        _ => value,
    }
}

/// The new value of an atomic operation.
fn combine(op: AtomOp, access: Access, old: u64, a: u64, b: u64) -> u64 {
    let signed = |x: u64| if access.size == 8 { x as i64 } else { i64::from(x as i32) };
    let value = match op {
        AtomOp::Add => old.wrapping_add(a),
        AtomOp::And => old & a,
        AtomOp::Or => old | a,
        AtomOp::Xor => old ^ a,
        AtomOp::Exch => a,
        AtomOp::Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        AtomOp::MinU => old.min(a),
        AtomOp::MaxU => old.max(a),
        AtomOp::MinS => signed(old).min(signed(a)) as u64,
        AtomOp::MaxS => signed(old).max(signed(a)) as u64,
    };
    if access.size == 8 { value } else { value & 0xffff_ffff }
}
