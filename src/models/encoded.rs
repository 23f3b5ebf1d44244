//! A model with a text encoder in front of it, both in one graph: captions go in, and what the encoder makes of them
//! takes the place of text features. Either may be trained; afterwards the two go apart again, the encoder as a
//! checkpoint and the model as one that takes its features.

use super::batch::{Rows, TextInputs, WORDS};
use super::{Batch, Config, Model, Represented, Stage, Term, TextSide, VideoSide};
use crate::data::Dataset;
use crate::encoders::architecture::{self, TextArchitecture};
use crate::encoders::checkpoint::Checkpoint;
use crate::encoders::text;
use crate::encoders::tokenizer::{Pieces, Tokenizer};
use crate::encoders::tuning::{Tuned, Tuning};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::gather::Gather;
use crate::engine::op::pointwise::{Binary, BinaryKind};
use crate::engine::parameters::{Parameters, Weights};
use crate::engine::scheduler::executor::{Executor, SlotWriter};
use crate::engine::tensor::Meta;
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// What stands before the encoder's parameters among those of the model.
const PREFIX: &str = "encoder.";

/// A text encoder with what of it is trained.
pub struct Encoding {
    checkpoint: Checkpoint,
    tower: Box<dyn TextArchitecture>,
    tuned: Tuned,
    /// Most pieces of a text.
    longest: usize,
    /// Pieces that every text has beside those of its words.
    special: usize,
    /// The checkpoint's values.
    values: Vec<f32>,
    identity: String,
    recompute: bool,
}

impl Encoding {
    /// Opens a checkpoint; `alpha` is that of LoRA.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the architecture is not known.
    pub fn open(dir: &Path, tuning: Tuning, alpha: f32) -> Result<Encoding> {
        Encoding::of(Checkpoint::open(dir)?, tuning, alpha)
    }

    /// The same for an opened checkpoint, which may have been [stretched](Checkpoint::stretched) to longer texts.
    ///
    /// # Errors
    /// As [`Encoding::open`].
    pub fn of(checkpoint: Checkpoint, tuning: Tuning, alpha: f32) -> Result<Encoding> {
        let tower = architecture::text(&checkpoint)?;
        let tuned = Tuned::new(tower.parameters(), &[tower.outline()], tuning, alpha, &[])?;
        let (tokenizer, longest) = text::tokenizer(&checkpoint, tower.as_ref())?;
        let special = tokenizer.pieces("")?.ids.len();
        let values = checkpoint.read(tower.parameters(), tower.prefixes())?;
        let identity = format!("{}, {tuning}, alpha {alpha}", checkpoint.identity());
        Ok(Encoding { checkpoint, tower, tuned, longest, special, values, identity, recompute: false })
    }

    /// Whether its layers are made again on the way back instead of being kept.
    pub fn recomputing(self, recompute: bool) -> Encoding {
        Encoding { recompute, ..self }
    }

    /// Width of tokens and sentence vectors.
    pub fn dim(&self) -> usize {
        self.tower.dim()
    }

    /// Which encoder it is, and what of it is trained.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Learned numbers.
    pub fn count(&self) -> usize {
        self.tuned.moved.count()
    }

    /// The captions of a data set as its texts, of which a model takes `max_words` rows beside the sentence vector.
    pub fn rows(self: &Arc<Encoding>, data: &Dataset, max_words: usize) -> Result<CaptionRows> {
        let longest = self.longest.min(max_words.saturating_add(self.special));
        let tokenizer = Tokenizer::open(self.checkpoint.dir(), longest, self.tower.vocabulary())?;
        let mut pieces = vec![None; data.texts.ids().len()];
        for pair in &data.pairs {
            if let Some(place) = pieces.get_mut(pair.text) {
                *place = Some(tokenizer.pieces(data.caption(pair))?);
            }
        }
        Ok(CaptionRows { encoding: self.clone(), pieces })
    }

    /// Puts first values of what moves behind those of the model.
    pub fn initial(&self, parameters: &Parameters, flat: &mut [f32], seed: u64) {
        let (moved, _) = self.tuned.initial(self.tower.parameters(), &self.values, seed);
        for p in &self.tuned.moved.list {
            if let Some(to) = parameters.find(&format!("{PREFIX}{}", p.name)) {
                let from = &moved[p.offset as usize..][..p.elements()];
                flat[to.offset as usize..][..p.elements()].copy_from_slice(from);
            }
        }
    }

    fn still(&self) -> Vec<f32> {
        // What stays is drawn from nowhere: the seed has no say.
        self.tuned.initial(self.tower.parameters(), &self.values, 0).1
    }

    /// Gives what does not move to a device.
    pub fn write_still(&self, executor: &mut Executor) -> Result<()> {
        self.tuned.write_still(executor, &self.still())
    }

    /// Writes the encoder as a checkpoint, given the values of all parameters of the model it stands before.
    pub fn save(&self, out: &Path, parameters: &Parameters, flat: &[f32]) -> Result<()> {
        let mut moved = vec![0.0; self.tuned.moved.elements as usize];
        for p in &self.tuned.moved.list {
            if let Some(from) = parameters.find(&format!("{PREFIX}{}", p.name)) {
                let values = &flat[from.offset as usize..][..p.elements()];
                moved[p.offset as usize..][..p.elements()].copy_from_slice(values);
            }
        }
        let changed = self.tuned.changed(&moved, &self.still());
        self.checkpoint.rewrite(out, self.tower.parameters(), self.tower.prefixes(), &changed)
    }
}

/// Captions as a model takes texts: a row for each piece of its words, then its sentence vector. The rows themselves are
/// made on the device.
pub struct CaptionRows {
    encoding: Arc<Encoding>,
    /// None where no pair names the text.
    pieces: Vec<Option<Pieces>>,
}

impl CaptionRows {
    fn pieces(&self, i: usize) -> Result<&Pieces> {
        let pieces = self.pieces.get(i).and_then(Option::as_ref);
        pieces.ok_or_else(|| Error::shape("captions", format!("text {i} has none")))
    }
}

impl Rows for CaptionRows {
    fn rows(&self, i: usize) -> usize {
        let words = |p: &Pieces| p.special.iter().filter(|special| !**special).count();
        self.pieces(i).map_or(0, words) + 1
    }
    fn dim(&self) -> usize {
        self.encoding.dim()
    }
    fn write(&self, _: usize, _: &mut [f32]) -> Result<()> {
        Err(Error::shape("captions", "become tokens on the device and nowhere else"))
    }
    fn places(&self, _: usize, out: &mut [f32]) {
        out.iter_mut().enumerate().for_each(|(r, place)| *place = r as f32);
    }
    fn pack_source(&self, slot: &mut SlotWriter, items: &[usize]) -> Result<()> {
        if !slot.has("ids") {
            return Ok(());
        }
        let texts = items.iter().map(|i| self.pieces(*i)).collect::<Result<Vec<_>>>()?;
        text::pack(self.encoding.tower.as_ref(), &texts, slot)?;
        let (mut from, mut rows) = (0, vec![]);
        for (n, text) in texts.iter().enumerate() {
            let words = text.special.iter().enumerate().filter(|(_, special)| !**special);
            rows.extend(words.map(|(at, _)| [from + at as u32, NOWHERE]));
            rows.push([NOWHERE, n as u32]);
            from += text.ids.len() as u32;
        }
        for (which, name) in [WORD_ROWS, SENTENCE_ROWS].into_iter().enumerate() {
            slot.u32(name)?.iter_mut().zip(&rows).for_each(|(place, row)| *place = row[which]);
        }
        Ok(())
    }
}

const WORD_ROWS: &str = "word_rows";
const SENTENCE_ROWS: &str = "sentence_rows";
/// No row: gathered as zeros.
const NOWHERE: u32 = u32::MAX;

/// A model that takes captions.
pub struct Encoded {
    inner: Box<dyn Model>,
    encoding: Arc<Encoding>,
    /// Those of the model, and behind them what moves of the encoder.
    parameters: Parameters,
}

impl Encoded {
    /// # Errors
    /// When the model takes words of another width.
    pub fn new(inner: Box<dyn Model>, encoding: Arc<Encoding>) -> Result<Encoded> {
        if inner.config().text_dim != encoding.dim() {
            let what = format!("is {} and the encoder makes {}", inner.config().text_dim, encoding.dim());
            return Err(Error::config("model.text_dim", what, "leave it out"));
        }
        let mut parameters = inner.parameters().clone();
        for p in &encoding.tuned.moved.list {
            let mut p = p.clone();
            p.name.insert_str(0, PREFIX);
            parameters.adopt(&p);
        }
        Ok(Encoded { inner, encoding, parameters })
    }

    /// The model's text inputs with the encoder's tokens as words: pieces of words from its tokens, the last row of a text
    /// from its sentence vectors.
    fn words(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<TextInputs> {
        let (all, capacity) = (self.encoding.tuned.weights(g, w, PREFIX)?, text.capacity);
        let pieces = capacity.words + capacity.texts * self.encoding.special.saturating_sub(1);
        let inputs = architecture::TextInputs::declare(g, capacity.texts, pieces)?;
        let (tokens, sentences) = self.encoding.tower.forward(g, &all, &inputs)?;
        let rows = Meta::u32(&[capacity.words_dim()])?;
        let (word_rows, sentence_rows) = (g.input(WORD_ROWS, rows.clone()), g.input(SENTENCE_ROWS, rows));
        let words = g.apply(Gather, &[tokens, word_rows])?;
        let sentences = g.apply(Gather, &[sentences, sentence_rows])?;
        let words = g.apply(Binary { kind: BinaryKind::Add }, &[words, sentences])?;
        Ok(TextInputs { words, ..*text })
    }
}

impl Model for Encoded {
    fn config(&self) -> &Config {
        self.inner.config()
    }
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn text(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<Vec<Value>> {
        let text = self.words(g, w, text)?;
        self.inner.text(g, w, &text)
    }
    fn video(&self, g: &mut Graph, w: &Weights, video: &super::batch::VideoInputs) -> Result<Vec<Value>> {
        self.inner.video(g, w, video)
    }
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value> {
        self.inner.scores(g, text, video)
    }
    fn evidence(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>> {
        self.inner.evidence(g, text, video)
    }
    fn kept(&self) -> usize {
        self.inner.kept()
    }
    fn recomputes(&self) -> bool {
        self.encoding.recompute
    }
    fn represent(&self, g: &mut Graph, w: &Weights, batch: &Batch) -> Result<Represented> {
        let text = self.words(g, w, &batch.text)?;
        self.inner.represent(g, w, &Batch { text, ..*batch })
    }
    fn compare(&self, g: &mut Graph, w: &Weights, batch: &Batch, made: &Represented) -> Result<Vec<Term>> {
        self.inner.compare(g, w, batch, made)
    }
    fn stages(&self) -> Vec<(f32, Stage)> {
        self.inner.stages()
    }
    fn gate(&self) -> Option<f32> {
        self.inner.gate()
    }
    fn alone(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<[Value; 2]> {
        self.inner.alone(g, text, video)
    }
}

// Word rows and pieces are rows of different axes.
const _: () = assert!(WORDS.0 != architecture::PIECES.0);
