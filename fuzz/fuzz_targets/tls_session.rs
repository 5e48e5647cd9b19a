//! See `ringmq_fuzz::tls_session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::tls_session::run(data));
