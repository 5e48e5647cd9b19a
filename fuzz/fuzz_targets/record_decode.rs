//! See `ringmq_fuzz::record_decode`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::record_decode::run(data));
