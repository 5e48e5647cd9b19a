//! See `ringmq_fuzz::http_upgrade`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::http_upgrade::run(data));
