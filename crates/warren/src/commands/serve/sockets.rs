//! The sockets of the services: which there should be, and those that are bound. They stay here as long as they are
//! wanted, whatever becomes of the worker: what comes meanwhile waits in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use kernel::error::KernelError;
use kernel::listen;
use model::services::{LanServices, Services};
use services::protocol::{Purpose, SocketKey};

/// Those that are bound.
#[derive(Debug, Default)]
pub struct Held(pub BTreeMap<SocketKey, OwnedFd>);

impl Held {
    /// How many LANs have any.
    pub fn lans(&self) -> u64 {
        self.0.keys().filter_map(|key| key.bridge.as_ref()).collect::<std::collections::BTreeSet<_>>().len() as u64
    }

    /// Binds what is wanted and missing, and closes what is not wanted any more; what did not change stays open. Says
    /// what could not be bound.
    pub fn follow(&mut self, services: &Services) -> Vec<String> {
        let mut wanted = Vec::new();
        let mut problems = Vec::new();
        for lan in &services.lans {
            match listen::index(&lan.bridge) {
                Ok(index) => wanted.extend(keys(lan, index)),
                Err(e) => problems.push(format!("cannot serve {}: {e}", lan.bridge)),
            }
        }
        let key = |purpose, socket: &SocketAddr| SocketKey {
            purpose,
            bridge: None,
            address: Some(socket.ip()),
            port: Some(socket.port()),
            index: None,
        };
        wanted.extend(services.web.iter().flat_map(|web| &web.listen).map(|socket| key(Purpose::Web, socket)));
        wanted.extend(services.socks.iter().flat_map(|door| &door.listen).map(|socket| key(Purpose::Socks, socket)));
        wanted.extend(services.sites.sockets.iter().map(|socket| key(Purpose::Http, socket)));

        self.0.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.0.contains_key(&key) {
                continue;
            }
            match bind(&key) {
                Ok(socket) => {
                    self.0.insert(key, socket);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems
    }
}

/// What a LAN's services need.
fn keys(lan: &LanServices, index: u32) -> Vec<SocketKey> {
    let bridge = Some(lan.bridge.clone());
    let key = |purpose, address, index| SocketKey { purpose, bridge: bridge.clone(), address, port: None, index };
    let mut keys = Vec::new();
    for net in &lan.addresses {
        keys.extend([Purpose::DnsUdp, Purpose::DnsTcp].map(|purpose| key(purpose, Some(net.addr()), None)));
    }
    if lan.dhcp.is_some() {
        let purposes = [Purpose::DhcpPort, Purpose::DhcpFrames, Purpose::Arp];
        keys.extend(purposes.map(|purpose| key(purpose, None, Some(index))));
    }
    if lan.advertised.is_some() {
        keys.push(key(Purpose::Router, None, Some(index)));
    }
    keys
}

fn bind(key: &SocketKey) -> Result<OwnedFd, KernelError> {
    match (key.purpose, &key.bridge, key.address, key.port) {
        (Purpose::DnsUdp, _, Some(address), _) => listen::dns_udp(address),
        (Purpose::DnsTcp, _, Some(address), _) => listen::dns_tcp(address),
        (Purpose::Socks, _, Some(address), Some(port)) => listen::loopback(SocketAddr::new(address, port)),
        (Purpose::Web, _, Some(address), Some(port)) => listen::loopback(SocketAddr::new(address, port)),
        (Purpose::Http, _, Some(address), Some(port)) => listen::site(SocketAddr::new(address, port)),
        (Purpose::DhcpPort, Some(bridge), ..) => listen::dhcp_port(bridge),
        (Purpose::DhcpFrames, Some(bridge), ..) => listen::dhcp_frames(bridge),
        (Purpose::Arp, Some(bridge), ..) => listen::arp_frames(bridge),
        (Purpose::Router, Some(bridge), ..) => listen::router(bridge),
        // Keys are made above alone.
        _ => {
            let none = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            Err(KernelError::new("listen for", format!("{key:?}"), none))
        }
    }
}
