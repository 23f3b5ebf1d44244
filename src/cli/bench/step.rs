//! `bench step`: a training step on a batch that is the same everywhere, for comparisons with other frameworks.

use super::super::settings::at_sizes;
use super::super::{Common, device, output};
use super::profile::{self, Line};
use super::{cpu_seconds, dump, sizes};
use crate::engine::backend::Backend;
use crate::engine::bench::median;
use crate::engine::fuse::fuse;
use crate::engine::parameters::Parameter;
use crate::engine::scheduler::executor::{Executor, Outputs, SlotWriter};
use crate::engine::scheduler::plan::{Plan, StateLayout, plan};
use crate::error::{Error, Result};
use crate::models::plans::{Optimiser, gradients, training};
use crate::models::random_batch::{Batch, SEED, Sizes};
use crate::models::{Config, Model, Stage, build};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Steps that are not counted.
const WARM_UP: usize = 2;
const LEARNING_RATE: f32 = 1e-4;
const WEIGHT_DECAY: f32 = 0.01;
/// Steps and commands that one run may take: a limit against slips of the finger.
const MOST_STEPS: usize = 1 << 20;

/// Time a training step: forward, backward, clipping and AdamW, upload included.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola bench step --model token-interaction --batch 128 --json
  moviola bench step --profile                         where the time goes
  moviola bench step --model cba --set trunk.layers=0  a model without some of its parts
  moviola bench step --steps 5 --dump DIR              what another framework needs to repeat it")]
pub struct Step {
    #[arg(long, default_value = "token-interaction", value_name = "NAME")]
    model: String,
    /// Pairs.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Words of a text.
    #[arg(long, default_value_t = 32)]
    words: usize,
    /// Frames of a video.
    #[arg(long, default_value_t = 12)]
    frames: usize,
    /// Width of tokens and of the joint space.
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Every length is random, from 1 to the given one.
    #[arg(long)]
    ragged: bool,
    /// Steps that are timed, after two that are not.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// One setting of the model, as `train` takes them, e.g. --set trunk.layers=0.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Write the batch, the parameters, the gradient and the losses into this folder.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Time every command of the plan alone.
    #[arg(long)]
    profile: bool,
}

#[derive(Serialize)]
struct Report {
    device: String,
    model: String,
    seed: u64,
    seconds: f64,
    /// Time of all cores together, a step; where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f64>,
    times: Vec<f64>,
    /// At full capacity.
    flops: u64,
    /// Of every step, from the first, which saw the initial parameters.
    losses: Vec<f32>,
}

#[derive(Serialize)]
struct Profile {
    device: String,
    model: String,
    nodes: Vec<Line>,
}

impl Step {
    pub fn run(&self, common: &Common) -> Result<()> {
        let batch = Sizes {
            texts: self.batch,
            videos: self.batch,
            words: self.words,
            frames: self.frames,
            dim: self.dim,
            ragged: self.ragged,
        };
        sizes::check(&batch)?;
        if self.steps == 0 || self.steps > MOST_STEPS {
            return Err(Error::config("--steps", format!("is {}", self.steps), format!("use 1 to {MOST_STEPS}")));
        }
        let model = build(&at_sizes(&self.model, &self.settings, self.words, self.frames, self.dim)?)?;
        let backend = device::open(common)?;
        let batch = batch.batch();
        if self.profile {
            self.profile(common, model.as_ref(), &batch, backend)
        } else {
            self.time(common, model.as_ref(), &batch, backend)
        }
    }

    fn time(&self, common: &Common, model: &dyn Model, batch: &Batch, backend: Box<dyn Backend>) -> Result<()> {
        let (plans, states) = plans(model, batch, backend.as_ref())?;
        let flops = plans[0].cost().flops;
        let mut executor = Executor::new(backend, plans, states)?;
        let params = initialise(&mut executor, model)?;
        if let Some(dir) = &self.dump {
            let outputs = executor.run(1, |slot| {
                batch.pack(slot, model.config())?;
                std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
                dump::inputs(dir, slot)
            })?;
            let meta = self.meta(model, &outputs);
            dump::gradient(dir, model, outputs.f32("gradient")?)?;
            dump::model(dir, model, &params, &meta)?;
        }
        let (mut times, mut cpu_times, mut losses) = (vec![], vec![], vec![]);
        for step in 0..self.steps + WARM_UP {
            let mut begun = (Instant::now(), cpu_seconds());
            let outputs = executor.run(0, |slot| {
                pack(slot, batch, model.config(), step)?;
                begun = (Instant::now(), cpu_seconds());
                Ok(())
            })?;
            times.push(begun.0.elapsed().as_secs_f64());
            cpu_times.push(cpu_seconds().zip(begun.1).map(|(end, begin)| end - begin));
            losses.push(outputs.scalar("loss")?);
        }
        let times = times.split_off(WARM_UP);
        let cpu: Option<Vec<f64>> = cpu_times.into_iter().skip(WARM_UP).collect();
        let report = Report {
            device: executor.device(),
            model: self.model.clone(),
            seed: SEED,
            seconds: median(times.clone()),
            cpu_seconds: cpu.map(median),
            times,
            flops,
            losses,
        };
        output::result(common, &report, || {
            let (ms, gigaflops) = (1e3 * report.seconds, report.flops as f64 / 1e9 / report.seconds);
            format!(
                "{}: {ms:.1} ms a step, {gigaflops:.0} GFLOP/s; median of {}; {}",
                report.model, self.steps, report.device
            )
        })
    }

    fn profile(&self, common: &Common, model: &dyn Model, batch: &Batch, backend: Box<dyn Backend>) -> Result<()> {
        let (mut plans, states) = plans(model, batch, backend.as_ref())?;
        let plan = plans.remove(0);
        let mut executor = Executor::new(backend, plan.apart(), states)?;
        initialise(&mut executor, model)?;
        let counts = executor.upload(0, |slot| pack(slot, batch, model.config(), 0))?;
        let nodes = profile::profile(&mut executor, &plan, counts, self.steps)?;
        let profile = Profile { device: executor.device(), model: self.model.clone(), nodes };
        output::result(common, &profile, || profile::told(&profile.nodes))
    }

    fn meta(&self, model: &dyn Model, outputs: &Outputs) -> serde_json::Value {
        let o = Optimiser::default();
        let list = |wanted: &dyn Fn(&Parameter) -> bool| -> Vec<&str> {
            model.parameters().list.iter().filter(|p| wanted(p)).map(|p| p.name.as_str()).collect()
        };
        serde_json::json!({
            "config": model.config(),
            "batch": self.batch,
            "words": self.words,
            "frames": self.frames,
            "ragged": self.ragged,
            "seed": SEED,
            "loss": outputs.scalar("loss").ok(),
            "terms": outputs.scalars().filter(|(name, _)| *name != "loss").collect::<BTreeMap<_, _>>(),
            // Factors of the learning rate; 0 for what is not learned.
            "rates": model.parameters().list.iter().map(|p| (p.name.clone(), p.rate)).collect::<BTreeMap<_, _>>(),
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "decayed": list(&|p| p.decay),
            "largest_log_scale": model.parameters().find("log_scale").map(|p| p.range.1),
            "beta1": o.beta1, "beta2": o.beta2, "eps": o.eps, "max_norm": o.max_norm,
        })
    }
}

/// The training plan and the plan of the gradient alone.
fn plans(model: &dyn Model, batch: &Batch, backend: &dyn Backend) -> Result<(Vec<Plan>, StateLayout)> {
    let ctx = backend.ctx();
    ctx.precision.trains()?;
    let capacity = batch.capacity();
    let graphs =
        [fuse(&training(model, capacity, Stage::default(), Optimiser::default())?), fuse(&gradients(model, capacity)?)];
    let states = StateLayout::of(&graphs)?;
    let named = ["train", "gradient"].iter().zip(&graphs);
    let plans = named.map(|(name, g)| plan(name, g, &states, &ctx)).collect::<Result<_>>()?;
    Ok((plans, states))
}

/// Sets every state as a new run does; returns the parameters.
fn initialise(executor: &mut Executor, model: &dyn Model) -> Result<Vec<f32>> {
    let parameters = model.parameters();
    let params = parameters.initial(SEED);
    let (ranges, factors) = parameters.groups(WEIGHT_DECAY);
    executor.write_state("params", &params)?;
    executor.write_state("adam_m", &vec![0.0; params.len()])?;
    executor.write_state("adam_v", &vec![0.0; params.len()])?;
    executor.write_state_words("group_ranges", &ranges)?;
    executor.write_state("group_factors", &factors)?;
    Ok(params)
}

fn pack(slot: &mut SlotWriter, batch: &Batch, config: &Config, step: usize) -> Result<()> {
    batch.pack(slot, config)?;
    let o = Optimiser::default();
    let t = i32::try_from(step + 1).unwrap_or(i32::MAX);
    let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(t))) as f32;
    slot.f32("scalars")?.copy_from_slice(&[LEARNING_RATE, correction(o.beta1), correction(o.beta2), 0.0]);
    Ok(())
}
