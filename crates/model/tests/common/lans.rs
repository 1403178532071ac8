//! The LANs of a random network.

use super::*;

/// Drawn from what the LANs are anyway: some need a rule of another's mended (nf_tables' or
/// iptables-legacy's), some a zone of firewalld's.
pub fn build_mends(sketches: &[LanSketch], lans: &[Lan]) -> Vec<Mend> {
    let each = sketches.iter().zip(lans).map(|(sketch, lan)| {
        let bridge = lan.bridge.clone();
        let way = Way { from: Some(bridge.clone()), to: sketch.tap.then(|| name("eth0")) };
        let (table, chain) = ("filter".to_owned(), "FORWARD".to_owned());
        let legacy = Mend::Legacy {
            family: Layer::Ip6,
            table: table.clone(),
            chain: chain.clone(),
            way: Way { from: way.to.clone(), to: way.from.clone() },
        };
        let accept = Mend::Accept { family: Layer::Ip, table, chain, way };
        let zone = Mend::Zone { zone: TRUSTED.to_owned(), interface: bridge };
        [sketch.egress_denied.then_some(accept), sketch.nat66.then_some(zone), sketch.second4.then_some(legacy)]
            .into_iter()
            .flatten()
    });
    each.flatten().collect()
}

pub fn build_lan(nth: usize, sketch: &LanSketch, public: &Public) -> Lan {
    let mut addresses: Vec<IpNet> = Vec::new();
    let block = u8::try_from(nth + 1).unwrap();
    if sketch.families != 2 {
        addresses.push(IpNet::new(Ipv4Addr::new(10, 1, block, 1).into(), 24).unwrap());
        if sketch.second4 {
            addresses.push(IpNet::new(Ipv4Addr::new(10, 2, block, 1).into(), 24).unwrap());
        }
    }
    if sketch.families != 0 {
        let block = u16::from(block);
        let (address, length) = match (sketch.global6, sketch.carved) {
            (true, true) => (Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, block, 0, 0, 1), 80),
            (true, false) => (Ipv6Addr::new(0x2001, 0xdb8, 0x100, block, 0, 0, 0, 1), 64),
            (false, _) => (Ipv6Addr::new(0xfd00, 0x1, 0x1, block, 0, 0, 0, 1), 64),
        };
        addresses.push(IpNet::new(address.into(), length).unwrap());
    }
    let mode = match sketch.mode {
        0 | 1 => Mode::Nat,
        2 => Mode::Isolated,
        3 => Mode::Routed,
        _ => Mode::Bridged,
    };
    let snat = |six: bool| {
        if mode != Mode::Nat {
            return Snat::Keep;
        }
        let Public::Listed(listed) = public else { return Snat::Masquerade };
        let of_family: Vec<&IpAddr> = listed.iter().filter(|address| address.is_ipv6() == six).collect();
        match usize::from(sketch.snat).checked_sub(2) {
            // The last variant masquerades although there is an address.
            Some(1) => Snat::Masquerade,
            which => of_family
                .get(which.map_or(0, |_| 1))
                .or(of_family.first())
                .map_or(Snat::Masquerade, |address| Snat::To(**address)),
        }
    };
    let bridge = format!("br{}", nth + 1);
    let outer = (mode == Mode::Bridged).then(|| outer(sketch, block, &addresses));
    if mode == Mode::Bridged {
        addresses.clear();
    }
    let carved = sketch.global6 && sketch.carved && sketch.families != 0 && mode != Mode::Bridged;
    Lan {
        port_isolation: sketch.apart,
        bridge: name(&bridge),
        mode,
        mac: Mac::derived(&[&bridge]),
        mtu: 1500,
        addresses,
        taps: if sketch.tap {
            vec![Tap { name: name(&format!("tap{}", nth + 1)), owner: None, group: None }]
        } else {
            Vec::new()
        },
        domain: format!("{bridge}.internal"),
        dns: Vec::new(),
        dhcp: None,
        snat4: snat(false),
        snat6: snat(true),
        nat66: sketch.nat66 && mode == Mode::Nat,
        egress_denied: sketch.egress_denied && matches!(mode, Mode::Nat | Mode::Routed),
        ingress_allowed: sketch.ingress_allowed && matches!(mode, Mode::Nat | Mode::Routed),
        outer,
        answers: Answers {
            v4: sketch.answers && mode == Mode::Routed,
            v6: sketch.answers && mode == Mode::Routed || carved,
        },
    }
}

/// An outer network: the uplink's own, or one of an interface beside it; the second of two has its bridge from others.
fn outer(sketch: &LanSketch, block: u8, addresses: &[IpNet]) -> Outer {
    let held: Vec<IpNet> = if sketch.answers { uplink_addresses() } else { addresses.to_vec() };
    let router = |net: &IpNet| match net.addr() {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            IpAddr::from([x, y, z, 254])
        }
        IpAddr::V6(a) => {
            let mut segments = a.segments();
            segments[7] = 0xfe;
            IpAddr::from(segments)
        }
    };
    let external = !sketch.answers && block == 2;
    let port = if sketch.answers { name("eth0") } else { name(&format!("en{block}")) };
    Outer {
        external,
        ports: if external { Vec::new() } else { vec![port.clone()] },
        carries: (!external).then_some(port),
        takeover: None,
        twins: false,
        nets: held.iter().map(IpNet::trunc).collect(),
        held: held.iter().map(IpNet::addr).collect(),
        routers: held.iter().map(router).collect(),
        forwarded: (false, false),
    }
}
