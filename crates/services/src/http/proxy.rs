//! A request's way to a guest, and the answer's back.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use model::network::{LogFormat, Upstream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::answer::{closed, elsewhere, plain, proof as proof_of};
use super::bodies::{Cut, Down, Source, Up, Upload};
use super::decide::{self, Client, Refusal, Verdict};
use super::live::Live;
use super::record::{Entry, Record};
use super::serve::Http;
use super::upstream::{Backend, Lease, Unanswered, is_direct, send};

/// Where proofs are looked for (RFC 8555, 8.3).
const PROOFS: &str = "/.well-known/acme-challenge/";
/// How long a guest may think about its answer. Who streams begins with a head.
const THINKING: Duration = Duration::from_secs(300);

/// Answers a request: by a guest, or by ourselves.
pub async fn answer(http: &Rc<Http>, client: &Client, request: Request<Incoming>) -> Response<Down> {
    let (live, under_way) = (http.live(), http.begins());
    let (mut head, body) = request.into_parts();
    let http1 = head.version != Version::HTTP_2;
    let trusted = &live.sites.http.trusted_proxies;
    let real = decide::real_client(&head.headers, client, trusted);
    let mut record = live.sites.http.access_log.as_ref().map(|log| {
        let entry = Entry::of(&head, real, client.secure.is_some());
        Box::new(Record::new(http.log(), log.format, log.file.is_some(), entry))
    });
    http.count(|counts| counts.requests += 1);
    // What an authority looks for is nobody's who is behind the name.
    let proof = head.uri.path().strip_prefix(PROOFS).and_then(|token| http.keys.token(token));
    let verdict = decide::decide(&live.sites, &live.table, client, &mut head);
    let (mut response, site) = match verdict {
        _ if proof.is_some() => (proof_of(proof.unwrap_or_default()), None),
        Verdict::Proxy { site } => (pass(http, &live, client, real, site, head, body).await, Some(site)),
        Verdict::Redirect { to, site } => (elsewhere(&to, decide::is_safe(&head.method)), Some(site)),
        Verdict::Closed { site } => {
            let text = live.site(site).and_then(|site| site.maintenance.as_deref());
            (closed(text.unwrap_or_default()), Some(site))
        }
        Verdict::Refuse(refusal) => (refuse(http, refusal), None),
    };
    if let Some(site) = site.and_then(|nth| live.site(nth)) {
        decide::strict(response.headers_mut(), site, client);
    }
    if http1 && http.is_ending() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.body_mut().counts(under_way);
    http.answered(response.status());
    if let Some(mut record) = record.take() {
        record.status = response.status();
        record.guest = response.extensions_mut().remove::<Guest>().map(|guest| guest.0);
        response.body_mut().recorded(record);
    }
    response
}

/// The guest that answered, for the access log.
#[derive(Clone, Debug)]
struct Guest(String);

fn refuse(http: &Http, refusal: Refusal) -> Response<Down> {
    if matches!(refusal, Refusal::UnknownHost | Refusal::UnknownPath) {
        http.count(|counts| counts.unknown += 1);
    }
    let (status, text) = match refusal {
        Refusal::Host => (StatusCode::BAD_REQUEST, "400 exactly one host is wanted\n"),
        Refusal::Path => (StatusCode::BAD_REQUEST, "400 this is no path\n"),
        Refusal::Method => (StatusCode::METHOD_NOT_ALLOWED, "405 this method is not for a web site\n"),
        Refusal::UnknownHost => (StatusCode::NOT_FOUND, "404 no site of that name\n"),
        Refusal::UnknownPath => (StatusCode::NOT_FOUND, "404 nothing at that path\n"),
        Refusal::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "421 this connection is for another host\n"),
    };
    plain(status, text)
}

/// To a guest and back.
async fn pass(
    http: &Rc<Http>,
    live: &Live,
    client: &Client,
    real: IpAddr,
    nth: usize,
    mut head: request::Parts,
    body: Incoming,
) -> Response<Down> {
    let Some(site) = live.site(nth) else { return refuse(http, Refusal::UnknownHost) };
    let limits = &live.sites.http;
    if let Some(most) = limits.max_body
        && length(&head).is_some_and(|length| length > most)
    {
        return too_long();
    }
    let http2 = site.upstream == Upstream::H2c;
    let switch = decide::upgrade(&head).filter(|_| !http2);
    let waiting = switch.is_some().then(|| head.extensions.remove::<OnUpgrade>()).flatten();
    decide::outgoing(&mut head, client, &limits.trusted_proxies, http2);
    if let Some(to) = &switch {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, to.clone());
    }
    if http2 && !absolute(&mut head) {
        return refuse(http, Refusal::Host);
    }
    let upload = Rc::new(Upload::default());
    let patience = Duration::from_millis(limits.timeout);
    let body = Up::of(body, Rc::clone(&upload), limits.max_body, patience);
    let way = Way { http, live, client, real, site: nth };
    let request = Box::new(Request::from_parts(head, body));
    let (mut response, lease) = match timeout(THINKING, way.deal(request)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(failure)) => return failed(http, &upload, failure),
        Err(_) => return plain(StatusCode::GATEWAY_TIMEOUT, "504 the guest does not answer\n"),
    };
    upload.answering.set(true);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let there = on(&mut response);
        return match waiting {
            Some(here) => switched(response, here, there, lease),
            None => plain(StatusCode::BAD_GATEWAY, "502 the guest switches protocols unasked\n"),
        };
    }
    let (mut head, body) = response.into_parts();
    decide::strip(&mut head.headers);
    // The client's version is the connection's own.
    head.version = Version::HTTP_11;
    head.extensions.clear();
    if live.sites.http.access_log.as_ref().is_some_and(|log| log.format == LogFormat::Json) {
        head.extensions.insert(Guest(lease.guest().to_owned()));
    }
    Response::from_parts(head, Down::from_guest(body, lease, upload))
}

fn length(head: &request::Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long() -> Response<Down> {
    plain(StatusCode::PAYLOAD_TOO_LARGE, "413 this is more than is taken here\n")
}

/// HTTP/2 asks with scheme and authority (RFC 9113, 8.3.1); false where they cannot be written.
fn absolute(head: &mut request::Parts) -> bool {
    let host = head.headers.remove(http::header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTP), authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    Uri::from_parts(parts).map(|uri| head.uri = uri).is_ok()
}

/// Nobody answered.
enum Failure {
    /// No guest lives.
    Nobody,
    /// What one answered cannot be read, or it answered nothing.
    Bad,
}

fn failed(http: &Http, upload: &Upload, failure: Failure) -> Response<Down> {
    match (upload.cut.get(), failure) {
        (Some(Cut::TooLong), _) => too_long(),
        (Some(Cut::TooSlow), _) => plain(StatusCode::REQUEST_TIMEOUT, "408 the request came too slowly\n"),
        (None, Failure::Nobody) => {
            http.count(|counts| counts.no_guest += 1);
            plain(StatusCode::SERVICE_UNAVAILABLE, "503 no guest of this site answers\n")
        }
        (None, Failure::Bad) => plain(StatusCode::BAD_GATEWAY, "502 the guest's answer is none\n"),
    }
}

/// What a request is dealt out with.
struct Way<'a> {
    http: &'a Rc<Http>,
    live: &'a Live,
    client: &'a Client,
    real: IpAddr,
    site: usize,
}

/// What of a request can be sent again.
struct Again {
    method: http::Method,
    uri: Uri,
    version: Version,
    headers: http::HeaderMap,
}

impl Again {
    fn of(request: &Request<Up>) -> Option<Self> {
        let safe = decide::is_safe(request.method()) && matches!(request.body(), Up::Nothing);
        let upgrade = request.headers().contains_key(UPGRADE);
        (safe && !upgrade).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        })
    }

    fn request(self) -> Request<Up> {
        let mut request = Request::new(Up::Nothing);
        (*request.method_mut(), *request.uri_mut()) = (self.method, self.uri);
        (*request.version_mut(), *request.headers_mut()) = (self.version, self.headers);
        request
    }
}

impl Way<'_> {
    /// Sends a request to one guest after the other until one takes it. What went and was lost is sent once more where
    /// that changes nothing.
    async fn deal(&self, mut request: Box<Request<Up>>) -> Result<(Response<Source>, Lease), Failure> {
        let http1 = self.live.site(self.site).is_some_and(|site| site.upstream == Upstream::Http1);
        // One that goes straight comes back by itself.
        let mut again = if http1 && is_direct(&request) { None } else { Again::of(&request) };
        let mut tried: Vec<Rc<Backend>> = Vec::new();
        let mut stale: Option<Rc<Backend>> = None;
        let mut lost = false;
        loop {
            let fresh = stale.is_some();
            let next = stale.take().or_else(|| self.live.choose(self.site, self.real, &tried));
            let Some(backend) = next else { return Err(if lost { Failure::Bad } else { Failure::Nobody }) };
            match send(&backend, request, self.client, fresh || lost, &self.http.dialled).await {
                Ok(answered) => {
                    // One that is asked how it is may be sick and answer all the same.
                    if backend.key.health.path.is_none() {
                        backend.note(true);
                    }
                    return Ok(answered);
                }
                Err(Unanswered::Stale(back)) => {
                    request = back;
                    stale = Some(backend);
                }
                Err(Unanswered::Unreachable(back)) => {
                    request = back;
                    self.http.no_answer(&backend);
                    tried.push(backend);
                }
                // Its own end is no failure of the guest's.
                Err(Unanswered::Lost { cut: true, .. }) => return Err(Failure::Bad),
                Err(Unanswered::Lost { request: back, .. }) => {
                    self.http.no_answer(&backend);
                    let back = back.filter(|back| !lost && decide::is_safe(back.method()));
                    let copy = back.or_else(|| again.take().map(|again| Box::new(again.request())));
                    request = copy.ok_or(Failure::Bad)?;
                    self.http.count(|counts| counts.retried += 1);
                    lost = true;
                    // It may have closed a connection that had waited; where it is alone it is asked anew.
                    if self.live.choose(self.site, self.real, std::slice::from_ref(&backend)).is_some() {
                        tried.push(backend);
                    } else {
                        stale = Some(backend);
                    }
                }
            }
        }
    }
}

/// Both ends speak something else from now on: bytes go through as they come.
fn switched(response: Response<Source>, here: OnUpgrade, there: OnUpgrade, lease: Lease) -> Response<Down> {
    let (mut head, _) = response.into_parts();
    let to = head.headers.get(UPGRADE).cloned();
    decide::strip(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(to) = to {
        head.headers.insert(UPGRADE, to);
    }
    head.extensions.clear();
    spawn_local(async move {
        if let (Ok(here), Ok(there)) = tokio::join!(here, there) {
            let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
            // Its end is the end, however it comes.
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        }
        // The guest was busy with it.
        drop(lease);
    });
    Response::from_parts(head, Down::nothing())
}
