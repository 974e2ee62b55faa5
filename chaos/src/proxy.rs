//! A TCP proxy for one direction of dialling (who calls whom), and the network faults that it plays.
//!
//! A fault acts on bytes under way, per direction:
//!
//! - *held*: nothing gets through and nothing is lost, as on a link that drops packets: when it
//!   heals, TCP delivers what was sent meanwhile, to whoever still listens;
//! - *delayed*: everything arrives later, in order, without loss of throughput;
//! - *cut* (both directions): connections are reset, new ones are reset too.
//!
//! Bytes are never changed, reordered or dropped from the middle of a connection: TCP does not do
//! that either.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    pub held: bool,
    pub delay: Duration,
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// From the one who dials to the one who listens.
    pub there: Flow,
    /// The way back, on the same connections.
    pub back: Flow,
    pub cut: bool,
}

/// A listening socket whose connections are passed on to another address. Dropping it resets them.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
    accepting: JoinHandle<()>,
}

/// Chunks of one direction between its reader and its writer. With 16 KiB chunks this is as much as
/// a socket buffer holds.
const CHUNKS: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;

impl Proxy {
    /// Listens on a port of the kernel's choice and passes connections on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let link = Arc::new(watch::Sender::new(Link::default()));
        let accepting = tokio::spawn(accept(listener, target, link.clone()));
        Ok(Proxy { address, link, accepting })
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn link(&self) -> Link {
        *self.link.borrow()
    }

    pub fn set(&self, change: impl FnOnce(&mut Link)) {
        self.link.send_modify(change);
    }

    /// Nothing gets through, either way.
    pub fn hold(&self) {
        self.set(|link| {
            link.there.held = true;
            link.back.held = true;
        });
    }

    /// Resets what is connected and whatever connects.
    pub fn cut(&self) {
        self.set(|link| link.cut = true);
    }

    /// As if nothing had been.
    pub fn heal(&self) {
        self.set(|link| *link = Link::default());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, link: Arc<watch::Sender<Link>>) {
    // Dropped with this task: then every connection ends.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, target, link.subscribe()));
                }
                // Out of file descriptors, most likely: wait for some connection to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    if link.borrow().cut {
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // A reset, not an orderly end, is what a cut looks like to both sides.
    let _ = client.set_zero_linger();
    let _ = server.set_zero_linger();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut both = JoinSet::new();
    both.spawn(direction(from_client, to_server, link.clone(), |link| link.there));
    both.spawn(direction(from_server, to_client, link.clone(), |link| link.back));
    tokio::select! {
        biased;
        _ = link.wait_for(|link| link.cut) => {}
        // Each direction ends with an orderly shutdown of its own when its source ends.
        _ = async { while both.join_next().await.is_some() {} } => {}
    }
}

fn reset(stream: &TcpStream) {
    // The socket closes when the caller drops it; with no linger time that is a reset.
    let _ = stream.set_zero_linger();
}

async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, link: watch::Receiver<Link>, flow: fn(&Link) -> Flow) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let times = link.clone();
    let reading = async move {
        let mut from = from;
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            match from.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let delay = flow(&times.borrow()).delay;
                    if sender.send((Instant::now() + delay, chunk.freeze())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let writing = write_when_due(to, receiver, link, flow);
    tokio::join!(reading, writing);
}

async fn write_when_due(
    mut to: OwnedWriteHalf,
    mut chunks: mpsc::Receiver<(Instant, Bytes)>,
    mut link: watch::Receiver<Link>,
    flow: fn(&Link) -> Flow,
) {
    while let Some((due, chunk)) = chunks.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if link.wait_for(|link| !flow(link).held).await.is_err() {
            return;
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // The end of the stream is held back like every byte before it.
    if link.wait_for(|link| !flow(link).held).await.is_ok() {
        let _ = to.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn pair() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn said(stream: &mut TcpStream, word: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(word).await?;
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    }

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn bytes_pass_unchanged() {
        let (_proxy, mut stream) = pair().await;
        let word: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (mut read, mut write) = stream.split();
        let mut heard = vec![0; word.len()];
        let (sent, got) = tokio::join!(write.write_all(&word), read.read_exact(&mut heard));
        sent.unwrap();
        got.unwrap();
        assert_eq!(heard, word);
    }

    #[tokio::test]
    async fn a_held_link_delivers_when_it_heals() {
        let (proxy, mut stream) = pair().await;
        said(&mut stream, b"before").await.unwrap();
        proxy.set(|link| link.back.held = true);
        let late = tokio::time::timeout(SOON, said(&mut stream, b"during")).await;
        assert!(late.is_err(), "a held link let bytes through");
        proxy.heal();
        let mut heard = [0; 6];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"during");
    }

    #[tokio::test]
    async fn a_one_way_hold_lets_the_other_way_pass() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let mut dialling = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut listening, _) = listener.accept().await.unwrap();
        proxy.set(|link| link.there.held = true);
        listening.write_all(b"back").await.unwrap();
        let mut heard = [0; 4];
        dialling.read_exact(&mut heard).await.unwrap();
        dialling.write_all(b"there").await.unwrap();
        let mut heard = [0; 5];
        assert!(tokio::time::timeout(SOON, listening.read_exact(&mut heard)).await.is_err());
    }

    #[tokio::test]
    async fn a_cut_resets_what_was_connected_and_what_connects() {
        let (proxy, mut stream) = pair().await;
        said(&mut stream, b"before").await.unwrap();
        proxy.cut();
        let error = stream.read_u8().await.unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof));
        if let Ok(mut again) = TcpStream::connect(proxy.address()).await {
            assert!(said(&mut again, b"again").await.is_err());
        }
        proxy.heal();
        let mut healed = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut healed, b"after").await.unwrap(), b"after");
    }

    #[tokio::test]
    async fn a_delay_is_felt_once_and_not_per_chunk() {
        let (proxy, mut stream) = pair().await;
        proxy.set(|link| link.back.delay = Duration::from_millis(80));
        let word = vec![7; 200_000];
        let begun = Instant::now();
        let (mut read, mut write) = stream.split();
        let mut heard = vec![0; word.len()];
        let (sent, got) = tokio::join!(write.write_all(&word), read.read_exact(&mut heard));
        sent.unwrap();
        got.unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(80), "{took:?}");
        assert!(took < Duration::from_millis(800), "{took:?}");
    }
}
