//! What was taken over of interfaces' managers, remembered beyond a boot.

use std::collections::BTreeMap;
use std::path::Path;

use model::address::IfName;
use model::facts::HostFacts;
use model::manager::{Holder, Managed, Manager};
use model::state::{ALIAS_IN_PLACE_OF, Side, TakenFile, TakenOver, in_place_of};

use crate::error::Result;
use crate::rtnl::{LinkChange, LinkInfo, Rtnl};
use crate::{files, holders};

/// Tells of managers that were taken over what they were: as with all that a bridge of ours has in an interface's place,
/// it is told as the interface's. A file is believed to be of that only while it says what we wrote.
pub fn look_through(facts: &mut HostFacts, taken: &BTreeMap<IfName, TakenOver>) -> Result<()> {
    if taken.is_empty() {
        return Ok(());
    }
    let links = Rtnl::open()?.links()?;
    for (port, taken) in taken {
        let Some(interface) = facts.interfaces.iter_mut().find(|interface| interface.name == *port) else { continue };
        // Somebody was killed while it was stopped.
        let idle =
            |manager: &Managed| manager.by == taken.by && manager.obstacle.is_some() && manager.holders.is_empty();
        let is_idle = taken.begins_anew() && interface.manager.as_ref().is_some_and(idle);
        // It was told anew to configure the interface, but where that is by what we wrote.
        let by_ours = |manager: &Managed| manager.files.first().is_some_and(|(path, _)| taken.files.contains_key(path));
        let is_anew = |manager: &Managed| manager.by != Manager::Somebody && !by_ours(manager);
        if !is_idle && interface.manager.as_ref().is_some_and(is_anew) {
            continue;
        }
        let (mut before, mut says_ours) = (Vec::new(), false);
        for (path, file) in &taken.files {
            let now = files::read(path)?;
            if now.as_ref().is_some_and(|now| file.wrote.contains(now)) || (is_idle && now == file.before) {
                // What netplan writes stands beside ours, and is no file of theirs to know it by.
                says_ours |= !is_idle || taken.by == Manager::Netplan;
                before.extend(file.before.clone().map(|text| (path.clone(), text)));
            }
        }
        says_ours |= !before.is_empty();
        // Files that stand beside ours are as they were.
        for holder in &taken.holders {
            before.extend(match holder {
                Holder::Networkd(follows) => holders::networkd::texts(&follows.files),
                Holder::NetworkManager(active) => holders::networkd::texts(active.written_by_netplan.as_slice()),
                _ => Vec::new(),
            });
        }
        let stands = links.iter().any(|link| {
            link.name == taken.bridge.as_str() && link.alias.as_deref().and_then(in_place_of).as_ref() == Some(port)
        });
        if stands || says_ours {
            let managed = Managed { holders: taken.holders.clone(), ..Managed::new(taken.by, before) };
            interface.manager = Some(managed);
        }
    }
    Ok(())
}

/// Marks bridges as ours that a manager has made by what we wrote: not every one can be told to give a link our mark.
pub fn adopt(taken: &BTreeMap<IfName, TakenOver>) -> Result<()> {
    for (port, taken) in taken {
        // ifupdown is told to.
        if taken.by == Manager::Ifupdown || taken.by == Manager::DhcpClient {
            continue;
        }
        let is_written = |(path, file): (&String, &TakenFile)| {
            files::read(path).is_ok_and(|now| now.is_some_and(|now| file.wrote.contains(&now)))
        };
        let is_marked = |link: &LinkInfo| link.alias.as_deref().and_then(in_place_of).as_ref() == Some(port);
        let bridge = || -> Result<Option<LinkInfo>> {
            Ok(Rtnl::open()?.links()?.into_iter().find(|link| link.name == taken.bridge.as_str()))
        };
        if !taken.files.iter().any(is_written) || bridge()?.as_ref().is_some_and(is_marked) {
            continue;
        }
        // One that has only begun makes it in a moment.
        for (_, hold) in taken.holds(port, Side::Bridge).filter(|(_, hold)| hold.holder.begins_anew()) {
            holders::side(&hold)?;
        }
        if taken.holders.iter().any(model::manager::Holder::reads_files) {
            holders::networkd::await_made(port, &taken.bridge, &taken.files.keys().collect::<Vec<_>>())?;
        }
        if bridge()?.is_some_and(|link| link.bridge.is_some() && link.alias.is_none()) {
            let mark = format!("{ALIAS_IN_PLACE_OF}{port}");
            let change = LinkChange { alias: Some(mark), ..LinkChange::default() };
            match Rtnl::open()?.set_link(&taken.bridge, &change) {
                // Who may not change anything looks at it as it is.
                Err(e) if !e.is_forbidden() => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether the manager's files are this network's to rewrite, as far as that can be seen.
#[must_use]
pub fn are_ours(path: &str) -> bool {
    files::is_this_networks(Path::new(path))
}
