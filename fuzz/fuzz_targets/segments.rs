#![no_main]

#[path = "../../journal-server/tests/hostile/bytecode.rs"]
mod bytecode;
#[path = "../../journal-server/tests/hostile/segments.rs"]
mod segments;

libfuzzer_sys::fuzz_target!(|data: &[u8]| segments::open_and_use(data));
