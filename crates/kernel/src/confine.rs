//! A process that gives up all that it does not need, before it reads what others send: its user, its capabilities,
//! its files. Nothing of it can be had back (capabilities(7), landlock(7), PR_SET_NO_NEW_PRIVS of prctl(2)).

use std::fs;
use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetStatus,
    Scope,
};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use crate::error::{Context as _, KernelError, Result};
use crate::tap;

/// The user whom the worker runs as where the host has one of that name.
const USER: &str = "warren";
/// The user and group id of the worker elsewhere: nobody's, in the run of numbers that systemd's list (UIDS-GIDS) and
/// Debian's policy both leave unused. `nobody` would be shared with others' services, who could then trace it.
const NOBODY_ELSE: u32 = 61_117;

/// What became of a process that was confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// The user id that it has now.
    pub uid: u32,
    /// Whether landlock holds it.
    pub landlock: bool,
}

/// Confines the calling process, which must have one thread. Descriptors that are open stay so; no file can be opened
/// any more, no program gains rights, no process outside is signalled.
///
/// In a user namespace that does not know the worker's user, the user stays: its root has rights over that namespace
/// alone, and the capabilities are given up all the same.
pub fn confine() -> Result<Confined> {
    // Later nothing can be read.
    let (uid, gid) = user();
    let known = mapped("/proc/self/uid_map", uid) && mapped("/proc/self/gid_map", gid);
    drop_bounding_set()?;
    if known {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).context("give up", "the further groups")?;
        rustix::thread::set_thread_res_gid(group, group, group).context("become", format!("group {gid}"))?;
        rustix::thread::set_thread_res_uid(user, user, user).context("become", format!("user {uid}"))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).context("give up", "the capabilities")?;
    rustix::thread::set_no_new_privs(true).context("give up", "new privileges")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbid", "memory dumps")?;
    let landlock = landlock().map_err(|e| KernelError::new("enter", "a landlock domain", io::Error::other(e)))?;
    Ok(Confined { uid: rustix::process::geteuid().as_raw(), landlock })
}

fn user() -> (u32, u32) {
    match (tap::user_id(USER), tap::group_id(USER)) {
        (Ok(uid), Ok(gid)) => (uid, gid),
        _ => (NOBODY_ELSE, NOBODY_ELSE),
    }
}

/// Whether a user namespace's map (user_namespaces(7): inside, outside, count) has the id.
fn mapped(path: &str, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(path) else { return false };
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        matches!((first, count), (Some(first), Some(count)) if (first..first + count).contains(&u64::from(id)))
    })
}

fn drop_bounding_set() -> Result<()> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).context("give up", "the bounding set of capabilities"),
        }
    }
    Ok(())
}

/// No file, no listening, no signal to outside. What this kernel lacks of it is done without.
fn landlock() -> std::result::Result<bool, landlock::RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::mapped;

    #[test]
    fn the_machines_own_user_namespace_knows_everybody() {
        assert!(mapped("/proc/1/uid_map", 0));
        assert!(!mapped("/proc/1/no-such-map", 0));
    }
}
