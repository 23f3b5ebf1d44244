//! `encode`: from words and videos to tokens, by an encoder of one's own.

pub mod clips;
mod finished;

use super::data::Dtype;
use super::split::{layout, layout_help};
use super::{Common, STOP, device, output, progress};
use crate::data::files::each_line;
use crate::data::shard_writer::{ShardOptions, ShardWriter};
use crate::data::{About, Dataset, Kind};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::text::TextEncoder;
use crate::error::{Error, Result};
use clap::{Args, Subcommand};
use clips::{Pictures, Videos};
use serde::Serialize;
use std::path::PathBuf;

/// Make tokens of texts, videos and pictures with an encoder.
#[derive(Args)]
pub struct Encode {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Word tokens and sentence vectors of captions.
    #[command(after_help = "\
An encoder is a folder in Hugging Face layout: config.json, model.safetensors (or its shards) and tokenizer.json, of CLIP, \
BERT, MiniLM or RoBERTa; or such a model's folder in a Hugging Face cache (models--OWNER--NAME).

Examples:
  moviola encode texts --encoder clip-vit-base-patch32 --data msrvtt   its captions
  moviola encode texts --encoder all-MiniLM-L6-v2 --lines queries.txt --out queries --dtype f32
  moviola encode texts --encoder clip-vit-base-patch32 --positions 248 --lines long.txt --out long")]
    Texts(Texts),
    /// Frame tokens of a folder of videos.
    #[command(after_help = clips::VIDEOS_HELP)]
    Videos(Videos),
    /// A token each of a folder of pictures, or one for each of their patches.
    #[command(after_help = clips::PICTURES_HELP)]
    Pictures(Pictures),
}

#[derive(Args)]
#[group(id = "source", required = true, multiple = false)]
struct Source {
    /// A data set's folder, of which all captions are encoded; see `moviola data check --help`.
    #[arg(long, value_name = "DIR", group = "source")]
    data: Option<PathBuf>,
    /// A file with a text a line; ids are the lines' numbers.
    #[arg(long, value_name = "FILE", group = "source", requires = "out")]
    lines: Option<PathBuf>,
}

#[derive(Args)]
struct Texts {
    /// Folder of the encoder.
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    #[command(flatten)]
    source: Source,
    #[arg(long, value_name = "LAYOUT", conflicts_with = "lines", help = layout_help())]
    layout: Option<String>,
    /// Where the tokens go; the data set's own texts/ when left out.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
    /// Stretch the positions of CLIP's texts from 77 to N, up to 512, for texts that are longer: 248 is Long-CLIP's. Its
    /// features are those of another encoder.
    #[arg(long, value_name = "N")]
    positions: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    encoder: String,
    device: String,
    dim: usize,
    texts: usize,
    /// Rows of words and sentences.
    rows: u64,
    bytes: u64,
    /// Texts that were longer than what the encoder takes.
    cut: usize,
}

impl Encode {
    pub fn run(&self, common: &Common) -> Result<()> {
        match &self.what {
            What::Texts(texts) => texts.run(common),
            What::Videos(videos) => videos.run(common),
            What::Pictures(pictures) => pictures.run(common),
        }
    }
}

impl Texts {
    fn run(&self, common: &Common) -> Result<()> {
        let (ids, texts): (Vec<String>, Vec<String>) = self.read()?.into_iter().unzip();
        let out = match (&self.out, &self.source.data) {
            (Some(out), _) => out.clone(),
            (None, Some(data)) => data.join("texts"),
            (None, None) => return Err(Error::config("--out", "is missing", "name the folder to write")),
        };
        let checkpoint = Checkpoint::open(&self.encoder)?.stretched(self.positions)?;
        let mut encoder = TextEncoder::of(&checkpoint, device::open(common)?)?;
        let about = About {
            kind: Some(Kind::Text),
            encoder: Some(encoder.identity().into()),
            sentence: Some(true),
            normalised: Some(false),
            ..About::default()
        };
        let options = ShardOptions { dtype: self.dtype.token(), ..ShardOptions::default() };
        let mut writer = ShardWriter::create(&out, about, encoder.dim(), options)?;
        let bar = progress::bar(common, "texts", texts.len() as u64);
        let mut cut = 0;
        let write = |i: usize, mut encoded: crate::encoders::text::Encoded| {
            cut += usize::from(encoded.cut);
            encoded.words.data.extend_from_slice(&encoded.sentence);
            bar.inc(1);
            writer.push(&ids[i], &encoded.words.data, None)
        };
        let encoded = encoder.encode(&texts, write, &STOP);
        if matches!(encoded, Err(Error::Stopped)) {
            output::note(common, "nothing was written: a folder of texts is written whole; run the same command again");
        }
        encoded?;
        let written = writer.finish()?;
        bar.finish_and_clear();
        let report = Report {
            out,
            encoder: encoder.identity().into(),
            device: encoder.device(),
            dim: encoder.dim(),
            texts: written.items,
            rows: written.rows,
            bytes: written.bytes,
            cut,
        };
        output::result(common, &report, || report.told())
    }

    /// Ids and texts.
    fn read(&self) -> Result<Vec<(String, String)>> {
        if let Some(data) = &self.source.data {
            return Dataset::captions_of(data, self.layout.as_deref().map(layout).transpose()?);
        }
        let Some(path) = &self.source.lines else { return Ok(vec![]) };
        let (mut texts, mut bad) = (vec![], None);
        each_line(path, |number, line| match std::str::from_utf8(line) {
            Ok(text) => texts.push((number.to_string(), text.to_string())),
            Err(_) => bad = bad.or(Some(number)),
        })?;
        match bad {
            Some(number) => Err(Error::format(path, format!("line {number} is not UTF-8"), "save it as UTF-8 text")),
            None if texts.is_empty() => Err(Error::format(path, "has no lines", "write a text a line")),
            None => Ok(texts),
        }
    }
}

impl Report {
    fn told(&self) -> String {
        let cut = match self.cut {
            0 => String::new(),
            n => format!("\n{n} of them were longer than the encoder takes, and cut"),
        };
        format!(
            "wrote {}: {} texts, {} rows of {}, by {} on {}{cut}",
            self.out.display(),
            self.texts,
            self.rows,
            self.dim,
            self.encoder,
            self.device
        )
    }
}
