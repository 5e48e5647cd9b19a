//! See `ringmq_fuzz::token`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::token::run(data));
