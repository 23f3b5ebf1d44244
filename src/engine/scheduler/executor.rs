//! Runs plans on a device: one allocation of every region, states by name, batches one at a time.

use super::plan::{Plan, Region, RegionBytes, Slot, StateLayout};
use crate::engine::backend::Backend;
use crate::engine::tensor::{Axis, Counts, DType};
use crate::error::{Error, Result};
use std::sync::Arc;

/// Slots that batches rotate through: one is filled, one uploaded, one computed.
pub const SLOTS: usize = 3;

/// Plans on a device, with their states. All plans are known before anything is allocated.
pub struct Executor {
    backend: Box<dyn Backend>,
    plans: Vec<Arc<Plan>>,
    states: StateLayout,
    /// Host buffers that batches are packed into, one a slot; lent to streams.
    staging: Vec<Vec<u32>>,
    results: Vec<u32>,
    input_bytes: u64,
}

/// A host buffer for so many bytes of 32-bit words.
pub(super) fn host_buffer(bytes: u64) -> Vec<u32> {
    vec![0; (bytes / 4) as usize]
}

impl Executor {
    /// Refuses plans that the device cannot hold, with the numbers, before it allocates.
    pub fn new(mut backend: Box<dyn Backend>, plans: Vec<Plan>, states: StateLayout) -> Result<Executor> {
        let bytes = plans.iter().fold(RegionBytes::default(), |b, p| b.max(p.bytes));
        let bytes = RegionBytes { state: bytes.state.max(states.bytes), ..bytes };
        let (needed, available) = (bytes.total(SLOTS), backend.memory());
        if needed > available {
            return Err(Error::Memory {
                what: format!("{} on {}", names(&plans), backend.name()),
                needed,
                available,
                fix: "use a smaller batch, chunk or tile, or another --device".into(),
            });
        }
        let plans: Vec<Arc<Plan>> = plans.into_iter().map(Arc::new).collect();
        backend.load(&plans, bytes, SLOTS)?;
        Ok(Executor {
            backend,
            plans,
            states,
            staging: (0..SLOTS).map(|_| host_buffer(bytes.input)).collect(),
            results: host_buffer(bytes.output),
            input_bytes: bytes.input,
        })
    }

    pub fn device(&self) -> String {
        self.backend.name()
    }

    pub fn plan(&self, i: usize) -> &Arc<Plan> {
        &self.plans[i]
    }

    pub(super) fn plans(&self) -> &[Arc<Plan>] {
        &self.plans
    }

    pub fn states(&self) -> &StateLayout {
        &self.states
    }

    pub(super) fn backend(&mut self) -> &mut dyn Backend {
        self.backend.as_mut()
    }

    /// The host buffers, to be given back; a stream that failed has dropped them, and then there are new ones.
    pub(super) fn lend_staging(&mut self) -> Vec<Vec<u32>> {
        let mut staging = std::mem::take(&mut self.staging);
        staging.resize_with(SLOTS, || host_buffer(self.input_bytes));
        staging
    }

    pub(super) fn return_staging(&mut self, staging: Vec<Vec<u32>>) {
        self.staging = staging;
    }

    /// The buffer that outputs are read into, to be given back.
    pub(super) fn lend_results(&mut self, bytes: u64) -> Vec<u32> {
        let mut results = std::mem::take(&mut self.results);
        results.resize(results.len().max((bytes / 4) as usize), 0);
        results
    }

    pub(super) fn return_results(&mut self, results: Vec<u32>) {
        self.results = results;
    }

    fn state(&self, name: &str) -> Result<Slot> {
        let slot = self.states.find(name).cloned();
        slot.ok_or_else(|| Error::shape(format!("state {name}"), "is not in the model's layout"))
    }

    /// Sets a state; `values` at full capacity.
    pub fn write_state(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.write_state_words(name, bytemuck::cast_slice(values))
    }

    pub fn write_state_words(&mut self, name: &str, values: &[u32]) -> Result<()> {
        let slot = self.state(name)?;
        if values.len() as u64 != slot.meta.elements() {
            return Err(Error::shape(format!("state {name}"), format!("is {} and got {}", slot.meta, values.len())));
        }
        self.backend.write(Region::State, 0, slot.span.offset, bytemuck::cast_slice(values))
    }

    pub fn read_state(&mut self, name: &str) -> Result<Vec<f32>> {
        let slot = self.state(name)?;
        let mut values = vec![0f32; slot.meta.elements() as usize];
        self.backend.read(Region::State, 0, slot.span.offset, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Fills a slot, runs the plan on it and waits for what it hands back.
    pub fn run(&mut self, plan: usize, fill: impl FnOnce(&mut SlotWriter) -> Result<()>) -> Result<Outputs<'_>> {
        let counts = self.upload(plan, fill)?;
        self.backend.submit(plan, 0, counts)?;
        let bytes = self.plans[plan].bytes.output;
        let mut results = self.lend_results(bytes);
        let read = &mut results[..(bytes / 4) as usize];
        self.backend.read(Region::Out, 0, 0, bytemuck::cast_slice_mut(read))?;
        self.results = results;
        Ok(Outputs { plan: &self.plans[plan], words: &self.results, counts })
    }

    /// Fills a slot with a batch of the plan and copies it to the device, for [`Executor::compute`].
    pub fn upload(&mut self, plan: usize, fill: impl FnOnce(&mut SlotWriter) -> Result<()>) -> Result<Counts> {
        let p = self.plans[plan].clone();
        let mut staging = self.lend_staging();
        let mut writer = SlotWriter::new(&p, &mut staging[0]);
        fill(&mut writer)?;
        let counts = writer.counts;
        p.check_counts(&counts)?;
        let staged = &staging[0][..(p.bytes.input / 4) as usize];
        self.backend.write(Region::In, 0, 0, bytemuck::cast_slice(staged))?;
        self.staging = staging;
        Ok(counts)
    }

    /// Runs a plan on what was uploaded and waits; nothing travels. This is what benchmarks time.
    pub fn compute(&mut self, plan: usize, counts: Counts) -> Result<()> {
        self.backend.submit(plan, 0, counts)?;
        self.backend.wait()
    }
}

fn names(plans: &[Plan]) -> String {
    let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    format!("the plans {}", names.join(", "))
}

/// Writes the inputs of one batch, by name, at full capacity.
pub struct SlotWriter<'a> {
    plan: &'a Plan,
    words: &'a mut [u32],
    pub counts: Counts,
}

impl<'a> SlotWriter<'a> {
    pub(super) fn new(plan: &'a Plan, words: &'a mut [u32]) -> SlotWriter<'a> {
        SlotWriter { plan, words, counts: Counts::default() }
    }

    /// States the true length of a ragged axis.
    pub fn count(&mut self, axis: Axis, n: usize) {
        self.counts = self.counts.with(axis, n);
    }

    pub fn has(&self, name: &str) -> bool {
        self.plan.input(name).is_some()
    }

    /// Every input with its words at full capacity: what was written, for a copy elsewhere.
    pub fn inputs(&self) -> impl Iterator<Item = (&Slot, &[u32])> {
        let words = |s: &Slot| (s.span.offset / 4) as usize..((s.span.offset + s.span.bytes) / 4) as usize;
        self.plan.inputs.iter().map(move |s| (s, &self.words[words(s)]))
    }

    /// The place of an f32 input.
    /// # Errors
    /// When the plan has no such input: the model and its packer disagree.
    pub fn f32(&mut self, name: &str) -> Result<&mut [f32]> {
        Ok(bytemuck::cast_slice_mut(self.input(name, DType::F32)?))
    }

    pub fn u32(&mut self, name: &str) -> Result<&mut [u32]> {
        self.input(name, DType::U32)
    }

    fn input(&mut self, name: &str, dtype: DType) -> Result<&mut [u32]> {
        let slot = self.plan.input(name).filter(|s| s.meta.dtype() == dtype);
        let slot = slot.ok_or_else(|| {
            Error::shape(format!("plan {}", self.plan.name), format!("has no {dtype:?} input {name}"))
        })?;
        Ok(&mut self.words[(slot.span.offset / 4) as usize..((slot.span.offset + slot.span.bytes) / 4) as usize])
    }
}

/// What a batch handed back, at full capacity.
pub struct Outputs<'a> {
    pub(super) plan: &'a Plan,
    pub(super) words: &'a [u32],
    pub counts: Counts,
}

impl Outputs<'_> {
    pub fn has(&self, name: &str) -> bool {
        self.plan.output(name).is_some()
    }

    pub fn f32(&self, name: &str) -> Result<&[f32]> {
        Ok(bytemuck::cast_slice(self.output(name, DType::F32)?))
    }

    pub fn u32(&self, name: &str) -> Result<&[u32]> {
        self.output(name, DType::U32)
    }

    /// All outputs of one number, by name.
    pub fn scalars(&self) -> impl Iterator<Item = (&str, f32)> {
        let one = self.plan.outputs.iter().filter(|s| s.meta.dtype() == DType::F32 && s.meta.elements() == 1);
        one.map(|s| (s.name.as_str(), f32::from_bits(self.words[(s.span.offset / 4) as usize])))
    }

    /// A scalar output.
    pub fn scalar(&self, name: &str) -> Result<f32> {
        Ok(self.f32(name)?.first().copied().unwrap_or(0.0))
    }

    /// Capacity of dimension `i` of an output: the distance between its rows when `i` is the last.
    pub fn capacity(&self, name: &str, i: usize) -> Result<usize> {
        let dims = self.plan.output(name).and_then(|s| s.meta.dims().get(i)).map(|d| d.cap());
        dims.ok_or_else(|| Error::shape(format!("plan {}", self.plan.name), format!("has no dimension {i} of {name}")))
    }

    fn output(&self, name: &str, dtype: DType) -> Result<&[u32]> {
        let slot = self.plan.output(name).filter(|s| s.meta.dtype() == dtype);
        let slot = slot.ok_or_else(|| {
            Error::shape(format!("plan {}", self.plan.name), format!("has no {dtype:?} output {name}"))
        })?;
        Ok(&self.words[(slot.span.offset / 4) as usize..((slot.span.offset + slot.span.bytes) / 4) as usize])
    }
}
