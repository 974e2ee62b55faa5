//! One connection, from its first byte to its last: TLS if the door asks for it, HTTP/1.1 or HTTP/2 as
//! the client speaks it, gRPC to the services and everything else to the pages.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use journal_client::tls::{FrontTls, Reloading};
use journal_client::transport::Io;
use tokio::io::{AsyncRead, AsyncWrite};

use super::counting::Counting;
use super::pages::Pages;
use crate::config::Transport;
use crate::grpc::Services;
use crate::meters::Meters;

/// A client has this long to get through TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A client of HTTP/1.1 has this long for its headers.
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// What a client may send on one stream, and on one connection, before it is read.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A socket as it was accepted.
pub enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    /// Somebody else accepted it.
    Given(Box<dyn Io>),
}

pub type Certificates = Reloading<rustls::ServerConfig, FrontTls>;

/// What stands behind a door. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    /// Absent behind a door for health and metrics only.
    pub services: Option<Services>,
    pub pages: Pages,
    pub meters: Arc<Meters>,
    pub tls: Option<Arc<Certificates>>,
    pub transport: Transport,
}

impl Front {
    pub async fn serve(self, stream: Stream, watcher: Watcher) {
        let Some(tls) = self.tls.clone() else {
            return match stream {
                Stream::Tcp(stream) => self.speak(stream, watcher).await,
                Stream::Unix(stream) => self.speak(Box::new(stream) as Box<dyn Io>, watcher).await,
                Stream::Given(stream) => self.speak(stream, watcher).await,
            };
        };
        let bare: Box<dyn Io> = match stream {
            Stream::Tcp(stream) => Box::new(stream),
            Stream::Unix(stream) => Box::new(stream),
            Stream::Given(stream) => stream,
        };
        let secured = async {
            let config = tokio::task::spawn_blocking(move || tls.current()).await.map_err(std::io::Error::other)?;
            tokio_rustls::TlsAcceptor::from(config).accept(bare).await
        };
        match tokio::time::timeout(HANDSHAKE_MAX, secured).await {
            Ok(Ok(stream)) => self.speak(Box::new(stream) as Box<dyn Io>, watcher).await,
            Ok(Err(error)) => tracing::debug!("a connection failed its handshake: {error}"),
            Err(_) => tracing::debug!("a connection took too long over its handshake"),
        }
    }

    async fn speak<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, io: I, watcher: Watcher) {
        let transport = self.transport;
        let io = Counting::new(io, self.meters.clone());
        let front = Arc::new(self);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let front = front.clone();
            async move {
                let response = match &front.services {
                    Some(services) if is_grpc(&request) => services.call(request).await,
                    _ => front.pages.answer(&request).await,
                };
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(transport.concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 << 10)
            // etcd's answers have none, and it would cost each of them its compression.
            .auto_date_header(false)
            .keep_alive_interval(Some(transport.keepalive_interval))
            .keep_alive_timeout(transport.keepalive_timeout);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        let connection = builder.serve_connection(TokioIo::new(io), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

/// Whether the request is a gRPC call, to be answered by a service.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
