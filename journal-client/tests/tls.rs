//! TLS from certificates on disk: who is believed, and how certificates are renewed in place.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use journal_client::tls::{Identity, Reloading};
use journal_client::transport::{ChannelOptions, channel};
use journal_client::{Connector, TcpConnector, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for `names`, and whom its owner trusts.
fn identity(dir: &Path, name: &str, names: &[&str], issuer: &Authority, trusts: &Authority) -> Tls {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, issuer).unwrap();
    let at = |kind: &str| dir.join(format!("{name}.{kind}.pem"));
    let tls = Tls { ca: at("ca"), identity: Some(Identity { cert: at("cert"), key: at("key") }), server_name: None };
    std::fs::write(at("ca"), trusts.pem()).unwrap();
    std::fs::write(at("cert"), cert.pem()).unwrap();
    std::fs::write(at("key"), key.serialize_pem()).unwrap();
    tls
}

/// Echoes one byte to whoever completes the handshake. Its certificates are read anew as they change.
async fn echo(tls: Tls) -> String {
    let config = Arc::new(Reloading::new(tls, |tls| tls.server_config(&[b"h2"])).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.current());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let byte = stream.read_u8().await?;
                stream.write_u8(byte).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// Whether both sides accept each other. In TLS 1.3 a client learns from the first byte that comes
/// back whether it was accepted.
async fn speaks(client: &TcpConnector, address: &str) -> std::io::Result<()> {
    let mut stream = client.connect(address).await?;
    stream.write_u8(42).await?;
    assert_eq!(stream.read_u8().await?, 42);
    Ok(())
}

fn connector(tls: &Tls) -> TcpConnector {
    TcpConnector::new(Some(tls.clone()), false).unwrap()
}

#[tokio::test]
async fn both_sides_show_certificates_of_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority(), authority());
    let server = identity(dir.path(), "server", &["127.0.0.1"], &ours, &ours);
    let address = echo(server).await;

    let friend = identity(dir.path(), "friend", &["friend"], &ours, &ours);
    speaks(&connector(&friend), &address).await.unwrap();

    let stranger = identity(dir.path(), "stranger", &["friend"], &theirs, &ours);
    assert!(speaks(&connector(&stranger), &address).await.is_err(), "a stranger was let in");

    let distrustful = identity(dir.path(), "distrustful", &["friend"], &ours, &theirs);
    assert!(speaks(&connector(&distrustful), &address).await.is_err(), "a stranger was spoken to");

    let nobody = Tls { identity: None, ..friend };
    assert!(speaks(&connector(&nobody), &address).await.is_err(), "nobody was let in");
}

#[tokio::test]
async fn a_server_is_known_by_its_name_or_by_the_one_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let server = identity(dir.path(), "server", &["node-1.journal"], &ours, &ours);
    let address = echo(server).await;
    let client = identity(dir.path(), "client", &["client"], &ours, &ours);
    assert!(speaks(&connector(&client), &address).await.is_err(), "its address is not its name");
    let named = |name: &str| Tls { server_name: Some(name.into()), ..client.clone() };
    speaks(&connector(&named("node-1.journal")), &address).await.unwrap();
    assert!(speaks(&connector(&named("node-2.journal")), &address).await.is_err());
}

#[tokio::test]
async fn new_certificates_are_used_without_a_restart_and_bad_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (authority(), authority());
    let server = identity(dir.path(), "server", &["127.0.0.1"], &old, &old);
    let client = identity(dir.path(), "client", &["client"], &old, &old);
    let address = echo(server).await;
    let connector = connector(&client);
    speaks(&connector, &address).await.unwrap();

    // The server changes its authority; the client has not heard yet.
    touch_later(&identity(dir.path(), "server", &["127.0.0.1"], &new, &new));
    assert!(speaks(&connector, &address).await.is_err());

    // Half a renewal: the files make no sense, the old ones stay in use.
    std::fs::write(&client.ca, "no certificate").unwrap();
    assert!(speaks(&connector, &address).await.is_err());

    touch_later(&identity(dir.path(), "client", &["client"], &new, &new));
    speaks(&connector, &address).await.unwrap();

    std::fs::remove_file(&client.ca).unwrap();
    speaks(&connector, &address).await.unwrap();
}

#[test]
fn what_is_wrong_with_certificates_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let good = identity(dir.path(), "good", &["a"], &ours, &ours);
    let other = identity(dir.path(), "other", &["b"], &ours, &ours);
    let absent = Tls { ca: dir.path().join("absent.pem"), ..good.clone() };
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let mixed = Identity { cert: good.identity.clone().unwrap().cert, key: other.identity.unwrap().key };
    let cases = [
        (absent, "cannot read"),
        (Tls { ca: empty, ..good.clone() }, "contains no certificate"),
        (Tls { identity: Some(mixed), ..good.clone() }, "do not make an identity"),
    ];
    for (tls, says) in cases {
        let error = TcpConnector::new(Some(tls), false).err().expect("bad files were accepted");
        assert!(error.to_string().contains(says), "{error}");
    }
    let nobody = Tls { identity: None, ..good };
    assert!(nobody.server_config(&[b"h2"]).is_err(), "a server without a certificate");
}

#[tokio::test]
async fn a_call_that_reached_nobody_says_so() {
    use journal_client::refusal::never_sent;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let connector = Arc::new(TcpConnector::new(None, false).unwrap());
    let channel = channel(&address, connector, &ChannelOptions::default()).unwrap();
    let mut client = proto::journal::journal_client::JournalClient::new(channel);
    let status = client.describe(proto::journal::DescribeRequest::default()).await.unwrap_err();
    assert!(never_sent(&status), "{status:?}");
}

/// The clock of a file system may be too coarse to tell two versions of a file by their time.
fn touch_later(tls: &Tls) {
    let identity = tls.identity.as_ref().unwrap();
    for path in [&tls.ca, &identity.cert, &identity.key] {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(2)).unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_has_ended_opens_no_door_that_it_opened_before() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let server = identity(dir.path(), "server", &["127.0.0.1"], &ours, &ours);
    let address = echo(server).await;

    let tls = identity(dir.path(), "client", &["client"], &ours, &ours);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    let files = tls.identity.clone().unwrap();
    std::fs::write(&files.cert, params.signed_by(&key, &ours).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();

    // The same connector all the time: it keeps what servers give it for the next time.
    let client = connector(&tls);
    for _ in 0..3 {
        speaks(&client, &address).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(speaks(&client, &address).await.is_err(), "it got in with a certificate of the past");
}
