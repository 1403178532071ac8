//! systemd-networkd is told, in /run, to leave links of ours alone while they are there: files that fit every interface
//! (`Name=*`, `Type=ether`) are common, and would put a DHCP client on a bridge of ours, or on a guest's port.
//!
//! It is told before there are any. It reads its files again only where another one fits a link of ours, for that has
//! it see whatever else was changed of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use model::address::IfName;
use model::manager::Holder;
use model::manager::networkd::{is_unmanaged, may_fit, unmanaged, unmanaged_path};
use model::network::{GuestKind, Network};
use model::state::{Baseline, Ids, TakenOver, without_rules};

use crate::error::Result;
use crate::holders::networkd;

const FOLDER: &str = "/run/systemd/network";
/// How long it may take to leave alone what it had at work.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stands in a file that it is yet to read: who is killed here would else have it never read.
const UNREAD: &str = "# It has not read this yet.\n";

/// Lets it leave alone the links of these networks, and of bridges that it makes itself by files of ours as long as
/// those are not there. Says whether it has read its files again.
///
/// # Errors
/// Where that could not be written, or networkd not be told.
pub fn tell(networks: &[&Network], taken: &BTreeMap<IfName, TakenOver>) -> Result<bool> {
    let links = put(networks, taken, UNREAD)?;
    let links: Vec<&IfName> = links.iter().collect();
    let is_read = !links.is_empty() && !is_known(networks) && !others(&links).is_empty() && networkd::runs();
    if is_read {
        networkd::read_again()?;
        await_unmanaged(&links)?;
    }
    write(networks, taken)?;
    Ok(is_read)
}

/// Whether it has read nothing since an interface came back to it which one of these takes over: then it knows what it
/// was told until then, and is to read its files once all has moved.
fn is_known(networks: &[&Network]) -> bool {
    let outers = networks.iter().flat_map(|network| &network.lans).filter_map(|lan| lan.outer.as_ref());
    let carried = outers.filter(|outer| outer.takeover.is_some()).filter_map(|outer| outer.carries.as_ref());
    carried.into_iter().any(networkd::is_interim)
}

/// Writes what it is told, and has it read nothing.
///
/// # Errors
/// Where that could not be written.
pub fn write(networks: &[&Network], taken: &BTreeMap<IfName, TakenOver>) -> Result<()> {
    put(networks, taken, "").map(drop)
}

/// The same with `end` behind each file that changes. Says which links are told of that were not.
fn put(networks: &[&Network], taken: &BTreeMap<IfName, TakenOver>, end: &str) -> Result<BTreeSet<IfName>> {
    let is_there = ["/run/systemd/netif", "/run/systemd/system"].iter().any(|path| Path::new(path).exists());
    let before = if is_there { told() } else { BTreeMap::new() };
    let is_nothing = networks.is_empty() && taken.is_empty() && before.is_empty();
    // A network apart that has the machine's /run is not the one that the machine's networkd looks after.
    if !is_there || is_nothing || !crate::takeover::are_ours("/run") {
        return Ok(BTreeSet::new());
    }
    let (files, links) = wanted(networks, taken);
    let mut new = BTreeSet::new();
    for (path, text) in files.iter().filter(|(path, text)| before.get(*path) != Some(text)) {
        networkd::write(path, &format!("{text}{end}"))?;
        let read = before.get(path).filter(|text| !text.ends_with(UNREAD));
        let known: Vec<&str> = read.map(|text| text.split_whitespace().collect()).unwrap_or_default();
        // A name is told by itself, or as the first one.
        let is_known = |link: &IfName| known.iter().any(|word| word.trim_start_matches("Name=") == link.as_str());
        new.extend(links.iter().filter(|(at, link)| at == path && !is_known(link)).map(|(_, link)| link.clone()));
    }
    for path in before.keys().filter(|path| !files.contains_key(*path)) {
        networkd::remove(path)?;
    }
    Ok(new)
}

/// Waits until it has let go of what it had at work.
fn await_unmanaged(links: &[&IfName]) -> Result<()> {
    let begun = Instant::now();
    let leaves = |name: &IfName| -> Result<bool> {
        Ok(networkd::note_of(name)?.is_none_or(|note| !["configuring", "configured"].contains(&note.state.as_str())))
    };
    for name in links {
        while !leaves(name)? && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// What stands there of ours.
fn told() -> BTreeMap<String, String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path().display().to_string());
    let texts = paths.filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)));
    texts.filter(|(_, text)| is_unmanaged(text)).collect()
}

/// The files, and which link each is about.
fn wanted(
    networks: &[&Network],
    taken: &BTreeMap<IfName, TakenOver>,
) -> (BTreeMap<String, String>, BTreeSet<(String, IfName)>) {
    let mut links = BTreeSet::new();
    let mut holders: Vec<(&IfName, &Holder)> = Vec::new();
    for network in networks {
        links.extend(without_rules(network, &Baseline::default(), &Ids::default()).links.into_keys());
        let containers = network.guests.iter().filter(|guest| matches!(guest.kind, GuestKind::Lxc(_)));
        links.extend(containers.map(|guest| guest.port.clone()));
        for (lan, takeover) in network.lans.iter().filter_map(|lan| Some((lan, lan.outer.as_ref()?.takeover.as_ref()?)))
        {
            holders.extend(takeover.holders.iter().map(|holder| (&lan.bridge, holder)));
        }
    }
    holders.extend(taken.values().flat_map(|taken| taken.holders.iter().map(|holder| (&taken.bridge, holder))));
    let (mut files, mut about) = (BTreeMap::new(), BTreeSet::new());
    for (bridge, holder) in holders {
        let Holder::Networkd(follows) = holder else { continue };
        let Some(names) = follows.names(bridge) else { continue };
        links.remove(bridge);
        about.insert((names.unmanaged.clone(), bridge.clone()));
        files.insert(names.unmanaged, unmanaged([bridge]));
    }
    if !links.is_empty() {
        let path = unmanaged_path(&others(&links.iter().collect::<Vec<_>>()));
        files.insert(path.clone(), unmanaged(&links));
        about.extend(links.into_iter().map(|link| (path.clone(), link)));
    }
    (files, about)
}

/// The files of others that may fit any of those.
fn others(links: &[&IfName]) -> Vec<String> {
    let mut all = networkd::all();
    all.retain(|path| {
        let texts = networkd::texts(&networkd::with_drop_ins(path));
        !texts.first().is_some_and(|(_, text)| is_unmanaged(text)) && may_fit(&texts, links)
    });
    all
}
