//! Errors that a device reports beside the call that caused them: kept until the next call can return them.

use crate::error::Error;
use ::wgpu::Device;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub enum Fault {
    OutOfMemory,
    Refused(String),
    Lost(String),
}

impl Fault {
    /// As an error of `device`; `doing` is what was done when it came to light.
    pub fn error(self, device: String, doing: impl Display) -> Error {
        let (what, fix) = match self {
            Fault::OutOfMemory => (
                format!("ran out of memory {doing}"),
                "use smaller batches, or end other programs that use this device",
            ),
            Fault::Refused(why) => (
                format!("refused {doing}: {}", why.trim()),
                "this is a fault of Moviola or of the driver: please report it, and use --device cpu",
            ),
            Fault::Lost(why) => (
                format!("was lost {doing}: {why}"),
                "start again; if it happens again, update the driver or use smaller batches",
            ),
        };
        Error::device(device, what, fix)
    }
}

/// The first fault of a device. A lost device stays lost.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    /// Listens to a device. Without this wgpu would end the process at the first error.
    pub fn watch(device: &Device) -> Faults {
        let faults = Faults::default();
        let errors = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            errors.record(match error {
                ::wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                ::wgpu::Error::Validation { description, .. } | ::wgpu::Error::Internal { description, .. } => {
                    Fault::Refused(description)
                }
            });
        }));
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != ::wgpu::DeviceLostReason::Destroyed {
                lost.record(Fault::Lost(message));
            }
        });
        faults
    }

    fn record(&self, fault: Fault) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() || matches!(fault, Fault::Lost(_)) {
            *kept = Some(fault);
        }
    }

    /// The first fault since the last call.
    pub fn take(&self) -> Option<Fault> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Fault::Lost(_)) = *kept { kept.clone() } else { kept.take() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_told_once_and_a_loss_for_ever() {
        let faults = Faults::default();
        let told = |faults: &Faults| faults.take().map(|f| f.error("d".into(), "computing").to_string());
        assert_eq!(told(&faults), None);
        faults.record(Fault::Refused("first".into()));
        faults.record(Fault::OutOfMemory);
        assert!(told(&faults).unwrap().contains("first"));
        assert_eq!(told(&faults), None);
        faults.record(Fault::Refused("second".into()));
        faults.record(Fault::Lost("unplugged".into()));
        for _ in 0..2 {
            assert!(told(&faults).unwrap().contains("unplugged"));
        }
    }
}
