//! The table of settings, and the layers in which they may be given: flag, variable, file, default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};

use super::LoadError;

/// One setting: `--name`, `JOURNAL_NAME`, and the key `name` of the file.
pub struct Setting {
    pub name: &'static str,
    /// What stands for the value in the help; empty for a switch.
    value: &'static str,
    /// Empty when there is none.
    pub default: &'static str,
    heading: &'static str,
    help: &'static str,
}

const fn setting(
    heading: &'static str,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value, default, heading, help }
}

const NODE: &str = "Node";
const CLUSTER: &str = "Cluster (read only while the data directory is empty)";
const SECURITY: &str = "Security";
const LOGS: &str = "Logs";
const LIMITS: &str = "Limits";
const DISK: &str = "Disk";
const TIMES: &str = "Times";

pub const SETTINGS: &[Setting] = &[
    setting(NODE, "config", "FILE", "", "A TOML file whose keys are these flags without their dashes"),
    setting(NODE, "name", "NAME", "", "What people call this node"),
    setting(NODE, "data-dir", "DIR", "", "Where everything durable lives; must not be shared by two nodes"),
    setting(NODE, "listen", "IP:PORT,...", "127.0.0.1:7400", "Where clients and nodes are served"),
    setting(
        NODE,
        "advertise",
        "HOST:PORT",
        "",
        "Where others reach this node [default: its address in \
        --initial-cluster, else the first of --listen]",
    ),
    setting(
        NODE,
        "dial",
        "HOST:PORT=HOST:PORT,...",
        "",
        "Calls the first address at the second: for proxies and \
        address translation",
    ),
    setting(
        NODE,
        "metrics-listen",
        "IP:PORT",
        "",
        "A second listener, without TLS, for /metrics, /livez and /readyz \
        only",
    ),
    setting(
        CLUSTER,
        "initial-cluster",
        "NAME=HOST:PORT,...",
        "",
        "Forms a cluster of exactly these nodes; the same \
        list on each",
    ),
    setting(CLUSTER, "cluster-token", "TEXT", "", "Tells two clusters with the same list apart"),
    setting(CLUSTER, "join", "", "", "Waits until a cluster that runs takes this node in (journal members add)"),
    setting(SECURITY, "tls-ca", "FILE", "", "Certificates of the authorities that sign clients and nodes (PEM)"),
    setting(SECURITY, "tls-cert", "FILE", "", "This node's certificate chain (PEM), for serving and for calling"),
    setting(SECURITY, "tls-key", "FILE", "", "Its private key (PEM)"),
    setting(
        SECURITY,
        "tls-peer-names",
        "NAME,...",
        "",
        "Names in the certificates of this cluster's nodes; `*` \
        stands for any text",
    ),
    setting(SECURITY, "allow-plaintext", "", "", "Serves without TLS on addresses that are not loopback"),
    setting(
        SECURITY,
        "rules",
        "FILE",
        "",
        "Who may append, read, trim and administer what [default: whoever \
        connects may do everything]",
    ),
    setting(
        LOGS,
        "log-level",
        "LEVEL",
        "info,openraft=warn",
        "error, warn, info, debug or trace; or directives for parts of the \
        program, separated by commas. Without one for openraft, its own lines \
        are as loud as all others",
    ),
    setting(LOGS, "log-format", "FORMAT", "text", "text or json"),
    setting(LIMITS, "entry-max", "SIZE", "4MiB", "The largest entry; 16MiB at most"),
    setting(LIMITS, "inflight-max", "SIZE", "8MiB", "Entries without an answer, of one append stream"),
    setting(LIMITS, "segment-size", "SIZE", "64MiB", "The size of a journal's files"),
    setting(LIMITS, "ring-size", "SIZE", "16MiB", "Recent entries kept in memory, of each journal"),
    setting(DISK, "disk-quota", "SIZE", "0", "What the data directory may hold; 0: all that the file system has"),
    setting(DISK, "room-low", "SIZE|%", "1GiB", "Free space below which ordinary entries are refused"),
    setting(DISK, "room-urgent", "SIZE|%", "768MiB", "... urgent entries too"),
    setting(DISK, "room-reserve", "SIZE|%", "512MiB", "... what other nodes send, except what frees space"),
    setting(DISK, "room-floor", "SIZE|%", "128MiB", "... everything"),
    setting(DISK, "disk-degraded", "TIME", "100ms", "A write slower than this is worth a warning"),
    setting(DISK, "disk-slow", "TIME", "1s", "... makes the node give leadership away"),
    setting(DISK, "disk-failed", "TIME", "10s", "... makes it exit, while its peers are healthy"),
    setting(DISK, "scrub-rate", "SIZE", "1MiB", "How much of each journal's old files is checked a second; 0: nothing"),
    setting(DISK, "scrub-interval", "TIME", "24h", "From the begin of one check of all of them to the next"),
    setting(TIMES, "heartbeat", "TIME", "200ms", "Between heartbeats of a leader; a multiple of 200ms"),
    setting(TIMES, "election-min", "TIME", "500ms", "The shortest silence of a leader that starts an election"),
    setting(TIMES, "election-max", "TIME", "1s", "The longest"),
    setting(TIMES, "drain-timeout", "TIME", "10s", "How long a stop may take before connections are cut"),
    setting(TIMES, "reload-interval", "TIME", "5s", "Between looks at certificates and rules for changes"),
];

impl Setting {
    pub fn variable(&self) -> String {
        format!("JOURNAL_{}", self.name.to_uppercase().replace('-', "_"))
    }

    fn arg(&self) -> Arg {
        let mut help = format!("{} [env: {}]", self.help, self.variable());
        if !self.default.is_empty() {
            help.push_str(&format!(" [default: {}]", self.default));
        }
        let arg = Arg::new(self.name).long(self.name).help(help).help_heading(self.heading);
        if self.value.is_empty() {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
        } else {
            arg.value_name(self.value)
        }
    }
}

/// The value of one setting as text, and where it was said.
struct Said {
    text: String,
    place: String,
}

/// What was given, every setting by its name, and what went wrong in reading it.
pub struct Given {
    said: BTreeMap<&'static str, Said>,
    problems: Vec<String>,
}

impl Given {
    pub fn collect<A: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = A>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Given, LoadError> {
        let command = Command::new("journal-server")
            .about("A node of a replicated, fsync-batched journal")
            .version(env!("CARGO_PKG_VERSION"))
            .args(SETTINGS.iter().map(Setting::arg));
        let flags = command.try_get_matches_from(args).map_err(LoadError::Usage)?;

        let mut given = Given { said: BTreeMap::new(), problems: Vec::new() };
        for setting in SETTINGS {
            // Variables are looked up by name and never listed: a Kubernetes service called
            // `journal` puts JOURNAL_PORT and the like into every pod beside it.
            let variable = environment.get(&setting.variable()).filter(|text| !text.is_empty());
            if let Some(text) = flags.get_one::<String>(setting.name) {
                given.say(setting, text.clone(), format!("flag --{}", setting.name));
            } else if let Some(text) = variable {
                given.say(setting, text.clone(), setting.variable());
            }
        }
        if let Some(file) = given.said.get("config").map(|said| PathBuf::from(&said.text)) {
            given.read(&file);
        }
        for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            given.say(setting, setting.default.into(), "the default".into());
        }
        match given.problems.is_empty() {
            true => Ok(given),
            false => Err(LoadError::Invalid(given.problems)),
        }
    }

    /// One value; a problem if it cannot be read, nothing if it was not given.
    pub fn get<T>(
        &self,
        problems: &mut Vec<String>,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(said) = self.said.get(name) else {
            self.miss(problems, name);
            return None;
        };
        let text = said.text.trim();
        match parse(text) {
            Ok(value) => Some(value),
            Err(advice) => {
                problems.push(format!("{name}: `{text}` ({}): {advice}", said.place));
                None
            }
        }
    }

    pub fn path(&self, problems: &mut Vec<String>, name: &'static str) -> Option<PathBuf> {
        self.get(problems, name, |text| Ok(PathBuf::from(text)))
    }

    /// The values between commas.
    pub fn list<T>(
        &self,
        problems: &mut Vec<String>,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(said) = self.said.get(name) else { return Vec::new() };
        let mut values = Vec::new();
        for text in said.text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(advice) => problems.push(format!("{name}: `{text}` ({}): {advice}", said.place)),
            }
        }
        values
    }

    fn miss(&self, problems: &mut Vec<String>, name: &'static str) {
        if matches!(name, "name" | "data-dir") {
            let variable = format!("JOURNAL_{}", name.to_uppercase().replace('-', "_"));
            problems.push(format!("{name}: it is not set: say --{name}, {variable} or `{name}` in the file"));
        }
    }

    /// What was said first wins: layers come in the order of their precedence.
    fn say(&mut self, setting: &Setting, text: String, place: String) {
        self.said.entry(setting.name).or_insert(Said { text, place });
    }

    fn read(&mut self, path: &Path) {
        let text = match super::read_file(path) {
            Ok(text) => text,
            Err(problem) => return self.problems.push(problem),
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return self.problems.push(format!("config: {} is not TOML: {error}", path.display())),
        };
        for (key, value) in table {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key && key != "config") else {
                let known = SETTINGS.iter().find(|setting| setting.name == key.replace('_', "-"));
                let advice = match known {
                    Some(setting) => format!("did you mean `{}`?", setting.name),
                    None => "--help lists them".into(),
                };
                self.problems.push(format!("{}: `{key}` is not a setting; {advice}", path.display()));
                continue;
            };
            match text_of(value) {
                Some(text) => self.say(setting, text, path.display().to_string()),
                None => self.problems.push(format!(
                    "{}: {key}: write a text, a number, true or false, or a list of texts",
                    path.display()
                )),
            }
        }
    }
}

fn text_of(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<String>> = list.into_iter().map(text_of).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
