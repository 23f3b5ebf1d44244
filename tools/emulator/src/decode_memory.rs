//! Decoding of what touches memory.

use crate::decode::{Decoder, NONE, count, destination, unknown};
use crate::lexer::{Literal, LoadError, fail};
use crate::parse::{Class, Operand, Raw, Symbol};
use crate::program::{Access, AtomOp, Op, Space};

/// A base row, and a constant offset.
struct Place {
    row: u32,
    base: bool,
    wide: bool,
    offset: i64,
}

/// The address of an access in a space.
fn place(decoder: &mut Decoder, raw: &Raw, operand: &Operand, space: Space) -> Result<Place, LoadError> {
    let Operand::Address(base, offset) = operand else {
        return fail(raw.line, format!("\"{}\" takes an address in brackets", raw.opcode));
    };
    let offset = *offset;
    let constant = |at: u32| Ok(Place { row: NONE, base: false, wide: false, offset: i64::from(at) + offset });
    match (**base).clone() {
        Operand::Register(r) if r.class == Class::B64 => Ok(Place { row: r.row, base: true, wide: true, offset }),
        Operand::Register(r)
            if r.class == Class::B32 && matches!(space, Space::Shared | Space::Local | Space::Param) =>
        {
            Ok(Place { row: r.row, base: true, wide: false, offset })
        }
        Operand::Symbol(Symbol::Variable(index)) if matches!(space, Space::Global | Space::Const | Space::Generic) => {
            Ok(Place { row: decoder.variable(index, 0), base: true, wide: true, offset })
        }
        Operand::Symbol(Symbol::Shared(at)) if space == Space::Shared => constant(at),
        Operand::Symbol(Symbol::Local(at)) if space == Space::Local => constant(at),
        Operand::Symbol(Symbol::Param(at)) if space == Space::Param => constant(at),
        Operand::Name(name) => fail(raw.line, format!("\"{name}\" is not declared")),
        _ => fail(raw.line, format!("\"{}\" cannot use this address", raw.opcode)),
    }
}

fn space(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

/// Bytes, and whether the sign extends.
fn element(word: &str) -> Option<(u8, bool)> {
    Some(match word {
        "b8" | "u8" => (1, false),
        "s8" => (1, true),
        "b16" | "u16" => (2, false),
        "s16" => (2, true),
        "b32" | "u32" | "s32" | "f32" => (4, word == "s32"),
        "b64" | "u64" | "s64" | "f64" => (8, false),
        _ => return None,
    })
}

/// Hints that change no result.
fn is_hint(word: &str) -> bool {
    let hints =
        ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "L1::no_allocate", "L1::evict_first", "L1::evict_last"];
    hints.contains(&word) || ["L2::64B", "L2::128B", "L2::256B", "L1::evict_normal"].contains(&word)
}

/// The race detector looks at the smallest pieces that a kernel touches.
fn grain(decoder: &mut Decoder, space: Space, size: u8) {
    let size = u32::from(size).min(4);
    if matches!(space, Space::Shared | Space::Generic) {
        decoder.kernel.shared_grain = decoder.kernel.shared_grain.min(size);
    }
    if matches!(space, Space::Global | Space::Generic) {
        decoder.kernel.global_grain = decoder.kernel.global_grain.min(size);
    }
}

/// `ld`, `st`, `atom` and `red`.
pub fn access(decoder: &mut Decoder, raw: &Raw) -> Result<(), LoadError> {
    let mut parts = raw.opcode.split('.').peekable();
    let family = parts.next().unwrap_or("");
    if matches!(family, "atom" | "red") {
        return atomic(decoder, raw, family == "atom");
    }
    parts.next_if(|w| ["weak", "volatile"].contains(w));
    let named = parts.peek().and_then(|w| space(w));
    if named.is_some() {
        parts.next();
    }
    let space = named.unwrap_or(Space::Generic);
    let mut read_only = false;
    while let Some(hint) = parts.next_if(|w| is_hint(w)) {
        read_only |= hint == "nc";
    }
    let count = match parts.peek() {
        Some(&"v2") => 2,
        Some(&"v4") => 4,
        _ => 1,
    };
    if count > 1 {
        parts.next();
    }
    let Some((size, signed)) = parts.next().and_then(element) else { return unknown(raw) };
    let load = family != "st";
    if parts.next().is_some()
        || size * count > 16
        || !load && matches!(space, Space::Const | Space::Param)
        || (family == "ldu" || read_only) && space != Space::Global
        || read_only && !load
    {
        return unknown(raw);
    }
    let [first, second] = raw.operands.as_slice() else { return crate::decode::count(raw) };
    let (data, address) = if load { (first, second) } else { (second, first) };
    let place = place(decoder, raw, address, space)?;
    let single = std::slice::from_ref(data);
    let data = if let Operand::Vector(parts) = data { parts.as_slice() } else { single };
    if data.len() != usize::from(count) {
        return crate::decode::count(raw);
    }
    let mut rows = [NONE; 5];
    let mut register64 = size == 8;
    for (row, operand) in rows.iter_mut().zip(data) {
        *row = match operand {
            Operand::Register(r) if r.class == Class::B64 => {
                register64 = true;
                r.row
            }
            Operand::Register(r) if r.class == Class::B32 && size <= 4 => r.row,
            Operand::Register(r) if r.class == Class::B16 && size <= 2 => r.row,
            Operand::Name("_") if load => decoder.register(if size == 8 { Class::B64 } else { Class::B32 }).row,
            Operand::Literal(Literal::F32(bits)) if !load && size == 4 => decoder.word(*bits),
            Operand::Literal(_) if !load => decoder.source(raw, operand, if size == 8 { b'd' } else { b'w' })?,
            _ => return fail(raw.line, format!("a register of \"{}\" is too small", raw.opcode)),
        };
    }
    rows[4] = place.row;
    grain(decoder, space, size);
    let access = Access { space, size, count, signed, read_only, register64, base: place.base, wide: place.wide };
    decoder.emit(raw, if load { Op::Ld(access) } else { Op::St(access) }, &rows, place.offset)
}

fn atomic(decoder: &mut Decoder, raw: &Raw, result: bool) -> Result<(), LoadError> {
    let mut parts = raw.opcode.split('.').skip(1).peekable();
    parts.next_if(|w| ["relaxed", "acq_rel", "acquire", "release"].contains(w));
    parts.next_if(|w| ["cta", "gpu"].contains(w));
    let named = parts.peek().and_then(|w| space(w));
    if named.is_some() {
        parts.next();
    }
    let space = named.unwrap_or(Space::Generic);
    let (Some(op), Some(kind), None) = (parts.next(), parts.next(), parts.next()) else { return unknown(raw) };
    let signed = matches!(kind, "s32" | "s64");
    let op = match (op, kind) {
        ("add", "u32" | "s32" | "u64") => AtomOp::Add,
        ("and", "b32" | "b64") => AtomOp::And,
        ("or", "b32" | "b64") => AtomOp::Or,
        ("xor", "b32" | "b64") => AtomOp::Xor,
        ("exch", "b32" | "b64") if result => AtomOp::Exch,
        ("cas", "b32" | "b64") if result => AtomOp::Cas,
        ("inc", "u32") => AtomOp::Inc,
        ("dec", "u32") => AtomOp::Dec,
        ("min", "u32" | "u64") => AtomOp::MinU,
        ("max", "u32" | "u64") => AtomOp::MaxU,
        ("min", "s32" | "s64") => AtomOp::MinS,
        ("max", "s32" | "s64") => AtomOp::MaxS,
        _ => return unknown(raw),
    };
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return unknown(raw);
    }
    let wide = kind.ends_with("64");
    let (letter, class, size) = if wide { (b'd', Class::B64, 8) } else { (b'w', Class::B32, 4) };
    let expected = 1 + usize::from(result) + 1 + usize::from(op == AtomOp::Cas);
    let Some((address, values)) = raw.operands.get(usize::from(result)..).and_then(|o| o.split_first()) else {
        return count(raw);
    };
    if raw.operands.len() != expected {
        return count(raw);
    }
    let mut rows = [NONE; 8];
    if result {
        rows[0] = match &raw.operands[0] {
            Operand::Name("_") => decoder.register(class).row,
            operand => destination(raw, operand, class)?,
        };
    }
    for (at, value) in [2, 6].into_iter().zip(values) {
        rows[at] = decoder.source(raw, value, letter)?;
    }
    let place = place(decoder, raw, address, space)?;
    rows[4] = place.row;
    grain(decoder, space, size);
    let access = Access {
        space,
        size,
        count: 1,
        signed,
        read_only: false,
        register64: wide,
        base: place.base,
        wide: place.wide,
    };
    decoder.emit(raw, Op::Atom { op, access, result }, &rows, place.offset)
}

/// `cp.async` and its groups.
pub fn copy_async(decoder: &mut Decoder, raw: &Raw) -> Result<(), LoadError> {
    match (raw.opcode, raw.operands.as_slice()) {
        ("cp.async.commit_group", []) => return decoder.emit(raw, Op::CopyCommit, &[], 0),
        ("cp.async.wait_all", []) => return decoder.emit(raw, Op::CopyWaitAll, &[], 0),
        ("cp.async.wait_group", [Operand::Literal(Literal::Int(n))]) if (0..1 << 16).contains(n) => {
            return decoder.emit(raw, Op::CopyWaitGroup, &[], *n as i64);
        }
        _ => {}
    }
    let Some((cache, hint)) = raw.opcode.strip_prefix("cp.async.").and_then(|r| r.split_once(".shared")) else {
        return unknown(raw);
    };
    let hint = hint.strip_prefix("::cta").unwrap_or(hint);
    let hints = [".global", ".global.L2::64B", ".global.L2::128B", ".global.L2::256B"];
    if !hints.contains(&hint) || !["ca", "cg"].contains(&cache) {
        return unknown(raw);
    }
    let [to, from, Operand::Literal(Literal::Int(size)), rest @ ..] = raw.operands.as_slice() else {
        return count(raw);
    };
    let sizes: &[i128] = if cache == "cg" { &[16] } else { &[4, 8, 16] };
    if !sizes.contains(size) || rest.len() > 1 {
        return fail(raw.line, format!("\"{}\" copies {sizes:?} bytes", raw.opcode));
    }
    let to = place(decoder, raw, to, Space::Shared)?;
    let from = place(decoder, raw, from, Space::Global)?;
    let ragged = !rest.is_empty();
    let bytes = match rest.first() {
        Some(operand) => decoder.source(raw, operand, b'w')?,
        None => NONE,
    };
    let op = Op::CopyAsync { size: *size as u8, ragged, wide: to.wide, base: to.base };
    decoder.emit(raw, op, &[from.row, NONE, bytes, NONE, to.row], to.offset)?;
    if let Some(instr) = decoder.kernel.code.last_mut() {
        instr.imm2 = i32::try_from(from.offset).unwrap_or(0);
    }
    Ok(())
}

pub fn ldmatrix(decoder: &mut Decoder, raw: &Raw) -> Result<(), LoadError> {
    let Some(rest) = raw.opcode.strip_prefix("ldmatrix.sync.aligned.m8n8.x") else { return unknown(raw) };
    let Some((number, rest)) = rest.split_once('.') else { return unknown(raw) };
    let (transposed, rest) = match rest.strip_prefix("trans.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let number: u8 = match (number, rest) {
        ("1", "shared.b16" | "shared::cta.b16") => 1,
        ("2", "shared.b16" | "shared::cta.b16") => 2,
        ("4", "shared.b16" | "shared::cta.b16") => 4,
        _ => return unknown(raw),
    };
    let [to, from] = raw.operands.as_slice() else { return count(raw) };
    let single = std::slice::from_ref(to);
    let parts = if let Operand::Vector(parts) = to { parts.as_slice() } else { single };
    if parts.len() != usize::from(number) {
        return count(raw);
    }
    let mut rows = [NONE; 5];
    for (row, part) in rows.iter_mut().zip(parts) {
        *row = destination(raw, part, Class::B32)?;
    }
    let place = place(decoder, raw, from, Space::Shared)?;
    rows[4] = place.row;
    let op = Op::LdMatrix { count: number, transposed, wide: place.wide, base: place.base };
    decoder.emit(raw, op, &rows, place.offset)
}
