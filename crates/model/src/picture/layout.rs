//! Where each thing of a picture stands. In whole units, so that the same network is the same picture everywhere.

use super::scene::Scene;

mod card;
mod narrow;
mod wide;

/// The room that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A screen or a page: columns from the world to the guests.
    Wide,
    /// A phone: one below the other.
    Narrow,
}

/// A picture, before it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drawing {
    /// Its width; all units are those of the fonts' sizes, pixels where nothing is scaled.
    pub width: i32,
    /// Its height.
    pub height: i32,
    /// Whether it is a part of a page that moves: with places for figures, and to be gone through by the keyboard.
    pub live: bool,
    /// This server, around all that is in it.
    pub frame: Area,
    /// Words that are nobody's.
    pub captions: Vec<Text>,
    /// Cables, drawn below all else.
    pub lines: Vec<Line>,
    /// Boxes, in the order in which one goes through them.
    pub nodes: Vec<Node>,
}

/// A rectangle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Area {
    /// Its left edge.
    pub x: i32,
    /// Its upper edge.
    pub y: i32,
    /// Its width.
    pub w: i32,
    /// Its height.
    pub h: i32,
}

impl Area {
    /// Its right edge.
    #[must_use]
    pub fn right(&self) -> i32 {
        self.x + self.w
    }

    /// Its lower edge.
    #[must_use]
    pub fn bottom(&self) -> i32 {
        self.y + self.h
    }

    /// Whether they share a spot.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.x < other.right() && other.x < self.right() && self.y < other.bottom() && other.y < self.bottom()
    }

    /// Whether the other is within it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.x <= other.x && other.right() <= self.right() && self.y <= other.y && other.bottom() <= self.bottom()
    }
}

/// A box, and what stands in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What it stands for.
    pub key: String,
    /// Its classes.
    pub class: String,
    /// What it is, for who does not see it.
    pub label: String,
    /// Where it stands.
    pub at: Area,
    /// Its words.
    pub texts: Vec<Text>,
    /// Whether it stands within the box before it that does not.
    pub within: bool,
    /// What is drawn in it besides.
    pub mark: Mark,
}

/// What is drawn in a box besides its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// The world.
    Globe {
        /// Its radius.
        radius: i32,
    },
    /// The ports of a switch, along its right edge and below it.
    Ports {
        /// As tall as what is plugged in.
        height: i32,
    },
    /// A light that says whether it is well.
    Light,
}

/// A line of words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Where it begins, or ends.
    pub x: i32,
    /// Its base line.
    pub y: i32,
    /// Its class.
    pub class: &'static str,
    /// As much of it as has room.
    pub words: String,
    /// Whether it ends at `x`.
    pub ends: bool,
    /// What is written there while it lives.
    pub slot: Option<&'static str>,
}

/// A cable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Whose traffic it carries.
    pub key: String,
    /// Its classes.
    pub class: String,
    /// Its corners.
    pub points: Vec<(i32, i32)>,
}

/// The picture of a scene.
#[must_use]
pub fn lay_out(scene: &Scene, form: Form, live: bool) -> Drawing {
    match form {
        Form::Wide => wide::lay_out(scene, live),
        Form::Narrow => narrow::lay_out(scene, live),
    }
}
