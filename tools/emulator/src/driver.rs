//! The C functions of libcuda.so, with the signatures of the CUDA 13.0 driver.
//!
//! Every one takes the one lock, turns what it is given into a call of `Machine`, and returns a code; what there is to
//! say goes to stderr in one line. A panic ends here.
//!
//! # Safety
//! As for the driver: pointers are null or point to what the function reads or writes.
#![allow(clippy::missing_safety_doc, non_snake_case)]

use std::alloc::Layout;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::grid::{Checks, MOST_INSTRUCTIONS};
use crate::machine::{DEFAULT_STREAM, HostPointer, Machine, Outcome, Source, refuse};
use crate::parse;
use crate::program::POISON;
use crate::status::{
    self, INVALID_CONTEXT, INVALID_DEVICE, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NOT_INITIALIZED, NOT_READY,
    NOT_SUPPORTED, OUT_OF_MEMORY, SUCCESS, UNKNOWN,
};

type Handle = *mut c_void;

/// The primary context's handle.
const CONTEXT: usize = 0x800;
const DEFAULT_MEMORY: u64 = 2 << 30;

struct Driver {
    initialized: bool,
    retained: u32,
    machine: Option<Machine>,
    /// Pinned memory by address.
    pinned: HashMap<usize, Layout>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}

fn total_memory() -> u64 {
    setting("MOVIOLA_EMULATOR_MEMORY").unwrap_or(DEFAULT_MEMORY)
}

fn new_machine() -> Machine {
    let on = |name| setting(name) != Some(0);
    let checks = Checks {
        shared_races: on("MOVIOLA_EMULATOR_SHARED_RACES"),
        global_races: on("MOVIOLA_EMULATOR_GLOBAL_RACES"),
        hasty_copies: setting("MOVIOLA_EMULATOR_HASTY_COPIES").is_some_and(|n| n > 0),
        most_instructions: setting("MOVIOLA_EMULATOR_INSTRUCTIONS").unwrap_or(MOST_INSTRUCTIONS),
    };
    Machine::new(total_memory(), checks)
}

/// Runs a call under the lock and turns its outcome into a code.
fn call(name: &str, body: impl FnOnce(&mut Driver) -> Outcome) -> u32 {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = guard.get_or_insert_with(|| Driver {
            initialized: false,
            retained: 0,
            machine: None,
            pinned: HashMap::new(),
        });
        if !driver.initialized && name != "cuInit" {
            return refuse(NOT_INITIALIZED, "cuInit was not called");
        }
        body(driver)
    }));
    match result {
        Ok(Ok(())) => SUCCESS.0,
        Ok(Err((status, what))) => {
            if !what.is_empty() {
                // A kernel's fault says itself where it is.
                let caller = if what.starts_with("kernel ") { String::new() } else { format!("{name}: ") };
                eprintln!("emulator: {caller}{what}");
            }
            status.0
        }
        Err(_) => {
            eprintln!("emulator: {name}: a fault of the emulator itself");
            UNKNOWN.0
        }
    }
}

/// A call that needs a current context without an error in it.
fn with_machine(name: &str, body: impl FnOnce(&mut Machine, &mut HashMap<usize, Layout>) -> Outcome) -> u32 {
    call(name, |driver| {
        if CURRENT.get() != CONTEXT {
            return refuse(INVALID_CONTEXT, "no context is current");
        }
        let Some(machine) = &mut driver.machine else { return refuse(INVALID_CONTEXT, "the context was released") };
        match machine.sticky {
            Some(status) => Err((status, String::new())),
            None => body(machine, &mut driver.pinned),
        }
    })
}

fn check_device(device: c_int) -> Outcome {
    if device == 0 { Ok(()) } else { refuse(INVALID_DEVICE, format!("there is no device {device}")) }
}

/// Writes a result where there is a place for it.
unsafe fn write<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return refuse(INVALID_VALUE, "a null pointer for a result");
    }
    // SAFETY: by the caller.
    unsafe { to.write(value) };
    Ok(())
}

fn stream_number(stream: Handle) -> u64 {
    // 1 is CU_STREAM_LEGACY.
    if stream as usize == 1 { DEFAULT_STREAM } else { stream as u64 }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> u32 {
    call("cuInit", |driver| {
        if flags != 0 {
            return refuse(INVALID_VALUE, "flags");
        }
        if !driver.initialized && setting("MOVIOLA_EMULATOR_STATS").is_some_and(|n| n > 0) {
            unsafe extern "C" {
                fn atexit(function: extern "C" fn()) -> c_int;
            }
            // SAFETY: the function takes nothing and does not unwind.
            unsafe { atexit(print_statistics) };
        }
        driver.initialized = true;
        Ok(())
    })
}

extern "C" fn print_statistics() {
    let _ = catch_unwind(|| {
        let Ok(guard) = DRIVER.try_lock() else { return };
        let Some(machine) = guard.as_ref().and_then(|d| d.machine.as_ref()) else { return };
        eprintln!("emulator: {:>9} {:>16} {:>10} {:>9}  kernel", "launches", "instructions", "seconds", "M/s");
        for (name, s) in &machine.statistics {
            let rate = s.instructions as f64 / s.seconds.max(1e-9) / 1e6;
            eprintln!("emulator: {:>9} {:>16} {:>10.4} {rate:>9.1}  {name}", s.launches, s.instructions, s.seconds);
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    if version.is_null() {
        return INVALID_VALUE.0;
    }
    // SAFETY: not null, by the driver's contract a place for an int.
    unsafe { version.write(status::DRIVER_VERSION) };
    SUCCESS.0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    // SAFETY: by the driver's contract, here and in every function below.
    call("cuDeviceGetCount", |_| unsafe { write(count, 1) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    call("cuDeviceGet", |_| {
        check_device(ordinal)?;
        unsafe { write(device, 0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> u32 {
    call("cuDeviceGetName", |_| {
        check_device(device)?;
        if name.is_null() || length < 1 {
            return refuse(INVALID_VALUE, "no place for the name");
        }
        let count = status::DEVICE_NAME.len().min(length as usize - 1);
        for (n, byte) in status::DEVICE_NAME.bytes().take(count).chain([0]).enumerate() {
            unsafe { name.add(n).write(byte as c_char) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32 {
    call("cuDeviceTotalMem_v2", |_| {
        check_device(device)?;
        unsafe { write(bytes, total_memory() as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) -> u32 {
    call("cuDeviceGetAttribute", |_| {
        check_device(device)?;
        match status::attribute(attribute) {
            Some(found) => unsafe { write(value, found) },
            None => refuse(INVALID_VALUE, format!("there is no attribute {attribute}")),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRetain", |driver| {
        check_device(device)?;
        unsafe { write(context, CONTEXT as Handle) }?;
        driver.retained += 1;
        driver.machine.get_or_insert_with(new_machine);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRelease_v2", |driver| {
        check_device(device)?;
        if driver.retained == 0 {
            return refuse(INVALID_CONTEXT, "the context was released more often than retained");
        }
        driver.retained -= 1;
        if driver.retained == 0
            && let Some(old) = &mut driver.machine
        {
            let outcome = if old.sticky.is_none() { old.synchronize() } else { Ok(()) };
            // A new context begins without errors and without memory; statistics stay.
            let statistics = std::mem::take(&mut old.statistics);
            let mut machine = new_machine();
            machine.statistics = statistics;
            driver.machine = Some(machine);
            return outcome;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> u32 {
    call("cuCtxSetCurrent", |_| {
        if !context.is_null() && context as usize != CONTEXT {
            return refuse(INVALID_CONTEXT, "no such context");
        }
        CURRENT.set(context as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> u32 {
    call("cuCtxGetCurrent", |_| unsafe { write(context, CURRENT.get() as Handle) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    with_machine("cuCtxSynchronize", |machine, _| machine.synchronize())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    with_machine("cuMemGetInfo_v2", |machine, _| {
        let memory = &machine.memory;
        unsafe { write(free, memory.limit.saturating_sub(memory.used) as usize) }?;
        unsafe { write(total, memory.limit as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, length: usize) -> u32 {
    with_machine("cuMemAlloc_v2", |machine, _| {
        if length == 0 {
            return refuse(INVALID_VALUE, "no bytes were asked for");
        }
        match machine.memory.allocate(length as u64) {
            Some(base) => unsafe { write(address, base) },
            None => Err((OUT_OF_MEMORY, String::new())),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    with_machine("cuMemFree_v2", |machine, _| {
        if address == 0 {
            return Ok(());
        }
        machine.synchronize()?;
        if machine.memory.free(address) {
            return Ok(());
        }
        refuse(INVALID_VALUE, format!("0x{address:x} is not the address of an allocation"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, length: usize, flags: c_uint) -> u32 {
    with_machine("cuMemHostAlloc", |machine, pinned| {
        if length == 0 || flags > 7 {
            return refuse(INVALID_VALUE, format!("{length} bytes with flags {flags}"));
        }
        let Ok(layout) = Layout::from_size_align(length.next_multiple_of(4), 4096) else {
            return refuse(OUT_OF_MEMORY, "");
        };
        // SAFETY: the layout has a size.
        let at = unsafe { std::alloc::alloc(layout) };
        if at.is_null() {
            return refuse(OUT_OF_MEMORY, "");
        }
        for n in 0..layout.size() / 4 {
            // SAFETY: within what was just allocated.
            unsafe { at.cast::<u32>().add(n).write(POISON) };
        }
        pinned.insert(at as usize, layout);
        // SAFETY: it is taken away before it is freed.
        unsafe { machine.memory.add_host(at, length as u64) };
        unsafe { write(address, at.cast()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: *mut c_void) -> u32 {
    with_machine("cuMemFreeHost", |machine, pinned| {
        machine.synchronize()?;
        let Some(layout) = pinned.remove(&(address as usize)) else {
            return refuse(INVALID_VALUE, "this is not the address of pinned memory");
        };
        machine.memory.remove_host(address as u64);
        // SAFETY: it was allocated with this layout, and nothing refers to it any more.
        unsafe { std::alloc::dealloc(address.cast(), layout) };
        Ok(())
    })
}

/// The source of a copy: pinned memory stays where it is, other memory is read now.
unsafe fn source(machine: &Machine, from: *const c_void, length: usize, wait: bool) -> Outcome<Source> {
    if from.is_null() {
        return refuse(INVALID_VALUE, "a null pointer to copy from");
    }
    if !wait && machine.memory.is_host(from as u64, length as u64) {
        return Ok(Source::Pinned(HostPointer(from as *mut u8), length as u64));
    }
    // SAFETY: by the driver's contract that many bytes can be read.
    Ok(Source::Now(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) }.to_vec()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, length: usize) -> u32 {
    with_machine("cuMemcpyHtoD_v2", |machine, _| {
        if length == 0 {
            return Ok(());
        }
        let source = unsafe { source(machine, from, length, true) }?;
        machine.copy_in(to, source, DEFAULT_STREAM)?;
        machine.synchronize_stream(DEFAULT_STREAM)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, length: usize, stream: Handle) -> u32 {
    with_machine("cuMemcpyHtoDAsync_v2", |machine, _| {
        if length == 0 {
            return Ok(());
        }
        let source = unsafe { source(machine, from, length, false) }?;
        machine.copy_in(to, source, stream_number(stream))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, length: usize) -> u32 {
    with_machine("cuMemcpyDtoH_v2", |machine, _| {
        if length == 0 {
            return Ok(());
        }
        if to.is_null() {
            return refuse(INVALID_VALUE, "a null pointer to copy to");
        }
        machine.copy_out(HostPointer(to.cast()), from, length as u64, DEFAULT_STREAM)?;
        machine.synchronize_stream(DEFAULT_STREAM)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, length: usize, stream: Handle) -> u32 {
    with_machine("cuMemcpyDtoHAsync_v2", |machine, _| {
        if length == 0 {
            return Ok(());
        }
        if to.is_null() {
            return refuse(INVALID_VALUE, "a null pointer to copy to");
        }
        machine.copy_out(HostPointer(to.cast()), from, length as u64, stream_number(stream))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, length: usize, stream: Handle) -> u32 {
    with_machine("cuMemcpyDtoDAsync_v2", |machine, _| {
        if length == 0 {
            return Ok(());
        }
        machine.copy_device(to, from, length as u64, stream_number(stream))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: Handle) -> u32 {
    with_machine("cuMemsetD8Async", |machine, _| {
        if count == 0 {
            return Ok(());
        }
        machine.fill(to, &[value], count as u64, stream_number(stream))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Handle) -> u32 {
    with_machine("cuMemsetD32Async", |machine, _| {
        if count == 0 {
            return Ok(());
        }
        machine.fill(to, &value.to_le_bytes(), count as u64, stream_number(stream))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> u32 {
    with_machine("cuStreamCreate", |machine, _| {
        if flags > 1 {
            return refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        let handle = machine.create_stream(flags == 0);
        unsafe { write(stream, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> u32 {
    with_machine("cuStreamDestroy_v2", |machine, _| machine.destroy_stream(stream_number(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> u32 {
    with_machine("cuStreamSynchronize", |machine, _| machine.synchronize_stream(stream_number(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> u32 {
    with_machine("cuStreamWaitEvent", |machine, _| {
        if flags > 1 {
            return refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        machine.wait(stream_number(stream), event as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> u32 {
    with_machine("cuEventCreate", |machine, _| {
        if flags > 3 {
            return refuse(INVALID_VALUE, format!("flags {flags}"));
        }
        let handle = machine.create_event();
        unsafe { write(event, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> u32 {
    with_machine("cuEventDestroy_v2", |machine, _| machine.destroy_event(event as u64))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> u32 {
    with_machine("cuEventRecord", |machine, _| machine.record(event as u64, stream_number(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> u32 {
    with_machine("cuEventSynchronize", |machine, _| machine.synchronize_event(event as u64))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> u32 {
    with_machine("cuEventQuery", |machine, _| match machine.query_event(event as u64)? {
        true => Ok(()),
        false => refuse(NOT_READY, ""),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, begin: Handle, end: Handle) -> u32 {
    with_machine("cuEventElapsedTime", |machine, _| match machine.elapsed(begin as u64, end as u64)? {
        Some(time) => unsafe { write(milliseconds, time) },
        None => refuse(NOT_READY, ""),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, begin: Handle, end: Handle) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime(milliseconds, begin, end) }
}

/// Log buffers that `cuModuleLoadDataEx` was given: pointer, size, and where to write how much was used.
#[derive(Default)]
struct Log {
    at: usize,
    size: usize,
    used: Option<usize>,
}

impl Log {
    /// As much of the text as there is room for, and a zero.
    unsafe fn write(&self, text: &str, values: *mut *mut c_void) {
        let mut count = 0;
        if self.at != 0 && self.size > 0 {
            let bytes = text.as_bytes();
            count = bytes.len().min(self.size - 1);
            // SAFETY: the buffer has that many bytes, by the driver's contract.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at as *mut u8, count);
                (self.at as *mut u8).add(count).write(0);
            }
        }
        if let Some(index) = self.used {
            // SAFETY: one of the values that were given.
            unsafe { values.add(index).write(count as *mut c_void) };
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    count: c_uint,
    options: *mut c_uint,
    values: *mut *mut c_void,
) -> u32 {
    with_machine("cuModuleLoadDataEx", |machine, _| {
        if image.is_null() || (count > 0 && (options.is_null() || values.is_null())) {
            return refuse(INVALID_VALUE, "a null pointer");
        }
        let (mut info, mut error) = (Log::default(), Log::default());
        for n in 0..count as usize {
            // SAFETY: `count` options and values, by the driver's contract.
            let (option, value) = unsafe { (options.add(n).read(), values.add(n).read() as usize) };
            match option {
                3 => info.at = value,
                4 => (info.size, info.used) = (value & 0xffff_ffff, Some(n)),
                5 => error.at = value,
                6 => (error.size, error.used) = (value & 0xffff_ffff, Some(n)),
                _ => {}
            }
        }
        unsafe { info.write("", values) };
        let bytes = unsafe { CStr::from_ptr(image.cast()) };
        let Ok(text) = bytes.to_str() else { return refuse(INVALID_IMAGE, "the image is no PTX") };
        match parse::module(text) {
            Ok(parsed) => {
                unsafe { error.write("", values) };
                let handle = machine.load(parsed)?;
                unsafe { write(module, handle as Handle) }
            }
            Err(fault) => {
                unsafe { error.write(&format!("ptxas application ptx input, {fault}"), values) };
                refuse(INVALID_PTX, format!("PTX {fault}"))
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> u32 {
    // SAFETY: the same contract, without options.
    unsafe { cuModuleLoadDataEx(module, image, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> u32 {
    with_machine("cuModuleUnload", |machine, _| machine.unload(module as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> u32 {
    with_machine("cuModuleGetFunction", |machine, _| {
        if name.is_null() {
            return refuse(INVALID_VALUE, "a null pointer for the name");
        }
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let handle = machine.function(module as u64, &name)?;
        unsafe { write(function, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> u32 {
    with_machine("cuFuncGetAttribute", |machine, _| {
        let (module, kernel) = machine.kernel(function as u64)?;
        let kernel = &module.module.kernels[kernel];
        let threads: u64 = kernel.maxntid.iter().map(|&t| u64::from(t)).product();
        let found = match attribute {
            0 if threads > 0 => threads.min(u64::from(status::MAX_THREADS)) as i32,
            0 => status::MAX_THREADS as i32,
            1 => kernel.shared_bytes as i32,
            2 | 7 => 0,
            3 => kernel.local_bytes as i32,
            4 => kernel.registers.min(255) as i32,
            5 | 6 => 80,
            8 => status::MAX_SHARED as i32 - kernel.shared_bytes as i32,
            9 => -1,
            _ => return refuse(INVALID_VALUE, format!("there is no attribute {attribute} of a function")),
        };
        unsafe { write(value, found) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> u32 {
    with_machine("cuFuncSetAttribute", |machine, _| {
        let (module, kernel) = machine.kernel(function as u64)?;
        let room = status::MAX_SHARED as i32 - module.module.kernels[kernel].shared_bytes as i32;
        match attribute {
            8 if (0..=room).contains(&value) => Ok(()),
            9 if (-1..=100).contains(&value) => Ok(()),
            8 | 9 => refuse(INVALID_VALUE, format!("{value} for attribute {attribute} of a function")),
            _ => refuse(NOT_SUPPORTED, format!("attribute {attribute} of a function cannot be set")),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    with_machine("cuLaunchKernel", |machine, _| {
        if !extra.is_null() {
            return refuse(NOT_SUPPORTED, "parameters in a buffer");
        }
        let (module, kernel) = machine.kernel(function as u64)?;
        let kernel = &module.module.kernels[kernel];
        if params.is_null() && !kernel.params.is_empty() {
            return refuse(INVALID_VALUE, format!("kernel {}: no parameters", kernel.name));
        }
        let mut bytes = vec![0; kernel.param_bytes as usize];
        for (n, param) in kernel.params.iter().enumerate() {
            // SAFETY: a pointer for each parameter, by the driver's contract.
            let from = unsafe { params.add(n).read() };
            if from.is_null() {
                return refuse(INVALID_VALUE, format!("kernel {}: parameter {n} is null", kernel.name));
            }
            let (at, size) = (param.offset as usize, param.size as usize);
            // SAFETY: to as many bytes as the kernel declares.
            let value = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
            bytes[at..at + size].copy_from_slice(value);
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        machine.launch(function as u64, grid, block, shared, bytes, stream_number(stream))
    })
}

/// A constant text for a code.
unsafe fn constant(found: Option<&'static CStr>, to: *mut *const c_char) -> u32 {
    if to.is_null() {
        return INVALID_VALUE.0;
    }
    // SAFETY: not null, by the driver's contract a place for a pointer.
    unsafe { to.write(found.map_or(std::ptr::null(), CStr::as_ptr)) };
    if found.is_some() { SUCCESS.0 } else { INVALID_VALUE.0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: u32, text: *mut *const c_char) -> u32 {
    // SAFETY: the same contract.
    unsafe { constant(status::name(error), text) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: u32, text: *mut *const c_char) -> u32 {
    // SAFETY: the same contract.
    unsafe { constant(status::text(error), text) }
}
