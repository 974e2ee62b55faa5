//! Any bytes as every message of clients and peers, and what is checked of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    journal_server::fuzz::run("wire", data);
});
