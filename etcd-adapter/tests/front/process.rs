//! The program as people start it: what its subcommand shows, and how soon it is there.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::transport::{Authority, ask_http1, start_secured};
use crate::world::World;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-adapter");
/// What is promised; a build for debugging, on a machine that does other things too, may take longer.
const READY_WITHIN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });

async fn hash(args: Vec<String>) -> Output {
    let asked = move || Command::new(PROGRAM).arg("hash").args(args).output().unwrap();
    tokio::task::spawn_blocking(asked).await.unwrap()
}

/// The page that it printed for one address.
fn shown(output: &Output) -> Option<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    output.status.success().then(|| text.split_once(' ').unwrap().1.to_owned())
}

#[tokio::test]
async fn hashes_are_shown_of_adapters_that_demand_certificates_and_of_those_that_do_not() {
    let plain = World::new().await;
    let address = plain.adapter.addresses[0].clone();
    for address in [address.clone(), format!("http://{address}")] {
        let page = shown(&hash(vec![address]).await).unwrap();
        assert!(page.starts_with("{\"applied\":"), "{page}");
    }

    let authority = Authority::new();
    authority.issue("server", "127.0.0.1");
    authority.issue("client", "client.example");
    let adapter = start_secured(&authority, &["--client-cert-auth"]).await;
    let secret = adapter.addresses[0].clone();
    let flag = |name: &str, file: &str| [format!("--{name}"), authority.path(file).display().to_string()];
    let papers = [flag("cert", "client.pem"), flag("key", "client.key")].concat();
    let known = [vec![secret.clone()], flag("cacert", "ca.pem").into()].concat();
    let page = shown(&hash([known.clone(), papers.clone()].concat()).await).unwrap();
    assert!(page.contains("\"hash\":"), "{page}");

    assert_eq!(shown(&hash(known).await), None, "it demands a certificate");
    assert_eq!(shown(&hash(vec![secret.clone()]).await), None, "it speaks no plain text");
    let unknown = hash(vec![format!("https://{secret}")]).await;
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("--cacert"));
    let useless = hash([vec![secret], papers].concat()).await;
    assert_eq!(useless.status.code(), Some(2), "papers are shown to nobody in plain text");
}

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program, and returns once it says that it serves: where.
fn start() -> (Process, String) {
    let listen = ["--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0"];
    let mut command = Command::new(PROGRAM);
    command.arg("--ephemeral").args(listen).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    for line in BufReader::new(process.0.stderr.take().unwrap()).lines() {
        let told: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if told["fields"]["message"] == "ready to serve client requests" {
            return (process, told["fields"]["addresses"].as_str().unwrap().to_owned());
        }
    }
    panic!("it is never ready");
}

#[tokio::test]
async fn an_adapter_that_keeps_everything_in_itself_is_ready_at_once() {
    let mut best = Duration::MAX;
    // One start may fall into a bad moment of the machine.
    for _ in 0..5 {
        let began = Instant::now();
        let (process, address) = tokio::task::spawn_blocking(start).await.unwrap();
        let answer = ask_http1(&address, "/readyz").await;
        best = best.min(began.elapsed());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(process);
    }
    println!("ready {best:?} after the start of the process");
    assert!(best < READY_WITHIN, "ready after {best:?}");
}
