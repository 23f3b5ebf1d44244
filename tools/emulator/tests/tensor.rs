//! ldmatrix, mma and cp.async against plain matrix products.
//!
//! The places of fragments are written here once more, from the tables of the PTX ISA and not by the emulator's
//! functions.

mod support;
use support::{Random, run_block};

/// (row, column) of element `i` of A, in the words of the ISA.
fn a_place(bits: usize, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane & 3);
    match (bits, k) {
        // "row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, groupID + 8 otherwise;
        //  col = threadID_in_group * 2 + (i & 1) for i < 4, + 8 for i >= 4"
        (16, _) => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
        }
        // "row = groupID for a0 and a2; col = threadID_in_group for a0 and a1, + 4 for a2 and a3"
        (32, _) => (if i.is_multiple_of(2) { group } else { group + 8 }, thread + if i < 2 { 0 } else { 4 }),
        // "row = groupID for 0 <= i < 4 || 8 <= i < 12; col = threadID_in_group * 4 + (i & 3), + 16 for i >= 8"
        _ => {
            let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
            (row, thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
        }
    }
}

fn b_place(bits: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane & 3);
    match bits {
        16 => (thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group),
        32 => (thread + if i < 1 { 0 } else { 4 }, group),
        _ => (thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group),
    }
}

fn c_place(lane: usize, i: usize) -> (usize, usize) {
    ((lane >> 2) + if i < 2 { 0 } else { 8 }, (lane & 3) * 2 + (i & 1))
}

/// Runs one mma on fragments of whole numbers, which every format holds exactly.
fn check(opcode: &str, bits: usize, k: usize, encode: impl Fn(i32) -> u32, float: bool) {
    let mut random = Random::new();
    let mut number = || random.word() as i32 % 8;
    let a: Vec<Vec<i32>> = (0..16).map(|_| (0..k).map(|_| number()).collect()).collect();
    let b: Vec<Vec<i32>> = (0..k).map(|_| (0..8).map(|_| number()).collect()).collect();
    let c: Vec<Vec<i32>> = (0..16).map(|_| (0..8).map(|_| number()).collect()).collect();
    let packed = 32 / bits;
    let (a_words, b_words) = (16 * k / 32 / packed, 8 * k / 32 / packed);
    let mut input = Vec::new();
    for lane in 0..32 {
        for (words, is_a) in [(a_words, true), (b_words, false)] {
            for w in 0..words {
                input.push((0..packed).fold(0, |word, part| {
                    let i = w * packed + part;
                    let value = if is_a {
                        let (r, c) = a_place(bits, k, lane, i);
                        a[r][c]
                    } else {
                        let (r, c) = b_place(bits, lane, i);
                        b[r][c]
                    };
                    word | (encode(value) << (part * bits))
                }));
            }
        }
        for i in 0..4 {
            let (r, col) = c_place(lane, i);
            input.push(if float { (c[r][col] as f32).to_bits() } else { c[r][col] as u32 });
        }
    }
    let each = a_words + b_words + 4;
    let load: String = (0..each).map(|n| format!("ld.global.u32 %r{n}, [%rd0+{}];\n", n * 4)).collect();
    let names = |from: usize, count: usize| {
        let list: Vec<String> = (from..from + count).map(|n| format!("%r{n}")).collect();
        if count == 1 { list[0].clone() } else { format!("{{{}}}", list.join(", ")) }
    };
    let body = format!(
        "mul.wide.u32 %rd0, %t, {};\nadd.s64 %rd0, %rd0, %in;\n{load}\
         {opcode} {{%r30, %r31, %r32, %r33}}, {}, {}, {};\nmul.wide.u32 %rd1, %t, 16;\nadd.s64 %rd1, %rd1, %out;\n\
         st.global.v4.u32 [%rd1], {{%r30, %r31, %r32, %r33}};",
        each * 4,
        names(0, a_words),
        names(a_words, b_words),
        names(a_words + b_words, 4),
    );
    // Fragments of one register are written without braces or with them.
    let got = run_block("", &body, 32, &input, 128).unwrap_or_else(|e| panic!("{e}"));
    for lane in 0..32 {
        for i in 0..4 {
            let (r, col) = c_place(lane, i);
            let sum: i32 = (0..k).map(|n| a[r][n] * b[n][col]).sum::<i32>() + c[r][col];
            let want = if float { (sum as f32).to_bits() } else { sum as u32 };
            assert_eq!(got[lane * 4 + i], want, "{opcode}: lane {lane} register {i}");
        }
    }
}

#[test]
fn fragments_of_bf16() {
    let encode = |v: i32| (v as f32).to_bits() >> 16;
    check("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, encode, true);
    check("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, encode, true);
}

#[test]
fn fragments_of_f16() {
    let encode = |v: i32| cuda::float::f64_to_f16(f64::from(v), cuda::float::Round::Nearest);
    check("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, 16, encode, true);
}

#[test]
fn fragments_of_tf32() {
    // The low 13 bits must not matter.
    let encode = |v: i32| (v as f32).to_bits() | if v == 0 { 0 } else { 0x1abc };
    check("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 32, 8, encode, true);
    check("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 32, 4, encode, true);
}

#[test]
fn fragments_of_s8() {
    let encode = |v: i32| v as u32 & 0xff;
    check("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", 8, 32, encode, false);
    check("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", 8, 16, encode, false);
}

/// Fills shared memory with 0, 1, 2, … of 16 bits, loads four matrices.
fn matrices(opcode: &str) -> Vec<u32> {
    let body = format!(
        "mov.u32 %r0, tile;\nmul.lo.u32 %r1, %t, 16;\nadd.u32 %r1, %r0, %r1;\nmul.lo.u32 %r2, %t, 0x00080008;\n\
         add.u32 %r3, %r2, 0x00010000;\nadd.u32 %r4, %r2, 0x00030002;\nadd.u32 %r5, %r2, 0x00050004;\n\
         add.u32 %r6, %r2, 0x00070006;\nst.shared.v4.u32 [%r1], {{%r3, %r4, %r5, %r6}};\nbar.sync 0;\n\
         {opcode} {{%r10, %r11, %r12, %r13}}, [%r1];\nmul.wide.u32 %rd1, %t, 16;\nadd.s64 %rd1, %rd1, %out;\n\
         st.global.v4.u32 [%rd1], {{%r10, %r11, %r12, %r13}};"
    );
    run_block(".shared .align 16 .b8 tile[512];", &body, 32, &[0], 128).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn ldmatrix_gives_pairs_of_a_row_or_of_a_column() {
    // Element (r, c) of matrix m is 64 m + 8 r + c.
    let plain = matrices("ldmatrix.sync.aligned.m8n8.x4.shared.b16");
    let transposed = matrices("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16");
    for lane in 0..32u32 {
        for m in 0..4u32 {
            let at = (lane * 4 + m) as usize;
            let (r, c) = (lane / 4, lane % 4 * 2);
            let pair = |first: u32, second: u32| (64 * m + first) | (64 * m + second) << 16;
            assert_eq!(plain[at], pair(8 * r + c, 8 * r + c + 1), "lane {lane} matrix {m}");
            assert_eq!(transposed[at], pair(8 * c + r, 8 * (c + 1) + r), "lane {lane} matrix {m}");
        }
    }
}

#[test]
fn copies_land_at_the_wait_and_pad_with_zeros() {
    let body = "mov.u32 %r0, tile;\nmul.lo.u32 %r1, %t, 16;\nadd.u32 %r1, %r0, %r1;\nmul.wide.u32 %rd0, %t, 16;\n\
                add.s64 %rd0, %rd0, %in;\ncp.async.cg.shared.global [%r1], [%rd0], 16;\ncp.async.commit_group;\n\
                mov.u32 %r9, 8;\ncp.async.ca.shared.global.L2::128B [%r1+512], [%rd0], 16, %r9;\ncp.async.commit_group;\n\
                cp.async.wait_group 1;\nld.shared.u32 %r2, [%r1+4];\ncp.async.wait_group 0;\nbar.sync 0;\n\
                xor.b32 %r3, %r1, 16;\nld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3+512];\nadd.u32 %r2, %r2, %r6;\n\
                add.u32 %r2, %r2, %r5;\nst.global.u32 [%at], %r2;";
    let input: Vec<u32> = (0..128).collect();
    let got = run_block(".shared .align 16 .b8 tile[1024];", body, 32, &input, 32).unwrap_or_else(|e| panic!("{e}"));
    for t in 0..32u32 {
        assert_eq!(got[t as usize], (4 * t + 1) + (4 * (t ^ 1) + 1), "thread {t}");
    }
}
