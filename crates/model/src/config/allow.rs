//! `[[allow]]`

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::de::DeValue;

use super::grammar;
use super::reader::{Bad, Section, text};
use super::{List, Spanned};
use crate::address::{Ports, Transport};

/// Who an `[[allow]]` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The world.
    World,
    /// A network.
    Net(IpNet),
    /// A guest or a LAN, by its name.
    Name(String),
}

/// `[[allow]]` as written.
#[derive(Clone, Debug)]
pub struct Allow {
    /// Its header.
    pub span: Range<usize>,
    /// Who begins.
    pub from: Option<List<Peer>>,
    /// With whom.
    pub to: Option<List<Peer>>,
    /// On which ports; all where unset.
    pub ports: Option<List<(Ports, Vec<Transport>)>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

pub(super) fn read(section: &mut Section<'_>) -> Allow {
    let span = section.span.clone();
    let mut side = |key| {
        let list: Option<Spanned<Vec<Spanned<Peer>>>> = section.one_or_list(key, peer);
        if list.as_ref().is_none_or(|list| list.value.is_empty()) && !section.broken() {
            section.missing(key, "[\"GUEST\", \"LAN\", \"world\"]");
        }
        list
    };
    let (from, to) = (side("from"), side("to"));
    let ports = section.one_or_list("ports", grammar::ports);
    let ports = section.not_empty(ports, "leave it out to allow all ports");
    Allow { span, from, to, ports, broken: section.broken() }
}

fn peer(value: &DeValue<'_>) -> Result<Peer, Bad> {
    let text = text(value)?;
    if text == "world" {
        return Ok(Peer::World);
    }
    if text.contains('/') || text.parse::<IpAddr>().is_ok() {
        return grammar::cidr_or_address(value).map(Peer::Net);
    }
    Ok(Peer::Name(text))
}
