//! A connection of which somebody has read the first bytes, to find out what it speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Replaying<I> {
    begun: Vec<u8>,
    io: I,
}

impl<I> Replaying<I> {
    /// What was `begun` is read first.
    pub fn new(begun: Vec<u8>, io: I) -> Self {
        Replaying { begun, io }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Replaying<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, into);
        }
        let fits = self.begun.len().min(into.remaining());
        into.put_slice(&self.begun[..fits]);
        self.begun.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Replaying<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
