//! Instructions on registers, against values worked out by hand from the PTX ISA.

mod support;
use support::{eval, one};

fn f(x: f32) -> String {
    format!("0f{:08X}", x.to_bits())
}

/// `opcode` on f32 operands.
fn float(opcode: &str, operands: &[f32]) -> f32 {
    let list: Vec<String> = operands.iter().map(|&x| f(x)).collect();
    f32::from_bits(eval(&format!("{opcode} %f0, {};\nmov.b32 %r0, %f0;", list.join(", ")), 1)[0])
}

/// `opcode` to a 64-bit register.
fn long(instruction: &str) -> u64 {
    let r = eval(&format!("{instruction}\nmov.b64 {{%r0, %r1}}, %rd0;"), 2);
    u64::from(r[0]) | u64::from(r[1]) << 32
}

#[test]
fn integers_of_32_bits() {
    assert_eq!(one("add.s32 %r0, -1, 3;"), 2);
    assert_eq!(one("sub.u32 %r0, 1, 3;"), 0xffff_fffe);
    assert_eq!(one("mul.lo.s32 %r0, 65537, 65537;"), 0x0002_0001);
    assert_eq!(one("mul.hi.u32 %r0, 0xffffffff, 0xffffffff;"), 0xffff_fffe);
    assert_eq!(one("mul.hi.s32 %r0, -1, 5;"), 0xffff_ffff);
    assert_eq!(one("mad.lo.s32 %r0, 7, -3, 1;") as i32, -20);
    assert_eq!(one("mad.hi.u32 %r0, 0x80000000, 4, 5;"), 7);
    assert_eq!(one("div.s32 %r0, -7, 2;") as i32, -3);
    assert_eq!(one("rem.s32 %r0, -7, 2;") as i32, -1);
    assert_eq!(one("div.u32 %r0, 7, 0;"), u32::MAX);
    assert_eq!(one("div.s32 %r0, 0x80000000, -1;"), 0x8000_0000);
    assert_eq!(one("abs.s32 %r0, -9;"), 9);
    assert_eq!(one("neg.s32 %r0, 9;") as i32, -9);
    assert_eq!(one("min.s32 %r0, -1, 1;") as i32, -1);
    assert_eq!(one("min.u32 %r0, -1, 1;"), 1);
    assert_eq!(one("max.s32 %r0, -1, 1;"), 1);
    assert_eq!(one("max.u32 %r0, -1, 1;"), u32::MAX);
}

#[test]
fn shifts_of_the_width_and_more() {
    assert_eq!(one("shl.b32 %r0, 1, 31;"), 1 << 31);
    assert_eq!(one("shl.b32 %r0, 1, 32;"), 0);
    assert_eq!(one("shr.u32 %r0, 0x80000000, 40;"), 0);
    assert_eq!(one("shr.s32 %r0, 0x80000000, 40;"), u32::MAX);
    assert_eq!(long("shl.b64 %rd0, 1, 63;"), 1 << 63);
    assert_eq!(long("shl.b64 %rd0, 1, 64;"), 0);
    assert_eq!(long("shr.s64 %rd0, 0x8000000000000000, 100;"), u64::MAX);
    assert_eq!(long("shr.u64 %rd0, 0x8000000000000000, 63;"), 1);
    assert_eq!(one("mov.b16 %h0, 0x8001;\nshr.s16 %h1, %h0, 20;\ncvt.u32.u16 %r0, %h1;"), 0xffff);
    assert_eq!(one("mov.b16 %h0, 0x8001;\nshl.b16 %h1, %h0, 1;\ncvt.u32.u16 %r0, %h1;"), 2);
}

#[test]
fn integers_of_64_bits() {
    assert_eq!(long("mul.wide.u32 %rd0, -1, -1;"), 0xffff_fffe_0000_0001);
    assert_eq!(long("mul.wide.s32 %rd0, -1, 5;") as i64, -5);
    assert_eq!(long("mad.wide.u32 %rd0, 0x10000, 0x10000, 7;"), 0x1_0000_0007);
    assert_eq!(long("mad.wide.s32 %rd0, -2, 3, 10;"), 4);
    assert_eq!(long("mul.hi.u64 %rd0, -1, 2;"), 1);
    assert_eq!(long("mul.hi.s64 %rd0, -1, 2;"), u64::MAX);
    assert_eq!(long("mad.lo.s64 %rd0, 0x100000000, 3, -1;"), 0x2_ffff_ffff);
    assert_eq!(long("div.u64 %rd0, 0x8000000000000000, 3;"), 0x2aaa_aaaa_aaaa_aaaa);
    assert_eq!(long("rem.s64 %rd0, -7, 3;") as i64, -1);
    assert_eq!(long("min.s64 %rd0, -7, 3;") as i64, -7);
    assert_eq!(long("and.b64 %rd0, -1, -4294967296;"), 0xffff_ffff_0000_0000);
}

#[test]
fn bit_fields() {
    assert_eq!(one("bfe.u32 %r0, 0x12345678, 8, 8;"), 0x56);
    assert_eq!(one("bfe.s32 %r0, 0x0000f000, 12, 4;"), u32::MAX);
    // Bits beyond the register are the sign.
    assert_eq!(one("bfe.s32 %r0, 0x80000000, 28, 8;"), 0xffff_fff8);
    assert_eq!(one("bfe.u32 %r0, 0x80000000, 28, 8;"), 8);
    assert_eq!(one("bfe.u32 %r0, 0x80000000, 0, 0;"), 0);
    assert_eq!(one("bfi.b32 %r0, 0xab, 0x11111111, 8, 8;"), 0x1111_ab11);
    assert_eq!(one("bfi.b32 %r0, 0xab, 0x11111111, 8, 0;"), 0x1111_1111);
    assert_eq!(long("bfi.b64 %rd0, 0xab, 0, 32, 32;"), 0xab_0000_0000);
    assert_eq!(one("popc.b32 %r0, 0xf0f0;"), 8);
    assert_eq!(one("clz.b32 %r0, 1;"), 31);
    assert_eq!(one("clz.b32 %r0, 0;"), 32);
    assert_eq!(one("brev.b32 %r0, 1;"), 1 << 31);
    assert_eq!(one("bfind.u32 %r0, 0x00010000;"), 16);
    assert_eq!(one("bfind.u32 %r0, 0;"), u32::MAX);
    assert_eq!(one("bfind.s32 %r0, -2;"), 0);
    assert_eq!(one("bfind.shiftamt.u32 %r0, 0x00010000;"), 15);
}

#[test]
fn permutations_and_logic_of_three() {
    assert_eq!(one("prmt.b32 %r0, 0x33221100, 0x77665544, 0x7410;"), 0x7744_1100);
    // Bit 3 of a selector repeats the sign.
    assert_eq!(one("prmt.b32 %r0, 0x80, 0, 0xba98;"), 0x0000_00ff);
    assert_eq!(one("lop3.b32 %r0, 0xf0f0f0f0, 0xcccccccc, 0xaaaaaaaa, 0x80;"), 0x8080_8080);
    assert_eq!(one("lop3.b32 %r0, 0xf0f0f0f0, 0xcccccccc, 0xaaaaaaaa, 0x96;"), 0xf0f0_f0f0 ^ 0xcccc_cccc ^ 0xaaaa_aaaa);
    assert_eq!(one("shf.l.wrap.b32 %r0, 0x80000000, 1, 1;"), 3);
    assert_eq!(one("shf.l.wrap.b32 %r0, 5, 6, 32;"), 6);
    assert_eq!(one("shf.l.clamp.b32 %r0, 5, 6, 40;"), 5);
    assert_eq!(one("shf.r.wrap.b32 %r0, 2, 1, 1;"), 0x8000_0001);
    assert_eq!(one("shf.r.clamp.b32 %r0, 5, 6, 33;"), 6);
    assert_eq!(one("dp4a.s32.s32 %r0, 0xff020304, 0x05060708, 10;"), 10 - 5 + 12 + 21 + 32);
    assert_eq!(one("dp4a.u32.u32 %r0, 0xff020304, 0x05060708, 10;"), 10 + 1275 + 12 + 21 + 32);
}

#[test]
fn float_arithmetic_rounds_as_it_says() {
    assert_eq!(float("add.f32", &[1.0, 2f32.powi(-24)]), 1.0);
    assert_eq!(float("add.rz.f32", &[1.0, -(2f32.powi(-30))]), 1f32.next_down());
    assert_eq!(float("add.rp.f32", &[1.0, 2f32.powi(-30)]), 1f32.next_up());
    assert_eq!(float("sub.rm.f32", &[1.0, 2f32.powi(-30)]), 1f32.next_down());
    assert_eq!(float("mul.rz.f32", &[3.0, 1.0 / 3.0]), 1.0);
    // One rounding only: (1 + 2^-12)^2 - 1 - 2^-11 = 2^-24.
    let x = 1.0 + 2f32.powi(-12);
    assert_eq!(float("fma.rn.f32", &[x, x, -1.0 - 2f32.powi(-11)]), 2f32.powi(-24));
    assert_eq!(float("fma.rm.f32", &[1.0, 1.0, -(2f32.powi(-30))]), 1f32.next_down());
    assert_eq!(float("fma.rz.f32", &[-1.0, 1.0, 2f32.powi(-30)]), -(1f32.next_down()));
    assert_eq!(float("add.sat.f32", &[0.75, 0.75]), 1.0);
    assert_eq!(float("mul.sat.f32", &[-0.75, 0.75]), 0.0);
    assert_eq!(float("div.rn.f32", &[1.0, 3.0]), 1.0 / 3.0);
    assert_eq!(float("rcp.rn.f32", &[0.0]), f32::INFINITY);
    assert_eq!(float("sqrt.rn.f32", &[2.0]), 2f32.sqrt());
}

#[test]
fn denormals_stay_but_for_ftz() {
    let tiny = f32::from_bits(1);
    assert_eq!(float("add.f32", &[tiny, tiny]).to_bits(), 2);
    assert_eq!(float("add.ftz.f32", &[tiny, 0.0]).to_bits(), 0);
    assert_eq!(float("mul.ftz.f32", &[f32::MIN_POSITIVE, -0.5]).to_bits(), 1 << 31);
    assert_eq!(float("ex2.approx.ftz.f32", &[-140.0]), 0.0);
    assert_eq!(float("ex2.approx.f32", &[-140.0]), 2f32.powi(-140));
    assert_eq!(float("rcp.approx.ftz.f32", &[2f32.powi(127)]), 0.0);
    assert_eq!(one(&format!("setp.gt.ftz.f32 %p0, {}, 0f00000000;\nselp.u32 %r0, 1, 0, %p0;", f(tiny))), 0);
    assert_eq!(one(&format!("setp.gt.f32 %p0, {}, 0f00000000;\nselp.u32 %r0, 1, 0, %p0;", f(tiny))), 1);
}

#[test]
fn approximations_are_close() {
    for x in [0.1f32, 0.7, 1.0, 3.3] {
        let close = |opcode: &str, exact: f64| {
            let got = f64::from(float(opcode, &[x]));
            assert!((got - exact).abs() <= exact.abs() * 1e-7, "{opcode} {x}: {got} {exact}");
        };
        let d = f64::from(x);
        close("ex2.approx.ftz.f32", d.exp2());
        close("lg2.approx.f32", d.log2());
        close("rcp.approx.ftz.f32", 1.0 / d);
        close("sqrt.approx.f32", d.sqrt());
        close("rsqrt.approx.f32", 1.0 / d.sqrt());
        close("sin.approx.f32", d.sin());
        close("cos.approx.f32", d.cos());
        close("tanh.approx.f32", d.tanh());
    }
    assert_eq!(float("lg2.approx.f32", &[0.0]), f32::NEG_INFINITY);
    assert_eq!(float("rsqrt.approx.f32", &[-1.0]).to_bits(), 0x7fff_ffff);
}

#[test]
fn nan_in_extremes_and_comparisons() {
    let nan = f32::NAN;
    assert_eq!(float("max.f32", &[nan, 2.0]), 2.0);
    assert_eq!(float("min.f32", &[2.0, nan]), 2.0);
    assert_eq!(float("max.f32", &[nan, nan]).to_bits(), 0x7fff_ffff);
    assert_eq!(float("max.NaN.f32", &[nan, 2.0]).to_bits(), 0x7fff_ffff);
    assert_eq!(float("max.f32", &[-0.0, 0.0]).to_bits(), 0);
    assert_eq!(float("add.f32", &[nan, 1.0]).to_bits(), 0x7fff_ffff);
    assert_eq!(float("copysign.f32", &[-1.0, 3.0]), -3.0);
    assert_eq!(float("abs.f32", &[-3.0]), 3.0);
    let compare =
        |how: &str, a: f32, b: f32| one(&format!("setp.{how}.f32 %p0, {}, {};\nselp.u32 %r0, 1, 0, %p0;", f(a), f(b)));
    for how in ["eq", "ne", "lt", "le", "gt", "ge", "num"] {
        assert_eq!(compare(how, nan, 1.0), 0, "{how}");
    }
    for how in ["equ", "neu", "ltu", "leu", "gtu", "geu", "nan"] {
        assert_eq!(compare(how, 1.0, nan), 1, "{how}");
    }
    assert_eq!((compare("ne", 1.0, 1.0), compare("neu", 1.0, 2.0), compare("equ", 1.0, 2.0)), (0, 1, 0));
    assert_eq!((compare("lt", -0.0, 0.0), compare("ge", -0.0, 0.0)), (0, 1));
}

#[test]
fn predicates() {
    let p = |instructions: &str| one(&format!("{instructions}\nselp.u32 %r0, 1, 0, %p0;"));
    assert_eq!(p("setp.lt.s32 %p0, -1, 1;"), 1);
    assert_eq!(p("setp.lt.u32 %p0, -1, 1;"), 0);
    assert_eq!(p("setp.hi.u32 %p0, -1, 1;"), 1);
    assert_eq!(p("setp.gt.s64 %p0, -1, 1;"), 0);
    assert_eq!(p("setp.gt.u64 %p0, -1, 1;"), 1);
    assert_eq!(p("setp.eq.s32 %p1, 1, 2;\nsetp.eq.and.s32 %p0, 1, 1, !%p1;"), 1);
    assert_eq!(p("setp.eq.s32 %p1, 1, 2;\nsetp.eq.or.s32 %p0, 1, 2, %p1;"), 0);
    assert_eq!(p("setp.eq.s32 %p1|%p0, 1, 2;"), 1);
    assert_eq!(p("setp.eq.s32 %p1, 1, 1;\nsetp.eq.s32 %p2, 1, 2;\nxor.pred %p0, %p1, %p2;"), 1);
    assert_eq!(p("mov.pred %p1, 0;\nnot.pred %p0, %p1;"), 1);
    assert_eq!(p("mov.pred %p1, 1;\nand.pred %p0, %p1, !%p1;"), 0);
    // An instruction whose guard does not hold does nothing.
    assert_eq!(one("mov.pred %p1, 0;\nmov.u32 %r0, 5;\n@%p1 mov.u32 %r0, 6;\n@!%p1 add.u32 %r0, %r0, 1;"), 6);
}

#[test]
fn moves_pack_and_unpack() {
    assert_eq!(long("mov.b64 %rd0, {1, 2};"), 2 << 32 | 1);
    assert_eq!(one("mov.b16 %h0, 0x1234;\nmov.b32 %r0, {0, %h0};"), 0x1234_0000);
    assert_eq!(
        eval("mov.b32 {%h0, %h1}, 0x12345678;\ncvt.u32.u16 %r0, %h0;\ncvt.u32.u16 %r1, %h1;", 2),
        [0x5678, 0x1234]
    );
    assert_eq!(one("mov.b64 {%r0, _}, 0x100000007;"), 7);
    assert_eq!(one("mov.u32 %r0, 0f3F800000;"), 1f32.to_bits());
    // A register that nothing wrote is a NaN that says so.
    assert_eq!(one("mov.b32 %r0, %f3;"), 0x7fff_dead);
    assert_eq!(one("{ .reg .b32 %r0x; mov.u32 %r0x, 4; add.u32 %r0, %r0x, 1; }"), 5);
}

#[test]
fn conversions() {
    assert_eq!(one("cvt.rni.s32.f32 %r0, 0f40200000;"), 2);
    assert_eq!(one("cvt.rzi.u32.f32 %r0, 0fBF800000;"), 0);
    assert_eq!(one("mov.u32 %r1, 0x1ff;\ncvt.s32.s8 %r0, %r1;"), u32::MAX);
    assert_eq!(one("mov.u32 %r1, 0x1ff;\ncvt.u8.u32 %r0, %r1;"), 0xff);
    assert_eq!(long("mov.u32 %r1, -5;\ncvt.s64.s32 %rd0, %r1;") as i64, -5);
    assert_eq!(long("mov.u32 %r1, -5;\ncvt.u64.u32 %rd0, %r1;"), 0xffff_fffb);
    assert_eq!(one("mov.u64 %rd1, 0x123456789;\ncvt.u32.u64 %r0, %rd1;"), 0x2345_6789);
    assert_eq!(one("cvt.rn.bf16x2.f32 %r0, 0f3F800000, 0fC0000000;"), 0x3f80_c000);
    assert_eq!(one("cvt.rn.f16x2.f32 %r0, 0f3F800000, 0fC0000000;"), 0x3c00_c000);
    assert_eq!(one("cvt.rn.bf16.f32 %h0, 0f3F80C000;\ncvt.u32.u16 %r0, %h0;"), 0x3f81);
    assert_eq!(one("cvt.rn.f16.f32 %h0, 0fBF800000;\ncvt.f32.f16 %f0, %h0;\nmov.b32 %r0, %f0;"), (-1f32).to_bits());
    assert_eq!(one("cvt.rna.tf32.f32 %r0, 0f3F801000;"), 0x3f80_2000);
    assert_eq!(
        one("cvt.f64.f32 %fd0, 0f3FC00000;\nadd.f64 %fd1, %fd0, %fd0;\ncvt.rn.f32.f64 %f0, %fd1;\nmov.b32 %r0, %f0;"),
        3f32.to_bits()
    );
    assert_eq!(one("mov.u32 %r1, 3;\ncvt.rn.f32.u32 %f0, %r1;\nmov.b32 %r0, %f0;"), 3f32.to_bits());
    assert_eq!(one("cvt.sat.f32.f32 %f0, 0f40000000;\nmov.b32 %r0, %f0;"), 1f32.to_bits());
}

#[test]
fn half_precision_arithmetic() {
    // 1.5 * 2 + (-1) and 3 * 3 + 0.5.
    assert_eq!(one("fma.rn.f16x2 %r0, 0x42003e00, 0x42004000, 0x3800bc00;"), 0x48c0_4000);
    assert_eq!(one("fma.rn.bf16x2 %r0, 0x40403fc0, 0x40404000, 0x3f00bf80;"), 0x4118_4000);
    assert_eq!(one("add.f16x2 %r0, 0x3c003c00, 0x3c00bc00;"), 0x4000_0000);
    assert_eq!(one("max.bf16x2 %r0, 0x3f80bf80, 0x40000000;"), 0x4000_0000);
    assert_eq!(one("neg.bf16x2 %r0, 0x3f80bf80;"), 0xbf80_3f80);
}

#[test]
fn doubles() {
    let d = |x: f64| format!("0d{:016X}", x.to_bits());
    let double = |instruction: String| f64::from_bits(long(&format!("{instruction}\nmov.b64 %rd0, %fd0;")));
    assert_eq!(double(format!("mul.f64 %fd0, {}, {};", d(0.1), d(0.2))), 0.1 * 0.2);
    assert_eq!(double(format!("fma.rn.f64 %fd0, {}, {}, {};", d(0.1), d(10.0), d(-1.0))), 0.1f64.mul_add(10.0, -1.0));
    assert_eq!(double(format!("div.rn.f64 %fd0, {}, {};", d(1.0), d(3.0))), 1.0 / 3.0);
    assert_eq!(double("mov.u64 %rd1, -3;\ncvt.rn.f64.s64 %fd0, %rd1;".into()), -3.0);
}
