//! Files as users bring them: hostile, half copied, mislabelled. Every complaint names the file and the item.

mod seed;

use seed::seed;
use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use moviola::data::generated::{Lengths, MsrvttOptions, make_msrvtt};
use moviola::data::shard_writer::{ShardOptions, ShardWriter};
use moviola::data::sink::{OutputFormat, Sink};
use moviola::data::worlds::SimpleWorld;
use moviola::data::{
    About, ConvertOptions, Dataset, Layout, Report, Severity, Split, TokenDtype, check, convert, inspect, npy,
    open_tokens,
};
use moviola::error::Error;
use moviola::random::Random;

/// Counts this thread's allocations, for the promise that loading makes none.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait asks of callers.
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the trait asks of callers.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Items with ragged rows of multiples of 1/64, which f16 holds exactly.
fn items(random: Random, count: usize, dim: usize) -> Vec<(String, Vec<f32>)> {
    let value = |i: u64| random.below(i, 129) as f32 / 64.0 - 1.0;
    (0..count)
        .map(|i| {
            let rows = 1 + random.below(1 << 40 | i as u64, 9) as usize;
            (format!("video{i}"), (0..rows * dim).map(|v| value((i << 20 | v) as u64)).collect())
        })
        .collect()
}

fn write_items(path: &Path, format: OutputFormat, items: &[(String, Vec<f32>)], dim: usize, dtype: TokenDtype) {
    let mut sink = Sink::create(path, format, About::default(), dim, dtype).unwrap();
    for (id, values) in items {
        sink.push(id, values, None).unwrap();
    }
    sink.finish().unwrap();
}

fn refusal(path: &Path) -> String {
    match open_tokens(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

fn said(report: &Report, severity: Severity) -> String {
    let lines = report.problems.iter().filter(|problem| problem.severity == severity);
    lines.map(|p| format!("{}: {}: {}; {}\n", p.place, p.id, p.what, p.fix)).collect()
}

// ---- round trips

#[test]
fn every_format_gives_back_what_was_written() {
    let random = Random::new(seed(), 0);
    for (n, format) in [OutputFormat::Npy, OutputFormat::Safetensors, OutputFormat::Native].into_iter().enumerate() {
        for dtype in [TokenDtype::F16, TokenDtype::F32] {
            let dir = temp();
            let dim = 3 + random.below(n as u64, 30) as usize;
            let items = items(random, 23, dim);
            write_items(&dir.path().join("out"), format, &items, dim, dtype);
            let source = open_tokens(&dir.path().join("out")).unwrap();
            assert_eq!((source.len(), source.dim(), source.provenance().dtype), (23, dim, Some(dtype)));
            for (id, values) in &items {
                let i = source.find(id).unwrap();
                assert_eq!(&source.load(i).unwrap().data, values);
            }
            assert!(source.find("video23").is_none());
            assert!(source.load_into(0, &mut []).is_err() && source.load_into(99, &mut [0.0]).is_err());
        }
    }
}

#[test]
fn loading_allocates_nothing() {
    for format in [OutputFormat::Npy, OutputFormat::Safetensors, OutputFormat::Native] {
        let dir = temp();
        let items = items(Random::new(seed(), 0), 50, 32);
        write_items(&dir.path().join("out"), format, &items, 32, TokenDtype::F16);
        let source = open_tokens(&dir.path().join("out")).unwrap();
        let mut room = vec![0.0; 9 * 32];
        source.load_into(0, &mut room[..source.rows(0) * 32]).unwrap();
        let before = ALLOCATIONS.get();
        for i in 0..source.len() {
            source.load_into(i, &mut room[..source.rows(i) * 32]).unwrap();
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{format:?}");
    }
}

#[test]
fn converting_keeps_values_times_and_provenance() {
    let random = Random::new(seed(), 0);
    let dir = temp();
    let (from, to) = (dir.path().join("npy"), dir.path().join("native"));
    let items = items(random, 40, 16);
    write_items(&from, OutputFormat::Npy, &items, 16, TokenDtype::F32);
    let options = ConvertOptions {
        encoder: Some("clip".into()),
        fps: Some(2.0),
        shard_bytes: 1000,
        dtype: TokenDtype::F32,
        ..ConvertOptions::default()
    };
    let mut calls = Vec::new();
    let written = convert(&from, &to, &options, &mut |done, all| {
        calls.push((done, all));
        true
    })
    .unwrap();
    assert_eq!((written.items, calls.len(), calls.last()), (40, 40, Some(&(40, 40))));
    assert!(written.shards > 3, "{written:?}");
    let native = open_tokens(&to).unwrap();
    let about = &native.provenance().about;
    assert_eq!((about.encoder.as_deref(), about.normalised), (Some("clip"), Some(false)));
    for (id, values) in &items {
        let i = native.find(id).unwrap();
        assert_eq!(&native.load(i).unwrap().data, values);
        let times = native.timestamps(i).unwrap();
        assert_eq!(times.last().copied(), Some((native.rows(i) - 1) as f32 / 2.0));
    }
    let report = check(&to);
    assert!(report.is_usable() && report.summary.sources[0].items == 40, "{report:?}");
    let seen = inspect(&to).unwrap();
    assert_eq!((seen.sources[0].count, seen.sources[0].dim, seen.sources[0].unit_rows), (40, 16, false));

    let wrong = ConvertOptions { encoder: Some("blip".into()), ..ConvertOptions::default() };
    let error = convert(&to, &dir.path().join("x"), &wrong, &mut |_, _| true).unwrap_err().to_string();
    assert_says(&error, &["encoder", "clip", "blip"]);
}

#[test]
fn a_stopped_or_failed_conversion_leaves_nothing() {
    let dir = temp();
    let (from, to) = (dir.path().join("npy"), dir.path().join("native"));
    let mut some = items(Random::new(seed(), 0), 9, 4);
    // Of no row of the first may the length be 1 by chance.
    some[0].1.iter_mut().for_each(|x| *x += 2.0);
    write_items(&from, OutputFormat::Npy, &some, 4, TokenDtype::F32);
    let stopped = convert(&from, &to, &ConvertOptions::default(), &mut |done, _| done < 5);
    assert!(matches!(stopped, Err(Error::Stopped)));
    let claim = ConvertOptions { normalised: Some(true), ..ConvertOptions::default() };
    let error = convert(&from, &to, &claim, &mut |_, _| true).unwrap_err().to_string();
    assert_says(&error, &["video0", "row 0", "normalised"]);
    npy::write(&from.join("video3.npy"), TokenDtype::F32, 4, &[7e4; 4]).unwrap();
    let error = convert(&from, &to, &ConvertOptions::default(), &mut |_, _| true).unwrap_err().to_string();
    assert_says(&error, &["video3", "too large for f16", "f32"]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["npy"]);
}

#[test]
fn a_writer_refuses_what_no_reader_could_use() {
    let dir = temp();
    let mut writer = ShardWriter::create(&dir.path().join("x"), About::default(), 2, ShardOptions::default()).unwrap();
    writer.push("a", &[1.0, 2.0, 3.0, 4.0], Some(&[0.0, 1.0])).unwrap();
    for (id, values, times, expected) in [
        ("a", vec![1.0, 2.0], None, "already there"),
        ("", vec![1.0, 2.0], None, "empty"),
        ("b", vec![], None, "zero length"),
        ("b", vec![1.0], None, "no rows of 2"),
        ("b", vec![1.0, f32::NAN], None, "row 0, column 1 is NaN"),
        ("b", vec![1.0, 2.0], Some(vec![1.0, 2.0]), "2 timestamps for 1 rows"),
        ("b", vec![1.0; 4], Some(vec![1.0, 0.5]), "row 1 is not after"),
    ] {
        let error = writer.push(id, &values, times.as_deref()).unwrap_err().to_string();
        assert_says(&error, &[id, expected]);
    }
    writer.finish().unwrap();
    let source = open_tokens(&dir.path().join("x")).unwrap();
    assert_eq!(source.timestamps(0).unwrap().as_ref(), [0.0, 1.0]);
}

// ---- a full disk

/// Runs only in the process that the test below starts, where files may not pass 64 KiB.
#[test]
fn child_writes_until_the_disk_is_full() {
    let Some(dir) = std::env::var_os("MOVIOLA_FULL_DISK") else { return };
    let options = ShardOptions { shard_bytes: 40_000, ..ShardOptions::default() };
    let mut writer = ShardWriter::create(&Path::new(&dir).join("x"), About::default(), 64, options).unwrap();
    writer.push("small", &[0.5; 64 * 200], None).unwrap();
    writer.push("large", &[0.5; 64 * 2000], None).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    println!("the complaint: {error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_gives_a_clean_error_and_no_half_shard() {
    let dir = temp();
    let own = std::env::current_exe().unwrap();
    let child = std::process::Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(own)
        .args(["--exact", "child_writes_until_the_disk_is_full", "--nocapture"])
        .env("MOVIOLA_FULL_DISK", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{text}");
    assert_says(&text, &["could not write", "x/shard-00001.safetensors"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

// ---- hostile feature files

fn npy_bytes(shape: &str, descr: &str, data: usize) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut all = b"\x93NUMPY\x01\x00".to_vec();
    all.extend((text.len() as u16).to_le_bytes());
    all.extend(text.as_bytes());
    all.resize(all.len() + data, 0);
    all
}

#[test]
fn each_bad_npy_is_named() {
    for (content, expected) in [
        (npy_bytes("(2, 3, 4)", "<f4", 96), "many videos in one file"),
        (npy_bytes("(0, 4)", "<f4", 0), "zero length"),
        (npy_bytes("(2, 4)", "<f4", 31), "cut short"),
        (npy_bytes("(2, 4)", "<f4", 33), "something follows"),
        (npy_bytes("(2, 4)", "<i8", 64), "'<f2', '<f4' and '<f8'"),
        (npy_bytes("(4294967296, 4294967296)", "<f4", 64), "larger than any item"),
        (b"hello".to_vec(), "not a .npy file"),
        (Vec::new(), "not a .npy file"),
    ] {
        let dir = temp();
        fs::write(dir.path().join("v17.npy"), content).unwrap();
        let error = refusal(dir.path());
        assert_says(&error, &["v17.npy", "v17", expected]);
    }
}

#[test]
fn values_that_are_not_finite_are_named_by_row_and_column() {
    for format in [OutputFormat::Npy, OutputFormat::Safetensors, OutputFormat::Native] {
        let dir = temp();
        let path = dir.path().join("f");
        write_items(&path, format, &[("v3".into(), vec![1.0; 12])], 4, TokenDtype::F32);
        let file = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "npy" || e == "safetensors"))
            .unwrap();
        let mut all = fs::read(&file).unwrap();
        let at = all.len() - 4;
        all[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&file, all).unwrap();
        let source = open_tokens(&path).unwrap();
        let error = source.load(0).unwrap_err().to_string();
        assert_says(&error, &[file.to_str().unwrap(), "v3", "row 2, column 3 is NaN"]);
        let report = check(&path);
        assert_says(&said(&report, Severity::Error), &["v3"]);
    }
}

#[test]
fn the_odd_dim_is_blamed_and_not_the_many() {
    let dir = temp();
    for (name, dim) in [("a", 8), ("b", 4), ("c", 4)] {
        npy::write(&dir.path().join(format!("{name}.npy")), TokenDtype::F32, dim, &vec![1.0; dim]).unwrap();
    }
    assert_says(&refusal(dir.path()), &["a.npy: a: rows have 8 values", "most files here 4"]);
}

#[test]
fn twins_and_mixed_folders_are_refused() {
    let dir = temp();
    npy::write(&dir.path().join("a.npy"), TokenDtype::F32, 2, &[1.0; 2]).unwrap();
    fs::write(dir.path().join("x.safetensors"), "").unwrap();
    assert_says(&refusal(dir.path()), &[dir.path().to_str().unwrap(), "both .safetensors and .npy"]);
    fs::remove_file(dir.path().join("x.safetensors")).unwrap();
    let mut zip = zip::ZipWriter::new(fs::File::create(dir.path().join("a.npz")).unwrap());
    zip.start_file("features.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&npy_bytes("(1, 2)", "<f4", 8)).unwrap();
    zip.finish().unwrap();
    assert_says(&refusal(dir.path()), &[": a: this id occurs twice"]);
}

#[test]
fn places_without_features_say_what_was_expected() {
    let dir = temp();
    assert_says(&refusal(&dir.path().join("none")), &["none", "does not exist"]);
    assert_says(&refusal(dir.path()), &["no feature files", "manifest.json"]);
    fs::write(dir.path().join("f.pt"), "").unwrap();
    assert_says(&refusal(&dir.path().join("f.pt")), &["f.pt", "tools/convert.py"]);
}

#[test]
fn each_bad_safetensors_is_named() {
    let tensor = |name: &str, dtype: &str, shape: &str, a: u64, b: u64| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{a},{b}]}}")
    };
    let good = tensor("v1", "F32", "[1,2]", 0, 8);
    for (header, data, expected) in [
        (format!("{{{good},{}}}", tensor("v2", "F32", "[1,2]", 4, 12)), 12, "v2: bytes 4 to 12 overlap"),
        (format!("{{{good},{}}}", tensor("v2", "F32", "[1,2]", 12, 20)), 20, "v2: a hole of 4 bytes"),
        (format!("{{{good},{}}}", tensor("v2", "F32", "[1,2]", 8, 16)), 12, "v2: bytes 8 to 16 lie outside"),
        (format!("{{{good},{}}}", tensor("v2", "I32", "[1,2]", 8, 16)), 16, "v2: values of type I32"),
        (format!("{{{good},{}}}", tensor("v1", "F32", "[1,2]", 8, 16)), 16, "v1: this name occurs twice"),
        (format!("{{{good},{}}}", tensor("v2", "F32", "[0,2]", 8, 8)), 8, "v2: zero length"),
        (format!("{{{good},{}}}", tensor("v2", "F32", "[2,2,1]", 8, 24)), 24, "v2: the shape [2, 2, 1]"),
        (format!("{{{good},{}}}", tensor("v2", "F32", "[1,1]", 8, 12)), 12, "rows have"),
        (format!("{{{good}}}"), 9, "1 bytes follow"),
    ] {
        let dir = temp();
        let mut all = (header.len() as u64).to_le_bytes().to_vec();
        all.extend(header.as_bytes());
        all.resize(all.len() + data, 0);
        let path = dir.path().join("clip.safetensors");
        fs::write(&path, all).unwrap();
        assert_says(&refusal(&path), &["clip.safetensors"]);
        let report = check(&path);
        assert_says(&said(&report, Severity::Error), &["clip.safetensors", expected]);
    }
    let dir = temp();
    let path = dir.path().join("clip.safetensors");
    fs::write(&path, 200_000_000_u64.to_le_bytes()).unwrap();
    assert_says(&refusal(&path), &["clip.safetensors", "190.7 MiB", "limit"]);
}

// ---- hostile native folders

/// A native folder with two items of two rows of four values in one shard.
fn native(dir: &Path) -> PathBuf {
    let path = dir.join("native");
    let items = [("v1".to_string(), vec![1.0; 8]), ("v2".to_string(), vec![2.0; 8])];
    write_items(&path, OutputFormat::Native, &items, 4, TokenDtype::F32);
    path
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let file = path.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(file, manifest.to_string()).unwrap();
}

#[test]
fn each_bad_manifest_is_named() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 16] = [
        (|m| m["version"] = 2.into(), "version 2"),
        (|m| m["format"] = "other".into(), "\"other\""),
        (|m| m["dim"] = 0.into(), "dim 0"),
        (|m| m["dim"] = u64::MAX.into(), "outside"),
        (|m| m["dtype"] = "f64".into(), "f64"),
        (|m| m["fps"] = (-1.0).into(), "fps is -1"),
        (|m| m["items"] = serde_json::json!([]), "no items"),
        (|m| m["items"][1]["id"] = "v1".into(), "v1: this id occurs twice"),
        (|m| m["items"][1]["rows"] = 0.into(), "v2: zero length"),
        (|m| m["items"][1]["rows"] = u64::MAX.into(), "v2: 18446744073709551615 rows"),
        (|m| m["items"][1]["rows"] = 3.into(), "v2: 3 rows at byte"),
        (|m| m["items"][1]["shard"] = 7.into(), "v2: shard 7"),
        (|m| m["items"][1]["offset"] = 0.into(), "v2: 2 rows at byte 0 lie outside"),
        (|m| m["items"][1]["offset"] = m["items"][0]["offset"].clone(), "overlap"),
        (|m| m["items"][0]["timestamps"] = serde_json::json!([0.0]), "v1: 1 timestamps for 2 rows"),
        (|m| m["shards"][0]["file"] = "../shard-00000.safetensors".into(), "no plain name"),
    ];
    for (change, expected) in changes {
        let dir = temp();
        let path = native(dir.path());
        edit(&path, change);
        assert_says(&refusal(&path), &["native/manifest.json", expected]);
        assert!(!check(&path).is_usable());
    }
}

#[test]
fn a_cut_or_altered_shard_is_found() {
    let dir = temp();
    let path = native(dir.path());
    let shard = path.join("shard-00000.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert_says(&refusal(&path), &["shard-00000.safetensors", "the manifest says"]);
    let mut altered = whole;
    let last = altered.len() - 1;
    altered[last] ^= 1;
    fs::write(&shard, altered).unwrap();
    assert!(open_tokens(&path).is_ok(), "sizes are right, only the checksum can tell");
    assert_says(&said(&check(&path), Severity::Error), &["shard-00000.safetensors", "SHA-256"]);
    fs::remove_file(&shard).unwrap();
    assert_says(&refusal(&path), &["shard-00000.safetensors", "could not open", "check the path"]);
}

#[test]
fn damage_anywhere_never_panics() {
    let random = Random::new(seed(), 0);
    let dir = temp();
    let path = native(dir.path());
    for (f, name) in ["manifest.json", "shard-00000.safetensors"].into_iter().enumerate() {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        for round in 0..300 {
            let mut broken = whole.clone();
            for hit in 0..1 + round % 3 {
                let at = random.below(f as u64 * 10_000 + round * 10 + hit, broken.len() as u64) as usize;
                broken[at] = random.bits(f as u64 * 10_000 + round * 10 + hit + 5) as u8;
            }
            fs::write(&file, &broken).unwrap();
            let report = check(&path);
            if let Ok(source) = open_tokens(&path) {
                assert!((0..source.len()).all(|i| source.rows(i) * source.dim() <= 4096));
            }
            assert!(broken == whole || name.starts_with("manifest") || !report.is_usable(), "round {round}");
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(check(&path).is_usable());
}

// ---- data sets

/// A small world whose captions can be edited.
fn world(dir: &Path) -> PathBuf {
    let path = dir.join("world");
    let world = SimpleWorld { train: 6, val: 2, test: 3, dim: 16, ..SimpleWorld::default() };
    world.write(&path).unwrap();
    path
}

fn append(path: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

#[test]
fn a_world_opens_and_has_nothing_wrong() {
    let dir = temp();
    let path = world(dir.path());
    for (split, videos) in [(Split::Train, 6), (Split::Val, 2), (Split::Test, 3)] {
        let data = Dataset::open(&path, Some(Layout::Native), split).unwrap();
        assert_eq!((data.pairs.len(), data.gallery().len(), data.name.as_str()), (2 * videos, videos, "world"));
        let lists = data.captions_per_video();
        assert!(lists.len() == videos && lists.iter().all(|list| list.len() == 2));
        let keys = data.keys();
        assert!(keys.video.chunks(2).all(|pair| pair[0] == pair[1]) && keys.caption.len() == data.pairs.len());
    }
    let report = check(&path);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.summary.splits.iter().map(|split| split.pairs).sum::<usize>(), 22);
    assert!(serde_json::to_string(&report).unwrap().contains("\"layout\":\"native\""));
    let seen = inspect(&path).unwrap();
    assert!(seen.sources.iter().all(|source| source.unit_rows && source.dim == 16));
    assert!(serde_json::to_value(&seen).unwrap()["sources"][0]["provenance"]["encoder"].is_string());
}

#[test]
fn each_bad_caption_line_is_named() {
    for (line, expected) in [
        (r#"{"text_id":"t","video_id":"video99","caption":"x","split":"test"}"#, "video99: no features for this video"),
        (r#"{"text_id":"t99","video_id":"video9","caption":"x","split":"test"}"#, "t99: no features for this text"),
        (
            r#"{"text_id":"video9#0","video_id":"video9","caption":"x","split":"test"}"#,
            "video9#0: this text occurs twice",
        ),
        (
            r#"{"text_id":"video9#0","video_id":"video9","caption":"  ","split":"test"}"#,
            "the caption or an id is empty",
        ),
        (r#"{"text_id":"video9#0","video_id":"video9","split":"test"}"#, "line 23: this cannot be read"),
        ("{", "line 23: this cannot be read"),
    ] {
        let dir = temp();
        let path = world(dir.path());
        append(&path.join("captions.jsonl"), line);
        let error = Dataset::open(&path, None, Split::Test).unwrap_err().to_string();
        assert_says(&error, &[expected]);
        assert!(error.contains("captions.jsonl"), "{error}");
        assert_says(&said(&check(&path), Severity::Error), &[expected]);
    }
}

#[test]
fn check_finds_everything_in_one_pass() {
    let dir = temp();
    let path = world(dir.path());
    let captions = path.join("captions.jsonl");
    let line = |text: &str, video: &str, caption: &str, split: &str| {
        format!(r#"{{"text_id":"{text}","video_id":"{video}","caption":"{caption}","split":"{split}"}}"#)
    };
    append(&captions, &line("lost", "video0", "x", "train"));
    append(&captions, &line("gone", "video77", "x", "val"));
    append(&captions, "not json");
    append(&captions, &line("e", "video0", "", "test"));
    // The features of a second encoder's test split, in .npy, with one of each trouble.
    fs::remove_dir_all(path.join("texts")).unwrap();
    fs::create_dir_all(path.join("texts")).unwrap();
    for id in ["video0#0", "video0#1", "orphan"] {
        npy::write(&path.join("texts").join(format!("{id}.npy")), TokenDtype::F32, 16, &[0.25; 16]).unwrap();
    }
    npy::write(&path.join("texts/video1#0.npy"), TokenDtype::F32, 8, &[1.0; 8]).unwrap();
    npy::write(&path.join("texts/video1#1.npy"), TokenDtype::F32, 16, &[0.0; 16]).unwrap();
    fs::write(path.join("texts/video2#0.npy"), npy_bytes("(0, 16)", "<f4", 0)).unwrap();
    fs::write(path.join("texts/notes.txt"), "x").unwrap();
    fs::write(path.join("strange.bin"), "x").unwrap();
    append(&captions, &line("video0#1", "video8", "x", "test"));
    let report = check(&path);
    let errors = said(&report, Severity::Error);
    assert_says(
        &errors,
        &[
            "lost: no features for this text",
            "video77: no features for this video",
            "captions.jsonl: line 25: this cannot be read",
            "captions.jsonl: e: line 26: the caption or an id is empty",
            "video1#0.npy: video1#0: rows have 8 values",
            "video2#0.npy: video2#0: zero length",
            "video2#1: no features for this text",
        ],
    );
    assert_eq!(errors.matches("line 25").count(), 1, "{errors}");
    assert_says(
        &said(&report, Severity::Warning),
        &["orphan: 1 items", "notes.txt", "strange.bin", "video1#1: row 0 is all zeros"],
    );
    assert!(!report.is_usable());
}

#[test]
fn shared_captions_and_shared_videos_are_noticed() {
    let dir = temp();
    let path = world(dir.path());
    let captions = path.join("captions.jsonl");
    let text = fs::read_to_string(&captions).unwrap();
    let edited: Vec<String> = text
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["split"] == "train" {
                line["caption"] = "one and the same".into();
            }
            if line["text_id"] == "video10#1" {
                line["video_id"] = "video0".into();
            }
            line.to_string()
        })
        .collect();
    fs::write(&captions, edited.join("\n")).unwrap();
    let report = check(&path);
    assert_says(&said(&report, Severity::Info), &["12 texts share 1 captions", "one and the same"]);
    assert_says(&said(&report, Severity::Warning), &["video0: this video is in train and in test"]);
    let data = Dataset::open(&path, None, Split::Train).unwrap();
    assert_eq!((data.distinct_captions(), data.keys().caption.iter().max()), (1, Some(&0)));
}

#[test]
fn splits_of_different_encoders_are_refused() {
    let dir = temp();
    let path = world(dir.path());
    let videos = path.join("videos");
    fs::rename(&videos, path.join("kept")).unwrap();
    fs::create_dir(&videos).unwrap();
    for (split, encoder) in [("train", "clip-b32"), ("test", "clip-b16")] {
        let options = ConvertOptions { limit: None, ..ConvertOptions::default() };
        convert(&path.join("kept"), &videos.join(split), &options, &mut |_, _| true).unwrap();
        edit(&videos.join(split), |manifest| manifest["encoder"] = encoder.into());
    }
    let error = Dataset::open(&path, None, Split::Train).unwrap_err().to_string();
    assert_says(&error, &["videos/train", "encoder is clip-b32", "videos/test it is clip-b16"]);
    let error = Dataset::open(&path, None, Split::Val).unwrap_err().to_string();
    assert_says(&error, &["videos/val", "missing"]);
    assert_says(&said(&check(&path), Severity::Error), &["encoder is clip-b16"]);
}

// ---- MSR-VTT

const TEST_CSV: &str = "key,vid_key,video_id,sentence\n\
    ret0,msr1,video1,\"a man, a dog and \"\"music\"\"\"\n\
    ret1,msr2,video2,a woman is cooking a cake\n\
    ret2,msr3,video3,a man is driving the car\n";

fn msrvtt_lists(dir: &Path) {
    fs::write(dir.join("MSRVTT_JSFUSION_test.csv"), TEST_CSV).unwrap();
    fs::write(dir.join("MSRVTT_train.9k.csv"), "video_id\nvideo10\nvideo11\nvideo12\nvideo13\n").unwrap();
}

fn small(format: OutputFormat, lengths: Lengths) -> MsrvttOptions {
    MsrvttOptions { dim: 24, format, lengths, captions_per_video: 3, ..MsrvttOptions::default() }
}

#[test]
fn msrvtt_is_generated_from_its_lists_in_every_format() {
    for (format, lengths) in [
        (OutputFormat::Native, Lengths::Ragged),
        (OutputFormat::Npy, Lengths::Fixed),
        (OutputFormat::Safetensors, Lengths::Ragged),
    ] {
        let dir = temp();
        msrvtt_lists(dir.path());
        let out = dir.path().join("out");
        make_msrvtt(dir.path(), &out, &small(format, lengths)).unwrap();
        let report = check(&out);
        assert!(report.is_usable() && report.summary.warnings == 0, "{:?}", report.problems);
        let test = Dataset::open(&out, None, Split::Test).unwrap();
        assert_eq!((test.pairs.len(), test.texts.provenance().has_sentence()), (3, true));
        assert_eq!(test.caption(&test.pairs[0]), "a man, a dog and \"music\"");
        assert_eq!(test.texts.rows(test.pairs[0].text), 7, "six words and the sentence");
        let train = Dataset::open(&out, Some(Layout::Msrvtt1kA), Split::Train).unwrap();
        assert_eq!((train.pairs.len(), train.gallery().len()), (12, 4));
        assert!(train.texts.find("video12#2").is_some());
        if lengths == Lengths::Fixed {
            assert!((0..train.videos.len()).all(|i| train.videos.rows(i) == 12));
        }
        let error = Dataset::open(&out, None, Split::Val).unwrap_err().to_string();
        assert_says(&error, &["no validation split", "MSRVTT_val.csv"]);
        fs::write(out.join("MSRVTT_val.csv"), "video_id\nvideo11\n").unwrap();
        assert_eq!(Dataset::open(&out, None, Split::Val).unwrap().pairs.len(), 3);
        assert_eq!(Dataset::open(&out, None, Split::Train).unwrap().pairs.len(), 9);
    }
}

#[test]
fn each_bad_csv_line_is_named() {
    let dir = temp();
    msrvtt_lists(dir.path());
    let out = dir.path().join("out");
    make_msrvtt(dir.path(), &out, &small(OutputFormat::Native, Lengths::Fixed)).unwrap();
    let csv = out.join("MSRVTT_JSFUSION_test.csv");
    for (content, expected) in [
        ([TEST_CSV.as_bytes(), b"ret3,msr4,video4,caf\xe9\n"].concat(), "line 5: the text is not UTF-8"),
        ([TEST_CSV.as_bytes(), b"ret3,msr4,video4,one, two\n"].concat(), "line 5: 5 fields, expected 4"),
        ([TEST_CSV.as_bytes(), b"ret3,msr4,video4,x\n"].concat(), "video4: no features for this video"),
        ([TEST_CSV.as_bytes(), b"ret2,msr3,video3,x\n"].concat(), "ret2: this text occurs twice, in line 4 and line 5"),
        ([TEST_CSV.as_bytes(), b"ret3,msr3,video3,\n"].concat(), "ret3: line 5: the caption or an id is empty"),
        (b"key,video_id\nret0,video1\n".to_vec(), "no column \"sentence\""),
    ] {
        fs::write(&csv, content).unwrap();
        let error = Dataset::open(&out, None, Split::Test).unwrap_err().to_string();
        assert_says(&error, &["MSRVTT_JSFUSION_test.csv", expected]);
        assert_says(&said(&check(&out), Severity::Error), &[expected]);
    }
    fs::write(&csv, ["\u{feff}", TEST_CSV].concat()).unwrap();
    assert!(Dataset::open(&out, None, Split::Test).is_ok(), "a byte order mark is no error");
    append(&out.join("MSRVTT_train.9k.csv"), "video55");
    let error = Dataset::open(&out, None, Split::Train).unwrap_err().to_string();
    assert_says(&error, &["MSRVTT_train_captions.jsonl", "video55", "no caption"]);
    fs::remove_file(out.join("MSRVTT_train_captions.jsonl")).unwrap();
    let error = Dataset::open(&out, None, Split::Train).unwrap_err().to_string();
    assert_says(&error, &["captions for training are missing", "MSRVTT_data.json"]);
}

#[test]
fn the_full_msrvtt_follows_its_json() {
    let dir = temp();
    let path = dir.path().join("full");
    fs::create_dir(&path).unwrap();
    let json = serde_json::json!({
        "info": {"year": "2016"},
        "videos": [
            {"video_id": "video0", "split": "train", "category": 3, "start time": 1.5, "id": 0},
            {"video_id": "video1", "split": "validate", "category": 3, "id": 1},
            {"video_id": "video2", "split": "test", "category": 3, "id": 2}],
        "sentences": [
            {"sen_id": 0, "video_id": "video2", "caption": "a dog"},
            {"sen_id": 1, "video_id": "video0", "caption": "a cat"},
            {"sen_id": 2, "video_id": "video2", "caption": "a dog"},
            {"sen_id": 3, "video_id": "video1", "caption": "a bird"}],
    });
    fs::write(path.join("MSRVTT_data.json"), json.to_string()).unwrap();
    let item = |id: &str| (id.to_string(), vec![1.0; 4]);
    let videos = ["video0", "video1", "video2"].map(item);
    let texts = ["video0#0", "video1#0", "video2#0", "video2#1"].map(item);
    write_items(&path.join("videos"), OutputFormat::Npy, &videos, 4, TokenDtype::F32);
    write_items(&path.join("texts"), OutputFormat::Native, &texts, 4, TokenDtype::F32);
    assert_eq!(Layout::detect(&path).unwrap(), Layout::MsrvttFull);
    let test = Dataset::open(&path, None, Split::Test).unwrap();
    assert_eq!((test.pairs.len(), test.distinct_captions(), test.captions_per_video()), (2, 1, vec![vec![0, 1]]));
    assert_eq!(Dataset::open(&path, None, Split::Val).unwrap().pairs.len(), 1);
    assert!(check(&path).is_usable());
}

// ---- tools/convert.py

/// Runs Python code or a script; gives what it printed and whether it went well.
fn python(interpreter: &std::ffi::OsStr, args: &[&str]) -> (bool, String) {
    let done = std::process::Command::new(interpreter).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text)
}

/// `MOVIOLA_PYTHON` names an interpreter with numpy, h5py, torch and safetensors.
#[test]
fn the_script_converts_h5_and_pt_and_refuses_pickles() {
    let Some(interpreter) = std::env::var_os("MOVIOLA_PYTHON") else { return };
    let dir = temp();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/convert.py");
    let make = format!(
        "import h5py, numpy, torch, os\n\
         a = numpy.arange(24, dtype='f4').reshape(2, 3, 4)\n\
         f = h5py.File({:?}, 'w'); f['vid'] = numpy.array([b'v0', b'v1']); f['CLIPL_I'] = a; f.close()\n\
         torch.save({{'v0': torch.tensor(a[0]), 'v1': torch.tensor(a[1])}}, {:?})\n\
         class Evil:\n    def __reduce__(self): return (os.mkdir, ({:?},))\n\
         torch.save({{'v0': Evil()}}, {:?})\n",
        at("a.h5"),
        at("a.pt"),
        at("pwned"),
        at("evil.pt")
    );
    let (well, text) = python(&interpreter, &["-c", &make]);
    assert!(well, "{text}");
    for (from, to, dtype) in
        [("a.h5", "npy", "f32"), ("a.pt", "a.safetensors", "f16"), ("a.h5", "b.safetensors", "f32")]
    {
        let (well, text) = python(&interpreter, &[script.to_str().unwrap(), &at(from), &at(to), "--dtype", dtype]);
        assert!(well, "{text}");
        let source = open_tokens(Path::new(&at(to))).unwrap();
        let tokens = source.load(source.find("v1").unwrap()).unwrap();
        assert_eq!((tokens.rows, tokens.dim), (3, 4));
        assert!(tokens.data.iter().copied().eq((12..24).map(|v| v as f32)));
    }
    let (well, text) = python(&interpreter, &[script.to_str().unwrap(), &at("evil.pt"), &at("evil")]);
    assert!(!well && !Path::new(&at("pwned")).exists() && !Path::new(&at("evil")).exists(), "{text}");
    assert_says(&text, &["evil.pt", "refused", "dict of id -> tensor"]);
}
