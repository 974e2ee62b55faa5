//! What clients ask: headers and bodies, until a call begins.
//!
//! Most calls have one message, which is gathered and answered without a handler. Everything else goes to the
//! handler that takes bodies piece by piece.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::windows::{ROOM_STEP, STREAM_WINDOW};
use super::{Phase, Session, Wrong};
use crate::http2::Answers;
use crate::http2::frame::{self, Header, Reason, flag};
use crate::http2::head::{Head, LIST_BYTES_MAX};
use crate::http2::inbox::inbox;
use crate::http2::streams::{Stream, Work};

/// A block of headers in pieces: how long, and how many pieces, before it counts as an attack.
const BLOCK_BYTES_MAX: usize = 2 * LIST_BYTES_MAX;
const CONTINUATIONS_MAX: usize = 16;

/// A block of headers of which more is to come.
pub(super) struct Block {
    stream: u32,
    flags: u8,
    bytes: Vec<u8>,
    continuations: usize,
}

impl<A: Answers> Session<A> {
    pub(super) fn on_headers(&mut self, header: Header, block: &[u8]) -> Result<(), Wrong> {
        match header.has(flag::END_HEADERS) {
            true => self.on_block(header.stream, header.flags, block),
            false => {
                let bytes = block.to_vec();
                self.block = Some(Block { stream: header.stream, flags: header.flags, bytes, continuations: 0 });
                Ok(())
            }
        }
    }

    pub(super) fn on_continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let Some(mut block) = self.block.take() else { return Err(Reason::Protocol.into()) };
        if block.stream != header.stream {
            return Err(Reason::Protocol.into());
        }
        block.bytes.extend_from_slice(payload);
        block.continuations += 1;
        if block.bytes.len() > BLOCK_BYTES_MAX || block.continuations > CONTINUATIONS_MAX {
            return Err(Reason::EnhanceYourCalm.into());
        }
        if header.has(flag::END_HEADERS) {
            return self.on_block(block.stream, block.flags, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole block: a new request, or what follows one.
    fn on_block(&mut self, id: u32, flags: u8, block: &[u8]) -> Result<(), Wrong> {
        let end = flags & flag::END_STREAM != 0;
        if id <= self.last_id {
            self.heads.skip(block)?;
            let Some(slot) = self.streams.find(id) else { return Ok(()) };
            return match self.streams.get(slot).is_some_and(|stream| stream.receiving) {
                false => Err(Wrong::Stream(id, Reason::StreamClosed)),
                // They would be trailers, which end the request.
                true if !end => Err(Wrong::Stream(id, Reason::Protocol)),
                true => {
                    self.on_end(slot);
                    Ok(())
                }
            };
        }
        if id.is_multiple_of(2) {
            return Err(Reason::Protocol.into());
        }
        self.last_id = id;
        if self.phase == Phase::Closed {
            // The client knows that these are not looked at.
            return Ok(self.heads.skip(block)?);
        }
        self.last_taken = id;
        let head = self.heads.read(block, &self.answers)?;
        if self.streams.len() >= self.concurrent_max {
            return Err(Wrong::Stream(id, Reason::RefusedStream));
        }
        self.begin(id, end, head)
    }

    fn begin(&mut self, id: u32, end: bool, head: Arc<Head<A::Call>>) -> Result<(), Wrong> {
        let mut stream = Stream {
            id,
            work: Work::Sending,
            inbox: None,
            receiving: !end,
            receive_window: i64::from(STREAM_WINDOW),
            untold: 0,
            send_window: self.stream_window,
            pending: Bytes::new(),
            last: None,
            held: None,
            queued: false,
            bare: false,
        };
        match &*head {
            Head::Malformed(reason) => return Err(Wrong::Stream(id, *reason)),
            Head::TooLong => {
                let slot = self.streams.insert(stream);
                self.refuse(slot, http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
            Head::Request { unary: Some(call), .. } if !end => {
                stream.work = Work::Gathering { call: *call, head, message: BytesMut::new() };
                self.streams.insert(stream);
            }
            Head::Request { .. } => {
                let slot = self.streams.insert(stream);
                self.serve(slot, &head, Bytes::new())?;
                if end {
                    self.on_end(slot);
                }
                self.ready.push_back(slot);
            }
        }
        self.most_open = self.most_open.max(self.streams.len());
        Ok(())
    }

    /// Gives the request to the handler that takes its body piece by piece, and what was read of it.
    fn serve(&mut self, slot: usize, head: &Head<A::Call>, begun: Bytes) -> Result<(), Wrong> {
        let waker = self.streams.waker(slot);
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        let Head::Request { fields, .. } = head else { return Ok(()) };
        let request = fields.request().ok_or(Wrong::Stream(stream.id, Reason::Protocol))?;
        let (inbox, body) = inbox(begun, waker, ROOM_STEP, self.taken.clone());
        stream.inbox = Some(inbox);
        stream.bare = request.method() == http::Method::HEAD;
        stream.work = Work::Serving(self.answers.serve(request.map(|()| body)));
        Ok(())
    }

    pub(super) fn on_data(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let (id, length) = (header.stream, payload.len());
        self.receive_window -= length as i64;
        if self.receive_window < 0 {
            return Err(Reason::FlowControl.into());
        }
        let content = header.content(payload)?;
        // Whatever nobody will take is told as room at once.
        self.untold += length;
        let Some(slot) = self.streams.find(id) else {
            return if id > self.last_id { Err(Reason::Protocol.into()) } else { Ok(()) };
        };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        if !stream.receiving {
            return Err(Wrong::Stream(id, Reason::StreamClosed));
        }
        stream.receive_window -= length as i64;
        if stream.receive_window < 0 {
            return Err(Wrong::Stream(id, Reason::FlowControl));
        }
        let end = header.has(flag::END_STREAM);
        match &mut stream.work {
            Work::Gathering { call, message, .. } => {
                if end && message.is_empty() && is_message(content, self.answers.message_bytes_max()) {
                    let call = *call;
                    stream.receiving = false;
                    self.answer(slot, call, Bytes::copy_from_slice(&content[5..]));
                    return Ok(());
                }
                message.extend_from_slice(content);
                let begins = begins_message(message, self.answers.message_bytes_max());
                stream.give_room(length, &mut self.out);
                if !begins {
                    self.serve_gathered(slot)?;
                }
            }
            _ => {
                let mut taken = length;
                if let Some(inbox) = &stream.inbox
                    && inbox.push(content)
                {
                    // The handler takes what the client said; nobody takes the padding.
                    taken -= content.len();
                    self.untold -= content.len();
                }
                stream.give_room(taken, &mut self.out);
            }
        }
        if end {
            self.on_end(slot);
        }
        Ok(())
    }

    /// The client has said everything on this stream.
    fn on_end(&mut self, slot: usize) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.receiving = false;
        if let Work::Gathering { call, message, .. } = &mut stream.work {
            if is_message(message, self.answers.message_bytes_max()) {
                let (call, message) = (*call, message.split_off(5).freeze());
                return self.answer(slot, call, message);
            }
            let id = stream.id;
            if self.serve_gathered(slot).is_err() {
                return self.reset(id, Reason::Protocol);
            }
        }
        if let Some(inbox) = self.streams.get(slot).and_then(|stream| stream.inbox.as_ref()) {
            inbox.end();
        }
    }

    /// What was gathered is not what it was taken for: it goes to the handler that says so.
    fn serve_gathered(&mut self, slot: usize) -> Result<(), Wrong> {
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        let Work::Gathering { head, message, .. } = std::mem::replace(&mut stream.work, Work::Sending) else {
            return Ok(());
        };
        self.serve(slot, &head, message.freeze())?;
        self.ready.push_back(slot);
        Ok(())
    }

    /// A whole message: the call begins.
    fn answer(&mut self, slot: usize, call: A::Call, message: Bytes) {
        let answering = self.answers.answer(call, message);
        let full = self.is_full();
        let Some(stream) = self.streams.get(slot) else { return };
        stream.work = Work::Answering(answering);
        // Most are answered at once, unless nobody reads the answers.
        match full {
            true => self.ready.push_back(slot),
            false => self.go_on(slot),
        }
    }
}

/// Whether these are an uncompressed message of a length that is taken, or the beginning of one.
fn begins_message(bytes: &[u8], bytes_max: usize) -> bool {
    match bytes {
        [] => true,
        [compressed, length @ ..] => {
            let fits = frame::number(length).is_none_or(|length| {
                let length = length as usize;
                length <= bytes_max && bytes.len() <= 5 + length
            });
            *compressed == 0 && fits
        }
    }
}

/// Whether these are a message, all of it and nothing else.
fn is_message(bytes: &[u8], bytes_max: usize) -> bool {
    begins_message(bytes, bytes_max)
        && bytes.get(1..).and_then(frame::number).is_some_and(|length| bytes.len() == 5 + length as usize)
}
