//! What experiments on pixels share: a tower that has looked at a world without traps, and what it sees of one with them.
//!
//! As in practice encoder and model are trained apart. The encoder (a small CLIP, from random weights) sees clips whose
//! backgrounds are independent of shapes, with captions that name both: it has no reason to take one for the other. The
//! models on its features are trained where they go together, and have one.

use super::{Effort, Job};
use crate::data::Dataset;
use crate::data::dataset::Keys;
use crate::data::files::Beside;
use crate::data::picture::Picture;
use crate::data::shard_writer::{ShardOptions, ShardWriter};
use crate::data::tokens::{About, Kind};
use crate::data::worlds::rendered::{Canvas, Clip, Rendered, Set};
use crate::encoders::fresh::{self, Sizes, Tower};
use crate::encoders::pixels::Preprocess;
use crate::encoders::{image::ImageEncoder, text::TextEncoder};
use crate::error::{Error, Result};
use crate::random::Random;
use crate::train::encoder::{EncoderOptions, EncoderRun, EncoderTrainer, Pairs};
use crate::train::{Event, TrainOptions};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Random stream of the moments that the tower is shown.
const MOMENTS: u64 = 0x6d6f_6d65_6e74;

/// What the tower is, and what it learns from.
pub struct School {
    pub image: Tower,
    /// Pixels of a side of a picture, and of a patch.
    pub side: usize,
    pub patch: usize,
    /// What a caption says of a clip's picture at a second.
    pub told: fn(&Clip, f32) -> String,
    pub clips: usize,
    pub epochs: usize,
    pub batch: usize,
    pub learning_rate: f32,
}

/// Colour and shape of the object, and where it is not there the place.
pub fn object_or_place(clip: &Clip, second: f32) -> String {
    match clip.scene.object(second) {
        Some(_) => format!("a {} {}", clip.truth.colour.name(), clip.truth.shape.name()),
        None => clip.truth.background.name().to_string(),
    }
}

/// Colour and shape of the object, how large it is and where.
pub fn object_and_where(clip: &Clip, second: f32) -> String {
    let Some(object) = clip.scene.object(second).filter(|object| object.alpha > 0.3) else { return "nothing".into() };
    let (width, height) = (clip.scene.width as f32, clip.scene.height as f32);
    let third = |share: f32, names: [&'static str; 3]| names[((3.0 * share) as usize).min(2)];
    let size = match object.radius / width.min(height) {
        0.0..0.13 => "tiny",
        0.13..0.2 => "small",
        0.2..0.28 => "large",
        _ => "huge",
    };
    let (across, down) = (object.x / width, object.y / height);
    format!(
        "a {size} {} {} at the {} {}",
        clip.truth.colour.name(),
        clip.truth.shape.name(),
        third(down, ["top", "middle", "bottom"]),
        third(across, ["left", "centre", "right"])
    )
}

/// A clip each, at one moment.
struct Stills {
    captions: Vec<String>,
    squares: Vec<Vec<u8>>,
}

impl Pairs for Stills {
    fn len(&self) -> usize {
        self.captions.len()
    }
    fn caption(&self, pair: usize) -> &str {
        &self.captions[pair]
    }
    fn video(&self, pair: usize) -> u32 {
        pair as u32
    }
    fn frames(&self, _: usize) -> usize {
        1
    }
    fn squares(&self, pair: usize, _: &[usize], _: &Preprocess) -> Result<Vec<Vec<u8>>> {
        Ok(vec![self.squares[pair].clone()])
    }
}

/// A frame of a clip as pictures are kept.
///
/// # Errors
/// When it is larger than pictures are, which no world's is.
pub fn picture(canvas: Canvas) -> Result<Picture> {
    // Sides fit: the world has checked them.
    Picture::new(canvas.width as u32, canvas.height as u32, canvas.rgb)
}

/// What the tower learns from: other clips of `world`, in which places tell nothing.
fn neutral(job: &Job, world: &Rendered, school: &School) -> Rendered {
    Rendered {
        train: if job.effort == Effort::Quick { school.clips / 16 } else { school.clips },
        rho: 0.0,
        captions: 1,
        cut_share: 0.0,
        seed: world.seed ^ 0x7363_686f_6f6c,
        ..world.clone()
    }
}

/// Where a job's tower is: it depends on its school and on the captions that gave it its words, and not on `rho`.
fn tower_place(job: &Job, world: &Rendered, school: &School) -> PathBuf {
    let School { image, side, patch, told: _, clips: _, epochs, batch, learning_rate } = school;
    let words = Rendered { rho: 0.0, ..world.clone() };
    let neutral = neutral(job, world, school);
    job.shared.join(key(&format!("{image:?} {side} {patch} {epochs} {batch} {learning_rate} {neutral:?} {words:?}")))
}

/// Where a set's features are.
fn place(job: &Job, world: &Rendered, school: &School, set: Set) -> PathBuf {
    tower_place(job, world, school).join(format!("{}-{}", set.name(), key(&format!("{world:?}"))))
}

fn key(of: &str) -> String {
    Sha256::digest(of).iter().take(4).map(|b| format!("{b:02x}")).collect()
}

/// Makes the tower of a job and its features of these sets, where they are not there.
///
/// # Errors
/// As [`tower`] and [`features`].
pub fn prepare(job: &Job, world: &Rendered, school: &School, frames: usize, sets: &[Set]) -> Result<()> {
    let tower = tower(job, &tower_place(job, world, school), world, school, |_| {})?;
    for set in sets {
        let to = place(job, world, school, *set);
        if !to.exists() {
            features(job, &tower, world, *set, frames, &to, |_, _| {})?;
        }
    }
    Ok(())
}

/// Opens what [`prepare`] made of a set.
///
/// # Errors
/// As [`open`].
pub fn seen(job: &Job, world: &Rendered, school: &School, set: Set) -> Result<(Dataset, Vec<Clip>)> {
    open(&place(job, world, school, set), world, set)
}

/// The folder of a tower that was trained on `school.clips` clips of `world`, which has no trap; made if it is not there.
/// `observe` is told how training goes.
///
/// # Errors
/// [`Error::Stopped`] when the job is stopped; whatever the world, training and the disk refuse.
pub fn tower(
    job: &Job,
    place: &Path,
    world: &Rendered,
    school: &School,
    observe: impl FnMut(Event),
) -> Result<PathBuf> {
    let to = place.join("clip");
    if to.exists() {
        return Ok(to);
    }
    let neutral = neutral(job, world, school);
    let clips = neutral.clips(Set::Train)?;
    let words = world.clips(Set::Train)?;
    let first = place.join("first");
    let moments = Random::new(job.seed, MOMENTS);
    let moment = |i: usize, clip: &Clip| moments.below(i as u64, clip.truth.frames as u64) as f32 / clip.truth.fps;
    let captions: Vec<String> =
        clips.iter().enumerate().map(|(i, clip)| (school.told)(clip, moment(i, clip))).collect();
    if !first.exists() {
        let sizes = Sizes { image: school.image, side: school.side, patch: school.patch, ..Sizes::default() };
        fresh::write(
            &first,
            &sizes,
            captions.iter().chain(words.iter().flat_map(|c| &c.captions)).map(String::as_str),
            job.seed,
        )?;
    }
    let checkpoint = crate::encoders::checkpoint::Checkpoint::open(&first)?;
    let preprocess = Preprocess::of(&checkpoint, school.side as u32)?;
    let squares = clips.par_iter().enumerate();
    let squares = squares.map(|(i, clip)| preprocess.square(&picture(clip.frame(moment(i, clip)))?));
    let stills = Stills { captions, squares: squares.collect::<Result<_>>()? };
    let options = TrainOptions {
        epochs: if job.effort == Effort::Quick { 1 } else { school.epochs },
        batch: school.batch,
        learning_rate: school.learning_rate,
        seed: job.seed,
        ..TrainOptions::default()
    };
    let tuning = EncoderOptions { frames: 1, ..EncoderOptions::default() };
    let training = place.join("training");
    let run = EncoderRun {
        encoder: &first,
        out: &training,
        options: &options,
        tuning: &tuning,
        pairs: &stills,
        resume: true,
    };
    let mut trainer = EncoderTrainer::new(&run, (job.open)()?)?;
    let summary = trainer.run(job.stop, observe)?;
    if summary.stopped_early {
        return Err(Error::Stopped);
    }
    std::fs::rename(&training, &to).map_err(Error::io("rename", &training))?;
    Ok(to)
}

/// The frame of a clip that is its `row` of `rows`: the middle of one of as many equal parts.
fn frame(clip: &Clip, rows: usize, row: usize) -> usize {
    (2 * row + 1) * clip.truth.frames / (2 * rows)
}

/// Whether a row shows the object.
pub fn shows(clip: &Clip, rows: usize, row: usize) -> bool {
    clip.truth.boxes.get(frame(clip, rows, row)).is_some_and(Option::is_some)
}

/// Seconds of the frames of a clip that are its `rows` rows.
pub fn moments(clip: &Clip, rows: usize) -> Vec<f32> {
    (0..rows).map(|row| frame(clip, rows, row) as f32 / clip.truth.fps).collect()
}

/// Writes what the tower makes of a set's clips, `frames` a clip, and of their captions, as the new data set `to`.
/// `told` is told how many clips of all are done.
///
/// # Errors
/// [`Error::Stopped`] when the job is stopped; whatever the world, the tower and the disk refuse.
pub fn features(
    job: &Job,
    tower: &Path,
    world: &Rendered,
    set: Set,
    frames: usize,
    to: &Path,
    mut told: impl FnMut(usize, usize),
) -> Result<()> {
    let (beside, clips) = (Beside::new(to)?, world.clips(set)?);
    let place = beside.partial();
    std::fs::create_dir_all(place).map_err(Error::io("create", place))?;
    let mut images = ImageEncoder::open(tower, (job.open)()?)?;
    let about = |kind, identity: &str| About { kind: Some(kind), encoder: Some(identity.into()), ..About::default() };
    let dim = images.dim();
    let mut shards = ShardWriter::create(
        &place.join("videos"),
        about(Kind::Video, images.identity()),
        dim,
        ShardOptions::default(),
    )?;
    let mut done = 0;
    // A few at a time: pictures on all cores, then vectors.
    for some in clips.chunks(64) {
        let preprocess = images.preprocess().clone();
        let squares = some.par_iter().map(|clip| {
            let all = clip.scene.frames(moments(clip, frames).into_iter());
            all.map(|canvas| preprocess.square(&picture(canvas)?)).collect::<Result<Vec<_>>>()
        });
        let squares: Vec<Vec<Vec<u8>>> = squares.collect::<Result<_>>()?;
        let mut rows = vec![];
        let keep = |_: usize, vector: &[f32]| {
            rows.extend_from_slice(vector);
            Ok(())
        };
        images.encode_squares(squares.into_iter().flatten().map(Ok), keep, job.stop)?;
        for (clip, rows) in some.iter().zip(rows.chunks_exact(frames * dim)) {
            shards.push(&clip.id, rows, Some(&moments(clip, frames)))?;
        }
        done += some.len();
        told(done, clips.len());
    }
    shards.finish()?;
    drop(images);
    let mut texts = TextEncoder::open(tower, (job.open)()?)?;
    let about = About { sentence: Some(true), ..about(Kind::Text, texts.identity()) };
    let mut shards = ShardWriter::create(&place.join("texts"), about, texts.dim(), ShardOptions::default())?;
    let lines: Vec<(String, &Clip, &String)> = (clips.iter())
        .flat_map(|clip| clip.captions.iter().enumerate().map(move |(c, caption)| (clip.text_id(c), clip, caption)))
        .collect();
    let captions: Vec<&String> = lines.iter().map(|(_, _, caption)| *caption).collect();
    let write = |i: usize, encoded: crate::encoders::text::Encoded| {
        let mut rows = encoded.words.data;
        rows.extend(encoded.sentence);
        shards.push(&lines[i].0, &rows, None).map(|_| ())
    };
    texts.encode(&captions, write, job.stop)?;
    shards.finish()?;
    world.write_lists(place, &clips.iter().collect::<Vec<_>>())?;
    beside.keep()
}

/// Opens what [`features`] wrote of `world`: the data set, captions of one story no negatives of each other, and its
/// clips in the order of its videos.
///
/// # Errors
/// When the folder cannot be read, or is of another world.
pub fn open(place: &Path, world: &Rendered, set: Set) -> Result<(Dataset, Vec<Clip>)> {
    let (data, clips) = (Dataset::open(place, None, set.split())?, world.clips(set)?);
    if !clips.iter().map(|clip| &clip.id).eq(data.videos.ids()) {
        return Err(Error::format(place, "has other clips than the world", "remove it, so that it is made anew"));
    }
    let mut known = HashMap::new();
    let mut story = |video: usize| {
        let truth = &clips[video].truth;
        let actions: Vec<_> = truth.events.iter().map(|e| e.action).collect();
        let next = known.len() as u32;
        *known.entry((truth.shape, truth.colour, actions)).or_insert(next)
    };
    let caption = data.pairs.iter().map(|p| story(p.video)).collect();
    let video = data.pairs.iter().map(|p| p.video as u32).collect();
    Ok((data.with_keys(Keys { video, caption })?, clips))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::CLAIMS;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_tower_is_that_of_its_world_and_school() {
        let variants = CLAIMS[0].variants(Effort::Full);
        let (stop, dir) = (AtomicBool::new(false), Path::new("shared"));
        let open = || Err(Error::Stopped);
        let job = Job {
            variant: &variants[0],
            seed: 1,
            generator: crate::data::worlds::Generator::Main,
            effort: Effort::Full,
            scratch: dir,
            shared: dir,
            stop: &stop,
            open: &open,
        };
        let image = Tower { dim: 8, layers: 1, heads: 1, hidden: 8 };
        let school = |epochs| School {
            image,
            side: 8,
            patch: 4,
            told: object_or_place,
            clips: 9,
            epochs,
            batch: 3,
            learning_rate: 0.1,
        };
        let world = Rendered::default();
        let usual = tower_place(&job, &world, &school(1));
        let other = |world: Rendered| tower_place(&job, &world, &school(1)) != usual;
        assert!(other(Rendered { delta: 0.5, ..world.clone() }) && other(Rendered { absent: 0.5, ..world.clone() }));
        // Other captions have other words.
        assert!(other(Rendered { captions: 3, ..world.clone() }) && other(Rendered { train: 7, ..world.clone() }));
        assert!(tower_place(&job, &world, &school(2)) != usual);
        // Variants that differ in the trap share the tower and not what it sees.
        let free = Rendered { rho: 0.0, ..world.clone() };
        assert!(!other(free.clone()));
        let seen = |world: &Rendered| place(&job, world, &school(1), Set::Train);
        assert!(seen(&free) != seen(&world) && seen(&world).starts_with(&usual));
    }
}
