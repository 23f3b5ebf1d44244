//! Training of both towers of CLIP on pictures and captions: from a checkpoint in Hugging Face layout to another one.

mod clips;
mod pictures;
mod state;

use super::log::{Line, Log};
use super::options::TrainOptions;
use super::trainer::{Event, Summary};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::dual::{Capacity, Dual, SCALE, pack_pairs};
use crate::encoders::pixels::Preprocess;
use crate::encoders::tokenizer::Pieces;
use crate::encoders::tuning::{Tuned, Tuning};
use crate::encoders::{image, text};
use crate::engine::autodiff::{backprop, backprop_again};
use crate::engine::backend::Backend;
use crate::engine::fuse::fuse;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::{Executor, Outputs, SlotWriter};
use crate::engine::scheduler::plan::{StateLayout, plan};
use crate::engine::scheduler::stream::stream;
use crate::engine::tensor::Dim;
use crate::error::{Error, Result};
use crate::models::plans::{Optimiser, update};
use crate::random::Random;
pub use clips::Clips;
pub use pictures::Pictures;
use serde::{Deserialize, Serialize};
pub use state::settings;
use state::{Settings, State};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Random stream of the order of pairs in an epoch.
const ORDER: u64 = 0x656e_636f_6400;

/// The `[encoder]` table of a configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderOptions {
    /// `none`, `lora:R`, `last:N` or `all`.
    pub tune: Tuning,
    /// LoRA's α: what its matrices make counts α/R times.
    pub alpha: f32,
    /// Most frames of a video; longer ones are sampled evenly.
    pub frames: usize,
    /// Layers are computed again on the way back instead of being kept: less memory for a quarter more work.
    pub recompute: bool,
    /// Positions that the text tower of CLIP is stretched to before it is trained; 0 for those that it has.
    pub positions: usize,
}

impl Default for EncoderOptions {
    fn default() -> EncoderOptions {
        EncoderOptions { tune: Tuning::All, alpha: 16.0, frames: 12, recompute: false, positions: 0 }
    }
}

impl EncoderOptions {
    /// The checkpoint that is trained.
    ///
    /// # Errors
    /// When it cannot be opened, or its positions cannot be stretched so far.
    pub fn open(&self, encoder: &Path) -> Result<Checkpoint> {
        Checkpoint::open(encoder)?.stretched(Some(self.positions).filter(|n| *n > 0))
    }

    /// # Errors
    /// Names the key whose value is impossible.
    pub fn check(&self) -> Result<()> {
        if self.tune == Tuning::None {
            return Err(Error::config(
                "encoder.tune",
                "is none, so there is nothing to train",
                "use lora:8, last:2, all",
            ));
        }
        if !(1..=4096).contains(&self.frames) {
            return Err(Error::config("encoder.frames", format!("is {}", self.frames), "use a number from 1 to 4096"));
        }
        if !(1e-3..=1e4).contains(&self.alpha) {
            return Err(Error::config(
                "encoder.alpha",
                format!("is {}", self.alpha),
                "use a number from 0.001 to 10000",
            ));
        }
        Ok(())
    }
}

/// What is trained on: captions, each with the frames of its video.
pub trait Pairs: Sync {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn caption(&self, pair: usize) -> &str;
    /// A number of the pair's video: pairs that share one are no negatives of each other.
    fn video(&self, pair: usize) -> u32;
    /// How many frames the video has; 1 for a picture.
    fn frames(&self, pair: usize) -> usize;
    /// The frames of these numbers as the tower sees them: `[side, side, 3]` of red, green and blue
    /// (what [`Preprocess::square`] makes of pictures). Called from a thread of its own.
    fn squares(&self, pair: usize, frames: &[usize], tower: &Preprocess) -> Result<Vec<Vec<u8>>>;
}

/// What a person asks for.
#[derive(Copy, Clone)]
pub struct EncoderRun<'a> {
    /// Folder of the checkpoint that is trained.
    pub encoder: &'a Path,
    /// Folder of what comes of it, and of the log.
    pub out: &'a Path,
    pub options: &'a TrainOptions,
    pub tuning: &'a EncoderOptions,
    pub pairs: &'a dyn Pairs,
    /// Go on from the newest state in `out`, if there is one.
    pub resume: bool,
}

/// One step: both towers, InfoNCE, backward through what moves, clipped, AdamW.
///
/// Inputs: those of [`Dual::inputs`] and `scalars` as in [`training`](crate::models::plans::training). Outputs: `loss [1]`,
/// `gradient_norm [1]`.
pub fn step(dual: &Dual, tuned: &Tuned, capacity: Capacity, recompute: bool, optimiser: Optimiser) -> Result<Graph> {
    let mut g = Graph::new();
    let moved = tuned.moved.weights(&mut g)?;
    let all = tuned.weights(&mut g, &moved, "")?;
    let inputs = dual.inputs(&mut g, capacity)?;
    let loss = dual.loss(&mut g, &all, &inputs)?;
    g.output("loss", loss);
    let one = g.fill(1.0, &[Dim::Fixed(1)])?;
    let back = if recompute { backprop_again } else { backprop };
    let flat = back(&mut g, &[(loss, one)], &[moved.flat])?[0];
    let flat = flat.ok_or_else(|| Error::shape("training", "the loss depends on no parameter that moves"))?;
    update(&mut g, &tuned.moved, &moved, flat, optimiser)?;
    Ok(g)
}

/// A run that is ready to start: plans made, memory taken, state loaded.
pub struct EncoderTrainer<'a> {
    run: EncoderRun<'a>,
    checkpoint: Checkpoint,
    dual: Dual,
    tuned: Tuned,
    still: Vec<f32>,
    data: Prepared<'a>,
    executor: Executor,
    settings: Settings,
    step: usize,
    log: Log,
}

/// Pairs with their captions taken apart.
struct Prepared<'a> {
    pairs: &'a dyn Pairs,
    preprocess: Preprocess,
    texts: Vec<Pieces>,
    video_key: Vec<u32>,
    caption_key: Vec<u32>,
    /// Most frames of a video.
    frames: usize,
}

impl<'a> Prepared<'a> {
    fn new(checkpoint: &Checkpoint, dual: &Dual, pairs: &'a dyn Pairs, frames: usize) -> Result<Prepared<'a>> {
        let preprocess = Preprocess::of(checkpoint, dual.image.image as u32)?;
        let (tokenizer, _) = text::tokenizer(checkpoint, &dual.text)?;
        let all = 0..pairs.len();
        let texts = all.clone().map(|p| tokenizer.pieces(pairs.caption(p))).collect::<Result<Vec<_>>>()?;
        let mut keys: HashMap<&str, u32> = HashMap::new();
        let caption_key = all.clone().map(|p| {
            let next = keys.len() as u32;
            *keys.entry(pairs.caption(p)).or_insert(next)
        });
        let caption_key = caption_key.collect();
        Ok(Prepared { pairs, preprocess, texts, video_key: all.map(|p| pairs.video(p)).collect(), caption_key, frames })
    }

    /// The rows that the largest possible batch takes.
    fn capacity(&self, batch: usize) -> Capacity {
        let most = |rows: &dyn Fn(usize) -> usize| {
            let mut lengths: Vec<usize> = (0..self.texts.len()).map(rows).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.iter().take(batch).sum::<usize>().max(1)
        };
        Capacity {
            pairs: batch,
            pieces: most(&|p| self.texts[p].ids.len()),
            frames: most(&|p| self.pairs.frames(p).min(self.frames)),
        }
    }

    fn pack(&self, dual: &Dual, slot: &mut SlotWriter, batch: &[usize]) -> Result<()> {
        let texts: Vec<&Pieces> = batch.iter().map(|p| &self.texts[*p]).collect();
        text::pack(&dual.text, &texts, slot)?;
        let (mut squares, mut lengths) = (vec![], vec![]);
        for &p in batch {
            let chosen = evenly(self.pairs.frames(p), self.frames);
            let frames = self.pairs.squares(p, &chosen, &self.preprocess)?;
            let bytes = 3 * dual.image.image * dual.image.image;
            if frames.is_empty() || frames.len() != chosen.len() || frames.iter().any(|f| f.len() != bytes) {
                let what = format!("{} frames, not {} of {bytes} bytes each", frames.len(), chosen.len().max(1));
                return Err(Error::data("pairs", self.pairs.caption(p), what, "leave the pair out"));
            }
            lengths.push(frames.len());
            squares.extend(frames);
        }
        image::pack(&dual.image, &self.preprocess, &squares, slot)?;
        let keys = |of: &[u32]| batch.iter().map(|p| of[*p]).collect::<Vec<_>>();
        pack_pairs(slot, &lengths, &keys(&self.video_key), &keys(&self.caption_key))
    }

    /// Says which pairs these are, for resuming.
    fn fingerprint(&self) -> String {
        let (n, frames) = (self.texts.len(), |p| self.pairs.frames(p) as u32);
        let words = (0..n).flat_map(|p| self.texts[p].ids.iter().copied().chain([self.video_key[p], frames(p)]));
        let hash = words.fold(0xcbf2_9ce4_8422_2325u64, |h, w| (h ^ u64::from(w)).wrapping_mul(0x0100_0000_01b3));
        format!("{n} pairs, {hash:016x}")
    }
}

/// At most `most` of `n` frames, in the middle of parts of equal length.
fn evenly(n: usize, most: usize) -> Vec<usize> {
    let taken = n.min(most);
    (0..taken).map(|i| (2 * i + 1) * n / (2 * taken)).collect()
}

impl<'a> EncoderTrainer<'a> {
    /// Reads the checkpoint, takes captions apart, plans, and loads the newest state when `resume` is set.
    ///
    /// # Errors
    /// When options, checkpoint or pairs do not fit, when memory does not suffice (before any is taken), or when `out`
    /// holds something and `resume` is not set.
    pub fn new(run: &EncoderRun<'a>, backend: Box<dyn Backend>) -> Result<EncoderTrainer<'a>> {
        let EncoderRun { encoder, out, options, tuning, pairs, resume } = *run;
        options.check()?;
        tuning.check()?;
        if options.chunk != 0 {
            let fix = "leave it out; encoder.recompute and a smaller train.batch take less memory";
            return Err(Error::config("train.chunk", "is not there for encoders", fix));
        }
        if pairs.len() < 2 {
            let what = format!("are {} and contrastive training needs two or more", pairs.len());
            return Err(Error::config("pairs", what, "give more"));
        }
        let checkpoint = tuning.open(encoder)?;
        let dual = Dual::new(&checkpoint)?;
        let tuned = Tuned::new(dual.parameters(), &dual.outlines(), tuning.tune, tuning.alpha, &[SCALE])?;
        let data = Prepared::new(&checkpoint, &dual, pairs, tuning.frames)?;
        let settings = Settings::new(options, tuning, &data.fingerprint(), &checkpoint.identity());
        let found = State::find(out, &tuned.moved, &settings, resume)?;
        let values = checkpoint.read(dual.parameters(), &[""])?;
        let (moved, still) = tuned.initial(dual.parameters(), &values, options.seed);
        let capacity = data.capacity(options.batch.min(pairs.len()));
        let graph = fuse(&step(&dual, &tuned, capacity, tuning.recompute, optimiser(options))?);
        let states = StateLayout::of([&graph])?;
        let made = plan("train encoder", &graph, &states, &backend.ctx())?;
        let mut executor = Executor::new(backend, vec![made], states)?;
        let zeros = || vec![0.0; tuned.moved.elements as usize];
        let state = found.unwrap_or_else(|| State { step: 0, params: moved, adam_m: zeros(), adam_v: zeros() });
        executor.write_state("params", &state.params)?;
        executor.write_state("adam_m", &state.adam_m)?;
        executor.write_state("adam_v", &state.adam_v)?;
        let (ranges, factors) = tuned.moved.groups(options.weight_decay);
        executor.write_state_words("group_ranges", &ranges)?;
        executor.write_state("group_factors", &factors)?;
        tuned.write_still(&mut executor, &still)?;
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        let log = Log::open(&out.join("log.jsonl"), state.step, state.step)?;
        let step = state.step;
        Ok(EncoderTrainer { run: *run, checkpoint, dual, tuned, still, data, executor, settings, step, log })
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    fn steps_per_epoch(&self) -> usize {
        self.data.texts.len().div_ceil(self.run.options.batch)
    }

    pub fn steps(&self) -> usize {
        self.steps_per_epoch() * self.run.options.epochs
    }

    /// Trains to the end, or until `stop` becomes true. In both cases the encoder as it then is lies in `out`, and a
    /// state from which a run goes on.
    pub fn run(&mut self, stop: &AtomicBool, mut observe: impl FnMut(Event)) -> Result<Summary> {
        let (steps, per_epoch) = (self.steps(), self.steps_per_epoch());
        observe(Event::Start { step: self.step, steps });
        let mut final_loss = None;
        while self.step < steps && !stop.load(Ordering::Relaxed) {
            let epoch = self.step / per_epoch;
            let mut end = (epoch + 1) * per_epoch;
            if let Some(every) = Some(self.run.options.checkpoint_every).filter(|n| *n > 0) {
                end = end.min((self.step / every + 1) * every);
            }
            final_loss = self.stretch(epoch, end, stop, &mut observe)?.or(final_loss);
            self.save(&mut observe)?;
        }
        Ok(Summary {
            steps: self.step,
            final_loss,
            best_recall_at_1: None,
            parameters: self.tuned.moved.count(),
            device: self.device(),
            stopped_early: self.step < steps,
            model: self.run.out.into(),
        })
    }

    /// Steps up to `end`, all within one epoch. Returns the last loss.
    fn stretch(
        &mut self,
        epoch: usize,
        end: usize,
        stop: &AtomicBool,
        observe: &mut impl FnMut(Event),
    ) -> Result<Option<f32>> {
        let (steps, per_epoch, options) = (self.steps(), self.steps_per_epoch(), self.run.options);
        let order = Random::new(options.seed, ORDER + epoch as u64).permutation(self.data.texts.len());
        let batch = |step: usize| {
            let begin = (step - epoch * per_epoch) * options.batch;
            &order[begin..(begin + options.batch).min(order.len())]
        };
        let optimiser = optimiser(options);
        let EncoderTrainer { data, dual, executor, log, step: finished, .. } = self;
        let (data, dual) = (&*data, &*dual);
        let (mut last, from) = (None, *finished);
        let pack = |step: &usize, slot: &mut SlotWriter| {
            data.pack(dual, slot, batch(*step))?;
            let rate = options.learning_rate(*step, steps);
            slot.f32("scalars")?.copy_from_slice(&optimiser.scalars(*step, rate));
            Ok(())
        };
        let done = |step: usize, outputs: &Outputs| {
            let (loss, gradient_norm) = (outputs.scalar("loss")?, outputs.scalar("gradient_norm")?);
            if !loss.is_finite() || !gradient_norm.is_finite() {
                return Err(Error::NotFinite {
                    place: format!("step {}", step + 1),
                    what: format!("loss {loss}, gradient norm {gradient_norm}"),
                    fix: "lower train.learning_rate and resume from the last state".into(),
                });
            }
            *finished = step + 1;
            last = Some(loss);
            let learning_rate = options.learning_rate(step, steps);
            let terms = Default::default();
            let line = Line::Step { step: step + 1, epoch: epoch + 1, loss, gradient_norm, learning_rate, terms };
            log.write(&line)?;
            observe(Event::Line(&line));
            Ok(())
        };
        stream(executor, 0, from..end, pack, done, stop)?;
        Ok(last)
    }

    /// The encoder as it is now, and the state of the run.
    fn save(&mut self, observe: &mut impl FnMut(Event)) -> Result<()> {
        self.log.sync()?;
        let mut read = |name: &str| self.executor.read_state(name);
        let state =
            State { step: self.step, params: read("params")?, adam_m: read("adam_m")?, adam_v: read("adam_v")? };
        let changed = self.tuned.changed(&state.params, &self.still);
        State::begin(self.run.out, &self.settings)?;
        self.checkpoint.rewrite(self.run.out, self.dual.parameters(), &[""], &changed)?;
        let path = state.save(self.run.out, &self.tuned.moved)?;
        observe(Event::Checkpoint(&path));
        Ok(())
    }
}

fn optimiser(options: &TrainOptions) -> Optimiser {
    Optimiser { max_norm: options.clip, ..Optimiser::default() }
}
