//! Requests on sockets: HTTP/1.1 by hyper, so many connections at once, each with so much time and no more.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::services::Services;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::decide::{Asked, Decision, decide};
use super::{metrics, page};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long a client may take to ask, or say nothing.
const IDLE: Duration = Duration::from_secs(15);
/// How long a connection lives at most.
const LIFE: Duration = Duration::from_secs(300);
/// How long a request's head may be, in bytes.
const HEAD: usize = 16 << 10;
/// How long the supervisor may take to look.
const LOOK: Duration = Duration::from_secs(15);

/// All that the page needs, shared by the sockets.
pub struct Web {
    token: RefCell<Option<String>>,
    proxy_pac: RefCell<Option<Bytes>>,
    page: RefCell<Bytes>,
    style: Bytes,
    open: Cell<usize>,
    /// Whether there is somebody to ask for the state.
    supervised: Cell<bool>,
    /// Asks for the state.
    wants: mpsc::UnboundedSender<()>,
    /// The state that was told last.
    document: watch::Sender<Bytes>,
}

/// A connection, until it is dropped.
struct Place(Rc<Web>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Web {
    /// One whose wish for the state is heard at `wants`.
    #[must_use]
    pub fn new(wants: mpsc::UnboundedSender<()>) -> Self {
        Self {
            token: RefCell::default(),
            proxy_pac: RefCell::default(),
            page: RefCell::default(),
            style: Bytes::from(page::style()),
            open: Cell::new(0),
            supervised: Cell::new(true),
            wants,
            document: watch::Sender::new(Bytes::new()),
        }
    }

    /// What is served from now on.
    pub fn configure(&self, services: &Services) {
        let text = services.web.as_ref().and_then(|web| web.proxy_pac.clone());
        *self.proxy_pac.borrow_mut() = text.map(Bytes::from);
        *self.page.borrow_mut() = Bytes::from(page::page(services.pictures.as_ref()));
    }

    /// Who has this is let in from now on.
    pub fn let_in(&self, token: String) {
        *self.token.borrow_mut() = Some(token);
    }

    /// The state, as it has been found.
    pub fn told(&self, document: String) {
        self.document.send_replace(Bytes::from(document));
    }

    /// Nobody is left to ask.
    pub fn alone(&self) {
        self.supervised.set(false);
    }

    /// The state as it is now.
    async fn look(&self) -> Option<Bytes> {
        let mut told = self.document.subscribe();
        if !self.supervised.get() || self.wants.send(()).is_err() {
            return None;
        }
        timeout(LOOK, told.changed()).await.ok()?.ok()?;
        let document = told.borrow().clone();
        Some(document).filter(|document| !document.is_empty())
    }
}

/// Answers those who connect to a socket, until it is dropped.
pub async fn serve(web: Rc<Web>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Gone before it was accepted, or no descriptor is left: both pass.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // One too many is closed.
        if web.open.get() < CONNECTIONS {
            web.open.set(web.open.get() + 1);
            spawn_local(converse(Place(Rc::clone(&web)), stream));
        }
    }
}

async fn converse(place: Place, stream: TcpStream) {
    let web = Rc::clone(&place.0);
    let service = service_fn(move |request| {
        let web = Rc::clone(&web);
        async move { Ok::<_, Infallible>(answer(&web, &request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD);
    // How a connection ends is the client's affair.
    let _ = timeout(LIFE, builder.serve_connection(TokioIo::new(stream), service)).await;
    drop(place);
}

async fn answer(web: &Web, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let texts =
        |name: HeaderName| request.headers().get_all(name).iter().map(|value| value.to_str().unwrap_or("\u{1}"));
    let target = request.uri().authority().map(|authority| authority.as_str());
    let asked = Asked {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        // A target that names a host beside another Host is two hosts.
        hosts: {
            let mut hosts: Vec<&str> = texts(header::HOST).chain(target).collect();
            hosts.dedup();
            hosts
        },
        authorization: texts(header::AUTHORIZATION).collect(),
        cookies: texts(header::COOKIE).collect(),
    };
    let decision = decide(&asked, web.token.borrow().as_deref());
    match decision {
        Decision::Page => said(StatusCode::OK, "text/html; charset=utf-8", web.page.borrow().clone()),
        Decision::Style => said(StatusCode::OK, "text/css; charset=utf-8", web.style.clone()),
        Decision::Script => said(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT),
        Decision::Status => match web.look().await {
            Some(document) => said(StatusCode::OK, "application/json", document),
            None => unknown(),
        },
        Decision::Metrics => match web.look().await.and_then(|document| serde_json::from_slice(&document).ok()) {
            Some(status) => said(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::render(&status)),
            None => unknown(),
        },
        Decision::ProxyPac => match web.proxy_pac.borrow().clone() {
            Some(text) => said(StatusCode::OK, "application/x-ns-proxy-autoconfig", text),
            None => plain(StatusCode::NOT_FOUND, "there is no [socks] in the file, and so no way in"),
        },
        Decision::Enter { location, cookie } => {
            let mut response = plain(StatusCode::SEE_OTHER, "go on without the token");
            for (name, value) in [(header::LOCATION, location), (header::SET_COOKIE, cookie)] {
                match HeaderValue::from_str(&value) {
                    Ok(value) => drop(response.headers_mut().insert(name, value)),
                    Err(_) => return plain(StatusCode::BAD_REQUEST, "no such place"),
                }
            }
            response
        }
        Decision::Refuse(code, why) => {
            let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = plain(code, why);
            let more = match code {
                StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"warren\"")),
                StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "GET, HEAD")),
                _ => None,
            };
            if let Some((name, value)) = more {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        }
    }
}

fn unknown() -> Response<Full<Bytes>> {
    plain(StatusCode::SERVICE_UNAVAILABLE, "the state cannot be found out at the moment")
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    said(code, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// What no page of another's may frame, keep or guess the kind of.
fn said(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
