//! Who may still send how much: clients to us, and we to them.
//!
//! A client is told of room in large steps, and only once what it sent was taken.

use super::{Session, Wrong};
use crate::http2::Answers;
use crate::http2::frame::{self, Reason};
use crate::http2::streams::Stream;

/// What a client may send on one stream, and on one connection, before it is taken.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// So much room of a stream is worth a word.
pub(super) const ROOM_STEP: usize = STREAM_WINDOW as usize / 2;

impl<A: Answers> Session<A> {
    /// What the client takes on a stream, on those that are open too.
    pub(super) fn on_stream_window(&mut self, window: i64) -> Result<(), Wrong> {
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

    pub(super) fn on_window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Wrong> {
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

    /// Tells the client of room, in large steps.
    pub(super) fn tell_room(&mut self) {
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
    pub(in crate::http2) fn give_room(&mut self, taken: usize, out: &mut Vec<u8>) {
        self.untold += taken;
        if self.untold >= ROOM_STEP && self.receiving {
            frame::write_window_update(self.id, self.untold as u32, out);
            self.receive_window += self.untold as i64;
            self.untold = 0;
        }
    }
}
