//! What one message there and back costs on this machine, over the same stack that the journal uses:
//! one bidi stream, one message under way, the other end in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::Stream;
use proto::bench::Ball;
use proto::bench::ping_client::PingClient;
use proto::bench::ping_server::{Ping, PingServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::report::{Latencies, Latency};

/// The hidden command by which this program serves the other end.
pub const SERVE: &str = "bench-ping-server";

const BALL_BYTES: usize = 256;
/// Round trips before the first one that counts.
const WARM_UP: u32 = 500;

pub async fn measure(duration: Duration) -> anyhow::Result<Latency> {
    let server = Echo::start()?;
    let channel = Endpoint::from_shared(server.address.clone())?.tcp_nodelay(true).connect().await?;
    let (send, balls) = mpsc::channel(1);
    let mut back = PingClient::new(channel).ping(ReceiverStream::new(balls)).await?.into_inner();
    let ball = Ball { payload: Bytes::from(vec![0x5a; BALL_BYTES]) };

    let mut latencies = Latencies::new();
    let mut begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < duration {
        let before = Instant::now();
        send.send(ball.clone()).await?;
        ensure!(back.message().await?.is_some(), "the echo stopped");
        number += 1;
        if number == WARM_UP {
            begun = Instant::now();
            latencies = Latencies::new();
        }
        latencies.record(before.elapsed());
    }
    Ok(latencies.over(duration))
}

/// Serves echoes on a port that is printed, until standard input ends.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        stream.inspect(|stream| {
            let _ = stream.set_nodelay(true);
        })
    });
    let parent_is_gone = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
    tokio::select! {
        biased;
        _ = parent_is_gone => Ok(()),
        served = Server::builder().add_service(PingServer::new(Echoes)).serve_with_incoming(incoming) => Ok(served?),
    }
}

/// The other end. It ends with its standard input, so with this process at the latest.
struct Echo {
    child: Child,
    address: String,
}

impl Echo {
    fn start() -> anyhow::Result<Echo> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other end of the ping")?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("it was piped")).read_line(&mut port)?;
        ensure!(!port.trim().is_empty(), "the other end of the ping did not start");
        Ok(Echo { child, address: format!("http://127.0.0.1:{}", port.trim()) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Echoes;

#[tonic::async_trait]
impl Ping for Echoes {
    type PingStream = std::pin::Pin<Box<dyn Stream<Item = Result<Ball, Status>> + Send>>;

    async fn ping(&self, balls: Request<Streaming<Ball>>) -> Result<Response<Self::PingStream>, Status> {
        Ok(Response::new(Box::pin(balls.into_inner())))
    }
}
