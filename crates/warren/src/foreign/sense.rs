//! Whether a packet that was dropped on its way is a probe's, or the answer to it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kernel::nft::Dropped;
use model::network::{Network, Public};
use model::probe::{Expect, PacketKind, Probe, Spot};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What of a packet tells whose it is.
struct Heard {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Source and destination port; of ICMP type and code.
    ports: [u16; 2],
    icmp: u8,
}

/// Whether `drop` belongs to `probe`, and then whether it is its answer. Addresses may have been rewritten by then:
/// what it was sent to and what it must arrive as both count.
pub(super) fn belongs(drop: &Dropped, probe: &Probe, network: &Network) -> Option<bool> {
    let heard = read(drop)?;
    let Expect::Arrives { address, port, .. } = &probe.expect else { return None };
    let is_target = |at: IpAddr| at == probe.packet.to || Some(at) == *address;
    let target_port = |given: u16, at: u16| at == given || Some(at) == *port;
    let (protocol, asks, answers) = match probe.packet.kind {
        PacketKind::Tcp(given) => (TCP, target_port(given, heard.ports[1]), target_port(given, heard.ports[0])),
        PacketKind::Udp(given) => (UDP, target_port(given, heard.ports[1]), target_port(given, heard.ports[0])),
        PacketKind::Echo if probe.packet.to.is_ipv4() => (ICMP, heard.icmp == 8, heard.icmp == 0),
        PacketKind::Echo => (ICMPV6, heard.icmp == 128, heard.icmp == 129),
        PacketKind::ArpWhoHas | PacketKind::Frame(_) => return None,
    };
    if protocol != heard.protocol {
        return None;
    }
    if asks && is_target(heard.destination) && may_send(&probe.from, heard.source, network) {
        return Some(false);
    }
    (answers && is_target(heard.source) && may_send(&probe.from, heard.destination, network)).then_some(true)
}

/// Whether `spot` may be the one with that address. A guest's is its own or, where it was rewritten already, the host's.
fn may_send(spot: &Spot, address: IpAddr, network: &Network) -> bool {
    let holder = network.guests.iter().find(|guest| guest.addresses.contains(&address));
    let public = matches!(&network.public, Public::Listed(listed) if listed.contains(&address));
    let host = public || network.lans.iter().flat_map(|lan| &lan.addresses).any(|net| net.addr() == address);
    match (spot, holder) {
        (Spot::Guest(name), Some(holder)) => holder.name == *name,
        (Spot::Guest(_) | Spot::Host, None) => host,
        (Spot::World | Spot::Neighbour, None) => !host,
        (_, Some(_)) => false,
    }
}

fn read(drop: &Dropped) -> Option<Heard> {
    let header = drop.network.as_slice();
    let (protocol, source, destination) = match header.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
            (*header.get(9)?, IpAddr::V4(address(12)?), IpAddr::V4(address(16)?))
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?));
            (*header.get(6)?, IpAddr::V6(address(8)?), IpAddr::V6(address(24)?))
        }
        _ => return None,
    };
    let transport = drop.transport.as_slice();
    let port = |at: usize| Some(u16::from_be_bytes(<[u8; 2]>::try_from(transport.get(at..at + 2)?).ok()?));
    Some(Heard { source, destination, protocol, ports: [port(0)?, port(2)?], icmp: *transport.first()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use model::foreign::Layer;
    use model::probe::Packet;

    use super::*;

    fn drop(source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> Dropped {
        let mut network = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0];
        network.extend(source);
        network.extend(destination);
        let transport = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        let name = String::new;
        Dropped {
            legacy: false,
            family: Layer::Ip,
            table: name(),
            base: name(),
            chain: name(),
            rule: None,
            iif: None,
            oif: None,
            network,
            transport,
        }
    }

    #[test]
    fn a_packet_is_its_probe_s_before_and_after_it_is_rewritten_and_so_is_its_answer() {
        let text = "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n\
                    [guest.a]\nkind = \"netns\"\naddress = [\"10.1.1.6\"]\n[guest.b]\nkind = \"netns\"\naddress = [\"10.1.1.7\"]\n";
        let facts = model::facts::HostFacts::assumed(model::address::IfName::new("eth0").unwrap());
        let (_, network) = model::network::load(text, &facts).unwrap();
        let probe = Probe {
            name: String::new(),
            row: String::new(),
            from: Spot::World,
            packet: Packet { to: "203.0.113.2".parse().unwrap(), kind: PacketKind::Tcp(8080) },
            expect: Expect::Arrives {
                at: Spot::Guest("a".to_owned()),
                address: Some("10.1.1.6".parse().unwrap()),
                port: Some(80),
                source: None,
            },
        };
        let belongs = |drop| belongs(&drop, &probe, &network);
        let (client, public, guest) = ([198, 51, 100, 7], [203, 0, 113, 2], [10, 1, 1, 6]);
        assert_eq!(belongs(drop(client, public, [40000, 8080])), Some(false));
        assert_eq!(belongs(drop(client, guest, [40000, 80])), Some(false));
        assert_eq!(belongs(drop(guest, client, [80, 40000])), Some(true));
        // Another's, to another port, from a guest.
        assert_eq!(belongs(drop(client, [10, 1, 1, 7], [40000, 80])), None);
        assert_eq!(belongs(drop(client, guest, [40000, 81])), None);
        assert_eq!(belongs(drop([10, 1, 1, 7], guest, [40000, 80])), None);
    }
}
