//! etcdctl against an adapter and against etcd itself: what it prints of the one, it prints of the other,
//! apart from ids, addresses, sizes and times.

use std::path::Path;
use std::time::Duration;

use chaos::etcd::Etcd;
use serde_json::Value;

use crate::support::{Ctl, Front, Going};

#[tokio::test]
async fn etcdctl_prints_of_an_adapter_what_it_prints_of_etcd() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let Some(program) = chaos::etcd::program(repository).unwrap() else {
        return chaos::skipped("there is no etcd to compare with");
    };
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::alone(&program, dir.path()).await.unwrap();
    let front = Front::ephemeral().await;
    let (Some(theirs), Some(ours)) = (Ctl::at(etcd.endpoints()), Ctl::of(&front.adapters)) else { return };
    let mut pair = Pair { sides: [Side::of(theirs), Side::of(ours)], compared: 0, wrong: Vec::new() };
    compare(&mut pair);
    println!("    etcdctl: {} outputs compared", pair.compared);
    assert!(pair.wrong.is_empty(), "{}", pair.wrong.join("\n"));
    front.stop().await;
    etcd.stop().await;
}

fn compare(pair: &mut Pair) {
    keys(pair);
    transactions(pair);
    watches(pair);
    past(pair);
    members(pair);
    upkeep(pair);
    leases(pair);
    locks(pair);
    mirrors(pair);
}

/// One of the two servers.
struct Side {
    ctl: Ctl,
    own: Own,
}

impl Side {
    fn of(ctl: Ctl) -> Side {
        let list: Value = serde_json::from_str(&ctl.says(&["member", "list", "-w", "json"])).unwrap();
        let member = &list["members"][0];
        let mut own = Own::default();
        own.number(list["header"]["cluster_id"].as_u64().unwrap(), "CLUSTER");
        own.number(member["ID"].as_u64().unwrap(), "MEMBER");
        own.text(member["peerURLs"][0].as_str().unwrap(), "PEER");
        own.text(member["clientURLs"][0].as_str().unwrap(), "CLIENT");
        own.text(ctl.endpoints(), "ENDPOINT");
        // Only where a name can stand.
        let name = member["name"].as_str().unwrap();
        own.text(&format!("started, {name},"), "started, NAME,");
        own.text(&format!("\"name\":\"{name}\""), "\"name\":NAME");
        own.text(&format!("\"Name\" : \"{name}\""), "\"Name\" : NAME");
        own.text(&format!("{name}=PEER"), "NAME=PEER");
        Side { ctl, own }
    }

    fn common(&self, said: &str) -> String {
        let said = self.own.replaced(said);
        said.lines().filter(|line| !line.starts_with("{\"level\"")).map(|line| timeless(line) + "\n").collect()
    }

    /// An argument with this side's own ids in it.
    fn argument(&self, common: &str) -> String {
        self.own.id(common).unwrap_or(common).to_owned()
    }

    /// Exit code, output and complaint.
    fn outcome(&self, args: &[&str], input: &str) -> (Option<i32>, String, String) {
        let args: Vec<_> = args.iter().map(|arg| self.argument(arg)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = self.ctl.outcome(&args, input);
        (output.status.code(), lossy(&output.stdout), lossy(&output.stderr))
    }
}

/// What is one side's own, and what stands for it in comparisons.
#[derive(Default)]
struct Own(Vec<(String, String)>);

impl Own {
    fn text(&mut self, own: &str, common: &str) {
        self.0.push((own.to_owned(), common.to_owned()));
    }

    /// An id is printed in both bases, with zeros or blanks in front or without, and as a signed number too.
    fn number(&mut self, own: u64, common: &str) {
        self.text(&format!("{own:016x}"), common);
        self.text(&format!(" {own:>16x}"), &format!(" {common}"));
        self.text(&format!("{own:x}"), common);
        self.text(&own.to_string(), common);
        self.text(&(own as i64).to_string(), common);
    }

    /// The id that `common` stands for.
    fn id(&self, common: &str) -> Option<&str> {
        self.0.iter().find(|(_, name)| name == common).map(|(own, _)| own.as_str())
    }

    fn replaced(&self, said: &str) -> String {
        self.0.iter().fold(said.to_owned(), |said, (own, common)| said.replace(own, common))
    }
}

/// One id in sixteen begins with a zero, and etcdctl fills some of its places with blanks.
#[test]
fn an_id_is_known_again_however_short_it_is() {
    for id in [u64::MAX, 0x0fed_cba9_8765_4321, 0x00ab_cdef, 7 << 60] {
        let mut own = Own::default();
        own.number(id, "ID");
        let said = format!("added to {id:16x}; {id:x}, {id:016x}; \"id\":{id}, {}", id as i64);
        assert_eq!(own.replaced(&said), "added to ID; ID, ID; \"id\":ID, ID");
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line without how long something took, or how much of a lease is left; the keys of a lease in order,
/// of which etcd has none.
fn timeless(line: &str) -> String {
    let mut line = line.to_owned();
    if let Some(at) = line.find("took ") {
        line.truncate(at);
    }
    if let Some(from) = line.find("remaining(")
        && let Some(length) = line[from..].find("s)")
    {
        line.replace_range(from..from + length, "remaining(SOME");
    }
    const KEYS: &str = "attached keys([";
    if let Some(from) = line.find(KEYS).map(|at| at + KEYS.len())
        && let Some(length) = line[from..].find(']')
    {
        let mut keys: Vec<_> = line[from..from + length].split(' ').collect();
        keys.sort_unstable();
        let keys = keys.join(" ");
        line.replace_range(from..from + length, &keys);
    }
    line
}

struct Pair {
    sides: [Side; 2],
    compared: usize,
    /// What was not the same.
    wrong: Vec<String>,
}

impl Pair {
    /// Does the same at both, and answers what it printed of etcd.
    fn same(&mut self, args: &[&str]) -> String {
        self.same_of(args, "")
    }

    fn same_of(&mut self, args: &[&str], input: &str) -> String {
        let told = self.sides.each_ref().map(|side| {
            let (code, out, complaint) = side.outcome(args, input);
            (code, side.common(&out), side.common(&complaint))
        });
        self.compare(args, &told);
        let [(_, etcd, _), _] = told;
        etcd
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, args: &[&str], [etcd, adapter]: &[T; 2]) {
        self.compared += 1;
        if etcd != adapter {
            self.wrong.push(format!("etcdctl {args:?}\n  of etcd:    {etcd:?}\n  of adapter: {adapter:?}"));
        }
    }

    /// The same for output with an id in it that the server chose: the word at that place of the first line.
    fn chosen(&mut self, args: &[&str], word: usize, common: &str) {
        let told = self.sides.each_mut().map(|side| {
            let (code, out, _) = side.outcome(args, "");
            let id = out.split_whitespace().nth(word).unwrap_or_else(|| panic!("etcdctl {args:?}: {out}")).to_owned();
            side.own.number(u64::from_str_radix(&id, 16).unwrap(), common);
            (code, side.common(&out))
        });
        self.compare(args, &told);
    }

    /// Begins what goes on at both.
    fn begin(&self, args: &[&str]) -> [Going; 2] {
        self.sides.each_ref().map(|side| Going::begin(&side.ctl, args))
    }

    fn same_lines(&mut self, going: &[Going; 2], count: usize) {
        let told = going.each_ref().map(|going| going.next(count));
        self.compare(&["what goes on"], &told);
    }
}

fn keys(pair: &mut Pair) {
    pair.same(&["put", "greeting", "hello"]);
    pair.same(&["put", "greeting", "again", "--prev-kv"]);
    pair.same(&["put", "greeting", "again", "--prev-kv", "-w", "json"]);
    pair.same(&["put", "greeting", "again", "-w", "fields"]);
    pair.same(&["put", "greeting", "--ignore-value"]);
    pair.same(&["put", "missing", "--ignore-value"]);
    pair.same(&["put", "greeting", "x", "--ignore-lease"]);
    pair.same(&["put", "greeting", "x", "--lease", "123"]);
    pair.same_of(&["put", "from-stdin"], "what was read");
    pair.same(&["put"]);
    pair.same(&["put", "", "x"]);
    for (key, value) in [("k/a", "3"), ("k/b", "1"), ("k/c", "2"), ("k/b", "1"), ("l", "")] {
        pair.same(&["put", key, value]);
    }
    for format in ["simple", "json", "fields"] {
        pair.same(&["get", "k/", "--prefix", "-w", format]);
    }
    for flags in [
        &["--prefix", "--keys-only"][..],
        &["--prefix", "--count-only", "-w", "fields"],
        &["--prefix", "--print-value-only"],
        &["--prefix", "--limit", "2", "-w", "json"],
        &["--prefix", "--hex"],
        &["--prefix", "--order", "DESCEND", "--sort-by", "KEY"],
        &["--prefix", "--order", "ASCEND", "--sort-by", "VALUE"],
        &["--prefix", "--order", "DESCEND", "--sort-by", "CREATE"],
        &["--prefix", "--order", "ASCEND", "--sort-by", "MODIFY"],
        &["--prefix", "--order", "ASCEND", "--sort-by", "VERSION", "--limit", "1"],
        &["--prefix", "--sort-by", "VALUE"],
        &["--prefix", "--consistency", "s"],
        &["--from-key"],
        &["--from-key", "--prefix"],
        &["--rev", "100000"],
        &["--rev", "3"],
        &["k/c"],
    ] {
        pair.same(&[&["get", "k/"], flags].concat());
    }
    pair.same(&["get", ""]);
    pair.same(&["get", "", "--prefix", "--keys-only"]);
    pair.same(&["get", "", "--from-key", "--count-only", "-w", "json"]);
    pair.same(&["del", "k/a", "--prev-kv"]);
    pair.same(&["del", "k/a"]);
    pair.same(&["del", "k/", "--prefix", "--prev-kv", "-w", "json"]);
    pair.same(&["del", "k", "l"]);
    pair.same(&["del", ""]);
    pair.same(&["del", "", "--from-key", "-w", "fields"]);
}

fn transactions(pair: &mut Pair) {
    pair.same(&["put", "t", "1"]);
    for input in [
        "value(\"t\") = \"1\"\n\nput t 2\nput u 9\n\nget t\n\n",
        "value(\"t\") = \"1\"\n\nput t 3\n\nget t\nget u\n\n",
        "mod(\"t\") > \"0\"\nver(\"none\") = \"0\"\ncreate(\"t\") != \"1\"\n\nget u\ndel u\n\n\n",
        "ver(\"t\") > \"1\"\n\ndel u t\n\nget t\n\n",
        "value(\"t\") < \"3\"\n\n\n\n",
        "\nput t 1\nput t 2\n\n\n",
    ] {
        pair.same_of(&["txn"], input);
        pair.same_of(&["txn", "-w", "json"], input);
    }
    pair.same(&["get", "", "--prefix", "-w", "json"]);
}

fn watches(pair: &mut Pair) {
    let watch = pair.begin(&["watch", "w/", "--prefix", "--prev-kv", "--rev", "1"]);
    let values =
        pair.begin(&["watch", "w/1", "-w", "fields", "--rev", "1", "--", "sh", "-c", "echo $ETCD_WATCH_VALUE"]);
    pair.same(&["put", "w/1", "a"]);
    pair.same(&["put", "w/1", "b"]);
    pair.same(&["put", "w/2", "c"]);
    pair.same(&["del", "w/", "--prefix"]);
    pair.same_lines(&watch, 3 + 5 + 3 + 5 + 5);
    drop(values);
    let past = pair.begin(&["watch", "w/1", "w/3", "--rev", "2"]);
    pair.same_lines(&past, 9 + 6);
    let json = pair.begin(&["watch", "w/1", "--rev", "2", "-w", "json"]);
    let told = json.each_ref().map(|going| {
        let told: Value = serde_json::from_str(&going.next(1)[0]).unwrap();
        told["Events"].clone()
    });
    pair.compare(&["watch", "-w", "json"], &told);
}

fn past(pair: &mut Pair) {
    pair.same(&["endpoint", "hashkv"]);
    pair.same(&["endpoint", "hashkv", "--rev", "7"]);
    pair.same(&["endpoint", "hashkv", "--rev", "100000"]);
    pair.same(&["compaction", "10"]);
    pair.same(&["compaction", "10"]);
    pair.same(&["compaction", "100000"]);
    pair.same(&["compaction", "12", "--physical"]);
    pair.same(&["compaction", "twelve"]);
    pair.same(&["get", "greeting", "--rev", "11"]);
    pair.same(&["get", "greeting", "--rev", "12", "-w", "json"]);
    pair.same(&["watch", "greeting", "--rev", "5"]);
    pair.same(&["put", "greeting", "after"]);
    pair.same(&["endpoint", "hashkv"]);
    pair.same(&["endpoint", "hashkv", "--rev", "5"]);
}

fn members(pair: &mut Pair) {
    for format in ["simple", "json", "fields"] {
        pair.same(&["member", "list", "-w", format]);
    }
    pair.same(&["member", "list", "--consistency", "s"]);
    pair.same(&["member", "remove", "1234"]);
    pair.same(&["member", "remove", "what"]);
    pair.same(&["member", "remove", "MEMBER"]);
    pair.same(&["member", "promote", "MEMBER"]);
    pair.same(&["member", "update", "1234", "--peer-urls", "http://127.0.0.1:1"]);
    pair.same(&["member", "add", "another", "--peer-urls", "nonsense"]);
    // What follows the first line lists the members in the order of their ids.
    let told = pair.sides.each_mut().map(|side| {
        let add = ["member", "add", "another", "--learner", "--peer-urls", "http://127.0.0.1:1"];
        let (code, out, _) = side.outcome(&add, "");
        let id = out.split_whitespace().nth(1).unwrap().to_owned();
        side.own.number(u64::from_str_radix(&id, 16).unwrap(), "ANOTHER");
        let mut lines: Vec<_> = side.common(&out).split(['\n', ',', '"']).map(str::to_owned).collect();
        lines.sort();
        (code, lines)
    });
    pair.compare(&["member", "add"], &told);
    pair.same(&["member", "promote", "ANOTHER"]);
    pair.same(&["member", "update", "ANOTHER", "--peer-urls", "http://127.0.0.1:2"]);
    pair.same(&["move-leader", "ANOTHER"]);
    pair.same(&["member", "remove", "ANOTHER"]);
    pair.same(&["member", "remove", "ANOTHER"]);
    pair.same(&["move-leader", "1234"]);
    pair.same(&["move-leader", "MEMBER"]);
}

fn upkeep(pair: &mut Pair) {
    pair.same(&["alarm", "list"]);
    pair.same(&["alarm", "disarm"]);
    pair.same(&["defrag"]);
    pair.same(&["downgrade", "validate", "3.6"]);
    pair.same(&["downgrade", "validate", "3.5"]);
    pair.same(&["downgrade", "validate", "nonsense"]);
    pair.same(&["downgrade", "enable", "3.2"]);
    pair.same(&["downgrade", "cancel"]);
    pair.same(&["endpoint", "health"]);
    let status = pair.sides.each_ref().map(|side| {
        let (code, out, _) = side.outcome(&["endpoint", "status", "-w", "json"], "");
        let mut said: Value =
            serde_json::from_str(&side.common(&out).replace(":MEMBER", ":1").replace(":CLUSTER", ":2")).unwrap();
        let status = said[0]["Status"].as_object_mut().unwrap();
        for of_its_own in ["dbSize", "dbSizeInUse", "dbSizeQuota", "raftIndex", "raftAppliedIndex"] {
            assert!(status.remove(of_its_own).unwrap().as_u64().unwrap() > 0, "{of_its_own}");
        }
        (code, said)
    });
    pair.compare(&["endpoint", "status", "-w", "json"], &status);
    let fields = pair.sides.each_ref().map(|side| {
        let (code, out, _) = side.outcome(&["endpoint", "status", "-w", "fields"], "");
        let names: Vec<_> = out.lines().map(|line| line.split(" : ").next().unwrap().to_owned()).collect();
        (code, names)
    });
    pair.compare(&["endpoint", "status", "-w", "fields"], &fields);
}

fn leases(pair: &mut Pair) {
    pair.chosen(&["lease", "grant", "6000"], 1, "FIRST");
    pair.chosen(&["lease", "grant", "600"], 1, "SECOND");
    pair.same(&["lease", "grant", "what"]);
    pair.same(&["lease", "grant", "9000000001"]);
    pair.same(&["put", "leased", "x", "--lease", "FIRST"]);
    pair.same(&["put", "leased/too", "x", "--lease", "FIRST"]);
    pair.same(&["get", "leased", "-w", "fields"]);
    pair.same(&["lease", "timetolive", "FIRST", "--keys"]);
    pair.same(&["lease", "timetolive", "FIRST"]);
    pair.same(&["lease", "timetolive", "123"]);
    pair.same(&["lease", "keep-alive", "FIRST", "--once"]);
    pair.same(&["lease", "keep-alive", "123", "--once"]);
    pair.same(&["put", "leased/too", "x", "--lease", "SECOND"]);
    pair.same(&["lease", "revoke", "FIRST"]);
    pair.same(&["lease", "revoke", "FIRST"]);
    pair.same(&["lease", "list"]);
    pair.same(&["get", "leased", "--prefix"]);
    pair.same(&["lease", "revoke", "SECOND"]);
    pair.same(&["lease", "list"]);
    pair.same(&["get", "leased", "--prefix"]);
}

fn locks(pair: &mut Pair) {
    pair.same(&["lock", "a-lock", "echo", "held"]);
    pair.same(&["lock", "a-lock", "false"]);
    let holders = pair.begin(&["lock", "a-lock"]);
    for holder in &holders {
        assert!(holder.next(1)[0].starts_with("a-lock/"));
    }
    drop(holders);
    let leaders = pair.begin(&["elect", "an-election", "me"]);
    for leader in &leaders {
        let said = leader.next(2);
        assert!(said[0].starts_with("an-election/") && said[1] == "me", "{said:?}");
    }
    let observers = pair.begin(&["elect", "-l", "an-election"]);
    for observer in &observers {
        assert_eq!(observer.next(2)[1], "me");
    }
}

/// Each is made the mirror of the other.
fn mirrors(pair: &mut Pair) {
    for (from, to, prefix) in [(0, 1, "mirror/there/"), (1, 0, "mirror/back/")] {
        let (source, mirror) = (&pair.sides[from].ctl, &pair.sides[to].ctl);
        let key = |number: i32| format!("{prefix}{number}");
        (0..3).for_each(|number| drop(source.says(&["put", &key(number), "before"])));
        let going = Going::begin(source, &["make-mirror", mirror.endpoints(), "--prefix", prefix]);
        let begun = std::time::Instant::now();
        let wait_for = |wanted: &str| {
            while mirror.says(&["get", prefix, "--prefix"]) != wanted {
                assert!(begun.elapsed() < Duration::from_secs(30), "the mirror has not {wanted}");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        wait_for(&(0..3).map(|number| format!("{}\nbefore\n", key(number))).collect::<String>());
        source.says(&["put", &key(1), "after"]);
        source.says(&["del", &key(2)]);
        wait_for(&format!("{}\nbefore\n{}\nafter\n", key(0), key(1)));
        drop(going);
        pair.compared += 1;
    }
}
