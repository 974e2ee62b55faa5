//! Sockets: HTTP/1.1 and HTTP/2 on one port, TLS with certificates that are replaced, unix sockets, and
//! what is said about methods that nobody knows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_adapter::adapter::Adapter;
use hyper_util::rt::TokioIo;
use journal_client::tls::Identity;
use proto::etcd::RangeRequest;
use proto::etcd::kv_client::KvClient;
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Channel, Endpoint};

use crate::world::{World, bytes, start};

pub async fn ask_http1(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: adapter\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn pages_and_calls_share_one_port() {
    let mut world = World::new().await;
    world.put("k", "v").await;
    let address = world.adapter.addresses[0].clone();
    let health = ask_http1(&address, "/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.ends_with(r#"{"health":"true","reason":""}"#), "{health}");
    let metrics = ask_http1(&address, "/metrics").await;
    let put = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV""#;
    assert!(metrics.contains(put), "{metrics}");
    assert!(metrics.contains("etcd_server_has_leader 1\n"));
    let mut client = HealthClient::new(world.channel.clone());
    let checked = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(checked.status(), proto::health::health_check_response::ServingStatus::Serving);
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_unimplemented() {
    let world = World::new().await;
    for path in ["/etcdserverpb.KV/Nothing", "/no.such.Service/Method", "/etcdserverpb.Watch/Nothing"] {
        let mut grpc = tonic::client::Grpc::new(world.channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeRequest>::default();
        let call = grpc.unary(tonic::Request::new(RangeRequest::default()), path.parse().unwrap(), codec);
        assert_eq!(call.await.unwrap_err().code(), tonic::Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn a_unix_socket_serves_as_a_port_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.sock");
    let adapter = start(&[], &format!("unix://{}", path.display())).await;
    let socket = path.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut kv = KvClient::new(channel);
    assert!(kv.range(RangeRequest { key: bytes("k"), ..Default::default() }).await.is_ok());
    drop(kv);
    adapter.shutdown().await;
    assert!(!path.exists(), "the socket stays behind");
    // A socket that a dead process left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    start(&[], &format!("unix://{}", path.display())).await;
}

/// An authority, and papers that it has signed.
pub struct Authority {
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        Authority { ca, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a certificate of this name, and its key.
    pub fn issue(&self, file: &str, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// An adapter with the papers `server`, which trusts this authority.
pub async fn start_secured(authority: &Authority, flags: &[&str]) -> Adapter {
    let flag = |name: &str, file: &str| format!("--{name}={}", authority.path(file).display());
    let papers = [flag("cert-file", "server.pem"), flag("key-file", "server.key"), flag("trusted-ca-file", "ca.pem")];
    let flags: Vec<_> = papers.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    start(&flags, "https://127.0.0.1:0").await
}

/// A client that knows the server by this name, and shows these papers or none.
async fn secured(address: &str, ca: &Path, name: &str, papers: Option<(PathBuf, PathBuf)>) -> Result<Channel, String> {
    let tls = journal_client::Tls {
        ca: ca.to_owned(),
        identity: papers.map(|(cert, key)| Identity { cert, key }),
        server_name: Some(name.to_owned()),
    };
    let config = std::sync::Arc::new(tls.client_config().map_err(|error| error.to_string())?);
    let server = tls.server_name_of("unused").map_err(|error| error.to_string())?;
    let address = address.to_owned();
    let connector = tower::service_fn(move |_| {
        let (config, server, address) = (config.clone(), server.clone(), address.clone());
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            tokio_rustls::TlsConnector::from(config).connect(server, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(Duration::from_secs(2));
    endpoint.connect_with_connector(connector).await.map_err(|error| format!("{error:?}"))
}

async fn reads(channel: Channel) -> Result<(), String> {
    let request = RangeRequest { key: bytes("k"), ..Default::default() };
    KvClient::new(channel).range(request).await.map(|_| ()).map_err(|status| status.to_string())
}

#[tokio::test]
async fn certificates_are_demanded_and_replaced_without_a_restart() {
    let authority = Authority::new();
    authority.issue("server", "old.example");
    authority.issue("client", "client.example");
    let adapter = start_secured(&authority, &["--client-cert-auth"]).await;
    let address = adapter.addresses[0].clone();
    let ca = authority.path("ca.pem");
    let papers = || Some((authority.path("client.pem"), authority.path("client.key")));

    let good = secured(&address, &ca, "old.example", papers()).await.unwrap();
    reads(good.clone()).await.unwrap();
    let bare = match secured(&address, &ca, "old.example", None).await {
        Ok(channel) => reads(channel).await,
        Err(error) => Err(error),
    };
    assert!(bare.is_err(), "a client without papers was let in");
    assert!(secured(&address, &ca, "new.example", papers()).await.is_err());

    tokio::time::sleep(Duration::from_millis(20)).await;
    authority.issue("server", "new.example");
    reads(secured(&address, &ca, "new.example", papers()).await.unwrap()).await.unwrap();
    reads(good).await.unwrap();
}

/// What a client that speaks only this comes to terms with the server on; nothing if they do not.
async fn agreed(
    adapter: &Adapter,
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    suites: &[CipherSuite],
) -> Option<CipherSuite> {
    let identity = Identity { cert: authority.path("client.pem"), key: authority.path("client.key") };
    let chain = CertificateDer::pem_file_iter(&identity.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap()).unwrap();
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suites.is_empty() || suites.contains(&suite.suite()));
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = tokio::net::TcpStream::connect(&adapter.addresses[0]).await.unwrap();
    let name = "server.example".try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.ok()?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: adapter\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite())
}

#[tokio::test]
async fn a_client_of_a_version_or_cipher_that_was_left_out_is_not_served() {
    let authority = Authority::new();
    authority.issue("server", "server.example");
    authority.issue("client", "client.example");
    let newest = start_secured(&authority, &["--tls-min-version=TLS1.3"]).await;
    assert_eq!(agreed(&newest, &authority, &TLS12, &[]).await, None);
    assert!(agreed(&newest, &authority, &TLS13, &[]).await.is_some());

    let older = start_secured(&authority, &["--tls-max-version=TLS1.2"]).await;
    assert!(agreed(&older, &authority, &TLS12, &[]).await.is_some());
    assert_eq!(agreed(&older, &authority, &TLS13, &[]).await, None);

    // The keys of these papers are of an elliptic curve.
    let chosen = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let choosy = start_secured(&authority, &["--cipher-suites", chosen]).await;
    let others = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    assert_eq!(agreed(&choosy, &authority, &TLS12, &others).await, None);
    let agreed_on = agreed(&choosy, &authority, &TLS12, &[]).await.and_then(|suite| suite.as_str());
    assert!(chosen.split(',').any(|suite| agreed_on == Some(suite)), "{agreed_on:?}");
    assert!(agreed(&choosy, &authority, &TLS13, &[]).await.is_some(), "the list is about TLS 1.2");

    let any = start_secured(&authority, &[]).await;
    assert!(agreed(&any, &authority, &TLS12, &others).await.is_some());
    assert!(agreed(&any, &authority, &TLS13, &[]).await.is_some());
}
