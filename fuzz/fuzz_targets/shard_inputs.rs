//! See `ringmq_fuzz::shard_inputs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringmq_fuzz::shard_inputs::run(data));
