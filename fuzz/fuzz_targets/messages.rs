#![no_main]

#[path = "../../journal-server/tests/hostile/bytecode.rs"]
mod bytecode;
#[path = "../../journal-server/tests/hostile/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| messages::read(data));
