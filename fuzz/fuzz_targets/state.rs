//! Any bytes as control entries and versions of the replicated state.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    journal_server::fuzz::run("state", data);
});
