//! Listening sockets: one an address, each with one loop that accepts, and deals what it accepted to
//! the threads that serve, in turn.
//!
//! A connection belongs to one thread for its life. With no serving threads at all, connections stay
//! on the runtime that accepts.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use journal_client::transport::Io;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Front, Stream};
use crate::config::{Place, Url};

/// Accepted connections that a serving thread has not taken yet.
const DEALT_MAX: usize = 1024;
/// After a failed accept: descriptors may be short, and will not be in a moment.
const PAUSE: Duration = Duration::from_millis(50);

/// A bound socket.
pub struct Door {
    socket: Socket,
    /// As the operator wrote it.
    pub url: Url,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    /// Somebody else accepts.
    Given(tokio::sync::Mutex<mpsc::Receiver<Box<dyn Io>>>),
}

impl Door {
    /// Binds every address that the URL stands for.
    pub async fn open(url: &Url) -> io::Result<Vec<Door>> {
        match &url.place {
            Place::Tcp(_) => {
                let mut doors = Vec::new();
                let mut failed = None;
                for address in url.sockets()? {
                    match TcpListener::bind(address).await {
                        Ok(listener) => doors.push(Door { socket: Socket::Tcp(listener), url: url.clone() }),
                        // `localhost` may stand for an address family that this machine does not have.
                        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failed = Some(error),
                        Err(error) => return Err(error),
                    }
                }
                match (doors.is_empty(), failed) {
                    (true, Some(error)) => Err(error),
                    (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
                    (false, _) => Ok(doors),
                }
            }
            Place::Unix(path) => {
                remove_stale_socket(path)?;
                let listener = UnixListener::bind(path)?;
                Ok(vec![Door { socket: Socket::Unix(listener, path.clone()), url: url.clone() }])
            }
        }
    }

    /// A door through which connections come that somebody else accepted. They stay on this runtime.
    pub fn given(connections: mpsc::Receiver<Box<dyn Io>>, url: Url) -> Door {
        Door { socket: Socket::Given(tokio::sync::Mutex::new(connections)), url }
    }

    /// Where clients really find it: the port that was asked for may have been 0.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map(|at| at.to_string()).unwrap_or_default(),
            Socket::Unix(_, path) => path.display().to_string(),
            Socket::Given(_) => self.url.text.clone(),
        }
    }

    /// Accepts until told to stop.
    pub async fn serve(self, front: Front, threads: Arc<Threads>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok(stream) => threads.deal(stream, front.clone()).await,
                Err(error) => {
                    tracing::warn!("cannot accept on {}: {error}", self.url.text);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
            Socket::Given(connections) => match connections.lock().await.recv().await {
                Some(connection) => Ok(Stream::Given(connection)),
                None => std::future::pending().await,
            },
        }
    }
}

/// A socket that a dead process left behind would keep its place for ever.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there")),
            Err(_) => std::fs::remove_file(path),
        },
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is a file, and not a socket")),
        Err(_) => Ok(()),
    }
}

/// Connections that are served on one runtime, and the word for all of them to end.
#[derive(Default)]
struct Served {
    open: TaskTracker,
    stop: CancellationToken,
}

impl Served {
    fn spawn(&self, stream: Stream, front: Front) {
        self.open.spawn(front.serve(stream, self.stop.clone()));
    }

    /// Returns once all of them have ended.
    async fn finish(&self) {
        self.stop.cancel();
        self.open.close();
        self.open.wait().await;
    }
}

type Dealt = (std_stream::Stream, Front);

/// The threads that serve connections.
pub struct Threads {
    dealers: Vec<mpsc::Sender<Dealt>>,
    next: AtomicUsize,
    /// Of connections that stay on this runtime.
    own: Served,
    handles: parking_lot::Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
}

impl Threads {
    pub fn start(count: usize, grace: Duration) -> io::Result<Threads> {
        let stop = CancellationToken::new();
        let mut dealers = Vec::new();
        let mut handles = Vec::new();
        for number in 0..count {
            let (dealer, inbox) = mpsc::channel(DEALT_MAX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
                runtime.block_on(serve_dealt(inbox, stop, grace));
                runtime.shutdown_background();
            })?;
            dealers.push(dealer);
            handles.push(thread);
        }
        Ok(Threads {
            dealers,
            next: AtomicUsize::new(0),
            own: Served::default(),
            handles: parking_lot::Mutex::new(handles),
            stop,
        })
    }

    /// Ends all connections in order: no new calls, the ones under way finish, up to `grace`.
    pub async fn finish(&self, grace: Duration) {
        self.stop.cancel();
        let _ = tokio::time::timeout(grace, self.own.finish()).await;
        let handles = std::mem::take(&mut *self.handles.lock());
        if handles.is_empty() {
            return;
        }
        let joined = tokio::task::spawn_blocking(move || handles.into_iter().for_each(|thread| drop(thread.join())));
        let _ = tokio::time::timeout(grace + PAUSE, joined).await;
    }

    async fn deal(&self, stream: Stream, front: Front) {
        if self.dealers.is_empty() {
            return self.own.spawn(stream, front);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.dealers.len();
        // A descriptor is bound to the runtime that registered it: it travels bare.
        match std_stream::Stream::of(stream) {
            Ok(bare) => {
                let _ = self.dealers[turn].send((bare, front)).await;
            }
            Err(error) => tracing::warn!("a connection is lost between threads: {error}"),
        }
    }
}

async fn serve_dealt(mut inbox: mpsc::Receiver<Dealt>, stop: CancellationToken, grace: Duration) {
    let served = Served::default();
    loop {
        let dealt = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            dealt = inbox.recv() => dealt,
        };
        let Some((bare, front)) = dealt else { break };
        match bare.registered() {
            Ok(stream) => served.spawn(stream, front),
            Err(error) => tracing::warn!("a connection is lost between threads: {error}"),
        }
    }
    let _ = tokio::time::timeout(grace, served.finish()).await;
}

/// Sockets between two runtimes.
mod std_stream {
    use std::io;

    pub enum Stream {
        Tcp(std::net::TcpStream),
        Unix(std::os::unix::net::UnixStream),
    }

    impl Stream {
        pub fn of(stream: super::Stream) -> io::Result<Stream> {
            Ok(match stream {
                super::Stream::Tcp(stream) => Stream::Tcp(stream.into_std()?),
                super::Stream::Unix(stream) => Stream::Unix(stream.into_std()?),
                super::Stream::Given(_) => return Err(io::Error::other("it has no descriptor")),
            })
        }

        pub fn registered(self) -> io::Result<super::Stream> {
            Ok(match self {
                Stream::Tcp(stream) => super::Stream::Tcp(tokio::net::TcpStream::from_std(stream)?),
                Stream::Unix(stream) => super::Stream::Unix(tokio::net::UnixStream::from_std(stream)?),
            })
        }
    }
}
