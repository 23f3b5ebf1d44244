//! What a device must be able to do, and which devices there are.

pub mod cpu;
pub mod null;

use super::op::Ctx;
use super::scheduler::plan::{Plan, Region, RegionBytes};
use super::tensor::Counts;
use crate::error::Result;
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
