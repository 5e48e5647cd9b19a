//! See `ringmq_fuzz::retained_scan`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::retained_scan::run(data));
