//! See `ringmq_fuzz::acl_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::acl_file::run(data));
