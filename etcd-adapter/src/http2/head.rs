//! The headers of requests: their rules, what call they begin, and a memory for blocks that come again.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request};

use super::Answers;
use super::frame::Reason;
use super::hpack::{BadBlock, Decoder};

/// What all headers of one request may count together, as the protocol counts.
pub const LIST_BYTES_MAX: usize = 64 << 10;
/// Blocks that are remembered, of which a client has a few, and how long they may be.
const REMEMBERED_MAX: usize = 8;
const REMEMBERED_BYTES_MAX: usize = 1 << 10;

/// The headers of one request, in the order in which they came.
#[derive(Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    /// Where each name ends in `text`, and where its value.
    ends: Vec<(usize, usize)>,
    counted: usize,
}

impl Fields {
    fn push(&mut self, name: &[u8], value: &[u8]) {
        self.counted += name.len() + value.len() + 32;
        if self.is_too_long() {
            return;
        }
        self.text.extend_from_slice(name);
        let name_end = self.text.len();
        self.text.extend_from_slice(value);
        self.ends.push((name_end, self.text.len()));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut begin = 0;
        self.ends.iter().map(move |&(name_end, end)| {
            let field = (&self.text[begin..name_end], &self.text[name_end..end]);
            begin = end;
            field
        })
    }

    fn is_too_long(&self) -> bool {
        self.counted > LIST_BYTES_MAX
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The rules for requests of RFC 9113, 8.2 and 8.3.
    fn are_well_formed(&self) -> bool {
        let (mut method, mut path, mut scheme, mut authority) = (0, 0, 0, 0);
        let mut regular = false;
        for (name, value) in self.iter() {
            let seen = match name {
                b":method" => &mut method,
                b":path" => &mut path,
                b":scheme" => &mut scheme,
                b":authority" => &mut authority,
                [] | [b':', ..] => return false,
                _ => {
                    regular = true;
                    let of_connections = matches!(
                        name,
                        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
                    );
                    if of_connections || (name == b"te" && value != b"trailers") {
                        return false;
                    }
                    if name.iter().any(u8::is_ascii_uppercase) {
                        return false;
                    }
                    continue;
                }
            };
            *seen += 1;
            if regular {
                return false;
            }
        }
        (method, path, scheme) == (1, 1, 1) && authority <= 1
    }

    /// The request for those who know no frames. Nothing: it has a name or a value that no request may have.
    pub fn request(&self) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(self.get(b":method")?).ok()?;
        *request.uri_mut() = self.get(b":path")?.try_into().ok()?;
        *request.version_mut() = http::Version::HTTP_2;
        for (name, value) in self.iter().filter(|(name, _)| !name.starts_with(b":")) {
            request.headers_mut().append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(request)
    }
}

/// What a block of headers begins.
pub enum Head<C> {
    Request {
        fields: Fields,
        /// The call, if it is one that is answered whole.
        unary: Option<C>,
    },
    /// More than [`LIST_BYTES_MAX`].
    TooLong,
    Malformed(Reason),
}

/// Reads blocks of headers. One that came before, and means the same since nothing was said in between
/// that changes it, is not read again: most calls are like the one before.
pub struct Heads<C> {
    decoder: Decoder,
    remembered: Vec<Remembered<C>>,
    next: usize,
}

struct Remembered<C> {
    generation: u64,
    block: Box<[u8]>,
    head: Arc<Head<C>>,
}

impl<C> Default for Heads<C> {
    fn default() -> Self {
        Heads { decoder: Decoder::default(), remembered: Vec::new(), next: 0 }
    }
}

impl<C: Copy> Heads<C> {
    pub fn read(&mut self, block: &[u8], answers: &impl Answers<Call = C>) -> Result<Arc<Head<C>>, BadBlock> {
        let generation = self.decoder.generation();
        let known = |known: &&Remembered<C>| known.generation == generation && *known.block == *block;
        if let Some(known) = self.remembered.iter().find(known) {
            return Ok(known.head.clone());
        }
        let mut fields = Fields::default();
        self.decoder.read(block, |name, value| fields.push(name, value))?;
        let head = Arc::new(match () {
            () if fields.is_too_long() => Head::TooLong,
            () if !fields.are_well_formed() => Head::Malformed(Reason::Protocol),
            () => Head::Request { unary: answers.unary(&fields), fields },
        });
        if self.decoder.generation() == generation && block.len() <= REMEMBERED_BYTES_MAX {
            let entry = Remembered { generation, block: block.into(), head: head.clone() };
            match self.remembered.get_mut(self.next) {
                Some(oldest) => *oldest = entry,
                None => self.remembered.push(entry),
            }
            self.next = (self.next + 1) % REMEMBERED_MAX;
        }
        Ok(head)
    }

    /// Reads a block for what it does to the table, and nothing else.
    pub fn skip(&mut self, block: &[u8]) -> Result<(), BadBlock> {
        self.decoder.read(block, |_, _| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }

    const POST: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b?c=d")];

    #[test]
    fn a_request_is_made_of_its_headers() {
        let fields = fields(&[&POST[..], &[("te", "trailers"), ("x", "1"), ("x", "2")]].concat());
        assert!(fields.are_well_formed());
        let request = fields.request().unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/a/b"));
        assert_eq!(request.uri().query(), Some("c=d"));
        assert_eq!(request.headers().get_all("x").iter().count(), 2);
    }

    #[test]
    fn requests_that_break_the_rules_are_malformed() {
        let after: [(&str, &str); 8] = [
            (":path", "/twice"),
            (":status", "200"),
            (":unknown", ""),
            ("connection", "close"),
            ("te", "gzip"),
            ("Upper", "x"),
            ("", "x"),
            ("transfer-encoding", "chunked"),
        ];
        for one in after {
            assert!(!fields(&[&POST[..], &[one]].concat()).are_well_formed(), "{one:?}");
        }
        assert!(!fields(&POST[..2]).are_well_formed(), "no path");
        assert!(!fields(&[&[("x", "1")], &POST[..]].concat()).are_well_formed(), "the path comes late");
        assert!(fields(&[&POST[..], &[("x", "\n")]].concat()).request().is_none());
        assert!(fields(&[POST[0], POST[1], (":path", "no path")]).request().is_none());
    }
}
