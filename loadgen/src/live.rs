//! What is seen of a run while it lasts: a screen that redraws, a line a second, metrics.

use crate::cli::Target;
use crate::format::{bytes, count, digits, time};
use crate::metrics::{self, Exporter, State};
use crate::procfs::Watch;
use crate::report::{Percentiles, invalidity};
use crate::timeline::{Second, Timeline, Trouble};
use crate::worker::{Interval, Times};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::sync::mpsc::Receiver;

/// A second that not all cores have told of by then is shown as it is.
const TOLD_NS: u64 = 1_000_000_000;
/// While clients connect the screen is drawn this often.
const CONNECTING_NS: u64 = 200_000_000;
/// Without a terminal, a line is enough each second.
const LINE_NS: u64 = 1_000_000_000;
/// Seconds that a course in small shows.
const COURSE_SECONDS: i64 = 30;

/// What a run is called, and how large it is to be.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The verb.
    pub verb: String,
    /// The broker's address.
    pub broker: String,
    /// The load, in a few words.
    pub load: String,
    /// Clients there are to be.
    pub connections: u64,
    /// Threads that carry load.
    pub cores: usize,
    /// How long is measured.
    pub measured_s: f64,
    /// Whether a message that comes after a later one is an error.
    pub order_promised: bool,
}

/// Where the cores tell of their seconds, and who else hears of them.
type Heard<'a> = (Receiver<Interval>, Box<dyn Fn(&Interval) + 'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Display {
    Nothing,
    Lines,
    /// Redraws as many lines as it has drawn.
    Screen {
        drawn: usize,
    },
}

/// Takes in what the cores tell and shows it.
pub struct Live<'a> {
    head: Head,
    heard: Option<Heard<'a>>,
    timeline: Timeline,
    display: Display,
    exporter: Option<Exporter>,
    own: Option<Watch>,
    broker: Option<Watch>,
    times: Option<Times>,
    connected: u64,
    /// When connecting was shown.
    shown_ns: u64,
    /// The first second that was not looked at.
    looked: i64,
    /// The first second that was not shown.
    shown: i64,
}

impl<'a> Live<'a> {
    /// For a run that begins now.
    ///
    /// Errors: the metrics cannot be served, or there is no such broker process.
    pub fn new(target: &Target, head: Head, now_ns: u64) -> Result<Self, String> {
        let display = match () {
            () if target.quiet => Display::Nothing,
            () if target.plain || !stderr().is_terminal() => Display::Lines,
            () => Display::Screen { drawn: 0 },
        };
        let watch = |pid: u32| {
            Watch::of_tree(pid, now_ns).map_err(|error| format!("--broker-pid {pid}: {error}"))
        };
        let live = Self {
            head,
            heard: None,
            timeline: Timeline::default(),
            display,
            exporter: target.prometheus.map(Exporter::start).transpose()?,
            own: Watch::of_tree(std::process::id(), now_ns).ok(),
            broker: target.broker_pid.map(watch).transpose()?,
            times: None,
            connected: 0,
            shown_ns: now_ns,
            looked: i64::MIN,
            shown: i64::MIN,
        };
        live.export(None);
        Ok(live)
    }

    /// Listens to the cores, and lets `also` hear of each second.
    pub fn hear(self, receiver: Receiver<Interval>, also: impl Fn(&Interval) + 'a) -> Self {
        Self {
            heard: Some((receiver, Box::new(also))),
            ..self
        }
    }

    /// Clients connect; so many have done so.
    pub fn connecting(&mut self, connected: u64, now_ns: u64) {
        self.connected = connected;
        let often_ns = match self.display {
            Display::Screen { .. } => CONNECTING_NS,
            Display::Lines | Display::Nothing => LINE_NS,
        };
        if now_ns < self.shown_ns + often_ns {
            return;
        }
        self.shown_ns = now_ns;
        self.export(None);
        match self.display {
            Display::Nothing => {}
            Display::Lines => eprintln!(
                "connected {} of {}",
                count(connected as f64),
                count(self.head.connections as f64)
            ),
            Display::Screen { .. } => {
                let lines = self.screen(None);
                self.draw(&lines);
            }
        }
    }

    /// All are connected, and the load begins.
    pub fn begin(&mut self, times: Times, now_ns: u64) {
        self.connected = self.head.connections;
        self.times = Some(times);
        (self.looked, self.shown) = (times.second(0), times.second(0));
        // What connecting took is not of the first second.
        self.own.as_mut().map(|own| own.look(now_ns));
        self.broker.as_mut().map(|broker| broker.look(now_ns));
    }

    /// Shows what is new.
    pub fn tick(&mut self, connected: u64, now_ns: u64) {
        let Some(times) = self.times else { return };
        self.connected = connected;
        self.take();
        let second = times.second(now_ns);
        if second > self.looked {
            let own = self.own.as_mut().map(|own| own.look(now_ns));
            let broker = self.broker.as_mut().map(|broker| broker.look(now_ns));
            self.timeline.note(second - 1, own, broker);
            self.looked = second;
        }
        let late = times.second(now_ns.saturating_sub(TOLD_NS));
        let is_told = |second: i64| {
            let mut found = self.timeline.seconds(second..second + 1);
            found
                .next()
                .is_some_and(|(_, one)| one.told >= self.head.cores)
        };
        let told = (self.shown..second).take_while(|one| *one < late || is_told(*one));
        if let Some(last) = told.last() {
            self.show(last + 1);
        }
    }

    /// Ends the display and hands over all that was seen.
    pub fn into_timeline(mut self) -> Timeline {
        self.take();
        std::mem::take(&mut self.timeline)
    }

    fn take(&mut self) {
        let Some((receiver, also)) = &self.heard else {
            return;
        };
        for interval in receiver.try_iter() {
            also(&interval);
            self.timeline.add(&interval);
        }
    }

    /// Shows the seconds before `complete`.
    fn show(&mut self, complete: i64) {
        self.export(Some(complete - 1));
        match self.display {
            Display::Nothing => {}
            Display::Lines => {
                for (number, second) in self.timeline.seconds(self.shown..complete) {
                    eprintln!("{}", line(number, second, self.head.order_promised));
                }
            }
            Display::Screen { .. } => {
                let lines = self.screen(Some(complete - 1));
                self.draw(&lines);
            }
        }
        self.shown = complete;
    }

    fn export(&self, last: Option<i64>) {
        let Some(exporter) = &self.exporter else {
            return;
        };
        let p99_us = |all| Percentiles::of(all).map(|all| all.p99);
        let seconds = last.and_then(|last| self.timeline.seconds(last..last + 1).next());
        let busy = seconds.and_then(|(_, second)| second.generator_cores());
        let state = State {
            labels: vec![
                ("verb", self.head.verb.clone()),
                ("broker", self.head.broker.clone()),
                ("load", self.head.load.clone()),
                ("version", env!("CARGO_PKG_VERSION").into()),
            ],
            connected: self.connected,
            connections: self.head.connections,
            last,
            valid: invalidity(
                busy.unwrap_or(0.0) / self.head.cores.max(1) as f64,
                p99_us(self.timeline.send_lag()),
                p99_us(self.timeline.latency()),
            )
            .is_empty(),
        };
        exporter.set(metrics::page(&state, &self.timeline));
    }

    /// The lines of the screen, of which `last` is the last complete second.
    fn screen(&self, last: Option<i64>) -> Vec<String> {
        let head = &self.head;
        let measured = head.measured_s.ceil() as i64;
        let phase = match last {
            None => "connecting".into(),
            Some(second @ ..0) if second < -1 => format!("warm-up, {} s left", -1 - second),
            Some(second) if second < measured => format!("{} s of {measured} s", second + 1),
            Some(_) => "waiting for the rest".into(),
        };
        let mut lines = vec![
            format!("{} at {}: {phase}", bold(&head.verb), head.broker),
            head.load.clone(),
            String::new(),
        ];
        let mut row = |name: &str, text: String| lines.push(format!("{name:<11}{text}"));
        row(
            "connected",
            format!(
                "{} of {}",
                count(self.connected as f64),
                count(head.connections as f64)
            ),
        );
        let Some(last) = last else { return lines };
        let seconds = self.timeline.seconds(last..last + 1).next();
        let empty = Second::default();
        let second = seconds.map_or(&empty, |(_, second)| second);
        let course = |of: fn(&Second) -> u64| {
            let seen = self.timeline.seconds(last + 1 - COURSE_SECONDS..last + 1);
            small_course(&seen.map(|(_, second)| of(second)).collect::<Vec<_>>())
        };
        for (name, value, course) in [
            ("published", second.published, course(|one| one.published)),
            ("received", second.delivered, course(|one| one.delivered)),
        ] {
            row(
                name,
                format!(
                    "{} /s  {course}",
                    bold(&format!("{:>11}", count(value as f64)))
                ),
            );
        }
        if let Some(all) = Percentiles::of(&second.latency()) {
            row("latency", times_row(&all));
        }
        if let Some(lag) = Percentiles::of(&second.send_lag()) {
            row("send lag", times_row(&lag));
        }
        row(
            "errors",
            trouble(&self.timeline.total().trouble, head.order_promised)
                .map_or_else(|| "none".into(), |text| red(&text)),
        );
        if let Some(cores) = second.generator_cores() {
            let share = 100.0 * cores / head.cores.max(1) as f64;
            let text = format!("{share:.0} % of {} core(s)", head.cores);
            let text = if share > 90.0 {
                red(&format!("{text}: saturated, the figures are its own"))
            } else {
                text
            };
            row("generator", text);
        }
        if let (Some(cores), Some(broker)) = (second.broker_cores(), second.broker) {
            let memory = bytes(broker.rss_bytes as f64);
            row(
                "broker",
                format!("{} cores   {memory} resident", digits(cores)),
            );
        }
        lines
    }

    fn draw(&mut self, lines: &[String]) {
        let Display::Screen { drawn } = &mut self.display else {
            return;
        };
        let width = terminal_size::terminal_size_of(stderr()).map_or(80, |(width, _)| width.0);
        let mut text = String::new();
        if *drawn > 0 {
            let _ = write!(text, "\x1b[{drawn}A");
        }
        for line in lines {
            let _ = write!(text, "\r\x1b[K{}\r\n", cut(line, usize::from(width)));
        }
        // What stood below from a longer screen.
        text.push_str("\x1b[J");
        *drawn = lines.len();
        // A terminal that is gone is no reason to end a measurement.
        let _ = stderr().write_all(text.as_bytes());
    }
}

/// A second as a line.
fn line(number: i64, second: &Second, order_promised: bool) -> String {
    let name = if number < 0 {
        "warm-up".into()
    } else {
        format!("{} s", number + 1)
    };
    let mut line = format!(
        "{name:>7}  published {:>9}/s  received {:>9}/s",
        second.published, second.delivered
    );
    if let Some(all) = Percentiles::of(&second.latency()) {
        let _ = write!(line, "  {}", times_row(&all));
    }
    if let Some(lag) = Percentiles::of(&second.send_lag()) {
        let _ = write!(line, "  send lag p99 {}", time(lag.p99));
    }
    if let Some(cores) = second.generator_cores() {
        let _ = write!(line, "  generator {cores:.2} cores");
    }
    if let (Some(cores), Some(broker)) = (second.broker_cores(), second.broker) {
        let memory = bytes(broker.rss_bytes as f64);
        let _ = write!(line, "  broker {cores:.2} cores {memory}");
    }
    if let Some(text) = trouble(&second.trouble, order_promised) {
        let _ = write!(line, "  {text}");
    }
    line
}

fn times_row(all: &Percentiles) -> String {
    format!(
        "p50 {}  p99 {}  max {}",
        time(all.p50),
        time(all.p99),
        time(all.max)
    )
}

/// What went wrong, with the reasons that there are; `None` when nothing did.
fn trouble(trouble: &Trouble, order_promised: bool) -> Option<String> {
    let trouble = Trouble {
        reordered: if order_promised { trouble.reordered } else { 0 },
        ..*trouble
    };
    let counts = Trouble::REASONS.iter().zip(trouble.counts());
    let some: Vec<_> = counts
        .filter(|(_, count)| *count > 0)
        .map(|(reason, number)| format!("{} {}", count(number as f64), reason.replace('_', " ")))
        .collect();
    (!some.is_empty()).then(|| some.join(", "))
}

/// The course of a count in a row of small bars.
fn small_course(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: &u64| BARS[((count * 8).div_ceil(most).clamp(1, 8) - 1) as usize];
    counts.iter().map(bar).collect()
}

fn bold(text: &str) -> String {
    format!("\x1b[1m{text}\x1b[0m")
}

fn red(text: &str) -> String {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        text.to_owned()
    } else {
        format!("\x1b[31m{text}\x1b[0m")
    }
}

/// The first columns of a line, in which escape sequences take none.
fn cut(line: &str, columns: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    let mut in_escape = false;
    for c in line.chars() {
        in_escape |= c == '\x1b';
        if !in_escape {
            used += 1;
            if used > columns {
                continue;
            }
        } else if c == 'm' {
            in_escape = false;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;
    use std::sync::mpsc;

    const SECOND: u64 = 1_000_000_000;

    fn live() -> (Live<'static>, mpsc::Sender<Interval>) {
        let cli = Cli::try_parse_from(["loadgen", "pubsub", "--rate", "5", "-Q"]).unwrap();
        let Verb::Pubsub(args) = &cli.verb else {
            unreachable!("the verb is pubsub")
        };
        let (sender, receiver) = mpsc::channel();
        let head = Head {
            verb: "pubsub".into(),
            broker: "127.0.0.1:1883".into(),
            load: "open loop".into(),
            connections: 1_200,
            cores: 1,
            measured_s: 2.0,
            order_promised: true,
        };
        let live = Live::new(&args.common.target, head, 0).unwrap();
        let live = live.hear(receiver, |_| ());
        (live, sender)
    }

    #[test]
    fn the_screen_tells_how_it_goes() {
        let (mut live, sender) = live();
        live.connecting(700, SECOND);
        let screen = live.screen(None).join("\n");
        assert!(
            screen.contains("connecting") && screen.contains("700 of 1,200"),
            "{screen}"
        );
        let times = Times {
            start_ns: 9 * SECOND,
            measure_ns: 10 * SECOND,
            stop_ns: 12 * SECOND,
        };
        live.begin(times, 9 * SECOND);
        let mut interval = Interval {
            published: 5_000,
            delivered: 4_900,
            ..Interval::of(0)
        };
        interval.latency.record(250_000).unwrap();
        interval.send_lag.record(3_000).unwrap();
        interval.trouble.corrupt = 3;
        interval.trouble.reordered = 9;
        sender.send(interval).unwrap();
        live.tick(1_199, 10 * SECOND + SECOND / 2);
        assert_eq!(live.shown, -1, "the core has not told of the warm-up");
        live.tick(1_199, 11 * SECOND);
        assert_eq!(
            live.shown, 1,
            "it will not any more, and of the next it has told"
        );
        let screen = live.screen(Some(0)).join("\n");
        for part in [
            "1 s of 2 s",
            "1,199 of 1,200",
            "5,000",
            "4,900",
            "p99 250 µs",
            "p99 3.0",
            "3 corrupt",
            "% of 1 core",
        ] {
            assert!(screen.contains(part), "{part} is not in\n{screen}");
        }
        drop(sender);
        let timeline = live.into_timeline();
        assert_eq!(timeline.total().published, 5_000);
        let (number, second) = timeline.seconds(0..1).next().unwrap();
        let text = line(number, second, true);
        assert!(
            text.contains("1 s  published      5000/s") && text.contains("9 reordered, 3 corrupt"),
            "{text}"
        );
        let text = line(number, second, false);
        assert!(!text.contains("reordered"), "nobody promised it: {text}");
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends() {
        assert_eq!(cut(&bold("abcdef"), 3), "\x1b[1mabc\x1b[0m");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(small_course(&[0, 4, 8]), "▁▄█");
        assert_eq!(small_course(&[0]), "▁");
    }
}
