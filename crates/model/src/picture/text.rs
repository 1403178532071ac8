//! The picture in box characters: the world above, the uplink, each switch with what is plugged into it.

use std::fmt::Write as _;

use super::scene::{Member, Scene, Sort, Switch};

/// How many of a guest's forwards are drawn before the rest is counted.
const SHOWN_FORWARDS: usize = 4;

/// The drawing, a line end behind each line.
#[must_use]
pub fn draw(scene: &Scene) -> String {
    let mut out = String::new();
    let missing = if scene.uplink.present { "" } else { " (missing)" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  the world");
    let _ = writeln!(out, "      │");
    let _ = writeln!(out, "  ┌───┴──────────────────────────────────────────────────────");
    let _ = writeln!(out, "  │ {}{missing}  {}", scene.uplink.name, scene.uplink.public.join(", "));
    for site in &scene.sites {
        let _ = writeln!(out, "  │ site {} → {}", site.name, site.to.join(", "));
    }
    if let Some(socks) = &scene.socks {
        let _ = writeln!(out, "  │ socks {}, for the developers' browsers", socks.name);
    }
    scene.lans.iter().for_each(|lan| draw_lan(&mut out, lan));
    let _ = writeln!(out, "  └──────────────────────────────────────────────────────────");
    printable(&out)
}

/// Without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn draw_lan(out: &mut String, lan: &Switch) {
    let external = if lan.external { ", external" } else { "" };
    let parts = [format!("{}{external}", lan.mode.word()), lan.addresses.join(", "), lan.domain.clone()];
    let parts = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ");
    let _ = writeln!(out, "  │");
    let _ = writeln!(out, "  ├─ {}  {parts}  ({})", lan.name, lan.way);
    for (i, member) in lan.members.iter().enumerate() {
        let corner = if i + 1 == lan.members.len() { '└' } else { '├' };
        let _ = writeln!(out, "  │   {corner}─ {}", draw_member(member));
    }
}

fn draw_member(member: &Member) -> String {
    let addresses = member.addresses.join(", ");
    let gap = if addresses.is_empty() { "" } else { "  " };
    let mut line = format!("{}{gap}{addresses}  ({})", member.name, member.kind);
    // Sites are named above, with all that they lead to.
    let forwards: Vec<_> = member.ways.iter().filter(|way| way.sort == Sort::Forward).collect();
    for forward in forwards.iter().take(SHOWN_FORWARDS) {
        let _ = write!(line, "  ◄ {} to {}", forward.from, forward.to);
    }
    if forwards.len() > SHOWN_FORWARDS {
        let _ = write!(line, "  ◄ and {} more", forwards.len() - SHOWN_FORWARDS);
    }
    line
}
