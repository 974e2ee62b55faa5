//! Any bytes as what a client says to an adapter over HTTP/2.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    etcd_adapter::http2::fuzz::session(data);
});
