//! Compiles the protos with a compiler written in Rust: nobody needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/journal.proto",
        "proto/peer.proto",
        "proto/state.proto",
        "proto/bench.proto",
        "proto/etcd.proto",
        "proto/etcd/lock.proto",
        "proto/etcd/election.proto",
        "proto/etcd/health.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Payloads are slices of the buffer they arrived in; nothing copies them.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
