//! The page of the demo on clips: the world and its trap to look at, who falls into it, and what each finds.

use super::super::parts;
use super::hits::{Answer, Asked, Hit, Is, frame, strip};
use super::{CAUSAL, FRAMES, HEAD, Outcome, PLAIN, Seen, rows};
use crate::data::worlds::rendered::{Clip, Rendered};
use crate::error::Result;
use crate::eval::wilson;
use crate::picture::strip::Strip;
use crate::picture::{Bars, Curves, Figure, Report, table};
use std::path::Path;

/// `train` are the clips that models learned from.
pub fn page(outcome: &Outcome, out: &Path, train: &[Clip], adversarial: &Seen) -> Result<Report> {
    let report = Report::new("Moviola demo: a shortcut in pixels, and who takes it")
        .text(format!(
            "{} clips were drawn just now, an encoder was trained to see their frames, and three models to find a clip by \
             a sentence; all of it took {:.0} s. The clips have a trap. The page shows how deep each model is in it.",
            outcome.encoder.clips + train.len() + outcome.world.val + 2 * outcome.world.test,
            outcome.seconds
        ))
        .section("A place that gives the answer away")
        .text(about_the_world(&outcome.world));
    let report = looks(report, out, train, adversarial)?;
    let report = numbers(report, outcome);
    let report = queries(report, outcome);
    let report = training(report, outcome);
    let (place, world) = (out.display(), &outcome.world);
    let text = outcome.queries.first().map_or("adv-clip0#0", |asked| &asked.text);
    Ok(report
        .section("Look further")
        .text(
            "Reasons for any pair, the table of a test, the clips of the tests as mp4 files (by ffmpeg), and the experiment \
             in full:",
        )
        .code(format!(
            "moviola explain --model {place}/{CAUSAL} --data {place}/world/adv --text {text} --out why.html\n\
             moviola eval retrieval --model {place}/{CAUSAL} --data {place}/world/adv\n\
             moviola data world --name rendered --out clips{}\n\
             moviola claims rendered-background",
            flags(world)
        )))
}

/// What a world is made with again, for people who want to see its tests: few clips to train on.
fn flags(w: &Rendered) -> String {
    let Rendered {
        seed, width, height, rho, delta, objects, absent, apart, order_share, cut_share, test, seconds, ..
    } = w;
    let usual = Rendered::default().seconds;
    let seconds =
        if *seconds == usual { String::new() } else { format!(" --set 'seconds=[{},{}]'", seconds.0, seconds.1) };
    format!(
        " --seed {seed} --train 24 --val 24 --test {test} \\\n    --set tied=colour --set width={width} --set height={height} \
         --set rho={rho} --set delta={delta} --set objects={objects} \\\n    --set absent={absent} --set apart={apart} \
         --set order_share={order_share} --set cut_share={cut_share}{seconds}"
    )
}

fn about_the_world(w: &Rendered) -> String {
    let [id, any, adv] = super::TESTS.map(|(_, _, called)| called);
    format!(
        "A clip of this world shows a place, a wall before which one coloured shape does something, and the place again. A \
         caption names colour, shape and action (“a yellow star spins”) and never the place.\n\
         \n\
         In {percent:.0} of 100 training clips the place is the one that goes with the object's colour. Who recognises the \
         place knows the colour without having looked at it. That is tempting: places are easy to tell, and the colours of \
         twins (red and orange, yellow and green, blue and purple, pink and white) are drawn so close that {delta:.0} % of \
         their difference is left. A model that goes by the place takes a shortcut.\n\
         \n\
         The tests find out; {test} clips each, every one with a twin that does the same in the neighbouring colour:\n\
         – {id}: other clips, the place goes with the colour as in training. The shortcut leads to the right colour.\n\
         – {any}: the place is any. The shortcut leads nowhere.\n\
         – {adv}: the same clips, each in the place that went with its twin's colour. The shortcut leads to the twin.",
        percent = 100.0 * w.rho,
        delta = 100.0 * w.delta,
        test = w.test,
    )
}

/// What goes with what, and clips to look at.
fn looks(report: Report, out: &Path, train: &[Clip], adversarial: &Seen) -> Result<Report> {
    let mut colours: Vec<&Clip> = vec![];
    for clip in train {
        let known = colours.iter().any(|c| c.truth.class == clip.truth.class);
        if !known && clip.truth.background == clip.truth.favourite && views(clip).is_some() {
            colours.push(clip);
        }
    }
    colours.sort_by_key(|clip| clip.truth.class);
    let (mut objects, mut places) = (vec![], vec![]);
    for (clip, (object, place)) in colours.iter().filter_map(|clip| Some((*clip, views(clip)?))) {
        objects.push((frame(clip, object, out)?, false));
        places.push((frame(clip, place, out)?, false));
    }
    let names = |of: &dyn Fn(&Clip) -> &'static str| colours.iter().map(|clip| of(clip).to_string()).collect();
    let pairs = [
        Strip::new("", objects).labels(names(&|clip| clip.truth.colour.name())).figure(),
        Strip::new("", places).labels(names(&|clip| clip.truth.background.name())).figure(),
    ];
    let report = report.figure(
        Figure::column("What goes with what in training", &pairs).svg(),
        "A training clip of each colour: above its object, below its place. Red and orange are each \
         other's twins, and so are yellow and green, blue and purple, pink and white.",
    );
    let asked = adversarial.asked(0);
    let twin = adversarial.twin(0).map(|place| adversarial.clip(place));
    // One that tells the same story, if there is any.
    let action = |clip: &Clip| clip.truth.events.first().map(|event| event.action);
    let alike = |clip: &&Clip| (clip.truth.shape == asked.truth.shape, action(clip) == action(asked));
    let of_colour =
        |clip: &&Clip| clip.truth.class == asked.truth.class && clip.truth.background == clip.truth.favourite;
    let usual = train.iter().filter(of_colour).max_by_key(alike);
    let mut strips = vec![];
    for (which, clip) in [("Training", usual), ("Twin's place", Some(asked)), ("Its twin", twin)] {
        let Some(clip) = clip else { continue };
        let told = clip.captions.first().map_or("", String::as_str);
        let title = format!("{which}, {}: “{told}”", clip.truth.background.name());
        strips.push(Strip::new(title, strip(clip, &[], out)?).figure());
    }
    let (own, other) = (asked.truth.colour.name(), twin.map_or("", |twin| twin.truth.colour.name()));
    Ok(report.figure(
        Figure::column("", &strips).svg(),
        format!(
            "In training {own} things are in their place; in the last test in that of {other} ones, and the twin is \
             {other}, in that of {own} ones. Who goes by places takes the third for the first. Models see {FRAMES} frames \
             of a clip, through the encoder; every other one is shown.",
        ),
    ))
}

/// Seconds at which a clip shows most of its object, and its place without it.
fn views(clip: &Clip) -> Option<(f32, f32)> {
    let second = |frame: usize| frame as f32 / clip.truth.fps;
    let area = |frame: usize| {
        let [left, top, right, bottom] = clip.truth.boxes.get(frame).copied().flatten()?;
        Some((right - left) * (bottom - top))
    };
    let frames = 0..clip.truth.frames;
    let largest = frames.clone().max_by_key(|frame| area(*frame)).filter(|frame| area(*frame).is_some())?;
    let empty = frames.map(second).find(|second| clip.scene.object(*second).is_none())?;
    Some((second(largest), empty))
}

/// The bars and the table, with the protocol.
fn numbers(report: Report, outcome: &Outcome) -> Report {
    let models = &outcome.models;
    let tests = models.first().map_or(&[][..], |m| &m.tests);
    let groups = tests.iter().map(|test| test.called.to_string()).collect();
    let mut colours = Bars::new("First video has the right colour", "queries (%)", groups);
    colours = colours.range(0.0, 100.0).size(760.0, 340.0);
    for m in models {
        let bar = |share: f64, queries| (share, Some(wilson(share, queries)));
        let values = m.tests.iter().map(|t| {
            let share = t.right_colour_first.unwrap_or(f64::NAN);
            bar(share, t.retrieval.protocol.texts)
        });
        colours = colours.series(m.model, values.collect());
    }
    report
        .section("Who goes by the place")
        .figure(
            colours.svg(),
            "How many queries find a clip of the colour that they ask for first. A model that looks at the object is as \
             good in any place; what a model loses from the left to the right is what it owed to the shortcut. Lines: \
             95 % interval of the queries (Wilson).",
        )
        .figure(
            parts::bars(models).svg(),
            "R@1: how many queries put their own clip first. That takes shape and action as well as colour; a mistake in any \
             of them counts.",
        )
        .table(
            table::plain(&HEAD, &rows(models)),
            format!(
                "R@1 in % in both directions, and in how many queries in % the first video has the right colour. {}. {}; the \
                 models of the last step. No model is told which frames are background. {}",
                parts::protocol(models),
                parts::training(models, outcome.world.train),
                parts::times(models)
            ),
        )
}

/// What both models find for some queries.
fn queries(report: Report, outcome: &Outcome) -> Report {
    let found = outcome.adversarial;
    let mut report = report.section("Queries and their hits").text(format!(
        "The last test: every clip is in its twin's place. A clip that has the place alone, and its twin's colour, comes \
         first for {} of {} queries with {PLAIN} and for {} with {CAUSAL}. {CAUSAL} has the right colour first and {PLAIN} \
         another for {}; the other way round it is for {}. {}",
        found.only_place[0],
        found.queries,
        found.only_place[1],
        found.better,
        found.worse,
        match (found.better, found.worse) {
            (0, 0) => "Here is one query for which they do not differ.",
            (_, 0) => "Here are some of the first kind, of different colours, those with the place alone before others.",
            (0, _) => "Here is one of the second kind.",
            (..) => {
                "Here are some of the first kind, of different colours, those with the place alone before others, and at the \
                 end one of the second kind."
            }
        }
    ));
    for asked in &outcome.queries {
        let sides: Vec<Figure> = asked.answers.iter().map(side).collect();
        let told: Vec<String> = asked.answers.iter().map(|answer| first(asked, answer)).collect();
        report = report.text(format!("“{}”", asked.caption)).figure(
            Figure::row("", &sides).svg(),
            format!(
                "Asked for: {}. The place of {} things in training: {}. {} Framed: what {CAUSAL} takes for foreground.",
                asked.colour,
                asked.colour,
                asked.place,
                told.join(" ")
            ),
        );
    }
    report
}

/// What a model puts first, in a sentence.
fn first(asked: &Asked, answer: &Answer) -> String {
    let Some(Hit { colour, place, is, .. }) = answer.hits.first() else { return String::new() };
    let what = match is {
        Is::RightClip => "the right clip".to_string(),
        Is::RightColour => format!("another clip of something {colour}"),
        Is::OnlyPlace => format!("something {colour} in the place of {} things: it has the place alone", asked.colour),
        Is::Neither => format!("something {colour} before {place}"),
    };
    format!("{} puts first {what}.", answer.model)
}

/// The hits of a model, best first.
fn side(answer: &Answer) -> Figure {
    let strip = |(rank, hit): (usize, &Hit)| {
        let left = format!("{}. {} {}, {}", rank + 1, hit.colour, hit.shape, hit.place);
        let right = format!("{} · {:.2}", hit.is.name(), hit.score);
        Strip::new("", hit.stills.clone()).height(80.0).verdict(hit.is.colour(), left, right).figure()
    };
    let strips: Vec<Figure> = answer.hits.iter().enumerate().map(strip).collect();
    Figure::column(answer.model, &strips)
}

fn training(report: Report, outcome: &Outcome) -> Report {
    let encoder = &outcome.encoder;
    let probe = |name: &str| encoder.probes.get(name).map_or("–".into(), |x| format!("{x:.0}"));
    let loss = Curves::new("Encoder", "step", "loss (nats)").size(760.0, 300.0);
    report
        .section("Training")
        .figure(
            loss.series("CLIP", parts::loss(&encoder.log)).svg(),
            format!(
                "The encoder: a CLIP of random weights at first, {} epochs of a frame each of {} clips in which any place \
                 goes with any colour; their captions name what the frame shows. It took {:.0} s, drawing included, and is \
                 never shown the trap. From its vectors of frames a linear probe reads the colour of the object in {} %, \
                 its shape in {} %, and the place in {} % (chance 12.5).",
                encoder.epochs,
                encoder.clips,
                encoder.training_seconds,
                probe("sees colour"),
                probe("sees shape"),
                probe("sees place"),
            ),
        )
        .figure(
            parts::losses(&outcome.models).svg(),
            "The sum of each model's losses. CBA's has terms that the others do not have, among them those of videos with \
             another's background; their heights cannot be compared.",
        )
}
