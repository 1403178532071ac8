//! Certificates with their keys, ready to be served with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use model::network::{Site, Tls};
use model::sites::Sites;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::log;
use crate::protocol::{CertificateShown, Pair, Whose};

/// Why a certificate with its key is none.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The chain's text.
    #[error("the certificate cannot be read: {0}")]
    Chain(String),
    /// The key's text.
    #[error("the key cannot be read: {0}")]
    Key(String),
    /// Both can be read.
    #[error("certificate and key cannot be used together: {0}")]
    Both(#[from] rustls::Error),
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The hosts that it is for.
    pub names: Vec<String>,
    /// Who has signed it.
    pub issuer: String,
    /// From when it holds, in seconds since 1970.
    pub since: u64,
    /// Until when.
    pub until: u64,
}

/// A certificate and its key, read from PEM.
#[derive(Debug)]
pub struct Certified {
    key: Arc<CertifiedKey>,
    /// What it says.
    pub said: Said,
}

/// Reads them, and sees that they belong together.
pub fn certified(chain: &str, key: &str) -> Result<Certified, PairError> {
    let list: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let list = list.map_err(|e| PairError::Chain(e.to_string()))?;
    let first = list.first().ok_or_else(|| PairError::Chain("there is none in the file".to_owned()))?;
    let said = said(first)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| PairError::Key(e.to_string()))?;
    let key = CertifiedKey::from_der(list, key, &ring::default_provider())?;
    Ok(Certified { key: Arc::new(key), said })
}

fn said(certificate: &CertificateDer<'_>) -> Result<Said, PairError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| PairError::Chain(e.to_string()))?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).unwrap_or_default();
    Ok(Said {
        names: names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        issuer: parsed.issuer().to_string(),
        since: seconds(parsed.validity().not_before),
        until: seconds(parsed.validity().not_after),
    })
}

/// Which certificate a site is served with to who asks for that name; none where its TLS does not end here.
#[must_use]
pub fn whose(sites: &Sites, site: &Site, name: &str) -> Option<Whose> {
    match &site.tls {
        Tls::Files { cert, key } => Some(Whose::Files { cert: cert.clone(), key: key.clone() }),
        Tls::SelfSigned => {
            let exact = site.hosts.iter().find(|host| *host == name);
            let covers = |host: &&String| {
                host.strip_prefix("*.").is_some_and(|parent| name.split_once('.').is_some_and(|(_, p)| p == parent))
            };
            exact.or_else(|| site.hosts.iter().find(covers)).map(|host| Whose::SelfSigned(host.clone()))
        }
        Tls::Acme => {
            let directory = sites.acme.as_ref()?.directory.clone();
            Some(Whose::Acme { directory, host: name.to_owned() })
        }
        Tls::Passthrough | Tls::Off => None,
    }
}

/// All that there are.
#[derive(Default)]
pub struct Keys {
    held: RefCell<BTreeMap<Whose, Held>>,
    /// Proofs by the name that they are for (RFC 8737).
    proofs: RefCell<BTreeMap<String, Arc<ServerConfig>>>,
    /// Key authorizations by the tokens that are asked for (RFC 8555, 8.3).
    tokens: RefCell<BTreeMap<String, String>>,
    tickets: RefCell<Option<Arc<dyn ProducesTickets>>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.held.borrow().keys()).finish()
    }
}

struct Held {
    pair: Pair,
    ready: Option<(Arc<ServerConfig>, Said)>,
}

impl Keys {
    /// These are all. One that cannot be used leaves the one before it in its place.
    pub fn configure(&self, pairs: Vec<Pair>) {
        let wanted: std::collections::BTreeSet<Whose> = pairs.iter().map(|pair| pair.whose.clone()).collect();
        self.held.borrow_mut().retain(|whose, _| wanted.contains(whose));
        for pair in pairs {
            self.add(pair);
        }
    }

    /// One, in place of the one before it.
    pub fn add(&self, mut pair: Pair) {
        let mut held = self.held.borrow_mut();
        let before = held.remove(&pair.whose);
        let ready = match before {
            Some(before) if pair.chain.is_empty() || before.pair.chain == pair.chain && before.pair.key == pair.key => {
                before.ready
            }
            _ if pair.chain.is_empty() => None,
            before => match self.ready(&pair) {
                Ok(ready) => Some(ready),
                Err(error) => {
                    log::error(&format!("sites: {error}"));
                    pair.problem = Some(error.to_string());
                    before.and_then(|before| before.ready)
                }
            },
        };
        held.insert(pair.whose.clone(), Held { pair, ready });
    }

    fn ready(&self, pair: &Pair) -> Result<(Arc<ServerConfig>, Said), PairError> {
        let certified = certified(&pair.chain, &pair.key)?;
        let mut config = config(certified.key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Nothing is remembered of clients: what resumes a session they bring along, sealed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let mut tickets = self.tickets.borrow_mut();
        let ticketer = match &*tickets {
            Some(ticketer) => Arc::clone(ticketer),
            None => Arc::clone(tickets.insert(ring::Ticketer::new()?)),
        };
        config.ticketer = ticketer;
        Ok((Arc::new(config), certified.said))
    }

    /// What a certificate is served with.
    #[must_use]
    pub fn config(&self, whose: &Whose) -> Option<Arc<ServerConfig>> {
        Some(Arc::clone(&self.held.borrow().get(whose)?.ready.as_ref()?.0))
    }

    /// What a certificate says.
    #[must_use]
    pub fn said(&self, whose: &Whose) -> Option<Said> {
        Some(self.held.borrow().get(whose)?.ready.as_ref()?.1.clone())
    }

    /// What is wrong with a certificate, or is not any more.
    pub fn note(&self, whose: &Whose, problem: Option<String>) {
        if let Some(held) = self.held.borrow_mut().get_mut(whose) {
            held.pair.problem = problem;
        }
    }

    /// The proof that a name is ours.
    #[must_use]
    pub fn proof(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.proofs.borrow().get(name).cloned()
    }

    /// Shows that proof from now on.
    pub fn prove(&self, name: &str, chain: &str, key: &str) -> Result<(), PairError> {
        let chain = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|e| PairError::Chain(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| PairError::Key(e.to_string()))?;
        // Its critical extension is one that a check of both together would stumble over.
        let key = CertifiedKey::new(vec![chain], ring::sign::any_supported_type(&key)?);
        let mut config = config(Arc::new(key))?;
        config.alpn_protocols = vec![super::tls_accept::ACME_TLS.to_vec()];
        self.proofs.borrow_mut().insert(name.to_owned(), Arc::new(config));
        Ok(())
    }

    /// What an authority that asks for that token is answered.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<String> {
        self.tokens.borrow().get(token).cloned()
    }

    /// Answers that to who asks for that token from now on.
    pub fn answer(&self, token: &str, proof: &str) {
        self.tokens.borrow_mut().insert(token.to_owned(), proof.to_owned());
    }

    /// Shows no proof any more.
    pub fn forget_proofs(&self) {
        self.proofs.take();
        self.tokens.take();
    }

    /// All of them, for people.
    #[must_use]
    pub fn shown(&self) -> Vec<CertificateShown> {
        let shown = |held: &Held| {
            let said = held.ready.as_ref().map(|(_, said)| said);
            let (by, name) = match &held.pair.whose {
                Whose::Files { cert, .. } => ("files", cert),
                Whose::SelfSigned(name) => ("self-signed", name),
                Whose::Acme { host, .. } => ("acme", host),
            };
            CertificateShown {
                by: by.to_owned(),
                names: said.map_or_else(|| vec![name.clone()], |said| said.names.clone()),
                issuer: said.map(|said| said.issuer.clone()),
                until: said.map(|said| said.until),
                problem: held.pair.problem.clone(),
            }
        };
        self.held.borrow().values().map(shown).collect()
    }
}

fn config(key: Arc<CertifiedKey>) -> Result<ServerConfig, PairError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key))))
}
