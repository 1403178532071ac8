//! `[web]`, as it is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::{Config, elements};
use crate::network::Lan;
use crate::web::{Inside, Web, proxy_pac};

/// Where the web page listens unless the file says otherwise.
const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7117);
/// And the developers' door.
const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// The page, where the file has it, on a host with these LANs.
pub(super) fn build(config: &Config, lans: &[Lan]) -> Option<Web> {
    let web = config.web.as_ref()?;
    let listen: Vec<SocketAddr> = elements(web.listen.as_ref()).iter().map(|socket| socket.value).collect();
    let proxy_pac = config.socks.as_ref().map(|socks| {
        let door = elements(socks.listen.as_ref()).first().map_or(SOCKS, |socket| socket.value);
        let entered = |lan: &&Lan| {
            socks.lans.as_ref().is_none_or(|named| named.value.iter().any(|name| name.value == lan.bridge.as_str()))
        };
        proxy_pac(door, &Inside::of(lans.iter().filter(entered)))
    });
    Some(Web {
        listen: if listen.is_empty() { vec![WEB] } else { listen },
        token_file: web.token_file.as_ref().map(|file| file.value.clone()),
        proxy_pac,
    })
}
