//! What every op promises: a name of its own, kernels for every target, samples that meet the awkward shapes, and a
//! gradient or a reason why there is none.

use moviola::engine::op::{Class, Gradient, OPS, Op, Sample, Target};
use moviola::engine::tensor::{HostTensor, Meta};
use std::collections::{BTreeMap, BTreeSet};

/// Ops whose operands have no ragged dimension, and why.
const NEVER_RAGGED: &[(&str, &str)] = &[
    ("clip_norm", "gradients are flat and as long as the parameters"),
    ("adam_w", "parameters are flat and as long as the model makes them"),
];

fn collect(what: impl Fn(&dyn Op) -> Option<String>) -> Vec<String> {
    OPS.iter().filter_map(|op| what(*op).map(|w| format!("{}: {w}", op.name()))).collect()
}

#[track_caller]
fn assert_none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} ops:\n{}", failures.len(), failures.join("\n"));
    assert!(OPS.len() >= 6, "OPS must not be empty");
}

#[test]
fn names_of_ops_are_unique() {
    let names: BTreeSet<&str> = OPS.iter().map(|op| op.name()).collect();
    assert_eq!(names.len(), OPS.len());
    assert_none(collect(|op| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (op.name().is_empty() || !op.name().chars().all(plain)).then(|| "is not snake_case".into())
    }));
}

#[test]
fn names_of_kernels_are_unique_and_their_operands_too() {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    assert_none(collect(|op| {
        op.kernels().iter().find_map(|k| {
            let names: BTreeSet<&str> = k.operands.iter().map(|f| f.name).collect();
            (names.len() < k.operands.len()).then(|| format!("kernel {} has two operands of one name", k.name))
        })
    }));
    for kernel in OPS.iter().flat_map(|op| op.kernels()) {
        // An op may use another op's kernel: one name is one definition.
        let address = std::ptr::from_ref(kernel) as usize;
        let first = *owners.entry(kernel.name).or_insert(address);
        assert_eq!(first, address, "two kernels are called {}", kernel.name);
    }
}

/// An op may have kernels of its own for each target; that its launches name those is seen when its samples are run.
#[test]
fn every_op_has_kernels_for_every_target() {
    for target in Target::ALL {
        assert_none(collect(|op| {
            let none = !op.kernels().iter().any(|k| k.supports(target));
            none.then(|| format!("no kernel for {target:?}"))
        }));
    }
    assert_none(collect(|op| {
        let idle = op.kernels().into_iter().find(|k| Target::ALL.iter().all(|t| !k.supports(*t)));
        idle.map(|k| format!("kernel {} has no code at all", k.name))
    }));
}

/// One test over all samples, since making them takes most of its time.
#[test]
fn samples_keep_the_contract() {
    let mut failures = vec![];
    for op in OPS {
        let samples = op.samples();
        let rules = [awkward_shapes, identity_and_shape, gradients, pairs_and_optional_outputs, too_many_operands];
        let broken = rules.iter().filter_map(|rule| rule(*op, &samples));
        failures.extend(broken.map(|what| format!("{}: {what}", op.name())));
    }
    assert_none(failures);
}

/// Has tiny samples and a ragged one.
fn awkward_shapes(op: &dyn Op, samples: &[Sample]) -> Option<String> {
    // An output may be ragged although no operand is.
    let ragged = samples.iter().any(|s| {
        let outs = s.op.infer(&s.metas).unwrap_or_default();
        s.metas.iter().chain(&outs).any(Meta::is_ragged)
    });
    let explained = NEVER_RAGGED.iter().any(|(name, _)| *name == op.name());
    if !samples.iter().any(|s| s.class == Class::Tiny) {
        return Some("has no tiny sample".into());
    }
    (!ragged && !explained).then(|| "has no ragged sample, nor a reason in NEVER_RAGGED".into())
}

/// Samples are of this op, have names of their own and fit its shape rule.
fn identity_and_shape(op: &dyn Op, samples: &[Sample]) -> Option<String> {
    let mut names = BTreeSet::new();
    samples.iter().find_map(|s| {
        if s.op.name() != op.name() {
            return Some(format!("sample {} is of {}", s.name, s.op.name()));
        }
        if !names.insert(&s.name) {
            return Some(format!("two samples are called {}", s.name));
        }
        let misfit = |(m, v): &(&Meta, &HostTensor)| !m.is_absent() && m.sizes(&s.counts) != v.shape;
        if let Some((m, v)) = s.metas.iter().zip(&s.ins).find(misfit) {
            return Some(format!("sample {}: an operand {m} got values of shape {:?}", s.name, v.shape));
        }
        s.op.infer(&s.metas).err().map(|e| format!("sample {}: {e}", s.name))
    })
}

/// A tiny sample's gradient is checked, or every sample says why not.
fn gradients(_: &dyn Op, samples: &[Sample]) -> Option<String> {
    let checked = samples.iter().any(|s| s.class == Class::Tiny && s.gradient == Gradient::Finite);
    let reason = samples.iter().all(|s| match s.gradient {
        Gradient::None(why) => !why.is_empty(),
        Gradient::Surrogate => true,
        Gradient::Finite => false,
    });
    (!checked && !reason).then(|| "has neither a tiny sample with a gradient nor a reason".into())
}

/// In-place pairs and optional outputs exist.
fn pairs_and_optional_outputs(_: &dyn Op, samples: &[Sample]) -> Option<String> {
    samples.iter().find_map(|s| {
        let outs = s.op.infer(&s.metas).ok()?.len();
        let pair = s.op.inplace().iter().find(|(i, o)| *i >= s.metas.len() || *o >= outs);
        let optional = s.op.optional().iter().find(|o| **o >= outs);
        match (pair, optional) {
            (Some(p), _) => Some(format!("pair {p:?} of {} operands and {outs} outputs", s.metas.len())),
            (_, Some(o)) => Some(format!("optional output {o} of {outs}")),
            _ => None,
        }
    })
}

/// So many operands fit no op, and its error names it.
fn too_many_operands(op: &dyn Op, samples: &[Sample]) -> Option<String> {
    let Some(sample) = samples.iter().find(|s| !s.metas.is_empty()) else { return Some("has no sample".into()) };
    let mut metas = sample.metas.clone();
    metas.extend(vec![metas[0].clone(); 9]);
    match sample.op.infer(&metas) {
        Ok(_) => Some("takes nine operands too many".into()),
        Err(e) => (!e.to_string().contains(op.name())).then(|| format!("its error does not name it: {e}")),
    }
}
