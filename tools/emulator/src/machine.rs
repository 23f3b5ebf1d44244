//! The device behind the driver: modules, streams and events.
//!
//! Streams are lazy. What is asked for asynchronously is only written down; it happens when something waits for it,
//! and no sooner. So a missing wait, or a pinned buffer that is used again too early, shows as wrong data.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::fault::Report;
use crate::grid::{self, Checks, Launch, Pool};
use crate::memory::Memory;
use crate::program::Module;
use crate::status::{
    INVALID_HANDLE, INVALID_VALUE, MAX_BLOCK, MAX_GRID, MAX_SHARED, MAX_THREADS, NOT_FOUND, OUT_OF_MEMORY, Status,
};

/// The legacy default stream.
pub const DEFAULT_STREAM: u64 = 0;

/// What a call returns: an error is a code and, where there is more to say, a line for the user.
pub type Outcome<T = ()> = Result<T, (Status, String)>;

pub fn refuse<T>(status: Status, what: impl Into<String>) -> Outcome<T> {
    Err((status, what.into()))
}

/// Memory of the host that a copy uses when it happens.
#[derive(Clone, Copy, Debug)]
pub struct HostPointer(pub *mut u8);

// SAFETY: the program promises that the memory stays until the copy is over; that is the driver's contract.
unsafe impl Send for HostPointer {}

/// Where a copy to the device comes from.
pub enum Source {
    /// Pageable memory is read when the copy is asked for.
    Now(Vec<u8>),
    /// Pinned memory is read when the copy happens.
    Pinned(HostPointer, u64),
}

enum Command {
    CopyIn { to: u64, source: Source },
    CopyOut { to: HostPointer, from: u64, length: u64 },
    CopyDevice { to: u64, from: u64, length: u64 },
    Fill { to: u64, pattern: Vec<u8>, count: u64 },
    Launch { module: Arc<Loaded>, kernel: usize, blocks: [u32; 3], threads: [u32; 3], params: Vec<u8> },
    Record { event: u64, number: u64 },
    Wait { stream: u64, position: u64 },
}

/// Commands of a stream are numbered; those before `done` have happened.
struct Stream {
    queue: VecDeque<Command>,
    done: u64,
    blocking: bool,
    /// When something was last asked of it.
    touched: u64,
}

impl Stream {
    fn end(&self) -> u64 {
        self.done + self.queue.len() as u64
    }
}

#[derive(Default)]
struct Event {
    /// Stream, position behind the record, number of the record.
    recorded: Option<(u64, u64, u64)>,
    /// When that happened.
    at: Option<Instant>,
}

/// A module in memory.
pub struct Loaded {
    pub module: Module,
    variables: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistic {
    pub launches: u64,
    pub instructions: u64,
    pub seconds: f64,
}

pub struct Machine {
    pub memory: Memory,
    pub statistics: BTreeMap<String, Statistic>,
    /// After an error in a kernel nothing works any more.
    pub sticky: Option<Status>,
    /// The error that made it so.
    pub report: Option<Box<Report>>,
    checks: Checks,
    pool: Pool,
    streams: BTreeMap<u64, Stream>,
    events: HashMap<u64, Event>,
    modules: HashMap<u64, Arc<Loaded>>,
    functions: HashMap<u64, (u64, usize)>,
    handles: u64,
    clock: u64,
}

impl Machine {
    pub fn new(limit: u64, checks: Checks) -> Machine {
        let default = Stream { queue: VecDeque::new(), done: 0, blocking: true, touched: 0 };
        Machine {
            memory: Memory::new(limit),
            statistics: BTreeMap::new(),
            sticky: None,
            report: None,
            checks,
            pool: Pool::default(),
            streams: BTreeMap::from([(DEFAULT_STREAM, default)]),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            handles: 0x1000,
            clock: 0,
        }
    }

    /// A handle that was never given out before, for whatever it may be.
    fn handle(&mut self) -> u64 {
        self.handles += 16;
        self.handles
    }

    pub fn load(&mut self, module: Module) -> Outcome<u64> {
        let mut variables = Vec::new();
        for variable in &module.variables {
            match self.memory.variable(&variable.bytes, variable.constant) {
                Some(base) => variables.push(base),
                None => return refuse(OUT_OF_MEMORY, format!("no memory for \"{}\"", variable.name)),
            }
        }
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(Loaded { module, variables }));
        Ok(handle)
    }

    pub fn unload(&mut self, module: u64) -> Outcome {
        self.synchronize()?;
        let Some(loaded) = self.modules.remove(&module) else { return refuse(INVALID_HANDLE, "no such module") };
        loaded.variables.iter().for_each(|&base| self.memory.free_variable(base));
        self.functions.retain(|_, (of, _)| *of != module);
        Ok(())
    }

    pub fn function(&mut self, module: u64, name: &str) -> Outcome<u64> {
        let Some(loaded) = self.modules.get(&module) else { return refuse(INVALID_HANDLE, "no such module") };
        let Some(kernel) = loaded.module.kernels.iter().position(|k| k.name == name) else {
            return refuse(NOT_FOUND, format!("no kernel \"{name}\" in the module"));
        };
        if let Some((&handle, _)) = self.functions.iter().find(|(_, of)| **of == (module, kernel)) {
            return Ok(handle);
        }
        let handle = self.handle();
        self.functions.insert(handle, (module, kernel));
        Ok(handle)
    }

    /// The module of a function, and its number there.
    pub fn kernel(&self, function: u64) -> Outcome<(Arc<Loaded>, usize)> {
        let found = self.functions.get(&function).and_then(|&(m, k)| Some((self.modules.get(&m)?.clone(), k)));
        found.ok_or_else(|| (INVALID_HANDLE, "no such function".into()))
    }

    pub fn create_stream(&mut self, blocking: bool) -> u64 {
        let handle = self.handle();
        self.streams.insert(handle, Stream { queue: VecDeque::new(), done: 0, blocking, touched: 0 });
        handle
    }

    pub fn destroy_stream(&mut self, stream: u64) -> Outcome {
        if stream == DEFAULT_STREAM {
            return refuse(INVALID_HANDLE, "the default stream cannot be destroyed");
        }
        let end = self.stream(stream)?.end();
        self.run_until(stream, end)?;
        self.streams.remove(&stream);
        Ok(())
    }

    fn stream(&self, stream: u64) -> Outcome<&Stream> {
        self.streams.get(&stream).ok_or_else(|| (INVALID_HANDLE, "no such stream".into()))
    }

    /// Writes a command down; its position. The default stream and the blocking ones wait for each other.
    fn enqueue(&mut self, stream: u64, command: Command) -> Outcome<u64> {
        let blocking = self.stream(stream)?.blocking;
        self.clock += 1;
        let mut waits = Vec::new();
        if blocking {
            let others = self.streams.iter().filter(|(handle, other)| {
                **handle != stream && other.blocking && (stream == DEFAULT_STREAM || **handle == DEFAULT_STREAM)
            });
            waits = others
                .filter(|(_, other)| !other.queue.is_empty())
                .map(|(&handle, other)| Command::Wait { stream: handle, position: other.end() })
                .collect();
        }
        let clock = self.clock;
        let Some(to) = self.streams.get_mut(&stream) else { return refuse(INVALID_HANDLE, "no such stream") };
        to.touched = clock;
        to.queue.extend(waits);
        to.queue.push_back(command);
        let end = to.end();
        if self.checks.hasty_copies {
            self.hurry()?;
        }
        Ok(end)
    }

    /// Lets every copy happen that stands before no kernel and waits for nothing that is still to come.
    fn hurry(&mut self) -> Outcome {
        loop {
            let ready = |s: &Stream| match s.queue.front() {
                None | Some(Command::Launch { .. }) => false,
                Some(Command::Wait { stream, position }) => {
                    self.streams.get(stream).is_none_or(|of| of.done >= *position)
                }
                Some(_) => true,
            };
            let Some((&stream, s)) = self.streams.iter().find(|(_, s)| ready(s)) else { return Ok(()) };
            let next = s.done + 1;
            self.run_until(stream, next)?;
        }
    }

    /// Lets everything happen that was asked of a stream before `position`.
    fn run_until(&mut self, stream: u64, position: u64) -> Outcome {
        loop {
            // A stream that is gone has done everything.
            let Some(s) = self.streams.get_mut(&stream) else { return Ok(()) };
            if s.done >= position {
                return Ok(());
            }
            let Some(command) = s.queue.pop_front() else { return Ok(()) };
            let result = self.execute(command);
            if let Some(s) = self.streams.get_mut(&stream) {
                s.done += 1;
            }
            if let Err((status, what)) = result {
                self.sticky = Some(status);
                for s in self.streams.values_mut() {
                    s.done = s.end();
                    s.queue.clear();
                }
                return Err((status, what));
            }
        }
    }

    fn execute(&mut self, command: Command) -> Outcome {
        let lost = |what: String| (crate::status::ILLEGAL_ADDRESS, what);
        match command {
            Command::CopyIn { to, source: Source::Now(bytes) } => self.memory.write(to, &bytes).map_err(lost),
            Command::CopyIn { to, source: Source::Pinned(from, length) } => {
                // SAFETY: pinned memory that is not given back before all streams have run.
                let bytes = unsafe { std::slice::from_raw_parts(from.0, length as usize) };
                self.memory.write(to, bytes).map_err(lost)
            }
            Command::CopyOut { to, from, length } => {
                // SAFETY: as above, or the program waits for this copy.
                let bytes = unsafe { std::slice::from_raw_parts_mut(to.0, length as usize) };
                self.memory.read(from, bytes).map_err(lost)
            }
            Command::CopyDevice { to, from, length } => self.memory.copy(to, from, length).map_err(lost),
            Command::Fill { to, pattern, count } => self.memory.fill(to, &pattern, count).map_err(lost),
            Command::Launch { module, kernel, blocks, threads, params } => {
                self.run_kernel(&module, kernel, blocks, threads, &params)
            }
            Command::Record { event, number } => {
                if let Some(event) = self.events.get_mut(&event)
                    && event.recorded.is_some_and(|r| r.2 == number)
                {
                    event.at = Some(Instant::now());
                }
                Ok(())
            }
            Command::Wait { stream, position } => self.run_until(stream, position),
        }
    }

    fn run_kernel(
        &mut self,
        loaded: &Loaded,
        kernel: usize,
        blocks: [u32; 3],
        threads: [u32; 3],
        params: &[u8],
    ) -> Outcome {
        let Some(kernel) = loaded.module.kernels.get(kernel) else { return refuse(INVALID_HANDLE, "no such kernel") };
        let begin = Instant::now();
        let launch = Launch { module: &loaded.module, kernel, variables: &loaded.variables, blocks, threads, params };
        let result = grid::run(&mut self.memory, &self.pool, self.checks, &launch);
        let statistic = self.statistics.entry(kernel.name.clone()).or_default();
        statistic.launches += 1;
        statistic.seconds += begin.elapsed().as_secs_f64();
        match result {
            Ok(executed) => {
                statistic.instructions += executed;
                Ok(())
            }
            Err(report) => {
                let outcome = (Status(report.kind.code()), report.to_string());
                self.report = Some(report);
                Err(outcome)
            }
        }
    }

    pub fn synchronize_stream(&mut self, stream: u64) -> Outcome {
        let end = self.stream(stream)?.end();
        self.run_until(stream, end)
    }

    /// Everything happens; what was asked for last comes first, where nothing forbids it.
    pub fn synchronize(&mut self) -> Outcome {
        let mut order: Vec<(u64, u64)> = self.streams.iter().map(|(&handle, s)| (s.touched, handle)).collect();
        order.sort_unstable();
        order.into_iter().rev().try_for_each(|(_, handle)| self.synchronize_stream(handle))
    }

    pub fn copy_in(&mut self, to: u64, source: Source, stream: u64) -> Outcome {
        let length = match &source {
            Source::Now(bytes) => bytes.len() as u64,
            Source::Pinned(_, length) => *length,
        };
        self.memory.check(to, length).map_err(|what| (INVALID_VALUE, what))?;
        self.enqueue(stream, Command::CopyIn { to, source }).map(|_| ())
    }

    /// To pinned memory when it comes to it, to pageable memory before this returns.
    pub fn copy_out(&mut self, to: HostPointer, from: u64, length: u64, stream: u64) -> Outcome {
        self.memory.check(from, length).map_err(|what| (INVALID_VALUE, what))?;
        let pinned = self.memory.is_host(to.0 as u64, length);
        let position = self.enqueue(stream, Command::CopyOut { to, from, length })?;
        if pinned { Ok(()) } else { self.run_until(stream, position) }
    }

    pub fn copy_device(&mut self, to: u64, from: u64, length: u64, stream: u64) -> Outcome {
        for at in [to, from] {
            self.memory.check(at, length).map_err(|what| (INVALID_VALUE, what))?;
        }
        self.enqueue(stream, Command::CopyDevice { to, from, length }).map(|_| ())
    }

    pub fn fill(&mut self, to: u64, pattern: &[u8], count: u64, stream: u64) -> Outcome {
        let length = count.saturating_mul(pattern.len() as u64);
        self.memory.check(to, length).map_err(|what| (INVALID_VALUE, what))?;
        if !to.is_multiple_of(pattern.len() as u64) {
            return refuse(INVALID_VALUE, format!("0x{to:x} is not a multiple of {}", pattern.len()));
        }
        self.enqueue(stream, Command::Fill { to, pattern: pattern.to_vec(), count }).map(|_| ())
    }

    /// `params`: the bytes of all parameters at their places.
    pub fn launch(
        &mut self,
        function: u64,
        blocks: [u32; 3],
        threads: [u32; 3],
        shared: u32,
        params: Vec<u8>,
        stream: u64,
    ) -> Outcome {
        let (module, kernel) = self.kernel(function)?;
        let of = &module.module.kernels[kernel];
        let product: u64 = threads.iter().map(|&t| u64::from(t)).product();
        let within = |what: [u32; 3], limit: [u32; 3]| what.iter().zip(limit).all(|(&w, l)| w >= 1 && w <= l);
        if !within(blocks, MAX_GRID) {
            return refuse(INVALID_VALUE, format!("kernel {}: a grid of {blocks:?} blocks", of.name));
        }
        let most = if of.maxntid[0] > 0 { of.maxntid.iter().map(|&t| u64::from(t)).product() } else { u64::MAX };
        if !within(threads, MAX_BLOCK) || product > u64::from(MAX_THREADS).min(most) {
            return refuse(INVALID_VALUE, format!("kernel {}: blocks of {threads:?} threads", of.name));
        }
        let bytes = u64::from(shared) + u64::from(of.shared_bytes);
        if bytes > u64::from(MAX_SHARED) {
            return refuse(INVALID_VALUE, format!("kernel {}: {bytes} bytes of shared memory", of.name));
        }
        if params.len() != of.param_bytes as usize {
            return refuse(INVALID_VALUE, format!("kernel {}: {} bytes of parameters", of.name, params.len()));
        }
        self.enqueue(stream, Command::Launch { module, kernel, blocks, threads, params }).map(|_| ())
    }

    pub fn create_event(&mut self) -> u64 {
        let handle = self.handle();
        self.events.insert(handle, Event::default());
        handle
    }

    pub fn destroy_event(&mut self, event: u64) -> Outcome {
        match self.events.remove(&event) {
            Some(_) => Ok(()),
            None => refuse(INVALID_HANDLE, "no such event"),
        }
    }

    pub fn record(&mut self, event: u64, stream: u64) -> Outcome {
        if !self.events.contains_key(&event) {
            return refuse(INVALID_HANDLE, "no such event");
        }
        let number = self.clock + 1;
        let position = self.enqueue(stream, Command::Record { event, number })?;
        self.events.insert(event, Event { recorded: Some((stream, position, number)), at: None });
        Ok(())
    }

    fn recorded(&self, event: u64) -> Outcome<Option<(u64, u64, u64)>> {
        match self.events.get(&event) {
            Some(event) => Ok(event.recorded),
            None => refuse(INVALID_HANDLE, "no such event"),
        }
    }

    /// What comes after in `stream` waits for the event as it was recorded last; one never recorded holds nothing up.
    pub fn wait(&mut self, stream: u64, event: u64) -> Outcome {
        match self.recorded(event)? {
            Some((of, position, _)) => self.enqueue(stream, Command::Wait { stream: of, position }).map(|_| ()),
            None => self.stream(stream).map(|_| ()),
        }
    }

    pub fn synchronize_event(&mut self, event: u64) -> Outcome {
        match self.recorded(event)? {
            Some((stream, position, _)) => self.run_until(stream, position),
            None => Ok(()),
        }
    }

    /// Whether the event has happened. One that has not happens now, but the answer is no.
    pub fn query_event(&mut self, event: u64) -> Outcome<bool> {
        let pending = match self.recorded(event)? {
            Some((stream, position, _)) => self.streams.get(&stream).is_some_and(|s| s.done < position),
            None => false,
        };
        self.synchronize_event(event)?;
        Ok(!pending)
    }

    /// Milliseconds; `None` while one has not happened.
    pub fn elapsed(&self, begin: u64, end: u64) -> Outcome<Option<f32>> {
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([begin, end]) {
            match self.events.get(&handle) {
                Some(event) if event.recorded.is_some() => *time = event.at,
                _ => return refuse(INVALID_HANDLE, "no such event, or never recorded"),
            }
        }
        let [Some(begin), Some(end)] = times else { return Ok(None) };
        let forth = end.saturating_duration_since(begin).as_secs_f64();
        let back = begin.saturating_duration_since(end).as_secs_f64();
        Ok(Some(((forth - back) * 1e3) as f32))
    }
}
