//! Boxes with their words, as tall as they need.

use super::{Area, Mark, Node, Text};
use crate::network::Mode;
use crate::picture::measure::{Face, fit, width};
use crate::picture::scene::{Door, Member, Sort, Switch, Uplink, Way};

/// From the edge of a box to its words.
const PAD: i32 = 14;
/// From one line of words to the next.
const LEADING: i32 = 17;
/// A way's height, and the gap to the next.
const WAY: (i32, i32) = (21, 6);
/// Ways that are drawn at a guest before the rest is counted.
const SHOWN: usize = 48;
/// The sizes of faces by class.
const NAME: (&str, Face, i32) = ("name", Face::Bold, 15);
const ADDRESS: (&str, Face, i32) = ("mono", Face::Mono, 12);
const SMALL: (&str, Face, i32) = ("soft", Face::Plain, 12);
const IN_WAY: (&str, Face, i32) = ("mono way-words", Face::Mono, 11);

type Style = (&'static str, Face, i32);

/// A box that is being filled from above.
struct Card {
    node: Node,
    inner: Vec<Node>,
    /// The base line of the last words.
    y: i32,
}

impl Card {
    fn new(key: &str, class: String, w: i32) -> Self {
        let node = Node { key: key.to_owned(), class, at: Area { x: 0, y: 0, w, h: 0 }, ..Node::default() };
        Self { node, inner: Vec::new(), y: 8 }
    }

    /// What it is called, and at its right end what it is.
    fn title(&mut self, name: &str, what: &str, live: bool) {
        self.y += LEADING;
        let light = if self.node.mark == Mark::Light { 14 } else { 0 };
        // While it lives the right end may say more.
        let more = if live { 64 } else { 0 };
        let room = self.node.at.w - 2 * PAD - light - width(what, SMALL.1, SMALL.2).max(more) - 8;
        self.node.texts.push(text(PAD + light, self.y, NAME, fit(name, NAME.1, NAME.2, room)));
        let slot = live.then_some("state");
        let x = self.node.at.w - PAD;
        self.node.texts.push(Text { ends: true, slot, ..text(x, self.y, SMALL, what.to_owned()) });
    }

    fn line(&mut self, words: &str, style: Style) {
        self.y += LEADING;
        let words = fit(words, style.1, style.2, self.node.at.w - 2 * PAD);
        self.node.texts.push(text(PAD, self.y, style, words));
    }

    /// The parts of a list, on as many lines as they need.
    fn lines(&mut self, words: &str, style: Style) {
        let room = self.node.at.w - 2 * PAD;
        let mut line = String::new();
        for part in words.split(", ") {
            let longer = if line.is_empty() { part.to_owned() } else { format!("{line}, {part}") };
            if line.is_empty() || width(&longer, style.1, style.2) <= room {
                line = longer;
            } else {
                self.line(&format!("{line},"), style);
                line = part.to_owned();
            }
        }
        self.line(&line, style);
    }

    /// Places for figures.
    fn figures(&mut self, live: bool) {
        if live {
            self.y += LEADING;
            let place =
                |x, slot| Text { slot: Some(slot), ..text(x, self.y, ("mono live", Face::Mono, 11), String::new()) };
            let end = Text { ends: true, class: "mono alarm", ..place(self.node.at.w - PAD, "note") };
            self.node.texts.extend([place(PAD, "rate"), end]);
        }
    }

    /// What leads to it, side by side as far as there is room.
    fn ways(&mut self, ways: &[Way]) {
        if ways.is_empty() {
            return;
        }
        let room = self.node.at.w - 2 * PAD;
        let more = ways.len().saturating_sub(SHOWN);
        let shown = ways.iter().take(SHOWN).map(way);
        let rest = (more > 0).then(|| Node {
            key: "more".to_owned(),
            class: "way rest".to_owned(),
            label: format!("{more} more"),
            texts: vec![text(0, 0, IN_WAY, format!("and {more} more"))],
            ..Node::default()
        });
        let (mut x, mut y) = (0, self.y + 10);
        for mut node in shown.chain(rest) {
            let Some(words) = node.texts.first_mut() else { continue };
            words.words = fit(&words.words, IN_WAY.1, IN_WAY.2, room - 16);
            let w = width(&words.words, IN_WAY.1, IN_WAY.2) + 16;
            if x > 0 && x + w > room {
                (x, y) = (0, y + WAY.0 + WAY.1);
            }
            node.at = Area { x: PAD + x, y, w, h: WAY.0 };
            (words.x, words.y) = (PAD + x + 8, y + 15);
            node.within = true;
            self.inner.push(node);
            x += w + WAY.1;
        }
        self.y = y + WAY.0;
    }

    /// The box and what is in it, with its upper left corner at the origin.
    fn done(mut self, label: String) -> Vec<Node> {
        self.node.label = label;
        self.node.at.h = self.y + 12;
        let mut nodes = vec![self.node];
        nodes.extend(self.inner);
        nodes
    }
}

fn text(x: i32, y: i32, style: Style, words: String) -> Text {
    Text { x, y, class: style.0, words, ends: false, slot: None }
}

/// A way in, not placed yet.
fn way(way: &Way) -> Node {
    let (class, what) = match way.sort {
        Sort::Forward => ("way forward", "Forward"),
        Sort::Site => ("way site", "Site"),
    };
    Node {
        key: way.key.clone(),
        class: class.to_owned(),
        label: format!("{what} {} to {}", way.from, way.to),
        texts: vec![text(0, 0, IN_WAY, format!("{} → {}", way.from, way.to))],
        ..Node::default()
    }
}

/// Moves boxes that were made at the origin.
pub(super) fn place(nodes: &mut [Node], x: i32, y: i32) {
    for node in nodes {
        (node.at.x, node.at.y) = (node.at.x + x, node.at.y + y);
        for text in &mut node.texts {
            (text.x, text.y) = (text.x + x, text.y + y);
        }
    }
}

/// How wide the widest of these is in its style, as a box.
fn around<'a>(words: impl Iterator<Item = (&'a str, Style)>) -> i32 {
    words.map(|(words, style)| width(words, style.1, style.2)).max().unwrap_or_default() + 2 * PAD
}

pub(super) fn uplink_width(uplink: &Uplink) -> i32 {
    let title = width(&uplink.name, NAME.1, NAME.2) + 80 + 2 * PAD;
    around(uplink.public.iter().map(|address| (&**address, ADDRESS))).max(title)
}

pub(super) fn uplink(uplink: &Uplink, w: i32, live: bool) -> Vec<Node> {
    let class = if uplink.present { "uplink" } else { "uplink missing" };
    let mut card = Card::new("uplink", class.to_owned(), w);
    card.title(&uplink.name, if uplink.present { "uplink" } else { "missing" }, live);
    uplink.public.iter().for_each(|address| card.line(address, ADDRESS));
    card.figures(live);
    let missing = if uplink.present { "" } else { ", missing" };
    card.done(format!("Uplink {}{missing}, {}", uplink.name, uplink.public.join(", ")))
}

pub(super) fn door_width(door: &Door) -> i32 {
    around([(&*door.name, ADDRESS)].into_iter().chain(door.to.iter().map(|to| (&**to, ADDRESS)))) + 16
}

/// A site.
pub(super) fn site(site: &Door, w: i32, live: bool) -> Vec<Node> {
    let mut card = Card::new(&site.key, "door site".to_owned(), w);
    card.line(&site.name, ("mono strong", Face::Mono, 12));
    for to in &site.to {
        card.line(&format!("→ {to}"), ADDRESS);
    }
    card.figures(live);
    card.done(format!("Site {} to {}", site.name, site.to.join(", ")))
}

/// The developers' door.
pub(super) fn socks(door: &Door, w: i32, live: bool) -> Vec<Node> {
    let mut card = Card::new(&door.key, "door socks".to_owned(), w);
    card.line("SOCKS5, for browsers", SMALL);
    card.line(&door.name, ADDRESS);
    card.figures(live);
    card.done(format!("SOCKS5 for developers' browsers, at {}", door.name))
}

/// What a switch is, in a word or two.
fn sort(lan: &Switch) -> String {
    let more = if lan.external { ", external" } else { "" };
    format!("{}{more}", lan.mode.word())
}

/// The class of a LAN's colour.
pub(super) fn hue(lan: &Switch) -> &'static str {
    match (lan.mode, lan.external) {
        (Mode::Nat, _) => "nat",
        (Mode::Routed, _) => "routed",
        (Mode::Bridged, false) => "bridged",
        (Mode::Bridged, true) => "bridged external",
        (Mode::Isolated, _) => "isolated",
    }
}

pub(super) fn switch_width(lan: &Switch) -> i32 {
    let title = width(&lan.name, NAME.1, NAME.2) + width(&sort(lan), SMALL.1, SMALL.2).max(64) + 12 + 2 * PAD;
    let addresses = lan.addresses.iter().map(|address| (&**address, ADDRESS));
    around(addresses.chain([(&*lan.domain, SMALL), (&*lan.way, SMALL)])).max(title) + 8
}

pub(super) fn switch(lan: &Switch, w: i32, live: bool) -> Vec<Node> {
    let mut card = Card::new(&lan.key, format!("switch {}", hue(lan)), w);
    card.title(&lan.name, &sort(lan), live);
    lan.addresses.iter().for_each(|address| card.line(address, ADDRESS));
    card.line(&lan.domain, SMALL);
    card.lines(&lan.way, SMALL);
    card.figures(live);
    card.node.mark = Mark::Ports { height: card.y - 8 };
    let count = lan.members.len();
    let label =
        format!("LAN {}, {}, {}, {}; {count} plugged in", lan.name, sort(lan), lan.addresses.join(", "), lan.way);
    card.done(label)
}

pub(super) fn member_width(member: &Member) -> i32 {
    let title = width(&member.name, NAME.1, NAME.2) + 14 + 76 + 2 * PAD;
    let ways = member.ways.iter().map(|way| width(&format!("{} → {}", way.from, way.to), IN_WAY.1, IN_WAY.2) + 16);
    let ways = ways.max().unwrap_or_default() + 2 * PAD;
    around(member.addresses.iter().map(|address| (&**address, ADDRESS))).max(title).max(ways)
}

/// Something that is plugged in.
pub(super) fn member(member: &Member, w: i32, live: bool) -> Vec<Node> {
    let guest = member.key.starts_with("guest:");
    let mut card = Card::new(&member.key, format!("member {}", member.kind), w);
    if live && guest {
        card.node.mark = Mark::Light;
    }
    card.title(&member.name, member.kind, live && guest);
    member.addresses.iter().for_each(|address| card.line(address, ADDRESS));
    card.figures(live && guest);
    card.ways(&member.ways);
    let reached: Vec<String> = member.ways.iter().take(SHOWN).map(|way| format!("{} {}", way.from, way.to)).collect();
    let reached = if reached.is_empty() { String::new() } else { format!("; reached by {}", reached.join(", ")) };
    let what = if guest { "Guest " } else { "" };
    card.done(format!("{what}{}, {}, {}{reached}", member.name, member.kind, member.addresses.join(", ")))
}

/// The world.
pub(super) fn world(at: Area, radius: i32) -> Node {
    Node {
        key: "world".to_owned(),
        class: "world".to_owned(),
        label: "The world".to_owned(),
        at,
        mark: Mark::Globe { radius },
        ..Node::default()
    }
}

/// Words that are nobody's.
pub(super) fn caption(x: i32, y: i32, words: &str) -> Text {
    text(x, y, ("caption", Face::Plain, 12), words.to_owned())
}
