//! NVIDIA GPUs through the driver alone: the same plans, run by the PTX that ships in `kernels/ptx`.
//!
//! All memory is taken in `load`: one allocation a region (the slots' own once a slot) and pinned host memory through
//! which everything travels. Three streams: uploads, computation, downloads. Events order them, slot by slot:
//!
//! ```text
//! upload    wait done[s] · copy in[s] · record uploaded[s]
//! compute                               wait uploaded[s] · plan on s · record done[s]
//! download                                                              wait done[s] · copy out[s] · host waits
//! ```
//!
//! so that slot s computes while s + 1 is uploaded and s − 1 is read.

mod driver;
mod program;

use super::{Backend, DeviceInfo, DeviceKind, check_copies, cpu};
use crate::engine::op::{Ctx, Precision, Target};
use crate::engine::scheduler::plan::{Plan, Region, RegionBytes};
use crate::engine::tensor::Counts;
use crate::error::{Error, Result, bytes as readable};
use driver::{Context, DeviceMemory, Event, Fault, Pinned, Properties, Stream};
use program::{Kernels, Program, Step};
use std::fmt::Display;
use std::sync::Arc;

/// The oldest GPUs that the PTX runs on: Ampere.
const CAPABILITY: (i32, i32) = (8, 0);

/// What to do where there is no device.
const NO_DEVICE: &str = "install NVIDIA's driver, 530 or newer; no toolkit is needed. --device wgpu needs none of it";

/// States, and reads of anything but outputs, travel in pieces of this many bytes.
const STAGING: u64 = 16 << 20;

/// The CUDA devices, those too old included; without any, the reason.
pub fn list() -> Vec<DeviceInfo> {
    let missing = |why: &str| vec![DeviceInfo::missing("cuda", DeviceKind::Discrete, why, NO_DEVICE)];
    if let Err(why) = driver::start() {
        return missing(&why);
    }
    match driver::device_count() {
        Ok(0) => missing("the driver finds no device"),
        Ok(n) => (0..n).map(describe).collect(),
        Err(fault) => missing(&fault.what),
    }
}

fn describe(ordinal: usize) -> DeviceInfo {
    let id = format!("cuda:{ordinal}");
    let p = match driver::properties(ordinal) {
        Ok(p) => p,
        Err(fault) => return DeviceInfo::missing(&id, DeviceKind::Discrete, &fault.what, NO_DEVICE),
    };
    let too_old = too_old(&p);
    DeviceInfo {
        id,
        kind: kind(&p),
        available: too_old.is_none(),
        description: too_old.clone().unwrap_or_else(|| in_words(&p)),
        memory: Some(p.memory),
        max_buffer_bytes: None,
        max_binding_bytes: None,
        advice: too_old.map(|_| "use --device wgpu, which runs it through Vulkan".into()),
    }
}

fn in_words(p: &Properties) -> String {
    let (major, minor) = p.capability;
    let driver = driver::version().map_or(String::new(), |(a, b)| format!(", driver for CUDA {a}.{b}"));
    format!("{}, compute capability {major}.{minor}{driver}", p.name)
}

fn kind(p: &Properties) -> DeviceKind {
    // A driver played by the CPU says so in its name; `auto` must never take it.
    if p.name.to_lowercase().contains("emulator") {
        DeviceKind::Software
    } else if p.integrated {
        DeviceKind::Integrated
    } else {
        DeviceKind::Discrete
    }
}

fn too_old(p: &Properties) -> Option<String> {
    let ((major, minor), (a, b)) = (p.capability, CAPABILITY);
    (p.capability < CAPABILITY)
        .then(|| format!("{} has compute capability {major}.{minor}; the kernels need {a}.{b}", p.name))
}

/// An NVIDIA GPU as a device.
pub struct Cuda {
    name: String,
    precision: Precision,
    // Fields are dropped in this order: memory before the streams that use it, the context last.
    loaded: Option<Loaded>,
    kernels: Kernels,
    upload: Stream,
    compute: Stream,
    download: Stream,
    context: Arc<Context>,
}

/// Everything that exists for the plans in use.
struct Loaded {
    plans: Vec<Arc<Plan>>,
    programs: Vec<Program>,
    bytes: RegionBytes,
    state: DeviceMemory,
    arena: DeviceMemory,
    slots: Vec<Slot>,
    staging: Pinned,
    staging_bytes: usize,
}

/// What a batch has for itself.
struct Slot {
    input: DeviceMemory,
    output: DeviceMemory,
    counts: DeviceMemory,
    staged_input: Pinned,
    staged_counts: Pinned,
    /// The last upload is over.
    uploaded: Event,
    /// The last plan on this slot is over.
    done: Event,
}

impl Slot {
    fn new(context: &Arc<Context>, bytes: RegionBytes) -> Result<Slot, Fault> {
        let counts = size_of::<Counts>() as u64;
        Ok(Slot {
            input: DeviceMemory::new(context, bytes.input)?,
            output: DeviceMemory::new(context, bytes.output)?,
            counts: DeviceMemory::new(context, counts)?,
            staged_input: Pinned::new(context, bytes.input)?,
            staged_counts: Pinned::new(context, counts)?,
            uploaded: Event::new(context)?,
            done: Event::new(context)?,
        })
    }
}

impl Loaded {
    fn memory(&self, region: Region, slot: usize) -> &DeviceMemory {
        match region {
            Region::State => &self.state,
            Region::Arena => &self.arena,
            Region::In => &self.slots[slot].input,
            Region::Out => &self.slots[slot].output,
        }
    }
}

impl Cuda {
    /// Opens device number `ordinal` of [`list`].
    ///
    /// # Errors
    /// When there is no driver or no such device, when it is too old, or when the driver refuses.
    pub fn open(ordinal: usize, precision: Precision) -> Result<Cuda> {
        let id = format!("cuda:{ordinal}");
        let refused = |what: String| Error::device(&id, what, NO_DEVICE);
        driver::start().map_err(refused)?;
        let count = driver::device_count().map_err(|f| refused(f.what))?;
        if ordinal >= count {
            let fix = "`moviola doctor` lists the devices there are";
            return Err(Error::device(id, format!("there is no such device; the driver finds {count}"), fix));
        }
        let properties = driver::properties(ordinal).map_err(|f| refused(f.what))?;
        if let Some(why) = too_old(&properties) {
            return Err(Error::device(id, why, "use --device wgpu, which runs it through Vulkan, or --device cpu"));
        }
        let name = format!("{id} ({}{})", in_words(&properties), precision.told());
        let open = || -> Result<Cuda, Fault> {
            let context = Context::new(ordinal)?;
            Ok(Cuda {
                name: name.clone(),
                precision,
                loaded: None,
                kernels: Kernels::default(),
                upload: Stream::new(&context)?,
                compute: Stream::new(&context)?,
                download: Stream::new(&context)?,
                context,
            })
        };
        open().map_err(|f| Error::device(&name, f.what, "start again; if it happens again, update the driver"))
    }

    fn error(&self, doing: impl Display, fault: Fault) -> Error {
        let fix = if fault.is_out_of_memory() {
            "use smaller batches or fewer slots, or another --device"
        } else {
            "start again; if it happens again, update the driver or use another --device"
        };
        Error::device(&self.name, format!("{} {doing}", fault.what), fix)
    }

    /// Bytes that plans may take: what is loaded goes before anything new is taken.
    fn available(&self) -> Result<u64, Fault> {
        let mine = self.loaded.as_ref().map_or(0, |l| l.bytes.total(l.slots.len()));
        Ok(self.context.free_memory()?.saturating_add(mine))
    }

    fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().ok_or_else(|| Error::device(&self.name, "has no plans", "load plans first"))
    }

    /// Proves that a transfer lies within what is loaded.
    fn expect_inside(&self, region: Region, slot: usize, offset: u64, len: usize) -> Result<()> {
        let l = self.loaded()?;
        let have = l.bytes.of(region);
        let there = matches!(region, Region::State | Region::Arena) || slot < l.slots.len();
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= have);
        if there && inside && offset.is_multiple_of(4) && len.is_multiple_of(4) {
            return Ok(());
        }
        let what = format!(
            "{len} bytes at {offset} of slot {slot} must be whole words within {region:?} with its {have} bytes"
        );
        Err(Error::shape(&self.name, what))
    }

    fn prepare(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<Loaded> {
        let programs = plans.iter().map(|p| self.program(p)).collect::<Result<_>>()?;
        let largest = [bytes.state, bytes.arena, bytes.input, bytes.output].into_iter().max().unwrap_or(0);
        let staging = largest.min(STAGING);
        let take = || -> Result<Loaded, Fault> {
            Ok(Loaded {
                plans: plans.to_vec(),
                programs,
                bytes,
                state: DeviceMemory::new(&self.context, bytes.state)?,
                arena: DeviceMemory::new(&self.context, bytes.arena)?,
                slots: (0..slots).map(|_| Slot::new(&self.context, bytes)).collect::<Result<_, Fault>>()?,
                staging: Pinned::new(&self.context, staging)?,
                staging_bytes: staging.max(256) as usize,
            })
        };
        take().map_err(|f| self.error(format_args!("taking {}", readable(bytes.total(slots))), f))
    }

    fn program(&mut self, plan: &Plan) -> Result<Program> {
        let kernels = &mut self.kernels;
        let made = Program::new(plan, kernels, &self.context);
        made.map_err(|f| self.error(format_args!("compiling {}", plan.name), f))
    }

    /// Into the slot's pinned memory and from there to the device, behind the plan that still reads the slot.
    fn write_input(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let Some(s) = self.loaded.as_mut().map(|l| &mut l.slots[slot]) else { return Ok(()) };
        // The last copy may still read what is about to be overwritten.
        s.uploaded.synchronize()?;
        s.staged_input.write(offset as usize, data);
        self.upload.wait(&s.done)?;
        self.upload.upload(&s.staged_input, offset as usize, &s.input, offset, data.len())?;
        self.upload.record(&s.uploaded)
    }

    /// Piece by piece, after all work that was submitted.
    fn write_rest(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.synchronize()?;
        let Some(l) = self.loaded.as_mut() else { return Ok(()) };
        let mut at = offset;
        for piece in data.chunks(l.staging_bytes) {
            l.staging.write(0, piece);
            self.upload.upload(&l.staging, 0, l.memory(region, slot), at, piece.len())?;
            self.upload.synchronize()?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read_pieces(&mut self, region: Region, slot: usize, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        if region != Region::Out {
            self.synchronize()?;
        }
        let Some(l) = self.loaded.as_mut() else { return Ok(()) };
        if region == Region::Out {
            self.download.wait(&l.slots[slot].done)?;
            // Also where there is nothing to read: a read is what waits for a plan, and what tells of its faults.
            if data.is_empty() {
                return l.slots[slot].done.synchronize();
            }
        }
        let mut at = offset;
        for piece in data.chunks_mut(l.staging_bytes) {
            let from = match region {
                Region::State => &l.state,
                Region::Arena => &l.arena,
                Region::In => &l.slots[slot].input,
                Region::Out => &l.slots[slot].output,
            };
            self.download.download(from, at, &mut l.staging, piece.len())?;
            self.download.synchronize()?;
            l.staging.read(piece);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn start(&mut self, plan: usize, slot: usize, counts: Counts) -> Result<(), Fault> {
        let Some(l) = self.loaded.as_mut() else { return Ok(()) };
        // The plan before on this slot may still have to read its counts.
        l.slots[slot].done.synchronize()?;
        l.slots[slot].staged_counts.write(0, driver::count_bytes(&counts));
        let l = &*l;
        let s = &l.slots[slot];
        self.compute.upload(&s.staged_counts, 0, &s.counts, 0, size_of::<Counts>())?;
        self.compute.wait(&s.uploaded)?;
        for step in &l.programs[plan].steps {
            match step {
                Step::Launch(launch) => {
                    launch.run(&self.compute, |r| l.memory(r, slot).address(), s.counts.address())?
                }
                Step::Copy { from, to } => {
                    let place = |s: &crate::engine::scheduler::plan::Span| (l.memory(s.region, slot), s.offset);
                    self.compute.copy(place(from), place(to), from.bytes)?;
                }
                Step::Fill { to, value } => {
                    self.compute.fill(l.memory(to.region, slot), to.offset, to.bytes / 4, value.to_bits())?;
                }
            }
        }
        self.compute.record(&s.done)
    }

    fn synchronize(&self) -> Result<(), Fault> {
        self.upload.synchronize()?;
        self.compute.synchronize()
    }

    fn enter(&self, doing: impl Display) -> Result<()> {
        self.context.enter().map_err(|f| self.error(doing, f))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Copies may still read pinned memory that is about to be freed. After a fault there is nothing to wait for.
        let _ = self.enter("closing").map(|()| self.synchronize());
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn ctx(&self) -> Ctx {
        Ctx { target: Target::Cuda, precision: self.precision, max_binding_bytes: u64::MAX, threads: 1 }
    }

    fn memory(&self) -> u64 {
        self.available().unwrap_or(0)
    }

    fn load(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<()> {
        if slots == 0 {
            return Err(Error::config("slots", "must be at least one", "ask for one to three"));
        }
        for plan in plans {
            cpu::check_plan(plan, bytes)?;
            check_copies(plan)?;
        }
        // A fault of the work before must not pass for a full device.
        let available = self.available().map_err(|f| self.error("before loading plans", f))?;
        let needed = bytes.total(slots);
        if needed > available {
            let fix = "use smaller batches or fewer slots, or another --device".into();
            return Err(Error::Memory { what: format!("the plans on {}", self.name), needed, available, fix });
        }
        self.enter("loading plans")?;
        if self.loaded.is_some() {
            self.synchronize().map_err(|f| self.error("letting go of the last plans", f))?;
            self.loaded = None;
        }
        self.loaded = Some(self.prepare(plans, bytes, slots)?);
        Ok(())
    }

    fn write(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<()> {
        self.expect_inside(region, slot, offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        self.enter("an upload")?;
        let written = match region {
            Region::In => self.write_input(slot, offset, data),
            _ => self.write_rest(region, slot, offset, data),
        };
        written.map_err(|f| self.error("in an upload", f))
    }

    fn read(&mut self, region: Region, slot: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        self.expect_inside(region, slot, offset, data.len())?;
        self.enter("reading")?;
        self.read_pieces(region, slot, offset, data).map_err(|f| self.error("in a read", f))
    }

    fn submit(&mut self, plan: usize, slot: usize, counts: Counts) -> Result<()> {
        let l = self.loaded()?;
        let Some(found) = l.plans.get(plan).filter(|_| slot < l.slots.len()).cloned() else {
            let what = format!("plan {plan} in slot {slot}: {} and {} are loaded", l.plans.len(), l.slots.len());
            return Err(Error::shape(&self.name, what));
        };
        found.check_counts(&counts)?;
        self.enter("starting a plan")?;
        self.start(plan, slot, counts).map_err(|f| {
            // What was queued before may still read this slot's pinned memory.
            let _ = self.synchronize();
            self.error(format_args!("in plan {}", found.name), f)
        })
    }

    fn wait(&mut self) -> Result<()> {
        self.enter("waiting for results")?;
        self.synchronize().map_err(|f| self.error("in work that was submitted", f))
    }
}
