//! The retrieval data sets as they are published: small files written by hand in the real forms, quirks included.

use moviola::data::dataset::Entry;
use moviola::data::problem::Problems;
use moviola::data::sink::{OutputFormat, Sink};
use moviola::data::{About, Dataset, Layout, Report, Severity, Split, TokenDtype, check, layout};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A folder with these files.
fn folder(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(&path).unwrap();
    for (name, content) in files {
        fs::write(path.join(name), content).unwrap();
    }
    path
}

/// Rows of 4 values, two for each id.
fn features(path: &Path, ids: &[&str]) {
    let mut sink = Sink::create(path, OutputFormat::Native, About::default(), 4, TokenDtype::F32).unwrap();
    for (i, id) in ids.iter().enumerate() {
        let row = [i as f32, 1.0, (i * i % 7) as f32, -1.0];
        sink.push(id, &[row, row].concat(), None).unwrap();
    }
    sink.finish().unwrap();
}

/// What is read of a split: (text id, video id, caption, line), and what was wrong.
type Read = (Vec<(String, String, String, u64)>, Problems);

fn read(dir: &Path, layout: Layout, split: Split) -> Read {
    let mut problems = Problems::default();
    let listing = layout::read(dir, layout, split, &mut problems);
    assert!(listing.entries.iter().all(|entry| entry.split == split));
    let told = |e: Entry| (e.text_id, e.video_id, e.caption, e.line);
    (listing.entries.into_iter().map(told).collect(), problems)
}

/// As [`read`], where nothing is wrong.
fn sound(dir: &Path, layout: Layout, split: Split) -> Vec<(String, String, String, u64)> {
    let (entries, problems) = read(dir, layout, split);
    assert!(problems.list().is_empty(), "{:?}", problems.list());
    entries
}

fn row(text: &str, video: &str, caption: &str, line: u64) -> (String, String, String, u64) {
    (text.into(), video.into(), caption.into(), line)
}

fn errors(problems: &Problems) -> String {
    let found = problems.list().iter().filter(|p| p.severity == Severity::Error);
    found.map(|p| format!("{}: {}: {}; {}\n", p.place, p.id, p.what, p.fix)).collect()
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

// ---- MSVD

const LISTS: [(&str, &[u8]); 3] = [
    ("train_list.txt", b"\xef\xbb\xbfa_1_5\r\nb_0_9\r\n"),
    ("val_list.txt", b"c_2_4\n\n"),
    ("test_list.txt", b"d_1_2\ne_1_2\n"),
];
const DESCRIPTIONS: &[u8] = b"# Video descriptions, one a line\n\n\
    d_1_2 a man is slicing a tomato\r\n\
    d_1_2 a man is slicing a tomato\n\
    d_1_2   someone cuts \"fruit\", maybe \n\
    a_1_5 a cat plays\n\
    c_2_4 a dog runs\n\
    b_0_9 caf\xc3\xa9\n\
    z_0_0 a video of no list\n\
    e_1_2 two people\n";

fn msvd(dir: &Path) -> PathBuf {
    folder(dir, "msvd", &[&LISTS[..], &[("AllVideoDescriptions.txt", DESCRIPTIONS)]].concat())
}

#[test]
fn msvd_takes_all_captions_of_the_listed_videos() {
    let dir = temp();
    let path = msvd(dir.path());
    assert_eq!(Layout::detect(&path).unwrap(), Layout::Msvd);
    assert_eq!(
        sound(&path, Layout::Msvd, Split::Test),
        [
            row("d_1_2#0", "d_1_2", "a man is slicing a tomato", 3),
            row("d_1_2#1", "d_1_2", "a man is slicing a tomato", 4),
            row("d_1_2#2", "d_1_2", "someone cuts \"fruit\", maybe", 5),
            row("e_1_2#0", "e_1_2", "two people", 10),
        ]
    );
    let train = sound(&path, Layout::Msvd, Split::Train);
    assert_eq!(
        train.iter().map(|t| &*t.0).collect::<Vec<_>>(),
        ["a_1_5#0", "b_0_9#0"],
        "a byte order mark is no letter"
    );
    assert_eq!(sound(&path, Layout::Msvd, Split::Val).len(), 1);
}

#[test]
fn msvd_has_the_same_captions_in_json_and_csv() {
    let dir = temp();
    let json = json!({
        "d_1_2": [["a", "man", "is", "slicing", "a", "tomato"], "a man is slicing a tomato", "someone cuts \"fruit\", maybe"],
        "e_1_2": [["two", "people"]],
    });
    let json = folder(dir.path(), "json", &[LISTS[2], ("raw-captions.json", json.to_string().as_bytes())]);
    let csv = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n\
        d,1,2,7,clean,9,English,a man is slicing a tomato\n\
        d,1,2,8,clean,9,German,ein Mann schneidet eine Tomate\n\
        d,1,2,7,unverified,9,English,a man is slicing a tomato\n\
        d,1,2,7,clean,9,English,\n\
        d,1,2,9,clean,9,English,\"someone cuts \"\"fruit\"\", maybe\"\n\
        e,1,2,9,clean,9,English,two people\n";
    let named = [("MSR Video Description Corpus.csv", csv.as_bytes())];
    let csv = folder(dir.path(), "csv", &[&LISTS[2..], &named[..]].concat());
    let of = |path: &Path| sound(path, Layout::detect(path).unwrap(), Split::Test).into_iter().map(|t| (t.0, t.2));
    let plain: Vec<_> = of(&msvd(dir.path())).collect();
    assert!(of(&json).eq(plain.clone()) && of(&csv).eq(plain));
    assert_eq!(Layout::Msvd.splits(&csv), [Split::Test]);
}

#[test]
fn msvd_names_what_is_missing_or_broken() {
    let dir = temp();
    let path = msvd(dir.path());
    let text = path.join("AllVideoDescriptions.txt");
    fs::write(&text, [DESCRIPTIONS, b"d_1_2\nd_1_2 caf\xe9\n"].concat()).unwrap();
    let found = errors(&read(&path, Layout::Msvd, Split::Test).1);
    says(&found, &["AllVideoDescriptions.txt: line 11: this is one word", "line 12: the text is not UTF-8"]);

    fs::write(path.join("test_list.txt"), "d_1_2\nghost\nd_1_2\n").unwrap();
    fs::write(&text, DESCRIPTIONS).unwrap();
    let (entries, problems) = read(&path, Layout::Msvd, Split::Test);
    assert_eq!((entries.len(), problems.errors(), problems.list().len()), (3, 0, 1));
    let told = &problems.list()[0];
    assert_eq!((told.severity, &*told.id), (Severity::Warning, "ghost"));
    says(&told.what, &["1 of 3 videos", "no caption"]);

    fs::remove_file(&text).unwrap();
    fs::write(path.join("raw-captions.pkl"), b"\x80\x04}.").unwrap();
    says(&errors(&read(&path, Layout::Msvd, Split::Test).1), &["pickles", "tools/convert.py raw-captions.pkl"]);
    for (content, expected) in [
        (r#"{"d_1_2": "a man"}"#, "line 1 column"),
        (r#"{"d_1_2": [[["a"]]]}"#, "expected a sentence or a list of words at line 1"),
        ("{\"d_1_2\": [\n7]}", "at line 2"),
        ("[]", "one member a video"),
        ("", "EOF"),
        ("{\"d_1_2\": [\"caf\\ud800\"]}", "line 1"),
    ] {
        fs::write(path.join("raw-captions.json"), content).unwrap();
        let found = errors(&read(&path, Layout::Msvd, Split::Test).1);
        says(&found, &["raw-captions.json", "this cannot be read", expected]);
    }
    fs::remove_file(path.join("test_list.txt")).unwrap();
    says(&errors(&read(&path, Layout::Msvd, Split::Test).1), &["test_list.txt", "an id a line"]);
}

#[test]
fn hostile_json_is_refused_in_few_words() {
    let dir = temp();
    let place = |name: &str| dir.path().join(name);
    let deep = "[".repeat(1 << 20);
    for content in [
        format!("{{\"d\": {deep}"),
        format!("{{\"d\": [{{\"x\": {deep}"),
        format!("{{\"d\": {:?}}}", "x".repeat(1 << 20)),
    ] {
        fs::write(place("raw-captions.json"), &content).unwrap();
        fs::write(place("val_1.json"), &content).unwrap();
        fs::write(place("test_list.txt"), "d\n").unwrap();
        for layout in [Layout::Msvd, Layout::ActivityNetVal1] {
            let found = errors(&read(dir.path(), layout, Split::Test).1);
            says(&found, &["this cannot be read", "line 1 column"]);
            assert!(found.len() < 1200, "{} characters", found.len());
        }
    }
    let huge = fs::File::create(place("val_1.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    says(&errors(&read(dir.path(), Layout::ActivityNetVal1, Split::Test).1), &["val_1.json", "the limit is"]);
}

// ---- VATEX

fn vatex_file(ids: &[&str]) -> Vec<u8> {
    let video = |id: &&str| json!({"videoID": id, "enCap": [format!("{id} one "), "same"], "chCap": ["一个人"]});
    serde_json::to_vec(&ids.iter().map(video).collect::<Vec<_>>()).unwrap()
}

fn videos(entries: &[(String, String, String, u64)]) -> Vec<&str> {
    let mut ids: Vec<&str> = entries.iter().map(|t| &*t.1).collect();
    ids.dedup();
    ids
}

#[test]
fn vatex_splits_by_file_unless_lists_say_otherwise() {
    let dir = temp();
    let (train, val, test) = (vatex_file(&["a_0_10", "b_0_10"]), vatex_file(&["c", "d", "e"]), vatex_file(&["f"]));
    let files = [
        ("vatex_training_v1.0.json", &train[..]),
        ("vatex_validation_v1.0.json", &val),
        ("vatex_public_test_english_v1.1.json", &test),
    ];
    let path = folder(dir.path(), "vatex", &files);
    assert_eq!(Layout::detect(&path).unwrap(), Layout::Vatex);
    let read = |split| sound(&path, Layout::Vatex, split);
    assert_eq!(
        read(Split::Test),
        [row("f#0", "f", "f one", 1), row("f#1", "f", "same", 1)],
        "English captions only, trimmed"
    );
    assert_eq!(videos(&read(Split::Val)), ["c", "d", "e"]);

    // 1k5: test is a part of the validation videos, and what is left is val.
    fs::write(path.join("test_list.txt"), "e\nc\n").unwrap();
    assert_eq!((videos(&read(Split::Test)), videos(&read(Split::Val))), (vec!["c", "e"], vec!["d"]));
    fs::write(path.join("val_list.txt"), "d\n").unwrap();
    assert_eq!(videos(&read(Split::Val)), ["d"]);
    assert_eq!(videos(&read(Split::Train)), ["a_0_10", "b_0_10"]);
}

#[test]
fn vatex_reads_reference_captions_by_lists() {
    let dir = temp();
    // Not in the order of the alphabet: entries keep the file's.
    let captions = br#"{"y": ["one", "two"], "x": ["three"], "unlisted": ["four"]}"#;
    let path = folder(dir.path(), "v", &[("ref_captions.json", captions), ("test_list.txt", b"x\r\ny\r\nlost\r\n")]);
    assert_eq!(Layout::detect(&path).unwrap().splits(&path), [Split::Test]);
    let (entries, problems) = read(&path, Layout::Vatex, Split::Test);
    assert_eq!(entries, [row("y#0", "y", "one", 1), row("y#1", "y", "two", 1), row("x#0", "x", "three", 2)]);
    says(&problems.list()[0].what, &["1 of 3 videos", "ref_captions.json"]);
    says(&errors(&read(&path, Layout::Vatex, Split::Val).1), &["val_list.txt", "vatex_validation_v1.0.json"]);
    let bad = folder(dir.path(), "bad", &[("vatex_validation_v1.0.json", b"[{\"videoID\": \"a\"}]")]);
    says(&errors(&read(&bad, Layout::Vatex, Split::Val).1), &["missing field `enCap`", "line 1", "videoID"]);
}

// ---- paragraphs

fn activitynet(dir: &Path) -> PathBuf {
    let val = "\u{feff}{\"v_bXdq2zI1Ms0\": {\"duration\": 73.1, \"timestamps\": [[0, 10.23], [10.6, 39.84]], \
        \"sentences\": [\"Three men are standing on a mat.\", \" The man in front begins to do karate. \"]},\r\n\
        \"v_FsS_NCZEfaI\": {\"duration\": 212.74, \"timestamps\": [[0, 1]], \"sentences\": [\"\", \"A woman talks.\"]}}";
    let train = json!({"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86]], "sentences": ["A woman."]},
        "v_ehGHCYKzyZ8": {"duration": 61.7, "timestamps": [[1, 2]], "sentences": ["A barber."]}})
    .to_string();
    let files = [("val_1.json", val.as_bytes()), ("val_2.json", b"{}"), ("train.json", train.as_bytes())];
    folder(dir, "activitynet", &files)
}

#[test]
fn activitynet_joins_the_sentences_of_val_1() {
    let dir = temp();
    let path = activitynet(dir.path());
    assert_eq!(Layout::detect(&path).unwrap(), Layout::ActivityNetVal1);
    assert_eq!(Layout::ActivityNetVal1.splits(&path), [Split::Train, Split::Test]);
    let first = "Three men are standing on a mat. The man in front begins to do karate.";
    assert_eq!(
        sound(&path, Layout::ActivityNetVal1, Split::Test),
        [row("v_bXdq2zI1Ms0", "v_bXdq2zI1Ms0", first, 1), row("v_FsS_NCZEfaI", "v_FsS_NCZEfaI", "A woman talks.", 2)]
    );
    assert_eq!(sound(&path, Layout::ActivityNetVal1, Split::Train).len(), 2);
    says(&errors(&read(&path, Layout::ActivityNetVal1, Split::Val).1), &["no validation split"]);

    fs::write(path.join("val_ids.json"), r#"["v_FsS_NCZEfaI", "v_uncaptioned"]"#).unwrap();
    let (entries, problems) = read(&path, Layout::ActivityNetVal1, Split::Test);
    assert_eq!((videos(&entries), problems.errors()), (vec!["v_FsS_NCZEfaI"], 0));
    assert_eq!(problems.list()[0].id, "v_uncaptioned");

    fs::remove_file(path.join("val_ids.json")).unwrap();
    fs::write(path.join("val_1.json"), r#"{"v_a": {"duration": 1, "sentences": "one"}}"#).unwrap();
    says(&errors(&read(&path, Layout::ActivityNetVal1, Split::Test).1), &["val_1.json", "line 1", "timestamps"]);
    fs::write(path.join("val_1.json"), r#"{"v_a": {"sentences": [" "]}}"#).unwrap();
    says(&errors(&read(&path, Layout::ActivityNetVal1, Split::Test).1), &["v_a", "the caption or an id is empty"]);
    fs::write(path.join("val_1.json"), b"{\"v_a\": {\"sentences\": [\"caf\xe9\"]}}").unwrap();
    says(&errors(&read(&path, Layout::ActivityNetVal1, Split::Test).1), &["unicode", "line 1"]);
}

fn didemo(dir: &Path) -> PathBuf {
    let moment = |video: &str, text: &str| {
        json!({"annotation_id": 7, "description": text, "video": video, "times": [[0, 0], [0, 1]], "num_segments": 6,
               "dl_link": "https://www.flickr.com/video_download.gne?id=1", "reference": null})
    };
    let (one, two) = ("12090392@N02_13482799053_87ef417396.mov", "54322086@N00_2408598493_274c77d26a.avi");
    let test = json!([moment(one, "the man turns "), moment(two, "a dog"), moment(one, "the man turns")]);
    let train = json!([moment("t.mov", "first"), moment("t.mov", "second"), moment("u.mov", "third")]);
    let [test, train] = [test, train].map(|v| v.to_string());
    folder(dir, "didemo", &[("test_data.json", test.as_bytes()), ("train_data.json", train.as_bytes())])
}

#[test]
fn didemo_joins_the_moments_of_a_video() {
    let dir = temp();
    let path = didemo(dir.path());
    assert_eq!(Layout::detect(&path).unwrap(), Layout::DiDeMo);
    assert_eq!(Layout::DiDeMo.splits(&path), [Split::Train, Split::Test]);
    let one = "12090392@N02_13482799053_87ef417396.mov";
    let test = sound(&path, Layout::DiDeMo, Split::Test);
    assert_eq!((test.len(), &test[0]), (2, &row(one, one, "the man turns the man turns", 1)));
    assert_eq!(sound(&path, Layout::DiDeMo, Split::Train)[0].2, "first second");
    fs::write(path.join("test_list.txt"), format!("{one}\r\ngone.mov\r\n")).unwrap();
    assert_eq!(Layout::detect(&path).unwrap(), Layout::DiDeMo, "MSVD's lists have the same names");
    let (entries, problems) = read(&path, Layout::DiDeMo, Split::Test);
    assert_eq!((videos(&entries), problems.errors(), &*problems.list()[0].id), (vec![one], 0, "gone.mov"));
    fs::write(path.join("test_data.json"), "[{\"video\": \"a.mov\",\n \"description\": 3}]").unwrap();
    says(&errors(&read(&path, Layout::DiDeMo, Split::Test).1), &["invalid type: integer `3`", "line 2"]);
}

#[test]
fn videos_are_found_under_the_names_that_their_files_have() {
    let dir = temp();
    let short = ["12090392@N02_13482799053_87ef417396", "54322086@N00_2408598493_274c77d26a"];
    let cases: [(PathBuf, &[&str]); 2] = [
        (activitynet(dir.path()), &["bXdq2zI1Ms0", "FsS_NCZEfaI", "QOlSCBRmfWY", "ehGHCYKzyZ8"]),
        (didemo(dir.path()), &short),
    ];
    for (path, short) in cases {
        let long: Vec<String> = Split::ALL
            .iter()
            .flat_map(|split| read(&path, Layout::detect(&path).unwrap(), *split).0.into_iter().map(|t| t.0))
            .filter(|id| short.iter().any(|short| id.contains(short)))
            .collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(long.len(), short.len());
        // Before texts are encoded, `check` already knows whose the videos are.
        features(&path.join("videos"), short);
        assert!(warned(&check(&path)).iter().all(|what| !what.contains("no caption")));
        for (videos, texts) in [(short, &long[..]), (&long[..], short), (short, short)] {
            for part in ["videos", "texts"] {
                let _ = fs::remove_dir_all(path.join(part));
            }
            features(&path.join("videos"), videos);
            features(&path.join("texts"), texts);
            let test = Dataset::open(&path, None, Split::Test).unwrap();
            assert_eq!((test.pairs.len(), test.gallery().len()), (2, 2));
            if path.ends_with("activitynet") {
                let report = check(&path);
                assert!(report.is_usable() && report.summary.warnings == 0, "{:?}", report.problems);
            }
        }
    }
}

// ---- LSMDC

const CLIP: &str = "0001_American_Beauty_00.00.51.926-00.00.54.129";

fn lsmdc(dir: &Path) -> PathBuf {
    let line =
        |id: &str, text: &str| format!("{id}\t00.00.51.926\t00.00.54.129\t00.00.51.426\t00.00.54.629\t{text}\r\n");
    let train = line(CLIP, "SOMEONE says \"no, never.") + &line(CLIP, "He leaves. ") + &line("b", "It's late");
    let test = line("c", "Someone's car, parked") + &line("d", "\"Hello");
    let files =
        [("LSMDC16_annos_training.csv", train.as_bytes()), ("LSMDC16_challenge_1000_publictect.csv", test.as_bytes())];
    folder(dir, "lsmdc", &files)
}

#[test]
fn lsmdc_lines_are_split_at_tabs_only() {
    let dir = temp();
    let path = lsmdc(dir.path());
    assert_eq!(Layout::detect(&path).unwrap(), Layout::Lsmdc);
    assert_eq!(Layout::Lsmdc.splits(&path), [Split::Train, Split::Test]);
    assert_eq!(
        sound(&path, Layout::Lsmdc, Split::Train),
        [
            row(&format!("{CLIP}#0"), CLIP, "SOMEONE says \"no, never.", 1),
            row(&format!("{CLIP}#1"), CLIP, "He leaves.", 2),
            row("b#0", "b", "It's late", 3),
        ]
    );
    let test = sound(&path, Layout::Lsmdc, Split::Test);
    assert_eq!(test, [row("c#0", "c", "Someone's car, parked", 1), row("d#0", "d", "\"Hello", 2)]);
    let misspelt = path.join("LSMDC16_challenge_1000_publictect.csv");
    fs::rename(misspelt, path.join("LSMDC16_challenge_1000_publictest.csv")).unwrap();
    assert_eq!(sound(&path, Layout::Lsmdc, Split::Test), test);

    let broken = b"a\t1\t2\t3\t4\tgood\nb\t1\t2\t3\t4\nc\t1\t2\t3\t4\tcaf\xe9\nd\t1\t2\t3\t4\tone\ttwo\n";
    fs::write(path.join("LSMDC16_annos_val.csv"), broken).unwrap();
    let (entries, problems) = read(&path, Layout::Lsmdc, Split::Val);
    assert_eq!((videos(&entries), problems.errors()), (vec!["a"], 3));
    says(&errors(&problems), &["line 2: 5 fields, expected 6", "line 3: the text is not UTF-8", "line 4: 7 fields"]);
}

// ---- detection

#[test]
fn names_and_files_of_all_layouts_are_told() {
    let dir = temp();
    let error = Layout::detect(dir.path()).unwrap_err().to_string();
    for layout in Layout::ALL {
        says(&error, &[&format!("({})", layout.name())]);
        assert_eq!(serde_json::to_value(layout).unwrap(), layout.name());
    }
    says(&error, &["captions.jsonl", "MSRVTT_data.json", "raw-captions.pkl", "ref_captions.json", "val_1.json"]);
    assert_eq!(Layout::names(), "native, msrvtt-1ka, msrvtt-full, msvd, vatex, activitynet-val1, didemo, lsmdc");
    let both = lsmdc(dir.path());
    fs::write(both.join("val_1.json"), "{}").unwrap();
    says(&Layout::detect(&both).unwrap_err().to_string(), &["activitynet-val1 and lsmdc", "--layout"]);
    fs::write(both.join("captions.jsonl"), "").unwrap();
    says(&Layout::detect(&both).unwrap_err().to_string(), &["native and activitynet-val1 and lsmdc"]);
}

// ---- from a shell

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moviola")).args(args).output().unwrap()
}

fn told(args: &[&str]) -> Value {
    let out = run(&[args, &["--json"]].concat());
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}\n{}{error}", String::from_utf8_lossy(&out.stdout));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn warned(report: &Report) -> Vec<&str> {
    report.problems.iter().filter(|p| p.severity == Severity::Warning).map(|p| &*p.what).collect()
}

/// A data set as it is published, its videos, and pairs, videos and distinct captions of its test.
struct Published {
    path: PathBuf,
    name: &'static str,
    test: (u64, u64, u64),
}

fn published(dir: &Path) -> Vec<Published> {
    let val = vatex_file(&["c", "d", "e"]);
    let files = [("vatex_training_v1.0.json", &vatex_file(&["a", "b"])[..]), ("vatex_validation_v1.0.json", &val)];
    let vatex = folder(dir, "vatex", &[&files[..], &[("test_list.txt", b"c\nd\n")]].concat());
    vec![
        Published { path: msvd(dir), name: "msvd", test: (4, 2, 3) },
        Published { path: vatex, name: "vatex", test: (4, 2, 3) },
        Published { path: activitynet(dir), name: "activitynet-val1", test: (2, 2, 2) },
        Published { path: didemo(dir), name: "didemo", test: (2, 2, 2) },
        Published { path: lsmdc(dir), name: "lsmdc", test: (2, 2, 2) },
    ]
}

#[test]
fn every_command_takes_every_layout() {
    let dir = temp();
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders/bert");
    let encoder = encoder.to_str().unwrap();
    for Published { path, name, test } in published(dir.path()) {
        let data = path.to_str().unwrap();
        let layout = Layout::detect(&path).unwrap();
        let mut ids: Vec<String> =
            Split::ALL.iter().flat_map(|split| read(&path, layout, *split).0.into_iter().map(|t| t.1)).collect();
        ids.sort();
        ids.dedup();
        features(&path.join("videos"), &ids.iter().map(String::as_str).collect::<Vec<_>>());
        told(&["encode", "texts", "--encoder", encoder, "--data", data, "--device", "cpu"]);
        // The published files are all known, and features of two encoders are all there is to say.
        let report = check(&path);
        assert!(warned(&report).iter().all(|what| what.contains("values a row")), "{:?}", report.problems);
        let checked = told(&["data", "check", data]);
        let split = checked["summary"]["splits"].as_array().unwrap().iter().find(|s| s["split"] == "test").unwrap();
        let count = |key: &str| split[key].as_u64().unwrap();
        assert_eq!((count("pairs"), count("videos"), count("distinct_captions")), test, "{name}");
        assert_eq!(checked["layout"], name);
        let inspected = told(&["data", "inspect", data]);
        let splits = inspected["splits"].as_array().unwrap();
        let pairs = splits.iter().find(|s| s["split"] == "test").unwrap();
        assert_eq!((&inspected["layout"], pairs["pairs"].as_u64().unwrap()), (&json!(name), test.0));

        let out = dir.path().join(format!("run-{name}"));
        let out = out.to_str().unwrap();
        let sets = ["--set", "train.batch=2", "--set", "train.epochs=1", "--set", "model.dim=8"];
        let train = ["train", "--data", data, "--layout", name, "--out", out, "--device", "cpu", "--quiet"];
        let done = run(&[&train[..], &sets].concat());
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        let eval = told(&["eval", "retrieval", "--model", out, "--data", data, "--device", "cpu"]);
        let protocol = &eval["protocol"];
        assert_eq!((protocol["texts"].as_u64(), protocol["videos"].as_u64()), (Some(test.0), Some(test.1)), "{eval}");
        assert!(eval["t2v"]["R@5"].as_f64().unwrap() > 99.0, "all of two videos are among the first five");
    }
}

#[test]
fn every_way_with_several_captions_ranks_the_videos_of_msvd() {
    let dir = temp();
    let path = msvd(dir.path());
    features(&path.join("videos"), &["a_1_5", "b_0_9", "c_2_4", "d_1_2", "e_1_2"]);
    features(&path.join("texts"), &["d_1_2#0", "d_1_2#1", "d_1_2#2", "e_1_2#0"]);
    // Rows are d#0, d#1, d#2, e#0; columns d, e. The third caption of d fails; e's own is beaten by d#1 as a query.
    let scores = [9.0_f32, 1.0, 8.0, 7.0, 2.0, 3.0, 4.0, 6.0];
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }");
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(scores.iter().flat_map(|score| score.to_le_bytes()));
    let matrix = dir.path().join("sim.npy");
    fs::write(&matrix, file).unwrap();
    let (data, matrix) = (path.to_str().unwrap(), matrix.to_str().unwrap());
    for mode in ["min-rank", "max-caption"] {
        let eval = told(&["eval", "retrieval", "--scores", matrix, "--data", data, "--captions", mode]);
        assert_eq!(eval["t2v"]["R@1"], 75.0, "{eval}");
        assert_eq!(eval["v2t"]["R@1"], 50.0, "{eval}");
    }
}

/// `MOVIOLA_PYTHON` names an interpreter, as for the other tests of the script.
#[test]
fn the_script_turns_plain_pickles_into_json_and_refuses_others() {
    let Some(python) = std::env::var_os("MOVIOLA_PYTHON") else { return };
    let dir = temp();
    let path = folder(dir.path(), "msvd", &LISTS);
    let make = "import os, pickle, sys\n\
        os.chdir(sys.argv[1])\n\
        pickle.dump({'d_1_2': [['a', 'man'], ['caf\u{e9}']], 'e_1_2': [['two']]}, open('raw-captions.pkl', 'wb'), 2)\n\
        class Evil:\n    def __reduce__(self): return (os.mkdir, ('pwned',))\n\
        pickle.dump({'d_1_2': Evil()}, open('evil.pkl', 'wb'))\n";
    let made = Command::new(&python).arg("-c").arg(make).arg(&path).status().unwrap();
    assert!(made.success());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/convert.py");
    let convert = |from: &str, to: &str| {
        let done = Command::new(&python).arg(&script).args([from, to]).current_dir(&path).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (well, error) = convert("raw-captions.pkl", "raw-captions.json");
    assert!(well, "{error}");
    let test = sound(&path, Layout::detect(&path).unwrap(), Split::Test);
    assert_eq!(test.iter().map(|t| &*t.2).collect::<Vec<_>>(), ["a man", "caf\u{e9}", "two"]);
    let (well, error) = convert("evil.pkl", "evil.json");
    assert!(!well && !path.join("pwned").exists() && !path.join("evil.json").exists(), "{error}");
    says(&error, &["evil.pkl", "mkdir", "could run code"]);
}
