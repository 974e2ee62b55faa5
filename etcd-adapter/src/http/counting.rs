//! Connections whose bytes are counted: those of clients, and those to the journal.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use journal_client::Connector;
use journal_client::transport::Io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::meters::{Meters, Traffic};

pub struct Counting<I> {
    io: I,
    meters: Arc<Meters>,
    traffic: fn(&Meters) -> &Traffic,
}

impl<I> Counting<I> {
    /// `traffic` says where the bytes are counted.
    pub fn new(io: I, meters: Arc<Meters>, traffic: fn(&Meters) -> &Traffic) -> Self {
        Counting { io, meters, traffic }
    }

    fn traffic(&self) -> &Traffic {
        (self.traffic)(&self.meters)
    }
}

/// Counts what goes to the journal's nodes and comes from them, as it is before it is encrypted.
pub struct CountingConnector {
    pub connector: Arc<dyn Connector>,
    pub meters: Arc<Meters>,
}

#[async_trait]
impl Connector for CountingConnector {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>> {
        let io = self.connector.connect(address).await?;
        Ok(Box::new(Counting::new(io, self.meters.clone(), |meters| &meters.journal)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counting<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, into))?;
        self.traffic().received.add((into.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counting<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        self.traffic().sent.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, bytes))?;
        self.traffic().sent.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Whoever is connected to hears himself.
    struct Echo;

    #[async_trait]
    impl Connector for Echo {
        async fn connect(&self, _: &str) -> io::Result<Box<dyn Io>> {
            let (near, far) = tokio::io::duplex(64);
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(far);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
            Ok(Box::new(near))
        }
    }

    #[tokio::test]
    async fn what_is_said_to_the_journal_and_what_it_says_is_counted_apart_from_clients() {
        let meters: Arc<Meters> = Arc::default();
        let connector = CountingConnector { connector: Arc::new(Echo), meters: meters.clone() };
        let mut io = connector.connect("node:1").await.unwrap();
        io.write_all(b"hello").await.unwrap();
        let mut heard = [0; 3];
        io.read_exact(&mut heard).await.unwrap();
        assert_eq!((meters.journal.sent.get(), meters.journal.received.get()), (5, 3));
        assert_eq!((meters.clients.sent.get(), meters.clients.received.get()), (0, 0));
    }
}
