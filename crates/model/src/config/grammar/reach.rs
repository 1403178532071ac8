//! Places in the world: `www.example.org:443`, `198.51.100.7`, `[2001:db8::1]:443`.

use std::net::IpAddr;

use toml::de::DeValue;

use super::listen::port_text;
use crate::config::reader::{Bad, shown, text};

/// A place in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Name or address as written, without brackets and port.
    pub host: String,
    /// The address, where it is one.
    pub address: Option<IpAddr>,
    /// The TCP port, if any.
    pub port: Option<u16>,
}

/// A name or address, with a port or without.
pub fn reach(value: &DeValue<'_>) -> Result<Reach, Bad> {
    let text = text(value)?;
    let (host, port) = if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) = inside.split_once(']').ok_or_else(|| bad(&text))?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port_text(port)?)),
            None if rest.is_empty() => (host, None),
            None => return Err(bad(&text)),
        }
    } else if text.parse::<IpAddr>().is_ok() {
        (text.as_str(), None)
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port_text(port)?)),
            None => (text.as_str(), None),
        }
    };
    let address = host.parse::<IpAddr>().ok();
    let name = host.len() <= 253 && host.split('.').all(super::is_label);
    if address.is_none() && !name {
        return Err(bad(&text));
    }
    Ok(Reach { host: host.to_owned(), address, port })
}

fn bad(text: &str) -> Bad {
    Bad::new(format!("\"{}\" is no place in the world", shown(text)))
        .help("write a name or an address, with a TCP port or without: \"www.example.org:443\", \"198.51.100.7\"")
}
