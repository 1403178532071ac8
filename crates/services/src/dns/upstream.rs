//! Asking other resolvers: each question by a socket and an id of its own, so that no third party can guess both
//! (RFC 5452); the next resolver where one is silent; TCP where an answer was cut.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::wire::{self, Answer, Query};

const DNS: u16 = 53;
/// How long one resolver is waited for before the next is asked, too.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long all together have: less than clients wait (resolv.conf(5): 5 s).
const TOTAL: Duration = Duration::from_millis(4500);
/// For how long a resolver that did not answer is asked last.
const DISTRUST: Duration = Duration::from_secs(20);
/// NOERROR and NXDOMAIN are answers, other codes may be one resolver's own trouble.
const TRUSTED: [u16; 2] = [0, 3];

/// Which resolvers did not answer lately.
#[derive(Debug, Default)]
pub struct Health(RefCell<HashMap<IpAddr, Instant>>);

impl Health {
    /// The resolvers in the order in which they are asked.
    fn order(&self, resolvers: &[IpAddr], now: Instant) -> Vec<IpAddr> {
        let failed = self.0.borrow();
        let is_bad = |resolver: &IpAddr| failed.get(resolver).is_some_and(|at| now.duration_since(*at) < DISTRUST);
        let mut order = resolvers.to_vec();
        order.sort_by_key(is_bad);
        order
    }

    fn note(&self, resolver: IpAddr, answered: bool) {
        let mut failed = self.0.borrow_mut();
        if answered {
            failed.remove(&resolver);
        } else {
            failed.insert(resolver, Instant::now());
        }
    }
}

/// The first answer that means something; else what one resolver refused with; else none.
pub async fn ask(health: &Health, resolvers: &[IpAddr], query: &Query) -> Option<Answer> {
    let mut order = health.order(resolvers, Instant::now()).into_iter();
    let mut asked: JoinSet<(IpAddr, io::Result<Answer>)> = JoinSet::new();
    let mut second_best = None;
    let begin = |asked: &mut JoinSet<_>, resolver: IpAddr| {
        let query = query.clone();
        asked.spawn_local(async move { (resolver, one(resolver, &query).await) });
    };
    let all = async {
        begin(&mut asked, order.next()?);
        let mut waited = Box::pin(sleep(PATIENCE));
        loop {
            let next = tokio::select! {
                Some(done) = asked.join_next() => match done {
                    Ok((resolver, Ok(answer))) if TRUSTED.contains(&answer.rcode) => {
                        health.note(resolver, true);
                        return Some(answer);
                    }
                    Ok((resolver, result)) => {
                        health.note(resolver, result.is_ok());
                        second_best = result.ok().or(second_best.take());
                        order.next()
                    }
                    Err(_ended) => order.next(),
                },
                () = &mut waited => order.next(),
            };
            match next {
                Some(resolver) => {
                    begin(&mut asked, resolver);
                    waited = Box::pin(sleep(PATIENCE));
                }
                None if asked.is_empty() => return second_best.take(),
                // The rest of the time is theirs who were asked.
                None => waited = Box::pin(sleep(TOTAL)),
            }
        }
    };
    let answer = timeout(TOTAL, all).await;
    if answer.is_err() {
        // Who was asked and is still silent.
        resolvers.iter().for_each(|resolver| health.note(*resolver, false));
    }
    answer.ok().flatten()
}

async fn one(resolver: IpAddr, query: &Query) -> io::Result<Answer> {
    let by_udp = udp(resolver, query).await?;
    if !by_udp.truncated {
        return Ok(by_udp);
    }
    // An answer that was cut is better than none.
    Ok(tcp(resolver, query).await.unwrap_or(by_udp))
}

async fn udp(resolver: IpAddr, query: &Query) -> io::Result<Answer> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(SocketAddr::new(resolver, DNS)).await?;
    let id = random()?;
    socket.send(&query.upstream(id)).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer our question is somebody's attempt, and no reason to stop waiting.
        if let Ok(answer) = wire::answer(&buffer[..length], id, query) {
            return Ok(answer);
        }
    }
}

async fn tcp(resolver: IpAddr, query: &Query) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(SocketAddr::new(resolver, DNS)).await?;
    let id = random()?;
    let question = query.upstream(id);
    let mut framed = u16::try_from(question.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(&question);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    wire::answer(&bytes, id, query).map_err(io::Error::other)
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}
