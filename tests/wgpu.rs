//! Every sample of every op through wgpu, on the first adapter there is.
#![cfg(feature = "wgpu")]

mod common;

use moviola::engine::backend::wgpu::{Gpu, INSTALL, list};
use moviola::engine::op::Class;

fn open() -> Gpu {
    assert!(!list().is_empty(), "these tests need an adapter, a software one suffices: {INSTALL}");
    Gpu::open(0).unwrap()
}

#[test]
fn the_first_adapter_agrees_with_every_reference() {
    common::check_all(&mut open(), Class::Full);
}
