//! `[host]`

use std::net::IpAddr;
use std::ops::Range;

use super::grammar::{self, Listen};
use super::reader::{Section, flag};
use super::{List, Spanned};
use crate::address::IfName;

/// `[host]` as written.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its header, where it is there.
    pub span: Option<Range<usize>>,
    /// The interface towards the world.
    pub uplink: Option<Spanned<IfName>>,
    /// The addresses that the world reaches this server on.
    pub public: Option<List<IpAddr>>,
    /// Ports that no forward may take; single ones.
    pub management: Option<List<Listen>>,
    /// Let warren rewrite the uplink's own manager configuration.
    pub take_over: Option<Spanned<bool>>,
    /// The host itself resolves guests' names.
    pub hosts_resolver: Option<Spanned<bool>>,
    /// Add the smallest rule to another tool's firewall where it stops what the file declares.
    pub fix_foreign: Option<Spanned<bool>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

pub(super) fn read(section: &mut Section<'_>) -> Host {
    let public = section.list("public", grammar::station);
    let help = "leave it out to follow the uplink's own addresses, or name at least one";
    let public = section.not_empty(public, help);
    let mut host = Host {
        span: Some(section.span.clone()),
        uplink: section.one("uplink", grammar::if_name),
        public,
        management: section.list("management", grammar::fixed_port),
        take_over: section.one("take-over", flag),
        hosts_resolver: section.one("hosts-resolver", flag),
        fix_foreign: section.one("fix-foreign", flag),
        broken: false,
    };
    host.broken = section.broken();
    host
}
