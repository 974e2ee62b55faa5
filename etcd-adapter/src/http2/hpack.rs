//! Header compression (RFC 7541). The decoder is complete and keeps the peer's table exactly: an index
//! that is off by one would read one header as another. What writes headers keeps no table at all.

use std::collections::VecDeque;

use super::huffman;

/// What a peer's table may hold: the protocol's default, which no one here raises.
pub const TABLE_BYTES_MAX: usize = 4096;
/// What an entry counts besides its texts.
const ENTRY_BYTES: usize = 32;

/// The block breaks the rules of the compression: nothing behind it can be read either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block that cannot be read")]
pub struct BadBlock;

/// Reads the blocks of one peer, in the order in which they were sent.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    bytes: usize,
    /// What the peer said that it uses of [`TABLE_BYTES_MAX`].
    limit: usize,
    generation: u64,
    /// Where compressed names and values are spelled out.
    spelled: [Vec<u8>; 2],
}

#[derive(Debug)]
struct Entry {
    /// The name, then the value.
    text: Box<[u8]>,
    name_bytes: usize,
}

impl Entry {
    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at(self.name_bytes)
    }

    fn counted(&self) -> usize {
        self.text.len() + ENTRY_BYTES
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            table: VecDeque::new(),
            bytes: 0,
            limit: TABLE_BYTES_MAX,
            generation: 0,
            spelled: [Vec::new(), Vec::new()],
        }
    }
}

impl Decoder {
    /// Rises with every change of the table. The same block means the same in the same generation, and
    /// reading it again changes nothing if the generation stayed while it was read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Tells each header of the block, its name and its value.
    pub fn read(&mut self, mut block: &[u8], mut tell: impl FnMut(&[u8], &[u8])) -> Result<(), BadBlock> {
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            match first {
                0x80.. => {
                    let index = read_integer(&mut block, 7)?;
                    let (name, value) = entry(&self.table, index)?;
                    tell(name, value);
                }
                // The table may change its size before the first header only.
                0x20..=0x3f => {
                    let limit = read_integer(&mut block, 5)?;
                    if begun || limit > TABLE_BYTES_MAX {
                        return Err(BadBlock);
                    }
                    self.limit = limit;
                    self.generation += 1;
                    self.evict(0);
                    continue;
                }
                _ => {
                    let remembered = first & 0x40 != 0;
                    let [spelled_name, spelled_value] = &mut self.spelled;
                    let name = match read_integer(&mut block, if remembered { 6 } else { 4 })? {
                        0 => read_text(&mut block, spelled_name)?,
                        index => entry(&self.table, index)?.0,
                    };
                    let value = read_text(&mut block, spelled_value)?;
                    tell(name, value);
                    if remembered {
                        let entry = Entry { text: [name, value].concat().into(), name_bytes: name.len() };
                        self.insert(entry);
                    }
                }
            }
            begun = true;
        }
        Ok(())
    }

    fn insert(&mut self, entry: Entry) {
        self.generation += 1;
        self.evict(entry.counted());
        if entry.counted() <= self.limit {
            self.bytes += entry.counted();
            self.table.push_front(entry);
        }
    }

    fn evict(&mut self, coming: usize) {
        while self.bytes + coming > self.limit {
            let Some(entry) = self.table.pop_back() else { break };
            self.bytes -= entry.counted();
        }
    }
}

fn entry(table: &VecDeque<Entry>, index: usize) -> Result<(&[u8], &[u8]), BadBlock> {
    let at = index.checked_sub(1).ok_or(BadBlock)?;
    match STATIC.get(at) {
        Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
        None => table.get(at - STATIC.len()).map(Entry::parts).ok_or(BadBlock),
    }
}

fn read_integer(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (first, mut rest) = block.split_first().ok_or(BadBlock)?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        // Four bytes more hold everything that may be meant.
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

/// A text, which lies in the block or, if it was compressed, in `spelled`.
fn read_text<'b: 't, 't>(block: &mut &'b [u8], spelled: &'t mut Vec<u8>) -> Result<&'t [u8], BadBlock> {
    let compressed = block.first().ok_or(BadBlock)? & 0x80 != 0;
    let length = read_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(BadBlock)?;
    *block = rest;
    if !compressed {
        return Ok(text);
    }
    spelled.clear();
    huffman::decode(text, spelled).ok_or(BadBlock)?;
    Ok(spelled)
}

/// Writes a number behind the flags of its first byte, of which it may use the last `bits`.
pub fn write_integer(flags: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
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

pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    write_integer(0, 7, text.len(), out);
    out.extend_from_slice(text);
}

/// Writes a header that the peer is not to remember.
pub fn write_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    write_text(name, out);
    write_text(value, out);
}

/// Writes the status that begins an answer.
pub fn write_status(status: u16, out: &mut Vec<u8>) {
    let text = status.to_string();
    match STATIC.iter().position(|known| *known == (":status", text.as_str())) {
        Some(at) => write_integer(0x80, 7, at + 1, out),
        None => write_header(b":status", text.as_bytes(), out),
    }
}

/// The table that everybody knows; its first index is 1.
#[rustfmt::skip]
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, BadBlock> {
        let mut read = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.read(block, |name, value| read.push((text(name), text(value))))?;
        Ok(read)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    fn told(headers: &[(&str, &str)]) -> Result<Vec<(String, String)>, BadBlock> {
        Ok(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// RFC 7541, C.3 and C.4: the same three requests, spelled out and compressed.
    #[test]
    fn requests_of_the_specification_are_read() {
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let compressed = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        for blocks in [plain, compressed] {
            let mut decoder = Decoder::default();
            let get = |scheme, path| [(":method", "GET"), (":scheme", scheme), (":path", path)];
            let host = (":authority", "www.example.com");
            let first = [&get("http", "/")[..], &[host]].concat();
            assert_eq!(read(&mut decoder, &hex(blocks[0])), told(&first));
            let second = [&first[..], &[("cache-control", "no-cache")]].concat();
            assert_eq!(read(&mut decoder, &hex(blocks[1])), told(&second));
            let third = [&get("https", "/index.html")[..], &[host, ("custom-key", "custom-value")]].concat();
            assert_eq!(read(&mut decoder, &hex(blocks[2])), told(&third));
            assert_eq!(decoder.bytes, 164);
        }
    }

    /// RFC 7541, C.5 and C.6: answers, to one with a table of 256 bytes, which have to push things out.
    #[test]
    fn answers_of_the_specification_are_read() {
        let plain = [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a
             2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
        ];
        let compressed = [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43
             d3",
            "4883640effc1c0bf",
        ];
        for blocks in [plain, compressed] {
            let mut decoder = Decoder { limit: 256, ..Decoder::default() };
            let rest = [
                ("cache-control", "private"),
                ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                ("location", "https://www.example.com"),
            ];
            let answer = |status| [&[(":status", status)][..], &rest].concat();
            assert_eq!(read(&mut decoder, &hex(blocks[0])), told(&answer("302")));
            assert_eq!(decoder.bytes, 222);
            assert_eq!(read(&mut decoder, &hex(blocks[1])), told(&answer("307")), "302 was pushed out");
            assert_eq!(decoder.bytes, 222);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let bad: [&[u8]; 9] = [
            &[0x80],                               // index 0
            &[0x80 | 62],                          // an empty table
            &[0xff],                               // a number without its end
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x01], // a number too large
            &[0x40, 0x05, b'x'],                   // a text that ends too early
            &[0x41],                               // no value
            &[0x41, 0x81, 0x00],                   // a text filled up with zeros
            &[0x3f, 0xe2, 0x1f],                   // a table of 4097 bytes
            &[0x82, 0x20],                         // a size behind a header
        ];
        for block in bad {
            assert_eq!(read(&mut Decoder::default(), block), Err(BadBlock), "{block:x?}");
        }
    }

    /// A table of no bytes holds nothing, and one entry too large empties it.
    #[test]
    fn entries_are_pushed_out() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40];
        write_text(b"name", &mut block);
        write_text(b"value", &mut block);
        read(&mut decoder, &block).unwrap();
        let before = decoder.generation();
        assert_eq!(read(&mut decoder, &[0x80 | 62]), told(&[("name", "value")]));
        assert_eq!(decoder.generation(), before);
        let mut huge = vec![0x40 | 62];
        write_text(&[b'y'; 4096], &mut huge);
        read(&mut decoder, &huge).unwrap();
        assert!(decoder.generation() > before);
        assert_eq!(read(&mut decoder, &[0x80 | 62]), Err(BadBlock));
        read(&mut decoder, &block).unwrap();
        assert_eq!(read(&mut decoder, &[0x20, 0x80 | 62]), Err(BadBlock), "the peer has emptied its table");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_decoder(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoder.read(&block, |_, _| {});
                prop_assert!(decoder.bytes <= TABLE_BYTES_MAX);
            }
        }

        #[test]
        fn what_is_written_is_read(headers: Vec<(Vec<u8>, Vec<u8>)>, status in 100u16..600) {
            let mut block = Vec::new();
            write_status(status, &mut block);
            for (name, value) in &headers {
                write_header(name, value, &mut block);
            }
            let mut read = Vec::new();
            Decoder::default().read(&block, |name, value| read.push((name.to_vec(), value.to_vec()))).unwrap();
            prop_assert_eq!(&read[0], &(b":status".to_vec(), status.to_string().into_bytes()));
            prop_assert_eq!(&read[1..], &headers[..]);
        }
    }
}
