//! The protocol of one connection: bytes of the client in, calls begun, bytes for the client out.
//!
//! It owns the streams, their calls and what is yet to be written. It does no I/O, so that any bytes can
//! be given to it. The rules are those of RFC 9113; an error of a stream resets it, an error of the
//! connection ends all of them with a word about why.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::frame::{self, Header, Reason, flag, kind, setting};
use super::head::{Head, Heads, LIST_BYTES_MAX};
use super::inbox::{Taken, inbox};
use super::streams::{Stream, Streams, Work};
use super::wakes::{Flag, SlotWake, Wakes};
use super::{Answers, hpack};

/// What a client may send on one stream, and on one connection, before it is taken.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// So much room of a stream is worth a word.
const ROOM_STEP: usize = STREAM_WINDOW as usize / 2;
/// With so much unwritten no call is polled, and no room is told of: a client that does not read its
/// answers gets no more of them. It is still heard: some clients read nothing while they cannot write.
pub const OUT_BYTES_MAX: usize = 256 << 10;
/// With so much unwritten nothing is read: only replies that nobody needs come to that.
pub const REPLY_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;
/// So many calls that cannot be polled are enough.
const WAITING_MAX: usize = 10_000;
/// A block of headers in pieces: how long, and how many pieces, before it counts as an attack.
const BLOCK_BYTES_MAX: usize = 2 * LIST_BYTES_MAX;
const CONTINUATIONS_MAX: usize = 16;
/// Calls that a client may cancel in a second, besides those that it had open at once.
const RESETS_MAX: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);
/// Wakes the connection, and no stream.
const NO_SLOT: usize = usize::MAX;
/// What our pings say: that we are about to go, or whether somebody is there.
const PING_CLOSING: [u8; 8] = *b"closing!";
const PING_ALIVE: [u8; 8] = *b"anybody?";
/// No stream has a higher number.
const STREAM_ID_MAX: u32 = (1 << 31) - 1;

/// How far the end of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client has yet to tell its settings.
    Beginning,
    Open,
    /// The client was told that there will be an end; what it has sent by now is still taken.
    Closing,
    /// No new streams; those that are open finish.
    Closed,
    /// The client broke the rules, or does not answer.
    Failed,
}

pub struct Session<A: Answers> {
    pub(super) answers: A,
    pub(super) streams: Streams<A::Call>,
    wakes: Arc<Wakes>,
    /// Slots whose turn it is.
    pub(super) ready: VecDeque<usize>,
    /// Slots that have something to send, and room of their own stream's.
    pub(super) sending: VecDeque<usize>,
    /// What is to be written.
    pub out: Vec<u8>,
    heads: Heads<A::Call>,
    /// A block of headers of which more is to come.
    block: Option<Block>,
    phase: Phase,
    /// The highest stream that the client has named, and the highest that was looked at.
    last_id: u32,
    last_taken: u32,
    concurrent_max: usize,
    most_open: usize,
    resets: usize,
    resets_since: Instant,
    taken: Arc<Taken>,
    /// Wakes us when that is enough.
    room: Arc<SlotWake>,
    /// Some answer is to be dropped.
    pub(super) overdue: Arc<Flag>,
    receive_window: i64,
    /// Taken, and not yet told.
    untold: usize,
    /// What the client takes: on the connection, on a new stream, in a frame.
    pub(super) send_window: i64,
    stream_window: i64,
}

struct Block {
    stream: u32,
    flags: u8,
    bytes: Vec<u8>,
    continuations: usize,
}

/// What is wrong with a frame, and what ends with it.
enum Wrong {
    Stream(u32, Reason),
    Connection(Reason),
}

impl From<Reason> for Wrong {
    fn from(reason: Reason) -> Wrong {
        Wrong::Connection(reason)
    }
}

impl From<hpack::BadBlock> for Wrong {
    fn from(_: hpack::BadBlock) -> Wrong {
        Wrong::Connection(Reason::Compression)
    }
}

impl<A: Answers> Session<A> {
    /// Begins with our settings, to be written. The client's preface was read by somebody else.
    pub fn new(answers: A, concurrent_max: u32) -> Self {
        let mut out = Vec::new();
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, concurrent_max),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, LIST_BYTES_MAX as u32),
        ];
        frame::write_settings(&settings, &mut out);
        frame::write_window_update(0, CONNECTION_WINDOW - frame::WINDOW_DEFAULT, &mut out);
        let wakes = Arc::new(Wakes::default());
        let room = SlotWake::new(&wakes, NO_SLOT);
        Session {
            answers,
            streams: Streams::new(wakes.clone()),
            overdue: Flag::new(room.clone()),
            wakes,
            ready: VecDeque::new(),
            sending: VecDeque::new(),
            out,
            heads: Heads::default(),
            block: None,
            phase: Phase::Beginning,
            last_id: 0,
            last_taken: 0,
            concurrent_max: concurrent_max as usize,
            most_open: 0,
            resets: 0,
            resets_since: Instant::now(),
            taken: Arc::new(Taken::new(CONNECTION_WINDOW as usize / 4, room.clone().into())),
            room,
            receive_window: i64::from(CONNECTION_WINDOW),
            untold: 0,
            send_window: i64::from(frame::WINDOW_DEFAULT),
            stream_window: i64::from(frame::WINDOW_DEFAULT),
        }
    }

    /// Whoever polls the session, and is woken when there is something to do.
    pub fn register(&self, task: &std::task::Waker) {
        self.wakes.register(task);
    }

    /// So much is unwritten that nothing more is to be answered.
    pub fn is_full(&self) -> bool {
        self.out.len() >= OUT_BYTES_MAX
    }

    /// So much is unwritten that nothing more is to be read.
    pub fn is_overfull(&self) -> bool {
        self.out.len() >= REPLY_BYTES_MAX || (self.is_full() && self.ready.len() >= WAITING_MAX)
    }

    /// Nothing is left to do but to write.
    pub fn is_finished(&self) -> bool {
        match self.phase {
            Phase::Failed => true,
            Phase::Closed => self.streams.len() == 0,
            _ => false,
        }
    }

    /// Takes the whole frames at the beginning of `input`, and answers how many bytes they have.
    pub fn receive(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while self.phase != Phase::Failed
            && let Some(header) = Header::read(&input[at..])
        {
            let begin = at + frame::HEADER_BYTES;
            let taken = match input[begin..].get(..header.length) {
                _ if header.length > frame::PAYLOAD_MAX => Err(Wrong::Connection(Reason::FrameSize)),
                Some(payload) => self.on_frame(header, payload),
                None => return at,
            };
            match taken {
                Ok(()) => {}
                Err(Wrong::Stream(id, reason)) => self.reset(id, reason),
                Err(Wrong::Connection(reason)) => self.fail(reason),
            }
            at = begin + header.length;
        }
        if self.phase == Phase::Failed { input.len() } else { at }
    }

    /// Goes on with whatever was woken. True: there may be more to do.
    pub fn run(&mut self) -> bool {
        self.wakes.drain(&mut self.ready);
        self.end_overdue();
        let mut done = false;
        // Those that are woken meanwhile are for the next time.
        for _ in 0..self.ready.len() {
            if self.is_full() {
                break;
            }
            let Some(slot) = self.ready.pop_front() else { break };
            self.go_on(slot);
            done = true;
        }
        self.send_waiting();
        self.tell_room();
        done || (!self.ready.is_empty() && !self.is_full())
    }

    /// Says that the connection will end, once the client has had time to hear of it.
    pub fn close(&mut self) {
        if matches!(self.phase, Phase::Beginning | Phase::Open) {
            frame::write_go_away(STREAM_ID_MAX, Reason::NoError, &mut self.out);
            frame::write_ping(0, PING_CLOSING, &mut self.out);
            self.phase = Phase::Closing;
        }
    }

    pub fn ask_whether_alive(&mut self) {
        frame::write_ping(0, PING_ALIVE, &mut self.out);
    }

    /// Ends everything, with a word for the client. Calls are cancelled.
    fn fail(&mut self, reason: Reason) {
        tracing::debug!("a client broke the rules of HTTP/2: {reason:?}");
        frame::write_go_away(self.last_taken, reason, &mut self.out);
        self.phase = Phase::Failed;
        self.sending.clear();
        self.ready.clear();
        self.streams.clear();
    }

    /// Ends one stream, with a word for the client.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        frame::write_reset(id, reason, &mut self.out);
        if let Some(slot) = self.streams.find(id) {
            self.remove(slot);
        }
    }

    /// Forgets a stream, which cancels its call.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Stream<A::Call>> {
        let stream = self.streams.remove(slot)?;
        if stream.queued {
            self.sending.retain(|queued| *queued != slot);
        }
        Some(stream)
    }

    fn on_frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        if self.phase == Phase::Beginning && header.kind != kind::SETTINGS {
            return Err(Reason::Protocol.into());
        }
        // Nothing may come between the pieces of a block.
        if self.block.is_some() != (header.kind == kind::CONTINUATION) {
            return Err(Reason::Protocol.into());
        }
        let of_stream =
            matches!(header.kind, kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION);
        let of_connection = matches!(header.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        if (of_stream && header.stream == 0) || (of_connection && header.stream != 0) {
            return Err(Reason::Protocol.into());
        }
        match header.kind {
            kind::DATA => self.on_data(header, payload),
            kind::HEADERS => self.on_headers(header, header.content(payload)?),
            kind::CONTINUATION => self.on_continuation(header, payload),
            kind::RST_STREAM => self.on_reset(header.stream, payload),
            kind::SETTINGS => self.on_settings(header, payload),
            kind::PING => self.on_ping(header, payload),
            kind::WINDOW_UPDATE => self.on_window_update(header.stream, payload),
            kind::PRIORITY if payload.len() != 5 => Err(Wrong::Stream(header.stream, Reason::FrameSize)),
            kind::PUSH_PROMISE => Err(Reason::Protocol.into()),
            // A client that goes away has nothing more to ask; what it asked is answered. Kinds that
            // nobody knows mean nothing.
            _ => Ok(()),
        }
    }

    fn on_headers(&mut self, header: Header, block: &[u8]) -> Result<(), Wrong> {
        match header.has(flag::END_HEADERS) {
            true => self.on_block(header.stream, header.flags, block),
            false => {
                let bytes = block.to_vec();
                self.block = Some(Block { stream: header.stream, flags: header.flags, bytes, continuations: 0 });
                Ok(())
            }
        }
    }

    fn on_continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
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

    fn on_data(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
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

    fn on_reset(&mut self, id: u32, payload: &[u8]) -> Result<(), Wrong> {
        if payload.len() != 4 {
            return Err(Reason::FrameSize.into());
        }
        if id > self.last_id {
            return Err(Reason::Protocol.into());
        }
        let Some(slot) = self.streams.find(id) else { return Ok(()) };
        self.remove(slot);
        let now = Instant::now();
        if now.duration_since(self.resets_since) > SECOND {
            (self.resets, self.resets_since) = (0, now);
        }
        self.resets += 1;
        match self.resets > RESETS_MAX + self.most_open {
            true => Err(Reason::EnhanceYourCalm.into()),
            false => Ok(()),
        }
    }

    fn on_settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        if header.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Reason::FrameSize.into()) };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Reason::FrameSize.into());
        }
        for (name, value) in frame::settings(payload) {
            match name {
                setting::ENABLE_PUSH if value > 1 => return Err(Reason::Protocol.into()),
                setting::INITIAL_WINDOW_SIZE => self.on_stream_window(i64::from(value))?,
                // Our frames are as short as any client takes.
                setting::MAX_FRAME_SIZE if !(16 << 10..1 << 24).contains(&value) => {
                    return Err(Reason::Protocol.into());
                }
                _ => {}
            }
        }
        if self.phase == Phase::Beginning {
            self.phase = Phase::Open;
        }
        frame::write_header(kind::SETTINGS, flag::ACK, 0, 0, &mut self.out);
        Ok(())
    }

    /// What the client takes on a stream, on those that are open too.
    fn on_stream_window(&mut self, window: i64) -> Result<(), Wrong> {
        if window > frame::WINDOW_MAX {
            return Err(Reason::FlowControl.into());
        }
        let more = window - self.stream_window;
        self.stream_window = window;
        for (slot, stream) in self.streams.iter_mut() {
            stream.send_window += more;
            if stream.send_window > frame::WINDOW_MAX {
                return Err(Reason::FlowControl.into());
            }
            stream.queue(slot, &mut self.sending);
        }
        Ok(())
    }

    fn on_window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Wrong> {
        if payload.len() != 4 {
            return Err(Reason::FrameSize.into());
        }
        let more = i64::from(frame::number(payload).unwrap_or_default() & 0x7fff_ffff);
        if id == 0 {
            self.send_window += more;
            let wrong = if more == 0 { Reason::Protocol } else { Reason::FlowControl };
            return if more == 0 || self.send_window > frame::WINDOW_MAX { Err(wrong.into()) } else { Ok(()) };
        }
        if id > self.last_id {
            return Err(Reason::Protocol.into());
        }
        let Some(slot) = self.streams.find(id) else { return Ok(()) };
        let Some(stream) = self.streams.get(slot) else { return Ok(()) };
        stream.send_window += more;
        if more == 0 {
            return Err(Wrong::Stream(id, Reason::Protocol));
        }
        if stream.send_window > frame::WINDOW_MAX {
            return Err(Wrong::Stream(id, Reason::FlowControl));
        }
        stream.queue(slot, &mut self.sending);
        Ok(())
    }

    fn on_ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Wrong> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else { return Err(Reason::FrameSize.into()) };
        if !header.has(flag::ACK) {
            frame::write_ping(flag::ACK, payload, &mut self.out);
        } else if payload == PING_CLOSING && self.phase == Phase::Closing {
            // Whatever the client sent before it heard of the end has arrived.
            frame::write_go_away(self.last_taken, Reason::NoError, &mut self.out);
            self.phase = Phase::Closed;
        }
        Ok(())
    }

    /// Tells the client of room, in large steps.
    fn tell_room(&mut self) {
        self.room.taken();
        self.untold += self.taken.collect();
        if !self.is_full() && self.untold >= CONNECTION_WINDOW as usize / 4 {
            frame::write_window_update(0, self.untold as u32, &mut self.out);
            self.receive_window += self.untold as i64;
            self.untold = 0;
        }
    }
}

impl<C> Stream<C> {
    /// So much of what the client sent was taken: tells it of the room, in large steps.
    pub(super) fn give_room(&mut self, taken: usize, out: &mut Vec<u8>) {
        self.untold += taken;
        if self.untold >= ROOM_STEP && self.receiving {
            frame::write_window_update(self.id, self.untold as u32, out);
            self.receive_window += self.untold as i64;
            self.untold = 0;
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
