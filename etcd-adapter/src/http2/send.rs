//! Answers on their way out: calls are polled, and what they come to is put into frames, as far as the
//! client has room for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body as _;
use tonic::Status;
use tonic::body::Body;

use super::frame::{self, Reason, flag, kind};
use super::session::Session;
use super::streams::{Last, Stream, Work};
use super::wakes::Flag;
use super::{Answer, Answers, hpack};
use crate::answers::Held;

/// `:status: 200`, `content-type: application/grpc`: how an answer begins.
const GRPC_HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`: how it ends.
const GRPC_OK: &[u8] = b"\x00\x0bgrpc-status\x010";
/// Pieces of one answer in a row.
const PIECES_MAX: usize = 16;

impl<C> Stream<C> {
    /// Holds the memory of its answer. `overdue` is woken if others need it more.
    fn hold(&mut self, held: Option<Held>, overdue: &Arc<Flag>) {
        if let Some(held) = held {
            held.sending().tell(overdue.clone().into());
            self.held = Some(held);
        }
    }

    /// Gives it a place among those that send, if it has something to send, and room for it.
    pub fn queue(&mut self, slot: usize, sending: &mut VecDeque<usize>) {
        if !self.queued && self.send_window > 0 && !self.pending.is_empty() {
            self.queued = true;
            sending.push_back(slot);
        }
    }
}

/// What polling a call came to.
enum Step {
    Waits,
    Message(Result<Answer, Status>),
    Response(Response<Body>),
    Piece(Bytes),
    Trailers(HeaderMap),
    End,
    /// It cannot be answered: it panicked, or its answer broke off.
    Broken,
}

fn poll<C>(work: &mut Work<C>, context: &mut Context<'_>) -> Step {
    let step = match work {
        Work::Gathering { .. } | Work::Sending => return Step::Waits,
        Work::Answering(answering) => answering.as_mut().poll(context).map(Step::Message),
        Work::Serving(serving) => serving.as_mut().poll(context).map(Step::Response),
        Work::Streaming(body) => Pin::new(body).poll_frame(context).map(|frame| match frame {
            None => Step::End,
            Some(Err(error)) => {
                tracing::debug!("an answer broke off: {error}");
                Step::Broken
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => Step::Piece(piece),
                Err(frame) => frame.into_trailers().map_or(Step::End, Step::Trailers),
            },
        }),
    };
    match step {
        Poll::Ready(step) => step,
        Poll::Pending => Step::Waits,
    }
}

impl<A: Answers> Session<A> {
    /// The turn of a slot: its client is told of room, and its call goes on.
    pub(super) fn go_on(&mut self, slot: usize) {
        for _ in 0..PIECES_MAX {
            let Some((stream, waker)) = self.streams.turn(slot) else { return };
            if let Some(inbox) = &stream.inbox {
                let taken = inbox.collect();
                stream.give_room(taken, &mut self.out);
            }
            // One piece at a time: what waits for room is not added to.
            if !stream.pending.is_empty() || stream.last.is_some() {
                return;
            }
            let id = stream.id;
            let mut context = Context::from_waker(waker);
            // A call that panics must not take the others of its connection with it.
            let step = catch_unwind(AssertUnwindSafe(|| poll(&mut stream.work, &mut context))).unwrap_or(Step::Broken);
            match step {
                Step::Waits => return,
                Step::Broken => return self.reset(id, Reason::Internal),
                Step::Message(Ok(answer)) => return self.send_message(slot, answer),
                Step::Message(Err(status)) => self.send_head(slot, status.into_http()),
                Step::Response(response) => self.send_head(slot, response),
                Step::Piece(piece) => {
                    stream.pending = piece;
                    self.send(slot);
                }
                Step::Trailers(trailers) => {
                    let mut block = Vec::new();
                    write_headers(&trailers, &mut block);
                    stream.last = Some(Last::Trailers(block));
                    return self.send(slot);
                }
                Step::End => {
                    stream.last = Some(Last::Data);
                    return self.send(slot);
                }
            }
            if self.is_full() {
                break;
            }
        }
        self.ready.push_back(slot);
    }

    /// Answers without a call.
    pub(super) fn refuse(&mut self, slot: usize, status: StatusCode) {
        let mut response = Response::new(Body::default());
        *response.status_mut() = status;
        self.send_head(slot, response);
    }

    /// A whole answer. Mostly there is room for it, and it leaves without another look at its stream.
    fn send_message(&mut self, slot: usize, Answer { message, held }: Answer) {
        let Some(stream) = self.streams.get(slot) else { return };
        let id = stream.id;
        frame::write_header(kind::HEADERS, flag::END_HEADERS, id, GRPC_HEAD.len(), &mut self.out);
        self.out.extend_from_slice(GRPC_HEAD);
        let length = message.len() as i64;
        if message.len() > frame::PAYLOAD_MAX || length > stream.send_window || length > self.send_window {
            stream.work = Work::Sending;
            stream.pending = message;
            stream.hold(held, &self.overdue);
            stream.last = Some(Last::Trailers(GRPC_OK.to_vec()));
            return self.send(slot);
        }
        self.send_window -= length;
        frame::write_header(kind::DATA, 0, id, message.len(), &mut self.out);
        self.out.extend_from_slice(&message);
        frame::write_header(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, GRPC_OK.len(), &mut self.out);
        self.out.extend_from_slice(GRPC_OK);
        self.finish(slot);
    }

    /// The beginning of an answer, and all of it if it has no body.
    fn send_head(&mut self, slot: usize, response: Response<Body>) {
        let Some(stream) = self.streams.get(slot) else { return };
        let (mut head, body) = response.into_parts();
        stream.hold(head.extensions.remove(), &self.overdue);
        let end = stream.bare || body.is_end_stream();
        if let Some(length) = body.size_hint().exact()
            && length > 0
        {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let mut block = Vec::new();
        hpack::write_status(head.status.as_u16(), &mut block);
        write_headers(&head.headers, &mut block);
        write_block(stream.id, end, &block, &mut self.out);
        match end {
            true => self.finish(slot),
            false => stream.work = Work::Streaming(body),
        }
    }

    /// Sends one frame of what waits, or how the stream ends if nothing does.
    fn send(&mut self, slot: usize) {
        let Some(stream) = self.streams.get(slot) else { return };
        if !stream.pending.is_empty() {
            let room = stream.send_window.min(self.send_window).clamp(0, frame::PAYLOAD_MAX as i64) as usize;
            let length = room.min(stream.pending.len());
            if length > 0 {
                let end = length == stream.pending.len() && matches!(stream.last, Some(Last::Data));
                let flags = if end { flag::END_STREAM } else { 0 };
                frame::write_header(kind::DATA, flags, stream.id, length, &mut self.out);
                self.out.extend_from_slice(&stream.pending[..length]);
                stream.pending.advance(length);
                stream.send_window -= length as i64;
                self.send_window -= length as i64;
                if let Some(held) = &stream.held {
                    held.sending().sent(length);
                }
                if end {
                    return self.finish(slot);
                }
            }
            if !stream.pending.is_empty() {
                return stream.queue(slot, &mut self.sending);
            }
            // A large answer is not kept for as long as the rest of its stream.
            stream.pending = Bytes::new();
        }
        match stream.last.take() {
            None => {}
            Some(Last::Data) => {
                frame::write_header(kind::DATA, flag::END_STREAM, stream.id, 0, &mut self.out);
                self.finish(slot);
            }
            Some(Last::Trailers(block)) => {
                write_block(stream.id, true, &block, &mut self.out);
                self.finish(slot);
            }
        }
    }

    /// Sends for all streams in turn, a frame each, as far as the connection has room.
    pub(super) fn send_waiting(&mut self) {
        while self.send_window > 0
            && !self.is_full()
            && let Some(slot) = self.sending.pop_front()
        {
            if let Some(stream) = self.streams.get(slot) {
                stream.queued = false;
            }
            self.send(slot);
            if self.streams.get(slot).is_some_and(|stream| stream.pending.is_empty()) {
                self.ready.push_back(slot);
            }
        }
    }

    /// Ends those whose answers are lost, also while nothing else can be done.
    pub(super) fn end_overdue(&mut self) {
        if !self.overdue.taken() {
            return;
        }
        let lost = |stream: &Stream<_>| stream.held.as_ref().is_some_and(|held| held.sending().is_lost());
        let ids: Vec<_> =
            self.streams.iter_mut().filter(|(_, stream)| lost(stream)).map(|(_, stream)| stream.id).collect();
        for id in ids {
            tracing::warn!("a client did not take its answer, and others needed the memory");
            self.reset(id, Reason::EnhanceYourCalm);
        }
    }

    /// The stream has ended for us. A client that still sends is told that nobody listens.
    fn finish(&mut self, slot: usize) {
        if let Some(stream) = self.remove(slot)
            && stream.receiving
        {
            frame::write_reset(stream.id, Reason::NoError, &mut self.out);
        }
    }
}

fn write_headers(headers: &HeaderMap, block: &mut Vec<u8>) {
    for (name, value) in headers {
        hpack::write_header(name.as_str().as_bytes(), value.as_bytes(), block);
    }
}

/// Writes a block of headers, in as many frames as it needs.
fn write_block(id: u32, end: bool, block: &[u8], out: &mut Vec<u8>) {
    let mut pieces = block.chunks(frame::PAYLOAD_MAX).peekable();
    let mut kind = kind::HEADERS;
    let mut flags = if end { flag::END_STREAM } else { 0 };
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        frame::write_header(kind, flags, id, piece.len(), out);
        out.extend_from_slice(piece);
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}
