//! `train --encoder`: both towers of CLIP on pictures, or a text encoder along with a model.

use super::super::settings::RunConfig;
use super::super::{Common, STOP, device, output, progress};
use super::{Train, loss_curve, told};
use crate::data::Split;
use crate::data::pictures::{CLIPS, Captioned, PictureSet};
use crate::encoders::fresh::{self, Sizes};
use crate::encoders::tuning::Tuning;
use crate::error::{Error, Result};
use crate::eval::file;
use crate::models::encoded::Encoding;
use crate::train::encoder::{Clips, EncoderOptions, EncoderRun, EncoderTrainer, Pairs, Pictures, settings};
use crate::train::log::{Line, Log};
use crate::train::{Event, TrainOptions, checkpoint};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Frames of videos as the tower sees them, in the run's folder while it trains.
const SQUARES: &str = "squares.u8";
/// What stands for an encoder that is yet to be made.
const NEW: &str = "new";
/// A higher rate than this makes an encoder forget what it has learned.
const HIGH: f32 = 1e-4;

impl Train {
    /// The text encoder that is trained along with a model.
    pub(super) fn encoding(&self) -> Result<Option<Arc<Encoding>>> {
        let Some(encoder) = &self.encoder else { return Ok(None) };
        if encoder == Path::new(NEW) {
            let fix = "leave --model out to train it on pictures, or name a checkpoint";
            return Err(Error::config("--encoder", "new has no words that a model could learn from", fix));
        }
        let options = self.tuning(RunConfig::read(self.config.as_deref(), &self.settings)?.encoder)?;
        let checkpoint = options.open(encoder)?;
        let encoding = Encoding::of(checkpoint, options.tune, options.alpha)?.recomputing(options.recompute);
        Ok(Some(Arc::new(encoding)))
    }

    /// Whether there is a model to train: one that was asked for, or that a run goes on with.
    pub(super) fn is_with_a_model(&self) -> Result<bool> {
        let asked = self.model.is_some();
        Ok(asked || self.resume && settings(&self.out)?.is_none() && checkpoint::settings(&self.out)?.is_some())
    }

    /// What a run with an encoder is called with again.
    pub(super) fn encoder_flags(&self) -> String {
        let flag = |name: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" {name} {value}"));
        let encoder = self.encoder.as_ref().map(|e| e.display().to_string());
        let config = self.config.as_ref().map(|c| c.display().to_string()).filter(|_| self.encoder.is_some());
        let kept = self.settings.iter().filter(|s| self.model.is_some() && s.starts_with("encoder."));
        let kept: String = kept.map(|s| format!(" --set {s}")).collect();
        let config = flag("--config", config.filter(|_| self.model.is_some()));
        flag("--encoder", encoder) + &flag("--tune-encoder", self.tune_encoder.clone()) + &config + &kept
    }

    fn tuning(&self, options: EncoderOptions) -> Result<EncoderOptions> {
        let tune = self.tune_encoder.as_deref().map(str::parse::<Tuning>).transpose()?;
        Ok(EncoderOptions { tune: tune.unwrap_or(options.tune), ..options })
    }

    /// What was given, or where nothing was and a run goes on, what it was begun with.
    fn encoder_settings(&self, common: &Common) -> Result<(TrainOptions, EncoderOptions)> {
        let given = self.config.is_some() || !self.settings.is_empty();
        if self.resume {
            match settings(&self.out)? {
                Some((options, encoder)) if !given => return Ok((options, self.tuning(encoder)?)),
                Some(_) => {}
                None => output::note(common, format!("{} holds no run yet: a new one begins", self.out.display())),
            }
        }
        let config = RunConfig::read(self.config.as_deref(), &self.settings)?;
        if !config.model.is_empty() || !self.ablate.is_empty() {
            let fix = "add --model to train one along, or take out what is the model's";
            return Err(Error::config("--encoder", "is trained alone here, without a model", fix));
        }
        Ok((config.train, self.tuning(config.encoder)?))
    }

    /// The checkpoint's folder; a new one is made within the run's.
    fn checkpoint(&self, captions: &[(String, usize)], seed: u64) -> Result<PathBuf> {
        let named = self.encoder.clone().unwrap_or_default();
        if named != Path::new(NEW) {
            return Ok(named);
        }
        let made = self.out.join(NEW);
        if made.exists() && !self.resume {
            let fix = "add --resume to go on with its run, name it as --encoder, or remove it";
            return Err(Error::format(made, "is there already", fix));
        }
        if !made.exists() {
            fresh::write(&made, &Sizes::default(), captions.iter().map(|(caption, _)| caption.as_str()), seed)?;
        }
        Ok(made)
    }
}

/// The file of squares, which a run that goes on makes again.
struct Squares(PathBuf);

impl Drop for Squares {
    fn drop(&mut self) {
        // It may never have been there.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Trains both towers on pictures or videos.
pub(super) fn train_pictures(train: &Train, common: &Common) -> Result<()> {
    let (options, tuning) = train.encoder_settings(common)?;
    let data = &train.data.data;
    options.check()?;
    tuning.check()?;
    let (layout, out) = (train.data.layout()?, train.out.as_path());
    let squares = Squares(out.join(SQUARES));
    if !train.resume && out.join("model.safetensors").exists() {
        let fix = "add --resume to go on with a run, or choose another folder";
        return Err(Error::config("--out", format!("{} holds a checkpoint", out.display()), fix));
    }
    let (encoder, pairs): (PathBuf, Box<dyn Pairs>) = if PictureSet::is_there(data) {
        let set = PictureSet::open(data, layout, Split::Train)?;
        (train.checkpoint(&set.pairs, options.seed)?, Box::new(Pictures(set)))
    } else if data.join(CLIPS).is_dir() {
        let captions = Captioned::open(data, layout, Split::Train)?;
        let encoder = train.checkpoint(&captions.pairs, options.seed)?;
        let bar = progress::bar(common, "decoding", captions.videos.len() as u64);
        let (place, told) = (squares.0.clone(), |done: usize, _: usize| bar.set_position(done as u64));
        let clips = Clips::decode((data, captions), &encoder, tuning.frames, &place, told, &STOP)?;
        bar.finish_and_clear();
        (encoder, Box::new(clips))
    } else {
        let fix = "put videos or pictures there (docs/encoders.md), or add --model to train on features of videos";
        return Err(Error::format(data, format!("has neither frames/ nor {CLIPS}/"), fix));
    };
    if options.learning_rate > HIGH && !encoder.starts_with(out) && !matches!(tuning.tune, Tuning::Lora(_)) {
        let rate = options.learning_rate;
        output::note(
            common,
            format!("train.learning_rate is {rate}: an encoder that has learned something may forget it"),
        );
    }
    let run =
        EncoderRun { encoder: &encoder, out, options: &options, tuning: &tuning, pairs: &*pairs, resume: train.resume };
    let mut trainer = EncoderTrainer::new(&run, device::open(common)?)?;
    let bar = progress::bar(common, "encoder", trainer.steps() as u64);
    let summary = trainer.run(&STOP, |event| match event {
        Event::Start { step, .. } => bar.set_position(step as u64),
        Event::Line(Line::Step { step, loss, .. }) => {
            bar.set_position(*step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        }
        Event::Line(_) | Event::Checkpoint(_) | Event::Warning(_) => {}
    })?;
    bar.finish_and_clear();
    drop(trainer);
    drop(pairs);
    drop(squares);
    file::replace(&out.join("curves.svg"), loss_curve(&Log::read(&out.join("log.jsonl"))?).as_bytes())?;
    let (shown, data) = (out.display(), data.display());
    let next = match summary.stopped_early {
        true => format!("moviola train --data {data} --out {shown}{} --resume", train.encoder_flags()),
        false => format!("moviola encode texts --encoder {shown} --data {data}"),
    };
    output::result(common, &summary, || told(&summary, &next))
}
