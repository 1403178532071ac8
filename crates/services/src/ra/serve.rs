//! Router advertisements on a socket.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use model::address::IfName;
use model::services::Services;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::decide::Schedule;
use super::wire;
use crate::log::Bounded;
use crate::protocol::RaCounts;

/// ff02::1, everybody on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// How many packets are read before others have their turn.
const TURN: usize = 64;

/// What the advertisements of all LANs share.
#[derive(Default)]
pub struct Routers {
    counts: RefCell<RaCounts>,
    log: Bounded,
}

impl Routers {
    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> RaCounts {
        *self.counts.borrow()
    }
}

/// Advertises on a LAN what `services` says, by and by, when asked, and when it changes; until it is dropped.
pub async fn serve(
    routers: Rc<Routers>,
    bridge: IfName,
    index: u32,
    socket: OwnedFd,
    mut services: watch::Receiver<Rc<Services>>,
) -> io::Result<()> {
    // The runtime only wants to know when it can be read.
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    let begun = Instant::now();
    let now = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut schedule = Schedule::new(0);
    let current =
        |services: &watch::Receiver<Rc<Services>>| services.borrow().lan(&bridge).and_then(wire::advertisement);
    let mut told = current(&services);
    let mut buffer = [0; 1500];
    loop {
        let wait = Duration::from_millis(schedule.due().saturating_sub(now()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {
                let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
                let sent = told.as_ref().is_none_or(|packet| {
                    rustix::net::sendto(socket.as_fd(), packet, SendFlags::empty(), &to).is_ok()
                });
                if sent {
                    routers.counts.borrow_mut().advertisements += u64::from(told.is_some());
                    schedule.sent(now(), chance());
                } else {
                    // The bridge is down, or its own address not settled yet.
                    schedule.failed(now());
                }
            }
            changed = services.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let next = current(&services);
                if next != told {
                    told = next;
                    schedule.changed(now());
                }
            }
            ready = socket.readable() => {
                ready?;
                for _ in 0..TURN {
                    let received = socket.try_io(Interest::READABLE, || {
                        Ok(rustix::net::recv(socket.as_fd(), &mut buffer[..], RecvFlags::empty())?.0)
                    });
                    let Ok(length) = received else { break };
                    if wire::is_solicitation(&buffer[..length]) {
                        routers.counts.borrow_mut().solicitations += 1;
                        schedule.asked(now(), chance());
                    } else {
                        routers.counts.borrow_mut().malformed += 1;
                        routers.log.warn("ra-malformed", || format!("ra: {bridge}: what is no solicitation"));
                    }
                }
            }
        }
    }
}

/// Not for anything secret: so that routers of one link do not fall into step.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    // Where there is no randomness, there is no spread either.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}
