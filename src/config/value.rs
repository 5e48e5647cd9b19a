//! Values as people write them: "8MiB", "24h", "infinity", or a plain integer.

/// What a number counts, which decides the suffixes it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things; no suffix.
    Count,
    /// Bytes, with `KiB`, `MiB`, `GiB` (powers of 1024) or `kB`, `MB`, `GB` (powers of 1000).
    Bytes,
    /// A time kept in milliseconds, with `ms`, `s`, `m`, `h` or `d`; a plain integer is seconds.
    Milliseconds,
    /// A time kept in seconds, with `s`, `m`, `h` or `d`; a plain integer is seconds.
    Seconds,
}

const BYTE_SUFFIXES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
const TIME_SUFFIXES_MS: &[(&str, u64)] = &[
    ("ms", 1),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
];

impl Unit {
    /// What a value in this unit is, for an error.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Count => "a whole number",
            Self::Bytes => "a size such as 65536, \"64KiB\" or \"8MiB\"",
            Self::Milliseconds | Self::Seconds => "a time such as \"500ms\", \"10s\" or \"24h\"",
        }
    }

    /// Reads a number in this unit.
    ///
    /// Errors: a sentence without the key, such as "`8 parsecs` is not a size".
    pub(super) fn parse(self, text: &str) -> Result<u64, String> {
        let bad = || format!("`{text}` is not {}", self.wanted());
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '_')
            .unwrap_or(trimmed.len());
        let (digits, suffix) = trimmed.split_at(digits_end);
        let number: u64 = digits.replace('_', "").parse().map_err(|_| bad())?;
        let suffix = suffix.trim_start();
        let (multiplier, divisor) = match (self, suffix) {
            (Self::Count | Self::Bytes, "") => (1, 1),
            (Self::Count, _) => return Err(bad()),
            (Self::Milliseconds, "") => (1_000, 1),
            (Self::Seconds, "") => (1, 1),
            (Self::Bytes, _) => (multiplier_of(BYTE_SUFFIXES, suffix).ok_or_else(bad)?, 1),
            (Self::Milliseconds, _) => {
                (multiplier_of(TIME_SUFFIXES_MS, suffix).ok_or_else(bad)?, 1)
            }
            (Self::Seconds, _) => (
                multiplier_of(TIME_SUFFIXES_MS, suffix).ok_or_else(bad)?,
                1_000,
            ),
        };
        let scaled = number.checked_mul(multiplier).ok_or_else(bad)?;
        if scaled % divisor != 0 {
            return Err(format!("`{text}` is not a whole number of seconds"));
        }
        Ok(scaled / divisor)
    }

    /// Writes a number in this unit, with the largest suffix that keeps it whole.
    pub(super) fn format(self, number: u64) -> String {
        let (suffixes, scale) = match self {
            Self::Count => return number.to_string(),
            Self::Bytes => (&BYTE_SUFFIXES[..3], 1),
            Self::Milliseconds => (TIME_SUFFIXES_MS, 1),
            Self::Seconds => (TIME_SUFFIXES_MS, 1_000),
        };
        if number == 0 {
            return if self == Self::Bytes {
                "0".into()
            } else {
                "0s".into()
            };
        }
        let Some(scaled) = number.checked_mul(scale) else {
            return number.to_string();
        };
        let best = suffixes
            .iter()
            .filter(|(_, n)| scaled % n == 0)
            .max_by_key(|(_, n)| *n);
        match best {
            Some((suffix, n)) => format!("{}{suffix}", scaled / n),
            None => number.to_string(),
        }
    }
}

/// The candidate closest to `text`, if it is close enough to be what was meant.
pub(super) fn closest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn multiplier_of(suffixes: &[(&str, u64)], suffix: &str) -> Option<u64> {
    suffixes
        .iter()
        .find(|(name, _)| *name == suffix)
        .map(|(_, multiplier)| *multiplier)
}

/// Edit distance in which two swapped neighbours count as one edit.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_suffixes() {
        for (unit, text, number) in [
            (Unit::Count, "42", 42),
            (Unit::Count, "1_000", 1_000),
            (Unit::Bytes, "65536", 65_536),
            (Unit::Bytes, "64KiB", 65_536),
            (Unit::Bytes, "8 MiB", 8 << 20),
            (Unit::Bytes, "2GB", 2_000_000_000),
            (Unit::Milliseconds, "2", 2_000),
            (Unit::Milliseconds, "250ms", 250),
            (Unit::Milliseconds, "1m", 60_000),
            (Unit::Seconds, "90", 90),
            (Unit::Seconds, "24h", 86_400),
            (Unit::Seconds, "5000ms", 5),
        ] {
            assert_eq!(unit.parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for (unit, text) in [
            (Unit::Count, ""),
            (Unit::Count, "-1"),
            (Unit::Count, "1k"),
            (Unit::Bytes, "8 parsecs"),
            (Unit::Bytes, "1.5MiB"),
            (Unit::Bytes, "99999999999999999GiB"),
            (Unit::Seconds, "1500ms"),
            (Unit::Seconds, "infinity"),
            (Unit::Milliseconds, "ten"),
        ] {
            assert!(unit.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for unit in [Unit::Count, Unit::Bytes, Unit::Milliseconds, Unit::Seconds] {
            for number in [
                0,
                1,
                1_000,
                1_024,
                1_500,
                60_000,
                86_400,
                8 << 20,
                u64::from(u32::MAX),
            ] {
                let text = unit.format(number);
                assert_eq!(unit.parse(&text), Ok(number), "{unit:?} {text}");
            }
        }
        assert_eq!(Unit::Bytes.format(8 << 20), "8MiB");
        assert_eq!(Unit::Seconds.format(86_400), "1d");
        assert_eq!(Unit::Milliseconds.format(10_000), "10s");
    }

    #[test]
    fn the_closest_word_is_found_and_a_far_one_is_not() {
        let words = ["packet-bytes-max", "queue-bytes-max", "cores"];
        assert_eq!(closest("pakcet-bytes-max", words), Some("packet-bytes-max"));
        assert_eq!(closest("core", words), Some("cores"));
        assert_eq!(closest("Cores", words), Some("cores"));
        assert_eq!(closest("websocket", words), None);
    }
}
