//! Whole connections, over a pipe: spoken to by another implementation of HTTP/2, and frame by frame.

mod frames;
mod peers;
mod time;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::Answers;
use super::connection::Connection;
use super::frame::{self, HEADER_BYTES, Header, Reason, flag, kind};
use super::fuzz::{self, Echo, enveloped};
use crate::config::Transport;

const PIPE_BYTES: usize = 64 << 10;

fn transport(concurrent_streams: u32) -> Transport {
    Transport {
        concurrent_streams,
        keepalive_interval: Duration::from_secs(10),
        keepalive_timeout: Duration::from_secs(5),
    }
}

/// A connection behind a pipe, its preface read.
fn serve<A: Answers>(
    answers: A,
    transport: Transport,
    stop: CancellationToken,
) -> (DuplexStream, tokio::task::JoinHandle<std::io::Result<()>>) {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let connection = Connection::new(theirs, answers, transport, stop);
    (ours, tokio::spawn(tokio::task::unconstrained(connection)))
}

/// A client that says and hears frames.
struct Client {
    pipe: DuplexStream,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    echo: Echo,
    stop: CancellationToken,
    out: Vec<u8>,
}

impl Client {
    /// Has said its settings, and heard the server's.
    async fn with(settings: &[(u16, u32)], concurrent_streams: u32) -> Client {
        let (echo, stop) = (Echo::default(), CancellationToken::new());
        let (pipe, served) = serve(echo.clone(), transport(concurrent_streams), stop.clone());
        let mut client = Client { pipe, served, echo, stop, out: Vec::new() };
        frame::write_settings(settings, &mut client.out);
        client.say().await;
        let (header, _) = client.hear().await;
        assert_eq!((header.kind, header.flags), (kind::SETTINGS, 0));
        let (header, _) = client.hear().await;
        assert_eq!((header.kind, header.stream), (kind::WINDOW_UPDATE, 0));
        let (header, _) = client.hear().await;
        assert_eq!((header.kind, header.flags), (kind::SETTINGS, flag::ACK));
        client
    }

    async fn new() -> Client {
        Client::with(&[], 100).await
    }

    /// Sends what was written into `out`.
    async fn say(&mut self) {
        self.pipe.write_all(&std::mem::take(&mut self.out)).await.unwrap();
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        fuzz::write(kind, flags, stream, payload, &mut self.out);
    }

    fn write_call(&mut self, stream: u32, path: &str, message: &[u8]) {
        fuzz::write_call(stream, path, message, &mut self.out);
    }

    async fn hear(&mut self) -> (Header, Vec<u8>) {
        let mut bytes = [0; HEADER_BYTES];
        let heard = async {
            self.pipe.read_exact(&mut bytes).await.unwrap();
            let header = Header::read(&bytes).unwrap();
            let mut payload = vec![0; header.length];
            self.pipe.read_exact(&mut payload).await.unwrap();
            (header, payload)
        };
        tokio::time::timeout(Duration::from_secs(60), heard).await.expect("a frame")
    }

    /// The server has nothing to say for now.
    async fn assert_silence(&mut self) {
        let mut byte = [0];
        let heard = tokio::time::timeout(Duration::from_millis(20), self.pipe.read(&mut byte)).await;
        assert!(heard.is_err(), "it says something");
    }

    /// A whole answer to a call of one message.
    async fn assert_answered(&mut self, stream: u32, message: &[u8]) {
        let (header, _) = self.hear().await;
        assert_eq!((header.kind, header.stream, header.flags), (kind::HEADERS, stream, flag::END_HEADERS));
        let (header, data) = self.hear().await;
        assert_eq!((header.kind, header.stream, header.flags), (kind::DATA, stream, 0));
        assert_eq!(data, enveloped(message));
        let (header, _) = self.hear().await;
        let end = flag::END_HEADERS | flag::END_STREAM;
        assert_eq!((header.kind, header.stream, header.flags), (kind::HEADERS, stream, end));
    }

    async fn assert_reset(&mut self, stream: u32, reason: Reason) {
        let (header, payload) = self.hear().await;
        assert_eq!((header.kind, header.stream), (kind::RST_STREAM, stream), "{payload:?}");
        assert_eq!(frame::number(&payload), Some(reason as u32));
    }

    async fn assert_gone(&mut self, reason: Reason) {
        let (header, payload) = self.hear().await;
        assert_eq!(header.kind, kind::GOAWAY, "{header:?}");
        assert_eq!(frame::number(&payload[4..]), Some(reason as u32));
        assert_eq!(self.pipe.read(&mut [0]).await.unwrap(), 0, "it goes on");
    }
}
