//! Key files, as NetworkManager keeps its connections in (nm-settings-keyfile(5)): sections of `key=value` lines, whose
//! order and comments stay as they are.

use std::fmt::Write as _;

/// A file's sections; what stands before the first has no name.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyfile {
    sections: Vec<Section>,
}

/// A section, with its lines as they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    pub(super) name: String,
    lines: Vec<String>,
}

impl Keyfile {
    pub(super) fn read(text: &str) -> Self {
        let mut sections = vec![Section::default()];
        for line in text.lines() {
            let named = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            match (named, sections.last_mut()) {
                (Some(name), _) => sections.push(Section::named(name)),
                (None, Some(section)) => section.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        Self { sections }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    pub(super) fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.section(section)?.value(key)
    }

    /// The section of that name, made where there is none.
    pub(super) fn section_mut(&mut self, name: &str) -> &mut Section {
        let at = self.sections.iter().position(|section| section.name == name);
        let at = at.unwrap_or_else(|| {
            self.push(Section::named(name));
            self.sections.len() - 1
        });
        &mut self.sections[at]
    }

    pub(super) fn push(&mut self, section: Section) {
        // A blank line in between, as NetworkManager itself writes it.
        if let Some(last) = self.sections.last_mut().filter(|last| !last.name.is_empty())
            && last.lines.last().is_none_or(|line| !line.trim().is_empty())
        {
            last.lines.push(String::new());
        }
        self.sections.push(section);
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            if !section.name.is_empty() {
                let _ = writeln!(text, "[{}]", section.name);
            }
            for line in &section.lines {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

impl Section {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), lines: Vec::new() }
    }

    /// Its keys and values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.lines.iter().map(|line| line.trim()).filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim()))
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.entries().find(|(one, _)| *one == key).map(|(_, value)| value)
    }

    /// Says `value` of the key, in the place where it stood.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        let line = format!("{key}={value}");
        let is_it = |line: &String| line.split_once('=').is_some_and(|(one, _)| one.trim() == key);
        match self.lines.iter().position(is_it) {
            Some(at) => self.lines[at] = line,
            None => {
                let end = self.lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
                self.lines.insert(end, line);
            }
        }
    }

    /// A line of its own, in front.
    pub(super) fn remark(&mut self, text: &str) {
        self.lines.insert(0, format!("# {text}"));
    }
}
