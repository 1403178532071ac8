//! The stand-in world: a router with the world behind it, a neighbour on the uplink's segment, and the server.
//!
//! ```text
//! world ---- segment (a bridge) --+-- server's uplink
//! clients and resolvers on its lo +-- neighbour's eth0
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::error::KernelError;
use kernel::netns::Netns;
use kernel::rtnl::header::RTPROT_STATIC;
use kernel::rtnl::{LinkChange, NewRoute, Rtnl, VethPeer};
use kernel::sysctl;
use model::address::{IfName, Mac};
use model::network::Network;
use model::probe::{Spot, View};
use model::state::{IpFamilyWord, Sysctl};

use crate::enter::{Entered, LabError, entered};
use crate::plan::{LabPlan, Segment};
use crate::prober::{Capture, Vantage};

/// MTU of the segment in bytes.
const MTU: u32 = 1500;
/// IF_OPER_UP of linux/if.h.
const OPER_UP: u8 = 6;
/// What a link's report of its carrier may take. It is asked for again and again, since nothing depends on it but
/// speed: a packet sent before would be lost.
const CARRIER: Duration = Duration::from_secs(5);

/// A world that stands. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Lab {
    plan: LabPlan,
    entered: Entered,
    world: Place,
    neighbour: Place,
    server: Place,
}

/// A named namespace that goes when it is dropped.
#[derive(Debug)]
struct Place {
    netns: Netns,
    name: String,
    kept: std::sync::atomic::AtomicBool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept.load(std::sync::atomic::Ordering::Relaxed) {
            // It is gone when the process is, at the latest.
            let _ = Netns::delete(&self.name);
        }
    }
}

/// The hardware address of a place's cable.
fn mac_of(place: &Place) -> Mac {
    Mac::derived(&["lab", &place.name])
}

impl Lab {
    /// Builds the world of `plan`. The process must have called [`crate::enter`] before.
    pub fn build(plan: LabPlan) -> Result<Self, LabError> {
        let entered = entered()?;
        let [world, neighbour, server] = ["world", "neighbour", "server"].map(|name| Place::make(name, &plan.guests));
        let lab = Self { plan, entered, world: world?, neighbour: neighbour?, server: server? };
        lab.lay()?;
        Ok(lab)
    }

    /// The plan that it was built by.
    #[must_use]
    pub fn plan(&self) -> &LabPlan {
        &self.plan
    }

    /// The namespace in which warren's `up` is to run.
    #[must_use]
    pub fn server(&self) -> &Netns {
        &self.server.netns
    }

    /// The router and all that is behind it.
    #[must_use]
    pub fn world(&self) -> &Netns {
        &self.world.netns
    }

    /// Another machine on the uplink's segment.
    #[must_use]
    pub fn neighbour(&self) -> &Netns {
        &self.neighbour.netns
    }

    /// What the place looks like to who derives probes.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            world: self.plan.segments.iter().map(|s| s.client).collect(),
            neighbour: self.plan.neighbours().collect(),
            outside: true,
            public: self.plan.public.clone(),
            uplink_mac: Some(mac_of(&self.server)),
        }
    }

    /// Everybody who can send and look out once `network` is up: the world, the neighbour, the server and each guest.
    /// Guests without a namespace of their name are left out.
    pub fn vantages(&self, network: &Network) -> Result<Vec<Vantage>, LabError> {
        let copy = |netns: &Netns| netns.try_clone().map_err(LabError::io("hold a namespace"));
        self.server.run(|| await_addresses(true))?;
        let mut vantages = vec![
            Vantage { spot: Spot::Host, netns: copy(self.server())?, capture: Capture::Delivered },
            Vantage { spot: Spot::World, netns: copy(self.world())?, capture: Capture::Incoming },
            Vantage { spot: Spot::Neighbour, netns: copy(self.neighbour())?, capture: Capture::Incoming },
        ];
        for guest in &network.guests {
            match Netns::open(&guest.name) {
                Ok(netns) => {
                    // A guest's link-local ones are its own business, and take their second.
                    let waited = netns.run(|| await_addresses(false));
                    waited.map_err(LabError::io(format!("enter the network namespace {}", guest.name)))??;
                    let spot = Spot::Guest(guest.name.clone());
                    vantages.push(Vantage { spot, netns, capture: Capture::Incoming });
                }
                Err(e) if e.is_absent() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(vantages)
    }

    /// Leaves the names of its namespaces when it is dropped: whoever shares this process's mounts holds the lab then.
    pub fn keep(&self) {
        for place in [&self.world, &self.neighbour, &self.server] {
            place.kept.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The line that steps into one of the lab's namespaces (`server`, `world`, `neighbour` or a guest's name) while
    /// the process `pid` holds the lab.
    #[must_use]
    pub fn step_in(&self, pid: u32, name: &str) -> String {
        // nsenter opens the file before it changes the mounts, so it goes through the process's own root. Credentials
        // are kept, as a namespace of a plain user's knows no other groups.
        let user = if self.entered.user { " --user --preserve-credentials" } else { "" };
        let name = match name {
            "server" => &self.server.name,
            "world" => &self.world.name,
            "neighbour" => &self.neighbour.name,
            guest => guest,
        };
        format!("nsenter --target {pid}{user} --mount --net=/proc/{pid}/root/run/netns/{name}")
    }

    fn lay(&self) -> Result<(), LabError> {
        // All of them before the first cable, for a link takes on what its namespace's default is when it comes.
        for (place, is_router) in [(&self.world, true), (&self.neighbour, false), (&self.server, false)] {
            place.run(|| prepare(is_router))?;
        }
        self.world.run(|| self.lay_world())?;
        self.neighbour.run(|| self.lay_neighbour())?;
        self.server.run(|| self.lay_server())?;
        // A port forwards once its carrier is noted, and the bridge speaks IPv6 once a port's is.
        self.world.run(|| {
            let mut rtnl = Rtnl::open()?;
            ["to-server", "to-neighbour", "segment"].iter().try_for_each(|link| await_carrier(&mut rtnl, &name(link)))
        })?;
        [&self.world, &self.neighbour, &self.server].iter().try_for_each(|place| place.run(|| await_addresses(true)))
    }

    /// The world's own links and addresses, and the cables to the others.
    fn lay_world(&self) -> Result<(), LabError> {
        let (bridge, lo) = (name("segment"), name("lo"));
        let mut rtnl = Rtnl::open()?;
        rtnl.create_bridge(&bridge, Some(Mac::derived(&["lab", "router"])), MTU, "the uplink's segment")?;
        let ends = [("to-server", &self.server, self.plan.cable()), ("to-neighbour", &self.neighbour, name("eth0"))];
        for (near, place, far) in ends {
            let near = name(near);
            let mac = mac_of(place);
            let peer = VethPeer { netns: std::os::fd::AsFd::as_fd(&place.netns), name: &far, mac, mtu: MTU };
            rtnl.create_veth(&near, None, MTU, "a cable of the segment", &peer)?;
            let plug = LinkChange { master: Some(Some(bridge.clone())), up: Some(true), ..LinkChange::default() };
            rtnl.set_link(&near, &plug)?;
        }
        for address in self.plan.segments.iter().map(|s| s.client).chain(self.plan.answering.iter().copied()) {
            // A client may be one that is to answer anyway.
            ignore_existing(rtnl.add_address(&lo, IpNet::from(address)))?;
        }
        for segment in &self.plan.segments {
            rtnl.add_address(&bridge, segment.with_prefix(segment.router))?;
        }
        for wire in &self.plan.wires {
            rtnl.add_address(&bridge, wire.with_prefix(wire.router))?;
        }
        rtnl.set_link(&bridge, &switched_on())?;
        for segment in &self.plan.segments {
            // What is sent from here at the server comes from the client, not from the router.
            let source = Some(segment.client);
            for address in &segment.server {
                let to = IpNet::from(*address);
                rtnl.add_route(&NewRoute { source, ..NewRoute::new(to, None, &bridge) })?;
            }
            self.route_lans(&mut rtnl, segment, &bridge, source)?;
            self.route_guests(&mut rtnl, segment, &bridge)?;
        }
        Ok(())
    }

    /// Guests on the segment are sent to by the client, too: by routes that are narrower than the router's own.
    fn route_guests(&self, rtnl: &mut Rtnl, segment: &Segment, bridge: &IfName) -> Result<(), LabError> {
        let of_family = |net: &IpNet| net.addr().is_ipv4() == segment.router.is_ipv4();
        let wires = self.plan.wires.iter().map(|wire| wire.prefix).filter(of_family);
        for prefix in wires.chain(self.plan.shared.then_some(segment.prefix)) {
            let halves = prefix.subnets(prefix.prefix_len() + 1);
            for half in halves.into_iter().flatten() {
                let route = NewRoute { source: Some(segment.client), ..NewRoute::new(half, None, bridge) };
                ignore_existing(rtnl.add_route(&route))?;
            }
        }
        Ok(())
    }

    fn lay_neighbour(&self) -> Result<(), LabError> {
        let eth0 = name("eth0");
        let mut rtnl = Rtnl::open()?;
        for segment in &self.plan.segments {
            rtnl.add_address(&eth0, segment.with_prefix(segment.neighbour))?;
        }
        for wire in &self.plan.wires {
            rtnl.add_address(&eth0, wire.with_prefix(wire.neighbour))?;
        }
        rtnl.set_link(&eth0, &switched_on())?;
        for segment in &self.plan.segments {
            for address in segment.server.iter().filter(|a| !segment.prefix.contains(*a)) {
                rtnl.add_route(&NewRoute::new(IpNet::from(*address), None, &eth0))?;
            }
            rtnl.add_route(&NewRoute::new(everywhere(segment.router), Some(segment.router), &eth0))?;
            self.route_lans(&mut rtnl, segment, &eth0, None)?;
        }
        await_carrier(&mut rtnl, &eth0)
    }

    fn lay_server(&self) -> Result<(), LabError> {
        let uplink = &self.plan.uplink;
        let mut rtnl = Rtnl::open()?;
        for bridge in &self.plan.bridges {
            let mac = (bridge == uplink).then(|| mac_of(&self.server));
            rtnl.create_bridge(bridge, mac, MTU, "another's bridge")?;
            // It is no link of warren's, and must not look like one to what is rehearsed here.
            rtnl.set_link(bridge, &LinkChange { group: Some(0), up: Some(true), ..LinkChange::default() })?;
        }
        let cable = self.plan.cable();
        if cable != *uplink {
            let plug = LinkChange { master: Some(Some(uplink.clone())), up: Some(true), ..LinkChange::default() };
            rtnl.set_link(&cable, &plug)?;
        }
        for segment in &self.plan.segments {
            for address in &segment.server {
                rtnl.add_address(uplink, segment.with_prefix(*address))?;
            }
        }
        for wire in &self.plan.wires {
            rtnl.add_address(uplink, wire.with_prefix(wire.server))?;
        }
        rtnl.set_link(uplink, &switched_on())?;
        for segment in &self.plan.segments {
            // The host's own, not warren's.
            let route = NewRoute::new(everywhere(segment.router), Some(segment.router), uplink);
            rtnl.add_route(&NewRoute { protocol: RTPROT_STATIC, ..route })?;
        }
        await_carrier(&mut rtnl, uplink)
    }

    /// The attack of docs/traffic.md: the LANs' own subnets, sent at the server's public address.
    fn route_lans(
        &self,
        rtnl: &mut Rtnl,
        segment: &Segment,
        link: &IfName,
        source: Option<IpAddr>,
    ) -> Result<(), LabError> {
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == segment.router.is_ipv4();
        for lan in self.plan.lans.iter().filter(of_family) {
            // What is a part of the segment's own subnet is looked for on the link.
            let via = segment.server.first().copied().filter(|_| !segment.prefix.contains(lan));
            let route = NewRoute { source, ..NewRoute::new(*lan, via, link) };
            ignore_existing(rtnl.add_route(&route))?;
        }
        Ok(())
    }
}

impl Place {
    /// A namespace named for what it stands for; behind `lab-` where a guest has the name.
    fn make(word: &str, guests: &[String]) -> Result<Self, LabError> {
        let mut name = word.to_owned();
        while guests.contains(&name) {
            name.insert_str(0, "lab-");
        }
        let place = Self { netns: Netns::create(&name)?, name, kept: false.into() };
        // It is no guest of warren's, and must not look like one to what is rehearsed here.
        place.run(|| {
            let unmarked = LinkChange { alias: Some(String::new()), ..LinkChange::default() };
            Ok(Rtnl::open()?.set_link(&self::name("lo"), &unmarked)?)
        })?;
        Ok(place)
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        self.netns.run(f).map_err(LabError::io(format!("enter the network namespace {}", self.name)))?
    }
}

/// What a new namespace takes over from the machine's is put to the kernel's own defaults, so that a rehearsal is the
/// same everywhere; and addresses serve at once, without duplicate address detection.
fn prepare(is_router: bool) -> Result<(), LabError> {
    let forwarding = if is_router { "1" } else { "0" };
    let values = [
        (IpFamilyWord::Ipv4, "all", "forwarding", forwarding),
        (IpFamilyWord::Ipv4, "default", "forwarding", forwarding),
        (IpFamilyWord::Ipv4, "all", "rp_filter", "0"),
        (IpFamilyWord::Ipv4, "default", "rp_filter", "0"),
        (IpFamilyWord::Ipv6, "all", "disable_ipv6", "0"),
        (IpFamilyWord::Ipv6, "default", "disable_ipv6", "0"),
        (IpFamilyWord::Ipv6, "all", "forwarding", forwarding),
        (IpFamilyWord::Ipv6, "default", "accept_dad", "0"),
    ];
    for (family, scope, key, value) in values {
        let sysctl = Sysctl { family, scope: scope.to_owned(), key: key.to_owned() };
        match sysctl::write(&sysctl, value) {
            // A kernel without IPv6.
            Err(e) if e.is_absent() && family == IpFamilyWord::Ipv6 => {}
            result => result?,
        }
    }
    Ok(())
}

/// Waits until the kernel has taken note that a cable is plugged in at both ends.
fn await_carrier(rtnl: &mut Rtnl, link: &IfName) -> Result<(), LabError> {
    eventually(&format!("{link} has a carrier"), || Ok(rtnl.link(link)?.operstate == OPER_UP))
}

/// Waits until every address serves: the kernel puts them to use by a work queue, even those without duplicate address
/// detection, and until then does not answer for them. With `link_local` those that the kernel makes itself are waited
/// for too.
fn await_addresses(link_local: bool) -> Result<(), LabError> {
    let mut rtnl = Rtnl::open()?;
    eventually("the addresses serve", || {
        Ok(!rtnl.addresses()?.iter().any(|a| a.is_unusable() && (link_local || !a.is_link_local())))
    })
}

/// Asks again and again, for the kernel has no event for all of it; a lab in which it never holds would prove nothing,
/// so that is an error.
fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool, LabError>) -> Result<(), LabError> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > CARRIER {
            let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(LabError::io(format!("wait until {what} in the lab"))(late));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn ignore_existing(result: Result<(), KernelError>) -> Result<(), LabError> {
    match result {
        Err(e) if e.exists_already() => Ok(()),
        result => Ok(result?),
    }
}

fn switched_on() -> LinkChange {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

fn everywhere(of: IpAddr) -> IpNet {
    if of.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) }
}

/// A name that stands in this file.
#[allow(clippy::unwrap_used)]
fn name(literal: &'static str) -> IfName {
    IfName::new(literal).unwrap()
}
