//! What the device does for one step: one plan, or the plans of a step in chunks in their order.

use super::options::TrainOptions;
use crate::engine::graph::Graph;
use crate::error::Result;
use crate::models::batch::Capacity;
use crate::models::plans::{self, Optimiser};
use crate::models::{Model, Stage, chunks};
use std::ops::Range;

/// A run of one plan. Chunks are ranges of the batch's pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Encode(Range<usize>),
    Compare,
    Pull(Range<usize>),
    Update,
}

impl Part {
    /// What a step over `pairs` pairs takes, at most `chunk` of them at once; 0 for all.
    pub fn of_step(pairs: usize, chunk: usize) -> Vec<Part> {
        if chunk == 0 {
            return vec![Part::Whole];
        }
        let ranges = || (0..pairs).step_by(chunk).map(|begin| begin..(begin + chunk).min(pairs));
        let encode = ranges().map(Part::Encode);
        encode.chain([Part::Compare]).chain(ranges().map(Part::Pull)).chain([Part::Update]).collect()
    }

    /// The place of its plan among those of a form.
    pub fn plan(&self) -> usize {
        match self {
            Part::Whole => 0,
            Part::Encode(_) => chunks::ENCODE,
            Part::Compare => chunks::COMPARE,
            Part::Pull(_) => chunks::PULL,
            Part::Update => chunks::UPDATE,
        }
    }

    /// The pairs it packs, of so many.
    pub fn pairs(&self, pairs: usize) -> Range<usize> {
        match self {
            Part::Whole | Part::Compare => 0..pairs,
            Part::Encode(chunk) | Part::Pull(chunk) => chunk.clone(),
            Part::Update => 0..0,
        }
    }

    /// Whether its plan hands back the losses of a step.
    pub fn has_losses(&self) -> bool {
        matches!(self, Part::Whole | Part::Compare)
    }

    /// Whether a step is done with it.
    pub fn is_last(&self) -> bool {
        matches!(self, Part::Whole | Part::Update)
    }
}

/// The forms of a step: the model's stages, and behind them, where it has a gate, the same with the gate shut.
pub fn forms(model: &dyn Model) -> Vec<Stage> {
    let stages = || model.stages().into_iter().map(|(_, stage)| stage);
    let shut = stages().filter(|_| model.gate().is_some()).map(|stage| Stage { shut: true, ..stage });
    stages().chain(shut).collect()
}

/// Plans of a form.
pub fn plans_of_a_form(options: &TrainOptions) -> usize {
    if options.chunk == 0 { 1 } else { chunks::PLANS }
}

/// The graphs of every form, [`plans_of_a_form`] each; `capacity` gives the rows of a batch of so many pairs.
pub fn graphs(
    model: &dyn Model,
    options: &TrainOptions,
    pairs: usize,
    capacity: impl Fn(usize) -> Capacity,
    optimiser: Optimiser,
) -> Result<Vec<(String, Graph)>> {
    let batch = options.batch.min(pairs);
    let mut graphs = vec![];
    for stage in forms(model) {
        let marks = [(stage.quantised, ", quantised"), (stage.shut, ", gate shut")];
        let marks: String = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark).collect();
        let name = |part: &str| format!("{part}{marks}");
        if options.chunk == 0 {
            graphs.push((name("train"), plans::training(model, capacity(batch), stage, optimiser)?));
            continue;
        }
        let chunk = capacity(options.chunk.min(batch));
        let step = chunks::training(model, capacity(batch), chunk, stage, optimiser)?;
        graphs.extend(step.into_iter().map(|(part, g)| (name(part), g)));
    }
    Ok(graphs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_in_one_chunk_of_each_pass() {
        for (pairs, chunk) in [(12, 4), (13, 4), (3, 4), (4, 4), (5, 1)] {
            let parts = Part::of_step(pairs, chunk);
            assert_eq!(parts.len(), 2 * pairs.div_ceil(chunk) + 2);
            for pass in [chunks::ENCODE, chunks::PULL] {
                let chunks = parts.iter().filter(|p| p.plan() == pass);
                assert!(chunks.flat_map(|p| p.pairs(pairs)).eq(0..pairs), "{parts:?}");
            }
            assert!(parts.iter().map(Part::plan).is_sorted());
        }
        assert_eq!(Part::of_step(5, 0), [Part::Whole]);
    }
}
