//! GPUs through Vulkan, Metal or DX12: the same plans, run by WGSL kernels.
//!
//! All memory is taken in `load`: one buffer a region (the slot's own ones once per slot), one for all parameter
//! blocks, one for the counts of each slot, one to read through. A submit records one compute pass and submits once;
//! it makes no buffer, no bind group and no pipeline.

mod adapters;
mod faults;
mod program;
mod text;
mod windows;

pub use adapters::INSTALL;

use super::{Backend, DeviceInfo, check_copies, cpu};
use crate::engine::op::{Ctx, KernelDef, Precision, Target, read_u32, write_u32};
use crate::engine::scheduler::plan::{Plan, Region, RegionBytes};
use crate::engine::tensor::Counts;
use crate::error::{Error, Result, bytes as readable};
use ::wgpu::{
    BindGroup, BindGroupLayout, Buffer, BufferDescriptor, BufferUsages, Device, DeviceDescriptor, Limits, MapMode,
    MemoryHints, PollType, Queue,
};
use faults::Faults;
use program::{Compiler, Pipelines, Program};
use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use windows::BindingLimits;

static COPY: KernelDef = KernelDef {
    name: "copy",
    operands: &[read_u32("x"), write_u32("y")],
    cpu: None,
    wgsl: Some(include_str!("../../../wgsl/copy.wgsl")),
    cuda: None,
};

static FILL: KernelDef = KernelDef {
    name: "fill",
    operands: &[write_u32("y")],
    cpu: None,
    wgsl: Some(include_str!("../../../wgsl/fill.wgsl")),
    cuda: None,
};

/// Larger reads come in pieces of this many bytes.
const STAGING: u64 = 16 << 20;

/// The adapters that wgpu finds, software ones included; empty without a driver.
pub fn list() -> Vec<DeviceInfo> {
    adapters::enumerate().iter().enumerate().map(|(i, a)| adapters::describe(i, a)).collect()
}

/// A GPU as a device.
pub struct Gpu {
    info: DeviceInfo,
    precision: Precision,
    device: Device,
    queue: Queue,
    faults: Faults,
    limits: Limits,
    bindings: BindingLimits,
    frame: BindGroupLayout,
    pipelines: Pipelines,
    loaded: Option<Loaded>,
}

/// The buffers of the regions.
struct Regions {
    state: Buffer,
    arena: Buffer,
    input: Vec<Buffer>,
    output: Vec<Buffer>,
}

impl Regions {
    /// `slot` must be below the number of slots, and there is at least one.
    fn buffer(&self, region: Region, slot: usize) -> &Buffer {
        match region {
            Region::State => &self.state,
            Region::Arena => &self.arena,
            Region::In => &self.input[slot],
            Region::Out => &self.output[slot],
        }
    }
}

/// Everything that exists for the plans in use.
struct Loaded {
    plans: Vec<Arc<Plan>>,
    bytes: RegionBytes,
    regions: Regions,
    programs: Vec<Program>,
    groups: Vec<BindGroup>,
    counts: Vec<Buffer>,
    frames: Vec<BindGroup>,
    staging: Buffer,
}

impl Gpu {
    /// Opens adapter number `index` of [`list`].
    ///
    /// # Errors
    /// When there is no such adapter, or when its driver refuses.
    pub fn open(index: usize) -> Result<Gpu> {
        let adapters = adapters::enumerate();
        let Some(adapter) = adapters.get(index) else {
            let what = format!("there is no such adapter; wgpu found {}", adapters.len());
            let fix = if adapters.is_empty() { INSTALL } else { "`moviola doctor` lists them" };
            return Err(Error::device(format!("wgpu:{index}"), what, fix));
        };
        let info = adapters::describe(index, adapter);
        let limits = adapter.limits();
        let opened = pollster::block_on(adapter.request_device(&DeviceDescriptor {
            label: Some("moviola"),
            required_limits: limits.clone(),
            // A few large buffers, made once: blocks to cut small ones from would only be waste.
            memory_hints: MemoryHints::MemoryUsage,
            ..DeviceDescriptor::default()
        }));
        let (device, queue) = opened.map_err(|e| {
            let device = format!("{} ({})", info.id, info.description);
            Error::device(device, e.to_string(), "update its driver, or use --device cpu")
        })?;
        let faults = Faults::watch(&device);
        let bindings = BindingLimits {
            bytes: limits.max_storage_buffer_binding_size,
            count: limits.max_storage_buffers_per_shader_stage as usize,
        };
        let frame = program::frame_layout(&device);
        let (precision, pipelines) = (Precision::F32, Pipelines::default());
        let gpu = Gpu { info, precision, device, queue, faults, limits, bindings, frame, pipelines, loaded: None };
        gpu.check("opening it")?;
        Ok(gpu)
    }

    /// The same device with products in f32 or int8.
    pub fn with(mut self, precision: Precision) -> Gpu {
        self.precision = precision;
        self
    }

    /// Behaves from now on as a device whose bindings are smaller: a weak device's paths on a strong one.
    pub fn limit_binding_bytes(&mut self, bytes: u64) {
        self.bindings.bytes = self.bindings.bytes.min(bytes);
    }

    /// Returns what the device has reported since the last call.
    fn check(&self, doing: impl Display) -> Result<()> {
        self.faults.take().map_or(Ok(()), |fault| Err(fault.error(self.name(), doing)))
    }

    fn buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> Buffer {
        // An empty buffer cannot be bound.
        let size = bytes.max(256);
        self.device.create_buffer(&BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    }

    /// Refuses before anything is allocated.
    fn admit(&self, bytes: RegionBytes, slots: usize) -> Result<()> {
        for region in [Region::State, Region::Arena, Region::In, Region::Out] {
            let needed = bytes.of(region);
            if needed > self.limits.max_buffer_size {
                return Err(Error::Memory {
                    what: format!("region {region:?}, one buffer of {},", self.name()),
                    needed,
                    available: self.limits.max_buffer_size,
                    fix: "use smaller batches, or another --device".into(),
                });
            }
        }
        let slots = slots as u64;
        let per_slot = bytes.input.saturating_add(bytes.output).saturating_mul(slots);
        let needed = bytes.state.saturating_add(bytes.arena).saturating_add(per_slot);
        let available = self.memory();
        if needed > available {
            let fix = "use smaller batches or fewer slots, or another --device".into();
            return Err(Error::Memory { what: format!("the plans on {}", self.name()), needed, available, fix });
        }
        Ok(())
    }

    fn allocate(&self, bytes: RegionBytes, slots: usize) -> Regions {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        Regions {
            state: self.buffer("state", bytes.state, usage),
            arena: self.buffer("arena", bytes.arena, usage),
            input: (0..slots).map(|_| self.buffer("in", bytes.input, usage)).collect(),
            output: (0..slots).map(|_| self.buffer("out", bytes.output, usage)).collect(),
        }
    }

    fn prepare(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<Loaded> {
        let regions = self.allocate(bytes, slots);
        self.check(format_args!("taking {}", readable(bytes.total(slots))))?;
        let mut compiler = Compiler {
            device: &self.device,
            pipelines: &mut self.pipelines,
            frame: &self.frame,
            regions: &regions,
            bytes,
            limits: self.bindings,
            slots,
            blocks: vec![],
            groups: vec![],
            known: HashMap::new(),
        };
        let programs = plans.iter().map(|p| compiler.program(p)).collect::<Result<Vec<_>>>()?;
        let Compiler { blocks, groups, .. } = compiler;
        let uniform = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let parameters = self.buffer("parameters", blocks.len() as u64 * 4, uniform);
        self.queue.write_buffer(&parameters, 0, bytemuck::cast_slice(&blocks));
        let counts: Vec<Buffer> = (0..slots).map(|_| self.buffer("counts", 32, uniform)).collect();
        let frames = counts.iter().map(|c| program::frame(&self.device, &self.frame, &parameters, c)).collect();
        let largest = [bytes.state, bytes.arena, bytes.input, bytes.output].into_iter().max().unwrap_or(0);
        let staging = self.buffer("staging", largest.min(STAGING), BufferUsages::COPY_DST | BufferUsages::MAP_READ);
        self.check("compiling the plans")?;
        Ok(Loaded { plans: plans.to_vec(), bytes, regions, programs, groups, counts, frames, staging })
    }

    fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().ok_or_else(|| Error::device(self.name(), "has no plans", "load plans first"))
    }

    /// The buffer of a region, after proving that a transfer lies within it.
    fn target<'a>(&self, l: &'a Loaded, region: Region, slot: usize, offset: u64, len: usize) -> Result<&'a Buffer> {
        let have = l.bytes.of(region);
        let there = matches!(region, Region::State | Region::Arena) || slot < l.counts.len();
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= have);
        if !there || !inside || !offset.is_multiple_of(4) || !len.is_multiple_of(4) {
            let what = format!(
                "{len} bytes at {offset} of slot {slot} must be whole words within {region:?} with its {have} bytes"
            );
            return Err(Error::shape(self.name(), what));
        }
        Ok(l.regions.buffer(region, slot))
    }

    /// Waits for the device. wgpu panics where a device is lost while one waits for it: that becomes an error here.
    fn poll(&self, doing: impl Display + Copy) -> Result<()> {
        let waited = catch_unwind(AssertUnwindSafe(|| self.device.poll(PollType::wait_indefinitely())));
        self.check(doing)?;
        let why = match waited {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "it was lost".to_string(),
        };
        Err(Error::device(self.name(), format!("{why} {doing}"), "start again; if it happens again, update the driver"))
    }

    /// Copies from a region through the staging buffer.
    fn read_piece(&self, l: &Loaded, from: &Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        let len = data.len() as u64;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(from, offset, &l.staging, 0, len);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = mpsc::channel();
        l.staging.slice(0..len).map_async(MapMode::Read, move |mapped| {
            let _ = sender.send(mapped.is_ok());
        });
        let polled = self.poll("reading");
        if receiver.try_recv() == Ok(true) {
            let view = l.staging.slice(0..len).get_mapped_range();
            if let Ok(view) = &view {
                data.copy_from_slice(view);
            }
            let copied = view.is_ok();
            drop(view);
            // Also after a fault, or the next read would find it still mapped.
            l.staging.unmap();
            if copied {
                return polled;
            }
        }
        let fix = "start again, or use --device cpu";
        polled.and(Err(Error::device(self.name(), "did not hand over what it computed", fix)))
    }
}

impl Backend for Gpu {
    fn name(&self) -> String {
        format!("{} ({}{})", self.info.id, self.info.description, self.precision.told())
    }

    fn ctx(&self) -> Ctx {
        Ctx { target: Target::Wgsl, precision: self.precision, max_binding_bytes: self.bindings.bytes, threads: 1 }
    }

    fn memory(&self) -> u64 {
        self.info.memory.unwrap_or(u64::MAX)
    }

    fn load(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<()> {
        if slots == 0 {
            return Err(Error::config("slots", "must be at least one", "ask for one to three"));
        }
        for plan in plans {
            cpu::check_plan(plan, bytes)?;
            check_copies(plan)?;
        }
        self.admit(bytes, slots)?;
        // The old memory goes before the new is taken.
        if self.loaded.take().is_some() {
            self.poll("letting go of the last plans")?;
        }
        match self.prepare(plans, bytes, slots) {
            Ok(loaded) => {
                self.loaded = Some(loaded);
                Ok(())
            }
            Err(e) => {
                self.pipelines.clear();
                Err(e)
            }
        }
    }

    fn write(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<()> {
        let l = self.loaded()?;
        let buffer = self.target(l, region, slot, offset, data.len())?;
        if !data.is_empty() {
            self.queue.write_buffer(buffer, offset, data);
        }
        self.check("an upload")
    }

    fn read(&mut self, region: Region, slot: usize, offset: u64, data: &mut [u8]) -> Result<()> {
        let l = self.loaded()?;
        let buffer = self.target(l, region, slot, offset, data.len())?;
        let mut at = offset;
        for piece in data.chunks_mut(l.staging.size() as usize) {
            let len = piece.len() as u64;
            self.read_piece(l, buffer, at, piece)?;
            at += len;
        }
        Ok(())
    }

    fn submit(&mut self, plan: usize, slot: usize, counts: Counts) -> Result<()> {
        let l = self.loaded()?;
        let found = l.plans.get(plan).zip(l.programs.get(plan)).zip(l.frames.get(slot).zip(l.counts.get(slot)));
        let Some(((plan, program), (frame, counts_buffer))) = found else {
            let what = format!("plan {plan} in slot {slot}: {} and {} are loaded", l.plans.len(), l.counts.len());
            return Err(Error::shape(self.name(), what));
        };
        plan.check_counts(&counts)?;
        self.queue.write_buffer(counts_buffer, 0, bytemuck::cast_slice(&counts.0));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        program.record(&mut encoder.begin_compute_pass(&Default::default()), frame, &l.groups, slot);
        self.queue.submit([encoder.finish()]);
        self.check(format_args!("plan {}", plan.name))
    }

    fn wait(&mut self) -> Result<()> {
        self.poll("waiting for results")
    }
}
