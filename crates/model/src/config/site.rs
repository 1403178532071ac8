//! `[[site]]`

use std::ops::Range;

use toml::de::DeValue;

use super::grammar::{self, EntrySocket, Seconds};
use super::reader::{Bad, Section, count, shown, text, word};
use super::{List, Spanned};
use crate::network::{Balance, ProxyProtocol, Upstream};

/// A guest that a site is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The guest's name.
    pub guest: String,
    /// Its port; 80 where unset.
    pub port: Option<u16>,
}

/// When a backend counts as dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// An HTTP path to ask for; a TCP connect where unset.
    pub path: Option<Spanned<String>>,
    /// How often.
    pub interval: Option<Spanned<Seconds>>,
    /// How long to wait.
    pub timeout: Option<Spanned<Seconds>>,
    /// Failures in a row until it is dead.
    pub failures: Option<Spanned<u64>>,
    /// Successes in a row until it lives again.
    pub successes: Option<Spanned<u64>>,
}

/// How TLS is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A certificate by itself.
    Acme,
    /// These files.
    Files {
        /// The certificate chain.
        cert: Spanned<String>,
        /// Its key.
        key: Spanned<String>,
    },
    /// A certificate of our own making.
    SelfSigned,
    /// By SNI to the guest, untouched.
    Passthrough,
    /// None.
    Off,
}

/// `Strict-Transport-Security`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hsts {
    /// On or off, for the default time.
    Flag(bool),
    /// For this long.
    For(Seconds),
}

/// What is answered while the site is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Closed or not.
    Flag(bool),
    /// Closed, with this text.
    Text(String),
}

/// `[[site]]` as written.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its header.
    pub span: Range<usize>,
    /// Its host names, in lower case.
    pub host: Option<List<String>>,
    /// A prefix of the path.
    pub path: Option<Spanned<String>>,
    /// The guests that it is on.
    pub to: Option<List<Backend>>,
    /// An URL instead of guests.
    pub redirect: Option<Spanned<String>>,
    /// How requests are dealt out.
    pub balance: Option<Spanned<Balance>>,
    /// When a backend counts as dead.
    pub health: Option<Spanned<Health>>,
    /// How TLS is done.
    pub tls: Option<Spanned<Tls>>,
    /// Where its entry listens.
    pub listen: Option<List<EntrySocket>>,
    /// `Strict-Transport-Security`.
    pub hsts: Option<Spanned<Hsts>>,
    /// Closed for the time being.
    pub maintenance: Option<Spanned<Maintenance>>,
    /// Whether guests are told of the client by the PROXY protocol.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    /// What is spoken to the guests.
    pub upstream: Option<Spanned<Upstream>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

pub(super) fn read(section: &mut Section<'_>) -> Site {
    let listen = section.one_or_list("listen", grammar::entry_socket);
    let listen = section.not_empty(listen, "leave it out for 80 and 443 of every public address");
    let mut site = Site {
        span: section.span.clone(),
        host: section.one_or_list("host", grammar::site_host),
        path: section.one("path", path),
        to: section.one_or_list("to", backend),
        redirect: section.one("redirect", url),
        balance: section.one("balance", balance),
        health: section.with("health", read_health),
        tls: section.with("tls", read_tls),
        listen,
        hsts: section.one("hsts", hsts),
        maintenance: section.one("maintenance", maintenance),
        proxy_protocol: section.one("proxy-protocol", proxy_protocol),
        upstream: section.one("upstream", upstream),
        broken: false,
    };
    if site.host.as_ref().is_none_or(|list| list.value.is_empty()) && !section.broken() {
        section.missing("host", "\"www.example.org\"");
    }
    check_destination(section, &site);
    site.broken = section.broken();
    site
}

/// A site is on guests, or points elsewhere.
fn check_destination(section: &mut Section<'_>, site: &Site) {
    match (&site.to, &site.redirect) {
        (Some(to), Some(redirect)) => {
            let bad = Bad::new("a site has `to` or `redirect`, not both").help("take one of them out");
            section.report(bad.at(redirect.span.clone()).also(to.span.clone(), "its guests stand here"));
        }
        (None, None) if !section.broken() => section.missing("to", "[\"GUEST:80\"]"),
        (Some(to), None) if to.value.is_empty() && !section.broken() => {
            let bad = Bad::new("a site on no guest").help("name a guest: to = [\"GUEST:80\"]");
            section.report(bad.at(to.span.clone()));
        }
        _ => {}
    }
}

fn path(value: &DeValue<'_>) -> Result<String, Bad> {
    let path = text(value)?;
    let bad = || Bad::new(format!("\"{}\" is no path", shown(&path)));
    if !path.starts_with('/') {
        return Err(bad().help(format!("a path begins with a slash: \"/{}\"", shown(&path))));
    }
    if path.contains(['?', '#']) || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(bad().help("a path has no white space, ? or #"));
    }
    Ok(path)
}

fn url(value: &DeValue<'_>) -> Result<String, Bad> {
    let url = text(value)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control())) {
        return Ok(url);
    }
    let bad = Bad::new(format!("\"{}\" is no URL", shown(&url)));
    Err(bad.help("write one such as \"https://www.example.org/\""))
}

fn backend(value: &DeValue<'_>) -> Result<Backend, Bad> {
    let text = text(value)?;
    let (guest, port) = match text.rsplit_once(':') {
        Some((guest, port)) => (guest, Some(grammar::port_text(port)?)),
        None => (text.as_str(), None),
    };
    if grammar::is_label(guest) {
        return Ok(Backend { guest: guest.to_owned(), port });
    }
    let bad = Bad::new(format!("\"{}\" is no guest's name", shown(guest)));
    Err(bad.help("write a guest's name, with a port or without: \"cnx6:80\""))
}

fn balance(value: &DeValue<'_>) -> Result<Balance, Bad> {
    let words = [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("client-hash", Balance::ClientHash),
    ];
    word(value, &words)
}

fn upstream(value: &DeValue<'_>) -> Result<Upstream, Bad> {
    word(value, &[("http1", Upstream::Http1), ("h2c", Upstream::H2c)])
}

fn hsts(value: &DeValue<'_>) -> Result<Hsts, Bad> {
    match value {
        DeValue::Boolean(flag) => Ok(Hsts::Flag(*flag)),
        _ => grammar::duration(value).map(Hsts::For),
    }
}

fn maintenance(value: &DeValue<'_>) -> Result<Maintenance, Bad> {
    match value {
        DeValue::Boolean(flag) => Ok(Maintenance::Flag(*flag)),
        _ => text(value).map(Maintenance::Text),
    }
}

fn proxy_protocol(value: &DeValue<'_>) -> Result<ProxyProtocol, Bad> {
    match value {
        DeValue::Boolean(true) => Ok(ProxyProtocol::V2),
        DeValue::Boolean(false) => Ok(ProxyProtocol::Off),
        _ => word(value, &[("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)]),
    }
}

fn read_health<'t>(section: &mut Section<'t>, value: &'t toml::Spanned<DeValue<'t>>) -> Option<Health> {
    let DeValue::Table(table) = value.get_ref() else {
        let bad = Bad::wrong_type(value.get_ref(), "a table").help("write { path = \"/health\", interval = \"5s\" }");
        section.report(bad.at(value.span()));
        return None;
    };
    Some(section.inner("`health`", value.span(), table, |health| Health {
        path: health.one("path", path),
        interval: health.one("interval", grammar::duration),
        timeout: health.one("timeout", grammar::duration),
        failures: health.one("failures", count),
        successes: health.one("successes", count),
    }))
}

fn read_tls<'t>(section: &mut Section<'t>, value: &'t toml::Spanned<DeValue<'t>>) -> Option<Tls> {
    if let DeValue::Table(table) = value.get_ref() {
        return section.inner("`tls`", value.span(), table, |tls| {
            let cert = tls.needed("cert", text, "\"/etc/ssl/site.pem\"");
            let key = tls.needed("key", text, "\"/etc/ssl/site.key\"");
            Some(Tls::Files { cert: cert?, key: key? })
        });
    }
    #[derive(Clone, Copy)]
    enum Word {
        Acme,
        SelfSigned,
        Passthrough,
        Off,
    }
    let words = [
        ("acme", Word::Acme),
        ("self-signed", Word::SelfSigned),
        ("passthrough", Word::Passthrough),
        ("off", Word::Off),
    ];
    match word(value.get_ref(), &words) {
        Ok(Word::Acme) => Some(Tls::Acme),
        Ok(Word::SelfSigned) => Some(Tls::SelfSigned),
        Ok(Word::Passthrough) => Some(Tls::Passthrough),
        Ok(Word::Off) => Some(Tls::Off),
        Err(bad) => {
            let bad = if bad.help.is_none() { bad.help("or { cert, key } with two files") } else { bad };
            section.report(bad.at(value.span()));
            None
        }
    }
}
