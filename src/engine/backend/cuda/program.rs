//! A plan as calls of the driver.

use super::driver::{Arguments, Context, Fault, Kernel, MAX_OPERANDS, Module, Stream};
use crate::engine::op::{KernelDef, PARAM_WORDS};
use crate::engine::scheduler::plan::{Command, LaunchCommand, Plan, Region, Span};
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels met so far. A family is compiled when the first of its kernels is.
#[derive(Default)]
pub struct Kernels {
    modules: HashMap<&'static str, Arc<Module>>,
    /// By family and name.
    kernels: HashMap<(&'static str, &'static str), Arc<Kernel>>,
}

impl Kernels {
    fn get(&mut self, def: &'static KernelDef, context: &Arc<Context>) -> Result<Arc<Kernel>, Fault> {
        let Some(ptx) = def.cuda else { return Err(Fault::refusal(format!("{} has no CUDA kernel", def.name))) };
        if let Some(kernel) = self.kernels.get(&(ptx.family, def.name)) {
            return Ok(kernel.clone());
        }
        let module = match self.modules.get(ptx.family) {
            Some(module) => module.clone(),
            None => {
                let module = Module::new(context, ptx.text)
                    .map_err(|f| Fault { what: format!("{}.ptx: {}", ptx.family, f.what), ..f })?;
                self.modules.insert(ptx.family, module.clone());
                module
            }
        };
        let kernel = Arc::new(module.kernel(def.name)?);
        self.kernels.insert((ptx.family, def.name), kernel.clone());
        Ok(kernel)
    }
}

/// The commands of a plan.
pub struct Program {
    pub steps: Vec<Step>,
}

pub enum Step {
    Launch(Launch),
    Copy { from: Span, to: Span },
    Fill { to: Span, value: f32 },
}

/// One launch, for any slot.
pub struct Launch {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    operands: Vec<Option<(Region, u64)>>,
    params: [u32; PARAM_WORDS],
}

impl Program {
    pub fn new(plan: &Plan, kernels: &mut Kernels, context: &Arc<Context>) -> Result<Program, Fault> {
        let mut steps = Vec::with_capacity(plan.commands.len());
        for command in &plan.commands {
            match command {
                Command::Launch(l) => steps.push(Step::Launch(Launch::new(kernels.get(l.kernel, context)?, l)?)),
                Command::Copy { from, to } => steps.push(Step::Copy { from: *from, to: *to }),
                Command::Fill { to, value } => steps.push(Step::Fill { to: *to, value: *value }),
            }
        }
        Ok(Program { steps })
    }
}

impl Launch {
    fn new(kernel: Arc<Kernel>, l: &LaunchCommand) -> Result<Launch, Fault> {
        if l.args.len() > MAX_OPERANDS || l.params.words().len() > PARAM_WORDS {
            return Err(Fault::refusal(format!("{} takes more than {MAX_OPERANDS} operands", l.kernel.name)));
        }
        let mut params = [0; PARAM_WORDS];
        for (to, word) in params.iter_mut().zip(l.params.words()) {
            *to = *word;
        }
        let operands = l.args.iter().map(|a| a.as_ref().map(|s| (s.region, s.offset))).collect();
        Ok(Launch { kernel, grid: l.groups, operands, params })
    }

    pub fn run(&self, stream: &Stream, base: impl Fn(Region) -> u64, counts: u64) -> Result<(), Fault> {
        let mut addresses = [0; MAX_OPERANDS];
        for (to, operand) in addresses.iter_mut().zip(&self.operands) {
            *to = operand.map_or(0, |(region, offset)| base(region) + offset);
        }
        let operands = &addresses[..self.operands.len()];
        stream.launch(&self.kernel, self.grid, &Arguments { operands, counts, params: self.params })
    }
}
