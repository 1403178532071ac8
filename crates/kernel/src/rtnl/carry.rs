//! Everything that a link bears above its frames, moved to another: addresses, routes, rules, neighbours.
//!
//! What is moved is the kernel's own word of it, byte for byte but for the link, so that nothing is lost that we do not
//! know: lifetimes, metrics, marks, whoever made it. The new stands before the old goes, so that there is no moment
//! without; and what stands already is passed over, so that a move that was ended on its way can be done again.

use ipnet::IpNet;
use model::address::IfName;

use super::header::*;
use super::{LinkInfo, PROTOCOL, Rtnl, address_of};
use crate::error::{Context as _, KernelError, Result};
use crate::netlink::{NetlinkError, Writer, attrs, flags, ne_u32, text};

mod lasting;

/// What the kernel says of an address, and is not told.
const STATE: u32 = IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_PERMANENT;

/// A message's content: the family's header, and attributes as (type, payload).
#[derive(Clone, Debug)]
struct Told {
    header: Vec<u8>,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Told {
    fn parse(payload: &[u8], header: usize) -> Option<Self> {
        let attributes = attrs(payload.get(header..)?).map(|(kind, value)| (kind, value.to_vec())).collect();
        Some(Self { header: payload.get(..header)?.to_vec(), attributes })
    }

    fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice())
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).map(ne_u32)
    }

    /// Four bytes of the header.
    fn word(&self, at: usize) -> u32 {
        self.header.get(at..at + 4).map(ne_u32).unwrap_or(0)
    }

    fn set_word(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.header.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }

    fn set(&mut self, kind: u16, value: Vec<u8>) {
        self.attributes.retain(|(k, _)| *k != kind);
        self.attributes.push((kind, value));
    }

    fn without(&mut self, kinds: &[u16]) {
        self.attributes.retain(|(kind, _)| !kinds.contains(kind));
    }

    fn write(&self, w: &mut Writer) {
        w.raw(&self.header);
        for (kind, value) in &self.attributes {
            w.attr(*kind, value);
        }
    }
}

/// What a move is from and to.
struct Ends<'a> {
    from: &'a LinkInfo,
    to: &'a LinkInfo,
}

/// Something to be moved: as it is, and as it shall be.
struct Move {
    old: Told,
    new: Told,
}

impl Rtnl {
    /// Moves every address of `from` to `to` but `own`, and every route, rule and neighbour that is `from`'s; not what
    /// bears our number ([`PROTOCOL`]).
    ///
    /// Stops at the first thing that the kernel refuses; nothing has been taken from `from` then.
    pub fn carry_over(&mut self, from: &LinkInfo, to: &LinkInfo, own: &[IpNet]) -> Result<()> {
        let ends = Ends { from, to };
        let addresses = self.addresses_to_carry(&ends, own)?;
        let routes = self.routes_to_carry(&ends)?;
        let rules = self.rules_to_carry(&ends)?;
        let neighbours = self.neighbours_to_carry(&ends)?;
        for one in &addresses {
            self.put(RTM_NEWADDR, flags::CREATE | flags::EXCL, &one.new, "carry an address to", &to.name)?;
            if let Some(after) = asked_about_again(&one.new, &one.old) {
                self.put(RTM_NEWADDR, flags::REPLACE, &after, "carry an address to", &to.name)?;
            }
        }
        self.put_routes(&routes, &to.name)?;
        for one in &neighbours {
            self.put(RTM_NEWNEIGH, flags::CREATE | flags::REPLACE, &one.new, "carry a neighbour to", &to.name)?;
        }
        for one in &rules {
            self.put(RTM_NEWRULE, flags::CREATE | flags::EXCL, &one.new, "carry a rule to", &to.name)?;
        }
        for one in &rules {
            self.take(RTM_DELRULE, &one.old, "take a rule from", &from.name)?;
        }
        for one in &routes {
            self.take(RTM_DELROUTE, &one.old, "take a route from", &from.name)?;
        }
        // The last first: the kernel takes others of a subnet along with its first.
        for one in addresses.iter().rev() {
            self.take(RTM_DELADDR, &one.old, "take an address from", &from.name)?;
        }
        for one in &neighbours {
            // Most have gone with what led there.
            self.take(RTM_DELNEIGH, &one.old, "take a neighbour from", &from.name)?;
        }
        Ok(())
    }

    fn put(&mut self, kind: u16, flags: u16, told: &Told, operation: &'static str, link: &str) -> Result<()> {
        match self.socket.request(kind, flags, |w| told.write(w)).context(operation, link) {
            Err(e) if e.exists_already() => Ok(()),
            other => other,
        }
    }

    fn take(&mut self, kind: u16, told: &Told, operation: &'static str, link: &str) -> Result<()> {
        match self.socket.request(kind, 0, |w| told.write(w)).context(operation, link) {
            Err(e) if e.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Some routes need others, so those that are refused are tried again as long as others succeed.
    fn put_routes(&mut self, routes: &[Move], link: &str) -> Result<()> {
        let mut left: Vec<&Move> = routes.iter().collect();
        while !left.is_empty() {
            let before = left.len();
            let mut refused: Option<KernelError> = None;
            left.retain(|one| {
                // Behind those that are there: IPv4 would else find a route of the same metric in the way.
                let flags = flags::CREATE | flags::APPEND;
                match self.put(RTM_NEWROUTE, flags, &one.new, "carry a route to", link) {
                    Ok(()) => false,
                    Err(e) => {
                        refused.get_or_insert(e);
                        true
                    }
                }
            });
            match refused {
                Some(e) if left.len() == before => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn told(&mut self, get: u16, new: u16, family: u8, header: usize) -> Result<Vec<Told>> {
        let messages = self.socket.dump(get, |w| {
            let mut bytes = vec![0; header];
            bytes[0] = family;
            w.raw(&bytes);
        });
        match messages {
            // Linux without IPv6, or without rules.
            Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Ok(Vec::new()),
            messages => {
                let messages: std::result::Result<_, NetlinkError> = messages;
                let messages = messages.context("list", "what a link bears")?;
                Ok(messages.iter().filter(|m| m.kind == new).filter_map(|m| Told::parse(&m.payload, header)).collect())
            }
        }
    }

    /// Has the kernel tell once more of a link's link-local addresses, to whoever has missed that they are there.
    pub fn tell_of_link_local(&mut self, link: &IfName) -> Result<()> {
        let what = || format!("the link-local addresses of {link}");
        let index = self.index_of(link).map_err(|e| e.during("tell of", what()))?;
        for mut told in self.told(RTM_GETADDR, RTM_NEWADDR, AF_INET6, 8)? {
            let is_link_local = told.get(IFA_ADDRESS).is_some_and(|address| address.starts_with(&[0xfe, 0x80]));
            if told.word(4) != index || !is_link_local {
                continue;
            }
            let flags = flags_of(&told) & !STATE;
            if let Some(byte) = told.header.get_mut(2) {
                *byte = 0;
            }
            told.set(IFA_FLAGS, flags.to_ne_bytes().to_vec());
            let result = self.socket.request(RTM_NEWADDR, flags::REPLACE, |w| told.write(w));
            result.context("tell of", what())?;
        }
        Ok(())
    }

    fn addresses_to_carry(&mut self, ends: &Ends<'_>, own: &[IpNet]) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        for old in
            self.told(RTM_GETADDR, RTM_NEWADDR, AF_UNSPEC, 8)?.into_iter().filter(|t| t.word(4) == ends.from.index)
        {
            let address = old.get(IFA_LOCAL).or(old.get(IFA_ADDRESS)).and_then(address_of);
            let prefix = old.header.get(1).copied().unwrap_or(0);
            if address.and_then(|a| IpNet::new(a, prefix).ok()).is_some_and(|net| own.contains(&net)) {
                continue;
            }
            let mut new = old.clone();
            new.set_word(4, ends.to.index);
            let flags = flags_of(&old);
            let passing = STATE | IFA_F_SECONDARY;
            // It served a moment ago, so it is nobody else's: it must not be silent for a second.
            let six = if new.header.first() == Some(&AF_INET6) { IFA_F_NODAD } else { 0 };
            if let Some(byte) = new.header.get_mut(2) {
                *byte = 0;
            }
            new.set(IFA_FLAGS, ((flags & !passing) | six).to_ne_bytes().to_vec());
            if let Some(label) = old.get(IFA_LABEL).map(text) {
                // `eth0:1` says which alias it is.
                let rest = label.strip_prefix(ends.from.name.as_str()).unwrap_or("");
                let mut label = format!("{}{rest}", ends.to.name);
                label.truncate(15);
                label.push('\0');
                new.set(IFA_LABEL, label.into_bytes());
            }
            moves.push(Move { old, new });
        }
        Ok(moves)
    }

    fn routes_to_carry(&mut self, ends: &Ends<'_>) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        for family in [AF_INET, AF_INET6] {
            for mut old in self.told(RTM_GETROUTE, RTM_NEWROUTE, family, 12)? {
                let table = old.number(RTA_TABLE).unwrap_or_else(|| u32::from(old.header.get(4).copied().unwrap_or(0)));
                let cloned = old.word(8) & RTM_F_CLONED != 0;
                let ours = old.header.get(5) == Some(&PROTOCOL);
                let hops = old.get(RTA_MULTIPATH).map(|hops| replug(hops, ends));
                let by_it = old.number(RTA_OIF) == Some(ends.from.index) || hops.as_ref().is_some_and(|(_, any)| *any);
                // The local table is the kernel's own, and follows the addresses.
                if !by_it || cloned || ours || table == u32::from(RT_TABLE_LOCAL) {
                    continue;
                }
                let onlink = old.word(8) & RTNH_F_ONLINK;
                // struct rta_cacheinfo: when it ends is its third number, in hundredths of a second (USER_HZ).
                let ends_in = old.get(RTA_CACHEINFO).and_then(|info| info.get(8..12)).map(ne_u32).unwrap_or(0);
                old.set_word(8, onlink);
                old.without(&[RTA_CACHEINFO, RTA_IIF, RTA_NH_ID]);
                let mut new = old.clone();
                if new.get(RTA_OIF).is_some() {
                    new.set(RTA_OIF, ends.to.index.to_ne_bytes().to_vec());
                }
                if let Some((hops, _)) = hops {
                    new.set(RTA_MULTIPATH, hops);
                }
                if family == AF_INET6 && (1..=i32::MAX as u32).contains(&ends_in) {
                    new.set(RTA_EXPIRES, ends_in.div_ceil(100).to_ne_bytes().to_vec());
                }
                moves.push(Move { old, new });
            }
        }
        Ok(moves)
    }

    fn rules_to_carry(&mut self, ends: &Ends<'_>) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        for family in [AF_INET, AF_INET6] {
            for mut old in self.told(RTM_GETRULE, RTM_NEWRULE, family, 12)? {
                let names = [FRA_IIFNAME, FRA_OIFNAME];
                let named = |kind: &u16| old.get(*kind).is_some_and(|name| text(name) == ends.from.name);
                let of_it: Vec<u16> = names.into_iter().filter(named).collect();
                if of_it.is_empty() {
                    continue;
                }
                // What it says of the moment (whether the link is there) is not taken.
                let invert = old.word(8) & FIB_RULE_INVERT;
                old.set_word(8, invert);
                let mut new = old.clone();
                for kind in of_it {
                    new.set(kind, [ends.to.name.as_bytes(), b"\0"].concat());
                }
                moves.push(Move { old, new });
            }
        }
        Ok(moves)
    }

    /// Those that are written down, those that we answer for, and whoever is known now, so that the first packet need
    /// not ask.
    fn neighbours_to_carry(&mut self, ends: &Ends<'_>) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        for flag in [0, NTF_PROXY] {
            let messages = self.socket.dump(RTM_GETNEIGH, |w| {
                let mut bytes = [0; 12];
                bytes[10] = flag;
                w.raw(&bytes);
            });
            let messages = messages.context("list", "neighbours")?;
            for old in messages.iter().filter(|m| m.kind == RTM_NEWNEIGH).filter_map(|m| Told::parse(&m.payload, 12)) {
                let state = old.header.get(8..10).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
                let ours = old.get(NDA_PROTOCOL).is_some_and(|p| p.first() == Some(&PROTOCOL));
                let ip = matches!(old.header.first(), Some(&(AF_INET | AF_INET6)));
                let known = flag == NTF_PROXY || (old.get(NDA_LLADDR).is_some() && state & NUD_KNOWN != 0);
                if !ip || ours || !known || old.word(4) != ends.from.index {
                    continue;
                }
                let mut old = old;
                old.without(&[NDA_CACHEINFO, NDA_PROBES]);
                let mut new = old.clone();
                new.set_word(4, ends.to.index);
                if flag == 0 && state & NUD_PERMANENT == 0 {
                    let stale = if state & NUD_REACHABLE == 0 { NUD_STALE } else { NUD_REACHABLE };
                    if let Some(bytes) = new.header.get_mut(8..10) {
                        bytes.copy_from_slice(&stale.to_ne_bytes());
                    }
                }
                moves.push(Move { old, new });
            }
        }
        Ok(moves)
    }
}

/// The flags of an address's message; the attribute counts, and the header's byte is its low one.
fn flags_of(told: &Told) -> u32 {
    told.number(IFA_FLAGS).unwrap_or_else(|| u32::from(told.header.get(2).copied().unwrap_or(0)))
}

/// An address that was put without duplicate address detection, as it shall be told from then on: as it was.
fn asked_about_again(new: &Told, old: &Told) -> Option<Told> {
    let (now, before) = (flags_of(new), flags_of(old));
    (now & IFA_F_NODAD != before & IFA_F_NODAD).then(|| {
        let mut after = new.clone();
        after.set(IFA_FLAGS, (now & !IFA_F_NODAD).to_ne_bytes().to_vec());
        after
    })
}

/// Next hops (struct rtnexthop: length, flags, weight less one, link; then attributes) by the one link, put to the
/// other; and whether any was.
fn replug(hops: &[u8], ends: &Ends<'_>) -> (Vec<u8>, bool) {
    let mut bytes = hops.to_vec();
    let (mut at, mut any) = (0, false);
    while let (Some(length), Some(index)) = (hops.get(at..at + 2), hops.get(at + 4..at + 8)) {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        if length < 8 {
            break;
        }
        if let Some(flags) = bytes.get_mut(at + 2) {
            *flags &= RTNH_F_ONLINK as u8;
        }
        if ne_u32(index) == ends.from.index {
            bytes[at + 4..at + 8].copy_from_slice(&ends.to.index.to_ne_bytes());
            any = true;
        }
        at += length.next_multiple_of(4);
    }
    (bytes, any)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::find_attr;

    #[test]
    fn next_hops_by_the_link_are_put_to_the_other() {
        let link = |index, name: &str| LinkInfo { index, name: name.into(), ..LinkInfo::default() };
        let (from, to) = (link(2, "eth0"), link(7, "br0"));
        let mut hops = Vec::new();
        for index in [2u32, 3] {
            hops.extend(16u16.to_ne_bytes());
            hops.extend([0x11, 0]);
            hops.extend(index.to_ne_bytes());
            hops.extend([8, 0, 5, 0, 192, 0, 2, 1]);
        }
        let (moved, any) = replug(&hops, &Ends { from: &from, to: &to });
        assert!(any);
        assert_eq!((ne_u32(&moved[4..8]), ne_u32(&moved[20..24])), (7, 3));
        assert_eq!((moved[2], moved[18]), (0, 0), "what is so at the moment is not told again");
        assert_eq!(find_attr(&moved[8..16], RTA_GATEWAY), Some([192, 0, 2, 1].as_slice()));
    }
}
