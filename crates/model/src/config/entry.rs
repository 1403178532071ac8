//! `[acme]`, `[http]`, `[socks]`, `[web]` and `[check]`.

use std::net::SocketAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::de::DeValue;

use super::grammar::{self, Reach, Seconds};
use super::reader::{Bad, Section, count, shown, text, word};
use super::{List, Spanned};
use crate::network::LogFormat;

/// `[acme]` as written.
#[derive(Clone, Debug)]
pub struct Acme {
    /// Its header.
    pub span: Range<usize>,
    /// Whom the authority writes to.
    pub email: Option<Spanned<String>>,
    /// The authority's directory.
    pub directory: Option<Spanned<String>>,
    /// The folder that accounts and certificates are kept in.
    pub storage: Option<Spanned<String>>,
}

/// `[http]` as written.
#[derive(Clone, Debug)]
pub struct Http {
    /// Its header.
    pub span: Range<usize>,
    /// Whose X-Forwarded-* are believed.
    pub trusted_proxies: Option<List<IpNet>>,
    /// Where requests are written down.
    pub access_log: Option<Spanned<AccessLog>>,
    /// What a client may take.
    pub limits: Option<Spanned<Limits>>,
}

/// Where requests are written down, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Whether they are at all.
    pub on: bool,
    /// To this file; with the other messages where unset.
    pub file: Option<String>,
    /// How.
    pub format: LogFormat,
}

/// What a client of the sites may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, of all clients.
    pub max_connections: Option<Spanned<u64>>,
    /// Connections at once of one client.
    pub max_connections_per_client: Option<Spanned<u64>>,
    /// Bytes of a request's head.
    pub max_header: Option<Spanned<u64>>,
    /// Bytes of a request's body.
    pub max_body: Option<Spanned<u64>>,
    /// How long a request may take to arrive.
    pub timeout: Option<Spanned<Seconds>>,
}

/// `[socks]` as written.
#[derive(Clone, Debug)]
pub struct Socks {
    /// Its header.
    pub span: Range<usize>,
    /// Loopback sockets.
    pub listen: Option<List<SocketAddr>>,
    /// The LANs that may be entered.
    pub lans: Option<List<String>>,
}

/// `[web]` as written.
#[derive(Clone, Debug)]
pub struct Web {
    /// Its header.
    pub span: Range<usize>,
    /// Loopback sockets.
    pub listen: Option<List<SocketAddr>>,
    /// The file with the token.
    pub token_file: Option<Spanned<String>>,
}

/// `[check]` as written.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// What the world should answer.
    pub reach: Option<List<Reach>>,
}

pub(super) fn read_acme(section: &mut Section<'_>) -> Acme {
    Acme {
        span: section.span.clone(),
        email: section.one("email", email),
        directory: section.one("directory", https),
        storage: section.one("storage", text),
    }
}

pub(super) fn read_http(section: &mut Section<'_>) -> Http {
    Http {
        span: section.span.clone(),
        trusted_proxies: section.list("trusted-proxies", grammar::cidr_or_address),
        access_log: section.with("access-log", read_access_log),
        limits: section.with("limits", read_limits),
    }
}

pub(super) fn read_socks(section: &mut Section<'_>) -> Socks {
    Socks { span: section.span.clone(), listen: sockets(section), lans: section.list("lans", text) }
}

pub(super) fn read_web(section: &mut Section<'_>) -> Web {
    Web { span: section.span.clone(), listen: sockets(section), token_file: section.one("token-file", text) }
}

pub(super) fn read_check(section: &mut Section<'_>) -> Check {
    Check { reach: section.list("reach", grammar::reach) }
}

fn sockets(section: &mut Section<'_>) -> Option<List<SocketAddr>> {
    let list = section.one_or_list("listen", grammar::loopback_socket);
    section.not_empty(list, "leave it out for the default")
}

fn read_limits<'t>(section: &mut Section<'t>, value: &'t toml::Spanned<DeValue<'t>>) -> Option<Limits> {
    let DeValue::Table(table) = value.get_ref() else {
        let bad = Bad::wrong_type(value.get_ref(), "a table").help("write [http.limits], and the keys below it");
        section.report(bad.at(value.span()));
        return None;
    };
    Some(section.inner("`limits`", value.span(), table, |limits| Limits {
        max_connections: limits.one("max-connections", count),
        max_connections_per_client: limits.one("max-connections-per-client", count),
        max_header: limits.one("max-header", count),
        max_body: limits.one("max-body", count),
        timeout: limits.one("timeout", grammar::duration),
    }))
}

fn read_access_log<'t>(section: &mut Section<'t>, value: &'t toml::Spanned<DeValue<'t>>) -> Option<AccessLog> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(section.inner("`access-log`", value.span(), table, |log| AccessLog {
            on: true,
            file: log.one("file", log_file).map(|file| file.value),
            format: log.one("format", log_format).map_or(LogFormat::Combined, |format| format.value),
        }));
    }
    let log = match value.get_ref() {
        DeValue::Boolean(on) => Ok(AccessLog { on: *on, file: None, format: LogFormat::Combined }),
        other => log_file(other).map(|file| AccessLog { on: true, file: Some(file), format: LogFormat::Combined }),
    };
    log.map_err(|bad| section.report(bad.at(value.span()))).ok()
}

fn log_file(value: &DeValue<'_>) -> Result<String, Bad> {
    let path = text(value)?;
    if path.starts_with('/') && !path.ends_with('/') {
        return Ok(path);
    }
    let bad = Bad::new(format!("\"{}\" is no absolute path of a file", shown(&path)));
    Err(bad.help("write one such as \"/var/log/warren/access.log\""))
}

fn log_format(value: &DeValue<'_>) -> Result<LogFormat, Bad> {
    word(value, &[("combined", LogFormat::Combined), ("json", LogFormat::Json)])
}

fn email(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    let fine = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    if fine && !text.contains(char::is_whitespace) {
        return Ok(text);
    }
    Err(Bad::new(format!("\"{}\" is no mail address", shown(&text))))
}

fn https(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    if text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) {
        return Ok(text);
    }
    let bad = Bad::new(format!("\"{}\" is no URL of an ACME directory", shown(&text)));
    Err(bad.help("write one such as \"https://acme-v02.api.letsencrypt.org/directory\""))
}
