//! Every op's benchmark sample on the CPU: `cargo bench --bench ops [-- FILTER]`. For the share of the roofline, and for
//! GPUs, use `moviola bench ops`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moviola::engine::backend::Backend;
use moviola::engine::backend::cpu::Cpu;
use moviola::engine::bench::load;
use moviola::engine::op::{Class, OPS};

fn ops(c: &mut Criterion) {
    let mut cpu = Cpu::new(0).expect("threads");
    for op in OPS {
        let mut group = c.benchmark_group(op.name());
        for sample in op.samples().iter().filter(|s| s.class == Class::Bench) {
            let cost = load(&mut cpu, sample).expect("samples plan and load").cost;
            group.throughput(Throughput::Bytes(cost.bytes_in + cost.bytes_out));
            group.bench_function(&sample.name, |b| {
                b.iter(|| {
                    cpu.submit(0, 0, sample.counts).expect("a loaded plan runs");
                    cpu.wait().expect("a loaded plan ends");
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = ops
}
criterion_main!(benches);
