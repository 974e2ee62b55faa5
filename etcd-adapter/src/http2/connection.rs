//! One connection: a socket, the session on it, and time.
//!
//! Everything happens in one task, in rounds: read what there is, go on with the calls that can, write
//! what came of it, all at once. A round is bounded, and a task that still has something to do lets
//! others go first: a client that never stops talking is answered, and starves nobody.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Answers;
use super::session::Session;
use crate::config::Transport;

/// What is read at once. Any frame fits.
const INPUT_BYTES: usize = 64 << 10;
/// Reads, each with what follows from it, before it is written what came of them.
const READS_MAX: usize = 2;
/// Writes, each with what was read before it, before others go first.
const ROUNDS_MAX: usize = 2;
/// A buffer that grew beyond this is given back once it is empty.
const OUT_BYTES_KEPT: usize = 64 << 10;
/// A client that broke the rules has so long to take the word about it.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);

pub struct Connection<I, A: Answers> {
    io: I,
    session: Session<A>,
    input: Box<[u8]>,
    /// What of `input` is filled: the beginning of a frame.
    filled: usize,
    /// What of the session's output is written.
    written: usize,
    flushed: bool,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    /// When to look whether the client is alive, or to give up.
    look: Pin<Box<Sleep>>,
    looking: Looking,
    heard: Instant,
    interval: Duration,
    timeout: Duration,
}

/// What is looked for when the time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looking {
    Silence,
    /// To what was asked then.
    Answer(Instant),
    /// All was said; only writing is left.
    End,
}

impl<I: AsyncRead + AsyncWrite + Unpin, A: Answers> Connection<I, A> {
    /// The client's preface was read. It ends in order once `stop` says so.
    pub fn new(io: I, answers: A, transport: Transport, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Connection {
            io,
            session: Session::new(answers, transport.concurrent_streams),
            input: vec![0; INPUT_BYTES].into(),
            filled: 0,
            written: 0,
            flushed: true,
            stopping: Box::pin(stop.cancelled_owned()),
            stopped: false,
            look: Box::pin(sleep_until(now + transport.keepalive_interval)),
            looking: Looking::Silence,
            heard: now,
            interval: transport.keepalive_interval,
            timeout: transport.keepalive_timeout,
        }
    }

    /// Reads once, and takes what was read. True: there may be more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.session.is_overfull() || self.session.is_finished() {
            return Ok(false);
        }
        let mut room = ReadBuf::new(&mut self.input[self.filled..]);
        match Pin::new(&mut self.io).poll_read(context, &mut room) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read?,
        }
        let read = room.filled().len();
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.heard = Instant::now();
        let end = self.filled + read;
        let taken = self.session.receive(&self.input[..end]);
        self.input.copy_within(taken..end, 0);
        self.filled = end - taken;
        Ok(true)
    }

    /// Writes what there is. Ready: all of it.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &mut self.session.out;
        while self.written < out.len() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
            self.flushed = false;
        }
        out.clear();
        out.shrink_to(OUT_BYTES_KEPT);
        self.written = 0;
        if !self.flushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the client is still there.
    fn poll_look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.session.is_finished() && self.looking != Looking::End {
            self.looking = Looking::End;
            self.look.as_mut().reset(Instant::now() + LAST_WORD_MAX);
        }
        while self.look.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let next = match self.looking {
                Looking::End => return Err(io::ErrorKind::TimedOut.into()),
                Looking::Silence if now.duration_since(self.heard) >= self.interval => {
                    self.session.ask_whether_alive();
                    self.looking = Looking::Answer(now);
                    now + self.timeout
                }
                Looking::Answer(asked) if self.heard < asked => return Err(io::ErrorKind::TimedOut.into()),
                Looking::Silence | Looking::Answer(_) => {
                    self.looking = Looking::Silence;
                    self.heard + self.interval
                }
            };
            self.look.as_mut().reset(next);
        }
        Ok(())
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, A: Answers> Future for Connection<I, A> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.session.register(context.waker());
        if !this.stopped && this.stopping.as_mut().poll(context).is_ready() {
            this.stopped = true;
            this.session.close();
        }
        for _ in 0..ROUNDS_MAX {
            let mut more = false;
            for _ in 0..READS_MAX {
                let read = this.poll_read(context)?;
                let done = this.session.run();
                more = read || done;
                if !more {
                    break;
                }
            }
            this.poll_look(context)?;
            let full = this.session.is_full();
            let written = this.poll_write(context)?.is_ready();
            if written && this.session.is_finished() {
                return Pin::new(&mut this.io).poll_shutdown(context);
            }
            // What waited for room has some now.
            more |= written && full;
            if !more {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
