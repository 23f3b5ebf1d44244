//! The world's parameters, and the clips they make.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::NAME;
use super::draw::Canvas;
use super::scene::{Event, Scene, Shot, room};
use super::textures::Texture;
use super::words::{Action, Colour, Look, Shape, Size, Story, TELLINGS, caption};
use crate::data::layout::Split;
use crate::data::worlds::common::{Part, at_least, within};
use crate::error::{Error, Result};
use crate::random::Random;

/// Draws for one new story before a world is said to be too small for its gallery.
const PATIENCE: usize = 2000;
/// Pixels of a side.
const SIDES: (usize, usize) = (32, 1024);
/// Clips of a set; ids and truth of all are in memory at once.
const MOST_CLIPS: usize = 1 << 20;
/// What is left of a shot has to do for two events.
const MOST_ABSENT: f32 = 0.75;
/// Seconds of a shot without the object.
const EMPTY: (f32, f32) = (0.6, 1.0);

/// The parameters; `default()` makes 400 clips.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rendered {
    pub seed: u64,
    /// Clips to train on.
    pub train: usize,
    /// Clips of the validation, half of them twins of the others.
    pub val: usize,
    /// Clips of each of the two tests, half of them twins of the others.
    pub test: usize,
    /// Different captions a clip, at most 4.
    pub captions: usize,
    /// Pixels.
    pub width: usize,
    pub height: usize,
    /// Frames a second.
    pub fps: f32,
    /// Shortest and longest clip.
    pub seconds: (f32, f32),
    /// What backgrounds go with.
    pub tied: Look,
    /// How often a clip has the favourite background of its shape (or colour), in training and validation; else it has
    /// any.
    pub rho: f32,
    /// Share of the stories that hold two events and have a twin with their order swapped.
    pub order_share: f32,
    /// Share of the clips with a hard cut from or to a place without the object.
    pub cut_share: f32,
    /// Share of the clips whose object is filmed apart, before a wall, so that the background is seen without it alone.
    pub apart: f32,
    /// How much the colours of twins differ, in shares of what they usually do.
    pub delta: f32,
    /// How large objects are, in shares of their usual size.
    pub objects: f32,
    /// Share of its shot for which an object is not there: it comes in and goes, and the place stays.
    pub absent: f32,
}

impl Default for Rendered {
    fn default() -> Self {
        Self {
            seed: 1,
            train: 240,
            val: 32,
            test: 64,
            captions: 2,
            width: 128,
            height: 96,
            fps: 10.0,
            seconds: (2.5, 5.0),
            tied: Look::Shape,
            rho: 0.9,
            order_share: 0.35,
            cut_share: 0.3,
            apart: 0.0,
            delta: 1.0,
            objects: 1.0,
            absent: 0.0,
        }
    }
}

/// A set of clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    Train,
    /// As in training.
    Val,
    /// Backgrounds are independent of shapes.
    Test,
    /// The test, each clip before the favourite background of its twin.
    Adv,
}

impl Set {
    pub const ALL: [Self; 4] = [Self::Train, Self::Val, Self::Test, Self::Adv];

    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
            Self::Adv => "adv",
        }
    }

    pub fn split(self) -> Split {
        match self {
            Self::Train => Split::Train,
            Self::Val => Split::Val,
            Self::Test | Self::Adv => Split::Test,
        }
    }
}

/// How a clip differs from its twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwinKind {
    /// The same two events in the other order.
    Order,
    /// Another shape (or colour); in `adv` also another background, so that each has the other's favourite.
    Look,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    pub video_id: String,
    pub kind: TwinKind,
}

/// All there is to know about a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    pub frames: usize,
    pub fps: f32,
    pub width: usize,
    pub height: usize,
    pub shape: Shape,
    pub colour: Colour,
    pub size: Size,
    /// Position of the shape (or colour) among all.
    pub class: usize,
    pub events: Vec<Event>,
    /// Behind the object.
    pub background: Texture,
    /// The favourite of the class.
    pub favourite: Texture,
    pub shots: Vec<Shot>,
    /// Seconds.
    pub cuts: Vec<f32>,
    /// Of each frame: where the object is, `[left, top, right, bottom]` in pixels, the last two not part of it.
    pub boxes: Vec<Option<[usize; 4]>>,
    pub twin: Option<Twin>,
}

/// A video, as pictures on demand.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    pub id: String,
    pub split: Split,
    pub captions: Vec<String>,
    pub truth: Truth,
    pub scene: Scene,
}

impl Clip {
    /// The picture at this time.
    pub fn frame(&self, seconds: f32) -> Canvas {
        self.scene.frame(seconds)
    }

    /// Seconds of each frame.
    pub fn times(&self) -> impl Iterator<Item = f32> + use<> {
        let fps = self.truth.fps;
        (0..self.truth.frames).map(move |frame| frame as f32 / fps)
    }

    /// All frames in their order.
    pub fn frames(&self) -> impl Iterator<Item = Canvas> {
        self.scene.frames(self.times())
    }

    /// The id of a caption.
    pub fn text_id(&self, caption: usize) -> String {
        format!("{}#{caption}", self.id)
    }
}

/// A story's place in a set and how it is told.
#[derive(Debug, Clone, Copy)]
struct Planned {
    story: Story,
    /// Place of the first of two twins; its own without a twin.
    leader: usize,
    /// Place and kind.
    twin: Option<(usize, TwinKind)>,
}

impl Rendered {
    /// The clips of a set, without their pixels.
    ///
    /// # Errors
    /// [`Error::Config`] for parameters that make no world.
    pub fn clips(&self, set: Set) -> Result<Vec<Clip>> {
        self.validate()?;
        let planned = self.plan(set)?;
        Ok(planned.iter().enumerate().map(|(i, planned)| self.clip(set, i, planned)).collect())
    }

    /// The background that a class has most often in training; each class has another.
    pub fn favourite(&self, class: usize) -> Texture {
        let order = self.part("world").random("favourites", 0).permutation(Texture::ALL.len());
        let place = order.get(class).copied().unwrap_or(0);
        Texture::ALL.get(place).copied().unwrap_or(Texture::Stripes)
    }

    /// Refuses parameters that make no world.
    pub(super) fn validate(&self) -> Result<()> {
        for (key, value, even) in [("train", self.train, false), ("val", self.val, true), ("test", self.test, true)] {
            at_least(key, value, 2)?;
            if value > MOST_CLIPS {
                return Err(Error::config(key, format!("{value} clips are too many"), format!("make {MOST_CLIPS}")));
            }
            if even && !value.is_multiple_of(2) {
                return Err(Error::config(
                    key,
                    format!("{value} is odd, and each clip has a twin"),
                    "give an even number",
                ));
            }
        }
        for (key, side) in [("width", self.width), ("height", self.height)] {
            if !(SIDES.0..=SIDES.1).contains(&side) {
                let fix = format!("give {} to {} pixels", SIDES.0, SIDES.1);
                return Err(Error::config(key, format!("{side} is outside its range"), fix));
            }
        }
        if !(1..=TELLINGS).contains(&self.captions) {
            let what = format!("{} captions a clip", self.captions);
            return Err(Error::config("captions", what, format!("give 1 to {TELLINGS}")));
        }
        within("fps", self.fps, 4.0, 60.0)?;
        within("seconds", self.seconds.0, 2.0, 60.0)?;
        within("seconds", self.seconds.1, self.seconds.0, 60.0)?;
        within("rho", self.rho, 0.0, 1.0)?;
        within("order_share", self.order_share, 0.0, 1.0)?;
        within("cut_share", self.cut_share, 0.0, 1.0)?;
        within("apart", self.apart, 0.0, 1.0)?;
        within("delta", self.delta, 0.0, 1.0)?;
        // Two events in a row need more room than a large object leaves.
        within("objects", self.objects, 0.2, if self.order_share > 0.0 { 1.0 } else { 1.3 })?;
        within("absent", self.absent, 0.0, MOST_ABSENT)
    }

    fn part<'a>(&self, name: &'a str) -> Part<'a> {
        Part { seed: self.seed, world: NAME, name }
    }

    /// Both tests tell the same stories in the same places.
    fn told(set: Set) -> &'static str {
        if set == Set::Adv { Set::Test.name() } else { set.name() }
    }

    /// Which stories a set tells. Outside training, no two are the same and all have twins.
    fn plan(&self, set: Set) -> Result<Vec<Planned>> {
        let clips = match set {
            Set::Train => self.train,
            Set::Val => self.val,
            Set::Test | Set::Adv => self.test,
        };
        let part = self.part(Self::told(set));
        let (mut planned, mut known, mut failed) = (Vec::with_capacity(clips), HashSet::new(), 0);
        for draw in 0.. {
            let at = planned.len();
            if at >= clips {
                break;
            }
            let story = self.story(part.random("story", draw), at + 1 < clips);
            let (twin, kind) = match story.actions {
                (one, Some(two)) => (Some(Story { actions: (two, Some(one)), ..story }), TwinKind::Order),
                _ if set != Set::Train => (Some(story.twin(self.tied)), TwinKind::Look),
                _ => (None, TwinKind::Look),
            };
            if set != Set::Train && (known.contains(&story) || twin.is_some_and(|twin| known.contains(&twin))) {
                failed += 1;
                if failed > PATIENCE {
                    let key = Self::told(set);
                    return Err(Error::config(key, format!("there are no {clips} different stories"), "make fewer"));
                }
                continue;
            }
            failed = 0;
            known.insert(story);
            planned.push(Planned { story, leader: at, twin: twin.map(|_| (at + 1, kind)) });
            if let Some(twin) = twin {
                known.insert(twin);
                planned.push(Planned { story: twin, leader: at, twin: Some((at, kind)) });
            }
        }
        Ok(planned)
    }

    fn story(&self, random: Random, room_for_two: bool) -> Story {
        let shape = pick(Shape::ALL, random, 0).unwrap_or(Shape::Circle);
        let colour = pick(Colour::ALL, random, 1).unwrap_or(Colour::Red);
        let two = room_for_two && random.uniform(2) < self.order_share;
        let all = if two { Action::lasting() } else { Action::ALL };
        // A twin is of the other shape, which has to turn as well.
        let turns = shape.turns() && shape.twin().turns();
        let actions: Vec<Action> = all.iter().copied().filter(|a| turns || *a != Action::Spin).collect();
        let one = pick(&actions, random, 3).unwrap_or(Action::Left);
        let others: Vec<Action> = actions.into_iter().filter(|a| *a != one).collect();
        let second = if two { pick(&others, random, 4) } else { None };
        Story { shape, colour, actions: (one, second) }
    }

    fn clip(&self, set: Set, i: usize, planned: &Planned) -> Clip {
        let id = |place: usize| format!("{}-clip{place}", set.name());
        let Planned { story, leader, twin } = *planned;
        let part = self.part(Self::told(set));
        // What twins share is drawn for the first of them.
        let draw = part.random("place", leader);
        let size = pick(Size::ALL, draw, 0).unwrap_or(Size::Big);
        let [x, y] = room((self.width, self.height), self.objects * size.radius(), story.actions());
        let between = |(from, to): (f32, f32), index: u64| match from < to {
            true => from + (to - from) * draw.uniform(index),
            // There is no room to choose.
            false => (from + to) / 2.0,
        };
        let start = (between(x, 1), between(y, 2));
        let frames = (between(self.seconds, 3) * self.fps).round() as usize;
        let end = frames as f32 / self.fps;
        let empty = (between(EMPTY, 4) * self.fps).round() / self.fps;
        let (from, to) = match (draw.uniform(5) < self.cut_share, draw.uniform(6) < 0.5) {
            (false, _) => (0.0, end),
            (true, true) => (empty, end),
            (true, false) => (0.0, ((end - empty) * self.fps).round() / self.fps),
        };
        let class = story.class(self.tied);
        let background = self.background(set, story, part.random("background", leader));
        let is_apart = part.random("apart", leader).uniform(0) < self.apart;
        let behind = if is_apart { Texture::Plain } else { background };
        let on_screen = self.on_screen((from, to), part.random("absent", leader));
        let mut shots: Vec<Shot> = [((from, on_screen.0), false), (on_screen, true), ((on_screen.1, to), false)]
            .into_iter()
            .filter(|((from, to), object)| *object || from < to)
            .map(|(seconds, object)| Shot { seconds, background: if object { behind } else { background }, object })
            .collect();
        let elsewhere = self.elsewhere(set, story, background, part.random("elsewhere", leader));
        if from > 0.0 {
            shots.insert(0, Shot { seconds: (0.0, from), background: elsewhere, object: false });
        } else if to < end {
            shots.push(Shot { seconds: (to, end), background: elsewhere, object: false });
        }
        let scene = Scene {
            width: self.width,
            height: self.height,
            shape: story.shape,
            rgb: story.colour.rgb_among(self.delta),
            radius: self.objects * size.radius(),
            start,
            events: events(&story, on_screen, draw),
            shots,
            random: part.random("texture", leader),
        };
        let tellings = part.random("telling", i).permutation(TELLINGS);
        let captions = tellings
            .into_iter()
            .take(self.captions)
            .map(|telling| caption(&story, size, telling, part.random("words", TELLINGS * i + telling)));
        let captions = captions.collect();
        let times = (0..frames).map(|frame| frame as f32 / self.fps);
        let bounds = |at: f32| scene.object(at).and_then(|object| object.bounds((self.width, self.height)));
        let truth = Truth {
            frames,
            fps: self.fps,
            width: self.width,
            height: self.height,
            shape: story.shape,
            colour: story.colour,
            size,
            class,
            events: scene.events.clone(),
            background,
            favourite: self.favourite(class),
            cuts: cuts(&scene.shots),
            shots: scene.shots.clone(),
            boxes: times.map(bounds).collect(),
            twin: twin.map(|(place, kind)| Twin { video_id: id(place), kind }),
        };
        Clip { id: id(i), split: set.split(), captions, truth, scene }
    }

    /// When an object is there within its shot, in whole frames.
    fn on_screen(&self, (from, to): (f32, f32), random: Random) -> (f32, f32) {
        let frames = ((to - from) * self.fps).round();
        let absent = (self.absent * frames).round();
        let before = (random.uniform(0) * (absent + 1.0)).floor().min(absent);
        let at = |frames: f32| from + frames / self.fps;
        // The ends of a shot stay the numbers that they are.
        let begin = if before > 0.0 { at(before) } else { from };
        (begin, if before < absent { at(frames - absent + before) } else { to })
    }

    /// The background behind an object.
    fn background(&self, set: Set, story: Story, random: Random) -> Texture {
        let any = pick(Texture::ALL, random, 1).unwrap_or(Texture::Stripes);
        match set {
            Set::Train | Set::Val if random.uniform(0) < self.rho => self.favourite(story.class(self.tied)),
            Set::Train | Set::Val | Set::Test => any,
            Set::Adv => self.favourite(story.twin(self.tied).class(self.tied)),
        }
    }

    /// The background of a shot without the object: any but the one behind it and, in `adv`, the favourites of the
    /// twins.
    fn elsewhere(&self, set: Set, story: Story, behind: Texture, random: Random) -> Texture {
        let mut taken = vec![behind];
        if set == Set::Adv {
            taken.extend([story, story.twin(self.tied)].map(|story| self.favourite(story.class(self.tied))));
        }
        let free: Vec<Texture> = Texture::ALL.iter().copied().filter(|texture| !taken.contains(texture)).collect();
        pick(&free, random, 0).unwrap_or(behind)
    }
}

/// Where the place changes.
fn cuts(shots: &[Shot]) -> Vec<f32> {
    let changes = shots.windows(2).filter(|two| two[0].background != two[1].background);
    changes.map(|two| two[1].seconds.0).collect()
}

fn pick<T: Copy>(from: &[T], random: Random, index: u64) -> Option<T> {
    from.get(random.below(index, from.len() as u64) as usize).copied()
}

/// When the actions of a story happen in a shot; something is still before and after each.
fn events(story: &Story, (from, to): (f32, f32), draw: Random) -> Vec<Event> {
    let at = |share: f32| from + share * (to - from);
    let u = |index: u64| draw.uniform(index);
    match story.actions {
        (action, None) => {
            let start = 0.12 + 0.2 * u(7);
            vec![Event { action, seconds: (at(start), at(start + 0.42 + 0.14 * u(8))) }]
        }
        (one, Some(two)) => {
            let (start, middle, second) = (0.06 + 0.06 * u(7), 0.44 + 0.04 * u(8), 0.54 + 0.04 * u(9));
            let first = Event { action: one, seconds: (at(start), at(middle)) };
            vec![first, Event { action: two, seconds: (at(second), at(0.9 + 0.05 * u(10))) }]
        }
    }
}
