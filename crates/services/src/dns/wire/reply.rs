//! Answers of our own, written record by record.

use std::net::IpAddr;

use super::{AA, HEADER, IN, OPCODE, QR, Query, RA, RD, Rcode, asked_flags, finish, rtype};

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct Reply<'a> {
    asked: &'a Query,
    bytes: Vec<u8>,
    question_end: usize,
    flags: u16,
    counts: [u16; 3],
    high: u8,
}

/// The data of a record of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR.
    Pointer(&'a [u8]),
    /// NS.
    Server(&'a [u8]),
    /// SOA: the zone's name; its server is the zone itself.
    Start(&'a [u8]),
}

impl<'a> Reply<'a> {
    /// To `asked`, with that code. `recursion` says whether we look names of the world up for it at all.
    #[must_use]
    pub fn new(asked: &'a Query, rcode: Rcode, recursion: bool) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[5] = 1;
        bytes.extend_from_slice(&asked.name);
        bytes.extend_from_slice(&asked.kind.to_be_bytes());
        bytes.extend_from_slice(&asked.class.to_be_bytes());
        let flags = QR | if recursion { RA } else { 0 } | asked_flags(asked) | rcode as u16;
        Self { asked, question_end: bytes.len(), bytes, flags, counts: [0; 3], high: 0 }
    }

    /// As who knows it himself (AA).
    #[must_use]
    pub fn authoritative(mut self) -> Self {
        self.flags |= AA;
        self
    }

    /// That the version of EDNS is none that we know (BADVERS, RFC 6891).
    #[must_use]
    pub fn bad_version(mut self) -> Self {
        self.high = 1;
        self
    }

    /// A record of the name that was asked for.
    pub fn answer(&mut self, ttl: u32, data: &Data<'_>) {
        // The question's name, by a pointer.
        self.record(0, &[0xc0, HEADER as u8], ttl, data);
    }

    /// A record beside the answer: why there is none.
    pub fn authority(&mut self, name: &[u8], ttl: u32, data: &Data<'_>) {
        self.record(1, name, ttl, data);
    }

    fn record(&mut self, section: usize, name: &[u8], ttl: u32, data: &Data<'_>) {
        let (kind, content) = match data {
            Data::Address(IpAddr::V4(a)) => (rtype::A, a.octets().to_vec()),
            Data::Address(IpAddr::V6(a)) => (rtype::AAAA, a.octets().to_vec()),
            Data::Pointer(name) => (rtype::PTR, name.to_vec()),
            Data::Server(name) => (rtype::NS, name.to_vec()),
            Data::Start(zone) => {
                let mut content = zone.to_vec();
                // hostmaster@ZONE
                content.extend_from_slice(b"\x0ahostmaster");
                content.extend_from_slice(zone);
                // Serial, refresh, retry, expire: nobody transfers it. Then how long an absence is believed.
                for number in [1u32, 3600, 600, 86400, ttl] {
                    content.extend_from_slice(&number.to_be_bytes());
                }
                (rtype::SOA, content)
            }
        };
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        // A few names of 255 bytes at most.
        self.bytes.extend_from_slice(&(content.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(&content);
        self.counts[section] += 1;
    }

    /// As bytes, `limit` at most.
    #[must_use]
    pub fn finish(mut self, limit: usize) -> Vec<u8> {
        for (nth, count) in self.counts.iter().enumerate() {
            self.bytes[6 + 2 * nth..8 + 2 * nth].copy_from_slice(&count.to_be_bytes());
        }
        finish(self.bytes, self.asked, self.flags, self.question_end, limit, self.high)
    }
}

/// An answer to what is no question, by its id and flags alone.
#[must_use]
pub fn refusal(id: u16, flags: u16, rcode: Rcode) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[0..2].copy_from_slice(&id.to_be_bytes());
    bytes[2..4].copy_from_slice(&(QR | flags & (OPCODE | RD) | rcode as u16).to_be_bytes());
    bytes
}
