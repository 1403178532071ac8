//! What was taken over of interfaces' managers, remembered beyond a boot.

use std::collections::BTreeMap;
use std::path::Path;

use model::address::IfName;
use model::facts::HostFacts;
use model::manager::{Holder, Managed, Manager};
use model::state::{TakenOver, in_place_of};

use crate::error::Result;
use crate::rtnl::Rtnl;
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
        // It was told anew to configure the interface, but where that is by what we wrote.
        let by_ours = |manager: &Managed| manager.files.first().is_some_and(|(path, _)| taken.files.contains_key(path));
        if interface.manager.as_ref().is_some_and(|manager| manager.by != Manager::Somebody && !by_ours(manager)) {
            continue;
        }
        let (mut before, mut says_ours) = (Vec::new(), false);
        for (path, file) in &taken.files {
            let now = files::read(path)?;
            if now.as_ref().is_some_and(|now| file.wrote.contains(now)) {
                says_ours = true;
                before.extend(file.before.clone().map(|text| (path.clone(), text)));
            }
        }
        // Its own files stand beside ours, as they were.
        for holder in &taken.holders {
            if let Holder::Networkd(follows) = holder {
                before.extend(holders::networkd::texts(&follows.files));
            }
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

/// Gives a bridge that a manager has made by what we wrote the mark of ours, where it cannot be told to.
pub fn mark(taken: &BTreeMap<IfName, TakenOver>) -> Result<()> {
    for (port, taken) in taken {
        for holder in &taken.holders {
            let Holder::Networkd(follows) = holder else { continue };
            match holders::networkd::mark(port, &taken.bridge, follows) {
                // Who may only look sees it without.
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
