//! Where a broker is and what lies between: the flags for it, which `ringmq pub`, `ringmq sub` and loadgen share.

use super::url::{Scheme, Url};
use crate::config::listener::{CertificateSpec, TlsVersion};
use crate::net::transport::client::{ClientRoute, ClientWebSocket};
use crate::net::transport::tls_files::{ClientTlsSpec, client_config};
use crate::protocol::Version;
use clap::Args;
use rustls::pki_types::ServerName;
use std::fmt;
use std::path::PathBuf;

/// Path of a WebSocket that nobody named.
const WEBSOCKET_PATH: &str = "/mqtt";

/// The flags for TLS, WebSocket and unix sockets; those of mosquitto's clients, and two more.
#[derive(Args, Clone, Debug, Default)]
pub struct TransportArgs {
    /// Use TLS; --cafile, --capath and --tls-use-os-certs say so too
    #[arg(long)]
    tls: bool,
    /// Authorities of the server's certificate, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// Directory of such files
    #[arg(long, value_name = "DIR")]
    capath: Option<PathBuf>,
    /// Trust the authorities that the system trusts
    #[arg(long)]
    tls_use_os_certs: bool,
    /// Certificate to show to the server, in PEM
    #[arg(long, alias = "certfile", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, alias = "keyfile", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not check the server's name; without --cafile and --capath, check nothing
    #[arg(long)]
    insecure: bool,
    /// Application protocol to offer, such as mqtt
    #[arg(long, value_name = "NAME", value_parser = parse_alpn)]
    tls_alpn: Option<String>,
    /// The only version of TLS to use: tlsv1.2 or tlsv1.3
    #[arg(long, value_name = "VERSION", value_parser = parse_tls_version)]
    tls_version: Option<TlsVersion>,
    /// Use WebSocket
    #[arg(long)]
    ws: bool,
    /// Path of the WebSocket [default: /mqtt]
    #[arg(long, value_name = "PATH")]
    ws_path: Option<String>,
    /// Connect to this unix socket
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "port"])]
    unix: Option<PathBuf>,
}

impl TransportArgs {
    /// The same, with TLS in any case if `tls` is set.
    pub fn or_tls(mut self, tls: bool) -> Self {
        self.tls |= tls;
        self
    }
}

/// An application protocol's name has 1 to 255 bytes (RFC 7301 §3.1).
fn parse_alpn(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a protocol's name has 1 to 255 bytes".into())
    }
}

fn parse_tls_version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "tlsv1.2" => Ok(TlsVersion::V12),
        "tlsv1.3" => Ok(TlsVersion::V13),
        _ => Err("tlsv1.2 and tlsv1.3 are spoken".into()),
    }
}

/// Where a socket leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address, and a port.
    Tcp(String, u16),
    /// A unix socket's file.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A broker, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What lies between.
    pub route: ClientRoute,
}

impl Target {
    /// Puts together what the flags, or a URL in place of some, say. The usual ports are 1883, 8883 with TLS, 80 and
    /// 443 with WebSocket.
    ///
    /// Errors: what cannot be, or a file that is wrong; in words.
    pub fn new(
        args: &TransportArgs,
        url: Option<&Url>,
        host: Option<String>,
        port: Option<u16>,
        version: Version,
    ) -> Result<Self, String> {
        let scheme = url.map(|url| url.scheme);
        let names_authorities =
            args.cafile.is_some() || args.capath.is_some() || args.tls_use_os_certs;
        let has_tls = scheme.is_some_and(Scheme::has_tls) || args.tls || names_authorities;
        let has_websocket =
            scheme.is_some_and(Scheme::has_websocket) || args.ws || args.ws_path.is_some();
        let tls_only = args.cert.is_some()
            || args.insecure
            || args.tls_alpn.is_some()
            || args.tls_version.is_some();
        if tls_only && !has_tls {
            return Err(
                "--cert, --insecure, --tls-alpn and --tls-version need TLS: --tls or --cafile FILE"
                    .into(),
            );
        }
        let host = url.map(|url| url.host.clone()).or(host);
        let usual_port = match (has_tls, has_websocket) {
            (false, false) => 1883,
            (true, false) => 8883,
            (false, true) => 80,
            (true, true) => 443,
        };
        let port = url.and_then(|url| url.port).or(port).unwrap_or(usual_port);
        let unix = args.unix.clone().or_else(|| {
            let is_unix = scheme == Some(Scheme::Unix);
            host.as_ref().filter(|_| is_unix).map(PathBuf::from)
        });
        let (endpoint, name) = match unix {
            Some(path) => (Endpoint::Unix(path), "localhost".to_owned()),
            None => {
                let host = host.unwrap_or_else(|| "localhost".into());
                (Endpoint::Tcp(host.clone(), port), host)
            }
        };
        let tls = if has_tls {
            Some(tls(args, &name)?)
        } else {
            None
        };
        let websocket = has_websocket.then(|| {
            let path = url
                .and_then(|url| url.path.as_deref())
                .filter(|_| scheme.is_some_and(Scheme::has_websocket));
            let path = path
                .map(|path| format!("/{path}"))
                .or_else(|| args.ws_path.clone());
            ClientWebSocket {
                host: match &endpoint {
                    Endpoint::Tcp(..) if port != usual_port => endpoint.to_string(),
                    _ => name.clone(),
                },
                path: path.unwrap_or_else(|| WEBSOCKET_PATH.into()),
                protocol: if version == Version::V31 {
                    "mqttv3.1"
                } else {
                    "mqtt"
                },
            }
        });
        Ok(Self {
            endpoint,
            route: ClientRoute { tls, websocket },
        })
    }
}

type Tls = (std::sync::Arc<rustls::ClientConfig>, ServerName<'static>);

fn tls(args: &TransportArgs, name: &str) -> Result<Tls, String> {
    let spec = ClientTlsSpec {
        ca_files: args.cafile.iter().cloned().collect(),
        ca_dirs: args.capath.iter().cloned().collect(),
        system_cas: args.tls_use_os_certs,
        certificate: args
            .cert
            .clone()
            .zip(args.key.clone())
            .map(|(certificate, key)| CertificateSpec { certificate, key }),
        insecure: args.insecure,
        alpn: args.tls_alpn.iter().cloned().collect(),
        version: args.tls_version,
        resumes: false,
    };
    let config = client_config(&spec).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("`{name}` cannot be a server's name"))?;
    Ok((config, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::url;

    fn target(args: &TransportArgs, text: &str) -> Target {
        Target::new(
            args,
            Some(&url::parse(text).unwrap()),
            None,
            None,
            Version::V311,
        )
        .unwrap()
    }

    #[test]
    fn a_url_says_everything() {
        let args = TransportArgs {
            insecure: true,
            tls: true,
            ..TransportArgs::default()
        };
        let plain = TransportArgs::default();
        let got = target(&plain, "mqtt://h/t");
        assert_eq!(
            (got.endpoint.to_string(), got.route.is_plain()),
            ("h:1883".into(), true)
        );
        let got = target(&args, "mqtts://h");
        assert_eq!(got.endpoint.to_string(), "h:8883");
        assert!(got.route.tls.is_some() && got.route.websocket.is_none());
        let got = target(&plain, "ws://[::1]:8080/a/b?c");
        let websocket = got.route.websocket.unwrap();
        assert_eq!(
            (websocket.host.as_str(), websocket.path.as_str()),
            ("[::1]:8080", "/a/b?c")
        );
        let got = target(&args, "wss://h");
        assert_eq!(got.endpoint.to_string(), "h:443");
        assert_eq!(got.route.websocket.unwrap().host, "h");
        let got = target(&plain, "unix:///run/x");
        assert_eq!(got.endpoint, Endpoint::Unix("/run/x".into()));
    }

    #[test]
    fn flags_say_the_same() {
        let args = TransportArgs {
            ws: true,
            ..TransportArgs::default()
        };
        let got = Target::new(&args, None, Some("h".into()), Some(81), Version::V31).unwrap();
        let websocket = got.route.websocket.unwrap();
        assert_eq!(
            (websocket.host.as_str(), websocket.path.as_str()),
            ("h:81", "/mqtt")
        );
        assert_eq!(websocket.protocol, "mqttv3.1");
        let args = TransportArgs {
            insecure: true,
            ..TransportArgs::default()
        };
        assert!(
            Target::new(&args, None, None, None, Version::V5)
                .unwrap_err()
                .contains("--tls")
        );
        let args = TransportArgs {
            cafile: Some("/nowhere/ca.crt".into()),
            ..TransportArgs::default()
        };
        assert!(
            Target::new(&args, None, None, None, Version::V5)
                .unwrap_err()
                .contains("/nowhere/ca.crt")
        );
    }
}
