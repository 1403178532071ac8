//! What sites mean: `[[site]]`, `[acme]` and `[http]` with every default filled in.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A site: host names, and the guests that they are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Host names, in lower case; `*.example.org` stands for a level.
    pub hosts: Vec<String>,
    /// A prefix of the path, by whole segments.
    pub path: String,
    /// Its guests; none where it is a redirect.
    pub to: Vec<Backend>,
    /// An URL instead of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// How requests are dealt out.
    pub balance: Balance,
    /// When a guest counts as dead.
    pub health: Health,
    /// How TLS is done.
    pub tls: Tls,
    /// Where it listens, in the file's order.
    pub entries: Vec<Entry>,
    /// `Strict-Transport-Security`, in seconds (RFC 6797).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<u64>,
    /// What is answered while it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<String>,
    /// Whether guests are told of the client by the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// What is spoken to the guests.
    pub upstream: Upstream,
}

/// A guest that a site is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The guest's name.
    pub guest: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.guest, self.port)
    }
}

/// How requests are dealt out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To whom has the fewest.
    LeastConnections,
    /// A client always to the same.
    ClientHash,
}

/// When a guest counts as dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// An HTTP path to ask for; a TCP connect where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often it is asked, in milliseconds.
    pub interval: u64,
    /// How long its answer may take, in milliseconds.
    pub timeout: u64,
    /// Failures in a row until it is dead.
    pub failures: u64,
    /// Successes in a row until it lives again.
    pub successes: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self { path: None, interval: 5000, timeout: 5000, failures: 3, successes: 2 }
    }
}

/// How TLS is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// A certificate by ACME (RFC 8555).
    Acme,
    /// A certificate in files; absolute paths.
    Files {
        /// The chain, in PEM.
        cert: String,
        /// Its key, in PEM.
        key: String,
    },
    /// A certificate of our own making.
    SelfSigned,
    /// By SNI to the guest, untouched.
    Passthrough,
    /// None.
    Off,
}

/// What is spoken to the guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113).
    H2c,
}

/// Whether guests are told of the client by the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Not.
    #[default]
    Off,
    /// In text.
    V1,
    /// In binary.
    V2,
}

/// A TCP port of the host's that a site listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// At that address, or at every public one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// What holds for all sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Whose `X-Forwarded-*` and `Forwarded` are believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Where requests are written down, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Connections at once, of all clients.
    pub max_connections: u64,
    /// Connections at once of one client.
    pub max_connections_per_client: u64,
    /// Bytes of a request's head.
    pub max_header: u64,
    /// Bytes of a request's body; any number where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    /// How long a request's head may take to arrive, and how long nothing may come or go, in milliseconds.
    pub timeout: u64,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            access_log: None,
            max_connections: 8192,
            max_connections_per_client: 1024,
            max_header: 32 << 10,
            max_body: None,
            timeout: 30_000,
        }
    }
}

impl Http {
    /// Whether it says nothing but what goes without saying.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where requests are written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// The file, an absolute path; with the other messages where unset.
    pub file: Option<String>,
    /// How.
    pub format: LogFormat,
}

/// How requests are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// As Apache's and nginx's `combined`.
    #[default]
    Combined,
    /// An object a line.
    Json,
}

/// Certificates by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// Whom the authority writes to.
    pub email: Option<String>,
    /// The authority's directory.
    pub directory: String,
    /// The folder that accounts and certificates are kept in, where it is not the state folder's own.
    pub storage: Option<String>,
}

impl Site {
    /// Whether it is bound at that entry of its own: 443 beside 80 is nothing to a site without TLS.
    #[must_use]
    pub fn is_bound(&self, entry: Entry) -> bool {
        let plain = Entry { port: 80, ..entry };
        self.tls != Tls::Off || entry.port != 443 || !self.entries.contains(&plain)
    }
}
