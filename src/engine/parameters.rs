//! The learned tensors of a model in one flat vector: offsets, first values, and how the optimiser treats each.
//! The layout belongs to the model, not to a plan: a checkpoint does not depend on batch size or device.

use super::graph::{ALIGN_ELEMENTS, Graph, Value};
use super::tensor::{Dim, Meta};
use crate::error::{Error, Result};
use crate::random::Random;

/// The name of the state that holds all parameters.
pub const STATE: &str = "params";

/// How a parameter starts.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Init {
    Constant(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// Rows of a convolution over time `[W, D]` that take a frame's predecessor from it.
    Difference,
}

/// One learned tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Whether weight decay applies: to matrices, not to biases and scales.
    pub decay: bool,
    /// Where values are kept after each step.
    pub range: (f32, f32),
    /// Factor of the learning rate; 0 for what stays as it was drawn.
    pub rate: f32,
    /// First element in the flat vector.
    pub offset: u64,
}

impl Parameter {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a model, in the order in which they were declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    pub list: Vec<Parameter>,
    /// Elements of the flat vector, gaps included.
    pub elements: u64,
}

impl Parameters {
    pub fn declare(&mut self, name: &str, shape: &[usize], init: Init, decay: bool, range: (f32, f32)) {
        self.adopt(&Parameter { name: name.into(), shape: shape.to_vec(), init, decay, range, rate: 1.0, offset: 0 });
    }

    /// `name.weight [out, in]`, normal with deviation 1/√in, and `name.bias [out]` of zeros.
    pub fn linear(&mut self, name: &str, out: usize, input: usize) {
        let deviation = 1.0 / (input as f32).sqrt();
        self.free(&format!("{name}.weight"), &[out, input], Init::Normal(deviation), true);
        self.free(&format!("{name}.bias"), &[out], Init::Constant(0.0), false);
    }

    /// A matrix or a table without a bound.
    pub fn free(&mut self, name: &str, shape: &[usize], init: Init, decay: bool) {
        self.declare(name, shape, init, decay, (f32::MIN, f32::MAX));
    }

    /// What is not learned: it stays as it is drawn or written.
    pub fn fixed(&mut self, name: &str, shape: &[usize], init: Init) {
        self.free(name, shape, init, false);
        self.freeze(name);
    }

    /// The logarithm of the scale of scores in a loss: 1/0.07 at first, at most 100.
    pub fn log_scale(&mut self, name: &str) {
        let init = Init::Constant((1.0f32 / 0.07).ln());
        self.declare(name, &[1], init, false, (f32::MIN, 100f32.ln()));
    }

    /// Multiplies the learning rate of every parameter whose name begins so.
    pub fn hasten(&mut self, prefix: &str, factor: f32) {
        self.list.iter_mut().filter(|p| p.name.starts_with(prefix)).for_each(|p| p.rate *= factor);
    }

    /// Keeps every parameter whose name begins so as it is drawn.
    pub fn freeze(&mut self, prefix: &str) {
        self.hasten(prefix, 0.0);
    }

    /// Declares a parameter of another model, as it is there.
    pub fn adopt(&mut self, p: &Parameter) {
        let offset = self.elements;
        self.elements = (offset + p.elements() as u64).next_multiple_of(ALIGN_ELEMENTS);
        self.list.push(Parameter { offset, ..p.clone() });
    }

    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|p| p.name == name)
    }

    /// Learned numbers, without gaps.
    pub fn count(&self) -> usize {
        self.list.iter().map(Parameter::elements).sum()
    }

    /// First values. A parameter draws from a stream of its own name, so that adding one leaves the others alone.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.elements as usize];
        for p in &self.list {
            let values = &mut flat[p.offset as usize..][..p.elements()];
            match p.init {
                Init::Constant(x) => values.fill(x),
                Init::Normal(deviation) => {
                    let random = Random::new(seed, stream_of(&p.name));
                    values.iter_mut().enumerate().for_each(|(i, x)| *x = deviation * random.normal(i as u64));
                }
                Init::Difference => {
                    let (width, cols) = (p.shape[0], p.shape[1]);
                    values[(width / 2) * cols..][..cols].fill(1.0);
                    if width > 1 {
                        values[(width / 2 - 1) * cols..][..cols].fill(-1.0);
                    }
                }
            }
        }
        flat
    }

    /// Element ranges `[G, 2]` and factors `[G, 4]` = (learning-rate multiplier, weight decay, min, max) for AdamW.
    pub fn groups(&self, weight_decay: f32) -> (Vec<u32>, Vec<f32>) {
        let ranges = (self.list.iter()).flat_map(|p| [p.offset as u32, (p.offset + p.elements() as u64) as u32]);
        let factors =
            (self.list.iter()).flat_map(|p| [p.rate, if p.decay { weight_decay } else { 0.0 }, p.range.0, p.range.1]);
        (ranges.collect(), factors.collect())
    }

    /// The flat state in a graph, and every parameter as a view of it.
    pub fn weights(&self, g: &mut Graph) -> Result<Weights> {
        self.weights_in(g, STATE)
    }

    /// The same with a state of another name.
    pub fn weights_in(&self, g: &mut Graph, state: &str) -> Result<Weights> {
        let flat = g.state(state, Meta::f32(&[Dim::Fixed(self.elements as usize)])?);
        let mut views = vec![];
        for p in &self.list {
            let mut dims: Vec<Dim> = p.shape.iter().map(|n| Dim::Fixed(*n)).collect();
            // What is a scalar in a checkpoint is a row of one number in a graph.
            if dims.is_empty() {
                dims.push(Dim::Fixed(1));
            }
            views.push((p.name.clone(), g.view(flat, p.offset, Meta::f32(&dims)?)?));
        }
        Ok(Weights { flat, views })
    }
}

/// FNV-1a of a name: a stream of random numbers of its own.
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Parameters as values of one graph.
pub struct Weights {
    pub flat: Value,
    pub views: Vec<(String, Value)>,
}

impl Weights {
    pub fn find(&self, name: &str) -> Option<Value> {
        self.views.iter().find(|v| v.0 == name).map(|v| v.1)
    }

    /// # Errors
    /// When the model declares no such parameter.
    pub fn get(&self, name: &str) -> Result<Value> {
        self.find(name).ok_or_else(|| Error::shape(format!("parameter {name}"), "was never declared"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_a_parameter_leaves_the_first_values_of_others_alone() {
        let mut a = Parameters::default();
        a.linear("video", 4, 8);
        let mut b = Parameters::default();
        b.linear("text", 4, 8);
        b.linear("video", 4, 8);
        let (one, two) = (a.initial(3), b.initial(3));
        let at = b.find("video.weight").unwrap().offset as usize;
        assert_eq!(one[..32], two[at..at + 32]);
        assert_ne!(one[..32], two[..32]);
    }
}
