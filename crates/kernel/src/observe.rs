//! The kernel as it is: what of it is ours, and what of another's stands where ours should.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use model::address::IfName;
use model::foreign::naming;
use model::ruleset::{Family, TABLE};
use model::state::{
    ALIAS_PREFIX, Address, GUEST_INTERFACE, Hold, Link, LinkKind, Peer, Place, Port, Proxy, Route, Shaper, State,
    Sysctl, in_place_of,
};

use crate::error::{Context as _, KernelError, Result};
use crate::facts::is_ours;
use crate::journal::WrittenTable;
use crate::netns::{GUEST_MARK, Netns};
use crate::rtnl::{AddressInfo, ControlInfo, LinkInfo, NeighbourInfo, PROTOCOL, RouteInfo, Rtnl};
use crate::{files, holders, mends, nft, sysctl};

/// What was found.
#[derive(Debug, Default)]
pub struct Observation {
    /// What is ours, as it is.
    pub state: State,
    /// What is another's, but has a name that we need.
    pub conflicts: Vec<Conflict>,
    /// The number of nf_tables' last commit, where none came while our tables were looked at.
    pub generation: Option<u32>,
}

/// An object of another's where ours should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What it is and how it is called: `the bridge br1`.
    pub object: String,
    /// What is known of it, and what to do.
    pub detail: String,
    /// The interface that cannot be plugged in for its sake, where that is all that it is in the way of.
    pub port: Option<IfName>,
}

impl Conflict {
    /// In the way of all of it.
    #[must_use]
    pub fn new(object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { object: object.into(), detail: detail.into(), port: None }
    }
}

/// What the kernel tells of the calling thread's network namespace and of the guests'. What of it is ours, or in the way,
/// is said by [`Self::judged`]; so one may look before one knows what is wanted.
pub struct Look {
    links: Vec<LinkInfo>,
    controls: Vec<ControlInfo>,
    addresses: Vec<AddressInfo>,
    routes: Vec<RouteInfo>,
    proxies: Vec<NeighbourInfo>,
    /// Every namespace by a name, looked into where it is a guest's of ours.
    namespaces: Vec<(String, Result<Option<Inside>>)>,
    /// Nothing where they were not asked for.
    tables: Option<Tables>,
}

/// Our tables, and the number of nf_tables' last commit, where none came meanwhile.
struct Tables {
    looks: [(Family, Result<nft::Found>); 2],
    generation: Option<u32>,
}

impl Tables {
    fn take(written: &BTreeMap<Family, WrittenTable>) -> Self {
        // Where it cannot be told, nothing is taken to be known by it.
        let before = nft::generation().ok();
        let looks = [Family::Inet, Family::Bridge].map(|family| (family, nft::look(family, written.get(&family))));
        Self { looks, generation: before.filter(|before| nft::generation().is_ok_and(|after| after == *before)) }
    }
}

/// Looks at the calling thread's network namespace. `wanted` says which names matter that do not bear our mark, and
/// which switches are looked at; `written` what our tables were when we wrote them.
pub fn observe(wanted: &State, written: &BTreeMap<Family, WrittenTable>) -> Result<Observation> {
    Look::take(|| Ok::<_, KernelError>(Some(written.clone())))?.judged(wanted)
}

impl Look {
    /// Looks; `written` reads what our tables were when we wrote them, or says that they need not be looked at.
    pub fn take<E: From<KernelError> + Send>(
        written: impl FnOnce() -> std::result::Result<Option<BTreeMap<Family, WrittenTable>>, E> + Send,
    ) -> std::result::Result<Self, E> {
        // With many guests and many forwards the one takes as long as the other.
        std::thread::scope(|scope| {
            let look = || Ok::<_, E>(written()?.as_ref().map(Tables::take));
            let tables = std::thread::Builder::new().name("tables".to_owned()).spawn_scoped(scope, look);
            let tables = tables.context("look at", "our tables")?;
            let mut rtnl = Rtnl::open()?;
            let namespaces = Netns::visit(look_inside)?;
            Ok(Self {
                links: rtnl.links()?,
                controls: rtnl.controls()?,
                addresses: rtnl.addresses()?,
                routes: rtnl.routes()?,
                proxies: rtnl.neighbour_proxies()?,
                namespaces,
                tables: tables.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            })
        })
    }

    /// What of it is ours, and what is in the way of `wanted`; which switches, files and rules of others' are looked at
    /// besides, follows from that.
    pub fn judged(self, wanted: &State) -> Result<Observation> {
        let mut found = Observation::default();
        let Self { links, controls, addresses, routes, proxies, namespaces, tables } = self;
        let guests = observe_namespaces(namespaces, wanted, &mut found)?;
        observe_links(wanted, &links, &guests, &mut found);
        observe_shapers(wanted, &controls, &links, &mut found);
        observe_addresses(addresses, &links, wanted, &mut found);
        observe_routes(routes, &links, &mut found);
        observe_proxies(wanted, proxies, &links, &mut found);
        let given = wanted.addresses.iter().map(|a| (&a.at, a.net.addr().is_ipv4())).collect();
        for guest in &guests {
            observe_guest(guest, &given, &mut found);
        }
        for sysctl in wanted.sysctls.keys() {
            if let Some(value) = sysctl::read(sysctl)? {
                found.state.sysctls.insert(sysctl.clone(), value);
            }
        }
        if let Some(Tables { looks, generation }) = tables {
            observe_tables(looks, &mut found)?;
            found.generation = generation;
        }
        found.state.mends = mends::observe(&wanted.mends)?;
        for path in wanted.files.keys() {
            found.state.files.extend(files::read(path)?.map(|text| (path.clone(), text)));
        }
        for (key, hold) in &wanted.holds {
            found.state.holds.insert(key.clone(), Hold { on: holders::side(hold)?, ..hold.clone() });
        }
        observe_names(wanted, &links, &mut found)?;
        Ok(found)
    }
}

/// Others' rules that name an interface whose place a bridge of ours is about to take. Once it has, who writes rules
/// sees what there is.
fn observe_names(wanted: &State, links: &[LinkInfo], found: &mut Observation) -> Result<()> {
    let about: Vec<_> =
        wanted.ports.iter().filter(|(name, port)| port.carries && !found.state.ports.contains_key(*name)).collect();
    if about.is_empty() {
        return Ok(());
    }
    let rules = mends::conditions()?;
    for (name, port) in about {
        let index = links.iter().find(|link| link.name == name.as_str()).map_or(0, |link| link.index);
        for (rule, likes) in naming::made_good(&rules, name, index, &port.master) {
            if likes.is_some_and(|likes| likes.iter().all(|like| wanted.mends.contains(like))) {
                continue;
            }
            let detail = naming::advice(rule, name, &port.master);
            let port = Some(name.clone());
            found.conflicts.push(Conflict { object: rule.to_string(), detail, port });
        }
    }
    Ok(())
}

/// A guest's namespace, looked into.
struct Inside {
    name: String,
    links: Vec<LinkInfo>,
    addresses: Vec<AddressInfo>,
    routes: Vec<RouteInfo>,
}

impl Inside {
    fn eth0(&self) -> Option<&LinkInfo> {
        self.links.iter().find(|link| link.name == GUEST_INTERFACE)
    }
}

/// The guests' namespaces among those that were looked into.
fn observe_namespaces(
    looks: Vec<(String, Result<Option<Inside>>)>,
    wanted: &State,
    found: &mut Observation,
) -> Result<Vec<Inside>> {
    let mut ours = Vec::new();
    for (name, looked) in looks {
        match looked {
            Ok(Some(inside)) => {
                found.state.namespaces.insert(name);
                ours.push(inside);
            }
            Ok(None) if wanted.namespaces.contains(&name) => found.conflicts.push(Conflict {
                port: None,
                object: format!("the network namespace {name}"),
                detail: "it was not made by warren; give the guest another name, or remove it with `ip netns delete`"
                    .into(),
            }),
            Ok(None) => {}
            // Another's that we may not enter, or one that has just gone.
            // (EINVAL: its name is still there, what it named is not.)
            Err(e)
                if !wanted.namespaces.contains(&name)
                    && (e.is_absent() || e.is_forbidden() || e.errno() == Some(libc::EINVAL)) => {}
            // A failed look is no finding: `down` must not pass a namespace of ours by.
            Err(e) => return Err(e),
        }
    }
    Ok(ours)
}

/// Nothing where our mark is not on its loopback interface.
fn look_inside(name: &str) -> Result<Option<Inside>> {
    let mut rtnl = Rtnl::open()?;
    let links = rtnl.links()?;
    let mark = format!("{GUEST_MARK}{name}");
    if !links.iter().any(|link| link.loopback && link.alias.as_deref() == Some(mark.as_str())) {
        return Ok(None);
    }
    Ok(Some(Inside { name: name.to_owned(), links, addresses: rtnl.addresses()?, routes: rtnl.routes()? }))
}

fn observe_links(wanted: &State, links: &[LinkInfo], guests: &[Inside], found: &mut Observation) {
    let by_index: BTreeMap<u32, &LinkInfo> = links.iter().map(|link| (link.index, link)).collect();
    for info in links {
        let Ok(name) = IfName::new(info.name.clone()) else { continue };
        if !is_ours(info) {
            if wanted.links.contains_key(&name) {
                found.conflicts.push(Conflict {
                    port: None,
                    object: format!("the interface {name}"),
                    detail: format!(
                        "it was not made by warren{}; rename it, or give ours another name in the file",
                        info.kind.as_deref().map(|kind| format!(" (a {kind})")).unwrap_or_default()
                    ),
                });
            }
            continue;
        }
        let kind = match info.kind.as_deref() {
            Some("bridge") => LinkKind::Bridge,
            Some("tun") => {
                let tun = info.tun.as_ref();
                LinkKind::Tap { owner: tun.and_then(|t| t.owner), group: tun.and_then(|t| t.group) }
            }
            Some("ifb") => LinkKind::Ifb,
            Some("veth") => LinkKind::Veth(peer_of(&name, info, guests)),
            _ => continue,
        };
        let is_bridge = kind == LinkKind::Bridge;
        let master = info.master.and_then(|index| by_index.get(&index)).and_then(|m| IfName::new(m.name.clone()).ok());
        found.state.links.insert(
            name,
            Link {
                kind,
                mac: info.mac,
                mtu: info.mtu,
                up: info.up,
                master,
                hairpin: !is_bridge && info.hairpin,
                isolated: !is_bridge && info.isolated,
                alias: info.alias.clone().unwrap_or_default(),
            },
        );
    }
}

/// The other end of a cable: an `eth0` whose peer index is ours. Where it is not found the cable is of no use, and the
/// peer that is told then is no guest's, so that it is made anew.
fn peer_of(cable: &IfName, info: &LinkInfo, guests: &[Inside]) -> Peer {
    let far = guests.iter().find_map(|guest| {
        let eth0 = guest.links.iter().find(|far| Some(far.index) == info.peer && far.peer == Some(info.index))?;
        // Indices are each namespace's own, so two guests can have the same: the mark says whose cable it is.
        let mine = info.alias.as_deref() == Some(&format!("{ALIAS_PREFIX}guest {}", guest.name));
        mine.then_some((guest, eth0))
    });
    match far.and_then(|(guest, eth0)| Some((guest, eth0, IfName::new(eth0.name.clone()).ok()?))) {
        Some((guest, eth0, name)) => Peer {
            namespace: guest.name.clone(),
            name,
            mac: eth0.mac.unwrap_or(model::address::Mac([0; 6])),
            mtu: eth0.mtu,
            up: eth0.up,
        },
        None => {
            Peer { namespace: String::new(), name: cable.clone(), mac: model::address::Mac([0; 6]), mtu: 0, up: false }
        }
    }
}

/// Looks at limits alone: those that `wanted` names, and all that are ours.
pub fn observe_limits(wanted: &State) -> Result<Observation> {
    let mut found = Observation::default();
    let mut rtnl = Rtnl::open()?;
    let links = rtnl.links()?;
    observe_shapers(wanted, &rtnl.controls()?, &links, &mut found);
    Ok(found)
}

/// Limits are ours by their handles, at whosever interface they are. What leads nowhere any more is disturbed.
fn observe_shapers(wanted: &State, controls: &[ControlInfo], links: &[LinkInfo], found: &mut Observation) {
    let name_of = |index: u32| links.iter().find(|link| link.index == index).and_then(|l| IfName::new(&*l.name).ok());
    for control in controls {
        let Some(name) = name_of(control.index) else { continue };
        let through = control.coming.and_then(|coming| name_of(coming.through));
        let led_right = control.coming.is_none_or(|coming| coming.whole && through.is_some());
        let limited_right = control.leaving.is_none_or(|leaving| leaving.whole);
        let led_by_us = control.coming.is_some_and(|coming| coming.through != 0);
        // A qdisc without a filter may be anybody's, but where ours should be.
        let half = control.coming.is_some() && wanted.shapers.contains_key(&name);
        if control.leaving.is_some() || led_by_us || half {
            let rate = control.leaving.map(|leaving| leaving.rate).filter(|rate| *rate > 0);
            let shaper = Shaper { rate, through, whole: led_right && limited_right };
            found.state.shapers.insert(name.clone(), shaper);
        }
        let Some(want) = wanted.shapers.get(&name) else { continue };
        let root = control.others_root.as_ref().filter(|_| want.rate.is_some()).map(|kind| (kind, "root"));
        let ingress = control.others_ingress.as_ref().filter(|_| want.through.is_some()).map(|kind| (kind, "ingress"));
        for (kind, place) in [root, ingress].into_iter().flatten() {
            found.conflicts.push(Conflict {
                port: None,
                object: format!("the {place} qdisc of {name} ({kind})"),
                detail: format!(
                    "it is not warren's, and `limit` needs its place; remove it with `tc qdisc del dev {name} {place}`, \
                     or leave `limit` out"
                ),
            });
        }
    }
    // A port that others make and that is not there needs nothing: it gets its limit when it comes.
    for (name, shaper) in &wanted.shapers {
        let is_there = links.iter().any(|link| link.name == name.as_str());
        if !is_there && !wanted.links.contains_key(name) {
            found.state.shapers.insert(name.clone(), shaper.clone());
        }
    }
}

fn observe_addresses(addresses: Vec<AddressInfo>, links: &[LinkInfo], wanted: &State, found: &mut Observation) {
    let by_index: BTreeMap<u32, &LinkInfo> = links.iter().map(|link| (link.index, link)).collect();
    observe_ports(&by_index, &addresses, wanted, found);
    for address in addresses {
        let Some(link) = by_index.get(&address.index) else { continue };
        let Ok(name) = IfName::new(link.name.clone()) else { continue };
        // What a bridge bears in an interface's place is the interface's.
        let borne = link.alias.as_deref().and_then(in_place_of).is_some();
        let own = Address { at: Place::host(&name), net: address.net };
        if borne && !wanted.addresses.contains(&own) {
            continue;
        }
        // Link-local ones and those from advertisements are the kernel's own.
        if found.state.links.contains_key(&name) && !address.is_link_local() && address.is_permanent() {
            found.state.addresses.insert(Address { at: Place::host(&name), net: address.net });
        }
    }
}

/// Interfaces of the host's that are plugged into bridges of ours. One whose place the bridge takes has nothing left;
/// where it has, a move was ended on its way, or somebody gave it something since.
fn observe_ports(
    by_index: &BTreeMap<u32, &LinkInfo>,
    addresses: &[AddressInfo],
    wanted: &State,
    found: &mut Observation,
) {
    let ours = |master: &IfName| found_bridge(found, master);
    let mut ports = Vec::new();
    for link in by_index.values().filter(|link| !is_ours(link)) {
        let Ok(name) = IfName::new(link.name.clone()) else { continue };
        let stands_for = |bridge: &LinkInfo| bridge.alias.as_deref().and_then(in_place_of).as_ref() == Some(&name);
        let plugged = link.master.and_then(|master| by_index.get(&master)).copied();
        // One that somebody has pulled out, past the bridge that bears all that it bore, is not forgotten.
        let replaced = || by_index.values().copied().find(|bridge| link.master.is_none() && stands_for(bridge));
        let Some(bridge) = plugged.or_else(replaced) else { continue };
        let Ok(master) = IfName::new(bridge.name.clone()) else { continue };
        let known = wanted.ports.get(&name);
        // Containers, machines and whatever else plugs itself in have their own who unplugs them.
        if !ours(&master) || (known.is_none() && !stands_for(bridge)) {
            continue;
        }
        let left = addresses.iter().any(|address| address.index == link.index);
        let carries = plugged.is_some() && stands_for(bridge) && !left;
        let own = known.map(|port| port.own.clone()).unwrap_or_default();
        let was = known.map(|port| port.was.clone()).unwrap_or_default();
        ports.push((name, Port { master, carries, own, was }));
    }
    found.state.ports.extend(ports);
}

fn found_bridge(found: &Observation, name: &IfName) -> bool {
    found.state.links.get(name).is_some_and(|link| link.kind == LinkKind::Bridge)
}

/// Host routes by our links, to what lies behind guests.
fn observe_routes(routes: Vec<RouteInfo>, links: &[LinkInfo], found: &mut Observation) {
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    for route in routes.into_iter().filter(|route| route.protocol == PROTOCOL) {
        let Some(name) = route.oif.and_then(|oif| names.get(&oif)).and_then(|name| IfName::new(*name).ok()) else {
            continue;
        };
        if found.state.links.contains_key(&name) {
            found.state.routes.insert(Route { at: Place::host(&name), to: route.to, via: route.via });
        }
    }
}

/// For whom we answer, on whatever link: by the mark of the entry. Another's entry that we need is not taken over.
fn observe_proxies(wanted: &State, proxies: Vec<NeighbourInfo>, links: &[LinkInfo], found: &mut Observation) {
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    for entry in proxies {
        let Some(link) = names.get(&entry.index).and_then(|name| IfName::new(*name).ok()) else { continue };
        let proxy = Proxy { link, address: entry.address };
        if entry.protocol == PROTOCOL {
            found.state.proxies.insert(proxy);
        } else if wanted.proxies.contains(&proxy) {
            let Proxy { link, address } = &proxy;
            found.conflicts.push(Conflict {
                port: None,
                object: format!("the neighbour proxy entry of {address} on {link}"),
                detail: format!("it was not made by warren; remove it with `ip neigh del proxy {address} dev {link}`"),
            });
        }
    }
}

/// Of a family of which it was given no address, a guest's are what it has from elsewhere (an outer network's leases).
/// `given` has the places of addresses that are wanted, each with whether one of IPv4 is.
fn observe_guest(guest: &Inside, given: &BTreeSet<(&Place, bool)>, found: &mut Observation) {
    let Some(eth0) = guest.eth0() else { return };
    let Ok(name) = IfName::new(GUEST_INTERFACE) else { return };
    let at = Place::guest(&guest.name, &name);
    let given = |net: &IpNet| given.contains(&(&at, net.addr().is_ipv4()));
    for address in guest.addresses.iter().filter(|a| a.index == eth0.index && given(&a.net)) {
        if !address.is_link_local() && address.is_permanent() {
            found.state.addresses.insert(Address { at: at.clone(), net: address.net });
        }
    }
    for route in guest.routes.iter().filter(|r| r.oif == Some(eth0.index) && r.protocol == PROTOCOL) {
        found.state.routes.insert(Route { at: at.clone(), to: route.to, via: route.via });
    }
}

fn observe_tables(looks: [(Family, Result<nft::Found>); 2], found: &mut Observation) -> Result<()> {
    for (family, look) in looks {
        match look? {
            nft::Found::Nothing => {}
            nft::Found::Ours(table) => {
                found.state.tables.insert(family, table);
            }
            nft::Found::Anothers => found.conflicts.push(Conflict {
                port: None,
                object: format!("the table {} {TABLE}", family.word()),
                detail: format!(
                    "it does not bear warren's mark; rename it, or remove it with `nft delete table {} {TABLE}`",
                    family.word()
                ),
            }),
        }
    }
    Ok(())
}

/// Every switch of `sysctls` as it is now; those whose interface is not there are left out.
pub fn switches<'a>(sysctls: impl IntoIterator<Item = &'a Sysctl>) -> Result<BTreeMap<Sysctl, String>> {
    let mut values = BTreeMap::new();
    for sysctl in sysctls {
        if let Some(value) = sysctl::read(sysctl)? {
            values.insert(sysctl.clone(), value);
        }
    }
    Ok(values)
}
