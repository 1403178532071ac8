//! The file as written, with places: every key of docs/configuration, in types, nothing filled in and nothing looked up.
//!
//! [`parse`] walks the table itself: serde would stop at the first error and lose spans. Whatever can be read is read,
//! so that one run tells of all problems at once; a section of which something could not be read says so (`broken`),
//! and what is missing from it is then not held against it.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::problem::Problem;

mod allow;
mod entry;
mod forward;
pub mod grammar;
mod guest;
mod host;
mod lan;
mod reader;
mod site;
mod suggest;

pub use allow::{Allow, Peer};
pub use entry::{AccessLog, Acme, Check, Http, Limits, Socks, Web};
pub use forward::Forward;
pub use grammar::Bandwidth;
pub use guest::{Guest, GuestKind, Limit};
pub use host::Host;
pub use lan::{Lan, Tap, Verdict};
pub use site::{Backend, Health, Hsts, Maintenance, Site, Tls};
pub use suggest::closest;

use reader::Section;
pub(crate) use reader::shown;

/// A value and the bytes of the file that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Range<usize>,
}

/// A list, each of whose elements has its own place.
pub type List<T> = Spanned<Vec<Spanned<T>>>;

impl<T> Spanned<T> {
    /// `value`, said at `span`.
    pub fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }
}

/// The elements of a list that may be absent.
pub fn elements<T>(list: Option<&List<T>>) -> &[Spanned<T>] {
    list.map_or(&[], |list| &list.value)
}

/// The file as written.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[host]`; all of it unset where the table is missing.
    pub host: Host,
    /// `[lan.NAME]`, in the file's order.
    pub lans: Vec<Lan>,
    /// `[guest.NAME]`, in the file's order.
    pub guests: Vec<Guest>,
    /// `[[forward]]`, in the file's order.
    pub forwards: Vec<Forward>,
    /// `[[allow]]`, in the file's order.
    pub allows: Vec<Allow>,
    /// `[[site]]`, in the file's order.
    pub sites: Vec<Site>,
    /// `[acme]`
    pub acme: Option<Acme>,
    /// `[http]`
    pub http: Option<Http>,
    /// `[socks]`
    pub socks: Option<Socks>,
    /// `[web]`
    pub web: Option<Web>,
    /// `[check]`; all of it unset where the table is missing.
    pub check: Check,
    /// `include`, which is reserved: the place of its value.
    pub include: Option<Range<usize>>,
    /// The file's length in bytes: the place of what is missing altogether.
    pub end: usize,
    /// Whether it is not TOML somewhere, so that whole sections may be missing from what was read.
    pub torn: bool,
}

/// Reads `text`, and says everything that is wrong with it as far as one line tells: syntax, unknown keys, wrong
/// types, values that do not follow their grammar. Problems are in the file's order. What several lines say together
/// is looked at by [`crate::network::resolve`].
#[must_use]
pub fn parse(text: &str) -> (Config, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let syntax: Vec<Problem> = errors.iter().map(|error| syntax_problem(text, error)).collect();
    let (mut config, mut problems) = read(table.get_ref(), text.len());
    config.torn = !syntax.is_empty();
    if config.torn {
        // What the recovery made of a broken line is not what was written: other problems on it would be noise.
        let broken: Vec<Range<usize>> = syntax.iter().map(|problem| lines_around(text, &problem.span)).collect();
        problems.retain(|problem| !broken.iter().any(|line| touches(line, &problem.span)));
    }
    problems.extend(syntax);
    crate::problem::sort(&mut problems);
    (config, problems)
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    let problem = Problem::config(span.clone(), format!("this is not TOML: {}", error.message()));
    // The commonest slip by far: an address without quotes, which TOML takes for the beginning of a number.
    let words = ["string values must be quoted", "invalid float", "invalid integer", "invalid datetime"];
    if words.iter().any(|word| error.message().contains(word)) {
        return problem.help("text, and so every address, is written in quotes: key = \"value\"");
    }
    problem
}

fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

fn lines_around(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor_char(text, span.start);
    let end = floor_char(text, span.end.max(span.start));
    let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let to = text[end..].find('\n').map_or(text.len(), |at| end + at);
    from..to
}

fn touches(line: &Range<usize>, span: &Range<usize>) -> bool {
    span.start <= line.end && line.start <= span.end
}

fn read(table: &DeTable<'_>, end: usize) -> (Config, Vec<Problem>) {
    let mut top = Section::new("the file", 0..0, table);
    let mut config = Config { end, ..Config::default() };
    if let Some(host) = top.table("host", "[host]", host::read) {
        config.host = host;
    }
    config.lans = top.named("lan", lan::read);
    config.guests = top.named("guest", guest::read);
    config.forwards = top.each("forward", forward::read);
    config.allows = top.each("allow", allow::read);
    config.sites = top.each("site", site::read);
    config.acme = top.table("acme", "[acme]", entry::read_acme);
    config.http = top.table("http", "[http]", entry::read_http);
    config.socks = top.table("socks", "[socks]", entry::read_socks);
    config.web = top.table("web", "[web]", entry::read_web);
    if let Some(check) = top.table("check", "[check]", entry::read_check) {
        config.check = check;
    }
    config.include = top.take("include").map(toml::Spanned::span);
    let (_, problems) = top.finish();
    (config, problems)
}

/// What a value is, in the words of TOML.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
