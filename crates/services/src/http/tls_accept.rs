//! Connections that begin with TLS: by the client's hello (SNI, RFC 6066, and ALPN, RFC 7301) it is decided whether its
//! TLS ends here, passes to a guest untouched, or is refused with an alert.

use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::network::Tls;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::decide::Client;
use super::io::BreakOff;
use super::live::Live;
use super::serve::{self, Http};
use super::tls::Secure;
use super::tls_keys::{Keys, whose};

/// ALPN of RFC 8737: who asks so wants to see that a name is ours, and nothing else.
pub const ACME_TLS: &[u8] = b"acme-tls/1";
const HTTP2: &[u8] = b"h2";

/// TLS's alerts (RFC 8446, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The site is known, and there is no certificate for it yet.
    InternalError = 80,
    /// No name was asked for, and none is served unasked.
    MissingExtension = 109,
    /// The name is nobody's here.
    UnrecognizedName = 112,
    /// Nothing that the client wants to speak is spoken here.
    NoApplicationProtocol = 120,
}

impl Alert {
    /// A record of it, fatal, as it is sent in answer to a hello.
    #[must_use]
    pub fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// What a hello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The name, in lower case.
    pub name: Option<String>,
    /// Whether it is a proof that is asked for.
    pub proof: bool,
}

/// What becomes of a connection.
#[derive(Debug)]
pub enum Way {
    /// Its TLS ends here.
    End(Arc<ServerConfig>),
    /// It is shown a proof (RFC 8737), and closed.
    Prove(Arc<ServerConfig>),
    /// It goes to a guest of that site, untouched.
    Pass(usize),
    /// It goes nowhere.
    Refuse(Alert),
}

/// Where a connection to `local` with that hello goes.
#[must_use]
pub fn way(live: &Live, keys: &Keys, local: SocketAddr, hello: &Hello) -> Way {
    let Some(name) = &hello.name else { return Way::Refuse(Alert::MissingExtension) };
    if hello.proof
        && let Some(config) = keys.proof(name)
    {
        return Way::Prove(config);
    }
    let sites = live.table.hosts(local, name).filter_map(|nth| Some((nth, live.site(nth)?)));
    let Some((nth, site)) = sites.into_iter().find(|(_, site)| site.tls != Tls::Off) else {
        return Way::Refuse(Alert::UnrecognizedName);
    };
    match whose(&live.sites, site, name) {
        // It may well be the guest who is asked for a proof.
        None if site.tls == Tls::Passthrough => Way::Pass(nth),
        _ if hello.proof => Way::Refuse(Alert::NoApplicationProtocol),
        Some(whose) => keys.config(&whose).map_or(Way::Refuse(Alert::InternalError), Way::End),
        None => Way::Refuse(Alert::InternalError),
    }
}

/// Serves a connection that begins with TLS. Its hello and its handshake may take `patience` each.
pub async fn accept(
    http: &Rc<Http>,
    mut stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    patience: Duration,
) -> io::Result<()> {
    let (bytes, hello) = match timeout(patience, read_hello(&mut stream)).await?? {
        Ok(read) => read,
        Err(alert) => return refuse(stream, &alert, patience).await,
    };
    let live = http.live();
    match way(&live, &http.keys, local, &hello) {
        Way::End(config) => {
            let stream = Rewound { read: Cursor::new(bytes), stream };
            let stream = timeout(patience, TlsAcceptor::from(config).accept(stream)).await??;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            drop(live);
            let client = Client::new(peer, local, Some(Secure { name: hello.name }));
            serve::converse(http, stream, client, http2, None).await
        }
        Way::Prove(config) => {
            let stream = Rewound { read: Cursor::new(bytes), stream };
            let mut stream = timeout(patience, TlsAcceptor::from(config).accept(stream)).await??;
            timeout(patience, stream.shutdown()).await?
        }
        Way::Pass(nth) => {
            let client = Client::new(peer, local, None);
            pass(http, &live, nth, &client, stream, &bytes).await
        }
        Way::Refuse(alert) => refuse(stream, &alert.record(), patience).await,
    }
}

async fn refuse(mut stream: TcpStream, alert: &[u8], patience: Duration) -> io::Result<()> {
    timeout(patience, async {
        stream.write_all(alert).await?;
        stream.shutdown().await?;
        // Bytes that nobody has read would make the kernel reset the connection, and the alert would be lost.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    })
    .await?
}

/// A client's hello: as it came, and what it asks for; or the alert that it is answered with where it is none.
async fn read_hello(stream: &mut TcpStream) -> io::Result<Result<(Vec<u8>, Hello), Vec<u8>>> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let new = &buffer[..count];
        bytes.extend_from_slice(new);
        let mut unread = Cursor::new(new);
        while unread.position() < count as u64 {
            acceptor.read_tls(&mut unread)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let name = hello.server_name().map(str::to_ascii_lowercase);
                    let proof = hello.alpn().is_some_and(|mut all| all.any(|one| one == ACME_TLS));
                    return Ok(Ok((bytes, Hello { name, proof })));
                }
                Err((_, mut alert)) => {
                    let mut record = Vec::new();
                    alert.write_all(&mut record)?;
                    return Ok(Err(record));
                }
            }
        }
    }
}

/// To a guest: what was read of it, and then both ways whatever comes.
async fn pass(
    http: &Rc<Http>,
    live: &Live,
    nth: usize,
    client: &Client,
    mut stream: TcpStream,
    hello: &[u8],
) -> io::Result<()> {
    let mut tried = Vec::new();
    let (backend, mut there) = loop {
        let Some(backend) = live.choose(nth, client.peer.ip(), &tried) else {
            http.count(|counts| counts.no_guest += 1);
            return Ok(());
        };
        match backend.dial(client).await {
            Ok(there) => break (backend, there),
            Err(_) => {
                http.no_answer(&backend);
                tried.push(backend);
            }
        }
    };
    backend.note(true);
    http.dialled.set(http.dialled.get() + 1);
    let _busy = Busy::of(&backend);
    for end in [&stream, &there] {
        // Nobody looks inside: whether the ends live the kernel finds out.
        rustix::net::sockopt::set_socket_keepalive(end, true)?;
    }
    there.write_all(hello).await?;
    copy_bidirectional(&mut stream, &mut there).await.map(drop)
}

/// A guest has a connection more.
struct Busy(Rc<super::upstream::Backend>);

impl Busy {
    fn of(backend: &Rc<super::upstream::Backend>) -> Self {
        backend.busy.set(backend.busy.get() + 1);
        backend.requests.set(backend.requests.get() + 1);
        Self(Rc::clone(backend))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
    }
}

/// A connection of which something was read, as if nothing were.
#[derive(Debug)]
struct Rewound {
    read: Cursor<Vec<u8>>,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let at = usize::try_from(self.read.position()).unwrap_or(usize::MAX);
        let rest = self.read.get_ref().get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.read.set_position((at + count) as u64);
        if at + count == self.read.get_ref().len() {
            self.read = Cursor::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl BreakOff for Rewound {
    fn break_off(&self) {
        self.stream.break_off();
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
