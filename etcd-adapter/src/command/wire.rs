//! The small vocabulary that entries, rows and meta records are written in: variable-length integers
//! and length-prefixed bytes.
//!
//! A reader takes from a slice of known length and never trusts a length in it: it fails instead of
//! panicking, and never reserves more than is left to read.

use bytes::{Buf, BufMut, Bytes};

/// Why bytes could not be read. They hold something that we never write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends too early")]
    Short,
    #[error("a number is longer than it may be")]
    Number,
    #[error("a text is not UTF-8")]
    Text,
    #[error("an unknown {0}")]
    Unknown(&'static str),
    #[error("it is nested too deeply")]
    Deep,
    #[error("{0} bytes are left over")]
    Rest(usize),
}

pub fn put_uint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// Signed numbers are zig-zagged, so that small negative ones stay short.
pub fn put_int(out: &mut Vec<u8>, n: i64) {
    put_uint(out, ((n << 1) ^ (n >> 63)) as u64);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    put_uint(out, texts.len() as u64);
    for text in texts {
        put_bytes(out, text.as_bytes());
    }
}

/// Reads what the functions above wrote. Byte strings are parts of the one buffer, not copies.
pub struct Reader<B = Bytes> {
    rest: B,
}

impl<B: Buf> Reader<B> {
    pub fn new(bytes: B) -> Reader<B> {
        Reader { rest: bytes }
    }

    pub fn left(&self) -> usize {
        self.rest.remaining()
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.rest.try_get_u8().map_err(|_| Malformed::Short)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Unknown("flag")),
        }
    }

    pub fn uint(&mut self) -> Result<u64, Malformed> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Number);
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                // One number, one spelling: what is decoded encodes to the same bytes.
                return if byte == 0 && shift > 0 { Err(Malformed::Number) } else { Ok(n) };
            }
        }
        Err(Malformed::Number)
    }

    pub fn int(&mut self) -> Result<i64, Malformed> {
        let n = self.uint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.uint()?).map_err(|_| Malformed::Number)
    }

    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.rest.try_get_u128().map_err(|_| Malformed::Short)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        let length = self.uint()?;
        usize::try_from(length).ok().filter(|length| *length <= self.left()).ok_or(Malformed::Short)
    }

    /// A count of things of which each takes at least one byte.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        self.length()
    }

    pub fn end(self) -> Result<(), Malformed> {
        match self.left() {
            0 => Ok(()),
            left => Err(Malformed::Rest(left)),
        }
    }
}

impl Reader {
    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.length()?;
        Ok(self.rest.split_to(length))
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed::Text)
    }

    pub fn texts(&mut self) -> Result<Vec<String>, Malformed> {
        (0..self.count()?).map(|_| self.text()).collect()
    }
}

#[cfg(any(feature = "rocksdb", test))]
impl<'a> Reader<&'a [u8]> {
    pub fn slice(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length()?;
        let (slice, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(slice)
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back_as_they_were_written(unsigned: u64, signed: i64) {
            let mut out = Vec::new();
            put_uint(&mut out, unsigned);
            put_int(&mut out, signed);
            let mut reader = Reader::new(&out[..]);
            prop_assert_eq!(reader.uint(), Ok(unsigned));
            prop_assert_eq!(reader.int(), Ok(signed));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(Reader::new(Bytes::from_static(&[0x80, 0x00])).uint(), Err(Malformed::Number));
        assert_eq!(Reader::new(Bytes::from_static(&[0xff; 11])).uint(), Err(Malformed::Number));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused_before_anything_is_reserved() {
        let mut out = Vec::new();
        put_uint(&mut out, u64::MAX);
        assert_eq!(Reader::new(Bytes::from(out.clone())).bytes(), Err(Malformed::Short));
        assert_eq!(Reader::new(Bytes::from(out)).texts(), Err(Malformed::Short));
    }
}
