//! Numbers as people read them.

/// Microseconds with three digits and the unit that fits: `640 ns`, `41.2 µs`, `1.23 ms`, `12.0 s`.
pub fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us <= 0.0 => (0.0, "µs"),
        us if us < 0.999_5 => (us * 1e3, "ns"),
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Microseconds that are round, as on an axis: `500 ns`, `20 µs`, `1.5 ms`, `0`.
pub fn round_time(us: f64) -> String {
    let (value, unit) = match us {
        us if us <= 0.0 => return "0".into(),
        us if us < 0.999_5 => (us * 1e3, "ns"),
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {unit}", short(value))
}

/// A number with three digits, or all of them where it is large: `0.0123`, `4.21`, `57.3`, `1,234`.
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 0.009_995 => format!("{value:.4}"),
        size if size < 0.099_95 => format!("{value:.3}"),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => count(value),
    }
}

/// A whole number in groups of three: `1,234,567`.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 && digits != "0" {
        text.push('\u{2212}');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number for an axis or a headline, short: `950`, `20k`, `1.5M`.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 999_500_000.0 => (value / 1e9, "G"),
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 1_000.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// Bytes with three digits and a decimal unit: `812 B`, `12.3 MB`.
pub fn bytes(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size < 999.5 => return format!("{value:.0} B"),
        size if size < 999_500.0 => (value / 1e3, "kB"),
        size if size < 999_500_000.0 => (value / 1e6, "MB"),
        _ => (value / 1e9, "GB"),
    };
    format!("{} {unit}", digits(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let times = [
            0.0,
            0.64,
            41.23,
            999.4,
            999.6,
            1_234.0,
            999_600.0,
            12_000_000.0,
        ];
        let shown: Vec<_> = times.into_iter().map(time).collect();
        assert_eq!(
            shown,
            [
                "0 µs", "640 ns", "41.2 µs", "999 µs", "1.00 ms", "1.23 ms", "1.00 s", "12.0 s"
            ]
        );
        let shown: Vec<_> = [0.0, 0.5, 20.0, 1_500.0].map(round_time).into();
        assert_eq!(shown, ["0", "500 ns", "20 µs", "1.5 ms"]);
        let shown: Vec<_> = [0.0, 0.005, 4.206, 57.28, 99.96, 1_234_567.0]
            .map(digits)
            .into();
        assert_eq!(shown, ["0", "0.0050", "4.21", "57.3", "100", "1,234,567"]);
        assert_eq!([count(-1_234.4), count(-0.4)], ["\u{2212}1,234", "0"]);
        let shown: Vec<_> = [0.0, 0.5, 950.0, 20_000.0, 1_500_000.0, 999_700.0]
            .map(short)
            .into();
        assert_eq!(shown, ["0", "0.5", "950", "20k", "1.5M", "1M"]);
        assert_eq!(
            [bytes(812.0), bytes(12_345_678.0), bytes(4_096.0)],
            ["812 B", "12.3 MB", "4.10 kB"]
        );
    }
}
