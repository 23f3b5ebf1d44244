//! A decoded module: what the interpreter runs.
//!
//! Every operand is a row number. A row holds 32 bits for each of the 32 lanes of a warp; a 64-bit register is two
//! neighbouring rows, the low half first. Immediates and special registers are rows as well, filled before a block
//! begins, so that an instruction never asks what kind its operand is. Predicates live apart, one bit a lane.

use crate::cvt::Cvt;
use crate::table::Alu;
use crate::tensor::Mma;

/// One 32-bit value for each lane of a warp.
pub type Row = [u32; LANES];
/// Threads in a warp.
pub const LANES: usize = 32;
/// The mask of a whole warp.
pub const ALL: u32 = u32::MAX;
/// What a register or a byte of memory holds before anything was written: a NaN that is easy to recognise.
pub const POISON: u32 = 0x7fff_dead;

/// Where generic addresses of shared and of local memory begin.
pub const SHARED_BASE: u64 = 1 << 48;
pub const LOCAL_BASE: u64 = 2 << 48;

/// A state space that loads and stores name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A load, store or atomic access. Address: rows[4] (+1 where `wide`), plus `Instr::imm`; data in rows[0..count]
/// (a 64-bit element takes two rows each). A constant address has `base` false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub space: Space,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub size: u8,
    /// Elements: 1, 2 or 4.
    pub count: u8,
    pub signed: bool,
    /// `ld.global.nc`: nothing may write there during the launch.
    pub read_only: bool,
    /// The data registers are 64 bits wide.
    pub register64: bool,
    /// The address has a register.
    pub base: bool,
    /// The address register is 64 bits wide.
    pub wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
    MinU,
    MaxU,
    MinS,
    MaxS,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    Ballot,
    Any,
    All,
    Uni,
}

/// What `bar.red` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Popc,
    And,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareType {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F32,
    F32Ftz,
    F64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    None,
    And,
    Or,
    Xor,
}

/// `setp`: preds rows[0] (and its complement rows[1] where `second`), operands rows[2], rows[3], predicate rows[4]
/// (negated where `negate`) for the logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setp {
    pub compare: Compare,
    pub kind: CompareType,
    pub logic: Logic,
    pub second: bool,
    pub negate: bool,
}

/// What an instruction does. `rows` below are `Instr::rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// rows[0] = f(rows[1..]).
    Alu(Alu),
    Cvt(Cvt),
    Setp(Setp),
    /// preds: rows[0] = rows[1] op rows[2]; negations as bits 0 and 1 of imm.
    PredAnd,
    PredOr,
    PredXor,
    /// preds: rows[0] = !rows[1], or rows[1].
    PredNot,
    PredMov,
    /// rows[0] = predicate rows[3] ? rows[1] : rows[2].
    Selp32,
    Selp64,
    /// Moves `count` rows of 32 bits from rows[4..] to rows[0..].
    MovRows(u8),
    /// rows[0] of 32 bits from two 16-bit rows, low first, and back.
    Pack16,
    Unpack16,
    Ld(Access),
    St(Access),
    /// rows[0] old value, rows[2] operand, rows[6] second operand of cas.
    Atom {
        op: AtomOp,
        access: Access,
        result: bool,
    },
    /// rows[0] destination, predicate rows[1] (where `predicate`), rows[2] value, rows[3] lane, rows[4] clamp,
    /// rows[5] members.
    Shfl {
        mode: Shuffle,
        predicate: bool,
    },
    /// rows[0] destination (a predicate but for ballot), predicate rows[1] (negated by bit 0 of imm), rows[2] members.
    Vote(Vote),
    /// rows[0] destination, rows[1] value, rows[2] members.
    MatchAny32,
    ActiveMask,
    /// rows[0] members.
    WarpSync,
    /// imm is the barrier's number.
    Bar,
    /// rows[0] destination (a predicate but for popc), predicate rows[1] (negated by bit 32 of imm); imm barrier.
    BarRed(Reduce),
    /// Memory is always in order here.
    Fence,
    /// rows[4] address in shared memory + imm, rows[0] address in global memory + rows of `offset`, bytes in `size`,
    /// rows[2] bytes to read where `ragged`, rows[3] 1 where they are not.
    CopyAsync {
        size: u8,
        ragged: bool,
        wide: bool,
        base: bool,
    },
    CopyCommit,
    /// All groups but the latest `imm` have landed.
    CopyWaitGroup,
    CopyWaitAll,
    /// `count` 8x8 matrices to rows[0..count]; address rows[4] + imm.
    LdMatrix {
        count: u8,
        transposed: bool,
        wide: bool,
        base: bool,
    },
    /// Operands in `Kernel::lists[imm]`: d, a, b, c.
    Mma(Mma),
    /// To instruction imm.
    Bra,
    /// To one of `Kernel::lists[imm]`, by rows[0].
    Brx,
    Exit,
    Trap,
}

/// A predicate before an instruction: number, and whether it is negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub pred: u32,
    pub negate: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Instr {
    pub op: Op,
    pub guard: Option<Guard>,
    pub rows: [u32; 8],
    pub imm: i64,
    /// A further constant offset: of the global address of `cp.async`.
    pub imm2: i32,
    pub line: u32,
}

/// What fills a row before a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The low 32 bits, in every lane.
    Value(u32),
    /// Half (0 or 1) of the address of module variable `index`, plus an offset.
    Variable {
        index: u32,
        half: u8,
        offset: i64,
    },
    Special(Special),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
}

#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

/// An `.entry`.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// The largest block, 0 where not said.
    pub maxntid: [u32; 3],
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub code: Vec<Instr>,
    pub lists: Vec<Vec<u32>>,
    /// Rows of declared registers: 0..registers. Rows after them are `fills`.
    pub registers: u32,
    pub fills: Vec<Fill>,
    pub preds: u32,
    /// Bytes of the smallest access to shared and to global memory (1, 2 or 4): the grain of the race detector.
    pub shared_grain: u32,
    pub global_grain: u32,
}

/// A `.global` or `.const` variable.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub constant: bool,
    /// As at the start; as long as the variable.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Module {
    pub kernels: Vec<Kernel>,
    pub variables: Vec<Variable>,
    /// The text, line by line, for messages.
    pub lines: Vec<String>,
}

impl Module {
    /// The text of a line (from 1), without the white space around it.
    pub fn line(&self, number: u32) -> &str {
        (number as usize).checked_sub(1).and_then(|i| self.lines.get(i)).map_or("", |l| l.trim())
    }
}
