//! mp4 files by a program that everyone has or can install: `ffmpeg`, fed with raw frames.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::draw::Canvas;
use crate::data::ffmpeg::{INSTALL, named, shielded};
use crate::error::{Error, Result};

/// What is kept of the program's complaints.
const COMPLAINTS: u64 = 16 << 10;

/// An `ffmpeg` that was found to work.
#[derive(Debug, Clone)]
pub struct Mp4Writer {
    program: PathBuf,
    /// `libx264`, or `mpeg4` where that is missing.
    pub encoder: &'static str,
}

impl Mp4Writer {
    /// The `ffmpeg` on PATH.
    ///
    /// # Errors
    /// As [`Mp4Writer::at`].
    pub fn find() -> Result<Self> {
        Self::at(Path::new("ffmpeg"))
    }

    /// # Errors
    /// [`Error::Config`] if the program is missing, does not start, or can write neither H.264 nor MPEG-4.
    pub fn at(program: &Path) -> Result<Self> {
        let key = program.display().to_string();
        let listed = Command::new(program).args(["-hide_banner", "-encoders"]).stdin(Stdio::null()).output();
        let listed = match listed {
            Ok(listed) if listed.status.success() => listed,
            Ok(listed) => {
                let what = format!("`{key} -encoders` failed ({})", listed.status);
                return Err(Error::config(key, what, format!("it seems broken: {INSTALL}")));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::config(key, "is needed to write mp4 files and was not found", INSTALL));
            }
            Err(error) => return Err(Error::config(key, format!("could not be started: {error}"), INSTALL)),
        };
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let has = |name: &str| listed.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
        let encoder = match ["libx264", "mpeg4"].into_iter().find(|name| has(name)) {
            Some(encoder) => encoder,
            None => {
                let what = "has neither the encoder libx264 nor mpeg4";
                return Err(Error::config(key, what, format!("it is a cut-down build: {INSTALL}")));
            }
        };
        Ok(Self { program: program.to_path_buf(), encoder })
    }

    /// Writes frames of one size to the new file `to`, durably; `stop` ends it between two frames.
    ///
    /// # Errors
    /// [`Error::Stopped`], or [`Error::Format`] with the program's own words if it fails; a partial file may be left.
    pub fn write(
        &self,
        to: &Path,
        (width, height): (usize, usize),
        fps: f32,
        frames: impl Iterator<Item = Canvas>,
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["-hide_banner", "-loglevel", "error", "-xerror", "-nostats"]);
        command.args(["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", &format!("{width}x{height}")]);
        command.args(["-framerate", &fps.to_string(), "-i", "pipe:0"]);
        command.args(["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1"]);
        command.args(["-c:v", self.encoder]);
        match self.encoder {
            // Halved chroma needs even sides; whole chroma plays everywhere but in some browsers.
            "libx264" => {
                let even = width.is_multiple_of(2) && height.is_multiple_of(2);
                command.args(["-preset", "veryfast", "-crf", "16"]);
                command.args(["-pix_fmt", if even { "yuv420p" } else { "yuv444p" }])
            }
            _ => command.args(["-q:v", "2", "-pix_fmt", "yuv420p"]),
        };
        command.args(["-movflags", "+faststart", "-f", "mp4", "-y"]).arg(named(to));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        shielded(&mut command);
        let mut child = command.spawn().map_err(|error| {
            Error::config(self.program.display().to_string(), format!("could not be started: {error}"), INSTALL)
        })?;
        let (input, complaints) = (child.stdin.take(), child.stderr.take());
        let (fed, said) = std::thread::scope(|scope| {
            // Read beside: a program that complains a lot must not wait for us while we wait for it.
            let reader = scope.spawn(|| {
                let mut said = Vec::new();
                if let Some(mut pipe) = complaints {
                    // What cannot be read is missing from an error message, no more.
                    let _ = pipe.by_ref().take(COMPLAINTS).read_to_end(&mut said);
                    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
                }
                said
            });
            let fed = feed(input, frames, stop);
            if matches!(fed, Err(Error::Stopped)) {
                // It may have ended by itself meanwhile.
                let _ = child.kill();
            }
            (fed, reader.join().unwrap_or_default())
        });
        let status = child.wait().map_err(Error::io("write", to))?;
        if matches!(fed, Err(Error::Stopped)) {
            return fed;
        }
        if !status.success() {
            let said = String::from_utf8_lossy(&said);
            let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why").trim();
            let fix = match said.to_lowercase().contains("no space") {
                true => "free some space and run the same command again",
                false => "try its newest version, or other sizes",
            };
            return Err(Error::format(to, format!("{} failed ({status}): {said}", self.program.display()), fix));
        }
        fed?;
        OpenOptions::new().write(true).open(to).and_then(|file| file.sync_all()).map_err(Error::io("write", to))
    }
}

/// Hands all frames to the program. One that closes its ear says why in its status.
fn feed(input: Option<impl Write>, frames: impl Iterator<Item = Canvas>, stop: &AtomicBool) -> Result<()> {
    let Some(mut input) = input else { return Ok(()) };
    for frame in frames {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        input.write_all(&frame.rgb).map_err(Error::io("write to", "ffmpeg"))?;
    }
    input.flush().map_err(Error::io("write to", "ffmpeg"))
}
