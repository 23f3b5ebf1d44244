//! A text encoder on a device: texts in, word tokens and sentence vectors out.

use super::architecture::{self, PIECES, TEXTS, TextArchitecture, TextInputs};
use super::checkpoint::Checkpoint;
use super::tokenizer::{Pieces, Tokenizer};
use crate::data::tokens::Tokens;
use crate::engine::backend::Backend;
use crate::engine::graph::Graph;
use crate::engine::scheduler::executor::{Executor, Outputs, SlotWriter};
use crate::engine::scheduler::stream::stream;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::borrow::Borrow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Most texts and pieces of a batch: what encoding takes does not grow with the number of texts.
const MOST_TEXTS: usize = 128;
const MOST_PIECES: usize = 2048;

/// `sentence_bert_config.json` of sentence-transformers.
#[derive(Deserialize)]
struct Limits {
    max_seq_length: Option<usize>,
}

/// One encoded text.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The pieces that the rows of `words` stand for.
    pub pieces: Vec<String>,
    /// `[L, dim]`, without the pieces that mark the text's beginning and end.
    pub words: Tokens,
    /// `[dim]`
    pub sentence: Vec<f32>,
    /// Whether the text was longer than what the encoder takes.
    pub cut: bool,
}

/// A batch on its way: the number of its first text, and the pieces of all.
struct Batch {
    first: usize,
    texts: Vec<Pieces>,
}

pub struct TextEncoder {
    tokenizer: Tokenizer,
    architecture: Box<dyn TextArchitecture>,
    executor: Executor,
    pieces: usize,
    identity: String,
}

impl TextEncoder {
    /// Opens a checkpoint in Hugging Face layout on a device.
    ///
    /// # Errors
    /// When a file is missing or damaged, the architecture is not known, or the device has too little memory.
    pub fn open(dir: &Path, backend: Box<dyn Backend>) -> Result<TextEncoder> {
        TextEncoder::of(&Checkpoint::open(dir)?, backend)
    }

    /// The same for an opened checkpoint, which may have been [stretched](Checkpoint::stretched) to longer texts.
    ///
    /// # Errors
    /// As [`TextEncoder::open`].
    pub fn of(checkpoint: &Checkpoint, backend: Box<dyn Backend>) -> Result<TextEncoder> {
        let architecture = architecture::text(checkpoint)?;
        let (tokenizer, longest) = tokenizer(checkpoint, architecture.as_ref())?;
        let pieces = MOST_PIECES.max(longest);
        let graph = graph(architecture.as_ref(), pieces)?;
        let parameters = (architecture.parameters(), architecture.prefixes());
        let executor = checkpoint.load("encode texts", &graph, parameters, backend)?;
        Ok(TextEncoder { tokenizer, architecture, executor, pieces, identity: checkpoint.identity() })
    }

    /// Whether a checkpoint holds what [`TextEncoder::open`] needs, without taking memory for it.
    ///
    /// # Errors
    /// As there.
    pub fn check(checkpoint: &Checkpoint) -> Result<()> {
        let architecture = architecture::text(checkpoint)?;
        Tokenizer::open(checkpoint.dir(), architecture.longest().max(3), architecture.vocabulary()).map(|_| ())
    }

    /// Encodes one text.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`].
    pub fn encode_one(&mut self, text: &str) -> Result<Encoded> {
        let (mut one, never) = (None, AtomicBool::new(false));
        let keep = |_: usize, encoded: Encoded| {
            one = Some(encoded);
            Ok(())
        };
        self.encode(&[text], keep, &never)?;
        one.ok_or(Error::Stopped)
    }

    /// Width of tokens and sentence vectors.
    pub fn dim(&self) -> usize {
        self.architecture.dim()
    }

    /// What features of this encoder are known by.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn device(&self) -> String {
        self.executor.device()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Encodes texts in their order and hands each to `each` with its number. Texts are taken apart on a thread of
    /// their own while the device computes.
    ///
    /// # Errors
    /// Those of taking texts apart, of the device, of `each`, and [`Error::Stopped`].
    pub fn encode(
        &mut self,
        texts: &[impl AsRef<str> + Sync],
        mut each: impl FnMut(usize, Encoded) -> Result<()>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let TextEncoder { tokenizer, architecture, executor, pieces, .. } = self;
        let architecture = architecture.as_ref();
        let batches = Batches { tokenizer, texts, next: 0, most: *pieces, kept: None };
        let mut done = 0;
        let pack = |batch: &Result<Batch>, slot: &mut SlotWriter| match batch {
            Ok(batch) => pack(architecture, &batch.texts, slot),
            // The error itself reaches `take`, which hands it on.
            Err(_) => pack::<Pieces>(architecture, &[], slot),
        };
        let take = |batch: Result<Batch>, outputs: &Outputs| {
            let batch = batch?;
            done += batch.texts.len();
            unpack(batch, outputs, architecture.dim(), &mut each)
        };
        stream(executor, 0, batches, pack, take, stop)?;
        if done < texts.len() { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// The checkpoint's tokenizer, and the most pieces of a text that it makes: who stretches positions wants them all.
pub fn tokenizer(checkpoint: &Checkpoint, architecture: &dyn TextArchitecture) -> Result<(Tokenizer, usize)> {
    let limits = checkpoint.optional::<Limits>("sentence_bert_config.json")?;
    let most = limits.and_then(|l| l.max_seq_length).filter(|_| !checkpoint.is_stretched()).unwrap_or(usize::MAX);
    let longest = most.clamp(3, architecture.longest().max(3));
    Ok((Tokenizer::open(checkpoint.dir(), longest, architecture.vocabulary())?, longest))
}

fn graph(architecture: &dyn TextArchitecture, pieces: usize) -> Result<Graph> {
    let mut g = Graph::new();
    let inputs = TextInputs::declare(&mut g, MOST_TEXTS, pieces)?;
    let weights = architecture.parameters().weights(&mut g)?;
    let (tokens, sentence) = architecture.forward(&mut g, &weights, &inputs)?;
    g.output("tokens", tokens);
    g.output("sentence", sentence);
    Ok(g)
}

/// Batches of as many texts as fit.
struct Batches<'a, T> {
    tokenizer: &'a Tokenizer,
    texts: &'a [T],
    next: usize,
    most: usize,
    /// A text that was taken apart and did not fit any more.
    kept: Option<Pieces>,
}

impl<T: AsRef<str>> Iterator for Batches<'_, T> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let (first, mut texts, mut rows) = (self.next, vec![], 0);
        while texts.len() < MOST_TEXTS {
            let Some(text) = self.texts.get(self.next) else { break };
            let pieces = match self.kept.take().map_or_else(|| self.tokenizer.pieces(text.as_ref()), Ok) {
                Ok(pieces) => pieces,
                Err(e) => {
                    self.next = self.texts.len();
                    return Some(Err(e));
                }
            };
            if rows + pieces.ids.len() > self.most {
                self.kept = Some(pieces);
                break;
            }
            rows += pieces.ids.len();
            self.next += 1;
            texts.push(pieces);
        }
        (!texts.is_empty()).then_some(Ok(Batch { first, texts }))
    }
}

/// Packs texts into a slot of [`TextInputs`].
pub fn pack<T: Borrow<Pieces>>(architecture: &dyn TextArchitecture, texts: &[T], slot: &mut SlotWriter) -> Result<()> {
    let texts = || texts.iter().map(Borrow::borrow);
    let rows = texts().map(|t: &Pieces| t.ids.len()).sum();
    slot.count(PIECES, rows);
    slot.count(TEXTS, texts().count());
    let mut begin = 0;
    for (n, text) in texts().enumerate() {
        let end = begin + text.ids.len();
        slot.u32("ids")?[begin..end].copy_from_slice(&text.ids);
        let places = &mut slot.u32("piece_places")?[begin..end];
        places.iter_mut().enumerate().for_each(|(at, place)| *place = architecture.place(at));
        slot.u32("piece_segments")?[2 * n..2 * n + 2].copy_from_slice(&[begin as u32, end as u32]);
        // Where sentence vectors are means the plan has no use for it.
        if slot.has("pooled") {
            slot.u32("pooled")?[n] = (begin + architecture.pooled(&text.ids)) as u32;
        }
        begin = end;
    }
    Ok(())
}

fn unpack(
    batch: Batch,
    outputs: &Outputs,
    dim: usize,
    each: &mut impl FnMut(usize, Encoded) -> Result<()>,
) -> Result<()> {
    let (mut tokens, sentences) = (outputs.f32("tokens")?.chunks_exact(dim), outputs.f32("sentence")?);
    for (n, (text, sentence)) in batch.texts.into_iter().zip(sentences.chunks_exact(dim)).enumerate() {
        let mut encoded = Encoded {
            pieces: vec![],
            words: Tokens { rows: 0, dim, data: vec![] },
            sentence: sentence.to_vec(),
            cut: text.cut,
        };
        let pieces = text.names.into_iter().zip(text.special);
        // In this order: a row is taken only where there is a piece.
        for ((piece, special), token) in pieces.zip(tokens.by_ref()) {
            if !special {
                encoded.pieces.push(piece);
                encoded.words.data.extend_from_slice(token);
            }
        }
        encoded.words.rows = encoded.pieces.len();
        each(batch.first + n, encoded)?;
    }
    Ok(())
}
