//! The program as a person meets it: commands from a shell, killed, interrupted and given nonsense.

mod seed;

use seed::seed;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn moviola(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moviola"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    moviola(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}\n{}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

fn refused(args: &[&str]) -> String {
    let out = run(args);
    assert_eq!(out.status.code(), Some(1), "{args:?}\n{}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stderr)
}

fn has(error: String, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(args)).unwrap()
}

fn at(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small world and the flags that train on it.
fn world(dir: &Path) -> String {
    let world = dir.join("world");
    ok(&["data", "world", "--out", at(&world), "--train", "60", "--val", "8", "--test", "20", "--dim", "32"]);
    at(&world).into()
}

fn train<'a>(world: &'a str, out: &'a str) -> Vec<&'a str> {
    let sets = ["--set", "train.batch=16", "--set", "train.epochs=6", "--set", "train.checkpoint_every=2"];
    let head = ["train", "--data", world, "--out", out, "--set", "model.dim=32", "--device", "cpu", "--quiet"];
    head.into_iter().chain(sets).collect()
}

#[test]
fn from_data_to_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (at(&dir.path().join("world")).to_string(), dir.path().join("run"));
    ok(&["data", "world", "--out", &world, "--train", "400", "--val", "8", "--test", "20", "--dim", "32"]);
    let better =
        ["--set", "train.learning_rate=0.005", "--set", "train.epochs=10", "--set", "train.checkpoint_every=0"];
    ok(&[&train(&world, at(&out))[..], &better[..]].concat());
    let model = ["--model", at(&out), "--data", &world, "--device", "cpu", "--json"];
    let with = |head: &[&str], tail: &[&str]| json(&[head, &model, tail].concat());
    let eval = with(&["eval", "retrieval"], &[]);
    let r1 = eval["t2v"]["R@1"].as_f64().unwrap();
    assert!(r1 > 20.0, "40 texts among 20 videos: chance is 5 %, got {r1}");
    assert_eq!(eval["protocol"]["tie_rule"], "expected");
    let first = json(&["data", "inspect", &world, "--json"])["sources"].to_string();
    assert!(first.contains("f16"));
    let captions = std::fs::read_to_string(Path::new(&world).join("captions.jsonl")).unwrap();
    let line: Value =
        captions.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|l| l["split"] == "test").unwrap();
    let (text_id, video_id) = (line["text_id"].as_str().unwrap(), line["video_id"].as_str().unwrap());
    let search = with(&["search"], &["--text", text_id, "--top", "20"]);
    let hits = search["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 20);
    assert!(hits.iter().any(|h| h["id"] == video_id && h["relevant"] == true));
    let reverse = with(&["search"], &["--video", video_id, "--top", "5"]);
    assert_eq!(reverse["direction"], "v2t");
    let picture = dir.path().join("why.html");
    let why = with(&["explain"], &["--text", text_id, "--out", at(&picture)]);
    let relevance: f64 = why["relevance"].as_array().unwrap().iter().map(|r| r.as_f64().unwrap()).sum();
    assert!((relevance - 1.0).abs() < 1e-4, "relevance is a distribution over frames");
    let page = std::fs::read_to_string(&picture).unwrap();
    assert!(page.contains("<svg") && !page.contains("http-equiv=\"refresh\"") && !page.contains("<script src"));

    // The matrix on disk says what the streamed evaluation said.
    let matrix = dir.path().join("sim.npy");
    with(&["score"], &["--out", at(&matrix)]);
    let again = json(&["eval", "retrieval", "--scores", at(&matrix), "--data", &world, "--json"]);
    assert_eq!(again["t2v"], eval["t2v"]);
    assert_eq!(again["v2t"], eval["v2t"]);

    // And so do TREC files made from it, as far down as they go.
    let (trec, qrels) = (dir.path().join("run.txt"), dir.path().join("qrels.txt"));
    with(&["eval", "retrieval"], &["--trec-run", at(&trec), "--trec-qrels", at(&qrels)]);
    let from_trec = json(&["eval", "retrieval", "--run", at(&trec), "--qrels", at(&qrels), "--json"]);
    assert_eq!(from_trec["t2v"]["R@1"], eval["t2v"]["R@1"]);
}

#[test]
fn reasons_have_what_a_model_knows_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| at(&dir.path().join(name)).to_string();
    let world = place("world");
    let small = ["--dim", "32", "--train", "60", "--val", "4", "--test", "6"];
    ok(&[&["data", "world", "--name", "spurious-background", "--out", &world], &small[..]].concat());
    let titles = ["Relevance over time", "Words and frames", "Experts over time", "Shortcut meter", "Stability"];
    // The flat parts that each model has, and the figures by their number in the list above.
    let (tokens, all) =
        (&["relevance", "similarity"][..], &["relevance", "similarity", "expert_gates", "foreground"][..]);
    let models: [(&str, &[&str], &[usize]); 3] =
        [("mean-pool", &[], &[4]), ("token-interaction", tokens, &[0, 1, 4]), ("cba", all, &[0, 1, 2, 3, 4])];
    for (model, parts, figures) in models {
        let out = place(model);
        ok(&[&train(&world, &out)[..], &["--model", model, "--set", "train.epochs=1"]].concat());
        let base = ["explain", "--model", &out, "--data", &world, "--text", "test0-text1", "--device", "cpu"];
        let with = |tail: &[&str]| json(&[&base, tail, &["--json"]].concat());
        let [page, picture] = ["html", "svg"].map(|end| place(&format!("{model}.{end}")));
        let why = with(&["--out", &page, "--draws", "3", "--seed", "7"]);
        for part in all {
            let there = why[part].as_array().is_some_and(|values| !values.is_empty());
            assert_eq!(there, parts.contains(part), "{model}: {part}");
        }
        assert_eq!(why["background_score"].is_number(), model == "cba");
        let sum = |values: &Value| values.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum::<f64>();
        if model == "cba" {
            assert!((sum(&why["expert_shares"]) - 1.0).abs() < 1e-4, "{why}");
            let gates = why["expert_gates"].as_array().unwrap();
            assert_eq!(gates.len(), 12);
            assert!(gates.iter().all(|frame| (sum(frame) - 1.0).abs() < 1e-4));
        }
        let stable = &why["stability"];
        assert_eq!(stable["unperturbed"], why["score"], "{model}");
        let names = ["drop", "jitter", "speed", "all", "reversed"];
        for (kind, name) in stable["kinds"].as_array().unwrap().iter().zip(names) {
            let draws = if name == "reversed" { 1 } else { 3 };
            assert_eq!((kind["name"].as_str(), kind["scores"].as_array().unwrap().len()), (Some(name), draws));
            assert!((kind["mean"].as_f64().unwrap() * draws as f64 - sum(&kind["scores"])).abs() < 1e-5);
            assert_eq!((kind["keeps_meaning"] == true, kind["sd"].is_number()), (draws == 3, draws == 3));
        }
        assert_eq!(with(&["--draws", "3", "--seed", "7"])["stability"], *stable, "{model}: a seed's draws");
        assert_ne!(with(&["--draws", "3", "--seed", "8"])["stability"], *stable);
        assert!(with(&["--draws", "0", "--out", &picture])["stability"].is_null());
        let [page, picture] = [page, picture].map(|path| std::fs::read_to_string(path).unwrap());
        for (number, title) in titles.into_iter().enumerate() {
            let there = figures.contains(&number);
            assert_eq!(page.contains(title), there, "{model}: {title}");
            assert_eq!(picture.contains(title), there && number < 4, "{model}: {title}");
        }
        assert!(picture.starts_with("<svg") && page.matches("<style").count() == 1 + figures.len());
        assert!(refused(&[&base[..], &["--draws", "1001"]].concat()).contains("draws"));
    }
}

#[test]
fn the_demo_goes_from_a_world_to_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let demo = ["demo", "--quick", "--seed", "3", "--device", "cpu", "--out", at(&out)];
    let told = json(&[&demo[..], &["--json", "--quiet"]].concat());
    let models = told["models"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    for (model, name) in models.iter().zip(["mean-pool", "token-interaction", "cba"]) {
        assert_eq!(model["model"], name);
        for (test, which) in model["tests"].as_array().unwrap().iter().zip(["id", "decor", "adv"]) {
            assert_eq!((&test["test"], &test["protocol"]["texts"]), (&which.into(), &24.into()));
            for way in ["t2v", "v2t"] {
                assert!((0.0..=100.0).contains(&test[way]["R@1"].as_f64().unwrap()));
            }
        }
        ok(&["eval", "retrieval", "--model", at(&out.join(name)), "--data", at(&out.join("world/tests/adv"))]);
    }
    assert_eq!(told["example"].is_object(), told["examples"].as_u64().unwrap() > 0);
    let page = std::fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
    for part in ["spurious", "Who puts the right one first", "Validation", "One query", "ties: expected; 24 texts"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(refused(&demo).contains("exists"));
}

#[test]
fn the_demo_on_pixels_goes_from_clips_to_hits() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let demo = ["demo", "--pixels", "--quick", "--seed", "3", "--device", "cpu", "--out", at(&out)];
    let told = json(&[&demo[..], &["--json", "--quiet"]].concat());
    let models = told["models"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    for (model, name) in models.iter().zip(["mean-pool", "token-interaction", "cba"]) {
        assert_eq!(model["model"], name);
        let tests = model["tests"].as_array().unwrap();
        for (test, which) in tests.iter().zip(["id", "any", "adv"]) {
            assert_eq!((&test["test"], &test["protocol"]["texts"]), (&which.into(), &32.into()));
            for share in [&test["t2v"]["R@1"], &test["v2t"]["R@1"], &test["right_colour_first"]] {
                assert!((0.0..=100.0).contains(&share.as_f64().unwrap()), "{name}, {which}: {share}");
            }
        }
        // The command says of the folder what the demo said.
        let (run, adv) = (out.join(name), out.join("world/adv"));
        let again = ["eval", "retrieval", "--model", at(&run), "--data", at(&adv), "--device", "cpu", "--json"];
        assert_eq!(json(&again)["t2v"]["R@1"], tests[2]["t2v"]["R@1"]);
    }
    assert!(told["encoder"]["probes"]["sees colour"].as_f64().unwrap() > 0.0);
    let adversarial = &told["adversarial"];
    assert_eq!(adversarial["queries"], 32);
    let right = |model: usize| models[model]["tests"][2]["right_colour_first"].as_f64().unwrap() * 0.32;
    let lead = adversarial["better"].as_f64().unwrap() - adversarial["worse"].as_f64().unwrap();
    assert!((right(2) - right(1) - lead).abs() < 1e-9, "who is better more often has the right colour more often");
    let queries = told["queries"].as_array().unwrap();
    assert!(!queries.is_empty());
    for query in queries {
        for (answer, name) in query["answers"].as_array().unwrap().iter().zip(["token-interaction", "cba"]) {
            assert_eq!(answer["model"], name);
            let hits = answer["hits"].as_array().unwrap();
            assert_eq!(hits.len(), 3);
            for hit in hits {
                let own = query["text"].as_str().unwrap().split('#').next().unwrap() == hit["video"];
                assert_eq!(hit["is"] == "right-clip", own, "{hit}");
                let right = hit["is"] == "right-clip" || hit["is"] == "right-colour";
                assert_eq!(right, hit["colour"] == query["colour"], "{hit}");
                // In this test who has the place of a colour has the colour's twin.
                assert_eq!(hit["is"] == "only-place", hit["place"] == query["place"], "{hit}");
                assert_eq!(hit["foreground"].as_array().unwrap().len(), if name == "cba" { 12 } else { 0 });
            }
        }
    }
    let page = std::fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
    let parts = [
        "What goes with what in training",
        "First video has the right colour",
        "Who puts the right one first",
        "Queries and their hits",
        "the clips of the tests as mp4 files",
        "ties: expected; 32 texts",
    ];
    for part in parts {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.matches("data:image/jpeg;base64,").count() >= queries.len() * 36, "frames of every hit");
    assert!(refused(&demo).contains("exists"));
    // What the page says to run next, runs.
    let commands = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
    let explain = commands.lines().find(|line| line.starts_with("moviola explain")).unwrap();
    let words: Vec<&str> =
        explain.split(' ').skip(1).map(|word| if word == "why.html" { "why.svg" } else { word }).collect();
    assert!(moviola(&words).current_dir(dir.path()).output().unwrap().status.success(), "{explain}");
}

#[test]
fn worlds_come_by_name_with_any_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| at(&dir.path().join(name)).to_string();
    let make = |name: &str, more: &[&str]| {
        let out = place(name);
        json(&[&["data", "world", "--name", name, "--out", &out, "--train", "40", "--json"], more].concat())
    };
    let s1 = ["--dim", "16", "--val", "4", "--test", "6", "--generator", "held-out", "--set", "beta=4"];
    let told = make("spurious-background", &s1)["parameters"].clone();
    assert_eq!((&told["gallery"], &told["beta"], &told["generator"]), (&6.into(), &4.0.into(), &"held-out".into()));
    make("factors", &["--set", "values=9", "--set", "factor_dim=8"]);
    make("temporal-order", &["--dim", "16", "--val", "4", "--test", "6"]);
    for folder in ["spurious-background", "spurious-background/tests/adv", "factors", "temporal-order"] {
        ok(&["data", "check", &place(folder)]);
    }
    let (factors, out) = (place("factors"), place("run"));
    ok(&train(&factors, &out));
    let other = place("other");
    let wrong = refused(&["data", "world", "--out", &other, "--name", "factors", "--set", "gallery=9"]);
    assert!(wrong.contains("gallery") && wrong.contains("values"), "{wrong}");
    let wrong = refused(&["data", "world", "--out", &other, "--name", "factors", "--set", "values"]);
    assert!(wrong.contains("KEY=VALUE"), "{wrong}");
}

#[test]
fn kill_nine_at_ten_moments_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let begun = Instant::now();
    ok(&train(&world, at(&whole)));
    let time = begun.elapsed();
    let random = moviola::random::Random::new(seed(), 0);
    let mut args = train(&world, at(&killed));
    args.push("--resume");
    for moment in 0..10 {
        let wait = time.mul_f32(random.uniform(moment));
        let mut child = moviola(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait.max(Duration::from_millis(5)));
        // Unix sends SIGKILL: no handler runs.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    ok(&args);
    for file in ["model.safetensors", "log.jsonl"] {
        let (a, b) = (std::fs::read(whole.join(file)).unwrap(), std::fs::read(killed.join(file)).unwrap());
        assert!(a == b, "{file} differs after ten kills");
    }
}

#[test]
fn a_run_goes_on_with_the_settings_it_was_begun_with() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (world(dir.path()), dir.path().join("run"));
    ok(&train(&world, at(&out)));
    let again = ["train", "--device", "cpu", "--data", &world, "--out", at(&out), "--resume"];
    let told = ok(&again);
    assert!(told.contains(&format!("moviola eval retrieval --model {} --data {world}", at(&out))), "{told}");
    let why = refused(&[&again[..], &["--set", "model.dim=32", "--set", "train.seed=77"]].concat());
    assert!(why.contains("was trained with train."), "{why}");
    let elsewhere = at(&dir.path().join("nothing here")).to_string();
    let new = [
        &["train", "--device", "cpu", "--data", &world, "--out", &elsewhere, "--resume"][..],
        &["--set", "train.epochs=1"],
    ];
    assert!(text(&run(&new.concat()).stderr).contains("holds no run yet"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (world(dir.path()), dir.path().join("run"));
    let mut args = train(&world, at(&out));
    args.extend(["--set", "train.epochs=100000"]);
    let child = moviola(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !out.join("checkpoints").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("--resume"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script = "\"$0\" plan --device cpu --dump; echo \"status $?\" >&2";
    let run = format!("({script}) | head -c 1 >/dev/null");
    let out = Command::new("sh").args(["-c", &run, env!("CARGO_BIN_EXE_moviola")]).output().unwrap();
    assert!(text(&out.stderr).contains("status 0"), "{}", text(&out.stderr));
    assert!(!text(&out.stderr).contains("panicked"), "{}", text(&out.stderr));
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_costs_nothing_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let (whole, full) = (dir.path().join("whole"), dir.path().join("full"));
    ok(&train(&world, at(&whole)));
    let mut args = train(&world, at(&full));
    args.push("--resume");
    let mut child = moviola(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !full.join("checkpoints").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // No file may grow beyond 16 blocks: writing one fails as on a full disk, after part of it was written.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let out = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_moviola")]).args(&args).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("could not write") && text(&out.stderr).contains("safetensors"));
    ok(&args);
    let (a, b) = (std::fs::read(whole.join("model.safetensors")), std::fs::read(full.join("model.safetensors")));
    assert!(a.unwrap() == b.unwrap());
}

#[test]
fn plans_stay_close_to_their_lower_bound() {
    for size in [&["--batch", "128"][..], &["--batch", "31", "--words", "77", "--frames", "64", "--dim", "192"][..]] {
        let rows = json(&[&["plan", "--json", "--device", "cpu"], size].concat());
        let rows = rows.as_array().unwrap();
        assert!(rows.len() >= 8, "training and inference of every model");
        for row in rows {
            let (peak, bound) = (row["peak_bytes"].as_f64().unwrap(), row["lower_bound_bytes"].as_f64().unwrap());
            assert!(peak <= 1.05 * bound, "{row}");
        }
    }
}

#[test]
fn a_step_is_dumped_with_every_input_of_its_losses() {
    let dir = tempfile::tempdir().unwrap();
    let step = ["bench", "step", "--device", "cpu", "--json", "--steps", "2", "--batch", "6", "--words", "4"];
    let sizes = ["--frames", "5", "--dim", "16", "--ragged", "--model", "cba", "--set", "trunk.layers=1"];
    let out = dir.path().join("dump");
    let args = |more: &[&'static str]| [&step[..], &sizes, &["--dump", at(&out)], more].concat().join("\n");
    for (more, names) in [
        (
            &["--set", "counterfactual.swap=0.5"][..],
            &["words", "frame_times", "donor_video", "perturbed_first", "perturbed_segments"][..],
        ),
        (&["--set", "routing.mode=topk-token", "--set", "temporal.order=1"], &["router_noise", "reversed"]),
        (
            &[
                "--set",
                "counterfactual.foreground=given",
                "--set",
                "counterfactual.exchange=frames",
                "--set",
                "counterfactual.swap=0.5",
            ],
            &["own", "background"],
        ),
    ] {
        let args = args(more);
        let told = json(&args.split('\n').collect::<Vec<_>>());
        for name in names {
            assert!(out.join(format!("{name}.npy")).exists(), "{name} is missing with {more:?}");
        }
        let meta: Value = serde_json::from_slice(&std::fs::read(out.join("meta.json")).unwrap()).unwrap();
        assert!(meta["terms"]["consistency"].as_f64().unwrap() > 0.0, "{meta}");
        let (first, dumped) = (told["losses"][0].as_f64().unwrap(), meta["loss"].as_f64().unwrap());
        assert!((first - dumped).abs() < 1e-5 * dumped, "{first} and {dumped}");
    }
    // Rows that are there, and no more: the segments say how many.
    let rows = std::fs::read(out.join("perturbed_weight.npy")).unwrap();
    let segments = std::fs::read(out.join("perturbed_segments.npy")).unwrap();
    let end = u32::from_le_bytes(segments[segments.len() - 4..].try_into().unwrap());
    assert!(text(&rows[..128]).contains(&format!("({end}, 1)")), "{}", text(&rows[..128]));
    let wrong = refused(&["bench", "step", "--model", "cba", "--device", "cpu", "--set", "model.dim=8"]);
    assert!(wrong.contains("--dim"), "{wrong}");
}

#[test]
fn the_program_starts_without_a_vulkan_driver() {
    let bare = |args: &[&str]| {
        moviola(args).env("VK_DRIVER_FILES", "/nowhere").env("VK_ICD_FILENAMES", "/nowhere").output().unwrap()
    };
    let doctor = bare(&["doctor"]);
    assert!(doctor.status.success(), "{}", text(&doctor.stderr));
    if cfg!(feature = "wgpu") {
        assert!(text(&doctor.stdout).contains("mesa-vulkan-drivers"), "{}", text(&doctor.stdout));
        let asked = bare(&["plan", "--device", "wgpu"]);
        assert_eq!(asked.status.code(), Some(1));
        assert!(text(&asked.stderr).contains("mesa-vulkan-drivers"), "{}", text(&asked.stderr));
    }
    assert!(bare(&["plan", "--device", "auto"]).status.success());
}

#[test]
fn nonsense_is_answered_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (world(dir.path()), dir.path().join("run"));
    let nowhere = dir.path().join("nowhere");
    has(refused(&["train", "--data", at(&nowhere), "--out", at(&out)]), &["nowhere"]);
    has(refused(&["eval", "retrieval", "--model", &world, "--data", &world]), &["config.json", "moviola train"]);
    has(refused(&["plan", "--device", "tpu"]), &["tpu", "auto, cpu, cuda"]);
    has(refused(&["plan", "--model", "gpt"]), &["gpt", "token-interaction"]);
    has(refused(&["plan", "--model", "cba", "--set", "model.dim=8"]), &["model.dim", "--dim"]);
    let misused = run(&["plan", "--set", "routing.experts=8", "--json"]);
    assert_eq!(misused.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&misused.stdout).unwrap();
    assert!(told["error"].as_str().unwrap().contains("--model"));
    let base = ["train", "--data", &world, "--out", at(&out), "--device", "cpu"];
    let with = |tail: &[&str]| refused(&[&base, tail].concat());
    has(with(&["--set", "train.epochs=0"]), &["train.epochs", "1 to"]);
    has(with(&["--set", "train.epoch=3"]), &["epoch", "epochs"]);
    has(with(&["--set", "model.temperature=\"NaN\""]), &["temperature"]);
    has(with(&["--set", "model.text_dim=77"]), &["32", "77"]);
    has(with(&["--set", "nonsense"]), &["KEY=VALUE"]);
    assert!(!out.exists(), "nothing is written for a run that cannot start");

    // A model folder damaged in every way a disk can.
    ok(&train(&world, at(&out)));
    let eval = ["eval", "retrieval", "--model", at(&out), "--data", &world, "--device", "cpu"];
    let (config, weights) = (out.join("config.json"), out.join("model.safetensors"));
    let (text_before, bytes) = (std::fs::read_to_string(&config).unwrap(), std::fs::read(&weights).unwrap());
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    has(refused(&eval), &["model.safetensors", "damaged"]);
    let mut nan = bytes.clone();
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, &nan).unwrap();
    has(refused(&eval), &["NaN"]);
    std::fs::write(&weights, &bytes).unwrap();
    std::fs::write(&config, text_before.replace("\"version\": 1", "\"version\": 9")).unwrap();
    has(refused(&eval), &["version 9"]);
    std::fs::write(&config, text_before.replace("token-interaction", "mean-pool")).unwrap();
    has(refused(&eval), &["model.safetensors", "another model"]);
    std::fs::write(&config, text_before.replace("\"dim\": 32", "\"dim\": 99999999999")).unwrap();
    has(refused(&eval), &["dim"]);
    std::fs::write(&config, &text_before).unwrap();
    ok(&eval);
}

#[test]
fn every_command_shows_an_example_in_its_help() {
    let commands: &[&[&str]] = &[
        &["demo"],
        &["train"],
        &["eval", "retrieval"],
        &["score"],
        &["search"],
        &["explain"],
        &["data", "check"],
        &["data", "inspect"],
        &["data", "convert"],
        &["data", "world"],
        &["data", "msrvtt"],
        &["plan"],
        &["doctor"],
        &["completions"],
    ];
    for command in commands {
        let help = ok(&[command, &["--help"][..]].concat());
        assert!(help.contains("Example"), "{command:?} has no example");
    }
    assert!(ok(&["completions", "bash"]).contains("_moviola"));
}

#[test]
fn every_claim_runs_and_keeps_what_it_measured() {
    let dir = tempfile::tempdir().unwrap();
    let kept = at(dir.path());
    let help = ok(&["claims", "--help"]);
    assert!(help.contains("Example"));
    let with = |claim: &str, tail: &[&str]| {
        let head = ["claims", claim, "--quick", "--only", "token-interaction", "--seeds", "1", "--device", "cpu"];
        json(&[&head[..], &["--out", kept, "--json", "--quiet"], tail].concat())
    };
    for claim in moviola::claims::CLAIMS.iter().map(|c| c.name()) {
        assert!(help.contains(&format!("\n  {claim} ")), "{claim} is not in the help");
        let first = with(claim, &[]);
        let measures = &first["table"]["variants"]["token-interaction"][0];
        assert!(measures.as_object().unwrap().values().all(|v| v.as_f64().is_some_and(f64::is_finite)), "{first}");
        assert!(first["bars"].as_array().unwrap().is_empty() && first["seconds"].as_f64().unwrap() > 0.0);
        // Times would differ if they were measured again.
        let [page, picture] = ["html", "svg"].map(|end| at(&dir.path().join(format!("{claim}.{end}"))).to_string());
        let drawn = ["pareto", "frames"].contains(&claim);
        let tail = ["--report", &page, "--figure", &picture];
        let again = with(claim, &tail[..if drawn { 4 } else { 2 }]);
        assert_eq!((&again["table"], again["seconds"].as_f64()), (&first["table"], Some(0.0)));
        let page = std::fs::read_to_string(&page).unwrap();
        assert!(page.contains("token-interaction") && page.contains("<table") && page.contains("<svg") == drawn);
        assert_eq!(std::fs::read_to_string(&picture).is_ok_and(|svg| svg.starts_with("<svg")), drawn);
    }
    assert!(
        ok(&["claims", "pareto", "--quick", "--only", "token-interaction", "--seeds", "1", "--out", kept])
            .contains("nothing here is judged")
    );
    // Masks that are given, where frames come from pixels.
    let given =
        ["claims", "rendered-background", "--quick", "--only", "cba-oracle-mask,cba-random-mask", "--seeds", "1"];
    let told = json(&[&given[..], &["--device", "cpu", "--out", kept, "--json", "--quiet"]].concat());
    let [oracle, random] = ["cba-oracle-mask", "cba-random-mask"].map(|v| &told["table"]["variants"][v][0]);
    assert!(oracle["mask"].is_f64() && oracle != random, "{told}");
}

#[test]
fn nonsense_about_claims_is_answered_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let told = |claim: &str, tail: &[&str]| {
        let out = run(&[&["claims", claim, "--quick", "--device", "cpu", "--out", at(dir.path())], tail].concat());
        assert!(!out.status.success() && out.stdout.is_empty(), "{claim} {tail:?}");
        text(&out.stderr)
    };
    for (claim, tail, words) in [
        ("routing", &[][..], &["routing", "spurious-background, factors"][..]),
        ("factors", &["--set", "routing.expert=3"], &["expert", "experts", "moviola train --help"]),
        ("factors", &["--set", "experts"], &["KEY=VALUE"]),
        ("factors", &["--only", "token-interaction", "--set", "world.nois=1"], &["nois", "noise", "world.json"]),
        ("factors", &["--only", "nobody"], &["nobody", "token-interaction, cba"]),
        ("factors", &["--sweep", "--only", "cba"], &["--sweep", "cannot be used with", "--only"]),
        ("pareto", &["--sweep"], &["--sweep", "no sweeps", "leave it out"]),
        ("factors", &["--figure", "x.svg"], &["--figure", "--sweep"]),
        ("frames", &["--seeds", "0"], &["--seeds", "1 to 100"]),
        ("frames", &["--generator", "other"], &["main or held-out"]),
    ] {
        let said = told(claim, tail);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not in: {said}");
    }
}

#[test]
fn a_step_in_chunks_is_a_setting_of_train_and_of_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (world(dir.path()), dir.path().join("run"));
    let with = |setting| [train(&world, at(&out)), vec!["--set", setting]].concat();
    let told = refused(&with("train.chunk=16"));
    assert!(told.contains("train.chunk") && told.contains("below train.batch"), "{told}");
    assert!(refused(&with("train.chunk=-1")).contains("train.chunk"));
    assert!(!out.exists());
    ok(&with("train.chunk=6"));
    assert!(ok(&["train", "--help"]).contains("train.chunk"));
    let plans = json(&["plan", "--model", "cba", "--batch", "64", "--chunk", "16", "--json"]);
    let names: Vec<&str> = plans.as_array().unwrap().iter().filter_map(|p| p["plan"].as_str()).collect();
    assert_eq!(names[..4], ["encode", "compare", "pull", "update"]);
}

#[test]
fn captions_become_texts_that_a_model_takes() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| at(&dir.path().join(name)).to_string();
    let encoder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/encoders/minilm");
    let (world, lines) = (place("world"), place("lines.txt"));
    ok(&["data", "world", "--out", &world, "--train", "12", "--val", "4", "--test", "6", "--dim", "16"]);
    let encode = ["encode", "texts", "--encoder", encoder, "--device", "cpu", "--json"];
    has(refused(&[&encode[..], &["--data", &world]].concat()), &["texts", "not empty"]);
    std::fs::remove_dir_all(dir.path().join("world/texts")).unwrap();
    let report = json(&[&encode[..], &["--data", &world]].concat());
    assert!(report["encoder"].as_str().unwrap().starts_with("minilm@") && report["dim"] == 24, "{report}");
    let found = json(&["data", "inspect", &place("world/texts"), "--json"]);
    assert_eq!(found["sources"][0]["count"], report["texts"]);
    assert_eq!(json(&["data", "check", &world, "--json"])["summary"]["errors"], 0);
    ok(&[&train(&world, &place("run"))[..], &["--model", "token-interaction", "--set", "train.epochs=1"]].concat());

    std::fs::write(&lines, "a guitar\n\n  the dog  \n").unwrap();
    let report = json(&[&encode[..], &["--lines", &lines, "--out", &place("queries")]].concat());
    assert_eq!((&report["texts"], &report["cut"]), (&2.into(), &0.into()));
    std::fs::write(&lines, [b'a', 0xff, b'\n']).unwrap();
    has(refused(&[&encode[..], &["--lines", &lines, "--out", &place("other")]].concat()), &["line 1", "UTF-8"]);
    has(refused(&["encode", "texts", "--encoder", &world, "--data", &world, "--out", &place("x")]), &["config.json"]);
}

/// Eight pictures of one colour each, under frames/, with captions.
fn films(dir: &Path) -> String {
    let films = dir.join("films");
    std::fs::create_dir_all(films.join("frames/v0")).unwrap();
    let mut lines = String::new();
    for (i, name) in ["black", "blue", "green", "cyan", "red", "pink", "yellow", "white"].into_iter().enumerate() {
        let colour = image::Rgb([0, 1, 2].map(|c| if i >> (2 - c) & 1 == 1 { 220u8 } else { 20 }));
        let place = if i == 0 { "frames/v0/1.png".into() } else { format!("frames/v{i}.png") };
        image::RgbImage::from_pixel(40, 30, colour).save(films.join(place)).unwrap();
        lines += &format!(
            "{{\"text_id\": \"t{i}\", \"video_id\": \"v{i}\", \"caption\": \"all {name}\", \"split\": \"train\"}}\n"
        );
    }
    std::fs::write(films.join("captions.jsonl"), lines).unwrap();
    at(&films).into()
}

#[test]
fn a_clip_from_nothing_learns_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| at(&dir.path().join(name)).to_string();
    let (films, clip, tuned) = (films(dir.path()), place("clip"), place("tuned"));
    let quiet = ["--device", "cpu", "--json", "--quiet"];
    let on = ["train", "--data", &films, "--set", "train.batch=8"];
    let new = [&on[..], &["--encoder", "new", "--out", &clip, "--set", "train.epochs=15"], &quiet].concat();
    let summary = json(&new);
    assert_eq!(summary["steps"], 15);
    assert!(summary["final_loss"].as_f64().unwrap() < 1.0, "{summary}");
    has(refused(&new), &["--resume"]);
    assert_eq!(json(&[&on[..3], &["--encoder", "new", "--out", &clip, "--resume"], &quiet].concat())["steps"], 15);
    let longer = ["--tune-encoder", "lora:4", "--set", "encoder.positions=48"];
    let again = [&on[..], &["--encoder", &clip, "--out", &tuned], &longer, &quiet].concat();
    assert!(json(&again)["parameters"].as_u64().unwrap() < 10_000);
    assert!(json(&["encode", "texts", "--encoder", &tuned, "--data", &films, "--json"])["texts"] == 8);
    let lines = place("lines.txt");
    std::fs::write(&lines, format!("all red\n{}\n", "all red ".repeat(40))).unwrap();
    for (name, more, cut) in [("own", &[][..], 1), ("long", &["--positions", "248"], 0)] {
        let out = place(name);
        let from = ["encode", "texts", "--encoder", &tuned, "--lines", &lines, "--out", &out, "--json"];
        let report = json(&[&from, more].concat());
        assert_eq!((&report["rows"], &report["cut"]), (&Value::from(3 + 81 - 34 * cut), &Value::from(cut)), "{report}");
        assert_eq!(report["encoder"].as_str().unwrap().ends_with(", 248 positions"), cut == 0, "{report}");
    }
    let tried = |more: &[&str]| refused(&[&on[..], &["--out", &place("x")], more].concat());
    has(tried(&["--encoder", &clip, "--tune-encoder", "some"]), &["lora:R", "last:N"]);
    has(tried(&["--encoder", &clip, "--set", "model.dim=8"]), &["--model"]);
    has(tried(&["--encoder", &clip, "--set", "encoder.tune=none"]), &["nothing to train"]);
    has(tried(&["--encoder", &clip, "--set", "encoder.positions=32"]), &["has 32", "33 to 512"]);
    std::fs::rename(dir.path().join("films/frames/v3.png"), dir.path().join("elsewhere.png")).unwrap();
    has(tried(&["--encoder", &clip]), &["v3", "no pictures"]);
}

#[test]
fn a_model_and_its_text_encoder_are_trained_together_and_go_apart() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| at(&dir.path().join(name)).to_string();
    let encoder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/encoders/minilm");
    let (world, out) = (place("world"), place("run"));
    ok(&["data", "world", "--out", &world, "--train", "60", "--val", "12", "--test", "6", "--dim", "16"]);
    std::fs::remove_dir_all(dir.path().join("world/texts")).unwrap();
    let with = ["--encoder", encoder, "--tune-encoder", "last:1", "--model", "token-interaction", "--json"];
    let summary = json(&[&train(&world, &out)[..], &with].concat());
    let tuned = format!("{out}/encoder");
    ok(&["encode", "texts", "--encoder", &tuned, "--data", &world, "--dtype", "f32", "--device", "cpu", "--quiet"]);
    let of = ["--data", &world, "--split", "val", "--device", "cpu", "--json"];
    let found = json(&[&["eval", "retrieval", "--model", &out], &of[..]].concat());
    let recall = |side: &str| found[side]["R@1"].as_f64().unwrap();
    let (apart, together) = ((recall("t2v") + recall("v2t")) / 2.0, summary["best_recall_at_1"].as_f64().unwrap());
    assert!((apart - together).abs() < 1e-6, "{apart} and {together}: {found}");
    has(refused(&[&train(&world, &place("x"))[..], &["--encoder", "new", "--model", "cba"]].concat()), &["--encoder"]);
    has(refused(&[&train(&world, &place("x"))[..], &["--encoder", encoder]].concat()), &["--model"]);
    has(refused(&[&train(&world, &place("x"))[..], &["--set", "encoder.alpha=8"]].concat()), &["--encoder"]);
    let stretched = [&with[..], &["--set", "encoder.positions=512"]].concat();
    has(refused(&[&train(&world, &place("x"))[..], &stretched].concat()), &["positions", "bert", "only CLIP"]);
}

#[test]
fn int8_is_for_what_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (world(dir.path()), dir.path().join("run"));
    let int8 = ["--precision", "int8"];
    has(refused(&[&train(&world, at(&out))[..], &int8].concat()), &["--precision", "no gradients"]);
    assert!(!out.join("model.safetensors").exists());
    has(refused(&["bench", "scoring", "--device", "cpu", "--precision", "int8"]), &["--precision", "weights"]);
    ok(&train(&world, at(&out)));
    let eval = ["eval", "retrieval", "--model", at(&out), "--data", &world, "--device", "cpu", "--json"];
    let report = json(&[&eval[..], &int8].concat());
    assert!(report.to_string().contains("int8 products"), "{report}");
    let encoder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/encoders/minilm");
    let lines = dir.path().join("lines.txt");
    std::fs::write(&lines, "a guitar\n").unwrap();
    let (texts, encode) = (dir.path().join("texts"), ["encode", "texts", "--device", "cpu", "--json"]);
    let from = ["--encoder", encoder, "--lines", at(&lines), "--out", at(&texts)];
    let report = json(&[&encode[..], &from, &int8].concat());
    assert!(report["device"].as_str().unwrap().contains("int8 products"), "{report}");
}
