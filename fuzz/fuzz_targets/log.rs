//! Any bytes as a log: the files of a group, opened, read, verified, dumped.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    journal_server::fuzz::run("log", data);
});
