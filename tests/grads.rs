//! Every op's gradient rule against finite differences of its f64 reference.

use moviola::engine::check;
use moviola::engine::op::{Class, Gradient, OPS};

#[test]
fn every_gradient_agrees_with_finite_differences() {
    let mut failures = vec![];
    let mut checked = 0;
    for op in OPS {
        for sample in op.samples().iter().filter(|s| s.class == Class::Tiny && s.gradient == Gradient::Finite) {
            checked += 1;
            match check::gradient(sample) {
                Ok(v) if v.error <= 1e-5 => {}
                Ok(v) => failures.push(format!("{} [{}]: {:.2e}, {}", op.name(), sample.name, v.error, v.what)),
                Err(e) => failures.push(format!("{} [{}]: {e}", op.name(), sample.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} of {checked} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 30);
}
