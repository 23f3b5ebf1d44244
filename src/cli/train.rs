//! `train`: from a data set to a model folder.

mod encoder;

use super::settings::RunConfig;
use super::split::DataArgs;
use super::{Common, STOP, device, output, progress};
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::eval::file;
use crate::models::Config;
use crate::models::encoded::Encoding;
use crate::picture::Curves;
use crate::train::log::{Line, Log};
use crate::train::{Event, Run, Summary, TrainOptions, Trainer, checkpoint};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Train a model on token files.
#[derive(Args)]
#[command(after_help = "\
Examples:
  moviola train --data world --model token-interaction --out run
  moviola train --data msrvtt --config wti.toml --set train.epochs=10 --out run
  moviola train --data world --model cba --set routing.mode=topk-token --set routing.experts=8 --out run
  moviola train --data world --model cba --ablate counterfactual,temporal --out run
  moviola train --data world --set train.batch=1024 --set train.chunk=128 --out run
  moviola train --data world --out run --resume
  moviola train --encoder all-MiniLM-L6-v2 --tune-encoder lora:8 --data msrvtt --model cba --out run
  moviola train --encoder clip-vit-base-patch32 --tune-encoder last:2 --data films --set train.learning_rate=1e-5 --out clip
  moviola train --encoder new --data films --out clip

train.chunk is how many pairs of a batch are held in memory at once; 0 is all of them. Every
other pair of the batch is still a negative, and each chunk is computed twice.

With --encoder and --model a text encoder is trained along with the model, on captions and the features of videos; \
it is written to OUT/encoder. Without --model both towers of CLIP are trained, on captions and pictures: \
frames/VIDEO/ in --data holds a picture a frame, or frames/VIDEO.png (or .jpg) is one, or clips/VIDEO.mp4 is the \
video; OUT is a checkpoint again.
--encoder new begins with a small CLIP of random weights and the words of the captions. An encoder that has \
learned something takes a train.learning_rate of 1e-6 to 1e-4.

A configuration file has tables; every key can be left out:
  [model]                         [train]
  model = \"cba\"                   epochs = 5
  dim = 512                       batch = 128
  max_words = 32                  chunk = 0
  max_frames = 64                 learning_rate = 0.001
  temperature = 0.05              warmup = 0.1
  relevance_temperature = 0.1     weight_decay = 0.01
                                  clip = 1
                                  seed = 1
                                  validate_every = 1      epochs
                                  checkpoint_every = 0    steps; 0: every epoch
  [encoder]
  tune = \"all\"                    none, lora:R, last:N or all; goes behind --tune-encoder
  alpha = 16                      of LoRA, whose matrices count alpha / R times
  frames = 12                     of pictures, most of a video
  recompute = false               layers again on the way back: less memory, a quarter more work
  positions = 0                   of CLIP's texts: 248 as Long-CLIP has; 0: its own
and, for cba (docs/cba.md says what each does, its default and its range):
  [trunk]           layers heads expansion positions motion standardise mixing pooled
  [routing]         mode = \"off|dense|soft|topk-query|topk-token\"
                    experts slots rank sharing router balance z decorrelation
                    centre timed noise query_noise pace
  [counterfactual]  uniform swap exchange gate margin hard_negatives foreground
  [temporal]        consistency augment order drop jitter slowest fastest
  [quantisation]    int8 from")]
pub struct Train {
    #[command(flatten)]
    data: DataArgs,
    /// Folder for the model, its log and its checkpoints.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of an encoder in Hugging Face layout that is trained, or new.
    #[arg(long, value_name = "DIR")]
    encoder: Option<PathBuf>,
    /// What of the encoder is trained: none, lora:R (low-rank matrices of rank R beside queries and values), last:N (its
    /// last N layers) or all.
    #[arg(long, value_name = "WHAT", requires = "encoder")]
    tune_encoder: Option<String>,
    /// mean-pool, token-interaction or cba.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Modules of cba to leave out: routing, counterfactual, temporal.
    #[arg(long, value_name = "MODULES", value_delimiter = ',')]
    ablate: Vec<String>,
    /// TOML file with the tables below.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, e.g. --set train.epochs=10; goes before the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Go on from the newest checkpoint in --out, with the settings it was begun with.
    #[arg(long)]
    resume: bool,
}

impl Train {
    pub fn run(&self, common: &Common) -> Result<()> {
        if self.encoder.is_some() && !self.is_with_a_model()? {
            return encoder::train_pictures(self, common);
        }
        let encoding = self.encoding()?;
        let open = |split| if encoding.is_some() { self.data.open_captions(split) } else { self.data.open(split) };
        let train = open(Split::Train)?;
        let val = if self.data.has(Split::Val)? { Some(open(Split::Val)?) } else { None };
        let text_dim = encoding.as_ref().map(|e| e.dim());
        let (model, options) = self.settings(common, &train, text_dim)?;
        let run = Run {
            out: &self.out,
            config: &model,
            options: &options,
            train: &train,
            val: val.as_ref(),
            resume: self.resume,
            foreground: None,
        };
        let encoded = encoding.is_some();
        let summary = train_model(common, &run, encoding)?;
        let (out, data) = (self.out.display(), self.data.data.display());
        let next = match summary.stopped_early {
            true => format!("moviola train --data {data} --out {out}{} --resume", self.encoder_flags()),
            false if encoded && !self.data.data.join("texts").exists() => {
                format!("moviola encode texts --encoder {out}/encoder --data {data}")
            }
            false => format!("moviola eval retrieval --model {out} --data {data}"),
        };
        output::result(common, &summary, || told(&summary, &next))
    }

    /// What is trained: what was given, or where nothing was and a run goes on, what it was begun with.
    fn settings(&self, common: &Common, train: &Dataset, encoded: Option<usize>) -> Result<(Config, TrainOptions)> {
        let given = self.model.is_some() || self.config.is_some();
        let given = given || !self.ablate.is_empty() || !self.settings.is_empty();
        if self.resume {
            match checkpoint::settings(&self.out)? {
                Some(begun) if !given => return Ok(begun),
                Some(_) => {}
                None => output::note(common, format!("{} holds no run yet: a new one begins", self.out.display())),
            }
        }
        let mut config = RunConfig::read(self.config.as_deref(), &self.settings)?;
        if let Some(name) = &self.model {
            config.model.insert("model".into(), toml::Value::String(name.clone()));
        }
        let model = match encoded {
            None => config.without_encoder()?.model(train, &self.ablate)?,
            Some(dim) => config.sized(&[("text_dim", dim), ("video_dim", train.videos.dim())], &self.ablate)?,
        };
        Ok((model, config.train))
    }
}

fn told(s: &Summary, next: &str) -> String {
    let loss = s.final_loss.map_or(String::new(), |l| format!(", loss {l:.4}"));
    let best = s.best_recall_at_1.map_or(String::new(), |r| format!(", best validation R@1 {r:.1} (mean of t2v, v2t)"));
    let how = if s.stopped_early { "stopped after" } else { "finished" };
    format!("{how} {} steps{loss}{best}\nmodel: {}\nnext:  {next}", s.steps, s.model.display())
}

/// Trains with a progress bar and draws the curves; also what `demo` does.
pub fn train_model(common: &Common, run: &Run, encoding: Option<Arc<Encoding>>) -> Result<Summary> {
    let backend = device::open(common)?;
    let mut trainer = Trainer::with_encoder(run, encoding, backend, |event| {
        if let Event::Warning(e) = event {
            output::note(common, format!("passing over a damaged checkpoint: {e}"));
        }
    })?;
    let bar = progress::bar(common, &run.config.model, trainer.steps() as u64);
    let mut was_open = None;
    let summary = trainer.run(&STOP, |event| match event {
        Event::Start { step, .. } => bar.set_position(step as u64),
        Event::Line(Line::Step { step, loss, .. }) => {
            bar.set_position(*step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        }
        Event::Line(Line::Validation { epoch, recall_at_1, best, .. }) => {
            let mark = if *best { ", best so far" } else { "" };
            bar.suspend(|| output::note(common, format!("epoch {epoch}: validation R@1 {recall_at_1:.1}{mark}")));
        }
        Event::Line(Line::Gate { step, lead, open }) => {
            if was_open != Some(*open) {
                let (now, then) = if *open { ("open", "are learned from") } else { ("shut", "are left out") };
                let text = format!("step {step}: the gate is {now} (lead {lead:.2}), swapped backgrounds {then}");
                bar.suspend(|| output::note(common, text));
            }
            was_open = Some(*open);
        }
        Event::Checkpoint(_) | Event::Warning(_) => {}
    })?;
    bar.finish_and_clear();
    let lines = Log::read(&run.out.join("log.jsonl"))?;
    file::replace(&run.out.join("curves.svg"), loss_curve(&lines).as_bytes())?;
    if let Some(svg) = validation_curve(&lines) {
        file::replace(&run.out.join("validation.svg"), svg.as_bytes())?;
    }
    Ok(summary)
}

/// Loss over steps.
pub fn loss_curve(lines: &[Line]) -> String {
    let losses = lines.iter().filter_map(|l| match l {
        Line::Step { step, loss, .. } => Some((*step as f64, f64::from(*loss))),
        Line::Gate { .. } | Line::Validation { .. } => None,
    });
    Curves::new("Training", "step", "loss (nats)").series("training loss", losses.collect()).svg()
}

/// R@1 of both directions over steps; none where nothing was validated.
pub fn validation_curve(lines: &[Line]) -> Option<String> {
    let (mut t2v_points, mut v2t_points) = (vec![], vec![]);
    for line in lines {
        if let Line::Validation { step, t2v, v2t, .. } = line {
            t2v_points.push((*step as f64, *t2v));
            v2t_points.push((*step as f64, *v2t));
        }
    }
    let curves = Curves::new("Validation", "step", "R@1 (%)");
    (!t2v_points.is_empty())
        .then(|| curves.series("text to video", t2v_points).series("video to text", v2t_points).svg())
}
