//! DNS messages (RFC 1035, RFC 6891): questions read, answers written, others' answers walked through. Nothing here
//! believes a length or a pointer.

use std::net::IpAddr;

mod name;
mod reply;
pub use name::{labels, name, reversed};
pub use reply::{Data, Reply, refusal};

/// Types of records that something depends on (IANA, DNS parameters).
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// A name for an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// How to reach a service, with hints of addresses.
    pub const SVCB: u16 = 64;
    /// The same of web servers.
    pub const HTTPS: u16 = 65;
    /// From here on questions are about whole zones (IXFR, AXFR, MAILB, MAILA).
    pub const FIRST_OF_ZONES: u16 = 251;
    /// The last of those.
    pub const LAST_OF_ZONES: u16 = 254;
    /// Everything.
    pub const ANY: u16 = 255;
}

/// The Internet's class.
pub const IN: u16 = 1;

/// Codes of answers (RFC 1035, RFC 2136).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// All is well.
    NoError = 0,
    /// The question cannot be read.
    FormErr = 1,
    /// It could not be answered.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not what is done here.
    NotImp = 4,
    /// Not for you.
    Refused = 5,
}

const HEADER: usize = 12;
const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
const OPCODE: u16 = 0x7800;
/// The DO bit in an OPT record's TTL (RFC 3225).
const DO: u32 = 0x8000;
/// What we take and give by UDP: no fragments on any sane path (DNS flag day 2020).
pub const OUR_PAYLOAD: u16 = 1232;
/// Without EDNS a UDP answer has 512 bytes at most.
const PLAIN_PAYLOAD: u16 = 512;
/// The longest name on the wire.
const LONGEST_NAME: usize = 255;

/// A name as on the wire: labels with their lengths in front, a zero at the end.
pub type Name = Vec<u8>;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What the answer bears, too.
    pub id: u16,
    /// Whether the asker wants names of the world looked up (RD).
    pub recurse: bool,
    /// Whether it wants answers that do not validate as well (CD).
    pub unchecked: bool,
    /// Whether it understands "validated" (AD in a question, RFC 6840).
    pub authentic: bool,
    /// The name, as it was written.
    pub name: Name,
    /// The type asked for.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// What the asker says by EDNS, where it does.
    pub edns: Option<Edns>,
}

/// What an asker says by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest UDP answer that it takes.
    pub payload: u16,
    /// Whether it wants DNSSEC's records (DO).
    pub dnssec: bool,
    /// 0 is all there is.
    pub version: u8,
}

/// Why a packet is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoQuery {
    /// Nothing to answer: too short, or an answer itself.
    Silence,
    /// It can be answered with a code alone.
    Refuse {
        /// Its id.
        id: u16,
        /// Its flags.
        flags: u16,
        /// The code.
        rcode: Rcode,
    },
}

// ---- reading ----

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Something ended before it should, or points where it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a DNS message that cannot be read")]
pub struct Malformed;

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let [a, b] = *self.take(2)?.first_chunk().ok_or(Malformed)?;
        Ok(u16::from_be_bytes([a, b]))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(*self.take(4)?.first_chunk().ok_or(Malformed)?))
    }

    /// A name without pointers, as questions have it.
    fn plain_name(&mut self) -> Result<&'a [u8], Malformed> {
        let begun = self.at;
        loop {
            let length = usize::from(*self.take(1)?.first().ok_or(Malformed)?);
            if length > 63 {
                return Err(Malformed);
            }
            self.take(length)?;
            if self.at - begun > LONGEST_NAME {
                return Err(Malformed);
            }
            if length == 0 {
                return self.bytes.get(begun..self.at).ok_or(Malformed);
            }
        }
    }

    /// Over a name that may end in a pointer.
    fn skip_name(&mut self) -> Result<(), Malformed> {
        loop {
            let length = *self.take(1)?.first().ok_or(Malformed)?;
            match length {
                0 => return Ok(()),
                1..=63 => {
                    self.take(usize::from(length))?;
                }
                0xc0..=0xff => {
                    self.take(1)?;
                    return Ok(());
                }
                _ => return Err(Malformed),
            }
        }
    }
}

/// Reads a question.
pub fn query(bytes: &[u8]) -> Result<Query, NoQuery> {
    let mut reader = Reader { bytes, at: 0 };
    let mut word = || reader.u16().map_err(|_| NoQuery::Silence);
    let (id, flags) = (word()?, word()?);
    let counts = [word()?, word()?, word()?, word()?];
    if flags & QR != 0 {
        return Err(NoQuery::Silence);
    }
    let refuse = |rcode| NoQuery::Refuse { id, flags, rcode };
    if flags & OPCODE != 0 {
        return Err(refuse(Rcode::NotImp));
    }
    let [1, 0, 0, additional] = counts else { return Err(refuse(Rcode::FormErr)) };
    let rest = |reader: &mut Reader<'_>| -> Result<Query, Malformed> {
        let name = reader.plain_name()?.to_vec();
        let (kind, class) = (reader.u16()?, reader.u16()?);
        let mut edns = None;
        for _ in 0..additional {
            let root = reader.at;
            reader.skip_name()?;
            let named = reader.at != root + 1;
            let (kind, class, ttl) = (reader.u16()?, reader.u16()?, reader.u32()?);
            let length = reader.u16()?;
            reader.take(usize::from(length))?;
            if kind == rtype::OPT {
                // There is at most one, and it belongs to the root.
                if edns.is_some() || named {
                    return Err(Malformed);
                }
                let [_, version, ..] = ttl.to_be_bytes();
                edns = Some(Edns { payload: class.max(PLAIN_PAYLOAD), dnssec: ttl & DO != 0, version });
            }
        }
        let flag = |bit| flags & bit != 0;
        Ok(Query { id, recurse: flag(RD), unchecked: flag(CD), authentic: flag(AD), name, kind, class, edns })
    };
    rest(&mut reader).map_err(|_| refuse(Rcode::FormErr))
}

/// What another resolver answered, ready to be handed on: without its OPT record, which is between it and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Where the TTLs stand.
    ttls: Vec<u16>,
    /// Where the questions end.
    question_end: usize,
    /// Its code, the high bits of EDNS included.
    pub rcode: u16,
    /// Whether it was cut.
    pub truncated: bool,
    /// How long it may be remembered, in seconds; 0 where it must not be.
    pub lifetime: u32,
    /// Every address that it tells.
    pub addresses: Vec<IpAddr>,
    /// Those of the type asked for, which are the answer itself.
    pub answers: Vec<IpAddr>,
}

/// How long anything is remembered at most, in seconds: a day, and of what is not there three hours (RFC 2308).
const LONGEST_LIFE: u32 = 86400;
const LONGEST_ABSENCE: u32 = 10800;

/// Reads the answer of another resolver to `asked`, whose question had the id `id`.
pub fn answer(bytes: &[u8], id: u16, asked: &Query) -> Result<Answer, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let (own, flags) = (reader.u16()?, reader.u16()?);
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    if own != id || flags & QR == 0 || flags & OPCODE != 0 || counts[0] != 1 || bytes.len() > usize::from(u16::MAX) {
        return Err(Malformed);
    }
    let name = reader.plain_name()?;
    let same = name.eq_ignore_ascii_case(&asked.name) && reader.u16()? == asked.kind && reader.u16()? == asked.class;
    if !same {
        return Err(Malformed);
    }
    let mut answer = Answer {
        bytes: bytes.to_vec(),
        ttls: Vec::new(),
        question_end: reader.at,
        rcode: flags & 0x000f,
        truncated: flags & TC != 0,
        lifetime: 0,
        addresses: Vec::new(),
        answers: Vec::new(),
    };
    let mut life = Life::default();
    match records(&mut reader, &counts, asked.kind, &mut answer, &mut life) {
        Ok(()) => {}
        // Cut in the middle of a record: who asks again by TCP does not need what is left.
        Err(Malformed) if answer.truncated => answer.cut(),
        Err(e) => return Err(e),
    }
    answer.lifetime = life.of(answer.rcode, counts[1] > 0);
    Ok(answer)
}

/// What an answer's records say of its lifetime.
#[derive(Default)]
struct Life {
    shortest: Option<u32>,
    absence: Option<u32>,
}

impl Life {
    fn of(&self, rcode: u16, answers: bool) -> u32 {
        match (rcode, answers) {
            (0, true) => self.shortest.unwrap_or(0).min(LONGEST_LIFE),
            // NXDOMAIN, perhaps behind aliases, or nothing of that type.
            (3, _) | (0, false) => {
                let absence = self.absence.unwrap_or(0).min(LONGEST_ABSENCE);
                self.shortest.map_or(absence, |shortest| shortest.min(absence))
            }
            _ => 0,
        }
    }
}

fn records(
    reader: &mut Reader<'_>,
    counts: &[u16; 4],
    asked: u16,
    answer: &mut Answer,
    life: &mut Life,
) -> Result<(), Malformed> {
    for (section, count) in counts.iter().enumerate().skip(1) {
        for nth in 0..*count {
            let begun = reader.at;
            reader.skip_name()?;
            let (kind, _class) = (reader.u16()?, reader.u16()?);
            let ttl_at = reader.at;
            let ttl = reader.u32()?;
            let length = usize::from(reader.u16()?);
            let data = reader.take(length)?;
            if kind == rtype::OPT {
                answer.rcode |= u16::from(ttl.to_be_bytes()[0]) << 4;
                // It is the last there is, or what follows it is left out: nothing before it points behind it.
                answer.bytes.truncate(begun);
                answer.set_count(section, nth);
                return if section == 3 { Ok(()) } else { Err(Malformed) };
            }
            answer.ttls.push(u16::try_from(ttl_at).map_err(|_| Malformed)?);
            let ttl = plain_ttl(ttl);
            if section == 1 {
                life.shortest = Some(life.shortest.map_or(ttl, |shortest| shortest.min(ttl)));
            }
            if section == 2 && kind == rtype::SOA {
                let minimum = data.last_chunk().map_or(0, |last| u32::from_be_bytes(*last));
                life.absence = Some(ttl.min(minimum));
            }
            addresses(kind, data, &mut answer.addresses);
            if section == 1 && kind == asked && matches!(kind, rtype::A | rtype::AAAA) {
                addresses(kind, data, &mut answer.answers);
            }
        }
    }
    // What stands behind the last record is no part of it.
    answer.bytes.truncate(reader.at);
    Ok(())
}

/// A TTL with its highest bit set is 0 (RFC 2181).
fn plain_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl }
}

fn addresses(kind: u16, data: &[u8], into: &mut Vec<IpAddr>) {
    match kind {
        rtype::A => into.extend(data.first_chunk::<4>().map(|octets| IpAddr::from(*octets))),
        rtype::AAAA => into.extend(data.first_chunk::<16>().map(|octets| IpAddr::from(*octets))),
        rtype::SVCB | rtype::HTTPS => hints(data, into),
        _ => {}
    }
}

/// The hints of addresses of a service's record (RFC 9460): priority, target, then keys with their values.
fn hints(data: &[u8], into: &mut Vec<IpAddr>) {
    let mut reader = Reader { bytes: data, at: 0 };
    let mut walk = || -> Result<(), Malformed> {
        reader.take(2)?;
        reader.skip_name()?;
        while reader.at < data.len() {
            let (key, length) = (reader.u16()?, reader.u16()?);
            let value = reader.take(usize::from(length))?;
            match key {
                4 => into.extend(value.as_chunks::<4>().0.iter().map(|octets| IpAddr::from(*octets))),
                6 => into.extend(value.as_chunks::<16>().0.iter().map(|octets| IpAddr::from(*octets))),
                _ => {}
            }
        }
        Ok(())
    };
    // What cannot be read is no hint to anybody.
    let _ = walk();
}

impl Answer {
    fn set_count(&mut self, section: usize, count: u16) {
        for (nth, bytes) in self.bytes.iter_mut().skip(4).take(8).enumerate() {
            if nth / 2 == section {
                *bytes = count.to_be_bytes()[nth % 2];
            } else if nth / 2 > section {
                *bytes = 0;
            }
        }
    }

    /// The question alone.
    fn cut(&mut self) {
        self.bytes.truncate(self.question_end);
        self.ttls.clear();
        self.addresses.clear();
        self.answers.clear();
        self.set_count(1, 0);
    }

    /// How much it takes in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + self.ttls.len() * 2 + self.addresses.len() * 17
    }

    /// As an answer to `asked`, `age` seconds after it was had, in at most `limit` bytes.
    #[must_use]
    pub fn reply(&self, asked: &Query, age: u32, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 11);
        bytes.extend_from_slice(&self.bytes);
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(ttl) = bytes.get_mut(at..at + 4).and_then(|ttl| ttl.first_chunk_mut::<4>()) {
                *ttl = plain_ttl(u32::from_be_bytes(*ttl)).saturating_sub(age).to_be_bytes();
            }
        }
        let upstream = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        // AD is told to those alone who understand it.
        let understands = asked.authentic || asked.edns.is_some_and(|edns| edns.dnssec);
        let kept = upstream & if understands { AD } else { 0 };
        let truncated = if self.truncated { TC } else { 0 };
        // A code of EDNS' own has no words for who speaks none.
        let rcode = if self.rcode > 0x000f && asked.edns.is_none() { Rcode::ServFail as u16 } else { self.rcode };
        let flags = QR | RA | kept | truncated | asked_flags(asked) | (rcode & 0x000f);
        finish(bytes, asked, flags, self.question_end, limit, (self.rcode >> 4) as u8)
    }
}

fn asked_flags(asked: &Query) -> u16 {
    (if asked.recurse { RD } else { 0 }) | (if asked.unchecked { CD } else { 0 })
}

/// Puts in what is the asker's own: id, flags, the name as it wrote it, EDNS; cuts it where it is too long.
fn finish(mut bytes: Vec<u8>, asked: &Query, flags: u16, question_end: usize, limit: usize, high: u8) -> Vec<u8> {
    let opt = asked.edns.map(|edns| opt(OUR_PAYLOAD, edns.dnssec, high));
    let mut flags = flags;
    if bytes.len() + opt.map_or(0, |opt| opt.len()) > limit {
        bytes.truncate(question_end);
        flags |= TC;
        bytes[6..HEADER].fill(0);
    }
    bytes[0..2].copy_from_slice(&asked.id.to_be_bytes());
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    if let Some(name) = bytes.get_mut(HEADER..HEADER + asked.name.len()) {
        name.copy_from_slice(&asked.name);
    }
    if let Some(opt) = opt {
        bytes.extend_from_slice(&opt);
        let count = u16::from_be_bytes([bytes[10], bytes[11]]).saturating_add(1);
        bytes[10..12].copy_from_slice(&count.to_be_bytes());
    }
    bytes
}

fn opt(payload: u16, dnssec: bool, high: u8) -> [u8; 11] {
    let [a, b] = payload.to_be_bytes();
    [0, 0, 41, a, b, high, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]
}

impl Query {
    /// A question of the host's own.
    #[must_use]
    pub fn of_host(name: Name, kind: u16) -> Self {
        Self { id: 0, recurse: true, unchecked: false, authentic: false, name, kind, class: IN, edns: None }
    }

    /// The largest answer by UDP.
    #[must_use]
    pub fn limit(&self) -> usize {
        usize::from(self.edns.map_or(PLAIN_PAYLOAD, |edns| edns.payload.clamp(PLAIN_PAYLOAD, 4096)))
    }

    /// The same question for an upstream resolver.
    #[must_use]
    pub fn upstream(&self, id: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.name.len() + 15);
        let flags = RD | AD | if self.unchecked { CD } else { 0 };
        for word in [id, flags, 1, 0, 0, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&self.class.to_be_bytes());
        bytes.extend_from_slice(&opt(OUR_PAYLOAD, self.edns.is_some_and(|edns| edns.dnssec), 0));
        bytes
    }
}
