//! Which parameters of an encoder are trained: all, those of its last layers, or small ones beside them.
//!
//! What is trained and what is not lie in two flat vectors, so that neither gradients nor the optimiser's moments are
//! made for what stays as it is.

use super::checkpoint::Changed;
use super::layers::Outline;
use crate::engine::graph::{Graph, Value};
use crate::engine::op::linear::Linear;
use crate::engine::op::pointwise::{Unary, UnaryKind};
use crate::engine::parameters::{Init, Parameters, Weights};
use crate::engine::scheduler::executor::Executor;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What of an encoder is trained.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Tuning {
    None,
    /// For every query and value projection W two matrices of this rank R, `W + α/R · B A`, W itself staying as it is
    /// (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", sections 4.1 and 4.2).
    Lora(usize),
    /// So many layers from the end, and what comes behind them.
    Last(usize),
    All,
}

impl FromStr for Tuning {
    type Err = Error;
    fn from_str(text: &str) -> Result<Tuning> {
        let number = |n: &str| n.parse().ok().filter(|n| (1..=256).contains(n));
        let found = match text.split_once(':') {
            None if text == "none" => Some(Tuning::None),
            None if text == "all" => Some(Tuning::All),
            Some(("lora", n)) => number(n).map(Tuning::Lora),
            Some(("last", n)) => number(n).map(Tuning::Last),
            _ => None,
        };
        found.ok_or_else(|| {
            let fix = "use none, all, lora:R or last:N, with numbers from 1 to 256";
            Error::config("--tune-encoder", format!("is {text:?}"), fix)
        })
    }
}

impl TryFrom<String> for Tuning {
    type Error = Error;
    fn try_from(text: String) -> Result<Tuning> {
        text.parse()
    }
}

impl From<Tuning> for String {
    fn from(tuning: Tuning) -> String {
        tuning.to_string()
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Tuning::None => write!(f, "none"),
            Tuning::Lora(rank) => write!(f, "lora:{rank}"),
            Tuning::Last(layers) => write!(f, "last:{layers}"),
            Tuning::All => write!(f, "all"),
        }
    }
}

/// The parameters of an encoder, apart.
pub struct Tuned {
    /// What is trained; of LoRA the two matrices, under the names that PEFT has for them.
    pub moved: Parameters,
    /// What stays as the checkpoint has it.
    pub still: Parameters,
    /// The matrices of `still` that have two of `moved` beside them.
    adapted: Vec<String>,
    /// α/R
    scale: f32,
}

const STILL: &str = "still";
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";

impl Tuned {
    /// Takes the parameters of an encoder apart. `others` are trained in any case but [`Tuning::None`]: what belongs to no
    /// tower.
    pub fn new(whole: &Parameters, outlines: &[Outline], tuning: Tuning, alpha: f32, others: &[&str]) -> Result<Tuned> {
        let mut tuned =
            Tuned { moved: Parameters::default(), still: Parameters::default(), adapted: vec![], scale: 1.0 };
        let chosen: Vec<&str> = match tuning {
            Tuning::Last(layers) => (outlines.iter())
                .flat_map(|o| {
                    let last = o.layers.iter().rev().take(layers).flat_map(|n| n.all());
                    last.chain(o.head.iter().copied())
                })
                .collect(),
            _ => vec![],
        };
        let moves = |name: &str| match tuning {
            Tuning::None => false,
            Tuning::All => true,
            _ if others.contains(&name) => true,
            Tuning::Lora(_) => false,
            Tuning::Last(_) => name.rsplit_once('.').is_some_and(|(part, _)| chosen.contains(&part)),
        };
        for p in &whole.list {
            if moves(&p.name) { tuned.moved.adopt(p) } else { tuned.still.adopt(p) }
        }
        if let Tuning::Lora(rank) = tuning {
            tuned.scale = alpha / rank as f32;
            for name in outlines.iter().flat_map(|o| &o.layers).flat_map(|n| [&n.query, &n.value]) {
                tuned.adapt(name, rank)?;
            }
        }
        Ok(tuned)
    }

    fn adapt(&mut self, name: &str, rank: usize) -> Result<()> {
        let matrix = format!("{name}.weight");
        let shape = self.still.find(&matrix).map(|p| p.shape.clone()).unwrap_or_default();
        let [out, input] = shape[..] else {
            return Err(Error::shape(format!("parameter {matrix}"), "is no matrix that could be adapted"));
        };
        if rank > out.min(input) {
            let fix = format!("use a rank of at most {}", out.min(input));
            return Err(Error::config("--tune-encoder", format!("lora:{rank} is beyond {matrix}"), fix));
        }
        // Kaiming's deviation with a = √5, as in the authors' code; with B at 0 the encoder starts as it was.
        let deviation = (3.0 * input as f32).sqrt().recip();
        self.moved.free(&format!("{name}.{A}"), &[rank, input], Init::Normal(deviation), true);
        self.moved.free(&format!("{name}.{B}"), &[out, rank], Init::Constant(0.0), true);
        self.adapted.push(name.into());
        Ok(())
    }

    /// All of the encoder's parameters by its own names. What moves is found in `moved`, its names behind `prefix`.
    pub fn weights(&self, g: &mut Graph, moved: &Weights, prefix: &str) -> Result<Weights> {
        let mut all = Weights { flat: moved.flat, views: vec![] };
        if !self.still.list.is_empty() {
            all.views = self.still.weights_in(g, STILL)?.views;
        }
        for p in &self.moved.list {
            all.views.push((p.name.clone(), moved.get(&format!("{prefix}{}", p.name))?));
        }
        for name in &self.adapted {
            let matrix = format!("{name}.weight");
            let [w, a, b] = [matrix.clone(), format!("{name}.{A}"), format!("{name}.{B}")].map(|n| all.get(&n));
            let b = g.apply(Unary { kind: UnaryKind::Affine { a: self.scale, b: 0.0 } }, &[b?])?;
            let sum = g.apply(Linear::new(false, false), &[b, a?, Value::ABSENT, w?])?;
            all.views.iter_mut().filter(|v| v.0 == matrix).for_each(|v| v.1 = sum);
        }
        Ok(all)
    }

    /// First values of what moves and of what stays: the checkpoint's where it has them, else drawn.
    pub fn initial(&self, whole: &Parameters, values: &[f32], seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut both = [&self.moved, &self.still].map(|p| (p, p.initial(seed)));
        for (parameters, flat) in &mut both {
            for p in &parameters.list {
                if let Some(from) = whole.find(&p.name) {
                    let from = &values[from.offset as usize..][..from.elements()];
                    flat[p.offset as usize..][..p.elements()].copy_from_slice(from);
                }
            }
        }
        let [(_, moved), (_, still)] = both;
        (moved, still)
    }

    /// Gives what stays to a device.
    pub fn write_still(&self, executor: &mut Executor, still: &[f32]) -> Result<()> {
        if self.still.list.is_empty() { Ok(()) } else { executor.write_state(STILL, still) }
    }

    /// What a checkpoint has to change, given what moved; matrices that were adapted are summed up.
    pub fn changed(&self, moved: &[f32], still: &[f32]) -> Changed {
        let of = |parameters: &Parameters, flat: &[f32], name: &str| {
            let p = parameters.find(name);
            p.map_or(vec![], |p| flat[p.offset as usize..][..p.elements()].to_vec())
        };
        let beside = |name: &str| self.adapted.iter().any(|n| [A, B].iter().any(|x| *name == format!("{n}.{x}")));
        let own = self.moved.list.iter().filter(|p| !beside(&p.name));
        let mut changed: Changed = own.map(|p| (p.name.clone(), of(&self.moved, moved, &p.name))).collect();
        for name in &self.adapted {
            let matrix = format!("{name}.weight");
            let mut sum = of(&self.still, still, &matrix);
            let (a, b) =
                (of(&self.moved, moved, &format!("{name}.{A}")), of(&self.moved, moved, &format!("{name}.{B}")));
            let rank = self.moved.find(&format!("{name}.{A}")).map_or(1, |p| p.shape[0]);
            let input = a.len() / rank;
            for (row, b) in sum.chunks_exact_mut(input).zip(b.chunks_exact(rank)) {
                for (c, w) in row.iter_mut().enumerate() {
                    let product: f64 = (0..rank).map(|r| f64::from(b[r]) * f64::from(a[r * input + c])).sum();
                    *w = (f64::from(*w) + f64::from(self.scale) * product) as f32;
                }
            }
            changed.insert(matrix, sum);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tuned_is_read_as_it_is_written() {
        for tuning in [Tuning::None, Tuning::All, Tuning::Lora(8), Tuning::Last(2)] {
            assert_eq!(tuning.to_string().parse::<Tuning>().unwrap(), tuning);
        }
        for bad in ["", "lora", "lora:0", "last:-1", "lora:x", "all:1", "last:1000"] {
            assert!(bad.parse::<Tuning>().unwrap_err().to_string().contains("lora:R"), "{bad}");
        }
    }
}
