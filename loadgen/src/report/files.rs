//! The directory of a run: written with `--out`, read by `report` and `compare`.

use crate::hlog::{IntervalLog, percentile_distribution, total};
use crate::report::provenance::{Provenance, from_utc};
use crate::report::{Summary, charts, html};
use crate::timeline::{Timeline, Trouble};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A run as its directory holds it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The directory as it was named.
    pub name: String,
    /// Its summary.
    pub summary: Summary,
    /// What was run, and on what.
    pub provenance: Provenance,
    /// Its seconds; none where the load is a row of steps.
    pub seconds: Vec<Row>,
    /// Its histograms by second.
    pub log: IntervalLog,
}

/// A second of a run, as a row of `timeline.csv` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// Which second; 0 is the first of the measured interval.
    pub second: i64,
    /// Whether all of it is of the measured interval.
    pub is_measured: bool,
    /// Whether it is the last one and only in part of the measured interval.
    pub is_end: bool,
    /// Messages written.
    pub published: f64,
    /// Messages received.
    pub delivered: f64,
    /// Latencies in µs; `None` where no message was received that counts.
    pub p50_us: Option<f64>,
    /// See `p50_us`.
    pub p99_us: Option<f64>,
    /// See `p50_us`.
    pub max_us: Option<f64>,
    /// The send lag's 99th percentile in µs.
    pub send_lag_p99_us: Option<f64>,
    /// What went wrong, in the order of [`Trouble::REASONS`].
    pub trouble: [f64; 7],
    /// Cores that the generator kept busy.
    pub generator_cores: Option<f64>,
    /// Cores that the broker kept busy.
    pub broker_cores: Option<f64>,
    /// The broker's resident bytes.
    pub broker_rss_bytes: Option<f64>,
}

/// Writes all files of a run, the report among them.
///
/// Errors: in plain words, what could not be written.
pub fn write(
    directory: &Path,
    summary: &Summary,
    provenance: &Provenance,
    timeline: &Timeline,
) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let mut provenance = provenance.clone();
    provenance.run.valid = summary.valid;
    provenance
        .run
        .invalid_because
        .clone_from(&summary.invalid_because);
    let json = serde_json::to_string_pretty(summary).expect("a summary has only string keys");
    save(directory, "summary.json", &format!("{json}\n"))?;
    let toml = toml::to_string_pretty(&provenance).expect("its keys are strings");
    save(directory, "run.toml", &toml)?;
    let csv = timeline.csv(summary.measured_s, summary.valid);
    save(directory, "timeline.csv", &csv)?;
    let invalid = summary.invalid_because.iter();
    let comments: Vec<_> = invalid.map(|why| format!("INVALID: {why}")).collect();
    let measure_at = from_utc(&provenance.run.measured_at).unwrap_or(UNIX_EPOCH);
    let log = timeline.log().text(measure_at, &comments);
    save(directory, "latency.hlog", &log)?;
    if !timeline.latency().is_empty() {
        let hgrm = percentile_distribution(timeline.latency(), &comments);
        save(directory, "latency.hgrm", &hgrm)?;
    }
    write_report(directory, &directory.join("report.html"))
}

/// Makes the report of one run and its plots again from its other files.
///
/// Errors: in plain words, what could not be read or written.
fn write_report(directory: &Path, report: &Path) -> Result<(), String> {
    let runs = [Recorded::read(directory)?];
    for (name, svg) in charts::plots(&runs) {
        save(directory, &format!("{name}.svg"), &svg)?;
    }
    fs::write(report, html::page(&runs)).map_err(|error| failed(report, &error))
}

/// Makes the report of one run again, or lays several over each other; returns where the report is.
///
/// Errors: in plain words, what could not be read or written.
pub fn rebuild(directories: &[PathBuf], out: Option<&Path>) -> Result<PathBuf, String> {
    if let [directory] = directories {
        let report = out.map_or_else(|| directory.join("report.html"), Path::to_owned);
        write_report(directory, &report)?;
        return Ok(report);
    }
    let read = |directory: &PathBuf| Recorded::read(directory);
    let mut runs: Vec<_> = directories.iter().map(read).collect::<Result<_, _>>()?;
    for (run, name) in runs.iter_mut().zip(short_names(directories)) {
        run.name = name;
    }
    let report = out.unwrap_or_else(|| Path::new("report.html"));
    fs::write(report, html::page(&runs)).map_err(|error| failed(report, &error))?;
    Ok(report.to_owned())
}

/// The names of directories without what all of them begin with.
fn short_names(directories: &[PathBuf]) -> Vec<String> {
    let is_common = |depth: usize| {
        let mut parts = directories.iter().map(|one| one.components().nth(depth));
        let first = parts.next().flatten();
        first.is_some() && parts.all(|part| part == first)
    };
    let common = (0..).take_while(|depth| is_common(*depth)).count();
    let short = |one: &PathBuf| one.components().skip(common).collect::<PathBuf>();
    directories
        .iter()
        .map(|one| match short(one) {
            // The same one twice, or one within the other.
            path if path.as_os_str().is_empty() => one.display().to_string(),
            path => path.display().to_string(),
        })
        .collect()
}

impl Recorded {
    /// Reads a directory.
    ///
    /// Errors: in plain words, what of it is missing or damaged.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|error| failed(&path, &error))
        };
        let wrong =
            |name: &str, error: String| format!("{}: {error}", directory.join(name).display());
        let summary = serde_json::from_str(&text("summary.json")?)
            .map_err(|error| wrong("summary.json", error.to_string()))?;
        let provenance = toml::from_str(&text("run.toml")?)
            .map_err(|error| wrong("run.toml", error.to_string()))?;
        let seconds = rows(&text("timeline.csv")?).map_err(|error| wrong("timeline.csv", error))?;
        let log = IntervalLog::parse(&text("latency.hlog")?)
            .map_err(|error| wrong("latency.hlog", error))?;
        Ok(Self {
            name: directory.display().to_string(),
            summary,
            provenance,
            seconds,
            log,
        })
    }

    /// All latencies, in ns.
    pub fn latency(&self) -> Histogram<u64> {
        total(&self.log.latency)
    }

    /// All send lags, in ns.
    pub fn send_lag(&self) -> Histogram<u64> {
        total(&self.log.send_lag)
    }
}

fn save(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| failed(&path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Reads `timeline.csv`; columns are found by their names.
fn rows(csv: &str) -> Result<Vec<Row>, String> {
    let mut lines = csv.lines();
    let header = lines.next().ok_or("it is empty")?;
    let columns: HashMap<&str, usize> = header.split(',').zip(0..).collect();
    let row = |(number, line): (usize, &str)| {
        let fields: Vec<&str> = line.split(',').collect();
        let text = |name: &str| columns.get(name).and_then(|at| fields.get(*at)).copied();
        let value = |name: &str| match text(name) {
            None | Some("") => Ok(None),
            Some(text) => {
                let wrong = || format!("line {}: {text} is not a number", number + 2);
                text.parse().map(Some).map_err(|_| wrong())
            }
        };
        let count = |name: &str| value(name).map(Option::unwrap_or_default);
        let second = text("second").and_then(|text| text.parse().ok());
        let mut trouble = [0.0; 7];
        for (into, reason) in trouble.iter_mut().zip(Trouble::REASONS) {
            *into = count(reason)?;
        }
        Ok(Row {
            second: second.ok_or_else(|| format!("line {} has no second", number + 2))?,
            is_measured: text("phase") == Some("measured"),
            is_end: text("phase") == Some("end"),
            published: count("published")?,
            delivered: count("delivered")?,
            p50_us: value("p50_us")?,
            p99_us: value("p99_us")?,
            max_us: value("max_us")?,
            send_lag_p99_us: value("send_lag_p99_us")?,
            trouble,
            generator_cores: value("generator_cores")?,
            broker_cores: value("broker_cores")?,
            broker_rss_bytes: value("broker_rss_bytes")?,
        })
    };
    lines.enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_what_tells_them_apart() {
        let names = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
            short_names(&paths)
        };
        assert_eq!(names(&["/a/b/one", "/a/b/two"]), ["one", "two"]);
        assert_eq!(names(&["one/x", "two/x"]), ["one/x", "two/x"]);
        assert_eq!(names(&["a/b", "a/b"]), ["a/b", "a/b"]);
    }

    #[test]
    fn rows_are_found_by_the_names_of_their_columns() {
        let csv = "delivered,second,phase,p50_us,corrupt\n5,-1,warm-up,,0\n7,0,measured,1.5,2\n";
        let rows = rows(csv).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].second, rows[0].p50_us), (-1, None));
        assert_eq!((rows[1].delivered, rows[1].p50_us), (7.0, Some(1.5)));
        assert!(rows[1].is_measured && rows[1].trouble.contains(&2.0));
        assert!(super::rows("").is_err());
        let told = super::rows("second,published\n0,many\n").unwrap_err();
        assert!(told.contains("line 2") && told.contains("many"), "{told}");
    }
}
