//! Names of what clips show, and captions that say it.

use serde::{Deserialize, Serialize};

use crate::random::Random;

macro_rules! names {
    ($(#[$about:meta])* $name:ident: $($item:ident),+) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($item),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$item),+];
        }
    };
}

names!(
    /// Neighbours (the 1st and the 2nd, the 3rd and the 4th, …) are each other's twins.
    Shape: Circle, Ring, Square, Triangle, Star, Cross, Heart, Moon
);
names!(
    /// What fills an object; neighbours are twins, as with shapes.
    Colour: Red, Orange, Yellow, Green, Blue, Purple, Pink, White
);
names!(
    /// How large an object is at first.
    Size: Small, Big
);
names!(
    /// What an object does. The last two are never told together with another.
    Action: Left, Right, Up, Down, Grow, Shrink, Spin, Bounce, Blink, Shake, Appear, Vanish
);

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Heart => "heart",
            Self::Moon => "moon",
        }
    }

    /// The shape that takes this one's place in a twin.
    pub fn twin(self) -> Self {
        Self::ALL.get(self as usize ^ 1).copied().unwrap_or(self)
    }

    /// Whether spinning can be seen.
    pub fn turns(self) -> bool {
        !matches!(self, Self::Circle | Self::Ring)
    }
}

impl Colour {
    /// The colour that takes this one's place in a twin.
    pub fn twin(self) -> Self {
        Self::ALL.get(self as usize ^ 1).copied().unwrap_or(self)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::White => "white",
        }
    }

    /// The colour when twins differ by `apart` of what they usually do.
    pub fn rgb_among(self, apart: f32) -> [u8; 3] {
        let (own, other) = (self.rgb(), self.twin().rgb());
        let between = |(own, other): (u8, u8)| {
            let (own, other) = (f32::from(own), f32::from(other));
            ((own + other) / 2.0 + apart * (own - other) / 2.0).round() as u8
        };
        [0, 1, 2].map(|c| between((own[c], other[c])))
    }

    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [222, 38, 46],
            Self::Orange => [247, 134, 22],
            Self::Yellow => [250, 220, 50],
            Self::Green => [40, 168, 74],
            Self::Blue => [34, 98, 228],
            Self::Purple => [126, 48, 186],
            Self::Pink => [252, 124, 190],
            Self::White => [250, 250, 252],
        }
    }
}

impl Size {
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Big => "big",
        }
    }
}

impl Action {
    /// Those that leave an object to be seen, so that another can come before or after.
    pub fn lasting() -> &'static [Self] {
        Self::ALL.get(..10).unwrap_or(Self::ALL)
    }

    /// Ways to say it of "it".
    pub fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Left => &["moves to the left", "slides left", "goes left"],
            Self::Right => &["moves to the right", "slides right", "goes right"],
            Self::Up => &["moves up", "rises", "goes upward"],
            Self::Down => &["moves down", "sinks", "goes downward"],
            Self::Grow => &["grows", "gets larger", "becomes bigger"],
            Self::Shrink => &["shrinks", "gets smaller", "becomes tinier"],
            Self::Spin => &["spins", "turns around", "rotates"],
            Self::Bounce => &["bounces", "hops up and down", "jumps"],
            Self::Blink => &["blinks", "flashes on and off", "flickers"],
            Self::Shake => &["shakes", "trembles", "wiggles from side to side"],
            Self::Appear => &["appears", "fades in", "comes into sight"],
            Self::Vanish => &["vanishes", "fades away", "disappears"],
        }
    }
}

names!(
    /// What of an object its background goes with.
    Look: Shape, Colour
);

/// What a caption tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Story {
    pub shape: Shape,
    pub colour: Colour,
    /// One, or two that differ.
    pub actions: (Action, Option<Action>),
}

impl Story {
    /// Which of the eight it is.
    pub fn class(&self, look: Look) -> usize {
        match look {
            Look::Shape => self.shape as usize,
            Look::Colour => self.colour as usize,
        }
    }

    /// The same of the other shape, or the other colour.
    pub fn twin(&self, look: Look) -> Self {
        match look {
            Look::Shape => Self { shape: self.shape.twin(), ..*self },
            Look::Colour => Self { colour: self.colour.twin(), ..*self },
        }
    }

    pub fn actions(&self) -> impl Iterator<Item = Action> + use<> {
        std::iter::once(self.actions.0).chain(self.actions.1)
    }
}

/// Ways to tell a story; the number of different captions of a clip.
pub const TELLINGS: usize = 4;

/// A caption: object, colour and actions, never the background. `telling` chooses the sentence, `random` the verbs.
pub fn caption(story: &Story, size: Size, telling: usize, random: Random) -> String {
    let (shape, colour, size) = (story.shape.name(), story.colour.name(), size.name());
    let verb = |action: Action, index: u64| {
        let phrases = action.phrases();
        phrases.get(random.below(index, phrases.len() as u64) as usize).copied().unwrap_or_default()
    };
    let one = verb(story.actions.0, 0);
    let a = if colour == "orange" { "an" } else { "a" };
    match (story.actions.1.map(|action| verb(action, 1)), telling % TELLINGS) {
        (None, 0) => format!("{a} {colour} {shape} {one}"),
        (None, 1) => format!("a {size} {colour} {shape} {one}"),
        (None, 2) => format!("there is a {shape} that is {colour}, and it {one}"),
        (None, _) => format!("the {shape} {one}; it is {colour}"),
        (Some(two), 0) => format!("{a} {colour} {shape} first {one}, then {two}"),
        (Some(two), 1) => format!("first the {size} {colour} {shape} {one}, then it {two}"),
        (Some(two), 2) => format!("a {shape} that is {colour} {one} and after that {two}"),
        (Some(two), _) => format!("the {colour} {shape} {one} before it {two}"),
    }
}
