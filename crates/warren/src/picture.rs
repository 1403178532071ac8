//! The network drawn as text: the world above, the uplink, each switch with what is plugged into it.

use std::fmt::Write as _;

use model::network::{Guest, GuestKind, Lan, Mode, Network, Public, Snat};

/// How many of a guest's forwards are drawn before the rest is counted.
const SHOWN_FORWARDS: usize = 4;

/// The network as a drawing of box characters, a line end behind each line.
pub fn text(network: &Network) -> String {
    let mut out = String::new();
    let public = match &network.public {
        Public::Listed(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Public::Dynamic => "whatever address it has".to_owned(),
    };
    let missing = if network.uplink.present { "" } else { " (missing)" };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  the world");
    let _ = writeln!(out, "      │");
    let _ = writeln!(out, "  ┌───┴──────────────────────────────────────────────────────");
    let _ = writeln!(out, "  │ {}{missing}  {public}", network.uplink.name);
    for site in &network.sites {
        let path = if site.path == "/" { "" } else { site.path.as_str() };
        let to: Vec<String> = site.to.iter().map(ToString::to_string).chain(site.redirect.clone()).collect();
        let _ = writeln!(out, "  │ site {}{path} → {}", site.hosts.join(", "), to.join(", "));
    }
    if network.socks.is_some() {
        let _ = writeln!(out, "  │ socks, for the developers' browsers");
    }
    for lan in &network.lans {
        draw_lan(&mut out, network, lan);
    }
    let _ = writeln!(out, "  └──────────────────────────────────────────────────────────");
    out
}

fn draw_lan(out: &mut String, network: &Network, lan: &Lan) {
    let addresses = lan.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let way = way_out(lan);
    let _ = writeln!(out, "  │");
    let _ = writeln!(out, "  ├─ {}  {}  {addresses}  {}  ({way})", lan.bridge, lan.mode.word(), lan.domain);
    let mut ports: Vec<String> = lan.taps.iter().map(|tap| format!("{}  (tap)", tap.name)).collect();
    ports.extend(network.guests_of(lan).map(|guest| draw_guest(network, guest)));
    for (i, port) in ports.iter().enumerate() {
        let corner = if i + 1 == ports.len() { '└' } else { '├' };
        let _ = writeln!(out, "  │   {corner}─ {port}");
    }
}

/// How a LAN's guests look from the world.
fn way_out(lan: &Lan) -> String {
    if lan.mode == Mode::Isolated {
        return "no way out".to_owned();
    }
    if lan.mode != Mode::Nat {
        return lan.mode.word().to_owned();
    }
    let mut ways = Vec::new();
    for net in &lan.addresses {
        let way = match lan.snat_for(net.addr()) {
            Snat::To(address) => format!("as {address}"),
            Snat::Masquerade => "as the uplink's address".to_owned(),
            Snat::Keep => format!("{} as it is", net.trunc()),
        };
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    format!("out {}", ways.join(", "))
}

fn draw_guest(network: &Network, guest: &Guest) -> String {
    let addresses = guest.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let kind = match guest.kind {
        GuestKind::Lxc(_) => "lxc",
        GuestKind::Vm { .. } => "vm",
        GuestKind::Netns => "netns",
        GuestKind::Reserved => "reserved",
    };
    let mut line = format!("{}  {addresses}  ({kind})", guest.name);
    let forwards: Vec<_> =
        network.forwards.iter().filter(|f| f.guest.as_deref() == Some(guest.name.as_str())).collect();
    for forward in forwards.iter().take(SHOWN_FORWARDS) {
        let at = forward.address.map(|a| format!("{a} ")).unwrap_or_default();
        let _ = write!(line, "  ◄ {at}{}/{} to :{}", forward.ports, forward.transport, forward.to_port);
    }
    if forwards.len() > SHOWN_FORWARDS {
        let _ = write!(line, "  ◄ and {} more", forwards.len() - SHOWN_FORWARDS);
    }
    line
}
