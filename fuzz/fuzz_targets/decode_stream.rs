//! See `ringmq_fuzz::decode_stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::decode_stream::run(data));
