//! The protocol of one connection: bytes of the client in, calls begun, bytes for the client out.
//!
//! It owns the streams, their calls and what is yet to be written. It does no I/O, so that any bytes can
//! be given to it. How a call begins is told in `requests`, who may send how much in `windows`, what leaves in
//! `send`. The rules are those of RFC 9113; an error of a stream resets it, an error of the
//! connection ends all of them with a word about why.

mod requests;
mod windows;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::frame::{self, Header, Reason, flag, kind, setting};
use super::head::{Heads, LIST_BYTES_MAX};
use super::inbox::Taken;
use super::streams::{Stream, Streams};
use super::wakes::{Flag, SlotWake, Wakes};
use super::{Answers, hpack};
use requests::Block;
use windows::{CONNECTION_WINDOW, STREAM_WINDOW};

/// With so much unwritten no call is polled, and no room is told of: a client that does not read its
/// answers gets no more of them. It is still heard: some clients read nothing while they cannot write.
pub const OUT_BYTES_MAX: usize = 256 << 10;
/// With so much unwritten nothing is read: only replies that nobody needs come to that.
pub const REPLY_BYTES_MAX: usize = 2 * OUT_BYTES_MAX;
/// So many calls that cannot be polled are enough.
const WAITING_MAX: usize = 10_000;
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
        // Before anything is looked at that it stands for: what comes later wakes again.
        self.room.taken();
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
}
