//! Requests without a body, by HTTP/1.1 straight to a guest: its answer is read by the task that writes it to the
//! client, so that nothing goes from task to task on its way. Most requests are such; the others are hyper's.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pipes::{Bypass, Taken};
use super::wire::{Answer, Framing, Piece, Wrong, read_head};

/// How much is asked of the kernel at once: an answer's head with a short body, or of a long one.
const SHORT: usize = 8 << 10;
const LONG: usize = 64 << 10;
/// What is worth a pipe, in bytes.
const MUCH: u64 = 64 << 10;

/// A connection to a guest.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Loss {
    /// Nothing was sent: the connection was closed before.
    Unsent,
    /// The request went, and no answer came, or one that cannot be read.
    Sent,
}

impl Wire {
    /// A connection that was just made.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    /// Whether nothing was heard on it since its last answer, its end included.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let heard = self.stream.try_read(&mut [0]);
        self.read.is_empty() && matches!(heard, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request's head, and waits for that of the answer.
    pub async fn ask(&mut self, head: &[u8], method: &Method) -> Result<Answer, Loss> {
        let sent = self.stream.write(head).await.map_err(|_| Loss::Unsent)?;
        self.stream.write_all(head.get(sent..).unwrap_or_default()).await.map_err(|_| Loss::Sent)?;
        loop {
            match read_head(&mut self.read, method) {
                // Interim answers end here; nobody asked for another protocol.
                Ok(Some(answer)) if answer.status == StatusCode::SWITCHING_PROTOCOLS => return Err(Loss::Sent),
                Ok(Some(answer)) if answer.status.is_informational() => continue,
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(_) => return Err(Loss::Sent),
            }
            self.read.reserve(SHORT);
            if !matches!(self.stream.read_buf(&mut self.read).await, Ok(count) if count > 0) {
                return Err(Loss::Sent);
            }
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < SHORT {
            self.read.reserve(LONG);
        }
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }
}

/// An answer's body on its way.
#[derive(Debug)]
pub struct Flow {
    wire: Wire,
    framing: Framing,
    keeps: bool,
    /// By which what is long goes past us.
    bypass: Option<Arc<Bypass>>,
}

impl Flow {
    /// Of an answer on that connection.
    #[must_use]
    pub fn new(wire: Wire, framing: Framing, keeps: bool) -> Self {
        Self { wire, framing, keeps, bypass: None }
    }

    /// The client is reached by this: where much is left, it is not read here.
    pub fn bypasses(&mut self, bypass: &Arc<Bypass>) {
        if self.left().is_some_and(|left| left >= MUCH) {
            self.bypass = Some(Arc::clone(bypass));
        }
    }

    /// The next of it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let wrong = |wrong: Wrong| Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, wrong))));
        loop {
            match self.framing.take(&mut self.wire.read) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::<Bytes>::trailers(trailers)))),
                Ok(Piece::Over) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(e) => return wrong(e),
            }
            if let (Framing::Length(left), Some(bypass)) = (&mut self.framing, &self.bypass) {
                match ready!(bypass.poll_take(cx, &self.wire.stream, *left)) {
                    Ok(Taken::Some(bytes)) => {
                        *left -= bytes.len() as u64;
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    Ok(Taken::End) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                    Ok(Taken::Not) => self.bypass = None,
                    Err(e) => return Poll::Ready(Some(Err(e))),
                }
            }
            match ready!(self.wire.poll_more(cx)) {
                Ok(0) if self.framing == Framing::Rest => self.framing = Framing::Length(0),
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
    }

    /// Whether all of it is there.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.framing.is_over()
    }

    /// How long what is left of it is, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Chunks(_) | Framing::Rest => None,
        }
    }

    /// The connection, for the next request, where it may be used again.
    #[must_use]
    pub fn into_wire(mut self) -> Option<Wire> {
        if !self.keeps || !self.is_over() || !self.wire.read.is_empty() {
            return None;
        }
        if self.wire.read.capacity() > SHORT {
            self.wire.read = BytesMut::new();
        }
        Some(self.wire)
    }
}
