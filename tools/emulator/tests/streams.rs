//! Streams are lazy: what nothing waits for has not happened.

mod support;
use cuda::machine::{DEFAULT_STREAM, HostPointer, Source};
use cuda::status::{INVALID_HANDLE, INVALID_VALUE, NOT_FOUND};
use support::{Arg, Gpu, kernel};

/// out[0] = in[0] + 1.
fn gpu() -> Gpu {
    Gpu::new(&kernel("", "ld.global.u32 %r0, [%in];\nadd.u32 %r0, %r0, 1;\nst.global.u32 [%out], %r0;"))
}

fn read(gpu: &Gpu, at: u64) -> u32 {
    let mut bytes = [0; 4];
    gpu.machine.memory.read(at, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn a_missing_event_wait_shows() {
    for waits in [true, false] {
        let mut gpu = gpu();
        let (a, b) = (gpu.upload(&[10]), gpu.upload(&[0]));
        let (copies, kernels) = (gpu.machine.create_stream(false), gpu.machine.create_stream(false));
        let event = gpu.machine.create_event();
        gpu.copy_in(a, &[20], copies);
        gpu.machine.record(event, copies).unwrap();
        if waits {
            gpu.machine.wait(kernels, event).unwrap();
        }
        gpu.queue("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(b)], kernels);
        assert_eq!(read(&gpu, b), 0, "nothing waits yet");
        gpu.machine.synchronize_stream(kernels).unwrap();
        assert_eq!(read(&gpu, b), if waits { 21 } else { 11 });
    }
}

#[test]
fn everything_at_once_runs_the_latest_first() {
    let mut gpu = gpu();
    let (a, b) = (gpu.upload(&[10]), gpu.upload(&[0]));
    let (copies, kernels) = (gpu.machine.create_stream(false), gpu.machine.create_stream(false));
    gpu.copy_in(a, &[20], copies);
    gpu.queue("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(b)], kernels);
    gpu.machine.synchronize().unwrap();
    assert_eq!(read(&gpu, b), 11, "no wait orders the copy before the kernel");
}

#[test]
fn pinned_memory_is_read_late_and_pageable_memory_at_once() {
    let mut gpu = gpu();
    let a = gpu.upload(&[0, 0]);
    let stream = gpu.machine.create_stream(false);
    let pinned: &'static mut [u8] = Box::leak(vec![1, 0, 0, 0].into_boxed_slice());
    let at = gpu.pinned(pinned);
    gpu.machine.copy_in(a, Source::Pinned(HostPointer(at), 4), stream).unwrap();
    gpu.copy_in(a + 4, &[1], stream);
    // SAFETY: leaked memory, which only this test uses.
    unsafe { at.write(2) };
    gpu.machine.synchronize_stream(stream).unwrap();
    assert_eq!((read(&gpu, a), read(&gpu, a + 4)), (2, 1));
    // And a copy to pinned memory arrives when something waits for it.
    gpu.machine.copy_out(HostPointer(at), a + 4, 4, stream).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { at.read_volatile() }, 2);
    gpu.machine.synchronize_stream(stream).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { at.read_volatile() }, 1);
}

#[test]
fn the_default_stream_and_blocking_ones_wait_for_each_other() {
    let mut gpu = gpu();
    let (a, b) = (gpu.upload(&[0]), gpu.upload(&[0]));
    let blocking = gpu.machine.create_stream(true);
    gpu.copy_in(a, &[5], blocking);
    gpu.queue("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(b)], DEFAULT_STREAM);
    gpu.machine.synchronize_stream(DEFAULT_STREAM).unwrap();
    assert_eq!(read(&gpu, b), 6);
    gpu.copy_in(a, &[7], DEFAULT_STREAM);
    gpu.queue("k", 1, 1, &[Arg::Pointer(a), Arg::Pointer(b)], blocking);
    gpu.machine.synchronize_stream(blocking).unwrap();
    assert_eq!(read(&gpu, b), 8);
}

#[test]
fn events_are_asked_and_timed() {
    let mut gpu = gpu();
    let a = gpu.upload(&[0]);
    let stream = gpu.machine.create_stream(false);
    let (begin, end) = (gpu.machine.create_event(), gpu.machine.create_event());
    assert!(gpu.machine.query_event(begin).unwrap(), "never recorded");
    gpu.machine.record(begin, stream).unwrap();
    gpu.copy_in(a, &[5], stream);
    gpu.machine.record(end, stream).unwrap();
    assert_eq!(gpu.machine.elapsed(begin, end).unwrap(), None);
    assert!(!gpu.machine.query_event(end).unwrap());
    assert!(gpu.machine.query_event(end).unwrap());
    assert_eq!(read(&gpu, a), 5);
    assert!(gpu.machine.elapsed(begin, end).unwrap().is_some_and(|ms| ms >= 0.0));
    // A wait is for the record before it, not for a later one.
    let other = gpu.machine.create_stream(false);
    gpu.machine.wait(other, end).unwrap();
    gpu.copy_in(a, &[6], stream);
    gpu.machine.record(end, stream).unwrap();
    gpu.machine.synchronize_stream(other).unwrap();
    assert_eq!(read(&gpu, a), 5);
    gpu.machine.synchronize_event(end).unwrap();
    assert_eq!(read(&gpu, a), 6);
}

#[test]
fn fills_and_copies_within_the_device() {
    let mut gpu = gpu();
    let a = gpu.upload(&[1, 2, 3, 4]);
    let s = DEFAULT_STREAM;
    gpu.machine.fill(a, &[9], 3, s).unwrap();
    gpu.machine.fill(a + 4, &7u32.to_le_bytes(), 1, s).unwrap();
    gpu.machine.copy_device(a + 8, a, 8, s).unwrap();
    assert_eq!(gpu.download(a, 4), [0x0009_0909, 7, 0x0009_0909, 7]);
    for result in [
        gpu.machine.fill(a, &[9], 17, s),
        gpu.machine.fill(a + 1, &7u32.to_le_bytes(), 1, s),
        gpu.machine.copy_device(a + 12, a, 8, s),
        gpu.machine.copy_in(a, Source::Now(vec![0; 17]), s),
    ] {
        assert_eq!(result.unwrap_err().0, INVALID_VALUE);
    }
}

#[test]
fn launches_are_checked() {
    let mut gpu = Gpu::new(&kernel("", "").replace("p_out)", "p_out) .maxntid 64"));
    let module = gpu.module;
    let k = gpu.machine.function(module, "k").unwrap();
    assert_eq!(gpu.machine.function(module, "none").unwrap_err().0, NOT_FOUND);
    let mut launch = |blocks, threads, shared, bytes: usize, stream| {
        gpu.machine.launch(k, blocks, threads, shared, vec![0; bytes], stream).map_err(|e| e.0)
    };
    assert_eq!(launch([1; 3], [64, 1, 1], 0, 16, 0), Ok(()));
    assert_eq!(launch([1; 3], [65, 1, 1], 0, 16, 0), Err(INVALID_VALUE));
    assert_eq!(launch([0, 1, 1], [64, 1, 1], 0, 16, 0), Err(INVALID_VALUE));
    assert_eq!(launch([1, 65536, 1], [64, 1, 1], 0, 16, 0), Err(INVALID_VALUE));
    assert_eq!(launch([1; 3], [64, 1, 1], 49153, 16, 0), Err(INVALID_VALUE));
    assert_eq!(launch([1; 3], [64, 1, 1], 0, 12, 0), Err(INVALID_VALUE));
    assert_eq!(launch([1; 3], [64, 1, 1], 0, 16, 99), Err(INVALID_HANDLE));
}
