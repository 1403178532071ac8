//! Requests to an ACME server, by https alone: names are asked of the resolvers that the LANs' names are asked of, for
//! this process reads no file.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::Scheme;
use http::{Request, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dns::upstream::{self, Health};
use crate::dns::wire::{Query, name};

/// How long a connection may take.
const DIAL: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// DNS: the class IN, and the types A and AAAA.
const INTERNET: u16 = 1;
const TYPES: [u16; 2] = [1, 28];

/// Asks resolvers for addresses, on the thread that it was made on.
#[derive(Clone, Debug)]
pub struct Resolve(mpsc::UnboundedSender<(String, oneshot::Sender<Vec<IpAddr>>)>);

impl Resolve {
    /// Of these resolvers.
    #[must_use]
    pub fn new(resolvers: Vec<IpAddr>) -> Self {
        let (sender, mut asked) = mpsc::unbounded_channel::<(String, oneshot::Sender<Vec<IpAddr>>)>();
        // Ends with the last who asks.
        spawn_local(async move {
            while let Some((host, waits)) = asked.recv().await {
                // Who went away needs no answer.
                let _ = waits.send(addresses(&resolvers, &host).await);
            }
        });
        Self(sender)
    }

    async fn of(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![address]);
        }
        let (sender, receiver) = oneshot::channel();
        let asked = self.0.send((host.to_owned(), sender)).is_ok();
        let found = if asked { receiver.await.unwrap_or_default() } else { Vec::new() };
        if found.is_empty() {
            return Err(io::Error::other(format!("the LANs' resolvers have no address of {host}")));
        }
        Ok(found)
    }
}

async fn addresses(resolvers: &[IpAddr], host: &str) -> Vec<IpAddr> {
    let health = Health::default();
    let mut found = Vec::new();
    for kind in TYPES {
        let Some(name) = name(host) else { break };
        let query =
            Query { id: 0, recurse: true, unchecked: false, authentic: false, name, kind, class: INTERNET, edns: None };
        let answer = upstream::ask(&health, resolvers, &query).await;
        found.extend(answer.into_iter().flat_map(|answer| answer.addresses));
    }
    found
}

/// Makes requests.
pub struct Client {
    config: Result<Arc<ClientConfig>, rustls::Error>,
    resolve: Resolve,
}

impl Client {
    /// By TLS as `config` says.
    #[must_use]
    pub fn new(config: Result<Arc<ClientConfig>, rustls::Error>, resolve: Resolve) -> Self {
        Self { config, resolve }
    }
}

type Asked = Result<BytesResponse, Error>;

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Asked> + Send>> {
        let (config, resolve) = (self.config.clone(), self.resolve.clone());
        Box::pin(async move {
            match timeout(ANSWER, ask(config, &resolve, request)).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(e)) => Err(Error::Other(e)),
                Err(_) => Err(Error::Other("the directory does not answer".into())),
            }
        })
    }
}

async fn ask(
    config: Result<Arc<ClientConfig>, rustls::Error>,
    resolve: &Resolve,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Box<dyn StdError + Send + Sync>> {
    let uri = request.uri().clone();
    let authority = uri.authority().ok_or("an URL without a host")?.clone();
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(format!("{uri} is not https").into());
    }
    let name = ServerName::try_from(authority.host().trim_matches(['[', ']']).to_owned())?;
    let stream = dial(&resolve.of(authority.host()).await?, authority.port_u16().unwrap_or(443)).await?;
    let stream = TlsConnector::from(config?).connect(name, stream).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(BytesResponse::from(sender.send_request(request).await?))
}

/// To the first address that takes a connection.
async fn dial(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(DIAL, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => last = io::Error::other(format!("{address} port {port}: {e}")),
            Err(_) => last = io::Error::other(format!("{address} port {port} does not answer")),
        }
    }
    Err(last)
}
