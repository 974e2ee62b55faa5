//! What the library counts for whoever watches the program that uses it.

use journal_client::{Journal, Reason};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::world::{OnAppend, World, assert_rejected, entry};

#[tokio::test]
async fn what_became_of_entries_streams_and_attempts_is_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    // Of this thread alone, which is all that this test has.
    let _installed = metrics::set_default_local_recorder(&recorder);

    let world = World::new(3);
    let journal = world.journal();
    for text in ["a", "b", "c"] {
        journal.append(entry(text)).await.unwrap();
    }
    world.on_append(0, [OnAppend::Move { commit: 0, to: 2 }]);
    journal.append(entry("sent twice")).await.unwrap();
    world.on_append(2, [OnAppend::Reject { commit: 0, reason: Reason::NoRoom }]);
    assert_rejected(&journal.append(entry("d")).await, Reason::NoRoom);

    let text = page.render();
    for line in [
        r#"journal_client_entries_total{journal="7",answer="committed"} 4"#,
        // By the one that moved, and by the one that had no room.
        r#"journal_client_entries_total{journal="7",answer="rejected"} 2"#,
        r#"journal_client_append_streams_total{journal="7"} 2"#,
        r#"journal_client_unanswered_bytes{journal="7"} 0"#,
        r#"journal_client_connections_total{outcome="ok"}"#,
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}
