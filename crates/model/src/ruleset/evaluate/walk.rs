//! The way of a packet past the hooks.

use super::place::{Interface, Place, Route};
use super::{Body, CtState, Fate, Fault, Flow, Origin, Outcome, Packet, chain};
use crate::address::{IfName, Mac};
use crate::ruleset::{Chain, ChainKind, Family, HookPoint, Table};

/// Ends the way here if the hook stopped the packet.
macro_rules! stop {
    ($hook:expr) => {
        if let Some(outcome) = $hook {
            return Ok(outcome);
        }
    };
}

/// The same inside a hook.
macro_rules! stop_some {
    ($chain:expr) => {
        if let Some(outcome) = $chain {
            return Ok(Some(outcome));
        }
    };
}

/// Where the kernel's nat core hangs (NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC): chains of type nat are called from
/// there, whatever their own priority, which orders them among themselves alone.
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;
/// Where conntrack looks a packet up (NF_IP_PRI_CONNTRACK): chains before it know no state.
const CONNTRACK: i32 = -200;

/// A packet on its way.
pub(super) struct Walk<'a> {
    tables: &'a [Table],
    place: &'a Place,
    pub(super) origin: Origin,
    pub(super) ether_source: Mac,
    pub(super) ether_destination: Mac,
    pub(super) body: Body,
    pub(super) flow: Flow,
    /// `iifname` and `oifname` at the hook that is being walked; empty where there is none.
    pub(super) iif: String,
    pub(super) oif: String,
    /// Whether a rule, not conntrack, rewrote the destination or the source: each is done once a flow.
    dnat_done: bool,
    snat_done: bool,
    flooded: bool,
}

/// What a hook said.
type Stop = Option<Outcome>;

impl<'a> Walk<'a> {
    pub(super) fn new(tables: &'a [Table], place: &'a Place, packet: &Packet) -> Self {
        Self {
            tables,
            place,
            origin: packet.origin.clone(),
            ether_source: packet.ether_source,
            ether_destination: packet.ether_destination,
            body: packet.body,
            flow: packet.flow,
            iif: String::new(),
            oif: String::new(),
            dnat_done: false,
            snat_done: false,
            flooded: false,
        }
    }

    pub(super) fn place(&self) -> &'a Place {
        self.place
    }

    /// Whether the packet came by a wire, with a frame's header round it.
    pub(super) fn has_ether(&self) -> bool {
        self.origin != Origin::Host
    }

    /// The whole way.
    pub(super) fn run(mut self) -> Result<Fate, Fault> {
        let outcome = match self.origin.clone() {
            Origin::Host => self.leave_host()?,
            Origin::Interface(name) => {
                let Some(interface) = self.place.interface(&name) else { return Err(Fault::NoInterface(name)) };
                match self.body {
                    Body::Ip { .. } => self.up(&interface.name, false)?,
                    // ARP is the host's own affair, and of other ether types nobody listens; inet sees neither.
                    Body::Arp { .. } | Body::Other(_) => Outcome::Host,
                }
            }
            Origin::Port(port) => {
                let Some(bridge) = self.place.bridge_of(&port) else { return Err(Fault::NoInterface(port)) };
                self.enter_port(&port, bridge)?
            }
        };
        Ok(Fate { outcome, body: self.body, dnat: self.flow.dnat, flooded: self.flooded })
    }

    /// From a socket of the host's: output, routing once more if the destination changed, postrouting.
    fn leave_host(&mut self) -> Result<Outcome, Fault> {
        let Some(to) = self.body.destination() else { return Ok(Outcome::NoRoute) };
        let mut route = self.place.route(to);
        if route == Route::None {
            return Ok(Outcome::NoRoute);
        }
        self.devices("", out_name(&route));
        stop!(self.hook(Family::Inet, HookPoint::Output)?);
        if let Some(now) = self.body.destination()
            && now != to
        {
            route = self.place.route(now);
        }
        match route {
            Route::None => Ok(Outcome::NoRoute),
            Route::Out(oif) => self.out("", &oif),
            Route::Host => {
                // Over the loopback interface and back in. The flow was set up on the way out: no rule rewrites
                // it a second time.
                self.devices("", "lo");
                stop!(self.hook(Family::Inet, HookPoint::Postrouting)?);
                (self.dnat_done, self.snat_done) = (true, true);
                self.devices("lo", "");
                stop!(self.hook(Family::Inet, HookPoint::Prerouting)?);
                stop!(self.hook(Family::Inet, HookPoint::Input)?);
                Ok(Outcome::Host)
            }
        }
    }

    /// From the wire of a bridge's port.
    fn enter_port(&mut self, port: &IfName, bridge: &'a Interface) -> Result<Outcome, Fault> {
        self.devices(port.as_str(), "");
        stop!(self.hook(Family::Bridge, HookPoint::Prerouting)?);
        let is_ip = matches!(self.body, Body::Ip { .. });
        let mut seen_by_inet = false;
        let mut to_host = self.ether_destination == bridge.mac;
        if self.place.br_netfilter && is_ip {
            let before = self.body.destination();
            self.devices(bridge.name.as_str(), "");
            stop!(self.hook(Family::Inet, HookPoint::Prerouting)?);
            seen_by_inet = true;
            if let Some(to) = self.body.destination()
                && Some(to) != before
            {
                // br_nf_pre_routing_finish: what now lies behind this same bridge is bridged there straight on,
                // anything else goes to the host.
                to_host = self.place.route(to) != Route::Out(bridge.name.clone());
            }
        }
        let group = self.ether_destination.0[0] & 1 == 1;
        if !to_host {
            let stopped = self.cross(port, bridge, is_ip)?;
            if !group {
                return Ok(stopped.unwrap_or_else(|| Outcome::Bridged(bridge.name.clone())));
            }
            // The host's own copy goes its way whatever becomes of the others.
            self.flooded = stopped.is_none();
        }
        self.devices(port.as_str(), "");
        stop!(self.hook(Family::Bridge, HookPoint::Input)?);
        if is_ip { self.up(&bridge.name, seen_by_inet) } else { Ok(Outcome::Host) }
    }

    /// From port to port of a bridge.
    fn cross(&mut self, port: &IfName, bridge: &'a Interface, is_ip: bool) -> Result<Stop, Fault> {
        self.devices(port.as_str(), "");
        stop_some!(self.hook(Family::Bridge, HookPoint::Forward)?);
        if self.place.br_netfilter && is_ip {
            self.devices(bridge.name.as_str(), bridge.name.as_str());
            stop_some!(self.hook(Family::Inet, HookPoint::Forward)?);
            // A bridged frame has no input interface here, whatever it came in by.
            self.devices("", bridge.name.as_str());
            stop_some!(self.hook(Family::Inet, HookPoint::Postrouting)?);
        }
        self.devices(port.as_str(), "");
        self.hook(Family::Bridge, HookPoint::Postrouting)
    }

    /// Up the IP stack from an interface: prerouting, the routing decision, then in or through.
    fn up(&mut self, iif: &IfName, prerouting_done: bool) -> Result<Outcome, Fault> {
        self.devices(iif.as_str(), "");
        if !prerouting_done {
            stop!(self.hook(Family::Inet, HookPoint::Prerouting)?);
        }
        let Some(to) = self.body.destination() else { return Ok(Outcome::NoRoute) };
        match self.place.route(to) {
            Route::None => Ok(Outcome::NoRoute),
            Route::Host => {
                self.devices(iif.as_str(), "");
                stop!(self.hook(Family::Inet, HookPoint::Input)?);
                Ok(Outcome::Host)
            }
            Route::Out(oif) => {
                self.devices(iif.as_str(), oif.as_str());
                stop!(self.hook(Family::Inet, HookPoint::Forward)?);
                self.out(iif.as_str(), &oif)
            }
        }
    }

    /// Out by an interface, and through its bridge where it is one.
    fn out(&mut self, iif: &str, oif: &IfName) -> Result<Outcome, Fault> {
        self.devices(iif, oif.as_str());
        stop!(self.hook(Family::Inet, HookPoint::Postrouting)?);
        if self.place.interface(oif).is_some_and(|interface| !interface.ports.is_empty()) {
            self.devices("", oif.as_str());
            stop!(self.hook(Family::Bridge, HookPoint::Output)?);
            stop!(self.hook(Family::Bridge, HookPoint::Postrouting)?);
        }
        Ok(Outcome::Sent(oif.clone()))
    }

    fn devices(&mut self, iif: &str, oif: &str) {
        iif.clone_into(&mut self.iif);
        oif.clone_into(&mut self.oif);
    }

    /// Every base chain of the hook, by priority, with conntrack's own rewriting among them.
    fn hook(&mut self, family: Family, at: HookPoint) -> Result<Stop, Fault> {
        let mut filters: Vec<(i32, &'a Table, &'a Chain)> = Vec::new();
        let mut nats = Vec::new();
        for table in self.tables.iter().filter(|table| table.family == family) {
            for chain in &table.chains {
                match chain.hook {
                    Some(hook) if hook.at == at && hook.kind == ChainKind::Filter => {
                        filters.push((hook.priority, table, chain));
                    }
                    Some(hook) if hook.at == at => nats.push((hook.priority, table, chain)),
                    _ => {}
                }
            }
        }
        // Stable: of two with one priority, the one registered first is called first.
        filters.sort_by_key(|(priority, ..)| *priority);
        nats.sort_by_key(|(priority, ..)| *priority);
        let nat_at = if matches!(at, HookPoint::Prerouting | HookPoint::Output) { NAT_DST } else { NAT_SRC };
        let split = filters.partition_point(|(priority, ..)| *priority < nat_at);
        let (before, after) = filters.split_at(split);
        for (priority, table, chain) in before {
            stop_some!(chain::base(self, table, chain, at, *priority > CONNTRACK || !early(at))?);
        }
        stop_some!(self.nat(family, at, &nats)?);
        for (_, table, chain) in after {
            stop_some!(chain::base(self, table, chain, at, true)?);
        }
        Ok(None)
    }

    /// The nat core: a new flow is shown to the chains, once for its destination and once for its source; a known
    /// one is rewritten as it was before.
    fn nat(&mut self, family: Family, at: HookPoint, chains: &[(i32, &'a Table, &'a Chain)]) -> Result<Stop, Fault> {
        if family == Family::Bridge || at == HookPoint::Forward {
            return Ok(None);
        }
        let destination = matches!(at, HookPoint::Prerouting | HookPoint::Output);
        match self.flow.state {
            CtState::Invalid => {}
            CtState::New => {
                for (_, table, chain) in chains {
                    if if destination { self.dnat_done } else { self.snat_done } {
                        break;
                    }
                    stop_some!(chain::base(self, table, chain, at, true)?);
                }
            }
            CtState::Established | CtState::Related => {
                if destination {
                    if let Some(to) = self.flow.destination.take() {
                        self.body.set_destination(to);
                    }
                } else if let Some(from) = self.flow.source.take() {
                    // Input too: what answers this host's own flow is turned back there.
                    self.body.set_source(from);
                }
            }
        }
        Ok(None)
    }

    /// Rewrites the destination, as a rule says.
    pub(super) fn rewrite_destination(&mut self, to: (std::net::IpAddr, Option<u16>)) {
        self.body.set_destination(to);
        self.flow.dnat = true;
        self.dnat_done = true;
    }

    /// Rewrites the source, as a rule says.
    pub(super) fn rewrite_source(&mut self, from: std::net::IpAddr) {
        self.body.set_source((from, None));
        self.snat_done = true;
    }
}

/// The interface that a route leaves by.
fn out_name(route: &Route) -> &str {
    match route {
        Route::Host => "lo",
        Route::Out(oif) => oif.as_str(),
        Route::None => "",
    }
}

/// The hooks at which a packet may not have met conntrack yet.
fn early(at: HookPoint) -> bool {
    matches!(at, HookPoint::Prerouting | HookPoint::Output)
}
