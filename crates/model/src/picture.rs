//! The network as a picture: the world, the uplink, each switch with what is plugged into it, and what of the world
//! comes to whom. [`scene`] says what there is in words, [`layout`] where each thing stands, [`svg`] and [`text`] draw.

use serde::{Deserialize, Serialize};

use crate::network::Network;

pub mod layout;
pub mod measure;
pub mod scene;
pub mod svg;
pub mod text;

pub use layout::Form;

/// The pictures that a web page shows: one of them at a time, by the room that there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pictures {
    /// For a screen: columns from the world to the guests.
    pub wide: String,
    /// For a phone: from top to bottom.
    pub narrow: String,
}

impl Pictures {
    /// Of a network; parts of a page, without a style of their own ([`svg::style`] is theirs).
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let scene = scene::Scene::of(network);
        let draw = |form| svg::part(&layout::lay_out(&scene, form, true));
        Self { wide: draw(Form::Wide), narrow: draw(Form::Narrow) }
    }
}

/// The network as a picture that stands for itself: SVG 1.1 with its style, light or dark as its reader's screen.
#[must_use]
pub fn svg(network: &Network) -> String {
    svg::whole(&layout::lay_out(&scene::Scene::of(network), Form::Wide, false))
}

/// The network as a drawing of box characters, a line end behind each line.
#[must_use]
pub fn text(network: &Network) -> String {
    text::draw(&scene::Scene::of(network))
}
