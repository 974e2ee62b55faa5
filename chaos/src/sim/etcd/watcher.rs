//! Watchers: follow some keys from some revision on, from adapter to adapter, and write down what they
//! are told. Where a stream ends, the next one goes on, most often elsewhere.

use std::time::Duration;

use bytes::Bytes;
use proto::etcd::watch_client::WatchClient;
use proto::etcd::watch_request::RequestUnion;
use proto::etcd::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use proto::mvccpb::event::EventType;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::client::Way;
use super::ledger::{Ledger, Note, Watched};

pub struct Watcher {
    pub name: String,
    pub ways: Vec<Way>,
    pub rng: StdRng,
    pub ledger: Ledger,
    pub key: Bytes,
    pub range_end: Bytes,
    /// From where on, at first; 0: from now.
    pub from: i64,
}

/// A stream that says nothing for so long is left: progress comes more often.
const QUIET: Duration = Duration::from_secs(5);

impl Watcher {
    /// Watches until it was told of everything up to the goal. Answers how far it came.
    pub async fn follow(mut self, goal: watch::Receiver<Option<i64>>) -> i64 {
        let mut watched = Watched {
            name: self.name.clone(),
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            notes: Vec::new(),
        };
        let mut next = self.from;
        let done = |next: i64| goal.borrow().is_some_and(|goal| next > goal);
        while !done(next) {
            let way = self.ways[self.rng.random_range(0..self.ways.len())].clone();
            self.one_stream(way, &mut next, &mut watched, &done).await;
            sleep(Duration::from_millis(self.rng.random_range(1..200))).await;
        }
        self.ledger.watched(watched);
        next
    }

    async fn one_stream(&mut self, way: Way, next: &mut i64, watched: &mut Watched, done: &impl Fn(i64) -> bool) {
        let (say, requests) = mpsc::channel(4);
        let create = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: *next,
            progress_notify: self.rng.random_bool(0.7),
            fragment: self.rng.random_bool(0.3),
            ..Default::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let _ = say.try_send(create);
        let mut client = WatchClient::new(way.channel.clone());
        let opened = client.watch(ReceiverStream::new(requests));
        let Ok(Ok(stream)) = timeout(QUIET, opened).await else { return };
        let mut stream = stream.into_inner();
        watched.notes.push(Note::Began(*next));
        // It leaves by itself, now and then, without a reason.
        let mut left = self.rng.random_range(5..200);
        let mut part: Vec<_> = Vec::new();
        while left > 0 && !done(*next) {
            left -= 1;
            if self.rng.random_range(0..8) == 0 {
                let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                let _ = say.try_send(WatchRequest { request_union: Some(ask) });
            }
            let Ok(Ok(Some(response))) = timeout(QUIET, stream.message()).await else { return };
            if !self.note(response, next, &mut part, watched) {
                return;
            }
        }
    }

    /// Writes down a response. Whether the stream goes on.
    fn note(
        &self,
        response: WatchResponse,
        next: &mut i64,
        part: &mut Vec<(bool, proto::mvccpb::KeyValue)>,
        watched: &mut Watched,
    ) -> bool {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            watched.notes.push(Note::Created(revision));
            if *next == 0 {
                *next = revision + 1;
            }
            return !response.canceled;
        }
        if response.canceled {
            if response.compact_revision > 0 {
                watched.notes.push(Note::Compacted(response.compact_revision));
                *next = response.compact_revision;
            } else {
                self.ledger.broken(format!("{}: a watch was ended: {}", self.name, response.cancel_reason));
            }
            return false;
        }
        if response.events.is_empty() && !response.fragment && part.is_empty() {
            watched.notes.push(Note::Progress(revision));
            *next = (*next).max(revision + 1);
            return true;
        }
        for event in response.events {
            let gone = event.r#type() == EventType::Delete;
            part.push((gone, event.kv.unwrap_or_default()));
        }
        // What is said in part only may be said anew.
        if !response.fragment {
            if let Some((_, last)) = part.last() {
                *next = last.mod_revision + 1;
            }
            watched.notes.push(Note::Events(std::mem::take(part)));
        }
        true
    }
}
