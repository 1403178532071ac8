//! DHCP messages in their frames (RFC 2131, RFC 2132): Ethernet, IPv4 and UDP around them, checksums included. Only what
//! is used is read; an option that means nothing to us is no reason to refuse a client.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::address::Mac;

/// Sorts of messages (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is there?
    Discover = 1,
    /// This address.
    Offer = 2,
    /// That one, please.
    Request = 3,
    /// Somebody has it.
    Decline = 4,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
    /// I need it no more.
    Release = 7,
    /// I have one; what else is there to know?
    Inform = 8,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The hardware address that sent the frame.
    pub sender: Mac,
    /// The hardware address that the client says it has.
    pub client: Mac,
    /// What it is.
    pub kind: Kind,
    /// What the answer bears, too.
    pub xid: u32,
    /// Whether it can hear broadcasts alone.
    pub broadcast: bool,
    /// The address that it has (ciaddr).
    pub has: Option<Ipv4Addr>,
    /// The address that it wants (option 50).
    pub wants: Option<Ipv4Addr>,
    /// The server that it means (option 54).
    pub server: Option<Ipv4Addr>,
    /// What it calls itself (option 12).
    pub name: Option<String>,
    /// The options that it wants to hear (option 55); all where it does not say.
    pub options: Option<Vec<u8>>,
    /// The client identifier (option 61), which the answer repeats (RFC 6842).
    pub id: Option<Vec<u8>>,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The sort: an offer, an ack or a nak.
    pub kind: Kind,
    /// Its question.
    pub to: Ask,
    /// The address that it gets; none of a nak, or for who has one.
    pub yours: Option<Ipv4Addr>,
    /// For how long, in seconds; none for who only wants to know.
    pub lifetime: Option<u32>,
}

/// What everybody on a LAN is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The server's hardware address.
    pub mac: Mac,
    /// Its address, which is the resolver's.
    pub server: Ipv4Addr,
    /// The subnet.
    pub subnet: Ipv4Net,
    /// Whether the server is the default router.
    pub router: bool,
    /// The zone, and search domain.
    pub domain: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Routes to networks behind stations.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// What the client is called, where the file says.
    pub name: Option<String>,
}

/// A frame that is no question of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no DHCP message of a client's")]
pub struct Malformed;

const ETHERNET: usize = 14;
const UDP: usize = 8;
/// Up to the magic cookie.
const BOOTP: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const ETH_P_IP: [u8; 2] = [0x08, 0x00];

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Malformed)
}

fn address(bytes: &[u8], at: usize) -> Result<Option<Ipv4Addr>, Malformed> {
    let address = Ipv4Addr::from(chunk::<4>(bytes, at)?);
    Ok((!address.is_unspecified()).then_some(address))
}

/// Reads a frame. Checksums are not looked at: between two ports of one machine they are often left to hardware that
/// never sees the frame.
pub fn ask(frame: &[u8]) -> Result<Ask, Malformed> {
    let sender = Mac(chunk::<6>(frame, 6)?);
    if chunk::<2>(frame, 12)? != ETH_P_IP {
        return Err(Malformed);
    }
    let packet = frame.get(ETHERNET..).ok_or(Malformed)?;
    let [first, _, high, low] = chunk::<4>(packet, 0)?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([high, low]));
    let [fragment, _] = chunk::<2>(packet, 6)?;
    let fine = first >> 4 == 4 && header >= 20 && packet.get(9) == Some(&17) && fragment & 0x3f == 0;
    if !fine {
        return Err(Malformed);
    }
    let datagram = packet.get(header..total.min(packet.len())).ok_or(Malformed)?;
    let length = usize::from(u16::from_be_bytes(chunk::<2>(datagram, 4)?));
    if u16::from_be_bytes(chunk::<2>(datagram, 2)?) != SERVER_PORT {
        return Err(Malformed);
    }
    message(sender, datagram.get(UDP..length).ok_or(Malformed)?)
}

fn message(sender: Mac, bytes: &[u8]) -> Result<Ask, Malformed> {
    // A request, by Ethernet, of six bytes of address; from the link itself and past no relay.
    let [op, hardware, length, _] = chunk::<4>(bytes, 0)?;
    if (op, hardware, length) != (1, 1, 6) || chunk::<4>(bytes, BOOTP)? != COOKIE || address(bytes, 24)?.is_some() {
        return Err(Malformed);
    }
    let client = Mac(chunk::<6>(bytes, 28)?);
    if !client.is_unicast() {
        return Err(Malformed);
    }
    let options = options(bytes.get(BOOTP + 4..).ok_or(Malformed)?)?;
    let find = |code: u8| options.iter().find(|(own, _)| *own == code).map(|(_, value)| *value);
    let four = |code: u8| find(code).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(Ipv4Addr::from);
    let kind = match find(53) {
        Some([1]) => Kind::Discover,
        Some([3]) => Kind::Request,
        Some([4]) => Kind::Decline,
        Some([7]) => Kind::Release,
        Some([8]) => Kind::Inform,
        _ => return Err(Malformed),
    };
    Ok(Ask {
        sender,
        client,
        kind,
        xid: u32::from_be_bytes(chunk::<4>(bytes, 4)?),
        broadcast: chunk::<2>(bytes, 10)?[0] & 0x80 != 0,
        has: address(bytes, 12)?,
        wants: four(50),
        server: four(54),
        name: find(12).and_then(label),
        options: find(55).map(<[u8]>::to_vec),
        id: find(61).map(<[u8]>::to_vec),
    })
}

/// The options up to their end (255); 0 is padding.
fn options(mut rest: &[u8]) -> Result<Vec<(u8, &[u8])>, Malformed> {
    let mut found = Vec::new();
    while let Some((&code, behind)) = rest.split_first() {
        match code {
            0 => rest = behind,
            255 => return Ok(found),
            _ => {
                let (&length, behind) = behind.split_first().ok_or(Malformed)?;
                let (value, behind) = behind.split_at_checked(usize::from(length)).ok_or(Malformed)?;
                found.push((code, value));
                rest = behind;
            }
        }
    }
    // Some clients forget the end.
    Ok(found)
}

/// A client's name, as a label of a zone: its first label, in lower case; none where it cannot be one.
fn label(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let label = text.split('.').next()?.to_ascii_lowercase();
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let inner = !label.starts_with('-') && !label.ends_with('-');
    ((1..=63).contains(&label.len()) && inner && label.chars().all(fine)).then_some(label)
}

/// The frame of an answer.
#[must_use]
pub fn frame(answer: &Answer, told: &Told) -> Vec<u8> {
    let ask = &answer.to;
    let message = answer_message(answer, told);
    // RFC 2131, 4.1: to the address that it has; else to the one that it gets, at its hardware address; else, and where
    // it wants so or is denied, to everybody.
    let everybody = (Mac([0xff; 6]), Ipv4Addr::BROADCAST);
    let (mac, to) = match (answer.kind, ask.has, answer.yours) {
        (Kind::Nak, ..) => everybody,
        (_, Some(has), _) => (ask.client, has),
        _ if ask.broadcast => everybody,
        (_, None, Some(yours)) => (ask.client, yours),
        _ => everybody,
    };
    let mut frame = Vec::with_capacity(ETHERNET + 28 + message.len());
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&told.mac.0);
    frame.extend_from_slice(&ETH_P_IP);
    let length = UDP + message.len();
    let mut header = [0u8; 20];
    header[0] = 0x45;
    // Network control, as routers' own traffic (RFC 4594).
    header[1] = 0xc0;
    // A message is a few hundred bytes.
    header[2..4].copy_from_slice(&(20 + length as u16).to_be_bytes());
    header[6] = 0x40;
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&told.server.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&header);
    let mut udp = [0u8; UDP];
    udp[0..2].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    let mut pseudo = [0u8; 12];
    pseudo[0..8].copy_from_slice(&header[12..20]);
    pseudo[9] = 17;
    pseudo[10..12].copy_from_slice(&(length as u16).to_be_bytes());
    // 0 would say that there is none (RFC 768).
    let sum = match checksum(&[&pseudo, &udp, &message]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&udp);
    frame.extend_from_slice(&message);
    frame
}

/// The Internet's checksum (RFC 1071) of parts that all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn answer_message(answer: &Answer, told: &Told) -> Vec<u8> {
    let ask = &answer.to;
    let mut bytes = vec![0u8; BOOTP];
    bytes[0..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&ask.xid.to_be_bytes());
    bytes[10] = if ask.broadcast { 0x80 } else { 0 };
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let is_nak = answer.kind == Kind::Nak;
    let has = if is_nak { None } else { ask.has };
    bytes[12..16].copy_from_slice(&has.unwrap_or(unspecified).octets());
    bytes[16..20].copy_from_slice(&answer.yours.unwrap_or(unspecified).octets());
    bytes[28..34].copy_from_slice(&ask.client.0);
    bytes.extend_from_slice(&COOKIE);
    let mut put = |code: u8, value: &[u8]| {
        // What is longer goes on in a second option (RFC 3396).
        for part in value.chunks(255) {
            bytes.extend_from_slice(&[code, part.len() as u8]);
            bytes.extend_from_slice(part);
        }
    };
    put(53, &[answer.kind as u8]);
    put(54, &told.server.octets());
    if let Some(id) = &ask.id {
        put(61, id);
    }
    if !is_nak {
        if let Some(lifetime) = answer.lifetime {
            put(51, &lifetime.to_be_bytes());
            put(58, &(lifetime / 2).to_be_bytes());
            put(59, &(lifetime / 8 * 7).to_be_bytes());
        }
        tell(ask, told, &mut put);
    }
    bytes.push(255);
    // BOOTP's least length: some clients drop shorter ones.
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

fn tell(ask: &Ask, told: &Told, put: &mut impl FnMut(u8, &[u8])) {
    let wanted = |code: u8| ask.options.as_ref().is_none_or(|options| options.contains(&code));
    put(1, &told.subnet.netmask().octets());
    put(28, &told.subnet.broadcast().octets());
    // RFC 3442: who understands these ignores the router, so that one is among them. They come first.
    if !told.routes.is_empty() && wanted(121) {
        let mut routes = Vec::new();
        let all = Ipv4Net::default();
        let default = told.router.then_some((all, told.server));
        for (net, via) in told.routes.iter().copied().chain(default) {
            let octets = net.network().octets();
            routes.push(net.prefix_len());
            routes.extend_from_slice(&octets[..usize::from(net.prefix_len()).div_ceil(8)]);
            routes.extend_from_slice(&via.octets());
        }
        put(121, &routes);
    }
    if told.router {
        put(3, &told.server.octets());
    }
    put(6, &told.server.octets());
    put(15, told.domain.as_bytes());
    if wanted(119)
        && let Some(name) = crate::dns::wire::name(&told.domain)
    {
        put(119, &name);
    }
    if wanted(26) {
        put(26, &told.mtu.to_be_bytes());
    }
    if let Some(name) = told.name.as_ref().filter(|_| wanted(12)) {
        put(12, name.as_bytes());
    }
}

// ---- is an address somebody's? ----

/// An ARP question for `address` that claims none itself (RFC 5227).
#[must_use]
pub fn probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame
}

/// Who claims which address in an ARP frame.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let fine = frame.get(12..20)? == [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];
    let mac = Mac(chunk::<6>(frame, 22).ok()?);
    let address = address(frame, 28).ok()??;
    fine.then_some((mac, address))
}
