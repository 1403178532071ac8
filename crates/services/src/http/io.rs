//! A client's connection that is cut when the client takes nothing for too long, and what hyper wants of a runtime.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::server::TlsStream;

/// One more that is under way, until it is dropped. hyper moves streams between threads where it is let: hence an atom.
#[derive(Debug)]
pub struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// Counted there.
    #[must_use]
    pub fn new(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's connection that can be broken off.
pub trait BreakOff {
    /// Once it is closed the client is sent a reset, and what it has not taken is not kept for it any longer: the kernel
    /// would else offer that for minutes (SO_LINGER of socket(7)). One that is gone needs none.
    fn break_off(&self);
}

impl BreakOff for TcpStream {
    fn break_off(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl<S: BreakOff> BreakOff for TlsStream<S> {
    fn break_off(&self) {
        self.get_ref().0.break_off();
    }
}

/// A stream whose writes fail when nothing was taken for `patience`; it is broken off then.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Since when nothing is taken.
    stalled: Option<(Pin<Box<tokio::time::Sleep>>, UnderWay)>,
    under_way: Arc<AtomicUsize>,
}

impl<S: BreakOff> Patient<S> {
    /// Around a stream; while something waits to be written, it is one of those that are under way.
    pub fn new(stream: S, patience: Duration, under_way: Arc<AtomicUsize>) -> Self {
        Self { stream, patience, stalled: None, under_way }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let (patience, all) = (self.patience, &self.under_way);
        let anew = || (Box::pin(tokio::time::sleep(patience)), UnderWay::new(all));
        let (stalled, _) = self.stalled.get_or_insert_with(anew);
        ready!(stalled.as_mut().poll(cx));
        self.stream.break_off();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + BreakOff + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Runs what hyper wants to be run beside a connection on the worker's one thread.
#[derive(Clone, Copy, Debug)]
pub struct Beside;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Beside {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
