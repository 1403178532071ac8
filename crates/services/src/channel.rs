//! The way between supervisor and worker: messages as JSON with their length in front, each with a descriptor or none
//! (SCM_RIGHTS of unix(7)).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message, in bytes: a network of thousands of guests is a few MiB.
const LONGEST: usize = 64 << 20;
/// Length, then how many descriptors come along.
const HEADER: usize = 5;

/// Two ends that are connected, open over no exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    Ok((here.into(), there.into()))
}

/// One end of it, as its writer and its reader.
pub fn split(end: OwnedFd) -> io::Result<(Writer, Reader)> {
    let end = std::os::unix::net::UnixStream::from(end);
    end.set_nonblocking(true)?;
    let end = Rc::new(UnixStream::from_std(end)?);
    let reader = Reader { end: Rc::clone(&end), bytes: Vec::new(), descriptors: VecDeque::new() };
    Ok((Writer { end }, reader))
}

/// Writes messages. One at a time: who waits in [`Writer::send`] must not be dropped there, or the next message begins
/// within this one.
#[derive(Clone, Debug)]
pub struct Writer {
    end: Rc<UnixStream>,
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader {
    end: Rc<UnixStream>,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Writer {
    /// Sends `message` and, along with it, a descriptor.
    pub async fn send<T: Serialize>(&self, message: &T, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(HEADER + body.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.push(u8::from(descriptor.is_some()));
        frame.extend_from_slice(&body);
        // It goes with the first byte that goes.
        let mut descriptor = descriptor;
        let mut sent = 0;
        while sent < frame.len() {
            self.end.writable().await?;
            match self.end.try_io(Interest::WRITABLE, || send_some(self.end.as_fd(), &frame[sent..], descriptor)) {
                Ok(count) => {
                    sent += count;
                    descriptor = None;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn send_some(end: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|fd| [fd]);
    if let Some(descriptors) = &descriptors
        && !along.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(end, &[IoSlice::new(bytes)], &mut along, SendFlags::NOSIGNAL)?)
}

impl Reader {
    /// The next message with what came along; none where the other end is closed. May be dropped while it waits.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            self.end.readable().await?;
            let (bytes, descriptors) = (&mut self.bytes, &mut self.descriptors);
            match self.end.try_io(Interest::READABLE, || receive_some(self.end.as_fd(), bytes, descriptors)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The first message, where all of it is there.
    fn whole<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let Some((header, body)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [a, b, c, d, descriptors] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > LONGEST {
            return Err(io::Error::other(format!("a message of {length} bytes")));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..HEADER + length);
        let descriptor = match descriptors {
            0 => None,
            _ => Some(self.descriptors.pop_front().ok_or_else(|| io::Error::other("a descriptor is missing"))?),
        };
        Ok(Some((message, descriptor)))
    }
}

fn receive_some(end: BorrowedFd<'_>, bytes: &mut Vec<u8>, into: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 16384];
    let received = recvmsg(end, &mut [IoSliceMut::new(&mut buffer)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            into.extend(descriptors);
        }
    }
    bytes.extend_from_slice(&buffer[..received.bytes]);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_come_with_their_messages() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            let (here, there) = pair().unwrap();
            let (writer, _reader) = split(here).unwrap();
            let (_writer, mut reader) = split(there).unwrap();
            let sending = tokio::task::spawn_local(async move {
                for nth in 0..50u32 {
                    let mut file = tempfile::tempfile().unwrap();
                    write!(file, "{nth}").unwrap();
                    // Long ones do not go at once.
                    let text = "x".repeat(nth as usize * 10_000);
                    let along = (nth % 3 == 0).then(|| file.as_fd());
                    writer.send(&(nth, text), along).await.unwrap();
                }
            });
            for nth in 0..50u32 {
                let ((number, text), file): ((u32, String), _) = reader.receive().await.unwrap().unwrap();
                assert_eq!((number, text.len()), (nth, nth as usize * 10_000));
                assert_eq!(file.is_some(), nth % 3 == 0);
                if let Some(file) = file {
                    let mut file = File::from(file);
                    file.rewind().unwrap();
                    let mut content = String::new();
                    file.read_to_string(&mut content).unwrap();
                    assert_eq!(content, nth.to_string());
                }
            }
            sending.await.unwrap();
            drop(_reader);
            assert!(reader.receive::<()>().await.unwrap().is_none(), "the other end is closed");
        }));
    }
}
