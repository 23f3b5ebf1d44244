//! `data`: look at features, check them, convert them, make some.

use super::{Common, STOP, output, progress};
use crate::data::generated::{Lengths, MsrvttOptions, make_msrvtt};
use crate::data::sink::OutputFormat;
use crate::data::worlds;
use crate::data::worlds::rendered::{Mp4Writer, Rendered, Written};
use crate::data::{ConvertOptions, Inspection, Kind, Report, Severity, TokenDtype, check, convert, inspect};
use crate::error::{Error, Result, bytes};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Look at token files, check them, convert them, make some.
#[derive(Args)]
pub struct Data {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything that is wrong with a folder, in one pass; fails if anything is.
    #[command(after_help = "\
A data set is a folder:
  videos/          token files of videos: .npy or .npz a video, .safetensors, or native shards
  texts/           token files of texts, the same
  captions.jsonl   {\"text_id\", \"video_id\", \"caption\", \"split\"} a line, or the files of MSR-VTT,
                   MSVD, VATEX, ActivityNet Captions, DiDeMo or LSMDC as they are published (docs/layouts.md)

Example:
  moviola data check msrvtt")]
    Check { path: PathBuf },
    /// What a file or folder is: format, count, width, lengths, provenance.
    #[command(after_help = "Example:\n  moviola data inspect world/videos")]
    Inspect { path: PathBuf },
    /// Convert features into native shards; .h5 and .pt first by tools/convert.py.
    #[command(
        after_help = "Example:\n  moviola data convert features/ shards/ --encoder openai/clip-vit-base-patch32 --fps 1"
    )]
    Convert(Convert),
    /// Make a generated data set with ground truth.
    #[command(after_help = "\
Examples:
  moviola data world --out world --train 1024 --seed 7
  moviola data world --name spurious-background --out s1 --set beta=4 --set rho_train=0.9
  moviola data world --name temporal-order --generator held-out --out s3
  moviola data world --name rendered --out clips --set width=160 --set rho=1    videos, by ffmpeg")]
    World(World),
    /// Make token files for the real MSR-VTT 1k-A lists, from the words of their captions.
    #[command(after_help = "Example:\n  moviola data msrvtt --lists lists/ --out msrvtt --format npy --dtype f32")]
    Msrvtt(Msrvtt),
}

/// How tokens are stored.
#[derive(Copy, Clone, ValueEnum)]
pub(super) enum Dtype {
    F16,
    F32,
}

impl Dtype {
    pub(super) fn token(self) -> TokenDtype {
        match self {
            Dtype::F16 => TokenDtype::F16,
            Dtype::F32 => TokenDtype::F32,
        }
    }

    /// The largest value that it holds.
    pub(super) fn largest(self) -> f32 {
        match self {
            Dtype::F16 => f32::from(half::f16::MAX),
            Dtype::F32 => f32::MAX,
        }
    }
}

#[derive(Copy, Clone, ValueEnum)]
enum KindArg {
    Video,
    Text,
}

#[derive(Copy, Clone, ValueEnum)]
enum FormatArg {
    Npy,
    Safetensors,
    Native,
}

#[derive(Args)]
struct Convert {
    from: PathBuf,
    to: PathBuf,
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
    /// What the tokens describe.
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// The encoder that made the features, e.g. openai/clip-vit-base-patch32.
    #[arg(long)]
    encoder: Option<String>,
    /// Frame tokens a second.
    #[arg(long)]
    fps: Option<f32>,
    /// The last row of each text is its sentence vector.
    #[arg(long)]
    sentence: bool,
    /// Only so many items.
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Args)]
struct World {
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// simple to try things out, or a benchmark that can show a claim to be wrong.
    #[arg(long, default_value = "simple", value_parser = worlds::World::NAMES)]
    name: String,
    /// The law of a benchmark: held-out is for the end, nothing is tuned on it.
    #[arg(long, value_parser = ["main", "held-out"])]
    generator: Option<String>,
    #[arg(long)]
    seed: Option<u64>,
    /// Videos to train on.
    #[arg(long)]
    train: Option<usize>,
    #[arg(long)]
    val: Option<usize>,
    /// Videos of the test.
    #[arg(long)]
    test: Option<usize>,
    /// Width of a token; rendered has pixels, by --set width=… and height=….
    #[arg(long)]
    dim: Option<usize>,
    /// Length of the noise on a frame; not of rendered.
    #[arg(long)]
    noise: Option<f32>,
    /// Any other parameter, as in the world.json it writes.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct Msrvtt {
    /// Folder with MSRVTT_JSFUSION_test.csv and MSRVTT_train.9k.csv.
    #[arg(long, value_name = "DIR")]
    lists: PathBuf,
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[arg(long, value_enum, default_value = "native")]
    format: FormatArg,
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
    /// 12 frames a video instead of 6 to 24.
    #[arg(long)]
    fixed: bool,
    #[arg(long, default_value_t = 512)]
    dim: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Generated captions of a training video.
    #[arg(long, default_value_t = 5)]
    captions: usize,
    /// Only the first so many training and test videos.
    #[arg(long)]
    limit: Option<usize>,
}

impl Data {
    pub fn run(&self, common: &Common) -> Result<()> {
        match &self.what {
            What::Check { path } => {
                let report = check(path);
                output::result(common, &report, || checked(&report))?;
                if report.is_usable() {
                    return Ok(());
                }
                let what = format!("{} problems make this data unusable", report.summary.errors);
                Err(Error::format(path, what, "mend them and check again"))
            }
            What::Inspect { path } => {
                let found = inspect(path)?;
                output::result(common, &found, || inspected(&found))
            }
            What::Convert(c) => c.run(common),
            What::World(w) => w.run(common),
            What::Msrvtt(m) => m.run(common),
        }
    }
}

impl Convert {
    fn run(&self, common: &Common) -> Result<()> {
        let options = ConvertOptions {
            dtype: self.dtype.token(),
            kind: self.kind.map(|k| match k {
                KindArg::Video => Kind::Video,
                KindArg::Text => Kind::Text,
            }),
            encoder: self.encoder.clone(),
            fps: self.fps,
            sentence: self.sentence.then_some(true),
            limit: self.limit,
            ..ConvertOptions::default()
        };
        let bar = progress::bar(common, "convert", 0);
        let written = convert(&self.from, &self.to, &options, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            !STOP.load(Ordering::Relaxed)
        })?;
        bar.finish_and_clear();
        output::result(common, &written, || format!("wrote {}", self.to.display()))
    }
}

impl World {
    fn run(&self, common: &Common) -> Result<()> {
        let world = worlds::World::with(&self.name, self.parameters()?)?;
        if let worlds::World::Rendered(world) = &world {
            return self.render(world, common);
        }
        world.write(&self.out)?;
        let next = format!("moviola train --data {} --out run", self.out.display());
        output::result(common, &world, || format!("wrote {}\nnext: {next}", self.out.display()))
    }

    fn render(&self, world: &Rendered, common: &Common) -> Result<()> {
        let bar = progress::bar(common, "clips", 0);
        let told = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let written = Mp4Writer::find().and_then(|ffmpeg| world.write(&self.out, &ffmpeg, &told, &STOP));
        bar.finish_and_clear();
        if matches!(written, Err(Error::Stopped)) {
            output::note(common, "nothing was written: a world is written whole; run the same command again");
        }
        let written = written?;
        output::result(common, &written, || rendered(&written))
    }

    /// What differs from the world's defaults.
    fn parameters(&self) -> Result<Map<String, Value>> {
        let mut parameters = Map::new();
        // The test of a benchmark is a gallery.
        let test = if ["simple", "rendered"].contains(&self.name.as_str()) { "test" } else { "gallery" };
        let numbers = [("train", self.train), ("val", self.val), (test, self.test), ("dim", self.dim)];
        let numbers = numbers.map(|(key, value)| (key, value.map(Value::from)));
        let others = [
            ("seed", self.seed.map(Value::from)),
            ("noise", self.noise.map(Value::from)),
            ("generator", self.generator.clone().map(Value::from)),
        ];
        for (key, value) in numbers.into_iter().chain(others) {
            if let Some(value) = value {
                parameters.insert(key.into(), value);
            }
        }
        for setting in &self.set {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(Error::config("--set", format!("{setting:?} has no ="), "write --set KEY=VALUE"));
            };
            // What is no JSON is a word.
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            parameters.insert(key.trim().into(), value);
        }
        Ok(parameters)
    }
}

impl Msrvtt {
    fn run(&self, common: &Common) -> Result<()> {
        let options = MsrvttOptions {
            dtype: self.dtype.token(),
            lengths: if self.fixed { Lengths::Fixed } else { Lengths::Ragged },
            format: match self.format {
                FormatArg::Npy => OutputFormat::Npy,
                FormatArg::Safetensors => OutputFormat::Safetensors,
                FormatArg::Native => OutputFormat::Native,
            },
            dim: self.dim,
            seed: self.seed,
            captions_per_video: self.captions,
            limit: self.limit,
            ..MsrvttOptions::default()
        };
        output::note(common, "making token files; a minute for all of MSR-VTT");
        make_msrvtt(&self.lists, &self.out, &options)?;
        output::result(common, &options, || format!("wrote {}", self.out.display()))
    }
}

fn rendered(w: &Written) -> String {
    let mut lines = vec![
        format!(
            "wrote {}: {} clips to train on, {} and {} to validate and test",
            w.out.display(),
            w.train,
            w.val,
            w.test
        ),
        format!("  tests/adv: {} clips before another shape's favourite background", w.adv),
        format!("  {:.0} s of video by {}, {}", w.seconds, w.encoder, bytes(w.bytes)),
        format!("look at {}; its rows:", w.preview.display()),
    ];
    lines.extend(w.shown.iter().map(|(id, caption)| format!("  {id:<14} {caption}")));
    lines.join("\n")
}

fn checked(r: &Report) -> String {
    let mut lines: Vec<String> = r
        .problems
        .iter()
        .map(|p| {
            let mark = match p.severity {
                Severity::Error => "✗",
                Severity::Warning => "!",
                Severity::Info => "·",
            };
            let id = if p.id.is_empty() { String::new() } else { format!(" {}:", p.id) };
            format!("{mark} {}:{id} {}; {}", p.place, p.what, p.fix)
        })
        .collect();
    lines.push(format!("{}: {} errors, {} warnings", r.path.display(), r.summary.errors, r.summary.warnings));
    lines.join("\n")
}

fn inspected(i: &Inspection) -> String {
    let mut lines = vec![match i.layout {
        Some(layout) => format!("{}: data set, layout {}", i.path.display(), layout.name()),
        None => format!("{}: token files", i.path.display()),
    }];
    for s in &i.splits {
        lines.push(format!("  {:<6} {} pairs", s.split.name(), s.pairs));
    }
    for s in &i.sources {
        let p = &s.provenance;
        lines.push(format!("  {}: {} items, {} wide", p.path.display(), s.count, s.dim));
        lines.push(format!("    rows {} to {}, median {}", s.rows.min, s.rows.max, s.rows.median));
        let unit = if s.unit_rows { ", all of length 1" } else { "" };
        lines.push(format!("    mean length of a row {:.3}{unit}", s.norm_mean));
        lines.push(format!("    encoder {}", p.about.encoder.as_deref().unwrap_or("not stated")));
        lines.push(format!("    first ids: {}", s.first_ids.join(", ")));
    }
    lines.join("\n")
}
