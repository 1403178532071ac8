//! Where TLS begins: whether a connection is TLS, and what of its hello a request is judged by: for which name it was
//! opened (SNI, RFC 6066), and which protocol was agreed on (ALPN, RFC 7301).

use std::io;

use tokio::net::TcpStream;

/// What the client's hello agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secure {
    /// The name that it asked for, in lower case.
    pub name: Option<String>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
}

/// The first byte of a TLS record that holds a hello (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// Whether a client begins with TLS: its first byte says. Nothing is taken from the stream.
pub async fn is_hello(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok(count == 1 && first[0] == HANDSHAKE)
}
