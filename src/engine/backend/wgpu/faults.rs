//! Errors that a device reports beside the call that caused them: kept until the next call can return them.

use crate::error::{Error, Result};
use ::wgpu::Device;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
enum Fault {
    OutOfMemory,
    Refused(String),
    Lost(String),
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

    /// # Errors
    /// The first fault since the last call; `doing` is what was done.
    pub fn check(&self, device: &str, doing: &str) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = kept.take() else { return Ok(()) };
        Err(match fault {
            Fault::OutOfMemory => Error::device(
                device,
                format!("ran out of memory {doing}"),
                "use smaller batches, or end other programs that use this device",
            ),
            Fault::Refused(why) => {
                let fix = "this is a fault of Moviola or of the driver: please report it, and use --device cpu";
                Error::device(device, format!("refused {doing}: {}", why.trim()), fix)
            }
            Fault::Lost(why) => {
                *kept = Some(Fault::Lost(why.clone()));
                let fix = "start again; if it happens again, update the driver or use smaller batches";
                Error::device(device, format!("was lost {doing}: {why}"), fix)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_told_once_and_a_loss_for_ever() {
        let faults = Faults::default();
        assert!(faults.check("d", "x").is_ok());
        faults.record(Fault::Refused("first".into()));
        faults.record(Fault::OutOfMemory);
        assert!(faults.check("d", "x").unwrap_err().to_string().contains("first"));
        assert!(faults.check("d", "x").is_ok());
        faults.record(Fault::Refused("second".into()));
        faults.record(Fault::Lost("unplugged".into()));
        for _ in 0..2 {
            assert!(faults.check("d", "x").unwrap_err().to_string().contains("unplugged"));
        }
    }
}
