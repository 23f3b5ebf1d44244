//! The C functions, as a program calls them. One test: the driver is one for the whole process.
//!
//! # Safety
//! Pointers are to locals that outlive the calls.

mod support;
use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

use cuda::driver::*;
use support::kernel;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&b| b == 0).next().unwrap_or(&[])).into_owned()
}

struct Program {
    module: *mut c_void,
    log: String,
    status: u32,
}

/// Loads a module with an error log.
unsafe fn load(ptx: &str) -> Program {
    let image = CString::new(ptx).unwrap();
    let mut log = vec![0u8; 512];
    let mut options = [5u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), 512 as *mut c_void];
    let mut module = null_mut();
    let status =
        unsafe { cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    assert_eq!(values[1] as usize, text(&log).len());
    Program { module, log: text(&log), status }
}

unsafe fn function(module: *mut c_void, name: &CStr) -> (*mut c_void, u32) {
    let mut function = null_mut();
    let status = unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) };
    (function, status)
}

unsafe fn launch(function: *mut c_void, input: u64, output: u64, stream: *mut c_void) -> u32 {
    let (mut input, mut output) = (input, output);
    let mut params = [(&raw mut input).cast::<c_void>(), (&raw mut output).cast()];
    unsafe { cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params.as_mut_ptr(), null_mut()) }
}

#[test]
fn a_whole_program() {
    // SAFETY: no other thread of this test reads the environment now.
    unsafe { std::env::set_var("MOVIOLA_EMULATOR_MEMORY", "1000000") };
    // SAFETY: every pointer below is to a live variable of the right type.
    unsafe {
        let mut number = 0;
        assert_eq!(cuDeviceGetCount(&mut number), 3, "before cuInit");
        assert_eq!(cuInit(0), 0);
        assert_eq!((cuDriverGetVersion(&mut number), number), (0, 13000));
        assert_eq!((cuDeviceGetCount(&mut number), number), (0, 1));
        let mut device = 7;
        assert_eq!((cuDeviceGet(&mut device, 0), device), (0, 0));
        assert_eq!(cuDeviceGet(&mut device, 1), 101);
        let mut name = [1i8; 64];
        assert_eq!(cuDeviceGetName(name.as_mut_ptr().cast(), 64, 0), 0);
        assert_eq!(text(&name.map(|c| c as u8)), "Moviola PTX emulator");
        for (attribute, want) in [(75, 8), (76, 0), (10, 32), (16, 4), (1, 1024), (18, 0)] {
            assert_eq!((cuDeviceGetAttribute(&mut number, attribute, 0), number), (0, want), "{attribute}");
        }
        assert_eq!(cuDeviceGetAttribute(&mut number, 100_000, 0), 1);

        assert_eq!(cuCtxSynchronize(), 201, "no context");
        let mut context = null_mut();
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cuCtxSetCurrent(context), 0);
        let mut current = null_mut();
        assert_eq!((cuCtxGetCurrent(&mut current), current), (0, context));

        let (mut free, mut total) = (0, 0);
        let (mut a, mut b) = (0, 0);
        assert_eq!(cuMemAlloc_v2(&mut a, 4096), 0);
        assert_eq!(cuMemAlloc_v2(&mut b, 2_000_000), 2);
        assert_eq!(cuMemAlloc_v2(&mut b, 4096), 0);
        assert_eq!((cuMemGetInfo_v2(&mut free, &mut total), free, total), (0, 1_000_000 - 8192, 1_000_000));

        let good = load(&kernel("", "ld.global.u32 %r0, [%in];\nadd.u32 %r0, %r0, %t;\nst.global.u32 [%at], %r0;"));
        assert_eq!((good.status, good.log.as_str()), (0, ""));
        let bad = load(&kernel("", "frob.u32 %r0, %r1;"));
        assert_eq!(bad.status, 218);
        assert!(bad.log.contains("line 20") && bad.log.contains("frob.u32"), "{}", bad.log);
        assert_eq!(function(good.module, c"none").1, 500);
        let (k, status) = function(good.module, c"k");
        assert_eq!(status, 0);
        assert_eq!((cuFuncGetAttribute(&mut number, 0, k), number), (0, 1024));
        assert_eq!(cuFuncSetAttribute(k, 8, 1 << 20), 1);

        let mut stream = null_mut();
        assert_eq!(cuStreamCreate(&mut stream, 1), 0);
        let mut pinned = null_mut();
        assert_eq!(cuMemHostAlloc(&mut pinned, 4096, 0), 0);
        let words = pinned.cast::<u32>();
        words.write(40);
        assert_eq!(cuMemcpyHtoDAsync_v2(a, pinned, 4, stream), 0);
        assert_eq!(launch(k, a, b, stream), 0);
        assert_eq!(cuMemcpyDtoHAsync_v2(pinned, b, 128, stream), 0);
        assert_eq!(words.read_volatile(), 40);
        let mut event = null_mut();
        assert_eq!(cuEventCreate(&mut event, 2), 0);
        assert_eq!(cuEventRecord(event, stream), 0);
        assert_eq!(cuEventQuery(event), 600);
        assert_eq!(cuEventSynchronize(event), 0);
        assert_eq!((words.read_volatile(), words.add(31).read_volatile()), (40, 71));
        assert_eq!(cuStreamSynchronize(event), 400, "an event is no stream");
        assert_eq!(cuMemsetD32Async(b, 9, 8, stream), 0);
        assert_eq!(cuMemsetD8Async(b, 1, 4, stream), 0);
        assert_eq!(cuMemcpyDtoDAsync_v2(b + 32, b, 8, stream), 0);
        assert_eq!(cuStreamSynchronize(stream), 0);
        let mut back = [0u32; 10];
        assert_eq!(cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), b, 40), 0);
        assert_eq!((back[0], back[1], back[8], back[9]), (0x0101_0101, 9, 0x0101_0101, 9));
        assert_eq!(cuMemcpyHtoD_v2(a + 4092, back.as_ptr().cast(), 8), 1, "beyond the end");
        assert_eq!(cuMemFree_v2(a + 4), 1);
        assert_eq!(cuMemFreeHost(pinned), 0);
        assert_eq!(cuEventDestroy_v2(event), 0);

        // An error in a kernel stays.
        assert_eq!(launch(k, a, b + 4096, stream), 0);
        assert_eq!(cuStreamSynchronize(stream), 700);
        assert_eq!(cuMemAlloc_v2(&mut a, 4), 700);
        assert_eq!(cuCtxSynchronize(), 700);
        let mut message = null();
        assert_eq!(cuGetErrorName(700, &mut message), 0);
        assert_eq!(CStr::from_ptr(message), c"CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(cuGetErrorString(4321, &mut message), 1);

        // A new context begins without it.
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cuMemAlloc_v2(&mut a, 4), 0);
        assert_eq!(cuMemFree_v2(a), 0);
    }
}
