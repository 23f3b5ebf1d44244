//! The wgpu back end on the first adapter there is: every sample of every op, slots, transfers, and what it refuses.
#![cfg(feature = "wgpu")]

mod common;

use moviola::engine::backend::wgpu::{Gpu, INSTALL, list};
use moviola::engine::backend::{Backend, DeviceChoice, open};
use moviola::engine::check::{self, Way};
use moviola::engine::graph::Graph;
use moviola::engine::op::pointwise::{Binary, BinaryKind, Unary, UnaryKind};
use moviola::engine::op::{Class, KernelDef, OPS, Params, Precision, read, write};
use moviola::engine::scheduler::plan::{Command, LaunchCommand, Plan, Region, RegionBytes, Span, StateLayout, plan};
use moviola::engine::tensor::{Axis, Counts, Dim, Meta};
use moviola::error::Error;
use moviola::random::Random;
use std::process::Command as Process;
use std::sync::Arc;

/// Set in processes that these tests start, to the name of the driver they are to use.
const CHILD: &str = "MOVIOLA_TEST_CHILD";

fn gpu() -> Gpu {
    assert!(!list().is_empty(), "these tests need an adapter, a software one suffices: {INSTALL}");
    Gpu::open(0).unwrap()
}

fn seed() -> u64 {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("seed {seed}");
    seed
}

fn values(seed: u64, stream: u64, n: usize) -> Vec<f32> {
    let random = Random::new(seed, stream);
    (0..n as u64).map(|i| random.normal(i)).collect()
}

fn read_f32(gpu: &mut Gpu, region: Region, slot: usize, offset: u64, n: usize) -> Vec<f32> {
    let mut data = vec![0f32; n];
    gpu.read(region, slot, offset, bytemuck::cast_slice_mut(&mut data)).unwrap();
    data
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

/// `y = relu(x) + x` for `x [rows, 3]`, rows ragged.
fn ragged_plan(gpu: &Gpu, cap: usize) -> Arc<Plan> {
    let mut g = Graph::new();
    let x = g.input("x", Meta::f32(&[Dim::Ragged(Axis(0), cap), Dim::Fixed(3)]).unwrap());
    let r = g.apply(Unary { kind: UnaryKind::Relu }, &[x]).unwrap();
    let y = g.apply(Binary { kind: BinaryKind::Add }, &[r, x]).unwrap();
    g.output("y", y);
    Arc::new(plan("ragged", &g, &StateLayout::default(), &gpu.ctx()).unwrap())
}

#[test]
fn slots_in_flight_keep_their_inputs_counts_and_outputs() {
    let seed = seed();
    let mut gpu = gpu();
    let plans = [ragged_plan(&gpu, 50), ragged_plan(&gpu, 20)];
    let bytes = plans[0].bytes.max(plans[1].bytes);
    gpu.load(&plans, bytes, 3).unwrap();
    for round in 0..3 {
        let runs: Vec<(usize, usize, Vec<f32>)> = (0..3)
            .map(|slot| {
                let which = (slot + round) % 2;
                let rows = Random::new(seed, 9).below((round * 3 + slot) as u64, [50, 20][which]) as usize + 1;
                (which, rows, values(seed, (round * 3 + slot) as u64, rows * 3))
            })
            .collect();
        for (slot, (which, rows, x)) in runs.iter().enumerate() {
            let poison = vec![f32::NAN; (bytes.output / 4) as usize];
            gpu.write(Region::Out, slot, 0, bytemuck::cast_slice(&poison)).unwrap();
            gpu.write(Region::In, slot, 0, bytemuck::cast_slice(x)).unwrap();
            gpu.submit(*which, slot, Counts::default().with(Axis(0), *rows)).unwrap();
        }
        gpu.wait().unwrap();
        for (slot, (_, rows, x)) in runs.iter().enumerate() {
            let y = read_f32(&mut gpu, Region::Out, slot, 0, rows * 3 + 3);
            let wanted: Vec<f32> = x.iter().map(|x| x.max(0.0) + x).collect();
            assert_eq!(y[..rows * 3], wanted);
            assert!(y[rows * 3..].iter().all(|v| v.is_nan()), "rows beyond the count were written");
        }
    }
}

#[test]
fn fills_copies_and_states_carry_over_from_step_to_step() {
    let mut g = Graph::new();
    let meta = Meta::f32(&[Dim::Fixed(100)]).unwrap();
    let (a, b) = (g.state("a", meta.clone()), g.state("b", meta.clone()));
    let x = g.input("x", meta);
    let half = g.fill(0.5, &[Dim::Fixed(100)]).unwrap();
    // The slot's input and a fill cannot be produced inside a pack: both are copied. Two gaps are filled.
    let pack = g.pack(&[(x, 64), (half, 256)], 448).unwrap();
    let sum = g.apply(Binary { kind: BinaryKind::Add }, &[a, x]).unwrap();
    let next = g.apply(Binary { kind: BinaryKind::Add }, &[b, sum]).unwrap();
    g.assign(a, sum).unwrap();
    g.assign(b, next).unwrap();
    g.output("pack", pack);
    let layout = StateLayout::of([&g]).unwrap();
    let mut gpu = gpu();
    let plan = Arc::new(plan("steps", &g, &layout, &gpu.ctx()).unwrap());
    let copies = plan.commands.iter().filter(|c| matches!(c, Command::Copy { .. })).count();
    let fills = plan.commands.iter().filter(|c| matches!(c, Command::Fill { .. })).count();
    assert!(copies >= 2 && fills >= 3, "{}", plan.dump());
    gpu.load(std::slice::from_ref(&plan), plan.bytes, 1).unwrap();
    let x = values(seed(), 0, 100);
    gpu.write(Region::State, 0, 0, bytemuck::cast_slice(&vec![0f32; (layout.bytes / 4) as usize])).unwrap();
    gpu.write(Region::In, 0, plan.inputs[0].span.offset, bytemuck::cast_slice(&x)).unwrap();
    for _ in 0..3 {
        gpu.submit(0, 0, Counts::default()).unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| layout.find(name).unwrap().span.offset);
    let (a, b) = (read_f32(&mut gpu, Region::State, 0, a, 100), read_f32(&mut gpu, Region::State, 0, b, 100));
    for i in 0..100 {
        let (one, two) = (x[i], x[i] + x[i]);
        let three = two + x[i];
        assert_eq!((a[i], b[i]), (three, one + two + three));
    }
    let pack = read_f32(&mut gpu, Region::Out, 0, plan.outputs[0].span.offset, 448);
    for (i, v) in pack.iter().enumerate() {
        let wanted = match i {
            64..164 => x[i - 64],
            256..356 => 0.5,
            _ => 0.0,
        };
        assert_eq!(*v, wanted, "element {i}");
    }
}

#[test]
fn a_read_larger_than_the_staging_buffer_comes_in_pieces() {
    let mut gpu = gpu();
    let bytes = RegionBytes { state: 40 << 20, ..RegionBytes::default() };
    gpu.load(&[], bytes, 1).unwrap();
    let words: Vec<u32> = (0..10 << 20).collect();
    gpu.write(Region::State, 0, 0, bytemuck::cast_slice(&words)).unwrap();
    let mut back = vec![0u32; words.len()];
    gpu.read(Region::State, 0, 0, bytemuck::cast_slice_mut(&mut back)).unwrap();
    assert!(words == back);
    let mut part = [0u32; 3];
    gpu.read(Region::State, 0, 4 * 1_000_003, bytemuck::cast_slice_mut(&mut part)).unwrap();
    assert_eq!(part, [1_000_003, 1_000_004, 1_000_005]);
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

#[test]
fn transfers_and_submits_outside_of_what_is_loaded_are_errors() {
    let mut gpu = gpu();
    let mut word = [0u8; 4];
    assert!(gpu.read(Region::State, 0, 0, &mut word).is_err(), "nothing is loaded");
    assert!(gpu.submit(0, 0, Counts::default()).is_err(), "nothing is loaded");
    let plan = ragged_plan(&gpu, 50);
    assert!(gpu.load(std::slice::from_ref(&plan), plan.bytes, 0).is_err(), "no slots");
    assert!(gpu.load(std::slice::from_ref(&plan), RegionBytes::default(), 1).is_err(), "regions too small");
    gpu.load(std::slice::from_ref(&plan), plan.bytes, 2).unwrap();
    for (slot, offset, len) in [(2, 0, 4), (0, plan.bytes.input, 4), (0, u64::MAX - 3, 4), (0, 2, 4), (0, 0, 3)] {
        let mut data = vec![0u8; len];
        assert!(gpu.read(Region::In, slot, offset, &mut data).is_err(), "read {slot} {offset} {len}");
        assert!(gpu.write(Region::In, slot, offset, &data).is_err(), "write {slot} {offset} {len}");
    }
    assert!(gpu.submit(1, 0, Counts::default()).is_err(), "no such plan");
    assert!(gpu.submit(0, 2, Counts::default()).is_err(), "no such slot");
    assert!(gpu.submit(0, 0, Counts::default().with(Axis(0), 51)).is_err(), "more rows than the plan holds");
    gpu.submit(0, 1, Counts::default().with(Axis(0), 50)).unwrap();
    gpu.wait().unwrap();
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
    let good = ragged_plan(&gpu, 8);
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
