//! A client that asks for progress without a pause.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use proto::etcd::watch_request::RequestUnion;
use proto::etcd::{WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::world::{World, from};

fn enveloped(union: RequestUnion) -> Vec<u8> {
    let message = WatchRequest { request_union: Some(union) }.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// What a stream answers, message by message.
struct Responses {
    stream: h2::RecvStream,
    read: BytesMut,
}

impl Responses {
    async fn next(&mut self) -> WatchResponse {
        loop {
            if let [_, length @ ..] = &self.read[..]
                && let Some(length) = length.first_chunk().map(|length| u32::from_be_bytes(*length) as usize)
                && self.read.len() >= 5 + length
            {
                self.read.advance(5);
                return WatchResponse::decode(self.read.split_to(length)).unwrap();
            }
            let more = timeout(Duration::from_secs(5), self.stream.data()).await.expect("more").unwrap().unwrap();
            self.stream.flow_control().release_capacity(more.len()).unwrap();
            self.read.extend_from_slice(&more);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w_15_events_arrive_while_requests_for_progress_never_end() {
    let mut world = World::new().await;
    let socket = TcpStream::connect(&world.adapter.addresses[0]).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://adapter/etcdserverpb.Watch/Watch");
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
    let (answer, mut send) = client.send_request(request, false).unwrap();
    send.send_data(enveloped(RequestUnion::CreateRequest(from("k", 0))).into(), false).unwrap();
    let mut responses = Responses { stream: answer.await.unwrap().into_body(), read: BytesMut::new() };
    assert!(responses.next().await.created);

    // As fast as there is room.
    let flood = Bytes::from(enveloped(RequestUnion::ProgressRequest(WatchProgressRequest {})).repeat(2000));
    tokio::spawn(async move {
        loop {
            let mut rest = flood.clone();
            while !rest.is_empty() {
                send.reserve_capacity(rest.len());
                let Some(Ok(room)) = poll_fn(|context| send.poll_capacity(context)).await else { return };
                send.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
            }
        }
    });
    let (mut covered, mut told, mut slowest) = (0, 0u64, Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let revision = world.put("k", "1").await;
        let written = Instant::now();
        loop {
            let response = responses.next().await;
            let header = response.header.unwrap().revision;
            assert!(header >= covered, "progress went back");
            match response.events.first() {
                None => {
                    assert_eq!(response.watch_id, -1);
                    (covered, told) = (header, told + 1);
                }
                Some(event) => {
                    let at = event.kv.as_ref().unwrap().mod_revision;
                    assert!(at > covered, "{at} came behind the progress to {covered}");
                    if at == revision {
                        break;
                    }
                }
            }
        }
        slowest = slowest.max(written.elapsed());
    }
    println!("{told} times progress, {slowest:?} for an event");
    assert!(told > 1000, "no flood: {told}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}
