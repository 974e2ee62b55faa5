//! What fuzzers say to a connection, and a service simple enough that every answer is known. Not a part
//! of the adapter; tests and the fuzz target call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Notify;
use tonic::Status;
use tonic::body::Body;

use super::frame::{self, Reason, flag, kind};
use super::session::{REPLY_BYTES_MAX, Session};
use super::{Answer, Answers, Fields, RequestBody, hpack};

/// Streams at once in a fuzzed session.
const STREAMS_MAX: u32 = 8;
/// The longest answer that is made of a few bytes: it fits through no window at once.
const LARGE_MAX: usize = 4 << 20;

/// Answers with what it was asked, and some other things by name.
#[derive(Clone, Default)]
pub struct Echo(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
    release: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Echo,
    /// So many zeros as the message says.
    Large,
    Fail,
    /// Answers once it is released.
    Hold,
}

impl Echo {
    /// Calls of one message that are neither answered nor cancelled.
    pub fn under_way(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed) - self.0.ended.load(Ordering::Relaxed)
    }

    pub fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    pub fn release(&self) {
        self.0.release.notify_waiters();
    }
}

impl Answers for Echo {
    type Call = Call;

    fn unary(&self, headers: &Fields) -> Option<Call> {
        headers.iter().find_map(|(_, value)| match value {
            b"/Echo" => Some(Call::Echo),
            b"/Large" => Some(Call::Large),
            b"/Fail" => Some(Call::Fail),
            b"/Hold" => Some(Call::Hold),
            _ => None,
        })
    }

    fn message_bytes_max(&self) -> usize {
        8 << 20
    }

    fn answer(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Answer, Status>> {
        let counts = self.0.clone();
        Box::pin(async move {
            counts.begun.fetch_add(1, Ordering::Relaxed);
            let _ended = Ended(counts.clone());
            match call {
                Call::Echo => Ok(enveloped(&message).into()),
                Call::Large => {
                    let length = frame::number(&message).unwrap_or_default() as usize;
                    Ok(enveloped(&vec![0; length.min(LARGE_MAX)]).into())
                }
                Call::Fail => Err(Status::not_found("100% \"lost\"")),
                Call::Hold => {
                    counts.release.notified().await;
                    Ok(enveloped(&message).into())
                }
            }
        })
    }

    /// Streams are echoed as they come.
    fn serve(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Response::new(Body::new(request.into_body())) })
    }
}

struct Ended(Arc<Counts>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message behind its length.
pub fn enveloped(message: &[u8]) -> Bytes {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

/// Any bytes, behind the preface. The first byte says in how large pieces they come, and whether the
/// client ever reads.
pub fn session(data: &[u8]) -> &'static str {
    let Some((how, bytes)) = data.split_first() else { return "nothing" };
    let (reads, step) = (how & 1 == 0, 1 + usize::from(how >> 1) * 17);
    let echo = Echo::default();
    let mut session = Session::new(echo.clone(), STREAMS_MAX);
    session.register(Waker::noop());
    let (mut begin, mut end) = (0, 0);
    while end < bytes.len() && !session.is_finished() && !session.is_overfull() {
        end = bytes.len().min(end + step);
        let taken = session.receive(&bytes[begin..end]);
        assert!(taken <= end - begin, "it took more than it was given");
        begin += taken;
        // Calls wake themselves: this ends, or nobody would ever.
        while session.run() && !session.is_full() {}
        // One piece of input, and one answer, come to what was there: a byte brings two at most, or a frame.
        let most = REPLY_BYTES_MAX + 2 * (end - begin + step) + 2 * frame::PAYLOAD_MAX;
        assert!(session.out.len() <= most, "it writes without end");
        assert!(echo.under_way() <= STREAMS_MAX as usize, "more calls than streams");
        assert!(end - begin <= frame::HEADER_BYTES + frame::PAYLOAD_MAX + step, "it reads without end");
        if reads {
            check_frames(&session.out);
            session.out.clear();
        }
    }
    match () {
        () if session.is_finished() => "an error",
        () if session.is_full() => "full",
        () if echo.begun() > 0 => "calls",
        () => "silence",
    }
}

/// What a client would stumble over.
fn check_frames(mut out: &[u8]) {
    while let Some(header) = frame::Header::read(out) {
        assert!(header.length <= frame::PAYLOAD_MAX, "a frame of {} bytes", header.length);
        let of_connection = matches!(header.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        assert!(of_connection || header.kind == kind::WINDOW_UPDATE || header.stream != 0, "{header:?}");
        out = out.get(frame::HEADER_BYTES + header.length..).expect("frames are written whole");
    }
    assert!(out.is_empty());
}

/// A block that asks for `path`.
pub fn request(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04];
    hpack::write_text(path.as_bytes(), &mut block);
    hpack::write_header(b"content-type", b"application/grpc", &mut block);
    block
}

/// Appends a frame.
pub fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    frame::write_header(kind, flags, stream, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a call with its message.
pub fn write_call(stream: u32, path: &str, message: &[u8], out: &mut Vec<u8>) {
    write(kind::HEADERS, flag::END_HEADERS, stream, &request(path), out);
    write(kind::DATA, flag::END_STREAM, stream, &enveloped(message), out);
}

/// Conversations to begin with, one for each thing that a client may do.
pub fn corpus() -> Vec<Vec<u8>> {
    let conversation = |how: u8, rest: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![how];
        frame::write_settings(&[(1, 4096), (2, 0), (4, 1 << 20), (5, 1 << 14)], &mut bytes);
        rest(&mut bytes);
        bytes
    };
    vec![
        conversation(254, &|out| {
            for (stream, path) in [(1, "/Echo"), (3, "/Large"), (5, "/Fail"), (7, "/Hold")] {
                write_call(stream, path, &[0, 1, 0, 0], out);
            }
            frame::write_reset(7, Reason::NoError, out);
        }),
        conversation(9, &|out| {
            let block = request("/Stream");
            let first = [&[1, 0, 0, 0, 0, 9], &block[..5], &[0]].concat();
            write(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &first, out);
            write(kind::CONTINUATION, 0, 1, &block[5..8], out);
            write(kind::CONTINUATION, flag::END_HEADERS, 1, &block[8..], out);
            write(kind::DATA, flag::PADDED, 1, b"\x02some\0\0", out);
            write(kind::DATA, 0, 1, b"", out);
            let mut trailers = Vec::new();
            hpack::write_header(b"x", b"y", &mut trailers);
            write(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &trailers, out);
        }),
        conversation(100, &|out| {
            frame::write_settings(&[(4, 0)], out);
            write_call(1, "/Large", &[0, 0, 200, 0], out);
            frame::write_window_update(1, 10, out);
            frame::write_settings(&[(4, 70_000)], out);
            frame::write_window_update(0, 70_000, out);
            frame::write_settings(&[(4, 5)], out);
            frame::write_window_update(1, 70_000, out);
        }),
        conversation(33, &|out| {
            frame::write_ping(0, *b"12345678", out);
            frame::write_ping(flag::ACK, *b"12345678", out);
            write(kind::PRIORITY, 0, 3, &[0; 5], out);
            write(0xfa, 0xff, 77, b"unknown", out);
            // Headers to be remembered, then their numbers.
            let mut block = vec![0x83, 0x86, 0x44];
            hpack::write_text(b"/Echo", &mut block);
            write(kind::HEADERS, flag::END_HEADERS, 1, &block, out);
            write(kind::DATA, 0, 1, &[0, 0, 0], out);
            write(kind::DATA, flag::END_STREAM, 1, &[0, 0], out);
            write(kind::HEADERS, flag::END_HEADERS, 3, &[0x83, 0x86, 0xbe], out);
            write(kind::DATA, flag::END_STREAM, 3, &[1, 0, 0, 0, 0], out);
            write(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 5, &[0x20, 0x82, 0x86, 0x84], out);
            frame::write_go_away(0, Reason::NoError, out);
        }),
    ]
}
