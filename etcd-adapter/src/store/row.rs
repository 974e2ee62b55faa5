//! The bytes of a row of `log`.
//!
//! ```text
//! key   = main:8, sub:4                      big-endian, so that the order of bytes is that of places
//! value = kind:1, key, [create, version, lease, value to the end]     kind 1: a version, 2: a tombstone
//! ```

use crate::command::wire::{Malformed, Reader, put_bytes, put_int, put_uint};
use crate::mvcc::{At, Row, RowRef};

pub(super) const PLACE_LEN: usize = 12;

const VERSION: u8 = 1;
const TOMBSTONE: u8 = 2;

pub(super) fn put_place(at: At) -> [u8; PLACE_LEN] {
    let mut place = [0; PLACE_LEN];
    place[..8].copy_from_slice(&at.main.to_be_bytes());
    place[8..].copy_from_slice(&at.sub.to_be_bytes());
    place
}

pub(super) fn read_place(place: &[u8]) -> Result<At, Malformed> {
    let (main, sub) = place.split_first_chunk::<8>().ok_or(Malformed::Short)?;
    let sub = sub.try_into().map_err(|_| Malformed::Number)?;
    Ok(At { main: i64::from_be_bytes(*main), sub: u32::from_be_bytes(sub) })
}

/// Where bytes that are no place lie among those that are: at this one, or just behind it.
pub(super) fn nearest_place(bytes: &[u8]) -> At {
    let mut place = [0; PLACE_LEN];
    let known = bytes.len().min(PLACE_LEN);
    place[..known].copy_from_slice(&bytes[..known]);
    read_place(&place).unwrap_or_default()
}

/// Writes the value of a row into a buffer that is used again and again.
pub(super) fn put_row(out: &mut Vec<u8>, row: &Row) {
    out.clear();
    if row.is_tombstone() {
        out.push(TOMBSTONE);
        put_bytes(out, &row.key);
        return;
    }
    out.push(VERSION);
    put_bytes(out, &row.key);
    put_int(out, row.create);
    put_uint(out, row.version as u64);
    put_int(out, row.lease);
    out.extend_from_slice(&row.value);
}

pub(super) fn read_row(bytes: &[u8]) -> Result<RowRef<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let kind = reader.byte()?;
    let key = reader.slice()?;
    match kind {
        TOMBSTONE => {
            reader.end()?;
            Ok(RowRef { key, value: &[], create: 0, version: 0, lease: 0 })
        }
        VERSION => {
            let create = reader.int()?;
            let version = i64::try_from(reader.uint()?).map_err(|_| Malformed::Number)?;
            if version == 0 {
                return Err(Malformed::Number);
            }
            let lease = reader.int()?;
            Ok(RowRef { key, value: reader.rest(), create, version, lease })
        }
        _ => Err(Malformed::Unknown("row")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Key;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was_written(
            main in 0..i64::MAX, sub: u32, key in proptest::collection::vec(any::<u8>(), 0..300),
            value: Vec<u8>, create: i64, version in 0..i64::MAX, lease: i64,
        ) {
            let at = At { main, sub };
            let mut row = Row { at, key: Key::from(key), value: value.into(), create, version, lease };
            if version == 0 {
                row = Row { value: Bytes::new(), create: 0, lease: 0, ..row };
            }
            let mut bytes = vec![7; 3];
            put_row(&mut bytes, &row);
            prop_assert_eq!(read_place(&put_place(at)), Ok(at));
            prop_assert_eq!(read_row(&bytes).map(|read| read.to_row(at)), Ok(row));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read_row(&bytes);
        }
    }

    #[test]
    fn what_is_no_place_lies_where_its_bytes_do() {
        let whole = put_place(At { main: 7, sub: 9 });
        assert_eq!(read_place(&whole[..10]), Err(Malformed::Number));
        assert_eq!(nearest_place(&whole[..10]), At { main: 7, sub: 0 });
        assert_eq!(nearest_place(&[&whole[..], b"more"].concat()), At { main: 7, sub: 9 });
        assert_eq!(nearest_place(b""), At::default());
    }

    #[test]
    fn the_order_of_bytes_is_that_of_places() {
        let places = [(0, 0), (1, 7), (1, 300), (255, 0), (256, 0), (1 << 40, 1)];
        let bytes: Vec<_> = places.iter().map(|(main, sub)| put_place(At { main: *main, sub: *sub })).collect();
        assert!(bytes.is_sorted());
    }
}
