//! The demo on rendered clips: an encoder is trained on clips without the trap, three models on what it sees of clips
//! with it, and a page shows whom they find.

mod hits;
mod page;

use super::{CAUSAL, Demo, PLAIN, Trained, parts, quiet, shown};
use crate::claims::pixels::{self, School};
use crate::claims::rendered_background::{FRAMES, RenderedBackgroundClaim, SCHOOL, probes, rendered};
use crate::claims::{Claim, Effort, Job, Measures};
use crate::cli::{Common, STOP, device, output, progress};
use crate::data::Dataset;
use crate::data::worlds::Generator;
use crate::data::worlds::rendered::{Clip, Rendered, Set};
use crate::encoders::fresh::Tower;
use crate::error::Result;
use crate::train::Event;
use crate::train::log::{Line, Log};
use hits::{Asked, Found};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The tests, as the experiment calls them and as people do.
const TESTS: [(Set, &str, &str); 3] =
    [(Set::Val, "id", "in distribution"), (Set::Test, "any", "any place"), (Set::Adv, "adv", "twin's place")];

#[derive(Serialize)]
struct Outcome {
    report: PathBuf,
    seconds: f64,
    world: Rendered,
    encoder: Encoder,
    models: Vec<Trained>,
    adversarial: Found,
    queries: Vec<Asked>,
}

/// Who looks at the frames.
#[derive(Serialize)]
struct Encoder {
    folder: PathBuf,
    clips: usize,
    epochs: usize,
    training_seconds: f64,
    /// What a linear probe reads from its vectors, in percent.
    probes: Measures,
    #[serde(skip)]
    log: Vec<Line>,
}

/// A test as the encoder sees it.
struct Seen {
    data: Dataset,
    /// In the order of the data set's videos.
    clips: Vec<Clip>,
    gallery: Vec<usize>,
}

impl Seen {
    fn new((data, clips): (Dataset, Vec<Clip>)) -> Seen {
        let gallery = data.gallery();
        Seen { data, clips, gallery }
    }

    /// The clip at a place of the gallery.
    fn clip(&self, place: usize) -> &Clip {
        &self.clips[self.gallery[place]]
    }

    /// The clip that a query asks for.
    fn asked(&self, query: usize) -> &Clip {
        &self.clips[self.data.pairs[query].video]
    }

    /// The twin of the clip that a query asks for, by its place in the gallery.
    fn twin(&self, query: usize) -> Option<usize> {
        let twin = self.asked(query).truth.twin.as_ref()?;
        (0..self.gallery.len()).find(|place| self.clip(*place).id == twin.video_id)
    }
}

/// The world and who learns to see it: the experiment's, with a school that is shorter.
fn sizes(demo: &Demo, job: &Job) -> Result<(Rendered, School)> {
    let world = rendered(job)?;
    if demo.quick {
        let image = Tower { dim: 32, layers: 1, heads: 2, hidden: 64 };
        let school = School { image, side: 24, clips: 64, batch: 32, ..SCHOOL };
        return Ok((Rendered { train: 64, val: 16, test: 16, seconds: (2.0, 2.5), ..world }, school));
    }
    Ok((world, School { clips: 12_000, epochs: 16, ..SCHOOL }))
}

pub fn run(demo: &Demo, common: &Common) -> Result<()> {
    let begun = Instant::now();
    let effort = if demo.quick { Effort::Quick } else { Effort::Full };
    let variants = RenderedBackgroundClaim.variants(effort);
    let variants = shown(&variants)?;
    let open = || device::open(&quiet(common));
    let job = Job {
        variant: variants[0],
        seed: demo.seed,
        generator: Generator::Main,
        effort,
        scratch: &demo.out,
        shared: &demo.out,
        stop: &STOP,
        open: &open,
    };
    let (world, school) = sizes(demo, &job)?;
    let mut encoder = learn(demo, common, &job, &world, &school)?;
    let place = demo.out.join("world");
    look(common, &job, (&encoder.folder, &place), &world)?;
    let seen = |set: Set| pixels::open(&place.join(set.name()), &world, set);
    let (train, examples) = seen(Set::Train)?;
    let [id, any, adv] = TESTS.map(|(set, ..)| seen(set).map(Seen::new));
    let tests = [id?, any?, adv?];
    let mut models = vec![];
    for variant in variants {
        // The model of the last step: what is kept is not chosen.
        let mut trained = demo.train(common, variant, &train, None)?;
        for ((set, name, called), test) in TESTS.iter().zip(&tests) {
            let best = trained.test(common, &demo.out.join(trained.model), (name, called), &test.data)?;
            if let Some(tested) = trained.tests.last_mut() {
                tested.right_colour_first = Some(hits::right_colour(test, &best));
            }
            if *set == Set::Adv {
                trained.keep(best, (0..test.data.pairs.len()).map(|query| test.twin(query)));
            }
        }
        models.push(trained);
    }
    let [_, any, adv] = &tests;
    encoder.probes = probes(&any.data, &any.clips)?;
    let adversarial = Found::new(&models, adv);
    let queries = hits::asked(common, &demo.out, &models, adv)?;
    let report = demo.out.join("report.html");
    let mut outcome = Outcome { report, seconds: 0.0, world, encoder, models, adversarial, queries };
    outcome.seconds = begun.elapsed().as_secs_f64();
    page::page(&outcome, &demo.out, &examples, adv)?.write(&outcome.report)?;
    output::result(common, &outcome, || told(&outcome))
}

/// Trains the encoder on clips without the trap.
fn learn(demo: &Demo, common: &Common, job: &Job, world: &Rendered, school: &School) -> Result<Encoder> {
    let (begun, place) = (Instant::now(), demo.out.join("encoder"));
    let epochs = if demo.quick { 1 } else { school.epochs };
    output::note(
        common,
        format!("encoder: a small CLIP, new, learns from a frame each of {} clips without the trap", school.clips),
    );
    let bar = progress::bar(common, "encoder", (school.clips.div_ceil(school.batch) * epochs) as u64);
    bar.set_message("drawing clips");
    let folder = pixels::tower(job, &place, world, school, |event| match event {
        Event::Start { step, steps } => {
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.reset_eta();
        }
        Event::Line(Line::Step { step, loss, .. }) => {
            bar.set_position(*step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        }
        Event::Line(_) | Event::Checkpoint(_) | Event::Warning(_) => {}
    })?;
    bar.finish_and_clear();
    let log = Log::read(&folder.join("log.jsonl"))?;
    let training_seconds = begun.elapsed().as_secs_f64();
    Ok(Encoder { folder, clips: school.clips, epochs, training_seconds, probes: Measures::new(), log })
}

/// Writes what the encoder sees of all sets of the world, each into a folder of its name.
fn look(common: &Common, job: &Job, (encoder, place): (&Path, &Path), world: &Rendered) -> Result<()> {
    output::note(common, format!("\nworld: {FRAMES} frames a clip, as the encoder sees them"));
    let bar = progress::bar(common, "encoding", (world.train + world.val + 2 * world.test) as u64);
    let mut before = 0;
    for set in Set::ALL {
        let mut all = 0;
        let told = |done: usize, of: usize| {
            bar.set_position((before + done) as u64);
            all = of;
        };
        pixels::features(job, encoder, world, set, FRAMES, &place.join(set.name()), told)?;
        before += all;
    }
    bar.finish_and_clear();
    Ok(())
}

const HEAD: [&str; 10] = [
    "model",
    "in distribution\nt2v",
    "\nv2t",
    "\ncolour",
    "any place\nt2v",
    "\nv2t",
    "\ncolour",
    "twin's place\nt2v",
    "\nv2t",
    "\ncolour",
];

/// The table's rows: of each test R@1 in both directions, and how often the first video has the right colour.
fn rows(models: &[Trained]) -> Vec<Vec<String>> {
    let row = |m: &Trained| {
        let test = |t: &super::Tested| {
            parts::recalls(&t.retrieval).into_iter().chain([t.right_colour_first.unwrap_or(f64::NAN)])
        };
        let numbers = m.tests.iter().flat_map(test).map(|x| format!("{x:.1}"));
        [m.model.to_string()].into_iter().chain(numbers).collect()
    };
    models.iter().map(row).collect()
}

fn told(outcome: &Outcome) -> String {
    let Found { queries, only_place, better, worse } = outcome.adversarial;
    format!(
        "\n{}\nR@1, and queries whose first video has the right colour, in %; {}\n\
         of {queries} queries of the last test {PLAIN} finds a clip that has the place alone first for {}, {CAUSAL} for {}\n\
         {CAUSAL} has the right colour first and {PLAIN} another for {better}, the other way round for {worse}\n\n\
         done in {:.0} s; look at {}",
        parts::table(&HEAD, rows(&outcome.models)),
        parts::protocol(&outcome.models),
        only_place[0],
        only_place[1],
        outcome.seconds,
        outcome.report.display()
    )
}
