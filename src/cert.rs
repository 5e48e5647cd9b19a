//! SHELL. `ringmq cert dev`: an authority, a server's and a client's certificate, for trying out TLS.
//!
//! The names are what clients check: the server's host names and addresses are Subject Alternative Names. The
//! authority's key lies beside its certificate, so these are not for production.

use crate::civil;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Days that the authority is valid longer than what it signs.
const CA_DAYS_MORE: u64 = 3650;
/// Clocks may be wrong by this.
const DAYS_BEFORE: u64 = 1;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevCertificates {
    /// The directory for the files; it is made if need be.
    pub dir: PathBuf,
    /// Host names and addresses of the server.
    pub hosts: Vec<String>,
    /// Common Name of the client, which a listener may take as its User Name.
    pub client: String,
    /// Days for which the certificates are valid.
    pub days: u32,
    /// Whether to replace files that are there.
    pub force: bool,
}

/// The files that were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevFiles {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate and key.
    pub server: (PathBuf, PathBuf),
    /// The client's certificate and key.
    pub client: (PathBuf, PathBuf),
}

/// Makes the certificates and writes them, the keys readable by the owner only.
///
/// Errors: a name is none, or a file cannot be written or is there already; in words.
pub fn dev(what: &DevCertificates) -> Result<DevFiles, String> {
    let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = params(
        &[],
        "ringmq development CA",
        u64::from(what.days) + CA_DAYS_MORE,
    )?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, ca_key).map_err(failed)?;

    let days = u64::from(what.days);
    let first_host = what.hosts.first().ok_or("the server needs a name")?;
    let mut server = params(&what.hosts, first_host, days)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut client = params(&[], &what.client, days)?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let path = |name: &str| what.dir.join(name);
    let files = DevFiles {
        ca: path("ca.crt"),
        server: (path("server.crt"), path("server.key")),
        client: (path("client.crt"), path("client.key")),
    };
    let ca_key_path = path("ca.key");
    let all = [
        &files.ca,
        &ca_key_path,
        &files.server.0,
        &files.server.1,
        &files.client.0,
        &files.client.1,
    ];
    if let Some(there) = all.iter().find(|file| !what.force && file.exists()) {
        return Err(format!(
            "{} is there already; --force replaces it",
            there.display()
        ));
    }
    fs::create_dir_all(&what.dir)
        .map_err(|error| format!("cannot make {}: {error}", what.dir.display()))?;
    write(&files.ca, &ca.pem(), Readers::All)?;
    write(&ca_key_path, &ca.key().serialize_pem(), Readers::Owner)?;
    for (params, (certificate, key)) in [(server, &files.server), (client, &files.client)] {
        let (signed, signed_key) = sign(params, &ca).map_err(failed)?;
        write(certificate, &signed, Readers::All)?;
        write(key, &signed_key, Readers::Owner)?;
    }
    Ok(files)
}

/// A leaf certificate and its key in PEM.
fn sign(
    mut params: CertificateParams,
    ca: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A certificate for these names, valid from a little before now on.
fn params(names: &[String], common_name: &str, days: u64) -> Result<CertificateParams, String> {
    let wrong = |error: rcgen::Error| {
        format!(
            "`{}` cannot be names of a server: {error}",
            names.join(", ")
        )
    };
    let mut params = CertificateParams::new(names).map_err(wrong)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let today = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        / 86_400;
    let date = |day: u64| {
        let (year, month, day) = civil::from_days(day);
        date_time_ymd(year as i32, month as u8, day as u8)
    };
    params.not_before = date(today.saturating_sub(DAYS_BEFORE));
    params.not_after = date(today + days);
    Ok(params)
}

enum Readers {
    All,
    Owner,
}

fn write(path: &Path, text: &str, readers: Readers) -> Result<(), String> {
    let failed = |error| format!("cannot write {}: {error}", path.display());
    // A file that is there keeps its mode, so a key would stay readable.
    let _ = fs::remove_file(path);
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::{CertificateName, CertificateSpec, ClientCertificate, TlsSpec};
    use crate::net::transport::tls_files::ServerTls;
    use crate::net::transport::x509;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_made_can_be_used_and_is_not_overwritten() {
        let dir = std::env::temp_dir().join(format!("ringmq-test-{}-cert", std::process::id()));
        let mut what = DevCertificates {
            dir: dir.clone(),
            hosts: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            client: "joe".into(),
            days: 30,
            force: false,
        };
        let files = dev(&what).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.ca), mode(&files.server.1)), (0o644, 0o600));
        let spec = TlsSpec {
            certificates: vec![CertificateSpec {
                certificate: files.server.0,
                key: files.server.1,
            }],
            client_certificate: ClientCertificate::Required,
            client_ca: vec![files.ca],
            ..TlsSpec::default()
        };
        let tls = ServerTls::load(&spec, false).unwrap();
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        assert!((28..=30).contains(&tls.days_to_expiry(now_s)));
        let client = CertificateDer::from_pem_file(&files.client.0).unwrap();
        assert_eq!(
            x509::name(&client, CertificateName::DistinguishedName).as_deref(),
            Some("CN=joe")
        );
        assert!(dev(&what).unwrap_err().contains("is there already"));
        what.force = true;
        dev(&what).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
