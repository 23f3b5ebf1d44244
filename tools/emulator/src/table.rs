//! The instructions that take rows and give a row, with their whole opcodes.
//!
//! A pattern lists alternatives in braces. Signature: result, `=`, operands; `h` 16 bits, `w` 32 bits, `d` 64 bits,
//! `f` and `g` the same as `w` and `d` for floating-point numbers, where an integer literal is an error.

use std::collections::HashMap;
use std::sync::OnceLock;

macro_rules! alu {
    ($($name:ident: $pattern:literal $signature:literal;)*) => {
        /// An operation on rows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Alu { $($name),* }
        const ENTRIES: &[(Alu, &str, &str)] = &[$((Alu::$name, $pattern, $signature)),*];
    };
}

alu! {
    Add16: "add.{u,s}16" "h=hh";
    Add32: "add.{u,s}32" "w=ww";
    Add64: "add.{u,s}64" "d=dd";
    Sub16: "sub.{u,s}16" "h=hh";
    Sub32: "sub.{u,s}32" "w=ww";
    Sub64: "sub.{u,s}64" "d=dd";
    Mul16: "mul.lo.{u,s}16" "h=hh";
    Mul32: "mul.lo.{u,s}32" "w=ww";
    Mul64: "mul.lo.{u,s}64" "d=dd";
    MulHiU16: "mul.hi.u16" "h=hh";
    MulHiS16: "mul.hi.s16" "h=hh";
    MulHiU32: "mul.hi.u32" "w=ww";
    MulHiS32: "mul.hi.s32" "w=ww";
    MulHiU64: "mul.hi.u64" "d=dd";
    MulHiS64: "mul.hi.s64" "d=dd";
    MulWideU16: "mul.wide.u16" "w=hh";
    MulWideS16: "mul.wide.s16" "w=hh";
    MulWideU32: "mul.wide.u32" "d=ww";
    MulWideS32: "mul.wide.s32" "d=ww";
    Mad16: "mad.lo.{u,s}16" "h=hhh";
    Mad32: "mad.lo.{u,s}32" "w=www";
    Mad64: "mad.lo.{u,s}64" "d=ddd";
    MadHiU32: "mad.hi.u32" "w=www";
    MadHiS32: "mad.hi.s32" "w=www";
    MadWideU16: "mad.wide.u16" "w=hhw";
    MadWideS16: "mad.wide.s16" "w=hhw";
    MadWideU32: "mad.wide.u32" "d=wwd";
    MadWideS32: "mad.wide.s32" "d=wwd";
    DivU16: "div.u16" "h=hh";
    DivS16: "div.s16" "h=hh";
    DivU32: "div.u32" "w=ww";
    DivS32: "div.s32" "w=ww";
    DivU64: "div.u64" "d=dd";
    DivS64: "div.s64" "d=dd";
    RemU16: "rem.u16" "h=hh";
    RemS16: "rem.s16" "h=hh";
    RemU32: "rem.u32" "w=ww";
    RemS32: "rem.s32" "w=ww";
    RemU64: "rem.u64" "d=dd";
    RemS64: "rem.s64" "d=dd";
    AbsS16: "abs.s16" "h=h";
    AbsS32: "abs.s32" "w=w";
    AbsS64: "abs.s64" "d=d";
    Neg16: "neg.s16" "h=h";
    Neg32: "neg.s32" "w=w";
    Neg64: "neg.s64" "d=d";
    MinU16: "min.u16" "h=hh";
    MinS16: "min.s16" "h=hh";
    MinU32: "min.u32" "w=ww";
    MinS32: "min.s32" "w=ww";
    MinU64: "min.u64" "d=dd";
    MinS64: "min.s64" "d=dd";
    MaxU16: "max.u16" "h=hh";
    MaxS16: "max.s16" "h=hh";
    MaxU32: "max.u32" "w=ww";
    MaxS32: "max.s32" "w=ww";
    MaxU64: "max.u64" "d=dd";
    MaxS64: "max.s64" "d=dd";
    And16: "and.b16" "h=hh";
    And32: "and.b32" "w=ww";
    And64: "and.b64" "d=dd";
    Or16: "or.b16" "h=hh";
    Or32: "or.b32" "w=ww";
    Or64: "or.b64" "d=dd";
    Xor16: "xor.b16" "h=hh";
    Xor32: "xor.b32" "w=ww";
    Xor64: "xor.b64" "d=dd";
    Not16: "not.b16" "h=h";
    Not32: "not.b32" "w=w";
    Not64: "not.b64" "d=d";
    Shl16: "shl.b16" "h=hw";
    Shl32: "shl.b32" "w=ww";
    Shl64: "shl.b64" "d=dw";
    ShrU16: "shr.{u,b}16" "h=hw";
    ShrS16: "shr.s16" "h=hw";
    ShrU32: "shr.{u,b}32" "w=ww";
    ShrS32: "shr.s32" "w=ww";
    ShrU64: "shr.{u,b}64" "d=dw";
    ShrS64: "shr.s64" "d=dw";
    Popc32: "popc.b32" "w=w";
    Popc64: "popc.b64" "w=d";
    Clz32: "clz.b32" "w=w";
    Clz64: "clz.b64" "w=d";
    Brev32: "brev.b32" "w=w";
    Brev64: "brev.b64" "d=d";
    BfindU32: "bfind.u32" "w=w";
    BfindS32: "bfind.s32" "w=w";
    BfindU64: "bfind.u64" "w=d";
    BfindShiftU32: "bfind.shiftamt.u32" "w=w";
    BfindShiftU64: "bfind.shiftamt.u64" "w=d";
    BfeU32: "bfe.u32" "w=www";
    BfeS32: "bfe.s32" "w=www";
    BfeU64: "bfe.u64" "d=dww";
    BfeS64: "bfe.s64" "d=dww";
    Bfi32: "bfi.b32" "w=wwww";
    Bfi64: "bfi.b64" "d=ddww";
    Prmt: "prmt.b32" "w=www";
    Lop3: "lop3.b32" "w=wwww";
    ShfLWrap: "shf.l.wrap.b32" "w=www";
    ShfLClamp: "shf.l.clamp.b32" "w=www";
    ShfRWrap: "shf.r.wrap.b32" "w=www";
    ShfRClamp: "shf.r.clamp.b32" "w=www";
    Dp4aUU: "dp4a.u32.u32" "w=www";
    Dp4aSS: "dp4a.s32.s32" "w=www";
    Dp4aUS: "dp4a.u32.s32" "w=www";
    Dp4aSU: "dp4a.s32.u32" "w=www";
    AddF32: "add{,.rn}.f32" "f=ff";
    AddF32Ftz: "add{,.rn}.ftz.f32" "f=ff";
    AddF32Sat: "add{,.rn}.sat.f32" "f=ff";
    AddF32Rz: "add.rz.f32" "f=ff";
    AddF32Rm: "add.rm.f32" "f=ff";
    AddF32Rp: "add.rp.f32" "f=ff";
    SubF32: "sub{,.rn}.f32" "f=ff";
    SubF32Ftz: "sub{,.rn}.ftz.f32" "f=ff";
    SubF32Rz: "sub.rz.f32" "f=ff";
    SubF32Rm: "sub.rm.f32" "f=ff";
    SubF32Rp: "sub.rp.f32" "f=ff";
    MulF32: "mul{,.rn}.f32" "f=ff";
    MulF32Ftz: "mul{,.rn}.ftz.f32" "f=ff";
    MulF32Sat: "mul{,.rn}.sat.f32" "f=ff";
    MulF32Rz: "mul.rz.f32" "f=ff";
    MulF32Rm: "mul.rm.f32" "f=ff";
    MulF32Rp: "mul.rp.f32" "f=ff";
    FmaF32: "fma.rn.f32" "f=fff";
    FmaF32Ftz: "fma.rn.ftz.f32" "f=fff";
    FmaF32Sat: "fma.rn.sat.f32" "f=fff";
    FmaF32Rz: "fma.rz.f32" "f=fff";
    FmaF32Rm: "fma.rm.f32" "f=fff";
    FmaF32Rp: "fma.rp.f32" "f=fff";
    DivF32: "div.{rn,full,approx}.f32" "f=ff";
    DivF32Ftz: "div.{rn,full,approx}.ftz.f32" "f=ff";
    RcpF32: "rcp.{rn,approx}.f32" "f=f";
    RcpF32Ftz: "rcp.{rn,approx}.ftz.f32" "f=f";
    SqrtF32: "sqrt.{rn,approx}.f32" "f=f";
    SqrtF32Ftz: "sqrt.{rn,approx}.ftz.f32" "f=f";
    RsqrtF32: "rsqrt.approx.f32" "f=f";
    RsqrtF32Ftz: "rsqrt.approx.ftz.f32" "f=f";
    SinF32: "sin.approx.f32" "f=f";
    SinF32Ftz: "sin.approx.ftz.f32" "f=f";
    CosF32: "cos.approx.f32" "f=f";
    CosF32Ftz: "cos.approx.ftz.f32" "f=f";
    Lg2F32: "lg2.approx.f32" "f=f";
    Lg2F32Ftz: "lg2.approx.ftz.f32" "f=f";
    Ex2F32: "ex2.approx.f32" "f=f";
    Ex2F32Ftz: "ex2.approx.ftz.f32" "f=f";
    TanhF32: "tanh.approx.f32" "f=f";
    AbsF32: "abs.f32" "f=f";
    AbsF32Ftz: "abs.ftz.f32" "f=f";
    NegF32: "neg.f32" "f=f";
    NegF32Ftz: "neg.ftz.f32" "f=f";
    MinF32: "min.f32" "f=ff";
    MinF32Ftz: "min.ftz.f32" "f=ff";
    MinNanF32: "min.NaN.f32" "f=ff";
    MaxF32: "max.f32" "f=ff";
    MaxF32Ftz: "max.ftz.f32" "f=ff";
    MaxNanF32: "max.NaN.f32" "f=ff";
    CopysignF32: "copysign.f32" "f=ff";
    AddF64: "add{,.rn}.f64" "g=gg";
    SubF64: "sub{,.rn}.f64" "g=gg";
    MulF64: "mul{,.rn}.f64" "g=gg";
    FmaF64: "fma.rn.f64" "g=ggg";
    DivF64: "div.rn.f64" "g=gg";
    RcpF64: "rcp.rn.f64" "g=g";
    SqrtF64: "sqrt.rn.f64" "g=g";
    AbsF64: "abs.f64" "g=g";
    NegF64: "neg.f64" "g=g";
    MinF64: "min.f64" "g=gg";
    MaxF64: "max.f64" "g=gg";
    FmaF16: "fma.rn.f16" "h=hhh";
    FmaF16x2: "fma.rn.f16x2" "w=www";
    FmaBf16: "fma.rn.bf16" "h=hhh";
    FmaBf16x2: "fma.rn.bf16x2" "w=www";
    AddF16: "add{,.rn}.f16" "h=hh";
    AddF16x2: "add{,.rn}.f16x2" "w=ww";
    SubF16: "sub{,.rn}.f16" "h=hh";
    SubF16x2: "sub{,.rn}.f16x2" "w=ww";
    MulF16: "mul{,.rn}.f16" "h=hh";
    MulF16x2: "mul{,.rn}.f16x2" "w=ww";
    MaxBf16x2: "max.bf16x2" "w=ww";
    MinBf16x2: "min.bf16x2" "w=ww";
    NegBf16: "neg.bf16" "h=h";
    NegBf16x2: "neg.bf16x2" "w=w";
    AbsBf16x2: "abs.bf16x2" "w=w";
}

/// Operand classes of an opcode.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub alu: Alu,
    pub result: u8,
    pub operands: &'static [u8],
}

/// All words that a pattern stands for.
pub fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_string()] };
    let Some((choices, after)) = rest.split_once('}') else { return vec![pattern.to_string()] };
    let tails = expand(after);
    choices.split(',').flat_map(|choice| tails.iter().map(move |tail| format!("{before}{choice}{tail}"))).collect()
}

/// The entry of a whole opcode.
pub fn find(opcode: &str) -> Option<Entry> {
    static TABLE: OnceLock<HashMap<String, Entry>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = HashMap::new();
        for (alu, pattern, signature) in ENTRIES {
            let bytes = signature.as_bytes();
            if let [result, b'=', operands @ ..] = bytes {
                for opcode in expand(pattern) {
                    table.insert(opcode, Entry { alu: *alu, result: *result, operands });
                }
            }
        }
        table
    });
    table.get(opcode).copied()
}

/// All opcodes of this table, for the coverage list.
pub fn opcodes() -> Vec<String> {
    ENTRIES.iter().flat_map(|(_, pattern, _)| expand(pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_whole_opcodes() {
        assert_eq!(expand("a{,.x}.{b,c}"), ["a.b", "a.c", "a.x.b", "a.x.c"]);
        assert!(find("add.rn.ftz.f32").is_some_and(|e| e.alu == Alu::AddF32Ftz));
        assert!(find("add.f3").is_none() && find("add.ftz.rn.f32").is_none());
    }

    #[test]
    fn no_opcode_is_listed_twice() {
        let all = opcodes();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(all.len(), unique.len());
    }
}
