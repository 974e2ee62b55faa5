//! One HTTP/2 connection that carries gRPC calls and costs next to nothing: requests of all streams
//! leave in one write, answers are looked at where they lie. Plaintext only.
//!
//! A load client must not be what is measured: a call costs here a microsecond or two, where a
//! library's costs ten.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use etcd_adapter::http2::hpack::Decoder;
use mio::net::TcpStream;

use super::headers::{Encoder, Ending};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// What we take before we say that there is room again.
const WINDOW: u32 = 1 << 30;
/// Of an answer's message, as much is kept as tells its header.
pub const HEAD_BYTES: usize = 96;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What a connection hands back. `call` is what [`Connection::call`] was given.
#[derive(Debug)]
pub enum Happened<'a> {
    /// A unary call was answered. `head` begins the message.
    Answered { call: u64, head: &'a [u8] },
    /// A whole message came on a stream.
    Message { call: u64, message: &'a [u8] },
    /// The call ended with a status other than OK, or its stream ended.
    Failed { call: u64, status: u32, why: &'a str },
}

#[derive(Debug)]
struct Stream {
    call: u64,
    /// Messages are handed out one by one, whole.
    streaming: bool,
    head: [u8; HEAD_BYTES],
    /// Bytes of all messages so far, with their prefixes.
    length: usize,
    /// Of a streaming call: what of the next message has come.
    pending: Vec<u8>,
    /// Bytes taken since its window was opened.
    taken: u32,
}

#[derive(Debug)]
pub struct Connection {
    pub socket: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
    out: Vec<u8>,
    /// What of `out` has been written.
    written: usize,
    input: Vec<u8>,
    filled: usize,
    streams: HashMap<u32, Stream, BuildIds>,
    next_id: u32,
    /// A header block in pieces: its stream, its flags.
    block: Option<(u32, u8, Vec<u8>)>,
    /// What the peer takes: on the connection, and on a fresh stream.
    send_window: i64,
    stream_window: i64,
    /// Requests that wait for room.
    waiting: std::collections::VecDeque<(u64, &'static str, Vec<u8>, bool)>,
    unacknowledged: u32,
    closing: bool,
}

impl Connection {
    pub fn open(address: SocketAddr, authority: &str) -> anyhow::Result<Connection> {
        let socket = std::net::TcpStream::connect(address).with_context(|| format!("cannot connect to {authority}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut out = PREFACE.to_vec();
        // No pushes; streams and connection may send as they like.
        let settings = [(2u16, 0u32), (4, WINDOW)];
        frame(SETTINGS, 0, 0, settings.len() * 6, &mut out);
        for (name, value) in settings {
            out.extend(name.to_be_bytes());
            out.extend(value.to_be_bytes());
        }
        frame(WINDOW_UPDATE, 0, 0, 4, &mut out);
        out.extend((WINDOW - 65_535).to_be_bytes());
        Ok(Connection {
            socket: TcpStream::from_std(socket),
            encoder: Encoder::new(authority),
            decoder: Decoder::default(),
            out,
            written: 0,
            input: vec![0; 256 << 10],
            filled: 0,
            streams: HashMap::default(),
            next_id: 1,
            block: None,
            send_window: 65_535,
            stream_window: 65_535,
            waiting: Default::default(),
            unacknowledged: 0,
            closing: false,
        })
    }

    /// Begins a call with one request. Nothing leaves before [`Connection::flush`].
    pub fn call(&mut self, call: u64, path: &'static str, request: &[u8], streaming: bool) -> anyhow::Result<()> {
        ensure!(
            (request.len() + 5) as i64 <= self.stream_window,
            "a request of {} bytes: the server takes {} at once",
            request.len(),
            self.stream_window
        );
        ensure!(!self.closing, "the server is going away");
        let room = self.send_window >= (request.len() + 5) as i64 && self.waiting.is_empty();
        match room {
            true => self.begin(call, path, request, streaming),
            false => self.waiting.push_back((call, path, request.to_vec(), streaming)),
        }
        Ok(())
    }

    fn begin(&mut self, call: u64, path: &'static str, request: &[u8], streaming: bool) {
        let id = self.next_id;
        self.next_id += 2;
        let at = self.out.len();
        frame(HEADERS, END_HEADERS, id, 0, &mut self.out);
        self.encoder.request(path, &mut self.out);
        let length = self.out.len() - at - FRAME_HEADER_BYTES;
        self.out[at..at + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        // The requesting side of a stream stays open: it would end the call.
        let flags = if streaming { 0 } else { END_STREAM };
        frame(DATA, flags, id, request.len() + 5, &mut self.out);
        self.out.push(0);
        self.out.extend((request.len() as u32).to_be_bytes());
        self.out.extend_from_slice(request);
        self.send_window -= (request.len() + 5) as i64;
        let stream = Stream { call, streaming, head: [0; HEAD_BYTES], length: 0, pending: Vec::new(), taken: 0 };
        self.streams.insert(id, stream);
    }

    /// Writes what there is. False: the socket takes no more for now.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads what there is and tells what it means.
    pub fn read(&mut self, mut tell: impl FnMut(Happened<'_>)) -> anyhow::Result<()> {
        loop {
            if self.filled == self.input.len() {
                let larger = self.input.len() * 2;
                ensure!(larger <= 64 << 20, "a frame of more than 32 MiB");
                self.input.resize(larger, 0);
            }
            match self.socket.read(&mut self.input[self.filled..]) {
                Ok(0) => bail!("the server has closed the connection"),
                Ok(bytes) => {
                    self.filled += bytes;
                    let all = self.filled == self.input.len();
                    self.take_frames(&mut tell)?;
                    if !all {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the connection has failed"),
            }
        }
    }

    fn take_frames(&mut self, tell: &mut impl FnMut(Happened<'_>)) -> anyhow::Result<()> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(header) = input[at..self.filled].first_chunk::<FRAME_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let id = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff;
            let begin = at + FRAME_HEADER_BYTES;
            let Some(payload) = input[begin..self.filled].get(..length) else { break };
            self.take_frame(header[3], header[4], id, payload, tell)?;
            at = begin + length;
        }
        self.input = input;
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn take_frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        tell: &mut impl FnMut(Happened<'_>),
    ) -> anyhow::Result<()> {
        match kind {
            DATA => {
                self.take_data(id, unpadded(flags, payload)?, tell);
                self.give_room(payload.len() as u32);
                if flags & END_STREAM != 0 {
                    self.end(id, None, tell);
                }
            }
            HEADERS => {
                let mut block = unpadded(flags, payload)?;
                if flags & PRIORITY != 0 {
                    block = block.get(5..).context("headers without their priority")?;
                }
                self.take_block(id, flags, block, tell)?;
            }
            CONTINUATION => {
                let (id, first_flags, mut block) = self.block.take().context("a continuation of nothing")?;
                block.extend_from_slice(payload);
                self.take_block(id, first_flags | flags & END_HEADERS, &block, tell)?;
            }
            RST_STREAM => {
                let code = payload.first_chunk().map_or(0, |code| u32::from_be_bytes(*code));
                let ending = (14, format!("the stream was reset with code {code}"));
                self.end(id, Some(ending), tell);
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let name = u16::from_be_bytes([setting[0], setting[1]]);
                    let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    match name {
                        1 => ensure!(value >= 1024, "the server keeps a header table of {value} bytes only"),
                        4 => self.stream_window = i64::from(value),
                        _ => {}
                    }
                }
                frame(SETTINGS, ACK, 0, 0, &mut self.out);
            }
            PING if flags & ACK == 0 => {
                frame(PING, ACK, 0, payload.len(), &mut self.out);
                self.out.extend_from_slice(payload);
            }
            WINDOW_UPDATE if id == 0 => {
                let more = payload.first_chunk().map_or(0, |more| u32::from_be_bytes(*more));
                self.send_window += i64::from(more);
                self.begin_waiting();
            }
            GOAWAY => {
                // Calls under way are still answered; then the server closes.
                self.closing = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn take_data(&mut self, id: u32, data: &[u8], tell: &mut impl FnMut(Happened<'_>)) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.streaming {
            if stream.length < HEAD_BYTES {
                let fits = data.len().min(HEAD_BYTES - stream.length);
                stream.head[stream.length..stream.length + fits].copy_from_slice(&data[..fits]);
            }
            stream.length += data.len();
            return;
        }
        stream.taken += data.len() as u32;
        if stream.taken > WINDOW / 4 {
            frame(WINDOW_UPDATE, 0, id, 4, &mut self.out);
            self.out.extend(std::mem::take(&mut stream.taken).to_be_bytes());
        }
        // Mostly a frame holds whole messages, and nothing is copied.
        let mut joined = std::mem::take(&mut stream.pending);
        let mut rest = match joined.is_empty() {
            true => data,
            false => {
                joined.extend_from_slice(data);
                &joined[..]
            }
        };
        while let Some(prefix) = rest.first_chunk::<5>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let Some(message) = rest[5..].get(..length) else { break };
            tell(Happened::Message { call: stream.call, message });
            rest = &rest[5 + length..];
        }
        stream.pending = rest.to_vec();
    }

    fn take_block(
        &mut self,
        id: u32,
        flags: u8,
        block: &[u8],
        tell: &mut impl FnMut(Happened<'_>),
    ) -> anyhow::Result<()> {
        if flags & END_HEADERS == 0 {
            self.block = Some((id, flags, block.to_vec()));
            return Ok(());
        }
        let ending = Ending::read(&mut self.decoder, block)?;
        if flags & END_STREAM != 0 || ending.http.is_some() {
            let failed = match (ending.http, ending.status) {
                (Some(http), _) => Some((14, format!("HTTP status {http}"))),
                (None, Some(0)) => None,
                (None, Some(status)) => Some((status, ending.message.unwrap_or_default())),
                (None, None) => Some((13, "the call ended without a status".to_owned())),
            };
            self.end(id, failed, tell);
        }
        Ok(())
    }

    fn end(&mut self, id: u32, failed: Option<(u32, String)>, tell: &mut impl FnMut(Happened<'_>)) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let call = stream.call;
        match failed {
            Some((status, why)) => tell(Happened::Failed { call, status, why: &why }),
            None if stream.streaming => tell(Happened::Failed { call, status: 0, why: "the stream has ended" }),
            None => {
                let length = stream.length.saturating_sub(5);
                let head = &stream.head[5..][..length.min(HEAD_BYTES - 5)];
                tell(Happened::Answered { call, head });
            }
        }
    }

    fn begin_waiting(&mut self) {
        while let Some((_, _, request, _)) = self.waiting.front()
            && self.send_window >= (request.len() + 5) as i64
            && let Some((call, path, request, streaming)) = self.waiting.pop_front()
        {
            self.begin(call, path, &request, streaming);
        }
    }

    fn give_room(&mut self, bytes: u32) {
        self.unacknowledged += bytes;
        if self.unacknowledged > WINDOW / 4 {
            frame(WINDOW_UPDATE, 0, 0, 4, &mut self.out);
            self.out.extend(self.unacknowledged.to_be_bytes());
            self.unacknowledged = 0;
        }
    }
}

fn frame(kind: u8, flags: u8, id: u32, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
}

fn unpadded(flags: u8, payload: &[u8]) -> anyhow::Result<&[u8]> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (pad, rest) = payload.split_first().context("padding of unknown length")?;
    rest.len().checked_sub(usize::from(*pad)).map(|length| &rest[..length]).context("more padding than frame")
}

/// Stream ids are numbers that rise: they need no hash worth the name.
#[derive(Debug, Clone, Copy, Default)]
struct BuildIds;

impl std::hash::BuildHasher for BuildIds {
    type Hasher = Ids;
    fn build_hasher(&self) -> Ids {
        Ids(0)
    }
}

#[derive(Debug)]
struct Ids(u64);

impl std::hash::Hasher for Ids {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0.rotate_left(8) ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
