//! See `ringmq_fuzz::filter_match`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::filter_match::run(data));
