//! See `ringmq_fuzz::round_trip`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::round_trip::run(data));
