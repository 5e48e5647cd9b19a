//! See `ringmq_fuzz::ws_frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::ws_frame::run(data));
