//! A training step in chunks: the loss of a large batch in little more memory than a small one's (GradCache: Gao et al.
//! 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2).
//!
//! A contrastive loss needs all pairs of a batch at once, so the gradients of small batches do not add up to that of a
//! large one. But it needs of them only what they are represented by; activations are made twice instead of kept:
//!
//! ```text
//!   encode    a chunk ── represent ──► kept                        once a chunk
//!   compare   kept ── compare ── loss ── ∂loss/∂kept ──► kept      once
//!                                    └── ∂loss/∂parameters ──► gradient
//!   pull      a chunk ── represent ── backwards from ∂loss/∂kept ── adds to gradient      once a chunk
//!   update    gradient ── clip ── AdamW ──► parameters             once
//! ```
//! Loss and gradient are those of [`training`](super::plans::training), summed in another order. States `kept.N`, N a
//! place among what is represented, are of the whole batch's size, and a chunk's rows stand in them where the batch
//! says. A gradient takes the place of its value. Parameters change in `update` alone, so a step that was broken off
//! has not happened.
//!
//! What a chunk cannot know is what stands in others: donors of swapped backgrounds, and the neighbours of
//! `routing.router = "neighbour"`, are of its own pairs.

use super::batch::{Capacity, FRAMES, PERTURBED, Rows, TEXTS, VIDEOS, WORDS};
use super::plans::{Optimiser, total, update};
use super::{Batch, Model, Represented, Stage};
use crate::engine::autodiff::{backprop, backprop_again};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::op::rows::{PutRows, TakeRows};
use crate::engine::scheduler::executor::SlotWriter;
use crate::engine::tensor::{Axis, DType, Dim, Meta};
use crate::error::{Error, Result};

/// Places of the plans in what [`training`] returns.
pub const ENCODE: usize = 0;
pub const COMPARE: usize = 1;
pub const PULL: usize = 2;
pub const UPDATE: usize = 3;
/// Plans of a step.
pub const PLANS: usize = 4;

/// The four graphs of a step over batches of `whole` in chunks of `chunk`.
///
/// Inputs: as [`training`](super::plans::training); of `encode` and `pull` those of a chunk, and where its rows begin
/// in the batch ([`pack_begins`]); of `compare` those of the whole batch without tokens; of `update` `scalars`.
/// Outputs: of `compare` `loss [1]` and its terms, of `update` `gradient_norm [1]`.
///
/// # Errors
/// When a model represents something in other than rows per item, or has nothing to learn.
pub fn training(
    model: &dyn Model,
    whole: Capacity,
    chunk: Capacity,
    stage: Stage,
    optimiser: Optimiser,
) -> Result<[(&'static str, Graph); PLANS]> {
    let layout = Layout::of(model, whole, stage)?;
    let (compare, uses) = layout.compare(model, whole, stage)?;
    let used = |wanted: fn(&Use) -> bool| layout.kept.iter().zip(&uses).filter(move |(_, u)| wanted(u)).map(|(k, _)| k);
    let encode = encode(model, chunk, stage, used(|u| u.read))?;
    let pull = pull(model, chunk, stage, used(|u| u.differentiated))?;
    let mut g = Graph::new();
    let weights = model.parameters().weights(&mut g)?;
    let flat = gradient(&mut g, model)?;
    update(&mut g, model.parameters(), &weights, flat, optimiser)?;
    Ok([("encode", encode), ("compare", compare), ("pull", pull), ("update", g)])
}

/// The state that gathers the gradient of all parameters.
fn gradient(g: &mut Graph, model: &dyn Model) -> Result<Value> {
    Ok(g.state("gradient", Meta::f32(&[Dim::Fixed(model.parameters().elements as usize)])?))
}

/// A value that is kept from plan to plan.
struct Kept {
    state: String,
    /// Its place among [`Represented::values`].
    place: usize,
    /// As the model knows it, for the whole batch.
    meta: Meta,
    axis: Axis,
    /// Rows of the whole batch, and their length.
    rows: usize,
    cols: usize,
}

impl Kept {
    /// The state is called after the place: it is the same in all forms of a step.
    fn of(place: usize, meta: Meta) -> Result<Kept> {
        let rest = meta.dims().get(1..).unwrap_or(&[]).iter();
        match meta.dims().first() {
            Some(Dim::Ragged(axis, rows)) if rest.clone().all(|d| matches!(d, Dim::Fixed(_))) => {
                let cols = rest.map(|d| d.cap()).product();
                Ok(Kept { state: format!("kept.{place}"), place, axis: *axis, rows: *rows, cols, meta })
            }
            _ => Err(Error::shape("train.chunk", format!("{meta} has no rows of items that could be kept"))),
        }
    }

    /// The state as chunks see it: a table of fixed length.
    fn table(&self, g: &mut Graph) -> Result<Value> {
        Ok(g.state(&self.state, Meta::f32(&[Dim::Fixed(self.rows), Dim::Fixed(self.cols)])?))
    }

    /// The state as the comparison sees it: as long as the batch.
    fn batch(&self, g: &mut Graph) -> Result<Value> {
        Ok(g.state(&self.state, Meta::f32(&[Dim::Ragged(self.axis, self.rows), Dim::Fixed(self.cols)])?))
    }
}

/// What the comparison does with a kept value.
struct Use {
    read: bool,
    differentiated: bool,
}

/// What of a batch's values is kept, and where each is found again.
struct Layout {
    kept: Vec<Kept>,
    /// For every represented value the number of the kept one that it is.
    places: Vec<Option<usize>>,
    /// Represented values of texts; the others are those of videos.
    texts: usize,
}

impl Layout {
    fn of(model: &dyn Model, whole: Capacity, stage: Stage) -> Result<Layout> {
        // A graph nobody runs tells what there is of a whole batch.
        let mut draft = Graph::new();
        let weights = model.parameters().weights(&mut draft)?;
        let batch = Batch::declare(&mut draft, whole, model.config(), stage)?;
        let made = model.represent(&mut draft, &weights, &batch)?;
        let values: Vec<Value> = made.values().collect();
        let mut layout = Layout { kept: vec![], places: vec![], texts: made.texts.len() };
        for (place, value) in values.iter().enumerate() {
            let meta = draft.meta(*value);
            // One value may stand at two places; a table of u32 is made again by who compares.
            let known = values[..place].iter().position(|v| v == value).and_then(|p| layout.places[p]);
            let kept = if value.is_absent() || meta.dtype() != DType::F32 {
                None
            } else if known.is_some() {
                known
            } else {
                layout.kept.push(Kept::of(place, meta)?);
                Some(layout.kept.len() - 1)
            };
            layout.places.push(kept);
        }
        Ok(layout)
    }

    fn compare(&self, model: &dyn Model, whole: Capacity, stage: Stage) -> Result<(Graph, Vec<Use>)> {
        let mut g = Graph::new();
        let weights = model.parameters().weights(&mut g)?;
        let batch = Batch::declare(&mut g, whole, model.config(), stage)?;
        let states = self.kept.iter().map(|k| k.batch(&mut g)).collect::<Result<Vec<_>>>()?;
        let shaped = self.kept.iter().zip(&states).map(|(k, s)| g.reshape(*s, k.meta.clone()));
        let shaped = shaped.collect::<Result<Vec<_>>>()?;
        let values: Vec<Value> =
            self.places.iter().map(|p| p.and_then(|i| shaped.get(i)).copied().unwrap_or(Value::ABSENT)).collect();
        let (texts, videos) = values.split_at(self.texts.min(values.len()));
        let made = Represented { texts: texts.into(), videos: videos.into() };
        let terms = model.compare(&mut g, &weights, &batch, &made)?;
        let losses = total(&mut g, &terms)?;
        for (name, value) in &losses {
            g.output(*name, *value);
        }
        let read = g.live();
        let one = g.fill(1.0, &[Dim::Fixed(1)])?;
        let grads = backprop(&mut g, &[(losses[0].1, one)], &[states.as_slice(), &[weights.flat]].concat())?;
        let (of_parameters, of_kept) = (grads[states.len()], &grads[..states.len()]);
        let mut uses = vec![];
        for (state, grad) in states.iter().zip(of_kept) {
            if let Some(grad) = grad {
                g.assign(*state, *grad)?;
            }
            uses.push(Use { read: read[state.node as usize], differentiated: grad.is_some() });
        }
        // The sum over the chunks begins with what does not go through them: the scales of scores.
        let flat = gradient(&mut g, model)?;
        let first = match of_parameters {
            Some(first) => first,
            None => g.fill(0.0, g.meta(flat).dims())?,
        };
        g.assign(flat, first)?;
        Ok((g, uses))
    }
}

/// The inputs that say where a chunk's rows begin, each declared once.
#[derive(Default)]
struct Begins(Vec<(Axis, Value)>);

impl Begins {
    fn of(&mut self, g: &mut Graph, axis: Axis) -> Result<Value> {
        if let Some((_, value)) = self.0.iter().find(|(a, _)| *a == axis) {
            return Ok(*value);
        }
        let name = BEGINS.iter().find(|(a, _)| *a == axis).map(|(_, name)| *name);
        let name = name.ok_or_else(|| Error::shape("train.chunk", format!("axis {} has no name", axis.0)))?;
        let value = g.input(name, Meta::u32(&[Dim::Fixed(1)])?);
        self.0.push((axis, value));
        Ok(value)
    }
}

const BEGINS: [(Axis, &str); 5] = [
    (TEXTS, "first_text"),
    (WORDS, "first_word"),
    (VIDEOS, "first_video"),
    (FRAMES, "first_frame"),
    (PERTURBED, "first_perturbed"),
];

fn encode<'a>(model: &dyn Model, chunk: Capacity, stage: Stage, kept: impl Iterator<Item = &'a Kept>) -> Result<Graph> {
    let (mut g, mut begins) = (Graph::new(), Begins::default());
    let weights = model.parameters().weights(&mut g)?;
    let batch = Batch::declare(&mut g, chunk, model.config(), stage)?;
    let values: Vec<Value> = model.represent(&mut g, &weights, &batch)?.values().collect();
    for k in kept {
        let value = values.get(k.place).copied().unwrap_or(Value::ABSENT);
        let rows = g.meta(value).dim(0);
        let part = g.reshape(value, Meta::f32(&[rows, Dim::Fixed(k.cols)])?)?;
        let (state, begin) = (k.table(&mut g)?, begins.of(&mut g, k.axis)?);
        let filled = g.apply(PutRows, &[state, part, begin])?;
        g.assign(state, filled)?;
    }
    Ok(g)
}

fn pull<'a>(model: &dyn Model, chunk: Capacity, stage: Stage, kept: impl Iterator<Item = &'a Kept>) -> Result<Graph> {
    let (mut g, mut begins) = (Graph::new(), Begins::default());
    let weights = model.parameters().weights(&mut g)?;
    let batch = Batch::declare(&mut g, chunk, model.config(), stage)?;
    let values: Vec<Value> = model.represent(&mut g, &weights, &batch)?.values().collect();
    let mut seeds = vec![];
    for k in kept {
        let value = values.get(k.place).copied().unwrap_or(Value::ABSENT);
        let meta = g.meta(value);
        let (state, begin) = (k.table(&mut g)?, begins.of(&mut g, k.axis)?);
        let seed = g.apply(TakeRows { rows: meta.dim(0) }, &[state, begin])?;
        seeds.push((value, g.reshape(seed, meta)?));
    }
    let back = if model.recomputes() { backprop_again } else { backprop };
    let own = back(&mut g, &seeds, &[weights.flat])?[0];
    let own = own.ok_or_else(|| Error::shape("train.chunk", "what is represented depends on no parameter"))?;
    let flat = gradient(&mut g, model)?;
    let sum = g.apply(Binary { kind: BinaryKind::Add }, &[flat, own])?;
    g.assign(flat, sum)?;
    Ok(g)
}

/// Says where a chunk's rows begin in its batch, given the texts and videos that come before it; those of perturbed
/// videos come with the views.
pub fn pack_begins(slot: &mut SlotWriter, texts: (&dyn Rows, &[usize]), videos: (&dyn Rows, &[usize])) -> Result<()> {
    let rows = |(rows, items): (&dyn Rows, &[usize])| items.iter().map(|i| rows.rows(*i)).sum();
    for (axis, begin) in
        [(TEXTS, texts.1.len()), (WORDS, rows(texts)), (VIDEOS, videos.1.len()), (FRAMES, rows(videos))]
    {
        pack_begin(slot, axis, begin)?;
    }
    Ok(())
}

/// Says where a chunk's rows of one axis begin, if the plan asks.
pub fn pack_begin(slot: &mut SlotWriter, axis: Axis, begin: usize) -> Result<()> {
    for (_, name) in BEGINS.iter().filter(|(a, _)| *a == axis) {
        if slot.has(name) {
            slot.u32(name)?.fill(begin as u32);
        }
    }
    Ok(())
}
