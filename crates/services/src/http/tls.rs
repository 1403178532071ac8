//! How a connection begins, and what of its TLS a request is judged by: the name that it was opened for (SNI, RFC 6066).

use std::io;

use tokio::net::TcpStream;

/// What the client's hello agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secure {
    /// The name that it asked for, in lower case.
    pub name: Option<String>,
}

/// How a client begins to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With TLS.
    Tls,
    /// With HTTP/2, by prior knowledge (RFC 9113, 3.3).
    Http2,
    /// With HTTP/1, or what is none.
    Http1,
}

/// The first byte of a TLS record that holds a hello (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;
/// What no request of HTTP/1 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How a client begins, by its first bytes. Nothing is taken from the stream.
pub async fn begins(stream: &TcpStream) -> io::Result<Begins> {
    let mut first = [0; PREFACE.len()];
    let count = stream.peek(&mut first).await?;
    Ok(match first.get(..count) {
        Some([HANDSHAKE, ..]) => Begins::Tls,
        Some(first) if first.len() == PREFACE.len() && first == PREFACE => Begins::Http2,
        _ => Begins::Http1,
    })
}
