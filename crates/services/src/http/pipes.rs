//! Long answers past us: by splice(2) out of a guest's connection into a pipe, and out of that into the client's, so that
//! their bytes are never copied here.
//!
//! hyper frames such an answer as any other. For what is in the pipe it is given bytes that stand for it, and where it
//! would write these, the pipe is emptied. It never copies what a body gives it while it writes by writev(2), as it is
//! told to; nobody ever looks at what those bytes are.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::io::BreakOff;

/// What a pipe holds, in bytes: what of an answer waits for a slow client, beside its socket's buffer. All pipes of one
/// user may hold 64 MiB, unless the machine says otherwise (pipe-user-pages-soft of pipe(7)): who comes later has none.
pub const WIDE: usize = 256 << 10;
/// Pipes that are kept for the next long answer.
const MOST_IDLE: usize = 16;
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// What is shared by all connections.
#[derive(Debug)]
pub struct Pipes {
    /// Stands for bytes in a pipe: never written to, so that no memory is behind it.
    blank: Bytes,
    idle: Mutex<Vec<Pipe>>,
}

/// Where it is read from, and where it is written to.
type Pipe = (OwnedFd, OwnedFd);

impl Default for Pipes {
    fn default() -> Self {
        Self { blank: Bytes::from(vec![0; WIDE]), idle: Mutex::default() }
    }
}

/// A client's connection without TLS: what goes past us to it.
#[derive(Debug)]
pub struct Bypass {
    pipes: Arc<Pipes>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pipe: Option<Pipe>,
    /// Bytes in it.
    holds: usize,
    /// Whether they are an answer's last.
    last: bool,
    /// Who waits until it is empty.
    waker: Option<Waker>,
}

/// What could be taken from a guest.
#[derive(Debug)]
pub enum Taken {
    /// Bytes that stand for what is in the pipe now.
    Some(Bytes),
    /// Its connection has ended.
    End,
    /// Nothing can be taken so: there is no pipe left, or splice(2) does not know such streams.
    Not,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bypass {
    /// Of one connection.
    #[must_use]
    pub fn new(pipes: &Arc<Pipes>) -> Arc<Self> {
        Arc::new(Self { pipes: Arc::clone(pipes), state: Mutex::default() })
    }

    /// Takes at most `left` bytes, which are all that is left of an answer, from a guest's connection into the pipe, once
    /// that is empty: so what cannot be taken is not there yet, and never has no room.
    pub fn poll_take(&self, cx: &mut Context<'_>, from: &TcpStream, left: u64) -> Poll<io::Result<Taken>> {
        let state = &mut *locked(&self.state);
        if state.holds > 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.pipe.is_none() {
            state.pipe = self.pipes.one();
        }
        let Some((_, into)) = &state.pipe else { return Poll::Ready(Ok(Taken::Not)) };
        let most = usize::try_from(left).map_or(WIDE, |left| left.min(WIDE));
        loop {
            ready!(from.poll_read_ready(cx))?;
            return Poll::Ready(
                match from.try_io(Interest::READABLE, || Ok(splice(from, None, into, None, most, FLAGS)?)) {
                    Ok(0) => Ok(Taken::End),
                    Ok(count) => {
                        (state.holds, state.last) = (count, count as u64 == left);
                        Ok(Taken::Some(self.pipes.blank.slice(..count.min(WIDE))))
                    }
                    Err(e) if is_passing(&e) => continue,
                    Err(e) if is_never(&e) => Ok(Taken::Not),
                    Err(e) => Err(e),
                },
            );
        }
    }

    /// Gives of what is in the pipe to the client.
    fn poll_give(&self, cx: &mut Context<'_>, to: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        let state = &mut *locked(&self.state);
        loop {
            let Some((out, _)) = state.pipe.as_ref().filter(|_| state.holds > 0) else {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            let most = most.min(state.holds);
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || Ok(splice(out, None, to, None, most, FLAGS)?)) {
                Ok(count) => {
                    state.holds -= count.min(state.holds);
                    if state.holds == 0 {
                        self.emptied(state);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(e) if is_passing(&e) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn emptied(&self, state: &mut State) {
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        if std::mem::take(&mut state.last)
            && let Some(pipe) = state.pipe.take()
        {
            self.pipes.keep(pipe);
        }
    }
}

impl Pipes {
    fn one(&self) -> Option<Pipe> {
        if let Some(pipe) = locked(&self.idle).pop() {
            return Some(pipe);
        }
        // No descriptor is left, or no page for a pipe.
        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // One that would stay narrow costs more than it spares.
        fcntl_setpipe_size(&pipe.1, WIDE).ok()?;
        Some(pipe)
    }

    /// Keeps one that is empty.
    fn keep(&self, pipe: Pipe) {
        let mut idle = locked(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(pipe);
        }
    }

    /// Whether these bytes stand for what is in a pipe.
    fn are(&self, bytes: &IoSlice<'_>) -> bool {
        !bytes.is_empty() && self.blank.as_ptr_range().contains(&bytes.as_ptr())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Streams that cannot be spliced say so before anything was taken.
fn is_never(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::NOSYS))
}

/// A client's connection without TLS.
#[derive(Debug)]
pub struct Plain {
    stream: TcpStream,
    bypass: Arc<Bypass>,
}

impl Plain {
    /// With what goes past us to it.
    #[must_use]
    pub fn new(stream: TcpStream, bypass: Arc<Bypass>) -> Self {
        Self { stream, bypass }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl BreakOff for Plain {
    fn break_off(&self) {
        self.stream.break_off();
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pipes = &self.bypass.pipes;
        let before = bufs.iter().take_while(|bytes| !pipes.are(bytes)).count();
        match (bufs.get(..before).unwrap_or_default(), bufs.get(before)) {
            (before, Some(blank)) if before.iter().all(|bytes| bytes.is_empty()) => {
                self.bypass.poll_give(cx, &self.stream, blank.len())
            }
            (before, _) => Pin::new(&mut self.stream).poll_write_vectored(cx, before),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
