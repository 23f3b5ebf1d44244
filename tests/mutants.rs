//! Breaks the CUDA kernels one instruction at a time and sees that the emulator or the references notice: every barrier,
//! every asynchronous wait, and at least one bound check of each kernel, taken out of the PTX that ships.
#![cfg(all(feature = "cuda", target_os = "linux"))]

mod emulation;

use emulation::in_emulation_with;
use moviola::engine::backend::cuda::Cuda;
use moviola::engine::check::{self, Way};
use moviola::engine::op::{Class, KernelDef, OPS, Op, Precision, Ptx, Sample};
use moviola::engine::scheduler::plan::{Command, Plan};
use std::collections::BTreeMap;

/// One line of a kernel's PTX.
struct Place {
    /// Counted from 0.
    line: usize,
    text: String,
}

/// The lines of a kernel, each with its number in the file.
fn body<'a>(ptx: &'a str, kernel: &str) -> Vec<(usize, &'a str)> {
    let entry = format!(".entry {kernel}(");
    let lines = ptx.lines().enumerate().skip_while(|(_, l)| !l.contains(&entry));
    lines.take_while(|(_, l)| *l != "}").collect()
}

fn places(ptx: &str, kernel: &str, wanted: impl Fn(&[(usize, &str)], usize) -> bool) -> Vec<Place> {
    let lines = body(ptx, kernel);
    assert!(!lines.is_empty(), "{kernel} is not in its family's PTX");
    let found = (0..lines.len()).filter(|i| wanted(&lines, *i));
    found.map(|i| Place { line: lines[i].0, text: lines[i].1.trim().into() }).collect()
}

fn is_barrier(lines: &[(usize, &str)], i: usize) -> bool {
    ["bar.sync", "barrier.sync", "bar.warp.sync"].iter().any(|b| lines[i].1.trim_start().starts_with(b))
}

fn is_wait(lines: &[(usize, &str)], i: usize) -> bool {
    lines[i].1.trim_start().starts_with("cp.async.wait")
}

/// A conditional jump forward over an access to memory.
fn is_bound_check(lines: &[(usize, &str)], i: usize) -> bool {
    let line = lines[i].1.trim();
    let Some(label) = line.strip_prefix('@').and_then(|l| l.split_once("bra")).map(|(_, to)| to) else { return false };
    let label = format!("{}:", label.trim_start_matches(".uni").trim().trim_end_matches(';'));
    let Some(to) = lines[i..].iter().position(|(_, l)| l.trim() == label) else { return false };
    let touches = |l: &str| l.contains("ld.global") || l.contains("st.global") || l.contains("st.shared");
    lines[i..i + to].iter().any(|(_, l)| touches(l))
}

/// A kernel without the line.
fn without(kernel: &'static KernelDef, place: &Place) -> &'static KernelDef {
    let ptx = kernel.cuda.unwrap();
    let lines = ptx.text.lines().enumerate().map(|(i, l)| if i == place.line { "" } else { l });
    let family: &'static str = format!("{} without line {}", ptx.family, place.line + 1).leak();
    let text: &'static str = lines.collect::<Vec<_>>().join("\n").leak();
    let cuda = Some(&*Box::leak(Box::new(Ptx { family, text })));
    Box::leak(Box::new(KernelDef { name: kernel.name, operands: kernel.operands, cpu: None, wgsl: None, cuda }))
}

/// A sample and the kernels it launches, each with whether any of its launches has more than one block.
struct Run {
    sample: Sample,
    kernels: BTreeMap<&'static str, bool>,
}

fn runs(op: &dyn Op, precision: Precision) -> Vec<Run> {
    let tiny = op.samples().into_iter().filter(|s| s.class == Class::Tiny);
    tiny.map(|sample| {
        let mut kernels = BTreeMap::new();
        // Only the plan is wanted, so that nothing is left of it to be run.
        let look = |plan: &mut Plan| {
            for command in plan.commands.drain(..) {
                if let Command::Launch(l) = command {
                    *kernels.entry(l.kernel.name).or_default() |= l.groups != [1; 3];
                }
            }
        };
        let _nothing_was_computed =
            check::run_edited(&mut Cuda::open(0, precision).unwrap(), &sample, Way::Direct, look);
        Run { sample, kernels }
    })
    .collect()
}

/// Whether any sample that launches the kernel notices its replacement; none if no sample launches it.
fn is_noticed(runs: &[Run], precision: Precision, mutant: &'static KernelDef) -> Option<bool> {
    let mut launched = false;
    // What lets shared memory be used again matters where a block goes round its loop more than once.
    let ways = runs.iter().filter_map(|r| r.kernels.get(mutant.name).map(|many| (&r.sample, *many)));
    let ways = ways.flat_map(|(s, many)| [Some((s, false)), many.then_some((s, true))]).flatten();
    for (sample, one_block) in ways {
        let mut gpu = Cuda::open(0, precision).unwrap();
        let replace = |plan: &mut Plan| {
            for command in &mut plan.commands {
                if let Command::Launch(l) = command
                    && l.kernel.name == mutant.name
                {
                    l.kernel = mutant;
                    l.groups = if one_block { [1; 3] } else { l.groups };
                    launched = true;
                }
            }
        };
        let verdict = check::run_edited(&mut gpu, sample, Way::Direct, replace);
        if let Err(e) = &verdict {
            let text = e.to_string();
            let caught = ["ILLEGAL_ADDRESS", "MISALIGNED_ADDRESS", "LAUNCH_FAILED", "wrote outside of"]
                .iter()
                .any(|c| text.contains(c));
            assert!(caught, "the mutant never ran: {text}");
        }
        let tolerance = sample.tolerance.max(precision.tolerance());
        // A NaN is never small enough.
        if !verdict.is_ok_and(|v| v.error <= tolerance) {
            return Some(true);
        }
    }
    launched.then_some(false)
}

fn each_kernel(mut see: impl FnMut(&'static KernelDef, &[Run], Precision)) {
    let mut seen = vec![];
    for op in OPS {
        let mut all: [Option<Vec<Run>>; 2] = [None, None];
        for kernel in op.kernels().into_iter().filter(|k| k.cuda.is_some()) {
            let precision = if kernel.name.ends_with("_bf16") { Precision::Bf16 } else { Precision::F32 };
            // Kernels that ops share are tried by the first.
            if !seen.contains(&kernel.name) {
                seen.push(kernel.name);
                let known = &mut all[usize::from(precision == Precision::Bf16)];
                see(kernel, known.get_or_insert_with(|| runs(*op, precision)), precision);
            }
        }
    }
}

/// Instructions of a warp after which a loop is endless; what is not broken stays below.
const PATIENCE: [(&str, &str); 1] = [("MOVIOLA_EMULATOR_INSTRUCTIONS", "8000000")];

#[test]
fn what_is_not_broken_is_left_in_peace() {
    in_emulation_with("what_is_not_broken_is_left_in_peace", &PATIENCE, || {
        each_kernel(|kernel, runs, precision| {
            assert_eq!(is_noticed(runs, precision, kernel), Some(false), "{}", kernel.name);
        });
    });
}

#[test]
fn a_missing_barrier_or_wait_is_noticed() {
    in_emulation_with("a_missing_barrier_or_wait_is_noticed", &PATIENCE, || {
        let (mut tried, mut missed) = (0, vec![]);
        each_kernel(|kernel, runs, precision| {
            let ptx = kernel.cuda.unwrap().text;
            let waits = places(ptx, kernel.name, is_wait);
            for place in places(ptx, kernel.name, is_barrier).into_iter().chain(waits) {
                tried += 1;
                if is_noticed(runs, precision, without(kernel, &place)) == Some(false) {
                    missed.push(format!("{} line {}: {}", kernel.name, place.line + 1, place.text));
                }
            }
        });
        println!("{tried} barriers and waits were taken out");
        assert!(tried > 20 && missed.is_empty(), "nobody noticed, of {tried}:\n{}", missed.join("\n"));
    });
}

#[test]
fn a_missing_bound_check_is_noticed() {
    in_emulation_with("a_missing_bound_check_is_noticed", &PATIENCE, || {
        let (mut tried, mut noticed, mut silent) = (0, 0, vec![]);
        each_kernel(|kernel, runs, precision| {
            let all = places(kernel.cuda.unwrap().text, kernel.name, is_bound_check);
            let mut any = all.is_empty();
            for place in all {
                tried += 1;
                let caught = is_noticed(runs, precision, without(kernel, &place)) == Some(true);
                println!(
                    "{} line {} {}: {}",
                    kernel.name,
                    place.line + 1,
                    place.text,
                    if caught { "noticed" } else { "-" }
                );
                noticed += usize::from(caught);
                any |= caught;
                // One is the proof that the kernel has bound checks that matter; all of them take minutes.
                if any && std::env::var_os("MOVIOLA_TEST_ALL").is_none() {
                    break;
                }
            }
            if !any {
                silent.push(kernel.name);
            }
        });
        println!("{noticed} of {tried} jumps over accesses to memory are missed when they are gone");
        assert!(silent.is_empty(), "of these kernels no bound check is needed, it seems: {silent:?}");
    });
}
