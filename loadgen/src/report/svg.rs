//! Draws charts as SVG.
//!
//! Colours are variables of the surrounding page (or of the style that [`alone`] puts in), so that one drawing
//! serves light, dark and paper. Positions for the page's script are told as parts of the plot's size, so that one
//! set of them serves the wide and the narrow drawing.

use crate::format;
use serde::Serialize;
use std::fmt::Write as _;

/// Size of the letters in a drawing.
const LETTER: f64 = 13.0;
/// The width of a letter of a wide font, for making room.
const LETTER_WIDTH: f64 = 7.9;
/// The same of a bold letter.
const BOLD_WIDTH: f64 = 8.7;
/// The distance of two lines of text.
const LINE_HEIGHT: f64 = 17.0;
/// Series with at most so many points have them marked.
const DOTS_MAX: usize = 45;

/// A chart, apart from its size.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its name in the page and among files.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// What is drawn, in which unit, on which scale.
    pub subtitle: String,
    /// What a person who does not see it should know.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Parts of the horizontal axis that are not like the rest.
    pub zones: Vec<Zone>,
    /// A level to compare with.
    pub level: Option<(f64, String)>,
    /// What the pointer is told at each point of the first series that has one.
    pub heads: Vec<(f64, String)>,
    /// Large letters across the drawing.
    pub stamp: Option<&'static str>,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Its scale.
    pub scale: Scale,
    /// Values that are named.
    pub ticks: Vec<(f64, String)>,
    /// What it measures; empty where the ticks say it.
    pub label: String,
}

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Equal distances are equal differences.
    Linear(f64, f64),
    /// Equal distances are equal ratios.
    Log(f64, f64),
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Which of the page's colours: `0` to `5`, or `muted`.
    pub colour: String,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Its points, in order; a gap is left where there is no value.
    pub points: Vec<(f64, Option<f64>)>,
    /// How its values are told.
    pub tell: fn(f64) -> String,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// The one to look at.
    Strong,
    /// One beside it.
    Thin,
    /// Something to compare with.
    Dashed,
    /// What lies below another line where both agree.
    Broad,
}

/// A part of the horizontal axis.
#[derive(Clone, Debug)]
pub struct Zone {
    /// From here.
    pub from: f64,
    /// To here.
    pub to: f64,
    /// What it is.
    pub label: String,
}

/// The size of a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Points.
    pub width: f64,
    /// Points.
    pub height: f64,
}

/// For a column of text.
pub const WIDE: Size = Size {
    width: 880.0,
    height: 330.0,
};
/// For a telephone, and for two beside each other.
pub const NARROW: Size = Size {
    width: 420.0,
    height: 300.0,
};

impl Scale {
    /// The place of a value: 0 at the low end, 1 at the high end.
    pub fn place(self, value: f64) -> f64 {
        let part = match self {
            Self::Linear(low, high) => (value - low) / (high - low),
            Self::Log(low, high) => (value.max(low) / low).log10() / (high / low).log10(),
        };
        part.clamp(0.0, 1.0)
    }

    /// Whether a value has a place of its own: those below the scale are not drawn.
    fn shows(self, value: f64) -> bool {
        let (Self::Linear(low, _) | Self::Log(low, _)) = self;
        value >= low
    }
}

impl Axis {
    /// An axis of counts from 0, with room for `most`.
    pub fn counts(most: f64) -> Self {
        let (step, high) = steps(most, 5.0);
        let ticks = (0..=(high / step).round() as u32)
            .map(|at| f64::from(at) * step)
            .map(|value| match step {
                step if step < 0.01 => (value, format!("{value:.3}")),
                _ => (value, format::short(value)),
            });
        Self {
            ticks: ticks.collect(),
            scale: Scale::Linear(0.0, high),
            label: String::new(),
        }
    }

    /// An axis of bytes from 0, with room for `most`.
    pub fn bytes(most: f64) -> Self {
        let counts = Self::counts(most);
        let named = counts
            .ticks
            .into_iter()
            .map(|(value, _)| (value, format::round_bytes(value)));
        Self {
            ticks: named.collect(),
            ..counts
        }
    }

    /// An axis of microseconds with room for what lies between `least` and `most`: from 0 where that is readable, by
    /// powers where it is not.
    pub fn times(least: f64, most: f64) -> Self {
        let most = most.clamp(0.001, 1e12);
        let least = least.clamp(0.001, most);
        if most / least < 12.0 {
            let (step, high) = steps(most, 5.0);
            let ticks = (0..=(high / step).round() as u32)
                .map(|at| f64::from(at) * step)
                .map(|value| (value, format::round_time(value)));
            return Self {
                ticks: ticks.collect(),
                scale: Scale::Linear(0.0, high),
                label: String::new(),
            };
        }
        Self::powers(least, most, format::round_time)
    }

    /// An axis of counts on which equal distances are equal ratios, with room for what lies between `least` and `most`.
    pub fn ratios(least: f64, most: f64) -> Self {
        Self::powers(least.max(1.0), most.max(1.0), format::short)
    }

    fn powers(least: f64, most: f64, name: fn(f64) -> String) -> Self {
        let marks = |factors: &[f64]| -> Vec<f64> {
            (-3..10)
                .flat_map(|power| {
                    factors
                        .iter()
                        .map(move |factor| factor * 10_f64.powi(power))
                })
                .collect()
        };
        let fine = marks(&[1.0, 2.0, 5.0]);
        let low = fine.iter().copied().rfind(|mark| *mark <= least * 1.001);
        let low = low.unwrap_or(0.001);
        let high = fine.iter().copied().find(|mark| *mark >= most * 0.999);
        let high = high.unwrap_or(most).max(low * 2.0);
        let named = if high / low > 200.0 {
            marks(&[1.0])
        } else {
            fine
        };
        let inside = |mark: &f64| *mark >= low * 0.999 && *mark <= high * 1.001;
        let ticks = named.into_iter().filter(inside);
        Self {
            ticks: ticks.map(|value| (value, name(value))).collect(),
            scale: Scale::Log(low, high),
            label: String::new(),
        }
    }

    /// Whether equal distances are equal differences.
    pub fn is_linear(&self) -> bool {
        matches!(self.scale, Scale::Linear(..))
    }

    /// An axis of seconds.
    pub fn seconds(from: f64, to: f64) -> Self {
        let to = to.max(from + 1.0);
        let span = to - from;
        let (unit, name) = match span {
            span if span > 10_800.0 => (3_600.0, "h"),
            span if span > 240.0 => (60.0, "min"),
            _ => (1.0, "s"),
        };
        let (step, _) = steps(span / unit, 6.0);
        let step = step.max(if unit == 1.0 { 1.0 } else { 0.5 });
        let first = (from / unit / step).ceil() as i64;
        let last = (to / unit / step).floor() as i64;
        let tick = |at: i64| {
            let value = at as f64 * step;
            let text = format!("{} {name}", format::short(value).replace('-', "\u{2212}"));
            (value * unit, text)
        };
        Self {
            scale: Scale::Linear(from, to),
            ticks: (first..=last).map(tick).collect(),
            label: String::new(),
        }
    }

    /// An axis on which each further nine of a percentile takes the same room, for `count` of `what`.
    pub fn percentiles(count: f64, what: &str) -> Self {
        let nines = count.max(10.0).log10();
        let mut ticks = vec![(0.0, "0".to_owned()), (2_f64.log10(), "50".to_owned())];
        for nine in 1..=nines.floor() as usize {
            let text = match nine {
                1 => "90".to_owned(),
                2 => "99".to_owned(),
                _ => format!("99.{}", "9".repeat(nine - 2)),
            };
            ticks.push((nine as f64, text));
        }
        Self {
            scale: Scale::Linear(0.0, nines),
            ticks,
            label: format!("percent of the {what} were at most this slow"),
        }
    }
}

/// The distance of ticks for about `parts` of them up to `most`, and the tick that is not below it.
fn steps(most: f64, parts: f64) -> (f64, f64) {
    // A file may say anything.
    let most = if most > 0.0 {
        most.clamp(1e-6, 1e15)
    } else {
        1.0
    };
    let raw = most / parts;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= raw * 0.999);
    let step = factor.unwrap_or(10.0) * power;
    (step, (most / step - 1e-9).ceil().max(1.0) * step)
}

/// Text as it may stand in HTML and SVG, in attributes too.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// The plot's place in a drawing.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// A drawing for the page, and what its script needs to know of the plot: left, top, width and height.
pub fn draw(chart: &Chart, size: Size) -> String {
    let plot = plot(chart, size, 0.0);
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" data-plot=\"{:.1} {:.1} {:.1} {:.1}\">",
        size.width,
        size.height,
        escaped(&chart.description),
        plot.left,
        plot.top,
        plot.width,
        plot.height,
    );
    body(&mut out, chart, size, &plot);
    out.push_str("</svg>");
    out
}

/// A drawing with its title and colours, for a file of its own; `source` says where it is from.
pub fn alone(chart: &Chart, source: &str) -> String {
    let size = Size {
        height: WIDE.height + 80.0,
        ..WIDE
    };
    let plot = plot(chart, size, 56.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\">\n\
         <title>{}</title>\n<desc>{}</desc>\n<style>{}{}</style>\n\
         <rect width=\"100%\" height=\"100%\" class=\"paper\"/>\
         <text x=\"8\" y=\"24\" class=\"title\">{}</text><text x=\"8\" y=\"44\" class=\"muted\">{}</text>\
         <text x=\"8\" y=\"{}\" class=\"source\">{}</text>",
        escaped(&chart.title),
        escaped(&chart.description),
        include_str!("colours.css"),
        include_str!("chart.css"),
        escaped(&chart.title),
        escaped(&chart.subtitle),
        size.height - 8.0,
        escaped(source),
        w = size.width,
        h = size.height,
    );
    let inner = Size {
        height: size.height - 24.0,
        ..size
    };
    body(&mut out, chart, inner, &plot);
    out.push_str("</svg>\n");
    out
}

fn plot(chart: &Chart, size: Size, head: f64) -> Plot {
    let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0) as f64;
    let ticks = longest(&mut chart.y.ticks.iter().map(|(_, text)| text.chars().count()));
    let left = 12.0 + ticks * LETTER_WIDTH;
    let names = longest(&mut chart.series.iter().map(|one| one.name.chars().count()));
    let (right, legend) = if is_wide(size) {
        (10.0 + names * BOLD_WIDTH, 0.0)
    } else {
        (12.0, legend_lines(chart, size) as f64 * LINE_HEIGHT)
    };
    let below = if chart.x.label.is_empty() { 24.0 } else { 42.0 };
    let top = head + legend + 18.0;
    Plot {
        left,
        top,
        width: size.width - left - right,
        height: size.height - top - below - if head > 0.0 { 24.0 } else { 0.0 },
    }
}

fn is_wide(size: Size) -> bool {
    size.width > 600.0
}

fn legend_width(series: &Series) -> f64 {
    38.0 + series.name.chars().count() as f64 * BOLD_WIDTH
}

fn legend_lines(chart: &Chart, size: Size) -> usize {
    let mut lines = 1;
    let mut used = 0.0;
    for series in &chart.series {
        let width = legend_width(series);
        if used > 0.0 && used + width > size.width {
            lines += 1;
            used = 0.0;
        }
        used += width;
    }
    lines
}

fn body(out: &mut String, chart: &Chart, size: Size, plot: &Plot) {
    let x = |value: f64| plot.left + chart.x.scale.place(value) * plot.width;
    let y = |value: f64| plot.top + (1.0 - chart.y.scale.place(value)) * plot.height;
    let (right, bottom) = (plot.left + plot.width, plot.top + plot.height);
    for zone in &chart.zones {
        let (from, to) = (x(zone.from), x(zone.to));
        let _ = write!(
            out,
            "<rect class=\"zone\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            plot.top,
            to - from,
            plot.height
        );
        let room = to - from > zone.label.chars().count() as f64 * LETTER_WIDTH * 0.9 + 6.0;
        if room {
            let _ = write!(
                out,
                "<text class=\"zone-name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                from + 5.0,
                bottom - 7.0,
                escaped(&zone.label)
            );
        }
    }
    for (value, text) in &chart.y.ticks {
        let at = y(*value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            plot.left,
            plot.left - 8.0,
            at + LETTER * 0.34,
            escaped(text)
        );
    }
    // A scale by powers has no 0 for its lowest line.
    let _ = write!(
        out,
        "<line class=\"base\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>",
        plot.left
    );
    x_ticks(out, chart, size, plot, &x);
    if let Some((value, text)) = &chart.level {
        let at = y(*value);
        let _ = write!(
            out,
            "<line class=\"level\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            plot.left,
            right - 4.0,
            at - 6.0,
            escaped(text)
        );
    }
    for series in &chart.series {
        line(out, series, chart.y.scale, &x, &y);
    }
    if is_wide(size) {
        end_labels(out, chart, plot, &y);
    } else {
        legend(out, chart, size, plot);
    }
    if let Some(stamp) = chart.stamp {
        let (middle, centre) = (plot.left + plot.width / 2.0, plot.top + plot.height / 2.0);
        let letter = plot.width / (stamp.chars().count() as f64 * 0.95);
        let _ = write!(
            out,
            "<text class=\"stamp\" x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"{letter:.0}\" \
             transform=\"rotate(-12 {middle:.1} {centre:.1})\" aria-hidden=\"true\">{stamp}</text>",
            centre + letter * 0.35
        );
    }
}

fn x_ticks(out: &mut String, chart: &Chart, size: Size, plot: &Plot, x: &dyn Fn(f64) -> f64) {
    let (right, bottom) = (plot.left + plot.width, plot.top + plot.height);
    let mut free_from = f64::MIN;
    for (value, text) in &chart.x.ticks {
        let at = x(*value);
        let half = text.chars().count() as f64 * LETTER_WIDTH / 2.0;
        // A name is left out where it would touch the one before, and moved where it would leave the drawing.
        let middle = at.min(size.width - half - 2.0);
        let _ = write!(
            out,
            "<line class=\"tick-mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom:.1}\" y2=\"{:.1}\"/>",
            bottom + 4.0
        );
        if middle - half < free_from + 6.0 {
            continue;
        }
        free_from = middle + half;
        let _ = write!(
            out,
            "<text class=\"tick middle\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text>",
            bottom + LINE_HEIGHT,
            escaped(text)
        );
    }
    if !chart.x.label.is_empty() {
        let _ = write!(
            out,
            "<text class=\"tick end\" x=\"{right:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 2.1 * LINE_HEIGHT,
            escaped(&chart.x.label)
        );
    }
}

fn line(
    out: &mut String,
    series: &Series,
    y_scale: Scale,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) {
    let class = match series.stroke {
        Stroke::Strong => "strong",
        Stroke::Thin => "thin",
        Stroke::Dashed => "dashed",
        Stroke::Broad => "broad",
    };
    let mut path = String::new();
    let mut is_drawing = false;
    for (at, value) in &series.points {
        let Some(value) = value.filter(|value| y_scale.shows(*value)) else {
            is_drawing = false;
            continue;
        };
        let command = if is_drawing { 'L' } else { 'M' };
        is_drawing = true;
        let _ = write!(path, "{command}{:.1} {:.1}", x(*at), y(value));
    }
    let _ = write!(
        out,
        "<path class=\"line {class}\" style=\"stroke:var(--c-{})\" d=\"{path}\"/>",
        series.colour
    );
    if series.points.len() > DOTS_MAX || series.stroke == Stroke::Broad {
        return;
    }
    for (at, value) in &series.points {
        if let Some(value) = value.filter(|value| y_scale.shows(*value)) {
            let _ = write!(
                out,
                "<circle style=\"fill:var(--c-{})\" r=\"2.2\" cx=\"{:.1}\" cy=\"{:.1}\"/>",
                series.colour,
                x(*at),
                y(value)
            );
        }
    }
}

/// Names beside the ends of the lines, pushed apart where they would touch.
fn end_labels(out: &mut String, chart: &Chart, plot: &Plot, y: &dyn Fn(f64) -> f64) {
    let last = |series: &Series| series.points.iter().rev().find_map(|(_, value)| *value);
    let mut labels: Vec<(f64, &Series)> = chart
        .series
        .iter()
        .filter_map(|series| Some((y(last(series)?), series)))
        .collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bottom = plot.top + plot.height;
    // Downwards until none touches the one above, then upwards from where the plot ends.
    for at in 1..labels.len() {
        labels[at].0 = labels[at].0.max(labels[at - 1].0 + LINE_HEIGHT);
    }
    let mut limit = bottom + 4.0;
    for (at, _) in labels.iter_mut().rev() {
        *at = at.min(limit);
        limit = *at - LINE_HEIGHT;
    }
    for (at, series) in labels {
        let _ = write!(
            out,
            "<text class=\"name name-{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            series.colour,
            plot.left + plot.width + 8.0,
            at + LETTER * 0.34,
            escaped(&series.name)
        );
    }
}

/// Names above the plot, for which there is no room beside it.
fn legend(out: &mut String, chart: &Chart, size: Size, plot: &Plot) {
    let mut at = 0.0;
    let mut line = plot.top - 18.0 - (legend_lines(chart, size) - 1) as f64 * LINE_HEIGHT;
    for series in &chart.series {
        let width = legend_width(series);
        if at > 0.0 && at + width > size.width {
            at = 0.0;
            line += LINE_HEIGHT;
        }
        let class = match series.stroke {
            Stroke::Broad => "broad",
            Stroke::Dashed => "dashed",
            Stroke::Strong => "strong",
            Stroke::Thin => "thin",
        };
        let _ = write!(
            out,
            "<path class=\"line {class}\" style=\"stroke:var(--c-{c})\" d=\"M{:.1} {:.1}h16\"/>\
             <text class=\"name name-{c}\" x=\"{:.1}\" y=\"{line:.1}\">{}</text>",
            at + 2.0,
            line - 4.5,
            at + 23.0,
            escaped(&series.name),
            c = series.colour,
        );
        at += width;
    }
}

/// What the page's script shows at the pointer.
#[derive(Serialize)]
struct Hover<'a> {
    /// Places of the points, from 0 at the left to 1 at the right.
    x: Vec<f64>,
    /// What each point is.
    heads: Vec<&'a str>,
    series: Vec<HoverSeries<'a>>,
}

#[derive(Serialize)]
struct HoverSeries<'a> {
    name: &'a str,
    colour: &'a str,
    /// Places of the values, from 0 at the top to 1 at the bottom.
    y: Vec<Option<f64>>,
    text: Vec<String>,
}

/// What the page's script shows at the pointer, as JSON that may stand in a `script` element.
pub fn hover(chart: &Chart) -> String {
    let rounded = |value: f64| (value * 1e4).round() / 1e4;
    let series = chart.series.iter().map(|series| {
        // Series may lack points that others have.
        let value_at = |at: f64| {
            let found = series.points.iter().find(|(x, _)| (x - at).abs() < 1e-9);
            found.and_then(|(_, value)| *value)
        };
        let values: Vec<_> = chart.heads.iter().map(|(at, _)| value_at(*at)).collect();
        HoverSeries {
            name: &series.name,
            colour: &series.colour,
            y: values
                .iter()
                .map(|value| value.map(|value| rounded(1.0 - chart.y.scale.place(value))))
                .collect(),
            text: values
                .iter()
                .map(|value| value.map_or(String::new(), series.tell))
                .collect(),
        }
    });
    let hover = Hover {
        x: chart
            .heads
            .iter()
            .map(|(at, _)| rounded(chart.x.scale.place(*at)))
            .collect(),
        heads: chart.heads.iter().map(|(_, head)| &head[..]).collect(),
        series: series.collect(),
    };
    let json = serde_json::to_string(&hover).expect("it has only string keys");
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| &name[..]).collect()
    }

    #[test]
    fn axes_have_round_ticks_and_room_for_their_values() {
        assert_eq!(
            names(&Axis::counts(8_320.0)),
            ["0", "2k", "4k", "6k", "8k", "10k"]
        );
        assert_eq!(
            names(&Axis::counts(0.0)),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        assert_eq!(
            names(&Axis::counts(0.009)),
            ["0.000", "0.002", "0.004", "0.006", "0.008", "0.010"]
        );
        assert_eq!(
            names(&Axis::bytes(9e6)),
            ["0", "2 MB", "4 MB", "6 MB", "8 MB", "10 MB"]
        );
        assert_eq!(
            names(&Axis::seconds(-2.0, 15.0)),
            ["0 s", "5 s", "10 s", "15 s"]
        );
        assert_eq!(
            names(&Axis::seconds(-60.0, 1_800.0)),
            ["0 min", "10 min", "20 min", "30 min"]
        );
        let close = Axis::times(5_600.0, 35_600.0);
        assert_eq!(names(&close), ["0", "10 ms", "20 ms", "30 ms", "40 ms"]);
        let far = Axis::times(55.0, 7_000.0);
        assert_eq!(
            names(&far),
            [
                "50 µs", "100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms"
            ]
        );
        assert_eq!(far.scale, Scale::Log(50.0, 10_000.0));
        assert_eq!(
            names(&Axis::times(1.0, 5e5)),
            ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]
        );
        let nines = Axis::percentiles(1e4, "cycles");
        assert_eq!(names(&nines), ["0", "50", "90", "99", "99.9", "99.99"]);
        for value in [0.0, 1e-9, 1e18, f64::MAX] {
            for axis in [
                Axis::counts(value),
                Axis::times(value, value),
                Axis::ratios(1.0, value),
            ] {
                assert!(axis.ticks.len() < 200, "{value} {:?}", axis.scale);
            }
        }
    }

    #[test]
    fn places_are_between_the_ends() {
        let scale = Scale::Log(1.0, 100.0);
        assert_eq!(
            [scale.place(1.0), scale.place(10.0), scale.place(100.0)],
            [0.0, 0.5, 1.0]
        );
        assert_eq!([scale.place(0.0), scale.place(1e9)], [0.0, 1.0]);
        assert!(!scale.shows(0.5) && scale.shows(1.0));
        assert_eq!(Scale::Linear(-2.0, 2.0).place(0.0), 0.5);
    }

    #[test]
    fn a_script_element_cannot_be_ended_by_a_name() {
        let chart = Chart {
            id: "x",
            title: String::new(),
            subtitle: String::new(),
            description: String::new(),
            x: Axis::counts(1.0),
            y: Axis::counts(1.0),
            series: vec![Series {
                name: "</script>".into(),
                colour: "0".into(),
                stroke: Stroke::Thin,
                points: vec![(0.0, Some(1.0)), (1.0, None)],
                tell: format::count,
            }],
            zones: Vec::new(),
            level: None,
            heads: vec![(0.0, "a".into()), (1.0, "b".into())],
            stamp: None,
        };
        let json = hover(&chart);
        assert!(!json.contains('<'), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["series"][0]["y"], serde_json::json!([0.0, null]));
        assert_eq!(read["series"][0]["text"], serde_json::json!(["1", ""]));
    }
}
