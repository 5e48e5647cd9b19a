//! How a crowd grows: a row each second, with the memory of broker, generator and machine.
//!
//! `growth.csv` is written row by row, so that a run that breaks leaves what it was until then.

use crate::cli::Target;
use crate::format::count;
use crate::procfs::{MachineMemory, Watch};
use crate::report::Percentiles;
use crate::timeline::Timeline;
use crate::worker::{Interval, histogram};
use hdrhistogram::Histogram;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;

const SECOND_NS: u64 = 1_000_000_000;
const HEAD: &str = "second,step,connected,connects,connack_p50_us,connack_p99_us,connack_max_us,\
    published,delivered,p50_us,p99_us,max_us,broker_cpu_s,broker_rss_bytes,generator_rss_bytes,slab_bytes,\
    socket_bytes,free_bytes,tcp_sockets\n";

/// Writes a row each second.
pub struct Growth {
    /// The messages, second by second.
    pub timeline: Timeline,
    file: Option<File>,
    is_quiet: bool,
    goal: u32,
    start_ns: u64,
    second: u64,
    connected: u64,
    broker: Option<Watch>,
    generator: Option<Watch>,
}

/// What happened in a second.
pub struct Row {
    /// The step that the run is in.
    pub step: &'static str,
    /// Clients that are there.
    pub connected: u64,
    /// From the beginning of a connect to CONNACK, in ns.
    pub connect: Histogram<u64>,
    /// The messages.
    pub interval: Interval,
}

impl Row {
    /// Nothing so far.
    pub fn new(step: &'static str) -> Self {
        Self {
            step,
            connected: 0,
            connect: histogram(),
            interval: Interval::of(0),
        }
    }
}

impl Growth {
    /// Begins at `start_ns`, on the way to `goal` clients.
    ///
    /// Errors: the file cannot be written, or the broker's process cannot be looked at.
    pub fn new(target: &Target, goal: u32, start_ns: u64) -> Result<Self, String> {
        let file = match &target.out {
            None => None,
            Some(directory) => {
                let path = directory.join("growth.csv");
                let file = fs::create_dir_all(directory).and_then(|()| {
                    let mut file = File::create(&path)?;
                    file.write_all(HEAD.as_bytes())?;
                    Ok(file)
                });
                Some(file.map_err(|error| format!("{}: {error}", path.display()))?)
            }
        };
        let watch = |pid| Watch::of_tree(pid, start_ns).map_err(|error| error.to_string());
        Ok(Self {
            timeline: Timeline::default(),
            file,
            is_quiet: target.quiet,
            goal,
            start_ns,
            second: 0,
            connected: 0,
            broker: target.broker_pid.map(watch).transpose()?,
            generator: Some(watch(std::process::id())?),
        })
    }

    /// Writes the row of a second that is over, and begins the next.
    pub fn look(&mut self, row: &mut Row, now_ns: u64) {
        let second = now_ns.saturating_sub(self.start_ns) / SECOND_NS;
        if second > self.second {
            self.write(row, now_ns);
            self.second = second;
        }
    }

    /// Writes a row for the time since the last one.
    pub fn write(&mut self, row: &mut Row, now_ns: u64) {
        let broker = self.broker.as_mut().map(|watch| watch.look(now_ns));
        let generator = self.generator.as_mut().map(|watch| watch.look(now_ns));
        let number = self.second as i64;
        row.interval.second = number;
        self.timeline.add(&row.interval);
        self.timeline.note(number, generator, broker);
        let broker = broker.unwrap_or_default();
        let machine = MachineMemory::now();
        let connects = row.connected - self.connected;
        let mut line = format!("{number},{},{},{connects}", row.step, row.connected);
        put_times(&mut line, Percentiles::of(&row.connect));
        let interval = &row.interval;
        // Writing to a string cannot fail.
        let _ = write!(line, ",{},{}", interval.published, interval.delivered);
        put_times(&mut line, Percentiles::of(&interval.latency));
        let _ = writeln!(
            line,
            ",{},{},{},{},{},{},{}",
            broker.cpu_ns as f64 / 1e9,
            broker.rss_bytes,
            generator.unwrap_or_default().rss_bytes,
            machine.slab_bytes,
            machine.socket_bytes,
            machine.free_bytes,
            machine.tcp_sockets,
        );
        if let Some(file) = &mut self.file {
            // A disk that is full is no reason to end the run; the summary, written last, tells of it.
            let _ = file.write_all(line.as_bytes());
        }
        if !self.is_quiet {
            eprintln!(
                "{:>4} s  {}  {} of {} connected, {connects}/s  {} msg/s  broker {:.1} MB, kernel slab {:.1} MB",
                self.second,
                row.step,
                count(row.connected as f64),
                count(self.goal.into()),
                interval.delivered,
                broker.rss_bytes as f64 / 1e6,
                machine.slab_bytes as f64 / 1e6,
            );
        }
        self.connected = row.connected;
        row.connect.reset();
        row.interval = Interval::of(0);
    }
}

fn put_times(line: &mut String, times: Option<Percentiles>) {
    let _ = match times {
        Some(times) => write!(line, ",{},{},{}", times.p50, times.p99, times.max),
        None => write!(line, ",,,"),
    };
}
