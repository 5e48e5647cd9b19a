//! See `ringmq_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::config::run(data));
