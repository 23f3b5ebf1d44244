//! What a device must be able to do, and which devices there are.

pub mod cpu;
pub mod null;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use super::op::Ctx;
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
            ("wgpu", Some(number)) => match number.parse() {
                Ok(n) => Ok(DeviceChoice::Wgpu(Some(n))),
                Err(_) => bad("names no adapter", "write a number behind the colon, as in wgpu:0"),
            },
            ("cuda", _) => bad("is not in this build, which has no CUDA back end", "use wgpu, cpu or auto"),
            _ => bad("is not a device", "use auto, cpu, wgpu or wgpu:N"),
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
    devices.extend(gpus());
    if devices.len() == 1 {
        devices.push(DeviceInfo::missing("wgpu", DeviceKind::Unknown, "no adapter was found", NO_GPU));
    }
    let advice = "use --device wgpu, which also runs NVIDIA GPUs";
    devices.push(DeviceInfo::missing("cuda", DeviceKind::Discrete, "this build has no CUDA back end", advice));
    devices
}

/// Opens a device. With it comes the line for a person: which it is and why.
///
/// # Errors
/// When the device that was asked for is absent or refuses; `auto` falls back to the CPU and says so.
pub fn open(choice: &DeviceChoice, threads: usize) -> Result<(Box<dyn Backend>, String)> {
    match *choice {
        DeviceChoice::Cpu => open_cpu(threads, "asked for"),
        DeviceChoice::Wgpu(Some(index)) => open_gpu(index, "asked for"),
        DeviceChoice::Wgpu(None) => match best(&gpus()) {
            Some((index, _)) => open_gpu(index, "the best that wgpu found"),
            None => Err(Error::device("wgpu", "no adapter was found", NO_GPU)),
        },
        DeviceChoice::Auto => match best(&gpus()) {
            Some((index, info)) if info.kind.is_gpu() => match open_gpu(index, &format!("auto: a {}", info.kind)) {
                Ok(opened) => Ok(opened),
                Err(e) => open_cpu(threads, &format!("auto: {e}")),
            },
            Some(_) => open_cpu(threads, "auto: no GPU was found, only a software device"),
            None => open_cpu(threads, "auto: no GPU was found"),
        },
    }
}

fn open_cpu(threads: usize, why: &str) -> Result<(Box<dyn Backend>, String)> {
    let backend: Box<dyn Backend> = Box::new(cpu::Cpu::new(threads)?);
    let line = format!("{} ({why})", backend.name());
    Ok((backend, line))
}

/// The adapter to prefer; of equals the first.
fn best(gpus: &[DeviceInfo]) -> Option<(usize, &DeviceInfo)> {
    gpus.iter().enumerate().min_by_key(|(_, info)| info.kind)
}

#[cfg(feature = "wgpu")]
use wgpu::INSTALL as NO_GPU;

#[cfg(feature = "wgpu")]
fn gpus() -> Vec<DeviceInfo> {
    wgpu::list()
}

#[cfg(feature = "wgpu")]
fn open_gpu(index: usize, why: &str) -> Result<(Box<dyn Backend>, String)> {
    let backend: Box<dyn Backend> = Box::new(wgpu::Gpu::open(index)?);
    let line = format!("{} ({why})", backend.name());
    Ok((backend, line))
}

#[cfg(not(feature = "wgpu"))]
const NO_GPU: &str = "build with `--features wgpu`";

#[cfg(not(feature = "wgpu"))]
fn gpus() -> Vec<DeviceInfo> {
    vec![]
}

#[cfg(not(feature = "wgpu"))]
fn open_gpu(index: usize, _: &str) -> Result<(Box<dyn Backend>, String)> {
    Err(Error::device(format!("wgpu:{index}"), "this build has no wgpu back end", NO_GPU))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "wgpu", "wgpu:0", "wgpu:12"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_choice_is_told_what_is_right() {
        for (text, hint) in [
            ("gpu", "auto, cpu, wgpu"),
            ("cpu:1", "auto, cpu, wgpu"),
            ("wgpu:", "wgpu:0"),
            ("wgpu:-1", "wgpu:0"),
            ("cuda:0", "no CUDA"),
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
        let (backend, line) = open(&DeviceChoice::Auto, 1).unwrap();
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
