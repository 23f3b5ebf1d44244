//! Rendered clips: pixels, truth, captions and mp4 files agree, and the shortcut is where it is said to be.

mod seed;

use moviola::data::worlds::rendered::scene::Event;
use moviola::data::worlds::rendered::textures::Texture;
use moviola::data::worlds::rendered::words::{Action, Colour, Look, Shape};
use moviola::data::worlds::rendered::{Canvas, Clip, Mp4Writer, Rendered, Set, Truth, TwinKind};
use moviola::data::{Dataset, Split};
use rayon::prelude::*;
use seed::seed;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

fn small(seed: u64) -> Rendered {
    Rendered { seed, train: 24, val: 4, test: 6, seconds: (2.0, 2.6), ..Rendered::default() }
}

fn pixels(clip: &Clip) -> Vec<Canvas> {
    clip.frames().collect()
}

#[test]
fn a_seed_gives_the_same_pixels_in_any_order_and_another_seed_gives_others() {
    let world = small(seed());
    let clips = world.clips(Set::Train).unwrap();
    let once: Vec<Vec<Canvas>> = clips.iter().map(pixels).collect();
    let again: Vec<Vec<Canvas>> = world.clips(Set::Train).unwrap().par_iter().map(pixels).collect();
    assert!(once == again);
    // One by one and backwards, as with a shuffled loader.
    for (clip, frames) in clips.iter().zip(&once).rev() {
        let times: Vec<f32> = clip.times().collect();
        assert_eq!(frames.len(), clip.truth.frames);
        assert!(times.iter().zip(frames).rev().all(|(t, frame)| clip.frame(*t) == *frame));
    }
    let other = Rendered { seed: world.seed + 1, ..world.clone() }.clips(Set::Train).unwrap();
    assert!(clips.iter().zip(&other).filter(|(a, b)| pixels(a) != pixels(b)).count() >= 23);
    // More clips do not change those that were there; sides may be odd.
    let more = Rendered { train: 30, ..world.clone() }.clips(Set::Train).unwrap();
    assert!(clips[..22].iter().zip(&more).all(|(a, b)| a.frame(1.0) == b.frame(1.0)));
    let odd = Rendered { width: 97, height: 33, ..world }.clips(Set::Train).unwrap();
    assert!(odd.iter().all(|clip| pixels(clip).iter().all(|frame| frame.rgb.len() == 97 * 33 * 3)));
}

/// The hue of a colour: its direction from grey.
fn hue(rgb: [u8; 3]) -> [f32; 3] {
    let v = rgb.map(f32::from);
    let mean = v.iter().sum::<f32>() / 3.0;
    v.map(|c| c - mean)
}

fn near(a: [u8; 3], b: [u8; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (f32::from(*a) - f32::from(b)).powi(2)).sum::<f32>().sqrt()
}

#[test]
fn boxes_hold_the_colour_that_the_truth_names_and_nothing_moves_outside_them() {
    let world = Rendered { train: 80, ..small(seed()) };
    let mut seen = 0;
    for clip in world.clips(Set::Train).unwrap() {
        let (truth, frames) = (&clip.truth, pixels(&clip));
        for (frame, (picture, place)) in frames.iter().zip(&truth.boxes).enumerate() {
            let Some([left, top, right, bottom]) = *place else { continue };
            // Inside the picture, whole.
            assert!(left > 0 && top > 0 && right < truth.width && bottom < truth.height, "{}: {place:?}", clip.id);
            let fading = truth.events.iter().any(|e| matches!(e.action, Action::Appear | Action::Vanish));
            let inner = (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y)));
            let named = inner.filter(|(x, y)| {
                let best = Colour::ALL
                    .iter()
                    .min_by(|a, b| near(picture.at(*x, *y), a.rgb()).total_cmp(&near(picture.at(*x, *y), b.rgb())));
                best == Some(&truth.colour) && near(picture.at(*x, *y), truth.colour.rgb()) < 70.0
            });
            let share = named.count() as f32 / ((right - left) * (bottom - top)) as f32;
            assert!(fading || share > 0.14, "{} frame {frame}: {share} of {place:?} is {:?}", clip.id, truth.colour);
            seen += usize::from(!fading);
            // A pixel of the colour far from the box is none of the object's: shadows are grey, backgrounds muted.
            let strays = (0..truth.height).flat_map(|y| (0..truth.width).map(move |x| (x, y))).filter(|(x, y)| {
                let outside = *x + 1 < left || *x > right || *y + 1 < top || *y > bottom;
                outside && near(picture.at(*x, *y), truth.colour.rgb()) < 50.0
            });
            assert_eq!(strays.count(), 0, "{} frame {frame}: {:?} outside {place:?}", clip.id, truth.colour);
        }
    }
    assert!(seen > 500, "{seen}");
    assert!(Colour::ALL.iter().filter(|c| **c != Colour::White).all(|c| hue(c.rgb()).iter().any(|v| v.abs() > 40.0)));
}

#[test]
fn pictures_change_while_something_happens_and_at_cuts_and_never_else() {
    for clip in (Rendered { train: 80, ..small(seed()) }).clips(Set::Train).unwrap() {
        let (truth, frames, times) = (&clip.truth, pixels(&clip), clip.times().collect::<Vec<_>>());
        let mut changed = vec![0; truth.events.len()];
        let mut first: Vec<Option<f32>> = vec![None; truth.events.len()];
        for (two, at) in frames.windows(2).zip(times.windows(2)) {
            let cut = truth.cuts.iter().any(|cut| at[0] < *cut && *cut <= at[1]);
            let during = |e: &Event| e.seconds.0 < at[1] && at[0] < e.seconds.1;
            match truth.events.iter().position(during) {
                _ if cut => assert!(two[0] != two[1], "{}: no cut at {at:?}", clip.id),
                None => assert!(two[0] == two[1], "{}: {at:?} is outside {:?}", clip.id, truth.events),
                Some(e) if two[0] != two[1] => {
                    changed[e] += 1;
                    first[e].get_or_insert(at[1]);
                }
                Some(_) => {}
            }
        }
        for (event, (changed, first)) in truth.events.iter().zip(changed.iter().zip(first)) {
            let steps = (event.seconds.1 - event.seconds.0) * truth.fps;
            assert!(*changed as f32 >= 0.2 * steps, "{}: {changed} changes in {event:?}", clip.id);
            let late = first.unwrap() - event.seconds.0;
            assert!(late < 3.0 / truth.fps, "{}: {event:?} shows {late} s late", clip.id);
        }
        let windows: Vec<_> = truth.events.iter().map(|event| event.seconds).collect();
        assert!(windows.windows(2).all(|two| two[0].1 < two[1].0), "{windows:?}");
    }
}

#[test]
fn objects_go_where_the_action_says() {
    let world = Rendered { train: 400, order_share: 0.0, cut_share: 0.0, ..small(seed()) };
    let clips = world.clips(Set::Train).unwrap();
    let mut known = std::collections::HashSet::new();
    for clip in &clips {
        let truth = &clip.truth;
        let ([first, last], action) = ([truth.boxes[0], truth.boxes[truth.frames - 1]], truth.events[0].action);
        known.insert(action);
        let gone = |place: Option<[usize; 4]>| place.is_none();
        let middle = |[l, t, r, b]: [usize; 4]| [(l + r) as f32 / 2.0, (t + b) as f32 / 2.0];
        let area = |[l, t, r, b]: [usize; 4]| ((r - l) * (b - t)) as f32;
        match action {
            Action::Appear => assert!(gone(first) && !gone(last)),
            Action::Vanish => assert!(!gone(first) && gone(last)),
            _ => {
                let (first, last) = (first.unwrap(), last.unwrap());
                let [dx, dy] = [0, 1].map(|axis| middle(last)[axis] - middle(first)[axis]);
                let grown = area(last) / area(first);
                let right = match action {
                    Action::Left => dx < -30.0 && dy.abs() < 2.0,
                    Action::Right => dx > 30.0 && dy.abs() < 2.0,
                    Action::Up => dy < -20.0 && dx.abs() < 2.0,
                    Action::Down => dy > 20.0 && dx.abs() < 2.0,
                    Action::Grow => grown > 2.0,
                    Action::Shrink => grown < 0.4,
                    _ => first == last,
                };
                assert!(right, "{action:?}: {first:?} to {last:?}");
            }
        }
        if action == Action::Blink {
            assert!(truth.boxes.iter().any(|place| gone(*place)));
        }
    }
    assert_eq!(known.len(), Action::ALL.len());
}

/// How closely backgrounds follow shapes: 0 by chance, 1 always.
fn correlation(world: &Rendered, clips: &[Clip]) -> f32 {
    let own = clips.iter().filter(|c| c.truth.background == world.favourite(c.truth.class)).count();
    let chance = 1.0 / Texture::ALL.len() as f32;
    (own as f32 / clips.len() as f32 - chance) / (1.0 - chance)
}

#[test]
fn backgrounds_follow_shapes_or_colours_in_training_only_and_never_in_the_adversarial_test() {
    let seed = seed();
    let shapes = [0.0, 0.5, 0.9, 1.0].map(|rho| (Look::Shape, rho));
    for (tied, rho) in shapes.into_iter().chain([(Look::Colour, 0.9)]) {
        let world = Rendered { tied, rho, train: 3000, test: 400, ..small(seed) };
        let found = correlation(&world, &world.clips(Set::Train).unwrap());
        assert!((found - rho).abs() < 0.06, "{found} for {rho}");
        let [test, adv] = [Set::Test, Set::Adv].map(|set| world.clips(set).unwrap());
        let found = correlation(&world, &test);
        assert!(found.abs() < 0.15, "{found} in the test");
        for (test, adv) in test.iter().zip(&adv) {
            let own = world.favourite(adv.truth.class);
            assert!(adv.truth.shots.iter().all(|shot| shot.background != own));
            assert_eq!(adv.truth.background, world.favourite(adv.truth.class ^ 1));
            // The tests differ in nothing but the background.
            assert_eq!((&test.captions, &test.truth.events), (&adv.captions, &adv.truth.events));
            assert_eq!(test.truth.boxes, adv.truth.boxes);
        }
    }
    let favourites: std::collections::HashSet<_> = (0..8).map(|class| small(seed).favourite(class)).collect();
    assert_eq!(favourites.len(), Texture::ALL.len());
}

#[test]
fn the_colour_of_the_background_gives_the_shape_away_in_training_and_not_in_the_test() {
    let world = Rendered { train: 400, test: 400, cut_share: 0.0, width: 48, height: 48, ..small(seed()) };
    // Mean colour of the outermost pixels, where no object is; one clip of twins, which share their background.
    let seen = |set: Set| -> Vec<(usize, [f32; 3])> {
        let clips = world.clips(set).unwrap();
        let leaders = clips.iter().step_by(if set == Set::Train { 1 } else { 2 });
        let border = |clip: &Clip| {
            let frame = clip.frame(0.0);
            let mut mean = [0.0; 3];
            for i in 0..48 {
                for (x, y) in [(i, 0), (i, 47), (0, i), (47, i)] {
                    mean.iter_mut().zip(frame.at(x, y)).for_each(|(m, c)| *m += f32::from(c) / 192.0);
                }
            }
            mean
        };
        leaders.map(|clip| (clip.truth.class, border(clip))).collect()
    };
    let (train, test) = (seen(Set::Train), seen(Set::Test));
    // A linear probe: the nearest mean colour of a class.
    let classes: Vec<[f32; 3]> = (0..Shape::ALL.len())
        .map(|class| {
            let own: Vec<_> = train.iter().filter(|(of, _)| *of == class).collect();
            [0, 1, 2].map(|c| own.iter().map(|(_, rgb)| rgb[c]).sum::<f32>() / own.len() as f32)
        })
        .collect();
    let accuracy = |set: &[(usize, [f32; 3])]| {
        let far = |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let guess = |rgb: &[f32; 3]| (0..8).min_by(|a, b| far(&classes[*a], rgb).total_cmp(&far(&classes[*b], rgb)));
        set.iter().filter(|(class, rgb)| guess(rgb) == Some(*class)).count() as f32 / set.len() as f32
    };
    let (learned, tested) = (accuracy(&train), accuracy(&test));
    println!("probe: {learned} in training, {tested} in the test");
    assert!(learned > 0.5, "there is no shortcut: {learned}");
    assert!(tested < 0.25, "chance is 0.125: {tested}");
}

#[test]
fn objects_come_and_go_and_are_filmed_apart() {
    let base = Rendered { train: 60, cut_share: 0.0, order_share: 0.3, ..small(seed()) };
    let grey = |rgb: [u8; 3]| rgb.iter().all(|c| c.abs_diff(rgb[0]) <= 4);
    for (absent, apart) in [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.7, 0.4)] {
        let world = Rendered { absent, apart, ..base.clone() };
        let (mut walls, mut clips) = (0, 0);
        for clip in world.clips(Set::Train).unwrap() {
            let (truth, frames) = (&clip.truth, pixels(&clip));
            let there: Vec<bool> = clip.times().map(|t| clip.scene.object(t).is_some()).collect();
            let gone = there.iter().filter(|there| !**there).count() as f32;
            assert!((gone / there.len() as f32 - absent).abs() < 0.05, "{}: {gone} of {}", clip.id, there.len());
            // In one piece, and events happen in it.
            assert!(there.windows(2).filter(|two| two[0] != two[1]).count() <= 2);
            let (first, last) = (there.iter().position(|t| *t).unwrap(), there.iter().rposition(|t| *t).unwrap());
            let within = |second: f32| (first as f32 - 0.01..=last as f32 + 1.01).contains(&(second * truth.fps));
            assert!(truth.events.iter().all(|e| within(e.seconds.0) && within(e.seconds.1)), "{}", clip.id);
            // Without the object there is the place and nothing else.
            let shot = |t: usize| clip.scene.shot(t as f32 / truth.fps).unwrap().background;
            let places: Vec<usize> = (0..frames.len()).filter(|t| !there[*t]).collect();
            assert!(places.iter().all(|t| shot(*t) == truth.background && frames[*t] == frames[places[0]]));
            let wall = shot(first) == Texture::Plain;
            assert!(wall || shot(first) == truth.background);
            assert_eq!(
                wall,
                grey(frames[first].at(0, 0)) && grey(frames[first].at(0, truth.height - 1)),
                "{}",
                clip.id
            );
            // A cut is where the place changes, and only there.
            assert_eq!(
                truth.cuts.len(),
                if wall { usize::from(first > 0) + usize::from(last + 1 < there.len()) } else { 0 }
            );
            (walls, clips) = (walls + usize::from(wall), clips + 1);
        }
        assert!((walls as f32 / clips as f32 - apart).abs() < 0.25, "{walls} of {clips} for {apart}");
        assert!(apart > 0.0 || walls == 0);
        assert!(apart < 1.0 || walls == clips);
    }
}

#[test]
fn colours_come_closer_and_objects_grow_as_told() {
    for colour in Colour::ALL {
        assert_eq!(colour.rgb_among(1.0), colour.rgb());
        assert_eq!(colour.rgb_among(0.0), colour.twin().rgb_among(0.0));
        let far = |share: f32| near(colour.rgb_among(share), colour.twin().rgb_among(share));
        assert!((far(0.35) / far(1.0) - 0.35).abs() < 0.02, "{colour:?}");
    }
    let base = small(seed());
    let areas = |objects: f32| -> Vec<f32> {
        let clips = Rendered { objects, order_share: 0.0, ..base.clone() }.clips(Set::Train).unwrap();
        let area = |clip: &Clip| {
            let [left, top, right, bottom] = clip.truth.boxes.iter().flatten().next().copied().unwrap();
            ((right - left) * (bottom - top)) as f32
        };
        clips.iter().map(area).collect()
    };
    let (usual, large) = (areas(1.0), areas(1.3));
    let ratio = large.iter().zip(&usual).map(|(l, u)| l / u).sum::<f32>() / usual.len() as f32;
    assert!((1.5..1.9).contains(&ratio), "1.69 and not {ratio}");
    for (key, bad) in [("delta", 1.5), ("objects", 2.0), ("absent", 0.9), ("apart", -0.1)] {
        let mut value = serde_json::to_value(&base).unwrap();
        value[key] = bad.into();
        let world: Rendered = serde_json::from_value(value).unwrap();
        let error = world.clips(Set::Train).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn captions_name_object_colour_and_actions_and_never_the_background() {
    let world = Rendered { train: 500, captions: 4, ..small(seed()) };
    for set in Set::ALL {
        for clip in world.clips(set).unwrap() {
            let mut different = clip.captions.clone();
            different.sort();
            different.dedup();
            assert_eq!(different.len(), 4);
            for caption in &clip.captions {
                let words: Vec<&str> = caption.split(|c: char| !c.is_alphabetic()).collect();
                assert!(words.contains(&clip.truth.shape.name()) && words.contains(&clip.truth.colour.name()));
                let colours = Colour::ALL.iter().filter(|colour| words.contains(&colour.name())).count();
                assert_eq!(colours, 1, "{caption}");
                assert!(!caption.contains("a orange"), "{caption}");
                for texture in Texture::ALL {
                    let stem = texture.name().trim_end_matches('s');
                    assert!(!caption.contains(stem), "{caption}");
                }
                // Actions in the order in which they happen.
                let places: Vec<usize> = clip
                    .truth
                    .events
                    .iter()
                    .map(|event| {
                        let told = event.action.phrases().iter().filter_map(|phrase| caption.find(phrase)).min();
                        told.unwrap_or_else(|| panic!("{:?} is not in {caption:?}", event.action))
                    })
                    .collect();
                assert!(places.is_sorted(), "{caption}");
            }
        }
    }
}

#[test]
fn twins_differ_in_their_order_or_their_look_alone() {
    let world = |tied| Rendered { tied, train: 200, val: 60, test: 60, ..small(seed()) };
    for (tied, set) in Look::ALL.iter().flat_map(|look| Set::ALL.map(|set| (*look, set))) {
        let world = world(tied);
        let clips = world.clips(set).unwrap();
        let (mut orders, mut stories) = (0, std::collections::HashSet::new());
        for clip in &clips {
            let actions: Vec<Action> = clip.truth.events.iter().map(|e| e.action).collect();
            let new = stories.insert((clip.truth.shape, clip.truth.colour, actions.clone()));
            assert!(new || set == Set::Train, "two clips of {set:?} tell the same");
            let Some(twin) = &clip.truth.twin else {
                assert_eq!((set, actions.len()), (Set::Train, 1));
                continue;
            };
            let other = clips.iter().find(|c| c.id == twin.video_id).unwrap();
            assert_eq!(other.truth.twin.as_ref().unwrap().video_id, clip.id);
            let look = |t: &Truth| (t.shape, t.colour);
            assert_eq!(other.scene.start, clip.scene.start);
            let theirs: Vec<Action> = other.truth.events.iter().map(|e| e.action).collect();
            match twin.kind {
                TwinKind::Order => {
                    orders += 1;
                    assert_eq!(theirs.into_iter().rev().collect::<Vec<_>>(), actions);
                    assert_eq!(look(&other.truth), look(&clip.truth));
                    assert_eq!(other.truth.background, clip.truth.background);
                }
                TwinKind::Look => {
                    let twin = match (tied, look(&clip.truth)) {
                        (Look::Shape, (shape, colour)) => (shape.twin(), colour),
                        (Look::Colour, (shape, colour)) => (shape, colour.twin()),
                    };
                    assert_eq!((look(&other.truth), theirs), (twin, actions));
                    // In validation each has its own favourite, as in training.
                    if set != Set::Val {
                        assert_eq!(other.truth.background == clip.truth.background, set == Set::Test);
                    }
                }
            }
        }
        assert!(orders > 0, "{set:?}");
    }
}

fn probe(file: &Path) -> Value {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "json", "-show_entries"])
        .arg("stream=width,height,avg_frame_rate,nb_read_frames,codec_name")
        .arg(file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice::<Value>(&out.stdout).unwrap()["streams"][0].clone()
}

fn write(world: &Rendered, out: &Path, ffmpeg: &Mp4Writer, stop: &AtomicBool) -> moviola::error::Result<()> {
    world.write(out, ffmpeg, &|_, _| {}, stop).map(drop)
}

#[test]
fn mp4_files_have_the_frames_rate_and_size_of_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let ffmpeg = Mp4Writer::find().unwrap();
    for (name, (width, height), fps) in [("even", (128, 96), 10.0), ("odd", (97, 65), 12.5)] {
        let world = Rendered { train: 4, val: 2, test: 2, width, height, fps, ..small(3) };
        let out = dir.path().join(name);
        write(&world, &out, &ffmpeg, &AtomicBool::new(false)).unwrap();
        for (folder, clips) in [(out.clone(), 8), (out.join("tests/adv"), 2)] {
            let truth = std::fs::read_to_string(folder.join("truth.jsonl")).unwrap();
            let lines: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), clips);
            for line in &lines {
                let found = probe(&folder.join(format!("clips/{}.mp4", line["video_id"].as_str().unwrap())));
                assert_eq!(found["nb_read_frames"].as_str().unwrap(), line["frames"].to_string());
                assert_eq!((&found["width"], &found["height"]), (&Value::from(width), &Value::from(height)));
                let (above, below) = found["avg_frame_rate"].as_str().unwrap().split_once('/').unwrap();
                assert_eq!(above.parse::<f32>().unwrap() / below.parse::<f32>().unwrap(), fps);
            }
            assert_eq!(Dataset::captions_of(&folder, None).unwrap().len(), 2 * clips);
        }
        let preview = std::fs::read(out.join("preview.png")).unwrap();
        assert!(preview.starts_with(b"\x89PNG"));
        let parameters: Value = serde_json::from_slice(&std::fs::read(out.join("world.json")).unwrap()).unwrap();
        assert_eq!(serde_json::from_value::<Rendered>(parameters["parameters"].clone()).unwrap(), world);
        let again = write(&world, &out, &ffmpeg, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
    }
    // Decoded pixels are those that were drawn, but for compression.
    let clip = &Rendered { train: 4, val: 2, test: 2, ..small(3) }.clips(Set::Train).unwrap()[0];
    let file = dir.path().join("even/clips").join(format!("{}.mp4", clip.id));
    let mut decode = Command::new("ffmpeg");
    decode.args(["-v", "error", "-i"]).arg(&file).args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]);
    let raw = decode.output().unwrap().stdout;
    let drawn: Vec<u8> = clip.frames().flat_map(|frame| frame.rgb).collect();
    assert_eq!(raw.len(), drawn.len());
    let off: f64 = raw.iter().zip(&drawn).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / raw.len() as f64;
    assert!(off < 6.0, "{off}");
    assert_eq!(clip.split, Split::Train);
}

/// A program that says which encoders it has and then does as told.
#[cfg(unix)]
fn pretend(dir: &Path, encoders: &str, then: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(format!("ffmpeg-{}", then.len() + encoders.len()));
    let script = format!("#!/bin/sh\ncase \"$*\" in *-encoders*) echo '{encoders}'; exit 0;; esac\n{then}\n");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[cfg(unix)]
#[test]
fn programs_that_are_missing_or_fail_are_named_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (tools, out) = (dir.path().join("tools"), dir.path().join("here"));
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    let missing = Mp4Writer::at(&tools.join("no-such")).unwrap_err().to_string();
    assert!(missing.contains("was not found") && missing.contains("apt install ffmpeg"), "{missing}");
    let bare = Mp4Writer::at(&pretend(&tools, " V..... vp9  VP9", "exit 0")).unwrap_err().to_string();
    assert!(bare.contains("libx264") && bare.contains("install"), "{bare}");
    let old = Mp4Writer::at(&pretend(&tools, " V..... mpeg4  MPEG-4", "exit 0")).unwrap();
    assert_eq!(old.encoder, "mpeg4");
    let world = Rendered { train: 4, val: 2, test: 2, ..small(1) };
    let full = "echo 'out.mp4: No space left on device' >&2; exit 1";
    let many =
        "i=0; while [ $i -lt 9000 ]; do echo \"complaint number $i of a long list\" >&2; i=$((i+1)); done; exit 3";
    for (then, words) in [(full, "free some space"), (many, "failed"), ("exit 0", "could not write")] {
        let ffmpeg = Mp4Writer::at(&pretend(&tools, " V....D libx264  H.264", then)).unwrap();
        let error = write(&world, &out.join("world"), &ffmpeg, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "{error}");
    }
}

#[test]
fn a_stopped_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (stop, ffmpeg) = (AtomicBool::new(false), Mp4Writer::find().unwrap());
    let told = |_: usize, _: usize| stop.store(true, Ordering::Relaxed);
    let stopped = small(2).write(&dir.path().join("world"), &ffmpeg, &told, &stop);
    assert!(matches!(stopped, Err(moviola::error::Error::Stopped)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn impossible_parameters_are_named() {
    for (world, key) in [
        (Rendered { width: 8, ..small(1) }, "width"),
        (Rendered { height: 9000, ..small(1) }, "height"),
        (Rendered { test: 7, ..small(1) }, "test"),
        (Rendered { test: 100_000, ..small(1) }, "test"),
        (Rendered { train: usize::MAX, ..small(1) }, "train"),
        (Rendered { fps: f32::NAN, ..small(1) }, "fps"),
        (Rendered { seconds: (3.0, 2.0), ..small(1) }, "seconds"),
        (Rendered { captions: 5, ..small(1) }, "captions"),
        (Rendered { rho: 1.1, ..small(1) }, "rho"),
    ] {
        let error = world.clips(Set::Test).unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_command_writes_a_folder_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("world");
    let run = |path: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moviola"));
        command.args(["data", "world", "--name", "rendered", "--train", "4", "--val", "2", "--test", "2", "--json"]);
        command.args(["--set", "seconds=[2, 2.5]", "--set", "rho=1", "--out"]).arg(&out);
        path.map(|path| command.env("PATH", path));
        command.output().unwrap()
    };
    let missing = run(Some(dir.path()));
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("apt install ffmpeg"));
    assert!(!out.exists());
    let report: Value = serde_json::from_slice(&run(None).stdout).unwrap();
    assert_eq!((&report["train"], &report["adv"], &report["world"]["rho"]), (&4.into(), &2.into(), &1.0.into()));
    assert!(out.join("clips/test-clip1.mp4").exists() && out.join("tests/adv/clips/adv-clip0.mp4").exists());
}
