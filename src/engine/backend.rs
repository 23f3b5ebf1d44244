//! What a device must be able to do, and which devices there are.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod null;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use super::op::{Ctx, Precision};
use super::scheduler::plan::{Plan, Region, RegionBytes};
use super::tensor::Counts;
use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A device that runs plans. One owner thread; all memory is taken in `load`.
pub trait Backend: Send {
    /// The device in words, for the line printed before work and for the protocol of a result.
    fn name(&self) -> String;

    /// What ops may know when they plan their launches.
    fn ctx(&self) -> Ctx;

    /// Bytes that plans may take.
    fn memory(&self) -> u64;

    /// Takes every region once, at the given sizes, and prepares all kernels. Replaces what was loaded before.
    fn load(&mut self, plans: &[Arc<Plan>], bytes: RegionBytes, slots: usize) -> Result<()>;

    /// Copies host bytes into a region. `slot` counts for [`Region::In`] and [`Region::Out`] only.
    fn write(&mut self, region: Region, slot: usize, offset: u64, data: &[u8]) -> Result<()>;

    /// Waits for the work that was submitted, then copies bytes of a region to the host.
    fn read(&mut self, region: Region, slot: usize, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Starts plan number `plan` (in the order of `load`) on what lies in the slot. May return before it is done.
    fn submit(&mut self, plan: usize, slot: usize, counts: Counts) -> Result<()>;

    /// Waits until everything submitted is done.
    fn wait(&mut self) -> Result<()>;
}

/// What a person asks for with `--device`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real GPU if there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The adapter of this number, or the best one.
    Wgpu(Option<usize>),
    /// The CUDA device of this number, or the first.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let bad = |what: &str, fix: &str| Err(Error::config("--device", format!("`{text}` {what}"), fix));
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (text, None),
        };
        match (kind, number) {
            ("auto", None) => Ok(DeviceChoice::Auto),
            ("cpu", None) => Ok(DeviceChoice::Cpu),
            ("wgpu", None) => Ok(DeviceChoice::Wgpu(None)),
            ("cuda", None) => Ok(DeviceChoice::Cuda(None)),
            ("wgpu" | "cuda", Some(number)) => match number.parse() {
                Ok(n) if kind == "wgpu" => Ok(DeviceChoice::Wgpu(Some(n))),
                Ok(n) => Ok(DeviceChoice::Cuda(Some(n))),
                Err(_) => bad("names no device", &format!("write a number behind the colon, as in {kind}:0")),
            },
            _ => bad("is not a device", "use auto, cpu, cuda, cuda:N, wgpu or wgpu:N"),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceChoice::Auto => write!(f, "auto"),
            DeviceChoice::Cpu => write!(f, "cpu"),
            DeviceChoice::Wgpu(None) => write!(f, "wgpu"),
            DeviceChoice::Wgpu(Some(n)) => write!(f, "wgpu:{n}"),
            DeviceChoice::Cuda(None) => write!(f, "cuda"),
            DeviceChoice::Cuda(Some(n)) => write!(f, "cuda:{n}"),
        }
    }
}

/// What a device is, from the one to prefer to the one to avoid.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Discrete,
    Integrated,
    /// A GPU of a virtual machine.
    Virtual,
    /// This machine's cores, by kernels made for them.
    Cpu,
    /// A GPU's interface played by the CPU: right, but slower than the CPU back end.
    Software,
    Unknown,
}

impl DeviceKind {
    /// Whether it computes on other silicon than the CPU back end.
    pub fn is_gpu(self) -> bool {
        matches!(self, DeviceKind::Discrete | DeviceKind::Integrated | DeviceKind::Virtual)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Discrete => "discrete GPU",
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Cpu => "CPU",
            DeviceKind::Software => "software device",
            DeviceKind::Unknown => "device of unknown kind",
        })
    }
}

/// A device that can be opened, or one that cannot and why.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// What `--device` takes.
    pub id: String,
    pub kind: DeviceKind,
    pub available: bool,
    /// Its name and driver, or why it is absent.
    pub description: String,
    /// Bytes that plans may take; none where nobody says.
    pub memory: Option<u64>,
    /// The most bytes of one region, where the device bounds them.
    pub max_buffer_bytes: Option<u64>,
    /// The most bytes of one operand, where the device bounds them.
    pub max_binding_bytes: Option<u64>,
    /// What a person can do about it.
    pub advice: Option<String>,
}

impl DeviceInfo {
    fn missing(id: &str, kind: DeviceKind, why: &str, advice: &str) -> DeviceInfo {
        DeviceInfo {
            id: id.into(),
            kind,
            available: false,
            description: why.into(),
            memory: None,
            max_buffer_bytes: None,
            max_binding_bytes: None,
            advice: Some(advice.into()),
        }
    }
}

/// Every device of this machine, and for every back end without one the reason.
pub fn devices() -> Vec<DeviceInfo> {
    let mut devices = vec![cpu::describe()];
    devices.extend(cuda_devices());
    devices.extend(adapters());
    if devices.iter().all(|d| !d.id.starts_with("wgpu")) {
        devices.push(DeviceInfo::missing("wgpu", DeviceKind::Unknown, "no adapter was found", NO_ADAPTER));
    }
    devices
}

/// Opens a device. With it comes the line for a person: which it is and why.
///
/// # Errors
/// When the device that was asked for is absent or refuses; `auto` falls back to the next best and says so.
pub fn open(choice: &DeviceChoice, threads: usize, precision: Precision) -> Result<(Box<dyn Backend>, String)> {
    let opened = open_any(choice, threads, precision)?;
    if opened.0.ctx().precision == precision {
        return Ok(opened);
    }
    let fix = "leave --precision out, or use --device cuda";
    Err(Error::device(opened.0.name(), "computes in f32 and int8 only", fix))
}

fn open_any(choice: &DeviceChoice, threads: usize, precision: Precision) -> Result<(Box<dyn Backend>, String)> {
    match *choice {
        DeviceChoice::Cpu => open_cpu(threads, precision, "asked for"),
        DeviceChoice::Cuda(index) => open_cuda(index.unwrap_or(0), precision, "asked for"),
        DeviceChoice::Wgpu(Some(index)) => open_adapter(index, precision, "asked for"),
        DeviceChoice::Wgpu(None) => match best(&adapters()) {
            Some((index, _)) => open_adapter(index, precision, "the best that wgpu found"),
            None => Err(Error::device("wgpu", "no adapter was found", NO_ADAPTER)),
        },
        DeviceChoice::Auto => open_best(threads, precision),
    }
}

/// CUDA, then another GPU, then the CPU; never a device that software plays.
fn open_best(threads: usize, precision: Precision) -> Result<(Box<dyn Backend>, String)> {
    let mut why = "no GPU was found".to_string();
    let usable = |d: &DeviceInfo| d.available && d.kind.is_gpu();
    if let Some((index, info)) = best(&cuda_devices()).filter(|(_, d)| usable(d)) {
        match open_cuda(index, precision, &format!("auto: a {}", info.kind)) {
            Ok(opened) => return Ok(opened),
            Err(e) => why = e.to_string(),
        }
    }
    match best(&adapters()) {
        Some((index, info)) if usable(info) => {
            match open_adapter(index, precision, &format!("auto: a {}", info.kind)) {
                Ok(opened) => return Ok(opened),
                Err(e) => why = e.to_string(),
            }
        }
        Some(_) if why == "no GPU was found" => why += ", only a software device",
        _ => {}
    }
    open_cpu(threads, precision, &format!("auto: {why}"))
}

fn open_cpu(threads: usize, precision: Precision, why: &str) -> Result<(Box<dyn Backend>, String)> {
    opened(cpu::Cpu::new(threads)?.with(without_bf16(precision)), why)
}

/// What back ends without tensor cores compute in; [`open`] refuses them where that is not what was asked for.
fn without_bf16(precision: Precision) -> Precision {
    if precision == Precision::Bf16 { Precision::F32 } else { precision }
}

fn opened(backend: impl Backend + 'static, why: &str) -> Result<(Box<dyn Backend>, String)> {
    let line = format!("{} ({why})", backend.name());
    Ok((Box::new(backend), line))
}

/// The device to prefer; of equals the first.
fn best(devices: &[DeviceInfo]) -> Option<(usize, &DeviceInfo)> {
    devices.iter().enumerate().min_by_key(|(_, info)| (!info.available, info.kind))
}

/// A copy must not read what it writes: threads run in no order.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn check_copies(plan: &Plan) -> Result<()> {
    use super::scheduler::plan::Command;
    for command in &plan.commands {
        if let Command::Copy { from, to } = command
            && from.overlaps(to)
        {
            return Err(Error::shape(format!("plan {}", plan.name), format!("copies {from:?} onto itself, to {to:?}")));
        }
    }
    Ok(())
}

#[cfg(feature = "wgpu")]
use wgpu::INSTALL as NO_ADAPTER;
#[cfg(not(feature = "wgpu"))]
const NO_ADAPTER: &str = "build with `--features wgpu`";

fn adapters() -> Vec<DeviceInfo> {
    #[cfg(feature = "wgpu")]
    return wgpu::list();
    #[cfg(not(feature = "wgpu"))]
    vec![]
}

fn open_adapter(index: usize, precision: Precision, why: &str) -> Result<(Box<dyn Backend>, String)> {
    #[cfg(feature = "wgpu")]
    return opened(wgpu::Gpu::open(index)?.with(without_bf16(precision)), why);
    #[cfg(not(feature = "wgpu"))]
    Err(Error::device(
        format!("wgpu:{index}"),
        format!("{why} with {precision:?}, but this build has no wgpu back end"),
        NO_ADAPTER,
    ))
}

fn cuda_devices() -> Vec<DeviceInfo> {
    #[cfg(feature = "cuda")]
    return cuda::list();
    #[cfg(not(feature = "cuda"))]
    vec![DeviceInfo::missing("cuda", DeviceKind::Discrete, "this build has no CUDA back end", NO_CUDA)]
}

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "build with `--features cuda`";

fn open_cuda(index: usize, precision: Precision, why: &str) -> Result<(Box<dyn Backend>, String)> {
    #[cfg(feature = "cuda")]
    return opened(cuda::Cuda::open(index, precision)?, why);
    #[cfg(not(feature = "cuda"))]
    Err(Error::device(
        format!("cuda:{index}"),
        format!("{why} with {precision:?}, but this build has no CUDA back end"),
        NO_CUDA,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "wgpu", "wgpu:0", "wgpu:12", "cuda", "cuda:1"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_choice_is_told_what_is_right() {
        for (text, hint) in [
            ("gpu", "auto, cpu, cuda"),
            ("cpu:1", "auto, cpu, cuda"),
            ("wgpu:", "wgpu:0"),
            ("wgpu:-1", "wgpu:0"),
            ("cuda:x", "cuda:0"),
        ] {
            let message = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(message.contains(hint), "{message}");
        }
    }

    #[test]
    fn auto_never_takes_a_software_device() {
        let info = |kind| DeviceInfo { available: true, ..DeviceInfo::missing("wgpu:0", kind, "", "") };
        let kinds = [DeviceKind::Software, DeviceKind::Integrated, DeviceKind::Discrete, DeviceKind::Discrete];
        assert_eq!(best(&kinds.map(info)).unwrap().0, 2);
        assert!(!best(&[info(DeviceKind::Software)]).unwrap().1.kind.is_gpu());
        let (backend, line) = open(&DeviceChoice::Auto, 1, Precision::F32).unwrap();
        assert!(line.starts_with(&backend.name()) && line.contains("auto"), "{line}");
    }

    #[test]
    fn every_absence_has_a_reason_and_advice() {
        let devices = devices();
        assert_eq!(devices[0].id, "cpu");
        assert!(devices.iter().any(|d| d.id.starts_with("wgpu")));
        for d in devices {
            assert!(!d.description.is_empty() && (d.available || d.advice.is_some()), "{d:?}");
        }
    }
}
