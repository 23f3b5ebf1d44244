//! What must be noticed: every kernel here is wrong in one way.

mod support;
use cuda::fault::Kind;
use support::{Arg, Gpu, fails, kernel, refused, run_block};

const BUFFER: &str = ".shared .align 16 .b8 buffer[1024];";
/// Each thread writes its word, then reads that of the thread across.
const REVERSE: &str = "mov.u32 %r1, buffer;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\nbar.sync 0;\n\
     sub.u32 %r4, 1020, %r2;\nadd.u32 %r4, %r1, %r4;\nld.shared.u32 %r0, [%r4];\nst.global.u32 [%at], %r0;";

fn expect(found: (Kind, String), kind: Kind, words: &str) {
    assert_eq!(found.0, kind, "{}", found.1);
    assert!(found.1.contains(words), "\"{words}\" is not in: {}", found.1);
}

#[test]
fn a_removed_barrier() {
    assert!(run_block(BUFFER, REVERSE, 256, &[0], 256).is_ok());
    let broken = REVERSE.replace("bar.sync 0;\n", "");
    expect(fails(BUFFER, &broken, 256), Kind::LaunchFailed, "nothing was written there yet");
    // Where the place was written before, it is the race that shows.
    let twice =
        format!("{REVERSE}\nadd.u32 %r5, %t, 1;\nst.shared.u32 [%r3], %r5;\nbar.sync 0;\nld.shared.u32 %r0, [%r4];");
    expect(fails(BUFFER, &twice, 256), Kind::LaunchFailed, "a race: it was written by thread 127 without a barrier");
}

#[test]
fn a_race_is_reported_with_its_place() {
    let body = "mov.u32 %r0, 5;\nst.shared.u32 [buffer], %r0;";
    let (_, text) = fails(BUFFER, body, 64);
    for part in ["kernel k", "block (0,0,0)", "thread 1,", "\"st.shared.u32 [buffer], %r0;\"", "PTX line", "thread 0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_race_within_a_warp() {
    let body = "mov.u32 %r1, buffer;\nshl.b32 %r2, %t, 2;\nadd.u32 %r3, %r1, %r2;\nst.shared.u32 [%r3], %t;\n\
                SYNC\nxor.b32 %r4, %r3, 4;\nld.shared.u32 %r0, [%r4];\nst.global.u32 [%at], %r0;";
    expect(fails(BUFFER, &body.replace("SYNC", ""), 32), Kind::LaunchFailed, "a warp's synchronisation");
    assert!(run_block(BUFFER, &body.replace("SYNC", "bar.warp.sync -1;"), 32, &[0], 32).is_ok());
}

#[test]
fn a_removed_wait() {
    let good = "mov.u32 %r0, buffer;\nmul.lo.u32 %r1, %t, 16;\nadd.u32 %r1, %r0, %r1;\nmul.wide.u32 %rd0, %t, 16;\n\
                add.s64 %rd0, %rd0, %in;\ncp.async.cg.shared.global [%r1], [%rd0], 16;\ncp.async.commit_group;\n\
                cp.async.wait_group 0;\nbar.sync 0;\nxor.b32 %r1, %r1, 16;\nld.shared.u32 %r2, [%r1];\nst.global.u32 [%at], %r2;";
    assert!(run_block(BUFFER, good, 32, &[7; 128], 32).is_ok());
    let without = |what: &str| fails(BUFFER, &good.replace(what, ""), 32);
    expect(without("cp.async.wait_group 0;\n"), Kind::LaunchFailed, "has not been waited for");
    expect(without("cp.async.commit_group;\n"), Kind::LaunchFailed, "has not been waited for");
    expect(without("bar.sync 0;\n"), Kind::LaunchFailed, "a race: it was written by");
    // The buffer is filled again while another thread may still read it.
    let again = format!("{good}\nxor.b32 %r1, %r1, 16;\ncp.async.cg.shared.global [%r1], [%rd0], 16;\n");
    expect(fails(BUFFER, &again, 32), Kind::LaunchFailed, "a race: it was read by");
}

#[test]
fn out_of_bounds() {
    let at = |offset: i64| format!("ld.global.u32 %r0, [%in+{offset}];");
    expect(fails("", &at(4096), 1), Kind::IllegalAddress, "4 bytes at offset 4096 of an allocation of 4096 bytes");
    expect(fails("", &at(-4), 1), Kind::IllegalAddress, "offset -4 of an allocation");
    expect(fails("", "mov.u64 %rd0, 64;\nst.global.u32 [%rd0], 1;", 1), Kind::IllegalAddress, "no allocation");
    expect(fails("", "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%in+4096];", 1), Kind::IllegalAddress, "16 bytes");
    expect(
        fails(BUFFER, "mov.u32 %r1, 1024;\nst.shared.u32 [%r1], 1;", 1),
        Kind::IllegalAddress,
        "1024 bytes of shared",
    );
    expect(fails(BUFFER, "mov.u32 %r1, -4;\nst.shared.u32 [%r1], 1;", 1), Kind::IllegalAddress, "shared");
    let local = ".local .align 4 .b8 depot[8];";
    expect(fails(local, "mov.u64 %rd0, 8;\nst.local.u32 [%rd0], 1;", 1), Kind::IllegalAddress, "8 bytes of local");
}

#[test]
fn freed_memory() {
    let mut gpu = Gpu::new(&kernel("", "ld.global.u32 %r0, [%in+8];"));
    let a = gpu.upload(&[0; 16]);
    assert!(gpu.machine.memory.free(a));
    let error = gpu.run("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(a)]).unwrap_err().to_string();
    assert!(error.contains("offset 8 of an allocation of 64 bytes that was freed"), "{error}");
}

#[test]
fn misaligned_addresses() {
    expect(fails("", "ld.global.u32 %r0, [%in+2];", 1), Kind::MisalignedAddress, "not a multiple of 4");
    expect(
        fails("", "ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%in+8];", 1),
        Kind::MisalignedAddress,
        "not a multiple of 16",
    );
    expect(fails(BUFFER, "st.shared.u16 [buffer+1], 1;", 1), Kind::MisalignedAddress, "not a multiple of 2");
    let matrix =
        "mov.u32 %r1, buffer;\nld.shared.u32 %r2, [%r1];\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r1+8];";
    let body = matrix.replace("ld.shared.u32 %r2, [%r1];\n", "");
    expect(fails(BUFFER, &body, 32), Kind::MisalignedAddress, "not a multiple of 16");
}

#[test]
fn uninitialised_shared_memory() {
    // The value is never used.
    expect(fails(BUFFER, "ld.shared.u32 %r0, [buffer];", 1), Kind::LaunchFailed, "nothing was written");
    expect(fails(BUFFER, "atom.shared.add.u32 %r0, [buffer], 1;", 1), Kind::LaunchFailed, "nothing was written");
    let half = "st.shared.u16 [buffer], 1;\nld.shared.u32 %r0, [buffer];";
    expect(fails(BUFFER, half, 1), Kind::LaunchFailed, "nothing was written");
}

#[test]
fn divergent_barriers() {
    let half = "setp.lt.u32 %p0, %t, 16;\n@%p0 bar.sync 0;";
    expect(fails("", half, 32), Kind::LaunchFailed, "divergent barrier");
    let warps = "setp.lt.u32 %p0, %t, 32;\n@%p0 bra $a;\nbar.sync 0;\nbra.uni $b;\n$a:\nbar.sync 0;\n$b:";
    expect(fails("", warps, 64), Kind::LaunchFailed, "divergent barrier");
}

#[test]
fn exchange_without_all_members() {
    let body = "setp.lt.u32 %p0, %t, 16;\n@%p0 shfl.sync.bfly.b32 %r0, %t, 1, 31, -1;";
    expect(fails("", body, 32), Kind::LaunchFailed, "names the lanes 0xffffffff");
    let right = body.replace("31, -1", "31, 0xffff");
    assert!(run_block("", &right, 32, &[0], 1).is_ok());
}

#[test]
fn races_in_global_memory() {
    let all = "st.global.u32 [%out], %t;";
    expect(fails("", all, 64), Kind::LaunchFailed, "a race: it was written by thread 31 of this block");
    // Blocks have no order.
    let mut gpu = Gpu::new(&kernel("", "ld.global.u32 %r0, [%at];\nadd.u32 %r0, %r0, 1;\nst.global.u32 [%at], %r0;"));
    let out = gpu.upload(&[0; 32]);
    let args = [Arg::Pointer(out), Arg::Pointer(out)];
    assert!(gpu.run("k", 1, 32, &args).is_ok());
    assert!(gpu.run("k", 1, 32, &args).is_ok(), "launches follow each other");
    let error = gpu.run("k", 2, 32, &args).unwrap_err().to_string();
    assert!(error.contains("of block"), "{error}");
}

#[test]
fn a_read_only_load_of_what_was_written() {
    let body = "st.global.u32 [%in], 3;\nld.global.nc.u32 %r0, [%in];";
    expect(fails("", body, 1), Kind::LaunchFailed, "ld.global.nc of what thread 0 of this block wrote");
    assert!(run_block("", &body.replace(".nc", ""), 1, &[0], 1).is_ok());
}

#[test]
fn a_trap_and_a_wrong_index() {
    expect(fails("", "trap;", 1), Kind::LaunchFailed, "gave up");
    let table = "brx.idx %t, $list;\n$list: .branchtargets $a;\n$a:";
    expect(fails("", table, 2), Kind::LaunchFailed, "index 1 of a table of 1");
}

#[test]
fn constants_cannot_be_written() {
    let ptx = kernel("", "mov.u64 %rd0, table;\nst.global.u32 [%rd0], 1;")
        .replace(".visible", ".const .align 4 .u32 table = 3;\n.visible");
    let mut gpu = Gpu::new(&ptx);
    let a = gpu.upload(&[0]);
    let error = gpu.run("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(a)]).unwrap_err();
    assert!(error.to_string().contains("constant"), "{error}");
}

#[test]
fn text_that_is_not_understood() {
    let bad = |body: &str, words: &str| {
        let error = refused(&kernel("", body));
        assert!(error.contains(words) && error.starts_with("line 20:"), "{error}");
    };
    bad("frob.u32 %r0, %r1;", "\"frob.u32\"");
    bad("add.f32.ftz %f0, %f1, %f2;", "\"add.f32.ftz\"");
    bad("ld.global.u32.v2 %r0, [%in];", "\"ld.global.u32.v2\"");
    bad("red.global.add.f32 [%in], %f0;", "\"red.global.add.f32\"");
    bad("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 %r0, %r1, %r2, %r3;", "mma.sync");
    bad("add.u32 %r0, %r1;", "operands");
    bad("add.u32 %r0, %rd1, %r2;", "class");
    bad("add.f32 %f0, %f1, 1;", "literal");
    bad("bra $nowhere;", "$nowhere");
    bad("ld.global.u64 %r0, [%in];", "too small");
    bad("bar.sync 0, 64;", "part of a block");
    bad("mov.u32 %r0, %clock;", "class");
    bad("ld.shared.u32 %r0, [unknown];", "not declared");
}

#[test]
fn modules_that_are_refused() {
    let good = kernel("", "");
    assert!(refused(&good.replace("sm_80", "sm_90a")).contains("sm_80"));
    assert!(refused(&good.replace("7.1", "6.4")).contains(".version"));
    assert!(refused(&good.replace("\nret;\n}", "\nret;\n")).contains("ends in the middle"));
    assert!(refused(&good.replace(".reg .b32 %t;", ".reg .b32 %t, %t;")).contains("twice"));
    assert!(refused(&kernel(".shared .align 4 .b8 a[40000];\n.shared .align 4 .b8 b[40000];", "")).contains("49152"));
    assert!(refused(&kernel(".reg .b32 %many<99999999999>;", "")).contains("registers"));
    assert!(refused("").contains(".version"));
}

#[test]
fn an_endless_loop() {
    expect(fails("", "$l:\nadd.u32 %r0, %r0, 1;\nbra.uni $l;", 32), Kind::LaunchFailed, "an endless loop?");
}

#[test]
fn a_shuffle_orders_no_memory() {
    let exchange = |between: &str| {
        format!(
            "shl.b32 %r3, %t, 2;\nmov.u32 %r4, buffer;\nadd.u32 %r3, %r3, %r4;\nst.shared.u32 [%r3], %t;\n{between}\n\
             xor.b32 %r5, %t, 1;\nshl.b32 %r5, %r5, 2;\nadd.u32 %r5, %r5, %r4;\nld.shared.u32 %r0, [%r5];"
        )
    };
    let shuffled = exchange("shfl.sync.bfly.b32 %r1, %t, 1, 31, -1;");
    expect(fails(BUFFER, &shuffled, 32), Kind::LaunchFailed, "a race");
    assert!(run_block(BUFFER, &exchange("bar.warp.sync -1;"), 32, &[0], 32).is_ok());
}
