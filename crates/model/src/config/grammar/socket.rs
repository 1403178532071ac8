//! Addresses and ports of our own services.

use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use super::address::parse;
use super::listen::{bare_number, port_text, split};
use crate::config::reader::{Bad, shown, text};

/// `ADDRESS:PORT` on loopback.
pub fn loopback_socket(value: &DeValue<'_>) -> Result<SocketAddr, Bad> {
    if let Some(port) = bare_number(value)? {
        let bad = Bad::new("an address and a port are wanted here");
        return Err(bad.help(format!("write \"127.0.0.1:{port}\"")));
    }
    let text = text(value)?;
    let socket: SocketAddr = text.parse().map_err(|_| {
        let bad = Bad::new(format!("\"{}\" is no address and port", shown(&text)));
        bad.help("write one such as \"127.0.0.1:1080\" or \"[::1]:1080\"")
    })?;
    if socket.port() == 0 {
        return Err(Bad::new("0 is no port").help("ports go from 1 to 65535"));
    }
    if !socket.ip().is_loopback() {
        return Err(Bad::new(format!("{} is not a loopback address", socket.ip()))
            .help(format!("listen on \"127.0.0.1:{}\"; from elsewhere one comes through ssh", socket.port())));
    }
    Ok(socket)
}

/// Where a site's entry listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySocket {
    /// The address, or every public one.
    pub address: Option<IpAddr>,
    /// The port, or 80 and 443.
    pub port: Option<u16>,
}

/// A port, an address, or both.
pub fn entry_socket(value: &DeValue<'_>) -> Result<EntrySocket, Bad> {
    if let Some(port) = bare_number(value)? {
        return Ok(EntrySocket { address: None, port: Some(port) });
    }
    let text = text(value)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(EntrySocket { address: Some(address), port: None });
    }
    if text.ends_with("/udp") || text.ends_with("/tcp,udp") {
        return Err(Bad::new("a site's entry speaks TCP alone").help("leave the protocol out"));
    }
    let (address, port) = split(text.strip_suffix("/tcp").unwrap_or(&text))?;
    let address = address.map(parse).transpose()?;
    Ok(EntrySocket { address, port: Some(port_text(port)?) })
}
