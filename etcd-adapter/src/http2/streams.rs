//! The open streams of a connection, each in a slot of its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::Response;
use tonic::Status;
use tonic::body::Body;

use super::Answer;
use super::head::Head;
use super::inbox::Inbox;
use super::wakes::{SlotWake, Wakes};
use crate::answers::Held;

pub struct Stream<C> {
    pub id: u32,
    pub work: Work<C>,
    /// Where what the client sends goes, if a handler takes it piece by piece.
    pub inbox: Option<Inbox>,
    /// The client may still send.
    pub receiving: bool,
    /// What the client may send before it is told of more room.
    pub receive_window: i64,
    /// Taken of that, and not yet told.
    pub untold: usize,
    /// What the client takes before it must tell of more room. It may have shrunk below nothing.
    pub send_window: i64,
    /// What is to be sent next, and waits for room.
    pub pending: Bytes,
    /// What follows it, once that is known.
    pub last: Option<Last>,
    /// The memory of the answer.
    pub held: Option<Held>,
    /// Has a place among those that send.
    pub queued: bool,
    /// The answer is to have no body.
    pub bare: bool,
}

/// How far the call has come.
pub enum Work<C> {
    /// Its message is not yet whole.
    Gathering {
        head: Arc<Head<C>>,
        call: C,
        message: BytesMut,
    },
    Answering(BoxFuture<'static, Result<Answer, Status>>),
    Serving(BoxFuture<'static, Response<Body>>),
    /// The answer comes piece by piece.
    Streaming(Body),
    /// Everything that is to be sent lies in the stream.
    Sending,
}

/// How a stream ends.
pub enum Last {
    /// With the last of its data.
    Data,
    /// With a block of headers.
    Trailers(Vec<u8>),
}

struct Slot<C> {
    stream: Option<Stream<C>>,
    wake: Arc<SlotWake>,
    waker: Waker,
}

/// Slots are reused, and so are their wakers: a call costs none.
pub struct Streams<C> {
    slots: Vec<Slot<C>>,
    free: Vec<usize>,
    by_id: HashMap<u32, usize, BuildIds>,
    wakes: Arc<Wakes>,
}

impl<C> Streams<C> {
    pub fn new(wakes: Arc<Wakes>) -> Self {
        Streams { slots: Vec::new(), free: Vec::new(), by_id: HashMap::default(), wakes }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn insert(&mut self, stream: Stream<C>) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            let wake = SlotWake::new(&self.wakes, self.slots.len());
            let waker = Waker::from(wake.clone());
            self.slots.push(Slot { stream: None, wake, waker });
            self.slots.len() - 1
        });
        self.by_id.insert(stream.id, slot);
        self.slots[slot].stream = Some(stream);
        slot
    }

    /// Takes the stream out; dropping it cancels its call.
    pub fn remove(&mut self, slot: usize) -> Option<Stream<C>> {
        let stream = self.slots.get_mut(slot)?.stream.take()?;
        self.by_id.remove(&stream.id);
        self.free.push(slot);
        Some(stream)
    }

    pub fn find(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&mut self, slot: usize) -> Option<&mut Stream<C>> {
        self.slots.get_mut(slot)?.stream.as_mut()
    }

    /// The stream of a slot whose turn it is, and what wakes it.
    pub fn turn(&mut self, slot: usize) -> Option<(&mut Stream<C>, &Waker)> {
        let slot = self.slots.get_mut(slot)?;
        slot.wake.taken();
        Some((slot.stream.as_mut()?, &slot.waker))
    }

    pub fn waker(&self, slot: usize) -> Waker {
        self.slots[slot].waker.clone()
    }

    /// All of them, in the order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream<C>)> {
        self.slots.iter_mut().enumerate().filter_map(|(at, slot)| Some((at, slot.stream.as_mut()?)))
    }

    pub fn clear(&mut self) {
        self.by_id.clear();
        self.free.clear();
        self.slots.clear();
    }
}

/// Stream ids are numbers that rise: they need no hash worth the name.
#[derive(Debug, Clone, Copy, Default)]
struct BuildIds;

impl BuildHasher for BuildIds {
    type Hasher = Ids;
    fn build_hasher(&self) -> Ids {
        Ids(0)
    }
}

#[derive(Debug)]
struct Ids(u64);

impl Hasher for Ids {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0.rotate_left(8) ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        // The high half is the well mixed one, and tables look at the low one first.
        self.0.rotate_left(32)
    }
}
