//! From video files to answers: decoding by ffmpeg, what is broken, what is interrupted, search by a sentence.

use moviola::data::ffmpeg::Ffmpeg;
use moviola::data::media::Sampling;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs ffmpeg, which `tools/test` installs.
fn ffmpeg(args: &[&str]) {
    let out = Command::new("ffmpeg").args(["-v", "error", "-y", "-nostdin"]).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A clip whose n-th frame is grey of level 16 + n: a frame tells its own number.
fn numbered(path: &Path, seconds: u32, size: &str, more: &[&str]) {
    let source = format!("color=c=black:s={size}:r=25:d={seconds},geq=lum='16+N':cb=128:cr=128");
    let path = path.to_str().unwrap();
    ffmpeg(&[&["-f", "lavfi", "-i", source.as_str()], more, &["-c:v", "libx264", "-qp", "0", path]].concat());
}

/// The number that a numbered frame tells: greys of limited range are spread over 0 to 255.
fn number(rgb: &[u8]) -> i64 {
    (f64::from(rgb[0]) * 219.0 / 255.0).round() as i64
}

fn frames(path: &Path, sampling: Sampling) -> Vec<(f32, i64, (u32, u32))> {
    let frames = Ffmpeg::find().unwrap().frames(path, sampling).unwrap();
    let told =
        |f: moviola::data::ffmpeg::Frame| (f.seconds, number(&f.picture.rgb), (f.picture.width, f.picture.height));
    frames.map(|f| told(f.unwrap())).collect()
}

fn clip_encoder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders/clip")
}

fn moviola(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moviola")).args(args).args(["--device", "cpu"]).output().unwrap()
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stdout)))
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_row_is_what_is_on_the_screen_at_its_second() {
    let dir = tempfile::tempdir().unwrap();
    let even = dir.path().join("even.mp4");
    numbered(&even, 4, "64x48", &[]);
    let found = frames(&even, Sampling::Fps(2.0));
    let expected: Vec<_> = (0..8).map(|i| (i as f32 / 2.0, i * 25 / 2, (64, 48))).collect();
    assert_eq!(found, expected);
    // The middles of four equal parts.
    let found = frames(&even, Sampling::Frames(4));
    let expected: Vec<_> = (0..4).map(|i| (i as f32 + 0.5, (25 * i + 12), (64, 48))).collect();
    assert_eq!(found, expected);
    // The same where a container's ticks are whole frames, and a middle lies within one.
    let coarse = dir.path().join("coarse.avi");
    numbered(&coarse, 4, "64x48", &["-bf", "0"]);
    assert_eq!(frames(&coarse, Sampling::Frames(4)), expected);
}

#[test]
fn seconds_are_exact_in_a_long_video() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.mp4");
    let source = "color=c=black:s=16x16:r=1:d=2000,geq=lum='16+mod(N,200)':cb=128:cr=128";
    ffmpeg(&["-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "0", long.to_str().unwrap()]);
    let found = frames(&long, Sampling::Fps(0.3));
    assert_eq!(found.len(), 600);
    for (k, (second, number, _)) in found.into_iter().enumerate() {
        assert_eq!((second, number), ((k as f64 / 0.3) as f32, (10 * k as i64 / 3) % 200), "frame {k}");
    }
}

#[test]
fn a_variable_frame_rate_shows_what_stands_still() {
    let dir = tempfile::tempdir().unwrap();
    let uneven = dir.path().join("uneven.mp4");
    // Frames 0, 60 (2.4 s) and 90 (3.6 s), each standing until the next.
    numbered(&uneven, 4, "64x48", &["-vf", "select='eq(n,0)+eq(n,60)+gte(n,90)'", "-fps_mode", "vfr"]);
    let found: Vec<_> = frames(&uneven, Sampling::Fps(1.0)).into_iter().map(|f| (f.0, f.1)).collect();
    assert_eq!(found, [(0.0, 0), (1.0, 0), (2.0, 0), (3.0, 60)]);
}

#[test]
fn pictures_that_begin_late_or_end_before_the_sound_keep_their_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (flat, late) = (dir.path().join("flat.mp4"), dir.path().join("late.mkv"));
    numbered(&flat, 2, "64x48", &[]);
    let sound = ["-f", "lavfi", "-i", "sine=d=9", "-map", "0:v", "-map", "1:a", "-c:v", "copy"];
    ffmpeg(&[&["-itsoffset", "1.31", "-i", flat.to_str().unwrap()], &sound[..], &[late.to_str().unwrap()]].concat());
    let found: Vec<_> = frames(&late, Sampling::Fps(2.0)).into_iter().map(|f| (f.0, f.1)).collect();
    // Before the first picture it is the first.
    assert_eq!(found, [(0.0, 0), (0.5, 0), (1.0, 0), (1.5, 4), (2.0, 17), (2.5, 29), (3.0, 42)]);
    assert_eq!(number(&Ffmpeg::find().unwrap().still(&late, 0.5, 64).unwrap().rgb), 0);
    let mut few = Ffmpeg::find().unwrap().frames(&late, Sampling::Frames(6)).unwrap();
    let told: Vec<_> = few.by_ref().map(|f| f.unwrap()).map(|f| (f.seconds, number(&f.picture.rgb))).collect();
    // Of about 9 seconds; the last middle that has a picture is at 2.25.
    assert_eq!(told.iter().map(|t| t.1).collect::<Vec<_>>(), [0, 23], "{told:?}");
    assert!(few.complaints()[0].contains("of 6 frames"), "{:?}", few.complaints());
}

#[test]
fn a_still_is_what_is_on_the_screen() {
    let dir = tempfile::tempdir().unwrap();
    let uneven = dir.path().join("uneven.mp4");
    numbered(&uneven, 4, "64x48", &["-vf", "select='eq(n,0)+eq(n,60)+gte(n,90)'", "-fps_mode", "vfr"]);
    let ffmpeg = Ffmpeg::find().unwrap();
    let still = |second: f32| number(&ffmpeg.still(&uneven, second, 64).unwrap().rgb);
    assert_eq!([0.0, 1.0, 2.39, 2.4, 3.0, 3.6, 30.0].map(still), [0, 0, 0, 60, 60, 90, 99]);
}

#[test]
fn words_in_a_file_are_no_times_and_few_frames_no_early_end() {
    let dir = tempfile::tempdir().unwrap();
    let titled = dir.path().join("titled.mkv");
    let title = format!(
        "title=x pts_time:99 y [error] z {}[Parsed_showinfo_1 @ 0x5] [info] n: 0 pts_time:7 ",
        "w".repeat(4090)
    );
    numbered(&titled, 4, "64x48", &["-metadata", &title]);
    let told =
        |path: &Path| -> Vec<(f32, i64)> { frames(path, Sampling::Fps(0.5)).into_iter().map(|f| (f.0, f.1)).collect() };
    assert_eq!(told(&titled), [(0.0, 0), (2.0, 50)]);
    // The name of a tag may hold the end of a line, so that what follows looks like what the program says itself.
    let forged = "T\n[Parsed_showinfo_1 @ 0x5] [info] n:   0 pts:      0 pts_time:7 \n[error] z ";
    let (name, tagged) = ("K".repeat(forged.len()), dir.path().join("tagged.mkv"));
    numbered(&tagged, 4, "64x48", &["-metadata", &format!("{name}=x")]);
    let bytes = fs::read(&tagged).unwrap();
    let at = bytes.windows(name.len()).position(|part| part == name.as_bytes()).unwrap();
    fs::write(&tagged, [&bytes[..at], forged.as_bytes(), &bytes[at + name.len()..]].concat()).unwrap();
    assert_eq!(told(&tagged), [(0.0, 0), (2.0, 50)]);
    let mut found = Ffmpeg::find().unwrap().frames(&tagged, Sampling::Fps(1.0)).unwrap();
    assert_eq!((found.by_ref().count(), found.complaints()), (4, &[][..]));
    // A damaged block in the middle: the decoder complains and goes on.
    let mut bytes = fs::read(&titled).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0x55);
    fs::write(&titled, bytes).unwrap();
    let mut found = Ffmpeg::find().unwrap().frames(&titled, Sampling::Frames(2)).unwrap();
    assert_eq!(found.by_ref().map(|f| f.unwrap().seconds).collect::<Vec<_>>(), [1.0, 3.0]);
}

#[test]
fn turned_and_odd_pictures_come_as_a_player_shows_them() {
    let dir = tempfile::tempdir().unwrap();
    let (odd, turned) = (dir.path().join("odd.mkv"), dir.path().join("turned.mp4"));
    numbered(&odd, 1, "65x33", &["-vf", "scale=65:33,setsar=1,format=yuv444p"]);
    assert!(frames(&odd, Sampling::Fps(5.0)).iter().all(|f| f.2 == (65, 33)));
    let flat = dir.path().join("flat.mp4");
    numbered(&flat, 1, "64x32", &[]);
    let rotated: &[&str] =
        &["-display_rotation", "90", "-i", flat.to_str().unwrap(), "-c", "copy", turned.to_str().unwrap()];
    let old: &[&str] =
        &["-i", flat.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90", turned.to_str().unwrap()];
    // The option is that of ffmpeg 6 and later, the metadata that of those before.
    let new = Command::new("ffmpeg").args(["-v", "error", "-y", "-nostdin"]).args(rotated).status().unwrap();
    if !new.success() {
        ffmpeg(old);
    }
    assert!(frames(&turned, Sampling::Fps(5.0)).iter().all(|f| f.2 == (32, 64)));
}

#[test]
fn pixels_that_are_not_square_are_stretched_as_a_player_does() {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg_found = Ffmpeg::find().unwrap();
    // Wide, tall, square, not said, and nothing that a screen could show.
    for (name, sar, shown) in [
        ("wide", "16/11", (105, 58)),
        ("tall", "8/9", (72, 65)),
        ("square", "1/1", (72, 58)),
        ("unsaid", "0/1", (72, 58)),
        ("absurd", "500/1", (72, 58)),
    ] {
        let path = dir.path().join(format!("{name}.mp4"));
        numbered(&path, 2, "72x58", &["-vf", &format!("setsar={sar}")]);
        for (sampling, expected) in [(Sampling::Fps(1.0), [0, 25]), (Sampling::Frames(2), [12, 37])] {
            let found: Vec<_> = frames(&path, sampling).into_iter().map(|f| (f.1, f.2)).collect();
            assert_eq!(found, expected.map(|number| (number, shown)), "{name}");
        }
        let still = ffmpeg_found.still(&path, 1.0, 60).unwrap();
        let height = 60.0 * f64::from(shown.1) / f64::from(shown.0);
        assert!(still.width == 60 && (f64::from(still.height) - height).abs() <= 1.0, "{name}: {}", still.height);
    }
    // What stands where stays there: the left half is dark, the right one light.
    let halves = dir.path().join("halves.mkv");
    let source = "color=c=black:s=40x20:r=5:d=1,geq=lum='if(lt(X,20),16,235)':cb=128:cr=128,setsar=2/1";
    ffmpeg(&["-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "0", halves.to_str().unwrap()]);
    let mut found = ffmpeg_found.frames(&halves, Sampling::Fps(1.0)).unwrap();
    let picture = found.next().unwrap().unwrap().picture;
    assert_eq!((picture.width, picture.height), (80, 20));
    for (x, pixel) in picture.rgb[..3 * 80].chunks_exact(3).enumerate().filter(|(x, _)| !(36..44).contains(x)) {
        assert_eq!(pixel, [if x < 40 { 0 } else { 255 }; 3], "{x}");
    }
}

#[test]
fn a_picture_that_changes_its_size_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let part = |size: &str, offset: &str| {
        let path = dir.path().join(format!("{size}.ts"));
        numbered(&path, 3, size, &["-output_ts_offset", offset]);
        fs::read(path).unwrap()
    };
    let (first, second) = (part("64x48", "0"), part("96x64", "3"));
    let both = dir.path().join("both.ts");
    fs::write(&both, [first, second].concat()).unwrap();
    let found = frames(&both, Sampling::Fps(2.0));
    let expected: Vec<_> = (0..12).map(|i| (i as f32 / 2.0, (i % 6) * 25 / 2, (64, 48))).collect();
    assert_eq!(found, expected);
}

/// Files that are no whole videos, and what is said of each.
fn broken(dir: &Path) -> Vec<(&'static str, &'static str)> {
    let whole = dir.join("whole.tmp.mp4");
    let path = |name: &str| dir.join(name);
    ffmpeg(&["-f", "lavfi", "-i", "sine", "-t", "1", path("sound.mp4").to_str().unwrap()]);
    let source = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25", "-t", "8", "-c:v", "libx264", "-pix_fmt", "yuv420p"];
    ffmpeg(&[&source[..], &["-movflags", "faststart", whole.to_str().unwrap()]].concat());
    let bytes = fs::read(&whole).unwrap();
    fs::write(path("cut.mp4"), &bytes[..bytes.len() / 4]).unwrap();
    fs::write(path("head.mp4"), &bytes[..100]).unwrap();
    fs::remove_file(whole).unwrap();
    fs::write(path("empty.mp4"), "").unwrap();
    fs::write(path("words.mp4"), "these are no pictures").unwrap();
    fs::write(path("list.mp4"), "#EXTM3U\n#EXTINF:10,\nclip0.mp4\n").unwrap();
    vec![
        ("sound.mp4", "no picture"),
        ("cut.mp4", "breaks off at"),
        ("head.mp4", "no picture"),
        ("empty.mp4", "no video"),
        ("words.mp4", "no video"),
        ("list.mp4", "no video"),
    ]
}

#[test]
fn a_broken_video_costs_itself_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let clips = dir.path().join("clips");
    fs::create_dir(&clips).unwrap();
    for i in 0..3 {
        numbered(&clips.join(format!("clip{i}.mp4")), 1 + i, "48x48", &[]);
    }
    let faults = broken(&clips);
    let out = dir.path().join("out");
    let encoder = clip_encoder();
    let run = moviola(&[
        "encode",
        "videos",
        clips.to_str().unwrap(),
        "--encoder",
        encoder.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--json",
    ]);
    assert_eq!(run.status.code(), Some(1), "{}", told(&run));
    let report = json(&run);
    assert_eq!((report["items"].as_u64(), report["rows"].as_u64()), (Some(3), Some(12)));
    let failed: Vec<_> = report["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["file"].as_str().unwrap(), f["what"].as_str().unwrap()))
        .collect();
    assert_eq!(failed.len(), faults.len(), "{failed:?}");
    for (file, what) in faults {
        assert!(failed.iter().any(|(f, w)| *f == file && w.contains(what)), "{file}: {failed:?}");
    }
    assert!(told(&run).contains("6 of 9 files"), "{}", told(&run));
    // What is written is whole, and says where it comes from.
    let source = moviola::data::open_tokens(&out).unwrap();
    assert_eq!(source.ids(), ["clip0", "clip1", "clip2"]);
    assert_eq!(source.timestamps(0).unwrap().to_vec(), [0.0, 0.5]);
    assert_eq!(source.file(2), Some("clip2.mp4"));
    assert!(source.provenance().about.origin.as_ref().unwrap().decoder.starts_with("ffmpeg"));
}

/// The values of all items.
fn values(dir: &Path) -> Vec<(String, Vec<f32>)> {
    let source = moviola::data::open_tokens(dir).unwrap();
    source.ids().iter().enumerate().map(|(i, id)| (id.clone(), source.load(i).unwrap().data)).collect()
}

#[test]
fn interrupted_work_goes_on_and_ends_as_if_it_had_not_been() {
    use moviola::data::journal::Journal;
    let dir = tempfile::tempdir().unwrap();
    let clips = dir.path().join("clips");
    fs::create_dir(&clips).unwrap();
    for i in 0..4 {
        numbered(&clips.join(format!("clip{i}.mp4")), 1, "48x48", &["-vf", &format!("lutyuv=y=val+{}", 20 * i)]);
    }
    let encoder = clip_encoder();
    let encode = |out: &Path, more: &[&str]| {
        let (clips, encoder, out) = (clips.to_str().unwrap(), encoder.to_str().unwrap(), out.to_str().unwrap());
        moviola(&[&["encode", "videos", clips, "--encoder", encoder, "--out", out, "--json"], more].concat())
    };
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let run = encode(&whole, &[]);
    assert!(run.status.success(), "{}", told(&run));
    let dim = moviola::data::open_tokens(&whole).unwrap().dim();
    // A run that was killed when two were done, and one of these has changed since.
    let identity = json(&run)["encoder"].as_str().unwrap().to_string();
    let decoder = Ffmpeg::find().unwrap().version().to_string();
    let settings = format!("2 frames a second, decoded by ffmpeg {decoder}, in f16, by {identity}");
    let mut journal = Journal::open(&broken, dim, &settings).unwrap();
    let stamp = |i: usize| {
        let of = fs::metadata(clips.join(format!("clip{i}.mp4"))).unwrap();
        let since = of.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        format!("{} bytes, {}", of.len(), since.as_nanos())
    };
    journal.push("clip1", &stamp(1), &vec![0.25; 2 * dim], vec![0.0, 0.5]).unwrap();
    journal.push("clip2", "another file", &vec![0.5; 2 * dim], vec![0.0, 0.5]).unwrap();
    // A third has changed into what is no video any more: the rows that it had are not its.
    journal.push("clip3", "as it was", &vec![0.75; 2 * dim], vec![0.0, 0.5]).unwrap();
    let refused = encode(&broken, &["--fps", "1"]);
    assert!(!refused.status.success() && told(&refused).contains("another program"), "{}", told(&refused));
    drop(journal);
    for (more, why) in [(["--fps", "1"], "2 frames a second"), (["--dtype", "f32"], "in f16")] {
        let refused = encode(&broken, &more);
        assert!(!refused.status.success() && told(&refused).contains(why), "{}", told(&refused));
    }
    fs::write(clips.join("clip3.mp4"), "no video").unwrap();
    let run = encode(&broken, &[]);
    assert_eq!(run.status.code(), Some(1), "{}", told(&run));
    assert_eq!(json(&run)["earlier"], 1);
    let (expected, found) = (values(&whole), values(&broken));
    assert_eq!((expected.len(), found.len()), (4, 3));
    for (e, f) in expected.iter().zip(&found) {
        assert_eq!(e.0, f.0);
        // What was done before is taken as it is.
        if e.0 == "clip1" {
            assert_eq!(f.1, vec![0.25; 2 * dim]);
        } else {
            assert_eq!(e.1, f.1, "{}", e.0);
        }
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_finished_folder_is_brought_up_to_date_by_what_is_new_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (clips, out) = (dir.path().join("clips"), dir.path().join("out"));
    fs::create_dir(&clips).unwrap();
    let clip = |name: &str| clips.join(format!("{name}.mp4"));
    let levelled = |path: &Path, level: u32| numbered(path, 1, "48x48", &["-vf", &format!("lutyuv=y=val+{level}")]);
    for (i, name) in ["a", "b", "c", "d"].iter().enumerate() {
        levelled(&clip(name), 20 * i as u32);
    }
    fs::write(clip("e"), "no video").unwrap();
    let encoder = clip_encoder();
    let run = |what: &[&str], from: &Path, to: &Path, more: &[&str]| {
        let (from, encoder, to) = (from.to_str().unwrap(), encoder.to_str().unwrap(), to.to_str().unwrap());
        moviola(&[what, &[from, "--encoder", encoder, "--out", to, "--json"], more].concat())
    };
    let encode = ["encode", "videos"];
    let first = run(&encode, &clips, &out, &[]);
    assert_eq!(first.status.code(), Some(1), "{}", told(&first));
    assert!(told(&first).contains("the same command again"), "{}", told(&first));
    let before = values(&out);
    // Of the same length and time, and no video any more: whoever looked into it would fail.
    for name in ["a", "d"] {
        let of = fs::metadata(clip(name)).unwrap();
        fs::write(clip(name), vec![0; of.len() as usize]).unwrap();
        fs::File::options().write(true).open(clip(name)).unwrap().set_modified(of.modified().unwrap()).unwrap();
    }
    // One changes, one goes, one is repaired, one comes.
    levelled(&clip("b"), 150);
    fs::remove_file(clip("c")).unwrap();
    levelled(&clip("e"), 120);
    levelled(&clip("f"), 90);
    // Whatever would make all of it anew is refused, and leaves nothing.
    let (elsewhere, manifest) = (dir.path().join("elsewhere"), out.join("manifest.json"));
    fs::create_dir(&elsewhere).unwrap();
    ["b", "e", "f"].iter().for_each(|name| {
        fs::copy(clip(name), elsewhere.join(format!("{name}.mp4"))).unwrap();
    });
    let other = encoder.with_file_name("open-clip");
    let written = fs::read(&manifest).unwrap();
    for (from, more, why) in [
        (&clips, &["--fps", "1"][..], "frames: 2 frames a second, and now 1 frames a second"),
        (&clips, &["--dtype", "f32"], "dtype: f16, and now f32"),
        (&elsewhere, &[], "another folder of files"),
    ] {
        let refused = run(&encode, from, &out, more);
        assert!(!refused.status.success() && told(&refused).contains(why), "{why}: {}", told(&refused));
    }
    let own = format!("ffmpeg {}", Ffmpeg::find().unwrap().version());
    fs::write(&manifest, String::from_utf8(written.clone()).unwrap().replace(&own, "ffmpeg 0.1")).unwrap();
    let refused = run(&encode, &clips, &out, &[]);
    assert!(told(&refused).contains("name another --out, or install ffmpeg 0.1"), "{}", told(&refused));
    fs::write(&manifest, &written).unwrap();
    let (from, other, to) = (clips.to_str().unwrap(), other.to_str().unwrap(), out.to_str().unwrap());
    let refused = moviola(&["encode", "videos", from, "--encoder", other, "--out", to]);
    assert!(told(&refused).contains("another encoder: clip@"), "{}", told(&refused));
    assert_eq!((fs::read(&manifest).unwrap(), fs::read_dir(dir.path()).unwrap().count()), (written, 3));
    let second = run(&encode, &clips, &out, &[]);
    assert!(second.status.success(), "{}", told(&second));
    let report = json(&second);
    assert_eq!((report["earlier"].as_u64(), report["items"].as_u64()), (Some(2), Some(5)));
    assert_eq!((report["gone"][0].as_str(), report["gone"].as_array().unwrap().len()), (Some("c.mp4"), 1));
    let after = values(&out);
    let ids: Vec<_> = after.iter().map(|item| item.0.as_str()).collect();
    assert_eq!(ids, ["a", "b", "d", "e", "f"]);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[3]));
    // The others are what they are where nothing was before.
    let fresh = dir.path().join("fresh");
    assert!(run(&encode, &elsewhere, &fresh, &[]).status.success());
    let made = values(&fresh);
    assert_eq!((&after[1], &after[3], &after[4]), (&made[0], &made[1], &made[2]));
    assert_ne!(after[1].1, before[1].1);
    let source = moviola::data::open_tokens(&out).unwrap();
    assert_eq!((source.file(3), source.timestamps(3).unwrap().to_vec()), (Some("e.mp4"), vec![0.0, 0.5]));
    assert!(moviola(&["data", "check", to]).status.success());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "one shard and the manifest");
    // Again, there is nothing to do; as an index, nothing but saying so.
    let written = fs::read(&manifest).unwrap();
    // But for what a run has left that was killed when the manifest was in its place.
    fs::write(out.join("shard-00099.safetensors"), "old").unwrap();
    let third = run(&encode, &clips, &out, &[]);
    assert!(third.status.success() && json(&third)["changed"] == false, "{}", told(&third));
    assert_eq!((fs::read(&manifest).unwrap(), fs::read_dir(&out).unwrap().count()), (written, 2));
    let index = run(&["index"], &clips, &out, &[]);
    assert!(index.status.success() && json(&index)["earlier"] == 5, "{}", told(&index));
    assert_eq!(values(&out), after);
    let refused = run(&encode, &clips, &out, &[]);
    assert!(told(&refused).contains("moviola index"), "{}", told(&refused));
    // An index.json that is damaged, or names a place where the encoder was, is made again, and nothing else.
    let said = fs::read(out.join("index.json")).unwrap();
    for wrong in ["{", r#"{"format": "moviola-index", "version": 1, "encoder": "/nowhere"}"#] {
        fs::write(out.join("index.json"), wrong).unwrap();
        assert_eq!(json(&run(&["index"], &clips, &out, &[]))["changed"], true, "{wrong}");
        assert_eq!((fs::read(out.join("index.json")).unwrap(), values(&out)), (said.clone(), after.clone()));
    }
    // A link that leads nowhere fails by name, and its rows stay for the day when it leads somewhere again.
    #[cfg(unix)]
    {
        let away = dir.path().join("elsewhere/b.mp4");
        fs::rename(clip("b"), &away).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), clip("b")).unwrap();
        let lost = run(&["index"], &clips, &out, &[]);
        assert_eq!((lost.status.code(), values(&out)), (Some(1), after.clone()));
        assert!(told(&lost).contains("1 of 5 files") && told(&lost).contains("b.mp4"), "{}", told(&lost));
        assert_eq!(json(&lost)["changed"], false);
        fs::remove_file(clip("b")).unwrap();
        fs::rename(away, clip("b")).unwrap();
    }
    // What changed and cannot be decoded any more goes, too.
    fs::write(clip("f"), "no video").unwrap();
    assert_eq!(run(&["index"], &clips, &out, &[]).status.code(), Some(1));
    assert_eq!(values(&out), after[..4]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let clips = dir.path().join("clips");
    fs::create_dir(&clips).unwrap();
    numbered(&clips.join("clip00.mp4"), 1, "48x48", &[]);
    // Every frame differs, so each is encoded.
    let long = clips.join("clip01.mp4");
    ffmpeg(&["-f", "lavfi", "-i", "testsrc2=s=160x120:r=60", "-t", "8", "-c:v", "mpeg4", long.to_str().unwrap()]);
    for i in 2..40 {
        fs::copy(&long, clips.join(format!("clip{i:02}.mp4"))).unwrap();
    }
    let encoder = clip_encoder();
    let args = ["encode", "videos", clips.to_str().unwrap(), "--encoder", encoder.to_str().unwrap()];
    let out = dir.path().join("out");
    let more = ["--out", out.to_str().unwrap(), "--json", "--device", "cpu", "--fps", "60"];
    let program = env!("CARGO_BIN_EXE_moviola");
    let mut child = Command::new(program).args(args).args(more).stderr(std::process::Stdio::null()).spawn().unwrap();
    let journal = dir.path().join(".out.unfinished/journal.jsonl");
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    // The settings and the first video.
    while lines() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let done = lines() - 1;
    assert!((1..40).contains(&done), "{done} were done");
    let run = Command::new(program).args(args).args(more).output().unwrap();
    assert!(run.status.success(), "{}", told(&run));
    assert_eq!((json(&run)["earlier"].as_u64(), json(&run)["items"].as_u64()), (Some(done as u64), Some(40)));
}

/// What a video scores by its definition.
fn soft_maximum(cosines: &[f64]) -> f64 {
    let most = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = cosines.iter().map(|c| ((c - most) / 0.01).exp()).collect();
    let rho: Vec<f64> = weights.iter().map(|w| w / weights.iter().sum::<f64>()).collect();
    // Words attend with the frames' relevance as their prior, so one direction is sharper than the other.
    let alpha: Vec<f64> = rho.iter().zip(&weights).map(|(r, w)| r * w).collect();
    let mean = |by: &[f64]| by.iter().zip(cosines).map(|(w, c)| w * c).sum::<f64>() / by.iter().sum::<f64>();
    0.5 * (mean(&alpha) + mean(&rho))
}

#[test]
fn every_frame_of_a_long_video_is_searched() {
    use moviola::data::shard_writer::{ShardOptions, ShardWriter};
    use moviola::data::{About, TokenDtype};
    let dir = tempfile::tempdir().unwrap();
    let (encoder, index) = (clip_encoder(), dir.path().join("library"));
    let backend =
        moviola::engine::backend::open(&"cpu".parse().unwrap(), 1, moviola::engine::op::Precision::F32).unwrap().0;
    let mut text = moviola::encoders::text::TextEncoder::open(&encoder, backend).unwrap();
    let asked = "a man is riding";
    let sentence = text.encode_one(asked).unwrap().sentence;
    let length = sentence.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    // Unlike in all directions, and in one frame, which no sampling to 512 would take, like the sentence.
    let row = |video: usize, t: usize, hit: bool| -> Vec<f32> {
        let noise = |i: usize| (((video * 7919 + t * 104_729 + i * 1_299_709) % 1000) as f32 / 500.0 - 1.0) * 0.1;
        let own = if hit { 1.0 } else { -0.15 };
        sentence.iter().enumerate().map(|(i, x)| own * x / length as f32 + noise(i)).collect()
    };
    let lengths = [("short", 3, 9), ("long", 1301, 1111), ("longer", 9000, 4711), ("none", 2400, 9999)];
    let about = About { encoder: Some(text.identity().into()), ..About::default() };
    let options = ShardOptions { dtype: TokenDtype::F32, ..ShardOptions::default() };
    let mut writer = ShardWriter::create(&index, about, sentence.len(), options).unwrap();
    for (v, (id, rows, hit)) in lengths.into_iter().enumerate() {
        let values: Vec<f32> = (0..rows).flat_map(|t| row(v, t, t == hit)).collect();
        let times: Vec<f32> = (0..rows).map(|t| t as f32 / 2.0).collect();
        writer.push(id, &values, Some(&times)).unwrap();
    }
    moviola::data::index::Index::create(writer.partial(), &encoder, None).unwrap();
    writer.finish().unwrap();
    let index = index.to_str().unwrap();
    let run = moviola(&["search", asked, "--index", index, "--json"]);
    assert!(run.status.success(), "{}", told(&run));
    let answer = json(&run);
    for (v, (id, rows, best)) in lengths.into_iter().enumerate() {
        let hit = answer["hits"].as_array().unwrap().iter().find(|hit| hit["video_id"] == id).unwrap();
        let cosine = |t: usize| {
            let row = row(v, t, t == best);
            let dot: f64 = row.iter().zip(&sentence).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot / length / row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
        };
        let cosines: Vec<f64> = (0..rows).map(cosine).collect();
        let expected = soft_maximum(&cosines);
        let why = moviola(&["explain", asked, "--index", index, "--video", id, "--json"]);
        assert!(why.status.success(), "{}", told(&why));
        let why = json(&why);
        for score in [&hit["score"], &why["score"]] {
            assert!((score.as_f64().unwrap() - expected).abs() < 1e-5, "{id}: {score}, {expected}");
        }
        for scores in [&hit["frame_scores"], &why["similarity"][0]] {
            let scores: Vec<f64> = scores.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(scores.len(), rows, "{id}");
            assert!(scores.iter().zip(&cosines).all(|(a, b)| (a - b).abs() < 1e-5), "{id}");
        }
        let relevance: f64 = why["relevance"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
        assert!((relevance - 1.0).abs() < 1e-4, "{id}: {relevance}");
        if best < rows {
            let begin = best as f64 / 2.0;
            assert_eq!(
                (hit["intervals"][0][0].as_f64(), hit["intervals"][0][1].as_f64()),
                (Some(begin), Some(begin + 0.5))
            );
            assert!(expected > 0.5, "{id}: {expected}");
        }
    }
    let first: Vec<_> = answer["hits"].as_array().unwrap()[..2].iter().map(|hit| hit["video_id"].clone()).collect();
    assert!(first.contains(&"long".into()) && first.contains(&"longer".into()), "{first:?}");
}

#[test]
fn a_sentence_is_looked_for_in_an_index_and_a_hit_explained() {
    let dir = tempfile::tempdir().unwrap();
    let clips = dir.path().join("clips");
    fs::create_dir(&clips).unwrap();
    for (name, source) in
        [("a", "testsrc2=s=80x60:r=10"), ("b", "mandelbrot=s=80x60:r=10"), ("c/d", "color=red:s=80x60:r=10")]
    {
        let path = clips.join(format!("{name}.mp4"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        ffmpeg(&[
            "-f",
            "lavfi",
            "-i",
            source,
            "-t",
            "3",
            "-c:v",
            "libx264",
            "-pix_fmt",
            "yuv420p",
            path.to_str().unwrap(),
        ]);
    }
    let (encoder, index) = (clip_encoder(), dir.path().join("library"));
    let (encoder, index) = (encoder.to_str().unwrap(), index.to_str().unwrap());
    let run = moviola(&["index", clips.to_str().unwrap(), "--encoder", encoder, "--out", index, "--json"]);
    assert!(run.status.success(), "{}", told(&run));
    let page = dir.path().join("hits.html");
    let asked = "a man is riding";
    let run = moviola(&["search", asked, "--index", index, "--out", page.to_str().unwrap(), "--json"]);
    assert!(run.status.success(), "{}", told(&run));
    let answer = json(&run);
    let hits = answer["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    let score = |hit: &Value| hit["score"].as_f64().unwrap();
    assert!(hits.windows(2).all(|pair| score(&pair[0]) >= score(&pair[1])));
    // The score by its definition, from the library's own pieces.
    let source = moviola::data::open_tokens(Path::new(index)).unwrap();
    let backend =
        moviola::engine::backend::open(&"cpu".parse().unwrap(), 1, moviola::engine::op::Precision::F32).unwrap().0;
    let mut text = moviola::encoders::text::TextEncoder::open(Path::new(encoder), backend).unwrap();
    let sentence: Vec<f64> = text.encode_one(asked).unwrap().sentence.iter().map(|x| f64::from(*x)).collect();
    for hit in hits {
        let tokens = source.load(source.find(hit["video_id"].as_str().unwrap()).unwrap()).unwrap();
        let cosine = |row: &[f32]| {
            let dot: f64 = row.iter().zip(&sentence).map(|(a, b)| f64::from(*a) * b).sum();
            let length = |x: f64| x.sqrt();
            let of_row = length(row.iter().map(|x| f64::from(*x).powi(2)).sum());
            dot / of_row / length(sentence.iter().map(|x| x * x).sum())
        };
        let cosines: Vec<f64> = (0..tokens.rows).map(|r| cosine(tokens.row(r))).collect();
        let expected = soft_maximum(&cosines);
        assert!((score(hit) - expected).abs() < 1e-4, "{hit}: {expected}");
        let frames: Vec<f64> = hit["frame_scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert!(frames.iter().zip(&cosines).all(|(a, b)| (a - b).abs() < 1e-4));
        let moment: Vec<f64> = hit["intervals"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert!(0.0 <= moment[0] && moment[0] < moment[1] && moment[1] <= 3.01, "{moment:?}");
    }
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.matches("data:image/jpeg;base64,").count() >= 12 && html.contains("c/d"));
    let why = dir.path().join("why.html");
    let run =
        moviola(&["explain", asked, "--index", index, "--video", "c/d", "--out", why.to_str().unwrap(), "--json"]);
    assert!(run.status.success(), "{}", told(&run));
    let html = fs::read_to_string(&why).unwrap();
    assert!(html.contains("data:image/jpeg;base64,") && html.contains("Closeness over time"));
    // Another encoder is refused, and both are named.
    let other = Path::new(encoder).with_file_name("open-clip");
    let run = moviola(&["search", asked, "--index", index, "--encoder", other.to_str().unwrap()]);
    assert!(
        !run.status.success() && told(&run).contains("by clip@") && told(&run).contains("by open-clip@"),
        "{}",
        told(&run)
    );
    // An index for long sentences is asked by a text tower that is stretched as far.
    let long = dir.path().join("long");
    let from = ["index", clips.to_str().unwrap(), "--encoder", encoder, "--out", long.to_str().unwrap(), "--json"];
    let run = moviola(&[&from[..], &["--positions", "100"]].concat());
    assert!(run.status.success(), "{}", told(&run));
    let story = "two dogs run across the beach and then a man is playing a guitar ".repeat(4);
    let ask = |index: &Path| moviola(&["search", &story, "--index", index.to_str().unwrap(), "--json"]);
    let (short_sighted, answer) = (json(&ask(Path::new(index))), json(&ask(&long)));
    assert_eq!(answer["encoder"], format!("{}, 100 positions", short_sighted["encoder"].as_str().unwrap()));
    let source = moviola::data::open_tokens(&long).unwrap();
    assert_eq!(source.provenance().about.encoder.as_deref(), answer["encoder"].as_str());
    assert_ne!(score(&answer["hits"][0]), score(&short_sighted["hits"][0]));
    let run = moviola(&["explain", &story, "--index", long.to_str().unwrap(), "--video", "a", "--json"]);
    let hit = answer["hits"].as_array().unwrap().iter().find(|hit| hit["video_id"] == "a").unwrap();
    assert!((score(hit) - json(&run)["score"].as_f64().unwrap()).abs() < 1e-6, "{hit}");
    let place = long.join("index.json");
    let mut said: Value = serde_json::from_slice(&fs::read(&place).unwrap()).unwrap();
    assert_eq!(said.as_object_mut().unwrap().remove("positions"), Some(100.into()));
    fs::write(&place, said.to_string()).unwrap();
    let run = ask(&long);
    assert!(!run.status.success() && told(&run).contains(", 100 positions, and the query by clip@"), "{}", told(&run));
    // Videos that are gone cost their frames only.
    fs::remove_dir_all(&clips).unwrap();
    let run = moviola(&["search", asked, "--index", index, "--out", page.to_str().unwrap(), "--json"]);
    assert!(run.status.success() && told(&run).contains("not all frames of"), "{}", told(&run));
}

#[test]
fn pictures_are_encoded_as_the_library_does() {
    let dir = tempfile::tempdir().unwrap();
    let (encoder, out) = (clip_encoder(), dir.path().join("out"));
    let pictures = encoder.join("pictures");
    let encode = |from: &Path| {
        let (from, encoder, out) = (from.to_str().unwrap(), encoder.to_str().unwrap(), out.to_str().unwrap());
        moviola(&["encode", "pictures", from, "--encoder", encoder, "--out", out, "--dtype", "f32", "--json"])
    };
    let run = encode(&pictures);
    assert!(run.status.success(), "{}", told(&run));
    // Again, nothing is to be done; and another folder is not taken for this one, of which all but one are gone.
    let run = encode(&pictures);
    assert!(run.status.success() && json(&run)["changed"] == false, "{}", told(&run));
    let others = dir.path().join("others");
    fs::create_dir(&others).unwrap();
    fs::copy(pictures.join("0.png"), others.join("0.png")).unwrap();
    let run = encode(&others);
    assert!(!run.status.success() && told(&run).contains("another folder of files"), "{}", told(&run));
    let found = values(&out);
    let backend =
        moviola::engine::backend::open(&"cpu".parse().unwrap(), 1, moviola::engine::op::Precision::F32).unwrap().0;
    let mut library = moviola::encoders::image::ImageEncoder::open(&encoder, backend).unwrap();
    let files = (0..found.len()).map(|i| moviola::data::picture::Picture::open(&pictures.join(format!("{i}.png"))));
    let mut expected = vec![];
    let keep = |_: usize, vector: &[f32]| {
        expected.push(vector.to_vec());
        Ok(())
    };
    library.encode(files, keep, &std::sync::atomic::AtomicBool::new(false)).unwrap();
    assert_eq!(found.into_iter().map(|f| f.1).collect::<Vec<_>>(), expected);
}

#[test]
fn patches_are_rows_that_nobody_takes_for_frames() {
    use moviola::data::{Dataset, Split, index::Index};
    use moviola::encoders::checkpoint::Checkpoint;
    use moviola::encoders::image::{ImageEncoder, Wanted};
    let dir = tempfile::tempdir().unwrap();
    let encoder = clip_encoder();
    let pictures = encoder.join("pictures");
    let (frames, patches) = (dir.path().join("videos/train"), dir.path().join("videos/val"));
    let encode = |out: &Path, more: &[&str]| {
        let (pictures, encoder, out) = (pictures.to_str().unwrap(), encoder.to_str().unwrap(), out.to_str().unwrap());
        let args = ["encode", "pictures", pictures, "--encoder", encoder, "--out", out, "--dtype", "f32", "--json"];
        let run = moviola(&[&args, more].concat());
        assert!(run.status.success(), "{}", told(&run));
        json(&run)
    };
    fs::create_dir(dir.path().join("videos")).unwrap();
    let (of_frames, of_patches) = (encode(&frames, &[]), encode(&patches, &["--patches"]));
    assert_eq!((&of_frames["rows"], &of_patches["rows"], &of_patches["items"]), (&5.into(), &20.into(), &5.into()));
    let backend =
        moviola::engine::backend::open(&"cpu".parse().unwrap(), 1, moviola::engine::op::Precision::F32).unwrap().0;
    let mut library = ImageEncoder::of(&Checkpoint::open(&encoder).unwrap(), Wanted::Patches, backend).unwrap();
    let files = (0..5).map(|i| moviola::data::picture::Picture::open(&pictures.join(format!("{i}.png"))));
    let mut expected = vec![];
    let keep = |_: usize, rows: &[f32]| {
        expected.push(rows.to_vec());
        Ok(())
    };
    library.encode(files, keep, &std::sync::atomic::AtomicBool::new(false)).unwrap();
    assert_eq!(values(&patches).into_iter().map(|f| f.1).collect::<Vec<_>>(), expected);
    // Shards say what they hold, and those of frames are others.
    let source = moviola::data::open_tokens(&patches).unwrap();
    assert_eq!(source.provenance().about.encoder.as_deref(), Some(library.identity()));
    assert_eq!(of_patches["encoder"], format!("{}, patches", of_frames["encoder"].as_str().unwrap()));
    let caption = r#"{"text_id": "t", "video_id": "0", "caption": "waves", "split": "train"}"#;
    fs::write(dir.path().join("captions.jsonl"), caption).unwrap();
    let mixed = Dataset::open_captions(dir.path(), None, Split::Train).unwrap_err().to_string();
    assert!(mixed.contains("encoder") && mixed.contains(", patches"), "{mixed}");
    Index::create(&patches, &encoder, None).unwrap();
    let run = moviola(&["search", "waves", "--index", patches.to_str().unwrap()]);
    assert!(!run.status.success() && told(&run).contains(", patches, and the query by clip@"), "{}", told(&run));
    let of_videos = ["encode", "videos", "x", "--encoder", "x", "--out", "x", "--patches"];
    assert_eq!(moviola(&of_videos).status.code(), Some(2));
}
