//! For a phone: one below the other, each with a cable to what it hangs on.

use super::card::{self, place};
use super::{Area, Drawing, Line, Mark, Node};
use crate::network::Mode;
use crate::picture::scene::Scene;

/// Its width, which a phone has.
const WIDTH: i32 = 360;
/// Around the picture.
const MARGIN: i32 = 10;
/// From the edge to what hangs on the uplink, and from there to what hangs on a switch.
const STEP: i32 = 24;
/// Where a cable goes down, from the edge of what it hangs on.
const DOWN: i32 = 12;
const GAP: i32 = 12;

/// A picture that grows downwards.
struct Tower {
    drawing: Drawing,
    y: i32,
}

impl Tower {
    /// Puts a box below the others, and its cable.
    fn put(&mut self, mut nodes: Vec<Node>, x: i32, cable: Option<(i32, i32, String)>) -> Area {
        place(&mut nodes, x, self.y);
        let Some(first) = nodes.first() else { return Area::default() };
        let at = first.at;
        if let Some((from, beginning, class)) = cable {
            let middle = at.y + 21;
            let points = vec![(from, beginning), (from, middle), (at.x, middle)];
            self.drawing.lines.push(Line { key: first.key.clone(), class, points });
        }
        self.drawing.nodes.extend(nodes);
        self.y = at.bottom() + GAP;
        at
    }
}

/// The picture.
pub(super) fn lay_out(scene: &Scene, live: bool) -> Drawing {
    let mut tower = Tower { drawing: Drawing { live, width: WIDTH, ..Drawing::default() }, y: MARGIN };
    let globe = Area { x: MARGIN, y: MARGIN, w: 40, h: 40 };
    tower.drawing.nodes.push(card::world(globe, 17));
    tower.drawing.captions.push(card::caption(globe.right() + 8, MARGIN + 25, "the world"));
    let left = MARGIN + 8;
    let frame = Area { x: MARGIN, y: globe.bottom() + 22, w: WIDTH - 2 * MARGIN, h: 0 };
    tower.drawing.captions.push(card::caption(left + 48, frame.y + 19, "this server"));
    tower.y = frame.y + 30;
    let room = frame.right() - 8;
    let uplink = tower.put(card::uplink(&scene.uplink, room - left, live), left, None);
    let down = globe.x + globe.w / 2;
    let points = vec![(down, globe.bottom() - 3), (down, uplink.y)];
    tower.drawing.lines.push(Line { key: "uplink".to_owned(), class: "uplink".to_owned(), points });

    let (x, down) = (left + STEP, left + DOWN);
    for site in &scene.sites {
        let cable = (down, uplink.bottom(), "site".to_owned());
        tower.put(card::site(site, room - x, live), x, Some(cable));
    }
    if let Some(socks) = &scene.socks {
        tower.put(card::socks(socks, room - x, live), x, None);
    }
    for lan in &scene.lans {
        tower.y += GAP;
        let hue = card::hue(lan);
        let cable = (lan.mode != Mode::Isolated).then(|| (down, uplink.bottom(), format!("lan {hue}")));
        let mut switch = card::switch(lan, room - x, live);
        // What is plugged in hangs below.
        switch.iter_mut().for_each(|node| node.mark = Mark::None);
        let switch = tower.put(switch, x, cable);
        for member in &lan.members {
            let cable = (x + DOWN, switch.bottom(), format!("member {hue}"));
            tower.put(card::member(member, room - x - STEP, live), x + STEP, Some(cable));
        }
    }
    let mut drawing = tower.drawing;
    drawing.frame = Area { h: tower.y - GAP + 10 - frame.y, ..frame };
    drawing.height = drawing.frame.bottom() + MARGIN;
    drawing
}
