//! Videos become pictures by the programs ffmpeg and ffprobe: never linked, always asked for whole frames on a pipe.
//!
//! Files are hostile: only containers of plain video are opened, only from files, so that a playlist in disguise reaches
//! neither the network nor other files. A frame's time is its place on the grid that was asked for, and nothing that the
//! program prints among a file's own words.

use super::files::open_regular;
use super::media::Sampling;
use super::picture::{MOST_PIXELS, Picture};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

/// Demuxers that are let near a file: what a person calls a video, and no playlists.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,m4v,h264,hevc,ivf,nut,wav,mp3,\
                          aac,flac";
/// Lines of complaints that are kept, and the most bytes of one.
const MOST_LINES: usize = 8;
const LINE_BYTES: u64 = 4096;
const LEVELS: [&str; 3] = ["[error] ", "[fatal] ", "[panic] "];
/// The most bytes of what ffprobe says.
const PROBE_BYTES: u64 = 1 << 20;
/// The most frames of one video: what a gap in its times would otherwise fill has no end.
const MOST_FRAMES: usize = 1 << 20;
/// Seconds before a still at which its search begins; where frames stand longer, the search begins at the beginning.
const BEFORE: f32 = 10.0;
/// Stretches pixels that are not square along one side, never shrinking the other; those of a quarter to four times their
/// height are, as televisions had them, and others are a mistake in the file. Square ones pass as they are.
const SQUARE: &str = "scale='if(between(sar,0.25,4)*gt(sar,1),trunc(iw*sar+0.5),iw)'\
                      :'if(between(sar,0.25,4)*lt(sar,1),trunc(ih/sar+0.5),ih)'";
/// A video that ends before this share of its length, with complaints, is cut off.
const WHOLE: f64 = 0.9;
/// How one comes by the programs.
pub(super) const INSTALL: &str =
    "install it: apt install ffmpeg, brew install ffmpeg, or https://ffmpeg.org; both programs go on the PATH";
const REPAIR: &str = "get the file again, or make it again with `ffmpeg -i OLD NEW.mp4`";

/// The programs, found once.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    version: String,
}

/// What a file says of its first video stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Seconds; absent where the container does not say.
    pub seconds: Option<f64>,
}

/// A picture of a video and when it is on the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// From the beginning of the file, as players count.
    pub seconds: f32,
    pub picture: Picture,
}

impl Ffmpeg {
    /// The programs on the PATH.
    ///
    /// # Errors
    /// [`Error::Config`] that says how to install them.
    pub fn find() -> Result<Ffmpeg> {
        let (ffmpeg, ffprobe) = (PathBuf::from("ffmpeg"), PathBuf::from("ffprobe"));
        let mut version = String::new();
        for program in [&ffprobe, &ffmpeg] {
            let said = Command::new(program).arg("-version").stdin(Stdio::null()).output();
            let said = said.map_err(|e| absent(program, &e))?;
            let text = String::from_utf8_lossy(&said.stdout);
            version = text.split_whitespace().nth(2).unwrap_or("unknown").to_string();
        }
        Ok(Ffmpeg { ffmpeg, ffprobe, version })
    }

    /// As it calls itself, for example `5.1.9`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Asks what a file holds, without decoding it.
    ///
    /// # Errors
    /// [`Error::Format`] when it is no video, damaged, or has sound alone.
    pub fn probe(&self, path: &Path) -> Result<Probe> {
        #[derive(Deserialize)]
        struct Stream {
            duration: Option<String>,
        }
        #[derive(Deserialize)]
        struct Container {
            duration: Option<String>,
        }
        #[derive(Deserialize)]
        struct Said {
            #[serde(default)]
            streams: Vec<Stream>,
            format: Option<Container>,
        }
        open_regular(path)?;
        let mut command = guarded(&self.ffprobe);
        command.args([
            "-v",
            "level+error",
            "-select_streams",
            "V:0",
            "-show_entries",
            "stream=duration:format=duration",
        ]);
        command.args(["-of", "json"]).arg(named(path)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| absent(&self.ffprobe, &e))?;
        let complaints = Complaints::listen(&mut child);
        let mut text = vec![];
        if let Some(out) = child.stdout.take() {
            out.take(PROBE_BYTES).read_to_end(&mut text).map_err(Error::io("read what ffprobe says of", path))?;
        }
        let status = child.wait().map_err(Error::io("wait for ffprobe on", path))?;
        let complaints = complaints.all();
        if !status.success() {
            return Err(Error::format(path, format!("is no video that can be read{}", said(&complaints)), REPAIR));
        }
        let found: Said = serde_json::from_slice(&text)
            .map_err(|e| Error::format(path, format!("ffprobe says what cannot be read ({e})"), REPAIR))?;
        let Some(stream) = found.streams.first() else {
            let what = format!("has no picture, at most sound or text{}", said(&complaints));
            return Err(Error::format(path, what, "leave it out"));
        };
        let seconds = |text: &Option<String>| {
            text.as_ref().and_then(|t| t.parse::<f64>().ok()).filter(|s| s.is_finite() && *s > 0.0)
        };
        let container = found.format.and_then(|f| seconds(&f.duration));
        Ok(Probe { seconds: seconds(&stream.duration).or(container) })
    }

    /// Decodes the frames that `sampling` asks for, in the order of time, turned as their rotation flag says and with
    /// square pixels. Before the first picture of a video that begins late, it is that.
    ///
    /// # Errors
    /// When ffmpeg cannot be started, or the file does not say how long it is where that matters; those of
    /// [`Ffmpeg::probe`] come with the first frame, or in its place.
    pub fn frames(&self, path: &Path, sampling: Sampling) -> Result<Frames> {
        // `round=up`: a frame of the grid is what was on the screen at its instant, the last that began before it.
        let cut = match sampling {
            Sampling::Fps(fps) => {
                let filter = format!("fps=fps={fps}:start_time=0:round=up,{SQUARE}");
                Cut { filter, first: 0.0, step: step(fps), most: MOST_FRAMES, whole: true, wanted: None }
            }
            Sampling::Frames(n) => {
                let Some(seconds) = self.probe(path)?.seconds else {
                    let what = "does not say how long it is, and frames are to be spread evenly over it";
                    return Err(Error::format(path, what, "use --fps, or make it again with `ffmpeg -i OLD NEW.mp4`"));
                };
                // Moved back by half a step, the middles of n equal parts lie on the grid. Containers whose ticks are
                // as long as a frame would round that away.
                let (step, micros) = (seconds / n as f64, (seconds * 1e6).round().max(1.0));
                let (half, rate) = ((micros / (2 * n) as f64).round(), n as u64 * 1_000_000);
                let filter =
                    format!("settb=1/1000000,setpts=PTS-{half},fps=fps={rate}/{micros}:start_time=0:round=up,{SQUARE}");
                Cut { filter, first: step / 2.0, step, most: n, whole: true, wanted: Some(n) }
            }
        };
        self.decode(path, cut, &[])
    }

    /// The frame on the screen at a second, no wider than `width`.
    ///
    /// # Errors
    /// As [`Ffmpeg::frames`], and when there is no frame.
    pub fn still(&self, path: &Path, seconds: f32, width: u32) -> Result<Picture> {
        let cut = |filter, most| Cut { filter, first: 0.0, step: 0.0, most, whole: false, wanted: None };
        // What is on the screen is the last frame that began before: the one at the end of a stretch that ends there.
        let still = |from: f32| {
            let until = format!("{:.3}", seconds.max(0.0) - from + 0.002);
            // `-t` counts from the first frame and ends the decoding, `select` from the place that was sought.
            let filter = format!("select='lte(t,{until})',{SQUARE},scale='min({width},iw)':-2");
            let stretch: [OsString; 4] = ["-ss".into(), format!("{from:.3}").into(), "-t".into(), until.into()];
            let mut last = None;
            for frame in self.decode(path, cut(filter, MOST_FRAMES), &stretch)? {
                last = Some(frame?.picture);
            }
            last.ok_or_else(|| Error::format(path, format!("has no frame at {seconds:.1} s"), REPAIR))
        };
        let near = (seconds - BEFORE).max(0.0);
        // Before the first frame nothing is on the screen, and the first is what comes nearest.
        let first = || {
            let none = || Error::format(path, "has no frame", REPAIR);
            let filter = format!("{SQUARE},scale='min({width},iw)':-2");
            self.decode(path, cut(filter, 1), &[])?.next().ok_or_else(none)?.map(|frame| frame.picture)
        };
        still(near).or_else(|e| if near > 0.0 { still(0.0) } else { Err(e) }).or_else(|_| first())
    }

    fn decode(&self, path: &Path, cut: Cut, before: &[OsString]) -> Result<Frames> {
        open_regular(path)?;
        let mut command = guarded(&self.ffmpeg);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+error"]);
        // One graph for the whole video: built anew where the picture's size changes, its grid would begin again at 0.
        command.args(["-reinit_filter", "0"]).args(before).arg("-i").arg(named(path));
        command.args(["-map", "0:V:0", "-an", "-sn", "-dn", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]);
        command.args(["-vf", &cut.filter, "-fps_mode", "passthrough", "-frames:v", &cut.most.to_string()]);
        command.args(["-f", "image2pipe", "-c:v", "ppm", "-"]).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| absent(&self.ffmpeg, &e))?;
        let complaints = Some(Complaints::listen(&mut child));
        let out = child.stdout.take().map(BufReader::new);
        Ok(Frames { asked: self.clone(), path: path.into(), cut, child, out, complaints, frames: 0, kept: vec![] })
    }
}

/// Seconds between frames at this rate, which is what ffmpeg reads: of 29.97 the decimal, and not the nearest f32.
fn step(fps: f32) -> f64 {
    1.0 / fps.to_string().parse().unwrap_or(f64::from(fps))
}

/// What is asked of the decoder.
struct Cut {
    filter: String,
    /// Seconds of the first frame, and from each to the next.
    first: f64,
    step: f64,
    /// Frames, at most.
    most: usize,
    /// Whether the end of the video should be among them.
    whole: bool,
    /// How many there should be, where that is known.
    wanted: Option<usize>,
}

/// Frames of one video as they are decoded. Dropped early, the decoder ends.
pub struct Frames {
    asked: Ffmpeg,
    path: PathBuf,
    cut: Cut,
    child: Child,
    /// Absent once all is read.
    out: Option<BufReader<ChildStdout>>,
    complaints: Option<Complaints>,
    /// That were read.
    frames: usize,
    kept: Vec<String>,
}

impl Frames {
    /// What ffmpeg complained of in a video that could be read all the same; complete when no frame is left.
    pub fn complaints(&self) -> &[String] {
        &self.kept
    }

    /// Seconds of frame `k`.
    fn time(&self, k: usize) -> f64 {
        self.cut.first + k as f64 * self.cut.step
    }

    fn read(&mut self) -> Result<Option<Frame>> {
        let Some(out) = &mut self.out else { return Ok(None) };
        let read = match ppm(out) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return self.end(true).map(|()| None),
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                return Err(Error::format(&self.path, format!("{e}"), REPAIR));
            }
            read => read.map_err(Error::io("read frames of", &self.path))?,
        };
        let Some((width, height, rgb)) = read else { return self.end(false).map(|()| None) };
        let picture = Picture::new(width, height, rgb)?;
        let time = self.time(self.frames);
        self.frames += 1;
        if self.frames == MOST_FRAMES {
            let what = format!("has {MOST_FRAMES} frames or more, the last at {time:.0} s: its times may have a gap");
            return Err(Error::format(&self.path, what, "take fewer with --fps, or split it"));
        }
        Ok(Some(Frame { seconds: time as f32, picture }))
    }

    /// All that came is read, where `torn` up to within a frame: did the decoder see the whole video?
    fn end(&mut self, torn: bool) -> Result<()> {
        self.out = None;
        let status = self.child.wait().map_err(Error::io("wait for ffmpeg on", &self.path))?;
        self.kept = self.complaints.take().map(Complaints::all).unwrap_or_default();
        let told = match self.kept.is_empty() && !status.success() {
            true => format!(" (ffmpeg: {status})"),
            false => said(&self.kept),
        };
        if torn || !status.success() || self.frames == 0 {
            // What it is says more than what the decoder stumbled over.
            self.asked.probe(&self.path)?;
            let what = match status.success() {
                false => "cannot be decoded",
                true if torn => "breaks off within a frame",
                true => "has no frame",
            };
            return Err(Error::format(&self.path, format!("{what}{told}"), REPAIR));
        }
        let last = self.time(self.frames - 1);
        if self.cut.whole && !self.kept.is_empty() {
            // Only now, for it takes as long as the frames of a short video.
            let whole = self.asked.probe(&self.path)?.seconds;
            let end = last + self.cut.step - self.cut.first;
            if let Some(whole) = whole.filter(|whole| end < WHOLE * whole - 1.0) {
                return Err(Error::format(
                    &self.path,
                    format!("breaks off at {last:.1} s of {whole:.1}{told}"),
                    REPAIR,
                ));
            }
        }
        // Sound that goes on behind the pictures makes a file longer than they are.
        if let Some(wanted) = self.cut.wanted.filter(|wanted| self.frames < *wanted) {
            let frames = self.frames;
            self.kept.insert(0, format!("{frames} of {wanted} frames: pictures end at about {last:.1} s"));
        }
        Ok(())
    }
}

impl Iterator for Frames {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        let read = self.read();
        if read.is_err() {
            self.out = None;
        }
        read.transpose()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it stays.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program says on standard error, heard by a thread of its own so that the program never waits for a reader.
struct Complaints(Option<JoinHandle<Vec<String>>>);

impl Complaints {
    fn listen(child: &mut Child) -> Complaints {
        let Some(err) = child.stderr.take() else { return Complaints(None) };
        Complaints(Some(std::thread::spawn(move || {
            let (mut reader, mut line, mut kept) = (BufReader::new(err), vec![], Vec::<String>::new());
            let mut begins = true;
            while matches!(reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line);
                // What follows in a long line is a file's own words, and so is what stands behind the level.
                let complaint = complaint(&text).filter(|_| begins);
                begins = line.ends_with(b"\n");
                if let Some(told) = complaint
                    && kept.len() < MOST_LINES
                    && kept.last().is_none_or(|last| last != told)
                {
                    kept.push(told.to_string());
                }
                line.clear();
            }
            kept
        })))
    }

    fn all(self) -> Vec<String> {
        // A listener that panicked has heard nothing worth telling.
        self.0.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// Keeps the terminal's Ctrl-C from a program: it is ours to answer.
pub(super) fn shielded(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

/// A program that reads files only.
fn guarded(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    shielded(&mut command);
    command.args(["-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS]);
    command
}

/// A name that is never taken for an option or a protocol.
pub(super) fn named(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

fn absent(program: &Path, e: &std::io::Error) -> Error {
    let what = format!("cannot be started ({e})");
    Error::config(program.display().to_string(), what, INSTALL)
}

fn said(complaints: &[String]) -> String {
    complaints.first().map_or(String::new(), |line| format!(" (ffmpeg: {line})"))
}

/// What a line complains of: `[error] …`, or the same behind the name of who complains, `[mov @ 0x55…] [error] …`.
fn complaint(line: &str) -> Option<&str> {
    let level = |rest: &str| LEVELS.iter().any(|level| rest.starts_with(level));
    let behind = line.starts_with('[').then(|| line.split_once("] ")).flatten().map(|(_, rest)| rest);
    let rest = if level(line) { Some(line) } else { behind.filter(|rest| level(rest)) };
    rest?.split_once("] ").map(|(_, told)| told.trim())
}

/// Reads one picture `P6 width height 255`; none at the end.
fn ppm(from: &mut impl BufRead) -> std::io::Result<Option<(u32, u32, Vec<u8>)>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut header = [0u64; 3];
    let mut mark = [0; 2];
    from.read_exact(&mut mark)?;
    let bad = |what: &str| std::io::Error::new(ErrorKind::InvalidData, format!("a frame on the pipe {what}"));
    if mark != *b"P6" {
        return Err(bad("does not begin as one"));
    }
    for number in &mut header {
        let mut digits = vec![];
        loop {
            let mut byte = [0];
            from.read_exact(&mut byte)?;
            match byte[0] {
                b'0'..=b'9' if digits.len() < 9 => digits.push(byte[0]),
                b' ' | b'\n' if digits.is_empty() => {}
                b' ' | b'\n' => break,
                _ => return Err(bad("has a size that is no number")),
            }
        }
        *number = digits.iter().fold(0, |n, d| 10 * n + u64::from(d - b'0'));
    }
    let [width, height, most] = header;
    if most != 255 || width * height == 0 || width * height > MOST_PIXELS {
        return Err(bad(&format!("has {width} x {height} pixels of up to {most}")));
    }
    let mut rgb = vec![0; 3 * (width * height) as usize];
    from.read_exact(&mut rgb)?;
    Ok(Some((width as u32, height as u32, rgb)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_on_a_pipe_are_read_one_by_one() {
        let mut bytes = b"P6\n2 1\n255\nabcdef".to_vec();
        bytes.extend(b"P6\n1 1\n255\nxyz");
        let mut from = &bytes[..];
        assert_eq!(ppm(&mut from).unwrap(), Some((2, 1, b"abcdef".to_vec())));
        assert_eq!(ppm(&mut from).unwrap(), Some((1, 1, b"xyz".to_vec())));
        assert_eq!(ppm(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_memory_is_taken() {
        for bad in
            ["P5\n1 1\n255\nx", "P6\n0 4\n255\n", "P6\n99999999 9999999\n255\n", "P6\n1 1\n65535\nxxxxxx", "P6\n1"]
        {
            assert!(ppm(&mut bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_decoder_that_dies_within_a_frame_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        // A shell writes the programs: a file that this process had open could not be started yet.
        let program = |name: &str, script: &str| {
            let path = dir.path().join(name);
            let make = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
            assert!(Command::new("sh").args(["-c", make]).arg(&path).arg(script).status().unwrap().success());
            path
        };
        let ffprobe = program("ffprobe", "echo '{\"streams\": [{}]}'");
        let video = dir.path().join("video.mp4");
        std::fs::write(&video, "x").unwrap();
        for (end, told) in [
            ("echo '[error] no more memory' >&2; exit 1", "cannot be decoded (ffmpeg: no more memory)"),
            ("kill -9 $$", "cannot be decoded (ffmpeg: signal: 9"),
            ("exit 0", "breaks off within a frame"),
        ] {
            let ffmpeg = program("ffmpeg", &format!("printf 'P6\\n1 1\\n255\\nabcP6\\n2 1\\n255\\nabc'; {end}"));
            let asked = Ffmpeg { ffmpeg, ffprobe: ffprobe.clone(), version: String::new() };
            let mut frames = asked.frames(&video, Sampling::Fps(1.0)).unwrap();
            assert!(frames.next().unwrap().is_ok());
            let error = frames.next().unwrap().unwrap_err().to_string();
            assert!(error.contains(told) && frames.next().is_none(), "{error}");
        }
    }

    #[test]
    fn complaints_are_told_from_other_lines() {
        assert_eq!(complaint("[h264 @ 0x55] [error] Invalid NAL unit size\n"), Some("Invalid NAL unit size"));
        assert_eq!(complaint("[error] file:x: Invalid data"), Some("file:x: Invalid data"));
        assert_eq!(complaint("[info]     title           : [error] no"), None);
    }
}
