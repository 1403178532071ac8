//! How wide text is, before anybody has drawn it. The reader's fonts are not known: widths are those of DejaVu, wider
//! than nearly all others, so that what fits by them fits by others too.

/// A face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// For words.
    Plain,
    /// For what a thing is called.
    Bold,
    /// For addresses and ports.
    Mono,
}

/// A character's width in thousandths of the font's size.
fn advance(c: char, face: Face) -> i32 {
    // Ideographs and what is as wide; marks that stand over others are counted as if they stood alone.
    if u32::from(c) >= 0x1100 && !matches!(u32::from(c), 0x2000..=0x2e7f) {
        return 1100;
    }
    let plain = match c {
        _ if face == Face::Mono => return if c.is_ascii() { 603 } else { 700 },
        'i' | 'j' | 'l' | '\'' => 285,
        'I' | '.' | ',' | ':' | ';' | '|' | ' ' | 'f' | 't' | 'r' | '!' | '(' | ')' | '[' | ']' | '-' | '/' => 415,
        'm' | 'M' | 'W' | 'w' | '@' | '%' | '…' => 1010,
        'A'..='Z' => 780,
        c if c.is_ascii() => 640,
        _ => 850,
    };
    if face == Face::Bold { plain * 112 / 100 } else { plain }
}

/// The width of a text in that size, at the most.
#[must_use]
pub fn width(text: &str, face: Face, size: i32) -> i32 {
    let sum: i32 = text.chars().map(|c| advance(c, face)).fold(0, i32::saturating_add);
    (sum.saturating_mul(size) + 999) / 1000
}

/// As much of the text as has room in `room`, with an ellipsis for the rest.
#[must_use]
pub fn fit(text: &str, face: Face, size: i32, room: i32) -> String {
    if width(text, face, size) <= room {
        return text.to_owned();
    }
    let mut left = room * 1000 / size.max(1) - advance('…', face);
    let fits = |c: &char| {
        left -= advance(*c, face);
        left >= 0
    };
    let mut shown: String = text.chars().take_while(fits).collect();
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_fits() {
        for face in [Face::Plain, Face::Bold, Face::Mono] {
            for text in ["cnx6", "a-rather-long-name-of-a-guest-that-goes-on", "日本語日本語日本語", "…………………"]
            {
                for room in [30, 60, 120] {
                    let shown = fit(text, face, 13, room);
                    assert!(width(&shown, face, 13) <= room, "{shown} in {room}");
                    assert!(shown == text || shown.ends_with('…'));
                }
            }
        }
    }
}
