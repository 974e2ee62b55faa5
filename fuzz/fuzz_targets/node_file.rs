//! Any bytes as the node file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    journal_server::fuzz::run("node_file", data);
});
