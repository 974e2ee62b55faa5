//! One connection, from its first byte to its last: TLS if the door asks for it, HTTP/1.1 or HTTP/2 as
//! the client speaks it, gRPC to the services and everything else to the pages.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use journal_client::tls::{FrontTls, Reloading};
use journal_client::transport::Io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::counting::Counting;
use super::pages::Pages;
use super::replaying::Replaying;
use crate::config::Transport;
use crate::grpc::{Services, Unary};
use crate::http2::{self, frame::PREFACE};
use crate::meters::Meters;

/// A client has this long to get through TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A client has this long for its first bytes, and one of HTTP/1.1 for its headers.
const HEADERS_MAX: Duration = Duration::from_secs(30);

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
    /// Serves until the client goes or, in order, once `stop` says so.
    pub async fn serve(self, stream: Stream, stop: CancellationToken) {
        let Some(tls) = self.tls.clone() else {
            return match stream {
                Stream::Tcp(stream) => self.speak(stream, stop).await,
                Stream::Unix(stream) => self.speak(Box::new(stream) as Box<dyn Io>, stop).await,
                Stream::Given(stream) => self.speak(stream, stop).await,
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
            Ok(Ok(stream)) => self.speak(Box::new(stream) as Box<dyn Io>, stop).await,
            Ok(Err(error)) => tracing::debug!("a connection failed its handshake: {error}"),
            Err(_) => tracing::debug!("a connection took too long over its handshake"),
        }
    }

    async fn speak<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, io: I, stop: CancellationToken) {
        let transport = self.transport;
        let mut io = Counting::new(io, self.meters.clone(), |meters| &meters.clients);
        let spoken = async {
            let begun = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                begun = tokio::time::timeout(HEADERS_MAX, read_preface(&mut io)) => begun??,
            };
            match begun {
                None => {
                    let connection = http2::connection::Connection::new(io, Arc::new(self), transport, stop);
                    // It bounds what it does at a time by itself.
                    tokio::task::unconstrained(connection).await
                }
                Some(begun) => Arc::new(self).speak_http1(Replaying::new(begun, io), stop).await,
            }
        };
        if let Err(error) = spoken.await {
            tracing::debug!("a connection ended: {error}");
        }
    }

    async fn speak_http1<I>(self: Arc<Self>, io: I, stop: CancellationToken) -> io::Result<()>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.respond(request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let served = tokio::select! {
            biased;
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            served = connection.as_mut() => served,
        };
        served.map_err(io::Error::other)
    }

    async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match &self.services {
            Some(services) if is_grpc(&request) => services.call(request).await,
            _ => self.pages.answer(&request).await,
        }
    }
}

impl http2::Answers for Arc<Front> {
    type Call = Unary;

    fn unary(&self, headers: &http2::Fields) -> Option<Unary> {
        self.services.as_ref().and_then(|services| services.unary(headers))
    }

    fn message_bytes_max(&self) -> usize {
        self.services.as_ref().map_or(0, Services::message_bytes_max)
    }

    fn answer(&self, call: Unary, message: Bytes) -> BoxFuture<'static, Result<http2::Answer, Status>> {
        match &self.services {
            Some(services) => services.answer(call, message),
            None => Box::pin(ready(Err(Status::unimplemented("there are no services here")))),
        }
    }

    fn serve(&self, request: Request<http2::RequestBody>) -> BoxFuture<'static, Response<Body>> {
        let front = self.clone();
        Box::pin(async move { front.respond(request).await })
    }
}

/// Reads how HTTP/2 begins. If it is something else that begins, that is returned.
async fn read_preface(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut begun = Vec::with_capacity(PREFACE.len());
    while begun.len() < PREFACE.len() {
        // Not a byte more: the rest is for somebody else.
        let mut rest = io.take((PREFACE.len() - begun.len()) as u64);
        if rest.read_buf(&mut begun).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&begun) {
            return Ok(Some(begun));
        }
    }
    Ok(None)
}

/// Whether the request is a gRPC call, to be answered by a service. There are none over HTTP/1.1.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    request.version() == http::Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
