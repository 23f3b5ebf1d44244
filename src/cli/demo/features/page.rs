//! The page of the demo: what a spurious background is, who goes by it, and how one sees that in a single pair.

use super::example::{Example, Reasons};
use super::{CAUSAL, HEAD, Outcome, PLAIN, Trained, called, parts, rows};
use crate::cli::explain::figures::Size;
use crate::data::worlds::Made;
use crate::data::worlds::spurious_background::{Query, Test, Video};
use crate::error::Result;
use crate::picture::{Figure, Report, Rows, table};
use std::path::Path;

pub fn page(outcome: &Outcome, out: &Path, truth: &Made<Video, Query>) -> Result<Report> {
    let report = Report::new("Moviola demo: a shortcut, and how to see it")
        .text(format!(
            "Three models were trained just now on a world that was made for this page; all of it took {:.0} s. The world \
             has a trap. The page shows how deep each model is in it, and how one can tell.",
            outcome.seconds
        ))
        .section("A spurious background")
        .text(about_the_world(outcome));
    let report = numbers(report, outcome);
    let report = training(report, &outcome.models);
    let report = match &outcome.example {
        Some(example) => pair(report, outcome, example, truth)?,
        None => report.section("One query").text(format!(
            "There is no query in this test that {PLAIN} answers with the twin and {CAUSAL} with the right video; \
             with another --seed there may be."
        )),
    };
    let text = outcome.example.as_ref().map_or("test0-text0", |e| &e.text);
    let place = out.display();
    Ok(report.section("Look further").text("Reasons for any pair, and the experiment in full:").code(format!(
        "moviola explain --model {place}/{CAUSAL} --data {place}/world/tests/adv --text {text} --out why.html\n\
         moviola claims spurious-background"
    )))
}

fn about_the_world(outcome: &Outcome) -> String {
    let w = &outcome.world;
    format!(
        "A video of this world has {frames} frames. {events} events happen in it, {each} frames each, and behind all of it \
         lies one background, whose mark on a frame is {times} times as strong as an event's. A caption names the events \
         and never the background.\n\
         \n\
         In {percent:.0} of 100 training videos the background is the one that goes with one of the video's events. Who \
         recognises the background therefore knows that event without having seen it. Such a background is called \
         spurious: it comes with the event in the data at hand, and is not the event. A model that goes by it takes a \
         shortcut.\n\
         \n\
         The tests find out. Every event has a twin that looks almost the same, and every test video has a twin that \
         differs in that one event alone. {gallery} videos, the same events, three times other backgrounds:\n\
         – {id}: the background goes with the event as in training. The shortcut leads to the right video.\n\
         – {decor}: any background. The shortcut leads nowhere.\n\
         – {adv}: every video has the background of its twin. The shortcut leads to the wrong video.",
        frames = w.slots * w.slot_frames,
        events = w.events,
        each = w.slot_frames,
        times = w.beta / w.alpha,
        percent = 100.0 * w.rho_train,
        gallery = w.gallery,
        id = called(Test::Id),
        decor = called(Test::Decor),
        adv = called(Test::Adv),
    )
}

/// The bars and the table, with the protocol.
fn numbers(report: Report, outcome: &Outcome) -> Report {
    let models = &outcome.models;
    report
        .section("Where the shortcut is, and where it is not")
        .figure(
            parts::bars(models).svg(),
            "R@1: how many queries put the right one first. A model that looks at what happens is as good before any \
             background; what a model loses from the left bars to the right ones is what it owed to the shortcut. Lines: \
             95 % interval of the queries (Wilson).",
        )
        .table(
            table::plain(&HEAD, &rows(models)),
            format!(
                "R@1 in %, and how many queries of the last test find the twin first: the shortcut itself. {}. {}; after \
                 each epoch R@1 on validation videos with backgrounds as in training, the best kept. No model is told \
                 which frames are background. {}",
                parts::protocol(models),
                parts::training(models, outcome.world.train),
                parts::times(models)
            ),
        )
}

fn training(report: Report, models: &[Trained]) -> Report {
    report
        .section("Training")
        .figure(
            parts::validation(models).svg(),
            "R@1, mean of both directions, on validation videos, whose backgrounds are as in training: the curve of a \
             model that takes the shortcut rises as well as another's. It is not here that one sees it.",
        )
        .figure(
            parts::losses(models).svg(),
            "The sum of each model's losses. CBA's has terms that the others do not have, among them those of videos \
             with another's background; their heights cannot be compared.",
        )
}

/// One query: what two models see in the right video and in its twin.
fn pair(report: Report, outcome: &Outcome, e: &Example, truth: &Made<Video, Query>) -> Result<Report> {
    let about = format!(
        "“{}” asks for event{} among others; its twin shows event{} in its place. The right video has the background that \
         went with event{} in training, the twin the one that went with event{}. {PLAIN} puts the twin first, {CAUSAL} the \
         right video. There are {} such queries among {}; this is the first of them.",
        e.caption,
        e.event,
        e.instead,
        e.instead,
        e.event,
        outcome.examples,
        truth.queries.len()
    );
    let meters: Vec<Figure> = e.models.iter().map(meter).collect();
    let mut report = report.section("One query").text(about).figure(
        Figure::row("", &meters).svg(),
        "Scores of the text with both videos, and with those of their frames alone that show no event. Where “twin's \
         background” comes close to “twin”, a model has not looked further; where a background alone scores lower than \
         its video by much, something else made the score.",
    );
    for right in [true, false] {
        let (name, heading, video) =
            if right { ("right video", "The right video", e.right) } else { ("twin", "Its twin", e.twin) };
        let (asked, other) = events(e, video, truth);
        let (mut maps, mut lines) = (vec![], vec![]);
        for reasons in &e.models {
            let side = if right { &reasons.right } else { &reasons.twin };
            let (shown, title) = (&side.explanation, format!("{} · {name}", reasons.model));
            let known: [crate::cli::explain::figures::Truth; 2] = [("asked for", &asked, 2), ("not asked", &other, 1)];
            let known = if other.contains(&true) { &known[..] } else { &known[..1] };
            maps.extend(shown.map(&title, Size::Half)?);
            lines.extend(shown.over_time(&title, Size::Half, known));
        }
        report = report
            .figure(
                Figure::row("", &maps).svg(),
                format!(
                    "{heading}: a row a word of the query, a column a frame; bright where they meet (cosine), a box at each \
                     word's best frame. A model that has found an event meets its word in two neighbouring frames; a \
                     row that is bright in all frames has met the background."
                ),
            )
            .figure(
                Figure::row("", &lines).svg(),
                format!(
                    "{heading}: how relevant each frame is to the query (all frames sum to 1; dashed: what each would have \
                     if none stood out). Bars above: frames that truly show an event that the query asks for, or one that \
                     it does not, and the frames that {CAUSAL} takes for foreground."
                ),
            );
    }
    Ok(report)
}

fn meter(reasons: &Reasons) -> Figure {
    let (right, twin) = (&reasons.right, &reasons.twin);
    Rows::new(reasons.model, "score (mean cosine)")
        .width(450.0)
        .bar("right video", f64::from(right.explanation.score), 0)
        .bar("its background", f64::from(right.true_background_score), 1)
        .bar("twin", f64::from(twin.explanation.score), 0)
        .bar("twin's background", f64::from(twin.true_background_score), 1)
        .figure()
}

/// Frames of a video that show an event of the query, and those that show another.
fn events(e: &Example, video: usize, truth: &Made<Video, Query>) -> (Vec<bool>, Vec<bool>) {
    let frames = truth.videos.get(video).map(|v| v.frames.as_slice()).unwrap_or_default();
    let asked = truth.queries.get(e.query).map(|q| q.events.as_slice()).unwrap_or_default();
    let shows = |wanted: bool| frames.iter().map(|f| f.is_some_and(|event| asked.contains(&event) == wanted)).collect();
    (shows(true), shows(false))
}
