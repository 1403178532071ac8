//! Walking a TOML table: what is asked for is known, what is left over is a problem.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{List, Spanned, closest, type_name};
use crate::problem::{Kind, Problem};

/// Why a value is not what its key wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// [`Kind::Config`], or [`Kind::Unsupported`] for what is reserved.
    pub kind: Kind,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Bad {
    /// A value that its grammar does not have.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Config, message: message.into(), help: None }
    }

    /// A value that is reserved for a later version.
    pub fn reserved(what: impl std::fmt::Display) -> Self {
        Self { kind: Kind::Unsupported, message: format!("{what}: not supported yet"), help: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn at(self, span: Range<usize>) -> Problem {
        Problem { kind: self.kind, span, message: self.message, help: self.help, also: None }
    }

    /// A value of another type than `wanted`, such as "text in quotes".
    pub(super) fn wrong_type(value: &DeValue<'_>, wanted: &str) -> Self {
        Self::new(format!("this is {}, but {wanted} is wanted here", type_name(value)))
    }
}

/// What a value is read by.
pub type Read<T> = fn(&DeValue<'_>) -> Result<T, Bad>;

/// A table that is being read. Every key that is asked for counts as known; [`Section::finish`] reports the others.
pub struct Section<'t> {
    /// How people call it: `[lan.br1]`.
    pub name: String,
    /// Its header, or the key that holds it.
    pub span: Range<usize>,
    table: &'t DeTable<'t>,
    asked: Vec<&'static str>,
    problems: Vec<Problem>,
    broken: bool,
}

impl<'t> Section<'t> {
    /// `table`, not read yet.
    pub fn new(name: impl Into<String>, span: Range<usize>, table: &'t DeTable<'t>) -> Self {
        Self { name: name.into(), span, table, asked: Vec::new(), problems: Vec::new(), broken: false }
    }

    /// The raw value of `key`, which is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'t toml::Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// Reports a problem; the section counts as broken.
    pub fn report(&mut self, problem: Problem) {
        self.broken = true;
        self.problems.push(problem);
    }

    /// Whether something of it could not be read so far.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Reports every key that nobody asked for. Returns whether anything was wrong, and what.
    pub fn finish(mut self) -> (bool, Vec<Problem>) {
        let table = self.table;
        let asked = std::mem::take(&mut self.asked);
        for key in table.keys().filter(|key| !asked.contains(&key.get_ref().as_ref())) {
            let written = key.get_ref().as_ref();
            let problem = Problem::config(key.span(), format!("unknown key `{}` in {}", shown(written), self.name));
            let help = match closest(written, asked.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("{} takes {}", self.name, asked.join(", ")),
            };
            self.report(problem.help(help));
        }
        (self.broken, self.problems)
    }

    /// One value.
    pub fn one<T>(&mut self, key: &'static str, read: Read<T>) -> Option<Spanned<T>> {
        let value = self.take(key)?;
        self.element(value, read)
    }

    /// A value that must be there; reported at the header where it is not.
    pub fn needed<T>(&mut self, key: &'static str, read: Read<T>, example: &str) -> Option<Spanned<T>> {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            self.missing(key, example);
            return None;
        }
        self.one(key, read)
    }

    /// Reports that `key` is not there.
    pub fn missing(&mut self, key: &str, example: &str) {
        // A misspelt key is told as such by `finish`, and once is enough.
        let misspelt = |written: &str| written != key && closest(written, [key]).is_some();
        if self.table.keys().any(|written| misspelt(written.get_ref())) {
            self.broken = true;
            return;
        }
        let problem = Problem::config(self.span.clone(), format!("{} has no `{key}`", self.name));
        self.report(problem.help(format!("add {key} = {example}")));
    }

    /// A list of values.
    pub fn list<T>(&mut self, key: &'static str, read: Read<T>) -> Option<List<T>> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Array(_) => Some(self.elements(value, read)),
            other => {
                let bad = Bad::wrong_type(other, "a list").help(format!("put it in brackets: {key} = [ … ]"));
                self.report(bad.at(value.span()));
                None
            }
        }
    }

    /// One value, or a list of them.
    pub fn one_or_list<T>(&mut self, key: &'static str, read: Read<T>) -> Option<List<T>> {
        let value = self.take(key)?;
        Some(self.elements(value, read))
    }

    /// Reports a list that is there but empty, where that would say the opposite of leaving it out.
    pub fn not_empty<T>(&mut self, list: Option<List<T>>, help: &str) -> Option<List<T>> {
        if let Some(list) = list.as_ref().filter(|list| list.value.is_empty() && !self.broken) {
            self.report(Bad::new("this list is empty").help(help).at(list.span.clone()));
        }
        list
    }

    /// A value that wants more than a function of it alone: several problems, or places inside it.
    pub fn with<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'t toml::Spanned<DeValue<'t>>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = self.take(key)?;
        read(self, value).map(|read| Spanned::new(read, value.span()))
    }

    /// The elements of a list, or the value itself as the only one.
    pub fn elements<T>(&mut self, value: &'t toml::Spanned<DeValue<'t>>, read: Read<T>) -> List<T> {
        let elements = match value.get_ref() {
            DeValue::Array(array) => array.iter().filter_map(|element| self.element(element, read)).collect(),
            _ => self.element(value, read).into_iter().collect(),
        };
        Spanned::new(elements, value.span())
    }

    fn element<T>(&mut self, value: &toml::Spanned<DeValue<'_>>, read: Read<T>) -> Option<Spanned<T>> {
        match read(value.get_ref()) {
            Ok(read) => Some(Spanned::new(read, value.span())),
            Err(bad) => {
                self.report(bad.at(value.span()));
                None
            }
        }
    }

    /// Reads a table inside this one, whose problems become this one's.
    pub fn inner<T>(
        &mut self,
        name: impl Into<String>,
        span: Range<usize>,
        table: &'t DeTable<'t>,
        read: impl FnOnce(&mut Section<'t>) -> T,
    ) -> T {
        let mut section = Section::new(name, span, table);
        let value = read(&mut section);
        let (broken, problems) = section.finish();
        self.problems.extend(problems);
        if broken {
            self.broken = true;
        }
        value
    }

    /// `[key]`: a table that stands there once.
    pub fn table<T>(&mut self, key: &'static str, name: &str, read: impl FnOnce(&mut Section<'t>) -> T) -> Option<T> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inner(name, value.span(), table, read)),
            DeValue::Array(array) if array.iter().all(|element| element.get_ref().is_table()) && !array.is_empty() => {
                let bad = Bad::new(format!("there is one {name}, not a list of them"));
                self.report(bad.help(format!("write {name} with single brackets, once")).at(value.span()));
                None
            }
            other => {
                let bad = Bad::wrong_type(other, "a table").help(format!("write {name} and its keys below it"));
                self.report(bad.at(value.span()));
                None
            }
        }
    }

    /// `[key.NAME]`: tables by name, in the file's order.
    pub fn named<T>(&mut self, key: &'static str, read: fn(&mut Section<'t>, Spanned<String>) -> T) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            let bad = Bad::wrong_type(value.get_ref(), "a table for each name");
            self.report(bad.help(format!("write [{key}.NAME] with single brackets")).at(value.span()));
            return Vec::new();
        };
        let mut entries: Vec<_> = tables.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries.into_iter().filter_map(|(name, value)| self.named_entry(key, name, value, read)).collect()
    }

    fn named_entry<T>(
        &mut self,
        key: &str,
        name: &toml::Spanned<std::borrow::Cow<'t, str>>,
        value: &'t toml::Spanned<DeValue<'t>>,
        read: fn(&mut Section<'t>, Spanned<String>) -> T,
    ) -> Option<T> {
        let DeValue::Table(table) = value.get_ref() else {
            let help = format!("write [{key}.NAME], and the keys below it");
            self.report(Bad::wrong_type(value.get_ref(), "a table").help(help).at(value.span()));
            return None;
        };
        let title = format!("[{key}.{}]", name.get_ref());
        let name = Spanned::new(name.get_ref().to_string(), name.span());
        Some(self.inner(title, name.span.clone(), table, |section| read(section, name)))
    }

    /// `[[key]]`: tables in a row.
    pub fn each<T>(&mut self, key: &'static str, read: fn(&mut Section<'t>) -> T) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let help = format!("write [[{key}]] with double brackets, once for each");
        let DeValue::Array(array) = value.get_ref() else {
            let bad = Bad::wrong_type(value.get_ref(), "a list of tables");
            self.report(bad.help(help).at(value.span()));
            return Vec::new();
        };
        let mut read_all = Vec::with_capacity(array.len());
        for element in array.iter() {
            match element.get_ref() {
                DeValue::Table(table) => {
                    read_all.push(self.inner(format!("[[{key}]]"), element.span(), table, read));
                }
                other => self.report(Bad::wrong_type(other, "a table").help(help.clone()).at(element.span())),
            }
        }
        read_all
    }
}

/// Text, not empty.
pub fn text(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = any_text(value)?;
    if text.trim().is_empty() { Err(Bad::new("this is empty")) } else { Ok(text) }
}

/// Text, which may be empty.
pub fn any_text(value: &DeValue<'_>) -> Result<String, Bad> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(Bad::wrong_type(other, "text in quotes")),
    }
}

/// `true` or `false`.
pub fn flag(value: &DeValue<'_>) -> Result<bool, Bad> {
    match value {
        DeValue::Boolean(flag) => Ok(*flag),
        DeValue::String(text) if matches!(text.as_ref(), "true" | "false" | "yes" | "no" | "on" | "off") => {
            let help = if matches!(text.as_ref(), "true" | "yes" | "on") { "write true" } else { "write false" };
            Err(Bad::wrong_type(value, "true or false").help(format!("{help}, without quotes")))
        }
        other => Err(Bad::wrong_type(other, "true or false")),
    }
}

/// A whole number that is not negative.
pub fn number(value: &DeValue<'_>) -> Result<u64, Bad> {
    match value {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str().trim_start_matches('+'), integer.radix())
            .map_err(|_| {
                if integer.as_str().starts_with('-') {
                    Bad::new("a number that is not negative is wanted here")
                } else {
                    Bad::new("this number is too large")
                }
            }),
        DeValue::String(text) if text.parse::<u64>().is_ok() => {
            Err(Bad::wrong_type(value, "a number").help(format!("write {text} without quotes")))
        }
        other => Err(Bad::wrong_type(other, "a whole number")),
    }
}

/// A whole number from 1 on.
pub fn count(value: &DeValue<'_>) -> Result<u64, Bad> {
    match number(value)? {
        0 => Err(Bad::new("at least 1 is wanted here")),
        count => Ok(count),
    }
}

/// One of some words, by their meaning.
pub fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Bad> {
    let text = any_text(value)?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let all = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let bad = Bad::new(format!("\"{}\" is none of {all}", shown(&text)));
    Err(match closest(&text, words.iter().map(|(word, _)| *word)) {
        Some(word) => bad.help(format!("did you mean \"{word}\"?")),
        None => bad,
    })
}

/// `text` as a message shows it: not endless, and on one line.
pub fn shown(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let short: String = text.chars().take(60).map(visible).collect();
    if text.chars().count() > 60 { format!("{short}…") } else { short }
}
