//! Folders of videos and pictures through an image encoder: the next ones are decoded and made ready on threads of their
//! own while the device computes, frames of several share a batch, and one that is broken costs only itself.

use super::image::ImageEncoder;
use super::pixels::Preprocess;
use crate::data::ffmpeg::{Ffmpeg, Frame};
use crate::data::media::{Media, Sampling};
use crate::data::picture::Picture;
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Videos that are decoded at once.
const AHEAD: usize = 3;
/// Squares of each that wait for the encoder.
const WAITING: usize = 64;

/// How a file becomes frames.
#[derive(Clone, Debug)]
pub enum Decoder {
    Videos(Ffmpeg, Sampling),
    /// One frame each, at second 0.
    Pictures,
}

/// An encoded video.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clip {
    /// `[rows, dim]`, as many of a frame as the encoder makes.
    pub rows: Vec<f32>,
    /// Seconds of each row.
    pub seconds: Vec<f32>,
    /// What the decoder complained of, though it went on.
    pub complaints: Vec<String>,
}

/// What comes of a video, in the order of its frames.
enum Piece {
    Square(f32, Vec<u8>),
    /// The square before is still what is seen.
    Still(f32),
    End(Result<Vec<String>>),
}

/// The same without the pixels, which go another way.
enum Event {
    Frame(f32),
    Still(f32),
    End(usize, Result<Vec<String>>),
}

/// Encodes the media of a folder in their order and hands each to `each` with its number, as soon as it is done. Hands
/// back for how long nothing was decoded that could have been encoded: more than that the device was not idle for want
/// of frames.
///
/// # Errors
/// Those of the device, of `each`, and [`Error::Stopped`]. What is wrong with one of the media reaches `each`.
pub fn encode(
    encoder: &mut ImageEncoder,
    decoder: &Decoder,
    folder: &Path,
    media: &[Media],
    mut each: impl FnMut(usize, Result<Clip>) -> Result<()>,
    stop: &AtomicBool,
) -> Result<Duration> {
    let preprocess = encoder.preprocess().clone();
    let (waited, of_frame) = (AtomicU64::new(0), (encoder.rows(), encoder.dim()));
    let (send, events) = channel();
    std::thread::scope(|scope| {
        let paths = media.iter().map(|m| folder.join(&m.file)).collect();
        let squares = Squares {
            scope,
            decoder,
            preprocess: &preprocess,
            paths,
            begun: 0,
            ended: 0,
            running: VecDeque::new(),
            send,
            waited: &waited,
        };
        let mut events = events.into_iter().peekable();
        let mut clip = Clip::default();
        let take = |_: usize, rows: &[f32]| {
            // What lies behind this frame may not have been said yet: whoever waited for it here would wait for ever.
            follow(&mut events, &mut clip, of_frame, &mut each)?;
            if let Some(Event::Frame(seconds)) = events.next() {
                clip.seconds.extend(std::iter::repeat_n(seconds, of_frame.0));
                clip.rows.extend_from_slice(rows);
            }
            Ok(())
        };
        let ran = encoder.encode_squares(squares, take, stop);
        if matches!(ran, Ok(()) | Err(Error::Stopped)) {
            // Those whose last frame has come are done, also where the work was asked to stop.
            follow(&mut events, &mut clip, of_frame, &mut each)?;
        }
        ran
    })?;
    Ok(Duration::from_nanos(waited.into_inner()))
}

/// Takes events up to the next frame. Does not wait: a vector means that its frame's event has come.
fn follow(
    events: &mut Peekable<std::sync::mpsc::IntoIter<Event>>,
    clip: &mut Clip,
    (rows, dim): (usize, usize),
    each: &mut impl FnMut(usize, Result<Clip>) -> Result<()>,
) -> Result<()> {
    while let Some(event) = events.next_if(|event| !matches!(event, Event::Frame(_))) {
        match event {
            Event::Frame(_) => {}
            Event::Still(seconds) => {
                clip.rows.extend_from_within(clip.rows.len().saturating_sub(rows * dim)..);
                clip.seconds.extend(std::iter::repeat_n(seconds, rows));
            }
            Event::End(number, end) => {
                let done = std::mem::take(clip);
                each(number, end.map(|complaints| Clip { complaints, ..done }))?;
            }
        }
    }
    Ok(())
}

/// The squares of all videos, one after the other.
struct Squares<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    decoder: &'env Decoder,
    preprocess: &'env Preprocess,
    paths: Vec<PathBuf>,
    begun: usize,
    ended: usize,
    running: VecDeque<Receiver<Piece>>,
    send: Sender<Event>,
    /// Nanoseconds.
    waited: &'env AtomicU64,
}

impl Iterator for Squares<'_, '_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        loop {
            while self.running.len() < AHEAD
                && let Some(path) = self.paths.get(self.begun)
            {
                let (send, pieces) = sync_channel(WAITING);
                let (decoder, preprocess, path) = (self.decoder, self.preprocess, path.clone());
                self.scope.spawn(move || decode(decoder, preprocess, &path, &send));
                self.running.push_back(pieces);
                self.begun += 1;
            }
            // A decoder that ends without a word has panicked, which the scope hands on.
            let lost = || Piece::End(Err(Error::config("decoder", "ended without a word", "report it")));
            let begun = Instant::now();
            let piece = self.running.front()?.recv().unwrap_or_else(|_| lost());
            self.waited.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            let (event, square) = match piece {
                Piece::Square(seconds, square) => (Event::Frame(seconds), Some(square)),
                Piece::Still(seconds) => (Event::Still(seconds), None),
                Piece::End(end) => {
                    self.running.pop_front();
                    self.ended += 1;
                    (Event::End(self.ended - 1, end), None)
                }
            };
            // Who no longer listens has an error of its own to tell.
            self.send.send(event).ok()?;
            if square.is_some() {
                return square.map(Ok);
            }
        }
    }
}

/// Decodes one file until its end, or until nobody wants more.
fn decode(decoder: &Decoder, preprocess: &Preprocess, path: &Path, send: &SyncSender<Piece>) {
    let mut last: Vec<u8> = vec![];
    let mut frame = |frame: Frame| -> Result<bool> {
        let square = preprocess.square(&frame.picture)?;
        let piece = match square == last {
            true => Piece::Still(frame.seconds),
            false => Piece::Square(frame.seconds, square.clone()),
        };
        last = square;
        Ok(send.send(piece).is_ok())
    };
    let mut all = || -> Result<Vec<String>> {
        match decoder {
            Decoder::Pictures => {
                frame(Frame { seconds: 0.0, picture: Picture::open(path)? })?;
                Ok(vec![])
            }
            Decoder::Videos(ffmpeg, sampling) => {
                let mut frames = ffmpeg.frames(path, *sampling)?;
                for found in frames.by_ref() {
                    if !frame(found?)? {
                        break;
                    }
                }
                Ok(frames.complaints().to_vec())
            }
        }
    };
    let end = all();
    // Nobody may be left to hear it.
    let _ = send.send(Piece::End(end));
}
