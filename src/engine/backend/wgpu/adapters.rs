//! Which GPUs there are, what they are able to do, and how much memory they have.

use crate::engine::backend::{DeviceInfo, DeviceKind, cpu};
use ::wgpu::{Adapter, Backends, DeviceType, Instance, InstanceDescriptor, InstanceFlags};

/// What a person can do when no adapter is found, or only a software one.
pub const INSTALL: &str = "install the vendor's driver with Vulkan support (NVIDIA: the driver package; AMD and Intel: \
     mesa-vulkan-drivers, which also holds a software device), and libvulkan1";

/// The adapters of this machine, in an order that does not change while the machine does not. Without a Vulkan loader
/// or driver there are none.
pub fn enumerate() -> Vec<Adapter> {
    let instance = Instance::new(InstanceDescriptor {
        backends: Backends::PRIMARY,
        flags: InstanceFlags::empty(),
        ..InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(Backends::PRIMARY))
}

pub fn kind(adapter: &Adapter) -> DeviceKind {
    match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => DeviceKind::Discrete,
        DeviceType::IntegratedGpu => DeviceKind::Integrated,
        DeviceType::VirtualGpu => DeviceKind::Virtual,
        DeviceType::Cpu => DeviceKind::Software,
        DeviceType::Other => DeviceKind::Unknown,
    }
}

pub fn describe(index: usize, adapter: &Adapter) -> DeviceInfo {
    let (info, limits, kind) = (adapter.get_info(), adapter.limits(), kind(adapter));
    let parts = [info.name.clone(), kind.to_string(), info.driver, info.driver_info, info.backend.to_str().into()];
    let software = "right but slow, and meant for tests: the cpu device is made for these cores";
    DeviceInfo {
        id: format!("wgpu:{index}"),
        kind,
        available: true,
        description: parts.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(", "),
        memory: memory(adapter),
        max_buffer_bytes: Some(limits.max_buffer_size),
        max_binding_bytes: Some(limits.max_storage_buffer_binding_size),
        advice: (kind == DeviceKind::Software).then(|| software.into()),
    }
}

/// Bytes that plans may take, as far as the device says.
fn memory(adapter: &Adapter) -> Option<u64> {
    match kind(adapter) {
        // These take the system's memory.
        DeviceKind::Software | DeviceKind::Integrated => {
            Some(device_local(adapter).unwrap_or(u64::MAX).min(cpu::available_memory())).filter(|b| *b < u64::MAX)
        }
        _ => device_local(adapter),
    }
}

/// The size of the device's own heaps, which only Vulkan tells.
#[cfg(not(any(target_os = "macos", target_os = "windows")))]
fn device_local(adapter: &Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handle is only asked for properties and lives no longer than this function; `adapter` outlives it.
    let hal = unsafe { adapter.as_hal::<::wgpu::hal::api::Vulkan>() }?;
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: the physical device comes from this very instance, which the adapter keeps alive.
    let properties = unsafe { instance.get_physical_device_memory_properties(hal.raw_physical_device()) };
    let heaps = properties.memory_heaps.iter().take(properties.memory_heap_count as usize);
    Some(heaps.filter(|h| h.flags.as_raw() & DEVICE_LOCAL != 0).map(|h| h.size).fold(0, u64::saturating_add))
}

#[cfg(any(target_os = "macos", target_os = "windows"))]
fn device_local(_: &Adapter) -> Option<u64> {
    None
}
