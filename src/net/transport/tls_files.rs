//! The files of TLS: read, checked as a whole, and read again when they change.
//!
//! A listener's configuration is one shared value. Reading its files anew makes another and puts it in place only
//! when everything in it is right; connections keep the one they began with. Session tickets are sealed with keys
//! that belong to the value, so that no session survives a change of authorities or revocations.

use crate::config::listener::{CertificateSpec, ClientCertificate, TlsSpec, TlsVersion};
use crate::net::transport::x509;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion, version,
};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Seconds of a day.
const DAY_S: i64 = 86_400;
/// Where Linux distributions keep the authorities that everyone trusts.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A file, and what is wrong with it. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFileError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

impl TlsFileError {
    fn new(path: &Path, what: impl fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for TlsFileError {}

/// The TLS of one listener, shared by all cores.
#[derive(Debug)]
pub struct ServerTls {
    spec: TlsSpec,
    alpn: &'static [&'static [u8]],
    current: RwLock<Current>,
    /// What the files looked like when they were last read, for better or worse.
    seen: Mutex<Vec<Option<Stamp>>>,
}

/// What [`ServerTls::prepare`] has read.
#[derive(Debug)]
pub struct Prepared(Current);

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    not_after_s: i64,
    /// What the files looked like that it was made from.
    stamps: Vec<Option<Stamp>>,
}

/// What tells one content of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl ServerTls {
    /// Reads the files of `spec`, for MQTT or for WebSocket.
    ///
    /// Errors: the first file that is missing, unreadable or wrong.
    pub fn load(spec: &TlsSpec, is_websocket: bool) -> Result<Self, TlsFileError> {
        let alpn: &[&[u8]] = if is_websocket {
            &[b"http/1.1"]
        } else {
            &[b"mqtt", b"x-amzn-mqtt-ca"]
        };
        let current = load(spec, alpn)?;
        Ok(Self {
            spec: spec.clone(),
            alpn,
            seen: Mutex::new(current.stamps.clone()),
            current: RwLock::new(current),
        })
    }

    /// What a new connection is made with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.read().config)
    }

    /// Reads the files again. Connections that there are keep what they have.
    ///
    /// Errors: as [`ServerTls::load`]; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsFileError> {
        self.prepare().map(|prepared| self.commit(prepared))
    }

    /// Reads the files and changes nothing yet, so that several listeners can change together.
    ///
    /// Errors: as [`ServerTls::load`].
    pub fn prepare(&self) -> Result<Prepared, TlsFileError> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.spec);
        load(&self.spec, self.alpn).map(Prepared)
    }

    /// Puts what was read in force for new connections.
    pub fn commit(&self, prepared: Prepared) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = prepared.0;
    }

    /// Whether a file has changed since the files were last read.
    pub fn has_changed(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(&self.spec)
    }

    /// Whether the files are others than those in force: they have changed since, or were read and found wrong.
    pub fn is_outdated(&self) -> bool {
        self.read().stamps != stamps(&self.spec)
    }

    /// Days until the first of the server's certificates is not valid any more; negative when that is past.
    pub fn days_to_expiry(&self, unix_s: i64) -> i64 {
        (self.read().not_after_s - unix_s).div_euclid(DAY_S)
    }

    fn read(&self) -> Current {
        // It is replaced as a whole, so a panic elsewhere leaves no half of it.
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn stamps(spec: &TlsSpec) -> Vec<Option<Stamp>> {
    let pairs = spec.certificates.iter();
    let files = pairs.flat_map(|pair| [&pair.certificate, &pair.key]);
    let files = files.chain(&spec.client_ca).chain(&spec.crl);
    files
        .map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some(Stamp {
                device: data.dev(),
                inode: data.ino(),
                bytes: data.len(),
                modified: (data.mtime(), data.mtime_nsec()),
            })
        })
        .collect()
}

fn load(spec: &TlsSpec, alpn: &[&[u8]]) -> Result<Current, TlsFileError> {
    // Before they are read: a change while they are is a change.
    let stamps = stamps(spec);
    let provider = Arc::new(ring::default_provider());
    let mut certificates = Vec::with_capacity(spec.certificates.len());
    let mut not_after_s = i64::MAX;
    for pair in &spec.certificates {
        let certified = certified_key(pair, &provider)?;
        let leaf = certified.end_entity_cert();
        let last_s = leaf.ok().and_then(|leaf| x509::not_after_s(leaf));
        let last_s = last_s
            .ok_or_else(|| TlsFileError::new(&pair.certificate, "no last day of validity"))?;
        not_after_s = not_after_s.min(last_s);
        certificates.push(Arc::new(certified));
    }
    if certificates.is_empty() {
        return Err(TlsFileError::new(Path::new(""), "TLS needs a certificate"));
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(spec.version_min, None))
        .map_err(|error| TlsFileError::new(Path::new(""), error))?;
    let builder = if spec.client_certificate == ClientCertificate::None {
        builder.with_no_client_auth()
    } else {
        let first_ca = spec
            .client_ca
            .first()
            .map_or_else(|| Path::new(""), PathBuf::as_path);
        let roots = Arc::new(roots(&spec.client_ca)?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if !spec.crl.is_empty() {
            // As OpenSSL does with the same files.
            verifier = verifier
                .with_crls(revoked(&spec.crl)?)
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        }
        if spec.client_certificate == ClientCertificate::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier
            .build()
            .map_err(|error| TlsFileError::new(first_ca, error))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByServerName(certificates)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Tickets need no memory here. A client of MQTT has one connection, so it needs one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer =
        ring::Ticketer::new().map_err(|error| TlsFileError::new(Path::new(""), error))?;
    config.send_tls13_tickets = 1;
    Ok(Current {
        config: Arc::new(config),
        not_after_s,
        stamps,
    })
}

static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// The versions from `min` on, or `only` one.
fn versions(
    min: TlsVersion,
    only: Option<TlsVersion>,
) -> &'static [&'static SupportedProtocolVersion] {
    match (min, only) {
        (_, Some(TlsVersion::V12)) => &BOTH[1..],
        (_, Some(TlsVersion::V13)) | (TlsVersion::V13, None) => &BOTH[..1],
        (TlsVersion::V12, None) => &BOTH,
    }
}

fn certified_key(
    pair: &CertificateSpec,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFileError> {
    let chain = certificates(&pair.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key)
        .map_err(|error| pem_error(&pair.key, error, "private key"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let what = match error {
            Error::InconsistentKeys(_) => {
                format!(
                    "the key does not belong to the certificate {}",
                    pair.certificate.display()
                )
            }
            error => format!("the key cannot be used: {error}"),
        };
        TlsFileError::new(&pair.key, what)
    })
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let all =
        CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let all = all.map_err(|error| pem_error(path, error, "certificate"))?;
    if all.is_empty() {
        return Err(pem_error(path, pem::Error::NoItemsFound, "certificate"));
    }
    Ok(all)
}

fn roots(paths: &[PathBuf]) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| TlsFileError::new(path, error))?;
        }
    }
    Ok(roots)
}

fn revoked(paths: &[PathBuf]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFileError> {
    let mut lists = Vec::new();
    for path in paths {
        let found = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(|all| all.collect::<Result<Vec<_>, _>>())
            .map_err(|error| pem_error(path, error, "revocation list"))?;
        if found.is_empty() {
            return Err(pem_error(path, pem::Error::NoItemsFound, "revocation list"));
        }
        lists.extend(found);
    }
    Ok(lists)
}

fn pem_error(path: &Path, error: pem::Error, what: &str) -> TlsFileError {
    match error {
        pem::Error::Io(error) => TlsFileError::new(path, format!("cannot be read: {error}")),
        pem::Error::NoItemsFound => TlsFileError::new(path, format!("no {what} in PEM")),
        error => TlsFileError::new(path, format!("no {what} in PEM: {error}")),
    }
}

/// Picks the certificate by the Server Name that the client asked for.
#[derive(Debug)]
struct ByServerName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_sign = |certified: &&Arc<CertifiedKey>| {
            certified
                .key
                .choose_scheme(hello.signature_schemes())
                .is_some()
        };
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let is_valid_for = |certified: &&Arc<CertifiedKey>| {
            let parsed = certified
                .end_entity_cert()
                .and_then(ParsedCertificate::try_from);
            matches!((parsed, &name), (Ok(parsed), Some(name)) if verify_server_name(&parsed, name).is_ok())
        };
        let usable = || self.0.iter().filter(can_sign);
        // With one certificate there is nothing to choose.
        let by_name = if self.0.len() > 1 {
            usable().find(is_valid_for)
        } else {
            None
        };
        by_name
            .or_else(|| usable().next())
            .or_else(|| self.0.first())
            .cloned()
    }
}

/// The TLS of a client, as an operator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsSpec {
    /// Authorities, as files with certificates; with no directory either, those of the system.
    pub ca_files: Vec<PathBuf>,
    /// Directories of such files.
    pub ca_dirs: Vec<PathBuf>,
    /// Those of the system beside them.
    pub system_cas: bool,
    /// The client's own certificate.
    pub certificate: Option<CertificateSpec>,
    /// Do not check the server's name; when no authority is named, check nothing.
    pub insecure: bool,
    /// Names of application protocols to offer, best first.
    pub alpn: Vec<String>,
    /// The only version to speak.
    pub version: Option<TlsVersion>,
    /// Whether the connections made with it continue each other's sessions. Those of a load generator must not: they
    /// stand for devices that know nothing of each other.
    pub resumes: bool,
}

/// Reads the files of a client.
///
/// Errors: as [`ServerTls::load`].
pub fn client_config(spec: &ClientTlsSpec) -> Result<Arc<ClientConfig>, TlsFileError> {
    let provider = Arc::new(ring::default_provider());
    let names_authorities =
        !spec.ca_files.is_empty() || !spec.ca_dirs.is_empty() || spec.system_cas;
    let inner = if spec.insecure && !names_authorities {
        None
    } else {
        let roots = client_roots(spec)?;
        let first = spec.ca_files.iter().chain(&spec.ca_dirs).next();
        let first = first.map_or_else(|| Path::new(SYSTEM_CA_FILES[0]), PathBuf::as_path);
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Some(
            verifier
                .build()
                .map_err(|error| TlsFileError::new(first, error))?,
        )
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(TlsVersion::V12, spec.version))
        .map_err(|error| TlsFileError::new(Path::new(""), error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerCheck {
            inner,
            checks_name: !spec.insecure,
            provider: Arc::clone(&provider),
        }));
    let mut config = match &spec.certificate {
        Some(pair) => {
            // With its checks: whether the key belongs to the certificate.
            certified_key(pair, &provider)?;
            let key = PrivateKeyDer::from_pem_file(&pair.key)
                .map_err(|error| pem_error(&pair.key, error, "private key"))?;
            let chain = certificates(&pair.certificate)?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| TlsFileError::new(&pair.certificate, error))?
        }
        None => builder.with_no_client_auth(),
    };
    if !spec.resumes {
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols = spec
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Ok(Arc::new(config))
}

fn client_roots(spec: &ClientTlsSpec) -> Result<RootCertStore, TlsFileError> {
    let mut roots = roots(&spec.ca_files)?;
    let mut files = Vec::new();
    for dir in &spec.ca_dirs {
        let entries = std::fs::read_dir(dir);
        let entries =
            entries.map_err(|error| TlsFileError::new(dir, format!("cannot be read: {error}")))?;
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    if spec.system_cas || (spec.ca_files.is_empty() && spec.ca_dirs.is_empty()) {
        let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let known = SYSTEM_CA_FILES.iter().map(PathBuf::from);
        files.extend(given.into_iter().chain(known).find(|path| path.exists()));
    }
    // Such places also hold what is no certificate.
    for path in files {
        roots.add_parsable_certificates(certificates(&path).unwrap_or_default());
    }
    Ok(roots)
}

/// Checks a server's certificate as far as the user wants it.
#[derive(Debug)]
struct ServerCheck {
    inner: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is what it looks at last.
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
