//! etcd's rules of Lease.

use std::time::Duration;

use proto::etcd::*;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::world::{World, bytes};

async fn grant(world: &mut World, id: i64, ttl: i64) -> LeaseGrantResponse {
    world.lease.lease_grant(LeaseGrantRequest { id, ttl }).await.unwrap().into_inner()
}

#[tokio::test]
async fn ls_1_grants_are_bounded_and_ids_unique() {
    let mut world = World::new().await;
    assert_eq!(grant(&mut world, 7, 0).await.ttl, 2, "the least TTL is derived from the election timeout");
    assert!(grant(&mut world, 0, 100).await.id > 0);
    assert_eq!(grant(&mut world, -5, 100).await.id, -5);
    let taken = world.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 9 }).await.unwrap_err();
    assert_eq!((taken.code(), taken.message()), (Code::FailedPrecondition, "etcdserver: lease already exists"));
    let long = world.lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 9_000_000_001 }).await.unwrap_err();
    assert_eq!((long.code(), long.message()), (Code::OutOfRange, "etcdserver: too large lease TTL"));
}

#[tokio::test]
async fn ls_3_an_unknown_lease_is_answered_zero_and_the_stream_goes_on() {
    let mut world = World::new().await;
    grant(&mut world, 7, 60).await;
    let (requests, stream) = tokio::sync::mpsc::channel(8);
    for id in [99, 7, 98] {
        requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
    }
    let mut answers = world.lease.lease_keep_alive(ReceiverStream::new(stream)).await.unwrap().into_inner();
    for expected in [(99, 0), (7, 60), (98, 0)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), expected);
    }
}

#[tokio::test]
async fn ls_5_what_is_left_of_a_lease_and_of_one_that_is_not_there() {
    let mut world = World::new().await;
    grant(&mut world, 7, 60).await;
    let put = PutRequest { key: bytes("leased"), lease: 7, ..Default::default() };
    world.kv.put(put).await.unwrap();
    let ask = |id, keys| LeaseTimeToLiveRequest { id, keys };
    let left = world.lease.lease_time_to_live(ask(7, true)).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![bytes("leased")]));
    assert!((58..=60).contains(&left.ttl), "{}", left.ttl);
    let none = world.lease.lease_time_to_live(ask(8, true)).await.unwrap().into_inner();
    assert_eq!((none.ttl, none.granted_ttl, none.id), (-1, 0, 8));
}

#[tokio::test]
async fn ls_7_8_keys_go_with_their_lease_in_one_revision_and_never_early() {
    let mut world = World::new().await;
    grant(&mut world, 7, 2).await;
    let mut watching = world.watch().await;
    watching.create(crate::world::from("l/", 0)).await;
    for key in ["l/b", "l/a"] {
        world.kv.put(PutRequest { key: bytes(key), lease: 7, ..Default::default() }).await.unwrap();
    }
    watching.events(2).await;
    let begun = Instant::now();
    let keep = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let once = tokio_stream::iter([LeaseKeepAliveRequest { id: 7 }]);
            let mut answers = world.lease.lease_keep_alive(once).await.unwrap().into_inner();
            assert_eq!(answers.message().await.unwrap().unwrap().ttl, 2);
        }
        Instant::now()
    };
    let renewed = keep.await;
    let deleted = watching.next().await;
    assert!(renewed.elapsed() > Duration::from_millis(1900), "it ended {:?} after a renewal", renewed.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8));
    let keys: Vec<_> = deleted.events.iter().map(|event| event.kv.clone().unwrap().key).collect();
    assert_eq!(keys, ["l/a", "l/b"]);
}
