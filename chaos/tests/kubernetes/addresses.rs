//! Other ways to an adapter than a plaintext port.

use std::path::{Path, PathBuf};

use chaos::cluster::{Papers, issue, papers};
use chaos::kubernetes::{Storage, Upkeep};

use crate::support::Stack;

/// The names in the certificates.
const ADAPTER: &str = "adapter";
const CALLER: &str = "operator";

#[tokio::test]
#[ignore = "make test-kubernetes"]
async fn api_servers_reach_an_adapter_by_a_unix_socket_and_by_tls_with_certificates() {
    let stack = Stack::start_with(1, |home, free_port| {
        let tls = home.join("tls");
        issue(&tls, &[ADAPTER]).unwrap();
        let shown = papers(&tls, ADAPTER);
        vec![
            format!("--listen-client-http-urls=unix://{},https://127.0.0.1:{free_port}", socket(home).display()),
            format!("--cert-file={}", shown.cert.display()),
            format!("--key-file={}", shown.key.display()),
            format!("--trusted-ca-file={}", shown.ca.display()),
            "--client-cert-auth".into(),
        ]
    })
    .await;
    let home = stack.home(0);
    let by_socket = Storage { endpoints: vec![format!("unix://{}", socket(&home).display())], papers: None };
    let caller: Papers = papers(&home.join("tls"), CALLER);
    let by_tls = Storage { endpoints: vec![format!("https://127.0.0.1:{}", stack.free_port(0))], papers: Some(caller) };

    let first = stack.plane.api_server(0, &by_socket, &Upkeep::default()).unwrap();
    println!("by a unix socket: ready after {:.2} s", stack.plane.ready(&first).await.unwrap().as_secs_f64());
    let second = stack.plane.api_server(1, &by_tls, &Upkeep::default()).unwrap();
    println!("by TLS: ready after {:.2} s", stack.plane.ready(&second).await.unwrap().as_secs_f64());
    // What one writes the other shows, within the same checks.
    stack.drive(&[&first, &second], "load", &["--for=10s"]).await;
    stack.drive(&[&first, &second], "caches", &[]).await;
    stack.stop(vec![first, second]).await;
}

fn socket(home: &Path) -> PathBuf {
    home.join("etcd.sock")
}
