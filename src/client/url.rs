//! `mqtt://[user[:password]@]host[:port][/topic]` and the like, as `-L` takes it.

/// How a broker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `mqtt`: MQTT over TCP.
    Mqtt,
    /// `mqtts`: with TLS.
    Mqtts,
    /// `ws`: WebSocket.
    Ws,
    /// `wss`: WebSocket with TLS.
    Wss,
    /// `unix`: MQTT over a unix socket.
    Unix,
}

impl Scheme {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "mqtt" | "tcp" => Self::Mqtt,
            "mqtts" | "ssl" => Self::Mqtts,
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            "unix" => Self::Unix,
            _ => return None,
        })
    }

    /// Whether there is TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether there is a WebSocket.
    pub fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// What a URL says; what it leaves out is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How the broker is spoken to.
    pub scheme: Scheme,
    /// The User Name.
    pub username: Option<String>,
    /// The Password.
    pub password: Option<String>,
    /// The host; with [`Scheme::Unix`] the socket's file.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// What follows the host, without the first slash: a topic, or with a WebSocket its path.
    pub path: Option<String>,
}

/// Reads a URL; the parts may be percent-encoded.
///
/// Errors: a sentence for the user.
pub fn parse(text: &str) -> Result<Url, String> {
    let parts = text.split_once("://");
    let Some((scheme, rest)) = parts.and_then(|(word, rest)| Some((Scheme::parse(word)?, rest)))
    else {
        return Err(format!(
            "`{text}` is no URL of the form mqtt://host:port/topic (or mqtts, ws, wss, unix)"
        ));
    };
    if scheme == Scheme::Unix {
        if !rest.starts_with('/') {
            return Err(format!("`{text}` names no file: unix:///path/to/socket"));
        }
        return Ok(Url {
            scheme,
            username: None,
            password: None,
            host: decode(rest)?,
            port: None,
            path: None,
        });
    }
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path).filter(|path| !path.is_empty())),
        None => (rest, None),
    };
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let (host, port) = match address.rsplit_once(':') {
        // The colons within brackets belong to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => {
            let port = port
                .parse()
                .map_err(|_| format!("`{port}` is no port in `{text}`"))?;
            (host, Some(port))
        }
        _ => (address, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(format!("`{text}` names no host"));
    }
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        Some((name, "")) => (Some(decode(name)?), None),
        Some((name, password)) => (Some(decode(name)?), Some(decode(password)?)),
        None => (None, None),
    };
    // The path of a WebSocket goes into the request as it is.
    let path = match path {
        Some(path) if scheme.has_websocket() => Some(path.to_owned()),
        path => path.map(decode).transpose()?,
    };
    Ok(Url {
        scheme,
        username,
        password,
        host: decode(host)?,
        port,
        path,
    })
}

fn decode(text: &str) -> Result<String, String> {
    let bad = || format!("`{text}` is not percent-encoded text");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (
            digit(rest.next()).ok_or_else(bad)?,
            digit(rest.next()).ok_or_else(bad)?,
        );
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_may_be_left_out_but_the_host() {
        let full = parse("mqtt://me:p%40ss@broker:1884/a/b%20c").unwrap();
        assert_eq!(
            full,
            Url {
                scheme: Scheme::Mqtt,
                username: Some("me".into()),
                password: Some("p@ss".into()),
                host: "broker".into(),
                port: Some(1884),
                path: Some("a/b c".into()),
            }
        );
        let least = parse("mqtt://[::1]").unwrap();
        assert_eq!(
            (least.host.as_str(), least.port, least.path),
            ("::1", None, None)
        );
        assert_eq!(parse("mqtt://[::1]:5/").unwrap().port, Some(5));
    }

    #[test]
    fn every_transport_has_its_scheme() {
        for (text, scheme) in [
            ("mqtt://h", Scheme::Mqtt),
            ("mqtts://h", Scheme::Mqtts),
            ("ws://h", Scheme::Ws),
            ("wss://h", Scheme::Wss),
        ] {
            assert_eq!(parse(text).unwrap().scheme, scheme);
        }
        let socket = parse("unix:///run/a%20b").unwrap();
        assert_eq!(
            (socket.scheme, socket.host.as_str()),
            (Scheme::Unix, "/run/a b")
        );
        assert_eq!(
            parse("ws://h:1/a%20b?c").unwrap().path.as_deref(),
            Some("a%20b?c")
        );
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "broker",
            "http://broker",
            "unix://socket",
            "mqtt://",
            "mqtt://h:x",
            "mqtt://h/%zz",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
