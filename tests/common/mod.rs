//! What the tests of the back ends share.

use moviola::engine::backend::Backend;
use moviola::engine::check;
use moviola::engine::op::{Class, OPS};

/// Every sample of every op up to a class agrees with its reference.
pub fn check_all(backend: &mut dyn Backend, largest: Class) {
    let (mut failures, mut checked) = (vec![], 0);
    check::all(backend, OPS, largest, |f| {
        checked += 1;
        if !f.passed {
            failures.push(f.to_string());
        }
    });
    let (failed, name) = (failures.len(), backend.name());
    assert!(failures.is_empty(), "{failed} of {checked} failed on {name}:\n{}", failures.join("\n"));
    assert!(checked > 50);
}
