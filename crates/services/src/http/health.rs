//! Guests are asked whether they live, each by a task of its own that ends with it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, header};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use model::network::{ProxyProtocol, Upstream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::bodies::Up;
use super::decide::proxy_header;
use super::io::Beside;
use super::upstream::{Backend, Key};
use crate::log;

/// Who does not answer is asked this often at least.
const OFTEN: Duration = Duration::from_secs(1);

/// Asks it after its health as long as it is there.
pub fn watch(backend: &Rc<Backend>) {
    let weak = Rc::downgrade(backend);
    spawn_local(async move {
        loop {
            let Some(backend) = weak.upgrade() else { return };
            backend.sweep();
            if !backend.is_away() {
                let health = &backend.key.health;
                let asked = timeout(Duration::from_millis(health.timeout), ask(&backend.key)).await;
                let answered = matches!(asked, Ok(Ok(true)));
                if let Some(alive) = backend.note(answered) {
                    let (guest, port) = (&backend.key.guest, backend.key.place.port());
                    let word = if alive { "answers again" } else { "does not answer: sites pass it over" };
                    log::warn(&format!("sites: {guest}:{port} {word}"));
                }
            }
            let interval = Duration::from_millis(backend.key.health.interval);
            let wait = if backend.is_usable() { interval } else { interval.min(OFTEN) };
            let look = Rc::clone(&backend.look);
            // While it rests nobody holds it here.
            drop(backend);
            let _ = timeout(wait, look.notified()).await;
        }
    });
}

async fn ask(key: &Key) -> io::Result<bool> {
    let mut stream = TcpStream::connect(key.place).await?;
    let Some(path) = &key.health.path else { return Ok(true) };
    if key.proxy_protocol != ProxyProtocol::Off {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        stream.write_all(&proxy_header(key.proxy_protocol == ProxyProtocol::V1, local, peer)).await?;
    }
    let failed = |e: hyper::Error| io::Error::other(e);
    let io = TokioIo::new(stream);
    let response = match key.upstream {
        Upstream::Http1 => {
            let (mut sender, connection) = http1::handshake(io).await.map_err(failed)?;
            let task = spawn_local(async move { drop(connection.await) });
            let answer = sender.send_request(question(path, None, &key.guest)).await;
            task.abort();
            answer.map_err(failed)?
        }
        Upstream::H2c => {
            let (mut sender, connection) = http2::handshake(Beside, io).await.map_err(failed)?;
            let task = spawn_local(async move { drop(connection.await) });
            let answer = sender.send_request(question(path, Some("http"), &key.guest)).await;
            task.abort();
            answer.map_err(failed)?
        }
    };
    Ok(response.status().is_success() || response.status().is_redirection())
}

fn question(path: &str, scheme: Option<&str>, host: &str) -> Request<Up> {
    let mut request = Request::new(Up::Nothing);
    *request.method_mut() = Method::GET;
    let uri = scheme.map_or_else(|| path.to_owned(), |scheme| format!("{scheme}://{host}{path}"));
    *request.uri_mut() = uri.parse().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().insert(header::HOST, host);
    }
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("warren-health"));
    request
}
