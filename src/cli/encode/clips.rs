//! `encode videos` and `encode pictures`: a folder of files becomes native shards, file by file, each kept as soon as it
//! is done. Of a folder that is finished, the same command makes what is new, has changed or failed.

use super::finished::Finished;
use crate::cli::data::Dtype;
use crate::cli::{Common, STOP, device, output, progress};
use crate::data::ffmpeg::Ffmpeg;
use crate::data::files::Beside;
use crate::data::index::Index;
use crate::data::journal::Journal;
use crate::data::media::{Media, MediaKind, Origin, Sampling, find};
use crate::data::shard::MANIFEST;
use crate::data::shard_writer::{SHARD_BYTES, ShardOptions, ShardWriter, Written};
use crate::data::{About, Kind};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::clips::{Clip, Decoder, encode};
use crate::encoders::image::{ImageEncoder, Wanted};
use crate::error::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

pub const VIDEOS_HELP: &str = "\
Videos are decoded by the programs ffmpeg and ffprobe, which have to be installed. A row is what is on the screen at its \
second. Each video is kept when it is done: after Ctrl-C, or a power cut, the same command goes on. One that cannot be \
decoded is named at the end, with an exit status that is not 0; all others are written. Once it is repaired, or others \
came, changed or went, the same command brings the folder up to date and encodes these alone.

Examples:
  moviola encode videos clips --encoder clip-vit-base-patch32 --out features
  moviola encode videos raw --encoder clip-vit-base-patch32 --frames 12 --out msrvtt/videos";

pub const PICTURES_HELP: &str = "\
With --patches a picture is a row for each of its patches, row by row from the top left, in the space of texts and images.

Examples:
  moviola encode pictures photos --encoder clip-vit-base-patch32 --out features
  moviola encode pictures photos --encoder clip-vit-base-patch32 --patches --out patches        49 rows a picture";

/// What is made of a folder.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// A row a frame.
    Frames,
    /// The same as an index; those who ask it stretch the text tower to so many positions.
    Index { positions: Option<usize> },
    /// A row a patch.
    Patches,
}

/// The flags of whatever decodes videos.
#[derive(Args)]
pub struct FromVideos {
    /// Folder with the videos; folders within it are searched, too.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Folder of the encoder in Hugging Face layout, which has an image tower: a CLIP.
    #[arg(long, value_name = "DIR")]
    pub encoder: PathBuf,
    /// Frames a second.
    #[arg(long, value_name = "F", default_value_t = 2.0, conflicts_with = "frames")]
    fps: f32,
    /// So many frames of each video, spread evenly, instead of so many a second.
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// The new folder, or one that the same command made before.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How rows are stored.
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
}

#[derive(Args)]
pub struct Videos {
    #[command(flatten)]
    from: FromVideos,
}

#[derive(Args)]
pub struct Pictures {
    /// Folder with the pictures, JPEG or PNG; folders within it are searched, too.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Folder of the encoder in Hugging Face layout, which has an image tower: a CLIP.
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// A row for each patch of a picture, instead of one for all of it.
    #[arg(long)]
    patches: bool,
    /// The new folder, or one that the same command made before.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How rows are stored.
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
}

/// What came of a folder.
#[derive(Serialize)]
pub struct Report {
    out: PathBuf,
    /// Files that were found.
    #[serde(skip)]
    files: usize,
    pub encoder: String,
    device: String,
    dim: usize,
    /// Files that are in it, and those of them that an earlier run had done.
    items: usize,
    earlier: usize,
    /// Rows of all of them.
    rows: u64,
    bytes: u64,
    /// Whether the folder is another than before.
    changed: bool,
    /// Files that were in it, and are no longer there.
    gone: Vec<PathBuf>,
    /// Of this run.
    seconds: f64,
    frames_per_second: f64,
    /// Seconds for which no frame was decoded that could have been encoded.
    waited: f64,
    /// What could not be encoded.
    failed: Vec<Failed>,
    /// What was encoded although the decoder complained.
    doubtful: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    file: PathBuf,
    what: String,
}

impl Videos {
    pub fn run(&self, common: &Common) -> Result<()> {
        let report = self.from.encode(common, Made::Frames)?;
        report.tell(common, "")
    }
}

impl FromVideos {
    /// Encodes the folder and puts the shards in their place.
    pub fn encode(&self, common: &Common, made: Made) -> Result<Report> {
        let sampling = self.frames.map_or(Sampling::Fps(self.fps), Sampling::Frames).check()?;
        let ffmpeg = Ffmpeg::find()?;
        let decoder = format!("ffmpeg {}", ffmpeg.version());
        let job = Job {
            folder: &self.folder,
            encoder: &self.encoder,
            out: &self.out,
            dtype: self.dtype,
            decoder: Decoder::Videos(ffmpeg, sampling),
            made,
        };
        job.run(common, Some((sampling, decoder)))
    }
}

impl Pictures {
    pub fn run(&self, common: &Common) -> Result<()> {
        let Pictures { folder, encoder, out, dtype, patches } = self;
        let made = if *patches { Made::Patches } else { Made::Frames };
        let job = Job { folder, encoder, out, dtype: *dtype, decoder: Decoder::Pictures, made };
        job.run(common, None)?.tell(common, "")
    }
}

struct Job<'a> {
    folder: &'a Path,
    encoder: &'a Path,
    out: &'a Path,
    dtype: Dtype,
    decoder: Decoder,
    made: Made,
}

impl Job<'_> {
    fn run(&self, common: &Common, sampled: Option<(Sampling, String)>) -> Result<Report> {
        let kind = if sampled.is_some() { MediaKind::Video } else { MediaKind::Picture };
        let folder = self.folder.canonicalize().map_err(Error::io("open", self.folder))?;
        let found = find(&folder, kind)?;
        let files = found.len();
        if self.out.is_file() {
            return Err(Error::format(self.out, "is a file", "name a folder that does not exist yet"));
        }
        if !self.out.join(MANIFEST).exists() {
            // Before the work, not after it.
            drop(Beside::new(self.out)?);
        }
        let (positions, wanted) = match self.made {
            Made::Frames => (None, Wanted::Image),
            Made::Index { positions } => (positions, Wanted::Image),
            Made::Patches => (None, Wanted::Patches),
        };
        let checkpoint = Checkpoint::open(self.encoder)?.stretched(positions)?;
        let mut encoder = ImageEncoder::of(&checkpoint, wanted, device::open(common)?)?;
        let rows = encoder.rows();
        let how = match &sampled {
            Some((sampling, decoder)) => format!("{sampling}, decoded by {decoder}"),
            None => "pictures".into(),
        };
        let pictures = sampled.is_none().then(|| folder.clone());
        let origin = sampled.map(|(sampling, decoder)| Origin { folder: folder.clone(), sampling, decoder });
        let about = About {
            kind: Some(Kind::Video),
            encoder: Some(encoder.identity().into()),
            normalised: Some(false),
            origin,
            pictures,
            ..About::default()
        };
        let settings = format!("{how}, in {}, by {}", self.dtype.token().name(), encoder.identity());
        let mut journal = Journal::open(self.out, encoder.dim(), &settings)?;
        let (mut media, mut stamps, mut lost, mut failed) = (vec![], vec![], vec![], vec![]);
        for m in found {
            match stamp(&folder.join(&m.file)) {
                Ok(stamp) => {
                    media.push(m);
                    stamps.push(stamp);
                }
                Err(e) => {
                    output::note(common, format!("left out: {e}"));
                    failed.push(Failed { file: m.file.clone(), what: e.to_string() });
                    lost.push(m);
                }
            }
        }
        let index = matches!(self.made, Made::Index { .. });
        // Behind the journal's lock: whoever changes the folder holds it.
        let old = match Finished::open(self.out, index, (&about, self.dtype.token()), (&media, &stamps), &lost) {
            Err(e) if journal.is_empty() => {
                journal.remove()?;
                return Err(e);
            }
            old => old?,
        };
        let kept = |i: usize| old.as_ref().is_some_and(|old| old.keeps(i));
        let left: Vec<usize> =
            (0..media.len()).filter(|i| !kept(*i) && !journal.has(&media[*i].id, &stamps[*i])).collect();
        let earlier = media.len() - left.len();
        let mut done = earlier;
        if earlier > 0 {
            output::note(common, format!("{earlier} of {files} were done before"));
        }
        let begun = Instant::now();
        let (mut doubtful, mut frames) = (vec![], 0);
        let bar =
            progress::bar(common, if kind == MediaKind::Video { "videos" } else { "pictures" }, left.len() as u64);
        let each = |number: usize, clip: Result<Clip>| {
            let (m, stamp) = (&media[left[number]], &stamps[left[number]]);
            bar.inc(1);
            let named = |what: String| Failed { file: m.file.clone(), what };
            match clip {
                Ok(clip) if clip.rows.iter().any(|x| !x.is_finite() || x.abs() > self.dtype.largest()) => {
                    failed.push(named("its vectors hold what the shards cannot: try --dtype f32".into()));
                    Ok(())
                }
                Ok(clip) => {
                    done += 1;
                    frames += clip.seconds.len() / rows;
                    bar.set_message(format!("{:.1} frames/s", frames as f64 / begun.elapsed().as_secs_f64()));
                    doubtful.extend(clip.complaints.into_iter().next().map(named));
                    let seconds = if kind == MediaKind::Video { clip.seconds } else { vec![] };
                    journal.push(&m.id, stamp, &clip.rows, seconds)
                }
                Err(e) => {
                    bar.suspend(|| output::note(common, format!("left out: {e}")));
                    failed.push(named(e.to_string()));
                    Ok(())
                }
            }
        };
        let todo: Vec<Media> = left.iter().map(|i| media[*i].clone()).collect();
        let ran = encode(&mut encoder, &self.decoder, &folder, &todo, each, &STOP);
        let seconds = begun.elapsed().as_secs_f64();
        bar.finish_and_clear();
        if matches!(ran, Err(Error::Stopped)) {
            output::note(common, format!("{done} of {files} are done and kept; run the same command again to go on"));
        }
        let waited = ran?.as_secs_f64();
        if done == 0 {
            journal.remove()?;
            let what = format!("none of {files} files could be encoded");
            let first = failed.first().map_or(String::new(), |f| f.what.clone());
            return Err(Error::format(&folder, what, format!("the first: {first}")));
        }
        let gone = old.as_ref().map_or(vec![], Finished::gone);
        // A journal also knows files that were taken away while the work was broken off.
        let new = (0..media.len()).any(|i| !kept(i) && journal.has(&media[i].id, &stamps[i]));
        let anew = new || old.as_ref().is_none_or(Finished::loses);
        let current = match self.made {
            Made::Index { positions } => Index::is_current(self.out, self.encoder, positions)?,
            _ => true,
        };
        let written = match old {
            Some(old) if !anew => {
                let written = old.unchanged();
                if let Made::Index { positions } = self.made {
                    Index::create(self.out, self.encoder, positions)?;
                }
                written
            }
            old => self.write(&mut journal, about, (&media, &stamps), (old, encoder.dim()))?,
        };
        journal.remove()?;
        Ok(Report {
            out: self.out.into(),
            files,
            encoder: encoder.identity().into(),
            device: encoder.device(),
            dim: encoder.dim(),
            items: written.items,
            earlier,
            rows: written.rows,
            bytes: written.bytes,
            changed: anew || !current,
            gone,
            seconds,
            frames_per_second: frames as f64 / seconds.max(1e-9),
            waited,
            failed,
            doubtful,
        })
    }

    /// What is kept of the finished folder, and the rest from the journal, to shards, in the order of ids.
    fn write(
        &self,
        journal: &mut Journal,
        about: About,
        (media, stamps): (&[Media], &[String]),
        (old, dim): (Option<Finished>, usize),
    ) -> Result<Written> {
        let timed = about.origin.is_some();
        let dtype = self.dtype.token();
        let renewed = old.is_some();
        let new: Vec<bool> = (0..media.len()).map(|i| !old.as_ref().is_some_and(|old| old.keeps(i))).collect();
        let mut writer = match old {
            Some(old) => old.renew(about, SHARD_BYTES)?,
            None => ShardWriter::create(self.out, about, dim, ShardOptions { dtype, ..ShardOptions::default() })?,
        };
        let mut files = media.iter().zip(stamps);
        let items = media.iter().zip(stamps).zip(new).filter(|(_, new)| *new);
        journal.read(items.map(|((m, stamp), _)| (m.id.as_str(), stamp.as_str())), |line, rows| {
            // Both go in the same order, and the files of those that failed or are kept are passed over.
            let made_of =
                files.find(|(m, _)| m.id == line.id).and_then(|(m, s)| Some((m.file.to_str()?, Some(s.as_str()))));
            writer.push_file((&line.id, made_of), rows, timed.then_some(&line.timestamps))
        })?;
        match self.made {
            Made::Index { positions } if renewed => {
                // Until its manifest is replaced the folder is the old one.
                let written = writer.finish()?;
                Index::create(self.out, self.encoder, positions)?;
                Ok(written)
            }
            Made::Index { positions } => {
                Index::create(writer.partial(), self.encoder, positions)?;
                writer.finish()
            }
            Made::Frames | Made::Patches => writer.finish(),
        }
    }
}

/// What tells a file that changed.
fn stamp(path: &Path) -> Result<String> {
    let of = std::fs::metadata(path).map_err(Error::io("look at", path))?;
    let changed = of.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |t| t.as_nanos());
    Ok(format!("{} bytes, {changed}", of.len()))
}

impl Report {
    /// Prints it; an error where something could not be encoded.
    ///
    /// # Errors
    /// Names how many files failed, and the first of them.
    pub fn tell(&self, common: &Common, next: &str) -> Result<()> {
        output::result(common, self, || self.told() + next)?;
        let Some(first) = self.failed.first() else { return Ok(()) };
        let what = format!("{} of {} files could not be encoded", self.failed.len(), self.files);
        let fix = format!(
            "repair or remove them and run the same command again, which makes these alone; the first is {}",
            first.file.display()
        );
        Err(Error::format(&self.out, what, fix))
    }

    fn told(&self) -> String {
        let wrote = if self.changed { "wrote" } else { "nothing to change in" };
        let mut lines = vec![format!(
            "{wrote} {}: {} items, {} rows of {}, by {} on {}",
            self.out.display(),
            self.items,
            self.rows,
            self.dim,
            self.encoder,
            self.device
        )];
        let earlier = if self.earlier > 0 { format!("; {} were done before", self.earlier) } else { String::new() };
        let idle = 100.0 * self.waited / self.seconds.max(1e-9);
        lines.push(format!(
            "{:.1} s, {:.1} frames/s, {idle:.0} % of the time waiting for frames{earlier}",
            self.seconds, self.frames_per_second
        ));
        lines.extend(self.gone.iter().map(|file| format!("no longer there: {}", file.display())));
        for (title, list) in [("left out", &self.failed), ("doubtful", &self.doubtful)] {
            lines.extend(list.iter().map(|f| format!("{title}: {}: {}", f.file.display(), f.what)));
        }
        lines.join("\n")
    }
}
