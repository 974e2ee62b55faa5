//! One change, as watchers are told of it: its bytes are made once, whoever and how many want it.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use proto::etcd::WatchResponse;
use proto::mvccpb;

use crate::mvcc::Row;

/// The number of `events` in a watch response.
const EVENTS: u32 = 11;

/// A row, and the version that it replaced.
pub struct Event {
    pub row: Row,
    bare: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

impl Event {
    pub fn new(row: Row) -> Arc<Event> {
        Arc::new(Event { row, bare: OnceLock::new(), with_prev: OnceLock::new() })
    }

    /// About what it takes in memory and on the wire.
    pub fn size(&self) -> usize {
        self.row.key.len() + self.row.value.len() + 96
    }

    /// The event as a field of a watch response, without the version before.
    pub fn bare(&self) -> Bytes {
        self.bare.get_or_init(|| encode(&self.row, None)).clone()
    }

    /// The same, with the version before, which `find` looks up once.
    pub fn with_prev<E>(&self, find: impl FnOnce(&Row) -> Result<Option<Row>, E>) -> Result<Bytes, E> {
        if let Some(bytes) = self.with_prev.get() {
            return Ok(bytes.clone());
        }
        let prev = find(&self.row)?;
        Ok(self.with_prev.get_or_init(|| encode(&self.row, prev.as_ref())).clone())
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.row.fmt(f)
    }
}

/// A version as etcd's clients see it.
pub fn key_value(row: &Row) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(&row.key),
        create_revision: row.create,
        mod_revision: row.at.main,
        version: row.version,
        value: row.value.clone(),
        lease: row.lease,
    }
}

fn encode(row: &Row, prev: Option<&Row>) -> Bytes {
    let (kind, kv) = match row.is_tombstone() {
        true => {
            let key = Bytes::copy_from_slice(&row.key);
            let gone = mvccpb::KeyValue { key, mod_revision: row.at.main, ..Default::default() };
            (mvccpb::event::EventType::Delete, gone)
        }
        false => (mvccpb::event::EventType::Put, key_value(row)),
    };
    let event = mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: prev.map(key_value) };
    let len = event.encoded_len();
    let mut bytes = BytesMut::with_capacity(len + 12);
    encode_key(EVENTS, WireType::LengthDelimited, &mut bytes);
    encode_varint(len as u64, &mut bytes);
    event.encode_raw(&mut bytes);
    bytes.freeze()
}

/// A watch response whose events are written already.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// Everything but the events.
    pub head: WatchResponse,
    pub events: Vec<Bytes>,
}

impl Message for Frame {
    fn encode_raw(&self, out: &mut impl bytes::BufMut) {
        self.head.encode_raw(out);
        self.events.iter().for_each(|event| out.put_slice(event));
    }

    fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        self.head.merge_field(tag, wire_type, buffer, context)
    }

    fn clear(&mut self) {
        *self = Frame::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::At;

    fn row(main: i64, value: &'static str, version: i64) -> Row {
        let at = At { main, sub: 0 };
        Row { at, key: b"key"[..].into(), value: Bytes::from(value), create: 2, version, lease: 0 }
    }

    fn decode(events: Vec<Bytes>) -> WatchResponse {
        let frame = Frame { head: WatchResponse { watch_id: 5, ..Default::default() }, events };
        let bytes = frame.encode_to_vec();
        assert_eq!(bytes.len(), frame.encoded_len());
        WatchResponse::decode(&bytes[..]).unwrap()
    }

    #[test]
    fn what_is_written_once_reads_as_etcd_would_have_written_it() {
        let event = Event::new(row(3, "new", 2));
        let with_prev = event.with_prev(|_| Ok::<_, ()>(Some(row(2, "old", 1)))).unwrap();
        let response = decode(vec![event.bare(), with_prev]);
        assert_eq!(response.watch_id, 5);
        let kv = Some(key_value(&row(3, "new", 2)));
        let put = mvccpb::event::EventType::Put.into();
        assert_eq!(response.events[0], mvccpb::Event { r#type: put, kv: kv.clone(), prev_kv: None });
        let prev_kv = Some(key_value(&row(2, "old", 1)));
        assert_eq!(response.events[1], mvccpb::Event { r#type: put, kv, prev_kv });
    }

    #[test]
    fn a_deletion_says_its_key_and_revision_only() {
        let gone = Row { create: 0, ..row(4, "", 0) };
        let response = decode(vec![Event::new(gone).bare()]);
        let kv = response.events[0].kv.clone().unwrap();
        assert_eq!((kv.mod_revision, kv.create_revision, kv.version), (4, 0, 0));
        assert_eq!(response.events[0].r#type, i32::from(mvccpb::event::EventType::Delete));
    }
}
