//! Header compression, as much of it as a load client needs: requests that shrink to a few bytes after
//! the first one, and of an answer only how the call ended.
//!
//! Both sides' tables are kept exactly: an index that is off by one would read a failure as a success.

use std::collections::VecDeque;

/// What a table of either side holds at most: the protocol's default, which neither side changes here.
const TABLE_BYTES: usize = 4096;
/// Entries of the table that everybody knows.
const STATIC_ENTRIES: usize = 61;

const PATH: usize = 4;
const AUTHORITY: usize = 1;
const CONTENT_TYPE: usize = 31;
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;

/// Writes the headers of unary and streaming gRPC requests.
#[derive(Debug)]
pub struct Encoder {
    authority: String,
    /// What the peer's copy of our table holds, oldest first. Never full: there are few paths.
    table: Vec<(&'static str, String)>,
}

impl Encoder {
    pub fn new(authority: &str) -> Encoder {
        Encoder { authority: authority.to_owned(), table: Vec::new() }
    }

    /// The header block of a request to `path`.
    pub fn request(&mut self, path: &'static str, out: &mut Vec<u8>) {
        out.extend([METHOD_POST, SCHEME_HTTP]);
        let authority = self.authority.clone();
        self.field(":path", PATH, path, out);
        self.field(":authority", AUTHORITY, &authority, out);
        self.field("content-type", CONTENT_TYPE, "application/grpc", out);
        self.field("te", 0, "trailers", out);
    }

    fn field(&mut self, name: &'static str, name_index: usize, value: &str, out: &mut Vec<u8>) {
        if let Some(at) = self.table.iter().position(|(n, v)| *n == name && v == value) {
            let index = STATIC_ENTRIES + self.table.len() - at;
            return integer(0x80, 7, index, out);
        }
        integer(0x40, 6, name_index, out);
        if name_index == 0 {
            text(name, out);
        }
        text(value, out);
        self.table.push((name, value.to_owned()));
    }
}

fn integer(flags: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(flags | value as u8);
    }
    out.push(flags | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(text: &str, out: &mut Vec<u8>) {
    integer(0, 7, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// How a call ended, as far as one block of headers says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    pub status: Option<u32>,
    pub message: Option<String>,
    /// An HTTP status other than 200.
    pub http: Option<u32>,
}

/// Reads the headers of answers.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    bytes: usize,
    /// What the peer said that it uses of [`TABLE_BYTES`].
    limit: Option<usize>,
}

/// A header in the table.
#[derive(Debug, Clone)]
struct Entry {
    name: Name,
    name_bytes: usize,
    value_bytes: usize,
    field: Field,
}

/// A header, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Status(u32),
    Message(String),
    Http(u32),
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Status,
    Message,
    Http,
    Other,
}

/// The block breaks the rules of the compression: nothing behind it can be read either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block that cannot be read")]
pub struct BadBlock;

impl Decoder {
    pub fn read(&mut self, mut block: &[u8]) -> Result<Ending, BadBlock> {
        let mut ending = Ending::default();
        while let Some(first) = block.first().copied() {
            let field = match first {
                0x80.. => {
                    let index = read_integer(&mut block, 7)?;
                    self.indexed(index)?
                }
                0x40..=0x7f => {
                    let entry = self.literal(&mut block, 6)?;
                    let field = entry.field.clone();
                    self.insert(entry);
                    field
                }
                0x20..=0x3f => {
                    self.limit = Some(read_integer(&mut block, 5)?.min(TABLE_BYTES));
                    self.evict(0);
                    continue;
                }
                _ => self.literal(&mut block, 4)?.field,
            };
            match field {
                Field::Status(status) => ending.status = Some(status),
                Field::Message(message) => ending.message = Some(message),
                Field::Http(200) | Field::Other => {}
                Field::Http(other) => ending.http = Some(other),
            }
        }
        Ok(ending)
    }

    fn indexed(&self, index: usize) -> Result<Field, BadBlock> {
        match index {
            0 => Err(BadBlock),
            8 => Ok(Field::Http(200)),
            9 => Ok(Field::Http(204)),
            10 => Ok(Field::Http(206)),
            11 => Ok(Field::Http(304)),
            12 => Ok(Field::Http(400)),
            13 => Ok(Field::Http(404)),
            14 => Ok(Field::Http(500)),
            1..=STATIC_ENTRIES => Ok(Field::Other),
            _ => self.dynamic(index).map(|entry| entry.field.clone()),
        }
    }

    fn dynamic(&self, index: usize) -> Result<&Entry, BadBlock> {
        self.table.get(index - STATIC_ENTRIES - 1).ok_or(BadBlock)
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Result<Entry, BadBlock> {
        let (name, name_bytes) = match read_integer(block, bits)? {
            0 => {
                let name = read_text(block)?;
                (name_of(&name), name.len())
            }
            index @ 8..=14 => (Name::Http, STATIC_NAME_BYTES[index - 1]),
            index @ 1..=STATIC_ENTRIES => (Name::Other, STATIC_NAME_BYTES[index - 1]),
            index => {
                let entry = self.dynamic(index)?;
                (entry.name, entry.name_bytes)
            }
        };
        let value = read_text(block)?;
        let text = || String::from_utf8_lossy(&value).into_owned();
        let number = || text().parse::<u32>().map_err(|_| BadBlock);
        let field = match name {
            Name::Status => Field::Status(number()?),
            Name::Message => Field::Message(text()),
            Name::Http => Field::Http(number()?),
            Name::Other => Field::Other,
        };
        Ok(Entry { name, name_bytes, value_bytes: value.len(), field })
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.counted());
        if entry.counted() <= self.most() {
            self.bytes += entry.counted();
            self.table.push_front(entry);
        }
    }

    fn most(&self) -> usize {
        self.limit.unwrap_or(TABLE_BYTES)
    }

    fn evict(&mut self, coming: usize) {
        while self.bytes + coming > self.most() {
            let Some(entry) = self.table.pop_back() else { break };
            self.bytes -= entry.counted();
        }
    }
}

impl Entry {
    fn counted(&self) -> usize {
        self.name_bytes + self.value_bytes + 32
    }
}

/// Lengths of the names of the static table.
const STATIC_NAME_BYTES: [usize; STATIC_ENTRIES] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

fn name_of(name: &[u8]) -> Name {
    match name {
        b"grpc-status" => Name::Status,
        b"grpc-message" => Name::Message,
        b":status" => Name::Http,
        _ => Name::Other,
    }
}

fn read_integer(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (first, mut rest) = block.split_first().ok_or(BadBlock)?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        for shift in (0..28).step_by(7) {
            let (byte, after) = rest.split_first().ok_or(BadBlock)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(value);
            }
        }
        return Err(BadBlock);
    }
    *block = rest;
    Ok(value)
}

fn read_text(block: &mut &[u8]) -> Result<Vec<u8>, BadBlock> {
    let huffman = block.first().ok_or(BadBlock)? & 0x80 != 0;
    let length = read_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(BadBlock)?;
    *block = rest;
    match huffman {
        false => Ok(text.to_vec()),
        true => super::huffman::decode(text).ok_or(BadBlock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shrinks_once_its_headers_are_known() {
        let mut encoder = Encoder::new("127.0.0.1:2379");
        let (mut first, mut second, mut other, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        encoder.request("/etcdserverpb.KV/Put", &mut first);
        encoder.request("/etcdserverpb.KV/Put", &mut second);
        encoder.request("/etcdserverpb.KV/Range", &mut other);
        encoder.request("/etcdserverpb.KV/Put", &mut again);
        assert!(first.len() > 60);
        assert_eq!(second, [METHOD_POST, SCHEME_HTTP, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        assert_eq!(other.last(), Some(&(0x80 | 63)), "one entry more has pushed them up");
        assert_eq!(again[2], 0x80 | 66);
    }

    /// A literal that is remembered, then named by its index; then one that pushes it out.
    #[test]
    fn answers_are_read_with_the_table_that_the_peer_has_built() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x88, 0x40];
        text("grpc-status", &mut block);
        text("0", &mut block);
        assert_eq!(decoder.read(&block).unwrap().status, Some(0));
        assert_eq!(decoder.read(&[0x80 | 62]).unwrap().status, Some(0));
        let mut named = vec![0x40 | 62];
        text("5", &mut named);
        assert_eq!(decoder.read(&named).unwrap().status, Some(5));
        assert_eq!(decoder.read(&[0x80 | 63]).unwrap().status, Some(0));
        assert_eq!(decoder.read(&[0x80 | 64]), Err(BadBlock));
        let mut huge = vec![0x40];
        text("x", &mut huge);
        text(&"y".repeat(4000), &mut huge);
        decoder.read(&huge).unwrap();
        assert_eq!(decoder.read(&[0x80 | 63]).unwrap().status, Some(5), "there is room for one of two beside it");
        assert_eq!(decoder.read(&[0x80 | 64]), Err(BadBlock), "pushed out");
        assert_eq!(decoder.read(&[0x20, 0x80 | 62]), Err(BadBlock), "the peer has emptied its table");
    }

    #[test]
    fn texts_may_be_compressed() {
        let mut decoder = Decoder::default();
        // "grpc-status" and "0", as Go's server writes them.
        let block = [0x40, 0x88, 0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f, 0x81, 0x07];
        assert_eq!(decoder.read(&block).unwrap().status, Some(0));
    }
}
