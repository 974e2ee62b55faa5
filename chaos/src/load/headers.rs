//! Headers, as much of them as a load client needs: requests that shrink to a few bytes after the first
//! one, and of an answer only how the call ended.

use etcd_adapter::http2::hpack::{BadBlock, Decoder, STATIC, write_integer, write_text};

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
            let index = STATIC.len() + self.table.len() - at;
            return write_integer(0x80, 7, index, out);
        }
        write_integer(0x40, 6, name_index, out);
        if name_index == 0 {
            write_text(name.as_bytes(), out);
        }
        write_text(value.as_bytes(), out);
        self.table.push((name, value.to_owned()));
    }
}

/// How a call ended, as far as one block of headers says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    pub status: Option<u32>,
    pub message: Option<String>,
    /// An HTTP status other than 200.
    pub http: Option<u32>,
}

impl Ending {
    pub fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Ending, BadBlock> {
        let mut ending = Ending::default();
        let mut bad = false;
        let mut number = |value: &[u8]| {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            bad |= number.is_none();
            number
        };
        decoder.read(block, |name, value| match name {
            b"grpc-status" => ending.status = number(value),
            b"grpc-message" => ending.message = Some(String::from_utf8_lossy(value).into_owned()),
            b":status" if value != b"200" => ending.http = number(value),
            _ => {}
        })?;
        if bad { Err(BadBlock) } else { Ok(ending) }
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

    #[test]
    fn how_a_call_ended_is_read() {
        let mut decoder = Decoder::default();
        // "grpc-status" and "0", as Go's server writes them; then the same by its number.
        let block = [0x88, 0x40, 0x88, 0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f, 0x81, 0x07];
        let ended = Ending { status: Some(0), ..Ending::default() };
        assert_eq!(Ending::read(&mut decoder, &block), Ok(ended.clone()));
        assert_eq!(Ending::read(&mut decoder, &[0x80 | 62]), Ok(ended));
        let missing = Ending { http: Some(404), ..Ending::default() };
        assert_eq!(Ending::read(&mut decoder, &[0x8d]), Ok(missing));
        let mut bad = vec![0x40 | 62];
        write_text(b"no number", &mut bad);
        assert_eq!(Ending::read(&mut decoder, &bad), Err(BadBlock));
    }
}
