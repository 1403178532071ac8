//! Certificates of our own making: a local authority, which whoever should believe them imports, and what it signs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// How long the authority holds: as long as the machine that it is on is likely to.
const AUTHORITY: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long what it signs holds. Longer than 825 days Apple's systems believe nobody.
const SIGNED: Duration = Duration::from_secs(90 * 86_400);
/// What clocks may differ by.
const SLACK: Duration = Duration::from_secs(3600);

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// The certificate.
    pub chain: String,
    /// Its key.
    pub key: String,
}

/// A new authority of a host.
pub fn authority(host: &str) -> Result<Made, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = called(&format!("warren on {host}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    holds(&mut params, AUTHORITY);
    let key = KeyPair::generate()?;
    Ok(Made { chain: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A certificate for a name, or a wildcard, signed by that authority.
pub fn sign(authority: &Made, name: &str) -> Result<Made, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.chain, KeyPair::from_pem(&authority.key)?)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = called(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    holds(&mut params, SIGNED);
    let key = KeyPair::generate()?;
    Ok(Made { chain: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// The certificate that proves to an ACME server that a name is ours (RFC 8737, 3), by the digest of the key
/// authorization.
pub fn proof(name: &str, digest: &[u8]) -> Result<Made, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = called(name);
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    holds(&mut params, SIGNED);
    let key = KeyPair::generate()?;
    Ok(Made { chain: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn called(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn holds(params: &mut CertificateParams, time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SLACK);
    params.not_after = epoch + now + time;
}
