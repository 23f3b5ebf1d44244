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
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Videos that are decoded at once: as many as there are cores, within these.
const AHEAD: (usize, usize) = (3, 8);
/// How often who waits for a frame looks whether it was asked to stop.
const LOOK: Duration = Duration::from_millis(50);
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
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let ahead = cores.clamp(AHEAD.0, AHEAD.1);
    let paths: Vec<PathBuf> = media.iter().map(|m| folder.join(&m.file)).collect();
    let road = Road { files: paths.len(), room: (ahead + 1) * WAITING, ..Road::default() };
    std::thread::scope(|scope| {
        for _ in 0..ahead.min(paths.len()) {
            scope.spawn(|| {
                let _guard = Guard(&road);
                while let Some(number) = road.begin() {
                    let end = decode(decoder, &preprocess, &paths[number], |piece| road.put(number, piece));
                    road.put(number, Piece::End(end));
                }
            });
        }
        let squares = Squares { road: &road, send, waited: &waited, stop };
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

/// What was decoded and not yet encoded, between the threads that decode and the one that fills batches. The next video
/// is begun when there is room for it: many short ones may be ready where long ones would be few.
#[derive(Default)]
struct Road {
    files: usize,
    /// Most squares on it.
    room: usize,
    on: Mutex<On>,
    /// Something was put on it, or taken off.
    came: Condvar,
    left: Condvar,
}

#[derive(Default)]
struct On {
    /// Files that were begun, and those of them of which all was taken off.
    begun: usize,
    done: usize,
    /// The others, in their order.
    videos: VecDeque<OfVideo>,
    /// Nobody wants more, or there will be no more.
    over: bool,
}

#[derive(Default)]
struct OfVideo {
    pieces: VecDeque<Piece>,
    ended: bool,
}

impl Road {
    fn on(&self) -> MutexGuard<'_, On> {
        // Nothing panics while it holds the lock.
        self.on.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for room, and says which file is to be decoded; none when all are begun.
    fn begin(&self) -> Option<usize> {
        let mut on = self.on();
        loop {
            if on.over || on.begun == self.files {
                return None;
            }
            if self.has_room(&on) {
                on.videos.push_back(OfVideo::default());
                on.begun += 1;
                return Some(on.begun - 1);
            }
            on = self.left.wait(on).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Whether another video may be begun.
    fn has_room(&self, on: &On) -> bool {
        // One that is being decoded may come to fill its part, whatever lies there now.
        let taken: usize = on.videos.iter().map(|v| if v.ended { v.pieces.len() } else { WAITING }).sum();
        taken + WAITING <= self.room
    }

    /// Waits until there is room for a piece of file `number`; false if nobody wants it.
    fn put(&self, number: usize, piece: Piece) -> bool {
        let mut on = self.on();
        loop {
            let (place, over) = (number.wrapping_sub(on.done), on.over);
            let Some(video) = on.videos.get_mut(place).filter(|video| !video.ended) else { return false };
            let ends = matches!(piece, Piece::End(_));
            if over && !ends {
                return false;
            }
            if ends || video.pieces.len() < WAITING {
                video.pieces.push_back(piece);
                video.ended = ends;
                self.came.notify_one();
                if ends {
                    self.left.notify_all();
                }
                return true;
            }
            on = self.left.wait(on).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Waits for the next piece, and says of which file it is; none when all are taken, or when it is asked to stop: then
    /// nobody wants more.
    fn take(&self, stop: &AtomicBool) -> Option<(usize, Piece)> {
        let mut on = self.on();
        loop {
            if stop.load(Ordering::Relaxed) {
                drop(on);
                self.close();
                return None;
            }
            if on.over || on.done == self.files {
                return None;
            }
            let number = on.done;
            if let Some(piece) = on.videos.front_mut().and_then(|video| video.pieces.pop_front()) {
                if matches!(piece, Piece::End(_)) {
                    on.videos.pop_front();
                    on.done += 1;
                }
                self.left.notify_all();
                return Some((number, piece));
            }
            on = self.came.wait_timeout(on, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    fn close(&self) {
        self.on().over = true;
        self.left.notify_all();
        self.came.notify_all();
    }
}

/// Closes the road when a thread that decodes panics: whoever waited for its video would wait for ever, and the scope,
/// which hands the panic on, for them.
struct Guard<'a>(&'a Road);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

/// The squares of all videos, one after the other.
struct Squares<'a> {
    road: &'a Road,
    send: Sender<Event>,
    /// Nanoseconds.
    waited: &'a AtomicU64,
    /// Frames that show nothing new never come to where else it is looked at.
    stop: &'a AtomicBool,
}

impl Iterator for Squares<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        loop {
            let begun = Instant::now();
            let taken = self.road.take(self.stop);
            self.waited.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            let (event, square) = match taken? {
                (_, Piece::Square(seconds, square)) => (Event::Frame(seconds), Some(square)),
                (_, Piece::Still(seconds)) => (Event::Still(seconds), None),
                (number, Piece::End(end)) => (Event::End(number, end), None),
            };
            // Who no longer listens has an error of its own to tell.
            self.send.send(event).ok()?;
            if square.is_some() {
                return square.map(Ok);
            }
        }
    }
}

impl Drop for Squares<'_> {
    fn drop(&mut self) {
        self.road.close();
    }
}

/// Decodes one file until its end, or until `put` says that nobody wants more.
fn decode(
    decoder: &Decoder,
    preprocess: &Preprocess,
    path: &Path,
    mut put: impl FnMut(Piece) -> bool,
) -> Result<Vec<String>> {
    let mut last: Vec<u8> = vec![];
    let mut frame = |frame: Frame| -> Result<bool> {
        let square = preprocess.square(&frame.picture)?;
        let piece = match square == last {
            true => Piece::Still(frame.seconds),
            false => Piece::Square(frame.seconds, square.clone()),
        };
        last = square;
        Ok(put(piece))
    };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_short_videos_are_ready_where_long_ones_are_few() {
        let road = Road { files: 100, room: 4 * WAITING, ..Road::default() };
        // Of seven squares each, and their ends.
        for number in 0..25 {
            assert_eq!(road.begin(), Some(number));
            (0..7).for_each(|i| assert!(road.put(number, Piece::Square(i as f32, vec![number as u8]))));
            assert!(road.put(number, Piece::End(Ok(vec![]))));
        }
        assert!(!road.has_room(&road.on()));
        for number in 0..25 {
            for i in 0..8 {
                let (of, piece) = road.take(&AtomicBool::new(false)).unwrap();
                let sound = match &piece {
                    Piece::Square(second, square) => (*second, square[0]) == (i as f32, number as u8),
                    Piece::Still(_) => false,
                    Piece::End(_) => i == 7,
                };
                assert!(sound && of == number, "{number}, {i}");
            }
        }
        // Any of these may become long.
        (25..29).for_each(|number| assert_eq!(road.begin(), Some(number)));
        assert!(!road.has_room(&road.on()));
        road.close();
        assert!(!road.put(25, Piece::Still(0.0)) && road.begin().is_none());
    }

    #[test]
    fn who_is_asked_to_stop_waits_for_nothing_new() {
        let (stop, waited) = (AtomicBool::new(false), AtomicU64::new(0));
        let road = Road { files: 2, room: WAITING, ..Road::default() };
        assert_eq!(road.begin(), Some(0));
        let (send, events) = channel();
        let mut squares = Squares { road: &road, send, waited: &waited, stop: &stop };
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| squares.next().is_none());
            // It waits for something new, for which a video without an end is no reason to come.
            assert!(road.put(0, Piece::Still(0.0)));
            assert!(matches!(events.recv(), Ok(Event::Still(0.0))));
            stop.store(true, Ordering::Relaxed);
            assert!(taken.join().unwrap());
        });
        assert!(!road.put(0, Piece::Still(1.0)) && road.begin().is_none());
    }

    #[test]
    fn nobody_waits_for_a_thread_that_panicked() {
        let road = Road { files: 2, room: WAITING, ..Road::default() };
        let work = || {
            let _guard = Guard(&road);
            road.begin();
            panic!("on purpose");
        };
        let ended: std::thread::Result<()> = std::thread::scope(|scope| scope.spawn(work).join());
        assert!(ended.is_err() && road.take(&AtomicBool::new(false)).is_none());
    }
}
