//! Every rewrite, before and after: the text of the graph, and the same results by the references.

mod graphs;

use graphs::*;
use moviola::engine::fuse::{fuse, rewrites};
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::linear::Linear;
use moviola::engine::op::pointwise::UnaryKind;
use std::collections::BTreeSet;

/// x [4, 6], w [5, 6] and bias [5] as inputs; a product [4, 5].
fn product() -> (Graph, Value) {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[4, 6]));
    let w = g.input("w", f32s(&[5, 6]));
    let bias = g.input("bias", f32s(&[5]));
    let y = g.apply(Linear::new(false, true), &[x, w, bias, Value::ABSENT]).unwrap();
    (g, y)
}

/// The largest relative difference of any output or new state.
fn difference(before: &Graph, after: &Graph, seed: u64) -> f64 {
    let given = given(before, &counts(), seed);
    let (left, right) = (step(before, &given, &counts()), step(after, &given, &counts()));
    let names = before.outputs.iter().map(|o| &o.0).chain(given.keys());
    let mut worst = 0.0f64;
    for name in names {
        let (l, r) = (&left[name], &right[name]);
        assert_eq!(l.shape, r.shape, "{name}");
        let scale = l.x().iter().fold(1.0f64, |m, x| m.max(x.abs()));
        for (a, b) in l.x().iter().zip(r.x()) {
            let d = (a - b).abs() / scale;
            worst = if d.is_nan() { f64::INFINITY } else { worst.max(d) };
        }
    }
    worst
}

fn assert_becomes(before: &Graph, after: &str) {
    let fused = fuse(before);
    let text: Vec<String> = fused.dump().lines().map(str::to_string).collect();
    let want: Vec<&str> = after.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(text, want, "\nbefore:\n{}after:\n{}", before.dump(), fused.dump());
    let worst = difference(before, &fused, seed());
    assert!(worst < 1e-6, "results differ by {worst}");
}

const INPUTS: &str = "
    %0 = input x() -> f32[4, 6]
    %1 = input w() -> f32[5, 6]
    %2 = input bias() -> f32[5]
";

#[test]
fn an_activation_goes_into_the_linear_before_it() {
    let (mut g, y) = product();
    let z = g.apply(unary(UnaryKind::GeluTanh), &[y]).unwrap();
    g.output("z", z);
    assert_becomes(
        &g,
        &format!(
            "{INPUTS}
            %3 = Linear {{ a_t: false, b_t: true, activation: GeluTanh }}(%0, %1, %2, -) -> f32[4, 5]
            output z = %3"
        ),
    );
}

#[test]
fn a_product_that_somebody_else_reads_keeps_its_activation_outside() {
    let (mut g, y) = product();
    let z = g.apply(unary(UnaryKind::GeluTanh), &[y]).unwrap();
    g.output("z", z);
    g.output("y", y);
    let text = g.dump();
    assert_becomes(&g, &text);
}

#[test]
fn a_function_without_epilogue_stays_outside() {
    let (mut g, y) = product();
    let z = g.apply(unary(UnaryKind::Tanh), &[y]).unwrap();
    g.output("z", z);
    let text = g.dump();
    assert_becomes(&g, &text);
}

#[test]
fn a_sum_goes_into_the_linear_as_its_residual_from_either_side() {
    for flipped in [false, true] {
        let (mut g, y) = product();
        let r = g.input("r", f32s(&[4, 5]));
        let operands = if flipped { [r, y] } else { [y, r] };
        let z = g.apply(add(), &operands).unwrap();
        g.output("z", z);
        assert_becomes(
            &g,
            &format!(
                "{INPUTS}
                %3 = input r() -> f32[4, 5]
                %4 = Linear {{ a_t: false, b_t: true, activation: None }}(%0, %1, %2, %3) -> f32[4, 5]
                output z = %4"
            ),
        );
    }
}

#[test]
fn activation_then_residual_fuse_both_and_in_the_other_order_only_the_residual() {
    let (mut g, y) = product();
    let r = g.input("r", f32s(&[4, 5]));
    let z = g.apply(unary(UnaryKind::Relu), &[y]).unwrap();
    let z = g.apply(add(), &[r, z]).unwrap();
    g.output("z", z);
    assert_becomes(
        &g,
        &format!(
            "{INPUTS}
            %3 = input r() -> f32[4, 5]
            %4 = Linear {{ a_t: false, b_t: true, activation: Relu }}(%0, %1, %2, %3) -> f32[4, 5]
            output z = %4"
        ),
    );
    let (mut g, y) = product();
    let r = g.input("r", f32s(&[4, 5]));
    let z = g.apply(add(), &[r, y]).unwrap();
    let z = g.apply(unary(UnaryKind::Relu), &[z]).unwrap();
    g.output("z", z);
    assert_becomes(
        &g,
        &format!(
            "{INPUTS}
            %3 = input r() -> f32[4, 5]
            %4 = Linear {{ a_t: false, b_t: true, activation: None }}(%0, %1, %2, %3) -> f32[4, 5]
            %5 = Unary {{ kind: Relu }}(%4) -> f32[4, 5]
            output z = %5"
        ),
    );
}

#[test]
fn a_product_added_to_itself_is_not_its_own_residual() {
    let (mut g, y) = product();
    let z = g.apply(add(), &[y, y]).unwrap();
    g.output("z", z);
    let text = g.dump();
    assert_becomes(&g, &text);
}

#[test]
fn affine_of_affine_of_affine_is_one() {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[3]));
    let y = g.apply(affine(2.0, 1.0), &[x]).unwrap();
    let y = g.apply(affine(-3.0, 0.5), &[y]).unwrap();
    let y = g.apply(affine(0.5, 0.0), &[y]).unwrap();
    g.output("y", y);
    assert_becomes(
        &g,
        "%0 = input x() -> f32[3]
         %1 = Unary { kind: Affine { a: -3.0, b: -1.25 } }(%0) -> f32[3]
         output y = %1",
    );
}

#[test]
fn affines_whose_product_overflows_stay_apart() {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[3]));
    let y = g.apply(affine(1e-30, 0.0), &[x]).unwrap();
    let y = g.apply(affine(1e30, 1.0), &[y]).unwrap();
    let y = g.apply(affine(1e30, 0.0), &[y]).unwrap();
    let y = g.apply(affine(1e30, 0.0), &[y]).unwrap();
    g.output("y", y);
    assert!(!fuse(&g).dump().contains("inf"), "{}", fuse(&g).dump());
}

#[test]
fn an_identity_goes_and_its_readers_read_its_source() {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[3]));
    let same = g.apply(affine(1.0, 0.0), &[x]).unwrap();
    let y = g.apply(add(), &[same, same]).unwrap();
    let unused = g.apply(unary(UnaryKind::Exp), &[same]).unwrap();
    assert_eq!(unused.node, 3);
    g.output("y", y);
    g.output("same", same);
    assert_becomes(
        &g,
        "%0 = input x() -> f32[3]
         %1 = Binary { kind: Add }(%0, %0) -> f32[3]
         output y = %1
         output same = %0",
    );
}

#[test]
fn an_identity_between_two_states_stays_since_states_are_not_assigned_to_states() {
    let mut g = Graph::new();
    let a = g.state("a", f32s(&[64]));
    let b = g.state("b", f32s(&[64]));
    let same = g.apply(affine(1.0, 0.0), &[a]).unwrap();
    g.assign(b, same).unwrap();
    let text = g.dump();
    assert_becomes(&g, &text);
}

#[test]
fn every_rewrite_has_a_test_above() {
    let named: BTreeSet<&str> = rewrites().collect();
    let tested = ["activation into linear", "affine of affine", "identity", "residual into linear"];
    assert_eq!(named, tested.into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn fused_random_graphs_compute_the_same_and_run() {
    let seed = seed();
    let mut smaller = 0;
    for round in 0..300 {
        let mut dice = Dice::new(seed, round);
        let size = 10 + dice.below(30);
        let g = random_graph(&mut dice, size);
        let fused = fuse(&g);
        let worst = difference(&g, &fused, seed);
        assert!(worst < 1e-5, "seed {seed} round {round}: {worst}\n{}\n{}", g.dump(), fused.dump());
        let ran = run(&fused, seed).unwrap();
        assert_eq!(ran, None, "seed {seed} round {round}\n{}\n{}", g.dump(), fused.dump());
        assert_eq!(fuse(&fused).dump(), fused.dump(), "seed {seed} round {round}: a second pass finds more");
        let live = g.live().iter().filter(|l| **l).count();
        smaller += usize::from(fused.nodes.len() < live);
    }
    assert!(smaller > 50, "seed {seed}: only {smaller} of 300 graphs became smaller");
}

#[test]
fn a_training_graph_fuses_without_losing_outputs_or_assignments() {
    let g = small_model();
    let fused = fuse(&g);
    assert!(difference(&g, &fused, seed()) < 1e-6);
    assert_eq!((fused.outputs.len(), fused.assigns.len()), (g.outputs.len(), g.assigns.len()));
    assert!(fused.nodes.len() < g.live().iter().filter(|l| **l).count());
}
