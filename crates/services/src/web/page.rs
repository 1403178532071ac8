//! The page: the picture of the network, and places for what a script in it hears of its state. Pure; all of it is in
//! the binary, and nothing of it is fetched from anywhere else.

use model::picture::{Pictures, svg};

const PAGE: &str = include_str!("page.html");
const LOOK: &str = include_str!("page.css");
/// What asks for the state, and shows it.
pub const SCRIPT: &str = include_str!("page.js");

/// The page with these pictures.
#[must_use]
pub fn page(pictures: Option<&Pictures>) -> String {
    let (wide, narrow) = pictures.map_or(("", ""), |pictures| (&*pictures.wide, &*pictures.narrow));
    let mut parts = PAGE.splitn(3, "<!-- picture -->");
    let mut part = || parts.next().unwrap_or_default();
    [part(), wide, part(), narrow, part()].concat()
}

/// How the page and the pictures in it look.
#[must_use]
pub fn style() -> String {
    svg::style() + LOOK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_both_pictures_and_asks_nobody_else() {
        let pictures = Pictures { wide: "<svg>wide</svg>".to_owned(), narrow: "<svg>narrow</svg>".to_owned() };
        let page = page(Some(&pictures));
        assert!(page.contains("<svg>wide</svg>") && page.contains("<svg>narrow</svg>"));
        assert!(!page.contains("<!-- picture -->"));
        for text in [&*page, &style(), SCRIPT] {
            assert!(!text.contains("//") || !text.contains("http://") && !text.contains("https://"), "{text}");
            assert!(!text.contains("@import") && !text.contains("url(") && !text.contains("innerHTML"));
        }
        // Nothing that the content security policy would have to let through.
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick"));
    }
}
