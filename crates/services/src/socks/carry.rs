//! What goes from one TCP stream to another: the first of it by a buffer, for most streams are short, and a pipe costs
//! more than they carry; then by splice(2), which never shows it to us.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds at first (pipe(7)), and what it is asked to hold.
const PIPE: usize = 64 * 1024;
const WIDE: usize = 512 * 1024;
/// A stream that has carried so much gets a pipe.
const LONG: u64 = 64 * 1024;
/// What a buffer holds, where there is no pipe.
const BUFFER: usize = 16 * 1024;
/// After so many turns others have theirs: names are answered by the same thread.
const TURNS: u32 = 16;

/// Both ways, until both have ended; what one side ends is ended at the other, and what breaks is broken off there.
pub async fn both(client: &TcpStream, peer: &TcpStream, sent: &Cell<u64>, received: &Cell<u64>) -> io::Result<()> {
    let ended = Cell::new(false);
    let outcome = tokio::try_join!(one(client, peer, sent, &ended, true), one(peer, client, received, &ended, false));
    if outcome.is_err() {
        // A reset, and no orderly end, of what was cut (SO_LINGER of socket(7)). A stream that is gone needs none.
        for stream in [client, peer] {
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO));
        }
    }
    outcome.map(drop)
}

/// One way. `ended` says whether the other has ended, and is told that this one has; `delays`, that `to` is still to be
/// told not to.
async fn one(from: &TcpStream, to: &TcpStream, count: &Cell<u64>, ended: &Cell<bool>, delays: bool) -> io::Result<()> {
    if !by_buffer(from, to, count, LONG, delays).await? {
        let spliced = match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
            Ok(pipe) => {
                // Beyond what one user's pipes may hold it stays as it is.
                let _ = fcntl_setpipe_size(&pipe.1, WIDE);
                by_pipe(from, to, &pipe, count).await?
            }
            // No descriptor is left, or no page for a pipe.
            Err(_) => false,
        };
        if !spliced {
            by_buffer(from, to, count, u64::MAX, false).await?;
        }
    }
    // Where both have ended, they are closed right away.
    if ended.replace(true) {
        return Ok(());
    }
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        // It ended meanwhile.
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether it could be done at all.
async fn by_pipe(
    from: &TcpStream,
    to: &TcpStream,
    (out, into): &(OwnedFd, OwnedFd),
    count: &Cell<u64>,
) -> io::Result<bool> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    let holds = fcntl_getpipe_size(into).unwrap_or(PIPE);
    let mut turns = 0;
    loop {
        from.readable().await?;
        let taken = from.try_io(Interest::READABLE, || Ok(splice(from, None, into, None, holds, flags)?));
        let mut left = match taken {
            Ok(0) => return Ok(true),
            Ok(taken) => taken,
            Err(e) if is_passing(&e) => continue,
            // Streams that cannot be spliced say so before anything was taken.
            Err(e) if matches!(e.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::NOSYS)) => {
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        while left > 0 {
            to.writable().await?;
            match to.try_io(Interest::WRITABLE, || Ok(splice(out, None, to, None, left, flags)?)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(given) => {
                    left -= given.min(left);
                    count.set(count.get() + given as u64);
                }
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e),
            }
        }
        turns += 1;
        if turns % TURNS == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether it came to its end before it had carried `most`.
async fn by_buffer(
    from: &TcpStream,
    to: &TcpStream,
    count: &Cell<u64>,
    most: u64,
    mut delays: bool,
) -> io::Result<bool> {
    let mut buffer: Vec<u8> = Vec::new();
    let (mut turns, mut carried) = (0, 0);
    while carried < most {
        let ready = from.ready(Interest::READABLE).await?;
        // One that is silent for long keeps no buffer before it has spoken.
        buffer.clear();
        let taken = match take(from, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(taken) => taken,
            Err(e) if is_passing(&e) => continue,
            Err(e) => return Err(e),
        };
        // The end that is known to follow goes with the last of it.
        give_more(to, &buffer, ready.is_read_closed()).await?;
        if std::mem::take(&mut delays) {
            no_delay(to);
        }
        carried += taken as u64;
        count.set(count.get() + taken as u64);
        turns += 1;
        if turns % TURNS == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(false)
}

/// Adds to `buffer` what is there. Where that is less than there was room for, nothing is left to be asked for until
/// epoll(7) tells of more.
fn take(from: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut last = None;
    let taken = from.try_io(Interest::READABLE, || {
        buffer.reserve_exact(BUFFER);
        let room = buffer.capacity() - buffer.len();
        let (taken, _) = rustix::net::recv(from, spare_capacity(buffer), RecvFlags::empty())?;
        if (1..room).contains(&taken) {
            last = Some(taken);
            // By this word the stream counts as drained.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    });
    last.map_or(taken, Ok)
}

/// What a stream has said before anybody asked, as far as that is known without waiting, and whether it has ended.
pub fn spoken(from: &TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    loop {
        match take(from, &mut bytes) {
            Ok(0) => return Ok((bytes, true)),
            Ok(_) if bytes.len() < BUFFER => {}
            Ok(_) => return Ok((bytes, false)),
            Err(e) if is_passing(&e) => return Ok((bytes, false)),
            Err(e) => return Err(e),
        }
    }
}

/// What was sent first waited for nothing; nothing that follows waits for it to have arrived (TCP_NODELAY of tcp(7)).
pub fn no_delay(stream: &impl AsFd) {
    // A stream that is gone waits for nothing either.
    let _ = rustix::net::sockopt::set_tcp_nodelay(stream, true);
}

/// Writes all of `bytes`.
pub async fn give(to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    give_more(to, bytes, false).await
}

/// Writes all of `bytes`; where `more` is certain to follow, the last packet may wait for it (MSG_MORE of send(2)).
pub async fn give_more(to: &TcpStream, mut bytes: &[u8], more: bool) -> io::Result<()> {
    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    while !bytes.is_empty() {
        match to.try_io(Interest::WRITABLE, || Ok(rustix::net::send(to, bytes, flags)?)) {
            Ok(given) => bytes = bytes.get(given..).unwrap_or(&[]),
            Err(e) if is_passing(&e) => to.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// More than any buffer on the way holds, so that both sides wait for each other.
    const MUCH: usize = 12 << 20;

    #[test]
    fn all_of_it_comes_and_the_end_with_it_by_either_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for way in ["pipe", "buffer", "both"] {
            runtime.block_on(async {
                let (mut client, inner) = pair().await;
                let (outer, mut peer) = pair().await;
                let bytes: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
                let count = Cell::new(0);
                let carry = async {
                    if way == "both" {
                        return one(&inner, &outer, &count, &Cell::new(false), true).await.unwrap();
                    }
                    if way == "pipe" {
                        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
                        assert!(by_pipe(&inner, &outer, &pipe, &count).await.unwrap(), "TCP is spliced here");
                    } else {
                        assert!(by_buffer(&inner, &outer, &count, u64::MAX, true).await.unwrap());
                    }
                    rustix::net::shutdown(&outer, rustix::net::Shutdown::Write).unwrap();
                };
                let send = async {
                    client.write_all(&bytes).await.unwrap();
                    client.shutdown().await.unwrap();
                };
                let take = async {
                    let mut came = Vec::new();
                    peer.read_to_end(&mut came).await.unwrap();
                    came
                };
                let ((), (), came) = tokio::join!(carry, send, take);
                assert!(came == bytes, "{} bytes came by {way}", came.len());
                assert_eq!(count.get(), MUCH as u64);
            });
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_said_first_is_known_without_waiting() {
        let (mut peer, near) = pair().await;
        assert_eq!(spoken(&near).unwrap(), (Vec::new(), false));
        peer.write_all(b"first").await.unwrap();
        near.readable().await.unwrap();
        assert_eq!(spoken(&near).unwrap(), (b"first".to_vec(), false));
        // It counts as drained: whoever waits is not told of what is not there.
        assert!(matches!(take(&near, &mut Vec::new()), Err(e) if is_passing(&e)));
        peer.write_all(b"last").await.unwrap();
        peer.shutdown().await.unwrap();
        let ended = async {
            while !near.ready(Interest::READABLE).await.unwrap().is_read_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.unwrap();
        assert_eq!(spoken(&near).unwrap(), (b"last".to_vec(), true));
        // What the last packet waits for is the end, and both come.
        let (far, mut client) = pair().await;
        give_more(&far, b"last", true).await.unwrap();
        rustix::net::shutdown(&far, rustix::net::Shutdown::Write).unwrap();
        let mut came = Vec::new();
        client.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"last");
    }
}
