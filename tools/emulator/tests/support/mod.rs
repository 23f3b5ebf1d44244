//! What the tests share: a device, and kernels around a few instructions.
#![allow(dead_code)]

use cuda::fault::{Kind, Report};
use cuda::grid::Checks;
use cuda::machine::{DEFAULT_STREAM, HostPointer, Machine, Source};
use cuda::parse;

/// A kernel's parameter.
#[derive(Clone, Copy)]
pub enum Arg {
    Pointer(u64),
    Word(u32),
}

pub struct Gpu {
    pub machine: Machine,
    pub module: u64,
}

impl Gpu {
    pub fn new(ptx: &str) -> Gpu {
        let module = parse::module(ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
        let mut machine = Machine::new(1 << 30, Checks { most_instructions: 50_000_000, ..Checks::default() });
        let module = machine.load(module).expect("load");
        Gpu { machine, module }
    }

    pub fn upload(&mut self, words: &[u32]) -> u64 {
        let base = self.machine.memory.allocate(words.len() as u64 * 4).expect("memory");
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.machine.memory.write(base, &bytes).expect("write");
        base
    }

    pub fn download(&mut self, base: u64, words: usize) -> Vec<u32> {
        let mut bytes = vec![0u8; words * 4];
        let to = HostPointer(bytes.as_mut_ptr());
        self.machine.copy_out(to, base, bytes.len() as u64, DEFAULT_STREAM).expect("read");
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Puts a launch into a stream.
    pub fn queue(&mut self, name: &str, blocks: u32, threads: u32, args: &[Arg], stream: u64) {
        let function = self.machine.function(self.module, name).expect("kernel");
        let mut params = Vec::new();
        for arg in args {
            match arg {
                Arg::Pointer(p) => {
                    params.resize(params.len().next_multiple_of(8), 0);
                    params.extend(p.to_le_bytes());
                }
                Arg::Word(w) => params.extend(w.to_le_bytes()),
            }
        }
        self.machine.launch(function, [blocks, 1, 1], [threads, 1, 1], 0, params, stream).expect("launch");
    }

    pub fn run(&mut self, name: &str, blocks: u32, threads: u32, args: &[Arg]) -> Result<(), Box<Report>> {
        self.queue(name, blocks, threads, args, DEFAULT_STREAM);
        match self.machine.synchronize() {
            Ok(()) => Ok(()),
            Err((_, what)) => Err(self.machine.report.take().unwrap_or_else(|| panic!("{what}"))),
        }
    }

    pub fn pinned(&mut self, bytes: &'static mut [u8]) -> *mut u8 {
        let at = bytes.as_mut_ptr();
        // SAFETY: static memory stays.
        unsafe { self.machine.memory.add_host(at, bytes.len() as u64) };
        at
    }

    pub fn copy_in(&mut self, to: u64, words: &[u32], stream: u64) {
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.machine.copy_in(to, Source::Now(bytes), stream).expect("copy");
    }
}

/// A kernel `k` with pointers %in and %out, thread index %t, and registers of all kinds.
pub fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 7.1\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 p_in, .param .u64 p_out)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<16>;\n.reg .b32 %r<40>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<16>;\n\
         .reg .f64 %fd<8>;\n.reg .b32 %t;\n.reg .b64 %in, %out, %at;\n{declarations}\n\
         ld.param.u64 %in, [p_in];\nld.param.u64 %out, [p_out];\nmov.u32 %t, %tid.x;\n\
         mul.wide.u32 %at, %t, 4;\nadd.s64 %at, %at, %out;\n{body}\nret;\n}}\n"
    )
}

/// Runs one block; what it wrote to `words` words of %out (poison elsewhere).
pub fn run_block(
    declarations: &str,
    body: &str,
    threads: u32,
    input: &[u32],
    words: usize,
) -> Result<Vec<u32>, Box<Report>> {
    let mut gpu = Gpu::new(&kernel(declarations, body));
    let (input, output) = (gpu.upload(input), gpu.machine.memory.allocate(words as u64 * 4).expect("memory"));
    gpu.run("k", 1, threads, &[Arg::Pointer(input), Arg::Pointer(output)])?;
    Ok(gpu.download(output, words))
}

/// One thread; `body` leaves its results in %r0, %r1, …
pub fn eval(body: &str, results: usize) -> Vec<u32> {
    let stores: String = (0..results).map(|n| format!("st.global.u32 [%out+{}], %r{n};\n", n * 4)).collect();
    run_block("", &format!("{body}\n{stores}"), 1, &[0], results).unwrap_or_else(|e| panic!("{e}"))
}

/// One instruction `opcode %r0, operands`.
pub fn one(instruction: &str) -> u32 {
    eval(instruction, 1)[0]
}

/// The fault of a block that must not succeed.
pub fn fails(declarations: &str, body: &str, threads: u32) -> (Kind, String) {
    match run_block(declarations, body, threads, &[1; 1024], 1024) {
        Ok(_) => panic!("this ran without an error:\n{body}"),
        Err(report) => (report.kind, report.to_string()),
    }
}

/// Why a text is no module.
pub fn refused(ptx: &str) -> String {
    match parse::module(ptx) {
        Ok(_) => panic!("this was loaded:\n{ptx}"),
        Err(error) => error.to_string(),
    }
}

/// Random numbers from a seed that is printed.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(now | 1);
        println!("SEED={seed}");
        Random(seed)
    }

    pub fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// From -1 to 1.
    pub fn float(&mut self) -> f32 {
        self.word() as f32 / 2f32.powi(31) - 1.0
    }
}
