//! What the stories have in common.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use chaos::cluster::{Adapter, AdapterOptions, Cluster, Options, Ports};
use proto::etcd::kv_client::KvClient;
use proto::etcd::{PutRequest, RangeRequest};
use tonic::Status;
use tonic::transport::Channel;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Adapters, and the journal beneath them if they have one.
pub struct Front {
    pub adapters: Vec<Adapter>,
    pub cluster: Option<Cluster>,
    _ports: Option<Ports>,
    dir: tempfile::TempDir,
}

impl Front {
    /// One adapter that keeps everything in itself.
    pub async fn ephemeral() -> Front {
        let ports = Ports::claim().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let adapters = vec![start(&dir, 0, ports.of(0, 0), ports.of(0, 1), Vec::new(), Vec::new())];
        adapters[0].wait_ready(PATIENCE).await.unwrap();
        Front { adapters, cluster: None, _ports: Some(ports), dir }
    }

    /// So many adapters in front of three nodes.
    pub async fn on_a_journal(adapters: usize) -> Front {
        Front::on(Options::default(), adapters, |_| Vec::new()).await
    }

    /// The same over such a journal, with further flags.
    pub async fn on(options: Options, adapters: usize, flags: impl Fn(&Cluster) -> Vec<String>) -> Front {
        let cluster = Cluster::start(options).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let adapters: Vec<_> = (0..adapters)
            .map(|number| {
                let (client, metrics) = (cluster.adapter_port(number, 0), cluster.adapter_port(number, 1));
                start(&dir, number, client, metrics, cluster.endpoints(), flags(&cluster))
            })
            .collect();
        for adapter in &adapters {
            adapter.wait_ready(PATIENCE).await.unwrap();
        }
        Front { adapters, cluster: Some(cluster), _ports: None, dir }
    }

    /// One more adapter before the same journal, with these flags only; nobody waits for it.
    pub fn another(&self, flags: Vec<String>) -> Adapter {
        let cluster = self.cluster.as_ref().unwrap();
        let number = self.adapters.len();
        let (client, metrics) = (cluster.adapter_port(number, 0), cluster.adapter_port(number, 1));
        start(&self.dir, number, client, metrics, cluster.endpoints(), flags)
    }

    pub fn client(&self, number: usize) -> Client {
        Client::of(&self.adapters[number])
    }

    /// Stops everything, which must not need force.
    pub async fn stop(self) {
        for adapter in &self.adapters {
            if adapter.runs() {
                assert!(!adapter.stop(Duration::from_secs(15)).await, "{} had to be killed", adapter.name());
                let end = adapter.end().unwrap();
                assert!(end.success(), "{}: {end}; {}", adapter.name(), adapter.last_words());
            }
        }
        if let Some(cluster) = self.cluster {
            let killed = cluster.stop().await;
            assert!(killed.is_empty(), "had to be killed: {killed:?}");
        }
    }
}

fn start(
    dir: &tempfile::TempDir,
    number: usize,
    client: u16,
    metrics: u16,
    journal: Vec<String>,
    flags: Vec<String>,
) -> Adapter {
    let name = format!("a{}", number + 1);
    let adapter = Adapter::prepare(AdapterOptions {
        home: dir.path().join(&name),
        name,
        store: None,
        client_port: client,
        metrics_port: metrics,
        journal,
        program: None,
        flags,
    });
    let adapter = adapter.unwrap();
    adapter.start().unwrap();
    adapter
}

/// A client that connects anew when it must, and repeats nothing.
#[derive(Clone)]
pub struct Client {
    pub kv: KvClient<Channel>,
}

impl Client {
    pub fn of(adapter: &Adapter) -> Client {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", adapter.endpoint())).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect_lazy();
        Client { kv: KvClient::new(channel) }
    }

    /// Writes, and answers the revision.
    pub async fn put(&mut self, key: &str, value: impl Into<Bytes>) -> Result<i64, Status> {
        let request = PutRequest { key: Bytes::from(key.to_owned()), value: value.into(), ..Default::default() };
        let response = self.kv.put(request).await?.into_inner();
        Ok(response.header.unwrap().revision)
    }

    /// Reads linearizably: the value with its mod revision.
    pub async fn get(&mut self, key: &str) -> Result<Option<(Bytes, i64)>, Status> {
        let request = RangeRequest { key: Bytes::from(key.to_owned()), ..Default::default() };
        let response = self.kv.range(request).await?.into_inner();
        Ok(response.kvs.into_iter().next().map(|kv| (kv.value, kv.mod_revision)))
    }
}

/// etcd's own client, pointed at adapters.
#[derive(Clone)]
pub struct Ctl {
    program: PathBuf,
    endpoints: String,
}

impl Ctl {
    /// Nothing where it cannot be built: then what needs it is skipped, and says so.
    pub fn of(adapters: &[Adapter]) -> Option<Ctl> {
        let endpoints: Vec<_> = adapters.iter().map(|adapter| adapter.endpoint().to_string()).collect();
        Ctl::at(endpoints.join(","))
    }

    /// The same, for whatever listens there.
    pub fn at(endpoints: String) -> Option<Ctl> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let Some(program) = chaos::etcd::etcdctl(repository).unwrap() else {
            chaos::skipped("there is no etcdctl");
            return None;
        };
        Some(Ctl { program, endpoints })
    }

    pub fn endpoints(&self) -> &str {
        &self.endpoints
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--endpoints", &self.endpoints, "--command-timeout", "10s"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What it prints, if it succeeds.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "etcdctl {args:?}: {}", complaint(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains of, when it fails.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(!output.status.success(), "etcdctl {args:?} succeeded");
        complaint(&output)
    }

    /// The same with something to read.
    pub fn says_to(&self, args: &[&str], input: &str) -> String {
        let output = self.outcome(args, input);
        assert!(output.status.success(), "etcdctl {args:?}: {}", complaint(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Ctl {
    /// Whatever comes of it.
    pub fn outcome(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }
}

/// A command that goes on, line by line.
pub struct Going {
    pub child: Child,
    pub lines: std::sync::mpsc::Receiver<String>,
}

impl Going {
    pub fn begin(ctl: &Ctl, args: &[&str]) -> Going {
        let mut child = ctl.command(args).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        Going { child, lines }
    }

    pub fn next(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.lines.recv_timeout(Duration::from_secs(10)).expect("one more line")).collect()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
