//! The adapter's configuration: read once, from flags and variables, and checked as a whole.
//!
//! Names, defaults and spellings are etcd's wherever etcd has the flag, so that what starts etcd starts
//! this. Every problem is reported at once, and says what to change. Nothing outside this module reads
//! the environment.

mod file;
mod flags;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use flags::Given;
use journal_client::tls::Identity;
use proto::JournalName;
pub use tls::ServerTls;
pub use values::{Place, Url};

/// The etcd that this speaks as.
pub const VERSION: &str = "3.7.3";
/// Its storage, likewise.
pub const STORAGE_VERSION: &str = "3.7.0";

/// What `quota-backend-bytes` means when it says 0.
const QUOTA_DEFAULT: i64 = 2 << 30;
/// What an entry holds beside one request's bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64 << 10;

/// Everything that an operator can say about an adapter.
#[derive(Debug, Clone)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub source: Source,
    pub listen_client: Vec<Url>,
    pub listen_metrics: Vec<Url>,
    pub client_urls: Vec<String>,
    pub peer_urls: Vec<String>,
    pub tls: Option<ServerTls>,
    pub transport: Transport,
    pub limits: Limits,
    pub compaction: AutoCompaction,
    pub auto_disarm: bool,
    pub progress_interval: Duration,
    pub prompt_progress: bool,
    /// Threads that connections are dealt to; none: they stay with the thread that applies.
    pub serving_threads: usize,
    pub log: Log,
    /// An adapter that is not heard for so long is proposed gone. No flag changes it: all adapters of a
    /// journal are to have one measure.
    pub silence: Duration,
    /// What answers may take together, in bytes. No flag changes it: it is a share of the memory.
    pub answer_bytes: usize,
    /// How the room on a file system is measured.
    pub space: crate::room::Measure,
    /// Whether the time of each call is measured too.
    pub extensive_metrics: bool,
    /// What was said and changes nothing.
    pub ignored: Vec<String>,
}

/// Where the entries come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A journal in this process.
    Ephemeral,
    Cluster(Journal),
}

#[derive(Debug, Clone)]
pub struct Journal {
    pub name: JournalName,
    pub endpoints: Vec<String>,
    pub tls: Option<journal_client::Tls>,
    pub allow_plaintext: bool,
    pub nearest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    pub concurrent_streams: u32,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub request_bytes: usize,
    pub txn_ops: usize,
    /// Logical bytes; nothing means no limit.
    pub quota_bytes: Option<u64>,
    pub learners: usize,
    /// etcd's unit of patience.
    pub election_timeout: Duration,
}

impl Limits {
    /// How long a request may take, by etcd's rule.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// The least TTL of a lease, in seconds, by etcd's rule.
    pub fn lease_ttl_min(&self) -> i64 {
        let ticks = (3 * self.election_timeout.as_millis() as i64 + 1) / 2;
        (ticks + 999) / 1000
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    Off,
    Periodic(Duration),
    Revisions(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub level: String,
    pub json: bool,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The command line asked for help, or cannot be read at all.
    Usage(clap::Error),
    /// It asked for the version.
    Version,
    /// Every problem found, each saying what to change.
    Invalid(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Usage(usage) => usage.fmt(f),
            LoadError::Version => f.write_str(VERSION),
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

    /// From these arguments (the program's name first) and variables.
    pub fn load(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        environment: BTreeMap<String, String>,
    ) -> Result<Config, LoadError> {
        build(Given::collect(args.into_iter().map(Into::into), &environment)?)
    }
}

fn build(mut given: Given) -> Result<Config, LoadError> {
    let g = &mut given;
    let name = g.text("name").unwrap_or_default().to_owned();
    let data_dir = g.text("data-dir").map_or_else(|| PathBuf::from(format!("{name}.etcd")), PathBuf::from);
    let limits = build_limits(g);
    let transport = Transport {
        concurrent_streams: g.get("max-concurrent-streams", values::number).unwrap_or(u32::MAX),
        keepalive_interval: g.get("grpc-keepalive-interval", values::duration).unwrap_or_default(),
        keepalive_timeout: g.get("grpc-keepalive-timeout", values::duration).unwrap_or_default(),
    };
    let progress_interval = g.get("watch-progress-notify-interval", values::duration).unwrap_or_default();
    if progress_interval < Duration::from_millis(100) {
        g.problems.push("watch-progress-notify-interval: it must be at least 100ms".into());
    }
    let source = build_source(g);
    let mut listen_client = g.list("listen-client-urls", values::url);
    listen_client.extend(g.list("listen-client-http-urls", values::url));
    if listen_client.is_empty() && g.problems.is_empty() {
        g.problems.push("listen-client-urls: name at least one".into());
    }
    let listen_metrics = g.list("listen-metrics-urls", values::url);
    let tls = tls::build(g, listen_client.iter().chain(&listen_metrics).any(|url| url.tls));
    if g.was_said("listen-client-urls") && !g.was_said("advertise-client-urls") {
        g.problems.push("advertise-client-urls: it is required when listen-client-urls is set".into());
    }
    let texts = |urls: Vec<Url>| urls.into_iter().map(|url| url.text).collect();
    let config = Config {
        client_urls: texts(g.list("advertise-client-urls", values::url)),
        peer_urls: texts(g.list("initial-advertise-peer-urls", values::url)),
        compaction: build_compaction(g),
        auto_disarm: g.get("auto-disarm", values::boolean).unwrap_or(false),
        prompt_progress: g.get("prompt-progress", values::boolean).unwrap_or(true),
        serving_threads: g.get("serving-threads", values::number).unwrap_or_else(threads_by_cores),
        log: Log {
            level: g.get("log-level", log_level).unwrap_or_default(),
            json: g.get("log-format", log_format).unwrap_or_default(),
        },
        silence: crate::lease_clock::SILENT_MAX,
        answer_bytes: crate::answers::share_of_memory(),
        space: crate::room::measure,
        extensive_metrics: g.get("metrics", extensive).unwrap_or(false),
        name,
        data_dir,
        source,
        listen_client,
        listen_metrics,
        tls,
        transport,
        limits,
        progress_interval,
        ignored: std::mem::take(&mut g.ignored),
    };
    g.list("feature-gates", feature_gate);
    match given.problems.is_empty() {
        true => Ok(config),
        false => Err(LoadError::Invalid(given.problems)),
    }
}

fn build_limits(g: &mut Given) -> Limits {
    let quota: i64 = g.get("quota-backend-bytes", values::number).unwrap_or_default();
    let limits = Limits {
        request_bytes: g.get("max-request-bytes", values::number).unwrap_or_default(),
        txn_ops: g.get("max-txn-ops", values::number).unwrap_or_default(),
        quota_bytes: match quota {
            0 => Some(QUOTA_DEFAULT as u64),
            quota => u64::try_from(quota).ok(),
        },
        learners: g.get("max-learners", values::number).unwrap_or_default(),
        election_timeout: g.get("election-timeout", values::millis).unwrap_or_default(),
    };
    let patience = Duration::from_millis(10)..=Duration::from_secs(50);
    if g.problems.is_empty() && !patience.contains(&limits.election_timeout) {
        g.problems.push("election-timeout: it must lie between 10 and 50000 milliseconds".into());
    }
    limits
}

/// Whether a request of this size can be an entry of a journal with that limit.
pub fn fits(request_bytes: usize, entry_bytes_max: u64) -> bool {
    request_bytes as u64 + ENTRY_OVERHEAD_BYTES <= entry_bytes_max
}

fn build_source(g: &mut Given) -> Source {
    let ephemeral = g.get("ephemeral", values::boolean).unwrap_or(false);
    let endpoints = g.list("journal-endpoints", values::address);
    if ephemeral {
        if !endpoints.is_empty() {
            g.problems.push("ephemeral: it has no journal: drop it, or drop journal-endpoints".into());
        }
        return Source::Ephemeral;
    }
    if endpoints.is_empty() {
        g.problems.push(
            "journal-endpoints: name nodes of the journal (host:port,...), or say --ephemeral to try it without one"
                .into(),
        );
    }
    let parse = |text: &str| text.parse::<JournalName>().map_err(|error| error.to_string());
    let name = g.get("journal", parse);
    let [ca, cert, key] =
        ["journal-ca-file", "journal-cert-file", "journal-key-file"].map(|name| g.text(name).map(PathBuf::from));
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        _ => {
            g.problems.push("journal-cert-file: a certificate and its key go together".into());
            None
        }
    };
    if ca.is_none() && identity.is_some() {
        g.problems.push("journal-ca-file: say who vouches for the journal's nodes".into());
    }
    let server_name = g.text("journal-server-name").map(str::to_owned);
    let nearest = g.get("tail-from", |text| match text {
        "leader" => Ok(false),
        "nearest" => Ok(true),
        _ => Err("write leader or nearest".into()),
    });
    Source::Cluster(Journal {
        name: name.unwrap_or_else(|| "kubernetes".parse().expect("it is a name")),
        endpoints,
        tls: ca.map(|ca| journal_client::Tls { ca, identity, server_name }),
        allow_plaintext: g.get("journal-allow-plaintext", values::boolean).unwrap_or(false),
        nearest: nearest.unwrap_or(false),
    })
}

fn build_compaction(g: &mut Given) -> AutoCompaction {
    let periodic = g.get("auto-compaction-mode", |text| match text {
        "periodic" => Ok(true),
        "revision" => Ok(false),
        _ => Err("write periodic or revision".into()),
    });
    let retention = g.get("auto-compaction-retention", |text| match periodic {
        Some(false) => values::number(text).map(AutoCompaction::Revisions),
        // A bare number is hours.
        _ => match text.parse::<u64>() {
            Ok(hours) => Ok(AutoCompaction::Periodic(Duration::from_secs(3600 * hours))),
            Err(_) => values::duration(text).map(AutoCompaction::Periodic),
        },
    });
    match retention {
        None | Some(AutoCompaction::Revisions(..=0) | AutoCompaction::Periodic(Duration::ZERO)) => AutoCompaction::Off,
        Some(retention) => retention,
    }
}

fn threads_by_cores() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        cores @ 0..=2 => cores,
        cores => (cores / 2).min(8),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    match text {
        "debug" | "info" | "warn" | "error" => Ok(text.into()),
        "dpanic" | "panic" | "fatal" => Ok("error".into()),
        // Directives for parts of the program, as in `info,etcd_adapter::watch=debug`.
        _ if text.contains('=') => Ok(text.into()),
        _ => Err("write debug, info, warn, error, panic or fatal".into()),
    }
}

fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "json" => Ok(true),
        "console" => Ok(false),
        _ => Err("write json or console".into()),
    }
}

fn extensive(text: &str) -> Result<bool, String> {
    match text {
        "basic" => Ok(false),
        "extensive" => Ok(true),
        _ => Err("write basic or extensive".into()),
    }
}

fn feature_gate(text: &str) -> Result<(), String> {
    const GATES: [&str; 10] = [
        "AllAlpha",
        "AllBeta",
        "CompactHashCheck",
        "FastLeaseKeepAlive",
        "InitialCorruptCheck",
        "LeaseCheckpoint",
        "LeaseCheckpointPersist",
        "PriorityRequest",
        "SetMemberLocalAddr",
        "StopGRPCServiceOnDefrag",
    ];
    let (name, value) = text.split_once('=').ok_or("write NAME=true or NAME=false")?;
    values::boolean(value)?;
    match GATES.contains(&name) || name == "TxnModeWriteWithSharedBuffer" {
        true => Ok(()),
        false => Err("there is no such feature gate".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str]) -> Result<Config, LoadError> {
        Config::load(std::iter::once("etcd-adapter").chain(args.iter().copied()), BTreeMap::new())
    }

    fn problems(args: &[&str]) -> String {
        load(args).unwrap_err().to_string()
    }

    #[test]
    fn an_ephemeral_adapter_needs_one_flag() {
        let config = load(&["--ephemeral"]).unwrap();
        assert!(matches!(config.source, Source::Ephemeral));
        assert_eq!(config.listen_client[0].place, Place::Tcp("localhost:2379".into()));
        assert_eq!(config.limits.request_timeout(), Duration::from_secs(7));
        assert_eq!(config.limits.lease_ttl_min(), 2);
        assert_eq!(config.limits.quota_bytes, Some(2 << 30));
        assert!(config.ignored.is_empty());
    }

    #[test]
    fn mt_6_the_quota_is_two_gib_unless_said_otherwise_and_may_be_none() {
        let quota = |flags: &[&str]| load(&[&["--ephemeral"], flags].concat()).unwrap().limits.quota_bytes;
        assert_eq!(quota(&[]), Some(2 << 30));
        assert_eq!(quota(&["--quota-backend-bytes=0"]), Some(2 << 30));
        assert_eq!(quota(&["--quota-backend-bytes=1000000"]), Some(1_000_000));
        assert_eq!(quota(&["--quota-backend-bytes=-1"]), None);
    }

    #[test]
    fn what_kubeadm_says_is_understood() {
        let said = "--name=a --feature-gates=InitialCorruptCheck=true --listen-client-urls=https://127.0.0.1:2379 \
            --advertise-client-urls=https://10.0.0.1:2379 --listen-peer-urls=https://10.0.0.1:2380 \
            --initial-advertise-peer-urls=https://10.0.0.1:2380 --data-dir=/var/lib/etcd --cert-file=c --key-file=k \
            --trusted-ca-file=ca --client-cert-auth=true --peer-cert-file=c --peer-key-file=k --peer-trusted-ca-file=ca \
            --peer-client-cert-auth=true --snapshot-count=10000 --listen-metrics-urls=http://127.0.0.1:2381 \
            --watch-progress-notify-interval=5s --initial-cluster=a=https://10.0.0.1:2380 \
            --journal-endpoints=10.0.0.2:7400";
        let args: Vec<_> = said.split_whitespace().collect();
        let config = load(&args).unwrap();
        assert_eq!(config.progress_interval, Duration::from_secs(5));
        assert!(config.tls.unwrap().client_cert_auth);
        assert!(config.ignored.contains(&"snapshot-count".to_owned()));
        assert_eq!(config.ignored.len(), 7, "{:?}", config.ignored);
    }

    #[test]
    fn what_older_kubeadm_says_means_what_newer_says() {
        let of = |said: &[&str]| load(&[&["--ephemeral"], said].concat()).map(|config| config.progress_interval);
        let old = "--experimental-watch-progress-notify-interval=5s";
        assert_eq!(of(&[old]).unwrap(), Duration::from_secs(5));
        let both = of(&[old, "--watch-progress-notify-interval=6s"]).unwrap_err().to_string();
        assert!(both.contains("drop one of the two"), "{both}");
        let variable = "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL".to_owned();
        let config = Config::load(["etcd-adapter", "--ephemeral"], BTreeMap::from([(variable, "7s".to_owned())]));
        let config = config.unwrap();
        assert_eq!((config.progress_interval, config.ignored.len()), (Duration::from_secs(7), 0));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ephemeral: true\nexperimental-watch-progress-notify-interval: 8s\n").unwrap();
        let config = load(&["--config-file", file.path().to_str().unwrap()]).unwrap();
        assert_eq!(config.progress_interval, Duration::from_secs(8));
    }

    #[test]
    fn one_dash_is_as_good_as_two_and_the_last_word_counts() {
        let config = load(&["-ephemeral", "-name", "a", "--name=b", "-client-cert-auth=false"]).unwrap();
        assert_eq!(config.name, "b");
    }

    #[test]
    fn what_nobody_knows_is_an_error() {
        assert!(matches!(load(&["--ephemeral", "--no-such-flag"]), Err(LoadError::Usage(_))));
        assert!(problems(&["--ephemeral", "--feature-gates=NoSuch=true"]).contains("no such feature gate"));
    }

    #[test]
    fn what_cannot_be_pretended_is_refused_with_advice() {
        assert!(problems(&["--ephemeral", "--unsafe-no-fsync"]).contains("--ephemeral keeps nothing"));
        assert!(problems(&["--ephemeral", "--auto-tls"]).contains("--cert-file"));
        assert!(load(&["--ephemeral", "--auto-tls=false"]).is_ok());
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = problems(&["--listen-client-urls=localhost", "--max-txn-ops=many", "--client-cert-auth"]);
        for name in ["listen-client-urls", "max-txn-ops", "trusted-ca-file", "journal-endpoints"] {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
    }

    #[test]
    fn a_flag_and_its_variable_must_not_both_be_said() {
        let environment = BTreeMap::from([("ETCD_NAME".to_owned(), "a".to_owned())]);
        let config = Config::load(["etcd-adapter", "--ephemeral"], environment.clone()).unwrap();
        assert_eq!(config.name, "a");
        let both = Config::load(["etcd-adapter", "--ephemeral", "--name=b"], environment).unwrap_err();
        assert!(both.to_string().contains("ETCD_NAME"));
    }

    #[test]
    fn a_file_says_what_flags_say_and_is_all_that_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "name: of-the-file\nephemeral: true\nsnapshot-count: 10000\nmax-txn-ops: 7\n";
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        let config = load(&["--config-file", path, "--name=of-a-flag", "--max-request-bytes=1"]).unwrap();
        assert_eq!((config.name.as_str(), config.limits.txn_ops), ("of-the-file", 7));
        assert_eq!(config.limits.request_bytes, 1572864);
        let ignored = ["name (the file counts)", "max-request-bytes (the file counts)", "snapshot-count"];
        assert!(ignored.iter().all(|name| config.ignored.iter().any(|said| said == name)), "{:?}", config.ignored);

        let environment = BTreeMap::from([("ETCD_CONFIG_FILE".to_owned(), path.to_owned())]);
        assert_eq!(Config::load(["etcd-adapter"], environment).unwrap().name, "of-the-file");
        std::fs::write(file.path(), "ephemeral: true\nno-such-flag: 1\nmax-txn-ops: many\n").unwrap();
        let text = problems(&["--config-file", path]);
        assert!(text.contains("no flag `no-such-flag`") && text.contains("the file's max-txn-ops"), "{text}");
        assert!(problems(&["--config-file", "/no/such/file"]).contains("cannot be read"));
    }

    #[test]
    fn retention_is_read_as_its_mode_says() {
        let of = |args: &[&str]| load(&[&["--ephemeral"], args].concat()).unwrap().compaction;
        assert_eq!(of(&[]), AutoCompaction::Off);
        assert_eq!(of(&["--auto-compaction-retention=2"]), AutoCompaction::Periodic(Duration::from_secs(7200)));
        assert_eq!(of(&["--auto-compaction-retention=5m"]), AutoCompaction::Periodic(Duration::from_secs(300)));
        let revisions = of(&["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"]);
        assert_eq!(revisions, AutoCompaction::Revisions(1000));
    }
}
