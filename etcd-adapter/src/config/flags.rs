//! Every flag there is: etcd's, with etcd's names, and the journal's.
//!
//! A flag is used, or it makes no sense without a Raft and a bbolt of our own and is accepted with a
//! warning, or it asks for something that would be dangerous to pretend. One that is in no list is an
//! error.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, Command};

use super::LoadError;

/// A flag that means something here.
pub struct Flag {
    heading: &'static str,
    pub name: &'static str,
    /// What stands for the value in the help; empty for yes or no.
    value: &'static str,
    default: &'static str,
    help: &'static str,
}

const fn flag(
    heading: &'static str,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { heading, name, value, default, help }
}

const WHO: &str = "Who this is";
const CLIENTS: &str = "Clients";
const JOURNAL: &str = "The journal";
const TLS: &str = "TLS towards clients";
const LIMITS: &str = "Limits";
const UPKEEP: &str = "Upkeep";
const LOGS: &str = "Logs and metrics";

/// The flag that stands for all others.
const FILE: &str = "config-file";

pub const FLAGS: &[Flag] = &[
    flag(WHO, "name", "NAME", "default", "What people call this adapter; two must not have one name"),
    flag(WHO, "data-dir", "DIR", "", "Where the store lives, on tmpfs best [default: NAME.etcd]"),
    flag(WHO, "config-file", "FILE", "", "Flags by name, in YAML; flags and variables beside it do not count"),
    flag(
        JOURNAL,
        "journal-endpoints",
        "HOST:PORT,..",
        "",
        "Nodes of the journal; some are enough, the others are learnt",
    ),
    flag(JOURNAL, "journal", "NAME", "kubernetes", "The journal that this is a function of; created if absent"),
    flag(JOURNAL, "ephemeral", "", "", "Keep everything in this process and lose it with it: nothing to set up"),
    flag(JOURNAL, "tail-from", "leader|nearest", "leader", "Which node entries are read from"),
    flag(JOURNAL, "journal-ca-file", "FILE", "", "Certificates of the authorities that nodes' certificates come from"),
    flag(JOURNAL, "journal-cert-file", "FILE", "", "This adapter's certificate towards the journal"),
    flag(JOURNAL, "journal-key-file", "FILE", "", "Its key"),
    flag(JOURNAL, "journal-server-name", "NAME", "", "The name that nodes' certificates bear, if not their host's"),
    flag(JOURNAL, "journal-allow-plaintext", "", "", "Talk to nodes on other machines without TLS"),
    flag(CLIENTS, "listen-client-urls", "URL,..", "http://localhost:2379", "http, https, unix or unixs"),
    flag(CLIENTS, "listen-client-http-urls", "URL,..", "", "Further addresses, for HTTP pages"),
    flag(CLIENTS, "listen-metrics-urls", "URL,..", "", "Further addresses, for health and metrics only"),
    flag(CLIENTS, "advertise-client-urls", "URL,..", "http://localhost:2379", "Where clients reach this adapter"),
    flag(
        CLIENTS,
        "initial-advertise-peer-urls",
        "URL,..",
        "http://localhost:2380",
        "What MemberList says of this adapter",
    ),
    flag(CLIENTS, "max-concurrent-streams", "N", "4294967295", "Of one connection"),
    flag(CLIENTS, "grpc-keepalive-interval", "TIME", "2h", "Between pings of a silent client"),
    flag(CLIENTS, "grpc-keepalive-timeout", "TIME", "20s", "A client that answers no ping for so long is gone"),
    flag(
        CLIENTS,
        "serving-threads",
        "N",
        "",
        "Threads that connections are dealt to; 0: the one that applies [default: by cores]",
    ),
    flag(CLIENTS, "watch-progress-notify-interval", "TIME", "10m", "Between progress messages to quiet watchers"),
    flag(
        CLIENTS,
        "prompt-progress",
        "",
        "true",
        "Tell watchers at once that nothing is missing when a list waits for it",
    ),
    flag(TLS, "cert-file", "FILE", "", "The certificate shown to clients"),
    flag(TLS, "key-file", "FILE", "", "Its key"),
    flag(TLS, "client-cert-auth", "", "", "Clients must show a certificate"),
    flag(TLS, "trusted-ca-file", "FILE", "", "Certificates of the authorities that clients' certificates come from"),
    flag(TLS, "tls-min-version", "TLS1.2|TLS1.3", "TLS1.2", "The oldest version that is spoken"),
    flag(TLS, "tls-max-version", "TLS1.2|TLS1.3", "", "The newest [default: all that is known]"),
    flag(TLS, "cipher-suites", "NAME,..", "", "Ciphers of TLS1.2, by etcd's names [default: all]"),
    flag(LIMITS, "max-request-bytes", "BYTES", "1572864", "The largest request"),
    flag(LIMITS, "max-txn-ops", "N", "128", "Operations in one transaction"),
    flag(LIMITS, "quota-backend-bytes", "BYTES", "0", "Logical size at which writes end; 0: 2 GiB, negative: never"),
    flag(LIMITS, "max-learners", "N", "1", "Members that may be learners"),
    flag(
        LIMITS,
        "election-timeout",
        "MS",
        "1000",
        "As etcd derives it: the least TTL of a lease, and how long requests wait",
    ),
    flag(UPKEEP, "auto-compaction-mode", "periodic|revision", "periodic", "What auto-compaction-retention counts"),
    flag(UPKEEP, "auto-compaction-retention", "TIME|N", "0", "What automatic compaction leaves; 0: it is off"),
    flag(UPKEEP, "auto-disarm", "", "", "End a NOSPACE alarm once there is space again"),
    flag(UPKEEP, "feature-gates", "NAME=BOOL,..", "", "etcd's names are known; none changes anything here"),
    flag(LOGS, "log-level", "LEVEL", "info", "debug, info, warn, error, panic or fatal"),
    flag(LOGS, "log-format", "json|console", "json", "How lines are written"),
    flag(LOGS, "metrics", "basic|extensive", "basic", "extensive: how long each call took, too"),
];

/// Names that flags had before, and still have in older manifests.
const FORMER: &[(&str, &str)] = &[("experimental-watch-progress-notify-interval", "watch-progress-notify-interval")];

/// Accepted, and without effect.
const IGNORED: &[&str] = &[
    "auth-token",
    "auth-token-ttl",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "cors",
    "discovery-fallback",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-compact-hash-check-enabled",
    "experimental-initial-corrupt-check",
    "grpc-keepalive-min-time",
    "heartbeat-interval",
    "host-whitelist",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "initial-election-tick-advance",
    "listen-peer-urls",
    "log-outputs",
    "log-rotation-config-json",
    "logger",
    "max-snapshots",
    "max-wals",
    "memory-mlock",
    "peer-auto-tls",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-cert-file",
    "peer-client-cert-auth",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-crl-file",
    "peer-key-file",
    "peer-skip-client-san-verification",
    "peer-trusted-ca-file",
    "pre-vote",
    "proxy",
    "raft-read-timeout",
    "raft-write-timeout",
    "self-signed-cert-validity",
    "snapshot-catchup-entries",
    "snapshot-count",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "wal-dir",
    "warning-apply-duration",
    "warning-unary-request-duration",
];

/// Those among them, and among [`IGNORED`], that may stand without a value.
const YES_OR_NO: &[&str] = &[
    "discovery-fallback",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-compact-hash-check-enabled",
    "experimental-initial-corrupt-check",
    "initial-election-tick-advance",
    "memory-mlock",
    "peer-auto-tls",
    "peer-client-cert-auth",
    "peer-skip-client-san-verification",
    "pre-vote",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
];

/// What must not be pretended, and what to do instead.
const REFUSED: &[(&str, bool, &str)] = &[
    ("auto-tls", true, "make a certificate and name it with --cert-file and --key-file"),
    ("client-cert-allowed-hostname", false, "who has a certificate of --trusted-ca-file is let in, whatever its names"),
    ("client-crl-file", false, "certificates cannot be revoked by a list here yet"),
    ("discovery", false, "name the journal's nodes with --journal-endpoints"),
    ("discovery-srv", false, "name the journal's nodes with --journal-endpoints"),
    ("force-new-cluster", true, "an adapter owns nothing: recovery is the journal's (`journal repair`)"),
    ("unsafe-no-fsync", true, "whether writes are durable is the journal's to say; --ephemeral keeps nothing at all"),
];

/// What was given, by flag or by variable.
pub struct Given {
    said: BTreeMap<&'static str, (String, String)>,
    /// Names of flags and variables that change nothing.
    pub ignored: Vec<String>,
    pub problems: Vec<String>,
}

impl Flag {
    fn arg(&self) -> Arg {
        let mut help = self.help.to_owned();
        if !self.default.is_empty() {
            help.push_str(&format!(" [default: {}]", self.default));
        }
        let arg = Arg::new(self.name).long(self.name).help(help).help_heading(self.heading);
        match self.value {
            "" => optional(arg).value_name("BOOL"),
            value => arg.value_name(value),
        }
    }
}

fn optional(arg: Arg) -> Arg {
    arg.num_args(0..=1).require_equals(true).default_missing_value("true")
}

fn command() -> Command {
    let hidden = |name: &'static str, alone: bool| {
        let arg = Arg::new(name).long(name).hide(true);
        if alone { optional(arg) } else { arg }
    };
    let ignored = IGNORED.iter().map(|name| hidden(name, YES_OR_NO.contains(name)));
    let refused = REFUSED.iter().map(|(name, alone, _)| hidden(name, *alone));
    let former = FORMER.iter().map(|(name, _)| hidden(name, false));
    Command::new("etcd-adapter")
        .about("An etcd that is a function of a journal")
        .after_help(
            "Every flag may be said as a variable: ETCD_NAME for --name. Further flags of etcd's are accepted \
             and change nothing; a warning names them.",
        )
        .disable_version_flag(true)
        .arg(
            Arg::new("version")
                .long("version")
                .short('V')
                .action(clap::ArgAction::SetTrue)
                .help("Print which etcd this speaks as"),
        )
        .args_override_self(true)
        .args(FLAGS.iter().map(Flag::arg))
        .args(former)
        .args(ignored)
        .args(refused)
}

/// `-name` is as good as `--name` to etcd.
fn with_two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => format!("-{text}").into(),
        _ => arg,
    }
}

fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_uppercase().replace('-', "_"))
}

fn known() -> impl Iterator<Item = &'static str> {
    let refused = REFUSED.iter().map(|(name, _, _)| *name);
    let former = FORMER.iter().map(|(name, _)| *name);
    FLAGS.iter().map(|flag| flag.name).chain(former).chain(IGNORED.iter().copied()).chain(refused)
}

/// What a flag may be called.
fn spellings(name: &'static str) -> impl Iterator<Item = &'static str> {
    let former = FORMER.iter().filter(move |(_, now)| *now == name).map(|(name, _)| *name);
    std::iter::once(name).chain(former)
}

fn is_known(name: &str) -> bool {
    known().any(|known| known == name)
}

impl Given {
    /// Reads the command line (the program's name first) and the variables.
    pub fn collect(
        args: impl IntoIterator<Item = OsString>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Given, LoadError> {
        let matches =
            command().try_get_matches_from(args.into_iter().map(with_two_dashes)).map_err(LoadError::Usage)?;
        if matches.get_flag("version") {
            return Err(LoadError::Version);
        }
        let mut given = Given { said: BTreeMap::new(), ignored: Vec::new(), problems: Vec::new() };
        let by_flag = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let path = by_flag(FILE).or_else(|| environment.get(&variable(FILE)).cloned()).filter(|path| !path.is_empty());
        let file = path.map(|path| given.read_file(&path));
        let none = BTreeMap::new();
        if file.is_some() {
            let said = FLAGS.iter().filter(|flag| flag.name != FILE && by_flag(flag.name).is_some());
            given.ignored.extend(said.map(|flag| format!("{} (the file counts)", flag.name)));
        }
        // As with etcd, a file is all that counts.
        let environment = if file.is_some() { &none } else { environment };
        let flag_of = |name: &str| match &file {
            Some(file) => file.get(name).cloned(),
            None => by_flag(name),
        };
        let place = if file.is_some() { "the file's " } else { "flag --" };
        for flag in FLAGS {
            let mut said = Vec::new();
            for name in spellings(flag.name) {
                let by_variable = environment.get(&variable(name)).filter(|text| !text.is_empty());
                said.extend(flag_of(name).map(|text| (text, format!("{place}{name}"))));
                said.extend(by_variable.map(|text| (text.clone(), variable(name))));
            }
            if let [(_, one), (_, other), ..] = &said[..] {
                given.problems.push(format!("{}: said as {one} and as {other}: drop one of the two", flag.name));
                continue;
            }
            let said = match said.pop() {
                Some(said) => said,
                None if !flag.default.is_empty() => (flag.default.to_owned(), "the default".to_owned()),
                None => continue,
            };
            given.said.insert(flag.name, said);
        }
        for name in IGNORED {
            if flag_of(name).is_some() || environment.contains_key(&variable(name)) {
                given.ignored.push((*name).to_owned());
            }
        }
        for (name, _, instead) in REFUSED {
            let said = flag_of(name).or_else(|| environment.get(&variable(name)).cloned());
            if said.is_some_and(|said| said != "false") {
                given.problems.push(format!("{name}: this is no flag of an adapter: {instead}"));
            }
        }
        let strangers = environment
            .keys()
            .filter(|name| name.starts_with("ETCD_") && !known().any(|known| variable(known) == **name));
        given.ignored.extend(strangers.cloned());
        Ok(given)
    }

    fn read_file(&mut self, path: &str) -> BTreeMap<String, String> {
        let read = match std::fs::read_to_string(path) {
            Ok(text) => super::file::parse(&text),
            Err(error) => Err(vec![format!("{FILE}: {path} cannot be read: {error}")]),
        };
        let said = read.unwrap_or_else(|problems| {
            self.problems.extend(problems);
            BTreeMap::new()
        });
        for name in said.keys().filter(|name| !is_known(name)) {
            self.problems.push(format!("{FILE}: there is no flag `{name}`"));
        }
        said
    }

    /// Whether this was said, and not merely a default.
    pub fn was_said(&self, name: &str) -> bool {
        self.said.get(name).is_some_and(|(_, place)| place != "the default")
    }

    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.said.get(name).map(|(text, _)| text.trim()).filter(|text| !text.is_empty())
    }

    /// One value; a problem if it cannot be read, nothing if it was not given.
    pub fn get<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (text, place) = self.said.get(name)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(advice) => {
                self.problems.push(format!("{name}: `{text}` ({place}): {advice}"));
                None
            }
        }
    }

    pub fn list<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((text, place)) = self.said.get(name) else { return Vec::new() };
        let mut values = Vec::new();
        for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(advice) => self.problems.push(format!("{name}: `{text}` ({place}): {advice}")),
            }
        }
        values
    }
}
