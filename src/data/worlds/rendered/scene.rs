//! What happens in a clip, as a function of time.

use std::f32::consts::{PI, TAU};

use serde::{Deserialize, Serialize};

use super::draw::{Canvas, Drawn, smooth};
use super::textures::Texture;
use super::words::{Action, Shape, Size};
use crate::random::Random;

/// An action and when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub action: Action,
    /// From and to.
    pub seconds: (f32, f32),
}

/// A stretch of a clip at one place; between cuts, and between the coming and going of the object.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// From and to.
    pub seconds: (f32, f32),
    pub background: Texture,
    /// Whether the object is in it; events happen there only.
    pub object: bool,
}

/// All that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub width: usize,
    pub height: usize,
    pub shape: Shape,
    /// What fills the object.
    pub rgb: [u8; 3],
    /// At first, in shares of the shorter side.
    pub radius: f32,
    /// Where the object is at first, in pixels.
    pub start: (f32, f32),
    pub events: Vec<Event>,
    pub shots: Vec<Shot>,
    /// For the backgrounds.
    pub random: Random,
}

impl Size {
    /// In shares of a picture's shorter side.
    pub fn radius(self) -> f32 {
        match self {
            Self::Small => 0.14,
            Self::Big => 0.19,
        }
    }
}

/// How far objects go, in shares of a picture's width or height, and how much they grow: so that there is room for any two
/// actions in any order.
const ASIDE: f32 = 0.25;
const UP: f32 = 0.24;
const HOP: f32 = 0.22;
const SHAKE: f32 = 0.07;
const GROWN: f32 = 1.6;
const SHRUNK: f32 = 0.5;

/// Places of the middle from which an object stays inside whatever the order of its actions: from and to, for x and y.
pub fn room((width, height): (usize, usize), radius: f32, actions: impl Iterator<Item = Action>) -> [(f32, f32); 2] {
    let (w, h) = (width as f32, height as f32);
    // A corner of the square turns on 1.16 radii; a pixel for the rim.
    let mut radius = 1.17 * radius * w.min(h) + 1.0;
    let (mut left, mut right, mut up, mut down) = (0.0, 0.0, 0.0, 0.0);
    for action in actions {
        match action {
            Action::Left => left += ASIDE * w,
            Action::Right => right += ASIDE * w,
            Action::Up => up += UP * h,
            Action::Down => down += UP * h,
            Action::Bounce => up += HOP * h,
            Action::Shake => (left, right) = (left + SHAKE * w, right + SHAKE * w),
            Action::Grow => radius *= GROWN,
            Action::Shrink | Action::Spin | Action::Blink | Action::Appear | Action::Vanish => {}
        }
    }
    [(left + radius, w - right - radius), (up + radius, h - down - radius)]
}

impl Scene {
    /// The object at this time; `None` where the shot is without it.
    pub fn object(&self, seconds: f32) -> Option<Drawn> {
        if !self.shot(seconds)?.object {
            return None;
        }
        let (w, h) = (self.width as f32, self.height as f32);
        let mut drawn = Drawn {
            shape: self.shape,
            x: self.start.0,
            y: self.start.1,
            radius: self.radius * w.min(h),
            angle: 0.0,
            alpha: 1.0,
        };
        for event in &self.events {
            event.act(seconds, (w, h), &mut drawn);
        }
        Some(drawn)
    }

    /// The shot at this time; the last one after the end.
    pub fn shot(&self, seconds: f32) -> Option<&Shot> {
        self.shots.iter().rev().find(|shot| shot.seconds.0 <= seconds).or(self.shots.first())
    }

    /// The picture at this time.
    pub fn frame(&self, seconds: f32) -> Canvas {
        let shot = self.shot(seconds);
        let mut picture = shot.map_or_else(|| Canvas::new(self.width, self.height, [0; 3]), |shot| self.empty(shot));
        self.populate(seconds, &mut picture);
        picture
    }

    /// Pictures at these times; a background is drawn once a shot.
    pub fn frames(&self, times: impl Iterator<Item = f32>) -> impl Iterator<Item = Canvas> {
        let mut last: Option<(Shot, Canvas)> = None;
        times.map(move |seconds| {
            let Some(shot) = self.shot(seconds) else { return self.frame(seconds) };
            if last.as_ref().is_none_or(|(known, _)| known != shot) {
                last = Some((*shot, self.empty(shot)));
            }
            let mut picture = last.as_ref().map_or_else(|| self.empty(shot), |(_, picture)| picture.clone());
            self.populate(seconds, &mut picture);
            picture
        })
    }

    fn empty(&self, shot: &Shot) -> Canvas {
        shot.background.draw(self.width, self.height, self.random)
    }

    fn populate(&self, seconds: f32, picture: &mut Canvas) {
        if let Some(object) = self.object(seconds) {
            object.draw(picture, self.rgb);
        }
    }
}

impl Event {
    /// Changes the object as far as the event has come.
    fn act(&self, seconds: f32, (w, h): (f32, f32), drawn: &mut Drawn) {
        let (from, to) = self.seconds;
        let done = ((seconds - from) / (to - from)).clamp(0.0, 1.0);
        let eased = smooth(0.0, 1.0, done);
        let within = 0.0 < done && done < 1.0;
        // About two a second, and two at least.
        let times = (2.0 * (to - from)).round().max(2.0);
        match self.action {
            Action::Left => drawn.x -= ASIDE * w * eased,
            Action::Right => drawn.x += ASIDE * w * eased,
            Action::Up => drawn.y -= UP * h * eased,
            Action::Down => drawn.y += UP * h * eased,
            Action::Grow => drawn.radius *= 1.0 + (GROWN - 1.0) * eased,
            Action::Shrink => drawn.radius *= 1.0 + (SHRUNK - 1.0) * eased,
            Action::Spin => drawn.angle += if within { TAU * eased } else { 0.0 },
            Action::Bounce => drawn.y -= if within { HOP * h * (PI * times * done).sin().abs() } else { 0.0 },
            Action::Blink => {
                if within && (times * done).fract() < 0.5 {
                    drawn.alpha = 0.0;
                }
            }
            Action::Shake => drawn.x += if within { SHAKE * w * (TAU * times * done).sin() } else { 0.0 },
            Action::Appear => drawn.alpha *= eased,
            Action::Vanish => drawn.alpha *= 1.0 - eased,
        }
    }
}
