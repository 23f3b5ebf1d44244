//! `bench scoring`: all pairs of texts and videos by token interaction, beside the matrix product inside of it.

use super::super::{Common, device, output};
use super::sizes;
use crate::engine::bench::{in_turns, median};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::Precision;
use crate::engine::op::interact::{Interact, MAX_SLOTS};
use crate::engine::op::linear::Linear;
use crate::engine::scheduler::executor::Executor;
use crate::engine::scheduler::plan::{StateLayout, plan};
use crate::engine::tensor::{Counts, Dim, Meta};
use crate::error::{Error, Result};
use crate::models::random_batch::Sizes;
use clap::Args;
use serde::Serialize;

/// Texts whose words the matrix product takes at a time: enough for its best speed, few enough that its result, which
/// scoring never writes, takes little memory.
const TEXTS_AT_A_TIME: usize = 32;

/// Time the scoring of all pairs against its matrix product alone, run in turns.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola bench scoring --texts 1000 --videos 1000 --words 32 --frames 12 --dim 512 --json
  moviola bench scoring --experts 4")]
pub struct Scoring {
    #[arg(long, default_value_t = 1000)]
    texts: usize,
    #[arg(long, default_value_t = 1000)]
    videos: usize,
    /// Words of a text; its sentence row comes on top.
    #[arg(long, default_value_t = 32)]
    words: usize,
    /// Frames of a video.
    #[arg(long, default_value_t = 12)]
    frames: usize,
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Experts of every frame, which each text mixes by its router; 1: no router.
    #[arg(long, default_value_t = 1)]
    experts: usize,
    /// Every length is random, from 1 to the given one.
    #[arg(long)]
    ragged: bool,
    /// Turns of which the medians are taken.
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

#[derive(Serialize)]
struct Report {
    device: String,
    texts: usize,
    videos: usize,
    experts: usize,
    seconds: f64,
    gemm_seconds: f64,
    /// Median over turns of scoring / product.
    ratio: f64,
    ratios: Vec<f64>,
    pairs_per_second: f64,
    gemm_gigaflops: f64,
}

impl Scoring {
    pub fn run(&self, common: &Common) -> Result<()> {
        let &Scoring { texts, videos, words, frames, dim, experts, ragged, runs } = self;
        let batch = Sizes { texts, videos, words, frames, dim, ragged };
        if !(1..=10_000).contains(&runs) {
            return Err(Error::config("--runs", format!("is {runs}"), "use 1 to 10000"));
        }
        if !(1..=MAX_SLOTS).contains(&experts) {
            return Err(Error::config("--experts", format!("is {experts}"), format!("use 1 to {MAX_SLOTS}")));
        }
        sizes::check(&Sizes { frames: frames.saturating_mul(experts), ..batch })?;
        let batch = batch.batch();
        let (rows, columns) = (batch.texts.rows(), batch.videos.rows());
        let part = rows.min(TEXTS_AT_A_TIME * (words + 1));
        let graphs = [self.scoring(rows, columns)?, product(rows, columns, experts, part, dim)?];
        let states = StateLayout::of(&graphs)?;
        let backend = device::open(common)?;
        let ctx = backend.ctx();
        if ctx.precision == Precision::Int8 {
            let fix = "leave it out; `bench ops` times linear_int8";
            return Err(Error::config(
                "--precision",
                "int8 is for products with weights, and here there are none",
                fix,
            ));
        }
        let plans = ["scoring", "product"].iter().zip(&graphs).map(|(n, g)| plan(n, g, &states, &ctx));
        let mut executor = Executor::new(backend, plans.collect::<Result<_>>()?, states)?;
        executor.write_state("words", batch.texts.values())?;
        // Experts that hand back their frame: what they hold costs no time.
        let frames = batch.videos.values().chunks(dim).flat_map(|row| row.repeat(experts));
        executor.write_state("frames", &frames.collect::<Vec<f32>>())?;
        if experts > 1 {
            executor.write_state("router_text", &vec![0.0; texts * experts])?;
            executor.write_state("router_frame", &vec![0.0; columns * experts])?;
            executor.write_state("gram", &vec![1.0; columns * experts * experts])?;
        }
        executor.write_state_words("word_segments", &batch.texts.segments())?;
        executor.write_state_words("frame_segments", &batch.videos.segments())?;
        executor.write_state("word_log_weights", &vec![-(words as f32).ln(); rows])?;
        executor.write_state("frame_bias", &vec![0.0; columns])?;

        let parts = rows.div_ceil(part);
        // The last part is as large as the others; its surplus is taken off.
        let surplus = (parts * part) as f64 / rows as f64;
        let times = in_turns(runs, 2, |which| match which {
            0 => executor.compute(0, Counts::default()),
            _ => (0..parts).try_for_each(|_| executor.compute(1, Counts::default())),
        })?;
        let (scoring, product): (Vec<f64>, Vec<f64>) = times.iter().map(|t| (t[0], t[1] / surplus)).unzip();
        let ratios: Vec<f64> = scoring.iter().zip(&product).map(|(all, alone)| all / alone).collect();
        let (seconds, gemm_seconds) = (median(scoring), median(product));
        let flops = 2.0 * rows as f64 * (columns * experts) as f64 * dim as f64;
        let report = Report {
            device: executor.device(),
            texts,
            videos,
            experts,
            seconds,
            gemm_seconds,
            ratio: median(ratios.clone()),
            ratios,
            pairs_per_second: texts as f64 * videos as f64 / seconds,
            gemm_gigaflops: flops / gemm_seconds / 1e9,
        };
        output::result(common, &report, || {
            format!(
                "{texts} x {videos} pairs in {:.3} s ({:.0} a second), {:.2} times its matrix product alone ({:.3} s, {:.0} GFLOP/s); {}",
                report.seconds,
                report.pairs_per_second,
                report.ratio,
                report.gemm_seconds,
                report.gemm_gigaflops,
                report.device
            )
        })
    }

    fn scoring(&self, rows: usize, columns: usize) -> Result<Graph> {
        let mut g = Graph::new();
        let tokens = |rows| Meta::f32(&[Dim::Fixed(rows), Dim::Fixed(self.dim)]);
        let words = g.state("words", tokens(rows)?);
        let slots = Dim::Fixed(self.experts);
        let wide = Dim::Fixed(self.experts * self.dim);
        let frames = g.state("frames", Meta::f32(&[Dim::Fixed(columns), wide])?);
        let word_segments = g.state("word_segments", Meta::u32(&[Dim::Fixed(self.texts), Dim::Fixed(2)])?);
        let frame_segments = g.state("frame_segments", Meta::u32(&[Dim::Fixed(self.videos), Dim::Fixed(2)])?);
        let weights = g.state("word_log_weights", Meta::f32(&[Dim::Fixed(rows)])?);
        let bias = g.state("frame_bias", Meta::f32(&[Dim::Fixed(columns)])?);
        let longest = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let op = Interact {
            temperature: 0.05,
            relevance_temperature: 0.1,
            max_words: longest(self.words.saturating_add(1)),
            max_frames: longest(self.frames),
            kept: 0,
        };
        let none = Value::ABSENT;
        let mut ins = [words, word_segments, weights, frames, frame_segments, bias, none, none, none, none, none];
        if self.experts > 1 {
            let square = Dim::Fixed(self.experts * self.experts);
            ins[6] = g.state("router_text", Meta::f32(&[Dim::Fixed(self.texts), slots])?);
            ins[7] = g.state("router_frame", Meta::f32(&[Dim::Fixed(columns), slots])?);
            ins[9] = g.state("gram", Meta::f32(&[Dim::Fixed(columns), square])?);
        }
        let scores = g.apply(op, &ins)?;
        g.output("scores", scores);
        Ok(g)
    }
}

/// The products of `part` words with all frames, and each expert of theirs.
fn product(rows: usize, columns: usize, experts: usize, part: usize, dim: usize) -> Result<Graph> {
    let mut g = Graph::new();
    let words = g.state("words", Meta::f32(&[Dim::Fixed(rows), Dim::Fixed(dim)])?);
    let frames = g.state("frames", Meta::f32(&[Dim::Fixed(columns), Dim::Fixed(experts * dim)])?);
    let frames = g.view(frames, 0, Meta::f32(&[Dim::Fixed(columns * experts), Dim::Fixed(dim)])?)?;
    let words = g.view(words, 0, Meta::f32(&[Dim::Fixed(part), Dim::Fixed(dim)])?)?;
    let y = g.apply(Linear::new(false, true), &[words, frames, Value::ABSENT, Value::ABSENT])?;
    g.output("product", y);
    Ok(g)
}
