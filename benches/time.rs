//! How long each operation takes, beside each other in one run: `cargo bench --bench time [NAME]`.
//!
//! What a change did is better seen in instructions (`scripts/instructions`), which a busy machine does not disturb.

mod ops;

use divan::Bencher;
use ops::{OPS, Op};

fn main() {
    divan::main();
}

#[divan::bench(args = OPS)]
fn op(bencher: Bencher<'_, '_>, op: &Op) {
    bencher.bench_local((op.prepare)());
}
