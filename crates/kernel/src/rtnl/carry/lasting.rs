//! Fixed IPv6 addresses that are kept from who flushes all that is fixed (dhclient-script(8), PREINIT6): they are given an
//! end far away for as long as that takes. Nothing else is ever given that one, so it is known again whatever happens
//! meanwhile.

use model::address::IfName;

use super::super::Rtnl;
use super::super::header::*;
use super::{STATE, Told, flags_of};
use crate::error::{Context as _, Result};
use crate::netlink::{flags, ne_u32};

/// INFINITY_LIFE_TIME of net/addrconf.h.
const FOREVER: u32 = u32::MAX;
/// Sixty-eight years, in seconds.
const FAR: u32 = 0x7fff_ffff;
/// How much of that may be over by the time that it is looked at: half a year.
const OVER: u32 = 0x00ff_ffff;
/// Scope of the world: RT_SCOPE_UNIVERSE.
const WORLD: u8 = 0;

/// struct ifa_cacheinfo: for how long it is preferred, and valid, in seconds.
fn lifetimes(told: &Told) -> (u32, u32) {
    let info = told.get(IFA_CACHEINFO).unwrap_or_default();
    let number = |at: usize| info.get(at..at + 4).map_or(FOREVER, ne_u32);
    (number(0), number(4))
}

fn is_kept(told: &Told) -> bool {
    (FAR - OVER..=FAR).contains(&lifetimes(told).1)
}

impl Rtnl {
    /// Whether the link has addresses that are kept so.
    pub fn has_kept(&mut self, link: &IfName) -> Result<bool> {
        Ok(self.of_the_world(link)?.iter().any(is_kept))
    }

    /// Keeps the link's fixed addresses; or has them be fixed again.
    pub fn keep_fixed(&mut self, link: &IfName, kept: bool) -> Result<()> {
        for mut told in self.of_the_world(link)? {
            let (preferred, valid) = lifetimes(&told);
            let ends = match kept {
                true if valid == FOREVER => FAR,
                false if is_kept(&told) => FOREVER,
                _ => continue,
            };
            // One that is not to be used any more (preferred for no time) stays so.
            let preferred = if preferred == 0 { 0 } else { ends };
            let flags = flags_of(&told) & !STATE;
            if let Some(byte) = told.header.get_mut(2) {
                *byte = 0;
            }
            told.set(IFA_FLAGS, flags.to_ne_bytes().to_vec());
            // The kernel notes itself when it was made.
            let info = [preferred, ends, 0, 0];
            told.set(IFA_CACHEINFO, info.iter().flat_map(|number| number.to_ne_bytes()).collect());
            let result = self.socket.request(RTM_NEWADDR, flags::REPLACE, |w| told.write(w));
            result.context("keep the fixed addresses of", link.to_string())?;
        }
        Ok(())
    }

    fn of_the_world(&mut self, link: &IfName) -> Result<Vec<Told>> {
        let index = self.index_of(link).map_err(|e| e.during("list the addresses of", link.to_string()))?;
        let mut all = self.told(RTM_GETADDR, RTM_NEWADDR, AF_INET6, 8)?;
        all.retain(|told| told.word(4) == index && told.header.get(3) == Some(&WORLD));
        Ok(all)
    }
}
