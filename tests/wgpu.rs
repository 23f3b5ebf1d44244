//! The wgpu back end on the first adapter there is: every sample of every op, slots, transfers, and what it refuses.
#![cfg(feature = "wgpu")]

mod common;
mod devices;

use moviola::engine::backend::wgpu::{Gpu, INSTALL, list};
use moviola::engine::backend::{Backend, DeviceChoice, open};
use moviola::engine::check::{self, Way};
use moviola::engine::op::{Class, KernelDef, OPS, Params, Precision, read, write};
use moviola::engine::scheduler::plan::{Command, LaunchCommand, Plan, Region, RegionBytes, Span};
use moviola::engine::tensor::Counts;
use moviola::error::Error;
use std::process::Command as Process;
use std::sync::Arc;

/// Set in processes that these tests start, to the name of the driver they are to use.
const CHILD: &str = "MOVIOLA_TEST_CHILD";

fn gpu() -> Gpu {
    assert!(!list().is_empty(), "these tests need an adapter, a software one suffices: {INSTALL}");
    Gpu::open(0).unwrap()
}

#[test]
fn the_first_adapter_agrees_with_every_reference() {
    common::check_all(&mut gpu(), Class::Full);
}

#[test]
fn windows_of_a_region_agree_with_every_reference() {
    // No arena or slot fits into one binding now, so that operands are gathered into windows.
    let mut gpu = gpu();
    gpu.limit_binding_bytes(4 << 10);
    let (mut checked, mut refused) = (0, 0);
    for op in OPS {
        for sample in op.samples().iter().filter(|s| s.class == Class::Tiny) {
            for way in [Way::Direct, Way::Arena] {
                match check::run(&mut gpu, sample, way) {
                    Ok(v) => {
                        assert!(v.error <= sample.tolerance, "{} [{}] {way:?}: {v:?}", op.name(), sample.name);
                        checked += 1;
                    }
                    Err(Error::Memory { .. }) => refused += 1,
                    Err(e) => panic!("{} [{}] {way:?}: {e}", op.name(), sample.name),
                }
            }
        }
    }
    assert!(checked > 50 && refused > 0, "{checked} ran, {refused} were too large");
}

#[test]
fn slots_in_flight_keep_their_inputs_counts_and_outputs() {
    devices::slots_in_flight_keep_their_inputs_counts_and_outputs(&mut gpu());
}

#[test]
fn fills_copies_and_states_carry_over_from_step_to_step() {
    devices::fills_copies_and_states_carry_over_from_step_to_step(&mut gpu());
}

#[test]
fn a_read_larger_than_the_staging_buffer_comes_in_pieces() {
    devices::a_read_larger_than_the_staging_buffer_comes_in_pieces(&mut gpu());
}

#[test]
fn transfers_and_submits_outside_of_what_is_loaded_are_errors() {
    devices::transfers_and_submits_outside_of_what_is_loaded_are_errors(&mut gpu());
}

#[test]
fn a_slot_is_not_overwritten_while_a_plan_reads_it() {
    devices::a_slot_is_not_overwritten_while_a_plan_reads_it(&mut gpu());
}

#[test]
fn what_is_too_large_is_refused_before_it_is_allocated() {
    let mut gpu = gpu();
    let region = gpu.load(&[], RegionBytes { arena: 1 << 60, ..RegionBytes::default() }, 1);
    assert!(matches!(region, Err(Error::Memory { needed, .. }) if needed == 1 << 60), "{region:?}");
    if let (Some(memory), Some(buffer)) = (list()[0].memory, list()[0].max_buffer_bytes) {
        let many = RegionBytes { input: buffer & !255, ..RegionBytes::default() };
        let slots = gpu.load(&[], many, (memory / buffer) as usize + 2);
        assert!(matches!(&slots, Err(Error::Memory { available, .. }) if *available == gpu.memory()), "{slots:?}");
    }
    gpu.load(&[], RegionBytes { state: 256, ..RegionBytes::default() }, 1).unwrap();
}

static BROKEN: KernelDef = KernelDef {
    name: "broken",
    operands: &[read("x"), write("y")],
    cpu: None,
    wgsl: Some("struct P { n: u32 }\n@compute @workgroup_size(1) fn main() { set_y(0u, 1u); }"),
    cuda: None,
};

#[test]
fn a_kernel_the_device_refuses_is_an_error_and_the_device_lives_on() {
    let mut gpu = gpu();
    let good = devices::ragged_plan(&gpu, 8);
    let mut bad = Plan::clone(&good);
    let at = |region| Some(Span { region, offset: 0, bytes: 64 });
    bad.commands = vec![Command::Launch(LaunchCommand {
        node: 0,
        kernel: &BROKEN,
        params: Params::new().u32(1),
        groups: [1, 1, 1],
        args: vec![at(Region::In), at(Region::Out)],
        values: vec![None, None],
    })];
    for _ in 0..2 {
        // Twice: a refused text must not be found in the cache.
        let refused = gpu.load(&[Arc::new(bad.clone())], good.bytes, 1).unwrap_err().to_string();
        assert!(refused.contains("compiling") && refused.contains("broken"), "{refused}");
    }
    gpu.load(std::slice::from_ref(&good), good.bytes, 1).unwrap();
    gpu.submit(0, 0, Counts::default()).unwrap();
    gpu.wait().unwrap();
}

/// Runs one of these tests in a process of its own, with the drivers of one description file only.
fn with_driver(test: &str, icd: &str) -> std::process::Output {
    Process::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, icd)
        .env("VK_DRIVER_FILES", icd)
        .env("VK_ICD_FILENAMES", icd)
        .output()
        .unwrap()
}

#[cfg(not(any(target_os = "macos", target_os = "windows")))]
#[test]
fn without_a_driver_there_is_an_explanation_and_no_panic() {
    if std::env::var_os(CHILD).is_some() {
        assert!(list().is_empty());
        for choice in [DeviceChoice::Wgpu(None), DeviceChoice::Wgpu(Some(0))] {
            let message = open(&choice, 1, Precision::F32).err().unwrap().to_string();
            assert!(message.contains("mesa-vulkan-drivers"), "{message}");
        }
        let (_, line) = open(&DeviceChoice::Auto, 1, Precision::F32).unwrap();
        assert!(line.starts_with("cpu") && line.contains("no GPU was found"), "{line}");
        return;
    }
    let out = with_driver("without_a_driver_there_is_an_explanation_and_no_panic", "/nowhere/driver.json");
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn an_adapter_that_is_not_there_is_an_error_that_counts_those_that_are() {
    let message = Gpu::open(1000).err().unwrap().to_string();
    assert!(message.contains(&format!("found {}", list().len())), "{message}");
}

/// Chromium's software device: 256 invocations, 10 storage buffers, subgroups of 4. What runs there runs anywhere.
#[cfg(target_os = "linux")]
#[test]
fn the_weakest_device_agrees_with_every_reference() {
    const ICD: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";
    if std::env::var_os("MOVIOLA_TEST_ALL").is_none() {
        eprintln!("set MOVIOLA_TEST_ALL=1 to run this test; it needs Debian's package chromium");
        return;
    }
    assert!(std::path::Path::new(ICD).exists(), "there is no {ICD}: apt-get install chromium");
    let out = with_driver("the_first_adapter_agrees_with_every_reference", ICD);
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}
