//! Does one operation a number of times, for a tool that counts: `instructions NAME TIMES`; without arguments, the names.
//!
//! `scripts/instructions` runs it twice under callgrind; the difference has no preparation in it.

mod ops;

use ops::OPS;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo passes `--bench` when it runs this itself.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(name) = args.next() else {
        OPS.iter().for_each(|op| println!("{}", op.name));
        return ExitCode::SUCCESS;
    };
    let times = args.next().and_then(|times| times.parse::<u64>().ok());
    let op = OPS.iter().find(|op| op.name == name);
    let (Some(op), Some(times)) = (op, times) else {
        eprintln!("usage: instructions NAME TIMES; the names are printed without arguments");
        return ExitCode::from(2);
    };
    let mut call = (op.prepare)();
    (0..times).for_each(|_| call());
    ExitCode::SUCCESS
}
