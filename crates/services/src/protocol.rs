//! What supervisor and worker say to each other.
//!
//! The supervisor believes of the worker's words only what they can do no harm with: numbers to show, and leases, which
//! it looks at again when it reads them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::address::IfName;
use model::services::Services;
use serde::{Deserialize, Serialize};

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// Names by UDP.
    DnsUdp,
    /// Names by TCP.
    DnsTcp,
    /// Holds the DHCP server's port.
    DhcpPort,
    /// What is sent to the DHCP server, as frames.
    DhcpFrames,
    /// ARP, as frames.
    Arp,
    /// Router solicitations and advertisements.
    Router,
    /// SOCKS.
    Socks,
    /// The page for a browser on this host.
    Web,
    /// Sites.
    Http,
}

/// A socket that the supervisor has bound. Two that are equal are the same socket: a reload keeps it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketKey {
    /// What it is for.
    pub purpose: Purpose,
    /// The LAN's bridge, where it is a LAN's.
    pub bridge: Option<IfName>,
    /// The address that it is bound to, where it is to one.
    pub address: Option<IpAddr>,
    /// Its port, where its purpose does not say it.
    pub port: Option<u16>,
    /// The index of the bridge that it is bound to, where it is to one: a bridge that was made anew has another.
    pub index: Option<u32>,
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// A socket, which comes along.
    Socket(SocketKey),
    /// The file of leases, open for reading and appending, which comes along.
    Leases,
    /// The file that requests are written down in, open for appending, which comes along.
    AccessLog,
    /// Guests that are not plugged in at the moment: sites pass them over at once.
    Away(BTreeSet<String>),
    /// All certificates that there are, but for those that are had by ACME meanwhile.
    Certificates(Vec<Pair>),
    /// What is kept of certificates by ACME.
    Acme {
        /// The account, where there is one.
        account: Option<String>,
        /// Authorities whose word for the directory's own name is taken, as DER.
        roots: Vec<Vec<u8>>,
    },
    /// A listener, which comes along: whoever connects there is the next supervisor, and ends the worker.
    Takeover,
    /// What is to be served from now on, and by which of the sockets that were sent; others are closed.
    Serve {
        /// All services.
        services: Box<Services>,
        /// The sockets.
        sockets: Vec<SocketKey>,
    },
    /// Who has this is let in to the page.
    Token(String),
    /// The state that was wanted: the document of `warren status --json`; empty where it cannot be found out.
    State(String),
    /// What there is to tell.
    Ask,
    /// The end.
    End,
    /// The same, once those are answered who are being answered.
    Finish,
}

/// From the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// It serves what it was told last.
    Serving,
    /// What there is to tell.
    Status(Box<Status>),
    /// Something by ACME is to be kept.
    Keep(Box<Kept>),
    /// The file of leases has grown long, and wants to be written anew.
    LongLeases,
    /// Somebody at the page wants the state.
    WantsState,
}

/// What the services have done since the worker started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The worker's process.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: u32,
    /// Whether landlock holds it.
    pub landlock: bool,
    /// Of names.
    pub dns: DnsCounts,
    /// Of leases.
    pub dhcp: DhcpCounts,
    /// Of router advertisements.
    pub ra: RaCounts,
    /// The leases that hold.
    pub leases: Vec<LeaseShown>,
    /// Of the developers' door.
    #[serde(default)]
    pub socks: SocksCounts,
    /// Of sites.
    #[serde(default)]
    pub http: HttpCounts,
    /// The guests that sites are on.
    #[serde(default)]
    pub backends: Vec<BackendShown>,
    /// The certificates of sites.
    #[serde(default)]
    pub certificates: Vec<CertificateShown>,
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// Whatever names it has itself; from these files.
    Files {
        /// The chain's.
        cert: String,
        /// The key's.
        key: String,
    },
    /// A host, or a wildcard; of our own making.
    SelfSigned(String),
    /// By ACME.
    Acme {
        /// The authority's directory.
        directory: String,
        /// The host.
        host: String,
    },
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What it is for.
    pub whose: Whose,
    /// The chain, in PEM; empty where there is none.
    pub chain: String,
    /// Its key, in PEM.
    pub key: String,
    /// Why it is not the newest one, or none at all.
    pub problem: Option<String>,
}

impl std::fmt::Debug for Pair {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("whose", &self.whose).field("problem", &self.problem).finish_non_exhaustive()
    }
}

/// What is kept by the supervisor for the worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// An account.
    Account {
        /// The authority's directory.
        directory: String,
        /// It, with its key.
        text: String,
    },
    /// A certificate.
    Certificate(Pair),
}

impl std::fmt::Debug for Kept {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account { directory, .. } => f.debug_tuple("Account").field(directory).finish(),
            Self::Certificate(pair) => f.debug_tuple("Certificate").field(pair).finish(),
        }
    }
}

/// A certificate, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateShown {
    /// Where it comes from: `files`, `self-signed` or `acme`.
    pub by: String,
    /// The hosts that it is for.
    pub names: Vec<String>,
    /// Who has signed it; none where there is none yet.
    pub issuer: Option<String>,
    /// When it ends, in seconds since 1970.
    pub until: Option<u64>,
    /// What is wrong with it, or with the next one.
    pub problem: Option<String>,
}

/// Counts of the developers' door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocksCounts {
    /// Clients that connected.
    pub clients: u64,
    /// Streams that stand.
    pub open: u64,
    /// Clients that were let through.
    pub connected: u64,
    /// Clients that wanted where nobody may go from here.
    pub refused: u64,
    /// Clients whose peer could not be reached, or found by its name.
    pub unreachable: u64,
    /// Clients beyond what may be here at once: closed.
    pub limited: u64,
    /// Clients that do not speak SOCKS5, or not in time: closed.
    pub malformed: u64,
    /// Bytes that clients sent.
    pub sent: u64,
    /// Bytes that they were sent.
    pub received: u64,
}

/// Counts of sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCounts {
    /// Connections of clients that were taken.
    pub connections: u64,
    /// Those that are open.
    pub open: u64,
    /// Connections beyond what may be open at once: closed.
    pub limited: u64,
    /// Requests.
    pub requests: u64,
    /// Answers of each sort, by their first digit, 1 to 5.
    pub answers: [u64; 5],
    /// Requests that were sent to a second guest, since the first did not take them.
    pub retried: u64,
    /// Requests for hosts or paths that are no site's.
    pub unknown: u64,
    /// Requests of sites without a living guest.
    pub no_guest: u64,
    /// Connections to guests that were made.
    pub dialled: u64,
}

/// A guest that sites are on, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendShown {
    /// The guest.
    pub guest: String,
    /// Its port.
    pub port: u16,
    /// Whether it takes requests.
    pub alive: bool,
    /// Requests that it has open.
    pub busy: usize,
    /// Requests that it was sent.
    pub requests: u64,
    /// How many of them, and of the questions after its health, it did not answer.
    pub failures: u64,
}

/// Counts of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounts {
    /// Questions.
    pub queries: u64,
    /// Answered out of a LAN's own zone.
    pub local: u64,
    /// Answered from what was remembered.
    pub cached: u64,
    /// Asked of an upstream resolver.
    pub forwarded: u64,
    /// Upstream questions that no resolver answered.
    pub failed: u64,
    /// Upstream answers that pointed into a LAN: dropped.
    pub rebinding: u64,
    /// Packets that were no questions: dropped.
    pub malformed: u64,
    /// Questions beyond what a client may have open at once: dropped.
    pub limited: u64,
    /// Questions that nobody here may ask: refused.
    pub refused: u64,
}

/// Counts of leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpCounts {
    /// Messages from clients.
    pub requests: u64,
    /// Addresses offered.
    pub offers: u64,
    /// Leases given, or given on.
    pub acks: u64,
    /// Leases denied.
    pub naks: u64,
    /// Addresses that clients found taken.
    pub declines: u64,
    /// Addresses that were found taken before they were offered.
    pub conflicts: u64,
    /// Frames of a client that names another's hardware address: dropped.
    pub wrong_mac: u64,
    /// Clients for which no address was left.
    pub exhausted: u64,
    /// Clients beyond what may ask for a new address at a time: dropped.
    pub limited: u64,
    /// Frames that are no DHCP: dropped.
    pub malformed: u64,
}

/// Counts of router advertisements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaCounts {
    /// Questions for a router.
    pub solicitations: u64,
    /// Advertisements sent.
    pub advertisements: u64,
    /// Packets that were no solicitations: dropped.
    pub malformed: u64,
}

/// A lease, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseShown {
    /// The LAN.
    pub lan: IfName,
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub mac: model::address::Mac,
    /// What it is called.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970.
    pub until: u64,
}
