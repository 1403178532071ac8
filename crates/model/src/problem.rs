//! What is wrong with a configuration, as values with places; how it is drawn is the binary's business.

use std::ops::Range;

use serde::Serialize;

/// What sort of problem it is; the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The file alone is wrong: syntax, an unknown key, a wrong type, a dangling name, a contradiction. Exit 2.
    Config,
    /// The file is right, but this version of warren does not build that part yet. Exit 2, by what would have to build it.
    Unsupported,
    /// The file is right, but something on this host that is not warren's stands in the way. Exit 5.
    Conflict,
}

/// One problem, with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What sort it is.
    pub kind: Kind,
    /// Bytes of the file that it is about; an empty range at the end where something is missing altogether.
    pub span: Range<usize>,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
    /// What to write, or do, instead.
    pub help: Option<String>,
    /// Another place that it collides with, and what is there.
    pub also: Option<(Range<usize>, String)>,
}

impl Problem {
    /// A problem of `kind` at `span`.
    pub fn new(kind: Kind, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { kind, span, message: message.into(), help: None, also: None }
    }

    /// A problem of the file alone.
    pub fn config(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Kind::Config, span, message)
    }

    /// A part that is not built yet; `what` names it.
    pub fn unsupported(span: Range<usize>, what: impl std::fmt::Display) -> Self {
        Self::new(Kind::Unsupported, span, format!("{what}: not supported yet"))
    }

    /// Something of another's that stands in the way.
    pub fn conflict(span: Range<usize>, message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, span, message)
    }

    /// Adds what to do instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the other place of a collision.
    #[must_use]
    pub fn also(mut self, span: Range<usize>, what: impl Into<String>) -> Self {
        self.also = Some((span, what.into()));
        self
    }
}

/// Puts problems in the file's order and drops those that say the same twice.
pub fn sort(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| {
        let key = |p: &Problem| (p.span.start, p.span.end, p.kind);
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    problems.dedup();
}
