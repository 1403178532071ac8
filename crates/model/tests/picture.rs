//! The picture: goldens, and what holds of the picture of any network. `UPDATE_GOLDENS=1` rewrites what is expected.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test reads its goldens")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use model::facts::HostFacts;
use model::network::{self, Network};
use model::picture::layout::{Drawing, Form, lay_out};
use model::picture::scene::Scene;
use model::picture::{self, svg};
use proptest::prelude::*;

mod common;
use common::networks_up_to;

fn network(text: &str) -> Network {
    let (config, problems) = model::config::parse(text);
    assert_eq!(problems, []);
    network::resolve(&config, &HostFacts::assumed("eth0".parse().unwrap())).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/picture")
}

/// What differs from what is expected; rewritten where that is asked for.
fn differs(path: &Path, found: &str) -> Option<String> {
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    (expected != found).then(|| path.display().to_string())
}

#[test]
fn every_picture_is_drawn_as_it_should_be() {
    let mut wrong = Vec::new();
    for case in ["office", "modes"].map(|name| folder().join(name)) {
        let network = network(&fs::read_to_string(case.join("warren.toml")).unwrap());
        wrong.extend(differs(&case.join("map.svg"), &picture::svg(&network)));
        wrong.extend(differs(&case.join("map.txt"), &picture::text(&network)));
        let parts = picture::Pictures::of(&network);
        wrong.extend(differs(&case.join("wide.svg"), &parts.wide));
        wrong.extend(differs(&case.join("narrow.svg"), &parts.narrow));
    }
    assert!(wrong.is_empty(), "these differ: {wrong:?}");
}

/// A network of so many guests on a LAN each.
fn crowd(guests: &[u32]) -> String {
    let mut text = "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n".to_owned();
    for (lan, count) in guests.iter().enumerate() {
        write!(text, "[lan.br{lan}]\naddress = [\"10.{lan}.0.1/16\"]\n").unwrap();
        for nth in 0..*count {
            let (high, low) = (1 + nth / 200, 1 + nth % 200);
            let name = format!("machine-{lan}-{nth}");
            write!(
                text,
                "[guest.{name}]\nkind = \"netns\"\nlan = \"br{lan}\"\naddress = [\"10.{lan}.{high}.{low}\"]\n"
            )
            .unwrap();
            if nth % 3 == 0 {
                let port = 20_000 + lan as u32 * 1000 + nth;
                write!(text, "[[forward]]\nlisten = {port}\nto = \"{name}:22\"\n").unwrap();
            }
        }
    }
    text
}

/// What holds of every picture.
fn assert_sound(network: &Network) {
    let scene = Scene::of(network);
    for (form, live) in [(Form::Wide, false), (Form::Wide, true), (Form::Narrow, true)] {
        let drawing = lay_out(&scene, form, live);
        assert_placed(&drawing);
        assert_whole(network, &drawing);
        let written = svg::whole(&drawing);
        assert_eq!(written, svg::whole(&lay_out(&Scene::of(network), form, live)), "the same each time");
        assert_well_formed(&written);
        assert_well_formed(&svg::part(&drawing));
    }
}

/// No box lies over another, all of them are in the picture, and words are in their boxes.
fn assert_placed(drawing: &Drawing) {
    let outer: Vec<_> = drawing.nodes.iter().filter(|node| !node.within).collect();
    for (nth, node) in outer.iter().enumerate() {
        for other in &outer[..nth] {
            assert!(!node.at.overlaps(&other.at), "{} lies over {}: {:?} {:?}", node.key, other.key, node.at, other.at);
        }
    }
    let picture = model::picture::layout::Area { x: 0, y: 0, w: drawing.width, h: drawing.height };
    assert!(picture.holds(&drawing.frame));
    for node in outer.iter().filter(|node| node.key != "world") {
        assert!(drawing.frame.holds(&node.at), "{} is not in the frame: {:?}", node.key, node.at);
    }
    let mut around = None;
    let mut inner: Vec<&model::picture::layout::Node> = Vec::new();
    for node in &drawing.nodes {
        if node.within {
            let parent: &model::picture::layout::Node = around.unwrap();
            assert!(parent.at.holds(&node.at), "{} is not in {}", node.key, parent.key);
            assert!(inner.iter().all(|other| !other.at.overlaps(&node.at)), "{} lies over another", node.key);
            inner.push(node);
        } else {
            (around, inner) = (Some(node), Vec::new());
        }
        for text in &node.texts {
            let inside =
                (node.at.x..=node.at.right()).contains(&text.x) && (node.at.y..=node.at.bottom()).contains(&text.y);
            assert!(inside, "{} of {} stands outside", text.words, node.key);
        }
    }
    for (x, y) in drawing.lines.iter().flat_map(|line| &line.points) {
        assert!((0..=drawing.width).contains(x) && (0..=drawing.height).contains(y));
    }
}

/// Every guest, forward and site is there.
fn assert_whole(network: &Network, drawing: &Drawing) {
    let has = |key: &str| drawing.nodes.iter().any(|node| node.key == key);
    for guest in &network.guests {
        let key = format!("guest:{}", guest.name);
        let of = drawing.nodes.iter().position(|node| node.key == key).unwrap_or_else(|| panic!("no {key}"));
        assert!(drawing.nodes[of].label.contains(&guest.name));
        assert!(drawing.lines.iter().any(|line| line.key == key), "{key} hangs on nothing");
        // Its forwards are in its box.
        let inside: Vec<&str> =
            drawing.nodes[of + 1..].iter().take_while(|node| node.within).map(|node| node.key.as_str()).collect();
        for forward in network.forwards.iter().filter(|forward| forward.guest.as_ref() == Some(&guest.name)) {
            let at = forward.address.map_or_else(|| "*".to_owned(), |address| address.to_string());
            let key = format!("forward:{at} {}/{}", forward.ports, forward.transport);
            assert!(inside.contains(&&*key) || inside.contains(&"more"), "{key} is not at {}: {inside:?}", guest.name);
        }
        let dmzs = network.dmzs.iter().filter(|dmz| dmz.guest.as_ref() == Some(&guest.name)).count();
        assert_eq!(inside.iter().filter(|key| key.starts_with("dmz:")).count(), dmzs);
    }
    for nth in 0..network.sites.len() {
        assert!(has(&format!("site:{nth}")));
    }
    for lan in &network.lans {
        assert!(has(&format!("lan:{}", lan.bridge)));
    }
    assert!(has("uplink") && has("world"));
}

/// XML with each element closed, and nothing but text between them.
fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    for piece in text.split('<').skip(1) {
        let (tag, rest) = piece.split_once('>').expect("a tag ends");
        assert!(!rest.contains('>') || open.last() == Some(&"style"), "{rest}");
        assert!(!tag.contains(['\n', '\u{0}']) && tag.matches('"').count() % 2 == 0, "{tag}");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
        assert!(
            ["svg", "title", "desc", "style", "g", "rect", "path", "circle", "ellipse", "text"]
                .contains(&tag.trim_start_matches('/').split([' ', '/']).next().unwrap()),
            "{tag}"
        );
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn many_guests_and_long_names_have_room() {
    for guests in [&[50][..], &[200], &[1, 7, 16, 60, 61, 141], &[0]] {
        assert_sound(&network(&crowd(guests)));
    }
    let long = "a".repeat(63);
    let host = format!("{long}.{long}.{long}.example.org");
    let text = format!(
        "[lan.a23456789012345]\naddress = [\"10.0.0.1/24\"]\ndomain = \"{host}\"\n[guest.{long}]\nkind = \"netns\"\n\
         address = [\"10.0.0.2\"]\n[[forward]]\nlisten = 80\nto = \"{long}\"\n[[site]]\nhost = \"{host}\"\nlisten = [\"0.0.0.0:81\"]\npath = \"/{long}\"\nto = \"{long}\"\n"
    );
    assert_sound(&network(&text));
}

/// Names that this program's own files could not hold come out as text.
#[test]
fn what_would_be_markup_is_text() {
    let mut network = network(&crowd(&[3]));
    let hostile = "</text><script>alert(1)</script>&\"'\u{0}\u{1b}[2J\u{202e}\n]]>";
    network.guests[0].name = hostile.to_owned();
    network.lans[0].domain = hostile.to_owned();
    network.forwards[0].guest = Some(hostile.to_owned());
    assert_sound(&network);
    let written = picture::svg(&network);
    assert!(!written.contains("<script") && written.contains("&lt;script&gt;"), "{written}");
    assert!(!written.contains('\u{202e}'));
    assert!(!picture::text(&network).contains('\u{1b}'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_network_is_drawn_over_itself(network in networks_up_to(5, 24, 30)) {
        assert_sound(&network);
    }
}

/// The contrast of two colours by WCAG 2.
fn contrast(a: &str, b: &str) -> f64 {
    let light = |colour: &str| -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (a, b) = (light(a), light(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn words_can_be_read_by_day_and_by_night() {
    let colour = |night: bool, name: &str| {
        let (_, light, dark) = svg::COLOURS.iter().find(|(known, _, _)| *known == name).unwrap();
        if night { *dark } else { *light }
    };
    for night in [false, true] {
        for (words, on) in [
            ("ink", "card"),
            ("soft", "card"),
            ("soft", "frame"),
            ("soft", "paper"),
            ("bad", "card"),
            ("good", "card"),
            ("bad", "paper"),
            ("nat", "natwash"),
            ("site", "sitewash"),
            ("ink", "paper"),
        ] {
            let found = contrast(colour(night, words), colour(night, on));
            assert!(found >= 4.5, "{words} on {on}: {found:.2}");
        }
        for line in ["nat", "routed", "bridged", "isolated", "site", "quiet"] {
            let found = contrast(colour(night, line), colour(night, "frame"));
            assert!(found >= 3.0, "{line}: {found:.2}");
        }
    }
    assert!(!svg::style().contains('$'), "{}", svg::style());
}
