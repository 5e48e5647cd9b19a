//! One listener, as an operator describes it: where it listens, what is spoken there and who may come.
//!
//! Plain data. `net::listener` binds it, `net::transport` loads the files it names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The transports of a listener, from the socket up: TCP or a unix socket, then a PROXY header, TLS, WebSocket,
/// each if it is there, then MQTT.
///
/// `ListenerSpec::tcp(name, address)` is plain MQTT with nothing special; everything else is set field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Its name in the configuration; for the log and for what is counted.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// TLS; none is clear text.
    pub tls: Option<TlsSpec>,
    /// WebSocket; none is MQTT without frames.
    pub websocket: Option<WebSocketSpec>,
    /// A PROXY header, version 1 or 2, before anything else; none is not looked for.
    pub proxy: Option<ProxySpec>,
    /// Networks that may connect; empty lets all in. Without effect on a unix socket, whose mode decides.
    /// Looked at when the connection is accepted; behind a trusted proxy it is the address that the proxy names, and
    /// looked at when that is known.
    pub allow: Vec<Network>,
    /// Networks that may not, even when `allow` names them.
    pub deny: Vec<Network>,
    /// Options of its TCP sockets.
    pub tcp: TcpSpec,
    /// How clients prove who they are. Never none on a listener that other machines can reach: the configuration
    /// is refused. None on any other lets everybody in.
    pub auth: Option<AuthMethod>,
    /// Connections through it at a time; `u32::MAX` is no limit.
    pub connections_max: u32,
}

/// How clients of a listener prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Not at all.
    Anonymous,
    /// With a User Name and a Password.
    Password,
    /// With a certificate.
    Certificate,
    /// With a JSON Web Token in place of the Password.
    Jwt,
    /// As a service that is asked over HTTP says.
    Http,
}

impl ListenerSpec {
    /// Plain MQTT on a TCP address.
    pub fn tcp(name: impl Into<String>, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            bind: Bind::Tcp(address),
            tls: None,
            websocket: None,
            proxy: None,
            allow: Vec::new(),
            deny: Vec::new(),
            tcp: TcpSpec::default(),
            auth: None,
            connections_max: u32::MAX,
        }
    }

    /// Whether a peer with this address may connect.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(peer));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }

    /// Whether everybody is let in without a proof of who they are.
    pub fn is_open(&self) -> bool {
        matches!(self.auth, None | Some(AuthMethod::Anonymous))
    }

    /// Whether only this machine can reach it: a loopback address or a unix socket.
    pub fn is_local_only(&self) -> bool {
        match &self.bind {
            Bind::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Bind::Unix { .. } => true,
        }
    }

    /// The scheme of its URL: `mqtt`, `mqtts`, `ws`, `wss` or `unix`.
    pub fn scheme(&self) -> &'static str {
        match (&self.bind, &self.tls, &self.websocket) {
            (Bind::Unix { .. }, None, None) => "unix",
            (_, None, None) => "mqtt",
            (_, Some(_), None) => "mqtts",
            (_, None, Some(_)) => "ws",
            (_, Some(_), Some(_)) => "wss",
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Its file; a socket that nobody listens on is replaced, anything else is an error.
        path: PathBuf,
        /// The permission bits of the file, such as 0o660.
        mode: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The TLS of a listener. All files are PEM and are read again on SIGHUP and when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The server's certificates, at least one. A client's Server Name picks the first one that is valid for it;
    /// the first of all is for clients that name no server, or none of these.
    pub certificates: Vec<CertificateSpec>,
    /// Whether clients show certificates.
    pub client_certificate: ClientCertificate,
    /// The authorities of client certificates; at least one file when these are asked for.
    pub client_ca: Vec<PathBuf>,
    /// Lists of revoked certificates. When there are any, every authority in a client's chain except the root
    /// needs a list that is in date, or the client is refused.
    pub crl: Vec<PathBuf>,
    /// What of a client's certificate is its User Name.
    pub username_from: CertificateName,
    /// The oldest version that is spoken.
    pub version_min: TlsVersion,
}

impl TlsSpec {
    /// The key of the configuration that names the file `path`; where none does, the one without which there is no TLS.
    pub fn key_of(&self, path: &Path) -> &'static str {
        let names = |paths: &[PathBuf]| paths.iter().any(|it| it == path);
        // Both may be in one file.
        let is_key = |pair: &CertificateSpec| pair.key == path && pair.certificate != path;
        if self.certificates.iter().any(is_key) {
            "tls.key-file"
        } else if names(&self.client_ca) {
            "tls.client-ca-file"
        } else if names(&self.crl) {
            "tls.crl-file"
        } else {
            "tls.certificate-file"
        }
    }
}

/// A chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSpec {
    /// The certificate, followed by those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not asked.
    #[default]
    None,
    /// They may; a certificate that is not valid is refused even so.
    Optional,
    /// They must.
    Required,
}

/// What of a client's certificate becomes its User Name, in place of CONNECT's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateName {
    /// Nothing.
    #[default]
    None,
    /// The last Common Name of the subject.
    CommonName,
    /// The first Subject Alternative Name that is an e-mail address, a DNS name or a URI.
    SubjectAlternativeName,
    /// The whole subject as RFC 2253 writes it: `CN=sensor,O=Plant`.
    DistinguishedName,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    V12,
    /// 1.3.
    V13,
}

/// The WebSocket of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebSocketSpec {
    /// Paths that are served, such as `/mqtt`; empty is any.
    pub paths: Vec<String>,
    /// Origins of pages that may connect, such as `https://example.org`; empty is any. A request without an
    /// Origin does not come from a page and is let in.
    pub origins: Vec<String>,
    /// Proxies whose X-Forwarded-For is believed; empty believes nobody.
    pub trusted_proxies: Vec<Network>,
}

/// The PROXY header of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySpec {
    /// Proxies. Their connections must begin with the header; connections from elsewhere are closed. On a unix
    /// socket everyone who can open it is a proxy.
    pub trusted: Vec<Network>,
}

/// Options of TCP sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSpec {
    /// Seconds of silence after which the kernel probes whether the peer is there; then three probes, a tenth of
    /// that apart. None never does.
    pub keepalive_s: Option<u32>,
    /// Milliseconds that sent bytes may stay unacknowledged before the kernel ends the connection. None leaves it
    /// to the kernel, which takes about 15 minutes.
    pub user_timeout_ms: Option<u32>,
    /// Whether `[::]` takes IPv4 connections too.
    pub dual_stack: bool,
}

impl Default for TcpSpec {
    fn default() -> Self {
        Self {
            keepalive_s: Some(300),
            user_timeout_ms: None,
            dual_stack: false,
        }
    }
}

/// A network in CIDR notation: `10.0.0.0/8`, `2001:db8::/32`, or one address.
///
/// An IPv4 address that came over a dual-stack socket counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether the address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = mask(self.prefix_bits, 32) as u32;
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = mask(self.prefix_bits, 128);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// The mask of a prefix in the low `width` bits.
fn mask(prefix_bits: u8, width: u8) -> u128 {
    let host_bits = u32::from(width - prefix_bits);
    u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network such as 10.0.0.0/8 or fd00::/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) => bits.trim().parse().map_err(|_| wrong())?,
            None => width,
        };
        if prefix_bits > width {
            return Err(wrong());
        }
        let network = match address {
            IpAddr::V4(address) => {
                let bits = address.to_bits() & mask(prefix_bits, 32) as u32;
                IpAddr::from(Ipv4Addr::from_bits(bits))
            }
            IpAddr::V6(address) => IpAddr::from(Ipv6Addr::from_bits(
                address.to_bits() & mask(prefix_bits, 128),
            )),
        };
        // With bits of the host set, it is not said which of the two was meant.
        if network != address {
            return Err(format!(
                "`{text}` has bits beyond its prefix: {network}/{prefix_bits} is meant?"
            ));
        }
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_contain_what_shares_their_prefix() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("127.0.0.0/31", "127.0.0.1", "127.0.0.2"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        assert!(network("10.0.0.0/8").contains(mapped));
        assert_eq!(network("10.0.0.1").to_string(), "10.0.0.1/32");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "a/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn deny_wins_over_allow() {
        let mut spec = ListenerSpec::tcp("tcp", (Ipv4Addr::LOCALHOST, 0).into());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(spec.admits(address("8.8.8.8")) && spec.is_local_only());
        spec.allow = vec![network("10.0.0.0/8")];
        spec.deny = vec![network("10.1.0.0/16")];
        assert!(spec.admits(address("10.2.0.1")));
        assert!(!spec.admits(address("10.1.0.1")));
        assert!(!spec.admits(address("8.8.8.8")));
    }
}
