//! Plans made ready: pipelines, bind groups and parameter blocks, so that a submit only records dispatches.

use super::text::{self, BLOCK};
use super::windows::{BindingLimits, Bindings, Shape, Window, cover};
use super::{COPY, FILL, Regions};
use crate::engine::op::{Access, KernelDef, Params};
use crate::engine::scheduler::plan::{Command, Plan, Region, RegionBytes, Span};
use crate::error::{Error, Result};
use ::wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry,
    BindingResource, BindingType, Buffer, BufferBinding, BufferBindingType, BufferSize, ComputePass, ComputePipeline,
    ComputePipelineDescriptor, Device, PipelineLayout, PipelineLayoutDescriptor, ShaderModuleDescriptor,
    ShaderRuntimeChecks, ShaderSource, ShaderStages,
};
use std::collections::HashMap;

/// Compiled kernels of one device, by their text; they outlive the plans.
#[derive(Default)]
pub struct Pipelines {
    by_text: HashMap<String, ComputePipeline>,
    by_access: HashMap<Vec<bool>, (BindGroupLayout, PipelineLayout)>,
}

/// What stands in group 0 of every pipeline: a parameter block and the slot's counts.
pub fn frame_layout(device: &Device) -> BindGroupLayout {
    let uniform = |binding, dynamic, bytes| BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer {
            ty: BufferBindingType::Uniform,
            has_dynamic_offset: dynamic,
            min_binding_size: BufferSize::new(bytes),
        },
        count: None,
    };
    let entries = [uniform(0, true, BLOCK), uniform(1, false, 32)];
    device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some("frame"), entries: &entries })
}

impl Pipelines {
    fn layouts(
        &mut self,
        device: &Device,
        frame: &BindGroupLayout,
        shapes: &[Shape],
    ) -> &(BindGroupLayout, PipelineLayout) {
        let read_only: Vec<bool> = shapes.iter().map(|s| s.read_only).collect();
        self.by_access.entry(read_only).or_insert_with_key(|read_only| {
            let entry = |(i, read_only): (usize, &bool)| BindGroupLayoutEntry {
                binding: i as u32,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer {
                    ty: BufferBindingType::Storage { read_only: *read_only },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            let entries: Vec<_> = read_only.iter().enumerate().map(entry).collect();
            let windows = device
                .create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some("windows"), entries: &entries });
            let pipeline = device.create_pipeline_layout(&PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(frame), Some(&windows)],
                immediate_size: 0,
            });
            (windows, pipeline)
        })
    }

    fn compile(
        &mut self,
        device: &Device,
        frame: &BindGroupLayout,
        kernel: &'static KernelDef,
        bindings: &Bindings,
    ) -> Result<ComputePipeline> {
        let body = kernel.wgsl.ok_or_else(|| unsupported(kernel.name))?;
        let text = text::generate(kernel.name, body, kernel.operands, &bindings.places, &bindings.shapes)?;
        if let Some(pipeline) = self.by_text.get(&text) {
            return Ok(pipeline.clone());
        }
        let layout = self.layouts(device, frame, &bindings.shapes).1.clone();
        let source = ShaderSource::Wgsl(text.as_str().into());
        // Accesses stay checked. What is left out is a counter in every loop that ends it after 2^32 rounds.
        let mut checks = ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        let descriptor = ShaderModuleDescriptor { label: Some(kernel.name), source };
        // SAFETY: the kernels are this crate's own; all of their loops run over 32-bit ranges by constant steps.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        self.by_text.insert(text, pipeline.clone());
        Ok(pipeline)
    }

    /// Forgets everything: after a device refused a text, its place holds an invalid pipeline.
    pub fn clear(&mut self) {
        *self = Pipelines::default();
    }
}

fn unsupported(kernel: &str) -> Error {
    Error::Unsupported { op: kernel.into(), backend: "wgsl".into() }
}

/// One dispatch.
#[derive(Debug)]
struct Step {
    pipeline: ComputePipeline,
    /// The byte at which its parameters begin.
    block: u32,
    /// The windows of each slot: indices into the bind groups.
    windows: Vec<usize>,
    groups: [u32; 3],
}

/// A plan as dispatches.
#[derive(Debug, Default)]
pub struct Program {
    steps: Vec<Step>,
}

/// Makes programs of plans; what it gathers is shared by all of them.
pub struct Compiler<'a> {
    pub device: &'a Device,
    pub pipelines: &'a mut Pipelines,
    pub frame: &'a BindGroupLayout,
    pub regions: &'a Regions,
    pub bytes: RegionBytes,
    pub limits: BindingLimits,
    pub slots: usize,
    /// The parameter blocks of all programs.
    pub blocks: Vec<u32>,
    pub groups: Vec<BindGroup>,
    pub known: HashMap<(Vec<Window>, Option<usize>), usize>,
}

impl Compiler<'_> {
    pub fn program(&mut self, plan: &Plan) -> Result<Program> {
        let mut program = Program::default();
        for command in &plan.commands {
            let step = match command {
                Command::Launch(l) => self.step(l.kernel, &l.params, &l.args, l.groups)?,
                Command::Copy { from, to } => {
                    let params = Params::new().u32((from.bytes / 4) as usize);
                    self.step(&COPY, &params, &[Some(*from), Some(*to)], over(*to))?
                }
                Command::Fill { to, value } => {
                    let params = Params::new().u32((to.bytes / 4) as usize).f32(*value);
                    self.step(&FILL, &params, &[Some(*to)], over(*to))?
                }
            };
            program.steps.extend(step);
        }
        Ok(program)
    }

    /// A dispatch, unless it would write nothing.
    fn step(
        &mut self,
        kernel: &'static KernelDef,
        params: &Params,
        args: &[Option<Span>],
        groups: [u32; 3],
    ) -> Result<Option<Step>> {
        let mut written = kernel.operands.iter().zip(args).filter(|(f, _)| f.access != Access::Read);
        if !written.any(|(_, a)| a.is_some_and(|s| s.bytes > 0)) {
            return Ok(None);
        }
        let bindings = cover(kernel.name, kernel.operands, args, &self.bytes, self.limits)?;
        let pipeline = self.pipelines.compile(self.device, self.frame, kernel, &bindings)?;
        let block = u32::try_from(self.blocks.len() * 4)
            .map_err(|_| Error::shape(kernel.name, "the plans have more launches than parameters can be addressed"))?;
        self.blocks.extend(text::block(params, &bindings.places));
        let windows = (0..self.slots).map(|slot| self.windows(&bindings, slot)).collect();
        Ok(Some(Step { pipeline, block, windows, groups }))
    }

    /// The bind group of some windows, shared by all launches that have the same.
    fn windows(&mut self, bindings: &Bindings, slot: usize) -> usize {
        let per_slot = bindings.windows.iter().any(|w| matches!(w.region, Region::In | Region::Out));
        let key = (bindings.windows.clone(), per_slot.then_some(slot));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let entry = |(i, w): (usize, &Window)| BindGroupEntry {
            binding: i as u32,
            resource: BindingResource::Buffer(BufferBinding {
                buffer: self.regions.buffer(w.region, slot),
                offset: w.offset,
                size: BufferSize::new(w.bytes),
            }),
        };
        let entries: Vec<_> = bindings.windows.iter().enumerate().map(entry).collect();
        let layout = &self.pipelines.layouts(self.device, self.frame, &bindings.shapes).0;
        let group =
            self.device.create_bind_group(&BindGroupDescriptor { label: Some("windows"), layout, entries: &entries });
        self.groups.push(group);
        self.known.insert(key, self.groups.len() - 1);
        self.groups.len() - 1
    }
}

/// Workgroups of 256 that cover a span word by word.
fn over(span: Span) -> [u32; 3] {
    crate::engine::op::groups(span.bytes / 4, 256)
}

impl Program {
    pub fn record(&self, pass: &mut ComputePass, frame: &BindGroup, groups: &[BindGroup], slot: usize) {
        for step in &self.steps {
            let Some(windows) = step.windows.get(slot).and_then(|i| groups.get(*i)) else { continue };
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, frame, &[step.block]);
            pass.set_bind_group(1, windows, &[]);
            pass.dispatch_workgroups(step.groups[0], step.groups[1], step.groups[2]);
        }
    }
}

/// Group 0 of a slot.
pub fn frame(device: &Device, layout: &BindGroupLayout, blocks: &Buffer, counts: &Buffer) -> BindGroup {
    let block = BufferBinding { buffer: blocks, offset: 0, size: BufferSize::new(BLOCK) };
    device.create_bind_group(&BindGroupDescriptor {
        label: Some("frame"),
        layout,
        entries: &[
            BindGroupEntry { binding: 0, resource: BindingResource::Buffer(block) },
            BindGroupEntry { binding: 1, resource: counts.as_entire_binding() },
        ],
    })
}
