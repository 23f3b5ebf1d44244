//! Runs a graph in f64 through the ops' references: the judge of every back end and of every gradient.

use super::graph::{Graph, Kind, Value};
use super::tensor::{Counts, HostTensor, Meta};
use std::collections::HashMap;

/// Every value of the graph. `given` holds inputs and states by name, in true sizes.
pub fn evaluate(g: &Graph, given: &HashMap<String, HostTensor>, counts: &Counts) -> HashMap<Value, HostTensor> {
    let mut values: HashMap<Value, HostTensor> = HashMap::new();
    for (i, node) in g.nodes.iter().enumerate() {
        let ins: Vec<HostTensor> =
            node.ins.iter().map(|v| if v.is_absent() { HostTensor::absent() } else { values[v].clone() }).collect();
        let outs = match &node.kind {
            Kind::Input(name) | Kind::State(name) => {
                vec![given.get(name).unwrap_or_else(|| panic!("no value given for {name}")).clone()]
            }
            Kind::Fill(x) => {
                let sizes = node.outs[0].sizes(counts);
                let n = sizes.iter().product();
                vec![HostTensor::f64(&sizes, vec![f64::from(*x); n])]
            }
            Kind::View(offset) => vec![view(&ins[0], *offset as usize, &node.outs[0], counts)],
            Kind::Pack(offsets) => vec![pack(&ins, offsets, &node.outs[0])],
            Kind::Apply(op) => op.reference(&ins, counts),
        };
        for (out, tensor) in outs.into_iter().enumerate() {
            values.insert(Value { node: i as u32, out: out as u32 }, tensor);
        }
    }
    values
}

fn view(source: &HostTensor, offset: usize, meta: &Meta, counts: &Counts) -> HostTensor {
    let sizes = meta.sizes(counts);
    let n: usize = sizes.iter().product();
    HostTensor::f64(&sizes, source.x()[offset..offset + n].to_vec())
}

fn pack(parts: &[HostTensor], offsets: &[u64], meta: &Meta) -> HostTensor {
    let mut flat = HostTensor::zeros(&[meta.elements() as usize]);
    for (part, offset) in parts.iter().zip(offsets) {
        flat.x_mut()[*offset as usize..][..part.elements()].copy_from_slice(part.x());
    }
    flat
}
