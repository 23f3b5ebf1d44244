//! Warps, branches, barriers and memory.

mod support;
use support::{Arg, Gpu, eval, kernel, run_block};

fn run(declarations: &str, body: &str, threads: u32, input: &[u32], words: usize) -> Vec<u32> {
    run_block(declarations, body, threads, input, words).unwrap_or_else(|e| panic!("{e}"))
}

fn lanes(body: &str) -> Vec<u32> {
    run("", &format!("{body}\nst.global.u32 [%at], %r0;"), 32, &[0], 32)
}

#[test]
fn divergent_lanes_meet_again() {
    let got = lanes(
        "setp.lt.u32 %p0, %t, 10;\n@%p0 bra $small;\nmov.u32 %r1, 100;\nbra.uni $join;\n$small:\nmov.u32 %r1, 200;\n\
         $join:\nactivemask.b32 %r2;\npopc.b32 %r2, %r2;\nadd.u32 %r0, %r1, %r2;",
    );
    assert!((0..32).all(|l| got[l] == if l < 10 { 232 } else { 132 }), "{got:?}");
}

#[test]
fn loops_of_different_length() {
    let got = lanes(
        "mov.u32 %r0, 0;\nmov.u32 %r1, 0;\n$loop:\nsetp.ge.u32 %p0, %r1, %t;\n@%p0 bra $end;\n\
         add.u32 %r0, %r0, %r1;\nadd.u32 %r1, %r1, 1;\nbra.uni $loop;\n$end:",
    );
    assert!((0..32u32).all(|l| got[l as usize] == l * l.saturating_sub(1) / 2), "{got:?}");
}

#[test]
fn branch_tables() {
    let got = lanes(
        "and.b32 %r1, %t, 3;\nmov.u32 %r0, 9;\nbrx.idx %r1, $table;\n$table: .branchtargets $a, $b, $c, $a;\n\
         $a:\nmov.u32 %r0, 1;\nbra.uni $end;\n$b:\nmov.u32 %r0, 2;\nbra.uni $end;\n$c:\nmov.u32 %r0, 3;\n$end:",
    );
    assert!((0..32).all(|l| got[l] == [1, 2, 3, 1][l & 3]), "{got:?}");
}

#[test]
fn lanes_that_end_early_are_not_waited_for() {
    let body = "st.global.u32 [%at], %t;\nsetp.gt.u32 %p0, %t, 39;\n@%p0 ret;\nbar.sync 0;\nadd.u32 %r0, %t, 1000;\n\
                st.global.u32 [%at], %r0;";
    let got = run("", body, 64, &[0], 64);
    assert!((0..64u32).all(|t| got[t as usize] == if t > 39 { t } else { t + 1000 }), "{got:?}");
}

#[test]
fn exchange_between_lanes() {
    let got = lanes(
        "shfl.sync.bfly.b32 %r0|%p0, %t, 1, 31, -1;\nshfl.sync.down.b32 %r1|%p1, %t, 30, 31, -1;\n\
         selp.u32 %r2, 100, 0, %p1;\nadd.u32 %r0, %r0, %r2;",
    );
    assert!((0..32).all(|l| got[l as usize] == (l ^ 1) + if l < 2 { 100 } else { 0 }), "{got:?}");
    let got = lanes("setp.gt.u32 %p0, %t, 27;\nvote.sync.ballot.b32 %r0, %p0, -1;");
    assert_eq!(got[3], 0xf000_0000);
    let got = lanes(
        "setp.gt.u32 %p0, %t, 27;\nvote.sync.any.pred %p1, %p0, -1;\nvote.sync.all.pred %p2, %p0, -1;\nselp.u32 %r1, 2, 0, %p2;\nselp.u32 %r0, 1, 0, %p1;\nadd.u32 %r0, %r0, %r1;",
    );
    assert_eq!(got[3], 1);
    let got = lanes("and.b32 %r1, %t, 1;\nmatch.any.sync.b32 %r0, %r1, -1;");
    assert_eq!((got[0], got[1]), (0x5555_5555, 0xaaaa_aaaa));
    // Two halves at the same instruction, each among themselves.
    let got = lanes(
        "setp.lt.u32 %p0, %t, 16;\nselp.b32 %r1, 0xffff, 0xffff0000, %p0;\nvote.sync.ballot.b32 %r0, %p0, %r1;\n\
         shfl.sync.idx.b32 %r2, %r0, %t, 31, %r1;\nvote.sync.any.pred %p1, %p0, %r1;\nselp.u32 %r3, 1, 0, %p1;\n\
         shl.b32 %r2, %r2, 1;\nadd.u32 %r0, %r2, %r3;",
    );
    assert_eq!((got[0], got[31]), (0x1ffff, 0));
    let got = lanes("mov.u32 %r0, %lanemask_lt;");
    assert_eq!((got[0], got[31]), (0, u32::MAX >> 1));
}

#[test]
fn barriers_count_and_combine() {
    let body = "setp.lt.u32 %p0, %t, 70;\nbar.red.popc.u32 %r0, 0, %p0;\nbar.red.and.pred %p1, 0, %p0;\n\
                bar.red.or.pred %p2, 0, !%p0;\nselp.u32 %r1, 1000, 0, %p1;\nselp.u32 %r2, 2000, 0, %p2;\n\
                add.u32 %r0, %r0, %r1;\nadd.u32 %r0, %r0, %r2;\nst.global.u32 [%at], %r0;";
    assert_eq!(run("", body, 96, &[0], 96), vec![2070; 96]);
}

#[test]
fn shared_memory_is_reversed_over_a_barrier() {
    let body = "mov.u32 %r1, buffer;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\nbar.sync 0;\n\
                sub.u32 %r4, 1020, %r2;\nadd.u32 %r4, %r1, %r4;\nld.shared.u32 %r0, [%r4];\nst.global.u32 [%at], %r0;";
    let got = run(".shared .align 4 .b8 buffer[1024];", body, 256, &[0], 256);
    assert!((0..256).all(|t| got[t] == 255 - t as u32));
}

#[test]
fn atomics_on_shared_and_global_memory() {
    let declarations = ".shared .align 4 .b8 count[8];";
    let body = "setp.eq.u32 %p0, %t, 0;\n@%p0 st.shared.u32 [count], 0;\n@%p0 st.shared.u32 [count+4], 7;\nbar.sync 0;\n\
                atom.shared.add.u32 %r1, [count], 2;\natom.shared.max.u32 %r2, [count+4], %t;\nbar.sync 0;\n\
                ld.shared.u32 %r0, [count];\nld.shared.u32 %r3, [count+4];\nadd.u32 %r0, %r0, %r3;\nst.global.u32 [%at], %r0;\n\
                red.global.add.u32 [%in], 1;\natom.global.inc.u32 %r4, [%in+4], 9;\natom.global.cas.b32 %r5, [%in+8], 5, %t;\n\
                atom.global.min.s32 %r6, [%in+12], -3;";
    let mut gpu = Gpu::new(&kernel(declarations, body));
    let (input, out) = (gpu.upload(&[0, 0, 5, 0]), gpu.upload(&[0; 256]));
    gpu.run("k", 1, 256, &[Arg::Pointer(input), Arg::Pointer(out)]).unwrap();
    assert_eq!(gpu.download(out, 2), [512 + 255; 2]);
    assert_eq!(gpu.download(input, 4), [256, 256 % 10, 0, -3i32 as u32]);
}

#[test]
fn loads_and_stores_of_every_width() {
    let body = "ld.global.s8 %r0, [%in];\nld.global.u8 %r1, [%in];\nld.global.s16 %r2, [%in];\nld.global.u16 %h0, [%in+2];\n\
                cvt.u32.u16 %r3, %h0;\nld.global.u32 %rd0, [%in];\nmov.b64 {%r4, %r5}, %rd0;\nld.global.nc.v2.u32 {%r6, %r7}, [%in];\n\
                ld.global.L1::no_allocate.v4.f32 {%f0, %f1, %f2, %f3}, [%in];\nmov.b32 %r8, %f3;\nld.global.s32 %rd1, [%in];\n\
                mov.b64 {_, %r9}, %rd1;\nst.global.u8 [%in+4], 0x77;\nst.global.u16 [%in+8], %h0;\n\
                ld.global.v2.u32 {%r10, %r11}, [%in+8];\nld.global.u32 %r11, [%in+4];";
    let stores: String = (0..12).map(|n| format!("st.global.u32 [%out+{}], %r{n};\n", n * 4)).collect();
    let got = run("", &format!("{body}\n{stores}"), 1, &[0x8001_80f0, 2, 3, 4], 12);
    assert_eq!(got[..3], [0xffff_fff0, 0xf0, 0xffff_80f0]);
    assert_eq!(got[3..], [0x8001, 0x8001_80f0, 0, 0x8001_80f0, 2, 4, u32::MAX, 0x8001, 0x77]);
}

#[test]
fn local_memory_is_each_lanes_own() {
    let body = "mov.u64 %rd0, depot;\ncvta.local.u64 %rd1, %rd0;\nst.local.u32 [depot+4], %t;\nadd.u32 %r1, %t, 5;\n\
                st.u32 [%rd1+8], %r1;\nld.u32 %r2, [%rd1+4];\nld.local.u32 %r3, [%rd0+8];\nadd.u32 %r0, %r2, %r3;\n\
                ld.local.u32 %r4, [depot+12];\nsetp.eq.u32 %p0, %r4, 0x7fffdead;\n@!%p0 trap;\nst.global.u32 [%at], %r0;";
    let got = run(".local .align 16 .b8 depot[16];", body, 32, &[0], 32);
    assert!((0..32).all(|l| got[l] == 2 * l as u32 + 5), "{got:?}");
}

#[test]
fn generic_addresses_find_their_space() {
    let body = "mov.u64 %rd0, buffer;\ncvta.shared.u64 %rd1, %rd0;\nst.u32 [%rd1], 77;\nld.shared.u32 %r1, [buffer];\n\
                cvta.to.shared.u64 %rd2, %rd1;\nld.shared.u32 %r2, [%rd2];\nld.u32 %r3, [%in];\nadd.u32 %r0, %r1, %r2;\n\
                add.u32 %r0, %r0, %r3;\nst.u32 [%at], %r0;";
    assert_eq!(run(".shared .align 4 .b8 buffer[16];", body, 1, &[1000], 1), [1154]);
}

#[test]
fn parameters_in_structures() {
    let ptx = ".version 9.0\n.target sm_80\n.address_size 64\n.const .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 1, 0, 0};\n\
               .global .align 4 .u32 cell = 40;\n.visible .entry k(.param .u64 p_out, .param .align 4 .b8 p_s[12])\n\
               .maxntid 256, 1, 1\n{\n.reg .b32 %r<9>;\n.reg .b64 %rd<5>;\nld.param.u64 %rd0, [p_out];\n\
               ld.param.u32 %r0, [p_s+4];\nmov.b64 %rd1, p_s;\nld.param.u32 %r1, [%rd1+8];\nadd.u32 %r2, %r0, %r1;\n\
               mov.u64 %rd2, table;\nld.const.u32 %r3, [%rd2+4];\nadd.u32 %r2, %r2, %r3;\nld.global.u32 %r4, [cell];\n\
               add.u32 %r2, %r2, %r4;\nst.global.u32 [%rd0], %r2;\nret;\n}";
    let mut gpu = Gpu::new(ptx);
    let out = gpu.upload(&[0]);
    gpu.run("k", 1, 1, &[Arg::Pointer(out), Arg::Word(1), Arg::Word(2), Arg::Word(3)]).unwrap();
    assert_eq!(gpu.download(out, 1), [2 + 3 + 258 + 40]);
}

#[test]
fn all_blocks_of_a_grid_run() {
    let body = "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ntid.x;\nmad.lo.s32 %r3, %r1, %r2, %t;\nmul.wide.u32 %rd0, %r3, 4;\n\
                add.s64 %rd0, %rd0, %out;\nmov.u32 %r4, %nctaid.x;\nadd.u32 %r4, %r4, %r3;\nst.global.u32 [%rd0], %r4;";
    let mut gpu = Gpu::new(&kernel("", body));
    let out = gpu.upload(&[0; 37 * 64]);
    gpu.run("k", 37, 64, &[Arg::Pointer(out), Arg::Pointer(out)]).unwrap();
    assert!(gpu.download(out, 37 * 64).iter().enumerate().all(|(i, &v)| v == 37 + i as u32));
}

#[test]
fn memory_begins_as_poison() {
    assert_eq!(eval("ld.global.u32 %r0, [%out];", 1), [0x7fff_dead]);
}
