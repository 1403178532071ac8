//! Plans, readable when printed.

use std::fmt;

use super::{Plan, Step, TableChange};
use crate::state::{Link, LinkKind, Side, TableState};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules { changes } => {
                for (i, change) in changes.iter().enumerate() {
                    if i > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{change}")?;
                }
                Ok(())
            }
            Self::SetSysctl { sysctl, from, to: Some(to) } => {
                write!(f, "~ switch {sysctl} {} -> {to}", from.as_deref().unwrap_or("(as made)"))
            }
            Self::SetSysctl { sysctl, to: None, .. } => write!(f, "- switch {sysctl}, with its link"),
            Self::CreateNamespace { name } => write!(f, "+ namespace {name}"),
            Self::DeleteNamespace { name } => write!(f, "- namespace {name}"),
            Self::CreateLink { name, link } => write!(f, "+ {} {name}{}", link.kind, plugged(link)),
            Self::DeleteLink { name, link } => write!(f, "- {} {name}{}", link.kind, plugged(link)),
            Self::ChangeLink { name, from, to } => write!(f, "~ {} {name}: {}", to.kind, link_changes(from, to)),
            Self::AddAddress { address } => write!(f, "+ address {} on {}", address.net, address.at),
            Self::DeleteAddress { address } => write!(f, "- address {} on {}", address.net, address.at),
            Self::AddRoute { route } => write!(f, "+ {route}"),
            Self::DeleteRoute { route } => write!(f, "- {route}"),
            Self::PlugPort { name, port } => write!(f, "+ {name} plugged into {port}"),
            Self::UnplugPort { name, port } => write!(f, "- {name} plugged into {port}"),
            Self::AddMend { mend } => write!(f, "+ {mend}"),
            Self::DeleteMend { mend } => write!(f, "- {mend}"),
            Self::SetShaper { link, from: None, to: Some(to) } => write!(f, "+ limit at {link}: {to}"),
            Self::SetShaper { link, from: Some(from), to: Some(to) } => {
                write!(f, "~ limit at {link}: {from} -> {to}")
            }
            Self::SetShaper { link, from, to: None } => {
                let was = from.as_ref().map(|from| format!(": {from}")).unwrap_or_default();
                write!(f, "- limit at {link}{was}")
            }
            Self::AddProxy { proxy } => write!(f, "+ {proxy}"),
            Self::DeleteProxy { proxy } => write!(f, "- {proxy}"),
            Self::SetFile { path, from, to } => {
                let sign = match (from, to) {
                    (None, _) => "+",
                    (_, None) => "-",
                    _ => "~",
                };
                write!(f, "{sign} file {path}{}", Changed(from.as_deref().unwrap_or(""), to.as_deref().unwrap_or("")))
            }
            Self::SetHold { to: Some(to), .. } if to.on == Side::Between && to.holder.begins_anew() => {
                write!(f, "~ {} stopped, until it begins anew by its files", to.holder.words())
            }
            Self::SetHold { to: Some(to), .. } => write!(f, "~ {to}"),
            Self::SetHold { from: Some(from), to: None } => {
                write!(f, "~ {} back on {}", from.holder.words(), from.port)
            }
            Self::SetHold { from: None, to: None } => Ok(()),
        }
    }
}

impl fmt::Display for TableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace { family, from: None, to: Some(to) } => {
                write!(f, "+ table {} {}{}", family.word(), crate::ruleset::TABLE, size(to))
            }
            Self::Replace { family, from, to: None } => {
                let gone = from.as_ref().map(size).unwrap_or_default();
                write!(f, "- table {} {}{gone}", family.word(), crate::ruleset::TABLE)
            }
            Self::Replace { family, from, to: Some(to) } => {
                let why = match from {
                    Some(TableState::Disturbed(_)) => ", which somebody disturbed",
                    _ => "",
                };
                write!(f, "~ table {} {}{} made anew{why}", family.word(), crate::ruleset::TABLE, size(to))
            }
            Self::Elements { family, set, remove, add, .. } => {
                let lines = remove.iter().map(|e| ("-", e)).chain(add.iter().map(|e| ("+", e)));
                let many = remove.len() + add.len();
                for (i, (sign, element)) in lines.enumerate() {
                    if i == SHOWN_ELEMENTS {
                        return write!(f, "\n  … and {} more in {set}", many - SHOWN_ELEMENTS);
                    }
                    if i > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{sign} {set} of table {} {}: {element}", family.word(), crate::ruleset::TABLE)?;
                }
                Ok(())
            }
        }
    }
}

/// What of a text changes: the lines between those that both begin with and those that both end with.
struct Changed<'a>(&'a str, &'a str);

impl fmt::Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to): (Vec<&str>, Vec<&str>) = (self.0.lines().collect(), self.1.lines().collect());
        let same = |(a, b): &(&&str, &&str)| a == b;
        let begin = from.iter().zip(&to).take_while(same).count();
        let (from, to) = (&from[begin..], &to[begin..]);
        let end = from.iter().rev().zip(to.iter().rev()).take_while(same).count();
        let (from, to) = (&from[..from.len() - end], &to[..to.len() - end]);
        for (sign, lines) in [("-", from), ("+", to)] {
            for line in lines {
                write!(f, "\n    {sign} {line}")?;
            }
        }
        Ok(())
    }
}

/// How many elements of one set a printed plan shows before it counts the rest.
const SHOWN_ELEMENTS: usize = 20;

fn size(table: &TableState) -> String {
    match table {
        TableState::Intact(table) => {
            let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
            let elements: usize = table.sets.values().map(|set| set.elements.len()).sum();
            format!(" ({rules} rules, {elements} elements)")
        }
        TableState::Disturbed(_) => String::new(),
    }
}

fn plugged(link: &Link) -> String {
    let inner = match &link.kind {
        LinkKind::Veth(peer) => format!(" to {} in {}", peer.name, peer.namespace),
        LinkKind::Tap { .. } | LinkKind::Bridge | LinkKind::Ifb => String::new(),
    };
    let master = link.master.as_ref().map(|master| format!(", plugged into {master}")).unwrap_or_default();
    format!("{inner}{master}")
}

fn link_changes(from: &Link, to: &Link) -> String {
    let mut changes = Vec::new();
    let mut change = |what: &str, from: String, to: String| {
        if from != to {
            changes.push(format!("{what} {from} -> {to}"));
        }
    };
    let mac = |link: &Link| link.mac.map_or_else(|| "unset".into(), |mac| mac.to_string());
    let master = |link: &Link| link.master.as_ref().map_or_else(|| "unplugged".into(), ToString::to_string);
    let switched = |up: bool| if up { "up".to_owned() } else { "down".to_owned() };
    change("mac", mac(from), mac(to));
    change("mtu", from.mtu.to_string(), to.mtu.to_string());
    change("is", switched(from.up), switched(to.up));
    change("port of", master(from), master(to));
    change("hairpin", from.hairpin.to_string(), to.hairpin.to_string());
    change("isolated", from.isolated.to_string(), to.isolated.to_string());
    change("alias", from.alias.clone(), to.alias.clone());
    if let (LinkKind::Veth(from), LinkKind::Veth(to)) = (&from.kind, &to.kind) {
        change("guest's mac", from.mac.to_string(), to.mac.to_string());
        change("guest's mtu", from.mtu.to_string(), to.mtu.to_string());
        change("guest's end is", switched(from.up), switched(to.up));
    }
    changes.join(", ")
}
