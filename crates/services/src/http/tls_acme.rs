//! Certificates by ACME (RFC 8555): the worker asks for them, shows the proofs (http-01 of RFC 8555, 8.3, and
//! tls-alpn-01 of RFC 8737), and renews what will end. What is to be kept goes to the supervisor, who has the files.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use model::network::{Acme as Settings, Tls};
use model::sites::Sites;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::tls_ca;
use super::tls_client::{self, Resolve};
use super::tls_keys::{Keys, Said};
use crate::log;
use crate::protocol::{FromWorker, Kept, Pair, Whose};

/// How long a certificate may take from its order to its end.
const PATIENCE: Duration = Duration::from_secs(120);
/// An authority that refuses is asked again after this, then after twice that, and so on. Let's Encrypt takes five
/// failures of a name an hour.
const REFUSED: Duration = Duration::from_secs(120);
/// One that is not reached is asked again after this, and so on.
const UNREACHED: Duration = Duration::from_secs(5);
/// And at the latest after this.
const LATEST: Duration = Duration::from_secs(6 * 3600);
/// Longer than this nobody sleeps: clocks are set.
const LONG: Duration = Duration::from_secs(3600);

/// What is asked for, and the proofs that are shown meanwhile.
pub struct Acme {
    keys: Rc<Keys>,
    wanted: RefCell<Wanted>,
    tries: RefCell<BTreeMap<String, Tries>>,
    account: RefCell<Option<(String, Account)>>,
    changed: Notify,
    running: Cell<bool>,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    settings: Option<Settings>,
    /// Each host, and whether http-01 and tls-alpn-01 can be shown for it.
    hosts: BTreeMap<String, [bool; 2]>,
    resolvers: Vec<std::net::IpAddr>,
    /// What the supervisor keeps of the account.
    account: Option<String>,
    /// Authorities whose word for the directory is taken, as DER.
    roots: Vec<Vec<u8>>,
}

/// What was tried for a host.
#[derive(Clone, Copy, Debug)]
struct Tries {
    failures: u32,
    not_before: Instant,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("hosts", &self.wanted.borrow().hosts).finish_non_exhaustive()
    }
}

impl Acme {
    /// Nothing is wanted yet; what is had goes into `keys`.
    #[must_use]
    pub fn new(keys: Rc<Keys>) -> Self {
        Self {
            keys,
            wanted: RefCell::default(),
            tries: RefCell::default(),
            account: RefCell::default(),
            changed: Notify::new(),
            running: Cell::new(false),
        }
    }

    /// What the supervisor keeps: the account, and who is believed about the directory.
    pub fn known(&self, account: Option<String>, roots: Vec<Vec<u8>>) {
        let mut wanted = self.wanted.borrow_mut();
        (wanted.account, wanted.roots) = (account, roots);
        self.account.take();
        self.changed.notify_one();
    }

    /// The sites from now on. What is to be kept is told to `keep`.
    pub fn configure(
        self: &Rc<Self>,
        sites: &Sites,
        resolvers: Vec<std::net::IpAddr>,
        keep: &mpsc::UnboundedSender<FromWorker>,
    ) {
        let mut wanted = self.wanted.borrow_mut();
        let before = wanted.clone();
        wanted.settings.clone_from(&sites.acme);
        wanted.resolvers = resolvers;
        wanted.hosts = hosts(sites);
        if *wanted == before {
            return;
        }
        if wanted.settings != before.settings {
            self.account.take();
            self.tries.take();
        }
        self.tries.borrow_mut().retain(|host, _| wanted.hosts.contains_key(host));
        self.changed.notify_one();
        if !wanted.hosts.is_empty() && !self.running.replace(true) {
            spawn_local(run(Rc::clone(self), keep.clone()));
        }
    }
}

/// The hosts with certificates by ACME, and by which challenges: what is bound at 80, and what at 443.
fn hosts(sites: &Sites) -> BTreeMap<String, [bool; 2]> {
    let bound: BTreeSet<u16> = sites.sockets.iter().map(SocketAddr::port).collect();
    let mut hosts = BTreeMap::new();
    for site in sites.sites.iter().filter(|site| site.tls == Tls::Acme) {
        let at = |port| bound.contains(&port) && site.entries.iter().any(|entry| entry.port == port);
        for host in &site.hosts {
            hosts.insert(host.clone(), [at(80), at(443)]);
        }
    }
    hosts
}

/// When a certificate is had anew, in seconds since 1970: when a third of its time is left, and by how much earlier
/// differs from name to name, that not all of them come at once.
#[must_use]
pub fn renewal(said: &Said, host: &str) -> u64 {
    let whole = said.until.saturating_sub(said.since);
    let jitter = host.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 100;
    // Up to a twentieth of its time.
    said.until.saturating_sub(whole / 3 + whole * jitter / 2000)
}

/// How long to wait after so many failures in a row.
#[must_use]
pub fn backoff(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(LATEST)
}

async fn run(acme: Rc<Acme>, keep: mpsc::UnboundedSender<FromWorker>) {
    loop {
        let wait = match acme.next() {
            Some((host, wait)) if wait.is_zero() => {
                acme.get(&host, &keep).await;
                continue;
            }
            Some((_, wait)) => wait.min(LONG),
            None => LONG,
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = acme.changed.notified() => {}
        }
    }
}

impl Acme {
    /// The host whose certificate is to be had next, and how long there is until then.
    fn next(&self) -> Option<(String, Duration)> {
        let wanted = self.wanted.borrow();
        let directory = &wanted.settings.as_ref()?.directory;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wait = |host: &String| {
            let whose = Whose::Acme { directory: directory.clone(), host: host.clone() };
            let due = self.keys.said(&whose).map_or(0, |said| renewal(&said, host));
            let due = Duration::from_secs(due).saturating_sub(now);
            let held = self.tries.borrow().get(host).map(|tries| tries.not_before);
            due.max(held.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now())))
        };
        wanted.hosts.keys().map(|host| (host.clone(), wait(host))).min_by_key(|(_, wait)| *wait)
    }

    async fn get(&self, host: &str, keep: &mpsc::UnboundedSender<FromWorker>) {
        let wanted = self.wanted.borrow().clone();
        let Some(settings) = &wanted.settings else { return };
        let whose = Whose::Acme { directory: settings.directory.clone(), host: host.to_owned() };
        let ordered = timeout(PATIENCE, self.order(&wanted, settings, host, keep)).await;
        let ordered = ordered.unwrap_or(Err(Error::Timeout(None)));
        // Whatever became of it, nothing is shown any more.
        self.keys.forget_proofs();
        let failure = match ordered {
            Ok((chain, key)) => {
                let pair = Pair { whose: whose.clone(), chain, key, problem: None };
                match super::tls_keys::certified(&pair.chain, &pair.key) {
                    Ok(_) => {
                        log::info(&format!("sites: {host} has a certificate of {}", settings.directory));
                        self.keys.add(pair.clone());
                        self.tries.borrow_mut().remove(host);
                        let _ = keep.send(FromWorker::Keep(Box::new(Kept::Certificate(pair))));
                        return;
                    }
                    Err(e) => Error::Other(Box::new(e)),
                }
            }
            Err(failure) => failure,
        };
        let first = if matches!(failure, Error::Api(_)) { REFUSED } else { UNREACHED };
        let mut tries = self.tries.borrow_mut();
        let failures = tries.get(host).map_or(1, |tries| tries.failures + 1);
        let wait = backoff(first, failures);
        tries.insert(host.to_owned(), Tries { failures, not_before: Instant::now() + wait });
        let why = format!("no certificate from {}: {}", settings.directory, words(&failure));
        log::error(&format!("sites: {host}: {why}; it is asked again in {} s", wait.as_secs()));
        // An account that the authority does not know any more is made anew.
        if matches!(&failure, Error::Api(problem) if problem.r#type.as_deref().is_some_and(|t| t.ends_with(":accountDoesNotExist")))
        {
            self.account.take();
            self.wanted.borrow_mut().account = None;
        }
        self.keys.note(&whose, Some(why));
    }

    /// A certificate and its key.
    async fn order(
        &self,
        wanted: &Wanted,
        settings: &Settings,
        host: &str,
        keep: &mpsc::UnboundedSender<FromWorker>,
    ) -> Result<(String, String), Error> {
        let account = self.account(wanted, settings, keep).await?;
        let identifiers = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let failures = self.tries.borrow().get(host).map_or(0, |tries| tries.failures);
        let mut all = order.authorizations();
        while let Some(authorization) = all.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = match which(wanted.hosts.get(host).copied().unwrap_or_default(), failures) {
                Some(kind) => authorization.challenge(kind),
                None => None,
            }
            .ok_or(Error::Str("a challenge that can be shown here; sites listen at neither port 80 nor 443"))?;
            self.show(host, &challenge)?;
            challenge.set_ready().await?;
        }
        let policy = RetryPolicy::new().timeout(PATIENCE);
        if order.poll_ready(&policy).await? != OrderStatus::Ready {
            return Err(refusal(&mut order).await);
        }
        let (key, request) = request(host).map_err(|e| Error::Other(Box::new(e)))?;
        order.finalize_csr(&request).await?;
        Ok((order.poll_certificate(&policy).await?, key))
    }

    fn show(&self, host: &str, challenge: &ChallengeHandle<'_>) -> Result<(), Error> {
        let proof = challenge.key_authorization();
        if challenge.r#type == ChallengeType::Http01 {
            self.keys.answer(&challenge.token, proof.as_str());
            return Ok(());
        }
        let made = tls_ca::proof(host, proof.digest().as_ref()).map_err(|e| Error::Other(Box::new(e)))?;
        self.keys.prove(host, &made.chain, &made.key).map_err(|e| Error::Other(Box::new(e)))
    }

    /// The account: the one that is known, or that is kept, or a new one.
    async fn account(
        &self,
        wanted: &Wanted,
        settings: &Settings,
        keep: &mpsc::UnboundedSender<FromWorker>,
    ) -> Result<Account, Error> {
        let directory = &settings.directory;
        if let Some((_, account)) = self.account.borrow().as_ref().filter(|(known, _)| known == directory) {
            return Ok(account.clone());
        }
        let builder = || Account::builder_with_http(Box::new(client(wanted)));
        let kept = wanted.account.as_deref().and_then(|text| serde_json::from_str::<AccountCredentials>(text).ok());
        let account = match kept {
            Some(credentials) => builder().from_credentials(credentials).await?,
            None => {
                let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
                let new = NewAccount {
                    contact: &contact.iter().map(String::as_str).collect::<Vec<_>>(),
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let (account, credentials) = builder().create(&new, directory.clone(), None).await?;
                let text = serde_json::to_string(&credentials)?;
                self.wanted.borrow_mut().account = Some(text.clone());
                let kept = Kept::Account { directory: directory.clone(), text };
                let _ = keep.send(FromWorker::Keep(Box::new(kept)));
                account
            }
        };
        *self.account.borrow_mut() = Some((directory.clone(), account.clone()));
        Ok(account)
    }
}

/// By which challenge: where both can be shown, by the other one after each failure.
fn which([http, tls]: [bool; 2], failures: u32) -> Option<ChallengeType> {
    match (http, tls) {
        (true, true) if failures % 2 == 1 => Some(ChallengeType::TlsAlpn01),
        (true, _) => Some(ChallengeType::Http01),
        (false, true) => Some(ChallengeType::TlsAlpn01),
        (false, false) => None,
    }
}

/// What the authority found wrong.
async fn refusal(order: &mut instant_acme::Order) -> Error {
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        if let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref())
        {
            return Error::Api(problem.clone());
        }
    }
    Error::Str("the authority does not say what it found wrong")
}

/// A key in PEM, and the request for a certificate of it in DER.
fn request(host: &str) -> Result<(String, Vec<u8>), rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

fn client(wanted: &Wanted) -> tls_client::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(wanted.roots.iter().map(|der| der.clone().into()));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    // The provider has ciphers for them.
    let config = builder
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth());
    tls_client::Client::new(config.map(Arc::new), Resolve::new(wanted.resolvers.clone()))
}

/// An error with what is behind it.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(behind) = source {
        let more = behind.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = behind.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_in_time_and_not_all_at_once() {
        let said = |days: u64| Said { since: 1_000_000, until: 1_000_000 + days * 86_400, ..Said::default() };
        for days in [1, 6, 90, 398] {
            let (whole, said) = (days * 86_400, said(days));
            let all: BTreeSet<u64> = (0..20).map(|nth| renewal(&said, &format!("h{nth}.example.org"))).collect();
            assert!(all.len() > 10, "{all:?}");
            for at in all {
                let left = said.until - at;
                assert!(left >= whole / 3 && left <= whole * 2 / 5, "{days}: {left}");
            }
        }
    }

    #[test]
    fn who_refuses_is_asked_ever_less() {
        let waits: Vec<u64> = (1..=10).map(|failures| backoff(REFUSED, failures).as_secs()).collect();
        assert_eq!(waits, [120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]);
        // Within an hour no more than Let's Encrypt takes.
        let within = waits
            .iter()
            .scan(0, |sum, wait| {
                *sum += wait;
                Some(*sum)
            })
            .filter(|at| *at < 3600)
            .count();
        assert!(within < 5, "{waits:?}");
        assert_eq!(backoff(UNREACHED, u32::MAX), LATEST);
    }

    #[test]
    fn the_other_challenge_after_a_failure() {
        assert_eq!(which([true, true], 0), Some(ChallengeType::Http01));
        assert_eq!(which([true, true], 1), Some(ChallengeType::TlsAlpn01));
        assert_eq!(which([true, false], 1), Some(ChallengeType::Http01));
        assert_eq!(which([false, true], 0), Some(ChallengeType::TlsAlpn01));
        assert_eq!(which([false, false], 0), None);
    }
}
