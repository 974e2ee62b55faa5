//! What a client sends on one stream, between the connection that reads it and the handler that takes it.
//!
//! Bounded by flow control: the client learns of room only as things are taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;

/// Bytes of a connection that handlers have taken and its client has not been told of.
pub struct Taken {
    bytes: AtomicUsize,
    /// So many are worth a word.
    enough: usize,
    waker: Waker,
}

impl Taken {
    pub fn new(enough: usize, waker: Waker) -> Taken {
        Taken { bytes: AtomicUsize::new(0), enough, waker }
    }

    pub fn collect(&self) -> usize {
        match self.bytes.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.bytes.swap(0, Ordering::Relaxed),
        }
    }

    fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < self.enough && before + bytes >= self.enough {
            self.waker.wake_by_ref();
        }
    }
}

#[derive(Default)]
struct State {
    /// What was read before there was an inbox: the client has been told of its room.
    begun: Bytes,
    chunks: VecDeque<Bytes>,
    /// Taken, and not yet collected for the stream.
    taken: usize,
    end: Option<End>,
    reader: Option<Waker>,
    /// Nobody reads any more.
    abandoned: bool,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Cancelled,
}

struct Shared {
    state: Mutex<State>,
    stream: Waker,
    stream_enough: usize,
    connection: Arc<Taken>,
}

/// The connection's side. Dropped before its end, it tells the reader that the call was cancelled.
pub struct Inbox(Arc<Shared>);

/// The handler's side.
pub struct RequestBody(Arc<Shared>);

/// Both sides; `begun` comes first. `stream` is woken once `stream_enough` bytes were taken.
pub fn inbox(begun: Bytes, stream: Waker, stream_enough: usize, connection: Arc<Taken>) -> (Inbox, RequestBody) {
    let state = Mutex::new(State { begun, ..State::default() });
    let shared = Arc::new(Shared { state, stream, stream_enough, connection });
    (Inbox(shared.clone()), RequestBody(shared))
}

impl Inbox {
    /// False: nobody will take it.
    pub fn push(&self, chunk: &[u8]) -> bool {
        let mut state = self.0.state.lock();
        let wanted = !state.abandoned;
        if wanted && !chunk.is_empty() {
            state.chunks.push_back(Bytes::copy_from_slice(chunk));
            wake(state);
        }
        wanted
    }

    pub fn end(&self) {
        self.finish(End::Whole);
    }

    /// Bytes taken since the last time, if they are many.
    pub fn collect(&self) -> usize {
        let mut state = self.0.state.lock();
        if state.taken >= self.0.stream_enough { std::mem::take(&mut state.taken) } else { 0 }
    }

    fn finish(&self, end: End) {
        let mut state = self.0.state.lock();
        state.end.get_or_insert(end);
        wake(state);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.finish(End::Cancelled);
    }
}

fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.0.state.lock();
        if !state.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut state.begun)))));
        }
        if let Some(chunk) = state.chunks.pop_front() {
            let before = state.taken;
            state.taken += chunk.len();
            let enough = before < self.0.stream_enough && state.taken >= self.0.stream_enough;
            drop(state);
            self.0.connection.add(chunk.len());
            if enough {
                self.0.stream.wake_by_ref();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Cancelled) => Poll::Ready(Some(Err(Status::cancelled("the client has gone")))),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state.lock();
        state.begun.is_empty() && state.chunks.is_empty() && matches!(state.end, Some(End::Whole))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.abandoned = true;
        let left: usize = std::mem::take(&mut state.chunks).iter().map(Bytes::len).sum();
        state.taken += left;
        drop(state);
        self.0.connection.add(left);
        if left > 0 {
            self.0.stream.wake_by_ref();
        }
    }
}
