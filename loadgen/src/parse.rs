//! Words of the command line that are numbers with units, addresses, stages or texts, and what each may be at most: nothing behind
//! the command line has to ask whether a number overflows or a text fits into a packet.

use crate::given::Secret;
use crate::schedule::{Profile, Stage};
use ringmq::client::url::{self, Url};
use ringmq::protocol::text::STRING_BYTES_MAX;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Source addresses that a list of networks may hold; each is 17 bytes.
const ADDRESSES_MAX: usize = 1 << 20;
/// The longest duration; what is longer is a typing error.
pub const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The highest rate, per second.
pub const RATE_MAX: f64 = 1e9;
/// Bytes of a prefix: a subscription may hold it twice, with numbers and levels added.
const PREFIX_BYTES_MAX: usize = 32_000;

/// Addresses to connect from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

/// Reads addresses and IPv4 networks, separated by commas: `127.0.0.2,127.1.0.0/16`.
pub fn addresses(text: &str) -> Result<Addresses, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let Some((network, bits)) = part.split_once('/') else {
            all.push(
                part.parse()
                    .map_err(|_| format!("{part} is not an IP address"))?,
            );
            continue;
        };
        let network: Ipv4Addr = network
            .parse()
            .map_err(|_| format!("{network} is not an IPv4 address"))?;
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| (8..=32).contains(bits))
            .ok_or_else(|| format!("{part}: the prefix must be of 8 to 32 bits"))?;
        let size = 1_u64 << (32 - bits);
        let first = u64::from(u32::from(network)) & !(size - 1);
        // The first and the last address of a real network are not hosts.
        let hosts = if bits >= 31 { 0..size } else { 1..size - 1 };
        // A network as large as 127.0.0.0/8 is welcome; nobody needs all of it.
        let room = ADDRESSES_MAX.saturating_sub(all.len());
        let host = |number| IpAddr::from(Ipv4Addr::from((first + number) as u32));
        all.extend(hosts.take(room).map(host));
    }
    Ok(Addresses(all))
}

/// Reads a percentage such as `5` or `2.5%`.
///
/// Errors: it is none, or beyond 1,000.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a percentage"))?;
    if (0.0..=1_000.0).contains(&number) {
        Ok(number)
    } else {
        Err("a threshold is at least 0 % and at most 1,000 %".into())
    }
}

/// Reads a duration such as `500ms`, `10s`, `2m`, `1h`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("{unit} is not one of us, ms, s, m, h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a duration"))?;
    let seconds = number * scale;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(format!("{text} is longer than a week, 168h"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Reads a number of milliseconds, as emqtt-bench takes them.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number of milliseconds"))?;
    let interval = Duration::from_millis(number);
    if interval > DURATION_MAX {
        let most = DURATION_MAX.as_millis();
        return Err(format!("{text} ms are longer than a week, {most}"));
    }
    Ok(interval)
}

/// Reads a text that goes into a packet, such as a User Name.
///
/// Errors: it is too long (MQTT 5 §1.5.4).
pub fn string(text: &str) -> Result<String, String> {
    fits(text, STRING_BYTES_MAX)
}

/// Reads a Password.
///
/// Errors: it is too long (MQTT 5 §1.5.6).
pub fn password(text: &str) -> Result<Secret, String> {
    string(text).map(Secret::from)
}

/// Reads where a broker is, and perhaps who connects.
///
/// Errors: it is no URL, or who connects does not fit into a packet.
pub fn broker_url(text: &str) -> Result<Url, String> {
    let url = url::parse(text)?;
    for part in [&url.username, &url.password].into_iter().flatten() {
        string(part)?;
    }
    Ok(url)
}

/// Reads what Client Identifiers and topics begin with.
///
/// Errors: it is too long, or has a wildcard, which no Topic Name may have.
pub fn prefix(text: &str) -> Result<String, String> {
    if text.contains(['+', '#']) {
        return Err("topics begin with it: + and # cannot be in it".into());
    }
    fits(text, PREFIX_BYTES_MAX)
}

/// A text, when it has at most so many bytes.
fn fits(text: &str, bytes_max: usize) -> Result<String, String> {
    if text.len() <= bytes_max {
        Ok(text.to_owned())
    } else {
        let bytes = text.len();
        Err(format!(
            "it has {bytes} bytes; at most {bytes_max} can be sent"
        ))
    }
}

/// Reads a number per second such as `250`, `50k`, `1.5M`; not zero.
pub fn rate(text: &str) -> Result<f64, String> {
    match rate_or_zero(text) {
        Ok(0.0) => Err("a rate is at least 0.001".into()),
        other => other,
    }
}

/// Reads a number per second, or zero.
pub fn rate_or_zero(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let (number, scale) = match number.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => number
            .strip_suffix(['m', 'M'])
            .map_or((number, 1.0), |number| (number, 1e6)),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a rate"))?;
    let rate = number * scale;
    if rate == 0.0 || (0.001..=RATE_MAX).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate is at least 0.001 and at most 1,000,000,000 per second".into())
    }
}

/// Reads a ramp such as `0..100k@5k/s`: from, to, and by how much in each second.
pub fn ramp(text: &str) -> Result<Profile, String> {
    let wrong = || format!("{text} is not a ramp such as 0..100k@5k/s");
    let (from, rest) = text.split_once("..").ok_or_else(wrong)?;
    let (to, step) = rest.split_once('@').ok_or_else(wrong)?;
    let (from, to, step) = (rate_or_zero(from)?, rate_or_zero(to)?, rate(step)?);
    if from == to {
        return Err(format!("{text} goes nowhere"));
    }
    let seconds = (to - from).abs() / step;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(format!("{text} takes longer than a week"));
    }
    let duration = Duration::from_secs_f64(seconds);
    Ok(Profile::stages(from, &[Stage { duration, to }]))
}

/// Reads stages such as `1m:1k/s,5m:50k/s,1m:0`: in each the rate goes straight from where it is (at first 0)
/// to the one named, in the time named. A stage of `0s` is a jump.
pub fn stages(text: &str) -> Result<Profile, String> {
    let stage = |part: &str| {
        let (time, to) = part
            .split_once(':')
            .ok_or_else(|| format!("{part} is not a stage such as 5m:50k/s"))?;
        let (duration, to) = (duration(time)?, rate_or_zero(to)?);
        Ok(Stage { duration, to })
    };
    let stages = text
        .split(',')
        .map(stage)
        .collect::<Result<Vec<_>, String>>()?;
    let profile = Profile::stages(0.0, &stages);
    if profile.duration() > Some(DURATION_MAX) {
        return Err(format!("{text} takes longer than a week"));
    }
    if profile.messages() < 1.0 {
        return Err(format!("{text} sends nothing"));
    }
    Ok(profile)
}

/// Reads a part such as `0.25` or `25%`.
pub fn part(text: &str) -> Result<f64, String> {
    let (number, scale) = text
        .strip_suffix('%')
        .map_or((text, 1.0), |number| (number, 0.01));
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a part such as 0.25 or 25%"))?;
    let part = number * scale;
    if (0.0..=1.0).contains(&part) {
        Ok(part)
    } else {
        Err("a part is between 0 and 1".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5x").is_err() && duration("s").is_err() && duration("-1s").is_err());
        for (longest, more) in [("168h", "168.1h"), ("604800s", "9999999h")] {
            assert_eq!(duration(longest), Ok(DURATION_MAX));
            assert!(duration(more).unwrap_err().contains("168h"), "{more}");
        }
        assert_eq!(milliseconds("10"), Ok(Duration::from_millis(10)));
        assert_eq!(milliseconds("604800000"), Ok(DURATION_MAX));
        assert!(milliseconds("604800001").unwrap_err().contains("604800000"));
        assert_eq!(rate("50k"), Ok(50_000.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(rate("250/s"), Ok(250.0));
        assert!(rate("0").is_err() && rate("fast").is_err() && rate("NaN").is_err());
        assert_eq!((part("25%"), part("1")), (Ok(0.25), Ok(1.0)));
        assert!(part("101%").is_err() && part("-0.1").is_err() && part("x").is_err());
    }

    #[test]
    fn texts_fit_into_a_packet() {
        let long = "x".repeat(STRING_BYTES_MAX);
        assert!(string(&long).is_ok() && password(&long).is_ok());
        assert!(string(&(long + "x")).unwrap_err().contains("65535"));
        assert!(prefix(&"x".repeat(PREFIX_BYTES_MAX)).is_ok());
        assert!(prefix(&"x".repeat(PREFIX_BYTES_MAX + 1)).is_err());
        assert!(prefix("a/b").is_ok() && prefix("a+").is_err() && prefix("#").is_err());
    }

    #[test]
    fn source_addresses() {
        let parsed = addresses("127.0.0.2,127.0.1.0/30").unwrap().0;
        let shown: Vec<_> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.2", "127.0.1.1", "127.0.1.2"]);
        assert_eq!(addresses("127.0.0.9/32").unwrap().0.len(), 1);
        assert_eq!(addresses("127.0.0.0/16").unwrap().0.len(), 65_534);
        assert_eq!(addresses("127.0.0.0/8").unwrap().0.len(), ADDRESSES_MAX);
        assert!(addresses("127.0.0.0/7").is_err() && addresses("localhost").is_err());
    }

    #[test]
    fn ramps_and_stages() {
        let profile = ramp("0..100k@5k/s").unwrap();
        assert_eq!(profile.duration(), Some(Duration::from_secs(20)));
        assert_eq!(profile.messages(), 1e6);
        assert_eq!(ramp("100..0@10").unwrap().messages(), 500.0);
        for wrong in ["1..1@1", "1..2", "1@2", "0..1M@0", "0..1M@0.001"] {
            assert!(ramp(wrong).is_err(), "{wrong}");
        }
        let profile = stages("1m:1k/s,5m:50k/s,1m:0").unwrap();
        assert_eq!(profile.duration(), Some(Duration::from_secs(420)));
        assert_eq!(profile.messages(), 30e3 + 300.0 * 25_500.0 + 60.0 * 25e3);
        let jump = stages("0s:1k,10s:1k").unwrap();
        assert_eq!(jump.messages(), 10e3);
        for wrong in [
            "",
            "1m",
            "1m:x",
            "10s:0",
            "5k:1m",
            "200h:1",
            "100h:1,100h:1",
        ] {
            assert!(stages(wrong).is_err(), "{wrong}");
        }
    }
}
