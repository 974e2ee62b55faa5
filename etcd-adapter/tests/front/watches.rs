//! etcd's rules of Watch.

use proto::etcd::watch_create_request::FilterType;
use proto::etcd::*;
use proto::mvccpb::event::EventType;

use crate::world::{World, bytes, from, told};

#[tokio::test]
async fn w_1_an_empty_range_makes_a_watcher_that_ended_at_once() {
    let world = World::new().await;
    let mut watching = world.watch().await;
    let request = WatchCreateRequest { key: bytes("b"), range_end: bytes("a"), ..Default::default() };
    let response = watching.create(request).await;
    assert!(response.canceled);
    assert_eq!((response.watch_id, response.cancel_reason.as_str()), (-1, "mvcc: watcher range is empty"));
}

#[tokio::test]
async fn w_2_ids_are_chosen_from_zero_and_a_taken_one_is_refused() {
    let world = World::new().await;
    let mut watching = world.watch().await;
    assert_eq!(watching.create(from("a", 0)).await.watch_id, 0);
    assert_eq!(watching.create(WatchCreateRequest { watch_id: 1, ..from("b", 0) }).await.watch_id, 1);
    assert_eq!(watching.create(from("c", 0)).await.watch_id, 2, "1 is taken");
    let refused = watching.create(WatchCreateRequest { watch_id: 1, ..from("d", 0) }).await;
    assert_eq!((refused.watch_id, refused.canceled), (-1, true));
    assert_eq!(refused.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    watching.cancel(1).await;
    assert!(watching.next().await.canceled);
    let again = watching.create(WatchCreateRequest { watch_id: 1, ..from("e", 0) }).await;
    assert_eq!((again.watch_id, again.canceled), (1, false), "an id may return");
}

#[tokio::test]
async fn w_3_a_negative_start_is_compacted() {
    let world = World::new().await;
    let mut watching = world.watch().await;
    let response = watching.create(from("a", -1)).await;
    assert_eq!((response.watch_id, response.canceled), (-1, true));
    assert_eq!(response.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn w_5_6_created_comes_first_with_the_revision_and_then_what_comes_next() {
    let mut world = World::new().await;
    let before = world.put("a", "0").await;
    let mut watching = world.watch().await;
    let created = watching.create(from("a", 0)).await;
    assert_eq!(created.header.unwrap().revision, before);
    let revision = world.put("a", "1").await;
    let response = watching.next().await;
    assert_eq!(response.header.unwrap().revision, revision);
    assert_eq!(response.events.iter().map(told).collect::<Vec<_>>(), [("a".into(), "1".into(), revision)]);
}

#[tokio::test]
async fn w_7_a_start_below_the_compaction_is_created_and_then_ended() {
    let mut world = World::new().await;
    world.put("a", "1").await;
    world.put("a", "2").await;
    let gone = world.delete("a").await;
    world.put("b", "1").await;
    world.compact(gone).await;
    let mut watching = world.watch().await;
    let created = watching.create(from("a", gone - 1)).await;
    assert!(!created.canceled);
    let ended = watching.next().await;
    assert!(ended.canceled && ended.events.is_empty() && ended.cancel_reason.is_empty());
    assert_eq!((ended.compact_revision, ended.header.unwrap().revision), (gone, 0));
    // At the compaction itself there is still the deletion.
    watching.create(from("a", gone)).await;
    let response = watching.next().await;
    assert_eq!(response.events[0].r#type(), EventType::Delete);
    assert_eq!(told(&response.events[0]), ("a".into(), String::new(), gone));
}

#[tokio::test]
async fn w_8_a_start_in_the_future_waits_and_hears_nothing_older_and_no_progress() {
    let mut world = World::with(&["--watch-progress-notify-interval=100ms"]).await;
    let now = world.put("a", "1").await;
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { progress_notify: true, ..from("a", now + 3) }).await;
    world.put("a", "2").await;
    watching.ask_progress().await;
    world.put("a", "3").await;
    assert!(watching.is_silent().await);
    let revision = world.put("a", "4").await;
    assert_eq!(watching.events(1).await, [("a".into(), "4".into(), revision)]);
}

#[tokio::test]
async fn w_9_10_one_revision_comes_in_one_response_in_the_order_of_its_changes() {
    let mut world = World::new().await;
    for key in ["k/a", "k/b", "k/c"] {
        world.put(key, "1").await;
    }
    let mut watching = world.watch().await;
    watching.create(from("k/", 0)).await;
    let request = DeleteRangeRequest { key: bytes("k/"), range_end: bytes("k0"), ..Default::default() };
    let revision = world.kv.delete_range(request).await.unwrap().into_inner().header.unwrap().revision;
    let response = watching.next().await;
    let deleted: Vec<_> = response.events.iter().map(told).collect();
    let gone = |key: &str| (key.to_owned(), String::new(), revision);
    assert_eq!(deleted, [gone("k/a"), gone("k/b"), gone("k/c")]);
    let kv = response.events[0].kv.clone().unwrap();
    assert_eq!((kv.create_revision, kv.version, kv.lease), (0, 0, 0), "a deletion says its key and revision only");
}

#[tokio::test]
async fn w_11_the_version_before_comes_along_if_it_is_asked_for() {
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { prev_kv: true, ..from("a", 0) }).await;
    world.put("a", "1").await;
    let second = world.put("a", "2").await;
    world.delete("a").await;
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.next().await.events);
    }
    assert_eq!(events[0].prev_kv, None);
    assert_eq!(events[1].prev_kv.clone().unwrap().value, "1");
    let before_deletion = events[2].prev_kv.clone().unwrap();
    assert_eq!((before_deletion.value, before_deletion.mod_revision), (bytes("2"), second));
    // The same of the past.
    let mut past = world.watch().await;
    past.create(WatchCreateRequest { prev_kv: true, ..from("a", second) }).await;
    assert_eq!(past.next().await.events[0].prev_kv.clone().unwrap().value, "1");
}

#[tokio::test]
async fn w_11_a_key_that_one_revision_deletes_and_creates_has_no_version_before() {
    use proto::etcd::request_op::Request::{RequestDeleteRange, RequestPut};
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { prev_kv: true, ..from("a", 0) }).await;
    let first = world.put("a", "1").await;
    // etcd takes this range, which holds every key, for one that no put can lie in.
    let all = DeleteRangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() };
    let put = PutRequest { key: bytes("a"), value: bytes("2"), ..Default::default() };
    let success = [RequestDeleteRange(all), RequestPut(put)].map(|request| RequestOp { request: Some(request) });
    world.kv.txn(TxnRequest { success: success.to_vec(), ..Default::default() }).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watching.next().await.events);
    }
    assert_eq!(events[1].prev_kv.clone().unwrap().mod_revision, first, "what was deleted is told");
    assert_eq!((events[2].kv.clone().unwrap().version, events[2].prev_kv.clone()), (1, None));
}

#[tokio::test]
async fn w_12_filters_drop_events_and_what_is_left_empty_is_not_sent() {
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    let filters = vec![FilterType::Noput.into()];
    watching.create(WatchCreateRequest { filters, ..from("a", 0) }).await;
    world.put("a", "1").await;
    assert!(watching.is_silent().await);
    let revision = world.delete("a").await;
    assert_eq!(watching.events(1).await, [("a".into(), String::new(), revision)]);
}

#[tokio::test]
async fn w_13_large_responses_are_fragmented_if_it_is_asked_for() {
    let mut world = World::with(&["--max-request-bytes=600000"]).await;
    let begun = world.put("big/0", &"x".repeat(500_000)).await;
    for number in 1..6 {
        world.put(&format!("big/{number}"), &"x".repeat(500_000)).await;
    }
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { fragment: true, ..from("big/", begun) }).await;
    let mut shape = Vec::new();
    while shape.iter().map(|(events, _)| events).sum::<usize>() < 6 {
        let response = watching.next().await;
        shape.push((response.events.len(), response.fragment));
    }
    assert_eq!(shape, [(2, true), (2, true), (2, false)]);
}

#[tokio::test]
async fn w_14_quiet_watchers_that_asked_for_progress_are_told() {
    let mut world = World::with(&["--watch-progress-notify-interval=200ms"]).await;
    let mut watching = world.watch().await;
    watching.create(WatchCreateRequest { progress_notify: true, ..from("a", 0) }).await;
    let revision = world.put("elsewhere", "1").await;
    let progress = watching.next().await;
    assert!(progress.events.is_empty() && !progress.created && !progress.canceled);
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (0, revision));
}

#[tokio::test]
async fn w_15_progress_of_a_stream_comes_behind_every_event_that_it_covers() {
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    watching.ask_progress().await;
    assert!(watching.is_silent().await, "a stream without watchers has no progress");
    watching.create(from("a", 0)).await;
    let mut covered = 0;
    let mut seen = 0;
    for number in 0..200 {
        world.put("a", &number.to_string()).await;
        watching.ask_progress().await;
    }
    while seen < 200 {
        let response = watching.next().await;
        let revision = response.header.unwrap().revision;
        assert!(revision >= covered, "progress went back");
        match response.watch_id {
            -1 => covered = revision,
            _ => {
                for event in &response.events {
                    let at = event.kv.as_ref().unwrap().mod_revision;
                    assert!(at > covered, "{at} came behind the progress to {covered}");
                    seen += 1;
                }
            }
        }
    }
}

#[tokio::test]
async fn w_16_a_canceled_watch_says_so_and_nothing_more() {
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    watching.create(from("a", 0)).await;
    watching.cancel(77).await;
    assert!(watching.is_silent().await, "there is no such watch");
    watching.cancel(0).await;
    let canceled = watching.next().await;
    assert!(canceled.canceled && canceled.watch_id == 0 && canceled.compact_revision == 0);
    world.put("a", "1").await;
    assert!(watching.is_silent().await);
}

#[tokio::test]
async fn w_18_a_watcher_that_does_not_listen_holds_up_nobody_and_misses_nothing() {
    let mut world = World::new().await;
    let mut slow = world.watch().await;
    let mut quick = world.watch().await;
    slow.create(from("s/", 0)).await;
    quick.create(from("s/", 0)).await;
    // Far more than windows, queues and the ring hold.
    const COUNT: usize = 600;
    let value = "v".repeat(100_000);
    let mut last = 0;
    for number in 0..COUNT {
        let revision = world.put(&format!("s/{number}"), &value).await;
        let told = quick.events(1).await;
        assert_eq!(told[0].2, revision);
        assert!(revision > last);
        last = revision;
    }
    let missed = slow.events(COUNT).await;
    let keys: Vec<_> = missed.iter().map(|(key, ..)| key.clone()).collect();
    let expected: Vec<_> = (0..COUNT).map(|number| format!("s/{number}")).collect();
    assert_eq!(keys, expected);
    // And it is at the front again.
    let revision = world.put("s/after", "1").await;
    assert_eq!(slow.events(1).await, [("s/after".into(), "1".into(), revision)]);
}

#[tokio::test]
async fn a_watch_of_the_past_goes_over_into_the_present_without_a_gap() {
    let mut world = World::new().await;
    let first = world.put("p/0", "0").await;
    for number in 1..300 {
        world.put(&format!("p/{number}"), "0").await;
    }
    let mut watching = world.watch().await;
    watching.ask(from("p/", first)).await;
    for number in 300..600 {
        world.put(&format!("p/{number}"), "0").await;
    }
    assert!(watching.next().await.created);
    let all = watching.events(600).await;
    let revisions: Vec<_> = all.iter().map(|(.., revision)| *revision).collect();
    assert_eq!(revisions, (first..first + 600).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_list_that_waits_makes_the_cache_behind_it_hear_at_once() {
    let mut world = World::new().await;
    let mut watching = world.watch().await;
    let pods = "/registry/pods/";
    watching.create(WatchCreateRequest { progress_notify: true, ..from(pods, 0) }).await;
    watching.create(from(pods, 0)).await;
    let revision = world.put("/registry/nodes/a", "1").await;
    let latest = |key: &str| RangeRequest { key: bytes(key), limit: 1, ..Default::default() };
    // Servers up to 1.36 leave the slash at the end out.
    for folder in [pods, "/registry/pods"] {
        world.range(latest(folder)).await.unwrap();
        let progress = watching.next().await;
        assert!(progress.events.is_empty());
        assert_eq!((progress.watch_id, progress.header.unwrap().revision), (0, revision));
        assert!(watching.is_silent().await, "the other did not ask for progress");
    }
    for other in ["/registry/pod", "/registry", "/registry/pods/a", "/registry/nodes/a"] {
        world.range(latest(other)).await.unwrap();
        assert!(watching.is_silent().await, "nobody lists pods");
    }

    let mut quiet = World::with(&["--prompt-progress=false"]).await;
    let mut watching = quiet.watch().await;
    watching.create(WatchCreateRequest { progress_notify: true, ..from(pods, 0) }).await;
    quiet.range(latest(pods)).await.unwrap();
    assert!(watching.is_silent().await);
}
