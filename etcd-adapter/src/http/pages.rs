//! The pages for probes, people and Prometheus: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`;
//! and `/adapter/hash`, by which adapters are compared.
//!
//! Forms and words are etcd's, since probes and dashboards know them. Live means that a restart would
//! not help; ready means that clients may be sent here. They change nothing and show nothing of keys.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;

use crate::config::{STORAGE_VERSION, VERSION};
use crate::meters::Count;

/// What the pages ask of the adapter.
#[async_trait]
pub trait Vitals: Send + Sync + 'static {
    /// One check by its name; an error says in words what is wrong.
    async fn check(&self, check: Check) -> Result<(), String>;
    fn metrics(&self) -> String;
    /// Where the adapter is, and the hash of its state there, in JSON.
    fn hash(&self) -> String;
}

/// Everything that can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Entries that are there are applied.
    Applying,
    /// No CORRUPT alarm, and a majority that agrees with this replica about the state.
    DataCorruption,
    /// The store answers.
    SerializableRead,
    /// No entry was met that only a newer program understands.
    Level,
    /// The journal answers, and the store has followed it.
    LinearizableRead,
    NonLearner,
    /// The journal has a leader that answers.
    Leader,
    NoSpaceAlarm,
    CorruptAlarm,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Applying => "applying",
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::Level => "level",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
            Check::Leader => "leader",
            Check::NoSpaceAlarm => "nospace_alarm",
            Check::CorruptAlarm => "corrupt_alarm",
        }
    }
}

const LIVE: &[Check] = &[Check::SerializableRead, Check::Applying];
const READY: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
    Check::Applying,
    Check::Level,
];

/// All pages. Cheap to clone.
#[derive(Clone)]
pub struct Pages(Arc<dyn Vitals>, Arc<Asked>);

impl Pages {
    pub fn new(vitals: Arc<dyn Vitals>) -> Self {
        Pages(vitals, Arc::default())
    }

    /// `/metrics`, and how often it and the other pages were asked for.
    fn metrics(&self) -> String {
        self.1.metrics.add(1);
        let mut page = self.0.metrics();
        self.1.render(&mut page);
        page
    }

    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let query: Vec<(String, String)> = parse_query(request.uri().query().unwrap_or_default());
        let get = request.method() == Method::GET;
        match path {
            "/metrics" => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            "/adapter/hash" => respond(StatusCode::OK, "application/json", self.0.hash()),
            "/health" | "/version" if !get => not_allowed(),
            "/health" => self.health(&query).await,
            "/version" => {
                let cluster = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
                let page = format!(
                    r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}.0","storage":"{STORAGE_VERSION}"}}"#
                );
                respond(StatusCode::OK, "application/json", page)
            }
            _ => {
                let split = path.trim_start_matches('/').split_once('/');
                let (page, only) = split.unwrap_or((path.trim_start_matches('/'), ""));
                let checks = match page {
                    "livez" => LIVE,
                    "readyz" => READY,
                    _ => return text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
                };
                if !get {
                    return not_allowed();
                }
                let only = only.trim_end_matches('/');
                let chosen: Vec<_> =
                    checks.iter().copied().filter(|check| only.is_empty() || check.name() == only).collect();
                match chosen.is_empty() {
                    true => text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
                    false => self.checks(page, &chosen, &query).await,
                }
            }
        }
    }

    async fn checks(&self, page_name: &str, checks: &[Check], query: &[(String, String)]) -> Response<Body> {
        let excluded = |check: &Check| query.iter().any(|(key, value)| key == "exclude" && value == check.name());
        let verbose = query.iter().any(|(key, _)| key == "verbose");
        let mut page = String::new();
        let mut well = true;
        for check in checks.iter().filter(|check| !excluded(check)) {
            let checked = self.0.check(*check).await;
            self.1.checked(page_name, *check, checked.is_ok());
            let _ = match checked {
                Ok(()) => writeln!(page, "[+]{} ok", check.name()),
                Err(why) => {
                    well = false;
                    writeln!(page, "[-]{} failed: {why}", check.name())
                }
            };
        }
        match (well, verbose) {
            (true, true) => text(StatusCode::OK, page + "ok\n"),
            (true, false) => text(StatusCode::OK, "ok\n".into()),
            (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, page),
        }
    }

    async fn health(&self, query: &[(String, String)]) -> Response<Body> {
        let excluded = |alarm: &str| query.iter().any(|(key, value)| key == "exclude" && value == alarm);
        let serializable = query.iter().any(|(key, value)| key == "serializable" && value == "true");
        let reason = self.reason(&excluded, serializable).await;
        let tally = if reason.is_empty() { &self.1.well } else { &self.1.ill };
        tally.add(1);
        let status = if reason.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let page = serde_json::json!({ "health": reason.is_empty().to_string(), "reason": reason });
        respond(status, "application/json", page.to_string())
    }

    async fn reason(&self, excluded: &(dyn Fn(&str) -> bool + Sync), serializable: bool) -> String {
        let alarms = [(Check::NoSpaceAlarm, "NOSPACE"), (Check::CorruptAlarm, "CORRUPT")];
        for (check, alarm) in alarms {
            if !excluded(alarm) && self.0.check(check).await.is_err() {
                return format!("ALARM {alarm}");
            }
        }
        if !serializable && self.0.check(Check::Leader).await.is_err() {
            return "RAFT NO LEADER".into();
        }
        let read = if serializable { Check::SerializableRead } else { Check::LinearizableRead };
        match self.0.check(read).await {
            Ok(()) => String::new(),
            Err(why) => format!("RANGE ERROR:{why}"),
        }
    }
}

/// How often pages were asked for, and what they said.
#[derive(Default)]
struct Asked {
    metrics: Count,
    /// Of `/health`.
    well: Count,
    ill: Count,
    live: [Tally; LIVE.len()],
    ready: [Tally; READY.len()],
}

/// What one check of one page said.
#[derive(Default)]
struct Tally {
    succeeded: Count,
    failed: Count,
    /// The last time.
    well: AtomicBool,
}

impl Asked {
    fn pages(&self) -> [(&'static str, &'static [Check], &[Tally]); 2] {
        [("livez", LIVE, &self.live), ("readyz", READY, &self.ready)]
    }

    fn checked(&self, page: &str, check: Check, well: bool) {
        let tallies = self.pages().into_iter().filter(|(name, ..)| *name == page);
        for (_, checks, tallies) in tallies {
            let Some(tally) = checks.iter().position(|known| *known == check).map(|place| &tallies[place]) else {
                return;
            };
            let count = if well { &tally.succeeded } else { &tally.failed };
            count.add(1);
            tally.well.store(well, Ordering::Relaxed);
        }
    }

    /// As Prometheus reads it.
    fn render(&self, page: &mut String) {
        let mut checks = (String::new(), String::new());
        for (kind, known, tallies) in self.pages() {
            for (check, tally) in known.iter().zip(tallies) {
                let labels = format!("type=\"{kind}\",name=\"{}\"", check.name());
                let last = u8::from(tally.well.load(Ordering::Relaxed));
                let _ = writeln!(checks.0, "etcd_server_healthcheck{{{labels}}} {last}");
                for (status, count) in [("success", &tally.succeeded), ("error", &tally.failed)] {
                    let labels = format!("{labels},status=\"{status}\"");
                    let _ = writeln!(checks.1, "etcd_server_healthchecks_total{{{labels}}} {}", count.get());
                }
            }
        }
        let scraped = format!("promhttp_metric_handler_requests_total{{code=\"200\"}} {}\n", self.metrics.get());
        for (kind, name, lines) in [
            ("counter", "etcd_server_health_success", format!("etcd_server_health_success {}\n", self.well.get())),
            ("counter", "etcd_server_health_failures", format!("etcd_server_health_failures {}\n", self.ill.get())),
            ("gauge", "etcd_server_healthcheck", checks.0),
            ("counter", "etcd_server_healthchecks_total", checks.1),
            ("counter", "promhttp_metric_handler_requests_total", scraped),
            // The one that is being answered.
            (
                "gauge",
                "promhttp_metric_handler_requests_in_flight",
                "promhttp_metric_handler_requests_in_flight 1\n".into(),
            ),
        ] {
            let _ = write!(page, "# TYPE {name} {kind}\n{lines}");
        }
    }
}

/// Keys and values between `&`. Nothing here needs escapes.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn not_allowed() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

fn text(status: StatusCode, page: String) -> Response<Body> {
    let mut response = respond(status, "text/plain; charset=utf-8", page);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn respond(status: StatusCode, kind: &'static str, page: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(page))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// Fails the named checks.
    struct Failing(Vec<Check>);

    #[async_trait]
    impl Vitals for Failing {
        async fn check(&self, check: Check) -> Result<(), String> {
            match self.0.contains(&check) {
                true => Err("so it is".into()),
                false => Ok(()),
            }
        }

        fn metrics(&self) -> String {
            "metric 1\n".into()
        }

        fn hash(&self) -> String {
            "{}".into()
        }
    }

    async fn ask(method: Method, failing: &[Check], path: &str) -> (StatusCode, String) {
        let pages = Pages::new(Arc::new(Failing(failing.to_vec())));
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = pages.answer(&request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(failing: &[Check], path: &str) -> (StatusCode, String) {
        ask(Method::GET, failing, path).await
    }

    #[tokio::test]
    async fn health_names_the_first_reason_in_etcds_words() {
        let well = r#"{"health":"true","reason":""}"#;
        assert_eq!(get(&[], "/health").await, (StatusCode::OK, well.into()));
        let ill =
            |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"health":"false","reason":"{reason}"}}"#));
        assert_eq!(get(&[Check::NoSpaceAlarm], "/health").await, ill("ALARM NOSPACE"));
        assert_eq!(get(&[Check::NoSpaceAlarm], "/health?exclude=NOSPACE").await.0, StatusCode::OK);
        assert_eq!(get(&[Check::Leader], "/health").await, ill("RAFT NO LEADER"));
        assert_eq!(get(&[Check::Leader, Check::LinearizableRead], "/health?serializable=true").await.0, StatusCode::OK);
        assert_eq!(get(&[Check::LinearizableRead], "/health").await, ill("RANGE ERROR:so it is"));
        assert_eq!(ask(Method::POST, &[], "/health").await.0, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn probes_get_a_line_for_each_check() {
        assert_eq!(get(&[], "/readyz").await, (StatusCode::OK, "ok\n".into()));
        let (status, page) = get(&[Check::LinearizableRead], "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.contains("[+]serializable_read ok\n[-]linearizable_read failed: so it is\n"), "{page}");
        assert_eq!(get(&[Check::LinearizableRead], "/readyz?exclude=linearizable_read").await.0, StatusCode::OK);
        assert_eq!(get(&[Check::LinearizableRead], "/livez").await.0, StatusCode::OK, "not ready is not dead");
        let (_, page) = get(&[], "/livez/serializable_read?verbose").await;
        assert_eq!(page, "[+]serializable_read ok\nok\n");
        assert_eq!(get(&[], "/livez/nothing").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_version_is_etcds() {
        let (_, page) = get(&[], "/version").await;
        assert_eq!(page, r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    }
}
