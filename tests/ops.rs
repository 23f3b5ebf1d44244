//! Every sample of every op, on the CPU, against its f64 reference: direct and through the arena, with poisoned
//! memory and guards around every tensor.

use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::check::{self, Way};
use moviola::engine::op::{Class, OPS};

fn check_all(backend: &mut dyn Backend, largest: Class) {
    let mut failures = vec![];
    let mut checked = 0;
    for op in OPS {
        for sample in op.samples().iter().filter(|s| s.class <= largest) {
            for way in [Way::Direct, Way::Arena] {
                checked += 1;
                match check::run(backend, sample, way) {
                    Ok(v) if v.error <= sample.tolerance => {}
                    Ok(v) => {
                        failures.push(format!("{} [{}] {way:?}: {:.2e}, {}", op.name(), sample.name, v.error, v.what))
                    }
                    Err(e) => failures.push(format!("{} [{}] {way:?}: {e}", op.name(), sample.name)),
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {checked} failed on {}:\n{}",
        failures.len(),
        backend.name(),
        failures.join("\n")
    );
    assert!(checked > 50);
}

#[test]
fn cpu_agrees_with_every_reference() {
    check_all(&mut Cpu::new(2).unwrap(), Class::Full);
}
