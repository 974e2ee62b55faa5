//! One GET of a plaintext health page: enough HTTP for `/readyz`, no more.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A status and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

/// Pages here are lists of reasons and metrics, never large.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Fetches `path`, or says why that was not possible within `patience`.
pub async fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Page> {
    timeout(patience, fetch(address, path)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn fetch(address: SocketAddr, path: &str) -> io::Result<Page> {
    let mut stream = TcpStream::connect(address).await?;
    // 1.0: the answer is neither chunked nor followed by another.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(answer: &str) -> Option<Page> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Page { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let page = parse("HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nno leader\n");
        assert_eq!(page, Some(Page { status: 503, body: "no leader\n".into() }));
        assert_eq!(parse("SSH-2.0-hello"), None);
    }
}
