//! The node's configuration: read once, from flags, environment and a file, and checked as a whole.
//!
//! One table (`settings::SETTINGS`) drives the flags, the variables, the file's keys and the help
//! text; what comes from each of them passes the same parsers. Every problem is reported at once, and
//! says what to change. Nothing outside this module reads the environment.

mod settings;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use settings::Given;
pub use values::Mark;

use crate::raft::TICK;

/// The largest entry that any configuration may allow.
pub const ENTRY_BYTES_CEILING: u64 = 16 << 20;

/// What a message may have around its entries.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// Everything that an operator can say about a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What people call this node. It decides nothing but its place in `--initial-cluster`.
    pub name: String,
    pub data_dir: PathBuf,
    pub listen: Vec<SocketAddr>,
    /// Where other nodes and clients reach this node: `host:port`. Port 0 stands for the port that
    /// listening gave.
    pub advertise: String,
    /// Addresses of other nodes that are called at others instead.
    pub dial: BTreeMap<String, String>,
    /// A second, plaintext listener for health and metrics only.
    pub metrics_listen: Option<SocketAddr>,
    pub start: Start,
    pub tls: Option<Tls>,
    pub rules: Option<PathBuf>,
    pub log: Log,
    pub limits: Limits,
    pub room: Marks,
    /// What the data directory may hold; nothing means all that the file system has.
    pub disk_quota: Option<u64>,
    pub slow_disk: SlowDisk,
    pub scrub: Scrub,
    pub raft: Raft,
    /// How long a planned stop may take before it becomes an unplanned one.
    pub drain: Duration,
    /// How often files that may change (certificates, rules) are looked at.
    pub reload: Duration,
}

/// What a node with an empty data directory does. One that has a cluster ignores it.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Nothing was said: only a directory that belongs to a cluster will do.
    Resume,
    /// Forms a cluster with exactly these.
    Form(InitialCluster),
    /// Waits until a cluster takes it in.
    Join,
}

/// The nodes that form a cluster together, by name, and the token that keeps two lists apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    pub members: BTreeMap<String, String>,
    pub token: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Names (or patterns with `*`) in the certificates of nodes; nobody else may call a node as one.
    pub peer_names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `info`, or directives such as `info,journal_server::raft=debug`.
    pub level: String,
    pub json: bool,
}

/// Sizes. All of them bound memory or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub entry_bytes: u64,
    /// Of one append stream: bytes of entries without an answer.
    pub inflight_bytes: u64,
    pub segment_bytes: u64,
    /// Recent entries kept in memory, a journal.
    pub ring_bytes: u64,
}

impl Limits {
    /// The largest message that carries an entry.
    pub fn message_bytes(&self) -> usize {
        usize::try_from(self.entry_bytes).expect("capped at 16 MiB when parsed") + MESSAGE_OVERHEAD_BYTES
    }
}

/// Free space below which something is refused: low > urgent > reserve > floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Marks {
    pub low: Mark,
    pub urgent: Mark,
    pub reserve: Mark,
    pub floor: Mark,
}

/// How slow is too slow, for one write to reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowDisk {
    pub degraded: Duration,
    /// From here on the node gives leadership away.
    pub slow: Duration,
    /// From here on it exits, unless its peers are no better.
    pub failed: Duration,
}

/// How what nobody reads is read, to find damage while others still have what was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// Of each journal; 0: nothing.
    pub bytes_per_second: u64,
    /// From the begin of a pass over everything to the next.
    pub every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raft {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The command line asked for help or the version, or cannot be read at all.
    Usage(clap::Error),
    /// Every problem found, each saying what to change.
    Invalid(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Usage(usage) => usage.fmt(f),
            LoadError::Invalid(problems) => {
                write!(f, "the configuration has {} problem(s)", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl Config {
    /// From this process's arguments and environment.
    pub fn from_process() -> Result<Config, LoadError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        Config::load(std::env::args_os(), environment.collect())
    }

    /// From these arguments (the program's name first) and variables. A flag wins over a variable,
    /// a variable over the file, the file over the default.
    pub fn load<A: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = A>,
        environment: BTreeMap<String, String>,
    ) -> Result<Config, LoadError> {
        build(&Given::collect(args, &environment)?)
    }
}

fn build(given: &Given) -> Result<Config, LoadError> {
    let mut problems = Vec::new();
    let p = &mut problems;

    let limits = Limits {
        entry_bytes: given.get(p, "entry-max", values::size).unwrap_or_default(),
        inflight_bytes: given.get(p, "inflight-max", values::size).unwrap_or_default(),
        segment_bytes: given.get(p, "segment-size", values::size).unwrap_or_default(),
        ring_bytes: given.get(p, "ring-size", values::size).unwrap_or_default(),
    };
    let room = Marks {
        low: given.get(p, "room-low", values::mark).unwrap_or_default(),
        urgent: given.get(p, "room-urgent", values::mark).unwrap_or_default(),
        reserve: given.get(p, "room-reserve", values::mark).unwrap_or_default(),
        floor: given.get(p, "room-floor", values::mark).unwrap_or_default(),
    };
    let slow_disk = SlowDisk {
        degraded: given.get(p, "disk-degraded", values::duration).unwrap_or_default(),
        slow: given.get(p, "disk-slow", values::duration).unwrap_or_default(),
        failed: given.get(p, "disk-failed", values::duration).unwrap_or_default(),
    };
    let scrub = Scrub {
        bytes_per_second: given.get(p, "scrub-rate", values::size).unwrap_or_default(),
        every: given.get(p, "scrub-interval", values::duration).unwrap_or_default(),
    };
    let raft = Raft {
        heartbeat: given.get(p, "heartbeat", values::duration).unwrap_or_default(),
        election_min: given.get(p, "election-min", values::duration).unwrap_or_default(),
        election_max: given.get(p, "election-max", values::duration).unwrap_or_default(),
    };
    let reload = given.get(p, "reload-interval", values::duration).unwrap_or_default();
    // What cannot be read cannot be compared either.
    if p.is_empty() {
        check_limits(&limits, p);
        check_marks(&room, p);
        check_times(&slow_disk, &raft, reload, p);
    }

    let name = given.get(p, "name", values::node_name).unwrap_or_default();
    let data_dir = given.path(p, "data-dir").unwrap_or_default();
    let listen = given.list(p, "listen", values::socket);
    let tls = build_tls(given, p);
    let start = build_start(given, p, &name);
    let config = Config {
        advertise: build_advertise(given, p, &start, &name, &listen),
        dial: given.list(p, "dial", values::detour).into_iter().collect(),
        metrics_listen: given.get(p, "metrics-listen", values::socket),
        rules: given.path(p, "rules"),
        log: Log {
            level: given.get(p, "log-level", values::log_level).unwrap_or_default(),
            json: given.get(p, "log-format", values::log_format).unwrap_or_default(),
        },
        disk_quota: given.get(p, "disk-quota", values::size).filter(|quota| *quota > 0),
        drain: given.get(p, "drain-timeout", values::duration).unwrap_or_default(),
        name,
        data_dir,
        listen,
        start,
        tls,
        limits,
        room,
        slow_disk,
        scrub,
        raft,
        reload,
    };
    check_plaintext(&config, given.get(p, "allow-plaintext", values::boolean).unwrap_or(false), p);

    match problems.is_empty() {
        true => Ok(config),
        false => Err(LoadError::Invalid(problems)),
    }
}

fn build_tls(given: &Given, problems: &mut Vec<String>) -> Option<Tls> {
    let [ca, cert, key] = ["tls-ca", "tls-cert", "tls-key"].map(|name| (name, given.path(problems, name)));
    let peer_names = given.list(problems, "tls-peer-names", values::pattern);
    let missing: Vec<_> = [&ca, &cert, &key].iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
    if missing.len() == 3 {
        if !peer_names.is_empty() {
            problems.push("tls-peer-names: there is no TLS: set tls-ca, tls-cert and tls-key too".into());
        }
        return None;
    }
    if !missing.is_empty() {
        problems.push(format!("{}: TLS needs tls-ca, tls-cert and tls-key together", missing.join(", ")));
        return None;
    }
    if peer_names.is_empty() {
        problems.push(
            "tls-peer-names: name the certificates of this cluster's nodes (`journal-*.example.org`): without it \
             any client could pose as a node"
                .into(),
        );
    }
    Some(Tls { ca: ca.1?, cert: cert.1?, key: key.1?, peer_names })
}

fn build_start(given: &Given, problems: &mut Vec<String>, name: &str) -> Start {
    let join = given.get(problems, "join", values::boolean).unwrap_or(false);
    let token = given.get(problems, "cluster-token", values::text);
    let listed = given.list(problems, "initial-cluster", values::member);
    if listed.is_empty() {
        if token.is_some() {
            problems.push("cluster-token: it belongs to initial-cluster, which is not set".into());
        }
        return if join { Start::Join } else { Start::Resume };
    }
    if join {
        problems.push(
            "join: a node either forms a cluster (initial-cluster) or joins one that runs (join): drop one of the two"
                .into(),
        );
    }
    let mut members = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (member, address) in listed {
        if let Some(other) = addresses.insert(address.clone(), member.clone()) {
            problems.push(format!("initial-cluster: `{member}` and `{other}` have the same address {address}"));
        }
        if members.insert(member.clone(), address).is_some() {
            problems.push(format!("initial-cluster: `{member}` is in it twice: give each node a name of its own"));
        }
    }
    if !name.is_empty() && !members.contains_key(name) {
        let names: Vec<_> = members.keys().map(String::as_str).collect();
        problems.push(format!(
            "initial-cluster: this node is called `{name}`, which is not among {}: set name to one of them, or add \
             `{name}=host:port`",
            names.join(", ")
        ));
    }
    match members.len() {
        count @ 8.. => problems.push(format!(
            "initial-cluster: {count} nodes: start with 3 or 5 (7 at most), each vote costs every append"
        )),
        count @ (2 | 4 | 6) => problems.push(format!(
            "initial-cluster: {count} nodes: start with 3 or 5 (or 1, to try it out); an even number survives the \
             loss of no more nodes than one fewer does"
        )),
        _ => {}
    }
    Start::Form(InitialCluster { members, token: token.unwrap_or_default() })
}

/// What was said, else the own address of the list, else the first address listened on.
fn build_advertise(
    given: &Given,
    problems: &mut Vec<String>,
    start: &Start,
    name: &str,
    listen: &[SocketAddr],
) -> String {
    let said = given.get(problems, "advertise", values::address);
    let listed = match start {
        Start::Form(initial) => initial.members.get(name).cloned(),
        Start::Resume | Start::Join => None,
    };
    match (said, listed) {
        (Some(said), Some(listed)) if said != listed => {
            problems.push(format!(
                "advertise: {said}, but initial-cluster says {listed} for `{name}`: make them the same (or leave \
                 advertise out)"
            ));
            said
        }
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => match listen.first() {
            Some(first) if first.ip().is_unspecified() => {
                problems.push(format!(
                    "advertise: {first} listens everywhere and is no address to call: set advertise to the \
                     host:port at which other nodes and clients reach this one"
                ));
                String::new()
            }
            Some(first) => first.to_string(),
            None => String::new(),
        },
    }
}

fn check_plaintext(config: &Config, allowed: bool, problems: &mut Vec<String>) {
    if config.tls.is_some() || allowed {
        return;
    }
    for address in config.listen.iter().filter(|address| !address.ip().is_loopback()) {
        problems.push(format!(
            "listen: {address} is not loopback and there is no TLS: set tls-ca, tls-cert and tls-key, or say \
             allow-plaintext if the network itself is trusted with every entry"
        ));
    }
}

fn check_limits(limits: &Limits, problems: &mut Vec<String>) {
    if !(1024..=ENTRY_BYTES_CEILING).contains(&limits.entry_bytes) {
        problems.push("entry-max: it must lie between 1KiB and 16MiB".into());
    }
    if limits.inflight_bytes < limits.entry_bytes {
        problems.push("inflight-max: it must hold at least one entry: raise it to entry-max or more".into());
    }
    if limits.ring_bytes < limits.entry_bytes {
        problems.push("ring-size: it must hold at least one entry: raise it to entry-max or more".into());
    }
    if limits.segment_bytes < 2 * limits.entry_bytes || limits.segment_bytes > 4 << 30 {
        problems.push("segment-size: it must lie between twice entry-max and 4GiB".into());
    }
}

/// Percentages and bytes can only be compared once the disk is known: [`Mark::bytes_of`] again then.
fn check_marks(marks: &Marks, problems: &mut Vec<String>) {
    let names = ["room-low", "room-urgent", "room-reserve", "room-floor"];
    let list = [marks.low, marks.urgent, marks.reserve, marks.floor];
    for i in 0..3 {
        if list[i].surely_at_most(list[i + 1]) {
            problems.push(format!(
                "{} ({}) must be above {} ({}): the marks are room-low > room-urgent > room-reserve > room-floor",
                names[i],
                list[i],
                names[i + 1],
                list[i + 1]
            ));
        }
    }
}

fn check_times(disk: &SlowDisk, raft: &Raft, reload: Duration, problems: &mut Vec<String>) {
    if !(disk.degraded < disk.slow && disk.slow < disk.failed) {
        problems.push("disk-degraded < disk-slow < disk-failed is not so: order them".into());
    }
    if raft.heartbeat.is_zero() || !raft.heartbeat.as_millis().is_multiple_of(TICK.as_millis()) {
        let tick = TICK.as_millis();
        problems.push(format!("heartbeat: a node looks at its clock every {tick}ms: write a multiple of that"));
    }
    if raft.election_min < 2 * raft.heartbeat {
        problems.push("election-min: it must be at least twice heartbeat".into());
    }
    if raft.election_max < raft.election_min + TICK {
        let tick = TICK.as_millis();
        problems.push(format!("election-max: it must be {tick}ms above election-min, or elections collide for ever"));
    }
    if reload.is_zero() {
        problems.push("reload-interval: 0 would never rest: write 1s or more".into());
    }
}

/// Reads a configuration file; its keys are the settings' names.
fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("config: cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str]) -> Result<Config, LoadError> {
        load_with(args, &[])
    }

    fn load_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Config, LoadError> {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::load(["journal-server"].iter().chain(args), environment)
    }

    const LEAST: [&str; 4] = ["--name", "a", "--data-dir", "/data"];

    fn with_least<'a>(more: &[&'a str]) -> Vec<&'a str> {
        LEAST.iter().copied().chain(more.iter().copied()).collect()
    }

    #[test]
    fn the_least_configuration_listens_on_loopback_with_the_documented_defaults() {
        let config = load(&LEAST).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:7400".parse().unwrap()]);
        assert_eq!(config.advertise, "127.0.0.1:7400");
        assert_eq!(config.start, Start::Resume);
        assert_eq!(config.tls, None);
        // openraft tells at info what only its authors want to know.
        assert_eq!(config.log.level, "info,openraft=warn");
        assert_eq!(config.limits.entry_bytes, 4 << 20);
        assert_eq!(config.limits.message_bytes(), (4 << 20) + (64 << 10));
        assert_eq!(config.slow_disk.degraded, Duration::from_millis(100));
        assert_eq!(config.slow_disk.slow, Duration::from_secs(1));
        assert_eq!(config.slow_disk.failed, Duration::from_secs(10));
        assert_eq!(config.raft.heartbeat, Duration::from_millis(200));
        assert_eq!(config.raft.election_max, Duration::from_secs(1));
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal.toml");
        std::fs::write(&file, "heartbeat = \"400ms\"\nelection-min = \"800ms\"\nelection-max = \"900ms\"\n").unwrap();
        let args = with_least(&["--config", file.to_str().unwrap(), "--election-max", "2s"]);
        let variables = [("JOURNAL_ELECTION_MAX", "3s"), ("JOURNAL_ELECTION_MIN", "1s")];
        let config = load_with(&args, &variables).unwrap();
        assert_eq!(config.raft.election_max, Duration::from_secs(2), "the flag");
        assert_eq!(config.raft.election_min, Duration::from_secs(1), "the variable");
        assert_eq!(config.raft.heartbeat, Duration::from_millis(400), "the file");
        assert_eq!(config.limits.ring_bytes, 16 << 20, "the default");
    }

    #[test]
    fn the_file_takes_texts_numbers_switches_and_lists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal.toml");
        let text = "name = \"b\"\ndata-dir = \"/d\"\nentry-max = 65536\njoin = true\n\
                    listen = [\"127.0.0.1:1\", \"127.0.0.2:2\"]\n";
        std::fs::write(&file, text).unwrap();
        let variables = [("JOURNAL_CONFIG", file.to_str().unwrap())];
        let config = load_with(&[], &variables).unwrap();
        assert_eq!(config.name, "b");
        assert_eq!(config.limits.entry_bytes, 65536);
        assert_eq!(config.start, Start::Join);
        assert_eq!(config.listen.len(), 2);
    }

    #[test]
    fn variables_of_other_programs_and_empty_ones_are_ignored() {
        let variables = [("JOURNAL_SERVICE_HOST", "10.0.0.1"), ("JOURNAL_PORT", "tcp://x"), ("JOURNAL_JOIN", "")];
        assert_eq!(load_with(&LEAST, &variables).unwrap().start, Start::Resume);
    }

    #[test]
    fn a_member_of_the_list_advertises_what_the_list_says() {
        let args = with_least(&[
            "--initial-cluster",
            "c=h3:7400,a=h1:7400,b=h2:7400",
            "--listen",
            "0.0.0.0:7400",
            "--allow-plaintext",
            "--cluster-token",
            "t",
        ]);
        let config = load(&args).unwrap();
        assert_eq!(config.advertise, "h1:7400");
        let Start::Form(initial) = config.start else { panic!("{:?}", config.start) };
        assert_eq!(initial.token, "t");
        assert_eq!(initial.members.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_wrong_setting_is_refused_with_what_to_change() {
        let tls = ["--tls-ca", "ca", "--tls-cert", "c", "--tls-key", "k"];
        let table: &[(&[&str], &str)] = &[
            (&["--name", "a b"], "name: `a b` (flag --name): use 1 to 64 of a-z A-Z 0-9 - _ ."),
            (&["--listen", "nonsense"], "listen: `nonsense` (flag --listen): write ip:port"),
            (&["--listen", "10.0.0.1:7400"], "10.0.0.1:7400 is not loopback and there is no TLS"),
            (&["--listen", "0.0.0.0:1", "--allow-plaintext"], "set advertise to the host:port"),
            (&["--advertise", "host"], "advertise: `host` (flag --advertise): write host:port"),
            (&["--entry-max", "5 parsecs"], "entry-max: `5 parsecs` (flag --entry-max): write bytes"),
            (&["--entry-max", "17MiB", "--inflight-max", "64MiB"], "entry-max: it must lie between 1KiB and 16MiB"),
            (&["--inflight-max", "1MiB"], "inflight-max: it must hold at least one entry"),
            (&["--ring-size", "1KiB"], "ring-size: it must hold at least one entry"),
            (&["--segment-size", "5MiB"], "segment-size: it must lie between twice entry-max and 4GiB"),
            (&["--room-low", "1MiB"], "room-low (1MiB) must be above room-urgent"),
            (&["--room-low", "110%"], "room-low: `110%` (flag --room-low): write bytes"),
            (&["--disk-slow", "50ms"], "disk-degraded < disk-slow < disk-failed"),
            (&["--heartbeat", "150ms"], "heartbeat: a node looks at its clock every 200ms"),
            (&["--heartbeat", "400ms"], "election-min: it must be at least twice heartbeat"),
            (&["--election-max", "600ms"], "election-max: it must be 200ms above election-min"),
            (&["--reload-interval", "0s"], "reload-interval: 0 would never rest"),
            (&["--heartbeat", "fast"], "heartbeat: `fast` (flag --heartbeat): write 100ms"),
            (&["--tls-ca", "x"], "tls-cert, tls-key: TLS needs tls-ca, tls-cert and tls-key together"),
            (&tls, "tls-peer-names: name the certificates"),
            (&["--tls-peer-names", "x"], "tls-peer-names: there is no TLS"),
            (&["--initial-cluster", "b=h:1"], "this node is called `a`, which is not among b"),
            (&["--initial-cluster", "a=h:1,a=h:2"], "`a` is in it twice"),
            (&["--initial-cluster", "a=h:1,b=h:1"], "`b` and `a` have the same address h:1"),
            (&["--initial-cluster", "a=h:1,b=h:2"], "initial-cluster: 2 nodes: start with 3 or 5 (or 1"),
            (&["--initial-cluster", "a=h:1,b=h:2,c=h:3,d=h:4"], "initial-cluster: 4 nodes"),
            (&["--initial-cluster", "a"], "initial-cluster: `a` (flag --initial-cluster): write name=host:port"),
            (&["--initial-cluster", "a=h:1", "--join"], "join: a node either forms a cluster"),
            (&["--initial-cluster", "a=h:1", "--advertise", "x:1"], "advertise: x:1, but initial-cluster says h:1"),
            (&["--cluster-token", "t"], "cluster-token: it belongs to initial-cluster"),
            (&["--log-format", "xml"], "log-format: `xml` (flag --log-format): write text or json"),
            (&["--log-level", "inf=o=x"], "log-level: `inf=o=x` (flag --log-level)"),
            (&["--join=perhaps"], "join: `perhaps` (flag --join): write true or false"),
            (&["--config", "/nowhere/journal.toml"], "config: cannot read /nowhere/journal.toml"),
        ];
        for (args, expected) in table {
            let error = load(&with_least_unless_named(args)).expect_err(expected).to_string();
            assert!(error.contains(expected), "{args:?} gave: {error}");
        }
    }

    fn with_least_unless_named<'a>(args: &[&'a str]) -> Vec<&'a str> {
        let named = args.contains(&"--name");
        let least = if named { &LEAST[2..] } else { &LEAST[..] };
        least.iter().chain(args).copied().collect()
    }

    #[test]
    fn what_is_missing_is_named_and_all_problems_come_at_once() {
        let error = load(&["--heartbeat", "x", "--ring-size", "y"]).unwrap_err().to_string();
        for part in ["4 problem(s)", "name: it is not set", "data-dir: it is not set", "heartbeat:", "ring-size:"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn a_problem_names_the_variable_or_the_file_it_came_from() {
        let error = load_with(&LEAST, &[("JOURNAL_ENTRY_MAX", "x")]).unwrap_err().to_string();
        assert!(error.contains("entry-max: `x` (JOURNAL_ENTRY_MAX)"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("j.toml");
        let check = |text: &str, expected: &str| {
            std::fs::write(&file, text).unwrap();
            let error = load(&with_least(&["--config", file.to_str().unwrap()])).unwrap_err().to_string();
            assert!(error.contains(expected), "{text} gave: {error}");
        };
        check("entry-max = \"x\"", &format!("entry-max: `x` ({})", file.display()));
        check("entry_max = \"1MiB\"", "`entry_max` is not a setting; did you mean `entry-max`?");
        check("colour = 1", "`colour` is not a setting; --help lists them");
        check("listen = ", "is not TOML");
        check("name = 1979-05-27", "name: write a text, a number, true or false, or a list of texts");
    }

    #[test]
    fn unknown_flags_and_help_are_left_to_the_command_line() {
        assert!(matches!(load(&["--colour", "red"]), Err(LoadError::Usage(_))));
        let Err(LoadError::Usage(help)) = load(&["--help"]) else { panic!("no help") };
        let help = help.to_string();
        for setting in settings::SETTINGS {
            assert!(help.contains(&format!("--{}", setting.name)), "--{} is not in the help", setting.name);
            assert!(help.contains(&setting.variable()), "{} is not in the help", setting.variable());
        }
    }

    /// The documented file must name every setting, with its default, and be a configuration that works.
    #[test]
    fn the_example_file_names_every_setting_and_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/journal.example.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut uncommented = String::new();
        for line in text.lines() {
            // `#key = value` is a setting that is off; `# words` is prose.
            let line = match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => rest,
                _ => line,
            };
            uncommented.push_str(line);
            uncommented.push('\n');
        }
        let table: toml::Table = uncommented.parse().unwrap();
        for setting in settings::SETTINGS.iter().filter(|setting| setting.name != "config") {
            assert!(table.contains_key(setting.name), "{} is not in {}", setting.name, path.display());
            if !setting.default.is_empty() && text.contains(&format!("#{} = ", setting.name)) {
                let line = format!("#{} = \"{}\"\n", setting.name, setting.default);
                assert!(text.contains(&line), "{line} is not in {}", path.display());
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal.toml");
        // Forming and joining exclude each other; the example shows both.
        std::fs::write(&file, uncommented.replace("join = true", "join = false")).unwrap();
        load(&["--config", file.to_str().unwrap()]).unwrap();
        std::fs::write(&file, &text).unwrap();
        load(&["--config", file.to_str().unwrap()]).expect("the example as it stands");
    }
}
