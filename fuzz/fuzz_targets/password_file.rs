//! See `ringmq_fuzz::password_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::password_file::run(data));
