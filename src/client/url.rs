//! `mqtt://[user[:password]@]host[:port][/topic]`, as `-L` takes it.

/// What a URL says; what it leaves out is `None`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) topic: Option<String>,
}

/// Reads a URL; the parts may be percent-encoded.
///
/// Errors: a sentence for the user.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let rest = match text.split_once("://") {
        Some(("mqtt", rest)) => rest,
        Some(("mqtts", _)) => {
            return Err("mqtts:// needs TLS, which ringmq does not have yet".into());
        }
        _ => {
            return Err(format!(
                "`{text}` is no URL of the form mqtt://host:port/topic"
            ));
        }
    };
    let (authority, topic) = match rest.split_once('/') {
        Some((authority, topic)) => (authority, Some(topic).filter(|topic| !topic.is_empty())),
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
    let topic = topic.map(decode).transpose()?;
    Ok(Url {
        username,
        password,
        host: decode(host)?,
        port,
        topic,
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
                username: Some("me".into()),
                password: Some("p@ss".into()),
                host: "broker".into(),
                port: Some(1884),
                topic: Some("a/b c".into()),
            }
        );
        let least = parse("mqtt://[::1]").unwrap();
        assert_eq!(
            (least.host.as_str(), least.port, least.topic),
            ("::1", None, None)
        );
        assert_eq!(parse("mqtt://[::1]:5/").unwrap().port, Some(5));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "broker",
            "http://broker",
            "mqtts://broker",
            "mqtt://",
            "mqtt://h:x",
            "mqtt://h/%zz",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
