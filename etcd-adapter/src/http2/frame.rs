//! Frames as they lie on the wire (RFC 9113): their headers, their kinds, and the few that a server
//! writes. Nothing here knows of streams.

/// What a client says before its first frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const HEADER_BYTES: usize = 9;
/// No frame is longer, in either direction: the protocol's default, which neither side is asked to raise.
pub const PAYLOAD_MAX: usize = 16 << 10;
/// What a window begins with, and the most that it can hold.
pub const WINDOW_DEFAULT: u32 = 65_535;
pub const WINDOW_MAX: i64 = (1 << 31) - 1;

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

pub mod setting {
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// The first nine bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Header {
    /// The header at the beginning of `bytes`, if all of it is there.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let [l0, l1, l2, kind, flags, stream @ ..] = bytes.first_chunk::<HEADER_BYTES>()?;
        Some(Header {
            length: u32::from_be_bytes([0, *l0, *l1, *l2]) as usize,
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes(*stream) & 0x7fff_ffff,
        })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What a frame of DATA or HEADERS carries, without its padding and its priority.
    pub fn content<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], Reason> {
        let (mut rest, mut padding) = (payload, 0);
        if self.has(flag::PADDED) {
            let (length, after) = rest.split_first().ok_or(Reason::FrameSize)?;
            (rest, padding) = (after, usize::from(*length));
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            rest = rest.get(5..).ok_or(Reason::FrameSize)?;
        }
        let length = rest.len().checked_sub(padding).ok_or(Reason::Protocol)?;
        Ok(&rest[..length])
    }
}

/// The number that begins a payload.
pub fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Names and values of a SETTINGS frame.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).filter_map(|setting| {
        let (name, value) = setting.split_first_chunk()?;
        Some((u16::from_be_bytes(*name), number(value)?))
    })
}

pub fn write_header(kind: u8, flags: u8, stream: u32, length: usize, out: &mut Vec<u8>) {
    let length = (length as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    out.extend([length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2], stream[3]]);
}

pub fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    write_header(kind::SETTINGS, 0, 0, settings.len() * 6, out);
    for (name, value) in settings {
        out.extend(name.to_be_bytes());
        out.extend(value.to_be_bytes());
    }
}

pub fn write_window_update(stream: u32, more: u32, out: &mut Vec<u8>) {
    write_header(kind::WINDOW_UPDATE, 0, stream, 4, out);
    out.extend(more.to_be_bytes());
}

pub fn write_reset(stream: u32, reason: Reason, out: &mut Vec<u8>) {
    write_header(kind::RST_STREAM, 0, stream, 4, out);
    out.extend((reason as u32).to_be_bytes());
}

pub fn write_ping(flags: u8, payload: [u8; 8], out: &mut Vec<u8>) {
    write_header(kind::PING, flags, 0, payload.len(), out);
    out.extend(payload);
}

/// Streams above `last` were not looked at, and never will be.
pub fn write_go_away(last: u32, reason: Reason, out: &mut Vec<u8>) {
    write_header(kind::GOAWAY, 0, 0, 8, out);
    out.extend(last.to_be_bytes());
    out.extend((reason as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        write_header(kind::DATA, flag::END_STREAM | flag::PADDED, 7, 70_000, &mut out);
        let header = Header { length: 70_000, kind: kind::DATA, flags: 9, stream: 7 };
        assert_eq!(Header::read(&out), Some(header));
        assert_eq!(Header::read(&out[..8]), None);
        out.clear();
        write_settings(&[(3, 100), (4, 1 << 20)], &mut out);
        assert_eq!(settings(&out[HEADER_BYTES..]).collect::<Vec<_>>(), [(3, 100), (4, 1 << 20)]);
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let header = |kind, flags| Header { length: 0, kind, flags, stream: 1 };
        let padded = header(kind::DATA, flag::PADDED);
        assert_eq!(padded.content(&[2, b'x', 0, 0]), Ok(&b"x"[..]));
        assert_eq!(padded.content(&[3, 0, 0, 0]), Ok(&[][..]));
        assert_eq!(padded.content(&[4, 0, 0, 0]), Err(Reason::Protocol));
        assert_eq!(padded.content(&[]), Err(Reason::FrameSize));
        let both = header(kind::HEADERS, flag::PADDED | flag::PRIORITY);
        assert_eq!(both.content(&[1, 0, 0, 0, 0, 9, b'x', 0]), Ok(&b"x"[..]));
        assert_eq!(both.content(&[1, 0, 0, 0]), Err(Reason::FrameSize));
        assert_eq!(header(kind::DATA, flag::PRIORITY).content(b"abc"), Ok(&b"abc"[..]), "it means nothing here");
    }
}
