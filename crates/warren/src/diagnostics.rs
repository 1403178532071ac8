//! Problems as people read them: the line, the spot underlined, what to write instead; and as JSON.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use model::problem::{Kind, Problem};
use serde::Serialize;

/// Draws every problem against the file that it is about, in the order given: `path:line:column`, the line with the
/// spot underlined, the other place of a collision, and help. Ends with a count where there are several.
#[must_use]
pub fn render(path: &str, text: &str, problems: &[Problem], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for problem in problems {
        out.push_str(&renderer.render(&report(path, text, problem)));
        out.push_str("\n\n");
    }
    if problems.len() > 1 {
        out.push_str(&format!("{}: {} problems\n", clean(path), problems.len()));
    }
    out
}

fn report<'a>(path: &'a str, text: &'a str, problem: &'a Problem) -> Vec<Group<'a>> {
    let span = within(text, &problem.span);
    let also = problem.also.as_ref().map(|(span, what)| (within(text, span), clean(what)));
    // Two places that are near are drawn in one picture, else each in its own: only the lines around are looked at, or
    // ten thousand problems in ten thousand lines would be drawn for minutes.
    let (near, far) = match also {
        Some((other, what)) if span.start.abs_diff(other.start) <= NEAR => (Some((other, what)), None),
        other => (None, other),
    };
    let shown = near.as_ref().map_or(span.clone(), |(other, _)| span.start.min(other.start)..span.end.max(other.end));
    let (lines, first) = lines_of(text, &shown);
    let inside = |span: &Range<usize>| span.start - lines.start..span.end - lines.start;
    let mut snippet = Snippet::source(&text[lines.clone()]).line_start(first).path(path);
    snippet = snippet.annotation(AnnotationKind::Primary.span(inside(&span)));
    if let Some((other, what)) = near {
        snippet = snippet.annotation(AnnotationKind::Context.span(inside(&other)).label(what));
    }
    let mut group = Level::ERROR.primary_title(clean(&problem.message)).element(snippet);
    if let Some((other, what)) = far {
        let (lines, first) = lines_of(text, &other);
        let at = other.start - lines.start..other.end - lines.start;
        let snippet = Snippet::source(&text[lines]).line_start(first).path(path);
        group = group.element(snippet.annotation(AnnotationKind::Context.span(at).label(what)));
    }
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(clean(help)));
    }
    vec![group]
}

/// How many bytes two places may be apart to be drawn in one picture.
const NEAR: usize = 2000;

/// The whole lines that a span is on, and the number of the first.
fn lines_of(text: &str, span: &Range<usize>) -> (Range<usize>, usize) {
    let from = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let to = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    (from..to, text[..from].matches('\n').count() + 1)
}

/// What the file says may stand in a message, and a terminal must not act on it.
fn clean(message: &str) -> String {
    annotate_snippets::normalize_untrusted_str(message)
}

/// A span that the text has, at the boundaries of its characters: what is drawn must not depend on who made it.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// A problem as a program reads it. Lines and columns begin with 1; columns count characters; the end is the first
/// place behind the spot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What sort it is: `config`, `unsupported` or `conflict`.
    pub kind: Kind,
    /// Where it begins.
    pub line: usize,
    /// Where it begins in the line.
    pub column: usize,
    /// Where it ends.
    pub end_line: usize,
    /// Where it ends in the line.
    pub end_column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write or do instead.
    pub help: Option<String>,
    /// The other place of a collision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Also>,
}

/// The other place of a collision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Also {
    /// Where it begins.
    pub line: usize,
    /// Where it begins in the line.
    pub column: usize,
    /// What is there.
    pub message: String,
}

/// Every problem with its place in lines and columns, in the order given.
#[must_use]
pub fn json(text: &str, problems: &[Problem]) -> Vec<Diagnostic> {
    let lines = Lines::of(text);
    problems.iter().map(|problem| diagnostic(&lines, problem)).collect()
}

fn diagnostic(lines: &Lines<'_>, problem: &Problem) -> Diagnostic {
    let span = within(lines.text, &problem.span);
    let ((line, column), (end_line, end_column)) = (lines.place(span.start), lines.place(span.end));
    let also = problem.also.as_ref().map(|(span, what)| {
        let (line, column) = lines.place(within(lines.text, span).start);
        Also { line, column, message: what.clone() }
    });
    Diagnostic {
        kind: problem.kind,
        line,
        column,
        end_line,
        end_column,
        message: problem.message.clone(),
        help: problem.help.clone(),
        also,
    }
}

/// Where each line begins, so that ten thousand problems do not count the file's lines ten thousand times.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line and column, from 1 on, of a place that [`within`] has made sure of.
    fn place(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&start| start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        (line, self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "[host]\n# größer\nuplinck = \"eth0\"\n\n[lan.br1]\n";

    fn problems() -> Vec<Problem> {
        let at = TEXT.find("uplinck").unwrap();
        let misspelt = Problem::config(at..at + 7, "unknown key `uplinck` in [host]").help("did you mean `uplink`?");
        let lan = TEXT.find("br1").unwrap();
        let taken = Problem::conflict(lan..lan + 3, "in the way").also(1..5, "the \u{1b}[31mother");
        vec![misspelt, taken, Problem::config(TEXT.len()..TEXT.len(), "missing")]
    }

    #[test]
    fn drawn() {
        let drawn = render("warren.toml", TEXT, &problems(), false);
        for part in [
            "error: unknown key `uplinck` in [host]",
            "warren.toml:3:1",
            "3 | uplinck = \"eth0\"",
            "| ^^^^^^^",
            "help: did you mean `uplink`?",
            "warren.toml:5:6",
            "---- the ",
            "3 problems",
        ] {
            assert!(drawn.contains(part), "{part} is not in\n{drawn}");
        }
        assert!(!drawn.contains('\u{1b}'), "no colour, and no escapes out of the file");
        assert!(render("warren.toml", TEXT, &problems(), true).contains('\u{1b}'));
    }

    #[test]
    fn two_places_far_apart_are_drawn_apart() {
        let text = format!("first = 1\n{}last = 2\n", "# line\n".repeat(1000));
        let at = text.find("last").unwrap();
        let problem = Problem::config(at..at + 4, "twice").also(0..5, "the first").help("once");
        let drawn = render("f", &text, &[problem], false);
        for part in ["f:1002:1", "1002 | last = 2", "1 | first = 1", "----- the first", "help: once"] {
            assert!(drawn.contains(part), "{part} is not in\n{drawn}");
        }
        assert!(drawn.lines().count() < 15, "{drawn}");
    }

    #[test]
    fn in_json() {
        let found = json(TEXT, &problems());
        let places: Vec<_> = found.iter().map(|d| (d.line, d.column, d.end_line, d.end_column)).collect();
        assert_eq!(places, [(3, 1, 3, 8), (5, 6, 5, 9), (6, 1, 6, 1)]);
        let value = serde_json::to_value(&found).unwrap();
        assert_eq!(value[0]["kind"], "config");
        assert_eq!(value[0]["help"], "did you mean `uplink`?");
        assert_eq!(value[1]["also"]["column"], 2);
        assert!(value[2]["help"].is_null());
    }

    #[test]
    fn a_place_outside_of_the_text_is_drawn_at_its_end() {
        let far = Problem::config(1000..2000, "far");
        let inside = Problem::config(10..11, "inside of ö");
        assert!(render("f", TEXT, &[far.clone(), inside], false).contains("far"));
        assert_eq!(json(TEXT, &[far])[0].line, 6);
        assert!(render("f", "", &[Problem::config(0..0, "empty")], false).contains("empty"));
    }
}
