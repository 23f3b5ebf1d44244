//! The CUDA driver, every call checked: all unsafe code of this back end. Handles free what they stand for.
//!
//! cudarc's bindings panic where the library or one of its functions is missing, so both are asked for first.

use crate::engine::op::PARAM_WORDS;
use crate::engine::tensor::Counts;
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUjit_option, CUmodule, CUresult,
    CUstream,
};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// Every function that this back end calls.
const FUNCTIONS: [&str; 33] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD32Async",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// A call that the driver refused.
#[derive(Clone, Debug)]
pub struct Fault {
    pub code: CUresult,
    /// The driver's words, its log included where it wrote one.
    pub what: String,
}

impl Fault {
    /// Something that this back end refuses before the driver is asked.
    pub fn refusal(what: String) -> Fault {
        Fault { code: CUresult::CUDA_ERROR_INVALID_VALUE, what }
    }
    pub fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

type Answer<T = ()> = Result<T, Fault>;

fn checked(call: &str, code: CUresult) -> Answer {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let (mut words, mut name): (*const c_char, *const c_char) = (std::ptr::null(), std::ptr::null());
    // SAFETY: both calls write one address.
    let found = unsafe { [sys::cuGetErrorString(code, &mut words), sys::cuGetErrorName(code, &mut name)] };
    let text = |found: CUresult, at: *const c_char| {
        if found != CUresult::CUDA_SUCCESS || at.is_null() {
            return format!("error {}", code as u32);
        }
        // SAFETY: on success the driver points to a static string that ends in 0.
        unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
    };
    Err(Fault { code, what: format!("{call}: {} ({})", text(found[0], words), text(found[1], name)) })
}

/// Calls a function of the driver and checks its answer.
macro_rules! call {
    ($name:ident($($arg:expr),* $(,)?)) => {
        checked(stringify!($name), sys::$name($($arg),*))
    };
}

/// Whether there is a driver that has every function we call and starts; else why not.
pub fn start() -> Result<(), String> {
    // SAFETY: loading the driver's library runs its initialisers, which every CUDA program does; symbols are only
    // looked up, not called, before all are known to be there.
    unsafe {
        if !sys::is_culib_present() {
            return Err("the driver's library (libcuda.so.1, nvcuda.dll) was not found".into());
        }
        let library = sys::culib();
        for name in FUNCTIONS {
            let symbol = CString::new(name).unwrap_or_default();
            if library.get::<*const c_void>(symbol.as_bytes_with_nul()).is_err() {
                return Err(format!("the driver's library lacks {name}: the driver is too old"));
            }
        }
        call!(cuInit(0)).map_err(|f| f.what)
    }
}

/// How many devices there are; `start` must have succeeded, as for everything below.
pub fn device_count() -> Answer<usize> {
    let mut n = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDeviceGetCount(&mut n))? };
    Ok(usize::try_from(n).unwrap_or(0))
}

/// (major, minor) of the CUDA version that the driver supports.
pub fn version() -> Answer<(i32, i32)> {
    let mut v = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDriverGetVersion(&mut v))? };
    Ok((v / 1000, v % 1000 / 10))
}

/// What a device says of itself.
#[derive(Clone, Debug)]
pub struct Properties {
    pub name: String,
    /// (major, minor) of its compute capability.
    pub capability: (i32, i32),
    pub memory: u64,
    pub integrated: bool,
}

fn handle(ordinal: usize) -> Answer<CUdevice> {
    let mut device = 0;
    // SAFETY: writes one int; the driver refuses an ordinal that does not exist.
    unsafe { call!(cuDeviceGet(&mut device, ordinal as c_int))? };
    Ok(device)
}

pub fn properties(ordinal: usize) -> Answer<Properties> {
    let device = handle(ordinal)?;
    let attribute = |which: CUdevice_attribute| -> Answer<i32> {
        let mut value = 0;
        // SAFETY: writes one int.
        unsafe { call!(cuDeviceGetAttribute(&mut value, which, device))? };
        Ok(value)
    };
    let mut name = [0u8; 256];
    let mut memory = 0usize;
    // SAFETY: the name is cut to its 256 bytes and ends in 0; the size is one word.
    unsafe {
        call!(cuDeviceGetName(name.as_mut_ptr().cast(), 256, device))?;
        call!(cuDeviceTotalMem_v2(&mut memory, device))?;
    }
    Ok(Properties {
        name: CStr::from_bytes_until_nul(&name).map_or(String::new(), |s| s.to_string_lossy().into_owned()),
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory: memory as u64,
        integrated: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
    })
}

/// A device's primary context. Everything made in it holds it.
#[derive(Debug)]
pub struct Context {
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: a context may be used from any thread that makes it current; `Context::enter` does so.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks what threads share.
unsafe impl Sync for Context {}

impl Context {
    pub fn new(ordinal: usize) -> Answer<Arc<Context>> {
        let device = handle(ordinal)?;
        let mut context = null_mut();
        // SAFETY: writes one handle, which is released when this is dropped.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, device))? };
        Ok(Arc::new(Context { device, context }))
    }

    /// Makes it this thread's context, which all calls on its memory, streams and modules need.
    pub fn enter(&self) -> Answer {
        // SAFETY: the context is alive as long as `self`.
        unsafe { call!(cuCtxSetCurrent(self.context)) }
    }

    /// Free bytes of the device.
    pub fn free_memory(&self) -> Answer<u64> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two words.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok(free as u64)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`; everything made in it holds an Arc and is gone.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Memory of the device.
#[derive(Debug)]
pub struct DeviceMemory {
    context: Arc<Context>,
    at: CUdeviceptr,
    bytes: u64,
}

impl DeviceMemory {
    pub fn new(context: &Arc<Context>, bytes: u64) -> Answer<DeviceMemory> {
        context.enter()?;
        let mut at = 0;
        // SAFETY: writes one address, freed when this is dropped. Nothing is allocated of size 0.
        unsafe { call!(cuMemAlloc_v2(&mut at, bytes.max(256) as usize))? };
        Ok(DeviceMemory { context: context.clone(), at, bytes })
    }
    pub fn address(&self) -> u64 {
        self.at
    }
    fn holds(&self, offset: u64, len: u64) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes), "{len} bytes at {offset} of {self:?}");
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated in `new`, freed once; the driver waits for work that uses it.
        let _ = unsafe { sys::cuMemFree_v2(self.at) };
    }
}

/// Host memory that the device reads and writes by itself.
#[derive(Debug)]
pub struct Pinned {
    context: Arc<Context>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(context: &Arc<Context>, bytes: u64) -> Answer<Pinned> {
        context.enter()?;
        let bytes = bytes.max(256) as usize;
        let mut at: *mut c_void = null_mut();
        // SAFETY: writes one address. It is zeroed before anyone sees it. Flags 0: not write-combined, since results
        // are read through it.
        unsafe {
            call!(cuMemHostAlloc(&mut at, bytes, 0))?;
            at.cast::<u8>().write_bytes(0, bytes);
        }
        Ok(Pinned { context: context.clone(), at: at.cast(), bytes })
    }
    /// Copies into it. Transfers that read these bytes must be over.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset.checked_add(data.len()).is_some_and(|end| end <= self.bytes), "outside of pinned memory");
        // SAFETY: in bounds; `data` is other memory, since nobody gets a reference to this one.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(offset), data.len()) };
    }
    /// Copies out of it. Transfers that write these bytes must be over.
    pub fn read(&self, data: &mut [u8]) {
        assert!(data.len() <= self.bytes, "outside of pinned memory");
        // SAFETY: in bounds, and `data` is other memory.
        unsafe { std::ptr::copy_nonoverlapping(self.at, data.as_mut_ptr(), data.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated in `new`, freed once; streams were waited for by their owner.
        let _ = unsafe { sys::cuMemFreeHost(self.at.cast()) };
    }
}

/// A queue of work.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    stream: CUstream,
}

// SAFETY: a stream may be used by any thread in whose context it is.
unsafe impl Send for Stream {}

impl Stream {
    /// One that does not wait for the default stream.
    pub fn new(context: &Arc<Context>) -> Answer<Stream> {
        context.enter()?;
        let mut stream = null_mut();
        // SAFETY: writes one handle, destroyed when this is dropped.
        unsafe { call!(cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))? };
        Ok(Stream { context: context.clone(), stream })
    }
    /// Waits until all its work is done; says what went wrong in it.
    pub fn synchronize(&self) -> Answer {
        // SAFETY: the handle is alive.
        unsafe { call!(cuStreamSynchronize(self.stream)) }
    }
    /// Later work waits for what `event` was last recorded behind; for nothing if it never was.
    pub fn wait(&self, event: &Event) -> Answer {
        // SAFETY: both handles are alive.
        unsafe { call!(cuStreamWaitEvent(self.stream, event.event, 0)) }
    }
    pub fn record(&self, event: &Event) -> Answer {
        // SAFETY: both handles are alive.
        unsafe { call!(cuEventRecord(event.event, self.stream)) }
    }
    /// `from` must not be written or dropped before the copy is over.
    pub fn upload(&self, from: &Pinned, from_offset: usize, to: &DeviceMemory, offset: u64, len: usize) -> Answer {
        assert!(from_offset.checked_add(len).is_some_and(|end| end <= from.bytes), "outside of pinned memory");
        to.holds(offset, len as u64);
        // SAFETY: both ranges were just checked; owners wait before they free.
        unsafe { call!(cuMemcpyHtoDAsync_v2(to.at + offset, from.at.add(from_offset).cast(), len, self.stream)) }
    }
    /// `to` must not be read or dropped before the copy is over.
    pub fn download(&self, from: &DeviceMemory, offset: u64, to: &mut Pinned, len: usize) -> Answer {
        assert!(len <= to.bytes, "outside of pinned memory");
        from.holds(offset, len as u64);
        // SAFETY: both ranges were just checked; owners wait before they free.
        unsafe { call!(cuMemcpyDtoHAsync_v2(to.at.cast(), from.at + offset, len, self.stream)) }
    }
    /// Copies `len` bytes between places that do not overlap.
    pub fn copy(&self, from: (&DeviceMemory, u64), to: (&DeviceMemory, u64), len: u64) -> Answer {
        from.0.holds(from.1, len);
        to.0.holds(to.1, len);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: both ranges were just checked.
        unsafe { call!(cuMemcpyDtoDAsync_v2(to.0.at + to.1, from.0.at + from.1, len as usize, self.stream)) }
    }
    /// Sets `words` words.
    pub fn fill(&self, to: &DeviceMemory, offset: u64, words: u64, value: u32) -> Answer {
        to.holds(offset, words * 4);
        if words == 0 {
            return Ok(());
        }
        // SAFETY: the range was just checked, and plans align to words.
        unsafe { call!(cuMemsetD32Async(to.at + offset, value, words as usize, self.stream)) }
    }
    /// Runs a kernel of ours: operands, then counts, then parameters; see kernels/common.cuh.
    pub fn launch(&self, kernel: &Kernel, grid: [u32; 3], args: &Arguments) -> Answer {
        let mut pointers: [*mut c_void; MAX_OPERANDS + 2] = [null_mut(); MAX_OPERANDS + 2];
        let n = args.operands.len();
        assert!(n <= MAX_OPERANDS, "a kernel takes at most {MAX_OPERANDS} operands");
        let address = |x: *const u64| x.cast_mut().cast::<c_void>();
        for (to, operand) in pointers.iter_mut().zip(args.operands) {
            *to = address(operand);
        }
        pointers[n] = address(&args.counts);
        pointers[n + 1] = args.params.as_ptr().cast_mut().cast();
        let [x, y, z] = grid;
        // SAFETY: the driver copies as many bytes from each pointer as the kernel declares: eight for an address, at
        // most PARAM_WORDS words for the parameters. That addresses and lengths are right is what plans are checked
        // for and what kernels are tested for.
        unsafe {
            call!(cuLaunchKernel(
                kernel.function,
                x,
                y,
                z,
                THREADS,
                1,
                1,
                0,
                self.stream,
                pointers.as_mut_ptr(),
                null_mut()
            ))
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: created in `new`; its work is over or is let run out by the driver.
        let _ = unsafe { sys::cuStreamSynchronize(self.stream) };
        // SAFETY: destroyed once.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

/// Threads of every block; THREADS of kernels/common.cuh.
const THREADS: u32 = 256;
/// Most operands of a kernel.
pub const MAX_OPERANDS: usize = 24;

/// What one launch hands to its kernel. Absent operands are 0.
#[derive(Debug)]
pub struct Arguments<'a> {
    pub operands: &'a [u64],
    pub counts: u64,
    pub params: [u32; PARAM_WORDS],
}

/// A moment in a stream.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    event: CUevent,
}

// SAFETY: an event may be used by any thread in whose context it is.
unsafe impl Send for Event {}

impl Event {
    pub fn new(context: &Arc<Context>) -> Answer<Event> {
        context.enter()?;
        let mut event = null_mut();
        // SAFETY: writes one handle, destroyed when this is dropped.
        unsafe { call!(cuEventCreate(&mut event, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32))? };
        Ok(Event { context: context.clone(), event })
    }
    /// Waits for what it was last recorded behind; returns at once if it never was.
    pub fn synchronize(&self) -> Answer {
        // SAFETY: the handle is alive.
        unsafe { call!(cuEventSynchronize(self.event)) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: created in `new`, destroyed once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.event) };
    }
}

/// A family of kernels, compiled for the device.
#[derive(Debug)]
pub struct Module {
    context: Arc<Context>,
    module: CUmodule,
}

// SAFETY: a module may be used by any thread in whose context it is.
unsafe impl Send for Module {}

/// A kernel of a module.
#[derive(Debug)]
pub struct Kernel {
    /// Keeps the code loaded.
    _module: Arc<Module>,
    function: CUfunction,
}

// SAFETY: as its module.
unsafe impl Send for Kernel {}
// SAFETY: the handle is only read.
unsafe impl Sync for Kernel {}
// SAFETY: the handle is only read.
unsafe impl Sync for Module {}

/// Bytes of the driver's log of a compilation.
const LOG: usize = 16 << 10;

impl Module {
    /// Compiles PTX for the device; the driver keeps the result in its cache. A refusal comes with the driver's log.
    pub fn new(context: &Arc<Context>, ptx: &str) -> Answer<Arc<Module>> {
        context.enter()?;
        let fault = |what: &str| Fault { code: CUresult::CUDA_ERROR_INVALID_PTX, what: what.into() };
        let text = CString::new(ptx).map_err(|_| fault("the PTX holds a zero byte"))?;
        let mut log = vec![0u8; LOG];
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        let mut module = null_mut();
        // SAFETY: the text ends in 0 and the log has the size that the options say; the handle is unloaded when this
        // is dropped.
        let code = unsafe {
            let n = options.len() as u32;
            sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), n, options.as_mut_ptr(), values.as_mut_ptr())
        };
        checked("cuModuleLoadDataEx", code).map_err(|f| {
            let log =
                CStr::from_bytes_until_nul(&log).map_or(String::new(), |s| s.to_string_lossy().trim().to_string());
            let what = if log.is_empty() { f.what } else { format!("{}: {log}", f.what) };
            Fault { what, ..f }
        })?;
        Ok(Arc::new(Module { context: context.clone(), module }))
    }

    pub fn kernel(self: &Arc<Module>, name: &str) -> Answer<Kernel> {
        let symbol = CString::new(name).unwrap_or_default();
        let mut function = null_mut();
        // SAFETY: the name ends in 0; the handle lives as long as the module, which the kernel holds.
        unsafe { call!(cuModuleGetFunction(&mut function, self.module, symbol.as_ptr())) }
            .map_err(|f| Fault { what: format!("{name}: {}", f.what), ..f })?;
        Ok(Kernel { _module: self.clone(), function })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: loaded in `new`, unloaded once; kernels hold the module.
        let _ = unsafe { sys::cuModuleUnload(self.module) };
    }
}

/// The counts as the device reads them.
pub fn count_bytes(counts: &Counts) -> &[u8] {
    bytemuck::cast_slice(&counts.0)
}
