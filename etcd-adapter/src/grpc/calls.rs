//! How many calls began and how they ended, by method, under the names that etcd's dashboards know.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;

use crate::meters::{self, Histogram};

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// Every method, sorted by path.
const METHODS: [(&str, &str); 51] = [
    ("/etcdserverpb.Auth/AuthDisable", UNARY),
    ("/etcdserverpb.Auth/AuthEnable", UNARY),
    ("/etcdserverpb.Auth/AuthStatus", UNARY),
    ("/etcdserverpb.Auth/Authenticate", UNARY),
    ("/etcdserverpb.Auth/RoleAdd", UNARY),
    ("/etcdserverpb.Auth/RoleDelete", UNARY),
    ("/etcdserverpb.Auth/RoleGet", UNARY),
    ("/etcdserverpb.Auth/RoleGrantPermission", UNARY),
    ("/etcdserverpb.Auth/RoleList", UNARY),
    ("/etcdserverpb.Auth/RoleRevokePermission", UNARY),
    ("/etcdserverpb.Auth/UserAdd", UNARY),
    ("/etcdserverpb.Auth/UserChangePassword", UNARY),
    ("/etcdserverpb.Auth/UserDelete", UNARY),
    ("/etcdserverpb.Auth/UserGet", UNARY),
    ("/etcdserverpb.Auth/UserGrantRole", UNARY),
    ("/etcdserverpb.Auth/UserList", UNARY),
    ("/etcdserverpb.Auth/UserRevokeRole", UNARY),
    ("/etcdserverpb.Cluster/MemberAdd", UNARY),
    ("/etcdserverpb.Cluster/MemberList", UNARY),
    ("/etcdserverpb.Cluster/MemberPromote", UNARY),
    ("/etcdserverpb.Cluster/MemberRemove", UNARY),
    ("/etcdserverpb.Cluster/MemberUpdate", UNARY),
    ("/etcdserverpb.KV/Compact", UNARY),
    ("/etcdserverpb.KV/DeleteRange", UNARY),
    ("/etcdserverpb.KV/Put", UNARY),
    ("/etcdserverpb.KV/Range", UNARY),
    ("/etcdserverpb.KV/RangeStream", SERVER_STREAM),
    ("/etcdserverpb.KV/Txn", UNARY),
    ("/etcdserverpb.Lease/LeaseGrant", UNARY),
    ("/etcdserverpb.Lease/LeaseKeepAlive", BIDI_STREAM),
    ("/etcdserverpb.Lease/LeaseLeases", UNARY),
    ("/etcdserverpb.Lease/LeaseRevoke", UNARY),
    ("/etcdserverpb.Lease/LeaseTimeToLive", UNARY),
    ("/etcdserverpb.Maintenance/Alarm", UNARY),
    ("/etcdserverpb.Maintenance/Defragment", UNARY),
    ("/etcdserverpb.Maintenance/Downgrade", UNARY),
    ("/etcdserverpb.Maintenance/Hash", UNARY),
    ("/etcdserverpb.Maintenance/HashKV", UNARY),
    ("/etcdserverpb.Maintenance/MoveLeader", UNARY),
    ("/etcdserverpb.Maintenance/Snapshot", SERVER_STREAM),
    ("/etcdserverpb.Maintenance/Status", UNARY),
    ("/etcdserverpb.Watch/Watch", BIDI_STREAM),
    ("/grpc.health.v1.Health/Check", UNARY),
    ("/grpc.health.v1.Health/Watch", SERVER_STREAM),
    ("/v3electionpb.Election/Campaign", UNARY),
    ("/v3electionpb.Election/Leader", UNARY),
    ("/v3electionpb.Election/Observe", SERVER_STREAM),
    ("/v3electionpb.Election/Proclaim", UNARY),
    ("/v3electionpb.Election/Resign", UNARY),
    ("/v3lockpb.Lock/Lock", UNARY),
    ("/v3lockpb.Lock/Unlock", UNARY),
];

#[derive(Default)]
struct Counts {
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
}

/// The counters of all methods.
pub struct Calls {
    counts: Vec<Counts>,
    /// How long calls of each method took, where that is measured.
    times: Option<Vec<Histogram>>,
    pub clients: Clients,
}

/// Versions of clients that are told apart. Anybody can make up more.
const VERSIONS_MAX: usize = 32;
/// Who says no version, or one too many, or one that is none.
const NO_VERSION: usize = 0;

/// How often which versions of clients called: in the order in which they came, and never forgotten.
pub struct Clients([OnceLock<Client>; VERSIONS_MAX]);

struct Client {
    version: String,
    unary: AtomicU64,
    streams: AtomicU64,
}

impl Client {
    fn new(version: &str) -> Client {
        Client { version: version.to_owned(), unary: AtomicU64::new(0), streams: AtomicU64::new(0) }
    }
}

fn count(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Clients {
    /// The number of those who say this version.
    pub fn of(&self, version: Option<&[u8]>) -> usize {
        let readable = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+_".contains(byte);
        let version = version.filter(|version| version.len() <= 64 && version.iter().all(readable));
        let Some(version) = version.and_then(|version| std::str::from_utf8(version).ok()) else { return NO_VERSION };
        // Another may take the place meanwhile: then the next one.
        let place = self.0.iter().position(|client| client.get_or_init(|| Client::new(version)).version == version);
        place.unwrap_or(NO_VERSION)
    }

    pub fn unary(&self, client: usize) {
        count(self.at(client).map(|client| &client.unary));
    }

    fn stream(&self, client: usize) {
        count(self.at(client).map(|client| &client.streams));
    }

    fn at(&self, client: usize) -> Option<&Client> {
        self.0.get(client)?.get()
    }

    fn known(&self) -> impl Iterator<Item = &Client> {
        self.0.iter().map_while(OnceLock::get)
    }
}

impl Calls {
    /// `timed` asks for how long calls took, too.
    pub fn new(timed: bool) -> Calls {
        let times = timed.then(|| METHODS.iter().map(|_| Histogram::new(meters::CALLS)).collect());
        let clients = Clients(std::array::from_fn(|_| OnceLock::new()));
        clients.0[NO_VERSION].get_or_init(|| Client::new("unknown"));
        Calls { counts: METHODS.iter().map(|_| Counts::default()).collect(), times, clients }
    }

    /// A client of this version calls this method.
    pub fn called(&self, path: &str, version: Option<&[u8]>) {
        let client = self.clients.of(version);
        match method(path).map(|method| METHODS[method].1) {
            Some(UNARY) => self.clients.unary(client),
            Some(_) => self.clients.stream(client),
            None => {}
        }
    }

    /// A call of this method begins. What is no method is not counted.
    pub fn started(self: &Arc<Self>, path: &str) -> Started {
        self.begun(method(path))
    }

    /// The same, for those who looked the method up before.
    pub fn begun(self: &Arc<Self>, method: Option<usize>) -> Started {
        if let Some(method) = method {
            self.counts[method].started.fetch_add(1, Ordering::Relaxed);
        }
        Started { calls: self.clone(), method, code: None, began: Instant::now() }
    }

    /// As Prometheus reads it. Methods that nobody called are shown too: rates need their zeros.
    pub fn render(&self, page: &mut String) {
        let labels = |method: usize| {
            let (path, kind) = METHODS[method];
            let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
            format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
        };
        page.push_str("# TYPE grpc_server_started_total counter\n");
        for (method, counts) in self.counts.iter().enumerate() {
            let started = counts.started.load(Ordering::Relaxed);
            let _ = writeln!(page, "grpc_server_started_total{{{}}} {started}", labels(method));
        }
        page.push_str("# TYPE grpc_server_handled_total counter\n");
        for (method, counts) in self.counts.iter().enumerate() {
            for (code, name) in CODES.iter().enumerate() {
                let handled = counts.handled[code].load(Ordering::Relaxed);
                if handled > 0 || code == 0 {
                    let labels = labels(method);
                    let _ = writeln!(page, "grpc_server_handled_total{{grpc_code=\"{name}\",{labels}}} {handled}");
                }
            }
        }
        page.push_str("# TYPE etcd_server_client_requests_total counter\n");
        for Client { version, unary, streams } in self.clients.known() {
            for (kind, count) in [("unary", unary), ("stream", streams)] {
                let count = count.load(Ordering::Relaxed);
                let labels = format!("type=\"{kind}\",client_api_version=\"{version}\"");
                let _ = writeln!(page, "etcd_server_client_requests_total{{{labels}}} {count}");
            }
        }
        let Some(times) = &self.times else { return };
        page.push_str("# TYPE grpc_server_handling_seconds histogram\n");
        for (method, times) in times.iter().enumerate() {
            times.render(page, "grpc_server_handling_seconds", &format!("{},", labels(method)));
        }
    }
}

/// The number of a method among those that are counted.
pub fn method(path: &str) -> Option<usize> {
    METHODS.binary_search_by_key(&path, |(path, _)| *path).ok()
}

/// A call that began, and counts as handled when this is dropped.
pub struct Started {
    calls: Arc<Calls>,
    method: Option<usize>,
    code: Option<usize>,
    began: Instant,
}

impl Started {
    /// The call has ended so.
    pub fn ended(mut self, code: tonic::Code) {
        self.code = Some(code as usize);
    }

    /// The answer, which tells when it was sent how the call ended.
    pub fn handled(mut self, response: Response<Body>) -> Response<Body> {
        if self.method.is_none() {
            return response;
        }
        if let Some(code) = code_of(response.headers()) {
            self.code = Some(code);
            return response;
        }
        response.map(|body| Body::new(Counted { body, started: self }))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(method) = self.method {
            // Nobody waited for the end.
            let code = self.code.unwrap_or(CANCELED);
            self.calls.counts[method].handled[code].fetch_add(1, Ordering::Relaxed);
            if let Some(times) = &self.calls.times {
                times[method].observe(self.began.elapsed());
            }
        }
    }
}

fn code_of(headers: &HeaderMap) -> Option<usize> {
    let text = headers.get("grpc-status")?.to_str().ok()?;
    Some(text.parse().ok().filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN))
}

struct Counted {
    body: Body,
    started: Started,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.started.code = code_of(trailers).or(Some(UNKNOWN));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_sorted_so_that_each_is_found() {
        assert!(METHODS.is_sorted());
    }

    #[test]
    fn a_call_counts_as_handled_once_with_the_code_that_it_ended_with() {
        let calls = Arc::new(Calls::new(true));
        let put = "/etcdserverpb.KV/Put";
        let refused = tonic::Status::not_found("lease").into_http();
        calls.started(put).handled(refused);
        drop(calls.started(put));
        let mut page = String::new();
        calls.render(&mut page);
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        assert!(page.contains(&format!("grpc_server_started_total{{{labels}}} 2\n")), "{page}");
        for code in ["NotFound", "Canceled"] {
            assert!(page.contains(&format!("grpc_server_handling_seconds_count{{{labels}}} 2\n")), "{page}");
            assert!(page.contains(&format!("{{grpc_code=\"{code}\",{labels}}} 1\n")), "{page}");
        }
    }
}
