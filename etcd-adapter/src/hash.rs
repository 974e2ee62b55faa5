//! `etcd-adapter hash [HOST:PORT ...]`: the state hashes of running adapters, one a line. At equal
//! positions they are equal.
//!
//! Papers are named as etcdctl names them: with `--cacert`, every address is spoken to in TLS. An address
//! may be written as a URL, too; one that says `https` is never spoken to in plain text.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, Command, value_parser};
use journal_client::Tls;
use journal_client::tls::Identity;

const DEFAULT: &str = "127.0.0.1:2379";
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks each of them. Fails if one does not answer.
pub fn run(args: impl Iterator<Item = String>) -> ExitCode {
    let matches = command().get_matches_from(args);
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let identity = file("cert").zip(file("key")).map(|(cert, key)| Identity { cert, key });
    let tls = file("cacert").map(|ca| Tls { ca, identity, server_name: None });
    let mut code = ExitCode::SUCCESS;
    for address in matches.get_many::<String>("address").into_iter().flatten() {
        match ask(address, tls.as_ref()) {
            Ok(page) => println!("{address} {page}"),
            Err(error) => {
                eprintln!("{address}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn command() -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("etcd-adapter hash")
        .no_binary_name(true)
        .about("Shows where adapters are and the hash of their state: at equal positions hashes are equal")
        .arg(Arg::new("address").value_name("HOST:PORT").num_args(0..).default_value(DEFAULT).help("Client addresses"))
        .arg(file("cacert", "Speak TLS, to those whose certificates come from these authorities"))
        .arg(file("cert", "The certificate to show").requires("key").requires("cacert"))
        .arg(file("key", "Its key").requires("cert"))
}

fn ask(address: &str, tls: Option<&Tls>) -> anyhow::Result<String> {
    let (bare, secret) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
        (Some(bare), _) => (bare, true),
        (_, Some(bare)) => (bare, false),
        (None, None) => (address, tls.is_some()),
    };
    let host = bare.rsplit_once(':').map_or(bare, |(host, _)| host).trim_matches(['[', ']']);
    let socket = bare.to_socket_addrs()?.next().ok_or_else(|| anyhow::anyhow!("no such address"))?;
    let stream = TcpStream::connect_timeout(&socket, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match (secret, tls) {
        (false, _) => get(stream, bare),
        (true, None) => anyhow::bail!("say with --cacert whose certificates count"),
        (true, Some(tls)) => {
            let mut config = tls.client_config()?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let session = rustls::ClientConnection::new(Arc::new(config), tls.server_name_of(host)?)?;
            get(rustls::StreamOwned::new(session, stream), bare)
        }
    }
}

fn get(mut stream: impl Read + Write, host: &str) -> anyhow::Result<String> {
    write!(stream, "GET /adapter/hash HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Who closes a connection of TLS may do it without a word.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    let answer = String::from_utf8(answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200") => Ok(page.to_owned()),
        _ => anyhow::bail!("no adapter answers there"),
    }
}
