//! For a screen: the world, the uplink and this host's own doors, the switches, the guests; a column each.

use super::card::{self, place};
use super::{Area, Drawing, Line, Mark, Node};
use crate::network::Mode;
use crate::picture::scene::{Scene, Switch};

/// Around the picture.
const MARGIN: i32 = 20;
/// The world, and the cable from it to this server.
const WORLD: i32 = 92;
const CABLE: i32 = 44;
/// Within the frame of this server.
const INSIDE: i32 = 22;
/// The words above it.
const HEAD: i32 = 44;
/// Between the doors and the switches, where cables turn; where those of sites do, and the uplink's.
const CHANNEL: i32 = 86;
const SITES_TURN: i32 = 14;
const UPLINK_TURN: i32 = 70;
/// Cables from the uplink lie beside one another, so many and no more: from one to the next, across and down.
const LANES: usize = 7;
const LANE: (i32, i32) = (7, 4);
/// Between a switch and its guests.
const REACH: i32 = 52;
/// Between guests, beside and below one another: without and with a cable between the rows.
const BESIDE: i32 = 18;
const BELOW: i32 = 14;
const BELOW_RAIL: i32 = 30;
/// Between switches, and between doors.
const BETWEEN: i32 = 30;
const DOORS: i32 = 14;

/// Guests side by side.
fn columns(members: usize) -> usize {
    match members {
        0..=6 => 1,
        7..=16 => 2,
        17..=60 => 3,
        61..=140 => 4,
        _ => 5,
    }
}

/// The widths of the columns.
struct Widths {
    edge: i32,
    switch: i32,
    member: i32,
}

fn widths(scene: &Scene, live: bool) -> Widths {
    // Figures want room.
    let least = if live { 260 } else { 220 };
    let doors = scene.sites.iter().chain(&scene.socks).map(card::door_width).max().unwrap_or_default();
    let members = scene.lans.iter().flat_map(|lan| &lan.members).map(card::member_width).max();
    Widths {
        edge: card::uplink_width(&scene.uplink).max(doors).clamp(if live { 240 } else { 180 }, 290),
        switch: scene.lans.iter().map(card::switch_width).max().unwrap_or_default().clamp(least - 20, 300),
        member: members.unwrap_or_default().clamp(least, 316),
    }
}

/// The picture.
pub(super) fn lay_out(scene: &Scene, live: bool) -> Drawing {
    let widths = widths(scene, live);
    let frame = Area { x: MARGIN + WORLD + CABLE, y: MARGIN, w: 0, h: 0 };
    let (left, top) = (frame.x + INSIDE, MARGIN + HEAD);
    let mut drawing = Drawing { live, frame, ..Drawing::default() };
    drawing.captions.push(card::caption(left, MARGIN + 27, "this server"));

    let mut uplink = card::uplink(&scene.uplink, widths.edge, live);
    place(&mut uplink, left, top);
    let edge = uplink.first().map(|node| node.at).unwrap_or_default();
    let middle = edge.y + edge.h / 2;
    let globe = Area { x: MARGIN, y: (middle - WORLD / 2).max(MARGIN), w: WORLD, h: WORLD };
    let centre = globe.y + WORLD / 2;
    drawing.nodes.push(card::world(globe, WORLD / 2 - 8));
    drawing.captions.push(super::Text {
        class: "caption centre",
        ..card::caption(globe.x + WORLD / 2, globe.bottom() + 14, "the world")
    });
    let away = vec![
        (globe.right() - 6, centre),
        (edge.x - INSIDE / 2, centre),
        (edge.x - INSIDE / 2, middle),
        (edge.x, middle),
    ];
    drawing.lines.push(Line { key: "uplink".to_owned(), class: "uplink".to_owned(), points: away });
    drawing.nodes.extend(uplink);
    let sites = doors(&mut drawing, scene, Area { x: left, y: edge.bottom(), w: widths.edge, h: 0 }, live);

    let column = Area { x: edge.right() + CHANNEL, y: top, w: widths.switch, h: 0 };
    let mut y = top;
    let mut right = column.right();
    let mut entries = Vec::new();
    let mut cables = 0;
    for lan in &scene.lans {
        let at = lan_at(&mut drawing, lan, Area { y, ..column }, widths.member, live);
        let entry = at.switch.y + (edge.h / 2).min(at.switch.h / 2);
        let lane = i32::try_from(cables.min(LANES - 1)).unwrap_or_default();
        cables += usize::from(to_world(&mut drawing, lan, (edge, lane), (at.switch.x, entry)));
        entries.push((at.switch.x, entry + 16));
        right = right.max(at.right);
        y = at.switch.bottom().max(at.bottom) + BETWEEN;
    }
    to_lans(&mut drawing, scene, &sites, &entries);
    let deepest = drawing.nodes.iter().map(|node| node.at.bottom()).max().unwrap_or_default();
    drawing.frame.w = right + INSIDE - frame.x;
    drawing.frame.h = deepest + INSIDE - frame.y;
    drawing.width = drawing.frame.right() + MARGIN;
    drawing.height = (drawing.frame.bottom()).max(globe.bottom() + 20) + MARGIN;
    drawing
}

/// Sites and the developers' door, below the uplink; where each site stands.
fn doors(drawing: &mut Drawing, scene: &Scene, below: Area, live: bool) -> Vec<Area> {
    let mut y = below.y + BETWEEN;
    let mut at = Vec::new();
    let mut caption = |y: &mut i32, words: &str| {
        *y += 12;
        drawing.captions.push(card::caption(below.x, *y, words));
        *y += 10;
    };
    let mut nodes: Vec<Node> = Vec::new();
    if !scene.sites.is_empty() {
        caption(&mut y, "sites");
    }
    for site in &scene.sites {
        let mut door = card::site(site, below.w, live);
        place(&mut door, below.x, y);
        let area = door.first().map(|node| node.at).unwrap_or_default();
        y = area.bottom() + DOORS;
        at.push(area);
        nodes.extend(door);
    }
    if let Some(socks) = &scene.socks {
        y += if scene.sites.is_empty() { 0 } else { DOORS };
        caption(&mut y, "developers' door");
        let mut door = card::socks(socks, below.w, live);
        place(&mut door, below.x, y);
        nodes.extend(door);
    }
    if let Some(last) = at.last() {
        // They are reached by the uplink.
        let x = below.x + below.w - 24;
        let points = vec![(x, below.y), (x, last.y)];
        drawing.lines.insert(0, Line { key: "sites".to_owned(), class: "site".to_owned(), points });
    }
    drawing.nodes.extend(nodes);
    at
}

/// Where a LAN came to stand.
struct Placed {
    switch: Area,
    right: i32,
    bottom: i32,
}

fn lan_at(drawing: &mut Drawing, lan: &Switch, at: Area, member: i32, live: bool) -> Placed {
    let mut switch = card::switch(lan, at.w, live);
    place(&mut switch, at.x, at.y);
    let cards: Vec<Vec<Node>> = lan.members.iter().map(|each| card::member(each, member, live)).collect();
    let columns = columns(cards.len());
    let left = at.right() + REACH;
    let mut y = at.y + if columns > 1 { 12 } else { 0 };
    let mut members = Vec::new();
    let mut row = cards.into_iter().peekable();
    while row.peek().is_some() {
        let mut deepest = 0;
        for (nth, mut card) in row.by_ref().take(columns).enumerate() {
            let rail = y;
            let step = i32::try_from(nth).unwrap_or_default() * (member + BESIDE);
            let top = if columns > 1 { y + BELOW_RAIL - BELOW } else { y };
            place(&mut card, left + step, top);
            let Some(first) = card.first() else { continue };
            deepest = deepest.max(first.at.bottom());
            let points = if columns > 1 {
                let x = first.at.x + 26;
                vec![(at.right(), rail + 2), (x, rail + 2), (x, first.at.y)]
            } else {
                vec![(at.right(), top + 21), (first.at.x, top + 21)]
            };
            drawing.lines.push(Line { key: first.key.clone(), class: format!("member {}", card::hue(lan)), points });
            members.push(card);
        }
        y = deepest + BELOW;
    }
    let right = members.iter().flatten().map(|node| node.at.right()).max().unwrap_or(at.right());
    // Its ports are as tall as what is plugged in.
    if let Some(first) = switch.first_mut() {
        first.mark = Mark::Ports { height: first.at.h.max(y - BELOW - at.y) - 20 };
    }
    let bottom = y - BELOW;
    let placed = Placed { switch: switch.first().map(|node| node.at).unwrap_or_default(), right, bottom };
    drawing.nodes.extend(switch);
    drawing.nodes.extend(members.into_iter().flatten());
    placed
}

/// The cable from the uplink to a switch, the lower the further left, so that none crosses another; false where there
/// is none.
fn to_world(drawing: &mut Drawing, lan: &Switch, (uplink, lane): (Area, i32), to: (i32, i32)) -> bool {
    let isolated = lan.mode == Mode::Isolated;
    // What leads nowhere carries nothing.
    let key = if isolated { String::new() } else { lan.key.clone() };
    let mut draw = |points| {
        drawing.lines.push(Line { key: key.clone(), class: format!("lan {}", card::hue(lan)), points });
    };
    if isolated {
        draw(vec![(to.0 - 16, to.1), to]);
        draw(vec![(to.0 - 16, to.1 - 6), (to.0 - 16, to.1 + 6)]);
    } else {
        let x = uplink.right() + UPLINK_TURN - lane * LANE.0;
        let y = uplink.y + uplink.h / 2 + (lane * LANE.1).min(uplink.h / 2 - 6);
        draw(vec![(uplink.right(), y), (x, y), (x, to.1), to]);
    }
    !isolated
}

/// The cables from the sites to the switches that their guests are plugged into.
fn to_lans(drawing: &mut Drawing, scene: &Scene, sites: &[Area], entries: &[(i32, i32)]) {
    for (site, at) in scene.sites.iter().zip(sites) {
        let from = (at.right(), at.y + 21);
        let x = from.0 + SITES_TURN;
        for to in site.lans.iter().filter_map(|nth| entries.get(*nth)) {
            let points = vec![from, (x, from.1), (x, to.1), *to];
            drawing.lines.push(Line { key: site.key.clone(), class: "site".to_owned(), points });
        }
    }
}
