//! Any bytes as a frame, a header, an index: whatever lies on a disk, one piece of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    journal_server::fuzz::run("frame", data);
});
