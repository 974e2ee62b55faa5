//! One end of a simulated connection: reads from one pipe of the [`Wire`], writes to another.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::{PIPE_BYTES, Wire, wake};

pub struct End {
    wire: Wire,
    reads: u64,
    writes: u64,
    arrival: Pin<Box<Sleep>>,
}

impl End {
    pub(super) fn new(wire: Wire, reads: u64, writes: u64) -> End {
        End { wire, reads, writes, arrival: Box::pin(sleep_until(Instant::now())) }
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer")
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let mut switch = this.wire.lock();
            let Some(pipe) = switch.pipes.get(&this.reads) else { return Poll::Ready(Err(reset())) };
            if pipe.reset || !switch.lives(pipe.to) {
                return Poll::Ready(Err(reset()));
            }
            let cut = switch.is_cut(pipe.from.0, pipe.to.0);
            let pipe = switch.pipes.get_mut(&this.reads).expect("just seen");
            let next = pipe.chunks.front().map(|(arrival, _)| *arrival);
            match next {
                _ if cut => {}
                Some(arrival) if arrival <= Instant::now() => {
                    let mut copied = 0;
                    // Everything that has arrived, as far as there is room.
                    while let Some((arrival, bytes)) = pipe.chunks.front_mut() {
                        let take = bytes.len().min(buf.remaining());
                        if take == 0 || *arrival > Instant::now() {
                            break;
                        }
                        this.wire.trace().delivered(this.reads, &bytes[..take]);
                        buf.put_slice(&bytes[..take]);
                        bytes.advance(take);
                        copied += take;
                        if bytes.is_empty() {
                            pipe.chunks.pop_front();
                        }
                    }
                    pipe.bytes -= copied;
                    wake(&mut pipe.writer);
                    return Poll::Ready(Ok(()));
                }
                Some(arrival) => {
                    pipe.reader = Some(cx.waker().clone());
                    drop(switch);
                    this.arrival.as_mut().reset(arrival);
                    match this.arrival.as_mut().poll(cx) {
                        Poll::Ready(()) => continue,
                        Poll::Pending => return Poll::Pending,
                    }
                }
                None if pipe.fin => return Poll::Ready(Ok(())),
                None => {}
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut switch = self.wire.lock();
        let Some(pipe) = switch.pipes.get(&self.writes) else { return Poll::Ready(Err(reset())) };
        if pipe.reset || !switch.lives(pipe.from) {
            return Poll::Ready(Err(reset()));
        }
        let told = !switch.is_cut(pipe.to.0, pipe.from.0);
        if pipe.deaf && told {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "closed by peer")));
        }
        let room = PIPE_BYTES.saturating_sub(pipe.bytes);
        if room == 0 {
            let pipe = switch.pipes.get_mut(&self.writes).expect("just seen");
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = room.min(bytes.len());
        switch.send(self.writes, Bytes::copy_from_slice(&bytes[..taken]));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut switch = self.wire.lock();
        if let Some(pipe) = switch.pipes.get_mut(&self.writes) {
            pipe.fin = true;
            wake(&mut pipe.reader);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut switch = self.wire.lock();
        let alive = switch.pipes.get(&self.writes).is_some_and(|pipe| switch.lives(pipe.from));
        // An ended process's machine has said all there is to say, or has no power to.
        if alive && let Some(pipe) = switch.pipes.get_mut(&self.writes) {
            pipe.fin = true;
            wake(&mut pipe.reader);
        }
        if let Some(pipe) = switch.pipes.get_mut(&self.reads) {
            pipe.deaf |= alive;
            pipe.chunks.clear();
            pipe.bytes = 0;
            wake(&mut pipe.writer);
        }
        // The last of the two ends takes the pipes with it.
        for number in [self.reads, self.writes] {
            if let Some(pipe) = switch.pipes.get_mut(&number) {
                pipe.ends -= 1;
                if pipe.ends == 0 {
                    switch.pipes.remove(&number);
                }
            }
        }
    }
}
