//! The operations of the hot paths, each by itself: how long they take, and how many instructions.
//!
//! `cargo bench [NAME]` times them beside each other. `scripts/instructions` runs this under callgrind, as
//! `operations --count NAME TIMES`: a count is not disturbed by what else the machine does, a time is.

mod ops;

use divan::Bencher;
use ops::{OPS, Op};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--names"] => OPS.iter().for_each(|op| println!("{}", op.name)),
        ["--count", name, times] => return repeat(name, times),
        _ => divan::main(),
    }
    ExitCode::SUCCESS
}

/// Does one operation a number of times, and before that as often again, so that what grows at first has grown.
fn repeat(name: &str, times: &str) -> ExitCode {
    let op = OPS.iter().find(|op| op.name == name);
    let (Some(op), Ok(times)) = (op, times.parse::<u64>()) else {
        eprintln!("usage: operations --count NAME TIMES; --names tells the names");
        return ExitCode::from(2);
    };
    let mut call = (op.prepare)();
    (0..times).for_each(|_| call());
    counted(&mut *call, times);
    ExitCode::SUCCESS
}

/// Callgrind counts what is done in here.
#[inline(never)]
fn counted(call: &mut dyn FnMut(), times: u64) {
    (0..times).for_each(|_| call());
}

#[divan::bench(args = OPS)]
fn operation(bencher: Bencher<'_, '_>, op: &Op) {
    bencher.bench_local((op.prepare)());
}
