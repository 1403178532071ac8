//! Traffic control (linux/pkt_sched.h, pkt_cls.h, tc-htb(8), tc-u32(8), tc-mirred(8)): how much leaves by an interface,
//! and what comes in by it led through a device in which it can wait.
//!
//! What leaves waits in one class of an HTB qdisc. What comes in can wait nowhere, so a filter of the ingress qdisc leads
//! it through an intermediate functional block (ifb), from which it leaves, waiting in an HTB qdisc of its own, as if
//! it came in by the interface just then. Qdiscs bear no text, so ours are known by their handle.

use super::Rtnl;
use super::header::*;
use crate::error::{Cause, Context as _, KernelError, Result, explained};
use crate::netlink::{self, NetlinkError, Writer, find_attr, flags, ne_u32, text};

/// The handle of our HTB qdisc, which marks it as ours: "wr". tc gives 8000: and on by itself, people begin with 1:.
const OURS: u32 = 0x7772 << 16;
/// Its only class.
const CLASS: u32 = OURS | 1;
/// The queue in the class.
const QUEUE: u32 = 0x7773 << 16;
/// TC_H_ROOT and TC_H_INGRESS of linux/pkt_sched.h.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
/// The handle that ingress qdiscs always have.
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The place of our filter among others: "wr".
const PREFERENCE: u32 = 0x7772;
/// ETH_P_ALL of linux/if_ether.h, in network order.
const ALL_PROTOCOLS: u32 = 3u16.to_be() as u32;

/// What may pass at once after a pause, at least: a segment as large as they get.
const BURST: u64 = 32 * 1024;
/// What may wait, at least: several such segments.
const WAITING: u64 = 256 * 1024;
/// Bytes of an Ethernet header, which do not count.
const ETHERNET: i32 = 14;

/// What is at an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlInfo {
    /// The index of the interface.
    pub index: u32,
    /// What leaves, where that is limited by us.
    pub leaving: Option<Leaving>,
    /// What comes in, where it is led somewhere by us.
    pub coming: Option<Coming>,
    /// The kind of another's qdisc for what leaves; the kernel's own ones do not count.
    pub others_root: Option<String>,
    /// The kind of another's qdisc, or the one with another's filters, for what comes in.
    pub others_ingress: Option<String>,
}

/// Our limit of what leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Bits a second.
    pub rate: u64,
    /// Whether class, queue and qdisc are as we make them.
    pub whole: bool,
}

/// Where what comes in is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coming {
    /// The index of the device; 0 where there is none, as with a qdisc without its filter.
    pub through: u32,
    /// Whether qdisc and filter are as we make them.
    pub whole: bool,
}

/// Bytes a second: HTB counts no fractions of them.
fn bytes_of(rate: u64) -> u64 {
    (rate / 8).max(1)
}

/// The burst of a rate: 4 ms of it, so that a late timer costs nothing.
fn burst(rate: u64) -> u64 {
    BURST.max(bytes_of(rate) / 250)
}

/// The queue of a rate: 100 ms of it, so that nothing waits much longer.
fn waiting(rate: u64) -> u32 {
    u32::try_from(WAITING.max(bytes_of(rate) / 10)).unwrap_or(u32::MAX)
}

/// How long `bytes` take, in the kernel's ticks of 64 ns (PSCHED_SHIFT of net/pkt_sched.h).
fn ticks(bytes: u64, rate: u64) -> u32 {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_of(rate));
    u32::try_from(ns >> 6).unwrap_or(u32::MAX)
}

impl Rtnl {
    /// What is at the interfaces of the namespace, of those where there is something but the kernel's own.
    pub fn controls(&mut self) -> Result<Vec<ControlInfo>> {
        let messages = self.socket.dump(RTM_GETQDISC, |w| {
            w.raw(&tcmsg(0, 0, 0, 0));
        });
        let mut all = std::collections::BTreeMap::<u32, ControlInfo>::new();
        let mut queues = std::collections::BTreeMap::<u32, u32>::new();
        for message in messages.context("list", "qdiscs")?.iter().filter(|m| m.kind == RTM_NEWQDISC) {
            let Some(qdisc) = Object::of(&message.payload) else { continue };
            let mut info = ControlInfo { index: qdisc.index, ..ControlInfo::default() };
            match (qdisc.parent, qdisc.handle) {
                (ROOT, OURS) if qdisc.kind == "htb" => {
                    let whole = htb_is_whole(qdisc.attrs);
                    info.leaving = Some(Leaving { rate: 0, whole });
                }
                (CLASS, QUEUE) if qdisc.kind == "bfifo" => {
                    let limit = find_attr(qdisc.attrs, TCA_OPTIONS).and_then(|o| o.get(..4)).map_or(0, ne_u32);
                    queues.insert(qdisc.index, limit);
                    continue;
                }
                // The kernel's own have no handle.
                (ROOT, handle) if handle != 0 => info.others_root = Some(qdisc.kind),
                (INGRESS, _) if qdisc.kind == "ingress" => info.coming = Some(Coming { through: 0, whole: true }),
                (INGRESS, _) => info.others_ingress = Some(qdisc.kind),
                _ => continue,
            }
            let known = all.entry(qdisc.index).or_insert_with(|| ControlInfo { index: qdisc.index, ..info.clone() });
            known.leaving = known.leaving.or(info.leaving);
            known.coming = known.coming.or(info.coming);
            known.others_root = known.others_root.take().or(info.others_root);
            known.others_ingress = known.others_ingress.take().or(info.others_ingress);
        }
        for (index, info) in &mut all {
            if let Some(leaving) = info.leaving {
                info.leaving = Some(self.class_of(*index, leaving, queues.get(index).copied())?);
            }
            if info.coming.is_some() {
                match self.filter_of(*index)? {
                    Some(coming) => info.coming = Some(coming),
                    None => (info.coming, info.others_ingress) = (None, Some("ingress".to_owned())),
                }
            }
        }
        Ok(all.into_values().collect())
    }

    /// Our class at that interface.
    fn class_of(&mut self, index: u32, qdisc: Leaving, queue: Option<u32>) -> Result<Leaving> {
        let messages = self.socket.dump(RTM_GETTCLASS, |w| {
            w.raw(&tcmsg(index, 0, 0, 0));
        });
        let messages = gone_is_nothing(messages).context("list", "classes")?;
        let classes: Vec<Object<'_>> = messages.iter().filter_map(|m| Object::of(&m.payload)).collect();
        let ours = classes.iter().find(|class| class.handle == CLASS && class.kind == "htb");
        let Some((rate, as_made)) = ours.and_then(|class| rate_of(class.attrs)) else {
            return Ok(Leaving { rate: 0, whole: false });
        };
        let alone = classes.len() == 1;
        let whole = qdisc.whole && alone && as_made && queue == Some(waiting(rate));
        Ok(Leaving { rate, whole })
    }

    /// Our filter of what comes in; nothing where only another's is there.
    fn filter_of(&mut self, index: u32) -> Result<Option<Coming>> {
        let messages = self.filters(index)?;
        let filters: Vec<Object<'_>> = messages.iter().filter_map(|m| Object::of(&m.payload)).collect();
        let ours = |filter: &&Object<'_>| filter.info >> 16 == PREFERENCE && filter.kind == "u32";
        if !filters.is_empty() && !filters.iter().any(|filter| ours(&filter)) {
            return Ok(None);
        }
        // A dump has the filter's table besides.
        let mut keys = filters.iter().filter(ours).filter_map(|filter| led(filter.attrs));
        Ok(Some(match (keys.next(), keys.next()) {
            (Some((through, whole)), None) => Coming { through, whole },
            _ => Coming { through: 0, whole: false },
        }))
    }

    /// All filters of what comes in.
    fn filters(&mut self, index: u32) -> Result<Vec<netlink::Message>> {
        let messages = self.socket.dump(RTM_GETTFILTER, |w| {
            w.raw(&tcmsg(index, 0, INGRESS_HANDLE, 0));
        });
        gone_is_nothing(messages).context("list", "filters")
    }

    /// Limits what leaves by an interface; a limit of ours that is there becomes another without a packet lost. Fails
    /// with EEXIST where another's qdisc is there.
    pub fn limit(&mut self, index: u32, name: &str, rate: u64, there: bool) -> Result<()> {
        if !there {
            let made = self.socket.request(RTM_NEWQDISC, flags::CREATE | flags::EXCL, |w| write_htb(w, index));
            lacking(made, "qdisc", "htb").context("limit what leaves by", name)?;
        }
        let class = self.socket.request(RTM_NEWTCLASS, flags::CREATE, |w| write_class(w, index, rate));
        let queue = |this: &mut Self| {
            this.socket.request(RTM_NEWQDISC, flags::CREATE | flags::REPLACE, |w| {
                w.raw(&tcmsg(index, QUEUE, CLASS, 0)).attr_str(TCA_KIND, "bfifo");
                // struct tc_fifo_qopt
                w.attr(TCA_OPTIONS, &waiting(rate).to_ne_bytes());
            })
        };
        let done = class.and_then(|()| queue(self)).context("limit what leaves by", name);
        done.inspect_err(|_| {
            // The failure is what must be told; half a limit is found by its handle.
            let _ = if there { Ok(()) } else { self.unlimit(index, name) };
        })
    }

    /// Takes our limit away. Fails with ENOENT where there is none.
    pub fn unlimit(&mut self, index: u32, name: &str) -> Result<()> {
        let result = self.socket.request(RTM_DELQDISC, 0, |w| {
            w.raw(&tcmsg(index, OURS, ROOT, 0));
        });
        result.context("lift the limit of what leaves by", name)
    }

    /// Leads what comes in by an interface through the device of index `through`. Fails with EEXIST where there is a
    /// qdisc for what comes in already.
    pub fn lead(&mut self, index: u32, name: &str, through: u32) -> Result<()> {
        let qdisc = self.socket.request(RTM_NEWQDISC, flags::CREATE | flags::EXCL, |w| {
            w.raw(&tcmsg(index, INGRESS_HANDLE, INGRESS, 0)).attr_str(TCA_KIND, "ingress");
        });
        lacking(qdisc, "qdisc", "ingress").context("limit what comes in by", name)?;
        let filter = self.socket.request(RTM_NEWTFILTER, flags::CREATE | flags::EXCL, |w| {
            w.raw(&tcmsg(index, 0, INGRESS_HANDLE, PREFERENCE << 16 | ALL_PROTOCOLS)).attr_str(TCA_KIND, "u32");
            w.nest(TCA_OPTIONS, |w| write_led(w, through));
        });
        lacking(filter, "classifier or action", "u32 or mirred").context("limit what comes in by", name).inspect_err(
            |_| {
                let _ = self.unlead(index, name);
            },
        )
    }

    /// Leads it nowhere any more; the qdisc goes with the last filter. Fails with ENOENT or EINVAL where there is no
    /// qdisc for what comes in.
    pub fn unlead(&mut self, index: u32, name: &str) -> Result<()> {
        let filter = self.socket.request(RTM_DELTFILTER, 0, |w| {
            w.raw(&tcmsg(index, 0, INGRESS_HANDLE, PREFERENCE << 16 | ALL_PROTOCOLS));
        });
        match filter {
            Err(e) if e.is_absent() || e.errno() == Some(libc::EINVAL) => {}
            other => other.context("lift the limit of what comes in by", name)?,
        }
        if !self.filters(index)?.is_empty() {
            // Another's are in it.
            return Ok(());
        }
        let result = self.socket.request(RTM_DELQDISC, 0, |w| {
            w.raw(&tcmsg(index, INGRESS_HANDLE, INGRESS, 0));
        });
        result.context("lift the limit of what comes in by", name)
    }
}

/// Words for a kernel that lacks a part: it says ENOENT for a kind that it does not know.
fn lacking(result: netlink::Result<()>, what: &str, kind: &str) -> std::result::Result<(), Cause> {
    match result {
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            let config = match kind {
                "htb" => "CONFIG_NET_SCH_HTB (`modprobe sch_htb`)",
                "ingress" => "CONFIG_NET_SCH_INGRESS (`modprobe sch_ingress`)",
                _ => "CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED (`modprobe -a cls_u32 act_mirred`)",
            };
            let why = format!("this kernel has no {what} {kind}, which `limit` needs: {config}");
            Err(explained(std::io::Error::from_raw_os_error(e.errno().unwrap_or(libc::ENOENT)), why))
        }
        other => other.map_err(Cause::from),
    }
}

/// An interface that goes meanwhile has nothing at it.
fn gone_is_nothing<T>(result: netlink::Result<Vec<T>>) -> netlink::Result<Vec<T>> {
    match result {
        Err(e) if e.is_absent() || e.errno() == Some(libc::EINVAL) => Ok(Vec::new()),
        other => other,
    }
}

/// The error of a kernel without ifb devices, in words.
pub(super) fn without_ifb(error: NetlinkError, name: &str) -> KernelError {
    let cause = match error.errno() {
        Some(libc::EOPNOTSUPP) => explained(
            std::io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            "this kernel has no ifb devices, which a `limit` of what a guest sends needs: CONFIG_IFB (`modprobe ifb`)",
        ),
        _ => error.into(),
    };
    KernelError::new("make the queue", name, cause)
}

/// A qdisc, class or filter of a dump.
struct Object<'a> {
    index: u32,
    handle: u32,
    parent: u32,
    info: u32,
    kind: String,
    attrs: &'a [u8],
}

impl<'a> Object<'a> {
    fn of(payload: &'a [u8]) -> Option<Self> {
        let number = |at: usize| payload.get(at..at + 4).map(ne_u32);
        let attrs = payload.get(20..)?;
        let kind = find_attr(attrs, TCA_KIND).map(text)?;
        Some(Self { index: number(4)?, handle: number(8)?, parent: number(12)?, info: number(16)?, kind, attrs })
    }
}

/// struct tcmsg of linux/rtnetlink.h
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (at, number) in [(4, index), (8, handle), (12, parent), (16, info)] {
        bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

/// struct tc_sizespec of linux/pkt_sched.h: only `overhead` is of use without a table.
fn size_spec() -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[4..8].copy_from_slice(&(-ETHERNET).to_ne_bytes());
    bytes
}

fn write_htb(w: &mut Writer, index: u32) {
    /// HTB_VER of net/sched/sch_htb.c, the part that counts.
    const VERSION: u32 = 3;
    /// Not used, since the class says its quantum itself; the kernel wants one.
    const RATE_TO_QUANTUM: u32 = 10;
    w.raw(&tcmsg(index, OURS, ROOT, 0)).attr_str(TCA_KIND, "htb");
    w.nest(TCA_OPTIONS, |w| {
        // struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts
        let numbers = [VERSION, RATE_TO_QUANTUM, CLASS & 0xffff, 0, 0];
        w.attr(TCA_HTB_INIT, &numbers.map(u32::to_ne_bytes).concat());
    });
    w.nest(TCA_STAB, |w| {
        w.attr(TCA_STAB_BASE, &size_spec());
    });
}

/// Whether the qdisc sends everything to our class, and counts as ours does.
fn htb_is_whole(attrs: &[u8]) -> bool {
    let options = find_attr(attrs, TCA_OPTIONS).unwrap_or(&[]);
    let init = find_attr(options, TCA_HTB_INIT).unwrap_or(&[]);
    let base = find_attr(attrs, TCA_STAB).and_then(|stab| find_attr(stab, TCA_STAB_BASE)).unwrap_or(&[]);
    let to_our_class = init.get(8..12).map(ne_u32) == Some(CLASS & 0xffff);
    to_our_class && base.get(4..8) == size_spec().get(4..8)
}

fn write_class(w: &mut Writer, index: u32, rate: u64) {
    /// TC_LINKLAYER_ETHERNET: else the kernel asks for a table of times.
    const ETHERNET_LAYER: u8 = 1;
    let bytes = bytes_of(rate);
    let plain = u32::try_from(bytes).unwrap_or(u32::MAX);
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
    let mut spec = vec![0, ETHERNET_LAYER, 0, 0, 0, 0, 0, 0];
    spec.extend(plain.to_ne_bytes());
    // struct tc_htb_opt: rate, ceil, buffer, cbuffer, quantum, level, prio
    let mut options = [spec.clone(), spec].concat();
    let buffer = ticks(burst(rate), rate);
    for number in [buffer, buffer, BURST as u32, 0, 0] {
        options.extend(number.to_ne_bytes());
    }
    w.raw(&tcmsg(index, CLASS, OURS, 0)).attr_str(TCA_KIND, "htb");
    w.nest(TCA_OPTIONS, |w| {
        w.attr(TCA_HTB_PARMS, &options);
        if u64::from(plain) != bytes {
            w.attr(TCA_HTB_RATE64, &bytes.to_ne_bytes());
            w.attr(TCA_HTB_CEIL64, &bytes.to_ne_bytes());
        }
    });
}

/// The rate of a class in bits a second, and whether it is one that we make.
fn rate_of(attrs: &[u8]) -> Option<(u64, bool)> {
    let options = find_attr(attrs, TCA_OPTIONS)?;
    let parms = find_attr(options, TCA_HTB_PARMS)?;
    let number = |at: usize| parms.get(at..at + 4).map(ne_u32);
    let wide = |kind| find_attr(options, kind).and_then(|v| Some(u64::from_ne_bytes(v.try_into().ok()?)));
    let rate = wide(TCA_HTB_RATE64).or_else(|| number(8).map(u64::from))?;
    let ceil = wide(TCA_HTB_CEIL64).or_else(|| number(20).map(u64::from))?;
    let bits = rate.saturating_mul(8);
    // The kernel keeps nanoseconds and tells ticks: what it tells may be one less.
    let near = |at: usize| number(at).is_some_and(|told| told.abs_diff(ticks(burst(bits), bits)) <= 1);
    Some((bits, rate == ceil && near(24) && near(28)))
}

fn write_led(w: &mut Writer, through: u32) {
    /// TC_U32_TERMINAL of linux/pkt_cls.h.
    const TERMINAL: u8 = 1;
    // struct tc_u32_sel with one key that every packet has: flags, offshift, nkeys; then mask, value, place, its mask.
    let mut selector = [0; 32];
    (selector[0], selector[2]) = (TERMINAL, 1);
    w.attr(TCA_U32_SEL, &selector);
    w.nest(TCA_U32_ACT, |w| {
        w.nest(1, |w| {
            w.attr_str(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |w| {
                // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
                let numbers = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, through];
                w.attr(TCA_MIRRED_PARMS, &numbers.map(u32::to_ne_bytes).concat());
            });
        });
    });
}

/// Where a filter of ours leads; nothing of what is no filter, but its table.
fn led(attrs: &[u8]) -> Option<(u32, bool)> {
    let options = find_attr(attrs, TCA_OPTIONS)?;
    let selector = find_attr(options, TCA_U32_SEL)?;
    let key_is_any = selector.get(2) == Some(&1) && selector.get(16..20).is_some_and(|mask| mask == [0; 4]);
    let actions = find_attr(options, TCA_U32_ACT).unwrap_or(&[]);
    let parms = find_attr(actions, 1)
        .filter(|action| find_attr(action, TCA_ACT_KIND).map(text).as_deref() == Some("mirred"))
        .and_then(|action| find_attr(find_attr(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS))
        .unwrap_or(&[]);
    let number = |at: usize| parms.get(at..at + 4).map(ne_u32);
    let redirects = (number(8), number(20)) == (Some(TC_ACT_STOLEN), Some(TCA_EGRESS_REDIR));
    let alone = find_attr(actions, 2).is_none();
    Some((number(24).unwrap_or(0), key_is_any && redirects && alone))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(errno: i32) -> netlink::Result<()> {
        Err(NetlinkError::Refused { errno, words: Some("Specified qdisc kind is unknown".into()), seq: 1 })
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let error = lacking(refused(libc::ENOENT), "qdisc", "htb").unwrap_err().to_string();
        assert!(error.contains("no qdisc htb") && error.contains("sch_htb"), "{error}");
        let error = lacking(refused(libc::EPERM), "qdisc", "htb").unwrap_err().to_string();
        assert!(!error.contains("no qdisc"), "{error}");
        let NetlinkError::Refused { .. } = refused(1).unwrap_err() else { panic!() };
        let error = without_ifb(refused(libc::EOPNOTSUPP).unwrap_err(), "ifb-a").to_string();
        assert!(error.contains("ifb-a") && error.contains("modprobe ifb"), "{error}");
    }

    #[test]
    fn bursts_and_queues_grow_with_the_rate_and_fit_their_numbers() {
        for rate in [1, 8, 64_000, 20_000_000, 1_000_000_000, 400_000_000_000] {
            assert!(burst(rate) >= BURST && u64::from(waiting(rate)) >= WAITING, "{rate}");
            assert!(ticks(burst(rate), rate) > 0, "{rate}");
        }
        assert_eq!(burst(1_000_000_000), 500_000);
        assert_eq!(waiting(1_000_000_000), 12_500_000);
    }
}
