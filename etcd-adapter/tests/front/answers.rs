//! The memory of answers: clients that ask for much and do not read.

use std::time::Duration;

use etcd_adapter::config::Config;
use h2::client::SendRequest;
use prost::Message;
use proto::etcd::{RangeRequest, RangeResponse};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::world::{World, bytes, config};

const MIB: usize = 1 << 20;
/// What everything under `big/` comes to.
const BIG: usize = 8 * MIB;

async fn world(answer_bytes: usize) -> World {
    let mut world = World::of(Config { answer_bytes, ..config(&[], "http://127.0.0.1:0") }).await;
    for number in 0..BIG / MIB {
        world.put(&format!("big/{number}"), &"x".repeat(MIB)).await;
    }
    world.put("small", "1").await;
    world
}

fn everything() -> RangeRequest {
    RangeRequest { key: bytes("big/"), range_end: bytes("big0"), ..Default::default() }
}

async fn gauge(world: &World, name: &str) -> usize {
    let page = crate::transport::ask_http1(&world.adapter.addresses[0], "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What keeps a call open that nobody reads the answer of.
type Unread = Box<dyn std::any::Any + Send>;

/// Asks for everything. `deaf`: not even the socket is read; else the client only gives no room.
async fn ask_and_do_not_read(address: &str, deaf: bool) -> Unread {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    if deaf {
        builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    }
    let (mut client, mut connection): (SendRequest<bytes::Bytes>, _) = builder.handshake(socket).await.unwrap();
    let request = http::Request::post("http://adapter/etcdserverpb.KV/Range");
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
    let (answer, mut send) = client.send_request(request, false).unwrap();
    let message = everything().encode_to_vec();
    let envelope = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    send.send_data(envelope.into(), true).unwrap();
    if !deaf {
        let reading = tokio::spawn(connection);
        return Box::new((client, answer, send, reading));
    }
    // Long enough to say it.
    let _ = timeout(Duration::from_millis(20), &mut connection).await;
    Box::new((client, answer, send, connection))
}

#[tokio::test]
async fn clients_that_do_not_read_take_no_more_than_the_budget_and_not_for_ever() {
    const BUDGET: usize = 64 * MIB;
    let mut world = world(BUDGET).await;
    let address = world.adapter.addresses[0].clone();
    let mut unread = Vec::new();
    for number in 0..7 {
        unread.push(ask_and_do_not_read(&address, number % 2 == 0).await);
    }
    while gauge(&world, "adapter_answers_waiting").await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    let mut kv = world.kv.clone();
    let reader = tokio::spawn(async move { kv.range(everything()).await.map(tonic::Response::into_inner) });
    let (mut most, mut slowest) = (0, Duration::ZERO);
    while !reader.is_finished() {
        most = most.max(gauge(&world, "adapter_answer_bytes").await);
        let asked = Instant::now();
        let small = world.range(RangeRequest { key: bytes("small"), ..Default::default() }).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        assert_eq!(small.count, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{most} bytes at most, {slowest:?} for a small get, {:?} for the reader", began.elapsed());
    assert!((2 * BIG..=BUDGET).contains(&most), "{most}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // Behind those who read nothing, and before any request would be too old.
    assert_eq!(reader.await.unwrap().unwrap().kvs.len(), BIG / MIB);
    assert!(gauge(&world, "adapter_answers_lost_total").await > 0);
    drop(unread);
    while gauge(&world, "adapter_answer_bytes").await > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "it is never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_answer_larger_than_the_budget_goes_out_alone() {
    let world = world(MIB).await;
    let ask = |piecewise: bool| {
        let mut kv = world.kv.clone();
        async move {
            if !piecewise {
                return kv.range(everything()).await.map(|answer| answer.into_inner().encoded_len());
            }
            let mut pieces = kv.range_stream(everything()).await?.into_inner();
            let mut all = RangeResponse::default();
            while let Some(piece) = pieces.message().await? {
                all.kvs.extend(piece.range_response.unwrap_or_default().kvs);
            }
            Ok::<_, tonic::Status>(all.encoded_len())
        }
    };
    let answers = futures::future::join_all([false, true, false, true].map(ask)).await;
    for answer in answers {
        assert!(answer.unwrap() > BIG);
    }
    assert_eq!(gauge(&world, "adapter_answer_bytes").await, 0);
}
