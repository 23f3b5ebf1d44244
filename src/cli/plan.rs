//! `plan`: what a model will run and what it will take, before anything is taken.

use super::settings::at_sizes;
use super::{Common, device, output};
use crate::engine::fuse::fuse;
use crate::engine::scheduler::executor::SLOTS;
use crate::engine::scheduler::plan::{Plan, RegionBytes, StateLayout, plan};
use crate::error::{Result, bytes};
use crate::models::batch::Capacity;
use crate::models::plans::{self, Optimiser};
use crate::models::{Config, MODELS, Stage, build, chunks, tiles};
use crate::train::TrainOptions;
use clap::Args;
use serde::Serialize;

/// Print the plans of every model: commands, memory, FLOPs. Nothing is allocated.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola plan                       memory and work of every model
  moviola plan --model mean-pool --dump
  moviola plan --batch 512 --frames 64 --json
  moviola plan --model cba --batch 1024 --frames 64 --chunk 128     what train.chunk saves
  moviola plan --model cba --set routing.experts=8 --set trunk.layers=0")]
pub struct PlanCommand {
    /// One model; all when left out.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Pairs of a training step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Pairs of a chunk of that step, as train.chunk; 0 for a step in one piece.
    #[arg(long, default_value_t = 0)]
    chunk: usize,
    /// Words of a text.
    #[arg(long, default_value_t = 32)]
    words: usize,
    /// Frames of a video.
    #[arg(long, default_value_t = 12)]
    frames: usize,
    /// Width of tokens and of the joint space.
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// One setting of the model, as `train` takes them.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "model")]
    settings: Vec<String>,
    /// Print every command.
    #[arg(long)]
    dump: bool,
}

#[derive(Serialize)]
pub struct Row {
    pub model: String,
    pub plan: String,
    pub commands: usize,
    /// Arena bytes.
    pub peak_bytes: u64,
    pub lower_bound_bytes: u64,
    pub ratio: f64,
    pub state_bytes: u64,
    pub slot_bytes: u64,
    pub total_bytes: u64,
    pub flops: u64,
}

impl PlanCommand {
    pub fn run(&self, common: &Common) -> Result<()> {
        let backend = device::open(common)?;
        let ctx = backend.ctx();
        ctx.precision.trains()?;
        let (mut rows, mut dumps, mut totals) = (vec![], vec![], vec![]);
        for name in MODELS.iter().filter(|m| self.model.as_deref().is_none_or(|wanted| wanted == **m)) {
            let mut all = RegionBytes::default();
            for plan in self.plans(name, &ctx)? {
                all = all.max(plan.bytes);
                dumps.push(plan.dump());
                rows.push(row(name, &plan));
            }
            totals.push(format!("{name} takes {}", bytes(all.total(SLOTS))));
        }
        if rows.is_empty() {
            let config = Config { model: self.model.clone().unwrap_or_default(), ..Config::default() };
            build(&config)?;
        }
        output::result(common, &rows, || if self.dump { dumps.join("\n") } else { told(&rows, &totals) })
    }

    fn plans(&self, name: &str, ctx: &crate::engine::op::Ctx) -> Result<Vec<Plan>> {
        let model = build(&at_sizes(name, &self.settings, self.words, self.frames, self.dim)?)?;
        let capacity =
            |n: usize| Capacity { texts: n, words: n * (self.words + 1), videos: n, frames: n * self.frames };
        let (stage, optimiser) = (Stage::default(), Optimiser::default());
        TrainOptions { batch: self.batch, ..TrainOptions::default() }.check()?;
        let mut graphs = if self.chunk == 0 {
            vec![("train", plans::training(model.as_ref(), capacity(self.batch), stage, optimiser)?)]
        } else {
            let options = TrainOptions { batch: self.batch, chunk: self.chunk, ..TrainOptions::default() };
            options.check()?;
            chunks::training(model.as_ref(), capacity(self.batch), capacity(self.chunk), stage, optimiser)?.into()
        };
        graphs.extend(tiles::graphs(model.as_ref(), capacity(256))?);
        graphs.push(("evidence", plans::evidence(model.as_ref(), capacity(1))?));
        let graphs: Vec<_> = graphs.into_iter().map(|(n, g)| (n, fuse(&g))).collect();
        let states = StateLayout::of(graphs.iter().map(|g| &g.1))?;
        graphs.iter().map(|(n, g)| plan(n, g, &states, ctx)).collect()
    }
}

fn row(model: &str, p: &Plan) -> Row {
    Row {
        model: model.into(),
        plan: p.name.clone(),
        commands: p.commands.len(),
        peak_bytes: p.bytes.arena,
        lower_bound_bytes: p.lower_bound,
        ratio: p.bytes.arena as f64 / p.lower_bound.max(1) as f64,
        state_bytes: p.bytes.state,
        slot_bytes: p.bytes.input + p.bytes.output,
        total_bytes: p.bytes.total(SLOTS),
        flops: p.cost().flops,
    }
}

fn told(rows: &[Row], totals: &[String]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["model", "plan", "commands", "arena", "lower bound", "ratio", "states", "a slot", "GFLOP"]);
    for r in rows {
        table.add_row([
            r.model.clone(),
            r.plan.clone(),
            r.commands.to_string(),
            bytes(r.peak_bytes),
            bytes(r.lower_bound_bytes),
            format!("{:.3}", r.ratio),
            bytes(r.state_bytes),
            bytes(r.slot_bytes),
            format!("{:.2}", r.flops as f64 / 1e9),
        ]);
    }
    let totals = totals.join(", ");
    format!("{table}\n{SLOTS} slots; the arena is shared by all plans of a run: {totals}; FLOPs at full capacity")
}
