//! `etcd-adapter hash [HOST:PORT ...]`: the state hashes of running adapters, one a line. At equal
//! positions they are equal.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const DEFAULT: &str = "127.0.0.1:2379";
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks each of them. Fails if one does not answer.
pub fn run(addresses: impl Iterator<Item = String>) -> ExitCode {
    let mut addresses: Vec<String> = addresses.collect();
    if addresses.iter().any(|address| address.starts_with('-')) {
        println!("usage: etcd-adapter hash [HOST:PORT ...]   [default: {DEFAULT}]");
        return ExitCode::from(2);
    }
    if addresses.is_empty() {
        addresses.push(DEFAULT.into());
    }
    let mut code = ExitCode::SUCCESS;
    for address in addresses {
        match ask(&address) {
            Ok(page) => println!("{address} {page}"),
            Err(error) => {
                eprintln!("{address}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn ask(address: &str) -> std::io::Result<String> {
    let wrong = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned());
    let socket = address.to_socket_addrs()?.next().ok_or_else(|| wrong("no such address"))?;
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /adapter/hash HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200") => Ok(page.to_owned()),
        _ => Err(wrong("no adapter answers there")),
    }
}
