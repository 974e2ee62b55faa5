//! Everything outside the program that a simulator replaces: disk, network, chance, and whether there
//! are threads. The clock is tokio's, which can be paused.
//!
//! Nothing else in the house opens sockets, draws random numbers or hands work to other threads.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::segment::fs::Fs;

/// The world that a server lives in.
#[derive(Debug, Clone)]
pub struct Env {
    pub fs: Arc<dyn Fs>,
    pub net: Arc<dyn Net>,
    pub rng: Rng,
    pub drive: Drive,
    pub pace: Pace,
}

/// What moves the loops that block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Threads of their own: production.
    Threads,
    /// Tasks of the runtime, which then does one thing after the other: simulation.
    Tasks,
}

impl Env {
    /// The real network and real chance, on this disk.
    pub fn production(fs: Arc<dyn Fs>) -> Env {
        Env { fs, net: Arc::new(Tcp), rng: Rng::from_system(), drive: Drive::Threads, pace: Pace::default() }
    }

    /// Runs what may block, where it may.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.drive {
            Drive::Tasks => work(),
            Drive::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(value) => value,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down, and whoever waits with it.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}

/// How long a simulated disk takes: asked before a batch is performed, and again before that is
/// reported. Nobody asks where there are threads: real disks have a pace of their own.
#[derive(Clone)]
pub struct Pace(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Pace {
    pub fn new(next: impl Fn() -> Duration + Send + Sync + 'static) -> Pace {
        Pace(Arc::new(next))
    }

    pub fn next(&self) -> Duration {
        (self.0)()
    }
}

impl Default for Pace {
    /// No time at all.
    fn default() -> Pace {
        Pace::new(|| Duration::ZERO)
    }
}

impl Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pace")
    }
}

/// A byte stream to somebody.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub type BoxedIo = Box<dyn Io>;

/// Sockets. Production uses [`Tcp`]; the simulator has a network of its own.
#[async_trait]
pub trait Net: Debug + Send + Sync + 'static {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
    /// Connects to `host:port`.
    async fn connect(&self, address: &str) -> io::Result<BoxedIo>;
}

#[async_trait]
pub trait Listener: Send + 'static {
    async fn accept(&mut self) -> io::Result<(BoxedIo, SocketAddr)>;
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// The network of this machine. Every socket is TCP_NODELAY, on both sides.
#[derive(Debug)]
pub struct Tcp;

#[async_trait]
impl Net for Tcp {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxedIo, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// The one source of chance, shared by all who need it.
#[derive(Debug, Clone)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    pub fn from_system() -> Rng {
        Rng(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same numbers for the same seed.
    pub fn from_seed(seed: u64) -> Rng {
        Rng(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    pub fn next_u128(&self) -> u128 {
        let mut rng = self.0.lock();
        (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64())
    }
}
