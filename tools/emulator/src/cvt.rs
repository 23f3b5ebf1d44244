//! `cvt`: which conversions there are, and what they give.

use crate::float::{Round, bits, f16_to_f32, f32_to_bf16, f32_to_tf32, f64_to_f16, flush, max32, round_sum, saturate};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
    F16x2,
    Bf16x2,
    Tf32,
}

impl Type {
    fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "u8" => Type::U8,
            "s8" => Type::S8,
            "u16" => Type::U16,
            "s16" => Type::S16,
            "u32" => Type::U32,
            "s32" => Type::S32,
            "u64" => Type::U64,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            _ => return None,
        })
    }

    /// Bytes of a value.
    pub fn size(self) -> u8 {
        match self {
            Type::U8 | Type::S8 => 1,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::U64 | Type::S64 | Type::F64 => 8,
            _ => 4,
        }
    }

    pub fn is_int(self) -> bool {
        matches!(self, Type::U8 | Type::S8 | Type::U16 | Type::S16 | Type::U32 | Type::S32 | Type::U64 | Type::S64)
    }

    fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Least and largest value of an integer type.
    fn range(self) -> (i128, i128) {
        let bits = u32::from(self.size()) * 8;
        if self.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cvt {
    pub dst: Type,
    pub src: Type,
    /// To the destination's format, or (`integral`) to a whole number.
    pub round: Option<Round>,
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    /// The registers are 64 bits wide.
    pub dst64: bool,
    pub src64: bool,
    /// The destination is a 16-bit register.
    pub narrow_register: bool,
}

impl Cvt {
    /// A packed result has two sources.
    pub fn pair(self) -> bool {
        matches!(self.dst, Type::F16x2 | Type::Bf16x2)
    }

    /// From a whole opcode; `None` where there is no such conversion on an sm_80.
    pub fn parse(opcode: &str) -> Option<Cvt> {
        let mut parts: Vec<&str> = opcode.strip_prefix("cvt.")?.split('.').collect();
        let src = Type::parse(parts.pop()?)?;
        let dst = Type::parse(parts.pop()?)?;
        let mut c = Cvt {
            dst,
            src,
            round: None,
            integral: false,
            ftz: false,
            sat: false,
            relu: false,
            dst64: false,
            src64: false,
            narrow_register: false,
        };
        let mut parts = parts.into_iter().peekable();
        if let Some(word) = parts.peek() {
            (c.round, c.integral) = match *word {
                "rn" => (Some(Round::Nearest), false),
                "rz" => (Some(Round::Zero), false),
                "rm" => (Some(Round::Down), false),
                "rp" => (Some(Round::Up), false),
                "rna" => (Some(Round::Away), false),
                "rni" => (Some(Round::Nearest), true),
                "rzi" => (Some(Round::Zero), true),
                "rmi" => (Some(Round::Down), true),
                "rpi" => (Some(Round::Up), true),
                _ => (None, false),
            };
            if c.round.is_some() {
                parts.next();
            }
        }
        c.ftz = parts.next_if_eq(&"ftz").is_some();
        c.relu = parts.next_if_eq(&"relu").is_some();
        c.sat = parts.next_if_eq(&"sat").is_some();
        (parts.next().is_none() && c.exists()).then_some(c)
    }

    fn exists(self) -> bool {
        use Type::{Bf16, Bf16x2, F16, F16x2, F32, F64, Tf32};
        let format = self.round.is_some() && !self.integral;
        let near_or_zero = matches!(self.round, Some(Round::Nearest | Round::Zero)) && !self.integral;
        let plain = !(self.ftz || self.relu || self.sat);
        match (self.dst, self.src) {
            (d, s) if d.is_int() && s.is_int() => self.round.is_none() && !self.ftz && !self.relu,
            (d, F32) if d.is_int() => self.integral && !self.relu,
            (d, F64 | F16) if d.is_int() => self.integral && !self.relu && !self.ftz,
            (F32, s) if s.is_int() => {
                format && self.round != Some(Round::Away) && plain && s.size() <= 4
                    || self.round == Some(Round::Nearest) && !self.integral && plain
            }
            (F64 | F16, s) if s.is_int() => self.round == Some(Round::Nearest) && !self.integral && plain,
            (F32, F32) => (self.round.is_none() || self.integral) && !self.relu,
            (F64, F64) => (self.round.is_none() || self.integral) && plain,
            (F32, F64) => format && self.round != Some(Round::Away) && plain,
            (F64, F32) => self.round.is_none() && plain,
            (F32 | F64, F16) => self.round.is_none() && plain,
            (F16, F32 | F64) => near_or_zero && plain,
            (Bf16, F32) | (Bf16x2 | F16x2, F32) => near_or_zero && !self.ftz && !self.sat,
            (Tf32, F32) => self.round == Some(Round::Away) && plain,
            _ => false,
        }
    }

    /// One value: the low bits of `a` (and `b`, the low half of a pair), to the bits of the destination register.
    #[inline(always)]
    pub fn apply(self, a: u64, b: u64) -> u64 {
        match (self.dst, self.src) {
            (d, s) if d.is_int() && s.is_int() => {
                let value = int_value(s, a);
                if !self.sat {
                    return widen(d, value as u64);
                }
                let (low, high) = d.range();
                widen(d, value.clamp(low, high) as u64)
            }
            (d, s) if d.is_int() => widen(d, self.to_int(float_value(s, a, self.ftz))),
            (Type::F32, s) if s.is_int() => u64::from(self.int_to_f32(int_value(s, a)).to_bits()),
            (Type::F64, s) if s.is_int() => (int_value(s, a) as f64).to_bits(),
            (Type::F16, s) if s.is_int() => u64::from(f64_to_f16(int_value(s, a) as f64, Round::Nearest)),
            (Type::Bf16x2, _) => self.narrow(a) << 16 | self.narrow(b),
            (Type::F16x2, _) => self.narrow(a) << 16 | self.narrow(b),
            (Type::F16 | Type::Bf16, Type::F32) => self.narrow(a),
            (Type::F16, _) => u64::from(f64_to_f16(f64::from_bits(a), self.nearest())),
            (Type::Tf32, _) => u64::from(f32_to_tf32(f32::from_bits(a as u32))),
            (Type::F64, s) => {
                let value = float_value(s, a, self.ftz);
                (if self.integral { integral(value, self.nearest()) } else { value }).to_bits()
            }
            (_, s) => {
                let value = float_value(s, a, self.ftz);
                let value = if self.integral { integral(value, self.nearest()) } else { value };
                let value = round_sum(value, 0.0, self.nearest());
                let value = if self.ftz { flush(value) } else { value };
                u64::from(bits(if self.sat { saturate(value) } else { value }))
            }
        }
    }

    fn nearest(self) -> Round {
        self.round.unwrap_or(Round::Nearest)
    }

    fn narrow(self, a: u64) -> u64 {
        // With relu a NaN stays a NaN.
        let a = a as u32;
        let x = f32::from_bits(if self.relu && !f32::from_bits(a).is_nan() { max32(a, 0) } else { a });
        u64::from(match self.dst {
            Type::Bf16 | Type::Bf16x2 => f32_to_bf16(x, self.nearest()),
            _ => f64_to_f16(f64::from(x), self.nearest()),
        })
    }

    /// Out of range saturates, a NaN gives 0.
    fn to_int(self, value: f64) -> u64 {
        let value = integral(value, self.nearest());
        let (low, high) = self.dst.range();
        (value as i128).clamp(low, high) as u64
    }

    fn int_to_f32(self, value: i128) -> f32 {
        match self.round {
            Some(Round::Nearest) | None => value as f32,
            // Integers of 32 bits are exact in f64.
            Some(round) => round_sum(value as f64, 0.0, round),
        }
    }
}

fn int_value(kind: Type, a: u64) -> i128 {
    match kind {
        Type::U8 => i128::from(a as u8),
        Type::S8 => i128::from(a as i8),
        Type::U16 => i128::from(a as u16),
        Type::S16 => i128::from(a as i16),
        Type::U32 => i128::from(a as u32),
        Type::S32 => i128::from(a as i32),
        Type::S64 => i128::from(a as i64),
        _ => i128::from(a),
    }
}

fn float_value(kind: Type, a: u64, ftz: bool) -> f64 {
    match kind {
        Type::F16 => f64::from(f16_to_f32(a as u32 & 0xffff)),
        Type::F32 if ftz => f64::from(flush(f32::from_bits(a as u32))),
        Type::F32 => f64::from(f32::from_bits(a as u32)),
        _ => f64::from_bits(a),
    }
}

/// A narrow integer fills the register by its sign.
pub fn widen(kind: Type, value: u64) -> u64 {
    match kind {
        Type::U8 => u64::from(value as u8),
        Type::S8 => value as i8 as u64,
        Type::U16 => u64::from(value as u16),
        Type::S16 => value as i16 as u64,
        Type::U32 => u64::from(value as u32),
        Type::S32 => value as i32 as u64,
        _ => value,
    }
}

fn integral(value: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => value.round_ties_even(),
        Round::Away => value.round(),
        Round::Zero => value.trunc(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(opcode: &str, x: f32) -> u64 {
        Cvt::parse(opcode).unwrap().apply(u64::from(x.to_bits()), 0)
    }

    #[test]
    fn only_what_exists_is_accepted() {
        for bad in
            ["cvt.f32.s32", "cvt.rn.s32.f32", "cvt.f32.bf16", "cvt.rni.u32.u16", "cvt.sat.rn.f32.f32", "cvt.f16.f32"]
        {
            assert_eq!(Cvt::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn float_to_integer_rounds_and_saturates() {
        assert_eq!(f("cvt.rni.s32.f32", 2.5) as i32, 2);
        assert_eq!(f("cvt.rzi.s32.f32", -2.9) as i32, -2);
        assert_eq!(f("cvt.rmi.s32.f32", -2.1) as i32, -3);
        assert_eq!(f("cvt.rpi.s32.f32", 2.1) as i32, 3);
        assert_eq!(f("cvt.rzi.s32.f32", 3e9) as i32, i32::MAX);
        assert_eq!(f("cvt.rzi.u32.f32", -3.0) as u32, 0);
        assert_eq!(f("cvt.rzi.u32.f32", f32::NAN) as u32, 0);
        assert_eq!(f("cvt.rni.sat.s8.f32", -200.0) as i32, -128);
    }

    #[test]
    fn integers_extend_truncate_and_saturate() {
        let int = |opcode: &str, a: u64| Cvt::parse(opcode).unwrap().apply(a, 0);
        assert_eq!(int("cvt.s64.s32", 0xffff_ffff), u64::MAX);
        assert_eq!(int("cvt.u64.u32", 0xdead_ffff_ffff), 0xffff_ffff);
        assert_eq!(int("cvt.s32.s8", 0x80) as u32, 0xffff_ff80);
        assert_eq!(int("cvt.u16.u32", 0x12345), 0x2345);
        assert_eq!(int("cvt.sat.s8.s32", 300), 127);
        assert_eq!(int("cvt.sat.u8.s32", (-5i32) as u64), 0);
        assert_eq!(int("cvt.rn.f32.u32", 0xffff_ffff) as u32, 4294967296f32.to_bits());
        assert_eq!(int("cvt.rz.f32.u32", 0xffff_ffff) as u32, 4294967040f32.to_bits());
    }

    #[test]
    fn float_to_float() {
        assert_eq!(f("cvt.rni.f32.f32", -0.5) as u32, (-0.0f32).to_bits());
        assert_eq!(f("cvt.sat.f32.f32", f32::NAN), 0);
        assert_eq!(f("cvt.sat.f32.f32", 7.0) as u32, 1f32.to_bits());
        let c = Cvt::parse("cvt.rn.bf16x2.f32").unwrap();
        assert_eq!(c.apply(u64::from(1f32.to_bits()), u64::from(2f32.to_bits())), 0x3f80_4000);
        assert_eq!(f("cvt.rn.relu.bf16.f32", -3.0), 0);
        let double = Cvt::parse("cvt.rz.f32.f64").unwrap();
        assert_eq!(double.apply(1.999999999f64.to_bits(), 0) as u32, 2f32.next_down().to_bits());
    }
}
