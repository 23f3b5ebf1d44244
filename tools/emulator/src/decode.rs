//! Instructions as written to instructions as they run. Whole opcodes are matched; what is unknown is an error.

use std::collections::HashMap;

use crate::cvt::{Cvt, Type};
use crate::decode_memory as memory;
use crate::lexer::{Literal, LoadError, fail};
use crate::parse::{Class, Operand, Raw, Register, Symbol};
use crate::program::{
    Compare, CompareType, Fill, Guard, Instr, Kernel, LOCAL_BASE, Logic, Op, Reduce, SHARED_BASE, Setp, Shuffle, Vote,
};
use crate::table;
use crate::tensor::Mma;

/// Row number (or predicate number) of what is not there.
pub const NONE: u32 = 0;

/// Builds a kernel, instruction by instruction.
pub struct Decoder {
    pub kernel: Kernel,
    labels: HashMap<String, u32>,
    targets: HashMap<String, (Vec<String>, u32)>,
    /// Branches whose label may come later: instruction, label.
    branches: Vec<(usize, String)>,
    /// Rows that hold constants, from 0 upwards; they are moved behind the registers at the end.
    fills: HashMap<Fill64, u32>,
}

/// A constant operand: one row or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fill64 {
    Word(u32),
    Long(u64),
    Variable(u32, i64),
    Special(crate::program::Special),
}

/// Constants are numbered from here until the number of registers is known.
const CONSTANTS: u32 = 1 << 24;

impl Decoder {
    pub fn new(kernel: Kernel) -> Decoder {
        // Predicate 0 is always true; the grain shrinks with each smaller access.
        let kernel = Kernel { preds: 1, shared_grain: 4, global_grain: 4, ..kernel };
        Decoder { kernel, labels: HashMap::new(), targets: HashMap::new(), branches: Vec::new(), fills: HashMap::new() }
    }

    /// A new register.
    pub fn register(&mut self, class: Class) -> Register {
        let counter = if class == Class::Pred { &mut self.kernel.preds } else { &mut self.kernel.registers };
        let row = *counter;
        *counter += if class == Class::B64 { 2 } else { 1 };
        Register { class, row }
    }

    pub fn label(&mut self, label: &str, line: u32) -> Result<(), LoadError> {
        match self.labels.insert(label.to_string(), self.kernel.code.len() as u32) {
            None => Ok(()),
            Some(_) => fail(line, format!("the label \"{label}\" is there twice")),
        }
    }

    pub fn branch_targets(&mut self, label: &str, targets: Vec<String>, line: u32) -> Result<(), LoadError> {
        match self.targets.insert(label.to_string(), (targets, line)) {
            None => Ok(()),
            Some(_) => fail(line, format!("the label \"{label}\" is there twice")),
        }
    }

    /// Labels become instruction numbers, constants move behind the registers.
    pub fn finish(mut self, line: u32) -> Result<Kernel, LoadError> {
        // Running off the end ends the thread.
        self.kernel.code.push(blank(Op::Exit, line));
        for (index, label) in std::mem::take(&mut self.branches) {
            let instr = &self.kernel.code[index];
            let line = instr.line;
            if instr.op == Op::Bra {
                let target = find(&self.labels, &label, line)?;
                self.kernel.code[index].imm = i64::from(target);
            } else {
                let Some((targets, line)) = self.targets.get(&label) else {
                    return fail(line, format!("no .branchtargets \"{label}\""));
                };
                let list: Result<Vec<u32>, _> = targets.iter().map(|t| find(&self.labels, t, *line)).collect();
                self.kernel.code[index].imm = self.kernel.lists.len() as i64;
                self.kernel.lists.push(list?);
            }
        }
        let registers = self.kernel.registers;
        let renumber = |row: &mut u32| {
            if *row >= CONSTANTS {
                *row = *row - CONSTANTS + registers;
            }
        };
        for instr in &mut self.kernel.code {
            instr.rows.iter_mut().for_each(renumber);
            if let Op::Mma(_) = instr.op
                && let Some(list) = self.kernel.lists.get_mut(instr.imm as usize)
            {
                list.iter_mut().for_each(renumber);
            }
        }
        Ok(self.kernel)
    }

    /// A row (or two) that always holds this.
    fn constant(&mut self, fill: Fill64) -> u32 {
        if let Some(&row) = self.fills.get(&fill) {
            return row;
        }
        let rows = &mut self.kernel.fills;
        let row = CONSTANTS + rows.len() as u32;
        match fill {
            Fill64::Word(value) => rows.push(Fill::Value(value)),
            Fill64::Long(value) => {
                rows.push(Fill::Value(value as u32));
                rows.push(Fill::Value((value >> 32) as u32));
            }
            Fill64::Variable(index, offset) => {
                rows.push(Fill::Variable { index, half: 0, offset });
                rows.push(Fill::Variable { index, half: 1, offset });
            }
            Fill64::Special(special) => rows.push(Fill::Special(special)),
        }
        self.fills.insert(fill, row);
        row
    }

    pub fn word(&mut self, value: u32) -> u32 {
        self.constant(Fill64::Word(value))
    }

    /// A source row of class `kind`, a letter of `table`.
    pub fn source(&mut self, raw: &Raw, operand: &Operand, kind: u8) -> Result<u32, LoadError> {
        let class = class(kind);
        match operand {
            Operand::Register(register) if register.class == class => Ok(register.row),
            Operand::Special(special) if class == Class::B32 => Ok(self.constant(Fill64::Special(*special))),
            Operand::Literal(literal) => {
                let bits = literal_bits(raw, *literal, kind)?;
                Ok(self.constant(if class == Class::B64 { Fill64::Long(bits) } else { Fill64::Word(bits as u32) }))
            }
            Operand::Symbol(symbol) => self.address_of(raw, *symbol, class),
            _ => fail(raw.line, format!("an operand of \"{}\" is not of the class it takes", raw.opcode)),
        }
    }

    /// The address of a variable in its own space.
    fn address_of(&mut self, raw: &Raw, symbol: Symbol, class: Class) -> Result<u32, LoadError> {
        let offset = match symbol {
            Symbol::Variable(index) if class == Class::B64 => {
                return Ok(self.constant(Fill64::Variable(index, 0)));
            }
            Symbol::Shared(offset) | Symbol::Local(offset) | Symbol::Param(offset) => offset,
            _ => return fail(raw.line, format!("\"{}\" cannot take this address", raw.opcode)),
        };
        match class {
            Class::B32 => Ok(self.constant(Fill64::Word(offset))),
            Class::B64 => Ok(self.constant(Fill64::Long(u64::from(offset)))),
            _ => fail(raw.line, "an address needs 32 or 64 bits"),
        }
    }

    /// The address of a module variable plus an offset, as two rows.
    pub fn variable(&mut self, index: u32, offset: i64) -> u32 {
        self.constant(Fill64::Variable(index, offset))
    }

    pub fn emit(&mut self, raw: &Raw, op: Op, rows: &[u32], imm: i64) -> Result<(), LoadError> {
        let mut instr = blank(op, raw.line);
        instr.guard = raw.guard.map(|(register, negate)| Guard { pred: register.row, negate });
        instr.rows[..rows.len()].copy_from_slice(rows);
        instr.imm = imm;
        self.kernel.code.push(instr);
        Ok(())
    }

    pub fn instruction(&mut self, raw: &Raw) -> Result<(), LoadError> {
        if let Some(entry) = table::find(raw.opcode) {
            return self.alu(raw, entry);
        }
        let family = raw.opcode.split('.').next().unwrap_or("");
        match family {
            "mov" => self.mov(raw),
            "cvt" => self.cvt(raw),
            "cvta" => self.cvta(raw),
            "setp" => self.setp(raw),
            "selp" => self.selp(raw),
            "and" | "or" | "xor" | "not" => self.logic(raw),
            "ld" | "ldu" | "st" | "atom" | "red" => memory::access(self, raw),
            "cp" => memory::copy_async(self, raw),
            "ldmatrix" => memory::ldmatrix(self, raw),
            "mma" => self.mma(raw),
            "bra" | "brx" => self.branch(raw),
            "shfl" => self.shuffle(raw),
            "vote" | "match" | "activemask" => self.vote(raw),
            "bar" | "barrier" => self.barrier(raw),
            "ret" | "exit" | "trap" | "membar" | "fence" | "nanosleep" | "prefetch" => self.simple(raw),
            _ => unknown(raw),
        }
    }

    fn alu(&mut self, raw: &Raw, entry: table::Entry) -> Result<(), LoadError> {
        let Some((result, operands)) = raw.operands.split_first() else { return count(raw) };
        if operands.len() != entry.operands.len() {
            return count(raw);
        }
        let mut rows = [NONE; 8];
        rows[0] = destination(raw, result, class(entry.result))?;
        for ((row, operand), kind) in rows[1..].iter_mut().zip(operands).zip(entry.operands) {
            *row = self.source(raw, operand, *kind)?;
        }
        self.emit(raw, Op::Alu(entry.alu), &rows, 0)
    }

    fn mov(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let [to, from] = raw.operands.as_slice() else { return count(raw) };
        if raw.opcode == "mov.pred" {
            let row = destination(raw, to, Class::Pred)?;
            return match from {
                Operand::Register(r) if r.class == Class::Pred => self.emit(raw, Op::PredMov, &[row, r.row], 0),
                Operand::Literal(Literal::Int(0)) => self.emit(raw, Op::PredNot, &[row, 0], 0),
                Operand::Literal(Literal::Int(_)) => self.emit(raw, Op::PredMov, &[row, 0], 0),
                _ => count(raw),
            };
        }
        let kind = match raw.opcode.strip_prefix("mov.") {
            Some("b16" | "u16" | "s16") => b'h',
            Some("b32" | "u32" | "s32") => b'w',
            Some("f32") => b'f',
            Some("b64" | "u64" | "s64") => b'd',
            Some("f64") => b'g',
            _ => return unknown(raw),
        };
        let rows = if class(kind) == Class::B64 { 2 } else { 1 };
        match (to, from) {
            (Operand::Vector(parts), from) => self.unpack(raw, parts, from, kind),
            (to, Operand::Vector(parts)) => self.pack(raw, to, parts, kind),
            (to, from) => {
                let to = destination(raw, to, class(kind))?;
                let from = self.source(raw, from, kind)?;
                let all = [to, to + 1, NONE, NONE, from, from + 1];
                self.emit(raw, Op::MovRows(rows), &all[..4 + usize::from(rows)], 0)
            }
        }
    }

    /// `mov.b64 %rd, {%r, %r}` and `mov.b32 %r, {%rs, %rs}`.
    fn pack(&mut self, raw: &Raw, to: &Operand, parts: &[Operand], kind: u8) -> Result<(), LoadError> {
        let [low, high] = parts else { return unknown(raw) };
        let to = destination(raw, to, class(kind))?;
        match class(kind) {
            Class::B64 => {
                let (low, high) = (self.source(raw, low, b'w')?, self.source(raw, high, b'w')?);
                self.emit(raw, Op::MovRows(2), &[to, to + 1, NONE, NONE, low, high], 0)
            }
            Class::B32 => {
                let (low, high) = (self.source(raw, low, b'h')?, self.source(raw, high, b'h')?);
                self.emit(raw, Op::Pack16, &[to, low, high], 0)
            }
            _ => unknown(raw),
        }
    }

    fn unpack(&mut self, raw: &Raw, parts: &[Operand], from: &Operand, kind: u8) -> Result<(), LoadError> {
        let [low, high] = parts else { return unknown(raw) };
        let from = self.source(raw, from, kind)?;
        let part = if class(kind) == Class::B64 { Class::B32 } else { Class::B16 };
        let mut target = |operand: &Operand| match operand {
            Operand::Name("_") => Ok(self.register(part).row),
            operand => destination(raw, operand, part),
        };
        let (low, high) = (target(low)?, target(high)?);
        match class(kind) {
            Class::B64 => self.emit(raw, Op::MovRows(2), &[low, high, NONE, NONE, from, from + 1], 0),
            Class::B32 => self.emit(raw, Op::Unpack16, &[low, high, from], 0),
            _ => unknown(raw),
        }
    }

    fn cvt(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let Some(mut cvt) = Cvt::parse(raw.opcode) else { return unknown(raw) };
        if raw.operands.len() != if cvt.pair() { 3 } else { 2 } {
            return count(raw);
        }
        let Operand::Register(to) = raw.operands[0] else { return count(raw) };
        if to.class == Class::Pred || !fits(cvt.dst, to.class) {
            return fail(raw.line, format!("the destination of \"{}\" has the wrong size", raw.opcode));
        }
        cvt.dst64 = to.class == Class::B64;
        cvt.narrow_register = to.class == Class::B16;
        let mut rows = [to.row, NONE, NONE];
        for (row, operand) in rows[1..].iter_mut().zip(&raw.operands[1..]) {
            *row = match operand {
                Operand::Register(from) if from.class != Class::Pred && fits(cvt.src, from.class) => {
                    cvt.src64 = from.class == Class::B64;
                    from.row
                }
                Operand::Register(_) => return fail(raw.line, "the source of a conversion is too small"),
                _ => {
                    cvt.src64 = cvt.src.size() == 8;
                    let kind = match (cvt.src.is_int(), cvt.src64) {
                        (true, true) => b'd',
                        (true, false) => b'w',
                        (false, true) => b'g',
                        (false, false) => b'f',
                    };
                    self.source(raw, operand, kind)?
                }
            };
        }
        self.emit(raw, Op::Cvt(cvt), &rows, 0)
    }

    /// Generic addresses: global ones are the same, shared and local ones have a base.
    fn cvta(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let [to, from] = raw.operands.as_slice() else { return count(raw) };
        let to = destination(raw, to, Class::B64)?;
        let from = self.source(raw, from, b'd')?;
        let base = match raw.opcode {
            "cvta.to.global.u64" | "cvta.global.u64" | "cvta.to.const.u64" | "cvta.const.u64" => 0,
            "cvta.shared.u64" => SHARED_BASE,
            "cvta.local.u64" => LOCAL_BASE,
            "cvta.to.shared.u64" => SHARED_BASE.wrapping_neg(),
            "cvta.to.local.u64" => LOCAL_BASE.wrapping_neg(),
            _ => return unknown(raw),
        };
        if base == 0 {
            return self.emit(raw, Op::MovRows(2), &[to, to + 1, NONE, NONE, from, from + 1], 0);
        }
        let base = self.constant(Fill64::Long(base));
        self.emit(raw, Op::Alu(table::Alu::Add64), &[to, from, base], 0)
    }

    fn setp(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let mut parts: Vec<&str> = raw.opcode.split('.').skip(1).collect();
        let (Some(kind), false) = (parts.pop(), parts.is_empty()) else { return unknown(raw) };
        let mut parts = parts.into_iter().peekable();
        let Some(compare) = parts.next() else { return unknown(raw) };
        let logic = match parts.peek().copied() {
            Some("and") => Logic::And,
            Some("or") => Logic::Or,
            Some("xor") => Logic::Xor,
            _ => Logic::None,
        };
        if logic != Logic::None {
            parts.next();
        }
        let ftz = parts.next_if_eq(&"ftz").is_some();
        let Some((compare, kind, letter)) = comparison(compare, kind, ftz).filter(|_| parts.next().is_none()) else {
            return unknown(raw);
        };
        let expected = if logic == Logic::None { 3 } else { 4 };
        if raw.operands.len() != expected {
            return count(raw);
        }
        let (first, second) = match &raw.operands[0] {
            Operand::Pair(a, b) => (destination(raw, a, Class::Pred)?, Some(destination(raw, b, Class::Pred)?)),
            a => (destination(raw, a, Class::Pred)?, None),
        };
        let a = self.source(raw, &raw.operands[1], letter)?;
        let b = self.source(raw, &raw.operands[2], letter)?;
        let (third, negate) = match raw.operands.get(3) {
            Some(operand) => pred(raw, operand)?,
            None => (0, false),
        };
        let op = Op::Setp(Setp { compare, kind, logic, second: second.is_some(), negate });
        self.emit(raw, op, &[first, second.unwrap_or(NONE), a, b, third], 0)
    }

    fn selp(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let (op, kind) = match raw.opcode.strip_prefix("selp.") {
            Some("b16" | "u16" | "s16") => (Op::Selp32, b'h'),
            Some("b32" | "u32" | "s32") => (Op::Selp32, b'w'),
            Some("f32") => (Op::Selp32, b'f'),
            Some("b64" | "u64" | "s64") => (Op::Selp64, b'd'),
            Some("f64") => (Op::Selp64, b'g'),
            _ => return unknown(raw),
        };
        let [to, a, b, p] = raw.operands.as_slice() else { return count(raw) };
        let to = destination(raw, to, class(kind))?;
        let (a, b) = (self.source(raw, a, kind)?, self.source(raw, b, kind)?);
        let (p, negate) = pred(raw, p)?;
        let (a, b) = if negate { (b, a) } else { (a, b) };
        self.emit(raw, op, &[to, a, b, p], 0)
    }

    /// `and.pred` and its like; those on bits are in the table.
    fn logic(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let op = match raw.opcode {
            "and.pred" => Op::PredAnd,
            "or.pred" => Op::PredOr,
            "xor.pred" => Op::PredXor,
            "not.pred" => Op::PredNot,
            _ => return unknown(raw),
        };
        let Some((to, from)) = raw.operands.split_first() else { return count(raw) };
        let to = destination(raw, to, Class::Pred)?;
        match (op, from) {
            (Op::PredNot, [a]) => {
                let (a, negate) = pred(raw, a)?;
                self.emit(raw, if negate { Op::PredMov } else { Op::PredNot }, &[to, a], 0)
            }
            (Op::PredAnd | Op::PredOr | Op::PredXor, [a, b]) => {
                let ((a, not_a), (b, not_b)) = (pred(raw, a)?, pred(raw, b)?);
                self.emit(raw, op, &[to, a, b], i64::from(not_a) | i64::from(not_b) << 1)
            }
            _ => count(raw),
        }
    }

    fn mma(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let Some(mma) = Mma::parse(raw.opcode) else { return unknown(raw) };
        let [d, a, b, c] = raw.operands.as_slice() else { return count(raw) };
        let mut list = Vec::new();
        for (operand, registers) in [(d, 4), (a, mma.registers()), (b, mma.registers() / 2), (c, 4)] {
            let single = std::slice::from_ref(operand);
            let parts = if let Operand::Vector(parts) = operand { parts.as_slice() } else { single };
            if parts.len() != registers {
                return fail(raw.line, format!("\"{}\" takes {registers} registers here", raw.opcode));
            }
            for part in parts {
                list.push(if list.len() < 4 {
                    destination(raw, part, Class::B32)?
                } else {
                    self.source(raw, part, b'w')?
                });
            }
        }
        let index = self.kernel.lists.len() as i64;
        self.kernel.lists.push(list);
        self.emit(raw, Op::Mma(mma), &[], index)
    }

    fn branch(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let index = self.kernel.code.len();
        match (raw.opcode, raw.operands.as_slice()) {
            ("bra" | "bra.uni", [Operand::Name(label)]) => {
                self.branches.push((index, label.to_string()));
                self.emit(raw, Op::Bra, &[], 0)
            }
            ("brx.idx" | "brx.idx.uni", [by, Operand::Name(list)]) => {
                self.branches.push((index, list.to_string()));
                let by = self.source(raw, by, b'w')?;
                self.emit(raw, Op::Brx, &[by], 0)
            }
            ("bra" | "bra.uni" | "brx.idx" | "brx.idx.uni", _) => count(raw),
            _ => unknown(raw),
        }
    }

    fn shuffle(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let mode = match raw.opcode {
            "shfl.sync.up.b32" => Shuffle::Up,
            "shfl.sync.down.b32" => Shuffle::Down,
            "shfl.sync.bfly.b32" => Shuffle::Bfly,
            "shfl.sync.idx.b32" => Shuffle::Idx,
            _ => return unknown(raw),
        };
        let [to, value, lane, clamp, members] = raw.operands.as_slice() else { return count(raw) };
        let (to, p) = match to {
            Operand::Pair(a, b) => (destination(raw, a, Class::B32)?, Some(destination(raw, b, Class::Pred)?)),
            to => (destination(raw, to, Class::B32)?, None),
        };
        let mut rows = [to, p.unwrap_or(NONE), 0, 0, 0, 0];
        for (row, operand) in rows[2..].iter_mut().zip([value, lane, clamp, members]) {
            *row = self.source(raw, operand, b'w')?;
        }
        self.emit(raw, Op::Shfl { mode, predicate: p.is_some() }, &rows, 0)
    }

    fn vote(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let (vote, to_class) = match raw.opcode {
            "activemask.b32" => {
                let [to] = raw.operands.as_slice() else { return count(raw) };
                let to = destination(raw, to, Class::B32)?;
                return self.emit(raw, Op::ActiveMask, &[to], 0);
            }
            "match.any.sync.b32" => {
                let [to, value, members] = raw.operands.as_slice() else { return count(raw) };
                let to = destination(raw, to, Class::B32)?;
                let (value, members) = (self.source(raw, value, b'w')?, self.source(raw, members, b'w')?);
                return self.emit(raw, Op::MatchAny32, &[to, value, members], 0);
            }
            "vote.sync.ballot.b32" => (Vote::Ballot, Class::B32),
            "vote.sync.any.pred" => (Vote::Any, Class::Pred),
            "vote.sync.all.pred" => (Vote::All, Class::Pred),
            "vote.sync.uni.pred" => (Vote::Uni, Class::Pred),
            _ => return unknown(raw),
        };
        let [to, p, members] = raw.operands.as_slice() else { return count(raw) };
        let to = destination(raw, to, to_class)?;
        let (p, negate) = pred(raw, p)?;
        let members = self.source(raw, members, b'w')?;
        self.emit(raw, Op::Vote(vote), &[to, p, members], i64::from(negate))
    }

    fn barrier(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let number = |operand: &Operand| match operand {
            Operand::Literal(Literal::Int(n)) if (0..16).contains(n) => Ok(*n as i64),
            _ => fail(raw.line, "a barrier is a constant from 0 to 15, and is for the whole block"),
        };
        let (reduce, to_class) = match raw.opcode {
            "bar.warp.sync" => {
                let [members] = raw.operands.as_slice() else { return count(raw) };
                let members = self.source(raw, members, b'w')?;
                return self.emit(raw, Op::WarpSync, &[members], 0);
            }
            "bar.sync" | "bar.cta.sync" | "barrier.sync" | "barrier.sync.aligned" | "barrier.cta.sync.aligned" => {
                let [n] = raw.operands.as_slice() else {
                    return fail(raw.line, "barriers of a part of a block are not supported");
                };
                return self.emit(raw, Op::Bar, &[], number(n)?);
            }
            "bar.red.popc.u32" | "bar.cta.red.popc.u32" | "barrier.red.popc.aligned.u32" => (Reduce::Popc, Class::B32),
            "bar.red.and.pred" | "bar.cta.red.and.pred" | "barrier.red.and.aligned.pred" => (Reduce::And, Class::Pred),
            "bar.red.or.pred" | "bar.cta.red.or.pred" | "barrier.red.or.aligned.pred" => (Reduce::Or, Class::Pred),
            _ => return unknown(raw),
        };
        let [to, n, p] = raw.operands.as_slice() else { return count(raw) };
        let to = destination(raw, to, to_class)?;
        let (p, negate) = pred(raw, p)?;
        let imm = number(n)? | i64::from(negate) << 32;
        self.emit(raw, Op::BarRed(reduce), &[to, p], imm)
    }

    fn simple(&mut self, raw: &Raw) -> Result<(), LoadError> {
        let op = match raw.opcode {
            "ret" | "ret.uni" | "exit" => Op::Exit,
            "trap" => Op::Trap,
            "membar.cta" | "membar.gl" | "membar.sys" | "fence.acq_rel.cta" | "fence.acq_rel.gpu" | "fence.sc.cta"
            | "fence.sc.gpu" | "nanosleep.u32" => Op::Fence,
            "prefetch.global.L1" | "prefetch.global.L2" => Op::Fence,
            _ => return unknown(raw),
        };
        self.emit(raw, op, &[], 0)
    }
}

fn blank(op: Op, line: u32) -> Instr {
    Instr { op, guard: None, rows: [NONE; 8], imm: 0, imm2: 0, line }
}

fn find(labels: &HashMap<String, u32>, label: &str, line: u32) -> Result<u32, LoadError> {
    match labels.get(label) {
        Some(&at) => Ok(at),
        None => fail(line, format!("no label \"{label}\"")),
    }
}

pub fn unknown<T>(raw: &Raw) -> Result<T, LoadError> {
    fail(raw.line, format!("unknown or unsupported instruction \"{}\"", raw.opcode))
}

pub fn count<T>(raw: &Raw) -> Result<T, LoadError> {
    fail(raw.line, format!("wrong number or kind of operands for \"{}\"", raw.opcode))
}

fn class(kind: u8) -> Class {
    match kind {
        b'h' => Class::B16,
        b'w' | b'f' => Class::B32,
        _ => Class::B64,
    }
}

/// A register may be wider than an integer that is converted, not narrower; other types have their exact size.
fn fits(kind: Type, class: Class) -> bool {
    let size = match class {
        Class::Pred => return false,
        Class::B16 => 2,
        Class::B32 => 4,
        Class::B64 => 8,
    };
    if kind.is_int() { kind.size() <= size } else { kind.size() == size }
}

fn literal_bits(raw: &Raw, literal: Literal, kind: u8) -> Result<u64, LoadError> {
    match (literal, kind) {
        (Literal::Int(value), b'h') => Ok(value as u64 & 0xffff),
        (Literal::Int(value), b'w') => Ok(value as u64 & 0xffff_ffff),
        (Literal::Int(value), b'd') => Ok(value as u64),
        (Literal::F32(bits), b'f' | b'w') => Ok(u64::from(bits)),
        (Literal::F64(bits), b'g' | b'd') => Ok(bits),
        // A decimal literal in a place for f32.
        (Literal::F64(bits), b'f') => Ok(u64::from((f64::from_bits(bits) as f32).to_bits())),
        _ => fail(raw.line, format!("a literal of \"{}\" is not of the type it takes", raw.opcode)),
    }
}

pub fn destination(raw: &Raw, operand: &Operand, class: Class) -> Result<u32, LoadError> {
    match operand {
        Operand::Register(register) if register.class == class => Ok(register.row),
        _ => fail(raw.line, format!("the destination of \"{}\" is not of the class it gives", raw.opcode)),
    }
}

/// A predicate operand and whether it is negated. Literals: predicate 0 is always true.
pub fn pred(raw: &Raw, operand: &Operand) -> Result<(u32, bool), LoadError> {
    match operand {
        Operand::Register(register) if register.class == Class::Pred => Ok((register.row, false)),
        Operand::NotPred(register) => Ok((register.row, true)),
        Operand::Literal(Literal::Int(value)) => Ok((0, *value == 0)),
        _ => fail(raw.line, format!("\"{}\" takes a predicate here", raw.opcode)),
    }
}

/// The comparison, and the class of its operands.
fn comparison(compare: &str, kind: &str, ftz: bool) -> Option<(Compare, CompareType, u8)> {
    let (kind, letter) = match (kind, ftz) {
        ("u16" | "b16", false) => (CompareType::U16, b'h'),
        ("s16", false) => (CompareType::S16, b'h'),
        ("u32" | "b32", false) => (CompareType::U32, b'w'),
        ("s32", false) => (CompareType::S32, b'w'),
        ("u64" | "b64", false) => (CompareType::U64, b'd'),
        ("s64", false) => (CompareType::S64, b'd'),
        ("f32", false) => (CompareType::F32, b'f'),
        ("f32", true) => (CompareType::F32Ftz, b'f'),
        ("f64", false) => (CompareType::F64, b'g'),
        _ => return None,
    };
    let float = matches!(kind, CompareType::F32 | CompareType::F32Ftz | CompareType::F64);
    let unsigned = matches!(kind, CompareType::U16 | CompareType::U32 | CompareType::U64);
    let compare = match compare {
        "eq" => Compare::Eq,
        "ne" => Compare::Ne,
        "lt" => Compare::Lt,
        "le" => Compare::Le,
        "gt" => Compare::Gt,
        "ge" => Compare::Ge,
        "lo" if unsigned => Compare::Lt,
        "ls" if unsigned => Compare::Le,
        "hi" if unsigned => Compare::Gt,
        "hs" if unsigned => Compare::Ge,
        "equ" if float => Compare::Equ,
        "neu" if float => Compare::Neu,
        "ltu" if float => Compare::Ltu,
        "leu" if float => Compare::Leu,
        "gtu" if float => Compare::Gtu,
        "geu" if float => Compare::Geu,
        "num" if float => Compare::Num,
        "nan" if float => Compare::Nan,
        _ => return None,
    };
    Some((compare, kind, letter))
}
