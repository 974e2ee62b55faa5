//! How bytes reach a node. Nothing else in this crate opens a socket.
//!
//! [`Connector`] is the seam: [`TcpConnector`] is TCP with or without TLS, and a simulator brings
//! another one. [`channel`] puts HTTP/2 on top, with the settings that every connection of the house
//! shares: no Nagle, a keep-alive that finds a dead peer in a second and a half, and windows that
//! bound what a slow reader can have under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::tls::{Reloading, Tls, TlsError};

/// A connection: bytes in, bytes out.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Makes connections to nodes.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects to `address`, `host:port`. What it returns carries HTTP/2 at once: encryption, where
    /// there is any, is the connector's.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>>;
}

/// TCP, with TLS unless the node is on this machine or plaintext was asked for by name.
pub struct TcpConnector {
    security: Security,
}

enum Security {
    Tls(Arc<Reloading<ClientConfig>>),
    Plaintext,
    PlaintextOnLoopback,
}

impl TcpConnector {
    /// With `tls`, every connection is encrypted and both sides show certificates. Without it, only
    /// addresses of this machine are connected to, unless `plaintext` asks for more.
    pub fn new(tls: Option<Tls>, plaintext: bool) -> Result<Self, TlsError> {
        let security = match (tls, plaintext) {
            (Some(tls), _) => Security::Tls(Arc::new(Reloading::new(tls, |tls| tls.client_config())?)),
            (None, true) => Security::Plaintext,
            (None, false) => Security::PlaintextOnLoopback,
        };
        Ok(TcpConnector { security })
    }
}

#[async_trait]
impl Connector for TcpConnector {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>> {
        let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
        if let Security::PlaintextOnLoopback = self.security {
            refuse_beyond_loopback(address, &resolved)?;
        }
        let stream = connect_to_any(address, &resolved).await?;
        stream.set_nodelay(true)?;
        let Security::Tls(config) = &self.security else {
            return Ok(Box::new(stream));
        };
        let name = config
            .tls()
            .server_name_of(host_of(address))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = config.clone();
        // Certificates lie on disks, which may be slow.
        let config = tokio::task::spawn_blocking(move || config.current()).await.map_err(io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

/// What a connection promises and demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelOptions {
    /// Bytes that one stream may have under way to us before we have taken them.
    pub stream_window: u32,
    /// The same, for all streams of the connection together: so many slow readers as fit in here do not
    /// hold up the others.
    pub connection_window: u32,
    pub keep_alive_interval: Duration,
    /// A peer that does not answer a keep-alive for this long is gone.
    pub keep_alive_timeout: Duration,
    /// For name, TCP and TLS together.
    pub connect_timeout: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions {
            stream_window: 2 << 20,
            connection_window: 64 << 20,
            keep_alive_interval: Duration::from_millis(500),
            keep_alive_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
        }
    }
}

/// The text is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address: host:port is expected")]
pub struct InvalidAddress(pub String);

/// HTTP/2 to one node over one connection, made at the first call and made again when it is lost.
/// Must be called within a runtime.
pub fn channel(
    address: &str,
    connector: Arc<dyn Connector>,
    options: &ChannelOptions,
) -> Result<Channel, InvalidAddress> {
    check_address(address)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| InvalidAddress(address.to_owned()))?
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        // Idle ones too: a call that gives up before the keep-alive does would otherwise leave a
        // dead connection behind for the next call, and so for ever.
        .keep_alive_while_idle(true);
    let address = address.to_owned();
    let timeout = options.connect_timeout;
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let since = Instant::now();
            let connected = match tokio::time::timeout(timeout, connector.connect(&address)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection to {address} within {timeout:?}"),
                )),
            };
            crate::metrics::connected(connected.is_ok(), since);
            connected
        }
    })))
}

/// Whether the text is `host:port`.
pub fn check_address(address: &str) -> Result<(), InvalidAddress> {
    let no = || InvalidAddress(address.to_owned());
    let authority: http::uri::Authority = address.parse().map_err(|_| no())?;
    match authority.port_u16() {
        Some(_) if !authority.host().is_empty() && !address.contains('@') => Ok(()),
        _ => Err(no()),
    }
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn refuse_beyond_loopback(address: &str, resolved: &[SocketAddr]) -> io::Result<()> {
    match resolved.iter().find(|resolved| !resolved.ip().to_canonical().is_loopback()) {
        None => Ok(()),
        Some(beyond) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{address} ({}) is another machine and TLS is not configured: give certificates, \
                 or ask for plaintext by name",
                beyond.ip()
            ),
        )),
    }
}

async fn connect_to_any(address: &str, resolved: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
    for resolved in resolved {
        match TcpStream::connect(resolved).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:80", "node-1.example:2390", "[::1]:2390", "localhost:0"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in ["", "node", "node:", ":80", "http://node:80", "node:80/x", "a b:80", "u@node:80", "node:99999"] {
            assert!(check_address(bad).is_err(), "{bad} was accepted");
        }
        assert_eq!(host_of("[::1]:2390"), "::1");
        assert_eq!(host_of("node-1:2390"), "node-1");
    }

    #[tokio::test]
    async fn plaintext_stays_on_this_machine_unless_asked_for_by_name() {
        // A documentation address: nothing is sent there, the refusal precedes the connection.
        let careful = TcpConnector::new(None, false).unwrap();
        let error = careful.connect("192.0.2.1:1").await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("ask for plaintext by name"), "{error}");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().to_string();
        assert!(careful.connect(&here).await.is_ok());
    }
}
