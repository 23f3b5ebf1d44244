//! Runs the jobs of a claim: some at once, each cached under what it depends on, so that nothing is done twice.

use super::bars::{Judged, Table, judge};
use super::{Claim, Effort, Job, Measures, Sweep, Variant};
use crate::data::files::{read_capped, write_whole};
use crate::data::worlds::Generator;
use crate::engine::backend::Backend;
use crate::error::{Error, Result};
use crate::random::Random;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Changes a variant before it is run.
pub type Change<'a> = dyn Fn(&mut Variant) -> Result<()> + Sync + 'a;

/// What a person asks for.
#[derive(Copy, Clone)]
pub struct Request<'a> {
    pub seeds: usize,
    /// Fresh seeds come from a fresh base.
    pub seed_base: u64,
    pub generator: Generator,
    pub effort: Effort,
    /// Variants by name; all when empty.
    pub only: &'a [String],
    /// The claim's sweeps instead of its variants.
    pub sweep: bool,
    /// What is changed about every variant, and how that reads; nothing is judged then.
    pub change: Option<&'a Change<'a>>,
    pub settings: &'a [String],
    /// Where results are kept.
    pub cache: &'a Path,
    /// What computes, for the record, and what of it numbers depend on.
    pub device: &'a str,
    pub arithmetic: &'a str,
    /// Jobs at once.
    pub jobs: usize,
}

/// How a claim came out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub claim: String,
    pub says: String,
    pub generator: Generator,
    pub quick: bool,
    /// What was changed about every variant.
    pub settings: Vec<String>,
    pub seeds: Vec<u64>,
    pub seed_base: u64,
    pub device: String,
    pub table: Table,
    pub sweeps: Vec<Swept>,
    /// Empty where not all variants were run as they are, with full effort and on two seeds or more.
    pub bars: Vec<Judged>,
    /// Seconds that the jobs took which were not in the cache, added up.
    pub seconds: f64,
}

impl Outcome {
    pub fn holds(&self) -> bool {
        self.bars.iter().all(|b| b.holds != Some(false))
    }
}

/// A sweep and the variants of the table that it is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    pub of: String,
    pub over: String,
    /// Values and the names of their variants.
    pub points: Vec<(f64, String)>,
}

/// A measured job on disk.
#[derive(Serialize, Deserialize)]
struct Kept {
    format: String,
    /// All that its numbers depend on; another text means that it has to be measured again.
    depends_on: String,
    measures: Measures,
    device: String,
    seconds: f64,
}

const FORMAT: &str = "moviola-claim 1";
const LIMIT: u64 = 1 << 20;

/// Seed `i` of a base.
pub fn seed(base: u64, i: usize) -> u64 {
    // Below 2⁵³, so that JSON readers keep it.
    Random::new(base, 0x636c_6169_6d73).bits(i as u64) >> 11
}

/// How devices are opened.
#[derive(Copy, Clone)]
pub struct Open<'a> {
    /// One that has the machine to itself.
    pub alone: &'a (dyn Fn() -> Result<Box<dyn Backend>> + Sync),
    /// One of those that `jobs` jobs compute on.
    pub beside: &'a (dyn Fn() -> Result<Box<dyn Backend>> + Sync),
}

struct Task<'a> {
    variant: &'a Variant,
    seed: u64,
    file: PathBuf,
    /// Of what jobs on the seed share.
    shared: PathBuf,
    depends_on: String,
}

/// Measures what is not in the cache yet, and judges.
///
/// # Errors
/// The first error of a job; [`Error::Stopped`] when `stop` becomes true. What was measured stays in the cache.
pub fn run(
    claim: &dyn Claim,
    request: &Request,
    open: Open,
    progress: &(dyn Fn(usize, usize, &str) + Sync),
    stop: &AtomicBool,
) -> Result<Outcome> {
    let mut variants = claim.variants(request.effort);
    // Before the sweeps are made of them: a value of a sweep stands above a setting.
    if let Some(change) = request.change {
        variants.iter_mut().try_for_each(change)?;
    }
    let mut sweeps = vec![];
    if request.sweep {
        let all = claim.sweeps(&variants);
        if all.is_empty() {
            let what = format!("{} has no sweeps: its variants are its points", claim.name());
            return Err(Error::config("--sweep", what, "leave it out"));
        }
        let names = |s: &Sweep| s.points.iter().map(|(value, v)| (*value, v.name.clone())).collect();
        sweeps.extend(all.iter().map(|s| Swept { of: s.of.clone(), over: s.over.into(), points: names(s) }));
        variants = all.into_iter().flat_map(|s| s.points).map(|(_, variant)| variant).collect();
    }
    if let Some(unknown) = request.only.iter().find(|name| !variants.iter().any(|v| v.name == **name)) {
        let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
        let fix = format!("use some of {}", names.join(", "));
        return Err(Error::config("--only", format!("there is no variant {unknown:?}"), fix));
    }
    let program = program()?;
    let chosen = |v: &&Variant| request.only.is_empty() || request.only.contains(&v.name);
    let seeds: Vec<u64> = (0..request.seeds).map(|i| seed(request.seed_base, i)).collect();
    let tasks: Vec<Task> = seeds
        .iter()
        .flat_map(|seed| variants.iter().filter(chosen).map(|variant| task(claim, request, variant, *seed, &program)))
        .collect();
    let (next, done, fresh) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(0.0));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    for task in tasks.iter().filter(|task| kept(task).is_none()) {
        progress(0, tasks.len(), "what all share");
        claim.prepare(&job(request, task, Path::new(""), open.alone, stop))?;
    }
    let worker = || {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) || lock(&failed).is_some() {
                return;
            }
            if kept(task).is_none() {
                progress(done.load(Ordering::Relaxed), tasks.len(), &task.variant.name);
                match measure(claim, request, task, open.beside, stop) {
                    Ok(seconds) => *lock(&fresh) += seconds,
                    Err(e) => {
                        lock(&failed).get_or_insert(e);
                        return;
                    }
                }
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, tasks.len(), &task.variant.name);
        }
    };
    std::thread::scope(|scope| {
        let jobs = if claim.takes_times() { 1 } else { request.jobs };
        (0..jobs.clamp(1, tasks.len().max(1))).for_each(|_| {
            scope.spawn(worker);
        });
    });
    if let Some(e) = lock(&failed).take() {
        return Err(e);
    }
    let mut table = Table::default();
    let mut device = String::new();
    for task in &tasks {
        let Some(kept) = kept(task) else { return Err(Error::Stopped) };
        device = kept.device;
        table.variants.entry(task.variant.name.clone()).or_default().push(kept.measures);
    }
    let complete = request.only.is_empty() && !request.sweep && request.change.is_none();
    let complete = complete && request.effort == Effort::Full && request.seeds > 1;
    let bars = if complete { claim.bars().iter().map(|b| judge(b, &table)).collect() } else { vec![] };
    let seconds = *lock(&fresh);
    Ok(Outcome {
        claim: claim.name().into(),
        says: claim.says().into(),
        generator: request.generator,
        quick: request.effort == Effort::Quick,
        settings: request.settings.to_vec(),
        seeds,
        seed_base: request.seed_base,
        device,
        table,
        sweeps,
        bars,
        seconds,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A worker that panicked ends the scope with its panic anyway.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A checksum of this program: numbers of another one are measured again.
fn program() -> Result<String> {
    let path = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(checksum(&bytes, 8))
}

/// The first bytes of a checksum, in hexadecimal.
fn checksum(bytes: &[u8], length: usize) -> String {
    Sha256::digest(bytes).iter().take(length).map(|b| format!("{b:02x}")).collect()
}

fn task<'a>(claim: &dyn Claim, request: &Request, variant: &'a Variant, seed: u64, program: &str) -> Task<'a> {
    let effort = if request.effort == Effort::Quick { "quick" } else { "full" };
    let generator = match request.generator {
        Generator::Main => "main",
        Generator::HeldOut => "held-out",
    };
    let name = format!("{}-{generator}-{effort}-{}-{seed}", claim.name(), variant.name);
    let Variant { name: _, about: _, config, options, mask, world, shuffled } = variant;
    let depends_on = format!(
        "{program} {} {} {seed} {effort} {:?} {config:?} {options:?} {mask:?} {world:?} {shuffled}",
        request.arithmetic,
        claim.name(),
        request.generator
    );
    // Part of the name, so that another setting, program or device does not take the place of what was measured.
    let file = request.cache.join(format!("{name}-{}.json", checksum(depends_on.as_bytes(), 4)));
    let shared = format!("{program} {} {generator} {effort}", request.arithmetic);
    let shared = request.cache.join(format!("{}-{seed}-{}", claim.name(), checksum(shared.as_bytes(), 4)));
    Task { variant, seed, file, shared, depends_on }
}

/// What the cache holds of a task, if it is still true.
fn kept(task: &Task) -> Option<Kept> {
    let bytes = read_capped(&task.file, LIMIT).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    (kept.format == FORMAT && kept.depends_on == task.depends_on).then_some(kept)
}

fn job<'a>(
    request: &Request,
    task: &'a Task,
    scratch: &'a Path,
    open: &'a (dyn Fn() -> Result<Box<dyn Backend>> + Sync),
    stop: &'a AtomicBool,
) -> Job<'a> {
    let Task { variant, seed, shared, .. } = task;
    let (generator, effort) = (request.generator, request.effort);
    Job { variant, seed: *seed, generator, effort, scratch, shared, stop, open }
}

fn measure(
    claim: &dyn Claim,
    request: &Request,
    task: &Task,
    open: &(dyn Fn() -> Result<Box<dyn Backend>> + Sync),
    stop: &AtomicBool,
) -> Result<f64> {
    let begun = std::time::Instant::now();
    // Two programs may share the cache.
    let scratch = task.file.with_extension(format!("{}.partial", std::process::id()));
    let remove = || match std::fs::remove_dir_all(&scratch) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &scratch)(e)),
        _ => Ok(()),
    };
    remove()?;
    std::fs::create_dir_all(&scratch).map_err(Error::io("create", &scratch))?;
    let (variant, seed) = (task.variant, task.seed);
    let measures = claim.measure(&job(request, task, &scratch, open, stop))?;
    if let Some((name, value)) = measures.iter().find(|(_, value)| !value.is_finite()) {
        return Err(Error::NotFinite {
            place: format!("{}, variant {}, seed {seed}", claim.name(), variant.name),
            what: format!("{name} {value}"),
            fix: "take milder settings, or leave this variant out with --only".into(),
        });
    }
    let seconds = begun.elapsed().as_secs_f64();
    let kept = Kept {
        format: FORMAT.into(),
        depends_on: task.depends_on.clone(),
        measures,
        device: request.device.into(),
        seconds,
    };
    let text = serde_json::to_string_pretty(&kept).map_err(|e| Error::config("claims", e.to_string(), "report it"))?;
    write_whole(&task.file, text.as_bytes())?;
    remove()?;
    Ok(seconds)
}
