//! What somebody types on the first day: `chaos cluster`, then the operator's tool.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Options, beside_this_program};
use serde_json::Value;

/// The tool, pointed at a cluster.
struct Tool {
    endpoints: String,
}

impl Tool {
    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(beside_this_program("journal").unwrap())
            .env("JOURNAL_ENDPOINTS", &self.endpoints)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// What it prints, if it succeeds.
    fn says(&self, args: &[&str]) -> String {
        self.says_to(args, "")
    }

    fn says_to(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "journal {args:?}: {:?} {complained}", output.status);
        said
    }

    fn code(&self, args: &[&str]) -> i32 {
        self.run(args, "").status.code().unwrap()
    }
}

#[tokio::test]
async fn the_tool_does_what_its_help_says() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let tool = Tool { endpoints: cluster.endpoints().join(",") };

    assert!(tool.says(&["create", "audit"]).starts_with("created audit"));
    assert!(tool.says(&["create", "audit"]).starts_with("exists audit"));
    assert_eq!(tool.code(&["create", "audit", "--new"]), 1);
    assert_eq!(tool.code(&["create", "NOT A NAME"]), 2);
    assert_eq!(tool.code(&["tail", "nothing-of-that-name"]), 1);

    let first: u64 = tool.says(&["append", "audit", "hello"]).trim().parse().unwrap();
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    let positions = tool.says_to(&["append", "audit"], &lines);
    let positions: Vec<u64> = positions.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(positions.len(), 1000);
    assert!(positions.is_sorted() && positions[0] > first);

    let read = tool.says(&["tail", "audit", "--raw"]);
    assert_eq!(read, format!("hello\n{lines}"), "what was written is what is read, in order");
    let two = tool.says(&["tail", "audit", "--from", &positions[10].to_string(), "--limit", "2"]);
    assert_eq!(two, format!("{}\tline 10\n{}\tline 11\n", positions[10], positions[11]));

    tool.says(&["trim", "audit", &positions[500].to_string()]);
    let rest = tool.says(&["tail", "audit", "--raw"]);
    assert!(rest.starts_with("line 500\n"), "{}", rest.lines().next().unwrap_or("nothing"));
    assert_eq!(tool.code(&["tail", "audit", "--from", &first.to_string()]), 1, "trimmed entries were promised");

    let status: Value = serde_json::from_str(&tool.says(&["status", "--json"])).unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(status["nodes"][0]["disk"]["path"], cluster.node(0).dir().display().to_string());
    assert!(status["journals"].as_array().unwrap().iter().any(|journal| journal["name"] == "audit"));
    tool.says(&["status", "--check"]);
    tool.says(&["top", "--once", "--every", "0.2"]);
    tool.says(&["quota", "audit", "1GiB"]);
    assert!(tool.says(&["quota", "audit"]).contains("1.0 GiB"));
    tool.says(&["transfer-leader", "audit"]);
    let moved = tool.says(&["transfer-leader", "audit", "--to", "n2"]);
    assert!(moved.starts_with("audit is led by n2 "), "{moved}");
    assert_eq!(tool.says(&["transfer-leader", "audit", "--to", "n2"]), "audit is led by n2 already\n");
    let moved = tool.says(&["transfer-leader", "system"]);
    assert!(moved.starts_with("system is led by n") && moved.ends_with(" now\n"), "{moved}");
    assert_eq!(tool.code(&["transfer-leader", "nothing-of-that-name"]), 1);

    // What is refused is refused, and nobody is told that it might have happened.
    let refused = tool.run(&["members", "promote", "n1"], "");
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("votes already") && !complaint.contains("confirmed"), "{complaint}");
    assert_eq!(tool.code(&["members", "remove", "n1"]), 2, "it removes a node without being told to");
    tool.says(&["members", "list"]);
    assert!(tool.says(&["list", "--json"]).contains("audit"));
    assert_eq!(tool.code(&["delete", "audit"]), 2, "it deletes without being told to");
    tool.says(&["delete", "audit", "--yes"]);
    assert!(!tool.says(&["list"]).contains("audit"));
    assert!(tool.says(&["completions", "bash"]).contains("journal"));

    cluster.stop().await;
    assert_eq!(tool.code(&["--timeout", "1", "list"]), 3);
}

#[tokio::test]
async fn whoever_shows_no_certificate_is_told_that_this_may_be_why_nobody_answers() {
    let cluster = Cluster::start(Options { tls: true, ..Options::default() }).await.unwrap();
    let tool = Tool { endpoints: cluster.endpoints().join(",") };
    let ca = cluster.papers("operator").unwrap().ca.display().to_string();
    let silent = tool.run(&["--timeout", "1", "--tls-ca", &ca, "list"], "");
    let complaint = String::from_utf8_lossy(&silent.stderr).into_owned();
    assert_eq!(silent.status.code(), Some(3), "{complaint}");
    assert!(complaint.contains("--tls-cert"), "{complaint}");
}

#[tokio::test]
async fn a_change_that_nobody_confirms_is_told_from_one_that_nobody_heard_of() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let tool = Tool { endpoints: cluster.endpoints().join(",") };
    // Two of three hear what is asked, and say nothing.
    (0..2).for_each(|number| cluster.node(number).pause());
    let unknown = tool.run(&["members", "promote", "n3"], "");
    (0..2).for_each(|number| cluster.node(number).resume());
    let complaint = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(4), "{complaint}");
    assert!(complaint.contains("not confirmed") && complaint.contains("journal status"), "{complaint}");
}

#[test]
fn chaos_cluster_tells_where_it_is_stops_on_ctrl_c_and_starts_again_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let (mut chaos, told) = start(dir.path());
    let endpoints = endpoints(&told);
    let tool = Tool { endpoints: endpoints.clone() };
    tool.says(&["create", "kept"]);
    tool.says(&["append", "kept", "over a restart"]);
    signal(chaos.id(), "INT");
    assert!(chaos.wait().unwrap().success());
    assert!(pids(&told).iter().all(|pid| !alive(*pid)), "a node outlived its cluster");

    let (mut chaos, told) = start(dir.path());
    assert_eq!(self::endpoints(&told), endpoints, "the ports changed");
    assert_eq!(tool.says(&["tail", "kept", "--raw"]), "over a restart\n");
    signal(chaos.id(), "TERM");
    assert!(chaos.wait().unwrap().success());
}

#[test]
fn nodes_die_with_the_program_that_started_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut chaos, told) = start(dir.path());
    signal(chaos.id(), "KILL");
    chaos.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while pids(&told).iter().any(|pid| alive(*pid)) {
        assert!(Instant::now() < deadline, "a node outlived the program that started it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `chaos cluster`, and what it says when it is ready.
fn start(dir: &Path) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(["cluster", "--json", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "it ended before it was ready");
    (child, serde_json::from_str(&line).unwrap())
}

fn endpoints(told: &Value) -> String {
    let endpoints = told["endpoints"].as_array().unwrap().iter();
    endpoints.map(|endpoint| endpoint.as_str().unwrap()).collect::<Vec<_>>().join(",")
}

fn pids(told: &Value) -> Vec<u64> {
    told["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap()).collect()
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// Whether it runs. A zombie does not.
fn alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
