//! Every sample of every op, on the CPU, against its f64 reference: direct and through the arena, with poisoned
//! memory and guards around every tensor.

mod common;

use moviola::engine::backend::cpu::Cpu;
use moviola::engine::op::Class;

#[test]
fn cpu_agrees_with_every_reference() {
    common::check_all(&mut Cpu::new(2).unwrap(), Class::Full);
}
