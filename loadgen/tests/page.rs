//! The report in a browser, where Chromium is installed: its figures are there, it is quiet, it asks nobody for
//! anything, and nothing of it lies over anything else.

#[path = "common/chromium.rs"]
mod chromium;
#[path = "common/relayed.rs"]
mod relayed;

use chromium::Chromium;
use loadgen::report::files;
use loadgen::report::{Broker, Percentiles, Summary};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of charts whose texts lie over each other or stick out of their drawing.
const OVERLAPS: &str = "[...document.querySelectorAll('figure svg')].flatMap(svg => {
    if (svg.getBoundingClientRect().width === 0) return [];
    const texts = [...svg.querySelectorAll('text:not(.stamp)')];
    const boxes = texts.map(text => text.getBoundingClientRect());
    const frame = svg.getBoundingClientRect();
    const found = [];
    boxes.forEach((a, i) => {
        if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push(texts[i].textContent + ' sticks out');
        boxes.slice(i + 1).forEach((b, j) => {
            const over = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (over > 1 && high > 4) found.push(texts[i].textContent + ' over ' + texts[i + 1 + j].textContent);
        });
    });
    return found.map(what => svg.closest('figure').id + ': ' + what);
})";

/// Texts whose contrast to the paper is below what WCAG 2 asks for (4.5 to 1).
const PALE: &str = "(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
        return .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const texts = document.querySelectorAll('h1, h2, p, dt, dd, th, td, svg text:not(.stamp), summary');
    return [...texts].filter(text => {
        const style = getComputedStyle(text);
        const ink = light(text.closest('svg') ? style.fill : style.color);
        const [high, low] = ink > paper ? [ink, paper] : [paper, ink];
        return text.textContent.trim() && !text.closest('.alarm') && (high + .05) / (low + .05) < 4.5;
    }).map(text => text.textContent.trim().slice(0, 40));
})()";

fn strings(value: &serde_json::Value) -> Vec<String> {
    let values = value.as_array().unwrap().iter();
    values.map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// Opens a page wide and narrow, light and dark, and looks for all that is wrong with any page.
fn look(browser: &mut Chromium, page: &Path, pictures: &Path) {
    for width in [1_000, 390] {
        for scheme in ["light", "dark"] {
            let place = format!("{} {width} {scheme}", page.display());
            assert_eq!(browser.open(page, width, scheme), [""; 0], "{place}");
            let overflow = "document.documentElement.scrollWidth - innerWidth";
            assert_eq!(browser.evaluate(overflow), 0, "{place} scrolls sideways");
            assert_eq!(strings(&browser.evaluate(OVERLAPS)), [""; 0], "{place}");
            assert_eq!(strings(&browser.evaluate(PALE)), [""; 0], "{place}");
            let name = page.file_stem().unwrap().to_string_lossy();
            browser.picture(&pictures.join(format!("{name}-{width}-{scheme}.png")));
        }
    }
    let picture = fs::metadata(pictures.join(format!(
        "{}-1000-dark.png",
        page.file_stem().unwrap().to_string_lossy()
    )));
    assert!(picture.unwrap().len() > 10_000, "there is something to see");
}

fn text(browser: &mut Chromium, selector: &str) -> String {
    let found = browser.evaluate(&format!(
        "[...document.querySelectorAll('{selector}')].map(one => one.innerText).join(' | ')"
    ));
    found.as_str().unwrap().to_owned()
}

/// A copy of a run with another summary, as its page.
fn variant(from: &Path, name: &str, change: impl FnOnce(&mut Summary)) -> PathBuf {
    let directory = from.with_file_name(name);
    fs::create_dir_all(&directory).unwrap();
    for file in ["run.toml", "timeline.csv", "latency.hlog"] {
        fs::copy(from.join(file), directory.join(file)).unwrap();
    }
    let text = fs::read_to_string(from.join("summary.json")).unwrap();
    let mut summary = serde_json::from_str(&text).unwrap();
    change(&mut summary);
    fs::write(
        directory.join("summary.json"),
        serde_json::to_string(&summary).unwrap(),
    )
    .unwrap();
    let page = from.with_file_name(format!("{name}.html"));
    files::rebuild(&[directory], Some(&page)).unwrap()
}

fn make_valid(summary: &mut Summary) {
    // Whether this machine was busy is not what is tested.
    (summary.valid, summary.invalid_because) = (true, Vec::new());
}

#[test]
fn the_report_is_right_and_quiet_and_legible() {
    let directory = relayed::directory("page");
    let Some(mut browser) = Chromium::start(&directory.join("profile")) else {
        return;
    };
    let open = directory.join("open");
    let own = std::process::id();
    relayed::run(&format!(
        "pubsub -c 8 --rate 3000 --warmup 2s -d 6s --broker-pid {own} --out {}",
        open.display()
    ));
    let page = variant(&open, "valid", |summary| {
        make_valid(summary);
        let latency = summary.latency_us.as_mut().unwrap();
        (latency.p99, latency.max) = (1_234.5, 7_654.0);
        summary.delivered_per_s = 3_001.0;
    });
    look(&mut browser, &page, &directory);
    browser.open(&page, 1_000, "light");
    let headline = text(&mut browser, "h1");
    assert_eq!(
        headline,
        "99 % of the messages came within 1.23 ms, the slowest in 7.65 ms"
    );
    let tiles = text(&mut browser, ".tile");
    for part in ["3,001", "1.23 ms", "7.65 ms", "of 18,000", "lost\n0"] {
        assert!(tiles.contains(part), "{part} is not in {tiles}");
    }
    assert!(text(&mut browser, "#verification").contains("Every message arrived as it should"));
    assert_eq!(text(&mut browser, ".alarm"), "");
    let figures = browser.evaluate("[...document.querySelectorAll('figure')].map(one => one.id)");
    assert_eq!(
        strings(&figures),
        ["percentiles", "latency", "throughput", "cpu", "memory"]
    );

    // The pointer reads values, and so do the keys.
    browser.evaluate("document.querySelector('#latency').scrollIntoView()");
    let place = browser.evaluate(
        "(() => { const box = document.querySelector('#latency svg').getBoundingClientRect();
          return [box.left + box.width / 2, box.top + box.height / 2]; })()",
    );
    browser.point(place[0].as_f64().unwrap(), place[1].as_f64().unwrap());
    let tip = text(&mut browser, "#latency .tip");
    assert!(tip.contains("second ") && tip.contains("99 %"), "{tip}");
    assert!(tip.contains("µs") || tip.contains("ms"), "{tip}");
    browser.evaluate("document.querySelector('#percentiles svg').focus()");
    browser.press("End");
    let tip = text(&mut browser, "#percentiles .tip");
    assert!(tip.contains("1 in ") && tip.contains("latency"), "{tip}");
    browser.press("Escape");
    let hidden = "getComputedStyle(document.querySelector('#percentiles .tip')).visibility";
    assert_eq!(browser.evaluate(hidden), "hidden");

    let page = variant(&open, "invalid", |summary| {
        summary.valid = false;
        summary.invalid_because = vec!["it <b>was</b> late".into()];
    });
    look(&mut browser, &page, &directory);
    assert_eq!(text(&mut browser, ".alarm .big"), "INVALID");
    assert!(
        text(&mut browser, ".alarm").contains("it <b>was</b> late"),
        "text is no markup"
    );
    let letters = "parseFloat(getComputedStyle(document.querySelector('.alarm .big')).fontSize)";
    assert!(browser.evaluate(letters).as_f64() > Some(40.0));
    assert!(
        browser
            .evaluate("document.title")
            .as_str()
            .unwrap()
            .starts_with("INVALID")
    );
    let stamps = browser.evaluate("document.querySelectorAll('figure .draw-wide .stamp').length");
    assert_eq!(stamps, 5, "every chart is stamped");

    let page = variant(&open, "lossy", |summary| {
        make_valid(summary);
        (summary.qos, summary.lost, summary.reordered) = (1, 312, 4);
        summary.violations = vec!["312 deliveries were lost".into()];
    });
    look(&mut browser, &page, &directory);
    assert!(
        text(&mut browser, "h1").starts_with("312 of "),
        "the headline is the loss"
    );
    let table = text(&mut browser, "#verification");
    assert!(
        table.contains("breaks what MQTT promises") && table.contains("312"),
        "{table}"
    );
    assert!(text(&mut browser, ".alarm").contains("312 deliveries were lost"));

    let closed = directory.join("closed");
    relayed::run(&format!(
        "fanout -c 4 --closed-loop -F 8 --warmup 1s -d 3s --out {}",
        closed.display()
    ));
    let page = variant(&closed, "window", make_valid);
    look(&mut browser, &page, &directory);
    assert!(text(&mut browser, "h1").ends_with("messages delivered a second"));
    assert!(text(&mut browser, "figcaption").contains("Service time by percentile"));
    assert!(
        text(&mut browser, "#throughput .draw-wide").contains("to be delivered") || {
            let names = browser.evaluate("document.querySelector('#throughput svg').textContent");
            names.as_str().unwrap().contains("to be delivered")
        }
    );

    let page = directory.join("overlay.html");
    files::rebuild(
        &[directory.join("valid"), directory.join("window")],
        Some(&page),
    )
    .unwrap();
    look(&mut browser, &page, &directory);
    assert_eq!(text(&mut browser, "h1"), "2 runs over each other");
    assert!(text(&mut browser, ".deck").contains("Not the same load"));
    assert!(browser.evaluate("document.querySelectorAll('tbody tr').length") == 2);
}

#[test]
fn a_run_without_messages_or_seconds_has_a_page_too() {
    let directory = relayed::directory("page-idle");
    let Some(mut browser) = Chromium::start(&directory.join("profile")) else {
        return;
    };
    let idle = directory.join("idle");
    relayed::run(&format!("conn -c 20 --hold 100ms --out {}", idle.display()));
    let page = variant(&idle, "connections", |summary| {
        make_valid(summary);
        summary.connects_per_s = 5_432.0;
        summary.broker = Some(Broker {
            rss_bytes_per_connection: Some(669.0),
            ..Broker::default()
        });
        summary.connect_us = Some(Percentiles {
            count: 20,
            p50: 640.0,
            ..Percentiles::default()
        });
    });
    look(&mut browser, &page, &directory);
    assert_eq!(
        text(&mut browser, "h1"),
        "20 clients connected, 5,432 a second"
    );
    let tiles = text(&mut browser, ".tile");
    assert!(
        tiles.contains("669 B") && tiles.contains("640 µs"),
        "{tiles}"
    );
    assert_eq!(
        browser.evaluate("document.querySelectorAll('figure').length"),
        0
    );
}
