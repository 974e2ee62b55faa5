//! etcd's own command-line client, through its commands.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Ctl, Front, Going};

#[tokio::test]
async fn etcdctl_works_on_an_adapter_that_keeps_everything_in_itself() {
    let front = Front::ephemeral().await;
    let Some(ctl) = Ctl::of(&front.adapters) else { return };
    try_every_command(&ctl);
    front.stop().await;
}

#[tokio::test]
async fn etcdctl_works_through_three_real_journal_nodes() {
    let front = Front::on_a_journal(1).await;
    let Some(ctl) = Ctl::of(&front.adapters) else { return };
    try_every_command(&ctl);
    front.stop().await;
}

#[tokio::test]
#[ignore = "a minute of load: part of `make soak`"]
async fn etcdctl_is_content_with_the_throughput_through_three_real_journal_nodes() {
    let front = Front::on_a_journal(1).await;
    let Some(ctl) = Ctl::of(&front.adapters) else { return };
    let output = ctl.outcome(&["check", "perf", "--load", "s", "--auto-compact", "--auto-defrag"], "");
    let said = String::from_utf8_lossy(&output.stdout);
    // How long the slowest request may take says more about the machine than about us.
    assert!(said.contains("PASS: Throughput is"), "{said}");
    front.stop().await;
}

fn try_every_command(ctl: &Ctl) {
    keys(ctl);
    transactions(ctl);
    watches(ctl);
    leases(ctl);
    locks_and_elections(ctl);
    upkeep(ctl);
    what_is_not_there_yet(ctl);
}

fn revision(ctl: &Ctl) -> i64 {
    let said: Value = serde_json::from_str(&ctl.says(&["get", "nothing", "-w", "json"])).unwrap();
    said["header"]["revision"].as_i64().unwrap()
}

fn keys(ctl: &Ctl) {
    assert_eq!(ctl.says(&["put", "greeting", "hello"]), "OK\n");
    assert_eq!(ctl.says(&["get", "greeting"]), "greeting\nhello\n");
    assert_eq!(ctl.says(&["put", "greeting", "hello again", "--prev-kv"]), "OK\ngreeting\nhello\n");
    assert_eq!(ctl.says(&["get", "greeting", "--print-value-only"]), "hello again\n");
    assert_eq!(ctl.says(&["get", "greeting", "--consistency", "s"]), "greeting\nhello again\n");

    for (key, value) in [("k/b", "2"), ("k/a", "3"), ("k/c", "1")] {
        ctl.says(&["put", key, value]);
    }
    assert_eq!(ctl.says(&["get", "k/", "--prefix", "--keys-only"]), "k/a\n\nk/b\n\nk/c\n\n");
    let by_value = ["get", "k/", "--prefix", "--sort-by", "VALUE", "--order", "DESCEND", "--print-value-only"];
    assert_eq!(ctl.says(&by_value), "3\n2\n1\n");
    assert_eq!(ctl.says(&["get", "k/a", "k/c", "--print-value-only"]), "3\n2\n");
    assert_eq!(ctl.says(&["get", "k/b", "--from-key", "--limit", "1"]), "k/b\n2\n");
    let counted: Value =
        serde_json::from_str(&ctl.says(&["get", "k/", "--prefix", "--limit", "2", "-w", "json"])).unwrap();
    assert_eq!((counted["count"].as_i64(), counted["more"].as_bool()), (Some(3), Some(true)));
    let before = revision(ctl);
    assert_eq!(ctl.says(&["del", "k/a", "--prev-kv"]), "1\nk/a\n3\n");
    assert_eq!(ctl.says(&["del", "k/a"]), "0\n");
    assert_eq!(revision(ctl), before + 1, "deleting nothing is no revision");
    assert_eq!(ctl.says(&["del", "k/", "--prefix"]), "2\n");
    let past = (before).to_string();
    assert_eq!(ctl.says(&["get", "k/a", "--rev", &past, "--print-value-only"]), "3\n");
    let future = (before + 1000).to_string();
    assert!(ctl.fails(&["get", "k/a", "--rev", &future]).contains("mvcc: required revision is a future revision"));
    assert!(ctl.fails(&["get", ""]).contains("key is not provided"));
}

fn transactions(ctl: &Ctl) {
    ctl.says(&["put", "t", "1"]);
    let input = "value(\"t\") = \"1\"\n\nput t 2\nput u 9\n\nget t\n\n";
    assert_eq!(ctl.says_to(&["txn"], input), "SUCCESS\n\nOK\n\nOK\n");
    assert_eq!(ctl.says_to(&["txn"], input), "FAILURE\n\nt\n2\n");
    assert_eq!(ctl.says_to(&["txn"], "mod(\"t\") > \"0\"\nver(\"none\") = \"0\"\n\nget u\n\n\n"), "SUCCESS\n\nu\n9\n");
}

fn watches(ctl: &Ctl) {
    let begun = revision(ctl);
    let from = (begun + 1).to_string();
    ctl.says(&["put", "w/1", "a"]);
    let watch = Going::begin(ctl, &["watch", "w/", "--prefix", "--rev", &from, "--prev-kv"]);
    assert_eq!(watch.next(3), ["PUT", "w/1", "a"]);
    ctl.says(&["put", "w/1", "b"]);
    assert_eq!(watch.next(5), ["PUT", "w/1", "a", "w/1", "b"]);
    ctl.says(&["put", "elsewhere", "x"]);
    ctl.says(&["del", "w/1"]);
    assert_eq!(watch.next(5), ["DELETE", "w/1", "b", "w/1", ""]);
    drop(watch);
    let past = Going::begin(ctl, &["watch", "w/", "--prefix", "--rev", &from]);
    assert_eq!(past.next(9), ["PUT", "w/1", "a", "PUT", "w/1", "b", "DELETE", "w/1", ""]);
}

fn leases(ctl: &Ctl) {
    let granted = ctl.says(&["lease", "grant", "60"]);
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert!(granted.ends_with("granted with TTL(60s)\n"), "{granted}");
    ctl.says(&["put", "leased", "x", "--lease", &id]);
    let told = ctl.says(&["lease", "timetolive", &id, "--keys"]);
    assert!(told.contains("granted with TTL(60s)") && told.contains("attached keys([leased])"), "{told}");
    assert!(ctl.says(&["lease", "list"]).contains(&id));
    assert!(ctl.says(&["lease", "keep-alive", "--once", &id]).contains("keepalived with TTL(60)"));
    assert!(ctl.says(&["lease", "revoke", &id]).contains("revoked"));
    assert_eq!(ctl.says(&["get", "leased"]), "");
    assert!(ctl.fails(&["lease", "revoke", &id]).contains("requested lease not found"));
    assert!(ctl.fails(&["put", "leased", "x", "--lease", &id]).contains("requested lease not found"));
    assert!(ctl.says(&["lease", "timetolive", &id]).contains("already expired"));

    let short = ctl.says(&["lease", "grant", "2"]);
    let id = short.split_whitespace().nth(1).unwrap().to_owned();
    ctl.says(&["put", "short", "x", "--lease", &id]);
    assert_eq!(ctl.says(&["get", "short", "--print-value-only"]), "x\n");
    let begun = std::time::Instant::now();
    while !ctl.says(&["get", "short"]).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never expired");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_millis(1500), "it expired early: {:?}", begun.elapsed());
}

fn locks_and_elections(ctl: &Ctl) {
    assert_eq!(ctl.says(&["lock", "a-lock", "echo", "held"]), "held\n");
    let holder = Going::begin(ctl, &["lock", "a-lock"]);
    assert!(holder.next(1)[0].starts_with("a-lock/"));
    let waiter = Going::begin(ctl, &["lock", "a-lock"]);
    assert!(waiter.lines.recv_timeout(Duration::from_millis(500)).is_err(), "two hold one lock");
    // Interrupted, it gives the lock back.
    interrupt(&holder);
    assert!(waiter.next(1)[0].starts_with("a-lock/"));
    interrupt(&waiter);

    let leader = Going::begin(ctl, &["elect", "an-election", "me"]);
    assert_eq!(leader.next(2)[1], "me");
    let observer = Going::begin(ctl, &["elect", "-l", "an-election"]);
    assert_eq!(observer.next(2)[1], "me");
    interrupt(&leader);
}

fn interrupt(going: &Going) {
    let killed = std::process::Command::new("kill").args(["-INT", &going.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn upkeep(ctl: &Ctl) {
    assert!(ctl.says(&["member", "list"]).contains("started"));
    assert!(ctl.says(&["endpoint", "health"]).is_empty() || ctl.says(&["endpoint", "health"]).contains("is healthy"));
    let status: Value = serde_json::from_str(&ctl.says(&["endpoint", "status", "-w", "json"])).unwrap();
    let status = &status[0]["Status"];
    assert_eq!(status["version"], "3.7.3");
    assert_eq!(status["leader"], status["header"]["member_id"]);
    assert!(ctl.says(&["endpoint", "hashkv"]).contains(','));
    assert!(ctl.says(&["defrag"]).contains("Finished defragmenting"));
    assert_eq!(ctl.says(&["alarm", "list"]), "");
    assert_eq!(ctl.says(&["alarm", "disarm"]), "");

    let compacted = revision(ctl).to_string();
    assert_eq!(ctl.says(&["compact", &compacted]), format!("compacted revision {compacted}\n"));
    assert!(ctl.fails(&["compact", &compacted]).contains("required revision has been compacted"));
    assert!(ctl.fails(&["get", "greeting", "--rev", "2"]).contains("required revision has been compacted"));
    assert_eq!(ctl.says(&["get", "greeting", "--rev", &compacted, "--print-value-only"]), "hello again\n");
    let late = ctl.fails(&["watch", "greeting", "--rev", "1"]);
    assert!(late.contains("canceled"), "{late}");
}

fn what_is_not_there_yet(ctl: &Ctl) {
    assert!(ctl.fails(&["auth", "status"]).contains("Unimplemented"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    assert!(ctl.fails(&["snapshot", "save", file.to_str().unwrap()]).contains("Unimplemented"));
}
