//! From `--device` to a back end, with the line that says which one and why.

use super::{Common, output};
use crate::engine::backend::{self, Backend, DeviceChoice};
use crate::error::Result;

/// Opens the device that was asked for.
pub fn open(common: &Common) -> Result<Box<dyn Backend>> {
    let choice: DeviceChoice = common.device.parse()?;
    let (backend, why) = backend::open(&choice, common.threads, common.precision.into())?;
    output::note(common, why);
    Ok(backend)
}
