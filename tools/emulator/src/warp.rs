//! A warp: 32 lanes with registers, predicates and local memory, and the order in which lanes run.
//!
//! Lanes at the same instruction run together. Where they part, those at the lowest instruction go first, so that
//! they meet again behind the branch.

use std::cmp::Ordering;

use crate::alu::{self, Level, get64, put, put64};
use crate::block::Env;
use crate::copies::Copies;
use crate::cvt::{Cvt, Type};
use crate::fault::{Fault, Kind, fault};
use crate::program::{
    ALL, Compare, CompareType, Fill, Instr, LANES, Logic, Op, POISON, Reduce, Row, Setp, Special, Vote,
};
use crate::shared::Shared;
use crate::shuffle;

/// Why a warp stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Done,
    /// At barrier `number`, at instruction `pc`.
    Barrier {
        number: u32,
        pc: u32,
    },
}

/// What a warp brings to a `bar.red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contribution {
    pub reduce: Reduce,
    pub to: u32,
    pub mask: u32,
    pub count: u32,
}

pub struct Warp {
    pub index: u32,
    pub regs: Vec<Row>,
    pub preds: Vec<u32>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    /// Instruction of each lane that waits for those before it.
    pcs: [u32; LANES],
    /// Lanes that have not ended.
    live: u32,
    /// Lanes that run now, and their instruction.
    mask: u32,
    pc: u32,
    /// The lowest instruction of a lane that waits.
    next: u32,
    /// Synchronisations of this warp so far.
    pub sync: u32,
    pub copies: Copies,
    pub contribution: Option<Contribution>,
    /// Instructions times lanes.
    pub executed: u64,
}

type Done = Result<(), Box<Fault>>;

impl Warp {
    pub fn new(index: u32) -> Warp {
        Warp {
            index,
            regs: Vec::new(),
            preds: Vec::new(),
            local: Vec::new(),
            pcs: [0; LANES],
            live: 0,
            mask: 0,
            pc: 0,
            next: u32::MAX,
            sync: 0,
            copies: Copies::default(),
            contribution: None,
            executed: 0,
        }
    }

    /// As a block finds it: poison in all registers and in local memory.
    pub fn reset(&mut self, env: &Env, threads: u32) {
        let kernel = env.kernel;
        let registers = kernel.registers as usize;
        self.regs.resize(registers + kernel.fills.len(), [0; LANES]);
        self.regs[..registers].fill([POISON; LANES]);
        self.preds.clear();
        self.preds.resize(kernel.preds as usize, 0);
        self.preds[0] = ALL;
        self.local.clear();
        let poison = POISON.to_le_bytes();
        self.local.extend((0..kernel.local_bytes as usize * LANES).map(|i| poison[i % 4]));
        let lanes = threads.saturating_sub(self.index * LANES as u32).min(LANES as u32);
        self.live = if lanes == 32 { ALL } else { (1 << lanes) - 1 };
        self.pcs = [0; LANES];
        (self.mask, self.pc, self.next, self.sync) = (self.live, 0, u32::MAX, 0);
        self.copies.reset();
        for (i, fill) in kernel.fills.iter().enumerate() {
            self.regs[registers + i] = self.fill(env, *fill);
        }
    }

    fn fill(&self, env: &Env, fill: Fill) -> Row {
        match fill {
            Fill::Value(value) => [value; LANES],
            Fill::Variable { index, half, offset } => {
                let base = env.variables.get(index as usize).copied().unwrap_or(0).wrapping_add_signed(offset);
                [(base >> (32 * u32::from(half))) as u32; LANES]
            }
            Fill::Special(special) => std::array::from_fn(|lane| self.special(env, special, lane as u32)),
        }
    }

    fn special(&self, env: &Env, special: Special, lane: u32) -> u32 {
        let thread = self.index * LANES as u32 + lane;
        let [x, y, _] = env.threads;
        let axis = |i: u8, of: [u32; 3]| of[usize::from(i)];
        match special {
            Special::Tid(i) => axis(i, [thread % x, thread / x % y, thread / x / y]),
            Special::Ntid(i) => axis(i, env.threads),
            Special::Ctaid(i) => axis(i, env.block),
            Special::Nctaid(i) => axis(i, env.blocks),
            Special::LaneId => lane,
            Special::WarpId => self.index,
            Special::WarpCount => env.threads.iter().product::<u32>().div_ceil(LANES as u32),
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => (1 << lane) | ((1 << lane) - 1),
            Special::LaneMaskGt => !((1 << lane) | ((1 << lane) - 1)),
            Special::LaneMaskGe => !((1 << lane) - 1),
        }
    }

    pub fn thread(&self, lane: u32) -> u32 {
        self.index * LANES as u32 + lane
    }

    /// The lowest lane of those that run now.
    pub fn first_lane(&self) -> u32 {
        self.mask.trailing_zeros() & 31
    }

    pub fn pc(&self) -> u32 {
        self.pc
    }

    pub fn row(&self, at: u32) -> &Row {
        &self.regs[at as usize]
    }

    pub fn pred(&self, at: u32) -> u32 {
        self.preds[at as usize]
    }

    pub fn set_pred(&mut self, at: u32, value: u32, mask: u32) {
        let old = &mut self.preds[at as usize];
        *old = *old & !mask | value & mask;
    }

    /// Chooses the lanes that run next: all at the lowest instruction. False where there are none.
    fn regroup(&mut self) -> bool {
        let lanes = || (0..LANES).filter(|l| self.live >> l & 1 == 1);
        let Some(lowest) = lanes().map(|l| self.pcs[l]).min() else { return false };
        let mask = lanes().filter(|&l| self.pcs[l] == lowest).fold(0, |mask, l| mask | 1 << l);
        self.next = lanes().map(|l| self.pcs[l]).filter(|&pc| pc > lowest).min().unwrap_or(u32::MAX);
        (self.mask, self.pc) = (mask, lowest);
        true
    }

    fn set_pcs(&mut self, lanes: u32, pc: u32) {
        for (l, at) in self.pcs.iter_mut().enumerate() {
            if lanes >> l & 1 == 1 {
                *at = pc;
            }
        }
    }

    /// Goes on at `pc`, or gives way to lanes that are further back.
    #[inline(always)]
    fn go(&mut self, pc: u32) {
        self.pc = pc;
        if pc >= self.next {
            self.set_pcs(self.mask, pc);
            self.regroup();
        }
    }

    /// The lanes of `taken` go to `target`, the others of this group on.
    fn branch(&mut self, taken: u32, target: u32) {
        if taken == self.mask {
            self.go(target);
        } else if taken == 0 {
            self.go(self.pc + 1);
        } else {
            self.set_pcs(self.mask, self.pc + 1);
            self.set_pcs(taken, target);
            self.regroup();
        }
    }

    /// Runs until a barrier or the end.
    pub fn run(&mut self, env: &Env, shared: &mut Shared, barrier: u32) -> Result<Stop, Box<Fault>> {
        let level = env.level;
        if self.live == 0 {
            return Ok(Stop::Done);
        }
        let mut executed = 0u64;
        let stop = loop {
            let instr = &env.kernel.code[self.pc as usize];
            let mask = match instr.guard {
                None => self.mask,
                Some(guard) => {
                    let p = self.preds[guard.pred as usize];
                    self.mask & if guard.negate { !p } else { p }
                }
            };
            executed += u64::from(self.mask.count_ones());
            match instr.op {
                Op::Bra => {
                    if self.executed + executed > env.most_instructions {
                        let what = format!("an endless loop? more than {} instructions", env.most_instructions);
                        return fault(Kind::LaunchFailed, self.mask.trailing_zeros(), what);
                    }
                    self.branch(mask, instr.imm as u32);
                    continue;
                }
                _ if mask == 0 => {}
                Op::Alu(op) => alu::alu(level, op, &mut self.regs, instr, mask),
                Op::Setp(setp) => self.setp(setp, instr, mask),
                Op::MovRows(count) => {
                    let rows = [self.regs[instr.rows[4] as usize], self.regs[instr.rows[5] as usize]];
                    for (to, row) in instr.rows.iter().zip(&rows).take(usize::from(count)) {
                        put(&mut self.regs, *to, row, mask);
                    }
                }
                Op::Brx => {
                    self.indexed(env, instr, mask)?;
                    continue;
                }
                Op::Exit => {
                    self.live &= !mask;
                    self.set_pcs(self.mask, self.pc + 1);
                    if !self.regroup() {
                        break Stop::Done;
                    }
                    continue;
                }
                Op::Bar | Op::BarRed(_) => {
                    if mask != self.live {
                        self.executed += executed;
                        return fault(
                            Kind::LaunchFailed,
                            mask.trailing_zeros(),
                            "a divergent barrier: other threads of the warp are elsewhere",
                        );
                    }
                    if let Op::BarRed(reduce) = instr.op {
                        self.contribute(reduce, instr, mask);
                    }
                    let stop = Stop::Barrier { number: instr.imm as u32, pc: self.pc };
                    self.go(self.pc + 1);
                    break stop;
                }
                _ => {
                    if let Err(error) = self.other(env, shared, barrier, instr, mask) {
                        self.executed += executed;
                        return Err(error);
                    }
                }
            }
            self.go(self.pc + 1);
        };
        self.executed += executed;
        Ok(stop)
    }

    fn contribute(&mut self, reduce: Reduce, instr: &Instr, mask: u32) {
        let p = self.pred(instr.rows[1]);
        let p = if instr.imm >> 32 & 1 == 1 { !p } else { p };
        self.contribution = Some(Contribution { reduce, to: instr.rows[0], mask, count: (p & mask).count_ones() });
    }

    /// `brx.idx`: every lane to its own place.
    fn indexed(&mut self, env: &Env, instr: &Instr, mask: u32) -> Done {
        let targets = env.kernel.lists.get(instr.imm as usize).map_or(&[][..], Vec::as_slice);
        let by = *self.row(instr.rows[0]);
        let here = self.pc;
        self.set_pcs(self.mask & !mask, here + 1);
        for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            match targets.get(by[lane] as usize) {
                Some(&target) => self.pcs[lane] = target,
                None => {
                    let what = format!("index {} of a table of {} branches", by[lane], targets.len());
                    return fault(Kind::LaunchFailed, lane as u32, what);
                }
            }
        }
        self.regroup();
        Ok(())
    }

    /// What is not arithmetic and does not move the program counter.
    fn other(&mut self, env: &Env, shared: &mut Shared, barrier: u32, i: &Instr, mask: u32) -> Done {
        match i.op {
            Op::Ld(access) => self.load(env, shared, barrier, i, access, mask),
            Op::St(access) => self.store(env, shared, barrier, i, access, mask),
            Op::Atom { op, access, result } => self.atomic(env, shared, barrier, i, (op, access, result), mask),
            Op::CopyAsync { .. } => self.copy_async(env, shared, barrier, i, mask),
            Op::CopyCommit => {
                self.copies.commit(mask);
                Ok(())
            }
            Op::CopyWaitGroup => {
                self.copies_land(shared, barrier, mask, Some(i.imm as u32));
                Ok(())
            }
            Op::CopyWaitAll => {
                self.copies_land(shared, barrier, mask, None);
                Ok(())
            }
            Op::LdMatrix { .. } => {
                self.whole(mask)?;
                self.ldmatrix(shared, barrier, i)
            }
            Op::Mma(mma) => {
                self.whole(mask)?;
                self.mma(env.level, mma, env.kernel.lists.get(i.imm as usize).map_or(&[][..], Vec::as_slice));
                Ok(())
            }
            // Shuffles, votes and matches exchange registers; memory is ordered by bar.warp.sync alone.
            Op::Shfl { mode, predicate } => {
                let members = *self.row(i.rows[5]);
                self.members(&members, mask)?;
                let rows = [2, 3, 4].map(|n| *self.row(i.rows[n]));
                let (value, inside) = shuffle::shuffle(mode, &rows[0], &rows[1], &rows[2], &members);
                put(&mut self.regs, i.rows[0], &value, mask);
                if predicate {
                    self.set_pred(i.rows[1], inside, mask);
                }
                Ok(())
            }
            Op::Vote(vote) => self.vote(vote, i, mask),
            Op::MatchAny32 => {
                let members = *self.row(i.rows[2]);
                self.members(&members, mask)?;
                let value = shuffle::match_any(self.row(i.rows[1]), &members, mask);
                put(&mut self.regs, i.rows[0], &value, mask);
                Ok(())
            }
            Op::WarpSync => {
                let members = *self.row(i.rows[0]);
                self.members(&members, mask)?;
                self.sync = self.sync.wrapping_add(1);
                Ok(())
            }
            Op::Trap => fault(Kind::LaunchFailed, mask.trailing_zeros(), "the kernel gave up"),
            _ => {
                self.plain(i, mask);
                Ok(())
            }
        }
    }

    /// What cannot fail.
    fn plain(&mut self, i: &Instr, mask: u32) {
        let rows = i.rows;
        match i.op {
            Op::Cvt(cvt) => self.cvt(cvt, i, mask),
            Op::Selp32 => {
                let (a, b, p) = (*self.row(rows[1]), *self.row(rows[2]), self.pred(rows[3]));
                put(&mut self.regs, rows[0], &std::array::from_fn(|l| if p >> l & 1 == 1 { a[l] } else { b[l] }), mask);
            }
            Op::Selp64 => {
                let (a, b, p) = (get64(&self.regs, rows[1]), get64(&self.regs, rows[2]), self.pred(rows[3]));
                let value = std::array::from_fn(|l| if p >> l & 1 == 1 { a[l] } else { b[l] });
                put64(&mut self.regs, rows[0], &value, mask);
            }
            Op::Pack16 => {
                let (a, b) = (*self.row(rows[1]), *self.row(rows[2]));
                put(&mut self.regs, rows[0], &std::array::from_fn(|l| a[l] & 0xffff | b[l] << 16), mask);
            }
            Op::Unpack16 => {
                let a = *self.row(rows[2]);
                put(&mut self.regs, rows[0], &a.map(|a| a & 0xffff), mask);
                put(&mut self.regs, rows[1], &a.map(|a| a >> 16), mask);
            }
            Op::PredAnd | Op::PredOr | Op::PredXor => {
                let flip = |bit: i64| 0u32.wrapping_sub((i.imm >> bit & 1) as u32);
                let (a, b) = (self.pred(rows[1]) ^ flip(0), self.pred(rows[2]) ^ flip(1));
                let value = match i.op {
                    Op::PredAnd => a & b,
                    Op::PredOr => a | b,
                    _ => a ^ b,
                };
                self.set_pred(rows[0], value, mask);
            }
            Op::PredNot => self.set_pred(rows[0], !self.pred(rows[1]), mask),
            Op::PredMov => self.set_pred(rows[0], self.pred(rows[1]), mask),
            Op::ActiveMask => put(&mut self.regs, rows[0], &[self.mask; LANES], mask),
            _ => {}
        }
    }

    fn cvt(&mut self, cvt: Cvt, i: &Instr, mask: u32) {
        let to = i.rows[0];
        match (cvt.dst, cvt.src) {
            (Type::U64 | Type::S64, Type::U32) if !cvt.sat && !cvt.src64 => {
                let low = *self.row(i.rows[1]);
                put(&mut self.regs, to, &low, mask);
                put(&mut self.regs, to + 1, &[0; LANES], mask);
            }
            (Type::U64 | Type::S64, Type::S32) if !cvt.sat && !cvt.src64 => {
                let low = *self.row(i.rows[1]);
                put(&mut self.regs, to, &low, mask);
                put(&mut self.regs, to + 1, &low.map(|a| (a as i32 >> 31) as u32), mask);
            }
            (Type::U32 | Type::S32, Type::U64 | Type::S64) if !cvt.sat && !cvt.dst64 => {
                let low = *self.row(i.rows[1]);
                put(&mut self.regs, to, &low, mask);
            }
            _ => {
                let source = |n: usize| -> [u64; LANES] {
                    if cvt.src64 { get64(&self.regs, i.rows[n]) } else { self.row(i.rows[n]).map(u64::from) }
                };
                let a = source(1);
                let b = if cvt.pair() { source(2) } else { a };
                let mut value: [u64; LANES] = std::array::from_fn(|l| cvt.apply(a[l], b[l]));
                // A 16-bit register keeps zeros above.
                if cvt.dst.size() <= 2 && cvt.narrow_register {
                    value = value.map(|v| v & 0xffff);
                }
                if cvt.dst64 {
                    put64(&mut self.regs, to, &value, mask);
                } else {
                    put(&mut self.regs, to, &value.map(|v| v as u32), mask);
                }
            }
        }
    }

    fn setp(&mut self, setp: Setp, i: &Instr, mask: u32) {
        let (a, b) = (i.rows[2], i.rows[3]);
        let f = |a: u32, b: u32| (f32::from_bits(a), f32::from_bits(b));
        let flush = |a: u32| crate::float::flush(f32::from_bits(a));
        let value = match setp.kind {
            CompareType::U16 | CompareType::U32 => integers(setp.compare, self.row(a), self.row(b), |a| a),
            CompareType::S32 => integers(setp.compare, self.row(a), self.row(b), |a| a as i32),
            CompareType::S16 => integers(setp.compare, self.row(a), self.row(b), |a| a as i16),
            CompareType::U64 => integers(setp.compare, &get64(&self.regs, a), &get64(&self.regs, b), |a| a),
            CompareType::S64 => integers(setp.compare, &get64(&self.regs, a), &get64(&self.regs, b), |a| a as i64),
            CompareType::F32 => floats(setp.compare, self.row(a), self.row(b), f),
            CompareType::F32Ftz => floats(setp.compare, self.row(a), self.row(b), |a, b| (flush(a), flush(b))),
            CompareType::F64 => {
                let (a, b) = (get64(&self.regs, a), get64(&self.regs, b));
                floats(setp.compare, &a, &b, |a, b| (f64::from_bits(a), f64::from_bits(b)))
            }
        };
        let third = self.pred(i.rows[4]) ^ if setp.negate { ALL } else { 0 };
        let logic = |value: u32| match setp.logic {
            Logic::None => value,
            Logic::And => value & third,
            Logic::Or => value | third,
            Logic::Xor => value ^ third,
        };
        self.set_pred(i.rows[0], logic(value), mask);
        if setp.second {
            self.set_pred(i.rows[1], logic(!value), mask);
        }
    }

    fn vote(&mut self, vote: Vote, i: &Instr, mask: u32) -> Done {
        let members = *self.row(i.rows[2]);
        self.members(&members, mask)?;
        let p = self.pred(i.rows[1]) ^ if i.imm & 1 == 1 { ALL } else { 0 };
        let holds = |test: fn(u32, u32) -> bool| {
            (0..LANES).fold(0, |out, l| out | u32::from(test(p & members[l], members[l])) << l)
        };
        match vote {
            Vote::Ballot => put(&mut self.regs, i.rows[0], &members.map(|m| p & m), mask),
            Vote::Any => self.set_pred(i.rows[0], holds(|yes, _| yes != 0), mask),
            Vote::All => self.set_pred(i.rows[0], holds(|yes, all| yes == all), mask),
            Vote::Uni => self.set_pred(i.rows[0], holds(|yes, all| yes == all || yes == 0), mask),
        }
        Ok(())
    }

    /// Every lane is among those it names, and these are here and name the same.
    fn members(&self, members: &Row, mask: u32) -> Done {
        for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            let named = members[lane];
            let agree = |l: usize| named >> l & 1 == 0 || members[l] == named;
            if named >> lane & 1 == 0 || named & !mask != 0 || !(0..LANES).all(agree) {
                let what = format!("it names the lanes 0x{named:08x}, but those that arrive together are 0x{mask:08x}");
                return fault(Kind::LaunchFailed, lane as u32, what);
            }
        }
        Ok(())
    }

    /// Matrix instructions need the whole warp.
    fn whole(&self, mask: u32) -> Done {
        if mask == ALL {
            return Ok(());
        }
        let what = format!("a matrix instruction by the lanes 0x{mask:08x} only");
        fault(Kind::LaunchFailed, mask.trailing_zeros(), what)
    }

    fn mma(&mut self, level: Level, mma: crate::tensor::Mma, list: &[u32]) {
        let rows: Vec<Row> = list.iter().map(|&at| self.regs[at as usize]).collect();
        let count = mma.registers();
        let (a, rest) = rows[4..].split_at(count);
        let (b, c) = rest.split_at(count / 2);
        let c: [Row; 4] = std::array::from_fn(|n| c[n]);
        let d = alu::mma(level, mma, a, b, &c);
        for (at, row) in list.iter().zip(&d) {
            self.regs[*at as usize] = *row;
        }
    }
}

/// A bit for each lane where the comparison holds.
fn lanes<T: Copy>(a: &[T; LANES], b: &[T; LANES], holds: impl Fn(T, T) -> bool) -> u32 {
    let mut mask = 0;
    for l in 0..LANES {
        mask |= u32::from(holds(a[l], b[l])) << l;
    }
    mask
}

fn integers<T: Copy, I: Ord>(compare: Compare, a: &[T; LANES], b: &[T; LANES], int: impl Fn(T) -> I) -> u32 {
    match compare {
        Compare::Eq => lanes(a, b, |a, b| int(a) == int(b)),
        Compare::Ne => lanes(a, b, |a, b| int(a) != int(b)),
        Compare::Lt => lanes(a, b, |a, b| int(a) < int(b)),
        Compare::Le => lanes(a, b, |a, b| int(a) <= int(b)),
        Compare::Gt => lanes(a, b, |a, b| int(a) > int(b)),
        _ => lanes(a, b, |a, b| int(a) >= int(b)),
    }
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn floats<T: Copy, F: PartialOrd>(
    compare: Compare,
    a: &[T; LANES],
    b: &[T; LANES],
    float: impl Fn(T, T) -> (F, F),
) -> u32 {
    let with = |holds: fn(F, F) -> bool| {
        lanes(a, b, |a, b| {
            let (a, b) = float(a, b);
            holds(a, b)
        })
    };
    // The unordered comparisons hold for a NaN: they are the negations of their opposites.
    match compare {
        Compare::Eq => with(|a, b| a == b),
        Compare::Ne => with(|a, b| a.partial_cmp(&b).is_some_and(Ordering::is_ne)),
        Compare::Lt => with(|a, b| a < b),
        Compare::Le => with(|a, b| a <= b),
        Compare::Gt => with(|a, b| a > b),
        Compare::Ge => with(|a, b| a >= b),
        Compare::Equ => with(|a, b| a.partial_cmp(&b).is_none_or(Ordering::is_eq)),
        Compare::Neu => with(|a, b| a != b),
        Compare::Ltu => with(|a, b| !(a >= b)),
        Compare::Leu => with(|a, b| !(a > b)),
        Compare::Gtu => with(|a, b| !(a <= b)),
        Compare::Geu => with(|a, b| !(a < b)),
        Compare::Num => with(|a, b| a.partial_cmp(&b).is_some()),
        Compare::Nan => with(|a, b| a.partial_cmp(&b).is_none()),
    }
}
