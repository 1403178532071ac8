//! A web server that tells what it was sent, byte for byte, and clients of it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::netns::Netns;

use crate::support::{PATIENCE, at};

/// A web server in a guest. It answers with its name; `/big` with 5 MB, `/cut` with the first of them, `/chunked` with
/// them in chunks, `/framed` so and with a length besides, `/early` before the request's body is there, `/echo` with the
/// chunks of that as they come, `/count` with how long that was, `/slow` when it is let go. What becomes of a connection
/// afterwards stands among the heads.
pub struct Web {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    heads: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    let_go: Mutex<bool>,
    signal: Condvar,
    ended: AtomicBool,
    sick: AtomicBool,
}

impl Web {
    pub fn start(place: &'static str, port: u16) -> Self {
        let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let listener = Netns::open(place).unwrap().run(bind).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared::default());
        let known = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !known.ended.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                known.open.lock().unwrap().push(stream.try_clone().unwrap());
                let known = Arc::clone(&known);
                std::thread::spawn(move || serve(place, &known, stream));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The head of the last request.
    pub fn last(&self) -> String {
        self.shared.heads.lock().unwrap().last().unwrap().clone()
    }

    /// Every request's head.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// How many requests were for that path.
    pub fn count(&self, path: &str) -> usize {
        let asked = |head: &&String| head.split(' ').nth(1) == Some(path);
        self.shared.heads.lock().unwrap().iter().filter(asked).count()
    }

    /// Says whether it is well, where it is asked for `/health`.
    pub fn is_sick(&self, sick: bool) {
        self.shared.sick.store(sick, Ordering::SeqCst);
    }

    /// Answers what is slow.
    pub fn release(&self) {
        *self.shared.let_go.lock().unwrap() = true;
        self.shared.signal.notify_all();
    }
}

impl Drop for Web {
    /// Nobody listens any more, and what was open is closed.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(name: &str, shared: &Shared, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            head.push_str(&String::from_utf8_lossy(&line));
            if line == b"\r\n" {
                break;
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/early" {
            shared.heads.lock().unwrap().push(head.clone());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nearly\n");
            let _ = read_body(&mut reader, &head);
            shared.heads.lock().unwrap().push("GET /early-ended HTTP/1.1\r\n".to_owned());
            return;
        }
        if path == "/echo" {
            shared.heads.lock().unwrap().push(head.clone());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
            // Chunks as they come are chunks as they go.
            let _ = std::io::copy(&mut reader, &mut stream);
            return;
        }
        let Some(body) = read_body(&mut reader, &head) else { return };
        if path == "/health" {
            let status = if shared.sick.load(Ordering::SeqCst) { 500 } else { 204 };
            let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
            continue;
        }
        let known = shared.heads.lock().unwrap().iter().filter(|h| h.split(' ').nth(1) == Some(&path)).count();
        shared.heads.lock().unwrap().push(head.clone());
        // It takes the first, and goes.
        if path == "/lost" && known == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        if line(&head, "upgrade") == ["websocket"] {
            let _ = stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            let _ = std::io::copy(&mut reader, &mut stream);
            return;
        }
        let answer: Vec<u8> = match path.as_str() {
            "/big" => big().into_bytes(),
            "/count" => format!("{}\n", body.len()).into_bytes(),
            "/slow" => {
                let mut gone = shared.let_go.lock().unwrap();
                while !*gone {
                    gone = shared.signal.wait(gone).unwrap();
                }
                b"slow\n".to_vec()
            }
            _ => format!("{name}\n").into_bytes(),
        };
        if path == "/cut" {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len() + 5_000_000);
            let _ = stream.write_all(&[head.as_bytes(), &big().as_bytes()[..1_000_000]].concat());
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        if path == "/chunked" || path == "/framed" {
            let length = if path == "/framed" { "Content-Length: 3\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{length}\r\n");
            let big = big();
            let chunks = big.as_bytes().chunks(500_000).map(|chunk| [b"7A120\r\n", chunk, b"\r\n"].concat());
            let all = [head.into_bytes(), chunks.collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat();
            if stream.write_all(&all).is_err() {
                return;
            }
            // Who has answered so is not asked again by this connection.
            let behind = reader.fill_buf().is_ok_and(<[u8]>::is_empty);
            shared.heads.lock().unwrap().push(format!("GET {path}-{behind} HTTP/1.1\r\n"));
            continue;
        }
        // An answer more than was asked for.
        let more = if path == "/more" { "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned" } else { "" };
        if path == "/nonsense" {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx");
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        let answer = [answer, more.as_bytes().to_vec()].concat();
        let length = answer.len() - more.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Guest: {name}\r\n\r\n", length);
        if stream.write_all(&[head.into_bytes(), answer].concat()).is_err() {
            return;
        }
    }
}

/// What `/big` is answered with: 5 MB, no two places of which are alike for long.
pub fn big() -> String {
    (0..5_000_000u32).map(|nth| char::from(b'!' + u8::try_from((nth ^ nth >> 7) % 89).unwrap())).collect()
}

/// By its length or in chunks; nothing where it is cut or cannot be read.
fn read_body(reader: &mut impl std::io::BufRead, head: &str) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if line(head, "transfer-encoding") == ["chunked"] {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    if let [length] = line(head, "content-length")[..] {
        body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
    }
    Some(body)
}

/// The values of a header, as they stand in a head.
pub fn line<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// What curl is answered at a place: head and body.
pub fn curl(from: &str, url: &str, words: &str) -> String {
    let mut curl = at(from, "curl");
    curl.args(["--silent", "--include", "--globoff", "--noproxy", "*", "--max-time", "20", "--path-as-is"]);
    let output = curl.args(words.split_whitespace()).arg(url).output().expect("curl is needed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What stands before the answer to come.
    match text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// The status of an answer; 0 where there is none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|word| word.trim().parse().ok()).unwrap_or(0)
}

/// What follows an answer's head, without its last line end.
pub fn body(answer: &str) -> String {
    answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.trim_end().to_owned())
}

/// A header of an answer.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    line(head, name).first().copied()
}

/// A request that a guest takes its time for.
pub fn slow(_nth: usize) -> String {
    "GET /slow HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n".to_owned()
}

/// Sends bytes as they are, and reads until the other end is done.
pub fn ask(from: &'static str, to: &str, bytes: &str) -> JoinHandle<String> {
    let (to, bytes) = (to.parse::<SocketAddr>().unwrap(), bytes.as_bytes().to_vec());
    let mut stream = connect(from, to);
    std::thread::spawn(move || {
        // Whoever is cut reads what was said before.
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
}

/// A connection from a place.
pub fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let open = || TcpStream::connect_timeout(&to, PATIENCE);
    let stream = if from == "server" { open() } else { Netns::open(from).unwrap().run(open).unwrap() };
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}
