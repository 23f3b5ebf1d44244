//! The same bits with one thread and with two: every kernel of the CPU back end divides its work into parts of a fixed
//! size and adds in a fixed order.

use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::check::{laid_out, positions};
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::{Class, OPS, Sample};
use moviola::engine::scheduler::plan::{Region, StateLayout, plan};
use std::sync::Arc;

/// The words of every output of a sample, below the counts.
fn outputs(sample: &Sample, threads: usize) -> Vec<Vec<u32>> {
    let mut g = Graph::new();
    let mut ins = vec![];
    for (i, meta) in sample.metas.iter().enumerate() {
        ins.push(if meta.is_absent() { Value::ABSENT } else { g.input(format!("in{i}"), meta.clone()) });
    }
    for (o, out) in g.apply_arc(sample.op.clone(), &ins).unwrap().into_iter().enumerate() {
        g.output(format!("out{o}"), out);
    }
    let mut cpu = Cpu::new(threads).unwrap();
    let plan = Arc::new(plan(&sample.name, &g, &StateLayout::default(), &cpu.ctx()).unwrap());
    cpu.load(std::slice::from_ref(&plan), plan.bytes, 1).unwrap();
    for (i, (meta, value)) in sample.metas.iter().zip(&sample.ins).enumerate() {
        if let Some(slot) = plan.input(&format!("in{i}")) {
            let words = laid_out(meta, value, &sample.counts);
            cpu.write(Region::In, 0, slot.span.offset, bytemuck::cast_slice(&words)).unwrap();
        }
    }
    cpu.submit(0, 0, sample.counts).unwrap();
    cpu.wait().unwrap();
    (plan.outputs.iter())
        .map(|slot| {
            let mut words = vec![0u32; slot.meta.elements() as usize];
            cpu.read(Region::Out, 0, slot.span.offset, bytemuck::cast_slice_mut(&mut words)).unwrap();
            positions(&slot.meta, &sample.counts).into_iter().map(|at| words[at]).collect()
        })
        .collect()
}

#[test]
fn two_threads_give_the_bits_of_one() {
    let mut differing = vec![];
    let mut checked = 0;
    for op in OPS {
        for sample in op.samples().iter().filter(|s| s.class <= Class::Full) {
            checked += 1;
            if outputs(sample, 1) != outputs(sample, 2) {
                differing.push(format!("{} [{}]", op.name(), sample.name));
            }
        }
    }
    assert!(differing.is_empty(), "{} of {checked} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(checked > 100);
}
