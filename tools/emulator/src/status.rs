//! The driver's result codes, and what it says about the device.

use std::ffi::CStr;

/// A CUresult.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

macro_rules! codes {
    ($($name:ident = $code:literal, $driver:literal, $text:literal;)*) => {
        $(pub const $name: Status = Status($code);)*
        const CODES: &[(u32, &CStr, &CStr)] = &[$(($code, $driver, $text)),*];
    };
}

codes! {
    SUCCESS = 0, c"CUDA_SUCCESS", c"no error";
    INVALID_VALUE = 1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument";
    OUT_OF_MEMORY = 2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory";
    NOT_INITIALIZED = 3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error";
    INVALID_DEVICE = 101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal";
    INVALID_IMAGE = 200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid";
    INVALID_CONTEXT = 201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context";
    INVALID_PTX = 218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed";
    INVALID_HANDLE = 400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle";
    NOT_FOUND = 500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found";
    NOT_READY = 600, c"CUDA_ERROR_NOT_READY", c"device not ready";
    ILLEGAL_ADDRESS = 700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered";
    ILLEGAL_INSTRUCTION = 715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction was encountered";
    MISALIGNED_ADDRESS = 716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address";
    LAUNCH_FAILED = 719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure";
    NOT_SUPPORTED = 801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported";
    UNKNOWN = 999, c"CUDA_ERROR_UNKNOWN", c"unknown error";
}

pub fn name(code: u32) -> Option<&'static CStr> {
    CODES.iter().find(|c| c.0 == code).map(|c| c.1)
}

pub fn text(code: u32) -> Option<&'static CStr> {
    CODES.iter().find(|c| c.0 == code).map(|c| c.2)
}

pub const DEVICE_NAME: &str = "Moviola PTX emulator";
/// CUDA 13.0.
pub const DRIVER_VERSION: i32 = 13000;
pub const MAX_THREADS: u32 = 1024;
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
pub const MAX_SHARED: u32 = 48 << 10;

/// A device attribute by its number: those of an A100 with four multiprocessors; 0 for what there is not.
pub fn attribute(number: u32) -> Option<i32> {
    Some(match number {
        1 => MAX_THREADS as i32,
        n @ 2..=4 => MAX_BLOCK[n as usize - 2] as i32,
        n @ 5..=7 => MAX_GRID[n as usize - 5] as i32,
        // Shared memory of a block: what a block may have without asking, and with.
        8 | 97 => MAX_SHARED as i32,
        9 => 65536,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536,
        // kHz: processor, memory.
        13 => 1_410_000,
        36 => 1_215_000,
        14 => 512,
        15 => 1,
        // Multiprocessors.
        16 => 4,
        // Host memory is mapped, addresses are unified.
        19 | 41 => 1,
        30 => 512,
        31 => 1,
        // PCI domain 0, bus 1, device 0.
        33 => 1,
        // Bits of the memory bus, bytes of the second cache.
        37 => 5120,
        38 => 40 << 20,
        39 => 2048,
        // Copy engines.
        40 => 2,
        51 => 32,
        75 => 8,
        76 => 0,
        78..=80 => 1,
        81 => 164 << 10,
        87 => 2,
        90 => 1,
        106 => 32,
        111 => 1024,
        n if (1..=162).contains(&n) => 0,
        _ => return None,
    })
}
