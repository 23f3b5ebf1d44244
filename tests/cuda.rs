//! The CUDA back end on machines without a GPU: the committed PTX, run by the driver that `tools/emulator` plays.
#![cfg(all(feature = "cuda", target_os = "linux"))]

mod common;
mod devices;
mod emulation;

use emulation::{emulator, in_emulation, in_emulation_with, words};
use moviola::engine::backend::cuda::{Cuda, list};
use moviola::engine::backend::{Backend, DeviceChoice, open};
use moviola::engine::check::{self, Way};
use moviola::engine::op::{Class, KernelDef, OPS, Precision, Ptx, read, write};
use moviola::engine::scheduler::plan::{Command as Step, Plan, RegionBytes};
use moviola::engine::tensor::Counts;
use moviola::error::Error;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn gpu() -> Cuda {
    Cuda::open(0, Precision::F32).unwrap()
}

#[test]
fn every_sample_agrees_with_its_reference() {
    in_emulation("every_sample_agrees_with_its_reference", || common::check_all(&mut gpu(), Class::Full));
}

/// "Kernels stride over the grid, so fewer than asked is never wrong": with one block all loops go round.
#[test]
fn one_block_does_the_work_of_many() {
    in_emulation("one_block_does_the_work_of_many", || {
        let mut gpu = gpu();
        for op in OPS {
            for sample in op.samples().iter().filter(|s| s.class == Class::Tiny) {
                let one_block = |plan: &mut Plan| {
                    for command in &mut plan.commands {
                        if let Step::Launch(l) = command {
                            l.groups = [1; 3];
                        }
                    }
                };
                let v = check::run_edited(&mut gpu, sample, Way::Direct, one_block).unwrap();
                assert!(v.error <= sample.tolerance, "{} [{}]: {v:?}", op.name(), sample.name);
            }
        }
    });
}

#[test]
fn products_in_bf16_agree_within_their_rounding() {
    in_emulation("products_in_bf16_agree_within_their_rounding", || {
        common::check_all(&mut Cuda::open(0, Precision::Bf16).unwrap(), Class::Tiny);
    });
}

#[test]
fn slots_in_flight_keep_their_inputs_counts_and_outputs() {
    in_emulation("slots_in_flight_keep_their_inputs_counts_and_outputs", || {
        devices::slots_in_flight_keep_their_inputs_counts_and_outputs(&mut gpu())
    });
}

#[test]
fn fills_copies_and_states_carry_over_from_step_to_step() {
    in_emulation("fills_copies_and_states_carry_over_from_step_to_step", || {
        devices::fills_copies_and_states_carry_over_from_step_to_step(&mut gpu())
    });
}

#[test]
fn a_read_larger_than_the_staging_buffer_comes_in_pieces() {
    in_emulation("a_read_larger_than_the_staging_buffer_comes_in_pieces", || {
        devices::a_read_larger_than_the_staging_buffer_comes_in_pieces(&mut gpu())
    });
}

#[test]
fn transfers_and_submits_outside_of_what_is_loaded_are_errors() {
    in_emulation("transfers_and_submits_outside_of_what_is_loaded_are_errors", || {
        devices::transfers_and_submits_outside_of_what_is_loaded_are_errors(&mut gpu())
    });
}

#[test]
fn a_slot_is_not_overwritten_while_a_plan_reads_it() {
    in_emulation("a_slot_is_not_overwritten_while_a_plan_reads_it", || {
        devices::a_slot_is_not_overwritten_while_a_plan_reads_it(&mut gpu())
    });
}

/// The emulator copies as early as the events allow: what they do not hold back is overwritten.
#[test]
fn copies_in_haste_change_nothing() {
    in_emulation_with("copies_in_haste_change_nothing", &[("MOVIOLA_EMULATOR_HASTY_COPIES", "1")], || {
        devices::a_slot_is_not_overwritten_while_a_plan_reads_it(&mut gpu());
        devices::slots_in_flight_keep_their_inputs_counts_and_outputs(&mut gpu());
        devices::fills_copies_and_states_carry_over_from_step_to_step(&mut gpu());
    });
}

static BROKEN_PTX: Ptx = Ptx { family: "broken", text: ".version 7.1\n.target sm_80\n.address_size 64\nnonsense\n" };
static BROKEN: KernelDef =
    KernelDef { name: "broken", operands: &[read("x"), write("y")], cpu: None, wgsl: None, cuda: Some(&BROKEN_PTX) };

#[test]
fn a_family_the_driver_refuses_is_an_error_with_its_log() {
    in_emulation("a_family_the_driver_refuses_is_an_error_with_its_log", || {
        let mut gpu = gpu();
        let good = devices::ragged_plan(&gpu, 8);
        let mut bad = Plan::clone(&good);
        for command in &mut bad.commands {
            if let Step::Launch(l) = command {
                l.kernel = &BROKEN;
            }
        }
        for _ in 0..2 {
            let refused = gpu.load(&[Arc::new(bad.clone())], good.bytes, 1).unwrap_err().to_string();
            assert!(refused.contains("broken.ptx") && refused.contains("nonsense"), "{refused}");
        }
        let region = gpu.load(&[], RegionBytes { arena: 1 << 60, ..RegionBytes::default() }, 1);
        assert!(matches!(region, Err(Error::Memory { needed, .. }) if needed == 1 << 60), "{region:?}");
        gpu.load(std::slice::from_ref(&good), good.bytes, 1).unwrap();
        gpu.submit(0, 0, Counts::default()).unwrap();
        gpu.wait().unwrap();
    });
}

#[test]
fn auto_never_takes_the_emulator() {
    in_emulation("auto_never_takes_the_emulator", || {
        assert!(list().iter().any(|d| d.available && d.description.contains("emulator")), "{:?}", list());
        let (backend, line) = open(&DeviceChoice::Auto, 1, Precision::F32).unwrap();
        assert!(!backend.name().contains("cuda"), "{line}");
    });
}

#[test]
fn without_a_driver_there_is_an_explanation_and_no_panic() {
    if list().iter().any(|d| d.available) {
        println!("this machine has a CUDA device, and nothing is missing");
        return;
    }
    for d in list() {
        assert!(!d.description.is_empty() && d.advice.is_some_and(|a| a.contains("driver")), "{}", d.description);
    }
    for choice in [DeviceChoice::Cuda(None), DeviceChoice::Cuda(Some(3))] {
        let message = open(&choice, 1, Precision::F32).err().unwrap().to_string();
        assert!(message.contains("cuda:") && message.contains("driver"), "{message}");
    }
}

/// The program itself, with the emulator for a driver.
fn moviola(emulator: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_moviola")).args(args).env("LD_LIBRARY_PATH", emulator).output().unwrap();
    assert!(out.status.success(), "moviola {}: {}", args.join(" "), words(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn losses(run: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    log.lines().filter_map(|l| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64()).collect()
}

#[test]
fn the_program_trains_and_ranks_as_on_the_cpu() {
    let emulator = emulator();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let world = at("world");
    moviola(
        &emulator,
        &["data", "world", "--out", &world, "--train", "48", "--val", "8", "--test", "64", "--dim", "16"],
    );
    for model in ["mean-pool", "token-interaction"] {
        let run = |device: &str| at(&format!("{model}-{device}"));
        for device in ["cpu", "cuda"] {
            let out = run(device);
            let mut args = vec!["train", "--data", &world, "--model", model, "--out", &out, "--device", device];
            for set in ["model.dim=16", "train.epochs=2", "train.batch=16", "train.learning_rate=0.005"] {
                args.extend(["--set", set]);
            }
            moviola(&emulator, &args);
        }
        let (want, have) = (losses(Path::new(&run("cpu"))), losses(Path::new(&run("cuda"))));
        assert!(want.len() >= 6 && want.len() == have.len(), "{want:?} {have:?}");
        for (step, (w, h)) in want.iter().zip(&have).enumerate() {
            assert!((w - h).abs() <= 1e-3 * w.abs(), "{model} step {step}: {h} by CUDA, {w} on the CPU");
        }
        let scores = |device: &str| {
            let (trained, file) = (run("cpu"), at(&format!("{model}-{device}.npy")));
            moviola(&emulator, &["score", "--model", &trained, "--data", &world, "--out", &file, "--device", device]);
            let bytes = std::fs::read(&file).unwrap();
            let values = bytes[bytes.len() - 64 * 64 * 4..].chunks(4);
            values.map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect::<Vec<f32>>()
        };
        let (cpu, cuda) = (scores("cpu"), scores("cuda"));
        assert!(cpu.iter().any(|x| *x != cpu[0]), "the scores say something");
        for (text, (c, g)) in cpu.chunks(64).zip(cuda.chunks(64)).enumerate() {
            for v in 0..64 {
                let (on_cpu, on_gpu) = (c[v] - c[text], g[v] - g[text]);
                let alike = on_cpu.abs() <= 1e-5 || (on_cpu > 0.0) == (on_gpu > 0.0);
                assert!(alike, "{model}: text {text} ranks video {v} by {on_gpu}, and by {on_cpu} on the CPU");
            }
        }
    }
}

#[test]
fn the_gpu_check_rehearses_and_fails_without_a_device() {
    let emulator = emulator();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gpu-check.json");
    let check = |library_path: &Path| {
        let out = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu-check"))
            .args(["--rehearse", "--binary", env!("CARGO_BIN_EXE_moviola"), "--out"])
            .arg(&file)
            .env("LD_LIBRARY_PATH", library_path)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        (out.status.success(), report, words(&out))
    };
    let (passed, report, text) = check(&emulator);
    assert!(passed && report["passed"] == true, "{text}");
    assert!(report["steps"]["parity of all ops"]["result"]["checked"].as_u64().unwrap() > 500, "{text}");
    if list().iter().all(|d| !d.available) {
        let (passed, report, text) = check(dir.path());
        assert!(!passed && report["passed"] == false, "{text}");
        assert!(!report["failures"].as_array().unwrap().is_empty(), "{text}");
    }
}
