//! TCP streams whose bandwidth is measured.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kernel::netns::Netns;

use crate::support::PATIENCE;

/// A place: `server` is where we are, a number the process of a container, everything else a namespace's name.
fn place(name: &str) -> Netns {
    match (name, name.parse()) {
        ("server", _) => Netns::current().unwrap(),
        (_, Ok(pid)) => Netns::of_process(pid).unwrap(),
        _ => Netns::open(name).unwrap(),
    }
}

/// A TCP stream that never has enough, and what has arrived of it.
pub struct Stream {
    arrived: Arc<AtomicU64>,
    receiver: TcpStream,
}

impl Stream {
    /// From one place to an address of another's.
    pub fn open(from: &str, to: &str, address: &str) -> Self {
        let listener = place(to).run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        let mut sender = place(from).run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap()).unwrap();
        let receiver = listener.accept().unwrap().0;
        let arrived = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || while sender.write_all(&[0; 65536]).is_ok() {});
        let (count, mut from) = (Arc::clone(&arrived), receiver.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length) = from.read(&mut buffer)
                && length > 0
            {
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Self { arrived, receiver }
    }

    /// Bits a second, of what TCP carries, over that time from now on.
    pub fn rate(&self, over: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.arrived.load(Ordering::Relaxed));
        std::thread::sleep(over);
        let bytes = self.arrived.load(Ordering::Relaxed) - before;
        bytes as f64 * 8.0 / begun.elapsed().as_secs_f64()
    }

    /// Within a twentieth of what was asked, once what waited before has arrived. A loaded machine may take some tries.
    #[track_caller]
    pub fn has(&self, asked: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rate = self.rate(MEASURED);
            println!("{:.3} of {:.3} mbit/s", rate / 1e6, asked / 1e6);
            if (rate / asked - 1.0).abs() <= 0.05 {
                return;
            }
            assert!(Instant::now() < deadline, "{rate} instead of {asked} bit/s");
        }
    }

    /// Many times more than any limit here.
    #[track_caller]
    pub fn is_free(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.rate(Duration::from_millis(200)) < 200e6 {
            assert!(Instant::now() < deadline, "it is slow, too");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Both threads end.
        let _ = self.receiver.shutdown(std::net::Shutdown::Both);
    }
}

/// How long a rate is looked at.
const MEASURED: Duration = Duration::from_secs(1);
