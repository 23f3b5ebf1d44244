//! What the tests of the back ends share.

use moviola::engine::backend::Backend;
use moviola::engine::check::{self, Way};
use moviola::engine::op::{Class, OPS, Op, Target};

/// The ops that have all of their kernels for a target; names the others, which are errors when a plan is made.
pub fn ops_of(target: Target) -> Vec<&'static dyn Op> {
    let (complete, lacking): (Vec<&dyn Op>, Vec<&dyn Op>) =
        OPS.iter().copied().partition(|op| op.kernels().iter().all(|k| k.supports(target)));
    for op in lacking {
        eprintln!("{} has no kernel for {target:?}, and is not tested", op.name());
    }
    complete
}

/// Runs every sample of every op of the back end up to a class, both ways, against its f64 reference.
pub fn check_all(backend: &mut dyn Backend, largest: Class) {
    let mut failures = vec![];
    let mut checked = 0;
    for op in ops_of(backend.ctx().target) {
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
