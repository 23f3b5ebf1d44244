//! The training loop: batches stream to the device, validation and checkpoints stand between stretches of steps.

use super::checkpoint::{self, Checkpoint, State};
use super::gate::{self, Gate};
use super::log::{Line, Log};
use super::options::TrainOptions;
use super::steps::{Part, forms, graphs, plans_of_a_form};
use crate::data::Dataset;
use crate::engine::backend::Backend;
use crate::engine::fuse::fuse;
use crate::engine::scheduler::executor::{Executor, SlotWriter};
use crate::engine::scheduler::plan::{StateLayout, plan};
use crate::engine::scheduler::stream::alternate;
use crate::error::{Error, Result};
use crate::eval::scoring::{count_ranks, relevance};
use crate::eval::{CaptionMode, Directions};
use crate::eval::{Retrieval, Setting};
use crate::models::batch::{Capacity, Rows, pack_texts, pack_videos};
use crate::models::chunks::pack_begins;
use crate::models::encoded::{CaptionRows, Encoded, Encoding};
use crate::models::plans::Optimiser;
use crate::models::rows::{TextRows, VideoRows};
use crate::models::tiles::{self, Side, Tiler};
use crate::models::views::{Views, pack_views};
use crate::models::{Config, Model, build, folder, standardise};
use crate::random::Random;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Random stream of the order of pairs in an epoch.
const ORDER: u64 = 0x6f72_6465_7200;

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Before the first step: where it starts and how far it goes.
    Start {
        step: usize,
        steps: usize,
    },
    Line(&'a Line),
    Checkpoint(&'a Path),
    /// A damaged checkpoint was passed over.
    Warning(&'a Error),
}

/// What a finished run has to say.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    pub steps: usize,
    pub final_loss: Option<f32>,
    /// Mean R@1 of both directions, in percent, of the best validation.
    pub best_recall_at_1: Option<f64>,
    pub parameters: usize,
    pub device: String,
    pub stopped_early: bool,
    pub model: PathBuf,
}

/// What a person asks for: where, what, how, on which data.
#[derive(Copy, Clone)]
pub struct Run<'a> {
    /// Folder of the model, its log and its checkpoints.
    pub out: &'a Path,
    pub config: &'a Config,
    pub options: &'a TrainOptions,
    pub train: &'a Dataset,
    pub val: Option<&'a Dataset>,
    /// Go on from the newest checkpoint, if there is one.
    pub resume: bool,
    /// Whether frame t of video v (its position in the source) is foreground: for experiments that know it.
    pub foreground: Option<&'a (dyn Fn(usize, usize) -> bool + Sync)>,
}

/// A run that is ready to start: plans made, memory taken, state loaded.
pub struct Trainer<'a> {
    out: PathBuf,
    options: TrainOptions,
    model: Box<dyn Model>,
    encoding: Option<Arc<Encoding>>,
    train: Pairs<'a>,
    val: Option<Pairs<'a>>,
    executor: Executor,
    tiling: Capacity,
    gate: Option<Gate>,
    state: State,
    log: Log,
}

/// A split with its token rows as the model takes them.
pub(super) struct Pairs<'a> {
    data: &'a Dataset,
    texts: Texts<'a>,
    videos: VideoRows<'a>,
    video_key: Vec<u32>,
    caption_key: Vec<u32>,
    foreground: Option<&'a (dyn Fn(usize, usize) -> bool + Sync)>,
}

/// Texts as files have them, or as an encoder in the model takes them.
enum Texts<'a> {
    Features(TextRows<'a>),
    Captions(CaptionRows),
}

impl Texts<'_> {
    fn rows(&self) -> &(dyn Rows + Sync) {
        match self {
            Texts::Features(rows) => rows,
            Texts::Captions(rows) => rows,
        }
    }
}

impl<'a> Pairs<'a> {
    fn new(data: &'a Dataset, config: &Config, encoding: Option<&Arc<Encoding>>) -> Result<Pairs<'a>> {
        let keys = data.keys();
        Ok(Pairs {
            data,
            texts: match encoding {
                None => Texts::Features(TextRows::new(&*data.texts, config)?),
                Some(encoding) => Texts::Captions(encoding.rows(data, config.max_words)?),
            },
            videos: VideoRows::new(&*data.videos, config)?,
            video_key: keys.video,
            caption_key: keys.caption,
            foreground: None,
        })
    }

    pub fn len(&self) -> usize {
        self.data.pairs.len()
    }

    fn text(&self, pair: usize) -> usize {
        self.data.pairs[pair].text
    }

    fn video(&self, pair: usize) -> usize {
        self.data.pairs[pair].video
    }

    /// The rows that the longest possible batch takes.
    pub fn capacity(&self, batch: usize) -> Capacity {
        let most = |rows: &dyn Fn(usize) -> usize| {
            let mut lengths: Vec<usize> = (0..self.len()).map(rows).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.iter().take(batch).sum::<usize>().max(1)
        };
        Capacity {
            texts: batch,
            words: most(&|p| self.texts.rows().rows(self.text(p))),
            videos: batch,
            frames: most(&|p| self.videos.rows(self.video(p))),
        }
    }

    /// Says which data this is, for resuming: numbers, and a checksum of ids in order.
    fn fingerprint(&self) -> String {
        let ids =
            self.data.pairs.iter().flat_map(|p| [&self.data.texts.ids()[p.text], &self.data.videos.ids()[p.video]]);
        let hash = ids
            .flat_map(|id| id.bytes().chain([0]))
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let (texts, videos) = (self.data.texts.ids().len(), self.data.videos.ids().len());
        format!("{} pairs of {texts} texts and {videos} videos, {hash:016x}", self.data.pairs.len())
    }

    /// Packs a part of a batch's pairs.
    pub fn pack(&self, slot: &mut SlotWriter, pairs: &[usize], part: Range<usize>) -> Result<()> {
        let texts: Vec<usize> = pairs.iter().map(|p| self.text(*p)).collect();
        let videos: Vec<usize> = pairs.iter().map(|p| self.video(*p)).collect();
        pack_texts(slot, self.texts.rows(), &texts[part.clone()])?;
        pack_videos(slot, &self.videos, &videos[part.clone()])?;
        pack_begins(slot, (self.texts.rows(), &texts[..part.start]), (&self.videos, &videos[..part.start]))?;
        for (name, keys) in [("video_key", &self.video_key), ("caption_key", &self.caption_key)] {
            if slot.has(name) {
                let place = slot.u32(name)?;
                place.iter_mut().zip(&pairs[part.clone()]).for_each(|(place, p)| *place = keys[*p]);
            }
        }
        Ok(())
    }

    /// What a step makes of its videos besides looking at them.
    fn pack_views(
        &self,
        slot: &mut SlotWriter,
        pairs: &[usize],
        part: Range<usize>,
        config: &Config,
        (seed, step): (u64, u64),
    ) -> Result<()> {
        let videos: Vec<usize> = pairs.iter().map(|p| self.video(*p)).collect();
        let captions = pairs.iter().map(|p| self.data.caption(&self.data.pairs[*p])).collect();
        let (rows, foreground) = (&self.videos, self.foreground);
        let views = Views { rows, videos: &videos, part, captions, foreground, seed, step };
        pack_views(slot, config, &views)
    }
}

impl<'a> Trainer<'a> {
    /// Plans everything and loads the newest checkpoint when `resume` is set.
    ///
    /// # Errors
    /// When options or data do not fit, when memory does not suffice (before any is taken), or when `out` holds a run
    /// and `resume` is not set.
    pub fn new(run: &Run<'a>, backend: Box<dyn Backend>, observe: impl FnMut(Event)) -> Result<Trainer<'a>> {
        Trainer::with_encoder(run, None, backend, observe)
    }

    /// [`Trainer::new`] with a text encoder in the place of text features, which is trained along as it says. It is
    /// written to `encoder/` beside the model, which takes the features that it makes.
    ///
    /// # Errors
    /// Those of [`Trainer::new`], and when the model's texts are not as wide as the encoder's.
    pub fn with_encoder(
        run: &Run<'a>,
        encoding: Option<Arc<Encoding>>,
        backend: Box<dyn Backend>,
        mut observe: impl FnMut(Event),
    ) -> Result<Trainer<'a>> {
        let Run { out, config, options, train, val, resume, foreground } = *run;
        options.check()?;
        let model = build(config)?;
        let model: Box<dyn Model> = match &encoding {
            None => model,
            Some(encoding) => Box::new(Encoded::new(model, encoding.clone())?),
        };
        let train = Pairs { foreground, ..Pairs::new(train, config, encoding.as_ref())? };
        let val = val.map(|data| Pairs::new(data, config, encoding.as_ref())).transpose()?;
        if train.data.pairs.len() < 2 {
            let what = format!("has {} pairs", train.data.pairs.len());
            return Err(Error::data(&train.data.name, "train", what, "contrastive training needs two or more"));
        }
        let gate = Gate::new(model.as_ref(), val.as_ref().unwrap_or(&train), options);
        let mut steered_by = train.fingerprint();
        if let Some(val) = val.as_ref().filter(|_| gate.is_some()) {
            steered_by += &format!("; held out: {}", val.fingerprint());
        }
        if let Some(encoding) = &encoding {
            steered_by += &format!("; encoder {}", encoding.identity());
        }
        let wanted = State::new(options, config, &steered_by);
        let found = checkpoint::latest(out, model.parameters(), &wanted, |e| observe(Event::Warning(e)));
        let found = if resume { found? } else { refuse_existing(out, found)? };
        let (executor, tiling) = prepare(model.as_ref(), options, &train, val.as_ref(), gate.as_ref(), backend)?;
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        let state = found.as_ref().map_or(wanted, |c| c.state.clone());
        let log = Log::open(&out.join("log.jsonl"), state.step, state.validated)?;
        let mut trainer = Trainer {
            out: out.into(),
            options: options.clone(),
            model,
            encoding,
            train,
            val,
            executor,
            tiling,
            gate,
            state,
            log,
        };
        trainer.load(found)?;
        Ok(trainer)
    }

    fn load(&mut self, found: Option<Checkpoint>) -> Result<()> {
        let parameters = self.model.parameters();
        let zeros = || vec![0.0; parameters.elements as usize];
        let (params, m, v) = match found {
            Some(c) => (c.params, c.adam_m, c.adam_v),
            None => (self.initial()?, zeros(), zeros()),
        };
        let (ranges, factors) = parameters.groups(self.options.weight_decay);
        self.executor.write_state("params", &params)?;
        self.executor.write_state("adam_m", &m)?;
        self.executor.write_state("adam_v", &v)?;
        self.executor.write_state_words("group_ranges", &ranges)?;
        self.executor.write_state("group_factors", &factors)?;
        self.encoding.as_ref().map_or(Ok(()), |encoding| encoding.write_still(&mut self.executor))
    }

    /// Parameters before the first step: drawn from the seed, statistics from the training split.
    fn initial(&self) -> Result<Vec<f32>> {
        let (parameters, train) = (self.model.parameters(), &self.train);
        let mut flat = parameters.initial(self.options.seed);
        match &self.encoding {
            None => {
                let texts: Vec<usize> = train.data.pairs.iter().map(|p| p.text).collect();
                standardise::fit(parameters, &mut flat, "text", train.texts.rows(), &texts)?;
            }
            // Words that are learned have no statistics to begin with.
            Some(encoding) => encoding.initial(parameters, &mut flat, self.options.seed),
        }
        standardise::fit(parameters, &mut flat, "video", &train.videos, &train.data.gallery())?;
        Ok(flat)
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    fn steps_per_epoch(&self) -> usize {
        self.train.data.pairs.len().div_ceil(self.options.batch)
    }

    pub fn steps(&self) -> usize {
        self.steps_per_epoch() * self.options.epochs
    }

    /// The first step of each stage.
    fn stage_begins(&self) -> Vec<usize> {
        let steps = self.steps() as f64;
        self.model.stages().iter().map(|(share, _)| (f64::from(*share) * steps).round() as usize).collect()
    }

    /// The stage that a step belongs to.
    fn stage(&self, step: usize) -> usize {
        self.stage_begins().iter().rposition(|begin| *begin <= step).unwrap_or(0)
    }

    /// The first plan of the form that a step takes.
    fn first_plan(&self, step: usize) -> usize {
        let shut = self.gate.is_some() && !self.state.open;
        let form = self.stage(step) + if shut { self.model.stages().len() } else { 0 };
        form * plans_of_a_form(&self.options)
    }

    /// The first plan behind those of steps.
    fn plans_of_steps(&self) -> usize {
        forms(self.model.as_ref()).len() * plans_of_a_form(&self.options)
    }

    /// Opens or shuts the gate where it is time to look.
    fn watch_gate(&mut self, observe: &mut impl FnMut(Event)) -> Result<()> {
        let Some(gate) = self.gate.as_ref().filter(|_| self.state.step.is_multiple_of(gate::EVERY)) else {
            return Ok(());
        };
        let held_out = self.val.as_ref().unwrap_or(&self.train);
        let behind = if self.val.is_some() { tiles::PLANS } else { 0 };
        let plan = self.plans_of_steps() + behind;
        let (lead, open) = gate.look(&mut self.executor, plan, held_out)?;
        self.state.open = open;
        let line = Line::Gate { step: self.state.step, lead, open };
        self.log.write(&line)?;
        observe(Event::Line(&line));
        Ok(())
    }

    /// The first step of the next stage.
    fn stage_end(&self, step: usize) -> usize {
        self.stage_begins().into_iter().filter(|begin| *begin > step).min().unwrap_or(usize::MAX)
    }

    /// Trains to the end, or until `stop` becomes true: then a checkpoint is written and the summary says so.
    pub fn run(&mut self, stop: &AtomicBool, mut observe: impl FnMut(Event)) -> Result<Summary> {
        let (steps, per_epoch) = (self.steps(), self.steps_per_epoch());
        observe(Event::Start { step: self.state.step, steps });
        let mut final_loss = None;
        // A run that was stopped within a validation goes on with it.
        if self.validation_is_due() {
            self.validate(stop, &mut observe)?;
            self.save_checkpoint(&mut observe)?;
        }
        while self.state.step < steps && !stop.load(Ordering::Relaxed) {
            let epoch = self.state.step / per_epoch;
            let mut end = (epoch + 1) * per_epoch;
            if let Some(every) = Some(self.options.checkpoint_every).filter(|n| *n > 0) {
                end = end.min((self.state.step / every + 1) * every);
            }
            end = end.min(self.stage_end(self.state.step));
            while self.state.step < end && !stop.load(Ordering::Relaxed) {
                self.watch_gate(&mut observe)?;
                let look = if self.gate.is_some() { (self.state.step / gate::EVERY + 1) * gate::EVERY } else { end };
                final_loss = self.stretch(epoch, end.min(look), stop, &mut observe)?.or(final_loss);
            }
            if self.validation_is_due() {
                self.validate(stop, &mut observe)?;
            }
            self.save_checkpoint(&mut observe)?;
        }
        Ok(Summary {
            steps: self.state.step,
            final_loss,
            best_recall_at_1: self.state.best,
            parameters: self.model.parameters().count(),
            device: self.device(),
            stopped_early: self.state.step < steps || self.validation_is_due(),
            model: self.out.clone(),
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
        let (steps, per_epoch, options) = (self.steps(), self.steps_per_epoch(), &self.options);
        let (config, first_plan) = (self.model.config(), self.first_plan(self.state.step));
        let order = Random::new(options.seed, ORDER + epoch as u64).permutation(self.train.data.pairs.len());
        let (train, log, state) = (&self.train, &mut self.log, &mut self.state);
        let optimiser = optimiser(options);
        let batch = |step: usize| {
            let begin = (step - epoch * per_epoch) * options.batch;
            &order[begin..(begin + options.batch).min(order.len())]
        };
        let parts = |step: usize| Part::of_step(batch(step).len(), options.chunk).into_iter().map(move |p| (step, p));
        let mut last = None;
        // What a step hands back before its last part.
        let mut losses: Vec<(String, f32)> = vec![];
        alternate(
            &mut self.executor,
            |(_, part)| first_plan + part.plan(),
            (state.step..end).flat_map(parts),
            |(step, part), slot| {
                let (batch, chunk) = (batch(*step), part.pairs(batch(*step).len()));
                if !chunk.is_empty() {
                    train.pack(slot, batch, chunk.clone())?;
                    train.pack_views(slot, batch, chunk, config, (options.seed, *step as u64))?;
                }
                if !part.is_last() {
                    return Ok(());
                }
                let rate = options.learning_rate(*step, steps);
                slot.f32("scalars")?.copy_from_slice(&optimiser.scalars(*step, rate));
                Ok(())
            },
            |(step, part), outputs| {
                if part.has_losses() {
                    losses.clear();
                    losses.extend(outputs.scalars().map(|(name, value)| (name.to_string(), value)));
                }
                if !part.is_last() {
                    return Ok(());
                }
                let loss = losses.iter().find(|(name, _)| name == "loss").map_or(f32::NAN, |(_, value)| *value);
                let gradient_norm = outputs.scalar("gradient_norm")?;
                if !loss.is_finite() || !gradient_norm.is_finite() {
                    return Err(Error::NotFinite {
                        place: format!("step {}", step + 1),
                        what: format!("loss {loss}, gradient norm {gradient_norm}"),
                        fix: "lower train.learning_rate and resume from the last checkpoint".into(),
                    });
                }
                state.step = step + 1;
                last = Some(loss);
                let learning_rate = options.learning_rate(step, steps);
                let terms = losses.iter().filter(|(name, _)| !["loss", "gradient_norm"].contains(&name.as_str()));
                let terms = terms.cloned().collect();
                let line = Line::Step { step: step + 1, epoch: epoch + 1, loss, gradient_norm, learning_rate, terms };
                log.write(&line)?;
                observe(Event::Line(&line));
                Ok(())
            },
            stop,
        )?;
        Ok(last)
    }

    /// Whether the steps so far end an epoch whose validation is still to be made.
    fn validation_is_due(&self) -> bool {
        let (step, per_epoch) = (self.state.step, self.steps_per_epoch());
        let chosen = (step / per_epoch).is_multiple_of(self.options.validate_every) || step == self.steps();
        step > self.state.validated && step.is_multiple_of(per_epoch) && chosen
    }

    /// Retrieval on the validation split; the best model so far is what `out` holds.
    fn validate(&mut self, stop: &AtomicBool, observe: &mut impl FnMut(Event)) -> Result<()> {
        let recall = match &self.val {
            None => None,
            Some(val) => {
                let relevance = relevance(val.data)?;
                let text_items: Vec<usize> = val.data.pairs.iter().map(|p| p.text).collect();
                let gallery = val.data.gallery();
                let texts = Side { rows: val.texts.rows(), items: &text_items };
                let videos = Side { rows: &val.videos, items: &gallery };
                let first = self.plans_of_steps();
                let mut tiler = Tiler { executor: &mut self.executor, first, capacity: self.tiling };
                let found =
                    count_ranks(&mut tiler, texts, videos, relevance, CaptionMode::MinRank, Directions::Both, stop);
                match found {
                    // The checkpoint says that this validation is still to be made.
                    Err(Error::Stopped) => return Ok(()),
                    Err(e) => return Err(e),
                    Ok(counts) => Some(Retrieval::new(&counts, &Setting::new(self.executor.device()))?),
                }
            }
        };
        let recall = recall.map(|r| [r.t2v, r.v2t].map(|m| m.map_or(0.0, |m| m.recall_at_1)));
        let mean = recall.map(|[t2v, v2t]| (t2v + v2t) / 2.0);
        let epoch = self.state.step / self.steps_per_epoch();
        self.state.validated = self.state.step;
        let best = mean.is_none() || mean > self.state.best;
        if best {
            self.state.best = mean;
            let params = self.executor.read_state("params")?;
            self.save_model(&params)?;
        }
        if let Some([t2v, v2t]) = recall {
            let recall_at_1 = (t2v + v2t) / 2.0;
            let line = Line::Validation { step: self.state.step, epoch, recall_at_1, t2v, v2t, best };
            self.log.write(&line)?;
            observe(Event::Line(&line));
        }
        Ok(())
    }

    /// The model's folder; with an encoder the two go apart, and the model, whose folder says that it is whole, comes last.
    fn save_model(&self, params: &[f32]) -> Result<()> {
        let Some(encoding) = &self.encoding else {
            return folder::save(&self.out, self.model.as_ref(), params, &self.card());
        };
        encoding.save(&self.out.join("encoder"), self.model.parameters(), params)?;
        folder::save(&self.out, build(self.model.config())?.as_ref(), params, &self.card())
    }

    fn save_checkpoint(&mut self, observe: &mut impl FnMut(Event)) -> Result<()> {
        self.log.sync()?;
        let c = Checkpoint {
            state: self.state.clone(),
            params: self.executor.read_state("params")?,
            adam_m: self.executor.read_state("adam_m")?,
            adam_v: self.executor.read_state("adam_v")?,
        };
        let path = checkpoint::save(&self.out, self.model.parameters(), &c)?;
        observe(Event::Checkpoint(&path));
        Ok(())
    }

    /// The model card.
    fn card(&self) -> String {
        let config = self.model.config();
        let best = self.state.best.map_or("no validation split".into(), |r| {
            format!("mean R@1 of both directions {r:.1} % on the validation split (ties expected)")
        });
        format!(
            "# {}\n\nA text-video alignment model made by Moviola.\n\n- joint width {}, {} parameters\n- trained on {} \
             ({})\n- step {} of {}, batch {}, seed {}, {}\n- {best}\n\nUse it: `moviola eval retrieval --model . \
             --data DIR`\n",
            config.model,
            config.dim,
            self.model.parameters().count(),
            self.train.data.name,
            self.train.fingerprint(),
            self.state.step,
            self.steps(),
            self.options.batch,
            self.options.seed,
            self.executor.device(),
        )
    }
}

fn optimiser(options: &TrainOptions) -> Optimiser {
    Optimiser { max_norm: options.clip, ..Optimiser::default() }
}

/// A run that exists is not overwritten by accident.
fn refuse_existing(out: &Path, found: Result<Option<Checkpoint>>) -> Result<Option<Checkpoint>> {
    match found {
        Ok(None) => Ok(None),
        _ => Err(Error::config(
            "--out",
            format!("{} holds a training run", out.display()),
            "add --resume to go on with it, or choose another folder",
        )),
    }
}

/// Makes all plans and takes the memory for them.
fn prepare(
    model: &dyn Model,
    options: &TrainOptions,
    train: &Pairs,
    val: Option<&Pairs>,
    gate: Option<&Gate>,
    backend: Box<dyn Backend>,
) -> Result<(Executor, Capacity)> {
    let ctx = backend.ctx();
    ctx.precision.trains()?;
    let pairs = train.len();
    let mut graphs = graphs(model, options, pairs, |batch| train.capacity(batch), optimiser(options))?;
    let mut tiling = train.capacity(1);
    if let Some(val) = val {
        let texts: Vec<usize> = val.data.pairs.iter().map(|p| p.text).collect();
        tiling = tiles::capacity(val.texts.rows(), &texts, &val.videos, &val.data.gallery());
        graphs.extend(tiles::graphs(model, tiling)?.map(|(name, g)| (name.to_string(), g)));
    }
    if let Some(gate) = gate {
        graphs.push(("gate".into(), gate.graph(model, val.unwrap_or(train))?));
    }
    let graphs: Vec<_> = graphs.into_iter().map(|(name, g)| (name, fuse(&g))).collect();
    let states = StateLayout::of(graphs.iter().map(|g| &g.1))?;
    let plans = graphs.iter().map(|(name, g)| plan(name, g, &states, &ctx)).collect::<Result<Vec<_>>>()?;
    Ok((Executor::new(backend, plans, states)?, tiling))
}
