//! A picture as SVG (1.1). All of its colours are in its style, in a light and a dark set.

use std::fmt::Write as _;

use super::layout::{Area, Drawing, Line, Mark, Node, Text};

/// The style, with `$NAME` for each colour.
const STYLE: &str = include_str!("style.css");

/// The colours: by day, and by night. Words stand out from what they stand on by 4.5 to 1 and more (WCAG 2, AA).
pub const COLOURS: [(&str, &str, &str); 17] = [
    ("paper", "#f6f5f1", "#121518"),
    ("frame", "#fcfbf8", "#171b1f"),
    ("card", "#ffffff", "#20262b"),
    ("rule", "#dcd8cd", "#333b42"),
    ("edge", "#c9c5b9", "#434d56"),
    ("ink", "#1c2329", "#e8ebed"),
    ("soft", "#59636c", "#a5afb8"),
    ("quiet", "#828a92", "#6d7780"),
    ("nat", "#0d6e73", "#58c2c4"),
    ("routed", "#3d51ad", "#92a6f5"),
    ("bridged", "#8a5600", "#e0a94f"),
    ("isolated", "#5d6670", "#98a2ac"),
    ("site", "#7b3c98", "#cd98e6"),
    ("natwash", "#e6f2f1", "#17302f"),
    ("sitewash", "#f4eaf8", "#31223a"),
    ("good", "#2c7a4b", "#6cc58d"),
    ("bad", "#b3261e", "#ff8f85"),
];

/// How the parts of a picture look, by day and, where the reader's screen is dark, by night.
#[must_use]
pub fn style() -> String {
    let filled = |pick: fn(&(&'static str, &'static str, &'static str)) -> &'static str, rules: &str| {
        let mut colours: Vec<_> = COLOURS.iter().collect();
        // The longer names first: one may begin with another.
        colours.sort_by_key(|(name, _, _)| std::cmp::Reverse(name.len()));
        colours.into_iter().fold(rules.to_owned(), |text, colour| text.replace(&format!("${}", colour.0), pick(colour)))
    };
    let coloured: String = STYLE.lines().filter(|line| line.contains('$')).map(|line| format!("{line}\n")).collect();
    format!(
        "{}@media (prefers-color-scheme: dark) {{\n{}}}\n",
        filled(|(_, light, _)| light, STYLE),
        filled(|(_, _, dark)| dark, &coloured)
    )
}

/// A picture that stands for itself.
#[must_use]
pub fn whole(drawing: &Drawing) -> String {
    let (w, h) = (drawing.width, drawing.height);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
         role=\"img\" aria-labelledby=\"title description\">\n<title id=\"title\">The network</title>\n\
         <desc id=\"description\">{}</desc>\n<style>\n{}</style>\n<rect class=\"paper\" width=\"{w}\" height=\"{h}\"/>",
        escaped(&described(drawing)),
        style()
    );
    body(&mut out, drawing);
    out.push_str("</svg>\n");
    out
}

/// A picture as a part of a page, which has its style.
#[must_use]
pub fn part(drawing: &Drawing) -> String {
    let (w, h) = (drawing.width, drawing.height);
    let mut out = format!("<svg class=\"map\" viewBox=\"0 0 {w} {h}\" role=\"group\" aria-label=\"The network\">\n");
    body(&mut out, drawing);
    out.push_str("</svg>\n");
    out
}

/// All of it in words.
fn described(drawing: &Drawing) -> String {
    let boxes = drawing.nodes.iter().filter(|node| !node.within).map(|node| node.label.as_str());
    boxes.collect::<Vec<_>>().join(". ")
}

fn body(out: &mut String, drawing: &Drawing) {
    rect(out, "frame", &drawing.frame, 16);
    drawing.lines.iter().for_each(|line| cable(out, line, drawing.live));
    drawing.captions.iter().for_each(|caption| words(out, caption));
    drawing.nodes.iter().for_each(|node| boxed(out, node, drawing.live));
}

fn rect(out: &mut String, class: &str, at: &Area, round: i32) {
    let Area { x, y, w, h } = at;
    let _ = writeln!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"{round}\"/>");
}

fn boxed(out: &mut String, node: &Node, live: bool) {
    let (key, label) = (escaped(&node.key), escaped(&node.label));
    let role = if live { format!(" role=\"button\" tabindex=\"0\" aria-label=\"{label}\"") } else { String::new() };
    let _ = writeln!(out, "<g class=\"node {}\" data-key=\"{key}\"{role}><title>{label}</title>", node.class);
    match node.mark {
        Mark::Globe { radius } => globe(out, &node.at, radius),
        _ => rect(out, "box", &node.at, if node.within { node.at.h / 2 } else { 9 }),
    }
    match node.mark {
        Mark::Ports { height } => {
            let at = Area { x: node.at.right() - 4, y: node.at.y + 10, w: 8, h: height };
            rect(out, "ports", &at, 3);
        }
        Mark::Light => {
            let (x, y) = (node.at.x + 18, node.at.y + 20);
            let _ = writeln!(out, "<circle class=\"light\" cx=\"{x}\" cy=\"{y}\" r=\"4.5\"/>");
        }
        Mark::None | Mark::Globe { .. } => {}
    }
    node.texts.iter().for_each(|text| words(out, text));
    out.push_str("</g>\n");
}

fn globe(out: &mut String, at: &Area, radius: i32) {
    let (x, y, half) = (at.x + at.w / 2, at.y + at.h / 2, radius * 9 / 20);
    // Where the circles of latitude meet the rim, for 30 degrees: cos and sin.
    let (reach, rise) = (radius * 866 / 1000, radius / 2);
    let _ = writeln!(
        out,
        "<circle class=\"box\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>\n\
         <path class=\"grid\" d=\"M{0} {y}H{1}M{x} {2}V{3}M{4} {5}H{6}M{4} {7}H{6}\"/>\n\
         <ellipse class=\"grid\" cx=\"{x}\" cy=\"{y}\" rx=\"{half}\" ry=\"{radius}\"/>",
        x - radius,
        x + radius,
        y - radius,
        y + radius,
        x - reach,
        y - rise,
        x + reach,
        y + rise
    );
}

fn words(out: &mut String, text: &Text) {
    if text.words.is_empty() && text.slot.is_none() {
        return;
    }
    let Text { x, y, class, ends, slot, .. } = text;
    let ends = if *ends { " text-anchor=\"end\"" } else { "" };
    let slot = slot.map(|slot| format!(" data-slot=\"{slot}\"")).unwrap_or_default();
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{ends}{slot}>{}</text>", escaped(&text.words));
}

fn cable(out: &mut String, line: &Line, live: bool) {
    let (key, path) = (escaped(&line.key), path(&line.points));
    let flow = if live { format!("<path class=\"flow\" d=\"{path}\"/>") } else { String::new() };
    let class = &line.class;
    let _ =
        writeln!(out, "<g class=\"cable {class}\" data-line=\"{key}\"><path class=\"wire\" d=\"{path}\"/>{flow}</g>");
}

/// A way by these corners, which are rounded.
fn path(points: &[(i32, i32)]) -> String {
    let mut path = String::new();
    for (nth, (x, y)) in points.iter().copied().enumerate() {
        let turn = nth.checked_sub(1).and_then(|before| points.get(before)).zip(points.get(nth + 1));
        match turn {
            None if nth == 0 => drop(write!(path, "M{x} {y}")),
            None => drop(write!(path, "L{x} {y}")),
            Some((before, after)) => {
                let (x1, y1) = towards((x, y), *before);
                let (x2, y2) = towards((x, y), *after);
                let _ = write!(path, "L{x1} {y1}Q{x} {y} {x2} {y2}");
            }
        }
    }
    path
}

/// The spot a little from a corner, on the way to the next one.
fn towards((x, y): (i32, i32), (to_x, to_y): (i32, i32)) -> (i32, i32) {
    let little = |from: i32, to: i32| from + (to - from).signum() * ((to - from).abs() / 2).min(8);
    (little(x, to_x), little(y, to_y))
}

/// Text within XML, in an attribute or outside of one: with what XML 1.0 has no place for, replaced.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            // What turns the direction of what stands around it would let a name lie about the rest.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
