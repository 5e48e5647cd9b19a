//! A broker in this process, with certificates of every kind.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use ringmq::config::limits::Limits;
use ringmq::config::listener::{Bind, CertificateSpec, ListenerSpec, TlsSpec};
use ringmq::net::events::{LogRecord, LogSink};
use ringmq::net::ring::RingConfig;
use ringmq::server::cores::{CoreConfig, Cores};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pair {
    pub(crate) fn spec(&self) -> CertificateSpec {
        CertificateSpec {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

/// What the tests need of certificates; made once per process.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) other_ca: PathBuf,
    /// Says that `revoked` is.
    pub(crate) crl: PathBuf,
    pub(crate) server: Pair,
    pub(crate) expired_server: Pair,
    /// For `other.example`.
    pub(crate) other_server: Pair,
    pub(crate) client: Pair,
    pub(crate) expired: Pair,
    pub(crate) revoked: Pair,
    /// Of the other authority.
    pub(crate) stranger: Pair,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A directory of this process for files.
pub(crate) fn dir() -> PathBuf {
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("transport-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the directory for tests is writable");
    dir
}

pub(crate) fn certificates() -> &'static Certificates {
    static ALL: OnceLock<Certificates> = OnceLock::new();
    ALL.get_or_init(|| {
        let (ca, other) = (authority("ours"), authority("theirs"));
        let localhost = ["localhost", "127.0.0.1"];
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let leaf = |name: &str,
                    ca: &Authority,
                    names: &[&str],
                    purpose: &ExtendedKeyUsagePurpose,
                    last_year,
                    serial| {
            let mut params =
                CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
                    .expect("they are names");
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Plant");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![purpose.clone()];
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(last_year, 1, 1);
            params.serial_number = Some(SerialNumber::from(serial));
            let key = KeyPair::generate().expect("keys can be made");
            let certificate = params.signed_by(&key, ca).expect("it can be signed");
            let pair = Pair {
                certificate: dir().join(format!("{name}.crt")),
                key: dir().join(format!("{name}.key")),
            };
            write(&pair.certificate, &certificate.pem());
            write(&pair.key, &key.serialize_pem());
            pair
        };
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(66_u64),
                revocation_time: date_time_ymd(2021, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = crl
            .signed_by(&ca)
            .expect("it can be signed")
            .pem()
            .expect("it is PEM");
        let file = |name: &str, text: &str| {
            let path = dir().join(name);
            write(&path, text);
            path
        };
        Certificates {
            ca: file("ca.crt", &ca.pem()),
            other_ca: file("other-ca.crt", &other.pem()),
            crl: file("ca.crl", &crl),
            server: leaf("server", &ca, &localhost, &server, 2100, 1_u64),
            expired_server: leaf("expired-server", &ca, &localhost, &server, 2021, 2),
            other_server: leaf("other-server", &ca, &["other.example"], &server, 2100, 3),
            client: leaf("joe", &ca, &[], &client, 2100, 4),
            expired: leaf("expired", &ca, &[], &client, 2021, 5),
            revoked: leaf("revoked", &ca, &[], &client, 2100, 66),
            stranger: leaf("stranger", &other, &[], &client, 2100, 7),
        }
    })
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("keys can be made");
    CertifiedIssuer::self_signed(params, key).expect("it can be signed")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the directory for tests is writable");
}

/// TLS with the usual certificate.
pub(crate) fn tls() -> TlsSpec {
    TlsSpec {
        certificates: vec![certificates().server.spec()],
        ..TlsSpec::default()
    }
}

/// A listener on a free port of loopback.
pub(crate) fn listener(name: &str) -> ListenerSpec {
    ListenerSpec::tcp(name, (Ipv4Addr::LOCALHOST, 0).into())
}

/// The broker.
pub(crate) struct Server {
    cores: Option<Cores>,
    names: Vec<String>,
    log: Mutex<Log>,
}

/// The cores' lines come in no order among each other.
struct Log {
    records: Receiver<Box<LogRecord>>,
    /// Lines that nobody has asked for yet.
    lines: Vec<String>,
}

impl Server {
    pub(crate) fn start(listeners: Vec<ListenerSpec>) -> Self {
        Self::with_limits(listeners, Limits::default())
    }

    pub(crate) fn with_limits(listeners: Vec<ListenerSpec>, limits: Limits) -> Self {
        let (sink, log) = LogSink::new(100_000);
        let names = listeners.iter().map(|spec| spec.name.clone()).collect();
        let cores = Cores::start(&CoreConfig {
            shard_count: 2,
            pin: false,
            listeners,
            limits: Arc::new(limits),
            placement_key: [3; 16],
            hash_seed: 1,
            random_seed: 2,
            log: Some(sink),
            log_clients: true,
            ring: RingConfig::default(),
            link: None,
            rules: ringmq::access::RulesInForce::default(),
            judges: None,
            store: None,
        });
        Self {
            cores: Some(cores.expect("the broker starts")),
            names,
            log: Mutex::new(Log {
                records: log,
                lines: Vec::new(),
            }),
        }
    }

    pub(crate) fn cores(&self) -> &Cores {
        self.cores.as_ref().expect("it is taken in `drop` only")
    }

    pub(crate) fn bind(&self, name: &str) -> Bind {
        let at = self.names.iter().position(|have| have == name);
        self.cores().addresses()[at.expect("the listener was asked for")].clone()
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        match self.bind(name) {
            Bind::Tcp(address) => address,
            Bind::Unix { .. } => panic!("{name} is a unix socket"),
        }
    }

    pub(crate) fn port(&self, name: &str) -> String {
        self.address(name).port().to_string()
    }

    /// Waits for a line of the log that has all of these words, and takes it.
    pub(crate) fn logs(&self, words: &[&str]) {
        let mut log = self.log.lock().expect("no holder of this lock panics");
        let mut looked_at = 0;
        loop {
            let has_all = |line: &String| words.iter().all(|word| line.contains(word));
            if let Some(at) = log.lines[looked_at..].iter().position(has_all) {
                log.lines.remove(looked_at + at);
                return;
            }
            looked_at = log.lines.len();
            match log.records.recv_timeout(Duration::from_secs(30)) {
                Ok(record) => log.lines.push(record.to_string()),
                Err(_) => panic!("no line with {words:?} among:\n{}", log.lines.join("\n")),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(cores) = self.cores.take() {
            cores.shutdown(Duration::from_secs(5));
        }
    }
}
